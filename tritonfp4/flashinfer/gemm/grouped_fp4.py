"""flashinfer's grouped GEMMs with FP4 weights."""

from __future__ import annotations

from typing import Any

import torch

from tritonfp4 import checks
from tritonfp4.checks import ArgumentError, DTypeError, ShapeError
from tritonfp4.flashinfer._support import core_backend, supported_everywhere
from tritonfp4.flashinfer.gemm import common
from tritonfp4.flashinfer.gemm.common import FP8_DTYPES, OURS, alpha_of_groups, as_bytes, chosen_dtype
from tritonfp4.formats import MXFP4, NVFP4, BlockFormat
from tritonfp4.layouts import LAYOUTS, SfLayout, ceil_div
from tritonfp4.tensor import BlockScaledTensor
from tritonfp4.verbs.grouped import call_grouped, check_groups, grouped_output
from tritonfp4.verbs.operand import ragged_rows

GROUP_FP4_BACKENDS = ("auto", *OURS)
SWIZZLED = SfLayout.layout_128x4


@supported_everywhere(GROUP_FP4_BACKENDS)
def group_gemm_mxfp8_mxfp4_nt_groupwise(
    a: torch.Tensor,
    b: torch.Tensor,
    a_scale: torch.Tensor,
    b_scale: torch.Tensor,
    m_indptr: torch.Tensor,
    mma_sm: int = 1,
    tile_m: int = 128,
    tile_n: int = 128,
    tile_k: int = 128,
    swap_ab: bool = True,
    out: torch.Tensor | None = None,
    out_dtype: torch.dtype | None = None,
    *,
    backend: str = "auto",
    debug: bool = False,
    skip_check: bool = False,
) -> torch.Tensor:
    """``a[rows of group g] @ b[g].T`` of MXFP8 activations and MXFP4 weights, for every group g of consecutive rows.

    Args:
        a: ``[cum_m, K]`` float8_e4m3fn or float8_e5m2; K a multiple of 128.
        b: ``[G, N, K / 2]`` uint8 or float4_e2m1fn_x2; N a multiple of 8.
        a_scale: e8m0 scale bytes of a in 128x4: those of group g begin at row ``s(g) = (m_indptr[g] + 127 * g) // 128 * 128``
            of a buffer of at least ``(cum_m + 127 * G) // 128 * 128`` rows of ``K / 32`` scales; 2-D or flat.
        b_scale: e8m0 scale bytes of b, ``[G, round_up(N, 128), K / 32]``, each matrix in 128x4.
        m_indptr: int32 ``[G + 1]``: group g is the rows ``m_indptr[g]`` to ``m_indptr[g + 1]``; any sizes, 0 included. The
            values of a CPU tensor are checked; bad ones of a CUDA tensor are clamped to the rows of a.
        mma_sm, tile_m, tile_n, tile_k, swap_ab: hints of the original, checked and ignored.
        out: ``[cum_m, N]``, unit last stride.
        out_dtype: bf16 (default, or that of `out`) or fp16.
        backend: ``"auto"``, ``"triton"`` (the kernels, also on CPU tensors in the interpreter) or ``"torch"``.
        debug: check the values of a CUDA `m_indptr`, too, with a synchronization.
        skip_check: skip the checks; what a wrong argument does then is undefined.

    Returns:
        ``[cum_m, N]``; `out` if that was given. Rows of no group are 0.

    Raises:
        ShapeError, DTypeError, ArgumentError, DeviceError, UnsupportedError, BackendError. Source of the convention:
        flashinfer 0.7.2 ``group_gemm_mxfp8_mxfp4_nt_groupwise``.
    """
    fn = "group_gemm_mxfp8_mxfp4_nt_groupwise"
    if not skip_check:
        checks.backend(fn, backend, GROUP_FP4_BACKENDS)
        checks.dtype(fn, "a", a, FP8_DTYPES, "a must be a float8_e4m3fn or float8_e5m2 tensor")
        _check_hints(fn, mma_sm=(mma_sm, (1, 2)), tile_m=(tile_m, (128,)), tile_n=(tile_n, (32, 64, 128, 192, 256)),
                     tile_k=(tile_k, (128, 256)), swap_ab=(swap_ab, (True, False)))  # fmt: skip
        _check(fn, a, b, a_scale, b_scale, m_indptr, None, MXFP4, out, out_dtype, debug)
    fmt = common.element_format(a, "mxfp8")
    left = BlockScaledTensor(as_bytes(a), _flat(a_scale), None, fmt, SWIZZLED, (a.shape[0], a.shape[1]))
    right = _weights(b, b_scale, None, MXFP4)
    return call_grouped(left, right, m_indptr, "indptr", out, chosen_dtype(out, out_dtype), core_backend(backend))


