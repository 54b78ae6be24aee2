"""flashinfer's MXFP8 and 8-bit quantizers, and its dequantizers for the host."""

from __future__ import annotations

import torch

from tritonfp4 import checks
from tritonfp4.checks import ArgumentError, ShapeError
from tritonfp4.flashinfer._support import core_backend
from tritonfp4.flashinfer.quantization.quantizers import BACKENDS
from tritonfp4.formats import MXFP4, MXFP8
from tritonfp4.layouts import LAYOUTS, SfLayout
from tritonfp4.verbs.quantize_fp8 import call_quantize_blocks, call_quantize_mxfp8


def _layout(fn: str, swizzled: bool, given: SfLayout | int | None) -> SfLayout:
    if given is not None:
        return checks.layout(fn, "sf_swizzle_layout", given)
    return SfLayout.layout_128x4 if swizzled else SfLayout.layout_linear


def mxfp8_quantize(
    input: torch.Tensor,
    is_sf_swizzled_layout: bool = True,
    alignment: int = 32,
    enable_pdl: bool | None = None,
    backend: str = "cuda",
    sf_swizzle_layout: SfLayout | int | None = None,
    *,
    per_batch: bool = False,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Quantize to MXFP8 (e4m3) with the RCEIL scale rule.

    Args:
        input: ``[*lead, K]`` bf16, fp16 or fp32, any strides; K a multiple of 32.
        is_sf_swizzled_layout: 128x4 scales; else linear.
        alignment: K is padded with zeros to a multiple of this, itself a multiple of 32.
        enable_pdl: ignored.
        backend: any of flashinfer's names, ``"triton"`` or ``"torch"`` (the reference).
        sf_swizzle_layout: layout of the scales; overrides `is_sf_swizzled_layout`.
        per_batch: for an input ``[b, m, k]``: pad the scales of every matrix on their own, as `bmm_mxfp8` reads them. Off:
            the rows of all matrices are those of one, as in flashinfer.

    Returns:
        ``(x_q, sf)``: float8_e4m3fn ``[*lead, Kp]``, ``Kp = round_up(K, alignment)``, and flat e8m0 bytes as uint8,
        ``round_up(M, 128 or 8) * round_up(Kp / 32, 4)`` or ``M * Kp / 32`` (linear), padding 0; with `per_batch` b times
        that for M = m. NaN elements become 448.

    Raises:
        ShapeError, DTypeError, ArgumentError, UnsupportedError, BackendError. Source of the convention: flashinfer 0.7.2
        ``mxfp8_quantize``.
    """
    fn = "mxfp8_quantize"
    checks.backend(fn, backend, BACKENDS)
    layout = _layout(fn, is_sf_swizzled_layout, sf_swizzle_layout)
    if isinstance(alignment, bool) or not isinstance(alignment, int) or alignment < 32 or alignment % 32:
        raise ArgumentError(f"{fn}: alignment must be a positive multiple of 32, got {alignment!r}")
    values, scales = call_quantize_mxfp8(
        fn, input, MXFP8, arg="input", layout=layout, alignment=alignment, per_batch=bool(per_batch), backend=core_backend(backend)
    )  # fmt: skip
    return values.view(torch.float8_e4m3fn), scales


def mxfp8_dequantize_host(
    input: torch.Tensor,
    scale_tensor: torch.Tensor,
    is_sf_swizzled_layout: bool = True,
    sf_swizzle_layout: SfLayout | int | None = None,
) -> torch.Tensor:
    """Dequantize MXFP8 to fp32.

    Args:
        input: ``[M, K]`` uint8 or float8_e4m3fn, K a multiple of 32.
        scale_tensor: e8m0 scale bytes of the layout's exact size, flat or 2-D; code 0 decodes to 0, as in flashinfer.
        is_sf_swizzled_layout: 128x4 scales; else linear.
        sf_swizzle_layout: layout of the scales; overrides `is_sf_swizzled_layout`.

    Returns:
        fp32 ``[M, K]`` on the input's device.

    Raises:
        ShapeError, DTypeError, ArgumentError, DeviceError. Source of the convention: flashinfer 0.7.2.
    """
    fn = "mxfp8_dequantize_host"
    kind = _layout(fn, is_sf_swizzled_layout, sf_swizzle_layout)
    checks.dtype(fn, "input", input, (torch.uint8, torch.float8_e4m3fn))
    if input.ndim != 2 or input.shape[1] % 32:
        raise ShapeError(f"{fn}: input must be [M, K] with K a multiple of 32, got shape {tuple(input.shape)}")
    rows, cols = input.shape
    checks.dtype(fn, "scale_tensor", scale_tensor, checks.SCALE_DTYPES["e8m0"])
    want = LAYOUTS[kind].numel(rows, cols // 32)
    if scale_tensor.ndim not in (1, 2) or scale_tensor.numel() != want:
        raise ShapeError(
            f"{fn}: scale_tensor size does not match: got shape {tuple(scale_tensor.shape)}, want {want} scales "
            f"({rows} rows of {cols // 32} in {kind.name}), 2-D or flat"
        )
    checks.same_device(fn, input=input, scale_tensor=scale_tensor)
    return torch.ops.tritonfp4.dequantize.default(
        input.view(torch.uint8), scale_tensor.reshape(-1).view(torch.uint8), None, MXFP8.name, int(kind), 0, [rows, cols],
        torch.float32, True, "auto",
    )  # fmt: skip


def mxfp4_dequantize_host(weight: torch.Tensor, scale: torch.Tensor, group_size: int = 32) -> torch.Tensor:
    """Dequantize MXFP4 with linear scales to fp32.

    Args:
        weight: uint8 (or float4) ``[N, K / 2]``, low nibble first.
        scale: e8m0 scale bytes ``[N, K / group_size]``; code 0 decodes to 2^-127.
        group_size: elements along K that share a scale; even.

    Returns:
        fp32 ``[N, K]`` on the weight's device.

    Raises:
        ShapeError ("weight and scale must have the same number of rows / columns"), DTypeError, ArgumentError,
        DeviceError. Source of the convention: flashinfer 0.7.2 ``mxfp4_dequantize_host``.
    """
    fn = "mxfp4_dequantize_host"
    checks.dtype(fn, "weight", weight, checks.FP4_DTYPES)
    checks.dtype(fn, "scale", scale, checks.SCALE_DTYPES["e8m0"])
    if isinstance(group_size, bool) or not isinstance(group_size, int) or group_size < 2 or group_size % 2:
        raise ArgumentError(f"{fn}: group_size must be a positive even integer, got {group_size!r}")
    for name, t in (("weight", weight), ("scale", scale)):
        if t.ndim != 2:
            raise ShapeError(f"{fn}: {name} must have 2 dimensions, got shape {tuple(t.shape)}")
    rows, cols = weight.shape[0], 2 * weight.shape[1]
    shapes = f"got weight of shape {tuple(weight.shape)}, scale of shape {tuple(scale.shape)}, group_size={group_size}"
    if scale.shape[0] != rows:
        raise ShapeError(f"{fn}: weight and scale must have the same number of rows: {shapes}")
    if scale.shape[1] * group_size != cols:
        raise ShapeError(f"{fn}: weight and scale must have the same number of columns: {shapes}")
    checks.same_device(fn, weight=weight, scale=scale)
    values, codes, shape = weight.view(torch.uint8), scale.view(torch.uint8), [rows, cols]
    if group_size != MXFP4.vec:  # every group becomes a row of its own, whose blocks of 32 have the same scale
        shape = [rows * scale.shape[1], group_size]
        values = values.reshape(shape[0], group_size // 2)
        codes = codes.reshape(shape[0], 1).expand(shape[0], -(-group_size // MXFP4.vec))
    out = torch.ops.tritonfp4.dequantize.default(
        values, codes.reshape(-1), None, MXFP4.name, int(SfLayout.layout_linear), 0, shape, torch.float32, False, "auto"
    )
    return out.reshape(rows, cols)


#: Element by dtype, and its largest magnitude.
_ELEMENTS = {torch.float8_e4m3fn: ("e4m3", 448.0), torch.float8_e5m2: ("e5m2", 57344.0), torch.int8: ("int8", 127.0)}


def per_token_group_quant_8bit(
    x: torch.Tensor,
    group_size: int,
    eps: float = 1e-10,
    dst_dtype: torch.dtype | None = None,
    column_major_scales: bool = False,
    scale_tma_aligned: bool = False,
    scale_ue8m0: bool = False,
    backend: str = "cutile",
) -> tuple[torch.Tensor, torch.Tensor]:
    """Quantize groups of a row to 8 bits: ``s = max(amax, eps) / largest``, ``q = x * (1 / s)``.

    Args:
        x: ``[*lead, K]`` bf16, fp16 or fp32, any strides; K a multiple of `group_size`.
        group_size: elements that share a scale, any number (more than 16384 run in PyTorch on every device, to the same bits).
        eps: lower bound of the amax.
        dst_dtype: float8_e4m3fn (default), float8_e5m2 or int8; ints are rounded to nearest, ties up.
        column_major_scales: scales column-major in memory; 2-D inputs only.
        scale_tma_aligned: with `column_major_scales`, rows in memory padded to a multiple of 4.
        scale_ue8m0: with `column_major_scales`, scales rounded up to powers of two, 2^-33 at least.
        backend: ``"cutile"`` or any other name that the quantizers take, ``"triton"`` or ``"torch"``.

    Returns:
        ``(x_q, x_s)``: `dst_dtype` of x's shape, and fp32 decode multipliers ``[*lead, K / group_size]``.

    Raises:
        ShapeError, DTypeError, ArgumentError, UnsupportedError, BackendError. Source of the convention: flashinfer 0.7.2
        ``per_token_group_quant_8bit``, whose column-major kernel divides by s instead.
    """
    fn = "per_token_group_quant_8bit"
    if backend not in ("cutile", *BACKENDS):
        raise checks.BackendError(
            f"{fn}: Unsupported backend for per_token_group_quant_8bit: {backend!r}, want one of {checks.names(('cutile', *BACKENDS))}"
        )
    if isinstance(group_size, bool) or not isinstance(group_size, int) or group_size < 1:
        raise ArgumentError(f"{fn}: group_size must be a positive integer, got {group_size!r}")
    kind = torch.float8_e4m3fn if dst_dtype is None else dst_dtype
    if kind not in tuple(_ELEMENTS):
        raise checks.UnsupportedTypeError(
            f"{fn}: dst_dtype must be float8_e4m3fn, float8_e5m2, or int8; got {dst_dtype}"
        )
    checks.quantizer_input(fn, "x", x, None)
    if x.shape[-1] % group_size:
        raise ShapeError(
            f"{fn}: the last dimension of `x` {x.shape[-1]} must be divisible by `group_size` {group_size}"
        )
    if (scale_tma_aligned or scale_ue8m0) and not column_major_scales:
        raise ArgumentError(f"{fn}: scale_tma_aligned or scale_ue8m0 requires column_major_scales=True")
    if column_major_scales and x.ndim != 2:
        raise ShapeError(f"{fn}: column_major_scales is only supported for 2D inputs; got a {x.ndim}D input")
    element, largest = _ELEMENTS[kind]
    if scale_ue8m0 and isinstance(eps, (int, float)) and eps >= 0:
        eps = max(eps, 1e-10 * largest)  # what flashinfer bounds the scale by before it rounds
    values, scales = call_quantize_blocks(
        fn, x, element, (1, group_size), eps=eps, pow2=bool(scale_ue8m0),
        mn_align=0 if not column_major_scales else 4 if scale_tma_aligned else 1, backend=core_backend(backend),
    )  # fmt: skip
    return values.view(kind), scales if x.ndim == 2 else scales.view(*x.shape[:-1], x.shape[-1] // group_size)
