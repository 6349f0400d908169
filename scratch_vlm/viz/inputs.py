"""What figures are given: numbers, shares and images, checked before anything is drawn."""

import numpy as np


def numbers(x, name, axes):
    """Check numbers that are to be drawn.

    Parameters
    ----------
    x : array
        Integers or floats.
    name : str
        What errors call it.
    axes : int
        How many it must have.

    Returns
    -------
    array of float64
        Of the same shape.

    Raises
    ------
    ValueError
        If it has other axes, is empty, or holds anything but finite numbers.
    """
    x = np.asarray(x)
    if x.ndim != axes or x.size == 0 or x.dtype.kind not in "fiu":
        raise ValueError(f"{name} must be {axes}-dimensional numbers, one at least; {brief(x)}")
    x = x.astype(np.float64)
    if not np.isfinite(x).all():
        where = tuple(int(i) for i in np.argwhere(~np.isfinite(x))[0])
        raise ValueError(f"{name}{list(where)} is {x[where]}; a figure needs finite numbers")
    return x


def probabilities(x, name):
    """Check rows of probabilities.

    Parameters
    ----------
    x : array of shape (R, N)
        Each row adds up to 1, or to less where a part of it is not drawn.
    name : str
        What errors call it.

    Returns
    -------
    array of float64 of shape (R, N)

    Raises
    ------
    ValueError
        If a number is negative or a row adds up to more than 1.
    """
    x = numbers(x, name, 2)
    if (x < 0).any() or (x.sum(axis=1) > 1 + 1e-3).any():
        raise ValueError(
            f"{name} must hold probabilities; its rows run from {x.min():.3g} and add up to "
            f"{x.sum(axis=1).max():.3g} at most"
        )
    return x


def share(x, name):
    """Check an accuracy.

    Parameters
    ----------
    x : float
        From 0 to 1.
    name : str
        What errors call it.

    Raises
    ------
    ValueError
        If it is beyond, such as a percentage.
    """
    if not 0 <= x <= 1:  # so written, NaN fails too
        raise ValueError(f"{name} is {x}; accuracies are shares from 0 to 1")


def few_enough(names, what, most):
    """Check that readers can tell apart what is drawn.

    Parameters
    ----------
    names : collection
        Of the lines or bars.
    what : str
        What errors call them.
    most : int
        How many there may be.

    Raises
    ------
    ValueError
        If there are more.
    """
    if len(names) > most:
        raise ValueError(f"there are {len(names)} {what} and {most} can be told apart")


def images(x):
    """Check images.

    Parameters
    ----------
    x : array of shape (B, H, W) or (B, H, W, C)
        Floats in [0, 1], of 1 or 3 channels.

    Returns
    -------
    array of shape (B, H, W) or (B, H, W, 3)
        Grey ones without their axis of channels.

    Raises
    ------
    ValueError
        If there are none, or they are of another shape, of bytes, or beyond [0, 1].
    """
    x = np.asarray(x)
    if x.ndim == 4 and x.shape[3] == 1:
        x = x[..., 0]
    if x.size == 0 or not (x.ndim == 3 or (x.ndim == 4 and x.shape[3] == 3)):
        raise ValueError(
            f"images have shape {x.shape}; needed is (B, H, W), (B, H, W, 1) or (B, H, W, 3)"
        )
    if x.dtype.kind != "f":
        raise ValueError(f"images are {x.dtype}; figures take float in [0, 1]: divide bytes by 255")
    if not (x.min() >= -1e-4 and x.max() <= 1 + 1e-4):  # so written, NaN fails too
        raise ValueError(
            f"images run from {x.min():.3g} to {x.max():.3g} and must lie in [0, 1]: "
            "take them before normalisation"
        )
    return x.clip(0, 1)


def image(x):
    """Check one image.

    Parameters
    ----------
    x : array of shape (H, W) or (H, W, C)
        Floats in [0, 1], of 1 or 3 channels.

    Returns
    -------
    array of shape (H, W) or (H, W, 3)

    Raises
    ------
    ValueError
        As `images` does.
    """
    x = np.asarray(x)
    if x.ndim not in (2, 3):
        raise ValueError(f"the image has shape {x.shape}; needed is (H, W) or (H, W, C)")
    return images(x[None])[0]


def brief(x):
    """Write an array in one line of an error.

    Parameters
    ----------
    x : array
        Of any shape.

    Returns
    -------
    str
        Its type, its shape and its first and last numbers.

    Examples
    --------
    >>> brief(np.array([0.25, 0.5]))
    'float64 of shape (2,): [0.25 0.5 ]'
    """
    text = np.array2string(x, threshold=8, precision=3).replace("\n", "")
    return f"{x.dtype} of shape {x.shape}: {text}"
