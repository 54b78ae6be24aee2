"""Launches of the Hopper kernel, for the one architecture that has its instructions."""

from __future__ import annotations

import dataclasses

import torch
from case import Case, meta
from cases_grouped import operand

from tritonfp4.autotune import Problem, select
from tritonfp4.config import Config
from tritonfp4.device import DeviceInfo
from tritonfp4.tensor import BlockScaledTensor

FORMATS = ("fp8_1x128", "fp8_128x128")


def hopper(
    mode: str, m: int, n: int, k: int, count: int = 1, dtype: torch.dtype = torch.bfloat16, config: Config | None = None
) -> Case:  # fmt: skip
    """m is the rows of one group; with `count` 1 the product is a dense one."""
    op = "matmul" if count == 1 else "grouped"

    def chosen(device: DeviceInfo) -> Config:
        return config or select(Problem(op, m, n, k, *FORMATS, device, tma=True))

    def launch(device: DeviceInfo) -> object:
        from tritonfp4.kernels.products import multiply_groups

        lead = () if count == 1 else (count,)
        rows = (m * count,) if mode == "indptr" else (*lead, m)
        x, w = operand(FORMATS[0], *rows, k), operand(FORMATS[1], *lead, n, k)
        assert isinstance(x, BlockScaledTensor) and isinstance(w, BlockScaledTensor)
        along_m = x.scales.mT.contiguous().mT  # as they are read
        size = {"indptr": count + 1, "masked": count}.get(mode)
        groups = None if size is None else meta(size, dtype=torch.int32)
        out = meta(*rows, n, dtype=dtype)
        multiply_groups(dataclasses.replace(x, scales=along_m), w, groups, mode, out, chosen(device))
        return out

    return Case(f"hopper {mode} M={m} N={n} K={k}", launch, chosen, FORMATS, only=90)


CASES: list[Case] = [
    hopper("batch", 4096, 7168, 16384),  # the widest tiles; programs start at different places along K
    hopper("batch", 4096, 24576, 1536),  # large ones
    hopper("batch", 4096, 2112, 7168),  # 192 columns
    hopper("batch", 256, 2112, 7168, dtype=torch.float16),  # narrower ones
    hopper("batch", 16, 24576, 1536),  # one warpgroup
    hopper("batch", 16, 2112, 7168),  # two warpgroups share K
    hopper("batch", 64, 4096, 7168, count=8),
    hopper("indptr", 512, 4096, 7168, count=8),
    hopper("indptr", 32, 4096, 7168, count=8),
    hopper("masked", 64, 4096, 7168, count=8),
    hopper("indptr", 40, 40, 7168, count=8, config=Config("hopper", 64, 128, 32, 8, 17, 8)),  # an odd ring with gaps
]
