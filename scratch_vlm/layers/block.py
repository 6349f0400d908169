"""The transformer block, with its norms before the sublayers or after them, and a tower of them."""

import math
from dataclasses import dataclass, replace

from scratch_vlm.backend import factor_room
from scratch_vlm.layers.attention import (
    self_attention_backward,
    self_attention_forward,
    self_attention_init,
)
from scratch_vlm.layers.config import check_keys, check_type
from scratch_vlm.layers.counts import check_counts
from scratch_vlm.layers.mlp import feed
from scratch_vlm.layers.norm import NORMS, add_norm
from scratch_vlm.ops.attend import BLIND
from scratch_vlm.ops.dropout import dropout_backward, dropout_forward
from scratch_vlm.ops.rotary import RotaryScaling
from scratch_vlm.recompute import for_backward

BIASES = ("qkv", "q", "kv", "out", "fc", "proj")  # linear layers of a block that may have one


@dataclass(frozen=True)
class BlockConfig:
    """What kind of block a tower is made of.

    Attributes
    ----------
    width : int
        D, channels of a token.
    heads : int
        A, heads of queries; divides `width`, unless `head_width` is given.
    hidden : int
        M, channels inside the MLP.
    kv_heads : int or None
        G, heads of keys and values; None for as many as `heads`.
    order : {"pre", "post"}
        Norms before the sublayers (ViT, GPT, CLIP) or after the residual sums (BERT).
    norm : {"layer", "rms"}
        The kind of norm.
    eps : float
        Of the norms.
    mlp : str
        An activation for a plain MLP, or the name of a gated one, such as ``"swiglu"``; see
        `feed`.
    bias : bool or tuple of str
        Whether linear layers have biases, or the names of those that have: ``qkv``, in attention
        to other tokens ``q`` and ``kv``, ``out``, ``fc`` and ``proj``.
    dropout : float
        Rate on what each sublayer adds to the residual stream, while training.
    rotary_base : float or None
        Of the rotary positions of queries and keys, see `rotary_forward`; None for none.
    rotary_scaling : RotaryScaling or None
        How they were slowed for longer texts.
    head_width, value_width : int or None
        K and J, channels of a head, and of its values; None for D / A, and for K.
    scale : float or None
        What attention scores are multiplied by; None for 1 / sqrt(K).
    depth_scale : bool
        Divide the scores of block i, counted from 1, by i, too: an option of GPT-2 models.
    blind : {"zero", "mean"}
        What a token reads that may attend to none, see `attend_forward`.
    """

    width: int
    heads: int
    hidden: int
    kv_heads: int | None = None
    order: str = "pre"
    norm: str = "layer"
    eps: float = 1e-5
    mlp: str = "gelu"
    bias: bool | tuple[str, ...] = True
    dropout: float = 0.0
    rotary_base: float | None = None
    rotary_scaling: RotaryScaling | None = None
    head_width: int | None = None
    value_width: int | None = None
    scale: float | None = None
    depth_scale: bool = False
    blind: str = "zero"

    def __post_init__(self):
        kv_heads = self.heads if self.kv_heads is None else self.kv_heads
        check_counts(width=self.width, heads=self.heads, hidden=self.hidden, kv_heads=kv_heads)
        for name in ("head_width", "value_width"):
            if getattr(self, name) is not None:
                check_counts(**{name: getattr(self, name)})
        if (self.head_width is None and self.width % self.heads) or self.heads % kv_heads:
            raise ValueError(
                f"width {self.width} must be a multiple of heads {self.heads}, "
                f"and heads a multiple of kv_heads {kv_heads}"
            )
        if self.order not in ("pre", "post"):
            raise ValueError(f"order must be 'pre' or 'post', got {self.order!r}")
        if self.norm not in NORMS:
            raise ValueError(f"norm must be one of {', '.join(NORMS)}, got {self.norm!r}")
        if not self.eps >= 0:
            raise ValueError(f"eps must be at least 0, got {self.eps}")
        feed(self.mlp)
        if not isinstance(self.bias, bool) and not set(self.bias) <= set(BIASES):
            raise ValueError(
                f"bias must be True, False or some of {', '.join(BIASES)}; got {self.bias!r}"
            )
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout must be at least 0 and below 1, got {self.dropout}")
        if self.rotary_base is not None:
            if not self.rotary_base > 1:
                raise ValueError(f"rotary_base must be above 1, got {self.rotary_base}")
            if self.per_head % 2:
                raise ValueError(
                    f"rotary positions turn pairs of channels; width {self.width} over "
                    f"{self.heads} heads makes {self.per_head} a head, an odd number"
                )
        if self.rotary_scaling is not None:
            check_type(RotaryScaling, rotary_scaling=self.rotary_scaling)
        if self.blind not in BLIND:
            raise ValueError(f"blind must be one of {', '.join(BLIND)}, got {self.blind!r}")

    @property
    def per_head(self):
        """K, channels of a head."""
        return self.width // self.heads if self.head_width is None else self.head_width

    def at(self, place):
        """Return the kind of block number `place`, counted from 0, in a tower of this kind."""
        if not self.depth_scale:
            return self
        scale = 1 / math.sqrt(self.per_head) if self.scale is None else self.scale
        return replace(self, scale=scale / (place + 1), depth_scale=False)


