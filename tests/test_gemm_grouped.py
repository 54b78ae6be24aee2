"""flashinfer's grouped GEMMs on CPU tensors: ragged groups, NaN in every row and scale of no group."""

import gemm_checks as C
import pytest
import torch
import torch._dynamo.testing
from gemm_checks import BF16, E4M3, E5M2, F16

import tritonfp4 as T

OUT_DTYPES = (BF16, F16)
TYPES = [(E4M3, E4M3), (E4M3, E5M2), (E5M2, E4M3), (E5M2, E5M2)]


# ---- group_gemm_fp8_nt_groupwise ----


@pytest.mark.parametrize("dtype", OUT_DTYPES, ids=str)
@pytest.mark.parametrize("block_rows", [1, 128])
@pytest.mark.parametrize("major", ["K", "MN"])
def test_ragged_groups_in_both_majors_and_granularities(major, block_rows, dtype):
    """K = 272: ceil(K / 128) = 3 scales along K. With 128 rows a scale, rows count from the start of a."""
    for n in (72, 264):
        C.group_fp8(n=n, major=major, block_rows=block_rows).check(dtype=dtype)


@pytest.mark.parametrize("types", TYPES, ids=str)
def test_fp8_types_of_either_operand(types):
    C.group_fp8(types=types).check(dtype=F16)


@pytest.mark.parametrize("k", [16, 32, 112, 128, 144, 384])
def test_k_is_a_multiple_of_16(k):
    C.group_fp8(k=k).check()


@pytest.mark.parametrize("count", [1, 2, 3, 17, 128, 300])
def test_1_to_300_groups(count):
    C.group_fp8(tuple((7 * g) % 5 for g in range(count)), 16, 144, seed=count).check()


@pytest.mark.parametrize("sizes", [(0,), (0, 0, 0), (0, 5, 0), (1,) * 20, (300,), (3, 130, 0, 0, 1)])
def test_sizes_of_groups(sizes):
    for before, after in ((0, 0), (3, 0), (0, 130)):
        C.group_fp8(sizes, 24, 144, before=before, after=after).check()


@pytest.mark.parametrize("major", ["K", "MN"])
def test_majors_for_every_small_m(major):
    for m in range(1, 34):
        C.group_fp8((m,), 24, 256, major).check()


def test_scales_of_a_wide_range():
    """Scales of the tokens spread over 2^40."""
    for major in ("K", "MN"):
        C.check_rows(C.group_fp8(n=256, k=512, major=major, spread=20))


def test_no_groups_give_zeros():
    assert C.group_fp8((), 8, 128, before=0, after=3).run().tolist() == [[0.0] * 8] * 3


def test_positional_order_of_the_seed():
    """(..., m_indptr, scale_granularity_mnk, scale_major_mode, mma_sm, out, out_dtype)."""
    problem = C.group_fp8((3, 5), 24, 144, "K", before=0, after=0)
    p, out = problem.args, torch.empty(8, 24, dtype=F16)
    first = (p["a"], p["b"], p["a_scale"], p["b_scale"], p["m_indptr"])
    assert T.group_gemm_fp8_nt_groupwise(*first, (1, 128, 128), "K", 2, out, F16) is out
    assert torch.equal(out, problem.run(dtype=F16))


def test_scales_by_hand():
    """One element of a row meets one scale of its token and one of its group's weights."""
    a, b = torch.zeros(4, 256).to(E4M3), torch.ones(2, 8, 256).to(E4M3)
    a[:, 130] = torch.ones(4).to(E4M3)
    sa, sb = torch.arange(1.0, 9.0), torch.tensor([1.0, 10.0, 100.0, 1000.0])
    indptr = torch.tensor([0, 1, 3], dtype=torch.int32)
    k_major = T.group_gemm_fp8_nt_groupwise(a, b, sa.view(4, 2), sb.view(2, 1, 2), indptr, scale_major_mode="K")
    mn_major = T.group_gemm_fp8_nt_groupwise(a, b, sa.view(2, 4), sb.view(2, 2, 1), indptr)
    assert k_major[:, 0].tolist() == [20, 4000, 6016, 0]  # 6000 in bf16
    assert mn_major[:, 0].tolist() == [50, 6016, 7008, 0]  # 6000 and 7000


