import math
from functools import partial

import numpy as np
import pytest
from drawn import LONG, assert_good, every, said, words

from scratch_vlm.viz.curves import (
    MOST,
    _series,
    _spread,
    cost_curves,
    gate_curves,
    learning_curve,
    learning_curves,
    shots,
)
from scratch_vlm.viz.style import THEMES

STEPS = np.arange(1, 201)
COUNTS = np.array([1, 2, 4, 8, 16, 32])
COSTS = {
    "forward (FLOPs)": {"unified": 1e6 * COUNTS**2, "cross_modal": 1e6 * COUNTS},
    "KV cache of every layer and every head (bytes)": {
        "unified": COUNTS,
        "cross_modal": COUNTS * 2,
    },
    "sequence length (tokens)": {"unified": 20 + 3 * COUNTS, "cross_modal": 20 + 0 * COUNTS},
}
SHOTS = {"unified": [0.1, 0.4, 0.6], "cross_modal": [0.1, 0.4, 0.6], LONG: [0.1, 0.1, 0.1]}


def curve(n=300, **options):
    steps = np.arange(1, n + 1)
    return partial(learning_curve, steps, 0.2 + 4.5 * np.exp(-steps / 60), **options)


def falling(end):
    return STEPS, end + 3 * np.exp(-STEPS / 40)


def gate(runs, count, end=0.8):
    opened = np.linspace(end, end / 2, count) * (1 - np.exp(-STEPS[:, None] / 50))
    return partial(gate_curves, STEPS, {f"run {LONG} {i}": opened for i in range(runs)})


CASES = {
    "curve": curve(title="Learning"),
    "curve with rates": curve(chance=math.log(128), rates=np.linspace(1e-3, 0, 300)),
    "curve at chance": partial(learning_curve, [1, 2], [2.3, 2.3], chance=math.log(10)),
    "curve of one step": curve(1, rates=[0.0]),
    "gates": partial(gate(3, 4), names=[f"block {k} attention" for k in range(4)]),
    "gates of one": gate(3, 1),
    "gates of many": gate(2, 12, 0.01),
    "shots": partial(shots, [0, 1, 4], SHOTS, 0.1),
    "shots of one": partial(shots, [0], {"unified": [0.5]}),
    "many shots": partial(shots, COUNTS, {str(i): np.linspace(0.1, 0.9, 6) for i in range(9)}),
    "costs": partial(cost_curves, COUNTS, COSTS),
    "costs of four kinds": partial(cost_curves, COUNTS, COSTS | {"time (s)": {"a": COUNTS}}),
    "cost of one": partial(cost_curves, [1], {"x (bytes)": {"unified": [0]}}),
    "curves": partial(
        learning_curves,
        {"unified": falling(0.2), "cross_modal": falling(0.2), LONG: ([1, 2], [3.0, 2.0])},
        chance=3.4,
    ),
    "curves of one step": partial(learning_curves, {"unified": ([1], [0.0])}),
}


@every(CASES)
def test_figure_is_good_in_both_themes(draw):
    assert_good(draw)


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
    figure = learning_curve(steps, steps * 2.0)
    smooth = figure.axes[1].lines[1].get_ydata()
    np.testing.assert_allclose(smooth[10:-10], steps[10:-10] * 2.0)
    assert np.all(np.diff(smooth) > 0)


def test_rates_have_a_panel_of_their_own():
    rates = np.linspace(1e-3, 0, 300)
    figure = curve(rates=rates)()
    np.testing.assert_array_equal(figure.axes[2].lines[0].get_ydata(), rates)
    assert "0.001" in words(figure) and "learning rate" in words(figure)


def test_each_run_has_a_panel_with_all_its_gates_on_one_scale():
    figure = CASES["gates"]()
    panels = figure.axes[1:]
    assert len(panels) == 3
    assert len({panel.get_ylim() for panel in panels}) == 1
    assert all(len(panel.lines) == 4 + 1 for panel in panels), "the gates and the line of zero"
    assert words(figure).count("block 3 attention") == 3


