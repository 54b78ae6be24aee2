"""What every verb needs: the names of the backends, and the check of a `BlockScaledTensor`."""

from __future__ import annotations

import torch

from tritonfp4 import checks
from tritonfp4.formats import FORMATS
from tritonfp4.layouts import SfLayout, flat_rows
from tritonfp4.tensor import BlockScaledTensor

#: What runs an operator: the device decides, the kernels, or the reference.
BACKENDS = ("auto", "triton", "torch")


def block_scaled(fn: str, arg: str, t: BlockScaledTensor, ragged: int | None = None) -> None:
    """Check that the parts of a `BlockScaledTensor` fit together; `ragged`: the number of row groups of a ragged one."""
    if not isinstance(t, BlockScaledTensor):
        raise checks.DTypeError(f"{fn}: {arg} must be a BlockScaledTensor, got {type(t).__name__}")
    fmt = checks.block_format(fn, f"{arg}.format", t.format, FORMATS)
    kinds = (t.values.dtype,) if fmt.element != "e2m1" and t.values.element_size() == 1 else ()
    checks.dtype(fn, f"{arg}.values", t.values, kinds or (torch.uint8,))
    stored, rows, cols = t.values.shape, t.rows, t.cols
    too_few = len(stored) != 3 if t.batched else len(stored) < 2
    if too_few or flat_rows(stored) < rows or fmt.packing * stored[-1] < cols:
        raise checks.ShapeError(f"{fn}: {arg}.values of shape {tuple(stored)} are too small for {tuple(t.shape)}")
    if t.batched and tuple(stored[:-1]) != tuple(t.shape[:-1]):
        raise checks.ShapeError(
            f"{fn}: {arg}.values of a batched tensor must have its rows and no more: got {tuple(stored)} for {tuple(t.shape)}"
        )
    if cols % fmt.vec and fmt.scale not in ("fp32", ""):
        raise checks.ShapeError(f"{fn}: the columns of {arg} must be a multiple of {fmt.vec}, got {tuple(t.shape)}")
    if t.row_shuffle not in (0, 16, 32) or (t.row_shuffle and (rows % t.row_shuffle or t.batched)):
        raise checks.ShapeError(
            f"{fn}: {arg}.row_shuffle must be 0, 16 or 32 and divide the rows, got {t.row_shuffle} for {rows} rows"
        )
    _scales(fn, arg, t, ragged)
    if t.global_scale is not None:
        if t.batched and t.global_scale.numel() == t.shape[0]:
            checks.global_scale(fn, f"{arg}.global_scale", t.global_scale, t.shape[0])
        else:
            checks.global_scale(fn, f"{arg}.global_scale", t.global_scale, rows)
    parts = {
        f"{arg}.values": t.values,
        f"{arg}.scales": t.scales if fmt.scale else None,
        f"{arg}.global_scale": t.global_scale,
    }
    checks.same_device(fn, **parts)


def _scales(fn: str, arg: str, t: BlockScaledTensor, ragged: int | None) -> None:
    rows, cols = t.scale_shape
    if not t.format.scale:
        return
    if t.format.scale == "fp32":
        checks.dtype(fn, f"{arg}.scales", t.scales, (torch.float32,))
        want = (t.shape[0], rows, cols) if t.batched else (rows, cols)
        if tuple(t.scales.shape) != want:
            raise checks.ShapeError(f"{fn}: {arg}.scales must have shape {want}, got {tuple(t.scales.shape)}")
        return
    if not t.batched and (ragged is None or t.layout == SfLayout.layout_linear):
        checks.scale_buffer(fn, f"{arg}.scales", t.scales, t.format, t.layout, rows, cols)
        return
    checks.dtype(fn, f"{arg}.scales", t.scales, checks.SCALE_DTYPES[t.format.scale])
    padded = t.scale_layout.storage_shape(1, cols)[1]
    count = t.shape[0] * t.scale_layout.numel(rows, cols) if t.batched else ragged_rows(t.rows, ragged or 0) * padded
    if t.scales.numel() != count and (t.batched or t.scales.numel() < count):
        raise checks.ShapeError(f"{fn}: {arg}.scales size does not match: got {t.scales.numel()}, want {count} scales")


def ragged_rows(rows: int, groups: int) -> int:
    """Rows of the 128x4 scale buffer of a ragged operand: group g begins at row ``(indptr[g] + 127 * g) // 128 * 128``."""
    return (rows + 127 * groups) // 128 * 128
