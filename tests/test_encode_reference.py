"""Element and scale encoders of the reference against independent exact oracles."""

import numpy as np
import pytest
import torch

from tritonfp4.reference import encode
from tritonfp4.reference.quantize import e8m0_scale

MAGNITUDES = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6])
TIES = (0.25, 0.75, 1.25, 1.75, 2.5, 3.5, 5.0)


def e4m3_formula(byte):
    """Value of an e4m3 byte from its fields."""
    sign, exponent, mantissa = byte >> 7, byte >> 3 & 15, byte & 7
    if byte & 0x7F == 0x7F:
        return float("nan")
    size = mantissa * 2.0**-9 if exponent == 0 else (8 + mantissa) * 2.0 ** (exponent - 10)
    return -size if sign else size


E4M3 = np.array([e4m3_formula(byte) for byte in range(0x7F)])


def nearest_even(a, table):
    """Index of the entry of `table` nearest to each a >= 0 (exact in fp64), ties to the even index, saturating."""
    a = np.minimum(a, 2 * table[-1])
    out = np.empty(a.shape, dtype=np.uint8)
    for start in range(0, a.size, 4096):
        distance = np.abs(a[start : start + 4096, None] - table[None])
        nearest = distance == distance.min(1, keepdims=True)
        even = nearest & (np.arange(len(table)) % 2 == 0)
        out[start : start + 4096] = np.where(even.any(1), even.argmax(1), nearest.argmax(1))
    return out


def e2m1_oracle(y):
    y = np.asarray(y, dtype=np.float64)
    code = nearest_even(np.abs(np.where(np.isnan(y), 0, y)), MAGNITUDES) | np.signbit(y).astype(np.uint8) << 3
    return np.where(np.isnan(y), 7, code)


def every_bf16():
    """All 65536 bf16 values as fp32."""
    bits = torch.arange(65536, dtype=torch.int32) << 16
    return bits.view(torch.float32)


def around(values):
    """fp32 values and their neighbours on both sides."""
    v = np.asarray(values, dtype=np.float32)
    inf = np.float32(np.inf)
    return np.concatenate([np.nextafter(v, -inf), v, np.nextafter(v, inf)])


# ---- e2m1 ----


def test_e2m1_encodes_every_bf16_to_the_nearest_value_ties_to_even():
    x = every_bf16()
    assert np.array_equal(encode.e2m1_encode(x).numpy(), e2m1_oracle(x.numpy()))


def test_e2m1_encodes_ties_and_their_fp32_neighbours_exactly():
    x = around([*TIES, *(-t for t in TIES), *MAGNITUDES, *-MAGNITUDES])
    assert np.array_equal(encode.e2m1_encode(torch.from_numpy(x)).numpy(), e2m1_oracle(x))


@pytest.mark.parametrize(
    ("y", "code"),
    [(0.25, 0), (0.75, 2), (1.25, 2), (1.75, 4), (2.5, 4), (3.5, 6), (5.0, 6), (5.000001, 7), (6.0, 7), (7.0, 7)],
)
def test_e2m1_intervals_of_the_specification(y, code):
    assert encode.e2m1_encode(torch.tensor([y, -y])).tolist() == [code, code + 8]


@pytest.mark.parametrize(
    ("y", "code"),
    [(float("inf"), 7), (-float("inf"), 15), (float("nan"), 7), (-float("nan"), 7), (-0.0, 8), (-1e-45, 8)],
)
def test_e2m1_special_values(y, code):
    assert encode.e2m1_encode(torch.tensor([y])).tolist() == [code]


def test_e2m1_decodes_every_code():
    want = [*MAGNITUDES, *-MAGNITUDES]
    got = encode.e2m1_decode(torch.arange(16, dtype=torch.uint8))
    assert got.dtype == torch.float32
    assert got.tolist() == want
    assert torch.signbit(got).tolist() == [False] * 8 + [True] * 8  # code 8 is -0


