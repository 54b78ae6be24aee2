"""flashinfer's FP8 test helpers: scales are powers of two, the amax is at least 1e-4."""

from __future__ import annotations

import math

import torch

from tritonfp4 import checks
from tritonfp4.checks import ShapeError
from tritonfp4.formats import FP8_1X128, FP8_128X128
from tritonfp4.verbs.quantize_fp8 import call_quantize_blocks, call_quantize_fp8

__all__ = ["dequantize_fp8", "per_block_cast_to_fp8", "per_token_cast_to_fp8", "quantize_fp8"]


def per_token_cast_to_fp8(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Quantize to e4m3 with a power-of-two scale for every 128 consecutive elements of a row.

    Args:
        x: ``[M, K]`` bf16, fp16 or fp32, K a multiple of 128.

    Returns:
        float8_e4m3fn ``[M, K]`` and fp32 decode multipliers ``[M, K / 128]``.

    Raises:
        ShapeError, DTypeError, UnsupportedError. Source of the convention: flashinfer 0.7.2 ``testing.utils``; the power of
        two is exact here, there it is ``2 ** ceil(log2(s))`` in fp32.
    """
    fn = "per_token_cast_to_fp8"
    _two_dimensions(fn, x)
    checks.quantizer_input(fn, "x", x, FP8_1X128.vec)
    values, scales = call_quantize_fp8(fn, x, FP8_1X128, rule="amax", pow2=True)
    return values.view(torch.float8_e4m3fn), scales


def per_block_cast_to_fp8(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Quantize to e4m3 with a power-of-two scale for every tile of 128 x 128 elements, ragged edges padded with 0.

    Args:
        x: ``[N, K]`` bf16, fp16 or fp32.

    Returns:
        float8_e4m3fn ``[N, K]`` and fp32 decode multipliers ``[ceil(N / 128), ceil(K / 128)]``.

    Raises:
        ShapeError, DTypeError, UnsupportedError. Source of the convention: as `per_token_cast_to_fp8`.
    """
    fn = "per_block_cast_to_fp8"
    _two_dimensions(fn, x)
    values, scales = call_quantize_fp8(fn, x, FP8_128X128, rule="amax", pow2=True)
    return values.view(torch.float8_e4m3fn), scales


def _two_dimensions(fn: str, x: torch.Tensor) -> None:
    checks.is_tensor(fn, "x", x)
    if x.ndim != 2:
        raise ShapeError(f"{fn}: x must have 2 dimensions, got shape {tuple(x.shape)}")


def quantize_fp8(
    x: torch.Tensor, scale_shape: tuple[int, ...], tile_shape: tuple[int, ...], scale_major_mode: str
) -> tuple[torch.Tensor, torch.Tensor]:
    """Quantize to e4m3 with a power-of-two scale s for every tile: ``x / (s + 1e-8)``.

    Args:
        x: 2-D or 3-D, bf16, fp16 or fp32; every dimension a whole number of tiles.
        scale_shape: shape of the scales: the number of tiles in every dimension, the last two exchanged unless
            `scale_major_mode` is "K".
        tile_shape: elements of a tile in every dimension of x.
        scale_major_mode: "K", or another value ("MN").

    Returns:
        float8_e4m3fn of x's shape and fp32 decode multipliers of `scale_shape`.

    Raises:
        ShapeError, DTypeError, UnsupportedError. Source of the convention: flashinfer 0.7.2 ``testing.utils``; 16-bit
        inputs are scaled in fp32 here, there in their own dtype.
    """
    fn = "quantize_fp8"
    checks.is_tensor(fn, "x", x)
    if x.ndim not in (2, 3):
        raise ShapeError(f"{fn}: x.ndim must be 2 or 3, but got {x.ndim}")
    for arg, given in (("scale_shape", scale_shape), ("tile_shape", tile_shape)):
        if not isinstance(given, (tuple, list, torch.Size)) or not all(isinstance(n, int) for n in given):
            raise checks.DTypeError(f"{fn}: {arg} must be a tuple of integers, got {given!r}")
        if len(given) != x.ndim or min(given) < 1:
            raise ShapeError(
                f"{fn}: {arg} must have {x.ndim} positive numbers, as x has dimensions, got {tuple(given)}"
            )
    if not isinstance(scale_major_mode, str):
        raise checks.ArgumentError(f"{fn}: scale_major_mode must be 'K' or 'MN', got {scale_major_mode!r}")
    k_major = scale_major_mode == "K"
    tiles = tuple(scale_shape) if k_major else (*scale_shape[:-2], scale_shape[-1], scale_shape[-2])
    if any(n * size != whole for n, size, whole in zip(tiles, tile_shape, x.shape, strict=True)):
        raise ShapeError(
            f"{fn}: {tiles} tiles of {tuple(tile_shape)} do not make up x of shape {tuple(x.shape)} "
            f"(scale_shape={tuple(scale_shape)}, scale_major_mode={scale_major_mode!r})"
        )
    # The tiles of a 3-D x as those of a matrix: the rows of a tile, of all its matrices, follow each other.
    (s0, s1), (t0, t1) = ((1, tiles[0]), (1, tile_shape[0])) if x.ndim == 2 else (tiles[:2], tile_shape[:2])
    flat = x.reshape(s0, t0, s1, t1, x.shape[-1]).transpose(1, 2).reshape(math.prod(x.shape[:-1]), x.shape[-1])
    values, scales = call_quantize_blocks(fn, flat, "e4m3", (t0 * t1, tile_shape[-1]), rule="divide", pow2=True)
    values = values.reshape(s0, s1, t0, t1, x.shape[-1]).transpose(1, 2).reshape(x.shape)
    scales = scales.reshape(tiles)
    return values.view(torch.float8_e4m3fn), scales if k_major else scales.transpose(-1, -2).contiguous()


def dequantize_fp8(x: torch.Tensor, x_scale: torch.Tensor, scale_major_mode: str) -> torch.Tensor:
    """The inverse of `quantize_fp8`: every element times the scale of its tile.

    Args:
        x: 2-D or 3-D, float8.
        x_scale: fp32, a scale for every tile, as `quantize_fp8` returns them.
        scale_major_mode: "K", or another value ("MN").

    Returns:
        fp32 of x's shape.

    Raises:
        ShapeError, DTypeError. Source of the convention: flashinfer 0.7.2 ``testing.utils``.
    """
    fn = "dequantize_fp8"
    checks.dtype(fn, "x", x, (torch.float8_e4m3fn, torch.float8_e5m2))
    checks.dtype(fn, "x_scale", x_scale, (torch.float32,))
    scale = x_scale if scale_major_mode == "K" else x_scale.transpose(-1, -2)
    if (
        x.ndim not in (2, 3)
        or scale.ndim != x.ndim
        or any(n == 0 or whole % n for n, whole in zip(scale.shape, x.shape, strict=True))
    ):
        raise ShapeError(
            f"{fn}: x_scale of shape {tuple(x_scale.shape)} does not divide x of shape {tuple(x.shape)} into whole tiles"
        )
    checks.same_device(fn, x=x, x_scale=x_scale)
    for dim in range(x.ndim):
        scale = scale.repeat_interleave(x.shape[dim] // scale.shape[dim], dim)
    return x.float() * scale
