"""CUDA graphs: a function of arrays, recorded once, then launched as one.

A small training step is hundreds of short kernels, and Python and the driver need longer to launch
one than the GPU to run it. A graph is the list of all launches, with all addresses, and the GPU
works it off without Python. So what a replay does is what was recorded, and only numbers in memory
may change: inputs are copied to where they were the first time, learning rate, loss scale and the
like are inputs too, and random numbers are drawn again. Nothing else of Python runs again, nothing
may wait for the GPU or come from the host, and memory for what is in between belongs to the graph,
from a pool that only graphs use, and that gives nothing back while they live. They take turns in
it, so what must last from one launch to another is kept elsewhere.
"""

import weakref
from collections import defaultdict
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field

import numpy as np

from scratch_vlm.backend import cublas
from scratch_vlm.backend.arrays import copying_by, name_of
from scratch_vlm.backend.choose import BackendError

WARMUP = 3  # calls before a recording: kernels are compiled, and the pool gets its memory
MOST = 32  # sets of shapes that are recorded; calls with further ones run without a graph
_idle = defaultdict(list)  # streams of graphs that are gone: each has a workspace of cuBLAS


class GraphError(RuntimeError):
    """A function does what no graph can hold; the message says what."""


@dataclass
class _Drawn:
    rng: np.random.Generator
    draw: object
    room: object  # on the device


@dataclass
class _Recording:
    inputs: list
    random: list = field(default_factory=list)  # what the function draws, in that order
    calls: int = 0
    graph: object = None
    outputs: object = None


class Graphs:
    """What graphs that run one after another share: a stream and a pool of memory.

    Parameters
    ----------
    xp : module
        `cupy`, as `load` returns it.
    dtype : dtype, default float32
        Of arrays that are made of Python's numbers.

    Raises
    ------
    BackendError
        If `xp` is NumPy.
    """

    def __init__(self, xp, dtype="float32"):
        if xp is np:
            raise BackendError("CUDA graphs need a GPU: add --backend cupy, or leave --graph out")
        self._xp, self._dtype = xp, np.dtype(dtype)
        idle = _idle[xp, xp.cuda.Device().id]
        self._stream = idle.pop() if idle else xp.cuda.Stream(non_blocking=True)
        weakref.finalize(self, idle.append, self._stream).atexit = False
        self._pool = xp.cuda.MemoryPool(_keeping(xp))
        self._constants = {}

    @contextmanager
    def in_use(self):
        """Let everything inside be done on the stream of the graphs, and be done at the end."""
        self._xp.cuda.get_current_stream().synchronize()
        with self._stream:
            cublas.handle(self._xp)  # takes memory that outlives the pool
            try:
                yield
            finally:
                self._stream.synchronize()

    @property
    def nbytes(self):
        """Bytes of the pool. They are given back with the last function that was recorded."""
        return self._pool.total_bytes()

    def recorded(self, function):
        """Wrap a function so that it becomes a graph.

        Parameters
        ----------
        function : callable
            Of arrays, which it does not change; returns an array or None, and may change arrays
            in place that it knows otherwise, which must stay where they are. What it reads from
            the host must be the same in every call, or come from `backend.drawn`.

        Returns
        -------
        callable
            Of the same arguments, which may be numbers, or tuples of them, in place of arrays;
            call it inside `in_use`. The first calls run as they are, then one is recorded, for
            every set of shapes by itself. What it returns holds until the next call of anything
            that these graphs have recorded.

        Raises
        ------
        GraphError
            By what is returned, if it is called elsewhere, or the function cannot be recorded.
        """
        recordings = {}

        def call(*arguments):
            if self._xp.cuda.get_current_stream() != self._stream:
                raise GraphError("what is recorded runs on a stream of its own: call it in in_use")
            arrays = [self._array(x) for x in arguments]
            shapes = tuple((x.shape, name_of(x.dtype)) for x in arrays)
            if shapes not in recordings and len(recordings) == MOST:
                return function(*(self._xp.asarray(x) for x in arrays))
            if shapes not in recordings:
                inputs = [self._xp.empty(x.shape, x.dtype) for x in arrays]
                recordings[shapes] = _Recording(inputs)
            recording = recordings[shapes]
            for own, x in zip(recording.inputs, arrays, strict=True):
                own[...] = self._xp.asarray(x)
            if recording.graph is None and recording.calls < WARMUP:
                recording.random.clear()
                with self._own_memory(_Copies(self._xp, self._constants, recording.random)):
                    outputs = function(*recording.inputs)
                recording.calls += 1
                return outputs
            if recording.graph is None:
                self._capture(function, recording)
            for one in recording.random:
                one.room[...] = self._xp.asarray(one.draw(one.rng))
            recording.graph.launch()
            return recording.outputs

        return call

    def _array(self, x):
        return x if hasattr(x, "shape") else np.asarray(x, self._dtype)

    @contextmanager
    def _own_memory(self, copies):
        with self._xp.cuda.using_allocator(self._pool.malloc), copying_by(copies):
            yield

    def _capture(self, function, recording):
        copies = _CapturedCopies(self._constants, recording.random)
        with self._own_memory(copies):
            try:
                self._stream.begin_capture()
                recording.outputs = function(*recording.inputs)
                recording.graph = self._stream.end_capture()
            except BaseException as error:
                with suppress(Exception):  # the one that counts is on its way
                    self._stream.end_capture()
                refused = isinstance(error, RuntimeError) and "captur" in str(error).lower()
                if refused:  # by CuPy or by CUDA
                    raise GraphError(
                        f"no graph can hold this, leave --graph out: {error}"
                    ) from error
                raise


