"""What the tests of refusals share: a refused call, how it is checked, and what every parameter of a function needs."""

import inspect
from dataclasses import dataclass
from typing import Any

import pytest
import torch

BF16 = torch.bfloat16
NO_BACKEND = ["nonsense", "", 3, None]
FLASHINFER_BACKEND = "Unknown backend: "


def x(*shape, dtype=BF16, device="cpu"):
    return torch.ones(shape, dtype=dtype, device=device)


@dataclass(frozen=True)
class Case:
    """A call that is refused.

    Attributes:
        function: its public name.
        argument: the parameter that is wrong.
        change: keyword arguments on top of VALID.
        text: what the message says besides; a fragment of the original's message where there is one.
        also: class of the original's error.
    """

    function: str
    argument: str
    change: dict[str, Any]
    text: str = ""
    also: type[Exception] = ValueError

    def __str__(self):
        given = self.change.get(self.argument)
        shown = f"{tuple(given.shape)} {given.dtype} {given.device}" if isinstance(given, torch.Tensor) else repr(given)
        return f"{self.function}-{self.argument}={shown.replace('torch.', '')[:40]}"


def quantizer_cases(function, argument, block, extra, e4m3=False):
    """What every quantizer refuses of its input. `extra` makes the call valid otherwise; `e4m3`: it is taken, too."""
    rows = [
        ({argument: "x"}, "torch.Tensor", TypeError),
        ({argument: None}, "torch.Tensor", TypeError),
        ({argument: x(4, 64, dtype=torch.float64)}, "float64", NotImplementedError),
        ({argument: x(4, 64, dtype=torch.int32)}, "int32", NotImplementedError),
        ({argument: x(4, 64, dtype=torch.bool)}, "bool", NotImplementedError),
        ({argument: x(4, 64).to(torch.float8_e5m2 if e4m3 else torch.float8_e4m3fn)}, "float8_e", NotImplementedError),
        ({argument: x(64)}, "at least 2 dimensions", ValueError),
        ({argument: x()}, "at least 2 dimensions", ValueError),
    ]
    if block:
        rows += [({argument: x(4, 64 + n)}, f"block of {block}", AssertionError) for n in (1, block // 2, block - 1)]
    return [Case(function, argument, change | extra, text, also) for change, text, also in rows]


def each(function, argument, values, extra=None, text="", also=ValueError):
    return [Case(function, argument, {argument: value} | (extra or {}), text, also) for value in values]


def message_of(case, call, valid):
    """What a refused call says. Our own error classes only, the original's among their bases, and the function by name."""
    with pytest.raises(Exception) as caught:
        call(**valid | case.change)
    error, message = caught.value, str(caught.value)
    assert type(error).__module__ == "tritonfp4.checks", repr(error)
    assert isinstance(error, ValueError) and isinstance(error, case.also)
    assert case.text in message and case.function.removeprefix("utils.") in message
    return message


def unrefused(function, call, cases):
    """Parameters without a case."""
    return set(inspect.signature(call).parameters) - {case.argument for case in cases if case.function == function}


def unnamed(function, call, valid, cases, spoken=None, any_case=False):
    """Parameters that no message names; `spoken`: by what other word. The original's text may leave an argument out, but
    not in all cases of a parameter."""
    fold = str.lower if any_case else str
    messages = {name: [] for name in inspect.signature(call).parameters}
    for case in cases:
        if case.function == function:
            messages[case.argument].append(fold(message_of(case, call, valid)))
    return {name for name, said in messages.items() if not any(fold((spoken or {}).get(name, name)) in m for m in said)}


def takes_anything(function, anything):
    """The parameters of a function in a table of (function, parameter)."""
    return {name for owner, name in anything if owner == function}
