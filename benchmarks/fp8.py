"""FP8 products of DeepSeek-style layers, 1x128 scales for activations and 128x128 for weights: cases and calls."""

from __future__ import annotations

import torch

import tritonfp4 as T
from benchmarks.case import Build, Call, Case, Wants, copy_case, present
from benchmarks.inputs import copy_calls, mn_major, random_bf16, zipf_sizes
from benchmarks.peers import cublaslt, deep_gemm, flashinfer_peer, torch_peers, tried

#: (N, K), and the rows that they are timed for: activations in FP8, in bf16.
SHAPES = ((2112, 7168), (24576, 1536), (32768, 512), (7168, 16384), (4096, 7168), (7168, 2048))
ROWS = (1, 16, 64, 128, 1024, 4096)
BF16ACT_ROWS = (1, 64, 4096)
#: Groups, rows of each, N, K.
GROUPS = ((4, 8192, 4096, 7168), (8, 4096, 4096, 7168), (8, 4096, 7168, 2048), (32, 256, 4096, 7168), (32, 128, 7168, 2048),
          (64, 128, 4096, 7168))  # fmt: skip
COPY = copy_case("fp8_dense")


def _case(op: str, m: int, n: int, k: int, groups: int = 1, a_bytes: float = 1 + 4 / 128) -> Case:
    """m: rows of all groups together; the weights of an empty group are not read."""
    live = sum(size > 0 for size in _sizes(op, m, groups))
    return Case(op, m, n, k, groups, 2.0 * m * n * k, m * k * a_bytes + live * n * k + 2 * m * n)


def _sizes(op: str, m: int, groups: int) -> list[int]:
    return zipf_sizes(groups, m) if op.endswith("ragged") else [m // groups] * groups


def _dense(case: Case, wants: Wants) -> dict[str, Call]:
    if case == COPY:
        return copy_calls(case)
    x, w = random_bf16(case.m, case.k), random_bf16(case.n, case.k)
    a, a_scale = T.per_token_cast_to_fp8(x)
    b, b_scale = T.per_block_cast_to_fp8(w)
    columns = mn_major(a_scale)
    out = x.new_empty(case.m, case.n)
    return present(
        {
            "tritonfp4": lambda: T.fp8_blockscale_gemm_sm90(a, b, columns, b_scale, out=out),
            "deep_gemm": deep_gemm.dense(a, columns, b, b_scale) if wants("deep_gemm") else None,
            "flashinfer": flashinfer_peer.dense(a, columns, b, b_scale) if wants("flashinfer") else None,
            "cublaslt": cublaslt.dense(a, a_scale, b, b_scale) if wants("cublaslt") else None,
            "torch_bf16": lambda: torch.mm(x, w.t()),
        }
    )


def _dense_bf16act(case: Case, wants: Wants) -> dict[str, Call]:
    x, w = random_bf16(case.m, case.k), random_bf16(case.n, case.k)
    b, b_scale = T.per_block_cast_to_fp8(w)
    out = x.new_empty(case.m, case.n)
    return present(
        {
            "tritonfp4": lambda: T.fp8_blockscale_gemm_sm90(x, b, None, b_scale, out=out),
            "flashinfer": flashinfer_peer.dense(x, None, b, b_scale) if wants("flashinfer") else None,
            "torch_bf16": lambda: torch.mm(x, w.t()),
        }
    )


def _grouped(case: Case, wants: Wants) -> dict[str, Call]:
    sizes = _sizes(case.op, case.m, case.groups)
    x, w = random_bf16(case.m, case.k), random_bf16(case.groups, case.n, case.k)
    a, a_scale = T.per_token_cast_to_fp8(x)
    experts = [T.per_block_cast_to_fp8(one) for one in w]
    b = torch.stack([values.view(torch.uint8) for values, _ in experts]).view(torch.float8_e4m3fn)
    b_scale = torch.stack([scale for _, scale in experts])
    ends = torch.tensor([0, *sizes], device=x.device).cumsum(0).int()
    columns, tiles = mn_major(a_scale).t(), b_scale.transpose(1, 2)
    out = x.new_empty(case.m, case.n)

    def bf16() -> torch.Tensor:
        if len(set(sizes)) > 1:
            return torch_peers.grouped_mm(x, w, ends)
        return torch.bmm(x.view(case.groups, -1, case.k), w.transpose(1, 2)).view(case.m, case.n)

    return present(
        {
            "tritonfp4": lambda: T.group_gemm_fp8_nt_groupwise(
                a, b, columns, tiles, ends, scale_major_mode="MN", out=out
            ),
            "deep_gemm": deep_gemm.grouped(a, a_scale, b, b_scale, sizes) if wants("deep_gemm") else None,
            "torch_bf16": tried("torch_bf16", bf16) if wants("torch_bf16") else None,
        }
    )


OPS: dict[str, tuple[list[Case], Build]] = {
    "fp8_dense": ([COPY, *(_case("fp8_dense", m, n, k) for n, k in SHAPES for m in ROWS)], _dense),
    "fp8_dense_bf16act": ([_case("fp8_dense_bf16act", m, n, k, a_bytes=2) for n, k in SHAPES for m in BF16ACT_ROWS],
                          _dense_bf16act),
    "fp8_grouped": ([_case("fp8_grouped", g * m, n, k, g) for g, m, n, k in GROUPS], _grouped),
    "fp8_grouped_ragged": ([_case("fp8_grouped_ragged", g * m, n, k, g) for g, m, n, k in GROUPS], _grouped),
}  # fmt: skip
