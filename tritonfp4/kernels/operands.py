"""What the GEMM kernels share: operands as kernel arguments, tile order, epilogue, launch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import triton
import triton.language as tl

from tritonfp4.config import Config
from tritonfp4.kernels.encode import shuffled_index, to_dtype
from tritonfp4.kernels.launch import on_device
from tritonfp4.layouts import ceil_div
from tritonfp4.tensor import BlockScaledTensor


@dataclass(frozen=True)
class Operand:
    """A matrix [rows, K] as a GEMM kernel sees it."""

    data: torch.Tensor
    scales: torch.Tensor | None
    global_scale: torch.Tensor | None
    format: str
    vec: int
    layout: int
    shuffle: int
    rows: int
    cols: int
    scale_cols: int

    @property
    def per_row(self) -> bool:
        return self.global_scale is not None and self.global_scale.numel() > 1


def unwrap(t: BlockScaledTensor | torch.Tensor) -> Operand:
    """Kernel arguments of an operand."""
    if isinstance(t, torch.Tensor):
        return Operand(t, None, None, "plain", 16, 2, 0, t.shape[0], t.shape[1], 0)
    g = None if t.global_scale is None else t.global_scale.to(torch.float32).reshape(-1).contiguous()
    return Operand(
        t.values, t.scales.contiguous(), g, t.format.name, t.format.vec, int(t.layout), t.row_shuffle, t.rows, t.cols, t.scale_cols
    )  # fmt: skip


def compute_dtype(a: BlockScaledTensor | torch.Tensor, b: BlockScaledTensor | torch.Tensor) -> str:
    """The type in which both operands are exact (see `tritonfp4.kernels.dot`)."""
    plain = {t.dtype for t in (a, b) if isinstance(t, torch.Tensor)}
    e8m0 = any(isinstance(t, BlockScaledTensor) and t.format.scale == "e8m0" for t in (a, b))
    if torch.float16 in plain:
        return "tf32" if e8m0 else "fp16"
    return "bf16" if e8m0 or plain else "fp16"


@triton.jit
def tile_ids(M, N, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, GROUP_M: tl.constexpr):
    """Program -> tile, walking GROUP_M row tiles together so that their operands stay in L2."""
    pid = tl.program_id(0)
    tiles_m, tiles_n = tl.cdiv(M, BLOCK_M), tl.cdiv(N, BLOCK_N)
    group = pid // (GROUP_M * tiles_n)
    first = group * GROUP_M
    size = min(tiles_m - first, GROUP_M)
    within = pid % (GROUP_M * tiles_n)
    return first + within % size, within // size


@triton.jit
def _global(ptr, r, rows, PER_ROW: tl.constexpr):
    if PER_ROW:
        return tl.load(ptr + r, mask=r < rows, other=0.0)
    else:
        return tl.load(ptr + r * 0)


@triton.jit
def store_tile(
    acc, rm, rn, M, N, a_global_ptr, b_global_ptr, out_ptr, stride_m, stride_n,
    A_SHUFFLE: tl.constexpr, B_SHUFFLE: tl.constexpr, A_PER_ROW: tl.constexpr, B_PER_ROW: tl.constexpr,
    UNSHIFT: tl.constexpr, INTERPRETED: tl.constexpr,
):  # fmt: skip
    """Global scales, the cast, and the store; a shuffled operand's rows go back to their original place."""
    if UNSHIFT != 1.0:
        acc = acc * UNSHIFT
    om, on = shuffled_index(rm, A_SHUFFLE), shuffled_index(rn, B_SHUFFLE)
    if a_global_ptr is not None:
        if b_global_ptr is not None:
            alpha = _global(a_global_ptr, om, M, A_PER_ROW)[:, None] * _global(b_global_ptr, on, N, B_PER_ROW)[None, :]
        else:
            alpha = _global(a_global_ptr, om, M, A_PER_ROW)[:, None]
        acc = acc * alpha
    elif b_global_ptr is not None:
        acc = acc * _global(b_global_ptr, on, N, B_PER_ROW)[None, :]
    target = out_ptr + om.to(tl.int64)[:, None] * stride_m + on.to(tl.int64)[None, :] * stride_n
    tl.store(target, to_dtype(acc, out_ptr.dtype.element_ty, INTERPRETED), mask=(rm < M)[:, None] & (rn < N)[None, :])


def launch_matmul(kernel: Any, a: Operand, b: Operand, out: torch.Tensor, config: Config, **constants: Any) -> None:
    """Launch a GEMM kernel. With `config.swap` it computes out.T = b @ a.T: b takes the wide side of the MMA."""
    stride_m, stride_n = out.stride()
    k = min(a.cols, b.cols)  # what lies beyond the shorter operand is padding: not read
    if config.swap:
        a, b, stride_m, stride_n = b, a, stride_n, stride_m
    grid = (ceil_div(a.rows, config.block_m) * ceil_div(b.rows, config.block_n),)
    with on_device(out):
        kernel[grid](
            a.data, a.scales, a.global_scale, b.data, b.scales, b.global_scale, out,
            a.rows, b.rows, k, a.data.stride(0), a.data.stride(1), b.data.stride(0), b.data.stride(1),
            stride_m, stride_n, a.scale_cols, b.scale_cols,
            A_FORMAT=a.format, A_VEC=a.vec, A_LAYOUT=a.layout, A_SHUFFLE=a.shuffle, A_PER_ROW=a.per_row,
            B_FORMAT=b.format, B_VEC=b.vec, B_LAYOUT=b.layout, B_SHUFFLE=b.shuffle, B_PER_ROW=b.per_row,
            BLOCK_M=config.block_m, BLOCK_N=config.block_n, BLOCK_K=config.block_k, GROUP_M=config.group_m,
            num_warps=config.num_warps, num_stages=config.num_stages, enable_fp_fusion=True, **constants,
        )  # fmt: skip
