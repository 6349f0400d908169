"""Choosing a backend by name, with errors that say what is missing and what to do about it."""

import importlib
import importlib.util
import os
from importlib import metadata

BACKENDS = ("numpy", "cupy", "auto")
# What CUDA and cuBLAS say of a GPU whose memory is full, or that is another's alone.
TAKEN = ("out of memory", "ALLOC_FAILED", "NOT_INITIALIZED", "DevicesUnavailable")


class BackendError(RuntimeError):
    """A backend was asked for that this machine cannot run; the message says why."""


def cupy_problem():
    """Say in one sentence why CuPy cannot be used here.

    Returns
    -------
    str or None
        None when CuPy is installed, sees a GPU, and has multiplied two small matrices on it.
    """
    builds = sorted({d.name for d in metadata.distributions() if d.name.startswith("cupy-cuda")})
    if len(builds) > 1:
        return (
            f"{' and '.join(builds)} are both installed and overwrite each other: "
            f"python -m pip uninstall {' '.join(builds)}, then install one of them"
        )
    if importlib.util.find_spec("cupy") is None:
        return (
            "CuPy is not installed; on a machine with an NVIDIA GPU: "
            "python -m pip install 'cupy-cuda13x[ctk]'"
        )
    try:
        import cupy
    except Exception as error:  # a broken wheel or a NumPy it was not built for: any type
        return f"CuPy is installed but cannot be imported ({type(error).__name__}: {error})"
    if not cupy.cuda.is_available():
        return f"CuPy {cupy.__version__} is installed but {_why_no_gpu(cupy)}"
    try:
        ones = cupy.ones((2, 2), cupy.float32)
        right = float((ones @ ones).sum()) == 8.0
    except Exception as error:  # importing touches neither cuBLAS nor the compiler; this does
        first_line = str(error).splitlines()[0] if str(error) else ""
        hint = (
            "other programs may have taken it: nvidia-smi lists them"
            if any(word in first_line for word in TAKEN)
            else "the CUDA libraries may be missing: python -m pip install 'cupy-cuda13x[ctk]'"
        )
        return (
            f"CuPy {cupy.__version__} sees a GPU but cannot run on it "
            f"({type(error).__name__}: {first_line}); {hint}"
        )
    return None if right else "CuPy runs but multiplied two matrices of ones wrongly"


def _why_no_gpu(cupy):
    runtime = cupy.cuda.runtime
    driver, built = runtime.driverGetVersion(), runtime.runtimeGetVersion()
    if not driver:
        return "there is no NVIDIA driver: a GPU with a working nvidia-smi is needed"
    if driver // 1000 < built // 1000:
        return (
            f"is built for CUDA {_version(built)}, and the driver is for {_version(driver)}: "
            f"update the driver, or python -m pip uninstall cupy-cuda{built // 1000}x and install "
            f"cupy-cuda{driver // 1000}x"
        )
    try:
        found = f"{runtime.getDeviceCount()} of them"
    except runtime.CUDARuntimeError as error:
        found = str(error)
    return f"finds no usable NVIDIA GPU ({found})"


def _version(number):  # 12040 is 12.4
    return f"{number // 1000}.{number % 1000 // 10}"


def load(name=None):
    """Return the array module of a backend.

    Parameters
    ----------
    name : {"numpy", "cupy", "auto"}, optional
        ``"auto"`` takes CuPy where it works and NumPy elsewhere; an explicit name never falls
        back. By default the environment variable ``SCRATCH_VLM_BACKEND``, else ``"numpy"``.

    Returns
    -------
    module
        `numpy` or `cupy`.

    Raises
    ------
    BackendError
        If the name is unknown, or CuPy was asked for and cannot be used here.
    """
    name = name or os.environ.get("SCRATCH_VLM_BACKEND") or "numpy"
    if name not in BACKENDS:
        raise BackendError(f"unknown backend {name!r}; choose one of {', '.join(BACKENDS)}")
    if name == "numpy":
        return importlib.import_module("numpy")
    problem = cupy_problem()
    if problem is None:
        return importlib.import_module("cupy")
    if name == "auto":
        return importlib.import_module("numpy")
    raise BackendError(
        f"backend 'cupy' cannot be used: {problem}. "
        "Use --backend numpy, or --backend auto to fall back to it."
    )
