"""The Hopper kernel for FP4 weights, without a GPU: the decoder's PTX in an emulator, the roles of a program taking turns.

That the elements lie in the right threads (`assert_trivial`) is for the compiler to say: tests/cross_compile and tests/gpu.
"""

import types

import pytest
import torch
from fragment_stand_ins import (
    SHIFT,
    TYPES,
    draw,
    elements_of,
    language,
    registers,
    same,
    scale_values,
    seeded,
    words_of,
)

import tritonfp4 as T
from tritonfp4.config import Config
from tritonfp4.layouts import ceil_div
from tritonfp4.reference.encode import e2m1_decode

pytest.importorskip("triton.experimental.gluon")
from hopper_stand_ins import LANGUAGE, MBARRIER, Barriers, Pending, Pointer, Shared, run_program
from hopper_w4_checks import (
    FORMATS,
    NO_TMA,
    TILED,
    Launches,
    Slot,
    bring,
    check_output,
    inside,
    matrix_of,
    tokens_of,
    weights_of,
)

from tritonfp4.kernels.hopper import launch_w4, w4, w4_decode
from tritonfp4.kernels.launch import INTERPRETED

#: Elements along K of a stage, rows of the weights of a tile.
STEP, ROWS = 64, 128


# ---- weights ----

#: What was waited for.
WAITED = []
DECODE = language(w4_decode, LANGUAGE, mbarrier=types.SimpleNamespace(wait=lambda *which: WAITED.append(which)))


def tile_of(codes):
    """Scale codes of 128 rows of the weights [128, 4], as a tile lies in memory."""
    return TILED.from_linear(codes).view(torch.int32).view(32, 4)


def check(words, codes, half, fmt, compute):
    """Words [128, 8] with scale codes [128, 4], between other ones, in their own order: e2m1 * scale * shift."""
    noise = draw(seeded(fmt), 3, 128, 8 * 4).view(torch.int32), draw(seeded(compute), 3, 32, 4 * 4).view(torch.int32)
    noise[0][1], noise[1][1] = words, tile_of(codes)
    vec = FORMATS[fmt].vec
    scales = scale_values(fmt, codes).repeat_interleave(vec, -1)[:, half * STEP % (4 * vec) :][:, :STEP]
    exact = e2m1_decode(elements_of(words).flatten(1)).double() * scales * SHIFT[fmt, compute]
    for me, rows in enumerate(exact.split(64)):
        got = DECODE.weights(*map(Shared, noise), Barriers("abc"), 1, 5, me, half, fmt, compute, None)
        assert got.dtype == TYPES[compute] and got.shape == (64, STEP)
        same(got.as_subclass(torch.Tensor).double(), rows, TYPES[compute])


def test_weights_wait_for_their_stage():
    """Of the ring, with its phase, before and behind decoding."""
    WAITED.clear()
    check(torch.zeros(128, 8, dtype=torch.int32), torch.zeros(128, 4, dtype=torch.uint8), 0, "nvfp4", "bf16")
    assert WAITED == [("b", 5)] * 4


CASES = [(*key, half) for key in SHIFT for half in (0, 1)]


@pytest.mark.parametrize("others", [0, 15])
@pytest.mark.parametrize("fmt, compute, half", CASES)
def test_every_element_in_every_place_with_every_scale(fmt, compute, half, others):
    """One to a word, elsewhere in every word of a row; the word's others are zero, or all their bits are set."""
    row, word, column = torch.arange(256)[:, None], torch.arange(8), torch.arange(4)
    places, codes = (row + word) % 8, ((row + 72 * column) % 256).byte()
    used = codes.repeat_interleave(2, -1) if fmt == "nvfp4" else codes[:, 2 * half :][:, :2].repeat_interleave(4, -1)
    assert len((places * 256 + used).unique()) == 8 * 256
    for element in range(16):
        elements = torch.full((256, 8, 8), others, dtype=torch.uint8)
        elements[row, word, places] = element
        for part in (slice(128), slice(128, 256)):
            check(words_of(elements[part]), codes[part], half, fmt, compute)


