"""Products of FP8 operands with 1x128 and 128x128 scales on Hopper: dense, batched, masked, ragged groups.

One warp keeps a ring of shared memory filled by TMA; one or two warpgroups multiply. Scales travel in the stages beside the
elements they belong to. Each warpgroup issues the MMAs of two blocks along K and adds the first block, scaled, to its fp32 sum
while the tensor cores work on the second. What the compiler must not undo is spelled in volatile instructions (`_promote`) and
in a predicate that it cannot know (`never`): products of two blocks then never share the life of a third.
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

from tritonfp4.kernels.hopper.tiles import (
    BATCH,
    INDPTR,
    MASKED,
    aligned_start,
    first_segment,
    place,
    segment_end,
    to_tile,
)

# Names that change with Triton: 3.9 drops the older ones.
_load = getattr(tma, "async_load", None) or tma.async_copy_global_to_shared
_store = getattr(tma, "async_store", None) or tma.async_copy_shared_to_global

_REINTERPRET = gl.constexpr(hasattr(gl.shared_memory_descriptor, "reinterpret"))

#: Elements along K of a stage, rows of a warpgroup's MMA.
STEP, ROWS = gl.constexpr(128), gl.constexpr(64)


@gluon.jit
def _after_previous():
    """Wait until the kernel before this one is done: launched early, this one has set itself up by then."""
    gl.inline_asm_elementwise("griddepcontrol.wait; // $0", "=r", [], dtype=gl.int32, is_pure=False, pack=1)


@gluon.jit
def _forward(stage, phase, n: gl.constexpr, STAGES: gl.constexpr):
    """n stages on in the ring; the phase flips on the way round."""
    stage += n
    over = stage >= STAGES
    return gl.where(over, stage - STAGES, stage), gl.where(over, phase ^ 1, phase)


@gluon.jit
def _k_steps(K, rows, KSPLIT: gl.constexpr):
    """Steps along K of a tile; none for a tile without data. As many pairs for each warpgroup that shares K: what lies behind
    K is read as zeros. So every slot of the ring always belongs to the same warpgroup, which a barrier's parity needs."""
    UNIT: gl.constexpr = 2 * KSPLIT
    return gl.where(rows > 0, gl.cdiv(K, UNIT * STEP) * UNIT, 0)


@gluon.jit
def _sources(row, first, i, tile_n, matrix, N, K, MODE: gl.constexpr, BLOCK_N: gl.constexpr):
    """Where a tile's operands begin: the row of b, row and column of the scales of a, the row of those of b."""
    # A matrix of the batch has scales of its own; ragged groups share one array, each from a multiple of four on.
    scale_row = 0 if MODE == INDPTR else i * gl.cdiv(K, STEP)
    scale_col = row - first
    if MODE == INDPTR:
        scale_col += aligned_start(first, i)
    return matrix * N + tile_n * BLOCK_N, scale_row, scale_col, matrix * gl.cdiv(N, STEP) + tile_n * BLOCK_N // STEP


