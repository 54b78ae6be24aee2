"""Launches of the quantizers' options."""

from __future__ import annotations

import functools

import torch
from case import Case, elementwise, meta

from tritonfp4.device import DeviceInfo
from tritonfp4.formats import FORMATS
from tritonfp4.layouts import SfLayout
from tritonfp4.ops.quantize import pass_of

SWIZZLED, LINEAR = SfLayout.layout_128x4, SfLayout.layout_linear


def _quantize(
    name: str, fmt: str, rule: str, scale_from: str, tile_2d: bool = False, rounding: str = "nearest",
    dtype: torch.dtype = torch.bfloat16, layout: SfLayout = SWIZZLED, cols: int = 4096,
) -> Case:  # fmt: skip
    def launch(device: DeviceInfo) -> object:
        from tritonfp4.kernels.quantize import quantize

        x = meta(4096, cols, dtype=dtype)
        g = meta(1, dtype=torch.float32) if scale_from in ("encode", "decode") else None
        seed = None if rounding == "nearest" else meta(1, dtype=torch.int64)
        op = pass_of(dtype, rule, tile_2d, rounding)
        configs = elementwise(op, 4096, cols, device), elementwise("amax", 4096, cols, device)
        options = tile_2d, rounding, seed
        return quantize(x, g, None, FORMATS[fmt], rule, 448, scale_from, layout, cols % 64 != 0, *configs, *options)

    return Case(f"options {name}", launch)


def _rotate(h: int, dtype: torch.dtype, device: DeviceInfo) -> object:
    from tritonfp4.kernels.rotate import rotate

    x, had = meta(4096, 4096, dtype=dtype), meta(h, h, dtype=dtype)
    return rotate(x, had, elementwise("rotate", 4096, 4096, device))


CASES: list[Case] = [
    _quantize("2-D nvfp4 static_6", "nvfp4", "static_6", "tensor", tile_2d=True),
    _quantize("2-D nvfp4 mse fp32", "nvfp4", "mse", "tensor", tile_2d=True, dtype=torch.float32),
    _quantize("2-D nvfp4 abs_max stochastic", "nvfp4", "abs_max", "tensor", True, "stochastic"),
    _quantize("2-D nvfp4 stochastic unbiased", "nvfp4", "static_6", "tensor", True, "stochastic_unbiased"),
    _quantize("2-D mxfp4 linear", "mxfp4", "static_6", "none", tile_2d=True, layout=LINEAR),
    _quantize("stochastic nvfp4 unbiased", "nvfp4", "static_6", "tensor", rounding="stochastic_unbiased"),
    _quantize("stochastic nvfp4 mse by row", "nvfp4", "mse", "row", rounding="stochastic"),
    _quantize("stochastic mxfp4", "mxfp4", "static_6", "none", rounding="stochastic"),
    _quantize("stochastic nvfp4 K=1001", "nvfp4", "static_6", "tensor", rounding="stochastic", cols=1001),
    _quantize("e4m3 to nvfp4", "nvfp4", "static_6", "encode", dtype=torch.uint8),
    _quantize("e4m3 to mxfp4", "mxfp4", "static_6", "none", dtype=torch.uint8),
    Case("rotate by 16 bf16", functools.partial(_rotate, 16, torch.bfloat16)),
    Case("rotate by 128 fp32", functools.partial(_rotate, 128, torch.float32)),
]
