"""Launch parameters of a kernel, as data."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Config:
    """How one launch is cut up. Chosen by `tritonfp4.autotune.select`, consumed by a launcher.

    Attributes:
        path: which kernel; for GEMMs ``"native"`` (block-scaled tensor cores), ``"upcast"`` (operands decoded on the way
            to the tensor cores), ``"fragments"`` (FP4 weights decoded into the registers of the tensor cores), ``"dequantize"``
            (operands decoded to 16 bits in memory first), ``"fp8"`` or ``"fp8_upcast"`` (FP8 operands, as they are or
            decoded), ``"hopper"`` (FP8 operands on sm_90, warp-specialised), ``"hopper_w4"`` (FP4 weights on sm_90, likewise).
        block_m: rows of the tile of the kernel's left operand.
        block_n: rows of the tile of the kernel's right operand.
        block_k: elements along K in one step.
        num_warps: warps a program.
        num_stages: software pipelining depth.
        group_m: row tiles that are walked together for L2 reuse.
        pair: K steps that share a stage of the pipeline (``"hopper"`` alone).
        swap: whether the kernel's left operand is ``b`` (small M: weights fill the wide side of the MMA).
    """

    path: str
    block_m: int
    block_k: int
    block_n: int = 1
    num_warps: int = 4
    num_stages: int = 1
    group_m: int = 1
    swap: bool = False
    pair: int = 1
