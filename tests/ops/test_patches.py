"""Patches: a strided convolution in disguise, and errors that suggest sizes."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import signal

from scratch_vlm.ops.patches import patch_grid, patchify_forward, unpatchify_forward

seeds, few = st.integers(0, 2**32 - 1), st.integers(1, 4)


@given(seeds, few, few, few, few, st.integers(1, 3))
def test_a_linear_layer_on_patches_is_a_strided_convolution(seed, rows, columns, h, w, channels):
    rng = np.random.default_rng(seed)
    images = rng.standard_normal((2, rows * h, columns * w, channels))
    kernels = rng.standard_normal((h, w, channels, 5))
    patches, _ = patchify_forward(images, patch=(h, w))
    tokens = patches @ kernels.reshape(-1, 5)
    for b, m in np.ndindex(2, 5):
        # The convolution of deep learning is a correlation; all channels add up.
        slid = sum(
            signal.correlate2d(images[b, :, :, c], kernels[:, :, c, m], mode="valid")
            for c in range(channels)
        )
        np.testing.assert_allclose(
            tokens[b, :, m].reshape(rows, columns), slid[::h, ::w], atol=1e-12
        )


def test_patches_come_in_reading_order_with_channels_last():
    image = np.arange(2 * 4 * 2).reshape(1, 2, 4, 2)
    patches, _ = patchify_forward(image, patch=(1, 2))
    assert patches[0].tolist() == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10, 11], [12, 13, 14, 15]]


@given(seeds, few, few, few, few, few)
def test_unpatchify_inverts_patchify(seed, rows, columns, h, w, channels):
    images = np.random.default_rng(seed).standard_normal((2, rows * h, columns * w, channels))
    patches, _ = patchify_forward(images, patch=(h, w))
    assert patches.shape == (2, rows * columns, h * w * channels)
    again, _ = unpatchify_forward(patches, size=images.shape[1:3], patch=(h, w))
    assert np.array_equal(again, images)


@pytest.mark.parametrize(
    ("image", "patch", "message"),
    [
        ((30, 32, 3), (16, 16), "height 30 px is not a multiple.* 16 px; 16 or 32 px"),
        ((32, 100, 3), (16, 16), "width 100 px is not a multiple.* 16 px; 96 or 112 px"),
        ((8, 32, 3), (16, 16), "height 8 px is not a multiple.* 16 px; 16 or 32 px"),
        ((32, 32, 3), (16, 0), r"patch must be \(height, width\) in pixels, .* got \(16, 0\)"),
        ((32, 32, 3), (16,), r"patch must be \(height, width\) in pixels, .* got \(16,\)"),
        ((32, 32, 3), 16, r"patch must be \(height, width\) in pixels, .* got 16"),
        ((32, 32), (16, 16), r"got 3 axes; add a channel axis with images\[..., None\]"),
        ((1, 2, 32, 32, 3), (16, 16), r"\(B, H, W, C\); got 6 axes$"),
    ],
)
def test_what_does_not_divide_is_refused_with_what_would_fit(image, patch, message):
    with pytest.raises(ValueError, match=message):
        patch_grid(image, patch)
    with pytest.raises(ValueError, match=message):
        patchify_forward(np.ones((1, *image)), patch=patch)


@pytest.mark.parametrize("shape", [(1, 3, 48), (1, 4, 47), (1, 4, 8)])
def test_patches_that_do_not_fill_the_image_are_refused(shape):
    with pytest.raises(ValueError, match="8 x 8 px: 4 patches of 4 x 4 px"):
        unpatchify_forward(np.ones(shape), size=(8, 8), patch=(4, 4))


def test_patches_of_other_than_three_axes_are_refused():
    with pytest.raises(ValueError, match=r"\(B, N, P\), got \(4, 48\)"):
        unpatchify_forward(np.ones((4, 48)), size=(8, 8), patch=(4, 4))


def test_a_size_of_other_than_two_numbers_is_refused():
    with pytest.raises(ValueError, match=r"size must be \(height, width\)"):
        unpatchify_forward(np.ones((1, 4, 48)), size=(8, 8, 3), patch=(4, 4))


@pytest.mark.parametrize("patch", [(4.0, 4), (4, "4"), 4, (4,)])
def test_a_patch_that_is_not_two_whole_numbers_is_refused(patch):
    with pytest.raises(ValueError, match=r"patch must be \(height, width\) .*; got"):
        patchify_forward(np.ones((1, 8, 8, 3)), patch=patch)


def test_lists_are_refused():
    with pytest.raises(TypeError, match="got list"):
        patchify_forward([[[[1.0]]]], patch=(1, 1))
    with pytest.raises(TypeError, match="got list"):
        unpatchify_forward([[[1.0]]], size=(1, 1), patch=(1, 1))
