"""The batched, masked and fused quantizers refuse bad arguments by name, with errors that callers of flashinfer catch."""

import inspect

import pytest
import torch
from refusals import Case, each, message_of, quantizer_cases, takes_anything, unnamed, unrefused, x

import tritonfp4
from tritonfp4 import NVFP44Over6Config
from tritonfp4.flashinfer.quantization import UNSET

U8, BF16, F32, I32 = torch.uint8, torch.bfloat16, torch.float32, torch.int32
E4M3, FP4 = torch.float8_e4m3fn, torch.float4_e2m1fn_x2
G, MASK = torch.tensor([10.0]), torch.tensor([4, 2], dtype=I32)
RECIPE = NVFP44Over6Config()

#: Function and keyword arguments that it accepts.
VALID = {
    "nvfp4_batched_quantize": {"a": x(2, 4, 64), "a_global_sf": G},
    "scaled_fp4_grouped_quantize": {"a": x(2, 4, 64), "mask": MASK, "a_global_sf": G},
    "silu_and_mul_scaled_nvfp4_experts_quantize": {"a": x(2, 4, 64), "mask": MASK, "a_global_sf": G},
    "silu_and_mul_nvfp4_quantize": {"input": x(4, 64), "global_scale": G},
    "rmsnorm_fp4quant": {"input": x(4, 64), "weight": x(64)},
    "add_rmsnorm_fp4quant": {"input": x(4, 64), "residual": x(4, 64), "weight": x(64)},
    "nvfp4_kv_quantize": {"input": x(4, 64), "global_scale": G},
    "nvfp4_kv_dequantize": {"fp4_data": x(4, 32, dtype=U8), "block_scales": x(4, 4, dtype=U8), "global_scale": G},
}

#: Parameters that take any value, and why. Every other one appears in CASES.
ANYTHING = {
    # hints to flashinfer's launches, ignored here
    ("silu_and_mul_nvfp4_quantize", "enable_pdl"),
    ("rmsnorm_fp4quant", "enable_pdl"),
    ("add_rmsnorm_fp4quant", "enable_pdl"),
    # flashinfer skips its check of the GPU; there is none here
    ("nvfp4_kv_quantize", "skip_check"),
    ("nvfp4_kv_dequantize", "skip_check"),
    # plain truth values without a combination that has no meaning
    ("rmsnorm_fp4quant", "is_sf_swizzled_layout"),
    ("add_rmsnorm_fp4quant", "is_sf_swizzled_layout"),
    ("add_rmsnorm_fp4quant", "output_both_sf_layouts"),
}

BATCHED = ("nvfp4_batched_quantize", "scaled_fp4_grouped_quantize", "silu_and_mul_scaled_nvfp4_experts_quantize")
NORMS = ("rmsnorm_fp4quant", "add_rmsnorm_fp4quant")
BOTH = {"output_both_sf_layouts": True}
NO_TENSOR = ["x", None, 3]


def scale_cases(function, argument, wrong, text):
    """A global scale of an unknown kind, of a wrong dtype, of the sizes in `wrong`, on another device."""
    return [
        *each(function, argument, ["10", [10.0]], None, "torch.Tensor", TypeError),
        *each(function, argument, [torch.tensor([10]), G.to(E4M3)], None, "float"),
        *each(function, argument, [x(n, dtype=F32) for n in wrong], None, text),
        *each(function, argument, [x(1, dtype=F32, device="meta")], None, "device"),
    ]


def output_cases(function, argument, dtypes, shape, extra=None, wrong_shapes=()):
    """A given output: kind, dtype, shape, device, memory."""
    good = dtypes[0]
    return [
        *each(function, argument, ["x", 3], extra, "torch.Tensor", TypeError),
        *each(function, argument, [x(*shape, dtype=torch.int32)], extra, "dtype", TypeError),
        *each(function, argument, [x(*s, dtype=good) for s in wrong_shapes], extra, "shape does not match"),
        *each(function, argument, [x(*shape, dtype=good, device="meta")], extra, "device", RuntimeError),
        *each(function, argument, [x(*shape[:-1], 2 * shape[-1], dtype=good)[..., ::2]], extra, "must be contiguous",
              AssertionError),
    ]  # fmt: skip


