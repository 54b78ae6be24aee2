"""Problems for flashinfer's FP8, MXFP8 and grouped GEMMs, shared by the CPU, interpreter and GPU tests.

The expected products are made here in fp64, from the bytes, by the formulas of the formats and layouts: not by the package.
Scales vary; rows of no group, and scales that belong to no element, are NaN.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from kernel_checks import BF16_FEW_OUTPUTS, FP8_THRESHOLDS

import tritonfp4 as T
from tritonfp4.flashinfer.gemm.common import as_bytes, element_format
from tritonfp4.layouts import SfLayout

E4M3, E5M2, BF16, F16 = torch.float8_e4m3fn, torch.float8_e5m2, torch.bfloat16, torch.float16
#: Sizes of ragged groups, with empty ones in the middle and at the end.
RAGGED = (3, 0, 130, 1, 65, 0)
E2M1 = torch.tensor([0, 0.5, 1, 1.5, 2, 3, 4, 6, 0, -0.5, -1, -1.5, -2, -3, -4, -6], dtype=torch.float64)


def fp8_operand(x: torch.Tensor, scales: torch.Tensor, block_rows: int) -> T.BlockScaledTensor:
    """FP8 ``[R, K]`` or ``[G, R, K]`` with fp32 scales ``[.., ceil(R / block_rows), ceil(K / 128)]`` of any strides."""
    fmt = element_format(x, "fp8_128x128" if block_rows == 128 else "fp8_1x128")
    return T.BlockScaledTensor(
        as_bytes(x), scales, None, fmt, SfLayout.layout_linear, tuple(x.shape), batched=x.ndim == 3
    )


@dataclass
class Problem:
    """A call and what it must give.

    Attributes:
        function: a public name of the package.
        args: keyword arguments, on the CPU, without `out` and the output dtype.
        want: fp64 product; 0 in rows of no group.
        dtype_arg: the name of the parameter for the output dtype.
    """

    function: str
    args: dict[str, Any]
    want: torch.Tensor
    dtype_arg: str = "out_dtype"

    def on(self, device: str) -> dict[str, Any]:
        """The arguments there, strides kept."""
        return {name: moved(value, device) for name, value in self.args.items()}

    def run(
        self, device: str = "cpu", dtype: torch.dtype = BF16, backend: str | None = None, **more: Any
    ) -> torch.Tensor:
        """The product, in a tensor of its own."""
        options = more | {self.dtype_arg: dtype} | ({} if backend is None else {"backend": backend})
        return getattr(T, self.function)(**self.on(device) | options)

    def check(self, device: str = "cpu", dtype: torch.dtype = BF16, backend: str | None = None, **more: Any) -> None:
        """The product, written to an `out` full of NaN with wider rows, meets the bound."""
        *lead, n = self.want.shape
        out = torch.full((*lead, n + 8), float("nan"), dtype=dtype, device=device)[..., :n]
        assert self.run(device, dtype, backend, out=out, **more) is out
        measured, bound = error(out, self.want), bound_of(out)
        assert measured <= bound, f"{measured:.2e} > {bound} in {self.function} {tuple(out.shape)} {dtype}"
        outside = (self.want == 0).all(-1)
        assert (out.cpu()[outside] == 0).all(), "rows of no group"


def moved(value: Any, device: str) -> Any:
    """A tensor on the device, by the same strides."""
    if not isinstance(value, torch.Tensor) or device == "cpu":
        return value
    if value.is_contiguous() or not value.numel():
        return value.to(device)
    span = 1 + sum((size - 1) * stride for size, stride in zip(value.shape, value.stride(), strict=True))
    storage = value.as_strided((span,), (1,)).to(device)
    return storage.as_strided(value.shape, value.stride())


def error(out: torch.Tensor, want: torch.Tensor) -> float:
    """||out - want|| / ||want||; NaN and infinity fail."""
    difference = (out.cpu().double() - want).norm()
    return (difference / want.norm()).item() if want.norm() > 0 else difference.item()


def bound_of(out: torch.Tensor) -> float:
    return BF16_FEW_OUTPUTS if out.dtype == BF16 and out.numel() < 1000 else FP8_THRESHOLDS[out.dtype]


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


# ---- operands --------------------------------------------------------------------------------------------------------


def fp8(*shape: int, seed: int = 0, dtype: torch.dtype = E4M3) -> torch.Tensor:
    return (torch.randn(shape, generator=generator(seed)) * 2).to(dtype)


def scales_of(*shape: int, seed: int = 0, spread: float = 3.0) -> torch.Tensor:
    """fp32, log-uniform from 2^-spread to 2^spread."""
    return torch.exp2((torch.rand(shape, generator=generator(seed)) * 2 - 1) * spread)


def ceil_div(a: int, b: int) -> int:
    return -(-a // b)


def decoded(values: torch.Tensor, scales: torch.Tensor, block_rows: int, vec: int = 128) -> torch.Tensor:
    """fp64 [.., R, K] of fp64-convertible elements and scales [.., ceil(R / block_rows), ceil(K / vec)]."""
    rows, k = values.shape[-2:]
    spread = scales.double().repeat_interleave(block_rows, -2)[..., :rows, :]
    return values.double() * spread.repeat_interleave(vec, -1)[..., :k]


def unpacked(packed: torch.Tensor) -> torch.Tensor:
    """fp64 elements of e2m1 bytes, low nibble first."""
    return E2M1[torch.stack([packed & 15, packed >> 4], -1).flatten(-2).long()]


def e8m0(codes: torch.Tensor) -> torch.Tensor:
    return torch.exp2(codes.double() - 127)


def swizzled(codes: torch.Tensor, rows: int, fill: int) -> torch.Tensor:
    """128x4 buffer of codes [R, C] with room for `rows` rows; `fill` in the padding."""
    r, c = torch.meshgrid(torch.arange(codes.shape[0]), torch.arange(codes.shape[1]), indexing="ij")
    cols = ceil_div(codes.shape[1], 4) * 4
    flat = torch.full((ceil_div(rows, 128) * 128 * cols,), fill, dtype=torch.uint8)
    at = (r // 128) * (cols // 4) * 512 + (c // 4) * 512 + (r % 32) * 16 + (r % 128) // 32 * 4 + c % 4
    flat[at] = codes
    return flat


def swizzled_8x4(codes: torch.Tensor, fill: int) -> torch.Tensor:
    r, c = torch.meshgrid(torch.arange(codes.shape[0]), torch.arange(codes.shape[1]), indexing="ij")
    cols = ceil_div(codes.shape[1], 4) * 4
    flat = torch.full((ceil_div(codes.shape[0], 8) * 8 * cols,), fill, dtype=torch.uint8)
    flat[(r // 8) * (cols // 4) * 32 + (c // 4) * 32 + (r % 8) * 4 + c % 4] = codes
    return flat


def codes(low: int, high: int, *shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randint(low, high, shape, generator=generator(seed)).to(torch.uint8)


def nan_rows(x: torch.Tensor, inside: torch.Tensor) -> torch.Tensor:
    """Every byte of the rows that are not inside is 0x7F, an FP8 NaN in either type."""
    raw = x.view(torch.uint8).clone()
    raw[~inside] = 0x7F
    return raw.view(x.dtype)


def internally_quantized(x: torch.Tensor, block_rows: int) -> torch.Tensor:
    """fp64 of what fp8_blockscale_gemm_sm90 makes of bf16 [R, K]: c = 448 / amax, e4m3(x * c) * (1 / c)."""
    rows, k = x.shape
    nb, kb = ceil_div(rows, block_rows), k // 128
    padded = torch.zeros(nb * block_rows, k)
    padded[:rows] = x.float()
    tiles = padded.view(nb, block_rows, kb, 128)
    amax = tiles.abs().amax((1, 3))
    c = torch.where(amax > 0, torch.tensor(448.0) / amax, torch.tensor(1.0))
    q = (tiles * c[:, None, :, None]).to(E4M3).view(nb * block_rows, k)[:rows]
    return decoded(q, torch.tensor(1.0) / c, block_rows)


# ---- dense -----------------------------------------------------------------------------------------------------------


def sm90(
    m: int,
    n: int,
    k: int,
    kind: str = "fp8",
    tile: int = 128,
    form: str = "documented",
    seed: int = 0,
    spread: float = 3.0,
) -> Problem:
    """kind: "bf16" (both), "mixed" (bf16 by FP8), "fp8" (both). tile: rows of a weight scale. form of input_scale:
    "documented" [M, kb], "strided" (the same, column-major), "MN" [kb, M], "padded" [kb, round_up(M, 4)][:, :M]."""
    kb, nb, args = k // 128, ceil_div(n, tile), {}
    if kind == "fp8":
        scale = scales_of(m, kb, seed=seed + 1, spread=spread)
        args |= {"input": fp8(m, k, seed=seed), "input_scale": scale}
        left = decoded(args["input"], scale, 1)
        if form == "strided":
            args["input_scale"] = scale.t().contiguous().t()
        elif form == "MN":
            args["input_scale"] = scale.t().contiguous()
        elif form == "padded":
            args["input_scale"] = torch.nn.functional.pad(scale.t().contiguous(), (0, -m % 4), value=float("nan"))[
                :, :m
            ]
    else:
        args["input"] = torch.randn(m, k, generator=generator(seed)).to(BF16)
        args["input"] *= torch.exp2(torch.arange(m).remainder(7).sub(3).float())[:, None].to(BF16)
        left = internally_quantized(args["input"], 1)
    if kind == "bf16":
        args["weight"] = (torch.randn(n, k, generator=generator(seed + 2)) * 0.02).to(BF16)
        right = internally_quantized(args["weight"], 128)
    else:
        args |= {"weight": fp8(n, k, seed=seed + 2), "weight_scale": scales_of(nb, kb, seed=seed + 3)}
        right = decoded(args["weight"], args["weight_scale"], tile)
    return Problem("fp8_blockscale_gemm_sm90", args, left @ right.T)


def groupwise(
    m: int, n: int, k: int, major: str = "K", block_rows: int = 1, types: tuple[torch.dtype, torch.dtype] = (E4M3, E4M3),
    seed: int = 0, spread: float = 3.0,
) -> Problem:  # fmt: skip
    a, b = fp8(m, k, seed=seed, dtype=types[0]), fp8(n, k, seed=seed + 1, dtype=types[1])
    kb = ceil_div(k, 128)
    sa = scales_of(ceil_div(m, block_rows), kb, seed=seed + 2, spread=spread)
    sb = scales_of(ceil_div(n, 128), kb, seed=seed + 3)
    want = decoded(a, sa, block_rows) @ decoded(b, sb, 128).T
    if major == "MN":
        sa, sb = sa.t().contiguous(), sb.t().contiguous()
    args = {"a": a, "b": b, "a_scale": sa, "b_scale": sb, "scale_major_mode": major}
    if block_rows == 128:
        return Problem("gemm_fp8_nt_blockscaled", args, want)
    return Problem("gemm_fp8_nt_groupwise", args, want)


def bmm_fp8(batch: int, m: int, n: int, k: int, types: tuple[torch.dtype, torch.dtype] = (E4M3, E4M3)) -> Problem:
    a, b = fp8(batch, m, k, seed=1, dtype=types[0]), fp8(batch, n, k, seed=2, dtype=types[1])
    sa, sb = torch.tensor(0.37), torch.tensor([1.7e-3])
    want = (a.double() @ b.double().transpose(1, 2)) * sa.double() * sb.double()
    args = {"A": a, "B": b.transpose(1, 2), "A_scale": sa, "B_scale": sb}
    return Problem("bmm_fp8", args, want, "dtype")


def mxfp8(rows: int, k: int, seed: int, dtype: torch.dtype = E4M3, lead: tuple[int, ...] = ()) -> tuple[Any, Any, Any]:
    """Values, codes [.., rows, k / 32], and the fp64 matrix."""
    values, c = fp8(*lead, rows, k, seed=seed, dtype=dtype), codes(117, 128, *lead, rows, k // 32, seed=seed + 1)
    return values, c, values.double() * e8m0(c).repeat_interleave(32, -1)


def mm_mxfp8(m: int, n: int, k: int, eight: bool = False) -> Problem:
    (a, ca, left), (b, cb, right) = mxfp8(m, k, 1), mxfp8(n, k, 3)
    args = {"a": a, "b": b.t(), "a_descale": swizzled_8x4(ca, 255) if eight else swizzled(ca, m, 255),
            "b_descale": swizzled(cb, n, 255), "use_8x4_sf_layout": eight}  # fmt: skip
    return Problem("mm_mxfp8", args, left @ right.T)


def bmm_mxfp8(batch: int, m: int, n: int, k: int, types: tuple[torch.dtype, torch.dtype] = (E4M3, E4M3)) -> Problem:
    (a, ca, left), (b, cb, right) = mxfp8(m, k, 1, types[0], (batch,)), mxfp8(n, k, 3, types[1], (batch,))
    sa, sb = (torch.cat([swizzled(one, one.shape[0], 255) for one in c]) for c in (ca, cb))
    args = {"A": a, "B": b.transpose(1, 2), "A_scale": sa, "B_scale": sb}
    return Problem("bmm_mxfp8", args, left @ right.transpose(1, 2), "dtype")


def fp4(rows: int, k: int, seed: int, scale: str, lead: tuple[int, ...] = ()) -> tuple[Any, Any, Any]:
    """Packed bytes, scale codes and the fp64 matrix; `scale`: "e4m3" (blocks of 16), "e8m0" (of 32)."""
    packed = codes(0, 256, *lead, rows, k // 2, seed=seed)
    vec = 16 if scale == "e4m3" else 32
    c = (
        codes(0x18, 0x40, *lead, rows, k // vec, seed=seed + 1)
        if scale == "e4m3"
        else codes(117, 128, *lead, rows, k // vec, seed=seed + 1)
    )
    decoded_scale = c.view(E4M3).double() if scale == "e4m3" else e8m0(c)
    return packed, c, unpacked(packed) * decoded_scale.repeat_interleave(vec, -1)


def mm_bf16_fp4(m: int, n: int, k: int, dtype: torch.dtype = BF16) -> Problem:
    a = torch.randn(m, k, generator=generator(1)).to(dtype)
    b, c, right = fp4(n, k, 2, "e4m3")
    alpha = torch.tensor([1.3e-2])
    args = {"a": a, "b": b, "b_descale": swizzled(c, n, 0x7F), "alpha": alpha}
    return Problem("mm_bf16_fp4", args, a.double() @ right.T * alpha.double())


# ---- groups ----------------------------------------------------------------------------------------------------------


def offsets(sizes: tuple[int, ...], before: int = 0) -> torch.Tensor:
    return torch.tensor([before, *sizes]).cumsum(0).to(torch.int32)


def ragged(sizes: tuple[int, ...], before: int, after: int) -> tuple[torch.Tensor, torch.Tensor, int]:
    """m_indptr, the group of every row (-1: none), and the number of rows."""
    group = [-1] * before + [g for g, size in enumerate(sizes) for _ in range(size)] + [-1] * after
    return offsets(sizes, before), torch.tensor(group, dtype=torch.int32), len(group)


def product_of_groups(left: torch.Tensor, right: torch.Tensor, group: torch.Tensor) -> torch.Tensor:
    """fp64 [M, N]: row m of left by right[group[m]], 0 for group -1."""
    want = torch.zeros(left.shape[0], right.shape[1], dtype=torch.float64)
    for g in range(right.shape[0]):
        want[group == g] = left[group == g] @ right[g].T
    return want


def group_fp8(
    sizes: tuple[int, ...] = RAGGED, n: int = 72, k: int = 272, major: str = "MN", block_rows: int = 1,
    types: tuple[torch.dtype, torch.dtype] = (E4M3, E4M3), before: int = 2, after: int = 3, spread: float = 3.0, seed: int = 0,
) -> Problem:  # fmt: skip
    """group_gemm_fp8_nt_groupwise, NaN in the rows (and, one a row, scales) of no group."""
    indptr, group, m = ragged(sizes, before, after)
    count, kb = len(sizes), ceil_div(k, 128)
    a, b = fp8(m, k, seed=seed, dtype=types[0]), fp8(count, n, k, seed=seed + 1, dtype=types[1])
    sa = scales_of(ceil_div(m, block_rows), kb, seed=seed + 2, spread=spread)
    sb = scales_of(count, ceil_div(n, 128), kb, seed=seed + 3)
    want = product_of_groups(decoded(a, sa, block_rows), decoded(b, sb, 128), group)
    if block_rows == 1:
        sa[group < 0] = float("nan")
    if major == "MN":
        sa, sb = sa.t().contiguous(), sb.transpose(1, 2).contiguous()
    args = {"a": nan_rows(a, group >= 0), "b": b, "a_scale": sa, "b_scale": sb, "m_indptr": indptr,
            "scale_granularity_mnk": (block_rows, 128, 128), "scale_major_mode": major}  # fmt: skip
    return Problem("group_gemm_fp8_nt_groupwise", args, want)


def group_indices(
    sizes: tuple[int, ...] = RAGGED, n: int = 72, k: int = 272, mixed: bool = False, block_rows: int = 1
) -> Problem:
    """group_deepgemm_fp8_nt_groupwise; `mixed`: the rows of all groups in disorder."""
    _, group, m = ragged(sizes, 2, 3)
    if mixed:
        group = group[torch.randperm(m, generator=generator(7))]
    count, kb = len(sizes), ceil_div(k, 128)
    a, b = fp8(m, k, seed=1), fp8(count, n, k, seed=2)
    sa, sb = scales_of(ceil_div(m, block_rows), kb, seed=3), scales_of(count, ceil_div(n, 128), kb, seed=4)
    want = product_of_groups(decoded(a, sa, block_rows), decoded(b, sb, 128), group)
    if block_rows == 1:
        sa[group < 0] = float("nan")
    args = {"a": nan_rows(a, group >= 0), "b": b, "a_scale": sa, "b_scale": sb, "m_indices": group,
            "scale_granularity_mnk": (block_rows, 128, 128)}  # fmt: skip
    return Problem("group_deepgemm_fp8_nt_groupwise", args, want)


def masked(
    counts: tuple[int, ...] = (3, 0, 40, 1, 17), m: int = 40, n: int = 72, k: int = 272, block_rows: int = 1
) -> Problem:
    """batch_deepgemm_fp8_nt_groupwise; NaN in the rows that do not count."""
    count, kb = len(counts), ceil_div(k, 128)
    a, b = fp8(count, m, k, seed=1), fp8(count, n, k, seed=2)
    sa, sb = scales_of(count, ceil_div(m, block_rows), kb, seed=3), scales_of(count, ceil_div(n, 128), kb, seed=4)
    inside = torch.arange(m)[None, :] < torch.tensor(counts)[:, None]
    want = decoded(a, sa, block_rows) @ decoded(b, sb, 128).transpose(1, 2)
    want[~inside] = 0
    if block_rows == 1:
        sa[~inside] = float("nan")
    args = {"a": nan_rows(a, inside), "b": b, "a_scale": sa, "b_scale": sb, "expected_m": 12,
            "masked_m": torch.tensor(counts, dtype=torch.int32), "scale_granularity_mnk": (block_rows, 128, 128)}  # fmt: skip
    return Problem("batch_deepgemm_fp8_nt_groupwise", args, want)


def ragged_scales(c: torch.Tensor, indptr: torch.Tensor, fill: int) -> torch.Tensor:
    """128x4 scales of groups, group g from row (indptr[g] + 127 * g) // 128 * 128 on; `fill` in every other place."""
    ends, cols = indptr.tolist(), ceil_div(c.shape[1], 4) * 4
    count = len(ends) - 1
    flat = torch.full(((c.shape[0] + 127 * count) // 128 * 128 * cols,), fill, dtype=torch.uint8)
    for g in range(count):
        start = (ends[g] + 127 * g) // 128 * 128 * cols
        mine = swizzled(c[ends[g] : ends[g + 1]], ends[g + 1] - ends[g], fill)
        flat[start : start + mine.numel()] = mine
    return flat


def group_mxfp4(
    sizes: tuple[int, ...] = RAGGED,
    n: int = 72,
    k: int = 256,
    dtype: torch.dtype = E4M3,
    before: int = 2,
    after: int = 3,
) -> Problem:
    """group_gemm_mxfp8_mxfp4_nt_groupwise, NaN in the rows of no group and in all scales that belong to no element."""
    indptr, group, m = ragged(sizes, before, after)
    (a, ca, left), (b, cb, right) = mxfp8(m, k, 1, dtype), fp4(n, k, 3, "e8m0", (len(sizes),))
    args = {"a": nan_rows(a, group >= 0), "b": b, "a_scale": ragged_scales(ca, indptr, 255),
            "b_scale": torch.stack([swizzled(one, n, 255) for one in cb]), "m_indptr": indptr}  # fmt: skip
    return Problem("group_gemm_mxfp8_mxfp4_nt_groupwise", args, product_of_groups(left, right, group))


def group_nvfp4(
    sizes: tuple[int, ...] = RAGGED, n: int = 72, k: int = 256, alpha: bool = True, before: int = 2, after: int = 3
) -> Problem:
    """group_gemm_nvfp4_nt_groupwise, NaN in all scales that belong to no element of a group."""
    indptr, group, m = ragged(sizes, before, after)
    (a, ca, left), (b, cb, right) = fp4(m, k, 1, "e4m3"), fp4(n, k, 3, "e4m3", (len(sizes),))
    factor = scales_of(len(sizes), seed=5) * 1e-3
    args = {"a": a, "b": b, "a_scale": ragged_scales(ca, indptr, 0x7F), "m_indptr": indptr,
            "b_scale": torch.stack([swizzled(one, n, 0x7F) for one in cb]), "alpha": factor if alpha else None}  # fmt: skip
    if alpha:
        right = right * factor.double()[:, None, None]
    return Problem("group_gemm_nvfp4_nt_groupwise", args, product_of_groups(left, right, group))


#: One of each function, small: for what has nothing to do with sizes.
EACH = {
    "fp8_blockscale_gemm_sm90, bf16": lambda: sm90(17, 72, 256, "bf16"),
    "fp8_blockscale_gemm_sm90, mixed": lambda: sm90(17, 72, 256, "mixed", 1),
    "fp8_blockscale_gemm_sm90, fp8": lambda: sm90(17, 72, 256, "fp8", 128, "padded"),
    "gemm_fp8_nt_groupwise": lambda: groupwise(17, 72, 256),
    "gemm_fp8_nt_blockscaled": lambda: groupwise(17, 72, 256, "MN", 128),
    "bmm_fp8": lambda: bmm_fp8(2, 17, 72, 96, (E4M3, E5M2)),
    "mm_mxfp8": lambda: mm_mxfp8(17, 136, 160),
    "bmm_mxfp8": lambda: bmm_mxfp8(2, 17, 72, 96),
    "mm_bf16_fp4": lambda: mm_bf16_fp4(17, 72, 96),
    "group_gemm_fp8_nt_groupwise": lambda: group_fp8((3, 0, 20), 24, 144),
    "group_deepgemm_fp8_nt_groupwise": lambda: group_indices((3, 0, 20), 24, 144),
    "batch_deepgemm_fp8_nt_groupwise": lambda: masked((3, 0, 9), 9, 24, 144),
    "group_gemm_mxfp8_mxfp4_nt_groupwise": lambda: group_mxfp4((3, 0, 20), 24, 128),
    "group_gemm_nvfp4_nt_groupwise": lambda: group_nvfp4((3, 0, 20), 24, 128),
}


def check_rows(problem: Problem, device: str = "cpu", backend: str | None = None) -> None:
    """Every row on its own, for scales of a wide range: bf16's rounding, but no row lost to a larger one."""
    out = problem.run(device, BF16, backend).cpu().double()
    size = problem.want.norm(dim=-1)
    worst = ((out - problem.want).norm(dim=-1) / size)[size > 0].max().item()
    assert worst <= 2 * FP8_THRESHOLDS[BF16], worst


def check_every_e8m0_code(
    device: str = "cpu", backend: str | None = None, of_a: tuple[int, ...] = (0, 1, 64, 127, 190, 253, 254)
) -> None:
    """mm_mxfp8: each code of b meets few of a; right wherever fp32 and bf16 hold the product."""
    n = 255
    b = fp8(n, 128, seed=1)
    cb = torch.arange(n, dtype=torch.uint8)[:, None].expand(n, 4)
    a = fp8(len(of_a), 128, seed=2)
    ca = torch.tensor(of_a, dtype=torch.uint8)[:, None].expand(len(of_a), 4)
    left, right = (x.double() * e8m0(c).repeat_interleave(32, -1) for x, c in ((a, ca), (b, cb)))
    want, size = left @ right.T, left.abs() @ right.abs().T
    args = {"a": a, "b": b.t(), "a_descale": swizzled(ca, len(of_a), 255), "b_descale": swizzled(cb, n, 255)}
    out = Problem("mm_mxfp8", args, want).run(device, BF16, backend).cpu().double()
    fits = (size < 3e38) & (want.abs() > 1e-36)
    assert fits.sum() > 100 * len(of_a) / 2
    wrong = fits & ~((out - want).abs() <= 2**-8 * want.abs() + 1e-3 * size)
    assert not wrong.any(), wrong.nonzero().tolist()[:8]
