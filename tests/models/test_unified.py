"""Unified embedding: visual tokens among the words are read like words, by those who may."""

from dataclasses import replace

import numpy as np
import pytest

from scratch_vlm.cases import random_parameters
from scratch_vlm.layers.block import BlockConfig
from scratch_vlm.layers.connector import ConnectorConfig
from scratch_vlm.layers.embedding import embedding_forward
from scratch_vlm.layers.resampler import ResamplerConfig
from scratch_vlm.models.lm import LMConfig, lm_forward, lm_loss_forward
from scratch_vlm.models.unified import (
    UnifiedConfig,
    unified_backward,
    unified_embed_forward,
    unified_forward,
    unified_init,
    unified_loss_backward,
    unified_loss_forward,
    unified_order,
    visual_spans,
    visual_together,
)
from scratch_vlm.models.vision import SightConfig, TowerConfig, sight_forward
from scratch_vlm.models.vit import ViTConfig
from scratch_vlm.training.loop import TrainConfig, add_gradients
from scratch_vlm.training.optimizer import AdamW
from scratch_vlm.tree import FROZEN, freeze, leaves, tree_map, zeros_like

RNG = np.random.default_rng
IMAGE = 10
LMS = {
    "gpt": LMConfig.gpt(11, 24, width=8, heads=2, depth=2),
    "llama": LMConfig.llama(11, 24, width=8, heads=4, kv_heads=2, depth=2),
}
CONNECTORS = {
    "linear": {},
    "mlp": {},
    "pixel_shuffle": {"grid": (2, 2)},
    "resampler": {"resampler": ResamplerConfig(BlockConfig(8, 2, 12), 3, depth=1, frames=2)},
}
STYLE = pytest.mark.parametrize("style", LMS)
ORDER = pytest.mark.parametrize("order", ["causal", "prefix"])
I = [IMAGE] * 4  # noqa: E741
# Two images in the first text, with and without a word between; one in the second; none.
IDS = np.array(
    [
        [1, 2, *I, *I, 3, 4, 5, 6],
        [7, 8, 9, *I, 1, 2, 3, 4, 5, 6, 7],
        [1, 2, 3, 4, 5, 6, 7, 8, 9, 1, 2, 3, 4, 5],
    ]
)
IMAGES = RNG(1).standard_normal((3, 1, 4, 4, 1))
STARTS = [(0, 2), (0, 6), (1, 3)]  # text and place of each image's first token


def configure(style="gpt", order="causal", kind="linear", layers=(-2,), image=IMAGE):
    tower = TowerConfig(ViTConfig((4, 4, 1), (2, 2), 0, BlockConfig(8, 2, 12), 2), layers)
    connector = ConnectorConfig(kind, tower.outputs, 8, **CONNECTORS[kind])
    return UnifiedConfig(SightConfig(tower, connector), LMS[style], image, order)


def make(config):
    return random_parameters(RNG(0), unified_init(RNG(0), config))


def logits_of(ids, media, p, config, **options):
    return unified_forward(ids, media, p, config=config, **options)[0]


def places_behind(k):
    """Say which places may know of image k: those from its first token on, in its own text."""
    text, start = STARTS[k]
    allowed = np.zeros(IDS.shape, bool)
    allowed[text, start:] = True
    return allowed


@STYLE
@ORDER
@pytest.mark.parametrize("k", range(3))
def test_an_image_changes_only_what_stands_behind_it(style, order, k):
    config = configure(style, order)
    p = make(config)
    other = IMAGES.copy()
    other[k] = RNG(5).standard_normal(other[k].shape)
    before, after = (logits_of(IDS, media, p, config) for media in (IMAGES, other))
    changed = (before != after).any(-1)
    assert np.array_equal(changed, places_behind(k))


@STYLE
@ORDER
def test_a_token_sends_gradients_only_to_images_before_it(style, order):
    config = configure(style, order)
    p = make(config)
    logits, saved = unified_forward(IDS, IMAGES, p, config=config)
    for text, place in np.ndindex(*IDS.shape):
        dlogits = np.zeros_like(logits)
        dlogits[text, place] = RNG(6).standard_normal(11)
        dmedia = unified_backward(dlogits, saved, FROZEN)
        for k in range(3):
            assert dmedia[k].any() == places_behind(k)[text, place], (text, place, k)


