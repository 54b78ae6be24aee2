"""What the memory of a product must look like for threads that read words of it. Knows nothing of Gluon."""

from __future__ import annotations

import torch

from tritonfp4.layouts import SfLayout
from tritonfp4.tensor import BlockScaledTensor

#: Elements along K that one thread takes from a row: 16 bytes of FP4.
PIECE = 32


def _whole_pieces(t: BlockScaledTensor | torch.Tensor) -> bool:
    """Whether rows [rows, K] consist of pieces of `PIECE` elements that start at multiples of 16 bytes, and their scales of pairs."""
    if isinstance(t, BlockScaledTensor):
        if t.scales.data_ptr() % 2 or t.batched:
            return False
        x = t.values
    else:
        x = t
    stride_r, stride_k = x.stride()
    even = stride_k == 1 and stride_r * x.element_size() % 16 == 0
    return even and x.data_ptr() % 16 == 0 and t.shape[-1] % PIECE == 0


def words_ready(a: BlockScaledTensor | torch.Tensor, b: BlockScaledTensor | torch.Tensor) -> bool:
    """Whether `matmul_w4` can read both operands. It knows shuffled rows of the weights, not of the activations."""
    shuffled = isinstance(a, BlockScaledTensor) and a.row_shuffle > 0
    return not shuffled and _whole_pieces(a) and _whole_pieces(b)


def tiles_ready(a: BlockScaledTensor | torch.Tensor, b: BlockScaledTensor | torch.Tensor, out: torch.Tensor) -> bool:
    """Whether the Hopper kernel can load tiles of both operands by TMA and store the output so."""
    if (
        not isinstance(b, BlockScaledTensor)
        or b.layout != SfLayout.layout_128x4
        or b.row_shuffle
        or not words_ready(a, b)
    ):
        return False
    k = b.shape[-1]
    if a.shape[-1] != k or k % 128 or b.values.shape != (b.shape[0], k // 2) or b.scales.data_ptr() % 16:
        return False
    rows = out.stride(1) == 1 and out.stride(0) * out.element_size() % 16 == 0 and out.data_ptr() % 16 == 0
    return rows and out.dtype in (torch.bfloat16, torch.float16)


def groups_ready(a: BlockScaledTensor | torch.Tensor, b: BlockScaledTensor | torch.Tensor) -> bool:
    """Whether `grouped_w4` can read both operands: 16-bit rows, and a matrix of FP4 weights for every group."""
    if isinstance(a, BlockScaledTensor) or not isinstance(b, BlockScaledTensor) or not b.batched or b.row_shuffle:
        return False
    if b.global_scale is not None and b.global_scale.numel() not in (1, b.shape[0]):
        return False
    for t, k in ((a, a.shape[-1]), (b.values, b.shape[-1])):
        *strides, last = t.stride()
        if last != 1 or t.data_ptr() % 16 or k % PIECE or any(s * t.element_size() % 16 for s in strides):
            return False
    return b.scales.data_ptr() % 2 == 0


def group_tiles_ready(
    a: BlockScaledTensor | torch.Tensor, b: BlockScaledTensor | torch.Tensor, out: torch.Tensor
) -> bool:
    """Whether the Hopper kernel can load tiles of both grouped operands by TMA and store the output so."""
    if not groups_ready(a, b) or not isinstance(b, BlockScaledTensor) or b.layout != SfLayout.layout_128x4:
        return False
    k = b.shape[-1]
    if a.shape[-1] != k or k % 128 or b.values.shape[-1] != k // 2 or b.scales.data_ptr() % 16:
        return False
    matrices = [t for t in (a, b.values, out) if isinstance(t, torch.Tensor) and t.ndim == 3]
    if any(t.stride(0) != t.shape[1] * t.stride(1) and t.shape[0] > 1 for t in matrices):
        return False
    rows = out.stride(-1) == 1 and out.stride(-2) * out.element_size() % 16 == 0 and out.data_ptr() % 16 == 0
    return rows and out.dtype in (torch.bfloat16, torch.float16)


def group_words(t: torch.Tensor, width: int) -> torch.Tensor:
    """The first `width` elements of every row as words of 32 bits."""
    return t[..., :width].view(torch.int32)


def words(t: BlockScaledTensor | torch.Tensor, k: int) -> torch.Tensor:
    """The first k elements of every row as words of 32 bits."""
    x = t.values[:, : k // 2] if isinstance(t, BlockScaledTensor) else t[:, :k]
    return x.view(torch.int32)


def codes(t: BlockScaledTensor | torch.Tensor) -> torch.Tensor | None:
    """Scale codes, those of NVFP4 by twos."""
    if isinstance(t, torch.Tensor):
        return None
    flat = t.scales.contiguous()
    return flat.view(torch.uint16) if t.format.name == "nvfp4" else flat
