"""BERT: the blocks of a ViT with the norms behind, and padding that nobody reads."""

from dataclasses import replace

import numpy as np
import pytest

from scratch_vlm.cases import random_parameters
from scratch_vlm.layers.block import BlockConfig, tower_forward
from scratch_vlm.layers.norm import layer_norm_forward
from scratch_vlm.models.bert import (
    BERTConfig,
    bert_backward,
    bert_forward,
    bert_init,
    bert_pool_forward,
)
from scratch_vlm.models.vit import ViTConfig, vit_features_forward, vit_init
from scratch_vlm.ops.patches import patchify_forward
from scratch_vlm.tree import leaves, zeros_like

BLOCK = BlockConfig(8, 2, 12, order="post")
CONFIG = BERTConfig(10, 6, BLOCK, 2)
IDS = np.array([[1, 2, 3, 4, 5], [6, 7, 8, 9, 0]])


def make(config=CONFIG):
    rng = np.random.default_rng(0)
    return random_parameters(rng, bert_init(rng, config))


def test_it_is_three_embeddings_a_norm_and_the_tower():
    p = make()
    segments = np.array([[0, 0, 1, 1, 1]] * 2)
    x = p["tokens"]["w"][IDS] + p["segments"]["w"][segments] + p["positions"]["w"][:5]
    x, _ = layer_norm_forward(x, p["ln"])
    y, _ = bert_forward(IDS, p, config=CONFIG, segments=segments)
    np.testing.assert_allclose(y, tower_forward(x, p["blocks"], config=BLOCK)[0], rtol=1e-12)


def test_a_vit_runs_the_blocks_of_a_bert():
    config = ViTConfig((4, 6, 2), (2, 2), 0, BLOCK, 2, pool="mean")
    bert, rng = make(), np.random.default_rng(1)
    vit = {**random_parameters(rng, vit_init(rng, config)), "blocks": bert["blocks"]}
    images = rng.standard_normal((2, 4, 6, 2))
    features, _ = vit_features_forward(images, vit, config=config)
    patches, _ = patchify_forward(images, patch=config.patch)
    tokens = patches @ vit["patch"]["w"] + vit["patch"]["b"] + vit["positions"]["w"]
    as_bert, _ = tower_forward(tokens, bert["blocks"], config=CONFIG.block)
    np.testing.assert_allclose(features, as_bert, rtol=1e-12)


def test_every_token_reads_every_other():
    p = make()
    y, _ = bert_forward(IDS, p, config=CONFIG)
    changed = IDS.copy()
    changed[:, 4] = 2
    assert (abs(bert_forward(changed, p, config=CONFIG)[0] - y).max(-1) > 1e-6).all()


def test_a_padded_text_is_the_text():
    p = make()
    lengths = np.array([3, 5])
    y, saved = bert_forward(IDS, p, config=CONFIG, lengths=lengths)
    np.testing.assert_allclose(
        y[:1, :3], bert_forward(IDS[:1, :3], p, config=CONFIG)[0], atol=1e-12
    )
    np.testing.assert_allclose(y[1:], bert_forward(IDS[1:], p, config=CONFIG)[0], atol=1e-12)
    dy = np.random.default_rng(1).standard_normal(y.shape)
    dy[0, 3:] = 0
    g, g_apart = zeros_like(p), zeros_like(p)
    bert_backward(dy, saved, g)
    for part, n, i in ((IDS[:1, :3], 3, 0), (IDS[1:], 5, 1)):
        _, saved = bert_forward(part, p, config=CONFIG)
        bert_backward(dy[i : i + 1, :n], saved, g_apart)
    for (name, a), (_, b) in zip(leaves(g), leaves(g_apart), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-11, err_msg=name)


def test_pooling_reads_the_first_token_alone():
    p = make()
    y, _ = bert_forward(IDS, p, config=CONFIG)
    pooled, _ = bert_pool_forward(y, p["pool"])
    right = np.tanh(y[:, 0] @ p["pool"]["w"] + p["pool"]["b"])
    np.testing.assert_allclose(pooled, right, rtol=1e-12)


@pytest.mark.parametrize(
    ("ids", "options", "message"),
    [
        (IDS[0], {}, r"ids must be \(B, T\), got \(5,\)"),
        (np.hstack([IDS, IDS]), {}, "10 tokens do not fit the 6 places"),
        (IDS + 1, {}, "token id 10 is none of the 10"),
        (IDS, {"segments": np.full((2, 5), 2)}, "segment 2 is none of the 2"),
        (IDS, {"segments": np.zeros((1, 5), int)}, r"segments \(1, 5\).*\(2, 5\)"),
        (IDS, {"lengths": np.array([3])}, r"lengths \(1,\).*\(2, 5\)"),
        (IDS, {"lengths": np.array([3, 6])}, r"from 0 to 5, got \[3, 6\]"),
    ],
)
def test_texts_that_do_not_fit_are_refused(ids, options, message):
    with pytest.raises(ValueError, match=message):
        bert_forward(ids, make(), config=CONFIG, **options)


def test_ids_and_segments_that_are_not_integers_are_refused():
    with pytest.raises(TypeError, match="token ids must be integers, got dtype float64"):
        bert_forward(IDS.astype(float), make(), config=CONFIG)
    with pytest.raises(TypeError, match="segments must be integers, got dtype float64"):
        bert_forward(IDS, make(), config=CONFIG, segments=np.zeros((2, 5)))


@pytest.mark.parametrize("name", ["vocabulary", "context", "depth", "segments"])
def test_a_config_refuses_counts_below_one(name):
    with pytest.raises(ValueError, match=f"{name} must be a positive whole number, got 0"):
        replace(CONFIG, **{name: 0})


def test_lists_are_refused():
    with pytest.raises(TypeError, match="got list"):
        bert_forward(IDS.tolist(), make(), config=CONFIG)
    with pytest.raises(TypeError, match="got list"):
        bert_forward(IDS, make(), config=CONFIG, segments=np.zeros_like(IDS).tolist())


@pytest.mark.parametrize("key", ["tokens", "positions", "segments", "ln"])
def test_parameters_that_are_missing_are_named(key):
    p = make()
    del p[key]
    with pytest.raises(ValueError, match=rf"the parameters lack {key}\b"):
        bert_forward(IDS, p, config=CONFIG)


def test_a_block_of_another_type_is_refused():
    with pytest.raises(TypeError, match="block must be a BlockConfig, got 'post'"):
        replace(CONFIG, block="post")
