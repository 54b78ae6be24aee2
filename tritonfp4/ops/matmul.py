"""Products."""

from __future__ import annotations

from typing import Any

import torch

from tritonfp4 import reference
from tritonfp4.autotune import Problem, select
from tritonfp4.device import device_info
from tritonfp4.formats import FORMATS
from tritonfp4.layouts import SfLayout
from tritonfp4.ops.register import define, use_kernels
from tritonfp4.tensor import BlockScaledTensor

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
    assert scale is not None
    codes = scale.view(torch.uint8)
    return BlockScaledTensor(data, codes, global_scale, FORMATS[format], SfLayout(layout), (data.shape[0], k), shuffle)


def _kind(t: BlockScaledTensor | torch.Tensor) -> str:
    if isinstance(t, BlockScaledTensor):
        return t.format.name
    return "bf16" if t.dtype == torch.bfloat16 else "fp16"


def _matmul_into(a: Any, b: Any, out: torch.Tensor, backend: str) -> None:
    k = min(t.shape[-1] for t in (a, b))
    if out.numel() == 0:
        return
    if k == 0:
        out.zero_()
        return
    if not use_kernels("matmul", out, backend):
        reference.matmul(a, b, out)
        return
    from tritonfp4.kernels.matmul_scaled import matmul_scaled
    from tritonfp4.kernels.matmul_upcast import matmul_dequantize, matmul_upcast

    launchers = {"native": matmul_scaled, "upcast": matmul_upcast, "dequantize": matmul_dequantize}
    config = select(Problem("matmul", out.shape[0], out.shape[1], k, _kind(a), _kind(b), device_info(out.device)))
    launchers[config.path](a, b, out, config)


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
