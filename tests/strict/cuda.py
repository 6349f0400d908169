"""The part of `cupy.cuda` that the library uses, without a GPU."""

import math
import weakref
from contextlib import contextmanager
from types import SimpleNamespace

from strict import tape
from strict.streams import CUDARuntimeError
from strict.streams import Event as Event
from strict.streams import PinnedMemory as PinnedMemory
from strict.streams import Stream as Stream
from strict.streams import alloc_pinned_memory as alloc_pinned_memory
from strict.streams import get_current_stream as get_current_stream


def get_elapsed_time(start, end):
    """Return the milliseconds between two events."""
    return 1000 * (end.time - start.time)


class Device:
    """The only one."""

    id = 0

    def __init__(self, device=None):
        pass

    def __enter__(self):
        return self

    def __exit__(self, *error):
        pass


class OutOfMemoryError(MemoryError):
    """What a pool raises when the device has no more."""


class Memory:
    """A piece of the device.

    Attributes
    ----------
    room : float
        Bytes that there are for pools other than that of all.
    """

    room, _used = math.inf, 0

    def __init__(self, size):
        self.size = 0
        if size > Memory.room - Memory._used:
            raise CUDARuntimeError(2)
        self.size = size
        Memory._used += size

    def __del__(self):
        Memory._used -= self.size


def mem_get_info():
    """Return the bytes that are free, and all of them."""
    return Memory.room - Memory._used, Memory.room


runtime = SimpleNamespace(CUDARuntimeError=CUDARuntimeError, memGetInfo=mem_get_info)


class MemoryPointer:
    """Where in a piece of memory."""

    def __init__(self, mem, offset):
        self.mem, self.ptr = mem, id(mem) + offset


class MemoryPool:
    """Memory that only those have who ask for it here; nothing is used twice.

    Attributes
    ----------
    count, taken : int
        Pieces that were taken, and their bytes.
    """

    def __init__(self, allocator=None):
        self._allocator = allocator or (lambda size: MemoryPointer(Memory(size), 0))
        self._pieces, self.count, self.taken = [], 0, 0

    def take(self, x):
        """Take memory for an array."""
        piece = self.malloc(x.host.nbytes).mem
        self._pieces.append((self.count, piece, weakref.ref(x), weakref.ref(x.host)))
        self.count += 1
        self.taken += x.host.nbytes

    def malloc(self, size):
        """Take memory; where there is none, that of arrays that are gone goes to the device."""
        try:
            return self._allocator(size)
        except CUDARuntimeError:
            self.free_all_blocks()
        try:
            return self._allocator(size)
        except CUDARuntimeError:
            raise OutOfMemoryError(f"Out of memory allocating {size:,} bytes") from None

    def free_all_blocks(self):
        """Give back to the device what no array has."""
        self._pieces = [one for one in self._pieces if one[2]() is not None]

    def memory(self, since):
        """References to the memory that was taken since so many pieces."""
        return [weakref.ref(memory) for i, memory, _, _ in self._pieces if i >= since]

    def arrays(self, since):
        """Numbers of arrays that are still in memory taken since so many pieces."""
        hosts = (host() for i, _, _, host in self._pieces if i >= since)
        return [host for host in hosts if host is not None]

    def total_bytes(self):
        """Return the bytes of all that was asked for."""
        return self.taken


@contextmanager
def using_allocator(allocator):
    """Take memory from a pool inside."""
    pool = allocator.__self__
    assert isinstance(pool, MemoryPool)
    before = tape.use_pool(None if pool is COMMON else pool)
    try:
        yield
    finally:
        tape.use_pool(before)


class CommonPool(MemoryPool):
    """The pool of all, which takes no account of its arrays.

    Attributes
    ----------
    unused : Memory or None
        What it keeps from the device without need.
    """

    unused = None

    def free_bytes(self):
        """Return the bytes of it."""
        return self.unused.size if self.unused else 0

    def free_all_blocks(self):
        """Give it back."""
        self.unused = None


COMMON = CommonPool()
