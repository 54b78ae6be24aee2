"""flashinfer's dense FP8 and MXFP8 GEMMs on CPU tensors: what their arguments mean."""

import dataclasses

import gemm_checks as C
import pytest
import torch
from gemm_checks import BF16, E4M3, E5M2, F16

import tritonfp4 as T
import tritonfp4.flashinfer as F

OUT_DTYPES = (BF16, F16)


@pytest.mark.parametrize("dtype", OUT_DTYPES, ids=str)
@pytest.mark.parametrize("name", C.EACH)
def test_every_function_meets_the_fp64_product(name, dtype):
    C.EACH[name]().check(dtype=dtype)


@pytest.mark.parametrize("name", C.EACH)
def test_every_function_is_flashinfer_s_too(name):
    function = C.EACH[name]().function
    assert getattr(F, function) is getattr(T, function) is getattr(F.gemm, function)


@pytest.mark.parametrize("name", C.EACH)
def test_without_an_out_the_result_has_the_dtype_asked_for_and_bf16_by_default(name):
    problem = C.EACH[name]()
    assert problem.run(dtype=F16).dtype == F16
    if problem.dtype_arg == "out_dtype":
        assert getattr(T, problem.function)(**problem.args).dtype == BF16
        assert torch.equal(getattr(T, problem.function)(**problem.args), problem.run(dtype=BF16))


@pytest.mark.parametrize("name", C.EACH)
def test_skip_check_gives_the_same_result(name):
    problem = C.EACH[name]()
    assert torch.equal(problem.run(skip_check=True), problem.run())


@pytest.mark.parametrize("name", C.EACH)
def test_every_function_says_that_it_is_supported_everywhere(name):
    function = getattr(T, C.EACH[name]().function)
    assert function.is_compute_capability_supported(80)
    assert function.is_backend_supported("auto")
    assert not function.is_backend_supported("nonsense")


ORIGINAL_BACKENDS = {
    "gemm_fp8_nt_groupwise": ["cutlass", "trtllm", "cutile"],
    "bmm_fp8": ["cudnn", "cublas", "cutlass", "cute-dsl", "auto"],
    "mm_mxfp8": ["cutlass", "cute-dsl", "cutedsl_low_latency", "cudnn", "b12x", "auto"],
    "bmm_mxfp8": ["cudnn", "cutlass", "auto"],
    "mm_bf16_fp4": ["cudnn", "cute-dsl", "cute-dsl-native", "blackwell-native", "blackwell-tiled"],
    "group_gemm_fp8_nt_groupwise": ["trtllm", "cutile"],
    "batch_deepgemm_fp8_nt_groupwise": ["deepgemm", "cake"],
}


@pytest.mark.parametrize(("function", "backend"), [(f, b) for f, names in ORIGINAL_BACKENDS.items() for b in names])
def test_every_backend_name_of_the_original_is_accepted(function, backend):
    problem = C.EACH[function]()
    assert torch.equal(problem.run(backend=backend), problem.run())


# ---- fp8_blockscale_gemm_sm90 ----


@pytest.mark.parametrize("m", [1, 2, 3, 4, 5, 31, 32, 33, 130])
@pytest.mark.parametrize("kind", ["bf16", "mixed", "fp8"])
def test_sm90_dtype_combinations_around_the_original_s_swap(kind, m):
    for dtype in OUT_DTYPES:
        C.sm90(m, 128, 256, kind).check(dtype=dtype)


@pytest.mark.parametrize("kind", ["mixed", "fp8"])
@pytest.mark.parametrize("n", [1, 64, 129, 200])
def test_sm90_weight_scales_of_each_row_and_of_each_tile(kind, n):
    """The original reads (N, K / 128) as if it were the first rows of (N / 128, K / 128)."""
    for tile in (1, 128):
        C.sm90(17, n, 384, kind, tile).check()
    if n > 1:
        by_row, by_tile = C.sm90(17, n, 384, kind, 1), C.sm90(17, n, 384, kind, 128)
        assert C.error(by_row.want, by_tile.want) > 0.1


def test_sm90_a_scale_of_each_row_is_the_scale_of_that_row():
    """By hand: ones everywhere, scale 2^n in row n."""
    weight, scale = torch.ones(4, 128).to(E4M3), torch.tensor([[1.0], [2.0], [4.0], [8.0]])
    x = torch.ones(1, 128).to(E4M3)
    out = T.fp8_blockscale_gemm_sm90(x, weight, torch.tensor([[0.5]]), scale)
    assert out.tolist() == [[64.0, 128.0, 256.0, 512.0]]


