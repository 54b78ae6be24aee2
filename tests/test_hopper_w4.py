"""The Hopper kernel for FP4 weights, without a GPU: the decoder's PTX in an emulator, the roles of a program taking turns.

That the elements lie in the right threads (`assert_trivial`) is for the compiler to say: tests/cross_compile and tests/gpu.
"""

import math
import threading
import types
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from fragment_stand_ins import (
    GL,
    SHIFT,
    TYPES,
    draw,
    elements_of,
    language,
    registers,
    same,
    scale_values,
    seeded,
    words_of,
)

import tritonfp4 as T
from tritonfp4.config import Config
from tritonfp4.layouts import LAYOUTS, SfLayout, ceil_div
from tritonfp4.reference.encode import e2m1_decode

pytest.importorskip("triton.experimental.gluon")
from tritonfp4.kernels.hopper import launch_w4, w4, w4_decode
from tritonfp4.kernels.launch import INTERPRETED

TILED = LAYOUTS[SfLayout.layout_128x4]
FORMATS = {"nvfp4": T.NVFP4, "mxfp4": T.MXFP4}
#: Elements along K of a stage, rows of the weights of a tile.
STEP, ROWS = 64, 128


class Shared:
    """Shared memory: a view of a tensor."""

    def __init__(self, data):
        self.data = data

    def index(self, i):
        return Shared(self.data[i])

    def slice(self, start, length, dim):
        return Shared(self.data.narrow(dim, start, length))

    def permute(self, order):
        return Shared(self.data.permute(order))

    def reshape(self, shape):
        return Shared(self.data.view(shape))

    def load(self, layout):
        return registers(self.data.clone())

    def store(self, x):
        assert x.shape == self.data.shape and x.dtype == self.data.dtype
        self.data.copy_(x)


def where(condition, x, y):
    if isinstance(condition, torch.Tensor):
        return torch.where(condition, x, y)
    return x if condition else y


#: The language of tensors and of Python numbers. Layouts are nothing; sums are exact.
LANGUAGE = types.SimpleNamespace(
    **vars(GL),
    int64=torch.int64,
    float32=torch.float64,
    SliceLayout=lambda dim, parent: None,
    NVMMADistributedLayout=lambda *args: None,
    DotOperandLayout=lambda *args: None,
    arange=lambda start, end, layout: registers(torch.arange(start, end, dtype=torch.int32)),
    zeros=lambda shape, dtype, layout: registers(torch.zeros(shape, dtype=dtype)),
    expand_dims=torch.unsqueeze,
    where=where,
    minimum=min,
    maximum=max,
    cdiv=ceil_div,
    static_range=range,
)

# ---- weights ----

DECODE = language(w4_decode, LANGUAGE)


def tile_of(codes):
    """Scale codes of 128 rows of the weights [128, 4], as a tile lies in memory."""
    return TILED.from_linear(codes).view(torch.int32).view(32, 4)


def check(words, codes, half, fmt, compute):
    """Words [128, 8] with scale codes [128, 4], between other ones, in their own order: e2m1 * scale * shift."""
    noise = draw(seeded(fmt), 3, 128, 8 * 4).view(torch.int32), draw(seeded(compute), 3, 32, 4 * 4).view(torch.int32)
    noise[0][1], noise[1][1] = words, tile_of(codes)
    vec = FORMATS[fmt].vec
    scales = scale_values(fmt, codes).repeat_interleave(vec, -1)[:, half * STEP % (4 * vec) :][:, :STEP]
    exact = e2m1_decode(elements_of(words).flatten(1)).double() * scales * SHIFT[fmt, compute]
    for me, rows in enumerate(exact.split(64)):
        got = DECODE.weights(*map(Shared, noise), 1, me, half, fmt, compute, None)
        assert got.dtype == TYPES[compute] and got.shape == (64, STEP)
        same(got.as_subclass(torch.Tensor).double(), rows, TYPES[compute])


CASES = [(*key, half) for key in SHIFT for half in (0, 1)]