def test_scales_of_128_rows_count_from_the_start_of_a():
    """A group that begins at row 100 has rows under both scales."""
    a, b = torch.ones(200, 128).to(E4M3), torch.ones(2, 8, 128).to(E4M3)
    sa, sb = torch.tensor([[1.0, 2.0]]), torch.ones(2, 1, 1)
    indptr = torch.tensor([0, 100, 200], dtype=torch.int32)
    out = T.group_gemm_fp8_nt_groupwise(a, b, sa, sb, indptr, (128, 128, 128))
    assert out[:, 0].tolist() == [128.0] * 128 + [256.0] * 72


def test_hints_change_nothing():
    problem = C.group_fp8((3, 5), 24, 144)
    want = problem.run()
    for hint in ({"mma_sm": 2}, {"segment_alignment": 128}, {"debug": True}, {"backend": "cutile"}):
        assert torch.equal(problem.run(**hint), want)


def test_rows_of_no_group_are_zero_in_out_too():
    problem = C.group_fp8((3, 5), 24, 144, before=2, after=4)
    out = torch.full((14, 24), float("nan"), dtype=BF16)
    problem.run(out=out)
    assert (out[:2] == 0).all() and (out[10:] == 0).all() and not out.isnan().any()


@pytest.mark.parametrize("values", [[0, 9, 4, 23], [-1, 3, 9, 23], [0, 3, 9, 24], [0, 3, 2**31 - 1, 23]])
@pytest.mark.parametrize("debug", [False, True])
@pytest.mark.parametrize(
    "function", ["group_gemm_fp8_nt_groupwise", "group_gemm_mxfp8_mxfp4_nt_groupwise", "group_gemm_nvfp4_nt_groupwise"]
)
def test_values_of_m_indptr_are_checked_on_cpu_tensors(function, debug, values):
    problem = {
        "group_gemm_fp8_nt_groupwise": C.group_fp8((3, 0, 20), 24, 144, before=0, after=0),
        "group_gemm_mxfp8_mxfp4_nt_groupwise": C.group_mxfp4((3, 0, 20), 24, 128, before=0, after=0),
        "group_gemm_nvfp4_nt_groupwise": C.group_nvfp4((3, 0, 20), 24, 128, before=0, after=0),
    }[function]
    problem.args["m_indptr"] = torch.tensor(values, dtype=torch.int32)
    with pytest.raises(T.ArgumentError, match="m_indptr has values out of range"):
        problem.run(debug=debug)


# ---- the DeepGEMM forms ----


@pytest.mark.parametrize("name", ["m_indptr", "m_indices", "masked_m"])
def test_values_are_checked_on_cpu_tensors_in_a_compiled_graph_too(name):
    problem = {"m_indptr": C.group_fp8, "m_indices": C.group_indices, "masked_m": C.masked}[name]()
    call = torch.compile(lambda groups: problem.run(**{name: groups}), backend="eager", fullgraph=True)
    groups = problem.args[name]
    assert torch.equal(call(groups), problem.run())
    for bad in (groups - 3, groups + 1000):
        with pytest.raises(T.ArgumentError, match=f"{name} has values out of range"):
            call(bad)


@pytest.mark.parametrize("dtype", OUT_DTYPES, ids=str)
@pytest.mark.parametrize("block_rows", [1, 128])
@pytest.mark.parametrize("mixed", [False, True])
def test_a_group_for_every_row(mixed, block_rows, dtype):
    C.group_indices(mixed=mixed, block_rows=block_rows).check(dtype=dtype)


@pytest.mark.parametrize("dtype", OUT_DTYPES, ids=str)
@pytest.mark.parametrize("block_rows", [1, 128])
def test_masked_groups(block_rows, dtype):
    C.masked(block_rows=block_rows).check(dtype=dtype)
    C.masked((130, 200, 0, 1), 200, 40, 256, block_rows).check(dtype=dtype)


def test_group_deepgemm_by_hand():
    a = torch.tensor([1.0, 2.0, 4.0]).to(E4M3)[:, None].expand(3, 128)
    b = torch.stack([torch.ones(8, 128), torch.full((8, 128), 2.0)]).to(E4M3)
    indices = torch.tensor([1, 0, -1], dtype=torch.int32)
    out = T.group_deepgemm_fp8_nt_groupwise(a, b, torch.ones(3, 1), torch.ones(2, 1, 1), indices)
    assert out[:, 0].tolist() == [256.0, 256.0, 0.0]


