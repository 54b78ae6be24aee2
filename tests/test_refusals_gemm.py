"""flashinfer's FP8, MXFP8 and grouped GEMMs, and the verb grouped_matmul, refuse bad arguments by name, in words that callers of the original match."""

import dataclasses
import inspect
import re

import gemm_checks as C
import pytest
import torch
from gemm_checks import fp8_operand
from refusals import Case, each, message_of, takes_anything, unnamed, unrefused

import tritonfp4
from tritonfp4.flashinfer import gemm

U8, I32, F32, BF16, F16 = torch.uint8, torch.int32, torch.float32, torch.bfloat16, torch.float16
E4M3, E5M2, META = torch.float8_e4m3fn, torch.float8_e5m2, "meta"
ALIASES = {"group_gemm_mxfp4_nt_groupwise", "nvfp4_block_scale_interleave"}


def x(*shape, dtype=BF16, device="cpu"):
    return torch.ones(shape, device=device).to(dtype)


def with_dtype(problem):
    return problem.args | ({"dtype": BF16} if problem.dtype_arg == "dtype" else {})


SM90, SM90_BF16 = C.sm90(4, 64, 256).args, C.sm90(4, 64, 256, "bf16").args
PLAIN = {"input": SM90_BF16["input"], "input_scale": None}
PLAIN_WEIGHT = {"weight": SM90_BF16["weight"], "weight_scale": None}
MX = C.mm_mxfp8(4, 128, 128).args
MASKED = C.masked((3, 0, 5), 5, 24, 144).args
NV = C.mm_bf16_fp4(4, 24, 64).args

ROWS = fp8_operand(C.fp8(8, 144), C.scales_of(8, 2), 1)
WEIGHTS = fp8_operand(C.fp8(3, 24, 144), C.scales_of(3, 1, 2), 128)
STACK = fp8_operand(C.fp8(3, 5, 144), C.scales_of(3, 5, 2), 1)

#: Function and keyword arguments that it accepts.
VALID = {
    "fp8_blockscale_gemm_sm90": SM90,
    "gemm_fp8_nt_groupwise": C.groupwise(4, 24, 256).args,
    "gemm_fp8_nt_blockscaled": C.groupwise(4, 24, 256, "MN", 128).args,
    "bmm_fp8": with_dtype(C.bmm_fp8(2, 4, 24, 64)),
    "mm_mxfp8": MX,
    "bmm_mxfp8": with_dtype(C.bmm_mxfp8(2, 4, 24, 64)),
    "mm_bf16_fp4": NV,
    "prepare_bf16_fp4_weights": {name: NV[name] for name in ("b", "b_descale", "alpha")},
    "group_gemm_fp8_nt_groupwise": C.group_fp8((3, 0, 5), 24, 144, before=0, after=0).args,
    "group_deepgemm_fp8_nt_groupwise": C.group_indices((3, 0, 5), 24, 144).args,
    "batch_deepgemm_fp8_nt_groupwise": MASKED,
    "group_gemm_mxfp8_mxfp4_nt_groupwise": C.group_mxfp4((3, 0, 5), 24, 128, before=0, after=0).args,
    "group_gemm_nvfp4_nt_groupwise": C.group_nvfp4((3, 0, 5), 24, 128, before=0, after=0).args,
    "grouped_matmul": {"a": ROWS, "b": WEIGHTS, "m_indptr": C.offsets((3, 0, 5))},
}
#: Parameters that take any value: hints, and switches.
ANYTHING = {
    *((name, "skip_check") for name in VALID if name not in ("prepare_bf16_fp4_weights", "grouped_matmul")),
    *((name, "debug") for name in VALID if name.startswith(("group", "batch_"))),
    ("mm_bf16_fp4", "enable_pdl"),
    ("mm_mxfp8", "use_8x4_sf_layout"),  # both values have a meaning; the size of the scales decides
    ("batch_deepgemm_fp8_nt_groupwise", "expected_m"),
}

NOT_A_TENSOR = ["x", [0.0], 3]
NO_BACKEND = ["nonsense", "", 3, None]
TENSOR, DEVICE = "torch.Tensor", "all tensors must share one device"
FLOAT8 = [x(8, 144), x(8, 144, dtype=U8), x(8, 144, dtype=F32)]


def like(function, name, dtype=None, device="cpu", add=(), extra=()):
    """A tensor like a valid one, of another dtype or device or with some sizes increased, or more dimensions before."""
    t = VALID[function][name]
    shape = [n + (add[i] if i < len(add) else 0) for i, n in enumerate(t.shape)]
    return torch.zeros((*extra, *shape), dtype=F32, device=device).to(dtype or t.dtype)


