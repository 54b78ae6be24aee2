"""Batched, masked and ragged products of FP4 operands (and of 16-bit activations with FP4 weights), decoded on the way.

Also what every grouped kernel's launch needs: operands with a group axis, and the grid.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
import triton
import triton.language as tl

from tritonfp4.config import Config
from tritonfp4.kernels.dot import dot
from tritonfp4.kernels.launch import INTERPRETED, on_device
from tritonfp4.kernels.matmul_upcast import load_halves
from tritonfp4.kernels.operands import compute_dtype
from tritonfp4.kernels.segments import padded_start, segment, store_rows
from tritonfp4.layouts import ceil_div
from tritonfp4.tensor import BlockScaledTensor

Operand = BlockScaledTensor | torch.Tensor


@dataclass(frozen=True)
class GroupOperand:
    """Matrices [G, rows, K], or one matrix without a group axis, as a grouped kernel sees them. Strides in elements."""

    data: torch.Tensor
    scales: torch.Tensor | None
    global_scale: torch.Tensor | None
    element: str
    vec: int
    block_rows: int
    layout: int
    scale_cols: int
    strides: tuple[int, int, int]
    scale_strides: tuple[int, int, int]
    matrices: int
    global_kind: str


def _strides(t: torch.Tensor) -> tuple[int, int, int]:
    """Strides of the group, of rows, along K; a 2-D tensor is shared by all groups."""
    return (t.stride(0), t.stride(1), t.stride(2)) if t.ndim == 3 else (0, t.stride(0), t.stride(1))


def unwrap_group(t: Operand) -> GroupOperand:
    """Kernel arguments of an operand; a 2-D one has one matrix."""
    data = t if isinstance(t, torch.Tensor) else t.values
    strides = _strides(data)
    if isinstance(t, torch.Tensor):
        return GroupOperand(
            t, None, None, "plain", 16, 1, 2, 0, strides, (0, 0, 0), t.shape[0] if t.ndim == 3 else 1, ""
        )
    fmt, matrices = t.format, t.shape[0] if t.batched else 1
    scale_strides = (0, 0, 0)
    scales: torch.Tensor | None = t.scales
    if fmt.scale == "fp32":
        scales = t.scales.to(torch.float32)
        scale_strides = _strides(scales)
    elif fmt.scale:
        scales = t.scales.contiguous()
        scale_strides = (t.scale_layout.numel(*t.scale_shape) if t.batched else 0, 0, 0)
    else:
        scales = t.values  # a pointer, never read
    g = None if t.global_scale is None else t.global_scale.to(torch.float32).reshape(-1).contiguous()
    kind = ""
    if g is not None:
        kind = "one" if g.numel() == 1 else "group" if t.batched and g.numel() == matrices else "row"
    return GroupOperand(
        t.values, scales, g, fmt.element, fmt.vec, fmt.block[0], int(t.layout), t.scale_cols, strides, scale_strides,
        matrices, kind,
    )  # fmt: skip


def launch_groups(
    kernel: Any, a: GroupOperand, b: GroupOperand, groups: torch.Tensor | None, mode: str, out: torch.Tensor,
    shape: tuple[int, int, int, int], config: Config, **constants: Any,
) -> None:  # fmt: skip
    """Launch a grouped kernel; `shape` is (matrices of b, rows of a or of one of its matrices, N, K)."""
    count, rows, n, k = shape
    tiles = ceil_div(rows, config.block_m) * (count if mode in ("batch", "masked") else 1)
    if mode == "indptr":  # whole tiles, and at most one partial tile for each segment
        tiles = rows // config.block_m + min(count + 2, rows)
    grid = (tiles * ceil_div(n, config.block_n),)
    with on_device(out):
        kernel[grid](
            a.data, a.scales, a.global_scale, b.data, b.scales, b.global_scale, groups, out, count, rows, n, k,
            *a.strides, *b.strides, *_strides(out), *a.scale_strides, *b.scale_strides, a.scale_cols, b.scale_cols,
            MODE=mode, SEGMENTS=triton.next_power_of_2(count + 2) if mode == "indptr" else 1,
            A_ELEMENT=a.element, A_ROWS=a.block_rows, A_LAYOUT=a.layout, A_GLOBAL=a.global_kind,
            B_ELEMENT=b.element, B_ROWS=b.block_rows, B_LAYOUT=b.layout, B_GLOBAL=b.global_kind,
            N_MULTIPLE=math.gcd(n, 16), SWAP=config.swap, INTERPRETED=INTERPRETED,
            BLOCK_M=config.block_m, BLOCK_N=config.block_n,
            num_warps=config.num_warps, num_stages=config.num_stages, **constants,
        )  # fmt: skip


@triton.jit(do_not_specialize=["G", "M", "N"])
def grouped_upcast_kernel(
    a_ptr, a_scale_ptr, a_global_ptr, b_ptr, b_scale_ptr, b_global_ptr, groups_ptr, out_ptr, G, M, N, K,
    a_stride_g, a_stride_r, a_stride_k, b_stride_g, b_stride_r, b_stride_k, out_stride_g, out_stride_m, out_stride_n,
    a_sstride_g, a_sstride_r, a_sstride_k, b_sstride_g, b_sstride_r, b_sstride_k, a_scols, b_scols,
    MODE: tl.constexpr, SEGMENTS: tl.constexpr,
    A_ELEMENT: tl.constexpr, A_ROWS: tl.constexpr, A_LAYOUT: tl.constexpr, A_GLOBAL: tl.constexpr,
    B_ELEMENT: tl.constexpr, B_ROWS: tl.constexpr, B_LAYOUT: tl.constexpr, B_GLOBAL: tl.constexpr,
    A_FORMAT: tl.constexpr, A_VEC: tl.constexpr, B_FORMAT: tl.constexpr, B_VEC: tl.constexpr,
    COMPUTE: tl.constexpr, UNSHIFT: tl.constexpr, SWAP: tl.constexpr,
    N_MULTIPLE: tl.constexpr, K_MULTIPLE: tl.constexpr, INTERPRETED: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """out = a @ b.T for the rows and the group of this program's segment (see `tritonfp4.kernels.segments`)."""
    N = N // N_MULTIPLE * N_MULTIPLE  # unchanged, but known: wide stores
    group, first, valid, bound, tile, pid_n = segment(
        groups_ptr, G, M, tl.cdiv(N, BLOCK_N), MODE, SEGMENTS, BLOCK_M
    )  # fmt: skip
    g = group.to(tl.int64)
    local = tile * BLOCK_M + tl.arange(0, BLOCK_M)
    rb = pid_n * BLOCK_N + tl.arange(0, BLOCK_N)
    a_ptr += g * a_stride_g + tl.cast(first, tl.int64) * a_stride_r
    b_ptr += g * b_stride_g
    if a_scale_ptr is not None:
        if MODE == "indptr":
            if A_LAYOUT == 2:
                a_scale_ptr += tl.cast(first, tl.int64) * a_scols
            else:
                a_scale_ptr += tl.cast(padded_start(first, group), tl.int64) * (tl.cdiv(a_scols, 4) * 4)
        else:
            a_scale_ptr += g * a_sstride_g
    if b_scale_ptr is not None:
        b_scale_ptr += g * b_sstride_g
    acc = tl.zeros([BLOCK_N, BLOCK_M] if SWAP else [BLOCK_M, BLOCK_N], tl.float32)
    for k in range(0, tl.where(tile * BLOCK_M < valid, K, 0), BLOCK_K):
        a0, a1 = load_halves(
            a_ptr, a_scale_ptr, local, k, valid, K, a_stride_r, a_stride_k, a_scols,
            A_FORMAT, A_VEC, A_LAYOUT, COMPUTE, INTERPRETED, K_MULTIPLE, BLOCK_M, BLOCK_K,
        )  # fmt: skip
        b0, b1 = load_halves(
            b_ptr, b_scale_ptr, rb, k, N, K, b_stride_r, b_stride_k, b_scols,
            B_FORMAT, B_VEC, B_LAYOUT, COMPUTE, INTERPRETED, K_MULTIPLE, BLOCK_N, BLOCK_K,
        )  # fmt: skip
        if SWAP:
            acc = dot(b1, a1, dot(b0, a0, acc, COMPUTE, INTERPRETED), COMPUTE, INTERPRETED)
        else:
            acc = dot(a1, b1, dot(a0, b0, acc, COMPUTE, INTERPRETED), COMPUTE, INTERPRETED)
    store_rows(
        acc, local, rb.to(tl.int64), first, g, valid, bound, M, N, a_global_ptr, b_global_ptr, out_ptr,
        out_stride_g, out_stride_m, out_stride_n, MODE, A_GLOBAL, B_GLOBAL, UNSHIFT, SWAP, INTERPRETED, BLOCK_M,
    )  # fmt: skip


def grouped_upcast(
    a: Operand, b: BlockScaledTensor, groups: torch.Tensor | None, mode: str, out: torch.Tensor, config: Config
) -> None:
    """Launcher; as `tritonfp4.reference.grouped_matmul`."""
    x, y = unwrap_group(a), unwrap_group(b)
    rows = a.shape[-2] if mode in ("batch", "masked") else a.shape[0]
    mx = sum(isinstance(t, BlockScaledTensor) and t.format.scale == "e8m0" for t in (a, b))
    k = min(a.shape[-1], b.shape[-1])
    launch_groups(
        grouped_upcast_kernel, x, y, groups, mode, out, (y.matrices, rows, b.shape[-2], k), config,
        A_FORMAT=a.format.name if isinstance(a, BlockScaledTensor) else "plain", A_VEC=x.vec, B_FORMAT=b.format.name, B_VEC=y.vec,
        COMPUTE=compute_dtype(a, b), UNSHIFT=4.0**mx, K_MULTIPLE=math.gcd(k, config.block_k), BLOCK_K=config.block_k,
    )  # fmt: skip
