"""GEMM for GPUs without block-scaled tensor cores: FP4 operands are decoded exactly on the way to 16-bit tensor cores."""

from __future__ import annotations

import dataclasses
import math

import torch
import triton
import triton.language as tl

from tritonfp4.config import Config
from tritonfp4.kernels import dequantize as dequantize_kernels
from tritonfp4.kernels.dot import decode_halves, dot, split_halves
from tritonfp4.kernels.encode import scale_offset
from tritonfp4.kernels.launch import INTERPRETED, on_device
from tritonfp4.kernels.operands import compute_dtype, launch_matmul, store_tile, tile_ids, unwrap
from tritonfp4.layouts import ceil_div
from tritonfp4.tensor import BlockScaledTensor


@triton.jit
def _load_tile(ptr, r, j, rows, cols, stride_r, stride_k, MASK: tl.constexpr):
    """Columns j of rows r; outside 0. MASK: whether j may reach past `cols`."""
    inside = (r < rows)[:, None]
    if MASK:
        inside = inside & (j < cols)[None, :]
    return tl.load(ptr + r.to(tl.int64)[:, None] * stride_r + j.to(tl.int64)[None, :] * stride_k, mask=inside, other=0)


@triton.jit
def _load_scales(ptr, r, c, rows, cols, stored_cols, LAYOUT: tl.constexpr, MASK: tl.constexpr):
    """Scale bytes of rows r and columns c; outside the logical matrix 0, whatever the buffer holds there."""
    inside = (r < rows)[:, None]
    if MASK:
        inside = inside & (c < cols)[None, :]
    return tl.load(ptr + scale_offset(r[:, None], c[None, :], stored_cols, LAYOUT), mask=inside, other=0)


