"""What is timed: pairs of the library, training steps and generation, with what each must cost.

FLOPs are those of the matrix products. Bytes are the least that has to cross the memory bus: every
input and every output of the forward and of the backward once, float32. A training step reads its
weights three times and its activations twice, writes the activations once, and its optimizer reads
and writes four vectors.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

import numpy as np

from scratch_vlm import costs
from scratch_vlm.layers.block import (
    BlockConfig,
    block_init,
    pre_block_backward,
    pre_block_forward,
)
from scratch_vlm.layers.connector import ConnectorConfig
from scratch_vlm.layers.gated import GatedConfig
from scratch_vlm.layers.linear import linear_backward, linear_forward, linear_init
from scratch_vlm.layers.norm import layer_norm_backward, layer_norm_forward, layer_norm_init
from scratch_vlm.models.cross_modal import (
    CrossModalConfig,
    cross_modal_init,
    cross_modal_loss_backward,
    cross_modal_loss_forward,
)
from scratch_vlm.models.lm import LMConfig, lm_init
from scratch_vlm.models.unified import (
    UnifiedConfig,
    unified_init,
    unified_loss_backward,
    unified_loss_forward,
)
from scratch_vlm.models.vision import SightConfig, TowerConfig
from scratch_vlm.models.vit import ViTConfig, vit_backward, vit_forward, vit_init
from scratch_vlm.ops.activations import gelu_tanh_backward, gelu_tanh_forward
from scratch_vlm.ops.attend import attend_backward, attend_forward
from scratch_vlm.ops.losses import cross_entropy_backward, cross_entropy_forward

FLOAT = 4  # bytes
LESSON = ViTConfig((32, 32, 3), (4, 4), 10, BlockConfig(128, 4, 512, mlp="gelu_tanh"), depth=4)
BASE = ViTConfig(
    (224, 224, 3), (16, 16), 1000, BlockConfig(768, 12, 3072, mlp="gelu_tanh"), depth=12
)
WORDS = 64  # tokens of a text beside its image


@dataclass(frozen=True)
class Subject:
    """One piece of work of one size.

    Attributes
    ----------
    family : str
        What it is; subjects of one family differ in size.
    kind : {"pair", "step", "generation"}
        Forward and backward; those, and a step of AdamW; or new tokens.
    size : int
        What the family grows in: tokens, numbers, samples.
    unit : str
        Of the size.
    flops, bytes : int
        The least it costs.
    draw : callable
        ``draw(rng)`` gives inputs and parameters, on the host; parameters may be None.
    forward, backward : callable or None
        The pair; of a step, the objective.
    options : dict
        Of the forward.
    host : bool
        Whether a host should try: not where it would take minutes.
    products : bool
        Whether the precision of products matters.
    """

    family: str
    kind: str
    size: int
    unit: str
    flops: int
    bytes: int
    draw: Callable
    forward: Callable | None = None
    backward: Callable | None = None
    options: dict = field(default_factory=dict)
    host: bool = True
    products: bool = True


def _normal(rng, *shape):
    return rng.standard_normal(shape, dtype="float32")


def linear(tokens, width):
    """Linear layer of as many inputs as outputs.

    Parameters
    ----------
    tokens, width : int
        N and D.

    Returns
    -------
    Subject
    """

    def draw(rng):
        return (_normal(rng, tokens, width),), linear_init(rng, width, width)

    return Subject(
        "linear",
        "pair",
        tokens,
        "tokens",
        6 * tokens * width**2,
        FLOAT * (5 * tokens * width + 3 * width**2),
        draw,
        linear_forward,
        linear_backward,
    )


def attention(batch, tokens, heads, width):
    """Self-attention between its linear layers.

    Parameters
    ----------
    batch, tokens, heads, width : int
        B, T, A and K.

    Returns
    -------
    Subject
    """
    shape = (batch, heads, tokens, width)

    def draw(rng):
        return tuple(_normal(rng, *shape) for _ in range(3)), None

    return Subject(
        "attention",
        "pair",
        batch * tokens,
        "tokens",
        12 * batch * heads * tokens**2 * width,
        FLOAT * 11 * batch * heads * tokens * width,
        draw,
        attend_forward,
        attend_backward,
    )


def layer_norm(tokens, width):
    """Layer norm.

    Parameters
    ----------
    tokens, width : int
        N and D.

    Returns
    -------
    Subject
    """

    def draw(rng):
        return (_normal(rng, tokens, width),), layer_norm_init(width)

    return Subject(
        "layer norm",
        "pair",
        tokens,
        "tokens",
        0,
        FLOAT * 5 * tokens * width,
        draw,
        layer_norm_forward,
        layer_norm_backward,
        products=False,
    )


def gelu(tokens, width):
    """GELU by tanh.

    Parameters
    ----------
    tokens, width : int
        N and M.

    Returns
    -------
    Subject
    """

    def draw(rng):
        return (_normal(rng, tokens, width),), None

    return Subject(
        "GELU",
        "pair",
        tokens,
        "tokens",
        0,
        FLOAT * 5 * tokens * width,
        draw,
        gelu_tanh_forward,
        gelu_tanh_backward,
        products=False,
    )


def cross_entropy(tokens, vocabulary):
    """Softmax and cross-entropy.

    Parameters
    ----------
    tokens, vocabulary : int
        N and V.

    Returns
    -------
    Subject
    """

    def draw(rng):
        return (_normal(rng, tokens, vocabulary), rng.integers(0, vocabulary, tokens)), None

    return Subject(
        "cross-entropy",
        "pair",
        tokens,
        "tokens",
        0,
        FLOAT * 3 * tokens * vocabulary,
        draw,
        cross_entropy_forward,
        cross_entropy_backward,
        products=False,
    )


def block(batch, tokens, width, heads):
    """Pre-norm block of a Transformer.

    Parameters
    ----------
    batch, tokens, width, heads : int
        B, T, D and A.

    Returns
    -------
    Subject
    """
    config = BlockConfig(width, heads, 4 * width, mlp="gelu_tanh")
    cost = batch * costs.block_cost(config, tokens)
    parameters = costs.block_cost(config, tokens).parameters

    def draw(rng):
        return (_normal(rng, batch, tokens, width),), block_init(rng, config)

    return Subject(
        "block",
        "pair",
        batch * tokens,
        "tokens",
        cost.training_flops,
        FLOAT * (2 * cost.activations + 3 * parameters),
        draw,
        pre_block_forward,
        pre_block_backward,
        {"config": config},
    )


def _step_bytes(cost, batch):
    return FLOAT * (3 * batch * cost.activations + (3 + 8) * cost.parameters)


def vit(config, batch, family, *, host=True):
    """Training step of a Vision Transformer.

    Parameters
    ----------
    config : ViTConfig
        The model.
    batch : int
        Images.
    family : str
        What to call it.
    host : bool, default True
        Whether a host should try.

    Returns
    -------
    Subject
    """
    cost = costs.vit_cost(config)

    def draw(rng):
        images = _normal(rng, batch, *config.image)
        return (images, rng.integers(0, config.outputs, batch)), vit_init(rng, config)

    def forward(images, labels, p):
        scores, s_model = vit_forward(images, p, config=config)
        loss, s_loss = cross_entropy_forward(scores, labels)
        return loss, (s_model, s_loss)

    def backward(dloss, saved, g):
        s_model, s_loss = saved
        vit_backward(cross_entropy_backward(dloss, s_loss), s_model, g)

    return Subject(
        family,
        "step",
        batch,
        "images",
        batch * cost.training_flops,
        _step_bytes(cost, batch),
        draw,
        forward,
        backward,
        {"config": config},
        host,
    )


def vlm_parts(width, heads, depth, vocabulary, image=224, patch=16):
    """Parts of a vision language model as large as its tower.

    Parameters
    ----------
    width, heads, depth : int
        Of the tower and of the language model; GPT-2 small has 768, 12 and 12.
    vocabulary : int
        V; the last id stands for an image.
    image, patch : int
        Sides in pixels.

    Returns
    -------
    sight : SightConfig
    language : LMConfig
    """
    block = BlockConfig(width, heads, 4 * width, mlp="gelu_tanh")
    tower = TowerConfig(ViTConfig((image, image, 3), (patch, patch), 0, block, depth=depth))
    bridge = ConnectorConfig("mlp", tower.outputs, width, hidden=4 * width, activation="gelu_tanh")
    context = (image // patch) ** 2 + WORDS
    language = LMConfig.gpt(vocabulary, context, width=width, heads=heads, depth=depth)
    return SightConfig(tower, bridge), language


def fusion(kind, parts, batch, family, *, host=True):
    """Training step of a vision language model, one image before each text.

    Parameters
    ----------
    kind : {"unified", "cross-modal"}
        How the words see.
    parts : (SightConfig, LMConfig)
        As `vlm_parts` makes them.
    batch : int
        Texts.
    family : str
        What to call it.
    host : bool, default True
        Whether a host should try.

    Returns
    -------
    Subject
    """
    sight, language = parts
    image = language.vocabulary - 1
    if kind == "unified":
        config = UnifiedConfig(sight, language, image)
        places, init = sight.tokens(1), unified_init
        forward, backward = unified_loss_forward, unified_loss_backward
        cost = costs.unified_cost(config, tokens=places + WORDS)
        options = {}
    else:
        gates = GatedConfig(language.block, language.block.width, gate=0.5)
        every = tuple(range(0, language.depth, 4))  # a gated block before every fourth
        config = CrossModalConfig(sight, language, gates, every, image)
        places, init = 1, cross_modal_init
        forward, backward = cross_modal_loss_forward, cross_modal_loss_backward
        cost = costs.cross_modal_cost(config, tokens=places + WORDS)
        options = {"slots": 1}

    def draw(rng):
        ids = rng.integers(0, image, (batch, places + WORDS))
        ids[:, :places] = image
        labels = np.where(ids == image, -100, ids)
        side = sight.tower.vit.image
        return (ids, labels, _normal(rng, batch, 1, *side)), init(rng, config)

    return Subject(
        family,
        "step",
        batch,
        "texts with an image",
        batch * cost.training_flops,
        _step_bytes(cost, batch),
        draw,
        partial(forward, config=config, **options),
        backward,
        {"config": config},
        host,
    )


def generation(config, batch, prompt, new, family, *, host=True):
    """New tokens of a language model, one after another, with a KV cache.

    Parameters
    ----------
    config : LMConfig
        The model.
    batch, prompt, new : int
        Texts, tokens of each before, and tokens to write.
    family : str
        What to call it.
    host : bool, default True
        Whether a host should try.

    Returns
    -------
    Subject
    """
    first = costs.language_model_cost(config, tokens=prompt)
    rest = [costs.language_model_cost(config, tokens=1, past=prompt + i) for i in range(new - 1)]
    cached = costs.kv_cache_numbers(config)
    read = sum(prompt + i for i in range(new - 1)) * cached * batch

    def draw(rng):
        return (rng.integers(0, config.vocabulary, (batch, prompt)),), lm_init(rng, config)

    return Subject(
        family,
        "generation",
        batch,
        "texts",
        batch * (first.flops + sum(cost.flops for cost in rest)),
        FLOAT * (new * first.parameters + read),
        draw,
        options={"config": config, "new": new},
        host=host,
    )


def subjects(*, quick=False):
    """List everything that is timed.

    Parameters
    ----------
    quick : bool, default False
        Small sizes and small models only.

    Returns
    -------
    list of Subject
    """
    counts = (64, 512, 4096) if quick else (64, 256, 1024, 4096, 16384)
    width, heads = (256, 4) if quick else (512, 8)
    lengths = (16, 64, 256) if quick else (16, 64, 256, 1024)
    small = LMConfig.gpt(512, 128, width=128, heads=4, depth=4)
    found = [
        *(linear(n, width) for n in counts),
        *(attention(4, t, heads, 64) for t in lengths),
        *(layer_norm(n, width) for n in counts),
        *(gelu(n, width) for n in counts),
        *(cross_entropy(n, 8192) for n in counts[:-1]),
        *(block(4, t, width, heads) for t in lengths),
        vit(LESSON, 128, "lesson ViT"),
        *(
            fusion(kind, vlm_parts(128, 4, 4, 512, 32, 4), 32, f"lesson VLM, {kind}")
            for kind in FUSIONS
        ),
        generation(small, 8, 32, 32, "lesson LM, 32 new tokens"),
    ]
    if quick:
        return found
    parts = vlm_parts(768, 12, 12, 50304)
    for batch, host in ((2, True), (128, False)):
        found.append(vit(BASE, batch, "ViT-B/16", host=host))
        found += [
            fusion(kind, parts, batch // 2, f"GPT-2 small VLM, {kind}", host=host)
            for kind in FUSIONS
        ]
    _, language = parts
    found += [
        generation(language, batch, 64, 64, "GPT-2 small, 64 new tokens", host=host)
        for batch, host in ((1, True), (64, False))
    ]
    return found


FUSIONS = ("unified", "cross-modal")
