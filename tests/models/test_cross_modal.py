"""Cross-modality attention: words see the images that a rule lets them see, once gates open."""

from dataclasses import replace

import numpy as np
import pytest

from scratch_vlm.cases import random_parameters
from scratch_vlm.layers.block import BLOCKS, BlockConfig
from scratch_vlm.layers.connector import ConnectorConfig
from scratch_vlm.layers.gated import GatedConfig, gated_block_forward
from scratch_vlm.layers.norm import NORMS
from scratch_vlm.layers.resampler import ResamplerConfig
from scratch_vlm.models.cross_modal import (
    CrossModalConfig,
    cross_modal_backward,
    cross_modal_forward,
    cross_modal_init,
    cross_modal_loss_backward,
    cross_modal_loss_forward,
    cross_trunk_forward,
    look_forward,
    seen_mask,
)
from scratch_vlm.models.lm import LMConfig, lm_backward, lm_forward
from scratch_vlm.models.vision import SightConfig, TowerConfig, sight_forward
from scratch_vlm.models.vit import ViTConfig
from scratch_vlm.ops.attend import attention_weights
from scratch_vlm.training.loop import TrainConfig, add_gradients
from scratch_vlm.training.optimizer import AdamW
from scratch_vlm.tree import FROZEN, freeze, leaves, tree_map, zeros_like

RNG = np.random.default_rng
IMAGE = 10
LMS = {
    "gpt": LMConfig.gpt(11, 12, width=8, heads=2, depth=2),
    "llama": LMConfig.llama(11, 12, width=8, heads=4, kv_heads=2, depth=2),
}
GATED = {
    "flamingo": GatedConfig(BlockConfig(8, 2, 12, mlp="squared_relu", bias=False), 6),
    "biased": GatedConfig(BlockConfig(8, 2, 12), 6, head_width=3, gate_width="channel"),
    "llama": GatedConfig(
        BlockConfig(8, 4, 12, kv_heads=2, norm="rms", mlp="swiglu", bias=False),
        6,
        qk_norm=True,
        skip_blind=True,
    ),
}
SAMPLER = ResamplerConfig(BlockConfig(8, 2, 12), 3, depth=1, frames=2)
CONNECTORS = {
    "linear": {},
    "mlp": {},
    "pixel_shuffle": {"grid": (2, 2)},
    "resampler": {"resampler": SAMPLER},
}
GATES = pytest.mark.parametrize("gated", GATED)
STYLE = pytest.mark.parametrize("style", LMS)
RULE = pytest.mark.parametrize("rule", ["last", "all", "run"])
# Three images in the first text, the last two side by side; one in the second; none.
IDS = np.array(
    [[1, 2, IMAGE, 3, IMAGE, IMAGE, 4], [5, IMAGE, 6, 7, 8, 9, 1], [1, 2, 3, 4, 5, 6, 7]]
)
IMAGES = RNG(1).standard_normal((4, 1, 4, 4, 1))
STARTS = [(0, 2), (0, 4), (0, 5), (1, 1)]  # text and place of each image
SEEN = {  # by each token of the first text, of its three images
    "last": ["---", "---", "x--", "x--", "-x-", "--x", "--x"],
    "run": ["---", "---", "x--", "x--", "-x-", "-xx", "-xx"],
    "all": ["---", "---", "x--", "x--", "xx-", "xxx", "xxx"],
}


def configure(
    style="gpt", gated="flamingo", rule="last", kind="linear", places=(0, 1), layers=(-2,)
):
    tower = TowerConfig(ViTConfig((4, 4, 1), (2, 2), 0, BlockConfig(8, 2, 12), 2), layers)
    connector = ConnectorConfig(kind, tower.outputs, 6, **CONNECTORS[kind])
    sight = SightConfig(tower, connector)
    return CrossModalConfig(sight, LMS[style], GATED[gated], places, IMAGE, rule)


def make(config):
    return random_parameters(RNG(0), cross_modal_init(RNG(0), config))


def close(p):
    for block in p["gated"].values():
        block["attn_gate"][...] = block["mlp_gate"][...] = 0
    return p


