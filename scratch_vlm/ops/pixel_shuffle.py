"""Pixel shuffle: fewer visual tokens, each as wide as the square of patches that it is made of."""

from numbers import Integral

from scratch_vlm.backend import namespace


def pixel_shuffle_forward(x, *, grid, by):
    """Join each square of neighbouring patches into one token, their channels side by side.

    Parameters
    ----------
    x : array of shape (..., N, D)
        Patches in reading order, without class tokens.
    grid : tuple of int
        Rows and columns of patches; N is their product.
    by : int
        Patches along a side of a square; divides rows and columns. 1 leaves `x` as it is.

    Returns
    -------
    y : array of shape (..., S, E)
        The squares in reading order: S = N / by^2 tokens of E = by^2 D channels in the order
        (row in the square, column in the square, channel).
    saved : tuple
        For `pixel_shuffle_backward`.

    Raises
    ------
    TypeError
        If `x` is not an array.
    ValueError
        If N is not what the grid has, or the grid does not divide into squares.

    See Also
    --------
    pixel_shuffle_backward : The gradient of this function.
    scratch_vlm.ops.patches.patchify_forward : The same step from pixels to patches.

    Notes
    -----
    Space to depth. No number is lost, only a language model reads by^2 times fewer tokens [1]_
    [2]_. Both papers say pixel shuffle, which in super-resolution is the name of the inverse,
    depth to space. The order of channels is that of their released code.

    References
    ----------
    .. [1] Z. Chen et al., "How Far Are We to GPT-4V? Closing the Gap to Commercial Multimodal
       Models with Open-Source Suites" (InternVL 1.5), 2024, arXiv:2404.16821.
    .. [2] H. Laurençon et al., "Building and better understanding vision-language models:
       insights and future directions" (Idefics3), 2024, arXiv:2408.12637.

    Examples
    --------
    >>> import numpy as np
    >>> patches = np.arange(8.0).reshape(8, 1)  # 0 1 2 3 above 4 5 6 7
    >>> pixel_shuffle_forward(patches, grid=(2, 4), by=2)[0]
    array([[0., 1., 4., 5.],
           [2., 3., 6., 7.]])
    """
    namespace(x)  # refuses a list
    rows, columns = shuffled_grid(grid, by)
    if x.ndim < 2:
        raise ValueError(f"x must be (..., N, D), patches of D channels; got {x.shape}")
    *leading, n, d = x.shape
    if n != grid[0] * grid[1]:
        raise ValueError(
            f"x {x.shape} has {n} patches; a grid of {grid[0]} x {grid[1]} has "
            f"{grid[0] * grid[1]}, class tokens not among them"
        )
    squares = x.reshape(*leading, rows, by, columns, by, d).swapaxes(-4, -3)
    y = squares.reshape(*leading, rows * columns, by * by * d)
    return y, (x.shape, squares.shape)


def pixel_shuffle_backward(dy, saved):
    """Gradient of `pixel_shuffle_forward`, and its inverse.

    Parameters
    ----------
    dy : array of shape (..., S, E)
        dL/dy.
    saved : tuple
        As `pixel_shuffle_forward` saved it.

    Returns
    -------
    dx : array of shape (..., N, D)

    Notes
    -----
    The forward moved every number to exactly one place; the gradient moves it back.
    """
    shape, squares = saved
    return dy.reshape(squares).swapaxes(-4, -3).reshape(shape)


def shuffled_grid(grid, by):
    """Count the rows and columns of squares in a grid of patches.

    Parameters
    ----------
    grid : tuple of int
        Rows and columns of patches.
    by : int
        Patches along a side of a square.

    Returns
    -------
    rows, columns : int

    Raises
    ------
    ValueError
        If the grid is not two positive whole numbers, or `by` is none or does not divide both;
        the message names a `by` that would.

    Examples
    --------
    >>> shuffled_grid((24, 24), 2)
    (12, 12)
    >>> shuffled_grid((6, 9), 2)
    Traceback (most recent call last):
        ...
    ValueError: by 2 must divide rows and columns of the grid 6 x 9; 1 or 3 would
    """
    pair = isinstance(grid, tuple | list) and len(grid) == 2
    if not pair or not all(isinstance(n, Integral) and n > 0 for n in grid):
        raise ValueError(
            f"grid must be (rows, columns) of patches, two positive whole numbers; got {grid!r}"
        )
    if not isinstance(by, Integral) or by < 1:
        raise ValueError(f"by must be a positive whole number, got {by!r}")
    rows, columns = grid
    if rows % by or columns % by:
        fit = [str(n) for n in range(1, min(grid) + 1) if not rows % n and not columns % n]
        raise ValueError(
            f"by {by} must divide rows and columns of the grid {rows} x {columns}; "
            f"{' or '.join(fit)} would"
        )
    return rows // by, columns // by
