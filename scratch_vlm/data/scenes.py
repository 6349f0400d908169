"""Scenes of coloured, really handwritten digits, and the captions that describe them.

A scene is 24 x 24 pixels, a grid of 3 x 3 cells, with one or two digits in it: "red seven", or
"red seven above blue three". A caption names the digits in reading order, so each scene has one
caption and each caption one meaning. Eight of the forty pairs of colour and digit are held out:
no training scene shows them, though their colours and digits are all known from others.
"""

from functools import cache
from itertools import product
from typing import NamedTuple

import numpy as np

from scratch_vlm.data.augment import affine
from scratch_vlm.data.digits import split
from scratch_vlm.data.tokens import Vocabulary

CELLS, CELL = 3, 8  # cells a side, pixels a side of a cell
SIZE = CELLS * CELL
COLOURS = {
    "red": (1.0, 0.15, 0.15),
    "green": (0.15, 1.0, 0.15),
    "blue": (0.25, 0.35, 1.0),
    "yellow": (1.0, 1.0, 0.1),
}
COLOUR_NAMES = tuple(COLOURS)
DIGIT_NAMES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
RELATIONS = ("left", "above")
VOCABULARY = Vocabulary(RELATIONS + COLOUR_NAMES + DIGIT_NAMES)
TOKENS = 7  # of the longest caption: begin, five words, end
CANDIDATES = 8  # captions to choose from in the zero-shot task
HELD_OUT = frozenset((c, (3 * c + 5 * k + 1) % 10) for c in range(len(COLOURS)) for k in range(2))


class Item(NamedTuple):
    """A coloured digit.

    Attributes
    ----------
    colour, digit : int
        Places in ``COLOUR_NAMES`` and ``DIGIT_NAMES``.
    """

    colour: int
    digit: int

    def __str__(self):
        return f"{COLOUR_NAMES[self.colour]} {DIGIT_NAMES[self.digit]}"


class Scene(NamedTuple):
    """What is to be seen, but not where exactly or in whose handwriting.

    Attributes
    ----------
    items : tuple of Item
        One, or two that differ in both colour and digit; in reading order.
    relation : str or None
        Where the first stands from the second, ``"left"`` or ``"above"``.
    """

    items: tuple[Item, ...]
    relation: str | None = None

    @property
    def caption(self):
        """The sentence that describes it, such as ``"red seven above blue three"``."""
        if self.relation is None:
            return str(self.items[0])
        return f"{self.items[0]} {self.relation} {self.items[1]}"

    @property
    def held_out(self):
        """Whether it shows a combination that is never trained on."""
        return any(item in HELD_OUT for item in self.items)


class SceneSet(NamedTuple):
    """Scenes to measure a model on.

    Attributes
    ----------
    images : array of shape (B, 24, 24, 3)
        In [0, 1].
    scenes : list of Scene
        What they show.
    candidates : list of list of str
        Eight captions for each, the right one first.
    """

    images: np.ndarray
    scenes: list
    candidates: list


class DigitPool:
    """Digits to paint scenes with, found by their label.

    Parameters
    ----------
    digits : Digits
        One split; every label must occur.
    """

    def __init__(self, digits):
        self.digits = digits
        self._order = np.argsort(digits.labels, kind="stable")
        self._counts = np.bincount(digits.labels, minlength=10)
        if not self._counts.all():
            raise ValueError(f"a pool needs every digit; it has {self._counts.tolist()} of each")
        self._starts = np.cumsum(self._counts) - self._counts

    def draw(self, rng, labels):
        """Draw an image for each label, (B,) -> (B, 8, 8)."""
        place = (rng.random(len(labels)) * self._counts[labels]).astype(int)
        return self.digits.images[self._order[self._starts[labels] + place]]


def draw_scenes(rng, *, held_out=False, items=2):
    """Draw scenes without end.

    Parameters
    ----------
    rng : numpy.random.Generator
        Where they come from.
    held_out : bool, default False
        Draw only scenes with a held-out combination in them, or only ones without.
    items : {1, 2}
        Digits in a scene.

    Yields
    ------
    Scene

    Raises
    ------
    ValueError
        If `items` is neither 1 nor 2.
    """
    if items not in (1, 2):
        raise ValueError(f"a scene shows 1 or 2 digits, got {items}")
    while True:
        # In blocks: one call of the generator for each number would cost more than the rest.
        colours = rng.integers(len(COLOURS), size=(256, 2)).tolist()
        digits = rng.integers(10, size=(256, 2)).tolist()
        relations = rng.integers(len(RELATIONS), size=256).tolist()
        for (c1, c2), (d1, d2), relation in zip(colours, digits, relations, strict=True):
            if items == 1:
                scene = Scene((Item(c1, d1),))
            elif c1 != c2 and d1 != d2:
                scene = Scene((Item(c1, d1), Item(c2, d2)), RELATIONS[relation])
            else:
                continue
            if scene.held_out == held_out:
                yield scene


