"""Products of 16-bit activations and FP4 weights on Hopper, for many rows, dense and grouped: out.T = weights @ x.T.

One warp keeps a ring of shared memory filled by TMA: activations, packed weights, their scale codes. Each of two warpgroups takes 64
rows of the weights, decodes a stage into registers while the tensor cores multiply the one before, and multiplies from there:
decoded weights never pass through memory.
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

from tritonfp4.kernels.hopper.producer import forward
from tritonfp4.kernels.hopper.tiles import BATCH, MASKED, first_segment, place, segment_end, to_tile
from tritonfp4.kernels.hopper.w4_decode import ROWS, STEP, weights

# Names that change with Triton: 3.9 drops the older ones.
_load = getattr(tma, "async_load", None) or tma.async_copy_global_to_shared
_store = getattr(tma, "async_store", None) or tma.async_copy_shared_to_global


@gluon.jit
def _fill_steps(
    x_desc, w_desc, s_desc, row, w_row, s_row, begin, end, stage, phase, x_ring, w_ring, s_ring, full, empty, FORMAT: gl.constexpr,
    STAGES: gl.constexpr, TOKENS: gl.constexpr,
):  # fmt: skip
    """Ask TMA for the steps of a tile from column `begin` to column `end`."""
    BYTES: gl.constexpr = TOKENS * STEP * 2 + 2 * ROWS * (STEP // 2 + 4)
    # columns of elements that a tile of the 128x4 layout covers
    COLUMNS: gl.constexpr = 64 if FORMAT == "nvfp4" else 128
    for k in range(begin, end, STEP):
        bar = full.index(stage)
        mbarrier.wait(empty.index(stage), phase)
        mbarrier.expect(bar, BYTES)
        _load(w_desc, [w_row, k // 8], bar, w_ring.index(stage))
        _load(s_desc, [(s_row + k // COLUMNS) * 32, 0], bar, s_ring.index(stage))
        _load(x_desc, [row, k], bar, x_ring.index(stage))
        stage, phase = forward(stage, phase, 1, STAGES)
    return stage, phase


@gluon.jit
def _fill_shares(
    x_desc, w_desc, s_desc, total, share, M, K, scale_columns, x_ring, w_ring, s_ring, full, empty, FORMAT: gl.constexpr,
    STAGES: gl.constexpr, TOKENS: gl.constexpr,
):  # fmt: skip
    """One warp: every step of the program's share of one product."""
    steps = K // STEP
    tiles_m = gl.cdiv(M, TOKENS)
    stage = 0
    phase = 1
    i = gl.program_id(0) * share
    end = gl.minimum(i + share, total)
    while i < end:
        n = i // steps // tiles_m
        k = i % steps
        count = gl.minimum(steps - k, end - i)
        stage, phase = _fill_steps(
            x_desc, w_desc, s_desc, i // steps % tiles_m * TOKENS, n * (2 * ROWS), n * scale_columns, k * STEP, (k + count) * STEP, stage,
            phase, x_ring, w_ring, s_ring, full, empty, FORMAT, STAGES, TOKENS,
        )  # fmt: skip
        i += count


@gluon.jit
def _fill(
    x_desc, w_desc, s_desc, groups_ptr, G, M, N, K, scale_columns, x_ring, w_ring, s_ring, full, empty, MODE: gl.constexpr,
    SINGLE: gl.constexpr, FORMAT: gl.constexpr, STAGES: gl.constexpr, TOKENS: gl.constexpr, GROUP: gl.constexpr,
):  # fmt: skip
    """One warp: every step of every tile."""
    tiles_n = gl.cdiv(N, 2 * ROWS)
    stage = 0
    phase = 1
    t = gl.program_id(0)
    i, before, first, size = first_segment(groups_ptr, M, MODE)
    i, before, first, size = to_tile(t, i, before, first, size, groups_ptr, G, M, tiles_n, MODE, SINGLE, TOKENS)
    while i < segment_end(G, MODE):
        row, _, valid, n, matrix = place(t, i, before, first, size, groups_ptr, G, tiles_n, MODE, GROUP, TOKENS)
        w_row = matrix * N + n * (2 * ROWS)
        s_row = (matrix * tiles_n + n) * scale_columns
        stage, phase = _fill_steps(
            x_desc, w_desc, s_desc, row, w_row, s_row, 0, gl.where(valid > 0, K, 0), stage, phase, x_ring, w_ring, s_ring, full, empty,
            FORMAT, STAGES, TOKENS,
        )  # fmt: skip
        t += gl.num_programs(0)
        i, before, first, size = to_tile(t, i, before, first, size, groups_ptr, G, M, tiles_n, MODE, SINGLE, TOKENS)