def block_init(rng, config, *, depth=1):
    """Draw the parameters of one block.

    Parameters
    ----------
    rng : numpy.random.Generator
        Where the weights come from.
    config : BlockConfig
        The kind of block.
    depth : int, default 1
        Blocks in the tower; what each adds to the residual stream starts smaller by
        sqrt(2 depth), so that the sum does not grow with depth.

    Returns
    -------
    p : dict
        ``ln1``, ``attn``, ``ln2`` and ``mlp``.
    """
    norm_init = NORMS[config.norm][0]
    shrink = (2 * depth) ** -0.5
    options = {"bias": config.bias}
    return {
        "ln1": norm_init(config.width),
        "attn": self_attention_init(
            rng,
            config.width,
            heads=config.heads,
            kv_heads=config.kv_heads,
            head_width=config.head_width,
            value_width=config.value_width,
            out_std=shrink * config.width**-0.5,
            **options,
        ),
        "ln2": norm_init(config.width),
        "mlp": feed(config.mlp)[0](
            rng, config.width, config.hidden, out_std=shrink * config.hidden**-0.5, **options
        ),
    }


def pre_block_forward(x, p, *, config, mask=None, rng=None, positions=None, cache=None):
    """Read the other tokens, then think; each sublayer normalises what it reads.

    Parameters
    ----------
    x : array of shape (B, T, D)
        Tokens.
    p : dict
        As `block_init` makes it.
    config : BlockConfig
        The kind of block.
    mask : boolean array broadcastable to (B, A, T, S), optional
        True where a token may attend.
    rng : numpy.random.Generator, optional
        Draws the dropout; None for none.
    positions : integer array of shape (T,) or of shape (B, T), optional
        Where the tokens stand, if positions are rotary.
    cache : KVCache, optional
        Of the tokens before, see `self_attention_forward`.

    Returns
    -------
    y : array of shape (B, T, D)
    saved : dict
        For `pre_block_backward`.

    See Also
    --------
    pre_block_backward : The gradient of this function.

    Notes
    -----
    ``x = x + attn(ln1(x)); y = x + mlp(ln2(x))``: the residual stream runs through untouched,
    which is what makes depth trainable [1]_.

    References
    ----------
    .. [1] R. Xiong et al., "On Layer Normalization in the Transformer Architecture", 2020,
       arXiv:2002.04745, table 1.
    """
    s = {"config": config}
    norm = NORMS[config.norm][1]
    h, s["ln1"] = norm(x, p["ln1"], eps=config.eps, out=factor_room(x))
    h, s["attn"] = _attend(h, p["attn"], config, mask=mask, positions=positions, cache=cache)
    h, s["drop1"] = dropout_forward(h, rate=config.dropout, rng=rng)
    x, h, s["ln2"] = add_norm(x, h, p["ln2"], norm=config.norm, eps=config.eps, out=factor_room(x))
    h, s["mlp"] = feed(config.mlp)[1](h, p["mlp"])
    h, s["drop2"] = dropout_forward(h, rate=config.dropout, rng=rng)
    h += x
    return h, for_backward(s, cache=cache)


def pre_block_backward(dy, s, g):
    """Gradient of `pre_block_forward`, which it reads from the bottom up.

    Parameters
    ----------
    dy : array of shape (B, T, D)
        dL/dy.
    s : dict
        As `pre_block_forward` saved it.
    g : dict
        Gains the gradients of the parameters; empty if they are frozen.

    Returns
    -------
    dx : array of shape (B, T, D)
    """
    norm = NORMS[s["config"].norm][2]
    dh = dropout_backward(dy, s["drop2"])
    dh = feed(s["config"].mlp)[2](dh, s["mlp"], g["mlp"])
    dx = norm(dh, s["ln2"], g["ln2"], past=dy, out=dh)
    dh = dropout_backward(dx, s["drop1"])
    dh = self_attention_backward(dh, s["attn"], g["attn"])
    return norm(dh, s["ln1"], g["ln1"], past=dx, out=dh)


