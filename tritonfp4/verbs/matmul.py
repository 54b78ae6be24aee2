"""The verb matmul, and the checked call that every dialect's GEMMs share."""

from __future__ import annotations

import torch

from tritonfp4 import checks
from tritonfp4.layouts import flat_rows
from tritonfp4.tensor import BlockScaledTensor
from tritonfp4.verbs.operand import BACKENDS, block_scaled

OUT_DTYPES = (torch.bfloat16, torch.float16, torch.float32)
Operand = BlockScaledTensor | torch.Tensor
#: The arguments that an operand is to the operators: values, scales, global scale, format, layout, row shuffle, K.
Flat = tuple[torch.Tensor, torch.Tensor | None, torch.Tensor | None, str, int, int, int]


def call_matmul(
    a: Operand | Flat, b: Operand | Flat, out: torch.Tensor | None, out_dtype: torch.dtype, backend: str = "auto"
) -> torch.Tensor:
    """``a @ b.T`` of checked 2-D operands, possibly flat already; written to `out` and returned if that is given."""
    args = (*flat_operand(a), *flat_operand(b))
    if out is None:
        return torch.ops.tritonfp4.matmul.default(*args, out_dtype, backend)
    torch.ops.tritonfp4.matmul_out.default(*args, backend, out)
    return out


def call_quantized_matmul(
    x: torch.Tensor, b: Operand | Flat, out: torch.Tensor | None, out_dtype: torch.dtype, backend: str = "auto"
) -> torch.Tensor:
    """``per_token_cast_to_fp8(x) @ b.T`` of checked 2-D operands; written to `out` and returned if that is given."""
    args = (x, *flat_operand(b))
    if out is None:
        return torch.ops.tritonfp4.quantized_matmul.default(*args, out_dtype, backend)
    torch.ops.tritonfp4.quantized_matmul_out.default(*args, backend, out)
    return out


def flat_operand(t: Operand | Flat) -> Flat:
    """The arguments that an operand is to the operators; a batched one keeps its group axis."""
    if isinstance(t, tuple):
        return t
    if isinstance(t, torch.Tensor):
        return t, None, None, "", 2, 0, t.shape[-1]
    if t.batched:
        return t.values, t.scales, t.global_scale, t.format.name, int(t.layout), t.row_shuffle, t.cols
    values, rows = t.values, t.rows
    if values.ndim != 2 or values.shape[0] != rows:
        values = t.flat_values[:rows]  # a padded buffer may hold more rows than the matrix
    return values, t.scales, t.global_scale, t.format.name, int(t.layout), t.row_shuffle, t.cols


def kind_of(t: Operand) -> str:
    """What decides with what an operand can be multiplied."""
    if isinstance(t, torch.Tensor):
        return "plain"
    return (
        t.format.name
        if t.format.element == "e2m1"
        else {"fp32": "fp8", "e8m0": "mxfp8", "": "fp8_tensor"}[t.format.scale]
    )


#: Pairs of kinds that multiply, in either order; each with itself, too.
PAIRS = ({"plain", "nvfp4"}, {"plain", "mxfp4"}, {"nvfp4", "mxfp4"}, {"mxfp8", "mxfp4"})


def same_kind(fn: str, a: Operand, b: Operand) -> None:
    """Refuse operands whose formats do not multiply."""
    kinds = {kind_of(a), kind_of(b)}
    if kinds not in PAIRS and (len(kinds) > 1 or kinds == {"plain"}):
        names = [t.format.name if isinstance(t, BlockScaledTensor) else checks.names([t.dtype]) for t in (a, b)]
        raise checks.UnsupportedError(
            f"{fn}: {names[0]} and {names[1]} do not multiply: want FP4 with FP4, bf16 or fp16; MXFP8 with MXFP8 or MXFP4; "
            "FP8 with FP8 of the same kind of scales"
        )


def not_shuffled(fn: str, **operands: Operand) -> None:
    """Refuse operands with shuffled rows, by name."""
    for name, t in operands.items():
        if isinstance(t, BlockScaledTensor) and t.row_shuffle:
            raise checks.UnsupportedError(
                f"{fn}: the rows of {name} are shuffled in blocks of {t.row_shuffle}; only products of FP4 operands or of 16-bit "
                "activations and FP4 weights, without groups, take shuffled rows"
            )


