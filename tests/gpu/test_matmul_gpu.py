"""GEMMs on the GPU against the fp64 product, every padding scale NaN, `out` full of NaN."""

import dataclasses

import pytest
import torch
from kernel_checks import check_every_e4m3_scale, check_matmul, error, exact_product, fp32_holds, operand, threshold
from synchronization import no_synchronization

import tritonfp4 as T
from tritonfp4 import SfLayout
from tritonfp4.autotune import Problem, illegal
from tritonfp4.autotune.select import candidates
from tritonfp4.device import device_info
from tritonfp4.formats import FORMATS

ROWS = (1, 3, 16, 17, 64, 129, 1000)
PAIRS = [("nvfp4", "nvfp4"), ("mxfp4", "mxfp4"), ("bf16", "nvfp4"), ("fp16", "nvfp4"), ("bf16", "mxfp4"), ("fp16", "mxfp4"),
         ("nvfp4", "mxfp4"), ("nvfp4", "bf16")]  # fmt: skip
LAYOUTS = (SfLayout.layout_128x4, SfLayout.layout_8x4, SfLayout.layout_linear)
SHAPES = ((72, 96), (130, 352), (1000, 1056))


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("a, b", PAIRS)
def test_error_bound(a, b, layout):
    for i, rows in enumerate(ROWS):
        for n, k in SHAPES:
            check_matmul("cuda", operand(rows, k, a, layout, i), operand(n, k, b, SfLayout.layout_128x4, 100 + i))


@pytest.mark.parametrize("a, b", PAIRS)
def test_every_candidate_config(a, b):
    """Not only what `select` takes first: every legal config it knows, by the launchers."""
    from tritonfp4.kernels.fragments.launch import matmul_w4
    from tritonfp4.kernels.matmul_scaled import matmul_scaled
    from tritonfp4.kernels.matmul_upcast import matmul_dequantize, matmul_upcast

    launchers = {
        "native": matmul_scaled,
        "upcast": matmul_upcast,
        "dequantize": matmul_dequantize,
        "fragments": matmul_w4,
    }
    info = device_info(torch.device("cuda", torch.cuda.current_device()))
    for rows in (1, 17, 33, 64, 129, 1000):
        n, k = 1000, 352
        left, right = operand(rows, k, a, LAYOUTS[1], 1), operand(n, k, b, LAYOUTS[0], 2)
        want = exact_product(left, right)
        for config in candidates(Problem("matmul", rows, n, k, a, b, info, pieces=b in FORMATS)):
            if illegal(config, Problem("matmul", rows, n, k, a, b, info, pieces=b in FORMATS)) is None:
                out = torch.full(want.shape, float("nan"), dtype=torch.bfloat16, device="cuda")
                launchers[config.path](left.to("cuda"), right.to("cuda"), out, config)
                assert error(out, want) <= threshold(out), (rows, config)


@pytest.mark.parametrize("grouped", [False, True])
def test_every_e4m3_scale(grouped):
    check_every_e4m3_scale("cuda", grouped)


def test_fp32_output():
    for a, b in PAIRS:
        left, right = operand(129, 352, a, LAYOUTS[0], 1), operand(130, 352, b, LAYOUTS[0], 2)
        out = T.matmul(left.to("cuda"), right.to("cuda"), out_dtype=torch.float32)
        assert error(out, exact_product(left, right)) <= threshold(out)


def test_every_e8m0_code():
    generator = torch.Generator().manual_seed(9)
    codes = torch.arange(255, dtype=torch.uint8)
    values = torch.randint(0, 256, (255, 16), generator=generator).to(torch.uint8)
    b = T.BlockScaledTensor(values, codes, None, T.MXFP4, SfLayout.layout_linear, (255, 32))
    for rows in (4, 300):
        for code in (0, 1, 64, 127, 190, 253, 254):
            value = torch.randint(0, 256, (rows, 16), generator=generator).to(torch.uint8)
            scale = torch.full((rows,), code, dtype=torch.uint8)
            a = T.BlockScaledTensor(value, scale, None, T.MXFP4, SfLayout.layout_linear, (rows, 32))
            want = exact_product(a, b)
            out = T.matmul(a.to("cuda"), b.to("cuda"), out_dtype=torch.float32).cpu()
            fits = fp32_holds(a, b, want)
            wrong = fits & ((out.double() - want).abs() > 1e-5 * want.abs() + 1e-36)
            assert wrong.sum() == 0, (rows, code, wrong.nonzero()[:, 1].unique().tolist())


