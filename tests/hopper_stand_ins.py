"""Hopper kernels of several roles on the CPU: the roles of a program take turns, shared memory is a tensor, TMA copies at once or late,
an MMA multiplies when it is waited for. Layouts are nothing; sums are exact."""

import math
import sys
import threading
import types
from concurrent.futures import ThreadPoolExecutor

import torch
from fragment_stand_ins import GL, language, registers

from tritonfp4.layouts import ceil_div


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
        shape = getattr(layout, "shape", None)
        assert shape is None or list(shape) == list(self.data.shape)
        return registers(self.data.clone())

    def store(self, x):
        assert x.shape == self.data.shape and x.dtype == self.data.dtype
        self.data.copy_(x)


def where(condition, x, y):
    if isinstance(condition, torch.Tensor):
        return torch.where(condition, x, y)
    return x if condition else y


def static_assert(condition, message):
    assert condition, message


#: The language of tensors and of Python numbers. Layouts are nothing; sums are exact.
LANGUAGE = types.SimpleNamespace(
    **vars(GL),
    int64=torch.int64,
    float32=torch.float64,
    SliceLayout=lambda dim, parent: None,
    NVMMADistributedLayout=lambda *args: None,
    DotOperandLayout=lambda *args: None,
    arange=lambda start, end, layout: registers(torch.arange(start, end, dtype=torch.int32)),
    split=lambda x: (x[..., 0], x[..., 1]),
    SwizzledSharedLayout=lambda *args: None,
    zeros=lambda shape, dtype, layout: registers(torch.zeros(shape, dtype=dtype)),
    expand_dims=torch.unsqueeze,
    where=where,
    minimum=min,
    maximum=max,
    cdiv=ceil_div,
    static_assert=static_assert,
    static_range=range,
)


# ---- the roles of a program ----


class Turns:
    """Runs functions in threads, one at a time: in turns, each until it waits or tells the others something. `late`: what is asked
    for comes when all others wait; what was asked for before, behind everything that they can do without it. `slow`: a role that goes
    on when all others wait."""

    def __init__(self, late=False, slow=None):
        self.condition, self.late, self.slow = threading.Condition(), late, slow
        self.living, self.coming = set(), []

    def ask(self, load):
        """Let the memory bring something."""
        if self.late and not self.living:
            self.coming.append(load)
        else:
            load()

    def _bring(self):
        self.others()
        for load in self.coming:
            load()

    def run(self, roles):
        if self.coming:
            roles = [*roles, self._bring]
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
            if self.slow in self.living and self.now != self.slow and self.idle >= len(self.living) - 1:
                self.now = self.slow
            else:
                going = self.living - {self.slow} or self.living
                self.now = min(going, key=lambda role: (role <= self.now, role), default=-1)
            self.condition.notify_all()

    def _until_mine(self, me):
        with self.condition:
            self.condition.wait_for(lambda: self.now == me or self.failed)
        if self.failed:
            raise StoppedError

    def others(self, idle=0):
        """Let the others go on, if they have begun. `idle`: how many roles wait, one after the other."""
        if not self.living:
            return
        self.idle, me = idle, self.now
        self._pass_on()
        self._until_mine(me)

    def until(self, ready):
        while not ready():
            slow = self.now == self.slow
            assert self.idle < len(self.living) - slow, "deadlock"
            self.others(0 if slow else self.idle + 1)
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


def value_of(acc):
    """Also of a product that another one is added to before it is waited for."""
    return acc.compute() if isinstance(acc, Pending) else acc


class Number(int):
    """A number with Gluon's attribute."""

    def to(self, dtype):
        return self


def _numbers(name):
    def method(self, other):
        assert name not in ("__floordiv__", "__mod__") or (self >= 0 and other > 0)  # a GPU rounds towards zero
        result = getattr(int, name)(self, other)
        return Number(result) if type(result) is int else result

    return method


for _name in ("add", "radd", "sub", "rsub", "mul", "rmul", "floordiv", "mod"):
    setattr(Number, f"__{_name}__", _numbers(f"__{_name}__"))


def run_program(kernel, pid, programs, allocate, args, _load, late=False, slow=None, **others):
    """A jit function of a module, of one program: its roles in turns. `allocate`: of shared memory that is no barrier."""
    turns = Turns(late, slow)

    def allocate_shared_memory(dtype, shape, layout):
        return Barriers(Barrier(turns) for _ in range(shape[0])) if dtype == torch.int64 else allocate(dtype, shape)

    def warp_specialize(roles, warps, registers):
        assert len(roles) == len(warps) + 1 == len(registers) + 1
        turns.run([lambda f=f, args=args: f(*args) for f, args in roles])

    gl = types.SimpleNamespace(
        **vars(LANGUAGE),
        program_id=lambda axis: Number(pid),
        num_programs=lambda axis: programs,
        load=load,
        store=store,
        allocate_shared_memory=allocate_shared_memory,
        warp_specialize=warp_specialize,
    )
    scope = language(
        sys.modules[kernel.fn.__module__], gl, mbarrier=MBARRIER, fence_async_shared=lambda: None,
        warpgroup_mma_wait=lambda n, deps: deps[0].compute(), _load=lambda *args: turns.ask(lambda: _load(*args)), **others,
    )  # fmt: skip
    vars(scope)[kernel.fn.__name__](*args)


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


def store(pointer, x):
    """Float32 numbers, into memory that is full of NaN before."""
    at, exact = pointer.at.long(), x.as_subclass(torch.Tensor)
    assert ((at >= 0) & (at < pointer.values.numel())).all() and pointer.values[at].isnan().all()
    assert pointer.values.dtype == torch.float32
    assert torch.equal(exact.float().double().nan_to_num(), exact.nan_to_num())
    pointer.values[at] = exact.float()


# ---- TMA ----


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
        self.base, self.shape, self.strides, self.block_shape = host.base, host.shape, host.strides, host.block_shape
        self.dtype, self.layout = host.base.dtype, layout


def load_box(desc, at, barrier, to):
    assert list(to.data.shape) == list(desc.block_shape)
    inside, place = box(desc, at, desc.block_shape)
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
            inside, place = box(desc, at, desc.block_shape)
            place += (desc.base.data_ptr() - self.memory.data_ptr()) // self.memory.element_size()
            assert self.memory[place[inside]].isnan().all()  # once
            self.memory[place[inside]] = tile.data[inside]


def mma(left, right, acc, is_async):
    return Pending(lambda: value_of(acc) + registers(left.double() @ right.data.double()))
