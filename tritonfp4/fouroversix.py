"""fouroversix's tuple API: ``quantize_to_fp4`` and ``fp4_matmul``.

The signatures are those of fouroversix at commit 9d02486; the numerics are exact (TransformerEngine's order, no clamp of
small scales), and every backend name gives the same bits.
"""

from __future__ import annotations

import enum
from typing import Any

import torch

from tritonfp4 import checks
from tritonfp4.checks import ArgumentError, BackendError, DTypeError, ShapeError
from tritonfp4.formats import ROUNDINGS, BlockFormat
from tritonfp4.layouts import SfLayout, round_up
from tritonfp4.tensor import BlockScaledTensor
from tritonfp4.verbs.matmul import call_matmul
from tritonfp4.verbs.quantize import call_quantize


class AdaptiveBlockScalingRule(str, enum.Enum):
    """How block scales are chosen."""

    abs_max = "abs_max"
    always_4 = "always_4"
    always_6 = "always_6"
    l1_norm = "l1_norm"
    mse = "mse"
    # names of later fouroversix versions
    static_4 = "static_4"
    static_6 = "static_6"
    mae = "mae"


class FP4Format(str, enum.Enum):
    """Number formats."""

    mxfp4 = "mxfp4"
    nvfp4 = "nvfp4"


class DataType(str, enum.Enum):
    """Output dtypes."""

    bfloat16 = "bfloat16"
    float16 = "float16"
    float32 = "float32"

    @property
    def torch(self) -> torch.dtype:
        """The torch dtype of the name."""
        return _DTYPES[self.value]


class MatmulBackend(str, enum.Enum):
    """What multiplies."""

    cutlass = "cutlass"
    pytorch = "pytorch"
    triton = "triton"


class QuantizeBackend(str, enum.Enum):
    """What quantizes."""

    cuda = "cuda"
    pytorch = "pytorch"
    triton = "triton"


class RoundStyle(str, enum.Enum):
    """How elements are rounded."""

    nearest = "nearest"
    stochastic = "stochastic"
    # name of later fouroversix versions
    stochastic_unbiased = "stochastic_unbiased"


_DTYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16, "float32": torch.float32}
#: Backend names -> what runs: "pytorch" is the reference, "triton" insists on the kernels, the others let the device decide.
_BACKENDS = {
    "cuda": "auto",
    "cutlass": "auto",
    "auto": "auto",
    "pytorch": "torch",
    "torch": "torch",
    "triton": "triton",
}
#: Keywords of `quantize_to_fp4`, which `fp4_matmul` passes on.
_QUANTIZE_KEYWORDS = (
    "backend", "scale_rule", "block_scale_2d", "had", "fp4_format", "round_style", "transpose", "e4m3_max", "unbiased",
    "seed",
)  # fmt: skip


def _backend(value: Any, text: str) -> str:
    if value is None:
        return "auto"
    name = str(getattr(value, "value", value))
    if name not in _BACKENDS:
        raise BackendError(f"{text}: got {value!r}, want one of {checks.names(list(_BACKENDS))}")
    return _BACKENDS[name]


def _format(fn: str, value: Any) -> BlockFormat:
    return checks.block_format(fn, "fp4_format", getattr(value, "value", value))


def _rule(fn: str, value: Any, fmt: BlockFormat, rounding: str) -> str:
    """An omitted rule is `mse` for NVFP4, and `always_6` for MXFP4 and for unbiased rounding, which have no adaptive rule."""
    if value is None:
        return "mse" if fmt.name == "nvfp4" and rounding != "stochastic_unbiased" else "static_6"
    return checks.rule(fn, "scale_rule", value, fmt)


def _rounding(fn: str, style: Any, unbiased: bool) -> str:
    name = str(getattr(style, "value", style))
    checks.choice(fn, "round_style", name, ROUNDINGS)
    if unbiased and name == "nearest":
        raise ArgumentError(f"{fn}: unbiased=True needs round_style='stochastic', got {name!r}")
    return "stochastic_unbiased" if unbiased else name


