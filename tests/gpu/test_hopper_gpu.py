"""The Hopper kernel by the public functions, on a GPU of that kind: what reaches it, and that it is right.

Against fp64 products, in poisoned memory (`hopper_checks`), NaN in rows of no group. Few different kernels are compiled:
sizes share their divisibility by 16 (8 more than a multiple) and meet the same tiles where they can.
"""

import dataclasses

import gemm_checks as C
import pytest
import torch
from gemm_checks import BF16, F16
from hopper_checks import GUARD, ON_HOPPER, check, check_result, guarded, on_hopper, operands, poisoned

import tritonfp4 as T

pytestmark = ON_HOPPER


# ---- public functions ----


@pytest.mark.parametrize("kind", ["bf16", "mixed", "fp8"])
@pytest.mark.parametrize("m, n, k, dtype", [(17, 72, 384, F16), (130, 200, 1024, BF16), (1000, 1032, 640, BF16)])
def test_sm90(launches, kind, m, n, k, dtype):
    check(C.sm90(m, n, k, kind, 128), dtype)
    on_hopper(launches, "batch", 1)


@pytest.mark.parametrize("form", ["documented", "strided", "MN", "padded"])
def test_sm90_forms_of_the_input_scale(launches, form):
    for m in (1, 5, 129):
        C.sm90(m, 72, 384, form=form).check("cuda")
    on_hopper(launches, "batch", 3)


@pytest.mark.parametrize("major", ["K", "MN"])
@pytest.mark.parametrize("k", [16, 272, 1024])
@pytest.mark.parametrize("m, n", [(40, 72), (200, 136), (700, 2056)])
def test_groupwise(launches, m, n, k, major):
    check(C.groupwise(m, n, k, major))
    on_hopper(launches, "batch", 1)


@pytest.mark.parametrize("major", ["K", "MN"])
@pytest.mark.parametrize("first", [1, 36, 71, 106])
def test_every_small_m(launches, first, major):
    for m in range(first, first + 35, 7):
        check(C.groupwise(m, 136, 400, major))
    on_hopper(launches, "batch", 5)


@pytest.mark.parametrize("major", ["K", "MN"])
def test_more_tiles_than_programs(launches, major):
    """Every program walks several tiles: rings, phases and output tiles go on from one to the next."""
    check(C.groupwise(2000, 2056, 400, major))
    check(C.groupwise(60, 20008, 272, major))
    large, small = on_hopper(launches, "batch", 2)
    assert (large.block_m, small.block_m) == (128, 64)


@pytest.mark.parametrize("name", ["ragged", "large", "small", "ones", "empty", "one row"])
@pytest.mark.parametrize("major", ["K", "MN"])
def test_ragged_groups(launches, name, major):
    sizes, n, k = {
        "ragged": (C.RAGGED, 264, 528), "large": ((300, 0, 1000, 7), 1032, 1024), "small": ((3, 0, 20), 72, 144),
        "ones": ((1,) * 40, 136, 272), "empty": ((0, 0, 0), 72, 144), "one row": ((0, 1, 0), 72, 144),
    }[name]  # fmt: skip
    for before, after in ((0, 0), (2, 3), (70, 130)):
        if before + sum(sizes):
            check(C.group_fp8(sizes, n, k, major, before=before, after=after))
    on_hopper(launches, "indptr", 2 + bool(sum(sizes)))


@pytest.mark.parametrize("count", [1, 2, 17, 60, 300])
def test_1_to_300_groups(launches, count):
    check(C.group_fp8(tuple((7 * g) % 5 for g in range(count)), 72, 144))
    check(C.group_fp8(tuple((59 * g) % 131 for g in range(min(count, 60))), 72, 272), F16)
    on_hopper(launches, "indptr", 2)


