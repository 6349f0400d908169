"""Blocks and towers: order of the norms, causality, independence of samples."""

import numpy as np
import pytest

from scratch_vlm.cases import random_parameters
from scratch_vlm.layers.attention import self_attention_forward
from scratch_vlm.layers.block import (
    BlockConfig,
    block_init,
    check_blocks,
    post_block_forward,
    pre_block_forward,
    tower_backward,
    tower_forward,
    tower_init,
)
from scratch_vlm.layers.mlp import mlp_forward
from scratch_vlm.layers.norm import layer_norm_forward
from scratch_vlm.ops.masks import causal_mask, padding_mask
from scratch_vlm.tree import leaves, zeros_like

ORDERS = pytest.mark.parametrize("order", ["pre", "post"])


def make(order="pre", depth=2, seed=0, **options):
    rng = np.random.default_rng(seed)
    config = BlockConfig(8, 2, 12, order=order, **options)
    p = random_parameters(rng, tower_init(rng, config, depth=depth))
    return config, p, rng.standard_normal((3, 5, 8))


def gradients(x, dy, p, config, **options):
    _, saved = tower_forward(x, p, config=config, **options)
    g = zeros_like(p)
    return tower_backward(dy, saved, g), [leaf for _, leaf in leaves(g)]


def test_both_orders_are_their_formulas():
    rng = np.random.default_rng(0)
    config = BlockConfig(8, 2, 12)
    p, x = random_parameters(rng, block_init(rng, config)), rng.standard_normal((2, 4, 8))

    def attention(h):
        return self_attention_forward(h, p["attn"], heads=2)[0]

    def think(h):
        return mlp_forward(h, p["mlp"])[0]

    def norm(name, h):
        return layer_norm_forward(h, p[name])[0]

    h = x + attention(norm("ln1", x))
    pre = h + think(norm("ln2", h))
    h = norm("ln1", x + attention(x))
    post = norm("ln2", h + think(h))
    np.testing.assert_allclose(pre_block_forward(x, p, config=config)[0], pre, rtol=1e-12)
    np.testing.assert_allclose(post_block_forward(x, p, config=config)[0], post, rtol=1e-12)
    assert abs(pre - post).max() > 0.1


def test_post_norm_leaves_every_token_normalised_and_pre_norm_does_not():
    for order, normalised in (("pre", False), ("post", True)):
        rng = np.random.default_rng(0)
        config = BlockConfig(8, 2, 12, order=order)
        y, _ = tower_forward(
            5 * rng.standard_normal((2, 4, 8)), tower_init(rng, config, depth=2), config=config
        )
        assert np.allclose(y.var(-1), 1, atol=1e-3) == normalised


@ORDERS
def test_in_a_causal_tower_the_future_changes_nothing_before_it(order):
    config, p, x = make(order)
    mask = causal_mask(5)
    changed = x.copy()
    changed[:, 3:] += np.random.default_rng(1).standard_normal((3, 2, 8))
    y, _ = tower_forward(x, p, config=config, mask=mask)
    y2, _ = tower_forward(changed, p, config=config, mask=mask)
    assert np.array_equal(y[:, :3], y2[:, :3]) and not np.allclose(y[:, 3:], y2[:, 3:])


@ORDERS
def test_in_a_causal_tower_no_gradient_flows_to_the_future(order):
    config, p, x = make(order)
    dy = np.random.default_rng(1).standard_normal(x.shape)
    dy[:, 3:] = 0
    dx, g = gradients(x, dy, p, config, mask=causal_mask(5))
    assert not dx[:, 3:].any() and dx[:, :3].all()
    _, g_short = gradients(x[:, :3], dy[:, :3], p, config, mask=causal_mask(3))
    for long, short in zip(g, g_short, strict=True):
        np.testing.assert_allclose(long, short, atol=1e-11)


@ORDERS
def test_a_padded_sequence_is_the_sequence(order):
    config, p, x = make(order)
    lengths = np.array([2, 5, 3])
    mask = padding_mask(lengths, 5)
    dy = np.random.default_rng(1).standard_normal(x.shape)
    for i, n in enumerate(lengths):
        dy[i, n:] = 0
    y, _ = tower_forward(x, p, config=config, mask=mask)
    dx, g = gradients(x, dy, p, config, mask=mask)
    total = [0] * len(g)
    for i, n in enumerate(lengths):
        alone, _ = tower_forward(x[i : i + 1, :n], p, config=config)
        np.testing.assert_allclose(y[i, :n], alone[0], atol=1e-12)
        dx_alone, g_alone = gradients(x[i : i + 1, :n], dy[i : i + 1, :n], p, config)
        np.testing.assert_allclose(dx[i, :n], dx_alone[0], atol=1e-11)
        assert not dx[i, n:].any()
        total = [a + b for a, b in zip(total, g_alone, strict=True)]
    for padded, right in zip(g, total, strict=True):
        np.testing.assert_allclose(padded, right, atol=1e-11)


