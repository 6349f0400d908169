"""A decoder-only language model, in the style of GPT or of Llama, from the same parts.

It comes in three pairs that fit together: ids become tokens (`embedding_forward`), tokens read
each other (`lm_trunk_forward`), tokens become scores (`lm_head_forward`). A vision language model
takes the trunk and puts tokens of its own between those of the text.
"""

from dataclasses import dataclass

from scratch_vlm.backend import namespace
from scratch_vlm.layers.block import (
    BlockConfig,
    check_blocks,
    tower_backward,
    tower_forward,
    tower_init,
)
from scratch_vlm.layers.cache import KVCache
from scratch_vlm.layers.counts import check_counts
from scratch_vlm.layers.embedding import (
    embedding_backward,
    embedding_forward,
    embedding_init,
    positions_backward,
    positions_forward,
)
from scratch_vlm.layers.linear import linear_backward, linear_forward, linear_init
from scratch_vlm.layers.norm import NORMS
from scratch_vlm.ops.dropout import dropout_backward, dropout_forward
from scratch_vlm.ops.losses import IGNORE, cross_entropy_backward, cross_entropy_forward
from scratch_vlm.ops.masks import causal_mask
from scratch_vlm.tree import tree_map

STD = 0.02  # of the head, as in GPT-2: at the start every token is about as likely


