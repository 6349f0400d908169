"""Boards: what is shown, what is asked about it, and what is kept from training."""

from collections import Counter
from itertools import combinations, islice

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from scratch_vlm.data.augment import Affine
from scratch_vlm.data.boards import (
    CHANCE,
    HELD_OUT_RELATIONS,
    ITEMS,
    KINDS,
    SIDE_NAMES,
    Board,
    copied_answers,
    describe,
    draw_boards,
    evaluation_boards,
    image_only_shares,
    paint_boards,
    question_only_answers,
    questions,
    training_boards,
)
from scratch_vlm.data.clips import PLACES, Question
from scratch_vlm.data.digits import SPLITS, split
from scratch_vlm.data.scenes import COLOUR_NAMES, COLOURS, DIGIT_NAMES, HELD_OUT, DigitPool, Item

seeds = st.integers(0, 2**32 - 1)
POOL = DigitPool(split("train"))
EVALUATED = evaluation_boards("val", 400)
ROWS, COLUMNS = ("top", "middle", "bottom"), ("left", "centre", "right")


def boards_of(seed, count, **options):
    return list(islice(draw_boards(np.random.default_rng(seed), **options), count))


def touching(cells):
    """Count the pairs of cells that are side by side or one above the other."""
    return sum(abs(a // 3 - b // 3) + abs(a % 3 - b % 3) == 1 for a, b in combinations(cells, 2))


def answer_by_search(board, text):
    """Answer as a person would: find what is asked for, word by word, on a drawn-out grid."""
    grid = [[None] * 3 for _ in range(3)]
    for item, cell in zip(board.items, board.cells, strict=True):
        grid[cell // 3][cell % 3] = (COLOUR_NAMES[item.colour], DIGIT_NAMES[item.digit])
    what, wanted, _, *words = text.split()
    assert what == "what" and wanted in ("colour", "digit")
    if "-" in words[0]:
        row, column = words[0].split("-")
        found = grid[ROWS.index(row)][COLUMNS.index(column)]
    else:
        ((y, x),) = (
            (y, x) for y in range(3) for x in range(3) if grid[y][x] and words[-1] in grid[y][x]
        )
        if words[0] == "left":
            x -= 1
        elif words[0] == "right":
            x += 1
        elif words[0] == "above":
            y -= 1
        elif words[0] == "below":
            y += 1
        assert 0 <= y < 3 and 0 <= x < 3
        found = grid[y][x]
    return found[wanted == "digit"] if found else "none"


@given(seeds, st.sampled_from([None, *ITEMS]), st.booleans())
def test_boards_are_as_they_should_be(seed, items, held_out):
    for board in boards_of(seed, 20, items=items, held_out=held_out):
        n = len(board.items)
        assert n == len(board.cells) and n in ((items,) if items else ITEMS)
        assert list(board.cells) == sorted(set(board.cells)) and set(board.cells) <= set(range(9))
        assert len({item.colour for item in board.items}) == n
        assert len({item.digit for item in board.items}) == n
        assert board.held_out == held_out == any(item in HELD_OUT for item in board.items)
        assert touching(board.cells)


def test_three_and_four_digits_are_equally_frequent_and_stand_in_every_way():
    boards = boards_of(0, 4000)
    assert abs(sum(len(board.items) == 3 for board in boards) - 2000) < 5 * np.sqrt(1000)
    assert {item for board in boards for item in board.items} == {
        (c, d) for c in range(4) for d in range(10)
    } - HELD_OUT
    layouts = {cells for n in ITEMS for cells in combinations(range(9), n) if touching(cells)}
    assert {board.cells for board in boards} == layouts
    # Colours stand in no order: each is first in reading order about as often.
    first = np.bincount([board.items[0].colour for board in boards])
    assert first.min() > 0.8 * first.mean()


def test_boards_of_other_sizes_are_refused():
    with pytest.raises(ValueError, match="3 or 4 digits, got 2"):
        next(draw_boards(np.random.default_rng(0), items=2))


def test_questions_and_answers():
    board = Board((Item(0, 7), Item(2, 3), Item(1, 0)), (1, 2, 4))
    asked = {q.text: (q.kind, q.answer) for q in questions(board) if q.kind != "position"}
    assert asked == {
        "what colour is seven": ("colour", "red"),
        "what colour is three": ("colour", "blue"),
        "what colour is zero": ("colour", "green"),
        "what digit is red": ("digit", "seven"),
        "what digit is blue": ("digit", "three"),
        "what digit is green": ("digit", "zero"),
        "what digit is right of seven": ("relation", "three"),
        "what digit is left of three": ("relation", "seven"),
        "what digit is below seven": ("relation_heldout", "zero"),
        "what digit is above zero": ("relation", "seven"),
        "describe the board": (
            "caption",
            "red seven top-centre blue three top-right green zero middle-centre",
        ),
    }
    places = [q for q in questions(board) if q.kind == "position"]
    assert places[:4] == [
        Question("position", "what colour is top-left", "none"),
        Question("position", "what digit is top-left", "none"),
        Question("position", "what colour is top-centre", "red"),
        Question("position", "what digit is top-centre", "seven"),
    ]
    assert Counter(q.answer for q in places)["none"] == 12 and len(places) == 18


@given(seeds)
def test_answers_are_those_of_a_search_on_the_grid(seed):
    for board in boards_of(seed, 5, held_out=bool(seed % 2)):
        every = questions(board)
        assert len({q.text for q in every}) == len(every)
        for question in every:
            if question.kind != "caption":
                assert question.answer == answer_by_search(board, question.text)


@given(seeds)
def test_every_neighbour_is_asked_for(seed):
    (board,) = boards_of(seed, 1)
    asked = sum(q.kind.startswith("relation") for q in questions(board))
    assert asked == 2 * touching(board.cells)


def test_held_out_relations_have_their_own_kind_and_are_spread():
    assert len(HELD_OUT_RELATIONS) == 8
    assert Counter(side for side, _ in HELD_OUT_RELATIONS) == dict.fromkeys(range(4), 2)
    kinds = {}
    for board in boards_of(0, 3000):
        for question in questions(board):
            if question.kind.startswith("relation"):
                kinds.setdefault(question.text, set()).add(question.kind)
    expected = {
        f"what digit is {name} {digit}": {
            "relation_heldout" if (side, d) in HELD_OUT_RELATIONS else "relation"
        }
        for side, name in enumerate(SIDE_NAMES)
        for d, digit in enumerate(DIGIT_NAMES)
    }
    assert kinds == expected


def test_each_board_has_its_own_description():
    boards = list(dict.fromkeys(boards_of(0, 3000)))
    assert len({describe(board) for board in boards}) == len(boards)
    assert {len(describe(board).split()) for board in boards} == {9, 12}


@given(seeds)
def test_painted_digits_are_where_the_board_says(seed):
    boards = boards_of(seed, 4)
    images = paint_boards(np.random.default_rng(seed), boards, POOL)
    assert images.shape == (4, 24, 24, 3) and images.dtype == np.float32
    assert images.min() >= 0 and images.max() <= 1
    digits = POOL.digits
    for board, image in zip(boards, images, strict=True):
        found = dict(zip(board.cells, board.items, strict=True))
        for cell in range(9):
            y, x = 8 * (cell // 3), 8 * (cell % 3)
            shown = image[y : y + 8, x : x + 8]
            if cell not in found:
                assert not shown.any()
                continue
            item = found[cell]
            tint = np.array(COLOURS[COLOUR_NAMES[item.colour]], np.float32)
            written = digits.images[digits.labels == item.digit][..., None] * tint
            assert (written == shown).all((1, 2, 3)).any()


def test_painting_warps_digits_only_if_told_to():
    boards = boards_of(0, 20)
    plain, warped = (
        paint_boards(np.random.default_rng(0), boards, POOL, warp) for warp in (None, Affine())
    )
    assert (plain != warped).any((1, 2, 3)).all()
    ours = {image.tobytes() for image in plain.reshape(20, 3, 8, 3, 8, 3)[:, 0, :, 0]}
    theirs = {image.tobytes() for image in warped.reshape(20, 3, 8, 3, 8, 3)[:, 0, :, 0]}
    assert len(ours & theirs) == 1  # the empty cell


def test_no_boards_cannot_be_painted():
    with pytest.raises(ValueError, match="no boards to paint"):
        paint_boards(np.random.default_rng(0), [], POOL)


def drawn_about(image, asked):
    """Whether the image has ink exactly in the cells that position questions say."""
    for question in asked:
        if question.kind == "position":
            cell = PLACES.index(question.text.split()[-1])
            y, x = 8 * (cell // 3), 8 * (cell % 3)
            pixels = image[y : y + 8, x : x + 8].reshape(-1, 3).sum(0)
            if (question.answer == "none") != (not pixels.any()):
                return False
            if question.answer in COLOURS:
                tint = np.array(COLOURS[question.answer])
                if not np.allclose(pixels / pixels.max(), tint / tint.max(), atol=1e-4):
                    return False
    return True


@given(seeds, st.integers(1, 10))
def test_training_conversations_ask_different_questions_on_what_is_shown(seed, turns):
    images, asked = training_boards(np.random.default_rng(seed), 6, POOL, turns=turns)
    assert images.shape == (6, 24, 24, 3) and len(asked) == 6
    for image, conversation in zip(images, asked, strict=True):
        assert len(conversation) == turns == len({q.text for q in conversation})
        assert drawn_about(image, conversation)


def test_training_asks_nothing_that_is_held_out():
    _, asked = training_boards(np.random.default_rng(0), 3000, POOL)
    every = [question for conversation in asked for question in conversation]
    assert {q.kind for q in every} == set(KINDS) - {"relation_heldout"}
    texts = {q.text for q in every}
    for side, name in enumerate(SIDE_NAMES):
        for d, digit in enumerate(DIGIT_NAMES):
            asked_for = f"what digit is {name} {digit}" in texts
            assert asked_for == ((side, d) not in HELD_OUT_RELATIONS)
    shown = {(q.text.split()[-1], q.answer) for q in every if q.kind == "colour"}
    assert shown == {
        (DIGIT_NAMES[d], COLOUR_NAMES[c])
        for c in range(4) for d in range(10) if (c, d) not in HELD_OUT
    }  # fmt: skip


def test_training_keeps_the_shares_of_kinds():
    """Of first questions; later ones have fewer left to choose from."""
    _, asked = training_boards(np.random.default_rng(0), 4000, POOL)
    first = [conversation[0] for conversation in asked]
    counts = Counter(q.kind for q in first)
    shares = {"colour": 0.2, "digit": 0.2, "position": 0.3, "relation": 0.3}
    for kind, share in shares.items():
        # A few boards have no relation that may be asked.
        assert abs(counts[kind] / 4000 - share) < 0.04
    places = [q for q in first if q.kind == "position"]
    assert abs(np.mean([q.answer == "none" for q in places]) - 0.2) < 0.06


def test_training_asks_the_kinds_it_is_told_to():
    rng = np.random.default_rng(0)
    _, asked = training_boards(rng, 50, POOL, turns=1, shares={"caption": 1})
    assert {q.kind for conversation in asked for q in conversation} == {"caption"}
    _, asked = training_boards(rng, 50, POOL, turns=9, shares={"relation": 1, "position": 1e-9})
    for conversation in asked:  # relations until there are none left, then what else may be asked
        kinds = [q.kind for q in conversation]
        assert kinds == sorted(kinds, reverse=True) and kinds[-1] == "position"


def test_training_batches_are_the_same_for_the_same_seed():
    (one, first), (two, second), (other, _) = (
        training_boards(np.random.default_rng(s), 8, POOL, warp=Affine()) for s in (3, 3, 4)
    )
    assert np.array_equal(one, two) and first == second
    assert not np.array_equal(one, other)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"count": 0}, "at least 1 board, got 0"),
        ({"turns": 0}, "at least 1 turn, got 0"),
        ({"turns": 2, "shares": {"caption": 1}}, "2 different questions; there are 1 of .*caption"),
        ({"shares": {"relation_heldout": 1}}, "not 'relation_heldout'"),
        ({"shares": {"color": 1}}, "not 'color'"),
        ({"shares": {"digit": 0}}, "not all 0"),
        ({"shares": {}}, "not all 0"),
        ({"shares": {"digit": 1, "colour": -1}}, "at least 0"),
    ],
)
def test_training_batches_that_cannot_be_are_refused(options, message):
    options = {"count": 2, "pool": POOL, **options}
    with pytest.raises(ValueError, match=message):
        training_boards(np.random.default_rng(0), **options)


@pytest.mark.parametrize("held_out", [False, True])
@pytest.mark.parametrize("name", SPLITS)
def test_evaluation_sets_ask_every_kind_on_every_board(name, held_out):
    ours = evaluation_boards(name, 30, held_out=held_out)
    assert ours.images.shape == (30, 24, 24, 3) and len(ours.boards) == 30
    assert all(board.held_out == held_out for board in ours.boards)
    assert tuple(ours.questions) == KINDS
    for kind, asked in ours.questions.items():
        assert len(asked) == 30 and {q.kind for q in asked} == {kind}
        for image, board, question in zip(ours.images, ours.boards, asked, strict=True):
            assert question in questions(board) and drawn_about(image, [question])


def test_evaluation_sets_ask_mostly_for_occupied_cells():
    empty = np.mean([q.answer == "none" for q in EVALUATED.questions["position"]])
    assert abs(empty - 0.2) < 0.1


def test_evaluation_sets_are_the_same_every_time():
    one, two = (evaluation_boards("val", 20, seed=1) for _ in range(2))
    assert np.array_equal(one.images, two.images) and one[1:] == two[1:]
    assert evaluation_boards("val", 20, seed=2).boards != one.boards
    other = evaluation_boards("test", 20, seed=1)
    assert other.boards == one.boards and not np.array_equal(other.images, one.images)


def test_evaluation_sets_show_only_their_own_handwriting():
    theirs = {image.tobytes() for image in split("train").images}
    ours = {image.tobytes() for image in split("val").images}
    cells = EVALUATED.images.max(-1).reshape(-1, 3, 8, 3, 8).swapaxes(2, 3).reshape(-1, 8, 8)
    drawn = {cell.tobytes() for cell in cells if cell.any()}
    assert len(drawn & ours) > 100 and not drawn & (theirs - ours)


def test_evaluation_sets_that_cannot_be_are_refused():
    with pytest.raises(ValueError, match="unknown split"):
        evaluation_boards("tset", 10)
    with pytest.raises(ValueError, match="at least 1 board, got 0"):
        evaluation_boards("val", 0)


def accuracy(said, asked):
    return np.mean([a == q.answer for a, q in zip(said, asked, strict=True)])


def test_looking_at_the_nearest_board_helps_and_language_alone_hardly():
    blind, copied = {}, {}
    for kind, asked in EVALUATED.questions.items():
        blind[kind] = accuracy(question_only_answers(asked, count=1000), asked)
        copied[kind] = accuracy(copied_answers(EVALUATED.images, asked, count=1000), asked)
        # Which combinations are possible, and that cells may be empty, is all that is known.
        assert abs(blind[kind] - CHANCE[kind]) < 0.16
    assert copied["position"] > blind["position"] + 0.2
    assert copied["colour"] > blind["colour"] > CHANCE["colour"]
    assert copied["relation_heldout"] == blind["relation_heldout"]  # no memory was told these


def test_who_sees_everything_but_not_the_question_gives_the_likeliest_answer():
    # Six at the top left, three to its right, zero at the bottom right.
    board = Board((Item(0, 6), Item(2, 3), Item(1, 0)), (0, 1, 8))
    shares = image_only_shares([board])
    assert shares["colour"] == shares["digit"] == pytest.approx(1 / 3)
    assert shares["position"] == pytest.approx(0.2)  # "none"; each of six words is asked for less
    assert shares["relation"] == shares["relation_heldout"] == pytest.approx(1 / 2)

    shares = image_only_shares(EVALUATED.boards)
    for kind, asked in EVALUATED.questions.items():
        word = kind in ("digit", "relation", "relation_heldout")
        first = [str(board.items[0]).split()[word] for board in EVALUATED.boards]
        assert CHANCE[kind] < shares[kind] < 0.6
        assert accuracy(first, asked) < shares[kind] + 0.05  # one rule, and not the best
    with pytest.raises(ValueError, match="no boards"):
        image_only_shares([])


def test_baselines_do_not_read_the_answers():
    asked = EVALUATED.questions["digit"][:50]
    hidden = [q._replace(answer="?") for q in asked]
    images = EVALUATED.images[:50]
    assert question_only_answers(asked, count=200) == question_only_answers(hidden, count=200)
    assert copied_answers(images, asked, count=200) == copied_answers(images, hidden, count=200)


def test_baselines_know_the_training_boards():
    """A board of the memory itself is answered without fault, where it may be asked."""
    rng = np.random.default_rng(5)
    boards = list(islice(draw_boards(rng), 40))
    images = paint_boards(rng, boards, POOL)
    for kind in ("colour", "digit", "position", "relation", "caption"):
        chosen = [
            (image, q)
            for image, board in zip(images, boards, strict=True)
            for q in questions(board)
            if q.kind == kind
        ]
        shown, asked = np.stack([image for image, _ in chosen]), [q for _, q in chosen]
        assert accuracy(copied_answers(shown, asked, count=40, seed=5), asked) == 1


def test_answers_that_were_never_learned_are_the_most_frequent_of_their_kind():
    held_back = EVALUATED.questions["relation_heldout"]
    said = set(question_only_answers(held_back, count=1000))
    assert len(said) == 1 and said <= set(DIGIT_NAMES)
    unknown = [Question("position", "what colour is outside", "")]
    assert question_only_answers(unknown, count=1000) == ["none"]


def test_copied_answers_need_a_question_for_each_image():
    with pytest.raises(ValueError, match="400 images need a question each, got 3"):
        copied_answers(EVALUATED.images, EVALUATED.questions["digit"][:3])
