"""FP8 and MXFP8 quantization: one pass over the input."""

from __future__ import annotations

import struct

import torch
import triton
import triton.language as tl
from triton.language.extra.cuda import gdc_launch_dependents

from tritonfp4.config import Config
from tritonfp4.formats import BlockFormat
from tritonfp4.kernels.encode import e4m3_encode_signed, e5m2_encode_signed, scale_offset, to_fp32
from tritonfp4.kernels.launch import GRID_COLUMNS, on_device
from tritonfp4.layouts import SfLayout, as_layout, ceil_div, round_up

ELEMENT_MAX = {"e4m3": 448.0, "e5m2": 57344.0, "int8": 127.0}
#: Columns of the widest block: a program holds a row of it in registers.
MAX_COLUMNS = 16384


@triton.jit
def _is_nan(x):
    return (x.to(tl.int32, bitcast=True) & 0x7FFFFFFF) > 0x7F800000


@triton.jit
def _encode(y, ELEMENT: tl.constexpr):
    """fp32 -> bytes (uint32)."""
    if ELEMENT == "e4m3":
        return e4m3_encode_signed(y)
    elif ELEMENT == "e5m2":
        return e5m2_encode_signed(y)
    else:  # int8: nearest, ties up, NaN -> 0
        y = tl.where(_is_nan(y), 0.0, y)
        y = tl.where(y < -128.0, -128.0, tl.where(y > 127.0, 127.0, y))
        return (tl.floor(y + 0.5).to(tl.int32) & 0xFF).to(tl.uint32)


@triton.jit
def _mx_scale(bits, RULE: tl.constexpr, INVERSE_MAX: tl.constexpr, EMAX: tl.constexpr):
    """Magnitude bits of the block amax (-1: all NaN) -> e8m0 code (int32)."""
    if RULE == "static_6":
        u = (bits.to(tl.float32, bitcast=True) * INVERSE_MAX).to(tl.int32, bitcast=True)
        code = (u >> 23) + ((u & 0x7FFFFF) != 0).to(tl.int32)
        code = tl.where((u >> 23) == 0, ((u & 0x7FFFFF) > 0x400000).to(tl.int32), code)
    else:
        code = (bits >> 23) - EMAX
    code = tl.minimum(tl.maximum(code, 0), 254)
    code = tl.where(bits == 0x7F800000, 254, code)
    return tl.where(bits < 0, 255, code)


