"""The kernels that decode FP4 weights in registers, without a GPU: their launchers, every program of the grid, every address.

The kernels run on torch tensors with stand-ins for Gluon, which refuse to read or write what is not the operand's. The sums are
exact, so results are those of fp64 with nothing but the rounding of the output. Operands lie in wider buffers full of NaN.
"""

import dataclasses
import itertools

import pytest
import torch
from kernel_checks import exact_product, operand

import tritonfp4 as T
from tritonfp4 import SfLayout
from tritonfp4.config import Config
from tritonfp4.layouts import shuffle_rows

pytest.importorskip("triton.experimental.gluon")
from gluon_stand_ins import Kernel

from tritonfp4.device import target_info
from tritonfp4.kernels.fragments import decode, launch, matmul_w4, order
from tritonfp4.kernels.fragments.operands import groups_ready, words_ready
from tritonfp4.kernels.launch import INTERPRETED

SWIZZLED, NARROW, LINEAR = SfLayout.layout_128x4, SfLayout.layout_8x4, SfLayout.layout_linear
PAIRS = [("bf16", "nvfp4"), ("fp16", "nvfp4"), ("bf16", "mxfp4"), ("nvfp4", "nvfp4"), ("mxfp4", "mxfp4")]
#: (rows of the weights, rows of the activations): every tile that `illegal` allows.
TILES = [(rows, tokens) for rows, tokens in itertools.product((16, 32, 64), (8, 16, 32)) if rows * tokens <= 1024]
GUARD = 77.0


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """The tensors are too small for more, which wait for each other most of the time."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def dense(monkeypatch):
    """What `matmul_w4` launches."""
    kernel = Kernel(matmul_w4.matmul_w4_kernel, decode, matmul_w4)
    monkeypatch.setattr(launch, "matmul_w4_kernel", kernel)
    return kernel


@pytest.fixture
def ordered(monkeypatch):
    """What `matmul_w4` launches behind the kernel that orders the activations, as on sm_90: it may begin while that one runs."""
    if not INTERPRETED:
        pytest.skip("activations are ordered in the interpreter")
    kernel = Kernel(matmul_w4.matmul_w4_kernel, decode, matmul_w4, previous=["x_ptr"])
    monkeypatch.setattr(launch, "matmul_w4_kernel", kernel)
    monkeypatch.setattr(launch, "device_info", lambda device: target_info(90))
    monkeypatch.setattr(
        launch, "order", lambda *args: order.order(*args[:-1], False)
    )  # the interpreter launches nothing early
    return kernel


@pytest.fixture
def grouped(monkeypatch):
    """What `grouped_w4` launches."""
    kernel = Kernel(matmul_w4.grouped_w4_kernel, decode, matmul_w4)
    monkeypatch.setattr(launch, "grouped_w4_kernel", kernel)
    return kernel


def tile(rows, tokens, warps, stages=2, **options):
    return Config("fragments", rows, 128, tokens, warps, stages, swap=True, **options)


def surrounded(x):
    """The same numbers as a part of a buffer that is wider in every dimension, full of NaN (bytes: 0xFF)."""
    edge = 32 // x.element_size()
    wide = [n + 3 for n in x.shape[:-1]] + [x.shape[-1] + 2 * edge]
    buffer = torch.full(wide, float("nan") if x.is_floating_point() else 255, dtype=x.dtype)
    inside = buffer[(slice(1, -2),) * (x.ndim - 1) + (slice(edge, -edge),)]
    return inside.copy_(x)


def within(t):
    """An operand with each of its tensors `surrounded`."""
    if isinstance(t, torch.Tensor):
        return surrounded(t)
    g = None if t.global_scale is None else surrounded(t.global_scale)
    return dataclasses.replace(t, values=surrounded(t.values), scales=surrounded(t.scales), global_scale=g)


def frame(*shape, dtype=torch.bfloat16, transposed=False):
    """An output full of NaN inside of memory that nobody may write."""
    wide = [n + 5 for n in shape[:-2]] + [n + 5 for n in (reversed(shape[-2:]) if transposed else shape[-2:])]
    inside = torch.full(wide, GUARD, dtype=dtype)[(slice(2, -3),) * len(shape)]
    return (inside.mT if transposed else inside).fill_(float("nan"))


def check(kernel, out, want):
    """Every element was stored once, and is the product, rounded once."""
    stored = kernel.memories["out_ptr"].stored
    assert ((stored == 1) | (stored == -1)).all() and (stored == 1).sum() == out.numel()
    assert torch.equal(out, want.to(out.dtype))


def multiply(kernel, a, b, config, want=None, **options):
    """The launcher on operands in wider buffers."""
    want = exact_product(a, b) if want is None else want
    out = frame(*want.shape, **options)
    a, b = within(a), within(b)
    assert words_ready(a, b)
    launch.matmul_w4(a, b, out, config)
    check(kernel, out, want)
    return out


@pytest.mark.parametrize("layout", [SWIZZLED, NARROW, LINEAR])
@pytest.mark.parametrize("a, b", PAIRS)
def test_formats_and_layouts(dense, a, b, layout):
    """More than 128 rows of both; 5 and 10 scales in a row, which fill no tile of a layout."""
    multiply(dense, operand(130, 160, a, layout, 1), operand(141, 160, b, layout, 2), tile(32, 32, 2))


@pytest.mark.parametrize("warps", [1, 2, 4, 8])
@pytest.mark.parametrize("rows, tokens", TILES)
def test_every_tile(dense, rows, tokens, warps):
    """K of one piece, of whole steps (an odd number of pairs of them, too), and some that no step divides; rows that no tile does."""
    step, stages = 128 * warps, 1 + (TILES.index((rows, tokens)) + warps.bit_length()) % 4
    sizes = [32, step, 2 * step, 2 * step + 32, 3 * step - 64, 4 * step + 96, 6 * step]
    first = TILES.index((rows, tokens)) + warps
    for i, k in enumerate(sizes[first % 4 :: 4]):
        a, b = PAIRS[(first + i) % len(PAIRS)]
        m, n = ((tokens + 3, rows - 1), (tokens, rows), (1, rows + 9), (tokens - 1, 2 * rows))[(first + i) % 4]
        multiply(dense, operand(m, k, a, SWIZZLED, 1), operand(n, k, b, SWIZZLED, 2), tile(rows, tokens, warps, stages))


@pytest.mark.parametrize("k", [32, 128, 384, 512, 544, 1024, 1056, 1536])
@pytest.mark.parametrize("stages", [1, 2, 3, 4])
def test_chunks_on_their_way(dense, stages, k):
    """More of them than there are along K, as many, and fewer; K that ends within each of them."""
    multiply(dense, operand(9, k, "bf16", SWIZZLED, 1), operand(20, k, "mxfp4", LINEAR, 2), tile(16, 8, 1, stages))


@pytest.mark.parametrize("a, b", PAIRS)
@pytest.mark.parametrize("rows, tokens, warps, stages", [(16, 8, 2, 2), (32, 16, 1, 1), (16, 32, 2, 3)])
def test_ordered_activations(ordered, rows, tokens, warps, stages, a, b):
    """K of one piece, of whole steps and of pieces that no chunk divides; rows that no tile divides, with scales of their own."""
    for m, n, k in ((tokens + 3, rows + 5, 128 * warps * stages), (1, 20, 32), (2 * tokens, rows, 128 * warps + 96)):
        left = operand(m, k, a, (SWIZZLED, NARROW, LINEAR)[m % 3], 1, per_row=a == "nvfp4" and m > 1)
        config = tile(rows, tokens, warps, stages, ordered=True)
        multiply(ordered, left, operand(n, k, b, SWIZZLED, 2), config)


def test_ordered_activations_on_older_gpus(ordered, monkeypatch):
    """Nothing is launched early there, and nothing waits: what would is no instruction of theirs."""
    monkeypatch.setattr(launch, "device_info", lambda device: target_info(80))
    ordered.waits = False
    config = tile(16, 8, 2, 1, ordered=True)
    multiply(ordered, operand(9, 96, "bf16", SWIZZLED, 1), operand(20, 96, "nvfp4", SWIZZLED, 2), config)


@pytest.mark.parametrize("kinds", list(itertools.product(["none", "one", "row"], repeat=2)))
def test_global_scales(dense, kinds):
    """Of both operands, one or one for each row."""
    operands = []
    for rows, kind in zip((11, 37), kinds, strict=True):
        t = operand(rows, 96, "nvfp4", LINEAR, rows, per_row=kind == "row")
        operands.append(dataclasses.replace(t, global_scale=None) if kind == "none" else t)
    multiply(dense, *operands, tile(16, 8, 1), dtype=torch.float32)


def shuffled(t, block):
    """The same matrix with its rows in TensorRT-LLM's order."""
    kind = t.scale_layout
    scales = kind.from_linear(shuffle_rows(kind.to_linear(t.scales, *t.scale_shape), block))
    return dataclasses.replace(t, values=shuffle_rows(t.values, block), scales=scales, row_shuffle=block)


