"""The strategies draw what layers take, and shrink; gradients are right for all that they draw."""

import numpy as np
import pytest
from hypothesis import find, given
from hypothesis import strategies as st

from scratch_vlm.gradcheck import check
from scratch_vlm.gradcheck.strategies import (
    interleavings,
    lengths,
    masks,
    numbers,
    seeds,
    sizes,
)
from scratch_vlm.layers.pool import mean_pool_backward, mean_pool_forward
from scratch_vlm.layers.resampler import time_embedding_backward, time_embedding_forward
from scratch_vlm.ops.attend import attend_backward, attend_forward
from scratch_vlm.ops.splice import splice_backward, splice_forward

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


@given(st.data(), sizes(B=(1, 2), A=(1, 2), T=(1, 4), S=(1, 5), K=(1, 3)), seeds())
def test_attention_is_right_under_any_mask(data, n, seed):
    rng = np.random.default_rng(seed)
    q, k, v = (
        rng.standard_normal((n["B"], n["A"], n[tokens], n["K"])) for tokens in ("T", "S", "S")
    )
    mask = data.draw(masks((n["B"], n["A"], n["T"], n["S"])))
    check(attend_forward, attend_backward, [q, k, v], options={"mask": mask}, rng=rng)


@given(st.data(), sizes(B=(1, 3), T=(1, 5), D=(1, 3)), seeds())
def test_a_mean_is_right_over_whatever_is_real(data, n, seed):
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((n["B"], n["T"], n["D"]))
    real = np.arange(n["T"]) < data.draw(lengths(n["B"], n["T"]))[:, None]
    check(mean_pool_forward, mean_pool_backward, [x], options={"mask": real}, rng=rng)


@given(st.data(), sizes(B=(1, 3), F=(1, 4), S=(1, 3), D=(1, 3), trained=(1, 6)), seeds())
def test_times_are_right_for_clips_of_any_length(data, n, seed):
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((n["B"], n["F"], n["S"], n["D"]))
    p = {"w": rng.standard_normal((n["trained"], n["D"]))}
    options = {"lengths": data.draw(lengths(n["B"], n["F"]))}
    check(time_embedding_forward, time_embedding_backward, [x], p, options=options, rng=rng)


@given(st.data(), sizes(B=(1, 3), T=(1, 6), D=(1, 3), span=(1, 3)), seeds())
def test_splicing_is_right_for_any_interleaving(data, n, seed):
    rng = np.random.default_rng(seed)
    at = data.draw(interleavings(n["B"], n["T"], span=n["span"]))
    x, visual = (rng.standard_normal((*k, n["D"])) for k in ((n["B"], n["T"]), (at.sum(),)))
    check(splice_forward, splice_backward, [x, visual], options={"at": at}, rng=rng)
