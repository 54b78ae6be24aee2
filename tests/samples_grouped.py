"""Samples for test_compile.py: FP8, MXFP8 and grouped GEMMs. SAMPLES: operators with arguments; COMPILED: public functions with arguments."""

import gemm_checks as C
import torch
from gemm_checks import fp8_operand

import tritonfp4 as T
from tritonfp4.layouts import SfLayout

OPS = torch.ops.tritonfp4
U8, F32, BF16, F16 = torch.uint8, torch.float32, torch.bfloat16, torch.float16


def flat(t):
    """The flat arguments of one operand of the matmul operators."""
    if isinstance(t, torch.Tensor):
        return t, None, None, "", 2, 0, t.shape[-1]
    return t.values, t.scales, t.global_scale, t.format.name, int(t.layout), t.row_shuffle, t.cols


def dense(**options):
    """Both operands of a product with fp32 scales."""
    p = C.groupwise(6, 24, 144, **options).args
    return fp8_operand(p["a"], p["a_scale"], 1), fp8_operand(p["b"], p["b_scale"], 128)


def scalar(types=(C.E4M3, C.E4M3)):
    """Both operands of a batched product with one scale each."""
    p = C.bmm_fp8(2, 6, 24, 96, types).args
    return tuple(
        T.BlockScaledTensor(
            x.view(U8), torch.empty(0), g, T.formats.FORMATS["fp8_e5m2" if x.dtype == C.E5M2 else "fp8"],
            SfLayout.layout_linear, tuple(x.shape), batched=True,
        )
        for x, g in ((p["A"], p["A_scale"]), (p["B"].transpose(1, 2), p["B_scale"]))
    )  # fmt: skip


def mx(rows, seed, lead=()):
    values, codes, _ = C.mxfp8(rows, 96, seed, lead=lead)
    return T.BlockScaledTensor(
        values.view(U8), codes.flatten(), None, T.MXFP8, SfLayout.layout_linear, tuple(values.shape), batched=bool(lead)
    )


def ragged_fp8():
    p = C.group_fp8((2, 0, 3), 24, 144, "K", before=1, after=1).args
    return (fp8_operand(p["a"], p["a_scale"], 1), fp8_operand(p["b"], p["b_scale"], 128)), p["m_indptr"]


def matrices(x, format="nvfp4"):
    """A batched tensor of linear scales."""
    each = [T.quantize(one, format, layout=SfLayout.layout_linear) for one in x]
    g = None if each[0].global_scale is None else torch.cat([t.global_scale for t in each])
    values, scales = torch.stack([t.values for t in each]), torch.cat([t.scales for t in each])
    return T.BlockScaledTensor(values, scales, g, each[0].format, SfLayout.layout_linear, tuple(x.shape), batched=True)


def random(*shape):
    return torch.randn(shape, generator=C.generator(1)).to(BF16)


FP8, MIXED, (RAGGED, INDPTR) = dense(), dense(types=(C.E4M3, C.E5M2)), ragged_fp8()
INDICES = torch.tensor([-1, 0, 0, 2, 2, 1, -1], dtype=torch.int32)
COUNTS, WEIGHTS = torch.tensor([6, 2], dtype=torch.int32), matrices(random(2, 24, 96))
INDPTR4 = torch.tensor([0, 2, 6], dtype=torch.int32)


def both(a, b):
    return *flat(a), *flat(b)


