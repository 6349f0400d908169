"""Hypothesis profiles, and the backends that code for a GPU is tested on.

Hypothesis draws the same examples on every run, or many with --hypothesis-profile=night. What
fails is shrunk to the smallest example, and printed with the lines that show it again.
"""

import sys
from contextlib import nullcontext

import pytest
import strict
from hypothesis import settings

from scratch_vlm.backend import cublas, cupy_problem, load

settings.register_profile(
    "repeatable", derandomize=True, deadline=None, max_examples=25, print_blob=True
)
settings.register_profile("night", deadline=None, max_examples=2000, print_blob=True)
settings.load_profile("repeatable")


NO_CUPY = pytest.mark.skipif(cupy_problem() is not None, reason=str(cupy_problem()))


@pytest.fixture(params=["strict", pytest.param("cupy", marks=[NO_CUPY, pytest.mark.gpu])])
def xp(request, monkeypatch):
    """CuPy where there is a GPU, and on every machine the backend that stands in for it."""
    if request.param == "cupy":
        return load("cupy")
    monkeypatch.setitem(sys.modules, "cupyx.scipy.special", strict.special)
    monkeypatch.setattr(cublas, "_library", strict.library)
    return strict


@pytest.fixture
def no_sync(xp):
    """Where nothing may wait for the device; the stand-in sees to it."""
    return getattr(xp, "no_sync", nullcontext)
