"""GEMM on block-scaled tensor cores (`tl.dot_scaled`): Blackwell."""

from __future__ import annotations

import math

import torch
import triton
import triton.language as tl

from tritonfp4.config import Config
from tritonfp4.kernels.encode import scale_offset
from tritonfp4.kernels.launch import INTERPRETED
from tritonfp4.kernels.operands import launch_matmul, store_tile, tile_ids, unwrap
from tritonfp4.tensor import BlockScaledTensor


@triton.jit
def _load_scales(
    ptr, pid, r, k, rows, K, stored_cols,
    VEC: tl.constexpr, LAYOUT: tl.constexpr, K_MULTIPLE: tl.constexpr, BLOCK: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """Scale bytes [BLOCK, BLOCK_K / VEC] for rows r.

    Whole 128x4 tiles are read as contiguous bytes and permuted by views, which Triton turns into copies straight to
    tensor memory. Padding rows only reach output rows that are not stored; padding columns would reach all of them
    (NaN * 0 is NaN), so they are masked: by the byte only where K ends inside a tile, as that makes loads of one byte.
    """
    C: tl.constexpr = BLOCK_K // VEC
    if LAYOUT == 0 and BLOCK % 128 == 0:
        R: tl.constexpr = BLOCK // 128
        tile_cols = tl.cdiv(stored_cols, 4)
        tile_r = (pid * R + tl.arange(0, R)).to(tl.int64)[:, None]
        i = tl.arange(0, C // 4 * 512)[None, :]
        tile_c = k // VEC // 4 + i // 512
        inside = (tile_r < tl.cdiv(rows, 128)) & (tile_c < tl.cdiv(K, 4 * VEC))
        if K_MULTIPLE < 4 * VEC:
            inside = inside & (tile_c * 4 + i % 4 < tl.cdiv(K, VEC))
        raw = tl.load(ptr + (tile_r * tile_cols + tile_c) * 512 + i % 512, mask=inside, other=0.0)
        return raw.reshape(R, C // 4, 32, 4, 4).trans(0, 3, 2, 1, 4).reshape(BLOCK, C)
    else:
        c = k // VEC + tl.arange(0, C)
        inside = (r < rows)[:, None]
        if K_MULTIPLE < BLOCK_K:
            inside = inside & (c < tl.cdiv(K, VEC))[None, :]
        return tl.load(ptr + scale_offset(r[:, None], c[None, :], stored_cols, LAYOUT), mask=inside, other=0.0)


@triton.jit
def _load_values(ptr, r, k, rows, K, stride_r, stride_k, K_MULTIPLE: tl.constexpr, BLOCK_K: tl.constexpr):
    """Bytes [rows of r, BLOCK_K / 2]. `tl.cdiv` would hide from the compiler by what the bound is divisible."""
    j = k // 2 + tl.arange(0, BLOCK_K // 2)
    inside = (r < rows)[:, None]
    if K_MULTIPLE == 1:
        inside = inside & (j < tl.cdiv(K, 2))[None, :]
    elif K_MULTIPLE < BLOCK_K:
        inside = inside & (j < K // 2)[None, :]
    return tl.load(ptr + r.to(tl.int64)[:, None] * stride_r + j.to(tl.int64)[None, :] * stride_k, mask=inside, other=0)


@triton.jit(do_not_specialize=["M", "N"])
def matmul_scaled_kernel(
    a_ptr, a_scale_ptr, a_global_ptr, b_ptr, b_scale_ptr, b_global_ptr, out_ptr,
    M, N, K, a_stride_r, a_stride_k, b_stride_r, b_stride_k, out_stride_m, out_stride_n, a_scale_cols, b_scale_cols,
    A_FORMAT: tl.constexpr, A_VEC: tl.constexpr, A_LAYOUT: tl.constexpr, A_SHUFFLE: tl.constexpr,
    A_PER_ROW: tl.constexpr,
    B_FORMAT: tl.constexpr, B_VEC: tl.constexpr, B_LAYOUT: tl.constexpr, B_SHUFFLE: tl.constexpr,
    B_PER_ROW: tl.constexpr,
    M_MULTIPLE: tl.constexpr, N_MULTIPLE: tl.constexpr, K_MULTIPLE: tl.constexpr, INTERPRETED: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, GROUP_M: tl.constexpr,
):  # fmt: skip
    """out = a @ b.T with both operands in FP4 of the same format. *_MULTIPLE: powers of two that divide M, N, K."""
    M, N = M // M_MULTIPLE * M_MULTIPLE, N // N_MULTIPLE * N_MULTIPLE  # unchanged, but known: wide stores
    pid_m, pid_n = tile_ids(M, N, BLOCK_M, BLOCK_N, GROUP_M)
    rm = pid_m * BLOCK_M + tl.arange(0, BLOCK_M)
    rn = pid_n * BLOCK_N + tl.arange(0, BLOCK_N)
    if A_FORMAT == "nvfp4":  # the scale's type, not the group size, tells NVFP4 from MXFP4
        # Pointers are cast, not loaded bytes: those would go to tensor memory by way of registers
        a_scale_ptr = a_scale_ptr.to(tl.pointer_type(tl.float8e4nv), bitcast=True)
        b_scale_ptr = b_scale_ptr.to(tl.pointer_type(tl.float8e4nv), bitcast=True)
    acc = tl.zeros([BLOCK_M, BLOCK_N], tl.float32)
    for k in range(0, K, BLOCK_K):
        a = _load_values(a_ptr, rm, k, M, K, a_stride_r, a_stride_k, K_MULTIPLE, BLOCK_K)
        b = _load_values(b_ptr, rn, k, N, K, b_stride_r, b_stride_k, K_MULTIPLE, BLOCK_K)
        sa = _load_scales(a_scale_ptr, pid_m, rm, k, M, K, a_scale_cols, A_VEC, A_LAYOUT, K_MULTIPLE, BLOCK_M, BLOCK_K)
        sb = _load_scales(b_scale_ptr, pid_n, rn, k, N, K, b_scale_cols, B_VEC, B_LAYOUT, K_MULTIPLE, BLOCK_N, BLOCK_K)
        acc = tl.dot_scaled(a, sa, "e2m1", b.T, sb, "e2m1", acc)
    store_tile(
        acc, rm, rn, M, N, a_global_ptr, b_global_ptr, out_ptr, out_stride_m, out_stride_n,
        A_SHUFFLE, B_SHUFFLE, A_PER_ROW, B_PER_ROW, 1.0, INTERPRETED,
    )  # fmt: skip


def matmul_scaled(a: BlockScaledTensor, b: BlockScaledTensor, out: torch.Tensor, config: Config) -> None:
    """Launcher; as `tritonfp4.reference.matmul` for two operands of one FP4 format."""
    wide = math.gcd(b.rows, 16)  # only of the weights: a batch size must not compile a kernel of its own
    launch_matmul(
        matmul_scaled_kernel, unwrap(a), unwrap(b), out, config,
        M_MULTIPLE=wide if config.swap else 1, N_MULTIPLE=1 if config.swap else wide,
        K_MULTIPLE=math.gcd(min(a.cols, b.cols), config.block_k), INTERPRETED=INTERPRETED,
    )  # fmt: skip
