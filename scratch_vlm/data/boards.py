"""Boards of coloured, really handwritten digits, and questions that ask what stands where.

A board has three or four digits on a grid of 3 x 3 cells, all of different values and in different
colours. Questions ask for the colour of a digit, for the digit of a colour, for what is in a cell,
and for the digit beside another one. Two things are held out from training: the combinations of
colour and digit of `HELD_OUT`, which no training board shows, and the pairs of relation and digit
of `HELD_OUT_RELATIONS`, which training boards show but no training question asks for.
"""

from collections import Counter, defaultdict
from functools import cache
from itertools import accumulate
from typing import NamedTuple

import numpy as np

from scratch_vlm.data.augment import affine
from scratch_vlm.data.clips import PLACES, Question
from scratch_vlm.data.digits import split
from scratch_vlm.data.scenes import (
    CELL,
    CELLS,
    COLOUR_NAMES,
    COLOURS,
    DIGIT_NAMES,
    HELD_OUT,
    SIZE,
    DigitPool,
    Item,
)

ITEMS = (3, 4)  # digits on a board
TURNS = 6  # questions on each training board
CAPTION = "describe the board"
NOTHING = "none"  # what is in an empty cell
SIDES = {"left of": (0, -1), "right of": (0, 1), "above": (-1, 0), "below": (1, 0)}
SIDE_NAMES = tuple(SIDES)
HELD_OUT_RELATIONS = frozenset(
    (r, (2 * r + 7 * k + 1) % 10) for r in range(len(SIDES)) for k in range(2)
)
CHANCE = {  # of an even guess among the answers that a question of the kind can have
    "colour": 1 / len(COLOUR_NAMES),
    "digit": 1 / len(DIGIT_NAMES),
    "position": 1 / (len(COLOUR_NAMES) + len(DIGIT_NAMES) + 1),
    "relation": 1 / len(DIGIT_NAMES),
    "relation_heldout": 1 / len(DIGIT_NAMES),
}
KINDS = tuple(CHANCE)  # to measure; "caption" is a further one
SHARES = {"colour": 0.2, "digit": 0.2, "position": 0.3, "relation": 0.3}
OCCUPIED = 0.8  # share of questions for a position that ask for a cell with a digit in it


class Board(NamedTuple):
    """What is to be seen, but not in whose handwriting.

    Attributes
    ----------
    items : tuple of Item
        Three or four, of different colours and different digits, in reading order.
    cells : tuple of int
        Where each is: 0 to 8 in reading order, see ``PLACES``. At least two are neighbours.
    """

    items: tuple[Item, ...]
    cells: tuple[int, ...]

    @property
    def held_out(self):
        """Whether it shows a combination of colour and digit that is never trained on."""
        return any(item in HELD_OUT for item in self.items)


class BoardSet(NamedTuple):
    """Boards to measure a model on.

    Attributes
    ----------
    images : array of shape (B, 24, 24, 3)
        In [0, 1].
    boards : list of Board
        What they show.
    questions : dict
        For each of ``KINDS`` a list of B questions, one on each board.
    """

    images: np.ndarray
    boards: list
    questions: dict


def draw_boards(rng, *, items=None, held_out=False):
    """Draw boards without end.

    Parameters
    ----------
    rng : numpy.random.Generator
        Where they come from.
    items : {3, 4}, optional
        Digits on a board; by default three and four are equally frequent.
    held_out : bool, default False
        Draw only boards with a held-out combination on them, or only ones without.

    Yields
    ------
    Board

    Raises
    ------
    ValueError
        If `items` is neither 3 nor 4.
    """
    if items not in (None, *ITEMS):
        raise ValueError(f"a board shows 3 or 4 digits, got {items}")
    sources = [_boards_of(rng, n, held_out) for n in ITEMS if items in (None, n)]
    while True:
        for i in rng.integers(len(sources), size=256).tolist():
            yield next(sources[i])


def _boards_of(rng, n, held_out):
    kept_back = np.zeros((len(COLOURS), 10), bool)
    kept_back[tuple(np.array(list(HELD_OUT)).T)] = True
    while True:
        # In blocks: one call of the generator for each number would cost more than the rest.
        cells, digits, colours = (
            rng.random((256, most)).argsort(1)[:, :n] for most in (CELLS * CELLS, 10, len(COLOURS))
        )
        cells.sort(axis=1)
        taken = np.zeros((256, CELLS * CELLS), bool)
        np.put_along_axis(taken, cells, True, axis=1)
        taken = taken.reshape(-1, CELLS, CELLS)
        beside = (taken[:, :, 1:] & taken[:, :, :-1]).any((1, 2))
        beside |= (taken[:, 1:] & taken[:, :-1]).any((1, 2))
        chosen = beside & (kept_back[colours, digits].any(1) == held_out)
        every = (array[chosen].tolist() for array in (cells, digits, colours))
        for where, ds, cs in zip(*every, strict=True):
            yield Board(tuple(map(Item, cs, ds)), tuple(where))


