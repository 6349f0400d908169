"""1,797 real handwritten digits, bundled, and their split by the form they were written on."""

from dataclasses import dataclass
from functools import cache
from importlib import resources

import numpy as np

SPLITS = {"train": tuple(range(10)), "val": (10, 11), "test": (12, 13)}


@dataclass(frozen=True)
class Digits:
    """Handwritten digits.

    Attributes
    ----------
    images : array of shape (B, 8, 8)
        Ink from 0 to 1, in float32.
    labels : integer array of shape (B,)
        0 to 9.
    forms : integer array of shape (B,)
        0 to 13, the collection form that each was written on.
    """

    images: np.ndarray
    labels: np.ndarray
    forms: np.ndarray

    def __len__(self):
        return len(self.labels)

    def where(self, chosen):
        """Return the digits that a boolean or integer index chooses."""
        return Digits(self.images[chosen], self.labels[chosen], self.forms[chosen])


@cache
def load_digits():
    """Load all digits.

    Returns
    -------
    Digits
        1,797 of them, in the order in which they were collected; read-only.

    Notes
    -----
    Where they come from, and how the forms were told apart, stands in ``DIGITS.md`` beside this
    file.

    Examples
    --------
    >>> load_digits().images.shape
    (1797, 8, 8)
    """
    with (resources.files(__package__) / "digits.npz").open("rb") as file:
        stored = np.load(file, allow_pickle=False)
        images = stored["images"].astype(np.float32) / 16
        digits = Digits(images, stored["labels"].astype(int), stored["forms"].astype(int))
    for array in (digits.images, digits.labels, digits.forms):
        array.flags.writeable = False
    return digits


def split(name):
    """Return the digits of one split: no handwriting is in two of them.

    Parameters
    ----------
    name : {"train", "val", "test"}
        Forms 0 to 9, 10 and 11, or 12 and 13. Tune on ``"val"``; read ``"test"`` for results.

    Returns
    -------
    Digits

    Raises
    ------
    ValueError
        If there is no such split.

    Notes
    -----
    Each form was filled in by one person (13 wrote the 14, so one may have filled in two). A
    random split puts the same hand on both sides and flatters every method; the report of the
    demo measures by how much.

    Examples
    --------
    >>> [len(split(name)) for name in ("train", "val", "test")]
    [1287, 258, 252]
    """
    if name not in SPLITS:
        raise ValueError(f"unknown split {name!r}; choose one of {', '.join(SPLITS)}")
    digits = load_digits()
    return digits.where(np.isin(digits.forms, SPLITS[name]))


def nearest_neighbour(train, test):
    """Label each digit like the training digit nearest to it in pixels: the simple baseline.

    Parameters
    ----------
    train, test : Digits
        Labelled digits, and those to label.

    Returns
    -------
    integer array of shape (B,)
        A label for each digit of `test`.
    """
    a, b = (digits.images.reshape(len(digits), -1) for digits in (test, train))
    # |a - b|^2 without |a|^2, which is the same for all candidates of a row
    distance = (b * b).sum(1) - 2 * (a @ b.T)
    return train.labels[distance.argmin(1)]
