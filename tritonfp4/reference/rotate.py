"""The meaning of a rotation along K."""

from __future__ import annotations

import torch


def rotate(x: torch.Tensor, had: torch.Tensor) -> torch.Tensor:
    """[M, K] -> ``x.reshape(-1, h) @ had``, in the dtype of x.

    Each product is rounded to fp32, and they are added in the order of the rows of `had`; the sum is rounded to the dtype.
    """
    h = had.shape[0]
    groups, factors = x.float().unflatten(1, (x.shape[1] // h, h)), had.float()
    out = groups[..., :1] * factors[0]
    for i in range(1, h):
        out = out + groups[..., i : i + 1] * factors[i]
    return out.flatten(1).to(x.dtype)
