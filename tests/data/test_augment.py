"""Random affine warps, against what an affine map must do."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from scratch_vlm.data.augment import Affine, affine
from scratch_vlm.data.digits import load_digits

STILL = Affine(degrees=0, scale=0, shift=0, shear=0)
seeds = st.integers(0, 2**32 - 1)
sizes = st.integers(1, 9)


def blob(middle_y, middle_x, size=33):
    """A smooth round spot."""
    y, x = np.mgrid[:size, :size]
    spot = np.exp(-((y - middle_y) ** 2 + (x - middle_x) ** 2) / 18)
    return spot.astype(np.float32)


def moments(image):
    """Mass, and its centre."""
    y, x = np.mgrid[: image.shape[0], : image.shape[1]]
    mass = image.sum()
    return mass, (image * y).sum() / mass, (image * x).sum() / mass


@given(seeds, sizes, sizes)
def test_a_warp_by_nothing_is_the_identity(seed, height, width):
    images = np.random.default_rng(seed).random((3, height, width), np.float32)
    assert np.array_equal(affine(np.random.default_rng(seed), images, STILL), images)


@given(seeds, sizes, sizes)
def test_warped_ink_stays_in_range_and_float32(seed, height, width):
    images = np.random.default_rng(seed).random((3, height, width), np.float32)
    warped = affine(np.random.default_rng(seed), images, Affine(180, 1, 3, 1))
    assert warped.shape == images.shape and warped.dtype == np.float32
    assert warped.min() >= 0 and warped.max() <= images.max() + 1e-6


@given(seeds)
def test_a_shift_moves_the_centre_by_at_most_its_amount(seed):
    images = np.stack([blob(16, 16)] * 8)
    moved = [
        moments(image)
        for image in affine(np.random.default_rng(seed), images, Affine(0, 0, 2.0, 0))
    ]
    mass, y, x = np.array(moved).T
    np.testing.assert_allclose(mass, images[0].sum(), rtol=1e-3)
    assert np.abs(y - 16).max() <= 2.01 and np.abs(x - 16).max() <= 2.01
    assert np.ptp(y) > 0.1 and np.ptp(x) > 0.1  # each image by an amount of its own


@given(seeds)
def test_a_rotation_keeps_the_distance_from_the_middle(seed):
    images = np.stack([blob(16, 22)] * 8)
    turned = affine(np.random.default_rng(seed), images, Affine(30, 0, 0, 0))
    _, y, x = np.array([moments(image) for image in turned]).T
    np.testing.assert_allclose(np.hypot(y - 16, x - 16), 6, atol=0.02)
    assert np.abs(np.arctan2(y - 16, x - 16)).max() <= np.radians(30.2)


@given(seeds)
def test_a_shear_moves_rows_sideways_and_never_up(seed):
    images = np.stack([blob(10, 16)] * 8)
    slanted = affine(np.random.default_rng(seed), images, Affine(0, 0, 0, 0.5))
    _, y, x = np.array([moments(image) for image in slanted]).T
    np.testing.assert_allclose(y, 10, atol=0.02)
    assert np.abs(x - 16).max() <= 0.5 * 6 + 0.02 and np.ptp(x) > 0.1


def test_outside_of_the_image_is_black():
    images = np.ones((64, 5, 5), np.float32)
    warped = affine(np.random.default_rng(0), images, Affine(0, 0, 50.0, 0))
    assert (warped == 0).all(axis=(1, 2)).sum() > 32


def test_the_generator_alone_decides_the_warps():
    images = load_digits().images[:20]
    one, two = (affine(np.random.default_rng(4), images, Affine()) for _ in range(2))
    other = affine(np.random.default_rng(5), images, Affine())
    assert np.array_equal(one, two) and not np.array_equal(one, other)


def test_images_are_left_alone():
    images = np.ones((2, 4, 4), np.float32)
    affine(np.random.default_rng(0), images, Affine())
    assert (images == 1).all()


def test_a_negative_amount_is_refused():
    with pytest.raises(ValueError, match=r"at least 0.*-1"):
        Affine(degrees=-1)


def test_images_without_a_batch_are_refused():
    with pytest.raises(ValueError, match=r"\(8, 8\)"):
        affine(np.random.default_rng(0), np.ones((8, 8)), Affine())
