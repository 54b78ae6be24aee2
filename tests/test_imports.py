"""Importing the package is free, and every module knows only what stands to its left."""

import ast
import json
import statistics
import subprocess
import sys
from pathlib import Path

import pytest

import tritonfp4

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "tritonfp4"

#: DESIGN.md, "Who may know whom": a room may import rooms of a lower rank, and itself.
RANKS = (
    ("config", "formats", "device"),
    ("layouts",),
    ("checks", "tensor"),
    ("reference", "kernels", "autotune"),
    ("ops",),
    ("verbs",),
    ("flashinfer", "fouroversix", "nn", "checkpoints", "autotune.tuner", "aot"),
    ("",),  # the package itself: the public names
    ("cli",),
    ("__main__",),
)
RANK = {room: rank for rank, rooms in enumerate(RANKS) for room in rooms}
#: Only these import kernels from outside.
KERNEL_USERS = {"ops", "aot"}


def python(code):
    """Output of a fresh interpreter in which the package can be imported."""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout


# ---- what importing does ----

FRESH = """
import json, sys, time, torch
before, start = set(sys.modules), time.perf_counter()
import tritonfp4
print(json.dumps({"seconds": time.perf_counter() - start, "modules": sorted(set(sys.modules) - before)}))
"""
WITHOUT_TRITON = """
import json, sys
class Block:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "triton":
            raise ImportError("no triton here")
sys.meta_path.insert(0, Block())
import torch, tritonfp4 as t
a, b = torch.ones(8, 64), torch.ones(16, 64)
found = {"matmul": t.matmul(t.quantize(a), t.quantize(b)), "fp4": t.fp4_matmul(a, b)}
found = {name: out.unique().tolist() for name, out in found.items()}
try:
    t.quantize(a, backend="triton")
except t.BackendError as error:
    found["error"] = str(error)
print(json.dumps(found | {"imported": "triton" in sys.modules}))
"""
PRODUCTS = """
import sys, torch
import tritonfp4.kernels.products, tritonfp4.kernels.hopper.operands
print("tritonfp4.kernels.matmul_fp8" in sys.modules, [m for m in sys.modules if "kernels.hopper." in m])
"""
NO_CUDA = """
import torch
def refuse(*a, **k):
    raise SystemExit("CUDA was asked")
for name in ("is_available", "init", "_lazy_init", "device_count", "current_device", "get_device_capability",
             "get_device_properties", "current_stream"):
    setattr(torch.cuda, name, refuse)
import tritonfp4
print(torch.cuda.is_initialized())
"""


@pytest.fixture(scope="module")
def fresh():
    """What three fresh interpreters report about the import."""
    return [json.loads(python(FRESH)) for _ in range(3)]


@pytest.fixture(scope="module")
def without_triton():
    return json.loads(python(WITHOUT_TRITON))


def test_importing_the_package_imports_no_triton_no_dynamo_and_no_kernels(fresh):
    new = fresh[0]["modules"]
    assert "tritonfp4.ops" in new
    assert [m for m in new if m.split(".")[0] == "triton" or m.startswith("tritonfp4.kernels") or "dynamo" in m] == []


def test_importing_the_package_costs_at_most_0_3_seconds(fresh):
    """On top of `import torch`; the median of three."""
    assert statistics.median(one["seconds"] for one in fresh) <= 0.3


def test_importing_the_package_touches_no_cuda():
    assert python(NO_CUDA).strip() == "False"


def test_without_triton_the_package_quantizes_and_multiplies_on_the_cpu(without_triton):
    assert (without_triton["matmul"], without_triton["fp4"], without_triton["imported"]) == ([64.0], [64.0], False)


def test_without_triton_the_triton_backend_says_what_is_missing(without_triton):
    assert "need Triton" in without_triton["error"]


def test_the_launchers_of_products_come_without_the_hopper_kernel():
    pytest.importorskip("triton")
    assert python(PRODUCTS).strip() == "True ['tritonfp4.kernels.hopper.operands']"


@pytest.mark.parametrize("module", [tritonfp4, tritonfp4.flashinfer], ids=lambda module: module.__name__)
def test_every_public_name_exists(module):
    assert [name for name in module.__all__ if not hasattr(module, name)] == []


# ---- who imports whom ----


