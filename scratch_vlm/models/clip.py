"""CLIP: an image tower and a text tower that learn to agree on which text describes which image."""

import math
from dataclasses import dataclass

import numpy as np

from scratch_vlm.backend import namespace
from scratch_vlm.layers.config import check_keys, check_type
from scratch_vlm.models.text import TextConfig, text_backward, text_forward, text_init
from scratch_vlm.models.vit import ViTConfig, vit_backward, vit_forward, vit_init
from scratch_vlm.ops.losses import (
    contrastive_backward,
    contrastive_forward,
    sigmoid_contrastive_backward,
    sigmoid_contrastive_forward,
)
from scratch_vlm.ops.normalize import l2_normalize_backward, l2_normalize_forward
from scratch_vlm.recompute import plain

MAX_LOG_SCALE = math.log(100)  # paper, section 2.5: scores are never scaled by more than 100


@dataclass(frozen=True)
class CLIPConfig:
    """A pair of towers and the loss that joins them.

    Attributes
    ----------
    image : ViTConfig
        The image tower; its outputs are the embedding.
    text : TextConfig
        The text tower, of as many outputs.
    loss : {"softmax", "sigmoid"}
        The contrastive loss of CLIP or that of SigLIP.
    """

    image: ViTConfig
    text: TextConfig
    loss: str = "softmax"

    def __post_init__(self):
        check_type(ViTConfig, image=self.image)
        check_type(TextConfig, text=self.text)
        image = self.image.outputs
        if not image and self.image.pool == "attention":  # the pooled token is the embedding
            image = self.image.block.width
        if not image or image != self.text.outputs:
            raise ValueError(
                "both towers must end in embeddings of one width; "
                f"got {image} and {self.text.outputs}"
            )
        if self.loss not in ("softmax", "sigmoid"):
            raise ValueError(f"loss must be 'softmax' or 'sigmoid', got {self.loss!r}")


def clip_init(rng, config):
    """Draw the parameters of CLIP.

    Parameters
    ----------
    rng : numpy.random.Generator
        Where the weights come from.
    config : CLIPConfig
        The model.

    Returns
    -------
    p : dict
        ``image``, ``text``, ``log_scale`` (ln(1 / 0.07) for CLIP, ln 10 for SigLIP) and, for
        SigLIP, ``bias`` (-10).
    """
    p = {"image": vit_init(rng, config.image), "text": text_init(rng, config.text)}
    if config.loss == "softmax":
        p["log_scale"] = np.array(math.log(1 / 0.07), "float32")
    else:
        p["log_scale"] = np.array(math.log(10), "float32")
        p["bias"] = np.array(-10, "float32")
    return p


def clip_clamp(p):
    """Keep the scale of the scores at 100 or less; called after each step of the optimizer.

    Parameters
    ----------
    p : dict
        As `clip_init` makes it; ``log_scale`` is changed in place.

    Notes
    -----
    The clamp acts on the parameter between steps, so it has no gradient [1]_.

    References
    ----------
    .. [1] A. Radford et al., "Learning Transferable Visual Models From Natural Language
       Supervision", 2021, arXiv:2103.00020, section 2.5.
    """
    scale = p["log_scale"]
    namespace(scale).minimum(scale, MAX_LOG_SCALE, out=scale)


def encode_images_forward(images, p, *, config, rng=None):
    """Turn images into embeddings of length one.

    Parameters
    ----------
    images : array of shape (B, H, W, C)
        Normalised images.
    p : dict
        The image tower's parameters, ``p["image"]`` of a CLIP.
    config : ViTConfig
        The image tower.
    rng : numpy.random.Generator, optional
        Draws the dropout; None for none.

    Returns
    -------
    y : array of shape (B, E)
    saved : dict
        For `encode_images_backward`.

    Raises
    ------
    ValueError
        If the images do not fit the config.

    See Also
    --------
    encode_images_backward : The gradient of this function.
    """
    s = {}
    x, s["tower"] = vit_forward(images, p, config=config, rng=rng)
    x, s["unit"] = l2_normalize_forward(x)
    return x, s


def encode_images_backward(dy, s, g):
    """Gradient of `encode_images_forward`.

    Parameters
    ----------
    dy : array of shape (B, E)
        dL/dy.
    s : dict
        As `encode_images_forward` saved it.
    g : dict
        Gains the gradients of the parameters; empty if they are frozen.

    Returns
    -------
    dimages : array of shape (B, H, W, C)
    """
    return vit_backward(l2_normalize_backward(dy, s["unit"]), s["tower"], g)


