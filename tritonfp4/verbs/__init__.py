"""The two verbs, quantize and multiply, on `BlockScaledTensor`s: check, unwrap, call the op, wrap."""

from tritonfp4.verbs.matmul import matmul
from tritonfp4.verbs.quantize import dequantize, quantize

__all__ = ["dequantize", "matmul", "quantize"]
