"""Activations that published configs may name, and few models use.

Pairs like those of `ops.activations`, which lists them by name: a forward saves its slope.
"""

import math

from scratch_vlm.backend import erf, floating, in_blocks, namespace

LEAK = 0.01  # slope of `leaky_relu_forward` below 0, PyTorch's default
CENTRE, SPREAD = 0.707107, 0.282095  # of `laplace_forward`: sqrt(1/2) and sqrt(1/(4 pi)), rounded


def identity_forward(x, *, out=None):
    r"""Nothing at all: what goes in comes out.

    Parameters
    ----------
    x : array of shape (...)
        Any numbers.
    out : array of shape (...), optional
        Where to write `y`; may be `x`.

    Returns
    -------
    y : array of shape (...)
    slope : array of shape (...)
        For `identity_backward`.

    See Also
    --------
    identity_backward : The gradient of this function.
    """
    xp = floating(x)
    return xp.positive(x, out=out), xp.ones_like(x)


def identity_backward(dy, slope, *, out=None):
    r"""Gradient of `identity_forward`.

    Parameters
    ----------
    dy : array of shape (...)
        dL/dy.
    slope : array of shape (...)
        As `identity_forward` saved it.
    out : array of shape (...), optional
        Where to write `dx`; may be `dy`.

    Returns
    -------
    dx : array of shape (...)

    Notes
    -----
    In the forward this was :math:`y = x`, so :math:`dx = dy`.
    """
    return namespace(dy).multiply(dy, slope, out=out)


def leaky_relu_forward(x, *, out=None):
    r"""Positive part, and a hundredth of the negative part.

    Parameters
    ----------
    x : array of shape (...)
        Any numbers.
    out : array of shape (...), optional
        Where to write `y`; may be `x`.

    Returns
    -------
    y : array of shape (...)
    slope : array of shape (...)
        For `leaky_relu_backward`.

    See Also
    --------
    leaky_relu_backward : The gradient of this function.

    Notes
    -----
    :math:`y = x` above 0, and :math:`0.01\, x` up to 0 [1]_.

    References
    ----------
    .. [1] A. L. Maas, A. Y. Hannun and A. Y. Ng, "Rectifier Nonlinearities Improve Neural Network
       Acoustic Models", 2013, section 2.
    """
    xp = floating(x)
    slope = (x.real > 0).astype(x.dtype)
    slope *= 1 - LEAK
    slope += LEAK
    return xp.multiply(x, slope, out=out), slope


def leaky_relu_backward(dy, slope, *, out=None):
    r"""Gradient of `leaky_relu_forward`.

    Parameters
    ----------
    dy : array of shape (...)
        dL/dy.
    slope : array of shape (...)
        As `leaky_relu_forward` saved it.
    out : array of shape (...), optional
        Where to write `dx`; may be `dy`.

    Returns
    -------
    dx : array of shape (...)

    Notes
    -----
    In the forward this was :math:`y = x` or :math:`0.01\, x`, so :math:`dx` is :math:`dy` or
    :math:`0.01\, dy`.
    """
    return namespace(dy).multiply(dy, slope, out=out)


def relu6_forward(x, *, out=None):
    r"""Positive part up to 6: an activation for small integers.

    Parameters
    ----------
    x : array of shape (...)
        Any numbers.
    out : array of shape (...), optional
        Where to write `y`; may be `x`.

    Returns
    -------
    y : array of shape (...)
    slope : array of shape (...)
        For `relu6_backward`.

    See Also
    --------
    relu6_backward : The gradient of this function.

    Notes
    -----
    :math:`y = \min(\max(x, 0), 6)` [1]_.

    References
    ----------
    .. [1] A. G. Howard et al., "MobileNets: Efficient Convolutional Neural Networks for Mobile
       Vision Applications", 2017, arXiv:1704.04861.
    """
    xp = floating(x)
    full = x.real >= 6
    slope = ((x.real > 0) & ~full).astype(x.dtype)
    y = xp.multiply(x, slope, out=out)
    y += 6 * full.astype(x.dtype)
    return y, slope


def relu6_backward(dy, slope, *, out=None):
    r"""Gradient of `relu6_forward`.

    Parameters
    ----------
    dy : array of shape (...)
        dL/dy.
    slope : array of shape (...)
        As `relu6_forward` saved it.
    out : array of shape (...), optional
        Where to write `dx`; may be `dy`.

    Returns
    -------
    dx : array of shape (...)

    Notes
    -----
    In the forward this was :math:`y = \min(\max(x, 0), 6)`, so :math:`dx = dy\, [0 < x < 6]`.
    """
    return namespace(dy).multiply(dy, slope, out=out)


def hardswish_forward(x, *, out=None):
    r"""A swish of straight pieces: x times a ramp from 0 at -3 to 1 at 3.

    Parameters
    ----------
    x : array of shape (...)
        Any numbers.
    out : array of shape (...), optional
        Where to write `y`; may be `x`.

    Returns
    -------
    y : array of shape (...)
    slope : array of shape (...)
        For `hardswish_backward`.

    See Also
    --------
    hardswish_backward : The gradient of this function.

    Notes
    -----
    :math:`y = x \min(\max(x + 3, 0), 6) / 6` [1]_.

    References
    ----------
    .. [1] A. Howard et al., "Searching for MobileNetV3", 2019, arXiv:1905.02244, section 5.2.
    """
    xp = floating(x)
    full, inside = x.real >= 3, (x.real > -3) & (x.real < 3)
    ramp = x + 3
    ramp *= 1 / 6
    ramp *= inside
    slope = x * (1 / 6)
    slope *= inside
    ramp += full
    slope += ramp
    return xp.multiply(x, ramp, out=out), slope


