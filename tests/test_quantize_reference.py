"""The reference quantizer against the specification and against independent slow implementations."""

import functools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from slow_quantizers import (
    E4M3,
    FLT_MAX,
    NAN,
    F,
    decoded,
    metric,
    slow_adaptive,
    slow_candidate,
    slow_mxfp4,
    slow_static,
)

import tritonfp4
from tritonfp4 import reference
from tritonfp4.formats import FORMATS, MXFP4, NVFP4
from tritonfp4.layouts import LAYOUTS, SfLayout
from tritonfp4.reference.encode import e2m1_decode, e4m3_decode, e8m0_decode, unpack

INF = float("inf")
LINEAR = SfLayout.layout_linear


def run(x, global_scale=None, fmt=NVFP4, rule="static_6", e4m3_max=448, scale_from="tensor", layout=LINEAR, pad=False):
    """values, scale matrix (linear: [M, C]), decode multipliers."""
    x = torch.as_tensor(x)
    if global_scale is not None:
        global_scale = torch.as_tensor(global_scale, dtype=torch.float32).reshape(-1)
    values, scales, g = reference.quantize(x, global_scale, None, fmt, rule, e4m3_max, scale_from, layout, pad)
    if layout == LINEAR and not pad:
        scales = scales.reshape(x.shape[0], -1)
    return values, scales, g


def codes(values):
    return unpack(values)


def block(*head, fill=0.0, size=16):
    """One row of one block that starts with `head`."""
    return torch.tensor([[*head, *[fill] * (size - len(head))]], dtype=torch.float32)


# ---- 4.4: the worked example ----

EXAMPLE = (3, -1, 0.25, 0.125, -0.125, 0, 0.75, 1.25, -2.5, 0.5, 1, 2, -0.375, 0.625, 1.75, -0.0625)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_the_worked_example(dtype):
    values, scales, g = run(block(*EXAMPLE).to(dtype), 6.0, scale_from="amax")
    assert bytes(values[0].tolist()).hex(" ").upper() == "C7 01 08 43 2E 64 2A 86"
    assert scales.tolist() == [[0x76]]
    assert g.tolist() == [F(1) / F(448)]


# ---- 4.3: special blocks ----


def test_a_zero_block_has_scale_0_and_codes_0():
    values, scales, _ = run(torch.zeros(1, 16), 1.0, scale_from="encode")
    assert (values.tolist(), scales.tolist()) == ([[0] * 8], [[0]])


def test_negative_zeros_give_code_8():
    values, scales, _ = run(torch.full((1, 16), -0.0), 1.0, scale_from="encode")
    assert (values.tolist(), scales.tolist()) == ([[0x88] * 8], [[0]])


def test_an_underflowing_scale_saturates_the_codes_and_keeps_zeros():
    """SF <= 2^-10: s8 = 0, os = FLT_MAX."""
    values, scales, _ = run(block(1e-6, -1e-6, 0.0, 1e-6), 1.0, scale_from="encode")
    assert scales.tolist() == [[0]]
    assert codes(values)[0, :5].tolist() == [7, 15, 0, 7, 0]


def test_an_underflowing_block_next_to_a_large_one_decodes_to_zero():
    t = tritonfp4.quantize(torch.cat([block(448.0), block(1e-6, -1e-6)], 1))
    assert t.to_layout(LINEAR).scales.tolist() == [0x7E, 0]
    assert t.dequantize()[0, 16:].abs().max() == 0


def test_the_smallest_scale_that_does_not_underflow_is_subnormal_1():
    """SF just above 2^-10 rounds up to the code 1."""
    v = np.nextafter(F(6 * 2.0**-10), F(1))
    _, scales, _ = run(block(float(np.nextafter(v, F(1)))), 1.0, scale_from="encode")
    assert scales.tolist() == [[1]]


def test_infinity_takes_scale_448_and_saturates():
    """The finite elements of the block use scale 448."""
    values, scales, g = run(block(INF, -INF, 448.0, -896.0, 6 * 448.0, 1.0))
    assert g.tolist() == [1.0]
    assert scales.tolist() == [[0x7E]]
    assert codes(values)[0, :6].tolist() == [7, 15, 2, 12, 7, 0]


def test_nan_gives_code_7_and_is_ignored_by_the_amax():
    with_nan = run(block(3.0, NAN, -1.0), 6.0, scale_from="amax")
    without = run(block(3.0, 0.0, -1.0), 6.0, scale_from="amax")
    assert with_nan[1].tolist() == without[1].tolist()
    assert codes(with_nan[0])[0].tolist() == [codes(without[0])[0, 0].item(), 7, *codes(without[0])[0, 2:].tolist()]


@pytest.mark.parametrize("nan", [NAN, -NAN])
def test_a_block_of_nan_only_has_scale_7f_and_codes_7(nan):
    values, scales, _ = run(torch.full((1, 16), nan), 1.0, scale_from="encode")
    assert (values.tolist(), scales.tolist()) == ([[0x77] * 8], [[0x7F]])