def encode_texts_forward(ids, p, *, config, rng=None):
    """Turn texts into embeddings of length one.

    Parameters
    ----------
    ids : integer array of shape (B, T)
        Token ids, each row with an end token.
    p : dict
        The text tower's parameters, ``p["text"]`` of a CLIP.
    config : TextConfig
        The text tower.
    rng : numpy.random.Generator, optional
        Draws the dropout; None for none.

    Returns
    -------
    y : array of shape (B, E)
    saved : dict
        For `encode_texts_backward`.

    Raises
    ------
    ValueError
        If the texts do not fit the config.

    See Also
    --------
    encode_texts_backward : The gradient of this function.
    """
    s = {}
    x, s["tower"] = text_forward(ids, p, config=config, rng=rng)
    x, s["unit"] = l2_normalize_forward(x)
    return x, s


def encode_texts_backward(dy, s, g):
    """Gradient of `encode_texts_forward`; there is none with respect to the ids.

    Parameters
    ----------
    dy : array of shape (B, E)
        dL/dy.
    s : dict
        As `encode_texts_forward` saved it.
    g : dict
        Gains the gradients of the parameters; empty if they are frozen.
    """
    text_backward(l2_normalize_backward(dy, s["unit"]), s["tower"], g)


def clip_forward(images, ids, p, *, config, wrap=plain, rng=None):
    """Measure how badly images and their texts find each other.

    Parameters
    ----------
    images : array of shape (B, H, W, C)
        Normalised images.
    ids : integer array of shape (B, T)
        Row i describes image i; each row holds an end token.
    p : dict
        As `clip_init` makes it.
    config : CLIPConfig
        The model.
    wrap : callable, default recompute.plain
        Turns the pair of each encoder into another pair, for example
        ``functools.partial(chunked, size=32, recompute=True)``: then the loss still sees the
        whole batch, but memory holds the activations of 32 samples only.
    rng : numpy.random.Generator, optional
        Draws the dropout; None for none.

    Returns
    -------
    loss : array of shape ()
        About ln B before anything is learned.
    saved : dict
        For `clip_backward`.

    Raises
    ------
    TypeError
        If the images or the ids are not an array.
    ValueError
        If images and texts differ in number, or they or the parameters do not fit the config.

    See Also
    --------
    clip_backward : The gradient of this function.

    References
    ----------
    .. [1] A. Radford et al., "Learning Transferable Visual Models From Natural Language
       Supervision", 2021, arXiv:2103.00020, figure 3.
    .. [2] X. Zhai et al., "Sigmoid Loss for Language Image Pre-Training", 2023,
       arXiv:2303.15343, algorithm 1.
    """
    for x in (images, ids):
        namespace(x)  # refuses a list
    bias = ["bias"] * (config.loss == "sigmoid")
    check_keys(p, "image", "text", "log_scale", *bias)
    if len(images) != len(ids):
        raise ValueError(f"{len(images)} images and {len(ids)} texts do not pair up")
    s = {"config": config, "wrap": wrap}
    encode_images = wrap(encode_images_forward, encode_images_backward)[0]
    encode_texts = wrap(encode_texts_forward, encode_texts_backward)[0]
    image, s["image"] = encode_images(images, p["image"], config=config.image, rng=rng)  # (B, E)
    text, s["text"] = encode_texts(ids, p["text"], config=config.text, rng=rng)  # (B, E)
    if config.loss == "softmax":
        loss, s["loss"] = contrastive_forward(image, text, p["log_scale"])
    else:
        loss, s["loss"] = sigmoid_contrastive_forward(image, text, p["log_scale"], p["bias"])
    return loss, s


def clip_backward(dloss, s, g):
    """Gradient of `clip_forward`; a frozen tower is not walked through.

    Parameters
    ----------
    dloss : float or array of shape ()
        dL/dloss, usually 1.
    s : dict
        As `clip_forward` saved it.
    g : dict
        Gains the gradients of the parameters. With ``g["image"]`` frozen this is LiT [1]_.

    Returns
    -------
    dimages : array of shape (B, H, W, C) or None
        None if the image tower is frozen.

    References
    ----------
    .. [1] X. Zhai et al., "LiT: Zero-Shot Transfer with Locked-image text Tuning", 2021,
       arXiv:2111.07991.
    """
    config, wrap = s["config"], s["wrap"]
    if config.loss == "softmax":
        dimage, dtext, dlog_scale = contrastive_backward(dloss, s["loss"])
    else:
        dimage, dtext, dlog_scale, dbias = sigmoid_contrastive_backward(dloss, s["loss"])
        g["bias"] += dbias
    g["log_scale"] += dlog_scale
    if g["text"]:
        wrap(encode_texts_forward, encode_texts_backward)[1](dtext, s["text"], g["text"])
    if not g["image"]:
        return None
    return wrap(encode_images_forward, encode_images_backward)[1](dimage, s["image"], g["image"])