@pytest.mark.parametrize("counts, m, n, k", [((3, 0, 40, 1, 17), 40, 72, 272), ((3, 0, 200, 1, 130), 200, 264, 528)])
def test_masked(launches, counts, m, n, k):
    """K-major scales by the function of DeepGEMM's name, M-major ones by the same with other strides."""
    problem = C.masked(counts, m, n, k)
    check(problem)
    scale = problem.args["a_scale"]
    turned = poisoned(scale.transpose(1, 2)).transpose(1, 2)
    big, out = guarded(problem.want.shape)
    C.Problem(problem.function, problem.args | {"a_scale": turned}, problem.want).run("cuda", out=out)
    check_result(big, out, problem.want)
    on_hopper(launches, "masked", 2)


def test_masked_counts_of_300_matrices(launches):
    check(C.masked(tuple(g % 10 for g in range(300)), 9, 72, 144))
    on_hopper(launches, "masked", 1)


@pytest.mark.parametrize("m", [9, 70, 300])
def test_batch(launches, m):
    problem = C.masked((m,) * 3, m, 136, 272)
    left, right = operands(problem)
    big, out = guarded(problem.want.shape)
    T.grouped_matmul(left, right, out=out)
    check_result(big, out, problem.want)
    on_hopper(launches, "batch", 1)


#: (N, K) of DeepSeek's layers.
SHAPES = ((2112, 7168), (24576, 1536), (32768, 512), (7168, 16384), (4096, 7168), (7168, 2048))


