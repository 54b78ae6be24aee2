"""Dequantization to fp32, bf16 or fp16."""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from tritonfp4.config import Config
from tritonfp4.kernels.encode import (
    e2m1_decode_fp32,
    e4m3_decode_fp32,
    e5m2_decode_fp16,
    e8m0_decode_fp32,
    scale_offset,
    shuffled_index,
    to_dtype,
)
from tritonfp4.kernels.launch import INTERPRETED, on_device
from tritonfp4.layouts import ceil_div
from tritonfp4.tensor import BlockScaledTensor


@triton.jit
def decoded_elements(
    ptr, r, start, M, K, stride, stride_k, ELEMENT: tl.constexpr, ODD_K: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """fp32 [BLOCK_M, BLOCK_K]."""
    if ELEMENT == "e2m1":
        j = start // 2 + tl.arange(0, BLOCK_K // 2)
        end = tl.cdiv(K, 2) if ODD_K else K // 2  # tl.cdiv makes loads of one byte
        inside = (r < M)[:, None] & (j < end)[None, :]
        packed = tl.load(ptr + r[:, None] * stride + j[None, :] * stride_k, mask=inside, other=0)
        return tl.join(e2m1_decode_fp32(packed & 15), e2m1_decode_fp32(packed >> 4)).reshape(BLOCK_M, BLOCK_K)
    else:
        k = start + tl.arange(0, BLOCK_K)
        inside = (r < M)[:, None] & (k < K)[None, :]
        byte = tl.load(ptr + r[:, None] * stride + k[None, :] * stride_k, mask=inside, other=0)
        if ELEMENT == "e4m3":
            return e4m3_decode_fp32(byte)
        else:
            return e5m2_decode_fp16(byte).to(tl.float32)


@triton.jit
def decoded_scales(
    ptr, r, c, M, matrix_rows, stride_b, stride_m, stride_k, scale_cols, SCALE: tl.constexpr, ROWS: tl.constexpr,
    LAYOUT: tl.constexpr, ZERO_CODE: tl.constexpr, BATCHED: tl.constexpr,
):  # fmt: skip
    """fp32 [rows, scale columns]. Bytes lie in LAYOUT, `stride_b` of them a matrix; fp32 ones by their strides."""
    inside = (r < M)[:, None] & (c < scale_cols)[None, :]
    base = r[:, None] * 0
    if BATCHED:
        base = (r // matrix_rows)[:, None] * stride_b
        r = r % matrix_rows
    if SCALE == "fp32":
        return tl.load(ptr + base + (r // ROWS)[:, None] * stride_m + c[None, :] * stride_k, mask=inside, other=0.0)
    else:
        code = tl.load(ptr + base + scale_offset(r[:, None], c[None, :], scale_cols, LAYOUT), mask=inside, other=0)
        if SCALE == "e4m3":
            return e4m3_decode_fp32(code)
        else:
            scale = e8m0_decode_fp32(code)
            return tl.where(code == 0, 0.0, scale) if ZERO_CODE else scale


@triton.jit(do_not_specialize=["M", "matrix_rows"])
def dequantize_kernel(
    values_ptr, scales_ptr, global_ptr, out_ptr, M, K, matrix_rows, value_stride, value_stride_k,
    scale_stride_b, scale_stride_m, scale_stride_k, scale_cols, out_stride,
    ELEMENT: tl.constexpr, SCALE: tl.constexpr, ROWS: tl.constexpr, VEC: tl.constexpr, LAYOUT: tl.constexpr,
    SHUFFLE: tl.constexpr, GLOBAL: tl.constexpr, BATCHED: tl.constexpr, ZERO_CODE: tl.constexpr, ODD_K: tl.constexpr,
    SHIFT: tl.constexpr, INTERPRETED: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """out[r, k] = (element * scale) * global, rounded to fp32 after each product; SHIFT multiplies the scale (exact)."""
    C: tl.constexpr = BLOCK_K // VEC
    r = tl.program_id(0).to(tl.int64) * BLOCK_M + tl.arange(0, BLOCK_M)
    start = tl.program_id(1).to(tl.int64) * BLOCK_K
    x = decoded_elements(values_ptr, r, start, M, K, value_stride, value_stride_k, ELEMENT, ODD_K, BLOCK_M, BLOCK_K)
    if SCALE != "":
        c = tl.program_id(1).to(tl.int64) * C + tl.arange(0, C)
        scale = decoded_scales(
            scales_ptr, r, c, M, matrix_rows, scale_stride_b, scale_stride_m, scale_stride_k, scale_cols,
            SCALE, ROWS, LAYOUT, ZERO_CODE, BATCHED,
        ) * SHIFT  # fmt: skip
        x = (x.reshape(BLOCK_M, C, VEC) * scale[:, :, None]).reshape(BLOCK_M, BLOCK_K)
    elif SHIFT != 1.0:
        x = x * SHIFT
    row = shuffled_index(r, SHUFFLE)
    if GLOBAL == "one":
        x = x * tl.load(global_ptr)
    elif GLOBAL == "row":
        x = x * tl.load(global_ptr + row, mask=r < M, other=1.0)[:, None]
    elif GLOBAL == "matrix":
        x = x * tl.load(global_ptr + row // matrix_rows, mask=r < M, other=1.0)[:, None]
    k = start + tl.arange(0, BLOCK_K)
    out = out_ptr + row[:, None] * out_stride + k[None, :]
    tl.store(out, to_dtype(x, out_ptr.dtype.element_ty, INTERPRETED), mask=(r < M)[:, None] & (k < K)[None, :])


def dequantize(
    t: BlockScaledTensor, dtype: torch.dtype, zero_code: bool, config: Config, shift: float = 1.0
) -> torch.Tensor:
    """Launcher; as `tritonfp4.reference.dequantize`. `shift`: an exact power of two, for GEMM workspaces."""
    out = torch.empty((t.rows, t.cols), dtype=dtype, device=t.device)
    if out.numel() == 0:
        return out
    values, fmt = t.flat_values, t.format
    g = None if t.global_scale is None else t.global_scale.to(torch.float32).reshape(-1).contiguous()
    matrices, matrix_rows = (t.shape[0], t.shape[-2]) if t.batched else (1, t.rows)
    kind = "" if g is None else "one" if g.numel() == 1 else "matrix" if t.batched and g.numel() == matrices else "row"
    scales, strides = _scale_strides(t, matrices)
    block_k = max(config.block_k, fmt.vec)
    with on_device(out):
        dequantize_kernel[(ceil_div(t.rows, config.block_m), ceil_div(t.cols, block_k))](
            values, scales, g, out, t.rows, t.cols, matrix_rows, values.stride(0), values.stride(1), *strides,
            t.scale_cols, out.stride(0), ELEMENT=fmt.element, SCALE=fmt.scale, ROWS=fmt.block[0], VEC=fmt.vec,
            LAYOUT=int(t.layout), SHUFFLE=t.row_shuffle, GLOBAL=kind, BATCHED=t.batched,
            ZERO_CODE=zero_code and fmt.scale == "e8m0", ODD_K=t.cols % 2 == 1, SHIFT=shift, INTERPRETED=INTERPRETED,
            BLOCK_M=config.block_m, BLOCK_K=block_k, num_warps=config.num_warps, enable_fp_fusion=False,
        )  # fmt: skip
    return out


def _scale_strides(t: BlockScaledTensor, matrices: int) -> tuple[torch.Tensor | None, tuple[int, int, int]]:
    """The scales as the kernel takes them, and how far apart those of two matrices, rows and columns lie."""
    if not t.format.scale:
        return None, (0, 0, 0)
    if t.format.scale == "fp32":
        scales = t.scales.reshape(matrices, *t.scale_shape)
        return scales, scales.stride()
    return t.scales.contiguous(), (t.scales.numel() // matrices, 0, 0)
