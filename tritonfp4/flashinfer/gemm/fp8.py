"""flashinfer's dense FP8 GEMMs with fp32 scales."""

from __future__ import annotations

from typing import Any

import torch

from tritonfp4 import checks
from tritonfp4.checks import ArgumentError, DTypeError, ShapeError, UnsupportedError
from tritonfp4.flashinfer._support import core_backend, supported_everywhere
from tritonfp4.flashinfer.gemm.common import (
    FP8_OUT_DTYPES,
    LINEAR,
    OURS,
    as_bytes,
    chosen_dtype,
    element_format,
    fp8_arguments,
    fp8_tensors,
    fp32_scales,
    fp32_tensors,
    gemm_out_dtype,
    granularity,
    major_mode,
    mma_sm,
    scale_shape,
)
from tritonfp4.formats import FP8_128X128
from tritonfp4.layouts import SfLayout, ceil_div
from tritonfp4.tensor import BlockScaledTensor
from tritonfp4.verbs.grouped import call_grouped, grouped_output
from tritonfp4.verbs.matmul import Flat, call_matmul, call_quantized_matmul
from tritonfp4.verbs.quantize_fp8 import call_quantize_fp8

SM90_BACKENDS = ("auto", *OURS)
GROUPWISE_BACKENDS = ("cutlass", "trtllm", "cutile", "auto", *OURS)
BMM_FP8_BACKENDS = ("cublas", "cudnn", "cutlass", "cute-dsl", "auto", *OURS)
E4M3, BF16 = torch.float8_e4m3fn, torch.bfloat16


@supported_everywhere(SM90_BACKENDS)
def fp8_blockscale_gemm_sm90(
    input: torch.Tensor,
    weight: torch.Tensor,
    input_scale: torch.Tensor | None = None,
    weight_scale: torch.Tensor | None = None,
    out: torch.Tensor | None = None,
    out_dtype: torch.dtype | None = None,
    *,
    input_scale_major: str | None = None,
    backend: str = "auto",
    skip_check: bool = False,
) -> torch.Tensor:
    """``input @ weight.T`` in FP8 with a scale for 128 elements along K; bf16 operands are quantized on the way.

    Args:
        input: ``[M, K]`` bf16 or float8_e4m3fn, K a multiple of 128.
        weight: ``[N, K]`` bf16 or float8_e4m3fn, any N; not bf16 if `input` is FP8.
        input_scale: of an FP8 input only: fp32 decode multipliers ``[M, K / 128]`` with any strides, or the form that
            flashinfer's kernel reads: ``[K / 128, M]`` with unit last stride and rows of any width from M on.
        weight_scale: of an FP8 weight only: fp32 decode multipliers, one for each row ``[N, K / 128]`` or one for each
            128 x 128 tile ``[ceil(N / 128), K / 128]``, any strides.
        out: ``[M, N]`` bf16 or fp16, unit last stride.
        out_dtype: bf16 (default) or fp16.
        input_scale_major: which form `input_scale` has: "K" for ``[M, K / 128]``, "MN" for ``[K / 128, M]`` of any strides.
            By default the shape decides; if M equals K / 128 it is "K".
        backend: ``"auto"``, ``"triton"`` (the kernels, also on CPU tensors in the interpreter) or ``"torch"``.
        skip_check: skip the checks; what a wrong argument does then is undefined.

    Returns:
        ``[M, N]``; `out` if that was given. A bf16 input is quantized by `per_token_cast_to_fp8`, a bf16 weight by
        `per_block_cast_to_fp8`.

    Raises:
        ShapeError, DTypeError, ArgumentError, DeviceError, UnsupportedError, BackendError. Source of the convention:
        flashinfer 0.7.2 ``fp8_blockscale_gemm_sm90``.
    """
    fn = "fp8_blockscale_gemm_sm90"
    if not skip_check:
        checks.backend(fn, backend, SM90_BACKENDS)
        checks.choice(fn, "input_scale_major", input_scale_major, (None, "K", "MN"))
        _check_sm90_operands(fn, input, weight)
        _check_sm90_scales(fn, input, weight, input_scale, weight_scale)
        _check_sm90_out(fn, out, out_dtype, (input.shape[0], weight.shape[0]), input.device)
        checks.no_gradient(fn, out, input, weight)
    core = core_backend(backend)
    (m, k), n = input.shape, weight.shape[0]
    b: Flat
    if weight.dtype == BF16:
        values, scales = call_quantize_fp8(fn, weight, FP8_128X128, arg="weight", backend=core)
        b = values, scales, None, FP8_128X128.name, LINEAR, 0, k
    else:
        assert weight_scale is not None
        b = fp8_arguments(weight, weight_scale, 1 if weight_scale.shape[0] == n else 128)
    if input.dtype == BF16:
        checks.quantizer_input(fn, "input", input, None)
        return call_quantized_matmul(input, b, out, chosen_dtype(out, out_dtype), core)
    assert input_scale is not None
    a = fp8_arguments(input, _rows_of_scales(fn, input_scale, m, k, input_scale_major), 1)
    return call_matmul(a, b, out, chosen_dtype(out, out_dtype), core)