@pytest.mark.parametrize("m", [1, 16, 64, 128, 1024])
@pytest.mark.parametrize("n, k", SHAPES)
def test_shapes_of_deepseek(launches, n, k, m):
    """Against the fp64 product on the GPU."""
    torch.manual_seed(m)
    a, b = (torch.randn(rows, k, device="cuda").to(C.E4M3) for rows in (m, n))
    sa = torch.rand(k // 128, m, device="cuda") + 0.5
    sb = torch.rand(C.ceil_div(n, 128), k // 128, device="cuda") + 0.5
    want = C.decoded(a, sa.t(), 1) @ C.decoded(b, sb, 128).T
    out = T.fp8_blockscale_gemm_sm90(a, b, sa, sb, input_scale_major="MN")
    assert ((out.double() - want).norm() / want.norm()).item() <= C.bound_of(out)
    on_hopper(launches, "batch", 1)


# ---- a wide range ----


def test_scales_of_tokens_spread_over_2_to_the_40(launches):
    for m in (16, 64, 200):
        C.check_rows(C.groupwise(m, 264, 512, "MN", spread=20), "cuda")
    for major in ("K", "MN"):
        C.check_rows(C.group_fp8(n=264, k=512, major=major, spread=20), "cuda")
    assert {mode for mode, _ in launches} == {"batch", "indptr"} and len(launches) == 5


@pytest.mark.parametrize("where", ["a", "a_scale", "b", "b_scale"])
def test_nan_reaches_its_rows_or_columns_alone(launches, where):
    """A NaN among the first 128 of K: tiles, stages and the products of two steps keep to themselves."""
    problem = C.groupwise(200, 264, 656, "K")
    x = problem.args[where].clone()
    x.view(torch.uint8).view(len(x), -1)[1, :4] = torch.tensor([0, 0, 0xC0, 0x7F]).to(torch.uint8)  # fp32 NaN; e4m3 NaN
    got = problem.run("cuda", **{where: x.cuda()}).cpu()
    nan = torch.zeros(200, 264, dtype=torch.bool)
    (nan if where[0] == "a" else nan.T)[slice(128, 256) if where == "b_scale" else slice(1, 2)] = True
    assert torch.equal(got.isnan(), nan)
    assert torch.equal(got[~nan], problem.run("cuda").cpu()[~nan])
    on_hopper(launches, "batch", 2)


@pytest.mark.parametrize("where", ["a_scale", "b_scale"])
@pytest.mark.parametrize("m", [5, 64, 200])
def test_an_infinite_scale_of_the_last_step_stays_infinite(launches, m, where):
    """Tiles take their steps by twos or fours: the zeros behind an odd last one must not meet its scale."""
    for k in (640, 656 + 128):
        problem = C.groupwise(m, 264, k, "K")
        positive = {name: (problem.args[name].view(torch.uint8) & 0x7F).view(C.E4M3).cuda() for name in "ab"}
        scale = problem.args[where].clone()
        scale[1, -1] = float("inf")
        got = problem.run("cuda", **positive, **{where: scale.cuda()}).cpu()
        infinite = torch.zeros(m, 264, dtype=torch.bool)
        (infinite if where[0] == "a" else infinite.T)[slice(128, 256) if where == "b_scale" else slice(1, 2)] = True
        assert torch.equal(got.isinf(), infinite) and not got.isnan().any()
    on_hopper(launches, "batch", 2)


# ---- operands in memory ----


def shifted(x, by):
    """x in memory that starts `by` elements later."""
    flat = torch.zeros(x.numel() + by, dtype=x.dtype, device=x.device)
    return flat[by:].view(x.shape).copy_(x)


@pytest.mark.parametrize(
    "case", ["every second byte", "row starts", "column-major", "address", "weights", "weight rows"]
)
def test_what_tma_cannot_read_takes_the_twin(launches, case):
    problem = C.groupwise(130, 72, 272)
    args = problem.on("cuda")
    a, b = (args[name].view(torch.uint8) for name in "ab")
    wide = torch.full((130, 2 * 272 + 8), 0x7F, dtype=torch.uint8, device="cuda")
    if case == "every second byte":
        wide[:, : 2 * 272 : 2] = a
        change = {"a": wide[:, : 2 * 272 : 2]}
    elif case == "row starts":
        wide[:, :272] = a
        change = {"a": wide[:, :272]}
    elif case == "column-major":
        change = {"a": a.t().contiguous().t()}
    elif case == "address":
        change = {"a": shifted(a, 8)}
    elif case == "weights":
        change = {"b": shifted(b, 1)}
    else:
        change = {"b": torch.nn.functional.pad(b, (0, 8), value=0x7F)[:, :272]}
    out = problem.run("cuda", **{name: x.view(C.E4M3) for name, x in change.items()})
    assert C.error(out, problem.want) <= C.bound_of(out) and not launches


@pytest.mark.parametrize("case", ["rows", "address", "odd N", "ragged", "masked"])
def test_what_tma_cannot_store_takes_the_twin(launches, case):
    problem = {
        "odd N": lambda: C.groupwise(130, 73, 272), "ragged": lambda: C.group_fp8(n=72, k=272),
        "masked": lambda: C.masked((3, 0, 40), 40, 72, 272),
    }.get(case, lambda: C.groupwise(130, 72, 272))()  # fmt: skip
    *lead, n = problem.want.shape
    if case == "odd N":
        out = problem.run("cuda")
    elif case == "address":
        out = problem.run("cuda", out=shifted(torch.zeros(problem.want.shape, dtype=BF16, device="cuda"), 4))
    else:
        big = torch.full((*lead, n + 4), 77.0, dtype=BF16, device="cuda")
        out = problem.run("cuda", out=big[..., :n])
        assert (big[..., n:] == 77).all()
    assert C.error(out, problem.want) <= C.bound_of(out) and not launches


def test_scales_of_any_strides_are_copied(launches):
    """Scales never send a call to the twin."""
    problem = C.groupwise(130, 72, 400)
    for name in ("a_scale", "b_scale"):
        x = problem.args[name].cuda()
        wide = torch.full((*x.shape, 3), float("nan"), device="cuda")
        wide[..., 1] = x
        for view in (wide[..., 1], x.t().contiguous().t(), shifted(x, 1), x):
            out = problem.run("cuda", **{name: view})
            assert C.error(out, problem.want) <= C.bound_of(out)
    on_hopper(launches, "batch", 8)


@pytest.mark.parametrize("k", [144, 272])
def test_bytes_behind_k_are_not_read(launches, k):
    """Buffers wider than the matrix, NaN in the padding of both operands."""
    problem = C.groupwise(130, 72, k)
    left, right = operands(problem)
    wide = []
    for t in (left, right):
        values = torch.full((t.shape[0], 384), 0x7F, dtype=torch.uint8, device="cuda")
        values[:, :k] = t.values
        wide.append(dataclasses.replace(t, values=values))
    out = T.matmul(*wide)
    assert C.error(out, problem.want) <= C.bound_of(out)
    on_hopper(launches, "batch", 1)


# ---- groups on the device ----


@pytest.mark.parametrize("offsets", [
    [0, 9, 4, 23], [-5, 3, 9, 23], [0, 3, 500, 2**31 - 1], [-(2**31), -(2**31), 7, 23],
    [2**31 - 1, -(2**31), 2**31 - 1, -(2**31)],
])  # fmt: skip
def test_bad_offsets_touch_no_other_memory(launches, offsets):
    problem = C.group_fp8((3, 0, 20), 72, 144, before=0, after=0)
    problem.args["m_indptr"] = torch.tensor(offsets, dtype=torch.int32)
    big, out = guarded(problem.want.shape)
    problem.run("cuda", out=out)
    torch.cuda.synchronize()
    assert (big[:GUARD] == 77).all() and (big[-GUARD:] == 77).all() and (big[:, 72:] == 77).all()
    on_hopper(launches, "indptr", 1)


@pytest.mark.parametrize("counts", [[-2, 5, 2**31 - 1], [-(2**31), 99, -7]])
def test_bad_counts_touch_no_other_memory(launches, counts):
    problem = C.masked((9, 9, 9), 9, 72, 144)
    big, out = guarded(problem.want.shape)
    problem.run("cuda", out=out, masked_m=torch.tensor(counts, dtype=torch.int32, device="cuda"))
    want = problem.want.clone()
    for g, count in enumerate(counts):
        want[g, min(max(count, 0), 9) :] = 0
    check_result(big, out, want)
    on_hopper(launches, "masked", 1)


@pytest.mark.parametrize("major", ["K", "MN"])
def test_a_cuda_graph_replays_with_other_offsets(launches, major):
    problem = C.group_fp8((150, 0, 450), 264, 528, "K", before=0, after=0)
    exact = (
        C.decoded(problem.args["a"], problem.args["a_scale"], 1),
        C.decoded(problem.args["b"], problem.args["b_scale"], 128),
    )
    args = problem.on("cuda") | {"scale_major_mode": major}
    if major == "MN":
        args |= {name: args[name].mT.contiguous() for name in ("a_scale", "b_scale")}
    T.group_gemm_fp8_nt_groupwise(**args)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        out = T.group_gemm_fp8_nt_groupwise(**args)
    on_hopper(launches, "indptr", 2)
    for offsets in ([0, 150, 150, 600], [0, 0, 600, 600], [7, 8, 20, 450], [0, 0, 0, 0], [0, 599, 600, 600]):
        args["m_indptr"].copy_(torch.tensor(offsets, dtype=torch.int32))
        out.fill_(float("nan"))
        graph.replay()
        group = torch.full((600,), -1)
        for g in range(3):
            group[offsets[g] : offsets[g + 1]] = g
        assert C.error(out, C.product_of_groups(*exact, group)) <= C.bound_of(out)
        assert (out.cpu()[group < 0] == 0).all()
        assert torch.equal(out, T.group_gemm_fp8_nt_groupwise(**args))


def test_a_cuda_graph_replays_with_other_counts_and_operands(launches):
    problem = C.masked((40, 40, 40), 40, 72, 272)
    args = problem.on("cuda")
    T.batch_deepgemm_fp8_nt_groupwise(**args)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        out = T.batch_deepgemm_fp8_nt_groupwise(**args)
    for counts in ([0, 40, 3], [1, 2, 33], [0, 0, 0]):
        args["masked_m"].copy_(torch.tensor(counts, dtype=torch.int32))
        args["a"].view(torch.uint8).copy_(args["a"].view(torch.uint8).roll(1, -2))
        args["a_scale"].mul_(1.5)
        out.fill_(float("nan"))
        graph.replay()
        assert torch.equal(out, T.batch_deepgemm_fp8_nt_groupwise(**args))
        assert all((one[count:] == 0).all() and not one.isnan().any() for one, count in zip(out, counts, strict=True))
    on_hopper(launches, "masked", 5)
