"""The part of `cupy.cuda` that the library uses, without a GPU."""

from contextlib import contextmanager
from time import perf_counter

from strict import tape


class Stream:
    """Work in order. Here everything is done at once, so only captures are more than a name."""

    current = None

    def __init__(self, non_blocking=False):
        self.ptr, self._before = id(self), []

    def __enter__(self):
        self._before.append(Stream.current)
        Stream.current = self
        return self

    def __exit__(self, *error):
        Stream.current = self._before.pop()

    def begin_capture(self):
        """Begin a capture."""
        tape.begin()

    def end_capture(self):
        """End it."""
        return tape.end()

    def synchronize(self):
        """Wait."""
        tape.refuse("the host waited for a stream")

    def wait_event(self, event):
        """Let what follows wait for an event."""
        tape.refuse("a stream waited for one outside")
        assert event.recorded

    def record(self, event=None):
        """Mark a place in the work."""
        event = event or Event()
        event.record()
        return event


class Event:
    """A place in the work of a stream."""

    def __init__(self, block=False, disable_timing=False):
        self.recorded = False

    def record(self, stream=None):
        """Mark it."""
        self.recorded, self.time = True, perf_counter()

    def synchronize(self):
        """Wait for it."""
        tape.refuse("the host waited for an event")


def get_elapsed_time(start, end):
    """Return the milliseconds between two events."""
    return 1000 * (end.time - start.time)


class Device:
    """The only one."""

    id = 0

    def __init__(self, device=None):
        pass


class MemoryPool:
    """Memory that only those have who ask for it here; nothing is used twice."""

    def __init__(self):
        self.taken = 0

    def malloc(self, size):
        """Never called: `using_allocator` only looks whose it is."""
        raise NotImplementedError

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


def get_current_stream():
    """Return the stream that work goes to."""
    return Stream.current or NULL


class CommonPool(MemoryPool):
    """The pool of all. Of a graph's pool nothing is freed: what looks free is used at a launch."""

    def free_all_blocks(self):
        """Give back memory that nobody uses; here it has been."""


NULL, COMMON = Stream(), CommonPool()