def _rows_of_scales(fn: str, scale: torch.Tensor, m: int, k: int, major: str | None) -> torch.Tensor:
    """The view ``[M, K / 128]`` of an input scale in either form."""
    shape, kb = tuple(scale.shape), k // 128
    if major is None:
        major = "MN" if m != kb and shape == (kb, m) and _rows_apart(scale, m, kb) else "K"
    if shape != ((m, kb) if major == "K" else (kb, m)):
        wanted = {
            None: f"({m}, {kb}) with any strides, or ({kb}, {m}) with unit last stride and rows of at least {m} scales",
            "K": f"({m}, {kb})",
            "MN": f"({kb}, {m})",
        }
        text = wanted[None if shape == (kb, m) and major == "K" else major]
        raise ShapeError(
            f"{fn}: input_scale shape mismatch: got {shape} with strides {tuple(scale.stride())}, want {text}; "
            f"input_scale_major='K' or 'MN' names the form"
        )
    return scale if major == "K" else scale.t()


def _rows_apart(scale: torch.Tensor, m: int, kb: int) -> bool:
    """Whether ``[K / 128, M]`` has unit last stride and rows that do not overlap."""
    return (scale.stride(1) == 1 or m <= 1) and (scale.stride(0) >= m or kb <= 1)


def _check_sm90_operands(fn: str, input: Any, weight: Any) -> None:
    checks.is_tensor(fn, "input", input)
    checks.is_tensor(fn, "weight", weight)
    if input.ndim != 2:
        raise ShapeError(f"{fn}: Input must be 2D (M, K), got input of shape {tuple(input.shape)}")
    if weight.ndim != 2:
        raise ShapeError(f"{fn}: Weight must be 2D (N, K), got weight of shape {tuple(weight.shape)}")
    k, weight_k = input.shape[1], weight.shape[1]
    if weight_k != k:
        raise ShapeError(f"{fn}: K dimension mismatch: input has K={k}, weight has K={weight_k}")
    if k % 128:
        raise ShapeError(f"{fn}: K dimension must be divisible by block size (128), got input with K={k}")
    if input.dtype == E4M3 and weight.dtype == BF16:
        raise UnsupportedError(
            f"{fn}: FP8 input + BF16 weight is not supported: quantize the weight with per_block_cast_to_fp8 first"
        )
    for arg, x in (("input", input), ("weight", weight)):
        if x.dtype not in (E4M3, BF16):
            raise DTypeError(
                f"{fn}: {arg.capitalize()} must be either FP8 (torch.float8_e4m3fn) or BF16 (torch.bfloat16), got {arg} of {x.dtype}"
            )
    if input.device != weight.device:
        checks.same_device(fn, input=input, weight=weight)


