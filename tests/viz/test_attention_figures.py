from functools import partial

import numpy as np
import pytest
from drawn import assert_good, every, images, pictures, softmax, words
from matplotlib.colors import to_hex

from scratch_vlm.viz.attention import attention_maps, word_attention
from scratch_vlm.viz.style import THEMES

LIGHT = THEMES["light"]


def attention(heads, grid=(6, 6), share=1.0, **options):
    weights = share * softmax(heads, grid[0] * grid[1])
    return partial(attention_maps, images(1)[0], weights, grid=grid, **options)


CASES = {
    "attention of 1 head": attention(1),
    "attention of 4 heads": attention(4, share=0.8, title="Where the class token looks"),
    "attention of 8 heads": attention(8, share=0.9),
    "attention of 12 heads": attention(12, (3, 3)),
    "attention with long labels": attention(4, labels=["the last block's head"] * 4),
    "words": partial(
        word_attention,
        images(1)[0],
        ["what", "colour", "is", "it", "?", "red"],
        softmax(6, 9),
        (3, 3),
    ),
    "words with shares": partial(
        word_attention, images(1)[0], ["seven"], 0.5 * softmax(1, 36), (6, 6)
    ),
    "long words": partial(
        word_attention, images(1)[0], ["bottom-centre-and-more"] * 8, softmax(8, 9), (3, 3)
    ),
}


@every(CASES)
def test_figure_is_good_in_both_themes(draw):
    assert_good(draw)


@pytest.mark.parametrize(("heads", "maps"), [(1, 1), (4, 5), (8, 9)])
def test_attention_has_the_image_the_mean_and_every_head(heads, maps):
    figure = attention(heads)()
    assert len(pictures(figure)) == 1 + maps
    assert {f"head {a + 1}" for a in range(heads)} <= set(words(figure))
    assert ("mean of heads" in words(figure)) == (heads > 1)


def test_mean_of_heads_may_be_left_out():
    figure = attention(2, mean=False)()
    assert len(pictures(figure)) == 3
    assert "mean of heads" not in words(figure)


def test_attention_fills_the_block_of_its_patch():
    weights = np.array([[0.0, 0.0, 0.0, 0.0, 0.0, 1.0]])
    figure = attention_maps(np.zeros((4, 6)), weights, grid=(2, 3))
    shown = pictures(figure)[1].get_array()
    assert shown.shape == (4, 6, 3)
    blue = np.array([[to_hex(pixel) == LIGHT.main for pixel in row] for row in shown])
    expected = np.zeros((4, 6), bool)
    expected[2:, 4:] = True
    np.testing.assert_array_equal(blue, expected)


def test_image_is_drawn_in_grey_over_the_attention_and_the_background_keeps_its_colour():
    image = np.zeros((4, 4))
    image[1, 1] = image[2, 2] = 1.0  # in the first patch and in the last
    figure = attention_maps(image, np.array([[0.0, 0.0, 0.0, 1.0]]), grid=(2, 2))
    shown = pictures(figure)[1].get_array()
    background = np.ones((4, 4, 3))
    background[2:, 2:] = shown[3, 3]
    assert to_hex(shown[3, 3]) == LIGHT.main
    np.testing.assert_array_equal(shown[image == 0], background[image == 0])
    to_grey = np.abs(shown - 0.5).max(axis=2) < 0.6 * np.abs(background - 0.5).max(axis=2)
    np.testing.assert_array_equal(to_grey, image > 0)


def test_heads_share_one_scale_with_the_even_share_marked():
    weights = np.array([[0.6, 0.2, 0.1, 0.1], [0.3, 0.3, 0.3, 0.1]])
    figure = attention_maps(np.zeros((4, 4)), weights, grid=(2, 2))
    assert {"60%", "even 25%", "0"} <= set(words(figure))
    first, second = (pictures(figure)[i].get_array() for i in (2, 3))
    np.testing.assert_array_equal(first[3, 3], second[3, 3])
    assert to_hex(first[0, 0]) == LIGHT.main != to_hex(second[0, 0])


