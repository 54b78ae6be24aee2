"""Scales of ragged groups on their way to the Hopper kernel: the pass in plain Triton that moves them."""

import random

import gemm_checks as C
import interpreter_patch  # noqa: F401  (the conftest installs it on Triton 3.6)
import pytest
import torch

from tritonfp4.kernels.hopper.scales import spread_scales


def columns(sizes, before, after):
    """The column of every row: segment i, from row f on, begins at (f + 3 i) // 4 * 4."""
    found, first = [], 0
    for i, size in enumerate((before, *sizes, after)):
        start = (first + 3 * i) // 4 * 4
        found += range(start, start + size)
        first += size
    return found


@pytest.mark.parametrize("form", ["K", "MN", "strided"])
@pytest.mark.parametrize("sizes, before, after", [
    (C.RAGGED, 5, 9), ((0, 0), 0, 3), ((7,), 0, 0), ((1,) * 70, 2, 0), ((0, 0, 5, 0, 130, 0, 0), 3, 0),
])  # fmt: skip
def test_every_scale_gets_its_place(sizes, before, after, form):
    indptr, _, rows = C.ragged(sizes, before, after)
    scales = torch.rand(rows, 17)
    given = {"K": scales, "MN": scales.t().contiguous().t(), "strided": scales.repeat_interleave(2, 1)[:, ::2]}[form]
    out, drawn = spread_scales(given, indptr)
    assert drawn.tolist() == [0]
    assert out.shape[0] == 17 and out.stride(1) == 1 and out.stride(0) % 4 == 0
    assert torch.equal(out[:, columns(sizes, before, after)], scales.t())


@pytest.mark.parametrize("seed", range(8))
def test_any_offsets_stay_within_the_result(seed):
    """Nonsense may move two scales to one place, and every scale to one that exists."""
    draw = random.Random(seed)
    rows, count = draw.randint(1, 40), draw.randint(1, 40)
    offsets = [
        draw.choice((-(2**31), -7, draw.randint(0, rows), draw.randint(0, 50), 2**31 - 1)) for _ in range(count + 1)
    ]
    scales = 1 + torch.rand(rows, 3)
    out, _ = spread_scales(scales, torch.tensor(offsets, dtype=torch.int32))
    found = []
    for m in range(rows):
        starts = [max(start, 0) for start in offsets if start <= m]
        first = max(starts, default=0)
        column = (first + 3 * len(starts)) // 4 * 4 + m - first
        assert 0 <= column < out.shape[1]
        found.append(column)
    if len(set(found)) == rows:
        assert torch.equal(out[:, found], scales.t())
