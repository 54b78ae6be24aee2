"""Compile any launch of the package for any target, without a GPU, and look at what came out.

The launchers themselves run, on meta tensors: a pretend driver names the target and every ``kernel[grid](...)`` inside
the launch becomes a warm-up. So the arguments are specialised exactly as in a real launch (divisibility, ones that
become constants, None pointers), and what is compiled is what that GPU would run.

    def launch() -> None:
        aot.matmul(aot.operand("nvfp4", 16, 4096), aot.operand("nvfp4", 4096, 4096), target_info(100))

    for kernel in aot.compile_for(100, launch):
        print(kernel.name, kernel.mma, kernel.registers, kernel.problems())

A failed assertion inside the compiler may abort the process: `in_child` runs one compilation in a forked child. Kernels
must have been defined without TRITON_INTERPRET=1, which is settled when Triton is imported.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import re
import subprocess
import tempfile
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, TypeVar

import torch

from tritonfp4.autotune import Problem, select
from tritonfp4.checks import BackendError
from tritonfp4.config import Config
from tritonfp4.device import DeviceInfo, arch_row
from tritonfp4.formats import FORMATS
from tritonfp4.layouts import SfLayout, as_layout, ceil_div
from tritonfp4.tensor import BlockScaledTensor

Result = TypeVar("Result")
Operand = BlockScaledTensor | torch.Tensor

#: Columns of tensor memory of an SM. A kernel that wants more compiles, without an error, to one ``trap``.
TENSOR_MEMORY = 512

#: Plain operands by the name that `tritonfp4.autotune.Problem` gives them.
PLAIN = {"bf16": torch.bfloat16, "fp16": torch.float16}

_MMA = re.compile(r"\b(?:tcgen05\.mma|wgmma\.mma_async|mma\.sync)\.[\w.:]+")
_LOAD = re.compile(r"\bld\.global(?:\.[a-zA-Z][\w:]*)*?(?:\.v([248]))?\.[bfsu](8|16|32|64|128)\b")
_COPY = re.compile(r"\bcp\.async\.c[ag]\.shared\.global\S* \[[^]]*\], \[[^]]*\], (\w+)")
_RESOURCES = re.compile(r"REG:(\d+) STACK:(\d+).*?LOCAL:(\d+)")
_CAUSE = re.compile(r"Assertion|LLVM ERROR|ptxas.*(?:error|fatal)|error:")
_lock = threading.Lock()


class CompileError(RuntimeError):
    """A launch that does not compile for its target, or a compiler that went down trying."""


# ---- what came out -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Compiled:
    """One kernel, compiled.

    Attributes:
        name: the jit function.
        arch: the target, as ``10 * major + minor``.
        mma: matrix instructions in the PTX, each once, sorted.
        registers: registers a thread.
        local_bytes: local memory a thread (stack and spills).
        shared: bytes of shared memory a program.
        tmem: columns of tensor memory.
        num_warps: warps a program, those of warp specialisation included.
        ptx: the PTX text.
        cubin: the machine code.
    """

    name: str
    arch: int
    mma: tuple[str, ...]
    registers: int
    local_bytes: int
    shared: int
    tmem: int
    num_warps: int
    ptx: str
    cubin: bytes

    def problems(self, expect: str | None = None) -> list[str]:
        """Why this kernel cannot be launched, or should not be. `expect`: a regular expression for one of `mma`."""
        found = []
        limit = arch_row(self.arch).shared_bytes
        if self.shared > limit:
            found.append(f"shared memory: {self.shared} bytes, sm_{self.arch} has {limit}")
        if self.tmem > TENSOR_MEMORY:
            found.append(f"tensor memory: {self.tmem} columns, there are {TENSOR_MEMORY}")
        if is_trap(self.ptx):
            found.append("the body is one trap")
        if self.local_bytes:
            found.append(f"spills: {self.local_bytes} bytes of local memory a thread")
        if expect is not None and not any(re.search(expect, name) for name in self.mma):
            found.append(f"no instruction matches {expect}: {', '.join(self.mma) or 'no MMA at all'}")
        return found

    def global_loads(self) -> dict[int, int]:
        """Number of loads from global memory by bytes a thread: many of 1 byte mean that a mask hides widths."""
        widths: Counter[int] = Counter()
        for lanes, bits in _LOAD.findall(self.ptx):
            widths[int(lanes or 1) * int(bits) // 8] += 1
        for size in _COPY.findall(self.ptx):
            widths[int(size, 0)] += 1
        return dict(sorted(widths.items()))

    def summary(self) -> dict[str, Any]:
        """Everything but the code, as JSON takes it."""
        numbers = ("registers", "local_bytes", "shared", "tmem", "num_warps")
        return {"name": self.name, "arch": self.arch, "mma": list(self.mma), **{n: getattr(self, n) for n in numbers}}


def is_trap(ptx: str) -> bool:
    """Whether an entry stops at once: the compiler's answer to a tile that tensor memory cannot hold."""
    for body in re.findall(r"\.entry\b[^{]*\{(.*?)^\}", ptx, re.DOTALL | re.MULTILINE):
        code = [line.strip() for line in re.sub(r"//[^\n]*", "", body).splitlines()]
        code = [line for line in code if line.endswith(";") and not line.startswith(".")]
        if code and all(re.fullmatch(r"(?:trap|exit|ret);", line) for line in code):
            return "trap;" in code
    return False


