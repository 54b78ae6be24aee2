"""Block-scaled FP4 and FP8 matrices in pure Triton: quantize and multiply on any NVIDIA GPU since Ampere, and on the CPU.

Importing the package touches no GPU, imports no kernel and compiles nothing.
"""

from tritonfp4 import flashinfer, ops
from tritonfp4.checks import (
    ArgumentError,
    BackendError,
    DeviceError,
    DTypeError,
    ShapeError,
    UnsupportedError,
)
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
from tritonfp4.formats import FP8_1X128, FP8_128X128, MXFP4, MXFP8, NVFP4, BlockFormat
from tritonfp4.fouroversix import (
    AdaptiveBlockScalingRule,
    DataType,
    FP4Format,
    MatmulBackend,
    QuantizeBackend,
    RoundStyle,
    fp4_matmul,
    quantize_to_fp4,
)
from tritonfp4.layouts import SfLayout
from tritonfp4.tensor import BlockScaledTensor
from tritonfp4.verbs import dequantize, matmul, quantize

__version__ = "0.1.0"

__all__ = [
    "FP8_1X128",
    "FP8_128X128",
    "MXFP4",
    "MXFP8",
    "NVFP4",
    "AdaptiveBlockScalingRule",
    "ArgumentError",
    "BackendError",
    "BlockFormat",
    "BlockScaledTensor",
    "DTypeError",
    "DataType",
    "DeviceError",
    "FP4Format",
    "MatmulBackend",
    "NVFP44Over6Config",
    "NVFP44Over6ErrMode",
    "QuantizeBackend",
    "RoundStyle",
    "SfLayout",
    "ShapeError",
    "UnsupportedError",
    "block_scale_interleave",
    "dequantize",
    "e2m1_and_ufp8sf_scale_to_float",
    "flashinfer",
    "fp4_matmul",
    "fp4_quantize",
    "make_nvfp4_global_scale",
    "matmul",
    "mm_fp4",
    "mxfp4_dequantize",
    "mxfp4_quantize",
    "nvfp4_block_scale_interleave",
    "nvfp4_quantize",
    "ops",
    "quantize",
    "quantize_to_fp4",
    "shuffle_matrix_a",
    "shuffle_matrix_sf_a",
]
