"""Samples for test_compile.py: fused, batched and grouped quantizers. SAMPLES: operators with arguments; COMPILED: public functions with arguments."""

SAMPLES = {}

COMPILED = {}
