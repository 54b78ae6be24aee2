"""FP8 and MXFP8: the checked calls that the verb quantize, the dialects and the GEMMs share, and DeepGEMM's two casts."""

from __future__ import annotations

import torch

from tritonfp4 import checks
from tritonfp4.formats import FLT_MAX, FP8_1X128, FP8_128X128, FP8_FORMATS, BlockFormat
from tritonfp4.layouts import SfLayout, round_up
from tritonfp4.tensor import BlockScaledTensor
from tritonfp4.verbs.operand import BACKENDS


def call_quantize_mxfp8(
    fn: str,
    x: torch.Tensor,
    format: str | BlockFormat = "mxfp8",
    *,
    arg: str = "x",
    rule: str = "rceil",
    layout: SfLayout = SfLayout.layout_128x4,
    alignment: int = 32,
    per_batch: bool = False,
    backend: str = "auto",
) -> tuple[torch.Tensor, torch.Tensor]:
    """Check and quantize on behalf of the public function `fn`, whose input is called `arg`.

    Returns value bytes ``[*lead, round_up(K, alignment)]`` and flat e8m0 scale bytes; with `per_batch` those of every
    matrix of a 3-D x lie in a padded layout of their own.
    """
    fmt = checks.block_format(fn, "format", format, ("mxfp8", "mxfp8_e5m2"))
    checks.quantizer_input(fn, arg, x, fmt.vec)
    rule = checks.rule(fn, "rule", rule, fmt)
    if round_up(x.shape[-1], alignment) > checks.MAX_COLUMNS:
        raise checks.ShapeError(
            f"{fn}: {arg} has more than {checks.MAX_COLUMNS} columns, padded to a multiple of {alignment}: got shape {tuple(x.shape)}"
        )
    if per_batch and x.ndim != 3:
        raise checks.ShapeError(f"{fn}: per_batch=True needs {arg} of shape [b, m, k], got shape {tuple(x.shape)}")
    return torch.ops.tritonfp4.quantize_mxfp8.default(x, fmt.name, rule, int(layout), alignment, per_batch, backend)


def call_quantize_fp8(
    fn: str,
    x: torch.Tensor,
    format: str | BlockFormat = "fp8_1x128",
    *,
    arg: str = "x",
    rule: str = "internal",
    eps: float = 1e-4,
    pow2: bool = False,
    mn_major: bool = False,
    tma_aligned: bool = False,
    backend: str = "auto",
) -> tuple[torch.Tensor, torch.Tensor]:
    """Check and quantize on behalf of the public function `fn`, whose input is called `arg`.

    Args:
        fn: name for error messages.
        x: ``[*lead, K]`` bf16, fp16 or fp32, any strides, any K; the rows are flattened.
        format: ``"fp8_1x128"``, ``"fp8_128x128"`` or one of their e5m2 twins.
        arg: name of x for error messages.
        rule: ``"internal"`` (of flashinfer's ``fp8_blockscale_gemm_sm90``) or ``"amax"`` (of DeepGEMM); see `formats.RULES`.
        eps: lower bound of the block amax under the rule "amax".
        pow2: round scales up to powers of two.
        mn_major: scales column-major: a transposed view of ``[kb, R]``.
        tma_aligned: with `mn_major`, the rows in memory padded with zeros to a multiple of 4, as TMA wants them.
        backend: "auto", "triton" or "torch".

    Returns:
        Value bytes (uint8) of x's shape, and fp32 decode multipliers ``[R, ceil(K / 128)]``, R being the rows or
        ``ceil(rows / 128)``. NaN elements stay NaN and do not count for the scale; so do infinite ones without `pow2`,
        whose block has an infinite scale. Raises the errors of `tritonfp4.checks`.
    """
    fmt = checks.block_format(fn, "format", format, [name for name in FP8_FORMATS if name.startswith("fp8_1")])
    rule = checks.rule(fn, "rule", rule, fmt)
    mn_align = 0 if not mn_major else 4 if tma_aligned else 1
    return call_quantize_blocks(fn, x, fmt.element, fmt.block, arg=arg, rule=rule, eps=eps, pow2=pow2, mn_align=mn_align,
                                backend=backend)  # fmt: skip


