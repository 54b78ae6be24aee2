"""The batched, masked and fused quantizers in the interpreter: byte for byte the reference, padding included."""

import pytest
import torch
from fused_checks import NAN, batch, check_batched, check_rmsnorm, check_silu, gates
from kernel_checks import DTYPES, same_bytes, special, wide

from tritonfp4 import NVFP4, SfLayout, reference
from tritonfp4.config import Config
from tritonfp4.kernels.fused import quantize_batched as launcher

ACTIVATIONS = ("", "silu_and_mul")
G = {
    "one": torch.full((1, 1), 5.0),
    "by matrix": torch.tensor([[1.0], [30.0], [0.2]]),
    "by row": torch.rand(1, 17) + 0.1,
}
COUNTS = (None, torch.tensor([17, 0, 5], dtype=torch.int32))


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_batched_bytes_equal_the_reference(dtype, activation):
    for (rule, limit), layout, g, counts in zip(
        (("static_6", 448), ("static_6", 448), ("mse", 256), ("mae", 448)), (0, 1, 2, 0), (*G.values(), G["one"]),
        (COUNTS[0], COUNTS[1], COUNTS[1], COUNTS[1]), strict=True,
    ):  # fmt: skip
        check_batched("cpu", batch(3, 17, 96, dtype, activation), counts, g, activation, rule, limit, layout)


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_counts_beyond_the_rows_and_below_zero(activation):
    for counts in ([4, 99, 0], [-3, 1, 4], [0, 0, 0]):
        check_batched("cpu", batch(3, 4, 32, DTYPES[0], activation), torch.tensor(counts, dtype=torch.int32), G["by matrix"], activation)  # fmt: skip


@pytest.mark.parametrize("layout", SfLayout)
def test_bytes_do_not_depend_on_the_tiling(layout):
    x, counts = batch(2, 133, 80, torch.bfloat16, "silu_and_mul"), torch.tensor([133, 70], dtype=torch.int32)
    args = (x, counts, G["one"], NVFP4, "silu_and_mul", "static_6", 448, layout)
    want = reference.quantize_batched(*args)
    for rows, cols in ((64, 64), (256, 32)):
        got = launcher(*args, Config("quantize", block_m=rows, block_k=cols))
        assert [same_bytes(g, w) for g, w in zip(got, want, strict=True)] == [0, 0]


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_special_values(dtype, activation):
    x = special(5, 96, 16).to(dtype).view(1, 5, 96)
    for g in (1.0, 3e38, float("inf"), 1e-30):
        check_batched("cpu", x, None, torch.full((1, 1), g), activation)


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_strided_inputs(activation):
    x = batch(3, 6, 64, torch.bfloat16, activation)
    for view in (x.transpose(0, 1), x.transpose(1, 2).contiguous().transpose(1, 2), x[:1].expand(3, -1, -1), x[:, ::2]):
        b, m = view.shape[:2]
        check_batched("cpu", view, torch.full((b,), m - 1, dtype=torch.int32), G["one"], activation)


def test_silu_to_the_last_bit():
    check_silu("cpu", gates())


def test_every_gate_of_fp16():
    """SiLU of every fp16 number, NaN, infinities and subnormals included."""
    gate = torch.arange(65536, dtype=torch.int32).to(torch.uint16).view(torch.float16).view(1, 1024, 64)
    x = torch.cat([gate, torch.full_like(gate, 3.0)], 2)
    check_batched("cpu", x, None, torch.ones(1, 1), "silu_and_mul", layout=SfLayout.layout_linear)


FORMATS = [("nvfp4", 16), ("mxfp4", 32), ("nvfp4", 32), ("mxfp4", 16)]


@pytest.mark.parametrize("residual", [False, True])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_rmsnorm_bytes_equal_the_reference(dtype, residual):
    for (rows, cols), (format, vec) in zip(((5, 96), (1, 64), (3, 160), (130, 64)), FORMATS, strict=True):
        x, other = wide(rows, cols).to(dtype), wide(rows, cols, 7).to(dtype) if residual else None
        weight = torch.randn(cols, generator=torch.Generator().manual_seed(cols)).to(dtype)
        check_rmsnorm("cpu", x, other, weight, format, vec, torch.tensor([30.0]))


@pytest.mark.parametrize("residual", [False, True])
@pytest.mark.parametrize("cols", [2048, 8192, 16384 + 64])
def test_rmsnorm_of_long_rows(cols, residual):
    """Several tiles in the sum of squares, and fewer columns than a tile."""
    x, other = wide(2, cols).bfloat16(), wide(2, cols, 7).bfloat16() if residual else None
    check_rmsnorm("cpu", x, other, torch.ones(cols).bfloat16(), "nvfp4", 16, None, outputs="linear")


@pytest.mark.parametrize("residual", [False, True])
@pytest.mark.parametrize("eps", [0.0, 1e-6, 0.5])
def test_rmsnorm_of_special_values(eps, residual):
    for dtype in DTYPES:
        x = special(5, 96, 16).to(dtype)
        x[4] = 0.0
        other = torch.zeros_like(x) if residual else None
        check_rmsnorm("cpu", x, other, torch.ones(96).to(dtype), "nvfp4", 16, torch.tensor([9.0]), eps)
        check_rmsnorm("cpu", x.nan_to_num(posinf=1, neginf=-1), other, wide(1, 96)[0].to(dtype), "mxfp4", 32, None, eps)


@pytest.mark.parametrize("outputs", ["swizzled", "linear", "swizzled linear", "linear normed"])
def test_rmsnorm_outputs_in_any_combination(outputs):
    check_rmsnorm("cpu", wide(3, 128).bfloat16(), None, torch.ones(128).bfloat16(), "nvfp4", 16, outputs=outputs)


def test_rmsnorm_of_strided_tensors():
    weight = wide(1, 192)[0].bfloat16()[::2]
    for x in (wide(96, 5).bfloat16().t(), wide(5, 192).bfloat16()[:, ::2], wide(1, 96).bfloat16().expand(5, -1)):
        other = torch.full((5, 192), 1.5, dtype=torch.bfloat16)[:, ::2]
        check_rmsnorm("cpu", x, other, weight, "nvfp4", 16)


def test_the_neighbours_of_a_strided_residual_are_left_alone():
    from tritonfp4 import add_rmsnorm_fp4quant

    whole = torch.full((4, 2, 128), NAN)
    view = whole.transpose(0, 1)[1:, :, ::2]  # [1, 4, 64]
    view.zero_()
    add_rmsnorm_fp4quant(torch.ones(1, 4, 64), view, torch.ones(64))
    assert torch.equal(view, torch.ones(1, 4, 64))
    assert whole[:, 0].isnan().all() and whole[:, 1, 1::2].isnan().all()
