"""Quantization to MXFP8 and FP8. Values are bytes; they are viewed as float8 or int8 outside."""

from __future__ import annotations

import torch

from tritonfp4 import reference
from tritonfp4.formats import FORMATS
from tritonfp4.layouts import SfLayout, as_layout, ceil_div, flat_rows, round_up
from tritonfp4.ops.register import define, elementwise, use_kernels


def _matrices(x: torch.Tensor, per_batch: bool) -> tuple[int, int]:
    """How many matrices the scales see, and the rows of each."""
    return (x.shape[0], x.shape[1]) if per_batch else (1, flat_rows(x.shape))


def _quantize_mxfp8(
    x: torch.Tensor, format: str, rule: str, layout: int, alignment: int, per_batch: bool, backend: str
) -> tuple[torch.Tensor, torch.Tensor]:
    batch, rows = _matrices(x, per_batch)
    cols = round_up(x.shape[-1], alignment)
    args = (x.reshape(batch, rows, x.shape[-1]), FORMATS[format], rule, SfLayout(layout), cols)
    if use_kernels("quantize_mxfp8", x, backend) and x.numel():
        from tritonfp4.kernels.quantize_fp8 import quantize_mxfp8 as launcher

        values, scales = launcher(*args, elementwise("quantize", x, rows, cols))
    else:
        values, scales = reference.quantize_mxfp8(*args)
    return values.reshape(*x.shape[:-1], cols), scales


def _quantize_mxfp8_fake(
    x: torch.Tensor, format: str, rule: str, layout: int, alignment: int, per_batch: bool, backend: str
) -> tuple[torch.Tensor, torch.Tensor]:
    batch, rows = _matrices(x, per_batch)
    cols = round_up(x.shape[-1], alignment)
    count = batch * as_layout(layout).numel(rows, cols // FORMATS[format].vec)
    return x.new_empty((*x.shape[:-1], cols), dtype=torch.uint8), x.new_empty(count, dtype=torch.uint8)


define(
    "quantize_mxfp8",
    "(Tensor x, str format, str rule, int layout, int alignment, bool per_batch, str backend) -> (Tensor, Tensor)",
    _quantize_mxfp8,
    _quantize_mxfp8_fake,
)


def _quantize_fp8(
    x: torch.Tensor, element: str, block: list[int], rule: str, eps: float, pow2: bool, mn_align: int, backend: str
) -> tuple[torch.Tensor, torch.Tensor]:
    flat = x.reshape(flat_rows(x.shape), x.shape[-1])
    args = (flat, element, (block[0], block[1]), rule, eps, pow2, mn_align)
    if use_kernels("quantize_fp8", x, backend) and flat.numel():
        from tritonfp4.kernels.quantize_fp8 import MAX_COLUMNS
        from tritonfp4.kernels.quantize_fp8 import quantize_fp8 as launcher

        if block[1] <= MAX_COLUMNS:  # a program holds a row of a block; wider ones are for the reference
            values, scales = launcher(*args, elementwise("quantize", x, *flat.shape))
            return values.reshape(x.shape), scales
    values, scales = reference.quantize_fp8(*args)
    return values.reshape(x.shape), scales


def _quantize_fp8_fake(
    x: torch.Tensor, element: str, block: list[int], rule: str, eps: float, pow2: bool, mn_align: int, backend: str
) -> tuple[torch.Tensor, torch.Tensor]:
    rows, cols = ceil_div(flat_rows(x.shape), block[0]), ceil_div(x.shape[-1], block[1])
    values = x.new_empty(x.shape, dtype=torch.uint8)
    if not mn_align:
        return values, x.new_empty((rows, cols), dtype=torch.float32)
    return values, x.new_empty((cols, round_up(rows, mn_align)), dtype=torch.float32)[:, :rows].t()


define(
    "quantize_fp8",
    "(Tensor x, str element, int[] block, str rule, float eps, bool pow2, int mn_align, str backend) -> (Tensor, Tensor)",
    _quantize_fp8,
    _quantize_fp8_fake,
)
