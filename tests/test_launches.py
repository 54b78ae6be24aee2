"""A launch that is found again by its key ends where Triton's own does, and nothing that Triton must decide is skipped."""

import itertools

import pytest
import torch
from gemm_checks import fp8_operand

from tritonfp4.config import Config

launch = pytest.importorskip("tritonfp4.kernels.launch")


class Compiled:
    """What Triton compiled; remembers its launches."""

    def __init__(self):
        self.launches = []

    def __getitem__(self, grid):
        return lambda *args: self.launches.append((grid, args))


class Kernel:
    """A jit function; every ``kernel[grid](...)`` compiles anew, and remembers what it was given."""

    def __init__(self):
        self.pre_run_hooks, self.runs, self.results = [], [], []

    def __getitem__(self, grid):
        def run(*args, **options):
            self.runs.append((grid, args, options))
            self.results.append(Compiled())
            return self.results[-1]

        return run


@pytest.fixture
def kernel():
    return Kernel()


def test_a_key_is_compiled_once_and_then_launched_with_all_arguments(kernel):
    launches = launch.Launches(kernel)
    launches(("key",), 0, 7, (1, 2), num_warps=4)
    launches(("key",), 0, 9, (3, 4), num_warps=4)
    assert kernel.runs == [((7,), (1, 2), {"num_warps": 4})]
    assert kernel.results[0].launches == [((9, 1, 1), (3, 4))]


def test_another_key_another_gpu_and_other_options_of_triton_are_compiled(kernel, monkeypatch):
    launches = launch.Launches(kernel)
    for key, device in ((("a",), 0), (("b",), 0), (("a",), 1)):
        launches(key, device, 1, ())
    assert len(kernel.runs) == 3
    monkeypatch.setattr(launch.triton.knobs.runtime, "debug", not launch.triton.knobs.runtime.debug)
    launches(("a",), 0, 1, ())
    monkeypatch.setattr(launch.triton.knobs.compilation, "instrumentation_mode", "other")
    launches(("a",), 0, 1, ())
    assert len(kernel.runs) == 5
    assert not any(compiled.launches for compiled in kernel.results)


def test_tensors_without_memory_leave_nothing_behind(kernel):
    launches = launch.Launches(kernel)
    launches((), -1, 1, ())
    launches((), -1, 1, ())
    assert len(kernel.runs) == 2 and not any(compiled.launches for compiled in kernel.results)


@pytest.mark.parametrize("where", ["before each run", "stages"])
def test_hooks_are_asked_each_time_and_what_they_made_is_not_kept(kernel, monkeypatch, where):
    launches = launch.Launches(kernel)
    with monkeypatch.context() as patch:
        if where == "stages":
            patch.setattr(launch.triton.knobs.runtime, "add_stages_inspection_hook", lambda: ("key", "hash"))
        else:
            patch.setattr(kernel, "pre_run_hooks", [lambda *args, **options: None])
        launches((), 0, 1, ())
        launches((), 0, 1, ())
        assert len(kernel.runs) == 2
    launches((), 0, 1, ())
    launches((), 0, 1, ())
    assert len(kernel.runs) == 3 and [len(compiled.launches) for compiled in kernel.results] == [0, 0, 1]


def test_what_triton_did_not_compile_is_not_kept(kernel, monkeypatch):
    launches = launch.Launches(kernel)
    monkeypatch.setattr(Kernel, "__getitem__", lambda self, grid: lambda *args, **options: self.runs.append(grid))
    launches((), 0, 1, ())
    launches((), 0, 1, ())
    assert len(kernel.runs) == 2


