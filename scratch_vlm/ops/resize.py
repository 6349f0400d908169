"""Resizing images, as two products with small matrices: one for the rows, one for the columns."""

from functools import lru_cache

import numpy as np

from scratch_vlm.backend import namespace, product, to_device
from scratch_vlm.ops.patches import check_pixels

METHODS = ("bilinear", "bicubic", "bicubic_repeat")
CUBIC_A = {"bicubic": -0.5, "bicubic_repeat": -0.75}  # Keys' choice and Pillow's; PyTorch's


@lru_cache(maxsize=256)
def resize_matrix(old, new, method="bilinear", antialias=True):
    r"""Make the matrix that resamples a line of pixels.

    Parameters
    ----------
    old, new : int
        Pixels before and after.
    method : {"bilinear", "bicubic", "bicubic_repeat"}
        Shape of the kernel: a triangle, or a cubic with a = -0.5; or one with a = -0.75 that
        finds the pixels of the border again outside of the image and is never widened, which is
        PyTorch's without antialiasing.
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
    divided by the rest, as in Pillow, unless the border is repeated.

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
    center = (np.arange(new) + 0.5) * old / new
    if method == "bicubic_repeat":
        matrix = np.zeros((new, old))
        for place in range(-3, old + 3):  # outside, too, as far as the kernel reaches
            weight = _cubic(np.abs(place + 0.5 - center), CUBIC_A[method])
            matrix[:, min(max(place, 0), old - 1)] += weight
    else:
        stretch = max(old / new, 1.0) if antialias else 1.0
        distance = np.abs(np.arange(old) + 0.5 - center[:, None]) / stretch  # (new, old)
        if method == "bilinear":
            matrix = np.maximum(1 - distance, 0)
        else:
            matrix = _cubic(distance, CUBIC_A[method])
    matrix /= matrix.sum(1, keepdims=True)
    matrix.flags.writeable = False
    return matrix


def _cubic(distance, a):
    near = ((a + 2) * distance - (a + 3)) * distance * distance + 1
    far = a * (((distance - 5) * distance + 8) * distance - 4)
    return np.where(distance < 1, near, np.where(distance < 2, far, 0))


def resize_forward(x, *, size, method="bilinear", antialias=True):
    r"""Resample images to another height and width.

    Parameters
    ----------
    x : array of shape (B, H, W, C)
        Images.
    size : tuple of int
        New height and width in pixels.
    method : {"bilinear", "bicubic", "bicubic_repeat"}
        How to interpolate, see `resize_matrix`; the cubics may leave the range of the input a
        little.
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
    b, h, w, c = x.shape
    x = product(down, x.reshape(b, h, w * c), precision="float32").reshape(-1, w, c)
    return product(across, x, precision="float32").reshape(b, len(down), len(across), c)
