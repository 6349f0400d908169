"""Multi-head attention: a sequence that reads itself, and one that reads another.

One head (``heads=1``) is the plain attention of a first lesson; several let a token ask several
questions at once; fewer heads of keys and values than of queries make grouped-query attention.
"""

from scratch_vlm.backend import namespace
from scratch_vlm.layers.counts import check_counts
from scratch_vlm.layers.linear import linear_backward, linear_forward, linear_init
from scratch_vlm.ops.attend import attend_backward, attend_forward


def self_attention_init(rng, width, *, heads, kv_heads=None, bias=True, out_std=None):
    """Draw the parameters of `self_attention_forward`.

    Parameters
    ----------
    rng : numpy.random.Generator
        Where the weights come from.
    width : int
        D, a multiple of `heads`.
    heads : int
        A, heads of queries.
    kv_heads : int, optional
        G, heads of keys and values; divides `heads`. Default `heads`.
    bias : bool, default True
        Whether the linear layers have biases.
    out_std : float, optional
        Standard deviation of the output weights; smaller in deep models.

    Returns
    -------
    p : dict
        ``qkv``, queries, keys and values in one matrix of shape (D, (A + 2 G) K), and ``out`` of
        shape (D, D).

    Raises
    ------
    ValueError
        If the heads do not divide.
    """
    kv_heads = _check_heads(width, heads, kv_heads)
    k = width // heads
    return {
        "qkv": linear_init(rng, width, (heads + 2 * kv_heads) * k, bias=bias),
        "out": linear_init(rng, width, width, bias=bias, std=out_std),
    }


def self_attention_forward(x, p, *, heads, kv_heads=None, mask=None):
    """Let every token read all tokens of its sequence.

    Parameters
    ----------
    x : array of shape (B, T, D)
        Tokens.
    p : dict
        ``qkv`` and ``out``, linear layers.
    heads : int
        A, heads of queries.
    kv_heads : int, optional
        G, heads of keys and values. Default `heads`.
    mask : boolean array broadcastable to (B, A, T, T), optional
        True where a token may attend.

    Returns
    -------
    y : array of shape (B, T, D)
    saved : dict
        For `self_attention_backward`; ``attention_weights(saved["attend"])`` shows who read whom.

    Raises
    ------
    ValueError
        If shapes do not fit.

    See Also
    --------
    self_attention_backward : The gradient of this function.
    cross_attention_forward : One sequence reads another.

    References
    ----------
    .. [1] A. Vaswani et al., "Attention Is All You Need", 2017, arXiv:1706.03762, section 3.2.2.
    """
    s = {}
    kv_heads = _check_tokens(x, p["qkv"], heads, kv_heads, parts=(1, 2))
    qkv, s["qkv"] = linear_forward(x, p["qkv"])  # (B, T, (A + 2 G) K)
    q, k, v = _split(qkv, (heads, kv_heads, kv_heads))  # (B, A, T, K), twice (B, G, T, K)
    y, s["attend"] = _attend_into_tokens(q, k, v, mask)  # (B, T, D)
    y, s["out"] = linear_forward(y, p["out"])
    return y, s


def self_attention_backward(dy, s, g):
    """Gradient of `self_attention_forward`.

    Parameters
    ----------
    dy : array of shape (B, T, D)
        dL/dy.
    s : dict
        As `self_attention_forward` saved it.
    g : dict
        Gains the gradients of the parameters; empty if they are frozen.

    Returns
    -------
    dx : array of shape (B, T, D)

    Notes
    -----
    Queries, keys and values were three products with the same x; side by side in one matrix
    their three gradients add up within one product.
    """
    heads, kv_heads = s["attend"]["e"].shape[1], s["attend"]["k"].shape[1]
    dy = linear_backward(dy, s["out"], g["out"])
    (dy,) = _split(dy, (heads,))
    gradients = attend_backward(dy, s["attend"])
    return linear_backward(_join(gradients, (heads, kv_heads, kv_heads)), s["qkv"], g["qkv"])


