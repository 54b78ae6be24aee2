"""flashinfer's RMS normalizations with FP4 quantization."""

from __future__ import annotations

import torch

from tritonfp4.verbs.fused import call_rmsnorm_quantize

__all__ = ["add_rmsnorm_fp4quant", "rmsnorm_fp4quant"]


def rmsnorm_fp4quant(
    input: torch.Tensor,
    weight: torch.Tensor,
    y_fp4: torch.Tensor | None = None,
    block_scale: torch.Tensor | None = None,
    global_scale: torch.Tensor | None = None,
    eps: float = 1e-6,
    block_size: int = 16,
    scale_format: str | None = None,
    is_sf_swizzled_layout: bool = False,
    enable_pdl: bool | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """RMS normalization times a weight, quantized to FP4: ``y = input / sqrt(mean(input^2) + eps) * weight``.

    ``input * weight`` is rounded to their dtype, multiplied by the fp32 reciprocal root, and quantized from fp32.

    Args:
        input: ``[*lead, H]`` bf16, fp16 or fp32, any strides; H at least 64 and a multiple of `block_size`.
        weight: ``[H]`` of the same dtype.
        y_fp4: contiguous ``[*lead, H / 2]`` to write to, float4_e2m1fn_x2 or uint8.
        block_scale: contiguous scales to write to, e4m3 (or e8m0) or uint8: ``[*lead, H / block_size]``, or flat
            ``[round_up(M, 128) * round_up(H / block_size, 4)]`` if swizzled.
        global_scale: the encode scale ``448 * 6 / amax(y)``, fp32 with 1 element; None is 1. Ignored for ue8m0 scales.
        eps: added to the mean square.
        block_size: 16 or 32.
        scale_format: "e4m3" or "ue8m0"; by default e4m3 for blocks of 16 and ue8m0 for blocks of 32.
        is_sf_swizzled_layout: scales in 128x4 (padding 0); else linear.
        enable_pdl: ignored.

    Returns:
        ``(y_fp4, block_scale)``: those given, or new ones of float4_e2m1fn_x2 and of float8_e4m3fn (uint8 for ue8m0).

    Raises:
        ShapeError, DTypeError, ArgumentError, DeviceError, UnsupportedError. Source of the convention: flashinfer 0.7.2
        ``rmsnorm_fp4quant``.
    """
    values, scales, _ = call_rmsnorm_quantize(
        "rmsnorm_fp4quant", input, None, weight, y_fp4, block_scale, None, global_scale, eps, block_size, scale_format,
        bool(is_sf_swizzled_layout), False,
    )  # fmt: skip
    return values, scales


def add_rmsnorm_fp4quant(
    input: torch.Tensor,
    residual: torch.Tensor,
    weight: torch.Tensor,
    y_fp4: torch.Tensor | None = None,
    block_scale: torch.Tensor | None = None,
    global_scale: torch.Tensor | None = None,
    eps: float = 1e-6,
    block_size: int = 16,
    scale_format: str | None = None,
    is_sf_swizzled_layout: bool = False,
    output_both_sf_layouts: bool = False,
    block_scale_unswizzled: torch.Tensor | None = None,
    enable_pdl: bool | None = None,
    y_out: torch.Tensor | None = None,
) -> tuple[torch.Tensor, ...]:
    """``residual += input`` in place, then `rmsnorm_fp4quant` of the residual.

    The mean square is that of the fp32 sum; what is normalized is the sum rounded to the residual's dtype, and ``y = residual *
    reciprocal root * weight`` stays in fp32 until it is quantized.

    Args:
        input: ``[*lead, H]`` bf16, fp16 or fp32, any strides; H at least 64 and a multiple of `block_size`.
        residual: the same shape and dtype, any strides without overlap; updated in place.
        weight: ``[H]`` of the same dtype.
        y_fp4: contiguous ``[*lead, H / 2]`` to write to, float4_e2m1fn_x2 or uint8.
        block_scale: contiguous scales to write to as for `rmsnorm_fp4quant`; swizzled with `output_both_sf_layouts`.
        global_scale: the encode scale ``448 * 6 / amax(y)``, fp32 with 1 element; None is 1. Ignored for ue8m0 scales.
        eps: added to the mean square.
        block_size: 16 or 32.
        scale_format: "e4m3" or "ue8m0"; by default e4m3 for blocks of 16 and ue8m0 for blocks of 32.
        is_sf_swizzled_layout: scales in 128x4 (padding 0); else linear.
        output_both_sf_layouts: return swizzled and linear scales, whatever `is_sf_swizzled_layout` says.
        block_scale_unswizzled: contiguous ``[*lead, H / block_size]`` for the linear scales; ignored unless both are asked
            for.
        enable_pdl: ignored.
        y_out: contiguous tensor of input's shape and dtype that gets y, rounded.

    Returns:
        ``(y_fp4, block_scale)``, with `output_both_sf_layouts` also the linear scales; those given, or new ones.

    Raises:
        ShapeError, DTypeError, ArgumentError, DeviceError, UnsupportedError. Source of the convention: flashinfer 0.7.2
        ``add_rmsnorm_fp4quant``.
    """
    values, scales, linear = call_rmsnorm_quantize(
        "add_rmsnorm_fp4quant", input, residual, weight, y_fp4, block_scale, block_scale_unswizzled, global_scale, eps,
        block_size, scale_format, bool(is_sf_swizzled_layout), bool(output_both_sf_layouts), y_out, True,
    )  # fmt: skip
    return (values, scales) if linear is None else (values, scales, linear)