def test_a_nan_does_not_reach_the_global_scale():
    x = torch.cat([block(3.0, NAN), block(6.0)], 1)
    assert run(x)[2].tolist() == run(torch.nan_to_num(x))[2].tolist()


def test_saturation_with_a_global_scale_that_is_too_large():
    """s8 stops at 448, codes at 7."""
    values, scales, _ = run(block(6000.0, -6000.0), 1e4, scale_from="encode")
    assert scales.tolist() == [[0x7E]]
    assert codes(values)[0, :2].tolist() == [7, 15]


# ---- 4.1: the global scale ----


@pytest.mark.parametrize("amax", [6.0, 1.0, 0.1, 3e-5, 65504.0, 3e38])
def test_the_global_scale_is_d_over_amax_in_fp32(amax):
    g = reference.global_encode_scale(block(0.0, -amax), 2688.0)
    assert g.tolist() == [F(2688) / F(amax)]


def test_the_decode_multiplier_is_the_reciprocal_in_fp32():
    for amax in (0.1, 0.7, 5.5, 37.0):
        assert run(block(amax))[2].tolist() == [F(1) / (F(2688) / F(amax))]


def test_a_tiny_amax_limits_the_global_scale_to_flt_max():
    assert reference.global_encode_scale(block(1e-38), 2688.0).tolist() == [FLT_MAX]


@pytest.mark.parametrize("value", [0.0, -0.0, INF, -INF])
def test_the_global_scale_of_a_zero_or_infinite_amax_is_1(value):
    assert reference.global_encode_scale(block(value, fill=value), 2688.0).tolist() == [1.0]


def test_the_global_scale_of_an_empty_tensor_is_1():
    assert reference.global_encode_scale(torch.zeros(0, 16), 2688.0).tolist() == [1.0]


@pytest.mark.parametrize("g", [FLT_MAX, INF])
def test_a_zero_tensor_is_all_zero_bytes_under_the_global_scales_of_other_libraries(g):
    values, scales, _ = run(torch.zeros(2, 32), g, scale_from="encode")
    assert values.count_nonzero() == scales.count_nonzero() == 0


@pytest.mark.parametrize("rule", ["mse", "mae", "abs_max"])
@pytest.mark.parametrize("g", [FLT_MAX, INF])
def test_a_zero_tensor_is_all_zero_bytes_under_an_adaptive_rule_too(rule, g):
    values, scales, _ = run(torch.zeros(2, 32), g, scale_from="encode", rule=rule, e4m3_max=256)
    assert values.count_nonzero() == scales.count_nonzero() == 0


def test_an_inverse_global_scale_is_turned_around_in_fp32():
    """is_global_scale_inversed: G = fl(1 / g)."""
    x = torch.from_numpy(np.random.default_rng(0).standard_normal((8, 64), dtype=F))
    for g in (0.1, 0.003, 1.7, 1e-5):
        direct = run(x, float(F(1) / F(g)), scale_from="encode")
        inverse = run(x, g, scale_from="decode")
        assert all(torch.equal(a, b) for a, b in zip(direct, inverse, strict=True))


def test_fp4_quantize_takes_the_inverse_global_scale():
    x = torch.from_numpy(np.random.default_rng(0).standard_normal((8, 64), dtype=F))
    g = torch.tensor([0.003])
    direct = tritonfp4.fp4_quantize(x, 1.0 / g)
    inverse = tritonfp4.fp4_quantize(x, g, is_global_scale_inversed=True)
    assert torch.equal(direct[0], inverse[0]) and torch.equal(direct[1], inverse[1])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_a_global_scale_of_another_dtype_is_cast_not_reinterpreted(dtype):
    x = torch.from_numpy(np.random.default_rng(0).standard_normal((4, 32), dtype=F))
    want = tritonfp4.fp4_quantize(x, torch.tensor([448.0]))
    got = tritonfp4.fp4_quantize(x, torch.tensor([448.0], dtype=dtype))
    assert torch.equal(want[0], got[0]) and torch.equal(want[1], got[1])


# ---- 4.5: one global scale a row ----


def rows_of_many_sizes():
    x = np.random.default_rng(1).standard_normal((9, 64), dtype=F)
    x *= np.logspace(-6, 6, 9, dtype=F)[:, None]
    x[4] = 0
    return torch.from_numpy(x)


def test_per_row_multipliers_follow_the_formula():
    """G_r = fl(fl(1/c) / rowamax), g_r = fl(1 / G_r), and 0 for a zero row."""
    x = rows_of_many_sizes()
    c = F(1) / F(2688)
    want = [F(0) if amax == 0 else F(1) / ((F(1) / c) / amax) for amax in x.abs().amax(1).numpy()]
    assert run(x, c, scale_from="row")[2].tolist() == want


def test_per_row_bytes_are_those_of_each_row_under_its_own_global_scale():
    x = rows_of_many_sizes()
    c = F(1) / F(2688)
    values, scales, _ = run(x, c, scale_from="row")
    for r in range(x.shape[0]):
        amax = x[r].abs().amax().numpy()
        g = F(1) if amax == 0 else (F(1) / c) / amax
        row_values, row_scales, _ = run(x[r : r + 1], g, scale_from="encode")
        assert torch.equal(values[r], row_values[0]) and torch.equal(scales[r], row_scales[0]), r


