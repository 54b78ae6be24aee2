"""Time the registry's operations on this GPU and write one CSV for each.

    python -m benchmarks.run w4a4_nvfp4 quantize_nvfp4 --out benchmarks/results/h200 [--m 4096] [--peers torch_bf16 ...]

Random inputs, every call replayed as a CUDA graph (device time, not host time), L2 flushed before every replay, the
implementations of one case interleaved over several rounds, medians.
"""

from __future__ import annotations

import argparse
import csv
import statistics
from collections.abc import Callable
from pathlib import Path

import torch
import triton

from benchmarks.registry import OPS, Case

COLUMNS = ["op", "m", "n", "k", "groups", "impl", "median_us", "tflops", "gbps", "device", "torch", "triton"]
ROUNDS = 3


def captured(call: Callable[[], object]) -> Callable[[], object]:
    """The call as a CUDA graph, so that no implementation waits for its host code."""
    for _ in range(3):
        call()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        call()
    return graph.replay


def measure(calls: dict[str, Callable[[], object]]) -> dict[str, float]:
    """Median microseconds of each call; rounds interleave the calls so that clock drift meets all of them."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    calls = {name: captured(call) for name, call in calls.items()}
    for _ in range(ROUNDS):
        for name, call in calls.items():
            times[name].append(1e3 * triton.testing.do_bench(call, warmup=10, rep=40, return_mode="median"))
    return {name: statistics.median(values) for name, values in times.items()}


def rows(case: Case, medians: dict[str, float]) -> list[dict[str, object]]:
    """CSV rows of one case."""
    machine = {
        "device": torch.cuda.get_device_name().removeprefix("NVIDIA "),
        "torch": torch.__version__,
        "triton": triton.__version__,
    }
    out = []
    for impl, us in medians.items():
        moved = 4.0 * case.m * case.k if impl == "copy" else case.bytes
        numbers = {
            "median_us": f"{us:.2f}",
            "tflops": f"{case.flops / us / 1e6:.1f}",
            "gbps": f"{moved / us / 1e3:.0f}",
        }
        shape = {"op": case.op, "m": case.m, "n": case.n, "k": case.k, "groups": case.groups, "impl": impl}
        out.append(shape | numbers | machine)
    return out


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("ops", nargs="+", choices=sorted(OPS))
    parser.add_argument("--out", type=Path, required=True, help="folder of the CSV files")
    parser.add_argument("--m", type=int, nargs="*", help="only these row counts (the file then holds only them)")
    parser.add_argument("--peers", nargs="*", help="only these implementations beside tritonfp4")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    for op in args.ops:
        cases, build = OPS[op]
        table: list[dict[str, object]] = []
        for case in cases:
            if args.m and case.m not in args.m:
                continue
            torch.manual_seed(0)
            calls = build(case)
            if args.peers is not None:
                calls = {name: call for name, call in calls.items() if name == "tritonfp4" or name in args.peers}
            medians = measure(calls)
            table += rows(case, medians)
            print(
                f"{op} {case.m}x{case.n}x{case.k} " + "  ".join(f"{k} {v:.1f}" for k, v in medians.items()), flush=True
            )
        with open(args.out / f"{op}.csv", "w", newline="") as file:
            writer = csv.DictWriter(file, COLUMNS)
            writer.writeheader()
            writer.writerows(table)


if __name__ == "__main__":
    main()
