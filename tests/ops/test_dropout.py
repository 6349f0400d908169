"""Dropout keeps the expected value, and is off when it should be."""

import numpy as np
import pytest

from scratch_vlm.ops.dropout import dropout_backward, dropout_forward


@pytest.mark.parametrize("rate", [0.1, 0.5, 0.9])
def test_the_expected_value_is_kept(rate):
    n = 200_000
    y, _ = dropout_forward(np.ones(n), rate=rate, rng=np.random.default_rng(0))
    deviation = np.sqrt(rate / (1 - rate) / n)
    assert abs(y.mean() - 1) < 5 * deviation
    assert abs((y == 0).mean() - rate) < 5 * np.sqrt(rate * (1 - rate) / n)
    np.testing.assert_allclose(np.unique(y), [0, 1 / (1 - rate)])


def test_rate_zero_is_the_identity_and_draws_nothing():
    x, rng = np.ones(3), np.random.default_rng(0)
    y, saved = dropout_forward(x, rate=0.0, rng=rng)
    assert y is x and saved is None
    assert rng.random() == np.random.default_rng(0).random()


def test_without_a_generator_it_is_the_identity():
    x, dy = np.ones(3), np.full(3, 2.0)
    y, saved = dropout_forward(x, rate=0.9, rng=None)
    assert y is x and dropout_backward(dy, saved) is dy


def test_what_was_silenced_gets_no_gradient():
    y, saved = dropout_forward(np.ones(100), rate=0.5, rng=np.random.default_rng(0))
    assert np.array_equal(dropout_backward(np.ones(100), saved), y)


def test_the_same_numbers_fall_whatever_the_dtype():
    a, b = (
        dropout_forward(np.ones(50, dtype), rate=0.3, rng=np.random.default_rng(1))[0] == 0
        for dtype in ("float32", "float64")
    )
    assert np.array_equal(a, b)


@pytest.mark.parametrize("rate", [1.0, -0.1, 2, float("nan")])
def test_rates_outside_zero_to_one_are_refused_even_without_a_generator(rate):
    with pytest.raises(ValueError, match=f"below 1, got {rate}"):
        dropout_forward(np.ones(3), rate=rate, rng=None)
