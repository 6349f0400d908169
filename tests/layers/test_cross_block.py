"""The block in which latents read inputs: what they read, and what they do not."""

from dataclasses import replace

import numpy as np
import pytest

from scratch_vlm.cases import random_parameters
from scratch_vlm.layers.block import BlockConfig
from scratch_vlm.layers.perceiver import (
    cross_block_backward,
    cross_block_forward,
    cross_block_init,
)
from scratch_vlm.ops.attend import attention_weights
from scratch_vlm.tree import leaves, zeros_like

CONFIG = BlockConfig(8, 2, 12)
BESIDE = pytest.mark.parametrize("with_latents", [False, True])


def make(config=CONFIG, *, width=8, **options):
    rng = np.random.default_rng(0)
    p = random_parameters(rng, cross_block_init(rng, config, width, **options))
    return p, rng.standard_normal((2, 3, 8)), rng.standard_normal((2, 5, width))


@BESIDE
def test_the_order_of_the_inputs_does_not_matter(with_latents):
    p, x, z = make()
    order = np.random.default_rng(1).permutation(5)
    y, saved = cross_block_forward(x, z, p, config=CONFIG, with_latents=with_latents)
    again, saved_again = cross_block_forward(
        x, z[:, order], p, config=CONFIG, with_latents=with_latents
    )
    np.testing.assert_allclose(again, y, atol=1e-12)
    dy = np.random.default_rng(2).standard_normal(y.shape)
    _, dz = cross_block_backward(dy, saved, zeros_like(p))
    _, dagain = cross_block_backward(dy, saved_again, zeros_like(p))
    np.testing.assert_allclose(dagain, dz[:, order], atol=1e-12)


def test_permuting_latents_permutes_what_comes_out():
    p, x, z = make()
    for with_latents in (False, True):
        options = {"config": CONFIG, "with_latents": with_latents}
        y, _ = cross_block_forward(x, z, p, **options)
        again, _ = cross_block_forward(x[:, [2, 0, 1]], z, p, **options)
        np.testing.assert_allclose(again, y[:, [2, 0, 1]], atol=1e-12)


@BESIDE
def test_a_masked_input_changes_nothing_and_learns_nothing(with_latents):
    p, x, z = make()
    mask = np.ones((1, 1, 1, 5 + 3 * with_latents), bool)
    mask[..., [1, 4]] = False
    options = {"config": CONFIG, "mask": mask, "with_latents": with_latents}
    y, saved = cross_block_forward(x, z, p, **options)
    other = z.copy()
    other[:, [1, 4]] = 7 * np.random.default_rng(1).standard_normal((2, 2, 8))
    assert np.array_equal(cross_block_forward(x, other, p, **options)[0], y)
    _, dz = cross_block_backward(np.ones_like(y), saved, zeros_like(p))
    assert not dz[:, [1, 4]].any() and dz[:, [0, 2, 3]].all()


def test_a_latent_that_may_read_nothing_keeps_to_itself():
    p, x, z = make()
    p["attn"]["out"]["b"][...] = 0
    mask = np.zeros((2, 1, 1, 5), bool)
    mask[1] = True
    y, saved = cross_block_forward(x, z, p, config=CONFIG, mask=mask)
    alone, _ = cross_block_forward(x, 0 * z, p, config=CONFIG, mask=mask)
    assert np.isfinite(y).all() and np.array_equal(y[0], alone[0])
    g = zeros_like(p)
    dx, dz = cross_block_backward(np.ones_like(y), saved, g)
    assert not dz[0].any() and dx[0].any()
    assert all(np.isfinite(leaf).all() for _, leaf in leaves(g))


def test_without_the_residual_a_latent_is_only_a_question():
    p, x, z = make()
    p["attn"]["q"]["w"][...] = 0  # all ask alike
    y, _ = cross_block_forward(x, z, p, config=CONFIG, residual=False)
    np.testing.assert_allclose(y, y[:, :1].repeat(3, axis=1), atol=1e-12)
    y, _ = cross_block_forward(x, z, p, config=CONFIG)
    assert not np.allclose(y[:, 0], y[:, 1])


