"""flashinfer's FP4 quantizers and scale-layout functions."""

from tritonfp4.flashinfer.quantization.batched import nvfp4_batched_quantize, scaled_fp4_grouped_quantize
from tritonfp4.flashinfer.quantization.fp8 import (
    mxfp4_dequantize_host,
    mxfp8_dequantize_host,
    mxfp8_quantize,
    per_token_group_quant_8bit,
)
from tritonfp4.flashinfer.quantization.fused import silu_and_mul_nvfp4_quantize
from tritonfp4.flashinfer.quantization.kv import nvfp4_kv_dequantize, nvfp4_kv_quantize
from tritonfp4.flashinfer.quantization.quantizers import (
    fp4_quantize,
    make_nvfp4_global_scale,
    mxfp4_quantize,
    nvfp4_quantize,
)
from tritonfp4.flashinfer.quantization.recipe import UNSET, NVFP44Over6Config, NVFP44Over6ErrMode
from tritonfp4.flashinfer.quantization.scales import (
    block_scale_interleave,
    e2m1_and_ufp8sf_scale_to_float,
    mxfp4_dequantize,
    nvfp4_block_scale_interleave,
    shuffle_matrix_a,
    shuffle_matrix_sf_a,
)
from tritonfp4.layouts import SfLayout

__all__ = [
    "UNSET",
    "NVFP44Over6Config",
    "NVFP44Over6ErrMode",
    "SfLayout",
    "block_scale_interleave",
    "e2m1_and_ufp8sf_scale_to_float",
    "fp4_quantize",
    "make_nvfp4_global_scale",
    "mxfp4_dequantize",
    "mxfp4_dequantize_host",
    "mxfp4_quantize",
    "mxfp8_dequantize_host",
    "mxfp8_quantize",
    "nvfp4_batched_quantize",
    "nvfp4_block_scale_interleave",
    "nvfp4_kv_dequantize",
    "nvfp4_kv_quantize",
    "nvfp4_quantize",
    "per_token_group_quant_8bit",
    "scaled_fp4_grouped_quantize",
    "shuffle_matrix_a",
    "shuffle_matrix_sf_a",
    "silu_and_mul_nvfp4_quantize",
]
