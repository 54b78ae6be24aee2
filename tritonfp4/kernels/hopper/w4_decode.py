"""FP4 weights in shared memory -> wgmma's register operand, elements in their own order.

A thread of a warpgroup holds, of every eight neighbours along K, the two that the MMA wants from it. It reads the whole word (the four
threads of a row read the same one), picks its byte and has two nibbles 16 bits apart. What decoding leaves out is the power of
two of `kernels.fragments.decode`.
"""

from __future__ import annotations

from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.hopper import mbarrier

#: Elements along K of a stage, rows of a warpgroup.
STEP, ROWS = gl.constexpr(64), gl.constexpr(64)

_PICK = "shr.u32 a, $2, 4; prmt.b32 a, $2, a, $3;"
_BF16_PLACES = "and.b32 a, a, 0x000F000F; mul.lo.u32 a, a, 0x1040; and.b32 a, a, 0x81C081C0;"
_FP16_PLACES = "shl.b32 b, a, 12; shl.b32 a, a, 9; and.b32 a, a, 0x0E000E00; lop3.b32 a, b, 0x80008000, a, 0xEA;"
_ASM = "{{ .reg .b32 a, b; {pick} {places} {scale} mov.b32 {{$0, $1}}, a; }}"
_BF16 = gl.constexpr(_ASM.format(pick=_PICK, places=_BF16_PLACES, scale="fma.rn.bf16x2 a, a, $4, $5;"))
_BF16_TWICE = gl.constexpr(
    _ASM.format(pick=_PICK, places=_BF16_PLACES, scale="fma.rn.bf16x2 a, a, $6, $5; fma.rn.bf16x2 a, a, $4, $5;")
)
_FP16 = gl.constexpr(_ASM.format(pick=_PICK, places=_FP16_PLACES, scale="mul.rn.f16x2 a, a, $4;"))


def _two_e4m3(select: str) -> str:
    """Two of four e4m3 codes; see `kernels.fragments.decode` for the numbers."""
    return (
        f"prmt.b32 a, $4, $4, {select}; shl.b32 a, a, 4; and.b32 a, a, 0x87F087F0; "
        "fma.rn.bf16x2 a, a, $5, $8; fma.rn.bf16x2 a, a, $6, $8; fma.rn.bf16x2 p, a, $7, $8; fma.rn.bf16x2 a, p, $9, a;"
    )


def _two_e4m3_fp16(select: str) -> str:
    return (
        f"prmt.b32 a, $4, $4, {select}; shl.b32 a, a, 7; and.b32 a, a, 0xBF80BF80; "
        "mul.rn.f16x2 a, a, $5; mul.rn.f16x2 p, a, $6; fma.rn.f16x2 a, p, $7, a;"
    )


_TWICE = "prmt.b32 {0}, a, a, 0x1010; prmt.b32 {1}, a, a, 0x3232;"
_FOUR_BF16 = gl.constexpr(
    "{ .reg .b32 a, p; "
    + _two_e4m3("0x9180")
    + _TWICE.format("$0", "$1")
    + _two_e4m3("0xB3A2")
    + _TWICE.format("$2", "$3")
    + " }"
)
_FOUR_FP16 = gl.constexpr(
    "{ .reg .b32 a, p; " + _two_e4m3_fp16("0x9180") + _TWICE.format("$0", "$1") + _two_e4m3_fp16("0xB3A2")
    + _TWICE.format("$2", "$3") + " }"
)  # fmt: skip
# e8m0 code number $2 of four, twice, times 2^-2
_E8M0 = gl.constexpr("""{
.reg .b32 a; .reg .pred q;
prmt.b32 a, $1, 0, $2; setp.eq.u32 q, a, 0; shl.b32 a, a, 7; selp.b32 a, 0x40, a, q; prmt.b32 a, a, a, 0x1010;
fma.rn.bf16x2 a, a, $3, $4; fma.rn.bf16x2 $0, a, $5, a;
}""")

#: Registers of words [64 rows, 8 words, 4 bytes that a thread picks]: as wgmma's left operand has its rows and columns.
PICKED = gl.constexpr(
    gl.DistributedLinearLayout(
        [[0, 1, 0], [0, 2, 0], [0, 4, 0], [8, 0, 0]], [[0, 0, 1], [0, 0, 2], [1, 0, 0], [2, 0, 0], [4, 0, 0]],
        [[16, 0, 0], [32, 0, 0]], [], [64, 8, 4],
    )
)  # fmt: skip
#: The same rows in a tile of the 128x4 layout [32, 2 of 4].
TILED = gl.constexpr(
    gl.DistributedLinearLayout(
        [[8, 0]], [[0, 0], [0, 0], [1, 0], [2, 0], [4, 0]], [[16, 0], [0, 1]], [], [32, 2],
    )
)  # fmt: skip


