"""The gated cross-attention block, through which a finished language model learns to see."""

import math
from dataclasses import dataclass

import numpy as np

from scratch_vlm.backend import namespace, rows
from scratch_vlm.layers.attention import (
    cross_attention_backward,
    cross_attention_forward,
    cross_attention_init,
    self_attention_backward,
    self_attention_forward,
)
from scratch_vlm.layers.block import BlockConfig, block_init
from scratch_vlm.layers.config import check_keys, check_type
from scratch_vlm.layers.counts import check_counts
from scratch_vlm.layers.mlp import feed
from scratch_vlm.layers.norm import NORMS
from scratch_vlm.ops.dropout import dropout_backward, dropout_forward
from scratch_vlm.recompute import for_backward

GATE_WIDTHS = ("one", "channel")
BLIND = ("zero", "mean", "all")


@dataclass(frozen=True)
class GatedConfig:
    """A gated cross-attention block.

    Attributes
    ----------
    block : BlockConfig
        Width, heads, norms, MLP and dropout; norms before the sublayers, no rotary positions.
    source : int
        E, channels of the visual tokens.
    head_width : int or None
        K, channels of a head; None for D over the heads.
    qk_norm : bool
        Whether the queries and keys of each head are normalised, by their root mean square.
    gate : float
        tanh(alpha) that both gates start with, from 0 to below 1. At 0 they are closed: the
        language model starts as it was.
    gate_width : {"one", "channel"}
        A single number for each gate, or one for each of the D channels.
    skip_blind : bool
        Whether tokens that may see nothing skip the feed-forward half, too. Then nothing
        changes them, however far the gates have opened.
    blind : {"zero", "mean", "all"}
        What tokens read that may see nothing: zero, the mean of all values, or all visual tokens
        as if they saw them. Papers and the released code say zero; "mean" is what the open
        implementation of [3]_ does where a token may see all media before it, and "all" what the
        Transformers library does in its Llama 3.2 Vision.

    Notes
    -----
    Flamingo's block [1]_ is ``GatedConfig(BlockConfig(D, D // 128, 4 * D, mlp="squared_relu",
    bias=False), 1536)``. That of Llama 3.2 Vision, with 11 billion parameters [2]_, is
    ``GatedConfig(BlockConfig(4096, 32, 14336, kv_heads=8, norm="rms", mlp="swiglu", bias=False),
    4096, qk_norm=True, skip_blind=True)``.

    References
    ----------
    .. [1] J.-B. Alayrac et al., "Flamingo: a Visual Language Model for Few-Shot Learning", 2022,
       arXiv:2204.14198, appendix A.1.2 and table 4.
    .. [2] Llama Team, "The Llama 3 Herd of Models", 2024, arXiv:2407.21783, section 7; the
       numbers are those of the released code.
    .. [3] lucidrains/flamingo-pytorch, flamingo_pytorch.py, class MaskedCrossAttention.
    """

    block: BlockConfig
    source: int
    head_width: int | None = None
    qk_norm: bool = False
    gate: float = 0.0
    gate_width: str = "one"
    skip_blind: bool = False
    blind: str = "zero"

    def __post_init__(self):
        check_type(BlockConfig, block=self.block)
        check_counts(source=self.source)
        if self.head_width is not None:
            check_counts(head_width=self.head_width)
        if self.block.order != "pre" or self.block.rotary_base is not None:
            raise ValueError(
                "a gated block has norms before its sublayers and no rotary positions; "
                f"got order {self.block.order!r} and rotary_base {self.block.rotary_base}"
            )
        if not 0 <= self.gate < 1:
            raise ValueError(f"gate must be at least 0 and below 1, a tanh; got {self.gate}")
        if self.gate_width not in GATE_WIDTHS:
            raise ValueError(
                f"gate_width must be one of {', '.join(GATE_WIDTHS)}, got {self.gate_width!r}"
            )
        if self.blind not in BLIND:
            raise ValueError(f"blind must be one of {', '.join(BLIND)}, got {self.blind!r}")

    @property
    def gate_shape(self):
        """Shape of the parameter of each gate."""
        return () if self.gate_width == "one" else (self.block.width,)


