"""Every public function refuses bad arguments by name, with an error that callers of the original libraries catch."""

import importlib
import inspect
from dataclasses import replace

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
from tritonfp4.flashinfer.quantization import NVFP44Over6Config, NVFP44Over6ErrMode
from tritonfp4.formats import FORMATS
from tritonfp4.layouts import SfLayout

RECIPE = NVFP44Over6Config()
U8, BF16 = torch.uint8, torch.bfloat16


def like(t, dtype=None, device=None):
    """The same shape with another dtype or on another device; fp4 and fp8 dtypes cannot be cast to."""
    return (
        torch.zeros(t.shape, dtype=U8, device=device or t.device).view(t.dtype)
        if dtype is None
        else x(*t.shape).to(dtype)
    )


A, B = tritonfp4.quantize(x(4, 64)), tritonfp4.quantize(x(32, 64))
A_SF, B_SF = A.scales.view(128, 4), B.scales.view(128, 4)
PACKED = tritonfp4.quantize_to_fp4(x(4, 64))
G = torch.tensor([10.0])

#: Function and keyword arguments that it accepts.
VALID = {
    "fp4_quantize": {"input": x(4, 64), "global_scale": G},
    "nvfp4_quantize": {"a": x(32, 64), "a_global_sf": G},
    "mxfp4_quantize": {"a": x(4, 64)},
    "make_nvfp4_global_scale": {"input_tensor": x(4, 64), "per_token_activation": False},
    "block_scale_interleave": {"unswizzled_sf": x(5, 3, dtype=U8)},
    "shuffle_matrix_a": {"input_tensor": x(64, 8), "epilogue_tile_m": 128},
    "shuffle_matrix_sf_a": {"input_tensor": x(128, 8, dtype=U8), "epilogue_tile_m": 128},
    "e2m1_and_ufp8sf_scale_to_float": {"e2m1_tensor": A.values, "ufp8_scale_tensor": A_SF, "global_scale_tensor": G},
    "mxfp4_dequantize": {"a_fp4": x(4, 32, dtype=U8), "a_sf": x(128, 4, dtype=U8)},
    "mm_fp4": {"a": A.values, "b": B.values.T, "a_descale": A_SF, "b_descale": B_SF.T, "alpha": G},
    "quantize_to_fp4": {"x": x(4, 64)},
    "fp4_matmul": {"a": x(4, 64), "b": x(32, 64)},
    "quantize": {"x": x(4, 64)},
    "dequantize": {"t": A},
    "matmul": {"a": A, "b": B},
}

#: Parameters that take any value, and why. Every other one appears in CASES.
ANYTHING = {
    # hints to flashinfer's launches, ignored here
    ("fp4_quantize", "enable_pdl"),
    ("nvfp4_quantize", "enable_pdl"),
    ("mxfp4_quantize", "enable_pdl"),
    ("mm_fp4", "enable_pdl"),
    # switches the checks off, by contract
    ("mm_fp4", "skip_check"),
    # plain truth values without a combination that has no meaning
    ("fp4_quantize", "is_global_scale_inversed"),
    ("make_nvfp4_global_scale", "per_token_activation"),
    ("quantize_to_fp4", "block_scale_2d"),
}


def scale_cases(function, argument, extra=None, rows=True):
    """A global scale: one element, or one for each of 4 rows."""
    wrong = [x(2, dtype=torch.float32), x(0, dtype=torch.float32)] + ([] if rows else [x(4, dtype=torch.float32)])
    return [
        *each(function, argument, ["10", [10.0]], extra, "torch.Tensor", TypeError),
        *each(function, argument, [torch.tensor([10]), like(G, torch.float8_e4m3fn)], extra, "float"),
        *each(function, argument, wrong, extra, "must be a scalar, or one scale per row"),
    ]


def seed_cases(function, stochastic):
    """What is no seed; and any seed, unless the call is `stochastic`."""
    return [
        *each(function, "seed", [3, torch.tensor([3])], None, "seed has no meaning"),
        *each(function, "seed", ["3", 3.0, True, [3]], stochastic, "seed must be an int", TypeError),
        *each(function, "seed", [2**63, -(2**63) - 1], stochastic, "64-bit"),
        *each(
            function,
            "seed",
            [torch.tensor([3.0]), torch.tensor([3], dtype=torch.int32)],
            stochastic,
            "int64",
            TypeError,
        ),
        *each(function, "seed", [torch.tensor([3, 4]), torch.empty(0, dtype=torch.int64)], stochastic, "1 element"),
        *each(
            function, "seed", [x(1, dtype=torch.int64, device="meta")], stochastic, "all tensors must share one device"
        ),
    ]


