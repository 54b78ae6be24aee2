"""Jit functions of Gluon on torch tensors, their PTX in an emulator: what the tests of the FP4 decoders share."""

import sys
import types

import ptx
import torch

from tritonfp4.reference.encode import e4m3_decode, e8m0_decode, pack, unpack

TYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}
#: What decoded elements are multiplied with, besides their scale: the epilogue takes it back.
SHIFT = {("nvfp4", "bf16"): 2.0**-8, ("nvfp4", "fp16"): 2.0**-7, ("mxfp4", "bf16"): 2.0**-2}
#: Element of a chunk of 128, as it lies in memory, by its name in the fragment: of word i, element p + 4 h of thread t.
NAMES = torch.tensor([
    t * 32 + i * 8 + p + 4 * h for i in range(4) for p in range(4) for t in range(4) for h in range(2)
])  # fmt: skip


class Registers(torch.Tensor):
    """A tensor with as much of Gluon's as the functions need besides."""

    type = types.SimpleNamespace(layout=None)


def registers(x):
    return x.as_subclass(Registers)


def inline_asm_elementwise(asm, constraints, args, dtype, is_pure, pack, load=None):
    """In the emulator. Every operand has the size that its constraint says; what loads is not pure."""
    several = isinstance(dtype, tuple)
    outs = dtype if several else (dtype,)
    kinds = [kind.lstrip("=&") for kind in constraints.split(",")]
    for kind, x in zip(kinds, [*outs, *args], strict=True):
        if isinstance(x, int):
            assert kind == "l" or (kind == "r" and -(2**31) <= x < 2**31)  # a larger one would not be an int32
        else:
            assert getattr(x, "dtype", x).itemsize == {"h": 2, "r": 4, "l": 8}[kind]
    assert pack == 1 and not (is_pure and load)
    plain = [x if isinstance(x, int) else x.as_subclass(torch.Tensor) for x in args]
    got = [
        registers(x.to({2: torch.int16, 4: torch.int32}[out.itemsize]).view(out))
        for out, x in zip(outs, ptx.run(asm, constraints, plain, load), strict=True)
    ]
    return tuple(got) if several else got[0]


GL = types.SimpleNamespace(
    int32=torch.int32,
    float16=torch.float16,
    bfloat16=torch.bfloat16,
    join=lambda a, b: torch.stack((a, b), -1),
    convert_layout=lambda x, layout, assert_trivial: x,
    inline_asm_elementwise=inline_asm_elementwise,
)


def language(module, gl, **others):
    """The module's jit functions, and those of other modules that they call, as functions of what `gl` computes with. `others`
    stand in for what else they call."""
    from triton.experimental.gluon.language import constexpr

    scopes = {}

    def scope_of(name):
        if name not in scopes:
            scope = scopes[name] = {"gl": gl}
            for key, value in vars(sys.modules[name]).items():
                if isinstance(value, constexpr):
                    scope[key] = value.value
                elif isinstance(getattr(value, "fn", None), types.FunctionType):
                    scope[key] = types.FunctionType(value.fn.__code__, scope_of(value.fn.__module__), key)
            scope |= others
        return scopes[name]

    return types.SimpleNamespace(**scope_of(module.__name__))


def call(function, *args):
    """A jit function of tensors and to one."""
    return function(*(registers(x) if isinstance(x, torch.Tensor) else x for x in args)).as_subclass(torch.Tensor)


def scale_values(fmt, codes):
    return (e4m3_decode if fmt == "nvfp4" else e8m0_decode)(codes).double()


def words_of(elements):
    """Element codes [.., 8] -> words."""
    return pack(elements.contiguous()).view(torch.int32).squeeze(-1)


def elements_of(words):
    """Element codes [.., 8] of words."""
    return unpack(words.contiguous().unsqueeze(-1).view(torch.uint8))


def same(got, exact, dtype):
    """The numbers are those, which the type holds exactly, and NaN where those are, and there alone. Zeros have any sign."""
    assert torch.equal(exact.nan_to_num(), exact.to(dtype).double().nan_to_num())
    assert torch.equal(got.isnan(), exact.isnan())
    assert torch.equal(got.nan_to_num(), exact.nan_to_num())  # finite numbers stay what they are, infinities would not


def seeded(*key):
    return torch.Generator().manual_seed(sum(map(ord, "".join(map(str, key)))))


def draw(generator, *shape, low=0, high=256):
    return torch.randint(low, high, shape, generator=generator, dtype=torch.uint8)
