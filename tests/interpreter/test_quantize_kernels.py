"""Quantization kernels in the interpreter: byte for byte the reference, padding included."""

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from kernel_checks import DTYPES, FORMAT_RULES, ROWS, check_quantize, same_bytes, special, views, wide

import tritonfp4 as T
from tritonfp4 import SfLayout, reference
from tritonfp4.config import Config
from tritonfp4.formats import FORMATS
from tritonfp4.kernels.quantize import quantize as launcher


@pytest.mark.slow
@pytest.mark.parametrize("layout", SfLayout)
@pytest.mark.parametrize("format, rule", FORMAT_RULES)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_bytes_equal_the_reference(format, rule, layout, dtype):
    vec = FORMATS[format].vec
    for rows in ROWS:
        x = wide(rows, vec if rows % 2 else 6 * vec).to(dtype)
        check_quantize("cpu", x, format, rule, layout)


@pytest.mark.parametrize("layout", [SfLayout(0), *(pytest.param(SfLayout(i), marks=pytest.mark.slow) for i in (1, 2))])
@pytest.mark.parametrize("format, rule", [("nvfp4", "static_6"), ("nvfp4", "mse"), ("mxfp4", "static_6")])
def test_bytes_do_not_depend_on_the_tiling(format, rule, layout):
    x = wide(133, 160).bfloat16()
    fmt, source = FORMATS[format], "tensor" if format == "nvfp4" else "none"
    want = reference.quantize(x, None, None, fmt, rule, 256, source, layout, False)
    for rows, cols in ((16, 64), (64, 32), (128, 128), (256, 512)):
        config = Config("quantize", block_m=rows, block_k=cols)
        got = launcher(x, None, None, fmt, rule, 256, source, layout, False, config, Config("amax", 32, 64))
        assert [same_bytes(g, w) for g, w in zip(got, want, strict=True)] == [0, 0, 0]


@pytest.mark.parametrize("format, rule", FORMAT_RULES)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_special_values(format, rule, dtype):
    vec = FORMATS[format].vec
    for rows in (1, 5):
        x = special(rows, 3 * vec, vec).to(dtype)
        check_quantize("cpu", x, format, rule, SfLayout.layout_128x4)
        if format == "nvfp4":
            check_quantize("cpu", x, format, rule, SfLayout.layout_8x4, per_row=True)
            check_quantize("cpu", x.nan_to_num(posinf=1, neginf=-1), format, rule, SfLayout.layout_linear)


@pytest.mark.parametrize("rule", ["static_6", "mse"])
def test_given_global_scales(rule):
    x = wide(33, 96).bfloat16()
    rows = torch.rand(33) + 0.01
    for scale in (torch.tensor([0.37]), torch.tensor(3.0), rows):
        check_quantize("cpu", x, "nvfp4", rule, SfLayout.layout_128x4, global_scale=scale)
    for amax in (x.abs().max().float().reshape(1), rows * 100, torch.zeros(1), torch.tensor([float("inf")])):
        check_quantize("cpu", x, "nvfp4", rule, SfLayout.layout_8x4, amax=amax)
    for x in (torch.zeros(3, 32), torch.full((3, 32), float("nan"))):
        check_quantize("cpu", x, "nvfp4", rule, SfLayout.layout_linear)
        check_quantize("cpu", x, "nvfp4", rule, SfLayout.layout_linear, per_row=True)


@pytest.mark.parametrize("rule", ["static_6", "static_4", "mse", "mae", "abs_max"])
def test_negative_global_scales(rule):
    """Block scales have no sign: the elements take it."""
    for scale in (torch.tensor([-0.37]), torch.randn(33)):
        check_quantize("cpu", wide(33, 96).bfloat16(), "nvfp4", rule, SfLayout.layout_128x4, global_scale=scale)


def test_mxfp4_ignores_where_a_global_scale_comes_from():
    args = (wide(5, 64), torch.rand(5), None, FORMATS["mxfp4"], "static_6", 448)
    configs = Config("quantize", 16, 64), Config("amax", 16, 64)
    for source in ("row", "encode", "tensor"):
        want = reference.quantize(*args, source, SfLayout.layout_linear, False)
        got = launcher(*args, source, SfLayout.layout_linear, False, *configs)
        assert [same_bytes(g, w) for g, w in zip(got, want, strict=True)] == [0, 0, 0]


@pytest.mark.slow
@pytest.mark.parametrize("layout", SfLayout)
@pytest.mark.parametrize("format, rule", FORMAT_RULES)
def test_strides_never_change_meaning(format, rule, layout):
    for dtype in DTYPES:
        for _, x in views(17, 96, dtype):
            check_quantize("cpu", x, format, rule, layout)


