"""flashinfer's GEMMs."""

from tritonfp4.flashinfer.gemm.fp4 import mm_fp4

__all__ = ["mm_fp4"]