@pytest.mark.parametrize("m", [*range(1, 10), 31, 32, 33])
@pytest.mark.parametrize("form", ["documented", "strided", "MN", "padded"])
def test_sm90_forms_of_the_input_scale(form, m):
    """K / 128 = 3. (3, 3) means (M, K / 128), whatever its strides."""
    problem = C.sm90(m, 64, 384, form=form)
    problem.check(**({"input_scale_major": "MN"} if m == 3 and form in ("MN", "padded") else {}))


def test_sm90_an_input_scale_of_ambiguous_shape_is_the_documented_one_unless_the_keyword_says_otherwise():
    """M = K / 128 = 4. Strides say nothing, either: a slice of a padded K-major buffer has those of the MN form."""
    documented, mn = C.sm90(4, 64, 512), C.sm90(4, 64, 512, form="MN")
    assert documented.args["input_scale"].shape == mn.args["input_scale"].shape == (4, 4)
    documented.check()
    documented.check(input_scale_major="K")
    mn.check(input_scale_major="MN")
    assert C.error(mn.run(), mn.want) > 0.1
    assert C.error(documented.run(input_scale_major="MN"), documented.want) > 0.1
    slices = C.sm90(5, 64, 640)
    buffer = torch.zeros(5, 8)
    buffer[:, :5] = slices.args["input_scale"]
    slices.args["input_scale"] = buffer[:, :5]
    slices.check()


@pytest.mark.parametrize("form", ["documented", "strided", "padded"])
def test_sm90_input_scale_major_names_the_form(form):
    C.sm90(5, 64, 384, form=form).check(input_scale_major="MN" if form == "padded" else "K")


def test_sm90_mn_scales_of_any_strides_with_the_keyword():
    problem = C.sm90(5, 64, 384)
    problem.args["input_scale"] = problem.args["input_scale"].t()  # (3, 5) with unit first stride
    problem.check(input_scale_major="MN")
    with pytest.raises(T.ShapeError, match="input_scale shape mismatch"):
        problem.run()


def test_sm90_quantizes_as_the_public_casts():
    problem = C.sm90(17, 200, 384, "bf16")
    x, w = problem.args["input"], problem.args["weight"]
    xq, xs = T.per_token_cast_to_fp8(x)
    wq, ws = T.per_block_cast_to_fp8(w)
    assert torch.equal(T.fp8_blockscale_gemm_sm90(x, w), T.fp8_blockscale_gemm_sm90(xq, wq, xs, ws))
    assert torch.equal(T.fp8_blockscale_gemm_sm90(x, wq, None, ws), T.fp8_blockscale_gemm_sm90(xq, wq, xs, ws))


def test_sm90_weights_quantized_inside_use_the_true_maximum():
    """The original's maximum leaves most rows out, and saturates their outliers."""
    w = torch.full((128, 256), 0.01, dtype=BF16)
    w[100, 100] = 8.0
    x = torch.zeros(1, 256, dtype=BF16)
    x[0, 100] = 1.0
    out = T.fp8_blockscale_gemm_sm90(x, w)
    assert out[0, 100] == 8.0


def test_sm90_fp16_output_is_fp16():
    """The original stores bf16 bits there."""
    problem = C.sm90(17, 64, 256, "bf16")
    problem.check(dtype=F16)
    out = torch.empty(17, 64, dtype=F16)
    assert T.fp8_blockscale_gemm_sm90(**problem.args, out=out) is out
    assert C.error(out, problem.want) <= 1e-3


@pytest.mark.parametrize("kind", ["bf16", "mixed"])
def test_sm90_non_contiguous_inputs(kind):
    problem = C.sm90(17, 72, 256, kind)
    for name in ("input", "weight"):
        x = problem.args[name]
        wide = torch.zeros(x.shape[0], 2 * x.shape[1]).to(x.dtype)
        wide[:, ::2] = x
        for view in (wide[:, ::2], x.t().contiguous().t()):
            C.Problem(problem.function, problem.args | {name: view}, problem.want).check()


# ---- gemm_fp8_nt_groupwise, gemm_fp8_nt_blockscaled ----


@pytest.mark.parametrize("block_rows", [1, 128])
@pytest.mark.parametrize("major", ["K", "MN"])
def test_groupwise_majors_for_every_small_m(major, block_rows):
    """K-major scales gave silent errors in the original at some of these."""
    for m in range(1, 34):
        C.groupwise(m, 72, 256, major, block_rows).check()


