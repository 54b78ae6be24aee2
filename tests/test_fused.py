"""Batched, masked and fused quantizers: the reference against independent formulas, and the public functions on the CPU."""

import math

import numpy as np
import pytest
import torch
from kernel_checks import DTYPES, same_bytes, wide

import tritonfp4 as T
from tritonfp4 import SfLayout
from tritonfp4.flashinfer.activation import silu_and_mul_scaled_nvfp4_experts_quantize
from tritonfp4.flashinfer.norm import add_rmsnorm_fp4quant, rmsnorm_fp4quant
from tritonfp4.layouts import LAYOUTS
from tritonfp4.reference.fused import exp, rms_reciprocal, silu_and_mul

U8, BF16, F16, F32 = torch.uint8, torch.bfloat16, torch.float16, torch.float32
E4M3, FP4 = torch.float8_e4m3fn, torch.float4_e2m1fn_x2
RECIPE = T.NVFP44Over6Config(256, "MSE")
#: The worked example of the format: one block whose scale is 224, with every tie.
BLOCK = [3, -1, 0.25, 0.125, -0.125, 0, 0.75, 1.25, -2.5, 0.5, 1, 2, -0.375, 0.625, 1.75, -0.0625]
BYTES = [0xC7, 0x01, 0x08, 0x43, 0x2E, 0x64, 0x2A, 0x86]


