"""flashinfer's MXFP8 GEMMs."""

from __future__ import annotations

from typing import Any

import torch

from tritonfp4 import checks
from tritonfp4.checks import ShapeError, UnsupportedError
from tritonfp4.flashinfer._support import core_backend, supported_everywhere
from tritonfp4.flashinfer.gemm import common
from tritonfp4.flashinfer.gemm.common import OURS, as_bytes
from tritonfp4.formats import MXFP8
from tritonfp4.layouts import LAYOUTS, SfLayout, unshuffle_rows
from tritonfp4.tensor import BlockScaledTensor
from tritonfp4.verbs.grouped import call_grouped, grouped_output
from tritonfp4.verbs.matmul import call_matmul

#: flashinfer's names are layout contracts: "trtllm" takes b with shuffled rows, the others as they are.
MM_MXFP8_BACKENDS = ("auto", "cutlass", "cute-dsl", "cutedsl_low_latency", "trtllm", "cudnn", "b12x", *OURS)
BMM_MXFP8_BACKENDS = ("auto", "cudnn", "cutlass", *OURS)
SHUFFLE = 32


@supported_everywhere(MM_MXFP8_BACKENDS)
def mm_mxfp8(
    a: torch.Tensor,
    b: torch.Tensor,
    a_descale: torch.Tensor,
    b_descale: torch.Tensor,
    out: torch.Tensor | None = None,
    out_dtype: torch.dtype = torch.bfloat16,
    use_8x4_sf_layout: bool = False,
    backend: str = "auto",
    *,
    skip_check: bool = False,
) -> torch.Tensor:
    """``(a * a_descale) @ (b * b_descale)`` with MXFP8 operands, accumulated in fp32.

    Args:
        a: ``[M, K]`` float8_e4m3fn, K a multiple of 32 and at least 128.
        b: ``[K, N]``, the ``.t()`` of the quantized weight ``[N, K]``, N at least 128.
        a_descale: flat e8m0 scale bytes of a in 128x4, or 8x4 with `use_8x4_sf_layout`; ``round_up(M, 128 or 8) *
            round_up(K / 32, 4)`` of uint8 or float8_e8m0fnu.
        b_descale: flat e8m0 scale bytes of b in 128x4.
        out: ``[M, N]`` of `out_dtype`, unit last stride.
        out_dtype: bf16 or fp16.
        use_8x4_sf_layout: layout of `a_descale`.
        backend: flashinfer's names as contracts on b (``"trtllm"``: values and scales with rows shuffled by
            `shuffle_matrix_a` and `shuffle_matrix_sf_a`; all others: not shuffled), ``"triton"`` (the kernels, also on CPU
            tensors in the interpreter) or ``"torch"``.
        skip_check: skip the checks; what a wrong argument does then is undefined.

    Returns:
        ``[M, N]``; `out` if that was given. No result depends on padding bytes of the scales.

    Raises:
        ShapeError, DTypeError, ArgumentError, DeviceError, UnsupportedError, BackendError. Source of the convention:
        flashinfer 0.7.2 ``mm_mxfp8``.
    """
    fn = "mm_mxfp8"
    kind = SfLayout.layout_8x4 if use_8x4_sf_layout else SfLayout.layout_128x4
    if not skip_check:
        checks.backend(fn, backend, MM_MXFP8_BACKENDS)
        _check_mm(fn, a, b, a_descale, b_descale, kind, backend)
        common.gemm_out_dtype(fn, out_dtype, "MXFP8")
        if out is not None:
            checks.output(fn, out, (a.shape[0], b.shape[1]), out_dtype, a.device)
    weight = b.t()
    left = BlockScaledTensor(as_bytes(a), _flat(a_descale), None, MXFP8, kind, tuple(a.shape))
    right = BlockScaledTensor(
        as_bytes(weight), _flat(b_descale), None, MXFP8, SfLayout.layout_128x4, tuple(weight.shape)
    )
    if backend != "trtllm":
        return call_matmul(left, right, out, out_dtype, core_backend(backend))
    # Shuffled rows of the weight are shuffled columns of the product.
    result = unshuffle_rows(call_matmul(left, right, None, out_dtype).t(), SHUFFLE).t()
    return result.contiguous() if out is None else out.copy_(result)


