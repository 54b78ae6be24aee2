"""The verbs, quantize and multiply, on `BlockScaledTensor`s: check, unwrap, call the op, wrap."""

from tritonfp4.verbs.grouped import grouped_matmul
from tritonfp4.verbs.hadamard import hadamard_matrix
from tritonfp4.verbs.matmul import matmul
from tritonfp4.verbs.quantize import dequantize, quantize

__all__ = ["dequantize", "grouped_matmul", "hadamard_matrix", "matmul", "quantize"]
