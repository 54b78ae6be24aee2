"""Which kernel and which launch parameters: data and one function, no timing at run time."""

from tritonfp4.autotune.legality import Problem, illegal
from tritonfp4.autotune.select import explain, select

__all__ = ["Problem", "explain", "illegal", "select"]
