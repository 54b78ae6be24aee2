"""The benchmarks of FP4 weights: cases, routing, humming's adapter and the bars, without a GPU or humming."""

import sys
from types import SimpleNamespace

import pytest
import torch

import tritonfp4 as T
from benchmarks import bars, compare_fp4, fp4, inputs, peers, run, warm
from benchmarks.case import Case, copy_case
from benchmarks.peers import humming
from benchmarks.registry import OPS

DENSE = ("w4a16_nvfp4", "w4a16_mxfp4", "w4a4_nvfp4", "w4a4_mxfp4")
GROUPED = ("fp4_grouped", "fp4_grouped_mxfp4")
SHAPES = [(4096, 4096), (28672, 4096), (4096, 14336), (8192, 8192)]
EXPERT_SHAPES = [(2048, 2880), (4096, 7168)]
TOKENS = (1, 4, 16, 64, 256, 1024, 4096)


@pytest.mark.parametrize("op", DENSE)
def test_dense_cases_are_those_of_the_bars_and_a_copy(op):
    first, *cases = OPS[op][0]
    assert first == copy_case(op) and first.bytes >= 2**31
    assert [(c.m, c.n, c.k) for c in cases] == [(m, n, k) for n, k in SHAPES for m in (1, 16, 64, 256, 4096)]
    assert [c.m for c in run.chosen(op, [16], ["8192,8192"])] == [first.m, 16]


def test_bytes_count_packed_weights_scales_and_both_activations():
    case = next(c for c in OPS["w4a16_nvfp4"][0] if (c.m, c.n, c.k) == (16, 8192, 8192))
    assert case.bytes == 2 * 16 * 8192 + 8192 * 8192 / 2 + 8192 * 8192 / 16 + 2 * 16 * 8192
    case = next(c for c in OPS["w4a4_mxfp4"][0] if (c.m, c.n, c.k) == (16, 8192, 8192))
    assert case.bytes == (16 + 8192) * 8192 * (1 / 2 + 1 / 32) + 2 * 16 * 8192


@pytest.mark.parametrize("op", GROUPED)
def test_grouped_cases_are_those_of_the_bars(op):
    want = [(e, 4 * tokens, n, k) for e in (8, 32, 128) for n, k in EXPERT_SHAPES for tokens in TOKENS]
    assert [(c.groups, c.m, c.n, c.k) for c in OPS[op][0]] == want
    assert all(case.flops == 2.0 * case.m * case.n * case.k for case in OPS[op][0])


def test_experts_without_rows_are_not_read():
    one_token = next(c for c in OPS["fp4_grouped"][0] if c.groups == 128 and c.m == 4)
    assert one_token.bytes == 4 * 2048 * 2880 * 4.5 / 8 + 2 * 4 * (2048 + 2880)


@pytest.mark.parametrize("experts", [8, 32, 128])
@pytest.mark.parametrize("tokens", [1, 16, 1024])
def test_a_token_goes_to_four_different_experts(experts, tokens):
    chosen = inputs.routes(experts, tokens, 4)
    assert len(chosen) == tokens and all(len(set(one)) == len(one) == 4 for one in chosen)
    assert {expert for one in chosen for expert in one} <= set(range(experts))
    sizes = inputs.routed_sizes(experts, tokens, 4)
    assert sum(sizes) == 4 * tokens and max(sizes) <= tokens and len(sizes) == experts
    assert sizes == [sum(one.count(expert) for one in chosen) for expert in range(experts)]


def test_routing_is_the_same_everywhere():
    assert inputs.routes(8, 3, 4) == [[6, 7, 3, 0], [4, 7, 3, 5], [4, 3, 2, 7]]
    assert inputs.routed_sizes(8, 64, 4) == [36, 29, 31, 26, 37, 31, 32, 34]
    assert inputs.routed_sizes(8, 64, 4, seed=1) != inputs.routed_sizes(8, 64, 4)


