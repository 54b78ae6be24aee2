"""flashinfer's grouped and masked FP8 GEMMs with fp32 scales."""

from __future__ import annotations

from typing import Any

import torch

from tritonfp4 import checks
from tritonfp4.checks import ArgumentError, DTypeError, ShapeError
from tritonfp4.flashinfer._support import core_backend, supported_everywhere
from tritonfp4.flashinfer.gemm.common import (
    OURS,
    chosen_dtype,
    fp8_arguments,
    fp8_tensors,
    fp32_scales,
    fp32_tensors,
    gemm_out_dtype,
    granularity,
    group_operands,
    major_mode,
    mma_sm,
    multiple,
    scale_shape,
)
from tritonfp4.verbs.grouped import call_grouped, check_groups, grouped_output

GROUP_BACKENDS = ("trtllm", "cutile", "cutlass", "auto", *OURS)
DEEPGEMM_BACKENDS = ("deepgemm", "cake", "auto", *OURS)


@supported_everywhere(GROUP_BACKENDS)
def group_gemm_fp8_nt_groupwise(
    a: torch.Tensor,
    b: torch.Tensor,
    a_scale: torch.Tensor,
    b_scale: torch.Tensor,
    m_indptr: torch.Tensor,
    scale_granularity_mnk: tuple[int, int, int] = (1, 128, 128),
    scale_major_mode: str = "MN",
    mma_sm: int = 1,
    out: torch.Tensor | None = None,
    out_dtype: torch.dtype | None = None,
    backend: str = "trtllm",
    segment_alignment: int = 1,
    *,
    debug: bool = False,
    skip_check: bool = False,
) -> torch.Tensor:
    """``a[rows of group g] @ b[g].T`` in FP8 for every group g of consecutive rows.

    Args:
        a: ``[cum_m, K]`` float8_e4m3fn or float8_e5m2; K a multiple of 16.
        b: ``[G, N, K]``, either of the two; weights, N a multiple of 8.
        a_scale: fp32 decode multipliers ``[ceil(cum_m / rows), ceil(K / 128)]`` (K-major) or its transpose (MN-major), rows
            being the first number of `scale_granularity_mnk`, counted over all of a; any strides.
        b_scale: fp32 decode multipliers ``[G, ceil(N / 128), ceil(K / 128)]`` or with the last two exchanged.
        m_indptr: int32 ``[G + 1]``: group g is the rows ``m_indptr[g]`` to ``m_indptr[g + 1]``; any sizes, 0 included. The
            values of a CPU tensor are checked. Those of a CUDA tensor are never read on the host: bad ones are clamped to
            the rows of a, which gives wrong rows, but no access to other memory.
        scale_granularity_mnk: ``(1, 128, 128)`` or ``(128, 128, 128)``.
        scale_major_mode: "MN" or "K", named after the fastest dimension of contiguous scales.
        mma_sm: 1 or 2, a hint that is ignored.
        out: ``[cum_m, N]``, unit last stride.
        out_dtype: bf16 (default, or that of `out`) or fp16.
        backend: flashinfer's names (all the same here), ``"triton"`` (the kernels, also on CPU tensors in the interpreter)
            or ``"torch"``.
        segment_alignment: a promise about `m_indptr`, at least 1, that is ignored.
        debug: check the values of a CUDA `m_indptr`, too, with a synchronization.
        skip_check: skip the checks; what a wrong argument does then is undefined.

    Returns:
        ``[cum_m, N]``; `out` if that was given. Rows of no group are 0.

    Raises:
        ShapeError, DTypeError, ArgumentError, DeviceError, UnsupportedError, BackendError. Source of the convention:
        flashinfer 0.7.2 ``group_gemm_fp8_nt_groupwise``.
    """
    fn = "group_gemm_fp8_nt_groupwise"
    if not skip_check:
        checks.backend(fn, backend, GROUP_BACKENDS)
        _check_group(fn, a, b, a_scale, b_scale, m_indptr, scale_granularity_mnk, scale_major_mode, mma_sm,
                     segment_alignment, debug)  # fmt: skip
        _check_group_out(fn, out, out_dtype, (a.shape[0], b.shape[1]), a.device)
    if scale_major_mode == "MN":
        a_scale, b_scale = a_scale.t(), b_scale.transpose(1, 2)
    left, right = fp8_arguments(a, a_scale, scale_granularity_mnk[0]), fp8_arguments(b, b_scale, 128)
    dtype = chosen_dtype(out, out_dtype)
    return call_grouped(left, right, m_indptr, "indptr", out, dtype, core_backend(backend))