def test_per_row_zero_rows_are_zero_bytes_with_multiplier_zero():
    values, scales, g = run(rows_of_many_sizes(), scale_from="row")
    assert g[4] == 0 and values[4].count_nonzero() == scales[4].count_nonzero() == 0
    assert g.count_nonzero() == 8


def test_a_global_scale_for_each_row_is_applied_to_its_row():
    x = rows_of_many_sizes()
    g = torch.logspace(-3, 3, 9)
    values, scales, decode = run(x, g, scale_from="encode")
    assert torch.equal(decode, 1.0 / g)
    for r in range(9):
        one = run(x[r : r + 1], g[r], scale_from="encode")
        assert torch.equal(values[r], one[0][0]) and torch.equal(scales[r], one[1][0])


def test_per_row_multipliers_follow_their_rows_into_the_shuffled_order():
    x = torch.randn(64, 32, generator=torch.Generator().manual_seed(8)).bfloat16()
    plain, shuffled = (
        tritonfp4.nvfp4_quantize(x, 1 / 2688, do_shuffle=s, per_token_activation=True) for s in (False, True)
    )
    for part in (0, 2):
        assert torch.equal(shuffled[part], tritonfp4.shuffle_matrix_a(plain[part], 128))
    assert not torch.equal(shuffled[2], plain[2])


def test_out_scale_multiplies_the_returned_per_token_scales_only():
    x = rows_of_many_sizes()
    plain = tritonfp4.nvfp4_quantize(x, 1 / 2688, per_token_activation=True)
    scaled = tritonfp4.nvfp4_quantize(x, 1 / 2688, per_token_activation=True, out_scale=torch.tensor([0.3]))
    assert torch.equal(plain[0], scaled[0]) and torch.equal(plain[1], scaled[1])
    assert torch.equal(scaled[2], plain[2] * torch.tensor([0.3]))


# ---- 4.2 and 7 again, one number at a time ----


@functools.cache
def hard_blocks():
    """120 blocks of one tensor: random ones of all sizes, and those that try the corners of the rules."""
    rng = np.random.default_rng(7)
    out = [rng.standard_normal(16, dtype=F) for _ in range(40)]
    out += [rng.standard_normal(16, dtype=F) * F(10.0 ** rng.uniform(-7, 0)) for _ in range(20)]
    out += [rng.laplace(size=16).astype(F) for _ in range(10)]
    out += [rng.uniform(-1, 1, 16).astype(F) for _ in range(10)]
    out += [np.array(rng.choice([0.25, 0.75, 1.25, 1.75, 2.5, 3.5, 5, 6, 4], 16), dtype=F) for _ in range(10)]
    out += [np.full(16, value, dtype=F) for value in (0, -0.0, 1, -3, 1e-6, 3e-6, 1e-5, 4)]
    for head in ((4, 3), (6, 5), (6, 5, 5, 5), (4, 2.5), (1e-6, 1e-38), (8, 7.9), (8,), (-8,), (1e-4, 6e-7)):
        out.append(np.array([*head, *[0] * (16 - len(head))], dtype=F))
    outlier = rng.standard_normal((13, 16), dtype=F)
    outlier[:, 3] = 8
    out += list(outlier)
    assert len(out) == 120
    return torch.from_numpy(np.stack(out)).bfloat16().float().reshape(12, 160)


def blocks_of(x):
    return [row.numpy() for row in x.reshape(-1, 16)]


def split(values, scales):
    """[(codes, scale code)] of every block."""
    return list(zip(codes(values).reshape(-1, 16).tolist(), scales.reshape(-1).tolist(), strict=True))


@pytest.mark.parametrize(("rule", "largest"), [("static_6", 6), ("static_4", 4)])
@pytest.mark.parametrize("g", [None, 100.0, 0.37])
def test_static_rules_equal_the_slow_implementation(rule, largest, g):
    x = hard_blocks()
    scale = F(448 * largest) / F(8) if g is None else F(g)
    values, scales, decode = run(x, g, rule=rule, scale_from="tensor" if g is None else "encode")
    assert decode.item() == F(1) / scale
    assert split(values, scales) == [slow_static(one, scale, largest) for one in blocks_of(x)]


@pytest.mark.parametrize("rule", ["mse", "mae", "abs_max"])
@pytest.mark.parametrize("e4m3_max", [256, 448])
def test_four_over_six_with_the_amax_known_equals_the_slow_implementation(rule, e4m3_max):
    """TransformerEngine's order: candidates are decoded as q * s * amax / (6 * S)."""
    x = hard_blocks()
    amax = F(x.abs().max())
    want = [slow_adaptive(one, F(6 * e4m3_max) / amax, amax, e4m3_max, rule)[:2] for one in blocks_of(x)]
    assert split(*run(x, rule=rule, e4m3_max=e4m3_max)[:2]) == want
    assert split(*run(x, amax, rule=rule, e4m3_max=e4m3_max, scale_from="amax")[:2]) == want