@pytest.mark.parametrize("types", [(E4M3, E4M3), (E4M3, E5M2), (E5M2, E4M3), (E5M2, E5M2)], ids=str)
def test_groupwise_fp8_types(types):
    for dtype in OUT_DTYPES:
        C.groupwise(130, 200, 256, types=types).check(dtype=dtype)


@pytest.mark.parametrize("k", [16, 100, 128, 130, 272])
@pytest.mark.parametrize("major", ["K", "MN"])
def test_groupwise_any_k_has_ceil_of_k_over_128_scales(major, k):
    C.groupwise(5, 40, k, major).check()
    C.groupwise(130, 40, k, major, 128).check()


def test_groupwise_offsets_of_both_majors():
    """layouts.md: M = 5, K = 256, scale (r, j): K-major 2 r + j, MN-major 5 j + r. One column of ones meets one scale."""
    a, b = torch.zeros(5, 256).to(E4M3), torch.ones(8, 256).to(E4M3)
    a[:, 128] = torch.ones(5).to(E4M3)
    flat, ones = torch.arange(1.0, 11.0), torch.ones(2)
    k_major = T.gemm_fp8_nt_groupwise(a, b, flat.view(5, 2), ones.view(1, 2), "K")
    mn_major = T.gemm_fp8_nt_groupwise(a, b, flat.view(2, 5), ones.view(2, 1), "MN")
    assert k_major[:, 0].tolist() == [2, 4, 6, 8, 10] and mn_major[:, 0].tolist() == [6, 7, 8, 9, 10]


def test_groupwise_granularities():
    problem = C.groupwise(300, 72, 256, "MN", 128)
    T.gemm_fp8_nt_blockscaled(**problem.args)
    same = C.Problem("gemm_fp8_nt_groupwise", problem.args | {"scale_granularity_mnk": (128, 128, 128)}, problem.want)
    same.check()
    assert torch.equal(same.run(), problem.run())
    assert torch.equal(same.run(), T.gemm_fp8_nt_blockscaled(*list(problem.args.values())[:4]))  # "MN" by default


def test_groupwise_out_decides_the_dtype():
    problem = C.groupwise(5, 40, 128)
    out = torch.empty(5, 40, dtype=F16)
    assert T.gemm_fp8_nt_groupwise(**problem.args, out=out, out_dtype=BF16) is out


def test_groupwise_cutile_is_k_major_by_default():
    problem = C.groupwise(5, 40, 128)
    args = problem.args | {"scale_major_mode": None, "backend": "cutile"}
    assert torch.equal(T.gemm_fp8_nt_groupwise(**args), problem.run())


def test_groupwise_scales_of_a_wide_range():
    """Scales of the tokens spread over 2^40."""
    problem = C.groupwise(64, 256, 512, spread=20)
    assert problem.args["a_scale"].max() / problem.args["a_scale"].min() > 2**38
    C.check_rows(problem)
    C.check_rows(C.sm90(64, 256, 512, spread=20))


# ---- bmm_fp8, mm_mxfp8, bmm_mxfp8, mm_bf16_fp4 ----


@pytest.mark.parametrize("types", [(E4M3, E4M3), (E4M3, E5M2), (E5M2, E4M3)], ids=str)
def test_bmm_fp8(types):
    for shape in ((1, 1, 8, 16), (3, 48, 80, 64), (2, 130, 40, 100)):
        C.bmm_fp8(*shape, types).check()
        C.bmm_fp8(*shape, types).check(dtype=F16)


def test_bmm_fp8_row_major_b_means_the_same():
    problem = C.bmm_fp8(2, 17, 40, 64)
    args = problem.args | {"B": problem.args["B"].contiguous()}
    assert torch.equal(T.bmm_fp8(**args, dtype=BF16), problem.run())


def test_bmm_fp8_by_hand():
    a, b = torch.full((1, 2, 4), 3.0).to(E4M3), torch.full((1, 4, 8), 2.0).to(E5M2)
    out = T.bmm_fp8(a, b, torch.tensor(0.5), torch.tensor([0.25]), BF16)
    assert out.tolist() == [[[3.0] * 8] * 2]


@pytest.mark.parametrize("eight", [False, True])
def test_mm_mxfp8_layouts_of_a(eight):
    for m in (1, 9, 130):
        C.mm_mxfp8(m, 136, 288, eight).check()
        C.mm_mxfp8(m, 136, 288, eight).check(dtype=F16)


