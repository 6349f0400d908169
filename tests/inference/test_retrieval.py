"""Ranks and recall, with ties and with models that say nothing."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from scratch_vlm.inference.retrieval import ranks, recall_at_k


def test_ranks_count_the_candidates_before_the_partner():
    similarity = np.array([[0.9, 0.1, 0.5], [0.8, 0.3, 0.5], [0.1, 0.9, 0.2]])
    assert ranks(similarity).tolist() == [0, 2, 1]
    assert recall_at_k(similarity, 1) == pytest.approx(1 / 3)
    assert recall_at_k(similarity, 2) == pytest.approx(2 / 3)


@given(st.integers(1, 8), st.integers(0, 2**32 - 1))
def test_recall_grows_with_k_up_to_one(n, seed):
    similarity = np.random.default_rng(seed).integers(0, 4, (n, n)) / 4
    recalls = [recall_at_k(similarity, k) for k in range(1, n + 1)]
    assert sorted(recalls) == recalls and recalls[-1] == 1
    assert recall_at_k(np.eye(n), 1) == 1


@pytest.mark.parametrize("score", [0.0, np.nan, np.inf])
def test_a_model_that_gives_everything_one_score_finds_nothing(score):
    similarity = np.full((5, 5), score)
    assert ranks(similarity).tolist() == [4] * 5
    assert recall_at_k(similarity, 4) == 0 and recall_at_k(similarity, 5) == 1


def test_a_tie_with_the_partner_counts_against_it():
    assert ranks(np.array([[0.5, 0.5], [0.1, 0.5]])).tolist() == [1, 0]


@pytest.mark.parametrize("k", [0, 4, -1])
def test_a_k_out_of_range_is_refused(k):
    with pytest.raises(ValueError, match=f"from 1 to 3, got {k}"):
        recall_at_k(np.eye(3), k)


@pytest.mark.parametrize("shape", [(2, 3), (3,)])
def test_a_matrix_that_is_not_square_is_refused(shape):
    with pytest.raises(ValueError, match="must be square"):
        recall_at_k(np.ones(shape), 1)


def test_a_list_is_no_matrix():
    with pytest.raises(TypeError, match="got list"):
        ranks([[1.0]])
    with pytest.raises(TypeError, match="got list"):
        recall_at_k([[1.0]], 1)