@pytest.mark.parametrize("rule", ["mse", "mae", "abs_max"])
@pytest.mark.parametrize("e4m3_max", [256, 448])
@pytest.mark.parametrize("g", [192.0, 91.7])
def test_four_over_six_with_the_global_scale_known_equals_the_slow_implementation(rule, e4m3_max, g):
    """flashinfer's order: candidates are decoded as q * s * (1 / G)."""
    x = hard_blocks()
    want = [slow_adaptive(one, F(g), None, e4m3_max, rule)[:2] for one in blocks_of(x)]
    assert split(*run(x, g, rule=rule, e4m3_max=e4m3_max, scale_from="encode")[:2]) == want


@pytest.mark.parametrize("rule", ["mse", "mae"])
def test_four_over_six_with_infinite_and_nan_elements_equals_the_slow_implementation(rule):
    rng = np.random.default_rng(3)
    x = rng.standard_normal((8, 16), dtype=F)
    x[1, 3] = NAN
    x[2, 5] = INF
    x[3, 0], x[3, 1] = -INF, NAN
    x[4] = NAN
    want = [slow_adaptive(one, F(91.7), None, 256, rule)[:2] for one in x]
    assert split(*run(x, 91.7, rule=rule, e4m3_max=256, scale_from="encode")[:2]) == want


@pytest.mark.parametrize("rule", ["mse", "mae", "abs_max"])
def test_four_over_six_for_each_row_equals_the_slow_implementation(rule):
    x = hard_blocks()
    want = []
    for row in x:
        amax = F(row.abs().max())
        want += [slow_adaptive(one, F(1536) / amax, amax, 256, rule)[:2] for one in blocks_of(row)]
    assert split(*run(x, rule=rule, e4m3_max=256, scale_from="row")[:2]) == want


def rows_on_ties(factor, seed):
    """One block a row, and for each row a G that puts amax / factor * G next to a tie between two e4m3 codes."""
    rng = np.random.default_rng(seed)
    x = torch.from_numpy(rng.standard_normal((200, 16), dtype=F)).bfloat16().float()
    ties = [(E4M3[c] + E4M3[c + 1]) / 2 for c in rng.integers(60, 118, 200)]
    v = x.abs().amax(1).numpy()
    return x, np.array([F(tie * factor / float(one)) for tie, one in zip(ties, v, strict=True)])


@pytest.mark.parametrize(("rule", "factor"), [("static_6", 6), ("static_4", 4)])
def test_static_scales_on_ties_follow_the_order_of_operations(rule, factor):
    x, g = rows_on_ties(factor, 21)
    want = [slow_static(one.numpy(), scale, factor) for one, scale in zip(x, g, strict=True)]
    assert split(*run(x, g, rule=rule, scale_from="encode")[:2]) == want


@pytest.mark.parametrize("rule", ["mse", "mae", "abs_max"])
@pytest.mark.parametrize("factor", [6, 4])
def test_four_over_six_scales_on_ties_follow_the_order_of_operations(rule, factor):
    """fl(v / 6) * G, and 1.5 times that; neither v / 4 * G nor v * (G / 6)."""
    x, g = rows_on_ties(factor, 22)
    want = [slow_adaptive(one.numpy(), scale, None, 256, rule)[:2] for one, scale in zip(x, g, strict=True)]
    assert split(*run(x, g, rule=rule, e4m3_max=256, scale_from="encode")[:2]) == want


#: Eighths. Blocks whose choice at G = 91.7 depends on the order in which the 16 errors are added.
NEAR_TIES = {
    "mse": [
        [46, 9, -48, 13, 40, 40, -34, 48, 43, -3, -39, 32, 43, -6, -19, 30],
        [42, 17, -40, 18, 16, -39, 24, 2, 8, -2, -26, -40, 7, 10, -28, -34],
        [-2, 24, 38, -13, -43, 20, -38, -15, 42, 20, -7, 42, 5, 12, -17, 20],
        [7, -41, 17, -9, 34, 26, -27, -16, 12, 26, -10, 41, 24, -33, 6, 41],
        [-26, -4, -39, 5, 0, 40, -38, -15, 37, 19, -16, -38, -32, -1, -19, 42],
        [-24, -30, 42, -10, 46, -7, 8, 44, -36, 1, -15, 7, 16, 25, -27, 6],
    ],
    "mae": [
        [-30, 36, 7, 34, 42, 27, 20, 32, 38, 13, 15, 20, 4, 3, 22, -22],
        [43, -3, -42, 38, 34, -33, 30, -25, -23, -24, -25, 28, 6, 2, 38, -41],
        [-18, -8, -19, -23, -3, 2, -29, 13, -30, -31, 16, 3, 26, -21, 18, 14],
        [-3, 10, -16, 5, 26, -22, -8, 1, -37, -4, 15, -42, -23, -24, 6, 34],
        [32, 14, 19, -8, 19, -28, 4, 11, -19, 36, 35, -6, -15, -39, -43, -8],
        [-22, 18, 32, -30, -21, -7, 4, 30, -42, -7, 16, -36, -27, -10, -15, -25],
    ],
}


