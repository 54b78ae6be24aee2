"""The products that decode FP4 in registers, on the GPU: every tile, format, layout and edge against fp64."""

import itertools

import pytest
import torch
from kernel_checks import error, exact_product, fp32_holds, operand, threshold

import tritonfp4 as T
from tritonfp4 import SfLayout
from tritonfp4.autotune import Problem, illegal, select
from tritonfp4.config import Config
from tritonfp4.device import device_info
from tritonfp4.reference.matmul import _exact

SWIZZLED, NARROW, LINEAR = SfLayout.layout_128x4, SfLayout.layout_8x4, SfLayout.layout_linear
PAIRS = [("bf16", "nvfp4"), ("fp16", "nvfp4"), ("bf16", "mxfp4"), ("nvfp4", "nvfp4"), ("mxfp4", "mxfp4"), ("nvfp4", "mxfp4"),
         ("mxfp4", "nvfp4")]  # fmt: skip
#: (rows of the weights, rows of the activations, warps): every tile that `illegal` allows.
TILES = [(r, m, w) for r, m, w in itertools.product((16, 32, 64), (8, 16, 32), (1, 2, 4, 8)) if r * m <= 1024]
GUARD = 77.0


def tile(rows: int, tokens: int, warps: int, stages: int = 2, ordered: bool = False, registers: int = 0) -> Config:
    return Config("fragments", rows, 128, tokens, warps, stages, swap=True, ordered=ordered, max_registers=registers)


def launch(a, b, config, dtype=torch.bfloat16, transposed=False):
    """The launcher itself, into an `out` full of NaN inside of memory that nobody may write."""
    from tritonfp4.kernels.fragments.launch import matmul_w4
    from tritonfp4.kernels.fragments.operands import words_ready

    want = exact_product(a, b)
    m, n = want.shape
    big = torch.full((n + 80, m + 80) if transposed else (m + 80, n + 80), GUARD, dtype=dtype, device="cuda")
    inside = big[40 : 40 + n, 40 : 40 + m].t() if transposed else big[40 : 40 + m, 40 : 40 + n]
    inside.fill_(float("nan"))
    left, right = a.to("cuda"), b.to("cuda")
    assert words_ready(left, right)
    matmul_w4(left, right, inside, config)
    assert error(inside, want) <= threshold(inside), (config, tuple(want.shape))
    out = inside.clone()
    inside.fill_(GUARD)
    assert (big == GUARD).all(), f"wrote outside of out: {config}"
    return out


@pytest.mark.parametrize("rows, tokens, warps", TILES)
def test_every_tile(rows, tokens, warps):
    """K of one piece, of pieces that no step divides, of whole steps and more; rows and tokens that no tile divides."""
    info = device_info(torch.device("cuda", torch.cuda.current_device()))
    for (m, n), k, (a, b) in zip(
        ((1, 16), (tokens, 40), (tokens + 3, rows), (7, 3 * rows + 1), (2 * tokens, 264)),
        (32, 352, 1024, 2112, 4096),
        PAIRS * 2,
        strict=False,
    ):
        assert illegal(tile(rows, tokens, warps), Problem("matmul", m, n, k, a, b, info, pieces=True)) is None
        launch(operand(m, k, a, SWIZZLED, 1), operand(n, k, b, SWIZZLED, 2), tile(rows, tokens, warps))


@pytest.mark.parametrize("rows, tokens, warps, stages, registers", [
    (16, 8, 8, 2, 72), (16, 8, 2, 2, 72), (16, 16, 4, 1, 72), (16, 16, 2, 1, 72), (32, 32, 4, 1, 0), (16, 8, 4, 3, 0), (32, 16, 1, 4, 0),
])  # fmt: skip
@pytest.mark.parametrize("a, b", PAIRS)
def test_ordered_activations(a, b, rows, tokens, warps, stages, registers):
    """Activations brought into the order of the MMA by a kernel before; K of pieces that no chunk divides, rows that no tile divides; all
    scale layouts of FP4 ones."""
    for i, (m, n, k) in enumerate(
        ((1, 16, 32), (tokens, 40, 352), (tokens + 3, 100, 2048), (2 * tokens - 1, 264, 4096))
    ):
        layout = (SWIZZLED, NARROW, LINEAR)[i % 3]
        left = operand(m, k, a, layout, i, per_row=a == "nvfp4" and i % 2 == 0)
        config = tile(rows, tokens, warps, stages, True, registers if k % (128 * stages * warps) == 0 else 0)
        out = launch(left, operand(n, k, b, SWIZZLED, 7), config)
        assert torch.equal(out, launch(left, operand(n, k, b, SWIZZLED, 7), config))


