"""What every launcher needs: the device guard, and whether kernels are interpreted."""

from __future__ import annotations

import contextlib
import operator
from typing import Any

import torch
import triton

#: Whether jit functions defined in this process run in Triton's interpreter on CPU tensors.
INTERPRETED: bool = bool(triton.knobs.runtime.interpret)
#: Programs that a grid has room for in its second and third dimension.
GRID_COLUMNS = 65535


#: What `JITFunction.run` itself adds to the options that a kernel is compiled with; which there are depends on Triton.
_OPTIONS = operator.attrgetter(
    *(o for o in ("instrumentation_mode", "fpsan_homomorphic_casts") if hasattr(triton.knobs.compilation, o))
)

# Launchers pass row counts with `do_not_specialize`: they only bound masks, and a new batch size must not recompile. Widths
# and strides are specialised: vector loads need to know that they are multiples of 16.


def on_device(tensor: torch.Tensor) -> contextlib.AbstractContextManager[Any]:
    """Make the tensor's GPU current for the launch; nothing to do for CPU tensors."""
    if tensor.is_cuda and torch.cuda.current_device() != tensor.get_device():
        return torch.cuda.device(tensor.device)
    return contextlib.nullcontext()


class Launches:
    """``kernel[grid](...)`` of a kernel that is found again by a key of the caller's once it has been compiled.

    Triton finds it by the printed types of all arguments, which is most of the host time of a launch with tensor descriptors.
    Streams, graphs and hooks of launches remain Triton's affair.
    """

    def __init__(self, kernel: Any) -> None:
        self.kernel = kernel
        self._compiled: dict[tuple[Any, ...], Any] = {}

    def __call__(self, key: tuple[Any, ...], device: int, programs: int, args: tuple[Any, ...], **options: Any) -> None:
        """Launch with all arguments by position, constants too.

        `key` names all that Triton specialises on: dtypes, layouts and block shapes, constants and options, which pointers
        and integers are multiples of 16, which integers are 1 or exceed 32 bits. `device` is the number of the current GPU;
        nothing is remembered if it is negative (tensors without memory, as `tritonfp4.aot` launches with).
        """
        knobs = triton.knobs
        # hooks that see the arguments of each run, or that change what is compiled, must be asked each time
        remembers = device >= 0 and not self.kernel.pre_run_hooks and knobs.runtime.add_stages_inspection_hook is None
        known = (device, key, knobs.runtime.debug, _OPTIONS(knobs.compilation))
        compiled = self._compiled.get(known) if remembers else None
        if compiled is not None:
            compiled[programs, 1, 1](*args)
            return
        compiled = self.kernel[(programs,)](*args, **options)
        if remembers and compiled is not None:
            self._compiled[known] = compiled