def _flat(scales: torch.Tensor) -> torch.Tensor:
    return as_bytes(scales.reshape(-1))


def _check_mm(fn: str, a: Any, b: Any, a_descale: Any, b_descale: Any, kind: SfLayout, backend: str) -> None:
    for name, t in (("a", a), ("b", b), ("a_descale", a_descale), ("b_descale", b_descale)):
        checks.is_tensor(fn, name, t)
    if a.ndim != 2 or b.ndim != 2:
        raise ShapeError(f"{fn} accepts 2d tensors, got a of shape {tuple(a.shape)} and b of shape {tuple(b.shape)}")
    if a.shape[1] != b.shape[0]:
        raise ShapeError(
            f"K dimension mismatch in {fn}: a has {a.shape[1]} columns, b has {b.shape[0]} rows (is b the .t() of [N, K]?)"
        )
    (m, k), n = a.shape, b.shape[1]
    if n < 128 or k < 128:
        raise ShapeError(
            f"{fn}: MXFP8 requires n >= 128 and k >= 128, got a and b with m={m}, n={n}, k={k}; tritonfp4.matmul takes any size"
        )
    if k % 32:
        raise ShapeError(f"{fn}: K must be a multiple of 32, got a and b with K = {k}")
    for name, x in (("a", a), ("b", b)):
        checks.dtype(fn, name, x, (torch.float8_e4m3fn,), f"{name} must be a float8_e4m3fn tensor")
    for name, scales in (("a_descale", a_descale), ("b_descale", b_descale)):
        common.uint8_tensor(fn, name, scales, checks.SCALE_DTYPES["e8m0"])
    _check_scales(fn, "a_descale", a_descale, m, k, kind, (m, k // 32))
    _check_scales(fn, "b_descale", b_descale, n, k, SfLayout.layout_128x4, (k // 32, n))
    checks.same_device(fn, a=a, b=b, a_descale=a_descale, b_descale=b_descale)
    if backend == "trtllm" and n % SHUFFLE:
        raise ShapeError(f"{fn}: backend='trtllm' takes b with rows shuffled in blocks of {SHUFFLE}, got N = {n}")


def _check_scales(
    fn: str, arg: str, scales: torch.Tensor, rows: int, k: int, kind: SfLayout, linear: tuple[int, int]
) -> None:
    """Refuse all but flat swizzled scales. A matrix of scales says linear, which may have the size of a swizzled one."""
    if scales.ndim not in (1, 2):
        raise ShapeError(
            f"{fn}: {arg} must be 1D (swizzled) or 2D (non-swizzled), got shape {tuple(scales.shape)}; 2D is refused, too"
        )
    want = LAYOUTS[kind].numel(rows, k // 32)
    text = f"want ({want},): {rows} rows of {k // 32} scales in {kind.name}"
    if scales.ndim == 1 and scales.shape[0] != want:
        raise ShapeError(f"{fn}: {arg} shape mismatch for swizzled layout. Got {tuple(scales.shape)}, {text}")
    if scales.ndim == 2:
        if tuple(scales.shape) != linear:
            raise ShapeError(
                f"{fn}: {arg} shape mismatch for non-swizzled layout: 2D scales {tuple(scales.shape)}, {text}"
            )
        raise UnsupportedError(
            f"{fn}: 2D linear scales are not supported: got {arg} of shape {tuple(scales.shape)}, {text} (.view(-1) of a "
            "swizzled buffer; tritonfp4.matmul takes linear scales)"
        )


@supported_everywhere(BMM_MXFP8_BACKENDS)
def bmm_mxfp8(
    A: torch.Tensor,
    B: torch.Tensor,
    A_scale: torch.Tensor,
    B_scale: torch.Tensor,
    dtype: torch.dtype,
    out: torch.Tensor | None = None,
    backend: str = "auto",
    *,
    skip_check: bool = False,
) -> torch.Tensor:
    """``(A * A_scale) @ (B * B_scale)`` of batches of MXFP8 matrices.

    Args:
        A: ``[b, m, k]`` float8_e4m3fn or float8_e5m2, k a multiple of 32.
        B: ``[b, k, n]``, either of the two: the transpose of the quantized weights ``[b, n, k]``.
        A_scale: e8m0 scale bytes (uint8 or float8_e8m0fnu): the 128x4 buffers of all matrices, each padded on its own, ``b *
            round_up(m, 128) * round_up(k / 32, 4)``, flat or ``[b, ...]`` 2-D: as ``mxfp8_quantize(x, per_batch=True)`` gives
            them. Without `per_batch` its buffer is the same if m is a multiple of 128, or b is 1.
        B_scale: likewise for the weights ``[b, n, k]``.
        dtype: of the output, bf16 or fp16.
        out: ``[b, m, n]`` of `dtype`, unit last stride.
        backend: flashinfer's names (all the same here), ``"triton"`` (the kernels, also on CPU tensors in the interpreter)
            or ``"torch"``.
        skip_check: skip the checks; what a wrong argument does then is undefined.

    Returns:
        ``[b, m, n]``; `out` if that was given. No result depends on padding bytes of the scales.

    Raises:
        ShapeError, DTypeError, ArgumentError, DeviceError, UnsupportedError, BackendError. Source of the convention:
        flashinfer 0.7.2 ``bmm_mxfp8``.
    """
    fn = "bmm_mxfp8"
    if not skip_check:
        checks.backend(fn, backend, BMM_MXFP8_BACKENDS)
        _check_bmm(fn, A, B, A_scale, B_scale)
        common.gemm_out_dtype(fn, dtype, "MXFP8", "dtype")
        if out is not None:
            grouped_output(fn, out, (A.shape[0], A.shape[1], B.shape[2]), dtype, A.device)
    left, right = _matrices(A, A_scale), _matrices(B.transpose(1, 2), B_scale)
    return call_grouped(left, right, None, "batch", out, dtype, core_backend(backend))


def _matrices(x: torch.Tensor, scales: torch.Tensor) -> BlockScaledTensor:
    fmt = common.element_format(x, "mxfp8")
    return BlockScaledTensor(as_bytes(x), _flat(scales), None, fmt, SfLayout.layout_128x4, tuple(x.shape), batched=True)


def _check_bmm(fn: str, A: Any, B: Any, A_scale: Any, B_scale: Any) -> None:
    common.fp8_tensors(fn, A=A, B=B)
    if A.ndim != 3 or B.ndim != 3:
        raise ShapeError(f"{fn} accepts 3d tensors, got A of shape {tuple(A.shape)} and B of shape {tuple(B.shape)}")
    if A.shape[2] != B.shape[1] or A.shape[0] != B.shape[0]:
        what = "K dimension (last dim of A)" if A.shape[2] != B.shape[1] else "batch dimension"
        raise ShapeError(
            f"{fn}: {what} mismatch in {fn}: got A of shape {tuple(A.shape)}, B of shape {tuple(B.shape)}, want [b, m, k] "
            "and [b, k, n]"
        )
    batch, m, k = A.shape
    if k % 32:
        raise ShapeError(f"{fn}: K must be a multiple of 32, got A and B with K = {k}")
    for name, scales, rows in (("A_scale", A_scale, m), ("B_scale", B_scale, B.shape[2])):
        common.uint8_tensor(fn, name, scales, checks.SCALE_DTYPES["e8m0"])
        if scales.ndim != 1 and (scales.ndim != 2 or scales.shape[0] != batch):
            raise ShapeError(
                f"{fn} requires 1D swizzled scale tensors: got {name} of shape {tuple(scales.shape)}, want them flat or "
                f"({batch}, ...)"
            )
        hint = "; mxfp8_quantize(..., per_batch=True) pads them so, without it all rows are one matrix"
        common.swizzled_scales(fn, name, scales, MXFP8, rows, k, batch, hint)
    checks.same_device(fn, A=A, B=B, A_scale=A_scale, B_scale=B_scale)
