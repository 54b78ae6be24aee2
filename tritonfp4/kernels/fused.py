"""Batched, grouped and masked quantization, with SiLU or RMSNorm before it: one pass over the input, two for RMSNorm."""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from tritonfp4.config import Config
from tritonfp4.formats import RMS_TILE, BlockFormat
from tritonfp4.kernels.blocks import _mxfp4, _nvfp4
from tritonfp4.kernels.encode import scale_offset, to_dtype, to_fp32
from tritonfp4.kernels.launch import INTERPRETED, on_device
from tritonfp4.kernels.quantize import _magnitude_bits
from tritonfp4.layouts import SfLayout, as_layout, ceil_div


@triton.jit
def _power(n):
    """2^n as fp32."""
    return ((n + 127) << 23).to(tl.float32, bitcast=True)


@triton.jit
def _exp(t):
    """fp32 exponential, operation by operation `tritonfp4.reference.fused.exp`: `tl.exp` differs from torch's."""
    t = tl.where(t > 110.0, 110.0, tl.where(t < -110.0, -110.0, t))
    shifted = t * 1.4426950408889634 + 12582912.0
    n = shifted - 12582912.0
    r = t - n * 0.693359375
    r = r + n * 2.12194440e-4
    p = r * 0.0001984126984126984 + 0.001388888888888889
    p = p * r + 0.008333333333333333
    p = p * r + 0.041666666666666664
    p = p * r + 0.16666666666666666
    p = p * r + 0.5
    p = p * r + 1.0
    p = p * r + 1.0
    whole = shifted.to(tl.int32, bitcast=True) - 0x4B400000
    half = whole >> 1
    return p * _power(half) * _power(whole - half)


@triton.jit
def _silu(x):
    return tl.div_rn(x, 1.0 + _exp(-x))


@triton.jit
def _row_sum(x, M: tl.constexpr, N: tl.constexpr, LEVELS: tl.constexpr):
    """[M, N] -> [M, 1]: neighbours are added until one is left. `tl.sum` over more than two has no fixed order."""
    for level in tl.static_range(LEVELS):
        x = tl.sum(x.reshape(M, N >> (level + 1), 2), 2)
    return x


