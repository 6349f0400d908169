"""Normalisation of each token over its channels: layer norm and RMS norm, perhaps of a sum."""

import numpy as np

from scratch_vlm.backend import (
    back_in_token_blocks,
    column_sum,
    floating,
    fused,
    in_token_blocks,
    namespace,
    product,
    row_dot,
    row_mean,
    rows,
)


def layer_norm_init(width):
    """Make the parameters of a layer norm that at first only normalises.

    Parameters
    ----------
    width : int
        D.

    Returns
    -------
    p : dict
        ``gamma`` of ones and ``beta`` of zeros, of shape (D,), in float32.
    """
    return {"gamma": np.ones(width, "float32"), "beta": np.zeros(width, "float32")}


@fused
@in_token_blocks
def layer_norm_forward(x, p, *, eps=1e-5, out=None):
    r"""Normalise each token to mean 0 and variance 1, then scale and shift it.

    Parameters
    ----------
    x : array of shape (..., D)
        Tokens.
    p : dict
        ``gamma`` and ``beta`` of shape (D,).
    eps : float, default 1e-5
        Added to the variance; in the units of `x` squared.
    out : array of shape (..., D), optional
        Where to write `y`; may be `x` itself, which is not saved.

    Returns
    -------
    y : array of shape (..., D)
    saved : tuple
        For `layer_norm_backward`.

    Raises
    ------
    TypeError
        If `x` does not hold floating point numbers.
    ValueError
        If `x` and ``gamma`` disagree about D.

    See Also
    --------
    layer_norm_backward : The gradient of this function.
    rms_norm_forward : The same without the mean.

    Notes
    -----
    With :math:`\hat x = (x - \mu) / \sqrt{\sigma^2 + \epsilon}`, :math:`y = \gamma \hat x + \beta`
    [1]_. The variance divides by D, not D - 1.

    References
    ----------
    .. [1] J. L. Ba, J. R. Kiros and G. E. Hinton, "Layer Normalization", 2016,
       arXiv:1607.06450, equations 3 and 4.

    Examples
    --------
    >>> p = {"gamma": np.ones(2), "beta": np.zeros(2)}
    >>> layer_norm_forward(np.array([[1.0, 3.0]]), p, eps=0.0)[0]
    array([[-1.,  1.]])
    """
    _check_width(x, p)
    xp = namespace(x)
    xhat = x - row_mean(x)
    rstd = _rstd(xhat, eps)  # (..., 1)
    xhat *= rstd
    y = xp.multiply(xhat, p["gamma"], out=out)
    y += p["beta"]
    return y, (xhat, rstd, p["gamma"])


@fused
@back_in_token_blocks
def layer_norm_backward(dy, saved, g, *, past=None, out=None):
    r"""Gradient of `layer_norm_forward`.

    Parameters
    ----------
    dy : array of shape (..., D)
        dL/dy.
    saved : tuple
        As `layer_norm_forward` saved it.
    g : dict
        Gains the gradients of ``gamma`` and ``beta``; empty if they are frozen.
    past : array of shape (..., D), optional
        dL/dx of what reads `x` beside the norm, as a residual stream does; is added to `dx`.
    out : array of shape (..., D), optional
        Where to write `dx`; may be `dy`, but not `past`.

    Returns
    -------
    dx : array of shape (..., D)

    Notes
    -----
    In the forward this was :math:`y = \gamma \hat x + \beta`, so :math:`d\gamma = \sum dy\,\hat x`,
    :math:`d\beta = \sum dy` and :math:`d\hat x = \gamma\, dy`. Normalising removed the mean and the
    length of x, so nothing may flow back along either:
    :math:`dx = (d\hat x - \mathrm{mean}(d\hat x) - \hat x\, \mathrm{mean}(d\hat x\,\hat x))/\sigma`
    with means over D.
    """
    xhat, rstd, gamma = saved
    xp = namespace(dy)
    product = dy * xhat
    if g:
        g["gamma"] += column_sum(product)
        g["beta"] += column_sum(dy)
    along_ones = _mean_times(dy, gamma)  # mean of dL/dxhat, (..., 1)
    along_xhat = _mean_times(product, gamma)  # mean of dL/dxhat * xhat
    dx = xp.multiply(dy, gamma, out=out)  # dL/dxhat, until the next lines
    dx -= along_ones
    dx -= xp.multiply(xhat, along_xhat, out=product)
    dx *= rstd
    if past is not None:
        dx += past
    return dx


def rms_norm_init(width):
    """Make the parameters of an RMS norm that at first only normalises.

    Parameters
    ----------
    width : int
        D.

    Returns
    -------
    p : dict
        ``gamma`` of ones, of shape (D,), in float32.
    """
    return {"gamma": np.ones(width, "float32")}


