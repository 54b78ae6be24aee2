"""Launcher of the Hopper kernel. Its plain Triton twin is `tritonfp4.kernels.matmul_fp8.matmul_fp8`."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import torch
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.nvidia.hopper import TensorDescriptor

from tritonfp4.config import Config
from tritonfp4.device import device_info
from tritonfp4.kernels.hopper.matmul_fp8 import matmul_fp8_hopper_kernel
from tritonfp4.kernels.hopper.operands import k_major, m_major, row_stride
from tritonfp4.kernels.hopper.scales import spread_scales
from tritonfp4.kernels.launch import Launches, on_device
from tritonfp4.layouts import ceil_div
from tritonfp4.tensor import BlockScaledTensor

MODES = {"batch": 0, "masked": 1, "indptr": 2}
#: Rows of a warpgroup's part of a tile.
ROWS = 64
#: The kernel may be launched before the one before it is done (programmatic dependent launch). It waits before it reads
#: anything, or, right behind the quantizer of its activations, before it reads those.
WAITS, WEIGHTS_FIRST = 1, 2
#: Stages asked for before the warps take up their roles; with WEIGHTS_FIRST the weights of as many as there are.
AHEAD = 8
#: Rows this many bytes apart meet in the same channels of memory: then not all programs start at the same column.
COLLIDING = 8192
#: The smallest box of rows that TMA loads into swizzled memory.
SMALLEST_BOX = 8
#: The box of rows of groups.
CUT_BOX = 32

_SWIZZLED = gl.NVMMASharedLayout(128, 8, 2)
_PLAIN = gl.NVMMASharedLayout(0, 32, 2)
_DTYPES = {torch.bfloat16: gl.bfloat16, torch.float16: gl.float16}

_launch = Launches(matmul_fp8_hopper_kernel)


class Base:
    """What a descriptor asks of a tensor."""

    __slots__ = ("address", "dtype")

    def __init__(self, address: int, dtype: torch.dtype) -> None:
        self.address = address
        self.dtype = dtype

    def data_ptr(self) -> int:
        return self.address


def descriptor(
    base: torch.Tensor | Base, shape: Sequence[int], strides: Sequence[int], block: list[int], layout: Any
) -> TensorDescriptor:
    """A descriptor without Triton's look at it, which takes longer than all else: `tma_ready` has looked already."""
    made = TensorDescriptor.__new__(TensorDescriptor)
    made.base = base
    made.shape = shape
    made.strides = strides
    made.block_shape = block
    made.layout = layout
    return made


def _values(t: BlockScaledTensor, k: int, block: int) -> TensorDescriptor:
    """Elements [.., rows, K] as one matrix; what lies behind K in memory is read as zeros."""
    x = t.values
    size = x.shape
    rows = size[0] if len(size) == 2 else size[0] * size[1]
    return descriptor(Base(x.data_ptr(), torch.float8_e4m3fn), [rows, k], [x.stride(-2), 1], [block, 128], _SWIZZLED)


