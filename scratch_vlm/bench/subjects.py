"""What is timed, and the least that each must cost.

FLOPs are those of matrix products, by the formulas of `scratch_vlm.costs`, without what a causal
mask hides. Bytes are what crosses the memory bus whatever the implementation: of an op or a block
every input and every output of the forward and of the backward once; of a training step ten passes
over the parameters (weights are read forward and backward, gradients written, and AdamW reads four
vectors and writes three), and of AdamW alone seven; of generation all weights for each new token,
and what is in the cache. In bf16 they are half as many, but for the six passes of AdamW over the
parameters and their two moments, which stay float32.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial

import numpy as np

from scratch_vlm import costs
from scratch_vlm.experiments import scenes
from scratch_vlm.layers import block, embedding, gated, linear, mlp, norm, resampler
from scratch_vlm.layers.block import BlockConfig
from scratch_vlm.layers.connector import ConnectorConfig
from scratch_vlm.models import clip, cross_modal, unified, vit
from scratch_vlm.models.lm import LMConfig, lm_init
from scratch_vlm.models.vision import SightConfig, TowerConfig
from scratch_vlm.ops import activations, attend, losses
from scratch_vlm.ops.masks import causal_mask

FLOAT = 4  # bytes
PASSES = 10  # of a training step over its parameters
KEPT_EXACT = 6  # of these, in float32 whatever the precision
HEAD = 64  # K
BATCH = 4  # sequences that tokens are dealt out to, where they attend to each other
VOCABULARY = 8192
SEEN = 64  # visual tokens of a sequence, and latents of a Resampler
WORDS = 64  # tokens of a text beside its image
FUSIONS = ("unified", "cross-modal")
OPS = ("pair", "update")  # kinds of work that are no models


@dataclass(frozen=True)
class Subject:
    """One piece of work of one size.

    Attributes
    ----------
    family : str
        What it is; subjects of one family differ in size.
    kind : {"pair", "update", "step", "generation"}
        A forward and its backward; a step of AdamW; both of a loss and one; or new tokens.
    size : int
        What the family grows in.
    unit : str
        Of the size.
    flops, bytes : int
        The least it costs, in float32.
    exact : int
        Those of the bytes that are no fewer in bf16.
    draw : callable
        ``draw(rng)`` gives a tuple of inputs and the parameters, perhaps None, on the host.
    forward, backward : callable or None
        The pair; of a step, that of the loss.
    options : dict
        Of the forward; arrays among them belong to where the inputs are.
    pieces : int
        Equal parts of the batch whose losses have the loss as their mean; 1 if there are none.
    memory : int
        Bytes that the work holds, by formula and roughly.
    products : bool
        Whether the precision of products changes anything.
    compiled : tuple of str
        Precisions in which PyTorch may take the time to compile it.
    blocks : int
        Of a model; the time to compile it grows with them.
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
    pieces: int = 1
    memory: int = 0
    products: bool = True
    compiled: tuple = ()
    blocks: int = 0
    exact: int = 0

    @property
    def name(self):
        """Family and size, as tables call it."""
        return f"{self.family}, {self.size} {self.unit}"


def subjects(*, quick=False):
    """List everything that is timed.

    Parameters
    ----------
    quick : bool, default False
        Fewer and smaller sizes, and none of the large models.

    Returns
    -------
    list of Subject
        Each family from small to large.
    """
    width, counts = (256, (64, 512, 4096)) if quick else (512, (64, 256, 1024, 4096, 16384))
    found = [pair(family, n, width) for family in PAIRS for n in counts]
    found += [update(n * width) for n in counts]
    lesson = vlm_parts(128, 4, 4, 512, image=32, patch=4)
    small = vit_config(128, 4, 4, 10, image=32, patch=4)
    found += [vit_step("lesson ViT", small, few) for few in ((16,) if quick else (2, 16))]
    found.append(replace(vit_step("lesson ViT", small, 128), compiled=("float32", "tf32", "bf16")))
    found.append(clip_step("CLIP of the demo", scenes.MODEL, 128))
    found += [vlm_step(f"lesson VLM, {kind}", kind, lesson, 32) for kind in FUSIONS]
    found.append(generation("lesson LM, 32 new tokens", lesson[1], 8, prompt=32, new=32))
    if quick:
        return found
    large = vlm_parts(768, 12, 12, 50304)
    base = vit_config(768, 12, 12, 1000)
    for few, many, make in (
        (2, 128, partial(vit_step, "ViT-B/16", base)),
        *((2, 64, partial(vlm_step, f"GPT-2 small VLM, {kind}", kind, large)) for kind in FUSIONS),
    ):
        found += [make(few), replace(make(many), compiled=("bf16",))]
    name = "GPT-2 small, 64 new tokens"
    return found + [generation(name, large[1], batch, prompt=64, new=64) for batch in (1, 64)]


