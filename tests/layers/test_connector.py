"""The connector: how many tokens each kind makes, of what, and what it refuses."""

from dataclasses import asdict, replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from scratch_vlm.cases import random_parameters
from scratch_vlm.layers.block import BlockConfig
from scratch_vlm.layers.config import from_dict
from scratch_vlm.layers.connector import (
    ConnectorConfig,
    connector_backward,
    connector_forward,
    connector_init,
    real_tokens,
)
from scratch_vlm.layers.resampler import ResamplerConfig, resampler_forward, resampler_init
from scratch_vlm.ops.activations import gelu_forward
from scratch_vlm.tree import leaves, zeros_like

RESAMPLER = ResamplerConfig(BlockConfig(8, 2, 12), latents=5, depth=2, frames=4)
CONFIGS = {
    "linear": ConnectorConfig("linear", 6, 10),
    "mlp": ConnectorConfig("mlp", 6, 10, hidden=7),
    "pixel_shuffle": ConnectorConfig("pixel_shuffle", 6, 10, grid=(2, 4)),
    "resampler": ConnectorConfig("resampler", 6, 10, resampler=RESAMPLER),
}
KINDS = pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)


def make(config, *, media=3, frames=4, patches=8):
    rng = np.random.default_rng(0)
    p = random_parameters(rng, connector_init(rng, config))
    return p, rng.standard_normal((media, frames, patches, config.inputs))


def count(tree):
    return sum(x.size for _, x in leaves(tree))


@pytest.mark.parametrize(("kind", "tokens"), list(zip(CONFIGS, [8, 8, 2, 5], strict=True)))
def test_tokens_of_an_image_and_of_a_clip(kind, tokens):
    config = CONFIGS[kind]
    for frames in (1, 3):
        expected = tokens if kind == "resampler" else frames * tokens
        assert config.tokens(frames, 8) == expected
        p, features = make(config, frames=frames)
        y, saved = connector_forward(features, p, config=config)
        assert y.shape == (3, expected, 10)
        assert connector_backward(y, saved, zeros_like(p)).shape == features.shape


@given(st.integers(1, 3), st.integers(1, 9), st.integers(1, 6))
def test_a_resampler_makes_r_tokens_whatever_comes_in(media, frames, patches):
    config = CONFIGS["resampler"]
    p, features = make(config, media=media, frames=frames, patches=patches)
    assert connector_forward(features, p, config=config)[0].shape == (media, 5, 10)


def test_published_models_have_their_numbers_of_tokens():
    assert ConnectorConfig("mlp", 1024, 4096).tokens(1, 24 * 24) == 576  # LLaVA-1.5
    internvl = ConnectorConfig("pixel_shuffle", 3200, 6144, grid=(32, 32))
    assert internvl.tokens(1, 32 * 32) == 256
    flamingo = ConnectorConfig(
        "resampler", 1536, 8192, resampler=ResamplerConfig(BlockConfig(1536, 16, 6144), depth=1)
    )
    assert flamingo.tokens(1, 100) == flamingo.tokens(8, 100) == 64


def test_parameters_of_each_kind_counted_by_hand():
    rng = np.random.default_rng(0)
    numbers = {kind: count(connector_init(rng, config)) for kind, config in CONFIGS.items()}
    assert numbers["linear"] == 6 * 10 + 10
    assert numbers["mlp"] == (6 * 7 + 7) + (7 * 10 + 10)
    assert numbers["pixel_shuffle"] == (4 * 6 * 10 + 10) + (10 * 10 + 10)
    inside = count(resampler_init(rng, RESAMPLER))
    assert numbers["resampler"] == (6 * 8 + 8) + inside + (8 * 10 + 10)
    without = replace(CONFIGS["linear"], bias=False)
    assert count(connector_init(rng, without)) == 6 * 10


def test_llava_1_5_has_20_979_712_parameters_between_vit_l_and_vicuna_7b():
    p = connector_init(np.random.default_rng(0), ConnectorConfig("mlp", 1024, 4096))
    assert count(p) == 1024 * 4096 + 4096 + 4096 * 4096 + 4096 == 20_979_712


@pytest.mark.parametrize(
    ("inputs", "outputs", "keys"),
    [
        (8, 8, ["resampler"]),
        (6, 8, ["into", "resampler"]),
        (8, 10, ["out", "resampler"]),
        (6, 10, ["into", "out", "resampler"]),
    ],
)
def test_linear_layers_stand_beside_a_resampler_only_where_widths_differ(inputs, outputs, keys):
    config = replace(CONFIGS["resampler"], inputs=inputs, outputs=outputs)
    p, features = make(config)
    assert sorted(p) == keys
    lengths = np.array([4, 0, 2])
    y, _ = connector_forward(features, p, config=config, lengths=lengths)
    h = features
    if "into" in p:
        h = h @ p["into"]["w"] + p["into"]["b"]
    h, _ = resampler_forward(h, p["resampler"], config=RESAMPLER, lengths=lengths)
    if "out" in p:
        h = h @ p["out"]["w"] + p["out"]["b"]
    np.testing.assert_allclose(y, h, rtol=1e-12, atol=1e-12)