@pytest.mark.parametrize("per_row", [False, True])
@pytest.mark.parametrize("block, rows", [(16, 16), (16, 64), (32, 16), (32, 64)])
def test_shuffled_weights(dense, block, rows, per_row):
    """The columns of the output are the rows as they were before; so are the global scales."""
    a, b = operand(9, 96, "bf16", SWIZZLED, 1), operand(160, 96, "nvfp4", SWIZZLED, 2, per_row=per_row)
    multiply(dense, a, shuffled(b, block), tile(rows, 16, 1), exact_product(a, b))


def test_shuffled_activations_are_refused():
    """Or their rows would be stored in their shuffled order."""
    a, b = operand(32, 96, "nvfp4", SWIZZLED, 1), operand(32, 96, "nvfp4", SWIZZLED, 2)
    assert words_ready(a, b) and not words_ready(shuffled(a, 16), b)


def test_one_row_of_an_odd_stride_is_refused():
    """It is never used, but torch makes no words of such a view."""
    a, b = operand(1, 96, "bf16", SWIZZLED, 1), operand(32, 96, "nvfp4", SWIZZLED, 2)
    assert words_ready(a, b) and not words_ready(a.as_strided(a.shape, (97, 1)), b)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
@pytest.mark.parametrize("transposed", [False, True])
def test_outputs(dense, dtype, transposed):
    """By any type and strides."""
    a, b = operand(9, 96, "bf16", SWIZZLED, 1), operand(20, 96, "nvfp4", SWIZZLED, 2)
    multiply(dense, a, b, tile(16, 8, 1), dtype=dtype, transposed=transposed)
    out = frame(18, 60, dtype=dtype, transposed=transposed)[::2, ::3]
    launch.matmul_w4(a, b, out, tile(16, 8, 1))
    check(dense, out, exact_product(a, b))