def alone(p):
    """Keep words from reading each other, so that each tells what it has seen itself."""
    for block in p["lm"]["blocks"].values():
        for x in block["attn"]["out"].values():
            x[...] = 0
    return p


def logits_of(ids, media, p, config, **options):
    return cross_modal_forward(ids, media, p, config=config, **options)[0]


def places_that_see(k, rule):
    text, place = STARTS[k]
    allowed = np.zeros(IDS.shape, bool)
    if text:
        allowed[text, place:] = True
    else:
        allowed[text] = [row[k] == "x" for row in SEEN[rule]]
    return allowed


def places_behind(k):
    text, place = STARTS[k]
    allowed = np.zeros(IDS.shape, bool)
    allowed[text, place:] = True
    return allowed


def with_another(k):
    other = IMAGES.copy()
    other[k] = RNG(5).standard_normal(other[k].shape)
    return other


@pytest.mark.parametrize("places", [(0,), (2,), (0, 2), (0, 1, 2)])
def test_gated_blocks_stand_before_the_blocks_of_their_numbers(places):
    config = configure("llama", "llama")
    config = replace(config, lm=replace(config.lm, depth=3), places=places)
    p, block = make(config), config.lm.block
    x, z = RNG(2).standard_normal((3, 7, 8)), RNG(3).standard_normal((3, 5, 6))
    y, _ = cross_trunk_forward(x, z, p, config=config)
    for i in range(3):
        if i in places:
            x, _ = gated_block_forward(x, z, p["gated"][str(i)], config=config.gated)
        mask = np.tri(7, dtype=bool)
        x, _ = BLOCKS["pre"][0](x, p["lm"]["blocks"][str(i)], config=block, mask=mask)
    x, _ = NORMS["rms"][1](x, p["lm"]["ln"], eps=block.eps)
    np.testing.assert_allclose(y, x, rtol=1e-12)


@STYLE
@GATES
@RULE
def test_an_image_changes_only_the_words_that_see_it_or_read_one_that_does(style, gated, rule):
    config = configure(style, gated, rule)
    p = make(config)
    before = logits_of(IDS, IMAGES, p, config)
    for k in range(4):
        changed = (logits_of(IDS, with_another(k), p, config) != before).any(-1)
        assert np.array_equal(changed, places_behind(k)), k


@GATES
@RULE
@pytest.mark.parametrize("kind", CONNECTORS)
def test_words_that_do_not_read_each_other_tell_what_the_rule_shows_them(gated, rule, kind):
    config = configure("gpt", gated, rule, kind)
    p = alone(make(config))
    before = logits_of(IDS, IMAGES, p, config)
    for k in range(4):
        changed = (logits_of(IDS, with_another(k), p, config) != before).any(-1)
        assert np.array_equal(changed, places_that_see(k, rule)), k


@GATES
@RULE
@pytest.mark.parametrize("mixed", [True, False])
def test_a_token_sends_gradients_only_to_images_it_may_know_of(gated, rule, mixed):
    config = configure("gpt", gated, rule)
    p = make(config) if mixed else alone(make(config))
    logits, saved = cross_modal_forward(IDS, IMAGES, p, config=config)
    for text, place in np.ndindex(*IDS.shape):
        dlogits = np.zeros_like(logits)
        dlogits[text, place] = RNG(6).standard_normal(11)
        dmedia = cross_modal_backward(dlogits, saved, FROZEN)
        for k in range(4):
            knows = places_behind(k) if mixed else places_that_see(k, rule)
            assert dmedia[k].any() == knows[text, place], (text, place, k)


@GATES
@RULE
def test_the_maps_show_who_looked_where(gated, rule):
    config = configure("gpt", gated, rule, "pixel_shuffle")  # one visual token for an image
    _, saved = cross_modal_forward(IDS, IMAGES, make(config), config=config)
    for block in saved["trunk"]["gated"].values():
        maps = attention_weights(block["attn"]["attend"])
        for a in range(maps.shape[1]):
            drawn = ["".join("-x"[int(weight > 0)] for weight in row) for row in maps[0, a]]
            assert drawn == SEEN[rule]
        assert not maps[2].any() and not maps[1, :, :, 1:].any()
        np.testing.assert_allclose(maps[1, :, 1:, 0], 1)