def _check_sm90_scales(fn: str, input: torch.Tensor, weight: torch.Tensor, input_scale: Any, weight_scale: Any) -> None:
    for arg, x, scale in (("input", input, input_scale), ("weight", weight, weight_scale)):
        if x.dtype == BF16:
            if scale is not None:
                raise ArgumentError(
                    f"{fn}: {arg}_scale should not be provided for BF16 {arg}s, which are quantized on the way; "
                    f"use an FP8 {arg} to provide scales"
                )
            continue
        if scale is None:
            raise ArgumentError(f"{fn}: {arg}_scale is required when {arg} is FP8")
        if not isinstance(scale, torch.Tensor) or scale.dtype != torch.float32:
            checks.dtype(fn, f"{arg}_scale", scale, (torch.float32,), f"{arg}_scale must be float32")
        if scale.device != x.device:
            checks.same_device(fn, **{arg: x, f"{arg}_scale": scale})
    if weight_scale is None:
        return
    n, kb = weight.shape[0], weight.shape[1] // 128
    each, tile = (n, kb), (ceil_div(n, 128), kb)
    if weight_scale.shape != tile and weight_scale.shape != each:
        raise ShapeError(
            f"{fn}: weight_scale shape mismatch. Expected either {each} (per-token, 1x128 blocks) or {tile} (per-block, "
            f"128x128 blocks), got {tuple(weight_scale.shape)}"
        )


def _check_sm90_out(fn: str, out: Any, out_dtype: Any, shape: tuple[int, int], device: torch.device) -> None:
    if out is not None:
        checks.is_tensor(fn, "out", out)
    dtype = chosen_dtype(out, out_dtype)
    if dtype not in FP8_OUT_DTYPES:
        raise checks.UnsupportedTypeError(
            f"{fn}: Unsupported output dtype: Output dtype must be torch.bfloat16 or torch.float16, got {dtype} (out_dtype or out)"
        )
    if out is not None:
        checks.output(fn, out, shape, out_dtype or dtype, device)


@supported_everywhere(GROUPWISE_BACKENDS)
def gemm_fp8_nt_groupwise(
    a: torch.Tensor,
    b: torch.Tensor,
    a_scale: torch.Tensor,
    b_scale: torch.Tensor,
    scale_major_mode: str | None = None,
    mma_sm: int = 1,
    scale_granularity_mnk: tuple[int, int, int] = (1, 128, 128),
    out: torch.Tensor | None = None,
    out_dtype: torch.dtype | None = None,
    backend: str = "cutlass",
    *,
    skip_check: bool = False,
) -> torch.Tensor:
    """``a @ b.T`` in FP8; a has a scale for 1 or 128 rows and 128 elements along K, b for 128 x 128.

    Args:
        a: ``[M, K]`` float8_e4m3fn or float8_e5m2; any M and K.
        b: ``[N, K]``, either of the two; weights.
        a_scale: fp32 decode multipliers ``[ceil(M / rows), ceil(K / 128)]`` (K-major) or its transpose (MN-major), rows
            being the first number of `scale_granularity_mnk`; any strides.
        b_scale: fp32 decode multipliers ``[ceil(N / 128), ceil(K / 128)]`` or its transpose.
        scale_major_mode: "K" or "MN", named after the fastest dimension of contiguous scales.
        mma_sm: 1 or 2, a hint that is ignored.
        scale_granularity_mnk: ``(1, 128, 128)`` or ``(128, 128, 128)``.
        out: ``[M, N]`` bf16 or fp16, unit last stride; its dtype counts.
        out_dtype: bf16 (default) or fp16.
        backend: flashinfer's names (all the same here; "cutile" means "K" by default), ``"triton"`` (the kernels, also on
            CPU tensors in the interpreter) or ``"torch"``.
        skip_check: skip the checks; what a wrong argument does then is undefined.

    Returns:
        ``[M, N]``; `out` if that was given.

    Raises:
        ShapeError, DTypeError, ArgumentError, DeviceError, UnsupportedError, BackendError. Source of the convention:
        flashinfer 0.7.2 ``gemm_fp8_nt_groupwise``.
    """
    args = (a, b, a_scale, b_scale, scale_major_mode, mma_sm, scale_granularity_mnk, out, out_dtype, backend)
    return _groupwise("gemm_fp8_nt_groupwise", *args, skip_check)


