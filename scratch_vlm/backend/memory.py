"""Memory: kept in the process for the next step, and explained where it runs out."""

import ctypes
import re
import sys
from pathlib import Path


def keep_freed_memory():
    """Ask the C library to hand freed arrays' memory out again instead of returning it.

    A training step frees and allocates the same large arrays over and over. By default glibc
    maps each one afresh, and the kernel clears it page by page at first touch, which can cost
    as much as the arithmetic. Called once by the command line and the benchmarks; a library
    should not change its host's allocator, so nothing else calls it.

    Returns
    -------
    bool
        Whether the C library took the settings; False where it is not glibc.

    Notes
    -----
    Sets M_MMAP_THRESHOLD and M_TRIM_THRESHOLD to 1 GiB and M_ARENA_MAX to 1 (one heap for all
    threads), see mallopt(3). The price is a resident size that stays at its peak.
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):  # musl and others
        return False
    trim_threshold, mmap_threshold, arena_max = -1, -3, -8
    gib = 1 << 30
    return all(
        mallopt(setting, value) == 1
        for setting, value in ((trim_threshold, gib), (mmap_threshold, gib), (arena_max, 1))
    )


def is_shortage(error):
    """Tell whether an error means that memory ran out.

    Parameters
    ----------
    error : Exception
        Any. What CUDA needs for itself, such as a graph or a stream, CuPy does not call a
        MemoryError where it is missing.

    Returns
    -------
    bool
    """
    said = ("cudaErrorMemoryAllocation", "CUDA_ERROR_OUT_OF_MEMORY", "CUBLAS_STATUS_ALLOC_FAILED")
    return isinstance(error, MemoryError) or str(error).startswith(said)


def memory_shortage(error):
    """Say how much memory was asked for in vain, and how much there is.

    Parameters
    ----------
    error : Exception
        As NumPy or CuPy raised it, and `is_shortage` found.

    Returns
    -------
    str
        Without a stop at its end.

    Examples
    --------
    >>> memory_shortage(MemoryError()).startswith("out of memory")
    True
    """
    asked = re.search(r"allocat\w+ ([\d.,]+ \w+)", str(error))
    asked = f": {_readable(asked[1])} more was asked for" if asked else ""
    home = type(error).__module__.partition(".")[0]
    cupy = sys.modules.get("cupy" if home == "cupy_backends" else home)
    if not hasattr(cupy, "cuda"):
        free = _free_on_host()
        return f"out of memory{asked}" + (f", {_gib(free)} is free" if free is not None else "")
    free, total = cupy.cuda.runtime.memGetInfo()
    free += cupy.get_default_memory_pool().free_bytes()
    return (
        f"out of memory on the GPU{asked}, {_gib(free)} of {_gib(total)} is free "
        "(nvidia-smi lists the programs that use it)"
    )


def _gib(size):
    return f"{size / (1 << 30):.2f} GiB"


def _readable(size):
    number, unit = size.split()
    return _gib(int(number.replace(",", ""))) if unit == "bytes" else size


def _free_on_host():
    try:
        found = re.search(r"MemAvailable: +(\d+) kB", Path("/proc/meminfo").read_text())
    except OSError:
        return None
    return int(found[1]) << 10 if found else None
