"""A small emulator of straight-line PTX on 32-bit registers, as `inline_asm_elementwise` is given it, for many inputs at once.

A register is an int64 tensor of values from 0 to 2^32 - 1, an address an int64 tensor, a predicate a bool tensor. What is not known
here is an error.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

import torch

MASK = 0xFFFFFFFF
#: What a register holds that nobody wrote: eight elements of FP4 that are no zeros.
UNDEFINED = 0x7F77F777
#: A load as (words, kind), and the bytes of a word of each kind.
_LOAD = re.compile(
    r"ld\.global(?:\.L1::no_allocate)?(?P<policy>\.L2::cache_hint)?(?P<four>\.v4)?\.(?P<kind>b32|u16|u8)"
)
_BYTES = {"b32": 4, "u16": 2, "u8": 1}
#: Bits of the significand, and the exponent of the smallest subnormal.
_PRECISION = {torch.bfloat16: (8, -133), torch.float16: (11, -24)}


def _power(exponent: torch.Tensor) -> torch.Tensor:
    """2^exponent in float64; `torch.ldexp` goes through float32."""
    return ((exponent.long() + 1023) << 52).view(torch.float64)


def round_to(x: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Float64 to the type, nearest even, in one rounding (`torch.Tensor.to` goes through float32), as bits."""
    bits, lowest = _PRECISION[dtype]
    unit = (torch.frexp(x).exponent - bits).clamp(min=lowest)
    unit = torch.where(x.isfinite(), unit, 0)
    rounded = (x * _power(-unit)).round() * _power(unit)  # what is too large becomes infinity in the cast
    return torch.where(x.isnan(), 0x7FFF, rounded.to(dtype).view(torch.int16).long() & 0xFFFF)


def _fma(dtype: torch.dtype, *halves: torch.Tensor) -> torch.Tensor:
    """a * b + c or a * b. A product of two significands of 8 or 11 bits is exact in float64. The sum is where c is a zero or
    near the product in magnitude, as it is wherever this is used; another one is refused, for it would be rounded twice."""
    a, b, *c = (half.short().view(dtype).double() for half in halves)
    product = a * b
    if not c:
        return round_to(product, dtype)
    total = product + c[0]
    part = total - product
    error = (product - (total - part)) + (c[0] - part)
    if bool((total.isfinite() & (error != 0)).any()):
        raise ValueError("the sum of an fma is not exact in float64")
    return round_to(total, dtype)


def _x2(dtype: torch.dtype) -> Callable[..., torch.Tensor]:
    def both(*registers: torch.Tensor) -> torch.Tensor:
        low, high = (_fma(dtype, *((r >> shift) & 0xFFFF for r in registers)) for shift in (0, 16))
        return low | high << 16

    return both


def _lop3(a: torch.Tensor, b: torch.Tensor, c: torch.Tensor, table: torch.Tensor) -> torch.Tensor:
    """Bit 4 a + 2 b + c of the table, for every bit of the three."""
    if bool((table > 255).any()):
        raise ValueError("a table of three has eight bits")
    out = torch.zeros_like(a)
    for i in range(8):
        out = out | -(table >> i & 1) & (a if i & 4 else ~a) & (b if i & 2 else ~b) & (c if i & 1 else ~c)
    return out


def _prmt(a: torch.Tensor, b: torch.Tensor, selector: torch.Tensor) -> torch.Tensor:
    """Four of the eight bytes of b : a; the top bit of a nibble of the selector asks for the byte's sign, eight times."""
    out = torch.zeros_like(a)
    for i in range(4):
        nibble = selector >> 4 * i & 15
        byte = torch.where((nibble & 4) == 0, a, b) >> 8 * (nibble & 3) & 0xFF
        byte = torch.where(nibble < 8, byte, (byte >> 7) * 0xFF)
        out = out | byte << 8 * i
    return out