def paint_boards(rng, boards, pool, warp=None):
    """Paint boards.

    Parameters
    ----------
    rng : numpy.random.Generator
        Draws the handwriting.
    boards : sequence of Board
        What to paint.
    pool : DigitPool
        Whose handwriting.
    warp : Affine, optional
        Warp each digit at random; for training.

    Returns
    -------
    array of shape (B, 24, 24, 3)
        In [0, 1], in float32, on black.

    Raises
    ------
    ValueError
        If there are no boards.
    """
    b = len(boards)
    if not b:
        raise ValueError("there are no boards to paint")
    which = np.repeat(np.arange(b), [len(board.cells) for board in boards])
    cells = np.array([cell for board in boards for cell in board.cells])
    colours, digits = np.array([item for board in boards for item in board.items]).T
    ink = pool.draw(rng, digits)
    if warp:
        ink = affine(rng, ink, warp)
    tints = np.array(list(COLOURS.values()), np.float32)[colours]  # (items, 3)
    canvas = np.zeros((b, CELLS, CELLS, CELL, CELL, 3), np.float32)
    canvas[which, cells // CELLS, cells % CELLS] = ink[..., None] * tints[:, None, None]
    return canvas.transpose(0, 1, 3, 2, 4, 5).reshape(b, SIZE, SIZE, 3)


def describe(board):
    """Say what is on a board.

    Parameters
    ----------
    board : Board
        What it shows.

    Returns
    -------
    str
        Three words for each digit, in reading order: each board has one description.

    Examples
    --------
    >>> describe(Board((Item(0, 7), Item(2, 3), Item(1, 0)), (0, 4, 8)))
    'red seven top-left blue three middle-centre green zero bottom-right'
    """
    return " ".join(
        f"{item} {PLACES[cell]}" for item, cell in zip(board.items, board.cells, strict=True)
    )


def questions(board):
    """Ask everything that can be asked about a board.

    Parameters
    ----------
    board : Board
        What it shows.

    Returns
    -------
    list of Question
        Of kind ``"colour"`` and ``"digit"``: one for each item. ``"position"``: two for each
        cell, whose answer may be ``"none"``. ``"relation"``: one for each item and side on which
        it has a neighbour; ``"relation_heldout"`` if it is never asked in training.
        ``"caption"``: one, answered by `describe`.

    Examples
    --------
    >>> board = Board((Item(0, 6), Item(2, 3), Item(1, 0)), (0, 1, 8))
    >>> for question in questions(board):
    ...     if question.kind in ("colour", "relation"):
    ...         print(f"{question.text}? {question.answer}")
    what colour is six? red
    what colour is three? blue
    what colour is zero? green
    what digit is right of six? three
    what digit is left of three? six
    """
    asked = [_for_colour(item) for item in board.items]
    asked += [_for_digit(item) for item in board.items]
    found = dict(zip(board.cells, board.items, strict=True))
    for cell in range(len(PLACES)):
        asked += _for_position(cell, found.get(cell))
    for cell, item in found.items():
        for side, other in NEIGHBOURS[cell]:
            if other in found:
                asked.append(_for_relation(side, item.digit, found[other].digit))
    asked.append(Question("caption", CAPTION, describe(board)))
    return asked


@cache  # like those below: made once and then looked up, as a training asks thousands a second
def _for_colour(item):
    text = f"what colour is {DIGIT_NAMES[item.digit]}"
    return Question("colour", text, COLOUR_NAMES[item.colour])


@cache
def _for_digit(item):
    text = f"what digit is {COLOUR_NAMES[item.colour]}"
    return Question("digit", text, DIGIT_NAMES[item.digit])


@cache
def _for_position(cell, item):
    colour, digit = (NOTHING, NOTHING) if item is None else str(item).split()
    return (
        Question("position", f"what colour is {PLACES[cell]}", colour),
        Question("position", f"what digit is {PLACES[cell]}", digit),
    )


@cache
def _for_relation(side, anchor, digit):
    kind = "relation_heldout" if (side, anchor) in HELD_OUT_RELATIONS else "relation"
    text = f"what digit is {SIDE_NAMES[side]} {DIGIT_NAMES[anchor]}"
    return Question(kind, text, DIGIT_NAMES[digit])


def _neighbours(cell):
    row, column = divmod(cell, CELLS)
    return tuple(
        (side, (row + down) * CELLS + column + right)
        for side, (down, right) in enumerate(SIDES.values())
        if 0 <= row + down < CELLS and 0 <= column + right < CELLS
    )


NEIGHBOURS = tuple(_neighbours(cell) for cell in range(len(PLACES)))  # (side, cell) of each cell


def training_boards(rng, count, pool, *, turns=TURNS, shares=None, warp=None):
    """Draw a batch of boards and a conversation about each.

    Parameters
    ----------
    rng : numpy.random.Generator
        Where it comes from.
    count : int
        B.
    pool : DigitPool
        Whose handwriting.
    turns : int, default 6
        Questions on each board. With a single one, what needs two steps is learned late or
        never.
    shares : dict, optional
        How often each kind is asked, in any unit; by default ``SHARES``. Where a board has no
        further question of a kind, the other kinds are asked more.
    warp : Affine, optional
        Warp each digit at random.

    Returns
    -------
    images : array of shape (B, 24, 24, 3)
        In [0, 1], in float32.
    questions : list of list of Question
        `turns` different ones on each board. Four of five questions for a position ask for a
        cell with a digit in it.

    Raises
    ------
    ValueError
        If a number is out of range, a kind is unknown or held out, or a board has too few
        questions of the kinds that are asked.
    """
    if count < 1:
        raise ValueError(f"a batch needs at least 1 board, got {count}")
    boards = _draw(rng, count)
    return paint_boards(rng, boards, pool, warp), _converse(rng, boards, turns, shares)


def _draw(rng, count):
    source = draw_boards(rng)
    return [next(source) for _ in range(count)]


def _converse(rng, boards, turns=TURNS, shares=None):
    weights = _weights(SHARES if shares is None else shares)
    if turns < 1:
        raise ValueError(f"a conversation has at least 1 turn, got {turns}")
    asked = []
    for board, numbers in zip(boards, rng.random((len(boards), turns, 2)).tolist(), strict=True):
        left = _groups(board)
        conversation = []
        for which, where in numbers:
            names = [name for name in weights if left[name]]
            if not names:
                raise ValueError(
                    f"asked for {turns} different questions; there are {len(conversation)} of "
                    f"the kinds {', '.join(dict.fromkeys(kind for kind, _ in weights))} on "
                    f"{describe(board)!r}"
                )
            sums = list(accumulate(weights[name] for name in names))
            chosen = left[next(n for n, s in zip(names, sums, strict=True) if which * sums[-1] < s)]
            conversation.append(chosen.pop(int(where * len(chosen))))
        asked.append(conversation)
    return asked


def _groups(board):
    """Questions by kind, and those on an empty cell apart."""
    groups = defaultdict(list)
    for question in questions(board):
        groups[question.kind, question.answer == NOTHING].append(question)
    return groups


def _weights(shares):
    kinds = (*SHARES, "caption")
    wrong = [kind for kind in shares if kind not in kinds]
    if wrong:
        raise ValueError(f"the kinds to train on are {', '.join(kinds)}, not {wrong[0]!r}")
    if not shares or min(shares.values()) < 0 or not any(shares.values()):
        raise ValueError(f"shares must be at least 0 and not all 0, got {shares}")
    weights = {}
    for kind, share in shares.items():
        full = OCCUPIED if kind == "position" else 1
        weights[kind, False], weights[kind, True] = share * full, share * (1 - full)
    return {name: weight for name, weight in weights.items() if weight}


def evaluation_boards(name, count, *, held_out=False, seed=99):
    """Draw boards and one question of each kind on each, the same for every model.

    Parameters
    ----------
    name : {"train", "val", "test"}
        Whose handwriting.
    count : int
        B.
    held_out : bool, default False
        Whether each board shows a combination of colour and digit that is never trained on.
    seed : int, default 99
        Draws boards and questions.

    Returns
    -------
    BoardSet
        Boards on which every one of ``KINDS`` can be asked. Four of five questions for a
        position ask for a cell with a digit in it, as in training.

    Raises
    ------
    ValueError
        If there is no such split, or `count` is less than 1.
    """
    if count < 1:
        raise ValueError(f"an evaluation set needs at least 1 board, got {count}")
    pool = DigitPool(split(name))
    rng = np.random.default_rng([seed, held_out])
    boards, asked = [], {kind: [] for kind in KINDS}
    for board in draw_boards(rng, held_out=held_out):
        groups = _groups(board)
        if not all(groups[kind, False] for kind in KINDS):
            continue
        boards.append(board)
        for kind in KINDS:
            empty = kind == "position" and bool(rng.random() >= OCCUPIED)
            every = groups[kind, empty]
            asked[kind].append(every[rng.integers(len(every))])
        if len(boards) == count:
            break
    return BoardSet(paint_boards(rng, boards, pool), boards, asked)


def question_only_answers(questions, *, count=5000, seed=7):
    """Answer without looking: what was the most frequent answer to the same question in training.

    Parameters
    ----------
    questions : sequence of Question
        Their answers are not read.
    count : int, default 5000
        Training conversations to count in.
    seed : int, default 7
        Draws them.

    Returns
    -------
    list of str
        The simple baseline: what language alone gives away. A question that was never asked is
        given the most frequent answer of its kind.
    """
    answers = _frequent_answers(count, seed)
    return [answers.get(q.text) or answers[q.kind.removesuffix("_heldout")] for q in questions]


def image_only_shares(boards):
    """Measure how often one can be right who sees a board perfectly but is not told the question.

    Parameters
    ----------
    boards : sequence of Board
        What is seen. Of the question only its kind is known, and not whether a relation is held
        out.

    Returns
    -------
    dict of str to float
        For each of ``KINDS`` the share of right answers, if the answer to most questions of that
        kind is given on each board.

    Raises
    ------
    ValueError
        If there are no boards.

    Examples
    --------
    >>> board = Board((Item(0, 7), Item(2, 3), Item(1, 0)), (0, 1, 8))
    >>> round(image_only_shares([board])["colour"], 3)
    0.333
    """
    if not boards:
        raise ValueError("there are no boards to look at")
    shares = dict.fromkeys(KINDS, 0.0)
    for board in boards:
        groups = _groups(board)
        of_relation = groups["relation", False] + groups["relation_heldout", False]
        groups["relation", False] = groups["relation_heldout", False] = of_relation
        for kind in KINDS:
            likely = Counter()
            for empty, share in ((False, OCCUPIED), (True, 1 - OCCUPIED)):
                asked = groups[kind, empty]
                for question in asked:
                    likely[question.answer] += (share if kind == "position" else 1.0) / len(asked)
            shares[kind] += max(likely.values()) / len(boards)
    return shares


def copied_answers(images, questions, *, count=5000, seed=7):
    """Answer as for the training board that is nearest in pixels.

    Parameters
    ----------
    images : array of shape (B, 24, 24, 3)
        In [0, 1].
    questions : sequence of Question
        One on each image; their answers are not read.
    count : int, default 5000
        Training boards to copy from.
    seed : int, default 7
        Draws them.

    Returns
    -------
    list of str
        The simple baseline: what a memory without understanding would say. Where the same
        question cannot be asked about the nearest board, or is never asked in training, the
        answer of `question_only_answers`.

    Raises
    ------
    ValueError
        If there is not one question for each image.
    """
    if len(images) != len(questions):
        raise ValueError(f"{len(images)} images need a question each, got {len(questions)}")
    rng = np.random.default_rng(seed)
    boards = _draw(rng, count)
    known = paint_boards(rng, boards, DigitPool(split("train"))).reshape(count, -1)
    images = images.reshape(len(images), -1)
    nearest = ((known * known).sum(1) - 2 * (images @ known.T)).argmin(1).tolist()
    blind = question_only_answers(questions, count=count, seed=seed)
    copied = []
    for i, question, otherwise in zip(nearest, questions, blind, strict=True):
        answers = _trained_answers(boards[i])
        copied.append(answers.get(question.text, otherwise))
    return copied


def _trained_answers(board):
    return {q.text: q.answer for q in questions(board) if q.kind != "relation_heldout"}


@cache
def _frequent_answers(count, seed):
    rng = np.random.default_rng(seed)
    boards, counts = _draw(rng, count), defaultdict(Counter)
    for board, conversation in zip(boards, _converse(rng, boards), strict=True):
        counts["caption"][describe(board)] += 1
        for question in conversation:
            counts[question.text][question.answer] += 1
            counts[question.kind][question.answer] += 1
    return {asked: answers.most_common(1)[0][0] for asked, answers in counts.items()}
