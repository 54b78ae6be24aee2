"""Quantizers of FP4 written a second time, from the specification, one number at a time: what the reference must equal."""

import functools

import numpy as np

F = np.float32
FLT_MAX = np.finfo(np.float32).max
NAN = float("nan")
MAGNITUDES = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)
E4M3 = [m * 2.0**-9 if e == 0 else (8 + m) * 2.0 ** (e - 10) for e in range(16) for m in range(8)][:127]


def e2m1(y):
    """Code of one fp32 number: exact distances, ties to even."""
    if np.isnan(y):
        return 7
    a = min(abs(float(y)), 12.0)
    code = min(range(8), key=lambda c: (abs(a - MAGNITUDES[c]), c & 1))
    return code + 8 * bool(np.signbit(y))


@functools.cache
def e4m3(x):
    """Code of one fp32 number >= 0: exact distances, ties to even, saturating."""
    if np.isnan(x):
        return 0x7F
    a = min(float(x), 900.0)
    return min(range(127), key=lambda c: (abs(a - E4M3[c]), c & 1))


def decoded(code):
    return F(-MAGNITUDES[code - 8] if code > 7 else MAGNITUDES[code])


def amax_of(values):
    return max((abs(v) for v in values if not np.isnan(v)), default=F(NAN))


def slow_static(x, g, largest):
    """Section 4.2: codes and scale code of one block."""
    v = amax_of(x)
    t = g * (F(1) / F(largest))
    scale = F(0) if v == 0 else v * t
    s8 = e4m3(min(scale, FLT_MAX) if not np.isnan(scale) else scale)
    os = F(0) if v == 0 else (F(1) / (F(NAN if s8 == 0x7F else E4M3[s8]) * (F(1) / g)))
    os = FLT_MAX if os > FLT_MAX else os
    return [e2m1(e * os) for e in x], s8


def metric(differences, rule):
    """Error of a block from its 16 fp32 differences, accumulated in order."""
    error = F(0)
    for d in differences:
        if rule == "mse":
            error = error + d * d
        elif rule == "mae":
            error = error + abs(d)
        elif abs(d) > error:
            error = abs(d)
    return error


def slow_candidate(x, g, amax, e4m3_max, rule, factor):
    """Section 7: codes, scale code and error of one block with its maximum at 6 (factor 1) or at 4 (1.5)."""
    v = amax_of(x)
    base = F(0) if v == 0 else (v / F(6)) * g
    s8 = e4m3(base * F(factor))
    s = F(NAN) if s8 == 0x7F else F(E4M3[s8])
    os = F(0) if v == 0 else F(1) / (s * (F(1) / g))
    os = FLT_MAX if os > FLT_MAX else os
    q = [e2m1(e * os) for e in x]
    d = []
    for e, code in zip(x, q, strict=True):
        product = decoded(code) * s
        back = (product * amax) / F(6 * e4m3_max) if amax is not None else product * (F(1) / g)
        d.append(back - e)
    return q, s8, metric(d, rule)


def slow_adaptive(x, g, amax, e4m3_max, rule):
    six = slow_candidate(x, g, amax, e4m3_max, rule, 1)
    four = slow_candidate(x, g, amax, e4m3_max, rule, 1.5)
    return four if four[2] < six[2] else six


def slow_mxfp4(x, rule):
    """Codes and scale bytes of [M, K]: the real-valued rules, elements by exact search."""
    blocks = np.asarray(x, dtype=np.float64).reshape(-1, 32)
    out = []
    for one in blocks:
        f, e = np.frexp(np.abs(one).max())
        power = {
            "static_6": e - 3 if f <= 0.75 else e - 2,
            "static_4": e - 3 if f == 0.5 else e - 2,
            "floor": e - 3,
            "even": e - 2 if f >= 0.875 else e - 3,
        }[rule]
        s8 = 0 if f == 0 else int(np.clip(power + 127, 0, 254))
        q = [e2m1(y) for y in np.ldexp(one, 127 - s8)]
        out.append(([c & 8 for c in q] if s8 == 0 else q, s8))
    return out
