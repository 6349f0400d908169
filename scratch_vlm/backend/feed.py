"""Batches on their way to a device: the next one is copied while a step computes.

A batch that is copied when its step begins keeps the GPU waiting: for the host to put it into
pinned memory, which the system does not move, so that the GPU can fetch from there by itself, and
then for the bus. Here both happen a step ahead, in whichever thread draws the batches and on a
stream of their own. Only the GPU waits, by events: a step for the copy of its batch, and a copy
for the step that read what it writes over.
"""

import warnings

import numpy as np

ALIGNMENT = 512  # bytes; CuPy's own arrays begin at multiples of it, too
OUT_OF_MEMORY = 2  # cudaErrorMemoryAllocation


class Feed:
    """The way of one batch after another from the host to a device.

    Parameters
    ----------
    xp : module
        `numpy` or `cupy`, as `load` returns it. With NumPy nothing is copied.

    Notes
    -----
    Batches take turns in two slots, each a stretch of pinned memory and one of the device, into
    which the arrays of a batch are packed. They grow to the largest batch, and belong to the
    stream that copies: freed memory goes to its next copies, which wait for the steps anyway.

    Examples
    --------
    >>> with Feed(np) as feed:
    ...     (x,) = feed.receive(feed.send((np.ones(2),)))
    >>> x
    array([1., 1.])
    """

    def __init__(self, xp):
        self._xp, self._given = xp, None
        if xp is np:
            return
        self._device = xp.cuda.Device()
        self._stream = xp.cuda.Stream(non_blocking=True)
        self._next, self._other = _Slot(xp), _Slot(xp)

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.close()

    def send(self, arrays):
        """Begin to copy a batch, in any thread.

        Parameters
        ----------
        arrays : tuple of numpy.ndarray
            Those for a device may be changed afterwards.

        Returns
        -------
        object
            For `receive`.

        Raises
        ------
        RuntimeError
            If the batch before has not been received yet: its step may still need the memory.
        """
        if self._xp is np:
            return arrays
        slot = self._next
        if slot.taken:
            raise RuntimeError("receive the batch that was sent before, then send another")
        self._next, self._other = self._other, slot
        with self._device, self._stream:  # each thread has a current device and stream
            return slot, slot.copy(arrays, self._stream)

    def receive(self, sent):
        """Hand over a batch to the current stream, whose work from now on waits for the copy.

        Parameters
        ----------
        sent : object
            What `send` returned; in the order of sending.

        Returns
        -------
        tuple of array
            Where `xp` keeps them. On a device they hold the batch until the next is received.
        """
        if self._xp is np:
            return sent
        slot, arrays = sent
        self._take_back()
        stream = self._xp.cuda.get_current_stream()
        stream.wait_event(slot.copied)
        self._given = slot, stream
        return arrays

    def close(self):
        """Wait until nothing reads or writes the memory of the batches."""
        if self._xp is np:
            return
        self._take_back()
        for slot in (self._next, self._other):
            slot.read.synchronize()
        self._stream.synchronize()

    def _take_back(self):
        # All that reads the batch before has been launched by now.
        if self._given:
            slot, stream = self._given
            slot.read.record(stream)
            slot.taken, self._given = False, None


class _Slot:
    # Memory for a batch, and the events that say when it may be written over.
    def __init__(self, xp):
        self.copied, self.read = (xp.cuda.Event(disable_timing=True) for _ in range(2))
        self.taken = False  # between sending a batch and the end of the step that reads it
        self._xp, self._host = xp, np.empty(0, "uint8")

    def copy(self, arrays, stream):
        arrays = [np.asarray(x) for x in arrays]
        size = sum(map(_room, arrays)) or ALIGNMENT
        self.copied.synchronize()  # or the copy before could take numbers of this batch
        if size > len(self._host):
            self._there = self._xp.empty(size, "uint8")
            self._host = _pinned(size, self._xp)
        for own, x in zip(_unpacked(self._host, arrays), arrays, strict=True):
            own[...] = x
        stream.wait_event(self.read)
        self._there[:size].set(self._host[:size], stream)
        self.copied.record(stream)
        self.taken = True
        return tuple(_unpacked(self._there, arrays))


def _pinned(size, xp):
    # Or ordinary memory, from where CUDA copies as correctly: only that the thread waits for it.
    try:
        return np.frombuffer(xp.cuda.alloc_pinned_memory(size), "uint8", size)
    except xp.cuda.runtime.CUDARuntimeError as error:
        if error.status != OUT_OF_MEMORY:
            raise
    warnings.warn(
        "CUDA found no memory of the host to pin for batches, so they take longer to the GPU; "
        "numbers do not change. Other programs may use most of the memory (free -h shows it)",
        RuntimeWarning,
        stacklevel=2,
    )
    return np.empty(size, "uint8")


def _room(x):
    return max(1, -(-x.nbytes // ALIGNMENT)) * ALIGNMENT


def _unpacked(memory, arrays):
    # Views of a stretch of bytes as arrays like these, one after another.
    begin = 0
    for x in arrays:
        yield memory[begin : begin + x.nbytes].view(x.dtype).reshape(x.shape)
        begin += _room(x)
