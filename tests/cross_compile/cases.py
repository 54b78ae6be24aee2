"""The launches that are compiled for every architecture: real launchers, configs from `tritonfp4.autotune.select`.

A case says what to launch on a device. The config of a GEMM follows from the device; it names the path, and the path
says which instructions there must be.
"""

from __future__ import annotations

import functools
from typing import Any

import cases_fp8
import cases_fused
import cases_grouped
import cases_hopper
import cases_options
import torch
from case import Case, elementwise, meta

from tritonfp4 import aot
from tritonfp4.config import Config
from tritonfp4.device import DeviceInfo
from tritonfp4.formats import FORMATS
from tritonfp4.layouts import SfLayout

SWIZZLED, NARROW, LINEAR = SfLayout.layout_128x4, SfLayout.layout_8x4, SfLayout.layout_linear


def _quantize(
    name: str, fmt: str, rule: str, scale_from: str, layout: SfLayout = SWIZZLED, dtype: torch.dtype = torch.bfloat16,
    rows: int = 4096, cols: int = 4096,
) -> Case:  # fmt: skip
    def launch(device: DeviceInfo) -> object:
        from tritonfp4.kernels.quantize import quantize

        x = meta(rows, cols, dtype=dtype)
        g = meta(1, dtype=torch.float32) if scale_from in ("encode", "decode") else None
        configs = (elementwise("quantize", rows, cols, device), elementwise("amax", rows, cols, device))
        return quantize(x, g, None, FORMATS[fmt], rule, 448, scale_from, layout, False, *configs)

    return Case(f"quantize {name}", launch)


def _global_scale(device: DeviceInfo) -> object:
    from tritonfp4.kernels.quantize import global_encode_scale

    return global_encode_scale(meta(4096, 4096), 2688.0, elementwise("amax", 4096, 4096, device))


def _dequantize(fmt: str, dtype: torch.dtype, layout: SfLayout, row_shuffle: int, device: DeviceInfo) -> object:
    from tritonfp4.kernels.dequantize import dequantize

    t = aot.operand(fmt, 4096, 4096, layout, row_shuffle)
    assert not isinstance(t, torch.Tensor)
    return dequantize(t, dtype, False, elementwise("dequantize", 4096, 4096, device))


def _relayout(device: DeviceInfo) -> object:
    from tritonfp4.kernels.relayout import relayout

    scales = meta(4096 * 256, dtype=torch.uint8)
    return relayout(scales, 1, 4096, 256, LINEAR, SWIZZLED, 32, elementwise("relayout", 4096, 256, device))


def _shuffle(device: DeviceInfo) -> object:
    from tritonfp4.kernels.relayout import shuffle_rows

    return shuffle_rows(meta(4096, 2048, dtype=torch.uint8), 32, elementwise("shuffle", 4096, 2048, device))


def matmul(
    m: int, a: str, b: str = "", n: int = 4096, k: int = 4096, layout: SfLayout = SWIZZLED, row_shuffle: int = 0,
    dtype: torch.dtype = torch.bfloat16, config: Config | None = None,
) -> Case:  # fmt: skip
    """``[m, k] @ [n, k].T``; `layout` is that of a, b is always 128x4, as weights are."""
    b = b or a
    extra = [] if layout == SWIZZLED else [f"a in {layout.name[7:]}"]
    extra += (
        ["shuffled b"] * bool(row_shuffle)
        + [f"K={k}"] * (k != 4096)
        + [f"N={n}"] * (n != 4096)
        + ["fp32 out"] * (dtype == torch.float32)
    )

    def operands() -> tuple[Any, Any]:
        return aot.operand(a, m, k, layout), aot.operand(b, n, k, SWIZZLED, row_shuffle)

    return Case(
        " ".join([f"matmul {a} x {b} M={m}", *extra]),
        lambda device: aot.matmul(*operands(), device, config, dtype),
        lambda device: config or aot.matmul_config(*operands(), device, dtype),
        (a, b),
    )


