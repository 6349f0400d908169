"""The Resampler: a fixed number of tokens out of any number of frames, and what it can tell."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from scratch_vlm.cases import random_parameters
from scratch_vlm.layers.block import BlockConfig
from scratch_vlm.layers.resampler import (
    ResamplerConfig,
    resampler_backward,
    resampler_forward,
    resampler_init,
    time_embedding_backward,
    time_embedding_forward,
)
from scratch_vlm.ops.attend import attention_weights
from scratch_vlm.tree import leaves, tree_map, zeros_like

BLOCK = BlockConfig(8, 2, 12, mlp="squared_relu", bias=False)
CONFIG = ResamplerConfig(BLOCK, latents=5, depth=2, frames=4)
STRETCHES = pytest.mark.parametrize("stretch", ["longer", "always", "never"])


def make(config=CONFIG, *, batch=3, frames=4, tokens=3):
    rng = np.random.default_rng(0)
    p = random_parameters(rng, resampler_init(rng, config))
    return p, rng.standard_normal((batch, frames, tokens, config.block.width))


@given(st.integers(1, 3), st.integers(1, 12), st.integers(1, 6))
def test_exactly_r_tokens_come_out_whatever_comes_in(batch, frames, tokens):
    p, features = make(batch=batch, frames=frames, tokens=tokens)
    y, saved = resampler_forward(features, p, config=CONFIG)
    assert y.shape == (batch, 5, 8)
    assert resampler_backward(y, saved, zeros_like(p)).shape == features.shape


def test_by_default_64_tokens_come_out():
    config = ResamplerConfig(BLOCK, depth=1)
    p, features = make(config, frames=1)
    assert resampler_forward(features, p, config=config)[0].shape == (3, 64, 8)


def test_without_time_embeddings_frames_and_patches_are_one_set():
    config = replace(CONFIG, frames=0)
    p, features = make(config)
    assert "time" not in p
    order = np.random.default_rng(1).permutation(12)
    again = features.reshape(3, 12, 8)[:, order].reshape(features.shape)
    y, saved = resampler_forward(features, p, config=config)
    y_again, saved_again = resampler_forward(again, p, config=config)
    np.testing.assert_allclose(y_again, y, atol=1e-12)
    dy = np.random.default_rng(2).standard_normal(y.shape)
    dx = resampler_backward(dy, saved, zeros_like(p)).reshape(3, 12, 8)
    dagain = resampler_backward(dy, saved_again, zeros_like(p)).reshape(3, 12, 8)
    np.testing.assert_allclose(dagain, dx[:, order], atol=1e-12)


def test_with_time_embeddings_patches_inside_a_frame_are_a_set_and_frames_are_not():
    p, features = make()
    y, _ = resampler_forward(features, p, config=CONFIG)
    inside = features.copy()
    for frame, order in enumerate([[2, 0, 1], [0, 2, 1], [1, 0, 2], [2, 1, 0]]):
        inside[:, frame] = features[:, frame, order]
    np.testing.assert_allclose(resampler_forward(inside, p, config=CONFIG)[0], y, atol=1e-12)
    swapped, _ = resampler_forward(features[:, [1, 0, 2, 3]], p, config=CONFIG)
    assert not np.allclose(swapped, y, atol=1e-3)


@STRETCHES
def test_a_batch_of_clips_of_different_lengths_equals_one_by_one(stretch):
    frames = 4 if stretch == "never" else 7
    config = replace(CONFIG, stretch=stretch)
    p, features = make(config, batch=4, frames=frames)
    lengths = np.array([frames, 1, 3, 2])
    y, saved = resampler_forward(features, p, config=config, lengths=lengths)
    dy = np.random.default_rng(1).standard_normal(y.shape)
    g, one_by_one = zeros_like(p), zeros_like(p)
    dx = resampler_backward(dy, saved, g)
    for i, length in enumerate(lengths):
        alone, saved = resampler_forward(features[i : i + 1, :length], p, config=config)
        np.testing.assert_allclose(y[i], alone[0], atol=1e-12)
        dalone = resampler_backward(dy[i : i + 1], saved, one_by_one)
        np.testing.assert_allclose(dx[i, :length], dalone[0], atol=1e-12)
        assert not dx[i, length:].any()
    for (name, one), (_, other) in zip(leaves(g), leaves(one_by_one), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-12, err_msg=name)


def test_what_stands_in_padding_changes_nothing():
    p, features = make()
    lengths = np.array([4, 2, 0])
    y, _ = resampler_forward(features, p, config=CONFIG, lengths=lengths)
    features[1, 2:] = 1e3
    features[2] = -5
    assert np.array_equal(resampler_forward(features, p, config=CONFIG, lengths=lengths)[0], y)


def test_a_clip_without_frames_gives_what_the_latents_make_of_each_other():
    p, features = make()
    lengths = np.zeros(3, int)
    y, saved = resampler_forward(features, p, config=CONFIG, lengths=lengths)
    assert np.isfinite(y).all() and np.array_equal(y[0], y[1])
    weights = attention_weights(saved["blocks"]["0"]["attn"]["attend"])
    assert not weights[..., :12].any()
    np.testing.assert_allclose(weights[..., 12:].sum(-1), 1)
    g = zeros_like(p)
    dfeatures = resampler_backward(np.ones_like(y), saved, g)
    assert not dfeatures.any() and not g["time"]["w"].any()
    assert all(np.isfinite(leaf).all() for _, leaf in leaves(g)) and g["latents"].any()


def test_blocks_share_no_weights():
    p, features = make()
    assert list(p["blocks"]) == ["0", "1"]
    y, saved = resampler_forward(features, p, config=CONFIG)
    g = zeros_like(p)
    resampler_backward(np.random.default_rng(1).standard_normal(y.shape), saved, g)
    first, second = (dict(leaves(g["blocks"][name])) for name in "01")
    assert not any(np.allclose(first[name], second[name]) for name in first)


def test_every_block_reads_the_features_of_the_tower_not_of_the_block_before():
    p, features = make()
    _, saved = resampler_forward(features, p, config=CONFIG)
    first, second = (saved["blocks"][name]["ln_z"][0] for name in "01")
    assert np.array_equal(first, second)  # normalised alike, before gains of their own


@pytest.mark.parametrize("mlp", ["squared_relu", "gelu", "swiglu"])
def test_the_activation_is_a_choice(mlp):
    config = replace(CONFIG, block=replace(BLOCK, mlp=mlp))
    p, features = make(config)
    assert resampler_forward(features, p, config=config)[0].shape == (3, 5, 8)


def table(frames, **options):
    w = np.random.default_rng(0).standard_normal((8, 2))
    y, _ = time_embedding_forward(np.zeros((1, frames, 1, 2)), {"w": w}, **options)
    return w, y[0, :, 0]


@STRETCHES
def test_as_many_frames_as_trained_take_the_table_to_the_bit(stretch):
    w, y = table(8, stretch=stretch)
    assert np.array_equal(y, w)


@pytest.mark.parametrize("stretch", ["longer", "never"])
def test_fewer_frames_take_the_first_rows(stretch):
    w, y = table(3, stretch=stretch)
    assert np.array_equal(y, w[:3])


def test_fewer_frames_spread_over_all_rows_if_asked_to():
    w, y = table(4, stretch="always")
    np.testing.assert_allclose(y, (w[::2] + w[1::2]) / 2)


@pytest.mark.parametrize("stretch", ["longer", "always"])
def test_thirty_frames_lie_evenly_on_the_lines_between_eight(stretch):
    w, y = table(30, stretch=stretch)
    places = (np.arange(30) + 0.5) * 8 / 30 - 0.5
    for channel in range(2):
        np.testing.assert_allclose(y[:, channel], np.interp(places, np.arange(8), w[:, channel]))


def test_an_embedding_gains_from_all_patches_of_its_frame_and_all_clips():
    p = {"w": np.zeros((4, 2))}
    x = np.zeros((3, 4, 5, 2))
    dy = np.random.default_rng(0).standard_normal(x.shape)
    g = zeros_like(p)
    dx = time_embedding_backward(dy, time_embedding_forward(x, p)[1], g)
    assert dx is dy
    np.testing.assert_allclose(g["w"], dy.sum((0, 2)))


def test_one_parameter_set_runs_on_clips_of_any_length():
    p, _ = make()
    outputs = [resampler_forward(make(frames=f)[1], p, config=CONFIG)[0] for f in (1, 4, 9)]
    assert all(y.shape == (3, 5, 8) and np.isfinite(y).all() for y in outputs)


def test_single_precision_and_an_empty_batch_pass_through():
    p, features = make()
    p = tree_map(lambda x: x.astype("float32"), p)
    lengths = np.array([4, 2, 1])
    y, _ = resampler_forward(features.astype("float32"), p, config=CONFIG, lengths=lengths)
    assert y.dtype == np.float32
    y, saved = resampler_forward(features[:0], p, config=CONFIG, lengths=lengths[:0])
    assert y.shape == (0, 5, 8)
    assert resampler_backward(y, saved, zeros_like(p)).shape == (0, 4, 3, 8)


@pytest.mark.parametrize(
    ("shape", "options", "message"),
    [
        ((3, 0, 3, 8), {}, r"\(3, 0, 3, 8\) must have at least one frame and one token"),
        ((3, 4, 0, 8), {}, r"\(3, 4, 0, 8\) must have at least one frame and one token"),
        ((3, 4, 3, 7), {}, r"must be \(B, F, N, 8\), got \(3, 4, 3, 7\).*linear layer first"),
        ((3, 3, 8), {}, r"must be \(B, F, N, 8\), got \(3, 3, 8\).*a clip of one frame"),
        ((3, 4, 3, 8), {"lengths": np.array([1, 2])}, r"lengths \(2,\) .* each of the 3 clips"),
        ((3, 4, 3, 8), {"lengths": np.array([1, 2, 5])}, "from 0 to 4, got"),
        ((3, 4, 3, 8), {"lengths": np.array([1, -2, 3])}, "from 0 to 4, got"),
    ],
)
@pytest.mark.parametrize("frames", [0, 4])
def test_features_that_do_not_fit_are_refused(frames, shape, options, message):
    config = replace(CONFIG, frames=frames)
    p, _ = make(config)
    with pytest.raises(ValueError, match=message):
        resampler_forward(np.ones(shape), p, config=config, **options)


def test_lengths_and_features_of_another_type_are_refused():
    p, features = make()
    with pytest.raises(TypeError, match="lengths must be integers, got dtype float64"):
        resampler_forward(features, p, config=CONFIG, lengths=np.ones(3))
    with pytest.raises(TypeError, match="features must be floating point, got int64"):
        resampler_forward(features.astype(int), p, config=CONFIG)


def test_more_frames_than_time_embeddings_are_refused_if_they_may_not_stretch():
    config = replace(CONFIG, stretch="never")
    p, features = make(config, frames=5)
    message = "5 frames are more than the 4 that have a time embedding; stretch='longer'"
    with pytest.raises(ValueError, match=message):
        resampler_forward(features, p, config=config)
    lengths = np.array([4, 3, 2])  # the fifth is padding everywhere
    assert resampler_forward(features, p, config=config, lengths=lengths)[0].shape == (3, 5, 8)


@pytest.mark.parametrize("change", [{"latents": 6}, {"depth": 3}, {"frames": 5}, {"frames": 0}])
def test_parameters_of_another_resampler_are_refused(change):
    p, features = make()
    with pytest.raises(
        ValueError, match=r"the config asks for .*; the parameters, .* hold \(\(5, 8\)"
    ):
        resampler_forward(features, p, config=replace(CONFIG, **change))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"latents": 0}, "latents must be a positive whole number, got 0"),
        ({"depth": 0}, "depth must be a positive whole number, got 0"),
        ({"frames": -1}, "frames must be a positive whole number, got -1"),
        ({"head_width": 0}, "head_width must be a positive whole number, got 0"),
        ({"stretch": "shorter"}, "one of longer, always, never, got 'shorter'"),
        ({"block": replace(BLOCK, order="post")}, "norms before the sublayers"),
        ({"block": replace(BLOCK, rotary_base=10.0)}, "without rotary positions"),
    ],
)
def test_a_config_refuses_bad_values_with_the_numbers(options, message):
    with pytest.raises(ValueError, match=message):
        replace(CONFIG, **options)


def test_time_embeddings_of_another_width_or_an_unknown_stretch_are_refused():
    p = {"w": np.ones((4, 8))}
    with pytest.raises(ValueError, match=r"must be \(B, F, N, 8\).*got \(2, 4, 3, 7\)"):
        time_embedding_forward(np.ones((2, 4, 3, 7)), p)
    with pytest.raises(ValueError, match="got 'wrap'"):
        time_embedding_forward(np.ones((2, 4, 3, 8)), p, stretch="wrap")
