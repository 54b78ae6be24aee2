"""FP8, MXFP8 and grouped GEMMs on the GPU against an fp64 product; NaN in every row and scale of no group, `out` full of NaN."""

import gemm_checks as C
import pytest
import samples_grouped
import torch
from gemm_checks import BF16, E4M3, E5M2, F16
from synchronization import no_synchronization

import tritonfp4 as T

OUT_DTYPES = (BF16, F16)
TYPES = [(E4M3, E4M3), (E4M3, E5M2), (E5M2, E4M3), (E5M2, E5M2)]
#: One for each height of a tile; the output dtypes take turns, for every call may compile a kernel.
ROWS = ((1, BF16), (17, F16), (64, BF16), (129, F16), (1000, BF16))
#: Every grouped function, ragged or not, at sizes of several tiles.
GROUPED = {
    "fp8 MN": lambda: C.group_fp8(n=264, k=528),
    "fp8 K": lambda: C.group_fp8(n=264, k=528, major="K"),
    "fp8 MN 128 rows": lambda: C.group_fp8(n=264, k=512, block_rows=128),
    "fp8 K 128 rows": lambda: C.group_fp8(n=264, k=512, major="K", block_rows=128),
    "fp8 large": lambda: C.group_fp8((300, 0, 1000, 7), 1032, 1024),
    "rows": lambda: C.group_indices(n=264, k=528),
    "rows in disorder": lambda: C.group_indices(n=264, k=528, mixed=True),
    "rows, 128 rows": lambda: C.group_indices(n=264, k=528, block_rows=128),
    "masked": lambda: C.masked((3, 0, 200, 1, 130), 200, 264, 528),
    "masked, 128 rows": lambda: C.masked((3, 0, 200, 1, 130), 200, 264, 528, 128),
    "mxfp4": lambda: C.group_mxfp4(n=264, k=512),
    "mxfp4 e5m2": lambda: C.group_mxfp4(n=264, k=512, dtype=E5M2),
    "mxfp4 large": lambda: C.group_mxfp4((300, 0, 1000, 7), 1032, 1024),
    "nvfp4": lambda: C.group_nvfp4(n=264, k=512),
    "nvfp4 large": lambda: C.group_nvfp4((300, 0, 1000, 7), 1032, 1024),
}


@pytest.mark.parametrize("dtype", OUT_DTYPES, ids=str)
@pytest.mark.parametrize("name", C.EACH)
def test_every_function(name, dtype):
    C.EACH[name]().check("cuda", dtype)


@pytest.mark.parametrize("kind, tile", [("bf16", 128), ("mixed", 1), ("mixed", 128), ("fp8", 1), ("fp8", 128)])
def test_sm90(kind, tile):
    for i, (m, dtype) in enumerate(ROWS):
        n, k = ((72, 128), (200, 384), (1000, 1024))[i % 3]
        C.sm90(m, n, k, kind, tile).check("cuda", dtype)


@pytest.mark.parametrize("form", ["documented", "strided", "MN", "padded"])
def test_sm90_forms_of_the_input_scale(form):
    for m in (1, 5, 130):
        C.sm90(m, 72, 384, form=form).check("cuda")


@pytest.mark.parametrize("block_rows", [1, 128])
@pytest.mark.parametrize("major", ["K", "MN"])
def test_groupwise(major, block_rows):
    for i, (m, dtype) in enumerate(ROWS):
        n, k = ((72, 16), (200, 272), (1000, 1024))[i % 3]
        C.groupwise(m, n, k, major, block_rows).check("cuda", dtype)


@pytest.mark.parametrize("types", TYPES, ids=str)
def test_groupwise_fp8_types(types):
    for m, n, k, dtype in ((17, 72, 144, F16), (64, 200, 256, F16), (300, 264, 272, F16), (300, 264, 1024, BF16)):
        C.groupwise(m, n, k, types=types).check("cuda", dtype)


@pytest.mark.parametrize("major", ["K", "MN"])
def test_groupwise_for_every_small_m(major):
    for m in range(1, 34):
        C.groupwise(m, 136, 256, major).check("cuda")
        C.group_fp8((m,), 136, 256, major).check("cuda")


@pytest.mark.parametrize("types", TYPES[:3], ids=str)
def test_batches(types):
    for shape, dtype in (((1, 1, 8, 16), BF16), ((3, 48, 80, 64), F16), ((2, 130, 264, 528), F16)):
        C.bmm_fp8(*shape, types).check("cuda", dtype)
    for shape, dtype in (((1, 5, 40, 64), BF16), ((3, 100, 72, 96), F16), ((2, 130, 264, 544), F16)):
        C.bmm_mxfp8(*shape, types).check("cuda", dtype)


