"""FP8 and MXFP8 quantizers and dequantizers on the GPU: zero bytes differ from the CPU reference."""

import pytest
import torch
from fp8_checks import (
    FP8_RULES,
    MX_RULES,
    check_dequantize,
    check_fp8,
    check_mxfp8,
    every_binade,
    random_operand,
    same,
    spread,
)
from kernel_checks import DTYPES, ROWS, special, views, wide
from synchronization import no_synchronization

import tritonfp4 as T
from tritonfp4 import SfLayout
from tritonfp4.flashinfer.testing import utils
from tritonfp4.formats import FORMATS

BLOCKS = [(1, 128), (128, 128), (1, 16), (1, 48), (1, 256), (3, 5), (1, 4096)]


@pytest.mark.parametrize("layout", SfLayout)
@pytest.mark.parametrize("format, rule", MX_RULES)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_mxfp8_bytes_equal_the_reference(format, rule, layout, dtype):
    for rows in ROWS:
        for cols, alignment in ((32, 32), (192, 128), (544, 32)):
            check_mxfp8("cuda", wide(rows, cols).to(dtype), format, rule, layout, alignment, False)
    for x in (wide(3 * 130, 64).view(3, 130, 64), wide(3 * 9, 64).view(9, 3, 64).transpose(0, 1)):
        check_mxfp8("cuda", x.to(dtype), format, rule, layout, 96, True)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("format, rule", MX_RULES)
def test_mxfp8_special_values(format, rule, dtype):
    for x in (special(5, 96, 32), every_binade(32), spread(400, 96)):
        check_mxfp8("cuda", x.to(dtype), format, rule, SfLayout.layout_128x4, 32, False)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_strides_never_change_meaning(dtype):
    for _, x in views(129, 160, dtype):
        check_mxfp8("cuda", x, "mxfp8", "static_6", SfLayout.layout_8x4, 32, False)
        check_fp8("cuda", x, "e4m3", [1, 128], "internal", 0.0, False, 0)
        check_fp8("cuda", x, "e4m3", [128, 128], "amax", 1e-4, True, 1)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("element", ["e4m3", "e5m2", "int8"])
@pytest.mark.parametrize("block", BLOCKS, ids=str)
def test_fp8_bytes_equal_the_reference(block, element, dtype):
    for rule in FP8_RULES:
        for i, (rows, cols) in enumerate(((1, 129), (17, 4096), (133, 160), (300, 520))):
            x = wide(rows, cols).to(dtype)
            for pow2 in (False, True):
                check_fp8("cuda", x, element, list(block), rule, (1e-4, 0.0)[i % 2], pow2, (0, 4, 1)[i % 3])


@pytest.mark.parametrize("pow2", [False, True])
@pytest.mark.parametrize("rule", FP8_RULES)
@pytest.mark.parametrize("element", ["e4m3", "e5m2", "int8"])
def test_fp8_special_values(element, rule, pow2):
    for x in (special(5, 128, 64), every_binade(128), spread(200, 256)):
        for eps in (0.0, 1e-4):
            check_fp8("cuda", x, element, [1, 128], rule, eps, pow2, 0)
            check_fp8("cuda", x.bfloat16(), element, [4, 128], rule, eps, pow2, 1)


def test_large_random():
    """Sixteen million values, to meet rare ties."""
    x = torch.randn(4096, 4096, generator=torch.Generator().manual_seed(3)).bfloat16()
    check_mxfp8("cuda", x, "mxfp8", "static_6", SfLayout.layout_128x4, 32, False)
    check_fp8("cuda", x, "e4m3", [1, 128], "internal", 0.0, False, 0)
    check_fp8("cuda", x, "e4m3", [128, 128], "internal", 0.0, False, 0)
    check_fp8("cuda", x, "e4m3", [1, 128], "divide", 1e-4, True, 4)
    check_fp8("cuda", x, "int8", [1, 64], "amax", 1e-10, False, 0)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", FORMATS)
def test_dequantize_every_format(name, dtype):
    fmt = FORMATS[name]
    for layout in SfLayout if fmt.scale in ("e4m3", "e8m0") else [SfLayout.layout_linear]:
        for lead, k, batched, count in (
            ((130,), 320, False, 0), ((3, 40), 64, False, 120), ((3, 40), 64, True, 3), ((2, 130), 384, True, 1),
            ((2, 130), 384, True, 260), ((1000,), 1056, False, 1),
        ):  # fmt: skip
            check_dequantize("cuda", random_operand(name, lead, k, layout, batched, count), dtype)


def calls(x):
    """Every public function of the room."""
    values, scales = T.mxfp8_quantize(x)
    packed, linear = T.mxfp4_quantize(x, sfLayout=SfLayout.layout_linear)
    return [
        values, scales, *T.mxfp8_quantize(x.view(2, -1, 512), per_batch=True), *T.mxfp8_quantize(x, False, 1024),
        T.mxfp8_dequantize_host(values, scales), T.mxfp4_dequantize_host(packed, linear),
        T.mxfp4_dequantize_host(packed, linear[:, ::2], 64), *T.per_token_cast_to_fp8(x),
        *T.per_token_cast_to_fp8(x, pow2=True, mn_major=True, tma_aligned=True), *T.per_block_cast_to_fp8(x),
        *T.per_token_group_quant_8bit(x, 128), *T.per_token_group_quant_8bit(x, 64, dst_dtype=torch.int8),
        *T.per_token_group_quant_8bit(x, 32, column_major_scales=True, scale_tma_aligned=True, scale_ue8m0=True),
        *utils.per_token_cast_to_fp8(x), *utils.per_block_cast_to_fp8(x), *utils.quantize_fp8(x, (4, 130), (1, 128), "MN"),
        T.quantize(x, "fp8_1x128").dequantize(), T.quantize(x, "mxfp8").dequantize(torch.bfloat16),
    ]  # fmt: skip


def test_public_functions_are_the_cpu_s():
    x = wide(130, 512).bfloat16()
    for got, want in zip(calls(x.cuda()), calls(x), strict=True):
        assert got.device.type == "cuda" and got.dtype == want.dtype
        kind = {1: torch.uint8, 2: torch.int16, 4: torch.int32}[got.element_size()]
        assert same(got.view(kind), want.view(kind))


def test_the_reference_runs_on_cuda_to_the_same_bits():
    x = wide(130, 512)
    for backend_call in (
        lambda t, backend: T.mxfp8_quantize(t, backend=backend),
        lambda t, backend: T.per_token_cast_to_fp8(t, backend=backend),
        lambda t, backend: T.per_block_cast_to_fp8(t, pow2=True, backend=backend),
        lambda t, backend: T.per_token_group_quant_8bit(t, 64, dst_dtype=torch.float8_e5m2, backend=backend),
    ):
        for got, want in zip(backend_call(x.cuda(), "torch"), backend_call(x, "torch"), strict=True):
            kind = torch.uint8 if got.element_size() == 1 else torch.int32
            assert same(got.view(kind), want.view(kind))


def test_no_synchronization_and_cuda_graphs():
    x = wide(130, 512).bfloat16().cuda()
    calls(x)
    torch.cuda.synchronize()
    with no_synchronization():
        calls(x)
    static, graph = x.clone(), torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        out = calls(static)
    static.copy_(2 * x.flip(0))
    graph.replay()
    for got, want in zip(out, calls(static.clone()), strict=True):
        kind = {1: torch.uint8, 2: torch.int16, 4: torch.int32}[got.element_size()]
        assert same(got.view(kind), want.view(kind))
