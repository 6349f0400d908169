"""Streams and events of CuPy without a GPU, which do what they are told as late as they may.

Only copies from pinned memory, and functions that a test launches, are put into the queue of a
stream; they are done when somebody waits for an event behind them, or for the stream. All else is
done at once, as by a device that is never behind. Who forgets to wait reads what was there before.
With `late` set to False a stream does its work at once: who forgets to wait for those that still
read writes over what they read.
"""

import sys
import threading
from collections import deque
from time import perf_counter

import numpy as np

from strict import tape


class Stream:
    """Work in order.

    Attributes
    ----------
    late : bool
        Whether it is done as late as possible, or at once.
    """

    late = True

    def __init__(self, non_blocking=False):
        self.ptr, self._queue, self._before = id(self), deque(), []

    def __enter__(self):
        self._before.append(get_current_stream())
        _thread.stream = self
        return self

    def __exit__(self, *error):
        _thread.stream = self._before.pop()

    def begin_capture(self):
        """Begin a capture."""
        tape.begin()

    def end_capture(self):
        """End it."""
        return tape.end()

    def launch_host_func(self, callback, arg):
        """Call a function when it is its turn."""
        self.put(lambda: callback(arg))

    def wait_event(self, event):
        """Let what follows wait for what came before an event."""
        tape.refuse("a stream waited for one outside")
        self.follow(event.mark.reach)

    def record(self, event=None):
        """Mark a place in the work."""
        event = event or Event()
        event.record(self)
        return event

    def synchronize(self):
        """Wait for all work."""
        tape.refuse("the host waited for a stream")
        if self._queue:
            _wait("a stream")
        self.run(None)

    def put(self, work):
        """Add to the work."""
        self._queue.append(work)
        if not self.late:
            self.run(None)

    def follow(self, work):
        """Do what comes behind the work, now if there is none."""
        if self._queue:
            self.put(work)
        else:
            work()

    def run(self, mark):
        """Do the work, up to a mark or all of it."""
        while self._queue and not (mark and mark.reached):
            self._queue.popleft()()


class _Mark:
    # One place in the work of a stream. An event that is recorded again gets another.
    def __init__(self, stream):
        self.reached, self._stream = stream is None, stream
        if stream:
            stream.follow(self._set)

    def _set(self):
        self.reached = True

    def reach(self):
        if not self.reached:
            self._stream.run(self)


class Event:
    """A place in the work of a stream; one that was never recorded is reached."""

    def __init__(self, block=False, disable_timing=False):
        self.mark = _Mark(None)

    def record(self, stream=None):
        """Mark it."""
        self.time = perf_counter()
        self.mark = _Mark(stream or get_current_stream())

    def synchronize(self):
        """Wait for it."""
        tape.refuse("the host waited for an event")
        if not self.mark.reached:
            _wait("an event")
        self.mark.reach()


class CUDARuntimeError(RuntimeError):
    """What CuPy raises when CUDA refuses; the status is a number."""

    def __init__(self, status):
        self.status = status
        super().__init__({2: "cudaErrorMemoryAllocation: out of memory"}.get(status, f"{status}"))


class PinnedMemory(bytearray):
    """Memory that the system does not move.

    Attributes
    ----------
    error : int
        What CUDA says when it is asked for some; 0 for here it is.
    """

    error = 0


def alloc_pinned_memory(size):
    """Return that much."""
    if PinnedMemory.error:
        raise CUDARuntimeError(PinnedMemory.error)
    return PinnedMemory(b"\xff" * size)  # NaN, as long as nothing is written


def copy(there, here, stream):
    """Let a stream copy from pinned memory; for other memory the host may wait until it has."""
    if here.dtype != there.dtype or here.shape != there.shape:
        raise TypeError("copies from the host are to an array of that dtype and shape")
    if isinstance(_owner(here), PinnedMemory):
        stream.put(lambda: there.__setitem__(..., here))
    else:
        _wait("a copy from memory that is not pinned")
        stream.run(None)
        there[...] = here


def _owner(x):
    while isinstance(x, np.ndarray):
        x = x.base
    return x.obj if isinstance(x, memoryview) else x


def _wait(what):
    sys.modules["strict"]._wait(what)


def get_current_stream():
    """Return the stream that the work of this thread goes to."""
    return getattr(_thread, "stream", NULL)


NULL, _thread = Stream(), threading.local()
