"""The meaning of dequantization and of the block-scaled products."""

from __future__ import annotations

import torch

from tritonfp4 import layouts
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
