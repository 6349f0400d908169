"""Images on their way into a model: cropping and normalising."""

import numpy as np

from scratch_vlm.backend import namespace
from scratch_vlm.ops.patches import check_pixels

# Mean and standard deviation of the channels of CLIP's training images in [0, 1]
# (openai/CLIP, clip/clip.py).
CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)


def normalize(images, mean, std):
    """Shift and scale the channels of images to about zero mean and unit variance.

    Parameters
    ----------
    images : array of shape (..., C)
        Floating point, usually in [0, 1].
    mean, std : sequence of float
        One for each channel, or one for all.

    Returns
    -------
    array of shape (..., C)

    Raises
    ------
    TypeError
        If the images are not an array of floating point numbers.
    ValueError
        If there are neither one nor C means and deviations, or a deviation is not positive.
    """
    mean, std = _per_channel(images, mean, std)
    return (images - mean) / std


def denormalize(images, mean, std):
    """Undo `normalize`.

    Parameters
    ----------
    images : array of shape (..., C)
        Normalised images.
    mean, std : sequence of float
        As they were given to `normalize`.

    Returns
    -------
    array of shape (..., C)

    Raises
    ------
    TypeError
        If the images are not an array of floating point numbers.
    ValueError
        If there are neither one nor C means and deviations, or a deviation is not positive.
    """
    mean, std = _per_channel(images, mean, std)
    return images * std + mean


def center_crop(images, size):
    """Cut the middle out of images.

    Parameters
    ----------
    images : array of shape (B, H, W, C)
        Images.
    size : tuple of int
        Height and width to keep, in pixels.

    Returns
    -------
    array of shape (B, I, J, C)
        A view. Of an odd number of pixels to remove, the extra one goes at the end.

    Raises
    ------
    TypeError
        If the images are not an array.
    ValueError
        If the images are smaller than `size`, or it is not a height and a width.
    """
    namespace(images)  # refuses a list
    check_pixels(size=size)
    if images.ndim != 4 or images.shape[1] < size[0] or images.shape[2] < size[1]:
        raise ValueError(
            f"cannot cut {size[0]} x {size[1]} px out of images {images.shape}, (B, H, W, C)"
        )
    top, left = ((n - m) // 2 for n, m in zip(images.shape[1:3], size, strict=True))
    return images[:, top : top + size[0], left : left + size[1]]


def _per_channel(images, mean, std):
    xp = namespace(images)
    if images.dtype.kind != "f":
        raise TypeError(
            f"images must be floating point, got {images.dtype}; "
            "scale bytes with images.astype('float32') / 255"
        )
    if not images.ndim:
        raise ValueError("images must be (..., C), got a single number, shape ()")
    channels = images.shape[-1]
    mean, std = (np.atleast_1d(np.asarray(v, images.dtype)) for v in (mean, std))
    if mean.shape != std.shape or mean.shape not in ((1,), (channels,)) or not (std > 0).all():
        raise ValueError(
            f"images of {channels} channels need one or {channels} means and positive "
            f"deviations; got {mean.tolist()} and {std.tolist()}"
        )
    return xp.asarray(mean), xp.asarray(std)
