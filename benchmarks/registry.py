"""Operations and shapes of the benchmarks, declared once.

An operation is its cases plus a function ``(case, wants) -> {impl: callable}``; `run.py` times the callables of one case
interleaved.
"""

from __future__ import annotations

import torch

import tritonfp4 as T
from benchmarks import fp8
from benchmarks.case import Build, Call, Case, Wants
from benchmarks.peers import torch_peers

__all__ = ["OPS", "Case"]

GEMM_SHAPES = ((4096, 4096), (28672, 4096), (4096, 14336), (8192, 8192))
GEMM_ROWS = (1, 16, 64, 256, 4096)
QUANTIZE_SHAPES = ((128, 8192), (2048, 8192), (8192, 8192), (16384, 16384))


def _gemm_cases(op: str, bits_a: float, bits_b: float) -> list[Case]:
    def bytes_of(m: int, n: int, k: int) -> float:
        return m * k * bits_a / 8 + n * k * bits_b / 8 + 2 * m * n

    return [Case(op, m, n, k, 1, 2.0 * m * n * k, bytes_of(m, n, k)) for n, k in GEMM_SHAPES for m in GEMM_ROWS]


def _gemm(format: str, w4a16: bool) -> Build:
    def build(case: Case, wants: Wants) -> dict[str, Call]:
        x = torch.randn(case.m, case.k, device="cuda", dtype=torch.bfloat16)
        w = torch.randn(case.n, case.k, device="cuda", dtype=torch.bfloat16)
        b = T.quantize(w, format)
        a = x if w4a16 else T.quantize(x, format)
        linear = [t if isinstance(t, torch.Tensor) else t.to_layout(T.SfLayout.layout_linear) for t in (a, b)]
        out = torch.empty(case.m, case.n, device="cuda", dtype=torch.bfloat16)
        return {
            "tritonfp4": lambda: T.matmul(a, b, out=out),
            "torch_dequant": lambda: torch_peers.dequantize_then_mm(*linear),
            "torch_bf16": lambda: torch.mm(x, w.t()),
        }

    return build


def _quantize(format: str, rule: str) -> Build:
    def build(case: Case, wants: Wants) -> dict[str, Call]:
        x = torch.randn(case.m, case.k, device="cuda", dtype=torch.bfloat16)
        other = torch.empty_like(x)
        g = torch.full((1,), 0.002, device="cuda") if format == "nvfp4" else None
        return {
            "tritonfp4": lambda: T.quantize(x, format, rule=rule, global_scale=g),
            "copy": lambda: other.copy_(x),
        }

    return build


def _quantize_cases(op: str, vec: int) -> list[Case]:
    return [Case(op, m, 0, k, 1, 0.0, m * k * (2 + 0.5 + 1 / vec)) for m, k in QUANTIZE_SHAPES]


OPS: dict[str, tuple[list[Case], Build]] = {
    "w4a4_nvfp4": (_gemm_cases("w4a4_nvfp4", 4.5, 4.5), _gemm("nvfp4", False)),
    "w4a4_mxfp4": (_gemm_cases("w4a4_mxfp4", 4.25, 4.25), _gemm("mxfp4", False)),
    "w4a16_nvfp4": (_gemm_cases("w4a16_nvfp4", 16, 4.5), _gemm("nvfp4", True)),
    "w4a16_mxfp4": (_gemm_cases("w4a16_mxfp4", 16, 4.25), _gemm("mxfp4", True)),
    "quantize_nvfp4": (_quantize_cases("quantize_nvfp4", 16), _quantize("nvfp4", "static_6")),
    "quantize_nvfp4_mse": (_quantize_cases("quantize_nvfp4_mse", 16), _quantize("nvfp4", "mse")),
    "quantize_mxfp4": (_quantize_cases("quantize_mxfp4", 32), _quantize("mxfp4", "static_6")),
    **fp8.OPS,
}
