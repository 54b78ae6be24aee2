"""Launcher of the products of 16-bit activations and FP4 weights on Hopper."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import torch
from triton.experimental.gluon import language as gl

from tritonfp4.config import Config
from tritonfp4.device import device_info
from tritonfp4.kernels import dequantize as dequantize_kernels
from tritonfp4.kernels.fragments.decode import UNSHIFT
from tritonfp4.kernels.grouped import unwrap_group
from tritonfp4.kernels.hopper.launch import MODES, Base, descriptor
from tritonfp4.kernels.hopper.w4 import matmul_w4_hopper_kernel
from tritonfp4.kernels.launch import Launches, on_device
from tritonfp4.kernels.operands import compute_dtype, unwrap
from tritonfp4.layouts import ceil_div
from tritonfp4.tensor import BlockScaledTensor

#: Rows of the weights of a tile, and elements along K of a stage.
ROWS, STEP = 128, 64
DEQUANTIZE = Config("dequantize", block_m=16, block_k=512, num_warps=4)

_X, _W = gl.NVMMASharedLayout(128, 16, 2), gl.NVMMASharedLayout(32, 32, 2)
_CODES = gl.NVMMASharedLayout(0, 32, 2)
_DTYPES = {torch.bfloat16: gl.bfloat16, torch.float16: gl.float16}
_launch = Launches(matmul_w4_hopper_kernel)


def _activations(a: BlockScaledTensor | torch.Tensor, compute: str) -> tuple[torch.Tensor, float]:
    """16-bit activations without their global scale, and the factor that was left out of them. FP4 ones are decoded, exactly."""
    if isinstance(a, torch.Tensor):
        return a, 1.0
    e8m0 = a.format.scale == "e8m0"
    bare = dataclasses.replace(a, global_scale=None, row_shuffle=0)
    dtype = torch.float16 if compute == "fp16" else torch.bfloat16
    return dequantize_kernels.dequantize(bare, dtype, False, DEQUANTIZE, 0.25 if e8m0 else 1.0), 4.0 if e8m0 else 1.0


@functools.cache
def _output_layout(tokens: int, dtype: torch.dtype) -> gl.NVMMASharedLayout:
    return gl.NVMMASharedLayout.get_default_for([1, tokens, 64], _DTYPES[dtype])


def _output(out: torch.Tensor, tokens: int) -> Any:
    """Rows [R, N] as [R + tokens, tokens, N]; see `launch._output`."""
    size, stride = out.shape, out.stride(-2)
    n, rows = size[-1], size[0] if len(size) == 2 else size[0] * size[1]
    base = Base(out.data_ptr() - tokens * stride * out.element_size(), out.dtype)
    return descriptor(
        base, [rows + tokens, tokens, n], [stride, stride, 1], [1, tokens, 64], _output_layout(tokens, out.dtype)
    )


def _launch_products(
    x: torch.Tensor, x_global: torch.Tensor | None, per_row: bool, b: BlockScaledTensor, groups: torch.Tensor | None, mode: str,
    out: torch.Tensor, compute: str, unshift: float, config: Config,
) -> None:  # fmt: skip
    """16-bit rows by the matrices of b, one where `b` is not batched."""
    w = unwrap_group(b)
    count, n, k, tokens = w.matrices, b.shape[-2], b.shape[-1], config.block_n
    rows, all_rows = x.shape[-2], x.numel() // x.shape[-1]
    words, codes = b.values.view(torch.int32), b.scales.contiguous().view(torch.int32)
    tiles, tiles_n = codes.numel() // 128, ceil_div(n, ROWS)
    descriptors = (
        descriptor(x, [all_rows, k], [x.stride(-2), 1], [tokens, STEP], _X),
        descriptor(words, [count * n, k // 8], [words.stride(-2), 1], [ROWS, STEP // 8], _W),
        descriptor(codes, [tiles * 32, 4], [4, 1], [32, 4], _CODES), _output(out, tokens),
    )  # fmt: skip
    tiles_m = ceil_div(rows, tokens)
    number = (tiles_m + count + 2 if mode == "indptr" else tiles_m * count) * tiles_n
    constants = (
        MODES[mode], count == 1, b.format.name, compute, per_row, w.global_kind, unshift * UNSHIFT[b.format.name, compute],
        config.num_stages, tokens, config.group_m,
    )  # fmt: skip
    pointers = (x_global, w.global_scale, out if groups is None else groups)
    key = (
        constants, x.dtype, out.dtype, *(None if p is None else (p.dtype, p.data_ptr() % 16) for p in pointers), n, k, rows >> 31,
        count >> 31,
    )  # fmt: skip
    _launch(
        key, out.get_device(), min(number, device_info(out.device).sm_count),
        (*descriptors, *pointers, count, rows, n, k, tiles // (count * tiles_n), *constants), num_warps=4, maxnreg=168,
    )  # fmt: skip


def matmul_w4_hopper(
    a: BlockScaledTensor | torch.Tensor, b: BlockScaledTensor, out: torch.Tensor, config: Config
) -> None:
    """Launcher; as `tritonfp4.reference.matmul` for many rows of `a` and FP4 weights `b`. Operands must be `tiles_ready`.

    The config's block_m is 128 rows of b, its block_n the rows of a, its warps those of two warpgroups and of the one that loads.
    """
    compute = compute_dtype(a, b)
    x_global, per_row = (None, False) if isinstance(a, torch.Tensor) else (unwrap(a).global_scale, unwrap(a).per_row)
    with on_device(out):
        x, unshift = _activations(a, compute)
        _launch_products(x, x_global, per_row, b, None, "batch", out, compute, unshift, config)


def grouped_w4_hopper(
    a: torch.Tensor, b: BlockScaledTensor, groups: torch.Tensor | None, mode: str, out: torch.Tensor, config: Config
) -> None:
    """Launcher; as `tritonfp4.reference.grouped_matmul` for 16-bit `a`. Operands must be `group_tiles_ready`."""
    with on_device(out):
        _launch_products(a, None, False, b, groups, mode, out, compute_dtype(a, b), 1.0, config)
