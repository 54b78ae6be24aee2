"""Launches of the fused, batched and grouped quantizers."""

from case import Case

CASES: list[Case] = []
