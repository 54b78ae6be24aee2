"""Moves of scale bytes and weight rows."""

from __future__ import annotations

import torch

from tritonfp4 import layouts
from tritonfp4.layouts import SfLayout, as_layout


def relayout(
    scales: torch.Tensor, batch: int, rows: int, cols: int, source: SfLayout, target: SfLayout, row_shuffle: int
) -> torch.Tensor:
    """Flat scales of `batch` matrices in `source` -> flat in `target`; rows are shuffled in blocks of `row_shuffle`."""
    per_matrix = scales.reshape(batch, -1) if batch else scales.reshape(0, 0)
    linear = [as_layout(source).to_linear(one, rows, cols) for one in per_matrix]
    if row_shuffle:
        linear = [layouts.shuffle_rows(one, row_shuffle) for one in linear]
    if not linear:
        return scales.new_empty(0)
    return as_layout(target).from_linear(torch.stack(linear)).clone()


def shuffle_rows(x: torch.Tensor, block: int) -> torch.Tensor:
    """[M, C] with rows in stored order."""
    return layouts.shuffle_rows(x, block).clone()
