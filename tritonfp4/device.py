"""What each GPU architecture offers: one table. Adding an architecture is adding a row."""

from __future__ import annotations

import functools
import importlib.metadata
import re
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Arch:
    """One row of the hardware table.

    Attributes:
        number: compute capability as ``10 * major + minor``.
        name: generation.
        shared_bytes: shared memory that one program may use.
        mma: where matrix instructions take operands and accumulators from: "mma.sync" (registers), "wgmma" (operands in
            shared memory) or "tcgen05" (accumulators in tensor memory).
        fp8: whether e4m3 pointers compile.
        native: the Triton version from which ``tl.dot_scaled`` reaches block-scaled FP4 tensor cores; None if there are none.
    """

    number: int
    name: str
    shared_bytes: int
    mma: str
    fp8: bool
    native: tuple[int, ...] | None


ARCHS: dict[int, Arch] = {
    row.number: row
    for row in (
        Arch(80, "Ampere", 166912, "mma.sync", False, None),
        Arch(86, "Ampere", 101376, "mma.sync", False, None),
        Arch(87, "Ampere", 166912, "mma.sync", False, None),
        Arch(89, "Ada", 101376, "mma.sync", True, None),
        Arch(90, "Hopper", 232448, "wgmma", True, None),
        Arch(100, "Blackwell", 232448, "tcgen05", True, (3, 6)),
        Arch(103, "Blackwell", 232448, "tcgen05", True, (3, 6)),
        Arch(110, "Blackwell", 232448, "tcgen05", True, (3, 7, 1)),
        Arch(120, "Blackwell", 101376, "mma.sync", True, (3, 6)),
        Arch(121, "Blackwell", 101376, "mma.sync", True, (3, 8)),
    )
}


@dataclass(frozen=True)
class DeviceInfo:
    """A device as the selection sees it."""

    arch: Arch
    sm_count: int
    native_fp4: bool
    interpreted: bool = False


def version_tuple(text: str) -> tuple[int, ...]:
    """``"3.7.1+git"`` -> ``(3, 7, 1)``."""
    found = re.match(r"\d+(?:\.\d+)*", text)
    return tuple(int(part) for part in found[0].split(".")) if found else ()


@functools.cache
def triton_version() -> tuple[int, ...] | None:
    """Version of the installed Triton, without importing it; None if there is none."""
    try:
        return version_tuple(importlib.metadata.version("triton"))
    except importlib.metadata.PackageNotFoundError:
        return None


def arch_row(number: int) -> Arch:
    """Row of the table for a compute capability; an unknown one gets the nearest older row, without native paths."""
    if number in ARCHS:
        return ARCHS[number]
    older = [n for n in ARCHS if n < number]
    base = ARCHS[max(older)] if older else ARCHS[80]
    return Arch(number, base.name, min(base.shared_bytes, 101376), "mma.sync", base.fp8, None)


@functools.cache
def target_info(number: int, sm_count: int = 132) -> DeviceInfo:
    """The device that a compute capability stands for, present or not."""
    arch, version = arch_row(number), triton_version()
    native = arch.native is not None and version is not None and version >= arch.native
    return DeviceInfo(arch, sm_count, native)


#: What CPU tensors are when the kernels run in Triton's interpreter: an upcasting GPU with few SMs.
INTERPRETER = DeviceInfo(Arch(0, "interpreter", 232448, "", True, None), 4, False, True)


@functools.cache
def device_info(device: torch.device) -> DeviceInfo:
    """Facts about a device; the first call for a CUDA device asks the driver."""
    if device.type != "cuda":
        return INTERPRETER
    properties = torch.cuda.get_device_properties(device)
    return target_info(10 * properties.major + properties.minor, properties.multi_processor_count)
