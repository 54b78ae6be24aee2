"""Every argument check, every error class, every error text.

A check takes the caller's public name first. A message reads ``function: argument ...: got X, want Y`` and keeps the
fragments of the original libraries' messages that their callers match on.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from typing import Any

import torch

from tritonfp4 import formats
from tritonfp4.layouts import LAYOUTS, SfLayout, flat_rows


class ArgumentError(AssertionError, ValueError):
    """An argument, or a combination of arguments, that has no meaning here."""


class ShapeError(ArgumentError):
    """A tensor of the wrong rank, shape, size or strides."""


class DTypeError(AssertionError, TypeError, ValueError):
    """A tensor of the wrong dtype, or an argument of the wrong type."""


class DeviceError(RuntimeError, ValueError):
    """Tensors on different devices, or on one that cannot run what was asked for."""


class UnsupportedError(NotImplementedError, ValueError):
    """A meaningful request that is not implemented."""


class BackendError(RuntimeError, ValueError):
    """An unknown backend, or one that cannot run here."""


#: Columns that a launch grid covers (65535 tiles of 128).
MAX_COLUMNS = 65535 * 128
#: Rows of the largest matrix that rotates.
MAX_ROTATION = 128
#: Dtypes that the quantizers read (flashinfer's with a given global scale also e4m3), and those that stand for a plain
#: (unquantized) GEMM operand.
INPUT_DTYPES = (torch.bfloat16, torch.float16, torch.float32)
INPUT_DTYPES_AND_E4M3 = (*INPUT_DTYPES, torch.float8_e4m3fn)
PLAIN_DTYPES = (torch.bfloat16, torch.float16)
FP4_DTYPES = (torch.uint8, torch.float4_e2m1fn_x2)
SCALE_DTYPES = {
    "e4m3": (torch.uint8, torch.float8_e4m3fn),
    "e8m0": (torch.uint8, torch.float8_e8m0fnu),
}


def names(values: Iterable[object]) -> str:
    """A list for an error message."""
    return ", ".join(str(v).removeprefix("torch.") for v in values)


def is_tensor(fn: str, arg: str, x: Any) -> None:
    """Refuse what is not a tensor."""
    if not isinstance(x, torch.Tensor):
        raise DTypeError(f"{fn}: {arg} must be a torch.Tensor, got {type(x).__name__}")


def dtype(fn: str, arg: str, x: torch.Tensor, wanted: Sequence[torch.dtype], text: str = "") -> None:
    """Refuse a tensor of another dtype; `text` is the original library's wording."""
    is_tensor(fn, arg, x)
    if x.dtype not in wanted:
        raise DTypeError(
            f"{fn}: {text or f'{arg} has an unsupported dtype'}: got {arg} of {names([x.dtype])}, want {names(wanted)}"
        )


def same_device(fn: str, **tensors: torch.Tensor | None) -> None:
    """Refuse tensors on different devices, by name."""
    first, device = "", None
    for name, t in tensors.items():
        if t is None:
            continue
        if device is None:
            first, device = name, t.device
        elif t.device != device:
            raise DeviceError(
                f"{fn}: {name} is on {t.device} but {first} is on {device}; all tensors must share one device"
            )


def choice(fn: str, arg: str, value: Any, wanted: Sequence[Any]) -> None:
    """Refuse a value that is not in the list."""
    if value not in wanted:
        raise ArgumentError(f"{fn}: {arg} is unknown: got {value!r}, want one of {names(wanted)}")


def layout(fn: str, arg: str, value: Any) -> SfLayout:
    """A scale layout, given as an `SfLayout` or by its number."""
    # No call of the enum class: torch 2.11 cannot trace it.
    if not isinstance(value, int) or value not in LAYOUTS:
        wanted = names([f"{kind.kind.name} ({int(kind.kind)})" for kind in LAYOUTS.values()])
        raise ArgumentError(f"{fn}: {arg} is unknown: got {value!r}, want one of {wanted}")
    return LAYOUTS[value].kind  # type: ignore[index]


def block_format(fn: str, arg: str, value: Any, wanted: Collection[str] = formats.FP4_FORMATS) -> formats.BlockFormat:
    """A format, given by name or object."""
    name = value.name if isinstance(value, formats.BlockFormat) else value
    if not isinstance(name, str) or name not in wanted:
        raise ArgumentError(f"{fn}: {arg} is unknown: got {value!r}, want one of {names(wanted)}")
    return formats.FORMATS[name]


