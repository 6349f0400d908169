"""Unified embedding: visual tokens stand among the words, and one language model reads both.

The architecture of LLaVA. A text keeps a place for each visual token, filled with the id
``config.image``; whatever the connector makes of an image is put there, and from then on the
language model knows no difference.
"""

from dataclasses import dataclass

import numpy as np

from scratch_vlm.backend import namespace, to_device
from scratch_vlm.layers.config import check_keys
from scratch_vlm.layers.connector import real_tokens
from scratch_vlm.layers.embedding import embedding_backward, embedding_forward
from scratch_vlm.models.lm import (
    LMConfig,
    check_model,
    check_texts,
    lm_head_backward,
    lm_head_forward,
    lm_init,
    lm_trunk_backward,
    lm_trunk_forward,
    next_token_backward,
    next_token_forward,
    reading_order,
    turn_order,
)
from scratch_vlm.models.vision import (
    SightConfig,
    check_fusion,
    check_media,
    sight_backward,
    sight_forward,
    sight_init,
)
from scratch_vlm.ops.masks import causal_mask
from scratch_vlm.ops.splice import kept_places, splice_backward, splice_forward
from scratch_vlm.recompute import plain

ORDERS = ("causal", "prefix")


@dataclass(frozen=True)
class UnifiedConfig:
    """A vision language model with visual tokens among the words.

    Attributes
    ----------
    sight : SightConfig
        From pixels to visual tokens.
    lm : LMConfig
        The language model.
    image : int
        Id of the token that keeps a place for a visual token.
    order : {"causal", "prefix"}
        Whether visual tokens see only those before them, as in LLaVA, or all tokens of their
        own image or video, too.
    """

    sight: SightConfig
    lm: LMConfig
    image: int
    order: str = "causal"

    def __post_init__(self):
        check_fusion(self)
        if self.sight.connector.outputs != self.lm.block.width:
            raise ValueError(
                f"the connector makes tokens of {self.sight.connector.outputs} channels; the "
                f"language model reads {self.lm.block.width}"
            )
        if self.order not in ORDERS:
            raise ValueError(f"order must be one of {', '.join(ORDERS)}, got {self.order!r}")


def unified_init(rng, config, *, vit=None, lm=None):
    """Draw the parameters of a unified vision language model.

    Parameters
    ----------
    rng : numpy.random.Generator
        Where the weights come from.
    config : UnifiedConfig
        The model.
    vit, lm : dict, optional
        Trained parameters of a ViT and of the language model to start from.

    Returns
    -------
    p : dict
        ``sight``, with ``tower`` and ``connector``, and ``lm``.
    """
    sight = sight_init(rng, config.sight, vit=vit)
    return {"sight": sight, "lm": lm_init(rng, config.lm) if lm is None else lm}


def unified_forward(
    ids,
    media,
    p,
    *,
    config,
    lengths=None,
    real=None,
    turns=None,
    learn_tower=True,
    wrap=plain,
    rng=None,
):
    """Score every token that may come next, in texts with images or videos among the words.

    Parameters
    ----------
    ids : integer array of shape (B, T)
        Token ids, ``config.image`` at each place of a visual token.
    media : array of shape (M, F, H, W, C)
        Images and videos in reading order, those of the first text first; an image is a video
        of one frame. None, or M of 0, if no text has any.
    p : dict
        As `unified_init` makes it.
    config : UnifiedConfig
        The model.
    lengths : integer array of shape (M,), optional
        Real frames of each, on the host. Default F for all.
    real : boolean array of shape (B, T), optional
        False where a token is padding, on either side. Not needed for padding at the end, which
        nothing before it can see.
    turns : integer array of shape (B, T), optional
        The turn that each token belongs to, where turns are not to see each other; images belong
        to all, 0. See `turn_order`.
    learn_tower, wrap
        As in `sight_forward`.
    rng : numpy.random.Generator, optional
        Draws the dropout; None for none.

    Returns
    -------
    logits : array of shape (B, T, V)
        At place t the scores of the token at t + 1.
    saved : dict
        For `unified_backward`.

    Raises
    ------
    TypeError
        If the ids are not integers.
    ValueError
        If places and visual tokens do not match, text by text, or a text is longer than the
        context, or shapes do not fit. Ids are looked at only on the host.

    See Also
    --------
    unified_backward : The gradient of this function.
    unified_loss_forward : How well answers are foretold.

    References
    ----------
    .. [1] H. Liu et al., "Visual Instruction Tuning", 2023, arXiv:2304.08485, section 4.
    """
    s = {}
    check_texts(ids, real, turns)
    options = {"lengths": lengths, "learn_tower": learn_tower, "wrap": wrap, "rng": rng}
    x, s["embed"] = unified_embed_forward(ids, media, p, config=config, **options)  # (B, T, D)
    order = unified_order(ids, config, media, lengths=lengths, real=real, turns=turns)
    x, s["trunk"] = lm_trunk_forward(x, p["lm"], config=config.lm, **order, rng=rng)
    x, s["head"] = lm_head_forward(x, p["lm"])  # (B, T, V)
    return x, s


