import itertools

import pytest
import torch

from tritonfp4 import ArgumentError, DTypeError, SfLayout, ShapeError, UnsupportedError, quantize
from tritonfp4.checkpoints import from_compressed_tensors, quantization_config, to_compressed_tensors

FORMATS = pytest.mark.parametrize("format", ["nvfp4", "mxfp4"])


def weight(rows=40, cols=96, seed=0):
    return torch.randn(rows, cols, generator=torch.Generator().manual_seed(seed))


def stored(format="nvfp4", prefix=""):
    return to_compressed_tensors(quantize(weight(), format), prefix)


def same_bytes(a, b):
    assert a.keys() == b.keys()
    for name in a:
        assert a[name].dtype == b[name].dtype and a[name].shape == b[name].shape
        assert torch.equal(a[name].view(torch.uint8), b[name].view(torch.uint8)), name


def test_nvfp4_tensors_have_the_documented_names_dtypes_and_shapes():
    got = {name: (t.dtype, tuple(t.shape)) for name, t in stored(prefix="layer.").items()}
    assert got == {
        "layer.weight_packed": (torch.uint8, (40, 48)),
        "layer.weight_scale": (torch.float8_e4m3fn, (40, 6)),
        "layer.weight_global_scale": (torch.float32, (1,)),
    }


def test_mxfp4_tensors_have_no_global_scale():
    got = {name: (t.dtype, tuple(t.shape)) for name, t in stored("mxfp4").items()}
    assert got == {"weight_packed": (torch.uint8, (40, 48)), "weight_scale": (torch.uint8, (40, 3))}


def test_stored_global_scale_is_the_reciprocal_2688_over_amax():
    amax = weight().abs().max().item()
    assert stored()["weight_global_scale"].item() == pytest.approx(2688 / amax, rel=1e-6)


