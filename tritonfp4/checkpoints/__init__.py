"""Checkpoints: state-dict tensors <-> `BlockScaledTensor`. Global scales are turned around here and nowhere else."""

from tritonfp4.checkpoints.compressed_tensors import (
    from_compressed_tensors,
    quantization_config,
    to_compressed_tensors,
)

__all__ = ["from_compressed_tensors", "quantization_config", "to_compressed_tensors"]
