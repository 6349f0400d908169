"""Lines with their names at their right ends."""

import numpy as np
import pytest

from scratch_vlm.viz.lines import lines


def named(figure):
    axes = figure.axes[1]
    return {text.get_text(): text.get_position()[1] for text in axes.texts}


@pytest.mark.parametrize("log", ["", "x", "y", "xy"])
@pytest.mark.parametrize("theme", ["light", "dark"])
def test_names_stand_at_the_right_ends_in_the_order_of_the_lines(log, theme):
    x = np.array([1.0, 2.0, 4.0, 8.0])
    figure = lines(
        x, {"slow": x, "fast": x**2}, across="n", up="cost", log=log, title="Growth", theme=theme
    )
    places = named(figure)
    assert 0.5 < places["slow"] + 0.5 and places["fast"] > 0.9 > places["slow"]


def test_axis_falls_where_the_numbers_do():
    x = np.array([8.0, 4.0, 2.0, 1.0])
    figure = lines(x, {"grows": 100 / x, "falls": x}, across="n", up="cost", log="xy")
    axes, places = figure.axes[1], named(figure)
    left, right = axes.get_xlim()
    assert left > right and places["grows"] > 0.9 and places["falls"] < 0.1


def test_names_of_lines_that_meet_do_not_touch():
    x = np.arange(1.0, 5.0)
    places = sorted(named(lines(x, {"a": x, "b": x, "c": x}, across="n", up="m")).values())
    assert np.diff(places).min() > 0.04


def test_places_are_marked_by_name():
    x = np.arange(1.0, 5.0)
    axes = lines(x, {"a": x}, across="n", up="m", points={"here": (2.0, 3.0)}).figure.axes[1]
    (mark,) = (line for line in axes.get_lines() if line.get_marker() == "o")
    assert mark.get_xydata().tolist() == [[2, 3]]
    assert "here" in {text.get_text() for text in axes.texts}


def test_what_has_no_logarithm_is_left_out():
    figure = lines(np.arange(1.0, 4.0), {"a": [1.0, 10.0, 0.0]}, across="n", up="m", log="y")
    (line,) = figure.axes[1].get_lines()
    assert np.isnan(line.get_ydata()[2]) and named(figure)["a"] > 0.9


def test_wrong_lines_are_refused():
    x = np.arange(3.0)
    with pytest.raises(ValueError, match="1 to 4 lines, got 0"):
        lines(x, {}, across="n", up="m")
    with pytest.raises(ValueError, match=r"y has shape \(2,\) and x \(3,\)"):
        lines(x, {"y": [1, 2]}, across="n", up="m")
