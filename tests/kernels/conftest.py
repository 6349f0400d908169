"""Kernels run on NumPy arrays here, the CUDA files as they are: in the emulator, or on a GPU."""

import emulator
import numpy as np
import pytest

from scratch_vlm.backend import cupy_problem
from scratch_vlm.backend.dispatch import set_kernels
from scratch_vlm.backend.launch import set_compiler
from scratch_vlm.kernels import norm


@pytest.fixture
def emulated(monkeypatch):
    """Kernels can read NumPy arrays; what they are to write starts as NaN."""
    problem = emulator.missing()
    if problem:
        pytest.skip(problem)
    yield from _compiled_by(emulator.EmulatedModule, monkeypatch)


NO_CUPY = pytest.mark.skipif(cupy_problem() is not None, reason=str(cupy_problem()))


@pytest.fixture(params=["emulator", pytest.param("cupy", marks=[NO_CUPY, pytest.mark.gpu])])
def compiled(request, monkeypatch):
    """The same in the emulator, and on a GPU where there is one."""
    if request.param == "emulator":
        request.getfixturevalue("emulated")
        yield
    else:
        from on_device import DeviceModule

        yield from _compiled_by(DeviceModule, monkeypatch)


def _compiled_by(compiler, monkeypatch):
    set_compiler(np, compiler)
    monkeypatch.setattr(norm, "MULTIPROCESSORS", 33)
    monkeypatch.setattr(norm, "_warps_at_once", lambda *_: 4)  # of 200 rows one gets several
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
