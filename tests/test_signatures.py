"""Signatures are the originals', and what the originals accept is accepted; what is refused is in test_refusals.py."""

import inspect

import pytest
import torch
from refusals import BF16, x
from test_refusals import PACKED, VALID, A, B

import tritonfp4
from tritonfp4 import layouts
from tritonfp4.flashinfer.quantization import UNSET
from tritonfp4.layouts import SfLayout

U8 = torch.uint8

# ---- signatures ----

REQUIRED = inspect.Parameter.empty
SIGNATURES = {
    "fp4_quantize": [
        ("input", REQUIRED), ("global_scale", None), ("sf_vec_size", 16), ("sf_use_ue8m0", False),
        ("is_sf_swizzled_layout", True), ("is_sf_8x4_layout", False), ("is_global_scale_inversed", False),
        ("enable_pdl", None), ("backend", "cuda"), ("nvfp4_4over6", UNSET),
    ],
    "nvfp4_quantize": [
        ("a", REQUIRED), ("a_global_sf", REQUIRED), ("sfLayout", SfLayout.layout_128x4), ("do_shuffle", False),
        ("sf_vec_size", 16), ("enable_pdl", None), ("backend", "cuda"), ("per_token_activation", False),
        ("expanded_idx_to_permuted_idx", None), ("out_scale", None), ("nvfp4_4over6", UNSET),
    ],
    "mxfp4_quantize": [
        ("a", REQUIRED), ("backend", "cuda"), ("enable_pdl", None), ("sfLayout", SfLayout.layout_128x4),
    ],
    "make_nvfp4_global_scale": [
        ("input_tensor", REQUIRED), ("per_token_activation", REQUIRED), ("global_scale", None),
        ("nvfp4_4over6_config", None),
    ],
    "block_scale_interleave": [("unswizzled_sf", REQUIRED)],
    "shuffle_matrix_a": [("input_tensor", REQUIRED), ("epilogue_tile_m", REQUIRED)],
    "shuffle_matrix_sf_a": [("input_tensor", REQUIRED), ("epilogue_tile_m", REQUIRED), ("num_elts_per_sf", 16)],
    "e2m1_and_ufp8sf_scale_to_float": [
        ("e2m1_tensor", REQUIRED), ("ufp8_scale_tensor", REQUIRED), ("global_scale_tensor", None), ("sf_vec_size", 16),
        ("ufp8_type", 1), ("is_sf_swizzled_layout", True), ("is_sf_8x4_layout", False),
    ],
    "mxfp4_dequantize": [("a_fp4", REQUIRED), ("a_sf", REQUIRED), ("sfLayout", SfLayout.layout_128x4)],
    "mm_fp4": [
        ("a", REQUIRED), ("b", REQUIRED), ("a_descale", REQUIRED), ("b_descale", REQUIRED), ("alpha", None),
        ("out_dtype", torch.bfloat16), ("out", None), ("block_size", 16), ("use_8x4_sf_layout", False),
        ("backend", "auto"), ("use_nvfp4", True), ("enable_pdl", True),
    ],
    "quantize_to_fp4": [("x", REQUIRED)],
    "fp4_matmul": [("a", None), ("b", None)],
}  # fmt: skip
KEYWORDS = {
    "block_scale_interleave": ["out"],
    "mm_fp4": ["skip_check"],
    "quantize_to_fp4": [
        "backend", "scale_rule", "block_scale_2d", "had", "fp4_format", "round_style", "transpose", "e4m3_max", "unbiased",
        "seed",
    ],
    "fp4_matmul": [
        "backend", "a_e2m1", "a_sf", "a_normconst", "b_e2m1", "b_sf", "b_normconst", "a_quantize_kwargs",
        "b_quantize_kwargs", "fp4_format", "out_dtype", "out_shape", "a_quantization_kwargs", "b_quantization_kwargs",
    ],
}  # fmt: skip


def of_kind(function, *kinds):
    return [p for p in inspect.signature(getattr(tritonfp4, function)).parameters.values() if p.kind in kinds]


@pytest.mark.parametrize("function", SIGNATURES)
def test_positional_parameters_and_defaults_are_the_original_s(function):
    found = of_kind(function, inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.POSITIONAL_ONLY)
    assert [(p.name, p.default) for p in found] == SIGNATURES[function]


@pytest.mark.parametrize("function", SIGNATURES)
def test_keyword_only_parameters_are_the_original_s(function):
    assert [p.name for p in of_kind(function, inspect.Parameter.KEYWORD_ONLY)] == KEYWORDS.get(function, [])


@pytest.mark.parametrize(
    ("function", "name", "default"),
    [
        ("quantize_to_fp4", "backend", None), ("quantize_to_fp4", "block_scale_2d", False),
        ("quantize_to_fp4", "had", None), ("quantize_to_fp4", "fp4_format", tritonfp4.FP4Format.nvfp4),
        ("quantize_to_fp4", "round_style", tritonfp4.RoundStyle.nearest), ("quantize_to_fp4", "transpose", False),
        ("fp4_matmul", "backend", None), ("fp4_matmul", "fp4_format", tritonfp4.FP4Format.nvfp4),
        ("fp4_matmul", "out_dtype", tritonfp4.DataType.bfloat16), ("fp4_matmul", "out_shape", None),
    ],
)  # fmt: skip
def test_keyword_defaults_are_fouroversix_s(function, name, default):
    assert inspect.signature(getattr(tritonfp4, function)).parameters[name].default == default


