"""Answers of Llama 3.2 Vision: its words look at images in tiles from inside."""

import numpy as np

from scratch_vlm.inference.generate import generate_from
from scratch_vlm.layers.embedding import check_ids, embedding_forward
from scratch_vlm.layers.linear import linear_forward
from scratch_vlm.models.mllama import (
    interleaved_cache,
    interleaved_trunk_forward,
    tiled_vit_forward,
)


def answer_tiled(prompt, tiles, p, config, *, ratios, real, new, **options):
    """Write on after a text that shows images in tiles.

    Parameters
    ----------
    prompt : sequence of int
        Token ids, with ``config.image`` once for each image, in reading order.
    tiles : array of shape (M, I, H, W, C)
        Normalised images, each in I tiles.
    p : dict
        Parameters of the model: ``vision``, ``connector`` and ``lm``.
    config : MllamaConfig
        The model.
    ratios : integer array of shape (M,)
        How the tiles of each image are laid out.
    real : boolean array of shape (M, I)
        Which tiles an image has.
    new : int
        Most tokens to write.
    **options
        See `generate_from` and `decode`.

    Returns
    -------
    Generated

    Raises
    ------
    ValueError
        If images and their places do not match, an id is unknown, or the text is too long.
    """
    lm, ids = config.text, np.asarray(prompt)[None]  # (1, T)
    check_ids(ids, len(p["lm"]["tokens"]["w"]))
    places = np.flatnonzero(ids[0] == config.image)
    if len(places) != len(tiles):
        raise ValueError(f"the text keeps places for {len(places)} images; {len(tiles)} are shown")
    z, _ = tiled_vit_forward(tiles, p["vision"], config=config.vision, ratios=ratios, real=real)
    z, _ = linear_forward(z, p["connector"])  # (M, I, N, D)
    tokens = z.shape[2]
    z = z.reshape(1, -1, z.shape[-1])  # (1, S, D)
    seen = words_that_see(places, ids.shape[1])[:, :, None] & real  # (T, M, I)
    seen = seen.reshape(1, 1, ids.shape[1], -1).repeat(tokens, axis=3)  # (1, 1, T, S)
    first = lm.first
    kept = {str(i): {} for i in lm.crosses}

    def trunk(x, p, *, config, mask, positions, cache):
        past = cache[first].length
        now = seen[:, :, past : past + x.shape[1]]
        if past >= seen.shape[2]:  # a new word sees what the last word of the prompt saw
            now = seen[:, :, -1:]
        return interleaved_trunk_forward(
            x, z, p, config=lm, seen=now, mask=mask, positions=positions, cache=cache, kept=kept
        )

    x, _ = embedding_forward(ids, p["lm"]["tokens"])
    cache = interleaved_cache(p["lm"], lm, 1, ids.shape[1] + new)
    return generate_from(x, p["lm"], lm.lm, new=new, trunk=trunk, cache=cache, **options)


def words_that_see(places, length):
    """Say which words see which images.

    Parameters
    ----------
    places : sequence of int
        Where in the text the images stand.
    length : int
        T, tokens of the text.

    Returns
    -------
    seen : boolean array of shape (T, M)
        A word sees the images that stand together before it, and none before those.

    Examples
    --------
    >>> words_that_see([1, 2, 4], 6).astype(int).T
    array([[0, 1, 1, 1, 0, 0],
           [0, 0, 1, 1, 0, 0],
           [0, 0, 0, 0, 1, 1]])
    """
    seen, end = np.zeros((length, len(places)), bool), length
    for i in reversed(range(len(places))):
        if i + 1 < len(places) and places[i] + 1 < places[i + 1]:
            end = places[i + 1]
        seen[places[i] : end, i] = True
    return seen
