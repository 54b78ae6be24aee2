"""Launcher of the Hopper kernel. Its plain Triton twin is `tritonfp4.kernels.matmul_fp8.matmul_fp8`."""

from __future__ import annotations

import torch
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.nvidia.hopper import TensorDescriptor

from tritonfp4.config import Config
from tritonfp4.device import device_info
from tritonfp4.kernels.hopper.matmul_fp8 import matmul_fp8_hopper_kernel
from tritonfp4.kernels.hopper.operands import as_rows, k_major, m_major
from tritonfp4.kernels.hopper.scales import spread_scales
from tritonfp4.kernels.launch import on_device
from tritonfp4.layouts import ceil_div
from tritonfp4.tensor import BlockScaledTensor

MODES = {"batch": 0, "masked": 1, "indptr": 2}
#: Rows of a warpgroup's part of a tile.
ROWS = 64
#: Rows this many bytes apart meet in the same channels of memory: then not all programs start at the same column.
COLLIDING = 8192
#: The smallest box of rows that TMA loads: rows behind the operand cost time, too.
SMALLEST_BOX = 8

_SWIZZLED = gl.NVMMASharedLayout(128, 8, 2)
_PLAIN = gl.NVMMASharedLayout(0, 32, 2)
_DTYPES = {torch.bfloat16: gl.bfloat16, torch.float16: gl.float16}


class _Before:
    """A tensor as the base of a descriptor that begins `rows` rows before it (and is entered at a positive offset)."""

    def __init__(self, tensor: torch.Tensor, rows: int) -> None:
        self.dtype = tensor.dtype
        self._address = tensor.data_ptr() - rows * tensor.stride(0) * tensor.element_size()

    def data_ptr(self) -> int:
        return self._address


def _output(out: torch.Tensor, block_n: int) -> TensorDescriptor:
    """Rows [R, N] as [R + 64, 64, N], the first two dimensions one row apart, beginning 64 rows before the output.

    A tile of 64 rows of which the first v are to be stored begins at (row + v, 64 - v): the others lie behind the end of the
    middle dimension. So the rows of a ragged group end where they should, without a mask.
    """
    (rows, n), stride = out.shape, out.stride(0)
    layout = gl.NVMMASharedLayout.get_default_for([1, ROWS, block_n], _DTYPES[out.dtype])
    return TensorDescriptor(
        _Before(out, ROWS), [rows + ROWS, ROWS, n], [stride, stride, 1], [1, ROWS, block_n], layout
    )  # fmt: skip


def _box(rows: int, block_m: int) -> int:
    """Rows that TMA loads into a tile."""
    box = block_m
    while box > SMALLEST_BOX and box // 2 >= rows:
        box //= 2
    return box


def matmul_fp8_hopper(
    a: BlockScaledTensor, b: BlockScaledTensor, groups: torch.Tensor | None, mode: str, out: torch.Tensor, config: Config
) -> None:
    """Launcher; as `tritonfp4.reference.grouped_matmul`. Dense operands are a batch of one.

    Operands must be `tma_ready`. The config's warps are those of the warpgroups that multiply and four for the one that
    loads; warpgroups beyond one for every 64 rows share K.
    """
    block_m, block_n = config.block_m, config.block_n
    warpgroups = config.num_warps // 4 - 1
    rows = a.shape[-2]
    n, k = b.shape[-2], min(a.shape[-1], b.shape[-1])
    count = b.shape[0] if b.batched else 1
    if mode == "indptr":
        assert groups is not None
        a_scales = spread_scales(a.scales, groups)
    else:
        a_scales = m_major(a.scales)
    box = _box(rows, block_m)
    values = [as_rows(t.values).view(torch.float8_e4m3fn) for t in (a, b)]
    tiles_m, tiles_n = ceil_div(rows, block_m), ceil_div(n, block_n)
    tiles = (tiles_m + count + 2 if mode == "indptr" else tiles_m * count) * tiles_n
    with on_device(out):
        matmul_fp8_hopper_kernel[(min(tiles, device_info(out.device).sm_count),)](
            TensorDescriptor.from_tensor(values[0], [box, 128], _SWIZZLED),
            TensorDescriptor.from_tensor(a_scales, [1, block_m], _PLAIN),
            TensorDescriptor.from_tensor(values[1], [block_n, 128], _SWIZZLED),
            TensorDescriptor.from_tensor(k_major(b.scales), [1, 4], _PLAIN),
            _output(as_rows(out), block_n), out if groups is None else groups, count, rows, n, k,
            MODE=MODES[mode], SINGLE=count == 1, GROUP=0 if tiles_m == 1 and mode != "indptr" else config.group_m,
            KSPLIT=ROWS * warpgroups // block_m, PAIR=config.pair, ROTATE=k % COLLIDING == 0, STAGES=config.num_stages,
            BLOCK_M=block_m, BLOCK_N=block_n, BOX_M=box, WARPGROUPS=warpgroups,
            num_warps=4, maxnreg=128 if warpgroups == 1 else 168,
        )  # fmt: skip