@pytest.mark.parametrize("values", [[-2, 0, 1], [0, 1, 2]])
def test_values_of_m_indices_are_checked_on_cpu_tensors(values):
    problem = C.group_indices((3, 0), 8, 128)
    problem.args["m_indices"] = torch.tensor([*values, 0, 0, 0, 0, 0], dtype=torch.int32)
    with pytest.raises(T.ArgumentError, match="m_indices has values out of range"):
        problem.run()


@pytest.mark.parametrize("values", [[-1, 0], [0, 10]])
def test_values_of_masked_m_are_checked_on_cpu_tensors(values):
    problem = C.masked((3, 0), 9, 8, 128)
    problem.args["masked_m"] = torch.tensor(values, dtype=torch.int32)
    with pytest.raises(T.ArgumentError, match="masked_m has values out of range"):
        problem.run()


# ---- FP4 weights ----


@pytest.mark.parametrize("dtype", OUT_DTYPES, ids=str)
@pytest.mark.parametrize("element", [E4M3, E5M2], ids=str)
def test_mxfp8_by_mxfp4(element, dtype):
    C.group_mxfp4(dtype=element).check(dtype=dtype)
    C.group_mxfp4((5, 128, 0, 167), 136, 128, element, 0, 0).check(dtype=dtype)


@pytest.mark.parametrize("dtype", OUT_DTYPES, ids=str)
@pytest.mark.parametrize("alpha", [True, False])
def test_nvfp4(alpha, dtype):
    if dtype == F16 and not alpha:
        pytest.skip("beyond fp16")
    C.group_nvfp4(alpha=alpha).check(dtype=dtype)
    C.group_nvfp4((5, 128, 0, 167), 136, 128, alpha, 0, 0).check(dtype=dtype)


@pytest.mark.parametrize("count", [1, 40, 300])
def test_many_groups_of_fp4_weights(count):
    sizes = tuple((7 * g) % 5 for g in range(count))
    C.group_mxfp4(sizes, 8, 128).check()
    C.group_nvfp4(sizes, 8, 128).check()


