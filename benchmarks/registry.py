"""Operations and shapes of the benchmarks, declared once.

An operation is its cases plus a function ``(case, wants) -> {impl: callable}``; `run.py` times the callables of one case
interleaved.
"""

from __future__ import annotations

import torch

import tritonfp4 as T
from benchmarks import fp4, fp8
from benchmarks.case import Build, Call, Case, Wants

__all__ = ["OPS", "Case"]

QUANTIZE_SHAPES = ((128, 8192), (2048, 8192), (8192, 8192), (16384, 16384))


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
    "quantize_nvfp4": (_quantize_cases("quantize_nvfp4", 16), _quantize("nvfp4", "static_6")),
    "quantize_nvfp4_mse": (_quantize_cases("quantize_nvfp4_mse", 16), _quantize("nvfp4", "mse")),
    "quantize_mxfp4": (_quantize_cases("quantize_mxfp4", 32), _quantize("mxfp4", "static_6")),
    **fp4.OPS,
    **fp8.OPS,
}