def unified_backward(dlogits, s, g):
    """Gradient of `unified_forward`; there is none with respect to the ids.

    Parameters
    ----------
    dlogits : array of shape (B, T, V)
        dL/dlogits.
    s : dict
        As `unified_forward` saved it.
    g : dict
        Gains the gradients of the parameters; empty if they are frozen.

    Returns
    -------
    dmedia : array of shape (M, F, H, W, C)
        None if there were none, or the tower was not to learn.
    """
    dx = lm_head_backward(dlogits, s["head"], g["lm"])
    dx = lm_trunk_backward(dx, s["trunk"], g["lm"])
    return unified_embed_backward(dx, s["embed"], g)


def unified_embed_forward(
    ids, media, p, *, config, lengths=None, learn_tower=True, wrap=plain, rng=None
):
    """Turn texts with images or videos into one sequence of embeddings.

    Parameters
    ----------
    ids : integer array of shape (B, T)
        Token ids, ``config.image`` at each place of a visual token.
    media : array of shape (M, F, H, W, C)
        Images and videos in reading order, or None.
    p : dict
        As `unified_init` makes it.
    config : UnifiedConfig
        The model.
    lengths, learn_tower, wrap, rng
        As in `unified_forward`.

    Returns
    -------
    x : array of shape (B, T, D)
        For the trunk of the language model.
    saved : dict
        For `unified_embed_backward`.

    Raises
    ------
    ValueError
        If places and visual tokens do not match.

    See Also
    --------
    unified_embed_backward : The gradient of this function.
    """
    check_keys(p, "sight", "lm")
    check_model(p["lm"], config.lm)
    check_texts(ids)
    spans = visual_spans(config, media, lengths)
    check_places(ids, config.image, spans)
    s = {}
    x, s["tokens"] = embedding_forward(ids, p["lm"]["tokens"])  # (B, T, D)
    if not len(spans):
        s["nothing"] = media  # None or empty, and so is its gradient
        return x, s
    y, s["sight"] = sight_forward(
        media,
        p["sight"],
        config=config.sight,
        lengths=lengths,
        learn_tower=learn_tower,
        wrap=wrap,
        rng=rng,
    )  # (M, S, D)
    s["visual"] = y.shape
    y = y.reshape(-1, y.shape[2])  # (M S, D)
    if lengths is not None:
        kept = np.flatnonzero(_real(config, media, lengths))
        s["kept"] = to_device(kept, namespace(x))
        y = y[s["kept"]]
    x, s["splice"] = splice_forward(x, y, at=ids == config.image)
    return x, s


def unified_embed_backward(dx, s, g):
    """Gradient of `unified_embed_forward`, which it reads from the bottom up.

    Parameters
    ----------
    dx : array of shape (B, T, D)
        dL/dx.
    s : dict
        As `unified_embed_forward` saved it.
    g : dict
        Gains the gradients of the parameters; empty if they are frozen.

    Returns
    -------
    dmedia : array of shape (M, F, H, W, C)
        None if there were none, or the tower was not to learn.
    """
    dmedia = s.get("nothing")
    if "splice" in s:
        dx, dy = splice_backward(dx, s["splice"])
        if "kept" in s:
            dkept, dy = (
                dy,
                namespace(dy).zeros((s["visual"][0] * s["visual"][1], dy.shape[1]), dy.dtype),
            )
            dy[s["kept"]] = dkept
        dmedia = sight_backward(dy.reshape(s["visual"]), s["sight"], g["sight"])
    embedding_backward(dx, s["tokens"], g["lm"]["tokens"])
    return dmedia


def unified_loss_forward(ids, labels, media, p, *, config, **options):
    """Measure how well answers are foretold: the objective of the training.

    Parameters
    ----------
    ids, labels : integer array of shape (B, T)
        Token ids, and the same with -100 in place of those that are not to be learned: questions,
        visual tokens and padding. See `next_token_forward`.
    media : array of shape (M, F, H, W, C)
        Images and videos in reading order, or None.
    p : dict
        As `unified_init` makes it.
    config : UnifiedConfig
        The model.
    **options
        Those of `unified_forward`.

    Returns
    -------
    loss : array of shape ()
        In nats a token.
    saved : tuple
        For `unified_loss_backward`.

    See Also
    --------
    unified_loss_backward : The gradient of this function.
    """
    logits, saved = unified_forward(ids, media, p, config=config, **options)
    loss, s_loss = next_token_forward(logits, labels, overwrite=True)
    return loss, (saved, s_loss)


