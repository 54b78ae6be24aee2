"""The examples of the mirrored libraries' documentation, with the import changed, on the CPU."""

import pytest
import torch
from kernel_checks import error

import tritonfp4.flashinfer as flashinfer
from tritonfp4 import fp4_matmul, quantize_to_fp4


def test_mm_fp4_with_shuffled_weights():
    """The example in mm_fp4's docstring; the plain layout gives the same bits."""
    from tritonfp4.flashinfer import SfLayout, mm_fp4, nvfp4_quantize

    a = torch.randn([48, 128], dtype=torch.bfloat16)
    b = torch.randn([256, 128], dtype=torch.bfloat16)
    a_global_sf = (448 * 6) / a.float().abs().nan_to_num().max()
    b_global_sf = (448 * 6) / b.float().abs().nan_to_num().max()
    a_fp4, a_sf = nvfp4_quantize(a, a_global_sf, sfLayout=SfLayout.layout_128x4, do_shuffle=False)
    b_fp4, b_sf = nvfp4_quantize(b, b_global_sf, sfLayout=SfLayout.layout_128x4, do_shuffle=True)
    alpha = 1.0 / (a_global_sf * b_global_sf)
    out = mm_fp4(a_fp4, b_fp4.T, a_sf, b_sf.T, alpha, torch.bfloat16, None, backend="trtllm")
    assert out.shape == torch.Size([48, 256])
    plain, plain_sf = nvfp4_quantize(b, b_global_sf)
    assert torch.equal(out, mm_fp4(a_fp4, plain.T, a_sf, plain_sf.T, alpha))
    assert error(out, a.double() @ b.double().T) < 0.2  # what 4 bits keep of N(0, 1): 2 x 20.4 dB


def test_mm_fp4_with_8x4_scales():
    a, b = torch.randn(5, 128), torch.randn(64, 128)
    g, h = (flashinfer.make_nvfp4_global_scale(t, False) for t in (a, b))
    b_fp4, b_sf = flashinfer.nvfp4_quantize(b, h)
    outs = []
    for is_8x4 in (False, True):
        layout = flashinfer.SfLayout.layout_8x4 if is_8x4 else flashinfer.SfLayout.layout_128x4
        a_fp4, a_sf = flashinfer.nvfp4_quantize(a, g, sfLayout=layout)
        outs.append(flashinfer.mm_fp4(a_fp4, b_fp4.T, a_sf, b_sf.T, 1 / (g * h), use_8x4_sf_layout=is_8x4))
    assert torch.equal(*outs)


@pytest.mark.parametrize("format", ["nvfp4", "mxfp4"])
@pytest.mark.parametrize("shape", [(1024, 1024, 1024), (17, 100, 200)])
def test_fp4_matmul_from_high_precision_and_from_packed_operands(format, shape):
    m, n, k = shape
    a, b = torch.randn(m, k, dtype=torch.bfloat16), torch.randn(n, k, dtype=torch.bfloat16)
    direct = fp4_matmul(a, b, fp4_format=format)
    a_e2m1, a_sf, a_normconst = quantize_to_fp4(a, fp4_format=format)
    b_e2m1, b_sf, b_normconst = quantize_to_fp4(b, fp4_format=format)
    packed = fp4_matmul(
        a_e2m1=a_e2m1, a_sf=a_sf, a_normconst=a_normconst, b_e2m1=b_e2m1, b_sf=b_sf, b_normconst=b_normconst,
        fp4_format=format, out_shape=(m, n),
    )  # fmt: skip
    assert direct.shape == (m, n) and torch.equal(direct, packed)
    mixed = fp4_matmul(a, b_e2m1=b_e2m1, b_sf=b_sf, b_normconst=b_normconst, fp4_format=format)
    assert mixed.shape == (m, b_e2m1.shape[0]) and torch.equal(mixed[:, :n], direct)


def test_both_spellings_of_the_quantize_keywords():
    a, b = torch.randn(32, 64), torch.randn(48, 64)
    rule = {"scale_rule": "always_4"}
    first = fp4_matmul(a, b, a_quantize_kwargs=rule, b_quantization_kwargs=rule)
    assert torch.equal(first, fp4_matmul(a, b, a_quantization_kwargs=rule, b_quantize_kwargs=rule))
    assert not torch.equal(first, fp4_matmul(a, b))
