"""What the Hopper kernel is given for ragged groups: scales where TMA can load them, and the list of row tiles."""

import itertools
import math
import random

import gemm_checks as C
import interpreter_patch  # noqa: F401  (the conftest installs it on Triton 3.6)
import pytest
import torch

from tritonfp4.kernels.hopper.ragged import CHUNK, ENTRIES, prepare_ragged


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
    out, _ = prepare_ragged(given, indptr, 128)
    assert out.shape[0] == 17 and out.stride(1) == 1 and out.stride(0) % 4 == 0
    assert torch.equal(out[:, columns(sizes, before, after)], scales.t())


def nonsense(draw, rows, count):
    """Offsets that fall, and lie outside."""
    return [
        draw.choice((-(2**31), -7, draw.randint(0, rows), draw.randint(0, 50), 2**31 - 1)) for _ in range(count + 1)
    ]


@pytest.mark.parametrize("seed", range(8))
def test_any_offsets_stay_within_the_result(seed):
    """Nonsense may move two scales to one place, and every scale to one that exists."""
    draw = random.Random(seed)
    rows, count = draw.randint(1, 40), draw.randint(1, 40)
    offsets = nonsense(draw, rows, count)
    scales = 1 + torch.rand(rows, 3)
    out, _ = prepare_ragged(scales, torch.tensor(offsets, dtype=torch.int32), 64)
    found = []
    for m in range(rows):
        starts = [max(start, 0) for start in offsets if start <= m]
        first = max(starts, default=0)
        column = (first + 3 * len(starts)) // 4 * 4 + m - first
        assert 0 <= column < out.shape[1]
        found.append(column)
    if len(set(found)) == rows:
        assert torch.equal(out[:, found], scales.t())


def rising(sizes, before=0):
    return torch.tensor(list(itertools.accumulate(sizes, initial=before)), dtype=torch.int32)


def segments(groups, rows):
    """(first row, end) of what lies before the groups, of each group, and of what lies behind; bad offsets clamped to rising ones."""
    marks = [min(max(int(p), 0), rows) for p in groups] + [rows]
    return list(itertools.pairwise([0, *itertools.accumulate(marks, max)]))


def check_plan(groups, rows, block_m):
    """Every row in one tile of its own segment; among tiles with data the cut ones stand evenly, those without come last."""
    _, plan = prepare_ragged(torch.rand(rows, 1), groups, block_m)
    count, entries = int(plan[0, 0]), plan[1:].tolist()
    assert count <= len(entries)
    parts, seen, cut = segments(groups, rows), [], []
    for row, stored, matrix, column in entries[:count]:
        (i,) = [i for i, (first, end) in enumerate(parts) if first <= row < end]
        first, end = parts[i]
        inside = 1 <= i <= len(groups) - 1
        assert matrix == (i - 1 if inside else -1)
        assert (row - first) % block_m == 0 and stored == end - row
        assert column == (first + 3 * i) // 4 * 4 + row - first
        seen += range(row, min(row + block_m, end))
        if inside:
            cut.append(stored < block_m)
    assert sorted(seen) == list(range(rows))
    assert all(matrix < 0 for _, _, matrix, _ in entries[len(cut):count])  # fmt: skip
    for x in range(len(cut)):
        assert sum(cut[:x]) == math.ceil(x * sum(cut) / len(cut))


@pytest.mark.parametrize("name, groups, rows", [
    ("one group", rising([300]), 300),
    ("whole tiles alone", rising([128, 256, 128]), 512),
    ("cut tiles alone", rising([3, 1, 127, 64]), 195),
    ("empty groups and rows outside", rising([0, 130, 0, 0, 1, 700, 65, 0], 200), 1400),
    ("groups without rows", rising([0, 0, 0], 5), 9),
    ("more groups than are looked at together", rising([i * 7 % 200 for i in range(2 * CHUNK + 5)], 3), 7000),
    ("more tiles than a program lists", rising([1] * (ENTRIES + 40)), ENTRIES + 45),
    ("offsets as int64", rising([40, 300]).long(), 400),
    ("falling offsets", torch.tensor([0, 200, 90, 260], dtype=torch.int32), 300),
    ("offsets outside", torch.tensor([-5, 100, 2000, 7], dtype=torch.int32), 300),
])  # fmt: skip
def test_every_row_is_in_one_tile(name, groups, rows):
    for block_m in (64, 128):
        check_plan(groups, rows, block_m)


@pytest.mark.parametrize("seed", range(8))
def test_every_row_is_in_one_tile_whatever_the_offsets(seed):
    draw = random.Random(seed)
    rows, count = draw.randint(1, 400), draw.randint(1, 40)
    check_plan(torch.tensor(nonsense(draw, rows, count), dtype=torch.int32), rows, 64)
