"""Embeddings and positions: look-ups, and ids or places that are not there."""

import numpy as np
import pytest

from scratch_vlm.layers.embedding import (
    embedding_backward,
    embedding_forward,
    embedding_init,
    grid_positions_forward,
    grid_positions_init,
    positions_forward,
)


def table(rows=4, width=3):
    return embedding_init(np.random.default_rng(0), rows, width)


def test_an_embedding_is_a_product_with_one_hot_vectors():
    p, ids = table(), np.array([[0, 3], [3, 1]])
    np.testing.assert_allclose(embedding_forward(ids, p)[0], np.eye(4)[ids] @ p["w"])


def test_a_vector_that_was_not_read_gets_no_gradient():
    _, saved = embedding_forward(np.array([1, 1]), table())
    g = {"w": np.zeros((4, 3))}
    embedding_backward(np.ones((2, 3)), saved, g)
    assert g["w"][:, 0].tolist() == [0, 2, 0, 0]


@pytest.mark.parametrize("wrong", [4, 99, -1])
def test_an_id_outside_the_table_is_refused(wrong):
    with pytest.raises(ValueError, match=f"token id {wrong} is none of the 4, which are 0 to 3"):
        embedding_forward(np.array([0, wrong]), table())


@pytest.mark.parametrize("ids", [np.array([0.0, 1.0]), np.array([True])])
def test_ids_that_are_not_integers_are_refused(ids):
    with pytest.raises(TypeError, match=f"token ids must be integers, got dtype {ids.dtype}"):
        embedding_forward(ids, table())


def test_a_list_of_ids_is_refused():
    with pytest.raises(TypeError, match="got list"):
        embedding_forward([0, 1], table())


def test_no_ids_are_no_vectors():
    y, saved = embedding_forward(np.zeros((0, 5), int), table())
    assert y.shape == (0, 5, 3)
    g = {"w": np.zeros((4, 3))}
    embedding_backward(y, saved, g)
    assert not g["w"].any()


def test_positions_are_added_to_every_sample_and_shorter_texts_take_the_first():
    p = table()
    y, _ = positions_forward(np.zeros((2, 3, 3)), p)
    np.testing.assert_allclose(y, np.stack([p["w"][:3]] * 2))


def test_more_tokens_than_places_are_refused():
    with pytest.raises(ValueError, match="5 tokens do not fit the 4 places"):
        positions_forward(np.ones((2, 5, 3)), table())


@pytest.mark.parametrize("shape", [(2, 4, 5), (2, 4, 1), (4, 3)])
def test_tokens_of_another_width_are_refused_and_not_broadcast(shape):
    with pytest.raises(ValueError, match=r"x must be \(B, T, 3\).*got"):
        positions_forward(np.ones(shape), table())
    p = grid_positions_init(np.random.default_rng(0), (2, 2), 3)
    with pytest.raises(ValueError, match=r"x must be \(B, T, 3\).*got"):
        grid_positions_forward(np.ones(shape), p, grid=(2, 2), trained=(2, 2))


def test_axial_positions_are_sums_of_a_row_and_a_column():
    p = grid_positions_init(np.random.default_rng(0), (2, 3), 4, extra=1, axial=True)
    y, _ = grid_positions_forward(np.zeros((1, 7, 4)), p, grid=(2, 3), trained=(2, 3))
    np.testing.assert_allclose(y[0, 0], p["extra"][0])
    np.testing.assert_allclose(y[0, 1 + 3 * 1 + 2], p["rows"][1] + p["columns"][2])


@pytest.mark.parametrize("axial", [False, True])
def test_another_number_of_tokens_than_places_is_refused(axial):
    p = grid_positions_init(np.random.default_rng(0), (2, 2), 3, axial=axial)
    with pytest.raises(ValueError, match=r"5 tokens do not fit 4 places on the grid \(2, 2\)"):
        grid_positions_forward(np.ones((1, 5, 3)), p, grid=(2, 2), trained=(2, 2))