def rule(fn: str, arg: str, value: Any, fmt: formats.BlockFormat) -> str:
    """Canonical name of a scale rule, checked against the format."""
    found = formats.RULE_ALIASES.get(str(getattr(value, "value", value)))
    if found is None:
        raise ArgumentError(f"{fn}: {arg} is unknown: got {value!r}, want one of {names(list(formats.RULE_ALIASES))}")
    if found not in formats.RULES[fmt.name]:
        kind = "MXFP4 quantization only supports the `always_6` and `always_4` scale rules"
        text = kind if fmt.name == "mxfp4" else f"{fmt.name} has no such rule"
        raise ArgumentError(f"{fn}: {text}: got {arg}={value!r}, want one of {names(formats.RULES[fmt.name])}")
    return found


def e4m3_max(fn: str, value: Any) -> int:
    """The range of the block scales, 256 or 448."""
    if value not in (256, 448):
        raise ArgumentError(f"{fn}: e4m3_max must be 256 or 448, got {value!r}")
    return int(value)


def rounding(fn: str, value: Any, fmt: formats.BlockFormat, rule: str, arg: str = "rounding") -> None:
    """Refuse an unknown rounding, and the unbiased one where it has no meaning."""
    choice(fn, arg, value, formats.ROUNDINGS)
    if value == "stochastic_unbiased" and (fmt.name, rule) != ("nvfp4", "static_6"):
        raise ArgumentError(
            f"{fn}: unbiased stochastic rounding exists for nvfp4 by `static_6` / `always_6` only: got {fmt.name} by {rule!r}"
        )


def seed(fn: str, value: Any, rounding: str) -> None:
    """Refuse a seed that is neither 64 bits nor a tensor of one int64, or that nothing would read."""
    if value is None:
        return
    if rounding == "nearest":
        raise ArgumentError(f"{fn}: seed has no meaning without stochastic rounding, got {value!r}")
    if isinstance(value, torch.Tensor):
        dtype(fn, "seed", value, (torch.int64,))
        if value.numel() != 1:
            raise ShapeError(f"{fn}: seed must have 1 element, got shape {tuple(value.shape)}")
    elif isinstance(value, bool) or not isinstance(value, (int, torch.SymInt)):
        raise DTypeError(f"{fn}: seed must be an int, an int64 tensor or None, got {type(value).__name__}")
    elif not -(2**63) <= value < 2**63:
        raise ArgumentError(f"{fn}: seed must fit in a signed 64-bit integer, got {value!r}")


def tile_2d(fn: str, arg: str, per_row: bool) -> None:
    """Refuse global scales by the row with block scales that several rows share."""
    if per_row:
        raise ArgumentError(
            f"{fn}: {arg}=True shares block scales between rows, so each row cannot have a global scale"
        )


def rotation(fn: str, had: Any, x: torch.Tensor, transpose: bool) -> None:
    """Refuse a matrix that cannot rotate x (x.T, if transposed) along K."""
    dtype(fn, "had", had, INPUT_DTYPES)
    if had.ndim != 2 or had.shape[0] != had.shape[1]:
        raise ShapeError(f"{fn}: H must be a square matrix: got had of shape {tuple(had.shape)}")
    h = had.shape[0]
    if h < 1 or h & (h - 1):
        raise ShapeError(f"{fn}: H must have dimensions that are a power of two: got had of shape {tuple(had.shape)}")
    if h > MAX_ROTATION:
        raise UnsupportedError(f"{fn}: had must have at most {MAX_ROTATION} rows, got shape {tuple(had.shape)}")
    dim = 0 if transpose else -1
    if x.shape[dim] % h:
        which = "first" if transpose else "second"
        raise ShapeError(
            f"{fn}: The {which} dimension of A ({x.shape[dim]}) must be divisible by the width of H ({h}): got x of shape "
            f"{tuple(x.shape)} and had of shape {tuple(had.shape)}"
        )


def quantizer_input(
    fn: str, arg: str, x: torch.Tensor, vec: int | None, wanted: Sequence[torch.dtype] = INPUT_DTYPES
) -> tuple[int, int]:
    """Rows and columns of a quantizer's input, leading dimensions flattened. `vec` None: any K."""
    is_tensor(fn, arg, x)
    if x.dtype not in wanted:
        raise UnsupportedTypeError(
            f"{fn}: {arg} has an unsupported dtype: got {names([x.dtype])}, want {names(wanted)}"
        )
    if x.ndim < 2:
        raise ShapeError(f"{fn}: {arg} must have at least 2 dimensions, got shape {tuple(x.shape)}")
    cols = x.shape[-1]
    if vec is not None and cols % vec:
        raise ShapeError(
            f"{fn}: the last dimension of {arg} must be a multiple of the block of {vec}, got shape {tuple(x.shape)}"
        )
    if cols > MAX_COLUMNS:
        raise ShapeError(f"{fn}: {arg} has more than {MAX_COLUMNS} columns, got shape {tuple(x.shape)}")
    return flat_rows(x.shape), cols


