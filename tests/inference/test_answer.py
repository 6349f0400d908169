"""Answers about images equal the full forward, whatever the cache, the chunks and the batch."""

from dataclasses import replace

import numpy as np
import pytest

from scratch_vlm.cases import random_parameters
from scratch_vlm.inference.answer import answer
from scratch_vlm.inference.generate import generate, generate_from, pad_left
from scratch_vlm.layers.block import BlockConfig
from scratch_vlm.layers.connector import ConnectorConfig
from scratch_vlm.layers.embedding import embedding_forward
from scratch_vlm.layers.gated import GatedConfig
from scratch_vlm.layers.resampler import ResamplerConfig
from scratch_vlm.models.cross_modal import CrossModalConfig, cross_modal_forward, cross_modal_init
from scratch_vlm.models.lm import LMConfig, lm_forward
from scratch_vlm.models.unified import UnifiedConfig, unified_forward, unified_init
from scratch_vlm.models.vision import SightConfig, TowerConfig
from scratch_vlm.models.vit import ViTConfig
from scratch_vlm.tree import tree_map

RNG = np.random.default_rng
LMS = {
    "gpt": LMConfig.gpt(13, 32, width=8, heads=2, depth=2),
    "llama": LMConfig.llama(13, 32, width=8, heads=4, kv_heads=2, depth=2),
}
FLAMINGO = GatedConfig(BlockConfig(8, 2, 12, mlp="squared_relu", bias=False), 8)
LLAMA = GatedConfig(
    BlockConfig(8, 4, 12, kv_heads=2, norm="rms", mlp="swiglu", bias=False),
    8,
    qk_norm=True,
    skip_blind=True,
)
SAMPLER = ResamplerConfig(BlockConfig(8, 2, 12), 3, depth=1, frames=2)
MODELS = ["causal", "prefix", "last", "all", "run"]
MODEL = pytest.mark.parametrize("model", MODELS)
STYLE = pytest.mark.parametrize("style", LMS)
NEW = 6


def configure(model, style="gpt", kind="linear", image=12):
    tower = TowerConfig(ViTConfig((4, 4, 1), (2, 2), 0, BlockConfig(8, 2, 12), 1), (-1,))
    options = {"resampler": SAMPLER} if kind == "resampler" else {}
    sight = SightConfig(tower, ConnectorConfig(kind, 8, 8, **options))
    if model in ("causal", "prefix"):
        return UnifiedConfig(sight, LMS[style], image, model)
    gated = LLAMA if style == "llama" else FLAMINGO
    return CrossModalConfig(sight, LMS[style], gated, (0, 1), image, model)


def make(config, seed=0):
    init = unified_init if isinstance(config, UnifiedConfig) else cross_modal_init
    return random_parameters(RNG(seed), init(RNG(seed), config))


def write(texts, config, lengths=None):
    """Put as many placeholders where "I" stands in a text as the image or video needs."""
    prompts, k = [], 0
    for text in texts:
        prompt = []
        for token in text:
            if token != "I":
                prompt.append(token)
                continue
            frames = 1 if lengths is None else int(lengths[k])
            several = isinstance(config, UnifiedConfig)
            prompt += [config.image] * (config.sight.tokens(frames) if several else 1)
            k += 1
        prompts.append(prompt)
    return prompts


TEXTS = [[1, "I", 2, "I", "I", 3], ["I", 5], [7, 8, 9], [4, 1, "I", "I"]]
SHOWN = [slice(0, 3), slice(3, 4), slice(4, 4), slice(4, 6)]  # the media of each text
IMAGES = RNG(1).standard_normal((6, 1, 4, 4, 1))


def write_slowly(prompt, media, p, config, new, lengths=None):
    """Answer without a cache: text and images go through the model for every token."""
    forward = unified_forward if isinstance(config, UnifiedConfig) else cross_modal_forward
    ids, logprobs = list(prompt), []
    for _ in range(new):
        logits, _ = forward(np.array([ids]), media, p, config=config, lengths=lengths)
        logits = logits[0, -1]
        ids.append(int(logits.argmax()))
        assert ids[-1] != config.image  # this seed would ask for another image
        logprobs.append(logits.max() - np.log(np.exp(logits).sum()))
    return ids[len(prompt) :], logprobs


def assert_equal(a, b, atol=1e-12):
    assert [row.tolist() for row in a.ids] == [row.tolist() for row in b.ids]
    for x, y in zip(a.logprobs, b.logprobs, strict=True):
        np.testing.assert_allclose(x, y, atol=atol)