def _keeping(xp):
    # What a pool takes memory with. Where there is none left a pool gives back what no array has
    # and asks again; but addresses in it are part of graphs, so here it is only forgotten.
    kept = []

    def allocate(size):
        try:
            memory = xp.cuda.Memory(size)
        except xp.cuda.runtime.CUDARuntimeError:  # perhaps the pool of all has more than it needs
            xp.get_default_memory_pool().free_all_blocks()
            memory = xp.cuda.Memory(size)
        kept.append(memory)
        return xp.cuda.MemoryPointer(memory, 0)

    return allocate


class _Copies:
    # From the host, in the calls before a recording: what is copied is kept, since a graph would
    # read host memory again at each replay. Receivers get a copy of it, which they may change.
    # What is kept is not in the pool of graphs: an earlier one would write over it.

    def __init__(self, xp, constants, random):
        self._xp, self._constants, self._random = xp, constants, random

    def constant(self, x):
        if _key(x) not in self._constants:
            self._constants[_key(x)] = self._lasting(x)
        return self._constants[_key(x)].copy()

    def drawn(self, draw, rng, shape, dtype):
        room = self._lasting(draw(rng))
        self._random.append(_Drawn(rng, draw, room))
        return room

    def _lasting(self, x):
        with self._xp.cuda.using_allocator(self._xp.get_default_memory_pool().malloc):
            return self._xp.asarray(x)


class _CapturedCopies:
    # While a graph is recorded: only what is known from the call before.

    def __init__(self, constants, random):
        self._constants, self._random, self._place = constants, random, 0

    def constant(self, x):
        if _key(x) not in self._constants:
            raise GraphError(
                f"numbers of the host, {x.dtype} of shape {x.shape}, are others in each call; a "
                "graph takes what changes from its inputs, and random numbers from backend.drawn"
            )
        return self._constants[_key(x)].copy()

    def drawn(self, draw, rng, shape, dtype):
        known = self._place < len(self._random)
        before = self._random[self._place] if known else None
        alike = known and before.rng is rng
        if not alike or (before.room.shape, before.room.dtype) != (tuple(shape), dtype):
            raise GraphError(
                f"random numbers of shape {tuple(shape)} come from another generator than in the "
                "call before; a graph draws again from one that stays, so dropout in what is "
                "recomputed or chunked cannot be part of it"
            )
        before.draw = draw
        self._place += 1
        return before.room


def _key(x):
    return x.shape, x.dtype.str, x.tobytes()