def test_mm_mxfp8_documentation_example():
    a, weight = (torch.randn(r, 128, generator=C.generator(r)).to(BF16) for r in (512, 256))
    a_mx, a_sf = T.mxfp8_quantize(input=a, is_sf_swizzled_layout=True)
    w_mx, w_sf = T.mxfp8_quantize(input=weight, is_sf_swizzled_layout=True)
    out = T.mm_mxfp8(a_mx, w_mx.t(), a_sf, w_sf, out_dtype=BF16)
    assert out.shape == (512, 256) and C.error(out, a.double() @ weight.double().T) < 0.06
    assert torch.equal(T.mm_mxfp8(a_mx, w_mx.t(), a_sf.view(torch.float8_e8m0fnu), w_sf), out)


def test_mm_mxfp8_trtllm_takes_shuffled_weights():
    a, w = (
        torch.randn(5, 256, generator=C.generator(1)).to(BF16),
        torch.randn(160, 256, generator=C.generator(2)).to(BF16),
    )
    (a_mx, a_sf), (w_mx, w_sf) = T.mxfp8_quantize(a), T.mxfp8_quantize(w)
    linear = T.mxfp8_quantize(w, is_sf_swizzled_layout=False)[1].view(160, 8)
    shuffled, scales = T.shuffle_matrix_a(w_mx, 128), T.shuffle_matrix_sf_a(linear, 128)
    want, out = T.mm_mxfp8(a_mx, w_mx.t(), a_sf, w_sf), torch.empty(5, 160, dtype=BF16)
    assert torch.equal(T.mm_mxfp8(a_mx, shuffled.t(), a_sf, scales, backend="trtllm"), want)
    assert T.mm_mxfp8(a_mx, shuffled.t(), a_sf, scales, out, backend="trtllm") is out
    assert torch.equal(out, want)


@pytest.mark.parametrize("types", [(E4M3, E4M3), (E5M2, E4M3)], ids=str)
def test_bmm_mxfp8_scales_are_padded_for_each_matrix(types):
    for shape in ((1, 5, 40, 64), (3, 100, 72, 96), (2, 128, 136, 160), (2, 130, 40, 32)):
        C.bmm_mxfp8(*shape, types).check()
        C.bmm_mxfp8(*shape, types).check(dtype=F16)


def test_bmm_mxfp8_of_both_layouts_of_the_quantizer():
    """Without per_batch the quantizer's scales are those of one matrix of b * m rows: the same bytes if 128 divides m."""
    for m, n in ((128, 256), (40, 72)):
        a, w = (
            torch.randn(2, m, 64, generator=C.generator(1)).to(BF16),
            torch.randn(2, n, 64, generator=C.generator(2)).to(BF16),
        )
        (a_mx, a_sf), (w_mx, w_sf) = (T.mxfp8_quantize(t, per_batch=True) for t in (a, w))
        out = T.bmm_mxfp8(a_mx, w_mx.transpose(1, 2), a_sf, w_sf, BF16)
        assert C.error(out, a.double() @ w.double().transpose(1, 2)) < 0.06
        assert torch.equal(T.bmm_mxfp8(a_mx, w_mx.transpose(1, 2), a_sf.view(2, -1), w_sf.view(2, -1), BF16), out)
        flat = T.mxfp8_quantize(a)[1]
        if m == 128:
            assert torch.equal(flat, a_sf)
        else:
            with pytest.raises(T.ShapeError, match=r"want 2 x 128 x 4.*per_batch=True"):
                T.bmm_mxfp8(a_mx, w_mx.transpose(1, 2), flat, w_sf, BF16)


def test_mm_mxfp8_every_e8m0_code():
    C.check_every_e8m0_code()


@pytest.mark.parametrize("dtype", OUT_DTYPES, ids=str)
def test_mm_bf16_fp4(dtype):
    for m, n, k in ((1, 8, 16), (17, 72, 96), (130, 136, 176)):
        C.mm_bf16_fp4(m, n, k, dtype).check(dtype=dtype)
    out = T.mm_bf16_fp4(**C.mm_bf16_fp4(5, 8, 32, dtype).args)
    assert out.dtype == dtype  # that of a


