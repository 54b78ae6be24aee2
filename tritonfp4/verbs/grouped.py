"""The verb grouped_matmul, and the checked call that every dialect's grouped GEMMs share."""

from __future__ import annotations

import torch

from tritonfp4 import checks
from tritonfp4.formats import FP4_FORMATS
from tritonfp4.tensor import BlockScaledTensor
from tritonfp4.verbs.matmul import OUT_DTYPES, Flat, flat_operand, kind_of, not_shuffled, same_kind
from tritonfp4.verbs.operand import BACKENDS, block_scaled

Operand = BlockScaledTensor | torch.Tensor


def call_grouped(
    a: Operand | Flat,
    b: BlockScaledTensor | Flat,
    groups: torch.Tensor | None,
    mode: str,
    out: torch.Tensor | None,
    out_dtype: torch.dtype,
    backend: str = "auto",
) -> torch.Tensor:
    """Products of checked operands, possibly flat already; written to `out` and returned if that is given.

    `mode` is "batch" (groups None, a ``[G, M, K]``), "masked" (groups: valid rows of each matrix of a), "indptr" (groups:
    first row of each group of a ``[M, K]``, and the end) or "indices" (groups: the group of each row, -1 for none).
    b is ``[G, N, K]``, batched. Rows of no group become 0. On CUDA nothing is synchronised, and offsets are clamped.
    """
    args = (*flat_operand(a), *flat_operand(b), groups, mode)
    if out is None:
        return torch.ops.tritonfp4.grouped_matmul.default(*args, out_dtype, backend)
    torch.ops.tritonfp4.grouped_matmul_out.default(*args, backend, out)
    return out


def check_groups(
    fn: str, arg: str, groups: torch.Tensor, mode: str, count: int, rows: int, debug: bool = False
) -> None:
    """Refuse group offsets, row counts or indices of the wrong dtype or shape; their values where they can be read.

    Values of CPU tensors are always checked, those of CUDA tensors only with `debug`, which synchronises.
    """
    checks.dtype(fn, arg, groups, (torch.int32,), f"{arg} must be a int32 tensor")
    want = {"indptr": count + 1, "indices": rows, "masked": count}[mode]
    if groups.ndim != 1 or groups.shape[0] != want:
        raise checks.ShapeError(f"{fn}: {arg} must have shape ({want},), got {tuple(groups.shape)}")
    if torch.compiler.is_compiling() or groups.device.type not in ("cpu", "cuda"):
        return  # what is compiled for the CPU is checked by the operator
    if groups.device.type == "cuda" and not debug:
        return
    checks.group_values(fn, arg, groups, mode, count, rows)


