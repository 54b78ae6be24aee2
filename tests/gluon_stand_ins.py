"""As much of Gluon on the CPU as kernels without shared memory need: what they compute, not where.

Layouts have a rank and nothing else. A pointer knows which elements belong to the tensor that was passed: reading or writing any
other one is an error, also one that lies between its rows. Sums are in float64.
"""

from __future__ import annotations

import functools
import itertools
import types

import torch
from fragment_stand_ins import inline_asm_elementwise


class Value(torch.Tensor):
    """A tensor with Gluon's attributes; statements like `x -= 1` make another one, as they do there."""

    @property
    def type(self):
        return types.SimpleNamespace(layout=Layout(self.ndim))

    def __iadd__(self, other):
        return self + other

    def __isub__(self, other):
        return self - other

    def __floordiv__(self, other):
        assert (self >= 0).all()  # a GPU rounds towards zero, torch down
        return super().__floordiv__(other)

    def __mod__(self, other):
        assert (self >= 0).all()
        return super().__mod__(other)


class Layout:
    def __init__(self, rank):
        self.order = list(range(rank))


def value(x):
    return torch.as_tensor(x, dtype=None if isinstance(x, torch.Tensor) else torch.int32).as_subclass(Value)


def plain(x):
    return torch.as_tensor(x).as_subclass(torch.Tensor)


