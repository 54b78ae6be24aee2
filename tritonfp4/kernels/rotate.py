"""Rotation of every h consecutive elements of a row by one [h, h] matrix."""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from tritonfp4.config import Config
from tritonfp4.kernels.encode import to_dtype, to_fp32
from tritonfp4.kernels.launch import INTERPRETED, on_device
from tritonfp4.layouts import ceil_div


@triton.jit(do_not_specialize=["M"])
def rotate_kernel(
    x_ptr, had_ptr, out_ptr, M, K, stride_m, stride_k,
    H: tl.constexpr, INTERPRETED: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """One tile of the result. No tensor cores: the products are added in order, the same everywhere."""
    GROUPS: tl.constexpr = BLOCK_K // H
    r = tl.program_id(0).to(tl.int64) * BLOCK_M + tl.arange(0, BLOCK_M)
    start = (tl.program_id(1) * GROUPS + tl.arange(0, GROUPS)).to(tl.int64) * H
    inside = (r < M)[:, None] & (start < K)[None, :]
    j = tl.arange(0, H)
    at = r[:, None] * stride_m
    out = tl.zeros([BLOCK_M, GROUPS, H], tl.float32)
    for i in range(H):
        x = to_fp32(tl.load(x_ptr + at + (start + i)[None, :] * stride_k, mask=inside, other=0.0))
        product = x[:, :, None] * to_fp32(tl.load(had_ptr + i * H + j))[None, None, :]
        out = tl.where(i == 0, product, out + product)  # the first one alone: 0 + -0 would lose the sign
    out = to_dtype(out, out_ptr.dtype.element_ty, INTERPRETED)
    to = r[:, None, None] * K + start[None, :, None] + j[None, None, :]
    tl.store(out_ptr + to, out, mask=inside[:, :, None] & (j < H)[None, None, :])


def rotate(x: torch.Tensor, had: torch.Tensor, config: Config) -> torch.Tensor:
    """Launcher; as `tritonfp4.reference.rotate`."""
    rows, cols = x.shape
    out = torch.empty((rows, cols), dtype=x.dtype, device=x.device)
    block_k = max(config.block_k, had.shape[0])
    with on_device(x):
        rotate_kernel[(ceil_div(rows, config.block_m), ceil_div(cols, block_k))](
            x, had.contiguous(), out, rows, cols, x.stride(0), x.stride(1), H=had.shape[0], INTERPRETED=INTERPRETED,
            BLOCK_M=config.block_m, BLOCK_K=block_k, num_warps=config.num_warps, enable_fp_fusion=False,
        )  # fmt: skip
    return out