def out_cases(function, shape, text=("Output shape mismatch", "Output dtype mismatch"), dtypes=True):
    """What every function refuses of `out`. `dtypes`: whether a good dtype that is not the one asked for is refused."""
    *lead, m, n = shape
    wrong = [x(*lead, m, n + 1), x(*lead, m + 1, n), x(m * n), x(n, m)]
    wide = torch.empty(*lead, m, 2 * n, dtype=BF16)
    rows = [
        *each(function, "out", NOT_A_TENSOR, None, TENSOR, TypeError),
        *each(function, "out", wrong, None, text[0]),
        *each(function, "out", [x(*shape, dtype=F32), x(*shape, dtype=E4M3)], None, "dtype"),
        *each(function, "out", [x(*shape, device=META)], None, "Output device mismatch"),
        *each(function, "out", [wide[..., ::2]], None, "stride(-1)"),
        *each(function, "out", [torch.empty(1, n, dtype=BF16).expand(shape)], None, "overlap"),
    ]
    asked = "dtype" if "dtype" in VALID[function] else "out_dtype"
    if dtypes:
        rows += each(function, "out", [x(*shape)], {asked: F16}, text[1])
    rows += each(function, asked, [F32, E4M3, torch.float64, "bfloat16", *([None] if asked == "dtype" else [])], None,
                 "Unsupported output dtype")  # fmt: skip
    return rows


def tensor_cases(function):
    """Every tensor argument: something else, and a tensor elsewhere."""
    rows = []
    for i, (name, value) in enumerate(VALID[function].items()):
        if isinstance(value, torch.Tensor):
            rows += each(function, name, NOT_A_TENSOR, None, TENSOR, TypeError)
            if i:
                rows += each(function, name, [like(function, name, device=META)], None, DEVICE, RuntimeError)
            if name != "alpha":
                rows += each(function, name, [None])
    return rows


def fp8_and_scales(function, names=("a", "b"), scales=("a_scale", "b_scale")):
    rows = [
        c
        for name in names
        for c in each(
            function,
            name,
            [like(function, name, dtype) for dtype in (BF16, U8, F32)],
            None,
            f"{name} must be a float8 tensor",
        )
    ]
    return rows + [c for name in scales for c in each(
        function, name, [like(function, name, dtype) for dtype in (BF16, torch.float64, I32)], None,
        f"{name} must be a float32 tensor")]  # fmt: skip


GROUPWISE, BLOCKSCALED, BMM, BMM_MX = "gemm_fp8_nt_groupwise", "gemm_fp8_nt_blockscaled", "bmm_fp8", "bmm_mxfp8"
GROUP, INDEXED, MASK = (
    "group_gemm_fp8_nt_groupwise",
    "group_deepgemm_fp8_nt_groupwise",
    "batch_deepgemm_fp8_nt_groupwise",
)
MXFP4, NVFP4, S90 = "group_gemm_mxfp8_mxfp4_nt_groupwise", "group_gemm_nvfp4_nt_groupwise", "fp8_blockscale_gemm_sm90"
W4A16, PREPARE, VERB = "mm_bf16_fp4", "prepare_bf16_fp4_weights", "grouped_matmul"


FP4_WEIGHTS = tritonfp4.BlockScaledTensor(
    torch.zeros(3, 24, 64, dtype=U8), torch.zeros(3 * 1024, dtype=U8), None, tritonfp4.formats.NVFP4, 0, (3, 24, 128), batched=True
)  # fmt: skip


def changed(t, **parts):
    """The same quantized matrix with other parts."""
    return dataclasses.replace(t, **parts)


def in_groups(a, name, groups):
    """Arguments of grouped_matmul for another kind of groups than VALID's."""
    return {"a": a, "m_indptr": None, name: groups}


def groups_cases(function, name, text):
    t = VALID[function][name]
    return [
        *each(function, name, [t.long(), t.float()], None, f"{name} must be a int32 tensor"),
        *each(function, name, [torch.cat([t, t]), t[:-1], t[None]], None, text),
        *each(function, name, [t - 2, t + 100], None, "out of range"),
    ]


