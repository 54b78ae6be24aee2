"""Adapters to the implementations that are measured beside this package, one file a peer.

An adapter imports its peer at the first use. `available()` is the peer's version, or None where it does not import; a function
that makes a call returns None where the peer refuses the case. The reason is printed once, and the benchmark goes on without it.
"""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable
from types import ModuleType
from typing import TypeVar

C = TypeVar("C", bound=Callable[[], object])


@functools.cache
def left_out(peer: str, reason: str) -> None:
    """Print the reason, once."""
    print(f"{peer} left out: {reason}", flush=True)


@functools.cache
def load(name: str) -> ModuleType | None:
    """The module of a peer, or None where it does not import."""
    try:
        return importlib.import_module(name)
    except Exception as error:  # a compiled peer fails in many ways: a missing library, symbol, compiler or GPU
        left_out(name, _text(error))
        return None


def tried(peer: str, call: C) -> C | None:
    """The call after one try (which compiles what it needs), or None where the peer refuses."""
    try:
        call()
    except Exception as error:
        left_out(peer, _text(error))
        return None
    return call


def built(peer: str, build: Callable[[], C]) -> C | None:
    """The call that `build` makes, after one try, or None where the peer refuses to make it or to run it."""
    try:
        call = build()
    except Exception as error:
        left_out(peer, _text(error))
        return None
    return tried(peer, call)


def _text(error: Exception) -> str:
    first = str(error).strip().splitlines() or [""]
    return f"{type(error).__name__}: {first[0][:200]}"
