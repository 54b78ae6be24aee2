"""FP4 words as fragments of an MMA, without a GPU: the decoders' PTX in an emulator, the functions around it on torch tensors.

That the elements lie in the right threads (`assert_trivial`) is for the compiler to say: tests/cross_compile and tests/gpu.
"""

import ptx
import pytest
import torch
from fragment_stand_ins import (
    GL,
    NAMES,
    SHIFT,
    TYPES,
    call,
    draw,
    elements_of,
    language,
    same,
    scale_values,
    seeded,
    words_of,
)

from tritonfp4.reference.encode import e2m1_decode

pytest.importorskip("triton.experimental.gluon")
from tritonfp4.kernels.fragments import decode

# ---- the emulator ----

THREE = "=r,r,r,r"
BF16_FMA, F16_FMA = "fma.rn.bf16x2 $0, $1, $2, $3;", "fma.rn.f16x2 $0, $1, $2, $3;"


@pytest.mark.parametrize("asm, constraints, inputs, expected", [
    ("shl.b32 $0, $1, $2;", "=r,r,r", [0x87654321, 8], 0x65432100),
    ("shl.b32 $0, $1, $2;", "=r,r,r", [0x87654321, 33], 0),
    ("shr.u32 $0, $1, $2;", "=r,r,r", [0x87654321, 8], 0x00876543),
    ("and.b32 $0, $1, 0x00F000F0;", "=r,r", [-1], 0x00F000F0),
    ("mul.lo.u32 $0, $1, $2;", "=r,r,r", [0xFFFFFFFF, 0xFFFFFFFF], 1),
    ("lop3.b32 $0, $1, $2, $3, 0xEA;", THREE, [0xFFFF0000, 0x80008000, 0x0E000E00], 0x8E000E00),  # a & b | c
    ("prmt.b32 $0, $1, $2, 0x7531;", "=r,r,r", [0x44332211, 0x88776655], 0x88664422),
    ("prmt.b32 $0, $1, $1, 0x9180;", "=r,r", [0x12348C7F], 0xFF8C007F),  # bytes 0 and 1, each with its sign above it
    ("{ .reg .pred q; setp.eq.u32 q, $1, 0; selp.b32 $0, 0x40, $1, q; }", "=r,r", [0], 0x40),
    ("{ .reg .pred q; setp.eq.u32 q, $1, 0; selp.b32 $0, 0x40, $1, q; }", "=r,r", [7], 7),
    ("{ .reg .pred q; setp.ne.s32 q, $1, 0; selp.b32 $0, 0x40, $1, q; }", "=r,r", [7], 0x40),
    ("mov.b32 $0, 0x87;", "=r,r", [7], 0x87),
    # Halves of a register are of different cases: 1 * 1 + 2^-8 -> 1, 129 / 128 + 2^-8 -> 130 / 128.
    (BF16_FMA, THREE, [0x3F803F81, 0x3F803F80, 0x3B803B80], 0x3F803F82),
    # 129 * 3 -> 388, and a little less than that -> 386; rounded to float32 first, both were 388.
    (BF16_FMA, THREE, [0x43014301, 0x40404040, 0x8000B580], 0x43C243C1),
    # Subnormals: 2^-126 / 2, and 3 * 2^-133 / 2 -> 2 * 2^-133.
    (BF16_FMA, THREE, [0x00800003, 0x3F003F00, 0x80008000], 0x00400002),
    # The largest number twice, and infinity times 0.
    (BF16_FMA, THREE, [0x7F7F7F80, 0x40000000, 0x00000000], 0x7F807FFF),
    # 0 * 1 + -0, and -0 * 1 + -0.
    (BF16_FMA, THREE, [0x00008000, 0x3F803F80, 0x80008000], 0x00008000),
    # 65504 + 15 -> 65504, and 65504 + 16 -> infinity.
    (F16_FMA, THREE, [0x7BFF7BFF, 0x3C003C00, 0x4B804C00], 0x7BFF7C00),
    # Subnormals: 2^-24 / 2 -> 0, and 3 * 2^-24 / 2 -> 2 * 2^-24.
    ("mul.rn.f16x2 $0, $1, $2;", "=r,r,r", [0x00010003, 0x38003800], 0x00000002),
])  # fmt: skip
def test_the_emulator_s_instructions(asm, constraints, inputs, expected):
    assert [hex(x) for x in ptx.run(asm, constraints, inputs)] == [hex(expected)]


def test_an_input_may_be_read_behind_an_early_clobber():
    assert ptx.run("and.b32 $0, $1, $2; and.b32 $0, $0, $3;", "=&r,r,r,r", [15, 14, 7]) == [6]


BYTES = torch.arange(0x80, 0xA0)


def load(at, wanted, size, count):
    """Of `BYTES`."""
    words = [[BYTES[place + i * size + torch.arange(size)] for i in range(count)] for place in at.where(wanted, 0)]
    return torch.stack([torch.stack([(word << 8 * torch.arange(size)).sum() for word in row]) for row in words])


