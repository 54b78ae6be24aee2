"""flashinfer's FP4 GEMM."""

from __future__ import annotations

import torch

from tritonfp4 import checks
from tritonfp4.checks import ArgumentError, DTypeError, ShapeError
from tritonfp4.flashinfer._support import core_backend, supported_everywhere
from tritonfp4.flashinfer.gemm.common import as_bytes
from tritonfp4.formats import MXFP4, NVFP4, BlockFormat
from tritonfp4.layouts import LAYOUTS, SfLayout, ceil_div
from tritonfp4.tensor import BlockScaledTensor
from tritonfp4.verbs.matmul import call_matmul

#: flashinfer's names are layout contracts: "trtllm" takes b with shuffled rows, the others as they are.
MM_FP4_BACKENDS = (
    "auto", "cudnn", "trtllm", "cutlass", "cute-dsl", "cutedsl_low_latency", "b12x", "cake", "triton", "torch",
)  # fmt: skip


@supported_everywhere(MM_FP4_BACKENDS)
def mm_fp4(
    a: torch.Tensor,
    b: torch.Tensor,
    a_descale: torch.Tensor,
    b_descale: torch.Tensor,
    alpha: torch.Tensor | None = None,
    out_dtype: torch.dtype = torch.bfloat16,
    out: torch.Tensor | None = None,
    block_size: int = 16,
    use_8x4_sf_layout: bool = False,
    backend: str = "auto",
    use_nvfp4: bool = True,
    enable_pdl: bool = True,
    *,
    skip_check: bool = False,
) -> torch.Tensor:
    """``alpha * (a * a_descale) @ (b * b_descale)`` with FP4 operands, accumulated in fp32.

    Args:
        a: ``[M, K / 2]`` uint8 or float4_e2m1fn_x2.
        b: ``[K / 2, N]``, the ``.T`` of the quantized weight ``[N, K / 2]``.
        a_descale: scale bytes of a (uint8, float8_e4m3fn, float8_e8m0fnu) in 128x4, or 8x4 with `use_8x4_sf_layout`;
            2-D ``[round_up(M, 128 or 8), round_up(K / block_size, 4)]`` or flat.
        b_descale: scale bytes of b in 128x4; flat, 2-D, or the ``.T`` of the 2-D form.
        alpha: fp32 scalar, the product of both decode multipliers, or one for each row of a; None means 1.
        out_dtype: bf16 or fp16.
        out: ``[M, N]`` of `out_dtype`, unit last stride.
        block_size: 16 (NVFP4) or 32 (MXFP4).
        use_8x4_sf_layout: layout of `a_descale`.
        backend: flashinfer's names as contracts on b (``"trtllm"``: quantized with ``do_shuffle=True``; all others:
            not shuffled), ``"triton"`` (the kernels, also on CPU tensors in the interpreter) or ``"torch"``.
        use_nvfp4: NVFP4 or MXFP4.
        enable_pdl: ignored.
        skip_check: skip the checks; what a wrong argument does then is undefined.

    Returns:
        ``[M, N]``; `out` if that was given. No result depends on padding bytes of the scales.

    Raises:
        ShapeError, DTypeError, ArgumentError, DeviceError, UnsupportedError, BackendError. Source of the convention:
        flashinfer 0.7.2 ``mm_fp4``.
    """
    fmt = NVFP4 if use_nvfp4 else MXFP4
    kind = SfLayout.layout_8x4 if use_8x4_sf_layout else SfLayout.layout_128x4
    if not skip_check:
        _check(a, b, a_descale, b_descale, alpha, out_dtype, out, block_size, kind, backend, fmt)
    k = 2 * a.shape[1]
    rows_b = b.t()
    n = rows_b.shape[0]
    sf_a = _bytes(a_descale, LAYOUTS[kind].storage_shape(a.shape[0], ceil_div(k, fmt.vec)))
    sf_b = _bytes(b_descale, LAYOUTS[SfLayout.layout_128x4].storage_shape(n, ceil_div(k, fmt.vec)))
    shuffle = 32 if backend == "trtllm" else 0
    left = BlockScaledTensor(as_bytes(a), sf_a, alpha, fmt, kind, (a.shape[0], k))
    right = BlockScaledTensor(as_bytes(rows_b), sf_b, None, fmt, SfLayout.layout_128x4, (n, k), shuffle)
    return call_matmul(left, right, out, out_dtype, core_backend(backend))


