"""Device functions: e2m1, e4m3 and e8m0 encoders and decoders in integer arithmetic, scale offsets, row shuffles.

Integers because the same source must give the same bits on every GPU since Ampere and in the interpreter, whose float
casts are inexact. Formulas: a value is reinterpreted so that one multiplication by a power of two finishes the decoding,
and rounding to nearest even is an integer addition before the shift.
"""

import triton
import triton.language as tl


@triton.jit
def e2m1_encode(y):
    """fp32 -> codes (uint32): nearest even, saturating, the sign kept, NaN -> 7."""
    u = y.to(tl.uint32, bitcast=True)
    a = u & 0x7FFFFFFF
    normal = ((a + 0x1FFFFF + ((a >> 22) & 1)) >> 22) - 252
    normal = tl.where(a > 0x40C00000, 7, normal)
    small = (a.to(tl.float32, bitcast=True) + 4194304.0).to(tl.uint32, bitcast=True) & 7  # 2^22 has an ulp of 0.5
    code = tl.where(a < 0x3F800000, small, normal) | ((u >> 31) << 3)
    return tl.where(a > 0x7F800000, 7, code)


@triton.jit
def e2m1_decode_fp32(code):
    """Codes (any integer, 4 low bits) -> fp32."""
    n = code.to(tl.uint32)
    return (((n & 7) << 22) | ((n & 8) << 28)).to(tl.float32, bitcast=True) * 8.507059173023462e37  # 2^126


@triton.jit
def e2m1_decode_fp16(code):
    """Codes -> fp16."""
    n = code.to(tl.uint16)
    return (((n & 7) << 9) | ((n & 8) << 12)).to(tl.float16, bitcast=True) * 16384.0  # 2^14


@triton.jit
def e4m3_encode(x):
    """fp32, not negative -> byte (uint32): nearest even, saturating to 448, subnormals kept, NaN -> 0x7F."""
    a = x.to(tl.uint32, bitcast=True) & 0x7FFFFFFF
    normal = ((a + 0x7FFFF + ((a >> 20) & 1)) >> 20) - 960
    normal = tl.where(a > 0x43E00000, 0x7E, normal)
    small = (a.to(tl.float32, bitcast=True) + 16384.0).to(tl.uint32, bitcast=True) & 15  # 2^14 has an ulp of 2^-9
    code = tl.where(a < 0x3C800000, small, normal)
    return tl.where(a > 0x7F800000, 0x7F, code)


@triton.jit
def e4m3_encode_signed(x):
    """fp32 -> byte (uint32): as `e4m3_encode`, the sign kept, also of zeros; NaN -> 0x7F."""
    u = x.to(tl.uint32, bitcast=True)
    code = e4m3_encode(x)
    return tl.where(code == 0x7F, code, code | ((u >> 31) << 7))


@triton.jit
def e5m2_encode_signed(x):
    """fp32 -> byte (uint32): nearest even, saturating to 57344, subnormals and the sign kept; NaN -> 0x7F."""
    u = x.to(tl.uint32, bitcast=True)
    a = u & 0x7FFFFFFF
    normal = ((a + 0xFFFFF + ((a >> 21) & 1)) >> 21) - 448
    normal = tl.where(a > 0x47600000, 0x7B, normal)
    small = (a.to(tl.float32, bitcast=True) + 128.0).to(tl.uint32, bitcast=True) & 7  # 2^7 has an ulp of 2^-16
    code = tl.where(a < 0x38800000, small, normal) | ((u >> 31) << 7)
    return tl.where(a > 0x7F800000, 0x7F, code)


@triton.jit
def e4m3_decode_fp32(byte):
    """Byte -> fp32; 0x7F and 0xFF are NaN."""
    b = byte.to(tl.uint32)
    x = (((b & 0x7F) << 20) | ((b & 0x80) << 24)).to(tl.float32, bitcast=True) * 1.329227995784916e36  # 2^120
    return tl.where((b & 0x7F) == 0x7F, float("nan"), x)


@triton.jit
def e4m3_decode_fp16(byte):
    """Byte -> fp16; 0x7F and 0xFF are NaN."""
    b = byte.to(tl.uint16)
    nan = ((b & 0x7F) == 0x7F).to(tl.uint16) * 0x7E00
    x = (((b & 0x7F) << 7) | ((b & 0x80) << 8)).to(tl.float16, bitcast=True) * 256.0
    return (x.to(tl.uint16, bitcast=True) | nan).to(tl.float16, bitcast=True)


@triton.jit
def e5m2_decode_fp16(byte):
    """Byte -> fp16: e5m2 is fp16 without its 8 last bits, infinities and NaN included."""
    return (byte.to(tl.uint16) << 8).to(tl.float16, bitcast=True)


@triton.jit
def e2m1_to_e4m3(code):
    """e2m1 codes (uint8, 4 low bits) -> e4m3 bytes of the same values."""
    n = code & 7
    return (tl.where(n >= 2, 48 + 4 * n, 48 * n) | ((code & 8) << 4)).to(tl.uint8)


@triton.jit
def e8m0_decode_fp32(byte):
    """Byte -> 2^(byte - 127) as fp32; 255 is NaN."""
    b = byte.to(tl.uint32)
    x = tl.where(b == 0, 0x00400000, b << 23).to(tl.uint32).to(tl.float32, bitcast=True)
    return tl.where(b == 255, float("nan"), x)


@triton.jit
def scale_decode_fp32(byte, FORMAT: tl.constexpr):
    """Scale byte of the format -> fp32."""
    if FORMAT == "nvfp4":
        return e4m3_decode_fp32(byte)
    else:
        return e8m0_decode_fp32(byte)


@triton.jit
def to_fp32(x):
    """fp16, bf16 or fp32 -> fp32, exactly. bf16 by a shift: the interpreter's cast gets subnormals wrong."""
    if x.dtype == tl.bfloat16:
        return (x.to(tl.uint16, bitcast=True).to(tl.uint32) << 16).to(tl.float32, bitcast=True)
    else:
        return x.to(tl.float32)


@triton.jit
def to_dtype(x, dtype: tl.constexpr, INTERPRETED: tl.constexpr):
    """fp32 -> dtype, nearest even. The interpreter truncates bf16 casts, so there the rounding is spelled out."""
    if INTERPRETED and dtype == tl.bfloat16:
        u = x.to(tl.uint32, bitcast=True)
        r = (u + 0x7FFF + ((u >> 16) & 1)) >> 16
        r = tl.where((u & 0x7FFFFFFF) > 0x7F800000, 0x7FFF, r)
        return r.to(tl.uint16).to(tl.bfloat16, bitcast=True)
    else:
        return x.to(dtype)


@triton.jit
def scale_offset(r, c, cols, LAYOUT: tl.constexpr):
    """Position of scale (r, c) in the flat buffer of a matrix with `cols` scale columns (`layouts.ScaleLayout.offset`)."""
    r = r.to(tl.int64)
    if LAYOUT == 2:
        return r * cols + c
    elif LAYOUT == 0:
        return ((r // 128) * tl.cdiv(cols, 4) + c // 4) * 512 + (r % 32) * 16 + (r % 128) // 32 * 4 + c % 4
    else:
        return ((r // 8) * tl.cdiv(cols, 4) + c // 4) * 32 + (r % 8) * 4 + c % 4


@triton.jit
def shuffled_index(n, BLOCK: tl.constexpr):
    """Original row of stored row n (`layouts.shuffled_index`); BLOCK 0: no shuffle."""
    if BLOCK == 0:
        return n
    else:
        return n // BLOCK * BLOCK + n % 8 * (BLOCK // 8) + n % BLOCK // 8
