"""The gated block: closed it changes nothing, and open it shows a text only what it may see."""

from dataclasses import replace

import numpy as np
import pytest

from scratch_vlm.cases import random_parameters
from scratch_vlm.layers.attention import cross_attention_forward
from scratch_vlm.layers.block import BlockConfig
from scratch_vlm.layers.gated import (
    GatedConfig,
    gated_block_backward,
    gated_block_forward,
    gated_block_init,
)
from scratch_vlm.layers.mlp import swiglu_forward
from scratch_vlm.layers.norm import rms_norm_forward
from scratch_vlm.ops.attend import attention_weights
from scratch_vlm.ops.masks import media_mask
from scratch_vlm.tree import FROZEN, leaves, zeros_like

RNG = np.random.default_rng
FLAMINGO = GatedConfig(BlockConfig(8, 2, 12, mlp="squared_relu", bias=False), 6)
BIASED = GatedConfig(BlockConfig(8, 2, 12), 6, head_width=3)
LLAMA = GatedConfig(
    BlockConfig(8, 4, 12, kv_heads=2, norm="rms", mlp="swiglu", bias=False),
    6,
    qk_norm=True,
    skip_blind=True,
)
KINDS = pytest.mark.parametrize("config", [FLAMINGO, BIASED, LLAMA])
WIDTHS = pytest.mark.parametrize("gate_width", ["one", "channel"])

AT = np.array([[0, 0, 1, 0, 1, 1, 0], [0, 0, 0, 0, 0, 0, 0]]) > 0  # three media, and none
VISUAL = 2  # tokens of a medium


def make(config, seed=0):
    rng = RNG(seed)
    p = random_parameters(rng, gated_block_init(rng, config))
    return p, rng.standard_normal((2, 7, 8)), rng.standard_normal((2, 3 * VISUAL, 6))


def sees(rule="last"):
    return media_mask(AT, 3, rule=rule).repeat(VISUAL, axis=2)[:, None]


def close(p):
    for name in ("attn_gate", "mlp_gate"):
        p[name][...] = 0


def test_the_gates_start_where_the_config_says():
    for gate in (0.0, 0.25):
        p = gated_block_init(RNG(0), replace(FLAMINGO, gate=gate))
        for name in ("attn_gate", "mlp_gate"):
            assert p[name].shape == () and p[name].dtype == np.float32
            np.testing.assert_allclose(np.tanh(p[name]), gate, rtol=1e-6)
    p = gated_block_init(RNG(0), replace(FLAMINGO, gate=0.25, gate_width="channel"))
    np.testing.assert_allclose(np.tanh(p["mlp_gate"]), np.full(8, 0.25), rtol=1e-6)
    assert not np.shares_memory(p["attn_gate"], p["mlp_gate"])


def test_the_parameters_are_those_of_the_published_blocks():
    assert [name for name, _ in leaves(gated_block_init(RNG(0), FLAMINGO))] == [
        *("ln1/gamma", "ln1/beta", "attn/q/w", "attn/kv/w", "attn/out/w", "attn_gate"),
        *("ln2/gamma", "ln2/beta", "mlp/fc/w", "mlp/proj/w", "mlp_gate"),
    ]
    shapes = {name: x.shape for name, x in leaves(gated_block_init(RNG(0), LLAMA))}
    assert shapes["attn/q_norm/gamma"] == shapes["attn/k_norm/gamma"] == (2,)
    assert shapes["attn/kv/w"] == (6, 2 * 2 * 2)


def test_the_block_is_its_two_gated_halves():
    config = replace(LLAMA, block=replace(LLAMA.block, eps=0.1), gate_width="channel")
    p, x, z = make(config)
    h = rms_norm_forward(x, p["ln1"], eps=0.1)[0]
    h = cross_attention_forward(h, z, p["attn"], heads=4, kv_heads=2, eps=0.1)[0]
    h = x + np.tanh(p["attn_gate"]) * h
    thought = swiglu_forward(rms_norm_forward(h, p["ln2"], eps=0.1)[0], p["mlp"])[0]
    y, _ = gated_block_forward(x, z, p, config=config)
    np.testing.assert_allclose(y, h + np.tanh(p["mlp_gate"]) * thought, rtol=1e-13)


@KINDS
@WIDTHS
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_closed_gates_leave_the_text_as_it_is_to_the_bit(config, gate_width, dtype):
    config = replace(config, gate_width=gate_width)
    p, x, z = make(config)
    close(p)
    y, _ = gated_block_forward(x.astype(dtype), z, p, config=config, mask=sees())
    assert np.array_equal(y, x.astype(dtype))


