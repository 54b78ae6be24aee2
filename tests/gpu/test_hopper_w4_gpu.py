"""The Hopper kernel for FP4 weights and many rows, on the GPU: every tile, format and edge against fp64."""

import pytest
import torch
from hopper_checks import ON_HOPPER
from kernel_checks import error, exact_product, fp32_holds, operand, threshold

import tritonfp4 as T
from tritonfp4 import SfLayout
from tritonfp4.autotune import Problem, illegal, select
from tritonfp4.config import Config
from tritonfp4.device import target_info
from tritonfp4.reference.matmul import _exact

pytestmark = ON_HOPPER
SWIZZLED, NARROW, LINEAR = SfLayout.layout_128x4, SfLayout.layout_8x4, SfLayout.layout_linear
PAIRS = [
    ("bf16", "nvfp4"),
    ("fp16", "nvfp4"),
    ("bf16", "mxfp4"),
    ("nvfp4", "nvfp4"),
    ("mxfp4", "mxfp4"),
    ("nvfp4", "mxfp4"),
]
H200, GUARD = target_info(90), 77.0


def tile(tokens: int, stages: int, shares: bool = False) -> Config:
    return Config("hopper_w4", 128, 64, tokens, 12, stages, 8, swap=True, shares=shares)


def launch(a, b, config, dtype=torch.bfloat16):
    """The launcher itself, into an `out` full of NaN inside of memory that nobody may write."""
    from tritonfp4.kernels.fragments.operands import tiles_ready
    from tritonfp4.kernels.hopper.launch_w4 import matmul_w4_hopper

    want = exact_product(a, b)
    m, n = want.shape
    big = torch.full((m + 300, n + 160), GUARD, dtype=dtype, device="cuda")
    out = big[20 : 20 + m, 16 : 16 + n]
    out.fill_(float("nan"))
    left, right = a.to("cuda"), b.to("cuda")
    assert tiles_ready(left, right, out)
    matmul_w4_hopper(left, right, out, config)
    assert error(out, want) <= threshold(out), (config, tuple(want.shape))
    got = out.clone()
    out.fill_(GUARD)
    assert (big == GUARD).all(), f"wrote outside of out: {config}"
    return got


@pytest.mark.parametrize("tokens, stages", [(64, 2), (64, 3), (64, 14), (128, 4), (128, 8), (256, 2), (256, 4)])
def test_every_tile(tokens, stages):
    """One pair of steps, an odd number of pairs, more than the ring holds; rows that no tile divides, more tiles than programs."""
    for i, (m, n, k) in enumerate(
        ((1, 8, 128), (tokens, 128, 384), (tokens + 1, 264, 2048), (3 * tokens - 1, 1032, 640), (1100, 2056, 128))
    ):
        a, b = PAIRS[i % len(PAIRS)]
        assert illegal(tile(tokens, stages), Problem("matmul", m, n, k, a, b, H200, True, True)) is None
        launch(operand(m, k, a, SWIZZLED, i), operand(n, k, b, SWIZZLED, 100 + i), tile(tokens, stages))


@pytest.mark.parametrize("tokens, stages", [(64, 3), (128, 8), (256, 4)])
def test_shares(tokens, stages):
    """Tiles cut in two, in many, and not at all; more tiles than programs."""
    for i, (m, n, k) in enumerate(
        (
            (1, 128, 4096),
            (tokens + 1, 264, 8192),
            (tokens - 1, 4096, 1024),
            (2 * tokens, 136 * 128 + 8, 384),
            (300, 2056, 128),
        )
    ):
        a, b = PAIRS[i % len(PAIRS)]
        assert illegal(tile(tokens, stages, True), Problem("matmul", m, n, k, a, b, H200, True, True)) is None
        left, right = (
            operand(m, k, a, SWIZZLED, i, per_row=a == "nvfp4"),
            operand(n, k, b, SWIZZLED, 100 + i, per_row=b == "nvfp4"),
        )
        first = launch(left, right, tile(tokens, stages, True), (torch.bfloat16, torch.float16)[i % 2])
        for _ in range(3):
            again = launch(left, right, tile(tokens, stages, True), (torch.bfloat16, torch.float16)[i % 2])
            assert torch.equal(first, again)


@pytest.mark.parametrize("a, b", PAIRS)
def test_formats(a, b):
    """Scales of activations in any layout, global scales of a tensor and of every row, both output types."""
    for layout in (SWIZZLED, NARROW, LINEAR):
        left = operand(130, 512, a, layout, 1, per_row=a == "nvfp4")
        for dtype in (torch.bfloat16, torch.float16):
            launch(left, operand(200, 512, b, SWIZZLED, 2, per_row=b == "nvfp4"), tile(128, 4), dtype)


