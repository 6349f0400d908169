"""The part of `cupy.cuda` that the library uses, without a GPU."""

from contextlib import contextmanager

from strict import tape
from strict.streams import Event as Event
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


class MemoryPool:
    """Memory that only those have who ask for it here; nothing is used twice."""

    def __init__(self):
        self.taken = 0

    def malloc(self, size):
        """Never called: `using_allocator` only looks whose it is."""

    def total_bytes(self):
        """Return the bytes of all that was asked for."""
        return self.taken


@contextmanager
def using_allocator(allocator):
    """Take memory from a pool inside."""
    assert isinstance(allocator.__self__, MemoryPool)
    before = tape.use_pool(allocator.__self__)
    try:
        yield
    finally:
        tape.use_pool(before)


class CommonPool(MemoryPool):
    """The pool of all. Of a graph's pool nothing is freed: what looks free is used at a launch."""

    def free_all_blocks(self):
        """Give back memory that nobody uses; here it has been."""


COMMON = CommonPool()
