"""The checked calls of the batched, grouped, masked and fused quantizers."""

from __future__ import annotations

import torch

from tritonfp4 import checks
from tritonfp4.formats import FORMATS, NVFP4
from tritonfp4.layouts import LAYOUTS, SfLayout, flat_rows

SCALE_FORMATS = {"e4m3": "nvfp4", "ue8m0": "mxfp4"}


def call_quantize_batched(
    fn: str,
    x: torch.Tensor,
    global_scale: torch.Tensor,
    *,
    arg: str,
    scale_arg: str = "a_global_sf",
    per: str = "row",
    counts: torch.Tensor | None = None,
    activation: str = "",
    rule: str = "static_6",
    e4m3_max: int = 448,
    layout: SfLayout = SfLayout.layout_128x4,
    backend: str = "auto",
) -> tuple[torch.Tensor, torch.Tensor]:
    """Check and quantize a 3-D input to NVFP4, every matrix on its own; see the operator ``quantize_batched``.

    `per`: what the elements of a global scale with more than one belong to, "row" (of every matrix) or "matrix".
    """
    checks.quantizer_input(fn, arg, x, None)
    if x.ndim != 3:
        raise checks.ShapeError(f"{fn}: {arg} must have 3 dimensions [B, M, K], got shape {tuple(x.shape)}")
    gated(fn, arg, x, NVFP4.vec, bool(activation))
    batch, rows, _ = x.shape
    count = rows if per == "row" else batch
    checks.is_tensor(fn, scale_arg, global_scale)
    if global_scale.numel() not in (1, count):
        raise checks.ShapeError(
            f"{fn}: {scale_arg} must be a scalar, or one scale per {per}: got shape {tuple(global_scale.shape)}, want 1 or "
            f"{count} elements"
        )
    checks.global_scale(fn, scale_arg, global_scale, count)
    if counts is not None:
        checks.dtype(fn, "mask", counts, (torch.int32,))
        if tuple(counts.shape) != (batch,):
            raise checks.ShapeError(
                f"{fn}: mask must have one count per matrix: got {tuple(counts.shape)}, want ({batch},)"
            )
        counts = counts.contiguous()
    checks.same_device(fn, **{arg: x, scale_arg: global_scale, "mask": counts})
    shape = (1, -1) if per == "row" or global_scale.numel() == 1 else (-1, 1)
    return torch.ops.tritonfp4.quantize_batched.default(
        x, counts, global_scale.reshape(shape), activation, rule, e4m3_max, int(layout), backend
    )