CASES = [
    *(case for function in BATCHED for case in (
        *quantizer_cases(function, "a", None, {}),
        *each(function, "a", [x(4, 64), x(1, 2, 4, 64)], None, "3 dimensions"),
        *each(function, "a", [x(2, 4, 72)], None, "block of 16", AssertionError),
        *each(function, "a", [x(2, 4, 64, device="meta")], None, "all tensors must share one device"),
        *each(function, "nvfp4_4over6", ["mse", 448, True]),
        Case(function, "nvfp4_4over6", {"nvfp4_4over6": RECIPE, "a": x(2, 4, 64).to(E4M3)}, "requires fp16 or bf16 input",
             NotImplementedError),
    )),
    *scale_cases("nvfp4_batched_quantize", "a_global_sf", [0, 2, 8], "must be a scalar, or one scale per row"),
    *each("nvfp4_batched_quantize", "sf_vec_size", [8, 32, None], None, "sf_vec_size can only be 16", NotImplementedError),
    *(case for function in BATCHED[1:] for case in (
        *scale_cases(function, "a_global_sf", [0, 4, 8], "must be a scalar, or one scale per matrix"),
        *each(function, "mask", NO_TENSOR, None, "torch.Tensor", TypeError),
        *each(function, "mask", [x(2, dtype=torch.int64), x(2, dtype=torch.bool), x(2)], None, "dtype", TypeError),
        *each(function, "mask", [x(1, dtype=I32), x(2, 1, dtype=I32), x(2, 4, dtype=I32)], None, "one count per matrix"),
        *each(function, "mask", [x(2, dtype=I32, device="meta")], None, "all tensors must share one device"),
    )),
    *each("silu_and_mul_scaled_nvfp4_experts_quantize", "a", [x(2, 4, 65)], None, "the last dimension must be even"),
    *each("silu_and_mul_scaled_nvfp4_experts_quantize", "a", [x(2, 4, 48)], None, "block of 16", AssertionError),
    *quantizer_cases("silu_and_mul_nvfp4_quantize", "input", None, {}),
    *each("silu_and_mul_nvfp4_quantize", "input", [x(4, 65)], None, "the last dimension must be even", AssertionError),
    *each("silu_and_mul_nvfp4_quantize", "input", [x(4, 48)], None, "block of 16", AssertionError),
    *each("silu_and_mul_nvfp4_quantize", "input", [x(4, 64, device="meta")], None, "all tensors must share one device"),
    *scale_cases("silu_and_mul_nvfp4_quantize", "global_scale", [0, 2, 4], "must be a scalar"),
    *each("silu_and_mul_nvfp4_quantize", "sf_vec_size", [8, 32, None], None,
          "sf_vec_size can only be 16 for silu_and_mul_nvfp4_quantize", NotImplementedError),
    *(Case("silu_and_mul_nvfp4_quantize", name, {"is_sf_swizzled_layout": False, "is_sf_8x4_layout": True})
      for name in ("is_sf_swizzled_layout", "is_sf_8x4_layout")),
    *each("silu_and_mul_nvfp4_quantize", "nvfp4_4over6", ["mse", 448, True]),
    *(case for function in NORMS for case in (
        *quantizer_cases(function, "input", None, {}),
        *each(function, "input", [x(4, 72), x(4, 65)], None, "hidden_size must be divisible by block_size", AssertionError),
        *each(function, "input", [x(4, 48), x(4, 0)], None, "hidden_size must be >= 64", AssertionError),
        *each(function, "input", [x(4, 64, device="meta")], None, "device"),
        *each(function, "weight", NO_TENSOR, None, "torch.Tensor", TypeError),
        *each(function, "weight", [x(64, dtype=torch.float16), x(64, dtype=F32)], None, "dtype", TypeError),
        *each(function, "weight", [x(63), x(1, 64), x(1)], None, "must have shape (64,)"),
        *each(function, "weight", [x(64, device="meta")], None, "all tensors must share one device"),
        *output_cases(function, "y_fp4", [U8, FP4], (4, 32), None, [(4, 64), (5, 32), (128,)]),
        *output_cases(function, "block_scale", [U8, E4M3], (4, 4), None, [(4, 2), (512,), (16,)]),
        *each(function, "block_scale", [x(4, 4, dtype=U8), x(500, dtype=U8)], {"is_sf_swizzled_layout": True},
              "shape does not match"),
        *each(function, "block_scale", [x(4, 2, dtype=U8).view(E4M3)], {"block_size": 32}, "dtype", TypeError),
        *scale_cases(function, "global_scale", [0, 2, 4], "must be a scalar"),
        *each(function, "eps", ["1e-6", None, -1e-6, float("nan"), True]),
        *each(function, "block_size", [8, 64, None, "16"], None, "block_size must be 16 or 32", AssertionError),
        *each(function, "scale_format", ["e8m0", "", 4, torch.float8_e4m3fn], None, "unknown"),
    )),
    *each("add_rmsnorm_fp4quant", "residual", NO_TENSOR, None, "torch.Tensor", TypeError),
    *each("add_rmsnorm_fp4quant", "residual", [x(4, 64, dtype=F32)], None, "dtype", TypeError),
    *each("add_rmsnorm_fp4quant", "residual", [x(4, 32), x(1, 4, 64), x(64)], None, "shape of input"),
    *each("add_rmsnorm_fp4quant", "residual", [x(1, 64).expand(4, 64), x(4, 1).expand(4, 64)], None, "overlap"),
    *each("add_rmsnorm_fp4quant", "residual", [x(1, 256).as_strided((4, 64), steps) for steps in ((32, 1), (1, 1), (63, 1))], None, "overlap"),
    *each("add_rmsnorm_fp4quant", "residual", [x(4, 64, device="meta")], None, "all tensors must share one device"),
    *each("add_rmsnorm_fp4quant", "residual", [x(4, 64).requires_grad_()], None, "no gradient", NotImplementedError),
    *output_cases("add_rmsnorm_fp4quant", "block_scale_unswizzled", [U8], (4, 4), BOTH, [(4, 2), (512,), (16,)]),
    *output_cases("add_rmsnorm_fp4quant", "y_out", [BF16], (4, 64), None, [(4, 32), (5, 64), (256,)]),
    *quantizer_cases("nvfp4_kv_quantize", "input", None, {}),
    *each("nvfp4_kv_quantize", "input", [x(2, 4, 64)], None, "2 dimensions"),
    *each("nvfp4_kv_quantize", "input", [x(4, 72)], None, "K dimension (72) must be divisible by 16"),
    *scale_cases("nvfp4_kv_quantize", "global_scale", [0, 2, 4], "must be a scalar"),
    *each("nvfp4_kv_dequantize", "fp4_data", NO_TENSOR, None, "torch.Tensor", TypeError),
    *each("nvfp4_kv_dequantize", "fp4_data", [x(4, 32), x(4, 32, dtype=I32)], None, "dtype", TypeError),
    *each("nvfp4_kv_dequantize", "fp4_data", [x(2, 4, 32, dtype=U8), x(32, dtype=U8)], None, "2 dimensions"),
    *each("nvfp4_kv_dequantize", "fp4_data", [x(4, 36, dtype=U8)], None, "K dimension (72) must be divisible by 16"),
    *each("nvfp4_kv_dequantize", "block_scales", NO_TENSOR, None, "torch.Tensor", TypeError),
    *each("nvfp4_kv_dequantize", "block_scales", [x(4, 4), x(4, 4, dtype=F32)], None, "dtype", TypeError),
    *each("nvfp4_kv_dequantize", "block_scales", [x(4, 3, dtype=U8), x(16, dtype=U8), x(128, 4, dtype=U8)], None, "shape"),
    *each("nvfp4_kv_dequantize", "block_scales", [x(4, 4, dtype=U8, device="meta")], None, "device"),
    *scale_cases("nvfp4_kv_dequantize", "global_scale", [0, 2, 4], "must be a scalar"),
    *each("nvfp4_kv_dequantize", "output_dtype", [F32, U8, None, "bfloat16"], None, "Unsupported output dtype", TypeError),
]  # fmt: skip


