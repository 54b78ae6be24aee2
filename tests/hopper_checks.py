"""What the GPU tests of the Hopper kernel share: memory full of poison, and what the launches must have been.

NaN lies in every scale that belongs to no element and in `out` before the call, and a number in the guard rows and columns
around `out` that must still be there afterwards.
"""

import gemm_checks as C
import pytest
import torch
from gemm_checks import BF16, fp8_operand

#: Rows around `out`: more than a tile's, for the output descriptor begins 64 rows before it.
GUARD = 130
ON_HOPPER = pytest.mark.skipif(
    not torch.cuda.is_available() or torch.cuda.get_device_capability() != (9, 0), reason="for Hopper"
)


def poisoned(x):
    """x in rows that are wider by 4 to 7 elements of NaN; their starts are multiples of 16 bytes."""
    *lead, cols = x.shape
    wide = torch.full((*lead, C.ceil_div(cols, 4) * 4 + 4), float("nan"), dtype=x.dtype)
    wide[..., :cols] = x
    return wide[..., :cols]


def with_poison(problem):
    """The problem with NaN behind every row of its fp32 scales."""
    scales = {name: poisoned(x) for name, x in problem.args.items() if "scale" in name and isinstance(x, torch.Tensor)}
    return C.Problem(problem.function, problem.args | scales, problem.want, problem.dtype_arg)


def guarded(shape, dtype=BF16):
    """A tensor with guards all around, and `out` inside, full of NaN."""
    *lead, rows, n = shape
    count = lead[0] * rows if lead else rows
    big = torch.full((count + 2 * GUARD, n + 8), 77.0, dtype=dtype, device="cuda")
    out = big[GUARD : GUARD + count, :n]
    out.fill_(float("nan"))
    return big, out.unflatten(0, (*lead, rows)) if lead else out


def check_result(big, out, want, where=""):
    """The bound, zeros in rows of no group, guards as they were."""
    measured, bound = C.error(out, want), C.bound_of(out)
    assert measured <= bound, f"{measured:.2e} > {bound} {where} {tuple(out.shape)}"
    assert (out.cpu()[(want == 0).all(-1)] == 0).all(), f"rows of no group {where}"
    n = out.shape[-1]
    guards = big[:GUARD], big[-GUARD:], big[:, n:]
    assert all((guard == 77).all() for guard in guards), f"wrote outside of out {where}"


def check(problem, dtype=BF16):
    """A public call into guarded memory."""
    big, out = guarded(problem.want.shape, dtype)
    assert with_poison(problem).run("cuda", dtype, out=out) is out
    check_result(big, out, problem.want, problem.function)


def on_hopper(launches, mode, count=None):
    """Every launch since the last call was the Hopper kernel's in this mode; their configs."""
    configs = [config for _, config in launches]
    assert [seen for seen, _ in launches] == [mode] * (count or len(launches)) and launches
    assert all(config.path == "hopper" for config in configs)
    launches.clear()
    return configs


def operands(problem):
    """Operands on the GPU, their scales in poison: K-major ones of a ragged problem, M-major ones of every other."""
    args = problem.on("cuda")
    a, sa, sb = args["a"], problem.args["a_scale"], problem.args["b_scale"]
    if args.get("scale_major_mode") == "MN":
        sa, sb = sa.mT, sb.mT
    sa = poisoned(sa) if "m_indptr" in args else poisoned(sa.mT).mT
    return fp8_operand(a, C.moved(sa, "cuda"), 1), fp8_operand(args["b"], C.moved(poisoned(sb), "cuda"), 128)
