"""Every kernel compiles for every architecture, with the config that would be launched there: nothing is executed.

Compiled means more than that the compiler was content: the tile fits in shared and tensor memory, nothing spills, and
the matrix instructions are those that the path promises. One worker process an architecture, two at a time.
"""

from __future__ import annotations

import concurrent.futures
import functools
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("triton")

from cases import CASES

from tritonfp4 import aot
from tritonfp4.device import target_info, triton_version

pytestmark = pytest.mark.xdist_group("cross_compile")  # the results are cached in one process
HERE = Path(__file__).resolve().parent
ARCHS = (80, 86, 89, 90, 100, 103, 120) if triton_version() == (3, 7, 1) else (80, 90, 100, 120)
WORKERS = 2


def work(arch: int, *options: str) -> dict[str, dict[str, Any]]:
    """The worker's lines for an architecture, by case."""
    command = [sys.executable, str(HERE / "worker.py"), str(arch), *options]
    path = os.pathsep.join([str(HERE.parent.parent), *filter(None, [os.environ.get("PYTHONPATH")])])
    env = {**os.environ, "PYTHONPATH": path, "TRITON_INTERPRET": "0"}
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=900, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    lines = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    return {line["case"]: line for line in lines}


@functools.cache
def _started() -> dict[int, concurrent.futures.Future[dict[str, dict[str, Any]]]]:
    pool = concurrent.futures.ThreadPoolExecutor(WORKERS)
    return {arch: pool.submit(work, arch) for arch in ARCHS}


@pytest.mark.parametrize("case", [case.name for case in CASES])
@pytest.mark.parametrize("arch", ARCHS)
def test_compiles(arch: int, case: str) -> None:
    line = _started()[arch].result()[case]
    assert "error" not in line, line["error"]
    for kernel in line["kernels"]:
        assert not kernel["problems"], (kernel["name"], kernel["problems"], {**kernel, "mma": None})
        if kernel["gemm"] and line["path"] == "native":  # a fallback to 16-bit arithmetic would be silent
            assert all(re.search(kernel["expect"], name) for name in kernel["mma"]), kernel["mma"]
    if line["path"] in ("native", "upcast"):
        assert any(kernel["gemm"] for kernel in line["kernels"])


@pytest.mark.parametrize("arch", ARCHS)
def test_values_are_not_loaded_by_the_byte(arch: int) -> None:
    """Where K is a multiple of the step, no mask may hide that 4 bytes and more can be loaded at once."""
    narrow = {}
    for name, line in _started()[arch].result().items():
        for kernel in line.get("kernels", ()):
            few = 4  # a narrow tile of scales may need single bytes
            if kernel["gemm"] and "K=" not in name and kernel["loads"].get("1", 0) > few:
                narrow[name] = kernel["loads"]
    assert not narrow


def test_native_where_the_table_says_so() -> None:
    for arch in ARCHS:
        path = _started()[arch].result()["matmul nvfp4 x nvfp4 M=128"]["path"]
        assert (path == "native") == target_info(arch).native_fp4


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
