"""BERT: a bidirectional encoder of texts, whose architecture the Vision Transformer shares."""

from dataclasses import dataclass

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
    check_ids,
    embedding_backward,
    embedding_forward,
    embedding_init,
    positions_backward,
    positions_forward,
)
from scratch_vlm.layers.linear import linear_backward, linear_forward, linear_init
from scratch_vlm.layers.norm import NORMS
from scratch_vlm.layers.pool import pick_backward, pick_forward
from scratch_vlm.ops.activations import activation
from scratch_vlm.ops.dropout import dropout_backward, dropout_forward
from scratch_vlm.ops.masks import padding_mask
from scratch_vlm.tree import tree_map


@dataclass(frozen=True)
class BERTConfig:
    """A bidirectional encoder.

    Attributes
    ----------
    vocabulary : int
        V, token ids.
    context : int
        Longest text in tokens.
    block : BlockConfig
        The kind of block; BERT's is ``order="post"`` with ``eps=1e-12``.
    depth : int
        L, blocks.
    segments : int
        Kinds of sentence that a token may belong to; 2 in BERT.
    head : {"pool", "words"}
        Whether it ends in one vector for a text, or in scores of the words that were masked.
    """

    vocabulary: int
    context: int
    block: BlockConfig
    depth: int
    segments: int = 2
    head: str = "pool"

    def __post_init__(self):
        if self.head not in ("pool", "words"):
            raise ValueError(f"head must be 'pool' or 'words', got {self.head!r}")
        check_counts(
            vocabulary=self.vocabulary,
            context=self.context,
            depth=self.depth,
            segments=self.segments,
        )
        check_type(BlockConfig, block=self.block)


def bert_init(rng, config):
    """Draw the parameters of BERT.

    Parameters
    ----------
    rng : numpy.random.Generator
        Where the weights come from.
    config : BERTConfig
        The model.

    Returns
    -------
    p : dict
        ``tokens``, ``positions``, ``segments``, ``ln``, ``blocks`` and ``pool`` or ``words``.
    """
    width = config.block.width
    if config.head == "pool":
        head = {"pool": linear_init(rng, width, width, std=0.02)}
    else:
        words = {"fc": linear_init(rng, width, width, std=0.02)}
        words["ln"] = NORMS[config.block.norm][0](width)
        words["b"] = np.zeros(config.vocabulary, "float32")
        head = {"words": words}
    return {
        "tokens": embedding_init(rng, config.vocabulary, width),
        "positions": embedding_init(rng, config.context, width),
        "segments": embedding_init(rng, config.segments, width),
        "ln": NORMS[config.block.norm][0](width),
        "blocks": tower_init(rng, config.block, depth=config.depth),
        **head,
    }


def bert_forward(ids, p, *, config, segments=None, lengths=None, rng=None):
    """Turn texts into tokens, each of which has read all others.

    Parameters
    ----------
    ids : integer array of shape (B, T)
        Token ids.
    p : dict
        As `bert_init` makes it.
    config : BERTConfig
        The model.
    segments : integer array of shape (B, T), optional
        Which sentence each token belongs to; default the first.
    lengths : integer array of shape (B,), optional
        Real tokens in each row, on the host; what follows is padding that nobody reads.
    rng : numpy.random.Generator, optional
        Draws the dropout; None for none.

    Returns
    -------
    y : array of shape (B, T, D)
        Tokens.
    saved : dict
        For `bert_backward`.

    Raises
    ------
    TypeError
        If the ids or segments are not arrays of integers.
    ValueError
        If a text is too long or holds an id outside the vocabulary, or segments, lengths or
        parameters do not fit.

    See Also
    --------
    bert_backward : The gradient of this function.
    bert_pool_forward : One vector for the whole text.

    References
    ----------
    .. [1] J. Devlin et al., "BERT: Pre-training of Deep Bidirectional Transformers for Language
       Understanding", 2018, arXiv:1810.04805, section 3 and figure 2.
    """
    s = {}
    namespace(ids)  # refuses a list
    segments = np.zeros(ids.shape, int) if segments is None else segments
    _check_texts(ids, segments, lengths, p, config)
    x, s["tokens"] = embedding_forward(ids, p["tokens"])  # (B, T, D)
    mask = None
    if lengths is not None:
        mask = to_device(padding_mask(lengths, ids.shape[1]), namespace(x))
    h, s["segments"] = embedding_forward(segments, p["segments"])
    x += h
    x, s["positions"] = positions_forward(x, p["positions"])
    s["config"] = config
    x, s["ln"] = NORMS[config.block.norm][1](x, p["ln"], eps=config.block.eps)
    x, s["dropout"] = dropout_forward(x, rate=config.block.dropout, rng=rng)
    x, s["blocks"] = tower_forward(x, p["blocks"], config=config.block, mask=mask, rng=rng)
    return x, s


