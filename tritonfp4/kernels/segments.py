"""Which rows a program of a grouped product works on: one place for dense, batched, masked, and ragged operands.

Every program gets a segment: `first`, the row of the operand where its tile's segment begins; `valid`, how many rows of the
segment hold data; `bound`, how many of them are stored (those from `valid` on as zeros); `tile`, its row tile in the segment.
Group offsets are read on the device and clamped to the operand: bad ones give wrong rows, never foreign memory.
"""

import triton
import triton.language as tl

from tritonfp4.kernels.encode import to_dtype


@triton.jit
def ragged_segment(pid, indptr_ptr, G, M, SEGMENTS: tl.constexpr, BLOCK_M: tl.constexpr):
    """Row tile `pid` of the segments [0, p0), [p0, p1), ..., [pG, M) -> group, first, valid, bound, tile.

    The first and the last segment are the rows outside every group: valid is 0 there. A program beyond the last tile gets
    bound 0. SEGMENTS: a power of two that is at least G + 2.
    """
    i = tl.arange(0, SEGMENTS)
    start = tl.load(indptr_ptr + i - 1, mask=(i >= 1) & (i <= G + 1), other=0)
    end = tl.load(indptr_ptr + i, mask=i <= G, other=0)
    end = tl.where(i == G + 1, M, end)
    start = tl.minimum(tl.maximum(start, 0), M)
    end = tl.minimum(tl.maximum(end, start), M)
    size = tl.where(i <= G + 1, end - start, 0)
    tiles = (size + BLOCK_M - 1) // BLOCK_M
    until = tl.cumsum(tiles, 0)
    segment = tl.sum((until <= pid).to(tl.int32), 0)
    mine = i == segment  # none of them beyond the last tile
    first = tl.sum(tl.where(mine, start, 0), 0)
    bound = tl.sum(tl.where(mine, size, 0), 0)
    tile = pid - tl.sum(tl.where(mine, until - tiles, 0), 0)
    inside = (segment >= 1) & (segment <= G)
    valid = tl.where(inside, bound, 0)
    group = tl.where(inside, segment - 1, 0)
    return group, first, valid, bound, tile


@triton.jit
def segment(groups_ptr, G, M, tiles_n, MODE: tl.constexpr, SEGMENTS: tl.constexpr, BLOCK_M: tl.constexpr):
    """Program -> group, first, valid, bound, row tile, column tile. In "batch" and "masked" M is the rows of one matrix."""
    pid = tl.program_id(0)
    if MODE == "indptr":
        group, first, valid, bound, tile = ragged_segment(pid // tiles_n, groups_ptr, G, M, SEGMENTS, BLOCK_M)
        return group, first, valid, bound, tile, pid % tiles_n
    else:
        tiles = tl.cdiv(M, BLOCK_M) * tiles_n  # of one matrix; the grid has one axis, as the others end at 65535
        group, pid = pid // tiles, pid % tiles
        valid = M
        if MODE == "masked":
            valid = tl.minimum(tl.maximum(tl.load(groups_ptr + group), 0), M)
        return group, 0, valid, M, pid // tiles_n, pid % tiles_n


@triton.jit
def padded_start(first, group):
    """Row where the 128x4 scales of a ragged group begin: groups follow each other in whole tiles of 128 rows."""
    return (first + 127 * group) // 128 * 128


@triton.jit
def store_rows(
    acc, local, rb, first, g, valid, bound, M, N, a_global_ptr, b_global_ptr, out_ptr, stride_g, stride_m, stride_n,
    MODE: tl.constexpr, A_GLOBAL: tl.constexpr, B_GLOBAL: tl.constexpr, UNSHIFT: tl.constexpr, SWAP: tl.constexpr,
    INTERPRETED: tl.constexpr, BLOCK_M: tl.constexpr,
):  # fmt: skip
    """Global scales ("": none, "one", one for each "group" or "row"), the cast, and the store of rows below `bound`."""
    row = (first + local).to(tl.int64)
    alpha = tl.full([BLOCK_M], UNSHIFT, tl.float32)
    if A_GLOBAL == "row":
        at = row if MODE == "indptr" or MODE == "indices" else g * M + row
        alpha = alpha * tl.load(a_global_ptr + at, mask=local < valid, other=0.0)
    elif A_GLOBAL == "group":
        alpha = alpha * tl.load(a_global_ptr + g)
    elif A_GLOBAL == "one":
        alpha = alpha * tl.load(a_global_ptr)
    if B_GLOBAL == "group":
        alpha = alpha * tl.load(b_global_ptr + g)
    elif B_GLOBAL == "one":
        alpha = alpha * tl.load(b_global_ptr)
    out = out_ptr + g * stride_g
    filled = local < valid  # the rest of the segment holds zeros, whatever the global scales are
    if SWAP:
        acc = tl.where(filled[None, :], acc * alpha[None, :], 0.0)
        where = out + rb[:, None] * stride_n + row[None, :] * stride_m
        inside = (rb < N)[:, None] & (local < bound)[None, :]
    else:
        acc = tl.where(filled[:, None], acc * alpha[:, None], 0.0)
        where = out + row[:, None] * stride_m + rb[None, :] * stride_n
        inside = (local < bound)[:, None] & (rb < N)[None, :]
    tl.store(where, to_dtype(acc, out_ptr.dtype.element_ty, INTERPRETED), mask=inside)
