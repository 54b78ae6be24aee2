"""flashinfer's FP8 block-scaled product for Hopper; the first call of an (N, K, tile) compiles 2 to 4 seconds with nvcc."""

from __future__ import annotations

from collections.abc import Callable

import torch

from benchmarks.peers import load, tried


def available() -> str | None:
    """The version, or None where it does not import."""
    module = load("flashinfer")
    return None if module is None or load("flashinfer.gemm") is None else str(module.__version__)


def dense(
    a: torch.Tensor, a_scale: torch.Tensor | None, b: torch.Tensor, b_scale: torch.Tensor
) -> Callable[[], torch.Tensor] | None:
    """The call for b [N, K] e4m3 with scales [ceil(N / 128), K / 128] and a [M, K]; None where it refuses.

    a is e4m3, with the scales of `benchmarks.inputs.mn_major` (flashinfer reads their memory), or bf16 with None.
    """
    if available() is None:
        return None
    module = load("flashinfer.gemm")
    out = torch.empty(a.shape[0], b.shape[0], device=a.device, dtype=torch.bfloat16)
    by_column = None if a_scale is None else a_scale.t()

    def call() -> torch.Tensor:
        module.fp8_blockscale_gemm_sm90(a, b, by_column, b_scale, out)  # type: ignore[union-attr]
        return out

    return tried("flashinfer", call)
