"""FP8, MXFP8 and grouped GEMM kernels in the interpreter against an fp64 product, NaN in every row and scale of no group."""

import gemm_checks as C
import interpreter_patch  # noqa: F401  (the conftest installs it on Triton 3.6)
import pytest
import torch

import tritonfp4 as T
from tritonfp4.layouts import SfLayout

BF16, F16 = torch.bfloat16, torch.float16
TYPES = [(x, y) for x in (C.E4M3, C.E5M2) for y in (C.E4M3, C.E5M2)]


@pytest.mark.parametrize("dtype", [BF16, F16], ids=str)
@pytest.mark.parametrize("name", C.EACH)
def test_every_function(name, dtype):
    C.EACH[name]().check("cpu", dtype, "triton")


@pytest.mark.parametrize("form", ["documented", "strided", "MN", "padded"])
def test_every_form_of_an_input_scale(form):
    C.sm90(5, 40, 256, form=form).check("cpu", F16, "triton")


@pytest.mark.parametrize("block_rows", [1, 128])
@pytest.mark.parametrize("major", ["K", "MN"])
def test_ragged_groups(major, block_rows):
    """K = 272: a last scale of 16 columns; N = 72: a ragged tile."""
    C.group_fp8(major=major, block_rows=block_rows).check("cpu", F16, "triton")


@pytest.mark.parametrize("types", TYPES, ids=str)
def test_both_fp8_types(types):
    C.group_fp8((3, 20), 40, 144, types=types).check("cpu", F16, "triton")
    C.groupwise(17, 40, 144, types=types).check("cpu", F16, "triton")


@pytest.mark.parametrize("tile", [1, 128])
def test_both_granularities_of_a_weight(tile):
    C.sm90(17, 200, 256, tile=tile).check("cpu", F16, "triton")


def test_ragged_groups_with_fp4_weights():
    C.group_mxfp4(k=128).check("cpu", F16, "triton")
    C.group_mxfp4((5, 0, 17), 40, 128, C.E5M2).check("cpu", F16, "triton")
    C.group_nvfp4(k=128).check("cpu", F16, "triton")


@pytest.mark.parametrize("mixed", [False, True])
def test_a_group_for_every_row(mixed):
    C.group_indices((3, 0, 40, 1, 17), 40, 144, mixed).check("cpu", F16, "triton")


@pytest.mark.parametrize("mixed", [False, True])
def test_nan_in_the_scales_of_a_group_reaches_its_rows_alone(mixed):
    """Not the rows of other groups, or of none, in the same tile. (The interpreter's FP8 elements have no NaN.)"""
    problem = C.group_indices((3, 5), 24, 144, mixed)
    problem.args["b_scale"][0] = float("nan")
    out, others = problem.run("cpu", F16, "triton"), problem.args["m_indices"] != 0
    assert out[~others].isnan().all() and C.error(out[others], problem.want[others]) <= 1e-3


@pytest.mark.parametrize("mode", ["m_indptr", "m_indices", None])
def test_a_global_scale_for_each_group_or_row(mode):
    def operand(g, *shape):
        values, fmt = C.fp8(*shape, seed=len(shape)), T.formats.FP8
        t = T.BlockScaledTensor(
            values.view(torch.uint8), torch.empty(0), g, fmt, SfLayout.layout_linear, shape, batched=len(shape) == 3
        )
        return t, values.double() * g.double().reshape(*shape[:-2], -1, 1)

    _, indices, m = C.ragged((3, 0, 5), 1, 2)
    b, right = operand(torch.tensor([0.3, 5.0, 0.01]), 3, 24, 128)
    if mode is None:
        a, left = operand(C.scales_of(3), 3, 9, 128)
        out, want = T.grouped_matmul(a, b, out_dtype=F16, backend="triton"), left @ right.transpose(1, 2)
    else:
        a, left = operand(C.scales_of(m), m, 128)
        groups = {mode: indices if mode == "m_indices" else C.offsets((3, 0, 5), 1)}
        out = T.grouped_matmul(a, b, **groups, out_dtype=F16, backend="triton")
        want = C.product_of_groups(left, right, indices)
    assert C.error(out, want) <= 1e-3


def test_masked_groups():
    C.masked(k=144).check("cpu", F16, "triton")
    C.masked((3, 200), 200, 40, 144, 128).check("cpu", F16, "triton")


