"""Which tile of the output comes next. Every warp role of a program walks the same list, so that none has to tell the others where
its tile lies; of ragged groups one warp draws the number of the next tile for all of them.

Rows lie in segments. Dense and batched products: one segment a matrix, all of the same size. Ragged groups: segment 0 holds the
rows before the first group, segment G + 1 those behind the last; both are stored as zeros. Group offsets are read on the
device and clamped to the operand, so bad ones give wrong rows, never foreign memory.
"""

from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.hopper import mbarrier

#: `MODE` of the kernel.
BATCH, MASKED, INDPTR = gl.constexpr(0), gl.constexpr(1), gl.constexpr(2)
#: The bit of a ticket that says which of two walks it belongs to.
SECOND = gl.constexpr(30)
#: Mean rows of groups up to which tiles are drawn from both halves of the list.
MIXED_TO = gl.constexpr(128)


@gluon.jit
def in_bands(t, tiles_m, tiles_n, GROUP: gl.constexpr):
    """Tile number -> row tile, column tile. GROUP row tiles are walked together, so that L2 keeps what they share; 0: there
    is one row tile, and nothing to divide."""
    if GROUP == 0:
        return 0, t
    band = GROUP * tiles_n
    first = t // band * GROUP
    rows = gl.minimum(tiles_m - first, GROUP)
    rest = t % band
    return first + rest % rows, rest // rows


@gluon.jit
def aligned_start(first, i):
    """Column where `spread_scales` puts the scales of segment i, which begins at row `first`: TMA starts at 16 bytes."""
    return (first + 3 * i) // 4 * 4


@gluon.jit
def first_segment(groups_ptr, M, MODE: gl.constexpr):
    """State of the walk: segment, tiles before it, its first row, its rows."""
    if MODE == INDPTR:
        size = gl.minimum(gl.maximum(gl.load(groups_ptr), 0), M)
    else:
        size = M
    return 0, 0, 0, size


@gluon.jit
def to_tile(
    t, i, before, first, size, groups_ptr, G, M, tiles_n, MODE: gl.constexpr, SINGLE: gl.constexpr, BLOCK_M: gl.constexpr
):  # fmt: skip
    """Move the state of the walk to the segment of tile t; behind the last tile the segment is past the last one."""
    if MODE == INDPTR:
        count = (size + BLOCK_M - 1) // BLOCK_M * tiles_n
        while (t >= before + count) & (i <= G + 1):
            before += count
            i += 1
            first += size
            end = gl.load(groups_ptr + i, mask=i <= G, other=0)
            end = gl.minimum(gl.maximum(gl.where(i <= G, end, M), first), M)
            size = gl.where(i <= G + 1, end - first, 0)
            count = (size + BLOCK_M - 1) // BLOCK_M * tiles_n
    else:
        count = (M + BLOCK_M - 1) // BLOCK_M * tiles_n
        if SINGLE:
            i = gl.where(t < count, 0, 1)
        else:
            i = t // count
        before = i * count
        first = i * M
    return i, before, first, size


@gluon.jit
def segment_end(G, MODE: gl.constexpr):
    """Number of segments."""
    if MODE == INDPTR:
        return G + 2
    else:
        return G


@gluon.jit
def place(
    t, i, before, first, size, groups_ptr, G, tiles_n, MODE: gl.constexpr, GROUP: gl.constexpr, BLOCK_M: gl.constexpr
):  # fmt: skip
    """Tile t of segment i -> row of the operand, rows stored, rows that hold data, column tile, matrix of b."""
    tile_m, tile_n = in_bands(t - before, (size + BLOCK_M - 1) // BLOCK_M, tiles_n, GROUP)
    valid = size
    matrix = i
    if MODE == MASKED:
        valid = gl.minimum(gl.maximum(gl.load(groups_ptr + i), 0), size)
    if MODE == INDPTR:
        inside = (i >= 1) & (i <= G)
        valid = gl.where(inside, size, 0)
        matrix = gl.where(inside, i - 1, 0)
    local = tile_m * BLOCK_M
    return first + local, size - local, gl.maximum(valid - local, 0), tile_n, matrix


@gluon.jit
def next_tile(
    t, ticket, half, i, before, first, size, other_i, other_before, other_first, other_size, tickets, posted, taken, MODE: gl.constexpr,
):  # fmt: skip
    """The tile after t of this program, the number of the ticket behind it, and the states of both walks, first the one that goes on
    to it (`to_tile`). Ragged groups: what `draw` has posted."""
    if MODE == INDPTR:
        slot = ticket % 2
        mbarrier.wait(posted.index(slot), ticket // 2 & 1)
        LAYOUT: gl.constexpr = gl.BlockedLayout([1], [32], [gl.num_warps()], [0])
        t = gl.max(tickets.index(slot).load(LAYOUT), 0)
        mbarrier.arrive(taken.index(slot), count=1)
        now = t >> SECOND
        t = t & ((1 << SECOND) - 1)
        if now != half:
            i, other_i = other_i, i
            before, other_before = other_before, before
            first, other_first = other_first, first
            size, other_size = other_size, size
        return t, ticket + 1, now, i, before, first, size, other_i, other_before, other_first, other_size
    else:
        return (
            t + gl.num_programs(0), ticket, half, i, before, first, size, other_i, other_before, other_first, other_size,
        )  # fmt: skip


@gluon.jit
def drawn(c, programs, total, walks):
    """The tile of ticket c, and the walk that goes on to it. Every program has had a tile before; each walk has its share of the rest.
    Tickets behind the last tile get none."""
    share = gl.cdiv(gl.maximum(total - programs, 0), walks)
    return gl.where(c // walks < share, programs + c // walks + c % walks * share, total), c % walks


@gluon.jit
def draw(
    groups_ptr, counter_ptr, tickets, posted, taken, G, M, N, MODE: gl.constexpr, BLOCK_M: gl.constexpr, BLOCK_N: gl.constexpr,
):  # fmt: skip
    """One warp: draws this program's next tile of ragged groups while it works on the one before. Tiles cost what their rows
    cost, so whoever is done first takes the next; which program computes a tile does not change its bits.

    Of groups of MIXED_TO rows or fewer, on average, tickets take turns at two walks, behind the first tile of every program: over the
    first half of the rest and over the second. Tiles of large groups, which the tensor cores bind, so meet those of small ones,
    which memory binds; but tiles that share operands meet less often. A ticket's bit `SECOND` says which walk it belongs to.
    """
    if MODE == INDPTR:
        LAYOUT: gl.constexpr = gl.BlockedLayout([1], [32], [gl.num_warps()], [0])
        # behind the last tile the walk has passed them all
        i, before, first, size = first_segment(groups_ptr, M, MODE)
        _, total, _, _ = to_tile(
            1 << SECOND, i, before, first, size, groups_ptr, G, M, gl.cdiv(N, BLOCK_N), MODE, False, BLOCK_M
        )
        walks = gl.where(M <= MIXED_TO * G, 2, 1)
        t = gl.program_id(0)
        ticket = 0
        while t < total:
            slot = ticket % 2
            mbarrier.wait(taken.index(slot), (ticket // 2 & 1) ^ 1)
            c = gl.atomic_add(counter_ptr, 1, sem="relaxed", scope="gpu")
            t, second = drawn(c, gl.num_programs(0), total, walks)
            tickets.index(slot).store(gl.full([1], t + (second << SECOND), gl.int32, LAYOUT))
            mbarrier.arrive(posted.index(slot), count=1)
            ticket += 1