def test_scales_of_ragged_groups_begin_where_layouts_md_says():
    """m_indptr = [0, 5, 133, 133, 300]: rows 0, 128, 384, 512 of 768."""
    indptr = torch.tensor([0, 5, 133, 133, 300], dtype=torch.int32)
    c = torch.full((300, 4), 127, dtype=torch.uint8)
    flat = C.ragged_scales(c, indptr, 255).view(6, 512)
    assert [(tile == 127).sum().item() // 4 for tile in flat] == [5, 128, 0, 0, 128, 39]


def test_the_old_name_is_the_same_function():
    assert T.group_gemm_mxfp4_nt_groupwise is T.group_gemm_mxfp8_mxfp4_nt_groupwise


@pytest.mark.parametrize("function", ["group_mxfp4", "group_nvfp4"])
def test_forms_of_the_scales_and_views_of_the_values(function):
    problem = getattr(C, function)((3, 0, 20), 24, 128)
    want, p = problem.run(), problem.args
    scale = torch.float8_e8m0fnu if function == "group_mxfp4" else E4M3
    cols = 4 if function == "group_mxfp4" else 8
    for change in (
        {"a_scale": p["a_scale"].view(-1, cols), "b_scale": p["b_scale"].view(3, 128, cols)},
        {"a_scale": p["a_scale"].view(scale), "b_scale": p["b_scale"].view(-1).view(scale)},
        {"a_scale": torch.cat([p["a_scale"], torch.full((128 * cols,), 0x7F, dtype=torch.uint8)])},
        {"b": p["b"].view(torch.float4_e2m1fn_x2)},
        {"tile_m": 128, "tile_n": 64, "tile_k": 256, "swap_ab": False},
    ):
        assert torch.equal(getattr(T, problem.function)(**p | change), want)


def test_an_empty_alpha_means_1():
    problem = C.group_nvfp4((3, 0, 20), 24, 128, alpha=False)
    for alpha in (torch.empty(0), torch.ones(3)):
        assert torch.equal(problem.run(alpha=alpha), problem.run())


def test_a_grouped_product_of_quantized_activations():
    """From mxfp8_quantize and mxfp4_quantize, every group on its own."""
    sizes, n, k = (40, 0, 130), 72, 128
    x, w = (
        torch.randn(170, k, generator=C.generator(1)).to(BF16),
        torch.randn(3, n, k, generator=C.generator(2)).to(BF16),
    )
    a, _ = T.mxfp8_quantize(x)
    scales, start, indptr = torch.zeros((170 + 127 * 3) // 128 * 128 * 4, dtype=torch.uint8), 0, C.offsets(sizes)
    for g, size in enumerate(sizes):
        at = (start + 127 * g) // 128 * 128 * 4
        mine = T.mxfp8_quantize(x[start : start + size])[1]
        scales[at : at + mine.numel()] = mine
        start += size
    weights = [T.mxfp4_quantize(one) for one in w]
    b, sb = (torch.stack(parts) for parts in zip(*weights, strict=True))
    out = T.group_gemm_mxfp8_mxfp4_nt_groupwise(a, b, scales, sb, indptr)
    want = torch.cat([x[:40].double() @ w[0].double().T, x[40:].double() @ w[2].double().T])
    assert C.error(out, want) < 0.16


# ---- every function ----


def test_non_contiguous_operands():
    for make in (C.group_fp8, C.group_indices, C.masked):
        problem = make((3, 0, 9), n=24, k=144) if make is not C.masked else make((3, 0, 9), 9, 24, 144)
        for name in ("a", "b"):
            x = problem.args[name]
            wide = torch.full((*x.shape[:-1], 2 * x.shape[-1]), 0x7F, dtype=torch.uint8)
            wide[..., ::2] = x.view(torch.uint8)
            for view in (wide.view(x.dtype)[..., ::2], x.transpose(-1, -2).contiguous().transpose(-1, -2)):
                C.Problem(problem.function, problem.args | {name: view}, problem.want).check()


def test_no_rows():
    for problem in (
        C.group_fp8((0, 0), 8, 128, before=0, after=0), C.group_indices((0, 0), 8, 128), C.masked((0, 0), 4, 8, 128),
        C.masked((0, 0), 0, 8, 128), C.masked((), 4, 8, 128), C.group_mxfp4((0, 0), 8, 128, before=0, after=0),
        C.group_nvfp4((0, 0), 8, 128, before=0, after=0),
    ):  # fmt: skip
        out = problem.run()
        assert out.shape == problem.want.shape and (out == 0).all()


# ---- compiled ----


def one_graph(run, calls):
    """The calls of a compiled function give the eager result from one graph for every number of rows."""
    torch._dynamo.reset()
    graphs = torch._dynamo.testing.CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(run, fullgraph=True, dynamic=True, backend=graphs)
    compiled(*calls[0])
    first = graphs.frame_count  # of fullgraph: 1, or 2 if a float on the way made torch start again
    for args in calls:
        assert torch.equal(compiled(*args), run(*args))
    assert graphs.frame_count == first


def test_one_graph_of_grouped_rows():
    def run(a, sa, indptr):
        return T.group_gemm_fp8_nt_groupwise(a, b, sa, sb, indptr)

    problems = [C.group_fp8((m, 0, 2 * m), 24, 144, before=0, after=0) for m in (3, 7, 50)]
    b, sb = problems[0].args["b"], problems[0].args["b_scale"]
    one_graph(run, [tuple(p.args[name] for name in ("a", "a_scale", "m_indptr")) for p in problems])


def test_one_graph_of_rows_quantized_inside():
    problem = C.sm90(6, 72, 256, "mixed")
    w, ws = problem.args["weight"], problem.args["weight_scale"]
    inputs = [(C.sm90(m, 72, 256, "mixed").args["input"],) for m in (6, 7, 130)]
    one_graph(lambda x: T.fp8_blockscale_gemm_sm90(x, w, None, ws), inputs)


def test_one_graph_of_masked_rows():
    def run(a, sa, masked_m):
        return T.batch_deepgemm_fp8_nt_groupwise(a, b, sa, sb, masked_m, 4)

    problems = [C.masked((3, 0, 2), m, 24, 144) for m in (5, 9, 30)]
    b, sb = problems[0].args["b"], problems[0].args["b_scale"]
    one_graph(run, [tuple(p.args[name] for name in ("a", "a_scale", "masked_m")) for p in problems])
