"""Scales of ragged groups, moved to where TMA can load them. Plain Triton."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from triton.language.extra.cuda import gdc_launch_dependents

from tritonfp4.kernels.launch import INTERPRETED, Launches, on_device
from tritonfp4.layouts import ceil_div

#: Rows and scale columns of a program, offsets it looks at together.
BLOCK_M, BLOCK_C, CHUNK = 128, 16, 32


@triton.jit(do_not_specialize=["G", "M", "stride_m", "stride_c", "out_stride"])
def spread_scales_kernel(
    scales_ptr, groups_ptr, out_ptr, counter_ptr, G, M, C, stride_m, stride_c, out_stride, BLOCK_M: tl.constexpr,
    BLOCK_C: tl.constexpr, CHUNK: tl.constexpr, SIGNAL: tl.constexpr,
):  # fmt: skip
    """out[c, column of row m] = scales[m, c]. A row keeps its place in its segment; segment i, which begins at row f, begins
    at column (f + 3 i) // 4 * 4. Segment 0 holds the rows before the first group. The counter of drawn tiles starts at 0."""
    if SIGNAL:  # the product behind this may start, and wait for it later
        gdc_launch_dependents()
    if tl.program_id(0) == 0:
        tl.store(counter_ptr, 0)
    columns = tl.cdiv(C, BLOCK_C)
    m = tl.program_id(0) // columns * BLOCK_M + tl.arange(0, BLOCK_M)
    c = tl.program_id(0) % columns * BLOCK_C + tl.arange(0, BLOCK_C)
    segment = tl.zeros([BLOCK_M], tl.int32)
    first = tl.zeros([BLOCK_M], tl.int32)
    for at in range(0, G + 1, CHUNK):
        j = at + tl.arange(0, CHUNK)
        start = tl.load(groups_ptr + j, mask=j <= G, other=0x7FFFFFFF)
        start = tl.maximum(start, 0)
        before = start[None, :] <= m[:, None]
        segment += tl.sum(before.to(tl.int32), 1)
        first = tl.maximum(first, tl.max(tl.where(before, start[None, :], 0), 1))
    column = (first + 3 * segment) // 4 * 4 + m - first
    inside = (m < M)[:, None] & (c < C)[None, :]
    x = tl.load(
        scales_ptr + m.to(tl.int64)[:, None] * stride_m + c.to(tl.int64)[None, :] * stride_c, mask=inside, other=0.0
    )
    tl.store(out_ptr + c.to(tl.int64)[None, :] * out_stride + column[:, None], x, mask=inside)


_launch = Launches(spread_scales_kernel)


def spread_scales(scales: torch.Tensor, groups: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Scales [M, K blocks] of any strides as [K blocks, columns], each group from a multiple of four columns on; and a counter of
    the tiles that programs have drawn, at zero.

    Columns between the groups are not written; they only meet rows that are not stored.
    """
    rows, blocks = scales.shape
    count = groups.shape[0] - 1
    columns = (rows + 3 * (count + 2) + 3) // 4 * 4
    out = torch.empty((blocks, columns), dtype=torch.float32, device=scales.device)
    counter = torch.empty(1, dtype=torch.int32, device=scales.device)
    strides = scales.stride()
    constants = (BLOCK_M, BLOCK_C, CHUNK, not INTERPRETED)
    key = (
        constants, groups.dtype, blocks, scales.data_ptr() % 16, groups.data_ptr() % 16,
        *(value >> 31 for value in (rows, *strides, columns)),
    )  # fmt: skip
    with on_device(scales):
        _launch(
            key, scales.get_device(), ceil_div(rows, BLOCK_M) * ceil_div(blocks, BLOCK_C),
            (scales, groups, out, counter, count, rows, blocks, *strides, columns, *constants),
        )  # fmt: skip
    return out, counter
