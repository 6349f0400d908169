import math
import subprocess
import sys
from functools import partial

import numpy as np
import pytest
from drawn import assert_texts_fit, images, softmax, texts, words
from matplotlib.colors import to_hex
from matplotlib.patches import Rectangle

from scratch_vlm.ops.patches import patchify_forward
from scratch_vlm.viz import figures
from scratch_vlm.viz.style import THEMES

LONG = "yellow seven above green three"
LIGHT = THEMES["light"]


def curve(n=300, **options):
    steps = np.arange(1, n + 1)
    return partial(figures.learning_curve, steps, 0.2 + 4.5 * np.exp(-steps / 60), **options)


def matrix(n=10):
    similarity = np.random.default_rng(0).normal(size=(n, n)) * 0.2 + 0.7 * np.eye(n)
    return partial(figures.similarity_matrix, similarity, images(n), [LONG] * n)


def table(n=10, name=str):
    counts = np.diag(np.arange(100, 100 + n))
    counts[0, -1] += 3
    return partial(figures.confusion, counts, [name(i) for i in range(n)])


def search(shape=(24, 24, 3), t=4, b=30):
    scores = np.random.default_rng(0).normal(size=(t, b))
    return partial(figures.retrieval, [LONG] * t, images(b, *shape), scores, correct=range(t))


def attention(heads, grid=(6, 6), share=1.0, **options):
    weights = share * softmax(heads, grid[0] * grid[1])
    return partial(figures.attention_maps, images(1)[0], weights, grid=grid, **options)


def guess(n=8, truth=2):
    captions = [f"{LONG} {i}" for i in range(n)]
    return partial(figures.zero_shot_example, images(1)[0], captions, softmax(n), truth)


def errors(n=40, name=str):
    labels = [name(i % 10) for i in range(n)]
    called = [name((i + i % 2) % 10) for i in range(n)]
    return partial(figures.digit_errors, images(n, 8, 8), labels, called)


CASES = {
    "curve": curve(title="Learning"),
    "curve with rates": curve(chance=math.log(128), rates=np.linspace(1e-3, 0, 300)),
    "curve at chance": partial(figures.learning_curve, [1, 2], [2.3, 2.3], chance=math.log(10)),
    "curve of one step": curve(1, rates=[0.0]),
    "matrix": matrix(),
    "small matrix": matrix(2),
    "confusion": table(),
    "confusion of long names": table(12, lambda i: f"yellow seven {i}"),
    "confusion of three": table(3),
    "retrieval": search(),
    "retrieval of digits": search((8, 8)),
    "retrieval of few": search(t=1, b=2),
    "attention of 1 head": attention(1),
    "attention of 4 heads": attention(4, share=0.8, title="Where the class token looks"),
    "attention of 8 heads": attention(8, share=0.9),
    "attention of 12 heads": attention(12, (3, 3)),
    "attention with long labels": attention(4, labels=["the last block's head"] * 4),
    "patches": partial(figures.patches, images(1)[0], 8),
    "many patches": partial(figures.patches, images(1)[0], 2),
    "thin patches": partial(figures.patches, images(1, 6, 28)[0], 1),
    "patches of a tall image": partial(figures.patches, images(1, 96, 24, 3)[0], 8),
    "oblong patches": partial(figures.patches, images(1, 8, 16)[0], (2, 4)),
    "patches of a wide image": partial(figures.patches, images(1, 24, 72, 3)[0], 8),
    "zero-shot": guess(),
    "zero-shot of two": guess(2, 0),
    "digit errors": errors(),
    "digit errors with names": errors(name=lambda i: f"yellow {i} above"),
    "no digit errors": partial(figures.digit_errors, images(3, 8, 8, 1), [1, 2, 3], [1, 2, 3]),
}


def frames(axes, colour, **style):
    return [
        patch
        for patch in axes.patches
        if isinstance(patch, Rectangle)
        and to_hex(patch.get_edgecolor()) == colour
        and all(getattr(patch, f"get_{key}")() == value for key, value in style.items())
    ]


