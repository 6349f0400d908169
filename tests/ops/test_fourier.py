"""Fourier positions: which waves, over which coordinates, in which order."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from scratch_vlm.ops.fourier import fourier_positions

shapes = st.lists(st.integers(1, 5), min_size=1, max_size=3).map(tuple)


@given(shapes, st.integers(0, 4))
def test_there_is_a_row_for_each_place_and_twice_the_bands_and_one_for_each_axis(shape, bands):
    table = fourier_positions(shape, bands)
    assert table.shape == (math.prod(shape), len(shape) * (2 * bands + 1))
    assert np.abs(table).max() <= 1


def test_imagenet_has_258_columns():
    assert fourier_positions((224, 224), 64)[:1].shape == (1, 258)


def test_columns_are_coordinates_then_sines_then_cosines_of_linear_frequencies():
    table = fourier_positions((5, 8), 3).reshape(5, 8, -1)
    down, across = np.linspace(-1, 1, 5), np.linspace(-1, 1, 8)
    i, j = 3, 6
    right = [down[i], across[j]]
    for wave in (math.sin, math.cos):
        right += [wave(math.pi * f * down[i]) for f in (1, 1.75, 2.5)]
        right += [wave(math.pi * f * across[j]) for f in (1, 2.5, 4)]
    np.testing.assert_allclose(table[i, j], right, atol=1e-12)


@given(shapes.filter(lambda shape: max(shape) > 1), st.integers(1, 3))
def test_no_two_places_share_a_row(shape, bands):
    assert len(np.unique(fourier_positions(shape, bands), axis=0)) == math.prod(shape)


def test_a_single_place_stands_in_the_middle():
    assert fourier_positions((1,), 2).tolist() == [[0, 0, 0, 1, 1]]


def test_without_bands_there_are_the_coordinates_alone():
    assert fourier_positions((2, 2), 0).tolist() == [[-1, -1], [-1, 1], [1, -1], [1, 1]]


def test_another_resolution_is_seen_through_the_same_waves():
    coarse = fourier_positions((5,), 3)
    fine = fourier_positions((9,), 3, trained=(5,))
    np.testing.assert_allclose(fine[::2], coarse, atol=1e-12)
    assert not np.allclose(fourier_positions((9,), 3)[::2], coarse)


@pytest.mark.parametrize(
    ("shape", "bands", "trained", "message"),
    [
        ((), 1, None, r"shape must be the positive length of each axis.*; got \(\)"),
        ((3, 0), 1, None, r"shape must be the positive length.*; got \(3, 0\)"),
        (8, 1, None, "shape must be the positive length.*; got 8"),
        ((3, 2.5), 1, None, r"shape must be.*; got \(3, 2.5\)"),
        ((3,), 1, (-1,), r"trained must be the positive length.*; got \(-1,\)"),
        ((3,), 1, (3, 3), r"trained \(3, 3\) must have as many axes as shape \(3,\)"),
        ((3,), -1, None, "bands must be a whole number of at least 0, got -1"),
        ((3,), 1.5, None, "bands must be a whole number of at least 0, got 1.5"),
    ],
)
def test_what_is_no_grid_is_refused(shape, bands, trained, message):
    with pytest.raises(ValueError, match=message):
        fourier_positions(shape, bands, trained=trained)
