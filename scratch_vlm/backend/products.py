"""The matrix product: where it is computed, and in which precision."""

import numpy as np

from scratch_vlm.backend import cublas
from scratch_vlm.backend.arrays import namespace
from scratch_vlm.backend.precision import product_precision, rounded


def product(a, b, *, bias=None, out=None, precision=None):
    """Multiply matrices: NumPy's matmul, or cuBLAS without copying what it can take as it is.

    Parameters
    ----------
    a : array of shape (..., T, K)
        Or a view of one, transposed or sliced.
    b : array of shape (..., K, M)
        The same.
    bias : array of shape (M,), optional
        Added to every row of the product.
    out : array of shape (..., T, M), optional
        Where to write the product.
    precision : {"float32", "tf32", "bf16", "fp16"}, optional
        Of this product, whatever `products_in` says: ``"float32"`` for means and losses.

    Returns
    -------
    array of shape (..., T, M)

    See Also
    --------
    add_product : Add the product to an array.
    products_in : In which precision it is computed.
    """
    xp, precision = namespace(a), precision or product_precision()
    if xp is not np:
        return cublas.matmul(a, b, out, bias=bias, precision=precision, xp=xp)
    if precision != "float32":
        a, b = rounded(a, precision), rounded(b, precision)
    y = np.matmul(a, b, out=out)
    if bias is not None:
        y += bias
    return y


def add_product(target, a, b, *, precision=None):
    """Add a product of matrices to an array.

    Parameters
    ----------
    target : array of shape (..., T, M)
        Changed in place.
    a : array of shape (..., T, K)
        Or a view of one, transposed or sliced.
    b : array of shape (..., K, M)
        The same.
    precision : {"float32", "tf32", "bf16", "fp16"}, optional
        Of this product, whatever `products_in` says.

    See Also
    --------
    product : Write it into an array of its own.
    """
    xp, precision = namespace(a), precision or product_precision()
    if xp is not np:
        cublas.matmul(a, b, target, add=True, precision=precision, xp=xp)
    else:
        target += product(a, b, precision=precision)
