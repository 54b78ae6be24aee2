"""The meaning of dequantization and of the block-scaled product."""

from __future__ import annotations

import torch

from tritonfp4 import layouts
from tritonfp4.reference.encode import e2m1_decode, e4m3_decode, e8m0_decode, unpack
from tritonfp4.tensor import BlockScaledTensor


def dequantize(t: BlockScaledTensor, dtype: torch.dtype, zero_code: bool = False) -> torch.Tensor:
    """-> [rows, K]: ``(element * scale) * global_scale``, each product rounded to fp32, then to `dtype`.

    `zero_code`: an e8m0 code of 0 decodes to 0 instead of 2^-127 (flashinfer's ``e2m1_and_ufp8sf_scale_to_float``).
    """
    element, scale = _parts(t)
    if zero_code and t.format.scale == "e8m0":
        scale = torch.where(_scale_codes(t) == 0, 0.0, scale)
    out = element * scale.repeat_interleave(t.format.vec, 1)[:, : t.cols]
    if t.row_shuffle:
        out = layouts.unshuffle_rows(out, t.row_shuffle)
    if t.global_scale is not None:
        out = out * t.global_scale.float().reshape(-1, 1)
    return out.to(dtype)


def _scale_codes(t: BlockScaledTensor) -> torch.Tensor:
    return t.scale_layout.to_linear(t.scales, t.rows, t.scale_cols)


def _parts(t: BlockScaledTensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Elements [rows, K] and scales [rows, K / vec] as fp32, rows in stored order."""
    packed = t.flat_values[: t.rows, : -(-t.cols // 2)]
    decode = e4m3_decode if t.format.scale == "e4m3" else e8m0_decode
    return e2m1_decode(unpack(packed)[:, : t.cols]), decode(_scale_codes(t).contiguous())


def _exact(t: BlockScaledTensor | torch.Tensor) -> torch.Tensor:
    """fp64 [rows, K] without the global scale."""
    if isinstance(t, torch.Tensor):
        return t.double()
    element, scale = _parts(t)
    out = element.double() * scale.double().repeat_interleave(t.format.vec, 1)[:, : t.cols]
    return layouts.unshuffle_rows(out, t.row_shuffle) if t.row_shuffle else out


def _global(t: BlockScaledTensor | torch.Tensor) -> torch.Tensor | None:
    return None if isinstance(t, torch.Tensor) or t.global_scale is None else t.global_scale.double().reshape(-1)


def matmul(a: BlockScaledTensor | torch.Tensor, b: BlockScaledTensor | torch.Tensor, out: torch.Tensor) -> None:
    """``out = a @ b.T`` in fp64, rounded to fp32 and from there to out. a [M, K], b [N, K]; plain tensors as they are.

    If one operand is padded further along K than the other, the rest is ignored.
    """
    k = min(a.shape[-1], b.shape[-1])
    product = _exact(a)[:, :k] @ _exact(b)[:, :k].T
    ga, gb = _global(a), _global(b)
    if ga is not None:
        product = product * ga[:, None]
    if gb is not None:
        product = product * gb[None, :]
    out.copy_(product)
