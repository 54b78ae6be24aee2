"""FP8 and MXFP8 kernels in the interpreter: byte for byte the reference, scales with their padding and strides."""

import pytest
import torch
import triton
import triton.language as tl
from fp8_checks import (
    FP8_RULES,
    MX_RULES,
    OPS,
    check_dequantize,
    check_fp8,
    check_mxfp8,
    every_binade,
    random_operand,
    same,
    spread,
)
from kernel_checks import DTYPES, special, views, wide
from test_encode_reference import E4M3, around, every_bf16
from test_fp8 import E5M2

from tritonfp4 import SfLayout, reference
from tritonfp4.config import Config
from tritonfp4.formats import FORMATS
from tritonfp4.kernels import quantize_fp8 as kernels
from tritonfp4.kernels.encode import e4m3_encode_signed, e5m2_encode_signed
from tritonfp4.kernels.quantize_fp8 import quantize_fp8, quantize_mxfp8
from tritonfp4.reference.encode import e4m3_encode, e5m2_encode


@triton.jit
def encode_kernel(x_ptr, e4m3_ptr, e5m2_ptr, n, BLOCK: tl.constexpr):
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    x = tl.load(x_ptr + i, mask=i < n)
    tl.store(e4m3_ptr + i, e4m3_encode_signed(x).to(tl.uint8), mask=i < n)
    tl.store(e5m2_ptr + i, e5m2_encode_signed(x).to(tl.uint8), mask=i < n)


def test_encoders_of_every_bf16_every_code_and_every_tie():
    """The reference is held to independent oracles in test_fp8.py and test_encode_reference.py."""
    tables = [torch.from_numpy(t) for t in (E4M3, E5M2)]
    ties = torch.cat([(t[1:] + t[:-1]) / 2 for t in tables])
    points = torch.cat([*tables, ties, torch.tensor([464.0, 61440.0, 65536.0])])
    x = torch.cat([every_bf16(), torch.from_numpy(around(torch.cat([points, -points]).numpy()))])
    got = torch.empty((2, x.numel()), dtype=torch.uint8)
    encode_kernel[(4,)](x, got[0], got[1], x.numel(), BLOCK=32768)
    assert torch.equal(got[0], e4m3_encode(x)) and torch.equal(got[1], e5m2_encode(x))


@pytest.mark.parametrize("layout", SfLayout)
@pytest.mark.parametrize("format, rule", MX_RULES)
def test_mxfp8_bytes_equal_the_reference(format, rule, layout):
    for dtype, (rows, cols, alignment) in zip(DTYPES, ((1, 32, 32), (130, 96, 64), (17, 320, 512)), strict=True):
        check_mxfp8("cpu", wide(rows, cols).to(dtype), format, rule, layout, alignment, False)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("format, rule", MX_RULES)
def test_mxfp8_special_values(format, rule, dtype):
    x = torch.cat([special(5, 96, 32), torch.cat([every_binade(32)[i::3][:461] for i in range(3)], 1)])
    check_mxfp8("cpu", x.to(dtype), format, rule, SfLayout.layout_128x4, 32, False)


@pytest.mark.parametrize("layout", SfLayout)
def test_mxfp8_of_every_matrix(layout):
    """3-D inputs of any strides, each matrix with scales and padding of its own."""
    for x in (wide(3 * 130, 64).view(3, 130, 64), wide(3 * 9, 64).view(9, 3, 64).transpose(0, 1)):
        check_mxfp8("cpu", x.bfloat16(), "mxfp8", "static_6", layout, 96, True)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_strides_never_change_meaning(dtype):
    for _, x in views(17, 96, dtype):
        check_mxfp8("cpu", x, "mxfp8", "static_6", SfLayout.layout_8x4, 32, False)
        check_fp8("cpu", x, "e4m3", [1, 128], "internal", 0.0, False, 0)
        check_fp8("cpu", x, "e4m3", [128, 128], "amax", 1e-4, True, 1)


@pytest.mark.parametrize("element", ["e4m3", "e5m2", "int8"])
@pytest.mark.parametrize("block", [(1, 128), (128, 128), (1, 48), (24, 5), (1, 16)], ids=str)
def test_fp8_bytes_equal_the_reference(block, element):
    for i, (dtype, (rows, cols)) in enumerate(zip(DTYPES, ((1, 129), (133, 160), (17, 320)), strict=True)):
        x = wide(rows, cols).to(dtype)
        check_fp8("cpu", x, element, list(block), FP8_RULES[i], 1e-4, i == 1, (0, 4, 1)[i])
        check_fp8("cpu", x, element, list(block), FP8_RULES[i - 1], 0.0, i != 1, (4, 1, 0)[i])


