"""`BlockScaledTensor`: a quantized matrix as plain data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch.utils import _pytree as pytree

from tritonfp4.formats import FORMATS, BlockFormat
from tritonfp4.layouts import ScaleLayout, SfLayout, as_layout, ceil_div, flat_rows


@dataclass(frozen=True, eq=False)
class BlockScaledTensor:
    """A block-scaled matrix: what its numbers mean, where its scales lie, and the bytes.

    Not a tensor subclass: nothing is computed behind the caller's back. It is a registered pytree (its leaves are the
    tensors), so it passes through ``torch.compile``, and `parts` gives the plain tensors to save.

    Attributes:
        values: uint8 ``[*lead, K / 2]`` (e2m1, low nibble first) or ``[*lead, K]`` (e4m3, e5m2); a padded buffer may hold
            more rows and bytes than `shape` says.
        scales: uint8, flat, in `layout`; one matrix of ``prod(lead)`` rows and ``ceil(K / vec)`` columns. fp32 scales are a
            matrix ``[ceil(rows / block rows), ceil(K / vec)]`` of any strides instead, and empty if the format has none.
        global_scale: fp32 decode multiplier with 1 element or one for each logical row, or None for 1. A batched tensor may
            have one for each matrix.
        format: the number format.
        layout: where the scale of block (r, c) lies in `scales`.
        shape: logical shape ``(*lead, K)`` in elements.
        row_shuffle: rows of a shuffle block if the rows lie in TensorRT-LLM's order (see `tritonfp4.layouts`), else 0.
        batched: whether the matrices ``[rows, K]`` of a 3-D shape have scales of their own, each in `layout` with its own
            padding (flat ones one after the other, fp32 ones ``[G, ..., ...]``), as grouped products need.
    """

    values: torch.Tensor
    scales: torch.Tensor
    global_scale: torch.Tensor | None
    format: BlockFormat
    layout: SfLayout
    shape: tuple[int, ...]
    row_shuffle: int = 0
    batched: bool = False

    @property
    def rows(self) -> int:
        """Rows after flattening the leading dimensions."""
        return flat_rows(self.shape)

    @property
    def cols(self) -> int:
        """Elements in a row (K)."""
        return self.shape[-1]

    @property
    def flat_values(self) -> torch.Tensor:
        """Stored values as a matrix; a padded buffer keeps its padding."""
        return self.values.reshape(flat_rows(self.values.shape), self.values.shape[-1])

    @property
    def scale_cols(self) -> int:
        """Scales in a row."""
        return ceil_div(self.shape[-1], self.format.vec)

    @property
    def scale_shape(self) -> tuple[int, int]:
        """Rows and columns of the scale matrix (of each one, if batched), without padding."""
        rows = self.shape[-2] if self.batched else self.rows
        return ceil_div(rows, self.format.block[0]), self.scale_cols

    @property
    def scale_layout(self) -> ScaleLayout:
        """The layout object of `layout`."""
        return as_layout(self.layout)

    @property
    def device(self) -> torch.device:
        """Where the parts lie."""
        return self.values.device

    @property
    def nbytes(self) -> int:
        """Bytes of all parts, padding included."""
        parts = [self.values, self.scales] + ([] if self.global_scale is None else [self.global_scale])
        return sum(t.numel() * t.element_size() for t in parts)

    def dequantize(self, dtype: torch.dtype = torch.float32) -> torch.Tensor:
        """``[*lead, K]`` of fp32, bf16 or fp16: ``element * scale * global_scale`` in fp32, rounded once to `dtype`."""
        return torch.ops.tritonfp4.dequantize.default(
            self.values, self.scales, self.global_scale, self.format.name, int(self.layout), self.row_shuffle,
            list(self.shape), dtype, False, "auto", self.batched,
        )  # fmt: skip

    def to_layout(self, layout: SfLayout | int) -> BlockScaledTensor:
        """The same matrix with its scales in another layout. Padding scales are 0."""
        layout = as_layout(layout).kind
        if layout == self.layout:
            return self
        if self.format.scale in ("fp32", ""):
            raise ValueError(
                f"BlockScaledTensor.to_layout: {self.format.name} has linear scales only, got {layout.name}"
            )
        batch = self.shape[0] if self.batched else 1
        scales = torch.ops.tritonfp4.relayout.default(
            self.scales, [batch, *self.scale_shape], int(self.layout), int(layout), 0, "auto"
        )
        return replace(self, scales=scales, layout=layout)

    def to(self, device: torch.device | str) -> BlockScaledTensor:
        """The same matrix on another device."""
        g = None if self.global_scale is None else self.global_scale.to(device)
        return replace(self, values=self.values.to(device), scales=self.scales.to(device), global_scale=g)

    @classmethod
    def stack(cls, matrices: Sequence[BlockScaledTensor]) -> BlockScaledTensor:
        """Matrices ``[rows, K]`` of one shape, format and layout as one batched tensor ``[G, rows, K]``: the weights of
        experts, for `grouped_matmul`. Their global scales stay one for each matrix. Raises ValueError if they differ.
        """
        kinds = {
            (t.format, t.layout, tuple(t.shape), t.batched or t.row_shuffle, t.global_scale is None) for t in matrices
        }
        fits = (
            len(kinds) == 1 and not matrices[0].batched and not matrices[0].row_shuffle and len(matrices[0].shape) == 2
        )
        if not fits or any(t.global_scale is not None and t.global_scale.numel() != 1 for t in matrices):
            raise ValueError(
                "BlockScaledTensor.stack: want 2-D matrices of one shape, format and layout, rows not shuffled, with at most "
                f"one global scale each, got {list(matrices)!r}"
            )
        first = matrices[0]
        join = torch.stack if first.format.scale == "fp32" else torch.cat
        scales = join([t.scales if first.format.scale == "fp32" else t.scales.reshape(-1) for t in matrices])
        g = None
        if first.global_scale is not None:
            g = torch.cat([t.global_scale.reshape(1) for t in matrices if t.global_scale is not None])
        values = torch.stack([t.flat_values[: t.rows, : t.cols // t.format.packing] for t in matrices])
        shape = (len(matrices), *first.shape)
        return cls(values, scales, g, first.format, first.layout, shape, batched=True)

    # ---- to and from other libraries' views ----

    def to_torch(self) -> tuple[torch.Tensor, list[torch.Tensor]]:
        """Operand and scales as ``torch.nn.functional.scaled_mm`` takes them (views, except for a change of layout); FP4.

        Returns the values as ``float4_e2m1fn_x2 [rows, K / 2]`` (pass a weight as ``.t()``) and the scales as a list:
        the flat 128x4 buffer (``SwizzleType.SWIZZLE_32_4_4``) as ``float8_e4m3fn`` (``ScalingType.BlockWise1x16``) or
        ``float8_e8m0fnu`` (``BlockWise1x32``), followed by the fp32 0-d decode multiplier (``TensorWise``) if there is
        one. Raises ValueError for shuffled rows and per-row global scales, which torch has no recipe for.
        """
        if self.format.element != "e2m1" or self.batched:
            raise ValueError(f"BlockScaledTensor.to_torch: FP4 matrices only, got {self!r}")
        if self.row_shuffle:
            raise ValueError(
                "BlockScaledTensor.to_torch: torch has no row-shuffled operand; quantize without shuffling"
            )
        if self.global_scale is not None and self.global_scale.numel() != 1:
            raise ValueError("BlockScaledTensor.to_torch: torch has no per-row global scale")
        swizzled = self.to_layout(SfLayout.layout_128x4)
        kind = torch.float8_e4m3fn if self.format.scale == "e4m3" else torch.float8_e8m0fnu
        scales = [swizzled.scales.view(kind)]
        if self.global_scale is not None:
            scales.append(self.global_scale.reshape(()))
        values = self.flat_values[: self.rows, : self.cols // 2]
        return values.view(torch.float4_e2m1fn_x2), scales

    @classmethod
    def from_torch(cls, values: torch.Tensor, scales: list[torch.Tensor]) -> BlockScaledTensor:
        """Inverse of `to_torch`: the format follows from the named dtype of the scales (e4m3: NVFP4, e8m0: MXFP4)."""
        name = {torch.float8_e4m3fn: "nvfp4", torch.float8_e8m0fnu: "mxfp4"}.get(scales[0].dtype)
        if name is None or values.dtype != torch.float4_e2m1fn_x2 or values.ndim != 2:
            raise ValueError(
                "BlockScaledTensor.from_torch: want 2-D values of float4_e2m1fn_x2 and scales of float8_e4m3fn or "
                f"float8_e8m0fnu, got {values.dtype} {tuple(values.shape)} and {scales[0].dtype}"
            )
        shape = (values.shape[0], 2 * values.shape[1])
        fmt = FORMATS[name]
        want = as_layout(SfLayout.layout_128x4).numel(shape[0], ceil_div(shape[1], fmt.vec))
        if scales[0].numel() != want:
            raise ValueError(f"BlockScaledTensor.from_torch: want {want} scales in 128x4, got {scales[0].numel()}")
        g = scales[1].reshape(1) if len(scales) > 1 else None
        flat = scales[0].view(torch.uint8).reshape(-1)
        return cls(values.view(torch.uint8), flat, g, fmt, SfLayout.layout_128x4, shape)

    def parts(self) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
        """Plain tensors and string metadata, as safetensors stores them; `from_parts` is the inverse."""
        tensors = {"values": self.values, "scales": self.scales}
        if self.global_scale is not None:
            tensors["global_scale"] = self.global_scale
        meta = {
            "format": self.format.name,
            "layout": self.layout.name,
            "shape": ",".join(map(str, self.shape)),
            "row_shuffle": str(self.row_shuffle),
        }
        if self.batched:
            meta["batched"] = "1"
        return tensors, meta

    @classmethod
    def from_parts(cls, tensors: dict[str, torch.Tensor], meta: dict[str, str]) -> BlockScaledTensor:
        """The matrix that `parts` took apart."""
        return _rebuild(
            tensors["values"], tensors["scales"], tensors.get("global_scale"), meta["format"],
            int(SfLayout[meta["layout"]]), tuple(map(int, meta["shape"].split(","))), int(meta["row_shuffle"]),
            meta.get("batched") == "1",
        )  # fmt: skip

    def __reduce__(self) -> tuple[Any, ...]:
        # Plain types only, so that torch.load(weights_only=True) accepts it.
        context = (self.format.name, int(self.layout), tuple(self.shape), self.row_shuffle, self.batched)
        return _rebuild, (self.values, self.scales, self.global_scale, *context)

    def __repr__(self) -> str:
        shuffled = f", row_shuffle={self.row_shuffle}" if self.row_shuffle else ""
        where = f"{self.layout.name}, {self.values.device}{shuffled}"
        batched = ", batched" if self.batched else ""
        return f"BlockScaledTensor({self.format.name}, shape={tuple(self.shape)}, {where}{batched})"


def assemble(
    values: torch.Tensor, scales: torch.Tensor, global_scale: torch.Tensor | None, format: BlockFormat, layout: SfLayout,
    shape: tuple[int, ...], row_shuffle: int, batched: bool,
) -> BlockScaledTensor:  # fmt: skip
    """The constructor for code that is never traced: a frozen dataclass sets its fields in three times as long."""
    made = BlockScaledTensor.__new__(BlockScaledTensor)
    made.__dict__.update(
        values=values, scales=scales, global_scale=global_scale, format=format, layout=layout, shape=shape,
        row_shuffle=row_shuffle, batched=batched,
    )  # fmt: skip
    return made


def _rebuild(
    values: Any,
    scales: Any,
    global_scale: Any,
    name: str,
    layout: int,
    shape: tuple[int, ...],
    row_shuffle: int,
    batched: bool = False,
) -> BlockScaledTensor:
    fmt, kind = FORMATS[name], SfLayout(layout)
    return BlockScaledTensor(values, scales, global_scale, fmt, kind, tuple(shape), row_shuffle, batched)


def _flatten(t: BlockScaledTensor) -> tuple[list[Any], tuple[Any, ...]]:
    leaves = [t.values, t.scales] + ([] if t.global_scale is None else [t.global_scale])
    return leaves, (t.format.name, int(t.layout), tuple(t.shape), t.row_shuffle, t.batched)


def _unflatten(leaves: Any, context: tuple[Any, ...]) -> BlockScaledTensor:
    values, scales, *rest = leaves
    return _rebuild(values, scales, rest[0] if rest else None, *context)


pytree.register_pytree_node(
    BlockScaledTensor,
    _flatten,
    _unflatten,
    serialized_type_name="tritonfp4.BlockScaledTensor",
)
torch.serialization.add_safe_globals([_rebuild])
