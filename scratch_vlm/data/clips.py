"""Clips of two coloured, really handwritten digits that pass each other, and questions on them.

One digit moves left and the other right, or one up and the other down, on a torus of 24 x 24
pixels: what leaves on one side enters on the other. Each digit starts anywhere with equal chance,
so it is anywhere with equal chance in *every* frame, whichever way it moves. One frame therefore
holds exactly no information on the direction; only the order of at least two frames does, and a
clip played backwards has the opposite answer.
"""

from typing import NamedTuple

import numpy as np

from scratch_vlm.data.augment import affine
from scratch_vlm.data.digits import split
from scratch_vlm.data.scenes import (
    CELL,
    CELLS,
    COLOUR_NAMES,
    COLOURS,
    DIGIT_NAMES,
    SIZE,
    DigitPool,
    Item,
    Scene,
    draw_scenes,
)
from scratch_vlm.data.tokens import Vocabulary

OPPOSITE = {"left": "right", "right": "left", "up": "down", "down": "up"}
DIRECTIONS = tuple(OPPOSITE)
TOWARDS = {"left": -1, "right": 1, "up": -1, "down": 1}  # along a row, or along a column
SPEED = 4  # pixels from frame to frame; at half the torus, 12, both directions look the same
ROOM = SIZE - CELL  # pixels that a digit can move without wrapping
KINDS = ("direction", "colour", "which_digit", "digit")  # of questions on the whole clip
TRAVEL = (12, ROOM)  # fewest and most pixels that digits move in a clip that does not wrap
FRAME_NAMES = (*DIGIT_NAMES[1:], "ten", "eleven", "twelve")
PLACES = tuple(
    f"{row}-{column}"
    for row in ("top", "middle", "bottom")
    for column in ("left", "centre", "right")
)
QUESTION_WORDS = ("which", "way", "does", "the", "one", "move", "what", "colour", "moves", "digit")
QUESTION_WORDS += ("is", "where", "in", "frame")
VOCABULARY = Vocabulary(  # "one" is a digit, the name of a frame and a pronoun: one word
    tuple(
        dict.fromkeys(
            QUESTION_WORDS + DIRECTIONS + COLOUR_NAMES + DIGIT_NAMES + FRAME_NAMES + PLACES
        )
    )
)


class Clip(NamedTuple):
    """What is to be seen, but not where exactly or in whose handwriting.

    Attributes
    ----------
    items : tuple of Item
        Two, which differ in both colour and digit.
    moves : tuple of str
        The direction of each; opposites.
    """

    items: tuple[Item, Item]
    moves: tuple[str, str]

    @property
    def held_out(self):
        """Whether it shows a combination of colour and digit that is never trained on."""
        return Scene(self.items).held_out

    def reversed(self):
        """Return the clip played backwards."""
        return Clip(self.items, (OPPOSITE[self.moves[0]], OPPOSITE[self.moves[1]]))


class Question(NamedTuple):
    """A question on a clip.

    Attributes
    ----------
    kind : {"direction", "colour", "which_digit", "digit", "place"}
        What it asks for. The first three need several frames; ``"which_digit"`` also needs the
        digit to be read. ``"place"`` asks where an item is in one frame.
    text : str
        The question.
    answer : str
        One word.
    """

    kind: str
    text: str
    answer: str


class ClipSet(NamedTuple):
    """Clips to measure a model on.

    Attributes
    ----------
    frames : array of shape (B, F, 24, 24, 3)
        In [0, 1].
    clips : list of Clip
        What they show.
    questions : list of list of Question
        All questions on each, in the same order for every clip.
    """

    frames: np.ndarray
    clips: list
    questions: list


def draw_clips(rng, *, held_out=False):
    """Draw clips without end.

    Parameters
    ----------
    rng : numpy.random.Generator
        Where they come from.
    held_out : bool, default False
        Draw only clips with a held-out combination in them, or only ones without.

    Yields
    ------
    Clip
        The four directions are equally frequent, whatever the items.
    """
    for scene in draw_scenes(rng, held_out=held_out):
        move = DIRECTIONS[rng.integers(len(DIRECTIONS))]
        yield Clip(scene.items, (move, OPPOSITE[move]))


