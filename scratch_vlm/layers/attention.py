"""Multi-head attention: a sequence that reads itself, and one that reads another.

One head (``heads=1``) is the plain attention of a first lesson; several let a token ask several
questions at once; fewer heads of keys and values than of queries make grouped-query attention.
"""

from scratch_vlm.backend import namespace
from scratch_vlm.layers.counts import check_counts
from scratch_vlm.layers.linear import linear_backward, linear_forward, linear_init
from scratch_vlm.layers.norm import rms_norm_backward, rms_norm_forward, rms_norm_init
from scratch_vlm.ops.attend import attend_backward, attend_forward
from scratch_vlm.ops.rotary import rotary_backward, rotary_forward


def self_attention_init(
    rng, width, *, heads, kv_heads=None, head_width=None, bias=True, out_std=None
):
    """Draw the parameters of `self_attention_forward`.

    Parameters
    ----------
    rng : numpy.random.Generator
        Where the weights come from.
    width : int
        D.
    heads : int
        A, heads of queries.
    kv_heads : int, optional
        G, heads of keys and values; divides `heads`. Default `heads`.
    head_width : int, optional
        K, channels of a head. Default D / A, which must be whole then.
    bias : bool, default True
        Whether the linear layers have biases.
    out_std : float, optional
        Standard deviation of the output weights; smaller in deep models.

    Returns
    -------
    p : dict
        ``qkv``, queries, keys and values in one matrix of shape (D, (A + 2 G) K), and ``out`` of
        shape (A K, D).

    Raises
    ------
    ValueError
        If the heads do not divide.
    """
    k, kv_heads = _head_width(width, heads, kv_heads, head_width)
    return {
        "qkv": linear_init(rng, width, (heads + 2 * kv_heads) * k, bias=bias),
        "out": linear_init(rng, heads * k, width, bias=bias, std=out_std),
    }


def self_attention_forward(
    x, p, *, heads, kv_heads=None, mask=None, rotary_base=None, positions=None, cache=None
):
    """Let every token read all tokens of its sequence.

    Parameters
    ----------
    x : array of shape (B, T, D)
        Tokens.
    p : dict
        ``qkv`` and ``out``, linear layers; their sizes say how wide a head is.
    heads : int
        A, heads of queries.
    kv_heads : int, optional
        G, heads of keys and values. Default `heads`.
    mask : boolean array broadcastable to (B, A, T, S), optional
        True where a token may attend; S is T, and with a cache all tokens so far.
    rotary_base : float, optional
        Turn queries and keys by their positions, see `rotary_forward`. Default not at all.
    positions : integer array of shape (T,) or of shape (B, T), optional
        Where the tokens stand, for `rotary_base`. Default one after another, behind the cache.
    cache : KVCache, optional
        Keys and values of the tokens before; gains those of `x`. For generation: nothing goes
        backward through it, so nothing else is kept.

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
    kv_heads = _check_tokens(x, p, "qkv", heads, kv_heads, parts=(1, 2))
    qkv, s["qkv"] = linear_forward(x, p["qkv"])  # (B, T, (A + 2 G) K)
    q, k, v = _split(qkv, (heads, kv_heads, kv_heads))  # (B, A, T, K), twice (B, G, T, K)
    if rotary_base is not None:
        if positions is None:
            past = 0 if cache is None else cache.length
            positions = namespace(x).arange(past, past + x.shape[1])
        q, s["rotary"] = rotary_forward(q, positions=positions, base=rotary_base)
        k, _ = rotary_forward(k, positions=positions, base=rotary_base)
    if cache is not None:
        k, v = cache.extend(k, v)  # (B, G, S, K)
    y, s["attend"] = _attend_into_tokens(q, k, v, mask)  # (B, T, D)
    y, s["out"] = linear_forward(y, p["out"])
    return y, s if cache is None else {"cached": True}


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

    Raises
    ------
    ValueError
        If the forward had a cache.

    Notes
    -----
    Queries, keys and values were three products with the same x; side by side in one matrix
    their three gradients add up within one product.
    """
    if "cached" in s:
        raise ValueError("nothing goes backward through a KV cache; run the forward without one")
    heads, kv_heads = s["attend"]["y"].shape[1], s["attend"]["k"].shape[1]
    dy = linear_backward(dy, s["out"], g["out"])
    (dy,) = _split(dy, (heads,))
    dq, dk, dv = attend_backward(dy, s["attend"])
    if "rotary" in s:  # one rotation for both: queries and keys stand at the same positions
        dq, dk = rotary_backward(dq, s["rotary"]), rotary_backward(dk, s["rotary"])
    return linear_backward(_join((dq, dk, dv), (heads, kv_heads, kv_heads)), s["qkv"], g["qkv"])


