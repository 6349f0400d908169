"""Factors: what matrix products read, in as many bits as they read.

In bf16 and fp16 a product rounds what it multiplies. An array that several products read is
rounded once; one that nothing but products read need not exist in float32 at all, which halves the
bytes that cross the memory of a device. Products compute what they did, since what was rounded
stays as it is when it is rounded again, and what is too large for fp16 stays infinite. Other things
see rounded numbers, too: the gradient of a bias, which sums the array that products read; the scale
of attention, which comes after; an activation by a kernel, which stands between two products, and
its slope; and the biases of products whose result is written in 16 bits.
"""

from functools import cache

import numpy as np

from scratch_vlm.backend.arrays import namespace
from scratch_vlm.backend.dispatch import Saved, fused, kernels_in_use
from scratch_vlm.backend.precision import product_precision, rounded


def as_factor(x):
    """Make of an array what products make of it.

    Parameters
    ----------
    x : array of shape (...)
        Of float32; others come back as they are.

    Returns
    -------
    array of shape (...)
        In bf16 and fp16: on a device in that type, on the host in float32, rounded. In tf32: on
        the host rounded, on a device `x` itself, since its tensor cores do that. In float32 `x`
        itself.

    See Also
    --------
    factor_room : Where to write what only products will read.

    Examples
    --------
    >>> from scratch_vlm.backend import products_in
    >>> with products_in("bf16"):
    ...     print(as_factor(np.array([1 + 2**-9], "float32")))
    [1.]
    """
    if x.dtype != "float32":
        return x
    if namespace(x) is np:
        return rounded(x, product_precision())
    half = half_type(product_precision())
    return x if half is None else lowered(x, half)


def factor_room(x, otherwise=None):
    """Find memory for an array that nothing but products will read.

    Parameters
    ----------
    x : array of shape (...)
        Of the same shape.
    otherwise : array of shape (...), optional
        What to return where factors have the type of `x`, and where no kernel is in use: the
        lines of an op would round in every line, kernels do once.

    Returns
    -------
    array of shape (...) or None
        Empty, of 16 bits; or `otherwise`.

    See Also
    --------
    room_between : For what an op reads, too.
    """
    half = _half_by_kernels(x)
    if half is None or x.dtype == half:
        return otherwise
    return namespace(x).empty(x.shape, half)


def room_between(x, width, op):
    """Find memory for what a product writes and one op reads, to hand it to a product in turn.

    Parameters
    ----------
    x : array of shape (..., D)
        What is multiplied.
    width : int
        M, channels of the result.
    op : callable
        The op; it has to be done by a kernel, since its lines would round in every line.

    Returns
    -------
    array of shape (..., M) or None
        Empty, of 16 bits; None where products shall write float32.

    See Also
    --------
    room_back : For the gradient that comes back.
    """
    half = _half_by_kernels(x)
    if half is None or op.__name__ not in kernels_in_use():
        return None
    return namespace(x).empty((*x.shape[:-1], width), half)


def room_back(saved, shape):
    """Find memory for the gradient that goes into the backward of an op.

    Parameters
    ----------
    saved : dict
        What the op's forward saved, ``y`` among it.
    shape : tuple of int
        Of the gradient.

    Returns
    -------
    array of shape (...) or None
        Empty, of 16 bits, if a kernel did the op and gave as many; or None.
    """
    y = saved["y"]
    if not isinstance(saved, Saved) or y.dtype.itemsize != 2:
        return None
    return namespace(y).empty(shape, y.dtype)


def _half_by_kernels(x):  # the type of 16 bits that products of `x` read, if there are kernels
    if namespace(x) is np or not kernels_in_use():
        return None
    half = half_type(product_precision())
    return half if x.dtype in ("float32", half) else None


@cache
def half_type(precision):
    """Return the type of 16 bits that a precision multiplies in.

    Parameters
    ----------
    precision : {"float32", "tf32", "bf16", "fp16"}
        Of products.

    Returns
    -------
    dtype or None

    Raises
    ------
    ImportError
        If bfloat16 is asked for and ml_dtypes is not installed.
    """
    if precision == "fp16":
        return np.dtype("float16")
    if precision == "bf16":
        try:
            import ml_dtypes  # NumPy and CuPy have no such type of their own
        except ImportError:
            raise ImportError("bf16 on a GPU needs: python -m pip install ml_dtypes") from None
        return np.dtype(ml_dtypes.bfloat16)
    return None


@fused
def lowered(x, dtype):
    """Round an array to a type of fewer bits.

    Parameters
    ----------
    x : array of shape (...)
        Of float32.
    dtype : dtype
        Such as float16.

    Returns
    -------
    array of shape (...)
    """
    return x.astype(dtype)