@pytest.mark.parametrize("pow2", [False, True])
@pytest.mark.parametrize("rule", FP8_RULES)
@pytest.mark.parametrize("element", ["e4m3", "int8"])
def test_fp8_special_values(element, rule, pow2):
    """NaN, infinities, zeros, subnormals, every binade; without eps, which would hide the small ones."""
    x = torch.cat([special(5, 128, 64), every_binade(128)])
    for eps in (0.0, 1e-4):
        check_fp8("cpu", x, element, [1, 128], rule, eps, pow2, 0)
        check_fp8("cpu", x[::4].bfloat16(), element, [16, 128], rule, eps, pow2, 1)


def test_bytes_do_not_depend_on_the_tiling():
    x = wide(133, 160).bfloat16()
    want = reference.quantize_mxfp8(x[None], FORMATS["mxfp8"], "static_6", SfLayout.layout_128x4, 160)
    blocks = ([1, 128], [128, 128], [1, 80], [7, 20])
    wants = [reference.quantize_fp8(x, "e4m3", block, "internal", 0.0, False, 4) for block in blocks]
    for rows, cols in ((64, 64), (256, 512)):
        config = Config("quantize", block_m=rows, block_k=cols)
        got = quantize_mxfp8(x[None], FORMATS["mxfp8"], "static_6", SfLayout.layout_128x4, 160, config)
        assert all(same(g, w) for g, w in zip(got, want, strict=True))
        for block, pair in zip(blocks, wants, strict=True):
            got = quantize_fp8(x, "e4m3", block, "internal", 0.0, False, 4, config)
            assert all(same(g, w) for g, w in zip(got, pair, strict=True)), block


def test_rows_spread_over_40_binades():
    x = spread(81, 256)
    check_mxfp8("cpu", x, "mxfp8", "static_6", SfLayout.layout_128x4, 32, False)
    check_fp8("cpu", x, "e4m3", [1, 128], "internal", 0.0, False, 0)
    values, scales = OPS.quantize_fp8(x, "e4m3", [1, 128], "internal", 0.0, False, 0, "triton")
    assert scales.max() / scales.min() > 2.0**38
    decoded = values.view(torch.float8_e4m3fn).float().unflatten(1, (2, 128)) * scales[..., None]
    assert ((decoded.flatten(1) - x).norm(dim=1) / x.norm(dim=1)).max() < 0.04


def test_large_blocks():
    """Many rows are read piece by piece; blocks too wide for the registers of a program run the reference."""
    check_fp8("cpu", wide(600, 130), "e4m3", [600, 130], "amax", 1e-4, False, 0)
    check_fp8("cpu", wide(3, 16500), "e4m3", [1, 16384], "amax", 1e-4, False, 0)
    check_fp8("cpu", wide(3, 16500), "e4m3", [1, 16500], "amax", 1e-4, False, 0)


@pytest.mark.parametrize("block", [[1, 65], [4, 65]], ids=str)
def test_more_tiles_of_columns_than_a_grid_has(block, monkeypatch):
    """Groups that are no power of two take up to twice as many tiles as K has."""
    grids = []

    class Kernel:
        def __init__(self, kernel):
            self.kernel = kernel

        def __getitem__(self, grid):
            grids.append(grid)
            return self.kernel[grid]

    monkeypatch.setattr(kernels, "GRID_COLUMNS", 3)
    for name in ("fp8_rows_kernel", "fp8_tiles_kernel"):
        monkeypatch.setattr(kernels, name, Kernel(getattr(kernels, name)))
    x = wide(5, 40 * 65)
    want = reference.quantize_fp8(x, "e4m3", tuple(block), "amax", 1e-4, False, 0)
    got = quantize_fp8(x, "e4m3", tuple(block), "amax", 1e-4, False, 0, Config("quantize", 32, 128))
    assert all(same(g, w) for g, w in zip(got, want, strict=True))
    assert len(grids) == 1 and grids[0][1] <= 3


@pytest.mark.parametrize("name", FORMATS)
def test_dequantize_every_format(name):
    fmt = FORMATS[name]
    for i, layout in enumerate(SfLayout if fmt.scale in ("e4m3", "e8m0") else [SfLayout.layout_linear]):
        check_dequantize("cpu", random_operand(name, (130,), 320, layout, False), DTYPES[i])
        check_dequantize("cpu", random_operand(name, (3, 40), 64, layout, False, 120), DTYPES[i - 1])
        check_dequantize("cpu", random_operand(name, (3, 40), 64, layout, True, 3), DTYPES[i - 2])
        check_dequantize("cpu", random_operand(name, (2, 130), 160, layout, True, 1), torch.float32)


@pytest.mark.parametrize("name", ["fp8_1x128", "fp8_128x128", "fp8"])
def test_dequantize_ragged_columns(name):
    for k in (1, 127, 129, 200):
        check_dequantize("cpu", random_operand(name, (5,), k, SfLayout.layout_linear, False), torch.float32)