@STYLE
@GATES
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_closed_gates_leave_the_language_model_to_the_bit(style, gated, dtype):
    config = configure(style, gated)
    p = tree_map(lambda x: x.astype(dtype), close(make(config)))
    logits = logits_of(IDS, IMAGES.astype(dtype), p, config)
    assert logits.dtype == dtype
    assert np.array_equal(logits, lm_forward(IDS, p["lm"], config=config.lm)[0])
    for gate in ("attn_gate", "mlp_gate"):  # either gate that opens is noticed
        p["gated"]["1"][gate][...] = 0.5
        assert (logits_of(IDS, IMAGES.astype(dtype), p, config) != logits).any()
        p["gated"]["1"][gate][...] = 0


@STYLE
def test_a_new_model_says_what_its_language_model_says(style):
    config = configure(style)
    p = cross_modal_init(RNG(0), config)
    logits = logits_of(IDS, IMAGES.astype("float32"), p, config)
    assert np.array_equal(logits, lm_forward(IDS, p["lm"], config=config.lm)[0])


@STYLE
@RULE
@pytest.mark.parametrize("gated", ["flamingo", "llama"])
def test_open_gates_change_words_that_see_nothing_only_in_flamingo(style, gated, rule):
    config = configure(style, gated, rule)
    p = make(config)
    logits = logits_of(IDS, IMAGES, p, config)
    same = (logits == lm_forward(IDS, p["lm"], config=config.lm)[0]).all(-1)
    blind = (IDS == IMAGE).cumsum(1) == 0
    assert blind.sum() == 2 + 1 + 7
    # Flamingo's feed-forward half acts on them; Llama 3.2 Vision skips it.
    assert np.array_equal(same, blind if gated == "llama" else np.zeros_like(blind))


@STYLE
@GATES
def test_behind_closed_gates_only_the_gates_learn(style, gated):
    config = configure(style, gated)
    p = close(make(config))
    logits, saved = cross_modal_forward(IDS, IMAGES, p, config=config)
    dlogits, g = RNG(3).standard_normal(logits.shape), zeros_like(p)
    dmedia = cross_modal_backward(dlogits, saved, g)
    assert not dmedia.any()
    for name, x in leaves({"gated": g["gated"], "sight": g["sight"]}):
        assert x.any() == name.endswith("_gate"), name
    wanted = zeros_like(p["lm"])
    lm_backward(dlogits, lm_forward(IDS, p["lm"], config=config.lm)[1], wanted)
    for (name, x), (_, y) in zip(leaves(g["lm"]), leaves(wanted), strict=True):
        assert np.array_equal(x, y), name


def test_every_text_has_its_own_visual_tokens_beside_it():
    config = configure(rule="all")
    p = make(config)
    z, _ = look_forward(IDS, IMAGES, p, config=config)
    visual, _ = sight_forward(IMAGES, p["sight"], config=config.sight)
    assert z.shape == (3, 3 * 4, 6)
    assert np.array_equal(z[0].reshape(3, 4, 6), visual[:3])
    assert np.array_equal(z[1, :4], visual[3]) and not z[1, 4:].any() and not z[2].any()
    seen = seen_mask(IDS, config, IMAGES, 12)
    assert seen.shape == (3, 1, 7, 12) and seen[0, 0, -1].all()
    assert seen[1, 0, -1].tolist() == [True] * 4 + [False] * 8 and not seen[2].any()


@STYLE
@GATES
def test_without_images_nothing_is_seen(style, gated):
    config = configure(style, gated)
    p, ids = make(config), IDS % IMAGE
    runs = [cross_modal_forward(ids, media, p, config=config) for media in (None, IMAGES[:0])]
    assert np.array_equal(runs[0][0], runs[1][0])
    if gated == "llama":
        assert np.array_equal(runs[0][0], lm_forward(ids, p["lm"], config=config.lm)[0])
    g = zeros_like(p)
    assert cross_modal_backward(np.ones_like(runs[0][0]), runs[0][1], g) is None
    assert cross_modal_backward(np.ones_like(runs[0][0]), runs[1][1], g).shape == (0, 1, 4, 4, 1)
    assert not any(x.any() for _, x in leaves(g["sight"]))
    assert all(np.isfinite(x).all() for _, x in leaves(g))
    # a text without images among others with some
    mixed = logits_of(IDS, IMAGES, p, config)
    np.testing.assert_allclose(mixed[2:], logits_of(IDS[2:], None, p, config), atol=1e-12)