@pytest.mark.parametrize("kind, inputs, expected", [
    ("ld.global.u8 $0, [$1];", "=r,l,r", [0x84, 0x80]),
    ("ld.global.L1::no_allocate.u16 $0, [$1];", "=r,l,r", [0x8584, 0x8180]),
    ("{ .reg .pred p; setp.ne.s32 p, $2, 0; mov.b32 $0, 0; @p ld.global.u16 $0, [$1]; }", "=r,l,r", [0x8584, 0]),
    ("{ .reg .pred p; setp.ne.s32 p, $2, 0; @p ld.global.u16 $0, [$1]; }", "=r,l,r", [0x8584, ptx.UNDEFINED]),
    ("ld.global.L2::cache_hint.v4.b32 {a, $0, b, c}, [$1], $1;", "=r,l,r", [0x8B8A8988, 0x87868584]),
])  # fmt: skip
def test_the_emulator_s_loads(kind, inputs, expected):
    """At two addresses, of which the predicate lets the first one be read."""
    (got,) = ptx.run(kind, inputs, [torch.tensor([4, 0]), torch.tensor([-1, 0])], load)
    assert got.tolist() == expected


def test_an_input_may_be_read_behind_an_output_of_another_size():
    """No register holds both."""
    (got,) = ptx.run("mov.b32 $0, 0; ld.global.u8 $0, [$1];", "=r,l", [torch.tensor([4])], load)
    assert got.tolist() == [0x84]


def test_the_emulator_s_halves_are_the_low_and_the_high_one():
    assert [hex(x) for x in ptx.run("mov.b32 {$0, $1}, $2;", "=h,=h,r", [0x87654321])] == ["0x4321", "0x8765"]


def test_the_emulator_s_tables_of_three():
    """As PTX defines the table: what the operation makes of these three bytes."""
    tables = torch.arange(256)
    (got,) = ptx.run("lop3.b32 $0, $1, $2, $3, $4;", THREE + ",r", [0xF0, 0xCC, 0xAA, tables])
    assert torch.equal(got & 0xFF, tables)


@pytest.mark.parametrize("asm, error", [
    ("xor.b32 $0, $1, $2;", NotImplementedError),
    ("mov.b64 $0, $1;", NotImplementedError),
    ("@p mov.b32 $0, $1;", NotImplementedError),
    ("ld.global.b32 $0, [$1];", NotImplementedError),  # no address, and no memory
    ("lop3.b32 $0, $1, $2, $3, 0x1EA;", ValueError),
    ("and.b32 $0, $1, $2, $3;", NotImplementedError),
    ("and.b32 $0, $1, a;", KeyError),  # never written
    ("{ .reg .b32 a; and.b32 a, $1, $2; }", KeyError),  # no output
    ("and.b32 $0, $1, $2; and.b32 $0, $0, $3;", ValueError),  # $3 may be where $0 is
    (BF16_FMA, ValueError),  # the inputs' sum needs more than float64
])  # fmt: skip
def test_what_the_emulator_does_not_know_is_an_error(asm, error):
    with pytest.raises(error):
        ptx.run(asm, THREE, [0x7F00, 0x3F80, 0x3F80])


# ---- the package's functions on torch tensors ----

KERNEL = language(decode, GL)


def code_words(fmt, codes):
    """Codes [.., 2 or 1] of every 32 elements as they are loaded: those of NVFP4 in pairs."""
    return codes.contiguous().view(torch.uint16 if fmt == "nvfp4" else torch.uint8).squeeze(-1)


