"""The FP8 and MXFP8 functions refuse bad arguments by name, with errors that callers of flashinfer catch."""

import inspect

import pytest
import torch
from refusals import (
    FLASHINFER_BACKEND,
    NO_BACKEND,
    Case,
    each,
    message_of,
    quantizer_cases,
    takes_anything,
    unnamed,
    unrefused,
    x,
)

import tritonfp4
from tritonfp4.flashinfer.testing import utils
from tritonfp4.verbs.quantize_fp8 import call_quantize_fp8

U8, F32 = torch.uint8, torch.float32
E4M3, E5M2, E8M0 = torch.float8_e4m3fn, torch.float8_e5m2, torch.float8_e8m0fnu

#: Function and keyword arguments that it accepts.
VALID = {
    "mxfp8_quantize": {"input": x(4, 64)},
    "mxfp8_dequantize_host": {"input": x(4, 64, dtype=U8), "scale_tensor": x(512, dtype=U8)},
    "mxfp4_dequantize_host": {"weight": x(4, 32, dtype=U8), "scale": x(4, 2, dtype=U8)},
    "per_token_cast_to_fp8": {"x": x(4, 256)},
    "per_block_cast_to_fp8": {"x": x(4, 256)},
    "per_token_group_quant_8bit": {"x": x(4, 256), "group_size": 64},
}
#: Those of `flashinfer.testing.utils`, two of which have names of the top level.
UTILS = {
    "utils.per_token_cast_to_fp8": {"x": x(4, 256)},
    "utils.per_block_cast_to_fp8": {"x": x(4, 256)},
    "utils.quantize_fp8": {"x": x(4, 256), "scale_shape": (4, 2), "tile_shape": (1, 128), "scale_major_mode": "K"},
    "utils.dequantize_fp8": {
        "x": x(4, 256).to(E4M3), "x_scale": x(2, 4, dtype=F32), "scale_major_mode": "MN",
    },
}  # fmt: skip
ALL = VALID | UTILS

#: Parameters that take any value: a hint to flashinfer's launches, plain truth values, and "K or another value".
ANYTHING = {
    ("mxfp8_quantize", "is_sf_swizzled_layout"),
    ("mxfp8_quantize", "enable_pdl"),
    ("mxfp8_dequantize_host", "is_sf_swizzled_layout"),
    ("per_token_cast_to_fp8", "pow2"),
    ("per_token_cast_to_fp8", "mn_major"),
    ("per_block_cast_to_fp8", "pow2"),
    ("per_block_cast_to_fp8", "mn_major"),
    ("utils.dequantize_fp8", "scale_major_mode"),
}
LAYOUTS = [3, -1, "128x4", [0]]
NO_TENSOR = ["x", None, 3]
COLUMNS = {"column_major_scales": True}


def cast_cases(function, two_dimensions):
    """A quantizer of any K; some want a matrix."""
    cases = quantizer_cases(function, "x", None, {})
    if not two_dimensions:
        return cases
    return [c for c in cases if "at least" not in c.text] + each(
        function, "x", [x(64), x(2, 4, 256)], None, "2 dimensions"
    )