@pytest.mark.parametrize("format", ["nvfp4", "mxfp4"])
def test_strided_input_equals_its_contiguous_copy(format):
    for name, x in views(17, 96, torch.bfloat16):
        got, want = T.quantize(x, format, backend="triton"), T.quantize(x.contiguous(), format, backend="triton")
        assert same_bytes(got.values, want.values) == same_bytes(got.scales, want.scales) == 0, name


@pytest.mark.parametrize("format", ["nvfp4", "mxfp4"])
@pytest.mark.parametrize("shape", [(1, 16), (3, 100), (128, 64), (129, 130)])
def test_padded_tuple_api(format, shape):
    x = wide(*shape).bfloat16()
    for option in ({}, {"transpose": True}, {"scale_rule": "always_4"}):
        got = T.quantize_to_fp4(x, fp4_format=format, backend="triton", **option)
        want = T.quantize_to_fp4(x, fp4_format=format, backend="pytorch", **option)
        for g, w in zip(got, want, strict=True):
            assert same_bytes(g.reshape(-1), w.reshape(-1)) == 0 and g.shape == w.shape


def test_every_bf16_value():
    """Every bf16 as the only non-zero element of a block, and all of them through a fixed scale."""
    x = torch.arange(65536, dtype=torch.int32).to(torch.uint16).view(torch.bfloat16).reshape(2048, 32)
    check_quantize("cpu", x, "nvfp4", "static_6", SfLayout.layout_linear, global_scale=torch.tensor([1.0]))
    check_quantize("cpu", x, "mxfp4", "static_6", SfLayout.layout_linear)
    alone = torch.zeros(4096, 16, 16, dtype=torch.bfloat16)
    alone[:, :, 0] = x.reshape(4096, 16)
    check_quantize(
        "cpu", alone.view(4096, 256), "nvfp4", "static_6", SfLayout.layout_linear, global_scale=torch.tensor([0.01])
    )


def test_per_token_scale_and_out_scale():
    x = wide(33, 96).bfloat16()
    x[5] = 0
    for option in ({}, {"out_scale": torch.tensor([1.7])}, {"nvfp4_4over6": T.NVFP44Over6Config(256, "MSE")}):
        c = 1 / (6 * (256 if "nvfp4_4over6" in option else 448))
        got = T.nvfp4_quantize(x, c, per_token_activation=True, backend="triton", **option)
        want = T.nvfp4_quantize(x, c, per_token_activation=True, backend="torch", **option)
        assert [same_bytes(g, w) for g, w in zip(got, want, strict=True)] == [0, 0, 0]
        assert got[2][5] == 0
    got, want = (T.nvfp4_quantize(x * 1e9, 1e38, per_token_activation=True, backend=b) for b in ("triton", "torch"))
    assert [same_bytes(g, w) for g, w in zip(got, want, strict=True)] == [0, 0, 0]
    assert (got[2] == 1).any()  # 1 / c / amax is 0 there


def test_global_scale():
    for x in (wide(17, 96), torch.zeros(3, 32), wide(1, 16).bfloat16(), torch.full((2, 16), float("inf"))):
        for rule, limit in (("static_6", 448), ("mse", 256)):
            op = torch.ops.tritonfp4.nvfp4_global_scale
            assert same_bytes(op(x, rule, limit, "triton"), op(x, rule, limit, "torch")) == 0


VALUES = st.one_of(
    st.floats(width=32),  # subnormals, infinities and NaN included
    st.sampled_from(
        [0.0, -0.0, 0.25, 0.75, 1.25, 1.75, 2.5, 3.5, 5.0, 6.0, 1e-40, -1e-45, 65504.0, 65520.0, 3e38, 448.0]
    ),
)


@settings(max_examples=40, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_any_shape_strides_and_values(data):
    """Random format, rule, layout, dtype, shape, strides and values, fp32 ones also beyond fp16's range."""
    format, rule = data.draw(st.sampled_from(FORMAT_RULES))
    vec = FORMATS[format].vec
    rows, blocks = data.draw(st.integers(1, 40)), data.draw(st.integers(1, 9))
    seeds = torch.tensor(data.draw(st.lists(VALUES, min_size=1, max_size=64)), dtype=torch.float32)
    storage = seeds.repeat(-(-rows * blocks * vec // seeds.numel()))[: rows * blocks * vec]
    x = storage.to(data.draw(st.sampled_from(DTYPES))).view(rows, blocks * vec)
    x = {"plain": x, "transposed": x.t().contiguous().t(), "expanded": x[:1].expand(rows, -1)}[
        data.draw(st.sampled_from(["plain", "transposed", "expanded"]))
    ]
    options = (
        data.draw(st.sampled_from([{}, {"per_row": True}, {"global_scale": torch.tensor([0.01])}]))
        if format == "nvfp4"
        else {}
    )
    check_quantize("cpu", x, format, rule, data.draw(st.sampled_from(list(SfLayout))), **options)
