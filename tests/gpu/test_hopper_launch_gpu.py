"""The Hopper kernel itself, on a GPU of that kind: every tile, the same bits in every run, order among launches."""

import dataclasses
import itertools

import gemm_checks as C
import pytest
import samples_grouped
import torch
from gemm_checks import BF16, F16
from hopper_checks import ON_HOPPER, check, check_result, guarded, on_hopper, operands
from synchronization import no_synchronization

import tritonfp4 as T
from tritonfp4.autotune import Problem, illegal, select
from tritonfp4.config import Config
from tritonfp4.device import target_info

pytestmark = ON_HOPPER
H200 = target_info(90)


# ---- every tile ----


def tiles():
    """Every tile with the largest legal number of stages up to 8, odd ones where the ring may be odd."""
    problem = Problem("matmul", 128, 128, 128, "fp8_1x128", "fp8_128x128", H200, True)
    for (m, groups), n, pair in itertools.product(((64, 1), (64, 2), (128, 2)), (16, 32, 64, 128, 192, 256), (1, 2)):
        stages = (8, 4) if (m, groups) == (64, 2) else (7, 5, 4) if pair == 1 else (6, 4)
        configs = [Config("hopper", m, 128, n, 4 * (groups + 1), s, 8, pair=pair) for s in stages]
        yield from [config for config in configs if illegal(config, problem) is None][:1]


CONFIGS = {f"{c.block_m}x{c.block_n}, {c.num_warps} warps, pair {c.pair}, {c.num_stages} stages": c for c in tiles()}


def launch(problem, config, mode, dtype=BF16):
    """The launcher itself, into guarded memory."""
    from tritonfp4.kernels.hopper.launch import matmul_fp8_hopper

    left, right = operands(problem)
    groups = problem.args.get("m_indptr", problem.args.get("masked_m"))
    big, out = guarded(problem.want.shape, dtype)
    matmul_fp8_hopper(left, right, None if groups is None else groups.cuda(), mode, out, config)
    check_result(big, out, problem.want, config)
    return left, right, out


@pytest.mark.parametrize("name", CONFIGS)
def test_every_tile(name):
    """An odd number of steps, a cut one, one alone; more steps than the ring has stages; more tiles than programs."""
    for m, n, k in ((200, 264, 640), (129, 136, 272), (300, 72, 16), (257, 1032, 1936), (1100, 2056, 272)):
        launch(C.groupwise(m, n, k), CONFIGS[name], "batch")


@pytest.mark.parametrize("name", list(CONFIGS)[::2])
def test_every_tile_for_ragged_groups(name):
    for sizes, before, after in ((C.RAGGED, 5, 9), ((300, 0, 100, 7), 0, 0), ((1,) * 70, 0, 3), ((129, 40) * 9, 1, 0)):
        launch(C.group_fp8(sizes, 264, 528, "K", before=before, after=after), CONFIGS[name], "indptr")


