"""The meaning of FP4 quantization: global scales, block-scale rules, rounding.

Every line that computes is one fp32 operation, rounded to nearest even, in the order of TransformerEngine's NVFP4
reference; the kernels repeat it bit for bit. Reductions over floats run over the elements in order. Divisors are
tensors, never Python numbers: on CUDA torch multiplies by the reciprocal of a number.
"""

from __future__ import annotations

import torch

from tritonfp4.formats import FLT_MAX, BlockFormat, scale_range
from tritonfp4.layouts import SfLayout, as_layout
from tritonfp4.reference.encode import e2m1_decode, e2m1_encode, e4m3_decode, e4m3_encode, pack
from tritonfp4.reference.stochastic import e2m1_encode_stochastic, random_bits

_SIXTH = torch.tensor(1.0 / 6.0, dtype=torch.float32).item()
_SIXTH_UNBIASED = torch.tensor(17.0 / 96.0, dtype=torch.float32).item()


def block_amax(x: torch.Tensor, dim: int) -> torch.Tensor:
    """Largest magnitude along `dim`; NaN elements are ignored unless all are NaN."""
    a = x.abs()
    largest = torch.where(a.isnan(), -1.0, a).amax(dim)
    return torch.where(largest < 0, torch.nan, largest)


def tensor_amax(x: torch.Tensor) -> torch.Tensor:
    """[M, K] -> [1]; 0 for an empty tensor."""
    return block_amax(x.float().reshape(-1), 0).reshape(1) if x.numel() else x.new_zeros(1, dtype=torch.float32)


def encode_scale(amax: torch.Tensor, largest: torch.Tensor | float) -> torch.Tensor:
    """``G = min(largest / amax, FLT_MAX)``, and 1 where that is 0 or amax is not positive, infinite or NaN."""
    g = torch.full_like(amax, 1.0) * largest / amax
    g = torch.where(g > FLT_MAX, FLT_MAX, g)
    return torch.where((g == 0) | (amax <= 0) | amax.isinf() | amax.isnan(), 1.0, g)


def global_encode_scale(x: torch.Tensor, largest: float) -> torch.Tensor:
    """[M, K] -> [1]: the global scale that maps the largest magnitude of x to `largest`."""
    return encode_scale(tensor_amax(x), largest)


def _reciprocal(s: torch.Tensor) -> torch.Tensor:
    """min(1 / s, FLT_MAX)."""
    inverse = 1.0 / s
    return torch.where(inverse > FLT_MAX, FLT_MAX, inverse)


def _scale_byte(s: torch.Tensor) -> torch.Tensor:
    """e4m3 code of a block scale. It has no sign: a negative global scale turns the elements around."""
    return e4m3_encode(s) & 0x7F


def _round(y: torch.Tensor, bits: torch.Tensor | None) -> torch.Tensor:
    """e2m1 codes, to nearest or by 16 random bits for each element."""
    return e2m1_encode(y) if bits is None else e2m1_encode_stochastic(y, bits)


