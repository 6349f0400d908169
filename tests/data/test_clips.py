"""Clips of handwriting: what one frame cannot tell, and what is asked."""

from collections import Counter
from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from scratch_vlm.data.augment import Affine
from scratch_vlm.data.clips import (
    DIRECTIONS,
    KINDS,
    OPPOSITE,
    PLACES,
    SPEED,
    TRAVEL,
    VOCABULARY,
    Clip,
    Question,
    draw_clips,
    draw_positions,
    evaluation_clips,
    paint,
    questions,
    render_clips,
    training_clips,
)
from scratch_vlm.data.digits import SPLITS, split
from scratch_vlm.data.scenes import CELL, COLOUR_NAMES, COLOURS, DIGIT_NAMES, SIZE, DigitPool, Item

seeds = st.integers(0, 2**32 - 1)
directions = pytest.mark.parametrize("move", DIRECTIONS)
POOL = DigitPool(split("train"))
ITEMS = (Item(0, 7), Item(2, 3))  # red seven, blue three


class Start:
    """Stands in for a generator: the next integers are the ones given."""

    def __init__(self, starts):
        self.starts = starts

    def integers(self, low, high=None, size=None):
        if high is None and np.ndim(low) == 0:
            return self.starts.reshape(size)
        return np.broadcast_to(low if high else 0, size)  # the slowest and shortest way


def every_start(move, frames):
    """Paint one pair of digits, going `move` and its opposite, from all 24 x 24 starts."""
    starts = np.array(list(product(range(SIZE), repeat=2)))
    clips = [Clip(ITEMS, (move, OPPOSITE[move]))] * len(starts)
    positions = draw_positions(Start(starts), clips, frames)
    ink = np.random.default_rng(0).random((1, 2, CELL, CELL), np.float32)
    ink = np.repeat(ink, len(starts), axis=0)
    return paint(ink, clips, np.tile([2, 0], (len(starts), 1)), positions)[0], positions


@directions
def test_one_frame_holds_exactly_no_information_on_the_direction(move):
    """Every frame that one direction shows, the other shows too, from equally many starts."""
    there, positions = every_start(move, 8)
    back, _ = every_start(OPPOSITE[move], 8)
    first = Counter(frame.tobytes() for frame in there[:, 0])
    assert len(first) == SIZE**2 and set(first.values()) == {1}
    for t in range(8):
        assert Counter(frame.tobytes() for frame in there[:, t]) == first
        assert Counter(frame.tobytes() for frame in back[:, t]) == first
        for item in range(2):
            assert np.bincount(positions[:, item, t]).tolist() == [SIZE] * SIZE


@directions
def test_two_frames_tell_the_direction(move):
    there, _ = every_start(move, 2)
    back, _ = every_start(OPPOSITE[move], 2)
    assert not {clip.tobytes() for clip in there} & {clip.tobytes() for clip in back}


@directions
def test_a_clip_played_backwards_is_a_clip_with_the_opposite_answer(move):
    there, _ = every_start(move, 5)
    back, _ = every_start(OPPOSITE[move], 5)
    played = {np.ascontiguousarray(clip[::-1]).tobytes() for clip in there}
    assert played == {clip.tobytes() for clip in back}


def test_the_questions_of_a_reversed_clip_have_the_other_answers():
    clip = Clip(ITEMS, ("up", "down"))
    assert clip.reversed() == Clip(ITEMS, ("down", "up"))
    assert clip.reversed().reversed() == clip
    for before, after in zip(questions(clip), questions(clip.reversed()), strict=True):
        if before.kind == "direction":
            assert before.text == after.text and OPPOSITE[before.answer] == after.answer
    for kind in ("colour", "which_digit"):
        before, after = (
            {q.text: q.answer for q in questions(c) if q.kind == kind}
            for c in (clip, clip.reversed())
        )
        assert set(before) == set(after) and all(before[text] != after[text] for text in before)


def test_questions_and_answers():
    clip = Clip(ITEMS, ("left", "right"))
    asked = {(q.kind, q.text): q.answer for q in questions(clip)}
    assert asked == {
        ("direction", "which way does the red one move"): "left",
        ("direction", "which way does the blue one move"): "right",
        ("colour", "what colour moves left"): "red",
        ("colour", "what colour moves right"): "blue",
        ("which_digit", "which digit moves left"): "seven",
        ("which_digit", "which digit moves right"): "three",
        ("digit", "what digit is the red one"): "seven",
        ("digit", "what digit is the blue one"): "three",
    }
    cells = np.array([[[0, 0], [2, 1]], [[1, 2], [1, 1]]])
    places = [q for q in questions(clip, cells) if q.kind == "place"]
    assert places == [
        Question("place", "where is the red one in frame one", "top-left"),
        Question("place", "where is the red one in frame two", "bottom-centre"),
        Question("place", "where is the blue one in frame one", "middle-right"),
        Question("place", "where is the blue one in frame two", "middle-centre"),
    ]


