"""The warpgroups of the Hopper kernel that multiply.

Each issues the MMAs of two blocks along K (of a wide tile: of 64 columns twice) and adds the first one's product,
scaled, to its fp32 sum while the tensor cores work on the second. What the compiler must not undo is spelled in volatile
instructions (`_promote`) and in a predicate that it cannot know (`never`): products of two blocks then never share the life of
a third.
"""

from __future__ import annotations

from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.hopper import (
    fence_async_shared,
    mbarrier,
    tma,
    warpgroup_mma,
    warpgroup_mma_wait,
)

from tritonfp4.kernels.hopper.producer import STEP, forward, k_steps
from tritonfp4.kernels.hopper.tiles import BATCH, MASKED, first_segment, next_tile, place, segment_end, to_tile

# A name that changes with Triton: 3.9 drops the older one.
_store = getattr(tma, "async_store", None) or tma.async_copy_shared_to_global

#: Whether a wide tile's a has registers: the ptxas of Triton 3.9 (12.9) spills one that the ptxas before it (12.8) does not.
_FROM_REGISTERS = gl.constexpr(not hasattr(tma, "async_load"))

#: Rows of a warpgroup's MMA, columns of one in a tile of three or four times as many.
ROWS, QUARTER = gl.constexpr(64), gl.constexpr(64)


@gluon.jit
def _issue(part, never, a_ring, b_ring, stage, row: gl.constexpr):
    """Start part = a @ b.T of one stage. `never` is false; knowing that, the compiler would move this MMA over the promotion
    of what `part` holds, into registers that are not there."""
    a = a_ring.index(stage).slice(row, ROWS, dim=0)
    b = b_ring.index(stage).permute((1, 0))
    return warpgroup_mma(a, b, part, use_acc=never, is_async=True)


@gluon.jit
def _scale(a_scale_ring, b_scale_ring, slot, k, row: gl.constexpr, BLOCK_M: gl.constexpr, LAYOUT: gl.constexpr):
    """Scales of a warpgroup's rows, and the one of b, for step k: of b, TMA brings four at a time."""
    a = a_scale_ring.index(slot).reshape((BLOCK_M,)).slice(row, ROWS, dim=0).load(LAYOUT)
    return a, b_scale_ring.index(slot * 32 + k % 4).load(LAYOUT)


@gluon.jit
def _promote(acc, part, scale):
    """acc + part * scale of the row, here and now: volatile, or LLVM sinks it behind the next MMA."""
    scale = gl.expand_dims(scale, 1)
    return gl.inline_asm_elementwise(
        "fma.rn.f32 $0, $1, $2, $3;", "=f,f,f,f", [part, scale, acc], dtype=gl.float32, is_pure=False, pack=1
    )


