"""GEMM for GPUs without block-scaled tensor cores: FP4 operands are decoded exactly on the way to 16-bit tensor cores."""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from tritonfp4.config import Config
from tritonfp4.kernels import dequantize as dequantize_kernels
from tritonfp4.kernels.dot import decode_halves, dot, split_halves
from tritonfp4.kernels.encode import scale_offset
from tritonfp4.kernels.launch import INTERPRETED
from tritonfp4.kernels.operands import Operand, compute_dtype, launch_matmul, store_tile, tile_ids, unwrap
from tritonfp4.tensor import BlockScaledTensor


@triton.jit
def _load_bytes(ptr, r, j, rows, cols, stride_r, stride_k):
    inside = (r < rows)[:, None] & (j < cols)[None, :]
    return tl.load(ptr + r.to(tl.int64)[:, None] * stride_r + j.to(tl.int64)[None, :] * stride_k, mask=inside, other=0)


@triton.jit
def _load_scales(ptr, r, c, rows, cols, stored_cols, LAYOUT: tl.constexpr):
    """Scale bytes of rows r and columns c; outside the logical matrix 0, whatever the buffer holds there."""
    inside = (r < rows)[:, None] & (c < cols)[None, :]
    return tl.load(ptr + scale_offset(r[:, None], c[None, :], stored_cols, LAYOUT), mask=inside, other=0)


@triton.jit
def _load_halves(
    ptr, scale_ptr, r, k, rows, K, stride_r, stride_k, scale_cols,
    FORMAT: tl.constexpr, VEC: tl.constexpr, LAYOUT: tl.constexpr, COMPUTE: tl.constexpr,
    BLOCK: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """Even and odd elements k .. k + BLOCK_K of an operand, decoded."""
    if FORMAT == "plain":
        x = _load_bytes(ptr, r, k + tl.arange(0, BLOCK_K), rows, K, stride_r, stride_k)
        return split_halves(x, COMPUTE, BLOCK, BLOCK_K)
    else:
        C: tl.constexpr = BLOCK_K // VEC
        packed = _load_bytes(ptr, r, k // 2 + tl.arange(0, BLOCK_K // 2), rows, tl.cdiv(K, 2), stride_r, stride_k)
        c = k // VEC + tl.arange(0, C)
        code = _load_scales(scale_ptr, r, c, rows, tl.cdiv(K, VEC), scale_cols, LAYOUT)
        return decode_halves(packed, code, FORMAT, COMPUTE, BLOCK, C, VEC)


@triton.jit(do_not_specialize=["M", "N"])
def matmul_upcast_kernel(
    a_ptr, a_scale_ptr, a_global_ptr, b_ptr, b_scale_ptr, b_global_ptr, out_ptr,
    M, N, K, a_stride_r, a_stride_k, b_stride_r, b_stride_k, out_stride_m, out_stride_n, a_scale_cols, b_scale_cols,
    A_FORMAT: tl.constexpr, A_VEC: tl.constexpr, A_LAYOUT: tl.constexpr, A_SHUFFLE: tl.constexpr, A_PER_ROW: tl.constexpr,
    B_FORMAT: tl.constexpr, B_VEC: tl.constexpr, B_LAYOUT: tl.constexpr, B_SHUFFLE: tl.constexpr, B_PER_ROW: tl.constexpr,
    COMPUTE: tl.constexpr, UNSHIFT: tl.constexpr, INTERPRETED: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, GROUP_M: tl.constexpr,
):  # fmt: skip
    """out = a @ b.T. The even and the odd elements go into two dots, so that no nibble is ever interleaved."""
    pid_m, pid_n = tile_ids(M, N, BLOCK_M, BLOCK_N, GROUP_M)
    rm = pid_m * BLOCK_M + tl.arange(0, BLOCK_M)
    rn = pid_n * BLOCK_N + tl.arange(0, BLOCK_N)
    acc = tl.zeros([BLOCK_M, BLOCK_N], tl.float32)
    for k in range(0, K, BLOCK_K):
        if A_FORMAT == "plain" and B_FORMAT == "plain":
            i = k + tl.arange(0, BLOCK_K)
            a = _load_bytes(a_ptr, rm, i, M, K, a_stride_r, a_stride_k)
            b = _load_bytes(b_ptr, rn, i, N, K, b_stride_r, b_stride_k)
            acc = dot(a, b, acc, COMPUTE, INTERPRETED)
        else:
            a0, a1 = _load_halves(
                a_ptr, a_scale_ptr, rm, k, M, K, a_stride_r, a_stride_k, a_scale_cols,
                A_FORMAT, A_VEC, A_LAYOUT, COMPUTE, BLOCK_M, BLOCK_K,
            )  # fmt: skip
            b0, b1 = _load_halves(
                b_ptr, b_scale_ptr, rn, k, N, K, b_stride_r, b_stride_k, b_scale_cols,
                B_FORMAT, B_VEC, B_LAYOUT, COMPUTE, BLOCK_N, BLOCK_K,
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
    _launch(unwrap(a), unwrap(b), out, config, compute, 4.0**mx)


def matmul_dequantize(
    a: BlockScaledTensor | torch.Tensor, b: BlockScaledTensor | torch.Tensor, out: torch.Tensor, config: Config
) -> None:
    """Launcher: operands are decoded to 16 bits in memory, then multiplied. Wins when M re-uses them many times."""
    compute = compute_dtype(a, b)
    mx = 0
    operands = []
    for t in (a, b):
        plain = unwrap(t)
        if isinstance(t, BlockScaledTensor):
            e8m0 = t.format.scale == "e8m0"
            mx += e8m0
            dtype = {"fp16": torch.float16, "bf16": torch.bfloat16, "tf32": torch.float32}[compute]
            bare = BlockScaledTensor(t.values, t.scales, None, t.format, t.layout, t.shape, 0)  # rows stay as stored
            data = dequantize_kernels.dequantize(bare, dtype, False, DEQUANTIZE, 0.25 if e8m0 else 1.0)
            plain = Operand.plain(data, plain.global_scale, t.row_shuffle)
        elif compute == "tf32":
            plain = Operand.plain(t.float(), None, 0)
        operands.append(plain)
    _launch(operands[0], operands[1], out, config, compute, 4.0**mx)


DEQUANTIZE = Config("dequantize", block_m=16, block_k=512, num_warps=4)


def _launch(a: Operand, b: Operand, out: torch.Tensor, config: Config, compute: str, unshift: float) -> None:
    launch_matmul(matmul_upcast_kernel, a, b, out, config, COMPUTE=compute, UNSHIFT=unshift, INTERPRETED=INTERPRETED)
