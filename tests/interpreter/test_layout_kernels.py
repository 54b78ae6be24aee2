"""Dequantization and layout kernels in the interpreter: byte for byte the reference."""

import pytest
import torch
from kernel_checks import same_bytes, special

import tritonfp4 as T
from tritonfp4 import SfLayout
from tritonfp4.config import Config
from tritonfp4.formats import FORMATS
from tritonfp4.kernels import relayout as kernels

OPS = torch.ops.tritonfp4


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("format", ["nvfp4", "mxfp4"])
@pytest.mark.parametrize("layout", SfLayout)
def test_dequantize(format, layout, dtype):
    """Random codes and every scale byte but NaN's, in fp32 also beyond what the output dtype holds."""
    fmt = FORMATS[format]
    generator = torch.Generator().manual_seed(0)
    values = torch.randint(0, 256, (129, 3 * fmt.vec), generator=generator).to(torch.uint8)
    linear = torch.randint(0, 127 if format == "nvfp4" else 255, (129, 6), generator=generator).to(torch.uint8)
    scales = OPS.relayout(linear.view(-1), [1, 129, 6], 2, int(layout), 0, "torch")
    for g in (None, torch.tensor([0.37]), torch.rand(129, generator=generator)):
        for zero_code in (False, True):
            args = (values, scales, g, format, int(layout), 0, [129, 6 * fmt.vec], dtype, zero_code)
            assert same_bytes(OPS.dequantize(*args, "triton"), OPS.dequantize(*args, "torch")) == 0


def test_dequantize_strided_values():
    t = T.quantize(torch.randn(20, 96), backend="torch")
    wide = torch.zeros(20, 96, dtype=torch.uint8)
    wide[:, ::2] = t.values
    for values in (wide[:, ::2], t.values.t().contiguous().t()):
        strided = T.BlockScaledTensor(values, t.scales, t.global_scale, t.format, t.layout, t.shape)
        for backend in ("triton", "torch"):
            assert same_bytes(T.dequantize(strided, backend=backend), T.dequantize(t, backend="torch")) == 0


@pytest.mark.parametrize("format", ["nvfp4", "mxfp4"])
def test_every_scale_byte_dequantizes_as_the_reference(format):
    vec = FORMATS[format].vec
    values = torch.arange(256, dtype=torch.uint8).view(1, 256).repeat(256, 1)[:, : vec // 2]
    scales = torch.arange(256, dtype=torch.uint8)
    args = (values, scales, None, format, 2, 0, [256, vec], torch.float32, False)
    got, want = OPS.dequantize(*args, "triton"), OPS.dequantize(*args, "torch")
    assert torch.equal(got.isnan(), want.isnan())
    assert same_bytes(got.nan_to_num(), want.nan_to_num()) == 0


@pytest.mark.parametrize("dtype", [torch.uint8, torch.bfloat16], ids=str)
@pytest.mark.parametrize("shape", [(1, 1, 1), (1, 33, 6), (3, 129, 5), (2, 256, 8)])
def test_relayout(shape, dtype):
    count = shape[0] * shape[1] * shape[2]
    linear = (torch.arange(count) % 251).to(torch.uint8 if dtype == torch.uint8 else torch.float32).to(dtype)
    for target in SfLayout:
        moved = OPS.relayout(linear, list(shape), 2, int(target), 0, "torch")
        assert same_bytes(OPS.relayout(linear, list(shape), 2, int(target), 0, "triton"), moved) == 0
        back = OPS.relayout(moved, list(shape), int(target), 2, 0, "triton")
        assert same_bytes(back, linear) == 0


@pytest.mark.parametrize("shape", [(70000, 1, 4), (70000, 300, 3)])
def test_many_matrices_fit_in_the_grid(shape, monkeypatch):
    """The second and the third dimension of a CUDA grid end at 65535."""
    grids = []

    class Kernel:
        def __getitem__(self, grid):
            grids.append(grid)
            return lambda *args, **options: None

    monkeypatch.setattr(kernels, "relayout_kernel", Kernel())
    config = Config("relayout", 128, 16)
    kernels.relayout(torch.empty(shape, device="meta"), *shape, SfLayout(2), SfLayout(0), 0, config)
    assert grids[0][0] >= shape[0] and all(size <= 65535 for size in grids[0][1:])


def test_shuffles():
    x = torch.randint(0, 256, (96, 40), dtype=torch.uint8)
    for block in (16, 32):
        assert same_bytes(OPS.shuffle_rows(x, block, "triton"), OPS.shuffle_rows(x, block, "torch")) == 0
        args = (x.view(-1), [1, 96, 40], 2, 0, block)
        assert same_bytes(OPS.relayout(*args, "triton"), OPS.relayout(*args, "torch")) == 0
    wide = torch.randn(32, 5, 2)
    assert (
        same_bytes(
            OPS.shuffle_rows(wide.transpose(1, 2), 32, "triton"), OPS.shuffle_rows(wide.transpose(1, 2), 32, "torch")
        )
        == 0
    )


def test_special_values_survive_the_round_trip():
    x = special(5, 96, 16)
    t = T.quantize(x, layout=SfLayout.layout_8x4, per_row=True, backend="triton")
    assert (
        same_bytes(T.dequantize(t, backend="triton").nan_to_num(), T.dequantize(t, backend="torch").nan_to_num()) == 0
    )
