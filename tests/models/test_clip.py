"""CLIP: the loss of the whole batch, frozen towers, and the scale."""

import math
from dataclasses import replace
from functools import partial

import numpy as np
import pytest

from scratch_vlm.cases import random_parameters
from scratch_vlm.layers.block import BlockConfig
from scratch_vlm.models.clip import (
    CLIPConfig,
    clip_backward,
    clip_clamp,
    clip_forward,
    clip_init,
    encode_images_forward,
    encode_texts_forward,
)
from scratch_vlm.models.text import TextConfig
from scratch_vlm.models.vit import ViTConfig
from scratch_vlm.recompute import chunked
from scratch_vlm.tree import FROZEN, freeze, leaves, zeros_like

BLOCK = BlockConfig(8, 2, 12)
CONFIG = CLIPConfig(ViTConfig((4, 6, 3), (2, 3), 4, BLOCK, 2), TextConfig(10, 5, 9, 4, BLOCK, 2))
LOSSES = pytest.mark.parametrize("loss", ["softmax", "sigmoid"])


def make(config=CONFIG, batch=6):
    rng = np.random.default_rng(0)
    p = random_parameters(rng, clip_init(rng, config))
    ids = rng.integers(0, 9, (batch, 5))
    ids[:, -1] = 9
    return p, rng.standard_normal((batch, *config.image.image)), ids


def loss_and_gradients(images, ids, p, config=CONFIG, **options):
    loss, saved = clip_forward(images, ids, p, config=config, **options)
    g = zeros_like(p)
    dimages = clip_backward(1.0, saved, g)
    return [loss, dimages, *(leaf for _, leaf in leaves(g))]


@LOSSES
@pytest.mark.parametrize("size", [1, 4, 6, 100])
def test_a_batch_in_pieces_has_the_loss_and_the_gradients_of_the_whole(loss, size):
    config = replace(CONFIG, loss=loss)
    p, images, ids = make(config)
    wrap = partial(chunked, size=size, recompute=True)
    for piecewise, whole in zip(
        loss_and_gradients(images, ids, p, config, wrap=wrap),
        loss_and_gradients(images, ids, p, config),
        strict=True,
    ):
        np.testing.assert_allclose(piecewise, whole, rtol=1e-12, atol=1e-12)


def test_averaging_the_losses_of_two_half_batches_is_another_loss():
    p, images, ids = make()
    whole = loss_and_gradients(images, ids, p)
    halves = [loss_and_gradients(images[i::2], ids[i::2], p) for i in range(2)]
    averaged = [(a + b) / 2 for a, b in zip(*(half[2:] for half in halves), strict=True)]
    assert (halves[0][0] + halves[1][0]) / 2 < 0.9 * whole[0]  # fewer texts to confuse
    largest = max(abs(right).max() for right in whole[2:])
    wrong = max(abs(a - b).max() for a, b in zip(averaged, whole[2:], strict=True))
    assert wrong > 0.1 * largest


def test_the_loss_starts_near_the_logarithm_of_the_batch():
    rng = np.random.default_rng(0)
    config = CLIPConfig(
        replace(CONFIG.image, outputs=64), replace(CONFIG.text, outputs=64, context=8)
    )
    _, images, ids = make(batch=32)
    p = clip_init(rng, config)
    p["log_scale"][...] = 0  # at 1 / 0.07 chance similarities already cost a little
    loss, _ = clip_forward(images, ids, p, config=config)
    assert loss == pytest.approx(math.log(32), rel=0.05)


def test_embeddings_have_length_one_and_do_not_see_each_other():
    p, images, ids = make()
    for encode, inputs, side, config in (
        (encode_images_forward, images, "image", CONFIG.image),
        (encode_texts_forward, ids, "text", CONFIG.text),
    ):
        y, _ = encode(inputs, p[side], config=config)
        np.testing.assert_allclose(np.linalg.norm(y, axis=1), 1)
        for i in range(3):
            alone, _ = encode(inputs[i : i + 1], p[side], config=config)
            np.testing.assert_allclose(alone[0], y[i], atol=1e-12)