@gluon.jit
def _scales(codes, HALF: gl.constexpr, FORMAT: gl.constexpr, COMPUTE: gl.constexpr, LAYOUT: gl.constexpr):
    """Four codes of every row [64, 1] -> the scale of each of its eight words, twice, [64, 8]."""
    word = gl.expand_dims(gl.arange(0, 8, gl.SliceLayout(0, LAYOUT)), 0)
    if FORMAT == "mxfp4":
        s0 = gl.inline_asm_elementwise(
            _E8M0,
            "=r,r,r,r,r,r",
            [codes, 0x4440 + 2 * HALF, 0x3E803E80, -0x7FFF8000, 0],
            dtype=gl.int32,
            is_pure=True,
            pack=1,
        )
        s1 = gl.inline_asm_elementwise(
            _E8M0,
            "=r,r,r,r,r,r",
            [codes, 0x4441 + 2 * HALF, 0x3E803E80, -0x7FFF8000, 0],
            dtype=gl.int32,
            is_pure=True,
            pack=1,
        )
        return gl.where(word < 4, s0, s1)
    else:
        if COMPUTE == "bf16":
            s0, s1, s2, s3 = gl.inline_asm_elementwise(
                _FOUR_BF16, "=&r,=&r,=&r,=&r,r,r,r,r,r,r",
                [codes, 0x7F007F00, 0x77007700, 0x40104010, -0x7FFF8000, 0], dtype=(gl.int32,) * 4, is_pure=True, pack=1,
            )  # fmt: skip
        else:
            s0, s1, s2, s3 = gl.inline_asm_elementwise(
                _FOUR_FP16, "=&r,=&r,=&r,=&r,r,r,r,r", [codes, 0x78007800, 0x3C803C80, 0],
                dtype=(gl.int32,) * 4, is_pure=True, pack=1,
            )  # fmt: skip
        return gl.where(word < 4, gl.where(word < 2, s0, s1), gl.where(word < 6, s2, s3))


@gluon.jit
def weights(
    w_ring, s_ring, full, stage, phase, ME: gl.constexpr, HALF: gl.constexpr, FORMAT: gl.constexpr, COMPUTE: gl.constexpr,
    LAYOUT: gl.constexpr,
):  # fmt: skip
    """Warpgroup ME's 64 rows of a stage: [64, 64] in LAYOUT, wgmma's left operand. HALF: which two of four MXFP4 scales."""
    WORDS: gl.constexpr = gl.SliceLayout(2, PICKED)
    mbarrier.wait(full.index(stage), phase)
    words = w_ring.index(stage).slice(ME * ROWS, ROWS, dim=0).load(WORDS)
    codes = s_ring.index(stage).slice(ME * 2, 2, dim=1).load(TILED)
    codes = gl.convert_layout(codes.permute((1, 0)).reshape([ROWS]), gl.SliceLayout(1, WORDS), assert_trivial=True)
    s = gl.expand_dims(_scales(gl.expand_dims(codes, 1), HALF, FORMAT, COMPUTE, WORDS), 2)
    t = gl.arange(0, 4, gl.SliceLayout(0, gl.SliceLayout(1, PICKED))) * 0x1111 + 0x4400
    t = gl.expand_dims(gl.expand_dims(t, 0), 1)
    words = gl.expand_dims(words, 2)
    if COMPUTE == "fp16":
        low, high = gl.inline_asm_elementwise(
            _FP16, "=h,=h,r,r,r", [words, t, s], dtype=(gl.float16, gl.float16), is_pure=False, pack=1
        )
    elif FORMAT == "nvfp4":
        low, high = gl.inline_asm_elementwise(
            _BF16, "=h,=h,r,r,r,r", [words, t, s, -0x7FFF8000], dtype=(gl.bfloat16, gl.bfloat16), is_pure=False, pack=1
        )
    else:
        low, high = gl.inline_asm_elementwise(
            _BF16_TWICE, "=h,=h,r,r,r,r,r", [words, t, s, -0x7FFF8000, 0x7E807E80],
            dtype=(gl.bfloat16, gl.bfloat16), is_pure=False, pack=1,
        )  # fmt: skip
    # Without a branch behind them the compiler moves these instructions behind the wait for the MMA that they are to overlap.
    mbarrier.wait(full.index(stage), phase)
    return gl.convert_layout(gl.join(low, high).reshape([ROWS, STEP]), LAYOUT, assert_trivial=True)