@STYLE
def test_with_prefix_order_tokens_of_one_image_see_each_other_and_no_neighbour(style):
    moved = IMAGES.copy()
    moved[1, 0, 2:, 2:] += 1  # the last patch of the second image: its last token only,
    for order, first in (("causal", 9), ("prefix", 6)):  # as features of layer 0 are apart
        config = configure(style, order, layers=(0,))
        p = make(config)
        changed = logits_of(IDS, IMAGES, p, config) != logits_of(IDS, moved, p, config)
        assert not changed[1:].any() and not changed[0, :first].any()
        assert changed[0, first:].any(-1).all()


def test_who_reads_whom_is_drawn():
    config = configure(order="prefix", kind="resampler")
    ids = np.array([[1, *[IMAGE] * 6, 2], [*[IMAGE] * 3, 3, 4, 5, 6, 7]])
    together = visual_together(ids, config, IMAGES)
    assert together[0].astype(int).tolist() == [
        [0, 0, 0, 0, 0, 0, 0, 0],
        [0, 1, 1, 1, 0, 0, 0, 0],
        [0, 1, 1, 1, 0, 0, 0, 0],
        [0, 1, 1, 1, 0, 0, 0, 0],
        [0, 0, 0, 0, 1, 1, 1, 0],
        [0, 0, 0, 0, 1, 1, 1, 0],
        [0, 0, 0, 0, 1, 1, 1, 0],
        [0, 0, 0, 0, 0, 0, 0, 0],
    ]
    assert together[1, :3, :3].all() and together[1].sum() == 9
    order = unified_order(ids, config, IMAGES)
    assert np.array_equal(order["mask"][:, 0], together | np.tri(8, dtype=bool))
    assert visual_together(ids, replace(config, order="causal"), IMAGES) is None
    assert visual_together(ids, config, None) is None


def test_visual_tokens_stand_at_their_places_and_words_at_theirs():
    config = configure()
    p = make(config)
    x, _ = unified_embed_forward(IDS, IMAGES, p, config=config)
    visual, _ = sight_forward(IMAGES, p["sight"], config=config.sight)
    for (text, start), tokens in zip(STARTS, visual, strict=True):
        assert np.array_equal(x[text, start : start + 4], tokens)
    words, _ = embedding_forward(IDS, p["lm"]["tokens"])
    assert np.array_equal(x[IDS != IMAGE], words[IDS != IMAGE])


@STYLE
def test_the_vector_of_the_placeholder_is_never_read_and_never_learns(style):
    config = configure(style)
    p = make(config)
    logits, saved = unified_forward(IDS, IMAGES, p, config=config)
    g = zeros_like(p)
    dlogits = RNG(7).standard_normal(logits.shape)
    dlogits[..., IMAGE] = 0  # a tied head reads the vector, too
    unified_backward(dlogits, saved, g)
    assert not g["lm"]["tokens"]["w"][IMAGE].any()
    assert all(g["lm"]["tokens"]["w"][word].any() for word in range(1, 10))
    p["lm"]["tokens"]["w"][IMAGE] = 9
    moved = logits_of(IDS, IMAGES, p, config)
    assert np.array_equal(moved[..., :IMAGE], logits[..., :IMAGE])


@STYLE
@ORDER
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_without_images_it_is_the_language_model_to_the_bit(style, order, dtype):
    config = configure(style, order)
    p = tree_map(lambda x: x.astype(dtype), make(config))
    ids = IDS % IMAGE
    wanted, _ = lm_forward(ids, p["lm"], config=config.lm)
    for media in (None, IMAGES[:0].astype(dtype)):
        logits, saved = unified_forward(ids, media, p, config=config)
        assert np.array_equal(logits, wanted) and logits.dtype == dtype
        dmedia = unified_backward(np.ones_like(logits), saved, zeros_like(p))
        assert dmedia is None if media is None else dmedia.shape == media.shape
    # and so is a text without images among others with some
    mixed, _ = unified_forward(IDS, IMAGES.astype(dtype), p, config=config)
    assert np.array_equal(mixed[2], lm_forward(IDS, p["lm"], config=config.lm)[0][2])


@STYLE
def test_without_images_the_loss_is_that_of_the_language_model(style):
    config = configure(style)
    p, ids = make(config), IDS % IMAGE
    labels = np.where(RNG(3).random(ids.shape) < 0.5, -100, ids)
    loss, _ = unified_loss_forward(ids, labels, None, p, config=config)
    assert loss == lm_loss_forward(ids, labels, p["lm"], config=config.lm)[0]


