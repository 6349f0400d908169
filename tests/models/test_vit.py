"""The Vision Transformer: what it can see, what it cannot, and what it refuses."""

from dataclasses import replace

import numpy as np
import pytest

from scratch_vlm.cases import random_parameters
from scratch_vlm.layers.block import BlockConfig
from scratch_vlm.models.vit import (
    ViTConfig,
    vit_backward,
    vit_features_forward,
    vit_forward,
    vit_init,
)
from scratch_vlm.ops.patches import patchify_forward, unpatchify_forward
from scratch_vlm.tree import zeros_like

BLOCK = BlockConfig(8, 2, 12)
CONFIG = ViTConfig((6, 8, 3), (2, 4), 5, BLOCK, 2, pool="mean")
POOLS = pytest.mark.parametrize("pool", ["cls", "mean", "attention"])


def make(config=CONFIG, seed=0, batch=3):
    rng = np.random.default_rng(seed)
    p = random_parameters(rng, vit_init(rng, config))
    return p, rng.standard_normal((batch, *config.image))


def shuffled(images, patch, order):
    patches, _ = patchify_forward(images, patch=patch)
    return unpatchify_forward(patches[:, order], size=images.shape[1:3], patch=patch)[0]


@POOLS
def test_without_positions_the_order_of_the_patches_does_not_matter(pool):
    config = replace(CONFIG, pool=pool)
    p, images = make(config)
    again = shuffled(images, config.patch, np.random.default_rng(1).permutation(6))
    assert not np.allclose(
        vit_forward(images, p, config=config)[0], vit_forward(again, p, config=config)[0]
    )
    p["positions"]["w"][...] = 0
    np.testing.assert_allclose(
        vit_forward(again, p, config=config)[0],
        vit_forward(images, p, config=config)[0],
        atol=1e-12,
    )


def test_without_positions_permuting_patches_permutes_features_and_gradients():
    p, images = make()
    p["positions"]["w"][...] = 0
    order = np.random.default_rng(1).permutation(6)
    again = shuffled(images, CONFIG.patch, order)
    features, _ = vit_features_forward(images, p, config=CONFIG)
    np.testing.assert_allclose(
        vit_features_forward(again, p, config=CONFIG)[0], features[:, order], atol=1e-12
    )
    dy = np.random.default_rng(2).standard_normal((3, 5))
    dx, dagain = (
        vit_backward(dy, vit_forward(x, p, config=CONFIG)[1], zeros_like(p))
        for x in (images, again)
    )
    np.testing.assert_allclose(dagain, shuffled(dx, CONFIG.patch, order), atol=1e-12)


@pytest.mark.parametrize("positions", ["learned", "axial", "sincos"])
@POOLS
def test_other_images_of_the_batch_change_nothing(pool, positions):
    config = replace(CONFIG, pool=pool, positions=positions)
    p, images = make(config)
    y, _ = vit_forward(images, p, config=config)
    for i in range(3):
        np.testing.assert_allclose(
            vit_forward(images[i : i + 1], p, config=config)[0][0], y[i], atol=1e-12
        )


@pytest.mark.parametrize("positions", ["learned", "axial", "sincos"])
@POOLS
def test_images_of_another_size_are_seen_through_stretched_positions(pool, positions):
    config = replace(CONFIG, pool=pool, positions=positions)
    p, _ = make(config)
    images = np.random.default_rng(1).standard_normal((2, 10, 4, 3))
    y, saved = vit_forward(images, p, config=config)
    assert y.shape == (2, 5)
    g = zeros_like(p)
    assert vit_backward(np.ones_like(y), saved, g).shape == images.shape


def test_another_size_equals_the_model_made_for_it_with_the_stretched_table():
    from scratch_vlm.ops.positions import interpolate_positions_forward

    p, _ = make()
    larger = CONFIG.at(10, 4)
    assert larger.grid == (5, 1) and larger.tokens == 5
    table, _ = interpolate_positions_forward(p["positions"]["w"], old=(3, 2), new=(5, 1))
    images = np.random.default_rng(1).standard_normal((2, 10, 4, 3))
    np.testing.assert_allclose(
        vit_forward(images, p, config=CONFIG)[0],
        vit_forward(images, {**p, "positions": {"w": table}}, config=larger)[0],
        rtol=1e-12,
    )


def test_without_outputs_the_pooled_token_comes_out():
    config = replace(CONFIG, outputs=0)
    p, images = make(config)
    y, _ = vit_forward(images, p, config=config)
    assert "head" not in p and y.shape == (3, 8)


def test_attention_maps_can_be_read_from_what_was_saved():
    p, images = make(replace(CONFIG, pool="cls"))
    _, saved = vit_forward(images, p, config=replace(CONFIG, pool="cls"))
    assert saved["features"]["blocks"]["1"]["attn"]["attend"]["e"].shape == (3, 2, 7, 7)


