"""Samples for test_compile.py: FP8 and MXFP8 quantizers. SAMPLES: operators with arguments; COMPILED: public functions with arguments."""

import torch

import tritonfp4
from tritonfp4.flashinfer.testing import utils

OPS = torch.ops.tritonfp4
U8, F32, BF16, F16 = torch.uint8, torch.float32, torch.bfloat16, torch.float16


def x(*shape, dtype=BF16, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def dequantize(t, dtype):
    parts = t.values, t.scales, t.global_scale, t.format.name, int(t.layout), t.row_shuffle
    return OPS.dequantize, (*parts, list(t.shape), dtype, False, "auto", t.batched)


def batched(rows, cols):
    values, scales = tritonfp4.mxfp8_quantize(x(2, rows, cols), per_batch=True)
    fmt, layout = tritonfp4.MXFP8, tritonfp4.SfLayout.layout_128x4
    return tritonfp4.BlockScaledTensor(values.view(U8), scales, torch.ones(2), fmt, layout, (2, rows, cols), 0, True)


SAMPLES = {
    "quantize_mxfp8 bf16": (OPS.quantize_mxfp8, (x(6, 96), "mxfp8", "static_6", 0, 32, False, "auto")),
    "quantize_mxfp8 fp32 aligned 8x4": (
        OPS.quantize_mxfp8, (x(2, 3, 96, dtype=F32), "mxfp8", "floor", 1, 128, False, "torch")),
    "quantize_mxfp8 fp16 e5m2 by matrix": (
        OPS.quantize_mxfp8, (x(2, 3, 96, dtype=F16), "mxfp8_e5m2", "static_6", 2, 64, True, "auto")),
    "quantize_fp8 1x128 bf16": (
        OPS.quantize_fp8, (x(6, 200), "e4m3", [1, 128], "internal", 0.0, False, 0, "auto")),
    "quantize_fp8 128x128 fp32 MN": (
        OPS.quantize_fp8, (x(200, 200, dtype=F32), "e5m2", [128, 128], "amax", 1e-4, True, 1, "auto")),
    "quantize_fp8 int8 fp16 3-D aligned": (
        OPS.quantize_fp8, (x(2, 3, 96, dtype=F16), "int8", [1, 48], "divide", 1e-4, False, 4, "torch")),
    "dequantize mxfp8": dequantize(tritonfp4.quantize(x(6, 96), "mxfp8"), F32),
    "dequantize fp8_1x128 bf16": dequantize(tritonfp4.quantize(x(2, 3, 200), "fp8_1x128"), BF16),
    "dequantize fp8_128x128_e5m2 fp16": dequantize(tritonfp4.quantize(x(200, 200), "fp8_128x128_e5m2"), F16),
    "dequantize batched mxfp8": dequantize(batched(3, 64), F32),
}  # fmt: skip


def as_bytes(results):
    """Float8 results as bytes: torch.equal takes no float8."""
    return [t.view(U8) if t.element_size() == 1 else t for t in results]


MX8, MX4 = tritonfp4.mxfp8_quantize(x(6, 96)), tritonfp4.mxfp4_quantize(x(6, 96), sfLayout=2)
COMPILED = {
    "mxfp8_quantize": (lambda a: as_bytes(tritonfp4.mxfp8_quantize(a)), (x(6, 96),)),
    "mxfp8_quantize, every option": (
        lambda a: as_bytes(tritonfp4.mxfp8_quantize(a, False, 64, None, "auto", tritonfp4.SfLayout.layout_8x4, per_batch=True)),
        (x(2, 3, 96),)),
    "mxfp8_dequantize_host": (lambda v, s: tritonfp4.mxfp8_dequantize_host(v, s), MX8),
    "mxfp4_dequantize_host": (lambda v, s: tritonfp4.mxfp4_dequantize_host(v, s), MX4),
    "mxfp4_dequantize_host, groups of 16": (
        lambda v, s: tritonfp4.mxfp4_dequantize_host(v, s.repeat_interleave(2, 1), 16), MX4),
    "per_token_cast_to_fp8": (lambda a: as_bytes(tritonfp4.per_token_cast_to_fp8(a)), (x(2, 3, 200),)),
    "per_token_cast_to_fp8, MN-major": (
        lambda a: as_bytes(tritonfp4.per_token_cast_to_fp8(a, pow2=True, mn_major=True, tma_aligned=True)), (x(6, 200),)),
    "per_block_cast_to_fp8": (lambda a: as_bytes(tritonfp4.per_block_cast_to_fp8(a)), (x(200, 200),)),
    "per_token_group_quant_8bit": (lambda a: as_bytes(tritonfp4.per_token_group_quant_8bit(a, 32)), (x(2, 3, 96),)),
    "per_token_group_quant_8bit, every option": (
        lambda a: as_bytes(
            tritonfp4.per_token_group_quant_8bit(a, 48, 1e-4, torch.int8, True, True, True, backend="cutile")),
        (x(6, 96),)),
    "per_token_cast_to_fp8, of the testing utils": (
        lambda a: as_bytes([*utils.per_token_cast_to_fp8(a), *utils.per_block_cast_to_fp8(a)]), (x(6, 256),)),
    "per_block_cast_to_fp8, quantize_fp8 of the testing utils": (
        lambda a: as_bytes(utils.quantize_fp8(a, (2, 2, 3), (1, 2, 128), "MN")), (x(2, 6, 256),)),
    "quantize to mxfp8": (lambda a: tritonfp4.quantize(a, "mxfp8").dequantize(BF16), (x(6, 96),)),
    "quantize to fp8": (lambda a: tritonfp4.quantize(a, "fp8_1x128"), (x(6, 200),)),
    "dequantize, fp8": (lambda t: tritonfp4.dequantize(t, BF16), (tritonfp4.quantize(x(200, 200), "fp8_128x128"),)),
    "dequantize, batched": (lambda t: tritonfp4.dequantize(t), (batched(3, 64),)),
}  # fmt: skip