@pytest.mark.parametrize("others", [0, 15])
@pytest.mark.parametrize("fmt, compute, half", CASES)
def test_every_element_in_every_place_with_every_scale(fmt, compute, half, others):
    """One to a word, elsewhere in every word of a row; the word's others are zero, or all their bits are set."""
    row, word, column = torch.arange(256)[:, None], torch.arange(8), torch.arange(4)
    places, codes = (row + word) % 8, ((row + 72 * column) % 256).byte()
    used = codes.repeat_interleave(2, -1) if fmt == "nvfp4" else codes[:, 2 * half :][:, :2].repeat_interleave(4, -1)
    assert len((places * 256 + used).unique()) == 8 * 256
    for element in range(16):
        elements = torch.full((256, 8, 8), others, dtype=torch.uint8)
        elements[row, word, places] = element
        for part in (slice(128), slice(128, 256)):
            check(words_of(elements[part]), codes[part], half, fmt, compute)


@pytest.mark.parametrize("fmt, compute, half", CASES)
def test_neighbours_do_not_reach_each_other(fmt, compute, half):
    """Random words and scales."""
    generator = seeded(fmt, compute, half)
    for _ in range(40):
        check(words_of(draw(generator, 128, 8, 8, high=16)), draw(generator, 128, 4), half, fmt, compute)


@pytest.mark.parametrize("fmt, compute, half", CASES)
def test_every_scale_in_every_place(fmt, compute, half):
    """Four codes of a row as the scales of its eight words, twice: what is left of the shift."""
    codes = torch.arange(256, dtype=torch.uint8)[:, None].repeat(1, 4)
    codes = torch.cat((codes, draw(seeded(fmt), 4096, 4)))
    packed = registers(codes.view(torch.int32))
    got = DECODE._scales(packed, half, fmt, compute, None).as_subclass(torch.Tensor)
    assert got.shape == (len(codes), 8)
    low, high = (part.short().view(TYPES[compute]).double() for part in (got & 0xFFFF, got >> 16))
    # decoding by position leaves 2^-126 or 2^-14, of which 2^126 is made up for MXFP4 behind the scale
    left = SHIFT[fmt, compute] / {"nvfp4": {"bf16": 2.0**-126, "fp16": 2.0**-14}, "mxfp4": {"bf16": 1.0}}[fmt][compute]
    mine = codes.repeat_interleave(2, -1) if fmt == "nvfp4" else codes[:, 2 * half :][:, :2].repeat_interleave(4, -1)
    for x in (low, high):
        same(x, scale_values(fmt, mine) * left, TYPES[compute])


# ---- the roles of a program ----


class Turns:
    """Runs functions in threads, one at a time: in turns, each until it waits or tells the others something. `late`: what is asked
    for comes when all others wait."""

    def __init__(self, late=False):
        self.condition, self.late = threading.Condition(), late

    def run(self, roles):
        self.now, self.idle, self.living, self.failed = 0, 0, set(range(len(roles))), False
        with ThreadPoolExecutor(len(roles)) as pool:
            done = [pool.submit(self._role, me, role) for me, role in enumerate(roles)]
        errors = [error for error in (role.exception() for role in done) if error]
        if errors:
            raise next((error for error in errors if not isinstance(error, StoppedError)), errors[0])

    def _role(self, me, role):
        try:
            self._until_mine(me)
            role()
        except BaseException:
            self.failed = True
            raise
        finally:
            self.idle = 0
            self.living.discard(me)
            self._pass_on()

    def _pass_on(self):
        with self.condition:
            self.now = min(self.living, key=lambda role: (role <= self.now, role), default=-1)
            self.condition.notify_all()

    def _until_mine(self, me):
        with self.condition:
            self.condition.wait_for(lambda: self.now == me or self.failed)
        if self.failed:
            raise StoppedError

    def others(self):
        """Let the others go on."""
        me = self.now
        self._pass_on()
        self._until_mine(me)

    def until(self, ready):
        while not ready():
            self.idle += 1
            assert self.idle <= len(self.living), "deadlock"
            self.others()
        self.idle = 0


class StoppedError(Exception):
    """Another role failed."""


class Barrier:
    def __init__(self, turns):
        self.turns, self.phase = turns, 0

    def init(self, count):
        self.count = self.left = count
        self.bytes = 0

    def come(self, arrivals, size):
        self.left -= arrivals
        self.bytes += size
        assert self.left >= 0
        if self.left == 0 and self.bytes == 0:
            self.left, self.phase = self.count, self.phase ^ 1