CASES = [
    *quantizer_cases("mxfp8_quantize", "input", 32, {}),
    *each("mxfp8_quantize", "alignment", [0, 16, 33, 48, -32, "32", None, 32.0, True], None, "multiple of 32"),
    *each("mxfp8_quantize", "alignment", [2**23], None, "padded to a multiple of 8388608"),
    *each("mxfp8_quantize", "backend", NO_BACKEND, None, FLASHINFER_BACKEND),
    *each("mxfp8_quantize", "sf_swizzle_layout", LAYOUTS),
    *each("mxfp8_quantize", "per_batch", [True], None, "per_batch=True needs input of shape [b, m, k]"),
    Case("mxfp8_quantize", "per_batch", {"per_batch": True, "input": x(2, 2, 4, 64)}, "[b, m, k]"),
    *each("mxfp8_dequantize_host", "input", NO_TENSOR, None, "torch.Tensor", TypeError),
    *each("mxfp8_dequantize_host", "input", [x(4, 64), x(4, 64).to(E5M2), x(4, 64, dtype=torch.int8)], None, "dtype", TypeError),
    *each("mxfp8_dequantize_host", "input", [x(64, dtype=U8), x(2, 4, 64, dtype=U8), x(4, 48, dtype=U8)], None, "[M, K]"),
    *each("mxfp8_dequantize_host", "scale_tensor", NO_TENSOR, None, "torch.Tensor", TypeError),
    *each("mxfp8_dequantize_host", "scale_tensor", [x(512), x(512, dtype=U8).view(E4M3)], None, "dtype", TypeError),
    *each("mxfp8_dequantize_host", "scale_tensor", [x(8, dtype=U8), x(511, dtype=U8), x(1, 128, 4, dtype=U8)], None,
          "scale_tensor size does not match"),
    *each("mxfp8_dequantize_host", "scale_tensor", [x(512, dtype=U8, device="meta")], None, "all tensors must share one device"),
    *each("mxfp8_dequantize_host", "sf_swizzle_layout", LAYOUTS),
    *each("mxfp4_dequantize_host", "weight", NO_TENSOR, None, "torch.Tensor", TypeError),
    *each("mxfp4_dequantize_host", "weight", [x(4, 32), x(4, 32, dtype=torch.int8)], None, "dtype", TypeError),
    *each("mxfp4_dequantize_host", "weight", [x(32, dtype=U8), x(1, 4, 32, dtype=U8)], None, "2 dimensions"),
    *each("mxfp4_dequantize_host", "weight", [x(5, 32, dtype=U8)], None, "weight and scale must have the same number of rows"),
    *each("mxfp4_dequantize_host", "scale", NO_TENSOR, None, "torch.Tensor", TypeError),
    *each("mxfp4_dequantize_host", "scale", [x(4, 2), x(4, 2, dtype=U8).view(E4M3)], None, "dtype", TypeError),
    *each("mxfp4_dequantize_host", "scale", [x(8, dtype=U8), x(1, 4, 2, dtype=U8)], None, "2 dimensions"),
    *each("mxfp4_dequantize_host", "scale", [x(4, 4, dtype=U8)], None, "weight and scale must have the same number of columns"),
    *each("mxfp4_dequantize_host", "scale", [x(4, 2, dtype=U8, device="meta")], None, "all tensors must share one device"),
    *each("mxfp4_dequantize_host", "group_size", [0, -32, 1, 33, 32.0, "32", None, True], None, "positive even integer"),
    *each("mxfp4_dequantize_host", "group_size", [16, 64], None, "weight and scale must have the same number of columns"),
    *cast_cases("per_token_cast_to_fp8", False),
    *each("per_token_cast_to_fp8", "tma_aligned", [True], None, "tma_aligned=True needs mn_major=True"),
    *each("per_token_cast_to_fp8", "backend", NO_BACKEND, None, FLASHINFER_BACKEND),
    *cast_cases("per_block_cast_to_fp8", True),
    *each("per_block_cast_to_fp8", "backend", NO_BACKEND, None, FLASHINFER_BACKEND),
    *cast_cases("per_token_group_quant_8bit", False),
    *each("per_token_group_quant_8bit", "group_size", [48, 100, 512], None, "must be divisible by `group_size`", AssertionError),
    *each("per_token_group_quant_8bit", "group_size", [0, -1, 64.0, "64", None, True], None, "positive integer"),
    *each("per_token_group_quant_8bit", "eps", [-1e-10, float("nan"), float("inf"), 1e39, "1e-4", None, True], None, "finite"),
    *each("per_token_group_quant_8bit", "dst_dtype", [U8, torch.float16, "int8", 8, []], None,
          "dst_dtype must be float8_e4m3fn, float8_e5m2, or int8; got"),
    *each("per_token_group_quant_8bit", "column_major_scales", [True], {"x": x(2, 4, 256)},
          "column_major_scales is only supported for 2D inputs; got a 3D input"),
    *each("per_token_group_quant_8bit", "scale_tma_aligned", [True], None,
          "scale_tma_aligned or scale_ue8m0 requires column_major_scales=True", AssertionError),
    *each("per_token_group_quant_8bit", "scale_ue8m0", [True], None,
          "scale_tma_aligned or scale_ue8m0 requires column_major_scales=True", AssertionError),
    *each("per_token_group_quant_8bit", "backend", NO_BACKEND, None, "Unsupported backend for per_token_group_quant_8bit"),
    *each("per_token_group_quant_8bit", "eps", ["1", -1.0], {"scale_ue8m0": True, **COLUMNS}, "finite"),
    # ---- flashinfer.testing.utils ----
    *cast_cases("utils.per_token_cast_to_fp8", True),
    *each("utils.per_token_cast_to_fp8", "x", [x(4, 200)], None, "multiple of the block of 128", AssertionError),
    *cast_cases("utils.per_block_cast_to_fp8", True),
    *each("utils.quantize_fp8", "x", NO_TENSOR, None, "torch.Tensor", TypeError),
    *each("utils.quantize_fp8", "x", [x(4, 256, dtype=torch.float64)], None, "float64", NotImplementedError),
    *each("utils.quantize_fp8", "x", [x(256), x(1, 1, 4, 256)], None, "x.ndim must be 2 or 3", AssertionError),
    *each("utils.quantize_fp8", "x", [x(4, 255), x(5, 256)], None, "do not make up x"),
    *(case for name in ("scale_shape", "tile_shape") for case in (
        *each("utils.quantize_fp8", name, [4, None, "ab", (4.0, 2)], None, "tuple of integers", TypeError),
        *each("utils.quantize_fp8", name, [(1, 4, 2), (4,), (4, 0)], None, "2 positive numbers", AssertionError),
        *each("utils.quantize_fp8", name, [(2, 2), (2, 128)], None, "do not make up x"),
    )),
    *each("utils.quantize_fp8", "scale_major_mode", [None, 0, True], None, "scale_major_mode must be 'K' or 'MN'"),
    *each("utils.quantize_fp8", "scale_major_mode", ["MN"], None, "do not make up x"),
    *each("utils.dequantize_fp8", "x", NO_TENSOR, None, "torch.Tensor", TypeError),
    *each("utils.dequantize_fp8", "x", [x(4, 256)], None, "dtype", TypeError),
    *each("utils.dequantize_fp8", "x", [x(256).to(E4M3), x(5, 256).to(E4M3)], None, "does not divide x"),
    *each("utils.dequantize_fp8", "x_scale", NO_TENSOR, None, "torch.Tensor", TypeError),
    *each("utils.dequantize_fp8", "x_scale", [x(2, 4)], None, "dtype", TypeError),
    *each("utils.dequantize_fp8", "x_scale", [x(3, 4, dtype=F32), x(1, 2, 4, dtype=F32), x(0, 4, dtype=F32)], None, "does not divide x"),
    *each("utils.dequantize_fp8", "x_scale", [x(2, 4, dtype=F32, device="meta")], None, "all tensors must share one device"),
]  # fmt: skip