@STYLE
@RULE
@GATES
def test_padding_on_either_side_and_spare_slots_change_nothing(style, rule, gated):
    config = configure(style, gated, rule)
    p = make(config)
    plain = logits_of(IDS, IMAGES, p, config)
    spare = logits_of(IDS, IMAGES, p, config, slots=5)
    np.testing.assert_allclose(spare, plain, atol=1e-12)
    behind = np.pad(IDS, ((0, 0), (0, 3)))
    np.testing.assert_allclose(logits_of(behind, IMAGES, p, config)[:, :7], plain, atol=1e-12)
    for before, after in ((0, 3), (3, 0), (2, 1)):
        ids = np.pad(IDS, ((0, 0), (before, after)))
        real = np.pad(IDS > 0, ((0, 0), (before, after)))
        logits = logits_of(ids, IMAGES, p, config, real=real)
        np.testing.assert_allclose(logits[:, before : before + 7], plain, atol=1e-12)


@STYLE
@RULE
def test_a_batch_is_its_texts_one_by_one(style, rule):
    config = configure(style, rule=rule)
    p = make(config)
    batch = logits_of(IDS, IMAGES, p, config)
    for i, media in enumerate((IMAGES[:3], IMAGES[3:], None)):
        single = logits_of(IDS[i : i + 1], media, p, config)
        np.testing.assert_allclose(single[0], batch[i], atol=1e-12)


@STYLE
@RULE
@GATES
def test_turns_that_stand_apart_are_read_one_by_one(style, rule, gated):
    config = configure(style, gated, rule)
    p = make(config)
    shown, asked = [1, IMAGE, 2, IMAGE], [[2, 3, 4], [5, 6]]
    ids = np.concatenate([shown, *asked])[None]
    turns = np.array([[0] * 4 + [1] * 3 + [2] * 2])
    together = logits_of(ids, IMAGES[:2], p, config, turns=turns)
    for turn, question in enumerate(asked, start=1):
        single = logits_of(np.array([shown + question]), IMAGES[:2], p, config)
        np.testing.assert_allclose(together[turns == turn], single[0, 4:], atol=1e-12)
        np.testing.assert_allclose(together[0, :4], single[0, :4], atol=1e-12)
    assert np.abs(together - logits_of(ids, IMAGES[:2], p, config)).max() > 1e-3


@RULE
@pytest.mark.parametrize("kind", CONNECTORS)
def test_videos_of_different_lengths_are_seen_one_by_one(kind, rule):
    config = configure(rule=rule, kind=kind)
    p, videos = make(config), RNG(4).standard_normal((4, 2, 4, 4, 1))
    lengths = np.array([2, 1, 2, 1])
    batch, saved = cross_modal_forward(IDS, videos, p, config=config, lengths=lengths)
    dmedia = cross_modal_backward(RNG(5).standard_normal(batch.shape), saved, zeros_like(p))
    real = np.arange(2) < lengths[:, None]
    assert np.array_equal(dmedia.any(axis=(2, 3, 4)), real)
    spoilt = np.where(real[..., None, None, None], videos, np.nan)
    assert np.array_equal(logits_of(IDS, spoilt, p, config, lengths=lengths), batch)
    single = logits_of(IDS[1:2], videos[3:, :1], p, config)
    np.testing.assert_allclose(single[0], batch[1], atol=1e-12)


@pytest.mark.parametrize("kind", CONNECTORS)
@pytest.mark.parametrize("frames", [1, 2])
@GATES
def test_every_connector_sees_images_and_videos_and_learns(kind, frames, gated):
    config = configure("llama", gated, "run", kind, layers=(-2, -1))
    p, media = make(config), RNG(4).standard_normal((4, frames, 4, 4, 1))
    loss, saved = cross_modal_loss_forward(IDS, IDS, media, p, config=config)
    g = zeros_like(p)
    assert cross_modal_loss_backward(1.0, saved, g).any(axis=(1, 2, 3, 4)).all()
    assert np.isfinite(loss)
    assert [name for name, x in leaves(g) if not x.any()] == []


