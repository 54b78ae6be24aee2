"""Programs that take equal shares of all steps of all tiles, and the kernel that adds up the parts of tiles that are cut.

Of both Hopper kernels for FP4 weights, without a GPU: the roles of a program take turns.
"""

import types

import pytest
import torch
from fragment_stand_ins import SHIFT, TYPES, seeded

import tritonfp4 as T
from tritonfp4.config import Config
from tritonfp4.layouts import ceil_div

pytest.importorskip("triton.experimental.gluon")
from hopper_stand_ins import MBARRIER, Barriers, Pending, run_program, value_of
from hopper_w4_checks import FORMATS, NO_TMA, Finish, Launches, Slot, bring, check_output, inside, matrix_of, tokens_of

from tritonfp4.kernels.hopper import launch_w4, w4, w4_stream
from tritonfp4.kernels.launch import INTERPRETED

#: (row tiles, column tiles, steps of a tile, of a program), and what is cut.
SHARES = {
    "one tile, whole": (1, 1, 2, 2), "one tile, in four": (1, 1, 8, 2), "less than a share": (1, 1, 4, 6),
    "whole tiles": (3, 2, 4, 4), "whole tiles, by twos": (2, 3, 4, 8), "an end, a whole one and a beginning": (1, 5, 6, 10),
    "an end, two whole ones and a beginning": (2, 3, 4, 14), "three parts of each": (2, 2, 6, 2), "parts of all sizes": (2, 3, 10, 6),
    "a little less than a tile": (2, 2, 8, 6), "a little more than a tile": (2, 2, 8, 10), "the rest is small": (1, 3, 8, 22),
}  # fmt: skip
#: Of tiles of 256 rows alone: each warpgroup takes every step of its own.
ODD = {"an odd number of steps, in parts": (1, 3, 5, 4), "an odd number of steps, whole": (2, 2, 3, 6)}
#: Kernel, rows of the weights of a tile.
KINDS = [("hopper_w4", 128), ("stream_w4", 128), ("stream_w4", 256)]
CASES = [(name, *kind) for name in SHARES for kind in KINDS] + [(name, *KINDS[2]) for name in ODD]
TOKENS = 64


