"""Dequantization to fp32, bf16 or fp16."""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from tritonfp4.config import Config
from tritonfp4.kernels.encode import e2m1_decode_fp32, scale_decode_fp32, scale_offset, shuffled_index, to_dtype
from tritonfp4.kernels.launch import INTERPRETED, on_device
from tritonfp4.layouts import ceil_div
from tritonfp4.tensor import BlockScaledTensor


@triton.jit(do_not_specialize=["M"])
def dequantize_kernel(
    values_ptr, scales_ptr, global_ptr, out_ptr, M, K, value_stride, value_stride_k, scale_cols, out_stride,
    FORMAT: tl.constexpr, VEC: tl.constexpr, LAYOUT: tl.constexpr, SHUFFLE: tl.constexpr, PER_ROW: tl.constexpr,
    ZERO_CODE: tl.constexpr, ODD_K: tl.constexpr, SHIFT: tl.constexpr, INTERPRETED: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """out[r, k] = (element * scale) * global, rounded to fp32 after each product; SHIFT multiplies the scale (exact)."""
    C: tl.constexpr = BLOCK_K // VEC
    r = tl.program_id(0).to(tl.int64) * BLOCK_M + tl.arange(0, BLOCK_M)
    start = tl.program_id(1).to(tl.int64) * BLOCK_K
    j = start // 2 + tl.arange(0, BLOCK_K // 2)
    inside = (r < M)[:, None] & (j < (tl.cdiv(K, 2) if ODD_K else K // 2))[None, :]  # tl.cdiv makes loads of one byte
    packed = tl.load(values_ptr + r[:, None] * value_stride + j[None, :] * value_stride_k, mask=inside, other=0)
    c = tl.program_id(1) * C + tl.arange(0, C)
    inside = (r < M)[:, None] & (c < scale_cols)[None, :]
    code = tl.load(scales_ptr + scale_offset(r[:, None], c[None, :], scale_cols, LAYOUT), mask=inside, other=0)
    scale = scale_decode_fp32(code, FORMAT)
    if ZERO_CODE:
        scale = tl.where(code == 0, 0.0, scale)
    scale = scale * SHIFT
    x = tl.join(e2m1_decode_fp32(packed & 15), e2m1_decode_fp32(packed >> 4)).reshape(BLOCK_M, C, VEC)
    x = (x * scale[:, :, None]).reshape(BLOCK_M, BLOCK_K)
    row = shuffled_index(r, SHUFFLE)
    if global_ptr is not None:
        if PER_ROW:
            x = x * tl.load(global_ptr + row, mask=r < M, other=1.0)[:, None]
        else:
            x = x * tl.load(global_ptr)
    k = start + tl.arange(0, BLOCK_K)
    out = out_ptr + row[:, None] * out_stride + k[None, :]
    tl.store(out, to_dtype(x, out_ptr.dtype.element_ty, INTERPRETED), mask=(r < M)[:, None] & (k < K)[None, :])


def dequantize(
    t: BlockScaledTensor, dtype: torch.dtype, zero_code: bool, config: Config, shift: float = 1.0
) -> torch.Tensor:
    """Launcher; as `tritonfp4.reference.dequantize`. `shift`: an exact power of two, for GEMM workspaces."""
    out = torch.empty((t.rows, t.cols), dtype=dtype, device=t.device)
    values = t.flat_values
    g = None if t.global_scale is None else t.global_scale.to(torch.float32).reshape(-1).contiguous()
    per_row = g is not None and g.numel() > 1
    if out.numel() == 0:
        return out
    with on_device(out):
        dequantize_kernel[(ceil_div(t.rows, config.block_m), ceil_div(t.cols, config.block_k))](
            values, t.scales.contiguous(), g, out, t.rows, t.cols, values.stride(0), values.stride(1), t.scale_cols, out.stride(0),
            FORMAT=t.format.name, VEC=t.format.vec, LAYOUT=int(t.layout), SHUFFLE=t.row_shuffle, PER_ROW=per_row,
            ZERO_CODE=zero_code and t.format.scale == "e8m0", ODD_K=t.cols % 2 == 1, SHIFT=shift, INTERPRETED=INTERPRETED,
            BLOCK_M=config.block_m, BLOCK_K=config.block_k, num_warps=config.num_warps, enable_fp_fusion=False,
        )  # fmt: skip
    return out
