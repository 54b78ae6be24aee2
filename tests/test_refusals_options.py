"""Refusals of the functions that came with the quantizers' options; those of new parameters are in test_refusals.py."""

import inspect

import pytest
import torch
from refusals import Case, each, message_of, x

import tritonfp4

VALID = {"hadamard_matrix": {}}
CASES = [
    *each("hadamard_matrix", "h", [0, 3, 12, 256, -16, "16", None]),
    *each("hadamard_matrix", "signs", ["TE", "random", 1, [1] * 16]),
    Case("hadamard_matrix", "signs", {"signs": "te", "h": 32}, "'te' with h=16"),
    *each("hadamard_matrix", "signs", [torch.ones(15), torch.ones(16, 1), x()], None, "16 elements"),
    *each("hadamard_matrix", "dtype", [torch.float64, torch.int32, None, "bfloat16"], None, "", TypeError),
]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_a_bad_argument_is_refused_by_name(case):
    assert case.argument in message_of(case, getattr(tritonfp4, case.function), VALID[case.function])


def test_every_parameter_has_a_refusal():
    found = set(inspect.signature(tritonfp4.hadamard_matrix).parameters)
    assert found - {case.argument for case in CASES} == {"device"}  # torch refuses what is no device


@pytest.mark.parametrize("function", ["fp4_quantize", "nvfp4_quantize"])
def test_four_over_six_of_e4m3_is_refused(function):
    with pytest.raises(NotImplementedError, match="requires fp16 or bf16 input"):
        getattr(tritonfp4, function)(
            x(4, 64).to(torch.float8_e4m3fn), torch.ones(1), nvfp4_4over6=tritonfp4.NVFP44Over6Config()
        )


def test_nothing_measures_the_amax_of_e4m3():
    """What its numbers stand for is known only with the global scale."""
    e4m3 = x(4, 64).to(torch.float8_e4m3fn)
    for call in (
        lambda: tritonfp4.quantize(e4m3),
        lambda: tritonfp4.quantize_to_fp4(e4m3),
        lambda: tritonfp4.make_nvfp4_global_scale(e4m3, False),
        lambda: tritonfp4.nvfp4_quantize(e4m3, 1 / 2688, per_token_activation=True),
    ):
        with pytest.raises(NotImplementedError, match="float8_e4m3fn"):
            call()
