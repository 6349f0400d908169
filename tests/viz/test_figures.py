import subprocess
import sys
from functools import partial

import numpy as np
import pytest
from drawn import assert_good, every, images, pictures, softmax, words
from matplotlib.colors import to_hex
from matplotlib.patches import Rectangle

from scratch_vlm.ops.patches import patchify_forward
from scratch_vlm.viz import figures
from scratch_vlm.viz.style import THEMES

LONG = "yellow seven above green three"
LIGHT = THEMES["light"]


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


def guess(n=8, truth=2):
    captions = [f"{LONG} {i}" for i in range(n)]
    return partial(figures.zero_shot_example, images(1)[0], captions, softmax(n), truth)


def errors(n=40, name=str):
    labels = [name(i % 10) for i in range(n)]
    called = [name((i + i % 2) % 10) for i in range(n)]
    return partial(figures.digit_errors, images(n, 8, 8), labels, called)


CASES = {
    "matrix": matrix(),
    "small matrix": matrix(2),
    "confusion": table(),
    "confusion of long names": table(12, lambda i: f"yellow seven {i}"),
    "confusion of three": table(3),
    "retrieval": search(),
    "retrieval of digits": search((8, 8)),
    "retrieval of few": search(t=1, b=2),
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


@every(CASES)
def test_figure_is_good_in_both_themes(draw):
    assert_good(draw)


def test_pyplot_is_not_needed():
    code = (
        "import sys, numpy as np; from scratch_vlm.viz import attention, clips, curves, figures;"
        "figures.patches(np.zeros((8, 8)), 4); curves.shots([0], {'a': [0.5]});"
        "assert 'matplotlib.pyplot' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


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


A = images(2)
D = images(1, 8, 8)[0]
WRONG = {
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
