"""Room for ``flashinfer.testing.utils``; its FP8 helpers come with the FP8 functions."""

__all__: list[str] = []