@pytest.mark.parametrize("a, b", PAIRS)
@pytest.mark.parametrize("longer", [0, 1])
def test_what_lies_beyond_the_shorter_operand_is_not_read(dense, a, b, longer):
    """Along K; the scales of the longer one keep their places."""
    a, b = operand(9, 512 if longer == 0 else 352, a, NARROW, 1), operand(20, 512 if longer == 1 else 352, b, NARROW, 2)
    want = torch.empty(9, 20, dtype=torch.float64)
    T.reference.matmul(a, b, want)
    multiply(dense, a, b, tile(16, 8, 1), want, dtype=torch.float32)


def test_a_nan_stays_in_its_row(dense):
    """Of the output; also one in the last row, which is read again instead of those that do not exist."""
    a, b = operand(9, 96, "bf16", SWIZZLED, 1), operand(20, 96, "nvfp4", SWIZZLED, 2)
    b.scales[b.scale_layout.offset(torch.tensor(19), torch.tensor(3), b.scale_cols)] = 0x7F
    a[8, 5] = float("nan")
    out = frame(9, 20)
    launch.matmul_w4(a, b, out, tile(16, 8, 1))
    assert out[8].isnan().all() and out[:, 19].isnan().all() and not out[:8, :19].isnan().any()


@pytest.mark.parametrize("pointer, stride, far, m, n", [
    ("x_ptr", "x_stride", 2**26, 41, 9), ("w_ptr", "w_stride", 2**26, 9, 41), ("out_ptr", "stride_m", 2**27, 41, 9),
    ("out_ptr", "stride_n", 2**27, 9, 41), ("x_scale_ptr", "x_scale_cols", 2**23, 260, 9),
    ("w_scale_ptr", "w_scale_cols", 2**23, 9, 260),
])  # fmt: skip
def test_offsets_of_more_than_32_bits(dense, pointer, stride, far, m, n):
    """Rows are far from each other, be it those of the scales."""
    a, b = operand(m, 32, "mxfp4", LINEAR, 1), operand(n, 32, "mxfp4", LINEAR, 2)
    out = torch.full((n, m), float("nan")).mT if stride == "stride_n" else torch.full((m, n), float("nan"))
    dense.far = {pointer: (stride, far)}
    launch.matmul_w4(a, b, out, tile(*((32, 8) if n > m else (16, 32 if m > 128 else 8)), 1))
    check(dense, out, exact_product(a, b))


