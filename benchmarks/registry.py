"""Operations and shapes of the benchmarks, declared once.

An operation is a function ``case -> {impl: callable}`` plus its cases; `run.py` times the callables of one case interleaved.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

import tritonfp4 as T
from benchmarks.peers import cublaslt, torch_peers


@dataclass(frozen=True)
class Case:
    """One row of work: `flops` and `bytes` are what must be done, whatever the implementation does."""

    op: str
    m: int
    n: int
    k: int
    groups: int
    flops: float
    bytes: float


Build = Callable[[Case], dict[str, Callable[[], object]]]

GEMM_SHAPES = ((4096, 4096), (28672, 4096), (4096, 14336), (8192, 8192))
GEMM_ROWS = (1, 16, 64, 256, 4096)
QUANTIZE_SHAPES = ((128, 8192), (2048, 8192), (8192, 8192), (16384, 16384))


def _gemm_cases(op: str, bits_a: float, bits_b: float) -> list[Case]:
    def bytes_of(m: int, n: int, k: int) -> float:
        return m * k * bits_a / 8 + n * k * bits_b / 8 + 2 * m * n

    return [Case(op, m, n, k, 1, 2.0 * m * n * k, bytes_of(m, n, k)) for n, k in GEMM_SHAPES for m in GEMM_ROWS]


def _gemm(format: str, w4a16: bool) -> Build:
    def build(case: Case) -> dict[str, Callable[[], object]]:
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
    def build(case: Case) -> dict[str, Callable[[], object]]:
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


#: (N, K) of DeepSeek-style layers, and the rows that they are timed for.
FP8_SHAPES = ((2112, 7168), (24576, 1536), (32768, 512), (7168, 16384), (4096, 7168), (7168, 2048))
FP8_ROWS = (1, 16, 64, 128, 1024, 4096)
#: Groups, rows of each, N, K.
FP8_GROUPS = ((4, 8192, 4096, 7168), (8, 4096, 4096, 7168), (8, 4096, 7168, 2048), (32, 256, 4096, 7168), (32, 128, 7168, 2048),
              (64, 128, 4096, 7168))  # fmt: skip


def _fp8_case(op: str, m: int, n: int, k: int, groups: int = 1) -> Case:
    """m: rows of all groups together."""
    moved = m * k * (1 + 4 / 128) + groups * n * k + 2 * m * n
    return Case(op, m, n, k, groups, 2.0 * m * n * k, moved)


def _fp8_dense(case: Case) -> dict[str, Callable[[], object]]:
    x = torch.randn(case.m, case.k, device="cuda", dtype=torch.bfloat16)
    w = torch.randn(case.n, case.k, device="cuda", dtype=torch.bfloat16)
    a, b = T.per_token_cast_to_fp8(x), T.per_block_cast_to_fp8(w)
    out = torch.empty(case.m, case.n, device="cuda", dtype=torch.bfloat16)
    peer = cublaslt.blockwise(*a, *b)
    calls: dict[str, Callable[[], object]] = {
        "tritonfp4": lambda: T.fp8_blockscale_gemm_sm90(a[0], b[0], a[1], b[1], out=out),
        "torch_bf16": lambda: torch.mm(x, w.t()),
    }
    return calls | ({} if peer is None else {"cublaslt": peer})


def _fp8_grouped(case: Case) -> dict[str, Callable[[], object]]:
    each = case.m // case.groups
    x = torch.randn(case.m, case.k, device="cuda", dtype=torch.bfloat16)
    w = torch.randn(case.groups, case.n, case.k, device="cuda", dtype=torch.bfloat16)
    a, a_scale = T.per_token_cast_to_fp8(x)
    experts = [T.per_block_cast_to_fp8(one) for one in w]
    b, b_scale = torch.stack([one[0].view(torch.uint8) for one in experts]), torch.stack([one[1] for one in experts])
    ends = torch.arange(case.groups + 1, device="cuda", dtype=torch.int32) * each
    out = torch.empty(case.m, case.n, device="cuda", dtype=torch.bfloat16)
    batched = x.view(case.groups, each, case.k)
    return {
        "tritonfp4": lambda: T.group_gemm_fp8_nt_groupwise(
            a, b.view(torch.float8_e4m3fn), a_scale, b_scale, ends, scale_major_mode="K", out=out
        ),
        "torch_bf16": lambda: torch.bmm(batched, w.transpose(1, 2)),
    }


OPS: dict[str, tuple[list[Case], Build]] = {
    "w4a4_nvfp4": (_gemm_cases("w4a4_nvfp4", 4.5, 4.5), _gemm("nvfp4", False)),
    "w4a4_mxfp4": (_gemm_cases("w4a4_mxfp4", 4.25, 4.25), _gemm("mxfp4", False)),
    "w4a16_nvfp4": (_gemm_cases("w4a16_nvfp4", 16, 4.5), _gemm("nvfp4", True)),
    "w4a16_mxfp4": (_gemm_cases("w4a16_mxfp4", 16, 4.25), _gemm("mxfp4", True)),
    "fp8_dense": ([_fp8_case("fp8_dense", m, n, k) for n, k in FP8_SHAPES for m in FP8_ROWS], _fp8_dense),
    "fp8_grouped": ([_fp8_case("fp8_grouped", g * m, n, k, g) for g, m, n, k in FP8_GROUPS], _fp8_grouped),
    "quantize_nvfp4": (_quantize_cases("quantize_nvfp4", 16), _quantize("nvfp4", "static_6")),
    "quantize_nvfp4_mse": (_quantize_cases("quantize_nvfp4_mse", 16), _quantize("nvfp4", "mse")),
    "quantize_mxfp4": (_quantize_cases("quantize_mxfp4", 32), _quantize("mxfp4", "static_6")),
}
