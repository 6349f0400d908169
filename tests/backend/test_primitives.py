"""The shared primitives, each against the obvious form that it replaces."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from scratch_vlm.backend import (
    add_at,
    column_sum,
    erf,
    project,
    row_dot,
    row_max,
    row_mean,
    row_sum,
    rows,
)

seeds, lengths = st.integers(0, 2**32 - 1), st.integers(1, 5)


@given(seeds, st.lists(lengths, max_size=3), lengths, lengths)
def test_project_is_the_matrix_product_of_each_token(seed, leading, d, m):
    rng = np.random.default_rng(seed)
    x, w = rng.standard_normal((*leading, d)), rng.standard_normal((d, m))
    np.testing.assert_allclose(project(x, w), x @ w, rtol=1e-13, atol=1e-14)


def test_project_takes_a_transposed_view():
    rng = np.random.default_rng(0)
    x, w = rng.standard_normal((2, 3)), rng.standard_normal((4, 3))
    np.testing.assert_allclose(project(x, w.T), x @ w.T)


def test_project_names_both_widths_when_they_disagree():
    with pytest.raises(ValueError, match=r"3 channels and w takes 4.*\(2, 3\), w \(4, 5\)"):
        project(np.ones((2, 3)), np.ones((4, 5)))


@pytest.mark.parametrize("shape", [(2, 4), (4, 5), (10,)])
def test_project_refuses_an_out_of_another_shape(shape):
    with pytest.raises(ValueError, match=r"and must be \(2, 5\)"):
        project(np.ones((2, 3)), np.ones((3, 5)), out=np.empty(shape))


def test_project_refuses_an_out_that_is_not_contiguous():
    with pytest.raises(ValueError, match="C-contiguous"):
        project(np.ones((2, 3)), np.ones((3, 5)), out=np.empty((5, 2)).T)


def test_project_refuses_weights_that_are_no_matrix():
    with pytest.raises(ValueError, match=r"matrix.*\(3,\)"):
        project(np.ones((2, 3)), np.ones(3))


def test_project_refuses_integers_and_lists():
    with pytest.raises(TypeError, match="floating point, got int64"):
        project(np.ones((2, 3), np.int64), np.ones((3, 5)))
    with pytest.raises(TypeError, match="got list"):
        project([1.0, 2.0, 3.0], np.ones((3, 5)))


def test_rows_of_a_contiguous_array_are_a_view():
    x = np.zeros((2, 3, 4))
    assert rows(x).shape == (6, 4)
    assert np.shares_memory(rows(x), x)


@given(seeds, st.lists(lengths, max_size=2), lengths, st.booleans())
def test_sums_and_means_are_their_definitions(seed, leading, d, imaginary):
    rng = np.random.default_rng(seed)
    a, b = rng.standard_normal((2, *leading, d)) + 1j * imaginary * rng.standard_normal(d)
    a, b = (a, b) if imaginary else (a.real, b.real)
    np.testing.assert_allclose(row_dot(a, b), (a * b).sum(-1, keepdims=True), atol=1e-13)
    np.testing.assert_allclose(row_mean(a), a.mean(-1, keepdims=True), atol=1e-14)
    np.testing.assert_allclose(row_sum(a), a.sum(-1, keepdims=True), atol=1e-14)
    np.testing.assert_allclose(column_sum(a), rows(a).sum(0), atol=1e-13)
    np.testing.assert_array_equal(row_max(a), a.real.max(-1, keepdims=True))


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", "complex64", "complex128"])
def test_sums_keep_the_dtype(dtype):
    x = np.ones((2, 3, 4), dtype)
    assert row_sum(x).dtype == column_sum(x).dtype == dtype
    assert (row_sum(x) == 4).all() and (column_sum(x) == 6).all()
    assert column_sum(x.real.astype("float16"), "float32").dtype == "float32"


def test_the_largest_of_nothing_but_minus_infinities_is_finite():
    x = np.array([[-np.inf, -np.inf], [-np.inf, -3.0], [np.nan, 1.0], [np.inf, 0.0]], "float32")
    top = row_max(x)[:, 0]
    assert top.dtype == "float32" and top[0] == np.finfo("float32").min and top[1] == -3
    assert np.isnan(top[2]) and top[3] == np.inf


@pytest.mark.parametrize("vocabulary", [7, 256, 257, 5000])
def test_add_at_sums_repeats_in_small_and_in_big_tables(vocabulary):
    rng = np.random.default_rng(0)
    target = rng.standard_normal((vocabulary, 3))
    index = np.concatenate([[vocabulary - 1, 0, 0], rng.integers(0, 7, 17)]).reshape(4, 5)
    values = rng.standard_normal((4, 5, 3))
    right = target.copy()
    np.add.at(right, index, values)
    add_at(target, index, values)
    np.testing.assert_allclose(target, right, atol=1e-13)


def test_erf_is_odd_and_ends_at_one():
    x = np.linspace(0, 8, 50)
    np.testing.assert_allclose(erf(-x), -erf(x))
    assert erf(np.array([0.0, 8.0])).tolist() == [0.0, 1.0]
