"""Formats are data: what each name stands for."""

import dataclasses

import pytest

from tritonfp4 import formats
from tritonfp4.formats import FORMATS, RULE_ALIASES, RULES

FACTS = {
    "nvfp4": ("e2m1", "e4m3", (1, 16), 6.0, True, 2),
    "mxfp4": ("e2m1", "e8m0", (1, 32), 6.0, False, 2),
    "mxfp8": ("e4m3", "e8m0", (1, 32), 448.0, False, 1),
    "fp8_1x128": ("e4m3", "fp32", (1, 128), 448.0, False, 1),
    "fp8_128x128": ("e4m3", "fp32", (128, 128), 448.0, False, 1),
    "fp8": ("e4m3", "", (1, 128), 448.0, True, 1),
    "mxfp8_e5m2": ("e5m2", "e8m0", (1, 32), 57344.0, False, 1),
    "fp8_1x128_e5m2": ("e5m2", "fp32", (1, 128), 57344.0, False, 1),
    "fp8_128x128_e5m2": ("e5m2", "fp32", (128, 128), 57344.0, False, 1),
    "fp8_e5m2": ("e5m2", "", (1, 128), 57344.0, True, 1),
}


def test_the_formats_are_those_of_the_specification():
    found = {name: (f.element, f.scale, f.block, f.element_max, f.two_level, f.packing) for name, f in FORMATS.items()}
    assert found == FACTS


@pytest.mark.parametrize("name", FORMATS)
def test_a_format_is_registered_under_its_own_name(name):
    assert FORMATS[name].name == name


@pytest.mark.parametrize("name", FORMATS)
def test_vec_is_the_width_of_a_block(name):
    assert FORMATS[name].vec == FORMATS[name].block[1]


def test_a_format_is_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        formats.NVFP4.name = "other"


def test_formats_are_equal_by_value():
    assert dataclasses.replace(formats.NVFP4) == formats.NVFP4
    assert formats.NVFP4 != formats.MXFP4


def test_fp4_formats_are_those_with_e2m1_elements():
    assert set(formats.FP4_FORMATS) == {name for name, f in FORMATS.items() if f.element == "e2m1"}


@pytest.mark.parametrize(
    ("alias", "canonical"),
    [
        ("always_6", "static_6"),
        ("always_4", "static_4"),
        ("l1_norm", "mae"),
        ("rceil", "static_6"),
        ("ceil", "static_4"),
    ],
)
def test_both_families_of_rule_names_mean_the_same(alias, canonical):
    assert RULE_ALIASES[alias] == RULE_ALIASES[canonical] == canonical


def test_every_alias_names_a_rule_of_some_format():
    assert set(RULE_ALIASES.values()) == {rule for rules in RULES.values() for rule in rules}


@pytest.mark.parametrize(
    ("rule", "e4m3_max", "d"),
    [
        ("static_6", 448, 2688), ("static_4", 448, 1792), ("static_6", 256, 1536),
        ("mse", 256, 1536), ("mae", 448, 2688), ("abs_max", 256, 1536),
    ],
)  # fmt: skip
def test_scale_range_is_the_element_value_times_the_range_of_the_scales(rule, e4m3_max, d):
    assert formats.scale_range(rule, e4m3_max) == d


def test_default_range_of_the_scales():
    """256 for the rules of four-over-six, 448 for the others."""
    assert {rule: formats.default_e4m3_max(rule) for rule in RULES["nvfp4"]} == {
        "static_6": 448, "static_4": 448, "mse": 256, "mae": 256, "abs_max": 256,
    }  # fmt: skip
