"""Host time of an eager FP8 product beside that of a bare launch of the kernel that it ends in.

    python -m benchmarks.host --out benchmarks/results/h200

A product so small that the GPU is never busy; every call timed on the host, nothing synchronized in between; medians.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from triton.runtime.jit import JITFunction

import tritonfp4 as T
from benchmarks.case import Call
from benchmarks.inputs import mn_major
from benchmarks.run import machine, write

SHAPE = (1, 128, 128)
CALLS, ROUNDS = 1000, 5


def host_times(
    calls: dict[str, Call],
    count: int = CALLS,
    rounds: int = ROUNDS,
    synchronize: Callable[[], None] = torch.cuda.synchronize,
) -> dict[str, float]:
    """Median microseconds that each call keeps the host; the calls take turns, `count` at a time."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    for call in calls.values():
        for _ in range(50):
            call()
    for _ in range(rounds):
        for name, call in calls.items():
            synchronize()
            times[name] += _each(call, count)
    synchronize()
    return {name: 1e6 * statistics.median(values) for name, values in times.items()}


def _each(call: Call, count: int) -> list[float]:
    clock = time.perf_counter
    stamps = [clock()]
    for _ in range(count):
        call()
        stamps.append(clock())
    return [after - before for before, after in itertools.pairwise(stamps)]


def bare(call: Call) -> Call:
    """The launches that `call` makes, with the arguments that it made: ``kernel[grid](...)`` and nothing else.

    The call must go through ``kernel[grid](...)`` once more: a launcher that keeps compiled kernels has to be given a call that
    it has not seen.
    """
    launches: list[tuple[Any, Any, tuple[Any, ...], dict[str, Any]]] = []
    run = JITFunction.run

    def recorded(self: Any, *args: Any, grid: Any, warmup: bool, **kwargs: Any) -> Any:
        launches.append((self, grid, args, kwargs))
        return run(self, *args, grid=grid, warmup=warmup, **kwargs)

    JITFunction.run = recorded
    try:
        call()
    finally:
        JITFunction.run = run
    if not launches:
        raise RuntimeError("the call launched nothing through kernel[grid](...)")
    print("bare: " + ", ".join(launch[0].__name__ for launch in launches))

    def again() -> None:
        for kernel, grid, args, kwargs in launches:
            kernel[grid](*args, **kwargs)

    return again


def calls_of(shape: tuple[int, int, int]) -> dict[str, Call]:
    """The eager calls of one shape."""
    m, n, k = shape
    a, a_scale = T.per_token_cast_to_fp8(torch.randn(m, k, device="cuda", dtype=torch.bfloat16))
    b, b_scale = T.per_block_cast_to_fp8(torch.randn(n, k, device="cuda", dtype=torch.bfloat16))
    out = torch.empty(m, n, device="cuda", dtype=torch.bfloat16)
    columns = mn_major(a_scale)
    return {
        "fp8_blockscale_gemm_sm90": lambda: T.fp8_blockscale_gemm_sm90(a, b, columns, b_scale, out=out),
        "gemm_fp8_nt_groupwise": lambda: T.gemm_fp8_nt_groupwise(a, b, columns, b_scale, "K", out=out),
    }


def main(launch: Call | None = None) -> None:
    """Command line; `launch` is the bare launch, by default the recorded one of the first call."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="folder of fp8_host.csv")
    args = parser.parse_args()
    calls = calls_of(SHAPE)
    calls = {"bare": launch or bare(calls["fp8_blockscale_gemm_sm90"]), **calls}
    medians = host_times(calls)
    for name, us in medians.items():
        print(f"{name} {us:.1f} us, {us / medians['bare']:.2f} of a bare launch")
    if args.out:
        m, n, k = SHAPE
        shape = {"op": "fp8_host", "m": m, "n": n, "k": k, "groups": 1, "tflops": "0", "gbps": "0"} | machine()
        args.out.mkdir(parents=True, exist_ok=True)
        write(args.out / "fp8_host.csv", [shape | {"impl": i, "median_us": f"{us:.2f}"} for i, us in medians.items()])


if __name__ == "__main__":
    main()
