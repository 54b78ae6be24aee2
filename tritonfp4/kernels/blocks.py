"""Device functions: blocks -> e2m1 codes and scale bytes, by every scale rule and both ways to round."""

import triton
import triton.language as tl

from tritonfp4.kernels.encode import e2m1_decode_fp32, e4m3_decode_fp32, e4m3_encode
from tritonfp4.kernels.stochastic import e2m1_round


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
def _tile_error(e, METRIC: tl.constexpr, M: tl.constexpr, C: tl.constexpr):
    """[M, C] errors by the row -> that of their tile of 16 rows, in every row; i and i + 8 first, then + 4, + 2, + 1.

    A reduction of two has only one order.
    """
    if METRIC == "abs_max":
        e = tl.max(e.reshape(M // 16, 16, C), 1)
    else:
        e = tl.sum(e.reshape(M // 16, 2, 8, C), 1)
        e = tl.sum(e.reshape(M // 16, 2, 4, C), 1)
        e = tl.sum(e.reshape(M // 16, 2, 2, C), 1)
        e = tl.sum(e, 1)
    return tl.broadcast_to(e[:, None, :], [M // 16, 16, C]).reshape(M, C)


@triton.jit
def tile_maximum(bits, ROWS: tl.constexpr, M: tl.constexpr, C: tl.constexpr):
    """[M, C] magnitude bits -> the largest of each tile of ROWS rows, in every row."""
    largest = tl.max(bits.reshape(M // ROWS, ROWS, C), 1)
    return tl.broadcast_to(largest[:, None, :], [M // ROWS, ROWS, C]).reshape(M, C)


@triton.jit
def _nvfp4_candidate(
    x, zero, scaled, g, amax, noise, METRIC: tl.constexpr, AMAX: tl.constexpr, LARGEST: tl.constexpr,
    M: tl.constexpr, C: tl.constexpr, ROUNDING: tl.constexpr, TILE: tl.constexpr,
):  # fmt: skip
    """Quantize blocks with the scale nearest to `scaled` -> codes, scale bytes, error."""
    s8 = e4m3_encode(scaled)
    s = e4m3_decode_fp32(s8)
    inverse_g = tl.div_rn(tl.full(g.shape, 1.0, tl.float32), g)
    q = e2m1_round(x * tl.where(zero, 0.0, _reciprocal(s * inverse_g))[:, :, None], noise, ROUNDING)
    product = e2m1_decode_fp32(q) * s[:, :, None]
    if AMAX:
        scaled_up = product * amax[:, :, None]
        decoded = tl.div_rn(scaled_up, tl.full(scaled_up.shape, LARGEST, tl.float32))
    else:
        decoded = product * inverse_g[:, :, None]
    e = _block_error(decoded - x, METRIC, M, C)
    return q, s8, _tile_error(e, METRIC, M, C) if TILE else e


@triton.jit
def _nvfp4(
    x, bits, g, amax, RULE: tl.constexpr, AMAX: tl.constexpr, LARGEST: tl.constexpr, M: tl.constexpr, C: tl.constexpr,
    noise=None, ROUNDING: tl.constexpr = "nearest", TILE: tl.constexpr = False,
):  # fmt: skip
    """x [M, C, 16], magnitude bits of the block amax [M, C], G and amax [M, 1] -> codes, scale bytes.

    `noise`: random bits [M, C, 16] unless ROUNDING is "nearest". TILE: `bits` are those of tiles of 16 rows (`tile_maximum`).
    """
    v = bits.to(tl.float32, bitcast=True)
    zero = bits == 0
    if RULE == "static_6" or RULE == "static_4":
        # fl(17/96): stochastic rounding without bias needs room above the largest element, 6 * 16 / 17.
        six: tl.constexpr = 0.17708332836627960 if ROUNDING == "stochastic_unbiased" else 0.16666667163372040
        inverse_max: tl.constexpr = six if RULE == "static_6" else 0.25
        s8 = e4m3_encode(tl.where(zero, 0.0, v * (g * inverse_max)))
        inverse_g = tl.div_rn(tl.full(g.shape, 1.0, tl.float32), g)
        factor = tl.where(zero, 0.0, _reciprocal(e4m3_decode_fp32(s8) * inverse_g))
        return e2m1_round(x * factor[:, :, None], noise, ROUNDING), s8
    else:
        base = tl.where(zero, 0.0, tl.div_rn(v, tl.full(v.shape, 6.0, tl.float32)) * g)
        q6, s6, e6 = _nvfp4_candidate(x, zero, base, g, amax, noise, RULE, AMAX, LARGEST, M, C, ROUNDING, TILE)
        q4, s4, e4 = _nvfp4_candidate(x, zero, base * 1.5, g, amax, noise, RULE, AMAX, LARGEST, M, C, ROUNDING, TILE)
        four = e4 < e6
        return tl.where(four[:, :, None], q4, q6), tl.where(four, s4, s6)


@triton.jit
def _mxfp4(x, bits, RULE: tl.constexpr, noise=None, ROUNDING: tl.constexpr = "nearest"):
    """x [M, C, 32], magnitude bits of the block amax [M, C] -> codes, e8m0 scale bytes; `noise` as in `_nvfp4`."""
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
    q = e2m1_round(x * factor[:, :, None], noise, ROUNDING)
    is_nan = (x.to(tl.int32, bitcast=True) & 0x7FFFFFFF) > 0x7F800000
    return tl.where((s8 == 0)[:, :, None] & (is_nan == 0), q & 8, q), s8.to(tl.uint32)
