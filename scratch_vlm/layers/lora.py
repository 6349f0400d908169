r"""LoRA: adapt a linear layer by the product of two thin matrices, and leave its own as it is.

The adapter is a branch ``lora`` in the tree of a linear layer, beside ``w`` and ``b``. No model
knows of it: it is added to a tree by the names of its layers, trained alone, and merged into the
weights when nothing but speed is wanted.
"""

import math

from scratch_vlm.backend import add_product, namespace, product, project, rows, to_device
from scratch_vlm.layers.config import check_keys
from scratch_vlm.layers.counts import check_counts
from scratch_vlm.tree import FROZEN, by_rule

TABLES = frozenset(("tokens", "positions", "segments", "time"))  # looked up, never multiplied by
LORA_ONLY = ((r"(.*/)?lora/[ab]", True), (".*", False))  # what learns: the scale is a constant


def lora_init(rng, inputs, outputs, *, rank, alpha=None):
    """Draw an adapter, which changes nothing at first.

    Parameters
    ----------
    rng : numpy.random.Generator
        Where the numbers come from.
    inputs, outputs : int
        D and M, channels in and out of the linear layer.
    rank : int
        R, columns of the first matrix and rows of the second; at most the smaller of D and M.
    alpha : float, optional
        The change is scaled by alpha / R. Default R, which is a scale of 1; held fixed while R
        is tried out, it keeps the learning rate that suits.

    Returns
    -------
    p : dict
        ``a`` of shape (D, R), random; ``b`` of shape (R, M), zero; and ``scale`` of shape (). All
        in float32.

    Raises
    ------
    ValueError
        If a count is not positive, the rank is not low, or `alpha` is not finite.

    References
    ----------
    .. [1] E. Hu et al., "LoRA: Low-Rank Adaptation of Large Language Models", 2021,
       arXiv:2106.09685, section 4.1: a from a normal distribution, b zero.
    """
    check_counts(inputs=inputs, outputs=outputs, rank=rank)
    if rank > min(inputs, outputs):
        raise ValueError(
            f"a rank of {rank} is not low for a matrix ({inputs}, {outputs}), which has at most "
            f"{min(inputs, outputs)}"
        )
    scale = 1.0 if alpha is None else alpha / rank
    if not math.isfinite(scale):
        raise ValueError(f"alpha must be a finite number, got {alpha}")
    a = (inputs**-0.5 * rng.standard_normal((inputs, rank))).astype("float32")
    xp = namespace(a)
    return {"a": a, "b": xp.zeros((rank, outputs), a.dtype), "scale": xp.asarray(scale, a.dtype)}


def lora_forward(x, p):
    """Say by how much the output of a linear layer is to change.

    Parameters
    ----------
    x : array of shape (..., D)
        Tokens, those that the linear layer reads.
    p : dict
        ``a`` of shape (D, R), ``b`` of shape (R, M), and ``scale`` of shape ().

    Returns
    -------
    y : array of shape (..., M)
    saved : tuple
        For `lora_backward`.

    Raises
    ------
    ValueError
        If `x` has another number of channels than ``a`` takes, or a key is missing.

    See Also
    --------
    lora_backward : The gradient of this function.
    lora_add : Put adapters into a model.

    References
    ----------
    .. [1] E. Hu et al., "LoRA: Low-Rank Adaptation of Large Language Models", 2021,
       arXiv:2106.09685, equation 3.
    """
    check_keys(p, "a", "b", "scale")
    u = project(x, p["a"])  # (..., R)
    return project(u * p["scale"], p["b"]), (x, u, p)


def lora_backward(dy, saved, g):
    r"""Gradient of `lora_forward`.

    Parameters
    ----------
    dy : array of shape (..., M)
        dL/dy.
    saved : tuple
        As `lora_forward` saved it.
    g : dict
        Gains the gradients of ``a``, ``b`` and ``scale``; empty if they are frozen.

    Returns
    -------
    dx : array of shape (..., D)

    Notes
    -----
    In the forward this was :math:`y = s\, u b` with :math:`u = x a`. With
    :math:`z = dy\, b^\top` the gradients are :math:`db = s\, u^\top dy`,
    :math:`ds = \langle u, z \rangle`, :math:`du = s z`, and from there :math:`da = x^\top du`
    and :math:`dx = du\, a^\top`. Every product has a side of length R: the large one,
    :math:`x^\top dy`, is not needed.
    """
    x, u, p = saved
    shape, x, u, dy = x.shape, rows(x), rows(u), rows(dy)
    z = product(dy, p["b"].T)  # (tokens, R)
    if g["scale"] is not FROZEN:
        g["scale"] += (u * z).sum()
    du = z * p["scale"]
    if g["a"] is not FROZEN:
        add_product(g["a"], x.T, du)
    if g["b"] is not FROZEN:
        add_product(g["b"], (u * p["scale"]).T, dy)
    return product(du, p["a"].T).reshape(shape)


