"""Scale layouts and row shuffles against the formulas and tables of the specification."""

import pytest
import torch
from torch._subclasses import FakeTensorMode

from tritonfp4 import layouts
from tritonfp4.layouts import LAYOUTS, SfLayout, as_layout

SHAPES = [(1, 1), (1, 5), (7, 3), (8, 4), (37, 6), (127, 9), (128, 4), (129, 5), (300, 6), (257, 1)]


def up(a, b):
    return (a + b - 1) // b * b


def formula(kind, r, c, cols):
    """Byte offset of scale (r, c), as printed in the specification."""
    cp = up(cols, 4)
    if kind == SfLayout.layout_128x4:
        return (r // 128) * (cp // 4) * 512 + (c // 4) * 512 + (r % 32) * 16 + ((r % 128) // 32) * 4 + c % 4
    if kind == SfLayout.layout_8x4:
        return (r // 8) * (cp // 4) * 32 + (c // 4) * 32 + (r % 8) * 4 + c % 4
    return r * cols + c


def inverse(kind, o, cols):
    """(r, c) of a byte offset, as printed in the specification."""
    ct = up(cols, 4) // 4
    if kind == SfLayout.layout_128x4:
        t, w = o // 512, o % 512
        return (t // ct) * 128 + ((w // 4) % 4) * 32 + w // 16, (t % ct) * 4 + w % 4
    if kind == SfLayout.layout_8x4:
        t, w = o // 32, o % 32
        return (t // ct) * 8 + w // 4, (t % ct) * 4 + w % 4
    return o // cols, o % cols


def padded(kind, rows, cols):
    if kind == SfLayout.layout_linear:
        return rows, cols
    return up(rows, 128 if kind == SfLayout.layout_128x4 else 8), up(cols, 4)


def distinct(rows, cols):
    """A matrix whose entries are all different and not zero."""
    return torch.arange(1, rows * cols + 1, dtype=torch.int32).reshape(rows, cols)


TABLE = """
0 0     0 0 0           0 0 0
31 3    499 223 251     499 223 189
32 0    4 256 256       4 256 192
37 5    597 309 301     597 309 227
96 0    12 768 768      12 768 576
127 3   511 991 1019    511 991 765
128 0   1024 1024 1024  1024 1024 768
200 5   1673 1633 1605  1673 1633 1205
300 4   2756 2416 2404  2756 2416 1804
"""
EXAMPLES = [
    (kind, r, c, cols, numbers[2 + 3 * block + column])
    for numbers in (list(map(int, line.split())) for line in TABLE.strip().splitlines())
    for r, c in [numbers[:2]]
    for block, cols in enumerate((8, 6))
    for column, kind in enumerate((SfLayout.layout_128x4, SfLayout.layout_8x4, SfLayout.layout_linear))
]


@pytest.mark.parametrize(("kind", "r", "c", "cols", "want"), EXAMPLES)
def test_offset_of_the_worked_examples(kind, r, c, cols, want):
    assert LAYOUTS[kind].offset(torch.tensor(r), torch.tensor(c), cols).item() == want


@pytest.mark.parametrize(("kind", "r", "c", "cols", "want"), EXAMPLES)
def test_from_linear_puts_the_worked_examples_where_the_table_says(kind, r, c, cols, want):
    x = torch.zeros(301, cols, dtype=torch.uint8)
    x[r, c] = 9
    assert LAYOUTS[kind].from_linear(x).nonzero().tolist() == [[want]]


def test_names_and_numbers_are_those_of_flashinfer():
    assert {k.name: k.value for k in SfLayout} == {"layout_128x4": 0, "layout_8x4": 1, "layout_linear": 2}


@pytest.mark.parametrize("kind", SfLayout)
def test_as_layout_takes_names_and_numbers(kind):
    assert as_layout(kind) is as_layout(kind.value) is LAYOUTS[kind]
    assert as_layout(kind).kind == kind


def test_as_layout_refuses_other_numbers():
    with pytest.raises((KeyError, ValueError), match="3"):
        as_layout(3)


@pytest.mark.parametrize("kind", SfLayout)
@pytest.mark.parametrize("shape", [*SHAPES, (0, 4), (0, 0)])
def test_storage_shape_and_numel_are_whole_tiles(kind, shape):
    assert LAYOUTS[kind].storage_shape(*shape) == padded(kind, *shape)
    assert LAYOUTS[kind].numel(*shape) == padded(kind, *shape)[0] * padded(kind, *shape)[1]


@pytest.mark.parametrize("kind", SfLayout)
@pytest.mark.parametrize("shape", SHAPES)
def test_every_scale_lies_at_the_offset_of_the_formula(kind, shape):
    x = distinct(*shape)
    flat = LAYOUTS[kind].from_linear(x).tolist()
    found = {value: o for o, value in enumerate(flat) if value}
    want = {x[r, c].item(): formula(kind, r, c, shape[1]) for r in range(shape[0]) for c in range(shape[1])}
    assert found == want


@pytest.mark.parametrize("kind", SfLayout)
@pytest.mark.parametrize("shape", SHAPES)
def test_offset_agrees_with_from_linear_for_every_scale(kind, shape):
    x = distinct(*shape)
    r, c = torch.meshgrid(torch.arange(shape[0]), torch.arange(shape[1]), indexing="ij")
    assert torch.equal(LAYOUTS[kind].from_linear(x)[LAYOUTS[kind].offset(r, c, shape[1])], x)


@pytest.mark.parametrize("kind", SfLayout)
@pytest.mark.parametrize("shape", SHAPES)
def test_the_printed_inverse_names_every_byte_and_padding_is_zero(kind, shape):
    """Reading the buffer byte by byte with the inverse formula gives the matrix, and 0 outside of it."""
    x = distinct(*shape)
    for o, value in enumerate(LAYOUTS[kind].from_linear(x).tolist()):
        r, c = inverse(kind, o, shape[1])
        inside = r < shape[0] and c < shape[1]
        assert value == (x[r, c].item() if inside else 0), (o, r, c)


@pytest.mark.parametrize("kind", SfLayout)
@pytest.mark.parametrize("shape", SHAPES)
def test_to_linear_undoes_from_linear(kind, shape):
    x = distinct(*shape)
    assert torch.equal(LAYOUTS[kind].to_linear(LAYOUTS[kind].from_linear(x), *shape), x)


@pytest.mark.parametrize("kind", SfLayout)
@pytest.mark.parametrize("shape", SHAPES)
def test_to_linear_never_reads_padding(kind, shape):
    x = distinct(*shape)
    flat = LAYOUTS[kind].from_linear(x).clone()
    poisoned = torch.where(flat == 0, -7, flat)
    assert torch.equal(LAYOUTS[kind].to_linear(poisoned, *shape), x)


@pytest.mark.parametrize("kind", SfLayout)
def test_to_linear_accepts_the_2d_form_of_the_buffer(kind):
    x = distinct(37, 6)
    flat = LAYOUTS[kind].from_linear(x)
    assert torch.equal(LAYOUTS[kind].to_linear(flat.view(LAYOUTS[kind].storage_shape(37, 6)), 37, 6), x)


@pytest.mark.parametrize("kind", SfLayout)
def test_from_linear_pads_every_matrix_of_a_batch_on_its_own(kind):
    x = distinct(6 * 37, 5).reshape(2, 3, 37, 5)
    each = [LAYOUTS[kind].from_linear(x[i, j]) for i in range(2) for j in range(3)]
    assert torch.equal(LAYOUTS[kind].from_linear(x), torch.cat(each))


@pytest.mark.parametrize("kind", SfLayout)
def test_from_linear_does_not_depend_on_strides(kind):
    x = distinct(5, 37).t()
    assert torch.equal(LAYOUTS[kind].from_linear(x), LAYOUTS[kind].from_linear(x.contiguous()))


@pytest.mark.parametrize("kind", SfLayout)
@pytest.mark.parametrize("shape", [(0, 4), (0, 5), (0, 0)])
def test_an_empty_matrix_has_an_empty_buffer(kind, shape):
    flat = LAYOUTS[kind].from_linear(torch.empty(shape, dtype=torch.uint8))
    assert flat.shape == (0,)
    assert LAYOUTS[kind].to_linear(flat, *shape).shape == shape


@pytest.mark.parametrize("kind", SfLayout)
@pytest.mark.parametrize("dtype", [torch.uint8, torch.bfloat16, torch.float8_e4m3fn])
def test_from_linear_keeps_the_dtype(kind, dtype):
    assert LAYOUTS[kind].from_linear(torch.zeros(5, 3, dtype=torch.uint8).to(dtype)).dtype == dtype


def test_128x4_is_the_tensor_form_of_the_specification():
    rows, cols = 300, 6
    x = distinct(rows, cols)
    pad = torch.zeros(384, 8, dtype=x.dtype)
    pad[:rows, :cols] = x
    want = pad.view(3, 4, 32, 2, 4).permute(0, 3, 2, 1, 4).reshape(-1)
    assert torch.equal(LAYOUTS[SfLayout.layout_128x4].from_linear(x), want)


def test_128x4_is_a_plain_reshape_of_the_triton_view():
    """Scale (37, 5) of 8 columns lies at [0, 0, 1, 0, 85] of [1, rp/128, cp/4, 2, 256]."""
    x = torch.zeros(128, 8, dtype=torch.uint8)
    x[37, 5] = 1
    flat = LAYOUTS[SfLayout.layout_128x4].from_linear(x)
    assert flat.view(1, 1, 2, 2, 256).nonzero().tolist() == [[0, 0, 1, 0, 85]]


@pytest.mark.parametrize("kind", SfLayout)
@pytest.mark.parametrize("device", ["meta", "fake"])
def test_layouts_work_without_data(kind, device):
    """Shapes and dtypes of meta and fake tensors are those of real ones."""
    mode = FakeTensorMode()
    with mode:
        x = torch.empty(300, 6, dtype=torch.uint8, device="meta" if device == "meta" else "cpu")
        flat = LAYOUTS[kind].from_linear(x)
        back = LAYOUTS[kind].to_linear(flat, 300, 6)
        where = LAYOUTS[kind].offset(torch.empty_like(x, dtype=torch.int64), torch.empty_like(x, dtype=torch.int64), 6)
    assert flat.shape == (LAYOUTS[kind].numel(300, 6),)
    assert (flat.dtype, back.dtype, where.dtype) == (torch.uint8, torch.uint8, torch.int64)
    assert back.shape == where.shape == (300, 6)
    assert flat.device == back.device == x.device


# ---- row shuffles ----

DESTINATIONS = {
    32: "0 8 16 24 1 9 17 25 2 10 18 26 3 11 19 27 4 12 20 28 5 13 21 29 6 14 22 30 7 15 23 31",
    16: "0 8 1 9 2 10 3 11 4 12 5 13 6 14 7 15",
}


@pytest.mark.parametrize("block", [16, 32])
def test_old_rows_go_where_the_table_says(block):
    shuffled = layouts.shuffle_rows(torch.arange(block), block).tolist()
    assert [shuffled.index(old) for old in range(block)] == list(map(int, DESTINATIONS[block].split()))


@pytest.mark.parametrize(("block", "destination", "source"), [(32, 41, 52), (16, 42, 42)])
def test_row_37_of_the_worked_example(block, destination, source):
    """Old row 37 moves to row 41 (or 42); output row 37 comes from row 52 (or 42)."""
    shuffled = layouts.shuffle_rows(torch.arange(64), block).tolist()
    assert (shuffled.index(37), shuffled[37]) == (destination, source)


@pytest.mark.parametrize("block", [16, 32])
def test_the_gather_and_the_scatter_formula_are_inverse(block):
    for old in range(2 * block):
        new = (old // block) * block + ((old % block) % (block // 8)) * 8 + (old % block) // (block // 8)
        assert layouts.shuffled_index(new, block) == old


@pytest.mark.parametrize("block", [16, 32])
def test_shuffle_rows_is_the_gather_formula(block):
    x = distinct(4 * block, 3)
    assert torch.equal(layouts.shuffle_rows(x, block), x[layouts.shuffled_index(torch.arange(4 * block), block)])


@pytest.mark.parametrize("block", [16, 32])
def test_shuffled_index_of_a_number_and_of_a_tensor_agree(block):
    n = torch.arange(3 * block)
    assert layouts.shuffled_index(n, block).tolist() == [layouts.shuffled_index(i, block) for i in range(3 * block)]


@pytest.mark.parametrize("block", [16, 32])
@pytest.mark.parametrize("tail", [(), (5,), (3, 2)])
def test_unshuffle_undoes_shuffle(block, tail):
    x = torch.arange(2 * block * max(1, torch.Size(tail).numel())).reshape(2 * block, *tail)
    assert torch.equal(layouts.unshuffle_rows(layouts.shuffle_rows(x, block), block), x)
    assert torch.equal(layouts.shuffle_rows(layouts.unshuffle_rows(x, block), block), x)


@pytest.mark.parametrize(("tile", "block"), [(16, 16), (32, 16), (64, 16), (96, 16), (128, 32), (192, 16), (256, 32)])
def test_the_shuffle_block_follows_from_the_epilogue_tile(tile, block):
    assert layouts.shuffle_block(tile) == block


@pytest.mark.parametrize("function", [layouts.shuffle_rows, layouts.unshuffle_rows])
def test_shuffles_work_on_meta_tensors(function):
    x = function(torch.empty(64, 5, device="meta"), 32)
    assert (x.shape, x.device.type) == ((64, 5), "meta")


@pytest.mark.parametrize(("a", "b", "want"), [(0, 4, 0), (1, 4, 1), (4, 4, 1), (5, 4, 2), (128, 128, 1), (129, 128, 2)])
def test_ceil_div_and_round_up(a, b, want):
    assert layouts.ceil_div(a, b) == want
    assert layouts.round_up(a, b) == want * b
