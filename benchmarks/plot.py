"""Plot a result CSV: time against M, one panel a weight shape; for grouped products TFLOP/s, one set of bars a case.

python -m benchmarks.plot benchmarks/results/h200/fp8_dense.csv docs/fp8_dense_h200.png
"""

from __future__ import annotations

import argparse
import csv
from pathlib import Path
from typing import Any

NAMES = {
    "tritonfp4": "tritonfp4",
    "deep_gemm": "DeepGEMM",
    "flashinfer": "flashinfer",
    "cublaslt": "cuBLASLt",
    "humming": "humming",
    "torch_dequant": "torch.compile dequantization + cuBLAS",
    "torch_bf16": "torch bf16 (unquantized)",
}
#: A color for each implementation, the same in every picture.
COLORS = dict(zip(NAMES, ("C0", "C1", "C2", "C3", "C5", "C4", "0.55"), strict=True))
COLUMNS = 3
Row = dict[str, str]


def read(path: Path) -> list[Row]:
    """The rows of products; a copy's bandwidth is no point of these pictures."""
    with open(path, newline="") as file:
        return [row for row in csv.DictReader(file) if row["impl"] != "copy"]


def style(impl: str) -> dict[str, Any]:
    """How an implementation is drawn."""
    return {"color": COLORS.get(impl, "C6"), "label": NAMES.get(impl, impl)}


def curves(pyplot: Any, rows: list[Row]) -> Any:
    """Microseconds against M, both logarithmic; a panel for each (N, K)."""
    shapes = list(dict.fromkeys((int(row["n"]), int(row["k"])) for row in rows))
    columns = len(shapes) if len(shapes) <= COLUMNS + 1 else COLUMNS
    lines = -(-len(shapes) // columns)
    figure, axes = pyplot.subplots(lines, columns, figsize=(4 * columns, 3.2 * lines + 0.4), sharey=True, squeeze=False)
    for axis in axes.flat[len(shapes) :]:
        axis.set_visible(False)
    for axis, (n, k) in zip(axes.flat, shapes, strict=False):
        mine = [row for row in rows if (int(row["n"]), int(row["k"])) == (n, k)]
        for impl in dict.fromkeys(row["impl"] for row in mine):
            points = sorted((int(row["m"]), float(row["median_us"])) for row in mine if row["impl"] == impl)
            axis.plot(*zip(*points, strict=True), marker="o", markersize=4, **style(impl))
        axis.set(xscale="log", yscale="log", title=f"N = {n}, K = {k}", xlabel="M")
        axis.grid(alpha=0.3)
    for line in axes:
        line[0].set_ylabel("microseconds (lower is better)")
    axes[0][0].legend(fontsize=8)
    return figure


def bars(pyplot: Any, rows: list[Row]) -> Any:
    """TFLOP/s of useful work for each case, a bar an implementation."""
    cases = list(dict.fromkeys((int(r["groups"]), int(r["m"]), int(r["n"]), int(r["k"])) for r in rows))
    impls = list(dict.fromkeys(row["impl"] for row in rows))
    figure, axis = pyplot.subplots(figsize=(1.8 * len(cases) + 1, 4))
    width = 0.8 / len(impls)
    for step, impl in enumerate(impls):
        mine = {(int(r["groups"]), int(r["m"]), int(r["n"]), int(r["k"])): r for r in rows if r["impl"] == impl}
        places = [index + (step - (len(impls) - 1) / 2) * width for index, case in enumerate(cases) if case in mine]
        drawn = axis.bar(places, [float(mine[c]["tflops"]) for c in cases if c in mine], width * 0.95, **style(impl))
        axis.bar_label(drawn, fmt="%.0f", fontsize=7)
    names = [f"{groups} x {m // groups} rows\nN = {n}, K = {k}" for groups, m, n, k in cases]
    axis.set_xticks(range(len(cases)), names, fontsize=8)
    axis.set_ylabel("TFLOP/s (higher is better)")
    axis.grid(alpha=0.3, axis="y")
    axis.legend(fontsize=8)
    return figure


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("csv", type=Path)
    parser.add_argument("png", type=Path)
    args = parser.parse_args()
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    rows = read(args.csv)
    first = rows[0]
    figure = (bars if any(row["groups"] != "1" for row in rows) else curves)(pyplot, rows)
    op = first["op"] + (" (mean rows of a group)" if first["op"].endswith("ragged") else "")
    title = f"{op} on one {first['device']}, torch {first['torch']}, Triton {first['triton']}"
    figure.suptitle(title, fontsize=10)
    figure.tight_layout()
    figure.savefig(args.png, dpi=130)


if __name__ == "__main__":
    main()
