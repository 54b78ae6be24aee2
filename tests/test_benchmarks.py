"""The benchmarks' cases, inputs, adapters and bars, as far as a machine without a GPU or the peers can run them."""

import csv
from types import SimpleNamespace

import pytest
import torch

import tritonfp4 as T
from benchmarks import compare, fp8, inputs, peers, run, warm
from benchmarks.case import Case
from benchmarks.inputs import mn_major, zipf_sizes
from benchmarks.peers import deep_gemm, flashinfer_peer
from benchmarks.registry import OPS

ISSUE_SHAPES = [(2112, 7168), (24576, 1536), (32768, 512), (7168, 16384), (4096, 7168), (7168, 2048)]
ISSUE_GROUPS = [(4, 8192, 4096, 7168), (8, 4096, 4096, 7168), (8, 4096, 7168, 2048), (32, 256, 4096, 7168),
                (32, 128, 7168, 2048), (64, 128, 4096, 7168)]  # fmt: skip


def shapes(op):
    return [(case.m, case.n, case.k) for case in OPS[op][0] if case.n]


def test_dense_cases_are_those_of_the_bars():
    assert shapes("fp8_dense") == [(m, n, k) for n, k in ISSUE_SHAPES for m in (1, 16, 64, 128, 1024, 4096)]
    assert shapes("fp8_dense_bf16act") == [(m, n, k) for n, k in ISSUE_SHAPES for m in (1, 64, 4096)]