def gated_block_init(rng, config, *, depth=1):
    """Draw the parameters of a gated block.

    Parameters
    ----------
    rng : numpy.random.Generator
        Where the weights come from.
    config : GatedConfig
        The kind of block.
    depth : int, default 1
        Blocks that add to the same tokens; each starts smaller by sqrt(2 depth).

    Returns
    -------
    p : dict
        ``ln1``, ``attn``, ``attn_gate``, ``ln2``, ``mlp`` and ``mlp_gate``. The gates hold alpha,
        of which the tanh is taken.
    """
    block = config.block
    norm_init = NORMS[block.norm][0]
    shrink = (2 * depth) ** -0.5
    inside = block.width if config.head_width is None else block.heads * config.head_width
    gate = np.full(config.gate_shape, math.atanh(config.gate), "float32")
    return {
        "ln1": norm_init(block.width),
        "attn": cross_attention_init(
            rng,
            block.width,
            config.source,
            heads=block.heads,
            kv_heads=block.kv_heads,
            head_width=config.head_width,
            bias=block.bias,
            out_std=shrink * inside**-0.5,
            qk_norm="rms" if config.qk_norm else None,
        ),
        "attn_gate": gate,
        "ln2": norm_init(block.width),
        "mlp": feed(block.mlp)[0](
            rng,
            block.width,
            block.hidden,
            bias=block.bias,
            out_std=shrink * block.hidden**-0.5,
        ),
        "mlp_gate": gate.copy(),
    }


def gated_block_forward(x, z, p, *, config, mask=None, rng=None, kept=None):
    r"""Let the tokens of a text read visual tokens, as far as two gates are open.

    Parameters
    ----------
    x : array of shape (B, T, D)
        Tokens of the text.
    z : array of shape (B, S, E)
        Visual tokens; may be None where `kept` holds their keys and values.
    p : dict
        As `gated_block_init` makes it.
    config : GatedConfig
        The kind of block.
    mask : boolean array broadcastable to (B, A, T, S), optional
        True where a token may see, as `media_mask` says for whole media. A token that may see
        nothing reads exactly zero, even where the attention has biases, unless the config's
        `blind` says otherwise.
    rng : numpy.random.Generator, optional
        Draws the dropout; None for none.
    kept : dict, optional
        Keys and values of `z`, see `cross_attention_forward`. For generation: nothing goes
        backward through it.

    Returns
    -------
    y : array of shape (B, T, D)
    saved : dict
        For `gated_block_backward`; ``attention_weights(saved["attn"]["attend"])`` shows who saw
        what.

    Raises
    ------
    ValueError
        If shapes do not fit, or the parameters do not fit the config.

    See Also
    --------
    gated_block_backward : The gradient of this function.
    media_mask : Which tokens see which media.

    Notes
    -----
    .. math::
       h &= x + \tanh(\alpha_1)\, \mathrm{attn}(\mathrm{ln_1}(x), z) \\
       y &= h + \tanh(\alpha_2)\, \mathrm{mlp}(\mathrm{ln_2}(h))

    It stands before a block of the language model [1]_. Both alphas start at 0: then y is x, and
    the language model says what it said before it could see. The feed-forward half of Flamingo
    also acts on tokens that may see nothing, so that a text without images changes as the gates
    open; in Llama 3.2 Vision it skips them (`skip_blind`).

    References
    ----------
    .. [1] J.-B. Alayrac et al., "Flamingo: a Visual Language Model for Few-Shot Learning", 2022,
       arXiv:2204.14198, figure 4.
    """
    _check_parameters(p, config)
    block, xp = config.block, namespace(x)
    s = {"config": config}
    norm = NORMS[block.norm][1]
    if mask is not None:
        s["sees"] = _sees(mask)
        if config.blind == "all":
            mask = mask | ~mask.any(-1, keepdims=True)
    h, s["ln1"] = norm(x, p["ln1"], eps=block.eps)
    h, s["attn"] = cross_attention_forward(
        h,
        z,
        p["attn"],
        heads=block.heads,
        kv_heads=block.kv_heads,
        mask=mask,
        eps=block.eps,
        kept=kept,
        blind="mean" if config.blind == "mean" else "zero",
    )
    h, s["drop1"] = dropout_forward(h, rate=block.dropout, rng=rng)
    if config.blind == "zero" and mask is not None:
        h *= s["sees"]
    s["attn_gate"] = h, xp.tanh(p["attn_gate"])
    x = x + h * s["attn_gate"][1]
    h, s["ln2"] = norm(x, p["ln2"], eps=block.eps)
    h, s["mlp"] = feed(block.mlp)[1](h, p["mlp"])
    h, s["drop2"] = dropout_forward(h, rate=block.dropout, rng=rng)
    if config.skip_blind and mask is not None:
        h *= s["sees"]
    s["mlp_gate"] = h, xp.tanh(p["mlp_gate"])
    return x + h * s["mlp_gate"][1], for_backward(s, cache=kept)