@fused
@in_token_blocks
def rms_norm_forward(x, p, *, eps=1e-5, out=None):
    r"""Scale each token to a root mean square of 1, then scale its channels.

    Parameters
    ----------
    x : array of shape (..., D)
        Tokens.
    p : dict
        ``gamma`` of shape (D,).
    eps : float, default 1e-5
        Added to the mean square; in the units of `x` squared.
    out : array of shape (..., D), optional
        Where to write `y`; may be `x` itself, which is not saved.

    Returns
    -------
    y : array of shape (..., D)
    saved : tuple
        For `rms_norm_backward`.

    Raises
    ------
    TypeError
        If `x` does not hold floating point numbers.
    ValueError
        If `x` and ``gamma`` disagree about D.

    See Also
    --------
    rms_norm_backward : The gradient of this function.

    Notes
    -----
    :math:`y = \gamma x / \sqrt{\mathrm{mean}(x^2) + \epsilon}` [1]_, with the mean over D.

    References
    ----------
    .. [1] B. Zhang and R. Sennrich, "Root Mean Square Layer Normalization", 2019,
       arXiv:1910.07467, equation 4.
    """
    _check_width(x, p)
    rstd = _rstd(x, eps)  # (..., 1)
    xhat = x * rstd
    return namespace(x).multiply(xhat, p["gamma"], out=out), (xhat, rstd, p["gamma"])


@fused
@back_in_token_blocks
def rms_norm_backward(dy, saved, g, *, past=None, out=None):
    r"""Gradient of `rms_norm_forward`.

    Parameters
    ----------
    dy : array of shape (..., D)
        dL/dy.
    saved : tuple
        As `rms_norm_forward` saved it.
    g : dict
        Gains the gradient of ``gamma``; empty if it is frozen.
    past : array of shape (..., D), optional
        dL/dx of what reads `x` beside the norm, as a residual stream does; is added to `dx`.
    out : array of shape (..., D), optional
        Where to write `dx`; may be `dy`, but not `past`.

    Returns
    -------
    dx : array of shape (..., D)

    Notes
    -----
    In the forward this was :math:`y = \gamma \hat x`, :math:`\hat x = x r`, so
    :math:`dx = r (d\hat x - \hat x\, \mathrm{mean}(d\hat x\, \hat x))`: as in a layer norm, but
    the mean of :math:`d\hat x` stays.
    """
    xhat, rstd, gamma = saved
    xp = namespace(dy)
    product = dy * xhat
    if g:
        g["gamma"] += column_sum(product)
    along_xhat = _mean_times(product, gamma)  # mean of dL/dxhat * xhat, (..., 1)
    dx = xp.multiply(dy, gamma, out=out)  # dL/dxhat, until the next lines
    dx -= xp.multiply(xhat, along_xhat, out=product)
    dx *= rstd
    if past is not None:
        dx += past
    return dx


NORMS = {
    "layer": (layer_norm_init, layer_norm_forward, layer_norm_backward),
    "rms": (rms_norm_init, rms_norm_forward, rms_norm_backward),
}


@fused
def add_norm(x, added, p, *, norm="layer", eps=1e-5, out=None):
    r"""Add to a residual stream, and normalise the sum for the sublayer that reads it next.

    Parameters
    ----------
    x, added : array of shape (..., D)
        The stream, and what a sublayer adds to it.
    p : dict
        Of the norm.
    norm : {"layer", "rms"}
        Its kind.
    eps : float, default 1e-5
        See `layer_norm_forward`.
    out : array of shape (..., D), optional
        Where to write `y`.

    Returns
    -------
    total : array of shape (..., D)
        The stream from here on.
    y : array of shape (..., D)
        The norm of it.
    saved : tuple
        For the backward of the norm.

    Raises
    ------
    TypeError
        If the sum does not hold floating point numbers.
    ValueError
        If `x` and `added` differ in shape, or ``gamma`` does not fit, or there is no such norm.

    See Also
    --------
    layer_norm_backward : The gradient of this function too, see below.

    Notes
    -----
    ``total = x + added; y = norm(total)``. The sum hands to both what it gets, and it gets from two
    sides: from the norm, and from all that reads the stream later, :math:`dtotal`. So
    ``dx = dadded = layer_norm_backward(dy, saved, g, past=dtotal)``, and likewise for an RMS norm.
    """
    if norm not in NORMS:
        raise ValueError(f"norm must be one of {', '.join(NORMS)}, got {norm!r}")
    if x.shape != added.shape:
        raise ValueError(f"x is {x.shape} and added {added.shape}; they must agree")
    total = x + added
    y, saved = NORMS[norm][1](total, p, eps=eps, out=out)
    return total, y, saved


def _rstd(x, eps):  # 1 / root mean square, (..., 1)
    mean_square = row_dot(x, x)
    mean_square *= 1.0 / x.shape[-1]
    mean_square += eps
    return 1 / namespace(x).sqrt(mean_square)


def _mean_times(x, gamma):  # mean over D of x * gamma without the wide product, (..., 1)
    weights = (gamma * (1.0 / gamma.size))[:, None]
    return product(rows(x), weights, precision="float32").reshape(*x.shape[:-1], 1)


def _check_width(x, p):
    floating(x)
    if x.shape[-1] != p["gamma"].shape[0]:
        raise ValueError(
            f"x has {x.shape[-1]} channels and gamma {p['gamma'].shape[0]}; they must agree"
        )
