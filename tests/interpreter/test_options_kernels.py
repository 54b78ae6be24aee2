"""The options of the quantizers in the interpreter: byte for byte the reference, padding included."""

import pytest
import torch
from kernel_checks import DTYPES, FORMAT_RULES, check_quantize, same_bytes, special, views, wide
from options_checks import (
    COMBINATIONS,
    SEED,
    STOCHASTIC,
    check_e4m3,
    check_fouroversix,
    check_global_scales_with_noise,
    check_noise_stays_with_its_element,
    check_rotate,
    every_e4m3,
)

import tritonfp4 as T
from tritonfp4 import SfLayout, reference
from tritonfp4.config import Config
from tritonfp4.formats import FORMATS
from tritonfp4.kernels.quantize import quantize as launcher
from tritonfp4.kernels.rotate import rotate as rotate_launcher

LAYOUTS = list(SfLayout)


@pytest.mark.parametrize("format, rule", FORMAT_RULES)
def test_2d_bytes_equal_the_reference(format, rule):
    vec = FORMATS[format].vec
    for i, rows in enumerate((1, 17, 32, 129)):
        x = wide(rows, 3 * vec).to(DTYPES[i % 3])
        check_quantize("cpu", x, format, rule, LAYOUTS[i % 3], tile_2d=True)
    check_quantize("cpu", special(20, 3 * vec, vec), format, rule, LAYOUTS[2], tile_2d=True)


@pytest.mark.parametrize("format, rule, rounding", STOCHASTIC)
def test_stochastic_bytes_equal_the_reference(format, rule, rounding):
    vec = FORMATS[format].vec
    for i, rows in enumerate((1, 17, 130)):
        x = wide(rows, 3 * vec).to(DTYPES[i])
        check_quantize("cpu", x, format, rule, LAYOUTS[i], rounding=rounding, seed=SEED)
    check_quantize("cpu", special(5, 3 * vec, vec), format, rule, LAYOUTS[0], rounding=rounding, seed=SEED)


@pytest.mark.parametrize("rounding", ["stochastic", "stochastic_unbiased"])
def test_every_source_of_the_global_scale(rounding):
    check_global_scales_with_noise("cpu", wide(17, 48).bfloat16(), rounding=rounding)
    check_global_scales_with_noise("cpu", wide(17, 48).bfloat16(), rounding=rounding, tile_2d=True)


@pytest.mark.parametrize("format, rule", [("nvfp4", "static_6"), ("nvfp4", "mse"), ("mxfp4", "static_6")])
@pytest.mark.parametrize("cols", [pytest.param(96, marks=pytest.mark.slow), 67])
def test_noise_and_tiles_do_not_depend_on_the_tiling(format, rule, cols):
    """Also where eight neighbours do not share a counter."""
    x = wide(35, cols).bfloat16()
    fmt, source = FORMATS[format], "tensor" if format == "nvfp4" else "none"
    args = (x, None, None, fmt, rule, 256, source, SfLayout.layout_8x4, True)
    for tile in (False, True):
        want = reference.quantize(*args, tile, "stochastic", SEED)
        for rows, block in ((32, 64), (64, 32)):
            config = Config("quantize", block_m=rows, block_k=block)
            got = launcher(*args, config, Config("amax", 32, 64), tile, "stochastic", SEED)
            assert [same_bytes(g, w) for g, w in zip(got, want, strict=True)] == [0, 0, 0]


@pytest.mark.parametrize("format", ["nvfp4", "mxfp4"])
def test_noise_stays_with_its_element(format):
    check_noise_stays_with_its_element("cpu", format, "stochastic")


@pytest.mark.parametrize("i", range(0, len(COMBINATIONS), 4))
def test_every_combination_of_fouroversix_options(i):
    """Four at a time: each with and without a rotation, on a ragged shape."""
    for k, options in enumerate(COMBINATIONS[i : i + 4]):
        shape = (32, 37) if options["transpose"] else (37, 32)
        x = wide(*shape).to(DTYPES[k % 3])
        check_fouroversix("cpu", x, **options)
        check_fouroversix("cpu", x, T.hadamard_matrix(32 if k % 2 else 16, dtype=DTYPES[k % 3]), **options)


def test_k_that_is_no_multiple_of_eight():
    for format in ("nvfp4", "mxfp4"):
        for shape in ((3, 100), (33, 41), (2, 7)):
            check_fouroversix("cpu", wide(*shape), fp4_format=format, round_style="stochastic", block_scale_2d=True)
    check_fouroversix("cpu", wide(9, 35), round_style="stochastic", unbiased=True)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_rotate_bits_equal_the_reference(dtype):
    generator = torch.Generator().manual_seed(0)
    for h in (1, 2, 8, 16, 64, 128):
        had = torch.randn(h, h, generator=generator)
        check_rotate("cpu", wide(17, 2 * max(h, 16)).to(dtype), had.to(dtype))
        check_rotate("cpu", wide(17, 128).to(dtype), had.t())
    for _, x in views(17, 64, dtype):
        check_rotate("cpu", x, T.hadamard_matrix(32, dtype=dtype))
    check_rotate("cpu", special(5, 96, 16).to(dtype), T.hadamard_matrix(16, "te", dtype))


def test_rotate_does_not_depend_on_the_tiling():
    x, had = wide(9, 64).bfloat16(), T.hadamard_matrix(16, torch.randn(16))
    want = reference.rotate(x, had)
    for rows, block in ((16, 16), (8, 32), (4, 64)):
        assert same_bytes(rotate_launcher(x, had, Config("rotate", block_m=rows, block_k=block)), want) == 0


@pytest.mark.parametrize("layout", SfLayout)
def test_e4m3_input(layout):
    for scale in (torch.tensor([1 / 448]), torch.tensor(3.7), torch.rand(40) + 0.01, torch.tensor([1e-9])):
        check_e4m3("cpu", every_e4m3(40, 16), scale, layout)
    check_e4m3("cpu", every_e4m3(40, 32), None, layout)
    check_e4m3("cpu", every_e4m3(256, 16).t()[:, :160], torch.tensor([0.02]), layout)
