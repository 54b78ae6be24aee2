"""Launches of the FP8, MXFP8 and grouped GEMMs."""

from __future__ import annotations

import torch
from case import Case, meta

from tritonfp4.autotune import Problem, select
from tritonfp4.config import Config
from tritonfp4.device import DeviceInfo
from tritonfp4.formats import FORMATS
from tritonfp4.layouts import SfLayout, ceil_div
from tritonfp4.tensor import BlockScaledTensor

SWIZZLED, LINEAR = SfLayout.layout_128x4, SfLayout.layout_linear


def operand(kind: str, *shape: int, ragged: int = 0) -> BlockScaledTensor | torch.Tensor:
    """An operand without memory: 3-D ones are batched; `ragged`: groups of a ragged one."""
    if kind == "bf16":
        return meta(*shape)
    fmt, batched = FORMATS[kind], len(shape) == 3
    layout = LINEAR if fmt.scale in ("fp32", "") else SWIZZLED
    values = meta(*shape[:-1], shape[-1] // fmt.packing, dtype=torch.uint8)
    rows, cols, batch = ceil_div(shape[-2], fmt.block[0]), ceil_div(shape[-1], fmt.vec), shape[0] if batched else 1
    if fmt.scale == "fp32":
        scales = meta(*((batch,) if batched else ()), rows, cols, dtype=torch.float32)
    else:
        rows = (rows + 127 * ragged) // 128 * 128 if ragged else ceil_div(rows, 128) * 128
        scales = meta(batch * rows * ceil_div(cols, 4) * 4 if fmt.scale else 0, dtype=torch.uint8)
    g = meta(1, dtype=torch.float32) if fmt.two_level else None
    return BlockScaledTensor(values, scales, g, fmt, layout, shape, 0, batched)


def grouped(
    name: str,
    mode: str,
    m: int,
    a: str,
    b: str,
    n: int = 2048,
    k: int = 4096,
    count: int = 8,
    config: Config | None = None,
) -> Case:
    """m is the rows of one group. A dense product is a batch of one."""

    def chosen(device: DeviceInfo) -> Config:
        return config or select(Problem("grouped", m, n, k, a, b, device))

    def launch(device: DeviceInfo) -> object:
        from tritonfp4.kernels.products import multiply_groups

        flat = mode in ("indptr", "indices")
        shape = (m * count, k) if flat else (count, m, k)
        x, w = operand(a, *shape, ragged=count if mode == "indptr" else 0), operand(b, count, n, k)
        size = {"indptr": count + 1, "indices": m * count, "masked": count}.get(mode)
        groups = None if size is None else meta(size, dtype=torch.int32)
        out = meta(*shape[:-1], n)
        assert isinstance(w, BlockScaledTensor)
        multiply_groups(x, w, groups, mode, out, chosen(device))
        return out

    return Case(f"{name} {mode} {a} x {b} M={m}", launch, chosen, (a, b))


CASES: list[Case] = [
    grouped("grouped", "batch", 4096, "fp8_1x128", "fp8_128x128", count=1),
    grouped("grouped", "batch", 16, "fp8_1x128", "fp8_128x128", count=1),
    grouped("grouped", "batch", 256, "fp8_1x128", "fp8_1x128", count=1),
    grouped("grouped", "indptr", 512, "fp8_1x128", "fp8_128x128"),
    grouped("grouped", "indptr", 32, "fp8_1x128", "fp8_128x128"),
    grouped("grouped", "indptr", 512, "fp8_128x128_e5m2", "fp8_128x128"),
    grouped("grouped", "indices", 512, "fp8_1x128", "fp8_128x128"),
    grouped("grouped", "masked", 64, "fp8_1x128", "fp8_128x128"),
    grouped("grouped", "batch", 512, "fp8", "fp8_e5m2"),
    grouped("grouped", "batch", 512, "mxfp8", "mxfp8"),
    grouped("grouped", "batch", 16, "mxfp8", "mxfp8"),
    grouped("grouped", "indptr", 512, "mxfp8", "mxfp4"),
    grouped("grouped", "indptr", 32, "mxfp8", "mxfp4"),
    grouped("grouped", "indptr", 512, "nvfp4", "nvfp4"),
    grouped("grouped", "indptr", 32, "nvfp4", "nvfp4"),
    grouped("grouped", "indptr", 32, "bf16", "mxfp4"),
]