def _bytes(scales: torch.Tensor, shape: tuple[int, int]) -> torch.Tensor:
    """Flat scale bytes of a buffer of 2-D `shape`. A transpose, by view or by copy, is turned back; a square buffer
    counts as transposed if its memory order says so."""
    if scales.ndim == 2:
        transposed = tuple(scales.shape) == (shape[1], shape[0]) and tuple(scales.shape) != shape
        if transposed or (shape[0] == shape[1] and scales.stride(0) == 1 and scales.stride(1) != 1):
            scales = scales.t()
    return scales.reshape(-1).view(torch.uint8)


def _check(
    a: torch.Tensor,
    b: torch.Tensor,
    a_descale: torch.Tensor,
    b_descale: torch.Tensor,
    alpha: torch.Tensor | None,
    out_dtype: torch.dtype,
    out: torch.Tensor | None,
    block_size: int,
    kind: SfLayout,
    backend: str,
    fmt: BlockFormat,
) -> None:
    fn = "mm_fp4"
    checks.backend(fn, backend, MM_FP4_BACKENDS)
    for name, t in (("a", a), ("b", b), ("a_descale", a_descale), ("b_descale", b_descale)):
        checks.is_tensor(fn, name, t)
    if a.ndim != 2 or b.ndim != 2:
        raise ShapeError(f"mm_fp4 accepts 2d tensors, got a of shape {tuple(a.shape)} and b of shape {tuple(b.shape)}")
    if a.shape[1] != b.shape[0]:
        raise ShapeError(
            f"K dimension mismatch in mm_fp4: a has {a.shape[1]} bytes a row, b has {b.shape[0]} bytes a column (is b the .T of [N, K / 2]?)"
        )
    text = "a and b must have float4_e2m1fn_x2 packed into uint8"
    checks.dtype(fn, "a", a, checks.FP4_DTYPES, text)
    checks.dtype(fn, "b", b, checks.FP4_DTYPES, text)
    if block_size != fmt.vec:
        raise ArgumentError(f"{fn}: {fmt.name} only supports block_size = {fmt.vec}. Got block_size={block_size!r}")
    checks.out_dtype(fn, out_dtype, (torch.bfloat16, torch.float16))
    k, n = 2 * a.shape[1], b.shape[1]
    if k % fmt.vec:
        raise ShapeError(f"{fn}: K must be a multiple of block_size = {fmt.vec}, got K = {k}")
    text = "a_descale and b_descale must have float8_e4m3fnx2 packed into uint8"
    for name, scales, rows, layout in (
        ("a_descale", a_descale, a.shape[0], kind),
        ("b_descale", b_descale, n, SfLayout.layout_128x4),
    ):
        checks.dtype(fn, name, scales, checks.SCALE_DTYPES[fmt.scale], text)
        checks.scale_buffer(fn, name, scales, fmt, layout, rows, ceil_div(k, fmt.vec))
    if alpha is not None:
        if not isinstance(alpha, torch.Tensor) or alpha.dtype != torch.float32:
            raise DTypeError(f"{fn}: alpha must be a float tensor, got {getattr(alpha, 'dtype', type(alpha).__name__)}")
        checks.global_scale(fn, "alpha", alpha, a.shape[0])
    checks.same_device(fn, a=a, b=b, a_descale=a_descale, b_descale=b_descale, alpha=alpha)
    if backend == "trtllm" and n % 32:
        raise ShapeError(f"{fn}: backend='trtllm' takes b with rows shuffled in blocks of 32, got N = {n}")
    if out is not None:
        checks.output(fn, out, (a.shape[0], n), out_dtype, a.device)
