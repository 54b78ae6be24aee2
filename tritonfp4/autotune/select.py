"""The heuristic: (op, formats, shape, device) -> Config. Deterministic, free at start-up, readable."""

from __future__ import annotations

import functools
from dataclasses import replace

from tritonfp4.autotune.hopper import hopper
from tritonfp4.autotune.legality import FP4, Problem, illegal
from tritonfp4.config import Config
from tritonfp4.formats import FORMATS, FP8_FORMATS

#: From this M on, decoding the operands to memory once beats decoding them in every tile that uses them.
DEQUANTIZE_FROM_M = 48
#: On Hopper, up to this M (mean rows of a group) weights are decoded into the fragments of small MMAs, beyond it into wgmma's.
HOPPER_W4_FROM_M, HOPPER_W4_FROM_GROUP = 16, 32
#: Rows of x in a tile of the Hopper kernel for FP4 weights -> stages of its ring.
HOPPER_W4_TILES = {64: 14, 128: 8, 256: 4}
#: Tiles are cut into equal shares where whole ones would leave more of the GPU idle, unless there are many waves of them.
SHARES_BELOW, WAVES = 0.84, 4
#: Warps of a program that read 16 rows of weights: so many a multiprocessor at most, all at once, each with 72 registers a thread.
FRAGMENT_WARPS, FRAGMENT_REGISTERS = 28, 72
#: Below it, the tiles of 64 weight rows must fill every SM more than once, or the GPU waits for the few that decode.
DECODE_IN_TILES_FROM_ROWS = 128


def _up_to(n: int, low: int, high: int) -> int:
    """The smallest power of two that is at least n, kept within [low, high]."""
    size = low
    while size < high and size < n:
        size *= 2
    return size


@functools.lru_cache(maxsize=4096)
def select(problem: Problem) -> Config:
    """The launch parameters for a problem. Raises ValueError if no legal config exists."""
    config = next((c for c in candidates(problem) if illegal(c, problem) is None), None)
    if config is None:
        reasons = "; ".join(f"{c}: {illegal(c, problem)}" for c in candidates(problem))
        raise ValueError(f"no legal config for {problem}: {reasons}")
    return config


def explain(problem: Problem) -> str:
    """One line: the chosen path and why the ones before it were passed over."""
    passed: dict[str, str] = {}  # path -> the first reason against it
    for config in candidates(problem):
        reason = illegal(config, problem)
        if reason is None:
            against = [f"not {path}: {why}" for path, why in passed.items() if path != config.path]
            return config.path + (f" ({'; '.join(against)})" if against else "")
        passed.setdefault(config.path, reason)
    return "refused: " + "; ".join(f"not {path}: {why}" for path, why in passed.items())


def candidates(problem: Problem) -> list[Config]:
    """Configs in order of preference; the first legal one is taken."""
    if problem.op not in ("matmul", "grouped"):
        return [_elementwise(problem)]
    if problem.a in FP8_FORMATS or problem.b in FP8_FORMATS:
        return _fp8(problem)
    return _matmul(problem) if problem.op == "matmul" else _grouped(problem)


def _elementwise(problem: Problem) -> Config:
    """Tiles of about 4096 elements, 16 bytes a thread and load, whole scale blocks."""
    if problem.device.interpreted:  # few programs: each costs a trip through Python
        return Config(problem.op, block_m=_up_to(problem.m, 128, 2048), block_k=_up_to(problem.k, 64, 256))
    if problem.op == "relayout":
        return Config(problem.op, block_m=128, block_k=_up_to(problem.k, 4, 16))
    if problem.op == "amax":
        return Config(problem.op, block_m=_up_to(problem.m, 1, 8), block_k=1024)
    if problem.op == "shuffle":
        return Config(problem.op, block_m=8, block_k=512)
    if problem.op == "dequantize":
        return Config(problem.op, block_m=16, block_k=512)
    if problem.op == "quantize_batched":  # half a tile: four-over-six besides a mask takes all registers
        return Config(problem.op, block_m=16, block_k=128)
    if problem.op == "rmsnorm":  # whole rows: as many threads as a row of 4096 can feed
        return Config(problem.op, block_m=32, block_k=128, num_warps=8)
    if problem.op == "quantize_noisy" and problem.k <= 65535 * 64:  # a grid has no more columns of tiles
        return Config(problem.op, block_m=32, block_k=64)  # two candidates and noise take the registers of half a tile
    if problem.op == "quantize_tiles":
        return Config(problem.op, block_m=32, block_k=128, num_warps=8)
    return Config(problem.op, block_m=32, block_k=128)


