"""``tritonfp4 quantize``: a safetensors checkpoint to compressed-tensors FP4, one tensor at a time."""

from __future__ import annotations

import argparse
import json
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import torch

from tritonfp4 import checks, verbs
from tritonfp4.checkpoints import quantization_config, to_compressed_tensors
from tritonfp4.cli.common import CliError, console, decibels, energies, mebibytes, pick_device, progress, require
from tritonfp4.cli.tensor_file import (
    Entry,
    Header,
    TensorFileWriter,
    entry_of,
    read_bytes,
    read_header,
    tensor_bytes,
    write_text,
)
from tritonfp4.formats import FORMATS, BlockFormat
from tritonfp4.layouts import SfLayout
from tritonfp4.tensor import BlockScaledTensor

#: Rule by format unless --rule says otherwise; compressed-tensors makes MXFP4 with "even".
DEFAULT_RULES = {"nvfp4": "static_6", "mxfp4": "even"}
WEIGHT_DTYPES = ("F32", "F16", "BF16")
#: Matched against dotted parts of a name: lookups, output heads, norms and expert routers keep their precision.
DEFAULT_IGNORE = (
    r"(?i)(^|\.)(\w*embed(s|der|ding|dings)?(_\w+)?|wte|wpe|lm_head|\w*norm(\d*|_\w+)|(\w+_)?ln\d*(_\w+)?|gate|\w*router"
    r"|shared_expert_gate)(\.|$)"
)
#: Projections of one parent that inference engines concatenate, and which then need one global scale.
FUSED = (("q_proj", "k_proj", "v_proj"), ("query", "key", "value"), ("gate_proj", "up_proj"), ("w1", "w3"))
#: Elements that are quantized at a time: bounds the memory that the largest weight takes.
SLICE = 1 << 23


@dataclass
class Totals:
    """What the summary reports: tensors, bytes and energies of the quantized weights."""

    tensors: int = 0
    bytes_before: int = 0
    bytes_after: int = 0
    signal: float = 0.0
    noise: float = 0.0


@dataclass(frozen=True)
class Plan:
    """What happens to each tensor of the input.

    Attributes:
        format, rule, device: of the quantization.
        groups: names of weights that share one global scale; most groups hold one name.
        copied: names of the tensors that stay as they are.
        entries: everything that the output holds.
        ignored: modules whose 2-D weight stays, for the config.
    """

    format: BlockFormat
    rule: str
    device: torch.device
    groups: list[list[str]] = field(default_factory=list)
    copied: list[str] = field(default_factory=list)
    entries: dict[str, Entry] = field(default_factory=dict)
    ignored: list[str] = field(default_factory=list)


