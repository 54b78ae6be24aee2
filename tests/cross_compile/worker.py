"""Compiles the cases for the architectures named on the command line, each in a forked child; one JSON line a case.

A process of its own because the tests' process may have defined its kernels for Triton's interpreter.

    python worker.py ARCH [ARCH ...] [--only TEXT] [--core]
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

os.environ["TRITON_INTERPRET"] = "0"  # before Triton is imported
sys.path.insert(0, str(Path(__file__).resolve().parent))

from cases import CASES, CORE, Case, matmul

from tritonfp4 import aot
from tritonfp4.config import Config
from tritonfp4.device import DeviceInfo, target_info

#: Tiles that do not fit, to see that this is noticed: in tensor memory (sm_10x), in shared memory.
TOO_LARGE: dict[str, Case] = {
    "tensor memory": matmul(4096, "nvfp4", config=Config("native", 256, 256, 256, 8, 2)),
    "shared memory": matmul(4096, "bf16", config=Config("upcast", 256, 128, 256, 8, 4)),
}


def compile_case(case: Case, device: DeviceInfo) -> list[dict[str, Any]]:
    """Summaries of the case's kernels with their problems; GEMM kernels are held to the instructions of their path."""
    arch, kernels = device.arch.number, []
    config = case.config(device) if case.config else None
    for kernel in aot.compile_for(arch, lambda: case.launch(device)):
        gemm = config is not None and kernel.name.startswith(("matmul", "grouped"))
        expect = aot.expected_mma(arch, config, case.formats[0], kernel.name) if config is not None and gemm else None
        facts = {"gemm": gemm, "expect": expect, "problems": kernel.problems(expect), "loads": kernel.global_loads()}
        kernels.append(kernel.summary() | facts)
    return kernels


def report(case: Case, device: DeviceInfo) -> dict[str, Any]:
    """The line of one case: ``kernels``, or ``error``."""
    start = time.perf_counter()
    line: dict[str, Any] = {"arch": device.arch.number, "case": case.name}
    try:
        line["path"] = case.config(device).path if case.config else ""
        line["kernels"] = aot.in_child(compile_case, case, device)
    except (aot.CompileError, ValueError) as error:
        line["error"] = str(error)
    return line | {"seconds": round(time.perf_counter() - start, 2)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("arch", type=int, nargs="+")
    parser.add_argument("--only", default="", help="only cases whose name contains this")
    parser.add_argument("--core", action="store_true", help="only the cases of cases.CORE")
    parser.add_argument("--too-large", action="store_true", help="the tiles that must be refused, instead of the cases")
    args = parser.parse_args()
    for arch in args.arch:
        for case in TOO_LARGE.values() if args.too_large else CASES:
            if case.is_for(arch) and args.only in case.name and (not args.core or case.name in CORE):
                print(json.dumps(report(case, target_info(arch))), flush=True)


if __name__ == "__main__":
    main()
