"""Device time of calls: captured in CUDA graphs, L2 cold, the calls of a case taking turns."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping

import torch

from benchmarks.case import Call
from benchmarks.peers import left_out

#: What L2 holds when a call begins. "dirty": lines that were written, as `triton.testing.do_bench` leaves them; the timed call then
#: pays for writing those back. "clean": lines that were read, as the weights of the layers before leave them.
FLUSHES = ("dirty", "clean")
#: Bytes that are read or written in between: several times any L2.
FLUSH_BYTES = 1 << 28
#: Calls of each implementation: so many, or as many as take this time (milliseconds).
LEAST, MOST, BUDGET = 10, 200, 250.0
#: Milliseconds of calls that are not counted: for so long a GPU still has the clocks to which the heavy case before brought it down
#: (`results/h200/settling.csv`).
SETTLE = 150.0


def captured(name: str, call: Call) -> Callable[[], object]:
    """The call as a CUDA graph, so that no implementation waits for its host code; the call itself where it has none."""
    if name == "copy":  # in a graph a large copy goes to a copy engine, at two thirds of the rate
        return call
    for _ in range(3):
        call()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    try:
        with torch.cuda.graph(graph):
            result = call()
    except RuntimeError as error:
        left_out(f"the CUDA graph of {name}", f"{str(error).splitlines()[0]}; timed as eager calls")
        return call
    if isinstance(result, torch.Tensor):  # a launch on another stream would leave the graph empty
        result.zero_()
        graph.replay()
        if not result.any():
            left_out(f"the CUDA graph of {name}", "its replay computes nothing; timed as eager calls")
            return call
    return graph.replay


def flusher(flush: str) -> Callable[[], object]:
    """What empties L2 of the operands."""
    memory = torch.zeros(FLUSH_BYTES // 4, device="cuda")
    return memory.sum if flush == "clean" else memory.zero_


def _timed(run: Callable[[], object]) -> tuple[torch.cuda.Event, torch.cuda.Event]:
    begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    begin.record()
    run()
    end.record()
    return begin, end


def _milliseconds(events: tuple[torch.cuda.Event, torch.cuda.Event]) -> float:
    return events[0].elapsed_time(events[1])


def measure(calls: Mapping[str, Call], flush: str) -> dict[str, float]:
    """Median microseconds of each call. They take turns one by one, so that drifting clocks meet all of them alike."""
    runs = {name: captured(name, call) for name, call in calls.items()}
    empty = flusher(flush)

    def turn() -> dict[str, tuple[torch.cuda.Event, torch.cuda.Event]]:
        events = {}
        for name, run in runs.items():
            empty()
            events[name] = _timed(run)
        return events

    turn()
    whole = _timed(turn)
    torch.cuda.synchronize()
    settled = 0.0
    while settled < SETTLE:
        batch = [_timed(turn) for _ in range(LEAST)]
        torch.cuda.synchronize()
        settled += sum(map(_milliseconds, batch))
    count = max(LEAST, min(MOST, int(BUDGET / _milliseconds(whole))))
    turns = [turn() for _ in range(count)]
    torch.cuda.synchronize()
    return {name: 1e3 * statistics.median(_milliseconds(events[name]) for events in turns) for name in runs}
