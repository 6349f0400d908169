"""The Perceiver: what it knows of its inputs, what its repeats share, and what it refuses."""

from dataclasses import replace

import numpy as np
import pytest

from scratch_vlm.cases import random_parameters
from scratch_vlm.layers.block import BlockConfig
from scratch_vlm.models.perceiver import (
    PerceiverConfig,
    perceiver_backward,
    perceiver_features_forward,
    perceiver_forward,
    perceiver_init,
)
from scratch_vlm.ops.fourier import fourier_positions
from scratch_vlm.tree import leaves, zeros_like

BLOCK = BlockConfig(8, 2, 12)
CONFIG = PerceiverConfig((3, 4), 2, 5, BLOCK, latents=3, depth=2, repeats=3, bands=2)
IO = replace(CONFIG, variant="io", decoder="query")
KINDS = pytest.mark.parametrize("config", [CONFIG, IO], ids=["original", "io"])


def make(config=CONFIG, *, batch=3, places=12):
    rng = np.random.default_rng(0)
    p = random_parameters(rng, perceiver_init(rng, config))
    return p, rng.standard_normal((batch, places, config.channels))


def with_positions(inputs, config):
    table = fourier_positions(config.shape, config.bands)
    return np.concatenate([inputs, np.broadcast_to(table, (len(inputs), *table.shape))], axis=2)


def carrying(config):
    """Return the same model for inputs that carry their positions."""
    return replace(config, channels=config.input_width, bands=None)


class NoDice:
    """In place of a generator: zeros cost no time."""

    def standard_normal(self, shape):
        return np.zeros(shape, "float32")


@pytest.mark.parametrize(
    ("options", "published"),
    [
        ({"crosses": 2}, 44.9e6),
        ({"variant": "io", "decoder": "query"}, 48.4e6),
    ],
)
def test_the_published_imagenet_models_have_as_many_parameters(options, published):
    config = PerceiverConfig(
        (224, 224),
        3,
        1000,
        BlockConfig(1024, 8, 1024),
        latents=512,
        depth=6,
        repeats=8,
        bands=64,
        cross_head_width=261,
        **options,
    )
    assert config.input_width == 261
    count = sum(x.size for _, x in leaves(perceiver_init(NoDice(), config)))
    assert abs(count - published) < 0.05e6


@KINDS
def test_positions_beside_the_inputs_are_the_same_as_those_of_the_model(config):
    p, inputs = make(config)
    y, _ = perceiver_forward(inputs, p, config=config)
    carried = with_positions(inputs, config)
    again, _ = perceiver_forward(carried, p, config=carrying(config))
    assert np.array_equal(again, y)


@KINDS
def test_permuting_inputs_together_with_their_positions_changes_nothing(config):
    p, inputs = make(config)
    order = np.random.default_rng(1).permutation(12)
    carried = with_positions(inputs, config)
    y, saved = perceiver_forward(inputs, p, config=config)
    again, saved_again = perceiver_forward(carried[:, order], p, config=carrying(config))
    np.testing.assert_allclose(again, y, atol=1e-12)
    dy = np.random.default_rng(2).standard_normal(y.shape)
    g, gagain = zeros_like(p), zeros_like(p)
    dx = perceiver_backward(dy, saved, g)
    dagain = perceiver_backward(dy, saved_again, gagain)
    np.testing.assert_allclose(dagain[..., :2], dx[:, order], atol=1e-12)
    for (name, a), (_, b) in zip(leaves(g), leaves(gagain), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-12, err_msg=name)


@KINDS
def test_permuting_inputs_without_their_positions_is_seen(config):
    p, inputs = make(config)
    order = np.random.default_rng(1).permutation(12)
    y, _ = perceiver_forward(inputs, p, config=config)
    again, _ = perceiver_forward(inputs[:, order], p, config=config)
    assert not np.allclose(again, y, atol=1e-3)


def test_without_positions_inputs_are_a_set_of_any_size():
    config = replace(CONFIG, bands=None)
    p, inputs = make(config, places=30)
    y, _ = perceiver_forward(inputs, p, config=config)
    again, _ = perceiver_forward(inputs[:, ::-1], p, config=config)
    np.testing.assert_allclose(again, y, atol=1e-12)


def branch(tree, name):
    return dict(leaves(tree[name]))


