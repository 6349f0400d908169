"""What a CUDA graph is to the stand-in: the calls that a capture has seen, made again.

A capture takes down what is done, not with which numbers of Python it was decided: those are part
of the calls. Memory that was given back during the capture belongs to others between two replays,
so it holds NaN before each. And those others lose what they hold: whatever was taken from the same
pool since may lie where the graph writes. Memory that the pool gave back to the device is gone, and
a graph that was captured with it cannot be launched.
"""

import threading
import weakref
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

_before = []  # what older arrays held when it began: nothing is done while a graph is captured
_alive = weakref.WeakValueDictionary()


class _Mine(threading.local):  # what other threads do goes to other streams
    tape = None  # of the capture that is going on
    pool = None  # that memory is taken from, if not from the one of all
    began = 0  # pieces that the pool had given when the capture began


_mine = _Mine()


class CaptureRefused(RuntimeError):
    """Something that a CUDA graph cannot hold was done while one was captured."""


class IllegalAddress(RuntimeError):
    """A graph was launched that uses memory which the device has back."""


class Call(NamedTuple):
    """A call and the arrays that it made, if it made any."""

    function: Callable
    args: tuple
    kwargs: dict
    made: tuple


def refuse(what):
    """Raise if a capture is going on."""
    if _mine.tape is not None:
        raise CaptureRefused(f"{what} while a graph is captured")


def record(function, *args, made=(), **kwargs):
    """Take down a call; `made` are the arrays of its result, views of older ones among them."""
    if _mine.tape is None:
        return
    older = (function, *args, *kwargs.values())
    new = tuple(x if _is_new(x, older) else None for x in made)
    if any(x is not None for x in new) and not _mine.pool:
        refuse("memory was taken outside of the graph's own pool")
    _mine.tape.append(Call(function, args, kwargs, new))


def _is_new(x, older):
    return x.size and not any(np.may_share_memory(x, y) for y in _arrays(older))


def _arrays(values):
    for x in values:
        if isinstance(x, list | tuple):
            yield from _arrays(x)
        elif isinstance(x, np.ndarray):
            yield x
        elif isinstance(getattr(x, "__self__", None), np.ndarray):
            yield x.__self__  # of a bound method


class Graph:
    """What `end_capture` returns."""

    def __init__(self, calls, pool, began):
        self._calls, self._pool = calls, pool
        self._count = pool.count if pool else 0
        self._memory = pool.memory(began) if pool else []

    def launch(self, stream=None):
        """Do it all again."""
        refuse("a graph was launched")
        if any(memory() is None for memory in self._memory):
            raise IllegalAddress("the pool of a graph gave back memory that the graph uses")
        for x in self._pool.arrays(self._count) if self._pool else ():
            _spoil(x)
        for call in self._calls:
            for x in call.made:
                if x is not None:
                    _spoil(x)
        for function, args, kwargs, made in self._calls:
            result = function(*args, **kwargs)
            results = result if isinstance(result, list | tuple) else (result,)
            for x, y in zip(made, results, strict=False):
                if x is not None:
                    x[...] = y


def _spoil(x):
    """Write what nobody means to read."""
    if x.dtype.kind == "b":
        np.logical_not(x, out=x)
    else:
        x.fill(np.iinfo(x.dtype).max if x.dtype.kind in "iu" else np.nan)


def track(x):
    """Remember an array of the device for as long as it lives."""
    _alive[id(x)] = x
    if _mine.pool and x.host.base is None:
        _mine.pool.take(x)


def begin():
    """Begin a capture."""
    refuse("another capture began")
    alive = [reference() for reference in _alive.valuerefs()]  # other threads may add some
    wholes = [_whole(x.host) for x in alive if x is not None]
    _before[:] = [(x, x.copy()) for x in {id(x): x for x in wholes}.values() if x.flags.writeable]
    _mine.tape, _mine.began = [], _mine.pool.count if _mine.pool else 0


def _whole(x):
    return x if not isinstance(x.base, np.ndarray) else _whole(x.base)


def end():
    """End the capture and return its graph."""
    calls, _mine.tape = _mine.tape, None
    for x, held in _before:
        x[...] = held
    _before.clear()
    return Graph(calls, _mine.pool, _mine.began)


def use_pool(pool):
    """Say where memory comes from, and return where it came from before."""
    before, _mine.pool = _mine.pool, pool
    return before
