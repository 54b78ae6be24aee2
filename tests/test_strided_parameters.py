"""Vectors, scale buffers and matrices with strides: the kernels read what the view says, or refuse it."""

import dataclasses
import os

import pytest
import torch
from kernel_checks import same_bytes

import tritonfp4 as T
from tritonfp4 import SfLayout

BACKENDS = [
    "torch",
    pytest.param(
        "triton", marks=pytest.mark.skipif(os.environ.get("TRITON_INTERPRET") != "1", reason="needs the interpreter")
    ),
]


def vectors(count: int) -> list[torch.Tensor]:
    """The same values expanded from one, and as a column of a matrix."""
    wide = torch.full((count, 3), float("nan"))
    wide[:, 0] = torch.rand(count) + 0.5
    return [torch.full((1,), 0.7).expand(count), wide[:, 0]]


@pytest.mark.parametrize("backend", BACKENDS)
def test_alpha_and_global_scales(backend):
    x, w = torch.randn(17, 96), torch.randn(40, 96)
    (a, sa), (b, sb) = (T.nvfp4_quantize(t, T.make_nvfp4_global_scale(t, False)) for t in (x, w))
    for alpha in vectors(17):
        alpha = alpha * 1e-6 if alpha.stride(0) else (torch.full((1,), 1e-6)).expand(17)
        args = (a, b.T, sa, sb.T)
        assert torch.equal(T.mm_fp4(*args, alpha, backend=backend), T.mm_fp4(*args, alpha.clone(), backend=backend))
    for scale in vectors(17):
        got, want = T.nvfp4_quantize(x, scale, backend=backend), T.nvfp4_quantize(x, scale.clone(), backend="torch")
        assert [same_bytes(g, v) for g, v in zip(got, want, strict=True)] == [0, 0]
        t = T.quantize(x, global_scale=scale, backend="torch")
        strided = dataclasses.replace(t, global_scale=scale)
        exact = dataclasses.replace(t, global_scale=scale.clone())
        assert torch.equal(T.dequantize(strided, backend=backend), T.dequantize(exact, backend="torch"))
        assert torch.equal(T.matmul(strided, t, backend=backend), T.matmul(exact, t, backend=backend))


@pytest.mark.parametrize("backend", BACKENDS)
def test_scale_buffers(backend):
    x = torch.randn(40, 96)
    t = T.quantize(x, backend="torch")
    buffer = torch.zeros(2 * t.scales.numel(), dtype=torch.uint8)
    buffer[::2] = t.scales
    strided = dataclasses.replace(t, scales=buffer[::2])
    typed = dataclasses.replace(t, scales=t.scales.view(torch.float8_e4m3fn))
    m = T.quantize(x, "mxfp4", backend="torch")
    typed_mx = dataclasses.replace(m, scales=m.scales.view(torch.float8_e8m0fnu))
    for view, plain in ((strided, t), (typed, t), (typed_mx, m)):
        assert torch.equal(T.dequantize(view, backend=backend), T.dequantize(plain, backend="torch"))
        assert torch.equal(T.matmul(view, plain, backend=backend), T.matmul(plain, plain, backend=backend))


@pytest.mark.parametrize("backend", BACKENDS)
def test_relayout_of_strided_scales(backend):
    sf = torch.randint(0, 256, (33, 12), dtype=torch.uint8)
    for view in (sf[:, ::2], sf[:, :1], sf[:1].expand(33, -1)):
        args = ([1, *view.shape], int(SfLayout.layout_linear), int(SfLayout.layout_128x4), 0)
        got = torch.ops.tritonfp4.relayout(view.reshape(-1), *args, backend)
        assert same_bytes(got, torch.ops.tritonfp4.relayout(view.contiguous().view(-1), *args, "torch")) == 0
        assert same_bytes(T.block_scale_interleave(view), got) == 0


