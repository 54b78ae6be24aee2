"""One small launch of each Hopper kernel, and of those of FP4 weights, in each of its modes, checked, for compute-sanitizer:

    compute-sanitizer --tool memcheck python tests/gpu/sanitize.py
    compute-sanitizer --tool racecheck python tests/gpu/sanitize.py

Shapes are ragged and tiny: every tile is cut at some edge, and rings go round more than once.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import gemm_checks as C
from gemm_checks import fp8_operand
from kernel_checks import error, exact_product, operand, threshold

from tritonfp4.config import Config


def tile(m: int, n: int, warpgroups: int, stages: int, pair: int) -> Config:
    return Config("hopper", m, 128, n, 4 * (warpgroups + 1), stages, 8, pair=pair)


#: name -> problem, mode, config. Scales of "MN" problems and of masked ones are read as they are, all others copied.
LAUNCHES = {
    "large tiles": (C.groupwise(200, 136, 1040, "MN"), "batch", tile(128, 128, 2, 5, 1)),
    "wide tiles": (C.groupwise(200, 264, 1040, "MN"), "batch", tile(128, 256, 2, 4, 1)),
    "tiles of 192 columns": (C.groupwise(200, 264, 1040, "MN"), "batch", tile(128, 192, 2, 5, 1)),
    "large tiles, scales copied": (C.groupwise(129, 72, 400, "K"), "batch", tile(128, 64, 2, 6, 2)),
    "small tiles": (C.groupwise(17, 136, 1040, "MN"), "batch", tile(64, 64, 1, 6, 2)),
    "split K": (C.groupwise(5, 72, 1936, "MN"), "batch", tile(64, 16, 2, 8, 2)),
    "batch": (C.masked((20, 20), 20, 72, 272), "batch", tile(64, 32, 1, 5, 1)),
    "masked": (C.masked((3, 0, 70), 70, 72, 272), "masked", tile(64, 64, 1, 6, 2)),
    "ragged": (C.group_fp8((3, 0, 130, 1), 72, 272, "K"), "indptr", tile(128, 128, 2, 5, 1)),
    "ragged, wide": (C.group_fp8((3, 0, 130, 1), 264, 272, "K"), "indptr", tile(128, 256, 2, 4, 1)),
    "ragged, small": (C.group_fp8((3, 0, 20, 1), 72, 272, "K"), "indptr", tile(64, 128, 1, 6, 2)),
    "ragged, drawn": (C.group_fp8((1,) * 150, 72, 272, "K"), "indptr", tile(64, 64, 1, 6, 2)),
}


def _w4(path: str, rows: int, step: int, tokens: int, warps: int, stages: int, **more: object) -> Config:
    return Config(path, rows, step, tokens, warps, stages, 8, swap=True, **more)


#: name -> formats, (M, N, K), config. Ragged groups have 3, 0, 70 and 1 rows.
W4_LAUNCHES = {
    "fragments": ("bf16", "nvfp4", (3, 40, 352), _w4("fragments", 16, 128, 8, 4, 2)),
    "fragments, ordered": ("bf16", "mxfp4", (13, 40, 1024), _w4("fragments", 16, 128, 16, 4, 1, ordered=True)),
    "fragments, FP4 activations": ("nvfp4", "nvfp4", (13, 40, 352), _w4("fragments", 16, 128, 16, 4, 1, ordered=True)),
    "stream": ("bf16", "nvfp4", (33, 136, 1280), _w4("stream_w4", 128, 128, 32, 20, 4)),
    "stream, cut": ("bf16", "nvfp4", (33, 264, 2048), _w4("stream_w4", 256, 128, 64, 20, 3, shares=True)),
    "many rows": ("bf16", "nvfp4", (140, 264, 640), _w4("hopper_w4", 128, 64, 128, 12, 3)),
    "many rows, cut": ("bf16", "mxfp4", (140, 264, 2048), _w4("hopper_w4", 128, 64, 128, 12, 3, shares=True)),
    "ragged, few rows": ("bf16", "nvfp4", (74, 72, 352), _w4("fragments", 32, 128, 8, 4, 2)),
    "ragged, many rows": ("bf16", "nvfp4", (74, 136, 384), _w4("hopper_w4", 128, 64, 64, 12, 4)),
}


def _w4_launch(name: str) -> tuple[float, float]:
    """Error and bound of a launch of `W4_LAUNCHES`."""
    from tritonfp4 import BlockScaledTensor, SfLayout
    from tritonfp4.kernels.products import multiply, multiply_groups

    a, b, (m, n, k), config = W4_LAUNCHES[name]
    layout = SfLayout.layout_128x4
    x = operand(m, k, a, layout, 1)
    out = torch.full((m, n), float("nan"), dtype=C.BF16, device="cuda")
    if not name.startswith("ragged"):
        w = operand(n, k, b, layout, 2)
        want = exact_product(x, w)
        multiply(x.to("cuda"), w.to("cuda"), out, config)
    else:
        ends = (0, 3, 3, 73, 74)
        matrices = [operand(n, k, b, layout, g) for g in range(4)]
        want = torch.cat([exact_product(x[ends[g] : ends[g + 1]], w) for g, w in enumerate(matrices)])
        offsets = torch.tensor(ends, dtype=torch.int32, device="cuda")
        multiply_groups(x.cuda(), BlockScaledTensor.stack(matrices).to("cuda"), offsets, "indptr", out, config)
    return error(out, want), threshold(out)


def main() -> None:
    from tritonfp4.kernels.hopper.launch import matmul_fp8_hopper

    wrong = []
    for name, (problem, mode, config) in LAUNCHES.items():
        args = problem.on("cuda")
        sa, sb = args["a_scale"], args["b_scale"]
        if args.get("scale_major_mode") == "MN":
            sa, sb = sa.mT, sb.mT
        if mode in ("batch", "masked") and args.get("scale_major_mode") != "K":  # along M, rows 16 bytes apart
            wide = sa.new_full((*sa.mT.shape[:-1], C.ceil_div(sa.shape[-2], 4) * 4), float("nan"))
            sa = wide[..., : sa.shape[-2]].copy_(sa.mT).mT
        groups = args.get({"indptr": "m_indptr", "masked": "masked_m"}.get(mode, ""))
        out = torch.empty(problem.want.shape, dtype=C.BF16, device="cuda")
        matmul_fp8_hopper(fp8_operand(args["a"], sa, 1), fp8_operand(args["b"], sb, 128), groups, mode, out, config)
        off = C.error(out, problem.want)
        print(f"{name}: error {off:.2e}", flush=True)
        if not off <= C.bound_of(out):
            wrong.append(name)
    for name in W4_LAUNCHES:
        off, bound = _w4_launch(name)
        print(f"FP4 weights, {name}: error {off:.2e}", flush=True)
        if not off <= bound:
            wrong.append(name)
    if wrong:
        sys.exit(f"wrong: {', '.join(wrong)}")


if __name__ == "__main__":
    main()