def gated_block_backward(dy, s, g):
    r"""Gradient of `gated_block_forward`, which it reads from the bottom up.

    Parameters
    ----------
    dy : array of shape (B, T, D)
        dL/dy.
    s : dict
        As `gated_block_forward` saved it.
    g : dict
        Gains the gradients of the parameters; empty if they are frozen.

    Returns
    -------
    dx : array of shape (B, T, D)
        Of the text.
    dz : array of shape (B, S, E)
        Of the visual tokens.

    Raises
    ------
    ValueError
        If the forward kept the keys and values, or had them from before.

    Notes
    -----
    In the forward this was :math:`y = x + \tanh(\alpha) h`, so
    :math:`d\alpha = (1 - \tanh^2 \alpha) \sum dy \circ h` and :math:`dh = \tanh(\alpha)\, dy`.
    While a gate is closed dh is zero: the first step moves the gates alone, and nothing behind
    them learns before they have opened.
    """
    config = s["config"]
    block = config.block
    norm = NORMS[block.norm][2]
    dh = _through_gate(dy, s, g, "mlp_gate")
    if config.skip_blind and "sees" in s:
        dh *= s["sees"]
    dh = dropout_backward(dh, s["drop2"])
    dh = feed(block.mlp)[2](dh, s["mlp"], g["mlp"])
    dx = norm(dh, s["ln2"], g["ln2"], past=dy)
    dh = _through_gate(dx, s, g, "attn_gate")
    if config.blind == "zero" and "sees" in s:
        dh *= s["sees"]
    dh = dropout_backward(dh, s["drop1"])
    dq, dz = cross_attention_backward(dh, s["attn"], g["attn"])
    dx = norm(dq, s["ln1"], g["ln1"], past=dx)
    return dx, dz


def gated_self_init(rng, config, *, gate=0.66, depth=1):
    """Draw the parameters of `gated_self_forward`.

    Parameters
    ----------
    rng : numpy.random.Generator
        Where the weights come from.
    config : BlockConfig
        The kind of block.
    gate : float, default 0.66
        tanh(alpha) that both gates start with; alpha is about pi / 4 by default.
    depth : int, default 1
        Blocks that add to the same tokens; each starts smaller by sqrt(2 depth).

    Returns
    -------
    p : dict
        Those of `block_init`, ``attn_gate`` and ``mlp_gate``.
    """
    gate = np.array(math.atanh(gate), "float32")
    return {**block_init(rng, config, depth=depth), "attn_gate": gate, "mlp_gate": gate.copy()}