class Barriers(list):
    index = list.__getitem__


def arrive(barrier, count):
    barrier.come(count, 0)
    if not barrier.turns.late:
        barrier.turns.others()  # so that what is still read is overwritten


def expect(barrier, size):
    if barrier.turns.late:
        barrier.turns.others()
    barrier.come(1, size)


MBARRIER = types.SimpleNamespace(
    MBarrierLayout=lambda: None,
    init=lambda barrier, count: barrier.init(count),
    wait=lambda barrier, phase: barrier.turns.until(lambda: barrier.phase != phase),
    expect=expect,
    arrive=arrive,
)


class Pending:
    """A product that is computed when it is waited for."""

    def __init__(self, compute):
        self.compute = compute


def run_program(pid, programs, allocate, args, late=False, **others):
    """The kernel, of one program: its roles in turns. `allocate`: of shared memory that is no barrier."""
    turns = Turns(late)

    def allocate_shared_memory(dtype, shape, layout):
        return Barriers(Barrier(turns) for _ in range(shape[0])) if dtype == torch.int64 else allocate(dtype, shape)

    def warp_specialize(roles, warps, registers):
        turns.run([lambda f=f, args=args: f(*args) for f, args in roles])

    gl = types.SimpleNamespace(
        **vars(LANGUAGE),
        program_id=lambda axis: pid,
        num_programs=lambda axis: programs,
        load=load,
        allocate_shared_memory=allocate_shared_memory,
        warp_specialize=warp_specialize,
    )
    kernel = language(
        w4, gl, mbarrier=MBARRIER, fence_async_shared=lambda: None, warpgroup_mma_wait=lambda n, deps: deps[0].compute(), **others
    )  # fmt: skip
    kernel.matmul_w4_hopper_kernel(*args)


class Pointer:
    """As much of a pointer as the kernel needs."""

    def __init__(self, values, at=0):
        self.values, self.at = values, at

    def __add__(self, by):
        return Pointer(self.values, self.at + by)


def load(pointer, mask=True, other=0):
    """Numbers, or tensors of them."""
    at = pointer.at
    if isinstance(at, int):
        return pointer.values[at].item() if mask else other
    mask = torch.as_tensor(mask).expand(at.shape)
    return registers(torch.where(mask, pointer.values.double()[torch.where(mask, at, 0).long()], other))


# ---- which memory is multiplied ----


class Slot:
    """What TMA was asked to bring to a place in shared memory."""

    def permute(self, order):
        return self

    def index(self, me):
        return self  # of the output's tiles: not used here


