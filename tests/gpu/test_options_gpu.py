"""The options of the quantizers on the GPU: zero bytes differ from the CPU reference."""

import pytest
import torch
from kernel_checks import DTYPES, FORMAT_RULES, check_quantize, same_bytes, special, views, wide
from options_checks import (
    COMBINATIONS,
    SEED,
    STOCHASTIC,
    check_e4m3,
    check_fouroversix,
    check_global_scales_with_noise,
    check_noise_stays_with_its_element,
    check_rotate,
    every_e4m3,
)
from synchronization import no_synchronization

import tritonfp4 as T
from tritonfp4 import SfLayout, reference
from tritonfp4.config import Config
from tritonfp4.formats import FORMATS

ROWS = (1, 3, 17, 33, 129, 300)


@pytest.mark.parametrize("layout", SfLayout)
@pytest.mark.parametrize("format, rule", FORMAT_RULES)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_2d_bytes_equal_the_reference(format, rule, layout, dtype):
    vec = FORMATS[format].vec
    for rows in ROWS:
        for cols in (vec, 6 * vec, 512 + vec):
            check_quantize("cuda", wide(rows, cols).to(dtype), format, rule, layout, tile_2d=True)
        check_quantize("cuda", special(rows, 3 * vec, vec).to(dtype), format, rule, layout, tile_2d=True)


@pytest.mark.parametrize("layout", SfLayout)
@pytest.mark.parametrize("format, rule, rounding", STOCHASTIC)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_stochastic_bytes_equal_the_reference(format, rule, rounding, layout, dtype):
    vec = FORMATS[format].vec
    for rows in ROWS:
        for tile in (False, True):
            x = wide(rows, 6 * vec).to(dtype)
            check_quantize("cuda", x, format, rule, layout, rounding=rounding, seed=SEED, tile_2d=tile)
        x = special(rows, 3 * vec, vec).to(dtype)
        check_quantize("cuda", x, format, rule, layout, rounding=rounding, seed=SEED)


@pytest.mark.parametrize("format, rule, rounding", STOCHASTIC)
def test_large_random(format, rule, rounding):
    """Four million values: rare ties and near-ties, in blocks and in tiles."""
    x = torch.randn(2048, 2048, generator=torch.Generator().manual_seed(3)).bfloat16()
    for tile in (False, True):
        check_quantize("cuda", x, format, rule, SfLayout.layout_128x4, rounding=rounding, seed=SEED, tile_2d=tile)
    check_quantize("cuda", x, format, rule, SfLayout.layout_128x4, tile_2d=True)


@pytest.mark.parametrize("rounding", ["stochastic", "stochastic_unbiased"])
def test_every_source_of_the_global_scale(rounding):
    check_global_scales_with_noise("cuda", wide(129, 96).bfloat16(), rounding=rounding)
    check_global_scales_with_noise("cuda", wide(129, 96).bfloat16(), rounding=rounding, tile_2d=True)


@pytest.mark.parametrize("format", ["nvfp4", "mxfp4"])
def test_noise_stays_with_its_element(format):
    check_noise_stays_with_its_element("cuda", format, "stochastic")


@pytest.mark.parametrize("format, rule", [("nvfp4", "static_6"), ("nvfp4", "mse"), ("mxfp4", "static_6")])
@pytest.mark.parametrize("cols", [160, 165])
def test_noise_and_tiles_do_not_depend_on_the_tiling(format, rule, cols):
    from tritonfp4.kernels.quantize import quantize as launcher

    x = wide(133, cols).bfloat16()
    fmt, source = FORMATS[format], "tensor" if format == "nvfp4" else "none"
    rest = (None, None, fmt, rule, 256, source, SfLayout.layout_128x4, True)
    for tile in (False, True):
        want = reference.quantize(x, *rest, tile, "stochastic", SEED)
        for rows, block, warps in ((32, 64, 4), (64, 32, 2), (128, 64, 8)):
            config = Config("quantize", block_m=rows, block_k=block, num_warps=warps)
            got = launcher(x.cuda(), *rest, config, Config("amax", 8, 256), tile, "stochastic", SEED.cuda())
            assert [same_bytes(g, w) for g, w in zip(got, want, strict=True)] == [0, 0, 0]


@pytest.mark.parametrize("options", COMBINATIONS, ids=lambda o: "-".join(str(v) for v in o.values()))
def test_every_combination_of_fouroversix_options(options):
    for i, shape in enumerate(((32, 37), (160, 257), (64, 128))):
        shape = shape if options["transpose"] else shape[::-1]
        x = wide(*shape).to(DTYPES[i])
        check_fouroversix("cuda", x, **options)
        for h in (16, 32):
            check_fouroversix("cuda", x, T.hadamard_matrix(h, dtype=DTYPES[i]), **options)


