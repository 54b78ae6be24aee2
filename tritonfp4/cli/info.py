"""``tritonfp4 info``: what is installed, which GPUs there are, and which path a product takes on them."""

from __future__ import annotations

import argparse
import importlib
import os
import platform
import shutil
import sys
import sysconfig
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from tritonfp4 import __version__
from tritonfp4.autotune import explain
from tritonfp4.cli.common import console, contiguous_product, require
from tritonfp4.device import INTERPRETER, DeviceInfo, device_info, target_info
from tritonfp4.formats import FORMATS

PAIRS = (("nvfp4", "nvfp4"), ("mxfp4", "mxfp4"), ("bf16", "nvfp4"), ("bf16", "mxfp4"))
ROWS = (1, 64, 4096)
#: M, N and K of the products in the table.
SHAPES = tuple((m, 4096, 4096) for m in ROWS)
ENVIRONMENT = (
    (
        "TRITON_INTERPRET",
        "1: backend='triton' on CPU tensors runs the kernels in Triton's interpreter (for tests; slow)",
    ),
)


def add_parser(commands: Any) -> None:
    """Register the command."""
    parser = commands.add_parser("info", help="versions, compiler, GPUs, and the path that each product takes")
    parser.add_argument(
        "--arch", type=_arch, metavar="CC", help="show the paths of this compute capability, such as 90 or 12.0"
    )
    parser.add_argument(
        "--shape",
        type=_shape,
        metavar="M,N,K",
        help="show the paths of [M, K] @ [N, K].T, and the bytes that it must move",
    )
    parser.set_defaults(run=run)


def _arch(text: str) -> int:
    """``"90"`` or ``"9.0"`` -> 90."""
    major, dot, minor = text.partition(".")
    number = 10 * int(major) + int(minor) if dot else int(text)
    if not 80 <= number < 1000:
        raise argparse.ArgumentTypeError(f"{text}: want a compute capability of 8.0 or later")
    return number


def _shape(text: str) -> tuple[int, int, int]:
    """``"16,4096,7168"`` -> its numbers."""
    m, n, k = (int(part) for part in text.split(","))
    if min(m, n, k) < 1:
        raise argparse.ArgumentTypeError(f"{text}: want three positive numbers M,N,K")
    return m, n, k


def run(args: argparse.Namespace) -> int:
    """Print the report; always 0."""
    out, table = console(), require("rich.table", "rich").Table
    facts = table(show_header=False, box=None, pad_edge=False)
    for name, text in (*_versions(), *_toolchain(), *_gpus()):
        facts.add_row(name, text)
    out.print(facts)
    out.print()
    devices, note = _devices(args.arch)
    if note:
        out.print(note)
    for title, device in devices:
        out.print(_paths(table, title, device, SHAPES if args.shape is None else (args.shape,)))
    out.print()
    variables = table("environment variable", "now", "meaning", title="Environment", title_justify="left")
    for name, meaning in ENVIRONMENT:
        variables.add_row(name, os.environ.get(name, "not set"), meaning)
    out.print(variables)
    return 0


def _versions() -> list[tuple[str, str]]:
    cuda = f"CUDA {torch.version.cuda}" if torch.version.cuda else "no CUDA"
    return [
        ("tritonfp4", __version__),
        ("Python", f"{platform.python_version()} on {platform.system()} {platform.machine()}"),
        ("torch", f"{torch.__version__} ({cuda})"),
        ("Triton", _triton()),
    ]


def _triton() -> str:
    """Its version, or why it is absent."""
    try:
        return str(importlib.import_module("triton").__version__)
    except ImportError as error:
        reason = str(error) if sys.platform == "linux" else f"{error}; its wheels are for Linux"
        return f"absent ({reason}): only the reference runs"


def _toolchain() -> list[tuple[str, str]]:
    """Host C compiler and Python.h, which Triton compiles its launcher with."""
    chosen = os.environ.get("CC")
    compiler = next((found for name in (chosen, "cc", "gcc", "clang") if name and (found := shutil.which(name))), None)
    header = Path(sysconfig.get_path("include")) / "Python.h"
    return [
        ("C compiler", compiler or "none found: Triton needs cc, gcc or clang for its launcher on a GPU"),
        (
            "Python.h",
            "found" if header.is_file() else f"missing from {header.parent}: Triton needs it for its launcher on a GPU",
        ),
    ]


def _gpus() -> list[tuple[str, str]]:
    if not torch.cuda.is_available():
        return [("GPU", "none: CPU tensors run the reference")]
    rows = []
    for index in range(torch.cuda.device_count()):
        device = device_info(torch.device("cuda", index))
        arch = device.arch
        fp4 = "native FP4" if device.native_fp4 else "FP4 decoded to 16 bit"
        rows.append(
            (
                f"GPU {index}",
                f"{torch.cuda.get_device_name(index)}: {arch.name} (sm_{arch.number}), {device.sm_count} SMs, "
                f"{arch.shared_bytes} B shared memory a program, {fp4}",
            )
        )
    return rows


def _devices(arch: int | None) -> tuple[list[tuple[str, DeviceInfo]], str]:
    """Titled devices whose paths to show, and a note."""
    if arch is not None:
        device = target_info(arch)
        return [(f"sm_{arch} ({device.arch.name}, taken as {device.sm_count} SMs)", device)], ""
    if torch.cuda.is_available():
        kinds = {
            device_info(torch.device("cuda", i)): torch.cuda.get_device_name(i)
            for i in range(torch.cuda.device_count())
        }
        return [(name, device) for device, name in kinds.items()], ""
    note = "Every product of CPU tensors runs the reference (pure PyTorch, fp64). --arch 90 shows the paths of a GPU."
    interpreted = os.environ.get("TRITON_INTERPRET") == "1"
    return ([("Triton's interpreter, backend='triton'", INTERPRETER)] if interpreted else []), note


def _bytes(kind: str, elements: int) -> int:
    """Bytes of the elements of an operand and of their scales."""
    if kind not in FORMATS:
        return 2 * elements
    return elements // 2 + elements // FORMATS[kind].vec


def _paths(table: Any, title: str, device: DeviceInfo, shapes: Sequence[tuple[int, int, int]]) -> Any:
    """Table of `explain` for each pair of formats and shape, operands contiguous, and what must at least pass through memory."""
    grid = table(
        "activations x weights",
        "M x N x K",
        "path",
        "MB: activations + weights + bf16 output",
        title=f"Matmul on {title}",
        title_justify="left",
        show_lines=False,
    )
    for a, b in PAIRS:
        for m, n, k in shapes:
            problem = contiguous_product(m, n, k, a, b, device)
            parts = [f"{part / 1e6:.2f}" for part in (_bytes(a, m * k), _bytes(b, n * k), 2 * m * n)]
            last = (m, n, k) == shapes[-1]
            grid.add_row(f"{a} x {b}", f"{m} x {n} x {k}", explain(problem), " + ".join(parts), end_section=last)
    return grid