@KINDS
@WIDTHS
def test_behind_closed_gates_only_the_gates_learn(config, gate_width):
    config = replace(config, gate_width=gate_width)
    p, x, z = make(config)
    close(p)
    y, saved = gated_block_forward(x, z, p, config=config, mask=sees())
    dy, g = RNG(1).standard_normal(y.shape), zeros_like(p)
    dx, dz = gated_block_backward(dy, saved, g)
    assert np.array_equal(dx, dy) and not dz.any()
    for name, gradient in leaves(g):
        assert gradient.all() if name.endswith("_gate") else not gradient.any(), name
    # 1 - tanh(0)^2 is 1: what is left is how well dy agrees with what the gate holds back
    opened = {**p, "attn_gate": 0 * p["attn_gate"] + 1e-6}
    held = (gated_block_forward(x, z, opened, config=config, mask=sees())[0] - x) / 1e-6
    agreement = dy * held
    np.testing.assert_allclose(
        g["attn_gate"], agreement.sum((0, 1) if gate_width == "channel" else None), rtol=1e-6
    )


@pytest.mark.parametrize("rule", ["last", "run", "all"])
def test_tokens_that_see_nothing_skip_the_block_whatever_the_gates(rule):
    p, x, z = make(LLAMA)
    blind = ~sees(rule).any(-1)[:, 0]  # (B, T)
    assert blind[0].tolist() == [True, True, False, False, False, False, False] and blind[1].all()
    y, saved = gated_block_forward(x, z, p, config=LLAMA, mask=sees(rule))
    assert np.array_equal(y[blind], x[blind]) and (y[~blind] != x[~blind]).all()
    dy = RNG(1).standard_normal(y.shape)
    dx, dz = gated_block_backward(dy, saved, zeros_like(p))
    assert np.array_equal(dx[blind], dy[blind]) and not dz[1].any()


@pytest.mark.parametrize(
    "shape", [(1, 1), (7, 1), (1, 6), (1, 1, 7, 6), (2, 1, 1, 1), (2, 2, 7, 1)]
)
def test_a_mask_may_leave_axes_out(shape):
    config = replace(BIASED, skip_blind=True)
    p, x, z = make(config)
    mask = RNG(3).random(shape) < 0.4
    y, _ = gated_block_forward(x, z, p, config=config, mask=mask)
    full = np.broadcast_to(mask, (2, 2, 7, 6))
    again, _ = gated_block_forward(x, z, p, config=config, mask=full)
    np.testing.assert_allclose(y, again, rtol=1e-13)
    blind = ~full.any((1, 3))
    assert np.array_equal(y[blind], x[blind]) and (y[~blind] != x[~blind]).all()


def test_a_token_of_which_one_head_sees_is_not_blind():
    config = replace(BIASED, skip_blind=True)
    p, x, z = make(config)
    mask = np.zeros((1, 2, 7, 6), bool)
    mask[:, 1, 3] = True
    y, _ = gated_block_forward(x, z, p, config=config, mask=mask)
    changed = (y != x).any((0, 2))
    assert changed.tolist() == [False, False, False, True, False, False, False]


def test_without_the_skip_blind_tokens_still_think_but_read_exactly_nothing():
    p, x, z = make(BIASED)
    assert p["attn"]["out"]["b"].all()
    y, _ = gated_block_forward(x, z, p, config=BIASED, mask=sees())
    p["attn_gate"][...] = 0  # nobody reads
    thought, _ = gated_block_forward(x, z, p, config=BIASED, mask=sees())
    blind = ~sees().any(-1)[:, 0]
    assert np.array_equal(y[blind], thought[blind]) and (y[blind] != x[blind]).all()
    assert (y[~blind] != thought[~blind]).all()


@KINDS
@pytest.mark.parametrize("rule", ["last", "run", "all"])
@pytest.mark.parametrize("medium", range(3))
def test_a_medium_changes_only_the_tokens_that_may_see_it(config, rule, medium):
    p, x, z = make(config)
    part = slice(medium * VISUAL, (medium + 1) * VISUAL)
    may = media_mask(AT, 3, rule=rule)[..., medium]  # (B, T)
    assert may[0].any() and not may[1].any()
    y, saved = gated_block_forward(x, z, p, config=config, mask=sees(rule))
    other = z.copy()
    other[:, part] = RNG(2).standard_normal((2, VISUAL, 6))
    y2, saved2 = gated_block_forward(x, other, p, config=config, mask=sees(rule))
    assert np.array_equal(y2[~may], y[~may]) and (y2[may] != y[may]).any(-1).all()

    dy = RNG(1).standard_normal(y.shape)
    dx, dz = gated_block_backward(dy, saved, zeros_like(p))
    dx2, _ = gated_block_backward(dy, saved2, zeros_like(p))
    assert np.array_equal(dx2[~may], dx[~may])
    # And the other way: a loss on tokens that may not see it does not reach it.
    dz_unseen = gated_block_backward(dy * ~may[..., None], saved, zeros_like(p))[1]
    assert not dz_unseen[:, part].any() and dz[0, part].all()