@pytest.mark.parametrize("op", ["fp8_grouped", "fp8_grouped_ragged"])
def test_grouped_cases_are_those_of_the_bars(op):
    assert [(c.groups, c.m // c.groups, c.n, c.k) for c in OPS[op][0]] == ISSUE_GROUPS
    assert all(case.flops == 2.0 * case.m * case.n * case.k for case in OPS[op][0])


def test_one_large_copy_is_measured_in_the_dense_run():
    copies = [case for case in OPS["fp8_dense"][0] if not case.n]
    assert copies == [fp8.COPY] and copies[0].bytes >= 2**31
    assert fp8.COPY in run.chosen("fp8_dense", [1], ["4096,7168"])
    assert [(c.m, c.n) for c in run.chosen("fp8_dense", [1], ["4096,7168"])[1:]] == [(1, 4096)]
    assert not run.chosen("quantize_nvfp4", [1], None)


@pytest.mark.parametrize(("groups", "rows"), [(g, g * m) for g, m, _, _ in ISSUE_GROUPS])
def test_zipf_sizes_keep_the_rows_and_leave_a_quarter_empty(groups, rows):
    sizes = zipf_sizes(groups, rows)
    assert len(sizes) == groups and sum(sizes) == rows and sizes.count(0) == groups // 4
    live = sorted((size for size in sizes if size), reverse=True)
    assert all(abs(size / live[0] - rank**-1.2) < 2 / live[0] for rank, size in enumerate(live, 1))


def test_zipf_sizes_are_the_same_everywhere():
    assert zipf_sizes(8, 1000) == [67, 202, 88, 54, 465, 124, 0, 0]
    assert zipf_sizes(4, 32768) == [8376, 5149, 19243, 0]
    assert zipf_sizes(8, 1000) != zipf_sizes(8, 1000, seed=1)


@pytest.mark.parametrize("m", [1, 4, 5, 130])
def test_mn_major_is_the_memory_that_tma_reads(m):
    scale = torch.rand(m, 7)
    got = mn_major(scale)
    assert torch.equal(got, scale) and got.stride() == (1, (m + 3) // 4 * 4) and got.data_ptr() % 16 == 0


def dequantized(a, scale):
    return a.float() * scale.repeat_interleave(128, -1)[..., : a.shape[-1]]


def blocks(b, scale):
    return b.float() * scale.repeat_interleave(128, -2)[..., : b.shape[-2], :].repeat_interleave(128, -1)


def product(a, b, out):
    assert a[1].stride() == (1, -(-a[0].shape[0] // 4) * 4)
    out.copy_(dequantized(*a) @ blocks(*b).T)


def grouped_product(a, b, out, indices):
    """What the contiguous layout means: a tile of 128 rows belongs to the group of its first row."""
    assert indices.dtype == torch.int32 and len(indices) == len(out) and len(out) % 128 == 0
    values = dequantized(*a)
    for row in range(0, len(out), 128):
        tile = indices[row : row + 128]
        assert tile[0] >= 0 and set(tile.tolist()) <= {int(tile[0]), -1}
        out[row : row + 128] = values[row : row + 128] @ blocks(b[0][tile[0]], b[1][tile[0]]).T


def flashinfer_product(a, b, a_scale, b_scale, out):
    if a_scale is None:
        a, a_scale = T.per_token_cast_to_fp8(a)
        return product((a, mn_major(a_scale)), (b, b_scale), out)
    return product((a, a_scale.t()), (b, b_scale), out)


@pytest.fixture
def fake_peers(monkeypatch):
    """Peers that compute on the CPU, and inputs there."""
    modules = {
        "deep_gemm": SimpleNamespace(
            __version__="0", fp8_gemm_nt=product, m_grouped_fp8_gemm_nt_contiguous=grouped_product
        ),
        "flashinfer": SimpleNamespace(__version__="0"),
        "flashinfer.gemm": SimpleNamespace(fp8_blockscale_gemm_sm90=flashinfer_product),
    }
    for module in (deep_gemm, flashinfer_peer):
        monkeypatch.setattr(module, "load", modules.get)
    monkeypatch.setattr(inputs, "DEVICE", "cpu")


CASES = [("fp8_dense", 5, 192, 256, 1), ("fp8_dense_bf16act", 5, 192, 256, 1), ("fp8_grouped", 512, 128, 256, 2),
         ("fp8_grouped_ragged", 600, 128, 256, 5)]  # fmt: skip


@pytest.mark.parametrize("shape", CASES, ids=lambda shape: shape[0])
def test_every_implementation_of_a_case_computes_the_same(shape, fake_peers):
    op, m, n, k, groups = shape
    calls = OPS[op][1](Case(op, m, n, k, groups, 0, 0), lambda name: name != "cublaslt")
    assert list(calls)[:2] == ["tritonfp4", "flashinfer" if op.endswith("act") else "deep_gemm"]
    results = {}
    for name, call in calls.items():
        result = call()
        results[name] = result[call.rows] if isinstance(call, deep_gemm.GroupedCall) else result
    for name, result in results.items():
        assert warm.difference(results["tritonfp4"], result) < (2e-3 if name == "torch_bf16" else 1e-5), name


def test_warming_reports_differences_and_failures(fake_peers, monkeypatch):
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)
    case = Case("fp8_dense", 4, 128, 128, 1, 0, 0)
    found = warm.called(case, OPS["fp8_dense"][1], run.wanted(["deep_gemm"]))
    assert set(found) == {"tritonfp4", "deep_gemm"} and found["deep_gemm"] < 1e-5
    failing = {"tritonfp4": lambda: torch.ones(4), "deep_gemm": lambda: 1 / 0}
    found = warm.called(case, lambda case, wants: failing, run.wanted(None))
    assert found == {"tritonfp4": pytest.approx(0), "deep_gemm": f"{case.name}: ZeroDivisionError: division by zero"}


def test_a_run_writes_a_file_that_the_comparison_reads(fake_peers, monkeypatch, tmp_path):
    monkeypatch.setitem(OPS, "fp8_dense", ([Case("fp8_dense", 4, 128, 128, 1, 1e6, 1e3)], OPS["fp8_dense"][1]))
    monkeypatch.setattr(run, "measure", lambda calls, flush: {name: 2.0 + index for index, name in enumerate(calls)})
    monkeypatch.setattr(run, "machine", lambda: {"device": "x", "torch": "2", "triton": "3"})
    monkeypatch.setattr("sys.argv", ["run", "fp8_dense", "--peers", "deep_gemm", "--out", str(tmp_path / "new")])
    run.main()
    assert compare.read(tmp_path / "new", "fp8_dense") == {(4, 128, 128, 1): {"tritonfp4": 2.0, "deep_gemm": 3.0}}
    with open(tmp_path / "new" / "fp8_dense.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == run.COLUMNS and rows[0]["tflops"] == "0.5" and rows[0]["gbps"] == "0"


def test_a_peer_that_is_not_wanted_is_not_built(fake_peers):
    calls = OPS["fp8_dense"][1](Case("fp8_dense", 4, 128, 128, 1, 0, 0), run.wanted([]))
    assert not {"deep_gemm", "flashinfer", "cublaslt"} & set(calls)


def test_a_peer_that_does_not_import_says_so_once(capsys):
    peers.load.cache_clear()
    assert peers.load("no_such_peer") is None and peers.load("no_such_peer") is None
    assert capsys.readouterr().out == "no_such_peer left out: ModuleNotFoundError: No module named 'no_such_peer'\n"


def test_a_call_that_a_peer_refuses_is_left_out(capsys):
    def refuse():
        raise ValueError("M must be\nlarge")

    assert peers.tried("refusing_peer", refuse) is None
    assert capsys.readouterr().out == "refusing_peer left out: ValueError: M must be\n"


def test_difference_sees_a_wrong_scale():
    x = torch.randn(64, 64)
    assert (
        warm.difference(x, x) < 1e-12 and warm.difference(x, 2 * x) > 0.1 and warm.difference(x, x * float("nan")) == 1
    )


def write(folder, op, times):
    table = [
        {"op": op, "m": m, "n": n, "k": k, "groups": g, "impl": impl, "median_us": us}
        for (m, n, k, g), row in times.items()
        for impl, us in row.items()
    ]
    run.write(folder / f"{op}.csv", table)


@pytest.fixture
def results(tmp_path):
    """Small results that meet some bars and miss others."""
    dense = {(m, 7168, 16384, 1): {"tritonfp4": 40, "deep_gemm": 44, "flashinfer": 50} for m in (1, 16, 128)}
    dense[1024, 7168, 16384, 1] = {"tritonfp4": 100, "deep_gemm": 95, "flashinfer": 90, "cublaslt": 150}
    dense[1, 4096, 7168, 1] = {"tritonfp4": 30, "deep_gemm": 33}
    dense[16384, 0, 32768, 1] = {"copy": 500}
    write(tmp_path, "fp8_dense", dense)
    equal, ragged = (4096, 4096, 7168, 32), (4096, 7168, 2048, 32)
    write(tmp_path, "fp8_grouped", {equal: {"tritonfp4": 100, "deep_gemm": 95}, ragged: {"tritonfp4": 50}})
    write(tmp_path, "fp8_grouped_ragged", {equal: {"tritonfp4": 114}, ragged: {"tritonfp4": 58}})
    hosts = {"bare": 17, "fp8_blockscale_gemm_sm90": 30, "gemm_fp8_nt_groupwise": 33}
    write(tmp_path, "fp8_host", {(1, 128, 128, 1): hosts})
    return tmp_path


def test_bars_are_held_against_the_results(results):
    verdicts = {line.name.strip(): line.ok for line in compare.lines(results)}
    assert verdicts == {
        "1 flashinfer": False,  # 0.90 in one cell
        "flashinfer, M <= 128": None,
        "flashinfer, M >= 1024": None,
        "2 deep_gemm, M <= 128": True,
        "2 deep_gemm, M >= 1024": True,
        "3 cublaslt": True,
        "cublaslt, M <= 128": None,
        "cublaslt, M >= 1024": None,
        "4 weights of 64 MiB or more": False,  # 2.94 of 4.29 TB/s
        "4 weights of 28 MiB to 64 MiB": False,
        "4 host time of an eager call": True,
        "5 deep_gemm, equal groups": True,
        "5 ragged groups over equal ones": False,  # 1.16 in one cell
        "deep_gemm, ragged groups padded to 128 rows": None,
        "6 flashinfer, bf16 activations": None,
    }


def test_numbers_and_missed_goals_are_printed(results):
    text = {line.name.strip(): str(line) for line in compare.lines(results)}
    assert "geometric mean 1.100, worst 1.100" in text["2 deep_gemm, M <= 128"]
    assert "below 1.00: M=1024 N=7168 K=16384 0.950" in text["2 deep_gemm, M >= 1024"]
    assert "M=1 N=7168 K=16384 0.68" in text["4 weights of 64 MiB or more"]
    assert text["6 flashinfer, bf16 activations"].startswith("[    ]")
    assert "| M=1024 N=7168 K=16384 | 100.0 | 1.50 | 0.95 | 0.90 |" in compare.cells(compare.read(results, "fp8_dense"))


def test_an_empty_folder_has_no_verdict(tmp_path):
    assert {line.ok for line in compare.lines(tmp_path)} == {None}


def test_host_times_are_medians_of_calls_that_take_turns():
    host = pytest.importorskip("benchmarks.host")
    seen = []
    found = host.host_times({"a": lambda: seen.append("a"), "b": lambda: seen.append("b")}, 3, 2, lambda: None)
    assert list(found) == ["a", "b"] and all(0 < us < 1000 for us in found.values())
    assert "".join(seen[100:]) == "aaabbbaaabbb"


@pytest.mark.parametrize("op", ["fp8_dense", "fp8_grouped"])
def test_results_can_be_plotted(op, tmp_path):
    pyplot = pytest.importorskip("matplotlib.pyplot")
    from benchmarks import plot

    row = {"n": "128", "k": "256", "groups": "4" if op == "fp8_grouped" else "1"}
    points = [
        row | {"m": str(m), "impl": impl, "median_us": "3", "tflops": "5"} for m in (4, 64) for impl in plot.NAMES
    ]
    figure = (plot.bars if op == "fp8_grouped" else plot.curves)(pyplot, points)
    figure.savefig(tmp_path / "x.png")
    pyplot.close(figure)