def test_quantize_kwargs_accepts_every_keyword_of_quantize_to_fp4():
    given = {
        name: p.default
        for name, p in inspect.signature(tritonfp4.quantize_to_fp4).parameters.items()
        if p.kind == inspect.Parameter.KEYWORD_ONLY
    }
    a, b = x(4, 64), x(32, 64)
    assert torch.equal(tritonfp4.fp4_matmul(a, b, a_quantize_kwargs=given), tritonfp4.fp4_matmul(a, b))


def test_mm_fp4_says_that_it_is_supported_everywhere():
    assert tritonfp4.mm_fp4.is_compute_capability_supported(80)
    assert tritonfp4.mm_fp4.is_backend_supported("cudnn")
    assert not tritonfp4.mm_fp4.is_backend_supported("nonsense")


# ---- what is accepted ----

OUTS = {
    "contiguous": lambda rows, cols: torch.empty(rows, cols, dtype=BF16),
    "wider rows": lambda rows, cols: torch.empty(rows, cols + 24, dtype=BF16)[:, 8 : cols + 8],
    "odd rows": lambda rows, cols: torch.empty(rows, cols + 3, dtype=BF16)[:, 3:],
    "every third row": lambda rows, cols: torch.empty(3 * rows, cols, dtype=BF16)[::3],
}


@pytest.mark.parametrize("name", OUTS)
def test_mm_fp4_writes_to_any_out_with_unit_last_stride_and_returns_it(name):
    out = OUTS[name](4, 32)
    want = tritonfp4.mm_fp4(**VALID["mm_fp4"])
    assert tritonfp4.mm_fp4(**VALID["mm_fp4"], out=out) is out
    assert torch.equal(out, want)


@pytest.mark.parametrize("name", OUTS)
def test_matmul_writes_to_any_out_with_unit_last_stride_and_returns_it(name):
    out = OUTS[name](4, 32)
    assert tritonfp4.matmul(A, B, out=out) is out
    assert torch.equal(out, tritonfp4.matmul(A, B))


@pytest.mark.parametrize(("rows", "cols"), [(1, 32), (4, 1), (1, 1)])
def test_strides_of_a_dimension_of_one_do_not_matter(rows, cols):
    """They carry no meaning, and torch sets them as it likes."""
    a, b = tritonfp4.quantize(x(rows, 64)), tritonfp4.quantize(x(cols, 64))
    out = torch.empty(4096, dtype=BF16).as_strided((rows, cols), (1 if rows == 1 else 64, 1 if cols > 1 else 7))
    assert tritonfp4.matmul(a, b, out=out) is out
    assert torch.equal(out, tritonfp4.matmul(a, b))


def test_block_scale_interleave_writes_to_out_and_returns_it():
    sf, out = torch.arange(15, dtype=U8).reshape(5, 3), torch.full((512,), 9, dtype=U8)
    assert tritonfp4.block_scale_interleave(sf, out=out) is out
    assert torch.equal(out, layouts.LAYOUTS[SfLayout.layout_128x4].from_linear(sf))


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.float8_e8m0fnu])
def test_block_scale_interleave_writes_to_a_float8_out(dtype):
    sf = torch.arange(15, dtype=U8).reshape(5, 3)
    out = torch.full((512,), 9, dtype=U8).view(dtype)
    assert tritonfp4.block_scale_interleave(sf.view(dtype), out=out) is out
    assert torch.equal(out.view(U8), layouts.LAYOUTS[SfLayout.layout_128x4].from_linear(sf))


@pytest.mark.parametrize(
    "backend", ["cudnn", "cutlass", "cute-dsl", "cutedsl_low_latency", "b12x", "cake", "auto", "torch"]
)
def test_mm_fp4_takes_every_backend_name_of_the_original(backend):
    assert torch.equal(tritonfp4.mm_fp4(**VALID["mm_fp4"], backend=backend), tritonfp4.mm_fp4(**VALID["mm_fp4"]))


def test_skip_check_gives_the_same_result():
    assert torch.equal(tritonfp4.mm_fp4(**VALID["mm_fp4"], skip_check=True), tritonfp4.mm_fp4(**VALID["mm_fp4"]))


@pytest.mark.parametrize("name", [None, "cuda", "pytorch", *(b for b in tritonfp4.QuantizeBackend if b != "triton")])
def test_quantize_to_fp4_takes_every_backend_name_of_the_original(name):
    one, two = tritonfp4.quantize_to_fp4(x(4, 64), backend=name), PACKED
    assert torch.equal(one[0], two[0]) and torch.equal(one[1].view(U8), two[1].view(U8))


@pytest.mark.parametrize("dtype", ["bfloat16", torch.bfloat16, tritonfp4.DataType.bfloat16])
def test_fp4_matmul_takes_every_spelling_of_a_dtype(dtype):
    assert tritonfp4.fp4_matmul(x(4, 64), x(32, 64), out_dtype=dtype).dtype == BF16