CASES = [
    *(case for function in VALID for case in tensor_cases(function)),
    *(case for function in VALID for case in each(function, "backend", NO_BACKEND, None, "Unknown backend: ")),
    # ---- fp8_blockscale_gemm_sm90 ----
    *each(S90, "input", [x(256), x(1, 4, 256)], None, "must be 2D"),
    *each(S90, "input", [x(4, 384, dtype=E4M3)], None, "K dimension mismatch"),
    Case(S90, "input", {"input": x(4, 200, dtype=E4M3), "weight": x(64, 200, dtype=E4M3)}, "divisible by block size"),
    Case(S90, "input", {"input": x(4, 64), "weight": x(64, 64), "input_scale": None, "weight_scale": None},
         "divisible by block size"),
    *each(S90, "input", [x(4, 256, dtype=F16), x(4, 256, dtype=F32), x(4, 256, dtype=E5M2)], None, "or BF16"),
    *each(S90, "weight", [x(256), x(1, 64, 256)], None, "must be 2D"),
    *each(S90, "weight", [x(64, 128, dtype=E4M3)], None, "K dimension mismatch"),
    *each(S90, "weight", [x(64, 256, dtype=F16), x(64, 256, dtype=U8)], None, "or BF16"),
    Case(S90, "weight", {"weight": SM90_BF16["weight"], "weight_scale": None}, "FP8 input + BF16 weight is not supported"),
    Case(S90, "input_scale", {"input_scale": None}, "input_scale is required when input is FP8"),
    Case(S90, "input_scale", PLAIN | {"input_scale": SM90["input_scale"]}, "input_scale should not be provided for BF16"),
    *each(S90, "input_scale", [x(4, 2), x(4, 2, dtype=torch.float64)], None, "input_scale must be float32"),
    *each(S90, "input_scale", [x(4, 3, dtype=F32), x(8, dtype=F32), x(1, 4, 2, dtype=F32), x(4, 2, dtype=F32).t(),
                               torch.empty(8).as_strided((2, 4), (2, 1))], None, "input_scale shape mismatch"),
    Case(S90, "weight_scale", {"weight_scale": None}, "weight_scale is required when weight is FP8"),
    Case(S90, "weight_scale", PLAIN | PLAIN_WEIGHT | {"weight_scale": SM90["weight_scale"]},
         "weight_scale should not be provided for BF16 weights"),
    *each(S90, "weight_scale", [x(1, 2), x(64, 2, dtype=torch.float64)], None, "weight_scale must be float32"),
    *each(S90, "weight_scale", [x(2, 2, dtype=F32), x(2, 1, dtype=F32), x(2, 64, dtype=F32), x(2, dtype=F32)], None,
          "weight_scale shape mismatch"),
    *each(S90, "input_scale_major", ["k", "M", 1, True]),
    *each(S90, "input_scale_major", ["MN"], None, "input_scale shape mismatch"),
    *out_cases(S90, (4, 64)),
    # ---- gemm_fp8_nt_groupwise, gemm_fp8_nt_blockscaled ----
    *(case for f in (GROUPWISE, BLOCKSCALED) for case in (
        *fp8_and_scales(f),
        *each(f, "a", [x(256, dtype=E4M3), x(1, 4, 256, dtype=E4M3), x(4, 128, dtype=E4M3)], None, "Shape mismatch. a.shape"),
        *each(f, "b", [x(1, 24, 256, dtype=E4M3), x(24, 128, dtype=E4M3)], None, "Shape mismatch. a.shape"),
        *each(f, "a_scale", [like(f, "a_scale", add=(1,)), like(f, "a_scale", add=(0, 1)), x(7, dtype=F32)], None,
              "Shape mismatch. a_scale.shape"),
        *each(f, "b_scale", [like(f, "b_scale", add=(1,)), x(7, dtype=F32)], None, "Shape mismatch. b_scale.shape"),
        *each(f, "scale_major_mode", [None], None, "scale_major_mode is required in CUTLASS"),
        *each(f, "scale_major_mode", ["k", 1, "M"], None, "scale_major_mode must be either 'MN' or 'K'"),
        *each(f, "mma_sm", [0, 3, None, "1", True], None, "mma_sm must be either 1 or 2"),
        *out_cases(f, (4, 24), dtypes=False),
    )),
    Case(GROUPWISE, "scale_major_mode", {"scale_major_mode": "MN"}, "a_scale.shape = (4, 2), want (2, 4) (MN-major"),
    Case(GROUPWISE, "scale_major_mode", {"scale_major_mode": None, "backend": "trtllm"}, "scale_major_mode is required"),
    *each(GROUPWISE, "scale_granularity_mnk", [(1, 1, 128), (128, 128, 64), (128, 1, 128), 128, None, "1"]),
    Case(GROUPWISE, "scale_granularity_mnk", {"scale_granularity_mnk": (128, 128, 128)}, "Shape mismatch. a_scale.shape"),
    # ---- bmm_fp8 ----
    *fp8_and_scales(BMM, "AB", ("A_scale", "B_scale")),
    *each(BMM, "A", [x(4, 64, dtype=E4M3), x(3, 4, 64, dtype=E4M3), x(2, 4, 32, dtype=E4M3)], None, "Shape mismatch. A.shape"),
    *each(BMM, "B", [x(64, 24, dtype=E4M3), x(2, 24, 64, dtype=E4M3)], None, "Shape mismatch. A.shape"),
    *(case for s in ("A_scale", "B_scale") for case in each(BMM, s, [x(2, dtype=F32), x(0, dtype=F32)], None, "must be a scalar")),
    *out_cases(BMM, (2, 4, 24)),
    # ---- mm_mxfp8 ----
    *each("mm_mxfp8", "a", [x(128, dtype=E4M3), x(1, 4, 128, dtype=E4M3)], None, "mm_mxfp8 accepts 2d tensors"),
    *each("mm_mxfp8", "a", [x(4, 160, dtype=E4M3)], None, "K dimension mismatch in mm_mxfp8"),
    *each("mm_mxfp8", "a", [x(4, 128), x(4, 128, dtype=U8), x(4, 128, dtype=E5M2)], None, "a must be a float8_e4m3fn tensor"),
    Case("mm_mxfp8", "a", {"a": x(4, 144, dtype=E4M3), "b": x(144, 128, dtype=E4M3)}, "multiple of 32"),
    Case("mm_mxfp8", "a", {"a": x(4, 96, dtype=E4M3), "b": x(96, 128, dtype=E4M3)}, "MXFP8 requires n >= 128 and k >= 128"),
    *each("mm_mxfp8", "b", [x(1, 128, 128, dtype=E4M3)], None, "mm_mxfp8 accepts 2d tensors"),
    *each("mm_mxfp8", "b", [x(128, 64, dtype=E4M3)], None, "MXFP8 requires n >= 128 and k >= 128"),
    *each("mm_mxfp8", "b", [x(128, 128), x(128, 128, dtype=E5M2)], None, "b must be a float8_e4m3fn tensor"),
    *(case for s in ("a_descale", "b_descale") for case in (
        *each("mm_mxfp8", s, [x(512), x(512, dtype=F32), x(512, dtype=E4M3)], None, f"{s} must be a uint8 tensor"),
        *each("mm_mxfp8", s, [x(1, 128, 4, dtype=U8), x(dtype=U8)], None, f"{s} must be 1D (swizzled) or 2D (non-swizzled)"),
        *each("mm_mxfp8", s, [x(511, dtype=U8), x(1024, dtype=U8)], None, f"{s} shape mismatch for swizzled layout"),
        *each("mm_mxfp8", s, [x(5, 4, dtype=U8), x(256, 4, dtype=U8)], None, f"{s} shape mismatch for non-swizzled layout"),
    )),
    *each("mm_mxfp8", "a_descale", [x(4, 4, dtype=U8)], None, "2D linear scales are not supported", NotImplementedError),
    *each("mm_mxfp8", "b_descale", [x(4, 128, dtype=U8)], None, "2D linear scales are not supported", NotImplementedError),
    Case("mm_mxfp8", "a_descale", {"use_8x4_sf_layout": True}, "a_descale shape mismatch for swizzled layout"),
    Case("mm_mxfp8", "backend", {"backend": "trtllm", "b": x(128, 136, dtype=E4M3), "b_descale": x(1024, dtype=U8)}, "32"),
    *out_cases("mm_mxfp8", (4, 128)),
    # ---- bmm_mxfp8 ----
    *fp8_and_scales(BMM_MX, "AB", ()),
    *each(BMM_MX, "A", [x(4, 64, dtype=E4M3)], None, "bmm_mxfp8 accepts 3d tensors"),
    *each(BMM_MX, "A", [x(2, 4, 32, dtype=E4M3)], None, "K dimension (last dim of A) mismatch in bmm_mxfp8"),
    *each(BMM_MX, "A", [x(3, 4, 64, dtype=E4M3)], None, "batch dimension mismatch"),
    Case(BMM_MX, "A", {"A": x(2, 4, 48, dtype=E4M3), "B": x(2, 48, 24, dtype=E4M3)}, "multiple of 32"),
    *each(BMM_MX, "B", [x(64, 24, dtype=E4M3)], None, "bmm_mxfp8 accepts 3d tensors"),
    *each(BMM_MX, "B", [x(2, 24, 64, dtype=E4M3)], None, "mismatch in bmm_mxfp8"),
    *(case for s in ("A_scale", "B_scale") for case in (
        *each(BMM_MX, s, [x(1024), x(1024, dtype=F32)], None, f"{s} must be a uint8 tensor"),
        *each(BMM_MX, s, [x(2, 128, 4, dtype=U8), x(256, 4, dtype=U8)], None, "bmm_mxfp8 requires 1D swizzled scale tensors"),
        *each(BMM_MX, s, [x(512, dtype=U8), x(2, 511, dtype=U8)], None, "per_batch=True"),
    )),
    *out_cases(BMM_MX, (2, 4, 24)),
    # ---- mm_bf16_fp4, prepare_bf16_fp4_weights ----
    *each(W4A16, "a", [x(64), x(1, 4, 64)], None, "a must be 2-D (M, K)"),
    *each(W4A16, "a", [x(4, 64, dtype=F32), x(4, 64, dtype=E4M3)], None, "a must be bfloat16", TypeError),
    *each(W4A16, "a", [x(4, 32)], None, "encodes K=64"),
    *(case for f in (W4A16, PREPARE) for case in (
        *each(f, "b", [x(24, 32), x(16, 48, dtype=I32)], None, "b must be a uint8 tensor", TypeError),
        *each(f, "b", [x(32, dtype=U8), x(1, 24, 32, dtype=U8)], None, "b must be 2-D (N, K/2)"),
        *each(f, "b", [x(24, 36, dtype=U8), x(24, 4, dtype=U8), x(136, 32, dtype=U8)], None, ""),
        *each(f, "b", [x(24, 36, dtype=U8)], None, "multiple of block_size"),
        *each(f, "b_descale", [x(512), x(512, dtype=U8).view(torch.float8_e8m0fnu)], None, "b_descale", TypeError),
        *each(f, "b_descale", [x(24, 4, dtype=U8), x(513, dtype=U8), x(1, 128, 4, dtype=U8)], None, "size does not match"),
        *each(f, "alpha", [x(1), x(1, dtype=torch.float64)], None, "alpha must be float32", TypeError),
        *each(f, "alpha", [x(2, dtype=F32), x(0, dtype=F32)], None, "alpha must be shape (1,)"),
        *each(f, "block_size", [32, 0, None, "16"], None, "block_size must be 16 for FP4"),
    )),
    *out_cases(W4A16, (4, 24)),
    # ---- group_gemm_fp8_nt_groupwise ----
    *fp8_and_scales(GROUP),
    *each(GROUP, "a", [x(8, 128, dtype=E4M3), x(144, dtype=E4M3), x(1, 8, 144, dtype=E4M3)], None, "Shape mismatch. a"),
    *each(GROUP, "b", [x(24, 144, dtype=E4M3), x(3, 24, 128, dtype=E4M3), x(dtype=E4M3)], None, "Shape mismatch. a"),
    *each(GROUP, "b", [x(3, 20, 144, dtype=E4M3)], None, "n must be a multiple of 8"),
    Case(GROUP, "b", {"a": x(8, 136, dtype=E4M3), "b": x(3, 24, 136, dtype=E4M3)}, "k must be a multiple of 16"),
    *each(GROUP, "a_scale", [x(8, 2, dtype=F32), x(2, 9, dtype=F32), x(1, 8, dtype=F32)], None, "Shape mismatch. a_scale.shape"),
    *each(GROUP, "b_scale", [x(3, 1, 2, dtype=F32), x(2, 1, dtype=F32)], None, "Shape mismatch. b_scale.shape"),
    *groups_cases(GROUP, "m_indptr", "m_indptr must have shape (4,)"),
    *each(GROUP, "scale_granularity_mnk", [(1, 1, 128), (1, 128), 1, None]),
    *each(GROUP, "scale_granularity_mnk", [(128, 128, 128)], None, "Shape mismatch. a_scale.shape"),
    *each(GROUP, "scale_major_mode", [None, "k", 1], None, "scale_major_mode must be either 'MN' or 'K'"),
    *each(GROUP, "scale_major_mode", ["K"], None, "Shape mismatch. a_scale.shape"),
    *each(GROUP, "mma_sm", [0, 3, None, True], None, "mma_sm must be either 1 or 2"),
    *each(GROUP, "segment_alignment", [0, -4, None, 1.5, True], None, "segment_alignment must be >= 1"),
    *out_cases(GROUP, (8, 24), ("Shape mismatch. out.shape", "dtype mismatch. out.dtype")),
    # ---- the DeepGEMM forms ----
    *(case for f in (INDEXED, MASK) for case in (
        *fp8_and_scales(f),
        *each(f, "a", [x(144, dtype=E4M3), like(f, "a", add=(0, 0, 16) if f == MASK else (0, 16))], None, "Shape mismatch. a"),
        *each(f, "b", [x(24, 144, dtype=E4M3), like(f, "b", add=(0, 0, 16)), x(dtype=E4M3)], None, "Shape mismatch. a"),
        *each(f, "a_scale", [like(f, "a_scale", add=(1,)), x(7, dtype=F32)], None, "Shape mismatch. a_scale.shape"),
        *each(f, "b_scale", [like(f, "b_scale", add=(0, 1)), x(3, 2, dtype=F32)], None, "Shape mismatch. b_scale.shape"),
        *each(f, "scale_granularity_mnk", [(1, 1, 128), 1, None]),
    )),
    *groups_cases(INDEXED, "m_indices", "m_indices must have shape (13,)"),
    *groups_cases(MASK, "masked_m", "masked_m must have shape (3,)"),
    *each(MASK, "a", [x(2, 5, 144, dtype=E4M3)], None, "num_groups mismatch"),
    *out_cases(INDEXED, (13, 24), dtypes=False),
    *out_cases(MASK, (3, 5, 24), dtypes=False),
    # ---- grouped_matmul ----
    *each(VERB, "a", [x(8, 144, dtype=F32), x(8, 144, dtype=E4M3)], None, "a has an unsupported dtype", TypeError),
    *each(VERB, "a", [x(8, 144), x(8, 144, dtype=F16)], None, "do not multiply"),
    *each(VERB, "a", NOT_A_TENSOR, None, TENSOR, TypeError),
    Case(VERB, "a", {"a": x(128), "b": FP4_WEIGHTS}, "a must be [M, 128]"),
    Case(VERB, "a", {"a": changed(fp8_operand(C.fp8(16, 144), C.scales_of(16, 2), 1), row_shuffle=16)}, "rows of a are shuffled"),
    Case(VERB, "a", {"a": changed(STACK, batched=False, scales=C.scales_of(15, 2)), "m_indptr": None}, "a must be batched"),
    *each(VERB, "a", [STACK, fp8_operand(C.fp8(8, 128), C.scales_of(8, 1), 1)], None, "a must be [M, 144]"),
    *each(VERB, "a", [changed(ROWS, scales=C.scales_of(8, 3)), changed(ROWS, scales=C.scales_of(7, 2))], None, "a.scales must have shape"),
    Case(VERB, "a", {"a": changed(ROWS, values=ROWS.values[:, :100])}, "a.values of shape"),
    Case(VERB, "a", {"a": changed(ROWS, values=ROWS.values.to(META), scales=ROWS.scales.to(META))}, DEVICE, RuntimeError),
    *each(VERB, "b", [x(3, 24, 144), None, "x", ROWS], None, "b must be a batched BlockScaledTensor", TypeError),
    Case(VERB, "b", {"b": changed(WEIGHTS, scales=C.scales_of(3, 2, 2))}, "b.scales must have shape"),
    Case(VERB, "b", {"b": changed(WEIGHTS, values=torch.zeros(3, 32, 144, dtype=U8))}, "b.values of a batched tensor"),
    Case(VERB, "b", {"b": changed(WEIGHTS, global_scale=C.scales_of(72))}, "one for each of its 3 matrices, got 72"),
    Case(VERB, "m_indptr", {"m_indptr": C.offsets((3, 0, 5)).long()}, "m_indptr must be a int32 tensor"),
    *each(VERB, "m_indptr", [C.offsets((3, 5)), C.offsets((3, 0, 5))[None]], None, "m_indptr must have shape (4,)"),
    *each(VERB, "m_indptr", [C.offsets((3, 0, 6)), C.offsets((3, 0, 5)) - 1], None, "m_indptr has values out of range"),
    Case(VERB, "m_indptr", {"m_indices": torch.zeros(8, dtype=I32)}, "m_indptr and m_indices exclude each other"),
    Case(VERB, "m_indices", in_groups(ROWS, "m_indices", torch.zeros(7, dtype=I32)), "m_indices must have shape (8,)"),
    Case(VERB, "m_indices", in_groups(ROWS, "m_indices", torch.full((8,), 3, dtype=I32)), "m_indices has values out of range"),
    Case(VERB, "m_indices", in_groups(ROWS, "m_indices", [0] * 8), TENSOR, TypeError),
    Case(VERB, "masked_m", in_groups(STACK, "masked_m", torch.zeros(2, dtype=I32)), "masked_m must have shape (3,)"),
    Case(VERB, "masked_m", in_groups(STACK, "masked_m", torch.full((3,), 6, dtype=I32)), "masked_m has values out of range"),
    Case(VERB, "masked_m", in_groups(ROWS, "masked_m", torch.zeros(3, dtype=I32)), "a must be [3, M, 144]"),
    *each(VERB, "out", NOT_A_TENSOR, None, TENSOR, TypeError),
    *each(VERB, "out", [x(8, 25), x(3, 8, 24)], None, "Output shape mismatch"),
    *each(VERB, "out", [x(8, 24, device=META)], None, "Output device mismatch"),
    *each(VERB, "out", [x(8, 24)], {"out_dtype": F16}, "Output dtype mismatch"),
    *each(VERB, "out", [x(8, 48)[:, ::2]], None, "stride(-1)"),
    Case(VERB, "out", in_groups(STACK, "masked_m", torch.zeros(3, dtype=I32)) | {"out": x(1, 5, 24).expand(3, 5, 24)}, "overlap"),
    Case(VERB, "out", in_groups(STACK, "masked_m", torch.zeros(3, dtype=I32)) | {"out": x(300).as_strided((3, 5, 24), (24, 48, 1))},
         "overlap"),
    *each(VERB, "out_dtype", [torch.float64, E4M3, "bfloat16"], None, "Unsupported output dtype"),
    # ---- FP4 weights ----
    *(case for f in (MXFP4, NVFP4) for case in (
        *each(f, "b", [x(3, 24, 64), x(3, 24, 64, dtype=torch.int8)], None, "b must be a uint8 tensor"),
        *each(f, "b", [x(24, 64, dtype=U8), x(3, 24, 32, dtype=U8)], None, "must equal k"),
        *each(f, "b", [x(2, 24, 64, dtype=U8)], None, "b.shape[0] must equal num_groups"),
        *each(f, "b", [x(3, 20, 64, dtype=U8)], None, "n must be a multiple of 8"),
        Case(f, "b", {"a": x(8, 32 if f == NVFP4 else 64, dtype=U8 if f == NVFP4 else E4M3), "b": x(3, 24, 32, dtype=U8)},
             "k must be a multiple of 128"),
        *each(f, "a_scale", [x(2048), x(2048, dtype=E5M2)], None, "a_scale must be a uint8 tensor"),
        *each(f, "a_scale", [x(128, dtype=U8), like(f, "a_scale", add=(1,)), like(f, "a_scale", extra=(1, 1))], None,
              "a_scale size does not match"),
        *each(f, "b_scale", [x(3, 512), x(3, 512, dtype=E5M2)], None, "b_scale must be a uint8 tensor"),
        *each(f, "b_scale", [x(3, 24, 4, dtype=U8), x(2, 512, dtype=U8)], None, "b_scale size does not match"),
        *groups_cases(f, "m_indptr", "b.shape[0] must equal num_groups"),
        *each(f, "tile_m", [64, 0, None, True], None, "tile_m must be 128"),
        *each(f, "tile_n", [16, 0, None], None, "tile_n must be one of"),
        *each(f, "tile_k", [64, 512, None], None, "tile_k must be one of"),
        *each(f, "swap_ab", [2, None, "x", 1], None, "swap_ab must be"),
        *out_cases(f, (8, 24), ("out.shape must be (8, 24)", "out.dtype must be")),
    )),
    *each(MXFP4, "a", [x(8, 128), x(8, 128, dtype=U8)], None, "a must be a float8_e4m3fn or float8_e5m2 tensor"),
    *each(MXFP4, "a", [x(8, 64, dtype=E4M3), x(128, dtype=E4M3)], None, "a.shape[1] must equal k"),
    *each(MXFP4, "mma_sm", [0, 3, None, True], None, "mma_sm must be one of 1, 2"),
    *each(NVFP4, "a", [x(8, 64), x(8, 64, dtype=E4M3)], None, "a must be a uint8 tensor"),
    *each(NVFP4, "a", [x(8, 32, dtype=U8), x(64, dtype=U8)], None, "a.shape[1] * 2 must equal k"),
    *each(NVFP4, "tile_n", [192], None, "tile_n must be one of"),
    *each(NVFP4, "alpha", [x(3), x(3, dtype=torch.float64)], None, "alpha must be a float32 tensor or None"),
    *each(NVFP4, "alpha", [x(2, dtype=F32), x(1, dtype=F32), x(3, 1, dtype=F32)], None, "alpha must be a empty or have shape (3,)"),
]  # fmt: skip