def gated_self_forward(x, p, *, config, mask=None):
    r"""Read the other tokens, then think, as far as two gates are open.

    Parameters
    ----------
    x : array of shape (B, T, D)
        Tokens.
    p : dict
        As `gated_self_init` makes it; a gate may also be one number for each channel.
    config : BlockConfig
        The kind of block, with norms before the sublayers and without rotary positions.
    mask : boolean array broadcastable to (B, A, T, S), optional
        True where a token may attend; S is T.

    Returns
    -------
    y : array of shape (B, T, D)
    saved : dict
        For `gated_self_backward`.

    See Also
    --------
    gated_self_backward : The gradient of this function.
    gated_block_forward : The same with tokens of something else.

    Notes
    -----
    ``x = x + tanh(a) attn(ln1(x)); y = x + tanh(b) mlp(ln2(x))``, the block of the global part of
    the vision tower of Llama 3.2 [1]_.

    References
    ----------
    .. [1] meta-llama/llama-models, models/llama3/multimodal/model.py,
       ImageTransformerBlock with gated=True.
    """
    s = {"config": config}
    norm, xp = NORMS[config.norm][1], namespace(x)
    h, s["ln1"] = norm(x, p["ln1"], eps=config.eps)
    h, s["attn"] = self_attention_forward(
        h,
        p["attn"],
        heads=config.heads,
        kv_heads=config.kv_heads,
        mask=mask,
        scale=config.scale,
        blind=config.blind,
    )
    s["attn_gate"] = h, xp.tanh(p["attn_gate"])
    x = x + h * s["attn_gate"][1]
    h, s["ln2"] = norm(x, p["ln2"], eps=config.eps)
    h, s["mlp"] = feed(config.mlp)[1](h, p["mlp"])
    s["mlp_gate"] = h, xp.tanh(p["mlp_gate"])
    return x + h * s["mlp_gate"][1], for_backward(s)


def gated_self_backward(dy, s, g):
    """Gradient of `gated_self_forward`, which it reads from the bottom up.

    Parameters
    ----------
    dy : array of shape (B, T, D)
        dL/dy.
    s : dict
        As `gated_self_forward` saved it.
    g : dict
        Gains the gradients of the parameters; empty if they are frozen.

    Returns
    -------
    dx : array of shape (B, T, D)
    """
    config = s["config"]
    norm = NORMS[config.norm][2]
    dh = _through_gate(dy, s, g, "mlp_gate")
    dh = feed(config.mlp)[2](dh, s["mlp"], g["mlp"])
    dx = norm(dh, s["ln2"], g["ln2"], past=dy)
    dh = _through_gate(dx, s, g, "attn_gate")
    dh = self_attention_backward(dh, s["attn"], g["attn"])
    return norm(dh, s["ln1"], g["ln1"], past=dx)


def _through_gate(dy, s, g, name):  # dL/dh of what was let through
    h, gate = s[name]
    if g:
        total = rows(dy * h).sum(0)  # (D,)
        g[name] += (1 - gate * gate) * (total if gate.ndim else total.sum())
    return dy * gate


def _sees(mask):  # (B, T, 1), either perhaps 1: whether any head of a token may see anything
    axes = (1,) * (4 - mask.ndim)
    return mask.reshape(axes + mask.shape).any(-1).any(1)[..., None]


def _check_parameters(p, config):
    check_type(GatedConfig, config=config)
    check_keys(p, "ln1", "attn/q", "attn/kv", "attn/out", "attn_gate", "ln2", "mlp", "mlp_gate")
    norms = [name for name in ("q_norm", "k_norm") if name in p["attn"]]
    if len(norms) != 2 * config.qk_norm:
        raise ValueError(
            f"the config says qk_norm={config.qk_norm}; the attention's parameters hold "
            f"{', '.join(p['attn'])}"
        )
    for name in ("attn_gate", "mlp_gate"):
        if p[name].shape != config.gate_shape:
            raise ValueError(
                f"{name} must be of shape {config.gate_shape}, gate_width {config.gate_width!r}; "
                f"got {p[name].shape}"
            )
