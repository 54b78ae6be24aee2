"""Encoders and decoders of e2m1, e4m3 and e8m0, one line of meaning each. Values are fp32, codes are uint8."""

from __future__ import annotations

import torch


def e2m1_encode(y: torch.Tensor) -> torch.Tensor:
    """Nearest, ties to the even code, saturating to 6. The sign bit is kept, also of zeros; NaN gives code 7."""
    a = y.abs()
    code = (a > 0.25).view(torch.uint8)  # a view counts faster than a cast
    for above in (a >= 0.75, a > 1.25, a >= 1.75, a > 2.5, a >= 3.5, a > 5.0):
        code += above.view(torch.uint8)
    code |= torch.signbit(y).view(torch.uint8) << 3
    return code.masked_fill_(y.isnan(), 7)


def e2m1_decode(code: torch.Tensor) -> torch.Tensor:
    """Codes 0 to 15 as fp32; code 8 is -0."""
    n = code.int()
    return ((n & 7) << 22 | (n & 8) << 28).view(torch.float32) * 2.0**126  # no table: a copy to a GPU would synchronize


def pack(codes: torch.Tensor) -> torch.Tensor:
    """[..., K] codes -> [..., K / 2] bytes, the even element in the low nibble."""
    pairs = codes.unflatten(-1, (-1, 2))
    return pairs[..., 0] | pairs[..., 1] << 4


def unpack(packed: torch.Tensor) -> torch.Tensor:
    """Inverse of `pack`."""
    return torch.stack([packed & 15, packed >> 4], -1).flatten(-2)


def e4m3_encode(x: torch.Tensor) -> torch.Tensor:
    """Nearest even, saturating to 448 (infinity too), subnormals kept; NaN gives 0x7F."""
    code = x.clamp(-448.0, 448.0).to(torch.float8_e4m3fn).view(torch.uint8)
    return torch.where(x.isnan(), 0x7F, code)


def e4m3_decode(code: torch.Tensor) -> torch.Tensor:
    """Bytes as fp32; 0x7F and 0xFF are NaN."""
    return code.view(torch.float8_e4m3fn).float()


def e5m2_encode(x: torch.Tensor) -> torch.Tensor:
    """Nearest even, saturating to 57344 (infinity too), subnormals kept; NaN gives 0x7F."""
    code = x.clamp(-57344.0, 57344.0).to(torch.float8_e5m2).view(torch.uint8)
    return torch.where(x.isnan(), 0x7F, code)


def e5m2_decode(code: torch.Tensor) -> torch.Tensor:
    """Bytes as fp32, infinities and NaN included."""
    return code.view(torch.float8_e5m2).float()


def e8m0_decode(code: torch.Tensor) -> torch.Tensor:
    """2^(code - 127); code 255 is NaN."""
    bits = torch.where(code == 0, 0x00400000, code.int() << 23)  # 2^-127 is subnormal
    return torch.where(code == 255, torch.nan, bits.view(torch.float32))
