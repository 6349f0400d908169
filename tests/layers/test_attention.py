"""Multi-head attention written out, and cross-attention as the general case."""

import numpy as np
import pytest

from scratch_vlm.layers.attention import (
    cross_attention_backward,
    cross_attention_forward,
    cross_attention_init,
    self_attention_backward,
    self_attention_forward,
    self_attention_init,
)
from scratch_vlm.ops.attend import attention_weights
from scratch_vlm.ops.masks import causal_mask
from scratch_vlm.tree import tree_map, zeros_like

RNG = np.random.default_rng


def random_self(seed, width=8, **options):
    rng = RNG(seed)
    p = self_attention_init(rng, width, **options)
    return tree_map(lambda x: rng.standard_normal(x.shape) / 2, p), rng.standard_normal(
        (2, 5, width)
    )


def softmax(z):
    e = np.exp(z)
    return e / e.sum(-1, keepdims=True)


def test_one_head_is_the_formula_of_the_paper():
    p, x = random_self(0, heads=1)
    q, k, v = np.split(x @ p["qkv"]["w"] + p["qkv"]["b"], 3, -1)
    y = softmax(q @ k.swapaxes(1, 2) / np.sqrt(8)) @ v @ p["out"]["w"] + p["out"]["b"]
    np.testing.assert_allclose(self_attention_forward(x, p, heads=1)[0], y, rtol=1e-11)


def test_several_heads_are_one_headed_attentions_side_by_side():
    p, x = random_self(1, heads=4)
    q, k, v = np.split(x @ p["qkv"]["w"] + p["qkv"]["b"], 3, -1)
    heads = []
    for i in range(0, 8, 2):
        q_i, k_i, v_i = (part[..., i : i + 2] for part in (q, k, v))
        heads.append(softmax(q_i @ k_i.swapaxes(1, 2) / np.sqrt(2)) @ v_i)
    y = np.concatenate(heads, -1) @ p["out"]["w"] + p["out"]["b"]
    np.testing.assert_allclose(self_attention_forward(x, p, heads=4)[0], y, rtol=1e-10)


@pytest.mark.parametrize("kv_heads", [1, 2, 4])
@pytest.mark.parametrize("mask", [None, causal_mask(5)])
def test_cross_attention_to_oneself_is_self_attention(kv_heads, mask):
    options = {"heads": 4, "kv_heads": kv_heads, "mask": mask}
    p, x = random_self(2, heads=4, kv_heads=kv_heads)
    split = {
        "q": {"w": p["qkv"]["w"][:, :8], "b": p["qkv"]["b"][:8]},
        "kv": {"w": p["qkv"]["w"][:, 8:], "b": p["qkv"]["b"][8:]},
        "out": p["out"],
    }
    y, saved = self_attention_forward(x, p, **options)
    again, saved_cross = cross_attention_forward(x, x, split, **options)
    np.testing.assert_allclose(again, y, rtol=1e-12)
    dy = RNG(0).standard_normal(y.shape)
    g, g_cross = zeros_like(p), zeros_like(split)
    dx = self_attention_backward(dy, saved, g)
    np.testing.assert_allclose(
        sum(cross_attention_backward(dy, saved_cross, g_cross)), dx, atol=1e-12
    )
    for name in "wb":
        joined = np.concatenate([g_cross["q"][name], g_cross["kv"][name]], -1)
        np.testing.assert_allclose(joined, g["qkv"][name], atol=1e-12)


def test_without_a_mask_permuting_tokens_permutes_the_output():
    p, x = random_self(3, heads=2)
    order = RNG(0).permutation(5)
    y, _ = self_attention_forward(x, p, heads=2)
    np.testing.assert_allclose(
        self_attention_forward(x[:, order], p, heads=2)[0], y[:, order], atol=1e-12
    )


def test_a_token_that_may_read_nothing_gets_the_bias_alone():
    p, x = random_self(4, heads=2)
    mask = np.ones((5, 5), bool)
    mask[2] = False
    y, _ = self_attention_forward(x, p, heads=2, mask=mask)
    np.testing.assert_allclose(y[:, 2], np.stack([p["out"]["b"]] * 2))


def test_what_was_saved_holds_the_attention_map():
    p, x = random_self(5, heads=2)
    _, saved = self_attention_forward(x, p, heads=2)
    weights = attention_weights(saved["attend"])
    assert weights.shape == (2, 2, 5, 5)
    np.testing.assert_allclose(weights.sum(-1), 1)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"heads": 3}, "width 8 must be a multiple of heads 3"),
        ({"heads": 4, "kv_heads": 3}, "heads a multiple of kv_heads 3"),
        ({"heads": 0}, "heads must be a positive whole number, got 0"),
        ({"heads": 4, "kv_heads": 0}, "kv_heads must be a positive whole number, got 0"),
    ],
)
def test_heads_that_do_not_divide_are_refused_at_init_and_in_the_forward(options, message):
    p, x = random_self(0, heads=2)
    with pytest.raises(ValueError, match=message):
        self_attention_init(RNG(0), 8, **options)
    with pytest.raises(ValueError, match=message):
        self_attention_forward(x, p, **options)