# ---- groups ----


def stacked(count, n, k, fmt, layout, kind=""):
    """Weights of groups: each of them, and all in one; with a global scale for each, the same one for all, or none."""
    scales = {
        "": [None] * count,
        "one": [torch.tensor([0.375])] * count,
        "group": torch.arange(1.0, count + 1)[:, None] / 3,
    }
    matrices = [
        dataclasses.replace(operand(n, k, fmt, layout, g), global_scale=scale) for g, scale in enumerate(scales[kind])
    ]
    whole = T.BlockScaledTensor.stack(matrices)
    return matrices, dataclasses.replace(whole, global_scale=scales["one"][0]) if kind == "one" else whole


def multiply_groups(kernel, a, b, groups, mode, want, config, **options):
    """The launcher on operands in wider buffers."""
    out = frame(*want.shape, **options)
    a, b = within(a), within(b)
    assert groups_ready(a, b)
    launch.grouped_w4(a, b, groups if groups is None else surrounded(groups), mode, out, config)
    check(kernel, out, want)


def ragged(x, matrices, starts):
    """The product, zeros outside of the groups."""
    want = torch.zeros(x.shape[0], matrices[0].rows, dtype=torch.float64)
    for w, first, end in zip(matrices, starts, starts[1:], strict=False):
        want[first:end] = exact_product(x[first:end], w)
    return want


@pytest.mark.parametrize("layout", [SWIZZLED, NARROW, LINEAR])
@pytest.mark.parametrize("a, b", PAIRS[:3])
def test_ragged_groups(grouped, a, b, layout):
    """Empty, tiny and large ones, rows before and behind them, which are stored as zeros and whatever they hold."""
    matrices, weights = stacked(5, 137, 160, b, layout, "group")
    starts = [2, 5, 5, 45, 46, 55]
    x = operand(60, 160, a, layout, 99)
    x[:2], x[55:] = float("nan"), float("nan")
    want = ragged(x, matrices, starts)
    for dtype, config in ((torch.int32, tile(64, 8, 2)), (torch.int64, tile(64, 16, 2))):
        multiply_groups(grouped, x, weights, torch.tensor(starts, dtype=dtype), "indptr", want, config)


@pytest.mark.parametrize("mode", ["batch", "masked"])
@pytest.mark.parametrize("a, b, kind", [
    ("bf16", "nvfp4", "group"), ("bf16", "nvfp4", "one"), ("fp16", "nvfp4", ""), ("bf16", "mxfp4", "group"),
])  # fmt: skip
def test_batched_and_masked_groups(grouped, a, b, mode, kind):
    """Rows without data are zeros; a batch may share its rows. Counts may be nonsense."""
    matrices, weights = stacked(4, 40, 96, b, SWIZZLED, kind)
    x = torch.stack([operand(11, 96, a, SWIZZLED, 50 + g) for g in range(4)])
    counts = (3, -4, 2**31 - 1, 9)
    groups = None
    want = torch.stack([exact_product(x[g], w) for g, w in enumerate(matrices)])
    if mode == "masked":
        groups = torch.tensor(counts, dtype=torch.int32)
        for g, count in enumerate(counts):
            x[g, max(count, 0) :], want[g, max(count, 0) :] = float("nan"), 0
    multiply_groups(grouped, x, weights, groups, mode, want, tile(16, 8, 1), transposed=kind == "one")
    if mode == "batch":
        want = torch.stack([exact_product(x[1], w) for w in matrices])
        for shared in (x[1], x[1].expand(4, -1, -1)):
            out = frame(*want.shape)
            launch.grouped_w4(shared, weights, None, mode, out, tile(32, 16, 2))
            check(grouped, out, want)


