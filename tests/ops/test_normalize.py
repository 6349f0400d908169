"""Softmax and unit vectors."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import special

from scratch_vlm.ops.normalize import (
    l2_normalize_backward,
    l2_normalize_forward,
    softmax_backward,
    softmax_forward,
)

seeds = st.integers(0, 2**32 - 1)


@given(seeds, st.floats(-3, 3))
def test_softmax_is_that_of_scipy_and_ignores_shifts(seed, exponent):
    x = 10**exponent * np.random.default_rng(seed).standard_normal((3, 4))
    y, _ = softmax_forward(x)
    np.testing.assert_allclose(y, special.softmax(x, -1), rtol=1e-12)
    np.testing.assert_allclose(softmax_forward(x + 7)[0], y, rtol=1e-10)


def test_softmax_of_large_scores_does_not_overflow():
    with np.errstate(all="raise", under="ignore"):
        y, _ = softmax_forward(np.array([1e4, -1e4, 1e4], "float32"))
    assert y.tolist() == [0.5, 0, 0.5]


@given(seeds)
def test_softmax_gradients_sum_to_zero_in_each_row(seed):
    rng = np.random.default_rng(seed)
    y, saved = softmax_forward(rng.standard_normal((3, 4)))
    np.testing.assert_allclose(
        softmax_backward(rng.standard_normal(y.shape), saved).sum(-1), 0, atol=1e-14
    )


@given(seeds, st.floats(-5, 5))
def test_unit_vectors_have_length_one_and_do_not_see_scale(seed, exponent):
    x = np.random.default_rng(seed).standard_normal((4, 3))
    y, _ = l2_normalize_forward(10**exponent * x)
    np.testing.assert_allclose(np.linalg.norm(y, axis=-1), 1, rtol=1e-14)
    np.testing.assert_allclose(y, l2_normalize_forward(x)[0], rtol=1e-12)


@pytest.mark.parametrize("length", [2e-19, 1.0, 1e19])
def test_short_and_long_rows_of_float32_become_unit_vectors(length):
    y, _ = l2_normalize_forward(np.array([[0.6 * length, 0, -0.8 * length]], "float32"))
    np.testing.assert_allclose(y, [[0.6, 0, -0.8]], rtol=1e-6)


@given(seeds)
def test_the_gradient_of_a_unit_vector_is_orthogonal_to_it(seed):
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((4, 3))
    y, saved = l2_normalize_forward(x)
    dx = l2_normalize_backward(rng.standard_normal(y.shape), saved)
    np.testing.assert_allclose((dx * x).sum(-1), 0, atol=1e-13)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_row_of_zeros_stays_zeros(dtype):
    with np.errstate(all="raise"):
        y, _ = l2_normalize_forward(np.zeros((2, 3), dtype))
    assert not y.any()


@pytest.mark.parametrize("f", [softmax_forward, l2_normalize_forward])
def test_integers_are_refused(f):
    with pytest.raises(TypeError, match="floating point, got int64"):
        f(np.arange(3))
