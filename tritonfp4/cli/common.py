"""What the commands share: errors that become an exit status, lazy imports, consoles."""

from __future__ import annotations

import importlib
import math
import sys
from typing import Any

import torch

from tritonfp4.autotune import Problem
from tritonfp4.device import DeviceInfo

#: Width for output that is not a terminal: wide enough that no table is cut.
PIPE_WIDTH = 160


class CliError(Exception):
    """A failure that the user can mend: printed as one line; `status` is the exit status."""

    def __init__(self, message: str, status: int = 1) -> None:
        super().__init__(message)
        self.status = status


def contiguous_product(m: int, n: int, k: int, a: str, b: str, device: DeviceInfo) -> Problem:
    """``[m, k] @ [n, k].T`` of FP4 weights as the selection sees it when nothing is a view."""
    pieces = k % 32 == 0
    return Problem("matmul", m, n, k, a, b, device, pieces and k % 128 == 0 and n % 8 == 0, pieces)


def require(module: str, package: str | None = None) -> Any:
    """Import an optional dependency, or raise a `CliError` of status 2 that says how to install it.

    `package` is its name on the package index, if that is not the module's.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        name = package or module.partition(".")[0]
        raise CliError(f'this command needs {name} ({error}): pip install "tritonfp4[demo]"', 2) from error


def console(stderr: bool = False) -> Any:
    """A rich console; wide and without control codes when its stream is not a terminal."""
    rich_console = require("rich.console", "rich")
    stream = sys.stderr if stderr else sys.stdout
    width = None if stream.isatty() else PIPE_WIDTH
    return rich_console.Console(file=stream, width=width, highlight=False, markup=False)


def progress() -> Any:
    """A rich progress bar on stderr, with no output at all when that is not a terminal; a context manager."""
    bars = require("rich.progress", "rich")
    screen = console(stderr=True)
    return bars.Progress(
        bars.TextColumn("{task.description}"), bars.BarColumn(), bars.MofNCompleteColumn(), bars.TimeElapsedColumn(),
        console=screen, transient=True, disable=not screen.is_terminal,
    )  # fmt: skip


def pick_device(name: str | None) -> torch.device:
    """The device to compute on; by default the GPU if there is one."""
    if name is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise CliError(f"--device {name}: {str(error).splitlines()[0]}", 2) from error
    if device.type not in ("cpu", "cuda"):
        raise CliError(f"--device {name}: want cpu or cuda", 2)
    if device.type == "cuda" and not torch.cuda.is_available():
        raise CliError(f"--device {name}: torch {torch.__version__} sees no GPU here", 2)
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise CliError(f"--device {name}: there are {torch.cuda.device_count()} GPUs", 2)
    return device


def energies(original: torch.Tensor, decoded: torch.Tensor) -> tuple[float, float]:
    """Sums of squares of a tensor and of its error, in fp64."""
    exact = original.double()
    return exact.square().sum().item(), (exact - decoded.double()).square().sum().item()


def decibels(signal: float, noise: float) -> float:
    """Ratio of two energies in dB; infinite without noise."""
    return 10 * math.log10(signal / noise) if noise > 0 and signal > 0 else math.inf


def mebibytes(count: int) -> str:
    """``"1.23 MiB"``; small counts in bytes."""
    return f"{count / 2**20:.2f} MiB" if count >= 2**17 else f"{count:,} B"