def test_latents_gain_from_all_three_paths():
    p, x, z = make()
    dy = np.random.default_rng(1).standard_normal(x.shape)

    def dx(changed, **options):
        _, saved = cross_block_forward(x, z, {**p, "attn": changed}, config=CONFIG, **options)
        return cross_block_backward(dy, saved, zeros_like({**p, "attn": changed}))[0]

    deaf = {**p["attn"], "q": {k: 0 * v for k, v in p["attn"]["q"].items()}}
    mute = {**p["attn"], "kv": {k: 0 * v for k, v in p["attn"]["kv"].items()}}
    inputs = np.arange(8) < 5
    hidden = {"with_latents": True, "mask": inputs[None, None, None]}
    residual = dx(mute)  # nothing can be read: past the attention alone
    as_query = dx(p["attn"]) - residual
    as_keys_and_values = dx(deaf, with_latents=True) - dx(deaf, **hidden)
    assert all(np.abs(path).max() > 1e-3 for path in (residual, as_query, as_keys_and_values))
    np.testing.assert_allclose(dx(p["attn"], **hidden), dx(p["attn"]), atol=1e-12)
    assert not np.allclose(dx(p["attn"], with_latents=True), dx(p["attn"]))


def test_inputs_and_heads_may_be_of_another_width():
    config = replace(CONFIG, heads=1)
    p, x, z = make(config, width=3, head_width=5)
    assert p["attn"]["kv"]["w"].shape == (3, 10) and p["attn"]["out"]["w"].shape == (5, 8)
    y, saved = cross_block_forward(x, z, p, config=config)
    assert y.shape == (2, 3, 8)
    weights = attention_weights(saved["attn"]["attend"])
    assert weights.shape == (2, 1, 3, 5)
    np.testing.assert_allclose(weights.sum(-1), 1)


def test_an_empty_batch_passes_through():
    p, x, z = make()
    y, saved = cross_block_forward(x[:0], z[:0], p, config=CONFIG, with_latents=True)
    dx, dz = cross_block_backward(y, saved, zeros_like(p))
    assert dx.shape == (0, 3, 8) and dz.shape == (0, 5, 8)


@pytest.mark.parametrize(
    ("x", "z", "with_latents", "message"),
    [
        ((3, 8), (2, 5, 8), False, r"one B; got \(3, 8\), \(2, 5, 8\)"),
        ((2, 3, 8), (1, 5, 8), False, r"one B; got \(2, 3, 8\), \(1, 5, 8\)"),
        ((2, 3, 8), (2, 5, 7), False, "x has 7 channels and gamma 8"),
        ((2, 3, 7), (2, 5, 8), False, "x has 7 channels and gamma 8"),
        ((2, 3, 8), (2, 5, 7), True, "must be as wide: 7 channels beside 8"),
        ((2, 3, 8), (2, 0, 8), False, "no tokens to attend to"),
    ],
)
def test_shapes_that_do_not_fit_are_refused(x, z, with_latents, message):
    p, _, _ = make()
    with pytest.raises(ValueError, match=message):
        cross_block_forward(np.ones(x), np.ones(z), p, config=CONFIG, with_latents=with_latents)


@pytest.mark.parametrize("change", [{"order": "post"}, {"rotary_base": 100.0}])
def test_norms_after_the_sums_and_rotary_positions_are_refused(change):
    config = replace(CONFIG, **change)
    p, x, z = make()
    with pytest.raises(ValueError, match="norms before the sublayers and without rotary"):
        cross_block_forward(x, z, p, config=config)
    with pytest.raises(ValueError, match="norms before the sublayers and without rotary"):
        cross_block_init(np.random.default_rng(0), config, 8)
