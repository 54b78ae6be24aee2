"""Samples for test_compile.py: the quantizers' options. SAMPLES: operators with arguments; COMPILED: public functions with arguments."""

SAMPLES = {}

COMPILED = {}
