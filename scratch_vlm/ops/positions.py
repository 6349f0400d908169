"""Positions: tables that tell a token where it stands, and how to stretch them to other sizes."""

import numpy as np

from scratch_vlm.backend import namespace
from scratch_vlm.ops.resize import resize_backward, resize_forward


def sincos_positions(places, width, *, longest=10000.0):
    r"""Sines and cosines of each place, at wavelengths from 2 pi to 2 pi times `longest`.

    Parameters
    ----------
    places : array of shape (T,)
        Where the tokens stand, in any unit.
    width : int
        D, even.
    longest : float, default 10000
        Ratio of the longest to the shortest wavelength.

    Returns
    -------
    table : array of shape (T, D)
        float64, -1 to 1; the sines first, then the cosines.

    Raises
    ------
    ValueError
        If `width` is odd or not positive.

    Notes
    -----
    Column i is :math:`\sin(t\, l^{-2i/D})` and column D/2 + i the cosine of the same, as in [1]_
    but with the sines and the cosines side by side, the order of most vision code.

    References
    ----------
    .. [1] A. Vaswani et al., "Attention Is All You Need", 2017, arXiv:1706.03762, section 3.5.

    Examples
    --------
    >>> sincos_positions(np.array([0.0]), 4)
    array([[0., 0., 1., 1.]])
    """
    if width < 2 or width % 2:
        raise ValueError(f"sin-cos positions need a positive even width, got {width}")
    places = np.asarray(places, float)
    frequencies = longest ** -(np.arange(width // 2) / (width // 2))
    angles = np.outer(places, frequencies)  # (T, D/2)
    return np.concatenate([np.sin(angles), np.cos(angles)], axis=1)


def sincos_positions_2d(rows, columns, width, *, longest=10000.0):
    """Sines and cosines of the row and of the column of each patch, half the width each.

    Parameters
    ----------
    rows, columns : int
        Patches down and across.
    width : int
        D, a multiple of 4.
    longest : float, default 10000
        Ratio of the longest to the shortest wavelength.

    Returns
    -------
    table : array of shape (N, D)
        float64, in reading order: the half for the row, then the half for the column.

    Raises
    ------
    ValueError
        If `width` is not a positive multiple of 4.

    References
    ----------
    .. [1] X. Chen, S. Xie and K. He, "An Empirical Study of Training Self-Supervised Vision
       Transformers", 2021, arXiv:2104.02057, section 5.
    """
    if width < 4 or width % 4:
        raise ValueError(f"2-D sin-cos positions need a width that 4 divides, got {width}")
    down = sincos_positions(np.repeat(np.arange(rows), columns), width // 2, longest=longest)
    across = sincos_positions(np.tile(np.arange(columns), rows), width // 2, longest=longest)
    return np.concatenate([down, across], axis=1)


def interpolate_positions_forward(table, *, old, new, method="bicubic", antialias=True):
    """Stretch the position table of one grid of patches to another grid.

    Parameters
    ----------
    table : array of shape (T, D)
        One row for each patch of the old grid in reading order, after any rows for tokens that
        are no patches, such as CLS, which stay as they are.
    old, new : tuple of int
        Rows and columns of patches.
    method : {"bicubic", "bilinear", "bicubic_repeat"}
        How to interpolate, see `resize_matrix`.
    antialias : bool, default True
        Widen the kernel when the new grid is smaller.

    Returns
    -------
    table : array of shape (M, D)
    saved : tuple or None
        For `interpolate_positions_backward`; None when the grids are equal.

    Raises
    ------
    ValueError
        If the table is not (T, D) or has fewer rows than the old grid has patches.

    See Also
    --------
    interpolate_positions_backward : The gradient of this function.

    Notes
    -----
    How a ViT sees images of another resolution than it was trained on [1]_.

    References
    ----------
    .. [1] A. Dosovitskiy et al., "An Image is Worth 16x16 Words", 2020, arXiv:2010.11929,
       section 3.2.
    """
    if table.ndim != 2:
        raise ValueError(f"a position table must be (T, D), got {table.shape}")
    extra = len(table) - old[0] * old[1]
    if extra < 0:
        raise ValueError(f"a table of {len(table)} rows does not cover {old[0]} x {old[1]} patches")
    if tuple(old) == tuple(new):
        return table, None
    grid = table[extra:].reshape(1, *old, -1)
    grid, saved = resize_forward(grid, size=tuple(new), method=method, antialias=antialias)
    grid = grid.reshape(new[0] * new[1], -1)
    return namespace(table).concatenate([table[:extra], grid]), (saved, extra, new)


def interpolate_positions_backward(dtable, saved):
    """Gradient of `interpolate_positions_forward`.

    Parameters
    ----------
    dtable : array of shape (M, D)
        dL/dtable of the new grid.
    saved : tuple or None
        As `interpolate_positions_forward` saved it.

    Returns
    -------
    dtable : array of shape (T, D)

    Notes
    -----
    Interpolation is a matrix, so the gradient goes through its transpose.
    """
    if saved is None:
        return dtable
    resized, extra, new = saved
    dgrid = resize_backward(dtable[extra:].reshape(1, *new, -1), resized)
    dgrid = dgrid.reshape(-1, dtable.shape[1])
    return namespace(dtable).concatenate([dtable[:extra], dgrid])
