"""What a launch that is compiled for every architecture is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from tritonfp4.autotune import Problem, select
from tritonfp4.config import Config
from tritonfp4.device import DeviceInfo


@dataclass(frozen=True)
class Case:
    """One launch. `config(device)` is None for passes without a GEMM; `formats` are those of the GEMM's operands; `only` is
    the architecture it is for, if it is not for all."""

    name: str
    launch: Callable[[DeviceInfo], object]
    config: Callable[[DeviceInfo], Config] | None = None
    formats: tuple[str, str] = ("", "")
    only: int | None = None

    def is_for(self, arch: int) -> bool:
        """Whether that architecture is one to compile it for."""
        return self.only in (None, arch)


def meta(*shape: int, dtype: torch.dtype = torch.bfloat16) -> torch.Tensor:
    return torch.empty(shape, dtype=dtype, device="meta")


def elementwise(op: str, rows: int, cols: int, device: DeviceInfo) -> Config:
    return select(Problem(op, rows, 0, cols, "", "", device))
