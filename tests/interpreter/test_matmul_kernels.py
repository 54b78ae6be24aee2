"""GEMM kernels in the interpreter against the fp64 product, every padding scale NaN."""

import dataclasses

import interpreter_patch
import pytest
import torch
from kernel_checks import check_every_e4m3_scale, check_matmul, error, exact_product, fp32_holds, operand, threshold

import tritonfp4 as T
from tritonfp4 import SfLayout
from tritonfp4.config import Config
from tritonfp4.kernels.matmul_scaled import matmul_scaled
from tritonfp4.kernels.matmul_upcast import matmul_dequantize, matmul_upcast

ROWS = (1, 3, 16, 17, 64, 129, 1000)
PAIRS = [("nvfp4", "nvfp4"), ("mxfp4", "mxfp4"), ("bf16", "nvfp4"), ("fp16", "nvfp4"), ("bf16", "mxfp4"), ("fp16", "mxfp4"),
         ("nvfp4", "mxfp4"), ("nvfp4", "bf16")]  # fmt: skip
LAYOUTS = (SfLayout.layout_128x4, SfLayout.layout_8x4, SfLayout.layout_linear)


@pytest.mark.slow
@pytest.mark.parametrize("a, b", PAIRS)
def test_upcast(a, b):
    for i, rows in enumerate(ROWS):
        n, k = (72, 96) if i % 2 else (130, 352)
        left = operand(rows, k, a, LAYOUTS[i % 3], seed=i)
        check_matmul("cpu", left, operand(n, k, b, LAYOUTS[i % 2 * 2], seed=100 + i))


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("format", ["nvfp4", "mxfp4"])
def test_every_scale_layout_of_a(format, layout):
    check_matmul("cpu", operand(17, 224, format, layout, 1), operand(40, 224, format, SfLayout.layout_128x4, 2))


def _run(launcher, a, b, config, dtype=torch.float16):
    out = torch.full((a.shape[0], b.shape[0]), float("nan"), dtype=dtype)
    launcher(a, b, out, config)
    return error(out, exact_product(a, b)), threshold(out)


@pytest.mark.parametrize("swap", [pytest.param(False, marks=pytest.mark.slow), True])
@pytest.mark.parametrize("a, b", [("nvfp4", "nvfp4"), ("mxfp4", "mxfp4"), ("bf16", "nvfp4"), ("fp16", "mxfp4")])
def test_upcast_with_small_tiles_swapped_and_not(a, b, swap):
    left, right = operand(33, 224, a, LAYOUTS[1], 3), operand(130, 224, b, LAYOUTS[0], 4)
    for dtype in (torch.bfloat16, torch.float16, torch.float32):
        config = Config("upcast", block_m=32, block_k=64, block_n=64, group_m=3, swap=swap)
        measured, bound = _run(matmul_upcast, left, right, config, dtype)
        assert measured <= bound


@pytest.mark.parametrize(
    "a, b", [("nvfp4", "nvfp4"), ("mxfp4", "mxfp4"), ("bf16", "nvfp4"), ("fp16", "nvfp4"), ("nvfp4", "mxfp4")]
)
def test_dequantize_then_multiply(a, b):
    """Decoding and epilogue kernels of the path for large M; the product between them is torch's."""
    for per_row in (False, True):
        left, right = operand(33, 224, a, LAYOUTS[1], 3, per_row and a == "nvfp4"), operand(130, 224, b, LAYOUTS[0], 4)
        for dtype in (torch.bfloat16, torch.float16, torch.float32):
            measured, bound = _run(matmul_dequantize, left, right, Config("dequantize", 16, 512), dtype)
            assert measured <= bound


@pytest.mark.slow
@pytest.mark.parametrize("swap", [False, True])
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("format", ["nvfp4", "mxfp4"])
def test_native(format, layout, swap):
    """The block-scaled kernel; the interpreter's dot_scaled comes from the test-only patch."""
    with interpreter_patch.installed():
        for i, rows in enumerate(ROWS):
            n, k = (72, 96) if i % 2 else (130, 352 if i else 512)
            left, right = operand(rows, k, format, layout, i), operand(n, k, format, SfLayout.layout_128x4, 50 + i)
            # The dtype only meets the epilogue: both for one layout, the one with the tighter bound for the others.
            for dtype in (torch.bfloat16, torch.float16) if layout == SfLayout.layout_128x4 else (torch.float16,):
                wide = 256 if rows == 1000 else 128
                config = Config("native", block_m=wide, block_k=256, block_n=128 if i % 2 else 32, group_m=2, swap=swap)
                measured, bound = _run(matmul_scaled, left, right, config, dtype)
                assert measured <= bound, (rows, n, k, dtype)