def unified_loss_backward(dloss, saved, g):
    """Gradient of `unified_loss_forward`; there is none with respect to ids and labels.

    Parameters
    ----------
    dloss : float or array of shape ()
        dL/dloss, usually 1.
    saved : tuple
        As `unified_loss_forward` saved it.
    g : dict
        Gains the gradients of the parameters; empty if they are frozen.

    Returns
    -------
    dmedia : array of shape (M, F, H, W, C)
        None if there were none, or the tower was not to learn.
    """
    saved, s_loss = saved
    return unified_backward(next_token_backward(dloss, s_loss), saved, g)


def unified_order(ids, config, media, *, lengths=None, real=None, turns=None):
    """Say who may read whom, and who stands where, in texts with visual tokens.

    Parameters
    ----------
    ids : integer array of shape (B, T)
        Token ids.
    config : UnifiedConfig
        The model.
    media : array of shape (M, F, H, W, C)
        Images and videos, or None.
    lengths : integer array of shape (M,), optional
        Real frames of each, on the host.
    real : boolean array of shape (B, T), optional
        False where a token is padding.
    turns : integer array of shape (B, T), optional
        The turn that each token belongs to, see `turn_order`.

    Returns
    -------
    dict
        ``mask`` and ``positions`` for `lm_trunk_forward`; None where its defaults are right.
    """
    xp = namespace(ids)
    mask = positions = None
    if real is not None:
        mask, positions = reading_order(to_device(real, xp))
    elif turns is not None:
        mask, positions = turn_order(to_device(turns, xp))
    together = visual_together(ids, config, media, lengths=lengths)
    if together is not None:
        mask = together[:, None] | (causal_mask(ids.shape[1], xp) if mask is None else mask)
    return {"mask": mask, "positions": positions}


def visual_together(ids, config, media, *, lengths=None):
    """Say which visual tokens read each other, though one stands behind the other.

    Parameters
    ----------
    ids : integer array of shape (B, T)
        Token ids.
    config : UnifiedConfig
        The model.
    media : array of shape (M, F, H, W, C)
        Images and videos, or None.
    lengths : integer array of shape (M,), optional
        Real frames of each, on the host.

    Returns
    -------
    together : boolean array of shape (B, T, T) or None
        True within each image or video. None if there is none, or the order is causal.
    """
    spans = visual_spans(config, media, lengths)
    if config.order == "causal" or not len(spans):
        return None
    xp = namespace(ids)
    owner = xp.full(ids.size, -1)  # the medium of each visual token; words have none
    places = kept_places(ids == config.image, int(spans.sum()))
    owner[places] = to_device(np.repeat(np.arange(len(spans)), spans), xp)
    owner = owner.reshape(ids.shape)
    return (owner[:, :, None] == owner[:, None]) & (owner[:, None] >= 0)


def visual_spans(config, media, lengths=None):
    """Count the visual tokens of each image or video, and so its places in a text.

    Parameters
    ----------
    config : UnifiedConfig
        The model.
    media : array of shape (M, F, H, W, C)
        Images and videos, or None.
    lengths : integer array of shape (M,), optional
        Real frames of each, on the host.

    Returns
    -------
    numpy.ndarray of shape (M,)
        Of integers.

    Raises
    ------
    ValueError
        If the media have other axes, or no frames, or not as many lengths.
    """
    if media is None or not len(media):
        return np.zeros(0, int)
    check_media(media, lengths)
    if lengths is None:
        return np.full(len(media), config.sight.tokens(media.shape[1]))
    return _real(config, media, lengths).sum(1)


def _real(config, media, lengths):  # which visual tokens are of real frames, (M, S)
    sight = config.sight
    return real_tokens(sight.connector, lengths, media.shape[1], sight.tower.patches)


def check_places(ids, image, spans):
    """Refuse texts whose places for visual tokens are not those of their images, text by text.

    Parameters
    ----------
    ids : integer array of shape (B, T)
        Token ids. Looked at only on the host: on a device that would mean waiting.
    image : int
        Id of the token that keeps a place.
    spans : integer array of shape (M,)
        Visual tokens of each image or video in reading order, see `visual_spans`.

    Raises
    ------
    ValueError
        If there are more or fewer places, or an image would go on in the next text.
    """
    if namespace(ids) is not np:
        return
    kept = (ids == image).sum(1)
    whole = np.append(0, spans.cumsum())  # places after each image
    if kept.sum() != whole[-1] or not np.isin(kept.cumsum(), whole).all():
        raise ValueError(
            f"the texts keep {kept.tolist()} places for visual tokens; the {len(spans)} images or "
            f"videos, in reading order, have {spans.tolist()}"
        )
