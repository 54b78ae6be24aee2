"""Activations in the order in which MMAs take them beside weights that are decoded in registers; FP4 ones are decoded besides."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from triton.language.extra.cuda import gdc_launch_dependents

from tritonfp4.kernels.dequantize import decoded_elements, decoded_scales
from tritonfp4.kernels.encode import to_dtype
from tritonfp4.kernels.launch import INTERPRETED, on_device
from tritonfp4.layouts import ceil_div
from tritonfp4.tensor import BlockScaledTensor

#: Rows of an MMA's right operand, elements along K of a chunk.
ROWS, CHUNK = 8, 128
#: What elements of FP4 are multiplied with, so that their scales do not overflow in 16 bits: the epilogue takes it back.
SHIFT = {"e4m3": 1.0, "e8m0": 0.25}


@triton.jit
def _place(x, out_ptr, row, k, chunks, COLUMNS: tl.constexpr, ROWS: tl.constexpr, CHUNK: tl.constexpr):
    """16-bit elements [ROWS, CHUNK] to where the MMA's threads expect them: of 32 neighbours of a row, which one thread takes as four words
    of eight, p and p + 4 of a word together."""
    x = x.reshape(ROWS, 4, 4, 2, 4)
    if COLUMNS:  # rows stay what they are: [word, p, thread, h]
        x = x.permute(0, 2, 4, 1, 3).reshape(ROWS, CHUNK)
        tl.store(out_ptr + row[:, None].to(tl.int64) * (chunks * CHUNK) + k[None, :], x)
    else:  # what each thread takes at once: [word, row, thread, p, h]
        x = x.permute(2, 0, 1, 4, 3).reshape(ROWS * CHUNK)
        first = (tl.program_id(1) * chunks + tl.program_id(0)).to(tl.int64) * (ROWS * CHUNK)
        tl.store(out_ptr + first + tl.arange(0, ROWS * CHUNK), x)


@triton.jit(do_not_specialize=["M"])
def order_kernel(
    x_ptr,
    out_ptr,
    M,
    K,
    stride,
    chunks,
    COLUMNS: tl.constexpr,
    EARLY: tl.constexpr,
    ROWS: tl.constexpr,
    CHUNK: tl.constexpr,
):
    """16-bit rows [M, K]; what lies outside of them becomes zeros."""
    if EARLY:
        gdc_launch_dependents()
    row = tl.program_id(1) * ROWS + tl.arange(0, ROWS)
    k = tl.program_id(0) * CHUNK + tl.arange(0, CHUNK)
    at = x_ptr + row[:, None].to(tl.int64) * stride + k[None, :]
    _place(
        tl.load(at, mask=(row < M)[:, None] & (k < K)[None, :], other=0.0),
        out_ptr,
        row,
        k,
        chunks,
        COLUMNS,
        ROWS,
        CHUNK,
    )


@triton.jit(do_not_specialize=["M"])
def order_fp4_kernel(
    values_ptr, scales_ptr, out_ptr, M, K, stride, stride_k, scale_cols, chunks, SCALE: tl.constexpr, VEC: tl.constexpr,
    LAYOUT: tl.constexpr, SHIFT: tl.constexpr, INTERPRETED: tl.constexpr, COLUMNS: tl.constexpr, EARLY: tl.constexpr,
    ROWS: tl.constexpr, CHUNK: tl.constexpr,
):  # fmt: skip
    """The same of FP4 rows, without their global scale."""
    if EARLY:
        gdc_launch_dependents()
    row = tl.program_id(1) * ROWS + tl.arange(0, ROWS)
    k = tl.program_id(0) * CHUNK + tl.arange(0, CHUNK)
    x = decoded_elements(
        values_ptr, row.to(tl.int64), tl.program_id(0) * CHUNK, M, K, stride, stride_k, "e2m1", False, ROWS, CHUNK
    )
    c = tl.program_id(0) * (CHUNK // VEC) + tl.arange(0, CHUNK // VEC)
    scale = decoded_scales(scales_ptr, row.to(tl.int64), c, M, M, 0, 0, 0, scale_cols, SCALE, 1, LAYOUT, False, False)
    x = (x.reshape(ROWS, CHUNK // VEC, VEC) * (scale * SHIFT)[:, :, None]).reshape(ROWS, CHUNK)
    x = tl.where((row < M)[:, None] & (k < K)[None, :], x, 0.0)
    _place(to_dtype(x, out_ptr.dtype.element_ty, INTERPRETED), out_ptr, row, k, chunks, COLUMNS, ROWS, CHUNK)


def order(
    a: BlockScaledTensor | torch.Tensor, compute: str, k: int, tokens: int, early: bool, columns: bool = False
) -> tuple[torch.Tensor, float]:
    """The first k elements of rows [M, K], M filled up to a multiple of `tokens` and k to one of a chunk with zeros; and what a product must be
    multiplied by for what was left out of them, besides their global scale.

    `columns`: rows of which only the columns are in another order. `early`: the launch behind this one may begin while it runs.
    """
    rows, chunks = ceil_div(a.shape[0], tokens) * tokens, ceil_div(k, CHUNK)
    grid = (chunks, rows // ROWS)
    options = {"COLUMNS": columns, "EARLY": early, "ROWS": ROWS, "CHUNK": CHUNK}
    if isinstance(a, torch.Tensor):
        out = torch.empty((rows, chunks * CHUNK), dtype=a.dtype, device=a.device)
        with on_device(out):
            order_kernel[grid](a, out, a.shape[0], k, a.stride(0), chunks, num_warps=1, **options)
        return out, 1.0
    out = torch.empty(
        (rows, chunks * CHUNK), dtype=torch.float16 if compute == "fp16" else torch.bfloat16, device=a.device
    )
    shift = SHIFT[a.format.scale]
    with on_device(out):
        order_fp4_kernel[grid](
            a.values, a.scales.contiguous(), out, a.shape[0], k, *a.values.stride(), a.scale_cols, chunks, SCALE=a.format.scale,
            VEC=a.format.vec, LAYOUT=int(a.layout), SHIFT=shift, INTERPRETED=INTERPRETED, enable_fp_fusion=False, num_warps=4,
            **options,
        )  # fmt: skip
    return out, 1.0 / shift