@LOSSES
def test_shuffling_the_pairs_changes_neither_loss_nor_parameter_gradients(loss):
    config = replace(CONFIG, loss=loss)
    p, images, ids = make(config)
    order = np.random.default_rng(1).permutation(6)
    a = loss_and_gradients(images, ids, p, config)
    b = loss_and_gradients(images[order], ids[order], p, config)
    np.testing.assert_allclose(a[1][order], b[1], atol=1e-11)
    for x, y in zip(a[:1] + a[2:], b[:1] + b[2:], strict=True):
        np.testing.assert_allclose(x, y, atol=1e-11)


@pytest.mark.parametrize("side", ["image", "text"])
def test_a_frozen_tower_is_not_walked_and_the_rest_learns_as_before(side):
    p, images, ids = make()
    walked = []

    def counting(forward, backward):
        def counted(*arguments):
            walked.append(backward.__name__)
            return backward(*arguments)

        return forward, counted

    _, saved = clip_forward(images, ids, p, config=CONFIG, wrap=counting)
    g = freeze(zeros_like(p), [(f"{side}/.*", False), (".*", True)])
    assert g[side] is FROZEN
    dimages = clip_backward(1.0, saved, g)
    other = {"image": "texts", "text": "images"}[side]
    assert walked == [f"encode_{other}_backward"]
    assert (dimages is None) == (side == "image")

    full = zeros_like(p)
    clip_backward(1.0, clip_forward(images, ids, p, config=CONFIG)[1], full)
    everything = dict(leaves(full))
    for name, gradient in leaves(g):
        np.testing.assert_array_equal(gradient, everything[name])


def test_the_scale_is_never_more_than_one_hundred():
    p = clip_init(np.random.default_rng(0), CONFIG)
    scale = p["log_scale"]
    scale[...] = 7.0
    clip_clamp(p)
    assert p["log_scale"] is scale and scale == pytest.approx(math.log(100))
    scale[...] = 1.5
    clip_clamp(p)
    assert scale == 1.5


def test_initial_scales_are_those_of_the_papers():
    rng = np.random.default_rng(0)
    p = clip_init(rng, CONFIG)
    assert p["log_scale"] == pytest.approx(math.log(1 / 0.07)) and "bias" not in p
    p = clip_init(rng, replace(CONFIG, loss="sigmoid"))
    assert np.exp(p["log_scale"]) == pytest.approx(10) and p["bias"] == -10
    assert p["log_scale"].dtype == p["bias"].dtype == np.float32


def test_images_and_texts_of_different_number_are_refused():
    p, images, ids = make()
    with pytest.raises(ValueError, match="6 images and 5 texts do not pair up"):
        clip_forward(images, ids[:5], p, config=CONFIG)


def test_an_empty_batch_is_refused():
    p, images, ids = make()
    with pytest.raises(ValueError, match="at least one pair"):
        clip_forward(images[:0], ids[:0], p, config=CONFIG)


def test_towers_of_different_width_are_refused():
    with pytest.raises(ValueError, match="one width; got 4 and 5"):
        replace(CONFIG, text=replace(CONFIG.text, outputs=5))
    with pytest.raises(ValueError, match="one width; got 0 and 4"):
        replace(CONFIG, image=replace(CONFIG.image, outputs=0))


def test_an_unknown_loss_is_refused():
    with pytest.raises(ValueError, match="'softmax' or 'sigmoid', got 'triplet'"):
        replace(CONFIG, loss="triplet")


def test_the_parameters_of_the_whole_are_not_those_of_a_tower():
    p, images, _ = make()
    with pytest.raises(ValueError, match="the parameters, image, text, log_scale, hold 0"):
        encode_images_forward(images, p, config=CONFIG.image)


def test_parameters_of_the_other_loss_are_refused():
    p, images, ids = make()
    with pytest.raises(ValueError, match="the parameters lack bias; they hold image, text"):
        clip_forward(images, ids, p, config=replace(CONFIG, loss="sigmoid"))


def test_lists_are_refused():
    p, images, ids = make()
    for arguments in ((images.tolist(), ids), (images, ids.tolist())):
        with pytest.raises(TypeError, match="got list"):
            clip_forward(*arguments, p, config=CONFIG)


@pytest.mark.parametrize("tower", ["image", "text"])
def test_a_tower_that_is_no_config_is_refused(tower):
    with pytest.raises(TypeError, match=rf"{tower} must be a \w+, got \{{"):
        replace(CONFIG, **{tower: {}})