class Walk:
    """The programs of a kernel: which steps they multiply, and where they put the sums."""

    def __init__(self, kind, rows, fmt, tiles_m, tiles_n, steps, share, stages, pace=None):
        self.kind, self.rows, self.fmt, self.groups, self.columns = kind, rows, fmt, rows // 64, tiles_m
        self.step = 64 if kind == "hopper_w4" else 128
        self.wholes, self.parts, self.asked, self.met = {}, {}, [], []
        vec, k = FORMATS[fmt].vec, steps * self.step
        self.scale_columns = k // vec // 4
        bytes_of = {"x": TOKENS * self.step * 2, "w": rows * self.step // 2, "s": rows * max(4, self.step // vec)}
        self.x, self.w, self.s = (
            types.SimpleNamespace(bytes=size, dtype=torch.uint8, layout=None, block_shape=[1, 1, 32, 16])
            for size in bytes_of.values()
        )
        out = types.SimpleNamespace(dtype=torch.uint8, layout=None)
        total = tiles_m * tiles_n * steps
        m, n = tiles_m * TOKENS - 3, tiles_n * rows - 8
        if kind == "hopper_w4":
            kernel, ends = w4.matmul_w4_hopper_kernel, (0, True, fmt, "bf16", False, "", 1.0, stages, TOKENS, 8, True)
            args = (
                self.x,
                self.w,
                self.s,
                out,
                None,
                None,
                None,
                None,
                1,
                total,
                share,
                m,
                n,
                k,
                self.scale_columns,
                *ends,
            )
        else:
            ahead = min(launch_w4.AHEAD, stages, share)
            kernel, ends = w4_stream.stream_w4_kernel, (fmt, "bf16", False, "", 1.0, self.groups, stages, TOKENS, ahead)
            args = (self.x, self.w, self.s, out, None, None, None, tiles_m, total, share, m, n, k, *ends)
        for pid in range(ceil_div(total, share)):
            run_program(
                kernel, pid, ceil_div(total, share), lambda dtype, shape: Barriers(Slot() for _ in range(shape[0])), args,
                self._bring, pace == "late", None if pace == "late" else pace, _write=self._write, store_part=self._store_part, weights=self._weights,
                _weights=self._stream_weights, warpgroup_mma=self._mma, tma=NO_TMA, after_previous=lambda: None,
            )  # fmt: skip

    def _bring(self, desc, at, barrier, to):
        if desc is self.w:
            self.asked.append(tuple(at))
        bring(desc, at, barrier, to)

    def _weights(self, w_ring, s_ring, full, stage, phase, me, half, *rest):
        MBARRIER.wait(full.index(stage), phase)
        w, s = w_ring.index(stage).coordinates(self.w), s_ring.index(stage).coordinates(self.s)
        n, k = w[0] // 128, w[1] // 8
        assert w == (n * 128, k * 8) and half == k % 2
        assert s == ((n * self.scale_columns + k * 64 // (64 if self.fmt == "nvfp4" else 128)) * 32, 0)
        return n, k, me, w

    def _stream_weights(self, w_ring, s_ring, stage, fmt, compute, group, groups, layout):
        w, s = w_ring.index(stage).coordinates(self.w), s_ring.index(stage).coordinates(self.s)
        n, k = w[0] // self.rows, w[1] // 16
        assert w == (n * self.rows, k * 16) and s == (n * (groups // 2), k * (2 if fmt == "nvfp4" else 1), 0, 0)
        return [(n, k, group, w, half) for half in (0, 1)]

    def _mma(self, left, right, acc, is_async):
        return Pending(lambda: self._added(left, right, value_of(acc)))

    def _added(self, left, right, acc):
        n, k, group, w, *half = left
        at = right.coordinates(self.x)
        if half:
            assert half == [right.half] and at == (0, k, at[2], 0)
            half, row = half[0], at[2]
        else:
            assert at == (at[0], k * 64)
            half, row = 1, at[0]
        self.met += [w] * half
        return [*(acc if isinstance(acc, list) else []), (n, row, k, group, half)]

    def _steps(self, acc, row, n, group):
        """Of a sum of products, all of these rows and columns."""
        steps = sorted((k, half) for *_, k, _, half in acc)
        assert {(of, at, who) for of, at, _, who, _ in acc} == {(n, row, group)}
        assert self.kind == "hopper_w4" or steps == sorted((k, half) for k, one in steps if one for half in (0, 1))
        return [k for k, half in steps if half]

    def _write(self, acc, tile, desc, x_global, w_global, row, column, bound, valid, matrix, M, *rest):
        assert (row, column) not in self.wholes and bound == M - row and matrix == 0
        n, group = column // self.rows, column % self.rows // 64
        self.wholes[row, column] = self._steps(acc, row, n, group)

    def _store_part(self, acc, parts, slot, group, groups):
        assert (slot, group) not in self.parts and groups == self.groups
        n, row, *_ = acc[0]
        self.parts[slot, group] = self._steps(acc, row, n, group)


@pytest.mark.parametrize("fmt, pace", [("nvfp4", None), ("mxfp4", "late"), ("nvfp4", 0), ("mxfp4", 2)])
@pytest.mark.parametrize("name, kind, rows", CASES)
def test_every_step_of_every_tile_is_added_once(monkeypatch, name, kind, rows, fmt, pace):
    """In one piece, or in parts that the kernel behind adds up: each step is a bit of its sum. Memory or one of the roles may be slow."""
    tiles_m, tiles_n, steps, share = (SHARES | ODD)[name]
    monkeypatch.setattr(launch_w4, "finish_w4_kernel", Finish())
    for stages in (2, 4, 5 if rows == 256 or kind == "hopper_w4" else 6):
        walk = Walk(kind, rows, fmt, tiles_m, tiles_n, steps, share, stages, pace)
        tiles, m, n = tiles_m * tiles_n, tiles_m * TOKENS, tiles_n * rows
        out = torch.full((m, n), float("nan"))
        for (row, column), met in walk.wholes.items():
            assert met == list(range(steps))
            out[row : row + TOKENS, column : column + 64] = sum(2.0**k for k in met)
        parts = torch.full((2 * ceil_div(tiles * steps, share), TOKENS, rows // 64, 64), float("nan"))
        for (slot, group), met in walk.parts.items():
            parts[slot, :, group] = sum(2.0**k for k in met)
        assert bool(walk.parts) == (share % steps > 0 and tiles * steps > share)
        if walk.parts:
            pointers, ends = (parts.flatten(), None, None), (False, "", 1.0)
            launch_w4._finish(out, pointers, tiles_m, tiles, share, steps, m, n, ends, rows, TOKENS)
        assert (out == 2**steps - 1).all()


@pytest.mark.parametrize("name, kind, rows", CASES)
def test_no_more_stages_are_asked_for_than_multiplied(name, kind, rows):
    """Nothing comes into memory that its program has left. Each warpgroup that takes a stage multiplies it."""
    walk = Walk(kind, rows, "nvfp4", *(SHARES | ODD)[name], 4)
    assert sorted(walk.asked * walk.groups) == sorted(walk.met)


# ---- the launch, to the output ----


@pytest.fixture
def emulated(monkeypatch):
    return Launches(monkeypatch)


def config(tokens, stages):
    return Config("hopper_w4", 128, 64, tokens, 12, stages, 8, swap=True, shares=True)


@pytest.mark.parametrize("fmt, compute", SHIFT)
@pytest.mark.parametrize("m, n, k, tokens, sms, cut", [
    (70, 136, 384, 64, 9, True), (1, 8, 512, 64, 4, True), (150, 264, 256, 128, 5, True), (70, 300, 384, 64, 4, True),
    (65, 128, 128, 64, 2, False),
])  # fmt: skip
def test_products_in_shares(emulated, m, n, k, tokens, sms, cut, fmt, compute):
    """Tiles in two, three and four parts, beside whole ones; whole ones alone need no second kernel."""
    generator = seeded(m, n, fmt, compute)
    w, values = matrix_of(generator, n, k, fmt)
    x = tokens_of(generator, m, k, dtype=TYPES[compute])
    memory, out = inside(m, n)
    emulated(memory, sms)
    launch_w4.matmul_w4_hopper(x, w, out, config(tokens, 3))
    assert emulated.finish.launches == cut
    check_output(memory, out, x.double() @ values.mT)


@pytest.mark.parametrize("per", ["tensor", "row"])
@pytest.mark.parametrize("late", [False, True])
def test_global_scales_of_weights(emulated, late, per):
    """Of tiles in parts and of whole ones."""
    generator, m, n, k = seeded(per), 70, 520, 256
    w, values = matrix_of(generator, n, k, "nvfp4", per)
    x = tokens_of(generator, m, k, dtype=torch.bfloat16)
    memory, out = inside(m, n)
    emulated(memory, 7, late)
    launch_w4.matmul_w4_hopper(x, w, out, config(64, 4))
    assert emulated.finish.launches
    check_output(memory, out, x.double() @ values.mT)


@pytest.mark.skipif(not INTERPRETED, reason="activations are decoded in the interpreter")
@pytest.mark.parametrize("per_row", [False, True])
def test_global_scales_of_activations(emulated, per_row):
    generator, m, n, k = seeded(per_row), 70, 264, 256
    x, tokens = matrix_of(generator, m, k, "nvfp4", "row" if per_row else "tensor")
    w, values = matrix_of(generator, n, k, "mxfp4")
    memory, out = inside(m, n)
    emulated(memory, 4)
    launch_w4.matmul_w4_hopper(x, w, out, config(64, 4))
    assert emulated.finish.launches
    check_output(memory, out, tokens @ values.mT)


def test_outputs_in_fp16(emulated):
    """Whose type is that of the activations."""
    generator, m, n, k = seeded("rows"), 70, 136, 384
    w, values = matrix_of(generator, n, k, "nvfp4")
    x = tokens_of(generator, m, k, dtype=torch.float16)
    w = T.BlockScaledTensor(w.values, w.scales, torch.tensor([2.0**-10]), w.format, w.layout, w.shape)
    memory, out = inside(m, n, dtype=torch.float16)
    emulated(memory, 9)
    launch_w4.matmul_w4_hopper(x, w, out, config(64, 4))
    assert emulated.finish.launches
    check_output(memory, out, x.double() @ values.mT * 2.0**-10)