def assert_written_slowly(written, prompts, shown, media, p, config, lengths=None):
    for i, (prompt, part) in enumerate(zip(prompts, shown, strict=True)):
        real = None if lengths is None else lengths[part]
        ids, logprobs = write_slowly(prompt, media[part], p, config, NEW, real)
        assert written.ids[i].tolist() == ids
        np.testing.assert_allclose(written.logprobs[i], logprobs, atol=1e-12)


def quiet(p, config):
    """Make the placeholder improbable: no image is asked for in an answer."""
    if "head" in p["lm"]:
        p["lm"]["head"]["w"][:, config.image] = 0
    else:  # tied
        p["lm"]["tokens"]["w"][config.image] = 0
    return p


@MODEL
@STYLE
def test_a_padded_batch_with_images_is_the_full_forward_one_by_one(model, style):
    config = configure(model, style)
    p, prompts = quiet(make(config), config), write(TEXTS, config)
    written = answer(prompts, IMAGES, p, config, new=NEW)
    assert_written_slowly(written, prompts, SHOWN, IMAGES, p, config)


@MODEL
@pytest.mark.parametrize("kind", ["linear", "resampler"])
def test_videos_of_different_lengths_are_answered_one_by_one(model, kind):
    config, videos = configure(model, "llama", kind), RNG(2).standard_normal((6, 2, 4, 4, 1))
    lengths = np.array([1, 2, 1, 2, 1, 2])
    spoilt = videos.copy()
    spoilt[lengths == 1, 1] = np.nan
    texts = [[1, "I", 2, "I"], ["I", 5], [7, 8, 9], [4, 1, "I"], ["I", "I"]]
    shown = [slice(0, 2), slice(2, 3), slice(3, 3), slice(3, 4), slice(4, 6)]
    p, prompts = quiet(make(config), config), write(texts, config, lengths)
    written = answer(prompts, spoilt, p, config, new=NEW, lengths=lengths)
    assert_written_slowly(written, prompts, shown, videos, p, config, lengths)
    for i, part in enumerate(shown):
        frames = lengths[part].max(initial=1)
        alone = answer(
            prompts[i : i + 1],
            videos[part, :frames],
            p,
            config,
            new=NEW,
            lengths=lengths[part],
        )
        assert alone.ids[0].tolist() == written.ids[i].tolist()
        np.testing.assert_allclose(alone.logprobs[0], written.logprobs[i], atol=1e-12)


@MODEL
@STYLE
@pytest.mark.parametrize("chunk", [1, 3, 7])
def test_a_prompt_read_in_chunks_is_one_read_at_once(model, style, chunk):
    config = configure(model, style)
    p, prompts = make(config), write(TEXTS, config)
    at_once = answer(prompts, IMAGES, p, config, new=NEW)
    assert_equal(answer(prompts, IMAGES, p, config, new=NEW, chunk=chunk), at_once)


@MODEL
def test_another_image_gives_another_answer_only_to_the_text_that_shows_it(model):
    config = configure(model)
    p, prompts = make(config), write(TEXTS, config)
    before = answer(prompts, IMAGES, p, config, new=NEW)
    other = IMAGES.copy()
    other[3] = RNG(5).standard_normal(other[3].shape)
    after = answer(prompts, other, p, config, new=NEW)
    for i in range(4):
        assert np.array_equal(after.logprobs[i], before.logprobs[i]) == (i != 1)


@MODEL
@STYLE
def test_texts_without_images_are_answered(model, style):
    config = configure(model, style)
    p, prompts = quiet(make(config), config), [[1, 2, 3], [4]]
    written = answer(prompts, None, p, config, new=NEW)
    assert_equal(answer(prompts, IMAGES[:0], p, config, new=NEW), written, atol=0)
    assert_written_slowly(written, prompts, [slice(0, 0)] * 2, IMAGES, p, config)
    if isinstance(config, UnifiedConfig) or config.gated.skip_blind:
        assert_equal(generate(prompts, p["lm"], config.lm, new=NEW), written)


@MODEL
def test_an_answer_may_be_as_long_as_the_context_and_no_longer(model):
    config = configure(model)
    p, prompts = make(config), write(TEXTS, config)
    room = config.lm.context - max(map(len, prompts))
    written = answer(prompts, IMAGES, p, config, new=room)
    assert [len(row) for row in written.ids] == [room] * 4
    with pytest.raises(ValueError, match=f"context of 32; at most {room} fit"):
        answer(prompts, IMAGES, p, config, new=room + 1)


