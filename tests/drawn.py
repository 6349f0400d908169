"""What tests of figures draw, and what must hold of every figure."""

import itertools

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_hex
from matplotlib.text import Text

from scratch_vlm.viz.style import THEMES

LONG = "red seven above green three and blue one left of yellow nine"


def every(cases):
    """Run a test for each figure of {name: draw}."""
    return pytest.mark.parametrize("draw", [pytest.param(d, id=name) for name, d in cases.items()])


def images(n, *shape):
    return np.random.default_rng(n).random((n, *(shape or (24, 24, 3))), dtype=np.float32)


def softmax(*shape, seed=0):
    x = np.exp(2 * np.random.default_rng(seed).normal(size=shape))
    return x / x.sum(axis=-1, keepdims=True)


def row(question="what colour is the seven", truth="red", **replies):
    return question, truth, replies or {"unified": truth, "cross_modal": "blue"}


def texts(figure):
    """All that is written; Matplotlib also keeps labels of ticks beyond an axis, never drawn."""
    beyond = set()
    for axis in (axis for axes in figure.axes for axis in (axes.xaxis, axes.yaxis)):
        low, high = sorted(axis.get_view_interval())
        for tick in (*axis.get_major_ticks(), *axis.get_minor_ticks()):
            if not low <= tick.get_loc() <= high:
                beyond |= {tick.label1, tick.label2}
    return [
        text
        for text in figure.findobj(Text)
        if text.get_text().strip() and text.get_visible() and text not in beyond
    ]


def words(figure):
    return [text.get_text().replace("\n", " ") for text in texts(figure)]


def said(figure, text):
    (found,) = [t for t in texts(figure) if t.get_text() == text]
    return found


def pictures(figure):
    return figure.axes[0].images


def assert_good(draw):
    """It fits its page, has the colours of its theme, and says the same in both."""
    light, dark = draw(), draw(theme="dark")
    assert words(light) == words(dark)
    titled = draw(title="A $1 to $2 title " * 8, theme="dark")
    for figure, theme in ((light, "light"), (titled, "dark")):
        assert figure.get_size_inches()[0] <= 7.6
        assert to_hex(figure.get_facecolor()) == THEMES[theme].paper
        assert not any(text.get_parse_math() for text in texts(figure)), "a $ is a letter"
        assert_texts_fit(figure)


def assert_texts_fit(figure):
    """No text is clipped, and none stands on another or on an image."""
    renderer = FigureCanvasAgg(figure).get_renderer()
    figure.draw(renderer)
    boxes = [
        (text.get_text(), text.get_window_extent(renderer).padded(-1)) for text in texts(figure)
    ]
    for text, box in boxes:
        inside = (
            box.x0 >= 0 and box.y0 >= 0 and box.x1 <= figure.bbox.x1 and box.y1 <= figure.bbox.y1
        )
        assert inside, f"{text!r} is clipped"
    for (one, a), (other, b) in itertools.combinations(boxes, 2):
        assert not a.overlaps(b), f"{one!r} overlaps {other!r}"
    page = figure.axes[0]
    for text, picture in itertools.product(page.texts, page.images):
        box = text.get_window_extent(renderer).padded(-1)
        assert not box.overlaps(picture.get_window_extent(renderer)), (
            f"{text.get_text()!r} on image"
        )