#: The name before flashinfer 0.2.11.
group_gemm_mxfp4_nt_groupwise = group_gemm_mxfp8_mxfp4_nt_groupwise


@supported_everywhere(GROUP_FP4_BACKENDS)
def group_gemm_nvfp4_nt_groupwise(
    a: torch.Tensor,
    b: torch.Tensor,
    a_scale: torch.Tensor,
    b_scale: torch.Tensor,
    m_indptr: torch.Tensor,
    alpha: torch.Tensor | None = None,
    tile_m: int = 128,
    tile_n: int = 128,
    tile_k: int = 128,
    swap_ab: bool = True,
    out: torch.Tensor | None = None,
    out_dtype: torch.dtype | None = None,
    *,
    backend: str = "auto",
    debug: bool = False,
    skip_check: bool = False,
) -> torch.Tensor:
    """``alpha[g] * a[rows of group g] @ b[g].T`` of NVFP4 operands, for every group g of consecutive rows.

    Args:
        a: ``[cum_m, K / 2]`` uint8 or float4_e2m1fn_x2; K a multiple of 128.
        b: ``[G, N, K / 2]``, likewise; N a multiple of 8.
        a_scale: e4m3 scale bytes of a in 128x4: those of group g begin at row ``s(g) = (m_indptr[g] + 127 * g) // 128 * 128``
            of a buffer of at least ``(cum_m + 127 * G) // 128 * 128`` rows of ``K / 16`` scales; 2-D or flat.
        b_scale: e4m3 scale bytes of b, ``[G, round_up(N, 128), K / 16]``, each matrix in 128x4.
        m_indptr: int32 ``[G + 1]``: group g is the rows ``m_indptr[g]`` to ``m_indptr[g + 1]``; any sizes, 0 included. The
            values of a CPU tensor are checked; bad ones of a CUDA tensor are clamped to the rows of a.
        alpha: fp32 ``[G]``: of each group the product of both decode multipliers; None or empty means 1.
        tile_m, tile_n, tile_k, swap_ab: hints of the original, checked and ignored.
        out: ``[cum_m, N]``, unit last stride.
        out_dtype: bf16 (default, or that of `out`) or fp16.
        backend: ``"auto"``, ``"triton"`` (the kernels, also on CPU tensors in the interpreter) or ``"torch"``.
        debug: check the values of a CUDA `m_indptr`, too, with a synchronization.
        skip_check: skip the checks; what a wrong argument does then is undefined.

    Returns:
        ``[cum_m, N]``; `out` if that was given. Rows of no group are 0.

    Raises:
        ShapeError, DTypeError, ArgumentError, DeviceError, UnsupportedError, BackendError. Source of the convention:
        flashinfer 0.7.2 ``group_gemm_nvfp4_nt_groupwise``.
    """
    fn = "group_gemm_nvfp4_nt_groupwise"
    if not skip_check:
        checks.backend(fn, backend, GROUP_FP4_BACKENDS)
        common.uint8_tensor(fn, "a", a, checks.FP4_DTYPES)
        _check_hints(fn, tile_m=(tile_m, (128,)), tile_n=(tile_n, (32, 64, 128)), tile_k=(tile_k, (128, 256)),
                     swap_ab=(swap_ab, (True, False)))  # fmt: skip
        _check(fn, a, b, a_scale, b_scale, m_indptr, alpha, NVFP4, out, out_dtype, debug)
    if alpha is not None and alpha.numel() == 0:
        alpha = None
    left = BlockScaledTensor(as_bytes(a), _flat(a_scale), None, NVFP4, SWIZZLED, (a.shape[0], 2 * a.shape[1]))
    right = _weights(b, b_scale, alpha, NVFP4)
    return call_grouped(left, right, m_indptr, "indptr", out, chosen_dtype(out, out_dtype), core_backend(backend))


def _flat(scales: torch.Tensor) -> torch.Tensor:
    return as_bytes(scales.reshape(-1))


