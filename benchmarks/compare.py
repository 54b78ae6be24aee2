"""Hold the FP8 results of a folder against their bars, and print the cells.

    python -m benchmarks.compare benchmarks/results/h200 [--cells]

A ratio is the peer's time over ours, above 1 we are faster. The bars are those that this version was built to.
"""

from __future__ import annotations

import math
from pathlib import Path

from benchmarks.bars import Cell, Line, Times, against, bar, cells, command, listed, ratios, read, streamed

__all__ = ["cells", "lines", "read"]

MIB = 2**20
#: Weights of at least so many bytes (and less than the line before) must stream at this part of the copy bandwidth.
BANDWIDTH = ((64 * MIB, 0.70), (28 * MIB, 0.45))
BANDWIDTH_ROWS, HOST, RAGGED = 16, 2.0, 1.15
OPS = ("fp8_dense", "fp8_dense_bf16act", "fp8_grouped", "fp8_grouped_ragged")


def _small(cell: Cell) -> bool:
    return cell[0] <= 128


def _large(cell: Cell) -> bool:
    return cell[0] >= 1024


def _weights(cell: Cell) -> float:
    return cell[1] * cell[2]


def bandwidth(times: Times) -> list[Line]:
    """How fast few rows stream the weights."""
    lines, above = [], math.inf
    for least, part in BANDWIDTH:
        name = f"4 weights of {least // MIB} MiB" + (" or more" if math.isinf(above) else f" to {above // MIB} MiB")

        def keep(cell: Cell, least: float = least, above: float = above) -> bool:
            return cell[0] <= BANDWIDTH_ROWS and least <= _weights(cell) < above

        lines.append(streamed(name, times, _weights, part, keep))
        above = least
    return lines


def host(times: Times) -> Line:
    """The host time of eager calls over that of a bare launch."""
    name = "4 host time of an eager call"
    rows = [row for row in times.values() if "bare" in row]
    if not rows:
        return Line(name, "no data")
    over = {impl: us / rows[0]["bare"] for impl, us in rows[0].items() if impl != "bare"}
    parts = "; ".join(f"{impl} {rows[0][impl]:.1f} us, {value:.2f}x" for impl, value in over.items())
    text = f"{parts} of a bare launch's {rows[0]['bare']:.1f} us; bar: at most {HOST:.0f}x"
    return Line(name, text, max(over.values()) <= HOST)


def ragged(equal: Times, unequal: Times) -> Line:
    """Time of ragged groups over that of equal ones, for the same useful work."""
    name = "5 ragged groups over equal ones"
    found = against(unequal, equal)
    if not found:
        return Line(name, "no data")
    return Line(name, f"{listed(found)}; bar: each at most {RAGGED:.2f}", max(found.values()) <= RAGGED)


def lines(folder: Path) -> list[Line]:
    """Every bar."""
    dense, acts, groups, unequal, hosts = (read(folder, op) for op in (*OPS, "fp8_host"))
    peers = [
        bar("1 flashinfer", ratios(dense, "flashinfer"), mean=1.10, each=0.95),
        bar("  flashinfer, M <= 128", ratios(dense, "flashinfer", _small)),
        bar("  flashinfer, M >= 1024", ratios(dense, "flashinfer", _large)),
        bar("2 deep_gemm, M <= 128", ratios(dense, "deep_gemm", _small), mean=1.10, goal=1.0),
        bar("2 deep_gemm, M >= 1024", ratios(dense, "deep_gemm", _large), mean=0.90, goal=1.0),
        bar("3 cublaslt", ratios(dense, "cublaslt"), mean=1.20),
        bar("  cublaslt, M <= 128", ratios(dense, "cublaslt", _small)),
        bar("  cublaslt, M >= 1024", ratios(dense, "cublaslt", _large)),
    ]
    grouped = [
        bar("5 deep_gemm, equal groups", ratios(groups, "deep_gemm"), mean=0.92, goal=1.0),
        ragged(groups, unequal),
        bar("  deep_gemm, ragged groups padded to 128 rows", ratios(unequal, "deep_gemm")),
    ]
    flashinfer_acts = ratios(acts, "flashinfer")
    return [
        *peers,
        *bandwidth(dense),
        host(hosts),
        *grouped,
        bar("6 flashinfer, bf16 activations", flashinfer_acts, each=1.0),
    ]


if __name__ == "__main__":
    command(str(__doc__), lines, OPS)