def bert_backward(dy, s, g):
    """Gradient of `bert_forward`; there is none with respect to the ids.

    Parameters
    ----------
    dy : array of shape (B, T, D)
        dL/dy.
    s : dict
        As `bert_forward` saved it.
    g : dict
        Gains the gradients of the parameters; empty if they are frozen.
    """
    dx = tower_backward(dy, s["blocks"], g["blocks"])
    dx = dropout_backward(dx, s["dropout"])
    dx = NORMS[s["config"].block.norm][2](dx, s["ln"], g["ln"])
    dx = positions_backward(dx, s["positions"], g["positions"])
    embedding_backward(dx, s["segments"], g["segments"])
    embedding_backward(dx, s["tokens"], g["tokens"])


def bert_pool_forward(x, p):
    """Turn the first token into one vector for the whole text.

    Parameters
    ----------
    x : array of shape (B, T, D)
        As `bert_forward` returns it.
    p : dict
        ``pool`` of a BERT, a linear layer.

    Returns
    -------
    y : array of shape (B, D)
        From -1 to 1.
    saved : tuple
        For `bert_pool_backward`.

    See Also
    --------
    bert_pool_backward : The gradient of this function.
    """
    x, picked = pick_forward(x, index=0)  # (B, D)
    x, projected = linear_forward(x, p)
    y = namespace(x).tanh(x)
    return y, (picked, projected, y)


def bert_pool_backward(dy, saved, g):
    r"""Gradient of `bert_pool_forward`.

    Parameters
    ----------
    dy : array of shape (B, D)
        dL/dy.
    saved : tuple
        As `bert_pool_forward` saved it.
    g : dict
        Gains the gradients of the linear layer; empty if they are frozen.

    Returns
    -------
    dx : array of shape (B, T, D)

    Notes
    -----
    :math:`\tanh' = 1 - \tanh^2`.
    """
    picked, projected, y = saved
    dx = linear_backward(dy * (1 - y * y), projected, g)
    return pick_backward(dx, picked)


def bert_words_forward(x, p, *, config):
    """Score every word in the place of each token: the head of masked language models.

    Parameters
    ----------
    x : array of shape (B, T, D)
        As `bert_forward` returns it.
    p : dict
        As `bert_init` makes it; ``words`` and ``tokens``, to which its matrix is tied, are read.
    config : BERTConfig
        The model.

    Returns
    -------
    logits : array of shape (B, T, V)
    saved : dict
        For `bert_words_backward`.

    See Also
    --------
    bert_words_backward : The gradient of this function.

    References
    ----------
    .. [1] google-research/bert, run_pretraining.py, get_masked_lm_output.
    """
    check_keys(p, "tokens/w", "words/fc", "words/ln", "words/b")
    s, block, words = {"config": config}, config.block, p["words"]
    h, s["fc"] = linear_forward(x, words["fc"])
    h, s["act"] = activation(block.mlp)[0](h, out=h)
    h, s["ln"] = NORMS[block.norm][1](h, words["ln"], eps=block.eps)
    logits, s["out"] = linear_forward(h, {"w": p["tokens"]["w"].T, "b": words["b"]})  # (B, T, V)
    return logits, s


def bert_words_backward(dlogits, s, g):
    """Gradient of `bert_words_forward`, which it reads from the bottom up.

    Parameters
    ----------
    dlogits : array of shape (B, T, V)
        dL/dlogits.
    s : dict
        As `bert_words_forward` saved it.
    g : dict
        Gains the gradients of the parameters; empty if they are frozen. The vectors of the
        tokens gain here as a head, and in `bert_backward` as an embedding.

    Returns
    -------
    dx : array of shape (B, T, D)
    """
    block, words = s["config"].block, g["words"]
    tied = {"w": tree_map(lambda w: w.T, g["tokens"]["w"]), "b": words["b"]}
    dh = linear_backward(dlogits, s["out"], tied)
    dh = NORMS[block.norm][2](dh, s["ln"], words["ln"])
    dh = activation(block.mlp)[1](dh, s["act"], out=dh)
    return linear_backward(dh, s["fc"], words["fc"])


def _check_texts(ids, segments, lengths, p, config):
    check_blocks(p, config.depth)
    check_keys(p, "tokens/w", "positions/w", "segments/w", "ln")
    namespace(segments)
    if ids.ndim != 2:
        raise ValueError(f"ids must be (B, T), got {ids.shape}")
    if segments.shape != ids.shape:
        raise ValueError(f"segments {segments.shape} must have the shape of ids, {ids.shape}")
    check_ids(segments, config.segments, "segment")
    if lengths is not None and np.shape(lengths) != ids.shape[:1]:
        raise ValueError(
            f"lengths {np.shape(lengths)} must be one for each text of ids {ids.shape}"
        )
