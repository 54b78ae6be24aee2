"""The launcher that each path of a product means."""

from __future__ import annotations

import functools
from typing import Any

import torch

from tritonfp4.config import Config
from tritonfp4.kernels.grouped import grouped_upcast
from tritonfp4.kernels.matmul_fp8 import matmul_fp8
from tritonfp4.kernels.matmul_scaled import matmul_scaled
from tritonfp4.kernels.matmul_upcast import matmul_dequantize, matmul_upcast
from tritonfp4.tensor import BlockScaledTensor

Operand = BlockScaledTensor | torch.Tensor


@functools.cache
def _hopper() -> Any:
    from tritonfp4.kernels.hopper import launch  # Gluon is imported where it is used

    return launch


def multiply(a: Operand, b: Operand, out: torch.Tensor, config: Config) -> None:
    """As `tritonfp4.reference.matmul`, by the path of the config."""
    if config.path in ("fp8", "fp8_upcast", "hopper"):
        multiply_groups(a, b, None, "batch", out, config)
    else:
        paths = {"native": matmul_scaled, "upcast": matmul_upcast, "dequantize": matmul_dequantize}
        paths[config.path](a, b, out, config)


def multiply_groups(
    a: Operand, b: BlockScaledTensor, groups: torch.Tensor | None, mode: str, out: torch.Tensor, config: Config
) -> None:
    """As `tritonfp4.reference.grouped_matmul`, by the path of the config."""
    if config.path == "hopper":
        _hopper().matmul_fp8_hopper(a, b, groups, mode, out, config)
        return
    launch = grouped_upcast if config.path == "upcast" else matmul_fp8
    launch(a, b, groups, mode, out, config)