def test_ordered_activations_do_not_read_behind_k():
    x, w = operand(5, 352, "bf16", SWIZZLED, 1), operand(72, 352, "nvfp4", SWIZZLED, 2).to("cuda")
    wide = torch.full((9, 384), float("nan"), dtype=torch.bfloat16, device="cuda")
    wide[:5, :352] = x.cuda()
    from tritonfp4.kernels.fragments.launch import matmul_w4

    out = torch.full((5, 72), float("nan"), dtype=torch.bfloat16, device="cuda")
    matmul_w4(wide[:5, :352], w, out, tile(16, 16, 4, 1, True))
    assert error(out, exact_product(x, w.to("cpu"))) <= threshold(out)


@pytest.mark.parametrize("layout", [SWIZZLED, NARROW, LINEAR])
@pytest.mark.parametrize("a, b", PAIRS)
def test_formats_and_layouts(a, b, layout):
    for m, n, k in ((1, 300, 2048), (33, 130, 96), (64, 520, 416)):
        left, right = (
            operand(m, k, a, layout, m, per_row=a == "nvfp4"),
            operand(n, k, b, layout, n, per_row=b == "nvfp4"),
        )
        for dtype in (torch.bfloat16, torch.float16, torch.float32):
            launch(left, right, tile(32, 8 if m == 1 else 32, 8), dtype, transposed=dtype == torch.float16)


@pytest.mark.parametrize("rows", [16, 64])
def test_shuffled_weights(rows):
    """Rows in TensorRT-LLM's order: the columns of the output are those of the weights before."""
    for n in (128, 288):
        w = torch.randn(n, 352, generator=torch.Generator().manual_seed(n))
        plain = T.quantize(w, "nvfp4", backend="torch")
        values, scales = T.nvfp4_quantize(w, 1.0 / plain.global_scale, do_shuffle=True)
        shuffled = T.BlockScaledTensor(
            values, scales.flatten().view(torch.uint8), plain.global_scale, T.NVFP4, SWIZZLED, (n, 352), 32
        )
        x = operand(9, 352, "bf16", SWIZZLED, 1)
        assert torch.equal(launch(x, shuffled, tile(rows, 16, 4)), launch(x, plain, tile(rows, 16, 4)))


