"""torch.compile(fullgraph=True) and opcheck on the GPU."""

import pytest
import torch

import tritonfp4 as T
from tritonfp4 import SfLayout

OPS = torch.ops.tritonfp4
CASES = {
    "quantize to NVFP4": lambda x, w: T.quantize(x).values,
    "quantize by 4/6, per row": lambda x, w: T.quantize(x, rule="mse", per_row=True, layout=SfLayout.layout_8x4).scales,
    "quantize to MXFP4": lambda x, w: T.mxfp4_quantize(x)[1],
    "fp4_quantize": lambda x, w: T.fp4_quantize(x, T.make_nvfp4_global_scale(x, False))[0],
    "nvfp4_quantize, shuffled": lambda x, w: T.nvfp4_quantize(w, T.make_nvfp4_global_scale(w, False), do_shuffle=True)[
        1
    ],
    "round trip": lambda x, w: T.quantize(x, "mxfp4").to_layout(2).dequantize(torch.bfloat16),
    "quantize_to_fp4": lambda x, w: T.quantize_to_fp4(x)[0],
    "fp4_matmul": lambda x, w: T.fp4_matmul(x, w),
    "matmul W4A4": lambda x, w: T.matmul(T.quantize(x), T.quantize(w)),
    "matmul W4A16": lambda x, w: T.matmul(x, T.quantize(w, "mxfp4")),
    "mm_fp4": lambda x, w: T.mm_fp4(*_mm_args(x, w)),
    "shuffles": lambda x, w: T.shuffle_matrix_a(w, 128),
    "interleave": lambda x, w: T.block_scale_interleave(x.view(torch.uint8)),
}


def _mm_args(x, w):
    g, h = T.make_nvfp4_global_scale(x, False), T.make_nvfp4_global_scale(w, False)
    (a, sa), (b, sb) = T.nvfp4_quantize(x, g), T.nvfp4_quantize(w, h)
    return a, b.T, sa, sb.T


@pytest.mark.parametrize("name", CASES)
def test_fullgraph_equals_eager(name):
    x = torch.randn(17, 256, dtype=torch.bfloat16, device="cuda")
    w = torch.randn(96, 256, dtype=torch.bfloat16, device="cuda")
    torch._dynamo.reset()
    compiled = torch.compile(CASES[name], fullgraph=True)
    assert torch.equal(compiled(x, w), CASES[name](x, w))


def test_cudagraph_mode():
    w = T.quantize(torch.randn(96, 256, device="cuda"))
    step = torch.compile(lambda x: T.matmul(T.quantize(x), w), fullgraph=True, mode="reduce-overhead")
    for _ in range(4):
        x = torch.randn(17, 256, dtype=torch.bfloat16, device="cuda")
        assert torch.equal(step(x).clone(), T.matmul(T.quantize(x), w))


@pytest.mark.parametrize("format", ["nvfp4", "mxfp4"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32], ids=str)
def test_opcheck(format, dtype):
    x = torch.randn(17, 96, dtype=dtype, device="cuda")
    rule = "mse" if format == "nvfp4" else "static_6"
    source = "tensor" if format == "nvfp4" else "none"
    for layout in SfLayout:
        args = (x, None, None, format, rule, 256, source, int(layout), False, "auto")
        torch.library.opcheck(OPS.quantize.default, args)
        values, scales, g = OPS.quantize(*args)
        context = (format, int(layout), 0)
        torch.library.opcheck(OPS.dequantize.default, (values, scales, g, *context, [17, 96], dtype, False, "auto"))
        cols = 96 // (16 if format == "nvfp4" else 32)
        torch.library.opcheck(OPS.relayout.default, (scales, [1, 17, cols], int(layout), 0, 0, "auto"))
        operand = (values, scales, g, *context, 96)
        torch.library.opcheck(OPS.matmul.default, (*operand, *operand, torch.bfloat16, "auto"))
        out = torch.empty(17, 17, dtype=torch.float16, device="cuda")
        torch.library.opcheck(OPS.matmul_out.default, (*operand, *operand, "auto", out))
    torch.library.opcheck(OPS.nvfp4_global_scale.default, (x, "static_6", 448, "auto"))
    torch.library.opcheck(OPS.shuffle_rows.default, (torch.randn(64, 5, device="cuda"), 32, "auto"))
    flat = torch.zeros(128 * 8, dtype=torch.uint8, device="cuda")
    torch.library.opcheck(OPS.relayout_out.default, (flat[: 17 * 6], [1, 17, 6], 2, 0, 0, "auto", flat))
