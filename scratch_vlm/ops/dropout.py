"""Dropout: silence a random part of the numbers while training."""

from scratch_vlm.backend import drawn, namespace


def dropout_forward(x, *, rate, rng):
    r"""Set a random share of the numbers to zero and scale up the others.

    Parameters
    ----------
    x : array of shape (...)
        Any numbers.
    rate : float
        Chance of a number to become zero, from 0 to below 1. With 0 nothing is drawn.
    rng : numpy.random.Generator or None
        Draws on the host, so that the same numbers fall on every backend. None, as at
        inference, leaves `x` as it is.

    Returns
    -------
    y : array of shape (...)
        Of the same expected value as `x`.
    saved : array or None
        For `dropout_backward`; None where nothing was dropped.

    Raises
    ------
    ValueError
        If `rate` is not in [0, 1).

    See Also
    --------
    dropout_backward : The gradient of this function.

    Notes
    -----
    :math:`y = x \circ m / (1 - r)` with :math:`m_i = 1` at a chance of :math:`1 - r` [1]_.

    References
    ----------
    .. [1] N. Srivastava et al., "Dropout: A Simple Way to Prevent Neural Networks from
       Overfitting", JMLR 15, 2014, section 4.
    """
    if not 0 <= rate < 1:
        raise ValueError(f"the dropout rate must be at least 0 and below 1, got {rate}")
    if rng is None or rate == 0:
        return x, None
    shape, dtype = x.shape, x.real.dtype

    def draw(rng):
        kept = (rng.random(shape, dtype="float32") >= rate).astype(dtype)
        kept *= 1 / (1 - rate)
        return kept

    kept = drawn(draw, rng, shape, dtype, namespace(x))
    return x * kept, kept


def dropout_backward(dy, saved):
    r"""Gradient of `dropout_forward`.

    Parameters
    ----------
    dy : array of shape (...)
        dL/dy.
    saved : array or None
        As `dropout_forward` saved it.

    Returns
    -------
    dx : array of shape (...)

    Notes
    -----
    In the forward this was :math:`y = x \circ m / (1 - r)`, so :math:`dx = dy \circ m / (1 - r)`:
    what was silenced then learns nothing now.
    """
    return dy if saved is None else dy * saved
