"""flashinfer's testing helpers."""

from tritonfp4.flashinfer.testing import utils

__all__ = ["utils"]