@pytest.mark.parametrize("fmt, compute, half", CASES)
def test_neighbours_do_not_reach_each_other(fmt, compute, half):
    """Random words and scales."""
    generator = seeded(fmt, compute, half)
    for _ in range(40):
        check(words_of(draw(generator, 128, 8, 8, high=16)), draw(generator, 128, 4), half, fmt, compute)


@pytest.mark.parametrize("fmt, compute, half", CASES)
def test_every_scale_in_every_place(fmt, compute, half):
    """Four codes of a row as the scales of its eight words, twice: what is left of the shift."""
    codes = torch.arange(256, dtype=torch.uint8)[:, None].repeat(1, 4)
    codes = torch.cat((codes, draw(seeded(fmt), 4096, 4)))
    packed = registers(codes.view(torch.int32))
    got = DECODE._scales(packed, half, fmt, compute, None).as_subclass(torch.Tensor)
    assert got.shape == (len(codes), 8)
    low, high = (part.short().view(TYPES[compute]).double() for part in (got & 0xFFFF, got >> 16))
    # decoding by position leaves 2^-126 or 2^-14, of which 2^126 is made up for MXFP4 behind the scale
    left = SHIFT[fmt, compute] / {"nvfp4": {"bf16": 2.0**-126, "fp16": 2.0**-14}, "mxfp4": {"bf16": 1.0}}[fmt][compute]
    mine = codes.repeat_interleave(2, -1) if fmt == "nvfp4" else codes[:, 2 * half :][:, :2].repeat_interleave(4, -1)
    for x in (low, high):
        same(x, scale_values(fmt, mine) * left, TYPES[compute])


# ---- the roles of a program ----


# ---- which memory is multiplied ----


