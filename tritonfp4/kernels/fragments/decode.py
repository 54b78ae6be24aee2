"""FP4 words -> fragments of an MMA, without a shared memory in between.

A thread takes 32 neighbours along K at once: four words of eight elements. An MMA wants other ones, but the sum over K does not
care which element is called which, as long as both operands agree: so the words stay where they are, and the elements are named
anew. Of word i, element p + 4 h of thread t of four becomes ((i 4 + p) 4 + t) 2 + h: with that, a register of the fragment
holds the elements p and p + 4, which lie 16 bits apart in the word and are decoded by the same few operations.

What those leave out is a power of two, which the epilogue takes back (`UNSHIFT`): e2m1 bits become a 16-bit number by position,
which is 2^-126 (bf16) or 2^-14 (fp16) of the value; the scale carries most of it.
"""

from triton.experimental import gluon
from triton.experimental.gluon import language as gl

#: Elements along K that a warp takes at once.
CHUNK = gl.constexpr(128)
#: What a product must be multiplied by for each operand of a format, in each 16-bit type.
UNSHIFT = {
    ("nvfp4", "bf16"): 256.0, ("nvfp4", "fp16"): 128.0, ("mxfp4", "bf16"): 4.0, ("plain", "bf16"): 1.0, ("plain", "fp16"): 1.0,
}  # fmt: skip

# Both nibbles p and p + 4 of a word, one of four times. For bf16 they are isolated and brought by one multiplication with two bits
# to both places where their sign and their magnitude belong; for fp16 those overlap, and each takes its own shift.
_NIBBLES = """{{
.reg .b32 a, b, w; .reg .b32 v<4>;
{places}
{scale}
mov.b32 {{$0, $1}}, v0; mov.b32 {{$2, $3}}, v1; mov.b32 {{$4, $5}}, v2; mov.b32 {{$6, $7}}, v3;
}}"""
_BF16_PLACES = """shr.u32 w, $8, 8;
and.b32 a, $8, 0x000F000F; mul.lo.u32 a, a, 0x1040; and.b32 v0, a, 0x81C081C0;
and.b32 a, $8, 0x00F000F0; mul.lo.u32 a, a, 0x104;  and.b32 v1, a, 0x81C081C0;
and.b32 a, w, 0x000F000F;  mul.lo.u32 a, a, 0x1040; and.b32 v2, a, 0x81C081C0;
and.b32 a, w, 0x00F000F0;  mul.lo.u32 a, a, 0x104;  and.b32 v3, a, 0x81C081C0;"""
_FP16_PLACES = """shl.b32 a, $8, 9; shl.b32 b, $8, 12; and.b32 a, a, 0x0E000E00; lop3.b32 v0, b, 0x80008000, a, 0xEA;
shl.b32 a, $8, 5; shl.b32 b, $8, 8;  and.b32 a, a, 0x0E000E00; lop3.b32 v1, b, 0x80008000, a, 0xEA;
shl.b32 a, $8, 1; shl.b32 b, $8, 4;  and.b32 a, a, 0x0E000E00; lop3.b32 v2, b, 0x80008000, a, 0xEA;
shr.u32 a, $8, 3; and.b32 a, a, 0x0E000E00; lop3.b32 v3, $8, 0x80008000, a, 0xEA;"""


def _each(line: str) -> str:
    return "\n".join(line.format(v=f"v{p}") for p in range(4))


# An fma, for there is no bf16x2 product before sm_90; -0 is what adds nothing to a product.
_BF16 = gl.constexpr(_NIBBLES.format(places=_BF16_PLACES, scale=_each("fma.rn.bf16x2 {v}, {v}, $9, $10;")))
_BF16_TWICE = gl.constexpr(
    _NIBBLES.format(
        places=_BF16_PLACES, scale=_each("fma.rn.bf16x2 {v}, {v}, $11, $10; fma.rn.bf16x2 {v}, {v}, $9, $10;")
    )
)
_FP16 = gl.constexpr(_NIBBLES.format(places=_FP16_PLACES, scale=_each("mul.rn.f16x2 {v}, {v}, $9;")))