CASES: list[Case] = [
    _quantize("nvfp4 static_6", "nvfp4", "static_6", "tensor"),
    _quantize("nvfp4 mse", "nvfp4", "mse", "tensor"),
    _quantize("nvfp4 abs_max by row 8x4 M=8", "nvfp4", "abs_max", "row", NARROW, rows=8),
    _quantize("nvfp4 fp32 linear", "nvfp4", "static_6", "encode", LINEAR, torch.float32),
    _quantize("mxfp4", "mxfp4", "static_6", "none"),
    Case("global_encode_scale", _global_scale),
    Case("dequantize nvfp4 bf16", functools.partial(_dequantize, "nvfp4", torch.bfloat16, SWIZZLED, 0)),
    Case("dequantize mxfp4 fp32 linear shuffled", functools.partial(_dequantize, "mxfp4", torch.float32, LINEAR, 32)),
    Case("relayout linear to 128x4, shuffled", _relayout),
    Case("shuffle_rows", _shuffle),
    matmul(1, "nvfp4"),
    matmul(16, "nvfp4", layout=NARROW),
    matmul(64, "nvfp4", row_shuffle=32),
    matmul(128, "nvfp4"),
    matmul(192, "nvfp4", layout=LINEAR, row_shuffle=32),
    matmul(4096, "nvfp4"),
    matmul(16, "nvfp4", k=2880),
    matmul(128, "nvfp4", k=2880, dtype=torch.float32),
    matmul(40, "nvfp4", row_shuffle=32),
    matmul(16, "mxfp4"),
    matmul(32, "mxfp4"),
    matmul(128, "mxfp4"),
    matmul(4096, "mxfp4", k=2880),
    matmul(64, "mxfp4", layout=LINEAR, k=2880),
    matmul(16, "bf16", "nvfp4"),
    matmul(128, "bf16", "nvfp4"),
    matmul(40, "bf16", "nvfp4"),
    matmul(40, "bf16", "nvfp4", n=4224),  # tiles that are cut, and the kernel that adds up
    matmul(20, "bf16", "mxfp4"),
    matmul(60, "nvfp4", "mxfp4"),
    matmul(100, "bf16", "nvfp4", n=4224),
    matmul(4, "bf16", "nvfp4", n=28672),
    matmul(6, "bf16", "mxfp4", n=28672),
    matmul(1, "bf16", "nvfp4", k=2880),
    matmul(16, "bf16", "nvfp4", k=2880),
    matmul(16, "fp16", "nvfp4"),
    matmul(16, "fp16", "mxfp4"),
    matmul(128, "fp16", "mxfp4"),
    matmul(40, "fp16", "mxfp4"),
    matmul(128, "mxfp4", "nvfp4"),
]
CASES += cases_options.CASES + cases_fp8.CASES + cases_fused.CASES + cases_grouped.CASES + cases_hopper.CASES

#: One or two of every kernel family, with the widest differences between architectures: what is compiled on the secondary
#: architectures and by the other Tritons.
CORE = {
    "quantize nvfp4 static_6",
    "quantize nvfp4 abs_max by row 8x4 M=8",
    "quantize mxfp4",
    "dequantize mxfp4 fp32 linear shuffled",
    "relayout linear to 128x4, shuffled",
    "matmul nvfp4 x nvfp4 M=1",
    "matmul nvfp4 x nvfp4 M=16 K=2880",
    "matmul nvfp4 x nvfp4 M=40 shuffled b",
    "matmul nvfp4 x nvfp4 M=128",
    "matmul mxfp4 x mxfp4 M=32",
    "matmul mxfp4 x mxfp4 M=64 a in linear K=2880",
    "matmul bf16 x nvfp4 M=16",
    "matmul fp16 x mxfp4 M=128",
    "options 2-D nvfp4 abs_max stochastic",
    "options stochastic mxfp4",
    "options e4m3 to nvfp4",
    "rotate by 16 bf16",
    "quantize_mxfp8 fp16 e5m2 linear batched",
    "quantize_fp8 1x128 fp32 pow2 MN",
    "quantize_fp8 128x128 bf16 ragged",
    "dequantize fp8_128x128 fp16 batched",
    "quantize_batched nvfp4 silu masked",
    "rmsnorm_quantize nvfp4 residual H=7168 both",
    "grouped batch fp8_1x128 x fp8_128x128 M=4096",
    "grouped indptr fp8_1x128 x fp8_128x128 M=32",
    "grouped indices fp8_1x128 x fp8_128x128 M=512",
    "grouped batch fp8 x fp8_e5m2 M=512",
    "grouped indptr mxfp8 x mxfp4 M=32",
    "grouped indptr nvfp4 x nvfp4 M=32",
    "hopper batch M=4096 N=7168 K=16384",
    "hopper batch M=16 N=2112 K=7168",
    "hopper indptr M=32 N=4096 K=7168",
}
assert {case.name for case in CASES} >= CORE
