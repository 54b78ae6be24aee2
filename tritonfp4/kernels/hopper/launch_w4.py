"""Launcher of the products of 16-bit activations and FP4 weights on Hopper."""

from __future__ import annotations

import dataclasses

import torch
from triton.experimental.gluon import language as gl

from tritonfp4.config import Config
from tritonfp4.device import device_info
from tritonfp4.kernels import dequantize as dequantize_kernels
from tritonfp4.kernels.fragments.decode import UNSHIFT
from tritonfp4.kernels.hopper.launch import descriptor
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


def matmul_w4_hopper(
    a: BlockScaledTensor | torch.Tensor, b: BlockScaledTensor, out: torch.Tensor, config: Config
) -> None:
    """Launcher; as `tritonfp4.reference.matmul` for many rows of `a` and FP4 weights `b`. Operands must be `tiles_ready`.

    The config's block_m is 128 rows of b, its block_n the rows of a, its warps those of two warpgroups and of the one that loads.
    """
    compute = compute_dtype(a, b)
    x_global, per_row = (None, False) if isinstance(a, torch.Tensor) else (unwrap(a).global_scale, unwrap(a).per_row)
    w = unwrap(b)
    with on_device(out):
        x, unshift = _activations(a, compute)
        m, n, k, tokens = x.shape[0], w.rows, x.shape[1], config.block_n
        words, codes = b.values.view(torch.int32), b.scales.contiguous().view(torch.int32)
        tiles = codes.numel() // 128
        columns = tiles // ceil_div(n, ROWS)
        descriptors = (
            descriptor(x, [m, k], [x.stride(0), 1], [tokens, STEP], _X),
            descriptor(words, [n, k // 8], [words.stride(0), 1], [ROWS, STEP // 8], _W),
            descriptor(codes, [tiles * 32, 4], [4, 1], [32, 4], _CODES),
            descriptor(out, [m, n], [out.stride(0), 1], [tokens, 64], gl.NVMMASharedLayout(128, 16, 2)),
        )
        constants = (
            w.format, compute, per_row, w.per_row, unshift * UNSHIFT[w.format, compute], config.num_stages, tokens, config.group_m,
        )  # fmt: skip
        pointers = (x_global, w.global_scale)
        key = (
            constants,
            x.dtype,
            out.dtype,
            *(None if p is None else p.data_ptr() % 16 for p in pointers),
            n,
            k,
            m >> 31,
        )
        programs = min(ceil_div(m, tokens) * ceil_div(n, ROWS), device_info(out.device).sm_count)
        _launch(
            key,
            out.get_device(),
            programs,
            (*descriptors, *pointers, m, n, k, columns, *constants),
            num_warps=4,
            maxnreg=168,
        )
