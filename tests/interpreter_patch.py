"""Corrections to Triton's CPU interpreter, for tests only (Triton 3.6 to 3.9).

The stock interpreter (TRITON_INTERPRET=1) truncates or mis-rounds float casts, multiplies bf16 values as
integers, has no usable ``tl.dot_scaled`` and no inline assembly. ``install()`` replaces exactly those parts:

    cast_impl, create_fp_to_fp     float casts through torch: nearest even, saturating fp8, inf and nan kept
    create_dot                     bf16 and fp8 operands through float32
    create_dot_scaled              e2m1/e4m3/e5m2/bf16/fp16 values, e8m0 or e4m3 scales, any group size
    create_inline_asm              a registry of numpy emulations, see ``register_asm``
    create_maxnumf, minnumf,       ignore nan like max.f32 and min.f32 (3.6 and 3.7 propagate it)
    create_clampf
    unary/binary/ternary_op,       raise on bf16/fp8 arithmetic and reductions instead of computing on the
    reductions and scans           bit patterns
    tensor.__index__, __int__      runtime loop bounds with numpy >= 2.4

``installed()`` is the same for the length of a ``with`` block. The package's own kernels do not need the patch, except
the native block-scaled GEMM (and, on Triton 3.6 with numpy 2.4 or newer, every loop with a runtime bound).
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
import triton.language as tl
from triton.language.semantic import TritonSemantic
from triton.runtime import interpreter as interp

Handle = interp.TensorHandle

_TORCH = {
    tl.float8e4nv: torch.float8_e4m3fn,
    tl.float8e5: torch.float8_e5m2,
    tl.float16: torch.float16,
    tl.bfloat16: torch.bfloat16,
    tl.float32: torch.float32,
    tl.float64: torch.float64,
}
_FP8_MAX = {tl.float8e4nv: 448.0, tl.float8e5: 57344.0}
_NO_NUMPY = (tl.bfloat16, tl.float8e4nv, tl.float8e5)  # stored as plain unsigned integers
_BITS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
_E2M1 = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6, -0.0, -0.5, -1, -1.5, -2, -3, -4, -6], np.float32)


# ---- storage <-> torch -------------------------------------------------------------------------------------


def _to_torch(data: np.ndarray, dtype: tl.dtype) -> torch.Tensor:
    kind = _TORCH[dtype]
    raw = np.ascontiguousarray(data).view(f"u{kind.itemsize}").copy()
    return torch.from_numpy(raw.view(f"i{kind.itemsize}")).view(kind).reshape(data.shape)


def _to_numpy(value: torch.Tensor, dtype: tl.dtype) -> np.ndarray:
    raw = value.contiguous().view(_BITS[value.element_size()]).numpy()
    return raw.view(interp._get_np_dtype(dtype)).reshape(tuple(value.shape))


def _to_float32(handle: Handle) -> np.ndarray:
    return _to_torch(handle.data, handle.dtype.scalar).float().numpy()


# ---- casts -------------------------------------------------------------------------------------------------


def _float_cast(src: Handle, dst: tl.dtype) -> Handle:
    """Round to nearest even; fp8 saturates like cvt.rn.satfinite, nan stays nan."""
    value = _to_torch(src.data, src.dtype.scalar)
    if dst in _FP8_MAX:
        value = value.float()
        value = torch.where(value.isnan(), value, value.clamp(-_FP8_MAX[dst], _FP8_MAX[dst]))
    return Handle(_to_numpy(value.to(_TORCH[dst]), dst), dst)


_stock_cast_impl = interp.InterpreterBuilder.cast_impl
_stock_fp_to_fp = interp.InterpreterBuilder.create_fp_to_fp


def _cast_impl(self: Any, src: Handle, dst_type: tl.dtype) -> Handle:
    s, d = src.dtype.scalar, dst_type.scalar
    if s in _TORCH and d in _TORCH and (s in _NO_NUMPY or d in _NO_NUMPY):
        return _float_cast(src, d)
    if s in _NO_NUMPY:  # to an integer
        return _stock_cast_impl(self, _float_cast(src, tl.float32), dst_type)
    if d in _NO_NUMPY:  # from an integer
        return _float_cast(_stock_cast_impl(self, src, tl.float32), d)
    return _stock_cast_impl(self, src, dst_type)


def _create_fp_to_fp(self: Any, src: Handle, dst_type: tl.dtype, rounding_mode: Any) -> Handle:
    nearest = rounding_mode in (None, interp._ir.ROUNDING_MODE.RTNE)
    if nearest and src.dtype.scalar in _TORCH and dst_type.scalar in _TORCH:
        return _float_cast(src, dst_type.scalar)
    return _stock_fp_to_fp(self, src, dst_type, rounding_mode)


# ---- matmuls -----------------------------------------------------------------------------------------------

_stock_dot = interp.InterpreterBuilder.create_dot


def _create_dot(self: Any, a: Handle, b: Handle, acc: Handle, *rest: Any) -> Handle:
    if a.dtype.scalar not in _NO_NUMPY and b.dtype.scalar not in _NO_NUMPY:
        return _stock_dot(self, a, b, acc, *rest)
    product = np.matmul(_to_float32(a), _to_float32(b)).astype(acc.data.dtype)
    return Handle(product + acc.data, acc.dtype.scalar)


def _unpack_e2m1(data: np.ndarray, axis: int) -> np.ndarray:
    """Two values per byte along `axis`, low nibble first."""
    last = np.moveaxis(data.view(np.uint8), axis, -1)
    codes = np.stack([last & 15, last >> 4], -1).reshape(*last.shape[:-1], -1)
    return np.moveaxis(_E2M1[codes], -1, axis)


def _scaled_operand(value: Handle, scale: Handle | None, fmt: Any, k_pack: bool, is_rhs: bool) -> np.ndarray:
    kinds = interp._ir.ScaleDotElemTypeTY
    k_axis = -2 if is_rhs else -1
    if fmt == kinds.E2M1:
        out = _unpack_e2m1(value.data, k_axis if k_pack else -3 - k_axis)
    else:
        dtype = {kinds.E4M3: tl.float8e4nv, kinds.E5M2: tl.float8e5, kinds.BF16: tl.bfloat16, kinds.FP16: tl.float16}[
            fmt
        ]
        out = _to_torch(value.data, dtype).float().numpy()
    if scale is None:
        return out
    if scale.dtype.scalar == tl.float8e4nv:  # NVFP4
        factor = _to_float32(scale)
    else:  # E8M0 exponent bytes
        code = scale.data.view(np.uint8)
        factor = np.ldexp(np.float32(1), code.astype(np.int32) - 127).astype(np.float32)
        factor = np.where(code == 255, np.float32(np.nan), factor)
    factor = np.repeat(factor, out.shape[k_axis] // factor.shape[-1], -1)  # scales are [rows, K / group] on both sides
    return out * (np.swapaxes(factor, -1, -2) if is_rhs else factor)


def _create_dot_scaled(self, lhs, lhs_scale, lhs_fmt, rhs, rhs_scale, rhs_fmt, fast_math, lhs_k_pack, rhs_k_pack, acc):
    a = _scaled_operand(lhs, lhs_scale, lhs_fmt, lhs_k_pack, False)
    b = _scaled_operand(rhs, rhs_scale, rhs_fmt, rhs_k_pack, True)
    return Handle((np.matmul(a, b) + acc.data).astype(np.float32), tl.float32)


class _Format(str):
    """A format name that also answers ``.value``: Triton 3.6 and 3.7 read it as a constexpr."""

    @property
    def value(self) -> str:
        return str(self)


_stock_semantic_dot_scaled = TritonSemantic.dot_scaled


def _semantic_dot_scaled(self, lhs, lhs_scale, lhs_fmt, rhs, rhs_scale, rhs_fmt, *rest, **kw):
    def name(f):
        return _Format(f.value if isinstance(f, tl.constexpr) else f)

    return _stock_semantic_dot_scaled(self, lhs, lhs_scale, name(lhs_fmt), rhs, rhs_scale, name(rhs_fmt), *rest, **kw)


# ---- inline assembly ---------------------------------------------------------------------------------------

_ASM: dict[str, Callable[..., Any]] = {}


def register_asm(fragment: str, emulate: Callable[..., Any]) -> None:
    """Run ``emulate(*operands)`` for every inline_asm_elementwise whose text contains `fragment`.

    Operands are whole numpy arrays in the order of the asm arguments; return one array, or a tuple of arrays for
    several outputs. bf16 and fp8 operands arrive as uint16 and uint8. The longest matching fragment wins.
    """
    _ASM[fragment] = emulate


class _AsmResult:
    def __init__(self, handles: list[Handle]) -> None:
        self._handles = handles

    def get_result(self, index: int) -> Handle:
        return self._handles[index]


def _create_inline_asm(self, asm, constraints, values, types, is_pure, pack):
    found = [f for f in _ASM if f in asm]
    if not found:
        raise NotImplementedError(f"no emulation registered for inline asm: {asm[:80]!r}")
    out = _ASM[max(found, key=len)](*(v.data for v in values))
    out = out if isinstance(out, tuple) else (out,)
    kinds = [t.scalar for t in types]
    return _AsmResult(
        [Handle(np.asarray(o).astype(interp._get_np_dtype(t)), t) for o, t in zip(out, kinds, strict=False)]
    )


def e2m1_rn(x: np.ndarray) -> np.ndarray:
    """float32 -> e2m1 codes as cvt.rn.satfinite.e2m1x2.f32: nearest even, saturating, -0 kept, nan -> +6."""
    mag, code = np.abs(x), np.zeros(x.shape, np.uint8)
    for bound, inclusive in ((0.25, 0), (0.75, 1), (1.25, 0), (1.75, 1), (2.5, 0), (3.5, 1), (5.0, 0)):
        code += (mag >= bound) if inclusive else (mag > bound)
    return np.where(np.isnan(x), 7, code | (np.signbit(x).astype(np.uint8) << 3)).astype(np.uint8)


# ---- arithmetic on types that numpy does not have ----------------------------------------------------------


def _refuse(dtype: tl.dtype, op: str) -> None:
    if dtype.scalar in _NO_NUMPY:
        raise TypeError(f"{op} on {dtype.scalar}: convert to float32 first, the interpreter cannot compute on it")


def _guarded(stock: Callable[..., Handle]) -> Callable[..., Handle]:
    """Wrap unary_op, binary_op or ternary_op: (*operands, numpy function)."""

    def run(self: Any, *args: Any) -> Handle:
        *operands, op = args
        if op is not np.where:  # selecting moves bits only
            _refuse(operands[-1].dtype, op.__name__)
        return stock(self, *args)

    return run


_unary_op = _guarded(interp.InterpreterBuilder.unary_op)
_binary_op = _guarded(interp.InterpreterBuilder.binary_op)
_ternary_op = _guarded(interp.InterpreterBuilder.ternary_op)
_stock_check_tensor = interp.ReduceScanOpInterface.check_tensor


def _check_tensor(self: Any, args: Any) -> None:
    _stock_check_tensor(self, args)
    for arg in args:
        _refuse(arg.dtype, "reduce or scan")


# ---- maximum, minimum, clamp -------------------------------------------------------------------------------

_stock_clampf = interp.InterpreterBuilder.create_clampf


def _create_maxnumf(self: Any, lhs: Handle, rhs: Handle) -> Handle:
    return self.binary_op(lhs, rhs, np.fmax)


def _create_minnumf(self: Any, lhs: Handle, rhs: Handle) -> Handle:
    return self.binary_op(lhs, rhs, np.fmin)


def _create_clampf(self: Any, arg: Handle, low: Handle, high: Handle, propagate_nans: Any) -> Handle:
    if propagate_nans == interp._ir.PROPAGATE_NAN.ALL:
        return _stock_clampf(self, arg, low, high, propagate_nans)
    return self.binary_op(self.binary_op(arg, low, np.fmax), high, np.fmin)


# ---- scalars as loop bounds --------------------------------------------------------------------------------

_stock_patch_lang_tensor = interp._patch_lang_tensor


def _patch_lang_tensor(tensor: Any, *scope: Any) -> Any:
    out = _stock_patch_lang_tensor(tensor, *scope)
    set_attr = scope[0].set_attr if scope else setattr
    for name in ("__index__", "__int__"):
        set_attr(tensor, name, lambda self: int(self.handle.data.reshape(-1)[0]))
    return out


def _replacements() -> list[tuple[Any, str, Any]]:
    builder = interp.InterpreterBuilder
    return [
        (builder, "cast_impl", _cast_impl),
        (builder, "create_fp_to_fp", _create_fp_to_fp),
        (builder, "create_dot", _create_dot),
        (builder, "create_dot_scaled", _create_dot_scaled),
        (builder, "create_inline_asm", _create_inline_asm),
        (builder, "unary_op", _unary_op),
        (builder, "binary_op", _binary_op),
        (builder, "ternary_op", _ternary_op),
        (interp.ReduceScanOpInterface, "check_tensor", _check_tensor),
        (builder, "create_maxnumf", _create_maxnumf),
        (builder, "create_minnumf", _create_minnumf),
        (builder, "create_clampf", _create_clampf),
        (TritonSemantic, "dot_scaled", _semantic_dot_scaled),
        (interp, "_patch_lang_tensor", _patch_lang_tensor),
    ]


def install() -> None:
    """Apply every correction. Calling it again changes nothing."""
    for owner, name, replacement in _replacements():
        setattr(owner, name, replacement)


@contextlib.contextmanager
def installed() -> Iterator[None]:
    """Apply every correction inside the block."""
    before = [(owner, name, owner.__dict__.get(name)) for owner, name, _ in _replacements()]
    install()
    try:
        yield
    finally:
        for owner, name, stock in before:
            delattr(owner, name) if stock is None else setattr(owner, name, stock)