def test_patch_that_looks_is_framed():
    weights = np.full((2, 6), 1 / 6)
    figure = attention_maps(np.zeros((4, 6)), weights, grid=(2, 3), asking=[5, None], mean=False)
    (frame,) = (
        patch for patch in figure.axes[0].patches if to_hex(patch.get_edgecolor()) == LIGHT.wrong
    )
    left, right, bottom, _ = pictures(figure)[1].get_extent()
    assert np.allclose(frame.get_x() + frame.get_width(), right)
    assert np.allclose(frame.get_y() + frame.get_height(), bottom)
    assert np.allclose(frame.get_width(), (right - left) / 3)


def test_attention_to_other_tokens_is_said():
    weights = np.array([[0.5, 0.2], [0.5, 0.5]])
    figure = attention_maps(np.zeros((2, 4)), weights, grid=(1, 2))
    assert [w for w in words(figure) if "elsewhere" in w] == [
        "elsewhere 15%",
        "elsewhere 30%",
        "elsewhere 0%",
    ]


def test_attention_of_a_word_fills_the_block_of_its_patch():
    weights = np.array([[0.0, 0.0, 0.5, 0.0], [0.0, 1.0, 0.0, 0.0]])
    figure = word_attention(np.zeros((4, 4)), ["a", "a"], weights, (2, 2))
    _, first, second = (picture.get_array() for picture in figure.axes[0].images)
    assert to_hex(second[0, 3]) == LIGHT.main and to_hex(second[3, 3]) == LIGHT.paper
    assert to_hex(first[3, 0]) == to_hex(LIGHT.ramp()(0.5)), "one scale for all words"
    assert [w for w in words(figure) if "elsewhere" in w] == ["elsewhere 50%", "elsewhere 0%"]


def test_inputs_are_left_as_they_were():
    x, weights = images(1)[0], softmax(2, 9)
    before = x.copy(), weights.copy()
    attention_maps(x, weights, grid=(3, 3))
    word_attention(x, ["a", "b"], weights, (3, 3))
    np.testing.assert_array_equal(x, before[0])
    np.testing.assert_array_equal(weights, before[1])


D = images(1, 8, 8)[0]
EVEN = np.full((1, 4), 0.25)
WRONG = {
    "class token": (
        lambda: attention_maps(D, softmax(2, 5), grid=(2, 2)),
        "5 patches and a grid of 2 x 2 has 4; leave out",
    ),
    "grid": (
        lambda: attention_maps(D, softmax(2, 9), grid=(3, 3)),
        "8 x 8 does not divide into 3 x 3",
    ),
    "logits": (lambda: attention_maps(D, np.ones((1, 4)), grid=(2, 2)), "probabilities"),
    "labels": (
        lambda: attention_maps(D, softmax(2, 4), grid=(2, 2), labels=["a"]),
        "1 labels for 2 heads",
    ),
    "asking": (
        lambda: attention_maps(D, softmax(2, 4), grid=(2, 2), asking=[0, 4]),
        r"a patch from 0 to 3 for each of 2 maps; got \[0, 4\]",
    ),
    "words": (
        lambda: word_attention(D, ["a", "b"], EVEN, (2, 2)),
        "2 words and weights of 1",
    ),
    "grid of words": (lambda: word_attention(D, ["a"], EVEN, (3, 3)), "4 patches.*3 x 3 has 9"),
    "division": (
        lambda: word_attention(D, ["a"], np.full((1, 9), 0.1), (3, 3)),
        "8 x 8 does not divide into 3 x 3",
    ),
    "logits of words": (lambda: word_attention(D, ["a"], 3 * EVEN, (2, 2)), "add up to 3 at most"),
}


@pytest.mark.parametrize(("call", "said"), [pytest.param(*w, id=k) for k, w in WRONG.items()])
def test_wrong_input_is_told_what_was_given_and_what_would_fit(call, said):
    with pytest.raises(ValueError, match=said):
        call()
