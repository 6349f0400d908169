"""Embeddings of many images or texts, a few at a time."""

from scratch_vlm.models.clip import encode_images_forward, encode_texts_forward
from scratch_vlm.recompute import chunked, forward_only


def embed_images(images, p, config, *, size=256):
    """Encode images with the image tower of a CLIP.

    Parameters
    ----------
    images : array of shape (B, H, W, C)
        Normalised images.
    p : dict
        Parameters of the CLIP.
    config : CLIPConfig
        The model.
    size : int, default 256
        Images in memory at once.

    Returns
    -------
    array of shape (B, E)
        Unit vectors.
    """
    return _embed(encode_images_forward, images, p["image"], config.image, size)


def embed_texts(ids, p, config, *, size=1024):
    """Encode texts with the text tower of a CLIP.

    Parameters
    ----------
    ids : integer array of shape (B, T)
        Token ids, each row with its end token.
    p : dict
        Parameters of the CLIP.
    config : CLIPConfig
        The model.
    size : int, default 1024
        Texts in memory at once.

    Returns
    -------
    array of shape (B, E)
        Unit vectors.
    """
    return _embed(encode_texts_forward, ids, p["text"], config.text, size)


def _embed(encode, inputs, p, config, size):
    forward, _ = chunked(encode, None, size=size)
    with forward_only():
        return forward(inputs, p, config=config)[0]
