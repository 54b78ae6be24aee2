"""The verb quantize, and the checked calls that every dialect's quantizers share."""

from __future__ import annotations

import torch

from tritonfp4 import checks
from tritonfp4.formats import BlockFormat, default_e4m3_max
from tritonfp4.layouts import SfLayout
from tritonfp4.tensor import BlockScaledTensor

BACKENDS = ("auto", "triton", "torch")


def call_quantize(
    fn: str,
    x: torch.Tensor,
    fmt: BlockFormat,
    *,
    arg: str = "x",
    scale_arg: str = "global_scale",
    rule: str = "static_6",
    e4m3_max: int | None = None,
    global_scale: torch.Tensor | None = None,
    out_scale: torch.Tensor | None = None,
    scale_from: str = "tensor",
    layout: SfLayout = SfLayout.layout_128x4,
    pad: bool = False,
    backend: str = "auto",
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Check and quantize on behalf of the public function `fn`, whose input is called `arg`.

    Returns packed values, flat scale bytes and the fp32 decode multiplier(s), as the op does.
    """
    rows, _ = checks.quantizer_input(fn, arg, x, None if pad else fmt.vec)
    rule = checks.rule(fn, "rule", rule, fmt)
    limit = default_e4m3_max(rule) if e4m3_max is None else checks.e4m3_max(fn, e4m3_max)
    if not fmt.two_level:
        global_scale, scale_from = None, "none"
    if global_scale is not None:
        checks.global_scale(fn, scale_arg, global_scale, 1 if scale_from == "row" else rows)
    if out_scale is not None:
        checks.global_scale(fn, "out_scale", out_scale, 1)
    checks.same_device(fn, **{arg: x, scale_arg: global_scale, "out_scale": out_scale})
    return torch.ops.tritonfp4.quantize.default(
        x, global_scale, out_scale, fmt.name, rule, limit, scale_from, int(layout), pad, backend
    )


def quantize(
    x: torch.Tensor,
    format: str | BlockFormat = "nvfp4",
    *,
    rule: str | None = None,
    e4m3_max: int | None = None,
    global_scale: torch.Tensor | None = None,
    amax: torch.Tensor | None = None,
    per_row: bool = False,
    layout: SfLayout | int = SfLayout.layout_128x4,
    backend: str = "auto",
) -> BlockScaledTensor:
    """Quantize a matrix to FP4 along its last dimension.

    The bits are those of TransformerEngine's NVFP4 reference and of the OCP MX RCEIL rule, the same on every device.

    Args:
        x: ``[*lead, K]`` bf16, fp16 or fp32 with any strides; K a multiple of the block (16 for NVFP4, 32 for MXFP4).
        format: ``"nvfp4"`` or ``"mxfp4"``.
        rule: how block scales are chosen. NVFP4: ``"static_6"`` (default), ``"static_4"``, or four-over-six by
            ``"mse"``, ``"mae"``, ``"abs_max"``. MXFP4: ``"static_6"`` (RCEIL, default), ``"static_4"`` (CEIL),
            ``"floor"``, ``"even"``. fouroversix's other names are accepted.
        e4m3_max: 448 or 256, the range of the block scales; by default 256 for four-over-six, else 448.
        global_scale: fp32 decode multiplier g, 1 element or one for each row; by default from the amax. The result
            carries ``1 / (1 / g)``, which may differ from g in the last bit.
        amax: fp32 amax to take the global scale from instead of x's own, for tensors that share one (1 element or
            one for each row).
        per_row: one global scale for each row, from its own amax.
        layout: layout of the scales.
        backend: ``"auto"`` (kernels on CUDA, the reference elsewhere), ``"triton"`` or ``"torch"`` (the reference).

    Returns:
        A `BlockScaledTensor` of shape ``[*lead, K]``. ``global_scale`` is None for MXFP4.

    Raises:
        ShapeError, DTypeError, ArgumentError, DeviceError, UnsupportedError, BackendError: see `tritonfp4.checks`.
    """
    fn = "quantize"
    fmt = checks.block_format(fn, "format", format)
    checks.backend(fn, backend, BACKENDS)
    kind = checks.layout(fn, "layout", layout)
    given = [
        name
        for name, value in (("global_scale", global_scale), ("amax", amax), ("per_row", per_row or None))
        if value is not None
    ]
    if len(given) > 1:
        raise checks.ArgumentError(f"{fn}: {' and '.join(given)} exclude each other")
    if e4m3_max is not None:
        given.append("e4m3_max")
    if given and not fmt.two_level:
        raise checks.ArgumentError(f"{fn}: {given[0]} has no meaning for {fmt.name}, which has no global scale")
    scale_from = (
        "row" if per_row else "decode" if global_scale is not None else "amax" if amax is not None else "tensor"
    )
    values, scales, g = call_quantize(
        fn, x, fmt, rule="static_6" if rule is None else rule, e4m3_max=e4m3_max, scale_arg="amax" if amax is not None else "global_scale",
        global_scale=amax if amax is not None else global_scale, scale_from=scale_from, layout=kind, backend=backend,
    )  # fmt: skip
    return BlockScaledTensor(values, scales, g if fmt.two_level else None, fmt, kind, tuple(x.shape))


def dequantize(t: BlockScaledTensor, dtype: torch.dtype = torch.float32, *, backend: str = "auto") -> torch.Tensor:
    """``[*lead, K]`` of `dtype` (fp32, bf16 or fp16): element * scale * global scale in fp32, rounded once to `dtype`."""
    fn = "dequantize"
    checks.backend(fn, backend, BACKENDS)
    checks.out_dtype(fn, dtype, checks.INPUT_DTYPES, "dtype")
    block_scaled(fn, "t", t)
    return torch.ops.tritonfp4.dequantize.default(
        t.values,
        t.scales,
        t.global_scale,
        t.format.name,
        int(t.layout),
        t.row_shuffle,
        list(t.shape),
        dtype,
        False,
        backend,
    )


def block_scaled(fn: str, arg: str, t: BlockScaledTensor) -> None:
    """Check that the parts of a `BlockScaledTensor` fit together."""
    if not isinstance(t, BlockScaledTensor):
        raise checks.DTypeError(f"{fn}: {arg} must be a BlockScaledTensor, got {type(t).__name__}")
    checks.block_format(fn, f"{arg}.format", t.format)
    checks.dtype(fn, f"{arg}.values", t.values, (torch.uint8,))
    if t.values.ndim < 2 or t.flat_values.shape[0] < t.rows or 2 * t.values.shape[-1] < t.cols:
        raise checks.ShapeError(
            f"{fn}: {arg}.values of shape {tuple(t.values.shape)} are too small for {tuple(t.shape)}"
        )
    if t.cols % t.format.vec:
        raise checks.ShapeError(
            f"{fn}: the columns of {arg} must be a multiple of {t.format.vec}, got {tuple(t.shape)}"
        )
    if t.row_shuffle not in (0, 16, 32) or (t.row_shuffle and t.rows % t.row_shuffle):
        raise checks.ShapeError(
            f"{fn}: {arg}.row_shuffle must be 0, 16 or 32 and divide the rows, got {t.row_shuffle} for {t.rows} rows"
        )
    checks.scale_buffer(fn, f"{arg}.scales", t.scales, t.format, t.layout, t.rows, t.scale_cols)
    if t.global_scale is not None:
        checks.global_scale(fn, f"{arg}.global_scale", t.global_scale, t.rows)
    parts = {f"{arg}.values": t.values, f"{arg}.scales": t.scales, f"{arg}.global_scale": t.global_scale}
    checks.same_device(fn, **parts)