def test_mm_fp4_documentation_example():
    a = torch.randn([48, 128], device="cuda", dtype=torch.bfloat16)
    b = torch.randn([256, 128], device="cuda", dtype=torch.bfloat16)
    a_global_sf = (448 * 6) / a.float().abs().nan_to_num().max()
    b_global_sf = (448 * 6) / b.float().abs().nan_to_num().max()
    a_fp4, a_sf = T.nvfp4_quantize(a, a_global_sf, sfLayout=SfLayout.layout_128x4, do_shuffle=False)
    b_fp4, b_sf = T.nvfp4_quantize(b, b_global_sf, sfLayout=SfLayout.layout_128x4, do_shuffle=True)
    alpha = 1.0 / (a_global_sf * b_global_sf)
    out = T.mm_fp4(a_fp4, b_fp4.T, a_sf, b_sf.T, alpha, torch.bfloat16, None, backend="trtllm")
    assert out.shape == (48, 256)
    plain, plain_sf = T.nvfp4_quantize(b, b_global_sf)
    assert torch.equal(out, T.mm_fp4(a_fp4, plain.T, a_sf, plain_sf.T, alpha))
    want = T.mm_fp4(*(t.cpu() for t in (a_fp4, plain.T, a_sf, plain_sf.T, alpha)))
    assert error(out, want.double()) < 4e-3


@pytest.mark.parametrize("format", ["nvfp4", "mxfp4"])
@pytest.mark.parametrize("m", [1, 17, 128, 1024])
def test_fp4_matmul_is_the_same_from_both_kinds_of_operands(m, format):
    a = torch.randn(m, 1024, dtype=torch.bfloat16, device="cuda")
    b = torch.randn(320, 1024, dtype=torch.bfloat16, device="cuda")
    qa, qb = (T.quantize_to_fp4(t, fp4_format=format) for t in (a, b))
    packed = dict(zip(("a_e2m1", "a_sf", "a_normconst"), qa, strict=True)) | dict(
        zip(("b_e2m1", "b_sf", "b_normconst"), qb, strict=True)
    )
    for dtype in ("bfloat16", "float16", "float32"):
        first = T.fp4_matmul(a, b, fp4_format=format, out_dtype=dtype)
        second = T.fp4_matmul(**packed, fp4_format=format, out_dtype=dtype, out_shape=(m, 320))
        assert torch.equal(first, second) and first.shape == (m, 320)


def test_alpha_layouts_and_strided_operands():
    a, b = operand(17, 96, "nvfp4", LAYOUTS[0], 5), operand(40, 96, "nvfp4", LAYOUTS[0], 6)
    for alpha in (torch.tensor(7e-6), torch.rand(17) * 1e-5, None):
        want = exact_product(
            dataclasses.replace(a, global_scale=alpha), dataclasses.replace(b, global_scale=None)
        )  # fmt: skip
        wide = torch.zeros(17, 96, dtype=torch.uint8)
        wide[:, ::2] = a.values
        for values in (a.values, wide[:, ::2], a.values.t().contiguous().t()):
            args = (values, b.values.t(), a.scales, b.scales, alpha)
            strided = [None if t is None else t.cuda() if t is not wide[:, ::2] else t for t in args]
            out = T.mm_fp4(*strided)
            assert error(out, want) <= threshold(out)


def test_row_stride_of_out():
    a, b = (operand(r, 96, "nvfp4", LAYOUTS[0], 5).to("cuda") for r in (17, 40))
    big = torch.full((17, 64), float("nan"), dtype=torch.bfloat16, device="cuda")
    T.matmul(a, b, out=big[:, :40])
    assert torch.equal(big[:, :40], T.matmul(a, b)) and big[:, 40:].isnan().all()


@pytest.mark.parametrize("shape", [(1, 4096, 4096), (64, 1024, 2048), (512, 1024, 2048), (4096, 4096, 4096)])
def test_same_bits_in_every_run(shape):
    m, n, k = shape
    a = T.quantize(torch.randn(m, k, device="cuda"))
    b = T.quantize(torch.randn(n, k, device="cuda"))
    first = T.matmul(a, b)
    assert all(torch.equal(T.matmul(a, b), first) for _ in range(20))


def test_quantize_and_matmul_in_a_cuda_graph():
    x = torch.randn(64, 512, dtype=torch.bfloat16, device="cuda")
    w = T.quantize(torch.randn(256, 512, device="cuda"))
    static = x.clone()
    T.matmul(T.quantize(static), w)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        out = T.matmul(T.quantize(static), w)
    for _ in range(3):
        static.copy_(torch.randn_like(x))
        graph.replay()
        assert torch.equal(out, T.matmul(T.quantize(static), w))


def test_no_synchronization():
    x = torch.randn(64, 512, dtype=torch.bfloat16, device="cuda")
    w = T.quantize(torch.randn(256, 512, device="cuda"))
    T.matmul(T.quantize(x), w)
    with no_synchronization():
        T.matmul(T.quantize(x), w)
        T.nvfp4_quantize(x, T.make_nvfp4_global_scale(x, False))
        T.nvfp4_quantize(x, 1 / 2688, per_token_activation=True)
