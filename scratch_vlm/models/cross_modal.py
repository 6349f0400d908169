"""Cross-modality attention: the words stay among themselves, and look at images from inside.

The architecture of Flamingo and of Llama 3.2 Vision. Before some blocks of a language model stands
a gated block whose queries come from the words and whose keys and values from visual tokens. A
text keeps one place for each image or video, filled with the id ``config.image``, which says from
where on it can be seen.
"""

from dataclasses import dataclass

import numpy as np

from scratch_vlm.backend import namespace, to_device
from scratch_vlm.layers.block import BLOCKS
from scratch_vlm.layers.config import check_keys, check_type
from scratch_vlm.layers.connector import real_tokens
from scratch_vlm.layers.embedding import embedding_backward, embedding_forward
from scratch_vlm.layers.gated import (
    GatedConfig,
    gated_block_backward,
    gated_block_forward,
    gated_block_init,
)
from scratch_vlm.layers.norm import NORMS
from scratch_vlm.models.lm import (
    LMConfig,
    check_model,
    check_texts,
    lm_head_backward,
    lm_head_forward,
    lm_init,
    lm_start_backward,
    lm_start_forward,
    next_token_backward,
    next_token_forward,
    reading_order,
    trunk_order,
    turn_order,
)
from scratch_vlm.models.vision import (
    SightConfig,
    check_fusion,
    sight_backward,
    sight_forward,
    sight_init,
)
from scratch_vlm.ops.masks import MEDIA_RULES, media_mask
from scratch_vlm.ops.splice import deal_backward, deal_forward
from scratch_vlm.recompute import plain


@dataclass(frozen=True)
class CrossModalConfig:
    """A vision language model whose words look at images through gated cross-attention.

    Attributes
    ----------
    sight : SightConfig
        From pixels to visual tokens.
    lm : LMConfig
        The language model.
    gated : GatedConfig
        The kind of gated block.
    places : tuple of int
        The blocks of the language model before which a gated block stands, counted from 0.
    image : int
        Id of the token that stands for an image or a video.
    rule : {"last", "all", "run"}
        Which media a word sees: the last before it (Flamingo), all before it, or the last and
        those directly before that (Llama 3.2 Vision); see `media_mask`.

    Notes
    -----
    Flamingo [1]_ puts a gated block before every block of its smallest model, and before the
    first and every seventh of its largest: ``range(0, depth, 7)``. Llama 3.2 Vision has one for
    every four blocks.

    References
    ----------
    .. [1] J.-B. Alayrac et al., "Flamingo: a Visual Language Model for Few-Shot Learning", 2022,
       arXiv:2204.14198, section 2.2 and table 5.
    """

    sight: SightConfig
    lm: LMConfig
    gated: GatedConfig
    places: tuple[int, ...]
    image: int
    rule: str = "last"

    def __post_init__(self):
        check_fusion(self)
        check_type(GatedConfig, gated=self.gated)
        widths = self.sight.connector.outputs, self.lm.block.width
        if widths != (self.gated.source, self.gated.block.width):
            raise ValueError(
                f"the connector and the language model have widths {widths}; the gated blocks "
                f"take {(self.gated.source, self.gated.block.width)}"
            )
        if not self.places:
            raise ValueError("places must name at least one block to stand before")
        if sorted(set(self.places)) != list(self.places):
            raise ValueError(f"places must be in order and differ, got {self.places}")
        if self.places[0] < 0 or self.places[-1] >= self.lm.depth:
            raise ValueError(
                f"places must be blocks 0 to {self.lm.depth - 1} of the language model, "
                f"got {self.places}"
            )
        if self.rule not in MEDIA_RULES:
            raise ValueError(f"rule must be one of {', '.join(MEDIA_RULES)}, got {self.rule!r}")


def cross_modal_init(rng, config, *, vit=None, lm=None):
    """Draw the parameters of a cross-modal vision language model.

    Parameters
    ----------
    rng : numpy.random.Generator
        Where the weights come from.
    config : CrossModalConfig
        The model.
    vit, lm : dict, optional
        Trained parameters of a ViT and of the language model to start from.

    Returns
    -------
    p : dict
        ``sight``, with ``tower`` and ``connector``, ``lm``, and ``gated``, a gated block under
        the number of the block that it stands before.
    """
    sight = sight_init(rng, config.sight, vit=vit)
    depth = len(config.places)
    return {
        "sight": sight,
        "lm": lm_init(rng, config.lm) if lm is None else lm,
        "gated": {str(i): gated_block_init(rng, config.gated, depth=depth) for i in config.places},
    }


