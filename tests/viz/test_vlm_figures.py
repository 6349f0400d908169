import subprocess
import sys
from functools import partial

import numpy as np
import pytest
from drawn import assert_texts_fit, images, softmax, texts, words
from matplotlib.colors import to_hex, to_rgb

from scratch_vlm.viz import vlm_figures as figures
from scratch_vlm.viz.report import Report
from scratch_vlm.viz.style import THEMES

LIGHT = THEMES["light"]
LONG = "red seven above green three and blue one left of yellow nine"
STEPS = np.arange(1, 201)


def luminance(colour):
    red, green, blue = (
        c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in to_rgb(colour)
    )
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(a, b):
    low, high = sorted([luminance(a), luminance(b)])
    return (high + 0.05) / (low + 0.05)


def row(question="what colour is the seven", truth="red", **replies):
    return question, truth, replies or {"unified": truth, "cross_modal": "blue"}


def falling(end):
    return STEPS, end + 3 * np.exp(-STEPS / 40)


def gate(runs, count, end=0.8):
    opened = np.linspace(end, end / 2, count) * (1 - np.exp(-STEPS[:, None] / 50))
    return partial(figures.gate_curves, STEPS, {f"run {LONG} {i}": opened for i in range(runs)})


COUNTS = np.array([1, 2, 4, 8, 16, 32])
COSTS = {
    "forward (FLOPs)": {"unified": 1e6 * COUNTS**2, "cross_modal": 1e6 * COUNTS},
    "KV cache of every layer and every head (bytes)": {
        "unified": COUNTS,
        "cross_modal": COUNTS * 2,
    },
    "sequence length (tokens)": {"unified": 20 + 3 * COUNTS, "cross_modal": 20 + 0 * COUNTS},
}
BARS = {
    "colour": {"unified": 0.98, "cross_modal": 0.96, "chance": 0.25, "question_only": 0.3},
    "relation_heldout": {"unified": 0.5, "cross_modal": None, "chance": 0.5, "goal": 0.9},
}
SHOTS = {"unified": [0.1, 0.4, 0.6], "cross_modal": [0.1, 0.4, 0.6], LONG: [0.1, 0.1, 0.1]}
CASES = {
    "answers": partial(
        figures.answers,
        images(3),
        [[row()] * 4, [row(LONG, LONG)], [row(unified="red"), row(cross_modal="")]],
    ),
    "answers to one question": partial(figures.answers, images(1), [[row()]]),
    "answers of five models": partial(
        figures.answers,
        images(1, 8, 8),
        [[row(LONG, LONG, **{f"model {i}": LONG for i in "abcde"})]],
    ),
    "answers on tall images": partial(figures.answers, images(2, 24, 12), [[row()], [row()]]),
    "bars": partial(figures.accuracy_bars, BARS),
    "one bar": partial(figures.accuracy_bars, {"direction": {"clips": 1.0}}),
    "bars with long names": partial(
        figures.accuracy_bars, {LONG: {f"{LONG} {i}": 0.5 for i in range(5)}}
    ),
    "words": partial(
        figures.word_attention,
        images(1)[0],
        ["what", "colour", "is", "it", "?", "red"],
        softmax(6, 9),
        (3, 3),
    ),
    "words with shares": partial(
        figures.word_attention, images(1)[0], ["seven"], 0.5 * softmax(1, 36), (6, 6)
    ),
    "long words": partial(
        figures.word_attention, images(1)[0], ["bottom-centre-and-more"] * 8, softmax(8, 9), (3, 3)
    ),
    "strips": partial(
        figures.film_strip, images(2, 8, 24, 24, 3), marks=[[row(), row(LONG, LONG)], LONG * 4]
    ),
    "strip of one frame": partial(figures.film_strip, images(1)),
    "strips of many lengths": partial(
        figures.film_strip, [images(20), images(12), images(1)], marks=["a", "", "c"]
    ),
    "grey strip": partial(figures.film_strip, images(5, 24, 24)),
    "frame attention": partial(figures.frame_attention, images(8), softmax(8, 8)),
    "frame attention of many": partial(figures.frame_attention, images(16), softmax(64, 16)),
    "frame attention of one": partial(
        figures.frame_attention, images(2), softmax(1, 2), labels=[LONG]
    ),
    "gates": partial(gate(3, 4), names=[f"block {k} attention" for k in range(4)]),
    "gates of one": gate(3, 1),
    "gates of many": gate(2, 12, 0.01),
    "shots": partial(figures.shots, [0, 1, 4], SHOTS, 0.1),
    "shots of one": partial(figures.shots, [0], {"unified": [0.5]}),
    "many shots": partial(
        figures.shots, COUNTS, {str(i): np.linspace(0.1, 0.9, 6) for i in range(9)}
    ),
    "costs": partial(figures.cost_curves, COUNTS, COSTS),
    "costs of four kinds": partial(
        figures.cost_curves, COUNTS, COSTS | {"time (s)": {"a": COUNTS}}
    ),
    "cost of one": partial(figures.cost_curves, [1], {"x (bytes)": {"unified": [0]}}),
    "curves": partial(
        figures.learning_curves,
        {"unified": falling(0.2), "cross_modal": falling(0.2), LONG: ([1, 2], [3.0, 2.0])},
        chance=3.4,
    ),
    "curve of one step": partial(figures.learning_curves, {"unified": ([1], [0.0])}),
}
EVERY = pytest.mark.parametrize(
    "draw", [pytest.param(draw, id=name) for name, draw in CASES.items()]
)


