"""Seeing: features of chosen layers, and the visual tokens that every connector makes of them."""

from dataclasses import replace
from functools import partial

import numpy as np
import pytest

from scratch_vlm.cases import random_parameters
from scratch_vlm.layers.block import BLOCKS, BlockConfig
from scratch_vlm.layers.connector import ConnectorConfig, connector_forward
from scratch_vlm.layers.resampler import ResamplerConfig
from scratch_vlm.models.vision import (
    SightConfig,
    TowerConfig,
    features_backward,
    features_forward,
    sight_backward,
    sight_forward,
    sight_init,
    tower_of,
)
from scratch_vlm.models.vit import ViTConfig, vit_embed_forward, vit_features_forward, vit_init
from scratch_vlm.recompute import chunked
from scratch_vlm.tree import FROZEN, leaves, zeros_like

RNG = np.random.default_rng
VIT = ViTConfig((4, 4, 1), (2, 2), 0, BlockConfig(8, 2, 12), 3, norm_first=True)
IMAGES = RNG(1).standard_normal((2, 4, 4, 1))
VIDEOS = RNG(2).standard_normal((3, 4, 4, 4, 1))
SAMPLER = ResamplerConfig(BlockConfig(8, 2, 12), latents=3, depth=1, frames=2)
CONNECTORS = {  # what it needs, and tokens of an image and of a video of four frames
    "linear": ({}, 4, 16),
    "mlp": ({}, 4, 16),
    "pixel_shuffle": ({"grid": (2, 2)}, 1, 4),
    "resampler": ({"resampler": SAMPLER}, 3, 3),
}


def sight_of(kind, layers=(-2,), **options):
    tower = TowerConfig(VIT, layers)
    return SightConfig(
        tower, ConnectorConfig(kind, tower.outputs, 6, **CONNECTORS[kind][0], **options)
    )


def make(config):
    return random_parameters(RNG(0), sight_init(RNG(0), config))


def hidden_states(images, p, config):
    """Run a ViT by hand: what its first block reads, and what every block writes."""
    x, _ = vit_embed_forward(images, p, config=config)
    hidden = [x]
    for i in range(config.depth):
        x, _ = BLOCKS["pre"][0](x, p["blocks"][str(i)], config=config.block)
        hidden.append(x)
    return hidden


@pytest.mark.parametrize("pool", ["cls", "mean"])
@pytest.mark.parametrize("layers", [(-1,), (-2,), (0,), (2,), (-4,), (3, 0, 1), (1, 1)])
def test_features_are_the_hidden_states_of_the_vit(layers, pool):
    config = replace(VIT, pool=pool)
    vit = random_parameters(RNG(0), vit_init(RNG(0), config))
    hidden = hidden_states(IMAGES, vit, config)
    assert np.array_equal(hidden[-1], vit_features_forward(IMAGES, vit, config=config)[0])
    for cls in (False, True)[: 1 + config.extra]:
        tower = TowerConfig(config, layers, cls)
        y, _ = features_forward(IMAGES, tower_of(vit, tower), config=tower)
        first = config.extra - cls
        wanted = np.concatenate([hidden[layer][:, first:] for layer in layers], axis=2)
        assert np.array_equal(y, wanted)
        assert y.shape == (2, tower.patches, tower.outputs)


@pytest.mark.parametrize(
    "layers, blocks", [((-1,), 3), ((-2,), 2), ((-2, 1), 2), ((1,), 1), ((0,), 0)]
)
def test_a_tower_holds_only_what_is_used(layers, blocks):
    vit = vit_init(RNG(0), replace(VIT, outputs=5))
    tower = tower_of(vit, TowerConfig(VIT, layers))
    names = {"patch", "cls", "positions", "ln_pre"} | ({"blocks"} if blocks else set())
    assert set(tower) == names
    assert list(tower.get("blocks", {})) == [str(i) for i in range(blocks)]
    for name, x in leaves(tower):  # the same arrays, not copies
        assert x is dict(leaves(vit))[name]


def test_a_tower_without_positions_or_norm_to_learn_lacks_them():
    config = replace(VIT, positions="sincos", norm_first=False, pool="mean")
    tower = tower_of(vit_init(RNG(0), config), TowerConfig(config, (1,)))
    assert set(tower) == {"patch", "blocks"}


