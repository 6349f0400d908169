"""Episodes: the answers are true, the question says nothing, and what is shown is as promised."""

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from scratch_vlm.data.augment import Affine
from scratch_vlm.data.clips import PLACES
from scratch_vlm.data.digits import split
from scratch_vlm.data.episodes import (
    ANSWERS,
    CHANCE,
    QUESTION,
    RULES,
    chats_under,
    evaluation_episodes,
    training_episodes,
)
from scratch_vlm.data.scenes import COLOUR_NAMES, COLOURS, DIGIT_NAMES, HELD_OUT, DigitPool

seeds = st.integers(0, 2**32 - 1)
POOL = DigitPool(split("train"))


def read(image, digits):
    """Read colour, digit and place of what is on an image, with the very digits it is made of."""
    cells = image.reshape(3, 8, 3, 8, 3).swapaxes(1, 2).reshape(9, 8, 8, 3)
    (place,) = np.flatnonzero(cells.any((1, 2, 3)))
    ink = cells[place].max(-1)  # every colour has a channel of 1
    (y, x) = np.unravel_index(ink.argmax(), ink.shape)
    tints = np.array(list(COLOURS.values())) * ink[y, x]
    colour = np.square(tints - cells[place, y, x]).sum(1).argmin()
    (which,) = np.flatnonzero((digits.images == ink).all((1, 2)))
    return COLOUR_NAMES[colour], DIGIT_NAMES[digits.labels[which]], PLACES[place]


def rule_of(chat):
    """Find the rule that all answers of a chat follow, by their words."""
    (rule,) = {r for r in RULES for turn in chat if turn.answer in ANSWERS[r]}
    return rule


@given(seeds, st.integers(1, 4), st.integers(0, 3))
def test_every_answer_is_true_of_its_image_under_one_rule_an_episode(seed, count, shots):
    images, chats = training_episodes(np.random.default_rng(seed), count, POOL, shots)
    assert images.shape == (count * (shots + 1), 24, 24, 3) and images.dtype == np.float32
    assert len(chats) == count
    for i, chat in enumerate(chats):
        assert len(chat) == shots + 1
        assert all(turn.question == QUESTION and turn.media == 1 for turn in chat)
        rule = RULES.index(rule_of(chat))
        for image, turn in zip(images[i * (shots + 1) :], chat, strict=False):
            assert turn.answer == read(image, POOL.digits)[rule]


@given(seeds)
def test_evaluation_episodes_are_true_under_every_rule_and_in_unseen_handwriting(seed):
    test = evaluation_episodes("val", 3, 2, seed=seed)
    assert test.images.shape == (3, 3, 24, 24, 3)
    assert test.answers.shape == (3, 3, 3) and test.rules.shape == (3,)
    for images, answers in zip(test.images, test.answers, strict=True):
        for image, right in zip(images, answers, strict=True):
            assert read(image, split("val")) == tuple(right)  # found among the digits of val alone


def test_everything_but_the_held_out_is_shown_equally_often_under_every_rule():
    test = evaluation_episodes("train", 2000, 4)
    shown = [tuple(row) for row in test.answers.reshape(-1, 3).tolist()]
    names = {(COLOUR_NAMES[c], DIGIT_NAMES[d]) for c, d in HELD_OUT}
    combinations_shown = {row[:2] for row in shown}
    assert len(combinations_shown) == 32 and not combinations_shown & names
    for counts, size in (
        (np.unique([f"{c} {d}" for c, d, _ in shown], return_counts=True)[1], 32),
        (np.unique([place for _, _, place in shown], return_counts=True)[1], 9),
        (np.bincount(test.rules), 3),
    ):
        expected = counts.sum() / size
        assert len(counts) == size and abs(counts - expected).max() < 5 * np.sqrt(expected)


def test_one_answer_gives_the_rule_away_and_chance_knows_it():
    for a, b in combinations(RULES, 2):
        assert not set(ANSWERS[a]) & set(ANSWERS[b])
    assert QUESTION not in {word for names in ANSWERS.values() for word in names}
    assert CHANCE == pytest.approx((1 / 4 + 1 / 10 + 1 / 9) / 3)


def test_chats_follow_the_rules_they_are_given_and_can_end_with_a_question():
    test = evaluation_episodes("val", 6, 2)
    for rule in range(3):
        chats = chats_under(test.answers, np.full(6, rule), asked=True)
        for i, chat in enumerate(chats):
            assert [turn.answer for turn in chat] == [*test.answers[i, :2, rule], None]
    every = chats_under(test.answers, test.rules)
    assert [rule_of(chat) for chat in every] == [RULES[rule] for rule in test.rules]


@pytest.mark.parametrize("shots", [0, 1, 4])
def test_fewer_shots_come_before_the_same_image(shots):
    test = evaluation_episodes("val", 5, 4)
    short = test.shortened(shots)
    np.testing.assert_array_equal(short.images, test.images[:, 4 - shots :])
    np.testing.assert_array_equal(short.answers, test.answers[:, 4 - shots :])
    assert short.images.shape[1] == shots + 1
    np.testing.assert_array_equal(short.rules, test.rules)


def test_episodes_depend_on_nothing_but_the_seed():
    first, again = (evaluation_episodes("val", 5, 2) for _ in range(2))
    for a, b in zip(first, again, strict=True):
        np.testing.assert_array_equal(a, b)
    other = evaluation_episodes("val", 5, 2, seed=98)
    assert (other.images != first.images).any()


def test_a_warp_changes_pixels_and_no_place():
    drawn = [
        training_episodes(np.random.default_rng(0), 8, POOL, 1, warp)[0]
        for warp in (None, Affine(degrees=15, scale=0.15, shift=0.8, shear=0.2))
    ]
    cells = [(x.reshape(-1, 3, 8, 3, 8, 3) > 0).any((2, 4, 5)) for x in drawn]
    np.testing.assert_array_equal(*cells)
    assert (drawn[0] != drawn[1]).any()


def test_what_cannot_be_drawn_is_refused():
    for count, shots in ((0, 1), (1, -1)):
        with pytest.raises(ValueError, match=f"got {count} of {shots}"):
            training_episodes(np.random.default_rng(0), count, POOL, shots)
    with pytest.raises(ValueError, match="unknown split 'dev'"):
        evaluation_episodes("dev", 1, 1)
    for shots in (-1, 3):
        with pytest.raises(ValueError, match=f"asked for {shots} shots; the episodes have 0 to 2"):
            evaluation_episodes("val", 1, 2).shortened(shots)
