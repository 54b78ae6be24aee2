"""The four-over-six recipe of flashinfer's quantizers."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import Any

from tritonfp4.checks import ArgumentError


class NVFP44Over6ErrMode(enum.IntEnum):
    """How four-over-six measures the error of a block."""

    MAE = 0
    MSE = 1


@dataclass(frozen=True)
class NVFP44Over6Config:
    """A four-over-six recipe.

    Attributes:
        e4m3_max: range of the block scales, 448 or 256.
        err_mode: "MAE" or "MSE".
        err_use_fast_math: accepted for flashinfer's sake; errors are always computed in fp32.
    """

    e4m3_max: int = 448
    err_mode: NVFP44Over6ErrMode | str = NVFP44Over6ErrMode.MAE
    err_use_fast_math: bool = False

    def __post_init__(self) -> None:
        if self.e4m3_max not in (256, 448):
            raise ArgumentError(f"NVFP44Over6Config: e4m3_max must be either 256 or 448, got {self.e4m3_max!r}")
        mode = self.err_mode
        try:
            mode = NVFP44Over6ErrMode[mode.upper()] if isinstance(mode, str) else NVFP44Over6ErrMode(mode)
        except (KeyError, ValueError):
            raise ArgumentError(f"NVFP44Over6Config: err_mode must be MAE or MSE, got {self.err_mode!r}") from None
        object.__setattr__(self, "err_mode", mode)

    @property
    def rule(self) -> str:
        """Name of the scale rule."""
        return "mse" if self.err_mode == NVFP44Over6ErrMode.MSE else "mae"


class Unset:
    """Type of an omitted recipe."""

    def __repr__(self) -> str:
        return "<unset>"


UNSET = Unset()


def resolve(fn: str, recipe: Any, arg: str = "nvfp4_4over6") -> NVFP44Over6Config | None:
    """The recipe that an argument means; None is off."""
    if recipe is None or isinstance(recipe, Unset):
        return None
    if isinstance(recipe, NVFP44Over6Config):
        return recipe
    raise ArgumentError(f"{fn}: {arg} must be an NVFP44Over6Config or None, got {recipe!r}")
