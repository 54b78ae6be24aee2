"""What the pages of the seed functions promise, parameter by parameter, where no other test says it by name."""

import itertools

import pytest
import torch
from kernel_checks import error, exact_product, operand, threshold

import tritonfp4 as T
from tritonfp4 import SfLayout

BF16, F16, U8 = torch.bfloat16, torch.float16, torch.uint8
L128 = SfLayout.layout_128x4


def pair(m=5, n=40, k=96, format="nvfp4"):
    """Operands with NaN in every padding scale, as mm_fp4 takes them, and the product without alpha."""
    a, b = operand(m, k, format, L128, 1), operand(n, k, format, L128, 2)
    cols = -(-k // a.format.vec // 4) * 4
    args = {
        "a": a.values,
        "b": b.values.T,
        "a_descale": a.scales.view(-1, cols),
        "b_descale": b.scales.view(-1, cols).T,
    }
    alpha = a.global_scale * b.global_scale if format == "nvfp4" else None
    return args | {"alpha": alpha}, exact_product(a, b)


# ---- mm_fp4 ----


def test_mm_fp4_takes_uint8_and_float4_operands():
    args, want = pair()
    out = T.mm_fp4(**args)
    assert error(out, want) <= threshold(out)
    packed = {name: args[name].view(torch.float4_e2m1fn_x2) for name in ("a", "b")}
    assert torch.equal(T.mm_fp4(**args | packed), out)


def test_mm_fp4_takes_scale_bytes_of_every_dtype_and_shape():
    args, _ = pair()
    want = T.mm_fp4(**args)
    for name in ("a_descale", "b_descale"):
        sf = args[name]
        stored = sf if sf.is_contiguous() else sf.T
        for other in (stored, stored.reshape(-1), stored.T, stored.view(torch.float8_e4m3fn), stored.T.contiguous()):
            assert torch.equal(T.mm_fp4(**args | {name: other}), want)


def test_mm_fp4_alpha_is_one_scalar_one_for_each_row_or_absent():
    args, want = pair()
    rows = torch.rand(5) + 0.5
    for alpha, scale in ((args["alpha"], 1.0), (args["alpha"].reshape(()), 1.0), (args["alpha"] * rows, rows[:, None])):
        out = T.mm_fp4(**args | {"alpha": alpha})
        assert error(out, want * scale) <= threshold(out)
    out = T.mm_fp4(**args | {"alpha": None})
    assert error(out, want / args["alpha"].double()) <= threshold(out)


@pytest.mark.parametrize("dtype", [BF16, F16])
def test_mm_fp4_output_dtypes(dtype):
    args, want = pair(m=33)
    out = T.mm_fp4(**args, out_dtype=dtype)
    assert out.dtype == dtype and error(out, want) <= threshold(out)
    assert T.mm_fp4(*args.values(), dtype).dtype == dtype  # sixth positional argument


@pytest.mark.parametrize(("format", "block"), [("nvfp4", 16), ("mxfp4", 32)])
def test_mm_fp4_block_size_and_use_nvfp4_name_the_format(format, block):
    args, want = pair(format=format)
    out = T.mm_fp4(**args, block_size=block, use_nvfp4=format == "nvfp4")
    assert error(out, want) <= threshold(out)
    if format == "mxfp4":  # scales as e8m0 are accepted, unlike in the original
        views = {name: args[name].view(torch.float8_e8m0fnu) for name in ("a_descale", "b_descale")}
        assert torch.equal(T.mm_fp4(**args | views, block_size=32, use_nvfp4=False), out)


@pytest.mark.parametrize(("m", "n", "k"), [(1, 1, 96), (3, 130, 192), (129, 17, 16), (48, 256, 128)])
def test_mm_fp4_of_any_m_and_n_and_ragged_k(m, n, k):
    args, want = pair(m, n, k)
    out = T.mm_fp4(**args)
    assert error(out, want) <= threshold(out)


def test_mm_fp4_of_no_rows():
    args, _ = pair()
    empty = {"a": args["a"][:0], "a_descale": args["a_descale"][:0]}
    assert T.mm_fp4(**args | empty).shape == (0, 40)


def test_mm_fp4_ignores_enable_pdl():
    args, _ = pair()
    assert torch.equal(T.mm_fp4(**args, enable_pdl=False), T.mm_fp4(**args, enable_pdl=True))


# ---- fp4_quantize ----

X = torch.randn(6, 96, generator=torch.Generator().manual_seed(0))
G = 2688 / X.abs().max().reshape(1)


@pytest.mark.parametrize("dtype", [BF16, F16, torch.float32, torch.float8_e4m3fn], ids=str)
def test_fp4_quantize_input_dtypes(dtype):
    values, sf = T.fp4_quantize(X.to(dtype), G)
    assert (values.dtype, values.shape, sf.dtype, sf.shape) == (U8, (6, 48), U8, (128, 8))


def test_fp4_quantize_flattens_leading_dimensions():
    flat, sf = T.fp4_quantize(X, G)
    values, sf3 = T.fp4_quantize(X.view(2, 3, 96), G)
    assert values.shape == (2, 3, 48) and torch.equal(values.view(6, 48), flat) and torch.equal(sf3, sf)


def test_fp4_quantize_layouts_and_their_2d_shapes():
    shapes = {}
    for swizzled, narrow in ((True, False), (True, True), (False, False)):
        shapes[swizzled, narrow] = tuple(
            T.fp4_quantize(X, G, is_sf_swizzled_layout=swizzled, is_sf_8x4_layout=narrow)[1].shape
        )
    assert shapes == {(True, False): (128, 8), (True, True): (8, 8), (False, False): (6, 6)}


def test_fp4_quantize_sf_vec_size_and_ue8m0_name_the_format():
    values, sf = T.fp4_quantize(X, None, 32, True)
    want, want_sf = T.mxfp4_quantize(X)
    assert torch.equal(values, want) and torch.equal(sf, want_sf) and sf.shape == (128, 4)
    assert torch.equal(T.fp4_quantize(X, G * 7, 32, True)[1], sf)  # the global scale is ignored


def test_fp4_quantize_global_scale_of_one_element_or_one_for_each_row():
    one, each = T.fp4_quantize(X, G), T.fp4_quantize(X, G.expand(6).contiguous())
    assert torch.equal(one[0], each[0]) and torch.equal(one[1], each[1])
    with pytest.raises(T.ArgumentError, match="globalScale is required when sfUseUE8M0 is false"):
        T.fp4_quantize(X)


def test_fp4_quantize_ignores_backend_and_enable_pdl():
    want = T.fp4_quantize(X, G)
    for backend, pdl in itertools.product(("cuda", "cute-dsl", "cake", "auto", "torch"), (None, True, False)):
        got = T.fp4_quantize(X, G, backend=backend, enable_pdl=pdl)
        assert torch.equal(got[0], want[0]) and torch.equal(got[1], want[1])


def test_fp4_quantize_nvfp4_4over6_takes_a_recipe():
    recipe = T.NVFP44Over6Config(256, "MSE")
    values, sf = T.fp4_quantize(X, 1536 / X.abs().max().reshape(1), nvfp4_4over6=recipe)
    want = T.quantize(X, rule="mse", global_scale=X.abs().max().reshape(1) / 1536)
    assert (sf.view(-1) != want.scales).float().mean() < 0.01 and (values != want.values).float().mean() < 0.01
    assert not torch.equal(values, T.fp4_quantize(X, G)[0])


def test_fp4_quantize_strides_never_change_meaning():
    """The original quantizes a column-major input along its other axis."""
    want = T.fp4_quantize(X, G)
    got = T.fp4_quantize(X.t().contiguous().t(), G)
    assert torch.equal(got[0], want[0]) and torch.equal(got[1], want[1])


def test_fp4_quantize_of_a_zero_tensor_is_zero_bytes():
    for g in (G, torch.tensor([3.4e38]), torch.tensor([float("inf")])):
        values, sf = T.fp4_quantize(torch.zeros(6, 96), g)
        assert values.count_nonzero() == sf.count_nonzero() == 0


# ---- fouroversix ----


def test_quantize_to_fp4_normconst_is_a_0d_decode_multiplier():
    for rule, d in (("always_6", 2688), ("always_4", 1792), ("mse", 1536), ("l1_norm", 1536), ("abs_max", 1536)):
        normconst = T.quantize_to_fp4(X, scale_rule=rule)[2]
        assert normconst.shape == () and normconst.dtype == torch.float32
        assert abs(normconst.item() * d / X.abs().max().item() - 1) < 1e-6


def test_fp4_matmul_normconst_of_one_element_or_one_for_each_row():
    a, b = T.quantize_to_fp4(X), T.quantize_to_fp4(X * 2)
    names = ("e2m1", "sf", "normconst")
    packed = {f"{side}_{name}": t for side, q in (("a", a), ("b", b)) for name, t in zip(names, q, strict=True)}
    want = T.fp4_matmul(**packed)
    assert want.shape == (128, 128)
    for normconst in (a[2].reshape(1), a[2].expand(128).contiguous()):
        assert torch.equal(T.fp4_matmul(**packed | {"a_normconst": normconst}), want)
    without = T.fp4_matmul(**packed | {"a_normconst": None}, out_dtype="float32")
    assert torch.allclose(without[:6, :6] * a[2], want[:6, :6].float(), rtol=1e-2)


def test_fp4_matmul_forwards_the_format_to_the_quantizer():
    """The seed quantized to NVFP4 whatever fp4_format said."""
    out = T.fp4_matmul(X, X, fp4_format="mxfp4")
    q = T.quantize(torch.nn.functional.pad(X, (0, 32)), "mxfp4")
    want = exact_product(q, q)
    assert error(out, want) <= threshold(out)


def test_fp4_matmul_kwargs_reach_each_operand():
    plain = T.fp4_matmul(X, X)
    other = T.fp4_matmul(X, X, a_quantize_kwargs={"scale_rule": "always_4"})
    swapped = T.fp4_matmul(X, X, b_quantize_kwargs={"scale_rule": "always_4"})
    assert not torch.equal(plain, other) and torch.equal(other, swapped.T)
