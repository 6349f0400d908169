"""The allocator setting says whether it was taken, and an error how much memory was missing."""

import re
import subprocess
import sys
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest

from scratch_vlm.backend import is_shortage, keep_freed_memory, memory, memory_shortage


def test_it_says_whether_the_c_library_took_the_settings():
    # In a process of its own: the setting outlives the call.
    code = "from scratch_vlm.backend import keep_freed_memory; print(keep_freed_memory())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() in ("True", "False")


def test_other_systems_are_left_alone(monkeypatch):
    monkeypatch.setattr(sys, "platform", "darwin")
    assert keep_freed_memory() is False


def test_a_c_library_without_the_setting_is_left_alone(monkeypatch):
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(memory.ctypes, "CDLL", lambda name: object())
    assert keep_freed_memory() is False


def test_numpy_without_memory_says_what_was_asked_and_what_is_free():
    with pytest.raises(MemoryError) as caught:
        np.empty(1 << 57, "int8")
    said = memory_shortage(caught.value)
    assert re.fullmatch(r"out of memory: 128\. PiB more was asked for, \d+\.\d\d GiB is free", said)


def test_what_is_free_is_left_out_where_nobody_knows(monkeypatch):
    monkeypatch.setattr(memory, "_free_on_host", lambda: None)
    assert memory_shortage(MemoryError()) == "out of memory"


@pytest.fixture
def out_of_gpu_memory(monkeypatch):
    """An error as CuPy raises it: of its own class, on a GPU with 1.25 GiB left of 80."""
    fake = ModuleType("cupy")
    fake.ndarray = None
    fake.cuda = SimpleNamespace(
        runtime=SimpleNamespace(memGetInfo=lambda: (1 << 30, 80 << 30)),
    )
    fake.get_default_memory_pool = lambda: SimpleNamespace(free_bytes=lambda: 1 << 28)
    monkeypatch.setitem(sys.modules, "cupy", fake)
    kind = type("OutOfMemoryError", (MemoryError,), {"__module__": "cupy.cuda.memory"})
    return kind("Out of memory allocating 3,221,225,472 bytes (allocated so far: 5 bytes).")


@pytest.mark.parametrize(
    "said", ["cudaErrorMemoryAllocation: out of memory", "CUDA_ERROR_OUT_OF_MEMORY: out of memory"]
)
def test_what_cuda_itself_has_no_memory_for_is_a_shortage(out_of_gpu_memory, said):
    error = type("CUDARuntimeError", (RuntimeError,), {"__module__": "cupy_backends.cuda.api"})(
        said
    )
    assert is_shortage(error) and is_shortage(out_of_gpu_memory)
    assert memory_shortage(error).startswith("out of memory on the GPU, 1.25 GiB of 80.00 GiB is")
    assert not is_shortage(RuntimeError("cudaErrorIllegalAddress: an illegal memory access"))


def test_a_gpu_without_memory_says_what_was_asked_and_what_is_free(out_of_gpu_memory):
    assert memory_shortage(out_of_gpu_memory) == (
        "out of memory on the GPU: 3.00 GiB more was asked for, 1.25 GiB of 80.00 GiB is free "
        "(nvidia-smi lists the programs that use it)"
    )