def quantize_to_fp4(
    x: torch.Tensor,
    *,
    backend: QuantizeBackend | str | None = None,
    scale_rule: AdaptiveBlockScalingRule | str | None = None,
    block_scale_2d: bool = False,
    had: torch.Tensor | None = None,
    fp4_format: FP4Format | str = FP4Format.nvfp4,
    round_style: RoundStyle | str = RoundStyle.nearest,
    transpose: bool = False,
    e4m3_max: int | None = None,
    unbiased: bool = False,
    seed: torch.Tensor | int | None = None,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Quantize a matrix to FP4 with its own global scale, padded to whole scale tiles.

    The options combine freely, in this order: transpose, rotate, measure the amax, choose scales, round.

    Args:
        x: ``[*lead, K]`` bf16, fp16 or fp32, any strides and any K; leading dimensions are flattened to M rows.
        backend: ``"cuda"`` or None (the device decides), ``"triton"`` (the kernels) or ``"pytorch"`` (the reference).
        scale_rule: ``"mse"`` (default for NVFP4), ``"l1_norm"`` / ``"mae"``, ``"abs_max"``, ``"always_6"`` / ``"static_6"``
            (default for MXFP4 and with `unbiased`), ``"always_4"`` / ``"static_4"``.
        block_scale_2d: one block scale for each 16x16 tile (MXFP4: 32x32), stored for each of its rows; ragged tiles are
            filled up with zeros. By a static rule x and ``x.T`` then decode to the same values.
        had: square matrix of 1 to 128 rows (a power of two) that every ``h = had.shape[0]`` consecutive elements of a row
            are multiplied by, ``x.reshape(-1, h) @ had``, as given (see `hadamard_matrix`): products and sums in fp32, in
            the order of its rows, rounded to the dtype of x. K must be a multiple of h.
        fp4_format: ``"nvfp4"`` or ``"mxfp4"``.
        round_style: ``"nearest"``, or ``"stochastic"``: up with the probability of the distance from the grid point below.
            An adaptive rule biases it, as the choice of the scale sees the drawn errors, and so does saturation where a
            scale was rounded down.
        transpose: quantize ``x.T`` (2-D x only).
        e4m3_max: 448 or 256, the range of the block scales; by default 256 for adaptive rules, else 448.
        unbiased: stochastic rounding without saturation: the largest element is scaled to 6 * 16 / 17 (NVFP4 by
            ``"always_6"`` only). ``round_style="stochastic_unbiased"`` is the same.
        seed: of stochastic rounding: an int, an int64 tensor with 1 element on x's device, or None for one drawn from
            torch's default generator. The noise is a function of the seed and of the element's index in the (transposed)
            matrix alone.

    Returns:
        ``(e2m1, sf, normconst)``: uint8 ``[round_up(M, 128), round_up(K, 64 or 128) / 2]`` with zero padding; the scales,
        flat, 128x4, float8_e4m3fn or float8_e8m0fnu; the fp32 0-d decode multiplier (1 for MXFP4), so that
        ``x ~ e2m1 * sf * normconst``.

    Raises:
        ShapeError, DTypeError, ArgumentError, UnsupportedError, BackendError. Source: fouroversix 9d02486.
    """
    fn = "quantize_to_fp4"
    core = _backend(backend, f"{fn}: Backend {backend} does not support the given parameters")
    fmt = _format(fn, fp4_format)
    rounding = _rounding(fn, round_style, unbiased)
    rule = _rule(fn, scale_rule, fmt, rounding)
    checks.quantizer_input(fn, "x", x, None)
    if transpose and x.ndim != 2:
        raise ShapeError(f"{fn}: transpose=True needs a 2-D x, got shape {tuple(x.shape)}")
    if had is not None:
        checks.rotation(fn, had, x, transpose)
        checks.same_device(fn, x=x, had=had)
    x = x.t() if transpose else x
    if had is not None:
        x = torch.ops.tritonfp4.rotate.default(x, had, core)
    values, scales, g = call_quantize(
        fn, x, fmt, rule=rule, e4m3_max=e4m3_max, pad=True, backend=core, tile_2d=block_scale_2d,
        tile_arg="block_scale_2d", rounding=rounding, seed=seed,
    )  # fmt: skip
    kind = torch.float8_e4m3fn if fmt.scale == "e4m3" else torch.float8_e8m0fnu
    return values, scales.view(kind), g.view(())


def fp4_matmul(
    a: torch.Tensor | None = None,
    b: torch.Tensor | None = None,
    *,
    backend: MatmulBackend | str | None = None,
    a_e2m1: torch.Tensor | None = None,
    a_sf: torch.Tensor | None = None,
    a_normconst: torch.Tensor | None = None,
    b_e2m1: torch.Tensor | None = None,
    b_sf: torch.Tensor | None = None,
    b_normconst: torch.Tensor | None = None,
    a_quantize_kwargs: dict[str, Any] | None = None,
    b_quantize_kwargs: dict[str, Any] | None = None,
    fp4_format: FP4Format | str = FP4Format.nvfp4,
    out_dtype: DataType | torch.dtype | str = DataType.bfloat16,
    out_shape: tuple[int, int] | None = None,
    a_quantization_kwargs: dict[str, Any] | None = None,
    b_quantization_kwargs: dict[str, Any] | None = None,
) -> torch.Tensor:
    """``a @ b.T`` in FP4; an operand that is not given in FP4 is quantized first.

    Args:
        a: ``[M, K]`` bf16, fp16 or fp32, used if `a_e2m1` and `a_sf` are missing.
        b: ``[N, K]``, likewise.
        backend: ``"cutlass"`` or None (the device decides), ``"triton"`` or ``"pytorch"`` (the reference).
        a_e2m1, a_sf, a_normconst: what `quantize_to_fp4` returned for a; a_normconst may have 1 element or one for each
            padded row, None means 1.
        b_e2m1, b_sf, b_normconst: likewise for b.
        a_quantize_kwargs: keywords of `quantize_to_fp4` for a; `a_quantization_kwargs` is the same.
        b_quantize_kwargs: likewise for b.
        fp4_format: ``"nvfp4"`` or ``"mxfp4"``, of both operands; it also reaches the quantizers.
        out_dtype: bfloat16, float16 or float32.
        out_shape: rows and columns to keep of the result.

    Returns:
        An operand given in high precision contributes its true rows, a packed one its padded rows, unless `out_shape`
        cuts the result. The bits do not depend on which of the two ways an operand came.

    Raises:
        ShapeError, DTypeError, ArgumentError, DeviceError, UnsupportedError, BackendError. Source: fouroversix 9d02486.
    """
    fn = "fp4_matmul"
    core = _backend(backend, f"{fn}: Backend {backend} is not available")
    fmt = _format(fn, fp4_format)
    dtype = _DTYPES.get(str(getattr(out_dtype, "value", out_dtype)).removeprefix("torch."))
    checks.out_dtype(fn, dtype if dtype is not None else out_dtype, tuple(_DTYPES.values()))
    assert dtype is not None
    kwargs_a = _kwargs(fn, "a", a_quantize_kwargs, a_quantization_kwargs)
    kwargs_b = _kwargs(fn, "b", b_quantize_kwargs, b_quantization_kwargs)
    left, m, true_a = _operand(fn, "a", a, a_e2m1, a_sf, a_normconst, fmt, kwargs_a, core)
    right, n, true_b = _operand(fn, "b", b, b_e2m1, b_sf, b_normconst, fmt, kwargs_b, core)
    checks.same_device(fn, a=left.values, b=right.values)
    _same_k(fn, left.cols, true_a, right.cols, true_b, 4 * fmt.vec)
    out = call_matmul(left, right, None, dtype, core)
    if out_shape is not None:
        if (
            not isinstance(out_shape, (tuple, list))
            or [isinstance(v, (int, torch.SymInt)) for v in out_shape] != [True] * 2
        ):
            raise DTypeError(f"{fn}: out_shape must be two integers, got {out_shape!r}")
        if not (0 <= out_shape[0] <= out.shape[0] and 0 <= out_shape[1] <= out.shape[1]):
            raise ShapeError(f"{fn}: out_shape must lie within {tuple(out.shape)}, got {tuple(out_shape)}")
        m, n = out_shape
    return out if (m, n) == tuple(out.shape) else out[:m, :n].contiguous()


def _same_k(fn: str, cols_a: int, true_a: int | None, cols_b: int, true_b: int | None, tile: int) -> None:
    """Refuse operands whose true K cannot be the same. Of a packed operand only the padded K is known, and some
    fouroversix versions pad by one tile more than is needed."""
    if true_a is not None and true_b is not None:
        same = true_a == true_b
    elif true_a is None and true_b is None:
        same = abs(cols_a - cols_b) <= tile
    else:
        true, packed = (true_a, cols_b) if true_a is not None else (true_b, cols_a)
        assert true is not None
        same = true <= packed <= round_up(true, tile) + tile
    if not same:
        shown = [
            f"{cols} padded columns" if k is None else f"{k} columns"
            for cols, k in ((cols_a, true_a), (cols_b, true_b))
        ]
        raise ShapeError(f"{fn}: K dimension mismatch: a has {shown[0]}, b has {shown[1]}")


def _kwargs(fn: str, side: str, first: dict[str, Any] | None, second: dict[str, Any] | None) -> dict[str, Any]:
    if first is not None and second is not None:
        raise ArgumentError(f"{fn}: {side}_quantize_kwargs and {side}_quantization_kwargs are the same: give one")
    name, given = (f"{side}_quantization_kwargs", second) if first is None else (f"{side}_quantize_kwargs", first)
    if given is None:
        return {}
    if not isinstance(given, dict):
        raise DTypeError(f"{fn}: {name} must be a dict of keywords of quantize_to_fp4, got {type(given).__name__}")
    unknown = [key for key in given if key not in _QUANTIZE_KEYWORDS]
    if unknown:
        raise DTypeError(
            f"{fn}: {name} has unknown keywords: got {unknown}, want some of {checks.names(_QUANTIZE_KEYWORDS)}"
        )
    return given


def _operand(
    fn: str,
    side: str,
    x: torch.Tensor | None,
    e2m1: torch.Tensor | None,
    sf: torch.Tensor | None,
    normconst: torch.Tensor | None,
    fmt: BlockFormat,
    kwargs: dict[str, Any],
    backend: str,
) -> tuple[BlockScaledTensor, int, int | None]:
    """The operand, padded; the rows that it contributes to the result; its true K if that is known."""
    true_k = None
    if e2m1 is None or sf is None:
        if x is None:
            raise ArgumentError(f"{fn}: If {side} is None, {side}_e2m1 and {side}_sf must be provided")
        checks.is_tensor(fn, side, x)
        parts = {f"{side}_e2m1": e2m1, f"{side}_sf": sf, f"{side}_normconst": normconst}
        given = [name for name, part in parts.items() if part is not None]
        if given:
            raise ArgumentError(
                f"{fn}: {' and '.join(given)} without the rest of the packed {side}: give all or only {side}"
            )
        if x.ndim != 2:
            raise ShapeError(f"{fn}: {side} must be 2-D, got shape {tuple(x.shape)}")
        options: dict[str, Any] = {
            "fp4_format": fmt.name,
            "backend": {"torch": "pytorch"}.get(backend, backend),
            **kwargs,
        }
        if _format(fn, options["fp4_format"]) is not fmt:
            raise ArgumentError(
                f"{fn}: {side}_quantize_kwargs asks for {options['fp4_format']!r} but fp4_format is {fmt.name!r}"
            )
        e2m1, sf, normconst = quantize_to_fp4(x, **options)
        rows, true_k = (x.shape[1], x.shape[0]) if options.get("transpose") else (x.shape[0], x.shape[1])
    else:
        rows = -1
    checks.dtype(fn, f"{side}_e2m1", e2m1, checks.FP4_DTYPES)
    if e2m1.ndim != 2 or e2m1.shape[1] * 2 % fmt.vec:
        raise ShapeError(
            f"{fn}: {side}_e2m1 must be [rows, K / 2] with K a multiple of {fmt.vec}, got {tuple(e2m1.shape)}"
        )
    shape = (e2m1.shape[0], 2 * e2m1.shape[1])
    checks.scale_buffer(fn, f"{side}_sf", sf, fmt, SfLayout.layout_128x4, shape[0], shape[1] // fmt.vec)
    if normconst is not None:
        checks.global_scale(fn, f"{side}_normconst", normconst, shape[0])
    checks.same_device(fn, **{f"{side}_e2m1": e2m1, f"{side}_sf": sf, f"{side}_normconst": normconst})
    flat = sf.reshape(-1).view(torch.uint8)
    g = normconst if fmt.two_level else None
    t = BlockScaledTensor(e2m1.view(torch.uint8), flat, g, fmt, SfLayout.layout_128x4, shape)
    return t, shape[0] if rows < 0 else rows, true_k
