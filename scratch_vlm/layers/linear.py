"""The linear layer: a matrix, and a bias and a low-rank adapter where the tree has them."""

from scratch_vlm.backend import add_product, add_sum, as_factor, floating, project, rows
from scratch_vlm.layers.config import check_keys
from scratch_vlm.layers.counts import check_counts
from scratch_vlm.layers.lora import lora_backward, lora_forward
from scratch_vlm.tree import FROZEN


def linear_init(rng, inputs, outputs, *, bias=True, std=None):
    """Draw the parameters of a linear layer.

    Parameters
    ----------
    rng : numpy.random.Generator
        Where the weights come from.
    inputs, outputs : int
        D and M, channels in and out.
    bias : bool, default True
        Whether to add a bias, which starts at zero.
    std : float, optional
        Standard deviation of the weights, by default that which keeps the variance of the
        tokens, 1 / sqrt(D).

    Returns
    -------
    p : dict
        ``w`` of shape (D, M) and perhaps ``b`` of shape (M,), in float32.

    Raises
    ------
    ValueError
        If `inputs` or `outputs` is not positive.
    """
    check_counts(inputs=inputs, outputs=outputs)
    std = inputs**-0.5 if std is None else std
    p = {"w": (std * rng.standard_normal((inputs, outputs))).astype("float32")}
    if bias:
        p["b"] = (0 * p["w"][0]).copy()
    return p


def linear_forward(x, p, *, out=None):
    """Multiply every token by a matrix, and add a bias and an adapter's change.

    Parameters
    ----------
    x : array of shape (..., D)
        Tokens.
    p : dict
        ``w`` of shape (D, M); perhaps ``b`` of shape (M,), and ``lora``, see `lora_forward`.
    out : array of shape (..., M), optional
        Where to write `y`; C-contiguous.

    Returns
    -------
    y : array of shape (..., M)
    saved : tuple
        For `linear_backward`.

    Raises
    ------
    TypeError
        If `x` does not hold floating point numbers.
    ValueError
        If `x` has another number of channels than ``w`` takes, or there is no ``w``.

    See Also
    --------
    linear_backward : The gradient of this function.
    """
    floating(x)
    if not x.ndim:
        raise ValueError("x must be (..., D), tokens of D channels; got a single number, shape ()")
    check_keys(p, "w")
    x, w = as_factor(x), as_factor(p["w"])  # the backward multiplies both again
    y = project(x, w, bias=p.get("b"), out=out)
    if "lora" not in p:
        return y, (x, w, "b" in p, None)
    change, lora = lora_forward(x, p["lora"])
    y += change
    return y, (x, w, "b" in p, lora)


def linear_backward(dy, saved, g, *, out=None):
    r"""Gradient of `linear_forward`.

    Parameters
    ----------
    dy : array of shape (..., M)
        dL/dy.
    saved : tuple
        As `linear_forward` saved it.
    g : dict
        Gains the gradients of the parameters; empty if they are frozen. Beside an adapter
        that learns, ``w`` and ``b`` are frozen one by one.
    out : array of shape (..., D), optional
        Where to write `dx`; C-contiguous.

    Returns
    -------
    dx : array of shape (..., D)

    Notes
    -----
    In the forward this was :math:`y = x w + b`, so :math:`dw = x^\top dy` and :math:`db = \sum dy`
    over all tokens, and :math:`dx = dy\, w^\top`. An adapter adds to y, and so to dx.
    """
    x, w, bias, lora = saved
    dy = as_factor(dy)
    if g["w"] is not FROZEN:
        add_product(g["w"], rows(x).T, rows(dy))
    if bias and g["b"] is not FROZEN:
        add_sum(g["b"], dy)
    dx = project(dy, w.T, out=out)
    if lora is not None:
        dx += lora_backward(dy, lora, g["lora"])
    return dx


def has_bias(bias, name):
    """Say whether one of the linear layers of a block has a bias.

    Parameters
    ----------
    bias : bool or tuple of str
        Of all of them, or the names of those that have one.
    name : str
        The layer.

    Returns
    -------
    bool

    Examples
    --------
    >>> has_bias(True, "fc"), has_bias(("qkv", "out"), "fc")
    (True, False)
    """
    return bias if isinstance(bias, bool) else name in bias


def check_outputs(p, outputs):
    """Refuse a head that was made for another number of outputs than the config asks for.

    Parameters
    ----------
    p : dict
        The head, a linear layer.
    outputs : int
        What the config says.

    Raises
    ------
    ValueError
        If the head has more or fewer.
    """
    found = p["w"].shape[-1]
    if found != outputs:
        raise ValueError(f"the config asks for {outputs} outputs; the head has {found}")
