"""What TMA asks of the memory of a product, and how operands are brought into that form. Knows nothing of Gluon."""

from __future__ import annotations

import torch

from tritonfp4.tensor import BlockScaledTensor


def _rows_are_even(t: torch.Tensor) -> bool:
    """Whether [.., rows, K] can be read as one matrix whose rows start at multiples of 16 bytes."""
    unit = 16 // t.element_size()
    if t.stride(-1) != 1 or t.stride(-2) % unit or t.data_ptr() % 16:
        return False
    return t.ndim == 2 or t.shape[0] == 1 or t.stride(0) == t.shape[1] * t.stride(1)


def tma_ready(a: BlockScaledTensor, b: BlockScaledTensor, out: torch.Tensor) -> bool:
    """Whether the Hopper kernel can load the elements of both operands and store the output. Scales it copies where it must."""
    if a.global_scale is not None or b.global_scale is not None or out.dtype not in (torch.bfloat16, torch.float16):
        return False  # the kernel knows neither
    return _rows_are_even(a.values) and _rows_are_even(b.values) and _rows_are_even(out)


def as_rows(t: torch.Tensor) -> torch.Tensor:
    """[G, rows, K] as [G * rows, K]."""
    return t if t.ndim == 2 else t.as_strided((t.shape[0] * t.shape[1], t.shape[2]), t.stride()[1:])


def k_major(scales: torch.Tensor) -> torch.Tensor:
    """Scales [.., rows, K blocks] as one matrix, contiguous along K, with rows 16 bytes apart; a copy where they are not."""
    *batch, rows, blocks = scales.shape
    even = scales.stride(-1) == 1 and scales.stride(-2) % 4 == 0 and scales.data_ptr() % 16 == 0
    if not even or (batch and scales.stride(0) != rows * scales.stride(1)):
        padded = scales.new_empty((*batch, rows, (blocks + 3) // 4 * 4))[..., :blocks]
        scales = padded.copy_(scales)
    return as_rows(scales)


def m_major(scales: torch.Tensor) -> torch.Tensor:
    """Scales [.., M, K blocks] as one matrix [.. * K blocks, M], contiguous along M, with rows that start at multiples of 16
    bytes; a copy where they are not."""
    turned = scales.transpose(-1, -2)
    *batch, blocks, rows = turned.shape
    even = turned.stride(-1) == 1 and turned.stride(-2) % 4 == 0 and turned.data_ptr() % 16 == 0
    if not even or (batch and turned.stride(0) != blocks * turned.stride(1)):
        padded = turned.new_empty((*batch, blocks, (rows + 3) // 4 * 4))[..., :rows]
        turned = padded.copy_(turned)
    return as_rows(turned)
