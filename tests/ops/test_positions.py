"""Sines, cosines, and tables that stretch."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from scratch_vlm.ops.positions import (
    interpolate_positions_backward,
    interpolate_positions_forward,
    sincos_positions,
    sincos_positions_2d,
)


def test_the_table_is_the_formula():
    table = sincos_positions(np.arange(5.0), 6, longest=100.0)
    for t, i in np.ndindex(5, 3):
        angle = t * 100.0 ** (-2 * i / 6)
        np.testing.assert_allclose(table[t, [i, i + 3]], [np.sin(angle), np.cos(angle)])


@given(st.integers(1, 16), st.floats(-50, 50), st.floats(-50, 50))
def test_the_product_of_two_places_depends_on_their_distance_alone(half, here, there):
    a, b = sincos_positions(np.array([here, there]), 2 * half)
    zero, apart = sincos_positions(np.array([0.0, here - there]), 2 * half)
    np.testing.assert_allclose(a @ b, zero @ apart, atol=1e-10)
    np.testing.assert_allclose(a @ a, half)


def test_one_step_is_a_rotation_that_is_the_same_everywhere():
    table = sincos_positions(np.arange(20.0), 8)
    step = np.linalg.lstsq(table[:-1], table[1:], rcond=None)[0]
    np.testing.assert_allclose(table[:-1] @ step, table[1:], atol=1e-12)
    assert np.linalg.matrix_rank(table) == 8


def test_no_two_patches_share_a_vector_and_rows_and_columns_are_told_apart():
    table = sincos_positions_2d(3, 4, 8).reshape(3, 4, 8)
    assert len(np.unique(table.reshape(12, 8), axis=0)) == 12
    assert np.array_equal(table[1, 0, :4], table[1, 3, :4])  # the half for the row
    assert np.array_equal(table[0, 2, 4:], table[2, 2, 4:])  # the half for the column
    assert not np.array_equal(table[0, 1], table[1, 0])


@pytest.mark.parametrize("width", [0, 5, -2])
def test_odd_widths_are_refused(width):
    with pytest.raises(ValueError, match=f"even width, got {width}"):
        sincos_positions(np.arange(3), width)


@pytest.mark.parametrize("width", [0, 2, 6])
def test_widths_that_four_does_not_divide_are_refused_in_two_dimensions(width):
    with pytest.raises(ValueError, match=f"4 divides, got {width}"):
        sincos_positions_2d(2, 2, width)


def test_the_same_grid_returns_the_same_table():
    table = np.ones((7, 3))
    again, saved = interpolate_positions_forward(table, old=(2, 3), new=(2, 3))
    assert again is table
    assert interpolate_positions_backward(table, saved) is table


@pytest.mark.parametrize("method", ["bicubic", "bilinear"])
@pytest.mark.parametrize("new", [(4, 4), (1, 5), (7, 2)])
def test_rows_of_tokens_that_are_no_patches_stay(method, new):
    table = np.random.default_rng(0).standard_normal((2 + 9, 4))
    stretched, _ = interpolate_positions_forward(table, old=(3, 3), new=new, method=method)
    assert stretched.shape == (2 + new[0] * new[1], 4)
    assert np.array_equal(stretched[:2], table[:2])


def test_a_constant_table_stays_constant_and_a_ramp_keeps_its_order():
    constant, _ = interpolate_positions_forward(np.full((9, 2), 0.3), old=(3, 3), new=(5, 2))
    np.testing.assert_allclose(constant, 0.3)
    ramp = np.repeat(np.arange(3.0), 3)[:, None]  # grows down the rows only
    stretched, _ = interpolate_positions_forward(ramp, old=(3, 3), new=(6, 4), method="bilinear")
    grid = stretched.reshape(6, 4)
    assert (np.diff(grid[:, 0]) > 0).sum() >= 4 and np.allclose(grid, grid[:, :1])


def test_a_table_that_does_not_cover_the_grid_is_refused():
    with pytest.raises(ValueError, match="table of 3 rows does not cover 2 x 2"):
        interpolate_positions_forward(np.ones((3, 4)), old=(2, 2), new=(3, 3))


def test_a_table_of_other_than_two_axes_is_refused():
    with pytest.raises(ValueError, match=r"\(T, D\), got \(4,\)"):
        interpolate_positions_forward(np.ones(4), old=(2, 2), new=(3, 3))


def test_an_unknown_method_is_refused():
    with pytest.raises(ValueError, match="'nearest'"):
        interpolate_positions_forward(np.ones((4, 4)), old=(2, 2), new=(3, 3), method="nearest")
