"""What a user writes without this package: a compiled dequantization to bf16, then cuBLAS; torch's grouped bf16 product."""

from __future__ import annotations

import torch
import torch._dynamo

import tritonfp4 as T

_E2M1 = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, -0.0, -0.5, -1.0, -1.5, -2.0, -3.0, -4.0, -6.0)


def _dequantize(
    values: torch.Tensor, scales: torch.Tensor, g: torch.Tensor | None, table: torch.Tensor, vec: int
) -> torch.Tensor:
    codes = torch.stack([values & 15, values >> 4], -1).flatten(-2)
    x = table[codes.int()].unflatten(-1, (-1, vec))
    scale = scales.view(torch.float8_e4m3fn).float() if vec == 16 else torch.exp2(scales.float() - 127)
    x = x * scale.unsqueeze(-1)
    if g is not None:
        x = x * g
    return x.flatten(-2).bfloat16()


torch._dynamo.config.recompile_limit = 256  # every shape and format is a graph of its own
_compiled = torch.compile(_dequantize, dynamic=False)
_tables: dict[torch.device, torch.Tensor] = {}


def dequantize(t: T.BlockScaledTensor) -> torch.Tensor:
    """bf16 [rows, K] of an operand with linear scales (the easier layout for a compiler)."""
    assert t.layout == T.SfLayout.layout_linear
    table = _tables.get(t.device)
    if table is None:
        table = _tables[t.device] = torch.tensor(_E2M1, device=t.device)
    return _compiled(t.values, t.scales.view(t.rows, t.scale_cols), t.global_scale, table, t.format.vec)


def grouped_mm(x: torch.Tensor, w: torch.Tensor, ends: torch.Tensor) -> torch.Tensor:
    """``x[g] @ w[g].T`` in bf16 for the rows ``ends[g]`` to ``ends[g + 1]`` of x ``[M, K]`` and w ``[G, N, K]``; ends: int32."""
    return torch.nn.functional.grouped_mm(x, w.transpose(1, 2), offs=ends[1:])


def dequantize_then_mm(a: T.BlockScaledTensor | torch.Tensor, b: T.BlockScaledTensor | torch.Tensor) -> torch.Tensor:
    """``a @ b.T`` in bf16."""
    left, right = (t if isinstance(t, torch.Tensor) else dequantize(t) for t in (a, b))
    return torch.mm(left, right.t())
