"""What every launcher needs: the device guard, and whether kernels are interpreted."""

from __future__ import annotations

import contextlib
from typing import Any

import torch
import triton

#: Whether jit functions defined in this process run in Triton's interpreter on CPU tensors.
INTERPRETED: bool = bool(triton.knobs.runtime.interpret)
#: Programs that a grid has room for in its second and third dimension.
GRID_COLUMNS = 65535


# Launchers pass row counts with `do_not_specialize`: they only bound masks, and a new batch size must not recompile. Widths
# and strides are specialised: vector loads need to know that they are multiples of 16.


def on_device(tensor: torch.Tensor) -> contextlib.AbstractContextManager[Any]:
    """Make the tensor's GPU current for the launch; nothing to do for CPU tensors."""
    if tensor.is_cuda and torch.cuda.current_device() != tensor.get_device():
        return torch.cuda.device(tensor.device)
    return contextlib.nullcontext()
