"""The meaning of the batched, grouped, masked and fused quantizers.

Everything before the quantization is fp32, one operation at a time, in an order that the kernels repeat bit for bit. So
also the exponential is spelled out: torch's and Triton's differ in the last bits.
"""

from __future__ import annotations

import torch

from tritonfp4.formats import RMS_TILE, BlockFormat
from tritonfp4.layouts import SfLayout, as_layout
from tritonfp4.reference.quantize import quantize

_ROUND = 12582912.0  # 1.5 * 2^23: its ulp is 1
#: Taylor coefficients of exp, 1 / 7! to 1 / 0!; on [-ln 2 / 2, ln 2 / 2] the error is below 1e-8.
_EXP = (1 / 5040, 1 / 720, 1 / 120, 1 / 24, 1 / 6, 0.5, 1.0, 1.0)


def exp(t: torch.Tensor) -> torch.Tensor:
    """fp32 exponential within 2 ulp; overflows to infinity, and beyond -110 it is 0 or nearly so."""
    t = torch.where(t > 110.0, 110.0, torch.where(t < -110.0, -110.0, t))
    shifted = t * 1.4426950408889634 + _ROUND
    n = shifted - _ROUND
    r = t - n * 0.693359375  # 9 bits: the product is exact
    r = r + n * 2.12194440e-4  # 0.693359375 - ln 2
    p = r * _EXP[0] + _EXP[1]
    for c in _EXP[2:]:
        p = p * r + c
    whole = shifted.view(torch.int32) - 0x4B400000
    half = whole >> 1  # 2^n in two factors: n reaches beyond the exponents of fp32
    return p * _power(half) * _power(whole - half)


def _power(n: torch.Tensor) -> torch.Tensor:
    """2^n as fp32."""
    return ((n + 127) << 23).view(torch.float32)


def silu_and_mul(x: torch.Tensor) -> torch.Tensor:
    """[..., 2K] -> [..., K]: ``g / (1 + exp(-g)) * u`` of the halves g and u in fp32, rounded to the dtype of x."""
    gate, up = x.float().chunk(2, -1)
    return (gate / (1.0 + exp(-gate)) * up).to(x.dtype)


def quantize_batched(
    x: torch.Tensor,
    counts: torch.Tensor | None,
    global_scale: torch.Tensor,
    fmt: BlockFormat,
    activation: str,
    rule: str,
    e4m3_max: int,
    layout: SfLayout,
) -> tuple[torch.Tensor, torch.Tensor]:
    """[B, M, K] -> packed values [B, M, K / 2], scale bytes [B, numel]: every matrix is padded on its own.

    `counts` int32 [B]: the rows from counts[b] on are quantized as zeros, whatever they hold. `global_scale`: the encode
    scale, [1, 1], [B, 1] or [1, M]. `activation` "silu_and_mul" comes first and takes [B, M, 2K].
    """
    if activation:
        x = silu_and_mul(x)
    batch, rows, cols = x.shape
    if counts is not None:
        beyond = torch.arange(rows, device=x.device) >= counts[:, None]
        x = x.masked_fill(beyond[..., None], 0.0)
    g = global_scale.expand(batch, rows).reshape(-1)
    flat = x.reshape(batch * rows, cols)
    linear = SfLayout.layout_linear
    values, scales, _ = quantize(flat, g, None, fmt, rule, e4m3_max, "encode", linear, False)
    kind = as_layout(layout)
    blocks = cols // fmt.vec
    scales = kind.from_linear(scales.view(batch, rows, blocks))
    return values.view(batch, rows, cols // 2), scales.reshape(batch, kind.numel(rows, blocks))


def rms_reciprocal(x: torch.Tensor, eps: float) -> torch.Tensor:
    """fp32 [M, H] -> [M, 1]: ``1 / sqrt(mean(x * x) + eps)``.

    The sum: the row in tiles of `RMS_TILE` columns, added elementwise in order; then neighbours, until one is left.
    """
    rows, cols = x.shape
    tiles = -(-cols // RMS_TILE)
    squares = x.new_zeros((rows, tiles * RMS_TILE))
    squares[:, :cols] = x * x
    total = x.new_zeros((rows, RMS_TILE))
    for tile in squares.unflatten(1, (tiles, RMS_TILE)).unbind(1):
        total = total + tile
    while total.shape[1] > 1:
        total = total[:, ::2] + total[:, 1::2]
    mean = total / torch.full_like(total, float(cols))
    # torch's fp32 root may be one ulp off on a CPU; the fp64 root, rounded, is exact.
    return 1.0 / (mean + torch.full_like(mean, eps)).double().sqrt().float()


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
) -> None:
    """RMS normalization of [M, H] times the weight, quantized; writes packed `values` [M, H / 2] and flat scale bytes.

    Without a residual ``x * weight`` is rounded to the dtype of x and multiplied by the reciprocal root. With one, h = x +
    residual is rounded into the residual (the sum of squares sees it unrounded) and y is ``h * reciprocal * weight``. In
    both cases y is quantized from fp32; `normed` gets it rounded. `global_scale`: the encode scale [1], None for 1.
    """
    if residual is None:
        inverse = rms_reciprocal(x.float(), eps)
        y = (x.float() * weight.float()).to(x.dtype).float() * inverse
    else:
        h = x.float() + residual.float()
        inverse = rms_reciprocal(h, eps)
        residual.copy_(h)
        y = residual.float() * inverse * weight.float()
    if normed is not None:
        normed.copy_(y)
    source = "encode" if global_scale is not None and fmt.two_level else "none"
    packed, scales, _ = quantize(y, global_scale, None, fmt, "static_6", 448, source, SfLayout.layout_linear, False)
    values.copy_(packed)
    if linear is not None:
        linear.copy_(scales)
    if swizzled is not None:
        swizzled.copy_(as_layout(SfLayout.layout_128x4).from_linear(scales.view(x.shape[0], x.shape[1] // fmt.vec)))
