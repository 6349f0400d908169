"""Choosing a backend: explicit names never fall back, and every refusal says what to do."""

import importlib.util
import sys
import textwrap
from types import SimpleNamespace

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
    with pytest.raises(BackendError, match=f"'{name}'; choose one of numpy, cupy, auto"):
        load(name)


def test_cupy_by_name_never_falls_back(broken_cupy):
    with pytest.raises(BackendError, match=r"'cupy' cannot be used: CuPy has a cold\..*numpy"):
        load("cupy")


def test_auto_falls_back_to_numpy(broken_cupy):
    assert load("auto") is np


def test_a_missing_cupy_is_named_with_the_command_that_installs_it(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(choose.metadata, "distributions", list)
    with pytest.raises(BackendError, match=r"not installed; .*python -m pip install"):
        load("cupy")


@pytest.fixture
def fake_cupy(monkeypatch, tmp_path):
    """Return a function that puts a module called cupy in the way of the real one."""
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(choose.metadata, "distributions", list)
    for name in [name for name in sys.modules if name.partition(".")[0] == "cupy"]:
        monkeypatch.delitem(sys.modules, name)
    yield lambda source: (tmp_path / "cupy.py").write_text(textwrap.dedent(source))
    sys.modules.pop("cupy", None)


def test_a_cupy_that_cannot_be_imported_is_reported_not_raised(fake_cupy):
    fake_cupy("raise ImportError('libcuda.so.1 is missing')")
    assert "cannot be imported (ImportError: libcuda.so.1 is missing)" in cupy_problem()


WITHOUT_GPU = """
    __version__ = "99.0"
    class cuda:
        is_available = staticmethod(lambda: False)
        class runtime:
            CUDARuntimeError = RuntimeError
            driverGetVersion = staticmethod(lambda: {driver})
            runtimeGetVersion = staticmethod(lambda: 13020)
            def getDeviceCount():
                raise RuntimeError("cudaErrorNoDevice: no CUDA-capable device is detected")
"""


@pytest.mark.parametrize(
    ("driver", "said"),
    [
        (0, r"there is no NVIDIA driver"),
        (
            12040,
            r"built for CUDA 13\.2, and the driver is for 12\.4: .* uninstall cupy-cuda13x and "
            r"install cupy-cuda12x",
        ),
        (13000, r"finds no usable NVIDIA GPU \(cudaErrorNoDevice: "),
    ],
)
def test_a_cupy_without_a_gpu_says_what_is_in_the_way(fake_cupy, driver, said):
    fake_cupy(WITHOUT_GPU.format(driver=driver))
    with pytest.raises(BackendError, match=f"CuPy 99.0 is installed but .*{said}"):
        load("cupy")
    assert load("auto") is np


def test_a_gpu_that_cannot_multiply_is_reported_with_the_first_line_of_the_reason(fake_cupy):
    fake_cupy("""
        __version__ = "99.0"
        float32 = "float32"
        class cuda:
            is_available = staticmethod(lambda: True)
        def ones(shape, dtype):
            raise OSError("libcublas.so.13 was not found\\nand more")
    """)
    with pytest.raises(
        BackendError, match=r"cannot run on it \(OSError: libcublas.* found\); .*pip"
    ):
        load("cupy")


@pytest.mark.parametrize(
    "reason",
    [
        "cudaErrorMemoryAllocation: out of memory",
        "cudaErrorDevicesUnavailable: CUDA-capable device(s) is/are busy or unavailable",
        "CUBLAS_STATUS_NOT_INITIALIZED",  # what cuBLAS says where it finds no memory
        "CUBLAS_STATUS_ALLOC_FAILED",
    ],
)
def test_a_gpu_that_others_have_taken_is_no_missing_library(fake_cupy, reason):
    fake_cupy(f"""
        __version__ = "99.0"
        float32 = "float32"
        class cuda:
            is_available = staticmethod(lambda: True)
        def ones(shape, dtype):
            raise RuntimeError("{reason}")
    """)
    with pytest.raises(BackendError, match=r"taken it: nvidia-smi lists them\.") as said:
        load("cupy")
    assert reason in str(said.value) and "pip" not in str(said.value)


def test_two_builds_of_cupy_are_told_apart(monkeypatch):
    both = [SimpleNamespace(name=name) for name in ("numpy", "cupy-cuda13x", "cupy-cuda12x")]
    monkeypatch.setattr(choose.metadata, "distributions", lambda: both)
    with pytest.raises(BackendError, match="cupy-cuda12x and cupy-cuda13x are both installed"):
        load("cupy")