def gated(fn: str, arg: str, x: torch.Tensor, vec: int, both: bool) -> None:
    """Refuse a last dimension that is not whole blocks; with `both` it holds gate and up, each of whole blocks."""
    cols = x.shape[-1]
    if both and cols % 2:
        raise checks.ShapeError(
            f"{fn}: the last dimension must be even (gate and up): got {arg} of shape {tuple(x.shape)}"
        )
    if (cols // 2 if both else cols) % vec:
        what = "half the last dimension" if both else "the last dimension"
        raise checks.ShapeError(
            f"{fn}: {what} of {arg} must be a multiple of the block of {vec}, got shape {tuple(x.shape)}"
        )


def call_rmsnorm_quantize(
    fn: str,
    x: torch.Tensor,
    residual: torch.Tensor | None,
    weight: torch.Tensor,
    y_fp4: torch.Tensor | None,
    block_scale: torch.Tensor | None,
    block_scale_linear: torch.Tensor | None,
    global_scale: torch.Tensor | None,
    eps: float,
    block_size: int,
    scale_format: str | None,
    swizzled: bool,
    both: bool,
    y_out: torch.Tensor | None = None,
    has_residual: bool = False,
    backend: str = "auto",
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
    """Check, allocate what was not given, normalize and quantize -> values, scales, linear scales (None unless `both`)."""
    _check_rmsnorm(fn, x, residual, weight, global_scale, eps, block_size, scale_format, has_residual)
    kind = SCALE_FORMATS[scale_format or ("ue8m0" if block_size == 32 else "e4m3")]
    rows, cols = flat_rows(x.shape), x.shape[-1]
    matrix = (*x.shape[:-1], cols // block_size)
    size = LAYOUTS[SfLayout.layout_128x4].numel(rows, cols // block_size)
    scale_dtypes = checks.SCALE_DTYPES[FORMATS[kind].scale]
    scale_dtype = torch.float8_e4m3fn if kind == "nvfp4" else torch.uint8
    half, shape = (*x.shape[:-1], cols // 2), (size,) if swizzled or both else matrix
    values, codes = _output(fn, "y_fp4", y_fp4, half, checks.FP4_DTYPES, torch.float4_e2m1fn_x2, x.device)
    scales, first = _output(fn, "block_scale", block_scale, shape, scale_dtypes, scale_dtype, x.device)
    linear, second = None, None
    if both:
        name = "block_scale_unswizzled"
        linear, second = _output(fn, name, block_scale_linear, matrix, scale_dtypes, scale_dtype, x.device)
    if y_out is not None:
        _output(fn, "y_out", y_out, tuple(x.shape), (x.dtype,), x.dtype, x.device)
    if torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in (x, residual, y_out)):
        raise checks.UnsupportedError(f"{fn}: there is no gradient; call it under torch.no_grad()")
    in_128x4, in_rows = (first, second) if swizzled or both else (None, first)
    torch.ops.tritonfp4.rmsnorm_quantize_out.default(
        x, residual, weight, global_scale, float(eps), kind, block_size, backend, codes, in_128x4, in_rows, y_out
    )
    return values, scales, linear


def _check_rmsnorm(
    fn: str,
    x: torch.Tensor,
    residual: torch.Tensor | None,
    weight: torch.Tensor,
    global_scale: torch.Tensor | None,
    eps: float,
    block_size: int,
    scale_format: str | None,
    has_residual: bool,
) -> None:
    checks.quantizer_input(fn, "input", x, None)
    if block_size not in (16, 32):
        raise checks.ArgumentError(f"{fn}: block_size must be 16 or 32, got {block_size!r}")
    cols = x.shape[-1]
    if cols % block_size:
        raise checks.ShapeError(
            f"{fn}: hidden_size must be divisible by block_size: got input of shape {tuple(x.shape)}, block_size {block_size}"
        )
    if cols < 64:
        raise checks.ShapeError(f"{fn}: hidden_size must be >= 64: got input of shape {tuple(x.shape)}")
    if scale_format is not None:
        checks.choice(fn, "scale_format", scale_format, tuple(SCALE_FORMATS))
    checks.dtype(fn, "weight", weight, (x.dtype,))
    if tuple(weight.shape) != (cols,):
        raise checks.ShapeError(f"{fn}: weight must have shape ({cols},), got {tuple(weight.shape)}")
    if isinstance(eps, bool) or not isinstance(eps, (int, float)) or not eps >= 0:
        raise checks.ArgumentError(f"{fn}: eps must be a number that is not negative, got {eps!r}")
    if global_scale is not None:
        checks.global_scale(fn, "global_scale", global_scale, 1)
    if has_residual:
        checks.dtype(fn, "residual", residual, (x.dtype,))  # type: ignore[arg-type]
        assert residual is not None
        if tuple(residual.shape) != tuple(x.shape):
            raise checks.ShapeError(
                f"{fn}: residual must have the shape of input: got {tuple(residual.shape)}, want {tuple(x.shape)}"
            )
        if _overlaps(residual):
            raise checks.ShapeError(f"{fn}: elements of residual overlap: got strides {residual.stride()}")
    checks.same_device(fn, input=x, residual=residual, weight=weight, global_scale=global_scale)


def _overlaps(t: torch.Tensor) -> bool:
    """Whether two elements may share memory: a step that does not leave the reach of a smaller one."""
    steps = [(step, size) for step, size in zip(t.stride(), t.shape, strict=True) if size > 1]
    if any(step == 0 for step, _ in steps):
        return True
    pairs = [(a, b) for i, a in enumerate(steps) for j, b in enumerate(steps) if i != j]
    return any(step <= other <= step * (size - 1) for (step, size), (other, _) in pairs)


def _output(
    fn: str,
    arg: str,
    given: torch.Tensor | None,
    shape: tuple[int, ...],
    wanted: tuple[torch.dtype, ...],
    default: torch.dtype,
    device: torch.device,
) -> tuple[torch.Tensor, torch.Tensor]:
    """The output that was given, checked, or a new one, and its bytes. Leading dimensions may be flattened."""
    if given is None:
        new = torch.empty(shape, dtype=torch.uint8, device=device)
        return new.view(default), new
    checks.dtype(fn, arg, given, wanted, f"{arg} dtype does not match")
    if given.device != device:
        raise checks.DeviceError(f"{fn}: {arg} device does not match: got {given.device}, want {device}")
    if tuple(given.shape) not in (shape, (flat_rows(shape), shape[-1])):
        raise checks.ShapeError(f"{fn}: {arg} shape does not match: got {tuple(given.shape)}, want {shape}")
    if not given.is_contiguous():
        raise checks.ShapeError(f"{fn}: {arg} must be contiguous, got strides {given.stride()}")
    return given, given.view(torch.uint8)
