"""Batched, grouped, masked and fused quantization."""

from __future__ import annotations

import dataclasses

import torch

from tritonfp4 import reference
from tritonfp4.formats import FORMATS
from tritonfp4.layouts import SfLayout, as_layout, flat_rows
from tritonfp4.ops.register import define, elementwise, use_kernels


def _quantize_batched(
    x: torch.Tensor,
    counts: torch.Tensor | None,
    global_scale: torch.Tensor,
    activation: str,
    rule: str,
    e4m3_max: int,
    layout: int,
    backend: str,
) -> tuple[torch.Tensor, torch.Tensor]:
    g = global_scale.to(torch.float32)
    args = (x, counts, g, FORMATS["nvfp4"], activation, rule, e4m3_max, SfLayout(layout))
    if use_kernels("quantize_batched", x, backend) and x.numel():
        from tritonfp4.kernels.fused import quantize_batched as launcher

        return launcher(*args, elementwise("quantize_batched", x, x.shape[1], x.shape[2]))
    return reference.quantize_batched(*args)


def _quantize_batched_fake(
    x: torch.Tensor,
    counts: torch.Tensor | None,
    global_scale: torch.Tensor,
    activation: str,
    rule: str,
    e4m3_max: int,
    layout: int,
    backend: str,
) -> tuple[torch.Tensor, torch.Tensor]:
    batch, rows, cols = x.shape
    cols = cols // 2 if activation else cols
    size = as_layout(layout).numel(rows, cols // FORMATS["nvfp4"].vec)
    return (
        x.new_empty((batch, rows, cols // 2), dtype=torch.uint8),
        x.new_empty((batch, size), dtype=torch.uint8),
    )


define(
    "quantize_batched",
    "(Tensor x, Tensor? counts, Tensor global_scale, str activation, str rule, int e4m3_max, int layout, str backend) "
    "-> (Tensor, Tensor)",
    _quantize_batched,
    _quantize_batched_fake,
)


def _rmsnorm_quantize_out(
    x: torch.Tensor,
    residual: torch.Tensor | None,
    weight: torch.Tensor,
    global_scale: torch.Tensor | None,
    eps: float,
    format: str,
    vec: int,
    backend: str,
    values: torch.Tensor,
    swizzled: torch.Tensor | None,
    linear: torch.Tensor | None,
    normed: torch.Tensor | None,
) -> None:
    rows, cols = flat_rows(x.shape), x.shape[-1]
    flat = x.reshape(rows, cols)
    sum_of_both = None if residual is None else residual.reshape(rows, cols)
    g = None if global_scale is None else global_scale.to(torch.float32).reshape(-1)
    outputs = (
        values.view(rows, cols // 2),
        None if swizzled is None else swizzled.view(-1),
        None if linear is None else linear.view(-1),
        None if normed is None else normed.view(rows, cols),
    )
    fmt = dataclasses.replace(FORMATS[format], block=(1, vec))
    args = (flat, sum_of_both, weight, g, eps, fmt, *outputs)
    if use_kernels("rmsnorm_quantize_out", x, backend) and x.numel():
        from tritonfp4.kernels.fused import rmsnorm_quantize as launcher

        launcher(*args, elementwise("rmsnorm", x, rows, cols))
    else:
        reference.rmsnorm_quantize(*args)
    if residual is not None and sum_of_both is not None and sum_of_both.data_ptr() != residual.data_ptr():
        residual.copy_(sum_of_both.view(residual.shape))  # its rows could only be flattened by a copy


define(
    "rmsnorm_quantize_out",
    "(Tensor x, Tensor(a!)? residual, Tensor weight, Tensor? global_scale, float eps, str format, int vec, str backend, "
    "Tensor(b!) values, Tensor(c!)? swizzled, Tensor(d!)? linear, Tensor(e!)? normed) -> ()",
    _rmsnorm_quantize_out,
    lambda *args: None,
)
