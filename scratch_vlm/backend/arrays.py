"""An array knows where it lives: its module, and the two ways across."""

import sys
from contextlib import contextmanager
from contextvars import ContextVar

import numpy as np

_keeper = ContextVar("what copies constants to a device", default=None)


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
    if x.dtype.kind not in "fc" and x.dtype.name != "bfloat16":
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
    keeper = _keeper.get()
    return keeper(x) if keeper and isinstance(x, np.ndarray) else xp.asarray(x)


@contextmanager
def keeping_constants(keeper):
    """Let another function do the copies of `to_device` inside.

    Parameters
    ----------
    keeper : callable
        Takes an array of NumPy and returns one of the device.
    """
    token = _keeper.set(keeper)
    try:
        yield
    finally:
        _keeper.reset(token)