@MODEL
def test_zero_may_be_the_id_of_the_placeholder_though_padding_is_zero_too(model):
    config = configure(model, image=0)
    p, prompts = quiet(make(config), config), write(TEXTS, config)
    written = answer(prompts, IMAGES, p, config, new=NEW)
    assert_written_slowly(written, prompts, SHOWN, IMAGES, p, config)


@MODEL
def test_single_precision_answers_alike(model):
    config = configure(model)
    p, prompts = make(config), write(TEXTS, config)
    single = tree_map(lambda x: x.astype("float32"), p)
    written = answer(prompts, IMAGES.astype("float32"), single, config, new=1)
    assert_equal(written, answer(prompts, IMAGES, p, config, new=1), atol=1e-4)


@MODEL
def test_options_reach_the_choice_of_tokens(model):
    config = configure(model)
    p, prompts, heard = make(config), write(TEXTS, config), []
    written = answer(
        prompts, IMAGES, p, config, new=NEW, stop=range(13), on_token=lambda *x: heard.append(x)
    )
    assert [len(row) for row in written.ids] == [1] * 4 and len(heard) == 4
    drawn = answer(prompts, IMAGES, p, config, new=NEW, temperature=1.0, top_k=1, rng=RNG(0))
    assert_equal(drawn, answer(prompts, IMAGES, p, config, new=NEW))


@STYLE
@pytest.mark.parametrize("chunk", [1, 256])
def test_together_lets_tokens_of_a_prompt_read_what_stands_behind_them(style, chunk):
    config = LMS[style]
    p = make(configure("causal", style))["lm"]
    ids, real = pad_left([[1, 2, 3, 4, 5], [6, 7, 8]])
    together = np.zeros((2, 5, 5), bool)
    together[0, 1:3, 1:3] = together[1, 3:, 3:] = True
    x, _ = embedding_forward(ids, p["tokens"])
    options = {"real": real, "new": NEW, "chunk": chunk}
    written = generate_from(x, p, config, together=together, **options)
    plain = generate_from(x, p, config, **options)
    assert (written.logprobs[0] != plain.logprobs[0]).any()
    nobody = generate_from(x, p, config, together=together & False, **options)
    assert_equal(nobody, plain, atol=0)
    alone = generate_from(x[1:, 2:], p, config, together=together[1:, 2:, 2:], new=NEW)
    np.testing.assert_allclose(alone.logprobs[0], written.logprobs[1], atol=1e-12)


@MODEL
def test_places_and_images_that_do_not_match_are_refused_with_their_numbers(model):
    config = configure(model)
    p, prompts = make(config), write(TEXTS, config)
    for media, count in ((IMAGES[:5], 5), (IMAGES[[0] * 9], 9), (None, 0)):
        with pytest.raises(ValueError, match=rf"places .*\b{count}\b"):
            answer(prompts, media, p, config, new=1)
    with pytest.raises(ValueError, match=r"images\[:, None\]"):
        answer(prompts, IMAGES[:, 0], p, config, new=1)


@MODEL
def test_prompts_that_cannot_be_read_are_refused(model):
    config = configure(model)
    p = make(config)
    with pytest.raises(ValueError, match="token id 13 is none of the 13"):
        answer([[1, 13]], None, p, config, new=1)
    with pytest.raises(ValueError, match="prompt 1 is empty"):
        answer([[1], []], None, p, config, new=1)
    with pytest.raises(ValueError, match="no prompts"):
        answer([], None, p, config, new=1)
    with pytest.raises(ValueError, match="context of 32; shorten the prompt"):
        answer([[1] * 33], None, p, config, new=1)
    with pytest.raises(ValueError, match="new"):
        answer([[1]], None, p, config, new=0)
    with pytest.raises(ValueError, match="tied=False"):
        answer([[1]], None, p, replace(config, lm=replace(config.lm, tied=False)), new=1)


def test_a_language_model_is_no_model_that_sees():
    config = LMS["gpt"]
    with pytest.raises(TypeError, match="CrossModalConfig, got LMConfig"):
        answer([[1]], None, {}, config, new=1)
    p = make(configure("causal"))["lm"]
    assert len(generate([[1]], p, config, new=2).ids[0]) == 2
    assert lm_forward(np.array([[1]]), p, config=config)[0].shape == (1, 1, 13)
