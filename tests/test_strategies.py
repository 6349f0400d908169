"""The strategies draw what layers are called with, and shrink to the plainest of it."""

import numpy as np
import pytest
from hypothesis import find, given
from hypothesis import strategies as st

from scratch_vlm.gradcheck.strategies import (
    interleavings,
    lengths,
    masks,
    numbers,
    seeds,
    sizes,
)

few = st.integers(1, 4)


@given(sizes(B=(1, 3), A=[1, 2, 4]))
def test_sizes_are_within_their_bounds(n):
    assert 1 <= n["B"] <= 3 and n["A"] in (1, 2, 4)


def test_sizes_shrink_to_the_smallest():
    assert find(sizes(B=(1, 3), A=[1, 2, 4]), lambda n: n["A"] > 1) == {"B": 1, "A": 2}
    assert find(seeds(), lambda seed: seed >= 10) == 10


@given(st.data(), few, few)
def test_numbers_have_the_shape_and_the_dtype(data, rows, columns):
    x = data.draw(numbers((rows, columns), dtype="float32"))
    assert x.shape == (rows, columns) and x.dtype == np.float32 and np.isfinite(x).all()


@given(st.data(), few, few, few, few)
def test_masks_are_boolean_and_of_their_shape(data, b, a, t, s):
    shape = data.draw(st.sampled_from([(t, s), (b, 1, t, s), (1, a, t, s), (b, a, t, s)]))
    mask = data.draw(masks(shape))
    assert mask.shape == shape and mask.dtype == bool and mask.flags.writeable


@pytest.mark.parametrize(
    "sort",
    [
        lambda mask: mask.all(),
        lambda mask: (mask[0, 0] == np.tri(4, 5, dtype=bool)).all(),
        lambda mask: not mask[0].any(-1).all() and mask[0].all(-1).any(),
        lambda mask: (mask == mask[:, :, :1]).all() and 0 < mask[1, 0, 0].sum() < 5,
    ],
    ids=["full", "causal", "empty rows beside full ones", "padded"],
)
def test_masks_of_every_sort_are_drawn(sort):
    assert find(masks((2, 3, 4, 5)), lambda mask: bool(sort(mask))) is not None


@given(st.data(), few, few)
def test_lengths_are_counts_of_real_places(data, b, most):
    n = data.draw(lengths(b, most))
    assert n.shape == (b,) and n.dtype.kind == "i" and (0 <= n).all() and (n <= most).all()


@given(st.data(), few, st.integers(0, 9), few)
def test_media_take_whole_spans(data, b, width, span):
    at = data.draw(interleavings(b, width, span=span))
    assert at.shape == (b, width) and at.dtype == bool
    for row in at:
        edges = np.flatnonzero(np.diff(np.r_[0, row, 0]))
        assert ((edges[1::2] - edges[::2]) % span == 0).all()


def test_an_interleaving_shrinks_to_one_medium():
    at = find(interleavings(2, 6, span=2), lambda at: at.any())
    assert at.sum() == 2


def test_interleavings_have_text_between_media():
    assert find(interleavings(1, 6), lambda at: at[0].tolist()[:3] == [True, False, True]).any()