class UnsupportedTypeError(UnsupportedError, TypeError):
    """A dtype that is not implemented."""


def global_scale(fn: str, arg: str, scale: torch.Tensor, rows: int) -> None:
    """Refuse a global scale that is neither a scalar nor one for each row."""
    is_tensor(fn, arg, scale)
    if not scale.is_floating_point() or scale.element_size() < 2:
        raise DTypeError(f"{fn}: {arg} must be a float tensor, got {names([scale.dtype])}, want float32")
    if scale.numel() not in (1, rows):
        raise ShapeError(
            f"{fn}: {arg} must be a scalar, or one scale per row: got shape {tuple(scale.shape)}, want 1 or {rows} elements"
        )


def scale_buffer(
    fn: str, arg: str, scales: torch.Tensor, fmt: formats.BlockFormat, kind: SfLayout, rows: int, cols: int
) -> None:
    """A scale buffer of a [rows, cols] scale matrix: 2-D or flat, with exactly the bytes of its layout."""
    dtype(fn, arg, scales, SCALE_DTYPES[fmt.scale])
    want = LAYOUTS[kind].numel(rows, cols)
    if scales.ndim not in (1, 2) or scales.numel() != want:
        padded = LAYOUTS[kind].storage_shape(rows, cols)
        raise ShapeError(
            f"{fn}: {arg} size does not match: got shape {tuple(scales.shape)}, want {padded[0]} x {padded[1]} = {want} "
            f"scales ({rows} rows of {cols} scales in {kind.name}), 2-D or flat"
        )


def group_values(fn: str, arg: str, groups: torch.Tensor, mode: str, count: int, rows: int) -> None:
    """Refuse values of row groups that reach outside the operand; they are read, so a CUDA tensor synchronises."""
    if not groups.numel():
        return
    if mode == "indptr":
        bad = bool((groups[0] < 0) | (groups[-1] > rows) | (groups.diff() < 0).any())
        text = f"want offsets that never decrease, from 0 to at most the {rows} rows"
    elif mode == "indices":
        bad, text = bool(((groups < -1) | (groups >= count)).any()), f"want groups 0 to {count - 1}, or -1"
    else:
        bad, text = bool(((groups < 0) | (groups > rows)).any()), f"want row counts 0 to {rows}"
    if bad:
        raise ArgumentError(f"{fn}: {arg} has values out of range: got {groups.tolist()}, {text}")


def output(fn: str, out: torch.Tensor, shape: tuple[int, int], wanted: torch.dtype, device: torch.device) -> None:
    """Refuse an `out` only for its shape, dtype, device, a last stride that is not 1, or overlapping rows."""
    is_tensor(fn, "out", out)
    if tuple(out.shape) != tuple(shape):
        raise ShapeError(f"{fn}: Output shape mismatch: got out of shape {tuple(out.shape)}, want {tuple(shape)}")
    if out.dtype != wanted:
        raise DTypeError(f"{fn}: Output dtype mismatch: got out of {names([out.dtype])}, want {names([wanted])}")
    if out.device != device:
        raise DeviceError(f"{fn}: Output device mismatch: got out on {out.device}, want {device}")
    if shape[0] * shape[1] == 0:
        return
    if shape[1] > 1 and out.stride(-1) != 1:
        raise ShapeError(f"{fn}: out must have stride(-1) == 1, got strides {out.stride()}")
    if shape[0] > 1 and out.stride(0) < shape[1]:
        raise ShapeError(f"{fn}: the rows of out overlap: got strides {out.stride()}, want stride(0) >= {shape[1]}")


def no_gradient(fn: str, out: Any, *operands: torch.Tensor | None) -> None:
    """Refuse `out` for operands that require a gradient, as torch does: it would be lost without a word."""
    if out is None or not torch.is_grad_enabled():
        return
    for t in operands:
        if t is not None and t.requires_grad:
            raise UnsupportedError(f"{fn}: out= with an operand that requires a gradient; there is none to record")


def backend(fn: str, value: Any, wanted: Sequence[str]) -> None:
    """Refuse an unknown backend."""
    if value not in wanted:
        raise BackendError(f"{fn}: Unknown backend: {value!r}, want one of {names(wanted)}")


def out_dtype(fn: str, value: Any, wanted: Sequence[torch.dtype], arg: str = "out_dtype") -> None:
    """Refuse an unsupported output dtype."""
    if value not in wanted:
        raise UnsupportedTypeError(f"{fn}: Unsupported output dtype: got {arg}={value}, want one of {names(wanted)}")