def test_the_attention_map_can_be_read():
    p, x, z = make(LLAMA)
    _, saved = gated_block_forward(x, z, p, config=LLAMA, mask=sees())
    weights = attention_weights(saved["attn"]["attend"])
    assert weights.shape == (2, 4, 7, 6)
    np.testing.assert_allclose(weights.sum(-1), np.repeat(sees().any(-1), 4, axis=1))


@KINDS
def test_kept_keys_and_values_give_what_the_visual_tokens_give(config):
    p, x, z = make(config)
    y, _ = gated_block_forward(x, z, p, config=config, mask=sees())
    kept, steps = {}, []
    for t in range(7):  # one token after another, the visual tokens given with the first
        step, saved = gated_block_forward(
            x[:, t : t + 1],
            None if kept else z,
            p,
            config=config,
            mask=sees()[:, :, t : t + 1],
            kept=kept,
        )
        steps.append(step)
    np.testing.assert_allclose(np.concatenate(steps, 1), y, rtol=1e-12)
    with pytest.raises(ValueError, match=r"nothing goes backward through .* kept keys and values"):
        gated_block_backward(step, saved, zeros_like(p))


def test_frozen_gates_stay_and_the_rest_learns_as_before():
    p, x, z = make(FLAMINGO)
    y, saved = gated_block_forward(x, z, p, config=FLAMINGO, mask=sees())
    dy = RNG(1).standard_normal(y.shape)
    g, part = zeros_like(p), {**zeros_like(p), "attn_gate": FROZEN, "mlp_gate": FROZEN}
    dx, dz = gated_block_backward(dy, saved, g)
    dx2, dz2 = gated_block_backward(dy, saved, part)
    assert np.array_equal(dx, dx2) and np.array_equal(dz, dz2)
    assert part["attn_gate"] is FROZEN
    assert np.array_equal(g["attn"]["q"]["w"], part["attn"]["q"]["w"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"block": BlockConfig(8, 2, 12, order="post")}, "got order 'post'"),
        ({"block": BlockConfig(8, 2, 12, rotary_base=100.0)}, "rotary_base 100.0"),
        ({"source": 0}, "source must be a positive whole number, got 0"),
        ({"head_width": 0}, "head_width must be a positive whole number, got 0"),
        ({"gate": 1.0}, "gate must be at least 0 and below 1, a tanh; got 1.0"),
        ({"gate": -0.1}, "got -0.1"),
        ({"gate": float("nan")}, "got nan"),
        ({"gate_width": "head"}, "must be one of one, channel, got 'head'"),
    ],
)
def test_configs_that_make_no_block_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        replace(FLAMINGO, **options)


def test_a_dict_in_the_place_of_a_config_is_refused():
    with pytest.raises(TypeError, match="block must be a BlockConfig"):
        GatedConfig({"width": 8}, 6)
    p, x, z = make(FLAMINGO)
    with pytest.raises(TypeError, match="config must be a GatedConfig"):
        gated_block_forward(x, z, p, config=FLAMINGO.block)


def test_parameters_of_another_config_are_refused():
    p, x, z = make(FLAMINGO)
    with pytest.raises(ValueError, match=r"says qk_norm=True; .* hold q, kv, out"):
        gated_block_forward(x, z, p, config=replace(FLAMINGO, qk_norm=True))
    with pytest.raises(ValueError, match=r"attn_gate must be of shape \(8,\).*'channel'; got \(\)"):
        gated_block_forward(x, z, p, config=replace(FLAMINGO, gate_width="channel"))
    with pytest.raises(ValueError, match="lack mlp_gate"):
        gated_block_forward(x, z, {k: v for k, v in p.items() if k != "mlp_gate"}, config=FLAMINGO)
    with pytest.raises(ValueError, match="z may be None only where"):
        gated_block_forward(x, None, p, config=FLAMINGO, kept={})
