"""Activations: elementwise functions between two linear layers.

Each forward saves its slope, dy/dx, because everything the slope needs is at hand there; each
backward is then one multiplication. `out` may be the input itself.
"""

import math

from scratch_vlm.backend import erf, floating, fused, in_blocks, namespace
from scratch_vlm.ops import rarer_activations as rarer

SQRT_HALF = math.sqrt(0.5)
SQRT_TWO_OVER_PI = math.sqrt(2 / math.pi)
TANH_CUBIC = 0.044715  # coefficient of x^3 in the approximation, Hendrycks & Gimpel section 2
HIGHEST = 10  # of `clipped_gelu_forward`


@fused
@in_blocks
def gelu_forward(x, *, out=None):
    r"""Gaussian error linear unit, exact: x times the chance that a standard normal is below x.

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
        For `gelu_backward`.

    See Also
    --------
    gelu_backward : The gradient of this function.
    gelu_tanh_forward : The approximation of GPT-2 and JAX; differs by up to 5e-4.
    quick_gelu_forward : The approximation of CLIP; differs by up to 2.1e-2.

    Notes
    -----
    :math:`y = x \Phi(x)` with :math:`\Phi(x) = (1 + \mathrm{erf}(x / \sqrt 2)) / 2` [1]_. This is
    the GELU of BERT, of the ViT, and the default of PyTorch.

    References
    ----------
    .. [1] D. Hendrycks and K. Gimpel, "Gaussian Error Linear Units (GELUs)", 2016,
       arXiv:1606.08415, section 2.
    """
    xp = floating(x)
    cdf = erf(x * SQRT_HALF)
    cdf += 1
    cdf *= 0.5
    slope = x * x
    slope *= -0.5
    xp.exp(slope, out=slope)
    slope *= x
    slope *= 0.5 * SQRT_TWO_OVER_PI
    slope += cdf
    return xp.multiply(x, cdf, out=out), slope


@fused
def gelu_backward(dy, slope, *, out=None):
    r"""Gradient of `gelu_forward`.

    Parameters
    ----------
    dy : array of shape (...)
        dL/dy.
    slope : array of shape (...)
        As `gelu_forward` saved it.
    out : array of shape (...), optional
        Where to write `dx`; may be `dy`.

    Returns
    -------
    dx : array of shape (...)

    Notes
    -----
    In the forward this was :math:`y = x \Phi(x)`, so :math:`dx = dy (\Phi(x) + x \varphi(x))`
    with the normal density :math:`\varphi(x) = e^{-x^2/2} / \sqrt{2 \pi} = \Phi'(x)`.
    """
    return namespace(dy).multiply(dy, slope, out=out)


def clipped_gelu_forward(x, *, out=None):
    r"""Exact GELU that ends at 10: for numbers of few bits.

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
        For `clipped_gelu_backward`.

    See Also
    --------
    clipped_gelu_backward : The gradient of this function.

    Notes
    -----
    :math:`y = \min(x \Phi(x), 10)` [1]_; below, a GELU never comes near -10.

    References
    ----------
    .. [1] H. Wu et al., "Integer Quantization for Deep Learning Inference: Principles and Empirical
       Evaluation", 2020, arXiv:2004.09602, section 5.
    """
    y, slope = gelu_forward(x, out=out)
    full = y.real > HIGHEST
    slope *= ~full
    y *= ~full
    y += HIGHEST * full.astype(x.dtype)
    return y, slope


def clipped_gelu_backward(dy, slope, *, out=None):
    r"""Gradient of `clipped_gelu_forward`.

    Parameters
    ----------
    dy : array of shape (...)
        dL/dy.
    slope : array of shape (...)
        As `clipped_gelu_forward` saved it.
    out : array of shape (...), optional
        Where to write `dx`; may be `dy`.

    Returns
    -------
    dx : array of shape (...)

    Notes
    -----
    In the forward this was :math:`y = \min(\mathrm{gelu}(x), 10)`: where it ends, nothing passes.
    """
    return namespace(dy).multiply(dy, slope, out=out)


@fused
@in_blocks
def gelu_tanh_forward(x, *, out=None):
    r"""Gaussian error linear unit with a tanh in place of the error function.

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
        For `gelu_tanh_backward`.

    See Also
    --------
    gelu_tanh_backward : The gradient of this function.

    Notes
    -----
    :math:`y = x (1 + \tanh u) / 2` with :math:`u = \sqrt{2/\pi} (x + 0.044715 x^3)` [1]_. Many
    times cheaper here than the error function.

    References
    ----------
    .. [1] D. Hendrycks and K. Gimpel, "Gaussian Error Linear Units (GELUs)", 2016,
       arXiv:1606.08415, section 2.
    """
    xp = floating(x)
    squared = x * x
    tanh = squared * (SQRT_TWO_OVER_PI * TANH_CUBIC)
    tanh += SQRT_TWO_OVER_PI
    tanh *= x
    xp.tanh(tanh, out=tanh)
    # du/dx, then the slope of y, in the memory of x squared
    slope = squared
    slope *= 3 * SQRT_TWO_OVER_PI * TANH_CUBIC
    slope += SQRT_TWO_OVER_PI
    slope *= 1 - tanh * tanh  # zero far from 0, and before anything can overflow
    slope *= x
    tanh += 1
    slope += tanh
    slope *= 0.5
    tanh *= 0.5
    return xp.multiply(x, tanh, out=out), slope