def cross_attention_init(
    rng,
    width,
    source_width,
    *,
    heads,
    kv_heads=None,
    head_width=None,
    bias=True,
    out_std=None,
    qk_norm=False,
):
    """Draw the parameters of `cross_attention_forward`.

    Parameters
    ----------
    rng : numpy.random.Generator
        Where the weights come from.
    width : int
        D of the tokens that ask.
    source_width : int
        Channels of the tokens that answer.
    heads : int
        A, heads of queries.
    kv_heads : int, optional
        G, heads of keys and values; divides `heads`. Default `heads`.
    head_width : int, optional
        K, channels of a head. Default D / A, which must be whole then.
    bias : bool, default True
        Whether the linear layers have biases.
    out_std : float, optional
        Standard deviation of the output weights; smaller in deep models.
    qk_norm : bool, default False
        Whether the queries and keys of each head are normalised.

    Returns
    -------
    p : dict
        ``q`` of shape (D, A K), ``kv``, keys and values in one matrix, and ``out`` of shape
        (A K, D); perhaps ``q_norm`` and ``k_norm``, RMS norms over K that all heads share.

    Raises
    ------
    ValueError
        If the heads do not divide.
    """
    k, kv_heads = _head_width(width, heads, kv_heads, head_width)
    p = {
        "q": linear_init(rng, width, heads * k, bias=bias),
        "kv": linear_init(rng, source_width, 2 * kv_heads * k, bias=bias),
        "out": linear_init(rng, heads * k, width, bias=bias, std=out_std),
    }
    if qk_norm:
        p |= {"q_norm": rms_norm_init(k), "k_norm": rms_norm_init(k)}
    return p


