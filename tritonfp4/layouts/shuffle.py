"""The row shuffle of TensorRT-LLM weights (flashinfer's ``shuffle_matrix_a``).

Rows are permuted inside blocks of B = 32 (or 16) rows: stored row ``n`` holds original row ``shuffled_index(n, B)``.
A GEMM over a shuffled operand writes its result for stored row n to column ``shuffled_index(n, B)``.
"""

from __future__ import annotations

from typing import TypeVar

import torch

Index = TypeVar("Index", int, torch.Tensor)


def shuffle_block(epilogue_tile_m: int) -> int:
    """Rows of a shuffle block for an epilogue tile: 32 if the tile is a multiple of 128, else 16."""
    return 32 if epilogue_tile_m % 128 == 0 else 16


def shuffled_index(n: Index, block: int) -> Index:
    """Original row that stored row `n` holds."""
    return n // block * block + n % 8 * (block // 8) + n % block // 8


def shuffle_rows(x: torch.Tensor, block: int) -> torch.Tensor:
    """[M, ...] -> [M, ...] with rows in stored order; M must be a multiple of `block`."""
    return x.reshape(x.shape[0] // block, 8, block // 8, *x.shape[1:]).transpose(1, 2).reshape(x.shape)


def unshuffle_rows(x: torch.Tensor, block: int) -> torch.Tensor:
    """Inverse of `shuffle_rows`."""
    return x.reshape(x.shape[0] // block, block // 8, 8, *x.shape[1:]).transpose(1, 2).reshape(x.shape)
