"""Primitives that every layer shares and whose fast form is not the obvious one."""

import numpy as np

from scratch_vlm.backend.arrays import floating, namespace
from scratch_vlm.backend.dispatch import fused
from scratch_vlm.backend.products import add_product, product


def rows(x):
    """View an array as a matrix with one token in each row.

    Parameters
    ----------
    x : array of shape (..., D)
        C-contiguous, or the result is a copy.

    Returns
    -------
    array
        Of two axes, (tokens, D).
    """
    return x.reshape(-1, x.shape[-1])


def project(x, w, *, bias=None, out=None):
    """Multiply every token by a matrix, as one two-dimensional product.

    A product of more than two dimensions leaves the fast path of BLAS; folding the leading axes
    keeps it.

    Parameters
    ----------
    x : array of shape (..., D)
        Tokens.
    w : array of shape (D, M)
        Weights; a transposed view is as good as a contiguous one.
    bias : array of shape (M,), optional
        Added to every token that comes out.
    out : array of shape (..., M), optional
        Where to write the product; C-contiguous.

    Returns
    -------
    y : array of shape (..., M)

    Raises
    ------
    ValueError
        If `x` and `w` disagree about D, or `out` is not C-contiguous or of another shape.
    TypeError
        If `x` does not hold floating point numbers.
    """
    floating(x)
    if w.ndim != 2:
        raise ValueError(f"w must be a matrix (D, M), got {w.shape}")
    if x.shape[-1] != w.shape[0]:
        raise ValueError(
            f"x has {x.shape[-1]} channels and w takes {w.shape[0]}; they must agree "
            f"(x {x.shape}, w {w.shape})"
        )
    shape = (*x.shape[:-1], w.shape[1])
    if out is None:
        return product(rows(x), w, bias=bias).reshape(shape)
    if out.shape != shape:
        raise ValueError(f"out is {out.shape} and must be {shape} (x {x.shape}, w {w.shape})")
    if not out.flags.c_contiguous:
        raise ValueError(f"out must be C-contiguous; its strides are {out.strides} bytes")
    product(rows(x), w, bias=bias, out=rows(out))
    return out


def row_mean(x):
    """Mean over the last axis, kept as an axis of length one.

    Parameters
    ----------
    x : array of shape (..., D)
        Any numbers.

    Returns
    -------
    mean : array of shape (..., 1)

    Notes
    -----
    A product with the vector (1/D, ..., 1/D): BLAS reads `x` several times faster than
    ``x.mean(-1)`` does when D is small.
    """
    xp = namespace(x)
    weights = xp.full((x.shape[-1], 1), 1.0 / x.shape[-1], x.dtype)
    return product(rows(x), weights, precision="float32").reshape(*x.shape[:-1], 1)


def row_dot(a, b):
    """Inner product of each row of `a` with the same row of `b`, without conjugation.

    Parameters
    ----------
    a, b : array of shape (..., D)
        Two arrays of one shape.

    Returns
    -------
    dot : array of shape (..., 1)
    """
    if namespace(a) is np and a.dtype.kind == "f":
        return np.vecdot(a, b)[..., None]  # conjugates, so for real numbers only
    return (a * b).sum(-1, keepdims=True)


def row_sum(x):
    """Sum over the last axis, kept as an axis of length one.

    Parameters
    ----------
    x : array of shape (..., D)
        Any numbers.

    Returns
    -------
    total : array of shape (..., 1)
    """
    if _by_blas(x):
        return (rows(x) @ np.ones((x.shape[-1], 1), x.dtype)).reshape(*x.shape[:-1], 1)
    return x.sum(-1, keepdims=True)


def row_max(x):
    """Largest number of each row, or the lowest finite one where all are minus infinity.

    Parameters
    ----------
    x : array of shape (..., D)
        Any numbers; of complex ones the real parts count.

    Returns
    -------
    top : array of shape (..., 1)

    Notes
    -----
    With a number to begin with NumPy takes whole vectors of a row of 64 or 128, and without one it
    takes one number, vectors, and then a remainder one by one, which is slower.
    """
    xp = namespace(x)
    lowest = xp.finfo(x.dtype).min
    if xp is np:
        return x.real.max(-1, keepdims=True, initial=lowest)
    return xp.maximum(x.real.max(-1, keepdims=True), lowest)


def column_sum(x, dtype=None):
    """Sum of all tokens.

    Parameters
    ----------
    x : array of shape (..., D)
        Tokens.
    dtype : dtype, optional
        Of the sum, where `x` has 16 bits.

    Returns
    -------
    total : array of shape (D,)
    """
    x = rows(x)
    if _by_blas(x):
        return np.ones(len(x), x.dtype) @ x
    return x.sum(0, dtype=dtype)


def squared_length(x):
    """Inner product of a long vector with itself.

    Parameters
    ----------
    x : array of shape (n,)
        Any real numbers.

    Returns
    -------
    array of shape ()
        On a device, which is not waited for.
    """
    if namespace(x) is np:
        return x @ x
    size = 2**22  # bounds the memory of the squares, and is large enough to make up for a launch
    parts = [x[start : start + size] for start in range(0, len(x), size)]
    return sum((part * part).sum() for part in parts)


@fused
def add_at(target, index, values):
    """Add rows of `values` to the rows of `target` that `index` names; repeats add up.

    Parameters
    ----------
    target : array of shape (V, D)
        Changed in place.
    index : integer array of shape (...)
        Row numbers from 0 to V - 1.
    values : array of shape (..., D)
        What to add.

    Notes
    -----
    Of a small table all entries are multiplied, by a one-hot matrix; on the host a larger one gains
    row after row, which is faster than ``np.add.at``.
    """
    xp = namespace(target)
    index, values = index.reshape(-1), rows(values)
    few = 256 if xp is np else 1024
    if len(target) <= few:
        one_hot = xp.zeros((index.size, len(target)), values.dtype)
        one_hot[xp.arange(index.size), index] = 1
        add_product(target, one_hot.T, values, precision="float32")
    elif xp is np:
        for number, value in zip(index.tolist(), values, strict=True):
            row = target[number]
            row += value
    else:
        xp.add.at(target, index, values)


@fused
def add_sum(target, x):
    """Add the sum of all tokens to a vector, as the gradient of a bias is.

    Parameters
    ----------
    target : array of shape (D,)
        Changed in place.
    x : array of shape (..., D)
        Tokens, of the type of `target` or one of fewer bits.
    """
    target += column_sum(x, target.dtype)


def erf(x):
    """Error function, elementwise; accepts complex numbers on the host.

    Parameters
    ----------
    x : array of shape (...)
        Any numbers.

    Returns
    -------
    array of shape (...)
    """
    if namespace(x) is np:
        from scipy.special import erf as host_erf  # 0.2 s to import, needed by one activation

        return host_erf(x)
    from cupyx.scipy.special import erf as device_erf

    return device_erf(x)


def _by_blas(x):  # whether a product with ones is the fastest sum
    return namespace(x) is np and x.dtype.char in "fdFD"
