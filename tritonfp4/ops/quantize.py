"""Quantization to FP4."""

from __future__ import annotations

import torch

from tritonfp4 import reference
from tritonfp4.formats import ADAPTIVE_RULES, FORMATS, scale_range
from tritonfp4.layouts import SfLayout, as_layout, ceil_div, flat_rows
from tritonfp4.ops.register import define, elementwise, use_kernels


def pass_of(dtype: torch.dtype, rule: str, tile_2d: bool, rounding: str) -> str:
    """Which launch parameters a quantization takes: those whose registers do not spill with any compiler."""
    if rounding != "nearest":
        return "quantize_noisy" if rule in ADAPTIVE_RULES else "quantize"
    return "quantize_tiles" if tile_2d or dtype == torch.uint8 else "quantize"


def _quantize(
    x: torch.Tensor,
    global_scale: torch.Tensor | None,
    out_scale: torch.Tensor | None,
    format: str,
    rule: str,
    e4m3_max: int,
    scale_from: str,
    layout: int,
    pad: bool,
    backend: str,
    tile_2d: bool = False,
    rounding: str = "nearest",
    seed: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    flat = x.reshape(flat_rows(x.shape), x.shape[-1])
    args = (flat, global_scale, out_scale, FORMATS[format], rule, e4m3_max, scale_from, SfLayout(layout), pad)
    if use_kernels("quantize", x, backend) and flat.numel():
        from tritonfp4.kernels.quantize import quantize as launcher

        op = pass_of(x.dtype, rule, tile_2d, rounding)
        configs = elementwise(op, x, *flat.shape), elementwise("amax", x, *flat.shape)
        values, scales, decode = launcher(*args, *configs, tile_2d, rounding, seed)
    else:
        values, scales, decode = reference.quantize(*args, tile_2d, rounding, seed)
    return values if pad else values.reshape(*x.shape[:-1], x.shape[-1] // 2), scales, decode


def _quantize_fake(
    x: torch.Tensor,
    global_scale: torch.Tensor | None,
    out_scale: torch.Tensor | None,
    format: str,
    rule: str,
    e4m3_max: int,
    scale_from: str,
    layout: int,
    pad: bool,
    backend: str,
    tile_2d: bool = False,
    rounding: str = "nearest",
    seed: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    fmt, kind = FORMATS[format], as_layout(layout)
    rows, cols = flat_rows(x.shape), x.shape[-1]
    scale_rows, scale_cols = kind.storage_shape(rows, ceil_div(cols, fmt.vec))
    shape = (scale_rows, scale_cols * fmt.vec // 2) if pad else (*x.shape[:-1], cols // 2)
    per_row = scale_from == "row" or (global_scale is not None and scale_from != "none" and global_scale.numel() != 1)
    count = rows if per_row and fmt.two_level else 1
    return (
        x.new_empty(shape, dtype=torch.uint8),
        x.new_empty(scale_rows * scale_cols, dtype=torch.uint8),
        x.new_empty(count, dtype=torch.float32),
    )


define(
    "quantize",
    "(Tensor x, Tensor? global_scale, Tensor? out_scale, str format, str rule, int e4m3_max, str scale_from, int layout, "
    "bool pad, str backend, bool tile_2d=False, str rounding='nearest', Tensor? seed=None) -> (Tensor, Tensor, Tensor)",
    _quantize,
    _quantize_fake,
)


def _rotate(x: torch.Tensor, had: torch.Tensor, backend: str) -> torch.Tensor:
    flat = x.reshape(flat_rows(x.shape), x.shape[-1])
    if use_kernels("rotate", x, backend) and flat.numel():
        from tritonfp4.kernels.rotate import rotate as launcher

        return launcher(flat, had, elementwise("rotate", x, *flat.shape)).reshape(x.shape)
    return reference.rotate(flat, had).reshape(x.shape)


define(
    "rotate",
    "(Tensor x, Tensor had, str backend) -> Tensor",
    _rotate,
    lambda x, had, backend: x.new_empty(x.shape),
)


def _nvfp4_global_scale(x: torch.Tensor, rule: str, e4m3_max: int, backend: str) -> torch.Tensor:
    flat = x.reshape(flat_rows(x.shape), x.shape[-1])
    largest = scale_range(rule, e4m3_max)
    if use_kernels("nvfp4_global_scale", x, backend) and flat.numel():
        from tritonfp4.kernels.quantize import global_encode_scale

        return global_encode_scale(flat, largest, elementwise("amax", x, *flat.shape))
    return reference.global_encode_scale(flat, largest)


define(
    "nvfp4_global_scale",
    "(Tensor x, str rule, int e4m3_max, str backend) -> Tensor",
    _nvfp4_global_scale,
    lambda x, rule, e4m3_max, backend: x.new_empty(1, dtype=torch.float32),
)