@pytest.mark.parametrize("function", VALID)
def test_the_call_that_the_cases_change_is_accepted(function):
    getattr(tritonfp4, function)(**VALID[function])


@pytest.mark.parametrize("case", CASES, ids=str)
def test_a_bad_argument_is_refused_by_name(case):
    assert case.argument in message_of(case, getattr(tritonfp4, case.function), VALID[case.function]) or case.text


@pytest.mark.parametrize("function", VALID)
def test_every_parameter_has_a_refusal_or_takes_anything(function):
    assert unrefused(function, getattr(tritonfp4, function), CASES) == takes_anything(function, ANYTHING)


@pytest.mark.parametrize("function", VALID)
def test_every_parameter_has_a_refusal_that_names_it(function):
    assert unnamed(function, getattr(tritonfp4, function), VALID[function], CASES) <= takes_anything(function, ANYTHING)


@pytest.mark.parametrize(("function", "name"), sorted(ANYTHING))
@pytest.mark.parametrize("value", [None, "x", 3, False])
def test_parameters_that_take_anything_do(function, name, value):
    getattr(tritonfp4, function)(**VALID[function] | {name: value})


def test_a_refused_call_leaves_the_residual_alone():
    residual = x(4, 64)
    with pytest.raises(ValueError, match="y_out"):
        tritonfp4.add_rmsnorm_fp4quant(x(4, 64), residual, x(64), y_out=x(4, 32))
    assert torch.equal(residual, x(4, 64))


