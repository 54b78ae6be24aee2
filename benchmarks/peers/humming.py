"""humming's products of bf16 activations and FP4 weights, made from the codes and scales of `T.quantize`.

humming compiles a kernel for each (N, K, rows) at its first call. Its own call compiles those of all rows that it knows, about 30 a
layer; the adapter asks its heuristic for the one that it would take for the rows at hand.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

import tritonfp4 as T
from benchmarks.peers import built, left_out, load

_SCALES = {"e4m3": torch.float8_e4m3fn, "e8m0": torch.float8_e8m0fnu}


def available() -> str | None:
    """The version, or None where it does not import."""
    module = load("humming")
    return None if module is None or load("humming.layer") is None else str(module.__version__)


def dense(x: torch.Tensor | T.BlockScaledTensor, b: T.BlockScaledTensor) -> Callable[[], torch.Tensor] | None:
    """The call for bf16 x [M, K] and FP4 b [N, K]; None where it refuses."""
    if not isinstance(x, torch.Tensor):
        left_out("humming", "it multiplies FP4 activations from compute capability 10.0 on")
        return None
    return _call(x, b, {})


def grouped(x: torch.Tensor, b: T.BlockScaledTensor, ends: torch.Tensor) -> Callable[[], torch.Tensor] | None:
    """The call for FP4 b [G, N, K] and bf16 x [M, K], whose rows ``ends[g]`` to ``ends[g + 1]`` (int32) are those of expert g."""
    return _call(x, b, {"gemm_type": "grouped_contiguous"}, expert_layout=ends)


def _call(
    x: torch.Tensor, b: T.BlockScaledTensor, compute: dict[str, str], **groups: torch.Tensor
) -> Callable[[], torch.Tensor] | None:
    if available() is None:
        return None

    def build() -> Callable[[], torch.Tensor]:
        tune: Any = load("humming.tune")
        made = layer(b)
        config = tune.get_heuristics_config(made.humming_config, shape_m=x.shape[0], device=x.device, **compute)
        out = x.new_empty(x.shape[0], b.shape[-2])

        def call() -> torch.Tensor:
            made(x, outputs=out, compute_config=compute, tuning_config=config, **groups)
            return out

        return call

    return built("humming", build)


def layer(b: T.BlockScaledTensor) -> Any:
    """A transformed `HummingLayer` with the weights b: int32 words of eight codes, low nibble first, and linear scales."""
    module: Any = load("humming.layer")
    linear = b.to_layout(T.SfLayout.layout_linear)
    scales = linear.scales.view(*b.shape[:-1], b.scale_cols).view(_SCALES[b.format.scale])
    tensors = {"weight": linear.values.view(torch.int32), "weight_scale": scales}
    config = {"dtype": "float4e2m1", "group_size": b.format.vec, "scale_dtype": f"float8{b.format.scale}"}
    if b.global_scale is not None:
        tensors["weight_scale_2"] = b.global_scale
        config["scale_2_type"] = "tensor"
    with torch.device(b.device):  # else its parameters begin on the CPU
        made = module.HummingLayer(
            shape_n=b.shape[-2], shape_k=b.shape[-1], weight_config=config, torch_dtype=torch.bfloat16,
            num_experts=b.shape[0] if b.batched else None,
        )  # fmt: skip
    made.load_from_tensors(tensors)
    made.transform()
    return made
