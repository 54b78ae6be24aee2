"""Products."""

from __future__ import annotations

import functools
from typing import Any

import torch

from tritonfp4 import checks, reference
from tritonfp4.autotune import Problem, select
from tritonfp4.config import Config
from tritonfp4.device import device_info
from tritonfp4.formats import FORMATS, FP8_1X128
from tritonfp4.layouts import LAYOUTS, SfLayout
from tritonfp4.ops.register import define, elementwise, use_kernels
from tritonfp4.tensor import BlockScaledTensor, assemble

_OPERAND = (
    "Tensor {0}, Tensor? {0}_scale, Tensor? {0}_global, str {0}_format, int {0}_layout, int {0}_shuffle, SymInt {0}_k"
)
_MATMUL = ", ".join(_OPERAND.format(name) for name in "ab")


def _operand(
    data: torch.Tensor,
    scale: torch.Tensor | None,
    global_scale: torch.Tensor | None,
    format: str,
    layout: int,
    shuffle: int,
    k: int,
) -> BlockScaledTensor | torch.Tensor:
    """Flat arguments -> the operand; format "" is a plain tensor."""
    if not format:
        return data
    fmt, batched = FORMATS[format], data.ndim == 3
    if fmt.scale == "":
        scale = data.new_empty(0)
    assert scale is not None
    codes = scale if fmt.scale in ("fp32", "") else scale.view(torch.uint8)
    kind = LAYOUTS[layout].kind  # type: ignore[index]  # an int equals and hashes as its member
    return assemble(data, codes, global_scale, fmt, kind, (*data.shape[:-1], k), shuffle, batched)


@functools.cache
def _products() -> Any:
    from tritonfp4.kernels import products

    return products


@functools.cache
def _hopper_operands() -> Any:
    from tritonfp4.kernels.hopper import operands

    return operands


@functools.cache
def _fragment_operands() -> Any:
    from tritonfp4.kernels.fragments import operands

    return operands


def _kind(t: BlockScaledTensor | torch.Tensor) -> str:
    if isinstance(t, BlockScaledTensor):
        return t.format.name
    return "bf16" if t.dtype == torch.bfloat16 else "fp16"


@functools.lru_cache(maxsize=4096)
def _selected(op: str, m: int, n: int, k: int, a: str, b: str, device: torch.device, tma: bool, pieces: bool) -> Config:
    return select(Problem(op, m, n, k, a, b, device_info(device), tma, pieces))


def _config(op: str, m: int, n: int, k: int, a: Any, b: Any, out: torch.Tensor, mode: str = "batch") -> Config:
    """What `select` chooses."""
    device, kind_a, kind_b = out.device, _kind(a), _kind(b)
    tma = pieces = False
    # with a group for every row a tile may meet several matrices: no loads for whole tiles
    if kind_a == "fp8_1x128" and kind_b == "fp8_128x128" and mode != "indices":
        tma = device_info(device).arch.mma == "wgmma" and _hopper_operands().tma_ready(a, b, out)
    elif op == "matmul" and kind_b in ("nvfp4", "mxfp4"):
        operands = _fragment_operands()
        pieces = operands.words_ready(a, b)
        tma = pieces and device_info(device).arch.mma == "wgmma" and operands.tiles_ready(a, b, out)
    elif mode != "indices" and kind_b in ("nvfp4", "mxfp4"):
        operands = _fragment_operands()
        pieces = operands.groups_ready(a, b)
        tma = pieces and device_info(device).arch.mma == "wgmma" and operands.group_tiles_ready(a, b, out)
    return _selected(op, m, n, k, kind_a, kind_b, device, tma, pieces)


def _matmul_into(a: Any, b: Any, out: torch.Tensor, backend: str) -> None:
    k = min(a.shape[-1], b.shape[-1])
    if out.numel() == 0:
        return
    if k == 0:
        out.zero_()
        return
    if not use_kernels("matmul", out, backend):
        reference.matmul(a, b, out)
        return
    config = _config("matmul", out.shape[0], out.shape[1], k, a, b, out)
    _products().multiply(a, b, out, config)


def _matmul(*args: Any) -> torch.Tensor:
    a, b, out_dtype, backend = _operand(*args[:7]), _operand(*args[7:14]), args[14], args[15]
    out = torch.empty((args[0].shape[0], args[7].shape[0]), dtype=out_dtype, device=args[0].device)
    _matmul_into(a, b, out, backend)
    return out