@gluon.jit
def _pass_by(slot, phase, first, steps, full, empty, PAIR: gl.constexpr, STAGES: gl.constexpr):
    """Release the stages of steps that this warpgroup does not need -> where the ring goes on."""
    for _ in range(first, steps, 2):
        next_slot, next_phase = forward(slot, phase, 1, STAGES)
        mbarrier.wait(full.index(slot // PAIR), phase)
        if PAIR == 1:
            mbarrier.arrive(empty.index(slot), count=1)
            mbarrier.wait(full.index(next_slot), next_phase)
        mbarrier.arrive(empty.index(next_slot // PAIR), count=1)
        slot, phase = forward(next_slot, next_phase, 1, STAGES)
    return slot, phase


@gluon.jit
def _accumulate(
    acc, part, next_part, never, slot, phase, steps, a_ring, a_scale_ring, b_ring, b_scale_ring, full, empty, START: gl.constexpr,
    ROW: gl.constexpr, KSPLIT: gl.constexpr, PAIR: gl.constexpr, STAGES: gl.constexpr, BLOCK_M: gl.constexpr, BY_ROW: gl.constexpr,
):  # fmt: skip
    """acc + the scaled products of this warpgroup's steps, two in flight; also what lies in the registers of both."""
    for k in range(START, steps, 2 * KSPLIT):
        next_slot, next_phase = forward(slot, phase, 1, STAGES)
        mbarrier.wait(full.index(slot // PAIR), phase)
        a_scale, b_scale = _scale(a_scale_ring, b_scale_ring, slot, k, ROW, BLOCK_M, BY_ROW)
        part = _issue(part, never, a_ring, b_ring, slot, ROW)
        if PAIR == 1:
            mbarrier.wait(full.index(next_slot), next_phase)
        next_a, next_b = _scale(a_scale_ring, b_scale_ring, next_slot, k + 1, ROW, BLOCK_M, BY_ROW)
        next_part = _issue(next_part, never, a_ring, b_ring, next_slot, ROW)
        part = warpgroup_mma_wait(1, deps=(part,))
        if PAIR == 1:
            mbarrier.arrive(empty.index(slot), count=1)
        acc = _promote(acc, part, a_scale * b_scale)
        next_part = warpgroup_mma_wait(0, deps=(next_part,))
        mbarrier.arrive(empty.index(next_slot // PAIR), count=1)
        acc = _promote(acc, next_part, next_a * next_b)
        slot, phase = forward(next_slot, next_phase, 2 * KSPLIT - 1, STAGES)
    return acc, part, next_part


@gluon.jit
def _issue_columns(part, never, a, b_ring, slot, n: gl.constexpr, BLOCK_N: gl.constexpr):
    """Start part = a @ b.T of the tile's n-th QUARTER columns."""
    ROWS_OF_SLOT: gl.constexpr = b_ring.shape[1]
    SLOTS: gl.constexpr = BLOCK_N // ROWS_OF_SLOT
    FIRST: gl.constexpr = n * QUARTER
    b = b_ring.index(slot * SLOTS + FIRST // ROWS_OF_SLOT).slice(FIRST % ROWS_OF_SLOT, QUARTER, dim=0).permute((1, 0))
    return warpgroup_mma(a, b, part, use_acc=never, is_async=True)


@gluon.jit
def _accumulate_wide(
    acc0, acc1, acc2, acc3, part, next_part, never, slot, phase, steps, half, a_ring, a_scale_ring, b_ring, b_scale_ring, full,
    empty, ROW: gl.constexpr, STAGES: gl.constexpr, BLOCK_M: gl.constexpr, BLOCK_N: gl.constexpr, LAYOUT: gl.constexpr,
):  # fmt: skip
    """As `_accumulate` for 192 or 256 columns, whose sums leave registers for the products of two quarters only: those are in
    flight. a is multiplied from registers, where it fits: shared memory brings it once, not for every quarter. `half`: the tile
    begins with the second half of the columns that share a scale."""
    BY_ROW: gl.constexpr = gl.SliceLayout(1, LAYOUT)
    for k in range(0, steps):
        mbarrier.wait(full.index(slot), phase)
        a_scale, b_scale = _scale(a_scale_ring, b_scale_ring, slot, k, ROW, BLOCK_M, BY_ROW)
        left = a_scale * b_scale
        right = a_scale * b_scale_ring.index(slot * 32 + 4 + k % 4).load(BY_ROW)
        second = left if BLOCK_N == 4 * QUARTER else gl.where(half, right, left)
        a = a_ring.index(slot).slice(ROW, ROWS, dim=0)
        if _FROM_REGISTERS:
            a = a.load(gl.DotOperandLayout(0, LAYOUT, 4))
        part = _issue_columns(part, never, a, b_ring, slot, 0, BLOCK_N)
        next_part = _issue_columns(next_part, never, a, b_ring, slot, 1, BLOCK_N)
        part = warpgroup_mma_wait(1, deps=(part,))
        acc0 = _promote(acc0, part, left)
        part = _issue_columns(part, never, a, b_ring, slot, 2, BLOCK_N)
        next_part = warpgroup_mma_wait(1, deps=(next_part,))
        acc1 = _promote(acc1, next_part, second)
        if BLOCK_N == 4 * QUARTER:
            next_part = _issue_columns(next_part, never, a, b_ring, slot, 3, BLOCK_N)
            part = warpgroup_mma_wait(1, deps=(part,))
            acc2 = _promote(acc2, part, right)
            next_part = warpgroup_mma_wait(0, deps=(next_part,))
            mbarrier.arrive(empty.index(slot), count=1)
            acc3 = _promote(acc3, next_part, right)
        else:
            part = warpgroup_mma_wait(0, deps=(part,))
            mbarrier.arrive(empty.index(slot), count=1)
            acc2 = _promote(acc2, part, right)
        slot, phase = forward(slot, phase, 1, STAGES)
    return acc0, acc1, acc2, acc3, part, next_part


@gluon.jit
def _combine(acc, sums, turn, phase, LAYOUT: gl.constexpr, ME: gl.constexpr):
    """The sum of both warpgroups that share K, in the first; the second's part passes through shared memory."""
    if ME == 1:
        mbarrier.wait(turn.index(0), phase ^ 1)
        sums.store(acc)
        mbarrier.arrive(turn.index(1), count=1)
    else:
        mbarrier.wait(turn.index(1), phase)
        acc += sums.load(LAYOUT)
        mbarrier.arrive(turn.index(0), count=1)
    return acc


@gluon.jit
def _write(acc, out_desc, tile, row, col, bound, valid, ROW: gl.constexpr, MODE: gl.constexpr, LAYOUT: gl.constexpr):
    """A warpgroup's 64 rows of a tile that begins at `row`, by TMA. Of the tile `bound` rows are stored: the others lie outside
    the middle dimension (see `launch._output`). Masked rows, those from `valid` on, are stored as zeros."""
    if MODE == MASKED:
        local = ROW + gl.arange(0, ROWS, gl.SliceLayout(1, LAYOUT))
        acc = gl.where((local < valid)[:, None], acc, 0.0)
    kept = gl.minimum(gl.maximum(bound - ROW, 0), ROWS)
    tma.store_wait(0)
    tile.reshape((ROWS, acc.shape[1])).store(acc.to(out_desc.dtype))
    fence_async_shared()
    _store(out_desc, [row + ROW + kept, ROWS - kept, col], tile)


@gluon.jit
def consumer(
    out_desc, groups_ptr, G, M, N, K, a_ring, a_scale_ring, b_ring, b_scale_ring, out_tiles, sums, full, empty, turn,
    tickets, posted, taken, MODE: gl.constexpr, SINGLE: gl.constexpr, GROUP: gl.constexpr, KSPLIT: gl.constexpr, PAIR: gl.constexpr,
    STAGES: gl.constexpr, BLOCK_M: gl.constexpr, BLOCK_N: gl.constexpr, ME: gl.constexpr,
):  # fmt: skip
    """One warpgroup: 64 rows of every tile. With KSPLIT = 2 two of them take turns at pairs of steps, and the first adds up."""
    WIDE: gl.constexpr = BLOCK_N > 2 * QUARTER
    COLUMNS: gl.constexpr = QUARTER if WIDE else BLOCK_N
    LAYOUT: gl.constexpr = gl.NVMMADistributedLayout([3, 0], [4, 1], [16, COLUMNS, 32])
    ROW: gl.constexpr = 0 if KSPLIT == 2 else ME * ROWS
    START: gl.constexpr = 2 * ME if KSPLIT == 2 else 0
    tiles_n = gl.cdiv(N, BLOCK_N)
    never = K < 0
    done = 0
    summed = 0
    part = gl.zeros([ROWS, COLUMNS], gl.float32, LAYOUT)
    next_part = gl.zeros([ROWS, COLUMNS], gl.float32, LAYOUT)
    tile = out_tiles.index(0 if KSPLIT == 2 else ME)
    t = gl.program_id(0)
    ticket = 0
    half = 0
    other_i, other_before, other_first, other_size = first_segment(groups_ptr, M, MODE)
    i, before, first, size = first_segment(groups_ptr, M, MODE)
    i, before, first, size = to_tile(t, i, before, first, size, groups_ptr, G, M, tiles_n, MODE, SINGLE, BLOCK_M)
    while i < segment_end(G, MODE):
        row, bound, valid, tile_n, _ = place(t, i, before, first, size, groups_ptr, G, tiles_n, MODE, GROUP, BLOCK_M)
        col = tile_n * BLOCK_N
        acc = gl.zeros([ROWS, COLUMNS], gl.float32, LAYOUT)
        steps = k_steps(K, valid, KSPLIT)
        slot = (done + START) % STAGES
        phase = (done + START) // STAGES & 1
        mine = steps
        if MODE != BATCH and ROW > 0:  # of a small group nothing may be left for this warpgroup
            mine = gl.where(valid > ROW, steps, 0)
            slot, phase = _pass_by(slot, phase, mine, steps, full, empty, PAIR, STAGES)
        done += steps
        if WIDE:
            acc1 = gl.zeros([ROWS, COLUMNS], gl.float32, LAYOUT)
            acc2 = gl.zeros([ROWS, COLUMNS], gl.float32, LAYOUT)
            acc3 = gl.zeros([ROWS, COLUMNS], gl.float32, LAYOUT)
            acc, acc1, acc2, acc3, part, next_part = _accumulate_wide(
                acc, acc1, acc2, acc3, part, next_part, never, slot, phase, mine, tile_n * BLOCK_N % STEP > 0, a_ring,
                a_scale_ring, b_ring, b_scale_ring, full, empty, ROW, STAGES, BLOCK_M, BLOCK_N, LAYOUT,
            )  # fmt: skip
            _write(acc, out_desc, tile, row, col, bound, valid, ROW, MODE, LAYOUT)
            _write(acc1, out_desc, tile, row, col + QUARTER, bound, valid, ROW, MODE, LAYOUT)
            _write(acc2, out_desc, tile, row, col + 2 * QUARTER, bound, valid, ROW, MODE, LAYOUT)
            if BLOCK_N == 4 * QUARTER:
                _write(acc3, out_desc, tile, row, col + 3 * QUARTER, bound, valid, ROW, MODE, LAYOUT)
        else:
            acc, part, next_part = _accumulate(
                acc, part, next_part, never, slot, phase, mine, a_ring, a_scale_ring, b_ring, b_scale_ring, full, empty, START,
                ROW, KSPLIT, PAIR, STAGES, BLOCK_M, gl.SliceLayout(1, LAYOUT),
            )  # fmt: skip
            if KSPLIT == 2:
                acc = _combine(acc, sums, turn, summed, LAYOUT, ME)
                summed ^= 1
            if KSPLIT == 1 or ME == 0:
                _write(acc, out_desc, tile, row, col, bound, valid, ROW, MODE, LAYOUT)
        t, ticket, half, i, before, first, size, other_i, other_before, other_first, other_size = next_tile(
            t, ticket, half, i, before, first, size, other_i, other_before, other_first, other_size, tickets, posted, taken, MODE
        )  # fmt: skip
        i, before, first, size = to_tile(t, i, before, first, size, groups_ptr, G, M, tiles_n, MODE, SINGLE, BLOCK_M)
    tma.store_wait(0)
