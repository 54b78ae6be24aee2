"""The Hopper kernel for FP4 weights and a few tens of rows, on the GPU: every tile, format and edge against fp64."""

import pytest
import torch
from hopper_checks import ON_HOPPER
from kernel_checks import error, exact_product, fp32_holds, operand, threshold

import tritonfp4 as T
from tritonfp4 import SfLayout
from tritonfp4.autotune import Problem, illegal, select
from tritonfp4.config import Config
from tritonfp4.device import target_info, triton_version
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
    ("mxfp4", "nvfp4"),
]
H200, GUARD = target_info(90), 77.0
#: Rows of the weights, rows of the activations, stages.
TILES = [(128, 16, 10), (128, 32, 8), (128, 64, 2), (128, 64, 6), (256, 32, 3), (256, 64, 2), (256, 64, 5)]


def tile(rows: int, tokens: int, stages: int, shares: bool) -> Config:
    return Config("stream_w4", rows, 128, tokens, 20, stages, swap=True, shares=shares)


def launch(a, b, config, dtype=torch.bfloat16):
    """The launcher itself, into an `out` full of NaN inside of memory that nobody may write."""
    from tritonfp4.kernels.fragments.operands import tiles_ready
    from tritonfp4.kernels.hopper.launch_w4 import stream_w4_hopper

    want = exact_product(a, b)
    m, n = want.shape
    big = torch.full((m + 160, n + 160), GUARD, dtype=dtype, device="cuda")
    out = big[70 : 70 + m, 16 : 16 + n]
    out.fill_(float("nan"))
    left, right = a.to("cuda"), b.to("cuda")
    assert tiles_ready(left, right, out)
    stream_w4_hopper(left, right, out, config)
    assert error(out, want) <= threshold(out), (config, tuple(want.shape))
    got = out.clone()
    out.fill_(GUARD)
    assert (big == GUARD).all(), f"wrote outside of out: {config}"
    return got


@pytest.mark.parametrize("shares", [False, True])
@pytest.mark.parametrize("rows, tokens, stages", TILES)
def test_every_tile(rows, tokens, stages, shares):
    """One step, more than the ring holds, tiles that are cut once and often; rows that no tile divides, more tiles than programs."""
    config = tile(rows, tokens, stages, shares)
    for i, (m, n, k) in enumerate(
        (
            (1, 8, 128),
            (tokens, 128, 384),
            (tokens - 1, 264, 8192),
            (2 * tokens + 1, 1032, 640),
            (tokens, 140 * rows, 256),
            (3, 4096, 2048),
        )
    ):
        a, b = PAIRS[i % len(PAIRS)]
        spills = tokens == 64 and triton_version() >= (3, 9)  # right, but not chosen
        assert spills or illegal(config, Problem("matmul", m, n, k, a, b, H200, True, True)) is None
        launch(operand(m, k, a, SWIZZLED, i), operand(n, k, b, SWIZZLED, 100 + i), config)


@pytest.mark.parametrize("shares", [False, True])
@pytest.mark.parametrize("a, b", PAIRS)
def test_formats(a, b, shares):
    """Scales of activations in any layout, global scales of a tensor and of every row, both output types."""
    for layout in (SWIZZLED, NARROW, LINEAR):
        left = operand(33, 512, a, layout, 1, per_row=a == "nvfp4")
        for dtype in (torch.bfloat16, torch.float16):
            launch(left, operand(200, 512, b, SWIZZLED, 2, per_row=b == "nvfp4"), tile(128, 64, 6, shares), dtype)


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
        from tritonfp4.kernels.hopper.launch_w4 import stream_w4_hopper

        a = torch.randn(40, 128, generator=torch.Generator().manual_seed(4)).to(dtype)
        want = exact_product(a, b)
        out = torch.full(want.shape, 5.0, dtype=torch.bfloat16, device="cuda")
        stream_w4_hopper(a.cuda(), b.to("cuda"), out, tile(256, 64, 5, False))
        out = out.cpu().double()
        assert torch.equal(out.isnan(), want.isnan())
        there = fp32_holds(a, b, want) & ~want.isnan() & (want.abs() < 3e38)
        bound = 2.0**-8 * want.abs() + 1e-6 * (_exact(a).abs() @ _exact(b).abs().T)
        assert ((out - want).abs() <= bound)[there].all()


def test_nan_in_one_row_stays_there():
    x, w = operand(40, 512, "bf16", SWIZZLED, 1), operand(264, 512, "nvfp4", SWIZZLED, 2)
    x[3, 77] = float("nan")
    out = T.matmul(x.cuda(), w.to("cuda"))
    assert out[3].isnan().all() and not out[[0, 1, 2, 4, 39]].isnan().any()


def test_nan_behind_the_operands_is_not_read():
    x, w = operand(40, 512, "bf16", SWIZZLED, 1), operand(264, 512, "nvfp4", SWIZZLED, 2)
    wide = torch.full((50, 640), float("nan"), dtype=torch.bfloat16, device="cuda")
    wide[:40, :512] = x.cuda()
    from tritonfp4.kernels.hopper.launch_w4 import stream_w4_hopper

    out = torch.full((40, 264), float("nan"), dtype=torch.bfloat16, device="cuda")
    stream_w4_hopper(wide[:40, :512], w.to("cuda"), out, tile(128, 64, 6, True))
    assert error(out, exact_product(x, w)) <= threshold(out)


@pytest.mark.parametrize("rows, stages", [(128, 6), (256, 5)])
def test_the_same_bits_every_time(rows, stages):
    """Tiles that are cut, too; back to back, so that each call begins while the one before ends."""
    x, w = operand(64, 4096, "bf16", SWIZZLED, 1).cuda(), operand(1032, 4096, "nvfp4", SWIZZLED, 2).to("cuda")
    from tritonfp4.kernels.hopper.launch_w4 import stream_w4_hopper

    outs = [torch.empty(64, 1032, dtype=torch.bfloat16, device="cuda") for _ in range(200)]
    for out in outs:
        stream_w4_hopper(x, w, out, tile(rows, 64, stages, True))
    assert all(torch.equal(out, outs[0]) for out in outs)


def test_the_public_call_takes_it():
    """`matmul` of a few tens of rows, by the path that `select` names; also in a CUDA graph."""
    x, w = operand(40, 4096, "bf16", SWIZZLED, 1), operand(4096, 4096, "nvfp4", SWIZZLED, 2)
    assert select(Problem("matmul", 40, 4096, 4096, "bf16", "nvfp4", H200, True, True)).path == "stream_w4"
    left, right = x.cuda(), w.to("cuda")
    out = T.matmul(left, right)
    assert error(out, exact_product(x, w)) <= threshold(out)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        again = T.matmul(left, right)
    again.fill_(float("nan"))
    graph.replay()
    assert torch.equal(out, again)
