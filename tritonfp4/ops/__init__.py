"""The torch operators: schemas, fakes, and dispatch. Flat tensors, ints and strings only; formats cross by name.

CPU tensors run `reference`; CUDA tensors run what `autotune.select` chose. ``backend`` is "auto", "torch" (the reference on
any device) or "triton" (the kernels; on CPU tensors in Triton's interpreter). Kernels are imported on first use.
"""

from tritonfp4.ops import dequantize, fused, layouts, matmul, quantize, quantize_fp8

__all__ = ["dequantize", "fused", "layouts", "matmul", "quantize", "quantize_fp8"]
