import io

import pytest
import torch

from tritonfp4 import ArgumentError, ShapeError, UnsupportedError, matmul, nn, quantize

FORMATS = pytest.mark.parametrize("format", ["nvfp4", "mxfp4"])


def linear(inputs=64, outputs=48, bias=True, dtype=torch.float32, seed=0):
    torch.manual_seed(seed)
    return torch.nn.Linear(inputs, outputs, bias=bias, dtype=dtype)


def sqnr(exact, got):
    exact, got = exact.double(), got.double()
    return 10 * torch.log10(exact.square().sum() / (exact - got).square().sum()).item()


@FORMATS
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_w4a4_is_the_product_of_both_quantized_operands_plus_bias(format, dtype):
    source = linear(dtype=dtype)
    x = torch.randn(2, 5, 64, dtype=dtype)
    y = nn.Linear.from_linear(source, format)(x)
    want = matmul(quantize(x.reshape(10, 64), format), quantize(source.weight.detach(), format), out_dtype=dtype)
    assert y.dtype == dtype
    assert torch.equal(y, (want + source.bias.detach()).reshape(2, 5, 48))


@FORMATS
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_w4a16_is_the_product_of_the_16_bit_input_and_the_decoded_weight(format, dtype):
    source = linear(dtype=dtype, bias=False)
    x = torch.randn(7, 64, dtype=dtype)
    layer = nn.Linear.from_linear(source, format, activations=False)
    operand = x.bfloat16() if dtype == torch.float32 else x
    want = (operand.double() @ layer.weight.dequantize().double().T).to(dtype)
    y = layer(x)
    assert y.dtype == dtype
    assert torch.allclose(y.double(), want.double(), rtol=1e-2 if dtype != torch.float32 else 1e-5, atol=1e-5)


@pytest.mark.parametrize(("activations", "floor"), [(True, 16.0), (False, 19.0)])
def test_output_is_close_to_the_original_layer(activations, floor):
    source = linear(256, 128)
    x = torch.randn(64, 256)
    y = nn.Linear.from_linear(source, activations=activations)(x)
    assert sqnr(source(x).detach(), y) > floor


def test_rule_applies_to_the_weight_and_to_the_inputs_unless_another_is_named():
    source, x = linear(bias=False), torch.randn(4, 64)
    weight = quantize(source.weight.detach(), rule="mse")
    both = nn.Linear.from_linear(source, rule="mse")
    other = nn.Linear.from_linear(source, rule="mse", activation_rule="static_6")
    assert torch.equal(both.weight.dequantize(), weight.dequantize())
    assert torch.equal(both(x), matmul(quantize(x, rule="mse"), weight, out_dtype=torch.float32))
    assert torch.equal(other(x), matmul(quantize(x, rule="static_6"), weight, out_dtype=torch.float32))
    assert not torch.equal(both(x), other(x))


def test_per_row_scales_make_a_row_independent_of_its_batch():
    source = linear(bias=False)
    x = torch.randn(3, 64) * torch.tensor([[1.0], [3e4], [1e-3]])
    layer = nn.Linear.from_linear(source, per_row=True)
    assert torch.equal(layer(x)[2:], layer(x[2:]))
    shared = nn.Linear.from_linear(source)
    assert not torch.equal(shared(x)[2:], shared(x[2:]))


@FORMATS
def test_from_linear_refuses_inputs_that_are_not_whole_blocks(format):
    with pytest.raises(ShapeError, match=r"from_linear: in_features must be a multiple .* got 40"):
        nn.Linear.from_linear(linear(40), format)


def test_per_row_is_refused_for_mxfp4():
    with pytest.raises(ArgumentError, match="per_row has no meaning for mxfp4"):
        nn.Linear.from_linear(linear(), "mxfp4", per_row=True)


def test_from_block_scaled_refuses_a_global_scale_for_each_row():
    with pytest.raises(UnsupportedError, match="global scale for each row"):
        nn.Linear.from_block_scaled(quantize(torch.randn(48, 64), per_row=True))


def test_forward_refuses_another_width():
    with pytest.raises(ShapeError, match=r"\[\*, 64\], got \(3, 32\)"):
        nn.Linear.from_linear(linear())(torch.zeros(3, 32))