# ---- signatures ----

REQUIRED = inspect.Parameter.empty
_MASKED = [("a", REQUIRED), ("mask", REQUIRED), ("a_global_sf", REQUIRED), ("nvfp4_4over6", UNSET)]
_NORM = [("y_fp4", None), ("block_scale", None), ("global_scale", None), ("eps", 1e-6), ("block_size", 16),
         ("scale_format", None), ("is_sf_swizzled_layout", False)]  # fmt: skip
SIGNATURES = {
    "nvfp4_batched_quantize": [("a", REQUIRED), ("a_global_sf", REQUIRED), ("sf_vec_size", 16), ("nvfp4_4over6", UNSET)],
    "scaled_fp4_grouped_quantize": _MASKED,
    "silu_and_mul_scaled_nvfp4_experts_quantize": _MASKED,
    "silu_and_mul_nvfp4_quantize": [
        ("input", REQUIRED), ("global_scale", REQUIRED), ("sf_vec_size", 16), ("is_sf_swizzled_layout", True),
        ("is_sf_8x4_layout", False), ("enable_pdl", None), ("nvfp4_4over6", UNSET),
    ],
    "rmsnorm_fp4quant": [("input", REQUIRED), ("weight", REQUIRED), *_NORM, ("enable_pdl", None)],
    "add_rmsnorm_fp4quant": [
        ("input", REQUIRED), ("residual", REQUIRED), ("weight", REQUIRED), *_NORM, ("output_both_sf_layouts", False),
        ("block_scale_unswizzled", None), ("enable_pdl", None), ("y_out", None),
    ],
    "nvfp4_kv_quantize": [("input", REQUIRED), ("global_scale", REQUIRED)],
    "nvfp4_kv_dequantize": [
        ("fp4_data", REQUIRED), ("block_scales", REQUIRED), ("global_scale", REQUIRED), ("output_dtype", BF16),
    ],
}  # fmt: skip


@pytest.mark.parametrize("function", SIGNATURES)
def test_parameters_and_defaults_are_the_original_s(function):
    parameters = inspect.signature(getattr(tritonfp4, function)).parameters.values()
    found = [(p.name, p.default) for p in parameters if p.kind == inspect.Parameter.POSITIONAL_OR_KEYWORD]
    assert found == SIGNATURES[function]
    keywords = [p.name for p in parameters if p.kind == inspect.Parameter.KEYWORD_ONLY]
    assert keywords == (["skip_check"] if "_kv_" in function else [])
