"""Figures of sequences and galleries: what is drawn where, and what is refused."""

import numpy as np
import pytest

from scratch_vlm.viz.gallery import gallery
from scratch_vlm.viz.sequences import next_words, seen_images, token_row


def texts(figure):
    return [text.get_text() for axes in figure.axes for text in axes.texts]


def boxes(figure):
    return [patch for axes in figure.axes for patch in axes.patches]


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_probable_words_have_their_share_written_and_the_next_word_is_framed(theme):
    figure = next_words(
        ["<bos>", "red"], ["red", "blue"], [[0.75, 0.25], [0.0, 0.004]], title="Next", theme=theme
    )
    assert {"75%", "25%"} <= set(texts(figure)) and "0%" not in texts(figure)
    (frame,) = boxes(figure)
    assert frame.get_xy() == (-0.5, -0.5)


def test_rows_that_are_no_probabilities_are_refused():
    with pytest.raises(ValueError, match="add up to 1"):
        next_words(["a"], ["b", "c"], [[0.7, 0.7]])
    with pytest.raises(ValueError, match=r"shape \(1, 2\), got \(2, 1\)"):
        next_words(["a"], ["b", "c"], [[0.7], [0.7]])


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_tokens_stand_in_a_row_with_labels_below_and_bars_above(theme):
    tokens = ["<bos>", np.zeros((4, 4, 3)), "what", "red"]
    labels = [None, None, None, "red"]
    figure = token_row(tokens, labels, [0.1, 0.6, 0.05, 0.25], title="Row", theme=theme)
    said = texts(figure)
    assert said.count("·") == 3 and said.count("red") == 2
    assert {"10%", "60%", "25%"} <= set(said) and "5%" not in said
    assert len(figure.axes[0].images) == 1


def test_a_row_needs_a_label_or_none_for_each_token():
    with pytest.raises(ValueError, match="2 tokens and 1 labels"):
        token_row(["a", "b"], [None])
    with pytest.raises(ValueError, match="weights must be of shape"):
        token_row(["a"], [None], [0.5, 0.5])


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_images_that_a_word_may_not_see_are_hatched(theme):
    weights = np.zeros((3, 2, 4))
    weights[1, 0] = weights[2, 1] = 0.25
    seen = np.array([[False, False], [True, False], [False, True]])
    figure = seen_images(["a", "b", "c"], np.zeros((2, 8, 8, 3)), weights, seen, theme=theme)
    assert sum(patch.get_hatch() is not None for patch in boxes(figure)) == 4
    assert texts(figure).count("4") == 2, "patches are numbered"


def test_weights_must_cover_words_and_images():
    with pytest.raises(ValueError, match="3 words and 1 images"):
        seen_images(
            ["a", "b", "c"], np.zeros((1, 8, 8)), np.zeros((3, 2, 4)), np.ones((3, 1), bool)
        )


def test_a_gallery_breaks_its_rows():
    figure = gallery(np.zeros((3, 8, 8)), ["one", "two\nlines", "three"], across=2)
    corners = {tuple(image.get_extent()[::3]) for image in figure.axes[0].images}
    assert len({left for left, _ in corners}) == 2 and len({top for _, top in corners}) == 2
    assert "two\nlines" in texts(figure)
    with pytest.raises(ValueError, match="3 images and 1 captions"):
        gallery(np.zeros((3, 8, 8)), ["one"])
    with pytest.raises(ValueError, match="across must be at least 1"):
        gallery(np.zeros((1, 8, 8)), ["one"], across=0)
