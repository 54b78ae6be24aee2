"""Samples for test_compile.py: fused, batched and grouped quantizers. SAMPLES: operators with arguments; COMPILED: public functions with arguments."""

import torch

import tritonfp4 as T

OPS = torch.ops.tritonfp4
U8, F32, BF16, F16 = torch.uint8, torch.float32, torch.bfloat16, torch.float16
RECIPE = T.NVFP44Over6Config(256, "MSE")


def x(*shape, dtype=BF16, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


MASK, G = torch.tensor([3, 0], dtype=torch.int32), torch.tensor([300.0])


def outputs(*lead, h=64, dtype=BF16):
    """values, swizzled scales, linear scales, normed"""
    return (
        torch.zeros(*lead, h // 2, dtype=U8), torch.zeros(512, dtype=U8), torch.zeros(*lead, h // 16, dtype=U8),
        torch.zeros(*lead, h, dtype=dtype),
    )  # fmt: skip


def _normalize(residual, *rest):
    return (x(6, 64), residual, x(64, seed=1), *rest)


SAMPLES = {
    "quantize_batched": (
        OPS.quantize_batched, (x(2, 3, 48), None, torch.ones(1, 1), "", "static_6", 448, 0, "auto")),
    "quantize_batched masked mse": (
        OPS.quantize_batched, (x(2, 3, 48), MASK, torch.ones(2, 1), "", "mse", 256, 0, "auto")),
    "quantize_batched silu by row 8x4 fp16": (
        OPS.quantize_batched,
        (x(2, 3, 96, dtype=F16), MASK, torch.ones(1, 3), "silu_and_mul", "static_6", 448, 1, "auto")),
    "quantize_batched linear strided fp32": (
        OPS.quantize_batched,
        (x(3, 2, 48, dtype=F32).transpose(0, 1), None, torch.ones(1, 1), "", "static_6", 448, 2, "torch")),
    "rmsnorm_quantize_out": (
        OPS.rmsnorm_quantize_out, (*_normalize(None, None, 1e-6, "nvfp4", 16, "auto"), *outputs(6))),
    "rmsnorm_quantize_out residual": (
        OPS.rmsnorm_quantize_out, (*_normalize(x(6, 64, seed=2), G, 1e-6, "nvfp4", 16, "auto"), *outputs(6)[:2], None, None)),
    "rmsnorm_quantize_out mxfp4 linear": (
        OPS.rmsnorm_quantize_out,
        (*_normalize(x(6, 64, seed=2), None, 0.1, "mxfp4", 32, "auto"), outputs(6)[0], None,
         torch.zeros(6, 2, dtype=U8), None)),
}  # fmt: skip


def add_in_place(a, r, w, g):
    """The residual too is a result."""
    r = r.clone()
    y_out = torch.empty_like(a)
    y, sf, plain = T.add_rmsnorm_fp4quant(a, r, w, global_scale=g, output_both_sf_layouts=True, y_out=y_out)
    return r, y.view(U8), sf.view(U8), plain.view(U8), y_out


def norm_into(a, w):
    y, sf = torch.zeros(6, 32, dtype=U8), torch.zeros(6, 4, dtype=U8)
    T.rmsnorm_fp4quant(a, w, y, sf)
    return y, sf


def as_bytes(function):
    return lambda *args: [t.view(U8) for t in function(*args)]


COMPILED = {
    "nvfp4_batched_quantize": (lambda a, g: T.nvfp4_batched_quantize(a, g), (x(2, 3, 48), G)),
    "nvfp4_batched_quantize, by row": (
        lambda a, g: T.nvfp4_batched_quantize(a, g, nvfp4_4over6=RECIPE), (x(2, 3, 48), torch.rand(3))),
    "scaled_fp4_grouped_quantize": (as_bytes(T.scaled_fp4_grouped_quantize), (x(2, 3, 48), MASK, torch.rand(2))),
    "silu_and_mul_scaled_nvfp4_experts_quantize": (
        as_bytes(T.silu_and_mul_scaled_nvfp4_experts_quantize), (x(2, 3, 96), MASK, torch.rand(2))),
    "silu_and_mul_nvfp4_quantize": (lambda a, g: T.silu_and_mul_nvfp4_quantize(a, g), (x(2, 3, 96), G)),
    "silu_and_mul_nvfp4_quantize, 8x4": (
        lambda a, g: T.silu_and_mul_nvfp4_quantize(a, g, is_sf_8x4_layout=True, nvfp4_4over6=RECIPE), (x(5, 96), G)),
    "rmsnorm_fp4quant": (as_bytes(lambda a, w: T.rmsnorm_fp4quant(a, w, block_size=32)), (x(2, 3, 64), x(64))),
    "rmsnorm_fp4quant, given outputs": (norm_into, (x(6, 64), x(64))),
    "add_rmsnorm_fp4quant": (add_in_place, (x(2, 3, 64), x(2, 3, 64, seed=1), x(64, seed=2), G)),
    "nvfp4_kv_quantize": (lambda a, g: T.nvfp4_kv_quantize(a, g), (x(6, 48), 1 / G)),
    "nvfp4_kv_dequantize": (
        lambda v, s, g: T.nvfp4_kv_dequantize(v, s, g), (*T.nvfp4_kv_quantize(x(6, 48), 1 / G), 1 / G)),
}  # fmt: skip
