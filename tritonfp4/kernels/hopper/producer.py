"""The warp of the Hopper kernel that loads: operands and their scales, by TMA, into a ring of shared memory."""

from __future__ import annotations

from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.hopper import mbarrier, tma

from tritonfp4.kernels.hopper.tiles import INDPTR, aligned_start, first_segment, next_tile, place, segment_end, to_tile

# A name that changes with Triton: 3.9 drops the older one.
_load = getattr(tma, "async_load", None) or tma.async_copy_global_to_shared

try:  # Triton 3.9 on: weights that are read once do not push out of L2 what others need again
    from triton.experimental.gluon.language.nvidia.ampere import CachePolicy, FractionalEvictionPolicy

    _ONCE = gl.constexpr(CachePolicy(l2=FractionalEvictionPolicy("evict_first", 1.0)))

    @gluon.jit
    def _load_once(desc, row, col, bar, to):
        _load(desc, [row, col], bar, to, cache_policy=_ONCE)

except ImportError:

    @gluon.jit
    def _load_once(desc, row, col, bar, to):
        _load(desc, [row, col], bar, to)


#: Elements along K of a stage; a column that no operand has.
STEP, OUTSIDE = gl.constexpr(128), gl.constexpr(1 << 30)


@gluon.jit
def after_previous():
    """Wait until the kernel before this one is done: launched early, this one has set itself up by then."""
    gl.inline_asm_elementwise("griddepcontrol.wait; // $0", "=r", [], dtype=gl.int32, is_pure=False, pack=1)


@gluon.jit
def forward(stage, phase, n: gl.constexpr, STAGES: gl.constexpr):
    """n stages on in the ring; the phase flips on the way round."""
    stage += n
    over = stage >= STAGES
    return gl.where(over, stage - STAGES, stage), gl.where(over, phase ^ 1, phase)


@gluon.jit
def k_steps(K, rows, KSPLIT: gl.constexpr):
    """Steps along K of a tile; none for a tile without data. As many pairs for each warpgroup that shares K: what lies behind
    K is read as zeros. So every slot of the ring always belongs to the same warpgroup, which a barrier's parity needs."""
    UNIT: gl.constexpr = 2 * KSPLIT
    return gl.where(rows > 0, gl.cdiv(K, UNIT * STEP) * UNIT, 0)


@gluon.jit
def _tile(
    t, i, before, first, size, groups_ptr, G, N, K, tiles_n, MODE: gl.constexpr, GROUP: gl.constexpr, KSPLIT: gl.constexpr,
    BLOCK_M: gl.constexpr, BLOCK_N: gl.constexpr, BOX_M: gl.constexpr, BOXES: gl.constexpr,
):  # fmt: skip
    """Tile t of segment i: where its operands begin (the rows of a and b, row and column of the scales of a, the row of those of
    b), its column tile, its steps along K, and how many boxes of a hold rows with data."""
    row, _, valid, tile_n, matrix = place(t, i, before, first, size, groups_ptr, G, tiles_n, MODE, GROUP, BLOCK_M)
    # A matrix of the batch has scales of its own; ragged groups share one array, each from a multiple of four on.
    scale_row = 0 if MODE == INDPTR else i * gl.cdiv(K, STEP)
    scale_col = row - first
    if MODE == INDPTR:
        scale_col += aligned_start(first, i)
    b_row = matrix * N + tile_n * BLOCK_N
    b_scale_row = matrix * gl.cdiv(N, STEP) + tile_n * BLOCK_N // STEP
    boxes = gl.minimum(gl.cdiv(valid, BOX_M), BOXES)
    return row, b_row, scale_row, scale_col, b_scale_row, tile_n, k_steps(K, valid, KSPLIT), boxes