@triton.jit
def _store_block(
    q, s8, values_ptr, scales_ptr, linear_ptr, r, column, value_rows, value_cols, scale_rows, scale_cols, padded_scale_cols,
    VEC: tl.constexpr, LAYOUT: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """Codes [BLOCK_M, ...] and scale bytes of the blocks from `column` on -> packed values, scales; linear scales besides."""
    C: tl.constexpr = BLOCK_K // VEC
    low, high = tl.split(q.reshape(BLOCK_M, BLOCK_K // 2, 2))
    j = column // 2 + tl.arange(0, BLOCK_K // 2)
    where = (r < value_rows)[:, None] & (j < value_cols)[None, :]
    tl.store(values_ptr + r[:, None] * value_cols + j[None, :], (low | (high << 4)).to(tl.uint8), mask=where)
    c = column // VEC + tl.arange(0, C)
    byte = s8.to(tl.uint8)
    where = (r < scale_rows)[:, None] & (c < padded_scale_cols)[None, :]
    if scales_ptr is not None:
        tl.store(scales_ptr + scale_offset(r[:, None], c[None, :], scale_cols, LAYOUT), byte, mask=where)
    if linear_ptr is not None:
        where = (r < value_rows)[:, None] & (c < scale_cols)[None, :]
        tl.store(linear_ptr + r[:, None] * scale_cols + c[None, :], byte, mask=where)


@triton.jit(do_not_specialize=["tiles", "M", "scale_rows"])
def quantize_batched_kernel(
    x_ptr, counts_ptr, global_ptr, values_ptr, scales_ptr,
    tiles, M, K, stride_b, stride_m, stride_k, scale_stride_b, scale_stride_m,
    value_cols, scale_rows, scale_cols, padded_scale_cols,
    VEC: tl.constexpr, RULE: tl.constexpr, ERROR_RANGE: tl.constexpr, LAYOUT: tl.constexpr, ACTIVATION: tl.constexpr,
    INTERPRETED: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """One tile of one matrix. Rows from counts[b] on are zeros, whatever the input holds there; so is the padding."""
    batch = (tl.program_id(0) // tiles).to(tl.int64)
    r = (tl.program_id(0) % tiles).to(tl.int64) * BLOCK_M + tl.arange(0, BLOCK_M)
    column = tl.program_id(1).to(tl.int64) * BLOCK_K
    k = column + tl.arange(0, BLOCK_K)
    live = r < M
    if counts_ptr is not None:
        live = live & (r < tl.load(counts_ptr + batch) + r * 0)
    inside = live[:, None] & (k < K)[None, :]
    where = x_ptr + batch * stride_b + r[:, None] * stride_m + k[None, :] * stride_k
    x = to_fp32(tl.load(where, mask=inside, other=0.0))
    if ACTIVATION == "silu_and_mul":
        up = to_fp32(tl.load(where + K.to(tl.int64) * stride_k, mask=inside, other=0.0))
        x = to_fp32(to_dtype(_silu(x) * up, x_ptr.dtype.element_ty, INTERPRETED))
    x = x.reshape(BLOCK_M, BLOCK_K // VEC, VEC)
    bits = tl.max(_magnitude_bits(x), 2)
    g = tl.load(global_ptr + batch * scale_stride_b + r * scale_stride_m, mask=live, other=1.0)
    q, s8 = _nvfp4(
        x, bits, g[:, None], g[:, None], RULE, False, ERROR_RANGE, BLOCK_M, BLOCK_K // VEC, None, "nearest", False
    )  # fmt: skip
    _store_block(
        q, s8, values_ptr + batch * M * value_cols, scales_ptr + batch * scale_rows * padded_scale_cols, None,
        r, column, M, value_cols, scale_rows, scale_cols, padded_scale_cols, VEC, LAYOUT, BLOCK_M, BLOCK_K,
    )  # fmt: skip


@triton.jit(do_not_specialize=["M", "scale_rows"])
def rmsnorm_quantize_kernel(
    x_ptr, residual_ptr, weight_ptr, global_ptr, values_ptr, scales_ptr, linear_ptr, normed_ptr,
    M, K, stride_m, stride_k, residual_stride_m, residual_stride_k, weight_stride, scale_rows, scale_cols, padded_scale_cols,
    EPS: tl.constexpr, E8M0: tl.constexpr, VEC: tl.constexpr, LAYOUT: tl.constexpr, LEVELS: tl.constexpr,
    INTERPRETED: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """Whole rows: one pass for the sum of squares, one that normalizes, updates the residual and quantizes.

    The residual is written in the second pass, tile by tile right after its last read.
    """
    C: tl.constexpr = BLOCK_K // VEC
    dtype: tl.constexpr = x_ptr.dtype.element_ty
    r = tl.program_id(0).to(tl.int64) * BLOCK_M + tl.arange(0, BLOCK_M)
    live = (r < M)[:, None]
    total = tl.zeros([BLOCK_M, BLOCK_K], tl.float32)
    for start in range(0, K, BLOCK_K):
        k = (start + tl.arange(0, BLOCK_K)).to(tl.int64)[None, :]
        inside = live & (k < K)
        x = to_fp32(tl.load(x_ptr + r[:, None] * stride_m + k * stride_k, mask=inside, other=0.0))
        if residual_ptr is not None:
            at = residual_ptr + r[:, None] * residual_stride_m + k * residual_stride_k
            x = x + to_fp32(tl.load(at, mask=inside, other=0.0))
        total = total + x * x
    mean = _row_sum(total, BLOCK_M, BLOCK_K, LEVELS)
    one = tl.full([BLOCK_M, 1], 1.0, tl.float32)
    mean = tl.div_rn(mean, one * K.to(tl.float32))
    inverse = tl.div_rn(one, tl.sqrt_rn(mean + EPS))
    g = one.reshape(BLOCK_M)
    if global_ptr is not None:
        g = tl.load(global_ptr) * g
    for start in range(0, padded_scale_cols * VEC, BLOCK_K):
        k = (start + tl.arange(0, BLOCK_K)).to(tl.int64)
        inside = live & (k < K)[None, :]
        x = to_fp32(tl.load(x_ptr + r[:, None] * stride_m + k[None, :] * stride_k, mask=inside, other=0.0))
        w = to_fp32(tl.load(weight_ptr + k * weight_stride, mask=k < K, other=0.0))[None, :]
        if residual_ptr is None:
            y = to_fp32(to_dtype(x * w, dtype, INTERPRETED)) * inverse
        else:
            at = residual_ptr + r[:, None] * residual_stride_m + k[None, :] * residual_stride_k
            h = to_dtype(x + to_fp32(tl.load(at, mask=inside, other=0.0)), dtype, INTERPRETED)
            tl.store(at, h, mask=inside)
            y = to_fp32(h) * inverse * w
        if normed_ptr is not None:
            at = normed_ptr + r[:, None] * K + k[None, :]
            tl.store(at, to_dtype(y, dtype, INTERPRETED), mask=inside)
        y = tl.where(inside, y, 0.0).reshape(BLOCK_M, C, VEC)  # 0 * inverse may be NaN in the padding
        bits = tl.max(_magnitude_bits(y), 2)
        if E8M0:
            q, s8 = _mxfp4(y, bits, "static_6", None, "nearest")
        else:
            q, s8 = _nvfp4(y, bits, g[:, None], g[:, None], "static_6", False, 0.0, BLOCK_M, C, None, "nearest", False)
        _store_block(
            q, s8, values_ptr, scales_ptr, linear_ptr, r, start, M, K // 2, scale_rows, scale_cols, padded_scale_cols,
            VEC, LAYOUT, BLOCK_M, BLOCK_K,
        )  # fmt: skip


def quantize_batched(
    x: torch.Tensor,
    counts: torch.Tensor | None,
    global_scale: torch.Tensor,
    fmt: BlockFormat,
    activation: str,
    rule: str,
    e4m3_max: int,
    layout: SfLayout,
    config: Config,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Launcher; arguments and results as `tritonfp4.reference.quantize_batched`."""
    batch, rows, cols = x.shape
    cols = cols // 2 if activation else cols
    scale_cols = cols // fmt.vec
    scale_rows, padded_cols = as_layout(layout).storage_shape(rows, scale_cols)
    values = torch.empty((batch, rows, cols // 2), dtype=torch.uint8, device=x.device)
    scales = torch.empty((batch, scale_rows * padded_cols), dtype=torch.uint8, device=x.device)
    steps = [0 if size == 1 else step for size, step in zip(global_scale.shape, global_scale.stride(), strict=True)]
    tiles = ceil_div(scale_rows, config.block_m)
    with on_device(x):
        quantize_batched_kernel[(batch * tiles, ceil_div(padded_cols * fmt.vec, config.block_k))](
            x, counts, global_scale, values, scales,
            tiles, rows, cols, *x.stride(), *steps, cols // 2, scale_rows, scale_cols, padded_cols,
            VEC=fmt.vec, RULE=rule, ERROR_RANGE=6.0 * e4m3_max, LAYOUT=int(layout), ACTIVATION=activation,
            INTERPRETED=INTERPRETED, BLOCK_M=config.block_m, BLOCK_K=config.block_k, num_warps=config.num_warps,
            enable_fp_fusion=False,
        )  # fmt: skip
    return values, scales


def rmsnorm_quantize(
    x: torch.Tensor,
    residual: torch.Tensor | None,
    weight: torch.Tensor,
    global_scale: torch.Tensor | None,
    eps: float,
    fmt: BlockFormat,
    values: torch.Tensor,
    swizzled: torch.Tensor | None,
    linear: torch.Tensor | None,
    normed: torch.Tensor | None,
    config: Config,
) -> None:
    """Launcher; arguments and effects as `tritonfp4.reference.rmsnorm_quantize`. The tile's width follows from H."""
    rows, cols = x.shape
    kind = SfLayout.layout_linear if swizzled is None else SfLayout.layout_128x4
    scale_cols = cols // fmt.vec
    scale_rows, padded_cols = as_layout(kind).storage_shape(rows, scale_cols)
    block_k = min(triton.next_power_of_2(padded_cols * fmt.vec), RMS_TILE)  # a shorter tile has the same sum
    block_m = max(1, config.block_m * config.block_k // block_k)
    steps = (0, 0) if residual is None else residual.stride()
    with on_device(x):
        rmsnorm_quantize_kernel[(ceil_div(scale_rows, block_m),)](
            x, residual, weight, global_scale if fmt.two_level else None, values, swizzled, linear, normed,
            rows, cols, *x.stride(), *steps, weight.stride(0), scale_rows, scale_cols, padded_cols,
            EPS=eps, E8M0=fmt.scale == "e8m0", VEC=fmt.vec, LAYOUT=int(kind), LEVELS=block_k.bit_length() - 1,
            INTERPRETED=INTERPRETED, BLOCK_M=block_m, BLOCK_K=block_k, num_warps=config.num_warps, enable_fp_fusion=False,
        )  # fmt: skip
