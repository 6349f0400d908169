"""Keep the memory of freed arrays in the process, so that each step reuses the last one's."""

import ctypes
import sys


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