@triton.jit(do_not_specialize=["M", "row_tiles", "scale_rows"])
def mxfp8_kernel(
    x_ptr, values_ptr, scales_ptr, M, K, stride_b, stride_m, stride_k, row_tiles, cols, scale_rows, scale_cols,
    padded_scale_cols, ELEMENT: tl.constexpr, RULE: tl.constexpr, INVERSE_MAX: tl.constexpr, EMAX: tl.constexpr,
    VEC: tl.constexpr, LAYOUT: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """One tile of one matrix; the grid covers the padded rows and columns, which read as 0 and are written as 0."""
    C: tl.constexpr = BLOCK_K // VEC
    batch = (tl.program_id(0) // row_tiles).to(tl.int64)
    r = (tl.program_id(0) % row_tiles).to(tl.int64) * BLOCK_M + tl.arange(0, BLOCK_M)
    k = tl.program_id(1).to(tl.int64) * BLOCK_K + tl.arange(0, BLOCK_K)
    inside = (r < M)[:, None] & (k < K)[None, :]
    x = tl.load(x_ptr + batch * stride_b + r[:, None] * stride_m + k[None, :] * stride_k, mask=inside, other=0.0)
    x = to_fp32(x).reshape(BLOCK_M, C, VEC)
    is_nan = _is_nan(x)
    s8 = _mx_scale(tl.max(tl.where(is_nan, -1, x.to(tl.int32, bitcast=True) & 0x7FFFFFFF), 2), RULE, INVERSE_MAX, EMAX)
    exponent = tl.maximum(254 - s8, 0)
    factor = tl.where(exponent == 0, 0x00400000, exponent << 23).to(tl.int32).to(tl.float32, bitcast=True)
    q = _encode(tl.where(is_nan, float("inf"), x * factor[:, :, None]), ELEMENT)
    q = tl.where((s8 == 0)[:, :, None] & (is_nan == 0), q & 0x80, q).reshape(BLOCK_M, BLOCK_K)
    out = values_ptr + (batch * M + r)[:, None] * cols + k[None, :]
    tl.store(out, q.to(tl.uint8), mask=(r < M)[:, None] & (k < cols)[None, :])
    c = tl.program_id(1) * C + tl.arange(0, C)
    out = scales_ptr + batch * scale_rows * padded_scale_cols + scale_offset(r[:, None], c[None, :], scale_cols, LAYOUT)
    tl.store(out, s8.to(tl.uint8), mask=(r < scale_rows)[:, None] & (c < padded_scale_cols)[None, :])


@triton.jit
def _power_of_two(sf):
    """The smallest normal power of two that is not below sf; 2^127 at most."""
    u = sf.to(tl.int32, bitcast=True)
    exponent = (u >> 23) + ((u & 0x7FFFFF) != 0).to(tl.int32)
    return (tl.minimum(tl.maximum(exponent, 1), 254) << 23).to(tl.float32, bitcast=True)


@triton.jit
def _at_most_flt_max(x):
    return tl.where(x > 3.4028234663852886e38, 3.4028234663852886e38, x)


@triton.jit
def _fp8_scales(bits, RULE: tl.constexpr, POW2: tl.constexpr, LARGEST: tl.constexpr, EPS_BITS: tl.constexpr):
    """Magnitude bits of the block amax -> decode multiplier, and what the elements are multiplied or divided by."""
    one = tl.full(bits.shape, 1.0, tl.float32)
    largest = tl.full(bits.shape, LARGEST, tl.float32)
    if RULE == "internal":
        factor = _at_most_flt_max(tl.div_rn(largest, bits.to(tl.float32, bitcast=True)))
        factor = tl.where(bits == 0, 1.0, factor)
        scale = tl.div_rn(one, factor)
        if POW2:
            scale = _power_of_two(scale)
            factor = tl.div_rn(one, scale)
        return scale, factor
    else:
        scale = tl.div_rn(tl.maximum(bits, EPS_BITS).to(tl.float32, bitcast=True), largest)
        if POW2:
            scale = _power_of_two(scale)
        if RULE == "divide":
            return scale, scale + 1e-8
        else:
            return scale, _at_most_flt_max(tl.div_rn(one, scale))


@triton.jit
def _columns(pid, K, COLS: tl.constexpr, PADDED_COLS: tl.constexpr, BLOCK_K: tl.constexpr):
    """Columns of a tile that holds blocks of COLS on PADDED_COLS lanes each, and which of them count."""
    i = tl.arange(0, BLOCK_K)
    if COLS == PADDED_COLS:
        k = pid.to(tl.int64) * BLOCK_K + i
        return k, k < K
    else:
        k = (pid.to(tl.int64) * (BLOCK_K // PADDED_COLS) + i // PADDED_COLS) * COLS + i % PADDED_COLS
        return k, (k < K) & (i % PADDED_COLS < COLS)


@triton.jit
def _magnitudes(x):
    """Magnitudes as ordered integers, 0 for NaN."""
    return tl.where(_is_nan(x), 0, x.to(tl.int32, bitcast=True) & 0x7FFFFFFF)


@triton.jit
def _scaled(x, factor, RULE: tl.constexpr):
    if RULE == "divide":
        return tl.div_rn(x, factor)
    else:
        return x * factor


@triton.jit(do_not_specialize=["M", "stored_rows"])
def fp8_rows_kernel(
    x_ptr, values_ptr, scales_ptr, M, K, stride_m, stride_k, stored_rows, scale_cols, scale_stride_m, scale_stride_k,
    ELEMENT: tl.constexpr, RULE: tl.constexpr, POW2: tl.constexpr, LARGEST: tl.constexpr, EPS_BITS: tl.constexpr,
    COLS: tl.constexpr, PADDED_COLS: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_K: tl.constexpr, SIGNAL: tl.constexpr,
):  # fmt: skip
    """One tile of blocks of one row and COLS columns. SIGNAL: the kernel behind this one may start, and wait for it later."""
    if SIGNAL:
        gdc_launch_dependents()
    C: tl.constexpr = BLOCK_K // PADDED_COLS
    r = tl.program_id(0).to(tl.int64) * BLOCK_M + tl.arange(0, BLOCK_M)
    k, counts = _columns(tl.program_id(1), K, COLS, PADDED_COLS, BLOCK_K)
    inside = (r < M)[:, None] & counts[None, :]
    x = to_fp32(tl.load(x_ptr + r[:, None] * stride_m + k[None, :] * stride_k, mask=inside, other=0.0))
    x = x.reshape(BLOCK_M, C, PADDED_COLS)
    scale, factor = _fp8_scales(tl.max(_magnitudes(x), 2), RULE, POW2, LARGEST, EPS_BITS)
    q = _encode(_scaled(x, factor[:, :, None].broadcast_to(BLOCK_M, C, PADDED_COLS), RULE), ELEMENT)
    tl.store(values_ptr + r[:, None] * K + k[None, :], q.reshape(BLOCK_M, BLOCK_K).to(tl.uint8), mask=inside)
    c = tl.program_id(1).to(tl.int64) * C + tl.arange(0, C)
    out = scales_ptr + r[:, None] * scale_stride_m + c[None, :] * scale_stride_k
    scale = tl.where((r < M)[:, None], scale, 0.0)  # the padding of scales in columns
    tl.store(out, scale, mask=(r < stored_rows)[:, None] & (c < scale_cols)[None, :])


@triton.jit(do_not_specialize=["M", "scale_rows"])
def fp8_tiles_kernel(
    x_ptr, values_ptr, scales_ptr, M, K, stride_m, stride_k, scale_rows, scale_cols, scale_stride_m, scale_stride_k,
    ELEMENT: tl.constexpr, RULE: tl.constexpr, POW2: tl.constexpr, LARGEST: tl.constexpr, EPS_BITS: tl.constexpr,
    ROWS: tl.constexpr, COLS: tl.constexpr, PADDED_COLS: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """Blocks of ROWS x COLS, one below the other in program axis 0, BLOCK_M rows at a time: a whole block would spill.

    The rows are read twice, for the amax and for the elements, the second time from a cache.
    """
    C: tl.constexpr = BLOCK_K // PADDED_COLS
    pid = tl.program_id(0).to(tl.int64)
    k, counts = _columns(tl.program_id(1), K, COLS, PADDED_COLS, BLOCK_K)
    best = tl.zeros([BLOCK_M, BLOCK_K], tl.int32)
    for start in range(0, ROWS, BLOCK_M):
        i = start + tl.arange(0, BLOCK_M)
        r = pid * ROWS + i
        inside = ((r < M) & (i < ROWS))[:, None] & counts[None, :]
        x = to_fp32(tl.load(x_ptr + r[:, None] * stride_m + k[None, :] * stride_k, mask=inside, other=0.0))
        best = tl.maximum(best, _magnitudes(x))
    bits = tl.max(tl.max(best.reshape(BLOCK_M, C, PADDED_COLS), 2), 0)
    scale, factor = _fp8_scales(bits, RULE, POW2, LARGEST, EPS_BITS)
    spread = factor[:, None].broadcast_to(C, PADDED_COLS).reshape(1, BLOCK_K).broadcast_to(BLOCK_M, BLOCK_K)
    for start in range(0, ROWS, BLOCK_M):
        i = start + tl.arange(0, BLOCK_M)
        r = pid * ROWS + i
        inside = ((r < M) & (i < ROWS))[:, None] & counts[None, :]
        x = to_fp32(tl.load(x_ptr + r[:, None] * stride_m + k[None, :] * stride_k, mask=inside, other=0.0))
        q = _encode(_scaled(x, spread, RULE), ELEMENT)
        tl.store(values_ptr + r[:, None] * K + k[None, :], q.to(tl.uint8), mask=inside)
    c = tl.program_id(1).to(tl.int64) * C + tl.arange(0, C)
    scale = tl.where(c * 0 + pid < scale_rows, scale, 0.0)  # the padding of scales in columns
    tl.store(scales_ptr + pid * scale_stride_m + c * scale_stride_k, scale, mask=c < scale_cols)


def quantize_mxfp8(
    x: torch.Tensor, fmt: BlockFormat, rule: str, layout: SfLayout, cols: int, config: Config
) -> tuple[torch.Tensor, torch.Tensor]:
    """Launcher; as `tritonfp4.reference.quantize_mxfp8`."""
    batch, rows, k = x.shape
    scale_cols = cols // fmt.vec
    scale_rows, padded_cols = as_layout(layout).storage_shape(rows, scale_cols)
    values = torch.empty((batch, rows, cols), dtype=torch.uint8, device=x.device)
    scales = torch.empty(batch * scale_rows * padded_cols, dtype=torch.uint8, device=x.device)
    row_tiles = ceil_div(scale_rows, config.block_m)
    with on_device(x):
        mxfp8_kernel[(batch * row_tiles, ceil_div(padded_cols * fmt.vec, config.block_k))](
            x, values, scales, rows, k, *x.stride(), row_tiles, cols, scale_rows, scale_cols, padded_cols,
            ELEMENT=fmt.element, RULE=rule, INVERSE_MAX=_fp32(1.0 / fmt.element_max), EMAX=8 if fmt.element == "e4m3" else 15,
            VEC=fmt.vec, LAYOUT=int(layout), BLOCK_M=config.block_m, BLOCK_K=config.block_k, num_warps=config.num_warps,
            enable_fp_fusion=False,
        )  # fmt: skip
    return values, scales


def _fp32(value: float) -> float:
    return struct.unpack("f", struct.pack("f", value))[0]


def quantize_fp8(
    x: torch.Tensor,
    element: str,
    block: tuple[int, int],
    rule: str,
    eps: float,
    pow2: bool,
    mn_align: int,
    config: Config,
    signal: bool = False,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Launcher; as `tritonfp4.reference.quantize_fp8`. At most MAX_COLUMNS columns in a block. `signal` (sm_90 on, blocks of one
    row): what is launched next, if it is launched to that end, may begin before this is done."""
    rows, cols = x.shape
    scale_rows, scale_cols = ceil_div(rows, block[0]), ceil_div(cols, block[1])
    stored_rows = round_up(scale_rows, mn_align) if mn_align else scale_rows
    values = torch.empty((rows, cols), dtype=torch.uint8, device=x.device)
    scales = torch.empty(stored_rows * scale_cols, dtype=torch.float32, device=x.device)
    scales = scales.view(scale_cols, stored_rows).t() if mn_align else scales.view(stored_rows, scale_cols)
    padded = triton.next_power_of_2(block[1])
    block_k = max(config.block_k, padded, triton.next_power_of_2(ceil_div(scale_cols * padded, GRID_COLUMNS)))
    block_m = min(max(config.block_m * config.block_k // block_k, 1), triton.next_power_of_2(stored_rows))
    column_tiles = ceil_div(scale_cols * padded, block_k)
    facts = {
        "ELEMENT": element, "RULE": rule, "POW2": pow2, "LARGEST": ELEMENT_MAX[element],
        "EPS_BITS": struct.unpack("i", struct.pack("f", eps))[0], "COLS": block[1], "PADDED_COLS": padded,
        "BLOCK_K": block_k, "num_warps": max(config.num_warps, min(16, block_k // 1024)), "enable_fp_fusion": False,
    }  # fmt: skip
    tensors, shape = (x, values, scales), (rows, cols, *x.stride())
    with on_device(x):
        if block[0] == 1:
            fp8_rows_kernel[(ceil_div(stored_rows, block_m), column_tiles)](
                *tensors, *shape, stored_rows, scale_cols, *scales.stride(), BLOCK_M=block_m, SIGNAL=signal, **facts
            )
        else:
            fp8_tiles_kernel[(stored_rows, column_tiles)](
                *tensors, *shape, scale_rows, scale_cols, *scales.stride(), ROWS=block[0],
                BLOCK_M=min(block_m, triton.next_power_of_2(block[0])), **facts,
            )  # fmt: skip
    return values, scales[:scale_rows]
