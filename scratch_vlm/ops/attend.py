"""Scaled dot-product attention, the one operation through which tokens read each other."""

import math

from scratch_vlm.backend import floating, fused, namespace, product, row_dot, row_max, row_sum
from scratch_vlm.ops.masks import check_mask

BLIND = ("zero", "mean")


@fused
def attend_forward(q, k, v, *, mask=None, scale=None, blind="zero", out=None):
    r"""Let every query read the values, weighted by how well it matches their keys.

    Parameters
    ----------
    q : array of shape (B, A, T, K)
        Queries, one row for each token that asks. Any strides whose last axis is contiguous.
    k : array of shape (B, G, S, K)
        Keys. G divides A: each group of A / G query heads shares a head of keys and values.
    v : array of shape (B, G, S, J)
        Values; J is K in most models.
    mask : boolean array broadcastable to (B, A, T, S), optional
        True where a token may attend; a row without any True gives exactly zero.
    scale : float, optional
        What scores are multiplied by. Default 1 / sqrt(K).
    blind : {"zero", "mean"}
        What a row without any True gives: zero, or the mean of all values. The latter is what
        becomes of it where masks are large negative numbers, as in the Transformers library.
    out : array of shape (B, A, T, J), optional
        Where to write `y`, for example heads that lie side by side in one token.

    Returns
    -------
    y : array of shape (B, A, T, J)
    saved : dict
        For `attend_backward`; `attention_weights` reads the softmax from it.

    Raises
    ------
    TypeError
        If the mask is not boolean or the others are not floating point.
    ValueError
        If the shapes do not fit, or `blind` is neither.

    See Also
    --------
    attend_backward : The gradient of this function.

    Notes
    -----
    :math:`y = P v` with :math:`P = \mathrm{softmax}(q k^\top / \sqrt K)` over S [1]_. Grouped
    heads are those of [2]_.

    The exponentials are kept unnormalised, :math:`e_{ts} = \exp(z_{ts} - \max_s z_{ts})`, and the
    narrow output is divided by their sum instead of the wide matrix: two passes over T x S fewer.

    References
    ----------
    .. [1] A. Vaswani et al., "Attention Is All You Need", 2017, arXiv:1706.03762, equation 1.
    .. [2] J. Ainslie et al., "GQA: Training Generalized Multi-Query Transformer Models", 2023,
       arXiv:2305.13245, section 2.2.
    """
    xp = floating(q, "q")
    _check(q, k, v)
    if blind not in BLIND:
        raise ValueError(f"blind must be one of {', '.join(BLIND)}, got {blind!r}")
    shape = (*q.shape[:3], k.shape[2])  # (B, A, T, S)
    if out is not None and out.shape != (*q.shape[:3], v.shape[3]):
        raise ValueError(f"out is {out.shape} and must be {(*q.shape[:3], v.shape[3])}")
    scale = 1 / math.sqrt(q.shape[-1]) if scale is None else scale
    q = _grouped(q, k.shape[1]) * scale  # (B, G, A/G, T, K)
    k, v = k[:, :, None], v[:, :, None]  # (B, G, 1, S, K)
    e = product(q, k.swapaxes(-1, -2)).reshape(shape)
    lost = None
    if mask is not None:
        check_mask(mask, shape)
        xp.copyto(e, -math.inf, where=~mask)
        if blind == "mean":
            lost = ~mask.any(-1, keepdims=True)
            xp.copyto(e, 0, where=lost)
    e -= row_max(e)  # finite, so that a row of nothing but -inf stays -inf, not nan
    xp.exp(e, out=e)
    total = row_sum(e)  # (B, A, T, 1)
    norm = (total != 0) / xp.where(total == 0, 1, total)  # 0 for a row without any True
    y = product(_grouped(e, k.shape[1]), v)
    y = xp.multiply(y.reshape(*shape[:3], v.shape[-1]), norm, out=out)
    saved = {"q": q, "k": k, "v": v, "e": e, "norm": norm, "y": y, "scale": scale}
    return y, saved if lost is None else {**saved, "lost": lost}