def test_a_layer_used_twice_gains_twice():
    once, twice = TowerConfig(VIT, (2,)), TowerConfig(VIT, (2, 2))
    p = random_parameters(RNG(0), tower_of(vit_init(RNG(0), VIT), once))
    y, saved = features_forward(IMAGES, p, config=once)
    g, g2, dy = zeros_like(p), zeros_like(p), RNG(3).standard_normal(y.shape)
    dx = features_backward(dy, saved, g)
    _, saved = features_forward(IMAGES, p, config=twice)
    dx2 = features_backward(np.concatenate([dy, dy], 2), saved, g2)
    np.testing.assert_allclose(dx2, 2 * dx, rtol=1e-12)
    for (name, a), (_, b) in zip(leaves(g), leaves(g2), strict=True):
        np.testing.assert_allclose(b, 2 * a, rtol=1e-9, atol=1e-12, err_msg=name)


@pytest.mark.parametrize("kind", CONNECTORS)
def test_every_connector_makes_tokens_of_images_and_videos(kind):
    config = sight_of(kind, layers=(-2, -1))
    p, (_, of_image, of_video) = sight_init(RNG(0), config), CONNECTORS[kind]
    assert config.tokens() == of_image and config.tokens(4) == of_video
    for media, tokens in ((VIDEOS[:, :1], of_image), (VIDEOS, of_video)):
        y, saved = sight_forward(media.astype("float32"), p, config=config)
        assert y.shape == (3, tokens, 6) and np.isfinite(y).all()
        dmedia = sight_backward(np.ones_like(y), saved, zeros_like(p))
        assert dmedia.shape == media.shape and dmedia.dtype == y.dtype == "float32"


@pytest.mark.parametrize("kind", CONNECTORS)
def test_tokens_are_the_connector_behind_the_tower(kind):
    config = sight_of(kind)
    p = make(config)
    y, _ = sight_forward(VIDEOS, p, config=config)
    frames = [features_forward(clip, p["tower"], config=config.tower)[0] for clip in VIDEOS]
    wanted, _ = connector_forward(np.stack(frames), p["connector"], config=config.connector)
    np.testing.assert_allclose(y, wanted, rtol=1e-11, atol=1e-13)


@pytest.mark.parametrize("kind", CONNECTORS)
def test_frames_behind_the_end_of_a_video_change_nothing(kind):
    config, lengths = sight_of(kind), np.array([4, 1, 0])
    p = make(config)
    spoilt = VIDEOS.copy()
    spoilt[1, 1:] = spoilt[2] = np.nan
    y, saved = sight_forward(VIDEOS, p, config=config, lengths=lengths)
    other, _ = sight_forward(spoilt, p, config=config, lengths=lengths)
    assert np.array_equal(y, other) and np.isfinite(y).all()
    short, _ = sight_forward(VIDEOS[1:2, :1], p, config=config)
    np.testing.assert_allclose(y[1, : short.shape[1]], short[0], rtol=1e-11)
    dmedia = sight_backward(RNG(3).standard_normal(y.shape), saved, zeros_like(p))
    assert dmedia[0].any() and dmedia[1, 0].any()
    assert not dmedia[1, 1:].any() and not dmedia[2].any()


@pytest.mark.parametrize("size", [1, 5])
@pytest.mark.parametrize("lengths", [None, np.array([4, 0, 2])])
def test_a_tower_in_recomputed_pieces_is_the_plain_one(size, lengths):
    config = sight_of("mlp", layers=(1, -1))
    p, runs = make(config), []
    for options in ({}, {"wrap": partial(chunked, size=size, recompute=True)}):
        y, saved = sight_forward(VIDEOS, p, config=config, lengths=lengths, **options)
        g = zeros_like(p)
        dmedia = sight_backward(RNG(3).standard_normal(y.shape), saved, g)
        runs.append([y, dmedia, *(x for _, x in leaves(g))])
    for plain, pieces in zip(*runs, strict=True):
        np.testing.assert_allclose(pieces, plain, rtol=1e-9, atol=1e-12)