define(
    "matmul",
    f"({_MATMUL}, ScalarType out_dtype, str backend) -> Tensor",
    _matmul,
    lambda *args: args[0].new_empty((args[0].shape[0], args[7].shape[0]), dtype=args[14]),
)


def _matmul_out(*args: Any) -> None:
    _matmul_into(_operand(*args[:7]), _operand(*args[7:14]), args[15], args[14])


define("matmul_out", f"({_MATMUL}, str backend, Tensor(a!) out) -> ()", _matmul_out, lambda *args: None)


def _quantized_into(x: torch.Tensor, b: Any, out: torch.Tensor, backend: str) -> None:
    if not use_kernels("quantized_matmul", out, backend) or x.numel() == 0 or out.numel() == 0:
        values, scales = reference.quantize_fp8(x, "e4m3", FP8_1X128.block, "internal", 0.0, False, 0)
        a = assemble(values, scales, None, FP8_1X128, SfLayout.layout_linear, tuple(x.shape), 0, False)
        _matmul_into(a, b, out, backend)
        return
    products = _products()
    a = products.activations(x, elementwise("quantize", x, *x.shape))
    config = _config("matmul", out.shape[0], out.shape[1], x.shape[1], a, b, out)
    products.multiply(a, b, out, config, behind_activations=True)


def _quantized_matmul(*args: Any) -> torch.Tensor:
    x, b, out_dtype, backend = args[0], _operand(*args[1:8]), args[8], args[9]
    out = torch.empty((x.shape[0], args[1].shape[0]), dtype=out_dtype, device=x.device)
    _quantized_into(x, b, out, backend)
    return out


define(
    "quantized_matmul",
    f"(Tensor x, {_OPERAND.format('b')}, ScalarType out_dtype, str backend) -> Tensor",
    _quantized_matmul,
    lambda *args: args[0].new_empty((args[0].shape[0], args[1].shape[0]), dtype=args[8]),
)


def _quantized_matmul_out(*args: Any) -> None:
    _quantized_into(args[0], _operand(*args[1:8]), args[9], args[8])


define(
    "quantized_matmul_out",
    f"(Tensor x, {_OPERAND.format('b')}, str backend, Tensor(a!) out) -> ()",
    _quantized_matmul_out,
    lambda *args: None,
)


# ---- groups --------------------------------------------------------------------------------------------------------


def _grouped_into(a: Any, b: Any, groups: torch.Tensor | None, mode: str, out: torch.Tensor, backend: str) -> None:
    k = min(a.shape[-1], b.shape[-1])
    if out.numel() == 0:
        return
    if k == 0 or b.shape[0] == 0:
        out.zero_()
        return
    if not use_kernels("grouped_matmul", out, backend):
        if groups is not None and not groups.is_cuda:  # also in a compiled graph, where the verb cannot
            name = {"indptr": "m_indptr", "indices": "m_indices", "masked": "masked_m"}[mode]
            rows = a.shape[-2] if mode == "masked" else a.shape[0]
            checks.group_values("grouped_matmul", name, groups, mode, b.shape[0], rows)
        reference.grouped_matmul(a, b, groups, mode, out)
        return
    rows = out.shape[-2] if mode in ("batch", "masked") else -(-out.shape[0] // b.shape[0])
    config = _config("grouped", rows, out.shape[-1], k, a, b, out, mode)
    groups = None if groups is None else groups.contiguous()
    _products().multiply_groups(a, b, groups, mode, out, config)


def _grouped_shape(*args: Any) -> tuple[int, ...]:
    return (*args[0].shape[:-1], args[7].shape[1])


def _grouped_matmul(*args: Any) -> torch.Tensor:
    out = torch.empty(_grouped_shape(*args), dtype=args[16], device=args[0].device)
    _grouped_into(_operand(*args[:7]), _operand(*args[7:14]), args[14], args[15], out, args[17])
    return out


define(
    "grouped_matmul",
    f"({_MATMUL}, Tensor? groups, str grouping, ScalarType out_dtype, str backend) -> Tensor",
    _grouped_matmul,
    lambda *args: args[0].new_empty(_grouped_shape(*args), dtype=args[16]),
)


def _grouped_matmul_out(*args: Any) -> None:
    _grouped_into(_operand(*args[:7]), _operand(*args[7:14]), args[14], args[15], args[17], args[16])


define(
    "grouped_matmul_out",
    f"({_MATMUL}, Tensor? groups, str grouping, str backend, Tensor(a!) out) -> ()",
    _grouped_matmul_out,
    lambda *args: None,
)
