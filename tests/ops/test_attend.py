"""Attention against its definition, masks, and what is refused."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from scratch_vlm.ops.attend import attend_backward, attend_forward, attention_weights
from scratch_vlm.ops.masks import causal_mask, padding_mask

seeds, few = st.integers(0, 2**32 - 1), st.integers(1, 4)


def draw(seed, b=2, a=2, t=4, s=5, k=3, j=6, groups=None):
    rng = np.random.default_rng(seed)
    groups = groups or a
    return (
        rng.standard_normal((b, a, t, k)),
        rng.standard_normal((b, groups, s, k)),
        rng.standard_normal((b, groups, s, j)),
    )


def written_out(q, k, v, mask=None):
    """Attend one query at a time, with keys that it may not see left out of the sum."""
    b, a, t, width = q.shape
    y = np.zeros((b, a, t, v.shape[-1]))
    mask = np.broadcast_to(True if mask is None else mask, (b, a, t, k.shape[2]))
    for i, h, row in np.ndindex(b, a, t):
        seen = mask[i, h, row]
        if seen.any():
            scores = np.exp(k[i, h, seen] @ q[i, h, row] / np.sqrt(width))
            y[i, h, row] = scores / scores.sum() @ v[i, h, seen]
    return y


@given(seeds, few, few, few, few, few)
def test_it_is_softmax_of_scaled_scores_times_values(seed, a, t, s, k, j):
    q, k, v = draw(seed, 2, a, t, s, k, j)
    np.testing.assert_allclose(attend_forward(q, k, v)[0], written_out(q, k, v), atol=1e-13)


@given(seeds, few, few, st.floats(0, 1))
def test_any_mask_leaves_out_what_is_false(seed, t, s, density):
    q, k, v = draw(seed, t=t, s=s)
    rng = np.random.default_rng(seed)
    for shape in [(2, 2, t, s), (2, 1, 1, s), (1, 1, t, s), (t, s), (s,)]:
        mask = rng.random(shape) < density
        y, saved = attend_forward(q, k, v, mask=mask)
        np.testing.assert_allclose(y, written_out(q, k, v, mask), atol=1e-13)
        weights = attention_weights(saved)
        assert not weights[np.broadcast_to(~mask, weights.shape)].any()


def test_a_causal_mask_shows_each_token_itself_and_its_past():
    q, k, v = draw(0, s=4)
    y, saved = attend_forward(q, k, v, mask=causal_mask(4))
    weights = attention_weights(saved)
    assert not weights[..., np.triu_indices(4, 1)[0], np.triu_indices(4, 1)[1]].any()
    np.testing.assert_allclose(y[:, :, 0], v[:, :, 0])  # the first sees itself alone


def test_padding_is_as_if_it_were_not_there():
    q, k, v = draw(0)
    lengths = np.array([3, 5])
    y, _ = attend_forward(q, k, v, mask=padding_mask(lengths, 5))
    for i, n in enumerate(lengths):
        alone, _ = attend_forward(q[i : i + 1], k[i : i + 1, :, :n], v[i : i + 1, :, :n])
        np.testing.assert_allclose(y[i], alone[0], atol=1e-14)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_row_with_nothing_to_attend_is_exactly_zero_forward_and_backward(dtype):
    q, k, v = (100 * x.astype(dtype) for x in draw(1))
    mask = np.ones((2, 2, 4, 5), bool)
    mask[0, 1, 2] = False
    with np.errstate(all="raise", under="ignore"):
        y, saved = attend_forward(q, k, v, mask=mask)
        dy = np.zeros_like(y)
        dy[0, 1, 2] = 1  # a gradient that reaches nothing but the empty row
        gradients = attend_backward(dy, saved)
    assert not y[0, 1, 2].any() and not attention_weights(saved)[0, 1, 2].any()
    assert not any(gradient.any() for gradient in gradients)
    assert y[0, 1, 1].any()


def test_all_rows_empty_gives_zeros():
    q, k, v = draw(2)
    y, saved = attend_forward(q, k, v, mask=np.zeros((1, 1), bool))
    assert not y.any()
    assert not any(gradient.any() for gradient in attend_backward(np.ones_like(y), saved))


@given(seeds, st.floats(0, 1))
def test_weights_sum_to_one_or_to_zero(seed, density):
    q, k, v = draw(seed)
    mask = np.random.default_rng(seed).random((2, 2, 4, 5)) < density
    weights = attention_weights(attend_forward(q, k, v, mask=mask)[1])
    np.testing.assert_allclose(weights.sum(-1), mask.any(-1), atol=1e-14)
    assert (weights >= 0).all()


def test_huge_scores_give_no_nan_in_float32():
    q, k, v = (x.astype("float32") for x in draw(3))
    with np.errstate(all="raise", under="ignore"):
        y, saved = attend_forward(1e4 * q, k, v, mask=causal_mask(4)[:, [0, 1, 2, 3, 3]])
        gradients = attend_backward(np.ones_like(y), saved)
    assert all(np.isfinite(x).all() for x in (y, *gradients))
    assert (attention_weights(saved).max(-1) > 0.5).all()


def test_adding_a_number_to_all_scores_of_a_row_changes_nothing():
    q, k, v = draw(4)
    shifted = k + np.array([2.0, -1.0, 3.0])  # k + c adds q·c to the whole row of q
    np.testing.assert_allclose(
        attend_forward(q, shifted, v)[0], attend_forward(q, k, v)[0], atol=1e-13
    )


@given(seeds)
def test_permuting_keys_with_their_values_changes_nothing(seed):
    q, k, v = draw(seed)
    order = np.random.default_rng(seed).permutation(5)
    y, _ = attend_forward(q, k, v)
    again, _ = attend_forward(q, k[:, :, order], v[:, :, order])
    np.testing.assert_allclose(again, y, atol=1e-13)


@given(seeds)
def test_permuting_queries_permutes_the_output(seed):
    q, k, v = draw(seed)
    order = np.random.default_rng(seed).permutation(4)
    y, _ = attend_forward(q, k, v)
    np.testing.assert_allclose(attend_forward(q[:, :, order], k, v)[0], y[:, :, order], atol=1e-13)


@pytest.mark.parametrize("groups", [1, 2, 4])
def test_grouped_heads_are_heads_with_repeated_keys_and_values(groups):
    q, k, v = draw(5, a=4, groups=groups)
    y, saved = attend_forward(q, k, v)
    repeated, repeated_saved = attend_forward(
        q, np.repeat(k, 4 // groups, 1), np.repeat(v, 4 // groups, 1)
    )
    np.testing.assert_allclose(y, repeated, atol=1e-14)
    dy = np.random.default_rng(0).standard_normal(y.shape)
    dq, dk, dv = attend_backward(dy, saved)
    dq2, dk2, dv2 = attend_backward(dy, repeated_saved)
    np.testing.assert_allclose(dq, dq2, atol=1e-13)
    for grouped, each in ((dk, dk2), (dv, dv2)):
        summed = each.reshape(2, groups, 4 // groups, *each.shape[2:]).sum(2)
        np.testing.assert_allclose(grouped, summed, atol=1e-13)


def test_out_may_be_a_strided_view():
    q, k, v = draw(6)
    tokens = np.full((2, 4, 2, 6), np.nan)  # heads side by side in a token
    _, saved = attend_forward(q, k, v, out=tokens.swapaxes(1, 2))
    y, _ = attend_forward(q, k, v)
    assert np.array_equal(tokens, y.swapaxes(1, 2))
    dy = np.ones_like(y)
    for a, b in zip(
        attend_backward(dy, saved), attend_backward(dy, attend_forward(q, k, v)[1]), strict=True
    ):
        assert np.array_equal(a, b)


@pytest.mark.parametrize("b, t", [(0, 4), (2, 0)])
def test_nobody_asking_is_answered_with_nothing(b, t):
    q, k, v = draw(0, b=b, t=t)
    y, saved = attend_forward(q, k, v)
    assert y.shape == (b, 2, t, 6)
    assert [g.shape for g in attend_backward(y, saved)] == [q.shape, k.shape, v.shape]


@pytest.mark.parametrize("mask", [np.zeros((4, 5)), np.ones((4, 5), int)])
def test_a_mask_that_is_not_boolean_is_refused(mask):
    with pytest.raises(TypeError, match=f"boolean.*{mask.dtype}"):
        attend_forward(*draw(0), mask=mask)


@pytest.mark.parametrize("shape", [(5, 4), (3, 1, 1, 5), (1, 2, 2, 4, 5), (2, 5)])
def test_a_mask_that_does_not_broadcast_is_refused(shape):
    with pytest.raises(ValueError, match=r"does not broadcast.*\(2, 2, 4, 5\)"):
        attend_forward(*draw(0), mask=np.ones(shape, bool))


def test_a_list_is_no_mask():
    with pytest.raises(TypeError, match="got list"):
        attend_forward(*draw(0), mask=[[True]])


@pytest.mark.parametrize(
    ("shapes", "message"),
    [
        (((2, 4, 3), (2, 2, 5, 3), (2, 2, 5, 3)), r"q must be \(B, A, T, K\)"),
        (((2, 2, 4, 3), (2, 2, 5, 3), (2, 2, 5)), r"v \(B, G, S, J\).*\(2, 2, 5\)"),
        (((2, 2, 4, 3), (2, 2, 5, 3), (2, 2, 6, 3)), r"got .*\(2, 2, 6, 3\)"),
        (((2, 2, 4, 3), (2, 2, 5, 4), (2, 2, 5, 4)), "batch and head width"),
        (((2, 2, 4, 3), (3, 2, 5, 3), (3, 2, 5, 3)), "batch and head width"),
        (((2, 3, 4, 3), (2, 2, 5, 3), (2, 2, 5, 3)), "3 query heads do not divide into 2"),
        (((2, 2, 4, 3), (2, 0, 5, 3), (2, 0, 5, 3)), "2 query heads do not divide into 0"),
        (((2, 2, 4, 3), (2, 2, 0, 3), (2, 2, 0, 3)), "no tokens to attend to"),
    ],
)
def test_shapes_that_do_not_fit_are_refused_with_their_numbers(shapes, message):
    with pytest.raises(ValueError, match=message):
        attend_forward(*map(np.ones, shapes))


def test_an_out_of_another_shape_is_refused():
    with pytest.raises(ValueError, match=r"out is \(2, 4, 2, 6\) and must be \(2, 2, 4, 6\)"):
        attend_forward(*draw(0), out=np.empty((2, 4, 2, 6)))


def test_integers_are_refused():
    with pytest.raises(TypeError, match="q must be floating point, got int64"):
        attend_forward(*(x.astype(int) for x in draw(0)))