def draw_positions(rng, clips, frames, *, torus=True, travel=TRAVEL, speeds=(SPEED, SPEED)):
    """Draw where the digits are.

    Parameters
    ----------
    rng : numpy.random.Generator
        Draws the starts, and how far digits move in clips that do not wrap.
    clips : sequence of Clip
        B of them.
    frames : int
        F, at least 1.
    torus : bool or boolean array of shape (B,), default True
        True: from anywhere, around the torus. False: without wrapping, which is easier, as the
        first frame says something about the direction: for the beginning of a training.
    travel : (int, int), default (12, 16)
        Fewest and most pixels that digits move in a whole clip without wrapping, drawn for each
        clip; the more, the more the first frame gives away.
    speeds : (int, int), default (4, 4)
        Fewest and most pixels from frame to frame on the torus, drawn for each clip.

    Returns
    -------
    integer array of shape (B, 2, F)
        Left or top edge of each item along the way that it moves, 0 to 23 pixels.

    Raises
    ------
    ValueError
        If there are no clips or no frames, a way has no room, or at some speed both directions
        look the same.
    """
    if not len(clips):
        raise ValueError("there are no clips to place digits in")
    if frames < 1:
        raise ValueError(f"a clip needs at least 1 frame, got {frames}")
    slowest, fastest = speeds
    if not 1 <= slowest <= fastest < SIZE // 2:
        raise ValueError(f"speeds must be from 1 to {SIZE // 2 - 1} pixels a frame, got {speeds}")
    if not 1 <= travel[0] <= travel[1] <= ROOM:
        raise ValueError(f"travel must be from 1 to {ROOM} pixels, got {travel}")
    towards = np.array([[TOWARDS[move] for move in clip.moves] for clip in clips])[..., None]
    steps = np.arange(frames)
    speed = rng.integers(slowest, fastest + 1, size=(len(clips), 1, 1))
    around = rng.integers(SIZE, size=towards.shape) + speed * towards * steps
    way = rng.integers(travel[0], travel[1] + 1, size=(len(clips), 1, 1))
    first = rng.integers(ROOM - way + 1, size=towards.shape)  # edge of the way, not its start
    gone = np.rint(way * steps / max(frames - 1, 1)).astype(int)
    inside = first + np.where(towards > 0, gone, way - gone)
    return np.where(np.reshape(torus, (-1, 1, 1)), around, inside) % SIZE


