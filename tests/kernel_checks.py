"""Checks that the interpreter tests and the GPU tests share: kernels against the reference, on any device."""

from __future__ import annotations

from collections.abc import Iterator

import torch

import tritonfp4 as T
from tritonfp4 import SfLayout
from tritonfp4.formats import FORMATS, RULES
from tritonfp4.layouts import LAYOUTS
from tritonfp4.reference.matmul import _exact

DTYPES = (torch.bfloat16, torch.float16, torch.float32)
ROWS = (1, 3, 17, 33, 120, 129, 1025)
FORMAT_RULES = [(name, rule) for name in ("nvfp4", "mxfp4") for rule in RULES[name]]

#: The one error metric of the GEMMs, ||out - ref|| / ||ref|| against fp64, and its threshold for each output dtype.
THRESHOLDS = {torch.bfloat16: 2.5e-3, torch.float16: 4e-4, torch.float32: 1e-5}
BF16_FEW_OUTPUTS = 3e-3  # under 1000 outputs
#: The same for FP8 operands on tensor cores, whose accumulators keep fewer bits.
FP8_THRESHOLDS = {torch.bfloat16: 2.5e-3, torch.float16: 1e-3}


def error(out: torch.Tensor, want: torch.Tensor) -> float:
    return ((out.cpu().double() - want).norm() / want.norm()).item()


def threshold(out: torch.Tensor) -> float:
    return BF16_FEW_OUTPUTS if out.dtype == torch.bfloat16 and out.numel() < 1000 else THRESHOLDS[out.dtype]


def wide(rows: int, cols: int, seed: int = 0) -> torch.Tensor:
    """fp32 [rows, cols] with every row at another magnitude, exact ties, zeros and negative zeros."""
    generator = torch.Generator().manual_seed(1000 * rows + cols + seed)
    x = torch.randn(rows, cols, generator=generator)
    x *= torch.exp2(torch.randint(-14, 12, (rows, 1), generator=generator).float())
    x[:, ::7] = (x[:, ::7] * 4).round() / 4
    x[:, 3::11] = 0.0
    x[:, 5::13] = -0.0
    return x


def special(rows: int, cols: int, vec: int) -> torch.Tensor:
    """fp32 with NaN, infinite, all-NaN, all-zero, subnormal and extreme blocks."""
    x = wide(rows, cols, seed=1)
    x[0, 1] = float("nan")
    if rows > 2:
        x[1, :vec] = float("nan")
        x[1, vec : 2 * vec] = 0.0
        x[2, 2] = float("-inf")
        x[2, vec : vec + 3] = torch.tensor([1e-40, -3e-39, 1e-45])
        x[2, vec + 3 : 2 * vec] = 0.0
    if rows > 3:
        x[3, :3] = torch.tensor([3.4e38, -1e-38, 65504.0])
    return x


def views(rows: int, cols: int, dtype: torch.dtype) -> Iterator[tuple[str, torch.Tensor]]:
    """The same shape by other strides: a transposed, an expanded, a sliced view, and a 3-D input."""
    yield "transposed", wide(cols, rows).to(dtype).t()
    yield "expanded", wide(1, cols).to(dtype).expand(rows, cols)
    yield "sliced", wide(rows, 2 * cols).to(dtype)[:, ::2]
    yield "3-D", wide(2 * rows, cols).to(dtype).view(2, rows, cols)
    yield "3-D permuted", wide(rows * 2, cols).to(dtype).view(rows, 2, cols).transpose(0, 1)


def same_bytes(got: torch.Tensor, want: torch.Tensor) -> int:
    """Number of differing bytes; -1 for different shapes."""
    if got.shape != want.shape or got.dtype != want.dtype:
        return -1
    return int((got.cpu().contiguous().view(torch.uint8) != want.cpu().contiguous().view(torch.uint8)).sum())


def check_quantize(device: str, x: torch.Tensor, format: str, rule: str, layout: SfLayout, **options: object) -> None:
    """The kernel's bytes equal the reference's: values, scales with their padding, global scale."""
    args = {"format": format, "rule": rule, "layout": layout}
    move = {k: v.to(device) if isinstance(v, torch.Tensor) else v for k, v in options.items()}
    got = T.quantize(x.to(device), **args, **move, backend="triton")
    want = T.quantize(x, **args, **options, backend="torch")
    where = f"{format} {rule} {layout.name} {x.dtype} {tuple(x.shape)} {x.stride()} {list(options)}"
    assert same_bytes(got.values, want.values) == 0, f"values differ: {where}"
    assert same_bytes(got.scales, want.scales) == 0, f"scales differ: {where}"
    if want.global_scale is not None:
        assert same_bytes(got.global_scale, want.global_scale) == 0, f"global scales differ: {where}"