def function(name):
    return getattr(utils, name[6:]) if name.startswith("utils.") else getattr(tritonfp4, name)


@pytest.mark.parametrize("name", ALL)
def test_the_call_that_the_cases_change_is_accepted(name):
    function(name)(**ALL[name])


@pytest.mark.parametrize("case", CASES, ids=str)
def test_a_bad_argument_is_refused_by_name(case):
    assert case.argument in message_of(case, function(case.function), ALL[case.function]) or case.text


@pytest.mark.parametrize("name", ALL)
def test_every_parameter_has_a_refusal_that_names_it_or_takes_anything(name):
    assert unrefused(name, function(name), CASES) == takes_anything(name, ANYTHING)
    assert unnamed(name, function(name), ALL[name], CASES) == takes_anything(name, ANYTHING)


@pytest.mark.parametrize(("name", "parameter"), sorted(ANYTHING))
@pytest.mark.parametrize("value", [None, "x", 3, False])
def test_parameters_that_take_anything_do(name, parameter, value):
    valid = dict(ALL[name])
    if name == "mxfp8_dequantize_host" and not value:
        valid["scale_tensor"] = x(8, dtype=U8)  # linear
    if name == "utils.dequantize_fp8":
        valid["x_scale"] = x(2, 2, dtype=F32)
    function(name)(**valid | {parameter: value})


# ---- the verb, and the call that the GEMMs share ----