def cross_attention_init(
    rng, width, source_width, *, heads, kv_heads=None, bias=True, out_std=None
):
    """Draw the parameters of `cross_attention_forward`.

    Parameters
    ----------
    rng : numpy.random.Generator
        Where the weights come from.
    width : int
        D of the tokens that ask, a multiple of `heads`.
    source_width : int
        Channels of the tokens that answer.
    heads : int
        A, heads of queries.
    kv_heads : int, optional
        G, heads of keys and values; divides `heads`. Default `heads`.
    bias : bool, default True
        Whether the linear layers have biases.
    out_std : float, optional
        Standard deviation of the output weights; smaller in deep models.

    Returns
    -------
    p : dict
        ``q`` of shape (D, D), ``kv``, keys and values in one matrix, and ``out`` of shape (D, D).

    Raises
    ------
    ValueError
        If the heads do not divide.
    """
    kv_heads = _check_heads(width, heads, kv_heads)
    return {
        "q": linear_init(rng, width, width, bias=bias),
        "kv": linear_init(rng, source_width, 2 * kv_heads * (width // heads), bias=bias),
        "out": linear_init(rng, width, width, bias=bias, std=out_std),
    }


def cross_attention_forward(x, z, p, *, heads, kv_heads=None, mask=None):
    """Let every token of one sequence read the tokens of another.

    Parameters
    ----------
    x : array of shape (B, T, D)
        Tokens that ask.
    z : array of shape (B, S, E)
        Tokens that answer.
    p : dict
        ``q``, ``kv`` and ``out``, linear layers.
    heads : int
        A, heads of queries.
    kv_heads : int, optional
        G, heads of keys and values. Default `heads`.
    mask : boolean array broadcastable to (B, A, T, S), optional
        True where a token may attend; a token that may attend to nothing reads zeros.

    Returns
    -------
    y : array of shape (B, T, D)
    saved : dict
        For `cross_attention_backward`.

    Raises
    ------
    ValueError
        If shapes do not fit.

    See Also
    --------
    cross_attention_backward : The gradient of this function.
    self_attention_forward : A sequence reads itself.

    References
    ----------
    .. [1] A. Vaswani et al., "Attention Is All You Need", 2017, arXiv:1706.03762, section 3.2.3.
    """
    s = {}
    kv_heads = _check_tokens(x, p["kv"], heads, kv_heads, parts=(0, 2))
    if z.ndim != 3 or len(z) != len(x):
        raise ValueError(f"z must be (B, S, E) with the B of x; got x {x.shape} and z {z.shape}")
    q, s["q"] = linear_forward(x, p["q"])
    kv, s["kv"] = linear_forward(z, p["kv"])  # (B, S, 2 G K)
    (q,) = _split(q, (heads,))  # (B, A, T, K)
    k, v = _split(kv, (kv_heads, kv_heads))  # (B, G, S, K)
    y, s["attend"] = _attend_into_tokens(q, k, v, mask)  # (B, T, D)
    y, s["out"] = linear_forward(y, p["out"])
    return y, s


def cross_attention_backward(dy, s, g):
    """Gradient of `cross_attention_forward`.

    Parameters
    ----------
    dy : array of shape (B, T, D)
        dL/dy.
    s : dict
        As `cross_attention_forward` saved it.
    g : dict
        Gains the gradients of the parameters; empty if they are frozen.

    Returns
    -------
    dx : array of shape (B, T, D)
        Of the tokens that asked.
    dz : array of shape (B, S, E)
        Of the tokens that answered.
    """
    heads, kv_heads = s["attend"]["e"].shape[1], s["attend"]["k"].shape[1]
    dy = linear_backward(dy, s["out"], g["out"])
    (dy,) = _split(dy, (heads,))
    dq, dk, dv = attend_backward(dy, s["attend"])
    dz = linear_backward(_join((dk, dv), (kv_heads, kv_heads)), s["kv"], g["kv"])
    dx = linear_backward(_join((dq,), (heads,)), s["q"], g["q"])
    return dx, dz


def _attend_into_tokens(q, k, v, mask):
    # The heads write their outputs side by side into tokens, so that nothing is transposed after.
    xp, (b, a, t, _) = namespace(q), q.shape
    y = xp.empty((b, t, a, v.shape[-1]), q.dtype)
    _, saved = attend_forward(q, k, v, mask=mask, out=y.swapaxes(1, 2))
    return y.reshape(b, t, a * v.shape[-1]), saved


def _split(x, counts):
    # (B, T, sum of counts * K) -> a view (B, count, T, K) for each of the counts
    b, t, width = x.shape
    total = sum(counts)
    x = x.reshape(b, t, total, width // total).swapaxes(1, 2)
    starts = [sum(counts[:i]) for i in range(len(counts))]
    return [x[:, start : start + count] for start, count in zip(starts, counts, strict=True)]


def _join(parts, counts):
    # the inverse of `_split`, by copying: (B, count, T, K) each -> (B, T, sum of counts * K)
    b, _, t, k = parts[0].shape
    x = namespace(parts[0]).empty((b, t, sum(counts) * k), parts[0].dtype)
    for view, part in zip(_split(x, counts), parts, strict=True):
        view[...] = part
    return x


def _check_heads(width, heads, kv_heads):
    kv_heads = heads if kv_heads is None else kv_heads
    check_counts(heads=heads, kv_heads=kv_heads)
    if width % heads or heads % kv_heads:
        raise ValueError(
            f"width {width} must be a multiple of heads {heads}, "
            f"and heads a multiple of kv_heads {kv_heads}"
        )
    return kv_heads


def _check_tokens(x, p, heads, kv_heads, *, parts):
    # parts: how often the linear layer p makes heads of queries, and of keys or values
    if x.ndim != 3:
        raise ValueError(f"tokens must be (B, T, D), got {x.shape}")
    kv_heads = _check_heads(x.shape[2], heads, kv_heads)
    wanted = (parts[0] * heads + parts[1] * kv_heads) * (x.shape[2] // heads)
    if p["w"].shape[1] != wanted:
        raise ValueError(
            f"{heads} heads of queries and {kv_heads} of keys and values on tokens {x.shape} need "
            f"a matrix of {wanted} columns, but the parameters have {p['w'].shape}"
        )
    return kv_heads
