"""Hold the FP8 results of a folder against their bars, and print the cells.

    python -m benchmarks.compare benchmarks/results/h200 [--cells]

A ratio is the peer's time over ours, above 1 we are faster. The bars are those that this version was built to.
"""

from __future__ import annotations

import argparse
import csv
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

#: (m, n, k, groups), m counting the rows of all groups.
Cell = tuple[int, int, int, int]
#: cell -> impl -> microseconds.
Times = dict[Cell, dict[str, float]]
OURS = "tritonfp4"
MIB = 2**20
#: Weights of at least so many bytes (and less than the line before) must stream at this part of the copy bandwidth.
BANDWIDTH = ((64 * MIB, 0.70), (28 * MIB, 0.45))
BANDWIDTH_ROWS, HOST, RAGGED = 16, 2.0, 1.15


@dataclass(frozen=True)
class Line:
    """One bar: `ok` is None where there is no data."""

    name: str
    text: str
    ok: bool | None = None

    def __str__(self) -> str:
        mark = "    " if self.ok is None else "pass" if self.ok else "MISS"
        return f"[{mark}] {self.name}: {self.text}"


def read(folder: Path, op: str) -> Times:
    """The times of one operation; empty where the file is not there."""
    times: Times = {}
    path = folder / f"{op}.csv"
    if path.exists():
        with open(path, newline="") as file:
            for row in csv.DictReader(file):
                cell = (int(row["m"]), int(row["n"]), int(row["k"]), int(row["groups"]))
                times.setdefault(cell, {})[row["impl"]] = float(row["median_us"])
    return times


def ratios(times: Times, peer: str, keep: Callable[[int], bool] = lambda m: True) -> dict[Cell, float]:
    """Peer over ours, where both ran and `keep` holds for the rows."""
    return {cell: row[peer] / row[OURS] for cell, row in times.items() if peer in row and OURS in row and keep(cell[0])}


def geomean(values: Mapping[Cell, float]) -> float:
    """Geometric mean."""
    return math.exp(sum(map(math.log, values.values())) / len(values))


def label(cell: Cell) -> str:
    """A cell, for printing."""
    m, n, k, groups = cell
    return f"M={m} N={n} K={k}" if groups == 1 else f"{groups}x{m // groups} N={n} K={k}"


def summary(found: Mapping[Cell, float]) -> str:
    """Geometric mean and worst cell."""
    worst = min(found, key=lambda cell: found[cell])
    return f"geometric mean {geomean(found):.3f}, worst {found[worst]:.3f} at {label(worst)}, {len(found)} cells"


def bar(name: str, found: Mapping[Cell, float], mean: float = 0.0, each: float = 0.0, goal: float = 0.0) -> Line:
    """Ratios against a bar for the geometric mean, one for each cell, and a goal that decides nothing but is listed."""
    if not found:
        return Line(name, "no data")
    wanted = [f"mean >= {mean:.2f}"] * bool(mean) + [f"each >= {each:.2f}"] * bool(each)
    text = f"{summary(found)}; bar: {', '.join(wanted) or 'none'}"
    below = [f"{label(cell)} {value:.3f}" for cell, value in sorted(found.items()) if value < goal]
    if below:
        text += f"\n         below {goal:.2f}: " + "; ".join(below)
    ok = (geomean(found) >= mean and min(found.values()) >= each) if wanted else None
    return Line(name, text, ok)


def bandwidth(times: Times) -> list[Line]:
    """Bytes of the weights a second, as a part of the copy bandwidth (bytes read and written) of the same file."""
    copies = [4.0 * cell[0] * cell[2] / row["copy"] for cell, row in times.items() if "copy" in row]
    lines, above = [], math.inf
    for least, part in BANDWIDTH:
        name = f"4 weights of {least // MIB} MiB" + (" or more" if math.isinf(above) else f" to {above // MIB} MiB")
        found = {
            cell: cell[1] * cell[2] / row[OURS] / copies[0]
            for cell, row in times.items()
            if copies and OURS in row and cell[0] <= BANDWIDTH_ROWS and least <= cell[1] * cell[2] < above
        }
        if found:
            parts = "; ".join(f"{label(cell)} {value:.2f}" for cell, value in sorted(found.items()))
            text = f"{parts} of a copy's {copies[0] / 1e6:.2f} TB/s; bar: each >= {part:.2f}"
            lines.append(Line(name, text, min(found.values()) >= part))
        else:
            lines.append(Line(name, "no data"))
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
    found = {
        cell: unequal[cell][OURS] / equal[cell][OURS]
        for cell in unequal
        if OURS in unequal[cell] and OURS in equal.get(cell, {})
    }
    if not found:
        return Line(name, "no data")
    parts = "; ".join(f"{label(cell)} {value:.3f}" for cell, value in sorted(found.items()))
    return Line(name, f"{parts}; bar: each at most {RAGGED:.2f}", max(found.values()) <= RAGGED)


def lines(folder: Path) -> list[Line]:
    """Every bar."""
    dense, acts, groups, unequal, hosts = (
        read(folder, op) for op in ("fp8_dense", "fp8_dense_bf16act", "fp8_grouped", "fp8_grouped_ragged", "fp8_host")
    )
    small, large = (lambda m: m <= 128), (lambda m: m >= 1024)
    peers = [
        bar("1 flashinfer", ratios(dense, "flashinfer"), mean=1.10, each=0.95),
        bar("  flashinfer, M <= 128", ratios(dense, "flashinfer", small)),
        bar("  flashinfer, M >= 1024", ratios(dense, "flashinfer", large)),
        bar("2 deep_gemm, M <= 128", ratios(dense, "deep_gemm", small), mean=1.10, goal=1.0),
        bar("2 deep_gemm, M >= 1024", ratios(dense, "deep_gemm", large), mean=0.90, goal=1.0),
        bar("3 cublaslt", ratios(dense, "cublaslt"), mean=1.20),
        bar("  cublaslt, M <= 128", ratios(dense, "cublaslt", small)),
        bar("  cublaslt, M >= 1024", ratios(dense, "cublaslt", large)),
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


def cells(times: Times) -> str:
    """A Markdown table: microseconds of ours, and the ratio to every peer."""
    peers = sorted({impl for row in times.values() for impl in row} - {OURS, "copy"})
    table = ["| case | " + " | ".join([f"{OURS}, us", *peers]) + " |", "|---" * (len(peers) + 2) + "|"]
    for cell, row in times.items():
        if OURS in row:
            over = [f"{row[peer] / row[OURS]:.2f}" if peer in row else "-" for peer in peers]
            table.append("| " + " | ".join([label(cell), f"{row[OURS]:.1f}", *over]) + " |")
    return "\n".join(table)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--cells", action="store_true", help="print every cell, too")
    args = parser.parse_args()
    for line in lines(args.folder):
        print(line)
    for op in ("fp8_dense", "fp8_dense_bf16act", "fp8_grouped", "fp8_grouped_ragged") if args.cells else ():
        if times := read(args.folder, op):
            print(f"\n{op}\n\n{cells(times)}")


if __name__ == "__main__":
    main()