def _usage(cubin: bytes) -> tuple[int, int]:
    """Registers and local bytes of a thread, the most of any function, as cuobjdump in Triton's wheel reports."""
    import triton

    tool = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "kernel.cubin"
        path.write_bytes(cubin)
        command = [str(tool), "--dump-resource-usage", str(path)]
        text = subprocess.run(command, capture_output=True, text=True, check=False).stdout
    found = [(int(reg), int(stack) + int(local)) for reg, stack, local in _RESOURCES.findall(text)]
    if not found:
        raise CompileError(f"cuobjdump reports no resource usage: {text[-200:]!r}")
    return max(reg for reg, _ in found), max(local for _, local in found)


def _describe(kernel: Any, arch: int) -> Compiled:
    ptx, cubin, meta = kernel.asm["ptx"], kernel.asm["cubin"], kernel.metadata
    registers, local = _usage(cubin)
    return Compiled(
        name=meta.name, arch=arch, mma=tuple(sorted(set(_MMA.findall(ptx)))), registers=registers, local_bytes=local,
        shared=meta.shared, tmem=getattr(meta, "tmem_size", None) or 0, num_warps=meta.num_warps, ptx=ptx, cubin=cubin,
    )  # fmt: skip


# ---- compiling -----------------------------------------------------------------------------------------------------


class _PretendDriver:
    """The questions that a warm-up asks Triton's driver."""

    def __init__(self, arch: int) -> None:
        self.arch = arch

    def get_current_target(self) -> Any:
        from triton.backends.compiler import GPUTarget

        return GPUTarget("cuda", self.arch, 32)

    def get_current_device(self) -> int:
        """Jit functions remember their target by device number, so every architecture has its own."""
        return 1000 + self.arch

    def get_current_stream(self, device: int) -> int:
        return 0

    def get_active_torch_device(self) -> torch.device:
        return torch.device("cpu")


@contextlib.contextmanager
def _recording(arch: int) -> Iterator[list[Any]]:
    """Launches compile for `arch` instead of running; the list fills with the compiled kernels."""
    from triton.runtime.driver import driver
    from triton.runtime.jit import JITFunction

    kernels: list[Any] = []
    run, active = JITFunction.run, driver._active

    def warm_up(self: Any, *args: Any, grid: Any, warmup: bool, **kwargs: Any) -> Any:
        kernel = run(self, *args, grid=grid, warmup=True, **kwargs)
        if all(kernel is not known for known in kernels):
            kernels.append(kernel)
        return kernel

    with _lock:
        driver.set_active(_PretendDriver(arch))
        JITFunction.run = warm_up
        try:
            yield kernels
        finally:
            JITFunction.run = run
            driver.set_active(active)