def hardswish_backward(dy, slope, *, out=None):
    r"""Gradient of `hardswish_forward`.

    Parameters
    ----------
    dy : array of shape (...)
        dL/dy.
    slope : array of shape (...)
        As `hardswish_forward` saved it.
    out : array of shape (...), optional
        Where to write `dx`; may be `dy`.

    Returns
    -------
    dx : array of shape (...)

    Notes
    -----
    In the forward this was :math:`y = x (x + 3) / 6` between -3 and 3, where :math:`dx = dy\,
    (2 x + 3) / 6`; below that nothing passes, and above it everything.
    """
    return namespace(dy).multiply(dy, slope, out=out)


def mish_forward(x, *, out=None):
    r"""Multiply by the tanh of the softplus: close to silu.

    Parameters
    ----------
    x : array of shape (...)
        Any numbers.
    out : array of shape (...), optional
        Where to write `y`; may be `x`.

    Returns
    -------
    y : array of shape (...)
    slope : array of shape (...)
        For `mish_backward`.

    See Also
    --------
    mish_backward : The gradient of this function.

    Notes
    -----
    :math:`y = x \tanh(\log(1 + e^x))` [1]_. With :math:`n = e^{2x} + 2 e^x` the tanh is
    :math:`n / (n + 2)`; for positive numbers both are divided by :math:`e^{2x}`, which would
    overflow.

    References
    ----------
    .. [1] D. Misra, "Mish: A Self Regularized Non-Monotonic Activation Function", 2019,
       arXiv:1908.08681, equation 1.
    """
    xp = floating(x)
    positive = x.real > 0
    e = xp.exp(xp.where(positive, -x, x))
    above = xp.where(positive, 1 + 2 * e, e * (e + 2))
    tanh = above / (above + 2 * xp.where(positive, e * e, 1))
    sigmoid = xp.where(positive, 1, e) / (1 + e)
    slope = 1 - tanh * tanh
    slope *= sigmoid
    slope *= x
    slope += tanh
    return xp.multiply(x, tanh, out=out), slope


def mish_backward(dy, slope, *, out=None):
    r"""Gradient of `mish_forward`.

    Parameters
    ----------
    dy : array of shape (...)
        dL/dy.
    slope : array of shape (...)
        As `mish_forward` saved it.
    out : array of shape (...), optional
        Where to write `dx`; may be `dy`.

    Returns
    -------
    dx : array of shape (...)

    Notes
    -----
    In the forward this was :math:`y = x t` with :math:`t = \tanh s` and the softplus :math:`s`,
    whose slope is the sigmoid, so :math:`dx = dy\, (t + x (1 - t^2)\, \sigma(x))`.
    """
    return namespace(dy).multiply(dy, slope, out=out)


@in_blocks
def laplace_forward(x, *, out=None):
    r"""The chance that a normal number is below x: a squared ReLU that ends at 1.

    Parameters
    ----------
    x : array of shape (...)
        Any numbers.
    out : array of shape (...), optional
        Where to write `y`; may be `x`.

    Returns
    -------
    y : array of shape (...)
    slope : array of shape (...)
        For `laplace_backward`.

    See Also
    --------
    laplace_backward : The gradient of this function.

    Notes
    -----
    :math:`y = (1 + \mathrm{erf}((x - \mu) / (\sigma \sqrt 2))) / 2` [1]_, with the mean and the
    standard deviation that make it like a squared ReLU where that is 1/2.

    References
    ----------
    .. [1] X. Ma et al., "Mega: Moving Average Equipped Gated Attention", 2022, arXiv:2209.10655,
       equation 14.
    """
    xp = floating(x)
    far = x - CENTRE
    far *= 1 / SPREAD
    slope = far * far
    slope *= -0.5
    xp.exp(slope, out=slope)
    slope *= 1 / (SPREAD * math.sqrt(2 * math.pi))
    far *= math.sqrt(0.5)
    y = xp.multiply(erf(far), 0.5, out=out)
    y += 0.5
    return y, slope


def laplace_backward(dy, slope, *, out=None):
    r"""Gradient of `laplace_forward`.

    Parameters
    ----------
    dy : array of shape (...)
        dL/dy.
    slope : array of shape (...)
        As `laplace_forward` saved it.
    out : array of shape (...), optional
        Where to write `dx`; may be `dy`.

    Returns
    -------
    dx : array of shape (...)

    Notes
    -----
    In the forward this was :math:`y = \Phi((x - \mu) / \sigma)`, so :math:`dx = dy\, \varphi((x -
    \mu) / \sigma) / \sigma` with the normal density :math:`\varphi`.
    """
    return namespace(dy).multiply(dy, slope, out=out)
