"""Pairs made from pairs compute the same function."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from scratch_vlm.layers.block import BlockConfig, tower_backward, tower_forward, tower_init
from scratch_vlm.recompute import add_trees, chunked, forward_only, plain, recomputed
from scratch_vlm.tree import FROZEN, leaves, nbytes, zeros_like

CONFIG = BlockConfig(4, 2, 6)


def tower(seed, batch):
    rng = np.random.default_rng(seed)
    p = tower_init(rng, CONFIG, depth=2)
    return p, rng.standard_normal((batch, 3, 4)), rng.standard_normal((batch, 3, 4))


def run(pair, p, x, dy, **options):
    forward, backward = pair
    y, saved = forward(x, p, config=options.pop("config", CONFIG), **options)
    g = zeros_like(p)
    dx = backward(dy, saved, g)
    return [y, dx, *(leaf for _, leaf in leaves(g))]


@given(
    st.integers(0, 2**32 - 1),
    st.integers(1, 7),
    st.integers(1, 9),
    st.sampled_from([1, 2, 3]),
    st.booleans(),
)
def test_chunked_is_the_plain_pair(seed, batch, size, threads, recompute):
    p, x, dy = tower(seed, batch)
    pair = chunked(tower_forward, tower_backward, size=size, threads=threads, recompute=recompute)
    for ours, right in zip(
        run(pair, p, x, dy), run((tower_forward, tower_backward), p, x, dy), strict=True
    ):
        np.testing.assert_allclose(ours, right, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_chunked_is_the_same_to_the_bit_from_run_to_run(threads):
    p, x, dy = tower(0, 7)
    pair = chunked(tower_forward, tower_backward, size=2, threads=threads)
    for first, second in zip(run(pair, p, x, dy), run(pair, p, x, dy), strict=True):
        assert np.array_equal(first, second)


@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize("threads", [1, 2])
def test_chunked_dropout_depends_on_the_generator_alone(threads, recompute):
    p, x, dy = tower(0, 5)
    config = BlockConfig(4, 2, 6, dropout=0.4)

    def go(seed, threads=threads, recompute=recompute):
        pair = chunked(tower_forward, tower_backward, size=2, threads=threads, recompute=recompute)
        return run(pair, p, x, dy, config=config, rng=np.random.default_rng(seed))

    for a, b in zip(go(1), go(1, threads=1, recompute=False), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)
    assert not np.allclose(go(1)[0], go(2)[0])


def test_pieces_of_a_chunked_pair_draw_different_dropout():
    p, x, dy = tower(0, 2)
    x[1] = x[0]
    config = BlockConfig(4, 2, 6, dropout=0.5)
    y = run(
        chunked(tower_forward, tower_backward, size=1),
        *(p, x, dy),
        config=config,
        rng=np.random.default_rng(0),
    )[0]
    assert not np.allclose(y[0], y[1])


def test_recomputed_dropout_is_drawn_alike_and_moves_the_generator_on():
    p, x, dy = tower(0, 3)
    config = BlockConfig(4, 2, 6, dropout=0.5)
    rngs = [np.random.default_rng(3) for _ in range(2)]
    pairs = [(tower_forward, tower_backward), recomputed(tower_forward, tower_backward)]
    for _ in range(2):  # a second step draws other dropout, again alike
        plainly, again = (
            run(pair, p, x, dy, config=config, rng=rng)
            for pair, rng in zip(pairs, rngs, strict=True)
        )
        for a, b in zip(plainly, again, strict=True):
            assert np.array_equal(a, b)


def test_recomputation_saves_only_the_inputs():
    p, x, _ = tower(0, 16)
    _, saved = tower_forward(x, p, config=CONFIG)
    _, less = recomputed(tower_forward, tower_backward)[0](x, p, config=CONFIG)
    assert nbytes(less) == x.nbytes + nbytes(p) < nbytes(saved) / 5


def test_an_empty_batch_passes_through_chunked():
    p, x, dy = tower(0, 0)
    y, dx, *g = run(chunked(tower_forward, tower_backward, size=4, threads=2), p, x, dy)
    assert y.shape == dx.shape == (0, 3, 4)
    assert not any(leaf.any() for leaf in g)


@pytest.mark.parametrize("bad", [{"size": 0}, {"size": 4, "threads": 0}, {"size": -1}])
def test_sizes_below_one_are_refused(bad):
    with pytest.raises(ValueError, match="at least 1; got"):
        chunked(tower_forward, tower_backward, **bad)


def test_plain_returns_the_same_functions():
    assert plain(tower_forward, tower_backward) == (tower_forward, tower_backward)


def test_add_trees_adds_in_place_and_leaves_frozen_alone():
    a = {"w": np.ones(2), "f": FROZEN}
    w = a["w"]
    add_trees(a, {"w": np.full(2, 2.0), "f": FROZEN})
    assert w.tolist() == [3, 3]
    add_trees(FROZEN, FROZEN)


@pytest.mark.parametrize("threads", [1, 2])
def test_forward_only_gives_the_same_and_keeps_nothing(threads):
    p, x, dy = tower(0, 5)
    forward, backward = chunked(tower_forward, tower_backward, size=2, threads=threads)
    y, saved = forward(x, p, config=CONFIG)
    with forward_only():
        y_only, nothing = forward(x, p, config=CONFIG)
    assert np.array_equal(y_only, y)
    assert nbytes(saved) > 0 == nbytes(nothing)
    with pytest.raises(ValueError, match=r"nothing goes backward through .* `forward_only`"):
        backward(dy, nothing, zeros_like(p))
    assert nbytes(forward(x, p, config=CONFIG)[1]) == nbytes(saved)  # it ends with its block


def test_forward_only_ends_with_an_error():
    p, x, _ = tower(0, 1)
    with pytest.raises(ValueError, match="four"), forward_only():
        raise ValueError("four")
    assert nbytes(tower_forward(x, p, config=CONFIG)[1]) > 0


def test_chunks_of_chunks_do_not_wait_for_each_other():
    p, x, dy = tower(0, 8)
    inner = chunked(tower_forward, tower_backward, size=1, threads=2)
    outer = chunked(*inner, size=4, threads=2)
    plain_results = run((tower_forward, tower_backward), p, x, dy)
    for ours, right in zip(run(outer, p, x, dy), plain_results, strict=True):
        np.testing.assert_allclose(ours, right, rtol=1e-5, atol=1e-5)
