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
            decoded), ``"hopper"`` (FP8 operands on sm_90, warp-specialised), ``"hopper_w4"`` (FP4 weights on sm_90, likewise),
            ``"stream_w4"`` (the same for few rows).
        block_m: rows of the tile of the kernel's left operand.
        block_n: rows of the tile of the kernel's right operand.
        block_k: elements along K in one step.
        num_warps: warps a program.
        num_stages: software pipelining depth; for ``"fragments"`` the chunks of weights that a warp has on their way.
        group_m: row tiles that are walked together for L2 reuse.
        pair: K steps that share a stage of the pipeline (``"hopper"`` alone).
        swap: whether the kernel's left operand is ``b`` (small M: weights fill the wide side of the MMA).
        ordered: whether a kernel of its own first brings the activations into the order of the MMA (``"fragments"``).
        shares: whether programs take equal shares of all steps of all tiles, and a second kernel adds up the parts of tiles that
            were cut (``"hopper_w4"``, ``"stream_w4"``).
        max_registers: registers a thread at most; 0 for as many as the compiler likes.
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
    ordered: bool = False
    shares: bool = False
    max_registers: int = 0