_OPERATIONS: dict[str, Callable[..., torch.Tensor]] = {
    "shl.b32": lambda a, by: a << by.clamp(max=32),
    "shr.u32": lambda a, by: a >> by.clamp(max=32),
    "and.b32": lambda a, b: a & b,
    "mul.lo.u32": lambda a, b: a * b,  # int64 wraps: its low half is right
    "lop3.b32": _lop3,
    "prmt.b32": _prmt,
    "fma.rn.bf16x2": _x2(torch.bfloat16),
    "mul.rn.f16x2": _x2(torch.float16),
    "fma.rn.f16x2": _x2(torch.float16),
    "mov.b32": lambda a: a,
    "setp.eq.u32": lambda a, b: a == b,
    "setp.ne.s32": lambda a, b: a != b,
    "selp.b32": lambda a, b, p: torch.where(p, a, b),
}
_OPERANDS = {
    "mov.b32": 1,
    "lop3.b32": 4,
    "prmt.b32": 3,
    "fma.rn.bf16x2": 3,
    "fma.rn.f16x2": 3,
    "selp.b32": 3,
}  # others: 2


def run(
    asm: str, constraints: str, inputs: Sequence[torch.Tensor | int], load: Callable[..., torch.Tensor] | None = None
) -> list[torch.Tensor]:
    """Outputs ($0 and on, as many as the constraints say) of the code; of a negative number the lowest 32 bits are taken.

    An input that is read after an output was written is an error: without an early clobber ("=&r") they may share a register, if both
    have the same size. `load`: of addresses, where they are read, bytes of a word and how many: the words, along the last dimension.
    """
    kinds = constraints.split(",")
    outputs = [f"${i}" for i, kind in enumerate(kinds) if kind.startswith("=")]
    if len(kinds) != len(outputs) + len(inputs):
        raise ValueError(f"{len(inputs)} inputs for {constraints!r}")
    sizes = {f"${i}": kind.lstrip("=&") for i, kind in enumerate(kinds)}
    longs = [torch.as_tensor(x).long() for x in inputs]
    whole = [x if kind == "l" else x & MASK for x, kind in zip(longs, kinds[len(outputs) :], strict=True)]
    values = torch.broadcast_tensors(*whole)
    registers = {f"${i}": value for i, value in enumerate(values, len(outputs))}
    given = set(registers)
    shared = {name for name, kind in zip(outputs, kinds, strict=False) if "&" not in kind}

    def read(name: str) -> torch.Tensor:
        if name in given and any(sizes[name] == sizes[out] for out in shared & registers.keys()):
            raise ValueError(f"{name} is read after an output was written: {asm}")
        if name[0].isdigit():
            return torch.tensor(int(name, 0) & MASK).expand_as(values[0])
        return registers[name]

    def words(statement: str, guard: str, how: re.Match[str], to: str, operands: list[str]) -> None:
        names = re.findall(r"[^{},\s]+", to)
        if (
            load is None
            or len(operands) != (2 if how["policy"] else 1)
            or len(names) != (4 if how["four"] else 1)
            or not (operands[0].startswith("[") and sizes.get(operands[0].strip("[]")) == "l")
        ):
            raise NotImplementedError(statement)
        at, *_ = [read(operand.strip("[]")) for operand in operands]
        wanted = read(guard) if guard else torch.ones_like(at, dtype=torch.bool)
        for name, word in zip(names, load(at, wanted, _BYTES[how["kind"]], len(names)).unbind(-1), strict=True):
            registers[name] = torch.where(wanted, word, registers.get(name, torch.tensor(UNDEFINED)))

    for statement in asm.strip().removeprefix("{").removesuffix("}").split(";"):
        guard, rest = re.fullmatch(r"\s*(?:@(\w+)\s+)?(.*?)\s*", statement, re.DOTALL).groups()  # type: ignore[union-attr]
        operation, _, rest = rest.partition(" ")
        if operation in ("", ".reg"):
            continue
        to, *operands = re.findall(r"\{[^}]*\}|[^,\s]+", rest)
        if how := _LOAD.fullmatch(operation):
            words(statement, guard, how, to, operands)
        elif guard:
            raise NotImplementedError(statement)
        elif operation == "mov.b32" and to.startswith("{") and len(operands) == 1:
            whole_register = read(operands[0])
            low, high = to.strip("{}").replace(" ", "").split(",")
            registers[low], registers[high] = whole_register & 0xFFFF, whole_register >> 16
        elif operation not in _OPERATIONS or len(operands) != _OPERANDS.get(operation, 2):
            raise NotImplementedError(statement)
        else:
            result = _OPERATIONS[operation](*map(read, operands))
            registers[to] = result if result.dtype == torch.bool else result & MASK
    return [registers[name] for name in outputs]