@STYLE
@ORDER
def test_padding_on_either_side_changes_nothing(style, order):
    config = configure(style, order)
    p = make(config)
    plain = logits_of(IDS, IMAGES, p, config)
    behind = np.pad(IDS, ((0, 0), (0, 3)))
    np.testing.assert_allclose(logits_of(behind, IMAGES, p, config)[:, :14], plain, atol=1e-12)
    for before, after in ((0, 3), (3, 0), (2, 1)):
        ids = np.pad(IDS, ((0, 0), (before, after)))
        real = np.pad(IDS > 0, ((0, 0), (before, after)))
        logits = logits_of(ids, IMAGES, p, config, real=real)
        np.testing.assert_allclose(logits[:, before : before + 14], plain, atol=1e-12)


@STYLE
@ORDER
def test_a_batch_is_its_texts_one_by_one(style, order):
    config = configure(style, order)
    p = make(config)
    batch = logits_of(IDS, IMAGES, p, config)
    for i, media in enumerate((IMAGES[:2], IMAGES[2:], None)):
        alone = logits_of(IDS[i : i + 1], media, p, config)
        np.testing.assert_allclose(alone[0], batch[i], atol=1e-12)


@STYLE
@ORDER
def test_turns_that_stand_apart_are_read_one_by_one(style, order):
    config = configure(style, order)
    p, image = make(config), IMAGES[:1]
    shown, asked = [1, *[IMAGE] * 4], [[2, 3, 4], [5, 6], [7, 8, 9, 1]]
    ids = np.concatenate([shown, *asked])[None]
    turns = np.array([[0] * 5 + [1] * 3 + [2] * 2 + [3] * 4])
    together = logits_of(ids, image, p, config, turns=turns)
    for turn, question in enumerate(asked, start=1):
        alone = logits_of(np.array([shown + question]), image, p, config)
        np.testing.assert_allclose(together[turns == turn], alone[0, 5:], atol=1e-12)
        np.testing.assert_allclose(together[0, :5], alone[0, :5], atol=1e-12)
    assert np.abs(together - logits_of(ids, image, p, config)).max() > 1e-3


@ORDER
@pytest.mark.parametrize("kind", CONNECTORS)
def test_videos_of_different_lengths_are_read_one_by_one(kind, order):
    config = configure("gpt", order, kind)
    p, videos = make(config), RNG(4).standard_normal((3, 2, 4, 4, 1))
    lengths = np.array([1, 2, 1])
    spans = visual_spans(config, videos, lengths)
    each = config.sight.tokens()
    assert spans.tolist() == ([each, 2 * each, each] if kind != "resampler" else [3, 3, 3])
    rows = [[1, *[IMAGE] * spans[0], 2, *[IMAGE] * spans[1], 3], [4, *[IMAGE] * spans[2], 5]]
    ids = np.array([row + [6] * (16 - len(row)) for row in rows])
    batch, saved = unified_forward(ids, videos, p, config=config, lengths=lengths)
    dmedia = unified_backward(RNG(5).standard_normal(batch.shape), saved, zeros_like(p))
    assert not dmedia[0, 1].any() and not dmedia[2, 1].any()
    assert dmedia[0, 0].any() and dmedia[1].any(axis=(1, 2, 3)).all() and dmedia[2, 0].any()
    alone = logits_of(ids[1:], videos[2:, :1], p, config)
    np.testing.assert_allclose(batch[1:], alone, atol=1e-12)


@pytest.mark.parametrize("kind", CONNECTORS)
@pytest.mark.parametrize("frames", [1, 2])
def test_every_connector_reads_images_and_videos_and_learns(kind, frames):
    config = configure("llama", kind=kind, layers=(-2, -1))
    p = make(config)
    media = RNG(4).standard_normal((2, frames, 4, 4, 1))
    n = config.sight.tokens(frames)
    ids = np.array([[1, *[IMAGE] * n, 2, 3, 4], [5, 6, *[IMAGE] * n, 7, 8]])
    loss, saved = unified_loss_forward(ids, ids, media, p, config=config)
    g = zeros_like(p)
    assert unified_loss_backward(1.0, saved, g).any(axis=(1, 2, 3, 4)).all()
    assert np.isfinite(loss)
    assert [name for name, x in leaves(g) if not x.any()] == []


