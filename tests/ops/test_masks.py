"""Masks by small examples."""

import numpy as np
import pytest

from scratch_vlm.ops.masks import causal_mask, padding_mask


def test_causal_and_padding_masks_combine_by_and():
    both = causal_mask(3) & padding_mask(np.array([2, 0]), 3)
    assert both.shape == (2, 1, 3, 3)
    assert both[0, 0].astype(int).tolist() == [[1, 0, 0], [1, 1, 0], [1, 1, 0]]
    assert not both[1].any()


@pytest.mark.parametrize("lengths", [[1, 4], [-1, 2]])
def test_lengths_out_of_range_are_refused(lengths):
    with pytest.raises(ValueError, match=r"from 0 to 3, got \[-?1, [24]\]"):
        padding_mask(np.array(lengths), 3)


def test_lengths_that_are_not_integers_are_refused():
    with pytest.raises(TypeError, match="integers, got dtype float64"):
        padding_mask(np.array([1.0, 2.0]), 3)
    with pytest.raises(TypeError, match="got list"):
        padding_mask([1, 2], 3)


@pytest.mark.parametrize("shape", [(), (2, 1)])
def test_lengths_of_other_than_one_axis_are_refused(shape):
    with pytest.raises(ValueError, match="one for each sequence"):
        padding_mask(np.ones(shape, int), 3)
