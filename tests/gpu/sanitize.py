"""One small launch of the Hopper kernel in each of its modes, checked, for compute-sanitizer:

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
        error = C.error(out, problem.want)
        print(f"{name}: error {error:.2e}", flush=True)
        if not error <= C.bound_of(out):
            wrong.append(name)
    if wrong:
        sys.exit(f"wrong: {', '.join(wrong)}")


if __name__ == "__main__":
    main()
