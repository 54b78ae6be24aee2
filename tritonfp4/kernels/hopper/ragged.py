"""What a product of ragged groups needs beforehand: its row tiles in order, and scales where TMA can load them. Plain Triton.

Segment 0 holds the rows before the first group, segment G + 1 those behind the last. Offsets are clamped to rising ones within
the operand, so bad ones give wrong rows, never foreign memory.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from triton.language.extra.cuda import gdc_launch_dependents

from tritonfp4.kernels.launch import INTERPRETED, Launches, on_device
from tritonfp4.layouts import ceil_div

#: Rows and scale columns of a program that moves scales; row tiles of one that orders them; segments it looks at together.
ROWS, COLUMNS, ENTRIES, CHUNK = 32, 16, 32, 32


@triton.jit
def _larger(a, b):
    return tl.maximum(a, b)


@triton.jit
def _segments(groups_ptr, at, reached, G, M, CHUNK: tl.constexpr):
    """First rows and ends of CHUNK segments from `at` on; `reached`: the end of the segment before them."""
    i = at + tl.arange(0, CHUNK)
    start = tl.load(groups_ptr + i - 1, mask=(i >= 1) & (i <= G + 1), other=0)
    end = tl.load(groups_ptr + i, mask=i <= G, other=0)
    start = tl.where(i <= G + 1, tl.minimum(tl.maximum(start, 0), M), M).to(tl.int32)
    end = tl.where(i <= G, tl.minimum(tl.maximum(end, 0), M), M).to(tl.int32)
    return (
        i,
        tl.maximum(tl.associative_scan(start, 0, _larger), reached),
        tl.maximum(tl.associative_scan(end, 0, _larger), reached),
    )


@triton.jit
def _tiles(i, size, G, BLOCK_M: tl.constexpr):
    """Of each segment: whole row tiles, ones cut short, ones without data."""
    group = (i >= 1) & (i <= G)
    return (
        tl.where(group, size // BLOCK_M, 0),
        tl.where(group & (size % BLOCK_M > 0), 1, 0),
        tl.where(group, 0, (size + BLOCK_M - 1) // BLOCK_M),
    )


@triton.jit
def _order(
    groups_ptr, plan_ptr, first_entry, G, M, entries, BLOCK_M: tl.constexpr, ENTRIES: tl.constexpr, CHUNK: tl.constexpr,
    LONG: tl.constexpr,
):  # fmt: skip
    """Entries of the list of row tiles, and in front of them their number."""
    whole = 0
    cut = 0
    empty = 0
    reached = 0
    for at in range(0, G + 2, CHUNK):
        i, start, end = _segments(groups_ptr, at, reached, G, M, CHUNK)
        w, c, e = _tiles(i, end - start, G, BLOCK_M)
        whole += tl.sum(w)
        cut += tl.sum(c)
        empty += tl.sum(e)
        reached = tl.max(end)
    # Cut tiles wait for memory, whole ones for the tensor cores: spread evenly, they overlap. Ones without data come last.
    x = first_entry + tl.arange(0, ENTRIES)
    count = tl.maximum(whole + cut, 1)
    position = x.to(tl.int64) if LONG else x
    cut_before = ((position * cut + count - 1) // count).to(tl.int32)
    is_cut = ((position + 1) * cut + count - 1) // count > cut_before
    is_empty = x >= whole + cut
    rank = tl.where(is_empty, x - whole - cut, tl.where(is_cut, cut_before, x - cut_before))
    segment = tl.zeros([ENTRIES], tl.int32)
    before = tl.zeros([ENTRIES], tl.int32)
    first = tl.zeros([ENTRIES], tl.int32)
    last = tl.zeros([ENTRIES], tl.int32) + M
    wholes = 0
    cuts = 0
    empties = 0
    reached = 0
    for at in range(0, G + 2, CHUNK):
        i, start, end = _segments(groups_ptr, at, reached, G, M, CHUNK)
        w, c, e = _tiles(i, end - start, G, BLOCK_M)
        kind = tl.where(is_cut[:, None], (cuts + tl.cumsum(c, 0))[None, :], (wholes + tl.cumsum(w, 0))[None, :])
        upto = tl.where(is_empty[:, None], (empties + tl.cumsum(e, 0))[None, :], kind)
        passed = upto <= rank[:, None]
        segment += tl.sum(passed.to(tl.int32), 1)
        before = tl.maximum(before, tl.max(tl.where(passed, upto, 0), 1))
        first = tl.maximum(first, tl.max(tl.where(passed, end[None, :], 0), 1))
        last = tl.minimum(last, tl.min(tl.where(passed, M, end[None, :]), 1))
        wholes += tl.sum(w)
        cuts += tl.sum(c)
        empties += tl.sum(e)
        reached = tl.max(end)
    local = tl.where(is_cut & (is_empty == 0), (last - first) // BLOCK_M, rank - before) * BLOCK_M
    inside = (segment >= 1) & (segment <= G)
    out = plan_ptr + 4 + 4 * x
    used = x < tl.minimum(whole + cut + empty, entries)
    tl.store(out, first + local, mask=used)
    tl.store(out + 1, last - first - local, mask=used)
    tl.store(out + 2, tl.where(inside, segment - 1, -1), mask=used)
    tl.store(out + 3, (first + 3 * segment) // 4 * 4 + local, mask=used)
    tl.store(plan_ptr, tl.minimum(whole + cut + empty, entries))


@triton.jit(do_not_specialize=["G", "M", "stride_m", "stride_c", "out_stride", "entries", "spread_programs"])
def prepare_ragged_kernel(
    scales_ptr, groups_ptr, out_ptr, plan_ptr, G, M, C, stride_m, stride_c, out_stride, entries, spread_programs,
    BLOCK_M: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr, ENTRIES: tl.constexpr, CHUNK: tl.constexpr,
    LONG: tl.constexpr, SIGNAL: tl.constexpr,
):  # fmt: skip
    """out[c, column of row m] = scales[m, c]; programs behind those make the plan: see `prepare_ragged`."""
    if SIGNAL:
        gdc_launch_dependents()
    pid = tl.program_id(0)
    if pid >= spread_programs:
        _order(groups_ptr, plan_ptr, (pid - spread_programs) * ENTRIES, G, M, entries, BLOCK_M, ENTRIES, CHUNK, LONG)
    else:
        column_tiles = (C + COLUMNS - 1) // COLUMNS
        m = pid // column_tiles * ROWS + tl.arange(0, ROWS)
        c = pid % column_tiles * COLUMNS + tl.arange(0, COLUMNS)
        segment = tl.zeros([ROWS], tl.int32)
        first = tl.zeros([ROWS], tl.int32)
        for at in range(0, G + 1, CHUNK):
            j = at + tl.arange(0, CHUNK)
            start = tl.load(groups_ptr + j, mask=j <= G, other=0x7FFFFFFF)
            start = tl.maximum(start, 0)
            before = start[None, :] <= m[:, None]
            segment += tl.sum(before.to(tl.int32), 1)
            first = tl.maximum(first, tl.max(tl.where(before, start[None, :], 0), 1).to(tl.int32))
        column = (first + 3 * segment) // 4 * 4 + m - first
        inside = (m < M)[:, None] & (c < C)[None, :]
        x = tl.load(
            scales_ptr + m.to(tl.int64)[:, None] * stride_m + c.to(tl.int64)[None, :] * stride_c, mask=inside, other=0.0
        )
        tl.store(out_ptr + c.to(tl.int64)[None, :] * out_stride + column[:, None], x, mask=inside)


_launch = Launches(prepare_ragged_kernel)


def prepare_ragged(
    scales: torch.Tensor, groups: torch.Tensor, block_m: int, room: int = 0
) -> tuple[torch.Tensor, torch.Tensor]:
    """The scales and the row tiles of ragged groups.

    Args:
        scales: fp32 [M, K blocks] of any strides.
        groups: contiguous offsets [G + 1].
        block_m: rows of a tile.
        room: rows of the plan at least.

    Returns:
        Scales [K blocks, columns]. A row keeps its place in its segment; segment i, which begins at row f, begins at column
        (f + 3 i) // 4 * 4. Columns between segments are not written; they only meet rows that are not stored.
        The plan, int32 [.., 4]: the number of row tiles, then of each its first row, the rows from there to the
        end of its segment, its matrix (-1: no group's) and the column of its scales. Cut tiles stand evenly among whole ones.
    """
    rows, blocks = scales.shape
    count = groups.shape[0] - 1
    columns = (rows + 3 * (count + 2) + 3) // 4 * 4
    entries = ceil_div(rows, block_m) + count + 2
    out = torch.empty((blocks, columns), dtype=torch.float32, device=scales.device)
    plan = torch.empty((max(1 + entries, room), 4), dtype=torch.int32, device=scales.device)
    spread = ceil_div(rows, ROWS) * ceil_div(blocks, COLUMNS)
    strides = scales.stride()
    constants = (block_m, ROWS, COLUMNS, ENTRIES, CHUNK, entries * entries >> 31 > 0, not INTERPRETED)
    key = (
        constants, groups.dtype, blocks, scales.data_ptr() % 16, groups.data_ptr() % 16,
        *(value >> 31 for value in (rows, *strides, columns)),
    )  # fmt: skip
    with on_device(scales):
        _launch(
            key, scales.get_device(), spread + ceil_div(entries, ENTRIES),
            (scales, groups, out, plan, count, rows, blocks, *strides, columns, entries, spread, *constants), num_warps=1,
        )  # fmt: skip
    return out, plan
