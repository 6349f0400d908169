"""Losses against the textbook, at their extremes, and what is refused."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import special

from scratch_vlm.ops.losses import (
    chance_loss,
    contrastive_backward,
    contrastive_forward,
    cross_entropy_backward,
    cross_entropy_forward,
    sigmoid_contrastive_backward,
    sigmoid_contrastive_forward,
)
from scratch_vlm.ops.normalize import l2_normalize_backward, l2_normalize_forward

seeds = st.integers(0, 2**32 - 1)


def unit(rng, *shape):
    return l2_normalize_forward(rng.standard_normal(shape))[0]


@pytest.mark.parametrize("classes", [1, 2, 10, 1000])
def test_guessing_costs_the_logarithm_of_the_number_of_classes(classes):
    labels = np.arange(6) % classes
    loss, _ = cross_entropy_forward(np.full((6, classes), 3.0), labels)
    np.testing.assert_allclose(loss, np.log(classes), atol=1e-14)
    assert chance_loss(classes) == pytest.approx(np.log(classes))


@given(seeds, st.integers(1, 4), st.integers(2, 5), st.floats(0, 0.9))
def test_cross_entropy_with_smoothing_is_that_of_the_textbook(seed, n, v, smoothing):
    rng = np.random.default_rng(seed)
    logits, labels = rng.standard_normal((n, v)), rng.integers(0, v, n)
    target = (1 - smoothing) * np.eye(v)[labels] + smoothing / v
    right = -(target * special.log_softmax(logits, -1)).sum(-1).mean()
    loss, saved = cross_entropy_forward(logits, labels, smoothing=smoothing)
    np.testing.assert_allclose(loss, right, rtol=1e-13)
    dlogits = cross_entropy_backward(1.0, saved)
    np.testing.assert_allclose(dlogits, (special.softmax(logits, -1) - target) / n, atol=1e-14)


def test_an_ignored_row_may_rule_out_any_class():
    logits = np.zeros((2, 3))
    logits[1, 0] = -np.inf
    loss, saved = cross_entropy_forward(logits, np.array([2, -100]))
    assert np.isclose(loss, np.log(3))
    assert not cross_entropy_backward(1.0, saved)[1].any()


def test_ignored_rows_count_neither_in_the_loss_nor_in_the_mean():
    rng = np.random.default_rng(0)
    logits, labels = rng.standard_normal((5, 3)), np.array([0, -100, 2, -100, 1])
    loss, saved = cross_entropy_forward(logits, labels)
    counted = labels != -100
    alone, saved_alone = cross_entropy_forward(logits[counted], labels[counted])
    np.testing.assert_allclose(loss, alone, rtol=1e-14)
    dlogits = cross_entropy_backward(1.0, saved)
    assert not dlogits[~counted].any()
    np.testing.assert_allclose(dlogits[counted], cross_entropy_backward(1.0, saved_alone))


def test_another_label_can_stand_for_none():
    logits = np.random.default_rng(0).standard_normal((2, 3))
    loss, _ = cross_entropy_forward(logits, np.array([1, 0]), ignore=0)
    np.testing.assert_allclose(loss, cross_entropy_forward(logits[:1], np.array([1]))[0])


@pytest.mark.parametrize("n", [0, 3])
def test_with_no_label_at_all_the_loss_and_its_gradient_are_zero(n):
    with np.errstate(all="raise"):
        loss, saved = cross_entropy_forward(np.ones((n, 4)), np.full(n, -100))
        dlogits = cross_entropy_backward(1.0, saved)
    assert loss == 0 and dlogits.shape == (n, 4) and not dlogits.any()


def test_cross_entropy_of_large_scores_is_exact_in_float32():
    logits = np.array([[1e4, 0, -1e4], [0, 1e4, 0]], "float32")
    with np.errstate(all="raise", under="ignore"):
        loss, saved = cross_entropy_forward(logits, np.array([1, 1]))
        dlogits = cross_entropy_backward(1.0, saved)
    assert loss == 5000 and loss.dtype == np.float32
    assert dlogits.tolist() == [[0.5, -0.5, 0], [0, 0, 0]]


@pytest.mark.parametrize("label", [3, -1, 99])
def test_a_label_that_is_no_class_is_refused(label):
    with pytest.raises(ValueError, match=f"label {label} is not one of the 3 classes 0 to 2"):
        cross_entropy_forward(np.ones((2, 3)), np.array([0, label]))


@pytest.mark.parametrize("labels", [np.array([0.0, 1.0]), np.array([True, False])])
def test_labels_that_are_not_integers_are_refused(labels):
    with pytest.raises(TypeError, match=f"integers, got dtype {labels.dtype}"):
        cross_entropy_forward(np.ones((2, 3)), labels)


def test_a_list_of_labels_is_refused():
    with pytest.raises(TypeError, match="got list"):
        cross_entropy_forward(np.ones((2, 3)), [0, 1])


@pytest.mark.parametrize("shape", [(3,), (2, 3), (2, 1)])
def test_labels_of_another_shape_are_refused(shape):
    with pytest.raises(ValueError, match=r"must have the shape \(2,\)"):
        cross_entropy_forward(np.ones((2, 3)), np.zeros(shape, int))


@pytest.mark.parametrize("smoothing", [1.0, -0.1, float("nan")])
def test_a_smoothing_outside_zero_to_one_is_refused(smoothing):
    with pytest.raises(ValueError, match="smoothing must be"):
        cross_entropy_forward(np.ones((2, 3)), np.zeros(2, int), smoothing=smoothing)


def test_integer_logits_are_refused():
    with pytest.raises(TypeError, match="logits must be floating point"):
        cross_entropy_forward(np.ones((2, 3), int), np.zeros(2, int))


@given(seeds, st.integers(1, 5), st.floats(-2, 4))
def test_contrastive_loss_is_the_mean_of_two_cross_entropies(seed, n, log_scale):
    rng = np.random.default_rng(seed)
    images, texts = unit(rng, n, 3), unit(rng, n, 3)
    z = np.exp(log_scale) * images @ texts.T
    right = -np.diagonal(special.log_softmax(z, 1) + special.log_softmax(z, 0)).mean() / 2
    loss, _ = contrastive_forward(images, texts, np.array(log_scale))
    np.testing.assert_allclose(loss, right, rtol=1e-11, atol=1e-14)


def test_a_batch_of_one_has_nothing_to_confuse():
    rng = np.random.default_rng(0)
    loss, saved = contrastive_forward(unit(rng, 1, 4), unit(rng, 1, 4), np.array(2.0))
    assert loss == 0
    assert not any(np.any(gradient) for gradient in contrastive_backward(1.0, saved))


def test_embeddings_that_say_nothing_cost_the_logarithm_of_the_batch():
    rng = np.random.default_rng(0)
    loss, _ = contrastive_forward(unit(rng, 64, 512), unit(rng, 64, 512), np.array(0.0))
    assert loss == pytest.approx(np.log(64), rel=1e-2)
    same = np.tile(unit(rng, 1, 8), (64, 1))
    assert contrastive_forward(same, same, np.array(3.0))[0] == pytest.approx(np.log(64))


@given(seeds)
def test_swapping_the_sides_swaps_the_gradients(seed):
    rng = np.random.default_rng(seed)
    images, texts, scale = unit(rng, 4, 3), unit(rng, 4, 3), np.array(1.5)
    loss, saved = contrastive_forward(images, texts, scale)
    swapped, saved_swapped = contrastive_forward(texts, images, scale)
    np.testing.assert_allclose(loss, swapped, rtol=1e-13)
    dimages, dtexts, dscale = contrastive_backward(1.0, saved)
    dtexts2, dimages2, dscale2 = contrastive_backward(1.0, saved_swapped)
    for a, b in ((dimages, dimages2), (dtexts, dtexts2), (dscale, dscale2)):
        np.testing.assert_allclose(a, b, atol=1e-13)


@given(seeds)
def test_permuting_the_pairs_changes_nothing(seed):
    rng = np.random.default_rng(seed)
    images, texts = unit(rng, 5, 3), unit(rng, 5, 3)
    order = rng.permutation(5)
    for f, scalars in (
        (contrastive_forward, [np.array(1.0)]),
        (sigmoid_contrastive_forward, [np.array(1.0), np.array(-1.0)]),
    ):
        np.testing.assert_allclose(
            f(images[order], texts[order], *scalars)[0], f(images, texts, *scalars)[0], rtol=1e-13
        )


def test_a_larger_scale_helps_what_is_right_and_hurts_what_is_wrong():
    right = np.eye(3)
    for texts, sign in ((right, -1), (np.roll(right, 1, 0), 1)):
        _, saved = contrastive_forward(right, texts, np.array(1.0))
        assert np.sign(contrastive_backward(1.0, saved)[2]) == sign


def test_the_gradient_of_an_embedding_before_normalisation_is_orthogonal_to_it():
    rng = np.random.default_rng(0)
    x = 3 * rng.standard_normal((4, 5))
    images, saved_unit = l2_normalize_forward(x)
    _, saved = contrastive_forward(images, unit(rng, 4, 5), np.array(2.0))
    dx = l2_normalize_backward(contrastive_backward(1.0, saved)[0], saved_unit)
    assert abs(dx).max() > 1e-3
    np.testing.assert_allclose((dx * x).sum(-1), 0, atol=1e-14)


@pytest.mark.parametrize("scale", [100.0, 1e4])
def test_contrastive_loss_of_confident_mistakes_is_finite_in_float32(scale):
    images = np.eye(3, dtype="float32")
    log_scale = np.array(np.log(scale), "float32")
    with np.errstate(all="raise", under="ignore"):
        loss, saved = contrastive_forward(images, -images, log_scale)
        gradients = contrastive_backward(1.0, saved)
    # The right answer scores -scale and the two others 0.
    np.testing.assert_allclose(loss, scale + np.log(2), rtol=1e-6)
    assert all(np.isfinite(gradient).all() for gradient in gradients)


@given(seeds, st.integers(1, 5))
def test_sigmoid_loss_is_the_sum_of_log_sigmoids_over_the_batch(seed, n):
    rng = np.random.default_rng(seed)
    images, texts = unit(rng, n, 3), unit(rng, n, 3)
    scale, bias = np.array(rng.normal()), np.array(rng.normal())
    y = 2 * np.eye(n) - 1
    right = -special.log_expit(y * (np.exp(scale) * images @ texts.T + bias)).sum() / n
    np.testing.assert_allclose(
        sigmoid_contrastive_forward(images, texts, scale, bias)[0], right, rtol=1e-12
    )


def test_sigmoid_loss_is_finite_at_large_scores_in_float32():
    images = np.eye(2, dtype="float32")
    for sign in (1, -1):
        with np.errstate(all="raise", under="ignore"):
            loss, saved = sigmoid_contrastive_forward(
                images, sign * images, np.array(np.log(1e4), "float32"), np.array(-5, "float32")
            )
            gradients = sigmoid_contrastive_backward(1.0, saved)
        right = np.log1p(np.exp(-5)) + (0 if sign == 1 else 1e4 + 5)
        np.testing.assert_allclose(loss, right, rtol=1e-5)
        assert all(np.isfinite(gradient).all() for gradient in gradients)


@pytest.mark.parametrize("f", [contrastive_forward, sigmoid_contrastive_forward])
@pytest.mark.parametrize("shapes", [((2, 3), (3, 3)), ((2, 3), (2, 4)), ((2, 3, 1), (2, 3, 1))])
def test_sets_that_do_not_pair_up_are_refused(f, shapes):
    scalars = [np.array(0.0)] * (1 if f is contrastive_forward else 2)
    with pytest.raises(ValueError, match=r"row i beside row i; got"):
        f(*map(np.ones, shapes), *scalars)


def test_an_empty_batch_has_no_contrastive_loss():
    with pytest.raises(ValueError, match="at least one pair"):
        contrastive_forward(np.ones((0, 3)), np.ones((0, 3)), np.array(0.0))


def test_a_scale_of_several_numbers_is_refused():
    with pytest.raises(ValueError, match=r"single numbers, got shape \(2,\)"):
        contrastive_forward(np.ones((2, 3)), np.ones((2, 3)), np.ones(2))
    with pytest.raises(ValueError, match=r"single numbers, got shape \(1,\)"):
        sigmoid_contrastive_forward(np.ones((2, 3)), np.ones((2, 3)), np.array(1.0), np.ones(1))


def test_a_guess_among_nothing_is_refused():
    with pytest.raises(ValueError, match="at least one candidate, got 0"):
        chance_loss(0)


@pytest.mark.parametrize("wrong", [0, 1])
def test_a_list_of_embeddings_is_refused(wrong):
    pair = [np.eye(2), np.eye(2)]
    pair[wrong] = pair[wrong].tolist()
    with pytest.raises(TypeError, match="got list"):
        contrastive_forward(*pair, np.array(0.0))
    with pytest.raises(TypeError, match="got list"):
        sigmoid_contrastive_forward(*pair, np.array(0.0), np.array(0.0))


def test_a_list_of_scales_is_refused():
    with pytest.raises(ValueError, match=r"single numbers, got shape \(1,\)"):
        contrastive_forward(np.eye(2), np.eye(2), [1.0])
