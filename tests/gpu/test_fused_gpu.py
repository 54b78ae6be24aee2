"""Batched, masked and fused quantizers on the GPU: zero bytes differ from the CPU reference."""

import pytest
import torch
from fused_checks import OPS, batch, check_batched, check_rmsnorm, check_silu, gates, poisoned
from kernel_checks import DTYPES, same_bytes, special, wide
from synchronization import no_synchronization

import tritonfp4 as T
from tritonfp4 import SfLayout

ACTIVATIONS = ("", "silu_and_mul")
FORMATS = [("nvfp4", 16), ("mxfp4", 32), ("nvfp4", 32), ("mxfp4", 16)]


def counts(values):
    return torch.tensor(values, dtype=torch.int32)


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_batched_bytes_equal_the_reference(dtype, activation):
    """Every rule, layout and kind of global scale, with and without counts; few kernels, each takes seconds to compile."""
    for b, m, k in ((3, 17, 96), (4, 129, 528), (1, 1, 16)):
        x = batch(b, m, k, dtype, activation)
        live = counts([(37 * i + m) % (m + 3) - 1 for i in range(b)])
        one, matrix, row = torch.full((1, 1), 5.0), torch.rand(b, 1) + 0.1, torch.rand(1, m) * 30
        check_batched("cuda", x, None, one, activation, "static_6", 448, 0)
        check_batched("cuda", x, live, matrix, activation, "static_6", 448, 0)
        check_batched("cuda", x, live, row, activation, "static_6", 448, 1)
        check_batched("cuda", x, None, row, activation, "mse", 256, 2)
        check_batched("cuda", x, live, matrix, activation, "mae", 448, 0)


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_special_values(dtype, activation):
    for rows in (1, 5, 129):
        x = special(rows, 96, 16).to(dtype).view(1, rows, 96)
        for g in (1.0, 3e38, float("inf"), 1e-30):
            check_batched("cuda", x, None, torch.full((1, 1), g), activation)


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_strided_inputs(activation):
    x = batch(3, 6, 64, torch.bfloat16, activation)
    views = (
        lambda x: x.transpose(0, 1),
        lambda x: x.transpose(1, 2).contiguous().transpose(1, 2),
        lambda x: x[:1].expand(3, -1, -1),
        lambda x: x[:, ::2],
    )
    for make in views:
        view, strided = make(x), make(x.cuda())
        assert view.stride() == strided.stride()
        b, m = view.shape[:2]
        g = torch.full((1, 1), 5.0)
        rest = (activation, "static_6", 448, 0)
        got = OPS.quantize_batched(strided, counts([m - 1] * b).cuda(), g.cuda(), *rest, "triton")
        want = OPS.quantize_batched(view, counts([m - 1] * b), g, *rest, "torch")
        assert [same_bytes(a, c) for a, c in zip(got, want, strict=True)] == [0, 0]


def test_silu_to_the_last_bit():
    check_silu("cuda", gates())


def test_silu_of_every_16_bit_gate():
    """The exponential is the reference's to the last bit: every fp16 and bf16 gate, NaN, infinities and subnormals included."""
    for dtype in (torch.float16, torch.bfloat16):
        gate = torch.arange(65536, dtype=torch.int32).to(torch.uint16).view(dtype).view(1, 1024, 64)
        for up in (3.0, -0.7, 60000.0):
            x = torch.cat([gate, torch.full_like(gate, up)], 2)
            check_batched("cuda", x, None, torch.ones(1, 1), "silu_and_mul", layout=SfLayout.layout_linear)


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_large_random(activation):
    x = torch.randn(4, 1024, 4096, generator=torch.Generator().manual_seed(3)).bfloat16()
    check_batched("cuda", x, counts([1024, 0, 1, 1000]), torch.full((1, 1), 300.0), activation)


