"""What a benchmark is made of: cases, and the calls of every implementation for a case."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

Call = Callable[[], object]
#: Says whether an implementation is to be timed, so that a peer that is not compiles nothing.
Wants = Callable[[str], bool]


@dataclass(frozen=True)
class Case:
    """One row of work: `flops` and `bytes` are what must be done, whatever the implementation does."""

    op: str
    m: int
    n: int
    k: int
    groups: int
    flops: float
    bytes: float

    @property
    def name(self) -> str:
        """For printing."""
        groups = f"{self.groups} groups, " if self.groups > 1 else ""
        return f"{self.op} {groups}{self.m}x{self.n}x{self.k}"


Build = Callable[[Case, Wants], dict[str, Call]]

#: Bits of an FP4 weight with its part of the scale.
FP4_BITS = {"nvfp4": 4.5, "mxfp4": 4.25}
#: Experts that a token goes to.
TOP_K = 4
#: A bf16 matrix of 1 GiB: what `copy` moves, the bandwidth that the products of few rows are measured against.
COPIED = (16384, 32768)


def copy_case(op: str) -> Case:
    """The copy in the file of an operation, so that both were measured on one machine and within minutes."""
    m, k = COPIED
    return Case(op, m, 0, k, 1, 0.0, 4.0 * m * k)


def present(calls: dict[str, Call | None]) -> dict[str, Call]:
    """Without those that are not there."""
    return {name: call for name, call in calls.items() if call is not None}
