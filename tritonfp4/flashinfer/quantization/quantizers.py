"""flashinfer's FP4 quantizers."""

from __future__ import annotations

from typing import Any

import torch

from tritonfp4 import checks
from tritonfp4.checks import ArgumentError, ShapeError, UnsupportedError
from tritonfp4.flashinfer._support import core_backend
from tritonfp4.flashinfer.quantization.recipe import UNSET, NVFP44Over6Config, Unset, resolve
from tritonfp4.formats import MXFP4, NVFP4
from tritonfp4.layouts import LAYOUTS, SfLayout, flat_rows
from tritonfp4.verbs.quantize import call_quantize

#: Names that flashinfer gives its kernels, and ours; all but the last two mean the same here.
BACKENDS = ("cuda", "cute-dsl", "cake", "auto", "triton", "torch")


def _scalar(value: Any, x: torch.Tensor) -> torch.Tensor:
    """A Python number as a tensor on x's device; tensors pass through."""
    return (
        torch.full((1,), float(value), dtype=torch.float32, device=x.device)
        if isinstance(value, (int, float))
        else value
    )


def fp4_quantize(
    input: torch.Tensor,
    global_scale: torch.Tensor | None = None,
    sf_vec_size: int = 16,
    sf_use_ue8m0: bool = False,
    is_sf_swizzled_layout: bool = True,
    is_sf_8x4_layout: bool = False,
    is_global_scale_inversed: bool = False,
    enable_pdl: bool | None = None,
    backend: str = "cuda",
    nvfp4_4over6: NVFP44Over6Config | None | Unset = UNSET,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Quantize to NVFP4 (``sf_vec_size=16``) or MXFP4 (``sf_vec_size=32, sf_use_ue8m0=True``).

    Args:
        input: ``[*lead, K]`` bf16, fp16, fp32 or float8_e4m3fn, any strides; K a multiple of `sf_vec_size`. Of e4m3 input
            NVFP4 takes ``fp8 * 6 / global_scale`` (``fp8 * amax / 448``), rounded to fp16, and MXFP4 the values as they
            are.
        global_scale: NVFP4 only: the encode scale ``448 * 6 / amax``, fp32 with 1 element or one for each row.
        sf_vec_size: 16 or 32.
        sf_use_ue8m0: whether scales are powers of two.
        is_sf_swizzled_layout: swizzled scales (128x4, or 8x4 with `is_sf_8x4_layout`); else linear.
        is_sf_8x4_layout: 8x4 instead of 128x4.
        is_global_scale_inversed: `global_scale` is the decode multiplier ``amax / (448 * 6)``.
        enable_pdl: ignored.
        backend: any of flashinfer's names, ``"triton"`` or ``"torch"`` (the reference).
        nvfp4_4over6: a four-over-six recipe; omitted or None: off.

    Returns:
        ``(x_q, sf)``: uint8 ``[*lead, K / 2]``, low nibble first, and uint8 scales ``[round_up(M, 128 or 8),
        round_up(K / vec, 4)]`` (swizzled, padding 0) or ``[M, K / vec]`` (linear).

    Raises:
        UnsupportedError: `sf_vec_size` or the dtype is not supported. ArgumentError, ShapeError, DTypeError,
        DeviceError: see the text. Source of the convention: flashinfer 0.7.2 ``fp4_quantize``.
    """
    return _fp4_quantize(
        "fp4_quantize", "input", input, global_scale, sf_vec_size, sf_use_ue8m0, is_sf_swizzled_layout,
        is_sf_8x4_layout, is_global_scale_inversed, backend, nvfp4_4over6,
    )  # fmt: skip


def _fp4_quantize(
    fn: str,
    arg: str,
    x: torch.Tensor,
    global_scale: torch.Tensor | None,
    vec: int,
    ue8m0: bool,
    swizzled: bool,
    is_8x4: bool,
    inverse: bool,
    backend: str,
    nvfp4_4over6: Any,
    scale_arg: str = "global_scale",
) -> tuple[torch.Tensor, torch.Tensor]:
    if vec not in (16, 32):
        raise UnsupportedError(f"{fn}: sf_vec_size can only be 16 or 32, got {vec!r}")
    checks.backend(fn, backend, BACKENDS)
    if bool(ue8m0) != (vec == 32):
        raise UnsupportedError(
            f"{fn}: sf_vec_size={vec} with sf_use_ue8m0={ue8m0} is no format: want 16 with False (NVFP4) or 32 with True (MXFP4)"
        )
    if is_8x4 and not swizzled:
        raise ArgumentError(f"{fn}: is_sf_8x4_layout=True needs is_sf_swizzled_layout=True")
    recipe = resolve(fn, nvfp4_4over6)
    fmt = MXFP4 if vec == 32 else NVFP4
    if recipe is not None and fmt is MXFP4:
        raise ArgumentError(f"{fn}: nvfp4_4over6 applies to NVFP4 only, got sf_vec_size={vec}, sf_use_ue8m0={ue8m0}")
    if recipe is not None and isinstance(x, torch.Tensor) and x.dtype == torch.float8_e4m3fn:
        raise checks.UnsupportedTypeError(f"{fn}: nvfp4_4over6 requires fp16 or bf16 input, got {x.dtype}")
    if fmt is NVFP4 and global_scale is None:
        raise ArgumentError(f"{fn}: globalScale is required when sfUseUE8M0 is false, got {scale_arg}=None")
    layout = SfLayout.layout_linear if not swizzled else SfLayout.layout_8x4 if is_8x4 else SfLayout.layout_128x4
    values, scales, _ = call_quantize(
        fn, x, fmt, arg=arg, scale_arg=scale_arg, rule="static_6" if recipe is None else recipe.rule,
        e4m3_max=448 if recipe is None else recipe.e4m3_max, global_scale=global_scale,
        scale_from="decode" if inverse else "encode", layout=layout, backend=core_backend(backend),
        dtypes=checks.INPUT_DTYPES_AND_E4M3,
    )  # fmt: skip
    return values, _as_2d(scales, x, fmt.vec, layout)


def _as_2d(scales: torch.Tensor, x: torch.Tensor, vec: int, layout: SfLayout) -> torch.Tensor:
    return scales.view(LAYOUTS[layout].storage_shape(flat_rows(x.shape), x.shape[-1] // vec))


def nvfp4_quantize(
    a: torch.Tensor,
    a_global_sf: torch.Tensor | float,
    sfLayout: SfLayout | int = SfLayout.layout_128x4,
    do_shuffle: bool = False,
    sf_vec_size: int = 16,
    enable_pdl: bool | None = None,
    backend: str = "cuda",
    per_token_activation: bool = False,
    expanded_idx_to_permuted_idx: torch.Tensor | None = None,
    out_scale: torch.Tensor | None = None,
    nvfp4_4over6: NVFP44Over6Config | None | Unset = UNSET,
) -> tuple[torch.Tensor, ...]:
    """Quantize to NVFP4.

    Args:
        a: ``[*lead, K]`` bf16, fp16, fp32, or without `per_token_activation` float8_e4m3fn (see `fp4_quantize`); K a
            multiple of 16.
        a_global_sf: the encode scale ``448 * 6 / amax`` (tensor with 1 element or one for each row, or a number). With
            `per_token_activation` the scalar ``1 / (448 * 6)`` instead.
        sfLayout: layout of the scales.
        do_shuffle: put the rows of values and scales into TensorRT-LLM's order, for ``mm_fp4(backend="trtllm")``;
            needs 128x4 scales and rows in multiples of 32.
        sf_vec_size: 16.
        enable_pdl: ignored.
        backend: any of flashinfer's names, ``"triton"`` or ``"torch"``.
        per_token_activation: one global scale for each row, from its own amax.
        expanded_idx_to_permuted_idx: int32; in flashinfer only the rows it lists are written. Here all rows are.
        out_scale: scalar that the returned per-token scales are multiplied by.
        nvfp4_4over6: a four-over-six recipe; omitted or None: off.

    Returns:
        ``(a_fp4, a_sf)``: uint8 ``[*lead, K / 2]`` and uint8 2-D scales as `fp4_quantize`; with `per_token_activation` also
        the decode multipliers, fp32 ``[M]`` (0 for an all-zero row), in the order of the rows of `a_fp4`.

    Raises:
        ArgumentError, ShapeError, DTypeError, DeviceError, UnsupportedError, BackendError. Source of the convention:
        flashinfer 0.7.2 ``nvfp4_quantize``.
    """
    fn = "nvfp4_quantize"
    checks.backend(fn, backend, BACKENDS)
    layout = checks.layout(fn, "sfLayout", sfLayout)
    if do_shuffle and layout != SfLayout.layout_128x4:
        raise ArgumentError(f"{fn}: do_shuffle=True needs sfLayout=layout_128x4, got {layout.name}")
    stored = SfLayout.layout_linear if do_shuffle else layout
    checks.is_tensor(fn, "a", a)
    scale = _scalar(a_global_sf, a)
    if scale is None:
        raise ArgumentError(f"{fn}: globalScale is required when sfUseUE8M0 is false, got a_global_sf=None")
    checks.is_tensor(fn, "a_global_sf", scale)
    recipe = resolve(fn, nvfp4_4over6)
    if not per_token_activation:
        if out_scale is not None:
            raise ArgumentError(f"{fn}: out_scale is only supported with per_token_activation=True")
        if expanded_idx_to_permuted_idx is not None:
            raise ArgumentError(f"{fn}: expanded_idx_to_permuted_idx is only supported with per_token_activation=True")
        if sf_vec_size == 32:
            raise UnsupportedError(f"{fn}: sf_vec_size=32 is not the block of NVFP4, want 16 (mxfp4_quantize has 32)")
        swizzled, is_8x4 = stored != SfLayout.layout_linear, stored == SfLayout.layout_8x4
        values, sf = _fp4_quantize(
            fn, "a", a, scale, sf_vec_size, False, swizzled, is_8x4, False, backend, nvfp4_4over6, "a_global_sf"
        )
        return _shuffled(fn, values, sf, core_backend(backend)) if do_shuffle else (values, sf)
    if sf_vec_size != 16:
        raise ArgumentError(f"{fn}: Per-token NVFP4 quantization only supports sf_vec_size=16, got {sf_vec_size!r}")
    if expanded_idx_to_permuted_idx is not None:
        checks.dtype(fn, "expanded_idx_to_permuted_idx", expanded_idx_to_permuted_idx, (torch.int32,))
    _check_range(fn, a_global_sf, recipe, nvfp4_4over6)
    values, scales, per_token = call_quantize(
        fn, a, NVFP4, arg="a", scale_arg="a_global_sf", rule="static_6" if recipe is None else recipe.rule,
        e4m3_max=448 if recipe is None else recipe.e4m3_max, global_scale=scale, out_scale=out_scale,
        scale_from="row", layout=stored, backend=core_backend(backend),
    )  # fmt: skip
    sf = _as_2d(scales, a, 16, stored)
    if do_shuffle:
        values, sf = _shuffled(fn, values, sf, core_backend(backend))
        per_token = torch.ops.tritonfp4.shuffle_rows.default(per_token, 32, core_backend(backend))
    return values, sf, per_token


def _check_range(fn: str, given: torch.Tensor | float | None, recipe: NVFP44Over6Config | None, setting: Any) -> None:
    """Refuse a per-token scalar that belongs to another recipe, where it can be read without a synchronization."""
    if given is None or isinstance(setting, Unset) or torch.compiler.is_compiling():
        return
    if isinstance(given, torch.Tensor):
        if given.device.type != "cpu" or given.numel() != 1:
            return
        given = float(given)
    want = 1.0 / (6.0 * (448 if recipe is None else recipe.e4m3_max))
    if abs(given - want) > 1e-3 * want:
        raise ArgumentError(f"{fn}: a_global_sf={given!r} does not match the recipe {recipe!r}, which implies {want!r}")


def _shuffled(fn: str, values: torch.Tensor, linear: torch.Tensor, backend: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Values and linear scales in TensorRT-LLM's row order, scales then in 128x4."""
    rows, cols = linear.shape
    if values.ndim != 2 or rows % 32:
        raise ShapeError(f"{fn}: do_shuffle=True needs a 2-D input with rows in multiples of 32, got {rows} rows")
    shuffled = torch.ops.tritonfp4.shuffle_rows.default(values, 32, backend)
    flat = torch.ops.tritonfp4.relayout.default(
        linear.reshape(-1), [1, rows, cols], int(SfLayout.layout_linear), int(SfLayout.layout_128x4), 32, backend
    )
    return shuffled, flat.view(LAYOUTS[SfLayout.layout_128x4].storage_shape(rows, cols))


def mxfp4_quantize(
    a: torch.Tensor,
    backend: str = "cuda",
    enable_pdl: bool | None = None,
    sfLayout: SfLayout | int = SfLayout.layout_128x4,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Quantize to MXFP4 with the RCEIL scale rule.

    Args:
        a: ``[*lead, K]`` bf16, fp16, fp32 or float8_e4m3fn; K a multiple of 32.
        backend: any of flashinfer's names, ``"triton"`` or ``"torch"``.
        enable_pdl: ignored.
        sfLayout: layout of the scales.

    Returns:
        uint8 ``[*lead, K / 2]`` and e8m0 scale bytes as uint8, 2-D as `fp4_quantize`.

    Raises:
        ShapeError, DTypeError, UnsupportedError, BackendError. Source: flashinfer 0.7.2 ``mxfp4_quantize``.
    """
    fn = "mxfp4_quantize"
    layout = checks.layout(fn, "sfLayout", sfLayout)
    swizzled, is_8x4 = layout != SfLayout.layout_linear, layout == SfLayout.layout_8x4
    return _fp4_quantize(fn, "a", a, None, 32, True, swizzled, is_8x4, False, backend, UNSET)


def make_nvfp4_global_scale(
    input_tensor: torch.Tensor,
    per_token_activation: bool,
    global_scale: float | None = None,
    nvfp4_4over6_config: NVFP44Over6Config | None = None,
) -> torch.Tensor:
    """The global scale that the NVFP4 quantizers expect.

    Args:
        input_tensor: ``[*lead, K]`` bf16, fp16 or fp32 whose amax sets the scale.
        per_token_activation: return the constant ``1 / (448 * 6)`` of per-token quantization instead.
        global_scale: an explicit scale, returned as a tensor.
        nvfp4_4over6_config: recipe whose ``e4m3_max`` replaces 448.

    Returns:
        fp32 ``[1]``: the encode scale ``448 * 6 / amax`` (1 for an all-zero tensor; flashinfer returns FLT_MAX, which gives
        the same bytes), computed without a synchronization.

    Raises:
        ShapeError, DTypeError, ArgumentError. Source: flashinfer 0.7.2 ``make_nvfp4_global_scale``.
    """
    fn = "make_nvfp4_global_scale"
    checks.quantizer_input(fn, "input_tensor", input_tensor, None)
    recipe = resolve(fn, nvfp4_4over6_config, "nvfp4_4over6_config")
    limit = 448 if recipe is None else recipe.e4m3_max
    if per_token_activation:
        return _scalar(1.0 / (6.0 * limit), input_tensor)
    if global_scale is not None:
        if not isinstance(global_scale, (int, float)):
            raise checks.DTypeError(f"{fn}: global_scale must be a number, got {type(global_scale).__name__}")
        return _scalar(global_scale, input_tensor)
    return torch.ops.tritonfp4.nvfp4_global_scale.default(input_tensor, "static_6", limit, "auto")
