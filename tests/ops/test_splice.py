"""Visual tokens go to the places that texts keep for them, in reading order, and nowhere else."""

import numpy as np
import pytest

from scratch_vlm.ops.splice import (
    deal_backward,
    deal_forward,
    kept_places,
    splice_backward,
    splice_forward,
)

AT = np.array([[0, 1, 1, 0], [0, 0, 0, 0], [1, 0, 0, 1]]) > 0


def words(*shape):
    return np.random.default_rng(0).standard_normal(shape)


def test_visual_tokens_stand_in_reading_order_over_the_texts():
    x = words(3, 4, 2)
    visual = np.arange(8.0).reshape(4, 2)
    y, _ = splice_forward(x, visual, at=AT)
    assert y[0, 1].tolist() == [0, 1] and y[0, 2].tolist() == [2, 3]
    assert y[2, 0].tolist() == [4, 5] and y[2, 3].tolist() == [6, 7]
    assert np.array_equal(y[~AT], x[~AT])


def test_gradients_go_where_the_numbers_came_from_and_dy_is_left_as_it_was():
    x, visual, dy = words(3, 4, 2), words(4, 2), words(3, 4, 2) + 1
    before = x.copy(), dy.copy()
    y, saved = splice_forward(x, visual, at=AT)
    dx, dvisual = splice_backward(dy, saved)
    assert np.array_equal(x, before[0]) and np.array_equal(dy, before[1])
    assert not np.shares_memory(y, x)
    assert np.array_equal(dvisual, dy[AT])
    assert not dx[AT].any() and np.array_equal(dx[~AT], dy[~AT])


def test_no_visual_token_changes_nothing():
    x = words(3, 4, 2)
    y, saved = splice_forward(x, np.zeros((0, 2)), at=AT & False)
    assert np.array_equal(y, x)
    dx, dvisual = splice_backward(x, saved)
    assert np.array_equal(dx, x) and dvisual.shape == (0, 2)


@pytest.mark.parametrize("order", ["F", "C"])
def test_any_memory_order_is_spliced_alike(order):
    x, visual = words(3, 4, 2), words(4, 2)
    y, saved = splice_forward(np.asarray(x, order=order), visual, at=AT)
    assert np.array_equal(y[AT], visual)
    dx, dvisual = splice_backward(np.asarray(y, order=order), saved)
    assert not dx[AT].any() and np.array_equal(dvisual, visual)


def test_every_text_finds_its_own_media_beside_it():
    visual = np.arange(12.0).reshape(3, 2, 2)
    z, saved = deal_forward(visual, counts=np.array([2, 0, 1]), slots=3)
    assert z.shape == (3, 3, 2, 2)
    assert np.array_equal(z[0, :2], visual[:2]) and np.array_equal(z[2, 0], visual[2])
    assert not z[0, 2:].any() and not z[1].any() and not z[2, 1:].any()
    assert np.array_equal(deal_backward(z, saved), visual)


def test_gradients_of_empty_slots_go_nowhere():
    _, saved = deal_forward(words(1, 2, 2), counts=np.array([1, 0]), slots=2)
    dz = words(2, 2, 2, 2)
    assert np.array_equal(deal_backward(dz, saved), dz[0, :1])


def test_places_are_counted_row_by_row():
    assert kept_places(AT, 4).tolist() == [1, 2, 8, 11]
    assert kept_places(AT & False, 0).tolist() == []


def test_what_does_not_fit_is_refused_with_its_numbers():
    x = words(3, 4, 2)
    for count in (3, 5):
        with pytest.raises(ValueError, match=f"{count} visual tokens, but .* places for 4"):
            splice_forward(x, words(count, 2), at=AT)
    with pytest.raises(ValueError, match=r"\(4, 3\)"):
        splice_forward(x, words(4, 3), at=AT)
    with pytest.raises(ValueError, match=r"\(3, 3\)"):
        splice_forward(x, words(4, 2), at=AT[:, :3])
    with pytest.raises(ValueError, match="2 media, but texts ask for 3"):
        deal_forward(words(2, 1, 2), counts=np.array([2, 1]), slots=2)
    with pytest.raises(ValueError, match="a text has 2 media; there are 1 slots"):
        deal_forward(words(3, 1, 2), counts=np.array([2, 1]), slots=1)
    with pytest.raises(ValueError, match=r"\(M, N, D\)"):
        deal_forward(words(3, 1), counts=np.array([2, 1]), slots=2)
