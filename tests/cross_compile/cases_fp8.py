"""Launches of the FP8 and MXFP8 quantizers."""

from case import Case

CASES: list[Case] = []