PER_TOKEN = {"per_token_activation": True, "a_global_sf": 1 / 2688}
MX = {"sf_vec_size": 32, "sf_use_ue8m0": True}

CASES = [
    # ---- fp4_quantize ----
    *quantizer_cases("fp4_quantize", "input", 16, {}, e4m3=True),
    *quantizer_cases("fp4_quantize", "input", 32, MX, e4m3=True),
    Case("fp4_quantize", "input", {"input": x(4, 64, device="meta")}, "all tensors must share one device"),
    Case("fp4_quantize", "global_scale", {"global_scale": None}, "globalScale is required when sfUseUE8M0 is false"),
    Case("fp4_quantize", "global_scale", {"global_scale": 10.0}, "torch.Tensor", TypeError),
    Case("fp4_quantize", "global_scale", {"global_scale": x(1, dtype=torch.float32, device="meta")}, "device"),
    *scale_cases("fp4_quantize", "global_scale"),
    *each("fp4_quantize", "sf_vec_size", [8, 0, 64, None, "16"], None, "sf_vec_size can only be 16 or 32",
          NotImplementedError),
    Case("fp4_quantize", "sf_vec_size", {"sf_vec_size": 32}, "sf_use_ue8m0"),
    Case("fp4_quantize", "sf_use_ue8m0", {"sf_use_ue8m0": True}, "sf_vec_size=16"),
    Case("fp4_quantize", "is_sf_swizzled_layout", {"is_sf_swizzled_layout": False, "is_sf_8x4_layout": True}),
    Case("fp4_quantize", "is_sf_8x4_layout", {"is_sf_swizzled_layout": False, "is_sf_8x4_layout": True}),
    *each("fp4_quantize", "backend", NO_BACKEND, None, FLASHINFER_BACKEND),
    *each("fp4_quantize", "nvfp4_4over6", ["mse", 448, True]),
    Case("fp4_quantize", "nvfp4_4over6", {"nvfp4_4over6": RECIPE} | MX, "nvfp4_4over6 applies to NVFP4 only"),
    Case("fp4_quantize", "nvfp4_4over6", {"nvfp4_4over6": RECIPE, "input": x(4, 64).to(torch.float8_e4m3fn)},
         "requires fp16 or bf16 input"),
    # ---- nvfp4_quantize ----
    *quantizer_cases("nvfp4_quantize", "a", 16, {}, e4m3=True),
    *quantizer_cases("nvfp4_quantize", "a", 16, PER_TOKEN),
    Case("nvfp4_quantize", "a", {"a": x(32, 64, device="meta")}, "all tensors must share one device"),
    Case("nvfp4_quantize", "a_global_sf", {"a_global_sf": None}, "globalScale is required"),
    Case("nvfp4_quantize", "a_global_sf", {"per_token_activation": True, "a_global_sf": None}, "globalScale is required"),
    *scale_cases("nvfp4_quantize", "a_global_sf"),
    *scale_cases("nvfp4_quantize", "a_global_sf", {"per_token_activation": True}, rows=False),
    Case("nvfp4_quantize", "a_global_sf", {"per_token_activation": True, "a_global_sf": "x", "nvfp4_4over6": None},
         "torch.Tensor", TypeError),
    Case("nvfp4_quantize", "a_global_sf", {"per_token_activation": True, "a_global_sf": 1 / 2700, "nvfp4_4over6": None},
         "does not match the recipe"),
    Case("nvfp4_quantize", "a_global_sf",
         {"per_token_activation": True, "a_global_sf": torch.tensor([1 / 2688]),
          "nvfp4_4over6": NVFP44Over6Config(256)}, "does not match the recipe"),
    *each("nvfp4_quantize", "sfLayout", [3, -1, None, "128x4", [0]]),
    *(Case("nvfp4_quantize", "do_shuffle", {"do_shuffle": True, "sfLayout": kind}, "layout_128x4", AssertionError)
      for kind in (SfLayout.layout_8x4, SfLayout.layout_linear)),
    Case("nvfp4_quantize", "do_shuffle", {"do_shuffle": True, "a": x(33, 64)}, "multiples of 32", AssertionError),
    Case("nvfp4_quantize", "do_shuffle", {"do_shuffle": True, "a": x(2, 32, 64)}, "2-D"),
    *each("nvfp4_quantize", "sf_vec_size", [8, 64, None], None, "sf_vec_size can only be 16 or 32",
          NotImplementedError),
    Case("nvfp4_quantize", "sf_vec_size", {"sf_vec_size": 32}, "16", NotImplementedError),
    *each("nvfp4_quantize", "sf_vec_size", [8, 32], PER_TOKEN,
          "Per-token NVFP4 quantization only supports sf_vec_size=16"),
    *each("nvfp4_quantize", "backend", NO_BACKEND, None, FLASHINFER_BACKEND),
    Case("nvfp4_quantize", "per_token_activation", {"per_token_activation": True, "sf_vec_size": 32},
         "Per-token NVFP4 quantization only supports sf_vec_size=16"),
    Case("nvfp4_quantize", "expanded_idx_to_permuted_idx", {"expanded_idx_to_permuted_idx": x(4, dtype=torch.int32)},
         "expanded_idx_to_permuted_idx is only supported with per_token_activation=True"),
    *each("nvfp4_quantize", "expanded_idx_to_permuted_idx", [x(4, dtype=torch.int64), [0, 1]], PER_TOKEN),
    Case("nvfp4_quantize", "out_scale", {"out_scale": G}, "out_scale is only supported with per_token_activation=True"),
    *scale_cases("nvfp4_quantize", "out_scale", PER_TOKEN, rows=False),
    *each("nvfp4_quantize", "nvfp4_4over6", ["mse", 448, True]),
    *each("nvfp4_quantize", "nvfp4_4over6", ["mse", 448, True], PER_TOKEN),
    # ---- mxfp4_quantize ----
    *quantizer_cases("mxfp4_quantize", "a", 32, {}, e4m3=True),
    *each("mxfp4_quantize", "backend", NO_BACKEND, None, FLASHINFER_BACKEND),
    *each("mxfp4_quantize", "sfLayout", [3, -1, None, "128x4"]),
    # ---- make_nvfp4_global_scale ----
    *quantizer_cases("make_nvfp4_global_scale", "input_tensor", None, {}),
    *each("make_nvfp4_global_scale", "global_scale", ["10", [10.0], G], None, "number", TypeError),
    *each("make_nvfp4_global_scale", "nvfp4_4over6_config", ["mse", 448, True]),
    # ---- block_scale_interleave ----
    *each("block_scale_interleave", "unswizzled_sf", ["x", None], None, "torch.Tensor", TypeError),
    *each("block_scale_interleave", "unswizzled_sf",
          [x(5, 3, dtype=torch.float16), x(5, 3, dtype=torch.int32), x(5, 3, dtype=torch.float32)], None,
          "Input dtype must be uint8 or bfloat16, got ", AssertionError),
    *each("block_scale_interleave", "unswizzled_sf", [x(5, dtype=U8), x(1, 1, 5, 3, dtype=U8)], None, "2 or 3"),
    *each("block_scale_interleave", "out", ["x", [0]], None, "torch.Tensor", TypeError),
    *each("block_scale_interleave", "out",
          [x(512, dtype=BF16), x(511, dtype=U8), x(128, 4, dtype=U8), x(512, dtype=U8, device="meta"),
           x(1024, dtype=U8)[::2]], None, "block_scale_interleave out must be "),
    # ---- shuffle_matrix_a, shuffle_matrix_sf_a ----
    *each("shuffle_matrix_a", "input_tensor", ["x", None], None, "torch.Tensor", TypeError),
    *each("shuffle_matrix_a", "input_tensor", [x(63, 8), x(16, 8), x()], None, "multiple of 32", AssertionError),
    Case("shuffle_matrix_a", "input_tensor", {"input_tensor": x(24, 8), "epilogue_tile_m": 64}, "multiple of 16",
         AssertionError),
    *each("shuffle_matrix_a", "epilogue_tile_m", [0, -128, 8, 24, "128", None, 128.0, True], None, "multiple of 16"),
    *each("shuffle_matrix_sf_a", "input_tensor", ["x", None], None, "torch.Tensor", TypeError),
    *each("shuffle_matrix_sf_a", "input_tensor",
          [x(100, 8, dtype=U8), x(128, dtype=U8), x(2, 128, 8, dtype=U8)], None, "2-D with rows in multiples of 32",
          AssertionError),
    *each("shuffle_matrix_sf_a", "input_tensor", [x(128, 8, dtype=torch.float32)], None, "uint8", AssertionError),
    *each("shuffle_matrix_sf_a", "epilogue_tile_m", [0, 8, "128", None], None, "multiple of 16"),
    *each("shuffle_matrix_sf_a", "num_elts_per_sf", [8, 0, None, "16"]),
    # ---- e2m1_and_ufp8sf_scale_to_float, mxfp4_dequantize ----
    *each("e2m1_and_ufp8sf_scale_to_float", "e2m1_tensor", ["x", None, x(4, 32), x(4, 32, dtype=torch.int8)], None,
          "", TypeError),
    *each("e2m1_and_ufp8sf_scale_to_float", "e2m1_tensor",
          [x(32, dtype=U8), x(1, 4, 32, dtype=U8), x(4, 4, dtype=U8), x(4, 31, dtype=U8)], None, "[M, K / 2]"),
    *each("e2m1_and_ufp8sf_scale_to_float", "ufp8_scale_tensor",
          ["x", None, x(128, 4), x(128, 4, dtype=U8).view(torch.float8_e8m0fnu)], None, "", TypeError),
    *each("e2m1_and_ufp8sf_scale_to_float", "ufp8_scale_tensor", [x(4, 4, dtype=U8), x(129, 4, dtype=U8)], None,
          "scaleFP8SF size does not match"),
    Case("e2m1_and_ufp8sf_scale_to_float", "ufp8_scale_tensor",
         {"ufp8_scale_tensor": x(128, 4, dtype=U8, device="meta")}, "all tensors must share one device"),
    *scale_cases("e2m1_and_ufp8sf_scale_to_float", "global_scale_tensor", rows=False),
    Case("e2m1_and_ufp8sf_scale_to_float", "global_scale_tensor", {"global_scale_tensor": 1.0}, "torch.Tensor",
         TypeError),
    *each("e2m1_and_ufp8sf_scale_to_float", "sf_vec_size", [8, 32, None]),
    *each("e2m1_and_ufp8sf_scale_to_float", "ufp8_type", [2, -1, 0, None]),
    *(Case("e2m1_and_ufp8sf_scale_to_float", name, {"is_sf_swizzled_layout": False, "is_sf_8x4_layout": True})
      for name in ("is_sf_swizzled_layout", "is_sf_8x4_layout")),
    *each("mxfp4_dequantize", "a_fp4", ["x", None, x(4, 32)], None, "", TypeError),
    *each("mxfp4_dequantize", "a_fp4", [x(32, dtype=U8), x(4, 8, dtype=U8)], None, "[M, K / 2]"),
    *each("mxfp4_dequantize", "a_sf", ["x", None, x(128, 4), x(128, 4, dtype=U8).view(torch.float8_e4m3fn)], None, "",
          TypeError),
    *each("mxfp4_dequantize", "a_sf", [x(4, 2, dtype=U8)], None, "scaleFP8SF size does not match"),
    *each("mxfp4_dequantize", "sfLayout", [3, None, "linear"]),
    # ---- mm_fp4 ----
    *each("mm_fp4", "a", ["x", None], None, "torch.Tensor", TypeError),
    *each("mm_fp4", "a", [x(1, 4, 32, dtype=U8), x(32, dtype=U8)], None, "mm_fp4 accepts 2d tensors"),
    *each("mm_fp4", "a", [x(4, 40, dtype=U8)], None, "K dimension mismatch in mm_fp4"),
    *each("mm_fp4", "a", [x(4, 32), x(4, 32, dtype=torch.int8)], None,
          "a and b must have float4_e2m1fn_x2 packed into uint8"),
    Case("mm_fp4", "a", {"a": x(4, 32, dtype=U8, device="meta")}, "all tensors must share one device"),
    Case("mm_fp4", "a", {"a": x(4, 4, dtype=U8), "b": x(4, 32, dtype=U8)}, "multiple of block_size = 16"),
    *each("mm_fp4", "b", ["x", None], None, "torch.Tensor", TypeError),
    *each("mm_fp4", "b", [x(1, 32, 32, dtype=U8), x(32, dtype=U8)], None, "mm_fp4 accepts 2d tensors"),
    *each("mm_fp4", "b", [x(40, 32, dtype=U8)], None, "K dimension mismatch in mm_fp4"),
    *each("mm_fp4", "b", [x(32, 32)], None, "a and b must have float4_e2m1fn_x2 packed into uint8"),
    Case("mm_fp4", "b", {"b": x(32, 24, dtype=U8), "backend": "trtllm"}, "blocks of 32"),
    *(case for name in ("a_descale", "b_descale") for case in (
        *each("mm_fp4", name, ["x", None], None, "torch.Tensor", TypeError),
        *each("mm_fp4", name, [x(128, 4), x(128, 4, dtype=U8).view(torch.float8_e8m0fnu)], None,
              "a_descale and b_descale must have float8_e4m3fnx2 packed into uint8"),
        *each("mm_fp4", name, [x(4, 4, dtype=U8), x(128, 8, dtype=U8), x(511, dtype=U8), x(1, 128, 4, dtype=U8)], None,
              "128 x 4 = 512"),
        Case("mm_fp4", name, {name: x(128, 4, dtype=U8, device="meta")}, "all tensors must share one device"),
    )),
    *each("mm_fp4", "alpha", [1.0, "x", G.bfloat16(), G.double(), torch.tensor([1])], None,
          "alpha must be a float tensor"),
    *each("mm_fp4", "alpha", [x(2, dtype=torch.float32), x(32, dtype=torch.float32)], None,
          "alpha must be a scalar, or one scale per row"),
    Case("mm_fp4", "alpha", {"alpha": x(1, dtype=torch.float32, device="meta")}, "all tensors must share one device"),
    *each("mm_fp4", "out_dtype", [torch.float32, U8, None, "bfloat16"], None, "Unsupported output dtype"),
    *each("mm_fp4", "out", ["x", [1]], None, "torch.Tensor", TypeError),
    *each("mm_fp4", "out", [x(4, 31), x(5, 32), x(32, 4), x(1, 4, 32)], None, "Output shape mismatch"),
    *each("mm_fp4", "out", [x(4, 32, dtype=torch.float16)], None, "Output dtype mismatch"),
    *each("mm_fp4", "out", [x(4, 32, device="meta")], None, "Output device mismatch"),
    *each("mm_fp4", "out", [x(32, 4).t(), x(4, 64)[:, ::2]], None, "stride(-1) == 1"),
    *each("mm_fp4", "out", [x(1, 32).expand(4, 32), x(64).as_strided((4, 32), (8, 1))], None, "rows of out overlap"),
    *each("mm_fp4", "block_size", [32, 8, None], None, "nvfp4 only supports block_size = 16."),
    Case("mm_fp4", "block_size", {"block_size": 16, "use_nvfp4": False}, "mxfp4 only supports block_size = 32."),
    Case("mm_fp4", "use_8x4_sf_layout", {"use_8x4_sf_layout": True}, "layout_8x4"),
    *each("mm_fp4", "backend", NO_BACKEND, None, FLASHINFER_BACKEND),
    Case("mm_fp4", "use_nvfp4", {"use_nvfp4": False}, "mxfp4 only supports block_size = 32."),
    # ---- quantize_to_fp4 ----
    *quantizer_cases("quantize_to_fp4", "x", None, {}),
    *each("quantize_to_fp4", "backend", ["nonsense", 3], None, "does not support the given parameters"),
    *each("quantize_to_fp4", "scale_rule", ["nonsense", 6, "floor"]),
    *each("quantize_to_fp4", "scale_rule", ["mse", "l1_norm", "abs_max", tritonfp4.AdaptiveBlockScalingRule.mse],
          {"fp4_format": "mxfp4"}, "MXFP4 quantization only supports the `always_6` and `always_4` scale rules"),
    *each("quantize_to_fp4", "had", ["x", 16, True], None, "torch.Tensor", TypeError),
    *each("quantize_to_fp4", "had", [torch.eye(16).long(), torch.eye(16).double()], None, "had", TypeError),
    *each("quantize_to_fp4", "had", [x(16), x(16, 32), x(1, 16, 16), x()], None, "H must be a square matrix"),
    *each("quantize_to_fp4", "had", [x(0, 0), x(12, 12), x(65, 65)], None,
          "H must have dimensions that are a power of two"),
    *each("quantize_to_fp4", "had", [x(256, 256)], {"x": x(4, 256)}, "at most 128", NotImplementedError),
    *each("quantize_to_fp4", "had", [x(128, 128)], None,
          "The second dimension of A (64) must be divisible by the width of H (128)"),
    *each("quantize_to_fp4", "had", [x(16, 16)], {"transpose": True},
          "The first dimension of A (4) must be divisible by the width of H (16)"),
    *each("quantize_to_fp4", "had", [x(16, 16, device="meta")], None, "all tensors must share one device"),
    *each("quantize_to_fp4", "fp4_format", ["nonsense", "mxfp8", None, 4]),
    *each("quantize_to_fp4", "round_style", ["nonsense", None]),
    *each("quantize_to_fp4", "unbiased", [True], None, "unbiased=True needs round_style='stochastic'"),
    *(Case("quantize_to_fp4", "unbiased", {"unbiased": True, "round_style": "stochastic"} | change, "always_6")
      for change in ({"scale_rule": "mse"}, {"scale_rule": "always_4"}, {"fp4_format": "mxfp4"})),
    Case("quantize_to_fp4", "round_style", {"round_style": "stochastic_unbiased", "scale_rule": "mae"}, "always_6"),
    *seed_cases("quantize_to_fp4", {"round_style": "stochastic"}),
    Case("quantize_to_fp4", "transpose", {"transpose": True, "x": x(2, 4, 64)}, "2-D"),
    *each("quantize_to_fp4", "e4m3_max", [0, 255, "256", 6.0]),
    # ---- fp4_matmul ----
    *(case for side, size in (("a", 4), ("b", 32)) for case in (
        Case("fp4_matmul", side, {side: None}, f"If {side} is None, {side}_e2m1 and {side}_sf must be provided"),
        Case("fp4_matmul", side, {side: "x"}, "torch.Tensor", TypeError),
        *each("fp4_matmul", side, [x(64), x(2, size, 64)], None, "2-D"),
        *each("fp4_matmul", side, [x(size, 256)], None, "K dimension mismatch"),
        Case("fp4_matmul", side, {side: x(size, 64, device="meta")}, "all tensors must share one device"),
        *(Case("fp4_matmul", f"{side}_e2m1", {f"{side}_e2m1": bad, f"{side}_sf": PACKED[1]}, "", TypeError)
          for bad in ("x", x(128, 32), x(128, 32, dtype=torch.int8))),
        *(Case("fp4_matmul", f"{side}_e2m1", {f"{side}_e2m1": bad, f"{side}_sf": PACKED[1]}, "[rows, K / 2]")
          for bad in (x(32, dtype=U8), x(1, 128, 32, dtype=U8), x(128, 12, dtype=U8))),
        Case("fp4_matmul", f"{side}_e2m1", {side: None, f"{side}_sf": PACKED[1]},
             f"If {side} is None, {side}_e2m1 and {side}_sf must be provided"),
        Case("fp4_matmul", f"{side}_sf", {side: None, f"{side}_e2m1": PACKED[0]},
             f"If {side} is None, {side}_e2m1 and {side}_sf must be provided"),
        *(Case("fp4_matmul", f"{side}_sf", {f"{side}_e2m1": PACKED[0], f"{side}_sf": bad}, "", TypeError)
          for bad in ("x", x(512), x(512, dtype=U8).view(torch.float8_e8m0fnu))),
        *(Case("fp4_matmul", f"{side}_sf", {f"{side}_e2m1": PACKED[0], f"{side}_sf": bad}, "size does not match")
          for bad in (x(511, dtype=U8), x(1024, dtype=U8), x(1, 128, 4, dtype=U8))),
        *(Case("fp4_matmul", f"{side}_normconst",
               {f"{side}_e2m1": PACKED[0], f"{side}_sf": PACKED[1], f"{side}_normconst": bad}, text, also)
          for bad, text, also in (
              (1.0, "torch.Tensor", TypeError), ("x", "torch.Tensor", TypeError), (torch.tensor(1), "float", TypeError),
              (x(3, dtype=torch.float32), "must be a scalar, or one scale per row", ValueError),
              (x(1, dtype=torch.float32, device="meta"), "all tensors must share one device", ValueError))),
        *(case for name in (f"{side}_quantize_kwargs", f"{side}_quantization_kwargs") for case in (
            *each("fp4_matmul", name, [3, "mse", ["scale_rule"], 0], None, "dict", TypeError),
            *each("fp4_matmul", name, [{"rule": "mse"}, {"x": None}, {3: 4}], None, "unknown keywords", TypeError),
        )),
        Case("fp4_matmul", f"{side}_quantize_kwargs", {f"{side}_quantize_kwargs": {"fp4_format": "mxfp4"}}, "mxfp4"),
        *(Case("fp4_matmul", name, {f"{side}_quantize_kwargs": {}, f"{side}_quantization_kwargs": {}}, "give one")
          for name in (f"{side}_quantize_kwargs", f"{side}_quantization_kwargs")),
    )),
    *each("fp4_matmul", "backend", ["nonsense", 3], None, "is not available"),
    *each("fp4_matmul", "fp4_format", ["nonsense", "mxfp8", None]),
    Case("fp4_matmul", "fp4_format", {"fp4_format": "mxfp4", "a_e2m1": PACKED[0], "a_sf": PACKED[1]}, "a_sf"),
    *each("fp4_matmul", "out_dtype", ["float64", torch.float64, U8, None, 3], None, "Unsupported output dtype"),
    *each("fp4_matmul", "out_shape", [(1, 2, 3), (4,), 4, "ab", (1.0, 2.0)], None, "two integers", TypeError),
    *each("fp4_matmul", "out_shape", [(129, 32), (4, 129), (-1, 4)], None, "must lie within"),
    # ---- the verbs ----
    *quantizer_cases("quantize", "x", 16, {}),
    *quantizer_cases("quantize", "x", 32, {"format": "mxfp4"}),
    *each("quantize", "format", ["nonsense", "fp8", FORMATS["fp8"], None, 4, U8]),
    *each("quantize", "rule", ["nonsense", "floor", 6, "", 0]),
    *each("quantize", "rule", ["mse", "mae", "abs_max"], {"format": "mxfp4"}, "always_6"),
    *each("quantize", "e4m3_max", [0, 255, "256"]),
    *scale_cases("quantize", "global_scale"),
    *scale_cases("quantize", "amax"),
    Case("quantize", "global_scale", {"global_scale": x(1, dtype=torch.float32, device="meta")}, "device"),
    Case("quantize", "amax", {"amax": x(1, dtype=torch.float32, device="meta")}, "device"),
    *(Case("quantize", name, change, "exclude each other") for change, names in (
        ({"global_scale": G, "amax": G}, ("global_scale", "amax")),
        ({"global_scale": G, "per_row": True}, ("global_scale", "per_row")),
        ({"amax": G, "per_row": True}, ("amax", "per_row")),
    ) for name in names),
    *(Case("quantize", name, {name: value, "format": "mxfp4"}, "no global scale")
      for name, value in (("global_scale", G), ("amax", G), ("per_row", True))),
    *(Case("quantize", "tile_2d", {"tile_2d": True} | change, "global scale")
      for change in ({"per_row": True}, {"global_scale": torch.ones(4)}, {"amax": torch.ones(4)})),
    *each("quantize", "tile_2d", [True], {"format": "mxfp8"}, "mxfp8"),
    *each("quantize", "rounding", ["nonsense", None, 3, "stochastically"]),
    *each("quantize", "rounding", ["stochastic"], {"format": "mxfp8"}, "mxfp8"),
    *each("quantize", "rounding", ["stochastic_unbiased"], {"format": "mxfp4"}, "unbiased stochastic rounding"),
    *each("quantize", "rounding", ["stochastic_unbiased"], {"rule": "mse"}, "unbiased stochastic rounding"),
    *seed_cases("quantize", {"rounding": "stochastic"}),
    *each("quantize", "seed", [3], {"format": "mxfp8"}, "mxfp8"),
    *each("quantize", "layout", [3, -1, None, "128x4"]),
    *each("quantize", "backend", NO_BACKEND, None, FLASHINFER_BACKEND),
    *each("dequantize", "t", ["x", None, x(4, 64)], None, "BlockScaledTensor", TypeError),
    Case("dequantize", "t", {"t": replace(A, values=x(1, 8, 32, dtype=U8), shape=(1, 4, 64), batched=True)}, "rows and no more"),
    *each("dequantize", "dtype", [torch.float64, U8, None, "float32"], None, "", TypeError),
    *each("dequantize", "backend", NO_BACKEND, None, FLASHINFER_BACKEND),
    *(case for side, other, size in (("a", B, 4), ("b", A, 32)) for case in (
        *each("matmul", side, ["x", None, 3], None, "", TypeError),
        *each("matmul", side, [x(size, 64, dtype=torch.float32), x(size, 64, dtype=U8)], None, "dtype", TypeError),
        *each("matmul", side, [x(size, 128), tritonfp4.quantize(x(size, 128))], None, "K dimension mismatch"),
        *each("matmul", side, [x(64)], None, "dimensions"),
        *each("matmul", side, [x(size, 64, device="meta"), tritonfp4.quantize(x(size, 64)).to("meta")], None,
              "all tensors must share one device"),
    )),
    Case("matmul", "a", {"a": x(4, 64), "b": x(32, 64)}, "neither a nor b is a BlockScaledTensor"),
    Case("matmul", "b", {"b": tritonfp4.quantize(x(2, 32, 64))}, "2 dimensions"),
    Case("matmul", "b", {"a": tritonfp4.quantize(x(4, 64), "mxfp8"),
                         "b": replace(tritonfp4.quantize(x(32, 64), "mxfp8"), row_shuffle=32)}, "rows of b are shuffled"),
    *each("matmul", "out", ["x", [1]], None, "torch.Tensor", TypeError),
    *each("matmul", "out", ["x", [1]], {"out_dtype": BF16}, "torch.Tensor", TypeError),
    *each("matmul", "out", [x(4, 31), x(5, 32), x(1, 4, 32)], None, "Output shape mismatch"),
    *each("matmul", "out", [x(4, 32, dtype=torch.float16)], {"out_dtype": BF16}, "Output dtype mismatch"),
    *each("matmul", "out", [x(4, 32, dtype=torch.float64)], None, "Unsupported output dtype"),
    *each("matmul", "out", [x(4, 32, device="meta")], None, "Output device mismatch"),
    *each("matmul", "out", [x(32, 4).t()], None, "stride(-1) == 1"),
    *each("matmul", "out", [x(1, 32).expand(4, 32)], None, "rows of out overlap"),
    *each("matmul", "out", [x(3, 2, 32).transpose(0, 1)], {"a": tritonfp4.quantize(x(2, 3, 64))}, "strides"),
    *each("matmul", "out_dtype", [torch.float64, U8, "bfloat16", ""], None, "Unsupported output dtype"),
    *each("matmul", "backend", NO_BACKEND, None, FLASHINFER_BACKEND),
]  # fmt: skip