@supported_everywhere(GROUPWISE_BACKENDS)
def gemm_fp8_nt_blockscaled(
    a: torch.Tensor,
    b: torch.Tensor,
    a_scale: torch.Tensor,
    b_scale: torch.Tensor,
    scale_major_mode: str | None = "MN",
    mma_sm: int = 1,
    out: torch.Tensor | None = None,
    out_dtype: torch.dtype | None = None,
    *,
    backend: str = "cutlass",
    skip_check: bool = False,
) -> torch.Tensor:
    """`gemm_fp8_nt_groupwise` with ``scale_granularity_mnk=(128, 128, 128)``: one scale for 128 x 128 of either operand.

    Args:
        a, b, a_scale, b_scale, scale_major_mode, mma_sm, out, out_dtype, backend, skip_check: see there; scales are
            MN-major by default.

    Returns:
        ``[M, N]``; `out` if that was given.

    Raises:
        As there. Source of the convention: flashinfer 0.7.2 ``gemm_fp8_nt_blockscaled``.
    """
    args = (a, b, a_scale, b_scale, scale_major_mode, mma_sm, (128, 128, 128), out, out_dtype, backend)
    return _groupwise("gemm_fp8_nt_blockscaled", *args, skip_check)


def _groupwise(
    fn: str,
    a: torch.Tensor,
    b: torch.Tensor,
    a_scale: torch.Tensor,
    b_scale: torch.Tensor,
    major: str | None,
    hint: int,
    granularity_mnk: tuple[int, int, int],
    out: torch.Tensor | None,
    out_dtype: torch.dtype | None,
    backend: str,
    skip_check: bool,
) -> torch.Tensor:
    if major is None and backend == "cutile":
        major = "K"
    if not skip_check:
        _check_groupwise(fn, a, b, a_scale, b_scale, major, hint, granularity_mnk, out, out_dtype, backend)
    if major == "MN":
        a_scale, b_scale = a_scale.t(), b_scale.t()
    left, right = fp8_arguments(a, a_scale, granularity_mnk[0]), fp8_arguments(b, b_scale, 128)
    return call_matmul(left, right, out, chosen_dtype(out, out_dtype), core_backend(backend))


def _check_groupwise(
    fn: str, a: Any, b: Any, a_scale: Any, b_scale: Any, major: Any, hint: Any, granularity_mnk: Any, out: Any,
    out_dtype: Any, backend: Any,
) -> None:  # fmt: skip
    checks.backend(fn, backend, GROUPWISE_BACKENDS)
    for name, t in (("a", a), ("b", b), ("a_scale", a_scale), ("b_scale", b_scale)):
        if not isinstance(t, torch.Tensor):
            checks.is_tensor(fn, name, t)
    if a.ndim != 2 or b.ndim != 2:
        raise ShapeError(
            f"{fn}: Shape mismatch. a.shape = {tuple(a.shape)}, b.shape = {tuple(b.shape)}, want [M, K] and [N, K]"
        )
    if a.shape[1] != b.shape[1]:
        raise ShapeError(f"{fn}: Shape mismatch. a.shape[1] = {a.shape[1]}, b.shape[1] = {b.shape[1]}")
    fp8_tensors(fn, a=a, b=b)
    if major is None:
        raise ArgumentError(
            f"{fn}: scale_major_mode is required in CUTLASS, and here, to know the shapes of the scales: got None, want 'MN' or 'K'"
        )
    major_mode(fn, major)
    mma_sm(fn, hint)
    block_rows = granularity(fn, granularity_mnk)
    fp32_scales(fn, "a_scale", a_scale, scale_shape(a.shape[0], a.shape[1], block_rows, major), major)
    fp32_scales(fn, "b_scale", b_scale, scale_shape(b.shape[0], b.shape[1], 128, major), major)
    checks.same_device(fn, a=a, b=b, a_scale=a_scale, b_scale=b_scale)
    if out is not None:
        checks.is_tensor(fn, "out", out)
    dtype = chosen_dtype(out, out_dtype)
    gemm_out_dtype(fn, dtype)
    if out is not None:
        checks.output(fn, out, (a.shape[0], b.shape[0]), dtype, a.device)


