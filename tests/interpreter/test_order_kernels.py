"""Activations brought into the order of the MMA, in the interpreter: every element in its place, zeros everywhere else."""

import types

import pytest
import torch
from fragment_stand_ins import SHIFT, TYPES, draw, scale_values, seeded

import tritonfp4 as T
from tritonfp4 import SfLayout
from tritonfp4.kernels.fragments import order as module
from tritonfp4.layouts import LAYOUTS
from tritonfp4.reference.encode import e2m1_decode, unpack

FORMATS = {"nvfp4": T.NVFP4, "mxfp4": T.MXFP4}
#: (rows, columns, of which are read, rows of a tile): rows that fill a tile, or not; K of less than a chunk, of chunks, and others.
SIZES = [(8, 128, 128, 8), (1, 96, 32, 8), (13, 352, 352, 16), (33, 288, 256, 32), (17, 448, 416, 64)]


@pytest.fixture(autouse=True)
def memory(monkeypatch):
    """New tensors are full of NaN."""
    full = {"empty": lambda shape, dtype, device: torch.full(shape, float("nan"), dtype=dtype)}
    monkeypatch.setattr(module, "torch", types.SimpleNamespace(**vars(torch) | full))


def ordered(values, tokens, columns):
    """Rows [M, K] in float64 as `order` lays them out. Of a chunk of 128, thread t holds element p + 4 h of its word i."""
    m, k = values.shape
    rows, chunks = -(-m // tokens) * tokens, -(-k // 128)
    r, at = torch.arange(m)[:, None], torch.arange(k)
    chunk, t, i, h, p = at // 128, at // 32 % 4, at // 8 % 4, at // 4 % 2, at % 4
    if columns:
        place = (r * chunks + chunk) * 128 + ((i * 4 + p) * 4 + t) * 2 + h
    else:
        place = ((r // 8 * chunks + chunk) * 4 + i) * 256 + r % 8 * 32 + (t * 4 + p) * 2 + h
    out = torch.zeros(rows * chunks * 128, dtype=torch.float64)
    out[place] = values
    return out.view(rows, chunks * 128)


def check(got, want, factor):
    """Bit for bit, NaN where it is expected, and there alone."""
    assert got.shape == want.shape and torch.equal(got.isnan(), want.isnan())
    assert torch.equal((got.double() * factor).nan_to_num(), want.nan_to_num())


@pytest.mark.parametrize("m, width, k, tokens", SIZES)
@pytest.mark.parametrize("compute", TYPES)
@pytest.mark.parametrize("columns", [False, True])
def test_16_bit_rows(columns, compute, m, width, k, tokens):
    """Of a wider buffer full of NaN, which is not read, as are the columns behind K."""
    x = torch.full((m + 2, width + 32), float("nan"), dtype=TYPES[compute])[:m, 16:-16]
    x[:, :k] = torch.arange(m * k).view(m, k) % 251 + 1
    got, factor = module.order(x, compute, k, tokens, False, columns)
    assert got.dtype == TYPES[compute] and factor == 1
    check(got, ordered(x[:, :k].double(), tokens, columns), factor)


def fp4(m, width, fmt, layout, codes):
    """Rows with these scale codes, NaN in all that belong to none of them, and their values."""
    values = draw(seeded(m, width, fmt), m, width // 2)
    kind, vec = LAYOUTS[layout], FORMATS[fmt].vec
    padded = torch.full(kind.storage_shape(m, width // vec), 0x7F if fmt == "nvfp4" else 0xFF, dtype=torch.uint8)
    padded[:m, : width // vec] = codes
    x = T.BlockScaledTensor(values, kind.from_linear(padded), torch.tensor([3.0]), FORMATS[fmt], layout, (m, width))
    return x, e2m1_decode(unpack(values)).double() * scale_values(fmt, codes).repeat_interleave(vec, -1)


@pytest.mark.parametrize("m, width, k, tokens", SIZES)
@pytest.mark.parametrize("layout", SfLayout)
@pytest.mark.parametrize("fmt, compute", SHIFT)
@pytest.mark.parametrize("columns", [False, True])
def test_fp4_rows(columns, fmt, compute, layout, m, width, k, tokens):
    """Without their global scale, times the factor; the scales behind K are NaN."""
    vec = FORMATS[fmt].vec
    codes = draw(seeded(fmt, m), m, width // vec, high=127 if fmt == "nvfp4" else 255)
    codes[:, k // vec :] = 0x7F if fmt == "nvfp4" else 0xFF
    x, values = fp4(m, width, fmt, layout, codes)
    got, factor = module.order(x, compute, k, tokens, False, columns)
    assert got.dtype == TYPES[compute]
    check(got, ordered(values[:, :k], tokens, columns), factor)


@pytest.mark.parametrize("fmt, compute", SHIFT)
def test_every_scale(fmt, compute):
    """Of FP4 rows: exact, subnormal and largest ones, and NaN for NaN."""
    codes = torch.arange(256, dtype=torch.uint8).view(8, -1)
    x, values = fp4(8, 32 * FORMATS[fmt].vec, fmt, SfLayout.layout_linear, codes)
    got, factor = module.order(x, compute, x.shape[1], 8, False, True)
    check(got, ordered(values, 8, True), factor)


def test_rows_of_values_that_are_far_apart():
    """As of a part of a wider buffer."""
    x, values = fp4(9, 96, "nvfp4", SfLayout.layout_linear, torch.full((9, 6), 0x38, dtype=torch.uint8))
    wide = torch.full((9, 112), 255, dtype=torch.uint8)
    wide[:, 16:64] = x.values
    x = T.BlockScaledTensor(wide[:, 16:64], x.scales, None, x.format, x.layout, x.shape)
    got, factor = module.order(x, "bf16", 96, 16, False)
    check(got, ordered(values, 16, False), factor)