def test_runs_of_one_gate_share_a_panel():
    values = np.linspace(0, 0.5, 200)
    figure = gate_curves(STEPS, {"a": values, "b": -values[:, None]})
    (panel,) = figure.axes[1:]
    np.testing.assert_array_equal(panel.lines[0].get_ydata(), values)
    np.testing.assert_array_equal(panel.lines[1].get_ydata(), -values)
    assert {"a", "b"} <= set(words(figure))


def test_labels_stand_in_the_order_of_the_ends_of_their_lines():
    ends = {"low": 0.5, "high": 0.502, "middle": 0.501}
    figure = shots([0, 1], {name: [0.1, end] for name, end in ends.items()})
    heights = {name: said(figure, f"{name} 50%").get_position()[1] for name in ends}
    assert heights["high"] < heights["middle"] < heights["low"], "inches count from the top"


def test_shots_are_drawn_at_their_counts_over_chance():
    figure = shots([0, 1, 4], {"unified": [0.1, 0.4, 0.6]}, 0.25)
    line, chance = figure.axes[1].lines
    np.testing.assert_array_equal(line.get_xdata(), [0, 1, 4])
    assert set(chance.get_ydata()) == {0.25}
    assert {"chance 25%", "unified 60%"} <= set(words(figure))
    named = shots([0], {"unified": [0.5]}, 0.25, chance_name="rule guessed")
    assert "rule guessed 25%" in words(named)
    assert not any("chance" in w for w in words(shots([0], {"unified": [0.5]})))


def test_costs_that_span_much_are_logarithmic_and_say_so():
    figure = cost_curves(COUNTS, COSTS)
    assert [axes.get_yscale() for axes in figure.axes[1:]] == ["log", "log", "linear"]
    assert "forward (FLOPs), log scale" in words(figure)
    assert "sequence length (tokens)" in words(figure)
    assert figure.axes[3].get_ylim()[0] == 0


def test_cost_of_nothing_is_never_logarithmic():
    figure = cost_curves([1, 2], {"x (bytes)": {"a": [0, 1000]}})
    assert figure.axes[1].get_yscale() == "linear"


def test_an_architecture_looks_the_same_in_every_panel():
    figure = cost_curves([1, 2], {"x": {"a": [1, 2], "b": [2, 3]}, "y": {"b": [1, 2]}})
    first, second = figure.axes[1:]
    assert first.lines[1].get_color() == second.lines[0].get_color() != first.lines[0].get_color()
    assert first.lines[0].get_linestyle() != first.lines[1].get_linestyle()


def test_raw_losses_lie_faint_under_their_running_mean():
    losses = 1 + 0.5 * (-1.0) ** STEPS
    figure = learning_curves({"a": (STEPS, losses)}, chance=2.0)
    raw, smooth, chance = figure.axes[1].lines
    np.testing.assert_array_equal(raw.get_ydata(), losses)
    assert raw.get_alpha() < 1 and np.ptp(smooth.get_ydata()) < np.ptp(losses) / 2
    assert set(chance.get_ydata()) == {2.0}


def test_run_that_stops_early_is_led_to_its_name():
    figure = learning_curves({"long": ([1, 9], [3.0, 1.0]), "short": ([1, 5], [3.0, 2.0])})
    lead = figure.axes[1].lines[-1]
    assert list(lead.get_xdata()) == [5, 9] and list(lead.get_ydata()) == [2, 2]


