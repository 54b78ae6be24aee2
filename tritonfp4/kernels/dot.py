"""Dots over decoded operands: the one place that knows how operands reach the tensor cores.

Exactness. An NVFP4 product e2m1 * e4m3 has at most 6 significant bits and lies in [2^-10, 2688]: exact in fp16 and in bf16.
An MXFP4 product e2m1 * 2^(code - 127) spans more than fp16 holds, and its largest values overflow bf16 too. Multiplied by
2^-2 every one of them, for every code 0 to 254, is exact in bf16 (the smallest, 2^-130, as a subnormal; the largest is
1.5 * 2^127), so MXFP4 operands are decoded to bf16 with a factor of 2^-2 that the epilogue takes back in fp32. fp16
activations against MXFP4 weights go through tf32, which holds both exactly.
"""

import triton
import triton.language as tl

from tritonfp4.kernels.encode import (
    e2m1_decode_fp16,
    e2m1_decode_fp32,
    e4m3_decode_fp16,
    scale_decode_fp32,
    to_dtype,
    to_fp32,
)


@triton.jit
def spread(scale, ROWS: tl.constexpr, COLS: tl.constexpr, TIMES: tl.constexpr):
    """[ROWS, COLS] -> [ROWS, COLS * TIMES], every column repeated."""
    return tl.broadcast_to(scale[:, :, None], (ROWS, COLS, TIMES)).reshape(ROWS, COLS * TIMES)


@triton.jit
def decode_halves(
    packed, code, FORMAT: tl.constexpr, COMPUTE: tl.constexpr, ROWS: tl.constexpr, COLS: tl.constexpr, VEC: tl.constexpr,
    INTERPRETED: tl.constexpr,
):  # fmt: skip
    """Bytes [ROWS, COLS * VEC / 2] and scale bytes [ROWS, COLS] -> operands of the even and of the odd elements."""
    if COMPUTE == "fp16":
        s = spread(e4m3_decode_fp16(code), ROWS, COLS, VEC // 2)
        return e2m1_decode_fp16(packed & 15) * s, e2m1_decode_fp16(packed >> 4) * s
    else:
        s = scale_decode_fp32(code, FORMAT)
        if FORMAT == "mxfp4":
            s = s * 0.25
        s = spread(s, ROWS, COLS, VEC // 2)
        even, odd = e2m1_decode_fp32(packed & 15) * s, e2m1_decode_fp32(packed >> 4) * s
        if COMPUTE == "bf16":
            even, odd = to_dtype(even, tl.bfloat16, INTERPRETED), to_dtype(odd, tl.bfloat16, INTERPRETED)  # exact
        return even, odd


@triton.jit
def split_halves(x, COMPUTE: tl.constexpr, ROWS: tl.constexpr, COLS: tl.constexpr):
    """Plain operand [ROWS, COLS] -> its even and its odd columns."""
    even, odd = tl.split(x.reshape(ROWS, COLS // 2, 2))
    if COMPUTE == "tf32":
        even, odd = to_fp32(even), to_fp32(odd)
    return even, odd


@triton.jit
def dot(a, b, acc, COMPUTE: tl.constexpr, INTERPRETED: tl.constexpr):
    """acc + a @ b.T in fp32. The interpreter multiplies bf16 as integers, so there the operands are widened first."""
    if INTERPRETED and COMPUTE != "fp16":
        return tl.dot(to_fp32(a), tl.trans(to_fp32(b)), acc, input_precision="ieee")
    elif COMPUTE == "tf32":
        return tl.dot(a, tl.trans(b), acc, input_precision="tf32")
    else:
        return tl.dot(a, tl.trans(b), acc)
