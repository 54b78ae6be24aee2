"""What flashinfer's FP8 and grouped GEMMs share: operands from their arguments, and checks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from tritonfp4 import checks
from tritonfp4.checks import ArgumentError, DTypeError, ShapeError
from tritonfp4.formats import FORMATS, BlockFormat
from tritonfp4.layouts import LAYOUTS, SfLayout, ceil_div
from tritonfp4.verbs.matmul import Flat

FP8_DTYPES = (torch.float8_e4m3fn, torch.float8_e5m2)
FP8_OUT_DTYPES = (torch.bfloat16, torch.float16)
#: Every GEMM also takes these names: the kernels (on CPU tensors in the interpreter), and the reference.
OURS = ("triton", "torch")
LINEAR = int(SfLayout.layout_linear)
GRANULARITIES = ((1, 128, 128), (128, 128, 128))


def as_bytes(x: torch.Tensor) -> torch.Tensor:
    """The same tensor as uint8, strides kept."""
    return x if x.dtype == torch.uint8 else x.view(torch.uint8)


def chosen_dtype(out: torch.Tensor | None, out_dtype: torch.dtype | None) -> torch.dtype:
    """The output dtype: that of `out`, else the one asked for, else bf16."""
    return out.dtype if out is not None else out_dtype or torch.bfloat16


def element_format(x: torch.Tensor, name: str) -> BlockFormat:
    """The format of this name for FP8 elements of x's dtype."""
    return FORMATS[name + ("_e5m2" if x.dtype == torch.float8_e5m2 else "")]


def fp8_arguments(x: torch.Tensor, scales: torch.Tensor, block_rows: int) -> Flat:
    """FP8 ``[R, K]`` or ``[G, R, K]`` with fp32 scales ``[.., ceil(R / block_rows), ceil(K / 128)]`` of any strides, as the
    operators take it: an eager call of a small product is mostly host time, and a `BlockScaledTensor` costs some."""
    name = element_format(x, "fp8_128x128" if block_rows == 128 else "fp8_1x128").name
    return as_bytes(x), scales, None, name, LINEAR, 0, x.shape[-1]


def scale_shape(rows: int, k: int, block_rows: int, major: str = "K", lead: tuple[int, ...] = ()) -> tuple[int, ...]:
    """Shape of the fp32 scales of [rows, k]; with major "MN" its last two dimensions are exchanged."""
    blocks, columns = ceil_div(rows, block_rows), ceil_div(k, 128)
    return (*lead, blocks, columns) if major == "K" else (*lead, columns, blocks)


def fp8_tensors(fn: str, **tensors: Any) -> None:
    """Refuse operands that are not e4m3 or e5m2."""
    for name, x in tensors.items():
        if not isinstance(x, torch.Tensor) or x.dtype not in FP8_DTYPES:
            checks.dtype(fn, name, x, FP8_DTYPES, f"{name} must be a float8 tensor")


def fp32_tensors(fn: str, **tensors: Any) -> None:
    """Refuse scales that are not fp32."""
    for name, x in tensors.items():
        if not isinstance(x, torch.Tensor) or x.dtype != torch.float32:
            checks.dtype(fn, name, x, (torch.float32,), f"{name} must be a float32 tensor")


def fp32_scales(fn: str, arg: str, scales: torch.Tensor, want: tuple[int, ...], major: str = "K") -> None:
    """Refuse fp32 scales of another shape."""
    fp32_tensors(fn, **{arg: scales})
    if scales.shape != want:
        raise ShapeError(
            f"{fn}: Shape mismatch. {arg}.shape = {tuple(scales.shape)}, want {tuple(want)} ({major}-major, one scale for "
            "128 elements along K)"
        )


