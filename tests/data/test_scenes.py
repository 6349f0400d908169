"""Scenes of handwriting: what is in them, where, and what is said about it."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from scratch_vlm.data.augment import Affine
from scratch_vlm.data.digits import SPLITS, Digits, split
from scratch_vlm.data.scenes import (
    CANDIDATES,
    CELL,
    CELLS,
    COLOUR_NAMES,
    COLOURS,
    DIGIT_NAMES,
    HELD_OUT,
    TOKENS,
    VOCABULARY,
    DigitPool,
    Item,
    Scene,
    choose_by_words,
    copied_captions,
    draw_scenes,
    evaluation_set,
    one_fact_changes,
    render,
    training_batch,
    training_scenes,
)

seeds = st.integers(0, 2**32 - 1)
POOL = DigitPool(split("train"))
ABOVE = Scene((Item(0, 7), Item(2, 3)), "above")  # red seven above blue three


def take(generator, count):
    return [next(generator) for _ in range(count)]


def cells_of(image):
    """Cut a scene into its cells, (row, column) first."""
    return image.reshape(CELLS, CELL, CELLS, CELL, 3).swapaxes(1, 2)


def test_captions_are_canonical_sentences():
    assert ABOVE.caption == "red seven above blue three"
    assert Scene((Item(3, 0),)).caption == "yellow zero"


def test_every_caption_fits_the_vocabulary_and_comes_back():
    captions = [scene.caption for scene in take(draw_scenes(np.random.default_rng(0)), 200)]
    captions += [scene.caption for scene in take(draw_scenes(np.random.default_rng(0), items=1), 9)]
    ids = VOCABULARY.encode(captions, TOKENS)
    assert VOCABULARY.decode(ids) == captions
    assert (ids != 0).all(1).any()  # the longest caption fills its row


def test_held_out_combinations_have_colours_and_digits_that_training_shows():
    seen = {(c, d) for c in range(len(COLOURS)) for d in range(10)} - HELD_OUT
    assert len(HELD_OUT) == 8
    assert {c for c, _ in seen} == set(range(4)) and {d for _, d in seen} == set(range(10))


@given(seeds, st.booleans(), st.sampled_from([1, 2]))
def test_drawn_scenes_are_of_the_kind_asked_for(seed, held_out, items):
    for scene in take(draw_scenes(np.random.default_rng(seed), held_out=held_out, items=items), 50):
        assert len(scene.items) == items
        assert any(tuple(item) in HELD_OUT for item in scene.items) == held_out
        if items == 2:
            (c1, d1), (c2, d2) = scene.items
            assert c1 != c2 and d1 != d2 and scene.relation in ("left", "above")


def test_scenes_of_three_digits_are_refused():
    with pytest.raises(ValueError, match="1 or 2 digits, got 3"):
        next(draw_scenes(np.random.default_rng(0), items=3))


@given(seeds)
def test_changes_of_one_fact_are_seven_other_captions(seed):
    rng = np.random.default_rng(seed)
    scene = next(draw_scenes(rng))
    captions = [choice.caption for choice in one_fact_changes(rng, scene)]
    assert len({scene.caption, *captions}) == CANDIDATES
    same_words = [sorted(c.split()) == sorted(scene.caption.split()) for c in captions]
    assert same_words == [True, False, True, True, False, False, False]


def test_changes_of_one_fact_are_the_ones_documented():
    changes = [scene.caption for scene in one_fact_changes(np.random.default_rng(0), ABOVE)]
    assert changes[:4] == [
        "blue three above red seven",
        "red seven left blue three",
        "blue seven above red three",
        "red three above blue seven",
    ]
    colour, first, second = (caption.split() for caption in changes[4:])
    truth = ABOVE.caption.split()
    for words, place in ((colour, 0), (first, 1), (second, 4)):
        assert [a == b for a, b in zip(words, truth, strict=True)].index(False) == place
        assert sum(a != b for a, b in zip(words, truth, strict=True)) == 1


def test_a_scene_of_one_digit_has_no_changes():
    with pytest.raises(ValueError, match="'red seven' has one digit"):
        one_fact_changes(np.random.default_rng(0), Scene((Item(0, 7),)))


@given(seeds, st.integers(1, 128))
def test_training_scenes_are_distinct_and_hold_nothing_back(seed, count):
    scenes = training_scenes(np.random.default_rng(seed), count)
    assert len({scene.caption for scene in scenes}) == len(scenes) == count
    assert not any(scene.held_out for scene in scenes)


def test_hard_batches_hold_more_scenes_of_the_same_words():
    def alike(hard):
        scenes = training_scenes(np.random.default_rng(0), 128, hard=hard)
        words = Counter(tuple(sorted(scene.caption.split())) for scene in scenes)
        return sum(n for n in words.values() if n > 1)

    assert alike(1.0) > 3 * alike(0.0)


def test_more_scenes_than_there_are_is_refused():
    with pytest.raises(ValueError, match="2000"):
        training_scenes(np.random.default_rng(0), 2000)


@given(seeds, st.booleans())
def test_digits_stand_where_render_says(seed, warped):
    rng = np.random.default_rng(seed)
    scenes = take(draw_scenes(rng), 8) + take(draw_scenes(rng, items=1), 4)
    images, cells = render(rng, scenes, POOL, Affine() if warped else None)
    assert images.shape == (12, 24, 24, 3) and images.dtype == np.float32
    assert images.min() >= 0 and images.max() <= 1
    for image, scene, places in zip(images, scenes, cells, strict=True):
        inked = cells_of(image).max(axis=(2, 3)) > 0  # (rows, columns, RGB)
        occupied = {tuple(place) for place in np.argwhere(inked.any(-1)).tolist()}
        shown = places[: len(scene.items)].tolist()
        assert occupied == {tuple(place) for place in shown}
        assert (places[len(scene.items) :] == -1).all()
        if scene.relation:
            (r1, c1), (r2, c2) = shown
            assert (r1 == r2 and c1 < c2) if scene.relation == "left" else (c1 == c2 and r1 < r2)


def test_all_cells_and_arrangements_occur():
    rng = np.random.default_rng(0)
    _, cells = render(rng, [ABOVE] * 300, POOL)
    assert len({tuple(place.ravel()) for place in cells}) == 9  # 3 columns, 3 pairs of rows
    _, cells = render(rng, [Scene((Item(0, 7),))] * 300, POOL)
    assert len({tuple(place[0]) for place in cells}) == 9


def test_a_cell_shows_the_right_digit_in_the_right_colour():
    images = np.zeros((10, 8, 8), np.float32)
    images[np.arange(10), :, :] = (np.arange(10)[:, None, None] + 1) / 10  # ink tells the digit
    pool = DigitPool(Digits(images[::-1], np.arange(10)[::-1], np.zeros(10, int)))
    scenes = take(draw_scenes(np.random.default_rng(0)), 50)
    painted, cells = render(np.random.default_rng(1), scenes, pool)
    for image, scene, places in zip(painted, scenes, cells, strict=True):
        for item, (row, column) in zip(scene.items, places, strict=True):
            tint = np.array(COLOURS[COLOUR_NAMES[item.colour]]) * (item.digit + 1) / 10
            np.testing.assert_allclose(
                cells_of(image)[row, column], np.broadcast_to(tint, (8, 8, 3)), rtol=1e-6
            )


def test_no_scenes_cannot_be_painted():
    with pytest.raises(ValueError, match="no scenes"):
        render(np.random.default_rng(0), [], POOL)


def test_a_pool_draws_every_image_of_a_label_and_none_of_another():
    digits = split("val")
    drawn = DigitPool(digits).draw(np.random.default_rng(0), np.full(2000, 4))
    wanted = {image.tobytes() for image in digits.images[digits.labels == 4]}
    assert {image.tobytes() for image in drawn} == wanted


def test_a_pool_without_some_digit_is_refused():
    digits = split("val")
    with pytest.raises(ValueError, match="every digit"):
        DigitPool(digits.where(digits.labels != 3))


@given(seeds)
def test_a_training_batch_shows_what_its_captions_say(seed):
    images, ids = training_batch(np.random.default_rng(seed), 16, POOL)
    assert images.shape == (16, 24, 24, 3) and ids.shape == (16, TOKENS)
    for image, caption in zip(images, VOCABULARY.decode(ids), strict=True):
        cells = cells_of(image).max(axis=(2, 3)).reshape(-1, 3)  # reading order
        brightest = [np.array(COLOURS[c]) for c in caption.split() if c in COLOURS]
        for found, tint in zip(cells[cells.any(1)], brightest, strict=True):
            np.testing.assert_allclose(found / found.max(), tint / tint.max(), atol=1e-5)
        digits = [word for word in caption.split() if word in DIGIT_NAMES]
        assert len(digits) == len(brightest)


@pytest.mark.parametrize("held_out", [False, True])
@pytest.mark.parametrize("name", SPLITS)
def test_evaluation_sets_hold_distinct_captions_and_the_right_one_first(name, held_out):
    scenes = evaluation_set(name, 64, held_out=held_out)
    assert scenes.images.shape == (64, 24, 24, 3)
    assert len({scene.caption for scene in scenes.scenes}) == 64
    for scene, candidates in zip(scenes.scenes, scenes.candidates, strict=True):
        assert scene.held_out == held_out
        assert candidates[0] == scene.caption and len(set(candidates)) == CANDIDATES


def test_evaluation_sets_show_only_their_own_handwriting():
    drawn = {cell.tobytes() for cell in _grey_cells(evaluation_set("test", 64).images)}
    ours = {image.tobytes() for image in split("test").images}
    theirs = {image.tobytes() for image in split("train").images}
    assert drawn <= ours and not drawn & theirs


def _grey_cells(images):
    # Every colour has a channel of full strength, so the largest channel is the ink.
    cells = images.max(-1).reshape(-1, CELLS, CELL, CELLS, CELL).swapaxes(2, 3)
    return [cell for cell in cells.reshape(-1, CELL, CELL) if cell.any()]


def test_evaluation_sets_are_the_same_every_time():
    one, two, other = (evaluation_set("val", 20, seed=seed) for seed in (1, 1, 2))
    assert np.array_equal(one.images, two.images) and one.candidates == two.candidates
    assert one.scenes != other.scenes


def test_an_evaluation_set_of_more_scenes_than_there_are_is_refused():
    assert len(evaluation_set("val", 768, held_out=True).scenes) == 768
    with pytest.raises(ValueError, match=r"769.* 768 "):
        evaluation_set("val", 769, held_out=True)


def test_a_reader_of_words_without_order_is_right_a_quarter_of_the_time():
    shares = []
    for candidates in evaluation_set("val", 100).candidates:
        words = [Counter(candidate.split()) for candidate in candidates]
        fits = [word == words[0] for word in words]
        shares.append(fits[0] / sum(fits))
    assert shares == [0.25] * 100


def test_copied_captions_recognise_a_scene_of_the_memory():
    rng = np.random.default_rng(7)  # as copied_captions draws them
    scenes = take(draw_scenes(rng), 300)
    images, _ = render(rng, scenes, POOL)
    assert copied_captions(images, count=300) == [scene.caption for scene in scenes]


def test_the_nearest_scene_is_better_than_chance_and_worse_than_perfect():
    scenes = evaluation_set("val", 128)
    said = copied_captions(scenes.images)
    shares = [choose_by_words(s, c)[0] for s, c in zip(said, scenes.candidates, strict=True)]
    assert 0.3 < np.mean(shares) < 0.7


def test_choosing_by_words_shares_ties():
    candidates = ["red two", "red three", "blue three", "blue four"]
    assert choose_by_words("red five", candidates).tolist() == [0.5, 0.5, 0, 0]
    assert choose_by_words("blue three", candidates).tolist() == [0, 0, 1, 0]
    assert choose_by_words("green nine", candidates).tolist() == [0.25] * 4
