from functools import partial

import pytest
from drawn import LONG, assert_good, every, images, row, said, words
from matplotlib.colors import to_hex

from scratch_vlm.viz.answers import accuracy_bars, answers
from scratch_vlm.viz.style import THEMES

LIGHT = THEMES["light"]
BARS = {
    "colour": {"unified": 0.98, "cross_modal": 0.96, "chance": 0.25, "question_only": 0.3},
    "relation_heldout": {"unified": 0.5, "cross_modal": None, "chance": 0.5, "goal": 0.9},
}


CASES = {
    "answers": partial(
        answers,
        images(3),
        [[row()] * 4, [row(LONG, LONG)], [row(unified="red"), row(cross_modal="")]],
    ),
    "answers to one question": partial(answers, images(1), [[row()]]),
    "answers of five models": partial(
        answers,
        images(1, 8, 8),
        [[row(LONG, LONG, **{f"model {i}": LONG for i in "abcde"})]],
    ),
    "answers on tall images": partial(answers, images(2, 24, 12), [[row()], [row()]]),
    "bars": partial(accuracy_bars, BARS),
    "one bar": partial(accuracy_bars, {"direction": {"clips": 1.0}}),
    "bars with long names": partial(accuracy_bars, {LONG: {f"{LONG} {i}": 0.5 for i in range(5)}}),
}


@every(CASES)
def test_figure_is_good_in_both_themes(draw):
    assert_good(draw)


def test_right_and_wrong_answers_differ_in_colour_and_in_sign():
    figure = answers(images(1), [[row(unified="red", cross_modal="rid")]])
    assert to_hex(said(figure, "✓ red").get_color()) == LIGHT.right
    assert to_hex(said(figure, "✗ rid").get_color()) == LIGHT.wrong
    assert to_hex(said(figure, "red").get_color()) == LIGHT.ink


def test_model_that_was_not_asked_has_a_dash_and_one_that_is_silent_is_wrong():
    figure = answers(images(2), [[row(unified="red")], [row(cross_modal="")]])
    assert words(figure).count("–") == 2
    assert to_hex(said(figure, "✗ (nothing)").get_color()) == LIGHT.wrong


def test_questions_stand_beside_their_image():
    asked = [[row(f"{i} {k}") for k in range(i + 1)] for i in range(3)]
    figure = answers(images(3), asked)
    extents = [picture.get_extent() for picture in figure.axes[0].images]  # left, right, low, top
    for i, (_, right, low, top) in enumerate(extents):
        for k in range(i + 1):
            x, y = said(figure, f"{i} {k}").get_position()
            assert x > right and top < y < low


def test_bars_have_the_length_of_the_accuracies_and_none_has_no_bar():
    figure = accuracy_bars(BARS)
    bars = figure.axes[1].patches
    assert [bar.get_width() for bar in bars] == [0.98, 0.96, 0.5]
    assert to_hex(bars[0].get_facecolor()) == to_hex(bars[2].get_facecolor())
    assert to_hex(bars[0].get_facecolor()) != to_hex(bars[1].get_facecolor())
    assert {"98.0%", "96.0%", "50.0%", "relation, held out", "cross-modal"} <= set(words(figure))


def test_yardsticks_stand_at_their_values_and_only_those_given_are_explained():
    figure = accuracy_bars(BARS)
    places = {float(line.get_xdata()[0]) for line in figure.axes[1].lines}
    assert places == {0.25, 0.3, 0.5, 0.9}
    assert {"chance", "question only", "goal"} <= set(words(figure))
    plain = accuracy_bars({"colour": {"unified": 0.9}})
    assert not {"chance", "question only", "goal"} & set(words(plain))
    assert not plain.axes[1].lines


WRONG = {
    "rows": (lambda: answers(images(2), [[row()]]), "2 images and 1 lists"),
    "no question": (lambda: answers(images(1), [[]]), r"rows\[0\] has no question"),
    "two parts": (
        lambda: answers(images(1), [[("q", "a")]]),
        r"rows\[0\] holds \('q', 'a'",
    ),
    "no model": (lambda: answers(images(1), [[("q", "a", {})]]), "no model answered"),
    "no groups": (lambda: accuracy_bars({}), "empty"),
    "no bar": (lambda: accuracy_bars({"colour": {"chance": 0.5}}), "'colour'.*no accuracy"),
    "percent": (
        lambda: accuracy_bars({"colour": {"unified": 97.0}}),
        r"groups\['colour'\]\['unified'\] is 97.0",
    ),
    "bars": (
        lambda: accuracy_bars({"a": {str(i): 0.5 for i in range(6)}}),
        "6 kinds of bars and 5",
    ),
}


@pytest.mark.parametrize(("call", "said"), [pytest.param(*w, id=k) for k, w in WRONG.items()])
def test_wrong_input_is_told_what_was_given_and_what_would_fit(call, said):
    with pytest.raises(ValueError, match=said):
        call()
