"""The torch operators: schemas, fakes, and dispatch. Flat tensors, ints and strings only; formats cross by name.

CPU tensors run `reference`; CUDA tensors run what `autotune.select` chose. ``backend`` is "auto", "torch" (the reference on
any device) or "triton" (the kernels; on CPU tensors in Triton's interpreter). Kernels are imported on first use.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from tritonfp4 import reference
from tritonfp4.autotune import Problem, select
from tritonfp4.checks import BackendError, ShapeError, UnsupportedError
from tritonfp4.config import Config
from tritonfp4.device import device_info
from tritonfp4.formats import FORMATS, scale_range
from tritonfp4.layouts import SfLayout, as_layout, ceil_div, flat_rows
from tritonfp4.tensor import BlockScaledTensor

_lib = torch.library.Library("tritonfp4", "FRAGMENT")  # the reference keeps the operators registered


def _define(name: str, schema: str, run: Callable[..., Any], fake: Callable[..., Any]) -> None:
    """Register an operator that has no gradient: a backward pass through its results raises."""
    _lib.define(f"{name}{schema}")
    for key in ("CPU", "CUDA"):
        _lib.impl(name, torch.no_grad()(run), key)
    torch.library.register_fake(f"tritonfp4::{name}", fake, lib=_lib)
    if not schema.endswith("()"):

        def backward(ctx: Any, *grads: Any) -> Any:
            raise UnsupportedError(f"tritonfp4::{name} has no gradient; quantized operands are for inference")

        torch.library.register_autograd(f"tritonfp4::{name}", backward, lib=_lib)


def _use_kernels(name: str, tensor: torch.Tensor, backend: str) -> bool:
    """Whether an op on this tensor runs the kernels (else the reference)."""
    if backend == "torch" or (backend == "auto" and not tensor.is_cuda):
        return False
    try:
        from tritonfp4.kernels import launch
    except ImportError as error:
        raise BackendError(f"tritonfp4::{name}: the kernels need Triton ({error}); backend='torch' does not") from error
    if not tensor.is_cuda and not launch.INTERPRETED:
        raise BackendError(
            f"tritonfp4::{name}: backend='triton' on CPU tensors runs the kernels in Triton's interpreter, which needs "
            "TRITON_INTERPRET=1 in the environment before Triton is imported; use backend='torch' or 'auto' otherwise"
        )
    return True


def _elementwise(op: str, x: torch.Tensor, rows: int, cols: int) -> Config:
    return select(Problem(op, rows, 0, cols, "", "", device_info(x.device)))


# ---- quantize ------------------------------------------------------------------------------------------------------


def _quantize(
    x: torch.Tensor,
    global_scale: torch.Tensor | None,
    out_scale: torch.Tensor | None,
    format: str,
    rule: str,
    e4m3_max: int,
    scale_from: str,
    layout: int,
    pad: bool,
    backend: str,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    flat = x.reshape(flat_rows(x.shape), x.shape[-1])
    args = (flat, global_scale, out_scale, FORMATS[format], rule, e4m3_max, scale_from, SfLayout(layout), pad)
    if _use_kernels("quantize", x, backend) and flat.numel():
        from tritonfp4.kernels.quantize import quantize as launcher

        config = _elementwise("quantize", x, *flat.shape)
        values, scales, decode = launcher(*args, config, _elementwise("amax", x, *flat.shape))
    else:
        values, scales, decode = reference.quantize(*args)
    return values if pad else values.reshape(*x.shape[:-1], x.shape[-1] // 2), scales, decode


def _quantize_fake(
    x: torch.Tensor,
    global_scale: torch.Tensor | None,
    out_scale: torch.Tensor | None,
    format: str,
    rule: str,
    e4m3_max: int,
    scale_from: str,
    layout: int,
    pad: bool,
    backend: str,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    fmt, kind = FORMATS[format], as_layout(layout)
    rows, cols = flat_rows(x.shape), x.shape[-1]
    scale_rows, scale_cols = kind.storage_shape(rows, ceil_div(cols, fmt.vec))
    shape = (scale_rows, scale_cols * fmt.vec // 2) if pad else (*x.shape[:-1], cols // 2)
    per_row = scale_from == "row" or (global_scale is not None and scale_from != "none" and global_scale.numel() != 1)
    count = rows if per_row and fmt.two_level else 1
    return (
        x.new_empty(shape, dtype=torch.uint8),
        x.new_empty(scale_rows * scale_cols, dtype=torch.uint8),
        x.new_empty(count, dtype=torch.float32),
    )


_define(
    "quantize",
    "(Tensor x, Tensor? global_scale, Tensor? out_scale, str format, str rule, int e4m3_max, str scale_from, int layout, "
    "bool pad, str backend) -> (Tensor, Tensor, Tensor)",
    _quantize,
    _quantize_fake,
)


def _nvfp4_global_scale(x: torch.Tensor, rule: str, e4m3_max: int, backend: str) -> torch.Tensor:
    flat = x.reshape(flat_rows(x.shape), x.shape[-1])
    largest = scale_range(rule, e4m3_max)
    if _use_kernels("nvfp4_global_scale", x, backend) and flat.numel():
        from tritonfp4.kernels.quantize import global_encode_scale

        return global_encode_scale(flat, largest, _elementwise("amax", x, *flat.shape))
    return reference.global_encode_scale(flat, largest)


_define(
    "nvfp4_global_scale",
    "(Tensor x, str rule, int e4m3_max, str backend) -> Tensor",
    _nvfp4_global_scale,
    lambda x, rule, e4m3_max, backend: x.new_empty(1, dtype=torch.float32),
)


# ---- dequantize ----------------------------------------------------------------------------------------------------


def _dequantize(
    values: torch.Tensor,
    scales: torch.Tensor,
    global_scale: torch.Tensor | None,
    format: str,
    layout: int,
    row_shuffle: int,
    shape: list[int],
    dtype: torch.dtype,
    zero_code: bool,
    backend: str,
) -> torch.Tensor:
    fmt, codes = FORMATS[format], scales.view(torch.uint8)
    t = BlockScaledTensor(values, codes, global_scale, fmt, SfLayout(layout), tuple(shape), row_shuffle)
    if codes.numel() != t.scale_layout.numel(t.rows, t.scale_cols) or 2 * values.numel() < t.rows * t.cols:
        raise ShapeError(
            f"dequantize: {values.numel()} bytes and {codes.numel()} scales do not hold {tuple(shape)} in {format}"
        )
    if _use_kernels("dequantize", values, backend):
        from tritonfp4.kernels.dequantize import dequantize as launcher

        out = launcher(t, dtype, zero_code, _elementwise("dequantize", values, t.rows, t.cols))
    else:
        out = reference.dequantize(t, dtype, zero_code)
    return out.reshape(shape)


_define(
    "dequantize",
    "(Tensor values, Tensor scales, Tensor? global_scale, str format, int layout, int row_shuffle, SymInt[] shape, "
    "ScalarType dtype, bool zero_code, str backend) -> Tensor",
    _dequantize,
    lambda values, scales, global_scale, format, layout, row_shuffle, shape, dtype, zero_code, backend: (
        values.new_empty(shape, dtype=dtype)
    ),
)


# ---- layouts -------------------------------------------------------------------------------------------------------


def _relayout(
    scales: torch.Tensor, shape: list[int], source: int, target: int, row_shuffle: int, backend: str
) -> torch.Tensor:
    batch, rows, cols = shape
    args = (scales, batch, rows, cols, SfLayout(source), SfLayout(target), row_shuffle)
    if _use_kernels("relayout", scales, backend):
        from tritonfp4.kernels.relayout import relayout as launcher

        return launcher(*args, _elementwise("relayout", scales, rows, cols))
    return reference.relayout(*args)


def _relayout_fake(
    scales: torch.Tensor, shape: list[int], source: int, target: int, row_shuffle: int, backend: str
) -> torch.Tensor:
    return scales.new_empty(shape[0] * as_layout(target).numel(shape[1], shape[2]))


_define(
    "relayout",
    "(Tensor scales, SymInt[] shape, int source, int target, int row_shuffle, str backend) -> Tensor",
    _relayout,
    _relayout_fake,
)


def _relayout_out(
    scales: torch.Tensor, shape: list[int], source: int, target: int, row_shuffle: int, backend: str, out: torch.Tensor
) -> None:
    out.copy_(_relayout(scales, shape, source, target, row_shuffle, backend))


_define(
    "relayout_out",
    "(Tensor scales, SymInt[] shape, int source, int target, int row_shuffle, str backend, Tensor(a!) out) -> ()",
    _relayout_out,
    lambda scales, shape, source, target, row_shuffle, backend, out: None,
)


def _shuffle_rows(x: torch.Tensor, block: int, backend: str) -> torch.Tensor:
    flat = x.reshape(x.shape[0], -1) if x.numel() else x.reshape(x.shape[0], 0)
    if _use_kernels("shuffle_rows", x, backend):
        from tritonfp4.kernels.relayout import shuffle_rows as launcher

        return launcher(flat, block, _elementwise("shuffle", x, *flat.shape)).reshape(x.shape)
    return reference.shuffle_rows(flat, block).reshape(x.shape)


_define(
    "shuffle_rows",
    "(Tensor x, int block, str backend) -> Tensor",
    _shuffle_rows,
    lambda x, block, backend: x.new_empty(x.shape),
)


# ---- matmul --------------------------------------------------------------------------------------------------------

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
    if not _use_kernels("matmul", out, backend):
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


_define(
    "matmul",
    f"({_MATMUL}, ScalarType out_dtype, str backend) -> Tensor",
    _matmul,
    lambda *args: args[0].new_empty((args[0].shape[0], args[7].shape[0]), dtype=args[14]),
)


def _matmul_out(*args: Any) -> None:
    _matmul_into(_operand(*args[:7]), _operand(*args[7:14]), args[15], args[14])


_define("matmul_out", f"({_MATMUL}, str backend, Tensor(a!) out) -> ()", _matmul_out, lambda *args: None)