def test_e2m1_encode_undoes_decode():
    codes = torch.arange(16, dtype=torch.uint8)
    assert torch.equal(encode.e2m1_encode(encode.e2m1_decode(codes)), codes)


def test_pack_puts_the_even_element_in_the_low_nibble():
    assert encode.pack(torch.tensor([[1, 2, 0xF, 0]], dtype=torch.uint8)).tolist() == [[0x21, 0x0F]]


def test_unpack_undoes_pack_for_every_byte():
    packed = torch.arange(256, dtype=torch.uint8).reshape(4, 64)
    assert torch.equal(encode.pack(encode.unpack(packed)), packed)


# ---- e4m3 ----


def test_e4m3_decodes_every_byte_by_the_formula():
    got = encode.e4m3_decode(torch.arange(256, dtype=torch.uint8)).numpy()
    want = np.array([e4m3_formula(byte) for byte in range(256)], dtype=np.float32)
    assert np.array_equal(got, want, equal_nan=True)
    assert np.array_equal(np.signbit(got)[[0, 0x80]], [False, True])


def test_e4m3_decodes_every_byte_as_torch_does():
    codes = torch.arange(256, dtype=torch.uint8)
    assert torch.equal(
        encode.e4m3_decode(codes).nan_to_num(999), codes.view(torch.float8_e4m3fn).to(torch.float32).nan_to_num(999)
    )


@pytest.mark.parametrize(
    ("byte", "value"),
    [(1, 2**-9), (7, 7 * 2**-9), (8, 2**-6), (0x38, 1), (0x70, 128), (0x78, 256), (0x7C, 384), (0x7E, 448)],
)
def test_e4m3_table_of_the_specification(byte, value):
    assert encode.e4m3_decode(torch.tensor([byte], dtype=torch.uint8)).item() == value
    assert encode.e4m3_encode(torch.tensor([float(value)])).item() == byte


def test_e4m3_encodes_every_bf16_to_the_nearest_value_ties_to_even_saturating():
    x = every_bf16()[:0x7F81]  # 0 to inf
    assert np.array_equal(encode.e4m3_encode(x).numpy(), nearest_even(x.double().numpy(), E4M3))


def test_e4m3_encodes_midpoints_and_their_fp32_neighbours_exactly():
    x = around(np.concatenate([(E4M3[1:] + E4M3[:-1]) / 2, E4M3[1:], [449, 464, 480, 512]]))
    assert np.array_equal(encode.e4m3_encode(torch.from_numpy(x)).numpy(), nearest_even(x.astype(np.float64), E4M3))


def test_e4m3_encodes_negative_values_with_the_sign_bit():
    x = torch.cat([every_bf16()[:0x7F81], torch.from_numpy(around((E4M3[1:] + E4M3[:-1]) / 2))])
    assert torch.equal(encode.e4m3_encode(-x), encode.e4m3_encode(x) | 0x80)


def test_e4m3_encodes_nan_as_7f():
    assert encode.e4m3_encode(torch.tensor([float("nan"), -float("nan")])).tolist() == [0x7F, 0x7F]


def test_e4m3_flushes_the_tie_at_2_to_the_minus_10_to_zero():
    x = torch.from_numpy(around([2.0**-10]))
    assert encode.e4m3_encode(x).tolist() == [0, 0, 1]


# ---- e8m0 ----


def test_e8m0_decodes_every_byte():
    got = encode.e8m0_decode(torch.arange(256, dtype=torch.uint8)).numpy()
    want = np.append(np.ldexp(np.float64(1), np.arange(255) - 127), np.nan).astype(np.float32)
    assert got[0] == 2.0**-127
    assert np.array_equal(got, want, equal_nan=True)