class Memory:
    """The memory that a tensor lies in, and how often each of its elements was stored."""

    def __init__(self, tensor):
        size = tensor.untyped_storage().nbytes() // tensor.element_size()
        self.all = tensor.as_strided((size,), (1,), 0)
        places = torch.arange(size).as_strided(tensor.shape, tensor.stride(), tensor.storage_offset())
        self.stored = torch.full((size,), -1)  # not of this tensor
        self.stored[places] = 0

        self.strides = None
        self.ready = True  # not what an earlier kernel still writes

    def spread(self, stride, far):
        """Pointers count `far` where the tensor counts `stride`."""
        self.strides = stride, far

    def place(self, at, what):
        """Where elements lie that are read or written, all of which must be the tensor's."""
        assert self.ready, f"{what} of what the kernel before this one writes, before that is done"
        if self.strides:
            stride, far = self.strides
            at = torch.where(at % far < stride, at // far * stride + at % far, -1)
        inside = (at >= 0) & (at < self.all.numel())
        inside &= self.stored[at.where(inside, 0)] >= 0
        assert inside.all(), f"{what} outside of the tensor: element {at[~inside][0]} of its memory"
        return at

    def words(self, address, wanted, size, count):
        """As many words of `size` bytes from each byte address on, where they are wanted."""
        each = self.all.element_size()
        read = address[wanted]
        assert ((self.all.data_ptr() + read) % (size * count) == 0).all() and size % each == 0, "a load between words"
        at = read[:, None] // each + torch.arange(size * count // each)
        found = self.all.view(torch.uint8).view(-1, each)[self.place(at, "a load")].view(-1, count, size).long()
        words = torch.zeros(*address.shape, count, dtype=torch.int64)
        words[wanted] = (found << 8 * torch.arange(size)).sum(-1)
        return words


class Pointer:
    """Pointers to elements of a memory. Arithmetic makes other ones."""

    def __init__(self, memory, at):
        self.memory, self.at = memory, at
        self.dtype, self.shape = types.SimpleNamespace(element_ty=memory.all.dtype), at.shape

    def __add__(self, by):
        return Pointer(self.memory, self.at + plain(by).long())

    def __sub__(self, by):
        return self + -by

    def to(self, dtype, bitcast):
        assert dtype == torch.int64 and bitcast
        return self  # for assembly


def load(pointer, mask=None, other=None, eviction_policy=""):
    assert (mask is None) == (other is None)
    at, mask = torch.broadcast_tensors(pointer.at, plain(True if mask is None else mask))
    places = torch.zeros_like(at)
    places[mask] = pointer.memory.place(at[mask], "a load")
    got = pointer.memory.all[places]
    return value(got if other is None else torch.where(mask, got, torch.tensor(other, dtype=got.dtype)))


def store(pointer, x, mask):
    assert x.dtype == pointer.memory.all.dtype
    at, x, mask = torch.broadcast_tensors(pointer.at, plain(x), plain(mask))
    at = pointer.memory.place(at[mask], "a store")
    pointer.memory.all[at] = x[mask]
    pointer.memory.stored.index_add_(0, at, torch.ones_like(at))


def arange(start, end, layout):
    assert len(layout.order) == 1
    return value(torch.arange(start, end, dtype=torch.int32))


def mma_v2(a, b, acc):
    assert a.dtype == b.dtype and a.dtype.itemsize == 2 and acc.shape == (*a.shape[:2], b.shape[2])
    return acc + a.double() @ b.double()


def _by_layout(*args):
    return Layout(len(args[-1]))


def _with(function):
    """Of two values, one of them maybe a number."""
    return lambda a, b: value(function(a, torch.as_tensor(b, dtype=a.dtype)))


def language(program, warps, after_previous):
    """`gl` of one program. `after_previous`: what to do where it waits for the kernel before."""
    return types.SimpleNamespace(
        int32=torch.int32, int64=torch.int64, float16=torch.float16, bfloat16=torch.bfloat16, float32=torch.float64,
        program_id=lambda axis: value(program[axis]), num_warps=lambda: warps, static_range=range,
        BlockedLayout=_by_layout, NVMMADistributedLayout=_by_layout, DotOperandLayout=lambda operand, parent, width: parent,
        SliceLayout=lambda axis, parent: Layout(len(parent.order) - 1), convert_layout=lambda x, layout, assert_trivial: x,
        arange=arange, zeros=lambda shape, dtype, layout: value(torch.zeros(shape, dtype=dtype)), load=load, store=store,
        expand_dims=lambda x, axis: x.unsqueeze(axis), join=lambda a, b: torch.stack((a, b), -1), sum=lambda x, axis: x.sum(axis),
        cdiv=lambda a, b: -(-a // b), minimum=_with(torch.minimum), maximum=_with(torch.maximum),
        where=lambda condition, a, b: value(torch.where(value(condition), a, b)), inline_asm_elementwise=functools.partial(_inline_asm, after_previous),
    )  # fmt: skip


@functools.lru_cache(maxsize=1024)
def _emulated(asm, constraints, args, options):
    """`args` are numbers, and the bytes, type and shape of tensors."""
    args = [x if isinstance(x, int) else torch.frombuffer(bytearray(x[0]), dtype=x[1]).view(x[2]) for x in args]
    got = inline_asm_elementwise(asm, constraints, args, **dict(options))
    return tuple(map(value, got)) if isinstance(got, tuple) else value(got)


def _inline_asm(after_previous, asm, constraints, args, **options):
    """In the emulator, which is slow: programs decode the same words again and again."""
    if asm.startswith("griddepcontrol.wait;"):
        assert not options["is_pure"]
        return after_previous()
    memories = [x.memory for x in args if isinstance(x, Pointer)]
    if memories:
        args = [x.at * x.memory.all.element_size() if isinstance(x, Pointer) else x for x in args]
        got = inline_asm_elementwise(asm, constraints, args, **options, load=memories[0].words)
        return tuple(map(value, got)) if isinstance(got, tuple) else value(got)
    args = (x if isinstance(x, int) else (plain(x).numpy().tobytes(), x.dtype, x.shape) for x in args)
    return _emulated(asm, constraints, tuple(args), tuple(options.items()))


class Kernel:
    """`kernel[grid](...)` of a jit function, each of its programs in turn; `modules` are those of what it calls, callees first.

    `memories` are those of the last launch, by the names of the arguments. `far`: of a pointer, the name of a stride and what the
    kernel is told instead of it; the tensor stays as it is, and must begin its memory. `previous`: the pointers to what the kernel
    before this one writes, which a launch that may begin early must wait for. `waits`: whether there is such an instruction.
    """

    def __init__(self, jit, *modules, previous=()):
        self.jit, self.modules, self.previous = jit, modules, previous
        self.far, self.memories, self.waits = {}, {}, True

    def _function(self, gl):
        scope = {}
        for module in self.modules:
            scope = scope | {"gl": gl, "mma_v2": mma_v2}
            python, gluon = dict(scope), scope | {"range": lambda *bounds: map(value, range(*map(int, bounds)))}
            for name, item in vars(module).items():
                if hasattr(item, "value"):
                    scope[name] = item.value
                elif hasattr(item, "fn") and item.fn.__module__ == module.__name__:
                    own = gluon if type(item) is type(self.jit) else python  # a function of constants is Python's
                    scope[name] = types.FunctionType(item.fn.__code__, own, name)
            python.update(scope)
            gluon.update(scope)
        return scope[self.jit.fn.__name__]

    def __getitem__(self, grid):
        return lambda *args, **options: self._launch(grid, *args, **options)

    def _launch(self, grid, *args, num_warps, maxnreg=None, launch_pdl=False, **constants):
        given = dict(zip(self.jit.fn.__code__.co_varnames, args, strict=False))
        self.memories = {name: Memory(x) for name, x in given.items() if isinstance(x, torch.Tensor)}
        for name, memory in self.memories.items():
            given[name] = Pointer(memory, torch.tensor(given[name].storage_offset()))
        for pointer, (stride, far) in self.far.items():
            self.memories[pointer].spread(given[stride], far)
            given[stride] = far

        def previous_done(done=True):
            assert self.waits, "a wait for the kernel before this one"
            for name in self.previous:
                self.memories[name].ready = done

        for program in itertools.product(*map(range, grid)):
            if launch_pdl:
                previous_done(False)
            self._function(language(program, num_warps, previous_done))(**given, **constants)