def grouped_matmul(
    a: Operand,
    b: BlockScaledTensor,
    m_indptr: torch.Tensor | None = None,
    *,
    m_indices: torch.Tensor | None = None,
    masked_m: torch.Tensor | None = None,
    out: torch.Tensor | None = None,
    out_dtype: torch.dtype | None = None,
    backend: str = "auto",
    debug: bool = False,
) -> torch.Tensor:
    """``a[g] @ b[g].T`` for every group g of rows of a, accumulated in fp32.

    Args:
        a: activations. With `m_indptr` or `m_indices` ``[M, K]``; else ``[G, M, K]``, `batched` if quantized. A
            `BlockScaledTensor`, or a bf16 / fp16 tensor against FP4 weights. Ragged (`m_indptr`) operands in a swizzled
            layout hold the scales of group g from row ``(m_indptr[g] + 127 * g) // 128 * 128`` of their buffer on. Rows are
            not shuffled.
        b: weights ``[G, N, K]``, `batched`, with at most one global scale for each matrix.
        m_indptr: int32 ``[G + 1]``: group g is the rows ``m_indptr[g]`` to ``m_indptr[g + 1]``; any sizes, 0 included.
        m_indices: int32 ``[M]``: the group of every row, -1 for none (FP8 operands).
        masked_m: int32 ``[G]``: how many rows of each matrix of a count.
        out: ``[M, N]`` or ``[G, M, N]`` to write to, unit last stride.
        out_dtype: bf16 (default), fp16 or fp32.
        backend: ``"auto"``, ``"triton"`` or ``"torch"`` (the reference, in fp64).
        debug: check the values of offsets on CUDA tensors too, with a synchronisation. Without it bad offsets are clamped
            to the operand: wrong rows, but no access outside of it.

    Returns:
        ``[M, N]`` or ``[G, M, N]``; rows of no group are 0.

    Raises:
        ShapeError, DTypeError, ArgumentError, DeviceError, UnsupportedError, BackendError: see `tritonfp4.checks`.
    """
    fn = "grouped_matmul"
    checks.backend(fn, backend, BACKENDS)
    given = {"m_indptr": m_indptr, "m_indices": m_indices, "masked_m": masked_m}
    named = [(name, groups) for name, groups in given.items() if groups is not None]
    if len(named) > 1:
        raise checks.ArgumentError(f"{fn}: {' and '.join(name for name, _ in named)} exclude each other")
    mode = {"m_indptr": "indptr", "m_indices": "indices", "masked_m": "masked"}[named[0][0]] if named else "batch"
    if not isinstance(b, BlockScaledTensor) or not b.batched:
        raise checks.DTypeError(f"{fn}: b must be a batched BlockScaledTensor [G, N, K], got {b!r}")
    count = b.shape[0]
    block_scaled(fn, "b", b)
    if isinstance(a, BlockScaledTensor):
        block_scaled(fn, "a", a, count if mode == "indptr" else None)
    else:
        checks.dtype(fn, "a", a, checks.PLAIN_DTYPES)
    same_kind(fn, a, b)
    not_shuffled(fn, a=a)
    if b.global_scale is not None and b.global_scale.numel() not in (1, count):
        raise checks.UnsupportedError(
            f"{fn}: b takes one global scale, or one for each of its {count} matrices, got {b.global_scale.numel()}"
        )
    if mode == "indices" and b.format.packing == 2 and kind_of(a) in ("plain", *FP4_FORMATS):
        raise checks.UnsupportedError(f"{fn}: m_indices is for FP8 operands, got {b!r}; use m_indptr")
    lead = 2 if mode in ("indptr", "indices") else 3
    if len(a.shape) != lead or (lead == 3 and a.shape[0] != count) or a.shape[-1] != b.shape[-1]:
        want = f"[M, {b.shape[-1]}]" if lead == 2 else f"[{count}, M, {b.shape[-1]}]"
        raise checks.ShapeError(f"{fn}: a must be {want} for b of shape {tuple(b.shape)}, got {tuple(a.shape)}")
    if isinstance(a, BlockScaledTensor) and a.batched != (lead == 3):
        raise checks.ShapeError(
            f"{fn}: a must {'' if lead == 3 else 'not '}be batched: the scales of [G, M, K] are those of each matrix, got {a!r}"
        )
    for name, groups in named:
        check_groups(fn, name, groups, mode, count, a.shape[-2], debug)
    values = a.values if isinstance(a, BlockScaledTensor) else a
    checks.same_device(fn, b=b.values, a=values, **dict(named))
    if out is not None:
        checks.is_tensor(fn, "out", out)
    kind = out_dtype or (out.dtype if out is not None else values.dtype if kind_of(a) == "plain" else torch.bfloat16)
    checks.out_dtype(fn, kind, OUT_DTYPES)
    if out is not None:
        grouped_output(fn, out, (*a.shape[:-1], b.shape[1]), kind, values.device)
        checks.no_gradient(fn, out, values)
    return call_grouped(a, b, named[0][1] if named else None, mode, out, kind, backend)


def grouped_output(
    fn: str, out: torch.Tensor, shape: tuple[int, ...], dtype: torch.dtype, device: torch.device
) -> None:
    """`checks.output` for each matrix of `out`, which may not overlap either."""
    checks.is_tensor(fn, "out", out)
    if tuple(out.shape) != tuple(shape):
        raise checks.ShapeError(
            f"{fn}: Output shape mismatch: got out of shape {tuple(out.shape)}, want {tuple(shape)}"
        )
    first = out if out.ndim == 2 else out[0] if out.shape[0] else out.new_empty(shape[1:])
    checks.output(fn, first, (shape[-2], shape[-1]), dtype, device)
    if out.ndim < 3 or not out.numel() or out.shape[0] == 1:
        return
    # Matrices lie one after the other, or row by row between each other.
    (count, rows, n), (matrix, row) = shape, out.stride()[:2]
    if matrix < (rows - 1) * row + n and (rows == 1 or matrix < n or row < (count - 1) * matrix + n):
        raise checks.ShapeError(f"{fn}: the matrices of out overlap: got strides {out.stride()}")