def test_an_empty_batch_passes_through():
    p, images = make()
    y, saved = vit_forward(images[:0], p, config=CONFIG)
    assert y.shape == (0, 5)
    assert vit_backward(y, saved, zeros_like(p)).shape == (0, 6, 8, 3)


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((2, 6, 8, 1), r"with 3 channels, got \(2, 6, 8, 1\)"),
        ((2, 3, 6, 8), r"with 3 channels, got \(2, 3, 6, 8\)"),
        ((6, 8, 3), r"\(B, H, W, C\) with 3 channels, got \(6, 8, 3\)"),
        ((2, 7, 8, 3), "height 7 px is not a multiple.* 2 px; 6 or 8 px"),
        ((2, 6, 6, 3), "width 6 px is not a multiple.* 4 px; 4 or 8 px"),
    ],
)
def test_images_that_do_not_fit_are_refused(shape, message):
    p, _ = make()
    with pytest.raises(ValueError, match=message):
        vit_forward(np.ones(shape), p, config=CONFIG)


def test_grey_images_without_a_channel_axis_are_told_how_to_get_one():
    config = replace(CONFIG, image=(6, 8, 1))
    p, _ = make(config)
    with pytest.raises(ValueError, match=r"images\[\.\.\., None\]"):
        vit_forward(np.ones((2, 6, 8)), p, config=config)


def test_bytes_are_refused_with_how_to_scale_them():
    p, _ = make()
    with pytest.raises(TypeError, match=r"uint8; scale them with images.astype.* / 255"):
        vit_forward(np.ones((2, 6, 8, 3), np.uint8), p, config=CONFIG)


@pytest.mark.parametrize(
    ("p", "config", "message"),
    [
        (make()[0], replace(CONFIG, depth=3), "asks for 3 blocks; .* hold 2"),
        ({"image": make()[0], "text": {}}, CONFIG, "the parameters, image, text, hold 0"),
    ],
)
def test_parameters_of_another_model_are_refused(p, config, message):
    with pytest.raises(ValueError, match=message):
        vit_forward(np.ones((1, *CONFIG.image)), p, config=config)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"image": (6, 8)}, r"image must be \(height, width, channels\), got \(6, 8\)"),
        ({"image": 224}, r"image must be \(height, width, channels\), got 224"),
        ({"image": (6.0, 8, 3)}, "height must be a positive whole number, got 6.0"),
        ({"patch": (2.0, 4)}, r"patch must be .* whole numbers; got \(2.0, 4\)"),
        ({"position_std": -1}, "position_std must be at least 0, got -1"),
        ({"image": (6, 8, 0)}, "channels must be a positive whole number, got 0"),
        ({"image": (6, 9, 3)}, "width 9 px is not a multiple.* 4 px; 8 or 12 px"),
        ({"patch": 2}, r"patch must be \(height, width\) in pixels, .* got 2"),
        ({"patch": (0, 4)}, r"patch must be \(height, width\) in pixels, .* got \(0, 4\)"),
        ({"depth": 0}, "depth must be a positive whole number, got 0"),
        ({"outputs": -1}, "outputs must be a positive whole number, got -1"),
        ({"pool": "max"}, "'cls', 'mean' or 'attention', got 'max'"),
        ({"positions": "rope"}, "'learned', 'axial' or 'sincos', got 'rope'"),
        ({"positions": "sincos", "block": BlockConfig(6, 2, 8)}, "4 divides, got 6"),
    ],
)
def test_a_config_refuses_bad_values_with_the_numbers(options, message):
    with pytest.raises(ValueError, match=message):
        replace(CONFIG, **options)


def test_a_block_that_is_no_block_config_is_refused():
    with pytest.raises(TypeError, match=r"block must be a BlockConfig, got \{'width': 8\}"):
        replace(CONFIG, block={"width": 8})


def test_a_list_of_images_is_refused():
    with pytest.raises(TypeError, match="got list"):
        vit_forward(np.ones((1, *CONFIG.image)).tolist(), make()[0], config=CONFIG)


@pytest.mark.parametrize("key", ["patch", "cls", "positions", "ln_pre", "ln", "head"])
def test_parameters_that_the_config_asks_for_and_are_missing_are_named(key):
    config = replace(CONFIG, pool="cls", norm_first=True)
    p, images = make(config)
    del p[key]
    with pytest.raises(ValueError, match=rf"the parameters lack {key}\b"):
        vit_forward(images, p, config=config)


@pytest.mark.parametrize(
    ("options", "missing"),
    [({"positions": "axial"}, "positions/extra, positions/rows"), ({"pool": "attention"}, "pool;")],
)
def test_parameters_of_another_kind_are_refused(options, missing):
    p, images = make()
    with pytest.raises(ValueError, match=f"the parameters lack {missing}"):
        vit_forward(images, p, config=replace(CONFIG, **options))


def test_features_need_no_head():
    p, images = make()
    del p["head"], p["ln"]
    assert vit_features_forward(images, p, config=CONFIG)[0].shape == (3, 6, 8)


def test_a_head_of_other_outputs_is_refused():
    p, images = make()
    with pytest.raises(ValueError, match="asks for 10 outputs; the head has 5"):
        vit_forward(images, p, config=replace(CONFIG, outputs=10))