def cross_modal_forward(
    ids,
    media,
    p,
    *,
    config,
    lengths=None,
    real=None,
    turns=None,
    slots=None,
    learn_tower=True,
    wrap=plain,
    rng=None,
):
    """Score every token that may come next, in texts that look at images or videos.

    Parameters
    ----------
    ids : integer array of shape (B, T)
        Token ids, ``config.image`` where an image or a video stands.
    media : array of shape (M, F, H, W, C)
        Images and videos in reading order, those of the first text first; an image is a video
        of one frame. None, or M of 0, if no text has any.
    p : dict
        As `cross_modal_init` makes it.
    config : CrossModalConfig
        The model.
    lengths : integer array of shape (M,), optional
        Real frames of each, on the host. Default F for all.
    real : boolean array of shape (B, T), optional
        False where a token is padding, on either side. Not needed for padding at the end, which
        nothing before it can see.
    turns : integer array of shape (B, T), optional
        The turn that each token belongs to, where turns are not to see each other; images belong
        to all, 0. See `turn_order`.
    slots : int, optional
        Most media of a text. Default counted in the ids, which waits for a device.
    learn_tower, wrap
        As in `sight_forward`.
    rng : numpy.random.Generator, optional
        Draws the dropout; None for none.

    Returns
    -------
    logits : array of shape (B, T, V)
        At place t the scores of the token at t + 1.
    saved : dict
        For `cross_modal_backward`; the maps of who looked where are
        ``attention_weights(saved["trunk"]["gated"]["0"]["attn"]["attend"])``.

    Raises
    ------
    TypeError
        If the ids are not integers.
    ValueError
        If media and their places do not match, or a text is longer than the context, or shapes
        do not fit. Ids are looked at only on the host.

    See Also
    --------
    cross_modal_backward : The gradient of this function.
    cross_modal_loss_forward : How well answers are foretold.

    References
    ----------
    .. [1] J.-B. Alayrac et al., "Flamingo: a Visual Language Model for Few-Shot Learning", 2022,
       arXiv:2204.14198, section 2.
    .. [2] Llama team, "The Llama 3 Herd of Models", 2024, arXiv:2407.21783, section 7.2.
    """
    s = {}
    check_keys(p, "sight", "lm", "gated")
    check_model(p["lm"], config.lm)
    check_texts(ids, real, turns)
    z, s["look"] = look_forward(
        ids,
        media,
        p,
        config=config,
        lengths=lengths,
        slots=slots,
        learn_tower=learn_tower,
        wrap=wrap,
        rng=rng,
    )  # (B, S, D)
    seen = seen_mask(ids, config, media, z.shape[1], lengths=lengths)  # (B, 1, T, S)
    mask = positions = None
    if real is not None:
        mask, positions = reading_order(namespace(z).asarray(real))
    elif turns is not None:
        mask, positions = turn_order(namespace(z).asarray(turns))
    x, s["tokens"] = embedding_forward(ids, p["lm"]["tokens"])  # (B, T, D)
    x, s["trunk"] = cross_trunk_forward(
        x, z, p, config=config, seen=seen, mask=mask, positions=positions, rng=rng
    )
    x, s["head"] = lm_head_forward(x, p["lm"])  # (B, T, V)
    return x, s


def cross_modal_backward(dlogits, s, g):
    """Gradient of `cross_modal_forward`; there is none with respect to the ids.

    Parameters
    ----------
    dlogits : array of shape (B, T, V)
        dL/dlogits.
    s : dict
        As `cross_modal_forward` saved it.
    g : dict
        Gains the gradients of the parameters; empty if they are frozen.

    Returns
    -------
    dmedia : array of shape (M, F, H, W, C)
        None if there were none, or the tower was not to learn.
    """
    dx = lm_head_backward(dlogits, s["head"], g["lm"])
    dx, dz = cross_trunk_backward(dx, s["trunk"], g)
    embedding_backward(dx, s["tokens"], g["lm"]["tokens"])
    return look_backward(dz, s["look"], g)


