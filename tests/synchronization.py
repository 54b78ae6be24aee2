"""What the GPU tests call that must not wait for the GPU."""

import contextlib
from collections.abc import Iterator

import torch


@contextlib.contextmanager
def no_synchronization() -> Iterator[None]:
    """An error where the host waits for the GPU."""
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")
