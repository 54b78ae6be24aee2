"""Device functions: counter-based noise and stochastic rounding to e2m1 (`tritonfp4.reference.stochastic`)."""

import triton
import triton.language as tl

from tritonfp4.kernels.encode import e2m1_encode


@triton.jit
def _philox_words(seed_ptr, counter):
    """The four 32-bit words of Philox4x32-10 for int64 counters; the key is the 64-bit seed."""
    seed = tl.load(seed_ptr)
    low = (counter & 0xFFFFFFFF).to(tl.uint32)
    return tl.philox(seed, low, (counter >> 32).to(tl.uint32), low * 0, low * 0)


@triton.jit
def random_bits(seed_ptr, r, pid_k, K, ALIGNED: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_K: tl.constexpr):
    """16 random bits for each element (row r, column) of a tile -> uint32 [BLOCK_M, BLOCK_K].

    They are a function of the seed and of the element's index r * K + column alone. ALIGNED: K is a multiple of 8, so
    that eight neighbours share a counter and one call serves them.
    """
    if ALIGNED:
        group = pid_k.to(tl.int64) * (BLOCK_K // 8) + tl.arange(0, BLOCK_K // 8)
        w0, w1, w2, w3 = _philox_words(seed_ptr, r[:, None] * (K // 8) + group[None, :])
        # Element 4 * b2 + 2 * b1 + b0 of a group has half b0 of word 2 * b2 + b1; the outermost join is the last bit.
        low = tl.join(tl.join(w0 & 0xFFFF, w2 & 0xFFFF), tl.join(w1 & 0xFFFF, w3 & 0xFFFF))
        high = tl.join(tl.join(w0 >> 16, w2 >> 16), tl.join(w1 >> 16, w3 >> 16))
        return tl.join(low, high).reshape(BLOCK_M, BLOCK_K)
    else:
        k = pid_k.to(tl.int64) * BLOCK_K + tl.arange(0, BLOCK_K)
        i = r[:, None] * K + k[None, :]
        w0, w1, w2, w3 = _philox_words(seed_ptr, i >> 3)
        first = tl.where((i & 2) == 0, w0, w1)
        second = tl.where((i & 2) == 0, w2, w3)
        word = tl.where((i & 4) == 0, first, second)
        return tl.where((i & 1) == 0, word & 0xFFFF, word >> 16)


@triton.jit
def e2m1_encode_stochastic(y, bits):
    """fp32 -> codes (uint32): up with the probability of the distance from the grid point below; saturates at 6."""
    u = y.to(tl.uint32, bitcast=True)
    magnitude = u & 0x7FFFFFFF
    a = tl.where(magnitude > 0x40C00000, 0x40C00000, magnitude).to(tl.uint32).to(tl.float32, bitcast=True)  # 6
    per_step = tl.where(a < 2.0, 2.0, tl.where(a < 4.0, 1.0, 0.5))
    steps = (a * per_step + (bits.to(tl.float32) + 0.5) * 1.52587890625e-05).to(tl.uint32)  # 2^-16
    code = tl.minimum(steps + tl.where(a < 2.0, 0, tl.where(a < 4.0, 2, 4)).to(tl.uint32), 7)
    return tl.where(magnitude > 0x7F800000, 7, code | ((u >> 31) << 3))


@triton.jit
def e2m1_round(y, bits, ROUNDING: tl.constexpr):
    """fp32 -> codes (uint32), to nearest or by the random bits."""
    if ROUNDING == "nearest":
        return e2m1_encode(y)
    else:
        return e2m1_encode_stochastic(y, bits)
