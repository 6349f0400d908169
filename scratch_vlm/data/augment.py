"""Augmentation: the same digit as another day's hand might have drawn it."""

import math
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Affine:
    """How far a random affine warp may go; each amount is drawn evenly up to both sides.

    Attributes
    ----------
    degrees : float
        Rotation.
    scale : float
        Natural logarithm of the stretch of each axis.
    shift : float
        Translation of each axis, in pixels.
    shear : float
        Slant: pixels to the side for each pixel down.
    """

    degrees: float = 15.0
    scale: float = 0.15
    shift: float = 0.8
    shear: float = 0.2

    def __post_init__(self):
        if min(self.degrees, self.scale, self.shift, self.shear) < 0:
            raise ValueError(f"the amounts of a warp are at least 0, got {self}")


def affine(rng, images, amount):
    """Warp each image by an affine map of its own.

    Parameters
    ----------
    rng : numpy.random.Generator
        Draws the warps.
    images : array of shape (B, H, W)
        Grey images; what is outside of them is zero.
    amount : Affine
        How far the warps may go.

    Returns
    -------
    array of shape (B, H, W)
        New images, bilinearly sampled.

    Raises
    ------
    ValueError
        If `images` has not three axes.
    """
    if images.ndim != 3:
        raise ValueError(f"images must be (B, H, W), got {images.shape}")
    b, h, w = images.shape

    def draw(most):
        return rng.uniform(-most, most, (b, 1, 1)).astype(np.float32)

    angle, shear = draw(math.radians(amount.degrees)), draw(amount.shear)
    stretch_y, stretch_x = np.exp(draw(amount.scale)), np.exp(draw(amount.scale))
    shift_y, shift_x = draw(amount.shift), draw(amount.shift)
    y = (np.arange(h, dtype=np.float32) - (h - 1) / 2)[:, None]
    x = np.arange(w, dtype=np.float32) - (w - 1) / 2
    cos, sin = np.cos(angle), np.sin(angle)
    # Where each new pixel looks in the old image.
    from_y = (cos * y - sin * x) * stretch_y + shift_y + (h - 1) / 2  # (B, H, W)
    from_x = (sin * y + cos * x + shear * y) * stretch_x + shift_x + (w - 1) / 2
    return _sample(images, from_y, from_x)


def _sample(images, y, x):
    b, h, w = images.shape
    padded = np.pad(images, ((0, 0), (1, 2), (1, 2)))
    # Beyond the border of zeros every place is as black as the border itself.
    y, x = np.clip(y, -1, h) + 1, np.clip(x, -1, w) + 1
    top, left = y.astype(np.intp), x.astype(np.intp)
    # Bilinear weights, 0 to 1. Minus integers, float32 would become float64.
    down, right = y - top.astype(y.dtype), x - left.astype(x.dtype)
    flat = padded.reshape(-1)
    first = (np.arange(b)[:, None, None] * (h + 3) + top) * (w + 3) + left
    upper = flat[first] * (1 - right) + flat[first + 1] * right
    lower = flat[first + w + 3] * (1 - right) + flat[first + w + 4] * right
    return upper * (1 - down) + lower * down
