"""flashinfer's batched and masked NVFP4 quantizers."""

from __future__ import annotations

from typing import Any

import torch

from tritonfp4 import checks
from tritonfp4.checks import UnsupportedError
from tritonfp4.flashinfer.quantization.recipe import UNSET, NVFP44Over6Config, Unset, resolve
from tritonfp4.layouts import ceil_div
from tritonfp4.verbs.fused import call_quantize_batched


def recipe_options(fn: str, x: torch.Tensor, nvfp4_4over6: Any) -> dict[str, Any]:
    """The rule and the range of the block scales that a recipe means."""
    recipe = resolve(fn, nvfp4_4over6)
    if recipe is None:
        return {}
    if isinstance(x, torch.Tensor) and x.dtype == torch.float8_e4m3fn:
        raise checks.UnsupportedTypeError(f"{fn}: nvfp4_4over6 requires fp16 or bf16 input, got {x.dtype}")
    return {"rule": recipe.rule, "e4m3_max": recipe.e4m3_max}


def nvfp4_batched_quantize(
    a: torch.Tensor,
    a_global_sf: torch.Tensor,
    sf_vec_size: int = 16,
    nvfp4_4over6: NVFP44Over6Config | None | Unset = UNSET,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Quantize a batch of matrices to NVFP4, each with 128x4 scales of its own.

    Args:
        a: ``[B, M, K]`` bf16, fp16 or fp32, any strides; K a multiple of 16.
        a_global_sf: the encode scale ``448 * 6 / amax``, fp32 with 1 element, or M elements for row m of every matrix.
        sf_vec_size: 16.
        nvfp4_4over6: a four-over-six recipe; omitted or None: off.

    Returns:
        uint8 ``[B, M, K / 2]`` and scale bytes uint8 ``[B, round_up(M, 128) * round_up(K / 16, 4)]``, padding 0.

    Raises:
        ShapeError, DTypeError, ArgumentError, DeviceError, UnsupportedError. Source of the convention: flashinfer 0.7.2
        ``nvfp4_batched_quantize``.
    """
    fn = "nvfp4_batched_quantize"
    if sf_vec_size != 16:
        raise UnsupportedError(f"{fn}: sf_vec_size can only be 16, got {sf_vec_size!r}")
    return call_quantize_batched(fn, a, a_global_sf, arg="a", **recipe_options(fn, a, nvfp4_4over6))


def scaled_fp4_grouped_quantize(
    a: torch.Tensor,
    mask: torch.Tensor,
    a_global_sf: torch.Tensor,
    nvfp4_4over6: NVFP44Over6Config | None | Unset = UNSET,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Quantize the first mask[b] rows of each matrix to NVFP4, for masked grouped GEMMs.

    Args:
        a: ``[B, M, K]`` bf16, fp16 or fp32, any strides; K a multiple of 16.
        mask: int32 ``[B]``, the rows of each matrix that count; never read on the host.
        a_global_sf: the encode scales ``448 * 6 / amax``, fp32 ``[B]``, one for each matrix, or 1 element for all.
        nvfp4_4over6: a four-over-six recipe; omitted or None: off.

    Returns:
        uint8 ``[M, K / 2, B]``, a view of ``[B, M, K / 2]``, and scales float8_e4m3fn ``[32, 4, round_up(M, 128) / 128, 4,
        round_up(K / 16, 4) / 4, B]``, a view of the 128x4 buffers of all matrices. Values and scales of the rows from mask[b]
        on are 0 (flashinfer leaves them unwritten); what `a` holds there does not matter.

    Raises:
        ShapeError, DTypeError, ArgumentError, DeviceError, UnsupportedError. Source of the convention: flashinfer 0.7.2
        ``scaled_fp4_grouped_quantize``.
    """
    return masked_quantize("scaled_fp4_grouped_quantize", a, mask, a_global_sf, nvfp4_4over6, "")


def masked_quantize(
    fn: str, a: torch.Tensor, mask: torch.Tensor, a_global_sf: torch.Tensor, nvfp4_4over6: Any, activation: str
) -> tuple[torch.Tensor, torch.Tensor]:
    """The masked quantizers, with or without SiLU, in the form of flashinfer's masked grouped GEMMs."""
    checks.is_tensor(fn, "mask", mask)
    values, scales = call_quantize_batched(
        fn, a, a_global_sf, arg="a", per="matrix", counts=mask, activation=activation,
        **recipe_options(fn, a, nvfp4_4over6),
    )  # fmt: skip
    batch, rows, half = values.shape
    tiles = scales.view(torch.float8_e4m3fn).view(batch, ceil_div(rows, 128), ceil_div(half // 8, 4), 32, 4, 4)
    return values.permute(1, 2, 0), tiles.permute(3, 4, 1, 5, 2, 0)
