"""Classes as sentences."""

import numpy as np
import pytest

from scratch_vlm.inference.zero_shot import class_embeddings, zero_shot_probabilities
from scratch_vlm.ops.normalize import l2_normalize_forward

RNG = np.random.default_rng(0)


def unit(*shape):
    return l2_normalize_forward(RNG.standard_normal(shape))[0]


def test_class_embeddings_are_normalised_means_of_prompts():
    texts = unit(4, 5, 6)
    classes = class_embeddings(texts)
    np.testing.assert_allclose(np.linalg.norm(classes, axis=1), 1)
    mean = texts.mean(1)
    np.testing.assert_allclose(classes, mean / np.linalg.norm(mean, axis=1, keepdims=True))


def test_one_prompt_stands_for_itself():
    texts = unit(4, 1, 6)
    np.testing.assert_allclose(class_embeddings(texts), texts[:, 0])


def test_probabilities_sum_to_one_and_favour_the_nearest_class():
    images, classes = unit(7, 6), unit(4, 6)
    probabilities = zero_shot_probabilities(images, classes, np.array(2.0))
    np.testing.assert_allclose(probabilities.sum(1), 1)
    assert np.array_equal(probabilities.argmax(1), (images @ classes.T).argmax(1))
    odds = np.exp(np.exp(2.0) * (images @ (classes[0] - classes[1])))
    np.testing.assert_allclose(probabilities[:, 0] / probabilities[:, 1], odds)


def test_each_image_may_have_classes_of_its_own():
    images, classes = unit(3, 6), unit(3, 4, 6)
    together = zero_shot_probabilities(images, classes, 1.0)
    for i in range(3):
        alone = zero_shot_probabilities(images[i : i + 1], classes[i], 1.0)
        np.testing.assert_allclose(together[i], alone[0])


@pytest.mark.parametrize(
    ("images", "classes", "message"),
    [
        ((2, 3), (4, 2), r"differ in width: images \(2, 3\), classes \(4, 2\)"),
        ((2, 3), (4, 5, 3), "2 images and classes for 4 do not pair up"),
        ((3,), (4, 3), r"images must be \(B, E\).*got \(3,\)"),
        ((2, 3), (3,), r"classes \(V, E\) or \(B, V, E\)"),
    ],
)
def test_embeddings_that_do_not_fit_are_refused(images, classes, message):
    with pytest.raises(ValueError, match=message):
        zero_shot_probabilities(np.ones(images), np.ones(classes), 1.0)


def test_prompts_without_an_axis_for_the_class_are_refused():
    with pytest.raises(ValueError, match=r"\(V, M, E\).*got \(5, 6\)"):
        class_embeddings(np.ones((5, 6)))
