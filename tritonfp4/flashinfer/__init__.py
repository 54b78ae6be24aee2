"""flashinfer's names: ``import tritonfp4.flashinfer as flashinfer`` serves what this package covers of it.

Deviations, each on purpose: every function runs on every GPU since Ampere and on the CPU; quantizers use exact
arithmetic; strides never change meaning (a column-major input is still quantized along its last logical dimension);
scale sizes are checked; the ``FLASHINFER_*`` environment variables are not read (an omitted ``nvfp4_4over6`` means off).
"""

from tritonfp4.flashinfer import gemm, quantization, testing
from tritonfp4.flashinfer.gemm import mm_fp4
from tritonfp4.flashinfer.quantization import (
    NVFP44Over6Config,
    NVFP44Over6ErrMode,
    block_scale_interleave,
    e2m1_and_ufp8sf_scale_to_float,
    fp4_quantize,
    make_nvfp4_global_scale,
    mxfp4_dequantize,
    mxfp4_quantize,
    nvfp4_block_scale_interleave,
    nvfp4_quantize,
    shuffle_matrix_a,
    shuffle_matrix_sf_a,
)
from tritonfp4.layouts import SfLayout

__all__ = [
    "NVFP44Over6Config",
    "NVFP44Over6ErrMode",
    "SfLayout",
    "block_scale_interleave",
    "e2m1_and_ufp8sf_scale_to_float",
    "fp4_quantize",
    "gemm",
    "make_nvfp4_global_scale",
    "mm_fp4",
    "mxfp4_dequantize",
    "mxfp4_quantize",
    "nvfp4_block_scale_interleave",
    "nvfp4_quantize",
    "quantization",
    "shuffle_matrix_a",
    "shuffle_matrix_sf_a",
    "testing",
]