def test_a_linear_connector_is_a_product():
    p, features = make(CONFIGS["linear"])
    y, _ = connector_forward(features, p, config=CONFIGS["linear"])
    right = features.reshape(3, 32, 6) @ p["out"]["w"] + p["out"]["b"]
    np.testing.assert_allclose(y, right, rtol=1e-12, atol=1e-12)


def test_an_mlp_connector_has_the_activation_it_is_told():
    config = replace(CONFIGS["mlp"], activation="squared_relu", bias=False)
    p, features = make(config)
    h = np.maximum(features.reshape(3, 32, 6) @ p["mlp"]["fc"]["w"], 0) ** 2
    y, _ = connector_forward(features, p, config=config)
    np.testing.assert_allclose(y, h @ p["mlp"]["proj"]["w"], rtol=1e-12, atol=1e-12)


def test_pixel_shuffle_joins_four_neighbours_before_the_mlp():
    config = CONFIGS["pixel_shuffle"]
    p, features = make(config, media=1, frames=2)
    # Of the eight patches 0 1 2 3 above 4 5 6 7:
    squares = [[0, 1, 4, 5], [2, 3, 6, 7]]
    joined = np.concatenate([features[0, f, s].reshape(1, 24) for f in range(2) for s in squares])
    h, _ = gelu_forward(joined @ p["mlp"]["fc"]["w"] + p["mlp"]["fc"]["b"])
    right = h @ p["mlp"]["proj"]["w"] + p["mlp"]["proj"]["b"]
    y, _ = connector_forward(features, p, config=config)
    np.testing.assert_allclose(y[0], right, rtol=1e-12, atol=1e-12)


@KINDS
def test_media_of_different_lengths_in_one_batch_equal_one_by_one(config):
    p, features = make(config)
    lengths = np.array([4, 1, 3])
    y, saved = connector_forward(features, p, config=config, lengths=lengths)
    real = real_tokens(config, lengths, 4, 8)
    assert real.shape == y.shape[:2]
    dy = np.random.default_rng(1).standard_normal(y.shape) * real[..., None]
    g, one_by_one = zeros_like(p), zeros_like(p)
    dx = connector_backward(dy, saved, g)
    for i, length in enumerate(lengths):
        alone, saved = connector_forward(features[i : i + 1, :length], p, config=config)
        np.testing.assert_allclose(y[i, real[i]], alone[0], atol=1e-12)
        dalone = connector_backward(dy[i : i + 1, real[i]], saved, one_by_one)
        np.testing.assert_allclose(dx[i, :length], dalone[0], atol=1e-12)
        assert not dx[i, length:].any()
    for (name, one), (_, other) in zip(leaves(g), leaves(one_by_one), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-10, err_msg=name)


def test_real_tokens_come_frame_by_frame():
    real = real_tokens(CONFIGS["pixel_shuffle"], np.array([0, 2, 3]), 3, 8)
    assert real.astype(int).tolist() == [[0] * 6, [1, 1, 1, 1, 0, 0], [1] * 6]


def test_all_tokens_of_a_resampler_are_real_even_without_a_frame():
    assert real_tokens(CONFIGS["resampler"], np.array([0, 2]), 3, 8).tolist() == [[True] * 5] * 2


@KINDS
def test_configs_survive_json(config):
    assert from_dict(ConnectorConfig, asdict(config)) == config