def _nvfp4_static(
    x: torch.Tensor, v: torch.Tensor, g: torch.Tensor, inverse_max: float, bits: torch.Tensor | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """x [R, C, 16], v [R, C], encode scale g [R, 1] -> codes [R, C, 16], e4m3 scale bytes [R, C]."""
    s8 = _scale_byte(torch.where(v == 0, 0.0, v * (g * inverse_max)))
    factor = torch.where(v == 0, 0.0, _reciprocal(e4m3_decode(s8) * (1.0 / g)))
    return _round(x * factor[..., None], bits), s8


def _block_error(d: torch.Tensor, rule: str) -> torch.Tensor:
    """[R, C, 16] differences -> [R, C] error, accumulated over the elements in order."""
    error = torch.zeros_like(d[..., 0])
    for i in range(d.shape[-1]):
        if rule == "mse":
            error = error + d[..., i] * d[..., i]
        elif rule == "mae":
            error = error + d[..., i].abs()
        else:
            error = torch.where(d[..., i].abs() > error, d[..., i].abs(), error)
    return error


def _tile_error(error: torch.Tensor, rule: str) -> torch.Tensor:
    """[R, C] errors by the row -> that of their tile of 16 rows, in every row; i and i + 8 first, then + 4, + 2, + 1."""
    tiles = error.unflatten(0, (error.shape[0] // 16, 16))
    for half in (8, 4, 2, 1):
        a, b = tiles[:, :half], tiles[:, half:]
        tiles = torch.where(b > a, b, a) if rule == "abs_max" else a + b
    return tiles.expand(-1, 16, -1).flatten(0, 1)


def _nvfp4_adaptive(
    x: torch.Tensor,
    v: torch.Tensor,
    g: torch.Tensor,
    amax: torch.Tensor | None,
    rule: str,
    e4m3_max: int,
    bits: torch.Tensor | None = None,
    tile_2d: bool = False,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Four over six: each block is quantized with its maximum at 6 and at 4, and the smaller error wins.

    With the amax known the candidates are decoded as TransformerEngine does, ``q * s * amax / (6 * e4m3_max)``; with
    only the global scale known as flashinfer does, ``q * s * (1 / G)``.
    """
    base = torch.where(v == 0, 0.0, v / torch.full_like(v, 6.0) * g)
    results = []
    for scaled in (base, base * 1.5):
        s8 = _scale_byte(scaled)
        s = e4m3_decode(s8)
        factor = torch.where(v == 0, 0.0, _reciprocal(s * (1.0 / g)))
        q = _round(x * factor[..., None], bits)
        product = e2m1_decode(q) * s[..., None]
        if amax is None:
            decoded = product * (1.0 / g)[..., None]
        else:
            decoded = product * amax[..., None] / torch.full_like(product, 6.0 * e4m3_max)
        error = _block_error(decoded - x, rule)
        results.append((q, s8, _tile_error(error, rule) if tile_2d else error))
    (q6, s6, e6), (q4, s4, e4) = results
    four = e4 < e6
    return torch.where(four[..., None], q4, q6), torch.where(four, s4, s6)


def e8m0_scale(v: torch.Tensor, rule: str) -> torch.Tensor:
    """Block amax -> e8m0 byte. ``static_6`` is RCEIL and ``static_4`` CEIL; zero gives 0, infinity 254, NaN 255."""
    if rule == "static_6":
        u = (v * _SIXTH).view(torch.int32)
        code = (u >> 23) + ((u & 0x7FFFFF) != 0).int()
        code = torch.where(u >> 23 == 0, ((u & 0x7FFFFF) > 0x400000).int(), code)  # 2^-127 is code 0
    else:
        u = v.contiguous().view(torch.int32)
        if rule == "even":
            u = u + (1 << 21)
        code = (u >> 23) - 2
        if rule == "static_4":
            code = code + ((u & 0x7FFFFF) != 0).int()
    code = torch.where(v.isinf(), 254, code.clamp(0, 254))
    return torch.where(v.isnan(), 255, code).to(torch.uint8)


def _mxfp4(
    x: torch.Tensor, v: torch.Tensor, rule: str, bits: torch.Tensor | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """x [R, C, 32], v [R, C] -> codes, e8m0 scale bytes. Code 0 comes with payload 0 (the sign is kept)."""
    s8 = e8m0_scale(v, rule)
    exponent = (254 - s8.int()).clamp(min=0)
    factor = torch.where(exponent == 0, 0x00400000, exponent << 23).view(torch.float32)
    q = _round(x * factor[..., None], bits)
    zero = (s8 == 0)[..., None] & ~x.isnan()
    return torch.where(zero, q & 8, q), s8


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
    tile_2d: bool = False,
    rounding: str = "nearest",
    seed: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """[M, K] -> packed values [M, K / 2], flat scale bytes in `layout`, fp32 decode multiplier [1] or [M].

    Bytes in x are e4m3 (see `_values`); `scale_from` is then "encode" or "decode" if there is a global scale.

    `scale_from` says what `global_scale` is: "none" (G = 1), "encode" (G), "decode" (1 / G), "amax" (of the whole tensor
    or of each row), or where G comes from: "tensor" (the amax of x), "row" (the amax of each row; `global_scale`, if
    given, is the reciprocal of the range D). `pad` pads the values to whole scale tiles with zeros.

    `tile_2d`: one scale for as many rows as a block has columns, stored for each of them; ragged tiles are filled up with
    zeros. `rounding` other than "nearest" takes noise from `seed` [1] (`tritonfp4.reference.stochastic`).
    """
    rows, cols = x.shape
    out_rows, scale_cols = as_layout(layout).storage_shape(rows, -(-cols // fmt.vec))
    given, source = (global_scale, scale_from) if fmt.two_level else (None, "none")
    g, amax, decode = _resolve(x, given, out_scale, scale_range(rule, e4m3_max, rounding), source)
    height = fmt.vec if tile_2d else 1
    blocks = _blocks(_values(x, g, fmt), height, scale_cols, fmt.vec)
    bits = None
    if rounding != "nearest":
        assert seed is not None
        bits = _blocks(random_bits(seed, rows, cols), height, scale_cols, fmt.vec)
    v = block_amax(blocks, -1)
    if tile_2d:
        v = block_amax(v.unflatten(0, (v.shape[0] // height, height)), 1).repeat_interleave(height, 0)
    if not fmt.two_level:
        q, s8 = _mxfp4(blocks, v, rule, bits)
    elif rule in ("static_6", "static_4"):
        sixth = _SIXTH_UNBIASED if rounding == "stochastic_unbiased" else _SIXTH
        q, s8 = _nvfp4_static(blocks, v, g[:, None], sixth if rule == "static_6" else 0.25, bits)
    else:
        known = None if amax is None else amax[:, None]
        q, s8 = _nvfp4_adaptive(blocks, v, g[:, None], known, rule, e4m3_max, bits, tile_2d)
    true_cols = -(-cols // fmt.vec)
    scales = as_layout(layout).from_linear(s8[:rows, :true_cols])
    values = pack(q[:rows].flatten(1))
    if pad:
        values = torch.nn.functional.pad(values, (0, 0, 0, out_rows - rows))
    else:
        values = values[:, : cols // 2].contiguous()
    return values, scales, decode


def _values(x: torch.Tensor, g: torch.Tensor, fmt: BlockFormat) -> torch.Tensor:
    """[M, K] in fp32. Bytes are e4m3; with a global scale they stand for ``fp8 * 6 / G``, rounded to fp16."""
    if x.dtype != torch.uint8:
        return x.float()
    decoded = e4m3_decode(x)
    return (decoded * (1.0 / g * 6.0)[:, None]).half().float() if fmt.two_level else decoded


def _blocks(x: torch.Tensor, height: int, scale_cols: int, vec: int) -> torch.Tensor:
    """[M, K], filled up with zeros to whole blocks of `height` rows -> [R, scale_cols, vec]."""
    padded = x.new_zeros((-(-x.shape[0] // height) * height, scale_cols * vec))
    padded[: x.shape[0], : x.shape[1]] = x
    return padded.unflatten(1, (scale_cols, vec))


def _resolve(
    x: torch.Tensor, given: torch.Tensor | None, out_scale: torch.Tensor | None, largest: float, scale_from: str
) -> tuple[torch.Tensor, torch.Tensor | None, torch.Tensor]:
    """-> encode scale G, amax if known, decode multiplier; each with 1 element or one for each row."""
    amax = None
    if given is not None:
        given = given.float().reshape(-1)
    if scale_from == "none":
        g = torch.ones(1, device=x.device)
    elif scale_from == "encode":
        assert given is not None
        g = given
    elif scale_from == "decode":
        assert given is not None
        g = 1.0 / given
    elif scale_from == "row":
        amax = block_amax(x.float(), 1) if x.shape[1] else x.new_zeros(x.shape[0], dtype=torch.float32)
        g = encode_scale(amax, largest if given is None else 1.0 / given)
    else:
        amax = tensor_amax(x) if given is None or scale_from == "tensor" else given
        g = encode_scale(amax, largest)
    decode = 1.0 / g
    if scale_from == "row":
        assert amax is not None
        decode = torch.where(amax == 0, 0.0, decode)
    if out_scale is not None:
        decode = decode * out_scale.float().reshape(-1)
    return g, amax, decode