@gluon.jit
def _alpha(ptr, i, end, PER_ROW: gl.constexpr):
    """Global scale of each index."""
    if PER_ROW:
        return gl.load(ptr + i, mask=i < end, other=0.0)
    else:
        return gl.load(ptr + i * 0)


@gluon.jit
def _write(
    acc, tile, out_desc, x_global_ptr, w_global_ptr, row, n, bound, valid, matrix, M, N, MODE: gl.constexpr,
    X_PER_ROW: gl.constexpr, W_GLOBAL: gl.constexpr, UNSHIFT: gl.constexpr,
):  # fmt: skip
    """The accumulators of 64 columns of the output, with global scales, transposed, by TMA. `bound` tokens are stored: the others
    lie outside of the middle dimension (see `launch._output`). Those from `valid` on are zeros."""
    LAYOUT: gl.constexpr = acc.type.layout
    TOKENS: gl.constexpr = acc.shape[1]
    acc = acc * UNSHIFT
    if W_GLOBAL != "":
        rows = n + gl.arange(0, acc.shape[0], gl.SliceLayout(1, LAYOUT))
        if W_GLOBAL == "group":
            w_global_ptr += matrix
        acc = acc * gl.expand_dims(_alpha(w_global_ptr, rows, N, W_GLOBAL == "row"), 1)
    token = gl.arange(0, TOKENS, gl.SliceLayout(0, LAYOUT))
    if x_global_ptr is not None:
        acc = acc * gl.expand_dims(_alpha(x_global_ptr, row + token, M, X_PER_ROW), 0)
    if MODE == MASKED:
        acc = gl.where(gl.expand_dims(token < valid, 0), acc, 0.0)
    kept = gl.minimum(bound, TOKENS)
    tma.store_wait(0)
    tile.reshape((TOKENS, ROWS)).permute((1, 0)).store(acc.to(out_desc.dtype))
    fence_async_shared()
    _store(out_desc, [row + kept, TOKENS - kept, n], tile)


@gluon.jit
def _product(
    acc, begin, end, stage, phase, x_ring, w_ring, s_ring, full, empty, FORMAT: gl.constexpr, COMPUTE: gl.constexpr, STAGES: gl.constexpr,
    ME: gl.constexpr,
):  # fmt: skip
    """acc + the products from column `begin` to column `end`, two steps in turn."""
    LEFT: gl.constexpr = gl.DotOperandLayout(0, acc.type.layout, 2)
    w = weights(w_ring, s_ring, full, stage, phase, ME, 0, FORMAT, COMPUTE, LEFT)
    for k in range(begin, end, 2 * STEP):
        acc = warpgroup_mma(w, x_ring.index(stage).permute((1, 0)), acc, is_async=True)
        next_stage, next_phase = forward(stage, phase, 1, STAGES)
        next_w = weights(w_ring, s_ring, full, next_stage, next_phase, ME, 1, FORMAT, COMPUTE, LEFT)
        acc = warpgroup_mma_wait(0, deps=(acc,))
        mbarrier.arrive(empty.index(stage), count=1)
        acc = warpgroup_mma(next_w, x_ring.index(next_stage).permute((1, 0)), acc, is_async=True)
        stage, phase = forward(next_stage, next_phase, 1, STAGES)
        if k + 2 * STEP < end:
            w = weights(w_ring, s_ring, full, stage, phase, ME, 0, FORMAT, COMPUTE, LEFT)
        acc = warpgroup_mma_wait(0, deps=(acc,))
        mbarrier.arrive(empty.index(next_stage), count=1)
    return acc, stage, phase


