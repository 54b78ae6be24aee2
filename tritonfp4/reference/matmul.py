"""The meaning of dequantization and of the block-scaled products."""

from __future__ import annotations

import itertools

import torch

from tritonfp4 import layouts
from tritonfp4.layouts import SfLayout, as_layout
from tritonfp4.reference.encode import e2m1_decode, e4m3_decode, e5m2_decode, e8m0_decode, unpack
from tritonfp4.tensor import BlockScaledTensor

Operand = BlockScaledTensor | torch.Tensor


def dequantize(t: BlockScaledTensor, dtype: torch.dtype, zero_code: bool = False) -> torch.Tensor:
    """-> [rows, K]: ``(element * scale) * global_scale``, each product rounded to fp32, then to `dtype`.

    `zero_code`: an e8m0 code of 0 decodes to 0 instead of 2^-127 (flashinfer's ``e2m1_and_ufp8sf_scale_to_float``).
    """
    out = elements(t) * spread_scales(t, zero_code)
    if t.row_shuffle:
        out = layouts.unshuffle_rows(out, t.row_shuffle)
    if t.global_scale is not None:
        out = out * row_globals(t).float()[:, None]
    return out.to(dtype)


def elements(t: BlockScaledTensor) -> torch.Tensor:
    """fp32 elements [rows, K] without scales, rows in stored order."""
    stored = t.flat_values[: t.rows, : -(-t.cols // t.format.packing)]
    if t.format.element == "e2m1":
        return e2m1_decode(unpack(stored)[:, : t.cols])
    return (e4m3_decode if t.format.element == "e4m3" else e5m2_decode)(stored)


def spread_scales(t: BlockScaledTensor, zero_code: bool = False) -> torch.Tensor:
    """fp32 block scales [rows, K], one for each element, rows in stored order."""
    if not t.format.scale:
        return torch.ones((t.rows, t.cols), device=t.device)
    batch = t.shape[0] if t.batched else 1
    rows, cols = t.scale_shape
    if t.format.scale == "fp32":
        linear = t.scales.reshape(batch, rows, cols)
    else:
        codes = t.scales.reshape(batch, -1)
        linear = torch.stack([t.scale_layout.to_linear(one, rows, cols) for one in codes])
        code = linear
        linear = (e4m3_decode if t.format.scale == "e4m3" else e8m0_decode)(code.contiguous())
        if zero_code and t.format.scale == "e8m0":
            linear = torch.where(code == 0, 0.0, linear)
    matrix_rows = t.shape[-2] if t.batched else t.rows
    linear = linear.repeat_interleave(t.format.block[0], 1)[:, :matrix_rows]
    return linear.repeat_interleave(t.format.vec, 2)[:, :, : t.cols].reshape(t.rows, t.cols)


def row_globals(t: BlockScaledTensor) -> torch.Tensor:
    """The global scale of every row [rows]; of a batched tensor it may be one for each matrix."""
    assert t.global_scale is not None
    g = t.global_scale.reshape(-1)
    if t.batched and g.numel() == t.shape[0]:
        return g.repeat_interleave(t.shape[-2])
    return g.expand(t.rows)


def _exact(t: Operand) -> torch.Tensor:
    """fp64 [rows, K] without the global scale."""
    if isinstance(t, torch.Tensor):
        return t.double()
    out = elements(t).double() * spread_scales(t).double()
    return layouts.unshuffle_rows(out, t.row_shuffle) if t.row_shuffle else out


def _rows(t: Operand) -> torch.Tensor | None:
    """fp64 global scale of every row."""
    return None if isinstance(t, torch.Tensor) or t.global_scale is None else row_globals(t).double()


def matmul(a: Operand, b: Operand, out: torch.Tensor) -> None:
    """``out = a @ b.T`` in fp64, rounded to fp32 and from there to out. a [M, K], b [N, K]; plain tensors as they are.

    If one operand is padded further along K than the other, the rest is ignored.
    """
    k = min(a.shape[-1], b.shape[-1])
    product = _exact(a)[:, :k] @ _exact(b)[:, :k].T
    ga, gb = _rows(a), _rows(b)
    if ga is not None:
        product = product * ga[:, None]
    if gb is not None:
        product = product * gb[None, :]
    out.copy_(product)


def grouped_matmul(a: Operand, b: Operand, groups: torch.Tensor | None, mode: str, out: torch.Tensor) -> None:
    """Products of row groups of a with the matrices of b [G, N, K], as `matmul`; rows of no group become 0.

    `mode` says what `groups` is: "batch" (None: a is [G, M, K]), "masked" (rows of each a[g] that count), "indptr" (group g
    is the rows groups[g] .. groups[g + 1] of a [M, K]), "indices" (the group of every row of a [M, K], -1: none).
    """
    count, n, k = b.shape[0], b.shape[1], min(a.shape[-1], b.shape[-1])
    right = _exact(b).reshape(count, n, -1)[:, :, :k]
    left = (grouped_rows(a, groups) if mode == "indptr" else _exact(a))[:, :k]
    ga, gb = _rows(a), _rows(b)
    if ga is not None:
        left = left * ga[:, None]
    if gb is not None:
        right = right * gb.reshape(count, n, 1)
    flat = out.new_zeros((left.shape[0], n), dtype=torch.float64)
    for g, rows in enumerate(group_rows(groups, mode, count, left.shape[0])):
        flat[rows] = left[rows] @ right[g].T
    out.copy_(flat.reshape(out.shape))


def group_rows(groups: torch.Tensor | None, mode: str, count: int, rows: int) -> list[torch.Tensor | slice]:
    """Which of the flattened rows belong to each group."""
    if mode == "indices":
        assert groups is not None
        return [(groups == g).nonzero()[:, 0] for g in range(count)]
    if mode == "indptr":
        assert groups is not None
        ends = groups.tolist()
        return [slice(start, end) for start, end in itertools.pairwise(ends)]
    each = rows // count if count else 0
    sizes = [each] * count if groups is None else groups.clamp(0, each).tolist()
    return [slice(g * each, g * each + size) for g, size in enumerate(sizes)]


def grouped_rows(a: Operand, indptr: torch.Tensor | None) -> torch.Tensor:
    """fp64 [rows, K] of a ragged operand, without the global scale. Swizzled scales of group g begin at the row
    ``(indptr[g] + 127 * g) // 128 * 128`` of their buffer; rows of no group are 0."""
    if isinstance(a, torch.Tensor) or a.format.scale in ("fp32", "") or a.layout == SfLayout.layout_linear:
        return _exact(a)
    assert indptr is not None
    kind, cols = as_layout(a.layout), a.scale_cols
    buffer_rows = a.scales.numel() // max(kind.storage_shape(1, cols)[1], 1)
    codes = kind.to_linear(a.scales.reshape(-1), buffer_rows, cols)
    scales = (e4m3_decode if a.format.scale == "e4m3" else e8m0_decode)(codes.contiguous()).double()
    out = elements(a).double()
    inside = torch.zeros(a.rows, 1, dtype=torch.bool, device=out.device)
    ends = indptr.tolist()
    for g, (start, end) in enumerate(itertools.pairwise(ends)):
        first = (start + 127 * g) // 128 * 128
        mine = scales[first : first + end - start].repeat_interleave(a.format.vec, 1)[:, : a.cols]
        out[start:end] *= mine
        inside[start:end] = True
    return torch.where(inside, out, 0.0)