def test_labels_that_are_left_out_teach_nothing():
    config = configure()
    p, labels = make(config), np.full(IDS.shape, -100)
    labels[0, 4:] = IDS[0, 4:]
    loss, saved = cross_modal_loss_forward(IDS, labels, IMAGES, p, config=config)
    logits = logits_of(IDS, IMAGES, p, config)[0, 3:6]
    logp = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    np.testing.assert_allclose(loss, -logp[range(3), IDS[0, 4:]].mean(), rtol=1e-12)
    dmedia = cross_modal_loss_backward(1.0, saved, zeros_like(p))
    assert dmedia[:3].any(axis=(1, 2, 3, 4)).all() and not dmedia[3].any()
    loss, saved = cross_modal_loss_forward(IDS, labels * 0 - 100, IMAGES, p, config=config)
    g = zeros_like(p)
    dmedia = cross_modal_loss_backward(1.0, saved, g)
    assert loss == 0 and not dmedia.any() and not any(x.any() for _, x in leaves(g))


@GATES
def test_a_tower_that_does_not_learn_changes_nothing_else(gated):
    config, runs = configure(gated=gated), []
    p = make(config)
    for learn in (True, False):
        g = zeros_like(p)
        loss, saved = cross_modal_loss_forward(
            IDS, IDS, IMAGES, p, config=config, learn_tower=learn
        )
        runs.append((loss, cross_modal_loss_backward(1.0, saved, g), g))
    (loss, dmedia, g), (same, none, still) = runs
    assert loss == same and dmedia is not None and none is None
    assert not any(x.any() for _, x in leaves(still["sight"]["tower"]))
    del g["sight"]["tower"], still["sight"]["tower"]
    for (name, x), (_, y) in zip(leaves(g), leaves(still), strict=True):
        assert np.array_equal(x, y), name


STAGES = {
    "sight and gated blocks": (("lm/.*", False), (".*", True)),
    "connector and gated blocks": (("sight/connector/.*|gated/.*", True), (".*", False)),
    "all": ((".*", True),),
}


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_trains_what_its_rules_say_and_begins_with_the_gates(stage):
    config = configure("llama")
    p = tree_map(lambda x: x.astype("float32"), close(make(config)))
    train = TrainConfig(steps=4, batch_size=3, peak_rate=0.01, trained=STAGES[stage])
    optimizer = AdamW(p, trained=train.trained, decay=0.0)
    names = {name for name, _ in leaves(freeze(zeros_like(p), train.trained))}
    before = {name: x.copy() for name, x in leaves(optimizer.p)}
    media, losses = IMAGES.astype("float32"), []

    def forward(ids, labels, media, p):
        return cross_modal_loss_forward(ids, labels, media, p, config=config)

    def moved():
        return {name for name, x in leaves(optimizer.p) if not np.array_equal(x, before[name])}

    for step in range(train.steps):
        loss = add_gradients(
            forward, cross_modal_loss_backward, (IDS, IDS, media), optimizer.p, optimizer.g
        )
        losses.append(float(loss))
        optimizer.step(train.peak_rate)
        if not step:
            assert moved() == {n for n in names if n.endswith("_gate") or n.startswith("lm/")}
    assert moved() == names
    assert losses == sorted(losses, reverse=True) and losses[-1] < losses[0]


@STYLE
@GATES
def test_texts_without_a_real_token_give_finite_numbers(style, gated):
    config = configure(style, gated)
    p, real = make(config), np.ones(IDS.shape, bool)
    real[0] = False
    logits, saved = cross_modal_forward(IDS, IMAGES, p, config=config, real=real)
    g = zeros_like(p)
    dmedia = cross_modal_backward(RNG(3).standard_normal(logits.shape), saved, g)
    assert np.isfinite(logits).all() and np.isfinite(dmedia).all()
    assert all(np.isfinite(x).all() for _, x in leaves(g))
    np.testing.assert_allclose(logits[1:], logits_of(IDS, IMAGES, p, config)[1:], atol=1e-12)


