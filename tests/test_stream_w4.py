"""The Hopper kernel for FP4 weights and few rows, without a GPU: its decoder, and launches up to the output, with every role of a
program. Shares of steps are in test_shares_w4.py.

That the elements lie in the right threads (`assert_trivial`) is for the compiler to say: tests/cross_compile and tests/gpu.
"""

import itertools

import pytest
import torch
from fragment_stand_ins import (
    NAMES,
    SHIFT,
    TYPES,
    draw,
    elements_of,
    language,
    same,
    scale_values,
    seeded,
    words_of,
)

from tritonfp4.config import Config
from tritonfp4.layouts import ceil_div
from tritonfp4.reference.encode import e2m1_decode

pytest.importorskip("triton.experimental.gluon")
from hopper_stand_ins import LANGUAGE, Shared
from hopper_w4_checks import FORMATS, TILED, Launches, check_output, inside, matrix_of, tokens_of

from tritonfp4.kernels.hopper import launch_w4, w4_stream
from tritonfp4.kernels.launch import INTERPRETED

#: Elements along K of a stage.
STEP = 128
ORDERED = pytest.mark.skipif(not INTERPRETED, reason="activations are ordered in the interpreter")

# ---- weights ----

DECODE = language(w4_stream, LANGUAGE)


def check(words, codes, fmt, compute):
    """Words [rows, 16] with scale codes [rows, 8 or 4], between other ones, by their names in a fragment: e2m1 * scale * shift."""
    groups, kind = len(words) // 64, (torch.int16, 8) if fmt == "nvfp4" else (torch.uint8, 16)
    tiles = TILED.from_linear(codes).view(kind[0]).view(groups // 2, -1, 32, kind[1])
    w_ring, s_ring = (torch.stack((x.flip(0), x, ~x)) for x in (words, tiles))
    scales = scale_values(fmt, codes).repeat_interleave(FORMATS[fmt].vec, -1)
    exact = (e2m1_decode(elements_of(words).flatten(1)).double() * scales * SHIFT[fmt, compute])[:, NAMES]
    for group, rows in enumerate(exact.split(64)):
        got = DECODE._weights(Shared(w_ring), Shared(s_ring), 1, fmt, compute, group, groups, None)
        for half, columns in zip(got, rows.split(64, 1), strict=True):
            assert half.dtype == TYPES[compute] and half.shape == (64, 64)
            same(half.as_subclass(torch.Tensor).double(), columns, TYPES[compute])


@pytest.mark.parametrize("rows", [128, 256])
@pytest.mark.parametrize("fmt, compute", SHIFT)
def test_weights_are_those_of_their_rows_and_columns(fmt, compute, rows):
    """Random words and scales, NaN among them."""
    generator = seeded(fmt, compute, rows)
    for _ in range(10):
        words = words_of(draw(generator, rows, 16, 8, high=16))
        check(words, draw(generator, rows, STEP // FORMATS[fmt].vec), fmt, compute)


@pytest.mark.parametrize("fmt, compute", SHIFT)
def test_every_scale_in_every_place(fmt, compute):
    """Beside any other one."""
    generator, count = seeded(fmt, compute), STEP // FORMATS[fmt].vec
    for column in range(count):
        codes = draw(generator, 256, count)
        codes[:, column] = torch.arange(256)
        check(words_of(draw(generator, 256, 16, 8, high=16)), codes, fmt, compute)


# ---- the launch, to the output ----


@pytest.fixture
def emulated(monkeypatch):
    return Launches(monkeypatch)


def tile(rows, tokens, stages, shares):
    return Config("stream_w4", rows, STEP, tokens, 20, stages, swap=True, shares=shares)


def multiply(emulated, x, w, want, config, sms=4, late=False, **options):
    """The launcher into an output full of NaN. Returns whether tiles were cut."""
    memory, out = inside(*want.shape, **options)
    emulated(memory, sms, late)
    launch_w4.stream_w4_hopper(x, w, out, config)
    check_output(memory, out, want)
    return emulated.finish.launches == 1


@ORDERED
@pytest.mark.parametrize("fmt, compute", SHIFT)
@pytest.mark.parametrize("shares", [False, True])
@pytest.mark.parametrize("rows, tokens", list(itertools.product((128, 256), (16, 32, 64))))
def test_products(emulated, rows, tokens, shares, fmt, compute):
    """Rows and columns that no tile divides, K that no two steps do; fewer stages than steps, and more."""
    generator = seeded(rows, tokens, shares, fmt, compute)
    small = (list(SHIFT).index((fmt, compute)) + tokens // 32 + shares) % 2
    m, n, k, stages = (tokens + 5, 8, 512, 8) if small else (tokens - 3, rows + 8, 384, 3 if rows == 256 else 2)
    w, values = matrix_of(generator, n, k, fmt)
    x = tokens_of(generator, m, k, dtype=TYPES[compute])
    # two tiles of 3 or 4 steps each, on 4 SMs
    assert multiply(emulated, x, w, x.double() @ values.mT, tile(rows, tokens, stages, shares)) == shares


@ORDERED
@pytest.mark.parametrize("late", [False, True])
@pytest.mark.parametrize("rows, stages", [(128, 2), (128, 4), (128, 6), (256, 2), (256, 3), (256, 5)])
@pytest.mark.parametrize("m, n, k, sms", [(5, 520, 640, 2), (20, 264, 256, 8), (1, 256, 1024, 5), (33, 128, 128, 1)])
def test_stages_are_filled_again_behind_their_use(emulated, m, n, k, sms, rows, stages, late):
    """Several tiles a program, tiles in several parts, one step of one tile."""
    generator = seeded(m, n, rows)
    w, values = matrix_of(generator, n, k, "mxfp4")
    x = tokens_of(generator, m, k, dtype=torch.bfloat16)
    steps = ceil_div(k, 128) if rows == 256 else ceil_div(k, 256) * 2
    tiles = ceil_div(n, rows) * ceil_div(m, 16)
    cut = multiply(emulated, x, w, x.double() @ values.mT, tile(rows, 16, stages, True), sms, late)
    assert cut == (ceil_div(tiles * steps, 2 * sms) * 2 % steps > 0)


@ORDERED
@pytest.mark.parametrize("shares", [False, True])
@pytest.mark.parametrize("per", ["tensor", "row"])
@pytest.mark.parametrize("rows", [128, 256])
def test_global_scales_of_weights(emulated, rows, per, shares):
    generator, m, n, k = seeded(per), 20, 2 * rows + 8, 512
    w, values = matrix_of(generator, n, k, "nvfp4", per)
    x = tokens_of(generator, m, k, dtype=torch.float16)
    want = x.double() @ values.mT * 2.0**-8  # or fp16 would not hold it
    w.global_scale.mul_(2.0**-8)
    assert multiply(emulated, x, w, want, tile(rows, 32, 4, shares), 2, dtype=torch.float16) == shares


@ORDERED
@pytest.mark.parametrize("shares", [False, True])
@pytest.mark.parametrize("a, b", [("nvfp4", "nvfp4"), ("mxfp4", "mxfp4"), ("nvfp4", "mxfp4"), ("mxfp4", "nvfp4")])
@pytest.mark.parametrize("per", ["tensor", "row"])
def test_fp4_activations(emulated, per, a, b, shares):
    """With global scales of their own."""
    generator, m, n, k = seeded(a, b, per), 21, 136, 512
    x, tokens = matrix_of(generator, m, k, a, per)
    w, values = matrix_of(generator, n, k, b)
    assert multiply(emulated, x, w, tokens @ values.mT, tile(128, 16, 4, shares), 3) == shares


@ORDERED
def test_nan_stays_in_its_row_and_column(emulated):
    """Also of a tile in parts."""
    generator, m, n, k = seeded("nan"), 9, 136, 512
    w, values = matrix_of(generator, n, k, "nvfp4")
    x = tokens_of(generator, m, k, dtype=torch.bfloat16)
    x[8, 300] = float("nan")
    w.scales[TILED.offset(torch.tensor(135), torch.tensor(9), k // 16)] = 0x7F
    memory, out = inside(m, n)
    emulated(memory)
    launch_w4.stream_w4_hopper(x, w, out, tile(128, 16, 4, True))
    assert emulated.finish.launches
    assert out[8].isnan().all() and out[:, 135].isnan().all()
    assert torch.equal(out[:8, :135], (x[:8].double() @ values[:135].mT).to(out.dtype))