def add_parser(commands: Any) -> None:
    """Register the command."""
    parser = commands.add_parser(
        "quantize",
        help="quantize the linear weights of a safetensors file for vLLM and others (compressed-tensors)",
        description="Writes compressed-tensors names: weight_packed, weight_scale and, for NVFP4, weight_global_scale. "
        "Takes the 2-D *.weight tensors of F32, F16 or BF16 whose rows are whole blocks, except embeddings, lm_head, "
        "norms and expert routers, each as [outputs, inputs] (GPT-2's Conv1D has them the other way round: not "
        "supported). Projections that engines fuse (q/k/v, gate/up) share one global scale if they are in this file.",
    )
    parser.add_argument("input", type=Path, metavar="IN", help="safetensors file to read")
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="OUT", help="safetensors file to write")
    parser.add_argument("--format", choices=sorted(DEFAULT_RULES), default="nvfp4")
    parser.add_argument(
        "--rule",
        help="scale rule. NVFP4: static_6 (default), static_4, mse, mae, abs_max. MXFP4: even (default), rceil, ceil, "
        "floor",
    )
    parser.add_argument(
        "--ignore",
        nargs="+",
        action="extend",
        default=[],
        metavar="REGEX",
        help="leave tensors whose name matches (re.search), too",
    )
    parser.add_argument(
        "--config-out", type=Path, metavar="PATH", help="write config.json with its quantization_config here"
    )
    parser.add_argument("--device", help="cpu or cuda; by default cuda if there is one")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Quantize a file; 0 if all went well. Raises `CliError`."""
    safetensors = require("safetensors")
    fmt = FORMATS[args.format]
    try:
        rule = checks.rule("quantize", "--rule", args.rule or DEFAULT_RULES[fmt.name], fmt)
        extra = [re.compile(pattern) for pattern in args.ignore]
    except (checks.ArgumentError, re.error) as error:
        raise CliError(str(error), 2) from error
    _check_paths(args.input, args.output, args.config_out)
    header = read_header(args.input)
    plan = make_plan(header, fmt, rule, extra, pick_device(args.device))
    config = quantization_config(fmt, plan.ignored)
    target = config_target(args.input, args.output, args.config_out)
    merged = merged_config(args.input, config) if target is not None else ""
    metadata = {**header.metadata, "quantization_config": json.dumps(config)}
    totals = Totals()
    try:
        with (
            safetensors.safe_open(args.input, framework="pt", device="cpu") as tensors,
            args.input.open("rb") as source,
            TensorFileWriter(args.output, plan.entries, metadata) as writer,
            progress() as bar,
        ):
            task = bar.add_task(args.input.name, total=len(header.entries))
            for _ in _write(plan, header, tensors, source, writer, totals):
                bar.advance(task)
    except safetensors.SafetensorError as error:
        raise CliError(f"{args.input}: {error}") from error
    if target is not None:
        write_text(target, merged)
    _report(args, plan, totals, target)
    return 0


def _check_paths(source: Path, output: Path, config_out: Path | None) -> None:
    if not source.is_file():
        raise CliError(f"{source}: no such file", 2)
    for path in (output, *([config_out] if config_out else [])):
        if path.is_dir():
            raise CliError(f"{path}: is a folder; name a file", 2)
        if not path.parent.is_dir():
            raise CliError(f"{path}: the folder {path.parent} does not exist", 2)
        if path.exists() and os.path.samefile(path, source):
            raise CliError(f"{path}: is the input file; a checkpoint is not quantized in place", 2)
    if config_out and os.path.realpath(config_out) == os.path.realpath(output):
        raise CliError(f"{config_out}: is the output file", 2)


def make_plan(header: Header, fmt: BlockFormat, rule: str, ignore: list[re.Pattern[str]], device: torch.device) -> Plan:
    """Decide what is quantized, what is copied, what the output holds. Raises `CliError` if there is nothing to do."""
    plan = Plan(fmt, rule, device)
    groups: dict[tuple[str, ...], list[str]] = {}
    for name, entry in header.entries.items():
        module = name.removesuffix(".weight")
        linear = module != name and len(entry.shape) == 2
        if linear and _wanted(name, entry, fmt, ignore):
            groups.setdefault(_fusion(module) if fmt.two_level else (module,), []).append(name)
            new = _quantized_entries(module, entry, fmt)
        else:
            plan.copied.append(name)
            new = {name: entry}
            if linear:
                plan.ignored.append(module)
        clash = next((n for n in new if n in plan.entries or (n != name and n in header.entries)), None)
        if clash is not None:
            raise CliError(f"{clash} is in the input already, beside {name}: is it quantized?")
        plan.entries.update(new)
    plan.groups.extend(groups.values())
    if not plan.groups:
        raise CliError(
            f"no tensor to quantize among {len(header.entries)}: want 2-D *.weight of {', '.join(WEIGHT_DTYPES)} with "
            f"rows of whole blocks of {fmt.vec}, not ignored"
        )
    return plan


def _wanted(name: str, entry: Entry, fmt: BlockFormat, ignore: list[re.Pattern[str]]) -> bool:
    if entry.dtype not in WEIGHT_DTYPES or entry.nbytes == 0 or entry.shape[1] % fmt.vec:
        return False
    return not re.search(DEFAULT_IGNORE, name) and not any(pattern.search(name) for pattern in ignore)


def _fusion(module: str) -> tuple[str, ...]:
    """Key that is the same for projections that share a global scale."""
    parent, _, leaf = module.rpartition(".")
    family = next((names for names in FUSED if leaf in names), None)
    return (module,) if family is None else (parent, *family)


def _quantized_entries(module: str, entry: Entry, fmt: BlockFormat) -> dict[str, Entry]:
    rows, cols = entry.shape
    kind = torch.float8_e4m3fn if fmt.two_level else torch.uint8
    entries = {
        f"{module}.weight_packed": entry_of(torch.uint8, (rows, cols // 2)),
        f"{module}.weight_scale": entry_of(kind, (rows, cols // fmt.vec)),
    }
    if fmt.two_level:
        entries[f"{module}.weight_global_scale"] = entry_of(torch.float32, (1,))
    return entries


def _write(
    plan: Plan, header: Header, tensors: Any, source: BinaryIO, writer: TensorFileWriter, totals: Totals
) -> Iterator[str]:
    """Write every tensor of the plan; yields the name of each input that is done."""
    for group in plan.groups:
        # Fused weights are read twice rather than held together.
        amax = max(_amax(name, tensors.get_tensor(name)) for name in group)
        for name in group:
            _write_weight(plan, name, tensors.get_tensor(name), amax, writer, totals)
            totals.bytes_before += header.entries[name].nbytes
            yield name
    for name in plan.copied:
        writer.write(name, read_bytes(source, header.starts[name], header.entries[name].nbytes))
        yield name


def _amax(name: str, weight: torch.Tensor) -> float:
    """Largest magnitude. Raises `CliError` for a weight that holds a NaN or an infinity."""
    low, high = torch.aminmax(weight)
    amax = max(-low.item(), high.item())
    if not (low.isfinite().item() and high.isfinite().item()):
        raise CliError(
            f"{name} holds NaN or infinity ({int((~weight.isfinite()).sum())} of {weight.numel()}): not quantized"
        )
    return amax


def _write_weight(
    plan: Plan, name: str, weight: torch.Tensor, amax: float, writer: TensorFileWriter, totals: Totals
) -> None:
    """Quantize a weight by slices of rows, which the known amax makes independent, and write its parts."""
    fmt = plan.format
    shared = torch.tensor([amax], dtype=torch.float32, device=plan.device) if fmt.two_level else None
    parts = []
    for rows in torch.split(weight, max(1, SLICE // weight.shape[1])):
        rows = rows.to(plan.device)
        part = verbs.quantize(rows, fmt, rule=plan.rule, amax=shared, layout=SfLayout.layout_linear)
        signal, noise = energies(rows, part.dequantize())
        totals.signal += signal
        totals.noise += noise
        parts.append(part.to("cpu"))
    values, scales = torch.cat([p.values for p in parts]), torch.cat([p.scales for p in parts])
    whole = BlockScaledTensor(values, scales, parts[0].global_scale, fmt, SfLayout.layout_linear, tuple(weight.shape))
    for key, tensor in to_compressed_tensors(whole, name.removesuffix("weight")).items():
        writer.write(key, tensor_bytes(tensor))
        totals.bytes_after += tensor.numel() * tensor.element_size()
    totals.tensors += 1


def config_target(source: Path, output: Path, config_out: Path | None) -> Path | None:
    """Where to write ``config.json``: where asked, or beside the output if the input has one and the output none."""
    if config_out is not None:
        return config_out
    beside = output.parent / "config.json"
    return beside if (source.parent / "config.json").is_file() and not beside.exists() else None


def merged_config(source: Path, config: dict[str, Any]) -> str:
    """The input folder's ``config.json`` (or nothing) with `config` as its ``quantization_config``."""
    path = source.parent / "config.json"
    base: Any = {}
    if path.is_file():
        try:
            base = json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise CliError(f"{path}: not JSON ({error})") from error
        if not isinstance(base, dict):
            raise CliError(f"{path}: want a JSON object, got a {type(base).__name__}")
    return json.dumps({**base, "quantization_config": config}, indent=2, ensure_ascii=False) + "\n"


def _report(args: argparse.Namespace, plan: Plan, totals: Totals, target: Path | None) -> None:
    out = console()
    before, after = args.input.stat().st_size, args.output.stat().st_size
    shared = sum(len(group) > 1 for group in plan.groups)
    out.print(f"{args.output}: {plan.format.name}, rule {plan.rule}, on {plan.device}")
    out.print(
        f"  quantized {totals.tensors} weights, {shared} groups of them share a global scale; "
        f"copied {len(plan.copied)} tensors"
    )
    out.print(
        f"  weights   {mebibytes(totals.bytes_before)} -> {mebibytes(totals.bytes_after)} "
        f"({totals.bytes_before / totals.bytes_after:.2f}x smaller)"
    )
    out.print(f"  file      {mebibytes(before)} -> {mebibytes(after)}")
    out.print(f"  SQNR      {decibels(totals.signal, totals.noise):.2f} dB over all quantized weights")
    if target is not None:
        out.print(f"  config    {target}")
