"""Multi-head attention: a sequence that reads itself, and one that reads another.

One head (``heads=1``) is the plain attention of a first lesson; several let a token ask several
questions at once; fewer heads of keys and values than of queries make grouped-query attention.
"""

from scratch_vlm.backend import as_factor, namespace, room_back, room_between
from scratch_vlm.layers.counts import check_counts
from scratch_vlm.layers.linear import has_bias, linear_backward, linear_forward, linear_init
from scratch_vlm.layers.norm import NORMS
from scratch_vlm.ops.attend import attend_backward, attend_forward
from scratch_vlm.ops.rotary import rotary_backward, rotary_forward
from scratch_vlm.recompute import for_backward


def self_attention_init(
    rng,
    width,
    *,
    heads,
    kv_heads=None,
    head_width=None,
    value_width=None,
    bias=True,
    out_std=None,
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
    value_width : int, optional
        J, channels of a head's values. Default K.
    bias : bool or tuple of str, default True
        Whether the linear layers have biases, or the names of those that have.
    out_std : float, optional
        Standard deviation of the output weights; smaller in deep models.

    Returns
    -------
    p : dict
        ``qkv``, queries, keys and values in one matrix of shape (D, (A + G) K + G J), and ``out``
        of shape (A J, D).

    Raises
    ------
    ValueError
        If the heads do not divide.
    """
    k, kv_heads = _head_width(width, heads, kv_heads, head_width)
    j = k if value_width is None else value_width
    check_counts(value_width=j)
    qkv = (heads + kv_heads) * k + kv_heads * j
    return {
        "qkv": linear_init(rng, width, qkv, bias=has_bias(bias, "qkv")),
        "out": linear_init(rng, heads * j, width, bias=has_bias(bias, "out"), std=out_std),
    }


def self_attention_forward(
    x,
    p,
    *,
    heads,
    kv_heads=None,
    mask=None,
    rotary_base=None,
    rotary_scaling=None,
    positions=None,
    cache=None,
    scale=None,
    blind="zero",
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
    rotary_scaling : RotaryScaling, optional
        How the rotation was slowed for longer texts. Default not at all.
    positions : integer array of shape (T,) or of shape (B, T), optional
        Where the tokens stand, for `rotary_base`. Default one after another, behind the cache.
    cache : KVCache, optional
        Keys and values of the tokens before; gains those of `x`. For generation: nothing goes
        backward through it, so nothing else is kept.
    scale, blind
        As in `attend_forward`.

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
    kv_heads, k, j = _check_tokens(x, p, heads, kv_heads)
    plain = rotary_base is None and cache is None
    qkv, s["qkv"] = _project(x, p["qkv"], for_products=plain)  # (B, T, (A + G) K + G J)
    s["heads"] = ((heads, k), (kv_heads, k), (kv_heads, j))
    q, k, v = _split(qkv, s["heads"])  # each (B, heads, T, width)
    if rotary_base is not None:
        if positions is None:
            past = 0 if cache is None else cache.length
            positions = namespace(x).arange(past, past + x.shape[1])
        turn = {"positions": positions, "base": rotary_base, "scaling": rotary_scaling}
        q, s["rotary"] = rotary_forward(q, **turn)
        k, _ = rotary_forward(k, **turn)
    if cache is not None:
        k, v = cache.extend(k, v)  # (B, G, S, K)
    y, s["attend"] = _attend_into_tokens(q, k, v, mask, scale, blind)  # (B, T, A J)
    y, s["out"] = linear_forward(y, p["out"])  # (B, T, D)
    return y, for_backward(s, cache=cache)


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
    dy = _project_back(dy, s, g)  # (B, A, T, J)
    dqkv, out = _room(dy.shape[2], s["heads"], s["attend"])
    dq, dk, _ = attend_backward(dy, s["attend"], out=out)
    if "rotary" in s:  # one rotation for both: queries and keys stand at the same positions
        dq[...], dk[...] = rotary_backward(dq, s["rotary"]), rotary_backward(dk, s["rotary"])
    return linear_backward(dqkv, s["qkv"], g["qkv"])


def cross_attention_init(
    rng,
    width,
    source_width,
    *,
    heads,
    kv_heads=None,
    head_width=None,
    value_width=None,
    bias=True,
    out_std=None,
    qk_norm=None,
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
    value_width : int, optional
        J, channels of a head's values. Default K.
    bias : bool or tuple of str, default True
        Whether the linear layers have biases, or the names of those that have.
    out_std : float, optional
        Standard deviation of the output weights; smaller in deep models.
    qk_norm : {"rms", "layer"}, optional
        How the queries and keys of each head are normalised. Default not at all.

    Returns
    -------
    p : dict
        ``q`` of shape (D, A K), ``kv``, keys and values in one matrix, and ``out`` of shape
        (A J, D); perhaps ``q_norm`` and ``k_norm``, norms over K that all heads share.

    Raises
    ------
    ValueError
        If the heads do not divide.
    """
    k, kv_heads = _head_width(width, heads, kv_heads, head_width)
    j = k if value_width is None else value_width
    check_counts(value_width=j)
    p = {
        "q": linear_init(rng, width, heads * k, bias=has_bias(bias, "q")),
        "kv": linear_init(rng, source_width, kv_heads * (k + j), bias=has_bias(bias, "kv")),
        "out": linear_init(rng, heads * j, width, bias=has_bias(bias, "out"), std=out_std),
    }
    if qk_norm is not None:
        p |= {"q_norm": NORMS[qk_norm][0](k), "k_norm": NORMS[qk_norm][0](k)}
    return p


def cross_attention_forward(
    x, z, p, *, heads, kv_heads=None, mask=None, eps=1e-5, kept=None, blind="zero"
):
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
        ``q_norm`` and ``k_norm``: layer norms if they have a ``beta``, else RMS norms.
    heads : int
        A, heads of queries.
    kv_heads : int, optional
        G, heads of keys and values. Default `heads`.
    mask : boolean array broadcastable to (B, A, T, S), optional
        True where a token may attend.
    eps : float, default 1e-5
        Of the norms of queries and keys.
    kept : dict, optional
        Gains the keys and values of `z` if it is empty, and stands for them in the calls after.
        For generation: nothing goes backward through it, so nothing else is kept.
    blind : {"zero", "mean"}
        What a token reads that may attend to nothing, see `attend_forward`.

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
    kv_heads, k, j = _check_tokens(x, p, heads, kv_heads)
    plain = "q_norm" not in p and kept is None
    q, s["q"] = _project(x, p["q"], for_products=plain)
    s["heads"] = ((heads, k), (kv_heads, k), (kv_heads, j))
    (q,) = _split(q, s["heads"][:1])  # (B, A, T, K)
    if "q_norm" in p:
        s["norm"] = "layer" if "beta" in p["q_norm"] else "rms"
        q, s["q_norm"] = NORMS[s["norm"]][1](q, p["q_norm"], eps=eps)
    if kept:
        k, v = kept["k"], kept["v"]
    else:
        _check_source(x, z)
        kv, s["kv"] = _project(z, p["kv"], for_products=plain)  # (B, S, G (K + J))
        k, v = _split(kv, s["heads"][1:])  # (B, G, S, K) and (B, G, S, J)
        if "q_norm" in p:
            k, s["k_norm"] = NORMS[s["norm"]][1](k, p["k_norm"], eps=eps)
        if kept is not None:
            kept.update(k=k, v=v)
    y, s["attend"] = _attend_into_tokens(q, k, v, mask, None, blind)  # (B, T, A J)
    y, s["out"] = linear_forward(y, p["out"])  # (B, T, D)
    return y, for_backward(s, cache=kept)


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
    dy = _project_back(dy, s, g)  # (B, A, T, J)
    asks, *answers = s["heads"]
    dq_tokens, queries = _room(dy.shape[2], [asks], s["attend"])
    dkv_tokens, keys = _room(s["attend"]["k"].shape[-2], answers, s["attend"])
    dq, dk, _ = attend_backward(dy, s["attend"], out=(*queries, *keys))
    if "norm" in s:
        norm = NORMS[s["norm"]][2]
        dq[...] = norm(dq, s["q_norm"], g["q_norm"])
        dk[...] = norm(dk, s["k_norm"], g["k_norm"])
    dz = linear_backward(dkv_tokens, s["kv"], g["kv"])
    dx = linear_backward(dq_tokens, s["q"], g["q"])
    return dx, dz


def _check_source(x, z):
    if z is None:
        raise ValueError("z may be None only where its keys and values were kept before")
    if z.ndim != 3 or len(z) != len(x):
        raise ValueError(f"z must be (B, S, E) with the B of x; got x {x.shape} and z {z.shape}")


def _project(x, p, *, for_products):
    # A linear layer; attention's products may be all that reads what comes out.
    if not for_products:
        return linear_forward(x, p)
    room = None if "lora" in p else room_between(x, p["w"].shape[1], attend_forward)
    y, saved = linear_forward(x, p, out=room)
    return as_factor(y), saved


def _project_back(dy, s, g):
    # dL/dy of attention, from dL/dy of the linear layer behind it
    b, a, t, j = s["attend"]["y"].shape
    room = None if s["out"][-1] is not None else room_back(s["attend"], (b, t, a * j))
    (dy,) = _split(linear_backward(dy, s["out"], g["out"], out=room), ((a, j),))
    return dy


def _attend_into_tokens(q, k, v, mask, scale, blind):
    # The heads write their outputs side by side into tokens, so that nothing is transposed after.
    xp, (b, a, t, _) = namespace(q), q.shape
    y = xp.empty((b, t, a, v.shape[-1]), q.dtype)
    _, saved = attend_forward(q, k, v, mask=mask, scale=scale, blind=blind, out=y.swapaxes(1, 2))
    return y.reshape(b, t, a * v.shape[-1]), saved


def _split(x, heads):
    # (B, T, sum of count * width) -> a view (B, count, T, width) for each pair in heads
    b, t, _ = x.shape
    views, start = [], 0
    for count, width in heads:
        end = start + count * width
        views.append(x[:, :, start:end].reshape(b, t, count, width).swapaxes(1, 2))
        start = end
    return views


def _room(tokens, heads, attended):
    # Tokens for the gradients of an attention, and views of them as `_split` gives them: a result
    # that is written there needs no transposition after.
    y = attended["y"]
    columns = sum(count * width for count, width in heads)
    x = namespace(y).empty((len(y), tokens, columns), y.dtype)
    return x, _split(x, heads)


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


def _check_tokens(x, p, heads, kv_heads):
    # G, and K and J, channels of a head of queries or keys and of one of values, which the sizes
    # of the parameters say
    if x.ndim != 3:
        raise ValueError(f"tokens must be (B, T, D), got {x.shape}")
    joined = len(p["out"]["w"])  # A J of the heads side by side
    kv_heads = _check_heads(joined, heads, kv_heads)
    j = joined // heads
    name = "qkv" if "qkv" in p else "kv"
    columns = p[name]["w"].shape[1]
    sharers = kv_heads + heads if name == "qkv" else kv_heads  # heads as wide as a key
    k = (columns - kv_heads * j) // sharers
    fits = k > 0 and columns == sharers * k + kv_heads * j
    if not fits or (name == "kv" and p["q"]["w"].shape[1] != heads * k):
        raise ValueError(
            f"{heads} heads of queries and {kv_heads} of keys and values, those {j} channels wide, "
            f"do not make up the columns of {name}, {p[name]['w'].shape}"
            + (f", and of q, {p['q']['w'].shape}" if name == "kv" else "")
        )
    return kv_heads, k, j
