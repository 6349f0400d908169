"""In which precision matrix products are computed.

Tensor cores multiply numbers of fewer bits and add the products in float32. Weights, statistics,
softmax, losses, gradients of parameters and the residual stream stay float32; what only products
read is rounded where it is made (`factors`):

=======  =================  =============  ====================================
name     bits of fraction   largest        what rounds the factors of a product
=======  =================  =============  ====================================
float32  23                 3e38           nothing
tf32     10                 3e38           the tensor core
bf16     7                  3e38           a copy in bfloat16
fp16     10                 65504          a copy in float16
=======  =================  =============  ====================================

With NumPy the factors are rounded and multiplied in float32, which is what a tensor core computes
but for the order of the sums: two factors of 11 bits or fewer have an exact product in float32.
"""

from contextlib import contextmanager
from contextvars import ContextVar

import numpy as np

from scratch_vlm.backend.arrays import namespace

PRECISIONS = ("float32", "tf32", "bf16", "fp16")
DROPPED = {"tf32": 13, "bf16": 16}  # of the 23 bits of the fraction of a float32

_chosen = ContextVar("precision of products", default="float32")


@contextmanager
def products_in(precision):
    """Compute the matrix products of float32 arrays inside in another precision.

    Parameters
    ----------
    precision : {"float32", "tf32", "bf16", "fp16"}
        Which. Arrays of other dtypes are multiplied as they are.

    Raises
    ------
    ValueError
        If there is no such precision.

    Examples
    --------
    >>> from scratch_vlm.backend import product
    >>> x = np.array([[1 + 2**-9]], "float32")
    >>> with products_in("bf16"):
    ...     print(product(x, x)[0, 0])
    1.0
    """
    if precision not in PRECISIONS:
        raise ValueError(f"precision must be one of {', '.join(PRECISIONS)}, got {precision!r}")
    token = _chosen.set(precision)
    try:
        yield
    finally:
        _chosen.reset(token)


def product_precision():
    """Return the precision that was chosen with `products_in`.

    Returns
    -------
    str
        ``"float32"`` if none was.
    """
    return _chosen.get()


def in_precision(forward, backward, precision):
    """Wrap a pair so that its products are computed in a precision.

    Parameters
    ----------
    forward, backward : callable
        A pair.
    precision : {"float32", "tf32", "bf16", "fp16"}
        Of the products of both.

    Returns
    -------
    forward, backward : callable
        A pair with the same contract; the same two functions for float32.
    """
    if precision == "float32":
        return forward, backward

    def forward_(*arguments, **options):
        with products_in(precision):
            return forward(*arguments, **options)

    def backward_(*arguments, **options):
        with products_in(precision):
            return backward(*arguments, **options)

    return forward_, backward_


def rounded(x, precision):
    """Round float32 numbers to those that a precision has, to the nearest, ties to even.

    Parameters
    ----------
    x : array of shape (...)
        Of another dtype than float32 it comes back as it is.
    precision : {"float32", "tf32", "bf16", "fp16"}
        What has fewer numbers.

    Returns
    -------
    array of shape (...)
        Of float32. In fp16 what is too large becomes infinite, and what is too small zero.

    Examples
    --------
    >>> x = np.array([1.0009765625, 1e-9, 1e9], "float32")
    >>> for precision in ("tf32", "bf16", "fp16"):
    ...     print(rounded(x, precision))
    [1.0009766e+00 1.0004442e-09 9.9981722e+08]
    [1.0000000e+00 9.9680619e-10 9.9824435e+08]
    [1.0009766 0.              inf]
    """
    if precision == "float32" or x.dtype != np.float32:
        return x
    xp = namespace(x)
    if precision == "fp16":
        with np.errstate(over="ignore"):
            return x.astype(np.float16).astype(np.float32)
    drop = DROPPED[precision]
    bits = x.view(np.uint32)
    half = ((bits >> drop) & 1) + ((1 << (drop - 1)) - 1)  # just below a half, at it for odd ones
    kept = ((bits + half) >> drop) << drop
    return xp.where(xp.isnan(x), x, kept.view(np.float32))
