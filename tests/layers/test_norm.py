"""Normalisation: what it removes, and how it bears large numbers."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from scratch_vlm.gradcheck import check
from scratch_vlm.layers.norm import (
    NORMS,
    add_norm,
    layer_norm_backward,
    layer_norm_forward,
    layer_norm_init,
    rms_norm_forward,
    rms_norm_init,
)

seeds = st.integers(0, 2**32 - 1)


@given(seeds, st.integers(2, 40), st.floats(-3, 3), st.floats(-100, 100))
def test_each_token_gets_mean_zero_and_variance_one(seed, width, exponent, offset):
    x = 10**exponent * (np.random.default_rng(seed).standard_normal((3, width)) + offset)
    y, _ = layer_norm_forward(x, layer_norm_init(width), eps=0.0)
    np.testing.assert_allclose(y.mean(-1), 0, atol=1e-8)
    np.testing.assert_allclose(y.var(-1), 1, rtol=1e-8)


@given(seeds, st.floats(-3, 3))
def test_rms_norm_gives_mean_square_one_and_keeps_directions(seed, exponent):
    x = 10**exponent * np.random.default_rng(seed).standard_normal((3, 5))
    y, _ = rms_norm_forward(x, rms_norm_init(5), eps=0.0)
    np.testing.assert_allclose((y * y).mean(-1), 1, rtol=1e-12)
    np.testing.assert_allclose(y / x, (y / x)[:, :1] * np.ones(5), rtol=1e-12)


def test_layer_norm_is_rms_norm_of_centred_tokens():
    x = np.random.default_rng(0).standard_normal((3, 6))
    centred = x - x.mean(-1, keepdims=True)
    layer, rms = layer_norm_init(6), rms_norm_init(6)
    np.testing.assert_allclose(
        layer_norm_forward(x, layer)[0], rms_norm_forward(centred, rms)[0], rtol=1e-12
    )


@pytest.mark.parametrize("offset", [1e2, 1e4, 1e6])
def test_a_large_offset_in_float32_costs_no_more_than_its_own_rounding(offset):
    x = (np.random.default_rng(0).standard_normal((8, 128)) + offset).astype("float32")
    p = layer_norm_init(128)
    exact, _ = layer_norm_forward(x.astype(float), p)
    y, _ = layer_norm_forward(x, p)
    assert y.dtype == np.float32
    np.testing.assert_allclose(y, exact, atol=2e-7 * offset)


def test_a_constant_token_is_not_divided_by_zero():
    y, saved = layer_norm_forward(np.full((2, 4), 7.0), layer_norm_init(4))
    dx = layer_norm_backward(np.ones((2, 4)), saved, {})
    assert not y.any() and np.isfinite(dx).all()


def test_gradients_of_a_layer_norm_flow_neither_along_ones_nor_along_the_token():
    rng = np.random.default_rng(0)
    x, p = rng.standard_normal((3, 5)), {"gamma": rng.standard_normal(5), "beta": np.ones(5)}
    _, saved = layer_norm_forward(x, p, eps=0.0)
    dx = layer_norm_backward(rng.standard_normal((3, 5)), saved, {})
    np.testing.assert_allclose(dx.sum(-1), 0, atol=1e-13)
    np.testing.assert_allclose((dx * x).sum(-1), 0, atol=1e-13)


@pytest.mark.parametrize(
    ("forward", "init"), [(layer_norm_forward, layer_norm_init), (rms_norm_forward, rms_norm_init)]
)
def test_another_width_and_integers_are_refused(forward, init):
    with pytest.raises(ValueError, match="5 channels and gamma 4"):
        forward(np.ones((2, 5)), init(4))
    with pytest.raises(TypeError, match="floating point, got int64"):
        forward(np.ones((2, 4), int), init(4))


@pytest.mark.parametrize("kind", NORMS)
def test_a_sum_and_its_norm_have_the_gradient_of_the_norm_and_what_runs_past_it(kind):
    rng = np.random.default_rng(0)
    init, forward, norm_backward = NORMS[kind]
    x, added = rng.standard_normal((2, 3, 4, 5))
    p = {name: rng.standard_normal(5) for name in init(5)}

    def add_norm_forward(x, added, p):
        total, y, saved = add_norm(x, added, p, norm=kind, eps=0.1)
        return (total, y), saved

    def add_norm_backward(dy, saved, g):
        dtotal, dy = dy
        dx = norm_backward(dy, saved, g, past=dtotal)
        return dx, dx

    check(add_norm_forward, add_norm_backward, [x, added], p)
    total, y, _ = add_norm(x, added, p, norm=kind, eps=0.1)
    np.testing.assert_array_equal(total, x + added)
    np.testing.assert_array_equal(y, forward(total, p, eps=0.1)[0])
    dx = np.empty_like(x)
    _, _, saved = add_norm(x, added, p, norm=kind, eps=0.1, out=y)
    assert norm_backward(y, saved, {}, past=total, out=dx) is dx
    np.testing.assert_array_equal(dx, norm_backward(y, saved, {}) + total)


def test_sums_that_do_not_fit_and_unknown_norms_are_refused():
    x, p = np.ones((2, 4)), layer_norm_init(4)
    with pytest.raises(ValueError, match=r"x is \(2, 4\) and added \(1, 4\); they must agree"):
        add_norm(x, x[:1], p)
    with pytest.raises(ValueError, match="norm must be one of layer, rms, got 'batch'"):
        add_norm(x, x, p, norm="batch")
