"""flashinfer's SwiGLU with NVFP4 quantization."""

from __future__ import annotations

import torch

from tritonfp4 import checks
from tritonfp4.checks import ArgumentError, ShapeError, UnsupportedError
from tritonfp4.flashinfer.quantization.batched import recipe_options
from tritonfp4.flashinfer.quantization.recipe import UNSET, NVFP44Over6Config, Unset
from tritonfp4.layouts import LAYOUTS, SfLayout, flat_rows
from tritonfp4.verbs.fused import call_quantize_batched


def silu_and_mul_nvfp4_quantize(
    input: torch.Tensor,
    global_scale: torch.Tensor,
    sf_vec_size: int = 16,
    is_sf_swizzled_layout: bool = True,
    is_sf_8x4_layout: bool = False,
    enable_pdl: bool | None = None,
    nvfp4_4over6: NVFP44Over6Config | None | Unset = UNSET,
) -> tuple[torch.Tensor, torch.Tensor]:
    """``silu(input[..., :K]) * input[..., K:]``, computed in fp32, rounded to the input's dtype and quantized to NVFP4.

    silu(x) is ``x / (1 + exp(-x))`` with an exponential of our own, so that all devices give the same bits.

    Args:
        input: ``[*lead, 2K]`` bf16, fp16 or fp32, any strides; K a multiple of 16.
        global_scale: the encode scale ``448 * 6 / amax`` of the product, fp32 with 1 element.
        sf_vec_size: 16.
        is_sf_swizzled_layout: swizzled scales (128x4, or 8x4 with `is_sf_8x4_layout`); else linear.
        is_sf_8x4_layout: 8x4 instead of 128x4.
        enable_pdl: ignored.
        nvfp4_4over6: a four-over-six recipe; omitted or None: off.

    Returns:
        uint8 ``[M, K / 2]``, leading dimensions flattened, and uint8 2-D scales as `fp4_quantize`.

    Raises:
        ShapeError, DTypeError, ArgumentError, DeviceError, UnsupportedError. Source of the convention: flashinfer 0.7.2
        ``silu_and_mul_nvfp4_quantize``.
    """
    fn = "silu_and_mul_nvfp4_quantize"
    if sf_vec_size != 16:
        raise UnsupportedError(f"{fn}: sf_vec_size can only be 16 for silu_and_mul_nvfp4_quantize, got {sf_vec_size!r}")
    if is_sf_8x4_layout and not is_sf_swizzled_layout:
        raise ArgumentError(f"{fn}: is_sf_8x4_layout=True needs is_sf_swizzled_layout=True")
    options = recipe_options(fn, input, nvfp4_4over6)
    checks.quantizer_input(fn, "input", input, None)
    checks.is_tensor(fn, "global_scale", global_scale)
    if global_scale.numel() != 1:
        raise ShapeError(f"{fn}: global_scale must be a scalar: got shape {tuple(global_scale.shape)}, want 1 element")
    layout = SfLayout.layout_linear
    if is_sf_swizzled_layout:
        layout = SfLayout.layout_8x4 if is_sf_8x4_layout else SfLayout.layout_128x4
    rows, cols = flat_rows(input.shape), input.shape[-1] // 2
    values, scales = call_quantize_batched(
        fn, input.reshape(1, rows, input.shape[-1]), global_scale, arg="input", scale_arg="global_scale",
        activation="silu_and_mul", layout=layout, **options,
    )  # fmt: skip
    return values.view(rows, cols // 2), scales.view(LAYOUTS[layout].storage_shape(rows, cols // 16))