def paint(ink, clips, lanes, positions):
    """Paint clips, of which everything is known.

    Parameters
    ----------
    ink : array of shape (B, 2, 8, 8)
        Handwriting of each item, in [0, 1].
    clips : sequence of Clip
        Colours, and whether digits move along rows or columns.
    lanes : integer array of shape (B, 2)
        Row of cells (or column, for digits that move up and down) of each item, 0 to 2; two
        different ones.
    positions : integer array of shape (B, 2, F)
        Left or top edge of each item along its lane, in pixels.

    Returns
    -------
    frames : array of shape (B, F, 24, 24, 3)
        In [0, 1], on black.
    cells : integer array of shape (B, 2, F, 2)
        Row and column of the cell in which the middle of each item is.
    """
    b, _, f = positions.shape
    tints = np.array(list(COLOURS.values()), ink.dtype)
    tints = tints[[[item.colour for item in clip.items] for clip in clips]]  # (B, 2, 3)
    sideways = np.array([clip.moves[0] in ("left", "right") for clip in clips])
    sideways = sideways[:, None, None, None]
    pixel = np.arange(CELL)
    along = (positions[..., None] + pixel) % SIZE  # (B, 2, F, 8)
    across = np.broadcast_to((CELL * lanes[..., None] + pixel)[:, :, None], along.shape)
    rows = np.where(sideways, across, along)[..., :, None]  # (B, 2, F, 8, 1)
    columns = np.where(sideways, along, across)[..., None, :]  # (B, 2, F, 1, 8)
    clip, _, frame = np.ogrid[:b, :2, :f]
    frames = np.zeros((b, f, SIZE, SIZE, 3), ink.dtype)
    coloured = ink[..., None] * tints[:, :, None, None]  # (B, 2, 8, 8, 3)
    frames[clip[..., None, None], frame[..., None, None], rows, columns] = coloured[:, :, None]

    middle = (positions + CELL // 2) % SIZE // CELL
    lanes = np.broadcast_to(lanes[..., None], middle.shape)
    sideways = sideways[..., 0]
    cells = np.stack([np.where(sideways, lanes, middle), np.where(sideways, middle, lanes)], -1)
    return frames, cells


def render_clips(
    rng, clips, pool, frames, *, torus=True, travel=TRAVEL, speeds=(SPEED, SPEED), warp=None
):
    """Paint clips in somebody's handwriting, starting anywhere.

    Parameters
    ----------
    rng : numpy.random.Generator
        Draws the handwriting, the lanes and the starts.
    clips : sequence of Clip
        What to paint.
    pool : DigitPool
        Whose handwriting.
    frames : int
        F, frames of each clip.
    torus, travel, speeds
        As in `draw_positions`.
    warp : Affine, optional
        Warp each digit at random, alike in all frames; for training.

    Returns
    -------
    frames : array of shape (B, F, 24, 24, 3)
        In [0, 1], in float32, on black.
    cells : integer array of shape (B, 2, F, 2)
        Row and column of the cell in which the middle of each item is.

    Raises
    ------
    ValueError
        If there are no clips or no frames, or a way or a speed is out of range.
    """
    positions = draw_positions(rng, clips, frames, torus=torus, travel=travel, speeds=speeds)
    lanes = rng.random((len(clips), CELLS)).argsort(1)[:, :2]
    digits = np.array([[item.digit for item in clip.items] for clip in clips])
    ink = pool.draw(rng, digits.ravel())
    if warp:
        ink = affine(rng, ink, warp)
    return paint(ink.reshape(*digits.shape, CELL, CELL), clips, lanes, positions)


def questions(clip, cells=None):
    """Ask everything that can be asked about a clip.

    Parameters
    ----------
    clip : Clip
        What it shows.
    cells : integer array of shape (2, F, 2), optional
        Where its items are, as `render_clips` returns it for each clip; with it, the place of
        each item in each frame is asked for too.

    Returns
    -------
    list of Question
        Eight, and two for each frame.

    Examples
    --------
    >>> clip = Clip((Item(0, 7), Item(2, 3)), ("left", "right"))
    >>> for question in questions(clip)[:4]:
    ...     print(f"{question.text}? {question.answer}")
    which way does the red one move? left
    what colour moves left? red
    which digit moves left? seven
    what digit is the red one? seven
    """
    asked = []
    for k, (item, move) in enumerate(zip(clip.items, clip.moves, strict=True)):
        colour, digit = COLOUR_NAMES[item.colour], DIGIT_NAMES[item.digit]
        asked += [
            Question("direction", f"which way does the {colour} one move", move),
            Question("colour", f"what colour moves {move}", colour),
            Question("which_digit", f"which digit moves {move}", digit),
            Question("digit", f"what digit is the {colour} one", digit),
        ]
        if cells is not None:
            for name, (row, column) in zip(FRAME_NAMES, cells[k].tolist(), strict=False):
                text = f"where is the {colour} one in frame {name}"
                asked.append(Question("place", text, PLACES[CELLS * row + column]))
    return asked


def training_clips(
    rng,
    count,
    pool,
    frames,
    *,
    torus=1.0,
    travel=TRAVEL,
    speeds=(SPEED, SPEED),
    kinds=KINDS,
    warp=None,
):
    """Draw a batch of clips, and questions on each in random order.

    Parameters
    ----------
    rng : numpy.random.Generator
        Where it comes from.
    count : int
        B.
    pool : DigitPool
        Whose handwriting.
    frames : int
        F, 1 to 12 frames of each clip.
    torus : float, default 1
        Share of clips on the torus, 0 to 1. A model that has never seen the easier clips without
        wrapping learns directions late or never: begin with 0 and go on with more.
    travel, speeds
        As in `draw_positions`.
    kinds : sequence of str, default ("direction", "colour", "which_digit", "digit")
        What to ask; two questions of each kind, and two for each frame of ``"place"``. A model
        that is asked for places from the start learns where things are in all frames together,
        and directions late or never.
    warp : Affine, optional
        Warp each digit at random.

    Returns
    -------
    frames : array of shape (B, F, 24, 24, 3)
        In [0, 1], in float32.
    questions : list of list of Question
        For each clip.

    Raises
    ------
    ValueError
        If a number is out of range.
    """
    if count < 1:
        raise ValueError(f"a batch needs at least 1 clip, got {count}")
    _check_frames(frames)
    if not 0 <= torus <= 1:
        raise ValueError(f"torus is a share of clips, 0 to 1, got {torus}")
    known = (*KINDS, "place")
    if not kinds or not set(kinds) <= set(known):
        raise ValueError(f"kinds must be some of {', '.join(known)}, got {kinds}")
    source = draw_clips(rng)
    clips = [next(source) for _ in range(count)]
    on_torus = rng.random(count) < torus
    images, cells = render_clips(
        rng, clips, pool, frames, torus=on_torus, travel=travel, speeds=speeds, warp=warp
    )
    asked = []
    for clip, where in zip(clips, cells, strict=True):
        chosen = [question for question in questions(clip, where) if question.kind in kinds]
        asked.append([chosen[i] for i in rng.permutation(len(chosen))])
    return images, asked


def evaluation_clips(name, count, frames, *, held_out=False, seed=99):
    """Draw clips on the torus to measure a model on, the same for every model.

    Parameters
    ----------
    name : {"train", "val", "test"}
        Whose handwriting.
    count : int
        B.
    frames : int
        F, 1 to 12 frames of each clip.
    held_out : bool, default False
        Whether each clip shows a combination of colour and digit that is never trained on.
    seed : int, default 99
        Draws the clips.

    Returns
    -------
    ClipSet
        The same clips and starts for every number of frames: a longer set goes on where a
        shorter one stops. Guessing the direction along the known axis is right half of the time.

    Raises
    ------
    ValueError
        If there is no such split, or a number is out of range.
    """
    if count < 1:
        raise ValueError(f"an evaluation set needs at least 1 clip, got {count}")
    _check_frames(frames)
    rng = np.random.default_rng([seed, held_out])
    source = draw_clips(rng, held_out=held_out)
    clips = [next(source) for _ in range(count)]
    images, cells = render_clips(rng, clips, DigitPool(split(name)), frames)
    asked = [questions(clip, where) for clip, where in zip(clips, cells, strict=True)]
    return ClipSet(images, clips, asked)


def _check_frames(frames):
    if not 1 <= frames <= len(FRAME_NAMES):
        raise ValueError(f"frames must be 1 to {len(FRAME_NAMES)}, which have names; got {frames}")
