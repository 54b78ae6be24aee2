"""flashinfer's GEMM of 16-bit activations and FP4 weights."""

from __future__ import annotations

from typing import Any

import torch

from tritonfp4 import checks
from tritonfp4.checks import ArgumentError, DTypeError, ShapeError
from tritonfp4.flashinfer._support import core_backend, supported_everywhere
from tritonfp4.flashinfer.gemm import common
from tritonfp4.flashinfer.gemm.common import OURS, as_bytes
from tritonfp4.formats import NVFP4
from tritonfp4.layouts import SfLayout
from tritonfp4.tensor import BlockScaledTensor
from tritonfp4.verbs.matmul import call_matmul

BF16_FP4_BACKENDS = (
    "cudnn", "cute-dsl", "cute-dsl-native", "blackwell-native", "blackwell-tiled", "auto", *OURS,
)  # fmt: skip


def prepare_bf16_fp4_weights(
    b: torch.Tensor,
    b_descale: torch.Tensor,
    alpha: torch.Tensor | None = None,
    *,
    backend: str = "auto",
    block_size: int = 16,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
    """Weights as `mm_bf16_fp4` takes them: here for every backend the tensors that came in, checked.

    Args:
        b: ``[N, K / 2]`` uint8 or float4_e2m1fn_x2, K a multiple of 16.
        b_descale: e4m3 scale bytes of b in 128x4, 2-D or flat.
        alpha: fp32 decode multiplier with 1 element, or None for 1.
        backend: any of flashinfer's names, ``"triton"`` or ``"torch"``.
        block_size: 16.

    Returns:
        ``(b, b_descale, alpha)``.

    Raises:
        ShapeError, DTypeError, ArgumentError, DeviceError, BackendError. Source of the convention: flashinfer 0.7.2
        ``prepare_bf16_fp4_weights``, whose results are layouts of its backends.
    """
    fn = "prepare_bf16_fp4_weights"
    checks.backend(fn, backend, BF16_FP4_BACKENDS)
    _check_weights(fn, b, b_descale, alpha, block_size)
    return b, b_descale, alpha


@supported_everywhere(BF16_FP4_BACKENDS)
def mm_bf16_fp4(
    a: torch.Tensor,
    b: torch.Tensor,
    b_descale: torch.Tensor,
    alpha: torch.Tensor | None = None,
    *,
    backend: str = "auto",
    out_dtype: torch.dtype | None = None,
    out: torch.Tensor | None = None,
    block_size: int = 16,
    enable_pdl: bool = True,
    skip_check: bool = False,
) -> torch.Tensor:
    """``alpha * a @ (b * b_descale).T`` of 16-bit activations and NVFP4 weights, accumulated in fp32.

    Args:
        a: ``[M, K]`` bf16, or fp16.
        b: ``[N, K / 2]`` uint8 or float4_e2m1fn_x2 as `nvfp4_quantize` gives them, K a multiple of 16; not transposed.
        b_descale: e4m3 scale bytes of b in 128x4, 2-D or flat.
        alpha: fp32 decode multiplier of b with 1 element, or None for 1.
        backend: any of flashinfer's names (all take the weights as they are), ``"triton"`` (the kernels, also on CPU
            tensors in the interpreter) or ``"torch"``.
        out_dtype: bf16 or fp16; by default that of `out`, or of a.
        out: ``[M, N]``, unit last stride.
        block_size: 16.
        enable_pdl: ignored.
        skip_check: skip the checks; what a wrong argument does then is undefined.

    Returns:
        ``[M, N]``; `out` if that was given.

    Raises:
        ShapeError, DTypeError, ArgumentError, DeviceError, UnsupportedError, BackendError. Source of the convention:
        flashinfer 0.7.2 ``mm_bf16_fp4``.
    """
    fn = "mm_bf16_fp4"
    if not skip_check:
        checks.backend(fn, backend, BF16_FP4_BACKENDS)
        _check_activations(fn, a)
        _check_weights(fn, b, b_descale, alpha, block_size)
        if a.shape[1] != 2 * b.shape[1]:
            raise ShapeError(
                f"{fn}: a.shape[1]={a.shape[1]} but b of shape {tuple(b.shape)} encodes K={2 * b.shape[1]}"
            )
        checks.same_device(fn, a=a, b=b)
        _check_out(fn, out, out_dtype, (a.shape[0], b.shape[0]), a)
        checks.no_gradient(fn, out, a)
    dtype = out.dtype if out is not None else out_dtype or a.dtype
    scales = as_bytes(b_descale.reshape(-1))
    weight = BlockScaledTensor(as_bytes(b), scales, alpha, NVFP4, SfLayout.layout_128x4, (b.shape[0], 2 * b.shape[1]))
    return call_matmul(a, weight, out, dtype, core_backend(backend))


def _check_activations(fn: str, a: Any) -> None:
    checks.is_tensor(fn, "a", a)
    if a.ndim != 2:
        raise ShapeError(f"{fn}: a must be 2-D (M, K); got shape {tuple(a.shape)}")
    checks.dtype(fn, "a", a, checks.PLAIN_DTYPES, "a must be bfloat16, or float16")


def _check_weights(fn: str, b: Any, b_descale: Any, alpha: Any, block_size: Any) -> None:
    common.uint8_tensor(fn, "b", b, checks.FP4_DTYPES)
    if b.ndim != 2:
        raise ShapeError(f"{fn}: b must be 2-D (N, K/2); got shape {tuple(b.shape)}")
    if block_size != 16:
        raise ArgumentError(f"{fn}: block_size must be 16 for FP4; got {block_size!r}")
    n, k = b.shape[0], 2 * b.shape[1]
    if k % 16:
        raise ShapeError(f"{fn}: K={k} of b must be a multiple of block_size=16")
    checks.scale_buffer(fn, "b_descale", b_descale, NVFP4, SfLayout.layout_128x4, n, k // 16)
    checks.same_device(fn, b=b, b_descale=b_descale)
    if alpha is None:
        return
    checks.is_tensor(fn, "alpha", alpha)
    if alpha.dtype != torch.float32:
        raise DTypeError(f"{fn}: alpha must be float32; got {alpha.dtype}")
    if alpha.numel() != 1:
        raise ShapeError(f"{fn}: alpha must be shape (1,); got {tuple(alpha.shape)}")
    checks.same_device(fn, b=b, alpha=alpha)


def _check_out(fn: str, out: Any, out_dtype: Any, shape: tuple[int, int], a: torch.Tensor) -> None:
    if out is not None:
        checks.is_tensor(fn, "out", out)
    dtype = out_dtype or (out.dtype if out is not None else a.dtype)
    if dtype not in common.FP8_OUT_DTYPES:
        raise checks.UnsupportedTypeError(
            f"{fn}: Unsupported output dtype: out_dtype must be bfloat16 or float16; got {dtype}"
        )
    if out is not None:
        checks.output(fn, out, shape, dtype, a.device)