# Two e4m3 codes -> two registers, each twice one of them, times 2^118 (bf16) or 2^7 (fp16). The code's bits, in place, are 2^-120
# (2^-8) of its value, subnormals too. The code of NaN would be 480: times 1.125 it alone overflows, and infinity times 0 is NaN.
_E4M3_BF16 = gl.constexpr("""{
.reg .b32 a, p;
prmt.b32 a, $2, $2, 0x9180; shl.b32 a, a, 4; and.b32 a, a, 0x87F087F0;
fma.rn.bf16x2 a, a, $3, $6; fma.rn.bf16x2 a, a, $4, $6;
fma.rn.bf16x2 p, a, $5, $6; fma.rn.bf16x2 a, p, $7, a;
prmt.b32 $0, a, a, 0x1010; prmt.b32 $1, a, a, 0x3232;
}""")
_E4M3_FP16 = gl.constexpr("""{
.reg .b32 a, p;
prmt.b32 a, $2, $2, 0x9180; shl.b32 a, a, 7; and.b32 a, a, 0xBF80BF80;
mul.rn.f16x2 a, a, $3;
mul.rn.f16x2 p, a, $4; fma.rn.f16x2 a, p, $5, a;
prmt.b32 $0, a, a, 0x1010; prmt.b32 $1, a, a, 0x3232;
}""")
# An e8m0 code, twice, times 2^-2. Code 0 is a subnormal; code 255 becomes infinity, and that times 0 is NaN.
_E8M0 = gl.constexpr("""{
.reg .b32 a, z; .reg .pred q;
setp.eq.u32 q, $1, 0; shl.b32 a, $1, 7; selp.b32 a, 0x40, a, q; prmt.b32 a, a, a, 0x1010;
fma.rn.bf16x2 a, a, $2, $3; fma.rn.bf16x2 $0, a, $4, a;
}""")
_HALVES = gl.constexpr("mov.b32 {$0, $1}, $2;")


@gluon.jit
def _scales(codes, FORMAT: gl.constexpr, COMPUTE: gl.constexpr):
    """Scale codes of a thread's 32 elements (pairs for NVFP4) [.., 4] -> packed twice [.., 4, 4 words]."""
    if FORMAT == "mxfp4":
        s = gl.inline_asm_elementwise(
            _E8M0, "=r,r,r,r,r", [codes.to(gl.int32), 0x3E803E80, -0x7FFF8000, 0], dtype=gl.int32, is_pure=True, pack=1
        )
        return gl.join(gl.join(s, s), gl.join(s, s))
    else:
        if COMPUTE == "bf16":
            s0, s1 = gl.inline_asm_elementwise(
                _E4M3_BF16, "=r,=r,r,r,r,r,r,r",
                [codes.to(gl.int32), 0x7F007F00, 0x77007700, 0x40104010, -0x7FFF8000, 0],
                dtype=(gl.int32, gl.int32), is_pure=True, pack=1,
            )  # fmt: skip
        else:
            s0, s1 = gl.inline_asm_elementwise(
                _E4M3_FP16, "=r,=r,r,r,r,r", [codes.to(gl.int32), 0x78007800, 0x3C803C80, 0],
                dtype=(gl.int32, gl.int32), is_pure=True, pack=1,
            )  # fmt: skip
        s = gl.join(s0, s1)
        return gl.join(s, s)


