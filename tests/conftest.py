"""Kernels run in Triton's interpreter unless there is a GPU, or TRITON_INTERPRET says otherwise.

Interpreted and compiled runs are separate processes: on a GPU machine ``pytest`` compiles and skips the interpreter
tests, ``TRITON_INTERPRET=1 pytest`` interprets and skips the GPU tests.
"""

import os

import torch

if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")

if os.environ.get("PYTEST_XDIST_WORKER"):
    torch.set_num_threads(1)  # one thread a worker, not one a core in every worker

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
