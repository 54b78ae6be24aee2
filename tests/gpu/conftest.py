"""Everything here needs a CUDA GPU and compiled kernels; elsewhere it is skipped."""

import os

import pytest
import torch


def pytest_collection_modifyitems(items):
    reason = None
    if not torch.cuda.is_available():
        reason = "no CUDA GPU"
    elif os.environ.get("TRITON_INTERPRET") == "1":
        reason = "this process interprets kernels"
    if reason:
        for item in items:
            if "gpu" in item.path.parts:
                item.add_marker(pytest.mark.skip(reason=reason))


@pytest.fixture
def launches(monkeypatch):
    """(mode, config) of every launch of the Hopper kernel."""
    from tritonfp4.kernels.hopper import launch

    seen, real = [], launch.matmul_fp8_hopper

    def spy(a, b, groups, mode, out, config, *early):
        seen.append((mode, config))
        return real(a, b, groups, mode, out, config, *early)

    monkeypatch.setattr(launch, "matmul_fp8_hopper", spy)
    return seen