def post_block_forward(x, p, *, config, mask=None, rng=None, positions=None, cache=None):
    """Read the other tokens, then think; each sum is normalised after.

    Parameters
    ----------
    x : array of shape (B, T, D)
        Tokens.
    p : dict
        As `block_init` makes it.
    config : BlockConfig
        The kind of block.
    mask : boolean array broadcastable to (B, A, T, S), optional
        True where a token may attend.
    rng : numpy.random.Generator, optional
        Draws the dropout; None for none.
    positions : integer array of shape (T,) or of shape (B, T), optional
        Where the tokens stand, if positions are rotary.
    cache : KVCache, optional
        Of the tokens before, see `self_attention_forward`.

    Returns
    -------
    y : array of shape (B, T, D)
    saved : dict
        For `post_block_backward`.

    See Also
    --------
    post_block_backward : The gradient of this function.

    Notes
    -----
    ``x = ln1(x + attn(x)); y = ln2(x + mlp(x))``, the block of the original transformer and of
    BERT [1]_.

    References
    ----------
    .. [1] A. Vaswani et al., "Attention Is All You Need", 2017, arXiv:1706.03762, section 3.1.
    """
    s = {"config": config}
    norm = NORMS[config.norm][1]
    h, s["attn"] = _attend(x, p["attn"], config, mask=mask, positions=positions, cache=cache)
    h, s["drop1"] = dropout_forward(h, rate=config.dropout, rng=rng)
    h += x
    x, s["ln1"] = norm(h, p["ln1"], eps=config.eps)
    h, s["mlp"] = feed(config.mlp)[1](x, p["mlp"])
    h, s["drop2"] = dropout_forward(h, rate=config.dropout, rng=rng)
    h += x
    y, s["ln2"] = norm(h, p["ln2"], eps=config.eps)
    return y, for_backward(s, cache=cache)


def post_block_backward(dy, s, g):
    """Gradient of `post_block_forward`, which it reads from the bottom up.

    Parameters
    ----------
    dy : array of shape (B, T, D)
        dL/dy.
    s : dict
        As `post_block_forward` saved it.
    g : dict
        Gains the gradients of the parameters; empty if they are frozen.

    Returns
    -------
    dx : array of shape (B, T, D)
    """
    norm = NORMS[s["config"].norm][2]
    dx = norm(dy, s["ln2"], g["ln2"])
    dh = dropout_backward(dx, s["drop2"])
    dx += feed(s["config"].mlp)[2](dh, s["mlp"], g["mlp"])
    dx = norm(dx, s["ln1"], g["ln1"])
    dh = dropout_backward(dx, s["drop1"])
    dx += self_attention_backward(dh, s["attn"], g["attn"])
    return dx


BLOCKS = {
    "pre": (pre_block_forward, pre_block_backward),
    "post": (post_block_forward, post_block_backward),
}


def tower_init(rng, config, *, depth):
    """Draw the parameters of a tower of blocks.

    Parameters
    ----------
    rng : numpy.random.Generator
        Where the weights come from.
    config : BlockConfig
        The kind of block.
    depth : int
        L, how many.

    Returns
    -------
    p : dict
        A block under each of the keys ``"0"`` to ``str(depth - 1)``.
    """
    return {str(i): block_init(rng, config, depth=depth) for i in range(depth)}


def tower_forward(x, p, *, config, mask=None, rng=None, positions=None, cache=None):
    """Run a tower of blocks.

    Parameters
    ----------
    x : array of shape (B, T, D)
        Tokens.
    p : dict
        As `tower_init` makes it.
    config : BlockConfig
        The kind of block.
    mask : boolean array broadcastable to (B, A, T, S), optional
        True where a token may attend.
    rng : numpy.random.Generator, optional
        Draws the dropout; None for none.
    positions : integer array of shape (T,) or of shape (B, T), optional
        Where the tokens stand, if positions are rotary.
    cache : dict of str to KVCache, optional
        One for each block, of the tokens before.

    Returns
    -------
    y : array of shape (B, T, D)
    saved : dict
        One entry a block, for `tower_backward`.

    See Also
    --------
    tower_backward : The gradient of this function.
    """
    s = {}
    for i in range(len(p)):  # not the order of the dict, which a file may change
        name = str(i)
        x, s[name] = BLOCKS[config.order][0](
            x,
            p[name],
            config=config.at(i),
            mask=mask,
            rng=rng,
            positions=positions,
            cache=None if cache is None else cache[name],
        )
    return x, s


def tower_backward(dy, s, g):
    """Gradient of `tower_forward`.

    Parameters
    ----------
    dy : array of shape (B, T, D)
        dL/dy.
    s : dict
        As `tower_forward` saved it.
    g : dict
        Gains the gradients of the parameters; empty if they are frozen.

    Returns
    -------
    dx : array of shape (B, T, D)
    """
    for name in reversed(s):
        dy = BLOCKS[s[name]["config"].order][1](dy, s[name], g[name])
    return dy


def check_blocks(p, depth):
    """Refuse the parameters of another model: those without a tower, or with a taller one.

    Parameters
    ----------
    p : dict
        A model's parameters, the tower under ``blocks``.
    depth : int
        L, the blocks that the model's config asks for.

    Raises
    ------
    TypeError
        If `p` is not a dict.
    ValueError
        If there are not as many, or they are not named ``"0"`` to ``str(depth - 1)``.
    """
    check_keys(p)
    found = len(p.get("blocks", ()))
    if found != depth:
        raise ValueError(
            f"the config asks for {depth} blocks; the parameters, {', '.join(p)}, hold {found}"
        )
    check_keys(p, *(f"blocks/{i}" for i in range(depth)))


def _attend(x, p, config, **options):
    return self_attention_forward(
        x,
        p,
        heads=config.heads,
        kv_heads=config.kv_heads,
        rotary_base=config.rotary_base,
        rotary_scaling=config.rotary_scaling,
        scale=config.scale,
        blind=config.blind,
        **options,
    )
