"""What the Hopper kernel's launch rests on, without a GPU: operands in memory, tiles that are legal, the walk over them.

The kernel itself compiles in tests/cross_compile and runs in tests/gpu; its twin runs in the interpreter.
"""

import dataclasses
import itertools
import random
import types

import pytest
import torch
from gemm_checks import fp8_operand

from tritonfp4.autotune import Problem, explain, illegal, select
from tritonfp4.autotune.hopper import hopper
from tritonfp4.autotune.legality import hopper_bytes
from tritonfp4.config import Config
from tritonfp4.device import ARCHS, target_info
from tritonfp4.kernels.hopper.operands import as_rows, k_major, m_major, tma_ready

BF16, F16, F32, U8 = torch.bfloat16, torch.float16, torch.float32, torch.uint8
H200 = target_info(90)
FORMATS = ("fp8_1x128", "fp8_128x128")
#: (N, K) of DeepSeek's layers.
SHAPES = ((2112, 7168), (24576, 1536), (32768, 512), (7168, 16384), (4096, 7168), (7168, 2048))


# ---- operands in memory ----


def aligned(*shape, dtype=U8, strides=None, offset=0):
    """A tensor of these strides `offset` elements behind an address that is a multiple of 16."""
    strides = strides or [torch.Size(shape[i + 1 :]).numel() for i in range(len(shape))]
    span = 1 + sum((size - 1) * stride for size, stride in zip(shape, strides, strict=True))
    flat = torch.zeros(span + offset + 16, dtype=dtype)
    start = -flat.data_ptr() % 16 // flat.element_size()
    return flat[start + offset :].as_strided(shape, strides)


def pair(m=5, n=24, k=160, values=None, weights=None, out=None):
    """Operands and output, ready unless replaced."""
    a, b = (aligned(rows, k) if given is None else given for rows, given in ((m, values), (n, weights)))
    lead = a.shape[:-1]
    left = fp8_operand(a, torch.ones(*lead, 2), 1)
    right = fp8_operand(b, torch.ones(*b.shape[:-2], 1, 2), 128)
    return left, right, aligned(*lead, n, dtype=BF16) if out is None else out


@pytest.mark.parametrize("dtype", [BF16, F16])
def test_contiguous_operands_are_ready(dtype):
    left, right, _ = pair()
    assert tma_ready(left, right, aligned(5, 24, dtype=dtype))


@pytest.mark.parametrize("change", [
    {"values": aligned(5, 160, strides=(176, 1))}, {"weights": aligned(24, 160, strides=(160 + 16, 1), offset=32)},
    {"out": aligned(5, 24, dtype=BF16, strides=(32, 1), offset=8)},
    {"values": aligned(1, 160, strides=(160, 1))},
], ids=["rows of a", "rows of b", "rows of out", "one row"])  # fmt: skip
def test_rows_at_multiples_of_16_bytes_are_ready(change):
    assert tma_ready(*pair(**change))


NOT_READY = {
    "a: every second byte": {"values": aligned(5, 160, strides=(320, 2))},
    "a: column-major": {"values": aligned(5, 160, strides=(1, 16))},
    "a: rows 168 bytes apart": {"values": aligned(5, 160, strides=(168, 1))},
    "a: address": {"values": aligned(5, 160, offset=8)},
    "b: every second byte": {"weights": aligned(24, 160, strides=(320, 2))},
    "b: rows 161 bytes apart": {"weights": aligned(24, 160, strides=(161, 1))},
    "b: address": {"weights": aligned(24, 160, offset=1)},
    "out: fp32": {"out": aligned(5, 24, dtype=F32)},
    "out: every second number": {"out": aligned(5, 24, dtype=BF16, strides=(64, 2))},
    "out: rows 56 bytes apart": {"out": aligned(5, 24, dtype=BF16, strides=(28, 1))},
    "out: address": {"out": aligned(5, 24, dtype=BF16, offset=4)},
    "a: matrices apart": {"values": aligned(3, 5, 160, strides=(6 * 160, 160, 1)), "weights": aligned(3, 24, 160)},
    "a: rows between each other": {"values": aligned(3, 5, 160, strides=(160, 480, 1)), "weights": aligned(3, 24, 160)},
    "b: matrices apart": {"values": aligned(3, 5, 160), "weights": aligned(3, 24, 160, strides=(25 * 160, 160, 1))},
    "b: one matrix for all": {"values": aligned(3, 5, 160), "weights": aligned(3, 24, 160, strides=(0, 160, 1))},
    "out: matrices apart": {
        "values": aligned(3, 5, 160), "weights": aligned(3, 24, 160),
        "out": aligned(3, 5, 24, dtype=BF16, strides=(6 * 24, 24, 1))},
}  # fmt: skip


