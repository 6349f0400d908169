"""Hypothesis strategies for what layers take: sizes, seeds, masks, lengths, interleavings.

Shapes and small patterns are drawn by Hypothesis, which shrinks them; numbers are drawn by NumPy
from a seed, which is faster and needs no shrinking. The first choice of every strategy is the
smallest or plainest, so that a failure ends there. Needs Hypothesis: ``pip install hypothesis``.
"""

import numpy as np
from hypothesis import strategies as st


def seeds():
    """Draw a seed of a generator.

    Returns
    -------
    strategy of int
    """
    return st.integers(0, 2**32 - 1)


def sizes(**bounds):
    """Draw a length for each axis.

    Parameters
    ----------
    **bounds : (int, int) or list of int
        By the letter of the axis, the least and the most; or a list of all that fit.

    Returns
    -------
    strategy of dict of str to int

    Examples
    --------
    >>> from hypothesis import find
    >>> find(sizes(B=(1, 3), A=[1, 2, 4]), lambda n: n["A"] > 1)
    {'B': 1, 'A': 2}
    """

    def lengths_of(bound):
        return st.sampled_from(bound) if isinstance(bound, list) else st.integers(*bound)

    return st.fixed_dictionaries({axis: lengths_of(bound) for axis, bound in bounds.items()})


@st.composite
def numbers(draw, shape, *, scale=(0.5, 2.0), dtype="float64"):
    """Draw an array of normal random numbers.

    Parameters
    ----------
    shape : tuple of int
    scale : (float, float), default (0.5, 2.0)
        Least and most standard deviation.
    dtype : dtype, default float64

    Returns
    -------
    strategy of array
    """
    rng = np.random.default_rng(draw(seeds()))
    return (draw(st.floats(*scale)) * rng.standard_normal(shape)).astype(dtype)


@st.composite
def masks(draw, shape):
    """Draw a mask, True where a token may attend.

    Parameters
    ----------
    shape : tuple of int
        (..., T, S), its leading axes perhaps 1.

    Returns
    -------
    strategy of boolean array
        Full, causal, padded at the end, or with rows of all three sorts: some that see nothing,
        some that see all, and some in between.
    """
    kind = draw(st.sampled_from(("full", "causal", "padded", "mixed")))
    if kind == "full":
        return np.ones(shape, bool)
    if kind == "causal":
        return np.broadcast_to(np.tri(*shape[-2:], dtype=bool), shape).copy()
    if kind == "padded":
        ends = draw(lengths(shape[0] if len(shape) > 2 else 1, shape[-1]))
        inside = np.arange(shape[-1]) < ends.reshape(-1, *[1] * (len(shape) - 1))
        return np.broadcast_to(inside.reshape(inside.shape[-len(shape) :]), shape).copy()
    rng = np.random.default_rng(draw(seeds()))
    share = rng.choice([0.0, 0.5, 1.0], size=(*shape[:-1], 1), p=[0.25, 0.5, 0.25])
    return rng.random(shape) < share


def lengths(count, most, *, least=0):
    """Draw how many of the places of each sample are real.

    Parameters
    ----------
    count : int
        B, samples.
    most : int
        Places there are.
    least : int, default 0
        Fewest real ones: with 0 a sample may be nothing but padding.

    Returns
    -------
    strategy of integer array of shape (B,)
    """
    each = st.integers(least, most)
    return st.lists(each, min_size=count, max_size=count).map(lambda n: np.array(n, int))


@st.composite
def interleavings(draw, batch, width, *, span=1):
    """Draw where in each text media stand.

    Parameters
    ----------
    batch, width : int
        B samples of T places.
    span : int, default 1
        Places that one medium takes, side by side.

    Returns
    -------
    strategy of boolean array of shape (B, T)
        True at the places of media. A sample may have none, several in a row, or nothing else.
    """
    at = np.zeros((batch, width), bool)
    for row in at:
        place = 0
        for text in draw(st.lists(st.integers(0, 3), max_size=width // span)):
            place += text
            if place + span > width:
                break
            row[place : place + span] = True
            place += span
    return at
