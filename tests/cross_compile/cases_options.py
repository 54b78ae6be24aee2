"""Launches of the the quantizers' options."""

from case import Case

CASES: list[Case] = []