@pytest.mark.parametrize("case", NOT_READY)
def test_what_tma_does_not_take(case):
    assert not tma_ready(*pair(**NOT_READY[case]))


@pytest.mark.parametrize("index", [0, 1])
def test_global_scales_are_not_for_this_kernel(index):
    parts = list(pair())
    assert tma_ready(*parts)
    parts[index] = dataclasses.replace(parts[index], global_scale=torch.ones(1))
    assert not tma_ready(*parts)


def test_matrices_one_after_the_other_are_ready_and_one_alone_lies_anywhere():
    assert tma_ready(*pair(values=aligned(3, 5, 160), weights=aligned(3, 24, 160)))
    assert tma_ready(*pair(values=aligned(3, 5, 160, strides=(5 * 176, 176, 1)), weights=aligned(3, 24, 160)))
    alone = {"values": aligned(1, 5, 160, strides=(7, 160, 1)), "weights": aligned(1, 24, 160, strides=(3, 160, 1))}
    assert tma_ready(*pair(**alone))


def test_as_rows_is_a_view_of_all_rows():
    x = torch.arange(3 * 5 * 24).view(3, 5, 24)
    rows = as_rows(x[..., :16])
    assert torch.equal(rows, x[..., :16].reshape(15, 16)) and rows.data_ptr() == x.data_ptr()
    assert as_rows(x[0]) is not None and as_rows(x[0]).data_ptr() == x.data_ptr()


#: name -> scales [.., 5, 7], whether their memory will do along K, along M.
SCALES = {
    "contiguous": (aligned(5, 7, dtype=F32), False, False),
    "rows 8 apart": (aligned(5, 7, dtype=F32, strides=(8, 1)), True, False),
    "rows 8 apart, address": (aligned(5, 7, dtype=F32, strides=(8, 1), offset=1), False, False),
    "columns 5 apart": (aligned(5, 7, dtype=F32, strides=(1, 5)), False, False),
    "columns 8 apart": (aligned(5, 7, dtype=F32, strides=(1, 8)), False, True),
    "columns 8 apart, address": (aligned(5, 7, dtype=F32, strides=(1, 8), offset=2), False, False),
    "neither": (aligned(5, 7, dtype=F32, strides=(16, 2)), False, False),
    "batch, rows 8 apart": (aligned(3, 5, 7, dtype=F32, strides=(40, 8, 1)), True, False),
    "batch, rows 8 apart and a gap": (aligned(3, 5, 7, dtype=F32, strides=(48, 8, 1)), False, False),
    "batch, columns 8 apart": (aligned(3, 5, 7, dtype=F32, strides=(56, 1, 8)), False, True),
    "batch, columns 8 apart and a gap": (aligned(3, 5, 7, dtype=F32, strides=(64, 1, 8)), False, False),
    "batch, contiguous": (aligned(3, 5, 7, dtype=F32), False, False),
}


@pytest.mark.parametrize("name", SCALES)
def test_scales_in_either_order(name):
    """The same numbers in a form that TMA reads; in place where they have it, else copied."""
    scales, along_k, along_m = SCALES[name]
    scales.copy_(torch.rand(scales.shape))
    for got, want, free in (
        (k_major(scales), scales.reshape(-1, 7), along_k), (m_major(scales), scales.mT.reshape(-1, 5), along_m)
    ):  # fmt: skip
        assert torch.equal(got, want)
        assert got.stride(1) == 1 and got.stride(0) % 4 == 0 and got.data_ptr() % 16 == 0
        assert (got.data_ptr() == scales.data_ptr()) == free