@GATES
def test_media_without_a_real_frame_are_not_seen(gated):
    config = configure(gated=gated)
    p, lengths = make(config), np.zeros(4, int)
    logits, saved = cross_modal_forward(IDS, IMAGES, p, config=config, lengths=lengths)
    assert np.array_equal(logits, logits_of(IDS, IMAGES + 1, p, config, lengths=lengths))
    assert not cross_modal_backward(np.ones_like(logits), saved, zeros_like(p)).any()
    if gated == "llama":
        assert np.array_equal(logits, lm_forward(IDS, p["lm"], config=config.lm)[0])


def test_no_texts_are_no_logits():
    config = configure()
    p = make(config)
    for media in (None, IMAGES[:0]):
        logits, saved = cross_modal_forward(IDS[:0], media, p, config=config)
        assert logits.shape == (0, 7, 11)
        cross_modal_backward(logits, saved, zeros_like(p))


def test_places_and_images_that_do_not_match_are_refused_with_their_numbers():
    config = configure()
    p = make(config)
    kept = r"places for \[3, 1, 0\] .* 4 in all"
    for media, count in ((IMAGES[:3], 3), (IMAGES.repeat(2, 0), 8), (None, 0), (IMAGES[:0], 0)):
        with pytest.raises(ValueError, match=f"{kept}, but {count} were given"):
            logits_of(IDS, media, p, config)
    with pytest.raises(ValueError, match="0 in all, but 4 were given"):
        logits_of(IDS % IMAGE, IMAGES, p, config)
    with pytest.raises(ValueError, match=r"a text has 3 .* 2"):
        logits_of(IDS, IMAGES, p, config, slots=2)


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
    with pytest.raises(ValueError, match="context of 12"):
        logits_of(np.pad(IDS, ((0, 0), (0, 6))), IMAGES, p, config)
    with pytest.raises(ValueError, match=r"\(B, T\)"):
        logits_of(IDS[0], IMAGES, p, config)
    for real in (np.ones((1, 7), bool), np.ones((3, 6), bool)):
        with pytest.raises(ValueError, match="must have the shape of ids"):
            logits_of(IDS, IMAGES, p, config, real=real)
    with pytest.raises(ValueError, match=r"lengths \(2,\) must be one for each of the 4 media"):
        logits_of(IDS, IMAGES, p, config, lengths=np.array([1, 1]))
    with pytest.raises(ValueError, match="lengths"):
        logits_of(IDS, IMAGES, p, config, lengths=np.array([1, 2, 1, 1]))
    with pytest.raises(ValueError, match="lack gated"):
        logits_of(IDS, IMAGES, {"lm": p["lm"], "sight": p["sight"]}, config)
    with pytest.raises(ValueError, match=r"before \(1,\); the parameters hold some before 0, 1"):
        logits_of(IDS, IMAGES, p, replace(config, places=(1,)))


def test_configs_that_do_not_fit_together_are_refused():
    config = configure()
    with pytest.raises(ValueError, match=r"\(6, 16\); the gated blocks take \(6, 8\)"):
        replace(config, lm=LMConfig.gpt(11, 12, width=16, heads=2, depth=2))
    with pytest.raises(ValueError, match=r"\(6, 8\); the gated blocks take \(5, 8\)"):
        replace(config, gated=replace(config.gated, source=5))
    for places, why in (
        ((), "at least one"),
        ((1, 0), "in order and differ"),
        ((1, 1), "in order and differ"),
        ((0, 2), "blocks 0 to 1"),
        ((-1, 0), "blocks 0 to 1"),
    ):
        with pytest.raises(ValueError, match=why):
            replace(config, places=places)
    with pytest.raises(ValueError, match="last, run, all, got 'first'"):
        replace(config, rule="first")
    with pytest.raises(ValueError, match=r"placeholder, 11, is outside .* 11"):
        replace(config, image=11)
    with pytest.raises(TypeError, match="gated"):
        replace(config, gated=config.gated.block)


def test_trained_parts_are_where_it_starts():
    config = configure()
    lm = make(config)["lm"]
    p = cross_modal_init(RNG(3), replace(config, places=range(0, 2, 7)), lm=lm)
    assert p["lm"] is lm and list(p["gated"]) == ["0"]