def walked(mode, groups, count, rows, n, k, fmt, stages, tokens, band, programs, late):
    """Of every tile of both warpgroups: where it is written, and what is multiplied for it."""
    sizes = {"x": tokens * STEP * 2, "w": ROWS * STEP // 2, "s": ROWS * 4}
    x, w, s = (types.SimpleNamespace(bytes=size, dtype=torch.uint8, layout=None) for size in sizes.values())
    out = types.SimpleNamespace(dtype=torch.uint8, layout=None)
    vec, tiles = FORMATS[fmt].vec, []

    def weights(w_ring, s_ring, full, stage, phase, me, half, format, compute, layout):
        assert format == fmt
        MBARRIER.wait(full.index(stage), phase)
        return w_ring.index(stage).coordinates(w), s_ring.index(stage).coordinates(s), me, half

    def write(acc, tile, desc, x_global, w_global, row, column, bound, valid, matrix, *rest):
        tiles.append((acc if isinstance(acc, list) else [], row, column, bound, valid, matrix))

    def mma(left, right, acc, is_async):
        before = acc if isinstance(acc, list) else []
        return Pending(lambda: [*before, (*left, right.coordinates(x))])

    constants = (mode, count == 1, fmt, "bf16", False, "", 1.0, stages, tokens, band, False)
    sizes = (count, 0, 0, rows, n, k, k // vec // 4)
    args = (x, w, s, out, None, None, Pointer(torch.tensor(groups)), None, *sizes, *constants)
    for pid in range(programs):
        run_program(
            w4.matmul_w4_hopper_kernel, pid, programs, lambda dtype, shape: Barriers(Slot() for _ in range(shape[0])), args, bring,
            late, _write=write, weights=weights, warpgroup_mma=mma, tma=NO_TMA,
        )  # fmt: skip
    return tiles


def check_walk(owner, count, n, k, fmt, tokens, tiles):
    """Every row and 64 columns of the output once, each from rows and columns of one place; owner: of each row, or -1."""
    vec, seen = FORMATS[fmt].vec, {}
    cols = k // vec
    for products, row, column, bound, valid, matrix in tiles:
        me, first = column // 64 % 2, column // ROWS * ROWS
        for r in range(row, row + min(bound, tokens)):
            assert (r, column) not in seen
            seen[r, column] = matrix if r - row < valid else -1
        want = []
        for at in range(0, k if valid > 0 else 0, STEP):
            r, c = torch.arange(first, min(n, first + ROWS))[:, None], torch.arange(at // vec, (at + STEP) // vec)
            (tile,) = ((matrix * TILED.numel(n, cols) + TILED.offset(r, c, cols)) // 512).unique().tolist()
            half = at // STEP % 2  # NVFP4 ignores it
            if fmt == "mxfp4":
                assert (c % 4).tolist() == [2 * half, 2 * half + 1]
            want.append(((matrix * n + first, at // 8), (tile * 32, 0), me, half, (row, at)))
        assert products == want
    columns = range(0, ceil_div(n, ROWS) * ROWS, 64)
    assert seen == {(r, column): g for r, g in enumerate(owner) for column in columns}


@pytest.mark.parametrize("fmt", FORMATS)
@pytest.mark.parametrize("n", [8, 128, 200, 264])
@pytest.mark.parametrize("mode", [0, 1])
@pytest.mark.parametrize("late", [False, True])
def test_both_sides_walk_batches_alike(late, mode, n, fmt):
    generator = seeded(mode, n, fmt)
    for count, rows, k, stages, tokens, band, programs in (
        (1, 1, 128, 2, 64, 8, 1), (1, 300, 384, 3, 64, 2, 5), (3, 40, 640, 4, 64, 8, 2), (4, 300, 256, 5, 128, 8, 4),
        (2, 257, 1152, 14, 256, 8, 3),
    ):  # fmt: skip
        counts = [(0, 3, rows, 2**31 - 1, -5, 65)[i] for i in torch.randint(6, (count,), generator=generator)]
        tiles = walked(mode, counts, count, rows, n, k, fmt, stages, tokens, band, programs, late)
        held = [min(max(size, 0), rows) if mode else rows for size in counts]
        owner = [g if r < held[g] else -1 for g in range(count) for r in range(rows)]
        check_walk(owner, count, n, k, fmt, tokens, tiles)


@pytest.mark.parametrize("fmt", FORMATS)
@pytest.mark.parametrize("n", [8, 128, 200, 264])
@pytest.mark.parametrize("late", [False, True])
def test_both_sides_walk_ragged_groups_alike(late, n, fmt):
    """Empty groups, rows before and behind them."""
    for sizes, before, after, k, stages, tokens, band, programs in (
        ((5,), 0, 0, 128, 2, 64, 8, 1), ((3, 0, 140, 1, 64), 2, 70, 384, 3, 64, 2, 5), ((0, 0, 200), 65, 0, 256, 5, 128, 8, 4),
        ((1,) * 9, 0, 3, 640, 8, 64, 8, 2),
    ):  # fmt: skip
        groups = [before + sum(sizes[:g]) for g in range(len(sizes) + 1)]
        owner = [-1] * before + [g for g, size in enumerate(sizes) for _ in range(size)] + [-1] * after
        tiles = walked(2, groups, len(sizes), len(owner), n, k, fmt, stages, tokens, band, programs, late)
        # of rows of no group none is multiplied, whatever their matrix
        check_walk(owner, len(sizes), n, k, fmt, tokens, tiles)


# ---- the launch, to the output ----


@pytest.fixture
def emulated(monkeypatch):
    return Launches(monkeypatch)


def tile(tokens, stages):
    return Config("hopper_w4", 128, 64, tokens, 12, stages, 8, swap=True)


@pytest.mark.parametrize("fmt, compute", SHIFT)
@pytest.mark.parametrize("per", ["", "tensor", "row"])
def test_products(emulated, fmt, compute, per):
    """Dense: more rows than a tile, columns that no tile divides; global scales of the weights."""
    generator = seeded(fmt, compute, per)
    for m, n, k, tokens, stages in ((70, 136, 384, 64, 3), (1, 8, 128, 64, 2), (150, 264, 256, 128, 5)):
        w, values = matrix_of(generator, n, k, fmt, per)
        x = tokens_of(generator, m, k, dtype=TYPES[compute])
        memory, out = inside(m, n)
        emulated(memory)
        launch_w4.matmul_w4_hopper(x, w, out, tile(tokens, stages))
        check_output(memory, out, x.double() @ values.mT)


@pytest.mark.skipif(not INTERPRETED, reason="activations are decoded in the interpreter")
@pytest.mark.parametrize("a, b", [("nvfp4", "nvfp4"), ("mxfp4", "mxfp4"), ("nvfp4", "mxfp4"), ("mxfp4", "nvfp4")])
@pytest.mark.parametrize("per_row", [False, True])
def test_products_of_fp4_activations(emulated, a, b, per_row):
    """With global scales of their own."""
    generator, m, n, k = seeded(a, b, per_row), 70, 136, 256
    x, tokens = weights_of(generator, 1, m, k, a, None)
    scale = 2.0 ** torch.randint(-3, 4, (m,), generator=generator) if per_row else torch.tensor([0.25])
    x = T.BlockScaledTensor(x.values[0], x.scales, scale, x.format, x.layout, (m, k))
    w, values = matrix_of(generator, n, k, b)
    memory, out = inside(m, n)
    emulated(memory)
    launch_w4.matmul_w4_hopper(x, w, out, tile(64, 4))
    check_output(memory, out, tokens[0] @ values.mT * scale[:, None])


@pytest.mark.parametrize("fmt, compute", SHIFT)
@pytest.mark.parametrize("mode", ["batch", "masked"])
def test_products_of_batches(emulated, mode, fmt, compute):
    generator = seeded(fmt, compute, mode)
    count, m, n, k, held = 3, 70, 136, 256, (3, 0, 66)
    w, values = weights_of(generator, count, n, k, fmt, torch.tensor([1.0, 2.0, 0.25]))
    x = tokens_of(generator, count, m, k, dtype=TYPES[compute])
    want = x.double() @ values.mT * w.global_scale[:, None, None]
    groups = None
    if mode == "masked":
        groups = torch.tensor(held, dtype=torch.int32)
        for g, size in enumerate(held):
            x[g, size:], want[g, size:] = float("nan"), 0
    memory, out = inside(count, m, n)
    emulated(memory)
    launch_w4.grouped_w4_hopper(x, w, groups, mode, out, tile(64, 4))
    check_output(memory, out, want)


@pytest.mark.parametrize("fmt, compute", SHIFT)
def test_products_of_ragged_groups(emulated, fmt, compute):
    generator = seeded(fmt, compute)
    sizes, before, after, n, k = (3, 0, 70, 1), 2, 5, 200, 384
    w, values = weights_of(generator, len(sizes), n, k, fmt, None)
    offsets = [before + sum(sizes[:g]) for g in range(len(sizes) + 1)]
    x = tokens_of(generator, offsets[-1] + after, k, dtype=TYPES[compute])
    x[:before], x[offsets[-1] :] = float("nan"), float("nan")
    want = torch.zeros(len(x), n, dtype=torch.float64)
    for start, end, matrix in zip(offsets, offsets[1:], values, strict=False):
        want[start:end] = x[start:end].double() @ matrix.mT
    memory, out = inside(len(x), n)
    emulated(memory)
    launch_w4.grouped_w4_hopper(x, w, torch.tensor(offsets, dtype=torch.int32), "indptr", out, tile(64, 3))
    check_output(memory, out, want)
