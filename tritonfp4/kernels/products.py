"""The launcher that each path of a product means."""

from __future__ import annotations

import functools
from typing import Any

import torch

from tritonfp4.config import Config
from tritonfp4.device import device_info
from tritonfp4.formats import FP8_1X128
from tritonfp4.kernels.grouped import grouped_upcast
from tritonfp4.kernels.matmul_fp8 import matmul_fp8
from tritonfp4.kernels.matmul_scaled import matmul_scaled
from tritonfp4.kernels.matmul_upcast import matmul_dequantize, matmul_upcast
from tritonfp4.kernels.quantize_fp8 import quantize_fp8
from tritonfp4.layouts import SfLayout
from tritonfp4.tensor import BlockScaledTensor, assemble

Operand = BlockScaledTensor | torch.Tensor


@functools.cache
def _hopper() -> Any:
    from tritonfp4.kernels.hopper import launch  # Gluon is imported where it is used

    return launch


@functools.cache
def _hopper_w4() -> Any:
    from tritonfp4.kernels.hopper import launch_w4

    return launch_w4


@functools.cache
def _fragments() -> Any:
    from tritonfp4.kernels.fragments import launch

    return launch


def activations(x: torch.Tensor, how: Config) -> BlockScaledTensor:
    """`per_token_cast_to_fp8` of [M, K] for the product that is launched next: on GPUs that can, it may begin meanwhile."""
    values, scales = quantize_fp8(
        x, "e4m3", FP8_1X128.block, "internal", 0.0, False, 4, how, device_info(x.device).arch.number >= 90
    )
    return assemble(values, scales, None, FP8_1X128, SfLayout.layout_linear, tuple(x.shape), 0, False)


def multiply(a: Operand, b: Operand, out: torch.Tensor, config: Config, behind_activations: bool = False) -> None:
    """As `tritonfp4.reference.matmul`, by the path of the config. `behind_activations`: the launch before this one is that of
    `activations`, which made a."""
    if config.path == "hopper":
        hopper = _hopper()
        early = hopper.WEIGHTS_FIRST if behind_activations else hopper.WAITS
        hopper.matmul_fp8_hopper(a, b, None, "batch", out, config, early)
    elif config.path in ("fp8", "fp8_upcast"):
        matmul_fp8(a, b, None, "batch", out, config)
    else:
        paths = {"native": matmul_scaled, "upcast": matmul_upcast, "dequantize": matmul_dequantize}
        if config.path == "fragments":
            launch = _fragments().matmul_w4
        elif config.path == "hopper_w4":
            launch = _hopper_w4().matmul_w4_hopper
        elif config.path == "stream_w4":
            launch = _hopper_w4().stream_w4_hopper
        else:
            launch = paths[config.path]
        launch(a, b, out, config)


def multiply_groups(
    a: Operand, b: BlockScaledTensor, groups: torch.Tensor | None, mode: str, out: torch.Tensor, config: Config
) -> None:
    """As `tritonfp4.reference.grouped_matmul`, by the path of the config."""
    if config.path == "hopper":
        _hopper().matmul_fp8_hopper(a, b, groups, mode, out, config)
        return
    if config.path == "fragments":
        _fragments().grouped_w4(a, b, groups, mode, out, config)
        return
    if config.path == "hopper_w4":
        _hopper_w4().grouped_w4_hopper(a, b, groups, mode, out, config)
        return
    launch = grouped_upcast if config.path == "upcast" else matmul_fp8
    launch(a, b, groups, mode, out, config)