@pytest.mark.parametrize("function", VALID)
def test_the_call_that_the_cases_change_is_accepted(function):
    getattr(tritonfp4, function)(**VALID[function])


@pytest.mark.parametrize("case", CASES, ids=str)
def test_a_bad_argument_is_refused_by_name(case):
    """Our own error classes only, the original's among their bases, and a message that says which argument and why."""
    assert case.argument in message_of(case, getattr(tritonfp4, case.function), VALID[case.function]) or case.text


@pytest.mark.parametrize("function", VALID)
def test_every_parameter_has_a_refusal_or_takes_anything(function):
    assert unrefused(function, getattr(tritonfp4, function), CASES) == takes_anything(function, ANYTHING)


@pytest.mark.parametrize("function", VALID)
def test_every_parameter_has_a_refusal_that_names_it(function):
    spoken = {"use_8x4_sf_layout": "layout_8x4", "use_nvfp4": "mxfp4", "per_token_activation": "per-token"}
    assert unnamed(function, getattr(tritonfp4, function), VALID[function], CASES, spoken, True) <= takes_anything(
        function, ANYTHING
    )


def test_every_public_function_is_covered():
    functions = {
        name
        for name in tritonfp4.__all__
        if inspect.isfunction(getattr(tritonfp4, name))
        and name not in ("nvfp4_block_scale_interleave", "group_gemm_mxfp4_nt_groupwise")
    }
    covered = set(VALID)
    for room in ("fp8", "fused", "gemm", "options"):
        covered |= set(importlib.import_module(f"test_refusals_{room}").VALID)
    assert functions == covered
    assert tritonfp4.nvfp4_block_scale_interleave is tritonfp4.block_scale_interleave


