"""FP4 quantization: one pass over the input; a pass before it if the amax is asked for."""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from tritonfp4.config import Config
from tritonfp4.formats import BlockFormat, scale_range
from tritonfp4.kernels.blocks import _mxfp4, _nvfp4, tile_maximum
from tritonfp4.kernels.encode import e4m3_decode_fp32, scale_offset, to_fp32
from tritonfp4.kernels.launch import on_device
from tritonfp4.kernels.stochastic import random_bits
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
    """G = min(largest / amax, FLT_MAX); 1 where that is 0, or amax is 0, infinite or NaN (-1)."""
    g = tl.div_rn(largest, amax_bits.to(tl.float32, bitcast=True))
    g = tl.where(g > 3.4028234663852886e38, 3.4028234663852886e38, g)
    return tl.where((g == 0.0) | (amax_bits <= 0) | (amax_bits >= 0x7F800000), 1.0, g)


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
def _input_fp32(x, g, FORMAT: tl.constexpr):
    """Loaded elements [M, K], G [M, 1] -> fp32. Bytes are e4m3: for NVFP4 they stand for fp8 * 6 / G, rounded to fp16."""
    if x.dtype == tl.uint8:
        x = e4m3_decode_fp32(x)
        if FORMAT == "nvfp4":
            x = (x * (tl.div_rn(tl.full(g.shape, 1.0, tl.float32), g) * 6.0)).to(tl.float16).to(tl.float32)
        return x
    else:
        return to_fp32(x)


@triton.jit(do_not_specialize=["M", "value_rows", "scale_rows", "partials"])
def quantize_kernel(
    x_ptr, global_ptr, range_ptr, out_scale_ptr, seed_ptr, values_ptr, scales_ptr, decode_ptr,
    M, K, stride_m, stride_k, value_rows, value_cols, scale_rows, scale_cols, padded_scale_cols, partials,
    FORMAT: tl.constexpr, VEC: tl.constexpr, RULE: tl.constexpr, SCALE_FROM: tl.constexpr, PER_ROW: tl.constexpr,
    LARGEST: tl.constexpr, ERROR_RANGE: tl.constexpr, LAYOUT: tl.constexpr, PARTIALS: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_K: tl.constexpr, ROUNDING: tl.constexpr, TILE: tl.constexpr, ALIGNED: tl.constexpr,
):  # fmt: skip
    """One tile: values [value_rows, value_cols] bytes, scale bytes in LAYOUT, and the decode multiplier.

    The grid covers the padded rows and columns: what lies outside [M, K] reads as 0 and is written as 0. TILE: one scale
    for VEC rows and VEC columns. ALIGNED: K is a multiple of 8 (`random_bits`).
    """
    C: tl.constexpr = BLOCK_K // VEC
    pid_k = tl.program_id(1)
    r = tl.program_id(0).to(tl.int64) * BLOCK_M + tl.arange(0, BLOCK_M)
    k = pid_k.to(tl.int64) * BLOCK_K + tl.arange(0, BLOCK_K)
    inside = (r < M)[:, None] & (k < K)[None, :]
    x = tl.load(x_ptr + r[:, None] * stride_m + k[None, :] * stride_k, mask=inside, other=0.0)
    g, amax, decode = _global_scales(global_ptr, range_ptr, r, M, partials, SCALE_FROM, PER_ROW, LARGEST, PARTIALS)
    x = _input_fp32(x, g[:, None], FORMAT).reshape(BLOCK_M, C, VEC)
    bits = tl.max(_magnitude_bits(x), 2)
    if TILE:
        bits = tile_maximum(bits, VEC, BLOCK_M, C)
    noise = None
    if ROUNDING != "nearest":
        noise = random_bits(seed_ptr, r, pid_k, K, ALIGNED, BLOCK_M, BLOCK_K).reshape(BLOCK_M, C, VEC)
    if FORMAT == "nvfp4":
        known: tl.constexpr = SCALE_FROM == "amax" or SCALE_FROM == "tensor" or SCALE_FROM == "row"
        q, s8 = _nvfp4(x, bits, g[:, None], amax[:, None], RULE, known, ERROR_RANGE, BLOCK_M, C, noise, ROUNDING, TILE)
    else:
        q, s8 = _mxfp4(x, bits, RULE, noise, ROUNDING)
    if TILE:  # rows of padding in a tile with true rows
        s8 = tl.where((r < M)[:, None], s8, 0)
        q = tl.where((r < M)[:, None, None], q, 0)
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
    tile_2d: bool = False,
    rounding: str = "nearest",
    seed: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Launcher; arguments and results as `tritonfp4.reference.quantize`."""
    rows, cols = x.shape
    kind = as_layout(layout)
    scale_cols = ceil_div(cols, fmt.vec)
    scale_rows, padded_cols = kind.storage_shape(rows, scale_cols)
    value_rows, value_cols = (scale_rows, padded_cols * fmt.vec // 2) if pad else (rows, cols // 2)
    values = torch.empty((value_rows, value_cols), dtype=torch.uint8, device=x.device)
    scales = torch.empty(scale_rows * padded_cols, dtype=torch.uint8, device=x.device)
    if not fmt.two_level:
        global_scale, scale_from = None, "none"
    given = (
        None
        if global_scale is None or scale_from == "tensor"
        else global_scale.to(torch.float32).reshape(-1).contiguous()
    )
    per_row = scale_from == "row" or (given is not None and given.numel() == rows and rows > 1)
    decode = torch.empty(rows if per_row else 1, dtype=torch.float32, device=x.device)
    reciprocal_range = None
    partials = 1
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
            x, given, reciprocal_range, scaled_out, seed, values, scales, decode,
            rows, cols, x.stride(0), x.stride(1), value_rows, value_cols, scale_rows, scale_cols, padded_cols, partials,
            FORMAT=fmt.name, VEC=fmt.vec, RULE=rule, SCALE_FROM=scale_from, PER_ROW=per_row,
            LARGEST=scale_range(rule, e4m3_max, rounding), ERROR_RANGE=6.0 * e4m3_max, LAYOUT=int(layout),
            PARTIALS=triton.next_power_of_2(partials) if scale_from == "tensor" else 1,
            BLOCK_M=config.block_m, BLOCK_K=config.block_k, ROUNDING=rounding, TILE=tile_2d, ALIGNED=cols % 8 == 0,
            num_warps=config.num_warps, enable_fp_fusion=False,
        )  # fmt: skip
    return values, scales, decode
