"""Pixel shuffle: every square of patches is one token, and nothing is lost."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from scratch_vlm.ops.patches import patchify_forward
from scratch_vlm.ops.pixel_shuffle import (
    pixel_shuffle_backward,
    pixel_shuffle_forward,
    shuffled_grid,
)

few = st.integers(1, 4)


def test_two_by_two_patches_become_one_token_row_by_row():
    patches = np.array([[[1.0, 2.0], [3.0, 4.0], [5.0, 6.0], [7.0, 8.0]]])
    y, _ = pixel_shuffle_forward(patches, grid=(2, 2), by=2)
    assert y.tolist() == [[[1, 2, 3, 4, 5, 6, 7, 8]]]


def test_squares_come_in_reading_order():
    places = np.arange(24.0).reshape(24, 1)  # six patches a row
    y, _ = pixel_shuffle_forward(places, grid=(4, 6), by=2)
    assert y.tolist() == [
        [0, 1, 6, 7],
        [2, 3, 8, 9],
        [4, 5, 10, 11],
        [12, 13, 18, 19],
        [14, 15, 20, 21],
        [16, 17, 22, 23],
    ]


@given(few, few, st.integers(1, 3), few, few)
def test_it_is_patchify_on_an_image_of_patches(rows, columns, by, batch, channels):
    grid = (rows * by, columns * by)
    image = np.random.default_rng(0).standard_normal((batch, *grid, channels))
    y, saved = pixel_shuffle_forward(
        image.reshape(batch, grid[0] * grid[1], channels), grid=grid, by=by
    )
    assert np.array_equal(y, patchify_forward(image, patch=(by, by))[0])
    back = pixel_shuffle_backward(y, saved)
    assert np.array_equal(back.reshape(image.shape), image)


def test_by_one_leaves_patches_as_they_are():
    x = np.random.default_rng(0).standard_normal((2, 3, 12, 5))
    assert np.array_equal(pixel_shuffle_forward(x, grid=(3, 4), by=1)[0], x)


def test_a_class_token_among_the_patches_is_refused():
    with pytest.raises(ValueError, match=r"has 17 patches; a grid of 4 x 4 has 16, class tokens"):
        pixel_shuffle_forward(np.ones((2, 17, 3)), grid=(4, 4), by=2)


@pytest.mark.parametrize(
    ("grid", "by", "message"),
    [
        ((4, 6), 4, "by 4 must divide rows and columns of the grid 4 x 6; 1 or 2 would"),
        ((6, 4), 4, "grid 6 x 4; 1 or 2 would"),
        ((6, 6), 12, "grid 6 x 6; 1 or 2 or 3 or 6 would"),
        ((4, 6), 0, "by must be a positive whole number, got 0"),
        ((4, 6), 2.0, "by must be a positive whole number, got 2.0"),
        ((4, 6, 1), 2, r"grid must be \(rows, columns\) .* got \(4, 6, 1\)"),
        ((0, 6), 2, r"two positive whole numbers; got \(0, 6\)"),
        (24, 2, "two positive whole numbers; got 24"),
    ],
)
def test_grids_without_squares_are_refused_with_what_would_fit(grid, by, message):
    with pytest.raises(ValueError, match=message):
        shuffled_grid(grid, by)
    with pytest.raises(ValueError, match=message):
        pixel_shuffle_forward(np.ones((1, 24, 3)), grid=grid, by=by)


def test_what_has_no_patches_of_channels_is_refused():
    with pytest.raises(ValueError, match=r"must be \(..., N, D\), patches of D channels; got \(4,"):
        pixel_shuffle_forward(np.ones(4), grid=(2, 2), by=2)
    with pytest.raises(TypeError, match="got list"):
        pixel_shuffle_forward([[1.0]], grid=(1, 1), by=1)