def modules():
    """(dotted name below the package, path) of every module but package __init__ files."""
    for path in sorted(PACKAGE.rglob("*.py")):
        if path.name != "__init__.py":
            yield ".".join(path.relative_to(PACKAGE).with_suffix("").parts), path


def imported(path, name):
    """Modules of the package that a file imports, at any level, as dotted names below the package."""
    is_module = {module for module, _ in modules()} | {p.parent.name for p in PACKAGE.glob("*/__init__.py")}
    package = ("tritonfp4." + name).split(".")[:-1]
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            base = ".".join([*base, *([node.module] if node.module else [])])
            found = [f"{base}.{alias.name}" for alias in node.names]
        else:
            continue
        for full in found:
            parts = full.split(".")
            if parts[0] != "tritonfp4":
                continue
            below = parts[1:]
            while below and ".".join(below) not in is_module:  # a name inside a module, not a module
                below = below[:-1]
            yield ".".join(below)


def room(module):
    """The entry of RANKS that a module belongs to."""
    return module if module in RANK else module.split(".")[0]


MODULES = dict(modules())


@pytest.mark.parametrize("name", MODULES)
def test_every_module_belongs_to_a_room(name):
    assert room(name) in RANK


@pytest.mark.parametrize("name", MODULES)
def test_a_module_imports_only_rooms_to_its_left(name):
    mine = room(name)
    wrong = [
        other
        for other in imported(MODULES[name], name)
        if room(other) != mine and not (room(other) in RANK and RANK[room(other)] < RANK[mine])
    ]
    assert wrong == []


def test_the_import_check_sees_imports_inside_functions():
    """Otherwise the rules here would hold for anything."""
    assert "kernels.quantize" in set(imported(MODULES["ops.quantize"], "ops.quantize"))


@pytest.mark.parametrize("name", [name for name in MODULES if room(name) not in KERNEL_USERS | {"kernels"}])
def test_only_ops_and_aot_import_kernels(name):
    assert [other for other in imported(MODULES[name], name) if room(other) == "kernels"] == []


@pytest.mark.parametrize("name", [name for name in MODULES if room(name) in KERNEL_USERS])
def test_kernels_are_imported_inside_functions_only(name):
    top = [node for node in ast.parse(MODULES[name].read_text()).body if isinstance(node, ast.ImportFrom | ast.Import)]
    assert [
        ast.unparse(node) for node in top if "tritonfp4.kernels" in ast.unparse(node) or "triton." in ast.unparse(node)
    ] == []


@pytest.mark.parametrize("name", [name for name in MODULES if room(name) not in {"kernels", "aot"}])
def test_only_kernels_and_aot_import_triton(name):
    tree = ast.parse(MODULES[name].read_text())
    roots = {
        alias.name.split(".")[0] for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names
    }
    roots |= {(node.module or "").split(".")[0] for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert "triton" not in roots


def named(tree):
    """Full names of the modules that a piece of a file imports, absolute ones."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


#: The rooms of Gluon.
GLUON = ("kernels.hopper.", "kernels.fragments.")


def speaks_gluon(name):
    """Whether a module imports Gluon, itself or by what it imports of the kernels."""
    tree = ast.parse(MODULES[name].read_text())
    top = [node for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom)]
    if any(full.startswith("triton.experimental") for full in named(tree)):
        return True
    known = {full.removeprefix("tritonfp4.").rpartition(".")[0] for node in top for full in named(node)}
    return any(speaks_gluon(other) for other in known & MODULES.keys() if room(other) == "kernels")


@pytest.mark.parametrize("name", [name for name in MODULES if not name.startswith(GLUON)])
def test_gluon_stays_in_the_rooms_of_its_kernels(name):
    """Outside of them, what imports it is itself imported inside functions only."""
    assert not speaks_gluon(name)


@pytest.mark.parametrize(
    ("name", "speaks"),
    [
        ("hopper.launch", True),
        ("hopper.matmul_fp8", True),
        ("hopper.operands", False),
        ("hopper.scales", False),
        ("fragments.launch", True),
        ("fragments.operands", False),
    ],
)
def test_what_the_operators_ask_of_that_room_needs_no_gluon(name, speaks):
    assert speaks_gluon(f"kernels.{name}") == speaks
