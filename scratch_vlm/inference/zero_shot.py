"""Zero-shot classification: the classes are sentences, written after training."""

import math

from scratch_vlm.backend import namespace
from scratch_vlm.ops.normalize import l2_normalize_forward, softmax_forward


def class_embeddings(texts):
    """Turn the embeddings of several prompts for each class into one vector a class.

    Parameters
    ----------
    texts : array of shape (V, M, E)
        Unit vectors: M prompts, such as "a photo of a {}" and "a drawing of a {}", for each of V
        classes.

    Returns
    -------
    classes : array of shape (V, E)
        Unit vectors.

    Raises
    ------
    ValueError
        If `texts` has not three axes.

    Notes
    -----
    The mean of unit vectors is shorter the less they agree, so it is normalised again [1]_.

    References
    ----------
    .. [1] A. Radford et al., "Learning Transferable Visual Models From Natural Language
       Supervision", 2021, arXiv:2103.00020, section 3.1.4.
    """
    if texts.ndim != 3:
        raise ValueError(f"texts must be (V, M, E), M prompts for each class; got {texts.shape}")
    return l2_normalize_forward(texts.mean(1))[0]


def zero_shot_probabilities(images, classes, log_scale):
    """Say how likely each class describes each image.

    Parameters
    ----------
    images : array of shape (B, E)
        Unit vectors.
    classes : array of shape (V, E) or (B, V, E)
        Unit vectors, the same classes for all images or other ones for each.
    log_scale : array of shape () or float
        Logarithm of the scale of the scores, ``p["log_scale"]`` of a CLIP.

    Returns
    -------
    probabilities : array of shape (B, V)
        Rows that sum to one. The cosines behind them are often as small as 0.2 to 0.3: only
        their order and differences carry meaning.

    Raises
    ------
    ValueError
        If the shapes do not fit.
    """
    if images.ndim != 2 or classes.ndim not in (2, 3):
        raise ValueError(
            f"images must be (B, E) and classes (V, E) or (B, V, E); "
            f"got {images.shape} and {classes.shape}"
        )
    if images.shape[-1] != classes.shape[-1]:
        raise ValueError(
            f"embeddings differ in width: images {images.shape}, classes {classes.shape}"
        )
    if classes.ndim == 3 and len(classes) != len(images):
        raise ValueError(f"{len(images)} images and classes for {len(classes)} do not pair up")
    xp = namespace(images)
    scale = math.exp(float(log_scale))
    if classes.ndim == 2:
        cosines = images @ classes.T
    else:
        cosines = xp.matmul(classes, images[..., None])[..., 0]  # (B, V)
    return softmax_forward(scale * cosines)[0]
