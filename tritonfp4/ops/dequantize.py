"""Dequantization."""

from __future__ import annotations

import torch

from tritonfp4 import reference
from tritonfp4.checks import ShapeError
from tritonfp4.formats import FORMATS
from tritonfp4.layouts import SfLayout
from tritonfp4.ops.register import define, elementwise, use_kernels
from tritonfp4.tensor import BlockScaledTensor


def _dequantize(
    values: torch.Tensor,
    scales: torch.Tensor,
    global_scale: torch.Tensor | None,
    format: str,
    layout: int,
    row_shuffle: int,
    shape: list[int],
    dtype: torch.dtype,
    zero_code: bool,
    backend: str,
    batched: bool = False,
) -> torch.Tensor:
    fmt = FORMATS[format]
    codes = scales if fmt.scale in ("fp32", "") else scales.view(torch.uint8)
    t = BlockScaledTensor(
        values.view(torch.uint8), codes, global_scale, fmt, SfLayout(layout), tuple(shape), row_shuffle, batched
    )
    want = t.scale_layout.numel(*t.scale_shape) * (shape[0] if batched else 1) if fmt.scale else 0
    padded = batched and tuple(values.shape[:-1]) != tuple(shape[:-1])
    if codes.numel() != want or fmt.packing * values.numel() < t.rows * t.cols or padded:
        raise ShapeError(
            f"dequantize: {values.numel()} bytes and {codes.numel()} scales do not hold {tuple(shape)} in {format}"
        )
    if use_kernels("dequantize", values, backend):
        from tritonfp4.kernels.dequantize import dequantize as launcher

        out = launcher(t, dtype, zero_code, elementwise("dequantize", values, t.rows, t.cols))
    else:
        out = reference.dequantize(t, dtype, zero_code)
    return out.reshape(shape)


define(
    "dequantize",
    "(Tensor values, Tensor scales, Tensor? global_scale, str format, int layout, int row_shuffle, SymInt[] shape, "
    "ScalarType dtype, bool zero_code, str backend, bool batched=False) -> Tensor",
    _dequantize,
    lambda values, scales, global_scale, format, layout, row_shuffle, shape, dtype, zero_code, backend, batched=False: (
        values.new_empty(shape, dtype=dtype)
    ),
)
