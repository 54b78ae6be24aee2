"""Moves of scale bytes between layouts, and of weight rows into TensorRT-LLM's order."""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from tritonfp4.config import Config
from tritonfp4.kernels.encode import scale_offset, shuffled_index
from tritonfp4.kernels.launch import on_device
from tritonfp4.layouts import SfLayout, as_layout, ceil_div


@triton.jit(do_not_specialize=["tiles", "rows", "target_rows", "source_numel", "target_numel"])
def relayout_kernel(
    source_ptr, target_ptr, tiles, rows, cols, target_rows, target_cols, source_numel, target_numel,
    SOURCE: tl.constexpr, TARGET: tl.constexpr, SHUFFLE: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """One tile of one matrix (`tiles` of them below each other) of the padded target; padding is written as 0."""
    batch = (tl.program_id(0) // tiles).to(tl.int64)
    r = tl.program_id(0) % tiles * BLOCK_M + tl.arange(0, BLOCK_M)
    c = tl.program_id(1) * BLOCK_K + tl.arange(0, BLOCK_K)
    inside = (r < rows)[:, None] & (c < cols)[None, :]
    source = batch * source_numel + scale_offset(shuffled_index(r, SHUFFLE)[:, None], c[None, :], cols, SOURCE)
    x = tl.load(source_ptr + source, mask=inside, other=0)
    target = batch * target_numel + scale_offset(r[:, None], c[None, :], cols, TARGET)
    tl.store(target_ptr + target, x, mask=(r < target_rows)[:, None] & (c < target_cols)[None, :])


@triton.jit(do_not_specialize=["rows"])
def shuffle_rows_kernel(
    x_ptr, out_ptr, rows, cols, stride_m, stride_k, BLOCK: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_K: tl.constexpr
):  # fmt: skip
    """out[n] = x[shuffled_index(n)]."""
    r = tl.program_id(0).to(tl.int64) * BLOCK_M + tl.arange(0, BLOCK_M)
    c = tl.program_id(1).to(tl.int64) * BLOCK_K + tl.arange(0, BLOCK_K)
    inside = (r < rows)[:, None] & (c < cols)[None, :]
    x = tl.load(x_ptr + shuffled_index(r, BLOCK)[:, None] * stride_m + c[None, :] * stride_k, mask=inside)
    tl.store(out_ptr + r[:, None] * cols + c[None, :], x, mask=inside)


_INTEGERS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


def _bits(x: torch.Tensor) -> torch.Tensor:
    return x.view(_INTEGERS[x.element_size()])


def relayout(
    scales: torch.Tensor,
    batch: int,
    rows: int,
    cols: int,
    source: SfLayout,
    target: SfLayout,
    row_shuffle: int,
    config: Config,
) -> torch.Tensor:
    """Launcher; as `tritonfp4.reference.relayout`."""
    kind = as_layout(target)
    target_rows, target_cols = kind.storage_shape(rows, cols)
    out = torch.empty(batch * target_rows * target_cols, dtype=scales.dtype, device=scales.device)
    if out.numel() == 0:
        return out
    tiles = ceil_div(target_rows, config.block_m)
    with on_device(out):
        relayout_kernel[(batch * tiles, ceil_div(target_cols, config.block_k))](
            _bits(scales.reshape(-1).contiguous()), _bits(out), tiles, rows, cols, target_rows, target_cols,
            as_layout(source).numel(rows, cols), target_rows * target_cols,
            SOURCE=int(source), TARGET=int(target), SHUFFLE=row_shuffle,
            BLOCK_M=config.block_m, BLOCK_K=config.block_k, num_warps=config.num_warps,
        )  # fmt: skip
    return out


def shuffle_rows(x: torch.Tensor, block: int, config: Config) -> torch.Tensor:
    """Launcher; as `tritonfp4.reference.shuffle_rows`."""
    out = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    rows, cols = x.shape
    if out.numel() == 0:
        return out
    source = _bits(x)
    with on_device(out):
        shuffle_rows_kernel[(ceil_div(rows, config.block_m), ceil_div(cols, config.block_k))](
            source, _bits(out), rows, cols, source.stride(0), source.stride(1),
            BLOCK=block, BLOCK_M=config.block_m, BLOCK_K=config.block_k, num_warps=config.num_warps,
        )  # fmt: skip
    return out