@triton.jit
def load_halves(
    ptr, scale_ptr, r, k, rows, K, stride_r, stride_k, scale_cols,
    FORMAT: tl.constexpr, VEC: tl.constexpr, LAYOUT: tl.constexpr, COMPUTE: tl.constexpr,
    INTERPRETED: tl.constexpr, K_MULTIPLE: tl.constexpr, BLOCK: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """Even and odd elements k .. k + BLOCK_K of an operand, decoded."""
    MASK: tl.constexpr = K_MULTIPLE < BLOCK_K
    if FORMAT == "plain":
        x = _load_tile(ptr, r, k + tl.arange(0, BLOCK_K), rows, K, stride_r, stride_k, MASK)
        return split_halves(x, COMPUTE, BLOCK, BLOCK_K)
    else:
        C: tl.constexpr = BLOCK_K // VEC
        # K // 2 keeps the divisibility that makes loads wide; tl.cdiv hides it from the compiler: loads of one byte
        cols = K // 2 if K_MULTIPLE > 1 else tl.cdiv(K, 2)
        packed = _load_tile(ptr, r, k // 2 + tl.arange(0, BLOCK_K // 2), rows, cols, stride_r, stride_k, MASK)
        c = k // VEC + tl.arange(0, C)
        code = _load_scales(scale_ptr, r, c, rows, tl.cdiv(K, VEC), scale_cols, LAYOUT, MASK)
        return decode_halves(packed, code, FORMAT, COMPUTE, BLOCK, C, VEC, INTERPRETED)


@triton.jit(do_not_specialize=["M", "N"])
def matmul_upcast_kernel(
    a_ptr, a_scale_ptr, a_global_ptr, b_ptr, b_scale_ptr, b_global_ptr, out_ptr,
    M, N, K, a_stride_r, a_stride_k, b_stride_r, b_stride_k, out_stride_m, out_stride_n, a_scale_cols, b_scale_cols,
    A_FORMAT: tl.constexpr, A_VEC: tl.constexpr, A_LAYOUT: tl.constexpr, A_SHUFFLE: tl.constexpr, A_PER_ROW: tl.constexpr,
    B_FORMAT: tl.constexpr, B_VEC: tl.constexpr, B_LAYOUT: tl.constexpr, B_SHUFFLE: tl.constexpr, B_PER_ROW: tl.constexpr,
    COMPUTE: tl.constexpr, UNSHIFT: tl.constexpr, INTERPRETED: tl.constexpr,
    M_MULTIPLE: tl.constexpr, N_MULTIPLE: tl.constexpr, K_MULTIPLE: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, GROUP_M: tl.constexpr,
):  # fmt: skip
    """out = a @ b.T. The even and the odd elements go into two dots, so that no nibble is ever interleaved."""
    M, N = M // M_MULTIPLE * M_MULTIPLE, N // N_MULTIPLE * N_MULTIPLE  # unchanged, but known: wide stores
    pid_m, pid_n = tile_ids(M, N, BLOCK_M, BLOCK_N, GROUP_M)
    rm = pid_m * BLOCK_M + tl.arange(0, BLOCK_M)
    rn = pid_n * BLOCK_N + tl.arange(0, BLOCK_N)
    acc = tl.zeros([BLOCK_M, BLOCK_N], tl.float32)
    for k in range(0, K, BLOCK_K):
        a0, a1 = load_halves(
            a_ptr, a_scale_ptr, rm, k, M, K, a_stride_r, a_stride_k, a_scale_cols,
            A_FORMAT, A_VEC, A_LAYOUT, COMPUTE, INTERPRETED, K_MULTIPLE, BLOCK_M, BLOCK_K,
        )  # fmt: skip
        b0, b1 = load_halves(
            b_ptr, b_scale_ptr, rn, k, N, K, b_stride_r, b_stride_k, b_scale_cols,
            B_FORMAT, B_VEC, B_LAYOUT, COMPUTE, INTERPRETED, K_MULTIPLE, BLOCK_N, BLOCK_K,
        )  # fmt: skip
        acc = dot(a0, b0, acc, COMPUTE, INTERPRETED)
        acc = dot(a1, b1, acc, COMPUTE, INTERPRETED)
    store_tile(
        acc, rm, rn, M, N, a_global_ptr, b_global_ptr, out_ptr, out_stride_m, out_stride_n,
        A_SHUFFLE, B_SHUFFLE, A_PER_ROW, B_PER_ROW, UNSHIFT, INTERPRETED,
    )  # fmt: skip


def matmul_upcast(
    a: BlockScaledTensor | torch.Tensor, b: BlockScaledTensor | torch.Tensor, out: torch.Tensor, config: Config
) -> None:
    """Launcher; as `tritonfp4.reference.matmul`."""
    compute = compute_dtype(a, b)
    mx = sum(isinstance(t, BlockScaledTensor) and t.format.scale == "e8m0" for t in (a, b))
    wide = math.gcd(b.shape[0], 16)  # only of the weights: a batch size must not compile a kernel of its own
    launch_matmul(
        matmul_upcast_kernel, unwrap(a), unwrap(b), out, config, COMPUTE=compute, UNSHIFT=4.0**mx, INTERPRETED=INTERPRETED,
        M_MULTIPLE=wide if config.swap else 1, N_MULTIPLE=1 if config.swap else wide,
        K_MULTIPLE=math.gcd(min(a.shape[-1], b.shape[-1]), config.block_k),
    )  # fmt: skip


@triton.jit(do_not_specialize=["M"])
def epilogue_kernel(
    acc_ptr, a_global_ptr, b_global_ptr, out_ptr, M, N, acc_stride, out_stride_m, out_stride_n,
    A_SHUFFLE: tl.constexpr, B_SHUFFLE: tl.constexpr, A_PER_ROW: tl.constexpr, B_PER_ROW: tl.constexpr,
    UNSHIFT: tl.constexpr, INTERPRETED: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    """fp32 accumulators in memory -> out."""
    rm = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)
    rn = tl.program_id(1) * BLOCK_N + tl.arange(0, BLOCK_N)
    inside = (rm < M)[:, None] & (rn < N)[None, :]
    acc = tl.load(acc_ptr + rm.to(tl.int64)[:, None] * acc_stride + rn[None, :], mask=inside, other=0.0)
    store_tile(
        acc, rm, rn, M, N, a_global_ptr, b_global_ptr, out_ptr, out_stride_m, out_stride_n,
        A_SHUFFLE, B_SHUFFLE, A_PER_ROW, B_PER_ROW, UNSHIFT, INTERPRETED,
    )  # fmt: skip


def matmul_dequantize(
    a: BlockScaledTensor | torch.Tensor, b: BlockScaledTensor | torch.Tensor, out: torch.Tensor, config: Config
) -> None:
    """Launcher: operands are decoded to 16 bits in memory, cuBLAS multiplies them into fp32, a last pass scales.

    Wins when M re-uses the decoded weights often enough; costs 2 bytes a weight and 4 bytes an output of workspace.
    """
    compute = compute_dtype(a, b)
    left, shift_a = _decoded(a, compute)
    right, shift_b = _decoded(b, compute)
    k = min(left.shape[1], right.shape[1])
    with on_device(out):
        if out.is_cuda:
            acc = torch.mm(left[:, :k], right[:, :k].t(), out_dtype=torch.float32)
        else:
            acc = torch.mm(left[:, :k].float(), right[:, :k].float().t())
        x, y = unwrap(a), unwrap(b)
        epilogue_kernel[(ceil_div(x.rows, EPILOGUE.block_m), ceil_div(y.rows, EPILOGUE.block_n))](
            acc, x.global_scale, y.global_scale, out, x.rows, y.rows, acc.stride(0), out.stride(0), out.stride(1),
            A_SHUFFLE=x.shuffle, B_SHUFFLE=y.shuffle, A_PER_ROW=x.per_row, B_PER_ROW=y.per_row,
            UNSHIFT=shift_a * shift_b, INTERPRETED=INTERPRETED, BLOCK_M=EPILOGUE.block_m, BLOCK_N=EPILOGUE.block_n,
            num_warps=EPILOGUE.num_warps,
        )  # fmt: skip


def _decoded(t: BlockScaledTensor | torch.Tensor, compute: str) -> tuple[torch.Tensor, float]:
    """16-bit operand, rows as stored and without its global scale, and the factor that was left out of it."""
    if isinstance(t, torch.Tensor):
        return t, 1.0
    e8m0 = t.format.scale == "e8m0"
    bare = dataclasses.replace(t, global_scale=None, row_shuffle=0)
    dtype = torch.float16 if compute == "fp16" else torch.bfloat16
    return dequantize_kernels.dequantize(bare, dtype, False, DEQUANTIZE, 0.25 if e8m0 else 1.0), 4.0 if e8m0 else 1.0


DEQUANTIZE = Config("dequantize", block_m=16, block_k=512, num_warps=4)
EPILOGUE = Config("epilogue", block_m=32, block_k=1, block_n=128, num_warps=4)