@pytest.mark.parametrize(
    ("kind", "options", "message"),
    [
        ("linear", {"hidden": 7}, "kind linear has no use for hidden, got 7; .* mlp or pixel_sh"),
        ("linear", {"activation": "silu"}, "linear has no use for activation, got 'silu'"),
        ("mlp", {"grid": (2, 4)}, r"mlp has no use for grid, got \(2, 4\); it is for pixel_sh"),
        ("mlp", {"by": 1}, "mlp has no use for by, got 1"),
        ("mlp", {"resampler": RESAMPLER}, "no use for resampler, .*; it is for resampler$"),
        ("resampler", {"hidden": 7}, "resampler has no use for hidden"),
        ("pixel_shuffle", {"grid": None}, "kind pixel_shuffle needs a grid"),
        ("resampler", {"resampler": None}, "kind resampler needs a resampler"),
        ("pixel_shuffle", {"by": 4}, "by 4 must divide rows and columns of the grid 2 x 4"),
        ("pixel_shuffle", {"grid": (2, 4, 3)}, r"grid must be \(rows, columns\)"),
        ("mlp", {"kind": "qformer"}, "kind must be one of none, linear, mlp, .* got 'qformer'"),
        ("mlp", {"activation": "elu"}, "unknown activation 'elu'"),
        ("mlp", {"hidden": 0}, "hidden must be a positive whole number, got 0"),
        ("linear", {"inputs": 0}, "inputs must be a positive whole number, got 0"),
        ("linear", {"outputs": -1}, "outputs must be a positive whole number, got -1"),
    ],
)
def test_a_config_refuses_what_its_kind_cannot_use(kind, options, message):
    with pytest.raises(ValueError, match=message):
        replace(CONFIGS[kind], **options)


def test_a_resampler_must_be_a_config():
    with pytest.raises(TypeError, match="resampler must be a ResamplerConfig, got 64"):
        ConnectorConfig("resampler", 6, 10, resampler=64)


@KINDS
def test_the_parameters_of_another_connector_are_refused(config):
    _, features = make(config)
    other = CONFIGS["mlp" if config.kind in ("linear", "resampler") else "linear"]
    p, _ = make(other)
    message = f"kind {config.kind}, as the config has it, holds .*; the parameters hold"
    with pytest.raises(ValueError, match=message):
        connector_forward(features, p, config=config)


def test_parameters_of_other_widths_are_refused_by_name():
    p, features = make(CONFIGS["mlp"])
    wider = replace(CONFIGS["mlp"], hidden=9)
    with pytest.raises(ValueError, match=r"asks for mlp/fc/w of \(6, 9\), .* hold \(6, 7\)"):
        connector_forward(features, p, config=wider)
    p, features = make(CONFIGS["resampler"])
    with pytest.raises(ValueError, match=r"asks for out/w of \(8, 11\), .* hold \(8, 10\)"):
        connector_forward(features, p, config=replace(CONFIGS["resampler"], outputs=11))


def test_parameters_that_are_no_tree_of_linear_layers_are_refused():
    features = np.ones((1, 1, 8, 6))
    with pytest.raises(ValueError, match="the parameters lack out/w; they hold out"):
        connector_forward(features, {"out": np.ones((6, 10))}, config=CONFIGS["linear"])
    with pytest.raises(TypeError, match="parameters must be a dict"):
        connector_forward(features, np.ones((6, 10)), config=CONFIGS["linear"])


@pytest.mark.parametrize(
    ("kind", "shape", "message"),
    [
        ("linear", (2, 8, 6), r"must be \(M, F, N, 6\), got \(2, 8, 6\); an image is a clip"),
        ("linear", (2, 1, 8, 5), r"must be \(M, F, N, 6\), got \(2, 1, 8, 5\)"),
        ("pixel_shuffle", (2, 1, 9, 6), "9 patches a frame do not fill the grid 2 x 4 of 8"),
        ("mlp", (2, 0, 8, 6), "frames must be a positive whole number, got 0"),
        ("mlp", (2, 1, 0, 6), "patches must be a positive whole number, got 0"),
    ],
)
def test_features_that_do_not_fit_are_refused(kind, shape, message):
    p, _ = make(CONFIGS[kind])
    with pytest.raises(ValueError, match=message):
        connector_forward(np.ones(shape), p, config=CONFIGS[kind])


def test_features_of_whole_numbers_are_refused():
    p, _ = make(CONFIGS["linear"])
    with pytest.raises(TypeError, match="features must be floating point"):
        connector_forward(np.ones((2, 1, 8, 6), int), p, config=CONFIGS["linear"])


@KINDS
def test_lengths_that_do_not_fit_are_refused(config):
    p, features = make(config)
    with pytest.raises(ValueError, match=r"lengths \(2,\) must be one for each of the 3 media"):
        connector_forward(features, p, config=config, lengths=np.array([1, 2]))
    with pytest.raises(ValueError, match=r"lengths must be from 0 to 4, got \[1, 5, 2\]"):
        connector_forward(features, p, config=config, lengths=np.array([1, 5, 2]))
    with pytest.raises(ValueError, match=r"lengths must be from 0 to 4, got \[1, -1, 2\]"):
        real_tokens(config, np.array([1, -1, 2]), 4, 8)
    with pytest.raises(TypeError, match="lengths must be integers"):
        connector_forward(features, p, config=config, lengths=np.array([1.0, 2.0, 3.0]))