def check(words, codes, fmt, compute):
    """Elements of words [.., 4], with scale codes [.., 2 or 1], are equal to e2m1 * scale * shift, which the type holds exactly:
    NaN where that is NaN, and there alone. Zeros have any sign."""
    got = call(KERNEL.pairs, words, code_words(fmt, codes), fmt, compute)
    assert got.dtype == TYPES[compute] and got.shape == (*words.shape, 2, 2, 2)
    got = got.movedim(-1, -3).flatten(-3).double()  # p + 4 h
    scales = scale_values(fmt, codes).repeat_interleave(4 // codes.shape[-1], -1)
    same(got, e2m1_decode(elements_of(words)).double() * scales[..., None] * SHIFT[fmt, compute], TYPES[compute])


@pytest.mark.parametrize("others", [0, 15])
@pytest.mark.parametrize("fmt, compute", SHIFT)
def test_every_element_in_every_place_with_every_scale(fmt, compute, others):
    """The other seven elements of the word are zero, or all their bits are set; of a pair of scales each takes every code."""
    elements = torch.full((16, 8, 8), others, dtype=torch.uint8)
    place = torch.arange(8)
    elements[:, place, place] = torch.arange(16, dtype=torch.uint8)[:, None]
    words = words_of(elements).view(32, 4)
    codes = torch.arange(256, dtype=torch.uint8)
    codes = torch.stack((codes, codes * 37 + 11), -1) if fmt == "nvfp4" else codes[:, None]
    check(words.expand(256, 32, 4), codes[:, None].expand(256, 32, -1), fmt, compute)


@pytest.mark.parametrize("fmt, compute", SHIFT)
def test_neighbours_do_not_reach_each_other(fmt, compute):
    """Words of eight different elements, with every scale beside sixteen others."""
    generator = seeded(fmt, compute)
    order = torch.rand(512, 16, 4, 16, generator=generator).argsort(-1)[..., :8]
    codes = torch.arange(256, dtype=torch.uint8)[:, None].expand(256, 16)
    beside = draw(generator, 256, 16)
    pairs = torch.cat((torch.stack((codes, beside), -1), torch.stack((beside, codes), -1)))
    check(words_of(order.byte()), pairs if fmt == "nvfp4" else pairs[..., :1], fmt, compute)


def test_the_epilogue_takes_back_what_decoding_leaves_out():
    """Of both operands; plain ones lack nothing."""
    plain = {("plain", compute): 1.0 for compute in TYPES}
    assert {key: 1 / by for key, by in decode.UNSHIFT.items()} == SHIFT | plain


# ---- what the elements are called ----

#: Rows of the left operand, those of the right one, warps.
ROWS, TOKENS, WARPS = 16, 24, 2


def fp4(generator, rows, fmt):
    """Words [W, rows, 4 threads, 4] of random elements, their codes [W, rows, 4], and their values [W, rows, 128]."""
    elements = draw(generator, WARPS, rows, 128, high=16)
    if fmt == "nvfp4":
        codes = draw(generator, WARPS, rows, 8)
        codes = torch.where(codes & 0x7F == 0x7F, codes - 1, codes)  # no NaN
    else:
        codes = draw(generator, WARPS, rows, 4, low=124, high=131)  # so near each other that sums of products are exact
    words = words_of(elements.unflatten(-1, (4, 4, 8)))
    scales = scale_values(fmt, codes).repeat_interleave(128 // codes.shape[-1], -1)
    return words, code_words(fmt, codes.unflatten(-1, (4, -1))), e2m1_decode(elements).double() * scales


def plain(generator, rows, compute):
    """Words [W, rows, 4 threads, 16] of random activations, which are whole numbers of 8 bits, and their values."""
    values = draw(generator, WARPS, rows, 128).double() - 128
    return values.to(TYPES[compute]).view(torch.int32).unflatten(-1, (4, 16)), values


def right(fmt, compute, generator):
    """The right operand in the fragment [W, 128, tokens], and its values [W, tokens, 128]."""
    if fmt == "ordered":
        _, values = plain(generator, TOKENS, compute)
        # of each thread's four words of eight, p and p + 4 together
        words = values.to(TYPES[compute]).unflatten(-1, (4, 4, 2, 4)).mT.contiguous().view(torch.int32)
        words = words.reshape(WARPS, TOKENS // 8, 8, 4, 16)
        fragment = call(KERNEL.ordered_fragment, words, compute, None)
    elif fmt == "plain":
        words, values = plain(generator, TOKENS, compute)
        fragment = call(KERNEL.plain_fragment, words.unflatten(1, (-1, 8)), compute, None)
    else:
        words, codes, values = fp4(generator, TOKENS, fmt)
        words, codes = (x.unflatten(1, (-1, 8)) for x in (words, codes))
        fragment = call(KERNEL.right_fragment, words, codes, fmt, compute, None)
        values = values * SHIFT[fmt, compute]
    assert fragment.dtype == TYPES[compute] and fragment.shape == (WARPS, 128, TOKENS)
    return fragment.double(), values


def left(fmt, compute, generator):
    """The left operand in the fragment [W, rows, 128], and its values [W, rows, 128]."""
    words, codes, values = fp4(generator, ROWS, fmt)
    fragment = call(KERNEL.left_fragment, words, codes, fmt, compute, None)
    assert fragment.dtype == TYPES[compute] and fragment.shape == (WARPS, ROWS, 128)
    return fragment.double(), values * SHIFT[fmt, compute]


@pytest.mark.parametrize("weights, activations, compute", [
    (weights, activations, compute)
    for weights, compute in SHIFT for activations in ("plain", "ordered", "nvfp4", "mxfp4")
    if activations in ("plain", "ordered") or (activations, compute) in SHIFT
])  # fmt: skip
def test_the_product_of_fragments_is_that_of_the_matrices(weights, activations, compute):
    """In float64, where it is exact."""
    generator = seeded(weights, activations, compute)
    (a, a_values), (b, b_values) = left(weights, compute, generator), right(activations, compute, generator)
    assert torch.equal(a @ b, a_values @ b_values.mT)


@pytest.mark.parametrize("fmt, compute", SHIFT)
def test_elements_are_called_what_the_mma_expects(fmt, compute):
    """Registers of a fragment hold neighbours of the thread that loaded them: a name's low bit, then the thread, then the rest."""
    generator = seeded(fmt, compute)
    fragment, values = left(fmt, compute, generator)
    assert torch.equal(fragment, values[..., NAMES])
    for activations in ("plain", "ordered", fmt):
        fragment, values = right(activations, compute, generator)
        assert torch.equal(fragment, values[..., NAMES].mT)