def test_a_tower_that_does_not_learn_leaves_nothing_behind():
    config = sight_of("mlp")
    p = make(config)
    y, saved = sight_forward(VIDEOS, p, config=config)
    learned, g = zeros_like(p), zeros_like(p)
    dy = RNG(3).standard_normal(y.shape)
    assert sight_backward(dy, saved, learned) is not None
    same, saved = sight_forward(VIDEOS, p, config=config, learn_tower=False)
    assert np.array_equal(same, y) and not list(leaves(saved["tower"]))
    assert sight_backward(dy, saved, g) is None
    assert not any(x.any() for _, x in leaves(g["tower"]))
    for (name, x), (_, wanted) in zip(
        leaves(g["connector"]), leaves(learned["connector"]), strict=True
    ):
        assert np.array_equal(x, wanted), name
    # nor does it ask for a gradient tree
    assert sight_backward(dy, saved, {"tower": FROZEN, "connector": FROZEN}) is None


def test_a_trained_vit_is_where_sight_starts():
    config, vit = sight_of("linear"), vit_init(RNG(7), VIT)
    p = sight_init(RNG(0), config, vit=vit)
    assert p["tower"]["blocks"]["1"]["ln1"]["gamma"] is vit["blocks"]["1"]["ln1"]["gamma"]
    assert set(sight_init(RNG(0), config)["tower"]) == set(p["tower"])


def test_no_media_are_no_tokens():
    for kind in CONNECTORS:
        config = sight_of(kind)
        y, saved = sight_forward(VIDEOS[:0], make(config), config=config)
        assert y.shape == (0, config.tokens(4), 6)
        dmedia = sight_backward(y, saved, zeros_like(make(config)))
        assert dmedia.shape == (0, 4, 4, 4, 1)


def test_towers_that_cannot_be_are_refused():
    for layer in (4, -5):
        with pytest.raises(ValueError, match=f"layer {layer} is none of the 4 .* -4 to 3"):
            TowerConfig(VIT, (0, layer))
    with pytest.raises(ValueError, match="at least one"):
        TowerConfig(VIT, ())
    with pytest.raises(ValueError, match="pool 'mean' has none"):
        TowerConfig(replace(VIT, pool="mean"), (0,), cls=True)
    with pytest.raises(TypeError, match="vit"):
        TowerConfig(BlockConfig(8, 2, 12))
    with pytest.raises(ValueError, match="16 channels; the connector takes 8"):
        SightConfig(TowerConfig(VIT, (0, 1)), ConnectorConfig("linear", 8, 6))
    with pytest.raises(TypeError, match="connector"):
        SightConfig(TowerConfig(VIT), SAMPLER)


def test_media_and_parameters_that_do_not_fit_are_refused():
    config = sight_of("linear")
    p = make(config)
    with pytest.raises(ValueError, match=r"images\[:, None\]"):
        sight_forward(IMAGES, p, config=config)
    with pytest.raises(ValueError, match="no frames"):
        sight_forward(VIDEOS[:, :0], p, config=config)
    with pytest.raises(ValueError, match="1 channels"):
        sight_forward(VIDEOS.repeat(3, 4), p, config=config)
    with pytest.raises(TypeError):
        sight_forward(VIDEOS.tolist(), p, config=config)
    with pytest.raises(ValueError, match="lengths"):
        sight_forward(VIDEOS, p, config=config, lengths=np.array([1, 5, 1]))
    with pytest.raises(ValueError, match="lack connector"):
        sight_forward(VIDEOS, {"tower": p["tower"]}, config=config)
    with pytest.raises(ValueError, match="asks for 3 blocks"):
        sight_forward(VIDEOS, p, config=sight_of("linear", layers=(-1,)))
    with pytest.raises(ValueError, match="asks for 3 blocks"):
        tower_of(p["tower"], config.tower)


@pytest.mark.parametrize("kind", CONNECTORS)
def test_images_of_another_size_are_seen_only_if_they_fill_the_places_of_a_text(kind):
    config = sight_of(kind)
    large = RNG(3).standard_normal((2, 4, 8, 8, 1))
    if kind == "resampler":  # R tokens, whatever comes in
        assert sight_forward(large, make(config), config=config)[0].shape == (2, 3, 6)
        return
    wanted = "grid 2 x 2" if kind == "pixel_shuffle" else r"64 .* places for 16, .* \(4, 4, 1\)"
    for lengths in (None, np.array([4, 1])):
        with pytest.raises(ValueError, match=wanted):
            sight_forward(large, make(config), config=config, lengths=lengths)


def test_lengths_that_are_one_too_few_are_refused():
    config = sight_of("linear")
    with pytest.raises(ValueError, match=r"lengths \(2,\) must be one for each of the 3 media"):
        sight_forward(VIDEOS, make(config), config=config, lengths=np.array([1, 2]))