@pytest.mark.parametrize("function", VALID)
def test_valid_arguments_are_accepted(function):
    getattr(tritonfp4, function)(**VALID[function])


@pytest.mark.parametrize("case", CASES, ids=str)
def test_refused(case):
    """Our own error classes only, the original's among their bases, and a message that says which argument and why."""
    message_of(case, getattr(tritonfp4, case.function), VALID[case.function])


def parameters_of(function):
    return inspect.signature(getattr(tritonfp4, function)).parameters


@pytest.mark.parametrize("function", VALID)
def test_every_parameter_has_a_refusal_or_takes_anything(function):
    assert unrefused(function, getattr(tritonfp4, function), CASES) == takes_anything(function, ANYTHING)


@pytest.mark.parametrize("function", VALID)
def test_every_parameter_has_a_refusal_that_names_it(function):
    assert unnamed(function, getattr(tritonfp4, function), VALID[function], CASES) <= takes_anything(function, ANYTHING)


@pytest.mark.parametrize(("function", "name"), sorted(ANYTHING))
@pytest.mark.parametrize("value", [True, 3, False])
def test_parameters_that_take_anything_do(function, name, value):
    args = dict(VALID[function])
    if (name, bool(value)) == ("use_8x4_sf_layout", True):
        args["a_descale"] = args["a_descale"][:32]
    getattr(tritonfp4, function)(**args | {name: value})