def group_operands(fn: str, a: torch.Tensor, b: torch.Tensor, lead: int = 2) -> None:
    """Refuse operands that are not a ``[M, K]`` (``[G, M, K]`` with `lead` 3) and b ``[G, N, K]``."""
    if b.ndim != 3 or a.ndim != lead:
        want = "[M, K]" if lead == 2 else "[G, M, K]"
        raise ShapeError(
            f"{fn}: Shape mismatch. a must be {want} and b [G, N, K], got {tuple(a.shape)} and {tuple(b.shape)}"
        )
    if a.shape[-1] != b.shape[-1]:
        raise ShapeError(f"{fn}: Shape mismatch. a.shape[{lead - 1}] = {a.shape[-1]}, k = {b.shape[-1]}")
    if lead == 3 and a.shape[0] != b.shape[0]:
        raise ShapeError(f"{fn}: num_groups mismatch. a.shape[0] = {a.shape[0]}, b.shape[0] = {b.shape[0]}")


def granularity(fn: str, value: Any) -> int:
    """Rows of a that share a scale."""
    given = tuple(value) if isinstance(value, (tuple, list)) else value
    if given not in GRANULARITIES:
        raise ArgumentError(f"{fn}: scale_granularity_mnk is unknown: got {value!r}, want one of {GRANULARITIES}")
    return int(given[0])


def multiple(fn: str, arg: str, value: int, of: int) -> None:
    """Refuse a size that is no multiple."""
    if value % of:
        raise ShapeError(f"{fn}: {arg} must be a multiple of {of}, but got {value}")


def mma_sm(fn: str, value: Any) -> None:
    """Refuse what the original refuses of this hint."""
    if isinstance(value, bool) or value not in (1, 2):
        raise ArgumentError(f"{fn}: mma_sm must be either 1 or 2, but got {value!r}")


def major_mode(fn: str, value: Any) -> None:
    """Refuse an unknown major mode."""
    if value not in ("MN", "K"):
        raise ArgumentError(f"{fn}: scale_major_mode must be either 'MN' or 'K', but got {value!r}")


def gemm_out_dtype(fn: str, value: Any, kind: str = "FP8", arg: str = "out_dtype") -> None:
    """Refuse an unsupported output dtype in flashinfer's words."""
    if value not in FP8_OUT_DTYPES:
        raise checks.UnsupportedTypeError(
            f"{fn}: Unsupported output dtype: {value}. Only torch.bfloat16 and torch.float16 are supported for {kind} GEMM "
            f"operations, got {arg}={value!r}"
        )


def swizzled_scales(
    fn: str, arg: str, scales: torch.Tensor, fmt: BlockFormat, rows: int, k: int, count: int, hint: str = ""
) -> None:
    """Refuse 128x4 scale bytes of `count` matrices ``[rows, k]``, one after the other, of another size."""
    each = LAYOUTS[SfLayout.layout_128x4].storage_shape(rows, ceil_div(k, fmt.vec))
    want = each[0] * each[1] * count
    if scales.ndim < 1 or scales.numel() != want:
        raise ShapeError(
            f"{fn}: {arg} size does not match: got shape {tuple(scales.shape)}, want {count} x {each[0]} x {each[1]} = {want} "
            f"scales in layout_128x4 ({rows} rows of {ceil_div(k, fmt.vec)} scales each, padded on their own){hint}"
        )


def uint8_tensor(fn: str, arg: str, x: Any, wanted: Sequence[torch.dtype]) -> None:
    """Refuse what is neither uint8 nor another view of the same bytes."""
    checks.dtype(fn, arg, x, wanted, f"{arg} must be a uint8 tensor")


def alpha_of_groups(fn: str, alpha: Any, count: int) -> None:
    """Refuse an alpha that is neither empty nor one fp32 number for each group."""
    checks.is_tensor(fn, "alpha", alpha)
    if alpha.dtype != torch.float32:
        raise DTypeError(f"{fn}: alpha must be a float32 tensor or None, but got {alpha.dtype}")
    if alpha.numel() != 0 and tuple(alpha.shape) != (count,):
        raise ShapeError(
            f"{fn}: alpha must be a empty or have shape {(count,)}, but got alpha.shape={tuple(alpha.shape)}"
        )
