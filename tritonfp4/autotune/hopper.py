"""Tiles of the Hopper kernel. Every rule comes from a measured table: `docs/performance.md`."""

from __future__ import annotations

from tritonfp4.autotune.legality import Problem, hopper_bytes
from tritonfp4.config import Config
from tritonfp4.layouts import ceil_div

#: Bytes of weights that must be on their way at once to keep memory busy.
BYTES_IN_FLIGHT = 7_000_000
#: Columns of a tile of 128 rows -> its time in that of 128 columns; of equal ones the first is taken.
TILE_TIMES = {128: 1.0, 64: 0.7, 256: 1.9, 192: 1.45}
#: K from which more than 128 columns pay: they are written 64 at a time.
WIDE_FROM_K = 4096


def _config(m: int, n: int, warpgroups: int, stages: int, problem: Problem) -> Config:
    """As many stages as asked for, or as fit."""
    shared = problem.device.arch.shared_bytes
    pair = 1 if m == 128 and n >= 128 else 2
    unit = 4 if m == 64 and warpgroups == 2 else pair
    while stages > 4:
        config = Config("hopper", m, 128, n, 4 * (warpgroups + 1), stages // unit * unit, 8, pair=pair)
        if hopper_bytes(config) <= shared:
            return config
        stages -= 1
    return Config("hopper", m, 128, n, 4 * (warpgroups + 1), 4, 8, pair=pair)


def hopper(problem: Problem) -> list[Config]:
    """The config for (M, N); for grouped products M is the mean rows of a group."""
    sms, m, n = problem.device.sm_count, problem.m, problem.n
    grouped = problem.op == "grouped"
    if m > 128 or (grouped and m > 64):
        return [_many_rows(problem)]
    rows = ceil_div(m, 64)
    if grouped:  # there are more tiles than one matrix has
        return [_config(64, 128 if n >= 1024 else 64, 1, 8, problem)]
    if m > 64:
        block = 128 if rows * ceil_div(n, 128) >= 0.75 * sms else 64 if rows * ceil_div(n, 64) >= 0.75 * sms else 32
        return [_config(64, block, 1, 24, problem)]
    # 32 columns only as one wave that nearly fills the GPU; between, 64 leave SMs idle, but no second wave
    if ceil_div(n, 64) >= 0.75 * sms or ceil_div(n, 32) > sms:
        tiles = min(ceil_div(n, 64), sms)
        return [_config(64, 64, 1, max(8, ceil_div(BYTES_IN_FLIGHT, tiles * 64 * 128)), problem)]
    return [_config(64, 16 if m > 8 and ceil_div(n, 16) <= sms else 32, 2, 24, problem)]


def _many_rows(problem: Problem) -> Config:
    """128 rows and as many columns as the time of all waves of tiles asks for; how many tiles groups have is not known."""
    wide = problem.k >= WIDE_FROM_K

    def time(columns: int) -> float:
        tiles = ceil_div(problem.m, 128) * ceil_div(problem.n, columns)
        return ceil_div(tiles, problem.device.sm_count) * TILE_TIMES[columns]

    if problem.op == "grouped":
        columns = 256 if wide and problem.n % 256 == 0 else 128
    else:
        columns = min((c for c in TILE_TIMES if wide or c <= 128), key=time)
    return _config(128, columns, 2, 8 if columns == 64 else 5, problem)