def _normal(rng, *shape):
    return rng.standard_normal(shape, dtype="float32")


def _rows(rng, n, d):
    return (_normal(rng, n, d),)


def _sequences(n):  # B, T
    return (BATCH, n // BATCH) if n > BATCH * SEEN else (1, n)


def _heads(rng, n, d):
    b, t = _sequences(n)
    return tuple(_normal(rng, b, d // HEAD, t, HEAD) for _ in range(3))


def _scored(rng, n, d):
    return _normal(rng, n, VOCABULARY), rng.integers(0, VOCABULARY, n)


def _pairs(rng, n, d):
    x = _normal(rng, 2, n, d)
    return (*x / np.linalg.norm(x, axis=-1, keepdims=True), np.array(2.0, "float32"))


def _block(d):
    return BlockConfig(d, d // HEAD, 4 * d, mlp="gelu_tanh")


def _gated(d):
    return gated.GatedConfig(_block(d), d, gate=0.5)


def _resampler(d):
    return resampler.ResamplerConfig(_block(d), SEEN, depth=1, frames=0)


def _attend_flops(n, d):
    b, t = _sequences(n)
    return b * costs.attend_cost(d // HEAD, HEAD, t, t).training_flops


def _causal_flops(n, d):
    b, t = _sequences(n)
    return _attend_flops(n, d) - 3 * b * _hidden(d, t)


def _hidden(width, tokens):  # FLOPs of a forward: of (tokens - 1) / 2 scores in each row
    return 2 * width * tokens * (tokens - 1)


def _layer(cost, seen=0):  # x, y, dy, dx and x again; and weights twice, and their gradients
    def least(n, d):
        b, t = _sequences(n)
        one = cost(d, t)
        return b * one.training_flops, 5 * (n + b * seen) * d + 3 * one.parameters

    return least


@dataclass(frozen=True)
class _Pair:
    module: object
    name: str  # of the pair in the module
    least: Callable  # FLOPs, and numbers that cross the bus, from n and d
    inputs: Callable = _rows  # from a generator, n and d
    init: Callable | None = None  # from a generator and d
    options: Callable = lambda n, d: {}
    products: bool = True
    unit: str = "tokens"


PAIRS = {
    "linear": _Pair(
        linear,
        "linear",
        lambda n, d: (6 * n * d * d, 5 * n * d + 3 * d * d + 2 * d),
        init=lambda rng, d: linear.linear_init(rng, d, d),
    ),
    "attention": _Pair(
        attend, "attend", lambda n, d: (_attend_flops(n, d), 11 * n * d), inputs=_heads
    ),
    "causal attention": _Pair(  # almost half of the scores are hidden
        attend,
        "attend",
        lambda n, d: (_causal_flops(n, d), 11 * n * d),
        inputs=_heads,
        options=lambda n, d: {"mask": causal_mask(_sequences(n)[1])},
    ),
    "layer norm": _Pair(
        norm,
        "layer_norm",
        lambda n, d: (0, 5 * n * d),
        init=lambda rng, d: norm.layer_norm_init(d),
        products=False,
    ),
    "RMS norm": _Pair(
        norm,
        "rms_norm",
        lambda n, d: (0, 5 * n * d),
        init=lambda rng, d: norm.rms_norm_init(d),
        products=False,
    ),
    "GELU": _Pair(activations, "gelu_tanh", lambda n, d: (0, 5 * n * d), products=False),
    "QuickGELU": _Pair(activations, "quick_gelu", lambda n, d: (0, 5 * n * d), products=False),
    "embedding": _Pair(
        embedding,
        "embedding",
        lambda n, d: (0, 4 * n * d),
        inputs=lambda rng, n, d: (rng.integers(0, VOCABULARY, n),),
        init=lambda rng, d: embedding.embedding_init(rng, VOCABULARY, d),
        products=False,
    ),
    "cross-entropy": _Pair(  # a fused one reads the logits and writes their gradient
        losses,
        "cross_entropy",
        lambda n, d: (0, 2 * n * VOCABULARY),
        inputs=_scored,
        products=False,
    ),
    "contrastive loss": _Pair(  # scores, and a product with their gradient for either side
        losses, "contrastive", lambda n, d: (6 * n * n * d, 4 * n * d), inputs=_pairs, unit="pairs"
    ),
    "MLP": _Pair(
        mlp,
        "mlp",
        _layer(lambda d, t: costs.mlp_cost(_block(d), t)),
        init=lambda rng, d: mlp.mlp_init(rng, d, 4 * d),
        options=lambda n, d: {"kind": "gelu_tanh"},
    ),
    "block": _Pair(
        block,
        "pre_block",
        _layer(lambda d, t: costs.block_cost(_block(d), t)),
        inputs=lambda rng, n, d: (_normal(rng, *_sequences(n), d),),
        init=lambda rng, d: block.block_init(rng, _block(d)),
        options=lambda n, d: {"config": _block(d)},
    ),
    "gated block": _Pair(
        gated,
        "gated_block",
        _layer(lambda d, t: costs.gated_block_cost(_gated(d), t, SEEN), SEEN),
        inputs=lambda rng, n, d: (
            _normal(rng, *_sequences(n), d),
            _normal(rng, _sequences(n)[0], SEEN, d),
        ),
        init=lambda rng, d: gated.gated_block_init(rng, _gated(d)),
        options=lambda n, d: {"config": _gated(d)},
    ),
    "Resampler": _Pair(
        resampler,
        "resampler",
        _layer(lambda d, t: costs.resampler_cost(_resampler(d), frames=1, patches=t), SEEN),
        inputs=lambda rng, n, d: (_normal(rng, _sequences(n)[0], 1, _sequences(n)[1], d),),
        init=lambda rng, d: resampler.resampler_init(rng, _resampler(d)),
        options=lambda n, d: {"config": _resampler(d)},
    ),
}


def pair(family, n, width):
    """Take a pair of the library.

    Parameters
    ----------
    family : str
        A key of `PAIRS`.
    n, width : int
        Tokens in all, and D.

    Returns
    -------
    Subject
    """
    row = PAIRS[family]
    flops, numbers = row.least(n, width)

    def draw(rng):
        return row.inputs(rng, n, width), row.init and row.init(rng, width)

    return Subject(
        family,
        "pair",
        n,
        row.unit,
        flops,
        FLOAT * numbers,
        draw,
        getattr(row.module, f"{row.name}_forward"),
        getattr(row.module, f"{row.name}_backward"),
        row.options(n, width),
        products=row.products,
    )


def update(n):
    """Take a step of AdamW, its gradients at hand.

    Parameters
    ----------
    n : int
        Parameters.

    Returns
    -------
    Subject
    """

    def draw(rng):
        return (_normal(rng, n),), {"w": _normal(rng, n)}

    return Subject(
        *("AdamW", "update", n, "parameters", 0, FLOAT * 7 * n, draw),
        memory=FLOAT * 5 * n,
        products=False,
        exact=FLOAT * 7 * n,
    )


def vit_config(width, heads, depth, outputs, *, image=224, patch=16):
    """Configure a Vision Transformer; ViT-B/16 has 768, 12 and 12.

    Parameters
    ----------
    width, heads, depth : int
        D, A and L.
    outputs : int
        Classes; 0 for none.
    image, patch : int
        Sides in pixels.

    Returns
    -------
    ViTConfig
    """
    one = BlockConfig(width, heads, 4 * width, mlp="gelu_tanh")
    return vit.ViTConfig((image, image, 3), (patch, patch), outputs, one, depth=depth)


def vlm_parts(width, heads, depth, vocabulary, *, image=224, patch=16):
    """Configure the parts of a vision language model, the tower as large as the language model.

    Parameters
    ----------
    width, heads, depth : int
        D, A and L of both; GPT-2 small has 768, 12 and 12.
    vocabulary : int
        V; the last id stands for an image.
    image, patch : int
        Sides in pixels.

    Returns
    -------
    sight : SightConfig
    language : LMConfig
    """
    tower = TowerConfig(vit_config(width, heads, depth, 0, image=image, patch=patch))
    bridge = ConnectorConfig("mlp", width, width, hidden=4 * width, activation="gelu_tanh")
    context = (image // patch) ** 2 + WORDS
    language = LMConfig.gpt(vocabulary, context, width=width, heads=heads, depth=depth)
    return SightConfig(tower, bridge), language


def vit_step(family, config, batch):
    """Take a training step of a Vision Transformer.

    Parameters
    ----------
    family : str
        What to call it.
    config : ViTConfig
        The model.
    batch : int
        Images.

    Returns
    -------
    Subject
    """

    def draw(rng):
        images = _normal(rng, batch, *config.image)
        return (images, rng.integers(0, config.outputs, batch)), vit.vit_init(rng, config)

    def forward(images, labels, p, *, config):
        scores, s_model = vit.vit_forward(images, p, config=config)
        loss, s_loss = losses.cross_entropy_forward(scores, labels)
        return loss, (s_model, s_loss)

    def backward(dloss, saved, g):
        s_model, s_loss = saved
        vit.vit_backward(losses.cross_entropy_backward(dloss, s_loss), s_model, g)

    step = _step(
        family,
        batch,
        "images",
        costs.vit_cost(config),
        config,
        draw,
        forward,
        backward,
        {"config": config},
    )
    return replace(step, blocks=config.depth)


def clip_step(family, config, batch):
    """Take a training step of a CLIP.

    Parameters
    ----------
    family : str
        What to call it.
    config : CLIPConfig
        The model.
    batch : int
        Images, each with its text.

    Returns
    -------
    Subject
    """

    def draw(rng):
        images = _normal(rng, batch, *config.image.image)
        ids = rng.integers(3, config.text.vocabulary, (batch, config.text.context))
        ids[:, -1] = config.text.end
        return (images, ids), clip.clip_init(rng, config)

    step = _step(
        family,
        batch,
        "images and texts",
        costs.clip_cost(config),
        config.image,
        draw,
        clip.clip_forward,
        clip.clip_backward,
        {"config": config},
    )
    compared = PAIRS["contrastive loss"].least(batch, config.image.outputs)[0]
    text = config.text
    hidden = text.causal * text.depth * _hidden(text.block.width, text.context)
    flops = step.flops + compared - 3 * batch * hidden
    return replace(step, flops=flops, pieces=1, blocks=config.image.depth + text.depth)


def vlm_step(family, kind, parts, batch):
    """Take a training step of a vision language model, one image before each text.

    Parameters
    ----------
    family : str
        What to call it.
    kind : {"unified", "cross-modal"}
        How words see.
    parts : (SightConfig, LMConfig)
        As `vlm_parts` makes them.
    batch : int
        Texts.

    Returns
    -------
    Subject
    """
    sight, language = parts
    image, places, options, looks_at = language.vocabulary - 1, 1, {}, ()
    if kind == "unified":
        places, module, name = sight.tokens(1), unified, "unified"
        config = unified.UnifiedConfig(sight, language, image)
        cost = costs.unified_cost(config, tokens=places + WORDS)
    else:
        module, name, options = cross_modal, "cross_modal", {"slots": 1}
        looks = gated.GatedConfig(language.block, language.block.width, gate=0.5)
        looks_at = tuple(range(0, language.depth, 4))  # a gated block before every fourth
        config = cross_modal.CrossModalConfig(sight, language, looks, looks_at, image)
        cost = costs.cross_modal_cost(config, tokens=places + WORDS)

    def draw(rng):
        ids = rng.integers(0, image, (batch, places + WORDS))
        ids[:, :places] = image
        labels = np.where(ids == image, losses.IGNORE, ids)
        media = _normal(rng, batch, 1, *sight.tower.vit.image)
        return (ids, labels, media), getattr(module, f"{name}_init")(rng, config)

    step = _step(
        family,
        batch,
        "texts",
        cost,
        sight.tower.vit,
        draw,
        getattr(module, f"{name}_loss_forward"),
        getattr(module, f"{name}_loss_backward"),
        {"config": config, **options},
    )
    hidden = language.depth * _hidden(language.block.width, places + WORDS)
    blocks = max(sight.tower.used) + language.depth + len(looks_at)
    return replace(step, flops=step.flops - 3 * batch * hidden, blocks=blocks)


def _step(family, batch, unit, cost, seeing, draw, forward, backward, options):
    pixels = costs.vit_embed_cost(seeing).flops  # their gradient, which nobody needs
    return Subject(
        family,
        "step",
        batch,
        unit,
        batch * (cost.training_flops - pixels),
        FLOAT * PASSES * cost.parameters,
        draw,
        forward,
        backward,
        options,
        pieces=min(batch, 8),
        memory=FLOAT * (4 * cost.parameters + batch * cost.activations),
        exact=FLOAT * KEPT_EXACT * cost.parameters,
    )


def generation(family, config, batch, *, prompt, new):
    """Take new tokens of a language model, one after another, with a KV cache.

    Parameters
    ----------
    family : str
        What to call it.
    config : LMConfig
        The model.
    batch, prompt, new : int
        Texts, tokens of each before, and tokens to write.

    Returns
    -------
    Subject
    """
    unread = costs.linear_cost(config.block.width, config.vocabulary, prompt - 1, bias=False)
    steps = [costs.language_model_cost(config, tokens=prompt)]  # which scores the last token alone
    steps += [costs.language_model_cost(config, tokens=1, past=prompt + i) for i in range(new - 1)]
    cached = batch * costs.kv_cache_numbers(config) * sum(prompt + i for i in range(new - 1))
    hidden = config.depth * _hidden(config.block.width, prompt)

    def draw(rng):
        return (rng.integers(0, config.vocabulary, (batch, prompt)),), lm_init(rng, config)

    return Subject(
        family,
        "generation",
        batch,
        "texts",
        batch * (sum(cost.flops for cost in steps) - unread.flops - hidden),
        FLOAT * (new * steps[0].parameters + cached),
        draw,
        options={"config": config, "new": new},
        memory=FLOAT * (steps[0].parameters + batch * steps[0].activations),
    )