def compile_for(arch: int, launch: Callable[[], object]) -> list[Compiled]:
    """The kernels that `launch` launches on meta tensors, compiled for an architecture, in the order of their launches.

    Raises BackendError without Triton or if kernels are interpreted, and CompileError if something does not compile.
    """
    try:
        from tritonfp4.kernels.launch import INTERPRETED
    except ImportError as error:
        raise BackendError(f"aot.compile_for: needs Triton ({error})") from error
    if INTERPRETED:
        raise BackendError(
            "aot.compile_for: this process defined its kernels for Triton's interpreter; "
            "start one without TRITON_INTERPRET=1"
        )
    with _recording(arch) as kernels:
        try:
            launch()
        except BackendError:
            raise
        except Exception as error:
            raise CompileError(f"sm_{arch}: {type(error).__name__}: {error}") from error
    if not kernels:
        raise CompileError(f"sm_{arch}: the launch launched no Triton kernel")
    return [_describe(kernel, arch) for kernel in kernels]


# ---- one child a compilation ---------------------------------------------------------------------------------------


def _child(sender: Any, log: IO[str], task: Callable[..., object], args: tuple[Any, ...]) -> None:
    for stream in (1, 2):  # on errors the compiler prints whole PTX files
        os.dup2(log.fileno(), stream)
    try:
        sender.send(("ok", task(*args)))
    except BaseException as error:
        sender.send((type(error).__name__, str(error).strip()))


def in_child(task: Callable[..., Result], *args: Any) -> Result:
    """``task(*args)`` in a forked child, with its output kept from the terminal. The result must be picklable.

    Raises CompileError, with the compiler's own complaint if it made one, when the task raises or takes the child down.
    """
    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe(duplex=False)
    with tempfile.TemporaryFile("w+", errors="replace") as log:
        child = context.Process(target=_child, args=(sender, log, task, args))
        child.start()
        sender.close()
        try:
            status, value = receiver.recv()
        except EOFError:
            status, value = "crash", ""
        child.join()
        receiver.close()
        if status == "ok":
            return value
        log.seek(0)
        cause = next((line.strip() for line in log if _CAUSE.search(line)), "")
    lines = [line.strip() for line in value.splitlines() if line.strip(" ^~")] or [f"exit code {child.exitcode}"]
    said = " ... ".join(dict.fromkeys((lines[0], lines[-1])))
    raise CompileError(f"{status}: {said}" + (f" ({cause})" if cause and cause not in said else ""))


# ---- the package's launches on meta tensors ------------------------------------------------------------------------


def operand(
    kind: str, rows: int, k: int, layout: SfLayout | int = SfLayout.layout_128x4, row_shuffle: int = 0
) -> Operand:
    """A GEMM operand [rows, k] without memory: `kind` is the name of an FP4 format, "bf16" or "fp16"."""
    if kind in PLAIN:
        return torch.empty((rows, k), dtype=PLAIN[kind], device="meta")
    fmt, layout = FORMATS[kind], SfLayout(layout)
    values = torch.empty((rows, ceil_div(k, 2)), dtype=torch.uint8, device="meta")
    scales = torch.empty(as_layout(layout).numel(rows, ceil_div(k, fmt.vec)), dtype=torch.uint8, device="meta")
    g = torch.empty(1, dtype=torch.float32, device="meta") if fmt.two_level else None
    return BlockScaledTensor(values, scales, g, fmt, layout, (rows, k), row_shuffle)


def _kind(t: Operand) -> str:
    return t.format.name if isinstance(t, BlockScaledTensor) else {v: k for k, v in PLAIN.items()}[t.dtype]


def matmul_config(a: Operand, b: Operand, device: DeviceInfo, dtype: torch.dtype = torch.bfloat16) -> Config:
    """What `tritonfp4.autotune.select` chooses for ``a @ b.T`` on a device."""
    from tritonfp4.kernels.fragments.operands import tiles_ready, words_ready

    k = min(a.shape[-1], b.shape[-1])
    pieces = isinstance(b, BlockScaledTensor) and words_ready(a, b)
    out = torch.empty((a.shape[0], b.shape[0]), dtype=dtype, device="meta")
    tma = pieces and device.arch.number == 90 and tiles_ready(a, b, out)
    return select(Problem("matmul", a.shape[0], b.shape[0], k, _kind(a), _kind(b), device, tma, pieces))


