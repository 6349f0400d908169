"""Elementwise work in blocks that fit the cache, on as many cores as the matrix product has."""

import os
import threading
from concurrent.futures import ThreadPoolExecutor
from functools import cache, wraps

import numpy as np

POOL = "scratch-vlm"  # how the names of its threads begin
BLOCK = 2**16  # numbers; with temporaries of the same size some hundred kilobytes


def cores():
    """Return how many threads the matrix product was given, here or by the environment.

    Returns
    -------
    int
        ``OPENBLAS_NUM_THREADS``, else ``OMP_NUM_THREADS``, else the cores of this process; 1
        within a thread that is not the main one, because others work beside it.
    """
    if threading.current_thread() is not threading.main_thread():
        return 1
    there = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    for name in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS"):
        given = os.environ.get(name, "")
        if given.isdecimal() and int(given):
            return min(int(given), there)
    return there


def in_turns(work, count):
    """Call ``work(i)`` for each i below `count`, on all cores.

    Parameters
    ----------
    work : callable
        What to do; NumPy lets other threads run meanwhile.
    count : int
        How often.
    """
    threads = min(cores(), count)
    if threads <= 1:
        for i in range(count):
            work(i)
        return

    def every(start):
        for i in range(start, count, threads):
            work(i)

    for task in [pool(threads).submit(every, start) for start in range(threads)]:
        task.result()


def in_blocks(forward):
    """Let an activation of large arrays on the host run block by block.

    A chain of ten elementwise steps reads and writes memory ten times when each step goes over the
    whole array, and once when the array goes through the chain in blocks that stay in the cache.

    Parameters
    ----------
    forward : callable
        ``forward(x, *, out=None) -> (y, slope)``, elementwise.

    Returns
    -------
    callable
        The same function, to the bit. Arrays on a device, and small ones, pass as they are.
    """

    @wraps(forward)
    def in_pieces(x, *, out=None):
        if isinstance(x, np.ndarray) and x.ndim == 0:  # whose sums and products are no arrays
            y, slope = forward(x.reshape(1), out=None if out is None else out.reshape(1))
            return y.reshape(()) if out is None else out, slope.reshape(())
        if not isinstance(x, np.ndarray) or x.size <= BLOCK:
            return forward(x, out=out)
        if x.dtype.kind not in "fc" or not (out is None or out.flags.c_contiguous):
            return forward(x, out=out)
        y, slope = np.empty(x.shape, x.dtype) if out is None else out, np.empty(x.shape, x.dtype)
        if x.flags.c_contiguous:
            tables, step = [a.reshape(-1) for a in (x, y, slope)], BLOCK
        else:  # such as half of the columns of a matrix
            tables = [a.reshape(-1, x.shape[-1]) for a in (x, y, slope)]
            step = max(1, BLOCK // x.shape[-1])
        flat, ys, slopes = tables

        def work(i):
            block = slice(i * step, (i + 1) * step)
            slopes[block] = forward(flat[block], out=ys[block])[1]

        in_turns(work, -(-len(flat) // step))
        return y, slope

    return in_pieces


@cache
def pool(threads):
    """Return the threads that work side by side, the same ones for each number of them.

    Parameters
    ----------
    threads : int
        How many.

    Returns
    -------
    concurrent.futures.ThreadPoolExecutor
    """
    return ThreadPoolExecutor(threads, thread_name_prefix=POOL)
