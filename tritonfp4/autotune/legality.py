"""One predicate: may this config run this problem on this device, and if not, why."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

from tritonfp4.config import Config
from tritonfp4.device import DeviceInfo, triton_version
from tritonfp4.formats import FORMATS, FP8_FORMATS
from tritonfp4.layouts import round_up

#: What a config of a GEMM may call for.
PATHS = (
    "native", "upcast", "fragments", "dequantize", "fp8", "fp8_upcast", "hopper", "hopper_w4", "stream_w4",
)  # fmt: skip


@dataclass(frozen=True)
class Problem:
    """A launch as the selection sees it.

    Attributes:
        op: "matmul", "grouped" (m is then the mean rows of a group), or an elementwise pass: "quantize",
            "quantize_noisy", "quantize_tiles", "rotate", "amax", "dequantize", "relayout", "shuffle".
        m, n, k: rows of a, rows of b, elements along K (an elementwise pass has n = 0).
        a, b: format names, or "bf16" / "fp16" for plain operands.
        device: what it runs on.
        tma: whether TMA can load the elements of both operands and store the output.
        pieces: whether FP4 weights and what they meet are rows of whole 16-byte pieces.
    """

    op: str
    m: int
    n: int
    k: int
    a: str
    b: str
    device: DeviceInfo
    tma: bool = False
    pieces: bool = False


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


def _illegal_fp8(config: Config, problem: Problem) -> str | None:
    elements = {FORMATS[kind].element for kind in (problem.a, problem.b)}
    if config.path == "fp8" and not problem.device.arch.fp8:
        return f"{problem.device.arch.name} has no FP8 tensor cores"
    if config.path == "fp8" and elements == {"e4m3", "e5m2"}:
        return "FP8 operands of two kinds meet as fp16"
    if min(config.block_m, config.block_n) < 16:
        return "the tensor cores need at least 16 rows of each operand"
    bytes_each = 1 if config.path == "fp8" else 3
    need = config.num_stages * (config.block_m + config.block_n) * config.block_k * bytes_each
    have = problem.device.arch.shared_bytes
    return f"needs {need} bytes of shared memory, the device has {have}" if need > have else None


def hopper_bytes(config: Config) -> int:
    """Shared memory of a program of the Hopper kernel: stages with scales, the tile on its way out, partial sums, tickets of
    ragged groups; at most, for some of it begins at multiples of 128 bytes."""
    m, n, warpgroups = config.block_m, config.block_n, config.num_warps // 4 - 1
    shares = 64 * warpgroups // m
    stage = (m + n) * 128 + 128 + 16
    scales = round_up(config.num_stages * m * 4, 512)
    out = 64 * (64 if n > 128 else n) * 2 * warpgroups // shares
    sums = 64 * n * 4 if shares == 2 else 0
    return config.num_stages * stage + scales + out + sums + 384


def _illegal_fragments(config: Config, problem: Problem) -> str | None:
    if problem.device.interpreted:
        return "Gluon is not interpreted"
    kinds = ("bf16", "fp16") if problem.op == "grouped" else (*FP4, "bf16", "fp16")
    if problem.b not in FP4 or problem.a not in kinds:
        return f"not for {problem.a} by {problem.b}"
    if problem.a == "fp16" and problem.b == "mxfp4":
        return "fp16 activations and MXFP4 weights share no 16-bit type"
    if not problem.pieces:
        return "rows of an operand are not whole pieces of 16 bytes"
    tile = f"{config.block_m} x {config.block_n}"
    if not (16 <= config.block_m <= 64 and 8 <= config.block_n <= 32 and config.block_k == 128 and config.swap):
        return f"no kernel for tiles of {tile} and steps of {config.block_k}"
    if not 1 <= config.num_stages <= 4:
        return f"num_stages = {config.num_stages} is not 1 to 4 chunks on their way"
    if config.num_warps > 8 or config.block_m * config.block_n > 1024:
        return f"too few registers for tiles of {tile} and {config.num_warps} warps"
    need, have = config.num_warps * config.block_m * config.block_n * 4, problem.device.arch.shared_bytes
    return f"needs {need} bytes of shared memory, the device has {have}" if need > have else None


def hopper_w4_bytes(config: Config) -> int:
    """Shared memory of a program of the Hopper kernel for FP4 weights: stages, the tile on its way out, barriers; at most."""
    tokens = config.block_n
    return config.num_stages * (tokens * 128 + 128 * 36 + 16) + tokens * 256 + 1024


def stream_w4_bytes(config: Config) -> int:
    """The same of the kernel for few rows, and sums that two warpgroups exchange."""
    rows, tokens = config.block_m, config.block_n
    sums = 512 * tokens if rows == 128 else 0
    return config.num_stages * (rows * 72 + tokens * 256 + 16) + rows * tokens * 2 + sums + 1024


def _illegal_stream_w4(config: Config, problem: Problem) -> str | None:
    if problem.op != "matmul":
        return "not for groups"
    shape = (config.block_m, config.block_n, config.block_k, config.num_warps, config.swap)
    if shape not in itertools.product((128, 256), (16, 32, 64), (128,), (20,), (True,)):
        return f"no kernel for tiles of {config.block_m} x {config.block_n} and {config.num_warps} warps"
    if config.block_n == 64 and (triton_version() or ()) >= (3, 9):
        return "Triton 3.9 spills registers for 64 rows of activations"
    if config.num_stages < 2 or (config.block_m == 128 and config.num_stages % 2):
        return f"num_stages = {config.num_stages} is less than 2, or odd for tiles that two warpgroups share"
    need, have = stream_w4_bytes(config), problem.device.arch.shared_bytes
    return f"needs {need} bytes of shared memory, the device has {have}" if need > have else None


def _illegal_hopper_w4(config: Config, problem: Problem) -> str | None:
    if problem.device.arch.number != 90:
        return f"{problem.device.arch.name} has no wgmma"
    kinds = ("bf16", "fp16") if problem.op == "grouped" else (*FP4, "bf16", "fp16")
    if problem.b not in FP4 or problem.a not in kinds:
        return f"not for {problem.a} by {problem.b}"
    if problem.a == "fp16" and problem.b == "mxfp4":
        return "fp16 activations and MXFP4 weights share no 16-bit type"
    if not problem.tma:
        return "TMA cannot load an operand or store the output"
    if config.path == "stream_w4":
        return _illegal_stream_w4(config, problem)
    if config.shares and problem.op != "matmul":
        return "shares of groups are not known before the launch"
    if (config.block_m, config.block_k, config.num_warps, config.swap) != (
        128,
        64,
        12,
        True,
    ) or not 64 <= config.block_n <= 256:
        return f"no kernel for tiles of {config.block_m} x {config.block_n} and {config.num_warps} warps"
    if config.num_stages < 2:
        return f"num_stages = {config.num_stages} is less than 2"
    need, have = hopper_w4_bytes(config), problem.device.arch.shared_bytes
    return f"needs {need} bytes of shared memory, the device has {have}" if need > have else None


def _illegal_hopper(config: Config, problem: Problem) -> str | None:
    if problem.device.arch.number != 90:
        return f"{problem.device.arch.name} has no wgmma"
    if (problem.a, problem.b) != ("fp8_1x128", "fp8_128x128"):
        return f"not for {problem.a} by {problem.b}"
    if not problem.tma:
        return "rows of an operand or of the output do not start at multiples of 16 bytes"
    tile = f"{config.block_m} x {config.block_n}"
    warpgroups = config.num_warps // 4 - 1
    shape = (config.block_m, warpgroups)
    if shape not in ((64, 1), (64, 2), (128, 2)) or not 16 <= config.block_n <= 256 or config.block_k != 128:
        return f"no kernel for tiles of {tile} and {config.num_warps} warps"
    if config.block_n > 128 and (*shape, config.pair) != (128, 2, 1):
        return f"no kernel for tiles of {tile}, {config.num_warps} warps and stages of {config.pair} steps"
    if config.pair not in (1, 2):
        return f"no kernel for stages of {config.pair} steps"
    unit = max(4 if shape == (64, 2) else 1, config.pair)
    if config.num_stages % unit or config.num_stages < max(4, unit):
        return f"num_stages = {config.num_stages} is not a multiple of {unit}, at least 4"
    need, have = hopper_bytes(config), problem.device.arch.shared_bytes
    return f"needs {need} bytes of shared memory, the device has {have}" if need > have else None


def illegal(config: Config, problem: Problem) -> str | None:
    """The reason why the config cannot run the problem, or None."""
    for name in ("block_m", "block_n", "block_k", "num_warps"):
        value = getattr(config, name)
        other = config.path in ("hopper", "hopper_w4", "stream_w4") and (
            name == "num_warps" or (name, value) == ("block_n", 192)
        )
        if value < 1 or (value & (value - 1) and not other):
            return f"{name} = {value} is not a power of two"
    if problem.op not in ("matmul", "grouped"):
        return None
    if config.path not in PATHS:
        return f"unknown path {config.path!r}"
    if (config.path in ("fp8", "fp8_upcast", "hopper")) != any(kind in FP8_FORMATS for kind in (problem.a, problem.b)):
        return f"{config.path} does not multiply {problem.a} by {problem.b}"
    if config.path == "hopper":
        return _illegal_hopper(config, problem)
    if config.path in ("fp8", "fp8_upcast"):
        return _illegal_fp8(config, problem)
    if config.path == "fragments":
        return _illegal_fragments(config, problem)
    if config.path in ("hopper_w4", "stream_w4"):
        return _illegal_hopper_w4(config, problem)
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
