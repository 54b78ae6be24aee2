"""What the tests of the Hopper kernels for FP4 weights share: operands with exact products, slots of a ring, launches on the CPU."""

import math
import types

import torch
from fragment_stand_ins import draw, elements_of, scale_values
from gluon_stand_ins import Kernel
from hopper_stand_ins import Descriptor, Pointer, Shared, Stores, load_box, mma, run_program

import tritonfp4 as T
from tritonfp4.device import target_info
from tritonfp4.kernels.fragments import order
from tritonfp4.kernels.hopper import launch_w4, producer, w4, w4_stream
from tritonfp4.layouts import LAYOUTS, SfLayout
from tritonfp4.reference.encode import e2m1_decode

TILED = LAYOUTS[SfLayout.layout_128x4]
FORMATS = {"nvfp4": T.NVFP4, "mxfp4": T.MXFP4}


# ---- operands ----


def weights_of(generator, count, n, k, fmt, global_scale):
    """Matrices of random FP4 weights, so near each other that sums of products are exact, and their values [count, n, k]."""
    form = FORMATS[fmt]
    values, codes = (
        draw(generator, count, n, k // 2),
        draw(generator, count, n, k // form.vec, low=120, high=128 - (fmt == "nvfp4")),
    )
    w = T.BlockScaledTensor(
        values, TILED.from_linear(codes), global_scale, form, SfLayout.layout_128x4, (count, n, k), batched=True
    )
    words = elements_of(values.view(torch.int32)).flatten(-2)
    return w, e2m1_decode(words).double() * scale_values(fmt, codes).repeat_interleave(form.vec, -1)


def matrix_of(generator, n, k, fmt, per=""):
    """One of them, with a global scale (`per` "tensor"), one of each row ("row") or none, and its values [n, k] with that."""
    w, values = weights_of(generator, 1, n, k, fmt, None)
    row = 2.0 ** torch.randint(-3, 4, (n,), generator=generator)
    scale = {"": None, "tensor": torch.tensor([0.5]), "row": row}[per]
    values = values[0] if scale is None else values[0] * scale[:, None]
    return T.BlockScaledTensor(w.values[0], w.scales, scale, w.format, w.layout, (n, k)), values


def tokens_of(generator, *shape, dtype):
    """Whole numbers of 8 bits."""
    return (draw(generator, *shape).double() - 128).to(dtype)


def inside(*shape, dtype=torch.bfloat16, guard=77.0):
    """An output full of NaN in memory that nobody may write."""
    *lead, rows, n = shape
    memory = torch.full((math.prod(lead) * rows + 20, n + 16), guard, dtype=dtype)
    out = memory[10:-10, 8:-8]
    out.fill_(float("nan"))
    return memory, out.unflatten(0, (*lead, rows)) if lead else out


def check_output(memory, out, want):
    assert torch.equal(out, want.to(out.dtype))
    out.fill_(77.0)
    assert (memory == 77).all()


# ---- which memory is multiplied ----


class Slot:
    """What TMA was asked to bring to a place in shared memory, or what lies there else; views of it, one of them a half."""

    def __init__(self):
        self.at, self.half, self.whole, self.held = None, None, self, None

    def index(self, me):
        return self  # of the output's tiles: not used here

    def permute(self, order):
        return self

    def reshape(self, shape):
        return self

    def slice(self, start, length, dim):
        part = Slot()
        part.whole, part.half = self, start // length
        return part

    def coordinates(self, desc):
        of, at = self.whole.at
        assert of is desc
        return at

    def store(self, x):
        assert self.held is None
        self.held = x

    def load(self, layout):
        held, self.held = self.held, None
        return held


def bring(desc, at, barrier, to):
    """Instead of `load_box`."""
    to.at = desc, tuple(at)
    barrier.come(0, -desc.bytes)


# ---- launches ----


class Finish:
    """`finish_w4_kernel`, which is to store what no kernel before it has stored, once."""

    def __init__(self):
        self.kernel = Kernel(w4_stream.finish_w4_kernel, producer, w4, w4_stream, previous=["parts_ptr"])
        self.launches = 0

    def __getitem__(self, grid):
        return lambda *args, **options: self._launch(grid, *args, **options)

    def _launch(self, grid, out, *args, **options):
        self.launches += 1
        before = out.isnan()
        self.kernel[grid](out, *args, **options)
        stored = self.kernel.memories["out_ptr"].stored.as_strided(out.shape, out.stride(), out.storage_offset())
        assert ((stored == 0) | (before & (stored == 1))).all()


class Launches:
    """Launches run on the CPU, into `memory`, as on a GPU of so many SMs."""

    def __init__(self, monkeypatch):
        self.finish = Finish()
        for kernel in (w4.matmul_w4_hopper_kernel, w4_stream.stream_w4_kernel):
            monkeypatch.setattr(kernel, "run", lambda *args, kernel=kernel, **options: self._run(kernel, args, options))
        monkeypatch.setattr(launch_w4, "finish_w4_kernel", self.finish)
        monkeypatch.setattr(launch_w4, "device_info", lambda device: target_info(90, self.sms))
        # the interpreter launches nothing early
        monkeypatch.setattr(launch_w4, "order", lambda a, compute, k, tokens, early, columns: order.order(
            a, compute, k, tokens, False, columns))  # fmt: skip

    def __call__(self, memory, sms=4, late=False):
        self.memory, self.sms, self.late = memory.view(-1), sms, late
        self.finish.launches = 0

    def _run(self, kernel, args, options):
        stores, given = Stores(self.memory), []
        programs, waits = options["grid"][0], []
        for name, x in zip(kernel.fn.__code__.co_varnames, args, strict=False):
            if name == "parts_ptr" and x.dtype == torch.float32:
                x.fill_(float("nan"))
            host = Descriptor(x) if hasattr(x, "block_shape") else x
            given.append(Pointer(host.flatten()) if isinstance(host, torch.Tensor) else host)

        def load(desc, *rest):
            assert desc is not given[0] or waits or not options.get("launch_pdl"), (
                "activations that may not be there yet"
            )
            load_box(desc, *rest)

        for pid in range(programs):
            waits.clear()
            run_program(
                kernel, pid, programs, lambda dtype, shape: Shared(torch.zeros(shape, dtype=dtype)), given, load, self.late,
                _store=stores.store, tma=stores, warpgroup_mma=mma, after_previous=lambda: waits.append(True),
            )  # fmt: skip
        assert not stores.pending


NO_TMA = types.SimpleNamespace(store_wait=lambda n: None)