@pytest.mark.parametrize("block_m", [64, 128])
def test_more_row_tiles_than_are_listed_in_shared_memory(block_m):
    config = Config("hopper", block_m, 128, 64, 4 * (block_m // 64 + 1), 4, 8, pair=2)
    launch(C.group_fp8((1, 0, 2) * 400, 72, 144, "K", before=3, after=2), config, "indptr")


@pytest.mark.parametrize("name", list(CONFIGS)[1::2])
def test_every_tile_for_masked_matrices(name):
    for counts, m in (((3, 0, 200, 1, 130), 200), ((128, 64, 0), 129)):
        launch(C.masked(counts, m, 264, 528), CONFIGS[name], "masked", F16)


@pytest.mark.parametrize("name", list(CONFIGS)[::3])
def test_rows_8192_bytes_apart(name):
    """Columns of tiles then start at different places along K."""
    launch(C.groupwise(129, 264, 8192), CONFIGS[name], "batch")


def test_rows_8192_bytes_apart_in_groups(launches):
    check(C.group_fp8((9, 0, 200, 70, 3), 264, 8192))
    check(C.masked((3, 0, 70), 70, 264, 8192))
    assert [mode for mode, _ in launches] == ["indptr", "masked"]


# ---- the same bits ----

#: Dense: large and small tiles, K shared by two warpgroups, two row tiles; ragged.
RUNS = {
    "large": (lambda: C.groupwise(700, 2056, 1024, "MN"), "batch"),
    "weights of many tiles": (lambda: C.groupwise(40, 8200, 1024, "MN"), "batch"),
    "split K": (lambda: C.groupwise(17, 136, 2048, "MN"), "batch"),
    "two row tiles": (lambda: C.groupwise(100, 1032, 1024, "MN"), "batch"),
    "ragged": (lambda: C.group_fp8((300, 0, 1000, 7), 1032, 1024), "indptr"),
    "ragged, small": (lambda: C.group_fp8((9, 0, 20, 70, 3), 264, 1024), "indptr"),
    "ragged, drawn from both halves": (lambda: C.group_fp8((3, 0, 70, 1) * 50, 264, 1024), "indptr"),
    "masked": (lambda: C.masked((3, 0, 200, 1, 130), 200, 264, 1024), "masked"),
}


@pytest.mark.parametrize("name", RUNS)
def test_200_runs_give_the_same_bits(launches, name):
    make, mode = RUNS[name]
    problem = make()
    args, call = problem.on("cuda"), getattr(T, problem.function)
    first = call(**args)
    assert C.error(first, problem.want) <= C.bound_of(first)
    outs = torch.full((200, *first.shape), float("nan"), dtype=BF16, device="cuda")
    for out in outs:
        call(**args, out=out)
    assert (outs.view(torch.int16) == first.view(torch.int16)).all()
    config = on_hopper(launches, mode, 201)[0]
    assert name != "split K" or (config.block_m, config.num_warps) == (64, 12)


@pytest.mark.parametrize("name", RUNS)
def test_agrees_with_the_twin(name):
    from tritonfp4.kernels.hopper.launch import matmul_fp8_hopper
    from tritonfp4.kernels.matmul_fp8 import matmul_fp8

    make, mode = RUNS[name]
    problem = make()
    left, right = operands(problem)
    groups = problem.on("cuda").get({"indptr": "m_indptr", "masked": "masked_m"}.get(mode, ""))
    m, n = problem.want.shape[-2:]
    rows = m // right.shape[0] if mode == "indptr" else m
    op = "matmul" if mode == "batch" else "grouped"
    asked = Problem(op, rows, n, right.shape[-1], "fp8_1x128", "fp8_128x128", H200)
    ours, twins = (torch.full(problem.want.shape, float("nan"), dtype=F16, device="cuda") for _ in "ab")
    twin = select(asked)
    assert twin.path == "fp8"
    matmul_fp8_hopper(left, right, groups, mode, ours, select(dataclasses.replace(asked, tma=True)))
    matmul_fp8(left, right, groups, mode, twins, twin)
    assert C.error(ours, twins.cpu().double()) <= C.bound_of(ours)
    assert C.error(ours, problem.want) <= C.bound_of(ours)


@pytest.mark.parametrize("name", RUNS)
def test_never_synchronises(launches, name):
    make, mode = RUNS[name]
    problem = make()
    args, call = problem.on("cuda"), getattr(T, problem.function)
    out, want = torch.empty(problem.want.shape, dtype=BF16, device="cuda"), call(**args)
    torch.cuda.synchronize()
    with no_synchronization():
        got = call(**args)
        call(**args, out=out)
    assert torch.equal(got, want) and torch.equal(out, want)
    on_hopper(launches, mode, 3)


# ---- order, streams, torch's own machinery ----


def test_fullgraph_equals_eager(launches):
    run, tensors = samples_grouped.compiled(C.sm90(40, 264, 1024))
    tensors = [C.moved(t, "cuda") for t in tensors]
    want = run(*tensors)
    torch._dynamo.reset()
    assert torch.equal(torch.compile(run, fullgraph=True)(*tensors), want)
    on_hopper(launches, "batch", 2)


@pytest.mark.parametrize("m", [1, 40, 300])
def test_a_call_waits_for_the_one_before(launches, m):
    """Every call reads what the last one has just written; the same bits as with a pause between any two."""
    torch.manual_seed(m)
    x = torch.randn(m, 1024, device="cuda").to(BF16)
    weight = (torch.randn(1024, 1024, device="cuda") / 32).to(BF16)

    def chain(pause):
        y = x
        for _ in range(40):
            y = T.fp8_blockscale_gemm_sm90(y, weight)
            if pause:
                torch.cuda.synchronize()
        return y

    want = chain(True)
    assert all(torch.equal(chain(False), want) for _ in range(5)) and want.isfinite().all() and want.any()
    on_hopper(launches, "batch", 240)


def test_offsets_written_right_before_the_call(launches):
    problem = C.group_fp8((150, 0, 450), 264, 528, "K", before=0, after=0)
    args = problem.on("cuda")
    offsets = torch.tensor(
        [[0, first, second, 600] for first in range(0, 300, 23) for second in (300, 451, 600)], dtype=torch.int32
    )
    offsets, results = offsets.cuda(), []
    for pause in (True, False):
        outs = []
        for each in offsets:
            args["m_indptr"].copy_(each)
            outs.append(T.group_gemm_fp8_nt_groupwise(**args))
            if pause:
                torch.cuda.synchronize()
        results.append(torch.stack(outs))
    assert torch.equal(*results)
    on_hopper(launches, "indptr", 2 * len(offsets))


def test_two_streams_at_once(launches):
    """Different problems side by side: nothing of a launch is shared with the next."""
    problems = [C.groupwise(300, 1032, 2048, "K"), C.group_fp8((9, 0, 200, 70, 3), 264, 1024, "MN")]
    calls = [(getattr(T, p.function), p.on("cuda")) for p in problems]
    want = [call(**args) for call, args in calls]
    for out, problem in zip(want, problems, strict=True):
        assert C.error(out, problem.want) <= C.bound_of(out)
    torch.cuda.synchronize()
    streams = [torch.cuda.Stream() for _ in calls]
    results = [[], []]
    for _ in range(50):
        for stream, (call, args), outs in zip(streams, calls, results, strict=True):
            with torch.cuda.stream(stream):
                outs.append(call(**args))
    torch.cuda.synchronize()
    assert all(torch.equal(out, want[i]) for i in range(2) for out in results[i])
    assert {mode for mode, _ in launches} == {"batch", "indptr"} and len(launches) == 102