@pytest.mark.parametrize("rule", NEAR_TIES)
def test_errors_are_added_in_the_order_of_the_elements(rule):
    x = torch.tensor(NEAR_TIES[rule]).float() / 8
    for ordered in (x, x.flip(1)):
        want = [slow_adaptive(one.numpy(), F(91.7), None, 256, rule)[:2] for one in ordered]
        assert split(*run(ordered, 91.7, rule=rule, e4m3_max=256, scale_from="encode")[:2]) == want
    forward, backward = (run(one, 91.7, rule=rule, e4m3_max=256, scale_from="encode")[1] for one in (x, x.flip(1)))
    assert (forward != backward).all()  # the blocks do depend on the order


#: Eighths. Blocks whose choice at amax = 7.3 differs between q * s * amax / 1536 and q * s * (amax / 1536).
NEAR_TIES_OF_AMAX = {
    "mse": [
        [3, -36, 9, 43, 21, -16, 30, -21, 28, 14, -13, -38, -15, -20, 43, 11],
        [45, -10, 39, 25, -9, -13, -20, 25, -7, 7, 40, 40, -4, -18, -10, -11],
        [13, -39, 31, 43, 8, 44, -8, 31, -13, 37, -8, 13, 35, 16, 29, 28],
        [10, -19, -33, 24, 9, -29, -26, -8, 30, -11, 5, 36, -31, -12, 42, 46],
    ],
    "mae": [
        [-7, 0, 31, 13, 7, 18, -40, -2, -9, 5, 1, 40, 45, -47, 45, 13],
        [24, 40, 35, 41, 42, 33, 28, -44, -19, 15, 42, 17, 14, 8, -4, 24],
        [-26, -33, 42, -23, -30, -33, -21, 20, -39, 15, 0, -30, -38, -16, -43, 27],
        [24, -9, 22, 1, 45, -8, 4, 10, 14, -23, 25, -20, 36, -34, -3, 13],
    ],
}


@pytest.mark.parametrize("rule", NEAR_TIES_OF_AMAX)
def test_candidates_are_decoded_in_the_order_of_transformer_engine(rule):
    x = torch.tensor(NEAR_TIES_OF_AMAX[rule]).float() / 8
    amax = F(7.3)
    want = [slow_adaptive(one.numpy(), F(1536) / amax, amax, 256, rule)[:2] for one in x]
    assert split(*run(x, amax, rule=rule, e4m3_max=256, scale_from="amax")[:2]) == want


@pytest.mark.parametrize("rule", ["mse", "mae", "abs_max"])
def test_four_over_six_uses_both_candidates_on_the_hard_blocks(rule):
    """The comparison above would not notice a swap otherwise."""
    amax, g = F(8), F(1536) / F(8)
    x = blocks_of(hard_blocks())
    picks = [slow_adaptive(one, g, amax, 256, rule)[:2] == slow_candidate(one, g, amax, 256, rule, 1)[:2] for one in x]
    assert 20 < sum(picks) < 100


@pytest.mark.parametrize("rule", ["mse", "mae", "abs_max"])
@pytest.mark.parametrize("e4m3_max", [256, 448])
def test_four_over_six_is_never_worse_than_six_by_its_own_metric(rule, e4m3_max):
    x = hard_blocks()
    amax = F(x.abs().max())
    g = F(6 * e4m3_max) / amax
    values, scales, _ = run(x, rule=rule, e4m3_max=e4m3_max)
    for one, (q, s8) in zip(blocks_of(x), split(values, scales), strict=True):
        d = [((decoded(c) * F(E4M3[s8])) * amax) / F(6 * e4m3_max) - e for c, e in zip(q, one, strict=True)]
        error = metric(d, rule)
        assert error <= slow_candidate(one, g, amax, e4m3_max, rule, 1)[2]


def test_four_over_six_keeps_six_on_a_tie():
    """A block that both candidates decode exactly stays at 6 (scale 256 of amax 6 and S = 256)."""
    values, scales, _ = run(block(6.0, 0.0), rule="mse", e4m3_max=256)
    assert scales.tolist() == [[0x78]]
    assert codes(values)[0, :2].tolist() == [7, 0]


def test_four_over_six_takes_four_when_that_is_exact():
    """4, 3 and 2 lie on the grid of a maximum at 4, while 3 = 4.5 / 6 * 4 does not on that of a maximum at 6."""
    values, scales, _ = run(block(4.0, 3.0, 2.0), 4.0, rule="mse", e4m3_max=256, scale_from="amax")
    assert scales.tolist() == [[0x7C]]
    assert codes(values)[0, :3].tolist() == [6, 5, 4]


# ---- 5: MXFP4 ----


