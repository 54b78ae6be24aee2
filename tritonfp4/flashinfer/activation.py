"""flashinfer's activations with quantization."""

from __future__ import annotations

import torch

from tritonfp4.flashinfer.quantization.batched import masked_quantize
from tritonfp4.flashinfer.quantization.recipe import UNSET, NVFP44Over6Config, Unset

__all__ = ["silu_and_mul_scaled_nvfp4_experts_quantize"]


def silu_and_mul_scaled_nvfp4_experts_quantize(
    a: torch.Tensor,
    mask: torch.Tensor,
    a_global_sf: torch.Tensor,
    nvfp4_4over6: NVFP44Over6Config | None | Unset = UNSET,
) -> tuple[torch.Tensor, torch.Tensor]:
    """`scaled_fp4_grouped_quantize` of ``silu(a[..., :K]) * a[..., K:]``, computed as `silu_and_mul_nvfp4_quantize` does.

    Args:
        a: ``[B, M, 2K]`` bf16, fp16 or fp32, any strides; K a multiple of 16.
        mask: int32 ``[B]``, the rows of each expert that count; never read on the host.
        a_global_sf: the encode scales ``448 * 6 / amax`` of the products, fp32 ``[B]``, or 1 element for all experts.
        nvfp4_4over6: a four-over-six recipe; omitted or None: off.

    Returns:
        uint8 ``[M, K / 2, B]`` and 6-D float8_e4m3fn scales as `scaled_fp4_grouped_quantize`.

    Raises:
        ShapeError, DTypeError, ArgumentError, DeviceError, UnsupportedError. Source of the convention: flashinfer 0.7.2
        ``silu_and_mul_scaled_nvfp4_experts_quantize``.
    """
    fn = "silu_and_mul_scaled_nvfp4_experts_quantize"
    return masked_quantize(fn, a, mask, a_global_sf, nvfp4_4over6, "silu_and_mul")