@pytest.mark.parametrize("count", [1, 2, 40])
def test_many_groups(count):
    C.group_fp8(tuple(g % 3 for g in range(count)), 16, 16).check("cpu", F16, "triton")


def test_per_batch_padding_of_mxfp8_scales():
    C.bmm_mxfp8(3, 100, 40, 64, (C.E5M2, C.E4M3)).check("cpu", F16, "triton")
    C.mm_mxfp8(13, 136, 160, eight=True).check("cpu", F16, "triton")


def test_scales_of_a_wide_range():
    C.check_rows(C.groupwise(17, 256, 256, spread=20), "cpu", "triton")
    C.check_rows(C.group_fp8((3, 0, 20), 256, 256, spread=20), "cpu", "triton")


def test_every_e8m0_code():
    C.check_every_e8m0_code("cpu", "triton", (0, 127, 254))


BAD = {
    "decreasing": [0, 9, 4, 23], "negative": [-5, 3, 9, 23], "beyond the rows": [0, 3, 500, 2**31 - 1],
    "far below": [-(2**31), -(2**31), 7, 23],
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_bad_offsets_touch_no_other_memory(name):
    """`out` lies in a larger poisoned buffer; the operator is called without the checks of the values."""
    problem = C.group_fp8((3, 0, 20), 24, 144, before=0, after=0)
    big = torch.full((60, 24), 77.0, dtype=BF16)
    args = problem.args | {"m_indptr": torch.tensor(BAD[name], dtype=torch.int32)}
    T.group_gemm_fp8_nt_groupwise(**args, out=big[20:43], backend="triton", skip_check=True)
    assert (big[:20] == 77).all() and (big[43:] == 77).all()


def operands(a_format, b_format, lead=()):
    """Quantized activations [.., 9, 128] and batched weights [2, 24, 128]."""
    x = torch.randn(*lead, 9, 128, generator=C.generator(1)) * 0.3
    w = torch.randn(2, 24, 128, generator=C.generator(2)) * 0.3
    return batched(x, a_format) if lead else one(x, a_format), batched(w, b_format)


def one(x, format, layout=SfLayout.layout_linear):
    if format in ("bf16", "fp16"):
        return x.to({"bf16": BF16, "fp16": F16}[format])
    return T.quantize(x, format, layout=layout, backend="torch")


def batched(x, format):
    if format in ("bf16", "fp16"):
        return one(x, format)
    each = [one(matrix, format) for matrix in x]
    values = torch.stack([t.values for t in each])
    scales = (
        torch.stack([t.scales for t in each]) if each[0].format.scale == "fp32" else torch.cat([t.scales for t in each])
    )
    g = None if each[0].global_scale is None else torch.cat([t.global_scale for t in each])
    return T.BlockScaledTensor(values, scales, g, each[0].format, each[0].layout, tuple(x.shape), batched=True)


PAIRS = [
    ("fp8_1x128", "fp8_128x128"), ("fp8_1x128", "fp8_1x128"), ("fp8_128x128", "fp8_128x128"), ("mxfp8", "mxfp8"),
    ("mxfp8", "mxfp4"), ("mxfp4", "mxfp4"), ("nvfp4", "nvfp4"), ("bf16", "nvfp4"), ("fp16", "mxfp4"),
]  # fmt: skip


@pytest.mark.parametrize(("a", "b"), PAIRS)
def test_the_verb_in_every_mode(a, b):
    """grouped_matmul against torch.matmul of the dequantized operands, in fp64."""
    left, right = operands(a, b)
    exact = [t.double() if isinstance(t, torch.Tensor) else t.dequantize().double() for t in (left, right)]
    indptr, indices = (
        torch.tensor([1, 4, 9], dtype=torch.int32),
        torch.tensor([-1, 0, 0, 0, 1, 1, 1, 1, 1], dtype=torch.int32),
    )
    want = C.product_of_groups(*exact, indices)
    modes = [{"m_indptr": indptr}] + ([{"m_indices": indices}] if "fp8" in a else [])
    for mode in modes:
        out = T.grouped_matmul(left, right, **mode, out_dtype=F16, backend="triton")
        assert C.error(out, want) <= 1e-3 and (out[0] == 0).all()
    left, right = operands(a, b, (2,))
    exact = [t.double() if isinstance(t, torch.Tensor) else t.dequantize().double() for t in (left, right)]
    want = exact[0] @ exact[1].transpose(1, 2)
    assert C.error(T.grouped_matmul(left, right, out_dtype=F16, backend="triton"), want) <= 1e-3
    want[0, 4:], want[1, 7:] = 0, 0
    some = T.grouped_matmul(
        left, right, masked_m=torch.tensor([4, 7], dtype=torch.int32), out_dtype=F16, backend="triton"
    )
    assert C.error(some, want) <= 1e-3


@pytest.mark.parametrize("format", ["fp8_1x128", "mxfp8", "fp8"])
def test_matmul_of_fp8_operands(format):
    if format == "fp8":
        make = lambda x: T.BlockScaledTensor(  # noqa: E731
            x.to(C.E4M3).view(torch.uint8), torch.empty(0), torch.tensor([0.3]), T.formats.FP8, SfLayout.layout_linear, tuple(x.shape)
        )  # fmt: skip
    else:
        make = lambda x: T.quantize(x, format, backend="torch")  # noqa: E731
    a, b = make(torch.randn(17, 160, generator=C.generator(1))), make(torch.randn(40, 160, generator=C.generator(2)))
    want = a.dequantize().double() @ b.dequantize().double().T
    assert C.error(T.matmul(a, b, out_dtype=F16, backend="triton"), want) <= 1e-3
    assert C.error(T.matmul(a, b, out_dtype=torch.float32, backend="triton"), want) <= 1e-5


def test_operands_of_any_strides():
    problem = C.groupwise(17, 40, 144, "K")
    for name, x in {"a": problem.args["a"], "b": problem.args["b"]}.items():
        wide = torch.full((x.shape[0], 2 * x.shape[1]), 0x7F, dtype=torch.uint8)
        wide[:, ::2] = x.view(torch.uint8)
        for view in (wide.view(C.E4M3)[:, ::2], x.t().contiguous().t()):
            C.Problem(problem.function, problem.args | {name: view}, problem.want).check("cpu", F16, "triton")


def test_nan_scales_inside_the_matrix_reach_the_output():
    problem = C.groupwise(17, 40, 256)
    problem.args["a_scale"][3, 1] = float("nan")
    out = problem.run("cpu", F16, "triton")
    assert out.isnan().all(1).nonzero()[:, 0].tolist() == [3] and out.isnan().any(1).sum() == 1


@pytest.mark.parametrize("mode", ["batch", "masked", "indptr", "indices"])
def test_a_launch_has_one_axis(mode):
    """The other axes of a CUDA grid end at 65535: too few for many matrices."""
    from tritonfp4.config import Config
    from tritonfp4.kernels.grouped import launch_groups, unwrap_group

    class Kernel:
        def __getitem__(self, grid):
            self.grid = grid
            return lambda *args, **constants: None

    kernel, count = Kernel(), 70000
    fmt, linear = T.formats.FP8, SfLayout.layout_linear
    each = [
        T.BlockScaledTensor(x, torch.empty(0), None, fmt, linear, tuple(x.shape), batched=True)
        for x in (torch.zeros(1, 1, 1, dtype=torch.uint8).expand(count, rows, 16) for rows in (20, 40))
    ]
    a, b = map(unwrap_group, each)
    out = torch.empty(1, dtype=BF16).expand(count, 20, 40)
    launch_groups(kernel, a, b, None, mode, out, (count, 20, 40, 16), Config("fp8", 16, 128, 16))
    tiles = {"batch": 2 * count, "masked": 2 * count, "indptr": 21, "indices": 2}[mode]
    assert kernel.grid == (tiles * 3,)


@pytest.mark.parametrize("backend", ["triton", "torch"])
def test_empty_sizes(backend):
    for m, n, k in ((0, 8, 128), (4, 0, 128), (4, 8, 0)):
        assert C.groupwise(m, n, k).run("cpu", BF16, backend).tolist() == [[0.0] * n] * m
    assert C.group_fp8((), 8, 128, before=0, after=3).run("cpu", BF16, backend).tolist() == [[0.0] * 8] * 3
    assert C.group_fp8((0, 0), 8, 128, before=0, after=0).run("cpu", BF16, backend).shape == (0, 8)
    assert C.masked((), 4, 8, 128).run("cpu", BF16, backend).shape == (0, 4, 8)
