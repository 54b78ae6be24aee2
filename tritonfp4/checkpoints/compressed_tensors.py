"""compressed-tensors: ``nvfp4-pack-quantized`` and ``mxfp4-pack-quantized`` weights.

A quantized linear layer of N outputs and K inputs is stored as

- ``weight_packed``, uint8 ``[N, K / 2]``, low nibble first;
- ``weight_scale``, row-major: float8_e4m3fn ``[N, K / 16]`` (NVFP4) or uint8 e8m0 ``[N, K / 32]`` (MXFP4);
- ``weight_global_scale``, fp32 ``[1]``, NVFP4 only: the *encode* scale, reciprocal of the decode multiplier that a
  `BlockScaledTensor` holds.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch

from tritonfp4 import checks
from tritonfp4.formats import FLT_MAX, BlockFormat
from tritonfp4.layouts import SfLayout
from tritonfp4.tensor import BlockScaledTensor

#: ``format`` of the quantization config, by the name of the block format.
FORMAT_NAMES = {"nvfp4": "nvfp4-pack-quantized", "mxfp4": "mxfp4-pack-quantized"}


def to_compressed_tensors(
    t: BlockScaledTensor, prefix: str = "", *, weight_global_scale: torch.Tensor | None = None
) -> dict[str, torch.Tensor]:
    """A quantized weight ``[N, K]`` as the tensors of a checkpoint.

    Args:
        t: NVFP4 or MXFP4, in any scale layout, with one global scale.
        prefix: put before every name, such as ``"model.layers.0.mlp.up_proj."``.
        weight_global_scale: the stored fp32 value of an imported weight, to be written back unchanged (two of them can
            have the same reciprocal). By default the nearest value whose reciprocal is the weight's decode multiplier.

    Returns:
        Names and tensors; values share memory with `t` where its layout allows.

    Raises:
        ShapeError: the weight is not 2-D, or its values are padded.
        UnsupportedError: shuffled rows, or a global scale for each row.
        ArgumentError: a global scale that is not positive and finite, or a `weight_global_scale` that is not the
            reciprocal of the weight's.
    """
    fn = "to_compressed_tensors"
    fmt = checks.block_format(fn, "t.format", t.format)
    if len(t.shape) != 2 or tuple(t.values.shape) != (t.shape[0], t.shape[1] // 2):
        raise checks.ShapeError(
            f"{fn}: want an unpadded 2-D weight, got shape {t.shape}, values {tuple(t.values.shape)}"
        )
    if t.row_shuffle:
        raise checks.UnsupportedError(f"{fn}: the rows are shuffled; checkpoints store them in order")
    kind = torch.float8_e4m3fn if fmt.scale == "e4m3" else torch.uint8
    linear = t.to_layout(SfLayout.layout_linear).scales.view(torch.uint8)
    tensors = {
        f"{prefix}weight_packed": t.values,
        f"{prefix}weight_scale": linear.reshape(t.rows, t.scale_cols).view(kind),
    }
    if fmt.two_level:
        g = torch.ones(1, device=t.device) if t.global_scale is None else t.global_scale
        tensors[f"{prefix}weight_global_scale"] = _stored_scale(fn, g, weight_global_scale)
    elif weight_global_scale is not None:
        raise checks.ArgumentError(f"{fn}: weight_global_scale has no meaning for {fmt.name}")
    return tensors


def _stored_scale(fn: str, g: torch.Tensor, stored: torch.Tensor | None) -> torch.Tensor:
    """Decode multiplier -> fp32 [1], the encode scale that a checkpoint holds."""
    if g.numel() != 1:
        raise checks.UnsupportedError(f"{fn}: a checkpoint has one global scale a weight, got {g.numel()}")
    g = g.float().reshape(1)
    if stored is not None:
        stored = stored.to(g.device).float().reshape(-1)
        if stored.numel() != 1 or (1.0 / stored).item() != g.item():
            raise checks.ArgumentError(
                f"{fn}: weight_global_scale must be 1 / the global scale, which is {g.item()!r}: got {stored.tolist()}"
            )
        return stored
    if not (g.isfinite().item() and g.item() > 0):
        raise checks.ArgumentError(f"{fn}: the global scale must be positive and finite, got {g.item()!r}")
    nearest = (1.0 / g).clamp(max=FLT_MAX)
    # Rounding twice can land one step beside the encode scale that g came from; a neighbour then inverts exactly.
    up, down = (torch.nextafter(nearest, torch.full_like(g, end)) for end in (torch.inf, 0.0))
    for candidate in (nearest, up, down):
        if candidate.isfinite().item() and (1.0 / candidate).item() == g.item():
            return candidate
    return nearest


def from_compressed_tensors(
    tensors: Mapping[str, torch.Tensor], prefix: str = "", *, format: str | BlockFormat = "nvfp4"
) -> BlockScaledTensor:
    """The quantized weight ``[N, K]`` that a checkpoint stores under `prefix`, scales in the linear layout.

    Scale bytes are kept as they are. An ``input_global_scale`` is not read: it belongs to the activations. Keep the
    stored ``weight_global_scale`` for an export with the same bytes, see `to_compressed_tensors`.

    Args:
        tensors: state dict; other entries are ignored.
        prefix: as in `to_compressed_tensors`.
        format: ``"nvfp4"`` or ``"mxfp4"``: what the checkpoint's config says, never guessed from a tensor.

    Raises:
        ArgumentError: a tensor is missing, a scale is NaN, or the global scale or its reciprocal is not positive and
            finite.
        ShapeError, DTypeError: a tensor has the wrong shape or dtype.
        UnsupportedError: the weight has zero points (asymmetric quantization).
    """
    fn = "from_compressed_tensors"
    fmt = checks.block_format(fn, "format", format)
    suffixes = ("weight_packed", "weight_scale") + (("weight_global_scale",) if fmt.two_level else ())
    missing = [f"{prefix}{suffix}" for suffix in suffixes if f"{prefix}{suffix}" not in tensors]
    if missing:
        raise checks.ArgumentError(
            f"{fn}: missing {checks.names(missing)}: a {FORMAT_NAMES[fmt.name]} weight has {checks.names(suffixes)}"
        )
    if f"{prefix}weight_zero_point" in tensors:
        raise checks.UnsupportedError(f"{fn}: {prefix}weight_zero_point: asymmetric FP4 weights are not supported")
    packed, scale = tensors[f"{prefix}weight_packed"], tensors[f"{prefix}weight_scale"]
    name = f"{prefix}weight_packed"
    checks.dtype(fn, name, packed, (torch.uint8,))
    if packed.ndim != 2 or 2 * packed.shape[1] % fmt.vec:
        raise checks.ShapeError(
            f"{fn}: {name} must be [N, K / 2] with K a multiple of {fmt.vec}, got {tuple(packed.shape)}"
        )
    rows, cols = packed.shape[0], 2 * packed.shape[1]
    codes = _scale_codes(fn, f"{prefix}weight_scale", scale, fmt, (rows, cols // fmt.vec))
    g = None
    if fmt.two_level:
        g = _decode_scale(fn, f"{prefix}weight_global_scale", tensors[f"{prefix}weight_global_scale"])
    checks.same_device(fn, weight_packed=packed, weight_scale=scale, weight_global_scale=g)
    return BlockScaledTensor(packed.contiguous(), codes, g, fmt, SfLayout.layout_linear, (rows, cols))


def _scale_codes(fn: str, name: str, scale: torch.Tensor, fmt: BlockFormat, shape: tuple[int, int]) -> torch.Tensor:
    """Checked block scales as flat uint8."""
    checks.dtype(fn, name, scale, checks.SCALE_DTYPES[fmt.scale])
    if tuple(scale.shape) != shape:
        raise checks.ShapeError(
            f"{fn}: {name} must be [N, K / {fmt.vec}] = {shape}, row-major and unpadded, got {tuple(scale.shape)}"
        )
    codes = scale.contiguous().view(torch.uint8).reshape(-1)
    nan = (codes & 0x7F) == 0x7F if fmt.scale == "e4m3" else codes == 0xFF
    if bool(nan.any()):
        raise checks.ArgumentError(f"{fn}: {name} holds {int(nan.sum())} NaN scales of {codes.numel()}")
    return codes


def _decode_scale(fn: str, name: str, stored: torch.Tensor) -> torch.Tensor:
    """Stored encode scale -> decode multiplier, fp32 [1]."""
    checks.dtype(fn, name, stored, (torch.float32,))
    if stored.numel() != 1:
        raise checks.ShapeError(f"{fn}: {name} must have 1 element, got shape {tuple(stored.shape)}")
    g = 1.0 / stored.reshape(1)
    if not (stored.isfinite().all() and g.isfinite().all() and stored.item() > 0):
        raise checks.ArgumentError(
            f"{fn}: {name} and its reciprocal must be positive and finite, got {stored.item()!r}"
        )
    return g


def quantization_config(format: str | BlockFormat = "nvfp4", ignore: Iterable[str] = ()) -> dict[str, Any]:
    """``quantization_config`` of a Hugging Face ``config.json`` for weight-only (W4A16) checkpoints of this kind.

    Args:
        format: ``"nvfp4"`` or ``"mxfp4"``.
        ignore: names of the linear layers that stay unquantized.
    """
    fmt = checks.block_format("quantization_config", "format", format)
    weights: dict[str, Any] = {
        "num_bits": 4,
        "type": "float",
        "symmetric": True,
        "group_size": fmt.vec,
        "strategy": "tensor_group" if fmt.two_level else "group",
        "block_structure": None,
        "dynamic": False,
        "actorder": None,
        "observer": "minmax",
        "observer_kwargs": {},
    }
    if not fmt.two_level:
        weights["scale_dtype"] = "torch.uint8"  # NVFP4's is implied; versions before MXFP4 do not know the field
    group = {
        "targets": ["Linear"],
        "weights": weights,
        "input_activations": None,
        "output_activations": None,
        "format": FORMAT_NAMES[fmt.name],
    }
    return {
        "quant_method": "compressed-tensors",
        "format": FORMAT_NAMES[fmt.name],
        "quantization_status": "compressed",
        "config_groups": {"group_0": group},
        "ignore": list(ignore),
        "kv_cache_scheme": None,
    }
