"""What the functions of the dialect share: backend names, and the attributes that flashinfer's GEMMs carry."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

F = TypeVar("F", bound=Callable[..., Any])


def supported_everywhere(backends: tuple[str, ...]) -> Callable[[F], F]:
    """Give a function ``is_compute_capability_supported(cc)`` and ``is_backend_supported(backend, cc=None)``."""

    def decorate(function: F) -> F:
        function.is_compute_capability_supported = lambda cc: True  # type: ignore[attr-defined]
        function.is_backend_supported = lambda backend, cc=None: backend in backends  # type: ignore[attr-defined]
        return function

    return decorate


def core_backend(backend: str) -> str:
    """The backend of the operators that a name stands for."""
    return backend if backend in ("triton", "torch") else "auto"
