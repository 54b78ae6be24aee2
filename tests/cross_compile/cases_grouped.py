"""Launches of the FP8, MXFP8 and grouped GEMMs."""

from case import Case

CASES: list[Case] = []