@pytest.mark.parametrize("fmt, count", [("nvfp4", 256), ("mxfp4", 256)])
def test_every_scale_code(fmt, count):
    """Weights whose row r has scale code r, element by element; rows of NaN codes are NaN and no others."""
    generator = torch.Generator().manual_seed(3)
    values = torch.randint(0, 256, (count, 16), generator=generator).to(torch.uint8)
    vec = T.NVFP4.vec if fmt == "nvfp4" else T.MXFP4.vec
    codes = torch.arange(count, dtype=torch.uint8).repeat_interleave(32 // vec)
    b = T.BlockScaledTensor(values, codes, None, T.NVFP4 if fmt == "nvfp4" else T.MXFP4, LINEAR, (count, 32))
    for a in (torch.randn(20, 32, generator=generator).bfloat16(), torch.randn(20, 32, generator=generator).half()):
        if fmt == "mxfp4" and a.dtype == torch.float16:
            continue
        want = exact_product(a, b)
        from tritonfp4.kernels.fragments.launch import matmul_w4

        out = torch.full(want.shape, 5.0, device="cuda")
        matmul_w4(a.cuda(), b.to("cuda"), out, tile(32, 32, 1))
        out = out.cpu().double()
        assert torch.equal(out.isnan(), want.isnan())
        there = fp32_holds(a, b, want) & ~want.isnan()
        bound = 1e-6 * (_exact(a).abs() @ _exact(b).abs().T)
        assert ((out - want).abs() <= bound)[there].all()


def test_nan_behind_k_and_in_other_rows_is_not_read():
    """Buffers wider than K, full of NaN behind it; a NaN in one row of either operand stays there."""
    x, w = operand(5, 352, "bf16", SWIZZLED, 1), operand(72, 352, "nvfp4", SWIZZLED, 2)
    wide = torch.full((5, 384), float("nan"), dtype=torch.bfloat16, device="cuda")
    wide[:, :352] = x.cuda()
    right = w.to("cuda")
    for k_tile in (1, 8):
        want = T.matmul(x, w)
        from tritonfp4.kernels.fragments.launch import matmul_w4

        out = torch.full((5, 72), float("nan"), dtype=torch.bfloat16, device="cuda")
        matmul_w4(wide[:, :352], right, out, tile(16, 8, k_tile))
        assert error(out, exact_product(x, w)) <= threshold(out) and want.shape == out.shape
        bad = wide[:, :352].clone()
        bad[2, 7] = float("nan")
        matmul_w4(bad, right, out, tile(16, 8, k_tile))
        assert out[2].isnan().all() and not out[[0, 1, 3, 4]].isnan().any()


def test_the_same_bits_every_time():
    x, w = operand(16, 4096, "bf16", SWIZZLED, 1), operand(1000, 4096, "nvfp4", SWIZZLED, 2)
    first = launch(x, w, tile(32, 16, 8))
    for _ in range(50):
        assert torch.equal(launch(x, w, tile(32, 16, 8)), first)


def test_the_public_call_takes_it():
    """`matmul` of few rows, by the path that `select` names; operands that it cannot read take another."""
    info = device_info(torch.device("cuda", torch.cuda.current_device()))
    x, w = operand(4, 4096, "bf16", SWIZZLED, 1), operand(4096, 4096, "nvfp4", SWIZZLED, 2)
    assert select(Problem("matmul", 4, 4096, 4096, "bf16", "nvfp4", info, pieces=True)).path == "fragments"
    out = T.matmul(x.cuda(), w.to("cuda"))
    assert error(out, exact_product(x, w)) <= threshold(out)
    shifted = torch.empty(4 * 4096 + 1, dtype=torch.bfloat16, device="cuda")[1:].view(4, 4096).copy_(x)
    assert error(T.matmul(shifted, w.to("cuda")), exact_product(x, w)) <= threshold(out)


# ---- groups ----


def group_tile(rows, tokens, warps):
    return Config("fragments", rows, 128, tokens, warps, 2, swap=True)


@pytest.mark.parametrize("rows, tokens, warps", [(16, 8, 8), (32, 8, 4), (32, 32, 8), (64, 16, 2)])
@pytest.mark.parametrize("a, b", [("bf16", "nvfp4"), ("fp16", "nvfp4"), ("bf16", "mxfp4")])
def test_ragged_groups(a, b, rows, tokens, warps):
    """Empty, tiny and large groups, rows before and behind them (stored as zeros), bad offsets, int64 offsets."""
    from tritonfp4.kernels.fragments.launch import grouped_w4
    from tritonfp4.kernels.fragments.operands import groups_ready

    for sizes, before, after, n, k in (
        ((3, 0, 40, 1, 9), 2, 5, 72, 352),
        ((1,) * 40, 0, 0, 130, 1024),
        ((0, 0, 100), 1, 0, 264, 2112),
    ):
        weights = [operand(n, k, b, SWIZZLED, g) for g in range(len(sizes))]
        total = before + sum(sizes) + after
        x = operand(total, k, a, SWIZZLED, 99)
        starts = [before + sum(sizes[:g]) for g in range(len(sizes) + 1)]
        want = torch.zeros(total, n, dtype=torch.float64)
        for g, w in enumerate(weights):
            want[starts[g] : starts[g + 1]] = exact_product(x[starts[g] : starts[g + 1]], w)
        stacked = T.BlockScaledTensor.stack(weights).to("cuda")
        out = torch.full((total + 9, n), GUARD, dtype=torch.bfloat16, device="cuda")
        assert groups_ready(x.cuda(), stacked)
        for dtype in (torch.int32, torch.int64):
            out[:total] = float("nan")
            grouped_w4(
                x.cuda(), stacked, torch.tensor(starts, dtype=dtype, device="cuda"), "indptr", out[:total],
                group_tile(rows, tokens, warps),
            )  # fmt: skip
            assert error(out[:total], want) <= threshold(out[:total])
            assert (out[:before] == 0).all() and (out[starts[-1] : total] == 0).all() and (out[total:] == GUARD).all()
        bad = torch.tensor([-5, *[2**31 - 1] * len(sizes)], dtype=torch.int32, device="cuda")
        grouped_w4(x.cuda(), stacked, bad, "indptr", out[:total], group_tile(rows, tokens, warps))
        assert (out[total:] == GUARD).all()


@pytest.mark.parametrize("mode", ["batch", "masked"])
def test_batched_and_masked_groups(mode):
    from tritonfp4.kernels.fragments.launch import grouped_w4

    counts, m, n, k = (3, 0, 20, 17), 20, 136, 480
    weights = [operand(n, k, "nvfp4", SWIZZLED, g) for g in range(4)]
    x = torch.stack([operand(m, k, "bf16", SWIZZLED, 50 + g) for g in range(4)])
    want = torch.stack([exact_product(x[g], w) for g, w in enumerate(weights)])
    groups = None
    if mode == "masked":
        groups = torch.tensor(counts, dtype=torch.int32, device="cuda")
        for g, count in enumerate(counts):
            x[g, count:], want[g, count:] = float("nan"), 0
    out = torch.full((4, m, n), float("nan"), dtype=torch.bfloat16, device="cuda")
    grouped_w4(x.cuda(), T.BlockScaledTensor.stack(weights).to("cuda"), groups, mode, out, group_tile(32, 8, 4))
    assert error(out, want) <= threshold(out) and torch.equal(out.cpu() == 0, want == 0)