def matmul(
    a: Operand,
    b: Operand,
    *,
    out: torch.Tensor | None = None,
    out_dtype: torch.dtype | None = None,
    backend: str = "auto",
) -> torch.Tensor:
    """``a @ b.T`` with block-scaled operands, accumulated in fp32.

    Both in FP4: W4A4, on FP4 tensor cores where the GPU has them and Triton reaches them, else on 16-bit ones with the
    operands decoded exactly. One plain operand and one in FP4: W4A16. FP8 with FP8 of the same kind of scales, or MXFP8
    with MXFP4: on FP8 tensor cores, or decoded to fp16 where there are none.

    Args:
        a: ``[*lead, K]``, a `BlockScaledTensor` or a bf16 / fp16 tensor.
        b: ``[N, K]``, likewise; weights. At least one of the two is quantized. Shuffled rows only in FP4 with FP4 or 16 bits.
        out: ``[*lead, N]`` to write to, unit last stride.
        out_dtype: bf16, fp16 or fp32; by default that of `out`, of the plain operand, or bf16.
        backend: ``"auto"``, ``"triton"`` or ``"torch"`` (the reference, in fp64).

    Returns:
        ``[*lead, N]`` of `out_dtype`; `out` if that was given.

    Raises:
        ShapeError, DTypeError, DeviceError, UnsupportedError, BackendError: see `tritonfp4.checks`.
    """
    fn = "matmul"
    checks.backend(fn, backend, BACKENDS)
    plain = None
    for name, t in (("a", a), ("b", b)):
        if isinstance(t, BlockScaledTensor):
            block_scaled(fn, name, t)
        else:
            checks.dtype(fn, name, t, checks.PLAIN_DTYPES)
            plain = t
    if isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor):
        raise checks.ArgumentError(f"{fn}: neither a nor b is a BlockScaledTensor; torch.mm multiplies plain tensors")
    same_kind(fn, a, b)
    if any(isinstance(t, BlockScaledTensor) and t.format.element != "e2m1" for t in (a, b)):
        not_shuffled(fn, a=a, b=b)
    for name, t in (("a", a), ("b", b)):
        if isinstance(t, BlockScaledTensor) and t.batched:
            raise checks.ShapeError(f"{fn}: {name} is batched, got {t!r}; grouped_matmul multiplies batched tensors")
    if (
        isinstance(b, BlockScaledTensor)
        and b.format.element != "e2m1"
        and b.global_scale is not None
        and b.global_scale.numel() > 1
    ):
        raise checks.UnsupportedError(
            f"{fn}: b of {b.format.name} takes one global scale, got {b.global_scale.numel()}"
        )
    if len(a.shape) < 2:
        raise checks.ShapeError(f"{fn}: a must have at least 2 dimensions, got shape {tuple(a.shape)}")
    if len(b.shape) != 2:
        raise checks.ShapeError(f"{fn}: b must have 2 dimensions [N, K], got shape {tuple(b.shape)}")
    if a.shape[-1] != b.shape[-1]:
        raise checks.ShapeError(f"{fn}: K dimension mismatch: a has {a.shape[-1]} columns, b has {b.shape[-1]}")
    checks.same_device(
        fn, a=a.values if isinstance(a, BlockScaledTensor) else a, b=b.values if isinstance(b, BlockScaledTensor) else b
    )
    if out is not None:
        checks.is_tensor(fn, "out", out)
    kind = out_dtype
    if kind is None:
        kind = out.dtype if out is not None else plain.dtype if plain is not None else torch.bfloat16
    checks.out_dtype(fn, kind, OUT_DTYPES)
    lead, n = tuple(a.shape[:-1]), b.shape[0]
    flat = a if isinstance(a, BlockScaledTensor) else a.reshape(flat_rows(a.shape), a.shape[-1])
    rows = flat.rows if isinstance(flat, BlockScaledTensor) else flat.shape[0]
    if out is None:
        result = call_matmul(flat, b, None, kind, backend)
        return result if len(lead) == 1 else result.reshape(*lead, n)
    if tuple(out.shape) != (*lead, n):
        raise checks.ShapeError(f"{fn}: Output shape mismatch: got out of shape {tuple(out.shape)}, want {(*lead, n)}")
    checks.no_gradient(fn, out, plain)
    try:
        target = out if out.ndim == 2 else out.view(rows, n)
    except RuntimeError:
        raise checks.ShapeError(
            f"{fn}: the leading dimensions of out must flatten to rows without a copy, got strides {out.stride()}"
        ) from None
    checks.output(fn, target, (rows, n), kind, flat.device)
    call_matmul(flat, b, target, kind, backend)
    return out
