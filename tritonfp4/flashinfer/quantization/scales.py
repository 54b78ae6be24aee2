"""flashinfer's scale layouts, row shuffles and dequantizers."""

from __future__ import annotations

import torch

from tritonfp4 import checks
from tritonfp4.checks import ArgumentError, ShapeError, UnsupportedError
from tritonfp4.formats import MXFP4, NVFP4
from tritonfp4.layouts import LAYOUTS, SfLayout, ceil_div, shuffle_block


def block_scale_interleave(unswizzled_sf: torch.Tensor, *, out: torch.Tensor | None = None) -> torch.Tensor:
    """Linear scales -> 128x4.

    Args:
        unswizzled_sf: ``[R, C]`` or ``[B, R, C]``, uint8, bf16, or a float8 view of scale bytes.
        out: contiguous flat buffer of the padded size and the same dtype.

    Returns:
        Flat ``[B * round_up(R, 128) * round_up(C, 4)]`` of the same dtype; every matrix padded with 0 on its own.

    Raises:
        DTypeError, ShapeError, ArgumentError, DeviceError. Source: flashinfer 0.7.2 ``block_scale_interleave``.
    """
    return _interleave("block_scale_interleave", "unswizzled_sf", unswizzled_sf, out, 0)


nvfp4_block_scale_interleave = block_scale_interleave

_SCALE_BYTES = (torch.uint8, torch.bfloat16, torch.float8_e4m3fn, torch.float8_e8m0fnu)


def _interleave(fn: str, arg: str, x: torch.Tensor, out: torch.Tensor | None, row_shuffle: int) -> torch.Tensor:
    checks.is_tensor(fn, arg, x)
    if x.dtype not in _SCALE_BYTES:
        raise checks.DTypeError(
            f"{fn}: Input dtype must be uint8 or bfloat16, got {x.dtype} ({arg}; float8 views of scales are accepted too)"
        )
    if x.ndim not in (2, 3):
        raise ShapeError(f"{fn}: {arg} must have 2 or 3 dimensions, got shape {tuple(x.shape)}")
    batch = x.shape[0] if x.ndim == 3 else 1
    rows, cols = x.shape[-2:]
    raw = x if x.dtype == torch.bfloat16 else x.view(torch.uint8)
    source, target = int(SfLayout.layout_linear), int(SfLayout.layout_128x4)
    args = (raw.reshape(-1), [batch, rows, cols], source, target, row_shuffle, "auto")
    if out is None:
        return torch.ops.tritonfp4.relayout.default(*args).view(x.dtype)
    size = batch * LAYOUTS[SfLayout.layout_128x4].numel(rows, cols)
    checks.is_tensor(fn, "out", out)
    if out.device != x.device or out.dtype != x.dtype or out.shape != (size,) or not out.is_contiguous():
        raise ArgumentError(
            f"{fn}: block_scale_interleave out must be a contiguous flat tensor of shape ({size},), dtype {x.dtype}, "
            f"on {x.device}, got shape {tuple(out.shape)}, dtype {out.dtype}, on {out.device}"
        )
    torch.ops.tritonfp4.relayout_out.default(*args, out if x.dtype == torch.bfloat16 else out.view(torch.uint8))
    return out


def shuffle_matrix_a(input_tensor: torch.Tensor, epilogue_tile_m: int) -> torch.Tensor:
    """Rows of a matrix in TensorRT-LLM's order.

    Args:
        input_tensor: ``[M, ...]``; M a multiple of 32 (tile a multiple of 128) or 16.
        epilogue_tile_m: rows of the epilogue tile.

    Returns:
        A copy with permuted rows (see `tritonfp4.layouts.shuffled_index`).

    Raises:
        ShapeError, ArgumentError. Source: flashinfer 0.7.2 ``shuffle_matrix_a``.
    """
    fn = "shuffle_matrix_a"
    checks.is_tensor(fn, "input_tensor", input_tensor)
    block = _tile(fn, epilogue_tile_m)
    if input_tensor.ndim < 1 or input_tensor.shape[0] % block:
        raise ShapeError(
            f"{fn}: the rows of input_tensor must be a multiple of {block}, got shape {tuple(input_tensor.shape)}"
        )
    return torch.ops.tritonfp4.shuffle_rows.default(input_tensor, block, "auto")


def _tile(fn: str, tile: int) -> int:
    if not isinstance(tile, int) or tile < 16 or tile % 16:
        raise ArgumentError(f"{fn}: epilogue_tile_m must be a positive multiple of 16, got {tile!r}")
    return shuffle_block(tile)


def shuffle_matrix_sf_a(input_tensor: torch.Tensor, epilogue_tile_m: int, num_elts_per_sf: int = 16) -> torch.Tensor:
    """Linear scales with rows in TensorRT-LLM's order, interleaved to 128x4.

    Args:
        input_tensor: ``[M, C]`` linear scales, uint8, bf16 or a float8 view; M a multiple of 32 (or 16). flashinfer
            wants a multiple of 128; other row counts are padded here.
        epilogue_tile_m: rows of the epilogue tile.
        num_elts_per_sf: 16 or 32; does not change the result.

    Returns:
        Flat ``[round_up(M, 128) * round_up(C, 4)]``.

    Raises:
        ShapeError, DTypeError, ArgumentError. Source: flashinfer 0.7.2 ``shuffle_matrix_sf_a``.
    """
    fn = "shuffle_matrix_sf_a"
    checks.is_tensor(fn, "input_tensor", input_tensor)
    checks.choice(fn, "num_elts_per_sf", num_elts_per_sf, (16, 32))
    block = _tile(fn, epilogue_tile_m)
    if input_tensor.ndim != 2 or input_tensor.shape[0] % block:
        raise ShapeError(
            f"{fn}: input_tensor must be 2-D with rows in multiples of {block}, got shape {tuple(input_tensor.shape)}"
        )
    return _interleave(fn, "input_tensor", input_tensor, None, block)


