"""The committed golden vectors are what the reference computes."""

import importlib.util
import json
from pathlib import Path

import pytest
import torch

FOLDER = Path(__file__).parent / "golden"
SPEC = importlib.util.spec_from_file_location("golden_generate", FOLDER / "generate.py")
generate = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(generate)
CASES = json.loads((FOLDER / "quantize.json").read_text())
OUTPUTS = ("values", "scales", "decode")


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["name"])
def test_the_reference_reproduces_the_golden_bytes(case):
    assert generate.run(case) == {name: case[name] for name in OUTPUTS}


def test_the_generator_writes_the_committed_file():
    assert generate.text() == (FOLDER / "quantize.json").read_text()


def test_the_worked_example_is_the_one_computed_by_hand():
    (case,) = [case for case in CASES if case["name"] == "worked example"]
    assert case["input"] == [
        "40400000" "bf800000" "3e800000" "3e000000" "be000000" "00000000" "3f400000" "3fa00000"
        "c0200000" "3f000000" "3f800000" "40000000" "bec00000" "3f200000" "3fe00000" "bd800000"
    ]  # fmt: skip
    assert case["global_scale"] == "40c00000"
    assert {name: case[name] for name in OUTPUTS} == {
        "values": ["c7010843" "2e642a86"], "scales": "76", "decode": "3b124925",
    }  # fmt: skip


@pytest.mark.parametrize("dtype", generate.DTYPES)
def test_words_and_unwords_are_inverse(dtype):
    float_type, kind, digits = generate.DTYPES[dtype]
    x = torch.tensor([0.0, -0.0, 1.5, -1e-7, float("inf"), -float("inf")], dtype=float_type)
    assert torch.equal(generate.unwords(generate.words(x, kind, digits), dtype).view(kind), x.view(kind))


def test_the_names_are_unique_and_the_file_is_small():
    assert len({case["name"] for case in CASES}) == len(CASES)
    assert sum(path.stat().st_size for path in FOLDER.glob("*.json")) < 60_000


@pytest.mark.parametrize(
    ("key", "values"),
    [
        ("format", {"nvfp4", "mxfp4"}),
        ("layout", {"layout_linear", "layout_128x4", "layout_8x4"}),
        ("rule", {"static_6", "static_4", "mse", "mae", "abs_max", "floor", "even"}),
        ("scale_from", {"tensor", "row", "encode", "decode", "amax", "none"}),
    ],
)
def test_the_vectors_cover_every_choice(key, values):
    assert {case[key] for case in CASES} == values