@pytest.mark.parametrize("mixed", [False, True])
def test_nan_in_the_weights_of_a_group_reaches_its_rows_alone(mixed):
    problem = C.group_indices(n=264, k=528, mixed=mixed)
    weights, others = problem.args["b"].view(torch.uint8).clone(), problem.args["m_indices"] != 0
    weights[0] = 0x7F
    out = problem.run("cuda", F16, b=weights.view(E4M3).cuda()).cpu()
    assert out[~others].isnan().all() and C.error(out[others], problem.want[others]) <= 1e-3


def test_more_matrices_than_a_grid_has_rows():
    C.bmm_fp8(66000, 2, 16, 16).check("cuda")


def test_mm_mxfp8_and_mm_bf16_fp4():
    for i, (m, dtype) in enumerate(ROWS):
        n, k = ((136, 160), (1000, 1024))[i % 2]
        C.mm_mxfp8(m, n, k).check("cuda", dtype)
        C.mm_mxfp8(m, n, k, eight=True).check("cuda", dtype)
        C.mm_bf16_fp4(m, n, k, dtype).check("cuda", dtype)


def test_mm_mxfp8_of_shuffled_weights():
    a, w = torch.randn(5, 256, device="cuda").to(BF16), torch.randn(160, 256, device="cuda").to(BF16)
    (a_mx, a_sf), (w_mx, w_sf) = T.mxfp8_quantize(a), T.mxfp8_quantize(w)
    linear = T.mxfp8_quantize(w, is_sf_swizzled_layout=False)[1].view(160, 8)
    shuffled, scales = T.shuffle_matrix_a(w_mx, 128), T.shuffle_matrix_sf_a(linear, 128)
    got = T.mm_mxfp8(a_mx, shuffled.t(), a_sf, scales, backend="trtllm")
    assert torch.equal(got, T.mm_mxfp8(a_mx, w_mx.t(), a_sf, w_sf))


@pytest.mark.parametrize("dtype", OUT_DTYPES, ids=str)
@pytest.mark.parametrize("name", GROUPED)
def test_groups(name, dtype):
    GROUPED[name]().check("cuda", dtype)


@pytest.mark.parametrize("types", TYPES, ids=str)
def test_fp8_types_of_ragged_groups(types):
    for k in (144, 512):
        C.group_fp8(n=72, k=k, types=types).check("cuda", F16)


@pytest.mark.parametrize("count", [1, 17, 300])
def test_1_to_300_groups(count):
    sizes = tuple((7 * g) % 5 for g in range(count))
    C.group_fp8(sizes, 16, 144).check("cuda")
    C.group_indices(sizes, 16, 144, mixed=True).check("cuda")
    C.group_mxfp4(sizes, 16, 128).check("cuda")
    C.group_nvfp4(sizes, 16, 128).check("cuda")


@pytest.mark.parametrize("sizes", [(0,), (0, 0, 0), (0, 5, 0), (1,) * 20, (300,), (3, 130, 0, 0, 1)])
def test_sizes_of_groups(sizes):
    for before, after in ((0, 0), (3, 130)):
        C.group_fp8(sizes, 136, 144, before=before, after=after).check("cuda")
        C.group_mxfp4(sizes, 136, 128, before=before, after=after).check("cuda")
        C.group_nvfp4(sizes, 136, 128, before=before, after=after).check("cuda")


def test_no_rows_no_columns_no_groups():
    for m, n, k in ((0, 8, 128), (4, 0, 128), (4, 8, 0)):
        assert C.groupwise(m, n, k).run("cuda").tolist() == [[0.0] * n] * m
    assert C.sm90(0, 64, 128, "bf16").run("cuda").shape == (0, 64)
    assert C.group_fp8((), 8, 128, before=0, after=3).run("cuda").tolist() == [[0.0] * 8] * 3
    assert C.group_fp8((0, 0), 8, 128, before=0, after=0).run("cuda").shape == (0, 8)
    assert C.masked((), 4, 8, 128).run("cuda").shape == (0, 4, 8)


# ---- a wide range ----


def test_scales_of_tokens_spread_over_2_to_the_40():
    for m in (16, 64, 200):
        C.check_rows(C.groupwise(m, 256, 512, spread=20), "cuda")
        C.check_rows(C.sm90(m, 256, 512, spread=20), "cuda")
    for major in ("K", "MN"):
        C.check_rows(C.group_fp8(n=256, k=512, major=major, spread=20), "cuda")