def test_labels_that_are_left_out_teach_nothing():
    config = configure()
    p = make(config)
    labels = np.full(IDS.shape, -100)
    labels[0, 11:] = IDS[0, 11:]
    loss, saved = unified_loss_forward(IDS, labels, IMAGES, p, config=config)
    logits = logits_of(IDS, IMAGES, p, config)[0, 10:13]
    logp = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    np.testing.assert_allclose(loss, -logp[range(3), IDS[0, 11:]].mean(), rtol=1e-12)
    dmedia = unified_loss_backward(1.0, saved, zeros_like(p))
    assert dmedia[0].any() and dmedia[1].any() and not dmedia[2].any()
    none = np.full(IDS.shape, -100)
    loss, saved = unified_loss_forward(IDS, none, IMAGES, p, config=config)
    g = zeros_like(p)
    dmedia = unified_loss_backward(1.0, saved, g)
    assert loss == 0 and not dmedia.any() and not any(x.any() for _, x in leaves(g))


@ORDER
def test_a_tower_that_does_not_learn_changes_nothing_else(order):
    config = configure(order=order)
    p, runs = make(config), []
    for learn in (True, False):
        g = zeros_like(p)
        loss, saved = unified_loss_forward(IDS, IDS, IMAGES, p, config=config, learn_tower=learn)
        runs.append((loss, unified_loss_backward(1.0, saved, g), g))
    (loss, dmedia, g), (same, none, still) = runs
    assert loss == same and dmedia is not None and none is None
    assert not any(x.any() for _, x in leaves(still["sight"]["tower"]))
    del g["sight"]["tower"], still["sight"]["tower"]
    for (name, x), (_, y) in zip(leaves(g), leaves(still), strict=True):
        assert np.array_equal(x, y), name


STAGES = {
    "connector": (("sight/connector/.*", True), (".*", False)),
    "all but the tower": (("sight/tower/.*", False), (".*", True)),
    "all": ((".*", True),),
}


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_trains_what_its_rules_say_and_nothing_else(stage):
    config = configure("llama", kind="mlp")
    p = tree_map(lambda x: x.astype("float32"), make(config))
    train = TrainConfig(steps=4, batch_size=3, peak_rate=0.01, trained=STAGES[stage])
    optimizer = AdamW(p, trained=train.trained, decay=0.0)
    names = {name for name, _ in leaves(freeze(zeros_like(p), train.trained))}
    before = {name: x.copy() for name, x in leaves(optimizer.p)}
    media, losses = IMAGES.astype("float32"), []

    def forward(ids, labels, media, p):
        learn = any(name.startswith("sight/tower/") for name in names)
        return unified_loss_forward(ids, labels, media, p, config=config, learn_tower=learn)

    for _ in range(train.steps):
        loss = add_gradients(
            forward, unified_loss_backward, (IDS, IDS, media), optimizer.p, optimizer.g
        )
        losses.append(float(loss))
        optimizer.step(train.peak_rate)
    moved = {name for name, x in leaves(optimizer.p) if not np.array_equal(x, before[name])}
    assert moved == names
    assert losses == sorted(losses, reverse=True) and losses[-1] < losses[0]


@STYLE
@ORDER
def test_texts_without_a_real_token_give_finite_numbers(style, order):
    config = configure(style, order)
    p = make(config)
    real = np.ones(IDS.shape, bool)
    real[0] = False
    logits, saved = unified_forward(IDS, IMAGES, p, config=config, real=real)
    g = zeros_like(p)
    dmedia = unified_backward(RNG(3).standard_normal(logits.shape), saved, g)
    assert np.isfinite(logits).all() and np.isfinite(dmedia).all()
    assert all(np.isfinite(x).all() for _, x in leaves(g))
    np.testing.assert_allclose(logits[1:], logits_of(IDS, IMAGES, p, config)[1:], atol=1e-12)


@ORDER
def test_media_without_a_real_frame_keep_no_place(order):
    config = configure(order=order)
    p, ids, lengths = make(config), IDS % IMAGE, np.zeros(3, int)
    logits, saved = unified_forward(ids, IMAGES, p, config=config, lengths=lengths)
    assert np.array_equal(logits, lm_forward(ids, p["lm"], config=config.lm)[0])
    assert not unified_backward(logits, saved, zeros_like(p)).any()


def test_no_texts_are_no_logits():
    config = configure(order="prefix")
    p = make(config)
    for media in (None, IMAGES[:0]):
        logits, saved = unified_forward(IDS[:0], media, p, config=config)
        assert logits.shape == (0, 14, 11)
        unified_backward(logits, saved, zeros_like(p))


