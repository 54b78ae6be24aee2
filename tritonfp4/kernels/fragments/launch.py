"""Launcher of the products that decode FP4 in registers."""

from __future__ import annotations

import torch

from tritonfp4.config import Config
from tritonfp4.device import device_info
from tritonfp4.kernels.fragments.decode import UNSHIFT
from tritonfp4.kernels.fragments.matmul_w4 import grouped_w4_kernel, matmul_w4_kernel
from tritonfp4.kernels.fragments.operands import codes, group_words, words
from tritonfp4.kernels.fragments.order import CHUNK, order
from tritonfp4.kernels.grouped import unwrap_group
from tritonfp4.kernels.launch import on_device
from tritonfp4.kernels.operands import compute_dtype, unwrap
from tritonfp4.layouts import ceil_div
from tritonfp4.tensor import BlockScaledTensor


def matmul_w4(
    a: BlockScaledTensor | torch.Tensor, b: BlockScaledTensor | torch.Tensor, out: torch.Tensor, config: Config
) -> None:
    """Launcher; as `tritonfp4.reference.matmul` for few rows of `a` and FP4 weights `b`. Operands must be `words_ready`.

    The config's block_m is the rows of b that a program takes, its block_n the rows of a; its warps divide K, its stages are the
    chunks of weights that a warp has on their way.
    """
    compute = compute_dtype(a, b)
    x, w = unwrap(a), unwrap(b)
    k = min(a.shape[-1], b.shape[-1])
    right = words(b, k)
    programs = ceil_div(w.rows, config.block_m) * ceil_div(x.rows, config.block_n)
    with on_device(out):
        early = False
        if config.ordered:
            early = device_info(out.device).arch.number >= 90
            ordered, unshift = order(a, compute, k, config.block_n, early)
            left, x_format = ordered.view(torch.int32), "ordered"
        else:
            left, unshift, x_format = words(a, k), UNSHIFT[x.format, compute], x.format
        matmul_w4_kernel[(programs,)](
            left, codes(a), x.global_scale, right, codes(b), w.global_scale, out, x.rows, w.rows, k,
            left.stride(0), right.stride(0), out.stride(0), out.stride(1), x.scale_cols, w.scale_cols,
            X_FORMAT=x_format, X_LAYOUT=x.layout, X_PER_ROW=x.per_row, W_FORMAT=w.format, W_LAYOUT=w.layout,
            W_SHUFFLE=w.shuffle, W_PER_ROW=w.per_row, COMPUTE=compute, UNSHIFT=unshift * UNSHIFT[w.format, compute],
            WHOLE=k % (CHUNK * config.num_stages * config.num_warps) == 0, ROWS=config.block_m, TOKENS=config.block_n,
            DEPTH=config.num_stages, EARLY=early, num_warps=config.num_warps, maxnreg=config.max_registers or None, launch_pdl=early,
        )  # fmt: skip


def grouped_w4(
    a: torch.Tensor, b: BlockScaledTensor, groups: torch.Tensor | None, mode: str, out: torch.Tensor, config: Config
) -> None:
    """Launcher; as `tritonfp4.reference.grouped_matmul` for few rows in each group of 16-bit `a`. Operands must be `groups_ready`."""
    compute = compute_dtype(a, b)
    w = unwrap_group(b)
    k = min(a.shape[-1], b.shape[-1])
    left, right, scales = group_words(a, k), group_words(b.values, k // 2), codes(b)
    count, n = b.shape[0], b.shape[-2]
    segments = count + 2 if mode == "indptr" else count
    strides = [(t.stride(0) if t.ndim == 3 else 0, *t.stride()[-2:]) for t in (left, right, out)]
    assert scales is not None
    with on_device(out):
        grouped_w4_kernel[(segments * ceil_div(n, config.block_m),)](
            left, right, scales, w.global_scale, groups, out, count, a.shape[-2], n, k, *strides[0][:2], *strides[1][:2],
            scales.numel() // count, *strides[2], w.scale_cols, MODE=mode, W_FORMAT=b.format.name, W_LAYOUT=w.layout,
            W_GLOBAL=w.global_kind, COMPUTE=compute, UNSHIFT=UNSHIFT[b.format.name, compute],
            WHOLE=k % (CHUNK * config.num_stages * config.num_warps) == 0, ROWS=config.block_m, TOKENS=config.block_n,
            DEPTH=config.num_stages, num_warps=config.num_warps, maxnreg=config.max_registers or None,
        )  # fmt: skip
