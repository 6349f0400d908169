"""Answers: a vision language model writes on after texts with images or videos in them."""

from scratch_vlm.backend import namespace, to_device
from scratch_vlm.inference.generate import generate_from, pad_left
from scratch_vlm.layers.embedding import check_ids, embedding_forward
from scratch_vlm.models.cross_modal import (
    CrossModalConfig,
    check_shown,
    cross_trunk_forward,
    look_forward,
    seen_mask,
)
from scratch_vlm.models.unified import (
    UnifiedConfig,
    check_places,
    unified_embed_forward,
    visual_spans,
    visual_together,
)


def answer(prompts, media, p, config, *, new, lengths=None, chunk=512, **options):
    """Write on after texts that show images or videos, in one batch.

    Parameters
    ----------
    prompts : sequence of sequence of int
        Token ids of each text, with ``config.image`` at the places of images and videos: as
        often as one has visual tokens for a unified model, once for a cross-modal one. See
        `data.chat.encode_chat`.
    media : array of shape (M, F, H, W, C)
        Normalised images and videos in reading order, or None.
    p : dict
        Parameters of the model.
    config : UnifiedConfig or CrossModalConfig
        The model.
    new : int
        Most tokens to write after each prompt.
    lengths : integer array of shape (M,), optional
        Real frames of each, on the host. Default F for all.
    chunk : int, default 512
        Tokens of the prompts that are read at once, see `generate_from`.
    **options
        How to choose and when to stop: see `decode`.

    Returns
    -------
    Generated

    Raises
    ------
    TypeError
        If the config is of another model, or ids are not integers.
    ValueError
        If there is no prompt or an empty one, an id is outside the vocabulary, media and their
        places do not match, or prompt and new tokens together are longer than the context.

    Notes
    -----
    Images are looked at once. A unified model keeps their keys and values in its KV cache, beside
    those of the words; a cross-modal one keeps those of each gated block apart, and its cache
    holds words only.
    """
    if not isinstance(config, UnifiedConfig | CrossModalConfig):
        raise TypeError(
            f"config must be a UnifiedConfig or a CrossModalConfig, got {type(config).__name__}"
        )
    ids, real = pad_left(prompts)
    check_ids(ids, config.lm.vocabulary)
    ids[~real] = int(config.image == 0)  # padding keeps no place for an image
    xp = namespace(p["lm"]["tokens"]["w"])
    on_host, ids = ids, to_device(ids, xp)
    media = None if media is None else to_device(media, xp)
    if isinstance(config, UnifiedConfig):
        check_places(on_host, config.image, visual_spans(config, media, lengths))
        x, _ = unified_embed_forward(
            ids, media, p, config=config, lengths=lengths, learn_tower=False
        )  # (B, T, D)
        trunk = {"together": visual_together(ids, config, media, lengths=lengths)}
    else:
        slots = check_shown(on_host, config.image, media)
        trunk = {"trunk": _looking(ids, media, p, config, lengths, slots)}
        x, _ = embedding_forward(ids, p["lm"]["tokens"])  # (B, T, D)
    return generate_from(x, p["lm"], config.lm, real=real, new=new, chunk=chunk, **trunk, **options)


def _looking(ids, media, p, config, lengths, slots):
    # The trunk of a cross-modal model: its words look at what is computed here once.
    z, _ = look_forward(
        ids, media, p, config=config, lengths=lengths, slots=slots, learn_tower=False
    )
    seen = seen_mask(ids, config, media, z.shape[1], lengths=lengths)  # (B, 1, T, S)
    kept = {name: {} for name in p["gated"]}

    def trunk(x, _, *, mask, positions, cache, **__):
        past = cache["0"].length
        rows = seen[:, :, past : past + x.shape[1]]
        if past >= seen.shape[2]:  # a new word sees what the last word of the prompt saw
            rows = seen[:, :, -1:]
        return cross_trunk_forward(
            x,
            z,
            p,
            config=config,
            seen=rows,
            mask=mask,
            positions=positions,
            cache=cache,
            kept=kept,
        )

    return trunk
