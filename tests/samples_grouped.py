"""Samples for test_compile.py: FP8, MXFP8 and grouped GEMMs. SAMPLES: operators with arguments; COMPILED: public functions with arguments."""

SAMPLES = {}

COMPILED = {}