@pytest.mark.parametrize("rule", ["static_6", "static_4", "floor", "even"])
def test_mxfp4_equals_the_slow_implementation(rule):
    rng = np.random.default_rng(5)
    x = rng.standard_normal((24, 96), dtype=F) * np.logspace(-37, 37, 24, dtype=F)[:, None]
    x[3, :32] = 0
    x[4, :32] = -0.0
    for column, value in enumerate((4, 5, 6, 6.5, 7, 7.5, 8, 3, 2.5, 1.75, 2.0**-125, 2.0**-127, 2.0**-149, 3e38)):
        x[8 + column, 32:64] = np.clip(rng.standard_normal(32), -1, 1) * F(value)
        x[8 + column, 40] = value
    x = torch.from_numpy(x).bfloat16().float()
    values, scales, g = run(x, fmt=MXFP4, rule=rule, scale_from="none")
    found = list(zip(codes(values).reshape(-1, 32).tolist(), scales.reshape(-1).tolist(), strict=True))
    assert found == slow_mxfp4(x.numpy(), rule)
    assert g.tolist() == [1.0]


def test_mxfp4_ignores_the_global_scale():
    x = torch.from_numpy(np.random.default_rng(0).standard_normal((4, 64), dtype=F))
    one = tritonfp4.fp4_quantize(x, None, 32, True)
    two = tritonfp4.fp4_quantize(x, torch.tensor([123.0]), 32, True)
    assert torch.equal(one[0], two[0]) and torch.equal(one[1], two[1])


@pytest.mark.parametrize(("value", "code"), [(0.0, 0), (INF, 254), (NAN, 255)])
def test_mxfp4_scales_of_special_blocks(value, code):
    assert run(torch.full((1, 32), value), fmt=MXFP4, scale_from="none")[1].tolist() == [[code]]


def test_mxfp4_code_0_comes_with_payload_0_and_the_sign():
    values, scales, _ = run(block(1e-45, -1e-45, 0.0, -0.0, size=32), fmt=MXFP4, scale_from="none")
    assert scales.tolist() == [[0]]
    assert codes(values)[0, :5].tolist() == [0, 8, 0, 8, 0]


def test_mxfp4_nan_gives_code_7_and_is_ignored_by_the_amax():
    values, scales, _ = run(block(6.0, NAN, -1.0, size=32), fmt=MXFP4, scale_from="none")
    assert scales.tolist() == [[127]]
    assert codes(values)[0, :4].tolist() == [7, 7, 10, 0]


# ---- 3: padding of the tuple API ----


