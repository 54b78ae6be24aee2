"""What TMA asks of the memory of a product, and how operands are brought into that form. Knows nothing of Gluon."""

from __future__ import annotations

import torch

from tritonfp4.tensor import BlockScaledTensor


def _rows_are_even(t: torch.Tensor) -> bool:
    """Whether [.., rows, K] can be read as one matrix whose rows start at multiples of 16 bytes."""
    strides = t.stride()
    if strides[-1] != 1 or strides[-2] * t.element_size() % 16 or t.data_ptr() % 16:
        return False
    return len(strides) == 2 or t.shape[0] == 1 or strides[0] == t.shape[1] * strides[1]


def tma_ready(a: BlockScaledTensor, b: BlockScaledTensor, out: torch.Tensor) -> bool:
    """Whether the Hopper kernel can load the elements of both operands and store the output. Scales it copies where it must."""
    if a.global_scale is not None or b.global_scale is not None or out.dtype not in (torch.bfloat16, torch.float16):
        return False  # the kernel knows neither
    return _rows_are_even(a.values) and _rows_are_even(b.values) and _rows_are_even(out)


def as_rows(t: torch.Tensor) -> torch.Tensor:
    """[G, rows, K] as [G * rows, K]."""
    return t if t.ndim == 2 else t.as_strided((t.shape[0] * t.shape[1], t.shape[2]), t.stride()[1:])


def row_stride(t: torch.Tensor, turned: bool) -> int:
    """Elements between the rows of fp32 [.., R, C] (if `turned` [.., C, R]) seen as one matrix, if TMA can load it so, else 0:
    its rows must be contiguous and start at multiples of 16 bytes."""
    shape, strides = t.shape, t.stride()
    r, c = (-1, -2) if turned else (-2, -1)
    columns = shape[c]
    if t.data_ptr() % 16 or (strides[c] != 1 and columns != 1):
        return 0
    if t.numel() == columns:  # no second row: its place is free
        return (columns + 3) // 4 * 4
    if strides[r] % 4 or (len(shape) == 3 and strides[0] != shape[r] * strides[r]):
        return 0
    return strides[r]


def _matrix(t: torch.Tensor, turned: bool) -> torch.Tensor:
    stride = row_stride(t, turned)
    columns = t.shape[-2 if turned else -1]
    if stride:
        return t.as_strided((t.numel() // columns, columns), (stride, 1))
    padded = t.new_empty((*t.shape[:-2], t.shape[-1 if turned else -2], (columns + 3) // 4 * 4))[..., :columns]
    return as_rows(padded.copy_(t.transpose(-1, -2) if turned else t))


def k_major(scales: torch.Tensor) -> torch.Tensor:
    """Scales [.., rows, K blocks] as one matrix that TMA can load, its memory along K; a copy where it is none."""
    return _matrix(scales, turned=False)


def m_major(scales: torch.Tensor) -> torch.Tensor:
    """Scales [.., M, K blocks] as one matrix [.. * K blocks, M] that TMA can load, its memory along M; a copy where it is none."""
    return _matrix(scales, turned=True)