@pytest.mark.parametrize(
    ("variant", "crosses", "towers"), [("original", 1, 1), ("original", 2, 1), ("io", 1, 1)]
)
def test_shared_weights_gain_the_sum_over_their_repeats(variant, crosses, towers):
    config = replace(CONFIG, variant=variant, crosses=crosses, towers=towers)
    p, inputs = make(config)
    apart = replace(config, crosses=config.reads, towers=3)
    copies = {
        **p,
        "crosses": {str(i): p["crosses"][config.cross_name(i)] for i in range(config.reads)},
        "towers": {str(i): p["towers"][config.tower_name(i)] for i in range(3)},
    }
    y, saved = perceiver_forward(inputs, p, config=config)
    same, saved_apart = perceiver_forward(inputs, copies, config=apart)
    assert np.array_equal(same, y)
    dy = np.random.default_rng(1).standard_normal(y.shape)
    g, g_apart = zeros_like(p), zeros_like(copies)
    dx = perceiver_backward(dy, saved, g)
    np.testing.assert_allclose(perceiver_backward(dy, saved_apart, g_apart), dx, atol=1e-12)
    for kind, name_of, runs in (
        ("crosses", config.cross_name, config.reads),
        ("towers", config.tower_name, 3),
    ):
        for name in g[kind]:
            users = [str(i) for i in range(runs) if name_of(i) == name]
            parts = [branch(g_apart[kind], user) for user in users]
            for leaf, total in branch(g[kind], name).items():
                np.testing.assert_allclose(total, sum(part[leaf] for part in parts), atol=1e-12)
                assert np.abs(parts[0][leaf]).max() > 0


def test_the_first_cross_attention_can_be_kept_apart_and_so_can_the_first_tower():
    names = [replace(CONFIG, crosses=c, towers=c) for c in (1, 2, 3)]
    assert [[c.cross_name(i) for i in range(3)] for c in names] == [
        ["0", "0", "0"],
        ["0", "1", "1"],
        ["0", "1", "2"],
    ]
    assert [c.tower_name(2) for c in names] == ["0", "1", "2"]
    p, _ = make(names[1])
    assert list(p["crosses"]) == list(p["towers"]) == ["0", "1"]


def test_the_original_reads_in_every_repeat_and_io_once():
    for config, reads in ((CONFIG, [True] * 3), (IO, [True, False, False])):
        p, inputs = make(config)
        _, saved = perceiver_features_forward(inputs, p, config=config)
        assert ["cross" in repeat for repeat in saved["repeats"].values()] == reads


@KINDS
def test_masked_inputs_change_nothing_and_learn_nothing(config):
    p, inputs = make(config)
    real = np.random.default_rng(1).random((3, 12)) < 0.5
    y, saved = perceiver_forward(inputs, p, config=config, real=real)
    other = np.where(real[..., None], inputs, 9.0)
    assert np.array_equal(perceiver_forward(other, p, config=config, real=real)[0], y)
    dx = perceiver_backward(np.ones_like(y), saved, zeros_like(p))
    assert not dx[~real].any() and dx[real].all()


@KINDS
def test_padding_and_the_other_samples_change_nothing(config):
    config = carrying(config)
    p, inputs = make(config)
    lengths = [12, 5, 1]
    real = np.arange(12) < np.array(lengths)[:, None]
    y, _ = perceiver_forward(inputs, p, config=config, real=real)
    for i, length in enumerate(lengths):
        alone, _ = perceiver_forward(inputs[i : i + 1, :length], p, config=config)
        np.testing.assert_allclose(alone[0], y[i], atol=1e-12)


@KINDS
def test_a_sample_without_real_inputs_gives_what_its_latents_lead_to(config):
    p, inputs = make(config)
    real = np.zeros((3, 12), bool)
    real[1] = True
    y, saved = perceiver_forward(inputs, p, config=config, real=real)
    assert np.isfinite(y).all() and not np.allclose(y[0], y[1])
    np.testing.assert_allclose(y[0], y[2], atol=1e-12)
    g = zeros_like(p)
    dx = perceiver_backward(np.ones_like(y), saved, g)
    assert not dx[[0, 2]].any() and dx[1].any()
    assert all(np.isfinite(leaf).all() for _, leaf in leaves(g))


def test_another_resolution_is_seen_through_the_waves_of_the_trained_one():
    config = replace(CONFIG, shape=(3, 3))
    p, _ = make(config)
    fine = np.zeros((1, 5, 5, 2))
    fine[:, ::2, ::2] = np.random.default_rng(1).standard_normal((1, 3, 3, 2))
    real = np.zeros((1, 5, 5), bool)
    real[:, ::2, ::2] = True  # the places that the coarse image has, too
    y, _ = perceiver_forward(fine[:, ::2, ::2].reshape(1, 9, 2), p, config=config)
    again, _ = perceiver_forward(
        fine.reshape(1, 25, 2), p, config=config, shape=(5, 5), real=real.reshape(1, 25)
    )
    np.testing.assert_allclose(again, y, atol=1e-12)