def matmul(
    a: Operand,
    b: Operand,
    device: DeviceInfo,
    config: Config | None = None,
    dtype: torch.dtype = torch.bfloat16,
) -> torch.Tensor:
    """Launch ``a @ b.T`` as `tritonfp4.ops` would on that device; for use inside `compile_for`."""
    from tritonfp4.kernels.products import multiply

    config = config or matmul_config(a, b, device, dtype)
    out = torch.empty((a.shape[0], b.shape[0]), dtype=dtype, device="meta")
    multiply(a, b, out, config)
    return out


_WARP = r"^mma\.sync\.aligned\.m16n8k\d+\.row\.col\.f32\.(f16|bf16|tf32)\."

_WARP_FP8 = r"^mma\.sync\.aligned\.m16n8k32\.row\.col\.f32\.e(4m3|5m2)\.e(4m3|5m2)\."

#: The matrix instructions of a GEMM by family of targets ("10x" has tensor memory, "12x" has not) and by operands.
EXPECTED: dict[tuple[str, str], str] = {
    ("8x", "16-bit"): _WARP,
    ("9x", "16-bit"): r"^wgmma\.mma_async\.sync\.aligned\.m64n\d+k\d+\.f32\.(f16|bf16|tf32)\.",
    ("10x", "16-bit"): r"^tcgen05\.mma\S*\.kind::(f16|tf32)",
    ("12x", "16-bit"): _WARP,
    ("8x", "fp8"): _WARP_FP8,
    ("9x", "fp8"): r"^wgmma\.mma_async\.sync\.aligned\.m64n\d+k32\.f32\.e(4m3|5m2)\.e(4m3|5m2)",
    ("9x", "hopper"): r"^wgmma\.mma_async\.sync\.aligned\.m64n\d+k32\.f32\.e4m3\.e4m3",
    ("10x", "fp8"): r"^tcgen05\.mma\S*\.kind::f8f6f4",
    ("12x", "fp8"): _WARP_FP8,
    ("10x", "nvfp4"): r"^tcgen05\.mma\S*\.kind::mxf4nvf4\.block_scale\.(scale_vec::4X|block16)",
    ("10x", "mxfp4"): r"^tcgen05\.mma\S*\.kind::mxf4(nvf4)?\.block_scale\.(scale_vec::2X|block32)",
    ("12x", "nvfp4"): r"^mma\.sync\S*\.kind::mxf4nvf4\.block_scale\.(scale_vec::4X|block16)\S*\.ue4m3",
    ("12x", "mxfp4"): r"^mma\.sync\S*\.kind::mxf4(nvf4)?\.block_scale\.(scale_vec::2X|block32)\S*\.ue8m0",
}


def expected_mma(arch: int, config: Config, format: str, name: str = "") -> str:
    """A regular expression for the matrix instructions of the GEMM kernel called `name`.

    Block-scaled ones on the native path (`format` is that of both operands; both PTX spellings are matched), FP8 ones,
    else 16-bit ones: a warp's own where the left operand's tile is too low for a warp group.
    """
    family = "12x" if arch >= 120 else "10x" if arch >= 100 else f"{arch // 10}x"
    if config.path == "native":
        return EXPECTED[family, format]
    if config.path == "hopper":
        return EXPECTED["9x", "hopper"]
    if config.path == "fragments":
        return _WARP
    if config.path in ("hopper_w4", "stream_w4"):
        return EXPECTED["9x", "16-bit"]
    grouped = name.startswith(("grouped", "matmul_fp8"))  # these swap the dot, not the operands
    left = config.block_n if grouped and config.swap else config.block_m
    if config.path == "fp8":
        return EXPECTED[family, "fp8"] if left >= 64 else _WARP_FP8
    return EXPECTED[family, "16-bit"] if left >= 64 else _WARP