def test_a_square_scale_buffer_that_is_a_slice_is_not_a_transpose():
    x, w = torch.randn(100, 2048), torch.randn(8, 2048)
    (a, sa), (b, sb) = (T.nvfp4_quantize(t, T.make_nvfp4_global_scale(t, False)) for t in (x, w))
    workspace = torch.zeros(128, 256, dtype=torch.uint8)
    workspace[:, :128] = sa
    want = T.mm_fp4(a, b.T, sa, sb.T)
    assert torch.equal(T.mm_fp4(a, b.T, workspace[:, :128], sb.T), want)


def test_matrices_without_columns():
    a, b = T.quantize(torch.zeros(5, 0)), T.quantize(torch.zeros(3, 0))
    assert T.dequantize(a).shape == (5, 0)
    assert torch.equal(T.matmul(a, b, out_dtype=torch.float32), torch.zeros(5, 3))
    empty = T.matmul(torch.zeros(2, 0, 64, dtype=torch.bfloat16), T.quantize(torch.randn(4, 64)))
    assert empty.shape == (2, 0, 4)


def test_fp4_matmul_refuses_another_true_k():
    with pytest.raises(T.ShapeError, match="K dimension mismatch"):
        T.fp4_matmul(torch.randn(4, 60), torch.randn(8, 64))
    with pytest.raises(T.ShapeError, match="K dimension mismatch"):
        T.fp4_matmul(torch.randn(4, 64), torch.randn(8, 128))
    e2m1, sf, normconst = T.quantize_to_fp4(torch.randn(8, 64))
    with pytest.raises(T.ShapeError, match="K dimension mismatch"):
        T.fp4_matmul(torch.randn(4, 128), b_e2m1=e2m1, b_sf=sf, b_normconst=normconst)
    with pytest.raises(T.ArgumentError, match="b_normconst without the rest"):
        T.fp4_matmul(torch.randn(4, 64), torch.randn(8, 64), b_normconst=normconst)


def test_one_tile_more_of_padding_is_accepted():
    """Some fouroversix versions pad an aligned K by a whole tile."""
    x, w = torch.randn(4, 64), torch.randn(8, 64)
    a, b = T.quantize_to_fp4(x), T.quantize_to_fp4(w)
    more = T.quantize_to_fp4(torch.nn.functional.pad(w, (0, 64)))
    want = T.fp4_matmul(a_e2m1=a[0], a_sf=a[1], a_normconst=a[2], b_e2m1=b[0], b_sf=b[1], b_normconst=b[2])
    got = T.fp4_matmul(a_e2m1=a[0], a_sf=a[1], a_normconst=a[2], b_e2m1=more[0], b_sf=more[1], b_normconst=more[2])
    assert torch.equal(got, want)


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"row_shuffle": 32}, "row_shuffle"),
        ({"row_shuffle": 5}, "row_shuffle"),
        ({"values": torch.empty(0, 48, dtype=torch.uint8)}, "too small"),
        ({"shape": (40, 95)}, "multiple of 16"),
    ],
)
def test_parts_that_do_not_fit_are_refused(changes, complaint):
    t = dataclasses.replace(T.quantize(torch.randn(40, 96)), **changes)
    for call in (lambda: T.dequantize(t), lambda: T.matmul(t, t)):
        with pytest.raises(T.ShapeError, match=complaint):
            call()


def test_mxfp4_has_no_e4m3_range():
    with pytest.raises(T.ArgumentError, match="e4m3_max has no meaning"):
        T.quantize(torch.randn(4, 64), "mxfp4", e4m3_max=256)


def test_out_cannot_record_a_gradient():
    x = torch.randn(4, 64, dtype=torch.bfloat16, requires_grad=True)
    with pytest.raises(T.UnsupportedError, match="gradient"):
        T.matmul(x, T.quantize(torch.randn(8, 64)), out=torch.empty(4, 8, dtype=torch.bfloat16))