def walked(mode, groups, count, rows, n, k, fmt, stages, tokens, band, programs, late):
    """Of every tile of both warpgroups: where it is written, and what is multiplied for it."""
    sizes = {"x": tokens * STEP * 2, "w": ROWS * STEP // 2, "s": ROWS * 4}
    x, w, s = (types.SimpleNamespace(bytes=size, dtype=torch.uint8, layout=None) for size in sizes.values())
    out = types.SimpleNamespace(dtype=torch.uint8, layout=None)
    vec, tiles = FORMATS[fmt].vec, []

    def load_box(desc, at, barrier, to):
        to.at = desc, tuple(at)
        barrier.come(0, -desc.bytes)

    def coordinates(slot, desc):
        assert slot.at[0] is desc
        return slot.at[1]

    def weights(w_ring, s_ring, stage, me, half, format, compute, layout):
        assert format == fmt
        return coordinates(w_ring.index(stage), w), coordinates(s_ring.index(stage), s), me, half

    def write(acc, tile, desc, x_global, w_global, row, column, bound, valid, matrix, *rest):
        tiles.append((acc if isinstance(acc, list) else [], row, column, bound, valid, matrix))

    def mma(left, right, acc, is_async):
        before = acc if isinstance(acc, list) else []
        return Pending(lambda: [*before, (*left, coordinates(right, x))])

    constants = (mode, count == 1, fmt, "bf16", False, "", 1.0, stages, tokens, band)
    args = (x, w, s, out, None, None, Pointer(torch.tensor(groups)), count, rows, n, k, k // vec // 4, *constants)
    for pid in range(programs):
        run_program(
            pid, programs, lambda dtype, shape: Barriers(Slot() for _ in range(shape[0])), args, _load=load_box, _write=write,
            weights=weights, warpgroup_mma=mma, late=late, tma=types.SimpleNamespace(store_wait=lambda n: None),
        )  # fmt: skip
    return tiles


def check_walk(owner, count, n, k, fmt, tokens, tiles):
    """Every row and 64 columns of the output once, each from rows and columns of one place; owner: of each row, or -1."""
    vec, seen = FORMATS[fmt].vec, {}
    cols = k // vec
    for products, row, column, bound, valid, matrix in tiles:
        me, first = column // 64 % 2, column // ROWS * ROWS
        for r in range(row, row + min(bound, tokens)):
            assert (r, column) not in seen
            seen[r, column] = matrix if r - row < valid else -1
        want = []
        for at in range(0, k if valid > 0 else 0, STEP):
            r, c = torch.arange(first, min(n, first + ROWS))[:, None], torch.arange(at // vec, (at + STEP) // vec)
            (tile,) = ((matrix * TILED.numel(n, cols) + TILED.offset(r, c, cols)) // 512).unique().tolist()
            half = at // STEP % 2  # NVFP4 ignores it
            if fmt == "mxfp4":
                assert (c % 4).tolist() == [2 * half, 2 * half + 1]
            want.append(((matrix * n + first, at // 8), (tile * 32, 0), me, half, (row, at)))
        assert products == want
    columns = range(0, ceil_div(n, ROWS) * ROWS, 64)
    assert seen == {(r, column): g for r, g in enumerate(owner) for column in columns}


@pytest.mark.parametrize("fmt", FORMATS)
@pytest.mark.parametrize("n", [8, 128, 200, 264])
@pytest.mark.parametrize("mode", [0, 1])
@pytest.mark.parametrize("late", [False, True])
def test_both_sides_walk_batches_alike(late, mode, n, fmt):
    generator = seeded(mode, n, fmt)
    for count, rows, k, stages, tokens, band, programs in (
        (1, 1, 128, 2, 64, 8, 1), (1, 300, 384, 3, 64, 2, 5), (3, 40, 640, 4, 64, 8, 2), (4, 300, 256, 5, 128, 8, 4),
        (2, 257, 1152, 14, 256, 8, 3),
    ):  # fmt: skip
        counts = [(0, 3, rows, 2**31 - 1, -5, 65)[i] for i in torch.randint(6, (count,), generator=generator)]
        tiles = walked(mode, counts, count, rows, n, k, fmt, stages, tokens, band, programs, late)
        held = [min(max(size, 0), rows) if mode else rows for size in counts]
        owner = [g if r < held[g] else -1 for g in range(count) for r in range(rows)]
        check_walk(owner, count, n, k, fmt, tokens, tiles)


@pytest.mark.parametrize("fmt", FORMATS)
@pytest.mark.parametrize("n", [8, 128, 200, 264])
@pytest.mark.parametrize("late", [False, True])
def test_both_sides_walk_ragged_groups_alike(late, n, fmt):
    """Empty groups, rows before and behind them."""
    for sizes, before, after, k, stages, tokens, band, programs in (
        ((5,), 0, 0, 128, 2, 64, 8, 1), ((3, 0, 140, 1, 64), 2, 70, 384, 3, 64, 2, 5), ((0, 0, 200), 65, 0, 256, 5, 128, 8, 4),
        ((1,) * 9, 0, 3, 640, 8, 64, 8, 2),
    ):  # fmt: skip
        groups = [before + sum(sizes[:g]) for g in range(len(sizes) + 1)]
        owner = [-1] * before + [g for g, size in enumerate(sizes) for _ in range(size)] + [-1] * after
        tiles = walked(2, groups, len(sizes), len(owner), n, k, fmt, stages, tokens, band, programs, late)
        # of rows of no group none is multiplied, whatever their matrix
        check_walk(owner, len(sizes), n, k, fmt, tokens, tiles)


# ---- the launch, to the output ----


def box(desc, at, block):
    """Of a descriptor's block: which elements lie within it, and where, from its base."""
    assert len(at) == len(block) == len(desc.shape)
    axes = [start + torch.arange(size) for start, size in zip(at, block, strict=True)]
    grid = torch.meshgrid(*axes, indexing="ij")
    inside = math.prod(((x >= 0) & (x < size)).int() for x, size in zip(grid, desc.shape, strict=True)).bool()
    return inside, sum(x * stride for x, stride in zip(grid, desc.strides, strict=True))


class Descriptor:
    """On the device."""

    def __init__(self, host, layout=None):
        self.base, self.shape, self.strides, self.block = host.base, host.shape, host.strides, host.block_shape
        self.dtype, self.layout = host.base.dtype, layout


def load_box(desc, at, barrier, to):
    assert list(to.data.shape) == list(desc.block)
    inside, place = box(desc, at, desc.block)
    size = 1 + sum((size - 1) * stride for size, stride in zip(desc.shape, desc.strides, strict=True))
    flat = desc.base.as_strided((size,), (1,))
    to.data.copy_(torch.where(inside, flat[torch.where(inside, place, 0)], 0))
    barrier.come(0, -to.data.numel() * to.data.element_size())


class Stores:
    """Stores of the roles, which read shared memory as late as they may."""

    def __init__(self, memory):
        self.memory, self.pending = memory, {}

    def store(self, desc, at, tile):
        self.pending.setdefault(threading.get_ident(), []).append((desc, at, tile))

    def store_wait(self, count):
        assert count == 0
        for desc, at, tile in self.pending.pop(threading.get_ident(), []):
            inside, place = box(desc, at, desc.block)
            place += (desc.base.data_ptr() - self.memory.data_ptr()) // self.memory.element_size()
            self.memory[place[inside]] = tile.data[inside]


def mma(left, right, acc, is_async):
    return Pending(lambda: acc + registers(left.double() @ right.data.double()))


@pytest.fixture
def emulated(monkeypatch):
    """Launches run on the CPU, into this memory."""

    def run(*args, memory, programs):
        *descs, x_global, w_global, groups = args[:7]
        pointers = [None if p is None else Pointer(p.flatten()) for p in (x_global, w_global, groups)]
        stores = Stores(memory)
        for pid in range(programs):
            run_program(
                pid, programs, lambda dtype, shape: Shared(torch.zeros(shape, dtype=dtype)), (*map(Descriptor, descs), *pointers, *args[7:]),
                _load=load_box, _store=stores.store, tma=stores, warpgroup_mma=mma,
            )  # fmt: skip
        assert not stores.pending

    def prepare(memory):
        monkeypatch.setattr(
            launch_w4.matmul_w4_hopper_kernel, "run",
            lambda *args, grid, **options: run(*args, memory=memory.view(-1), programs=grid[0]),
        )  # fmt: skip

    return prepare


def weights_of(generator, count, n, k, fmt, global_scale):
    """Matrices of random FP4 weights, so near each other that sums of products are exact, and their values [count, n, k]."""
    form = FORMATS[fmt]
    values, codes = (
        draw(generator, count, n, k // 2),
        draw(generator, count, n, k // form.vec, low=120, high=128 - (fmt == "nvfp4")),
    )
    w = T.BlockScaledTensor(
        values, TILED.from_linear(codes), global_scale, form, SfLayout.layout_128x4, (count, n, k), batched=True
    )
    words = elements_of(values.view(torch.int32)).flatten(-2)
    return w, e2m1_decode(words).double() * scale_values(fmt, codes).repeat_interleave(form.vec, -1)


def tokens_of(generator, *shape, dtype):
    """Whole numbers of 8 bits."""
    return (draw(generator, *shape).double() - 128).to(dtype)


def inside(*shape, dtype=torch.bfloat16, guard=77.0):
    """An output full of NaN in memory that nobody may write."""
    *lead, rows, n = shape
    memory = torch.full((math.prod(lead) * rows + 20, n + 16), guard, dtype=dtype)
    out = memory[10:-10, 8:-8]
    out.fill_(float("nan"))
    return memory, out.unflatten(0, (*lead, rows)) if lead else out


def check_output(memory, out, want):
    assert torch.equal(out, want.to(out.dtype))
    out.fill_(77.0)
    assert (memory == 77).all()


def tile(tokens, stages):
    return Config("hopper_w4", 128, 64, tokens, 12, stages, 8, swap=True)


@pytest.mark.parametrize("fmt, compute", SHIFT)
@pytest.mark.parametrize("per", ["", "tensor", "row"])
def test_products(emulated, fmt, compute, per):
    """Dense: more rows than a tile, columns that no tile divides; global scales of the weights."""
    generator = seeded(fmt, compute, per)
    for m, n, k, tokens, stages in ((70, 136, 384, 64, 3), (1, 8, 128, 64, 2), (150, 264, 256, 128, 5)):
        scale = {
            "": None,
            "tensor": torch.tensor([0.5]),
            "row": 2.0 ** torch.randint(-3, 4, (n,), generator=generator),
        }[per]
        w, values = weights_of(generator, 1, n, k, fmt, None)
        w = T.BlockScaledTensor(w.values[0], w.scales, scale, w.format, w.layout, (n, k))
        x = tokens_of(generator, m, k, dtype=TYPES[compute])
        memory, out = inside(m, n)
        emulated(memory)
        launch_w4.matmul_w4_hopper(x, w, out, tile(tokens, stages))
        check_output(memory, out, x.double() @ values[0].mT * (1 if scale is None else scale))


@pytest.mark.skipif(not INTERPRETED, reason="activations are decoded in the interpreter")
@pytest.mark.parametrize("a, b", [("nvfp4", "nvfp4"), ("mxfp4", "mxfp4"), ("nvfp4", "mxfp4"), ("mxfp4", "nvfp4")])
@pytest.mark.parametrize("per_row", [False, True])
def test_products_of_fp4_activations(emulated, a, b, per_row):
    """With global scales of their own."""
    generator, m, n, k = seeded(a, b, per_row), 70, 136, 256
    x, tokens = weights_of(generator, 1, m, k, a, None)
    scale = 2.0 ** torch.randint(-3, 4, (m,), generator=generator) if per_row else torch.tensor([0.25])
    x = T.BlockScaledTensor(x.values[0], x.scales, scale, x.format, x.layout, (m, k))
    w, values = weights_of(generator, 1, n, k, b, None)
    w = T.BlockScaledTensor(w.values[0], w.scales, None, w.format, w.layout, (n, k))
    memory, out = inside(m, n)
    emulated(memory)
    launch_w4.matmul_w4_hopper(x, w, out, tile(64, 4))
    check_output(memory, out, tokens[0] @ values[0].mT * scale[:, None])


@pytest.mark.parametrize("fmt, compute", SHIFT)
@pytest.mark.parametrize("mode", ["batch", "masked"])
def test_products_of_batches(emulated, mode, fmt, compute):
    generator = seeded(fmt, compute, mode)
    count, m, n, k, held = 3, 70, 136, 256, (3, 0, 66)
    w, values = weights_of(generator, count, n, k, fmt, torch.tensor([1.0, 2.0, 0.25]))
    x = tokens_of(generator, count, m, k, dtype=TYPES[compute])
    want = x.double() @ values.mT * w.global_scale[:, None, None]
    groups = None
    if mode == "masked":
        groups = torch.tensor(held, dtype=torch.int32)
        for g, size in enumerate(held):
            x[g, size:], want[g, size:] = float("nan"), 0
    memory, out = inside(count, m, n)
    emulated(memory)
    launch_w4.grouped_w4_hopper(x, w, groups, mode, out, tile(64, 4))
    check_output(memory, out, want)


@pytest.mark.parametrize("fmt, compute", SHIFT)
def test_products_of_ragged_groups(emulated, fmt, compute):
    generator = seeded(fmt, compute)
    sizes, before, after, n, k = (3, 0, 70, 1), 2, 5, 200, 384
    w, values = weights_of(generator, len(sizes), n, k, fmt, None)
    offsets = [before + sum(sizes[:g]) for g in range(len(sizes) + 1)]
    x = tokens_of(generator, offsets[-1] + after, k, dtype=TYPES[compute])
    x[:before], x[offsets[-1] :] = float("nan"), float("nan")
    want = torch.zeros(len(x), n, dtype=torch.float64)
    for start, end, matrix in zip(offsets, offsets[1:], values, strict=False):
        want[start:end] = x[start:end].double() @ matrix.mT
    memory, out = inside(len(x), n)
    emulated(memory)
    launch_w4.grouped_w4_hopper(x, w, torch.tensor(offsets, dtype=torch.int32), "indptr", out, tile(64, 3))
    check_output(memory, out, want)