@pytest.mark.parametrize("rule", ["static_6", "mse"])
def test_an_independent_decoder_of_the_stored_tensors_finds_the_dequantized_weight(rule):
    t = quantize(weight(), rule=rule)
    tensors = to_compressed_tensors(t)
    table = torch.tensor([0, 0.5, 1, 1.5, 2, 3, 4, 6, -0.0, -0.5, -1, -1.5, -2, -3, -4, -6])
    packed = tensors["weight_packed"].long()
    codes = torch.stack([packed % 16, packed // 16], -1).reshape(40, 96)
    scale = tensors["weight_scale"].float().repeat_interleave(16, 1)
    assert torch.allclose(table[codes] * scale / tensors["weight_global_scale"], t.dequantize(), rtol=1e-6)


@FORMATS
@pytest.mark.parametrize("layout", list(SfLayout))
def test_round_trip_keeps_the_matrix_bit_for_bit(format, layout):
    t = quantize(weight(), format, layout=layout)
    back = from_compressed_tensors(to_compressed_tensors(t, "p."), "p.", format=format)
    assert back.layout == SfLayout.layout_linear and back.shape == (40, 96)
    assert torch.equal(back.dequantize(), t.dequantize())


@FORMATS
def test_import_and_export_keep_every_byte(format):
    tensors = stored(format)
    if format == "nvfp4":
        tensors["weight_global_scale"] = torch.tensor([1719.0437])
    back = from_compressed_tensors(tensors, format=format)
    same_bytes(to_compressed_tensors(back, weight_global_scale=tensors.get("weight_global_scale")), tensors)


def test_a_passed_global_scale_survives_though_another_has_the_same_reciprocal():
    # Just below a power of two, reciprocals lie closer together than the numbers that fp32 has for them.
    values = [torch.tensor([1.999 * 1024])]
    for _ in range(7):
        values.append(torch.nextafter(values[-1], torch.tensor([2048.0])))
    assert any((1 / a).item() == (1 / b).item() for a, b in itertools.pairwise(values))
    for value in values:
        tensors = {**stored(), "weight_global_scale": value}
        back = to_compressed_tensors(from_compressed_tensors(tensors), weight_global_scale=value)
        assert back["weight_global_scale"].item() == value.item()


def test_an_exported_global_scale_inverts_to_the_exact_decode_multiplier():
    for seed in range(200):
        t = quantize(weight(1, 16, seed))
        exported = to_compressed_tensors(t)["weight_global_scale"]
        assert (1.0 / exported).item() == t.global_scale.item()


def test_zero_scale_bytes_and_signed_zeros_are_not_normalised():
    tensors = stored()
    tensors["weight_scale"].view(torch.uint8)[0, :2] = torch.tensor([0x00, 0x80], dtype=torch.uint8)
    tensors["weight_packed"][0, :16] = 0x88
    same_bytes(to_compressed_tensors(from_compressed_tensors(tensors)), tensors)


@pytest.mark.parametrize("name", ["weight_packed", "weight_scale", "weight_global_scale"])
def test_a_missing_tensor_is_refused_by_name(name):
    tensors = stored(prefix="a.b.")
    del tensors[f"a.b.{name}"]
    with pytest.raises(ArgumentError, match=rf"missing a\.b\.{name}"):
        from_compressed_tensors(tensors, "a.b.")


@pytest.mark.parametrize("shape", [(40, 8), (128, 6), (240,), (6, 40)])
def test_scales_that_are_not_row_major_and_unpadded_are_refused(shape):
    tensors = {**stored(), "weight_scale": torch.ones(shape).to(torch.float8_e4m3fn)}
    with pytest.raises(ShapeError, match=r"weight_scale must be \[N, K / 16\] = \(40, 6\)"):
        from_compressed_tensors(tensors)


@pytest.mark.parametrize(("format", "byte"), [("nvfp4", 0x7F), ("nvfp4", 0xFF), ("mxfp4", 0xFF)])
def test_a_nan_scale_is_refused(format, byte):
    tensors = stored(format)
    tensors["weight_scale"].view(torch.uint8)[3, 1] = byte
    with pytest.raises(ArgumentError, match="1 NaN scales of"):
        from_compressed_tensors(tensors, format=format)


@pytest.mark.parametrize("value", [0.0, -2.0, float("inf"), float("nan"), 1e-40])
def test_a_global_scale_that_cannot_be_inverted_is_refused(value):
    with pytest.raises(ArgumentError, match="weight_global_scale and its reciprocal must be positive and finite"):
        from_compressed_tensors({**stored(), "weight_global_scale": torch.tensor([value])})


def test_a_global_scale_of_one_is_legal():
    assert from_compressed_tensors({**stored(), "weight_global_scale": torch.ones(1)}).global_scale.item() == 1.0


def test_nvfp4_tensors_read_as_mxfp4_are_refused():
    with pytest.raises(DTypeError, match="weight_scale"):
        from_compressed_tensors(stored("nvfp4"), format="mxfp4")


def test_zero_points_are_refused():
    with pytest.raises(UnsupportedError, match="weight_zero_point"):
        from_compressed_tensors({**stored(), "weight_zero_point": torch.zeros(40, 6)})


def test_export_refuses_a_global_scale_for_each_row():
    with pytest.raises(UnsupportedError, match="one global scale"):
        to_compressed_tensors(quantize(weight(), per_row=True))


def test_export_refuses_a_stored_scale_of_another_weight():
    with pytest.raises(ArgumentError, match="must be 1 / the global scale"):
        to_compressed_tensors(quantize(weight()), weight_global_scale=torch.tensor([7.0]))


def test_config_describes_weight_only_groups_of_the_format():
    nvfp4, mxfp4 = quantization_config("nvfp4", ["lm_head"]), quantization_config("mxfp4")
    assert nvfp4["quant_method"] == "compressed-tensors" and nvfp4["ignore"] == ["lm_head"]
    assert nvfp4["format"] == "nvfp4-pack-quantized" and mxfp4["format"] == "mxfp4-pack-quantized"
    group = nvfp4["config_groups"]["group_0"]
    assert group["targets"] == ["Linear"] and group["input_activations"] is None
    expected = {"num_bits": 4, "type": "float", "strategy": "tensor_group", "group_size": 16, "symmetric": True}
    assert expected.items() <= group["weights"].items()
    weights = mxfp4["config_groups"]["group_0"]["weights"]
    assert weights["strategy"] == "group" and weights["group_size"] == 32
