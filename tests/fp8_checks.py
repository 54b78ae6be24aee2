"""Checks of the FP8 room that the interpreter tests and the GPU tests share: kernels against the reference, on any device."""

from __future__ import annotations

from typing import Any

import torch
from kernel_checks import same_bytes

import tritonfp4 as T
from tritonfp4.formats import FORMATS
from tritonfp4.layouts import LAYOUTS, SfLayout, ceil_div

OPS = torch.ops.tritonfp4
MX_RULES = [(name, rule) for name in ("mxfp8", "mxfp8_e5m2") for rule in ("static_6", "floor")]
FP8_RULES = ("internal", "amax", "divide")


def same(got: torch.Tensor, want: torch.Tensor) -> bool:
    """Bytes, shape, and strides where they matter."""
    strides = [[step for step, size in zip(t.stride(), t.shape, strict=True) if size > 1] for t in (got, want)]
    assert got.shape == want.shape and strides[0] == strides[1]
    flat = [torch.empty(t.shape, dtype=t.dtype).copy_(t) for t in (got, want)]
    return same_bytes(*flat) == 0


def moved(x: torch.Tensor, device: str) -> torch.Tensor:
    """x on the device, by the same strides."""
    size = x.untyped_storage().nbytes() // x.element_size()
    return x.as_strided((size,), (1,), 0).to(device).as_strided(x.shape, x.stride(), x.storage_offset())


def check_mxfp8(device: str, x: torch.Tensor, *args: Any) -> None:
    """`args`: format, rule, layout, alignment, per_batch."""
    got = OPS.quantize_mxfp8(moved(x, device), *args, "triton")
    want = OPS.quantize_mxfp8(x, *args, "torch")
    for name, g, w in zip(("values", "scales"), got, want, strict=True):
        assert same(g, w), f"{name} differ: {args} {x.dtype} {tuple(x.shape)} {x.stride()}"


def check_fp8(device: str, x: torch.Tensor, *args: Any) -> None:
    """`args`: element, block, rule, eps, pow2, mn_align."""
    got = OPS.quantize_fp8(moved(x, device), *args, "triton")
    want = OPS.quantize_fp8(x, *args, "torch")
    for name, g, w in zip(("values", "scales"), got, want, strict=True):
        assert same(g, w), f"{name} differ: {args} {x.dtype} {tuple(x.shape)} {x.stride()}"


def random_operand(
    name: str, lead: tuple[int, ...], k: int, layout: SfLayout, batched: bool, scales_by: int = 0
) -> T.BlockScaledTensor:
    """Random bytes and scales, NaN and infinite ones among them. `scales_by`: elements of the global scale, 0 for None."""
    generator = torch.Generator().manual_seed(k + len(name))
    fmt, rows = FORMATS[name], lead[-1] if batched else T.layouts.flat_rows((*lead, 0))
    count, cols = lead[0] if batched else 1, ceil_div(k, fmt.vec)
    blocks = ceil_div(rows, fmt.block[0])

    def draw(*shape: int) -> torch.Tensor:
        return torch.randint(0, 256, shape, generator=generator).to(torch.uint8)

    if fmt.scale == "fp32":
        scales = torch.rand(count, cols, blocks, generator=generator).transpose(1, 2)
        scales = scales if batched else scales[0]
    else:
        scales = draw(count * LAYOUTS[layout].numel(blocks, cols) if fmt.scale else 0)
    g = torch.rand(scales_by, generator=generator) if scales_by else None
    return T.BlockScaledTensor(
        draw(*lead, ceil_div(k, fmt.packing)), scales, g, fmt, layout, (*lead, k), 0, batched
    )  # fmt: skip


def check_dequantize(device: str, t: T.BlockScaledTensor, dtype: torch.dtype) -> None:
    """The kernel's bytes equal the reference's; NaN lies in the same places."""
    want = T.dequantize(t, dtype, backend="torch")
    got = T.dequantize(t.to(device), dtype, backend="triton").cpu()
    assert torch.equal(got.isnan(), want.isnan()), f"{t} {dtype}"
    assert same_bytes(got.nan_to_num(), want.nan_to_num()) == 0, f"{t} {dtype}"


def spread(rows: int, cols: int) -> torch.Tensor:
    """fp32 rows at magnitudes spread over 2^40, in random order."""
    generator = torch.Generator().manual_seed(rows + cols)
    exponents = torch.linspace(-20, 20, rows)[torch.randperm(rows, generator=generator)]
    return torch.randn(rows, cols, generator=generator) * torch.exp2(exponents)[:, None]


def every_binade(vec: int) -> torch.Tensor:
    """fp32 [rows, vec] whose amax runs through every binade, at, below and above powers of two, subnormal blocks included."""
    exponents = torch.arange(-149, 128, dtype=torch.float64).repeat_interleave(5)
    factors = torch.tensor([1.0, 1 - 2.0**-24, 1 + 2.0**-23, 1.75, 1.75 + 2.0**-22], dtype=torch.float64).repeat(277)
    largest = (torch.exp2(exponents) * factors).clamp(max=3.4028234663852886e38).float()
    pattern = torch.tensor([1.0, -0.5, 0.3, 0.0, -0.0, 2.0**-6, -(2.0**-9), 0.07])
    rows = largest[:, None] * pattern.repeat(ceil_div(vec, 8))[:vec]
    rows[:, 0] = largest
    return rows