def said(figure, text):
    (found,) = [t for t in texts(figure) if t.get_text() == text]
    return found


@EVERY
def test_figure_fits_its_page_and_no_text_is_clipped_overlaps_or_is_a_formula(draw):
    figure = draw(title="A $1 to $2 title " * 8, theme="dark")
    assert figure.get_size_inches()[0] <= 7.6
    assert to_hex(figure.get_facecolor()) == THEMES["dark"].paper
    assert not any(text.get_parse_math() for text in texts(figure))
    assert_texts_fit(figure)


def test_pyplot_is_not_needed():
    code = (
        "import sys; from scratch_vlm.viz import vlm_figures;"
        "vlm_figures.shots([0], {'a': [0.5]}); assert 'matplotlib.pyplot' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_same_figure_has_the_same_bytes():
    def page():
        report = Report("Twice")
        report.figure(CASES["gates of one"](), "Gates.", "Lines")
        report.figure(CASES["words with shares"](), "Words.", "Maps")
        return report.html()

    assert page() == page()


def test_right_and_wrong_answers_differ_in_colour_and_in_sign():
    figure = figures.answers(images(1), [[row(unified="red", cross_modal="rid")]])
    assert to_hex(said(figure, "✓ red").get_color()) == LIGHT.right
    assert to_hex(said(figure, "✗ rid").get_color()) == LIGHT.wrong
    assert to_hex(said(figure, "red").get_color()) == LIGHT.ink


def test_model_that_was_not_asked_has_a_dash_and_one_that_is_silent_is_wrong():
    figure = figures.answers(images(2), [[row(unified="red")], [row(cross_modal="")]])
    assert words(figure).count("–") == 2
    assert to_hex(said(figure, "✗ (nothing)").get_color()) == LIGHT.wrong


def test_questions_stand_beside_their_image():
    asked = [[row(f"{i} {k}") for k in range(i + 1)] for i in range(3)]
    figure = figures.answers(images(3), asked)
    extents = [picture.get_extent() for picture in figure.axes[0].images]  # left, right, low, top
    for i, (_, right, low, top) in enumerate(extents):
        for k in range(i + 1):
            x, y = said(figure, f"{i} {k}").get_position()
            assert x > right and top < y < low


def test_bars_have_the_length_of_the_accuracies_and_none_has_no_bar():
    figure = figures.accuracy_bars(BARS)
    bars = figure.axes[1].patches
    assert [bar.get_width() for bar in bars] == [0.98, 0.96, 0.5]
    assert to_hex(bars[0].get_facecolor()) == to_hex(bars[2].get_facecolor())
    assert to_hex(bars[0].get_facecolor()) != to_hex(bars[1].get_facecolor())
    assert {"98.0%", "96.0%", "50.0%", "relation, held out", "cross-modal"} <= set(words(figure))


def test_yardsticks_stand_at_their_values_and_only_those_given_are_explained():
    figure = figures.accuracy_bars(BARS)
    places = {float(line.get_xdata()[0]) for line in figure.axes[1].lines}
    assert places == {0.25, 0.3, 0.5, 0.9}
    assert {"chance", "question only", "goal"} <= set(words(figure))
    plain = figures.accuracy_bars({"colour": {"unified": 0.9}})
    assert not {"chance", "question only", "goal"} & set(words(plain))
    assert not plain.axes[1].lines


def test_attention_of_a_word_fills_the_block_of_its_patch():
    weights = np.array([[0.0, 0.0, 0.5, 0.0], [0.0, 1.0, 0.0, 0.0]])
    figure = figures.word_attention(np.zeros((4, 4)), ["a", "a"], weights, (2, 2))
    _, first, second = (picture.get_array() for picture in figure.axes[0].images)
    assert to_hex(second[0, 3]) == LIGHT.main and to_hex(second[3, 3]) == LIGHT.paper
    assert to_hex(first[3, 0]) == to_hex(LIGHT.ramp()(0.5)), "one scale for all words"
    assert [w for w in words(figure) if "elsewhere" in w] == ["elsewhere 50%", "elsewhere 0%"]


def test_every_frame_of_every_clip_is_shown_once_with_its_time():
    clips = [images(20), images(3)]
    figure = figures.film_strip(clips, marks=["first", "second"])
    shown = figure.axes[0].images
    for picture, frame in zip(shown, np.concatenate(clips), strict=True):
        np.testing.assert_array_equal(picture.get_array(), frame)
    assert [w for w in words(figure) if w.startswith("t = ")] == [
        f"t = {f}" for f in (*range(20), *range(3))
    ]
    assert {"first", "second"} <= set(words(figure))


def test_frames_of_a_thinned_clip_keep_their_numbers():
    figure = figures.film_strip([images(3)], numbers=[(0, 8, 16)])
    assert [w for w in words(figure) if w.startswith("t = ")] == ["t = 0", "t = 8", "t = 16"]


def test_array_of_clips_and_one_clip_are_told_apart():
    one, two = images(5), images(2, 5, 24, 24, 3)
    assert len(figures.film_strip(one).axes[0].images) == 5
    assert len(figures.film_strip(two).axes[0].images) == 10


def test_answers_under_a_clip_are_marked_as_in_the_gallery():
    figure = figures.film_strip(images(2), marks=[[row(unified="red", cross_modal="blue")]])
    right, wrong = (
        said(figure, f"{model}:\N{NO-BREAK SPACE}{sign}")
        for model, sign in (("unified", "✓ red"), ("cross-modal", "✗ blue"))
    )
    assert to_hex(right.get_color()) == LIGHT.right and to_hex(wrong.get_color()) == LIGHT.wrong


def test_frames_stand_above_their_columns_of_the_heat_map():
    weights = np.array([[1.0, 0.0, 0.0], [0.25, 0.5, 0.25]])
    figure = figures.frame_attention(images(3), weights)
    page, cells = figure.axes[:2]
    assert [text.get_text() for text in cells.texts] == ["100%", "0%", "0%", "25%", "50%", "25%"]
    assert to_hex(cells.images[0].get_array()[0, 0]) == LIGHT.main
    place, inches = cells.get_position(), figure.get_size_inches()[0]
    for f, picture in enumerate(page.images):
        x0, x1, *_ = picture.get_extent()
        assert (x0 + x1) / 2 == pytest.approx(inches * (place.x0 + place.width * (f + 0.5) / 3))


def test_each_run_has_a_panel_with_all_its_gates_on_one_scale():
    figure = CASES["gates"]()
    panels = figure.axes[1:]
    assert len(panels) == 3
    assert len({panel.get_ylim() for panel in panels}) == 1
    assert all(len(panel.lines) == 4 + 1 for panel in panels), "the gates and the line of zero"
    assert words(figure).count("block 3 attention") == 3


def test_runs_of_one_gate_share_a_panel():
    values = np.linspace(0, 0.5, 200)
    figure = figures.gate_curves(STEPS, {"a": values, "b": -values[:, None]})
    (panel,) = figure.axes[1:]
    np.testing.assert_array_equal(panel.lines[0].get_ydata(), values)
    np.testing.assert_array_equal(panel.lines[1].get_ydata(), -values)
    assert {"a", "b"} <= set(words(figure))


def test_labels_stand_in_the_order_of_the_ends_of_their_lines():
    ends = {"low": 0.5, "high": 0.502, "middle": 0.501}
    figure = figures.shots([0, 1], {name: [0.1, end] for name, end in ends.items()})
    heights = {name: said(figure, f"{name} 50%").get_position()[1] for name in ends}
    assert heights["high"] < heights["middle"] < heights["low"], "inches count from the top"


def test_shots_are_drawn_at_their_counts_over_chance():
    figure = figures.shots([0, 1, 4], {"unified": [0.1, 0.4, 0.6]}, 0.25)
    line, chance = figure.axes[1].lines
    np.testing.assert_array_equal(line.get_xdata(), [0, 1, 4])
    assert set(chance.get_ydata()) == {0.25}
    assert {"chance 25%", "unified 60%"} <= set(words(figure))
    named = figures.shots([0], {"unified": [0.5]}, 0.25, chance_name="rule guessed")
    assert "rule guessed 25%" in words(named)
    assert not any("chance" in w for w in words(figures.shots([0], {"unified": [0.5]})))


def test_costs_that_span_much_are_logarithmic_and_say_so():
    figure = figures.cost_curves(COUNTS, COSTS)
    assert [axes.get_yscale() for axes in figure.axes[1:]] == ["log", "log", "linear"]
    assert "forward (FLOPs), log scale" in words(figure)
    assert "sequence length (tokens)" in words(figure)
    assert figure.axes[3].get_ylim()[0] == 0


def test_cost_of_nothing_is_never_logarithmic():
    figure = figures.cost_curves([1, 2], {"x (bytes)": {"a": [0, 1000]}})
    assert figure.axes[1].get_yscale() == "linear"


def test_an_architecture_looks_the_same_in_every_panel():
    figure = figures.cost_curves([1, 2], {"x": {"a": [1, 2], "b": [2, 3]}, "y": {"b": [1, 2]}})
    first, second = figure.axes[1:]
    assert first.lines[1].get_color() == second.lines[0].get_color() != first.lines[0].get_color()
    assert first.lines[0].get_linestyle() != first.lines[1].get_linestyle()


def test_raw_losses_lie_faint_under_their_running_mean():
    losses = 1 + 0.5 * (-1.0) ** STEPS
    figure = figures.learning_curves({"a": (STEPS, losses)}, chance=2.0)
    raw, smooth, chance = figure.axes[1].lines
    np.testing.assert_array_equal(raw.get_ydata(), losses)
    assert raw.get_alpha() < 1 and np.ptp(smooth.get_ydata()) < np.ptp(losses) / 2
    assert set(chance.get_ydata()) == {2.0}


def test_run_that_stops_early_is_led_to_its_name():
    figure = figures.learning_curves({"long": ([1, 9], [3.0, 1.0]), "short": ([1, 5], [3.0, 2.0])})
    lead = figure.axes[1].lines[-1]
    assert list(lead.get_xdata()) == [5, 9] and list(lead.get_ydata()) == [2, 2]


@pytest.mark.parametrize("seed", range(20))
def test_spread_labels_never_touch_and_stay_inside_while_there_is_room(seed):
    rng = np.random.default_rng(seed)
    n = int(rng.integers(1, 9))
    heights = rng.choice([0.18, 0.36], n)
    room = sum(heights) * rng.uniform(1, 2)
    wanted = rng.random(n) * room
    middles = np.array(figures._spread(list(wanted), list(heights), room))
    order = np.argsort(wanted)
    tops, ends = (middles - heights / 2)[order], (middles + heights / 2)[order]
    assert (tops[1:] >= ends[:-1] - 1e-9).all()
    assert tops[0] >= -1e-9 and ends[-1] <= room + 1e-9


def test_labels_with_room_around_them_stay_where_they_are():
    wanted = [2.0, 1.0, 0.5]
    assert figures._spread(wanted, [0.2] * 3, 3.0) == pytest.approx(wanted)


def test_first_series_has_the_main_colour_of_its_theme():
    assert {theme: look.main for theme, look in THEMES.items()} == {
        theme: colours[0] for theme, colours in figures.SERIES.items()
    }


def test_all_series_can_be_told_apart_and_stand_out_from_the_paper():
    for theme, colours in figures.SERIES.items():
        styles = [tuple(figures._series(k, theme).values()) for k in range(figures.MOST)]
        assert len(set(styles)) == figures.MOST
        assert min(contrast(colour, THEMES[theme].paper) for colour in colours) >= 3


def test_inputs_are_left_as_they_were():
    x, weights = images(1)[0], softmax(2, 9)
    before = x.copy(), weights.copy()
    figures.word_attention(x, ["a", "b"], weights, (3, 3))
    np.testing.assert_array_equal(x, before[0])
    np.testing.assert_array_equal(weights, before[1])


D = np.zeros((4, 4))
EVEN = np.full((1, 4), 0.25)
WRONG = {
    "rows": (lambda: figures.answers(images(2), [[row()]]), "2 images and 1 lists"),
    "no question": (lambda: figures.answers(images(1), [[]]), r"rows\[0\] has no question"),
    "two parts": (
        lambda: figures.answers(images(1), [[("q", "a")]]),
        r"rows\[0\] holds \('q', 'a'",
    ),
    "no model": (lambda: figures.answers(images(1), [[("q", "a", {})]]), "no model answered"),
    "no groups": (lambda: figures.accuracy_bars({}), "empty"),
    "no bar": (lambda: figures.accuracy_bars({"colour": {"chance": 0.5}}), "'colour'.*no accuracy"),
    "percent": (
        lambda: figures.accuracy_bars({"colour": {"unified": 97.0}}),
        r"groups\['colour'\]\['unified'\] is 97.0",
    ),
    "bars": (
        lambda: figures.accuracy_bars({"a": {str(i): 0.5 for i in range(6)}}),
        "6 kinds of bars and 5",
    ),
    "words": (
        lambda: figures.word_attention(D, ["a", "b"], EVEN, (2, 2)),
        "2 words and weights of 1",
    ),
    "grid": (lambda: figures.word_attention(D, ["a"], EVEN, (3, 3)), "4 patches.*3 x 3 has 9"),
    "division": (
        lambda: figures.word_attention(D, ["a"], np.full((1, 9), 0.1), (3, 3)),
        "4 x 4 does not divide",
    ),
    "logits": (lambda: figures.word_attention(D, ["a"], 3 * EVEN, (2, 2)), "add up to 3 at most"),
    "no clips": (lambda: figures.film_strip([]), "no clips"),
    "an image": (lambda: figures.film_strip([D]), r"shape \(4, 4\); a clip has shape"),
    "marks": (lambda: figures.film_strip(images(2), marks=["a", "b"]), "1 clips and 2 marks"),
    "numbers": (
        lambda: figures.film_strip(images(2), numbers=[[0]]),
        r"clips of \[2\] frames and numbers for \[1\]",
    ),
    "one mark": (
        lambda: figures.film_strip(images(2), marks="a"),
        "the text 'a' marks; give a list",
    ),
    "clips": (lambda: figures.frame_attention([images(2)] * 2, EVEN), "2 clips; give one"),
    "frames": (lambda: figures.frame_attention(images(2), EVEN), "4 frames and the clip has 2"),
    "labels": (
        lambda: figures.frame_attention(images(4), EVEN, labels=["a", "b"]),
        "2 labels for 1 rows",
    ),
    "alpha": (
        lambda: figures.gate_curves([1, 2], {"a": [0, 3]}),
        r"\[-1, 1\]: give it, and not alpha",
    ),
    "no gates": (lambda: figures.gate_curves([1], {}), "empty"),
    "gate steps": (
        lambda: figures.gate_curves([1, 2], {"a": [0.5]}),
        r"2 steps and gates\['a'\] has 1",
    ),
    "gate counts": (
        lambda: figures.gate_curves([1], {"a": [[0, 0]], "b": [[0]]}),
        "1, 2 gates; all must",
    ),
    "gate names": (lambda: figures.gate_curves([1], {"a": [[0, 0]]}, names=["x"]), "1 names for 2"),
    "same names": (lambda: figures.gate_curves([1], {"a": [[0, 0]]}, names=["x", "x"]), "differ"),
    "order": (lambda: figures.shots([1, 0], {"a": [0.5, 0.5]}), "counts must increase"),
    "half": (lambda: figures.shots([0.5], {"a": [0.5]}), "whole numbers"),
    "no shots": (lambda: figures.shots([1], {}), "empty"),
    "shots": (lambda: figures.shots([0, 1], {"a": [0.5]}), "2 counts and .* has 1"),
    "chance": (lambda: figures.shots([0], {"a": [0.5]}, 25), "chance is 25"),
    "costs": (lambda: figures.cost_curves([1], {"x": {}}), "costs must hold"),
    "cost": (lambda: figures.cost_curves([1, 2], {"x": {"a": [1]}}), "2 numbers of images"),
    "negative": (lambda: figures.cost_curves([1], {"x": {"a": [-1]}}), "negative"),
    "no curves": (lambda: figures.learning_curves({}), "empty"),
    "losses": (
        lambda: figures.learning_curves({"a": ([1, 2], [1])}),
        "'a' has 2 steps and 1 losses",
    ),
    "steps": (
        lambda: figures.learning_curves({"a": ([2, 1], [1, 1])}),
        "steps of 'a' must increase",
    ),
    "NaN": (lambda: figures.learning_curves({"a": ([1], [np.nan])}), "losses of 'a'.*nan"),
    "lines": (
        lambda: figures.learning_curves({str(i): ([1], [1]) for i in range(16)}),
        "16 curves and 15",
    ),
    "theme": (lambda: figures.shots([0], {"a": [0.5]}, theme="blue"), "'blue'"),
}


@pytest.mark.parametrize(("call", "said"), [pytest.param(*w, id=k) for k, w in WRONG.items()])
def test_wrong_input_is_told_what_was_given_and_what_would_fit(call, said):
    with pytest.raises(ValueError, match=said):
        call()
