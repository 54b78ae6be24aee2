"""Moves of scale bytes and weight rows."""

from __future__ import annotations

import torch

from tritonfp4 import reference
from tritonfp4.layouts import SfLayout, as_layout
from tritonfp4.ops.register import define, elementwise, use_kernels


def _relayout(
    scales: torch.Tensor, shape: list[int], source: int, target: int, row_shuffle: int, backend: str
) -> torch.Tensor:
    batch, rows, cols = shape
    args = (scales, batch, rows, cols, SfLayout(source), SfLayout(target), row_shuffle)
    if use_kernels("relayout", scales, backend):
        from tritonfp4.kernels.relayout import relayout as launcher

        return launcher(*args, elementwise("relayout", scales, rows, cols))
    return reference.relayout(*args)


def _relayout_fake(
    scales: torch.Tensor, shape: list[int], source: int, target: int, row_shuffle: int, backend: str
) -> torch.Tensor:
    return scales.new_empty(shape[0] * as_layout(target).numel(shape[1], shape[2]))


define(
    "relayout",
    "(Tensor scales, SymInt[] shape, int source, int target, int row_shuffle, str backend) -> Tensor",
    _relayout,
    _relayout_fake,
)


def _relayout_out(
    scales: torch.Tensor, shape: list[int], source: int, target: int, row_shuffle: int, backend: str, out: torch.Tensor
) -> None:
    out.copy_(_relayout(scales, shape, source, target, row_shuffle, backend))


define(
    "relayout_out",
    "(Tensor scales, SymInt[] shape, int source, int target, int row_shuffle, str backend, Tensor(a!) out) -> ()",
    _relayout_out,
    lambda scales, shape, source, target, row_shuffle, backend, out: None,
)


def _shuffle_rows(x: torch.Tensor, block: int, backend: str) -> torch.Tensor:
    flat = x.reshape(x.shape[0], -1) if x.numel() else x.reshape(x.shape[0], 0)
    if use_kernels("shuffle_rows", x, backend):
        from tritonfp4.kernels.relayout import shuffle_rows as launcher

        return launcher(flat, block, elementwise("shuffle", x, *flat.shape)).reshape(x.shape)
    return reference.shuffle_rows(flat, block).reshape(x.shape)


define(
    "shuffle_rows",
    "(Tensor x, int block, str backend) -> Tensor",
    _shuffle_rows,
    lambda x, block, backend: x.new_empty(x.shape),
)
