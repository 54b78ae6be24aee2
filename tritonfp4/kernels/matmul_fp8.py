"""Products of FP8 operands: dense, batched, masked, ragged groups, or a group for every row.

The scales are applied to the product of one scale block along K, in fp32. So the element bytes meet the tensor cores as
they are, on FP8 ones where the GPU has them, else decoded exactly to fp16; and every scale of a wide range keeps its
precision, as long as fp32 holds the product of the two. MXFP8 scales are added as exponents and applied in two halves: no
code from 0 to 254 overflows on the way.
"""

from __future__ import annotations

import math

import torch
import triton
import triton.language as tl

from tritonfp4.config import Config
from tritonfp4.kernels.encode import (
    e2m1_decode_fp16,
    e2m1_to_e4m3,
    e4m3_decode_fp16,
    e5m2_decode_fp16,
    scale_offset,
)
from tritonfp4.kernels.grouped import launch_groups, unwrap_group
from tritonfp4.kernels.segments import padded_start, segment, store_rows
from tritonfp4.tensor import BlockScaledTensor

#: Elements along K that share an fp32 scale.
FP8_STEP = 128


@triton.jit
def _load_elements(
    ptr, r, ok, k, K, stride_r, stride_k, ELEMENT: tl.constexpr, COMPUTE: tl.constexpr,
    K_MULTIPLE: tl.constexpr, BLOCK: tl.constexpr, STEP: tl.constexpr,
):  # fmt: skip
    """Elements [BLOCK, STEP] of rows r, columns k .. k + STEP, 0 outside; as FP8 or as fp16."""
    if ELEMENT == "e2m1":
        j = k // 2 + tl.arange(0, STEP // 2)
        inside = ok[:, None]
        if K_MULTIPLE < STEP:
            inside = inside & (j < K // 2)[None, :]
        packed = tl.load(ptr + r[:, None] * stride_r + j.to(tl.int64)[None, :] * stride_k, mask=inside, other=0)
        codes = tl.join(packed & 15, packed >> 4).reshape(BLOCK, STEP)
        if COMPUTE == "fp8":
            return e2m1_to_e4m3(codes).to(tl.float8e4nv, bitcast=True)
        else:
            return e2m1_decode_fp16(codes)
    else:
        j = k + tl.arange(0, STEP)
        inside = ok[:, None]
        if K_MULTIPLE < STEP:
            inside = inside & (j < K)[None, :]
        if COMPUTE == "fp8":  # pointers are cast, not loaded bytes: those would not be pipelined through shared memory
            if ELEMENT == "e4m3":
                ptr = ptr.to(tl.pointer_type(tl.float8e4nv), bitcast=True)
            else:
                ptr = ptr.to(tl.pointer_type(tl.float8e5), bitcast=True)
            return tl.load(ptr + r[:, None] * stride_r + j.to(tl.int64)[None, :] * stride_k, mask=inside, other=0.0)
        else:
            byte = tl.load(ptr + r[:, None] * stride_r + j.to(tl.int64)[None, :] * stride_k, mask=inside, other=0)
            return e4m3_decode_fp16(byte) if ELEMENT == "e4m3" else e5m2_decode_fp16(byte)


@triton.jit
def _load_scales(
    ptr, r, ok, c, stride_r, stride_k, cols, SCALE: tl.constexpr, ROWS: tl.constexpr, LAYOUT: tl.constexpr
):
    """Scales of rows r in scale column c: fp32 decode multipliers, or e8m0 codes as int32. 0 for rows that are not ok."""
    if SCALE == "fp32":
        return tl.load(ptr + (r // ROWS) * stride_r + c.to(tl.int64) * stride_k, mask=ok, other=0.0)
    else:
        return tl.load(ptr + scale_offset(r, c, cols, LAYOUT), mask=ok, other=0).to(tl.int32)


@triton.jit
def _power(e):
    """2^e as fp32 for -127 <= e <= 127."""
    return tl.where(e == -127, 0x00400000, (e + 127) << 23).to(tl.int32).to(tl.float32, bitcast=True)


@triton.jit
def _times_codes(x, left, right):
    """x * 2^(left - 127) * 2^(right - 127) in two exact halves; code 255 of either is NaN."""
    e = (left - 127)[:, None] + (right - 127)[None, :]
    half = e >> 1
    x = x * _power(half) * _power(e - half)
    return tl.where((left == 255)[:, None] | (right == 255)[None, :], float("nan"), x)


@triton.jit
def _accumulate(
    acc, a, b, sa, sb, SCALE: tl.constexpr, B_ONE: tl.constexpr, SWAP: tl.constexpr, COMPUTE: tl.constexpr
):  # fmt: skip
    """acc + (a @ b.T) * scales, or its transpose."""
    if SWAP:
        part = tl.dot(b, tl.trans(a))
    else:
        part = tl.dot(a, tl.trans(b))
    if SCALE == "e8m0":
        if SWAP:
            return acc + _times_codes(part, sb, sa)
        else:
            return acc + _times_codes(part, sa, sb)
    elif SCALE == "fp32":
        if SWAP:
            if B_ONE:
                return acc + part * (sa * sb)[None, :]
            else:
                return acc + part * (sb[:, None] * sa[None, :])
        else:
            if B_ONE:
                return acc + part * (sa * sb)[:, None]
            else:
                return acc + part * (sa[:, None] * sb[None, :])
    else:
        return acc + part


@triton.jit
def _tile(
    acc, a_ptr, a_scale_ptr, b_ptr, b_scale_ptr, ra, sra, ok_a, rb, ok_b, first_b, K,
    a_stride_r, a_stride_k, b_stride_r, b_stride_k, a_sstride_r, a_sstride_k, b_sstride_r, b_sstride_k, a_scols, b_scols,
    A_ELEMENT: tl.constexpr, A_ROWS: tl.constexpr, A_LAYOUT: tl.constexpr, B_ELEMENT: tl.constexpr, B_ROWS: tl.constexpr,
    B_LAYOUT: tl.constexpr, SCALE: tl.constexpr, B_ONE: tl.constexpr, COMPUTE: tl.constexpr, SWAP: tl.constexpr,
    K_MULTIPLE: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, STEP: tl.constexpr,
):  # fmt: skip
    """acc + the product over all of K of rows ra of a (scale rows sra) and rows rb of b."""
    for k in range(0, K, STEP):
        c = k // STEP
        a = _load_elements(
            a_ptr, ra, ok_a, k, K, a_stride_r, a_stride_k, A_ELEMENT, COMPUTE, K_MULTIPLE, BLOCK_M, STEP
        )  # fmt: skip
        b = _load_elements(
            b_ptr, rb, ok_b, k, K, b_stride_r, b_stride_k, B_ELEMENT, COMPUTE, K_MULTIPLE, BLOCK_N, STEP
        )  # fmt: skip
        if SCALE == "":
            acc = _accumulate(acc, a, b, 0.0, 0.0, SCALE, B_ONE, SWAP, COMPUTE)
        else:
            c_a, c_b = ra * 0 + c, rb * 0 + c
            sa = _load_scales(a_scale_ptr, sra, ok_a, c_a, a_sstride_r, a_sstride_k, a_scols, SCALE, A_ROWS, A_LAYOUT)
            if B_ONE:
                row_b, col_b = tl.cast(first_b // B_ROWS, tl.int64), tl.cast(c, tl.int64)
                sb = tl.load(b_scale_ptr + row_b * b_sstride_r + col_b * b_sstride_k)
            else:
                sb = _load_scales(
                    b_scale_ptr, rb, ok_b, c_b, b_sstride_r, b_sstride_k, b_scols, SCALE, B_ROWS, B_LAYOUT
                )
            acc = _accumulate(acc, a, b, sa, sb, SCALE, B_ONE, SWAP, COMPUTE)
    return acc


@triton.jit(do_not_specialize=["G", "M", "N"])
def matmul_fp8_kernel(
    a_ptr, a_scale_ptr, a_global_ptr, b_ptr, b_scale_ptr, b_global_ptr, groups_ptr, out_ptr, G, M, N, K,
    a_stride_g, a_stride_r, a_stride_k, b_stride_g, b_stride_r, b_stride_k, out_stride_g, out_stride_m, out_stride_n,
    a_sstride_g, a_sstride_r, a_sstride_k, b_sstride_g, b_sstride_r, b_sstride_k, a_scols, b_scols,
    MODE: tl.constexpr, SEGMENTS: tl.constexpr, SCALE: tl.constexpr, STEP: tl.constexpr,
    A_ELEMENT: tl.constexpr, A_ROWS: tl.constexpr, A_LAYOUT: tl.constexpr, A_GLOBAL: tl.constexpr,
    B_ELEMENT: tl.constexpr, B_ROWS: tl.constexpr, B_LAYOUT: tl.constexpr, B_GLOBAL: tl.constexpr,
    COMPUTE: tl.constexpr, SWAP: tl.constexpr, N_MULTIPLE: tl.constexpr, K_MULTIPLE: tl.constexpr,
    INTERPRETED: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    """out = a @ b.T, for the rows and the group of this program's segment (see `tritonfp4.kernels.segments`)."""
    N = N // N_MULTIPLE * N_MULTIPLE  # unchanged, but known: wide stores
    tiles_n = tl.cdiv(N, BLOCK_N)
    if MODE == "indices":
        pid = tl.program_id(0)
        group, first, valid, bound, tile, pid_n = 0, 0, M, M, pid // tiles_n, pid % tiles_n
    else:
        group, first, valid, bound, tile, pid_n = segment(groups_ptr, G, M, tiles_n, MODE, SEGMENTS, BLOCK_M)
    local = tile * BLOCK_M + tl.arange(0, BLOCK_M)
    ra = (first + local).to(tl.int64)
    rb = (pid_n * BLOCK_N + tl.arange(0, BLOCK_N)).to(tl.int64)
    ok_a, ok_b = local < valid, rb < N
    if SCALE == "e8m0" and MODE == "indptr" and A_LAYOUT != 2:
        sra = (padded_start(first, group) + local).to(tl.int64)
    else:
        sra = ra
    B_ONE: tl.constexpr = SCALE == "fp32" and B_ROWS % BLOCK_N == 0
    first_b = pid_n * BLOCK_N
    acc = tl.zeros([BLOCK_N, BLOCK_M] if SWAP else [BLOCK_M, BLOCK_N], tl.float32)
    if MODE == "indices":
        # Rows of one group usually fill whole tiles; where they do not, every group of the tile takes its turn, and stores
        # its own rows alone: a NaN in its weights makes NaN of all others (0 * NaN), too.
        index = tl.load(groups_ptr + ra, mask=ok_a, other=-1)
        index = tl.where((index >= 0) & (index < G), index, -1)
        low = tl.min(tl.where(index >= 0, index, 0x7FFFFFFF), 0)
        store_rows(
            acc, tl.where(index < 0, local, M), rb, first, 0, 0, bound, M, N, a_global_ptr, b_global_ptr, out_ptr,
            out_stride_g, out_stride_m, out_stride_n, MODE, A_GLOBAL, B_GLOBAL, 1.0, SWAP, INTERPRETED, BLOCK_M,
        )  # fmt: skip
        for at in range(low, tl.max(index, 0) + 1):
            mine = index == at
            if tl.max(mine.to(tl.int32), 0) > 0:
                g = tl.cast(at, tl.int64)
                part = _tile(
                    acc, a_ptr, a_scale_ptr, b_ptr + g * b_stride_g, b_scale_ptr + g * b_sstride_g,
                    ra, sra, mine, rb, ok_b, first_b, K, a_stride_r, a_stride_k, b_stride_r, b_stride_k,
                    a_sstride_r, a_sstride_k, b_sstride_r, b_sstride_k, a_scols, b_scols,
                    A_ELEMENT, A_ROWS, A_LAYOUT, B_ELEMENT, B_ROWS, B_LAYOUT, SCALE, B_ONE, COMPUTE, SWAP, K_MULTIPLE,
                    BLOCK_M, BLOCK_N, STEP,
                )  # fmt: skip
                store_rows(
                    part, tl.where(mine, local, M), rb, first, g, valid, bound, M, N, a_global_ptr, b_global_ptr, out_ptr,
                    out_stride_g, out_stride_m, out_stride_n, MODE, A_GLOBAL, B_GLOBAL, 1.0, SWAP, INTERPRETED, BLOCK_M,
                )  # fmt: skip
    else:
        g = tl.cast(group, tl.int64)
        depth = tl.where(tile * BLOCK_M < valid, K, 0)
        a_base, b_base = a_ptr + g * a_stride_g, b_ptr + g * b_stride_g
        a_sbase, b_sbase = a_scale_ptr + g * a_sstride_g, b_scale_ptr + g * b_sstride_g
        acc = _tile(
            acc, a_base, a_sbase, b_base, b_sbase, ra, sra, ok_a, rb, ok_b, first_b, depth,
            a_stride_r, a_stride_k, b_stride_r, b_stride_k, a_sstride_r, a_sstride_k, b_sstride_r, b_sstride_k, a_scols, b_scols,
            A_ELEMENT, A_ROWS, A_LAYOUT, B_ELEMENT, B_ROWS, B_LAYOUT, SCALE, B_ONE, COMPUTE, SWAP, K_MULTIPLE,
            BLOCK_M, BLOCK_N, STEP,
        )  # fmt: skip
        store_rows(
            acc, local, rb, first, g, valid, bound, M, N, a_global_ptr, b_global_ptr, out_ptr,
            out_stride_g, out_stride_m, out_stride_n, MODE, A_GLOBAL, B_GLOBAL, 1.0, SWAP, INTERPRETED, BLOCK_M,
        )  # fmt: skip


def matmul_fp8(
    a: BlockScaledTensor,
    b: BlockScaledTensor,
    groups: torch.Tensor | None,
    mode: str,
    out: torch.Tensor,
    config: Config,
) -> None:
    """Launcher; as `tritonfp4.reference.grouped_matmul`. Dense operands are a batch of one."""
    x, y = unwrap_group(a), unwrap_group(b)
    rows = a.shape[-2] if mode in ("batch", "masked") else a.rows
    count, n, k = y.matrices, b.shape[-2], min(a.cols, b.cols)
    native = config.path == "fp8"
    step = FP8_STEP if a.format.scale != "e8m0" else 32
    launch_groups(
        matmul_fp8_kernel, x, y, groups, mode, out, (count, rows, n, k), config,
        SCALE=a.format.scale, STEP=step, COMPUTE="fp8" if native else "fp16", K_MULTIPLE=math.gcd(k, step),
    )  # fmt: skip
