"""flashinfer's GEMMs."""

from tritonfp4.flashinfer.gemm.bf16_fp4 import mm_bf16_fp4, prepare_bf16_fp4_weights
from tritonfp4.flashinfer.gemm.fp4 import mm_fp4
from tritonfp4.flashinfer.gemm.fp8 import (
    bmm_fp8,
    fp8_blockscale_gemm_sm90,
    gemm_fp8_nt_blockscaled,
    gemm_fp8_nt_groupwise,
)
from tritonfp4.flashinfer.gemm.grouped import (
    batch_deepgemm_fp8_nt_groupwise,
    group_deepgemm_fp8_nt_groupwise,
    group_gemm_fp8_nt_groupwise,
)
from tritonfp4.flashinfer.gemm.grouped_fp4 import (
    group_gemm_mxfp4_nt_groupwise,
    group_gemm_mxfp8_mxfp4_nt_groupwise,
    group_gemm_nvfp4_nt_groupwise,
)
from tritonfp4.flashinfer.gemm.mxfp8 import bmm_mxfp8, mm_mxfp8

__all__ = [
    "batch_deepgemm_fp8_nt_groupwise",
    "bmm_fp8",
    "bmm_mxfp8",
    "fp8_blockscale_gemm_sm90",
    "gemm_fp8_nt_blockscaled",
    "gemm_fp8_nt_groupwise",
    "group_deepgemm_fp8_nt_groupwise",
    "group_gemm_fp8_nt_groupwise",
    "group_gemm_mxfp4_nt_groupwise",
    "group_gemm_mxfp8_mxfp4_nt_groupwise",
    "group_gemm_nvfp4_nt_groupwise",
    "mm_bf16_fp4",
    "mm_fp4",
    "mm_mxfp8",
    "prepare_bf16_fp4_weights",
]