def test_every_gemm_is_covered():
    assert set(gemm.__all__) - ALIASES - {"mm_fp4"} == set(VALID) - {VERB}


# ---- the regular expressions of the original's tests ----

TEXTS = {
    "divisible by block size": {"input": x(4, 200), "weight": x(64, 200), "input_scale": None, "weight_scale": None},
    "FP8.*or BF16": {"input": x(4, 256, dtype=F32)},
    "weight_scale is required when weight is FP8": {"weight_scale": None},
    "input_scale should not be provided for BF16": PLAIN | {"input_scale": SM90["input_scale"]},
    "FP8 input.*BF16 weight.*not supported": {"weight": SM90_BF16["weight"], "weight_scale": None},
}


@pytest.mark.parametrize("text", TEXTS)
def test_sm90_errors_match_the_original_s_tests(text):
    with pytest.raises(ValueError, match=text):
        tritonfp4.fp8_blockscale_gemm_sm90(**SM90 | TEXTS[text])


def test_an_output_dtype_is_refused_in_the_original_s_words():
    want = "Unsupported output dtype: torch.float32. Only torch.bfloat16 and torch.float16 are supported for FP8 GEMM operations."
    for function in (GROUPWISE, GROUP):
        with pytest.raises(ValueError, match=re.escape(want[:-1])):
            getattr(tritonfp4, function)(**VALID[function], out_dtype=F32)