@gluon.jit
def _first_step(tile_n, steps, ROTATE: gl.constexpr):
    """Where a tile starts along K. ROTATE: every column of tiles elsewhere, by fours, as scales of b come in fours."""
    if ROTATE:
        return tile_n % (gl.maximum(steps, 4) // 4) * 4
    else:
        return 0


@gluon.jit
def _in_turn(at_k, steps, ROTATE: gl.constexpr):
    """A step less than a whole round behind the last one."""
    if ROTATE:
        return gl.where(at_k >= steps, at_k - steps, at_k)
    else:
        return at_k


@gluon.jit
def _expect(full, stage, boxes, PAIR: gl.constexpr, BLOCK_N: gl.constexpr, BOX_M: gl.constexpr, BOXES: gl.constexpr):
    """Tell a stage's barrier how many bytes will come."""
    OTHERS: gl.constexpr = BLOCK_N * STEP + max(BOX_M * BOXES, 4) * 4 + 16 * ((BLOCK_N + STEP - 1) // STEP)
    if BOXES == 1:
        mbarrier.expect(full.index(stage), PAIR * (BOX_M * STEP + OTHERS))
    else:
        for n in gl.static_range(1, BOXES + 1):
            mbarrier.expect(full.index(stage), PAIR * (n * BOX_M * STEP + OTHERS), pred=boxes == n)


@gluon.jit
def _fill_a(
    a_desc, a_scale_desc, a_ring, a_scale_ring, full, stage, boxes, at_k, row, scale_row, scale_col, K,
    PAIR: gl.constexpr, BOX_M: gl.constexpr, BOXES: gl.constexpr,
):  # fmt: skip
    """Ask TMA for the a of a stage's PAIR steps."""
    bar = full.index(stage)
    for j in gl.static_range(PAIR):
        slot = stage * PAIR + j
        at = at_k + j
        # steps behind the last one, there for the ring's sake: zeros times a scale of zero, from outside of the operand
        to_col = gl.where(at < gl.cdiv(K, STEP), scale_col, OUTSIDE)
        for n in gl.static_range(BOXES):
            there = True if n == 0 else boxes > n
            to = a_ring.index(slot).slice(n * BOX_M, BOX_M, dim=0)
            _load(a_desc, [row + n * BOX_M, (at_k + j) * STEP], bar, to, pred=there)
        to = a_scale_ring.index(slot).slice(0, max(BOX_M * BOXES, 4), dim=1)
        _load(a_scale_desc, [scale_row + at, to_col], bar, to)


@gluon.jit
def _fill_b(
    b_desc, b_ring, full, stage, at_k, b_row, PAIR: gl.constexpr, BLOCK_M: gl.constexpr, BLOCK_N: gl.constexpr,
):  # fmt: skip
    """Ask TMA for the b of a stage's PAIR steps. Tiles of 64 rows stream their weights: few read them again."""
    BOX_N: gl.constexpr = b_desc.block_shape[0]
    bar = full.index(stage)
    for j in gl.static_range(PAIR):
        slot = stage * PAIR + j
        for n in gl.static_range(BLOCK_N // BOX_N):
            to = b_ring.index(slot * (BLOCK_N // BOX_N) + n)
            if BLOCK_M == 64:
                _load_once(b_desc, b_row + n * BOX_N, (at_k + j) * STEP, bar, to)
            else:
                _load(b_desc, [b_row + n * BOX_N, (at_k + j) * STEP], bar, to)


@gluon.jit
def _fill_b_scale(b_scale_desc, b_scale_ring, full, stage, at_k, b_scale_row, PAIR: gl.constexpr):
    """Ask TMA for the scales of the b of a stage's PAIR steps: they come in fours."""
    for j in gl.static_range(PAIR):
        to = b_scale_ring.index(stage * PAIR + j).slice(0, b_scale_desc.block_shape[0], dim=0)
        _load(b_scale_desc, [b_scale_row, (at_k + j) // 4 * 4], full.index(stage), to)


@gluon.jit
def fill_ahead(
    a_desc, a_scale_desc, b_desc, b_scale_desc, groups_ptr, G, M, N, K, a_ring, a_scale_ring, b_ring, b_scale_ring, full,
    MODE: gl.constexpr, SINGLE: gl.constexpr, GROUP: gl.constexpr, KSPLIT: gl.constexpr, PAIR: gl.constexpr, ROTATE: gl.constexpr,
    BLOCK_M: gl.constexpr, BLOCK_N: gl.constexpr, BOX_M: gl.constexpr, BOXES: gl.constexpr, AHEAD: gl.constexpr, EARLY: gl.constexpr,
):  # fmt: skip
    """The first AHEAD stages of the first tile. EARLY = 2: what the kernel before this one makes is a, so b need not wait."""
    tiles_n = gl.cdiv(N, BLOCK_N)
    t = gl.program_id(0)
    i, before, first, size = first_segment(groups_ptr, M, MODE)
    i, before, first, size = to_tile(t, i, before, first, size, groups_ptr, G, M, tiles_n, MODE, SINGLE, BLOCK_M)
    row, b_row, scale_row, scale_col, b_scale_row, tile_n, steps, boxes = _tile(
        t, i, before, first, size, groups_ptr, G, N, K, tiles_n, MODE, GROUP, KSPLIT, BLOCK_M, BLOCK_N, BOX_M, BOXES
    )
    at_k = _first_step(tile_n, steps, ROTATE)
    # A loop, not AHEAD copies of its body: code that is new to the GPU comes from memory, too. The count is AHEAD; the compiler, which
    # does not see that, leaves the loop as it is.
    count = gl.minimum(AHEAD, steps // PAIR)
    if EARLY == 1:
        after_previous()
    for s in range(0, count):
        k = _in_turn(at_k + s * PAIR, steps, ROTATE)
        _expect(full, s, boxes, PAIR, BLOCK_N, BOX_M, BOXES)
        _fill_b(b_desc, b_ring, full, s, k, b_row, PAIR, BLOCK_M, BLOCK_N)
        _fill_b_scale(b_scale_desc, b_scale_ring, full, s, k, b_scale_row, PAIR)
        if EARLY < 2:
            _fill_a(
                a_desc, a_scale_desc, a_ring, a_scale_ring, full, s, boxes, k, row, scale_row, scale_col, K, PAIR, BOX_M, BOXES
            )  # fmt: skip
    if EARLY == 2:
        after_previous()
        for s in range(0, count):
            k = _in_turn(at_k + s * PAIR, steps, ROTATE)
            _fill_a(
                a_desc, a_scale_desc, a_ring, a_scale_ring, full, s, boxes, k, row, scale_row, scale_col, K, PAIR, BOX_M, BOXES
            )  # fmt: skip


@gluon.jit
def producer(
    a_desc, a_scale_desc, b_desc, b_scale_desc, groups_ptr, G, M, N, K, a_ring, a_scale_ring, b_ring, b_scale_ring, full, empty,
    tickets, posted, taken, MODE: gl.constexpr, SINGLE: gl.constexpr, GROUP: gl.constexpr, KSPLIT: gl.constexpr, PAIR: gl.constexpr,
    ROTATE: gl.constexpr, STAGES: gl.constexpr, BLOCK_M: gl.constexpr, BLOCK_N: gl.constexpr, BOX_M: gl.constexpr,
    BOXES: gl.constexpr, AHEAD: gl.constexpr, EARLY: gl.constexpr,
):  # fmt: skip
    """One warp: operands and scales of every step of every tile, by TMA. Of the first tile AHEAD stages are asked for already."""
    if EARLY == 2:
        fill_ahead(
            a_desc, a_scale_desc, b_desc, b_scale_desc, groups_ptr, G, M, N, K, a_ring, a_scale_ring, b_ring, b_scale_ring, full,
            MODE, SINGLE, GROUP, KSPLIT, PAIR, ROTATE, BLOCK_M, BLOCK_N, BOX_M, BOXES, AHEAD, EARLY,
        )  # fmt: skip
    tiles_n = gl.cdiv(N, BLOCK_N)
    stage = AHEAD % (STAGES // PAIR)
    phase = 1 - AHEAD // (STAGES // PAIR)
    begin = AHEAD * PAIR
    t = gl.program_id(0)
    ticket = 0
    half = 0
    other_i, other_before, other_first, other_size = first_segment(groups_ptr, M, MODE)
    i, before, first, size = first_segment(groups_ptr, M, MODE)
    i, before, first, size = to_tile(t, i, before, first, size, groups_ptr, G, M, tiles_n, MODE, SINGLE, BLOCK_M)
    while i < segment_end(G, MODE):
        row, b_row, scale_row, scale_col, b_scale_row, tile_n, steps, boxes = _tile(
            t, i, before, first, size, groups_ptr, G, N, K, tiles_n, MODE, GROUP, KSPLIT, BLOCK_M, BLOCK_N, BOX_M, BOXES
        )
        at_k = _in_turn(_first_step(tile_n, steps, ROTATE) + begin, steps, ROTATE)
        for _ in range(begin, steps, PAIR):
            mbarrier.wait(empty.index(stage), phase)
            _expect(full, stage, boxes, PAIR, BLOCK_N, BOX_M, BOXES)
            _fill_a(
                a_desc, a_scale_desc, a_ring, a_scale_ring, full, stage, boxes, at_k, row, scale_row, scale_col, K, PAIR, BOX_M,
                BOXES,
            )  # fmt: skip
            _fill_b(b_desc, b_ring, full, stage, at_k, b_row, PAIR, BLOCK_M, BLOCK_N)
            _fill_b_scale(b_scale_desc, b_scale_ring, full, stage, at_k, b_scale_row, PAIR)
            at_k += PAIR
            if ROTATE:
                at_k = gl.where(at_k >= steps, 0, at_k)
            stage, phase = forward(stage, phase, 1, STAGES // PAIR)
        begin = 0
        t, ticket, half, i, before, first, size, other_i, other_before, other_first, other_size = next_tile(
            t, ticket, half, i, before, first, size, other_i, other_before, other_first, other_size, tickets, posted, taken, MODE
        )  # fmt: skip
        i, before, first, size = to_tile(t, i, before, first, size, groups_ptr, G, M, tiles_n, MODE, SINGLE, BLOCK_M)
