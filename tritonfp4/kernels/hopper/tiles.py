"""Which tile of the output comes next: every warp role of a program walks the same list, so that none has to tell the others.

Dense and batched products: matrices of the same size, one after the other. Masked ones: of each, only the first rows hold data.
Ragged groups: the row tiles that `tritonfp4.kernels.hopper.ragged` has listed.
"""

from triton.experimental import gluon
from triton.experimental.gluon import language as gl

#: `MODE` of the kernel.
BATCH, MASKED, INDPTR = gl.constexpr(0), gl.constexpr(1), gl.constexpr(2)


@gluon.jit
def in_bands(t, tiles_m, tiles_n, GROUP: gl.constexpr):
    """Tile number -> row tile, column tile. GROUP row tiles are walked together, so that L2 keeps what they share; 0: there
    is one row tile, and nothing to divide."""
    if GROUP == 0:
        return 0, t
    band = GROUP * tiles_n
    first = t // band * GROUP
    rows = gl.maximum(gl.minimum(tiles_m - first, GROUP), 1)  # a tile behind the last one is asked about, too
    rest = t % band
    return first + rest % rows, rest // rows


@gluon.jit
def row_tiles(groups_ptr, M, MODE: gl.constexpr, BLOCK_M: gl.constexpr):
    """Row tiles that are walked together: those of one matrix, or all of them."""
    if MODE == INDPTR:
        return gl.load(groups_ptr)
    else:
        return gl.cdiv(M, BLOCK_M)


@gluon.jit
def place(
    t, tiles_m, tiles_n, groups_ptr, G, M, K_BLOCKS, MODE: gl.constexpr, SINGLE: gl.constexpr, GROUP: gl.constexpr, BLOCK_M: gl.constexpr
):  # fmt: skip
    """Tile t -> row of the operand, rows stored, rows that hold data, column tile, matrix of b, row and column of the scales
    of a. A tile behind the last one has no rows."""
    if MODE == INDPTR:
        tile_m, tile_n = in_bands(t, tiles_m, tiles_n, GROUP)
        entry = groups_ptr + 4 + 4 * tile_m
        there = t < tiles_m * tiles_n
        row = gl.load(entry, mask=there, other=0)
        stored = gl.load(entry + 1, mask=there, other=0)
        matrix = gl.load(entry + 2, mask=there, other=0)
        scale_col = gl.load(entry + 3, mask=there, other=0)
        valid = gl.where(matrix < 0, 0, stored)
        # ragged groups share one array of scales
        return row, stored, valid, tile_n, gl.maximum(matrix, 0), 0, scale_col
    else:
        i = 0
        if not SINGLE:
            i = t // (tiles_m * tiles_n)
            t -= i * tiles_m * tiles_n
        tile_m, tile_n = in_bands(t, tiles_m, tiles_n, GROUP)
        valid = M
        if MODE == MASKED:
            valid = gl.minimum(gl.maximum(gl.load(groups_ptr + i, mask=i < G, other=0), 0), M)
        local = tile_m * BLOCK_M
        return i * M + local, M - local, gl.maximum(valid - local, 0), tile_n, i, i * K_BLOCKS, local


@gluon.jit
def tile_count(tiles_m, tiles_n, G, MODE: gl.constexpr):
    """Tiles of the whole product."""
    if MODE == INDPTR:
        return tiles_m * tiles_n
    else:
        return tiles_m * tiles_n * G
