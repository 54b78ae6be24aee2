"""Launches of the fused, batched and grouped quantizers."""

from __future__ import annotations

import dataclasses

import torch
from case import Case, elementwise, meta

from tritonfp4.device import DeviceInfo
from tritonfp4.formats import FORMATS, NVFP4
from tritonfp4.layouts import SfLayout, as_layout

SWIZZLED, LINEAR = SfLayout.layout_128x4, SfLayout.layout_linear
I32, F32, U8 = torch.int32, torch.float32, torch.uint8


def _batched(
    name: str, activation: str, rule: str, masked: bool, layout: SfLayout = SWIZZLED, dtype: torch.dtype = torch.bfloat16,
    shape: tuple[int, int, int] = (8, 512, 4096),
) -> Case:  # fmt: skip
    def launch(device: DeviceInfo) -> object:
        from tritonfp4.kernels.fused import quantize_batched

        x = meta(*shape, dtype=dtype)
        counts, g = (
            (meta(shape[0], dtype=I32), meta(shape[0], 1, dtype=F32)) if masked else (None, meta(1, 1, dtype=F32))
        )
        config = elementwise("quantize_batched", *shape[1:], device)
        return quantize_batched(x, counts, g, NVFP4, activation, rule, 448, layout, config)

    return Case(f"quantize_batched {name}", launch)


def _rmsnorm(
    name: str, fmt: str, vec: int, residual: bool, hidden: int, both: bool = False, dtype: torch.dtype = torch.bfloat16,
    layout: SfLayout = SWIZZLED,
) -> Case:  # fmt: skip
    def launch(device: DeviceInfo) -> object:
        from tritonfp4.kernels.fused import rmsnorm_quantize

        rows, x = 64, meta(64, hidden, dtype=dtype)
        kind = dataclasses.replace(FORMATS[fmt], block=(1, vec))
        swizzled = (
            meta(as_layout(SWIZZLED).numel(rows, hidden // vec), dtype=U8) if both or layout == SWIZZLED else None
        )
        linear = meta(rows * hidden // vec, dtype=U8) if both or layout == LINEAR else None
        normed = torch.empty_like(x) if both else None
        values, g = meta(rows, hidden // 2, dtype=U8), meta(1, dtype=F32)
        rest = torch.empty_like(x) if residual else None
        weight, config = meta(hidden, dtype=dtype), elementwise("rmsnorm", rows, hidden, device)
        return rmsnorm_quantize(x, rest, weight, g, 1e-6, kind, values, swizzled, linear, normed, config)

    return Case(f"rmsnorm_quantize {name}", launch)


CASES: list[Case] = [
    _batched("nvfp4", "", "static_6", False),
    _batched("nvfp4 masked mae", "", "mae", True),
    _batched("nvfp4 silu masked", "silu_and_mul", "static_6", True),
    _batched("nvfp4 silu fp16 linear mse", "silu_and_mul", "mse", False, LINEAR, torch.float16, (1, 4096, 8192)),
    _rmsnorm("nvfp4 H=4096", "nvfp4", 16, False, 4096),
    _rmsnorm("nvfp4 residual H=7168 both", "nvfp4", 16, True, 7168, True),
    _rmsnorm("mxfp4 residual fp16 H=16384 linear", "mxfp4", 32, True, 16384, dtype=torch.float16, layout=LINEAR),
    _rmsnorm("nvfp4 blocks of 32 fp32 H=1536", "nvfp4", 32, False, 1536, dtype=torch.float32),
    _rmsnorm("nvfp4 H=128", "nvfp4", 16, False, 128),
]
