"""Pooling: which tokens count."""

import numpy as np
import pytest

from scratch_vlm.layers.pool import (
    attention_pool_forward,
    attention_pool_init,
    mean_pool_backward,
    mean_pool_forward,
    pick_backward,
    pick_forward,
)

X = np.random.default_rng(0).standard_normal((2, 3, 4))


@pytest.mark.parametrize("index", [np.array([2, 0]), [2, 0]])
def test_picking_takes_one_token_of_each_sequence(index):
    y, saved = pick_forward(X, index=index)
    assert np.array_equal(y, [X[0, 2], X[1, 0]])
    dx = pick_backward(np.ones((2, 4)), saved)
    assert dx.sum(-1).tolist() == [[0, 0, 4], [4, 0, 0]]


def test_one_number_picks_the_same_token_of_all():
    assert np.array_equal(pick_forward(X, index=1)[0], X[:, 1])
    assert np.array_equal(pick_forward(X, index=np.int64(1))[0], X[:, 1])


@pytest.mark.parametrize("index", [3, -1, np.array([0, 3]), np.array([-1, 0])])
def test_a_place_that_is_not_there_is_refused(index):
    with pytest.raises(ValueError, match="index must be from 0 to 2, got"):
        pick_forward(X, index=index)


@pytest.mark.parametrize("index", [np.array([0, 1, 1]), np.array([0.0, 1.0]), np.array([[0, 1]])])
def test_an_index_of_another_shape_or_dtype_is_refused(index):
    with pytest.raises(ValueError, match="whole number or 2 of them; got"):
        pick_forward(X, index=index)


def test_the_mean_is_over_the_tokens_that_count():
    mask = np.array([[True, False, True], [False, False, False]])
    y, weight = mean_pool_forward(X, mask=mask)
    np.testing.assert_allclose(y[0], (X[0, 0] + X[0, 2]) / 2)
    assert not y[1].any()  # a sequence without any
    dx = mean_pool_backward(np.ones((2, 4)), weight)
    assert dx[..., 0].tolist() == [[0.5, 0, 0.5], [0, 0, 0]]
    np.testing.assert_allclose(mean_pool_forward(X)[0], X.mean(1))


def test_a_mask_of_another_shape_or_dtype_is_refused():
    with pytest.raises(ValueError, match=r"mask \(2, 4\).*\(2, 3\)"):
        mean_pool_forward(X, mask=np.ones((2, 4), bool))
    with pytest.raises(TypeError, match="boolean, True = counts; got dtype float64"):
        mean_pool_forward(X, mask=np.ones((2, 3)))


def test_attention_pooling_does_not_see_the_order_of_tokens():
    p = attention_pool_init(np.random.default_rng(0), 4, 6, heads=2)
    y, _ = attention_pool_forward(X, p, heads=2)
    np.testing.assert_allclose(attention_pool_forward(X[:, [2, 0, 1]], p, heads=2)[0], y, rtol=1e-6)
    assert y.shape == (2, 4)


def test_attention_pooling_names_the_widths_that_differ():
    p = attention_pool_init(np.random.default_rng(0), 6, 6, heads=2)
    with pytest.raises(ValueError, match="x has 4 channels and the probe 6"):
        attention_pool_forward(X, p, heads=2)


@pytest.mark.parametrize("f", [mean_pool_forward, lambda x: pick_forward(x, index=0)])
@pytest.mark.parametrize("shape", [(3, 4), (2, 0, 4)])
def test_what_are_no_tokens_is_refused(f, shape):
    with pytest.raises(ValueError, match=r"\(B, T, D\) with T at least 1, got"):
        f(np.ones(shape))


@pytest.mark.parametrize("index", [0.5, (0, 1), None])
def test_an_index_that_is_neither_a_whole_number_nor_an_array_is_refused(index):
    with pytest.raises(TypeError, match="a whole number or an array of them, got"):
        pick_forward(X, index=index)


def test_a_whole_number_of_numpy_is_an_index():
    np.testing.assert_array_equal(pick_forward(X, index=np.int64(1))[0], X[:, 1])


def test_a_list_is_no_mask():
    with pytest.raises(TypeError, match="got list"):
        mean_pool_forward(X, mask=[[True] * 3] * 2)


def test_integers_have_no_mean_that_is_an_integer():
    with pytest.raises(TypeError, match="x must be floating point, got int64"):
        mean_pool_forward(np.ones((2, 3, 4), "int64"))