@given(seeds)
def test_directions_do_not_depend_on_the_items(seed):
    source = draw_clips(np.random.default_rng(seed))
    clips = [next(source) for _ in range(50)]
    for clip in clips:
        (a, b), (move, other) = clip
        assert OPPOSITE[move] == other and not clip.held_out
        assert a.colour != b.colour and a.digit != b.digit
    held_out = next(draw_clips(np.random.default_rng(seed), held_out=True))
    assert held_out.held_out


def test_all_directions_are_equally_frequent():
    source = draw_clips(np.random.default_rng(0))
    counts = Counter(next(source).moves[0] for _ in range(4000))
    assert set(counts) == set(DIRECTIONS)
    assert all(abs(count - 1000) < 5 * np.sqrt(4000 * 3 / 16) for count in counts.values())


@given(seeds, st.integers(1, 12))
def test_on_the_torus_digits_go_four_pixels_a_frame(seed, frames):
    rng = np.random.default_rng(seed)
    clips = [next(draw_clips(rng)) for _ in range(6)]
    positions = draw_positions(rng, clips, frames)
    assert positions.min() >= 0 and positions.max() < SIZE
    for clip, where in zip(clips, positions, strict=True):
        for move, x in zip(clip.moves, where, strict=True):
            step = SPEED if move in ("right", "down") else SIZE - SPEED
            assert (np.diff(x) % SIZE == step).all()


@given(seeds, st.integers(2, 12))
def test_the_easier_clips_do_not_wrap_and_move_at_least_twelve_pixels(seed, frames):
    rng = np.random.default_rng(seed)
    clips = [next(draw_clips(rng)) for _ in range(6)]
    positions = draw_positions(rng, clips, frames, torus=False)
    assert positions.min() >= 0 and positions.max() <= SIZE - CELL
    for clip, where in zip(clips, positions, strict=True):
        for move, x in zip(clip.moves, where, strict=True):
            way = np.diff(x) * (1 if move in ("right", "down") else -1)
            assert (way >= 0).all() and TRAVEL[0] <= way.sum() <= TRAVEL[1]


def test_the_easier_clips_use_all_places_and_ways():
    clips = [Clip(ITEMS, ("left", "right"))] * 3000
    positions = draw_positions(np.random.default_rng(0), clips, 3, torus=False)
    assert set(positions[:, 0, 0]) == set(range(12, 17))
    assert set(positions[:, 0, -1]) == set(range(5))
    assert set(abs(positions[:, 1, -1] - positions[:, 1, 0])) == set(range(12, 17))


@given(seeds)
def test_both_digits_of_a_clip_have_its_speed_and_all_speeds_occur(seed):
    rng = np.random.default_rng(seed)
    clips = [next(draw_clips(rng)) for _ in range(200)]
    positions = draw_positions(rng, clips, 2, speeds=(3, 6))
    steps = np.diff(positions)[..., 0] % SIZE
    forwards = np.array([[move in ("right", "down") for move in clip.moves] for clip in clips])
    steps = np.where(forwards, steps, SIZE - steps)
    assert (steps[:, 0] == steps[:, 1]).all() and set(steps[:, 0]) == {3, 4, 5, 6}


def test_a_clip_of_one_frame_can_be_drawn():
    clips = [Clip(ITEMS, ("left", "right"))] * 3
    assert draw_positions(np.random.default_rng(0), clips, 1, torus=False).shape == (3, 2, 1)