@pytest.mark.parametrize("shape", [(7,), (2, 3, 4)])
def test_inputs_may_have_one_axis_or_three(shape):
    config = replace(CONFIG, shape=shape)
    p, inputs = make(config, places=int(np.prod(shape)))
    assert config.input_width == 2 + 5 * len(shape)
    assert perceiver_forward(inputs, p, config=config)[0].shape == (3, 5)


@KINDS
def test_without_outputs_the_decoded_vector_comes_out(config):
    config = replace(config, outputs=0)
    p, inputs = make(config)
    assert "head" not in p and perceiver_forward(inputs, p, config=config)[0].shape == (3, 8)


def test_an_empty_batch_passes_through():
    p, inputs = make()
    y, saved = perceiver_forward(inputs[:0], p, config=CONFIG)
    assert y.shape == (0, 5)
    assert perceiver_backward(y, saved, zeros_like(p)).shape == (0, 12, 2)


@pytest.mark.parametrize(
    ("shape", "options", "message"),
    [
        ((3, 12, 3), {}, r"must be \(B, N, 2\).*got \(3, 12, 3\)"),
        ((3, 3, 4, 2), {}, r"got \(3, 3, 4, 2\); .* images.reshape\(len\(images\), -1, 2\)"),
        ((3, 0, 2), {}, r"N at least 1, got \(3, 0, 2\)"),
        ((3, 11, 2), {}, r"11 inputs are not one for each place of \(3, 4\), 12; .* shape="),
        ((3, 12, 2), {"shape": (3, 5)}, r"12 inputs are not one for each place of \(3, 5\), 15"),
        ((3, 12, 2), {"shape": (12,)}, r"trained \(3, 4\) must have as many axes as shape \(12,\)"),
        ((3, 12, 2), {"real": np.ones((3, 11), bool)}, r"real \(3, 11\) .* input, \(3, 12\)"),
    ],
)
def test_inputs_that_do_not_fit_are_refused(shape, options, message):
    p, _ = make()
    with pytest.raises(ValueError, match=message):
        perceiver_forward(np.ones(shape), p, config=CONFIG, **options)


def test_bytes_and_masks_of_numbers_are_refused():
    p, inputs = make()
    with pytest.raises(TypeError, match="inputs must be floating point, got uint8"):
        perceiver_forward(np.ones((3, 12, 2), np.uint8), p, config=CONFIG)
    with pytest.raises(TypeError, match=r"real must be boolean.*got dtype float64"):
        perceiver_forward(inputs, p, config=CONFIG, real=np.ones((3, 12)))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"latents": 4}, r"latents \(4, 8\); .* hold \(3, 8\)"),
        ({"depth": 3}, r"latent transformers \[3\]; .* hold \[2\]"),
        ({"towers": 2}, r"latent transformers \[2, 2\]; .* hold \[2\]"),
        ({"crosses": 3}, "cross-attentions 3; .* hold 1"),
    ],
)
def test_parameters_of_another_model_are_refused(change, message):
    p, inputs = make()
    with pytest.raises(ValueError, match=message):
        perceiver_forward(inputs, p, config=replace(CONFIG, **change))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"shape": ()}, r"shape must be the positive length of each axis.*got \(\)"),
        ({"shape": 8}, "shape must be the positive length of each axis.*got 8"),
        ({"shape": (3, 0)}, r"shape must be the positive length of each axis.*got \(3, 0\)"),
        ({"bands": -1}, "bands must be a whole number of at least 0, got -1"),
        ({"channels": 0}, "channels must be a positive whole number, got 0"),
        ({"outputs": -1}, "outputs must be a positive whole number, got -1"),
        ({"latents": 0}, "latents must be a positive whole number, got 0"),
        ({"repeats": 0}, "repeats must be a positive whole number, got 0"),
        ({"cross_head_width": 0}, "cross_head_width must be a positive whole number, got 0"),
        ({"cross_hidden": 0.5}, "cross_hidden must be a positive whole number, got 0.5"),
        ({"cross_heads": 3}, "width 8 must be a multiple of cross_heads 3"),
        ({"variant": "IO"}, "variant must be 'original' or 'io', got 'IO'"),
        ({"decoder": "cls"}, "decoder must be 'mean' or 'mean_first' or 'query', got"),
        ({"crosses": 4}, "4 cross-attentions are more than the 3 times that the 'original'"),
        ({"variant": "io", "crosses": 2}, "2 cross-attentions are more than the 1 times"),
        ({"towers": 4}, "4 latent transformers are more than the 3 repeats"),
        ({"block": replace(BLOCK, order="post")}, "norms before the sublayers"),
    ],
)
def test_a_config_refuses_bad_values_with_the_numbers(options, message):
    with pytest.raises(ValueError, match=message):
        replace(CONFIG, **options)
