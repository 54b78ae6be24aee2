"""Launches of the FP8 and MXFP8 quantizers."""

from __future__ import annotations

import functools
from typing import Any

import torch
from case import Case, elementwise, meta

from tritonfp4.device import DeviceInfo
from tritonfp4.formats import FORMATS
from tritonfp4.layouts import SfLayout, as_layout, ceil_div
from tritonfp4.tensor import BlockScaledTensor

SWIZZLED, NARROW, LINEAR = SfLayout.layout_128x4, SfLayout.layout_8x4, SfLayout.layout_linear


def _mxfp8(
    shape: tuple[int, ...], dtype: torch.dtype, fmt: str, rule: str, layout: SfLayout, device: DeviceInfo
) -> Any:
    from tritonfp4.kernels.quantize_fp8 import quantize_mxfp8

    config = elementwise("quantize", shape[1], shape[2], device)
    return quantize_mxfp8(meta(*shape, dtype=dtype), FORMATS[fmt], rule, layout, shape[2], config)


def _fp8(
    shape: tuple[int, int], dtype: torch.dtype, element: str, block: tuple[int, int], options: tuple[Any, ...],
    device: DeviceInfo,
) -> Any:  # fmt: skip
    from tritonfp4.kernels.quantize_fp8 import quantize_fp8

    rule, pow2, mn_align = options
    config = elementwise("quantize", *shape, device)
    return quantize_fp8(meta(*shape, dtype=dtype), element, block, rule, 1e-4, pow2, mn_align, config)


def _dequantize(fmt: str, shape: tuple[int, ...], dtype: torch.dtype, layout: SfLayout, device: DeviceInfo) -> Any:
    from tritonfp4.kernels.dequantize import dequantize

    f = FORMATS[fmt]
    *lead, rows, cols = shape
    batch, sizes = (lead or [1])[0], (ceil_div(rows, f.block[0]), ceil_div(cols, f.vec))
    if f.scale == "fp32":
        scales = meta(*lead, *sizes, dtype=torch.float32)
    else:
        scales = meta(batch * as_layout(layout).numel(*sizes) if f.scale else 0, dtype=torch.uint8)
    g = meta(batch, dtype=torch.float32) if f.two_level else None
    values = meta(*lead, rows, cols // f.packing, dtype=torch.uint8)
    t = BlockScaledTensor(values, scales, g, f, layout, shape, 0, bool(lead))
    return dequantize(t, dtype, False, elementwise("dequantize", batch * rows, cols, device))


_BF16, _F16, _F32 = torch.bfloat16, torch.float16, torch.float32
_MATRIX = (4096, 4096)


def _case(name: str, launch: Any, *args: Any) -> Case:
    return Case(name, functools.partial(launch, *args))


CASES: list[Case] = [
    _case("quantize_mxfp8 bf16", _mxfp8, (1, *_MATRIX), _BF16, "mxfp8", "static_6", SWIZZLED),
    _case("quantize_mxfp8 fp32 8x4 floor", _mxfp8, (1, 8, 4096), _F32, "mxfp8", "floor", NARROW),
    _case("quantize_mxfp8 fp16 e5m2 linear batched", _mxfp8, (3, 130, 320), _F16, "mxfp8_e5m2", "static_6", LINEAR),
    _case("quantize_fp8 1x128 bf16", _fp8, _MATRIX, _BF16, "e4m3", (1, 128), ("internal", False, 0)),
    _case("quantize_fp8 1x128 fp32 pow2 MN", _fp8, _MATRIX, _F32, "e4m3", (1, 128), ("amax", True, 4)),
    _case("quantize_fp8 128x128 bf16", _fp8, _MATRIX, _BF16, "e4m3", (128, 128), ("internal", False, 0)),
    _case("quantize_fp8 128x128 fp32 divide ragged", _fp8, (201, 201), _F32, "e4m3", (128, 128), ("divide", True, 1)),
    _case("quantize_fp8 1x16 int8", _fp8, _MATRIX, _BF16, "int8", (1, 16), ("amax", False, 0)),
    _case("quantize_fp8 1x96 e5m2", _fp8, (100, 960), _F16, "e5m2", (1, 96), ("amax", False, 1)),
    _case("quantize_fp8 128x128 fp32 ragged", _fp8, (201, 201), _F32, "e4m3", (128, 128), ("internal", False, 1)),
    _case("quantize_fp8 128x128 bf16 ragged", _fp8, (201, 201), _BF16, "e4m3", (128, 128), ("amax", True, 1)),
    _case("quantize_fp8 128x256 divide", _fp8, _MATRIX, _F32, "e5m2", (128, 256), ("divide", True, 1)),
    _case("quantize_fp8 1x16384", _fp8, (64, 16384), _BF16, "e4m3", (1, 16384), ("amax", False, 0)),
    _case("quantize_fp8 1x4096", _fp8, _MATRIX, _BF16, "e4m3", (1, 4096), ("amax", False, 0)),
    _case("dequantize mxfp8 bf16", _dequantize, "mxfp8", _MATRIX, _BF16, SWIZZLED),
    _case("dequantize mxfp8_e5m2 fp32 batched", _dequantize, "mxfp8_e5m2", (3, 130, 320), _F32, SWIZZLED),
    _case("dequantize fp8_1x128 bf16", _dequantize, "fp8_1x128", _MATRIX, _BF16, LINEAR),
    _case("dequantize fp8_128x128 fp16 batched", _dequantize, "fp8_128x128", (4, 256, 384), _F16, LINEAR),
    _case("dequantize fp8 batched", _dequantize, "fp8", (4, 256, 384), _BF16, LINEAR),
    _case("dequantize nvfp4 batched", _dequantize, "nvfp4", (4, 256, 384), _BF16, SWIZZLED),
]
