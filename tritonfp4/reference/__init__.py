"""What the answer is: readable pure PyTorch, bit-exact, also what runs on CPU tensors.

Each function has the signature of a kernel launcher minus its Config.
"""

from tritonfp4.reference.matmul import dequantize, matmul
from tritonfp4.reference.quantize import global_encode_scale, quantize
from tritonfp4.reference.relayout import relayout, shuffle_rows

__all__ = ["dequantize", "global_encode_scale", "matmul", "quantize", "relayout", "shuffle_rows"]