# ---- signatures ----

FOUR = "a b a_scale b_scale"
#: Positional parameters in the original's order, required ones before "|", then names with their defaults.
SIGNATURES = {
    S90: ("input weight", {"input_scale": None, "weight_scale": None, "out": None, "out_dtype": None}),
    GROUPWISE: (FOUR, {"scale_major_mode": None, "mma_sm": 1, "scale_granularity_mnk": (1, 128, 128), "out": None,
                       "out_dtype": None, "backend": "cutlass"}),
    BLOCKSCALED: (FOUR, {"scale_major_mode": "MN", "mma_sm": 1, "out": None, "out_dtype": None}),
    BMM: ("A B A_scale B_scale dtype", {"out": None, "backend": "cublas"}),
    "mm_mxfp8": ("a b a_descale b_descale", {"out": None, "out_dtype": BF16, "use_8x4_sf_layout": False, "backend": "auto"}),
    BMM_MX: ("A B A_scale B_scale dtype", {"out": None, "backend": "auto"}),
    W4A16: ("a b b_descale", {"alpha": None}),
    PREPARE: ("b b_descale", {"alpha": None}),
    GROUP: (f"{FOUR} m_indptr", {"scale_granularity_mnk": (1, 128, 128), "scale_major_mode": "MN", "mma_sm": 1, "out": None,
                                 "out_dtype": None, "backend": "trtllm", "segment_alignment": 1}),
    INDEXED: (f"{FOUR} m_indices", {"scale_granularity_mnk": (1, 128, 128), "out": None, "out_dtype": None}),
    MASK: (f"{FOUR} masked_m expected_m", {"scale_granularity_mnk": (1, 128, 128), "out": None, "out_dtype": None,
                                           "backend": "deepgemm"}),
    MXFP4: (f"{FOUR} m_indptr", {"mma_sm": 1, "tile_m": 128, "tile_n": 128, "tile_k": 128, "swap_ab": True, "out": None,
                                 "out_dtype": None}),
    NVFP4: (f"{FOUR} m_indptr", {"alpha": None, "tile_m": 128, "tile_n": 128, "tile_k": 128, "swap_ab": True, "out": None,
                                 "out_dtype": None}),
}  # fmt: skip


@pytest.mark.parametrize("function", SIGNATURES)
def test_positional_parameters_and_defaults_are_the_original_s(function):
    required, optional = SIGNATURES[function]
    found = [p for p in parameters_of(function).values() if p.kind == p.POSITIONAL_OR_KEYWORD]
    want = [(name, inspect.Parameter.empty) for name in required.split()] + list(optional.items())
    assert [(p.name, p.default) for p in found] == want


def test_keyword_only_parameters_of_the_original():
    names = [p.name for p in parameters_of(W4A16).values() if p.kind == p.KEYWORD_ONLY]
    assert names == ["backend", "out_dtype", "out", "block_size", "enable_pdl", "skip_check"]