def test_every_e8m0_code():
    C.check_every_e8m0_code("cuda")
    C.check_every_e8m0_code("cuda", of_a=tuple(range(0, 255, 3)))


# ---- operands in memory ----


def test_non_contiguous_operands():
    for problem in (C.groupwise(130, 72, 272), C.group_fp8(), C.group_indices(), C.masked()):
        for name in ("a", "b"):
            x = problem.args[name]
            wide = torch.full((*x.shape[:-1], 2 * x.shape[-1]), 0x7F, dtype=torch.uint8)
            wide[..., ::2] = x.view(torch.uint8)
            for view in (wide.view(x.dtype)[..., ::2], x.transpose(-1, -2).contiguous().transpose(-1, -2)):
                C.Problem(problem.function, problem.args | {name: view}, problem.want).check("cuda")


@pytest.mark.parametrize("name", C.EACH)
def test_out_keeps_what_lies_around_it(name):
    problem = C.EACH[name]()
    *lead, n = problem.want.shape
    big = torch.full((*lead, n + 24), 77.0, dtype=BF16, device="cuda")
    out = big[..., 8 : n + 8]
    assert problem.run("cuda", out=out) is out
    assert torch.equal(out, problem.run("cuda"))
    assert (big[..., :8] == 77).all() and (big[..., n + 8 :] == 77).all()


@pytest.mark.parametrize("name", C.EACH)
def test_same_bits_in_every_run(name):
    problem = C.EACH[name]()
    args = problem.on("cuda") | ({"dtype": BF16} if problem.dtype_arg == "dtype" else {})
    first = getattr(T, problem.function)(**args)
    assert all(torch.equal(getattr(T, problem.function)(**args), first) for _ in range(10))


# ---- offsets on the device ----

BAD = {
    "decreasing": [0, 9, 4, 23], "negative": [-5, 3, 9, 23], "beyond the rows": [0, 3, 500, 2**31 - 1],
    "far below": [-(2**31), -(2**31), 7, 23], "nonsense": [2**31 - 1, -(2**31), 2**31 - 1, -(2**31)],
}  # fmt: skip
RAGGED = {
    "group_gemm_fp8_nt_groupwise": lambda: C.group_fp8((3, 0, 20), 24, 144, before=0, after=0),
    "group_gemm_mxfp8_mxfp4_nt_groupwise": lambda: C.group_mxfp4((3, 0, 20), 24, 128, before=0, after=0),
    "group_gemm_nvfp4_nt_groupwise": lambda: C.group_nvfp4((3, 0, 20), 24, 128, before=0, after=0),
}


@pytest.mark.parametrize("bad", BAD)
@pytest.mark.parametrize("function", RAGGED)
def test_bad_offsets_touch_no_other_memory_and_debug_raises(function, bad):
    """`out` lies in a larger poisoned buffer."""
    problem = RAGGED[function]()
    problem.args["m_indptr"] = torch.tensor(BAD[bad], dtype=torch.int32)
    big = torch.full((1023, 24), 77.0, dtype=BF16, device="cuda")
    problem.run("cuda", out=big[500:523])
    torch.cuda.synchronize()
    assert (big[:500] == 77).all() and (big[523:] == 77).all()
    with pytest.raises(T.ArgumentError, match="m_indptr has values out of range"):
        problem.run("cuda", debug=True)


@pytest.mark.parametrize("values", [[-2, 5, 2**31 - 1], [-(2**31), 99, -7]])
def test_bad_indices_and_counts_touch_no_other_memory_and_debug_raises(values):
    rows, batch = C.group_indices((3, 0, 20), 24, 144), C.masked((3, 0, 9), 9, 24, 144)
    rows.args["m_indices"] = torch.tensor([*values, *[0] * 25], dtype=torch.int32)
    batch.args["masked_m"] = torch.tensor(values, dtype=torch.int32)
    for problem in (rows, batch):
        big = torch.full((1100, 24), 77.0, dtype=BF16, device="cuda")
        inner = big[500 : 500 + problem.want[..., 0].numel()]
        problem.run("cuda", out=inner.view(problem.want.shape))
        torch.cuda.synchronize()
        assert (big[:500] == 77).all() and (big[500 + len(inner) :] == 77).all()
        with pytest.raises(T.ArgumentError, match="has values out of range"):
            problem.run("cuda", debug=True)


