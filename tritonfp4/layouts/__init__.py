"""Where scale bytes and weight rows lie: layout objects and row shuffles.

Every function works on CPU, CUDA, meta and fake tensors.
"""

from tritonfp4.layouts.scale_layouts import LAYOUTS, ScaleLayout, SfLayout, as_layout, ceil_div, flat_rows, round_up
from tritonfp4.layouts.shuffle import shuffle_block, shuffle_rows, shuffled_index, unshuffle_rows

__all__ = [
    "LAYOUTS",
    "ScaleLayout",
    "SfLayout",
    "as_layout",
    "ceil_div",
    "flat_rows",
    "round_up",
    "shuffle_block",
    "shuffle_rows",
    "shuffled_index",
    "unshuffle_rows",
]
