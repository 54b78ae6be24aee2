"""FP4 weights: dense products with bf16 (W4A16) or FP4 (W4A4) activations, and those of routed experts: cases and calls."""

from __future__ import annotations

import torch

import tritonfp4 as T
from benchmarks.case import FP4_BITS, TOP_K, Build, Call, Case, Wants, copy_case, present
from benchmarks.inputs import copy_calls, random_bf16, routed_sizes
from benchmarks.peers import humming, torch_peers, tried

#: (N, K), and the rows that they are timed for.
SHAPES = ((4096, 4096), (28672, 4096), (4096, 14336), (8192, 8192))
ROWS = (1, 16, 64, 256, 4096)
#: Experts, their (N, K), and the tokens that are routed to `TOP_K` of them.
EXPERTS = (8, 32, 128)
EXPERT_SHAPES = ((2048, 2880), (4096, 7168))
TOKENS = (1, 4, 16, 64, 256, 1024, 4096)


def _dense_cases(op: str, a_bits: float, format: str) -> list[Case]:
    def case(m: int, n: int, k: int) -> Case:
        moved = m * k * a_bits / 8 + n * k * FP4_BITS[format] / 8 + 2 * m * n
        return Case(op, m, n, k, 1, 2.0 * m * n * k, moved)

    return [copy_case(op), *(case(m, n, k) for n, k in SHAPES for m in ROWS)]


def _dense(format: str, w4a16: bool) -> Build:
    def build(case: Case, wants: Wants) -> dict[str, Call]:
        if case == copy_case(case.op):
            return copy_calls(case)
        x, w = random_bf16(case.m, case.k), random_bf16(case.n, case.k)
        b = T.quantize(w, format)
        a = x if w4a16 else T.quantize(x, format)
        linear = [t if isinstance(t, torch.Tensor) else t.to_layout(T.SfLayout.layout_linear) for t in (a, b)]
        out = x.new_empty(case.m, case.n)
        return present(
            {
                "tritonfp4": lambda: T.matmul(a, b, out=out),
                "humming": humming.dense(a, b) if wants("humming") else None,
                "torch_dequant": lambda: torch_peers.dequantize_then_mm(*linear),
                "torch_bf16": lambda: torch.mm(x, w.t()),
            }
        )

    return build


def _grouped_case(op: str, experts: int, tokens: int, n: int, k: int, format: str) -> Case:
    """m: rows of all experts; the weights of an expert without rows are not read."""
    m, live = TOP_K * tokens, sum(size > 0 for size in routed_sizes(experts, tokens, TOP_K))
    return Case(op, m, n, k, experts, 2.0 * m * n * k, 2 * m * k + live * n * k * FP4_BITS[format] / 8 + 2 * m * n)


def _grouped_cases(op: str, format: str) -> list[Case]:
    return [_grouped_case(op, e, tokens, n, k, format) for e in EXPERTS for n, k in EXPERT_SHAPES for tokens in TOKENS]


def _grouped(format: str) -> Build:
    def build(case: Case, wants: Wants) -> dict[str, Call]:
        x, w = random_bf16(case.m, case.k), random_bf16(case.groups, case.n, case.k)
        b = T.BlockScaledTensor.stack([T.quantize(one, format) for one in w])
        sizes = routed_sizes(case.groups, case.m // TOP_K, TOP_K)
        ends = torch.tensor([0, *sizes], device=x.device).cumsum(0).int()
        out = x.new_empty(case.m, case.n)
        return present(
            {
                "tritonfp4": lambda: T.grouped_matmul(x, b, ends, out=out),
                "humming": humming.grouped(x, b, ends) if wants("humming") else None,
                "torch_bf16": tried("torch_bf16", lambda: torch_peers.grouped_mm(x, w, ends))
                if wants("torch_bf16")
                else None,
            }
        )

    return build


OPS: dict[str, tuple[list[Case], Build]] = {
    "w4a16_nvfp4": (_dense_cases("w4a16_nvfp4", 16, "nvfp4"), _dense("nvfp4", True)),
    "w4a16_mxfp4": (_dense_cases("w4a16_mxfp4", 16, "mxfp4"), _dense("mxfp4", True)),
    "w4a4_nvfp4": (_dense_cases("w4a4_nvfp4", FP4_BITS["nvfp4"], "nvfp4"), _dense("nvfp4", False)),
    "w4a4_mxfp4": (_dense_cases("w4a4_mxfp4", FP4_BITS["mxfp4"], "mxfp4"), _dense("mxfp4", False)),
    "fp4_grouped": (_grouped_cases("fp4_grouped", "nvfp4"), _grouped("nvfp4")),
    "fp4_grouped_mxfp4": (_grouped_cases("fp4_grouped_mxfp4", "mxfp4"), _grouped("mxfp4")),
}
