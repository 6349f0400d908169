"""Cropping and normalising."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from scratch_vlm.data.images import CLIP_MEAN, CLIP_STD, center_crop, denormalize, normalize


@given(st.integers(0, 2**32 - 1), st.sampled_from([np.float32, np.float64]))
def test_denormalising_undoes_normalising(seed, dtype):
    rng = np.random.default_rng(seed)
    images = rng.random((2, 3, 4, 5)).astype(dtype)
    mean, std = rng.random(5).tolist(), (0.1 + rng.random(5)).tolist()
    there = normalize(images, mean, std)
    back = denormalize(there, mean, std)
    assert there.dtype == back.dtype == dtype
    np.testing.assert_allclose(back, images, rtol=0, atol=20 * np.finfo(dtype).eps)


def test_pixels_of_the_mean_become_zero_and_one_deviation_more_becomes_one():
    mean, std = np.array(CLIP_MEAN), np.array(CLIP_STD)
    images = np.stack([mean, mean + std]).reshape(1, 1, 2, 3)
    np.testing.assert_allclose(normalize(images, CLIP_MEAN, CLIP_STD)[0, 0], [[0] * 3, [1] * 3])


def test_one_mean_serves_all_channels():
    images = np.random.default_rng(0).random((1, 2, 2, 3))
    assert np.array_equal(normalize(images, 0.5, 0.5), normalize(images, [0.5] * 3, [0.5] * 3))


def test_bytes_are_refused_with_how_to_scale_them():
    with pytest.raises(TypeError, match=r"uint8.*/ 255"):
        normalize(np.zeros((1, 2, 2, 3), np.uint8), 0.5, 0.5)


@pytest.mark.parametrize(("mean", "std"), [([0, 0], [1, 1]), ([0] * 3, [1]), (0, 0), (0, -1)])
def test_means_and_deviations_that_do_not_fit_are_refused(mean, std):
    with pytest.raises(ValueError, match="3 channels"):
        normalize(np.zeros((1, 2, 2, 3)), mean, std)


def test_center_crop_keeps_the_middle():
    images = np.arange(6 * 5).reshape(1, 6, 5, 1)
    crop = center_crop(images, (2, 3))
    assert crop[0, :, :, 0].tolist() == [[11, 12, 13], [16, 17, 18]]
    assert np.array_equal(center_crop(images, (6, 5)), images)


@pytest.mark.parametrize("shape", [(1, 2, 9, 3), (1, 9, 2, 3), (9, 9, 3)])
def test_images_too_small_to_crop_are_refused(shape):
    with pytest.raises(ValueError, match="cannot cut 3 x 3 px"):
        center_crop(np.zeros(shape), (3, 3))


def test_what_is_no_array_of_images_is_refused():
    with pytest.raises(TypeError, match="got list"):
        normalize([[[[1.0]]]], 0.5, 0.5)
    with pytest.raises(TypeError, match="got list"):
        center_crop([[[[1.0]]]], (1, 1))
    with pytest.raises(ValueError, match="got a single number"):
        normalize(np.array(1.0), 0.5, 0.5)
    with pytest.raises(ValueError, match=r"size must be \(height, width\) .*; got 2"):
        center_crop(np.ones((1, 4, 4, 1)), 2)
