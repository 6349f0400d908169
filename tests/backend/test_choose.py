"""Choosing a backend: explicit names never fall back, and every refusal says what to do."""

import importlib.util

import numpy as np
import pytest

from scratch_vlm.backend import BackendError, choose, cupy_problem, load


@pytest.fixture(autouse=True)
def no_variable(monkeypatch):
    monkeypatch.delenv("SCRATCH_VLM_BACKEND", raising=False)


@pytest.fixture
def broken_cupy(monkeypatch):
    monkeypatch.setattr(choose, "cupy_problem", lambda: "CuPy has a cold")


def test_numpy_is_the_default():
    assert load() is np
    assert load("numpy") is np


def test_the_environment_chooses_when_nobody_else_does(monkeypatch, broken_cupy):
    monkeypatch.setenv("SCRATCH_VLM_BACKEND", "cupy")
    with pytest.raises(BackendError, match="cold"):
        load()
    assert load("numpy") is np


@pytest.mark.parametrize("name", ["torch", "NumPy", " numpy"])
def test_an_unknown_name_is_refused_with_those_that_there_are(name):
    with pytest.raises(BackendError, match=f"'{name}'; choose one of numpy, cupy, strict, auto"):
        load(name)


def test_cupy_by_name_never_falls_back(broken_cupy):
    with pytest.raises(BackendError, match=r"'cupy' cannot be used: CuPy has a cold\..*numpy"):
        load("cupy")


def test_auto_falls_back_to_numpy(broken_cupy):
    assert load("auto") is np


def test_a_missing_cupy_is_named_with_the_command_that_installs_it(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(BackendError, match=r"not installed; .*python -m pip install"):
        load("cupy")


def test_a_cupy_that_cannot_be_imported_is_reported_not_raised(monkeypatch, tmp_path):
    (tmp_path / "cupy.py").write_text("raise ImportError('libcuda.so.1 is missing')")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(importlib.sys.modules, "cupy", raising=False)
    assert "cannot be imported (ImportError: libcuda.so.1 is missing)" in cupy_problem()


def test_a_cupy_without_a_gpu_is_reported(monkeypatch, tmp_path):
    (tmp_path / "cupy.py").write_text(
        "__version__ = '99.0'\nclass cuda:\n    is_available = staticmethod(lambda: False)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(importlib.sys.modules, "cupy", raising=False)
    problem = cupy_problem()
    importlib.sys.modules.pop("cupy", None)
    assert problem == "CuPy 99.0 is installed but finds no usable NVIDIA GPU"