@dataclass(frozen=True)
class LMConfig:
    """A language model.

    Attributes
    ----------
    vocabulary : int
        V, token ids.
    context : int
        Longest sequence in tokens.
    block : BlockConfig
        The kind of block; with its `rotary_base` it says how positions are told.
    depth : int
        L, blocks.
    tied : bool
        Whether the head is the embedding read the other way, instead of a matrix of its own.
    token_std, position_std : float
        Standard deviations that embeddings and learned positions start with. GPT-2's 0.02 suits
        a tied head; tokens that stand beside visual ones should be about as large as those.

    Examples
    --------
    >>> LMConfig.gpt(50257, 1024, width=768, heads=12, depth=12).positions
    'learned'
    >>> LMConfig.llama(32000, 2048, width=64, heads=4, kv_heads=2, depth=2).block.hidden
    176
    """

    vocabulary: int
    context: int
    block: BlockConfig
    depth: int
    tied: bool = True
    token_std: float = STD
    position_std: float = STD

    def __post_init__(self):
        check_counts(vocabulary=self.vocabulary, context=self.context, depth=self.depth)
        if not (self.token_std >= 0 and self.position_std >= 0):
            raise ValueError(
                f"token_std and position_std must be at least 0, got {self.token_std} and "
                f"{self.position_std}"
            )

    @property
    def positions(self):
        """``"rotary"`` if the blocks turn queries and keys, else ``"learned"``."""
        return "learned" if self.block.rotary_base is None else "rotary"

    @classmethod
    def gpt(cls, vocabulary, context, *, width, heads, depth, tied=True, dropout=0.0):
        """Configure a model like GPT-2 [1]_: learned positions, LayerNorm, GELU, tied head.

        Parameters
        ----------
        vocabulary, context, width, heads, depth : int
            V, longest sequence, D, A and L; the MLP is four times as wide as a token.
        tied : bool, default True
            Whether embedding and head share their matrix.
        dropout : float, default 0.0
            Rate.

        Returns
        -------
        LMConfig

        References
        ----------
        .. [1] A. Radford et al., "Language Models are Unsupervised Multitask Learners", 2019,
           section 2.3; openai/gpt-2, src/model.py.
        """
        block = BlockConfig(width, heads, 4 * width, mlp="gelu_tanh", dropout=dropout)
        return cls(vocabulary, context, block, depth, tied)

    @classmethod
    def llama(
        cls,
        vocabulary,
        context,
        *,
        width,
        heads,
        depth,
        kv_heads=None,
        tied=False,
        rotary_base=10_000.0,
        dropout=0.0,
    ):
        """Configure a model like Llama [1]_: rotary positions, RMSNorm, SwiGLU, no biases.

        Parameters
        ----------
        vocabulary, context, width, heads, depth : int
            V, longest sequence, D, A and L. The MLP is 8/3 as wide as a token, rounded up to a
            multiple of 16, so that its three matrices cost what two of four times would.
        kv_heads : int, optional
            G, heads of keys and values, fewer than A in Llama 2 70B and later.
        tied : bool, default False
            Whether embedding and head share their matrix.
        rotary_base : float, default 10000.0
            500000 from Llama 3 on.
        dropout : float, default 0.0
            Rate.

        Returns
        -------
        LMConfig

        References
        ----------
        .. [1] H. Touvron et al., "LLaMA: Open and Efficient Foundation Language Models", 2023,
           arXiv:2302.13971, section 2.2.
        """
        block = BlockConfig(
            width,
            heads,
            -(-8 * width // 48) * 16,
            kv_heads=kv_heads,
            norm="rms",
            mlp="swiglu",
            bias=False,
            dropout=dropout,
            rotary_base=rotary_base,
        )
        return cls(vocabulary, context, block, depth, tied)


def lm_init(rng, config):
    """Draw the parameters of a language model.

    Parameters
    ----------
    rng : numpy.random.Generator
        Where the weights come from.
    config : LMConfig
        The model.

    Returns
    -------
    p : dict
        ``tokens``, perhaps ``positions``, ``blocks``, ``ln`` and, unless it is tied, ``head``.
    """
    width = config.block.width
    p = {"tokens": embedding_init(rng, config.vocabulary, width, std=config.token_std)}
    if config.positions == "learned":
        p["positions"] = embedding_init(rng, config.context, width, std=config.position_std)
    p["blocks"] = tower_init(rng, config.block, depth=config.depth)
    p["ln"] = NORMS[config.block.norm][0](width)
    if not config.tied:
        p["head"] = linear_init(rng, width, config.vocabulary, bias=False, std=STD)
    return p


def lm_forward(ids, p, *, config, real=None, rng=None):
    """Score every token that may come next, after each token of a text.

    Parameters
    ----------
    ids : integer array of shape (B, T)
        Token ids.
    p : dict
        As `lm_init` makes it.
    config : LMConfig
        The model.
    real : boolean array of shape (B, T), optional
        False where a token is padding, on either side: nobody reads it, and it takes no
        position. Default all are real.
    rng : numpy.random.Generator, optional
        Draws the dropout; None for none.

    Returns
    -------
    logits : array of shape (B, T, V)
        At place t the scores of the token at t + 1. Those of padding mean nothing.
    saved : dict
        For `lm_backward`.

    Raises
    ------
    TypeError
        If the ids are not integers.
    ValueError
        If a text is longer than the context or holds an id outside the vocabulary.

    See Also
    --------
    lm_backward : The gradient of this function.
    lm_loss_forward : How well the next tokens are foretold.
    """
    s = {}
    check_model(p, config)
    check_texts(ids, real)
    mask = positions = None
    if real is not None:
        mask, positions = reading_order(namespace(p["tokens"]["w"]).asarray(real))
    x, s["tokens"] = embedding_forward(ids, p["tokens"])  # (B, T, D)
    x, s["trunk"] = lm_trunk_forward(x, p, config=config, mask=mask, positions=positions, rng=rng)
    x, s["head"] = lm_head_forward(x, p)  # (B, T, V)
    return x, s


def lm_backward(dlogits, s, g):
    """Gradient of `lm_forward`; there is none with respect to the ids.

    Parameters
    ----------
    dlogits : array of shape (B, T, V)
        dL/dlogits.
    s : dict
        As `lm_forward` saved it.
    g : dict
        Gains the gradients of the parameters; empty if they are frozen. The matrix of a tied
        head gains twice, as head and as embedding.
    """
    dx = lm_head_backward(dlogits, s["head"], g)
    dx = lm_trunk_backward(dx, s["trunk"], g)
    embedding_backward(dx, s["tokens"], g["tokens"])


def lm_trunk_forward(x, p, *, config, mask=None, positions=None, cache=None, rng=None):
    """Let tokens read those before them: the model without its embedding and its head.

    Parameters
    ----------
    x : array of shape (B, T, D)
        Tokens, from the embedding or from a vision tower.
    p : dict
        As `lm_init` makes it; ``positions`` (if learned), ``blocks`` and ``ln`` are read.
    config : LMConfig
        The model.
    mask : boolean array broadcastable to (B, A, T, S), optional
        True where a token may attend; S is T, and with a cache all tokens so far. Default the
        causal mask. `reading_order` makes one for padded rows.
    positions : integer array of shape (B, T), optional
        Where each token stands. Default one after another, behind the cache.
    cache : dict of str to KVCache, optional
        As `lm_cache` makes it; gains the keys and values of `x`. For generation: nothing goes
        backward through it.
    rng : numpy.random.Generator, optional
        Draws the dropout; None for none.

    Returns
    -------
    y : array of shape (B, T, D)
        Normalised tokens, for the head.
    saved : dict
        For `lm_trunk_backward`.

    Raises
    ------
    ValueError
        If there are more tokens than the context has places, or shapes do not fit.

    See Also
    --------
    lm_trunk_backward : The gradient of this function.
    """
    s = {"config": config}
    check_blocks(p, config.depth)
    mask, positions = trunk_order(x, config, mask=mask, positions=positions, cache=cache)
    x, s["start"] = lm_start_forward(x, p, config=config, positions=positions, rng=rng)
    x, s["blocks"] = tower_forward(
        x,
        p["blocks"],
        config=config.block,
        mask=mask,
        rng=rng,
        positions=positions,
        cache=cache,
    )
    x, s["ln"] = NORMS[config.block.norm][1](x, p["ln"], eps=config.block.eps)
    return x, s


def lm_trunk_backward(dy, s, g):
    """Gradient of `lm_trunk_forward`.

    Parameters
    ----------
    dy : array of shape (B, T, D)
        dL/dy.
    s : dict
        As `lm_trunk_forward` saved it.
    g : dict
        Gains the gradients of the parameters; empty if they are frozen.

    Returns
    -------
    dx : array of shape (B, T, D)
    """
    dx = NORMS[s["config"].block.norm][2](dy, s["ln"], g["ln"])
    dx = tower_backward(dx, s["blocks"], g["blocks"])
    return lm_start_backward(dx, s["start"], g)


def lm_start_forward(x, p, *, config, positions=None, rng=None):
    """Make tokens ready for the first block: learned positions, if there are any, and dropout.

    Parameters
    ----------
    x : array of shape (B, T, D)
        Tokens.
    p : dict
        As `lm_init` makes it; ``positions`` (if learned) is read.
    config : LMConfig
        The model.
    positions : integer array of shape (B, T), optional
        Where each token stands. Default one after another.
    rng : numpy.random.Generator, optional
        Draws the dropout; None for none.

    Returns
    -------
    y : array of shape (B, T, D)
    saved : dict
        For `lm_start_backward`.

    See Also
    --------
    lm_start_backward : The gradient of this function.
    trunk_order : The default of the positions behind a cache.
    """
    s = {}
    if config.positions == "learned":
        x, s["positions"] = positions_forward(x, p["positions"], places=positions)
    x, s["dropout"] = dropout_forward(x, rate=config.block.dropout, rng=rng)
    return x, s


def lm_start_backward(dy, s, g):
    """Gradient of `lm_start_forward`.

    Parameters
    ----------
    dy : array of shape (B, T, D)
        dL/dy.
    s : dict
        As `lm_start_forward` saved it.
    g : dict
        Gains the gradients of the parameters; empty if they are frozen.

    Returns
    -------
    dx : array of shape (B, T, D)
    """
    dx = dropout_backward(dy, s["dropout"])
    if "positions" in s:
        dx = positions_backward(dx, s["positions"], g["positions"])
    return dx


def trunk_order(x, config, *, mask=None, positions=None, cache=None):
    """Fill in who may read whom and who stands where, and refuse what does not fit.

    Parameters
    ----------
    x : array of shape (B, T, D)
        Tokens that the trunk is about to read.
    config : LMConfig
        The model.
    mask : boolean array broadcastable to (B, A, T, S), optional
        True where a token may attend. Default the causal mask.
    positions : integer array of shape (B, T), optional
        Where each token stands. Default one after another, behind the cache.
    cache : dict of str to KVCache, optional
        Of the tokens before.

    Returns
    -------
    mask : boolean array or None
        None where one token may read all.
    positions : integer array of shape (B, T) or None
        None for 0, 1, 2...

    Raises
    ------
    ValueError
        If there are more tokens than the context has places, or they are no tokens.
    """
    if x.ndim != 3:
        raise ValueError(f"tokens must be (B, T, D), got {x.shape}")
    xp, tokens = namespace(x), x.shape[1]
    past = 0 if cache is None else cache["0"].length
    if past + tokens > config.context:
        raise ValueError(f"{past + tokens} tokens do not fit the context of {config.context}")
    if mask is None and tokens > 1:  # the newest token alone may read all
        mask = causal_mask(tokens, xp, past=past)
    if positions is None and past and config.positions == "learned":
        positions = xp.broadcast_to(xp.arange(past, past + tokens), x.shape[:2])
    return mask, positions


def lm_head_forward(x, p):
    """Score every token of the vocabulary.

    Parameters
    ----------
    x : array of shape (B, T, D)
        As `lm_trunk_forward` returns it.
    p : dict
        With ``head`` a linear layer; without it, the head is tied to ``tokens``: the score of a
        token is the product with its own vector [1]_.

    Returns
    -------
    logits : array of shape (B, T, V)
    saved : tuple
        For `lm_head_backward`.

    See Also
    --------
    lm_head_backward : The gradient of this function.

    References
    ----------
    .. [1] O. Press and L. Wolf, "Using the Output Embedding to Improve Language Models", 2017,
       arXiv:1608.05859.
    """
    tied = "head" not in p
    logits, linear = linear_forward(x, _transposed(p["tokens"]) if tied else p["head"])
    return logits, (tied, linear)


def lm_head_backward(dlogits, saved, g):
    """Gradient of `lm_head_forward`.

    Parameters
    ----------
    dlogits : array of shape (B, T, V)
        dL/dlogits.
    saved : tuple
        As `lm_head_forward` saved it.
    g : dict
        Gains the gradients of the parameters; empty if they are frozen.

    Returns
    -------
    dx : array of shape (B, T, D)
    """
    tied, linear = saved
    return linear_backward(dlogits, linear, _transposed(g["tokens"]) if tied else g["head"])


def lm_loss_forward(ids, labels, p, *, config, real=None, rng=None):
    """Measure how well a language model foretells texts: the objective of its training.

    Parameters
    ----------
    ids : integer array of shape (B, T)
        Token ids.
    labels : integer array of shape (B, T)
        `ids` again, with -100 in place of those that are not to be learned; see
        `next_token_forward`.
    p : dict
        As `lm_init` makes it.
    config : LMConfig
        The model.
    real : boolean array of shape (B, T), optional
        False where a token is padding. Not needed for padding at the end whose labels are -100:
        nothing before it can see it.
    rng : numpy.random.Generator, optional
        Draws the dropout; None for none.

    Returns
    -------
    loss : array of shape ()
        In nats a token.
    saved : tuple
        For `lm_loss_backward`.

    See Also
    --------
    lm_loss_backward : The gradient of this function.
    """
    logits, s_lm = lm_forward(ids, p, config=config, real=real, rng=rng)
    loss, s_loss = next_token_forward(logits, labels, overwrite=True)
    return loss, (s_lm, s_loss)


def lm_loss_backward(dloss, saved, g):
    """Gradient of `lm_loss_forward`; there is none with respect to the ids.

    Parameters
    ----------
    dloss : float or array of shape ()
        dL/dloss, usually 1.
    saved : tuple
        As `lm_loss_forward` saved it.
    g : dict
        Gains the gradients of the parameters; empty if they are frozen.
    """
    s_lm, s_loss = saved
    lm_backward(next_token_backward(dloss, s_loss), s_lm, g)


def next_token_forward(logits, labels, *, overwrite=False):
    """Mean negative log-probability of the token that comes next.

    Parameters
    ----------
    logits : array of shape (B, T, V)
        As `lm_forward` returns them.
    labels : integer array of shape (B, T)
        The token that stands *at* each place, not the one after: what is shifted is shifted
        here. -100 where it is not to be learned, as for questions, images and padding.
    overwrite : bool, default False
        Whether the memory of the logits may be used for what is saved: nobody reads them again.

    Returns
    -------
    loss : array of shape ()
        In nats, over all labels but those of -100 and of the first place, which nothing
        foretells. Zero if none is left.
    saved : tuple
        For `next_token_backward`.

    Raises
    ------
    TypeError
        If the labels are not integers.
    ValueError
        If shapes do not fit or a label is outside the vocabulary.

    See Also
    --------
    next_token_backward : The gradient of this function.
    """
    xp = namespace(labels)
    if labels.shape != logits.shape[:-1] or labels.ndim != 2:
        raise ValueError(
            f"labels must be (B, T) and logits (B, T, V); got {labels.shape} and {logits.shape}"
        )
    unsigned = labels.dtype.kind == "u"  # as files of tokens are, and IGNORE is negative
    targets = xp.full_like(labels, IGNORE, dtype="int64" if unsigned else None)
    targets[:, :-1] = labels[:, 1:]
    return cross_entropy_forward(logits, targets, overwrite=overwrite)


def next_token_backward(dloss, saved):
    """Gradient of `next_token_forward`.

    Parameters
    ----------
    dloss : float or array of shape ()
        dL/dloss, usually 1.
    saved : tuple
        As `next_token_forward` saved it.

    Returns
    -------
    dlogits : array of shape (B, T, V)
        Zero where nothing was to be learned.
    """
    return cross_entropy_backward(dloss, saved)


def reading_order(real, *, past=0):
    """Say who may read whom, and who stands where, in rows that are padded on either side.

    Parameters
    ----------
    real : boolean array of shape (B, S)
        False where a token is padding.
    past : int, default 0
        Tokens that were read before, the first of the S.

    Returns
    -------
    mask : boolean array of shape (B, 1, T, S)
        True where a token may attend: to real tokens, up to itself. T is S - `past`.
    positions : integer array of shape (B, T)
        Real tokens count from 0; padding has the position of its neighbour, which nobody sees.

    Raises
    ------
    TypeError
        If `real` is not boolean.
    ValueError
        If it is not of two axes, or shorter than `past`.

    Examples
    --------
    >>> import numpy as np
    >>> mask, positions = reading_order(np.array([[False, True, True]]))
    >>> mask[0, 0].astype(int)
    array([[0, 0, 0],
           [0, 1, 0],
           [0, 1, 1]])
    >>> positions
    array([[0, 0, 1]])
    """
    xp = namespace(real)
    if real.dtype != bool:
        raise TypeError(f"real must be boolean, True for a token; got dtype {real.dtype}")
    if real.ndim != 2 or not 0 <= past <= real.shape[1]:
        raise ValueError(f"real must be (B, S) with S at least past = {past}, got {real.shape}")
    mask = real[:, None, None] & causal_mask(real.shape[1] - past, xp, past=past)
    positions = xp.maximum(real.cumsum(1) - 1, 0)[:, past:]
    return mask, positions


def turn_order(turns):
    """Say who may read whom, and who stands where, in rows of several turns that stand apart.

    So that many questions about one image cost one look at it, and none gives away the answer of
    another: every token reads what belongs to all turns and its own turn, up to itself.

    Parameters
    ----------
    turns : integer array of shape (B, T)
        The turn that each token belongs to, counted from 1; 0 for what belongs to all.

    Returns
    -------
    mask : boolean array of shape (B, 1, T, T)
        True where a token may attend.
    positions : integer array of shape (B, T)
        As many as the tokens before it that a token reads: each turn begins where the part that
        belongs to all ends, as if it were the only one.

    Raises
    ------
    TypeError
        If the turns are not integers.
    ValueError
        If they are not of two axes.

    Examples
    --------
    >>> import numpy as np
    >>> mask, positions = turn_order(np.array([[0, 1, 1, 2]]))
    >>> mask[0, 0].astype(int)
    array([[1, 0, 0, 0],
           [1, 1, 0, 0],
           [1, 1, 1, 0],
           [1, 0, 0, 1]])
    >>> positions
    array([[0, 1, 2, 1]])
    """
    xp = namespace(turns)
    if turns.dtype.kind not in "iu":
        raise TypeError(f"turns must be integers, got dtype {turns.dtype}")
    if turns.ndim != 2:
        raise ValueError(f"turns must be (B, T), got {turns.shape}")
    own = turns[:, None, :, None] == turns[:, None, None]
    mask = (own | (turns == 0)[:, None, None]) & causal_mask(turns.shape[1], xp)
    return mask, mask[:, 0].sum(2) - 1


def lm_cache(p, config, batch, length=None):
    """Reserve the KV cache of a language model.

    Parameters
    ----------
    p : dict
        As `lm_init` makes it; the cache is beside it and of its dtype.
    config : LMConfig
        The model.
    batch : int
        B.
    length : int, optional
        Tokens that fit; default the whole context.

    Returns
    -------
    dict of str to KVCache
        One for each block.

    Raises
    ------
    ValueError
        If `length` is more than the context.
    """
    length = config.context if length is None else length
    if length > config.context:
        raise ValueError(f"a cache of {length} tokens is more than the context {config.context}")
    check_model(p, config)
    heads = config.block.heads
    kv_heads = heads if config.block.kv_heads is None else config.block.kv_heads
    caches = {}
    for name, block in p["blocks"].items():
        w = block["attn"]["out"]["w"]  # (A K, D)
        caches[name] = KVCache(batch, kv_heads, length, len(w) // heads, w.dtype, namespace(w))
    return caches


def check_model(p, config):
    """Refuse parameters that were drawn for another config.

    Parameters
    ----------
    p : dict
        As `lm_init` makes it.
    config : LMConfig
        The model.

    Raises
    ------
    ValueError
        If depth, vocabulary, positions or head differ.
    """
    check_blocks(p, config.depth)
    shape, wanted = p["tokens"]["w"].shape, (config.vocabulary, config.block.width)
    if shape != wanted:
        raise ValueError(f"the config asks for token vectors {wanted}; the parameters hold {shape}")
    for part, needed in (("positions", config.positions == "learned"), ("head", not config.tied)):
        if (part in p) != needed:
            raise ValueError(
                f"the config asks for positions {config.positions!r} and tied={config.tied}; "
                f"the parameters have {'a' if part in p else 'no'} branch {part!r}"
            )


def check_texts(ids, real=None, turns=None):
    """Refuse what is not a batch of texts.

    Parameters
    ----------
    ids : integer array of shape (B, T)
        Token ids.
    real : boolean array of shape (B, T), optional
        False where a token is padding.
    turns : integer array of shape (B, T), optional
        The turn that each token belongs to, see `turn_order`.

    Raises
    ------
    TypeError
        If one of them is a list.
    ValueError
        If the shapes do not fit, the texts have no tokens, or both `real` and `turns` are given.
    """
    namespace(ids)  # refuses a list
    if ids.ndim != 2 or not ids.shape[1]:
        raise ValueError(f"ids must be (B, T) with T at least 1, got {ids.shape}")
    for name, array in (("real", real), ("turns", turns)):
        if array is None:
            continue
        namespace(array)
        if array.shape != ids.shape:
            raise ValueError(f"{name} {array.shape} must have the shape of ids, {ids.shape}")
    if real is not None and turns is not None:
        raise ValueError("give real or turns: rows of turns are padded at the end, unseen")


def _transposed(tokens):  # the embedding as a linear layer; a frozen one stays frozen
    return tree_map(lambda w: w.T, tokens)
