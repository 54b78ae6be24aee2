"""Inputs that the adapters and the operations share."""

from __future__ import annotations

import random

import torch

from benchmarks.case import Call, Case

#: Where the inputs lie; the tests without a GPU have them on the CPU.
DEVICE = "cuda"


def random_bf16(*shape: int) -> torch.Tensor:
    """Normal random numbers."""
    return torch.randn(*shape, device=DEVICE, dtype=torch.bfloat16)


def copy_calls(case: Case) -> dict[str, Call]:
    """The call of `copy_case`."""
    x = random_bf16(case.m, case.k)
    other = torch.empty_like(x)
    return {"copy": lambda: other.copy_(x)}


def routes(experts: int, tokens: int, top_k: int, seed: int = 0) -> list[list[int]]:
    """The experts of every token: `top_k` different ones, drawn alike, the same on every machine."""
    draw = random.Random(seed)
    return [draw.sample(range(experts), top_k) for _ in range(tokens)]


def routed_sizes(experts: int, tokens: int, top_k: int, seed: int = 0) -> list[int]:
    """Rows of each expert under `routes`: ``top_k * tokens`` in all."""
    sizes = [0] * experts
    for chosen in routes(experts, tokens, top_k, seed):
        for expert in chosen:
            sizes[expert] += 1
    return sizes


def mn_major(scale: torch.Tensor) -> torch.Tensor:
    """The scales [M, K / 128] as a view of memory [K / 128, M rounded up to 4]: what TMA reads, and what flashinfer asks for."""
    m, blocks = scale.shape
    memory = torch.zeros(blocks, -(-m // 4) * 4, device=scale.device, dtype=scale.dtype)
    memory[:, :m] = scale.t()
    return memory.t()[:m]


def zipf_sizes(groups: int, rows: int, exponent: float = 1.2, seed: int = 0) -> list[int]:
    """Rows of each group: unequal as the experts of a mixture are, the same list on every machine.

    A quarter of the groups (``groups // 4``) is empty. The others share `rows` in proportion to ``rank ** -exponent``, rank 1,
    2, ...: each share is rounded down, and the rows that are left go one by one to the largest remainders (of equal ones to
    the lowest rank). Which group has which rank, the last ones none, is ``random.Random(seed).shuffle(range(groups))``.
    """
    live = groups - groups // 4
    weights = [rank**-exponent for rank in range(1, live + 1)]
    shares = [rows * weight / sum(weights) for weight in weights]
    sizes = [int(share) for share in shares]
    for index in sorted(range(live), key=lambda i: (sizes[i] - shares[i], i))[: rows - sum(sizes)]:
        sizes[index] += 1
    order = list(range(groups))
    random.Random(seed).shuffle(order)
    result = [0] * groups
    for group, size in zip(order, sizes, strict=False):  # the groups after the last rank stay empty
        result[group] = size
    return result
