"""Which tile of the output comes next: every warp role of a program walks the same list, so that none has to tell the others.

Dense and batched products: matrices of the same size, one after the other. Masked ones: of each, only the first rows hold data.
Ragged groups: the row tiles that `tritonfp4.kernels.hopper.ragged` has listed.
"""

from triton.experimental import gluon
from triton.experimental.gluon import language as gl

#: `MODE` of the kernel.
BATCH, MASKED, INDPTR = gl.constexpr(0), gl.constexpr(1), gl.constexpr(2)


@gluon.jit
def in_bands(t, tiles_m, tiles_n, GROUP: gl.constexpr, SKEW: gl.constexpr):
    """Tile number -> row tile, column tile. GROUP row tiles are walked together, so that L2 keeps what they share; 0: there
    is one row tile, and nothing to divide. SKEW: every band begins with another row tile, or a program, whose tiles are as
    far apart as there are programs, would see only some of each."""
    if GROUP == 0:
        return 0, t
    band = GROUP * tiles_n
    first = t // band * GROUP
    rows = gl.minimum(tiles_m - first, GROUP)
    rest = t % band
    tile_n = rest // rows
    if SKEW:
        rest += t // band
    return first + rest % rows, tile_n


@gluon.jit
def copy_plan(plan_ptr, plan, PLAN: gl.constexpr):
    """The list of row tiles into shared memory: a load of it from L2 would hold a warpgroup up for two microseconds a tile."""
    i = gl.arange(0, 4 * PLAN, gl.BlockedLayout([4], [32], [gl.num_warps()], [0]))
    plan.store(gl.load(plan_ptr + i))


@gluon.jit
def listed(plan_ptr, plan, at, PLAN: gl.constexpr):
    """A number of the list."""
    if PLAN:
        return gl.max(plan.index(at).load(gl.BlockedLayout([1], [32], [gl.num_warps()], [0])), 0)
    else:
        return gl.load(plan_ptr + at)


@gluon.jit
def row_tiles(groups_ptr, plan, M, MODE: gl.constexpr, BLOCK_M: gl.constexpr, PLAN: gl.constexpr):
    """Row tiles that are walked together: those of one matrix, or all of them."""
    if MODE == INDPTR:
        return listed(groups_ptr, plan, 0, PLAN)
    else:
        return gl.cdiv(M, BLOCK_M)


@gluon.jit
def tile_count(tiles_m, tiles_n, G, MODE: gl.constexpr):
    """Tiles of the whole product."""
    if MODE == INDPTR:
        return tiles_m * tiles_n
    else:
        return tiles_m * tiles_n * G


@gluon.jit
def place(
    t, tiles_m, tiles_n, groups_ptr, plan, M, K_BLOCKS, MODE: gl.constexpr, SINGLE: gl.constexpr, GROUP: gl.constexpr,
    BLOCK_M: gl.constexpr, PLAN: gl.constexpr,
):  # fmt: skip
    """Tile t -> row of the operand, rows stored, rows that hold data, column tile, matrix of b, row and column of the scales
    of a."""
    if MODE == INDPTR:
        tile_m, tile_n = in_bands(t, tiles_m, tiles_n, GROUP, True)
        row = listed(groups_ptr, plan, 4 * tile_m + 4, PLAN)
        stored = listed(groups_ptr, plan, 4 * tile_m + 5, PLAN)
        matrix = listed(groups_ptr, plan, 4 * tile_m + 6, PLAN)
        scale_col = listed(groups_ptr, plan, 4 * tile_m + 7, PLAN)
        # ragged groups share one array of scales
        return row, stored, gl.where(matrix < 0, 0, stored), tile_n, gl.maximum(matrix, 0), 0, scale_col
    else:
        i = 0
        if not SINGLE:
            i = t // (tiles_m * tiles_n)
            t -= i * tiles_m * tiles_n
        tile_m, tile_n = in_bands(t, tiles_m, tiles_n, GROUP, False)
        valid = M
        if MODE == MASKED:
            valid = gl.minimum(gl.maximum(gl.load(groups_ptr + i), 0), M)
        local = tile_m * BLOCK_M
        return i * M + local, M - local, gl.maximum(valid - local, 0), tile_n, i, i * K_BLOCKS, local