def poisoned(t: T.BlockScaledTensor) -> T.BlockScaledTensor:
    """The same matrix with NaN in every padding scale."""
    rows, cols = t.rows, t.scale_cols
    kind = LAYOUTS[t.layout]
    padded = kind.storage_shape(rows, cols)
    marks = torch.full(padded, 0x7F if t.format.scale == "e4m3" else 0xFF, dtype=torch.uint8, device=t.device)
    marks[:rows, :cols] = kind.to_linear(t.scales, rows, cols)
    return T.BlockScaledTensor(
        t.values, kind.from_linear(marks), t.global_scale, t.format, t.layout, t.shape, t.row_shuffle
    )


def operand(
    rows: int, cols: int, kind: str, layout: SfLayout, seed: int, per_row: bool = False
) -> T.BlockScaledTensor | torch.Tensor:
    """A random CPU operand; `kind` is a format name, "bf16" or "fp16"."""
    x = torch.randn(rows, cols, generator=torch.Generator().manual_seed(seed))
    if kind in FORMATS:
        return poisoned(T.quantize(x, kind, layout=layout, per_row=per_row, backend="torch"))
    return x.to({"bf16": torch.bfloat16, "fp16": torch.float16}[kind])


def exact_product(a: T.BlockScaledTensor | torch.Tensor, b: T.BlockScaledTensor | torch.Tensor) -> torch.Tensor:
    """fp64 product of the dequantized operands."""
    out = _exact(a) @ _exact(b).T
    for t, shape in ((a, (-1, 1)), (b, (1, -1))):
        if isinstance(t, T.BlockScaledTensor) and t.global_scale is not None:
            out = out * t.global_scale.double().reshape(shape)
    return out


def fp32_holds(
    a: T.BlockScaledTensor | torch.Tensor, b: T.BlockScaledTensor | torch.Tensor, want: torch.Tensor
) -> torch.Tensor:
    """Where every partial sum of the product stays within fp32's normal range."""
    return (_exact(a).abs() @ _exact(b).abs().T < 3e38) & (want.abs() > 1e-36)


def check_matmul(
    device: str, a: T.BlockScaledTensor | torch.Tensor, b: T.BlockScaledTensor | torch.Tensor, **options: object
) -> None:
    """Error bound in bf16 and fp16, into an `out` full of NaN, with every padding scale NaN."""
    want = exact_product(a, b)
    for dtype in (torch.bfloat16, torch.float16):
        out = torch.full(want.shape, float("nan"), dtype=dtype, device=device)
        result = T.matmul(a.to(device), b.to(device), out=out, backend="triton", **options)
        assert result is out
        measured = error(out, want)
        assert measured <= threshold(out), f"{measured:.2e} > {threshold(out)} for {dtype} {tuple(want.shape)}"


def check_every_e4m3_scale(device: str, grouped: bool) -> None:
    """NVFP4 weights whose row r has scale code r, 0 to 126 with the subnormals, against every kind of activations, element by element."""
    generator = torch.Generator().manual_seed(11)
    values = torch.randint(0, 256, (127, 8), generator=generator).to(torch.uint8)
    linear = SfLayout.layout_linear
    b = T.BlockScaledTensor(values, torch.arange(127, dtype=torch.uint8), torch.ones(1), T.NVFP4, linear, (127, 16))
    small = T.BlockScaledTensor(values[:20], torch.arange(20, dtype=torch.uint8), None, T.NVFP4, linear, (20, 16))
    plain = torch.randn(20, 16, generator=generator)
    for a in (small, plain.bfloat16(), plain.half()):
        want = exact_product(a, b)
        if grouped:
            stacked = T.BlockScaledTensor.stack([b, b]).to(device)
            ends = torch.tensor([0, 7, 20], dtype=torch.int32, device=device)
            out = T.grouped_matmul(a.to(device), stacked, ends, out_dtype=torch.float32, backend="triton")
        else:
            out = T.matmul(a.to(device), b.to(device), out_dtype=torch.float32, backend="triton")
        bound = 1e-6 * (_exact(a).abs() @ _exact(b).abs().T)
        assert ((out.cpu().double() - want).abs() <= bound).all()