def _weights(b: torch.Tensor, scales: torch.Tensor, alpha: torch.Tensor | None, fmt: BlockFormat) -> BlockScaledTensor:
    shape = (b.shape[0], b.shape[1], 2 * b.shape[2])
    return BlockScaledTensor(as_bytes(b), _flat(scales), alpha, fmt, SWIZZLED, shape, batched=True)


def _check_hints(fn: str, **hints: tuple[Any, tuple[Any, ...]]) -> None:
    for name, (value, wanted) in hints.items():
        if isinstance(value, bool) != isinstance(wanted[0], bool) or value not in wanted:
            text = f"one of {checks.names(wanted)}" if len(wanted) > 1 else str(wanted[0])
            raise ArgumentError(f"{fn}: {name} must be {text}, but got {value!r}")


def _check(
    fn: str, a: torch.Tensor, b: Any, a_scale: Any, b_scale: Any, m_indptr: Any, alpha: Any, fmt: BlockFormat, out: Any,
    out_dtype: Any, debug: bool,
) -> None:  # fmt: skip
    """What both functions ask for; `fmt` is the format of b."""
    common.uint8_tensor(fn, "b", b, checks.FP4_DTYPES)
    common.uint8_tensor(fn, "a_scale", a_scale, checks.SCALE_DTYPES[fmt.scale])
    common.uint8_tensor(fn, "b_scale", b_scale, checks.SCALE_DTYPES[fmt.scale])
    checks.dtype(fn, "m_indptr", m_indptr, (torch.int32,), "m_indptr must be a int32 tensor")
    packed = 2 if fmt.name == "nvfp4" else 1
    if a.ndim != 2 or b.ndim != 3 or packed * a.shape[1] != 2 * b.shape[2]:
        want = "a.shape[1] * 2 must equal k" if packed == 2 else "a.shape[1] must equal k"
        raise ShapeError(f"{fn}: {want} of b [G, N, k / 2], but got a.shape={tuple(a.shape)}, b.shape={tuple(b.shape)}")
    (count, n), rows, k = b.shape[:2], a.shape[0], 2 * b.shape[2]
    if m_indptr.ndim != 1 or m_indptr.shape[0] != count + 1:
        raise ShapeError(
            f"{fn}: b.shape[0] must equal num_groups (m_indptr.shape[0] - 1), but got b.shape[0]={count}, "
            f"m_indptr.shape={tuple(m_indptr.shape)}"
        )
    if alpha is not None:
        alpha_of_groups(fn, alpha, count)
    common.multiple(fn, "n", n, 8)
    common.multiple(fn, "k", k, 128)
    least = ragged_rows(rows, count)
    cols = LAYOUTS[SWIZZLED].storage_shape(1, ceil_div(k, fmt.vec))[1]
    if a_scale.ndim not in (1, 2) or a_scale.numel() < least * cols or a_scale.numel() % (128 * cols or 1):
        raise ShapeError(
            f"{fn}: a_scale size does not match: got shape {tuple(a_scale.shape)}, want at least {least} x {cols} scales in "
            f"layout_128x4, in whole tiles of 128 rows ({rows} rows in {count} groups), 2-D or flat"
        )
    common.swizzled_scales(fn, "b_scale", b_scale, fmt, n, k, count)
    checks.same_device(fn, a=a, b=b, a_scale=a_scale, b_scale=b_scale, m_indptr=m_indptr, alpha=alpha)
    check_groups(fn, "m_indptr", m_indptr, "indptr", count, rows, debug)
    _check_out(fn, out, out_dtype, (rows, n), a.device)


def _check_out(fn: str, out: Any, out_dtype: Any, shape: tuple[int, int], device: torch.device) -> None:
    if out is not None:
        checks.is_tensor(fn, "out", out)
    dtype = out_dtype or chosen_dtype(out, out_dtype)
    if dtype not in common.FP8_OUT_DTYPES:
        raise checks.UnsupportedTypeError(
            f"{fn}: Unsupported output dtype: out_dtype must be either torch.bfloat16 or torch.float16, but got {dtype}"
        )
    if out is None:
        return
    if tuple(out.shape) != shape:
        raise ShapeError(f"{fn}: Output shape mismatch: out.shape must be {shape}, but got {tuple(out.shape)}")
    if out.dtype != dtype:
        raise DTypeError(f"{fn}: Output dtype mismatch: out.dtype must be {dtype}, but got {out.dtype}")
    grouped_output(fn, out, shape, dtype, device)
