"""The matrix product: where it is computed, and in which precision."""

from scratch_vlm.backend import cublas
from scratch_vlm.backend.arrays import namespace
from scratch_vlm.backend.precision import product_precision, rounded


def product(a, b, *, bias=None, out=None):
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

    Returns
    -------
    array of shape (..., T, M)

    See Also
    --------
    add_product : Add the product to an array.
    products_in : In which precision it is computed.
    """
    xp, precision = namespace(a), product_precision()
    if xp.__name__ == "cupy":
        return cublas.matmul(a, b, out, bias=bias, precision=precision, xp=xp)
    if precision != "float32":
        a, b = rounded(a, precision), rounded(b, precision)
    y = xp.matmul(a, b, out=out)
    if bias is not None:
        y += bias
    return y


def add_product(target, a, b):
    """Add a product of matrices to an array.

    Parameters
    ----------
    target : array of shape (..., T, M)
        Changed in place.
    a : array of shape (..., T, K)
        Or a view of one, transposed or sliced.
    b : array of shape (..., K, M)
        The same.

    See Also
    --------
    product : Write it into an array of its own.
    """
    if namespace(a).__name__ == "cupy":
        cublas.matmul(a, b, target, add=True, precision=product_precision(), xp=namespace(a))
    else:
        target += product(a, b)
