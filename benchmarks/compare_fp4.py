"""Hold the results of products with FP4 weights in a folder against their bars, and print the cells.

    python -m benchmarks.compare_fp4 benchmarks/results/h200 [--cells]

A ratio is the other time over ours, above 1 we are faster: humming's, that of bf16 weights, or our own of another operation.
"""

from __future__ import annotations

from pathlib import Path

from benchmarks.bars import Cell, Keep, Line, Times, against, bar, command, ratios, read, streamed
from benchmarks.case import FP4_BITS, TOP_K

OPS = ("w4a16_nvfp4", "w4a16_mxfp4", "w4a4_nvfp4", "w4a4_mxfp4", "fp4_grouped", "fp4_grouped_mxfp4")
#: From so many weights on few rows are bound by reading them: the launch is a small part of the time.
LARGE = 58e6
#: Parts of the byte floor, and how many times as long a case may take as the one that it is held against.
FLOOR, MXFP4, W4A4 = 0.55, 1.05, 1.10


def rows(least: int, most: int = 1 << 62) -> Keep:
    """The cells with so many rows."""
    return lambda cell: least <= cell[0] <= most


def tokens(least: int, most: int) -> Keep:
    """The cells with so many tokens, each of which is `TOP_K` rows."""
    return rows(TOP_K * least, TOP_K * most)


def large(keep: Keep) -> Keep:
    """Of these the cells with many weights."""
    return lambda cell: cell[1] * cell[2] >= LARGE and keep(cell)


def peers(times: Times) -> list[Line]:
    """NVFP4 weights and bf16 activations against humming and against bf16 weights."""
    lines = [
        bar("1 humming, M <= 64", ratios(times, "humming", rows(1, 64)), mean=1.15, each=0.90, goal=1.0),
        bar("1 humming, M >= 256", ratios(times, "humming", rows(256)), mean=1.00, each=0.90, goal=1.0),
        bar("2 torch_bf16, M <= 16, large", ratios(times, "torch_bf16", large(rows(1, 16))), mean=2.3),
    ]
    for m, mean in ((64, 1.5), (256, 0.95), (4096, 0.95)):
        lines.append(bar(f"2 torch_bf16, M = {m}", ratios(times, "torch_bf16", rows(m, m)), mean=mean))
    return lines


def floor(format: str, times: Times) -> Line:
    """How fast one row streams packed weights and scales."""

    def weights(cell: Cell) -> float:
        return cell[1] * cell[2] * FP4_BITS[format] / 8

    return streamed(f"4 {format}, M = 1, large", times, weights, FLOOR, large(rows(1, 1)))


def grouped(op: str, times: Times) -> list[Line]:
    """Routed experts against bf16 weights; humming for information."""
    return [
        bar(f"6 {op}, torch_bf16, up to 64 tokens", ratios(times, "torch_bf16", tokens(1, 64)), mean=1.8),
        bar(f"6 {op}, torch_bf16, 4096 tokens", ratios(times, "torch_bf16", tokens(4096, 4096)), mean=0.95),
        bar(f"  {op}, humming, up to 64 tokens", ratios(times, "humming", tokens(1, 64))),
        bar(f"  {op}, humming, 256 tokens and more", ratios(times, "humming", tokens(256, 4096))),
    ]


def lines(folder: Path) -> list[Line]:
    """Every bar."""
    nvfp4, mxfp4, w4a4, _, experts, experts_mxfp4 = (read(folder, op) for op in OPS)
    return [
        *peers(nvfp4),
        bar("3 MXFP4 against NVFP4", against(nvfp4, mxfp4), each=1 / MXFP4),
        floor("nvfp4", nvfp4),
        floor("mxfp4", mxfp4),
        bar("5 W4A4 against W4A16, M <= 64", against(nvfp4, w4a4, rows(1, 64)), each=1.0),
        bar("5 W4A4 against W4A16, M >= 256", against(nvfp4, w4a4, rows(256)), each=1 / W4A4),
        *grouped("fp4_grouped", experts),
        *grouped("fp4_grouped_mxfp4", experts_mxfp4),
    ]


if __name__ == "__main__":
    command(str(__doc__), lines, OPS)