@pytest.mark.parametrize("numel", ["scalar", "row", "none"])
def test_alpha(numel):
    a, b = operand(17, 96, "nvfp4", LAYOUTS[0], 5), operand(40, 96, "nvfp4", LAYOUTS[0], 6)
    alpha = {"scalar": torch.tensor([7e-6]), "row": torch.rand(17) * 1e-5, "none": None}[numel]
    args = (a.values, b.values.t(), a.scales, b.scales, alpha)
    want = exact_product(
        T.BlockScaledTensor(a.values, a.scales, alpha, a.format, a.layout, a.shape),
        T.BlockScaledTensor(b.values, b.scales, None, b.format, b.layout, b.shape),
    )
    for dtype in (
        (torch.bfloat16, torch.float16) if alpha is not None else (torch.bfloat16,)
    ):  # beyond fp16 without alpha
        for backend in ("triton", "torch"):
            out = T.mm_fp4(*args, out_dtype=dtype, backend=backend)
            assert error(out, want) <= threshold(out)


def test_shuffled_rows_are_undone_in_the_epilogue():
    a, b = operand(17, 96, "nvfp4", LAYOUTS[0], 7), torch.randn(96, 96, generator=torch.Generator().manual_seed(8))
    g = T.make_nvfp4_global_scale(b, False)
    plain, shuffled = T.nvfp4_quantize(b, g), T.nvfp4_quantize(b, g, do_shuffle=True)
    right = T.BlockScaledTensor(
        shuffled[0], shuffled[1].view(-1), 1 / g, a.format, LAYOUTS[0], (96, 96), row_shuffle=32
    )
    want = T.mm_fp4(a.values, plain[0].t(), a.scales, plain[1].t(), a.global_scale / g, backend="triton")
    assert torch.equal(T.matmul(a, right, backend="triton"), want)
    rows = torch.rand(96) + 0.5  # a global scale for each row follows the original order
    unshuffled = T.BlockScaledTensor(plain[0], plain[1].view(-1), rows, a.format, LAYOUTS[0], (96, 96))
    per_row = T.BlockScaledTensor(
        shuffled[0], shuffled[1].view(-1), rows, a.format, LAYOUTS[0], (96, 96), row_shuffle=32
    )
    assert torch.equal(T.matmul(a, per_row, backend="triton"), T.matmul(a, unshuffled, backend="triton"))
    assert torch.equal(T.dequantize(per_row, backend="triton"), T.dequantize(unshuffled, backend="torch"))


@pytest.mark.parametrize("pair", [("mxfp4", "mxfp4"), ("bf16", "mxfp4"), ("fp16", "mxfp4")])
def test_every_e8m0_code(pair):
    """Scale codes 0 to 254: each code in b meets the opposite one in a, so that the exact product stays in range."""
    generator = torch.Generator().manual_seed(9)
    codes = torch.arange(255, dtype=torch.uint8)
    bytes_ = torch.randint(0, 256, (255, 16), generator=generator).to(torch.uint8)
    b = T.BlockScaledTensor(bytes_, codes, None, T.MXFP4, SfLayout.layout_linear, (255, 32))
    for code in (0, 1, 64, 127, 190, 253, 254):
        if pair[0] == "mxfp4":
            value = torch.randint(0, 256, (4, 16), generator=generator).to(torch.uint8)
            a = T.BlockScaledTensor(
                value, torch.full((4,), code, dtype=torch.uint8), None, T.MXFP4, SfLayout.layout_linear, (4, 32)
            )
        else:
            a = torch.randn(4, 32, generator=generator).to({"bf16": torch.bfloat16, "fp16": torch.float16}[pair[0]])
        want = exact_product(a, b)
        out = T.matmul(a, b, out_dtype=torch.float32, backend="triton")
        fits = fp32_holds(a, b, want)
        assert fits.sum() > 60
        assert ((out.double() - want)[fits].abs() <= 1e-5 * want.abs()[fits] + 1e-36).all()


@pytest.mark.parametrize("grouped", [False, True])
def test_every_e4m3_scale(grouped):
    check_every_e4m3_scale("cpu", grouped)


@pytest.mark.parametrize("launcher", [matmul_upcast, matmul_dequantize, matmul_scaled])
def test_strided_values(launcher):
    """Packed values with any strides: every second byte of a wider buffer, and column-major."""
    a, b = operand(17, 96, "nvfp4", LAYOUTS[0], 5), operand(40, 96, "nvfp4", LAYOUTS[0], 6)
    wide = torch.zeros(17, 96, dtype=torch.uint8)
    wide[:, ::2] = a.values
    for values in (wide[:, ::2], a.values.t().contiguous().t()):
        strided = dataclasses.replace(a, values=values)
        with interpreter_patch.installed():
            measured, bound = _run(launcher, strided, b, Config("", block_m=128, block_k=64, block_n=32))
        assert measured <= bound


def test_nan_scales_inside_the_matrix_reach_the_output():
    b = operand(20, 96, "nvfp4", SfLayout.layout_linear, 10)
    b.scales[6 * 3 + 1] = 0x7F
    out = T.matmul(torch.ones(2, 96, dtype=torch.bfloat16), b, backend="triton")
    assert out.isnan().nonzero()[:, 1].unique().tolist() == [3]


def test_empty_operands():
    a, b = operand(4, 64, "nvfp4", LAYOUTS[0], 11), operand(8, 64, "nvfp4", LAYOUTS[0], 12)
    empty = T.quantize(torch.empty(0, 64))
    for backend in ("triton", "torch"):
        assert T.matmul(empty, b, backend=backend).shape == (0, 8)
        assert T.matmul(a, empty, backend=backend).shape == (4, 0)
