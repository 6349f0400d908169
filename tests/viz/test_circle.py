"""Pairs of arrows on a circle."""

import numpy as np
import pytest

from scratch_vlm.viz.circle import pairs_on_circle


def arrows(angles):
    return np.stack([np.cos(angles), np.sin(angles)], axis=-1)


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_tips_stand_where_the_arrows_point_and_pairs_share_a_colour(theme):
    first, last = arrows(np.array([[0.0, 2.0], [1.0, 3.0]])), arrows(np.array([[0.0, 2.0]] * 2))
    figure = pairs_on_circle({"first": first, "last": last}, title="Pairs", theme=theme)
    for axes, expected in zip(figure.axes[1:], (first, last), strict=True):
        tips = [line for line in axes.lines if line.get_marker() == "o"]
        places = np.array([line.get_xydata()[0] for line in tips])  # text, image, text, image
        np.testing.assert_allclose(places, expected[::-1].swapaxes(0, 1).reshape(-1, 2))
        colours = [line.get_markeredgecolor() for line in tips]
        assert colours[0] == colours[1] != colours[2] == colours[3]
        faces = [line.get_markerfacecolor() for line in tips]
        assert faces[1::2] == colours[1::2] and colours[0] != faces[0] == faces[2] != colours[2]
    numbers = [[text.get_text() for text in axes.texts] for axes in figure.axes[1:]]
    assert numbers == [["1", "1", "2", "2"], ["1", "2"]], "arrows that meet share a number"
    said = [text.get_text() for text in figure.axes[0].texts]
    assert {"Pairs", "first", "last"} <= set(said)


def test_wrong_panels_are_refused():
    with pytest.raises(ValueError, match="1 to 4 panels, got 0"):
        pairs_on_circle({})
    with pytest.raises(ValueError, match=r"start has shape \(3, 2\) and must be \(2, N, 2\)"):
        pairs_on_circle({"start": np.ones((3, 2))})
    with pytest.raises(ValueError, match=r"start has shape \(2, 5, 2\)"):
        pairs_on_circle({"start": np.ones((2, 5, 2))})
