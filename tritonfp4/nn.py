"""`Linear`, a drop-in quantized linear layer for inference, and `swap_linears`, which puts it into a model."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from tritonfp4 import checks
from tritonfp4.formats import BlockFormat
from tritonfp4.layouts import SfLayout, as_layout
from tritonfp4.tensor import BlockScaledTensor
from tritonfp4.verbs import matmul, quantize


class _InferenceOnly(torch.autograd.Function):
    """Passes `y`, computed from `x` without a graph, and fails in the backward pass instead of inventing a gradient."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return y.view_as(y)

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> Any:
        raise checks.UnsupportedError("Linear: inference only, the quantized product has no gradient")


class Linear(torch.nn.Module):
    """``y = x @ W.T + bias`` with a block-scaled FP4 weight; inference only: a backward pass raises UnsupportedError.

    The weight lives in three buffers, so that ``state_dict``, ``load_state_dict`` and ``.to(device)`` work: ``values``
    (uint8 ``[out_features, in_features / 2]``), ``scales`` (uint8, flat, 128x4 layout) and ``global_scale`` (fp32, 1
    element; None for MXFP4). A cast such as ``.half()`` leaves all three alone: fp32 is part of the format.

    A new layer holds zeros, ready for ``load_state_dict``; `from_linear` and `from_block_scaled` fill it.

    Attributes:
        format: format of the weight, and of the activations if they are quantized.
        rule: scale rule that the weight was quantized with (a record), None for the format's default.
        activations: whether inputs are quantized in every call (W4A4) or stay 16-bit (W4A16).
        activation_rule: scale rule of the inputs, None for the format's default.
        per_row: whether every input row has a global scale of its own, which makes a row's result independent of the
            rows beside it. NVFP4 only.
    """

    values: torch.Tensor
    scales: torch.Tensor
    global_scale: torch.Tensor | None
    bias: torch.nn.Parameter | None

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,
        *,
        format: str | BlockFormat = "nvfp4",
        rule: str | None = None,
        activations: bool = True,
        activation_rule: str | None = None,
        per_row: bool = False,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        fn = "Linear"
        self.format = checks.block_format(fn, "format", format)
        for arg, value in (("rule", rule), ("activation_rule", activation_rule)):
            if value is not None:
                checks.rule(fn, arg, value, self.format)
        if per_row and not self.format.two_level:
            raise checks.ArgumentError(
                f"{fn}: per_row has no meaning for {self.format.name}, which has no global scale"
            )
        if in_features % self.format.vec:
            raise checks.ShapeError(
                f"{fn}: in_features must be a multiple of the block of {self.format.vec}, got {in_features}"
            )
        self.in_features, self.out_features = in_features, out_features
        self.rule, self.activation_rule = rule, activation_rule
        self.activations, self.per_row = activations, per_row
        scale_count = as_layout(SfLayout.layout_128x4).numel(out_features, in_features // self.format.vec)
        self.register_buffer("values", torch.zeros(out_features, in_features // 2, dtype=torch.uint8, device=device))
        self.register_buffer("scales", torch.zeros(scale_count, dtype=torch.uint8, device=device))
        self.register_buffer("global_scale", torch.ones(1, device=device) if self.format.two_level else None)
        empty = torch.nn.Parameter(torch.zeros(out_features, dtype=dtype, device=device), False) if bias else None
        self.register_parameter("bias", empty)

    @classmethod
    def from_linear(
        cls,
        linear: torch.nn.Linear,
        format: str | BlockFormat = "nvfp4",
        rule: str | None = None,
        activations: bool = True,
        *,
        activation_rule: str | None = None,
        per_row: bool = False,
    ) -> Linear:
        """Quantize a linear layer, whose weight is bf16, fp16 or fp32; the bias is shared, not copied.

        `rule` is the weight's, and that of the inputs unless `activation_rule` names another; None is the format's
        default. See `tritonfp4.quantize` for their names.

        Raises:
            ShapeError: ``in_features`` is not a multiple of the block (16 for NVFP4, 32 for MXFP4).
            ArgumentError: an unknown format or rule.
        """
        fmt = checks.block_format("Linear.from_linear", "format", format)
        if linear.in_features % fmt.vec:
            raise checks.ShapeError(
                f"Linear.from_linear: in_features must be a multiple of the {fmt.name} block of {fmt.vec}, got "
                f"{linear.in_features}"
            )
        weight = quantize(linear.weight.detach(), fmt, rule=rule)
        layer = cls.from_block_scaled(
            weight, linear.bias, activations=activations, activation_rule=activation_rule or rule, per_row=per_row
        )
        layer.rule = rule
        return layer.train(linear.training)

    @classmethod
    def from_block_scaled(
        cls,
        weight: BlockScaledTensor,
        bias: torch.Tensor | None = None,
        *,
        activations: bool = True,
        activation_rule: str | None = None,
        per_row: bool = False,
    ) -> Linear:
        """A layer around a quantized weight ``[out_features, in_features]``, such as a checkpoint's, and a bias.

        Raises:
            ShapeError: the weight is not 2-D or its value buffer is padded.
            UnsupportedError: its rows are shuffled or have global scales of their own.
        """
        fn = "Linear.from_block_scaled"
        if len(weight.shape) != 2 or tuple(weight.values.shape) != (weight.shape[0], weight.shape[1] // 2):
            raise checks.ShapeError(
                f"{fn}: want an unpadded 2-D weight, got shape {weight.shape}, values {tuple(weight.values.shape)}"
            )
        if weight.row_shuffle or (weight.global_scale is not None and weight.global_scale.numel() != 1):
            raise checks.UnsupportedError(
                f"{fn}: a weight with shuffled rows or a global scale for each row is not supported"
            )
        if bias is not None and tuple(bias.shape) != (weight.shape[0],):
            raise checks.ShapeError(f"{fn}: bias must have shape ({weight.shape[0]},), got {tuple(bias.shape)}")
        layer = cls(
            weight.shape[1], weight.shape[0], False, format=weight.format, activations=activations,
            activation_rule=activation_rule, per_row=per_row, device="meta",
        )  # fmt: skip
        layer.values = weight.values
        layer.scales = weight.to_layout(SfLayout.layout_128x4).scales.reshape(-1)
        if weight.format.two_level:
            g = weight.global_scale
            layer.global_scale = torch.ones(1, device=weight.device) if g is None else g.float().reshape(1)
        if bias is not None:
            layer.bias = bias if isinstance(bias, torch.nn.Parameter) else torch.nn.Parameter(bias, False)
        return layer

    @property
    def weight(self) -> BlockScaledTensor:
        """The quantized weight, ``[out_features, in_features]``; shares the buffers."""
        shape = (self.out_features, self.in_features)
        return BlockScaledTensor(self.values, self.scales, self.global_scale, self.format, SfLayout.layout_128x4, shape)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """``[*lead, in_features]`` bf16, fp16 or fp32 -> ``[*lead, out_features]`` of the same dtype.

        Without quantized activations an fp32 input is rounded to bf16 first: the W4A16 product takes 16-bit operands.
        """
        if x.ndim == 0 or x.shape[-1] != self.in_features:
            raise checks.ShapeError(f"Linear: want an input of shape [*, {self.in_features}], got {tuple(x.shape)}")
        rows = x.reshape(-1, self.in_features)
        with torch.no_grad():
            operand: BlockScaledTensor | torch.Tensor
            if self.activations:
                operand = quantize(rows, self.format, rule=self.activation_rule, per_row=self.per_row)
            else:
                operand = rows.bfloat16() if x.dtype == torch.float32 else rows
            y = matmul(operand, self.weight, out_dtype=x.dtype)
        if x.requires_grad and torch.is_grad_enabled() and not torch.compiler.is_compiling():
            y = _InferenceOnly.apply(x, y)
        if self.bias is not None:
            y = y + self.bias.to(y.dtype)
        return y.reshape(*x.shape[:-1], self.out_features)

    def _apply(self, fn: Callable[[torch.Tensor], torch.Tensor], recurse: bool = True) -> Linear:
        exact = self.global_scale
        super()._apply(fn, recurse)
        moved = self.global_scale
        if exact is not None and moved is not None and moved.dtype != exact.dtype:
            self.global_scale = exact.to(moved.device)  # .half() and .to(bfloat16) cast every float buffer
        return self

    def extra_repr(self) -> str:
        """What ``repr`` shows of the layer."""
        kind = "W4A4" if self.activations else "W4A16"
        rules = f", rule={self.rule}" if self.rule else ""
        if self.activations and self.activation_rule and self.activation_rule != self.rule:
            rules += f", activation_rule={self.activation_rule}"
        rows = ", per_row=True" if self.per_row else ""
        shape = f"in_features={self.in_features}, out_features={self.out_features}, bias={self.bias is not None}"
        return f"{shape}, {self.format.name} {kind}{rules}{rows}"


def swap_linears(
    model: torch.nn.Module,
    format: str | BlockFormat = "nvfp4",
    rule: str | None = None,
    activations: bool = True,
    skip: Callable[[str, torch.nn.Linear], bool] | None = None,
    **options: Any,
) -> list[str]:
    """Replace, in place, every ``nn.Linear`` whose in_features is a multiple of the block by a quantized `Linear`.

    Subclasses of ``nn.Linear`` stay: they have a meaning of their own (the projection inside ``nn.MultiheadAttention``
    is one, whose weight is read past its ``forward``). So is that of the layers in ``nn.TransformerEncoderLayer`` when
    torch takes its fast path: ``torch.backends.mha.set_fastpath_enabled(False)`` before such a model runs. A layer
    that appears in several places is quantized once and stays shared.

    Args:
        model: a module that contains linear layers; not a linear layer itself, which has no place to be replaced in.
        format, rule, activations: as in `Linear.from_linear`.
        skip: called with the qualified name and the layer; true leaves the layer alone.
        options: `activation_rule` and `per_row` of `Linear.from_linear`.

    Returns:
        Qualified names of the replaced layers, in the order of ``named_modules``.

    Raises:
        ArgumentError: an unknown format or rule, or a `model` that is an ``nn.Linear``.
    """
    fmt = checks.block_format("swap_linears", "format", format)
    if isinstance(model, torch.nn.Linear):
        raise checks.ArgumentError("swap_linears: the model is itself a linear layer; use Linear.from_linear")
    swapped: dict[torch.nn.Module, Linear] = {}
    names = []
    for prefix, parent in list(model.named_modules()):
        for child_name, child in list(parent._modules.items()):  # named_children would hide a layer's second name
            name = f"{prefix}.{child_name}" if prefix else child_name
            if (
                type(child) is not torch.nn.Linear
                or child.in_features % fmt.vec
                or (skip is not None and skip(name, child))
            ):
                continue
            if child not in swapped:
                swapped[child] = Linear.from_linear(child, fmt, rule, activations, **options)
            setattr(parent, child_name, swapped[child])
            names.append(name)
    return names