# ---- legality ----


def problem(m=128, n=4096, k=4096, op="matmul", device=H200, tma=True, a=FORMATS[0], b=FORMATS[1]):
    return Problem(op, m, n, k, a, b, device, tma)


def test_every_shape_gets_a_legal_tile_that_the_kernel_has():
    """Those of the issue, and many more; the stages fit, and one step more of stages would not, or was not asked for."""
    draw = random.Random(0)
    sizes = [(m, n, k) for m in (1, 16, 64, 128, 1024, 4096) for n, k in SHAPES]
    sizes += [(draw.randint(1, 2 ** draw.randint(1, 15)), 8 * draw.randint(1, 2 ** draw.randint(1, 13)), 128) for _ in range(2000)]  # fmt: skip
    for (m, n, k), op in itertools.product(sizes, ("matmul", "grouped")):
        asked = problem(m, n, k, op)
        config = select(asked)
        assert config.path == "hopper" and config == hopper(asked)[0], (asked, explain(asked))
        assert hopper_bytes(config) <= H200.arch.shared_bytes
        warpgroups = config.num_warps // 4 - 1
        assert (config.block_m, warpgroups) in ((64, 1), (64, 2), (128, 2))
        split = 64 * warpgroups // config.block_m
        assert config.num_stages % (2 * split) == 0 or config.pair * split == 1  # as the kernel asserts
        assert config.num_stages % config.pair == 0


@pytest.mark.parametrize("sm_count", [1, 78, 114, 132])
def test_any_number_of_sms(sm_count):
    device = target_info(90, sm_count)
    for m, (n, k), op in itertools.product((1, 17, 65, 200, 5000), SHAPES, ("matmul", "grouped")):
        assert select(problem(m, n, k, op, device)).path == "hopper"


GOOD = Config("hopper", 128, 128, 128, 12, 5, 8)


@pytest.mark.parametrize("change, reason", [
    ({}, None),
    ({"block_m": 64, "num_warps": 8}, None),
    ({"block_m": 64, "num_warps": 12, "num_stages": 4}, None),
    ({"pair": 2, "num_stages": 4}, None),
    ({"block_n": 16, "num_stages": 8}, None),
    ({"block_m": 64}, "num_stages = 5 is not a multiple of 4"),
    ({"pair": 2}, "num_stages = 5 is not a multiple of 2"),
    ({"num_stages": 3}, "num_stages = 3"),
    ({"num_stages": 2, "pair": 2}, "num_stages = 2"),
    ({"num_stages": 6}, "bytes of shared memory"),
    ({"num_stages": 8, "block_n": 128, "pair": 2}, "bytes of shared memory"),
    ({"pair": 4, "num_stages": 4}, "no kernel for stages of 4 steps"),
    ({"block_m": 64, "pair": 3, "num_stages": 12}, "no kernel for stages of 3 steps"),
    ({"num_warps": 8}, "no kernel for tiles of 128 x 128 and 8 warps"),
    ({"num_warps": 16}, "no kernel for tiles"),
    ({"block_m": 32}, "no kernel for tiles of 32 x 128"),
    ({"block_m": 256}, "no kernel for tiles of 256 x 128"),
    ({"block_n": 8}, "no kernel for tiles of 128 x 8"),
    ({"block_n": 256}, "bytes of shared memory"),
    ({"block_n": 256, "num_stages": 4}, None),
    ({"block_n": 256, "num_stages": 4, "pair": 2}, "no kernel for tiles of 128 x 256, 12 warps and stages of 2 steps"),
    ({"block_n": 256, "num_stages": 4, "block_m": 64}, "no kernel for tiles of 64 x 256"),
    ({"block_n": 192, "num_stages": 6}, "bytes of shared memory"),
    ({"block_n": 192}, None),
    ({"block_n": 192, "num_warps": 8}, "no kernel for tiles of 128 x 192 and 8 warps"),
    ({"block_n": 192, "num_stages": 4, "pair": 2}, "no kernel for tiles of 128 x 192, 12 warps and stages of 2 steps"),
    ({"block_n": 512, "num_stages": 4}, "no kernel for tiles of 128 x 512"),
    ({"block_k": 64}, "no kernel for tiles"),
    ({"block_n": 96}, "block_n = 96 is not a power of two"),
])  # fmt: skip
def test_why_a_config_is_illegal(change, reason):
    found = illegal(dataclasses.replace(GOOD, **change), problem())
    assert found is None if reason is None else reason in (found or ""), found


