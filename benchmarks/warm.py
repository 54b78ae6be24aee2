"""Call every case of some operations once, in parallel processes, and say how far the results are apart.

    python -m benchmarks.warm fp8_dense fp8_grouped --jobs 12

The peers compile a kernel with nvcc at the first call of a shape and Triton compiles ours; all keep them on disk. So `run` after
this measures and compiles nothing. Differences are ``1 - 2 xy / (xx + yy)`` against tritonfp4's result: about 1e-6 for the
same FP8 or FP4 operands, 1e-3 for bf16 ones or another quantizer (1e-2 beside FP4), and 1 where an adapter hands over wrong
scales (5e-2 for those of FP4).
"""

from __future__ import annotations

import multiprocessing
import time
from collections import defaultdict
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor

import torch

from benchmarks.case import Build, Case, Wants
from benchmarks.peers.deep_gemm import GroupedCall
from benchmarks.registry import OPS
from benchmarks.run import arguments, chosen, wanted

#: A difference that no rounding explains: of the same operands, and from those that were not quantized, to FP4 even.
WRONG, UNQUANTIZED = 0.01, 0.02


def difference(x: torch.Tensor, y: torch.Tensor) -> float:
    """``1 - 2 xy / (xx + yy)``; 1 if either holds a NaN."""
    x, y = x.double(), y.double()
    value = 1 - float(2 * (x * y).sum() / (x * x + y * y).sum())
    return value if value == value else 1.0


def called(case: Case, build: Build, wants: Wants) -> dict[str, float | str]:
    """Call every implementation of one case: its difference from tritonfp4's result, or what it raised."""
    found: dict[str, float | str] = {}
    ours: torch.Tensor | None = None
    for name, call in build(case, wants).items():
        if not wants(name):
            continue
        try:
            result = call()
            torch.cuda.synchronize()
        except Exception as error:  # the others still have to be compiled
            found[name] = f"{case.name}: {type(error).__name__}: {error}"
            continue
        result = result[call.rows] if isinstance(call, GroupedCall) and isinstance(result, torch.Tensor) else result
        if name == "tritonfp4":
            ours = result if isinstance(result, torch.Tensor) else None
        found[name] = 0.0 if ours is None or not isinstance(result, torch.Tensor) else difference(ours, result)
    return found


def warm(task: tuple[str, int, Sequence[str] | None]) -> dict[str, float | str]:
    """What a process does: one case, then its memory goes back to the other processes."""
    op, index, peers = task
    cases, build = OPS[op]
    torch.manual_seed(0)
    found = called(cases[index], build, wanted(peers))
    torch.cuda.empty_cache()
    return found


def main() -> None:
    """Command line."""
    parser = arguments(str(__doc__))
    parser.add_argument("--jobs", type=int, default=12, help="processes; each holds the inputs of one case on the GPU")
    args = parser.parse_args()
    tasks = [(op, OPS[op][0].index(case), args.peers) for op in args.ops for case in chosen(op, args.m, args.nk)]
    start = time.perf_counter()
    largest: dict[tuple[str, str], float] = defaultdict(float)
    with ProcessPoolExecutor(args.jobs, mp_context=multiprocessing.get_context("spawn")) as pool:
        for task, found in zip(tasks, pool.map(warm, tasks), strict=True):
            for impl, value in found.items():
                if isinstance(value, str):
                    print(f"{impl} failed: {value}", flush=True)
                else:
                    largest[task[0], impl] = max(largest[task[0], impl], value)
    for (op, impl), value in largest.items():
        wrong = value > (UNQUANTIZED if impl == "torch_bf16" else WRONG)
        print(f"{op} {impl}: largest difference {value:.1e}" + ("  WRONG" if wrong else ""))
    print(f"{len(tasks)} cases in {time.perf_counter() - start:.0f} s")


if __name__ == "__main__":
    main()