@fused
def attend_backward(dy, saved, *, out=None):
    r"""Gradient of `attend_forward`.

    Parameters
    ----------
    dy : array of shape (B, A, T, J)
        dL/dy.
    saved : dict
        As `attend_forward` saved it.
    out : tuple of array, optional
        Where to write `dq`, `dk` and `dv`, for example side by side in one token.

    Returns
    -------
    dq : array of shape (B, A, T, K)
    dk : array of shape (B, G, S, K)
    dv : array of shape (B, G, S, J)

    Notes
    -----
    In the forward this was :math:`z = q k^\top / \sqrt K`, :math:`P = \mathrm{softmax}(z)`,
    :math:`y = P v`. So :math:`dv = P^\top dy`, :math:`dP = dy\, v^\top`, and a softmax row pulls
    its gradients back by their mean: :math:`dz = P \circ (dP - \delta)` with
    :math:`\delta_t = \sum_s P_{ts} dP_{ts} = \sum_k dy_{tk} y_{tk}`: the wide sum over S equals a
    narrow one over K, the step that lets FlashAttention forget P (Dao et al., 2022,
    arXiv:2205.14135, appendix B.2). Then :math:`dq = dz\, k / \sqrt K` and
    :math:`dk = dz^\top q / \sqrt K`. Keys and values sum over the heads that share them.

    P is e times one number per row, and that number is multiplied into `dy` before it widens.
    """
    q, k, v, e = saved["q"], saved["k"], saved["v"], saved["e"]
    xp, groups = namespace(dy), q.shape[1]
    into_q, into_k, into_v = (None, None, None) if out is None else out
    delta = row_dot(dy, saved["y"])  # (B, A, T, 1)
    delta *= saved["norm"]
    dy = _grouped(dy * saved["norm"], groups)  # (B, G, A/G, T, K)
    dv = _over_sharers(_grouped(e, groups).swapaxes(-1, -2), dy, into_v)
    dz = product(dy, v.swapaxes(-1, -2)).reshape(e.shape)  # dL/dP, until the next two lines
    dz -= delta
    dz *= e
    if "lost" in saved:  # a mean looks at no score
        xp.copyto(dz, 0, where=saved["lost"])
    dz = _grouped(dz, groups)
    dq = product(dz, k).reshape(*e.shape[:3], q.shape[-1])
    dq = xp.multiply(dq, saved["scale"], out=into_q)
    dk = _over_sharers(dz.swapaxes(-1, -2), q, into_k)  # the saved q carries the scale
    return (dq, dk, dv) if out is None else out


def attention_weights(saved):
    """Read the softmax of an attention out of what its forward saved.

    Parameters
    ----------
    saved : dict
        As `attend_forward` saved it.

    Returns
    -------
    weights : array of shape (B, A, T, S)
        Rows that sum to 1, or are 0 where nothing may be attended.
    """
    if "e" not in saved:  # a kernel did not keep them
        q, k, v = (saved[name].astype("float32") for name in "qkv")
        _, saved = attend_forward(q, k, v, mask=saved["mask"], scale=saved["scale"])
    return saved["e"] * saved["norm"]


def _grouped(x, groups):  # (B, A, T, K) -> (B, G, A/G, T, K), a view
    return x.reshape(x.shape[0], groups, x.shape[1] // groups, *x.shape[2:])


def _over_sharers(a, b, out):
    # (B, G, A/G, S, T) times (B, G, A/G, T, K), summed over the heads that share: (B, G, S, K)
    if a.shape[2] == 1:
        return product(a[:, :, 0], b[:, :, 0], out=out)
    return product(a, b).sum(2, out=out)


def _check(q, k, v):
    if not q.ndim == k.ndim == v.ndim == 4 or k.shape[:3] != v.shape[:3]:
        raise ValueError(
            f"q must be (B, A, T, K), k (B, G, S, K) and v (B, G, S, J); "
            f"got {q.shape}, {k.shape}, {v.shape}"
        )
    if k.shape[2] == 0:
        raise ValueError(f"k {k.shape} has no tokens to attend to; mask them out instead")
    if q.shape[0] != k.shape[0] or q.shape[3] != k.shape[3]:
        raise ValueError(f"q {q.shape} and k {k.shape} must agree in batch and head width")
    if not k.shape[1] or q.shape[1] % k.shape[1]:
        raise ValueError(f"{q.shape[1]} query heads do not divide into {k.shape[1]} groups")
