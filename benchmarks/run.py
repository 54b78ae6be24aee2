"""Time the registry's operations on this GPU and write one CSV for each.

    python -m benchmarks.run fp8_dense fp8_grouped --out benchmarks/results/h200 [--m 1 4096] [--nk 4096,7168] [--peers deep_gemm]

Random inputs, every call replayed as a CUDA graph (device time, not host time), L2 flushed before every replay (`--flush`: see
`timing.py`), the implementations of one case taking turns, medians.
"""

from __future__ import annotations

import argparse
import csv
from collections.abc import Sequence
from pathlib import Path

import torch
import triton

from benchmarks.case import Wants, copy_case
from benchmarks.registry import OPS, Case
from benchmarks.timing import FLUSHES, measure

COLUMNS = ["op", "m", "n", "k", "groups", "impl", "median_us", "tflops", "gbps", "device", "torch", "triton"]


def machine() -> dict[str, str]:
    """The columns that say where a row was measured."""
    device = torch.cuda.get_device_name().removeprefix("NVIDIA ")
    return {"device": device, "torch": torch.__version__, "triton": triton.__version__}


def rows(case: Case, medians: dict[str, float]) -> list[dict[str, object]]:
    """CSV rows of one case."""
    out = []
    for impl, us in medians.items():
        moved = 4.0 * case.m * case.k if impl == "copy" else case.bytes
        numbers = {
            "median_us": f"{us:.2f}",
            "tflops": f"{case.flops / us / 1e6:.1f}",
            "gbps": f"{moved / us / 1e3:.0f}",
        }
        shape = {"op": case.op, "m": case.m, "n": case.n, "k": case.k, "groups": case.groups, "impl": impl}
        out.append(shape | numbers | machine())
    return out


def write(path: Path, table: Sequence[dict[str, object]]) -> None:
    """A CSV with the usual columns."""
    with open(path, "w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        writer.writerows(table)


def chosen(op: str, rows: Sequence[int] | None, shapes: Sequence[str] | None) -> list[Case]:
    """The cases of an operation, only those of some row counts and "N,K" if given; the copy is always among them."""
    return [
        case
        for case in OPS[op][0]
        if case == copy_case(op) or ((not rows or case.m in rows) and (not shapes or f"{case.n},{case.k}" in shapes))
    ]


def wanted(peers: Sequence[str] | None) -> Wants:
    """What `--peers` leaves."""
    return lambda name: peers is None or name in ("tritonfp4", "copy", *peers)


def arguments(description: str) -> argparse.ArgumentParser:
    """What `run` and `warm` have in common."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("ops", nargs="+", choices=sorted(OPS))
    parser.add_argument("--m", type=int, nargs="*", help="only these row counts (the file then holds only them)")
    parser.add_argument("--nk", nargs="*", metavar="N,K", help="only these weights")
    parser.add_argument("--peers", nargs="*", help="only these implementations beside tritonfp4")
    return parser


def main() -> None:
    """Command line."""
    parser = arguments(str(__doc__))
    parser.add_argument("--out", type=Path, required=True, help="folder of the CSV files")
    parser.add_argument("--flush", choices=FLUSHES, default=FLUSHES[0], help="what L2 holds when a call begins")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    wants = wanted(args.peers)
    for op in args.ops:
        table: list[dict[str, object]] = []
        for case in chosen(op, args.m, args.nk):
            torch.manual_seed(0)
            calls = {name: call for name, call in OPS[op][1](case, wants).items() if wants(name)}
            medians = measure(calls, args.flush)
            table += rows(case, medians)
            print(f"{case.name} " + "  ".join(f"{k} {v:.1f}" for k, v in medians.items()), flush=True)
        write(args.out / f"{op}.csv", table)


if __name__ == "__main__":
    main()