@fused
def gelu_tanh_backward(dy, slope, *, out=None):
    r"""Gradient of `gelu_tanh_forward`.

    Parameters
    ----------
    dy : array of shape (...)
        dL/dy.
    slope : array of shape (...)
        As `gelu_tanh_forward` saved it.
    out : array of shape (...), optional
        Where to write `dx`; may be `dy`.

    Returns
    -------
    dx : array of shape (...)

    Notes
    -----
    In the forward this was :math:`y = x (1 + \tanh u) / 2`, so
    :math:`dx = dy\, (1 + \tanh u + x (1 - \tanh^2 u)\, u') / 2` with
    :math:`u' = \sqrt{2/\pi} (1 + 3 \cdot 0.044715 x^2)`.
    """
    return namespace(dy).multiply(dy, slope, out=out)


@fused
@in_blocks
def quick_gelu_forward(x, *, out=None):
    r"""Multiply by a sigmoid: the activation of OpenAI's CLIP models.

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
        For `quick_gelu_backward`.

    See Also
    --------
    quick_gelu_backward : The gradient of this function.

    Notes
    -----
    :math:`y = x \sigma(1.702 x)` [1]_. The sigmoid is taken from a tanh, which cannot overflow.

    References
    ----------
    .. [1] openai/CLIP, clip/model.py, class QuickGELU.
    """
    return _swish(x, 1.702, out)


@fused
def quick_gelu_backward(dy, slope, *, out=None):
    r"""Gradient of `quick_gelu_forward`.

    Parameters
    ----------
    dy : array of shape (...)
        dL/dy.
    slope : array of shape (...)
        As `quick_gelu_forward` saved it.
    out : array of shape (...), optional
        Where to write `dx`; may be `dy`.

    Returns
    -------
    dx : array of shape (...)

    Notes
    -----
    In the forward this was :math:`y = x \sigma`, :math:`\sigma = \sigma(1.702 x)`, so
    :math:`dx = dy\, \sigma (1 + 1.702 x (1 - \sigma))`.
    """
    return namespace(dy).multiply(dy, slope, out=out)


@in_blocks
def silu_forward(x, *, out=None):
    r"""Sigmoid linear unit, also called swish: the activation inside SwiGLU.

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
        For `silu_backward`.

    See Also
    --------
    silu_backward : The gradient of this function.

    Notes
    -----
    :math:`y = x \sigma(x)` [1]_.

    References
    ----------
    .. [1] S. Elfwing, E. Uchibe and K. Doya, "Sigmoid-Weighted Linear Units", 2017,
       arXiv:1702.03118, equation 5.
    """
    return _swish(x, 1.0, out)


def silu_backward(dy, slope, *, out=None):
    r"""Gradient of `silu_forward`.

    Parameters
    ----------
    dy : array of shape (...)
        dL/dy.
    slope : array of shape (...)
        As `silu_forward` saved it.
    out : array of shape (...), optional
        Where to write `dx`; may be `dy`.

    Returns
    -------
    dx : array of shape (...)

    Notes
    -----
    In the forward this was :math:`y = x \sigma`, :math:`\sigma = \sigma(x)`, so
    :math:`dx = dy\, \sigma (1 + x (1 - \sigma))`.
    """
    return namespace(dy).multiply(dy, slope, out=out)


def _swish(x, beta, out):  # x * sigmoid(beta x) and its slope
    xp = floating(x)
    sigmoid = x * (0.5 * beta)
    xp.tanh(sigmoid, out=sigmoid)
    sigmoid += 1
    sigmoid *= 0.5
    slope = 1 - sigmoid
    slope *= x
    slope *= beta
    slope += 1
    slope *= sigmoid
    return xp.multiply(x, sigmoid, out=out), slope


def squared_relu_forward(x, *, out=None):
    r"""Square of the positive part: the activation of Flamingo's Resampler and Primer.

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
        For `squared_relu_backward`.

    See Also
    --------
    squared_relu_backward : The gradient of this function.

    Notes
    -----
    :math:`y = \max(x, 0)^2` [1]_, whose slope is continuous, unlike that of a plain ReLU.

    References
    ----------
    .. [1] D. So et al., "Primer: Searching for Efficient Transformers for Language Modeling",
       2021, arXiv:2109.08668, section 4.
    """
    xp = floating(x)
    positive = xp.maximum(x, 0)
    y = xp.multiply(positive, positive, out=out)
    positive *= 2
    return y, positive


def squared_relu_backward(dy, slope, *, out=None):
    r"""Gradient of `squared_relu_forward`.

    Parameters
    ----------
    dy : array of shape (...)
        dL/dy.
    slope : array of shape (...)
        As `squared_relu_forward` saved it.
    out : array of shape (...), optional
        Where to write `dx`; may be `dy`.

    Returns
    -------
    dx : array of shape (...)

    Notes
    -----
    In the forward this was :math:`y = \max(x, 0)^2`, so :math:`dx = 2 \max(x, 0)\, dy`.
    """
    return namespace(dy).multiply(dy, slope, out=out)