def cross_trunk_forward(
    x,
    z,
    p,
    *,
    config,
    seen=None,
    mask=None,
    positions=None,
    cache=None,
    kept=None,
    rng=None,
):
    """Let words read the words before them and, before some blocks, what they may see.

    Parameters
    ----------
    x : array of shape (B, T, D)
        Tokens of the texts.
    z : array of shape (B, S, D)
        Visual tokens beside each text.
    p : dict
        As `cross_modal_init` makes it; ``gated`` and, of ``lm``, what `lm_trunk_forward` reads.
    config : CrossModalConfig
        The model.
    seen : boolean array broadcastable to (B, A, T, S), optional
        True where a word may see a visual token. Default everywhere.
    mask : boolean array of shape (B, 1, T, T), optional
        True where a word may attend to a word. Default the causal mask.
    positions : integer array of shape (B, T), optional
        Where each token stands. Default one after another, behind the cache.
    cache : dict of str to KVCache, optional
        Of the words, see `lm_trunk_forward`.
    kept : dict of str to dict, optional
        Keys and values of the visual tokens, one dict for each gated block: empty at first, and
        read from then on, when `z` may be None. For generation.
    rng : numpy.random.Generator, optional
        Draws the dropout; None for none.

    Returns
    -------
    y : array of shape (B, T, D)
        Normalised tokens, for the head.
    saved : dict
        For `cross_trunk_backward`.

    Raises
    ------
    ValueError
        If there are more tokens than the context has places, or shapes do not fit.

    See Also
    --------
    cross_trunk_backward : The gradient of this function.
    """
    lm = config.lm
    if sorted(p["gated"]) != sorted(map(str, config.places)):
        raise ValueError(
            f"the config asks for gated blocks before {config.places}; the parameters hold some "
            f"before {', '.join(p['gated'])}"
        )
    s = {"config": config, "blocks": {}, "gated": {}}
    mask, positions = trunk_order(x, lm, mask=mask, positions=positions, cache=cache)
    x, s["start"] = lm_start_forward(x, p["lm"], config=lm, positions=positions, rng=rng)
    for i in range(lm.depth):
        name = str(i)
        if name in p["gated"]:
            x, s["gated"][name] = gated_block_forward(
                x,
                z,
                p["gated"][name],
                config=config.gated,
                mask=seen,
                rng=rng,
                kept=None if kept is None else kept[name],
            )
        x, s["blocks"][name] = BLOCKS[lm.block.order][0](
            x,
            p["lm"]["blocks"][name],
            config=lm.block.at(i),
            mask=mask,
            rng=rng,
            positions=positions,
            cache=None if cache is None else cache[name],
        )
    x, s["ln"] = NORMS[lm.block.norm][1](x, p["lm"]["ln"], eps=lm.block.eps)
    return x, s


def cross_trunk_backward(dy, s, g):
    """Gradient of `cross_trunk_forward`, which it reads from the bottom up.

    Parameters
    ----------
    dy : array of shape (B, T, D)
        dL/dy.
    s : dict
        As `cross_trunk_forward` saved it.
    g : dict
        Gains the gradients of the parameters; empty if they are frozen.

    Returns
    -------
    dx : array of shape (B, T, D)
        Of the words.
    dz : array of shape (B, S, D)
        Of the visual tokens, summed over all gated blocks that looked at them.
    """
    lm, dz = s["config"].lm, 0
    dx = NORMS[lm.block.norm][2](dy, s["ln"], g["lm"]["ln"])
    for name in reversed(s["blocks"]):
        dx = BLOCKS[lm.block.order][1](dx, s["blocks"][name], g["lm"]["blocks"][name])
        if name in s["gated"]:
            dx, dz_here = gated_block_backward(dx, s["gated"][name], g["gated"][name])
            dz = dz + dz_here
    return lm_start_backward(dx, s["start"], g["lm"]), dz


def look_forward(
    ids, media, p, *, config, lengths=None, slots=None, learn_tower=True, wrap=plain, rng=None
):
    """Turn images or videos into visual tokens, and deal them out to their texts.

    Parameters
    ----------
    ids : integer array of shape (B, T)
        Token ids, ``config.image`` where an image or a video stands.
    media : array of shape (M, F, H, W, C)
        Images and videos in reading order, or None.
    p : dict
        As `cross_modal_init` makes it.
    config : CrossModalConfig
        The model.
    lengths, slots, learn_tower, wrap, rng
        As in `cross_modal_forward`.

    Returns
    -------
    z : array of shape (B, S, D)
        S is slots times the visual tokens of one; zero where a text has fewer media.
    saved : dict
        For `look_backward`.

    Raises
    ------
    ValueError
        If media and their places do not match.

    See Also
    --------
    look_backward : The gradient of this function.
    """
    s = {}
    counted = check_shown(ids, config.image, media)
    if media is None or not len(media):
        s["nothing"] = media  # None or empty, and so is its gradient
        w = p["lm"]["tokens"]["w"]  # nothing to see is one token of zeros, which nobody sees
        return namespace(w).zeros((len(ids), 1, config.gated.source), w.dtype), s
    counts = (ids == config.image).sum(1)
    if slots is None:
        slots = int(counts.max()) if counted is None else counted
    y, s["sight"] = sight_forward(
        media,
        p["sight"],
        config=config.sight,
        lengths=lengths,
        learn_tower=learn_tower,
        wrap=wrap,
        rng=rng,
    )  # (M, N, D)
    z, s["deal"] = deal_forward(y, counts=counts, slots=slots)  # (B, I, N, D)
    s["shape"] = z.shape
    return z.reshape(len(ids), -1, z.shape[3]), s


