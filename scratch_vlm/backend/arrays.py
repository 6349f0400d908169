"""An array knows where it lives: its module, and the two ways across."""

import sys
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache

import numpy as np

_copier = ContextVar("what copies to a device", default=None)


def namespace(x):
    """Return the module that owns an array, and that makes arrays beside it.

    Parameters
    ----------
    x : array
        A NumPy or a CuPy array.

    Returns
    -------
    module
        `numpy` or `cupy`. CuPy is looked up, never imported: whoever made `x` has imported it.

    Raises
    ------
    TypeError
        If `x` is not an array.

    Examples
    --------
    >>> namespace(np.ones(3)).__name__
    'numpy'
    """
    if isinstance(x, np.ndarray | np.generic):
        return np
    module = sys.modules.get(type(x).__module__.partition(".")[0])
    if not hasattr(module, "ndarray"):
        raise TypeError(
            f"expected a NumPy or CuPy array, got {type(x).__name__}; numpy.asarray makes one"
        )
    return module


@cache
def name_of(dtype):
    """Name a dtype; NumPy puts the name together anew each time, which takes microseconds.

    Parameters
    ----------
    dtype : dtype
        Of an array.

    Returns
    -------
    str
        Such as ``"bfloat16"``.
    """
    return np.dtype(dtype).name


def floating(x, name="x"):
    """Return the module that owns an array of floating point numbers, and refuse any other.

    Parameters
    ----------
    x : array
        A NumPy or a CuPy array.
    name : str, default "x"
        What to call it in the error.

    Returns
    -------
    module
        `numpy` or `cupy`.

    Raises
    ------
    TypeError
        If `x` is not an array, or holds integers or booleans, to which results would be rounded.

    See Also
    --------
    namespace : The same for an array of anything.
    """
    xp = namespace(x)
    if x.dtype.kind not in "fc" and name_of(x.dtype) != "bfloat16":
        raise TypeError(
            f"{name} must be floating point, got {x.dtype}; convert it with astype('float32')"
        )
    return xp


def to_host(x):
    """Copy an array to the host, and wait for it; a NumPy array comes back as it is.

    Parameters
    ----------
    x : array
        A NumPy or a CuPy array.

    Returns
    -------
    numpy.ndarray
    """
    xp = namespace(x)
    return np.asarray(x) if xp is np else xp.asnumpy(x)


def to_device(x, xp):
    """Copy a NumPy array to where the module `xp` keeps its arrays.

    Parameters
    ----------
    x : numpy.ndarray
        With NumPy as `xp` it comes back as it is.
    xp : module
        `numpy` or `cupy`, as `load` returns it.

    Returns
    -------
    array
        An array of `xp`.
    """
    copier = _copier.get()
    return copier.constant(x) if copier and isinstance(x, np.ndarray) else xp.asarray(x)


def drawn(draw, rng, shape, dtype, xp):
    """Draw numbers on the host, so that the same fall on every backend, and copy them.

    Parameters
    ----------
    draw : callable
        ``draw(rng)`` gives a NumPy array. Where the call is part of a CUDA graph, it is drawn
        again before each replay.
    rng : numpy.random.Generator
        Where the numbers come from.
    shape : tuple of int
        Of what is drawn.
    dtype : dtype
        The same.
    xp : module
        `numpy` or `cupy`, as `load` returns it.

    Returns
    -------
    array
        An array of `xp`.
    """
    copier = _copier.get()
    return copier.drawn(draw, rng, shape, dtype) if copier else xp.asarray(draw(rng))


@contextmanager
def copying_by(copier):
    """Let something else do the copies of `to_device` and of `drawn` inside.

    Parameters
    ----------
    copier : object
        With the methods ``constant(x)`` and ``drawn(draw, rng, shape, dtype)``.
    """
    token = _copier.set(copier)
    try:
        yield
    finally:
        _copier.reset(token)
