"""Trees: names, the arena, freezing by rules."""

import copy
import pickle

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from scratch_vlm.tree import (
    ALIGN,
    FROZEN,
    arena,
    by_rule,
    first_bad,
    freeze,
    leaves,
    nbytes,
    tree_map,
    zeros_like,
)


def small_tree():
    return {
        "image": {"w": np.arange(6.0).reshape(2, 3), "b": np.ones(3)},
        "text": {"w": np.full((65,), 2.0)},
        "scale": np.array(5.0),
    }


shapes = st.lists(st.integers(1, 4), max_size=3).map(tuple)
trees = st.recursive(
    shapes, lambda inner: st.dictionaries(st.sampled_from("abcd"), inner, min_size=1), max_leaves=8
).filter(lambda tree: isinstance(tree, dict))


def filled(shape_tree, rng):
    if isinstance(shape_tree, dict):
        return {k: filled(v, rng) for k, v in shape_tree.items()}
    return rng.standard_normal(shape_tree)


def test_leaves_come_in_the_order_of_the_tree_under_full_names():
    assert [name for name, _ in leaves(small_tree())] == ["image/w", "image/b", "text/w", "scale"]


def test_leaves_of_tuples_are_numbered_and_none_has_none():
    saved = {"a": (np.zeros(1), None, [np.ones(1)]), "b": {}}
    assert [name for name, _ in leaves(saved, "s")] == ["s/a/0", "s/a/2/0"]


def test_tree_map_walks_several_trees_at_once_and_keeps_frozen_branches():
    a = {"x": np.ones(2), "y": FROZEN}
    b = {"x": np.full(2, 3.0), "y": {"w": np.ones(1)}}
    total = tree_map(lambda u, v: u + v, a, b)
    assert total["x"].tolist() == [4, 4]
    assert total["y"] is FROZEN


def test_zeros_like_keeps_shapes_and_dtypes():
    g = zeros_like({"w": np.ones((2, 3), "float32")})
    assert g["w"].shape == (2, 3) and g["w"].dtype == np.float32 and not g["w"].any()


@given(trees, st.integers(0, 2**32 - 1))
def test_arena_is_the_same_tree_in_one_aligned_buffer(shape_tree, seed):
    tree = filled(shape_tree, np.random.default_rng(seed))
    flat, views = arena(tree)
    assert flat.size % ALIGN == 0
    start = flat.__array_interface__["data"][0]
    expected = 0
    for (name, x), (view_name, view) in zip(leaves(tree), leaves(views), strict=True):
        assert name == view_name
        assert np.array_equal(x, view) and x.shape == view.shape
        assert np.shares_memory(view, flat) and not np.shares_memory(view, x)
        assert (view.__array_interface__["data"][0] - start) == expected * flat.itemsize
        expected += -(-x.size // ALIGN) * ALIGN
    assert flat.size == expected
    total = sum(abs(x).sum() for _, x in leaves(tree))
    assert np.isclose(abs(flat).sum(), total)  # the padding is zero


def test_writing_the_arena_writes_the_tree():
    flat, views = arena(small_tree())
    flat += 1
    assert views["scale"] == 6 and views["image"]["b"].tolist() == [2, 2, 2]


def test_arena_leaves_other_leaves_as_they_are():
    tree = small_tree()
    flat, views = arena(tree, names={"text/w"})
    assert flat.size == 2 * ALIGN
    assert views["image"]["w"] is tree["image"]["w"]
    assert np.shares_memory(views["text"]["w"], flat)


def test_arena_keeps_frozen_branches_frozen():
    _, views = arena({"a": np.ones(2), "b": FROZEN})
    assert views["b"] is FROZEN


def test_arena_refuses_mixed_dtypes_and_names_them():
    with pytest.raises(ValueError, match=r"\['float32', 'float64'\]"):
        arena({"a": np.ones(2), "b": np.ones(2, "float32")})


@pytest.mark.parametrize("tree", [{}, {"a": FROZEN}])
def test_arena_refuses_a_tree_with_nothing_to_place(tree):
    with pytest.raises(ValueError, match="every parameter frozen"):
        arena(tree)


def test_the_first_rule_that_matches_decides():
    values = by_rule(["a/w", "a/b", "c"], [("a/b", 1), ("a/.*", 2), (".*", 3)])
    assert values == {"a/w": 2, "a/b": 1, "c": 3}


def test_a_rule_must_match_the_whole_name():
    with pytest.raises(ValueError, match="no rule matches image/w"):
        by_rule(["image/w"], [("image", 1)])


def test_uncovered_parameters_are_named_and_counted():
    names = [f"layer{i}" for i in range(7)]
    with pytest.raises(ValueError, match=r"layer0.*layer4 and 2 more; end with a rule"):
        by_rule(names, [("other", 1)])


@pytest.mark.parametrize("rules", [[("a", 1), ("z", 2), (".*", 3)], [(".*", 3), ("z", 2)]])
def test_an_idle_rule_is_an_error(rules):
    with pytest.raises(ValueError, match="'z' decides about no parameter"):
        by_rule(["a", "b"], rules)


def test_a_rule_that_is_no_regular_expression_is_named():
    with pytest.raises(ValueError, match=r"'image\(' is not a regular expression"):
        by_rule(["image"], [("image(", 1)])


def test_freeze_cuts_whole_branches_and_single_leaves():
    g = freeze(zeros_like(small_tree()), [("image/.*", False), ("text/w", True), ("scale", False)])
    assert g["image"] is FROZEN and g["scale"] is FROZEN
    assert [name for name, _ in leaves(g)] == ["text/w"]


def test_a_tree_frozen_throughout_is_frozen_itself():
    assert freeze(zeros_like(small_tree()), [(".*", False)]) is FROZEN


def test_freeze_needs_rules_for_every_leaf():
    with pytest.raises(ValueError, match="no rule matches text/w, scale"):
        freeze(zeros_like(small_tree()), [("image/.*", False)])


def test_frozen_swallows_everything_and_stays_empty():
    g = FROZEN
    g["blocks"]["0"]["w"] += np.ones(3)
    g["scale"] += 1.0
    assert not g and len(FROZEN) == 0 and g["any"]["where"] is FROZEN
    assert repr(FROZEN) == "FROZEN"
    assert list(leaves({"a": FROZEN})) == []


def test_nbytes_counts_shared_memory_once():
    x = np.zeros((4, 8))
    assert nbytes({"a": x, "b": x[:2], "c": x.reshape(-1)[3:]}) == x.nbytes
    assert nbytes({"a": x, "b": x.copy()}) == 2 * x.nbytes
    assert nbytes((None, 3, "text")) == 0


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_first_bad_names_the_first_array_that_is_not_finite(bad):
    tree = small_tree()
    assert first_bad(tree) is None
    tree["text"]["w"][64] = bad
    tree["scale"][...] = np.nan
    assert first_bad(tree) == "text/w"
    assert first_bad(tree["text"], "g") == "g/w"


def test_first_bad_passes_over_what_holds_no_floats():
    assert first_bad({"ids": np.arange(3), "mask": np.ones(2, bool), "config": object()}) is None


def test_copies_of_a_tree_stay_frozen_where_it_was():
    g = freeze({"a": {"w": np.ones(2)}, "b": {"w": np.ones(2)}}, (("a/.*", False), (".*", True)))
    for other in (copy.deepcopy(g), copy.copy(g), pickle.loads(pickle.dumps(g))):
        assert other["a"] is FROZEN and [name for name, _ in leaves(other)] == ["b/w"]
