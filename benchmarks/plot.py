"""Plot a result CSV: one panel a weight shape, time against M for each implementation.

python -m benchmarks.plot benchmarks/results/h200/w4a4_nvfp4.csv docs/nvfp4_matmul_h200.png
"""

from __future__ import annotations

import argparse
import csv
from collections import defaultdict
from pathlib import Path

NAMES = {
    "tritonfp4": "tritonfp4",
    "torch_dequant": "torch.compile dequantization + cuBLAS",
    "torch_bf16": "cuBLAS bf16 (unquantized)",
}


def read(path: Path) -> dict[tuple[int, int], dict[str, list[tuple[int, float]]]]:
    """(n, k) -> impl -> [(m, microseconds)]."""
    table: dict[tuple[int, int], dict[str, list[tuple[int, float]]]] = defaultdict(lambda: defaultdict(list))
    with open(path, newline="") as file:
        for row in csv.DictReader(file):
            table[int(row["n"]), int(row["k"])][row["impl"]].append((int(row["m"]), float(row["median_us"])))
    return table


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("csv", type=Path)
    parser.add_argument("png", type=Path)
    args = parser.parse_args()
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    table = read(args.csv)
    with open(args.csv, newline="") as file:
        first = next(csv.DictReader(file))
    figure, axes = pyplot.subplots(1, len(table), figsize=(4 * len(table), 3.6), sharey=True, squeeze=False)
    for axis, ((n, k), impls) in zip(axes[0], sorted(table.items()), strict=True):
        for impl, points in impls.items():
            axis.plot(*zip(*sorted(points), strict=True), marker="o", markersize=4, label=NAMES.get(impl, impl))
        axis.set(xscale="log", yscale="log", title=f"N = {n}, K = {k}", xlabel="M")
        axis.grid(alpha=0.3)
    axes[0][0].set_ylabel("microseconds (lower is better)")
    axes[0][0].legend(fontsize=8)
    figure.suptitle(
        f"{first['op']} on one {first['device']}, torch {first['torch']}, Triton {first['triton']}", fontsize=10
    )
    figure.tight_layout()
    figure.savefig(args.png, dpi=130)


if __name__ == "__main__":
    main()
