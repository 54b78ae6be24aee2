"""The three examples in the documentation of flashinfer's fp8_blockscale_gemm_sm90, run with tritonfp4.flashinfer."""

import pytest
import torch

from tritonfp4.flashinfer.gemm import fp8_blockscale_gemm_sm90
from tritonfp4.flashinfer.testing.utils import per_block_cast_to_fp8, per_token_cast_to_fp8

CUDA = pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA GPU"))
M = 16


@pytest.fixture(params=["cpu", CUDA])
def device(request):
    return request.param


@pytest.fixture
def size(device):
    """N = K: 4096 as documented, less on the CPU."""
    return 4096 if device == "cuda" else 1024


def check(output, input_bf16, weight_bf16):
    """Shape, dtype, and the product of the bf16 operands up to the rounding of both to FP8."""
    assert output.shape == (M, weight_bf16.shape[0]) and output.dtype == torch.bfloat16
    want = input_bf16.double() @ weight_bf16.double().T
    assert (output.double() - want).norm() / want.norm() < 0.05
    assert torch.nn.functional.cosine_similarity(output.double().flatten(), want.flatten(), dim=0) > 0.99


def inputs(size, device):
    torch.manual_seed(0)
    input_bf16 = torch.randn(M, size, device=device, dtype=torch.bfloat16)
    return input_bf16, torch.randn(size, size, device=device, dtype=torch.bfloat16)


def test_bf16_inputs(size, device):
    input_bf16, weight_bf16 = inputs(size, device)
    output = fp8_blockscale_gemm_sm90(input_bf16, weight_bf16)
    check(output, input_bf16, weight_bf16)


def test_mixed_bf16_input_and_fp8_weight(size, device):
    input_bf16, weight_bf16 = inputs(size, device)
    weight_fp8, weight_scale = per_token_cast_to_fp8(weight_bf16)
    assert weight_scale.shape == (size, size // 128)
    output = fp8_blockscale_gemm_sm90(input_bf16, weight_fp8, None, weight_scale)
    check(output, input_bf16, weight_bf16)


def test_fp8_weight_with_128x128_block_scales(size, device):
    input_bf16, weight_bf16 = inputs(size, device)
    weight_fp8, weight_scale = per_block_cast_to_fp8(weight_bf16)
    assert weight_scale.shape == (size // 128, size // 128)
    output = fp8_blockscale_gemm_sm90(input_bf16, weight_fp8, None, weight_scale)
    check(output, input_bf16, weight_bf16)