def relu_forward(x, *, out=None):
    r"""Positive part: the activation of Idefics' Resampler.

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
        For `relu_backward`.

    See Also
    --------
    relu_backward : The gradient of this function.
    squared_relu_forward : Without the kink.

    Notes
    -----
    :math:`y = \max(x, 0)` [1]_. The slope at 0 is taken as 0, as elsewhere.

    References
    ----------
    .. [1] V. Nair and G. E. Hinton, "Rectified Linear Units Improve Restricted Boltzmann
       Machines", 2010, section 3.
    """
    xp = floating(x)
    slope = (x.real > 0).astype(x.dtype)
    return xp.multiply(x, slope, out=out), slope


def relu_backward(dy, slope, *, out=None):
    r"""Gradient of `relu_forward`.

    Parameters
    ----------
    dy : array of shape (...)
        dL/dy.
    slope : array of shape (...)
        As `relu_forward` saved it.
    out : array of shape (...), optional
        Where to write `dx`; may be `dy`.

    Returns
    -------
    dx : array of shape (...)

    Notes
    -----
    In the forward this was :math:`y = x [x > 0]`, so :math:`dx = dy\, [x > 0]`.
    """
    return namespace(dy).multiply(dy, slope, out=out)


def tanh_forward(x, *, out=None):
    r"""Hyperbolic tangent, which ends between -1 and 1.

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
        For `tanh_backward`.

    See Also
    --------
    tanh_backward : The gradient of this function.
    """
    y = floating(x).tanh(x, out=out)
    return y, 1 - y * y


def tanh_backward(dy, slope, *, out=None):
    r"""Gradient of `tanh_forward`.

    Parameters
    ----------
    dy : array of shape (...)
        dL/dy.
    slope : array of shape (...)
        As `tanh_forward` saved it.
    out : array of shape (...), optional
        Where to write `dx`; may be `dy`.

    Returns
    -------
    dx : array of shape (...)

    Notes
    -----
    In the forward this was :math:`y = \tanh x`, so :math:`dx = dy\, (1 - y^2)`.
    """
    return namespace(dy).multiply(dy, slope, out=out)


@in_blocks
def sigmoid_forward(x, *, out=None):
    r"""Logistic function, which ends between 0 and 1.

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
        For `sigmoid_backward`.

    See Also
    --------
    sigmoid_backward : The gradient of this function.

    Notes
    -----
    :math:`y = 1 / (1 + e^{-x}) = (1 + \tanh(x / 2)) / 2`; the tanh cannot overflow.
    """
    xp = floating(x)
    y = xp.multiply(x, 0.5, out=out)
    xp.tanh(y, out=y)
    y += 1
    y *= 0.5
    return y, y * (1 - y)


def sigmoid_backward(dy, slope, *, out=None):
    r"""Gradient of `sigmoid_forward`.

    Parameters
    ----------
    dy : array of shape (...)
        dL/dy.
    slope : array of shape (...)
        As `sigmoid_forward` saved it.
    out : array of shape (...), optional
        Where to write `dx`; may be `dy`.

    Returns
    -------
    dx : array of shape (...)

    Notes
    -----
    In the forward this was :math:`y = \sigma(x)`, so :math:`dx = dy\, y (1 - y)`.
    """
    return namespace(dy).multiply(dy, slope, out=out)


ACTIVATIONS = {
    "gelu": (gelu_forward, gelu_backward),
    "gelu_tanh": (gelu_tanh_forward, gelu_tanh_backward),
    "quick_gelu": (quick_gelu_forward, quick_gelu_backward),
    "silu": (silu_forward, silu_backward),
    "squared_relu": (squared_relu_forward, squared_relu_backward),
    "relu": (relu_forward, relu_backward),
    "tanh": (tanh_forward, tanh_backward),
    "sigmoid": (sigmoid_forward, sigmoid_backward),
    "clipped_gelu": (clipped_gelu_forward, clipped_gelu_backward),
    "identity": (rarer.identity_forward, rarer.identity_backward),
    "leaky_relu": (rarer.leaky_relu_forward, rarer.leaky_relu_backward),
    "relu6": (rarer.relu6_forward, rarer.relu6_backward),
    "hardswish": (rarer.hardswish_forward, rarer.hardswish_backward),
    "mish": (rarer.mish_forward, rarer.mish_backward),
    "laplace": (rarer.laplace_forward, rarer.laplace_backward),
}


def activation(name):
    """Look up an activation by its name in a config.

    Parameters
    ----------
    name : str
        A key of ``ACTIVATIONS``.

    Returns
    -------
    forward, backward : callable

    Raises
    ------
    ValueError
        If there is no such activation.
    """
    if name not in ACTIVATIONS:
        raise ValueError(f"unknown activation {name!r}; choose one of {', '.join(ACTIVATIONS)}")
    return ACTIVATIONS[name]