def _check_group(
    fn: str, a: Any, b: Any, a_scale: Any, b_scale: Any, m_indptr: Any, granularity_mnk: Any, major: Any, hint: Any,
    alignment: Any, debug: bool,
) -> None:  # fmt: skip
    if isinstance(alignment, bool) or not isinstance(alignment, int) or alignment < 1:
        raise ArgumentError(f"{fn}: segment_alignment must be >= 1, but got {alignment!r}")
    fp8_tensors(fn, a=a, b=b)
    fp32_tensors(fn, a_scale=a_scale, b_scale=b_scale)
    checks.dtype(fn, "m_indptr", m_indptr, (torch.int32,), "m_indptr must be a int32 tensor")
    major_mode(fn, major)
    mma_sm(fn, hint)
    block_rows = granularity(fn, granularity_mnk)
    group_operands(fn, a, b)
    count, n, k = b.shape
    multiple(fn, "n", n, 8)
    multiple(fn, "k", k, 16)
    fp32_scales(fn, "a_scale", a_scale, scale_shape(a.shape[0], k, block_rows, major), major)
    fp32_scales(fn, "b_scale", b_scale, scale_shape(n, k, 128, major, (count,)), major)
    checks.same_device(fn, a=a, b=b, a_scale=a_scale, b_scale=b_scale, m_indptr=m_indptr)
    check_groups(fn, "m_indptr", m_indptr, "indptr", count, a.shape[0], debug)


def _check_group_out(fn: str, out: Any, out_dtype: Any, shape: tuple[int, int], device: torch.device) -> None:
    if out is not None:
        checks.is_tensor(fn, "out", out)
    gemm_out_dtype(fn, out_dtype or chosen_dtype(out, out_dtype))
    if out is None:
        return
    if tuple(out.shape) != shape:
        raise ShapeError(f"{fn}: Shape mismatch. out.shape = {tuple(out.shape)}, (a.shape[0], n) = {shape}")
    if out_dtype is not None and out.dtype != out_dtype:
        raise DTypeError(f"{fn}: dtype mismatch. out.dtype = {out.dtype}, out_dtype = {out_dtype}")
    gemm_out_dtype(fn, out.dtype, arg="out.dtype")
    grouped_output(fn, out, shape, out.dtype, device)


@supported_everywhere(DEEPGEMM_BACKENDS)
def group_deepgemm_fp8_nt_groupwise(
    a: torch.Tensor,
    b: torch.Tensor,
    a_scale: torch.Tensor,
    b_scale: torch.Tensor,
    m_indices: torch.Tensor,
    scale_granularity_mnk: tuple[int, int, int] = (1, 128, 128),
    out: torch.Tensor | None = None,
    out_dtype: torch.dtype | None = None,
    *,
    backend: str = "auto",
    debug: bool = False,
    skip_check: bool = False,
) -> torch.Tensor:
    """``a[m] @ b[m_indices[m]].T`` in FP8 for every row m.

    Args:
        a: ``[M, K]`` float8_e4m3fn or float8_e5m2; any K.
        b: ``[G, N, K]``, either of the two; weights.
        a_scale: fp32 decode multipliers ``[ceil(M / rows), ceil(K / 128)]``, rows being the first number of
            `scale_granularity_mnk`; any strides.
        b_scale: fp32 decode multipliers ``[G, ceil(N / 128), ceil(K / 128)]``.
        m_indices: int32 ``[M]``: the group of every row, in any order (rows of a group side by side are fast); -1 for none.
            The values of a CPU tensor are checked; others of a CUDA tensor count as -1.
        scale_granularity_mnk: ``(1, 128, 128)`` or ``(128, 128, 128)``.
        out: ``[M, N]`` bf16 or fp16, unit last stride; its dtype counts.
        out_dtype: bf16 (default) or fp16.
        backend: ``"auto"``, ``"triton"`` (the kernels, also on CPU tensors in the interpreter) or ``"torch"``.
        debug: check the values of a CUDA `m_indices`, too, with a synchronization.
        skip_check: skip the checks; what a wrong argument does then is undefined.

    Returns:
        ``[M, N]``; `out` if that was given. Rows of no group are 0.

    Raises:
        ShapeError, DTypeError, ArgumentError, DeviceError, UnsupportedError, BackendError. Source of the convention:
        flashinfer 0.7.2 ``group_deepgemm_fp8_nt_groupwise``.
    """
    args = (a, b, a_scale, b_scale, m_indices, "indices", scale_granularity_mnk, out, out_dtype, backend, debug)
    return _deepgemm("group_deepgemm_fp8_nt_groupwise", "m_indices", *args, skip_check)


