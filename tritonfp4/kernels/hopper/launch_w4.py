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
from tritonfp4.kernels.fragments.order import order
from tritonfp4.kernels.grouped import unwrap_group
from tritonfp4.kernels.hopper.launch import MODES, Base, descriptor
from tritonfp4.kernels.hopper.w4 import matmul_w4_hopper_kernel
from tritonfp4.kernels.hopper.w4_stream import finish_w4_kernel, stream_w4_kernel
from tritonfp4.kernels.launch import Launches, on_device
from tritonfp4.kernels.operands import compute_dtype, unwrap
from tritonfp4.layouts import ceil_div
from tritonfp4.tensor import BlockScaledTensor

#: Stages asked for before the warps take up their roles.
AHEAD = 4
#: Rows of the weights of a tile, and elements along K of a stage.
ROWS, STEP = 128, 64
#: Tokens of a program that adds up parts.
FINISHED = 8
DEQUANTIZE = Config("dequantize", block_m=16, block_k=512, num_warps=4)

_X, _W = gl.NVMMASharedLayout(128, 16, 2), gl.NVMMASharedLayout(32, 32, 2)
_CODES = gl.NVMMASharedLayout(0, 32, 2)
_ORDERED_X, _STREAM_W = gl.NVMMASharedLayout(128, 16, 4), gl.NVMMASharedLayout(64, 32, 2)
_DTYPES = {torch.bfloat16: gl.bfloat16, torch.float16: gl.float16}
_launch = Launches(matmul_w4_hopper_kernel)
_launch_stream = Launches(stream_w4_kernel)


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
    steps, sms = k // STEP, device_info(out.device).sm_count
    share = _share(tiles_m * tiles_n, steps, sms, True) if config.shares else steps
    total = tiles_m * tiles_n * steps
    programs = ceil_div(total, share) if config.shares else min(number, sms)
    cut = share % steps != 0
    parts = torch.empty(2 * programs * ROWS * tokens, dtype=torch.float32, device=out.device) if cut else out
    ends = (per_row, w.global_kind, unshift * UNSHIFT[b.format.name, compute])
    constants = (
        MODES[mode], count == 1, b.format.name, compute, *ends, config.num_stages, tokens, config.group_m, config.shares,
    )  # fmt: skip
    pointers = (x_global, w.global_scale, out if groups is None else groups, parts)
    key = (
        constants, x.dtype, out.dtype, *(None if p is None else (p.dtype, p.data_ptr() % 16) for p in pointers), n, k, rows >> 31,
        count >> 31,
    )  # fmt: skip
    _launch(
        key, out.get_device(), programs,
        (*descriptors, *pointers, count, total, share, rows, n, k, tiles // (count * tiles_n), *constants), num_warps=4, maxnreg=168,
    )  # fmt: skip
    if cut:
        _finish(
            out,
            (parts, x_global, w.global_scale),
            tiles_m,
            tiles_m * tiles_n,
            share,
            steps,
            rows,
            n,
            ends,
            ROWS,
            tokens,
        )


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


def stream_w4_hopper(
    a: BlockScaledTensor | torch.Tensor, b: BlockScaledTensor, out: torch.Tensor, config: Config
) -> None:
    """Launcher; as `matmul_w4_hopper`, for a few tens of rows of `a`.

    The config's block_m is 128 or 256 rows of b, its block_n the rows of a, its warps those of four warpgroups and of the one that loads.
    """
    compute = compute_dtype(a, b)
    x_global, per_row = (None, False) if isinstance(a, torch.Tensor) else (unwrap(a).global_scale, unwrap(a).per_row)
    with on_device(out):
        w = unwrap_group(b)
        n, k = b.shape
        rows, tokens, tile, nv = a.shape[0], config.block_n, config.block_m, b.format.name == "nvfp4"
        groups = tile // 64
        x, unshift = order(a, compute, k, tokens, True, columns=True)
        words = b.values.view(torch.int32)
        codes = b.scales.contiguous().view(torch.int16 if nv else torch.uint8)
        width, columns = (8, k // 64) if nv else (16, k // 128)
        descriptors = (
            descriptor(x, [2, k // 128, x.shape[0], 64], [64, 128, k, 1], [2, 1, tokens, 64], _ORDERED_X),
            descriptor(words, [n, k // 8], [words.stride(0), 1], [tile, 16], _STREAM_W),
            descriptor(codes, [ceil_div(n, 128), columns, 32, width], [columns * 32 * width, 32 * width, width, 1],
                       [tile // 128, 2 if nv else 1, 32, width], gl.NVMMASharedLayout(0, 16 if nv else 8, 4)),
            _output(out, tokens),
        )  # fmt: skip
        ksplit = 4 // groups
        tiles_m, tiles_n, steps = ceil_div(rows, tokens), ceil_div(n, tile), ceil_div(k, 128 * ksplit) * ksplit
        share = _share(tiles_m * tiles_n, steps, device_info(out.device).sm_count, config.shares)
        total = tiles_m * tiles_n * steps
        programs = ceil_div(total, share)
        cut = share % steps != 0
        parts = torch.empty(2 * programs * tile * tokens, dtype=torch.float32, device=out.device) if cut else out
        ends = (per_row, w.global_kind, unshift * UNSHIFT[b.format.name, compute])
        constants = (
            b.format.name,
            compute,
            *ends,
            groups,
            config.num_stages,
            tokens,
            min(AHEAD, config.num_stages, share),
        )
        pointers = (parts, x_global, w.global_scale)
        key = (
            constants,
            x.dtype,
            out.dtype,
            *(None if p is None else (p.dtype, p.data_ptr() % 16) for p in pointers),
            n,
            k,
            rows >> 31,
        )
        _launch_stream(
            key, out.get_device(), programs, (*descriptors, *pointers, tiles_m, total, share, rows, n, k, *constants), num_warps=4,
            maxnreg=96, launch_pdl=True,
        )  # fmt: skip
        if cut:
            _finish(out, pointers, tiles_m, tiles_m * tiles_n, share, steps, rows, n, ends, tile, tokens)


def _finish(
    out: torch.Tensor, pointers: tuple[torch.Tensor | None, ...], tiles_m: int, tiles: int, share: int, steps: int, rows: int, n: int,
    ends: tuple[bool, str, float], tile: int, tokens: int,
) -> None:  # fmt: skip
    """Add up the parts of tiles that were cut."""
    most = ceil_div(steps - 1, share) + 1
    finish_w4_kernel[(tiles, ceil_div(min(rows, tokens), FINISHED))](
        out,
        *pointers,
        tiles_m,
        share,
        steps,
        rows,
        n,
        *out.stride(),
        *ends,
        tile,
        tokens,
        FINISHED,
        most,
        num_warps=4,
        launch_pdl=True,
    )


def _share(tiles: int, steps: int, programs: int, cut: bool) -> int:
    """Steps of a program, an even number of them or whole tiles."""
    return ceil_div(tiles * steps, 2 * programs) * 2 if cut else ceil_div(tiles, programs) * steps
