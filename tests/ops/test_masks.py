"""Masks by small examples."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from scratch_vlm.ops.masks import MEDIA_RULES, causal_mask, media_mask, padding_mask


def test_causal_and_padding_masks_combine_by_and():
    both = causal_mask(3) & padding_mask(np.array([2, 0]), 3)
    assert both.shape == (2, 1, 3, 3)
    assert both[0, 0].astype(int).tolist() == [[1, 0, 0], [1, 1, 0], [1, 1, 0]]
    assert not both[1].any()


@pytest.mark.parametrize("lengths", [[1, 4], [-1, 2]])
def test_lengths_out_of_range_are_refused(lengths):
    with pytest.raises(ValueError, match=r"from 0 to 3, got \[-?1, [24]\]"):
        padding_mask(np.array(lengths), 3)


def test_lengths_that_are_not_integers_are_refused():
    with pytest.raises(TypeError, match="integers, got dtype float64"):
        padding_mask(np.array([1.0, 2.0]), 3)
    with pytest.raises(TypeError, match="got list"):
        padding_mask([1, 2], 3)


@pytest.mark.parametrize("shape", [(), (2, 1)])
def test_lengths_of_other_than_one_axis_are_refused(shape):
    with pytest.raises(ValueError, match="one for each sequence"):
        padding_mask(np.ones(shape, int), 3)


def may_see(row, token, rule):
    """Walk back from a token, and list the media of its text that the rule shows it."""
    places = [t for t in range(token + 1) if row[t]]  # medium i stands at places[i]
    if rule == "all":
        return list(range(len(places)))
    seen = []
    for i in reversed(range(len(places))):
        if seen and (rule == "last" or places[i] + 1 != places[i + 1]):
            break
        seen.append(i)
    return seen


@pytest.mark.parametrize("rule", MEDIA_RULES)
@given(at=arrays(bool, st.tuples(st.integers(0, 3), st.integers(0, 9))), extra=st.integers(0, 2))
def test_every_token_sees_the_media_that_a_walk_over_the_text_finds(rule, at, extra):
    media = int(at.sum(1).max(initial=0)) + extra
    before = at.copy()
    mask = media_mask(at, media, rule=rule)
    assert mask.shape == (*at.shape, media) and mask.dtype == bool
    assert np.array_equal(at, before)
    for b, t in np.ndindex(at.shape):
        assert np.flatnonzero(mask[b, t]).tolist() == sorted(may_see(at[b], t, rule))


def test_media_side_by_side_are_told_from_media_apart():
    at = np.array([[1, 1, 0, 1, 0]]) > 0
    last, run, every = (media_mask(at, 3, rule=rule)[0] for rule in MEDIA_RULES)
    assert last.astype(int).tolist() == [[1, 0, 0], [0, 1, 0], [0, 1, 0], [0, 0, 1], [0, 0, 1]]
    assert run.astype(int).tolist() == [[1, 0, 0], [1, 1, 0], [1, 1, 0], [0, 0, 1], [0, 0, 1]]
    assert every.astype(int).tolist() == [[1, 0, 0], [1, 1, 0], [1, 1, 0], [1, 1, 1], [1, 1, 1]]


def test_what_says_nothing_about_media_is_refused():
    at = np.ones((2, 3), bool)
    with pytest.raises(ValueError, match="one of last, run, all, got 'next'"):
        media_mask(at, 3, rule="next")
    with pytest.raises(ValueError, match="a text has 3 placeholders, but there are 2 media"):
        media_mask(at, 2, rule="last")
    with pytest.raises(TypeError, match=r"at must be boolean.*int64"):
        media_mask(at.astype("int64"), 3, rule="last")
    with pytest.raises(ValueError, match=r"one row for each text; got \(3,\)"):
        media_mask(at[0], 3, rule="last")