@gluon.jit
def store_part(acc, parts_ptr, slot, GROUP: gl.constexpr, GROUPS: gl.constexpr):
    """Sums of a cut tile's rows GROUP 64 on: [tokens, 64 GROUPS] in float32."""
    LAYOUT: gl.constexpr = acc.type.layout
    row = GROUP * ROWS + gl.arange(0, ROWS, gl.SliceLayout(1, LAYOUT))
    token = gl.arange(0, acc.shape[1], gl.SliceLayout(0, LAYOUT))
    at = gl.expand_dims(token, 0) * (GROUPS * ROWS) + gl.expand_dims(row, 1)
    gl.store(parts_ptr + slot.to(gl.int64) * (GROUPS * ROWS * acc.shape[1]) + at, acc)


@gluon.jit
def _multiply_shares(
    out_desc, parts_ptr, x_global_ptr, w_global_ptr, total, share, M, N, K, x_ring, w_ring, s_ring, out_tiles, full, empty,
    FORMAT: gl.constexpr, COMPUTE: gl.constexpr, X_PER_ROW: gl.constexpr, W_GLOBAL: gl.constexpr, UNSHIFT: gl.constexpr,
    STAGES: gl.constexpr, TOKENS: gl.constexpr, ME: gl.constexpr,
):  # fmt: skip
    """One warpgroup: 64 rows of the weights of all that the program has a share in."""
    MMA: gl.constexpr = gl.NVMMADistributedLayout([3, 0], [4, 1], [16, TOKENS, 16])
    steps = K // STEP
    tiles_m = gl.cdiv(M, TOKENS)
    stage = 0
    phase = 0
    i = gl.program_id(0) * share
    first = i
    end = gl.minimum(i + share, total)
    while i < end:
        n = i // steps // tiles_m
        m = i // steps % tiles_m * TOKENS
        count = gl.minimum(steps - i % steps, end - i)
        acc, stage, phase = _product(
            gl.zeros([ROWS, TOKENS], gl.float32, MMA), 0, count * STEP, stage, phase, x_ring, w_ring, s_ring, full, empty, FORMAT, COMPUTE,
            STAGES, ME,
        )  # fmt: skip
        if count == steps:
            _write(
                acc, out_tiles.index(ME), out_desc, x_global_ptr, w_global_ptr, m, (2 * n + ME) * ROWS, M - m, TOKENS, 0, M, N,
                BATCH, X_PER_ROW, W_GLOBAL, UNSHIFT,
            )  # fmt: skip
        else:
            store_part(acc, parts_ptr, gl.program_id(0) * 2 + gl.where(i == first, 0, 1), ME, 2)
        i += count
    tma.store_wait(0)


@gluon.jit
def _multiply(
    out_desc, x_global_ptr, w_global_ptr, groups_ptr, G, M, N, K, x_ring, w_ring, s_ring, out_tiles, full, empty,
    MODE: gl.constexpr, SINGLE: gl.constexpr, FORMAT: gl.constexpr, COMPUTE: gl.constexpr, X_PER_ROW: gl.constexpr,
    W_GLOBAL: gl.constexpr, UNSHIFT: gl.constexpr, STAGES: gl.constexpr, TOKENS: gl.constexpr, GROUP: gl.constexpr,
    ME: gl.constexpr,
):  # fmt: skip
    """One warpgroup: 64 rows of the weights of every tile, two steps in turn."""
    MMA: gl.constexpr = gl.NVMMADistributedLayout([3, 0], [4, 1], [16, TOKENS, 16])
    tiles_n = gl.cdiv(N, 2 * ROWS)
    stage = 0
    phase = 0
    t = gl.program_id(0)
    i, before, first, size = first_segment(groups_ptr, M, MODE)
    i, before, first, size = to_tile(t, i, before, first, size, groups_ptr, G, M, tiles_n, MODE, SINGLE, TOKENS)
    while i < segment_end(G, MODE):
        row, bound, valid, n, matrix = place(t, i, before, first, size, groups_ptr, G, tiles_n, MODE, GROUP, TOKENS)
        acc = gl.zeros([ROWS, TOKENS], gl.float32, MMA)
        if valid > 0:
            acc, stage, phase = _product(
                acc, 0, K, stage, phase, x_ring, w_ring, s_ring, full, empty, FORMAT, COMPUTE, STAGES, ME,
            )  # fmt: skip
        _write(
            acc, out_tiles.index(ME), out_desc, x_global_ptr, w_global_ptr, row, (2 * n + ME) * ROWS, bound, valid, matrix, M, N,
            MODE, X_PER_ROW, W_GLOBAL, UNSHIFT,
        )  # fmt: skip
        t += gl.num_programs(0)
        i, before, first, size = to_tile(t, i, before, first, size, groups_ptr, G, M, tiles_n, MODE, SINGLE, TOKENS)
    tma.store_wait(0)


