"""Pooling: one vector out of a sequence of tokens."""

from numbers import Integral

import numpy as np

from scratch_vlm.backend import floating, namespace, to_device
from scratch_vlm.layers.attention import (
    cross_attention_backward,
    cross_attention_forward,
    cross_attention_init,
)
from scratch_vlm.layers.mlp import mlp_backward, mlp_forward, mlp_init
from scratch_vlm.layers.norm import layer_norm_backward, layer_norm_forward, layer_norm_init


def pick_forward(x, *, index):
    """Take one token of each sequence: CLS at index 0, or the end of a text.

    Parameters
    ----------
    x : array of shape (B, T, D)
        Tokens.
    index : int or integer array of shape (B,)
        Which token, the same for all or one for each sequence.

    Returns
    -------
    y : array of shape (B, D)
    saved : tuple
        For `pick_backward`.

    Raises
    ------
    TypeError
        If `x` is not an array, or `index` neither an array nor a whole number.
    ValueError
        If `x` is not (B, T, D), or `index` is not one place from 0 to T - 1 for each sequence.

    See Also
    --------
    pick_backward : The gradient of this function.
    """
    xp = namespace(x)
    _check_tokens(x)
    if not isinstance(index, Integral | list) and not hasattr(index, "dtype"):
        raise TypeError(f"index must be a whole number or an array of them, got {index!r}")
    places = np.asarray(index) if isinstance(index, Integral | list) else index
    if (places.ndim and places.shape != x.shape[:1]) or places.dtype.kind not in "iu":
        raise ValueError(
            f"index must be a whole number or {len(x)} of them; "
            f"got dtype {places.dtype} and shape {places.shape}"
        )
    if namespace(places) is np and ((places < 0) | (places >= x.shape[1])).any():
        raise ValueError(f"index must be from 0 to {x.shape[1] - 1}, got {places.tolist()}")
    batch = xp.arange(len(x))
    index = int(index) if isinstance(index, Integral) else to_device(index, xp)
    return x[batch, index], (x.shape, batch, index)


def pick_backward(dy, saved):
    """Gradient of `pick_forward`: zero for every token that was not taken.

    Parameters
    ----------
    dy : array of shape (B, D)
        dL/dy.
    saved : tuple
        As `pick_forward` saved it.

    Returns
    -------
    dx : array of shape (B, T, D)
    """
    shape, batch, index = saved
    dx = namespace(dy).zeros(shape, dy.dtype)
    dx[batch, index] = dy
    return dx


def mean_pool_forward(x, *, mask=None):
    r"""Average the tokens of each sequence.

    Parameters
    ----------
    x : array of shape (B, T, D)
        Tokens.
    mask : boolean array of shape (B, T), optional
        True for the tokens that count; a sequence without any gives zeros.

    Returns
    -------
    y : array of shape (B, D)
    saved : array of shape (B, T, 1)
        The weight of each token, for `mean_pool_backward`.

    Raises
    ------
    TypeError
        If `x` does not hold floating point numbers, or the mask is not a boolean array.
    ValueError
        If `x` is not (B, T, D) or the mask does not fit.

    See Also
    --------
    mean_pool_backward : The gradient of this function.
    """
    xp = floating(x)
    _check_tokens(x)
    if mask is None:
        mask = xp.ones(x.shape[:2], bool)
    namespace(mask)  # refuses a list
    if mask.shape != x.shape[:2]:
        raise ValueError(f"mask {mask.shape} must have the shape (B, T) of x, {x.shape[:2]}")
    if mask.dtype != bool:
        raise TypeError(f"a mask must be boolean, True = counts; got dtype {mask.dtype}")
    weight = mask / xp.maximum(mask.sum(1, keepdims=True), 1)  # (B, T)
    weight = weight.astype(x.real.dtype)[..., None]  # (B, T, 1)
    return (x * weight).sum(1), weight


def mean_pool_backward(dy, weight):
    """Gradient of `mean_pool_forward`: every token that counted gets its share.

    Parameters
    ----------
    dy : array of shape (B, D)
        dL/dy.
    weight : array of shape (B, T, 1)
        As `mean_pool_forward` saved it.

    Returns
    -------
    dx : array of shape (B, T, D)
    """
    return dy[:, None] * weight


def attention_pool_init(rng, width, hidden, *, heads):
    """Draw the parameters of `attention_pool_forward`.

    Parameters
    ----------
    rng : numpy.random.Generator
        Where the weights come from.
    width, hidden : int
        D and M.
    heads : int
        A; divides `width`.

    Returns
    -------
    p : dict
        ``probe`` of shape (D,), ``attn``, ``ln`` and ``mlp``.
    """
    return {
        "probe": rng.standard_normal(width).astype("float32"),
        "attn": cross_attention_init(rng, width, width, heads=heads),
        "ln": layer_norm_init(width),
        "mlp": mlp_init(rng, width, hidden),
    }


def attention_pool_forward(x, p, *, heads, kind="gelu", eps=1e-6):
    """Let a learned token read the sequence, then think about it.

    Parameters
    ----------
    x : array of shape (B, T, D)
        Tokens.
    p : dict
        As `attention_pool_init` makes it.
    heads : int
        A, heads.
    kind : str, default "gelu"
        Activation of the MLP.
    eps : float, default 1e-6
        Of the norm.

    Returns
    -------
    y : array of shape (B, D)
    saved : dict
        For `attention_pool_backward`.

    Raises
    ------
    ValueError
        If shapes do not fit or the activation is unknown.

    See Also
    --------
    attention_pool_backward : The gradient of this function.

    Notes
    -----
    ``h = attn(probe, x); y = h + mlp(ln(h))``, the head of SigLIP [1]_; attention with one latent
    of a Perceiver.

    References
    ----------
    .. [1] X. Zhai et al., "Scaling Vision Transformers", 2021, arXiv:2106.04560, section 3.2
       (multihead attention pooling).
    """
    s = {}
    xp = namespace(x)
    _check_tokens(x)
    if x.shape[2] != len(p["probe"]):
        raise ValueError(f"x has {x.shape[2]} channels and the probe {len(p['probe'])}")
    probe = xp.broadcast_to(p["probe"], (len(x), 1, x.shape[2]))
    h, s["attn"] = cross_attention_forward(
        xp.ascontiguousarray(probe), x, p["attn"], heads=heads
    )  # (B, 1, D)
    y, s["ln"] = layer_norm_forward(h, p["ln"], eps=eps)
    y, s["mlp"] = mlp_forward(y, p["mlp"], kind=kind)
    y += h
    return y[:, 0], s


def attention_pool_backward(dy, s, g):
    """Gradient of `attention_pool_forward`.

    Parameters
    ----------
    dy : array of shape (B, D)
        dL/dy.
    s : dict
        As `attention_pool_forward` saved it.
    g : dict
        Gains the gradients of the parameters; empty if they are frozen.

    Returns
    -------
    dx : array of shape (B, T, D)
    """
    dy = dy[:, None]  # (B, 1, D)
    dh = mlp_backward(dy, s["mlp"], g["mlp"])
    dh = layer_norm_backward(dh, s["ln"], g["ln"])
    dh += dy
    dprobe, dx = cross_attention_backward(dh, s["attn"], g["attn"])
    if g:
        g["probe"] += dprobe[:, 0].sum(0)
    return dx


def _check_tokens(x):
    if x.ndim != 3 or not x.shape[1]:
        raise ValueError(f"tokens must be (B, T, D) with T at least 1, got {x.shape}")