@pytest.mark.parametrize("name", C.EACH)
def test_never_synchronises(name):
    problem = C.EACH[name]()
    args = problem.on("cuda") | ({"dtype": BF16} if problem.dtype_arg == "dtype" else {})
    out = torch.empty(problem.want.shape, dtype=BF16, device="cuda")
    call = getattr(T, problem.function)
    want = call(**args)
    torch.cuda.synchronize()
    with no_synchronization():
        got = call(**args)
        call(**args, out=out)
    assert torch.equal(got, want) and torch.equal(out, want)


@pytest.mark.parametrize("major", ["K", "MN"])
def test_a_cuda_graph_replays_with_other_offsets(major):
    """The same graph for every distribution of the rows over the groups."""
    problem = C.group_fp8((50, 0, 150), 72, 272, "K", before=0, after=0)
    exact = (
        C.decoded(problem.args["a"], problem.args["a_scale"], 1),
        C.decoded(problem.args["b"], problem.args["b_scale"], 128),
    )
    args = problem.on("cuda") | {"scale_major_mode": major}
    if major == "MN":
        args["a_scale"], args["b_scale"] = (
            args["a_scale"].t().contiguous(),
            args["b_scale"].transpose(1, 2).contiguous(),
        )
    T.group_gemm_fp8_nt_groupwise(**args)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        out = T.group_gemm_fp8_nt_groupwise(**args)
    for offsets in ([0, 50, 50, 200], [0, 0, 200, 200], [7, 8, 20, 150], [0, 0, 0, 0], [0, 199, 200, 200]):
        args["m_indptr"].copy_(torch.tensor(offsets, dtype=torch.int32))
        graph.replay()
        group = torch.full((200,), -1)
        for g in range(3):
            group[offsets[g] : offsets[g + 1]] = g
        want = C.product_of_groups(*exact, group)
        assert C.error(out, want) <= C.bound_of(out)
        assert (out.cpu()[group < 0] == 0).all()
        assert torch.equal(out, T.group_gemm_fp8_nt_groupwise(**args))


@pytest.mark.parametrize("name", [name for name in C.EACH if "group_" in name or "batch_" in name or "bf16" in name])
def test_a_cuda_graph_replays_with_other_operands(name):
    """The first operand and the offsets change between replays."""
    problem = C.EACH[name]()
    args, call = problem.on("cuda"), getattr(T, problem.function)
    first = next(iter(args))
    call(**args)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        out = call(**args)
    for shift in (1, 2):
        args[first].copy_(args[first].view(torch.uint8).roll(shift, -2).view(args[first].dtype))
        if "m_indptr" in args:
            args["m_indptr"][1:-1] += shift
        graph.replay()
        assert torch.equal(out.nan_to_num(), call(**args).nan_to_num())


# ---- torch's own machinery ----


@pytest.mark.parametrize("name", C.EACH)
def test_fullgraph_equals_eager(name):
    run, tensors = samples_grouped.compiled(C.EACH[name]())
    tensors = [C.moved(t, "cuda") for t in tensors]
    torch._dynamo.reset()
    assert torch.equal(torch.compile(run, fullgraph=True)(*tensors), run(*tensors))


@pytest.mark.parametrize("name", samples_grouped.SAMPLES)
def test_opcheck(name):
    op, args = samples_grouped.SAMPLES[name]
    torch.library.opcheck(op.default, tuple(C.moved(value, "cuda") for value in args))


# ---- the documented way ----


def test_batch_deepgemm_documentation_example():
    from tritonfp4.flashinfer.testing.utils import per_block_cast_to_fp8, per_token_cast_to_fp8

    m, n, k, count = 128, 1024, 1024, 2
    a, b = torch.rand((count, m, k), device="cuda"), torch.rand((count, n, k), device="cuda")
    masked_m = torch.tensor([5, 100], device="cuda", dtype=torch.int32)
    a_fp8, a_scale = (torch.stack(t) for t in zip(*map(per_token_cast_to_fp8, a), strict=True))
    b_fp8, b_scale = (torch.stack(t) for t in zip(*map(per_block_cast_to_fp8, b), strict=True))
    out = T.batch_deepgemm_fp8_nt_groupwise(a_fp8, b_fp8, a_scale, b_scale, masked_m, 53, out_dtype=BF16)
    for g, rows in enumerate((5, 100)):
        want = a[g, :rows].double() @ b[g].double().T
        assert ((out[g, :rows].double() - want).norm() / want.norm()) < 3e-2
        assert (out[g, rows:] == 0).all()