@ORDERS
def test_other_samples_of_the_batch_change_nothing(order):
    config, p, x = make(order)
    y, _ = tower_forward(x, p, config=config)
    for i in range(3):
        np.testing.assert_allclose(
            tower_forward(x[i : i + 1], p, config=config)[0][0], y[i], atol=1e-12
        )


def test_blocks_run_in_the_order_of_their_numbers_whatever_that_of_the_dict():
    config, p, x = make(depth=12)
    by_letters = {name: p[name] for name in sorted(p)}
    assert list(by_letters)[:3] == ["0", "1", "10"]
    y, _ = tower_forward(x, p, config=config)
    assert np.array_equal(tower_forward(x, by_letters, config=config)[0], y)


def test_what_a_block_adds_starts_smaller_in_deep_towers():
    shallow, deep = (
        block_init(np.random.default_rng(0), BlockConfig(64, 4, 256), depth=depth)
        for depth in (1, 16)
    )
    for layer, name in (("attn", "out"), ("mlp", "proj")):
        ratio = shallow[layer][name]["w"].std() / deep[layer][name]["w"].std()
        assert ratio == pytest.approx(4, rel=1e-4)
    assert np.array_equal(shallow["mlp"]["fc"]["w"], deep["mlp"]["fc"]["w"])


def test_dropout_acts_only_with_a_generator():
    config, p, x = make(dropout=0.5)
    y, _ = tower_forward(x, p, config=config)
    calm = BlockConfig(8, 2, 12)
    assert np.array_equal(y, tower_forward(x, p, config=calm)[0])
    noisy, _ = tower_forward(x, p, config=config, rng=np.random.default_rng(0))
    assert not np.allclose(noisy, y)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"width": 9}, "width 9 must be a multiple of heads 2"),
        ({"kv_heads": 3}, "heads a multiple of kv_heads 3"),
        ({"kv_heads": 0}, "kv_heads must be a positive whole number, got 0"),
        ({"heads": 0}, "heads must be a positive whole number, got 0"),
        ({"width": -8}, "width must be a positive whole number, got -8"),
        ({"width": 8.0}, r"width must be a positive whole number, got 8\.0"),
        ({"hidden": "12"}, "hidden must be a positive whole number, got '12'"),
        ({"order": "mid"}, "'pre' or 'post', got 'mid'"),
        ({"norm": "batch"}, "one of layer, rms, got 'batch'"),
        ({"mlp": "elu"}, "unknown activation 'elu'.*or of a gated MLP: swiglu"),
        ({"dropout": 1.0}, r"below 1, got 1\.0"),
        ({"dropout": -0.5}, r"at least 0 and below 1, got -0\.5"),
        ({"eps": -1e-5}, "eps must be at least 0, got -1e-05"),
        ({"eps": float("nan")}, "eps must be at least 0, got nan"),
    ],
)
def test_a_config_refuses_bad_values_with_the_numbers(options, message):
    with pytest.raises(ValueError, match=message):
        BlockConfig(**{"width": 8, "heads": 2, "hidden": 12, **options})


def test_a_config_refuses_unknown_keys():
    with pytest.raises(TypeError, match="droput"):
        BlockConfig(8, 2, 12, droput=0.1)


def test_a_mask_that_does_not_fit_is_refused():
    config, p, x = make()
    with pytest.raises(ValueError, match=r"does not broadcast.*\(3, 2, 5, 5\)"):
        tower_forward(x, p, config=config, mask=np.ones((3, 5), bool))


def test_blocks_of_other_names_are_refused():
    with pytest.raises(ValueError, match="the parameters lack blocks/1; they hold blocks"):
        check_blocks({"blocks": {"0": {}, "2": {}}}, 2)
    with pytest.raises(TypeError, match="must be a dict of arrays and dicts, got list"):
        check_blocks([], 2)
