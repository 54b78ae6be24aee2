"""What the comparisons of `compare` and `compare_fp4` share: reading results, ratios of times, and bars that pass or miss.

A ratio is another time over ours, above 1 we are faster.
"""

from __future__ import annotations

import argparse
import csv
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

#: (m, n, k, groups), m counting the rows of all groups.
Cell = tuple[int, int, int, int]
#: cell -> impl -> microseconds.
Times = dict[Cell, dict[str, float]]
Keep = Callable[[Cell], bool]
OURS = "tritonfp4"


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


def every(cell: Cell) -> bool:
    """Leave no cell out."""
    return True


def ratios(times: Times, peer: str, keep: Keep = every) -> dict[Cell, float]:
    """Peer over ours, where both ran and `keep` holds."""
    return {cell: row[peer] / row[OURS] for cell, row in times.items() if peer in row and OURS in row and keep(cell)}


def against(others: Times, times: Times, keep: Keep = every) -> dict[Cell, float]:
    """Our own times of another operation over those of this one, where both ran and `keep` holds."""
    return {
        cell: others[cell][OURS] / row[OURS]
        for cell, row in times.items()
        if OURS in row and OURS in others.get(cell, {}) and keep(cell)
    }


def geomean(values: Mapping[Cell, float]) -> float:
    """Geometric mean."""
    return math.exp(sum(map(math.log, values.values())) / len(values))


def label(cell: Cell) -> str:
    """A cell, for printing; rows that do not divide by the groups are those of all groups."""
    m, n, k, groups = cell
    rows = f"M={m}" if groups == 1 else f"{groups}x{m // groups}" if m % groups == 0 else f"{groups} groups M={m}"
    return f"{rows} N={n} K={k}"


def listed(found: Mapping[Cell, float], digits: int = 3) -> str:
    """Every cell with its value."""
    return "; ".join(f"{label(cell)} {value:.{digits}f}" for cell, value in sorted(found.items()))


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
    below = {cell: value for cell, value in found.items() if value < goal}
    if below:
        text += f"\n         below {goal:.2f}: {listed(below)}"
    ok = (geomean(found) >= mean and min(found.values()) >= each) if wanted else None
    return Line(name, text, ok)


def streamed(name: str, times: Times, weights: Callable[[Cell], float], part: float, keep: Keep) -> Line:
    """Bytes of the weights a second, as a part of the copy bandwidth (bytes read and written) of the same file."""
    copies = [4.0 * cell[0] * cell[2] / row["copy"] for cell, row in times.items() if "copy" in row]
    found = {
        cell: weights(cell) / row[OURS] / copies[0]
        for cell, row in times.items()
        if copies and OURS in row and keep(cell)
    }
    if not found:
        return Line(name, "no data")
    text = f"{listed(found, 2)} of a copy's {copies[0] / 1e6:.2f} TB/s; bar: each >= {part:.2f}"
    return Line(name, text, min(found.values()) >= part)


def cells(times: Times) -> str:
    """A Markdown table: microseconds of ours, and the ratio to every peer."""
    peers = sorted({impl for row in times.values() for impl in row} - {OURS, "copy"})
    table = ["| case | " + " | ".join([f"{OURS}, us", *peers]) + " |", "|---" * (len(peers) + 2) + "|"]
    for cell, row in times.items():
        if OURS in row:
            over = [f"{row[peer] / row[OURS]:.2f}" if peer in row else "-" for peer in peers]
            table.append("| " + " | ".join([label(cell), f"{row[OURS]:.1f}", *over]) + " |")
    return "\n".join(table)


def command(description: str, lines: Callable[[Path], Sequence[Line]], ops: Sequence[str]) -> None:
    """The command line of a comparison: its bars, then the cells of its operations."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--cells", action="store_true", help="print every cell, too")
    args = parser.parse_args()
    for line in lines(args.folder):
        print(line)
    for op in ops if args.cells else ():
        if times := read(args.folder, op):
            print(f"\n{op}\n\n{cells(times)}")