@pytest.mark.parametrize("change, reason", [
    ({"tma": False}, "multiples of 16 bytes"),
    ({"b": "fp8_1x128"}, "not for fp8_1x128 by fp8_1x128"),
    ({"a": "fp8_128x128"}, "not for fp8_128x128 by fp8_128x128"),
    ({"a": "fp8_1x128_e5m2"}, "not for fp8_1x128_e5m2"),
    ({"b": "fp8_128x128_e5m2"}, "not for"),
    ({"a": "mxfp8", "b": "mxfp8"}, "not for mxfp8 by mxfp8"),
    ({"a": "fp8", "b": "fp8"}, "not for fp8 by fp8"),
    ({"a": "nvfp4", "b": "nvfp4"}, "hopper does not multiply nvfp4 by nvfp4"),
    ({"a": "bf16", "b": "nvfp4"}, "hopper does not multiply"),
])  # fmt: skip
def test_what_else_takes_another_path(change, reason):
    asked = problem(**change)
    assert reason in (illegal(GOOD, asked) or "")
    for m, op in itertools.product((1, 64, 4096), ("matmul", "grouped")):
        config = select(dataclasses.replace(asked, m=m, op=op))
        assert config.path != "hopper"
        if not change.keys() & {"a", "b"}:
            assert config.path == "fp8"


@pytest.mark.parametrize("number", [number for number in ARCHS if number != 90])
def test_other_architectures_take_the_twin(number):
    device = target_info(number)
    assert "no wgmma" in (illegal(GOOD, problem(device=device)) or "")
    for m, op in itertools.product((1, 64, 4096), ("matmul", "grouped")):
        config = select(problem(m, device=device, op=op))
        assert config.path == ("fp8" if device.arch.fp8 else "fp8_upcast")


# ---- the walk over tiles ----


class Pointer:
    """As much of a pointer as the walk needs."""

    def __init__(self, values, at=0):
        self.values, self.at = values, at

    def __add__(self, by):
        return Pointer(self.values, self.at + by)


def load(pointer, mask=True, other=0):
    return pointer.values[pointer.at] if mask else other