@given(seeds, st.sampled_from(DIRECTIONS), st.integers(1, 4))
def test_painted_digits_are_upright_whole_and_where_they_are_said_to_be(seed, move, frames):
    rng = np.random.default_rng(seed)
    clip = Clip(ITEMS, (move, OPPOSITE[move]))
    ink = rng.random((1, 2, CELL, CELL), np.float32) + 0.01
    lanes, positions = rng.permutation(3)[None, :2], rng.integers(SIZE, size=(1, 2, frames))
    painted, cells = paint(ink, [clip], lanes, positions)
    assert painted.shape == (1, frames, SIZE, SIZE, 3) and painted.dtype == np.float32
    sideways = move in ("left", "right")
    for t, k in product(range(frames), range(2)):
        corner = (CELL * lanes[0, k], positions[0, k, t])
        row, column = corner if sideways else corner[::-1]
        rolled = np.roll(painted[0, t], (-row, -column), axis=(0, 1))[:CELL, :CELL]
        tint = np.array(COLOURS[COLOUR_NAMES[ITEMS[k].colour]], np.float32)
        np.testing.assert_array_equal(rolled, ink[0, k, :, :, None] * tint)
        middle = (np.array([row, column]) + CELL // 2) % SIZE
        assert cells[0, k, t].tolist() == (middle // CELL).tolist()
    assert np.count_nonzero(painted.any(-1)) == frames * 2 * CELL**2  # and nothing else


def test_rendered_clips_show_the_right_handwriting():
    rng = np.random.default_rng(0)
    source = draw_clips(rng)
    clips = [next(source) for _ in range(40)]
    frames, cells = render_clips(rng, clips, POOL, 3)
    assert frames.shape == (40, 3, 24, 24, 3) and frames.dtype == np.float32
    assert cells.shape == (40, 2, 3, 2) and frames.min() >= 0 and frames.max() <= 1
    ink = frames.max(-1).sum((2, 3))  # of both digits; the same in every frame
    np.testing.assert_allclose(ink, np.repeat(ink[:, :1], 3, axis=1), rtol=1e-5)
    digits = split("train")
    sums = [digits.images[digits.labels == d].sum((1, 2)) for d in range(10)]
    for clip, total in zip(clips, ink[:, 0], strict=True):
        a, b = (sums[item.digit] for item in clip.items)
        assert np.isclose(a[:, None] + b, total, atol=1e-3).any()


def test_warped_digits_keep_their_shape_from_frame_to_frame():
    rng = np.random.default_rng(0)
    clips = [Clip(ITEMS, ("left", "right"))] * 4
    frames, _ = render_clips(rng, clips, POOL, 7, warp=Affine())
    np.testing.assert_array_equal(frames[:, 0], frames[:, 6])  # once around: 6 x 4 = 24 pixels
    one, two = frames[0, 0].max((0, 1)), frames[1, 0].max((0, 1))
    assert not np.array_equal(one, two)


def test_no_clips_and_no_frames_are_refused():
    rng = np.random.default_rng(0)
    with pytest.raises(ValueError, match="no clips"):
        draw_positions(rng, [], 3)
    with pytest.raises(ValueError, match="at least 1 frame, got 0"):
        draw_positions(rng, [Clip(ITEMS, ("left", "right"))], 0)


@given(seeds, st.integers(1, 12))
def test_a_training_batch_asks_what_it_shows(seed, frames):
    rng = np.random.default_rng(seed)
    images, asked = training_clips(rng, 5, POOL, frames, torus=0.5, kinds=(*KINDS, "place"))
    assert images.shape == (5, frames, 24, 24, 3) and images.dtype == np.float32
    for clip, batch in zip(images, asked, strict=True):
        kinds = Counter(question.kind for question in batch)
        assert kinds == {
            "direction": 2, "colour": 2, "which_digit": 2, "digit": 2, "place": 2 * frames,
        }  # fmt: skip
        texts = [question.text for question in batch]
        assert len(set(texts)) == len(texts)
        shown = {q.answer for q in batch if q.kind == "colour"}
        tints = np.array([COLOURS[colour] for colour in sorted(shown)])
        for pixel in clip.reshape(-1, 3)[clip.reshape(-1, 3).any(-1)][:20]:
            assert np.isclose(pixel / pixel.max(), tints / tints.max(1, keepdims=True)).all(1).any()


def test_training_questions_come_in_every_order():
    _, asked = training_clips(np.random.default_rng(0), 60, POOL, 3)
    assert {batch[0].kind for batch in asked} == {*KINDS}


def test_training_asks_for_the_kinds_it_is_told_to():
    _, asked = training_clips(np.random.default_rng(0), 6, POOL, 3, kinds=("digit", "place"))
    for batch in asked:
        assert Counter(question.kind for question in batch) == {"digit": 2, "place": 6}


def test_the_share_of_the_torus_is_kept():
    """A clip on the torus of seven frames ends where it began; one without wrapping does not."""
    for torus, low, high in ((0, 0, 0), (0.5, 25, 75), (1, 100, 100)):
        images, _ = training_clips(np.random.default_rng(0), 100, POOL, 7, torus=torus)
        around = (images[:, 0] == images[:, 6]).all((1, 2, 3)).sum()
        assert low <= around <= high


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"count": 0}, "at least 1 clip, got 0"),
        ({"frames": 13}, "frames must be 1 to 12, .* got 13"),
        ({"frames": 0}, "frames must be 1 to 12"),
        ({"torus": 1.5}, "torus is a share of clips, 0 to 1, got 1.5"),
        ({"speeds": (0, 4)}, r"from 1 to 11 pixels a frame, got \(0, 4\)"),
        ({"speeds": (4, 12)}, r"from 1 to 11 pixels a frame, got \(4, 12\)"),
        ({"speeds": (5, 4)}, r"from 1 to 11 pixels a frame, got \(5, 4\)"),
        ({"travel": (0, 4)}, r"travel must be from 1 to 16 pixels, got \(0, 4\)"),
        ({"travel": (4, 17)}, r"travel must be from 1 to 16 pixels, got \(4, 17\)"),
        ({"kinds": ("speed",)}, r"kinds must be some of direction, .*, place, got \('speed',\)"),
        ({"kinds": ()}, r"kinds must be some of direction, .*, place, got \(\)"),
    ],
)
def test_training_batches_that_cannot_be_are_refused(options, message):
    options = {"count": 2, "frames": 3, "pool": POOL, **options}
    with pytest.raises(ValueError, match=message):
        training_clips(np.random.default_rng(0), **options)