def cross_attention_forward(x, z, p, *, heads, kv_heads=None, mask=None, eps=1e-5, kept=None):
    """Let every token of one sequence read the tokens of another.

    Parameters
    ----------
    x : array of shape (B, T, D)
        Tokens that ask.
    z : array of shape (B, S, E)
        Tokens that answer. Not looked at where `kept` holds their keys and values; it may be
        None then.
    p : dict
        ``q``, ``kv`` and ``out``, linear layers, and for queries and keys that are normalised
        ``q_norm`` and ``k_norm``.
    heads : int
        A, heads of queries.
    kv_heads : int, optional
        G, heads of keys and values. Default `heads`.
    mask : boolean array broadcastable to (B, A, T, S), optional
        True where a token may attend; a token that may attend to nothing reads zeros.
    eps : float, default 1e-5
        Of the norms of queries and keys.
    kept : dict, optional
        Gains the keys and values of `z` if it is empty, and stands for them in the calls after.
        For generation: nothing goes backward through it, so nothing else is kept.

    Returns
    -------
    y : array of shape (B, T, D)
    saved : dict
        For `cross_attention_backward`; ``attention_weights(saved["attend"])`` shows who read whom.

    Raises
    ------
    ValueError
        If shapes do not fit.

    See Also
    --------
    cross_attention_backward : The gradient of this function.
    self_attention_forward : A sequence reads itself.

    Notes
    -----
    The tokens that answer are read as they are [1]_: without positions, unless they carry some.
    Queries and keys of one root mean square keep the scores from growing with the weights, as
    layer norms do in [2]_.

    References
    ----------
    .. [1] A. Vaswani et al., "Attention Is All You Need", 2017, arXiv:1706.03762, section 3.2.3.
    .. [2] M. Dehghani et al., "Scaling Vision Transformers to 22 Billion Parameters", 2023,
       arXiv:2302.05442, section 2 (query/key normalization).
    """
    s = {}
    kv_heads = _check_tokens(x, p, "kv", heads, kv_heads, parts=(0, 2))
    q, s["q"] = linear_forward(x, p["q"])
    (q,) = _split(q, (heads,))  # (B, A, T, K)
    if "q_norm" in p:
        q, s["q_norm"] = rms_norm_forward(q, p["q_norm"], eps=eps)
    if kept:
        k, v = kept["k"], kept["v"]
    else:
        _check_source(x, z)
        kv, s["kv"] = linear_forward(z, p["kv"])  # (B, S, 2 G K)
        k, v = _split(kv, (kv_heads, kv_heads))  # (B, G, S, K)
        if "q_norm" in p:
            k, s["k_norm"] = rms_norm_forward(k, p["k_norm"], eps=eps)
        if kept is not None:
            kept.update(k=k, v=v)
    y, s["attend"] = _attend_into_tokens(q, k, v, mask)  # (B, T, D)
    y, s["out"] = linear_forward(y, p["out"])
    return y, s if kept is None else {"kept": True}


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

    Raises
    ------
    ValueError
        If the forward kept the keys and values, or had them from before.
    """
    if "kept" in s:
        raise ValueError(
            "nothing goes backward through kept keys and values; run the forward without them"
        )
    heads, kv_heads = s["attend"]["y"].shape[1], s["attend"]["k"].shape[1]
    dy = linear_backward(dy, s["out"], g["out"])
    (dy,) = _split(dy, (heads,))
    dq, dk, dv = attend_backward(dy, s["attend"])
    if "q_norm" in s:
        dq = rms_norm_backward(dq, s["q_norm"], g["q_norm"])
        dk = rms_norm_backward(dk, s["k_norm"], g["k_norm"])
    dz = linear_backward(_join((dk, dv), (kv_heads, kv_heads)), s["kv"], g["kv"])
    dx = linear_backward(_join((dq,), (heads,)), s["q"], g["q"])
    return dx, dz


def _check_source(x, z):
    if z is None:
        raise ValueError("z may be None only where its keys and values were kept before")
    if z.ndim != 3 or len(z) != len(x):
        raise ValueError(f"z must be (B, S, E) with the B of x; got x {x.shape} and z {z.shape}")


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


def _head_width(width, heads, kv_heads, head_width):
    # K, and G with its default filled in
    if head_width is not None:
        check_counts(head_width=head_width)
        return head_width, _check_heads(heads * head_width, heads, kv_heads)
    kv_heads = _check_heads(width, heads, kv_heads)
    return width // heads, kv_heads


def _check_heads(width, heads, kv_heads):
    kv_heads = heads if kv_heads is None else kv_heads
    check_counts(heads=heads, kv_heads=kv_heads)
    if width % heads or heads % kv_heads:
        raise ValueError(
            f"width {width} must be a multiple of heads {heads}, "
            f"and heads a multiple of kv_heads {kv_heads}"
        )
    return kv_heads


def _check_tokens(x, p, name, heads, kv_heads, *, parts):
    # parts: how often the linear layer of that name makes heads of queries, and of keys or values
    if x.ndim != 3:
        raise ValueError(f"tokens must be (B, T, D), got {x.shape}")
    joined, columns = len(p["out"]["w"]), p[name]["w"].shape[1]  # A K of the heads side by side
    kv_heads = _check_heads(joined, heads, kv_heads)
    wanted = (parts[0] * heads + parts[1] * kv_heads) * (joined // heads)
    if columns != wanted:
        raise ValueError(
            f"{heads} heads of queries and {kv_heads} of keys and values, {joined // heads} "
            f"channels wide, need a matrix of {wanted} columns, but {name} has "
            f"{p[name]['w'].shape}"
        )
    return kv_heads