def look_backward(dz, s, g):
    """Gradient of `look_forward`, which it reads from the bottom up.

    Parameters
    ----------
    dz : array of shape (B, S, D)
        dL/dz.
    s : dict
        As `look_forward` saved it.
    g : dict
        Gains the gradients of the parameters; empty if they are frozen.

    Returns
    -------
    dmedia : array of shape (M, F, H, W, C)
        None if there were none, or the tower was not to learn.
    """
    if "nothing" in s:
        return s["nothing"]
    dy = deal_backward(dz.reshape(s["shape"]), s["deal"])
    return sight_backward(dy, s["sight"], g["sight"])


def cross_modal_loss_forward(ids, labels, media, p, *, config, **options):
    """Measure how well answers are foretold: the objective of the training.

    Parameters
    ----------
    ids, labels : integer array of shape (B, T)
        Token ids, and the same with -100 in place of those that are not to be learned: questions,
        images and padding. See `next_token_forward`.
    media : array of shape (M, F, H, W, C)
        Images and videos in reading order, or None.
    p : dict
        As `cross_modal_init` makes it.
    config : CrossModalConfig
        The model.
    **options
        Those of `cross_modal_forward`.

    Returns
    -------
    loss : array of shape ()
        In nats a token.
    saved : tuple
        For `cross_modal_loss_backward`.

    See Also
    --------
    cross_modal_loss_backward : The gradient of this function.
    """
    logits, saved = cross_modal_forward(ids, media, p, config=config, **options)
    loss, s_loss = next_token_forward(logits, labels)
    return loss, (saved, s_loss)


def cross_modal_loss_backward(dloss, saved, g):
    """Gradient of `cross_modal_loss_forward`; there is none with respect to ids and labels.

    Parameters
    ----------
    dloss : float or array of shape ()
        dL/dloss, usually 1.
    saved : tuple
        As `cross_modal_loss_forward` saved it.
    g : dict
        Gains the gradients of the parameters; empty if they are frozen.

    Returns
    -------
    dmedia : array of shape (M, F, H, W, C)
        None if there were none, or the tower was not to learn.
    """
    saved, s_loss = saved
    return cross_modal_backward(next_token_backward(dloss, s_loss), saved, g)


def seen_mask(ids, config, media, tokens, *, lengths=None):
    """Say which visual tokens each word may see.

    Parameters
    ----------
    ids : integer array of shape (B, T)
        Token ids.
    config : CrossModalConfig
        The model.
    media : array of shape (M, F, H, W, C)
        Images and videos, or None.
    tokens : int
        S, visual tokens beside each text, as `look_forward` gives them.
    lengths : integer array of shape (M,), optional
        Real frames of each, on the host.

    Returns
    -------
    seen : boolean array of shape (B, 1, T, S)
    """
    xp = namespace(ids)
    if media is None or not len(media):
        return xp.zeros((*ids.shape, tokens), bool)[:, None]
    frames, patches = media.shape[1], config.sight.tower.patches
    each = config.sight.tokens(frames)
    at = ids == config.image
    seen = media_mask(at, tokens // each, rule=config.rule).repeat(each, axis=2)  # (B, T, S)
    if lengths is not None:
        kept = to_device(
            real_tokens(config.sight.connector, lengths, frames, patches), xp
        )  # (M, N)
        kept, _ = deal_forward(kept[..., None], counts=at.sum(1), slots=tokens // each)
        seen = seen & kept.reshape(len(ids), 1, tokens)
    return seen[:, None]


def check_shown(ids, image, media):
    """Refuse texts with more or fewer places than there are images or videos.

    Parameters
    ----------
    ids : integer array of shape (B, T)
        Token ids. Looked at only on the host: on a device that would mean waiting.
    image : int
        Id of the token that stands for an image or a video.
    media : array of shape (M, F, H, W, C)
        Images and videos, or None.

    Returns
    -------
    slots : int or None
        Most places of a text; None on a device.

    Raises
    ------
    ValueError
        If their numbers differ.
    """
    if namespace(ids) is not np:
        return None
    counts, shown = (ids == image).sum(1), 0 if media is None else len(media)
    if counts.sum() != shown:
        raise ValueError(
            f"the texts have places for {counts.tolist()} images or videos, {counts.sum()} in "
            f"all, but {shown} were given"
        )
    return int(counts.max(initial=0))