@pytest.mark.parametrize("residual", [False, True])
@pytest.mark.parametrize("format, vec", FORMATS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_rmsnorm_bytes_equal_the_reference(dtype, format, vec, residual):
    for rows, cols in ((1, 64), (130, 128), (33, 4096), (3, 7168), (2, 20480 + 32)):
        x, other = wide(rows, cols).to(dtype), wide(rows, cols, 7).to(dtype) if residual else None
        weight = torch.randn(cols, generator=torch.Generator().manual_seed(cols)).to(dtype)
        check_rmsnorm("cuda", x, other, weight, format, vec, torch.tensor([30.0]))
        if vec == 16 and cols == 4096:
            check_rmsnorm("cuda", x, other, weight, format, vec, None, outputs="swizzled")


@pytest.mark.parametrize("residual", [False, True])
@pytest.mark.parametrize("dtype, eps", list(zip(DTYPES, (0.0, 0.5, 0.0), strict=True)), ids=str)
def test_rmsnorm_of_special_values(dtype, eps, residual):
    x = special(5, 96, 16).to(dtype)
    x[4] = 0.0
    other = torch.zeros_like(x) if residual else None
    check_rmsnorm("cuda", x, other, torch.ones(96).to(dtype), "nvfp4", 16, torch.tensor([9.0]), eps)
    check_rmsnorm("cuda", x.nan_to_num(posinf=1, neginf=-1), other, wide(1, 96)[0].to(dtype), "mxfp4", 32, None, eps)


def test_rmsnorm_large_random():
    x = torch.randn(2048, 4096, generator=torch.Generator().manual_seed(3)).bfloat16()
    weight = torch.randn(4096, generator=torch.Generator().manual_seed(4)).bfloat16()
    check_rmsnorm("cuda", x, x.flip(0).contiguous(), weight, "nvfp4", 16, torch.tensor([300.0]))


def test_public_functions_give_the_cpu_s_bytes():
    g, recipe = torch.tensor([20.0]), T.NVFP44Over6Config(256, "MSE")
    x, two, weight = (
        batch(2, 130, 96, torch.bfloat16),
        batch(2, 130, 96, torch.bfloat16, "silu"),
        wide(1, 96)[0].bfloat16(),
    )
    live = counts([130, 9])
    calls = (
        lambda d: T.nvfp4_batched_quantize(x.to(d), g.to(d)),
        lambda d: T.nvfp4_batched_quantize(x.to(d), g.to(d), nvfp4_4over6=recipe),
        lambda d: T.scaled_fp4_grouped_quantize(x.to(d), live.to(d), g.to(d)),
        lambda d: T.silu_and_mul_scaled_nvfp4_experts_quantize(two.to(d), live.to(d), g.expand(2).to(d), recipe),
        lambda d: T.silu_and_mul_nvfp4_quantize(two.to(d), g.to(d), is_sf_8x4_layout=True),
        lambda d: T.rmsnorm_fp4quant(x.to(d), weight.to(d), global_scale=g.to(d)),
        lambda d: T.rmsnorm_fp4quant(x.to(d), weight.to(d), block_size=32, is_sf_swizzled_layout=True),
        lambda d: T.add_rmsnorm_fp4quant(x.to(d), x.to(d), weight.to(d), output_both_sf_layouts=True),
        lambda d: T.nvfp4_kv_quantize(x[0].to(d), 1 / g.to(d)),
        lambda d: (T.nvfp4_kv_dequantize(*(t.to(d) for t in T.nvfp4_kv_quantize(x[0], 1 / g)), 1 / g.to(d)),),
    )
    for i, call in enumerate(calls):
        for got, want in zip(call("cuda"), call("cpu"), strict=True):
            assert got.is_cuda and got.shape == want.shape
            if want.dtype == torch.bfloat16:
                assert torch.equal(got.cpu(), want), i
            else:
                assert same_bytes(got.view(torch.uint8), want.view(torch.uint8)) == 0, i


def test_in_a_cuda_graph_without_a_synchronization():
    """The mask is read by the kernel alone: replays see its new content."""
    x = batch(3, 40, 64, torch.bfloat16, "silu").cuda()
    mask, g, weight = counts([40, 0, 7]).cuda(), torch.rand(3).cuda(), torch.ones(128, dtype=torch.bfloat16).cuda()

    def step():
        sums = torch.zeros_like(x)
        return [
            *T.silu_and_mul_scaled_nvfp4_experts_quantize(x, mask, g),
            *T.scaled_fp4_grouped_quantize(x, mask, g),
            *T.nvfp4_batched_quantize(x, g[:1]),
            *T.silu_and_mul_nvfp4_quantize(x, g[:1]),
            *T.add_rmsnorm_fp4quant(x, sums, weight, global_scale=g[:1], is_sf_swizzled_layout=True),
            *T.rmsnorm_fp4quant(x, weight),
            *T.nvfp4_kv_quantize(x[0], g[:1]),
        ]

    step()
    torch.cuda.synchronize()
    with no_synchronization():
        step()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        out = step()
    for live in ([40, 0, 7], [1, 40, 0], [0, 0, 0]):
        mask.copy_(counts(live))
        graph.replay()
        for got, want in zip(out, step(), strict=True):
            assert torch.equal(got.contiguous().view(torch.uint8), want.contiguous().view(torch.uint8))


def test_rows_that_do_not_count_are_not_read():
    x = batch(2, 64, 64, torch.bfloat16)
    live = counts([3, 60])
    one, two = (
        T.scaled_fp4_grouped_quantize(t.cuda(), live.cuda(), torch.ones(1).cuda()) for t in (x, poisoned(x, live))
    )
    assert torch.equal(one[0], two[0]) and torch.equal(one[1].view(torch.uint8), two[1].view(torch.uint8))


@pytest.mark.parametrize("name", ["nvfp4_batched_quantize", "add_rmsnorm_fp4quant", "silu_and_mul_nvfp4_quantize"])
def test_opcheck_and_fullgraph(name):
    import samples_fused

    function, args = samples_fused.COMPILED[name]
    args = [t.cuda() for t in args]
    torch._dynamo.reset()
    for got, want in zip(torch.compile(function, fullgraph=True)(*args), function(*args), strict=True):
        assert torch.equal(got, want)
    for sample, (op, values) in samples_fused.SAMPLES.items():
        moved = [v.cuda() if isinstance(v, torch.Tensor) else v for v in values]
        if "torch" not in sample:
            torch.library.opcheck(op.default, moved)