def test_mm_bf16_fp4_takes_the_quantizer_s_weights():
    x, w = torch.randn(5, 64, generator=C.generator(1)).to(BF16), torch.randn(40, 64, generator=C.generator(2)).to(BF16)
    g = T.make_nvfp4_global_scale(w, False)
    b, sf = T.nvfp4_quantize(w, g)
    want = x.double() @ T.e2m1_and_ufp8sf_scale_to_float(b, sf, 1 / g).double().T
    prepared = T.prepare_bf16_fp4_weights(b, sf, 1 / g, backend="cute-dsl")
    assert [t.data_ptr() for t in prepared[:2]] == [b.data_ptr(), sf.data_ptr()]
    for args in (prepared, (b.view(torch.float4_e2m1fn_x2), sf.view(-1).view(E4M3), 1 / g)):
        assert C.error(T.mm_bf16_fp4(x, *args, backend="cute-dsl"), want) < 3e-3
    assert torch.equal(T.mm_bf16_fp4(x, b, sf), T.mm_bf16_fp4(x, b, sf, torch.ones(1)))


# ---- what is accepted everywhere ----

OUTS = {
    "contiguous": lambda shape, dtype: torch.empty(shape, dtype=dtype),
    "odd rows": lambda shape, dtype: torch.empty((*shape[:-1], shape[-1] + 3), dtype=dtype)[..., 3:],
    "every third row": lambda shape, dtype: torch.empty((*shape[:-2], 3 * shape[-2], shape[-1]), dtype=dtype)[
        ..., ::3, :
    ],
    "rows of the matrices in turn": lambda shape, dtype: torch.empty(
        (shape[-2], *shape[:-2], shape[-1]), dtype=dtype
    ).movedim(0, -2),
}


@pytest.mark.parametrize("form", OUTS)
@pytest.mark.parametrize("name", C.EACH)
def test_out_of_any_row_stride_is_written_and_returned(name, form):
    problem = C.EACH[name]()
    out = OUTS[form](tuple(problem.want.shape), BF16)
    assert problem.run(out=out) is out
    assert torch.equal(out, problem.run())


@pytest.mark.parametrize("backend", ["auto", "torch"])
def test_no_rows(backend):
    empty = {
        "sm90": C.sm90(0, 64, 128), "sm90 bf16": C.sm90(0, 64, 128, "bf16"), "K": C.groupwise(0, 8, 128),
        "MN": C.groupwise(0, 8, 128, "MN", 128), "bmm": C.bmm_fp8(2, 0, 8, 16), "mx": C.mm_mxfp8(0, 128, 128),
        "bmm mx": C.bmm_mxfp8(2, 0, 8, 32), "fp4": C.mm_bf16_fp4(0, 8, 16),
    }  # fmt: skip
    for problem in empty.values():
        assert problem.run(backend=backend).shape == problem.want.shape


def test_no_columns_along_k():
    assert C.groupwise(3, 8, 0).run().tolist() == [[0.0] * 8] * 3
    assert C.bmm_fp8(1, 2, 8, 0).run().tolist() == [[[0.0] * 8] * 2]


def test_gradients_are_refused():
    x = torch.randn(4, 128, dtype=BF16, requires_grad=True)
    with pytest.raises(T.UnsupportedError, match="no gradient"):
        T.fp8_blockscale_gemm_sm90(x, torch.randn(64, 128).to(BF16)).sum().backward()


@pytest.mark.parametrize("name", ["fp8_blockscale_gemm_sm90", "mm_bf16_fp4", "grouped_matmul"])
def test_an_out_for_a_gradient_is_refused(name):
    """It would be lost without a word."""
    weight = T.quantize(torch.randn(24, 128))
    weights = dataclasses.replace(weight, values=weight.values[None], shape=(1, 24, 128), batched=True)
    call = {
        "fp8_blockscale_gemm_sm90": lambda x, out: T.fp8_blockscale_gemm_sm90(
            x, torch.randn(24, 128).to(BF16), out=out
        ),
        "mm_bf16_fp4": lambda x, out: T.mm_bf16_fp4(x, weight.values, weight.scales, out=out),
        "grouped_matmul": lambda x, out: T.grouped_matmul(x, weights, torch.tensor([0, 4], dtype=torch.int32), out=out),
    }[name]
    x, out = torch.randn(4, 128, dtype=BF16, requires_grad=True), torch.empty(4, 24, dtype=BF16)
    with pytest.raises(T.UnsupportedError, match=f"{name}: out= with an operand that requires a gradient"):
        call(x, out)
    with torch.no_grad():
        assert call(x, out) is out
