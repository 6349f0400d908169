"""The KV cache, and attention through it."""

import numpy as np
import pytest

from scratch_vlm.layers.attention import (
    self_attention_backward,
    self_attention_forward,
    self_attention_init,
)
from scratch_vlm.layers.cache import KVCache
from scratch_vlm.ops.masks import causal_mask
from scratch_vlm.tree import tree_map, zeros_like

RNG = np.random.default_rng


@pytest.mark.parametrize("rotary_base", [None, 100.0])
@pytest.mark.parametrize("kv_heads", [1, 2, 4])
@pytest.mark.parametrize("pieces", [(5,), (1, 1, 1, 1, 1), (3, 2), (1, 4)])
def test_tokens_read_piece_by_piece_are_those_read_at_once(rotary_base, kv_heads, pieces):
    rng = RNG(0)
    options = {"heads": 4, "kv_heads": kv_heads, "rotary_base": rotary_base}
    p = self_attention_init(rng, 8, heads=4, kv_heads=kv_heads, head_width=6)
    p = tree_map(lambda x: rng.standard_normal(x.shape) / 2, p)
    x = rng.standard_normal((2, 5, 8))
    right, _ = self_attention_forward(x, p, mask=causal_mask(5), **options)
    cache, ys, start = KVCache(2, kv_heads, 5, 6, float), [], 0
    for count in pieces:
        mask = causal_mask(count, past=start)
        piece = x[:, start : start + count]
        ys.append(self_attention_forward(piece, p, mask=mask, cache=cache, **options)[0])
        start += count
    np.testing.assert_allclose(np.concatenate(ys, 1), right, atol=1e-12)


def test_nothing_that_was_written_moves():
    cache = KVCache(1, 2, 4, 3, float)
    k, v = RNG(1).standard_normal((2, 1, 2, 2, 3))
    first, _ = cache.extend(k, v)
    again, values = cache.extend(-k, -v)
    assert np.shares_memory(first, again) and np.shares_memory(again, cache.k)
    np.testing.assert_array_equal(again, np.concatenate([k, -k], 2))
    np.testing.assert_array_equal(values, np.concatenate([v, -v], 2))


def test_what_does_not_fit_is_refused_and_changes_nothing():
    cache = KVCache(1, 2, 4, 3)
    three = np.ones((1, 2, 3, 3), "float32")
    cache.extend(three, three)
    with pytest.raises(ValueError, match="holds 3 of 4 tokens; 3 more do not fit"):
        cache.extend(three, three)
    for wrong in (np.ones((2, 2, 1, 3)), np.ones((1, 1, 1, 3)), np.ones((1, 2, 3))):
        with pytest.raises(ValueError, match=r"the cache takes \(1, 2, T, 3\)"):
            cache.extend(wrong, wrong)
    assert cache.length == 3


def test_a_backward_through_a_cache_is_refused():
    p = self_attention_init(RNG(0), 8, heads=2)
    y, saved = self_attention_forward(np.ones((1, 2, 8)), p, heads=2, cache=KVCache(1, 2, 4, 4))
    assert saved == {}  # above all no T x S matrix
    with pytest.raises(ValueError, match="nothing goes backward through a KV cache"):
        self_attention_backward(y, saved, zeros_like(p))


def test_a_cache_without_room_is_refused():
    with pytest.raises(ValueError, match="length must be a positive whole number, got 0"):
        KVCache(1, 2, 0, 3)
