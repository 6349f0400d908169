"""A linear probe reads what is linearly there, and no more."""

import numpy as np
import pytest

from scratch_vlm.inference.linear_probe import fit_linear_probe


def clusters(seed, n=60, apart=6.0):
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 3, n)
    centers = np.array([[0, 0, 0], [apart, 0, 0], [0, apart, 0]])
    return centers[labels] + rng.standard_normal((n, 3)), labels


def test_separable_classes_are_separated_and_new_samples_too():
    features, labels = clusters(0)
    probe = fit_linear_probe(features, labels, 3)
    assert (probe.predict(features) == labels).mean() > 0.97
    new, right = clusters(1)
    assert (probe.predict(new) == right).mean() > 0.95


def test_scale_and_offset_of_a_feature_do_not_matter():
    features, labels = clusters(0)
    moved = features * [1e3, 1e-3, 1] + [5, -7, 100]
    plain, other = fit_linear_probe(features, labels, 3), fit_linear_probe(moved, labels, 3)
    np.testing.assert_allclose(other.p["w"], plain.p["w"], atol=1e-3)


def test_features_that_say_nothing_predict_the_most_frequent_class():
    labels = np.array([2, 2, 2, 0, 1])
    probe = fit_linear_probe(np.ones((5, 2), "float32"), labels, 3)
    assert (probe.predict(np.ones((4, 2))) == 2).all()
    scores = probe.p["b"] - probe.p["b"][2]
    np.testing.assert_allclose(np.exp(scores), [1 / 3, 1 / 3, 1], rtol=1e-3)


def test_the_fit_is_the_minimum():
    features, labels = clusters(0, apart=1.0)
    penalty = 0.1
    probe = fit_linear_probe(features, labels, 3, penalty=penalty)
    x = (features - probe.mean) / probe.std
    z = x @ probe.p["w"] + probe.p["b"]
    probs = np.exp(z) / np.exp(z).sum(1, keepdims=True)
    gradient = x.T @ (probs - np.eye(3)[labels]) / len(x) + penalty * probe.p["w"]
    assert abs(gradient).max() < 1e-4


def test_a_larger_penalty_gives_smaller_weights():
    features, labels = clusters(0)
    small, large = (
        np.linalg.norm(fit_linear_probe(features, labels, 3, penalty=penalty).p["w"])
        for penalty in (1e-3, 1.0)
    )
    assert large < small / 3


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"labels": np.array([0, 1, 3])}, ValueError, "label 3 is not one of the 3 classes"),
        ({"labels": np.array([0, 1])}, ValueError, r"labels \(2,\) must have the shape \(3,\)"),
        ({"labels": np.array([0.0, 1, 2])}, TypeError, "integers, got dtype float64"),
        ({"labels": [0, 1, 2]}, TypeError, "got list"),
        ({"features": np.ones((3, 2, 2))}, ValueError, r"\(B, D\).*got \(3, 2, 2\)"),
        ({"features": np.ones((0, 2))}, ValueError, r"\(B, D\).*got \(0, 2\)"),
        ({"penalty": -1}, ValueError, "penalty must be at least 0, got -1"),
        ({"classes": 0}, ValueError, "classes must be a positive whole number, got 0"),
    ],
)
def test_what_does_not_fit_is_refused(change, error, message):
    given = {"features": np.ones((3, 2)), "labels": np.array([0, 1, 2]), "classes": 3, **change}
    with pytest.raises(error, match=message):
        fit_linear_probe(**given)


def test_features_of_another_width_cannot_be_predicted():
    probe = fit_linear_probe(*clusters(0), 3)
    with pytest.raises(ValueError, match=r"must be \(B, 3\), got \(2, 4\)"):
        probe.predict(np.ones((2, 4)))
