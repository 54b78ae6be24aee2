"""The operators pass torch's own checks, and every public function compiles without a graph break to the same bits."""

import pytest
import samples_fp8
import samples_fused
import samples_grouped
import samples_options
import torch

import tritonfp4
from tritonfp4.layouts import SfLayout

OPS = torch.ops.tritonfp4
LINEAR, L128, L8 = int(SfLayout.layout_linear), int(SfLayout.layout_128x4), int(SfLayout.layout_8x4)
U8, F32, BF16, F16 = torch.uint8, torch.float32, torch.bfloat16, torch.float16


def x(*shape, dtype=BF16, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def ones(*shape):
    return torch.ones(shape, dtype=F32)


def operand(t):
    """The flat arguments of one operand of the matmul operators."""
    if isinstance(t, torch.Tensor):
        return t, None, None, "", 2, 0, t.shape[1]
    return t.values, t.scales, t.global_scale, t.format.name, int(t.layout), t.row_shuffle, t.cols


def pair(format="nvfp4", layout=L128, **options):
    return (
        tritonfp4.quantize(x(6, 96), format, layout=layout, **options),
        tritonfp4.quantize(x(10, 96, seed=1), format),
    )


def dequantize_args(t, dtype, zero_code=False):
    parts = t.values, t.scales, t.global_scale, t.format.name, int(t.layout), t.row_shuffle
    return (*parts, list(t.shape), dtype, zero_code, "auto")


SCALES = torch.arange(2 * 5 * 6, dtype=U8)

SAMPLES = {
    "quantize nvfp4 bf16": (
        OPS.quantize, (x(6, 96), None, None, "nvfp4", "static_6", 448, "tensor", L128, False, "auto")),
    "quantize nvfp4 fp16 given G": (
        OPS.quantize, (x(6, 96, dtype=F16), ones(1), None, "nvfp4", "static_4", 448, "encode", LINEAR, False, "auto")),
    "quantize nvfp4 fp32 padded mse": (
        OPS.quantize, (x(6, 40, dtype=F32), None, None, "nvfp4", "mse", 256, "tensor", L128, True, "auto")),
    "quantize nvfp4 per row": (
        OPS.quantize, (x(6, 96), ones(1), ones(1), "nvfp4", "mae", 256, "row", L8, False, "auto")),
    "quantize nvfp4 G of each row": (
        OPS.quantize, (x(6, 96), ones(6), None, "nvfp4", "abs_max", 256, "decode", L8, False, "auto")),
    "quantize mxfp4 3-D": (
        OPS.quantize, (x(2, 3, 96), None, None, "mxfp4", "static_6", 448, "none", L128, False, "auto")),
    "quantize mxfp4 fp32 even": (
        OPS.quantize, (x(6, 96, dtype=F32).t()[:64], None, None, "mxfp4", "even", 448, "none", LINEAR, True, "torch")),
    "global scale bf16": (OPS.nvfp4_global_scale, (x(6, 96), "static_6", 448, "auto")),
    "global scale fp32 3-D": (OPS.nvfp4_global_scale, (x(2, 3, 96, dtype=F32), "mse", 256, "auto")),
    "dequantize nvfp4 fp32": (OPS.dequantize, dequantize_args(pair()[0], F32)),
    "dequantize nvfp4 per row bf16": (OPS.dequantize, dequantize_args(pair(per_row=True)[0], BF16)),
    "dequantize mxfp4 fp16 8x4": (OPS.dequantize, dequantize_args(pair("mxfp4", L8)[0], F16, True)),
    "dequantize 3-D linear": (OPS.dequantize, dequantize_args(tritonfp4.quantize(x(2, 3, 64), layout=LINEAR), F32)),
    "relayout to 128x4": (OPS.relayout, (SCALES, [2, 5, 6], LINEAR, L128, 0, "auto")),
    "relayout to 8x4 bf16": (OPS.relayout, (SCALES.to(BF16), [2, 5, 6], LINEAR, L8, 0, "auto")),
    "relayout shuffled": (OPS.relayout, (torch.arange(160, dtype=U8), [1, 32, 5], LINEAR, L128, 32, "auto")),
    "relayout same layout": (OPS.relayout, (SCALES, [2, 5, 6], LINEAR, LINEAR, 0, "auto")),
    "relayout_out": (OPS.relayout_out, (SCALES, [2, 5, 6], LINEAR, L8, 0, "auto", torch.empty(128, dtype=U8))),
    "relayout_out bf16": (
        OPS.relayout_out, (SCALES.to(BF16), [2, 5, 6], LINEAR, L8, 0, "auto", torch.empty(128, dtype=BF16))),
    "shuffle_rows uint8": (OPS.shuffle_rows, (torch.arange(320, dtype=U8).reshape(32, 10), 32, "auto")),
    "shuffle_rows bf16 3-D": (OPS.shuffle_rows, (x(32, 2, 5), 16, "auto")),
    "matmul nvfp4 bf16": (OPS.matmul, (*operand(pair()[0]), *operand(pair()[1]), BF16, "auto")),
    "matmul nvfp4 per row fp32": (OPS.matmul, (*operand(pair(per_row=True)[0]), *operand(pair()[1]), F32, "auto")),
    "matmul mxfp4 fp16": (OPS.matmul, (*operand(pair("mxfp4")[0]), *operand(pair("mxfp4")[1]), F16, "auto")),
    "matmul bf16 by nvfp4": (OPS.matmul, (*operand(x(6, 96)), *operand(pair()[1]), BF16, "torch")),
    "matmul_out nvfp4": (
        OPS.matmul_out, (*operand(pair()[0]), *operand(pair()[1]), "auto", torch.empty(6, 10, dtype=BF16))),
    "matmul_out mxfp4, wider rows": (
        OPS.matmul_out, (*operand(pair("mxfp4")[0]), *operand(pair("mxfp4")[1]), "auto", torch.empty(6, 16)[:, :10])),
    "matmul_out by a bf16 weight": (
        OPS.matmul_out, (*operand(pair()[0]), *operand(x(10, 96)), "auto", torch.empty(6, 10, dtype=F16))),
}  # fmt: skip


ELSEWHERE = (samples_options, samples_fp8, samples_fused, samples_grouped)
for module in ELSEWHERE:
    SAMPLES |= module.SAMPLES


@pytest.mark.parametrize("name", SAMPLES)
def test_opcheck(name):
    """Schema, autograd registration, fake tensors and dynamic-shape tracing."""
    op, args = SAMPLES[name]
    torch.library.opcheck(op.default, args)


def test_every_operator_has_a_sample():
    names = {schema.name.removeprefix("tritonfp4::") for schema in torch._C._jit_get_all_schemas()
             if schema.name.startswith("tritonfp4::")}  # fmt: skip
    assert names == {op._qualified_op_name.removeprefix("tritonfp4::") for op, _ in SAMPLES.values()}


# ---- torch.compile ----

NV, MX = pair(), pair("mxfp4")


def through_tensors(f, *args):
    """Leaves of a result as plain tensors."""
    return torch.utils._pytree.tree_leaves(f(*args))


def with_out(a, b):
    out = torch.zeros(6, 10, dtype=BF16)
    tritonfp4.mm_fp4(a.values, b.values.T, a.scales, b.scales, out=out)
    return out


def interleave_out(sf):
    out = torch.full((512,), 7, dtype=U8)
    tritonfp4.block_scale_interleave(sf, out=out)
    return out


RECIPE = tritonfp4.NVFP44Over6Config(256, "MSE")
COMPILED = {
    "fp4_quantize": (lambda a, g: tritonfp4.fp4_quantize(a, g), (x(6, 96), ones(1) * 300)),
    "fp4_quantize, four over six": (
        lambda a, g: tritonfp4.fp4_quantize(a, g, is_sf_8x4_layout=True, nvfp4_4over6=RECIPE),
        (x(6, 96), ones(1) * 300)),
    "nvfp4_quantize": (lambda a, g: tritonfp4.nvfp4_quantize(a, g, SfLayout.layout_linear), (x(6, 96), ones(1) * 300)),
    "nvfp4_quantize, shuffled": (
        lambda a, g: tritonfp4.nvfp4_quantize(a, g, do_shuffle=True), (x(32, 96), ones(1) * 300)),
    "nvfp4_quantize, per token": (
        lambda a: tritonfp4.nvfp4_quantize(a, 1 / 2688, per_token_activation=True, nvfp4_4over6=None), (x(6, 96),)),
    "mxfp4_quantize": (lambda a: tritonfp4.mxfp4_quantize(a), (x(6, 96),)),
    "make_nvfp4_global_scale": (lambda a: tritonfp4.make_nvfp4_global_scale(a, False), (x(6, 96),)),
    "make_nvfp4_global_scale, per token": (lambda a: tritonfp4.make_nvfp4_global_scale(a, True), (x(6, 96),)),
    "block_scale_interleave": (tritonfp4.block_scale_interleave, (SCALES.reshape(2, 5, 6),)),
    "block_scale_interleave, out": (interleave_out, (SCALES.reshape(10, 6)[:, :4],)),
    "shuffle_matrix_a": (lambda a: tritonfp4.shuffle_matrix_a(a, 128), (x(64, 6),)),
    "shuffle_matrix_sf_a": (
        lambda a: tritonfp4.shuffle_matrix_sf_a(a, 128), (torch.arange(192, dtype=U8).reshape(32, 6),)),
    "e2m1_and_ufp8sf_scale_to_float": (
        lambda v, s, g: tritonfp4.e2m1_and_ufp8sf_scale_to_float(v, s, g), (NV[0].values, NV[0].scales, ones(1) / 300)),
    "mxfp4_dequantize": (lambda v, s: tritonfp4.mxfp4_dequantize(v, s), (MX[0].values, MX[0].scales)),
    "mm_fp4": (
        lambda a, b, p, q, g: tritonfp4.mm_fp4(a, b.T, p, q.view(128, 8).T, g),
        (NV[0].values, NV[1].values, NV[0].scales, NV[1].scales, ones(1) / 9)),
    "mm_fp4, out": (with_out, NV),
    "quantize_to_fp4": (lambda a: [t.view(U8) if t.ndim else t for t in tritonfp4.quantize_to_fp4(a)], (x(6, 40),)),
    "fp4_matmul": (lambda a, b: tritonfp4.fp4_matmul(a, b, out_shape=(5, 9)), (x(6, 40), x(10, 40))),
    "fp4_matmul, mxfp4": (
        lambda a, b: tritonfp4.fp4_matmul(a, b, fp4_format="mxfp4", a_quantize_kwargs={"scale_rule": "always_4"}),
        (x(6, 40), x(10, 40))),
    "quantize": (lambda a: tritonfp4.quantize(a, rule="abs_max"), (x(6, 96),)),
    "quantize to another layout": (
        lambda a: tritonfp4.quantize(a, "mxfp4").to_layout(SfLayout.layout_linear), (x(6, 96),)),
    "dequantize": (lambda t: tritonfp4.dequantize(t, BF16), NV[:1]),
    "matmul": (lambda a, b: tritonfp4.matmul(a, b), NV),
    "matmul with a plain operand": (lambda a, b: tritonfp4.matmul(a, b, out_dtype=F32), (x(2, 3, 96), MX[1])),
}  # fmt: skip


for module in ELSEWHERE:
    COMPILED |= module.COMPILED


@pytest.fixture(autouse=True)
def fresh_compiler():
    torch._dynamo.reset()


def test_every_public_function_is_compiled():
    covered = {name.split(",")[0].split(" ")[0] for name in COMPILED}
    public = {name for name in tritonfp4.__all__ if type(getattr(tritonfp4, name)).__name__ == "function"}
    assert covered == public - {"nvfp4_block_scale_interleave"}


def compiled_equals_eager(function, args, **options):
    compiled = torch.compile(function, fullgraph=True, **options)
    want, got = through_tensors(function, *args), through_tensors(compiled, *args)
    assert len(want) == len(got)
    for a, b in zip(want, got, strict=True):
        if not isinstance(a, torch.Tensor):
            assert a is b is None
            continue
        assert (a.dtype, a.shape) == (b.dtype, b.shape)
        assert torch.equal(a, b)


@pytest.mark.parametrize("name", COMPILED)
def test_compiled_without_a_graph_break_to_the_same_bits(name):
    compiled_equals_eager(*COMPILED[name], backend="aot_eager")


@pytest.mark.parametrize("name", ["mm_fp4", "quantize"])
def test_compiled_by_inductor_to_the_same_bits(name):
    compiled_equals_eager(*COMPILED[name], backend="inductor")


@pytest.mark.parametrize("function", ["quantize", "fp4_matmul"])
def test_compiled_with_dynamic_shapes_to_the_same_bits_without_recompiling(function):
    """One graph for every number of rows."""
    weight = x(10, 96)
    run = {
        "quantize": lambda a: tritonfp4.quantize(a).dequantize(),
        "fp4_matmul": lambda a: tritonfp4.fp4_matmul(a, weight),
    }[function]
    graphs = torch._dynamo.testing.CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(run, fullgraph=True, dynamic=True, backend=graphs)
    for rows in (6, 7, 130, 300):
        assert torch.equal(compiled(x(rows, 96, seed=rows)), run(x(rows, 96, seed=rows)))
    assert graphs.frame_count == 1


def test_a_block_scaled_tensor_passes_through_compiled_code():
    """As an argument and as a result: it is a pytree."""
    a = NV[0]
    result = torch.compile(lambda t: t.to_layout(SfLayout.layout_8x4), fullgraph=True, backend="aot_eager")(a)
    want = a.to_layout(SfLayout.layout_8x4)
    assert isinstance(result, tritonfp4.BlockScaledTensor)
    assert (result.layout, result.shape, result.format) == (want.layout, want.shape, want.format)
    assert torch.equal(result.scales, want.scales) and torch.equal(result.values, want.values)
