"""The formulas of costs, held against what real calls draw, multiply and keep."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from scratch_vlm import costs
from scratch_vlm.backend import rows
from scratch_vlm.cases import Sizes, make_case
from scratch_vlm.costs import Cost
from scratch_vlm.inference.answer import answer
from scratch_vlm.inference.generate import generate
from scratch_vlm.layers import (
    attention,
    connector,
    embedding,
    gated,
    linear,
    lora,
    norm,
    resampler,
)
from scratch_vlm.layers.block import BlockConfig
from scratch_vlm.layers.mlp import GATED
from scratch_vlm.layers.resampler import resampler_init
from scratch_vlm.models import (
    bert,
    clip,
    cross_modal,
    lm,
    mllama,
    perceiver,
    text,
    unified,
    video,
    vision,
    vit,
)
from scratch_vlm.tree import leaves, zeros_like

SIZES = Sizes(T=6)


class Counted(np.ndarray):
    """An array whose products are counted, however they are written."""

    flops = 0

    def __array_ufunc__(self, ufunc, method, *inputs, out=None, **kwargs):
        if ufunc is MATMUL:
            count(*inputs)
        if out is not None:
            kwargs["out"] = tuple(map(np.asarray, out))
        inputs = [np.asarray(x) if isinstance(x, Counted) else x for x in inputs]
        return getattr(ufunc, method)(*inputs, **kwargs)


MATMUL = np.matmul


def count(a, b):
    batch = np.broadcast_shapes(a.shape[:-2], b.shape[:-2])
    Counted.flops += 2 * int(np.prod((*batch, *a.shape[-2:], b.shape[-1])))


def matmul(a, b, **options):
    count(a, b)
    return MATMUL(np.asarray(a), np.asarray(b), **options)


def counting(patch):
    """Count the products of a model; those that stand for a mean or a scatter are none."""
    patch.setattr(np, "matmul", matmul)  # as every product of weights and of attention
    patch.setattr(norm, "row_mean", lambda x: x.mean(-1, keepdims=True))
    patch.setattr(norm, "_mean_times", lambda x, gamma: (x * gamma).mean(-1, keepdims=True))
    patch.setattr(
        embedding, "add_at", lambda target, i, x: np.add.at(target, i.reshape(-1), rows(x))
    )
    patch.setattr(mllama, "_by_ratio", added_by_ratio)


def added_by_ratio(x, ratios, count):
    sums = np.zeros((count, *x.shape[1:]), x.dtype)
    np.add.at(sums, ratios, x)
    return sums


def kept(saved, p):
    """Count the numbers in what a forward saved, shared memory once, without parameters."""

    def owner(x):
        while x.base is not None and hasattr(x.base, "nbytes"):
            x = x.base
        return x

    parameters = {id(owner(x)) for _, x in leaves(p)}
    found = {}
    for _, x in leaves(saved):
        if isinstance(x, np.ndarray) and x.dtype.kind == "f":
            assert x.dtype == np.float32
            found[id(owner(x))] = owner(x).size
    return sum(size for key, size in found.items() if key not in parameters)


def measured(call, p, gradient):
    """Return the cost of one sample: what a third one adds to two."""
    counts = []
    for batch in (2, 3):
        with pytest.MonkeyPatch.context() as patch:
            counting(patch)
            Counted.flops = 0
            y, saved = call(batch)
            flops = Counted.flops
            gradient(np.ones_like(y), saved, zeros_like(p))
            counts.append((flops, Counted.flops - flops, kept(saved, p)))
    one = (after - before for before, after in zip(*counts, strict=True))
    return Cost(sum(x.size for _, x in leaves(p)), *one)


def dice():
    return np.random.default_rng(0)


def normal(*shape):
    return dice().standard_normal(shape, dtype="float32")


def config_of(name, seed):
    return make_case(name, np.random.default_rng(seed), SIZES).options["config"]


def images(config, batch, size=None):
    return normal(batch, *(size or config.image[:2]), config.image[2])


def ids_of(config, batch, tokens):
    ids = np.zeros((batch, tokens), int)
    ids[:, -1] = config.end if hasattr(config, "end") else 1
    return ids


def vit_measured(seed):
    config = config_of("models.vit.vit", seed)
    size = None
    if seed % 2:  # another image: the table of positions is stretched
        size = config.image[0] + config.patch[0], config.image[1]
    p = vit.vit_init(dice(), config)
    cost = measured(
        lambda b: vit.vit_forward(images(config, b, size), p, config=config, rng=dice()),
        p,
        vit.vit_backward,
    )
    return costs.vit_cost(config, image=size), cost


def vit_features_measured(seed):
    config = config_of("models.vit.vit_features", seed)
    full = vit.vit_init(dice(), config)
    p = {k: v for k, v in full.items() if k not in ("ln", "pool", "head")}
    cost = measured(
        lambda b: vit.vit_features_forward(images(config, b), p, config=config, rng=dice()),
        p,
        vit.vit_features_backward,
    )
    return costs.vit_features_cost(config), cost


def text_measured(seed):
    config = config_of("models.text.text", seed)
    p = text.text_init(dice(), config)
    tokens = config.context - seed % 2
    cost = measured(
        lambda b: text.text_forward(ids_of(config, b, tokens), p, config=config, rng=dice()),
        p,
        text.text_backward,
    )
    return costs.text_cost(config, tokens=tokens), cost


def clip_measured(seed):
    config = config_of("models.clip.clip", seed)
    p = clip.clip_init(dice(), config)

    def forward(batch):
        ids = ids_of(config.text, batch, config.text.context)
        options = {"rng": dice()}
        x, s_image = clip.encode_images_forward(
            images(config.image, batch), p["image"], config=config.image, **options
        )
        y, s_text = clip.encode_texts_forward(ids, p["text"], config=config.text, **options)
        return x + y, (s_image, s_text)

    def backward(dy, saved, g):
        clip.encode_images_backward(dy, saved[0], g["image"])
        clip.encode_texts_backward(dy, saved[1], g["text"])

    return costs.clip_cost(config), measured(forward, p, backward)


def bert_measured(seed):
    config = config_of("models.bert.bert", seed)
    if seed % 2:
        block = replace(config.block, mlp="gelu" if config.block.mlp in GATED else config.block.mlp)
        config = replace(config, block=block, head="words", tied=seed % 4 == 1)
    elif seed % 4 == 2:
        config = replace(config, head=("classes", "tokens")[seed // 4 % 2], outputs=5)
    p = bert.bert_init(dice(), config)

    def forward(batch):
        ids = ids_of(config, batch, config.context)
        x, s_bert = bert.bert_forward(ids, p, config=config, rng=dice())
        if config.head == "pool":
            y, s_head = bert.bert_pool_forward(x, p["pool"])
        elif config.outputs:
            y, s_head = bert.bert_classes_forward(x, p, config=config)
        else:
            y, s_head = bert.bert_words_forward(x, p, config=config)
        return y, (s_bert, s_head)

    def backward(dy, saved, g):
        if config.head == "pool":
            dx = bert.bert_pool_backward(dy, saved[1], g["pool"])
        elif config.outputs:
            dx = bert.bert_classes_backward(dy, saved[1], g)
        else:
            dx = bert.bert_words_backward(dy, saved[1], g)
        bert.bert_backward(dx, saved[0], g)

    return costs.bert_cost(config), measured(forward, p, backward)


def language_model_measured(seed):
    config = config_of("models.lm.lm", seed)
    p = lm.lm_init(dice(), config)
    tokens = config.context - seed % 2
    cost = measured(
        lambda b: lm.lm_forward(ids_of(config, b, tokens), p, config=config, rng=dice()),
        p,
        lm.lm_backward,
    )
    return costs.language_model_cost(config, tokens=tokens), cost


def resampler_measured(seed, frames=5, patches=3):
    config = config_of("layers.resampler.resampler", seed)
    p = resampler_init(dice(), config)
    features = normal(3, frames, patches, config.block.width)
    cost = measured(
        lambda b: resampler.resampler_forward(features[:b], p, config=config, rng=dice()),
        p,
        resampler.resampler_backward,
    )
    return costs.resampler_cost(config, frames=frames, patches=patches), cost


def perceiver_measured(seed):
    config = config_of("models.perceiver.perceiver", seed)
    p = perceiver.perceiver_init(dice(), config)
    inputs = int(np.prod(config.shape))
    cost = measured(
        lambda b: perceiver.perceiver_forward(
            normal(b, inputs, config.channels), p, config=config, rng=dice()
        ),
        p,
        perceiver.perceiver_backward,
    )
    return costs.perceiver_cost(config, inputs=inputs), cost


def attention_measured(seed):
    block = config_of("layers.block.pre_block", seed)
    wide = {"head_width": (None, 6)[seed % 2], "value_width": (None, 3)[seed // 2 % 2]}
    block = replace(block, **wide)
    heads = {"heads": block.heads, "kv_heads": block.kv_heads}
    p = attention.self_attention_init(dice(), block.width, **heads, **wide, bias=block.bias)
    options = {**heads, "rotary_base": block.rotary_base}
    cost = measured(
        lambda b: attention.self_attention_forward(normal(b, 7, block.width), p, **options),
        p,
        attention.self_attention_backward,
    )
    return costs.self_attention_cost(block, 7), cost


def lora_measured(seed, tokens=7, inputs=6, outputs=5):
    bias, rank = bool(seed % 2), 1 + seed % 4
    p = linear.linear_init(dice(), inputs, outputs, bias=bias)
    p = lora.lora_add(dice(), p, ((".*", True),), rank=rank)
    p["lora"]["a"] = p["lora"]["a"].view(Counted)  # for the @ of the gradient of x
    cost = measured(
        lambda b: linear.linear_forward(normal(b, tokens, inputs), p), p, linear.linear_backward
    )
    formula = costs.linear_cost(inputs, outputs, tokens, bias=bias)
    return formula + costs.lora_cost(inputs, outputs, tokens, rank=rank), cost


def tubelets_measured(seed, shape=(4, 6, 4, 3), tubelet=(2, 3, 2)):
    bias = bool(seed % 2)
    p = video.tubelet_embedding_init(dice(), tubelet, shape[-1], 8, bias=bias)
    cost = measured(
        lambda b: video.tubelet_embedding_forward(normal(b, *shape), p, tubelet=tubelet),
        p,
        video.tubelet_embedding_backward,
    )
    tokens = int(np.prod(shape[:3])) // int(np.prod(tubelet))
    return costs.linear_cost(int(np.prod(tubelet)) * shape[-1], 8, tokens, bias=bias), cost


def frames_measured(seed, frames=3):
    config = config_of("models.vit.vit", seed)
    p = vit.vit_init(dice(), config)

    def forward(batch):
        x = normal(batch, frames, *config.image)
        return video.encode_frames_forward(x, p, config=config, encoder=video.EMBEDDING, rng=dice())

    return costs.vit_cost(config).run(frames), measured(forward, p, video.encode_frames_backward)


def gated_block_measured(seed):
    config = config_of("layers.gated.gated_block", seed)
    p = gated.gated_block_init(dice(), config)
    cost = measured(
        lambda b: gated.gated_block_forward(
            normal(b, 5, config.block.width),
            normal(b, 7, config.source),
            p,
            config=config,
            rng=dice(),
        ),
        p,
        gated.gated_block_backward,
    )
    return costs.gated_block_cost(config, 5, 7), cost


def connector_measured(seed, frames=3):
    config = config_of("layers.connector.connector", seed)
    p = connector.connector_init(dice(), config)
    patches = 4 if config.grid is None else config.grid[0] * config.grid[1]
    cost = measured(
        lambda b: connector.connector_forward(
            normal(b, frames, patches, config.inputs), p, config=config, rng=dice()
        ),
        p,
        connector.connector_backward,
    )
    return costs.connector_cost(config, frames=frames, patches=patches), cost


def media_of(config, batch, media, frames):
    return normal(batch * media, frames, *config.sight.tower.vit.image)


def sight_measured(seed, frames=2):
    config = config_of("models.vision.sight", seed)
    p = vision.sight_init(dice(), config)
    image = config.tower.vit.image
    cost = measured(
        lambda b: vision.sight_forward(normal(b, frames, *image), p, config=config, rng=dice()),
        p,
        vision.sight_backward,
    )
    return costs.sight_cost(config, frames=frames), cost


def sight_and_language(seed):
    language = replace(config_of("models.lm.lm", seed), context=64)
    return config_of("models.vision.sight", seed), language


def unified_measured(seed, frames=1):
    media = seed % 3
    config = unified.UnifiedConfig(*sight_and_language(seed), image=1)
    p = unified.unified_init(dice(), config)
    visual = media * config.sight.tokens(frames)
    tokens = visual + 3

    def forward(batch):
        ids = np.zeros((batch, tokens), int)
        ids[:, 1 : 1 + visual] = config.image
        x = media_of(config, batch, media, frames)
        return unified.unified_forward(ids, x, p, config=config, rng=dice())

    cost = measured(forward, p, unified.unified_backward)
    return costs.unified_cost(config, tokens=tokens, media=media, frames=frames), cost


def cross_modal_measured(seed, tokens=7, frames=2):
    media = seed % 4
    sight, language = sight_and_language(seed)
    block = replace(config_of("layers.gated.gated_block", seed), source=SIZES.D)
    places = ((0,), (1,), (0, 1))[seed % 3]
    config = cross_modal.CrossModalConfig(sight, language, block, places, image=1)
    p = cross_modal.cross_modal_init(dice(), config)

    def forward(batch):
        ids = np.zeros((batch, tokens), int)
        ids[:, 1 : 1 + media] = config.image
        x = media_of(config, batch, media, frames)
        return cross_modal.cross_modal_forward(ids, x, p, config=config, rng=dice())

    cost = measured(forward, p, cross_modal.cross_modal_backward)
    return costs.cross_modal_cost(config, tokens=tokens, media=media, frames=frames), cost


def tiled_vit_measured(seed):
    config = config_of("models.mllama.tiled_vit", seed)
    p = mllama.tiled_vit_init(dice(), config)

    def forward(batch):
        x = normal(batch, config.tiles, *config.image)
        options = {"ratios": np.ones(batch, int), "real": np.ones((batch, config.tiles), bool)}
        return mllama.tiled_vit_forward(x, p, config=config, **options)

    return costs.tiled_vit_cost(config), measured(forward, p, mllama.tiled_vit_backward)


def interleaved_measured(seed, tokens=5, answers=7):
    config = config_of("models.mllama.interleaved_trunk", seed)
    p = mllama.interleaved_init(dice(), config)

    def forward(batch):
        x = normal(batch, tokens, config.lm.block.width)
        z = normal(batch, answers, config.gated.source)
        h, s_trunk = mllama.interleaved_trunk_forward(x, z, p, config=config)
        y, s_head = lm.lm_head_forward(h, p)
        return y, (s_trunk, s_head)

    def backward(dy, saved, g):
        mllama.interleaved_trunk_backward(lm.lm_head_backward(dy, saved[1], g), saved[0], g)

    cost = measured(forward, p, backward)
    return costs.interleaved_cost(config, tokens=tokens, answers=answers), cost


MODELS = [
    attention_measured,
    lora_measured,
    gated_block_measured,
    connector_measured,
    vit_measured,
    vit_features_measured,
    text_measured,
    clip_measured,
    bert_measured,
    language_model_measured,
    resampler_measured,
    perceiver_measured,
    tubelets_measured,
    frames_measured,
    sight_measured,
    unified_measured,
    cross_modal_measured,
    tiled_vit_measured,
    interleaved_measured,
]


@pytest.mark.parametrize("model", MODELS)
@given(seed=st.integers(0, 10**6))
def test_formulas_are_what_is_drawn_multiplied_and_kept(model, seed):
    formula, counted = model(seed)
    assert formula == counted


@pytest.mark.parametrize("seed", range(4))
def test_resampler_is_linear_in_frames(seed):
    frames = (2, 3, 4, 8)
    counted = [resampler_measured(seed, frames=f)[1] for f in frames]
    for name in ("flops", "backward_flops", "activations"):
        values = np.array([getattr(cost, name) for cost in counted])
        slopes = np.diff(values) / np.diff(frames)
        assert slopes[0] > 0
        assert (slopes == slopes[0]).all(), name


def test_attention_over_all_frames_is_not_linear():
    block = BlockConfig(8, 2, 16)
    values = [costs.block_cost(block, tokens).flops for tokens in (10, 20, 30)]
    assert np.diff(values, 2) > 0


@pytest.mark.parametrize("seed", range(4))
def test_a_new_token_costs_a_constant_and_a_share_of_what_it_reads(seed):
    config = replace(config_of("models.lm.lm", seed), context=24)
    p = lm.lm_init(dice(), config)
    marks, prompt = [], 4
    with pytest.MonkeyPatch.context() as patch:
        counting(patch)
        generate([[1] * prompt], p, config, new=20, on_token=lambda *_: marks.append(Counted.flops))
    steps = np.diff(marks)
    expected = [
        costs.language_model_cost(config, tokens=1, past=past).flops
        for past in range(prompt, prompt + len(steps))
    ]
    assert steps.tolist() == expected
    assert (np.diff(steps) == 4 * config.depth * config.block.width).all()


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("kind", ["unified", "cross_modal"])
def test_a_new_token_does_not_look_at_images_again(seed, kind, media=2):
    sight, language = sight_and_language(seed)
    if kind == "unified":
        config = unified.UnifiedConfig(sight, language, image=1)
        p, cost, places = unified.unified_init(dice(), config), costs.unified_cost, sight.tokens()
    else:
        block = replace(config_of("layers.gated.gated_block", seed), source=SIZES.D)
        config = cross_modal.CrossModalConfig(sight, language, block, (0, 1), image=1)
        p, cost, places = cross_modal.cross_modal_init(dice(), config), costs.cross_modal_cost, 1
    prompt, marks = [0, *[1] * (places * media), 2], []
    with pytest.MonkeyPatch.context() as patch:
        counting(patch)
        images = media_of(config, 1, media, 1)
        answer([prompt], images, p, config, new=9, on_token=lambda *_: marks.append(Counted.flops))
    expected = [
        cost(config, tokens=1, media=media, past=past)
        for past in range(len(prompt), len(prompt) + 8)
    ]
    assert np.diff(marks).tolist() == [one.flops for one in expected]
    whole = cost(config, tokens=len(prompt), media=media)
    assert {one.parameters for one in expected} == {whole.parameters}
    assert not any(one.backward_flops or one.activations for one in expected)


@pytest.mark.parametrize("seed", range(4))
def test_visual_tokens_leave_in_gated_blocks_what_the_formula_says(seed):
    sight, language = sight_and_language(seed)
    block = replace(config_of("layers.gated.gated_block", seed), source=SIZES.D)
    config = cross_modal.CrossModalConfig(sight, language, block, (0, 1), image=1)
    p, kept = cross_modal.cross_modal_init(dice(), config), {"0": {}, "1": {}}
    x, z = normal(2, 3, SIZES.D), normal(2, 5, SIZES.D)
    cross_modal.cross_trunk_forward(x, z, p, config=config, kept=kept)
    numbers = sum(x.size for block in kept.values() for x in block.values())
    assert numbers == 2 * 5 * costs.seen_cache_numbers(config)


@pytest.mark.parametrize("seed", range(4))
def test_a_token_leaves_as_much_in_the_cache_as_the_formula_says(seed):
    config = config_of("models.lm.lm", seed)
    p = lm.lm_init(dice(), config)
    reserved = sum(c.k.size + c.v.size for c in lm.lm_cache(p, config, batch=3).values())
    assert reserved == 3 * config.context * costs.kv_cache_numbers(config)


def test_nothing_is_kept_for_a_backward_behind_a_cache():
    config = config_of("models.lm.lm", 0)
    cost = costs.language_model_cost(config, tokens=1, past=3)
    assert (cost.backward_flops, cost.activations) == (0, 0)
    assert cost.parameters == costs.language_model_cost(config).parameters


def test_a_training_step_is_six_flops_for_a_weight_and_token_but_for_attention():
    config = lm.LMConfig.gpt(50257, 1024, width=768, heads=12, depth=12)
    cost = costs.language_model_cost(config)
    assert cost.parameters == 124_439_808  # GPT-2 small
    biases_norms_places = 12 * (9 + 4) * 768 + (2 + 1024) * 768
    weights = cost.parameters - biases_norms_places
    attention = 3 * 4 * 12 * 1024**2 * 768
    assert cost.training_flops == 6 * weights * 1024 + attention


def test_llama_7b():
    block = BlockConfig(4096, 32, 11008, norm="rms", mlp="swiglu", bias=False, rotary_base=1e4)
    config = lm.LMConfig(32000, 2048, block, 32, tied=False)
    assert costs.language_model_cost(config).parameters == 6_738_415_616
    assert costs.kv_cache_numbers(config) * 2 == 2**19  # half a MiB for a token in 16 bits


def test_frames_share_the_parameters_of_their_encoder():
    config = config_of("models.vit.vit", 0)
    one, clip_of_three = costs.vit_cost(config), costs.vit_cost(config).run(3)
    assert clip_of_three.parameters == one.parameters
    assert clip_of_three.flops == 3 * one.flops
    assert clip_of_three.activations == 3 * one.activations


def test_costs_add_and_multiply():
    layer = Cost(1, 2, 3, 4)
    assert layer + layer == 2 * layer == sum([layer, layer], Cost())
    assert layer.training_flops == 5
    assert layer.bytes() == 16
    assert layer.bytes("float16") == 8
