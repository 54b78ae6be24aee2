"""Hadamard matrices for the `had` of `quantize_to_fp4`."""

from __future__ import annotations

import torch

from tritonfp4 import checks

#: TransformerEngine's signs for 16 rows: bit i is set where sign i is negative.
_TE_NEGATIVE = 0b1101_0111_1110_1000


def hadamard_matrix(
    h: int = 16,
    signs: torch.Tensor | str | None = None,
    dtype: torch.dtype = torch.bfloat16,
    device: torch.device | str | None = None,
) -> torch.Tensor:
    """``diag(signs) @ H / sqrt(h)`` with Sylvester's ``H[i, j] = (-1) ** popcount(i & j)``: orthogonal up to rounding.

    Args:
        h: 1, 2, 4, ... 128.
        signs: ``"te"`` for TransformerEngine's fixed ones (h = 16), a tensor of h numbers (by their sign bits), or None
            for none. Signs spread what all elements have in common.
        dtype: bf16, fp16 or fp32.
        device: where the matrix lies; by default where the signs lie, else on the CPU.

    Returns:
        ``[h, h]`` of `dtype`. Both operands of a product must be rotated by the same matrix.

    Raises:
        ArgumentError, ShapeError, DTypeError, UnsupportedError. Source: TransformerEngine's random Hadamard transform.
    """
    fn = "hadamard_matrix"
    checks.choice(fn, "h", h, [2**i for i in range(checks.MAX_ROTATION.bit_length())])
    checks.out_dtype(fn, dtype, checks.INPUT_DTYPES, "dtype")
    if isinstance(signs, torch.Tensor):
        if signs.ndim != 1 or signs.shape[0] != h:
            raise checks.ShapeError(f"{fn}: signs must have {h} elements, got shape {tuple(signs.shape)}")
        device = signs.device if device is None else device
    elif signs is not None and (signs != "te" or h != 16):
        raise checks.ArgumentError(f"{fn}: signs must be None, a tensor, or 'te' with h=16, got {signs!r} with h={h!r}")
    h = int(h)
    i = torch.arange(h, device=device)
    both = i[:, None] & i
    negative = torch.zeros_like(both)
    for bit in range(7):
        negative = negative ^ (both >> bit & 1)
    if isinstance(signs, torch.Tensor):
        negative = negative ^ torch.signbit(signs.to(i.device)).long()[:, None]
    elif signs is not None:
        negative = negative ^ (_TE_NEGATIVE >> i & 1)[:, None]
    return ((1.0 - 2.0 * negative.float()) * h**-0.5).to(dtype)