@gluon.jit
def pairs(words, codes, FORMAT: gl.constexpr, COMPUTE: gl.constexpr):
    """Words [.., 4 threads, 4] and the codes of their scales -> elements [.., 4 threads, 4, p / 2, p % 2, h]."""
    s = _scales(codes, FORMAT, COMPUTE).reshape(words.shape)
    s = gl.convert_layout(s, words.type.layout, assert_trivial=True)
    if COMPUTE == "fp16":
        v = gl.inline_asm_elementwise(
            _FP16, "=h,=h,=h,=h,=h,=h,=h,=h,r,r", [words, s], dtype=(gl.float16,) * 8, is_pure=True, pack=1
        )
    elif FORMAT == "nvfp4":
        v = gl.inline_asm_elementwise(
            _BF16, "=h,=h,=h,=h,=h,=h,=h,=h,r,r,r", [words, s, -0x7FFF8000],
            dtype=(gl.bfloat16,) * 8, is_pure=True, pack=1,
        )  # fmt: skip
    else:
        v = gl.inline_asm_elementwise(
            _BF16_TWICE, "=h,=h,=h,=h,=h,=h,=h,=h,r,r,r,r", [words, s, -0x7FFF8000, 0x7E807E80],
            dtype=(gl.bfloat16,) * 8, is_pure=True, pack=1,
        )  # fmt: skip
    first = gl.join(gl.join(v[0], v[4]), gl.join(v[2], v[6]))
    second = gl.join(gl.join(v[1], v[5]), gl.join(v[3], v[7]))
    return gl.join(first, second)


@gluon.jit
def left_fragment(words, codes, FORMAT: gl.constexpr, COMPUTE: gl.constexpr, LAYOUT: gl.constexpr):
    """Words [W, R, 4, 4] of R rows -> [W, R, 128], the left operand of an MMA."""
    x = pairs(words, codes, FORMAT, COMPUTE).permute((0, 1, 3, 4, 5, 2, 6))
    return gl.convert_layout(x.reshape([words.shape[0], words.shape[1], CHUNK]), LAYOUT, assert_trivial=True)


@gluon.jit
def right_fragment(words, codes, FORMAT: gl.constexpr, COMPUTE: gl.constexpr, LAYOUT: gl.constexpr):
    """Words [W, R / 8, 8, 4, 4] of R rows -> [W, 128, R], the right operand of an MMA."""
    x = pairs(words, codes, FORMAT, COMPUTE).permute((0, 4, 5, 6, 3, 7, 1, 2))
    return gl.convert_layout(x.reshape([words.shape[0], CHUNK, words.shape[1] * 8]), LAYOUT, assert_trivial=True)


@gluon.jit
def _halves(words, COMPUTE: gl.constexpr):
    """Words -> two 16-bit elements each, the lower one first [.., 2]."""
    if COMPUTE == "bf16":
        low, high = gl.inline_asm_elementwise(
            _HALVES, "=h,=h,r", [words], dtype=(gl.bfloat16, gl.bfloat16), is_pure=True, pack=1
        )
    else:
        low, high = gl.inline_asm_elementwise(
            _HALVES, "=h,=h,r", [words], dtype=(gl.float16, gl.float16), is_pure=True, pack=1
        )
    return gl.join(low, high)


@gluon.jit
def plain_fragment(words, COMPUTE: gl.constexpr, LAYOUT: gl.constexpr):
    """16-bit elements by twos [W, R / 8, 8, 4, 16] of R rows -> [W, 128, R], the right operand of an MMA."""
    W: gl.constexpr = words.shape[0]
    GROUPS: gl.constexpr = words.shape[1]
    # of eight neighbours: h is the first bit of the place, p the other two
    x = _halves(words, COMPUTE).reshape([W, GROUPS, 8, 4, 4, 2, 2, 2]).permute((0, 4, 6, 7, 3, 5, 1, 2))
    return gl.convert_layout(x.reshape([W, CHUNK, GROUPS * 8]), LAYOUT, assert_trivial=True)


@gluon.jit
def ordered_fragment(words, COMPUTE: gl.constexpr, LAYOUT: gl.constexpr):
    """The same of elements in the order of `fragments.order`: each word is a register."""
    W: gl.constexpr = words.shape[0]
    GROUPS: gl.constexpr = words.shape[1]
    x = _halves(words, COMPUTE).reshape([W, GROUPS, 8, 4, 4, 4, 2]).permute((0, 4, 5, 3, 6, 1, 2))
    return gl.convert_layout(x.reshape([W, CHUNK, GROUPS * 8]), LAYOUT, assert_trivial=True)
