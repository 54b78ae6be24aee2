"""docs/seeds.md lists a test for every parameter and note of the seed functions; docs/api.md has a row for every public function."""

import ast
import inspect
import re
from pathlib import Path

import pytest

import tritonfp4
import tritonfp4.flashinfer as flashinfer

ROOT = Path(__file__).parents[1]
SEEDS = {
    "mm_fp4": flashinfer.mm_fp4,
    "fp4_quantize": flashinfer.fp4_quantize,
    "fp8_blockscale_gemm_sm90": flashinfer.fp8_blockscale_gemm_sm90,
    "group_gemm_fp8_nt_groupwise": flashinfer.group_gemm_fp8_nt_groupwise,
    "quantize_to_fp4": tritonfp4.quantize_to_fp4,
    "fp4_matmul": tritonfp4.fp4_matmul,
}


def rows(text):
    """Cells of the table rows of a Markdown text, header and rule left out."""
    for line in text.splitlines():
        cells = [cell.strip() for cell in line.strip().strip("|").split("|")]
        if line.startswith("|") and not set(cells[0]) <= set("-: ") and cells[0] not in ("function", "item"):
            yield cells


def sections():
    """Rows of docs/seeds.md by function."""
    found = {}
    for part in (ROOT / "docs" / "seeds.md").read_text().split("\n## ")[1:]:
        name, _, body = part.partition("\n")
        found[name.strip().strip("`")] = list(rows(body))
    return found


def named_tests(cells):
    return re.findall(r"`(tests/[\w/]+\.py)::(test_\w+)`", cells[-1])


def test_every_seed_has_a_section():
    assert set(sections()) == set(SEEDS)


@pytest.mark.parametrize("name", SEEDS)
def test_every_parameter_of_a_seed_is_listed(name):
    listed = {word for cells in sections()[name] for word in re.findall(r"`(\w+)", cells[0])}
    assert set(inspect.signature(SEEDS[name]).parameters) - listed == set()


@pytest.mark.parametrize("name", SEEDS)
def test_every_listed_test_exists(name):
    for cells in sections()[name]:
        assert named_tests(cells), f"{cells[0]} names no test"
        for path, test in named_tests(cells):
            tree = ast.parse((ROOT / path).read_text())
            assert any(isinstance(node, ast.FunctionDef) and node.name == test for node in tree.body), (path, test)


def test_every_public_function_has_a_row_in_the_api():
    listed = {
        name for cells in rows((ROOT / "docs" / "api.md").read_text()) for name in re.findall(r"`(\w+)`", cells[0])
    }
    public = {
        name for module in (tritonfp4, flashinfer) for name in module.__all__ if inspect.isfunction(getattr(module, name))
    }  # fmt: skip
    assert public - listed == set()
