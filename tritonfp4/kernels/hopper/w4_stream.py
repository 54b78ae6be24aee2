"""Products of a few tens of 16-bit rows and FP4 weights on Hopper: out.T = weights @ x.T, weights as fast as memory brings them.

TMA brings everything into a ring of shared memory. Weights are decoded as in `kernels.fragments`: a thread takes 32 neighbours along K,
and the elements are named anew; the activations come with their columns in that order (`kernels.fragments.order`). Four warpgroups
decode and multiply: while one waits for its MMA, the others decode. Each takes 64 rows, or two of them take turns at the stages of the
same 64.

Programs take equal shares of all steps of all tiles, so a tile may be cut: its parts are stored in float32, and a second kernel
adds them up, in the order of K.
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

from tritonfp4.kernels.fragments.decode import pairs
from tritonfp4.kernels.hopper.producer import after_previous, forward
from tritonfp4.kernels.hopper.tiles import BATCH
from tritonfp4.kernels.hopper.w4 import _alpha, _write, store_part

_load = getattr(tma, "async_load", None) or tma.async_copy_global_to_shared

#: Elements along K of a stage, rows of a warpgroup.
STEP, ROWS = gl.constexpr(128), gl.constexpr(64)

#: Words [rows, 4 threads 4] of a warpgroup: as wgmma's left operand has rows and threads.
_WORDS = gl.constexpr(
    gl.DistributedLinearLayout(
        [[0, 1], [0, 2], [8, 0]], [[0, 4], [0, 8], [1, 0], [2, 0], [4, 0]], [[16, 0], [32, 0]], [], [64, 16]
    )
)
#: Their scale codes [tiles, 32 rows, blocks of 32 rows, threads]; those of NVFP4, two a word, lie in two tiles.
_CODES = {
    "nvfp4": gl.DistributedLinearLayout(
        [[0, 8, 0]], [[0, 0, 1], [1, 0, 0], [0, 1, 0], [0, 2, 0], [0, 4, 0]], [[0, 16, 0], [0, 0, 2]], [], [2, 32, 4]
    ),
    "mxfp4": gl.DistributedLinearLayout(
        [[0, 8, 0]], [[0, 0, 1], [0, 0, 2], [0, 1, 0], [0, 2, 0], [0, 4, 0]], [[0, 16, 0], [0, 0, 4]], [], [1, 32, 8]
    ),
}  # fmt: skip
_NVFP4_CODES, _MXFP4_CODES = gl.constexpr(_CODES["nvfp4"]), gl.constexpr(_CODES["mxfp4"])


@gluon.jit
def _expect(full, stage, FORMAT: gl.constexpr, GROUPS: gl.constexpr, TOKENS: gl.constexpr):
    CODES: gl.constexpr = 4 if FORMAT == "mxfp4" else 8
    mbarrier.expect(full.index(stage), GROUPS * ROWS * (STEP // 2 + CODES) + TOKENS * STEP * 2)


@gluon.jit
def _fill_w(w_desc, s_desc, n, k, stage, w_ring, s_ring, full, FORMAT: gl.constexpr, GROUPS: gl.constexpr):
    """Ask TMA for the weights of step k of tile n of rows, and their scale codes."""
    _load(w_desc, [n * GROUPS * ROWS, k * (STEP // 8)], full.index(stage), w_ring.index(stage))
    _load(
        s_desc, [n * (GROUPS // 2), k * (1 if FORMAT == "mxfp4" else 2), 0, 0], full.index(stage), s_ring.index(stage)
    )


@gluon.jit
def _fill(
    x_desc, w_desc, s_desc, tiles_m, steps, first, end, x_ring, w_ring, s_ring, full, empty, FORMAT: gl.constexpr,
    GROUPS: gl.constexpr, STAGES: gl.constexpr, TOKENS: gl.constexpr, AHEAD: gl.constexpr,
):  # fmt: skip
    """One warp: weights, scale codes and activations of every step. The first AHEAD are asked for already."""
    stage = AHEAD % STAGES
    phase = 1 - AHEAD // STAGES
    for i in range(first + AHEAD, end):
        tile = i // steps
        k = i % steps
        mbarrier.wait(empty.index(stage), phase)
        _expect(full, stage, FORMAT, GROUPS, TOKENS)
        _fill_w(w_desc, s_desc, tile // tiles_m, k, stage, w_ring, s_ring, full, FORMAT, GROUPS)
        _load(x_desc, [0, k, tile % tiles_m * TOKENS, 0], full.index(stage), x_ring.index(stage))
        stage, phase = forward(stage, phase, 1, STAGES)


@gluon.jit
def _weights(
    w_ring,
    s_ring,
    stage,
    FORMAT: gl.constexpr,
    COMPUTE: gl.constexpr,
    GROUP: gl.constexpr,
    GROUPS: gl.constexpr,
    LAYOUT: gl.constexpr,
):
    """A warpgroup's weights of a stage as wgmma's left operand: two of [64, 64]."""
    words = w_ring.index(stage).slice(GROUP * ROWS, ROWS, dim=0).load(_WORDS).reshape((1, ROWS, 4, 4))
    if FORMAT == "mxfp4":
        codes = (
            s_ring.index(stage)
            .reshape((GROUPS // 2, 32, 16))
            .slice(GROUP // 2, 1, dim=0)
            .slice(GROUP % 2 * 8, 8, dim=2)
            .load(_MXFP4_CODES)
        )
        codes = codes.reshape((1, 1, 32, 2, 4))
    else:
        codes = (
            s_ring.index(stage)
            .reshape((GROUPS, 32, 8))
            .slice(GROUP // 2 * 2, 2, dim=0)
            .slice(GROUP % 2 * 4, 4, dim=2)
            .load(_NVFP4_CODES)
        )
        codes = codes.reshape((1, 2, 32, 2, 2))
    codes = codes.permute((0, 3, 2, 1, 4)).reshape((1, ROWS, 4))
    v = pairs(words, codes, FORMAT, COMPUTE).permute((0, 1, 3, 4, 5, 2, 6)).reshape((ROWS, 2, 64)).permute((0, 2, 1))
    low, high = gl.split(v)
    return gl.convert_layout(low, LAYOUT, assert_trivial=True), gl.convert_layout(high, LAYOUT, assert_trivial=True)


@gluon.jit
def _multiply(
    out_desc, parts_ptr, x_global_ptr, w_global_ptr, tiles_m, steps, first, end, M, N, x_ring, w_ring, s_ring, sums, out_tiles, full, empty,
    turn, FORMAT: gl.constexpr, COMPUTE: gl.constexpr, X_PER_ROW: gl.constexpr, W_GLOBAL: gl.constexpr, UNSHIFT: gl.constexpr,
    GROUPS: gl.constexpr, STAGES: gl.constexpr, TOKENS: gl.constexpr, ME: gl.constexpr,
):  # fmt: skip
    """One warpgroup."""
    MMA: gl.constexpr = gl.NVMMADistributedLayout([3, 0], [4, 1], [16, TOKENS, 16])
    LEFT: gl.constexpr = gl.DotOperandLayout(0, MMA, 2)
    GROUP: gl.constexpr = ME % GROUPS
    KSPLIT: gl.constexpr = 4 // GROUPS
    stage = ME // GROUPS
    phase = 0
    summed = 0
    i = first
    while i < end:
        tile = i // steps
        count = gl.minimum(steps - i % steps, end - i)
        acc = gl.zeros([ROWS, TOKENS], gl.float32, MMA)
        for _ in range(0, count, KSPLIT):
            mbarrier.wait(full.index(stage), phase)
            low, high = _weights(w_ring, s_ring, stage, FORMAT, COMPUTE, GROUP, GROUPS, LEFT)
            x = x_ring.index(stage).reshape((2 * TOKENS, 64))
            acc = warpgroup_mma(low, x.slice(0, TOKENS, dim=0).permute((1, 0)), acc, is_async=True)
            acc = warpgroup_mma(high, x.slice(TOKENS, TOKENS, dim=0).permute((1, 0)), acc, is_async=True)
            acc = warpgroup_mma_wait(0, deps=(acc,))
            mbarrier.arrive(empty.index(stage), count=1)
            stage, phase = forward(stage, phase, KSPLIT, STAGES)
        if ME >= GROUPS:
            mbarrier.wait(turn.index(2 * GROUP), summed ^ 1)
            sums.index(GROUP).store(acc)
            mbarrier.arrive(turn.index(2 * GROUP + 1), count=1)
        else:
            if KSPLIT == 2:
                mbarrier.wait(turn.index(2 * GROUP + 1), summed)
                acc += sums.index(GROUP).load(MMA)
                mbarrier.arrive(turn.index(2 * GROUP), count=1)
            if count == steps:
                m = tile % tiles_m * TOKENS
                _write(
                    acc, out_tiles.index(GROUP), out_desc, x_global_ptr, w_global_ptr, m, (GROUPS * (tile // tiles_m) + GROUP) * ROWS, M - m,
                    TOKENS, 0, M, N, BATCH, X_PER_ROW, W_GLOBAL, UNSHIFT,
                )  # fmt: skip
            else:
                store_part(acc, parts_ptr, gl.program_id(0) * 2 + gl.where(i == first, 0, 1), GROUP, GROUPS)
        summed ^= 1
        i += count
    if ME < GROUPS:
        tma.store_wait(0)


@gluon.jit(do_not_specialize=["M", "N", "tiles_m", "total", "share"])
def stream_w4_kernel(
    x_desc, w_desc, s_desc, out_desc, parts_ptr, x_global_ptr, w_global_ptr, tiles_m, total, share, M, N, K,
    FORMAT: gl.constexpr, COMPUTE: gl.constexpr, X_PER_ROW: gl.constexpr, W_GLOBAL: gl.constexpr, UNSHIFT: gl.constexpr,
    GROUPS: gl.constexpr, STAGES: gl.constexpr, TOKENS: gl.constexpr, AHEAD: gl.constexpr,
):  # fmt: skip
    """out[m, n] = x[m] @ w[n] in tiles of TOKENS x 64 GROUPS: `share` of `total` steps a program, both even. K is a multiple of 128."""
    KSPLIT: gl.constexpr = 4 // GROUPS
    gl.static_assert(STAGES % KSPLIT == 0, "slots of the ring must belong to one warpgroup each")
    x_ring = gl.allocate_shared_memory(x_desc.dtype, [STAGES, 2, 1, TOKENS, 64], x_desc.layout)
    w_ring = gl.allocate_shared_memory(w_desc.dtype, [STAGES, GROUPS * ROWS, STEP // 8], w_desc.layout)
    s_ring = gl.allocate_shared_memory(
        s_desc.dtype, [STAGES, GROUPS // 2, s_desc.block_shape[1], 32, s_desc.block_shape[3]], s_desc.layout
    )
    out_tiles = gl.allocate_shared_memory(out_desc.dtype, [GROUPS, 1, TOKENS, ROWS], out_desc.layout)
    if KSPLIT == 2:
        sums = gl.allocate_shared_memory(
            gl.float32, [2, ROWS, TOKENS], gl.SwizzledSharedLayout(2, 1, min(TOKENS // 2, 16), [1, 0])
        )
    else:
        sums = out_tiles
    full = gl.allocate_shared_memory(gl.int64, [STAGES, 1], mbarrier.MBarrierLayout())
    empty = gl.allocate_shared_memory(gl.int64, [STAGES, 1], mbarrier.MBarrierLayout())
    turn = gl.allocate_shared_memory(gl.int64, [4, 1], mbarrier.MBarrierLayout())
    for s in gl.static_range(STAGES):
        mbarrier.init(full.index(s), 1)
    fence_async_shared()
    # The warps need some time to take up their roles: the first loads are on their way before, and of those, the weights even
    # before the kernel is done that orders the activations.
    steps = gl.cdiv(K, STEP * KSPLIT) * KSPLIT
    first = gl.program_id(0) * share
    end = gl.minimum(first + share, total)
    ahead = gl.minimum(end - first, AHEAD)
    for s in range(0, ahead):
        _expect(full, s, FORMAT, GROUPS, TOKENS)
        _fill_w(
            w_desc,
            s_desc,
            (first + s) // steps // tiles_m,
            (first + s) % steps,
            s,
            w_ring,
            s_ring,
            full,
            FORMAT,
            GROUPS,
        )
    after_previous()
    for s in range(0, ahead):
        tile = (first + s) // steps
        _load(x_desc, [0, (first + s) % steps, tile % tiles_m * TOKENS, 0], full.index(s), x_ring.index(s))
    for s in gl.static_range(STAGES):
        mbarrier.init(empty.index(s), GROUPS)
    for s in gl.static_range(4):
        mbarrier.init(turn.index(s), 1)
    fence_async_shared()
    gl.warp_specialize([
        (_multiply, (out_desc, parts_ptr, x_global_ptr, w_global_ptr, tiles_m, steps, first, end, M, N, x_ring, w_ring, s_ring, sums,
                     out_tiles, full, empty, turn, FORMAT, COMPUTE, X_PER_ROW, W_GLOBAL, UNSHIFT, GROUPS, STAGES, TOKENS, 0)),
        (_multiply, (out_desc, parts_ptr, x_global_ptr, w_global_ptr, tiles_m, steps, first, end, M, N, x_ring, w_ring, s_ring, sums,
                     out_tiles, full, empty, turn, FORMAT, COMPUTE, X_PER_ROW, W_GLOBAL, UNSHIFT, GROUPS, STAGES, TOKENS, 1)),
        (_multiply, (out_desc, parts_ptr, x_global_ptr, w_global_ptr, tiles_m, steps, first, end, M, N, x_ring, w_ring, s_ring, sums,
                     out_tiles, full, empty, turn, FORMAT, COMPUTE, X_PER_ROW, W_GLOBAL, UNSHIFT, GROUPS, STAGES, TOKENS, 2)),
        (_multiply, (out_desc, parts_ptr, x_global_ptr, w_global_ptr, tiles_m, steps, first, end, M, N, x_ring, w_ring, s_ring, sums,
                     out_tiles, full, empty, turn, FORMAT, COMPUTE, X_PER_ROW, W_GLOBAL, UNSHIFT, GROUPS, STAGES, TOKENS, 3)),
        (_fill, (x_desc, w_desc, s_desc, tiles_m, steps, first, end, x_ring, w_ring, s_ring, full, empty, FORMAT, GROUPS, STAGES,
                 TOKENS, AHEAD)),
    ], [4, 4, 4, 1], [120, 120, 120, 24])  # fmt: skip


@gluon.jit(do_not_specialize=["M", "N", "tiles_m", "share", "steps"])
def finish_w4_kernel(
    out_ptr, parts_ptr, x_global_ptr, w_global_ptr, tiles_m, share, steps, M, N, stride_m, stride_n, X_PER_ROW: gl.constexpr,
    W_GLOBAL: gl.constexpr, UNSHIFT: gl.constexpr, ROWS: gl.constexpr, TOKENS: gl.constexpr, EACH: gl.constexpr, MOST: gl.constexpr,
):  # fmt: skip
    """The parts of every tile that was cut, MOST at most, added up in the order of K; EACH tokens a program."""
    LAYOUT: gl.constexpr = gl.BlockedLayout([2, 1], [32, 1], [1, gl.num_warps()], [0, 1])
    tile = gl.program_id(0)
    first = tile * steps // share
    last = ((tile + 1) * steps - 1) // share
    r = gl.arange(0, ROWS, gl.SliceLayout(1, LAYOUT))
    token = gl.program_id(1) * EACH + gl.arange(0, EACH, gl.SliceLayout(0, LAYOUT))
    at = gl.expand_dims(token, 0) * ROWS + gl.expand_dims(r, 1)
    r += tile // tiles_m * ROWS
    token += tile % tiles_m * TOKENS
    after_previous()
    if first < last:
        total = gl.zeros([ROWS, EACH], gl.float32, LAYOUT)
        for j in gl.static_range(MOST):
            i = first + j
            slot = 2 * i + gl.where(i * share // steps == tile, 0, 1)
            total += gl.load(parts_ptr + slot.to(gl.int64) * (ROWS * TOKENS) + at, mask=i <= last, other=0.0)
        total = total * UNSHIFT
        if W_GLOBAL != "":
            total = total * gl.expand_dims(_alpha(w_global_ptr, r, N, W_GLOBAL == "row"), 1)
        if x_global_ptr is not None:
            total = total * gl.expand_dims(_alpha(x_global_ptr, token, M, X_PER_ROW), 0)
        rows = gl.expand_dims(r, 1)
        tokens = gl.expand_dims(token, 0)
        to = out_ptr + tokens.to(gl.int64) * stride_m + rows.to(gl.int64) * stride_n
        gl.store(to, total.to(out_ptr.dtype.element_ty), mask=(rows < N) & (tokens < M))
