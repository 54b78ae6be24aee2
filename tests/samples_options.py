"""Samples for test_compile.py: the quantizers' options. SAMPLES: operators with arguments; COMPILED: public functions with arguments."""

import torch

import tritonfp4

OPS = torch.ops.tritonfp4
BF16, E4M3, F32 = torch.bfloat16, torch.float8_e4m3fn, torch.float32
SEED = torch.tensor([1234567890123])


def x(*shape, dtype=BF16, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def quantize(format, rule, *rest, input=None, scale=None, scale_from="tensor", pad=False):
    input = x(6, 96) if input is None else input
    return OPS.quantize, (input, scale, None, format, rule, 448, scale_from, 0, pad, "auto", *rest)


SAMPLES = {
    "quantize nvfp4 2-D": quantize("nvfp4", "static_6", True),
    "quantize nvfp4 2-D mse padded": quantize("nvfp4", "mse", True, input=x(6, 40, dtype=F32), pad=True),
    "quantize mxfp4 2-D 3-D input": quantize("mxfp4", "static_6", True, input=x(2, 3, 96), scale_from="none"),
    "quantize nvfp4 stochastic": quantize("nvfp4", "mae", False, "stochastic", SEED),
    "quantize nvfp4 stochastic unbiased per row": quantize(
        "nvfp4", "static_6", False, "stochastic_unbiased", SEED, scale_from="row"
    ),
    "quantize mxfp4 stochastic 2-D": quantize("mxfp4", "static_6", True, "stochastic", SEED, scale_from="none"),
    "quantize nvfp4 of e4m3": quantize(
        "nvfp4", "static_6", input=x(6, 96).to(E4M3).view(torch.uint8), scale=torch.ones(1) * 9, scale_from="encode"
    ),
    "quantize mxfp4 of e4m3": quantize(
        "mxfp4", "static_6", input=x(6, 96).to(E4M3).view(torch.uint8), scale_from="none"
    ),
    "rotate bf16": (OPS.rotate, (x(6, 96), x(16, 16), "auto")),
    "rotate fp32 3-D by bf16": (OPS.rotate, (x(2, 3, 96, dtype=F32), x(32, 32), "torch")),
}


def bytes_of(results):
    return [t.view(torch.uint8) if t.ndim else t for t in results]


def with_every_option(a, had, seed):
    return bytes_of(
        tritonfp4.quantize_to_fp4(
            a, block_scale_2d=True, had=had, round_style=tritonfp4.RoundStyle.stochastic, transpose=True, seed=seed
        )
    )


COMPILED = {
    "quantize_to_fp4, every option": (with_every_option, (x(96, 6), x(16, 16), SEED)),
    "quantize_to_fp4, unbiased, mxfp4's seed a number": (
        lambda a: [
            *bytes_of(tritonfp4.quantize_to_fp4(a, round_style="stochastic", unbiased=True, seed=5)),
            *bytes_of(tritonfp4.quantize_to_fp4(a, round_style="stochastic", fp4_format="mxfp4", seed=6)),
        ],
        (x(6, 40),),
    ),
    "fp4_matmul, options": (
        lambda a, b, had: tritonfp4.fp4_matmul(
            a,
            b,
            a_quantize_kwargs={"had": had, "round_style": "stochastic", "unbiased": True, "seed": 7},
            b_quantize_kwargs={"had": had, "block_scale_2d": True},
        ),
        (x(6, 32), x(10, 32, seed=1), tritonfp4.hadamard_matrix(16, "te")),
    ),
    "quantize, 2-D and stochastic": (
        lambda a, seed: tritonfp4.quantize(a, tile_2d=True, rounding="stochastic", seed=seed),
        (x(6, 96), SEED),
    ),
    "fp4_quantize of e4m3": (lambda a, g: tritonfp4.fp4_quantize(a, g), (x(6, 96).to(E4M3), torch.ones(1) * 9)),
    "hadamard_matrix": (lambda signs: tritonfp4.hadamard_matrix(16, signs), (x(16),)),
    "hadamard_matrix, TransformerEngine's": (
        lambda a: a @ tritonfp4.hadamard_matrix(16, "te", a.dtype),
        (x(3, 16),),
    ),
}
