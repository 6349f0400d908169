"""Resizing images, as two products with small matrices: one for the rows, one for the columns."""

from functools import lru_cache

import numpy as np

from scratch_vlm.backend import namespace, to_device
from scratch_vlm.ops.patches import check_pixels

METHODS = ("bilinear", "bicubic")
CUBIC_A = -0.5  # Keys' choice, and Pillow's; PyTorch without antialiasing takes -0.75


@lru_cache(maxsize=256)
def resize_matrix(old, new, method="bilinear", antialias=True):
    r"""Make the matrix that resamples a line of pixels.

    Parameters
    ----------
    old, new : int
        Pixels before and after.
    method : {"bilinear", "bicubic"}
        Shape of the kernel: a triangle, or a cubic with a = -0.5.
    antialias : bool, default True
        When shrinking, widen the kernel by the same factor, so that every old pixel counts.

    Returns
    -------
    matrix : array of shape (new, old)
        float64, read-only; rows sum to one.

    Raises
    ------
    ValueError
        If a length is not positive or the method unknown.

    Notes
    -----
    Pixel i covers [i, i + 1), so new pixel i looks at the old coordinate
    :math:`(i + 1/2)\, old / new`. What would lie outside the image is left out and the row is
    divided by the rest, as in Pillow.

    References
    ----------
    .. [1] R. Keys, "Cubic convolution interpolation for digital image processing", IEEE
       Transactions on Acoustics, Speech, and Signal Processing 29, 1981, equation 15.

    Examples
    --------
    >>> resize_matrix(4, 2)
    array([[0.42857143, 0.42857143, 0.14285714, 0.        ],
           [0.        , 0.14285714, 0.42857143, 0.42857143]])
    """
    if old < 1 or new < 1:
        raise ValueError(f"an image has at least one pixel a side; got {old} to {new}")
    if method not in METHODS:
        raise ValueError(f"unknown method {method!r}; choose one of {', '.join(METHODS)}")
    stretch = max(old / new, 1.0) if antialias else 1.0
    center = (np.arange(new) + 0.5) * old / new
    distance = np.abs(np.arange(old) + 0.5 - center[:, None]) / stretch  # (new, old)
    if method == "bilinear":
        matrix = np.maximum(1 - distance, 0)
    else:
        near = ((CUBIC_A + 2) * distance - (CUBIC_A + 3)) * distance * distance + 1
        far = CUBIC_A * (((distance - 5) * distance + 8) * distance - 4)
        matrix = np.where(distance < 1, near, np.where(distance < 2, far, 0))
    matrix /= matrix.sum(1, keepdims=True)
    matrix.flags.writeable = False
    return matrix


def resize_forward(x, *, size, method="bilinear", antialias=True):
    r"""Resample images to another height and width.

    Parameters
    ----------
    x : array of shape (B, H, W, C)
        Images.
    size : tuple of int
        New height and width in pixels.
    method : {"bilinear", "bicubic"}
        How to interpolate; bicubic may leave the range of the input by a little.
    antialias : bool, default True
        Widen the kernel when shrinking.

    Returns
    -------
    y : array of shape (B, I, J, C)
        Images of `size`.
    saved : tuple
        For `resize_backward`.

    Raises
    ------
    TypeError
        If `x` is not an array, or holds integers, to which the weights of the pixels would be
        rounded.
    ValueError
        If `x` has not four axes, or the size or the method is not possible.

    See Also
    --------
    resize_backward : The gradient of this function.

    Notes
    -----
    :math:`y = R x C^\top` for each channel, with the matrices of `resize_matrix`.
    """
    xp = namespace(x)
    if x.ndim != 4:
        raise ValueError(f"images must be (B, H, W, C), got {x.shape}")
    if x.dtype.kind not in "fc":
        raise TypeError(
            f"images must be floating point, got {x.dtype}; "
            "scale bytes with images.astype('float32') / 255"
        )
    check_pixels(size=size)
    down, across = (
        to_device(resize_matrix(old, int(new), method, antialias).astype(x.real.dtype), xp)
        for old, new in zip(x.shape[1:3], size, strict=True)
    )
    return _apply(x, down, across), (down, across)


def resize_backward(dy, saved):
    r"""Gradient of `resize_forward`.

    Parameters
    ----------
    dy : array of shape (B, I, J, C)
        dL/dy.
    saved : tuple
        As `resize_forward` saved it.

    Returns
    -------
    dx : array of shape (B, H, W, C)

    Notes
    -----
    In the forward this was :math:`y = R x C^\top`, so :math:`dx = R^\top dy\, C`: every old pixel
    gathers from the new ones that looked at it.
    """
    down, across = saved
    return _apply(dy, down.T, across.T)


def _apply(x, down, across):  # (B, H, W, C) -> (B, I, J, C)
    xp, (b, h, w, c) = namespace(x), x.shape
    x = xp.matmul(down, x.reshape(b, h, w * c)).reshape(-1, w, c)
    return xp.matmul(across, x).reshape(b, len(down), len(across), c)
