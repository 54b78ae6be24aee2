"""Block formats: what the bytes of a block-scaled matrix mean. Data only, no code that computes."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class BlockFormat:
    """One block-scaled number format.

    A matrix in the format is cut into blocks of ``block`` (rows, columns) elements; each block shares one scale.
    ``x ~ element * scale * global_scale``, where ``global_scale`` exists only if ``two_level`` is set and is always the
    decode multiplier.

    Attributes:
        name: the name that crosses op schemas, such as ``"nvfp4"``.
        element: element encoding, ``"e2m1"`` (two in a byte, low nibble first), ``"e4m3"`` or ``"e5m2"``.
        scale: scale encoding, ``"e4m3"``, ``"e8m0"``, ``"fp32"``, or ``""`` if blocks have no scale of their own.
        block: (rows, columns) of elements that share one scale; the columns run along the last logical dimension.
        element_max: largest finite element.
        two_level: whether an fp32 scale of the whole tensor (or of each row, or of each group) exists above the block scales.
    """

    name: str
    element: str
    scale: str
    block: tuple[int, int]
    element_max: float
    two_level: bool

    @property
    def vec(self) -> int:
        """Elements along the last dimension that share one scale."""
        return self.block[1]

    @property
    def packing(self) -> int:
        """Elements in one byte."""
        return 2 if self.element == "e2m1" else 1


NVFP4 = BlockFormat("nvfp4", "e2m1", "e4m3", (1, 16), 6.0, True)
MXFP4 = BlockFormat("mxfp4", "e2m1", "e8m0", (1, 32), 6.0, False)
MXFP8 = BlockFormat("mxfp8", "e4m3", "e8m0", (1, 32), 448.0, False)
MXFP8_E5M2 = BlockFormat("mxfp8_e5m2", "e5m2", "e8m0", (1, 32), 57344.0, False)
#: FP8 with fp32 scales, which are the decode multipliers of DeepSeek's checkpoints: 1x128 for activations (or for weights
#: scaled by the row), 128x128 for weights.
FP8_1X128 = BlockFormat("fp8_1x128", "e4m3", "fp32", (1, 128), 448.0, False)
FP8_128X128 = BlockFormat("fp8_128x128", "e4m3", "fp32", (128, 128), 448.0, False)
FP8_1X128_E5M2 = BlockFormat("fp8_1x128_e5m2", "e5m2", "fp32", (1, 128), 57344.0, False)
FP8_128X128_E5M2 = BlockFormat("fp8_128x128_e5m2", "e5m2", "fp32", (128, 128), 57344.0, False)
#: FP8 with the global scale alone.
FP8 = BlockFormat("fp8", "e4m3", "", (1, 128), 448.0, True)
FP8_E5M2 = BlockFormat("fp8_e5m2", "e5m2", "", (1, 128), 57344.0, True)

FORMATS: dict[str, BlockFormat] = {
    f.name: f
    for f in (
        NVFP4, MXFP4, MXFP8, MXFP8_E5M2, FP8_1X128, FP8_128X128, FP8_1X128_E5M2, FP8_128X128_E5M2, FP8, FP8_E5M2,
    )
}  # fmt: skip

#: Formats whose elements are e2m1.
FP4_FORMATS: tuple[str, ...] = ("nvfp4", "mxfp4")
#: Formats whose elements are e4m3 or e5m2.
FP8_FORMATS: tuple[str, ...] = tuple(name for name, f in FORMATS.items() if f.element != "e2m1")

FLT_MAX = 3.4028234663852886e38

#: Columns of a tile in RMSNorm's sum of squares, whose order is part of the definition (`reference.rmsnorm_quantize`).
RMS_TILE = 4096

#: Scale rules: canonical name by every accepted name.
RULE_ALIASES: dict[str, str] = {
    "static_6": "static_6",
    "always_6": "static_6",
    "static_4": "static_4",
    "always_4": "static_4",
    "mse": "mse",
    "mae": "mae",
    "l1_norm": "mae",
    "abs_max": "abs_max",
    "rceil": "static_6",
    "ceil": "static_4",
    "floor": "floor",
    "even": "even",
    "internal": "internal",
    "amax": "amax",
}
ADAPTIVE_RULES: tuple[str, ...] = ("mse", "mae", "abs_max")

#: Canonical rules that each format can be quantized with. For MXFP4 ``static_6`` is the RCEIL rounding of the scale
#: exponent and ``static_4`` is CEIL; MXFP8 has RCEIL, too. With fp32 scales ``internal`` multiplies by ``c = largest / amax``
#: and stores ``1 / c``; ``amax`` stores ``max(amax, eps) / largest`` and multiplies by its reciprocal.
RULES: dict[str, tuple[str, ...]] = {
    "nvfp4": ("static_6", "static_4", *ADAPTIVE_RULES),
    "mxfp4": ("static_6", "static_4", "floor", "even"),
    "mxfp8": ("static_6", "floor"),
    "mxfp8_e5m2": ("static_6", "floor"),
    "fp8_1x128": ("internal", "amax"),
    "fp8_128x128": ("internal", "amax"),
    "fp8_1x128_e5m2": ("internal", "amax"),
    "fp8_128x128_e5m2": ("internal", "amax"),
}


#: How elements are rounded. The unbiased kind scales the largest element to 6 * 16 / 17: a scale that was rounded down
#: (by at most 1 / 17) then pushes none beyond 6, where saturation would bias the result.
ROUNDINGS: tuple[str, ...] = ("nearest", "stochastic", "stochastic_unbiased")


def scale_range(rule: str, e4m3_max: int, rounding: str = "nearest") -> float:
    """``D``: the largest decoded magnitude before the global scale. The global encode scale is ``D / amax``."""
    if rounding == "stochastic_unbiased":
        return 96.0 / 17.0 * e4m3_max
    return (4.0 if rule == "static_4" else 6.0) * e4m3_max


def default_e4m3_max(rule: str) -> int:
    """Range of the block scales that the rule leaves to the global scale: 256 for 4/6 rules, else 448."""
    return 256 if rule in ADAPTIVE_RULES else 448
