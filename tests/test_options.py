"""The meaning of the quantizers' options: noise, unbiased rounding, 2-D tiles, rotations, e4m3 input, enums."""

import itertools
from fractions import Fraction

import numpy as np
import pytest
import torch
from kernel_checks import same_bytes, wide
from test_mse_figures import matrix, squared_error

import tritonfp4 as T
from tritonfp4 import SfLayout, reference
from tritonfp4.reference.encode import e2m1_decode, e2m1_encode, e4m3_decode, unpack
from tritonfp4.reference.stochastic import e2m1_encode_stochastic, philox, random_bits

LINEAR = SfLayout.layout_linear
BF16, U8 = torch.bfloat16, torch.uint8
F = np.float32
GRID = [0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0]


def randn(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def same(first, second):
    return all(same_bytes(a.reshape(-1), b.reshape(-1)) == 0 for a, b in zip(first, second, strict=True))


# ---- the noise ----


def philox_by_hand(counter, key):
    """Philox4x32-10 in Python's integers, as Random123 defines it."""
    c, k = list(counter), list(key)
    for _ in range(10):
        one, two = 0xD2511F53 * c[0], 0xCD9E8D57 * c[2]
        c = [two >> 32 ^ c[1] ^ k[0], two & 0xFFFFFFFF, one >> 32 ^ c[3] ^ k[1], one & 0xFFFFFFFF]
        k = [(k[0] + 0x9E3779B9) & 0xFFFFFFFF, (k[1] + 0xBB67AE85) & 0xFFFFFFFF]
    return c


@pytest.mark.parametrize(
    ("counter", "key", "want"),
    [
        ([0] * 4, [0] * 2, "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
        ([0xFFFFFFFF] * 4, [0xFFFFFFFF] * 2, "408f276d 41c83b0e a20bc7c6 6d5451fd"),
        ([0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344], [0xA4093822, 0x299F31D0],
         "d16cfe09 94fdcceb 5001e420 24126ea1"),
    ],
)  # fmt: skip
def test_the_known_answers_of_philox(counter, key, want):
    assert philox_by_hand(counter, key) == [int(word, 16) for word in want.split()]


@pytest.mark.parametrize("seed", [0, 1, -1, 2**62 + 12345, -(2**63)])
def test_philox_has_the_index_as_counter_and_the_seed_as_key(seed):
    counters = [0, 1, 77, 2**32 - 1, 2**32, 2**35 + 5]
    got = torch.stack(philox(torch.tensor([seed]), torch.tensor(counters)), -1).tolist()
    key = [seed & 0xFFFFFFFF, seed >> 32 & 0xFFFFFFFF]
    assert got == [philox_by_hand([c & 0xFFFFFFFF, c >> 32, 0, 0], key) for c in counters]


@pytest.mark.parametrize("cols", [5, 8, 16])
def test_an_element_takes_half_a_word_by_its_index(cols):
    got = random_bits(torch.tensor([99]), 7, cols)
    for row, col in itertools.product(range(7), range(cols)):
        i = row * cols + col
        word = philox_by_hand([i // 8, 0, 0, 0], [99, 0])[i // 2 % 4]
        assert got[row, col] == (word >> 16 if i % 2 else word & 0xFFFF)


def test_stochastic_codes_are_the_exact_floor():
    """h * floor(|y| / h + w), in fractions."""
    y = torch.cat([randn(4000) * 3, torch.tensor([0.0, 1e-30, 5.999, 7.0, 1e30])]) * torch.tensor([1.0, -1.0])[:, None]
    bits = torch.randint(0, 65536, y.shape, generator=torch.Generator().manual_seed(1), dtype=torch.int32)
    got = e2m1_decode(e2m1_encode_stochastic(y, bits))
    for value, u, rounded in zip(y.flatten().tolist(), bits.flatten().tolist(), got.flatten().tolist(), strict=True):
        a = abs(Fraction(value))
        step = Fraction(1, 2) if a < 2 else Fraction(1) if a < 4 else Fraction(2)
        want = min(step * ((a / step + (u + Fraction(1, 2)) / 65536) // 1), 6)
        assert abs(rounded) == want and (rounded < 0) == (value < 0 and want > 0), (value, u)


def test_grid_points_never_move_and_the_sign_is_kept():
    grid = torch.tensor(GRID)
    for bits in (0, 32767, 32768, 65535):
        u = torch.full((8,), bits, dtype=torch.int32)
        assert torch.equal(e2m1_encode_stochastic(grid, u), torch.arange(8, dtype=U8))
        assert torch.equal(e2m1_encode_stochastic(-grid, u), torch.arange(8, 16, dtype=U8))
    odd = torch.tensor([float("inf"), -float("inf"), float("nan"), 6.1, -1e-30])
    assert e2m1_encode_stochastic(odd, torch.zeros(5, dtype=torch.int32)).tolist() == [7, 15, 7, 7, 8]


@pytest.mark.parametrize("rounding", ["stochastic", "nearest"])
def test_a_matrix_of_grid_points_is_kept_whatever_the_seed(rounding):
    x = torch.tensor(GRID + [-v for v in GRID]).repeat(8, 4)
    for seed in range(4):
        t = T.quantize(x, global_scale=torch.ones(1), rounding=rounding, seed=seed if rounding != "nearest" else None)
        assert torch.equal(t.dequantize(), x)


@pytest.mark.parametrize("value", [0.1, 0.4, 0.5 + 1 / 64, 1.99, 2.25, 3.5, 4.2, 5.9])
def test_the_share_that_is_rounded_up_is_the_distance_from_below(value):
    """65536 draws of one element next to a 6: within five standard deviations."""
    x = torch.full((4096, 32), value)
    x[:, ::16] = 6.0
    got = T.quantize(x, global_scale=torch.ones(1), rounding="stochastic", seed=5).dequantize()
    got = got[:, [c for c in range(32) if c % 16]].flatten()
    low = max(g for g in GRID if g <= value)
    high = min(g for g in GRID if g > value)
    share = (value - low) / (high - low)
    assert set(got.unique().tolist()) == {low, high}
    assert abs((got == high).double().mean().item() - share) < 5 * (share * (1 - share) / got.numel()) ** 0.5


def bias(rounding, rule="static_6", format="nvfp4", draws=100):
    """Relative squared bias, sampling noise removed, and the slope <E[xhat], x> / <x, x>, of one N(0, 1) matrix."""
    x = randn(64, 1024).bfloat16()
    options = {} if format == "mxfp4" else {"amax": x.abs().amax().float().reshape(1)}
    t = T.quantize(x.repeat(draws, 1), format, rule=rule, rounding=rounding, seed=11, **options)
    decoded, x = t.dequantize().double().view(draws, 64, 1024), x.double()
    mean, spread = decoded.mean(0), decoded.var(0) / draws
    energy = x.square().sum()
    return (((mean - x).square() - spread).sum() / energy).item(), ((mean * x).sum() / energy).item()


def test_stochastic_rounding_without_headroom_is_biased_as_measured():
    squared, slope = bias("stochastic")
    assert squared == pytest.approx(1.0e-4, rel=0.25) and slope == pytest.approx(0.9967, abs=5e-4)


def test_stochastic_rounding_with_headroom_is_not():
    squared, slope = bias("stochastic_unbiased")
    assert abs(squared) < 4e-6 and abs(slope - 1) < 2e-4


def test_mxfp4_never_saturates_and_has_no_bias():
    squared, slope = bias("stochastic", format="mxfp4")
    assert abs(squared) < 4e-6 and abs(slope - 1) < 2e-4


def test_four_over_six_is_biased_as_measured():
    squared, slope = bias("stochastic", "mse")
    assert squared == pytest.approx(2.0e-4, rel=0.25) and slope == pytest.approx(0.9963, abs=5e-4)


@pytest.mark.parametrize(
    ("format", "rule", "rounding", "figure"),
    [
        ("nvfp4", "static_6", "stochastic", 1.890e-2), ("nvfp4", "static_6", "stochastic_unbiased", 2.357e-2),
        ("mxfp4", "static_6", "stochastic", 2.704e-2),
    ],
)  # fmt: skip
def test_the_error_of_stochastic_rounding_is_the_published_one(format, rule, rounding, figure):
    x, amax = matrix("normal")
    options = {} if format == "mxfp4" else {"amax": amax}
    t = T.quantize(x[:512], format, rule=rule, rounding=rounding, seed=3, **options)
    assert squared_error(x[:512], t) / t.values.numel() / 2 == pytest.approx(figure, rel=0.01)


@pytest.mark.parametrize(("rule", "low", "high"), [("always_6", 137, 141), ("mse", 122, 126)])
def test_the_distances_that_fouroversix_expects(rule, low, high):
    x = randn(1024, 1024)
    e2m1, sf, normconst = T.quantize_to_fp4(x, scale_rule=rule, round_style="stochastic", seed=1)
    t = T.BlockScaledTensor(e2m1, sf.view(U8), normconst, T.NVFP4, SfLayout.layout_128x4, (1024, 1024))
    assert low < torch.dist(x, t.dequantize()) < high


def test_the_unbiased_global_scale_and_block_scales():
    """G = fl(fl(96 / 17 * 448) / amax), s8 = E4M3(v * fl(G * fl(17 / 96)))."""
    x = wide(32, 64)
    t = T.quantize(x, rounding="stochastic_unbiased", seed=1, layout=LINEAR)
    g = F(F(96 / 17 * 448) / F(x.abs().max()))
    assert t.global_scale.item() == F(1) / g
    v = x.unflatten(1, (4, 16)).abs().amax(-1).numpy()
    want = torch.from_numpy(v * (g * F(17 / 96))).clamp(max=448).to(torch.float8_e4m3fn).view(U8)
    assert torch.equal(t.scales.view(32, 4), want)
    assert (unpack(t.values) & 7).max() <= 7 and not t.dequantize().isnan().any()


def test_seeds():
    x = randn(32, 64)

    def values(seed):
        return T.quantize(x, rounding="stochastic", seed=seed).values

    assert torch.equal(values(7), values(torch.tensor([7]))) and torch.equal(values(7), values(torch.tensor(7)))
    assert not torch.equal(values(7), values(8)) and not torch.equal(values(-7), values(7))
    torch.manual_seed(3)
    drawn = values(None)
    assert not torch.equal(values(None), drawn)
    torch.manual_seed(3)
    assert torch.equal(values(None), drawn)
    before = torch.get_rng_state()
    T.quantize(x), T.quantize_to_fp4(x), values(7)
    assert torch.equal(torch.get_rng_state(), before)  # nothing is drawn without need


def test_leading_dimensions_padding_and_transposes_keep_the_noise_of_an_index():
    x = randn(24, 96)
    want = T.quantize(x, rounding="stochastic", seed=5).values
    assert torch.equal(T.quantize(x.view(2, 12, 96), rounding="stochastic", seed=5).values.view(24, 48), want)
    options = {"scale_rule": "always_6", "round_style": "stochastic", "seed": 5}
    assert torch.equal(T.quantize_to_fp4(x, **options)[0][:24, :48], want)
    assert torch.equal(T.quantize_to_fp4(x.t(), transpose=True, **options)[0][:24, :48], want)
    assert not torch.equal(T.quantize(x.t()[:, :16], rounding="stochastic", seed=5).values, want[:, :8])


# ---- 2-D tiles ----


def slow_tile(x, g, amax, rule):
    """One 16x16 tile of fp32 by four over six, scalar by scalar: errors by the row in order, then i and i + 8, ..."""
    v = F(np.abs(x).max())
    base, best = F(F(v / F(6)) * g), None
    for scaled in (base, F(base * F(1.5))):
        s8 = torch.tensor(float(scaled)).clamp(max=448).to(torch.float8_e4m3fn).view(U8)
        s = F(e4m3_decode(s8).item())
        factor = F(F(1) / F(s * F(F(1) / g)))
        q = e2m1_encode(torch.from_numpy(x * factor))
        d = F(F(e2m1_decode(q).numpy() * s) * amax) / F(6 * 256) - x
        rows = []
        for row in d:
            e = F(0)
            for one in row:
                e = F(e + F(one * one)) if rule == "mse" else F(e + abs(one)) if rule == "mae" else max(e, abs(one))
            rows.append(e)
        while len(rows) > 1:
            half = len(rows) // 2
            rows = [max(a, b) if rule == "abs_max" else F(a + b) for a, b in zip(rows[:half], rows[half:], strict=True)]
        if best is None or rows[0] < best[0]:
            best = rows[0], q, int(s8)
    return best[1:]


@pytest.mark.parametrize("rule", ["mse", "mae", "abs_max"])
def test_2d_four_over_six_equals_the_slow_implementation(rule):
    x = wide(64, 64, seed=3) + randn(64, 64) * 1e-3
    t = T.quantize(x, rule=rule, tile_2d=True, layout=LINEAR)
    amax = F(x.abs().max())
    g = F(F(1536) / amax)
    codes, scales = unpack(t.values), t.scales.view(64, 4)
    for i, j in itertools.product(range(4), range(4)):
        at = slice(16 * i, 16 * i + 16), slice(16 * j, 16 * j + 16)
        q, s8 = slow_tile(x[at].numpy(), g, amax, rule)
        assert torch.equal(codes[at], q) and (scales[16 * i : 16 * i + 16, j] == s8).all()


@pytest.mark.parametrize("rounding", ["nearest", "stochastic"])
@pytest.mark.parametrize(("format", "size"), [("nvfp4", 16), ("mxfp4", 32)])
def test_2d_static_scales_are_those_of_a_block_with_the_maximum_of_the_tile(format, size, rounding):
    x = wide(4 * size, 3 * size, seed=4)
    seed = None if rounding == "nearest" else 1
    t = T.quantize(x, format, tile_2d=True, layout=LINEAR, rounding=rounding, seed=seed)
    tiles = x.unflatten(0, (4, size)).unflatten(2, (3, size))
    alone = torch.zeros(4, 3, size)
    alone[..., 1] = tiles.abs().amax((1, 3))
    want = T.quantize(alone.view(4, -1), format, layout=LINEAR).scales.view(4, 1, 3).expand(4, size, 3)
    assert torch.equal(t.scales.view(4, size, 3), want)


@pytest.mark.parametrize("rule", ["static_6", "static_4"])
@pytest.mark.parametrize("format", ["nvfp4", "mxfp4"])
def test_a_weight_and_its_transpose_get_equal_values(format, rule):
    w = wide(96, 128, seed=5).bfloat16()
    both = [T.quantize(t, format, rule=rule, tile_2d=True).dequantize() for t in (w, w.t())]
    assert torch.equal(both[0], both[1].t())
    assert not torch.equal(T.quantize(w, format).dequantize(), T.quantize(w.t(), format).dequantize().t())


@pytest.mark.parametrize("format", ["nvfp4", "mxfp4"])
@pytest.mark.parametrize("style", ["nearest", "stochastic"])
def test_ragged_2d_tiles_are_filled_up_with_zeros(format, style):
    """And rows of padding get scale 0, as everywhere."""
    x = wide(20, 40, seed=6)
    padded = torch.nn.functional.pad(x, (0, 24 if format == "nvfp4" else 88, 0, 108))
    options = {"fp4_format": format, "block_scale_2d": True}
    got, want = (T.quantize_to_fp4(t, **options) for t in (x, padded))
    assert same(got[:1], want[:1]) and torch.equal(got[2], want[2])
    linear = [
        torch.ops.tritonfp4.relayout(t[1].view(U8), [1, 128, 4], 0, 2, 0, "auto").view(128, 4) for t in (got, want)
    ]
    vec = 32 if format == "mxfp4" else 16
    cols = -(-40 // vec)
    assert torch.equal(linear[0][:20, :cols], linear[1][:20, :cols])
    assert (linear[0][20:] == 0).all() and (linear[0][:, cols:] == 0).all()
    if style == "stochastic":
        noisy = T.quantize_to_fp4(x, **options, round_style=style, seed=1, scale_rule="always_6")
        assert (noisy[0][20:] == 0).all() and (noisy[0][:, 20:] == 0).all()


def test_fewer_rows_than_a_tile():
    x = wide(3, 64)
    for rows in (1, 3):
        t = T.quantize(x[:rows], tile_2d=True, layout=LINEAR)
        assert (t.scales.view(rows, 4) == t.scales.view(rows, 4)[:1]).all()
    assert T.quantize(x[:0], tile_2d=True, rounding="stochastic").values.shape == (0, 32)
    one = wide(1, 64)  # of one row a tile is a block
    assert torch.equal(T.quantize(one, tile_2d=True).values, T.quantize(one).values)


@pytest.mark.parametrize(
    ("name", "rule", "change"),
    [("normal", "static_6", 37.0), ("normal", "mse", 36.7), ("uniform", "mse", -5.7), ("outlier", "static_6", 255)],
)
def test_the_error_of_2d_scales_is_the_published_one(name, rule, change):
    x, amax = matrix(name)
    x = x[:512]
    plain = squared_error(x, T.quantize(x, amax=amax))
    tiled = squared_error(x, T.quantize(x, amax=amax, rule=rule, tile_2d=True))
    assert 100 * (tiled / plain - 1) == pytest.approx(change, abs=1, rel=0.02)


# ---- rotations ----


def test_a_rotation_by_hand():
    x = torch.tensor([[1.0, 10.0, 2.0, -1.0]])
    had = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    assert reference.rotate(x, had).tolist() == [[31.0, 42.0, -1.0, 0.0]]


def test_a_rotation_adds_in_the_order_of_the_rows():
    x = torch.tensor([[1.0, 2.0**25, -(2.0**25), 1.0]])  # 1 is lost in the first addition only
    assert reference.rotate(x, torch.ones(4, 4)).tolist() == [[1.0] * 4]
    assert reference.rotate(x[:, [1, 2, 0, 3]], torch.ones(4, 4)).tolist() == [[2.0] * 4]


@pytest.mark.parametrize("dtype", [BF16, torch.float16, torch.float32])
def test_a_rotation_is_rounded_once_to_the_dtype_of_x(dtype):
    x, had = randn(8, 64).to(dtype), randn(32, 32, seed=1)
    exact = (x.double().view(8, 2, 32) @ had.double()).view(8, 64)
    got = torch.ops.tritonfp4.rotate(x, had, "auto")
    assert got.dtype == dtype
    torch.testing.assert_close(got, exact.to(dtype), rtol=2 * torch.finfo(dtype).eps, atol=1e-5)


@pytest.mark.parametrize("transpose", [False, True])
@pytest.mark.parametrize("style", ["nearest", "stochastic"])
def test_quantizing_with_had_is_quantizing_what_is_rotated(transpose, style):
    """Blocks, amax and normconst are those after the rotation, which comes after the transpose."""
    x, had = wide(64, 96).bfloat16(), randn(16, 16, seed=2).bfloat16()
    options = {"round_style": style, "seed": None if style == "nearest" else 4, "block_scale_2d": True}
    got = T.quantize_to_fp4(x, had=had, transpose=transpose, **options)
    logical = x.t() if transpose else x
    rotated = torch.ops.tritonfp4.rotate(logical, had, "auto")
    assert same(got, T.quantize_to_fp4(rotated, **options))
    assert got[2] == 1 / (1536 / rotated.float().abs().max())


def sylvester(h):
    m = torch.ones(1, 1)
    while len(m) < h:
        m = torch.kron(torch.tensor([[1.0, 1.0], [1.0, -1.0]]), m)
    return m


@pytest.mark.parametrize("h", [1, 2, 16, 64, 128])
def test_hadamard_matrices(h):
    want = sylvester(h)
    got = T.hadamard_matrix(h, dtype=torch.float32)
    assert torch.equal(got, want * torch.tensor(h**-0.5)) and got.dtype == torch.float32
    torch.testing.assert_close(got @ got.T, torch.eye(h))
    signs = randn(h, seed=h)
    assert torch.equal(T.hadamard_matrix(h, signs), (want * h**-0.5 * signs.sign()[:, None]).bfloat16())


def test_the_signs_of_transformer_engine():
    signs = [1, 1, 1, -1, 1, -1, -1, -1, -1, -1, -1, 1, -1, 1, -1, -1]
    got = T.hadamard_matrix(16, "te")
    assert torch.equal(got, (torch.tensor(signs)[:, None] * sylvester(16) / 4).bfloat16()) and got.dtype == BF16


def test_a_rotation_of_both_operands_leaves_the_product_and_spreads_outliers():
    a, b = randn(64, 256), randn(48, 256, seed=1)
    a[:, 7] *= 200
    had = T.hadamard_matrix(16, "te")
    exact = a.double() @ b.double().T

    def distance(kwargs):
        out = T.fp4_matmul(a, b, a_quantize_kwargs=kwargs, b_quantize_kwargs=kwargs, out_dtype="float32").double()
        return ((out - exact).norm() / exact.norm()).item()

    assert distance({"had": had.float()}) < 0.15
    x = torch.nn.functional.one_hot(torch.arange(16)).float() * 6 + randn(16, 16) * 0.1
    plain, rotated = (T.quantize_to_fp4(x, had=h)[2] for h in (None, had))
    assert rotated < 0.5 * plain  # a quarter of the amax


def test_fp4_matmul_passes_the_options_on():
    a, b, had = randn(20, 64), randn(24, 64, seed=1), T.hadamard_matrix(32)
    for_a = {"had": had, "round_style": "stochastic", "unbiased": True, "seed": 9}
    for_b = {"had": had, "block_scale_2d": True, "scale_rule": "mae"}
    packed = {}
    for side, x, kwargs in (("a", a, for_a), ("b", b, for_b)):
        names = (f"{side}_e2m1", f"{side}_sf", f"{side}_normconst")
        packed |= dict(zip(names, T.quantize_to_fp4(x, **kwargs), strict=True))
    got = T.fp4_matmul(a, b, a_quantize_kwargs=for_a, b_quantize_kwargs=for_b)
    assert torch.equal(got, T.fp4_matmul(**packed, out_shape=(20, 24)))


# ---- e4m3 input ----


@pytest.mark.parametrize("inverse", [False, True])
def test_e4m3_input_stands_for_a_share_of_the_amax(inverse):
    """h = fp16(fl(fp8 * fl(6 * fl(1 / G)))), then the rule of plain input."""
    x = torch.arange(256, dtype=U8).view(torch.float8_e4m3fn).view(4, 64)
    given = torch.tensor([0.0137 if inverse else 73.0])
    g = F(1) / F(given.item()) if inverse else F(given.item())
    h = torch.from_numpy(x.float().numpy() * F(F(1) / g * F(6))).half()
    got, want = (T.fp4_quantize(t, given, is_global_scale_inversed=inverse) for t in (x, h))
    assert same(got, want)


def test_the_largest_e4m3_number_stands_for_the_amax():
    x = torch.tensor([[448.0, -448, 224, 0, 1, -2, 72, 36] * 2]).to(torch.float8_e4m3fn)  # 72 is 0.96 of 448 / 6
    values, scales = T.nvfp4_quantize(x, torch.tensor([2688 / 6.0]))  # amax 6
    assert scales[0, 0] == 0x7E  # 448
    assert e2m1_decode(unpack(values))[0, :8].tolist() == [6, -6, 3, 0, 0, 0, 1, 0.5]


def test_e4m3_input_by_rows_shuffled_and_strided():
    x = (randn(32, 64) * 30).to(torch.float8_e4m3fn)
    g = torch.rand(32) * 100 + 1
    want = T.fp4_quantize(x, g)
    for i in (0, 7, 31):
        one = T.fp4_quantize(x[i : i + 1], g[i : i + 1], is_sf_swizzled_layout=False)
        assert torch.equal(one[0][0], want[0][i])
    assert same(T.fp4_quantize(x.t().contiguous().t(), g), want)
    assert same(T.fp4_quantize(x.view(2, 16, 64), g), want)
    plain, shuffled = (T.nvfp4_quantize(x, g[:1], do_shuffle=s) for s in (False, True))
    assert torch.equal(T.shuffle_matrix_a(plain[0], 128), shuffled[0])


def test_mxfp4_takes_e4m3_values_as_they_are():
    x = torch.arange(256, dtype=U8).view(torch.float8_e4m3fn).view(4, 64)
    for layout in SfLayout:
        assert same(T.mxfp4_quantize(x, sfLayout=layout), T.mxfp4_quantize(x.bfloat16(), sfLayout=layout))


# ---- enums ----


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("FP4Format", ["mxfp4", "nvfp4"]), ("DataType", ["bfloat16", "float16", "float32"]),
        ("MatmulBackend", ["cutlass", "pytorch", "triton"]), ("QuantizeBackend", ["cuda", "pytorch", "triton"]),
        ("RoundStyle", ["nearest", "stochastic", "stochastic_unbiased"]),
        ("AdaptiveBlockScalingRule",
         ["abs_max", "always_4", "always_6", "l1_norm", "mse", "static_4", "static_6", "mae"]),
    ],
)  # fmt: skip
def test_the_enums_are_strings(name, values):
    enum = getattr(T, name)
    assert [member.value for member in enum] == values == [member.name for member in enum]
    assert all(enum(value) == value for value in values)


def test_enums_and_strings_mean_the_same():
    x = randn(32, 64)
    for enum, string in (
        ({"round_style": T.RoundStyle.stochastic, "unbiased": True, "seed": 1},
         {"round_style": "stochastic_unbiased", "seed": 1, "scale_rule": "always_6"}),
        ({"fp4_format": T.FP4Format.mxfp4, "round_style": T.RoundStyle.stochastic, "seed": 2},
         {"fp4_format": "mxfp4", "round_style": "stochastic", "seed": 2, "scale_rule": "static_6"}),
        ({"scale_rule": T.AdaptiveBlockScalingRule.l1_norm, "block_scale_2d": True, "backend": T.QuantizeBackend.cuda},
         {"scale_rule": "mae", "block_scale_2d": True, "backend": "cuda"}),
    ):  # fmt: skip
        assert same(T.quantize_to_fp4(x, **enum), T.quantize_to_fp4(x, **string))
