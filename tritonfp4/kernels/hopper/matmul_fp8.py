"""Products of FP8 operands with 1x128 and 128x128 scales on Hopper: dense, batched, masked, ragged groups.

One warp keeps a ring of shared memory filled by TMA; one or two warpgroups multiply; of ragged groups another warp draws tiles.
Scales travel in the stages beside the elements they belong to.
"""

from __future__ import annotations

from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.hopper import fence_async_shared, mbarrier

from tritonfp4.kernels.hopper.consumer import ROWS, consumer
from tritonfp4.kernels.hopper.producer import STEP, after_previous, fill_ahead, producer
from tritonfp4.kernels.hopper.tiles import INDPTR, draw

# A name that changes with Triton.
_REINTERPRET = gl.constexpr(hasattr(gl.shared_memory_descriptor, "reinterpret"))


@gluon.jit
def _as_list(memory, dtype: gl.constexpr, length: gl.constexpr):
    """Shared memory as single numbers, to be indexed."""
    FLAT: gl.constexpr = gl.SwizzledSharedLayout(1, 1, 1, [0])
    if _REINTERPRET:
        return memory.reinterpret(dtype, [length, 1], FLAT)
    else:
        return memory._reinterpret(dtype, [length, 1], FLAT)


@gluon.jit(do_not_specialize=["G", "M"])
def matmul_fp8_hopper_kernel(
    a_desc, a_scale_desc, b_desc, b_scale_desc, out_desc, groups_ptr, counter_ptr, G, M, N, K,
    MODE: gl.constexpr, SINGLE: gl.constexpr, GROUP: gl.constexpr, KSPLIT: gl.constexpr, PAIR: gl.constexpr, ROTATE: gl.constexpr,
    STAGES: gl.constexpr, BLOCK_M: gl.constexpr, BLOCK_N: gl.constexpr, BOX_M: gl.constexpr, BOXES: gl.constexpr,
    WARPGROUPS: gl.constexpr, EARLY: gl.constexpr, AHEAD: gl.constexpr,
):  # fmt: skip
    """out = a @ b.T in tiles of BLOCK_M x BLOCK_N; as many programs as fit the GPU at once walk all of them."""
    UNIT: gl.constexpr = 4 if KSPLIT == 2 else PAIR
    gl.static_assert(STAGES % UNIT == 0, "slots of the ring must belong to one warpgroup each")
    a_ring = gl.allocate_shared_memory(a_desc.dtype, [STAGES, BLOCK_M, STEP], a_desc.layout)
    BOX_N: gl.constexpr = b_desc.block_shape[0]
    b_ring = gl.allocate_shared_memory(b_desc.dtype, [STAGES * (BLOCK_N // BOX_N), BOX_N, STEP], b_desc.layout)
    a_scale_ring = gl.allocate_shared_memory(gl.float32, [STAGES, 1, BLOCK_M], a_scale_desc.layout)
    # TMA wants its targets 128 bytes apart
    b_scale_ring = gl.allocate_shared_memory(gl.float32, [STAGES, 8, 4], b_scale_desc.layout)
    b_scales = _as_list(b_scale_ring, gl.float32, STAGES * 32)
    out_tiles = gl.allocate_shared_memory(
        out_desc.dtype, [WARPGROUPS // KSPLIT, 1, ROWS, out_desc.block_shape[2]], out_desc.layout
    )
    full = gl.allocate_shared_memory(gl.int64, [STAGES // PAIR, 1], mbarrier.MBarrierLayout())
    empty = gl.allocate_shared_memory(gl.int64, [STAGES // PAIR, 1], mbarrier.MBarrierLayout())
    tickets = gl.allocate_shared_memory(gl.int32, [2, 1], gl.SwizzledSharedLayout(1, 1, 1, [0]))
    posted = gl.allocate_shared_memory(gl.int64, [2, 1], mbarrier.MBarrierLayout())
    taken = gl.allocate_shared_memory(gl.int64, [2, 1], mbarrier.MBarrierLayout())
    turn = gl.allocate_shared_memory(gl.int64, [2, 1], mbarrier.MBarrierLayout())
    # The warps need some time to take up their roles: the first loads are on their way before.
    SOONER: gl.constexpr = AHEAD if EARLY < 2 else 0
    for s in gl.static_range(SOONER):
        mbarrier.init(full.index(s), 1)
    if SOONER > 0:
        fence_async_shared()
        fill_ahead(
            a_desc, a_scale_desc, b_desc, b_scale_desc, groups_ptr, G, M, N, K, a_ring, a_scale_ring, b_ring, b_scale_ring, full,
            MODE, SINGLE, GROUP, KSPLIT, PAIR, ROTATE, BLOCK_M, BLOCK_N, BOX_M, BOXES, AHEAD, EARLY,
        )  # fmt: skip
    for s in gl.static_range(SOONER, STAGES // PAIR):
        mbarrier.init(full.index(s), 1)
    for s in gl.static_range(STAGES // PAIR):
        mbarrier.init(empty.index(s), 1 if KSPLIT == 2 else WARPGROUPS)
    if MODE == INDPTR:
        for s in gl.static_range(2):
            mbarrier.init(posted.index(s), 1)
            mbarrier.init(taken.index(s), WARPGROUPS + 1)
    if KSPLIT == 2:
        for s in gl.static_range(2):
            mbarrier.init(turn.index(s), 1)
        sums = gl.allocate_shared_memory(gl.float32, [ROWS, BLOCK_N], gl.SwizzledSharedLayout(1, 1, 1, [1, 0]))
    else:
        sums = full
    fence_async_shared()
    if EARLY == 1 and AHEAD == 0:
        after_previous()
    if WARPGROUPS == 1:
        gl.warp_specialize([
            (consumer, (out_desc, groups_ptr, G, M, N, K, a_ring, a_scale_ring, b_ring, b_scales, out_tiles, sums, full, empty,
                        turn, tickets, posted, taken, MODE, SINGLE, GROUP, KSPLIT, PAIR, STAGES, BLOCK_M, BLOCK_N, 0)),
            (producer, (a_desc, a_scale_desc, b_desc, b_scale_desc, groups_ptr, G, M, N, K, a_ring, a_scale_ring, b_ring,
                        b_scale_ring, full, empty, tickets, posted, taken, MODE, SINGLE, GROUP, KSPLIT, PAIR, ROTATE,
                        STAGES, BLOCK_M, BLOCK_N, BOX_M, BOXES, AHEAD, EARLY)),
            (draw, (groups_ptr, counter_ptr, tickets, posted, taken, G, M, N, MODE, BLOCK_M, BLOCK_N)),
        ], [1, 1], [24, 24])  # fmt: skip
    else:
        gl.warp_specialize([
            (consumer, (out_desc, groups_ptr, G, M, N, K, a_ring, a_scale_ring, b_ring, b_scales, out_tiles, sums, full, empty,
                        turn, tickets, posted, taken, MODE, SINGLE, GROUP, KSPLIT, PAIR, STAGES, BLOCK_M, BLOCK_N, 0)),
            (consumer, (out_desc, groups_ptr, G, M, N, K, a_ring, a_scale_ring, b_ring, b_scales, out_tiles, sums, full, empty,
                        turn, tickets, posted, taken, MODE, SINGLE, GROUP, KSPLIT, PAIR, STAGES, BLOCK_M, BLOCK_N, 1)),
            (producer, (a_desc, a_scale_desc, b_desc, b_scale_desc, groups_ptr, G, M, N, K, a_ring, a_scale_ring, b_ring,
                        b_scale_ring, full, empty, tickets, posted, taken, MODE, SINGLE, GROUP, KSPLIT, PAIR, ROTATE,
                        STAGES, BLOCK_M, BLOCK_N, BOX_M, BOXES, AHEAD, EARLY)),
            (draw, (groups_ptr, counter_ptr, tickets, posted, taken, G, M, N, MODE, BLOCK_M, BLOCK_N)),
        ], [4, 1, 1], [240, 24, 24])  # fmt: skip