def _few_fragments(problem: Problem) -> Config:
    """Up to 16 rows: tiles of 16 rows of weights, all of them running at once, with as many warps as then fit. More rows than a few come
    in order: rows of activations as they are cost more cache lines than they hold."""
    tokens = _up_to(problem.m, 8, 16)
    fit = FRAGMENT_WARPS * problem.device.sm_count // -(-problem.n // 16)
    warps = 8 if fit >= 8 else 4 if fit >= 4 else 2
    stages = 2 if tokens == 8 else 1
    whole = problem.k % (128 * stages * warps) == 0
    return Config(
        "fragments", 16, 128, tokens, warps, stages, swap=True, max_registers=FRAGMENT_REGISTERS if whole else 96,
        ordered=problem.a in FP4 or tokens == 16 or (problem.m > 4 and warps < 8),
    )  # fmt: skip


def _fragments(problem: Problem) -> list[Config]:
    """FP4 weights and few rows. Warps divide K: eight where programs are few, four where they must leave room for each other."""
    dense = problem.op == "matmul"
    if dense and problem.m <= 16:
        return [_few_fragments(problem)]
    tokens, k = _up_to(problem.m, 8, 32), problem.k
    # two whole steps of all warps need no mask along K
    warps = min((4, 8), key=lambda w: k % (256 * w) > 0)
    # masks, and activations that are decoded, too, take the registers of the others
    rows = 16 if k % (256 * warps) and tokens > (8 if problem.a in FP4 else 16) else 32
    return [Config("fragments", rows, 128, tokens, warps, 2, swap=True)]


