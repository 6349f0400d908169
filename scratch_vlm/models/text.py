"""The text tower of CLIP and SigLIP: a transformer one of whose tokens stands for the text."""

from dataclasses import dataclass
from numbers import Integral

import numpy as np

from scratch_vlm.backend import namespace, to_device
from scratch_vlm.layers.block import (
    BlockConfig,
    check_blocks,
    tower_backward,
    tower_forward,
    tower_init,
)
from scratch_vlm.layers.config import check_keys, check_type
from scratch_vlm.layers.counts import check_counts
from scratch_vlm.layers.embedding import (
    embedding_backward,
    embedding_forward,
    embedding_init,
    positions_backward,
    positions_forward,
)
from scratch_vlm.layers.linear import check_outputs, linear_backward, linear_forward, linear_init
from scratch_vlm.layers.norm import NORMS
from scratch_vlm.layers.pool import pick_backward, pick_forward
from scratch_vlm.ops.masks import causal_mask

POOLS = ("end", "largest", "last")


@dataclass(frozen=True)
class TextConfig:
    """A text tower.

    Attributes
    ----------
    vocabulary : int
        V, token ids.
    context : int
        Longest text in tokens.
    end : int or None
        The id that ends every text; the first one in a row is pooled. None if `pool` does not
        look for it.
    outputs : int
        Width of the embedding; 0 for the pooled token itself.
    block : BlockConfig
        The kind of block.
    depth : int
        L, blocks.
    causal : bool
        Whether a token reads only itself and those before it, as in CLIP.
    head_bias : bool
        Whether the projection has a bias; CLIP's has none.
    pool : {"end", "largest", "last"}
        Which token stands for a text: the first end token; that of the largest id, the first one
        of them, as in CLIP's own code, where the end token has the largest id of all [1]_; or the
        last of the row, padding or not, as in SigLIP.

    References
    ----------
    .. [1] openai/CLIP, clip/model.py, encode_text.
    """

    vocabulary: int
    context: int
    end: int | None
    outputs: int
    block: BlockConfig
    depth: int
    causal: bool = True
    head_bias: bool = False
    pool: str = "end"

    def __post_init__(self):
        check_counts(
            vocabulary=self.vocabulary,
            context=self.context,
            depth=self.depth,
        )
        if self.outputs != 0:  # 0 is for none
            check_counts(outputs=self.outputs)
        check_type(BlockConfig, block=self.block)
        if self.pool not in POOLS:
            raise ValueError(f"pool must be one of {', '.join(POOLS)}, got {self.pool!r}")
        if self.end is None and self.pool != "end":
            return
        if not isinstance(self.end, Integral) or not 0 <= self.end < self.vocabulary:
            raise ValueError(f"end {self.end!r} is outside the vocabulary of {self.vocabulary}")


def text_init(rng, config):
    """Draw the parameters of a text tower.

    Parameters
    ----------
    rng : numpy.random.Generator
        Where the weights come from.
    config : TextConfig
        The model.

    Returns
    -------
    p : dict
        ``tokens``, ``positions``, ``blocks``, ``ln`` and, if there are outputs, ``head``.

    References
    ----------
    .. [1] openai/CLIP, clip/model.py, initialize_parameters, for the standard deviations.
    """
    width = config.block.width
    p = {
        "tokens": embedding_init(rng, config.vocabulary, width, std=0.02),
        "positions": embedding_init(rng, config.context, width, std=0.01),
        "blocks": tower_init(rng, config.block, depth=config.depth),
        "ln": NORMS[config.block.norm][0](width),
    }
    if config.outputs:
        p["head"] = linear_init(rng, width, config.outputs, bias=config.head_bias)
    return p


def text_forward(ids, p, *, config, real=None, rng=None):
    """Turn texts into embeddings.

    Parameters
    ----------
    ids : integer array of shape (B, T)
        Token ids. Where the end token is pooled each row holds it, and what follows its first
        one is not read.
    p : dict
        As `text_init` makes it.
    config : TextConfig
        The model.
    real : boolean array of shape (B, T), optional
        False where a token is padding, which nobody reads. Default what stands behind the end
        token, where that is pooled.
    rng : numpy.random.Generator, optional
        Draws the dropout; None for none.

    Returns
    -------
    y : array of shape (B, E)
    saved : dict
        For `text_backward`.

    Raises
    ------
    TypeError
        If the ids are not an array of integers.
    ValueError
        If a text is too long, has no end, or holds an id outside the vocabulary (ids are looked
        at only on the host), or the parameters do not fit the config.

    See Also
    --------
    text_backward : The gradient of this function.

    References
    ----------
    .. [1] A. Radford et al., "Learning Transferable Visual Models From Natural Language
       Supervision", 2021, arXiv:2103.00020, section 2.4.
    """
    s = {"config": config}
    bias = ["head/b"] * config.head_bias
    check_keys(p, "ln", *["head/w", *bias] * bool(config.outputs))
    if config.outputs:
        check_outputs(p["head"], config.outputs)
    x, s["features"] = text_features_forward(ids, p, config=config, real=real, rng=rng)
    x, s["end"] = pick_forward(x, index=pooled_places(ids, config))  # (B, D)
    x, s["ln"] = NORMS[config.block.norm][1](x, p["ln"], eps=config.block.eps)
    if config.outputs:
        x, s["head"] = linear_forward(x, p["head"])  # (B, E)
    return x, s