SAMPLES = {
    "matmul fp8 bf16": (OPS.matmul, (*both(*FP8), BF16, "auto")),
    "matmul fp8 e4m3 by e5m2 fp16": (OPS.matmul, (*both(*MIXED), F16, "auto")),
    "matmul mxfp8 fp32": (OPS.matmul, (*both(mx(6, 1), mx(24, 2)), F32, "auto")),
    "matmul_out fp8 bf16": (OPS.matmul_out, (*both(*FP8), "auto", torch.empty(6, 32, dtype=BF16)[:, :24])),
    "matmul_out fp8 fp16": (OPS.matmul_out, (*both(*MIXED), "torch", torch.empty(6, 24, dtype=F16))),
    "quantized_matmul bf16": (OPS.quantized_matmul, (random(6, 144), *flat(FP8[1]), BF16, "auto")),
    "quantized_matmul_out, wider rows": (
        OPS.quantized_matmul_out, (random(6, 144), *flat(FP8[1]), "auto", torch.empty(6, 32, dtype=F16)[:, :24])),
    "grouped_matmul ragged fp8 bf16": (OPS.grouped_matmul, (*both(*RAGGED), INDPTR, "indptr", BF16, "auto")),
    "grouped_matmul ragged fp8 fp16": (OPS.grouped_matmul, (*both(*RAGGED), INDPTR, "indptr", F16, "torch")),
    "grouped_matmul of rows": (OPS.grouped_matmul, (*both(*RAGGED), INDICES, "indices", BF16, "auto")),
    "grouped_matmul batch of scalar scales": (OPS.grouped_matmul, (*both(*scalar()), None, "batch", BF16, "auto")),
    "grouped_matmul batch of both types": (
        OPS.grouped_matmul, (*both(*scalar((C.E5M2, C.E4M3))), None, "batch", F16, "auto")),
    "grouped_matmul masked mxfp8": (
        OPS.grouped_matmul, (*both(mx(6, 1, (2,)), mx(24, 2, (2,))), COUNTS, "masked", BF16, "auto")),
    "grouped_matmul ragged nvfp4": (
        OPS.grouped_matmul,
        (*both(T.quantize(random(6, 96), layout=SfLayout.layout_linear), WEIGHTS), INDPTR4, "indptr", BF16, "auto")),
    "grouped_matmul ragged bf16 by nvfp4": (
        OPS.grouped_matmul, (*both(random(6, 96), WEIGHTS), INDPTR4, "indptr", BF16, "auto")),
    "grouped_matmul_out ragged fp8": (
        OPS.grouped_matmul_out, (*both(*RAGGED), INDPTR, "indptr", "auto", torch.empty(7, 24, dtype=BF16))),
    "grouped_matmul_out ragged fp8 fp16, wider rows": (
        OPS.grouped_matmul_out, (*both(*RAGGED), INDPTR, "indptr", "auto", torch.empty(7, 32, dtype=F16)[:, :24])),
    "grouped_matmul_out batch": (
        OPS.grouped_matmul_out, (*both(*scalar()), None, "batch", "auto", torch.empty(2, 6, 24, dtype=F16))),
}  # fmt: skip


def tensors_of(problem):
    """Names and values of the tensor arguments, and the other arguments."""
    names = [name for name, value in problem.args.items() if isinstance(value, torch.Tensor)]
    return names, tuple(problem.args[name] for name in names), {n: v for n, v in problem.args.items() if n not in names}


def compiled(problem):
    """A public function as a function of its tensors alone."""
    names, tensors, rest = tensors_of(problem)
    if problem.dtype_arg == "dtype":
        rest["dtype"] = BF16

    def run(*given):
        return getattr(T, problem.function)(**dict(zip(names, given, strict=True)), **rest)

    return run, tensors


def into(problem, dtype):
    """The same with an `out` made inside."""
    names, tensors, rest = tensors_of(problem)
    rest[problem.dtype_arg] = dtype

    def run(*given):
        out = torch.zeros(problem.want.shape, dtype=dtype)
        getattr(T, problem.function)(**dict(zip(names, given, strict=True)), **rest, out=out)
        return out

    return run, tensors


COMPILED = {name: compiled(make()) for name, make in C.EACH.items()}
COMPILED |= {f"{name}, out": into(make(), F16) for name, make in C.EACH.items()}
COMPILED |= {
    "fp8_blockscale_gemm_sm90, MN input scale": compiled(C.sm90(5, 64, 384, form="MN")),
    "mm_mxfp8, 8x4": compiled(C.mm_mxfp8(5, 136, 128, eight=True)),
    "group_gemm_fp8_nt_groupwise, K-major": compiled(C.group_fp8((2, 0, 3), 24, 144, "K", 128)),
    "group_gemm_mxfp4_nt_groupwise": compiled(C.group_mxfp4((2, 0, 3), 24, 128, C.E5M2)),
    "prepare_bf16_fp4_weights": (
        lambda b, sf, g: [t * 1 for t in T.prepare_bf16_fp4_weights(b, sf, g)],
        tuple(C.mm_bf16_fp4(4, 24, 64).args[name] for name in ("b", "b_descale", "alpha"))),
    "grouped_matmul": (lambda a, b, m: T.grouped_matmul(a, b, m), (*RAGGED, INDPTR)),
    "grouped_matmul, m_indices": (lambda a, b, m: T.grouped_matmul(a, b, m_indices=m, out_dtype=F16), (*RAGGED, INDICES)),
    "grouped_matmul, masked_m": (lambda a, b, m: T.grouped_matmul(a, b, masked_m=m), (mx(6, 1, (2,)), mx(24, 2, (2,)), COUNTS)),
}  # fmt: skip