class Layer:
    """humming's layer as the adapter uses it, on the CPU: from packed words and linear scales to a product."""

    def __init__(self, *, shape_n, shape_k, weight_config, torch_dtype, num_experts):
        vec, scale = weight_config["group_size"], weight_config["scale_dtype"]
        assert (vec, scale) in ((16, "float8e4m3"), (32, "float8e8m0")) and weight_config["dtype"] == "float4e2m1"
        assert torch_dtype == torch.bfloat16 and ("scale_2_type" in weight_config) == (vec == 16)
        lead = () if num_experts is None else (num_experts,)
        self.humming_config = None
        self.shapes = {"weight": (*lead, shape_n, shape_k // 8), "weight_scale": (*lead, shape_n, shape_k // vec)}
        if vec == 16:
            self.shapes["weight_scale_2"] = lead or (1,)
        self.vec = vec

    def load_from_tensors(self, tensors):
        assert {name: tuple(t.shape) for name, t in tensors.items()} == self.shapes
        assert tensors["weight"].dtype == torch.int32 and tensors["weight_scale"].dtype.is_floating_point
        values = torch.tensor([0, 0.5, 1, 1.5, 2, 3, 4, 6])
        codes = (tensors["weight"].long().unsqueeze(-1) >> torch.arange(0, 32, 4)) & 15
        decoded = values[codes & 7] * torch.where(codes > 7, -1, 1)
        scale = tensors["weight_scale"].float().repeat_interleave(self.vec, -1)
        self.w = (
            decoded.flatten(-2) * scale * tensors.get("weight_scale_2", torch.ones(1)).view(-1, *[1] * (scale.ndim - 1))
        )
        self.w = self.w.view(scale.shape)

    def transform(self):
        self.humming_config = "transformed"

    def __call__(self, x, *, outputs, compute_config, tuning_config, expert_layout=None):
        grouped = expert_layout is not None
        assert compute_config == ({"gemm_type": "grouped_contiguous"} if grouped else {})
        assert tuning_config == {"rows": x.shape[0], **compute_config}
        ends, weights = (expert_layout.tolist(), self.w) if grouped else ([0, x.shape[0]], [self.w])
        for first, end, w in zip(ends, ends[1:], weights, strict=False):
            outputs[first:end] = (x[first:end].float() @ w.T).bfloat16()
        return outputs


def heuristics(config, *, shape_m, device, **compute):
    assert config == "transformed" and device.type == "cpu"
    return {"rows": shape_m, **compute}


@pytest.fixture
def on_cpu(monkeypatch):
    monkeypatch.setattr(inputs, "DEVICE", "cpu")


@pytest.fixture
def fake_humming(monkeypatch, on_cpu):
    modules = {
        "humming": SimpleNamespace(__version__="0.1.19"),
        "humming.layer": SimpleNamespace(HummingLayer=Layer),
        "humming.tune": SimpleNamespace(get_heuristics_config=heuristics),
    }
    monkeypatch.setattr(humming, "load", modules.get)


@pytest.mark.parametrize("op", [*DENSE, *GROUPED])
def test_every_implementation_of_a_case_computes_the_same(op, fake_humming):
    case = Case(op, 24, 64, 128, 8, 0, 0) if op in GROUPED else Case(op, 5, 64, 128, 1, 0, 0)
    calls = OPS[op][1](case, lambda name: True)
    peers_of_it = {"humming"} if "w4a4" not in op else set()
    assert set(calls) == {"tritonfp4", "torch_bf16"} | peers_of_it | ({"torch_dequant"} if op in DENSE else set())
    calls.pop("torch_dequant", None)  # torch.compile
    ours = calls["tritonfp4"]()
    assert ours.shape == (case.m, case.n)
    for name, call in calls.items():
        assert warm.difference(ours, call()) < (0.03 if name == "torch_bf16" else 1e-5), name


def test_the_copy_has_no_other_implementation(on_cpu, monkeypatch):
    monkeypatch.setattr(fp4, "copy_calls", lambda case: {"copy": case})
    case = copy_case("w4a16_nvfp4")
    assert OPS["w4a16_nvfp4"][1](case, lambda name: True) == {"copy": case}


@pytest.fixture
def forget():
    """What was printed once is printed again."""
    peers.left_out.cache_clear()
    peers.load.cache_clear()


def test_without_humming_it_is_left_out_once(on_cpu, forget, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "humming", None)
    calls = OPS["w4a16_nvfp4"][1](Case("w4a16_nvfp4", 2, 64, 128, 1, 0, 0), lambda name: True)
    assert "humming" not in calls and humming.available() is None
    calls = OPS["fp4_grouped"][1](Case("fp4_grouped", 8, 64, 128, 4, 0, 0), lambda name: name != "torch_bf16")
    assert list(calls) == ["tritonfp4"]
    assert capsys.readouterr().out.count("humming left out: ModuleNotFoundError") == 1


def test_humming_that_refuses_a_layer_is_left_out(fake_humming, forget, capsys, monkeypatch):
    monkeypatch.setattr(Layer, "transform", lambda self: 1 / 0)
    b = T.quantize(inputs.random_bf16(64, 128), "nvfp4")
    assert humming.dense(inputs.random_bf16(2, 128), b) is None
    assert humming.dense(T.quantize(inputs.random_bf16(2, 128), "nvfp4"), b) is None
    out = capsys.readouterr().out.splitlines()
    assert out[0] == "humming left out: ZeroDivisionError: division by zero"
    assert out[1].startswith("humming left out: it multiplies FP4 activations from")


def test_a_peer_that_is_not_wanted_is_not_built(fake_humming):
    calls = OPS["fp4_grouped"][1](Case("fp4_grouped", 8, 64, 128, 4, 0, 0), run.wanted([]))
    assert list(calls) == ["tritonfp4"]


def test_the_module_that_both_comparisons_share_names_ragged_groups():
    assert bars.label((4, 2048, 2880, 128)) == "128 groups M=4 N=2048 K=2880"
    assert bars.label((256, 2048, 2880, 32)) == "32x8 N=2048 K=2880"


# ---- bars ----

BYTES = 8192 * 8192 * 4.5 / 8
COPY = 4.0 * 16384 * 32768 / 500  # bytes a microsecond


def dense(times):
    """Every dense shape: rows -> {impl: microseconds}; M = 1 at 60 % of the byte floor of the copy."""
    table = {(m, n, k, 1): dict(row) for n, k in SHAPES for m, row in times.items()}
    for m, n, k, _ in list(table):
        if m == 1 and "tritonfp4" in times[1]:
            scale = n * k * 4.5 / 8 / COPY / 0.60 / times[1]["tritonfp4"]
            table[m, n, k, 1] = {impl: us * scale for impl, us in times[1].items()}
    table[16384, 0, 32768, 1] = {"copy": 500}
    return table


def good():
    """Results that meet every bar."""
    nvfp4 = {m: {"tritonfp4": 10, "humming": 12, "torch_bf16": 24} for m in (1, 16, 64)}
    nvfp4 |= {m: {"tritonfp4": 100, "humming": 101, "torch_bf16": 96} for m in (256, 4096)}
    mxfp4 = {m: {"tritonfp4": row["tritonfp4"]} for m, row in nvfp4.items()}
    w4a4 = {m: {"tritonfp4": row["tritonfp4"] * (1 if m <= 64 else 1.09)} for m, row in nvfp4.items()}
    experts = {
        (4 * tokens, n, k, e): {"tritonfp4": 10, "torch_bf16": 19 if tokens <= 64 else 9.6, "humming": 8}
        for e in (8, 32, 128)
        for n, k in EXPERT_SHAPES
        for tokens in TOKENS
    }
    ops = {"w4a16_nvfp4": dense(nvfp4), "w4a16_mxfp4": dense(mxfp4), "w4a4_nvfp4": dense(w4a4)}
    return ops | {op: {cell: dict(row) for cell, row in experts.items()} for op in GROUPED}


def write(folder, results):
    for op, times in results.items():
        table = [
            {"op": op, "m": m, "n": n, "k": k, "groups": g, "impl": impl, "median_us": us}
            for (m, n, k, g), row in times.items()
            for impl, us in row.items()
        ]
        run.write(folder / f"{op}.csv", table)


def verdicts(folder):
    return {line.name: line.ok for line in compare_fp4.lines(folder)}


BARS = [
    "1 humming, M <= 64",
    "1 humming, M >= 256",
    "2 torch_bf16, M <= 16, large",
    "2 torch_bf16, M = 64",
    "2 torch_bf16, M = 256",
    "2 torch_bf16, M = 4096",
    "3 MXFP4 against NVFP4",
    "4 nvfp4, M = 1, large",
    "4 mxfp4, M = 1, large",
    "5 W4A4 against W4A16, M <= 64",
    "5 W4A4 against W4A16, M >= 256",
    *(f"6 {op}, torch_bf16, {which}" for op in GROUPED for which in ("up to 64 tokens", "4096 tokens")),
]


def test_good_results_pass_every_bar(tmp_path):
    write(tmp_path, good())
    found = verdicts(tmp_path)
    assert [name for name, ok in found.items() if ok] == BARS
    information = {name for name, ok in found.items() if ok is None}
    assert information == {name for name in found if "humming" in name and not name.startswith("1")}


def slower(factor, op, keep, impl="tritonfp4"):
    """What makes some cells of one implementation slower (or faster, for a factor below 1)."""

    def change(results):
        for cell, row in results[op].items():
            if impl in row and keep(*cell):
                row[impl] *= factor

    return change


BIG = 58e6
#: A change to good results, and the bars that it misses.
MISSES = [
    (slower(0.95, "w4a16_nvfp4", lambda m, n, k, g: m <= 64, "humming"), ["1 humming, M <= 64"]),
    (slower(0.98, "w4a16_nvfp4", lambda m, n, k, g: m >= 256, "humming"), ["1 humming, M >= 256"]),
    (slower(0.74, "w4a16_nvfp4", lambda m, n, k, g: (m, n) == (16, 8192), "humming"), ["1 humming, M <= 64"]),
    (slower(0.95, "w4a16_nvfp4", lambda m, n, k, g: m <= 16 and n * k > BIG, "torch_bf16"), ["2 torch_bf16, M <= 16, large"]),
    (slower(0.5, "w4a16_nvfp4", lambda m, n, k, g: m <= 16 and n * k < BIG, "torch_bf16"), []),
    (slower(0.6, "w4a16_nvfp4", lambda m, n, k, g: m == 64, "torch_bf16"), ["2 torch_bf16, M = 64"]),
    (slower(0.98, "w4a16_nvfp4", lambda m, n, k, g: m == 256, "torch_bf16"), ["2 torch_bf16, M = 256"]),
    (slower(0.98, "w4a16_nvfp4", lambda m, n, k, g: m == 4096, "torch_bf16"), ["2 torch_bf16, M = 4096"]),
    (slower(1.04, "w4a16_mxfp4", lambda m, n, k, g: (m, n) == (64, 8192)), []),
    (slower(1.06, "w4a16_mxfp4", lambda m, n, k, g: (m, n) == (64, 8192)), ["3 MXFP4 against NVFP4"]),
    (slower(1.04, "w4a16_mxfp4", lambda m, n, k, g: (m, n) == (1, 8192)), ["4 mxfp4, M = 1, large"]),
    (slower(1.05, "w4a4_nvfp4", lambda m, n, k, g: (m, n) == (64, 8192)), ["5 W4A4 against W4A16, M <= 64"]),
    (slower(1.05, "w4a4_nvfp4", lambda m, n, k, g: (m, n) == (256, 8192)), ["5 W4A4 against W4A16, M >= 256"]),
    *((slower(0.9, op, lambda m, n, k, g: m <= 256, "torch_bf16"), [f"6 {op}, torch_bf16, up to 64 tokens"]) for op in GROUPED),
    *((slower(0.98, op, lambda m, n, k, g: m == 16384, "torch_bf16"), [f"6 {op}, torch_bf16, 4096 tokens"]) for op in GROUPED),
    (slower(0.5, "fp4_grouped", lambda m, n, k, g: 256 < m < 16384, "torch_bf16"), []),
]  # fmt: skip


@pytest.mark.parametrize(("change", "missed"), MISSES)
def test_a_bar_is_missed_by_the_cells_that_it_is_about(change, missed, tmp_path):
    results = good()
    change(results)
    write(tmp_path, results)
    assert [name for name, ok in verdicts(tmp_path).items() if ok is False] == missed


@pytest.mark.parametrize(("n", "missed"), [(8192, True), (4096, False)])
def test_the_byte_floor_is_that_of_large_weights_at_one_row(n, missed, tmp_path):
    results = good()
    slower(1.2, "w4a16_nvfp4", lambda m, rows, k, g: m == 1 and (rows, k) == (n, n))(results)
    write(tmp_path, results)
    assert (verdicts(tmp_path)["4 nvfp4, M = 1, large"] is False) == missed


def test_numbers_are_printed(tmp_path):
    write(tmp_path, good())
    text = {line.name: str(line) for line in compare_fp4.lines(tmp_path)}
    assert "geometric mean 1.200, worst 1.200" in text["1 humming, M <= 64"]
    floor = text["4 nvfp4, M = 1, large"]
    assert "M=1 N=8192 K=8192 0.60" in floor and "N=4096 K=4096" not in floor
    assert floor.endswith(" of a copy's 4.29 TB/s; bar: each >= 0.55")
    assert text["  fp4_grouped, humming, up to 64 tokens"].startswith("[    ]")
    assert text["6 fp4_grouped, torch_bf16, 4096 tokens"].startswith("[pass]")


def test_an_empty_folder_has_no_verdict(tmp_path):
    assert {line.ok for line in compare_fp4.lines(tmp_path)} == {None}


def test_the_command_prints_bars_and_cells(tmp_path, monkeypatch, capsys):
    write(tmp_path, good())
    monkeypatch.setattr("sys.argv", ["compare_fp4", str(tmp_path), "--cells"])
    bars.command("", compare_fp4.lines, compare_fp4.OPS)
    out = capsys.readouterr().out
    assert out.count("[pass]") == len(BARS) and "MISS" not in out
    assert (
        "| M=64 N=4096 K=14336 | 10.0 | 1.20 | 2.40 |" in out
        and "| 128 groups M=4 N=4096 K=7168 | 10.0 | 0.80 | 1.90 |" in out
    )
