"""Fourier position features: where a pixel, sample or voxel stands, as waves it can be told by."""

from numbers import Integral

import numpy as np

ORDERS = ("kinds", "axes")


def fourier_positions(shape, bands, *, trained=None, highest=None, order="kinds"):
    r"""Coordinates of every place of a grid, and their sines and cosines.

    Parameters
    ----------
    shape : tuple of int
        Length of each axis: (T,) for a sound, (H, W) for an image, (F, H, W) for a video.
    bands : int
        K, frequencies for each axis; 0 for the coordinates alone.
    trained : tuple of int, optional
        Lengths that the frequencies are made for, where they differ from `shape`: a model then
        sees another resolution through the waves it knows. Default `shape`.
    highest : float, optional
        Highest frequency of every axis. Default half its length in `trained`.
    order : {"kinds", "axes"}
        Which columns stand together: all coordinates, all sines and all cosines, as in the
        released code; or those of one axis, its sines, its cosines and its coordinate, as in the
        open implementation [2]_.

    Returns
    -------
    table : array of shape (N, E)
        float64, -1 to 1, in reading order. Of the E = d (2 K + 1) columns for d axes the first d
        are the coordinates; then come the sines, K for each axis, and the cosines alike; unless
        the order is another.

    Raises
    ------
    ValueError
        If a length is not positive, `bands` is negative, or `trained` has other axes.

    See Also
    --------
    scratch_vlm.ops.positions.sincos_positions : Wavelengths in geometric order, to be added.

    Notes
    -----
    An axis runs from -1 to 1, and a single place stands in the middle. Coordinate x gives
    :math:`\sin(\pi f_k x)` and :math:`\cos(\pi f_k x)` with K frequencies :math:`f_k` evenly from
    1 to half the length, the Nyquist frequency [1]_. They are made to be concatenated to what
    stands there, not added.

    References
    ----------
    .. [1] A. Jaegle et al., "Perceiver: General Perception with Iterative Attention", 2021,
       arXiv:2103.03206, section 3.2.
    .. [2] lucidrains/perceiver-pytorch, perceiver_pytorch/perceiver_pytorch.py, fourier_encode.

    Examples
    --------
    >>> fourier_positions((3,), 1).round(3) + 0.0
    array([[-1.,  0., -1.],
           [ 0.,  0.,  1.],
           [ 1.,  0., -1.]])
    >>> fourier_positions((224, 224), 64).shape
    (50176, 258)
    """
    shape = check_axes(shape, "shape")
    trained = shape if trained is None else check_axes(trained, "trained")
    if len(trained) != len(shape):
        raise ValueError(f"trained {trained} must have as many axes as shape {shape}")
    if not isinstance(bands, Integral) or bands < 0:
        raise ValueError(f"bands must be a whole number of at least 0, got {bands!r}")
    if order not in ORDERS:
        raise ValueError(f"order must be one of {', '.join(ORDERS)}, got {order!r}")
    coordinates, sines, cosines = [], [], []
    for axis, (length, usual) in enumerate(zip(shape, trained, strict=True)):
        x = np.linspace(-1, 1, length) if length > 1 else np.zeros(1)
        top = usual / 2 if highest is None else highest
        angles = np.pi * np.outer(x, np.linspace(1, top, bands))  # (length, K)
        along = [1] * len(shape)
        along[axis] = length
        for columns, values in (
            (coordinates, x[:, None]),
            (sines, np.sin(angles)),
            (cosines, np.cos(angles)),
        ):
            columns.append(np.broadcast_to(values.reshape(*along, -1), (*shape, values.shape[1])))
    if order == "kinds":
        columns = coordinates + sines + cosines
    else:
        columns = [x for axis in zip(sines, cosines, coordinates, strict=True) for x in axis]
    table = np.concatenate(columns, axis=-1)  # (*shape, E)
    return table.reshape(-1, table.shape[-1])


def check_axes(lengths, name):
    """Refuse what are no lengths of axes.

    Parameters
    ----------
    lengths : tuple of int
        One for each axis.
    name : str
        What to call them in the error.

    Returns
    -------
    tuple of int

    Raises
    ------
    ValueError
        If they are not whole numbers of at least 1, or there are none.
    """
    fits = isinstance(lengths, tuple | list) and len(lengths) > 0
    if not fits or not all(isinstance(n, Integral) and n > 0 for n in lengths):
        raise ValueError(
            f"{name} must be the positive length of each axis, such as (224, 224); got {lengths!r}"
        )
    return tuple(map(int, lengths))
