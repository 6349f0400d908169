"""Episodes: images with their answers, and a last image whose question they explain.

Each image shows one coloured, really handwritten digit on a grid of 3 x 3 cells, and the question
about it is always the same. What it asks for is a rule that nobody states: the colour, the digit,
or the place. It holds for a whole episode, and the answers to the first images, the shots, give
it away; without any it can only be guessed.
"""

from typing import NamedTuple

import numpy as np

from scratch_vlm.data.chat import Turn
from scratch_vlm.data.clips import PLACES
from scratch_vlm.data.digits import split
from scratch_vlm.data.scenes import (
    CELLS,
    COLOUR_NAMES,
    DIGIT_NAMES,
    HELD_OUT,
    DigitPool,
    Item,
    Scene,
    render,
)

QUESTION = "what is"  # says nothing of what is asked for
ANSWERS = {"colour": COLOUR_NAMES, "digit": DIGIT_NAMES, "place": PLACES}  # no word in two of them
RULES = tuple(ANSWERS)
CHANCE = sum(1 / len(names) for names in ANSWERS.values()) / len(RULES)  # rule known, nothing seen
SCENES = tuple(  # what is trained on
    Scene((Item(c, d),))
    for c in range(len(COLOUR_NAMES))
    for d in range(len(DIGIT_NAMES))
    if (c, d) not in HELD_OUT
)


class EpisodeSet(NamedTuple):
    """Episodes to measure a model on.

    Attributes
    ----------
    images : array of shape (B, I, 24, 24, 3)
        In [0, 1]: the shots of each episode, and the image that is asked about.
    answers : array of str, of shape (B, I, 3)
        What is right about each image under each of ``RULES``.
    rules : integer array of shape (B,)
        Which rule holds in each episode.
    """

    images: np.ndarray
    answers: np.ndarray
    rules: np.ndarray

    def shortened(self, shots):
        """Keep the last shots of each episode, and the image that is asked about.

        Parameters
        ----------
        shots : int
            How many, from 0 to those that there are.

        Returns
        -------
        EpisodeSet

        Raises
        ------
        ValueError
            If there are not that many.
        """
        most = self.images.shape[1] - 1
        if not 0 <= shots <= most:
            raise ValueError(f"asked for {shots} shots; the episodes have 0 to {most}")
        kept = slice(most - shots, None)
        return EpisodeSet(self.images[:, kept], self.answers[:, kept], self.rules)


def training_episodes(rng, count, pool, shots, warp=None):
    """Draw a batch of episodes in which everything is answered.

    Parameters
    ----------
    rng : numpy.random.Generator
        Where it comes from.
    count : int
        B.
    pool : DigitPool
        Whose handwriting.
    shots : int
        Images before the last one of each episode. An answer is learned after each number of
        shots up to this one, as a model reads from left to right.
    warp : Affine, optional
        Warp each digit at random.

    Returns
    -------
    images : array of shape (B * I, 24, 24, 3)
        In [0, 1], in float32, in reading order; I is shots + 1. Without a held-out combination.
    chats : list of list of Turn
        I turns for each episode, each with one image.

    Raises
    ------
    ValueError
        If a number is out of range.
    """
    images, answers, rules = _draw(rng, count, pool, shots, warp)
    return images.reshape(-1, *images.shape[2:]), chats_under(answers, rules)


def evaluation_episodes(name, count, shots, *, seed=99):
    """Draw episodes to measure a model on, the same for every model.

    Parameters
    ----------
    name : {"train", "val", "test"}
        Whose handwriting.
    count : int
        B.
    shots : int
        Images before the one that is asked about. For fewer ones before the same images, see
        `EpisodeSet.shortened`.
    seed : int, default 99
        Draws the episodes.

    Returns
    -------
    EpisodeSet
        Without a held-out combination.

    Raises
    ------
    ValueError
        If there is no such split, or a number is out of range.
    """
    return EpisodeSet(*_draw(np.random.default_rng(seed), count, DigitPool(split(name)), shots))


def chats_under(answers, rules, *, asked=False):
    """Turn what is right into conversations under the rules.

    Parameters
    ----------
    answers : array of str, of shape (B, I, 3)
        What is right about each image under each of ``RULES``.
    rules : integer array of shape (B,)
        Which of them holds in each conversation.
    asked : bool, default False
        Leave the last question without its answer, for a model to give.

    Returns
    -------
    list of list of Turn
        I turns for each, each with one image.

    Examples
    --------
    >>> answers = np.array([[["red", "seven", "top-left"], ["blue", "six", "middle-centre"]]])
    >>> for turn in chats_under(answers, [2], asked=True)[0]:
    ...     print(turn.question, turn.answer)
    what is top-left
    what is None
    """
    chosen = answers[np.arange(len(answers)), :, rules].tolist()  # (B, I)
    chats = [[Turn(QUESTION, answer, media=1) for answer in every] for every in chosen]
    if asked:
        for chat in chats:
            chat[-1] = chat[-1]._replace(answer=None)
    return chats


def _draw(rng, count, pool, shots, warp=None):
    if count < 1 or shots < 0:
        raise ValueError(
            f"there must be at least 1 episode of at least 0 shots, got {count} of {shots}"
        )
    n = count * (shots + 1)
    scenes = [SCENES[i] for i in rng.integers(len(SCENES), size=n).tolist()]
    images, cells = render(rng, scenes, pool, warp)
    places = (cells[:, 0, 0] * CELLS + cells[:, 0, 1]).tolist()
    answers = np.array(
        [
            (COLOUR_NAMES[item.colour], DIGIT_NAMES[item.digit], PLACES[place])
            for ((item,), _), place in zip(scenes, places, strict=True)
        ]
    )
    together = (count, shots + 1)
    return (
        images.reshape(*together, *images.shape[1:]),
        answers.reshape(*together, len(RULES)),
        rng.integers(len(RULES), size=count),
    )
