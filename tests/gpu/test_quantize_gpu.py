"""Quantizers on the GPU: zero bytes differ from the CPU reference, over the whole grid."""

import pytest
import torch
from kernel_checks import DTYPES, FORMAT_RULES, ROWS, check_quantize, same_bytes, special, views, wide

import tritonfp4 as T
from tritonfp4 import SfLayout
from tritonfp4.formats import FORMATS


@pytest.mark.parametrize("layout", SfLayout)
@pytest.mark.parametrize("format, rule", FORMAT_RULES)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_bytes_equal_the_reference(format, rule, layout, dtype):
    vec = FORMATS[format].vec
    for rows in ROWS:
        for cols in (vec, 6 * vec, 512 + vec):
            x = wide(rows, cols).to(dtype)
            check_quantize("cuda", x, format, rule, layout)
            if format == "nvfp4" and cols == 6 * vec:
                check_quantize("cuda", x, format, rule, layout, per_row=True)
                check_quantize("cuda", x, format, rule, layout, global_scale=torch.tensor([0.01]))
                check_quantize("cuda", x, format, rule, layout, amax=torch.tensor([77.0]))


@pytest.mark.parametrize("layout", SfLayout)
@pytest.mark.parametrize("format, rule", FORMAT_RULES)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_strides_never_change_meaning(format, rule, layout, dtype):
    for rows in (3, 129):
        for _, x in views(rows, 6 * FORMATS[format].vec, dtype):
            check_quantize("cuda", x.cuda(), format, rule, layout)  # the reference, too, reads the view


@pytest.mark.parametrize("format, rule", FORMAT_RULES)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_special_values(format, rule, dtype):
    vec = FORMATS[format].vec
    for rows in (1, 5, 129):
        x = special(rows, 3 * vec, vec).to(dtype)
        check_quantize("cuda", x, format, rule, SfLayout.layout_128x4)
        if format == "nvfp4":
            check_quantize("cuda", x, format, rule, SfLayout.layout_8x4, per_row=True)
            finite = x.nan_to_num(posinf=1, neginf=-1)
            check_quantize("cuda", finite, format, rule, SfLayout.layout_linear)
            tiny = (finite.float() * 1e-36).to(dtype)
            check_quantize("cuda", tiny, format, rule, SfLayout.layout_linear, global_scale=torch.tensor([1e-38]))


@pytest.mark.parametrize("format", ["nvfp4", "mxfp4"])
def test_every_bf16_value(format):
    x = torch.arange(65536, dtype=torch.int32).to(torch.uint16).view(torch.bfloat16).reshape(2048, 32)
    options = {"global_scale": torch.tensor([1.0])} if format == "nvfp4" else {}
    check_quantize("cuda", x, format, "static_6", SfLayout.layout_linear, **options)
    alone = torch.zeros(65536, 32, dtype=torch.bfloat16)
    alone[:, 0] = x.reshape(-1)
    check_quantize("cuda", alone, format, "static_6", SfLayout.layout_linear, **options)


@pytest.mark.parametrize("format, rule", FORMAT_RULES)
def test_large_random(format, rule):
    """Sixteen million values, to meet rare ties."""
    x = torch.randn(4096, 4096, generator=torch.Generator().manual_seed(3)).bfloat16()
    check_quantize("cuda", x, format, rule, SfLayout.layout_128x4)


@pytest.mark.parametrize("format", ["nvfp4", "mxfp4"])
@pytest.mark.parametrize("shape", [(1, 16), (3, 100), (128, 64), (129, 130)])
def test_padded_tuple_api(format, shape):
    x = wide(*shape).bfloat16()
    for option in ({}, {"transpose": True}, {"scale_rule": "always_4"}):
        got = T.quantize_to_fp4(x.cuda(), fp4_format=format, **option)
        want = T.quantize_to_fp4(x, fp4_format=format, backend="pytorch", **option)
        for g, w in zip(got, want, strict=True):
            assert same_bytes(g.reshape(-1), w.reshape(-1)) == 0 and g.shape == w.shape


def test_flashinfer_quantizers():
    x = wide(96, 160).bfloat16()
    g = T.make_nvfp4_global_scale(x, False)
    assert same_bytes(T.make_nvfp4_global_scale(x.cuda(), False), g) == 0
    recipe = T.NVFP44Over6Config(256, "MSE")
    for layout in SfLayout:
        for call in (
            lambda t: T.nvfp4_quantize(t, g.to(t.device), sfLayout=layout),
            lambda t: T.nvfp4_quantize(t, g.to(t.device), sfLayout=layout, nvfp4_4over6=recipe),
            lambda t: T.nvfp4_quantize(t, 1 / 2688, sfLayout=layout, per_token_activation=True),
            lambda t: T.nvfp4_quantize(t, 1 / 1536, sfLayout=layout, per_token_activation=True, nvfp4_4over6=recipe),
            lambda t: T.nvfp4_quantize(t, g.to(t.device), do_shuffle=True),
            lambda t: T.mxfp4_quantize(t, sfLayout=layout),
            lambda t: T.fp4_quantize(t, 1 / g.to(t.device), is_global_scale_inversed=True),
        ):
            for got, want in zip(call(x.cuda()), call(x), strict=True):
                assert same_bytes(got, want) == 0


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("format", ["nvfp4", "mxfp4"])
def test_dequantize_every_scale(format, dtype):
    vec = FORMATS[format].vec
    values = torch.arange(256, dtype=torch.uint8).repeat(256, 1)
    scales = torch.arange(256, dtype=torch.uint8).view(256, 1).repeat(1, 512 // vec)
    for layout in SfLayout:
        flat = torch.ops.tritonfp4.relayout(scales.view(-1), [1, 256, 512 // vec], 2, int(layout), 0, "auto")
        moved = torch.ops.tritonfp4.relayout(scales.view(-1).cuda(), [1, 256, 512 // vec], 2, int(layout), 0, "auto")
        assert same_bytes(moved, flat) == 0
        for zero_code in (False, True):
            context = (None, format, int(layout), 0, [256, 512], dtype, zero_code, "auto")
            got = torch.ops.tritonfp4.dequantize(values.cuda(), moved, *context).cpu()
            want = torch.ops.tritonfp4.dequantize(values, flat, *context)
            assert torch.equal(got.isnan(), want.isnan())
            assert same_bytes(got.nan_to_num(), want.nan_to_num()) == 0


def test_layout_functions():
    sf = torch.randint(0, 256, (3, 129, 6), dtype=torch.uint8)
    assert same_bytes(T.block_scale_interleave(sf.cuda()), T.block_scale_interleave(sf)) == 0
    assert same_bytes(T.block_scale_interleave(sf.bfloat16().cuda()), T.block_scale_interleave(sf.bfloat16())) == 0
    x = torch.randint(0, 256, (256, 40), dtype=torch.uint8)
    assert same_bytes(T.shuffle_matrix_a(x.cuda(), 128), T.shuffle_matrix_a(x, 128)) == 0
    assert same_bytes(T.shuffle_matrix_sf_a(x.cuda(), 64), T.shuffle_matrix_sf_a(x, 64)) == 0
    values, scales = T.mxfp4_quantize(torch.randn(40, 96))
    assert same_bytes(T.mxfp4_dequantize(values.cuda(), scales.cuda()), T.mxfp4_dequantize(values, scales)) == 0