def text_backward(dy, s, g):
    """Gradient of `text_forward`; there is none with respect to the ids.

    Parameters
    ----------
    dy : array of shape (B, E)
        dL/dy.
    s : dict
        As `text_forward` saved it.
    g : dict
        Gains the gradients of the parameters; empty if they are frozen.
    """
    dx = linear_backward(dy, s["head"], g["head"]) if s["config"].outputs else dy
    dx = NORMS[s["config"].block.norm][2](dx, s["ln"], g["ln"])
    dx = pick_backward(dx, s["end"])
    text_features_backward(dx, s["features"], g)


def text_features_forward(ids, p, *, config, real=None, rng=None):
    """Turn texts into tokens that have read each other, without the head.

    Parameters
    ----------
    ids : integer array of shape (B, T)
        Token ids.
    p : dict
        As `text_init` makes it.
    config : TextConfig
        The model.
    real : boolean array of shape (B, T), optional
        False where a token is padding, which nobody reads. Default what stands behind the end
        token, where that is pooled.
    rng : numpy.random.Generator, optional
        Draws the dropout; None for none.

    Returns
    -------
    x : array of shape (B, T, D)
        Tokens, before the final norm.
    saved : dict
        For `text_features_backward`.

    Raises
    ------
    TypeError
        If the ids are not an array of integers.
    ValueError
        If a text is too long, lacks its end or holds an id outside the vocabulary, or the
        parameters do not fit the config.

    See Also
    --------
    text_features_backward : The gradient of this function.
    """
    s = {}
    check_blocks(p, config.depth)
    check_keys(p, "tokens/w", "positions/w")
    mask = _mask(ids, config, real, namespace(p["tokens"]["w"]))
    x, s["tokens"] = embedding_forward(ids, p["tokens"])  # (B, T, D)
    x, s["positions"] = positions_forward(x, p["positions"])
    x, s["blocks"] = tower_forward(x, p["blocks"], config=config.block, mask=mask, rng=rng)
    return x, s


def text_features_backward(dx, s, g):
    """Gradient of `text_features_forward`; there is none with respect to the ids.

    Parameters
    ----------
    dx : array of shape (B, T, D)
        dL/dx.
    s : dict
        As `text_features_forward` saved it.
    g : dict
        Gains the gradients of the parameters; empty if they are frozen.
    """
    dx = tower_backward(dx, s["blocks"], g["blocks"])
    dx = positions_backward(dx, s["positions"], g["positions"])
    embedding_backward(dx, s["tokens"], g["tokens"])


def _mask(ids, config, real, xp):
    ends = pooled_places(ids, config)  # refuses what are no texts, whatever the mask
    places = xp.arange(ids.shape[1])
    if real is not None:
        if real.shape != ids.shape or real.dtype != bool:
            raise ValueError(f"real must be boolean, of the shape of ids, {ids.shape}")
        mask = to_device(real, xp)[:, None, None]  # (B, 1, 1, T)
        return mask & causal_mask(ids.shape[1], xp) if config.causal else mask
    if config.causal:  # nothing before the end can see what stands behind it: one mask for all
        return causal_mask(ids.shape[1], xp)
    if config.pool == "last":
        return None
    return (places <= to_device(ends, xp)[:, None])[:, None, None]


def pooled_places(ids, config):
    """Find the token that stands for each text.

    Parameters
    ----------
    ids : integer array of shape (B, T)
        Token ids.
    config : TextConfig
        The model.

    Returns
    -------
    integer array of shape (B,)

    Raises
    ------
    TypeError
        If the ids are not an array.
    ValueError
        If they are no texts, too long, or one lacks the end token that is looked for; the last
        is looked at only on the host: on a device that would mean waiting.
    """
    xp = namespace(ids)  # refuses a list
    if ids.ndim != 2 or not ids.shape[1]:
        raise ValueError(f"ids must be (B, T), got {ids.shape}")
    if ids.shape[1] > config.context:
        raise ValueError(
            f"texts of {ids.shape[1]} tokens do not fit the context of {config.context}"
        )
    if config.pool == "last":
        return xp.full(len(ids), ids.shape[1] - 1)
    if config.pool == "largest":
        return ids.argmax(1)
    is_end = ids == config.end
    if xp is np and (missing := np.flatnonzero(~is_end.any(1))).size:
        raise ValueError(
            f"text {missing[0]} has no end token {config.end}: {ids[missing[0]].tolist()}"
        )
    return is_end.argmax(1)