@pytest.mark.parametrize("seed", range(20))
def test_spread_labels_never_touch_and_stay_inside_while_there_is_room(seed):
    rng = np.random.default_rng(seed)
    n = int(rng.integers(1, 9))
    heights = rng.choice([0.18, 0.36], n)
    room = sum(heights) * rng.uniform(1, 2)
    wanted = rng.random(n) * room
    middles = np.array(_spread(list(wanted), list(heights), room))
    order = np.argsort(wanted)
    tops, ends = (middles - heights / 2)[order], (middles + heights / 2)[order]
    assert (tops[1:] >= ends[:-1] - 1e-9).all()
    assert tops[0] >= -1e-9 and ends[-1] <= room + 1e-9


def test_labels_with_room_around_them_stay_where_they_are():
    wanted = [2.0, 1.0, 0.5]
    assert _spread(wanted, [0.2] * 3, 3.0) == pytest.approx(wanted)


@pytest.mark.parametrize("theme", THEMES)
def test_all_series_can_be_told_apart(theme):
    assert len({tuple(_series(k, theme).values()) for k in range(MOST)}) == MOST


WRONG = {
    "losses": (lambda: learning_curve([1, 2], [1.0]), "2 steps and 1 losses"),
    "rates": (lambda: learning_curve([1], [1.0], rates=[1.0, 2.0]), "1 steps and 2 rates"),
    "order": (lambda: learning_curve([2, 1], [1.0, 1.0]), "increase"),
    "nothing": (lambda: learning_curve([], []), "steps must be"),
    "NaN": (lambda: learning_curve([1, 2], [1.0, math.nan]), r"losses\[1\] is nan"),
    "alpha": (
        lambda: gate_curves([1, 2], {"a": [0, 3]}),
        r"\[-1, 1\]: give it, and not alpha",
    ),
    "no gates": (lambda: gate_curves([1], {}), "empty"),
    "gate steps": (
        lambda: gate_curves([1, 2], {"a": [0.5]}),
        r"2 steps and gates\['a'\] has 1",
    ),
    "gate counts": (
        lambda: gate_curves([1], {"a": [[0, 0]], "b": [[0]]}),
        "1, 2 gates; all must",
    ),
    "gate names": (lambda: gate_curves([1], {"a": [[0, 0]]}, names=["x"]), "1 names for 2"),
    "same names": (lambda: gate_curves([1], {"a": [[0, 0]]}, names=["x", "x"]), "differ"),
    "order of shots": (lambda: shots([1, 0], {"a": [0.5, 0.5]}), "counts must increase"),
    "half": (lambda: shots([0.5], {"a": [0.5]}), "whole numbers"),
    "no shots": (lambda: shots([1], {}), "empty"),
    "shots": (lambda: shots([0, 1], {"a": [0.5]}), "2 counts and .* has 1"),
    "chance": (lambda: shots([0], {"a": [0.5]}, 25), "chance is 25"),
    "costs": (lambda: cost_curves([1], {"x": {}}), "costs must hold"),
    "cost": (lambda: cost_curves([1, 2], {"x": {"a": [1]}}), "2 numbers of images"),
    "negative": (lambda: cost_curves([1], {"x": {"a": [-1]}}), "negative"),
    "no curves": (lambda: learning_curves({}), "empty"),
    "losses of a run": (
        lambda: learning_curves({"a": ([1, 2], [1])}),
        "'a' has 2 steps and 1 losses",
    ),
    "steps of a run": (
        lambda: learning_curves({"a": ([2, 1], [1, 1])}),
        "steps of 'a' must increase",
    ),
    "NaN in a run": (lambda: learning_curves({"a": ([1], [np.nan])}), "losses of 'a'.*nan"),
    "lines": (
        lambda: learning_curves({str(i): ([1], [1]) for i in range(16)}),
        "16 curves and 15",
    ),
    "theme": (lambda: shots([0], {"a": [0.5]}, theme="blue"), "'blue'"),
}


@pytest.mark.parametrize(("call", "said"), [pytest.param(*w, id=k) for k, w in WRONG.items()])
def test_wrong_input_is_told_what_was_given_and_what_would_fit(call, said):
    with pytest.raises(ValueError, match=said):
        call()