def _hopper_w4(problem: Problem) -> list[Config]:
    """FP4 weights on Hopper: a stream of weights for up to 64 rows, tiles as wide as the registers allow for more."""
    if problem.device.arch.mma != "wgmma":
        return []
    m, n, sms = problem.m, problem.n, problem.device.sm_count

    def shares(tiles: int, below: float) -> bool:
        return tiles < WAVES * sms and tiles < below * -(-tiles // sms) * sms

    if problem.op == "grouped":  # m is the mean rows of a group
        tokens = _up_to(m, 64, 256)
        return [Config("hopper_w4", 128, 64, tokens, 12, HOPPER_W4_TILES[tokens], 8, swap=True)]
    if m <= 64:
        cut = shares(-(-n // 128), 0.9)
        sizes = (64, 32) if m > 32 else (32,)
        return [Config("stream_w4", 128, 128, t, 20, 6 if t == 64 else 8, swap=True, shares=cut) for t in sizes]
    tokens = _up_to(m, 128, 256)
    cut = shares(-(-m // tokens) * -(-n // 128), SHARES_BELOW)
    return [Config("hopper_w4", 128, 64, tokens, 12, HOPPER_W4_TILES[tokens], 8, swap=True, shares=cut)]


def _upcast(problem: Problem) -> list[Config]:
    """Small tiles where decoded operands and accumulators share the registers of a warp, else they spill."""
    m = problem.m
    if m > 64:
        if problem.device.arch.mma == "mma.sync":
            return [Config("upcast", 128, 64, 64, 4, stages, group_m=8) for stages in (3, 2)]
        return [Config("upcast", 128, 128, 128, 8, stages, group_m=8) for stages in (3, 2)]
    tile = _up_to(m, 16, 64)  # weights take the wide side of the MMA, activations the narrow one
    if problem.device.arch.mma == "mma.sync":
        return [Config("upcast", 64, 128 if tile == 16 else 64, tile, 4, stages, swap=True) for stages in (4, 3, 2)]
    rows = 32 if m <= 16 and "16" in problem.a else 64
    return [Config("upcast", rows, 128 if tile == 64 else 256, tile, 4, stages, swap=True) for stages in (3, 2)]


def _fp8(problem: Problem) -> list[Config]:
    """The product of one scale block lies beside the accumulator: 8 warps for tiles of 128x128."""
    m, n, step = problem.m, problem.n, 128 if FORMATS[problem.a].scale != "e8m0" else 32
    if problem.device.interpreted:
        return [Config(path, _up_to(m, 16, 128), step, _up_to(n, 16, 128)) for path in ("fp8", "fp8_upcast")]
    unit = problem.device.arch.mma
    # A scale for every column of the tile needs registers, too; so do accumulators that do not lie in tensor memory.
    if FORMATS[problem.b].block[0] == 128 and unit != "mma.sync":
        large = Config("fp8", 128, step, 128, 8)
    else:
        large = Config("fp8", 64 if unit == "tcgen05" else 128, step, 64, 8)
    narrow = Config("fp8", _up_to(m, 16, 32 if unit == "tcgen05" else 64), step, 128, 8, swap=True)
    found = hopper(problem) if unit == "wgmma" else []
    for path in ("fp8", "fp8_upcast"):
        small = Config(path, 64, step, 32 if problem.device.arch.number < 90 else 64, 8)
        # For few rows the weights take the wide side of the MMA, the activations the narrow one.
        best = narrow if m <= 64 else large if path == "fp8" else small
        found += [replace(best, path=path, num_stages=stages) for stages in (4, 3, 2)] + [replace(small, num_stages=2)]
    return found


def _grouped(problem: Problem) -> list[Config]:
    m, n, k = problem.m, problem.n, problem.k
    if problem.device.interpreted:
        return [Config("upcast", _up_to(m, 16, 128), _up_to(k, 64, 256), _up_to(n, 16, 128))]
    if m <= 64:
        return [
            *(_hopper_w4(problem) if m > HOPPER_W4_FROM_GROUP else []),
            *_fragments(problem),
            *_few_grouped(problem),
        ]
    if problem.device.arch.mma == "mma.sync":
        return [Config("upcast", 128, 64, 64, 4, stages) for stages in (3, 2)]
    return [*_hopper_w4(problem), *[Config("upcast", 128, 128, 128, 8, stages) for stages in (3, 2)]]


def _few_grouped(problem: Problem) -> list[Config]:
    tile = _up_to(problem.m, 16, 64)
    if problem.device.arch.mma == "mma.sync":
        return [Config("upcast", tile, 64, 64, 4, stages, swap=True) for stages in (3, 2)]
    if problem.device.arch.mma == "tcgen05":
        return [Config("upcast", tile, 64, 128, 8, 2, swap=True)]
    return [Config("upcast", tile, 64, 128, 4, stages, swap=True) for stages in (3, 2)]


def _matmul(problem: Problem) -> list[Config]:
    m, n, k = problem.m, problem.n, problem.k
    if problem.device.interpreted:
        return [Config("upcast", _up_to(m, 16, 128), _up_to(k, 64, 256), _up_to(n, 16, 128))]
    found = []
    if m <= 64:  # weights take the wide side of the MMA, activations the narrow one
        warps = (
            8 if problem.device.arch.mma == "mma.sync" and m > 32 else 4
        )  # 128x64 accumulators in the registers of 4 warps spill
        found.append(Config("native", 128, 256, _up_to(m, 16, 64), num_warps=warps, num_stages=3, swap=True))
        found += _hopper_w4(problem) if m > HOPPER_W4_FROM_M else []
        found += _fragments(problem)
    else:
        found += [Config("native", 128, 256, 128, num_warps=8, num_stages=stages, group_m=8) for stages in (3, 2)]
        found += _hopper_w4(problem)
    if m >= DEQUANTIZE_FROM_M or n < DECODE_IN_TILES_FROM_ROWS * problem.device.sm_count:
        found.append(Config("dequantize", 16, 512))
    found += _upcast(problem)
    found += [Config("upcast", 64, 128, 64, 4, 2, group_m=8), Config("upcast", 32, 64, 32, 4, 2, group_m=8)]
    return found
