"""Normalisations without parameters: the softmax of a row, and a row of length one."""

from scratch_vlm.backend import floating, row_dot


def softmax_forward(x):
    r"""Turn each row of scores into positive weights that sum to one.

    Parameters
    ----------
    x : array of shape (..., D)
        Scores.

    Returns
    -------
    y : array of shape (..., D)
        Weights from 0 to 1.
    saved : array of shape (..., D)
        `y` itself, all that `softmax_backward` needs.

    See Also
    --------
    softmax_backward : The gradient of this function.

    Notes
    -----
    :math:`y_i = e^{x_i} / \sum_j e^{x_j}`. The largest score of a row is taken off first: the
    result is the same, and no exponential can overflow.

    Examples
    --------
    >>> import numpy as np
    >>> softmax_forward(np.log([[1.0, 1.0, 2.0]]))[0]
    array([[0.25, 0.25, 0.5 ]])
    """
    xp = floating(x)
    y = x - x.real.max(-1, keepdims=True)
    xp.exp(y, out=y)
    y /= y.sum(-1, keepdims=True)
    return y, y


def softmax_backward(dy, y):
    r"""Gradient of `softmax_forward`.

    Parameters
    ----------
    dy : array of shape (..., D)
        dL/dy.
    y : array of shape (..., D)
        As `softmax_forward` saved it.

    Returns
    -------
    dx : array of shape (..., D)

    Notes
    -----
    From :math:`\partial y_i / \partial x_j = y_i (\delta_{ij} - y_j)`:
    :math:`dx = y \circ (dy - \sum_j y_j dy_j)`. Every row of dx sums to zero, because adding a
    number to all scores changes nothing.
    """
    return y * (dy - row_dot(dy, y))


def l2_normalize_forward(x):
    r"""Scale each row to length one.

    Parameters
    ----------
    x : array of shape (..., E)
        Embeddings; none may be zero.

    Returns
    -------
    y : array of shape (..., E)
        Unit vectors.
    saved : tuple
        For `l2_normalize_backward`.

    See Also
    --------
    l2_normalize_backward : The gradient of this function.

    Notes
    -----
    :math:`y = x / \lVert x \rVert`; CLIP compares embeddings by this alone [1]_. The square of the
    length is bounded below by the smallest normal number, so that a row of zeros gives zeros, not
    nan; in float32 rows of a length from 1e-19 to 1e19 become unit vectors.

    References
    ----------
    .. [1] A. Radford et al., "Learning Transferable Visual Models From Natural Language
       Supervision", 2021, arXiv:2103.00020, figure 3.
    """
    xp = floating(x)
    length = xp.sqrt(xp.maximum(row_dot(x, x), xp.finfo(x.dtype).tiny))  # (..., 1)
    y = x / length
    return y, (y, length)


def l2_normalize_backward(dy, saved):
    r"""Gradient of `l2_normalize_forward`.

    Parameters
    ----------
    dy : array of shape (..., E)
        dL/dy.
    saved : tuple
        As `l2_normalize_forward` saved it.

    Returns
    -------
    dx : array of shape (..., E)

    Notes
    -----
    In the forward this was :math:`y = x / \lVert x \rVert`, so
    :math:`dx = (dy - y \langle y, dy \rangle) / \lVert x \rVert`: the part of `dy` along `y` is
    taken out, because a longer `x` gives the same `y`. Hence dx is orthogonal to x.
    """
    y, length = saved
    return (dy - y * row_dot(dy, y)) / length
