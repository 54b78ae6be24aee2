"""`BlockScaledTensor` is plain data: views, copies and files keep every byte."""

import copy
import dataclasses
import io

import pytest
import safetensors.torch
import torch
from torch.utils import _pytree as pytree

import tritonfp4
from tritonfp4 import BlockScaledTensor, layouts
from tritonfp4.layouts import SfLayout

FIELDS = ("values", "scales", "global_scale", "format", "layout", "shape", "row_shuffle")


def matrix(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def kinds():
    """One of each kind of tensor that the package makes."""
    shuffled = tritonfp4.quantize(layouts.shuffle_rows(matrix(64, 64), 32))
    return {
        "nvfp4": tritonfp4.quantize(matrix(5, 48)),
        "mxfp4": tritonfp4.quantize(matrix(5, 96), "mxfp4"),
        "linear": tritonfp4.quantize(matrix(5, 48), layout=SfLayout.layout_linear),
        "8x4": tritonfp4.quantize(matrix(5, 48), layout=SfLayout.layout_8x4),
        "per row": tritonfp4.quantize(matrix(5, 48), per_row=True),
        "3-D": tritonfp4.quantize(matrix(2, 3, 64), rule="mse"),
        "shuffled": dataclasses.replace(shuffled, row_shuffle=32),
    }


def same(a, b):
    """Every field equal, tensors by dtype, shape and bytes."""
    for name in FIELDS:
        x, y = getattr(a, name), getattr(b, name)
        if isinstance(x, torch.Tensor):
            assert x.dtype == y.dtype and torch.equal(x, y), name
        else:
            assert x == y and type(x) is type(y), name
    return True


@pytest.fixture(params=kinds())
def t(request):
    return kinds()[request.param]


# ---- what it knows ----


def test_rows_cols_and_scale_cols_follow_from_the_shape():
    t = kinds()["3-D"]
    assert (t.shape, t.rows, t.cols, t.scale_cols) == ((2, 3, 64), 6, 64, 4)


def test_device_is_that_of_the_values(t):
    assert t.device == t.values.device == torch.device("cpu")


@pytest.mark.parametrize(
    ("name", "want"),
    [("nvfp4", 5 * 24 + 512 + 4), ("mxfp4", 5 * 48 + 512), ("linear", 5 * 24 + 15 + 4), ("8x4", 5 * 24 + 32 + 4),
     ("per row", 5 * 24 + 512 + 20)],
)  # fmt: skip
def test_nbytes_counts_every_part(name, want):
    assert kinds()[name].nbytes == want


@pytest.mark.parametrize(
    ("name", "want"),
    [
        ("nvfp4", "BlockScaledTensor(nvfp4, shape=(5, 48), layout_128x4, cpu)"),
        ("shuffled", "BlockScaledTensor(nvfp4, shape=(64, 64), layout_128x4, cpu, row_shuffle=32)"),
    ],
)
def test_repr_names_what_it_is_without_the_numbers(name, want):
    assert repr(kinds()[name]) == want


@pytest.mark.parametrize("field", FIELDS)
def test_it_is_frozen(t, field):
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(t, field, None)


def test_equality_is_identity(t):
    assert t == t
    assert t != copy.copy(t)
    assert len({t, copy.copy(t)}) == 2


# ---- dequantize ----


def by_hand(t):
    """Decode without the package: one element at a time."""
    magnitudes = [0, 0.5, 1, 1.5, 2, 3, 4, 6]
    values = t.values.reshape(t.rows, -1)
    scales = t.scale_layout.to_linear(t.scales, t.rows, t.scale_cols)
    out = torch.zeros(t.rows, t.cols)
    for r in range(t.rows):
        g = torch.ones(()) if t.global_scale is None else t.global_scale[r % t.global_scale.numel()]
        for k in range(t.cols):
            code = int(values[r, k // 2]) >> 4 * (k % 2) & 15
            byte = scales[r, k // t.format.vec]
            scale = byte.view(torch.float8_e4m3fn).float() if t.format.scale == "e4m3" else 2.0 ** (int(byte) - 127)
            out[r, k] = (-1 if code > 7 else 1) * magnitudes[code & 7] * scale * g
    return out.reshape(t.shape)


@pytest.mark.parametrize("name", ["nvfp4", "mxfp4", "linear", "8x4", "per row", "3-D"])
def test_dequantize_is_element_times_scale_times_global_scale(name):
    t = kinds()[name]
    assert torch.equal(t.dequantize(), by_hand(t))


def test_dequantize_puts_shuffled_rows_back():
    plain = tritonfp4.quantize(matrix(64, 64))
    assert torch.equal(kinds()["shuffled"].dequantize(), plain.dequantize())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_dequantize_rounds_the_fp32_result_once(t, dtype):
    assert torch.equal(t.dequantize(dtype), t.dequantize().to(dtype))


def test_the_method_and_the_verb_agree(t):
    assert torch.equal(t.dequantize(), tritonfp4.dequantize(t))


# ---- to_layout, to ----


@pytest.mark.parametrize("first", SfLayout)
@pytest.mark.parametrize("second", SfLayout)
def test_to_layout_and_back_keeps_every_byte(first, second):
    t = tritonfp4.quantize(matrix(37, 80), layout=first)
    there = t.to_layout(second)
    assert there.layout == second
    assert same(there.to_layout(first), t)


@pytest.mark.parametrize("first", SfLayout)
@pytest.mark.parametrize("second", SfLayout)
def test_to_layout_gives_what_quantizing_to_that_layout_gives(first, second):
    x = matrix(37, 80)
    assert same(tritonfp4.quantize(x, layout=first).to_layout(second), tritonfp4.quantize(x, layout=second))


def test_to_layout_takes_numbers(t):
    assert same(t.to_layout(2), t.to_layout(SfLayout.layout_linear))


def test_to_the_same_layout_is_the_same_object(t):
    assert t.to_layout(t.layout) is t


def test_to_layout_does_not_copy_the_values(t):
    assert t.to_layout(2).values is t.values


def test_to_moves_every_part(t):
    there = t.to("meta")
    tensors = [there.values, there.scales] + ([] if there.global_scale is None else [there.global_scale])
    assert {x.device.type for x in tensors} == {"meta"}
    assert (there.format, there.layout, there.shape) == (t.format, t.layout, t.shape)


# ---- pytree, copies, files ----


def test_pytree_leaves_are_the_tensors(t):
    leaves = pytree.tree_leaves(t)
    want = [x for x in (t.values, t.scales, t.global_scale) if x is not None]
    assert len(leaves) == len(want) and all(a is b for a, b in zip(leaves, want, strict=True))


def test_pytree_round_trip(t):
    leaves, spec = pytree.tree_flatten(t)
    assert same(pytree.tree_unflatten(leaves, spec), t)


def test_pytree_inside_a_container_and_mapped(t):
    moved = pytree.tree_map(lambda x: x.clone(), {"weights": [t]})
    assert same(moved["weights"][0], t)
    assert moved["weights"][0].values.data_ptr() != t.values.data_ptr()


def test_pytree_specs_serialize(t):
    leaves, spec = pytree.tree_flatten(t)
    again = pytree.treespec_loads(pytree.treespec_dumps(spec))
    assert same(pytree.tree_unflatten(leaves, again), t)


@pytest.mark.parametrize("copier", [copy.copy, copy.deepcopy])
def test_copies_keep_every_field(t, copier):
    assert same(copier(t), t)


def test_deepcopy_copies_the_bytes(t):
    assert copy.deepcopy(t).values.data_ptr() != t.values.data_ptr()


def test_torch_save_and_load_with_weights_only(t):
    file = io.BytesIO()
    torch.save({"w": t}, file)
    file.seek(0)
    assert same(torch.load(file, weights_only=True)["w"], t)


def test_parts_are_plain_tensors_and_strings(t):
    tensors, meta = t.parts()
    assert all(type(x) is torch.Tensor for x in tensors.values())
    assert all(type(x) is str for x in meta.values())
    assert ("global_scale" in tensors) == (t.global_scale is not None)


def test_parts_and_from_parts_are_inverse_without_a_copy(t):
    again = BlockScaledTensor.from_parts(*t.parts())
    assert same(again, t)
    assert again.values is t.values and again.scales is t.scales


def test_safetensors_round_trip(t, tmp_path):
    path = tmp_path / "w.safetensors"
    tensors, meta = t.parts()
    safetensors.torch.save_file(tensors, path, metadata=meta)
    with safetensors.safe_open(path, "pt") as file:
        again = BlockScaledTensor.from_parts({k: file.get_tensor(k) for k in file.keys()}, file.metadata())  # noqa: SIM118
    assert same(again, t)


# ---- to_torch, from_torch ----


@pytest.mark.parametrize(("name", "kind"), [("nvfp4", torch.float8_e4m3fn), ("mxfp4", torch.float8_e8m0fnu)])
def test_to_torch_has_the_dtypes_and_shapes_of_scaled_mm(name, kind):
    t = kinds()[name]
    values, scales = t.to_torch()
    assert (values.dtype, values.shape, values.stride()) == (
        torch.float4_e2m1fn_x2, (5, t.cols // 2), (t.cols // 2, 1),
    )  # fmt: skip
    assert (scales[0].dtype, scales[0].shape) == (kind, (128 * 4,))
    assert [(x.dtype, x.shape) for x in scales[1:]] == ([(torch.float32, ())] if name == "nvfp4" else [])


@pytest.mark.parametrize("name", ["nvfp4", "mxfp4"])
def test_to_torch_does_not_copy(name):
    t = kinds()[name]
    values, scales = t.to_torch()
    assert values.data_ptr() == t.values.data_ptr()
    assert scales[0].data_ptr() == t.scales.data_ptr()
    assert len(scales) == 1 or scales[1].data_ptr() == t.global_scale.data_ptr()


@pytest.mark.parametrize("name", ["linear", "8x4"])
def test_to_torch_swizzles_other_layouts(name):
    t = kinds()[name]
    assert torch.equal(t.to_torch()[1][0].view(torch.uint8), t.to_layout(SfLayout.layout_128x4).scales)


def test_to_torch_flattens_leading_dimensions():
    assert kinds()["3-D"].to_torch()[0].shape == (6, 32)


@pytest.mark.parametrize("name", ["nvfp4", "mxfp4"])
def test_from_torch_undoes_to_torch_without_a_copy(name):
    t = kinds()[name]
    again = BlockScaledTensor.from_torch(*t.to_torch())
    assert same(again, t)
    assert again.values.data_ptr() == t.values.data_ptr() and again.scales.data_ptr() == t.scales.data_ptr()


@pytest.mark.parametrize(("name", "text"), [("per row", "per-row global scale"), ("shuffled", "row-shuffled")])
def test_to_torch_refuses_what_torch_has_no_recipe_for(name, text):
    with pytest.raises(ValueError, match=text):
        kinds()[name].to_torch()


def test_from_torch_never_guesses_a_format():
    values, scales = kinds()["nvfp4"].to_torch()
    for bad in (scales[0].view(torch.uint8), scales[0].float()):
        with pytest.raises(ValueError, match="from_torch"):
            BlockScaledTensor.from_torch(values, [bad])
    with pytest.raises(ValueError, match="from_torch"):
        BlockScaledTensor.from_torch(values.view(torch.uint8), scales)


def test_from_torch_refuses_scales_of_another_size():
    values, scales = kinds()["nvfp4"].to_torch()
    with pytest.raises(ValueError, match="want 512 scales"):
        BlockScaledTensor.from_torch(values, [scales[0][:-4]])


# ---- batched tensors ----


@pytest.mark.parametrize("name", ["nvfp4", "mxfp4", "mxfp8", "fp8_1x128", "fp8_128x128"])
def test_stacked_matrices_are_the_weights_of_a_grouped_product(name):
    """Every group's product is that of its own matrix."""
    weights = [tritonfp4.quantize(torch.randn(40, 96) * 2**g, name) for g in range(3)]
    stacked = BlockScaledTensor.stack(weights)
    assert stacked.batched and stacked.shape == (3, 40, 96)
    assert torch.equal(stacked.dequantize(), torch.stack([w.dequantize() for w in weights]))
    x = tritonfp4.quantize(torch.randn(10, 96), name if name != "fp8_128x128" else "fp8_1x128", layout=2)
    ends = torch.tensor([0, 3, 3, 10], dtype=torch.int32)
    out = tritonfp4.grouped_matmul(x, stacked, ends, out_dtype=torch.float32)
    want = torch.cat([tritonfp4.matmul(x, w, out_dtype=torch.float32)[s] for w, s in zip(weights, GROUPS, strict=True)])
    assert torch.equal(out, want)


GROUPS = (slice(0, 3), slice(3, 3), slice(3, 10))


def test_matrices_that_do_not_stack_are_refused():
    a, b = tritonfp4.quantize(torch.randn(4, 32)), tritonfp4.quantize(torch.randn(5, 32))
    rows = tritonfp4.quantize(torch.randn(4, 32), per_row=True)
    for wrong in ([], [a, b], [a, a.to_layout(2)], [rows, rows], [BlockScaledTensor.stack([a])]):
        with pytest.raises(ValueError, match=r"BlockScaledTensor\.stack: want 2-D matrices of one shape"):
            BlockScaledTensor.stack(wrong)


def test_a_batched_tensor_survives_parts_and_the_pytree():
    t = BlockScaledTensor.stack([tritonfp4.quantize(torch.randn(4, 32)) for _ in range(2)])
    again = BlockScaledTensor.from_parts(*t.parts())
    assert again.batched and torch.equal(again.dequantize(), t.dequantize())
    mapped = torch.utils._pytree.tree_map(torch.clone, t)
    assert mapped.batched and mapped.shape == t.shape and "batched" in repr(t)
    assert torch.equal(t.to_layout(1).dequantize(), t.dequantize())
