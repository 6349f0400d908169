from functools import partial

import numpy as np
import pytest
from drawn import LONG, assert_good, every, images, row, said, softmax, words
from matplotlib.colors import to_hex

from scratch_vlm.viz.clips import film_strip, frame_attention
from scratch_vlm.viz.style import THEMES

LIGHT = THEMES["light"]
CASES = {
    "strips": partial(
        film_strip, images(2, 8, 24, 24, 3), marks=[[row(), row(LONG, LONG)], LONG * 4]
    ),
    "strip of one frame": partial(film_strip, images(1)),
    "strips of many lengths": partial(
        film_strip, [images(20), images(12), images(1)], marks=["a", "", "c"]
    ),
    "grey strip": partial(film_strip, images(5, 24, 24)),
    "frame attention": partial(frame_attention, images(8), softmax(8, 8)),
    "frame attention of many": partial(frame_attention, images(16), softmax(64, 16)),
    "frame attention of one": partial(frame_attention, images(2), softmax(1, 2), labels=[LONG]),
}


@every(CASES)
def test_figure_is_good_in_both_themes(draw):
    assert_good(draw)


def test_every_frame_of_every_clip_is_shown_once_with_its_time():
    clips = [images(20), images(3)]
    figure = film_strip(clips, marks=["first", "second"])
    shown = figure.axes[0].images
    for picture, frame in zip(shown, np.concatenate(clips), strict=True):
        np.testing.assert_array_equal(picture.get_array(), frame)
    assert [w for w in words(figure) if w.startswith("t = ")] == [
        f"t = {f}" for f in (*range(20), *range(3))
    ]
    assert {"first", "second"} <= set(words(figure))


def test_frames_of_a_thinned_clip_keep_their_numbers():
    figure = film_strip([images(3)], numbers=[(0, 8, 16)])
    assert [w for w in words(figure) if w.startswith("t = ")] == ["t = 0", "t = 8", "t = 16"]


def test_array_of_clips_and_one_clip_are_told_apart():
    one, two = images(5), images(2, 5, 24, 24, 3)
    assert len(film_strip(one).axes[0].images) == 5
    assert len(film_strip(two).axes[0].images) == 10


def test_answers_under_a_clip_are_marked_as_in_the_gallery():
    figure = film_strip(images(2), marks=[[row(unified="red", cross_modal="blue")]])
    right, wrong = (
        said(figure, f"{model}:\N{NO-BREAK SPACE}{sign}")
        for model, sign in (("unified", "✓ red"), ("cross-modal", "✗ blue"))
    )
    assert to_hex(right.get_color()) == LIGHT.right and to_hex(wrong.get_color()) == LIGHT.wrong


def test_frames_stand_above_their_columns_of_the_heat_map():
    weights = np.array([[1.0, 0.0, 0.0], [0.25, 0.5, 0.25]])
    figure = frame_attention(images(3), weights)
    page, cells = figure.axes[:2]
    assert [text.get_text() for text in cells.texts] == ["100%", "0%", "0%", "25%", "50%", "25%"]
    assert to_hex(cells.images[0].get_array()[0, 0]) == LIGHT.main
    place, inches = cells.get_position(), figure.get_size_inches()[0]
    for f, picture in enumerate(page.images):
        x0, x1, *_ = picture.get_extent()
        assert (x0 + x1) / 2 == pytest.approx(inches * (place.x0 + place.width * (f + 0.5) / 3))


D = np.zeros((4, 4))
EVEN = np.full((1, 4), 0.25)
WRONG = {
    "no clips": (lambda: film_strip([]), "no clips"),
    "an image": (lambda: film_strip([D]), r"shape \(4, 4\); a clip has shape"),
    "marks": (lambda: film_strip(images(2), marks=["a", "b"]), "1 clips and 2 marks"),
    "numbers": (
        lambda: film_strip(images(2), numbers=[[0]]),
        r"clips of \[2\] frames and numbers for \[1\]",
    ),
    "one mark": (
        lambda: film_strip(images(2), marks="a"),
        "the text 'a' marks; give a list",
    ),
    "clips": (lambda: frame_attention([images(2)] * 2, EVEN), "2 clips; give one"),
    "frames": (lambda: frame_attention(images(2), EVEN), "4 frames and the clip has 2"),
    "labels": (
        lambda: frame_attention(images(4), EVEN, labels=["a", "b"]),
        "2 labels for 1 rows",
    ),
}


@pytest.mark.parametrize(("call", "said"), [pytest.param(*w, id=k) for k, w in WRONG.items()])
def test_wrong_input_is_told_what_was_given_and_what_would_fit(call, said):
    with pytest.raises(ValueError, match=said):
        call()
