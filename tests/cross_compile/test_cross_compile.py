"""Every kernel compiles for every architecture, with the config that would be launched there: nothing is executed.

Compiled means more than that the compiler was content: the tile fits in shared and tensor memory, nothing spills, and
the matrix instructions are those that the path promises. One worker process an architecture, two at a time.
"""

from __future__ import annotations

import functools
import json
import os
import re
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("triton")

import cases_hopper
from case import Case
from cases import CASES, CORE

from tritonfp4 import aot
from tritonfp4.autotune.legality import hopper_bytes
from tritonfp4.device import target_info, triton_version

HERE = Path(__file__).resolve().parent
#: Every case for these, the core ones for the rest: `python tests/cross_compile/worker.py ARCH ...` compiles all for any.
FULL = (80, 90) if triton_version() == (3, 7, 1) else ()
ARCHS = {(3, 7, 1): (80, 86, 89, 90, 100, 103, 120), (3, 6, 0): (80, 90, 100)}.get(
    triton_version() or (), (90, 100, 120)
)
PAIRS = [
    (arch, case.name) for arch in ARCHS for case in CASES if case.is_for(arch) and (arch in FULL or case.name in CORE)
]
#: Compiling processes of one pytest process, and where those of one test run meet.
WORKERS = 1 if os.environ.get("PYTEST_XDIST_WORKER") else 2
RUN = Path(tempfile.gettempdir()) / f"tritonfp4-cross-compile-{os.environ.get('PYTEST_XDIST_TESTRUNUID', os.getpid())}"


def work(arch: int, *options: str) -> dict[str, dict[str, Any]]:
    """The worker's lines for an architecture, by case."""
    command = [sys.executable, str(HERE / "worker.py"), str(arch), *options]
    path = os.pathsep.join([str(HERE.parent.parent), *filter(None, [os.environ.get("PYTHONPATH")])])
    env = {**os.environ, "PYTHONPATH": path, "TRITON_INTERPRET": "0"}
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=900, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    lines = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    return {line["case"]: line for line in lines}


def _share() -> None:
    """Compile the architectures that no process of this test run has claimed yet."""
    for arch in ARCHS:
        try:
            (RUN / str(arch)).mkdir(parents=True)
        except FileExistsError:
            continue
        try:
            lines = work(arch, *([] if arch in FULL else ["--core"]))
        except Exception as error:
            lines = {"failure": {"text": repr(error)}}
        partial = RUN / str(arch) / "partial.json"
        partial.write_text(json.dumps(lines))
        partial.replace(RUN / f"{arch}.json")


@functools.cache
def _start() -> None:
    for _ in range(WORKERS):
        threading.Thread(target=_share, daemon=True).start()


@functools.cache
def results(arch: int) -> dict[str, dict[str, Any]]:
    """The worker's lines for an architecture; pytest processes share them through files."""
    _start()
    file = RUN / f"{arch}.json"
    for _ in range(9000):
        if file.exists():
            break
        time.sleep(0.1)
    lines: dict[str, dict[str, Any]] = json.loads(file.read_text())
    assert "failure" not in lines, lines["failure"]["text"]
    return lines


@pytest.mark.parametrize(("arch", "case"), PAIRS)
def test_compiles(arch: int, case: str) -> None:
    line = results(arch)[case]
    assert "error" not in line, line["error"]
    for kernel in line["kernels"]:
        assert not kernel["problems"], (kernel["name"], kernel["problems"], {**kernel, "mma": None})
        if kernel["gemm"] and line["path"] in ("native", "hopper"):  # a fallback to 16-bit arithmetic would be silent
            assert all(re.search(kernel["expect"], name) for name in kernel["mma"]), kernel["mma"]
    if line["path"] in ("native", "upcast", "hopper"):
        assert any(kernel["gemm"] for kernel in line["kernels"])


@pytest.mark.parametrize("arch", ARCHS)
def test_values_are_not_loaded_by_the_byte(arch: int) -> None:
    """Where K is a multiple of the step, no mask may hide that 4 bytes and more can be loaded at once."""
    narrow = {}
    for name, line in results(arch).items():
        for kernel in line.get("kernels", ()):
            few = 4  # a narrow tile of scales may need single bytes
            by_block = (
                kernel["name"] == "matmul_fp8_kernel" and "mx" in name
            )  # one e8m0 scale for each row and step of 32
            by_piece = "w4" in kernel["name"] and kernel["loads"].get("1", 0) <= kernel["loads"].get(
                "16", 0
            )  # and for each 16 bytes
            if kernel["gemm"] and not (by_block or by_piece) and "K=" not in name and kernel["loads"].get("1", 0) > few:
                narrow[name] = kernel["loads"]
    assert not narrow


def test_native_where_the_table_says_so() -> None:
    for arch in ARCHS:
        path = results(arch)["matmul nvfp4 x nvfp4 M=128"]["path"]
        assert (path == "native") == target_info(arch).native_fp4


@pytest.mark.parametrize(
    "case", [case for case in cases_hopper.CASES if (90, case.name) in PAIRS], ids=lambda c: c.name
)
def test_shared_memory_of_the_hopper_kernel_is_at_most_what_legality_counts(case: Case) -> None:
    """And little less: a stage that is not used is latency that is not hidden."""
    assert case.config is not None
    counted = hopper_bytes(case.config(target_info(90)))
    (needed,) = (kernel["shared"] for kernel in results(90)[case.name]["kernels"] if kernel["gemm"])
    assert needed <= counted <= needed + 4096


def test_tiles_that_do_not_fit_are_noticed() -> None:
    found = {}
    for line in work(100, "--too-large").values():
        assert "error" not in line, line
        found[line["case"].split(" M=")[0]] = " ".join(p for kernel in line["kernels"] for p in kernel["problems"])
    tensor_memory, shared = found["matmul nvfp4 x nvfp4"], found["matmul bf16 x bf16"]
    assert "tensor memory" in tensor_memory and "one trap" in tensor_memory
    assert "shared memory" in shared


def _kernel(**changes: Any) -> aot.Compiled:
    facts = {"name": "k", "arch": 90, "mma": ("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32",), "registers": 128}
    sizes = {"local_bytes": 0, "shared": 1024, "tmem": 0, "num_warps": 4}
    return aot.Compiled(**{**facts, **sizes, "ptx": ".entry k(\n)\n{\n\tret;\n}\n", "cubin": b"", **changes})


@pytest.mark.parametrize(
    ("changes", "expect", "complaint"),
    [
        ({}, None, None),
        ({}, r"^mma\.sync", None),
        ({}, r"^wgmma", "no instruction matches"),
        ({"mma": ()}, r"^wgmma", "no MMA at all"),
        ({"local_bytes": 8}, None, "spills: 8 bytes"),
        ({"arch": 89, "shared": 101_377}, None, "shared memory"),
        ({"tmem": 513}, None, "tensor memory"),
        ({"ptx": ".entry k(\n)\n{\n\t.reg .b32 %r1;\n\t// begin\n\ttrap;\n\texit;\n}\n"}, None, "one trap"),
    ],
)
def test_the_checker_complains(changes: dict[str, Any], expect: str | None, complaint: str | None) -> None:
    problems = _kernel(**changes).problems(expect)
    assert len(problems) == (complaint is not None)
    assert complaint is None or complaint in problems[0]