@pytest.mark.parametrize("held_out", [False, True])
@pytest.mark.parametrize("name", SPLITS)
def test_evaluation_sets_show_their_own_combinations(name, held_out):
    clips = evaluation_clips(name, 20, 4, held_out=held_out)
    assert clips.frames.shape == (20, 4, 24, 24, 3)
    assert all(clip.held_out == held_out for clip in clips.clips)
    assert all(len(asked) == 8 + 2 * 4 for asked in clips.questions)


def test_evaluation_sets_show_only_their_own_handwriting():
    clips = evaluation_clips("test", 50, 1)
    ours, theirs = ({image.tobytes() for image in split(name).images} for name in ("test", "train"))
    drawn = set()
    for frame, asked in zip(clips.frames[:, 0], clips.questions, strict=True):
        sideways = asked[0].answer in ("left", "right")
        for lane in frame.reshape(3, 8, 24, 3) if sideways else _columns(frame):
            ink = lane.max(-1)
            rolls = {np.roll(ink, s, sideways)[:8, :8].tobytes() for s in range(24)}
            drawn |= rolls & (ours | theirs)
    assert len(drawn) > 40 and drawn <= ours


def _columns(frame):
    return frame.reshape(24, 3, 8, 3).swapaxes(0, 1)


def test_evaluation_sets_are_the_same_every_time():
    one, two = (evaluation_clips("val", 10, 3, seed=1) for _ in range(2))
    assert np.array_equal(one.frames, two.frames) and one.questions == two.questions
    assert evaluation_clips("val", 10, 3, seed=2).clips != one.clips


def test_a_longer_evaluation_set_goes_on_where_a_shorter_one_stops():
    short, long = (evaluation_clips("val", 10, frames) for frames in (3, 12))
    assert np.array_equal(long.frames[:, :3], short.frames) and long.clips == short.clips


def test_evaluation_sets_that_cannot_be_are_refused():
    with pytest.raises(ValueError, match="unknown split"):
        evaluation_clips("tset", 10, 3)
    with pytest.raises(ValueError, match="at least 1 clip, got 0"):
        evaluation_clips("val", 0, 3)
    with pytest.raises(ValueError, match="frames must be 1 to 12"):
        evaluation_clips("val", 10, 13)


def test_every_word_is_in_the_vocabulary():
    clips = evaluation_clips("val", 60, 12)
    texts = {f"{q.text} {q.answer}" for asked in clips.questions for q in asked}
    ids = VOCABULARY.encode(sorted(texts), 12)
    assert VOCABULARY.decode(ids) == sorted(texts)
    answers = {q.answer for asked in clips.questions for q in asked}
    assert answers == {*DIRECTIONS, *COLOUR_NAMES, *DIGIT_NAMES, *PLACES}