#: The language of the walk, for Python numbers.
NUMBERS = types.SimpleNamespace(
    minimum=min, maximum=max, where=lambda c, x, y: x if c else y, load=load, cdiv=lambda x, y: -(-x // y)
)


@pytest.fixture
def walk():
    """The walk's jit functions as functions of Python numbers."""
    tiles = pytest.importorskip("tritonfp4.kernels.hopper.tiles")
    scope = {"gl": NUMBERS, "BATCH": 0, "MASKED": 1, "INDPTR": 2}
    for name in ("in_bands", "aligned_start", "first_segment", "to_tile", "segment_end", "place", "drawn"):
        scope[name] = types.FunctionType(getattr(tiles, name).fn.__code__, scope)
    return types.SimpleNamespace(**scope)


def places(walk, groups, count, rows, tiles_n, mode, band, block_m, programs):
    """What `place` says of every tile that any of the programs meets."""
    pointer, single = Pointer(groups), count == 1
    for pid in range(programs):
        t, state = pid, walk.first_segment(pointer, rows, mode)
        while True:
            state = walk.to_tile(t, *state, pointer, count, rows, tiles_n, mode, single, block_m)
            if state[0] >= walk.segment_end(count, mode):
                break
            yield walk.place(t, *state, pointer, count, tiles_n, mode, band, block_m)
            t += programs


@pytest.mark.parametrize("block_m", [64, 128])
@pytest.mark.parametrize("programs", [1, 7, 132])
def test_every_row_and_column_tile_is_met_once(walk, programs, block_m):
    """Ragged groups, with rows before and behind them, in the right matrix; rows of no group without data."""
    draw = random.Random(programs + block_m)
    for _ in range(40):
        count, tiles_n, band = draw.randint(1, 9), draw.randint(1, 4), draw.choice((1, 2, 8))
        sizes = [draw.choice((0, 1, 63, 64, 65, 128, 200)) for _ in range(count)]
        before, after = draw.choice((0, 3, 150)), draw.choice((0, 2, 130))
        groups = [before + sum(sizes[:g]) for g in range(count + 1)]
        rows = before + sum(sizes) + after
        owner = [-1] * before + [g for g, size in enumerate(sizes) for _ in range(size)] + [-1] * after
        seen = {}
        for row, bound, valid, tile_n, matrix in places(walk, groups, count, rows, tiles_n, 2, band, block_m, programs):
            for r in range(row, row + min(bound, block_m)):
                assert (r, tile_n) not in seen
                seen[r, tile_n] = matrix if r - row < valid else -1
        assert seen == {(r, tile_n): owner[r] for r in range(rows) for tile_n in range(tiles_n)}


@pytest.mark.parametrize("mode", [0, 1])
@pytest.mark.parametrize("count, rows, band", [(1, 40, 0), (1, 300, 8), (3, 40, 0), (5, 300, 2)])
def test_every_tile_of_every_matrix_is_met_once(walk, count, rows, band, mode):
    counts = [(-3, 40, 300, 7, 2**31 - 1)[g] for g in range(count)]
    seen = {}
    for row, bound, valid, tile_n, matrix in places(walk, counts, count, rows, 5, mode, band, 64, 132):
        assert matrix * rows <= row and bound > 0
        for r in range(row, row + min(bound, 64)):
            assert (r, tile_n) not in seen
            seen[r, tile_n] = matrix, r - row < valid
    data = [min(max(size, 0), rows) if mode else rows for size in counts]
    assert seen == {
        (g * rows + r, tile_n): (g, r < data[g]) for g in range(count) for r in range(rows) for tile_n in range(5)
    }


@pytest.mark.parametrize(
    "groups", [[0, 9, 4, 23], [-5, 3, 9, 23], [0, 3, 500, 2**31 - 1], [2**31 - 1, -(2**31), 99, 7]]
)
def test_bad_offsets_stay_within_the_rows(walk, groups):
    seen = set()
    for row, bound, valid, _, matrix in places(walk, groups, 3, 23, 1, 2, 8, 64, 3):
        assert 0 <= valid <= bound and row >= 0 and row + bound <= 23 and 0 <= matrix < 3
        seen |= set(range(row, row + bound))
    assert seen == set(range(23))  # no row is left as it was


@pytest.mark.parametrize("walks", [1, 2])
@pytest.mark.parametrize("programs, total", [(132, 1), (132, 132), (132, 133), (132, 1472), (7, 100), (7, 99), (1, 2)])
def test_every_tile_is_drawn_once_and_walks_go_forward(walk, programs, total, walks):
    """Every program draws until it gets no tile, so no ticket that gets none may come before one that gets one."""
    drawn = [walk.drawn(c, programs, total, walks) for c in range(total + 2 * programs)]
    assert sorted(t for t, _ in drawn if t < total) == list(range(programs, total))
    for number in range(walks):
        tiles = [t for t, which in drawn if which == number]
        assert tiles == sorted(tiles)
    rest = max(total - programs, 0)
    assert [t < total for t, _ in drawn] == [True] * rest + [False] * (len(drawn) - rest)


def test_segments_of_scales_begin_aligned_and_do_not_overlap(walk):
    draw = random.Random(1)
    for _ in range(300):
        first = end = 0
        for i in range(draw.randint(1, 40)):
            start, size = walk.aligned_start(first, i), draw.choice((0, 1, 2, 3, 4, 5, 64, 131))
            assert start % 4 == 0 and start >= end
            first, end = first + size, start + size
        assert end <= first + 3 * (i + 1)


# ---- the launch ----


@pytest.fixture
def launched(monkeypatch):
    """A function that gives the arguments with which the launcher launches its kernel."""
    launch = pytest.importorskip("tritonfp4.kernels.hopper.launch")
    seen = []
    monkeypatch.setattr(launch.matmul_fp8_hopper_kernel, "run", lambda *args, **options: seen.append(args))

    def run(left, right, out, config=GOOD, mode="batch", groups=None):
        launch.matmul_fp8_hopper(left, right, groups, mode, out, config)
        return seen.pop()

    return run


@pytest.mark.parametrize("block_n", [16, 128])
def test_the_output_s_descriptor_keeps_rows_behind_a_group_out(launched, block_n):
    """The kernel stores 64 rows, v of them to be kept, at (row + v, 64 - v): what lies within the descriptor, and where."""
    out = aligned(150, 24, dtype=BF16, strides=(32, 1), offset=8)
    left, right, _ = pair(m=150)
    desc = launched(left, right, out, dataclasses.replace(GOOD, block_n=block_n))[4]
    assert list(desc.block_shape) == [1, 64, block_n]
    for row, v in itertools.product((0, 1, 63, 64, 86, 149), (0, 1, 17, 63, 64)):
        stored = {}
        for r, c in itertools.product(range(64), (0, 23, 24)):
            at = row + v, 64 - v + r, c
            if all(0 <= x < size for x, size in zip(at, desc.shape, strict=True)):
                stored[r, c] = desc.base.data_ptr() + 2 * sum(x * s for x, s in zip(at, desc.strides, strict=True))
        if row + v <= 150:  # as the kernel never stores more rows than there are
            assert stored == {(r, c): out.data_ptr() + 2 * ((row + r) * 32 + c) for r in range(v) for c in (0, 23)}


def test_the_output_s_descriptor_of_a_batch_is_that_of_its_rows(launched):
    left, right, out = pair(values=aligned(3, 5, 160), weights=aligned(3, 24, 160))
    desc = launched(left, right, out)[4]
    assert list(desc.shape) == [3 * 5 + 64, 64, 24] and list(desc.strides) == [24, 24, 1]
    assert desc.base.data_ptr() == out.data_ptr() - 64 * 24 * 2


@pytest.mark.parametrize("block_m, warps", [(64, 8), (128, 12)])
def test_tma_loads_no_more_rows_than_it_must(launched, block_m, warps):
    """All rows there are, and less than twice as many."""
    config = dataclasses.replace(GOOD, block_m=block_m, num_warps=warps, num_stages=4, block_n=32)
    for m in (1, 7, 8, 9, 16, 17, 32, 33, 64, 65, 128, 129, 4000):
        left, right, out = pair(m=m)
        box = launched(left, right, out, config)[0].block_shape[0]
        assert box >= min(m, block_m) and box in (8, 16, 32, 64, 128)
        assert box == 8 or box == block_m or box < 2 * m


def test_a_wider_buffer_is_read_up_to_k_alone(launched):
    """The padding of both operands lies outside their descriptors: 0 there, whatever it holds."""
    left, right, out = pair(k=272)
    wide = [fp8_operand(aligned(rows, 384), t.scales, size) for rows, t, size in ((5, left, 1), (24, right, 128))]
    wide = [dataclasses.replace(t, shape=(t.shape[0], 272)) for t in wide]
    args = launched(*wide, out)
    assert [args[i].shape[1] for i in (0, 2)] == [272, 272]
