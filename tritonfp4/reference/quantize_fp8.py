"""The meaning of FP8 and MXFP8 quantization. One fp32 operation a step, divisors are tensors, as in `reference.quantize`."""

from __future__ import annotations

import torch

from tritonfp4.formats import FLT_MAX, BlockFormat
from tritonfp4.layouts import SfLayout, as_layout, ceil_div, round_up
from tritonfp4.reference.encode import e4m3_encode, e5m2_encode
from tritonfp4.reference.quantize import block_amax

#: Largest magnitude that the block amax is mapped to, by element.
ELEMENT_MAX = {"e4m3": 448.0, "e5m2": 57344.0, "int8": 127.0}


def int8_encode(y: torch.Tensor) -> torch.Tensor:
    """Nearest, ties up (``floor(y + 0.5)``), saturating to [-128, 127], as uint8 bits; NaN gives 0."""
    rounded = (torch.where(y.isnan(), 0.0, y).clamp(-128.0, 127.0) + 0.5).floor()
    return rounded.to(torch.int8).view(torch.uint8)


def encode(y: torch.Tensor, element: str) -> torch.Tensor:
    """fp32 -> bytes of "e4m3", "e5m2" or "int8"."""
    return {"e4m3": e4m3_encode, "e5m2": e5m2_encode, "int8": int8_encode}[element](y)


# ---- MXFP8 ----


def mx_scale(v: torch.Tensor, rule: str, fmt: BlockFormat) -> torch.Tensor:
    """Block amax -> e8m0 byte; ``static_6`` is RCEIL of ``v / element_max``. Zero gives 0, infinity 254, NaN 255."""
    if rule == "static_6":
        inverse = torch.tensor(1.0 / fmt.element_max, dtype=torch.float32).item()
        u = (v * inverse).view(torch.int32)
        code = (u >> 23) + ((u & 0x7FFFFF) != 0).int()
        code = torch.where(u >> 23 == 0, ((u & 0x7FFFFF) > 0x400000).int(), code)  # 2^-127 is code 0
    else:
        code = (v.contiguous().view(torch.int32) >> 23) - (8 if fmt.element == "e4m3" else 15)
    code = torch.where(v.isinf(), 254, code.clamp(0, 254))
    return torch.where(v.isnan(), 255, code).to(torch.uint8)


def quantize_mxfp8(
    x: torch.Tensor, fmt: BlockFormat, rule: str, layout: SfLayout, cols: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """[B, M, K] -> value bytes [B, M, cols], K padded with zeros to `cols`, and flat scale bytes, each matrix in `layout`.

    NaN elements give the largest element; code 0 comes with payload 0 (the sign is kept).
    """
    batch, rows, k = x.shape
    padded = x.new_zeros((batch, rows, cols), dtype=torch.float32)
    padded[..., :k] = x
    blocks = padded.unflatten(2, (cols // fmt.vec, fmt.vec))
    s8 = mx_scale(block_amax(blocks, -1), rule, fmt)
    exponent = (254 - s8.int()).clamp(min=0)
    factor = torch.where(exponent == 0, 0x00400000, exponent << 23).view(torch.float32)
    q = encode(torch.where(blocks.isnan(), torch.inf, blocks * factor[..., None]), fmt.element)
    zero = (s8 == 0)[..., None] & ~blocks.isnan()
    q = torch.where(zero, q & 0x80, q)
    return q.flatten(2), as_layout(layout).from_linear(s8).clone()


# ---- fp32 scales ----


def _power_of_two(sf: torch.Tensor) -> torch.Tensor:
    """The smallest normal power of two that is not below sf; 2^127 at most."""
    u = sf.view(torch.int32)
    exponent = (u >> 23) + ((u & 0x7FFFFF) != 0).int()
    return (exponent.clamp(1, 254) << 23).view(torch.float32)


def _inverse(s: torch.Tensor) -> torch.Tensor:
    """min(1 / s, FLT_MAX): 0 times the inverse of a tiny scale must not be NaN."""
    inverse = torch.ones_like(s) / s
    return torch.where(inverse > FLT_MAX, FLT_MAX, inverse)


def block_scales(v: torch.Tensor, element: str, rule: str, eps: float, pow2: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """Block amax -> decode multiplier, and what the elements are multiplied by (rule "divide": divided by)."""
    largest = torch.full_like(v, ELEMENT_MAX[element])
    if rule == "internal":
        factor = largest / v
        factor = torch.where(factor > FLT_MAX, FLT_MAX, factor)
        factor = torch.where(v == 0, 1.0, factor)
        scale = torch.ones_like(v) / factor
        if pow2:
            scale = _power_of_two(scale)
            factor = _inverse(scale)
        return scale, factor
    scale = torch.maximum(v, torch.full_like(v, eps)) / largest
    if pow2:
        scale = _power_of_two(scale)
    return scale, scale + 1e-8 if rule == "divide" else _inverse(scale)


def quantize_fp8(
    x: torch.Tensor, element: str, block: tuple[int, int], rule: str, eps: float, pow2: bool, mn_align: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """[M, K] -> bytes [M, K], fp32 decode multipliers [ceil(M / block rows), ceil(K / block columns)].

    `rule`: "amax" (``max(v, eps) / largest``, elements times the reciprocal), "internal" (elements times
    ``c = largest / v``, 1 for v = 0; scale ``1 / c``) or "divide" (as "amax", elements divided by ``scale + 1e-8``).
    Ragged blocks are padded with zeros. The amax v ignores NaN, and is 0 in a block of nothing but NaN. `mn_align` 0: scales
    row-major; n: scales column-major, their rows padded with zeros to a multiple of n in memory.
    """
    rows, cols = x.shape
    scale_rows, scale_cols = ceil_div(rows, block[0]), ceil_div(cols, block[1])
    padded = x.new_zeros((scale_rows * block[0], scale_cols * block[1]), dtype=torch.float32)
    padded[:rows, :cols] = x
    tiles = padded.unflatten(1, (scale_cols, block[1])).unflatten(0, (scale_rows, block[0]))
    v = torch.where(tiles.isnan(), 0.0, tiles.abs()).amax((1, 3))
    scale, factor = block_scales(v, element, rule, eps, pow2)
    factor = factor[:, None, :, None]
    q = encode(tiles / factor if rule == "divide" else tiles * factor, element)
    values = q.reshape(padded.shape)[:rows, :cols].contiguous()
    if not mn_align:
        return values, scale
    memory = scale.new_zeros((scale_cols, round_up(scale_rows, mn_align)))
    memory[:, :scale_rows] = scale.t()
    return values, memory[:, :scale_rows].t()