def operands(mode, m, n, k, padding, dtype):
    """Left and right operand, groups and out; rows of the elements and of out are `padding` bytes wider than they need be."""
    count = 1 if mode == "batch" else 3
    blocks = -(-k // 128)
    a = torch.zeros(m, k + padding, dtype=torch.uint8).view(torch.float8_e4m3fn)[:, :k]
    b = torch.zeros(count, n, k + padding, dtype=torch.uint8).view(torch.float8_e4m3fn)[..., :k]
    b_scale = torch.zeros(count, -(-n // 128), blocks)
    out = torch.zeros(m, n + padding, dtype=dtype)[:, :n]
    left = fp8_operand(a, torch.zeros(m, blocks), 1)
    if mode == "batch":
        return left, fp8_operand(b[0], b_scale[0], 128), None, out
    return left, fp8_operand(b, b_scale, 128), torch.zeros(9, dtype=torch.int32), out


def kinds_of_launches(kernel, seen):
    """A stand-in for `Launches` that appends the key of a launch and what Triton itself tells kernels apart by."""
    from triton.backends.compiler import GPUTarget
    from triton.compiler.compiler import make_backend
    from triton.runtime.jit import JITFunction, create_function_from_signature

    if not hasattr(kernel, "signature"):  # this process interprets it
        kernel = JITFunction(kernel.fn, do_not_specialize=kernel.kwargs["do_not_specialize"])
    binder = create_function_from_signature(kernel.signature, kernel.params, make_backend(GPUTarget("cuda", 90, 32)))

    def spy(key, device, programs, args, **options):
        _, specialization, rest = binder(*args, **options)
        constants = [arg for arg, kind in zip(args, specialization, strict=True) if kind[0] == "constexpr"]
        seen.append((key, str((specialization, constants, rest))))

    return spy


def test_equal_keys_of_ragged_groups_mean_equal_kernels(monkeypatch):
    scales_of_groups = pytest.importorskip("tritonfp4.kernels.hopper.scales")
    found, seen = {}, []
    monkeypatch.setattr(scales_of_groups, "_launch", kinds_of_launches(scales_of_groups.spread_scales_kernel, seen))
    for rows, blocks, count, dtype in itertools.product(
        (1, 2, 15, 16, 33), (1, 2, 16, 17), (1, 2, 16), (torch.int32, torch.int64)
    ):
        memory, offsets = torch.rand(64, 64), torch.zeros(count + 2, dtype=dtype)
        views = (memory[:rows, :blocks], memory[:blocks, :rows].t(), memory[1 : 1 + rows, 1 : 1 + blocks])
        for scales, at in itertools.product(views, (0, 1)):
            scales_of_groups.spread_scales(scales, offsets[at : at + count + 1])
            key, kind = seen.pop()
            assert found.setdefault(key, kind) == kind
    assert 1 < len(set(found.values())) <= len(found)


def test_equal_keys_of_the_hopper_kernel_mean_equal_kernels(monkeypatch):
    hopper = pytest.importorskip("tritonfp4.kernels.hopper.launch")
    found, seen = {}, []
    drawn = torch.zeros(1, dtype=torch.int32)
    spy = kinds_of_launches(hopper.matmul_fp8_hopper_kernel, seen)
    monkeypatch.setattr(hopper, "_launch", spy)
    monkeypatch.setattr(hopper, "spread_scales", lambda scales, _: (scales.new_zeros(scales.shape[1], 64), drawn))
    configs = [Config("hopper", 64, 128, n, w, 8, pair=2) for n in (16, 64) for w in (8, 12)]
    configs.append(Config("hopper", 128, 128, 128, 12, 5, 8))
    shapes = itertools.product(
        (1, 7, 16, 40, 200), (16, 24, 136), (128, 144, 8192), (0, 16), (torch.bfloat16, torch.float16)
    )
    for (m, n, k, padding, dtype), mode in itertools.product(shapes, ("batch", "indptr")):
        a, b, groups, out = operands(mode, m, n, k, padding, dtype)
        for config, offset in itertools.product(configs, (0, 1) if groups is not None else (0,)):
            moved = None if groups is None else groups[offset : offset + 4]
            hopper.matmul_fp8_hopper(a, b, moved, mode, out, config)
            key, kind = seen.pop()
            assert found.setdefault(key, kind) == kind
    assert 1 < len(set(found.values())) <= len(found)