def pictures(figure):
    return figure.axes[0].images


@pytest.mark.parametrize("draw", [pytest.param(draw, id=name) for name, draw in CASES.items()])
@pytest.mark.parametrize(
    "options", [{}, {"title": "A title " * 12, "theme": "dark"}], ids=["plain", "long title, dark"]
)
def test_no_text_is_clipped_or_overlaps(draw, options):
    figure = draw(**options)
    assert_texts_fit(figure)


@pytest.mark.parametrize("draw", [pytest.param(draw, id=name) for name, draw in CASES.items()])
def test_figure_is_no_wider_than_a_page_and_has_the_colours_of_its_theme(draw):
    light, dark = draw(), draw(theme="dark")
    assert light.get_size_inches()[0] <= 7.6
    assert to_hex(light.get_facecolor()) == LIGHT.paper
    assert to_hex(dark.get_facecolor()) == THEMES["dark"].paper
    assert words(light) == words(dark)


def test_pyplot_is_not_needed():
    code = (
        "import sys, numpy as np; from scratch_vlm.viz import figures;"
        "figures.patches(np.zeros((8, 8)), 4); assert 'matplotlib.pyplot' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_curve_shows_the_losses_and_names_chance_by_the_number_of_choices():
    figure = curve(chance=math.log(128))()
    raw, smooth, chance = figure.axes[1].lines
    np.testing.assert_allclose(raw.get_ydata(), 0.2 + 4.5 * np.exp(-np.arange(1, 301) / 60))
    assert np.abs(smooth.get_ydata() - raw.get_ydata()).max() < 0.2
    assert set(chance.get_ydata()) == {math.log(128)} and chance.get_linestyle() != "-"
    assert "chance: ln 128 = 4.85" in words(figure)
    assert "loss 0.23" in words(figure)


def test_chance_that_is_no_logarithm_of_a_whole_number_is_only_a_number():
    assert "chance: 1.50" in words(curve(chance=1.5)())


def test_smoothing_does_not_lag_behind_a_straight_line():
    steps = np.arange(400)
    figure = figures.learning_curve(steps, steps * 2.0)
    smooth = figure.axes[1].lines[1].get_ydata()
    np.testing.assert_allclose(smooth[10:-10], steps[10:-10] * 2.0)
    assert np.all(np.diff(smooth) > 0)


def test_rates_have_a_panel_of_their_own():
    rates = np.linspace(1e-3, 0, 300)
    figure = curve(rates=rates)()
    np.testing.assert_array_equal(figure.axes[2].lines[0].get_ydata(), rates)
    assert "0.001" in words(figure) and "learning rate" in words(figure)


def test_matrix_holds_every_value_caption_and_image_and_marks_the_diagonal():
    similarity = np.array([[0.9, 0.1, -0.001], [0.95, 0.8, 0.2], [0.3, -0.4, 0.7]])
    names = ["red one above blue two", "b", "c"]
    figure = figures.similarity_matrix(similarity, images(3), names)
    page, cells = figure.axes
    assert [text.get_text() for text in cells.texts] == [
        *("0.90", "0.95", "0.30"),
        *("0.10", "0.80", "−0.40"),
        *("0.00", "0.20", "0.70"),
    ]
    red = cells.images[0].get_array()[..., 0]  # falls from white to blue
    np.testing.assert_array_equal(red.ravel().argsort(), (-similarity.T).ravel().argsort())
    assert set(names) < set(words(figure))
    for picture, image in zip(page.images, images(3), strict=True):
        np.testing.assert_array_equal(picture.get_array(), image)
    diagonal = frames(cells, LIGHT.ink, linestyle="-")
    assert [(r.get_x(), r.get_y()) for r in diagonal] == [(i - 0.46, i - 0.44) for i in range(3)]
    (confused,) = frames(cells, LIGHT.wrong)  # caption 0 finds image 1
    assert (confused.get_x(), confused.get_y()) == (1 - 0.46, -0.44)
    assert confused.get_linestyle() != "-"


def test_confusion_prints_counts_and_rates_and_a_single_error_has_a_colour():
    counts = np.array([[999, 1], [0, 0]])
    figure = figures.confusion(counts, ["yes", "no"])
    cells = figure.axes[1]
    assert [text.get_text() for text in cells.texts] == ["999", "1", "", ""]
    assert {"yes", "no", "truth", "answer", "100%", "–"} <= set(words(figure))
    colours = cells.images[0].get_array()
    assert to_hex(colours[1, 0]) == to_hex(colours[1, 1]) == LIGHT.paper
    assert np.abs(colours[0, 1] - colours[1, 0]).max() > 0.5
    red, _, blue = colours[0, 1][:3]
    assert red > blue, "errors are warm"
    red, _, blue = colours[0, 0][:3]
    assert blue > red, "hits are cold"


def test_retrieval_orders_by_score_and_frames_the_right_image():
    scores = np.array([[0.1, 0.9, 0.5, 0.2], [0.9, 0.8, 0.7, 0.1]])
    pool = images(4)
    figure = figures.retrieval(["first", "second"], pool, scores, correct=[2, 3], top=3)
    for picture, index in zip(pictures(figure), [1, 2, 3, 0, 1, 2], strict=True):
        np.testing.assert_array_equal(picture.get_array(), pool[index])
    (framed,) = frames(figure.axes[0], LIGHT.right)
    assert framed.get_x() == pictures(figure)[1].get_extent()[0]
    assert "0.50 ✓" in words(figure)
    assert {"its image: rank 2 of 4", "its image: rank 4 of 4"} <= set(words(figure))


def test_image_that_comes_first_is_said_to():
    figure = figures.retrieval(["a"], images(2), np.array([[0.9, 0.1]]), correct=[0])
    assert "✓ its image comes first" in words(figure)
    assert len(pictures(figure)) == 2, "no more images than there are"


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
    figure = figures.attention_maps(np.zeros((4, 6)), weights, grid=(2, 3))
    shown = pictures(figure)[1].get_array()
    assert shown.shape == (4, 6, 3)
    blue = np.array([[to_hex(pixel) == LIGHT.main for pixel in row] for row in shown])
    expected = np.zeros((4, 6), bool)
    expected[2:, 4:] = True
    np.testing.assert_array_equal(blue, expected)


def test_image_is_drawn_in_grey_over_the_attention_and_the_background_keeps_its_colour():
    image = np.zeros((4, 4))
    image[1, 1] = image[2, 2] = 1.0  # in the first patch and in the last
    figure = figures.attention_maps(image, np.array([[0.0, 0.0, 0.0, 1.0]]), grid=(2, 2))
    shown = pictures(figure)[1].get_array()
    background = np.ones((4, 4, 3))
    background[2:, 2:] = shown[3, 3]
    assert to_hex(shown[3, 3]) == LIGHT.main
    np.testing.assert_array_equal(shown[image == 0], background[image == 0])
    to_grey = np.abs(shown - 0.5).max(axis=2) < 0.6 * np.abs(background - 0.5).max(axis=2)
    np.testing.assert_array_equal(to_grey, image > 0)


def test_heads_share_one_scale_with_the_even_share_marked():
    weights = np.array([[0.6, 0.2, 0.1, 0.1], [0.3, 0.3, 0.3, 0.1]])
    figure = figures.attention_maps(np.zeros((4, 4)), weights, grid=(2, 2))
    assert {"60%", "even 25%", "0"} <= set(words(figure))
    first, second = (pictures(figure)[i].get_array() for i in (2, 3))
    np.testing.assert_array_equal(first[3, 3], second[3, 3])
    assert to_hex(first[0, 0]) == LIGHT.main != to_hex(second[0, 0])


def test_patch_that_looks_is_framed():
    weights = np.full((2, 6), 1 / 6)
    figure = figures.attention_maps(
        np.zeros((4, 6)), weights, grid=(2, 3), asking=[5, None], mean=False
    )
    (frame,) = (
        patch for patch in figure.axes[0].patches if to_hex(patch.get_edgecolor()) == LIGHT.wrong
    )
    left, right, bottom, _ = pictures(figure)[1].get_extent()
    assert np.allclose(frame.get_x() + frame.get_width(), right)
    assert np.allclose(frame.get_y() + frame.get_height(), bottom)
    assert np.allclose(frame.get_width(), (right - left) / 3)


def test_attention_to_other_tokens_is_said():
    weights = np.array([[0.5, 0.2], [0.5, 0.5]])
    figure = figures.attention_maps(np.zeros((2, 4)), weights, grid=(1, 2))
    assert [w for w in words(figure) if "elsewhere" in w] == [
        "elsewhere 15%",
        "elsewhere 30%",
        "elsewhere 0%",
    ]


def test_patches_are_numbered_in_reading_order_and_their_shapes_are_written():
    image = images(1)[0]
    figure = figures.patches(image, 8)
    whole, *pieces = pictures(figure)
    np.testing.assert_array_equal(whole.get_array(), image)
    np.testing.assert_array_equal(pieces[5].get_array(), image[8:16, 16:24])
    assert [w for w in words(figure) if w.isdigit()][:9] == [str(n) for n in range(9)]
    assert {"24 × 24 × 3", "9 patches of 8 × 8 × 3", "9 tokens of 192 numbers"} <= set(
        words(figure)
    )
    tokens = figure.axes[1].images[0].get_array()
    np.testing.assert_array_equal(tokens[5], image[8:16, 16:24].ravel())


def test_patches_are_the_rows_that_patchify_makes():
    image = images(1, 8, 12, 3)[0]
    tokens = figures.patches(image, (2, 4)).axes[1].images[0].get_array()
    np.testing.assert_array_equal(tokens, patchify_forward(image[None], patch=(2, 4))[0][0])


def test_zero_shot_bars_are_ordered_and_the_truth_is_marked_when_the_model_errs():
    figure = figures.zero_shot_example(images(1)[0], ["a", "b", "c"], [0.2, 0.5, 0.3], 2)
    bars = figure.axes[1].patches
    assert [bar.get_width() for bar in bars] == [0.5, 0.3, 0.2]
    assert [to_hex(bar.get_facecolor()) for bar in bars] == [LIGHT.wrong, LIGHT.right, LIGHT.muted]
    assert {"50%  ✗", "30%  ✓ true", "20%"} <= set(words(figure))


def test_only_errors_are_shown_and_counted():
    digits = images(4, 8, 8)
    figure = figures.digit_errors(digits, np.array([1, 2, 3, 4]), np.array([1, 7, 3, 9]), limit=1)
    (shown,) = pictures(figure)
    np.testing.assert_array_equal(shown.get_array(), digits[1])
    assert words(figure) == ["2 of 4 wrong (50.0%), the first 1 of them", "2 read as 7"]


def test_no_errors_is_a_result_and_not_a_failure():
    assert words(CASES["no digit errors"]()) == ["0 of 3 wrong (0.0%)"]


@pytest.mark.parametrize("draw", [pytest.param(draw, id=name) for name, draw in CASES.items()])
def test_dollar_signs_are_letters_and_not_formulas(draw):
    assert not any(text.get_parse_math() for text in texts(draw(title="$1 to $2")))


def test_inputs_are_left_as_they_were():
    x, weights = images(1)[0], softmax(2, 9)
    before = x.copy(), weights.copy()
    figures.attention_maps(x, weights, grid=(3, 3))
    np.testing.assert_array_equal(x, before[0])
    np.testing.assert_array_equal(weights, before[1])


A = images(2)
D = images(1, 8, 8)[0]
WRONG = {
    "losses": (lambda: figures.learning_curve([1, 2], [1.0]), "2 steps and 1 losses"),
    "rates": (lambda: figures.learning_curve([1], [1.0], rates=[1.0, 2.0]), "1 steps and 2 rates"),
    "order": (lambda: figures.learning_curve([2, 1], [1.0, 1.0]), "increase"),
    "nothing": (lambda: figures.learning_curve([], []), "steps must be"),
    "NaN": (lambda: figures.learning_curve([1, 2], [1.0, math.nan]), r"losses\[1\] is nan"),
    "theme": (lambda: figures.patches(D, 4, theme="blue"), "'blue'"),
    "matrix": (
        lambda: figures.similarity_matrix(np.eye(3), A, ["a", "b"]),
        r"\(3, 3\) for 2 images",
    ),
    "captions": (lambda: figures.similarity_matrix(np.eye(2), A, ["a"]), "1 captions"),
    "names": (lambda: figures.confusion(np.eye(3, dtype=int), ["a", "b"]), "2 names need"),
    "shares": (lambda: figures.confusion(np.eye(2), ["a", "b"]), "whole numbers"),
    "negative": (lambda: figures.confusion(-np.eye(2, dtype=int), ["a", "b"]), "whole numbers"),
    "scores": (
        lambda: figures.retrieval(["a"], A, np.eye(3), correct=[0]),
        r"1 captions and 2 images; it must have shape \(1, 2\)",
    ),
    "correct": (
        lambda: figures.retrieval(["a"], A, np.ones((1, 2)), correct=[2]),
        "there are images 0 to 1",
    ),
    "no correct": (
        lambda: figures.retrieval(["a"], A, np.ones((1, 2)), correct=[]),
        "one image index for each of 1 captions",
    ),
    "top": (
        lambda: figures.retrieval(["a"], A, np.ones((1, 2)), correct=[0], top=0),
        "at least 1; got 0",
    ),
    "class token": (
        lambda: figures.attention_maps(D, softmax(2, 5), grid=(2, 2)),
        "5 patches and a grid of 2 x 2 has 4; leave out",
    ),
    "grid": (
        lambda: figures.attention_maps(D, softmax(2, 9), grid=(3, 3)),
        "8 x 8 does not divide into 3 x 3",
    ),
    "logits": (lambda: figures.attention_maps(D, np.ones((1, 4)), grid=(2, 2)), "probabilities"),
    "labels": (
        lambda: figures.attention_maps(D, softmax(2, 4), grid=(2, 2), labels=["a"]),
        "1 labels for 2 heads",
    ),
    "asking": (
        lambda: figures.attention_maps(D, softmax(2, 4), grid=(2, 2), asking=[0, 4]),
        r"a patch from 0 to 3 for each of 2 maps; got \[0, 4\]",
    ),
    "patch": (lambda: figures.patches(D, 3), "8 x 8 does not divide into patches of 3 x 3"),
    "batch": (lambda: figures.patches(A, 8), r"\(H, W\) or \(H, W, C\)"),
    "channels": (lambda: figures.patches(np.zeros((8, 8, 4)), 4), r"\(1, 8, 8, 4\)"),
    "bytes": (lambda: figures.patches(np.zeros((8, 8), np.uint8), 4), "divide bytes by 255"),
    "normalised": (lambda: figures.patches(D - 1.5, 4), "before normalisation"),
    "NaN image": (lambda: figures.patches(D * np.nan, 4), "must lie in"),
    "probabilities": (
        lambda: figures.zero_shot_example(D, ["a", "b"], [1.0], 0),
        "2 captions and 1 probabilities",
    ),
    "percent": (lambda: figures.zero_shot_example(D, ["a", "b"], [40.0, 60.0], 0), r"\[0, 1\]"),
    "truth": (lambda: figures.zero_shot_example(D, ["a", "b"], [0.5, 0.5], 2), "captions 0 to 1"),
    "predictions": (
        lambda: figures.digit_errors(images(2, 8, 8), [1, 2], [1]),
        "2 images, 2 labels and 1 predictions",
    ),
    "limit": (lambda: figures.digit_errors(images(1, 8, 8), [1], [2], limit=0), "at least 1"),
}


@pytest.mark.parametrize(("call", "said"), [pytest.param(*w, id=k) for k, w in WRONG.items()])
def test_wrong_input_is_told_what_was_given_and_what_would_fit(call, said):
    with pytest.raises(ValueError, match=said):
        call()