def test_k_that_is_no_multiple_of_eight():
    for format in ("nvfp4", "mxfp4"):
        for shape in ((3, 100), (33, 41), (2, 7), (300, 1001)):
            check_fouroversix("cuda", wide(*shape), fp4_format=format, round_style="stochastic", block_scale_2d=True)
    check_fouroversix("cuda", wide(130, 35), round_style="stochastic", unbiased=True)


@pytest.mark.parametrize("h", [1, 2, 4, 8, 16, 32, 64, 128])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_rotate_bits_equal_the_reference(dtype, h):
    generator = torch.Generator().manual_seed(0)
    had = torch.randn(h, h, generator=generator)
    for rows, cols in ((1, h), (17, 3 * h), (300, 1024)):
        check_rotate("cuda", wide(rows, cols).to(dtype), had.to(dtype))
        check_rotate("cuda", wide(rows, cols).to(dtype), had.t())
    for _, x in views(17, 256, dtype):
        check_rotate("cuda", x, T.hadamard_matrix(h, torch.randn(h, generator=generator), dtype))
    check_rotate("cuda", special(5, 256, 16).to(dtype), T.hadamard_matrix(h, dtype=dtype))


@pytest.mark.parametrize("layout", SfLayout)
def test_e4m3_input(layout):
    for scale in (torch.tensor([1 / 448]), torch.tensor(3.7), torch.rand(300) + 0.01, torch.tensor([1e-9])):
        check_e4m3("cuda", every_e4m3(300, 16), scale, layout)
    check_e4m3("cuda", every_e4m3(300, 32), None, layout)
    check_e4m3("cuda", every_e4m3(256, 16).t()[:, :160], torch.tensor([0.02]), layout)


def test_the_reference_on_the_gpu_is_that_on_the_cpu():
    x = wide(40, 96).bfloat16()
    for options in ({"rounding": "stochastic", "tile_2d": True, "rule": "mse"}, {"rounding": "stochastic_unbiased"}):
        got = T.quantize(x.cuda(), seed=SEED.cuda(), backend="torch", **options)
        want = T.quantize(x, seed=SEED, backend="torch", **options)
        assert same_bytes(got.values, want.values) == 0 and same_bytes(got.scales, want.scales) == 0
    assert (
        same_bytes(
            reference.rotate(x.cuda(), T.hadamard_matrix(device="cuda")), reference.rotate(x, T.hadamard_matrix())
        )
        == 0
    )
    signs = torch.randn(64)
    for args in ((16, "te"), (64, signs)):
        assert torch.equal(T.hadamard_matrix(*args, device="cuda").cpu(), T.hadamard_matrix(*args))


def test_a_graph_replays_with_new_noise():
    """Both from a seed that the graph advances and from torch's generator."""
    x = torch.randn(64, 256, dtype=torch.bfloat16, device="cuda")
    seed = torch.zeros(1, dtype=torch.int64, device="cuda")
    had = T.hadamard_matrix(device="cuda")

    def step():
        seed.add_(1)
        options = {"round_style": "stochastic", "had": had}
        return [T.quantize_to_fp4(x, seed=s, **options)[0] for s in (seed, None)]

    step()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        given, drawn = step()
    seen = []
    for _ in range(3):
        graph.replay()
        want = T.quantize_to_fp4(x, round_style="stochastic", had=had, seed=seed)[0]
        assert torch.equal(given, want)
        seen += [given.clone(), drawn.clone()]
    assert all(not torch.equal(a, b) for i, a in enumerate(seen) for b in seen[:i])


def test_no_synchronization():
    x = torch.randn(64, 256, dtype=torch.bfloat16, device="cuda")
    g, had = torch.ones(1, device="cuda"), T.hadamard_matrix(16, "te", device="cuda")

    def run():
        T.quantize_to_fp4(x, block_scale_2d=True, had=had, round_style="stochastic", transpose=True)
        T.quantize_to_fp4(x, round_style="stochastic", unbiased=True, seed=7)
        T.quantize(x, tile_2d=True, rounding="stochastic", backend="torch")
        T.fp4_quantize(x.to(torch.float8_e4m3fn), g)
        T.hadamard_matrix(16, "te", device="cuda")

    run()
    with no_synchronization():
        run()


def test_fullgraph_equals_eager():
    x = torch.randn(32, 256, dtype=torch.bfloat16, device="cuda")
    had, seed = T.hadamard_matrix(device="cuda"), SEED.cuda()
    for run in (
        lambda x: T.quantize_to_fp4(x, block_scale_2d=True, had=had, round_style="stochastic", seed=seed)[0],
        lambda x: T.quantize_to_fp4(x.t(), transpose=True, round_style=T.RoundStyle.stochastic, unbiased=True, seed=5)[
            0
        ],
        lambda x: T.quantize(x, "mxfp4", tile_2d=True, rounding="stochastic", seed=seed).values,
        lambda x: T.mxfp4_quantize(x.to(torch.float8_e4m3fn))[0],
    ):
        torch._dynamo.reset()
        assert torch.equal(torch.compile(run, fullgraph=True)(x), run(x))
