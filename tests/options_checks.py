"""Checks of the quantizers' options that the interpreter tests and the GPU tests share."""

from __future__ import annotations

import itertools

import torch
from kernel_checks import check_quantize, same_bytes

import tritonfp4 as T
from tritonfp4 import SfLayout
from tritonfp4.formats import RULES

#: One seed whose high and low halves both matter.
SEED = torch.tensor([-0x123456789ABCDEF])

#: Format, rule and rounding of every way to round with noise.
STOCHASTIC = [
    ("nvfp4", "static_6", "stochastic_unbiased"),
    *((name, rule, "stochastic") for name in ("nvfp4", "mxfp4") for rule in RULES[name]),
]

#: Every combination of fouroversix's options (without `had`, whose values are tensors).
COMBINATIONS = [
    {"fp4_format": format, "scale_rule": rule, "block_scale_2d": tile, "round_style": style, "transpose": transpose}
    for format, rules in (
        ("nvfp4", ("always_6", "always_4", "mse", "l1_norm", "abs_max")), ("mxfp4", ("always_6", "always_4")))
    for rule, tile, style, transpose in itertools.product(
        rules, (False, True), ("nearest", "stochastic"), (False, True))
]  # fmt: skip


def check_fouroversix(device: str, x: torch.Tensor, had: torch.Tensor | None = None, **options: object) -> None:
    """The kernels' bytes equal the reference's, padding included; the shapes are the padded ones."""
    if options.get("round_style", "nearest") != "nearest":
        options["seed"] = 0x1234567890
    got = T.quantize_to_fp4(
        x.to(device), had=None if had is None else had.to(device), backend="triton", **options
    )  # fmt: skip
    want = T.quantize_to_fp4(x, had=had, backend="pytorch", **options)
    for part, g, w in zip(("e2m1", "sf", "normconst"), got, want, strict=True):
        assert same_bytes(g.reshape(-1), w.reshape(-1)) == 0 and g.shape == w.shape, (part, x.shape, x.dtype, options)


def check_rotate(device: str, x: torch.Tensor, had: torch.Tensor) -> None:
    """Bit for bit but for the payload of NaN."""
    got = torch.ops.tritonfp4.rotate(x.to(device), had.to(device), "triton").cpu()
    want = torch.ops.tritonfp4.rotate(x, had, "torch")
    where = f"{x.dtype} {tuple(x.shape)} {x.stride()} by {had.dtype} {tuple(had.shape)}"
    assert torch.equal(got.isnan(), want.isnan()), where
    assert same_bytes(got.masked_fill(got.isnan(), 0), want.masked_fill(want.isnan(), 0)) == 0, where


def every_e4m3(rows: int, vec: int) -> torch.Tensor:
    """e4m3 [rows, 8 * vec]: all bytes, NaN included, in every position of a block in some row."""
    at = torch.arange(rows)[:, None] * 7 + torch.arange(8 * vec)
    return (at % 256).to(torch.uint8).view(torch.float8_e4m3fn)


def check_e4m3(device: str, x: torch.Tensor, global_scale: torch.Tensor | None, layout: SfLayout) -> None:
    """flashinfer's quantizers of e4m3 input; MXFP4 without a global scale."""
    swizzled, narrow = layout != SfLayout.layout_linear, layout == SfLayout.layout_8x4

    def run(x, scale, backend):
        if scale is None:
            return T.mxfp4_quantize(x, sfLayout=layout, backend=backend)
        return T.fp4_quantize(x, scale, 16, False, swizzled, narrow, True, backend=backend)

    got = run(x.to(device), None if global_scale is None else global_scale.to(device), "triton")
    want = run(x, global_scale, "torch")
    for g, w in zip(got, want, strict=True):
        assert same_bytes(g, w) == 0, (tuple(x.shape), x.stride(), layout)


def check_noise_stays_with_its_element(device: str, format: str, rounding: str) -> None:
    """Rows that follow others take the noise of their own index: layouts, strides and leading dimensions change nothing."""
    x = torch.randn(24, 96, generator=torch.Generator().manual_seed(4)).bfloat16().to(device)
    seed = SEED.to(device)

    def values(t, layout=SfLayout.layout_128x4, seed=seed):
        return T.quantize(t, format, rounding=rounding, seed=seed, layout=layout, backend="triton").values

    want = values(x)
    for layout in SfLayout:
        assert torch.equal(values(x, layout), want)
    assert torch.equal(values(x.t().contiguous().t()), want)
    assert torch.equal(values(x.view(2, 12, 96)).view(24, 48), want)
    assert torch.equal(values(x.view(2, 3, 4, 96)).view(24, 48), want)
    padded = T.quantize_to_fp4(
        x, fp4_format=format, scale_rule="always_6", round_style=rounding, seed=seed, backend="triton"
    )[0]
    assert torch.equal(padded[:24, :48], want)
    assert not torch.equal(values(x, seed=seed + 1), want)
    assert not torch.equal(values(x, seed=seed + (1 << 40)), want)  # the high half of the seed, too


def check_global_scales_with_noise(device: str, x: torch.Tensor, **options: object) -> None:
    """Every source of the global scale."""
    args = (x, "nvfp4", "static_6", SfLayout.layout_8x4)
    check_quantize(device, *args, global_scale=torch.tensor([0.01]), seed=SEED, **options)
    check_quantize(device, *args, amax=torch.tensor([9.0]), seed=SEED, **options)
    if "tile_2d" not in options:
        check_quantize(device, *args, per_row=True, seed=SEED, **options)
