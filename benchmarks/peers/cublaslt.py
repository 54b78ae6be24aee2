"""cuBLASLt's FP8 product with 1x128 and 128x128 scales, through torch."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch.nn import functional

from benchmarks.peers import tried


def dense(
    a: torch.Tensor, a_scale: torch.Tensor, b: torch.Tensor, b_scale: torch.Tensor
) -> Callable[[], torch.Tensor] | None:
    """The call for e4m3 a [M, K], b [N, K] with scales [M, K / 128], [ceil(N / 128), K / 128]; None where it refuses (M = 1)."""
    kinds = functional.ScalingType
    rows, columns = b_scale.shape
    padded = torch.zeros(rows, -(-columns // 4) * 4, device=b_scale.device)
    padded[:, :columns] = b_scale
    column_major = a_scale.t().contiguous().t()

    def call() -> torch.Tensor:
        return functional.scaled_mm(
            a, b.t(), column_major, kinds.BlockWise1x128, padded.t(), kinds.BlockWise128x128, output_dtype=torch.bfloat16
        )  # fmt: skip

    return tried("cublaslt", call)