@supported_everywhere(BMM_FP8_BACKENDS)
def bmm_fp8(
    A: torch.Tensor,
    B: torch.Tensor,
    A_scale: torch.Tensor,
    B_scale: torch.Tensor,
    dtype: torch.dtype,
    out: torch.Tensor | None = None,
    backend: str = "cublas",
    *,
    skip_check: bool = False,
) -> torch.Tensor:
    """``A_scale * B_scale * A @ B`` of batches of FP8 matrices with one scale each.

    Args:
        A: ``[b, m, k]`` float8_e4m3fn or float8_e5m2, any strides.
        B: ``[b, k, n]``, either of the two; column-major (the transpose of ``[b, n, k]``) is fast, any strides work.
        A_scale: fp32 decode multiplier with 1 element.
        B_scale: likewise.
        dtype: of the output, bf16 or fp16.
        out: ``[b, m, n]`` of `dtype`, unit last stride.
        backend: flashinfer's names (all the same here), ``"triton"`` (the kernels, also on CPU tensors in the interpreter)
            or ``"torch"``.
        skip_check: skip the checks; what a wrong argument does then is undefined.

    Returns:
        ``[b, m, n]``; `out` if that was given.

    Raises:
        ShapeError, DTypeError, ArgumentError, DeviceError, UnsupportedError, BackendError. Source of the convention:
        flashinfer 0.7.2 ``bmm_fp8``.
    """
    fn = "bmm_fp8"
    if not skip_check:
        checks.backend(fn, backend, BMM_FP8_BACKENDS)
        _check_bmm_fp8(fn, A, B, A_scale, B_scale, dtype, out)
    left, right = _scalar_operand(A, A_scale), _scalar_operand(B.transpose(1, 2), B_scale)
    return call_grouped(left, right, None, "batch", out, dtype, core_backend(backend))


def _scalar_operand(x: torch.Tensor, scale: torch.Tensor) -> BlockScaledTensor:
    values = as_bytes(x)
    return BlockScaledTensor(
        values,
        values.new_empty(0),
        scale,
        element_format(x, "fp8"),
        SfLayout.layout_linear,
        tuple(x.shape),
        batched=True,
    )


def _check_bmm_fp8(fn: str, A: Any, B: Any, A_scale: Any, B_scale: Any, dtype: Any, out: Any) -> None:
    fp8_tensors(fn, A=A, B=B)
    if A.ndim != 3 or B.ndim != 3 or A.shape[0] != B.shape[0] or A.shape[2] != B.shape[1]:
        raise ShapeError(
            f"{fn}: Shape mismatch. A.shape = {tuple(A.shape)}, B.shape = {tuple(B.shape)}, want [b, m, k] and [b, k, n]"
        )
    fp32_tensors(fn, A_scale=A_scale, B_scale=B_scale)
    for name, scale in (("A_scale", A_scale), ("B_scale", B_scale)):
        if scale.numel() != 1:
            raise ShapeError(f"{fn}: {name} must be a scalar, got shape {tuple(scale.shape)}")
    checks.same_device(fn, A=A, B=B, A_scale=A_scale, B_scale=B_scale)
    gemm_out_dtype(fn, dtype, arg="dtype")
    if out is not None:
        grouped_output(fn, out, (A.shape[0], A.shape[1], B.shape[2]), dtype, A.device)