@supported_everywhere(DEEPGEMM_BACKENDS)
def batch_deepgemm_fp8_nt_groupwise(
    a: torch.Tensor,
    b: torch.Tensor,
    a_scale: torch.Tensor,
    b_scale: torch.Tensor,
    masked_m: torch.Tensor,
    expected_m: int,
    scale_granularity_mnk: tuple[int, int, int] = (1, 128, 128),
    out: torch.Tensor | None = None,
    out_dtype: torch.dtype | None = None,
    backend: str = "deepgemm",
    *,
    debug: bool = False,
    skip_check: bool = False,
) -> torch.Tensor:
    """``a[g][:masked_m[g]] @ b[g].T`` in FP8 for every group g.

    Args:
        a: ``[G, M, K]`` float8_e4m3fn or float8_e5m2; any K.
        b: ``[G, N, K]``, either of the two; weights.
        a_scale: fp32 decode multipliers ``[G, ceil(M / rows), ceil(K / 128)]``, rows being the first number of
            `scale_granularity_mnk`; any strides.
        b_scale: fp32 decode multipliers ``[G, ceil(N / 128), ceil(K / 128)]``.
        masked_m: int32 ``[G]``: how many rows of each matrix of a count. The values of a CPU tensor are checked; those of a
            CUDA tensor are clamped to 0 .. M.
        expected_m: a hint that is ignored.
        scale_granularity_mnk: ``(1, 128, 128)`` or ``(128, 128, 128)``.
        out: ``[G, M, N]`` bf16 or fp16, unit last stride; its dtype counts.
        out_dtype: bf16 (default) or fp16.
        backend: flashinfer's names (all the same here), ``"triton"`` (the kernels, also on CPU tensors in the interpreter)
            or ``"torch"``.
        debug: check the values of a CUDA `masked_m`, too, with a synchronization.
        skip_check: skip the checks; what a wrong argument does then is undefined.

    Returns:
        ``[G, M, N]``; `out` if that was given. Rows that do not count are 0.

    Raises:
        ShapeError, DTypeError, ArgumentError, DeviceError, UnsupportedError, BackendError. Source of the convention:
        flashinfer 0.7.2 ``batch_deepgemm_fp8_nt_groupwise``.
    """
    args = (a, b, a_scale, b_scale, masked_m, "masked", scale_granularity_mnk, out, out_dtype, backend, debug)
    return _deepgemm("batch_deepgemm_fp8_nt_groupwise", "masked_m", *args, skip_check)


def _deepgemm(
    fn: str,
    arg: str,
    a: torch.Tensor,
    b: torch.Tensor,
    a_scale: torch.Tensor,
    b_scale: torch.Tensor,
    groups: torch.Tensor,
    mode: str,
    granularity_mnk: tuple[int, int, int],
    out: torch.Tensor | None,
    out_dtype: torch.dtype | None,
    backend: str,
    debug: bool,
    skip_check: bool,
) -> torch.Tensor:
    """The two DeepGEMM forms, whose `groups` are called `arg`."""
    dtype = chosen_dtype(out, out_dtype) if out is None or isinstance(out, torch.Tensor) else torch.bfloat16
    if not skip_check:
        checks.backend(fn, backend, DEEPGEMM_BACKENDS)
        block_rows = granularity(fn, granularity_mnk)
        fp8_tensors(fn, a=a, b=b)
        group_operands(fn, a, b, 3 if mode == "masked" else 2)
        (count, n, k), rows = b.shape, a.shape[-2]
        lead = (count,) if mode == "masked" else ()
        fp32_scales(fn, "a_scale", a_scale, scale_shape(rows, k, block_rows, "K", lead))
        fp32_scales(fn, "b_scale", b_scale, scale_shape(n, k, 128, "K", (count,)))
        checks.is_tensor(fn, arg, groups)
        checks.same_device(fn, a=a, b=b, a_scale=a_scale, b_scale=b_scale, **{arg: groups})
        check_groups(fn, arg, groups, mode, count, rows, debug)
        gemm_out_dtype(fn, dtype)
        if out is not None:
            grouped_output(fn, out, (*a.shape[:-1], n), dtype, a.device)
    left, right = fp8_arguments(a, a_scale, granularity_mnk[0]), fp8_arguments(b, b_scale, 128)
    return call_grouped(left, right, groups, mode, out, dtype, core_backend(backend))