def lora_add(rng, p, rules, *, rank, alpha=None):
    """Add adapters to the linear layers of a model.

    Parameters
    ----------
    rng : numpy.random.Generator
        Where the adapters come from; drawn on the host.
    p : dict
        Parameters of a model; not changed.
    rules : iterable of (str, bool)
        Pairs of a regular expression over the names of layers, such as
        ``"blocks/.*/attn/qkv"``, and whether those that it matches are adapted. The first that
        matches decides; together they must cover all linear layers, those that hold a matrix
        ``w``.
    rank : int
        R, see `lora_init`.
    alpha : float, optional
        See `lora_init`.

    Returns
    -------
    p : dict
        A new tree of the same arrays, with adapters of the dtype of their ``w`` and beside it.
        It computes the same as before until an adapter has learned.

    Raises
    ------
    ValueError
        If the rules do not fit the names or choose no layer, a layer has an adapter already, or
        the rank does not fit.

    See Also
    --------
    lora_merge : Put what was learned into the weights.

    Notes
    -----
    Embeddings and tables of positions hold a matrix ``w``, too, and are no linear layers: nothing
    would read an adapter there, so rules do not see them, nor a head that is tied to one.
    `LORA_ONLY` are the rules that let the adapters learn and freeze everything else, for `AdamW`
    and `TrainConfig`.

    Examples
    --------
    >>> import numpy as np
    >>> p = {"fc": {"w": np.ones((4, 3))}, "head": {"w": np.ones((3, 2))}}
    >>> rules = (("fc", True), (".*", False))
    >>> adapted = lora_add(np.random.default_rng(0), p, rules, rank=2)
    >>> [(name, leaf.shape) for name, leaf in adapted["fc"]["lora"].items()]
    [('a', (4, 2)), ('b', (2, 3)), ('scale', ())]
    >>> list(adapted["head"])
    ['w']
    """
    chosen = by_rule(_linear_layers(p), rules)
    if not any(chosen.values()):
        raise ValueError(f"the rules choose none of the layers {', '.join(list(chosen)[:8])}")

    def walk(branch, path):
        if not isinstance(branch, dict):
            return branch
        new = {k: walk(v, f"{path}/{k}" if path else str(k)) for k, v in branch.items()}
        if chosen.get(path):
            if "lora" in branch:
                raise ValueError(f"{path or 'the layer'} has an adapter already; merge it first")
            w = branch["w"]
            lora, xp = lora_init(rng, *w.shape, rank=rank, alpha=alpha), namespace(w)
            new["lora"] = {k: to_device(v.astype(w.dtype), xp) for k, v in lora.items()}
        return new

    return walk(p, "")


def lora_merge(p):
    r"""Put what adapters have learned into the weights, so that they cost nothing any more.

    Parameters
    ----------
    p : dict
        Parameters with adapters; not changed.

    Returns
    -------
    merged : dict
        The model without adapters: ``w`` is :math:`w + s\, a b` where there was one, and
        everything else the same arrays.
    kept : dict
        The part of `p` that was replaced, for `lora_unmerge`.

    Raises
    ------
    ValueError
        If there is no adapter.

    See Also
    --------
    lora_unmerge : The way back.

    Notes
    -----
    Subtracting :math:`s\, a b` again would not give ``w`` back: the sum was rounded, and the last
    digits of the smaller number are gone. That is why ``w`` itself is kept.
    """

    def walk(branch):
        if not isinstance(branch, dict):
            return branch, {}
        if "lora" in branch:
            kept = {"w": branch["w"], "lora": branch["lora"]}
            lora = kept["lora"]
            merged = {k: v for k, v in branch.items() if k != "lora"}
            merged["w"] = kept["w"] + lora["scale"] * (lora["a"] @ lora["b"])
            return merged, kept
        parts = {k: walk(v) for k, v in branch.items()}
        merged = {k: part for k, (part, _) in parts.items()}
        return merged, {k: kept for k, (_, kept) in parts.items() if kept}

    merged, kept = walk(p)
    if not kept:
        raise ValueError("there is no adapter to merge: no layer has a branch 'lora'")
    return merged, kept


def lora_unmerge(merged, kept):
    """Take adapters out of the weights again.

    Parameters
    ----------
    merged, kept : dict
        As `lora_merge` returned them; not changed.

    Returns
    -------
    p : dict
        The parameters that were merged, bit for bit.

    Raises
    ------
    ValueError
        If `kept` is of another model, or `merged` has adapters.

    See Also
    --------
    lora_merge : The way there.
    """
    new = dict(merged)
    for key, part in kept.items():
        if (key in merged) == (key == "lora") or _shape(merged.get(key)) != _shape(part):
            raise ValueError(
                f"kept has {key!r} {_shape(part)}, and the merged parameters are "
                f"{', '.join(f'{k} {_shape(v)}' for k, v in merged.items())}; both must come from "
                "the same merge"
            )
        inner = isinstance(part, dict) and key != "lora"
        new[key] = lora_unmerge(merged[key], part) if inner else part
    return new


def _shape(part):  # () for a branch
    return getattr(part, "shape", ())


def _linear_layers(p, path=""):  # their names
    if not isinstance(p, dict):
        return
    if getattr(p.get("w"), "ndim", None) == 2:
        yield path
    for key, child in p.items():
        if key not in TABLES:
            yield from _linear_layers(child, f"{path}/{key}" if path else str(key))
