"""Rotary positions: queries and keys turn with their place, so that scores know the distance."""

from scratch_vlm.backend import floating, namespace


def rotary_forward(x, *, positions, base=10_000.0):
    r"""Turn each pair of channels by an angle that grows with the position.

    Parameters
    ----------
    x : array of shape (B, A, T, K)
        Queries or keys, before they meet.
    positions : integer array of shape (T,) or of shape (B, T)
        Where each token stands, on the host or the device. Only differences matter to attention,
        so a padded row may begin anywhere, and a cached one goes on where it left off.
    base : float, default 10000.0
        The slowest pair turns by nearly 1 / `base` radians a position; Llama 3 has 500000.

    Returns
    -------
    y : array of shape (B, A, T, K)
    saved : tuple
        For `rotary_backward`.

    Raises
    ------
    TypeError
        If the positions are not integers or `x` is not floating point.
    ValueError
        If K is odd, or the positions are neither one for each token nor one for each place.

    See Also
    --------
    rotary_backward : The gradient of this function.

    Notes
    -----
    Channel i is paired with channel i + K / 2, as in Llama's published weights for the
    Transformers library; [1]_ pairs neighbours, which is the same up to the order of channels.
    With :math:`\theta_i = b^{-2 i / K}` and position m,

    .. math:: y_i = x_i \cos m \theta_i - x_{i + K/2} \sin m \theta_i, \quad
              y_{i + K/2} = x_{i + K/2} \cos m \theta_i + x_i \sin m \theta_i.

    The score of a query at m and a key at n then depends on m - n alone.

    References
    ----------
    .. [1] J. Su et al., "RoFormer: Enhanced Transformer with Rotary Position Embedding", 2021,
       arXiv:2104.09864, equation 34.

    Examples
    --------
    >>> import numpy as np
    >>> y, _ = rotary_forward(np.array([[[[1.0, 0.0]]]]), positions=np.array([2]))
    >>> bool(np.allclose(y, [np.cos(2), np.sin(2)]))
    True
    """
    xp = floating(x)
    _check(x, positions, base)
    pairs = x.shape[3] // 2
    # In double precision: float32 would round the angle of a late position by a visible amount.
    speeds = base ** (-xp.arange(pairs) / pairs)
    angles = xp.asarray(positions)[..., None] * speeds  # (T, K/2) or (B, T, K/2)
    if angles.ndim == 3:
        angles = angles[:, None]  # (B, 1, T, K/2)
    cos, sin = (f(angles).astype(x.real.dtype) for f in (xp.cos, xp.sin))
    return _turn(x, cos, sin), (cos, sin)


def rotary_backward(dy, saved):
    """Gradient of `rotary_forward`.

    Parameters
    ----------
    dy : array of shape (B, A, T, K)
        dL/dy.
    saved : tuple
        As `rotary_forward` saved it.

    Returns
    -------
    dx : array of shape (B, A, T, K)

    Notes
    -----
    The forward was a rotation, whose transpose is the rotation back.
    """
    cos, sin = saved
    return _turn(dy, cos, -sin)


def _turn(x, cos, sin):
    half = x.shape[-1] // 2
    first, second = x[..., :half], x[..., half:]
    y = namespace(x).empty(x.shape, x.dtype)
    y[..., :half] = first * cos - second * sin
    y[..., half:] = second * cos + first * sin
    return y


def _check(x, positions, base):
    namespace(positions)  # refuses a list
    if x.ndim != 4 or x.shape[3] % 2:
        raise ValueError(f"x must be (B, A, T, K) with an even K, got {x.shape}")
    if positions.dtype.kind not in "iu":
        raise TypeError(f"positions must be integers, got dtype {positions.dtype}")
    b, _, t, _ = x.shape
    if positions.shape not in ((t,), (b, t)):
        raise ValueError(f"positions must be {(t,)} or {(b, t)}, got {positions.shape}")
    if not base > 1:
        raise ValueError(f"base must be above 1, got {base}")
