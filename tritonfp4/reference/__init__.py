"""What the answer is: readable pure PyTorch, bit-exact, also what runs on CPU tensors.

Each function has the signature of a kernel launcher minus its Config.
"""

from tritonfp4.reference.fused import quantize_batched, rmsnorm_quantize
from tritonfp4.reference.matmul import dequantize, grouped_matmul, matmul
from tritonfp4.reference.quantize import global_encode_scale, quantize
from tritonfp4.reference.quantize_fp8 import quantize_fp8, quantize_mxfp8
from tritonfp4.reference.relayout import relayout, shuffle_rows
from tritonfp4.reference.rotate import rotate

__all__ = [
    "dequantize",
    "global_encode_scale",
    "grouped_matmul",
    "matmul",
    "quantize",
    "quantize_batched",
    "quantize_fp8",
    "quantize_mxfp8",
    "relayout",
    "rmsnorm_quantize",
    "rotate",
    "shuffle_rows",
]