@pytest.mark.parametrize("order", ["causal", "prefix"])
def test_places_and_images_that_do_not_match_are_refused_with_their_numbers(order):
    config = configure(order=order)
    p = make(config)
    kept = r"keep \[8, 4, 0\] places"
    for media, count in ((IMAGES[:2], 2), (IMAGES.repeat(2, 0), 6), (None, 0), (IMAGES[:0], 0)):
        with pytest.raises(ValueError, match=f"{kept} .* the {count} images"):
            logits_of(IDS, media, p, config)
    with pytest.raises(ValueError, match=r"keep \[0, 0, 0\] places"):
        logits_of(IDS % IMAGE, IMAGES, p, config)
    with pytest.raises(ValueError, match=rf"{kept} .* \[8, 8, 8\]"):
        logits_of(IDS, IMAGES.repeat(2, 1), p, config)
    # as many places as tokens, but an image would go on in the next text
    torn = np.array([[1, *I, IMAGE, IMAGE], [2, IMAGE, IMAGE, 3, 4, 5, 6]])
    with pytest.raises(ValueError, match=r"keep \[6, 2\] places .* \[4, 4\]"):
        logits_of(torn, IMAGES[:2], p, config)


def test_inputs_that_do_not_fit_are_refused():
    config = configure()
    p = make(config)
    with pytest.raises(ValueError, match=r"images\[:, None\]"):
        logits_of(IDS, IMAGES[:, 0], p, config)
    with pytest.raises(ValueError, match="no frames"):
        logits_of(IDS, IMAGES[:, :0], p, config)
    for wrong in (11, -1):
        with pytest.raises(ValueError, match=f"token id {wrong} is none of the 11"):
            logits_of(np.where(IDS == 1, wrong, IDS), IMAGES, p, config)
    with pytest.raises(TypeError, match="integers"):
        logits_of(IDS.astype(float), IMAGES, p, config)
    with pytest.raises(ValueError, match="context of 24"):
        logits_of(np.pad(IDS, ((0, 0), (0, 11))), IMAGES, p, config)
    with pytest.raises(ValueError, match=r"\(B, T\)"):
        logits_of(IDS[0], IMAGES, p, config)
    for real in (np.ones((1, 14), bool), np.ones((3, 13), bool)):
        with pytest.raises(ValueError, match="must have the shape of ids"):
            logits_of(IDS, IMAGES, p, config, real=real)
    with pytest.raises(ValueError, match=r"turns \(1, 14\) must have the shape of ids, \(3, 14\)"):
        logits_of(IDS, IMAGES, p, config, turns=np.zeros((1, 14), int))
    with pytest.raises(ValueError, match="give real or turns"):
        logits_of(IDS, IMAGES, p, config, real=IDS > 0, turns=np.zeros_like(IDS))
    with pytest.raises(TypeError, match="turns must be integers, got dtype float64"):
        logits_of(IDS, IMAGES, p, config, turns=np.zeros(IDS.shape))
    with pytest.raises(ValueError, match=r"lengths \(2,\) must be one for each of the 3 media"):
        logits_of(IDS, IMAGES, p, config, lengths=np.array([1, 1]))
    with pytest.raises(ValueError, match="lengths"):
        logits_of(IDS, IMAGES, p, config, lengths=np.array([1, 2, 1]))
    with pytest.raises(ValueError, match="lack sight"):
        logits_of(IDS, IMAGES, {"lm": p["lm"]}, config)
    with pytest.raises(ValueError, match="tied=False"):
        logits_of(IDS, IMAGES, p, replace(config, lm=replace(config.lm, tied=False)))


def test_configs_that_do_not_fit_together_are_refused():
    config = configure()
    with pytest.raises(ValueError, match="8 channels; the language model reads 16"):
        replace(config, lm=LMConfig.gpt(11, 24, width=16, heads=2, depth=2))
    with pytest.raises(ValueError, match="causal, prefix, got 'both'"):
        replace(config, order="both")
    for image in (11, -1):
        with pytest.raises(ValueError, match=f"placeholder, {image}, is outside .* 11"):
            replace(config, image=image)
    with pytest.raises(TypeError, match="sight"):
        replace(config, sight=config.sight.tower)
    with pytest.raises(TypeError, match="lm"):
        replace(config, lm=config.lm.block)


def test_trained_parts_are_where_it_starts():
    config = configure()
    vit, lm = make(config)["sight"]["tower"], make(config)["lm"]
    p = unified_init(RNG(3), config, lm=lm)
    assert p["lm"] is lm and set(p["sight"]["tower"]) == set(vit)