def e8m0_oracle(v, rule):
    """Exponent byte by the real-valued meaning of the rule, exact by the mantissa f in [1/2, 1) and exponent of v."""
    f, e = np.frexp(np.asarray(v, dtype=np.float64))
    power = {
        "static_6": np.where(f <= 0.75, e - 3, e - 2),  # the least k with v <= 6 * 2^k
        "static_4": np.where(f == 0.5, e - 3, e - 2),  # the least k with v <= 4 * 2^k
        "floor": e - 3,  # floor(log2 v) - 2
        "even": np.where(f >= 0.875, e - 2, e - 3),  # the same of v rounded to one mantissa bit, ties up
    }[rule]
    return np.where(v == 0, 0, np.clip(power + 127, 0, 254)).astype(np.uint8)


MX_RULES = ("static_6", "static_4", "floor", "even")


@pytest.mark.parametrize(
    ("rule", "codes"),
    [
        ("floor", [127, 127, 127, 127, 127, 127, 128]),
        ("static_6", [127, 127, 127, 128, 128, 128, 128]),
        ("static_4", [127, 128, 128, 128, 128, 128, 128]),
        ("even", [127, 127, 127, 127, 128, 128, 128]),
    ],
)
def test_e8m0_codes_of_the_table_in_the_specification(rule, codes):
    assert e8m0_scale(torch.tensor([4, 5, 6, 6.5, 7, 7.5, 8]), rule).tolist() == codes


@pytest.mark.parametrize("rule", MX_RULES)
def test_e8m0_code_of_every_finite_bf16_is_the_real_valued_rule(rule):
    """Zero and subnormals included."""
    v = every_bf16()[:0x7F80]
    assert np.array_equal(e8m0_scale(v, rule).numpy(), e8m0_oracle(v.numpy(), rule))


@pytest.mark.parametrize("rule", MX_RULES)
def test_e8m0_code_of_every_fp32_mantissa_is_the_real_valued_rule(rule):
    """One binade with all 2^23 mantissas."""
    v = (torch.arange(1 << 23, dtype=torch.int32) | 129 << 23).view(torch.float32)
    assert np.array_equal(e8m0_scale(v, rule).numpy(), e8m0_oracle(v.numpy(), rule))


@pytest.mark.parametrize("rule", MX_RULES)
def test_e8m0_code_at_the_rule_s_thresholds_in_every_binade(rule):
    """6, 4 and 7 times a power of two with both fp32 neighbours, where v / 6 is a normal number."""
    powers = np.ldexp(1.0, np.arange(-126, 126))
    v = around(np.concatenate([6 * powers[:-1], 4 * powers, 7 * powers[:-1]]))
    v = v[v >= np.float32(6 * 2.0**-126)]
    assert np.array_equal(e8m0_scale(torch.from_numpy(v), rule).numpy(), e8m0_oracle(v, rule))


def test_rceil_of_subnormal_quotients_follows_the_bits():
    """Where fl(v * fl(1/6)) is subnormal the code is 1 above 2^-127, else 0."""
    v = (torch.arange(1 << 16, dtype=torch.int32) * 397 + 1).view(torch.float32)  # subnormals and the first binades
    v = v[v < 6 * 2.0**-126]
    u = v.numpy() * np.float32(1 / 6)
    assert np.all(u < np.float32(2.0**-126))
    assert {0, 1} == set(e8m0_scale(v, "static_6").tolist())
    assert np.array_equal(e8m0_scale(v, "static_6").numpy(), (u > np.float32(2.0**-127)).astype(np.uint8))


@pytest.mark.parametrize("rule", MX_RULES)
@pytest.mark.parametrize(("v", "code"), [(0.0, 0), (1e-45, 0), (float("inf"), 254), (float("nan"), 255)])
def test_e8m0_special_values(rule, v, code):
    assert e8m0_scale(torch.tensor([v]), rule).tolist() == [code]


@pytest.mark.parametrize("rule", ["static_6", "static_4"])
def test_rules_that_never_clip_scale_every_amax_to_at_most_the_largest_element(rule):
    v = every_bf16()[1:0x7F80].double()
    scaled = v / encode.e8m0_decode(e8m0_scale(v.float(), rule)).double()
    assert scaled.max() <= (6 if rule == "static_6" else 4)