@gluon.jit
def _first_step(tile_n, steps, ROTATE: gl.constexpr):
    """Where a tile starts along K. ROTATE: every column of tiles elsewhere, by fours, as scales of b come in fours."""
    if ROTATE:
        return tile_n % (gl.maximum(steps, 4) // 4) * 4
    else:
        return 0


@gluon.jit
def _boxes(rows, BOX_M: gl.constexpr, BOXES: gl.constexpr):
    """Boxes of a that hold the rows with data."""
    return gl.minimum(gl.cdiv(rows, BOX_M), BOXES)


@gluon.jit
def _expect(full, stage, boxes, PAIR: gl.constexpr, BLOCK_N: gl.constexpr, BOX_M: gl.constexpr, BOXES: gl.constexpr):
    """Tell a stage's barrier how many bytes will come."""
    OTHERS: gl.constexpr = BLOCK_N * STEP + max(BOX_M * BOXES, 4) * 4 + 16
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
        # behind the last step of an odd number the elements are zeros: any finite scale will do
        at = gl.minimum(at_k + j, gl.cdiv(K, STEP) - 1)
        for n in gl.static_range(BOXES):
            there = True if n == 0 else boxes > n
            to = a_ring.index(slot).slice(n * BOX_M, BOX_M, dim=0)
            _load(a_desc, [row + n * BOX_M, (at_k + j) * STEP], bar, to, pred=there)
        to = a_scale_ring.index(slot).slice(0, max(BOX_M * BOXES, 4), dim=1)
        _load(a_scale_desc, [scale_row + at, scale_col], bar, to)


@gluon.jit
def _fill_b(
    b_desc, b_scale_desc, b_ring, b_scale_ring, full, stage, at_k, b_row, b_scale_row, K, PAIR: gl.constexpr,
):  # fmt: skip
    """Ask TMA for the b of a stage's PAIR steps."""
    bar = full.index(stage)
    for j in gl.static_range(PAIR):
        slot = stage * PAIR + j
        at = gl.minimum(at_k + j, gl.cdiv(K, STEP) - 1)
        _load(b_desc, [b_row, (at_k + j) * STEP], bar, b_ring.index(slot))
        _load(b_scale_desc, [b_scale_row, at // 4 * 4], bar, b_scale_ring.index(slot).slice(0, 1, dim=0))


@gluon.jit
def _fill_ahead(
    a_desc, a_scale_desc, b_desc, b_scale_desc, groups_ptr, G, M, N, K, a_ring, a_scale_ring, b_ring, b_scale_ring, full,
    MODE: gl.constexpr, SINGLE: gl.constexpr, GROUP: gl.constexpr, KSPLIT: gl.constexpr, PAIR: gl.constexpr, ROTATE: gl.constexpr,
    BLOCK_M: gl.constexpr, BLOCK_N: gl.constexpr, BOX_M: gl.constexpr, BOXES: gl.constexpr, AHEAD: gl.constexpr, EARLY: gl.constexpr,
):  # fmt: skip
    """The first AHEAD stages of the first tile. EARLY = 2: what the kernel before this one makes is a, so b need not wait."""
    tiles_n = gl.cdiv(N, BLOCK_N)
    t = gl.program_id(0)
    i, before, first, size = first_segment(groups_ptr, M, MODE)
    i, before, first, size = to_tile(t, i, before, first, size, groups_ptr, G, M, tiles_n, MODE, SINGLE, BLOCK_M)
    row, _, valid, tile_n, matrix = place(t, i, before, first, size, groups_ptr, G, tiles_n, MODE, GROUP, BLOCK_M)
    b_row, scale_row, scale_col, b_scale_row = _sources(row, first, i, tile_n, matrix, N, K, MODE, BLOCK_N)
    steps = _k_steps(K, valid, KSPLIT)
    boxes = _boxes(valid, BOX_M, BOXES)
    at_k = _first_step(tile_n, steps, ROTATE)
    if EARLY == 1:
        _after_previous()
    for s in gl.static_range(AHEAD):
        k = at_k + s * PAIR
        if ROTATE:
            k = gl.where(k >= steps, k - steps, k)
        _expect(full, s, boxes, PAIR, BLOCK_N, BOX_M, BOXES)
        _fill_b(b_desc, b_scale_desc, b_ring, b_scale_ring, full, s, k, b_row, b_scale_row, K, PAIR)
        if EARLY < 2:
            _fill_a(
                a_desc, a_scale_desc, a_ring, a_scale_ring, full, s, boxes, k, row, scale_row, scale_col, K, PAIR, BOX_M, BOXES
            )  # fmt: skip
    if EARLY == 2:
        _after_previous()
        for s in gl.static_range(AHEAD):
            k = at_k + s * PAIR
            if ROTATE:
                k = gl.where(k >= steps, k - steps, k)
            _fill_a(
                a_desc, a_scale_desc, a_ring, a_scale_ring, full, s, boxes, k, row, scale_row, scale_col, K, PAIR, BOX_M, BOXES
            )  # fmt: skip


@gluon.jit
def _producer(
    a_desc, a_scale_desc, b_desc, b_scale_desc, groups_ptr, G, M, N, K, a_ring, a_scale_ring, b_ring, b_scale_ring, full, empty,
    MODE: gl.constexpr, SINGLE: gl.constexpr, GROUP: gl.constexpr, KSPLIT: gl.constexpr, PAIR: gl.constexpr, ROTATE: gl.constexpr,
    STAGES: gl.constexpr, BLOCK_M: gl.constexpr, BLOCK_N: gl.constexpr, BOX_M: gl.constexpr, BOXES: gl.constexpr, AHEAD: gl.constexpr,
    EARLY: gl.constexpr,
):  # fmt: skip
    """One warp: operands and scales of every step of every tile, by TMA. Of the first tile AHEAD stages are asked for already."""
    if EARLY == 2:
        _fill_ahead(
            a_desc, a_scale_desc, b_desc, b_scale_desc, groups_ptr, G, M, N, K, a_ring, a_scale_ring, b_ring, b_scale_ring, full,
            MODE, SINGLE, GROUP, KSPLIT, PAIR, ROTATE, BLOCK_M, BLOCK_N, BOX_M, BOXES, AHEAD, EARLY,
        )  # fmt: skip
    tiles_n = gl.cdiv(N, BLOCK_N)
    stage = AHEAD % (STAGES // PAIR)
    phase = 1 - AHEAD // (STAGES // PAIR)
    begin = AHEAD * PAIR
    t = gl.program_id(0)
    i, before, first, size = first_segment(groups_ptr, M, MODE)
    i, before, first, size = to_tile(t, i, before, first, size, groups_ptr, G, M, tiles_n, MODE, SINGLE, BLOCK_M)
    while i < segment_end(G, MODE):
        row, _, valid, tile_n, matrix = place(t, i, before, first, size, groups_ptr, G, tiles_n, MODE, GROUP, BLOCK_M)
        b_row, scale_row, scale_col, b_scale_row = _sources(row, first, i, tile_n, matrix, N, K, MODE, BLOCK_N)
        steps = _k_steps(K, valid, KSPLIT)
        boxes = _boxes(valid, BOX_M, BOXES)
        at_k = _first_step(tile_n, steps, ROTATE) + begin
        if ROTATE:
            at_k = gl.where(at_k >= steps, at_k - steps, at_k)
        for _ in range(begin, steps, PAIR):
            mbarrier.wait(empty.index(stage), phase)
            _expect(full, stage, boxes, PAIR, BLOCK_N, BOX_M, BOXES)
            _fill_a(
                a_desc, a_scale_desc, a_ring, a_scale_ring, full, stage, boxes, at_k, row, scale_row, scale_col, K, PAIR, BOX_M,
                BOXES,
            )  # fmt: skip
            _fill_b(b_desc, b_scale_desc, b_ring, b_scale_ring, full, stage, at_k, b_row, b_scale_row, K, PAIR)
            at_k += PAIR
            if ROTATE:
                at_k = gl.where(at_k >= steps, 0, at_k)
            stage, phase = _forward(stage, phase, 1, STAGES // PAIR)
        begin = 0
        t += gl.num_programs(0)
        i, before, first, size = to_tile(t, i, before, first, size, groups_ptr, G, M, tiles_n, MODE, SINGLE, BLOCK_M)


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
def _promote(acc, part, a_scale, b_scale):
    """acc + part * scales, here and now: volatile, or LLVM sinks it behind the next MMA."""
    scale = gl.expand_dims(a_scale * b_scale, 1)
    return gl.inline_asm_elementwise(
        "fma.rn.f32 $0, $1, $2, $3;", "=f,f,f,f", [part, scale, acc], dtype=gl.float32, is_pure=False, pack=1
    )


@gluon.jit
def _pass_by(slot, phase, first, steps, full, empty, PAIR: gl.constexpr, STAGES: gl.constexpr):
    """Release the stages of steps that this warpgroup does not need -> where the ring goes on."""
    for _ in range(first, steps, 2):
        next_slot, next_phase = _forward(slot, phase, 1, STAGES)
        mbarrier.wait(full.index(slot // PAIR), phase)
        if PAIR == 1:
            mbarrier.arrive(empty.index(slot), count=1)
            mbarrier.wait(full.index(next_slot), next_phase)
        mbarrier.arrive(empty.index(next_slot // PAIR), count=1)
        slot, phase = _forward(next_slot, next_phase, 1, STAGES)
    return slot, phase


@gluon.jit
def _accumulate(
    acc, part, next_part, never, slot, phase, steps, a_ring, a_scale_ring, b_ring, b_scale_ring, full, empty, START: gl.constexpr,
    ROW: gl.constexpr, KSPLIT: gl.constexpr, PAIR: gl.constexpr, STAGES: gl.constexpr, BLOCK_M: gl.constexpr, BY_ROW: gl.constexpr,
):  # fmt: skip
    """acc + the scaled products of this warpgroup's steps, two in flight; also what lies in the registers of both."""
    for k in range(START, steps, 2 * KSPLIT):
        next_slot, next_phase = _forward(slot, phase, 1, STAGES)
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
        acc = _promote(acc, part, a_scale, b_scale)
        next_part = warpgroup_mma_wait(0, deps=(next_part,))
        mbarrier.arrive(empty.index(next_slot // PAIR), count=1)
        acc = _promote(acc, next_part, next_a, next_b)
        slot, phase = _forward(next_slot, next_phase, 2 * KSPLIT - 1, STAGES)
    return acc, part, next_part


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
def _write(acc, out_desc, tile, row, col, kept, BLOCK_N: gl.constexpr):
    """The first `kept` of 64 rows to the output, by TMA: the others lie outside the middle dimension (see `launch._output`)."""
    tma.store_wait(0)
    tile.reshape((ROWS, BLOCK_N)).store(acc.to(out_desc.dtype))
    fence_async_shared()
    _store(out_desc, [row + kept, ROWS - kept, col], tile)


@gluon.jit
def _consumer(
    out_desc, groups_ptr, G, M, N, K, a_ring, a_scale_ring, b_ring, b_scale_ring, out_tiles, sums, full, empty, turn,
    MODE: gl.constexpr, SINGLE: gl.constexpr, GROUP: gl.constexpr, KSPLIT: gl.constexpr, PAIR: gl.constexpr,
    STAGES: gl.constexpr, BLOCK_M: gl.constexpr, BLOCK_N: gl.constexpr, ME: gl.constexpr,
):  # fmt: skip
    """One warpgroup: 64 rows of every tile. With KSPLIT = 2 two of them take turns at pairs of steps, and the first adds up."""
    LAYOUT: gl.constexpr = gl.NVMMADistributedLayout([3, 0], [4, 1], [16, BLOCK_N, 32])
    BY_ROW: gl.constexpr = gl.SliceLayout(1, LAYOUT)
    ROW: gl.constexpr = 0 if KSPLIT == 2 else ME * 64
    START: gl.constexpr = 2 * ME if KSPLIT == 2 else 0
    tiles_n = gl.cdiv(N, BLOCK_N)
    never = K < 0
    done = 0
    summed = 0
    part = gl.zeros([ROWS, BLOCK_N], gl.float32, LAYOUT)
    next_part = gl.zeros([ROWS, BLOCK_N], gl.float32, LAYOUT)
    t = gl.program_id(0)
    i, before, first, size = first_segment(groups_ptr, M, MODE)
    i, before, first, size = to_tile(t, i, before, first, size, groups_ptr, G, M, tiles_n, MODE, SINGLE, BLOCK_M)
    while i < segment_end(G, MODE):
        row, bound, valid, tile_n, _ = place(t, i, before, first, size, groups_ptr, G, tiles_n, MODE, GROUP, BLOCK_M)
        acc = gl.zeros([ROWS, BLOCK_N], gl.float32, LAYOUT)
        steps = _k_steps(K, valid, KSPLIT)
        slot = (done + START) % STAGES
        phase = (done + START) // STAGES & 1
        mine = steps
        if MODE != BATCH and ROW > 0:  # of a small group nothing may be left for this warpgroup
            mine = gl.where(valid > ROW, steps, 0)
            slot, phase = _pass_by(slot, phase, mine, steps, full, empty, PAIR, STAGES)
        acc, part, next_part = _accumulate(
            acc, part, next_part, never, slot, phase, mine, a_ring, a_scale_ring, b_ring, b_scale_ring, full, empty, START, ROW,
            KSPLIT, PAIR, STAGES, BLOCK_M, BY_ROW,
        )  # fmt: skip
        done += steps
        if KSPLIT == 2:
            acc = _combine(acc, sums, turn, summed, LAYOUT, ME)
            summed ^= 1
        if KSPLIT == 1 or ME == 0:
            if MODE == MASKED:
                local = ROW + gl.arange(0, ROWS, BY_ROW)
                acc = gl.where((local < valid)[:, None], acc, 0.0)
            kept = gl.minimum(gl.maximum(bound - ROW, 0), ROWS)
            _write(acc, out_desc, out_tiles.index(ME), row + ROW, tile_n * BLOCK_N, kept, BLOCK_N)
        t += gl.num_programs(0)
        i, before, first, size = to_tile(t, i, before, first, size, groups_ptr, G, M, tiles_n, MODE, SINGLE, BLOCK_M)
    tma.store_wait(0)


@gluon.jit(do_not_specialize=["G", "M"])
def matmul_fp8_hopper_kernel(
    a_desc, a_scale_desc, b_desc, b_scale_desc, out_desc, groups_ptr, G, M, N, K,
    MODE: gl.constexpr, SINGLE: gl.constexpr, GROUP: gl.constexpr, KSPLIT: gl.constexpr, PAIR: gl.constexpr, ROTATE: gl.constexpr,
    STAGES: gl.constexpr, BLOCK_M: gl.constexpr, BLOCK_N: gl.constexpr, BOX_M: gl.constexpr, BOXES: gl.constexpr,
    WARPGROUPS: gl.constexpr, EARLY: gl.constexpr, AHEAD: gl.constexpr,
):  # fmt: skip
    """out = a @ b.T in tiles of BLOCK_M x BLOCK_N; as many programs as fit the GPU at once walk all of them."""
    UNIT: gl.constexpr = 4 if KSPLIT == 2 else PAIR
    gl.static_assert(STAGES % UNIT == 0, "slots of the ring must belong to one warpgroup each")
    a_ring = gl.allocate_shared_memory(a_desc.dtype, [STAGES, BLOCK_M, STEP], a_desc.layout)
    b_ring = gl.allocate_shared_memory(b_desc.dtype, [STAGES, BLOCK_N, STEP], b_desc.layout)
    a_scale_ring = gl.allocate_shared_memory(gl.float32, [STAGES, 1, BLOCK_M], a_scale_desc.layout)
    # TMA wants its targets 128 bytes apart
    b_scale_ring = gl.allocate_shared_memory(gl.float32, [STAGES, 8, 4], b_scale_desc.layout)
    FLAT: gl.constexpr = gl.SwizzledSharedLayout(1, 1, 1, [0])
    if _REINTERPRET:
        b_scales = b_scale_ring.reinterpret(gl.float32, [STAGES * 32, 1], FLAT)
    else:
        b_scales = b_scale_ring._reinterpret(gl.float32, [STAGES * 32, 1], FLAT)
    out_tiles = gl.allocate_shared_memory(out_desc.dtype, [WARPGROUPS // KSPLIT, 1, ROWS, BLOCK_N], out_desc.layout)
    full = gl.allocate_shared_memory(gl.int64, [STAGES // PAIR, 1], mbarrier.MBarrierLayout())
    empty = gl.allocate_shared_memory(gl.int64, [STAGES // PAIR, 1], mbarrier.MBarrierLayout())
    turn = gl.allocate_shared_memory(gl.int64, [2, 1], mbarrier.MBarrierLayout())
    # The warps need some time to take up their roles: the first loads are on their way before.
    SOONER: gl.constexpr = AHEAD if EARLY < 2 else 0
    for s in gl.static_range(SOONER):
        mbarrier.init(full.index(s), 1)
    if SOONER > 0:
        fence_async_shared()
        _fill_ahead(
            a_desc, a_scale_desc, b_desc, b_scale_desc, groups_ptr, G, M, N, K, a_ring, a_scale_ring, b_ring, b_scale_ring, full,
            MODE, SINGLE, GROUP, KSPLIT, PAIR, ROTATE, BLOCK_M, BLOCK_N, BOX_M, BOXES, AHEAD, EARLY,
        )  # fmt: skip
    for s in gl.static_range(SOONER, STAGES // PAIR):
        mbarrier.init(full.index(s), 1)
    for s in gl.static_range(STAGES // PAIR):
        mbarrier.init(empty.index(s), 1 if KSPLIT == 2 else WARPGROUPS)
    if KSPLIT == 2:
        for s in gl.static_range(2):
            mbarrier.init(turn.index(s), 1)
        sums = gl.allocate_shared_memory(gl.float32, [ROWS, BLOCK_N], gl.SwizzledSharedLayout(1, 1, 1, [1, 0]))
    else:
        sums = full
    fence_async_shared()
    if EARLY == 1 and AHEAD == 0:
        _after_previous()
    if WARPGROUPS == 1:
        gl.warp_specialize([
            (_consumer, (out_desc, groups_ptr, G, M, N, K, a_ring, a_scale_ring, b_ring, b_scales, out_tiles, sums, full, empty,
                         turn, MODE, SINGLE, GROUP, KSPLIT, PAIR, STAGES, BLOCK_M, BLOCK_N, 0)),
            (_producer, (a_desc, a_scale_desc, b_desc, b_scale_desc, groups_ptr, G, M, N, K, a_ring, a_scale_ring, b_ring,
                         b_scale_ring, full, empty, MODE, SINGLE, GROUP, KSPLIT, PAIR, ROTATE,
                         STAGES, BLOCK_M, BLOCK_N, BOX_M, BOXES, AHEAD, EARLY)),
        ], [1], [24])  # fmt: skip
    else:
        gl.warp_specialize([
            (_consumer, (out_desc, groups_ptr, G, M, N, K, a_ring, a_scale_ring, b_ring, b_scales, out_tiles, sums, full, empty,
                         turn, MODE, SINGLE, GROUP, KSPLIT, PAIR, STAGES, BLOCK_M, BLOCK_N, 0)),
            (_consumer, (out_desc, groups_ptr, G, M, N, K, a_ring, a_scale_ring, b_ring, b_scales, out_tiles, sums, full, empty,
                         turn, MODE, SINGLE, GROUP, KSPLIT, PAIR, STAGES, BLOCK_M, BLOCK_N, 1)),
            (_producer, (a_desc, a_scale_desc, b_desc, b_scale_desc, groups_ptr, G, M, N, K, a_ring, a_scale_ring, b_ring,
                         b_scale_ring, full, empty, MODE, SINGLE, GROUP, KSPLIT, PAIR, ROTATE,
                         STAGES, BLOCK_M, BLOCK_N, BOX_M, BOXES, AHEAD, EARLY)),
        ], [4, 1], [240, 24])  # fmt: skip
