"""How an operator is registered, and which of its two implementations runs."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch

from tritonfp4.autotune import Problem, select
from tritonfp4.checks import BackendError, UnsupportedError
from tritonfp4.config import Config
from tritonfp4.device import device_info

_lib = torch.library.Library("tritonfp4", "FRAGMENT")  # the reference keeps the operators registered


def _without_gradient(run: Callable[..., Any]) -> Callable[..., Any]:
    """``torch.no_grad()(run)``, which makes several objects a call, by hand."""

    def call(*args: Any) -> Any:
        if not torch.is_grad_enabled():
            return run(*args)
        torch._C._set_grad_enabled(False)
        try:
            return run(*args)
        finally:
            torch._C._set_grad_enabled(True)

    return call


def define(name: str, schema: str, run: Callable[..., Any], fake: Callable[..., Any]) -> None:
    """Register an operator that has no gradient: a backward pass through its results raises."""
    _lib.define(f"{name}{schema}")
    for key in ("CPU", "CUDA"):
        _lib.impl(name, _without_gradient(run), key)
    torch.library.register_fake(f"tritonfp4::{name}", fake, lib=_lib)
    if not schema.endswith("()"):

        def backward(ctx: Any, *grads: Any) -> Any:
            raise UnsupportedError(f"tritonfp4::{name} has no gradient; quantized operands are for inference")

        torch.library.register_autograd(f"tritonfp4::{name}", backward, lib=_lib)


@functools.cache  # an import statement costs a microsecond each time
def _launch() -> Any:
    from tritonfp4.kernels import launch

    return launch


def use_kernels(name: str, tensor: torch.Tensor, backend: str) -> bool:
    """Whether an op on this tensor runs the kernels (else the reference)."""
    if backend == "torch" or (backend == "auto" and not tensor.is_cuda):
        return False
    try:
        launch = _launch()
    except ImportError as error:
        raise BackendError(f"tritonfp4::{name}: the kernels need Triton ({error}); backend='torch' does not") from error
    if not tensor.is_cuda and not launch.INTERPRETED:
        raise BackendError(
            f"tritonfp4::{name}: backend='triton' on CPU tensors runs the kernels in Triton's interpreter, which needs "
            "TRITON_INTERPRET=1 in the environment before Triton is imported; use backend='torch' or 'auto' otherwise"
        )
    return True


def elementwise(op: str, x: torch.Tensor, rows: int, cols: int) -> Config:
    """Launch parameters of a pass over [rows, cols]."""
    return select(Problem(op, rows, 0, cols, "", "", device_info(x.device)))