def call_quantize_blocks(
    fn: str,
    x: torch.Tensor,
    element: str,
    block: tuple[int, int],
    *,
    arg: str = "x",
    rule: str = "amax",
    eps: float = 1e-4,
    pow2: bool = False,
    mn_align: int = 0,
    backend: str = "auto",
) -> tuple[torch.Tensor, torch.Tensor]:
    """As `call_quantize_fp8` for any element ("e4m3", "e5m2", "int8") and any block of rows and columns."""
    checks.quantizer_input(fn, arg, x, None)
    if isinstance(eps, bool) or not isinstance(eps, (int, float)) or not 0 <= eps <= FLT_MAX:
        raise checks.ArgumentError(f"{fn}: eps must be a finite number that is not negative, got {eps!r}")
    return torch.ops.tritonfp4.quantize_fp8.default(
        x, element, list(block), rule, float(eps), bool(pow2), mn_align, backend
    )


def quantize_to_fp8(
    fn: str, x: torch.Tensor, fmt: BlockFormat, rule: str | None, layout: SfLayout, backend: str
) -> BlockScaledTensor:
    """The verb quantize for MXFP8 and for FP8 with fp32 scales, which always lie linear."""
    if fmt.scale == "e8m0":
        values, scales = call_quantize_mxfp8(
            fn, x, fmt, rule="rceil" if rule is None else rule, layout=layout, backend=backend
        )
    else:
        layout = SfLayout.layout_linear
        values, scales = call_quantize_fp8(fn, x, fmt, rule="internal" if rule is None else rule, backend=backend)
    return BlockScaledTensor(values, scales, None, fmt, layout, tuple(x.shape))


def per_token_cast_to_fp8(
    x: torch.Tensor,
    *,
    pow2: bool = False,
    mn_major: bool = False,
    tma_aligned: bool = False,
    backend: str = "auto",
) -> tuple[torch.Tensor, torch.Tensor]:
    """Quantize to e4m3 with one scale for every 128 consecutive elements of a row: activations.

    The arithmetic is that of ``fp8_blockscale_gemm_sm90`` on a bf16 input: ``c = 448 / amax`` (1 for a block of zeros),
    ``q = e4m3(x * c)``, scale ``1 / c``. flashinfer's test helper of this name (`tritonfp4.flashinfer.testing.utils`)
    has powers of two instead.

    Args:
        x: ``[*lead, K]`` bf16, fp16 or fp32 with any strides; a last block of fewer than 128 elements is padded with 0.
        pow2: round scales up to powers of two.
        mn_major: scales column-major in memory.
        tma_aligned: with `mn_major`, rows in memory padded to a multiple of 4, as ``fp8_blockscale_gemm_sm90`` of
            flashinfer reads them.
        backend: ``"auto"``, ``"triton"`` or ``"torch"`` (the reference).

    Returns:
        float8_e4m3fn ``[*lead, K]`` and fp32 decode multipliers ``[*lead, ceil(K / 128)]``.

    Raises:
        ShapeError, DTypeError, ArgumentError, UnsupportedError, BackendError: see `tritonfp4.checks`.
    """
    fn = "per_token_cast_to_fp8"
    checks.backend(fn, backend, BACKENDS)
    if tma_aligned and not mn_major:
        raise checks.ArgumentError(f"{fn}: tma_aligned=True needs mn_major=True")
    values, scales = call_quantize_fp8(
        fn, x, FP8_1X128, pow2=pow2, mn_major=mn_major, tma_aligned=tma_aligned, backend=backend
    )
    return values.view(torch.float8_e4m3fn), scales if x.ndim == 2 else scales.unflatten(0, x.shape[:-1])


def per_block_cast_to_fp8(
    x: torch.Tensor, *, pow2: bool = False, mn_major: bool = False, backend: str = "auto"
) -> tuple[torch.Tensor, torch.Tensor]:
    """Quantize to e4m3 with one scale for every tile of 128 x 128 elements: weights.

    The arithmetic is that of `per_token_cast_to_fp8`.

    Args:
        x: ``[N, K]`` bf16, fp16 or fp32 with any strides; ragged edges are padded with 0.
        pow2: round scales up to powers of two.
        mn_major: scales column-major in memory.
        backend: ``"auto"``, ``"triton"`` or ``"torch"`` (the reference).

    Returns:
        float8_e4m3fn ``[N, K]`` and fp32 decode multipliers ``[ceil(N / 128), ceil(K / 128)]``.

    Raises:
        ShapeError, DTypeError, UnsupportedError, BackendError: see `tritonfp4.checks`.
    """
    fn = "per_block_cast_to_fp8"
    checks.backend(fn, backend, BACKENDS)
    checks.is_tensor(fn, "x", x)
    if x.ndim != 2:
        raise checks.ShapeError(f"{fn}: x must have 2 dimensions, got shape {tuple(x.shape)}")
    values, scales = call_quantize_fp8(fn, x, FP8_128X128, pow2=pow2, mn_major=mn_major, backend=backend)
    return values.view(torch.float8_e4m3fn), scales