def randn(*shape, dtype=BF16, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def raw(t):
    return t.contiguous().view(U8)


def linear(flat, rows, cols, layout=SfLayout.layout_128x4):
    return LAYOUTS[layout].to_linear(raw(flat).reshape(-1), rows, cols)


# ---- nvfp4_batched_quantize ----


def test_batched_worked_example():
    x = torch.zeros(2, 3, 32)
    x[1, 2, 16:] = torch.tensor(BLOCK)
    values, scales = T.nvfp4_batched_quantize(x, torch.tensor([448.0]))
    assert values.shape == (2, 3, 16) and scales.shape == (2, 512) and values.dtype == scales.dtype == U8
    assert values[1, 2, 8:].tolist() == BYTES
    values[1, 2, 8:] = 0
    assert not values.any() and scales.nonzero().tolist() == [[1, 33]] and scales[1, 33] == 0x76  # 2 * 16 + 1


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("recipe", [None, RECIPE])
def test_batched_is_each_matrix_on_its_own(dtype, recipe):
    x = wide(3 * 130, 80).to(dtype).view(3, 130, 80)
    for g in (torch.tensor([3.0]), torch.tensor(3.0), torch.rand(130) + 0.1):
        values, scales = T.nvfp4_batched_quantize(x, g, 16, recipe)
        assert values.shape == (3, 130, 40) and scales.shape == (3, 256 * 8)
        for b in range(3):
            want, sf = T.nvfp4_quantize(x[b], g, nvfp4_4over6=recipe)
            assert torch.equal(values[b], want) and torch.equal(scales[b], sf.reshape(-1))


@pytest.mark.parametrize("shape", [(0, 3, 32), (2, 0, 32), (2, 3, 0)])
def test_empty_batches(shape):
    b, m, k = shape
    values, scales = T.nvfp4_batched_quantize(torch.zeros(shape), torch.ones(1))
    assert values.shape == (b, m, k // 2) and scales.shape == (b, -(-m // 128) * 128 * (-(-k // 64) * 4))
    values, scales = T.scaled_fp4_grouped_quantize(torch.zeros(shape), torch.zeros(b, dtype=torch.int32), torch.ones(1))
    assert values.shape == (m, k // 2, b) and scales.shape == (32, 4, -(-m // 128), 4, -(-k // 64), b)


# ---- scaled_fp4_grouped_quantize, silu_and_mul_scaled_nvfp4_experts_quantize ----


def masked_form(values, scales, b, m, k):
    """Row-major values and scales, read through the documented index of the 6-D view."""
    assert values.shape == (m, k // 2, b) and values.stride() == (k // 2, 1, m * k // 2) and values.dtype == U8
    rows, cols = -(-m // 128), -(-k // 64)
    assert scales.shape == (32, 4, rows, 4, cols, b) and scales.dtype == E4M3
    byte = scales.view(U8)
    r, c = torch.arange(rows * 128)[:, None], torch.arange(cols * 4)[None, :]
    return values.permute(2, 0, 1), byte[r % 32, r % 128 // 32, r // 128, c % 4, c // 4].permute(2, 0, 1)


@pytest.mark.parametrize("recipe", [None, RECIPE])
@pytest.mark.parametrize("activation", [False, True])
def test_masked_rows_and_the_6d_view(activation, recipe):
    b, m, k = 3, 130, 80
    x = randn(b, m, 2 * k if activation else k)
    counts = [130, 0, 7]
    g = torch.tensor([100.0, 7.0, 0.5])
    function = silu_and_mul_scaled_nvfp4_experts_quantize if activation else T.scaled_fp4_grouped_quantize
    clean = x.clone()
    for i, n in enumerate(counts):
        x[i, n:] = float("nan")
    values, scales = masked_form(*function(x, torch.tensor(counts, dtype=torch.int32), g, recipe), b, m, k)
    plain = silu_and_mul(clean) if activation else clean
    for i, n in enumerate(counts):
        want, sf = T.nvfp4_quantize(plain[i], g[i : i + 1], sfLayout=SfLayout.layout_linear, nvfp4_4over6=recipe)
        assert torch.equal(values[i, :n], want[:n]) and torch.equal(scales[i, :n, : k // 16], sf[:n])
        assert not values[i, n:].any() and not scales[i, n:].any() and not scales[i, :, k // 16 :].any()


def test_one_global_scale_serves_all_matrices():
    x, mask = randn(3, 4, 64), torch.full((3,), 4, dtype=torch.int32)
    one, each = (T.scaled_fp4_grouped_quantize(x, mask, torch.full((n,), 3.0)) for n in (1, 3))
    assert torch.equal(one[0], each[0]) and torch.equal(raw(one[1]), raw(each[1]))


# ---- SiLU ----


def test_exponential_is_accurate():
    t = torch.cat([torch.linspace(-87, 88.7, 400001), torch.linspace(-1, 1, 100001)])
    want = t.double().exp()
    assert ((exp(t).double() - want).abs() / want).max() < 2.5e-7  # 2 ulp
    ends = exp(torch.tensor([0.0, -0.0, 89.0, 1e30, math.inf, -150.0, -math.inf, math.nan]))
    assert ends[:5].tolist() == [1.0, 1.0, math.inf, math.inf, math.inf] and ends[5:7].max() < 1e-38 and ends[7].isnan()


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_silu_and_mul_is_accurate(dtype):
    x = randn(64, 512, dtype=dtype) * 4
    gate, up = x.double().chunk(2, 1)
    want = gate / (1 + (-gate).exp()) * up
    normal = want.abs().clamp(min=2**-14 if dtype == F16 else 1e-30)
    error = (silu_and_mul(x).double() - want).abs() / normal
    assert error.max() < {BF16: 2**-8, F16: 2**-11, F32: 6e-7}[dtype] * 1.001
    limits = torch.tensor([[100.0, -100.0, 0.0, -1e30, math.inf, 3.0, 3.0, 3.0, 3.0, 3.0]])
    assert (
        silu_and_mul(limits).tolist()[0][0::4] == [300.0, math.inf] and silu_and_mul(limits)[0, 1:4].abs().max() < 1e-30
    )


@pytest.mark.parametrize("dtype", [BF16, F16], ids=str)
def test_silu_end_to_end_differs_from_torch_s_in_one_byte_of_10000(dtype):
    x, g = randn(512, 2048, dtype=dtype), torch.tensor([2688 / 12.0])
    values, sf = T.silu_and_mul_nvfp4_quantize(x, g)
    gate, up = x.float().chunk(2, 1)
    want, want_sf = T.nvfp4_quantize((torch.nn.functional.silu(gate) * up).to(dtype), g)
    bad = same_bytes(values, want) + same_bytes(sf, want_sf)
    assert bad <= 1e-4 * (values.numel() + sf.numel())


@pytest.mark.parametrize("swizzled, narrow, layout", [(True, False, 0), (True, True, 1), (False, False, 2)])
@pytest.mark.parametrize("recipe", [None, RECIPE])
def test_silu_and_mul_nvfp4_quantize_is_silu_then_quantize(swizzled, narrow, layout, recipe):
    for shape in ((17, 160), (2, 3, 160), (0, 160)):
        x, g = randn(*shape), torch.tensor([200.0])
        got = T.silu_and_mul_nvfp4_quantize(x, g, 16, swizzled, narrow, None, recipe)
        flat = silu_and_mul(x).reshape(-1, 80)
        want = T.nvfp4_quantize(flat, g, sfLayout=layout, nvfp4_4over6=recipe)
        assert got[0].ndim == got[1].ndim == 2
        assert torch.equal(got[0], want[0]) and torch.equal(got[1], want[1])


def test_silu_takes_any_strides():
    x = randn(96, 17).t().unsqueeze(0)
    got, want = (T.silu_and_mul_nvfp4_quantize(t, torch.ones(1)) for t in (x, x.contiguous()))
    assert torch.equal(got[0], want[0]) and torch.equal(got[1], want[1])


# ---- RMSNorm ----


@pytest.mark.parametrize("cols", [64, 96, 4096, 4160, 12288])
def test_sum_of_squares_adds_in_the_documented_order(cols):
    """Tiles of 4096 columns in order, then neighbours: numpy's single precision, written another way."""
    x = randn(3, cols, dtype=F32).numpy() ** 3
    found = rms_reciprocal(torch.tensor(x), 1e-6)[:, 0].numpy()
    one = np.float32(1)

    def tree(v):
        return v[0] if len(v) == 1 else tree(v[: len(v) // 2]) + tree(v[len(v) // 2 :])

    for row, got in zip(x, found, strict=True):
        lanes = np.zeros(4096, np.float32)
        for start in range(0, cols, 4096):
            part = row[start : start + 4096]
            lanes[: len(part)] += part * part
        mean = tree(lanes) / np.float32(cols)
        assert got == one / np.sqrt(mean + np.float32(1e-6))
        assert got == pytest.approx(float((row.astype(np.float64) ** 2).mean() + 1e-6) ** -0.5, rel=1e-6)


def test_rmsnorm_worked_example():
    """Rows of 2 and -4 have the root mean squares 2 and 4; G = 2688 maps 1 to the scale 448 and the code of 6."""
    x = torch.tensor([[2.0], [-4.0]]).expand(2, 64).bfloat16()
    weight = torch.cat([torch.ones(48), torch.full((16,), 0.5)]).bfloat16()
    y, sf = rmsnorm_fp4quant(x, weight, global_scale=torch.tensor([2688.0]), eps=0.0)
    assert y.dtype == FP4 and y.shape == (2, 32) and sf.dtype == E4M3 and sf.shape == (2, 4)
    assert y.view(U8).tolist() == [[0x77] * 32, [0xFF] * 32]
    assert sf.float().tolist() == [[448.0, 448.0, 448.0, 224.0]] * 2


@pytest.mark.parametrize("block, scale_format", [(16, None), (32, None), (32, "e4m3"), (16, "ue8m0")])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_rmsnorm_formula_and_decoding(dtype, block, scale_format):
    """Against fp64: the decoded result is within the rounding of its block of RMSNorm."""
    x, weight, g = randn(5, 192, dtype=dtype), randn(192, dtype=dtype, seed=1).abs() + 0.5, torch.tensor([300.0])
    y, sf = rmsnorm_fp4quant(x, weight, None, None, g, 1e-3, block, scale_format)
    want = x.double() / (x.double().square().mean(1, keepdim=True) + 1e-3).sqrt() * weight.double()
    e4m3 = scale_format == "e4m3" or (scale_format is None and block == 16)
    assert sf.dtype == (E4M3 if e4m3 else U8) and sf.shape == (5, 192 // block)
    scale = sf.double() / 300 if e4m3 else torch.exp2(sf.double() - 127)
    grid = torch.tensor([0, 0.5, 1, 1.5, 2, 3, 4, 6, -0.0, -0.5, -1, -1.5, -2, -3, -4, -6], dtype=torch.float64)
    code = torch.stack([y.view(U8) & 15, y.view(U8) >> 4], -1).flatten(1).long()
    spread = scale.repeat_interleave(block, 1)
    slack = {F32: 1e-6, F16: 1e-3, BF16: 8e-3}[dtype]
    unit = want / spread
    step = torch.where(unit.abs() < 2, 0.25, torch.where(unit.abs() < 4, 0.5, 1.0)) + slack * 6 + 0.4 * (unit.abs() > 6)
    assert ((grid[code] - unit).abs() <= step).all()


def test_rmsnorm_quantizes_the_rounded_product_times_the_root():
    x, weight, g = randn(5, 128), randn(128, seed=1), torch.tensor([200.0])
    y, sf = rmsnorm_fp4quant(x, weight, global_scale=g, is_sf_swizzled_layout=True)
    inverse = rms_reciprocal(x.float(), 1e-6)
    values, scales = T.nvfp4_quantize((x * weight).float() * inverse, g)
    assert torch.equal(y.view(U8), values) and torch.equal(raw(sf), scales.reshape(-1)) and sf.shape == (1024,)


def test_ue8m0_ignores_the_global_scale():
    x, weight = randn(5, 128), randn(128, seed=1)
    one, two = (rmsnorm_fp4quant(x, weight, global_scale=g, block_size=32) for g in (None, torch.tensor([9.0])))
    assert torch.equal(one[0].view(U8), two[0].view(U8)) and torch.equal(one[1], two[1])
    values, scales = T.mxfp4_quantize((x * weight).float() * rms_reciprocal(x.float(), 1e-6), sfLayout=2)
    assert torch.equal(one[0].view(U8), values) and torch.equal(one[1], scales)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_add_rmsnorm(dtype):
    x, residual, weight = (
        randn(2, 3, 192, dtype=dtype),
        randn(2, 3, 192, dtype=dtype, seed=1),
        randn(192, dtype=dtype, seed=2),
    )
    before, y_out, g = residual.clone(), torch.empty_like(x), torch.tensor([200.0])
    y, sf, plain = add_rmsnorm_fp4quant(x, residual, weight, global_scale=g, output_both_sf_layouts=True, y_out=y_out)
    assert torch.equal(residual, x + before)
    inverse = rms_reciprocal((x.float() + before.float()).view(6, 192), 1e-6)
    want = residual.float().view(6, 192) * inverse * weight.float()
    values, scales = T.nvfp4_quantize(want, g)
    assert y.shape == (2, 3, 96) and torch.equal(y.view(U8).view(6, 96), values)
    assert sf.shape == (128 * 12,) and torch.equal(raw(sf), scales.reshape(-1))
    assert plain.shape == (2, 3, 12) and torch.equal(raw(plain).view(6, 12), linear(sf, 6, 12))
    assert torch.equal(y_out, want.to(dtype).view(2, 3, 192))
    assert not linear(sf, 128, 12)[6:].any()


@pytest.mark.parametrize("swizzled, both", [(False, False), (True, False), (True, True)])
@pytest.mark.parametrize("kinds", [(FP4, E4M3), (U8, U8)])
@pytest.mark.parametrize("flat", [False, True])
def test_given_outputs_are_written_and_returned(swizzled, both, kinds, flat):
    x, weight = randn(2, 3, 128), randn(128, seed=1)
    lead = (6,) if flat else (2, 3)
    y = torch.full((*lead, 64), 0xA5, dtype=U8).view(kinds[0])
    sf = torch.full((1024,) if swizzled or both else (*lead, 8), 0xA5, dtype=U8).view(kinds[1])
    plain = torch.full((*lead, 8), 0xA5, dtype=U8).view(kinds[1])
    zeros = torch.zeros_like(x)
    options = {"output_both_sf_layouts": both, "block_scale_unswizzled": plain, "is_sf_swizzled_layout": swizzled}
    got = add_rmsnorm_fp4quant(x, zeros, weight, y, sf, **options)
    want = add_rmsnorm_fp4quant(x, torch.zeros_like(x), weight, **options | {"block_scale_unswizzled": None})
    assert got[0] is y and got[1] is sf and len(got) == len(want) == 2 + both and (not both or got[2] is plain)
    for a, b in zip(got, want, strict=True):
        assert torch.equal(raw(a).reshape(-1), raw(b).reshape(-1))
    assert both or (raw(plain) == 0xA5).all()
    if not both:
        y, sf = raw(y).clone(), raw(sf).clone()
        outs = torch.zeros(*lead, 64, dtype=U8), torch.zeros_like(sf)
        assert rmsnorm_fp4quant(x, weight, *outs, is_sf_swizzled_layout=swizzled)[1] is outs[1]
        assert outs[0].any() and outs[1].any()


def test_a_residual_that_cannot_be_flattened_is_updated():
    residual = randn(3, 2, 64).transpose(0, 1)
    x, want = randn(2, 3, 64, seed=1), residual.clone()
    got = add_rmsnorm_fp4quant(x, residual, torch.ones(64).bfloat16())
    assert torch.equal(residual, want + x)
    assert torch.equal(raw(got[0]), raw(add_rmsnorm_fp4quant(x, want, torch.ones(64).bfloat16())[0]))


def test_rmsnorm_of_no_rows():
    y, sf = rmsnorm_fp4quant(torch.zeros(0, 64), torch.ones(64), is_sf_swizzled_layout=True)
    assert y.shape == (0, 32) and sf.shape == (0,)


# ---- KV cache ----


def test_kv_worked_example_and_the_direction_of_the_global_scale():
    """flashinfer's kernel divides by the global scale here: block scale = amax / 6 / global scale."""
    x = torch.tensor(BLOCK).repeat(2, 1)
    values, scales = T.nvfp4_kv_quantize(x, torch.tensor([1 / 448]))
    assert values.tolist() == [BYTES] * 2 and scales.tolist() == [[0x76]] * 2
    assert T.nvfp4_kv_quantize(2 * x, torch.tensor([0.25]))[1].view(E4M3).float().tolist() == [[4.0]] * 2
    out = T.nvfp4_kv_dequantize(values, scales, torch.tensor([1 / 448]))
    assert out.dtype == BF16
    codes = [6, -2, 0.5, 0, -0.0, 0, 1.5, 2, -4, 1, 2, 4, -1, 1, 4, -0.0]
    assert out.tolist() == [[c / 2 for c in codes]] * 2


@pytest.mark.parametrize("dtype", [BF16, F16], ids=str)
def test_kv_functions_are_those_of_fp4(dtype):
    x, g = wide(9, 80).to(dtype), torch.tensor([0.03])
    values, scales = T.nvfp4_kv_quantize(x, g)
    want = T.fp4_quantize(x, g, is_sf_swizzled_layout=False, is_global_scale_inversed=True)
    assert torch.equal(values, want[0]) and torch.equal(scales, want[1])
    out = T.nvfp4_kv_dequantize(values.view(FP4), scales.view(E4M3), g, dtype)
    plain = T.e2m1_and_ufp8sf_scale_to_float(values, scales, g, is_sf_swizzled_layout=False)
    assert out.dtype == dtype and torch.equal(out, plain.to(dtype))


def test_kv_functions_say_that_they_are_supported_everywhere():
    for function in (T.nvfp4_kv_quantize, T.nvfp4_kv_dequantize):
        assert function.is_compute_capability_supported(80)
    assert T.nvfp4_kv_quantize(randn(2, 16), torch.ones(1), skip_check=True)[0].shape == (2, 8)
