"""flashinfer's NVFP4 quantization of KV caches."""

from __future__ import annotations

import torch

from tritonfp4 import checks
from tritonfp4.checks import ShapeError
from tritonfp4.flashinfer._support import supported_everywhere
from tritonfp4.formats import NVFP4
from tritonfp4.layouts import SfLayout
from tritonfp4.verbs.quantize import call_quantize


def _k_dimension(fn: str, arg: str, x: torch.Tensor, packing: int) -> tuple[int, int]:
    if x.ndim != 2:
        raise ShapeError(f"{fn}: {arg} must have 2 dimensions, got shape {tuple(x.shape)}")
    rows, k = x.shape[0], packing * x.shape[1]
    if k % 16:
        raise ShapeError(f"{fn}: K dimension ({k}) must be divisible by 16: got {arg} of shape {tuple(x.shape)}")
    return rows, k


@supported_everywhere(())
def nvfp4_kv_quantize(
    input: torch.Tensor, global_scale: torch.Tensor, *, skip_check: bool = False
) -> tuple[torch.Tensor, torch.Tensor]:
    """Quantize keys or values to NVFP4 with linear scales.

    Args:
        input: ``[M, K]`` bf16, fp16 or fp32, any strides; K a multiple of 16.
        global_scale: the decode multiplier (``amax / (448 * 6)`` or larger), fp32 with 1 element: block scales are ``block
            amax / 6 / global_scale``. The other quantizers take the reciprocal.
        skip_check: accepted; flashinfer skips its check of the GPU, there is none here.

    Returns:
        uint8 ``[M, K / 2]`` and e4m3 scale bytes uint8 ``[M, K / 16]``.

    Raises:
        ShapeError, DTypeError, DeviceError, UnsupportedError. Source of the convention: flashinfer 0.7.2
        ``nvfp4_kv_quantize``.
    """
    fn = "nvfp4_kv_quantize"
    checks.quantizer_input(fn, "input", input, None)
    rows, k = _k_dimension(fn, "input", input, 1)
    checks.global_scale(fn, "global_scale", global_scale, 1)
    values, scales, _ = call_quantize(
        fn, input, NVFP4, arg="input", e4m3_max=448, global_scale=global_scale, scale_from="decode",
        layout=SfLayout.layout_linear,
    )  # fmt: skip
    return values, scales.view(rows, k // 16)


@supported_everywhere(())
def nvfp4_kv_dequantize(
    fp4_data: torch.Tensor,
    block_scales: torch.Tensor,
    global_scale: torch.Tensor,
    output_dtype: torch.dtype = torch.bfloat16,
    *,
    skip_check: bool = False,
) -> torch.Tensor:
    """The inverse of `nvfp4_kv_quantize`.

    Args:
        fp4_data: uint8 (or float4) ``[M, K / 2]``.
        block_scales: e4m3 scale bytes ``[M, K / 16]``, uint8 or float8_e4m3fn.
        global_scale: the decode multiplier, fp32 with 1 element.
        output_dtype: bf16 or fp16.
        skip_check: accepted; flashinfer skips its check of the GPU, there is none here.

    Returns:
        ``[M, K]`` of `output_dtype` on the device of the input: ``element * scale * global_scale`` in fp32, rounded once.

    Raises:
        ShapeError, DTypeError, DeviceError, UnsupportedError. Source of the convention: flashinfer 0.7.2
        ``nvfp4_kv_dequantize``.
    """
    fn = "nvfp4_kv_dequantize"
    checks.dtype(fn, "fp4_data", fp4_data, checks.FP4_DTYPES)
    rows, k = _k_dimension(fn, "fp4_data", fp4_data, 2)
    checks.dtype(fn, "block_scales", block_scales, checks.SCALE_DTYPES["e4m3"])
    if tuple(block_scales.shape) != (rows, k // 16):
        raise ShapeError(
            f"{fn}: block_scales must have shape {(rows, k // 16)}, one for 16 elements: got {tuple(block_scales.shape)}"
        )
    checks.global_scale(fn, "global_scale", global_scale, 1)
    checks.out_dtype(fn, output_dtype, (torch.bfloat16, torch.float16), "output_dtype")
    checks.same_device(fn, fp4_data=fp4_data, block_scales=block_scales, global_scale=global_scale)
    return torch.ops.tritonfp4.dequantize.default(
        fp4_data.view(torch.uint8), block_scales.view(torch.uint8).reshape(-1), global_scale, "nvfp4",
        int(SfLayout.layout_linear), 0, [rows, k], output_dtype, False, "auto",
    )  # fmt: skip
