"""Launcher of the Hopper kernel: descriptors of the operands, and what they ask of memory."""

from __future__ import annotations

import torch
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.nvidia.hopper import TensorDescriptor

from tritonfp4.config import Config
from tritonfp4.device import device_info
from tritonfp4.kernels.hopper.matmul_fp8 import matmul_fp8_hopper_kernel
from tritonfp4.kernels.launch import on_device
from tritonfp4.layouts import ceil_div
from tritonfp4.tensor import BlockScaledTensor

MODES = {"batch": 0, "masked": 1, "indptr": 2}
ROWS = 64
PAIR = 1
OCC = 1


class _Shifted:
    """A tensor's address moved by some bytes: the base of a descriptor that is entered at a positive offset."""

    def __init__(self, tensor: torch.Tensor, offset: int) -> None:
        self.dtype, self._address = tensor.dtype, tensor.data_ptr() + offset

    def data_ptr(self) -> int:
        return self._address


def output_descriptor(out: torch.Tensor, block_n: int) -> TensorDescriptor:
    """Rows [R, N] as [R + 64, 64, N], the first two dimensions one row apart, 64 rows before the output.

    A tile of 64 rows of which the first v are to be stored begins at (row + v, 64 - v): the others lie outside the middle
    dimension, which ends at 64.
    """
    rows, n = out.shape
    stride = out.stride(0)
    layout = gl.NVMMASharedLayout.get_default_for([1, ROWS, block_n], _gl_dtype(out.dtype))
    base = _Shifted(out, -ROWS * stride * out.element_size())
    return TensorDescriptor(base, [rows + ROWS, ROWS, n], [stride, stride, 1], [1, ROWS, block_n], layout)


def _gl_dtype(dtype: torch.dtype) -> gl.dtype:
    return {torch.bfloat16: gl.bfloat16, torch.float16: gl.float16, torch.float8_e4m3fn: gl.float8e4nv}[dtype]


def _rows(t: torch.Tensor) -> torch.Tensor:
    """[G, rows, K] as [G * rows, K]."""
    return t.flatten(0, 1) if t.ndim == 3 else t


def matmul_fp8_hopper(
    a: BlockScaledTensor, b: BlockScaledTensor, groups: torch.Tensor | None, mode: str, out: torch.Tensor, config: Config
) -> None:
    """Launcher; as `tritonfp4.reference.grouped_matmul`. Dense operands are a batch of one."""
    bm, bn = config.block_m, config.block_n
    warpgroups = config.num_warps // 4 - 1
    ksplit = 64 * warpgroups // bm
    rows = a.shape[-2] if mode in ("batch", "masked") else a.shape[0]
    n, k = b.shape[-2], min(a.shape[-1], b.shape[-1])
    count = b.shape[0] if b.batched else 1
    values = [_rows(t.values).view(torch.float8_e4m3fn) for t in (a, b)]
    a_scales = a.scales if a.scales.stride(-1) == 1 and a.scales.shape[-1] > 1 or mode == "indptr" else a.scales.transpose(-1, -2)
    by_k = a_scales is a.scales
    a_scales = _rows(a_scales)
    b_scales = _rows(b.scales)
    plain = gl.NVMMASharedLayout(0, 32, 2)
    box = bm
    while box > 8 and box // 2 >= rows: box //= 2
    swizzled = gl.NVMMASharedLayout(128, 8, 2)
    descs = [
        TensorDescriptor.from_tensor(values[0], [box, 128], swizzled),
        TensorDescriptor.from_tensor(a_scales, [bm, 4] if by_k else [1, bm], plain),
        TensorDescriptor.from_tensor(values[1], [bn, 128], swizzled),
        TensorDescriptor.from_tensor(b_scales, [1, 4], plain),
        output_descriptor(_rows(out), bn),
    ]
    tiles_n = ceil_div(n, bn)
    tiles = (ceil_div(rows, bm) + count + 2 if mode == "indptr" else ceil_div(rows, bm) * count) * tiles_n
    programs = min(tiles, device_info(out.device).sm_count * OCC)
    with on_device(out):
        matmul_fp8_hopper_kernel[(programs,)](
            *descs, groups if groups is not None else out, count, rows, n, k, MODE=MODES[mode], SINGLE=count == 1,
            GROUP=0 if rows <= bm and mode != "indptr" else config.group_m, BY_K=by_k, PAIR=PAIR, BOX_M=box,
            KSPLIT=ksplit, STAGES=config.num_stages, BLOCK_M=bm, BLOCK_N=bn, WARPGROUPS=warpgroups, num_warps=4,
            maxnreg=128 if warpgroups == 1 else 168,
        )  # fmt: skip
