"""Checks of the batched, masked and fused quantizers that the interpreter and the GPU tests share."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from kernel_checks import same_bytes, wide

import tritonfp4  # noqa: F401  (registers the operators)
from tritonfp4.kernels.fused import _silu
from tritonfp4.layouts import LAYOUTS, SfLayout
from tritonfp4.reference.fused import silu_and_mul

OPS = torch.ops.tritonfp4
NAN = float("nan")


def batch(b: int, m: int, k: int, dtype: torch.dtype, activation: str = "", scale: float = 1.0) -> torch.Tensor:
    """[B, M, K], or [B, M, 2K] whose gates cover both ends of SiLU; every row at another magnitude."""
    if not activation:
        return (wide(b * m, k) * scale).to(dtype).view(b, m, k)
    x = wide(b * m, 2 * k, seed=2).view(b, m, 2 * k)
    x[..., :k] = x[..., :k].clamp(-150, 150)
    return (x * scale).to(dtype)


def poisoned(x: torch.Tensor, counts: torch.Tensor | None) -> torch.Tensor:
    """NaN in every row that does not count."""
    if counts is None:
        return x
    beyond = torch.arange(x.shape[1]) >= counts[:, None]
    return x.masked_fill(beyond[..., None], NAN)


def check_batched(
    device: str, x: torch.Tensor, counts: torch.Tensor | None, g: torch.Tensor, activation: str = "",
    rule: str = "static_6", e4m3_max: int = 448, layout: SfLayout = SfLayout.layout_128x4,
) -> None:  # fmt: skip
    """The kernel's bytes equal the reference's, with NaN in the rows that do not count."""
    move = [None if t is None else t.to(device) for t in (poisoned(x, counts), counts, g)]
    rest = (activation, rule, e4m3_max, int(layout))
    got = OPS.quantize_batched(*move, *rest, "triton")
    want = OPS.quantize_batched(x, counts, g, *rest, "torch")
    where = f"{tuple(x.shape)} {x.stride()} {x.dtype} counts={counts} {tuple(g.shape)} {rest}"
    assert [same_bytes(a, b) for a, b in zip(got, want, strict=True)] == [0, 0], where


def check_rmsnorm(
    device: str, x: torch.Tensor, residual: torch.Tensor | None, weight: torch.Tensor, format: str, vec: int,
    g: torch.Tensor | None = None, eps: float = 1e-6, outputs: str = "swizzled linear normed",
) -> None:  # fmt: skip
    """All outputs of the kernel, full of rubbish before, equal the reference's; also the updated residual."""
    rows, cols = x.shape
    found = []
    for where, backend in ((device, "triton"), ("cpu", "torch")):
        blank = {
            "values": torch.full((rows, cols // 2), 0xA5, dtype=torch.uint8),
            "swizzled": torch.full((LAYOUTS[0].numel(rows, cols // vec),), 0xA5, dtype=torch.uint8),
            "linear": torch.full((rows, cols // vec), 0xA5, dtype=torch.uint8),
            "normed": torch.full((rows, cols), NAN, dtype=x.dtype),
        }
        given = {name: t.to(where) for name, t in blank.items() if name in "values " + outputs}
        sums = None
        if residual is not None:  # with the strides of the residual
            sums = torch.empty_strided(residual.shape, residual.stride(), dtype=x.dtype, device=where)
            sums.copy_(residual)
        scale = None if g is None else g.to(where)
        out = [given.get(name) for name in blank]
        OPS.rmsnorm_quantize_out(x.to(where), sums, weight.to(where), scale, eps, format, vec, backend, *out)
        found.append({**given, **({} if sums is None else {"residual": sums})})
    for name in found[0]:
        got, want = found[0][name].cpu(), found[1][name]
        if got.is_floating_point():  # NaN has many encodings
            assert torch.equal(got.isnan(), want.isnan()), (name, tuple(x.shape), x.dtype, format, vec)
            got, want = got.nan_to_num(), want.nan_to_num()
        bad = same_bytes(got, want)
        assert bad == 0, f"{bad} bytes of {name} differ: {tuple(x.shape)} {x.dtype} {format} {vec} {eps}"


@triton.jit
def silu_kernel(x_ptr, out_ptr, BLOCK: tl.constexpr):
    """SiLU before anything is rounded: FP4 would hide a wrong bit."""
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.store(out_ptr + i, _silu(tl.load(x_ptr + i)))


def check_silu(device: str, gates: torch.Tensor) -> None:
    """fp32 gates, a multiple of 4096: every bit of the kernel's SiLU is the reference's; NaN has many encodings."""
    out = torch.empty_like(gates, device=device)
    silu_kernel[(gates.numel() // 4096,)](gates.to(device), out, BLOCK=4096, enable_fp_fusion=False)
    got, want = out.cpu(), silu_and_mul(torch.stack([gates, torch.ones_like(gates)], -1))[..., 0]
    assert torch.equal(got.isnan(), want.isnan())
    assert same_bytes(got.nan_to_num(), want.nan_to_num()) == 0


def gates() -> torch.Tensor:
    """2^18 fp32 numbers: dense where the exponential is neither 0 nor infinite, and every bf16 number."""
    every = (torch.arange(65536, dtype=torch.int32) << 16).view(torch.float32)
    spread = torch.randn(3 * 65536, generator=torch.Generator().manual_seed(5)) * 20
    return torch.cat([every, spread])