@pytest.mark.parametrize("format", ["mxfp8", "fp8_1x128", "fp8_128x128"])
@pytest.mark.parametrize(
    "change",
    [
        {"global_scale": torch.ones(1)}, {"amax": torch.ones(1)}, {"per_row": True}, {"e4m3_max": 448}, {"tile_2d": True},
        {"rounding": "stochastic"}, {"seed": 3},
    ],
    ids=str,
)  # fmt: skip
def test_quantize_refuses_the_options_of_fp4(format, change):
    with pytest.raises(tritonfp4.ArgumentError, match=f"quantize: {next(iter(change))} has no meaning for {format}"):
        tritonfp4.quantize(x(4, 256), format, **change)


@pytest.mark.parametrize(
    "format, rule",
    [("mxfp8", "even"), ("mxfp8", "amax"), ("fp8_1x128", "static_6"), ("fp8_128x128", "divide"), ("mxfp8", "")],
)
def test_quantize_refuses_the_rules_of_other_formats(format, rule):
    with pytest.raises(tritonfp4.ArgumentError, match=r"quantize: .*rule"):
        tritonfp4.quantize(x(4, 256), format, rule=rule)


def test_quantize_refuses_a_ragged_k_where_blocks_are_stored_in_bytes():
    with pytest.raises(tritonfp4.ShapeError, match="multiple of the block of 32"):
        tritonfp4.quantize(x(4, 250), "mxfp8")
    assert tritonfp4.quantize(x(4, 250), "fp8_1x128").scales.shape == (4, 2)


@pytest.mark.parametrize("change", [{"format": "mxfp8"}, {"format": "fp8"}, {"rule": "rceil"}, {"eps": -1.0}], ids=str)
def test_call_quantize_fp8_names_the_function_it_checks_for(change):
    name = next(iter(change))
    with pytest.raises(tritonfp4.ArgumentError, match=f"somebody: {name}|somebody: .*{name}="):
        call_quantize_fp8("somebody", x(4, 256), **change)


# ---- signatures ----

REQUIRED = inspect.Parameter.empty
SIGNATURES = {
    "mxfp8_quantize": [
        ("input", REQUIRED), ("is_sf_swizzled_layout", True), ("alignment", 32), ("enable_pdl", None), ("backend", "cuda"),
        ("sf_swizzle_layout", None),
    ],
    "mxfp8_dequantize_host": [
        ("input", REQUIRED), ("scale_tensor", REQUIRED), ("is_sf_swizzled_layout", True), ("sf_swizzle_layout", None),
    ],
    "mxfp4_dequantize_host": [("weight", REQUIRED), ("scale", REQUIRED), ("group_size", 32)],
    "per_token_group_quant_8bit": [
        ("x", REQUIRED), ("group_size", REQUIRED), ("eps", 1e-10), ("dst_dtype", None), ("column_major_scales", False),
        ("scale_tma_aligned", False), ("scale_ue8m0", False), ("backend", "cutile"),
    ],
    "per_token_cast_to_fp8": [("x", REQUIRED)],
    "per_block_cast_to_fp8": [("x", REQUIRED)],
    "utils.per_token_cast_to_fp8": [("x", REQUIRED)],
    "utils.per_block_cast_to_fp8": [("x", REQUIRED)],
    "utils.quantize_fp8": [
        ("x", REQUIRED), ("scale_shape", REQUIRED), ("tile_shape", REQUIRED), ("scale_major_mode", REQUIRED),
    ],
    "utils.dequantize_fp8": [("x", REQUIRED), ("x_scale", REQUIRED), ("scale_major_mode", REQUIRED)],
}  # fmt: skip


@pytest.mark.parametrize("name", ALL)
def test_positional_parameters_and_defaults_are_the_original_s(name):
    parameters = inspect.signature(function(name)).parameters.values()
    found = [(p.name, p.default) for p in parameters if p.kind == inspect.Parameter.POSITIONAL_OR_KEYWORD]
    assert found == SIGNATURES[name]


def test_power_of_two_scales_are_off_at_the_top_level():
    for cast in (tritonfp4.per_token_cast_to_fp8, tritonfp4.per_block_cast_to_fp8):
        assert inspect.signature(cast).parameters["pow2"].default is False
