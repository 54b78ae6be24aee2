"""The verb quantize, and the checked calls that every dialect's quantizers share."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from tritonfp4 import checks
from tritonfp4.formats import FP4_FORMATS, RULES, BlockFormat, default_e4m3_max
from tritonfp4.layouts import SfLayout
from tritonfp4.tensor import BlockScaledTensor
from tritonfp4.verbs.operand import BACKENDS, block_scaled
from tritonfp4.verbs.quantize_fp8 import quantize_to_fp8


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
    tile_2d: bool = False,
    tile_arg: str = "tile_2d",
    rounding: str = "nearest",
    seed: torch.Tensor | int | None = None,
    dtypes: Sequence[torch.dtype] = checks.INPUT_DTYPES,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Check and quantize on behalf of the public function `fn`, whose input is called `arg`.

    Returns packed values, flat scale bytes and the fp32 decode multiplier(s), as the op does.
    """
    rows, _ = checks.quantizer_input(fn, arg, x, None if pad else fmt.vec, dtypes)
    rule = checks.rule(fn, "rule", rule, fmt)
    limit = default_e4m3_max(rule) if e4m3_max is None else checks.e4m3_max(fn, e4m3_max)
    if not fmt.two_level:
        global_scale, scale_from = None, "none"
    if global_scale is not None:
        checks.global_scale(fn, scale_arg, global_scale, 1 if scale_from == "row" else rows)
    if out_scale is not None:
        checks.global_scale(fn, "out_scale", out_scale, 1)
    checks.rounding(fn, rounding, fmt, rule)
    checks.seed(fn, seed, rounding)
    if tile_2d:
        checks.tile_2d(fn, tile_arg, scale_from == "row" or (global_scale is not None and global_scale.numel() != 1))
    noise = None if rounding == "nearest" else seed_tensor(seed, x.device)
    checks.same_device(fn, **{arg: x, scale_arg: global_scale, "out_scale": out_scale, "seed": noise})
    if x.dtype == torch.float8_e4m3fn:
        x = x.view(torch.uint8)  # what the op takes bytes for
    return torch.ops.tritonfp4.quantize.default(
        x, global_scale, out_scale, fmt.name, rule, limit, scale_from, int(layout), pad, backend, bool(tile_2d),
        rounding, noise,
    )  # fmt: skip


def seed_tensor(seed: torch.Tensor | int | None, device: torch.device) -> torch.Tensor:
    """A seed on the device; None draws one from torch's default generator there, which CUDA graphs advance."""
    if isinstance(seed, torch.Tensor):
        return seed
    if seed is None:
        return torch.randint(0, 2**63 - 1, (1,), dtype=torch.int64, device=device)
    return torch.full((1,), seed, dtype=torch.int64, device=device)


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
    tile_2d: bool = False,
    rounding: str = "nearest",
    seed: torch.Tensor | int | None = None,
) -> BlockScaledTensor:
    """Quantize a matrix to FP4, MXFP8 or FP8 along its last dimension.

    The bits are those of TransformerEngine's NVFP4 reference, of the OCP MX RCEIL rule and of flashinfer's
    ``fp8_blockscale_gemm_sm90``, the same on every device.

    Args:
        x: ``[*lead, K]`` bf16, fp16 or fp32 with any strides; K a multiple of the block (16 for NVFP4, 32 for MXFP4 and
            MXFP8; any K for the others).
        format: ``"nvfp4"``, ``"mxfp4"``, ``"mxfp8"``, or e4m3 with fp32 scales, which are always linear: ``"fp8_1x128"``,
            ``"fp8_128x128"``. The FP8 ones have ``_e5m2`` twins.
        rule: how block scales are chosen. NVFP4: ``"static_6"`` (default), ``"static_4"``, or four-over-six by
            ``"mse"``, ``"mae"``, ``"abs_max"``. MXFP4: ``"static_6"`` (RCEIL, default), ``"static_4"`` (CEIL),
            ``"floor"``, ``"even"``. fouroversix's other names are accepted. MXFP8: ``"rceil"`` (default), ``"floor"``. FP8
            with fp32 scales: ``"internal"`` (default; see `per_token_cast_to_fp8`), ``"amax"`` (DeepGEMM's, with the
            amax at least 1e-4).
        e4m3_max: 448 or 256, the range of the block scales; by default 256 for four-over-six, else 448.
        global_scale: fp32 decode multiplier g, 1 element or one for each row; by default from the amax. The result
            carries ``1 / (1 / g)``, which may differ from g in the last bit.
        amax: fp32 amax to take the global scale from instead of x's own, for tensors that share one (1 element or
            one for each row).
        per_row: one global scale for each row, from its own amax.
        layout: layout of the scales.
        backend: ``"auto"`` (kernels on CUDA, the reference elsewhere), ``"triton"`` or ``"torch"`` (the reference).
        tile_2d: FP4 only: one block scale for each 16x16 tile (NVFP4; 32x32 for MXFP4) of the rows, leading dimensions
            flattened, and columns; it is stored for each row. Ragged tiles are filled up with zeros. Excludes global
            scales by the row.
        rounding: ``"nearest"``, ``"stochastic"`` or ``"stochastic_unbiased"`` (NVFP4 by ``"static_6"`` only: the maximum
            goes to 6 * 16 / 17, so that nothing saturates; without it rounding is biased where a scale was rounded
            down, and by four-over-six's choice, which sees the drawn error).
        seed: of stochastic rounding: an int, an int64 tensor with 1 element on x's device, or None for one drawn from
            torch's default generator. The noise is a function of the seed and of an element's row-major index alone.

    Returns:
        A `BlockScaledTensor` of shape ``[*lead, K]``. ``global_scale`` is None but for NVFP4.

    Raises:
        ShapeError, DTypeError, ArgumentError, DeviceError, UnsupportedError, BackendError: see `tritonfp4.checks`.
    """
    fn = "quantize"
    fmt = checks.block_format(fn, "format", format, tuple(RULES))
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
    if fmt.name not in FP4_FORMATS:
        options = {"tile_2d": tile_2d, "rounding": rounding != "nearest", "seed": seed is not None}
        for name in [name for name, asked in options.items() if asked]:
            raise checks.ArgumentError(
                f"{fn}: {name} has no meaning for {fmt.name}, want one of {checks.names(FP4_FORMATS)}"
            )
        return quantize_to_fp8(fn, x, fmt, rule, kind, backend)
    scale_from = (
        "row" if per_row else "decode" if global_scale is not None else "amax" if amax is not None else "tensor"
    )
    values, scales, g = call_quantize(
        fn, x, fmt, rule="static_6" if rule is None else rule, e4m3_max=e4m3_max, scale_arg="amax" if amax is not None else "global_scale",
        global_scale=amax if amax is not None else global_scale, scale_from=scale_from, layout=kind, backend=backend,
        tile_2d=tile_2d, rounding=rounding, seed=seed,
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
        t.batched,
    )
