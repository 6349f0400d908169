"""Plan a product of matrices as one call of cuBLAS, without copying views.

cuBLAS multiplies matrices that are stored column by column, and takes for each of its operands a
transposition, a leading dimension (from one column to the next, in elements) and a batch stride
(from one matrix of a batch to the next). A transposed view, a slice of rows or of columns, weights
shared by a batch: all of these are only other numbers. `plan` finds them, from shapes and strides
alone; it touches no array, and is tested without a GPU.
"""

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple


class Layout(NamedTuple):
    """How an array lies in memory.

    Attributes
    ----------
    shape : tuple of int
        Its axes; the last two are those of the matrices.
    strides : tuple of int
        From one element to the next along each axis, in elements.
    """

    shape: tuple
    strides: tuple


class Refused(ValueError):
    """No single call computes this product; `operand` is what would have to be copied first."""

    def __init__(self, operand, reason):
        super().__init__(f"{operand}: {reason}")
        self.operand = operand


@dataclass(frozen=True)
class Plan:
    """The numbers of one call of cublasGemmStridedBatchedEx.

    What is row by row is, read column by column, its transpose; so C = A B is computed as
    C' = B' A', and our second operand is the first of cuBLAS.

    Attributes
    ----------
    transposed : (bool, bool)
        Of the first and the second operand of cuBLAS: our B and our A.
    m, n, k : int
        The result of cuBLAS is (m, n), that is, ours (n, m); k is summed over.
    leading : (int, int, int)
        Leading dimensions of B, A and C.
    step : (int, int, int)
        Batch strides of B, A and C; 0 for a matrix that all share.
    batch : int
        Products.
    """

    transposed: tuple
    m: int
    n: int
    k: int
    leading: tuple
    step: tuple
    batch: int


@lru_cache(maxsize=4096)  # a model has so many products, and asks for each in every step
def plan(a, b, c):
    """Plan C = A B.

    Parameters
    ----------
    a, b, c : Layout
        Of (..., T, K), (..., K, N) and (..., T, N); axes of a batch are broadcast as by
        `numpy.matmul`.

    Returns
    -------
    Plan

    Raises
    ------
    Refused
        If one call is not enough.
    ValueError
        If the shapes do not fit.

    Examples
    --------
    Tokens times weights are one product of two matrices, however many axes the tokens have:

    >>> x, w = Layout((8, 5, 4), (20, 4, 1)), Layout((4, 6), (6, 1))
    >>> y = Layout((8, 5, 6), (30, 6, 1))
    >>> plan(x, w, y).n, plan(x, w, y).batch
    (40, 1)
    """
    check_shapes(a, b, c)
    a, b, c = _aligned(a, b, c)
    a, b, c = _folded(a, b, c)
    (rows, inner), columns = a.shape[-2:], b.shape[-1]
    transposed_a, leading_a = _matrix(a, "a")
    transposed_b, leading_b = _matrix(b, "b")
    transposed_c, leading_c = _matrix(c, "c")
    if transposed_c:
        raise Refused("c", "its rows are not contiguous")
    steps = tuple(_step(x, c.shape[:-2], name) for x, name in ((b, "b"), (a, "a"), (c, "c")))
    return Plan(
        (transposed_b, transposed_a),
        columns,
        rows,
        inner,
        (leading_b, leading_a, leading_c),
        steps,
        math.prod(c.shape[:-2]),
    )


def check_shapes(a, b, c):
    """Check that A B fits into C; axes of a batch are left to whoever made C.

    Parameters
    ----------
    a, b, c : Layout
        Of the matrices.

    Raises
    ------
    ValueError
        If the shapes do not fit.
    """
    if len(a.shape) < 2 or len(b.shape) < 2:
        raise ValueError(f"both must be matrices, got {a.shape} and {b.shape}")
    if a.shape[-1] != b.shape[-2] or c.shape[-2:] != (a.shape[-2], b.shape[-1]):
        raise ValueError(f"{a.shape} times {b.shape} does not fit into {c.shape}")


def _aligned(a, b, c):
    """Give all three the batch axes of C, without those of length 1; what is shared steps by 0."""
    kept = [axis for axis, length in enumerate(c.shape[:-2]) if length > 1]

    def align(x):
        new = len(c.shape) - len(x.shape)
        shape, strides = (1,) * new + tuple(x.shape), (0,) * new + tuple(x.strides)
        steps = tuple(strides[axis] if shape[axis] > 1 else 0 for axis in kept)
        return Layout(tuple(c.shape[axis] for axis in kept) + shape[-2:], steps + strides[-2:])

    return align(a), align(b), align(c)


def _folded(a, b, c):
    """Make rows of batch axes that B does not have: (B, T, K) times (K, N) is one product."""
    while len(c.shape) > 2 and b.strides[-3] == 0 and _rows_go_on(a) and _rows_go_on(c):
        a, c = _fold(a), _fold(c)
        b = Layout((*b.shape[:-3], *b.shape[-2:]), (*b.strides[:-3], *b.strides[-2:]))
    return a, b, c


def _rows_go_on(x):  # from the last row of a matrix to the first of the next
    return x.shape[-2] == 1 or x.strides[-3] == x.shape[-2] * x.strides[-2]


def _fold(x):
    *batch, count, rows, columns = x.shape
    *steps, step, row, column = x.strides
    return Layout((*batch, count * rows, columns), (*steps, step if rows == 1 else row, column))


def _matrix(x, name):
    """Whether a matrix is stored column by column, and its leading dimension."""
    (rows, columns), (row, column) = x.shape[-2:], x.strides[-2:]
    if (column == 1 or columns == 1) and (row >= columns or rows == 1):
        return False, row if rows > 1 else columns
    if (row == 1 or rows == 1) and (column >= rows or columns == 1):
        return True, column if columns > 1 else rows
    raise Refused(name, f"neither rows nor columns are contiguous, strides {x.strides}")


def _step(x, batch, name):
    """One stride for all batch axes."""
    strides = x.strides[: len(batch)]
    for length, inner, outer in zip(batch[1:], strides[1:], strides, strict=False):
        if outer != length * inner:
            raise Refused(name, f"its batch axes {batch} have no common stride, {strides}")
    return strides[-1] if batch else 0