@pytest.mark.parametrize("warps", [1, 2, 4, 8])
@pytest.mark.parametrize("rows, tokens", [(16, 8), (64, 16), (32, 32)])
def test_tiles_of_groups(grouped, rows, tokens, warps):
    """K of one piece, of whole steps and not; a group of one row more than the tile."""
    a, b = PAIRS[:3][warps % 3]
    stages = 1 + (rows // 16 + warps) % 3
    starts = [0, 1, tokens + 2]
    for k in (32, 256 * warps, 256 * warps + 160)[(rows // 32 + warps.bit_length()) % 2 :: 2]:
        matrices, weights = stacked(2, rows + 5, k, b, SWIZZLED)
        x = operand(starts[-1], k, a, SWIZZLED, 9)
        want = ragged(x, matrices, starts)
        multiply_groups(grouped, x, weights, torch.tensor(starts), "indptr", want, tile(rows, tokens, warps, stages))


@pytest.mark.parametrize("starts, dtype", [
    ([-5, 7, 2**31 - 1, 2**31 - 1], torch.int32), ([-(2**40), 3, 9, 2**40], torch.int64), ([2**33] * 4, torch.int64),
    ([-(2**31)] * 4, torch.int32),
])  # fmt: skip
def test_offsets_outside_of_the_operand(grouped, starts, dtype):
    """Are those of its ends."""
    matrices, weights = stacked(3, 20, 96, "nvfp4", SWIZZLED, "group")
    x = operand(17, 96, "bf16", SWIZZLED, 9)
    want = ragged(x, matrices, [min(max(start, 0), 17) for start in starts])
    multiply_groups(grouped, x, weights, torch.tensor(starts, dtype=dtype), "indptr", want, tile(16, 8, 1))


def test_offsets_that_decrease(grouped):
    """Whatever the result, nothing else is read or written: the kernel's memory would say so."""
    _, weights = stacked(3, 20, 96, "nvfp4", SWIZZLED, "group")
    for starts in ([9, 3, 12, 5], [17, 0, 17, 0], [-1, 40, -1, 40]):
        out = frame(17, 20)
        x = within(operand(17, 96, "bf16", SWIZZLED, 9))
        launch.grouped_w4(x, weights, surrounded(torch.tensor(starts)), "indptr", out, tile(16, 8, 1))


@pytest.mark.parametrize("pointer, stride, far", [
    ("x_ptr", "x_stride_g", 2**31), ("w_ptr", "w_stride_g", 2**31), ("w_scale_ptr", "scale_stride_g", 2**31),
    ("out_ptr", "stride_g", 2**31), ("x_ptr", "x_stride", 2**28), ("w_ptr", "w_stride", 2**27), ("out_ptr", "stride_m", 2**28),
])  # fmt: skip
def test_group_offsets_of_more_than_32_bits(grouped, pointer, stride, far):
    """Groups or rows are far from each other."""
    matrices, weights = stacked(1 if stride in ("x_stride", "w_stride", "stride_m") else 3, 20, 96, "nvfp4", LINEAR, "")
    x = torch.stack([operand(11, 96, "bf16", LINEAR, g) for g in range(len(matrices))])
    want = torch.stack([exact_product(x[g], w) for g, w in enumerate(matrices)])
    out = torch.full(want.shape, float("nan"))
    grouped.far = {pointer: (stride, far)}
    launch.grouped_w4(x, weights, None, "batch", out, tile(16, 8, 1))
    check(grouped, out, want)
