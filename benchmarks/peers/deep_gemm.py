"""DeepGEMM, as the wheel sgl-deep-gemm packs it; the first call of a configuration compiles about 5 seconds with nvcc."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from benchmarks.inputs import mn_major
from benchmarks.peers import load, tried

#: Rows that a group of the contiguous layout must fill.
ALIGNMENT = 128


def available() -> str | None:
    """The version, or None where it does not import."""
    module = load("deep_gemm")
    return None if module is None else str(module.__version__)


def dense(
    a: torch.Tensor, a_scale: torch.Tensor, b: torch.Tensor, b_scale: torch.Tensor
) -> Callable[[], torch.Tensor] | None:
    """The call for e4m3 a [M, K], b [N, K] with scales of `mn_major` and [ceil(N / 128), K / 128]; None where it refuses."""
    module = load("deep_gemm")
    if module is None:
        return None
    out = torch.empty(a.shape[0], b.shape[0], device=a.device, dtype=torch.bfloat16)

    def call() -> torch.Tensor:
        module.fp8_gemm_nt((a, a_scale), (b, b_scale), out)
        return out

    return tried("deep_gemm", call)


@dataclass(frozen=True, eq=False)
class GroupedCall:
    """A call whose output has padding rows: `rows` are the rows of the caller's matrix."""

    run: Callable[[], None]
    out: torch.Tensor
    rows: torch.Tensor

    def __call__(self) -> torch.Tensor:
        """What is timed."""
        self.run()
        return self.out


def padded_rows(sizes: Sequence[int]) -> tuple[list[int], list[int]]:
    """Where each row goes when every group is padded to the alignment, and the group of each padded row, -1 for padding."""
    rows: list[int] = []
    groups: list[int] = []
    for group, size in enumerate(sizes):
        padding = -size % ALIGNMENT
        rows += range(len(groups), len(groups) + size)
        groups += [group] * size + [-1] * padding
    return rows, groups


def grouped(
    a: torch.Tensor, a_scale: torch.Tensor, b: torch.Tensor, b_scale: torch.Tensor, sizes: Sequence[int]
) -> GroupedCall | None:
    """The contiguous grouped call for e4m3 a [M, K], b [G, N, K], a_scale [M, K / 128], b_scale [G, ceil(N / 128), K / 128].

    Groups whose sizes are no multiples of 128 rows are padded to one here, outside the call, so that its time counts neither
    the copy nor the caller's work to lay the rows out like that; padding rows carry group -1, which the kernel skips by tile.
    """
    module = load("deep_gemm")
    if module is None:
        return None
    where, owner = padded_rows(sizes)
    rows = torch.tensor(where, device=a.device)
    groups = torch.tensor(owner, device=a.device, dtype=torch.int32)
    values = torch.zeros(len(owner), a.shape[1], device=a.device, dtype=torch.uint8)
    values[rows] = a.view(torch.uint8)
    scale = torch.ones(len(owner), a_scale.shape[1], device=a.device)
    scale[rows] = a_scale
    left, scale = values.view(a.dtype), mn_major(scale)
    out = torch.empty(len(owner), b.shape[1], device=a.device, dtype=torch.bfloat16)

    def run() -> None:
        module.m_grouped_fp8_gemm_nt_contiguous((left, scale), (b, b_scale), out, groups)

    return tried("deep_gemm", GroupedCall(run, out, rows))
