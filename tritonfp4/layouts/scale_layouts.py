"""Layouts of block-scale matrices: linear, 128x4 and 8x4.

A scale matrix has R rows and C = K / vec columns. The swizzled layouts pad it with zeros to whole tiles, store the
tiles one after the other (column tiles fastest), and reorder the bytes inside a tile. Sources: the cuBLASLt "1D block
scaling factors layout" for 128x4 (the same bytes as torch's ``SwizzleType.SWIZZLE_32_4_4``) and flashinfer's
``SfLayout.layout_8x4``.
"""

from __future__ import annotations

import enum
import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch


class SfLayout(enum.IntEnum):
    """Names of the scale layouts, with flashinfer's values."""

    layout_128x4 = 0
    layout_8x4 = 1
    layout_linear = 2


def ceil_div(a: int, b: int) -> int:
    """a / b, rounded up."""
    return -(-a // b)


def round_up(a: int, b: int) -> int:
    """The smallest multiple of b that is at least a."""
    return ceil_div(a, b) * b


def flat_rows(shape: Sequence[int]) -> int:
    """Rows of a tensor of this shape once its leading dimensions are flattened. (A loop: Dynamo traces it.)"""
    rows = 1
    for size in shape[:-1]:
        rows *= size
    return rows


@dataclass(frozen=True)
class ScaleLayout:
    """One layout.

    Attributes:
        kind: its name.
        tile_rows: rows of a tile; 1 for the linear layout.
        tile_cols: columns of a tile; 1 for the linear layout.
    """

    kind: SfLayout
    tile_rows: int
    tile_cols: int

    def storage_shape(self, rows: int, cols: int) -> tuple[int, int]:
        """Rows and columns after padding; the 2-D shape in which flashinfer returns the buffer."""
        return round_up(rows, self.tile_rows), round_up(cols, self.tile_cols)

    def numel(self, rows: int, cols: int) -> int:
        """Scales in the buffer, padding included."""
        padded_rows, padded_cols = self.storage_shape(rows, cols)
        return padded_rows * padded_cols

    def offset(self, r: torch.Tensor, c: torch.Tensor, cols: int) -> torch.Tensor:
        """Position of scale (r, c) in the flat buffer of a matrix with `cols` columns."""
        if self.kind == SfLayout.layout_linear:
            return r * cols + c
        tile = (r // self.tile_rows) * ceil_div(cols, self.tile_cols) + c // self.tile_cols
        if self.kind == SfLayout.layout_128x4:
            return tile * 512 + (r % 32) * 16 + (r % 128) // 32 * 4 + c % 4
        return tile * 32 + (r % 8) * 4 + c % 4

    def from_linear(self, scales: torch.Tensor) -> torch.Tensor:
        """[..., R, C] -> flat [... * numel(R, C)]; every matrix is padded with zeros on its own."""
        rows, cols = scales.shape[-2:]
        if self.kind == SfLayout.layout_linear:
            return scales.reshape(-1)
        padded_rows, padded_cols = self.storage_shape(rows, cols)
        padded = scales.new_zeros((*scales.shape[:-2], padded_rows, padded_cols))
        padded[..., :rows, :cols] = scales
        batch = math.prod(scales.shape[:-2])
        if self.kind == SfLayout.layout_128x4:
            tiles = padded.view(batch, padded_rows // 128, 4, 32, padded_cols // 4, 4)
            return tiles.permute(0, 1, 4, 3, 2, 5).reshape(-1)
        tiles = padded.view(batch, padded_rows // 8, 8, padded_cols // 4, 4)
        return tiles.permute(0, 1, 3, 2, 4).reshape(-1)

    def to_linear(self, flat: torch.Tensor, rows: int, cols: int) -> torch.Tensor:
        """Flat buffer of one matrix -> [rows, cols], padding dropped."""
        padded_rows, padded_cols = self.storage_shape(rows, cols)
        if self.kind == SfLayout.layout_linear:
            return flat.reshape(rows, cols)
        if self.kind == SfLayout.layout_128x4:
            tiles = flat.reshape(padded_rows // 128, padded_cols // 4, 32, 4, 4).permute(0, 3, 2, 1, 4)
        else:
            tiles = flat.reshape(padded_rows // 8, padded_cols // 4, 8, 4).permute(0, 2, 1, 3)
        return tiles.reshape(padded_rows, padded_cols)[:rows, :cols]


LAYOUTS: dict[SfLayout, ScaleLayout] = {
    SfLayout.layout_128x4: ScaleLayout(SfLayout.layout_128x4, 128, 4),
    SfLayout.layout_8x4: ScaleLayout(SfLayout.layout_8x4, 8, 4),
    SfLayout.layout_linear: ScaleLayout(SfLayout.layout_linear, 1, 1),
}


def as_layout(kind: SfLayout | int) -> ScaleLayout:
    """The layout object of a name or number."""
    if kind not in LAYOUTS:
        raise ValueError(f"{kind!r} is no scale layout: want one of {[int(k) for k in LAYOUTS]}")
    return LAYOUTS[kind]  # type: ignore[index]  # an int equals and hashes as its member
