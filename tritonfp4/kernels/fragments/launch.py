"""Launcher of the products that decode FP4 in registers."""

from __future__ import annotations

import torch

from tritonfp4.config import Config
from tritonfp4.kernels.fragments.decode import UNSHIFT
from tritonfp4.kernels.fragments.matmul_w4 import matmul_w4_kernel
from tritonfp4.kernels.fragments.operands import codes, words
from tritonfp4.kernels.launch import on_device
from tritonfp4.kernels.operands import compute_dtype, unwrap
from tritonfp4.layouts import ceil_div
from tritonfp4.tensor import BlockScaledTensor


def matmul_w4(
    a: BlockScaledTensor | torch.Tensor, b: BlockScaledTensor | torch.Tensor, out: torch.Tensor, config: Config
) -> None:
    """Launcher; as `tritonfp4.reference.matmul` for few rows of `a` and FP4 weights `b`. Operands must be `words_ready`.

    The config's block_m is the rows of b that a program takes, its block_n the rows of a; its warps divide K.
    """
    compute = compute_dtype(a, b)
    x, w = unwrap(a), unwrap(b)
    k = min(a.shape[-1], b.shape[-1])
    left, right = words(a, k), words(b, k)
    programs = ceil_div(w.rows, config.block_m) * ceil_div(x.rows, config.block_n)
    with on_device(out):
        matmul_w4_kernel[(programs,)](
            left, codes(a), x.global_scale, right, codes(b), w.global_scale, out, x.rows, w.rows, k,
            left.stride(0), right.stride(0), out.stride(0), out.stride(1), x.scale_cols, w.scale_cols,
            X_FORMAT=x.format, X_LAYOUT=x.layout, X_PER_ROW=x.per_row, W_FORMAT=w.format, W_LAYOUT=w.layout,
            W_SHUFFLE=w.shuffle, W_PER_ROW=w.per_row, COMPUTE=compute, UNSHIFT=UNSHIFT[x.format, compute] * UNSHIFT[w.format, compute],
            WHOLE=k % (256 * config.num_warps) == 0, ROWS=config.block_m, TOKENS=config.block_n, num_warps=config.num_warps,
        )  # fmt: skip
