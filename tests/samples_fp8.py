"""Samples for test_compile.py: FP8 and MXFP8 quantizers. SAMPLES: operators with arguments; COMPILED: public functions with arguments."""

SAMPLES = {}

COMPILED = {}