def one_fact_changes(rng, scene):
    """List scenes that differ from one of two digits in a single fact.

    Parameters
    ----------
    rng : numpy.random.Generator
        Draws the new colours and digits.
    scene : Scene
        Of two digits.

    Returns
    -------
    list of Scene
        Digits exchanged; the other relation; colours exchanged; digits' places exchanged with
        colours kept; another colour; another first digit; another second digit. All differ.

    Raises
    ------
    ValueError
        If the scene has one digit.
    """
    if scene.relation is None:
        raise ValueError(f"{scene.caption!r} has one digit; a scene of two is needed")
    (a, b), relation = scene.items, scene.relation
    other = RELATIONS[1 - RELATIONS.index(relation)]
    colours = [c for c in range(len(COLOURS)) if c not in (a.colour, b.colour)]
    digits = [d for d in range(10) if d not in (a.digit, b.digit)]
    colour = colours[rng.integers(len(colours))]
    first, second = rng.choice(digits, 2, replace=False).tolist()
    return [
        Scene((b, a), relation),
        Scene((a, b), other),
        Scene((Item(b.colour, a.digit), Item(a.colour, b.digit)), relation),
        Scene((Item(a.colour, b.digit), Item(b.colour, a.digit)), relation),
        Scene((Item(colour, a.digit), b), relation),
        Scene((Item(a.colour, first), b), relation),
        Scene((a, Item(b.colour, second)), relation),
    ]


def training_scenes(rng, count, *, single=0.25, hard=0.8):
    """Draw different scenes for a batch, many of them hard to tell apart.

    Parameters
    ----------
    rng : numpy.random.Generator
        Where they come from.
    count : int
        B.
    single : float, default 0.25
        Chance to add a scene of one digit before each scene of two.
    hard : float, default 0.8
        Chance that a scene of two digits brings three others that are easily taken for it: by
        turns the same digits in all other arrangements, or scenes with one colour or digit
        changed. Without them colours and digits alone nearly solve the contrastive loss, and
        what stands left of what is learned late or never.

    Returns
    -------
    list of Scene
        Without a held-out combination, and without two of the same caption.

    Raises
    ------
    ValueError
        If there are not that many different scenes.
    """
    _check_count(count, held_out=False)
    pairs, singles = draw_scenes(rng), draw_scenes(rng, items=1)
    scenes = {}  # a dict keeps the order and refuses duplicates
    while len(scenes) < count:
        if rng.random() < single:
            scenes[next(singles)] = None
        scene = next(pairs)
        scenes[scene] = None
        if rng.random() < hard:
            if rng.random() < 0.5:
                similar = _other_arrangements(scene)
            else:
                changed = one_fact_changes(rng, scene)[2:]
                similar = [changed[i] for i in rng.permutation(len(changed))[:3]]
            scenes.update(dict.fromkeys(s for s in similar if not s.held_out))
    return list(scenes)[:count]


def _other_arrangements(scene):
    a, b = scene.items
    every = [Scene(items, relation) for items in ((a, b), (b, a)) for relation in RELATIONS]
    return [other for other in every if other != scene]


def render(rng, scenes, pool, warp=None):
    """Paint scenes.

    Parameters
    ----------
    rng : numpy.random.Generator
        Draws the handwriting and the places.
    scenes : sequence of Scene
        What to paint.
    pool : DigitPool
        Whose handwriting.
    warp : Affine, optional
        Warp each digit at random; for training.

    Returns
    -------
    images : array of shape (B, 24, 24, 3)
        In [0, 1], in float32, on black.
    cells : integer array of shape (B, 2, 2)
        Row and column of the cell of each item; -1 for an item that is not there.

    Raises
    ------
    ValueError
        If there are no scenes.
    """
    b = len(scenes)
    if not b:
        raise ValueError("there are no scenes to paint")
    cells = np.full((b, 2, 2), -1)
    line = rng.integers(CELLS, size=b)
    first, second = np.sort(rng.random((b, CELLS)).argsort(1)[:, :2], axis=1).T
    relation = np.array([RELATIONS.index(s.relation) if s.relation else -1 for s in scenes])
    for across, name in ((1, "left"), (0, "above")):
        chosen = relation == RELATIONS.index(name)
        cells[chosen, :, 1 - across] = line[chosen, None]
        cells[chosen, 0, across] = first[chosen]
        cells[chosen, 1, across] = second[chosen]
    alone = relation < 0
    cells[alone, 0] = rng.integers(CELLS, size=(alone.sum(), 2))

    where, which = np.nonzero(cells[:, :, 0] >= 0)
    items = [scenes[i].items[k] for i, k in zip(where, which, strict=True)]
    colours, digits = np.array(items).T
    ink = pool.draw(rng, digits)
    if warp:
        ink = affine(rng, ink, warp)
    tints = np.array(list(COLOURS.values()), np.float32)[colours]  # (items, 3)
    canvas = np.zeros((b, CELLS, CELLS, CELL, CELL, 3), np.float32)
    canvas[where, cells[where, which, 0], cells[where, which, 1]] = (
        ink[..., None] * tints[:, None, None]
    )
    return canvas.transpose(0, 1, 3, 2, 4, 5).reshape(b, SIZE, SIZE, 3), cells