def test_parameters_made_for_other_heads_are_refused():
    p, x = random_self(0, heads=4)
    with pytest.raises(ValueError, match=r"do not make up the columns of qkv, \(8, 24\)"):
        self_attention_forward(x, p, heads=4, kv_heads=2)
    cross = cross_attention_init(RNG(0), 8, 6, heads=4)
    with pytest.raises(ValueError, match=r"do not make up the columns of kv, \(6, 16\)"):
        cross_attention_forward(x, np.ones((2, 3, 6)), cross, heads=4, kv_heads=2)


def test_tokens_of_other_than_three_axes_are_refused():
    p, x = random_self(0, heads=2)
    with pytest.raises(ValueError, match=r"\(B, T, D\), got \(5, 8\)"):
        self_attention_forward(x[0], p, heads=2)


@pytest.mark.parametrize("shape", [(3, 4, 6), (4, 6)])
def test_answers_of_another_batch_are_refused(shape):
    cross = cross_attention_init(RNG(0), 8, 6, heads=2)
    with pytest.raises(ValueError, match=r"with the B of x; got x \(2, 5, 8\)"):
        cross_attention_forward(np.ones((2, 5, 8)), np.ones(shape), cross, heads=2)


def random_cross(seed, **options):
    rng = RNG(seed)
    p = cross_attention_init(rng, 8, 6, **options)
    p = tree_map(lambda x: rng.standard_normal(x.shape) / 2, p)
    return p, rng.standard_normal((2, 5, 8)), rng.standard_normal((2, 3, 6))


def test_queries_and_keys_are_normalised_head_by_head_and_values_are_not():
    p, x, z = random_cross(0, heads=4, kv_heads=2, qk_norm="rms")

    def normalised(heads, gamma):
        return gamma * heads / np.sqrt((heads**2).mean(-1, keepdims=True) + 0.1)

    q = x @ p["q"]["w"] + p["q"]["b"]  # four heads of two channels
    k, v = np.split(z @ p["kv"]["w"] + p["kv"]["b"], 2, -1)  # two heads each
    heads = []
    for i in range(4):
        shared = slice(i // 2 * 2, i // 2 * 2 + 2)
        q_i = normalised(q[..., 2 * i : 2 * i + 2], p["q_norm"]["gamma"])
        k_i = normalised(k[..., shared], p["k_norm"]["gamma"])
        heads.append(softmax(q_i @ k_i.swapaxes(1, 2) / np.sqrt(2)) @ v[..., shared])
    y = np.concatenate(heads, -1) @ p["out"]["w"] + p["out"]["b"]
    again, _ = cross_attention_forward(x, z, p, heads=4, kv_heads=2, eps=0.1)
    np.testing.assert_allclose(again, y, rtol=1e-10)


@pytest.mark.parametrize("scaled", ["q", "k"])
def test_normalised_scores_do_not_grow_with_the_weights(scaled):
    p, x, z = random_cross(1, heads=2, qk_norm="rms")
    y, _ = cross_attention_forward(x, z, p, heads=2, eps=0.0)
    larger = tree_map(np.copy, p)
    for part in larger["q" if scaled == "q" else "kv"].values():
        part[..., :8] *= 10  # the keys stand before the values
    again, _ = cross_attention_forward(x, z, larger, heads=2, eps=0.0)
    np.testing.assert_allclose(again, y, rtol=1e-11)
    plain = {name: p[name] for name in ("q", "kv", "out")}
    larger = {name: larger[name] for name in plain}
    unlike = (cross_attention_forward(x, z, q, heads=2)[0] for q in (plain, larger))
    assert not np.allclose(*unlike)


@pytest.mark.parametrize("qk_norm", [None, "rms", "layer"])
def test_kept_keys_and_values_stand_for_the_tokens_that_answer(qk_norm):
    p, x, z = random_cross(2, heads=4, kv_heads=2, qk_norm=qk_norm)
    options = {"heads": 4, "kv_heads": 2}
    y, _ = cross_attention_forward(x, z, p, **options)
    kept = {}
    first, saved = cross_attention_forward(x[:, :2], z, p, **options, kept=kept)
    later, saved_later = cross_attention_forward(x[:, 2:], None, p, **options, kept=kept)
    np.testing.assert_allclose(np.concatenate([first, later], 1), y, rtol=1e-12)
    assert {name: part.shape for name, part in kept.items()} == {
        "k": (2, 2, 3, 2),
        "v": (2, 2, 3, 2),
    }
    for saved_by_one in (saved, saved_later):
        assert saved_by_one == {"kept": True}  # above all no T x S matrix
        with pytest.raises(ValueError, match="nothing goes backward through kept"):
            cross_attention_backward(y, saved_by_one, zeros_like(p))


def test_without_kept_keys_there_must_be_tokens_that_answer():
    p, x, _ = random_cross(3, heads=2)
    with pytest.raises(ValueError, match="None only where its keys and values were kept"):
        cross_attention_forward(x, None, p, heads=2)


def test_kept_keys_of_another_batch_are_refused():
    p, x, z = random_cross(4, heads=2)
    kept = {}
    cross_attention_forward(x, z, p, heads=2, kept=kept)
    with pytest.raises(ValueError, match="must agree in batch"):
        cross_attention_forward(x[:1], None, p, heads=2, kept=kept)


def test_an_empty_batch_passes_through():
    p, x = random_self(0, heads=2)
    y, saved = self_attention_forward(x[:0], p, heads=2)
    assert self_attention_backward(y, saved, zeros_like(p)).shape == (0, 5, 8)