@pytest.mark.parametrize(
    ("shape", "activations"),
    [
        ((64,), True),
        ((64,), False),
        ((0, 64), False),
        ((2, 0, 64), False),
        ((0, 64), True),
        ((2, 0, 64), True),
    ],
)
def test_forward_keeps_vectors_and_empty_batches(shape, activations):
    y = nn.Linear.from_linear(linear(), activations=activations)(torch.ones(shape))
    assert y.shape == (*shape[:-1], 48)


@FORMATS
def test_state_dict_survives_a_file_and_fills_a_new_layer(format):
    layer = nn.Linear.from_linear(linear(), format)
    file = io.BytesIO()
    torch.save(layer.state_dict(), file)
    file.seek(0)
    fresh = nn.Linear(64, 48, format=format)
    x = torch.randn(3, 64)
    assert not torch.equal(fresh(x), layer(x))
    fresh.load_state_dict(torch.load(file, weights_only=True))
    assert torch.equal(fresh(x), layer(x))


def test_casting_the_model_keeps_the_global_scale_in_fp32():
    layer = nn.Linear.from_linear(linear())
    exact = layer.global_scale.clone()
    assert exact.bfloat16().float().item() != exact.item()
    layer.bfloat16()
    assert layer.global_scale.dtype == torch.float32 and torch.equal(layer.global_scale, exact)
    assert layer.bias.dtype == torch.bfloat16 and layer.values.dtype == torch.uint8


def test_moving_the_model_moves_every_part():
    layer = nn.Linear.from_linear(linear()).to("meta")
    assert {t.device.type for t in (*layer.buffers(), *layer.parameters())} == {"meta"}


def test_a_backward_pass_is_refused_not_invented():
    layer = nn.Linear.from_linear(linear())
    x = torch.randn(3, 64, requires_grad=True)
    y = layer(x)
    assert torch.equal(y.detach(), layer(x.detach()).detach())
    with pytest.raises(UnsupportedError, match="inference only"):
        y.sum().backward()


def test_a_compiled_layer_gives_the_bits_of_the_eager_one():
    layer, x = nn.Linear.from_linear(linear()), torch.randn(3, 64)
    compiled = torch.compile(layer, backend="aot_eager", fullgraph=True)
    with torch.no_grad():
        assert torch.equal(compiled(x), layer(x))


def test_repr_names_format_and_kind():
    text = repr(nn.Linear.from_linear(linear(), rule="mse", activations=False))
    assert text == "Linear(in_features=64, out_features=48, bias=True, nvfp4 W4A16, rule=mse)"


def model():
    torch.manual_seed(1)
    shared = torch.nn.Linear(64, 64)
    return torch.nn.ModuleDict(
        {
            "block": torch.nn.Sequential(torch.nn.Linear(32, 64), torch.nn.ReLU(), shared),
            "again": shared,
            "odd": torch.nn.Linear(40, 8),
            "small": torch.nn.Linear(16, 8),
            "attention": torch.nn.MultiheadAttention(32, 2),
        }
    )


def test_swap_linears_replaces_layers_of_whole_blocks_and_no_subclass():
    net = model()
    assert nn.swap_linears(net) == ["again", "small", "block.0", "block.2"]
    assert type(net["odd"]) is torch.nn.Linear
    assert isinstance(net["attention"].out_proj, torch.nn.Linear)
    assert net["block"][2] is net["again"] and isinstance(net["again"], nn.Linear)


def test_swap_linears_heeds_skip_and_the_block_of_the_format():
    net = model()
    names = nn.swap_linears(net, "mxfp4", skip=lambda name, layer: name == "again" or layer.out_features == 7)
    assert names == ["block.0", "block.2"]
    assert type(net["again"]) is torch.nn.Linear and type(net["small"]) is torch.nn.Linear


def test_swap_linears_refuses_a_bare_linear():
    with pytest.raises(ArgumentError, match="itself a linear layer"):
        nn.swap_linears(linear())


def test_swapped_model_shares_the_bias_and_keeps_the_mode():
    net = torch.nn.Sequential(torch.nn.Linear(32, 8)).eval()
    bias = net[0].bias
    nn.swap_linears(net)
    assert net[0].bias is bias and not net[0].training
