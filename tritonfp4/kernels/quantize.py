"""FP4 quantization: one pass over the input; a pass before it if the amax is asked for."""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from tritonfp4.config import Config
from tritonfp4.formats import BlockFormat, scale_range
from tritonfp4.kernels.encode import (
    e2m1_decode_fp32,
    e2m1_encode,
    e4m3_decode_fp32,
    e4m3_encode,
    scale_offset,
    to_fp32,
)
from tritonfp4.kernels.launch import on_device
from tritonfp4.layouts import SfLayout, as_layout, ceil_div

MAX_PARTIALS = 1024


@triton.jit
def _magnitude_bits(x):
    """fp32 -> magnitudes as ordered integers, -1 for NaN: an integer maximum then ignores NaN unless all are NaN."""
    a = x.to(tl.int32, bitcast=True) & 0x7FFFFFFF
    return tl.where(a > 0x7F800000, -1, a)


@triton.jit(do_not_specialize=["M"])
def amax_partials_kernel(
    x_ptr, out_ptr, M, K, stride_m, stride_k, BLOCK_M: tl.constexpr, BLOCK_K: tl.constexpr
):  # fmt: skip
    """Every program takes the tiles pid, pid + grid, ... and writes one partial maximum (magnitude bits)."""
    tiles_k = tl.cdiv(K, BLOCK_K)
    tiles = tl.cdiv(M, BLOCK_M) * tiles_k
    best = tl.zeros([BLOCK_M, BLOCK_K], tl.int32) - 1
    for tile in range(tl.program_id(0), tiles, tl.num_programs(0)):
        r = ((tile // tiles_k).to(tl.int64) * BLOCK_M + tl.arange(0, BLOCK_M))[:, None]
        k = ((tile % tiles_k).to(tl.int64) * BLOCK_K + tl.arange(0, BLOCK_K))[None, :]
        inside = (r < M) & (k < K)
        x = to_fp32(tl.load(x_ptr + r * stride_m + k * stride_k, mask=inside, other=0.0))
        best = tl.maximum(best, tl.where(inside, _magnitude_bits(x), -1))
    tl.store(out_ptr + tl.program_id(0), tl.max(best))


@triton.jit(do_not_specialize=["M"])
def amax_rows_kernel(
    x_ptr, out_ptr, M, K, stride_m, stride_k, BLOCK_M: tl.constexpr, BLOCK_K: tl.constexpr
):  # fmt: skip
    """Maximum of every row (magnitude bits)."""
    r = tl.program_id(0).to(tl.int64) * BLOCK_M + tl.arange(0, BLOCK_M)
    best = tl.zeros([BLOCK_M, BLOCK_K], tl.int32) - 1
    for start in range(0, K, BLOCK_K):
        k = (start + tl.arange(0, BLOCK_K)).to(tl.int64)[None, :]
        inside = (r[:, None] < M) & (k < K)
        x = to_fp32(tl.load(x_ptr + r[:, None] * stride_m + k * stride_k, mask=inside, other=0.0))
        best = tl.maximum(best, tl.where(inside, _magnitude_bits(x), -1))
    tl.store(out_ptr + r, tl.max(best, 1), mask=r < M)


@triton.jit
def _encode_scale(amax_bits, largest):
    """G = min(largest / amax, FLT_MAX); 1 where amax is 0, infinite or NaN (-1)."""
    g = tl.div_rn(largest, amax_bits.to(tl.float32, bitcast=True))
    g = tl.where(g > 3.4028234663852886e38, 3.4028234663852886e38, g)
    return tl.where((amax_bits <= 0) | (amax_bits >= 0x7F800000), 1.0, g)


@triton.jit
def _global_scales(
    global_ptr, range_ptr, rows, M, partials,
    SCALE_FROM: tl.constexpr, PER_ROW: tl.constexpr, LARGEST: tl.constexpr, PARTIALS: tl.constexpr,
):  # fmt: skip
    """-> G, amax (0 if unknown), decode multiplier; one for each of `rows`."""
    one = tl.full(rows.shape, 1.0, tl.float32)
    if PER_ROW:
        at, inside = rows, rows < M
    else:
        at, inside = rows * 0, rows >= 0
    if SCALE_FROM == "none":
        return one, one * 0.0, one
    elif SCALE_FROM == "encode":
        g = tl.load(global_ptr + at, mask=inside, other=1.0)
        return g, one * 0.0, tl.div_rn(one, g)
    elif SCALE_FROM == "decode":
        g = tl.div_rn(one, tl.load(global_ptr + at, mask=inside, other=1.0))
        return g, one * 0.0, tl.div_rn(one, g)
    else:
        if SCALE_FROM == "tensor":
            i = tl.arange(0, PARTIALS)
            bits = tl.max(tl.load(global_ptr + i, mask=i < partials, other=-1)) + tl.zeros(rows.shape, tl.int32)
        else:
            bits = tl.load(global_ptr + at, mask=inside, other=0)
        if range_ptr is None:
            largest = one * LARGEST
        else:
            largest = tl.div_rn(one, tl.load(range_ptr) * one)
        g = _encode_scale(bits, largest)
        decode = tl.div_rn(one, g)
        if SCALE_FROM == "row":
            decode = tl.where(bits == 0, 0.0, decode)
        return g, bits.to(tl.float32, bitcast=True), decode


@triton.jit(do_not_specialize=["partials"])
def encode_scale_kernel(partials_ptr, out_ptr, partials, LARGEST: tl.constexpr, PARTIALS: tl.constexpr):
    """Partial maxima -> G."""
    i = tl.arange(0, PARTIALS)
    bits = tl.max(tl.load(partials_ptr + i, mask=i < partials, other=-1)) + tl.zeros([1], tl.int32)
    tl.store(out_ptr + tl.arange(0, 1), _encode_scale(bits, tl.full([1], LARGEST, tl.float32)))


@triton.jit
def _reciprocal(s):
    r = tl.div_rn(tl.full(s.shape, 1.0, tl.float32), s)
    return tl.where(r > 3.4028234663852886e38, 3.4028234663852886e38, r)


@triton.jit
def _accumulate(e, d, METRIC: tl.constexpr):
    if METRIC == "mse":
        return e + d * d
    elif METRIC == "mae":
        return e + tl.abs(d)
    else:
        return tl.where(tl.abs(d) > e, tl.abs(d), e)


@triton.jit
def _block_error(d, METRIC: tl.constexpr, M: tl.constexpr, C: tl.constexpr):
    """[M, C, 16] -> [M, C]: the 16 elements are added in order, as the reference and TransformerEngine do."""
    even, odd = tl.split(d.reshape(M, C, 8, 2))
    e0, e2 = tl.split(even.reshape(M, C, 4, 2))  # 0 4 8 12, 2 6 10 14
    o1, o3 = tl.split(odd.reshape(M, C, 4, 2))  # 1 5 9 13, 3 7 11 15
    a0, a4 = tl.split(e0.reshape(M, C, 2, 2))
    a2, a6 = tl.split(e2.reshape(M, C, 2, 2))
    a1, a5 = tl.split(o1.reshape(M, C, 2, 2))
    a3, a7 = tl.split(o3.reshape(M, C, 2, 2))
    d0, d8 = tl.split(a0)
    d1, d9 = tl.split(a1)
    d2, d10 = tl.split(a2)
    d3, d11 = tl.split(a3)
    d4, d12 = tl.split(a4)
    d5, d13 = tl.split(a5)
    d6, d14 = tl.split(a6)
    d7, d15 = tl.split(a7)
    e = tl.zeros([M, C], tl.float32)
    e = _accumulate(e, d0, METRIC)
    e = _accumulate(e, d1, METRIC)
    e = _accumulate(e, d2, METRIC)
    e = _accumulate(e, d3, METRIC)
    e = _accumulate(e, d4, METRIC)
    e = _accumulate(e, d5, METRIC)
    e = _accumulate(e, d6, METRIC)
    e = _accumulate(e, d7, METRIC)
    e = _accumulate(e, d8, METRIC)
    e = _accumulate(e, d9, METRIC)
    e = _accumulate(e, d10, METRIC)
    e = _accumulate(e, d11, METRIC)
    e = _accumulate(e, d12, METRIC)
    e = _accumulate(e, d13, METRIC)
    e = _accumulate(e, d14, METRIC)
    e = _accumulate(e, d15, METRIC)
    return e


@triton.jit
def _nvfp4_candidate(
    x, zero, scaled, g, amax, METRIC: tl.constexpr, AMAX: tl.constexpr, LARGEST: tl.constexpr,
    M: tl.constexpr, C: tl.constexpr,
):  # fmt: skip
    """Quantize blocks with the scale nearest to `scaled` -> codes, scale bytes, error."""
    s8 = e4m3_encode(scaled)
    s = e4m3_decode_fp32(s8)
    inverse_g = tl.div_rn(tl.full(g.shape, 1.0, tl.float32), g)
    q = e2m1_encode(x * tl.where(zero, 0.0, _reciprocal(s * inverse_g))[:, :, None])
    product = e2m1_decode_fp32(q) * s[:, :, None]
    if AMAX:
        scaled_up = product * amax[:, :, None]
        decoded = tl.div_rn(scaled_up, tl.full(scaled_up.shape, LARGEST, tl.float32))
    else:
        decoded = product * inverse_g[:, :, None]
    return q, s8, _block_error(decoded - x, METRIC, M, C)


@triton.jit
def _nvfp4(
    x, bits, g, amax, RULE: tl.constexpr, AMAX: tl.constexpr, LARGEST: tl.constexpr, M: tl.constexpr, C: tl.constexpr
):  # fmt: skip
    """x [M, C, 16], magnitude bits of the block amax [M, C], G and amax [M, 1] -> codes, scale bytes."""
    v = bits.to(tl.float32, bitcast=True)
    zero = bits == 0
    if RULE == "static_6" or RULE == "static_4":
        inverse_max: tl.constexpr = 0.16666667163372040 if RULE == "static_6" else 0.25
        s8 = e4m3_encode(tl.where(zero, 0.0, v * (g * inverse_max)))
        inverse_g = tl.div_rn(tl.full(g.shape, 1.0, tl.float32), g)
        factor = tl.where(zero, 0.0, _reciprocal(e4m3_decode_fp32(s8) * inverse_g))
        return e2m1_encode(x * factor[:, :, None]), s8
    else:
        base = tl.where(zero, 0.0, tl.div_rn(v, tl.full(v.shape, 6.0, tl.float32)) * g)
        q6, s6, e6 = _nvfp4_candidate(x, zero, base, g, amax, RULE, AMAX, LARGEST, M, C)
        q4, s4, e4 = _nvfp4_candidate(x, zero, base * 1.5, g, amax, RULE, AMAX, LARGEST, M, C)
        four = e4 < e6
        return tl.where(four[:, :, None], q4, q6), tl.where(four, s4, s6)


@triton.jit
def _mxfp4(x, bits, RULE: tl.constexpr):
    """x [M, C, 32], magnitude bits of the block amax [M, C] -> codes, e8m0 scale bytes."""
    if RULE == "static_6":
        u = (bits.to(tl.float32, bitcast=True) * 0.16666667163372040).to(tl.int32, bitcast=True)
        code = (u >> 23) + ((u & 0x7FFFFF) != 0).to(tl.int32)
        code = tl.where((u >> 23) == 0, ((u & 0x7FFFFF) > 0x400000).to(tl.int32), code)
    elif RULE == "static_4":
        code = (bits >> 23) - 2 + ((bits & 0x7FFFFF) != 0).to(tl.int32)
    elif RULE == "even":
        code = ((bits + (1 << 21)) >> 23) - 2
    else:
        code = (bits >> 23) - 2
    code = tl.minimum(tl.maximum(code, 0), 254)
    code = tl.where(bits == 0x7F800000, 254, code)
    s8 = tl.where(bits < 0, 255, code)
    exponent = tl.maximum(254 - s8, 0)
    factor = tl.where(exponent == 0, 0x00400000, exponent << 23).to(tl.int32).to(tl.float32, bitcast=True)
    q = e2m1_encode(x * factor[:, :, None])
    is_nan = (x.to(tl.int32, bitcast=True) & 0x7FFFFFFF) > 0x7F800000
    return tl.where((s8 == 0)[:, :, None] & (is_nan == 0), q & 8, q), s8.to(tl.uint32)


@triton.jit(do_not_specialize=["M", "value_rows", "scale_rows", "partials"])
def quantize_kernel(
    x_ptr, global_ptr, range_ptr, out_scale_ptr, values_ptr, scales_ptr, decode_ptr,
    M, K, stride_m, stride_k, value_rows, value_cols, scale_rows, scale_cols, padded_scale_cols, partials,
    FORMAT: tl.constexpr, VEC: tl.constexpr, RULE: tl.constexpr, SCALE_FROM: tl.constexpr, PER_ROW: tl.constexpr,
    LARGEST: tl.constexpr, ERROR_RANGE: tl.constexpr, LAYOUT: tl.constexpr, PARTIALS: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """One tile: values [value_rows, value_cols] bytes, scale bytes in LAYOUT, and the decode multiplier.

    The grid covers the padded rows and columns: what lies outside [M, K] reads as 0 and is written as 0.
    """
    C: tl.constexpr = BLOCK_K // VEC
    pid_k = tl.program_id(1)
    r = tl.program_id(0).to(tl.int64) * BLOCK_M + tl.arange(0, BLOCK_M)
    k = pid_k.to(tl.int64) * BLOCK_K + tl.arange(0, BLOCK_K)
    inside = (r < M)[:, None] & (k < K)[None, :]
    x = tl.load(x_ptr + r[:, None] * stride_m + k[None, :] * stride_k, mask=inside, other=0.0)
    x = to_fp32(x).reshape(BLOCK_M, C, VEC)
    bits = tl.max(_magnitude_bits(x), 2)
    if FORMAT == "nvfp4":
        g, amax, decode = _global_scales(
            global_ptr, range_ptr, r, M, partials, SCALE_FROM, PER_ROW, LARGEST, PARTIALS
        )  # fmt: skip
        known: tl.constexpr = SCALE_FROM == "amax" or SCALE_FROM == "tensor" or SCALE_FROM == "row"
        q, s8 = _nvfp4(x, bits, g[:, None], amax[:, None], RULE, known, ERROR_RANGE, BLOCK_M, C)
    else:
        q, s8 = _mxfp4(x, bits, RULE)
        decode = tl.full([BLOCK_M], 1.0, tl.float32)
    low, high = tl.split(q.reshape(BLOCK_M, BLOCK_K // 2, 2))
    j = pid_k.to(tl.int64) * (BLOCK_K // 2) + tl.arange(0, BLOCK_K // 2)
    where = (r < value_rows)[:, None] & (j < value_cols)[None, :]
    tl.store(values_ptr + r[:, None] * value_cols + j[None, :], (low | (high << 4)).to(tl.uint8), mask=where)
    c = pid_k * C + tl.arange(0, C)
    where = (r < scale_rows)[:, None] & (c < padded_scale_cols)[None, :]
    tl.store(scales_ptr + scale_offset(r[:, None], c[None, :], scale_cols, LAYOUT), s8.to(tl.uint8), mask=where)
    if out_scale_ptr is not None:
        decode = decode * tl.load(out_scale_ptr)
    # A block compared with a block: Triton 3.9's interpreter refuses a mask that mixes in a scalar comparison.
    first = (r * 0 + pid_k == 0) & (r < M if PER_ROW else r == 0)
    tl.store(decode_ptr + (r if PER_ROW else r * 0), decode, mask=first)


def amax_bits(x: torch.Tensor, per_row: bool, config: Config) -> torch.Tensor:
    """Magnitude bits (int32, -1 for nothing but NaN): partial maxima of the tensor, or the maximum of each row."""
    rows, cols = x.shape
    args = (rows, cols, x.stride(0), x.stride(1))
    if per_row:
        out = torch.empty(rows, dtype=torch.int32, device=x.device)
        grid = (ceil_div(rows, config.block_m),)
        kernel = amax_rows_kernel
    else:
        tiles = ceil_div(rows, config.block_m) * ceil_div(cols, config.block_k)
        out = torch.empty(min(tiles, MAX_PARTIALS), dtype=torch.int32, device=x.device)
        grid = (out.numel(),)
        kernel = amax_partials_kernel
    kernel[grid](x, out, *args, BLOCK_M=config.block_m, BLOCK_K=config.block_k, num_warps=config.num_warps)
    return out


def global_encode_scale(x: torch.Tensor, largest: float, config: Config) -> torch.Tensor:
    """Launcher; as `tritonfp4.reference.global_encode_scale`."""
    with on_device(x):
        bits = amax_bits(x, False, config)
        out = torch.empty(1, dtype=torch.float32, device=x.device)
        encode_scale_kernel[(1,)](
            bits, out, bits.numel(), LARGEST=largest, PARTIALS=triton.next_power_of_2(bits.numel()), enable_fp_fusion=False
        )  # fmt: skip
    return out


def quantize(
    x: torch.Tensor,
    global_scale: torch.Tensor | None,
    out_scale: torch.Tensor | None,
    fmt: BlockFormat,
    rule: str,
    e4m3_max: int,
    scale_from: str,
    layout: SfLayout,
    pad: bool,
    config: Config,
    amax_config: Config,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Launcher; arguments and results as `tritonfp4.reference.quantize`."""
    rows, cols = x.shape
    kind = as_layout(layout)
    scale_cols = ceil_div(cols, fmt.vec)
    scale_rows, padded_cols = kind.storage_shape(rows, scale_cols)
    value_rows, value_cols = (scale_rows, padded_cols * fmt.vec // 2) if pad else (rows, cols // 2)
    values = torch.empty((value_rows, value_cols), dtype=torch.uint8, device=x.device)
    scales = torch.empty(scale_rows * padded_cols, dtype=torch.uint8, device=x.device)
    given = (
        None
        if global_scale is None or scale_from == "tensor"
        else global_scale.to(torch.float32).reshape(-1).contiguous()
    )
    per_row = scale_from == "row" or (given is not None and given.numel() == rows and rows > 1)
    decode = torch.empty(rows if per_row else 1, dtype=torch.float32, device=x.device)
    reciprocal_range = None
    partials = 1
    if not fmt.two_level:
        given, scale_from, per_row = None, "none", False
    with on_device(x):
        if scale_from in ("tensor", "row"):
            reciprocal_range = given if scale_from == "row" else None
            given = amax_bits(x, per_row, amax_config)
            partials = given.numel()
        elif scale_from == "amax":
            assert given is not None
            given = given.view(torch.int32)
        scaled_out = None if out_scale is None else out_scale.to(torch.float32).reshape(-1)
        grid = (ceil_div(scale_rows, config.block_m), ceil_div(padded_cols * fmt.vec, config.block_k))
        quantize_kernel[grid](
            x, given, reciprocal_range, scaled_out, values, scales, decode,
            rows, cols, x.stride(0), x.stride(1), value_rows, value_cols, scale_rows, scale_cols, padded_cols, partials,
            FORMAT=fmt.name, VEC=fmt.vec, RULE=rule, SCALE_FROM=scale_from, PER_ROW=per_row,
            LARGEST=scale_range(rule, e4m3_max), ERROR_RANGE=6.0 * e4m3_max, LAYOUT=int(layout),
            PARTIALS=triton.next_power_of_2(partials) if scale_from == "tensor" else 1,
            BLOCK_M=config.block_m, BLOCK_K=config.block_k, num_warps=config.num_warps, enable_fp_fusion=False,
        )  # fmt: skip
    return values, scales, decode