def e2m1_and_ufp8sf_scale_to_float(
    e2m1_tensor: torch.Tensor,
    ufp8_scale_tensor: torch.Tensor,
    global_scale_tensor: torch.Tensor | None = None,
    sf_vec_size: int = 16,
    ufp8_type: int = 1,
    is_sf_swizzled_layout: bool = True,
    is_sf_8x4_layout: bool = False,
) -> torch.Tensor:
    """Dequantize FP4 to fp32.

    Args:
        e2m1_tensor: uint8 (or float4) ``[M, K / 2]``.
        ufp8_scale_tensor: scale bytes of the layout's exact size, flat or 2-D.
        global_scale_tensor: the decode multiplier (1 / G), 1 element; None means 1. Ignored for `ufp8_type` 0.
        sf_vec_size: 16 or 32.
        ufp8_type: 1 for e4m3 scales, 0 for ue8m0 (whose code 0 decodes to 0 here, as in flashinfer).
        is_sf_swizzled_layout: swizzled scales; else linear.
        is_sf_8x4_layout: 8x4 instead of 128x4.

    Returns:
        fp32 ``[M, K]`` on the CPU, as flashinfer does.

    Raises:
        ShapeError ("scaleFP8SF size does not match"), DTypeError, ArgumentError. Source: flashinfer 0.7.2.
    """
    fn = "e2m1_and_ufp8sf_scale_to_float"
    checks.choice(fn, "sf_vec_size", sf_vec_size, (16, 32))
    checks.choice(fn, "ufp8_type", ufp8_type, (0, 1))
    if is_sf_8x4_layout and not is_sf_swizzled_layout:
        raise ArgumentError(f"{fn}: is_sf_8x4_layout=True needs is_sf_swizzled_layout=True")
    if (sf_vec_size == 32) != (ufp8_type == 0):
        raise UnsupportedError(
            f"{fn}: sf_vec_size={sf_vec_size} with ufp8_type={ufp8_type} is no format: want 16 with 1 (NVFP4) or 32 with 0 (MXFP4)"
        )
    kind = (
        SfLayout.layout_linear
        if not is_sf_swizzled_layout
        else SfLayout.layout_8x4
        if is_sf_8x4_layout
        else SfLayout.layout_128x4
    )
    args = (e2m1_tensor, ufp8_scale_tensor, global_scale_tensor if ufp8_type == 1 else None)
    return _dequantize(fn, ("e2m1_tensor", "ufp8_scale_tensor", "global_scale_tensor"), *args, sf_vec_size, kind)


def _dequantize(
    fn: str,
    names: tuple[str, str, str],
    values: torch.Tensor,
    scales: torch.Tensor,
    global_scale: torch.Tensor | None,
    vec: int,
    kind: SfLayout,
) -> torch.Tensor:
    checks.dtype(fn, names[0], values, checks.FP4_DTYPES)
    fmt = MXFP4 if vec == 32 else NVFP4
    if values.ndim != 2 or values.shape[1] * 2 % vec:
        raise ShapeError(
            f"{fn}: {names[0]} must be [M, K / 2] with K a multiple of {vec}, got shape {tuple(values.shape)}"
        )
    rows, k = values.shape[0], 2 * values.shape[1]
    checks.dtype(fn, names[1], scales, checks.SCALE_DTYPES[fmt.scale])
    want = LAYOUTS[kind].numel(rows, ceil_div(k, vec))
    if scales.numel() != want:
        raise ShapeError(
            f"{fn}: scaleFP8SF size does not match: got {names[1]} with {scales.numel()} scales, want {want} "
            f"({rows} rows of {k // vec} in {kind.name})"
        )
    if global_scale is not None:
        checks.global_scale(fn, names[2], global_scale, 1)
        global_scale = global_scale.to(values.device)
    checks.same_device(fn, **{names[0]: values, names[1]: scales})
    out = torch.ops.tritonfp4.dequantize.default(
        values.view(torch.uint8), scales.reshape(-1).view(torch.uint8), global_scale, fmt.name, int(kind), 0, [rows, k],
        torch.float32, True, "auto",
    )  # fmt: skip
    return out.cpu()


def mxfp4_dequantize(
    a_fp4: torch.Tensor, a_sf: torch.Tensor, sfLayout: SfLayout | int = SfLayout.layout_128x4
) -> torch.Tensor:
    """Dequantize MXFP4 to fp32.

    Args:
        a_fp4: uint8 (or float4) ``[M, K / 2]``, K a multiple of 32.
        a_sf: e8m0 scale bytes in `sfLayout`, flat or 2-D; code 0 decodes to 0, as in flashinfer.
        sfLayout: layout of the scales.

    Returns:
        fp32 ``[M, K]`` on the CPU, as flashinfer does.

    Raises:
        ShapeError, DTypeError, ArgumentError. Source: flashinfer 0.7.2 ``mxfp4_dequantize``.
    """
    fn = "mxfp4_dequantize"
    return _dequantize(fn, ("a_fp4", "a_sf", ""), a_fp4, a_sf, None, 32, checks.layout(fn, "sfLayout", sfLayout))