def _scales(x: torch.Tensor, turned: bool, block: list[int]) -> TensorDescriptor:
    """Scales as `k_major` or (`turned`) `m_major` gives them, without a view if they need not be copied."""
    stride = row_stride(x, turned)
    if stride:
        columns = x.shape[-2 if turned else -1]
        return descriptor(x, [x.numel() // columns, columns], [stride, 1], block, _PLAIN)
    x = m_major(x) if turned else k_major(x)
    return descriptor(x, x.shape, x.stride(), block, _PLAIN)


@functools.cache
def _output_layout(block_n: int, dtype: torch.dtype) -> gl.NVMMASharedLayout:
    return gl.NVMMASharedLayout.get_default_for([1, ROWS, block_n], _DTYPES[dtype])


def _output(out: torch.Tensor, block_n: int) -> TensorDescriptor:
    """Rows [R, N] as [R + 64, 64, N], the first two dimensions one row apart, beginning 64 rows before the output.

    A tile of 64 rows of which the first v are to be stored begins at (row + v, 64 - v): the others lie behind the end of the
    middle dimension. So the rows of a ragged group end where they should, without a mask.
    """
    size, stride, dtype = out.shape, out.stride(-2), out.dtype
    n, rows = size[-1], size[0] if len(size) == 2 else size[0] * size[1]
    first = out.data_ptr() - ROWS * stride * out.element_size()
    shape, strides = [rows + ROWS, ROWS, n], [stride, stride, 1]
    return descriptor(Base(first, dtype), shape, strides, [1, ROWS, block_n], _output_layout(block_n, dtype))


def _boxes(rows: int, block_m: int, cut: bool) -> tuple[int, int]:
    """Rows of the boxes in which TMA loads a tile, and how many there are. `cut`: tiles may hold fewer rows than the operand has;
    boxes without data are left out."""
    box = block_m
    while box > SMALLEST_BOX and box // 2 >= rows:
        box //= 2
    return (CUT_BOX, box // CUT_BOX) if cut and box > CUT_BOX else (box, 1)


def _ahead(k: int, config: Config, shares: int, early: int) -> int:
    """Stages of the first tile to ask for at once, none that it does not have."""
    steps = ceil_div(k, 256 * shares) * 2 * shares
    return min(steps, config.num_stages, AHEAD * config.pair if early == WAITS else steps) // config.pair


def matmul_fp8_hopper(
    a: BlockScaledTensor,
    b: BlockScaledTensor,
    groups: torch.Tensor | None,
    mode: str,
    out: torch.Tensor,
    config: Config,
    early: int = WAITS,
) -> None:
    """Launcher; as `tritonfp4.reference.grouped_matmul`. Dense operands are a batch of one.

    `early` is WEIGHTS_FIRST only if the launch before this one on the stream makes `a`, does not write `b`, and began when all
    before it was done.

    Operands must be `tma_ready`. The config's warps are those of the warpgroups that multiply and four for the one that
    loads; warpgroups beyond one for every 64 rows share K.
    """
    if early == WEIGHTS_FIRST and not row_stride(b.scales, False):
        early = WAITS  # the launch before this one will be a copy of the scales of b
    block_m, block_n = config.block_m, config.block_n
    warpgroups = config.num_warps // 4 - 1
    rows = a.shape[-2]
    n, k = b.shape[-2], min(a.shape[-1], b.shape[-1])
    count = b.shape[0] if b.batched else 1
    a_scales, counter = a.scales, out  # only ragged groups have a counter
    if mode == "indptr":
        assert groups is not None
        a_scales, counter = spread_scales(a_scales, groups)
    box, boxes = _boxes(rows, block_m, mode != "batch")
    shares = ROWS * warpgroups // block_m
    tiles_m, tiles_n = ceil_div(rows, block_m), ceil_div(n, block_n)
    tiles = (tiles_m + count + 2 if mode == "indptr" else tiles_m * count) * tiles_n
    # MODE, SINGLE, GROUP, KSPLIT, PAIR, ROTATE, STAGES, BLOCK_M, BLOCK_N, BOX_M, BOXES, WARPGROUPS, EARLY, AHEAD
    constants = (
        MODES[mode], count == 1, 0 if tiles_m == 1 and mode != "indptr" else config.group_m, shares,
        config.pair, k % COLLIDING == 0, config.num_stages, block_m, block_n, box, boxes, warpgroups, early,
        _ahead(k, config, shares, early) if mode == "batch" else 0,
    )  # fmt: skip
    if groups is None:
        groups = out  # not read
    key = (constants, out.dtype, groups.dtype, groups.data_ptr() % 16, n, k, rows >> 31, count >> 31)
    descriptors = (
        _values(a, k, box), _scales(a_scales, mode != "indptr", [1, max(box * boxes, 4)]), _values(b, k, 64 if block_n == 192 else block_n),
        _scales(b.scales, False, [ceil_div(block_n, 128), 4]), _output(out, 64 if block_n > 128 else block_n),
    )  # fmt: skip
    with on_device(out):
        _launch(
            key, out.get_device(), min(tiles, device_info(out.device).sm_count),
            (*descriptors, groups, counter, count, rows, n, k, *constants), num_warps=4,
            maxnreg=128 if warpgroups == 1 else 168, launch_pdl=True,
        )  # fmt: skip
