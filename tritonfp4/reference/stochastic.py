"""The meaning of stochastic rounding: counter-based noise, and rounding to e2m1 by it.

Element i (its row-major index in the logical matrix, without padding) takes 16 bits of Philox4x32-10 with the 64-bit seed
as key: counter ``(low, high 32 bits of i // 8, 0, 0)``, word ``(i // 2) % 4``, low half for even i, high half for odd i.
No tiling, layout or launch order can change them.
"""

from __future__ import annotations

import torch

_LOW = 0xFFFFFFFF


def _high_product(a: torch.Tensor, b: int) -> torch.Tensor:
    """Upper 32 bits of the product of two 32-bit numbers in int64; the wrap-around of int64 does not reach them."""
    return (a * b) >> 32 & _LOW


def philox(seed: torch.Tensor, counter: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Philox4x32-10 of int64 counters (upper two words 0) with an int64 seed [1] -> four 32-bit words in int64."""
    c0, c1 = counter & _LOW, counter >> 32 & _LOW
    c2, c3 = torch.zeros_like(counter), torch.zeros_like(counter)
    k0, k1 = seed & _LOW, seed >> 32 & _LOW
    for _ in range(10):
        high0, low0 = _high_product(c0, 0xD2511F53), c0 * 0xD2511F53 & _LOW
        high1, low1 = _high_product(c2, 0xCD9E8D57), c2 * 0xCD9E8D57 & _LOW
        c0, c1, c2, c3 = high1 ^ c1 ^ k0, low1, high0 ^ c3 ^ k1, low0
        k0, k1 = (k0 + 0x9E3779B9) & _LOW, (k1 + 0xBB67AE85) & _LOW
    return c0, c1, c2, c3


def random_bits(seed: torch.Tensor, rows: int, cols: int) -> torch.Tensor:
    """-> [rows, cols] of 16 random bits (int32) for each element of a matrix."""
    counter = torch.arange(-(-rows * cols // 8), device=seed.device)
    words = torch.stack(philox(seed.reshape(1), counter), -1)
    halves = torch.stack([words & 0xFFFF, words >> 16], -1)
    return halves.int().reshape(-1)[: rows * cols].reshape(rows, cols)


def e2m1_encode_stochastic(y: torch.Tensor, bits: torch.Tensor) -> torch.Tensor:
    """Down or up to a neighbouring grid point, up with the probability of the distance from the one below.

    ``h * floor(|y| / h + w)`` with the step h and ``w = (bits + 0.5) / 65536``, one fp32 addition; saturates at 6. Grid
    points never move; the sign bit is kept, also of zeros; NaN gives code 7.
    """
    a = y.abs().clamp(max=6.0)
    per_step = torch.where(a < 2.0, 2.0, torch.where(a < 4.0, 1.0, 0.5))
    steps = (a * per_step + (bits.float() + 0.5) * 2.0**-16).floor()
    code = steps + torch.where(a < 2.0, 0.0, torch.where(a < 4.0, 2.0, 4.0))
    code = code.nan_to_num(7.0).clamp(max=7.0).to(torch.uint8)
    return torch.where(y.isnan(), 7, code | torch.signbit(y).view(torch.uint8) << 3)
