"""Write quantize.json: `python tests/golden/generate.py`. README.md describes the format."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import torch

from tritonfp4 import reference
from tritonfp4.formats import FORMATS
from tritonfp4.layouts import SfLayout

FILE = Path(__file__).with_name("quantize.json")
DTYPES = {
    "float32": (torch.float32, torch.int32, 8),
    "bfloat16": (torch.bfloat16, torch.int16, 4),
    "float16": (torch.float16, torch.int16, 4),
}
INF, NAN = float("inf"), float("nan")

#: numerics.md section 4.4, computed by hand.
WORKED = (3, -1, 0.25, 0.125, -0.125, 0, 0.75, 1.25, -2.5, 0.5, 1, 2, -0.375, 0.625, 1.75, -0.0625)


def noise(rows: int, cols: int, seed: int) -> torch.Tensor:
    """About normal, rows of different sizes; only exact arithmetic, so that every machine draws the same."""
    rng = random.Random(seed)
    draw = [[sum(rng.random() for _ in range(12)) - 6 for _ in range(cols)] for _ in range(rows)]
    return torch.tensor(draw) * torch.tensor([[2.0 ** (r % 5 - 2)] for r in range(rows)])


def blocks(vec: int, *heads: tuple[float, ...]) -> torch.Tensor:
    """One row; each block starts with the numbers of one head, zeros follow."""
    return torch.tensor([[value for head in heads for value in (*head, *[0.0] * (vec - len(head)))]])


def words(x: torch.Tensor, kind: torch.dtype, digits: int) -> str:
    return "".join(f"{bits & (1 << 4 * digits) - 1:0{digits}x}" for bits in x.contiguous().view(kind).tolist())


def unwords(text: str, dtype: str) -> torch.Tensor:
    """Inverse of `words`."""
    float_type, kind, digits = DTYPES[dtype]
    bits = [int(text[i : i + digits], 16) for i in range(0, len(text), digits)]
    half = 1 << 4 * digits - 1
    return torch.tensor([b - 2 * half if b >= half else b for b in bits], dtype=kind).view(float_type)


def fp32_words(x: torch.Tensor) -> str:
    return words(x.float().reshape(-1), torch.int32, 8)


def run(case: dict[str, Any]) -> dict[str, Any]:
    """The outputs of the reference for the inputs of a case."""
    x = torch.stack([unwords(row, case["dtype"]) for row in case["input"]])
    scale = None if case["global_scale"] is None else unwords(case["global_scale"], "float32")
    values, scales, decode = reference.quantize(
        x, scale, None, FORMATS[case["format"]], case["rule"], case["e4m3_max"], case["scale_from"],
        SfLayout[case["layout"]], case["pad"],
    )  # fmt: skip
    return {
        "values": [bytes(row.tolist()).hex() for row in values],
        "scales": bytes(scales.tolist()).hex(),
        "decode": fp32_words(decode),
    }


def case(
    name: str,
    x: torch.Tensor,
    format: str = "nvfp4",
    rule: str = "static_6",
    *,
    dtype: str = "bfloat16",
    e4m3_max: int = 448,
    scale_from: str = "tensor",
    global_scale: float | list[float] | None = None,
    layout: str = "layout_linear",
    pad: bool = False,
) -> dict[str, Any]:
    float_type, kind, digits = DTYPES[dtype]
    given = None if global_scale is None else fp32_words(torch.tensor(global_scale))
    rows = [words(row, kind, digits) for row in x.to(float_type)]
    inputs = {
        "name": name, "format": format, "rule": rule, "e4m3_max": e4m3_max, "scale_from": scale_from,
        "global_scale": given, "layout": layout, "pad": pad, "dtype": dtype, "input": rows,
    }  # fmt: skip
    return inputs | run(inputs)


def cases() -> list[dict[str, Any]]:
    with_zero_row = noise(4, 32, 6)
    with_zero_row[2] = 0
    thresholds = blocks(32, (4,), (5,), (6,), (6.5,), (7,), (7.5,), (8, 7, -6, 5, 3.5, 2.5))
    mx = torch.cat([thresholds, noise(1, 224, 9)])
    special = ((0, -0.0), (448 * 6, 1), (1e-6, -1e-6), (INF, -INF, 448, 1), (NAN, 3, -1), (NAN,) * 16, (3e-3, 1e-3))
    mx_special = ((0, -0.0), (1e-45, -1e-45), (INF, 1, -1), (NAN, 3, -1), (NAN,) * 32, (2.0**-126, 2.0**-127), (3e38,))
    return [
        case("worked example", torch.tensor([WORKED]), dtype="float32", scale_from="amax", global_scale=6.0),
        case("nvfp4 static_6 linear", noise(5, 48, 1)),
        case("nvfp4 static_6 128x4", noise(5, 48, 1), layout="layout_128x4"),
        case("nvfp4 static_6 8x4", noise(9, 80, 2), layout="layout_8x4"),
        case("nvfp4 static_4", noise(4, 64, 3), rule="static_4"),
        case("nvfp4 mse 256", noise(4, 64, 3), rule="mse", e4m3_max=256),
        case("nvfp4 mae 448", noise(4, 64, 3), rule="mae"),
        case("nvfp4 abs_max 256", noise(4, 64, 3), rule="abs_max", e4m3_max=256),
        case("nvfp4 per row", with_zero_row, scale_from="row"),
        case("nvfp4 given G", noise(4, 32, 4), dtype="float16", scale_from="encode", global_scale=300.0),
        case("nvfp4 given G for each row", noise(3, 32, 4), scale_from="encode", global_scale=[10.0, 300.0, 4000.0]),
        case("nvfp4 mse 256, given 1 / G", noise(4, 64, 5), rule="mse", e4m3_max=256, scale_from="decode",
             global_scale=0.005),
        case("nvfp4 special values", blocks(16, *special), dtype="float32", scale_from="encode", global_scale=1.0),
        case("nvfp4 padded", noise(3, 40, 7), rule="mse", e4m3_max=256, layout="layout_128x4", pad=True),
        case("mxfp4 rceil", mx, "mxfp4", "static_6", scale_from="none"),
        case("mxfp4 ceil", mx, "mxfp4", "static_4", scale_from="none"),
        case("mxfp4 floor", mx, "mxfp4", "floor", scale_from="none"),
        case("mxfp4 even", mx, "mxfp4", "even", scale_from="none"),
        case("mxfp4 special values", blocks(32, *mx_special), "mxfp4", dtype="float32", scale_from="none"),
    ]  # fmt: skip


def text() -> str:
    return json.dumps(cases(), indent=1) + "\n"


if __name__ == "__main__":
    FILE.write_text(text())