@pytest.mark.parametrize("name", ["nvfp4", "mxfp4"])
@pytest.mark.parametrize("shape", [(1, 16), (5, 40), (128, 64), (129, 65), (130, 200), (3, 1)])
def test_the_tuple_api_pads_rows_to_128_and_k_to_four_blocks_with_zero_bytes(name, shape):
    fmt = FORMATS[name]
    rows, cols = shape
    tile = 4 * fmt.vec
    mp, kp = -(-rows // 128) * 128, -(-cols // tile) * tile
    x = torch.from_numpy(np.random.default_rng(0).standard_normal(shape, dtype=F)) + 10
    values, sf, normconst = tritonfp4.quantize_to_fp4(x, fp4_format=name)
    assert values.shape == (mp, kp // 2) and values.dtype == torch.uint8
    assert sf.shape == (mp * kp // fmt.vec,)
    assert sf.dtype == (torch.float8_e4m3fn if name == "nvfp4" else torch.float8_e8m0fnu)
    assert normconst.shape == () and normconst.dtype == torch.float32
    q = codes(values)
    assert q[:rows, :cols].ne(0).all() and q[rows:].count_nonzero() == q[:, cols:].count_nonzero() == 0
    scales = LAYOUTS[SfLayout.layout_128x4].to_linear(sf.view(torch.uint8), mp, kp // fmt.vec)
    used = -(-cols // fmt.vec)
    assert scales[:rows, :used].ne(0).all()
    assert scales[rows:].count_nonzero() == scales[:, used:].count_nonzero() == 0


@pytest.mark.parametrize("name", ["nvfp4", "mxfp4"])
@pytest.mark.parametrize("rule", ["always_6", "always_4"])
def test_the_bits_of_the_tuple_api_do_not_depend_on_padding(name, rule):
    x = torch.from_numpy(np.random.default_rng(0).standard_normal((130, 72), dtype=F))
    whole = torch.zeros(256, 128)
    whole[:130, :72] = x
    for one, two in zip(
        tritonfp4.quantize_to_fp4(x, fp4_format=name, scale_rule=rule),
        tritonfp4.quantize_to_fp4(whole, fp4_format=name, scale_rule=rule),
        strict=True,
    ):
        assert torch.equal(one.view(torch.uint8) if one.ndim else one, two.view(torch.uint8) if two.ndim else two)


def test_the_tuple_api_transposes_before_it_pads():
    x = torch.from_numpy(np.random.default_rng(0).standard_normal((72, 130), dtype=F))
    one = tritonfp4.quantize_to_fp4(x, transpose=True)
    two = tritonfp4.quantize_to_fp4(x.t().contiguous())
    assert one[0].shape == (256, 64)
    assert torch.equal(one[0], two[0]) and torch.equal(one[1].view(torch.uint8), two[1].view(torch.uint8))
    assert torch.equal(one[2], two[2])


@pytest.mark.parametrize(("rule", "d"), [("always_6", 2688), ("always_4", 1792), ("mse", 1536), (None, 1536)])
def test_normconst_is_the_decode_multiplier_of_the_rule(rule, d):
    x = block(0.7, -0.9)
    assert tritonfp4.quantize_to_fp4(x, scale_rule=rule)[2].item() == F(1) / (F(d) / F(0.9))


def test_normconst_of_mxfp4_is_1():
    assert tritonfp4.quantize_to_fp4(block(0.7), fp4_format="mxfp4")[2].item() == 1.0


def test_a_zero_tensor_of_the_tuple_api():
    """TransformerEngine's way: sf 0, values 0, normconst 1."""
    values, sf, normconst = tritonfp4.quantize_to_fp4(torch.zeros(4, 64))
    assert values.count_nonzero() == sf.view(torch.uint8).count_nonzero() == 0
    assert normconst.item() == 1.0


@pytest.mark.parametrize(
    ("first", "second"), [("always_6", "static_6"), ("always_4", "static_4"), ("l1_norm", "mae"), (None, "mse")]
)
def test_both_families_of_names_give_the_same_bits(first, second):
    x = hard_blocks()
    one, two = (tritonfp4.quantize_to_fp4(x, scale_rule=rule) for rule in (first, second))
    assert torch.equal(one[0], two[0]) and torch.equal(one[1].view(torch.uint8), two[1].view(torch.uint8))


# ---- strides and dimensions ----


def views():
    """(name, view) of tensors that are not contiguous or not 2-D."""
    rng = np.random.default_rng(11)
    base = torch.from_numpy(rng.standard_normal((48, 64), dtype=F))
    wide = torch.from_numpy(rng.standard_normal((6, 160), dtype=F))
    return {
        "transposed": torch.from_numpy(rng.standard_normal((64, 48), dtype=F)).t(),
        "sliced rows": base[::3],
        "sliced columns": wide[:, 16:80],
        "every second column": wide[:, ::2][:, :64],
        "expanded rows": base[:1].expand(5, 64),
        "expanded columns": base[:5, :1].expand(5, 64),
        "3-D": base.reshape(4, 12, 64),
        "3-D transposed": base.reshape(4, 12, 64).transpose(0, 1),
        "4-D": base.reshape(2, 2, 12, 64),
        "one row": base[:1],
    }


@pytest.mark.parametrize("name", views())
@pytest.mark.parametrize("format", ["nvfp4", "mxfp4"])
def test_strides_and_leading_dimensions_never_change_the_bits(name, format):
    x = views()[name]
    flat = x.contiguous().reshape(-1, x.shape[-1])
    one, two = tritonfp4.quantize(x, format), tritonfp4.quantize(flat, format)
    assert one.values.shape == (*x.shape[:-1], x.shape[-1] // 2)
    assert torch.equal(one.values.reshape(two.values.shape), two.values)
    assert torch.equal(one.scales, two.scales)


@pytest.mark.parametrize("rows", [0, 1])
@pytest.mark.parametrize("layout", SfLayout)
@pytest.mark.parametrize("format", ["nvfp4", "mxfp4"])
def test_few_rows(rows, layout, format):
    """0-sized M returns empty tensors."""
    t = tritonfp4.quantize(torch.ones(rows, 64), format, layout=layout)
    assert t.values.shape == (rows, 32)
    assert t.scales.shape == (LAYOUTS[layout].numel(rows, 64 // FORMATS[format].vec),)
    assert t.dequantize().shape == (rows, 64)


@pytest.mark.parametrize("layout", SfLayout)
@pytest.mark.parametrize("rule", ["static_6", "mse"])
def test_the_layout_only_moves_the_scale_bytes(layout, rule):
    x = hard_blocks()
    linear, moved = (tritonfp4.quantize(x, rule=rule, layout=kind) for kind in (LINEAR, layout))
    assert torch.equal(linear.values, moved.values)
    assert torch.equal(LAYOUTS[layout].from_linear(linear.scales.reshape(12, 10)), moved.scales)


# ---- invariants over shapes, dtypes and values ----

DTYPES = {torch.bfloat16: np.uint16, torch.float16: np.uint16, torch.float32: np.uint32}
SPECIAL = (
    0.0, -0.0, 0.25, 0.75, 1.25, 1.75, 2.5, 3.5, 5.0, 6.0, -6.0, 4.0, 1e-45, 6e-8, 2.0**-126, 1.18e-38,
    65504.0, 3.38e38, -3.38e38, INF, -INF, NAN,
)  # fmt: skip


@st.composite
def inputs(draw, vec):
    """[M, K] of any dtype: bit patterns of the dtype, with special values in between, times a power of two."""
    dtype = draw(st.sampled_from(list(DTYPES)))
    shape = (draw(st.integers(1, 4)), vec * draw(st.integers(1, 3)))
    numpy_type = DTYPES[dtype]
    bits = draw(hnp.arrays(numpy_type, shape, elements=st.integers(0, np.iinfo(numpy_type).max)))
    special = torch.tensor(SPECIAL).to(dtype)
    index = torch.from_numpy(draw(hnp.arrays(np.int64, shape, elements=st.integers(0, 2 * len(SPECIAL)))))
    x = torch.from_numpy(bits.astype(np.int16 if numpy_type == np.uint16 else np.int32)).view(dtype)
    chosen = torch.where(index < len(SPECIAL), special[index.clamp(max=len(SPECIAL) - 1)], x)
    tame = draw(st.booleans())  # half of the examples: a sane range, where the bound below bites
    return (torch.nan_to_num(chosen.float(), 1, 2, 3).clamp(-100, 100) if tame else chosen.float()).to(dtype)


def half_step_bound_holds(x, q, scale, g):
    """|q * scale * g - x| <= half a step of e2m1 at |x|, plus the rounding of the fp32 products (6 operations)."""
    unit = scale.double() * g.double()
    size = x.double().abs() / unit
    half = torch.where(size < 2, 0.25, torch.where(size < 4, 0.5, 1.0))
    error = (q.double() * unit - x.double()).abs()
    return bool((error <= half * unit + 6 * 2.0**-24 * x.double().abs()).all())


@settings(max_examples=120, deadline=None, derandomize=True)
@given(inputs(16), st.sampled_from(["static_6", "static_4", "mse", "mae", "abs_max"]), st.sampled_from(list(SfLayout)))
def test_nvfp4_invariants(x, rule, layout):
    """Shapes, dtypes, padding, and half a step of error in every finite block with a normal scale."""
    rows, cols = x.shape
    values, scales, g = run(x, rule=rule, e4m3_max=256, layout=layout)
    assert (values.shape, values.dtype) == ((rows, cols // 2), torch.uint8)
    assert (scales.reshape(-1).shape, scales.dtype) == ((LAYOUTS[layout].numel(rows, cols // 16),), torch.uint8)
    assert (g.shape, g.dtype) == ((1,), torch.float32)
    s8 = LAYOUTS[layout].to_linear(scales.reshape(-1), rows, cols // 16)
    assert scales.count_nonzero() == s8.count_nonzero()
    assert not (s8 & 0x80).any()
    blocks, q = x.float().reshape(rows, -1, 16), e2m1_decode(codes(values)).reshape(rows, -1, 16)
    normal = blocks.isfinite().all(-1) & (s8 >= 8) & (g > 2.0**-100) & (g < 2.0**100)
    normal &= ~x.isinf().any()  # G is 1 then, and scales saturate
    assert half_step_bound_holds(blocks[normal], q[normal], e4m3_decode(s8.contiguous())[normal][:, None], g)
    assert torch.equal(q.signbit() & ~blocks.isnan(), blocks.signbit() & ~blocks.isnan())


@settings(max_examples=120, deadline=None, derandomize=True)
@given(inputs(32), st.sampled_from(["static_6", "static_4"]), st.sampled_from(list(SfLayout)))
def test_mxfp4_invariants(x, rule, layout):
    """Shapes, dtypes, padding, and half a step of error in every finite block that the rules do not clip."""
    rows, cols = x.shape
    values, scales, g = run(x, fmt=MXFP4, rule=rule, layout=layout, scale_from="none")
    assert (values.shape, values.dtype) == ((rows, cols // 2), torch.uint8)
    assert (scales.reshape(-1).shape, scales.dtype) == ((LAYOUTS[layout].numel(rows, cols // 32),), torch.uint8)
    assert g.tolist() == [1.0]
    s8 = LAYOUTS[layout].to_linear(scales.reshape(-1), rows, cols // 32)
    assert scales.count_nonzero() == s8.count_nonzero()
    blocks, q = x.float().reshape(rows, -1, 32), e2m1_decode(codes(values)).reshape(rows, -1, 32)
    normal = blocks.isfinite().all(-1) & (s8 > 0)
    scale = e8m0_decode(s8.contiguous())[normal][:, None]
    assert half_step_bound_holds(blocks[normal], q[normal], scale, torch.ones(1))
    assert torch.equal(q.signbit() & ~blocks.isnan(), blocks.signbit() & ~blocks.isnan())


@settings(max_examples=40, deadline=None, derandomize=True)
@given(inputs(16))
def test_quantizing_a_decoded_matrix_again_with_its_global_scale_keeps_its_values(x):
    """Only where the block's largest code is 7, so that the block scale is found again."""
    t = tritonfp4.quantize(torch.nan_to_num(x.float(), 1, 2, -2).clamp(-100, 100), layout=LINEAR)
    again = tritonfp4.quantize(t.dequantize(), global_scale=t.global_scale, layout=LINEAR)
    full = (codes(t.values).reshape(-1, 16) & 7).amax(1) == 7
    exact = full & (t.scales >= 8)
    assert torch.equal(
        t.dequantize().reshape(-1, 16)[exact].double(), again.dequantize().reshape(-1, 16)[exact].double()
    )
