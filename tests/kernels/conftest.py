"""Kernels run in the emulator here: NumPy arrays, the CUDA files as they are."""

import emulator
import numpy as np
import pytest

from scratch_vlm.backend.dispatch import set_kernels
from scratch_vlm.backend.launch import set_compiler
from scratch_vlm.kernels import norm


@pytest.fixture
def emulated(monkeypatch):
    """Kernels can read NumPy arrays; what they are to write starts as NaN."""
    problem = emulator.missing()
    if problem:
        pytest.skip(problem)
    set_compiler(np, emulator.EmulatedModule)
    monkeypatch.setattr(norm, "BLOCKS", 2)  # so that a block gets several rows of a few
    monkeypatch.setattr(np, "empty", _poisoned(np.empty))
    monkeypatch.setattr(np, "empty_like", _poisoned(np.empty_like))
    yield
    set_kernels({})
    set_compiler(np, None)


def _poisoned(make):
    def empty(*args, **options):
        x = make(*args, **options)
        if x.dtype.kind not in "biu":
            x.fill(np.nan)
        return x

    return empty
