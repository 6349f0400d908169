"""The feed-forward half of a block: each token thinks by itself about what it has read."""

from functools import partial

from scratch_vlm.backend import factor_room, namespace, room_between
from scratch_vlm.layers.linear import has_bias, linear_backward, linear_forward, linear_init
from scratch_vlm.ops.activations import ACTIVATIONS, activation

GATED = {  # names of Shazeer's variants, and the activation of their gate
    "swiglu": "silu",
    "geglu": "gelu",
    "geglu_tanh": "gelu_tanh",
    "reglu": "relu",
    "glu": "sigmoid",
}
GATED |= {f"gated_{name}": name for name in ACTIVATIONS if name not in GATED.values()}


def feed(kind):
    """Look up the feed-forward half of a block by its name in a config.

    Parameters
    ----------
    kind : str
        A key of ``GATED``, or of ``ops.activations.ACTIVATIONS`` for a plain MLP.

    Returns
    -------
    init, forward, backward : callable
        Those of `swiglu_forward` or of `mlp_forward`, with the activation filled in.

    Raises
    ------
    ValueError
        If there is no such kind.
    """
    if kind in GATED:
        return swiglu_init, partial(swiglu_forward, kind=GATED[kind]), swiglu_backward
    try:
        activation(kind)
    except ValueError as error:
        raise ValueError(f"{error}, or of a gated MLP: {', '.join(GATED)}") from None
    return mlp_init, partial(mlp_forward, kind=kind), mlp_backward


def mlp_init(rng, width, hidden, *, outputs=None, bias=True, out_std=None):
    """Draw the parameters of `mlp_forward`.

    Parameters
    ----------
    rng : numpy.random.Generator
        Where the weights come from.
    width, hidden : int
        D and M.
    outputs : int, optional
        E, channels that come out; default D, as in a block.
    bias : bool or tuple of str, default True
        Whether the linear layers have biases, or the names of those that have.
    out_std : float, optional
        Standard deviation of the weights of ``proj``; smaller in deep models.

    Returns
    -------
    p : dict
        ``fc`` of shape (D, M) and ``proj`` of shape (M, E).
    """
    outputs = width if outputs is None else outputs
    return {
        "fc": linear_init(rng, width, hidden, bias=has_bias(bias, "fc")),
        "proj": linear_init(rng, hidden, outputs, bias=has_bias(bias, "proj"), std=out_std),
    }


def mlp_forward(x, p, *, kind="gelu"):
    """Widen each token, bend it, and narrow it again.

    Parameters
    ----------
    x : array of shape (..., D)
        Tokens.
    p : dict
        ``fc`` and ``proj``, linear layers.
    kind : str, default "gelu"
        The activation, a key of ``ops.activations.ACTIVATIONS``.

    Returns
    -------
    y : array of shape (..., E)
        E is D in a block.
    saved : dict
        For `mlp_backward`.

    Raises
    ------
    ValueError
        If the activation is unknown or shapes do not fit.

    See Also
    --------
    mlp_backward : The gradient of this function.
    swiglu_forward : The gated variant.
    """
    s, bend, room = {"kind": kind}, activation(kind)[0], None
    if "lora" not in p["fc"] and "lora" not in p["proj"]:  # whose changes are float32
        room = room_between(x, p["fc"]["w"].shape[1], bend)
    h, s["fc"] = linear_forward(x, p["fc"], out=room)  # (..., M)
    h, s["act"] = bend(h, out=factor_room(h, otherwise=h))
    h, s["proj"] = linear_forward(h, p["proj"])  # (..., E)
    return h, s


def mlp_backward(dy, s, g):
    """Gradient of `mlp_forward`.

    Parameters
    ----------
    dy : array of shape (..., E)
        dL/dy.
    s : dict
        As `mlp_forward` saved it.
    g : dict
        Gains the gradients of the parameters; empty if they are frozen.

    Returns
    -------
    dx : array of shape (..., D)
    """
    room = namespace(dy).empty_like(s["act"]) if s["act"].dtype.itemsize == 2 else None
    dh = linear_backward(dy, s["proj"], g["proj"], out=room)
    dh = activation(s["kind"])[1](dh, s["act"], out=factor_room(dh, otherwise=dh))
    return linear_backward(dh, s["fc"], g["fc"])


def swiglu_init(rng, width, hidden, *, bias=False, out_std=None):
    """Draw the parameters of `swiglu_forward`.

    Parameters
    ----------
    rng : numpy.random.Generator
        Where the weights come from.
    width, hidden : int
        D and M.
    bias : bool or tuple of str, default False
        Whether the linear layers have biases, or the names of those that have.
    out_std : float, optional
        Standard deviation of the weights of ``proj``; smaller in deep models.

    Returns
    -------
    p : dict
        ``fc``, the gate and what it gates in one matrix of shape (D, 2 M), and ``proj`` of shape
        (M, D).
    """
    return {
        "fc": linear_init(rng, width, 2 * hidden, bias=has_bias(bias, "fc")),
        "proj": linear_init(rng, hidden, width, bias=has_bias(bias, "proj"), std=out_std),
    }


def swiglu_forward(x, p, *, kind="silu"):
    r"""Widen each token twice, let one half gate the other, and narrow it again.

    Parameters
    ----------
    x : array of shape (..., D)
        Tokens.
    p : dict
        ``fc`` with the gate in its first M columns, and ``proj``; linear layers.
    kind : str, default "silu"
        Activation of the gate: "gelu" makes it GEGLU, see ``GATED``.

    Returns
    -------
    y : array of shape (..., D)
    saved : dict
        For `swiglu_backward`.

    Raises
    ------
    ValueError
        If the activation is unknown or shapes do not fit.

    See Also
    --------
    swiglu_backward : The gradient of this function.

    Notes
    -----
    :math:`y = (\mathrm{silu}(x W_1) \circ x W_2) W_3` [1]_, or with another activation.

    References
    ----------
    .. [1] N. Shazeer, "GLU Variants Improve Transformer", 2020, arXiv:2002.05202, equation 6.
    """
    s = {"kind": kind}
    h, s["fc"] = linear_forward(x, p["fc"])  # (..., 2 M)
    m = h.shape[-1] // 2
    gate, s["act"] = activation(kind)[0](h[..., :m])  # (..., M)
    s["gate"], s["up"] = gate, h[..., m:]
    y, s["proj"] = linear_forward(gate * s["up"], p["proj"])
    return y, s


def swiglu_backward(dy, s, g):
    r"""Gradient of `swiglu_forward`.

    Parameters
    ----------
    dy : array of shape (..., D)
        dL/dy.
    s : dict
        As `swiglu_forward` saved it.
    g : dict
        Gains the gradients of the parameters; empty if they are frozen.

    Returns
    -------
    dx : array of shape (..., D)

    Notes
    -----
    In the forward this was :math:`h = a \circ u`, so :math:`da = dh \circ u` and
    :math:`du = dh \circ a`.
    """
    dh = linear_backward(dy, s["proj"], g["proj"])
    dgate = activation(s["kind"])[1](dh * s["up"], s["act"])
    dup = dh * s["gate"]
    dh = namespace(dh).concatenate([dgate, dup], axis=-1)  # (..., 2 M)
    return linear_backward(dh, s["fc"], g["fc"])