@pytest.mark.parametrize("fmt", ["nvfp4", "mxfp4"])
def test_every_scale_code(fmt):
    """Weights whose row r has scale code r, element by element; rows of NaN codes are NaN and no others."""
    form = T.NVFP4 if fmt == "nvfp4" else T.MXFP4
    values = torch.randint(0, 256, (256, 64), generator=torch.Generator().manual_seed(3)).to(torch.uint8)
    codes = torch.arange(256, dtype=torch.uint8).repeat_interleave(128 // form.vec)
    b = T.BlockScaledTensor(values, codes, None, form, LINEAR, (256, 128)).to_layout(SWIZZLED)
    for dtype in (torch.bfloat16, torch.float16):
        if fmt == "mxfp4" and dtype == torch.float16:
            continue
        from tritonfp4.kernels.hopper.launch_w4 import matmul_w4_hopper

        a = torch.randn(70, 128, generator=torch.Generator().manual_seed(4)).to(dtype)
        want = exact_product(a, b)
        out = torch.full(want.shape, 5.0, dtype=torch.bfloat16, device="cuda")
        matmul_w4_hopper(a.cuda(), b.to("cuda"), out, tile(64, 4))
        out = out.cpu().double()
        assert torch.equal(out.isnan(), want.isnan())
        there = fp32_holds(a, b, want) & ~want.isnan() & (want.abs() < 3e38)
        bound = 2.0**-8 * want.abs() + 1e-6 * (_exact(a).abs() @ _exact(b).abs().T)
        assert ((out - want).abs() <= bound)[there].all()


def test_nan_in_one_row_stays_there():
    x, w = operand(200, 512, "bf16", SWIZZLED, 1), operand(264, 512, "nvfp4", SWIZZLED, 2)
    x[3, 77] = float("nan")
    out = T.matmul(x.cuda(), w.to("cuda"))
    assert out[3].isnan().all() and not out[[0, 1, 2, 4, 199]].isnan().any()


def test_the_same_bits_every_time():
    x, w = operand(300, 1024, "bf16", SWIZZLED, 1), operand(1032, 1024, "nvfp4", SWIZZLED, 2)
    first = launch(x, w, tile(128, 8))
    for _ in range(50):
        assert torch.equal(launch(x, w, tile(128, 8)), first)


def test_the_public_call_takes_it():
    assert select(Problem("matmul", 256, 4096, 4096, "bf16", "nvfp4", H200, True, True)).path == "hopper_w4"
    x, w = operand(256, 4096, "bf16", SWIZZLED, 1), operand(4096, 4096, "nvfp4", SWIZZLED, 2)
    want = exact_product(x, w)
    for a in (x, operand(256, 4096, "nvfp4", SWIZZLED, 3)):
        want = exact_product(a, w)
        out = T.matmul(a.to("cuda"), w.to("cuda"))
        assert error(out, want) <= threshold(out)


# ---- groups ----


@pytest.mark.parametrize("tokens, stages", [(64, 14), (128, 4), (256, 4)])
@pytest.mark.parametrize("a, b", [("bf16", "nvfp4"), ("fp16", "nvfp4"), ("bf16", "mxfp4")])
def test_ragged_groups(a, b, tokens, stages):
    """Empty, tiny and large groups, rows before and behind them (stored as zeros), bad offsets."""
    from tritonfp4.kernels.fragments.operands import group_tiles_ready
    from tritonfp4.kernels.hopper.launch_w4 import grouped_w4_hopper

    for sizes, before, after, n, k in (
        ((3, 0, 140, 1, 300), 2, 5, 72, 384),
        ((1,) * 40, 0, 0, 136, 1024),
        ((0, 0, 500), 1, 0, 264, 128),
    ):
        weights = [operand(n, k, b, SWIZZLED, g) for g in range(len(sizes))]
        total = before + sum(sizes) + after
        x = operand(total, k, a, SWIZZLED, 99)
        starts = [before + sum(sizes[:g]) for g in range(len(sizes) + 1)]
        want = torch.zeros(total, n, dtype=torch.float64)
        for g, w in enumerate(weights):
            want[starts[g] : starts[g + 1]] = exact_product(x[starts[g] : starts[g + 1]], w)
        stacked = T.BlockScaledTensor.stack(weights).to("cuda")
        big = torch.full((total + 300, n), GUARD, dtype=torch.bfloat16, device="cuda")
        out = big[140 : 140 + total]
        assert group_tiles_ready(x.cuda(), stacked, out)
        for offsets in (starts, [-5, *[2**31 - 1] * len(sizes)]):
            out.fill_(float("nan"))
            groups = torch.tensor(offsets, dtype=torch.int32, device="cuda")
            grouped_w4_hopper(x.cuda(), stacked, groups, "indptr", out, tile(tokens, stages))
            if offsets is starts:
                assert error(out, want) <= threshold(out)
                assert (out[:before] == 0).all() and (out[starts[-1] :] == 0).all()
            assert (big[:140] == GUARD).all() and (big[140 + total :] == GUARD).all()


@pytest.mark.parametrize("mode", ["batch", "masked"])
def test_batched_and_masked_groups(mode):
    from tritonfp4.kernels.hopper.launch_w4 import grouped_w4_hopper

    counts, m, n, k = (3, 0, 200, 64), 200, 136, 512
    weights = [operand(n, k, "nvfp4", SWIZZLED, g) for g in range(4)]
    x = torch.stack([operand(m, k, "bf16", SWIZZLED, 50 + g) for g in range(4)])
    want = torch.stack([exact_product(x[g], w) for g, w in enumerate(weights)])
    groups = None
    if mode == "masked":
        groups = torch.tensor(counts, dtype=torch.int32, device="cuda")
        for g, count in enumerate(counts):
            x[g, count:], want[g, count:] = float("nan"), 0
    out = torch.full((4, m, n), float("nan"), dtype=torch.bfloat16, device="cuda")
    grouped_w4_hopper(x.cuda(), T.BlockScaledTensor.stack(weights).to("cuda"), groups, mode, out, tile(64, 8))
    assert error(out, want) <= threshold(out) and torch.equal(out.cpu() == 0, want == 0)