def training_batch(rng, count, pool, warp=None):
    """Draw a batch of images and the captions that describe them.

    Parameters
    ----------
    rng : numpy.random.Generator
        Where it comes from.
    count : int
        B.
    pool : DigitPool
        Whose handwriting.
    warp : Affine, optional
        Warp each digit at random.

    Returns
    -------
    images : array of shape (B, 24, 24, 3)
        In [0, 1], in float32.
    ids : integer array of shape (B, 7)
        Tokens of the captions, see ``VOCABULARY``.
    """
    scenes = training_scenes(rng, count)
    images, _ = render(rng, scenes, pool, warp)
    return images, VOCABULARY.encode([scene.caption for scene in scenes], TOKENS)


def evaluation_set(name, count, *, held_out=False, seed=99):
    """Draw scenes of two digits to measure a model on, the same for every model.

    Parameters
    ----------
    name : {"train", "val", "test"}
        Whose handwriting.
    count : int
        B.
    held_out : bool, default False
        Whether each scene shows a combination that is never trained on.
    seed : int, default 99
        Draws the scenes.

    Returns
    -------
    SceneSet
        A caption of each scene is right and seven differ from it in one fact: guessing reaches
        1/8, and a reader that knows which words belong but not their order 1/4 (the right
        caption, and the three that only exchange its words). No two scenes have the same
        caption, so that retrieval has one right answer.

    Raises
    ------
    ValueError
        If there is no such split, or there are not that many different scenes.
    """
    _check_count(count, held_out=held_out)
    rng = np.random.default_rng([seed, held_out])
    source = draw_scenes(rng, held_out=held_out)
    scenes = {}  # a dict keeps the order and refuses duplicates
    while len(scenes) < count:
        scenes[next(source)] = None
    scenes = list(scenes)
    images, _ = render(rng, scenes, DigitPool(split(name)))
    candidates = [
        [choice.caption for choice in (scene, *one_fact_changes(rng, scene))] for scene in scenes
    ]
    return SceneSet(images, scenes, candidates)


def copied_captions(images, *, count=5000, seed=7):
    """Describe each image with the caption of the training scene nearest to it in pixels.

    Parameters
    ----------
    images : array of shape (B, 24, 24, 3)
        In [0, 1].
    count : int, default 5000
        Training scenes to copy from.
    seed : int, default 7
        Draws them.

    Returns
    -------
    list of str
        The simple baseline: what a memory without understanding would say.
    """
    rng = np.random.default_rng(seed)
    source = draw_scenes(rng)
    scenes = [next(source) for _ in range(count)]
    known, _ = render(rng, scenes, DigitPool(split("train")))
    known, images = known.reshape(count, -1), images.reshape(len(images), -1)
    nearest = ((known * known).sum(1) - 2 * (images @ known.T)).argmin(1)
    return [scenes[i].caption for i in nearest]


def choose_by_words(said, candidates):
    """Choose the candidates that share most words, place by place, with what was said.

    Parameters
    ----------
    said : str
        A caption.
    candidates : sequence of str
        Captions to choose from.

    Returns
    -------
    array of shape (V,)
        A share for each candidate: 1 divided by the number of those that tie for the best.
    """
    words = said.split()
    shared = np.array(
        [sum(a == b for a, b in zip(words, c.split(), strict=False)) for c in candidates]
    )
    best = shared == shared.max()
    return best / best.sum()


def _check_count(count, held_out):
    most = _different_scenes(held_out)
    if not 1 <= count <= most:
        raise ValueError(f"asked for {count} different scenes; there are 1 to {most} of this kind")


@cache
def _different_scenes(held_out):  # of two digits
    items = [Item(c, d) for c in range(len(COLOURS)) for d in range(10)]
    return sum(
        Scene((a, b), relation).held_out == held_out
        for a, b, relation in product(items, items, RELATIONS)
        if a.colour != b.colour and a.digit != b.digit
    )
