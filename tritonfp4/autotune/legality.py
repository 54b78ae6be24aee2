"""One predicate: may this config run this problem on this device, and if not, why."""

from __future__ import annotations

from dataclasses import dataclass

from tritonfp4.config import Config
from tritonfp4.device import DeviceInfo


@dataclass(frozen=True)
class Problem:
    """A launch as the selection sees it.

    Attributes:
        op: "matmul", or an elementwise pass: "quantize", "amax", "dequantize", "relayout", "shuffle".
        m, n, k: rows of a, rows of b, elements along K (an elementwise pass has n = 0).
        a, b: format names, or "bf16" / "fp16" for plain operands.
        device: what it runs on.
    """

    op: str
    m: int
    n: int
    k: int
    a: str
    b: str
    device: DeviceInfo


FP4 = ("nvfp4", "mxfp4")


def shared_bytes(config: Config, problem: Problem) -> int:
    """Upper estimate of the shared memory of a GEMM program: operand tiles of every stage, decoded where they must be."""
    total = 0
    for index, kind in enumerate((problem.a, problem.b)):
        height = (config.block_m, config.block_n)[index] if not config.swap else (config.block_n, config.block_m)[index]
        if kind in FP4:
            vec = 16 if kind == "nvfp4" else 32
            total += config.num_stages * height * (config.block_k // 2 + config.block_k // vec)
            if config.path == "upcast":
                total += height * config.block_k * 2
        else:
            total += config.num_stages * height * config.block_k * 2
    return total


def illegal(config: Config, problem: Problem) -> str | None:
    """The reason why the config cannot run the problem, or None."""
    for name in ("block_m", "block_n", "block_k", "num_warps"):
        value = getattr(config, name)
        if value < 1 or value & (value - 1):
            return f"{name} = {value} is not a power of two"
    if problem.op != "matmul":
        return None
    if config.path not in ("native", "upcast", "dequantize"):
        return f"unknown path {config.path!r}"
    if config.path == "dequantize":
        if "mxfp4" in (problem.a, problem.b) and "fp16" in (problem.a, problem.b):
            return "fp16 activations and MXFP4 weights share no 16-bit type"
        return None
    if min(config.block_m, config.block_n) < 16:
        return "the tensor cores need at least 16 rows of each operand"
    if config.block_k % 64:
        return f"block_k = {config.block_k} is not a multiple of four 16-element blocks"
    if config.path == "native":
        if problem.a != problem.b or problem.a not in FP4:
            return f"no block-scaled instruction multiplies {problem.a} by {problem.b} here"
        if not problem.device.native_fp4:
            return f"{problem.device.arch.name} has no FP4 tensor cores that this Triton reaches"
        if config.block_m < 128:
            return "the left operand of a block-scaled MMA needs 128 rows"
        if config.block_m * config.block_n > 128 * 256:
            return "the accumulator and the scales exceed tensor memory"
    need, have = shared_bytes(config, problem), problem.device.arch.shared_bytes
    if need > have:
        return f"needs {need} bytes of shared memory, the device has {have}"
    return None