@pytest.mark.parametrize(("function", "name"), sorted(ANYTHING))
@pytest.mark.parametrize("value", [None, "x", 3, False])
def test_parameters_that_take_anything_do(function, name, value):
    getattr(tritonfp4, function)(**VALID[function] | {name: value})


# ---- recipes ----


@pytest.mark.parametrize("value", [0, 255, "256", None])
def test_a_recipe_refuses_other_ranges(value):
    with pytest.raises(ValueError, match="e4m3_max must be either 256 or 448"):
        NVFP44Over6Config(e4m3_max=value)


@pytest.mark.parametrize("value", ["rms", 2, None, 1.5])
def test_a_recipe_refuses_other_error_modes(value):
    with pytest.raises(ValueError, match="err_mode must be MAE or MSE"):
        NVFP44Over6Config(err_mode=value)


@pytest.mark.parametrize(
    ("mode", "rule"), [("mse", "mse"), ("MAE", "mae"), (1, "mse"), (NVFP44Over6ErrMode.MAE, "mae")]
)
def test_a_recipe_takes_names_and_numbers_of_error_modes(mode, rule):
    assert NVFP44Over6Config(err_mode=mode).rule == rule


def test_the_default_recipe_is_flashinfer_s():
    assert (RECIPE.e4m3_max, RECIPE.err_mode, RECIPE.err_use_fast_math) == (448, NVFP44Over6ErrMode.MAE, False)