@gluon.jit(do_not_specialize=["G", "M", "total", "share"])
def matmul_w4_hopper_kernel(
    x_desc, w_desc, s_desc, out_desc, x_global_ptr, w_global_ptr, groups_ptr, parts_ptr, G, total, share, M, N, K, scale_columns,
    MODE: gl.constexpr, SINGLE: gl.constexpr, FORMAT: gl.constexpr, COMPUTE: gl.constexpr, X_PER_ROW: gl.constexpr, W_GLOBAL: gl.constexpr,
    UNSHIFT: gl.constexpr, STAGES: gl.constexpr, TOKENS: gl.constexpr, GROUP: gl.constexpr,
    SHARED: gl.constexpr,
):  # fmt: skip
    """out[m, n] = x[m] @ w[n] in tiles of TOKENS x 128; as many programs as there are SMs walk all of them. K is a multiple
    of 128. SHARED: one product, of which each takes `share` of `total` steps, both even; of tiles that are cut, the parts."""
    x_ring = gl.allocate_shared_memory(x_desc.dtype, [STAGES, TOKENS, STEP], x_desc.layout)
    w_ring = gl.allocate_shared_memory(w_desc.dtype, [STAGES, 2 * ROWS, STEP // 8], w_desc.layout)
    s_ring = gl.allocate_shared_memory(s_desc.dtype, [STAGES, 32, 4], s_desc.layout)
    out_tiles = gl.allocate_shared_memory(out_desc.dtype, [2, 1, TOKENS, ROWS], out_desc.layout)
    full = gl.allocate_shared_memory(gl.int64, [STAGES, 1], mbarrier.MBarrierLayout())
    empty = gl.allocate_shared_memory(gl.int64, [STAGES, 1], mbarrier.MBarrierLayout())
    for s in gl.static_range(STAGES):
        mbarrier.init(full.index(s), 1)
        mbarrier.init(empty.index(s), 2)
    fence_async_shared()
    if SHARED:
        gl.warp_specialize([
            (_multiply_shares, (out_desc, parts_ptr, x_global_ptr, w_global_ptr, total, share, M, N, K, x_ring, w_ring, s_ring, out_tiles,
                                full, empty, FORMAT, COMPUTE, X_PER_ROW, W_GLOBAL, UNSHIFT, STAGES, TOKENS, 0)),
            (_multiply_shares, (out_desc, parts_ptr, x_global_ptr, w_global_ptr, total, share, M, N, K, x_ring, w_ring, s_ring, out_tiles,
                                full, empty, FORMAT, COMPUTE, X_PER_ROW, W_GLOBAL, UNSHIFT, STAGES, TOKENS, 1)),
            (_fill_shares, (x_desc, w_desc, s_desc, total, share, M, K, scale_columns, x_ring, w_ring, s_ring, full, empty, FORMAT,
                            STAGES, TOKENS)),
        ], [4, 1], [240, 24])  # fmt: skip
    else:
        gl.warp_specialize([
            (_multiply, (out_desc, x_global_ptr, w_global_ptr, groups_ptr, G, M, N, K, x_ring, w_ring, s_ring, out_tiles, full, empty,
                         MODE, SINGLE, FORMAT, COMPUTE, X_PER_ROW, W_GLOBAL, UNSHIFT, STAGES, TOKENS, GROUP, 0)),
            (_multiply, (out_desc, x_global_ptr, w_global_ptr, groups_ptr, G, M, N, K, x_ring, w_ring, s_ring, out_tiles, full, empty,
                         MODE, SINGLE, FORMAT, COMPUTE, X_PER_ROW, W_GLOBAL, UNSHIFT, STAGES, TOKENS, GROUP, 1)),
            (_fill, (x_desc, w_desc, s_desc, groups_ptr, G, M, N, K, scale_columns, x_ring, w_ring, s_ring, full, empty, MODE, SINGLE,
                     FORMAT, STAGES, TOKENS, GROUP)),
        ], [4, 1], [240, 24])  # fmt: skip
