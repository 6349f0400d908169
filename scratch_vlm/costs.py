"""What a model costs, by formula: parameters, FLOPs and activations, from its config alone.

Costs of parts add up to the cost of the whole, so every function below reads like the forward that
it describes. Nothing is drawn and nothing is run: the cost of a model of any size is known before
there is memory for it.
"""

import math
from dataclasses import dataclass, replace

import numpy as np

from scratch_vlm.layers.linear import has_bias
from scratch_vlm.layers.mlp import GATED


@dataclass(frozen=True)
class Cost:
    """What one sample costs. Costs add, and ``3 * cost`` is that of three such layers.

    Attributes
    ----------
    parameters : int
        Numbers that are learned; the only ones that do not depend on the sample.
    flops : int
        Of the forward: 2 for each multiplication and addition of a matrix product, and nothing
        for all else, such as norms, activations and softmax.
    backward_flops : int
        Of the backward, when nothing is frozen: a product has two gradients, each a product of
        the same size. That of the input itself (pixels) is among them; it is computed here.
    activations : int
        Numbers that the forward saves for its backward, while training, so with the masks of
        dropout. Not counted are parameters, ids, and what all samples of a batch share, such as
        the angles of rotary positions.

    Notes
    -----
    For every weight and token 2 FLOPs forward and 4 backward: C = 6 N D for N weights and D
    tokens, which leaves out attention [1]_. The formulas here have its term, too: 2 T S D for
    the scores of T tokens on S others, and as many to read what they say.

    References
    ----------
    .. [1] J. Kaplan et al., "Scaling Laws for Neural Language Models", 2020, arXiv:2001.08361,
       section 2.1 and table 1.

    Examples
    --------
    >>> layer = linear_cost(64, 256, tokens=10)
    >>> layer.parameters, layer.flops, layer.training_flops // layer.flops
    (16640, 327680, 3)
    >>> (12 * layer).parameters == sum([layer] * 12, Cost()).parameters
    True
    """

    parameters: int = 0
    flops: int = 0
    backward_flops: int = 0
    activations: int = 0

    def __add__(self, other):
        return Cost(
            self.parameters + other.parameters,
            self.flops + other.flops,
            self.backward_flops + other.backward_flops,
            self.activations + other.activations,
        )

    def __rmul__(self, count):
        return Cost(
            count * self.parameters,
            count * self.flops,
            count * self.backward_flops,
            count * self.activations,
        )

    @property
    def training_flops(self):
        """FLOPs of forward and backward together."""
        return self.flops + self.backward_flops

    def run(self, times, *, kinds=1):
        """Return the cost of running `kinds` sets of parameters `times` in all, as on F frames."""
        return replace(times * self, parameters=kinds * self.parameters)

    def bytes(self, dtype="float32"):
        """Return the bytes of the activations in a dtype."""
        return np.dtype(dtype).itemsize * self.activations


def linear_cost(inputs, outputs, tokens, *, bias=True):
    """Cost of a linear layer, which saves what it read.

    Parameters
    ----------
    inputs, outputs : int
        D and M.
    tokens : int
        T.
    bias : bool, default True
        Whether it has one.

    Returns
    -------
    Cost
    """
    flops = 2 * tokens * inputs * outputs
    return Cost(inputs * outputs + bias * outputs, flops, 2 * flops, tokens * inputs)


def lora_cost(inputs, outputs, tokens, *, rank):
    """Cost of an adapter beside a linear layer, which has saved what both read.

    Parameters
    ----------
    inputs, outputs : int
        D and M of the linear layer.
    tokens : int
        T.
    rank : int
        R.

    Returns
    -------
    Cost
        The scale is a constant, but one more number among the parameters.
    """
    thin = linear_cost(inputs, rank, tokens, bias=False)
    thin += linear_cost(rank, outputs, tokens, bias=False)
    return thin + Cost(1, activations=-tokens * inputs)


def norm_cost(kind, width, tokens):
    """Cost of a norm, which saves the normalised tokens and one number for each.

    Parameters
    ----------
    kind : {"layer", "rms"}
        With a shift or without.
    width, tokens : int
        D and T.

    Returns
    -------
    Cost
    """
    return Cost((2 if kind == "layer" else 1) * width, activations=tokens * (width + 1))


def attend_cost(heads, head_width, tokens, answers, *, value_width=None):
    """Cost of attention without its linear layers: the only part that grows with T times S.

    Parameters
    ----------
    heads, head_width : int
        A and K.
    tokens, answers : int
        T that ask and S that answer.
    value_width : int, optional
        J, channels of a head's values. Default K.

    Returns
    -------
    Cost

    Notes
    -----
    Scores and what they read, ``q @ k.T`` and ``e @ v``; saved are q, e and a sum for each row.
    A causal mask hides half of the scores, but they are computed.
    """
    j = head_width if value_width is None else value_width
    flops = 2 * heads * tokens * answers * (head_width + j)
    return Cost(0, flops, 2 * flops, heads * tokens * (head_width + answers + 1))


def self_attention_cost(block, tokens, *, past=0):
    """Cost of multi-head attention of a sequence to itself.

    Parameters
    ----------
    block : BlockConfig
        Its width, heads, bias and positions.
    tokens : int
        T.
    past : int, default 0
        Tokens in a KV cache, which are read, too.

    Returns
    -------
    Cost
    """
    k, kv = block.per_head, _kv_heads(block)
    j = k if block.value_width is None else block.value_width
    joined, inside = (block.heads + kv) * k + kv * j, block.heads * j
    turned = kv * k if block.rotary_base is not None else 0  # the keys again, rotated
    return (
        linear_cost(block.width, joined, tokens, bias=has_bias(block.bias, "qkv"))
        + Cost(activations=tokens * (joined + turned))  # keys and values are views of the product
        + attend_cost(block.heads, k, tokens, past + tokens, value_width=j)
        + linear_cost(inside, block.width, tokens, bias=has_bias(block.bias, "out"))
    )


def cross_attention_cost(block, tokens, answers, source_width, *, head_width=None, kept=False):
    """Cost of multi-head attention of one sequence to another.

    Parameters
    ----------
    block : BlockConfig
        Its width, heads and bias.
    tokens, answers : int
        T that ask and S that answer.
    source_width : int
        E, channels of those that answer.
    head_width : int, optional
        K. Default D / A.
    kept : bool, default False
        Whether keys and values are there from before, as in generation.

    Returns
    -------
    Cost
    """
    k = block.per_head if head_width is None else head_width
    j = k if block.value_width is None else block.value_width
    inside, keys_values = block.heads * j, _kv_heads(block) * (k + j)
    return (
        linear_cost(block.width, block.heads * k, tokens, bias=has_bias(block.bias, "q"))
        + linear_cost(
            source_width, keys_values, 0 if kept else answers, bias=has_bias(block.bias, "kv")
        )
        + Cost(activations=answers * keys_values)
        + attend_cost(block.heads, k, tokens, answers, value_width=j)
        + linear_cost(inside, block.width, tokens, bias=has_bias(block.bias, "out"))
    )


def mlp_cost(block, tokens):
    """Cost of the feed-forward half of a block.

    Parameters
    ----------
    block : BlockConfig
        Its width, hidden width, kind and bias.
    tokens : int
        T.

    Returns
    -------
    Cost

    Notes
    -----
    Saved are the slope of the activation, and in SwiGLU both halves of the product and the gate.
    """
    gated = block.mlp in GATED
    wide = 2 if gated else 1
    return (
        linear_cost(block.width, wide * block.hidden, tokens, bias=has_bias(block.bias, "fc"))
        + Cost(activations=tokens * block.hidden * (4 if gated else 1))
        + linear_cost(block.hidden, block.width, tokens, bias=has_bias(block.bias, "proj"))
    )


def block_cost(block, tokens, *, past=0):
    """Cost of a transformer block, the same for norms before and after its sublayers.

    Parameters
    ----------
    block : BlockConfig
        The kind of block.
    tokens : int
        T.
    past : int, default 0
        Tokens in a KV cache.

    Returns
    -------
    Cost
    """
    return (
        2 * norm_cost(block.norm, block.width, tokens)
        + self_attention_cost(block, tokens, past=past)
        + mlp_cost(block, tokens)
        + 2 * _dropout_cost(block, tokens)
    )


def cross_block_cost(
    block, latents, inputs, source_width, *, head_width=None, qk_norm=None, with_latents=False
):
    """Cost of a block in which latents read inputs: linear in the inputs.

    Parameters
    ----------
    block : BlockConfig
        The kind of block.
    latents, inputs : int
        R and S.
    source_width : int
        E, channels of an input.
    head_width : int, optional
        K. Default D / A.
    qk_norm : {"rms", "layer"}, optional
        How the queries and keys of each head are normalised. Default not at all.
    with_latents : bool, default False
        Whether the latents are read, too, as in the Resampler.

    Returns
    -------
    Cost
    """
    answers = inputs + latents if with_latents else inputs
    k = block.per_head if head_width is None else head_width
    normed = _qk_norm_cost(qk_norm, block, k, latents, answers) if qk_norm else Cost()
    return (
        normed
        + 2 * norm_cost(block.norm, block.width, latents)
        + norm_cost(block.norm, source_width, inputs)
        + cross_attention_cost(block, latents, answers, source_width, head_width=head_width)
        + mlp_cost(block, latents)
        + 2 * _dropout_cost(block, latents)
    )


def gated_block_cost(config, tokens, answers, *, kept=False):
    """Cost of a gated cross-attention block.

    Parameters
    ----------
    config : GatedConfig
        The kind of block.
    tokens, answers : int
        T of the text, and S visual tokens.
    kept : bool, default False
        Whether keys and values are there from before, as in generation.

    Returns
    -------
    Cost

    Notes
    -----
    Each gate keeps what it let through. Normalised queries and keys are kept, each with one
    number for its length, and the keys are scaled copies then, no views.
    """
    block = config.block
    k = block.width // block.heads if config.head_width is None else config.head_width
    cost = (
        2 * norm_cost(block.norm, block.width, tokens)
        + cross_attention_cost(block, tokens, answers, config.source, head_width=k, kept=kept)
        + mlp_cost(block, tokens)
        + 2 * _dropout_cost(block, tokens)
        + 2 * Cost(math.prod(config.gate_shape), activations=tokens * block.width)
    )
    if config.qk_norm:
        cost += _qk_norm_cost("rms", block, k, tokens, answers)
    return cost


def connector_cost(config, *, frames=1, patches):
    """Cost of a connector, of one image or clip.

    Parameters
    ----------
    config : ConnectorConfig
        Its configuration.
    frames, patches : int
        F, and N features of each frame.

    Returns
    -------
    Cost
    """
    inputs, outputs, bias = config.inputs, config.outputs, config.bias
    tokens = config.tokens(frames, patches)
    if config.kind == "linear":
        return linear_cost(inputs, outputs, tokens, bias=bias)
    if config.kind == "resampler":
        width = config.resampler.block.width
        cost = resampler_cost(config.resampler, frames=frames, patches=patches)
        if inputs != width:
            cost += linear_cost(inputs, width, frames * patches, bias=bias)
        if outputs != width:
            cost += linear_cost(width, outputs, tokens, bias=bias)
        return cost
    if config.kind == "pixel_shuffle":
        inputs *= config.by**2
    hidden = outputs if config.hidden is None else config.hidden
    return (
        linear_cost(inputs, hidden, tokens, bias=bias)
        + Cost(activations=tokens * hidden)
        + linear_cost(hidden, outputs, tokens, bias=bias)
    )


def vit_embed_cost(config, *, image=None):
    """Cost of what stands before the blocks of a Vision Transformer: patches and positions.

    Parameters
    ----------
    config : ViTConfig
        The model.
    image : tuple of int, optional
        Height and width in pixels. Default those of the config. Learned positions are then
        stretched once for a whole batch, which is not counted.

    Returns
    -------
    Cost
    """
    block, (rows, columns) = config.block, config.grid
    positions = {
        "learned": config.extra + rows * columns,
        "axial": config.extra + rows + columns,
        "sincos": 0,
    }[config.positions]
    tokens = _image_tokens(config, image)
    numbers = config.patch[0] * config.patch[1] * config.image[2]
    cost = linear_cost(numbers, block.width, tokens - config.extra, bias=config.patch_bias)
    cost += Cost((config.extra + positions) * block.width)  # CLS, and places
    if config.norm_first:
        cost += norm_cost(block.norm, block.width, tokens)
    return cost


def vit_features_cost(config, *, image=None):
    """Cost of a Vision Transformer without its head: of all tokens of an image.

    Parameters
    ----------
    config : ViTConfig
        The model.
    image : tuple of int, optional
        Height and width in pixels. Default those of the config.

    Returns
    -------
    Cost
    """
    blocks = config.depth * block_cost(config.block, _image_tokens(config, image))
    return vit_embed_cost(config, image=image) + blocks


def vit_cost(config, *, image=None):
    """Cost of a Vision Transformer, of one image.

    Parameters
    ----------
    config : ViTConfig
        The model.
    image : tuple of int, optional
        Height and width in pixels. Default those of the config.

    Returns
    -------
    Cost

    Examples
    --------
    >>> from scratch_vlm.layers.block import BlockConfig
    >>> from scratch_vlm.models.vit import ViTConfig
    >>> base = ViTConfig((224, 224, 3), (16, 16), 1000, BlockConfig(768, 12, 3072), 12)
    >>> cost = vit_cost(base)
    >>> cost.parameters, round(cost.flops / 1e9, 1)
    (86567656, 35.1)
    """
    block, tokens = config.block, _image_tokens(config, image)
    normed = 1 if config.pool == "cls" else tokens
    cost = vit_features_cost(config, image=image) + norm_cost(block.norm, block.width, normed)
    if config.pool == "mean":
        cost += Cost(activations=tokens)  # the weight of each
    elif config.pool == "attention":
        plain = replace(block, kv_heads=None, mlp="gelu", bias=True)
        cost += Cost(block.width)  # the token that asks
        cost += cross_attention_cost(plain, 1, tokens, block.width)
        cost += norm_cost("layer", block.width, 1) + mlp_cost(plain, 1)
    if config.outputs:
        cost += linear_cost(block.width, config.outputs, 1, bias=config.head_bias)
    return cost


def text_cost(config, *, tokens=None):
    """Cost of CLIP's text tower, of one text.

    Parameters
    ----------
    config : TextConfig
        The model.
    tokens : int, optional
        T. Default the context.

    Returns
    -------
    Cost
    """
    block, tokens = config.block, config.context if tokens is None else tokens
    return (
        Cost((config.vocabulary + config.context) * block.width)
        + config.depth * block_cost(block, tokens)
        + norm_cost(block.norm, block.width, 1)
        + linear_cost(block.width, config.outputs, 1, bias=config.head_bias)
    )


def clip_cost(config, *, image=None, tokens=None):
    """Cost of CLIP, of one image and its text, up to their embeddings of length one.

    Parameters
    ----------
    config : CLIPConfig
        The model.
    image : tuple of int, optional
        Height and width in pixels. Default those of the config.
    tokens : int, optional
        Of the text. Default the context.

    Returns
    -------
    Cost

    Notes
    -----
    The loss compares the pair with all B of its batch, 2 B E FLOPs more: it belongs to the batch.
    """
    units = Cost(activations=2 * (config.image.outputs + 1))  # two embeddings and their lengths
    scale = Cost(1 if config.loss == "softmax" else 2)
    return (
        vit_cost(config.image, image=image) + text_cost(config.text, tokens=tokens) + units + scale
    )


def bert_cost(config, *, tokens=None):
    """Cost of BERT with its pooler or its head of masked words, of one text.

    Parameters
    ----------
    config : BERTConfig
        The model.
    tokens : int, optional
        T. Default the context.

    Returns
    -------
    Cost
    """
    block, tokens = config.block, config.context if tokens is None else tokens
    answered = 1 if config.head == "pool" else tokens
    cost = (
        Cost((config.vocabulary + config.context + config.segments) * block.width)
        + norm_cost(block.norm, block.width, tokens)
        + _dropout_cost(block, tokens)
        + config.depth * block_cost(block, tokens)
        + linear_cost(block.width, block.width, answered)
        + Cost(activations=answered * block.width)  # the slope of the activation
    )
    if config.head == "words":  # scored by the table of the words
        scores = linear_cost(block.width, config.vocabulary, tokens, bias=False)
        cost += norm_cost(block.norm, block.width, tokens) + replace(scores, parameters=0)
        cost += Cost(config.vocabulary)
    return cost


def language_model_cost(config, *, tokens=None, past=0):
    """Cost of a language model, of one text without padding or of what is new in it.

    Parameters
    ----------
    config : LMConfig
        The model.
    tokens : int, optional
        T, tokens that are read. Default the context.
    past : int, default 0
        Tokens whose keys and values are in a cache: ``tokens=1`` is then a step of generation.
        Nothing is kept for a backward.

    Returns
    -------
    Cost

    See Also
    --------
    kv_cache_numbers : What a token leaves in the cache.
    """
    block, tokens = config.block, config.context if tokens is None else tokens
    head = linear_cost(block.width, config.vocabulary, tokens, bias=False)
    cost = (
        Cost(config.vocabulary * block.width)
        + _dropout_cost(block, tokens)
        + config.depth * block_cost(block, tokens, past=past)
        + norm_cost(block.norm, block.width, tokens)
        + (replace(head, parameters=0) if config.tied else head)
    )
    if config.positions == "learned":
        cost += Cost(config.context * block.width)
    return replace(cost, backward_flops=0, activations=0) if past else cost


def kv_cache_numbers(config):
    """Numbers that each token leaves in a KV cache: a key and a value for each head and block.

    Parameters
    ----------
    config : LMConfig
        The model.

    Returns
    -------
    int
        2 L G K.
    """
    block = config.block
    return 2 * config.depth * _kv_heads(block) * block.per_head


def resampler_cost(config, *, frames, patches):
    """Cost of a Perceiver Resampler, of one clip: linear in its frames.

    Parameters
    ----------
    config : ResamplerConfig
        Its configuration.
    frames, patches : int
        F, and N of each frame.

    Returns
    -------
    Cost

    Notes
    -----
    L times, R latents read F N + R tokens: no product has F N on both sides. That of the time
    embeddings with the matrix that stretches them is made once for a batch and not counted; its
    gradient is.
    """
    block, latents = config.block, config.latents
    read = cross_block_cost(
        block,
        latents,
        frames * patches,
        block.width,
        head_width=config.head_width,
        qk_norm=config.qk_norm,
        with_latents=True,
    )
    times = config.frames * block.width
    return (
        Cost(latents * block.width)
        + Cost(times, backward_flops=2 * frames * times)
        + config.depth * read
        + norm_cost(block.norm, block.width, latents)
    )


def perceiver_cost(config, *, inputs):
    """Cost of a Perceiver, of one sample: linear in its inputs.

    Parameters
    ----------
    config : PerceiverConfig
        The model.
    inputs : int
        N, such as the pixels of an image.

    Returns
    -------
    Cost

    Notes
    -----
    Learned positions go through their linear layer once for a whole batch, which is not counted.
    """
    block, latents = config.block, config.latents
    cross = cross_block_cost(config.cross, latents, inputs, config.input_width)
    tower = config.depth * block_cost(block, latents)
    cost = Cost(latents * block.width)
    if config.learned is not None:
        wide, places = config.learned, math.prod(config.shape)
        cost += linear_cost(config.channels, wide, inputs)
        cost += Cost((places + wide + 1) * wide)
    cost += cross.run(config.reads, kinds=config.crosses)
    cost += tower.run(config.repeats, kinds=config.towers)
    if config.decoder == "query":
        cost += Cost(block.width) + cross_block_cost(config.decoding, 1, latents, block.width)
    else:
        normed = 1 if config.decoder == "mean_first" else latents
        cost += norm_cost(block.norm, block.width, normed) + Cost(activations=latents)
    return cost + linear_cost(block.width, config.outputs, 1) if config.outputs else cost


def sight_cost(config, *, frames=1):
    """Cost of seeing one image or video: the tower on every frame, then the connector.

    Parameters
    ----------
    config : SightConfig
        From pixels to visual tokens.
    frames : int, default 1
        F.

    Returns
    -------
    Cost

    Notes
    -----
    Blocks behind the last layer that is used do not run. A CLS token that is left out still takes
    its memory where the connector reads the features as they are: it keeps them whole.
    """
    tower, connector = config.tower, config.connector
    blocks = max(tower.used) * block_cost(tower.vit.block, tower.vit.tokens)
    cost = (vit_embed_cost(tower.vit) + blocks).run(frames)
    cost += connector_cost(connector, frames=frames, patches=tower.patches)
    copied = connector.kind == "pixel_shuffle" or (
        connector.kind == "resampler" and connector.inputs == connector.resampler.block.width
    )
    left_out = 0 if copied else tower.vit.tokens - tower.patches
    return cost + Cost(activations=frames * left_out * tower.outputs)


def unified_cost(config, *, tokens, media=1, frames=1, past=0):
    """Cost of a vision language model with visual tokens among the words, of one text.

    Parameters
    ----------
    config : UnifiedConfig
        The model.
    tokens : int
        T, of which ``media * config.sight.tokens(frames)`` are visual.
    media, frames : int, default 1
        Images or videos in the text, and the frames of each.
    past : int, default 0
        Tokens in the cache, the visual ones among them, as for `language_model_cost`.

    Returns
    -------
    Cost
    """
    seeing = sight_cost(config.sight, frames=frames).run(0 if past else media)
    return seeing + language_model_cost(config.lm, tokens=tokens, past=past)


def cross_modal_cost(config, *, tokens, media=1, frames=1, past=0):
    """Cost of a vision language model whose words look at images, of one text.

    Parameters
    ----------
    config : CrossModalConfig
        The model.
    tokens : int
        T, one for each image or video among them.
    media, frames : int, default 1
        Images or videos of the text, and the frames of each.
    past : int, default 0
        Tokens in the cache, as for `language_model_cost`; the keys and values of the visual
        tokens are kept beside it.

    Returns
    -------
    Cost

    Notes
    -----
    All gated blocks read the same visual tokens, which are kept once; without media a single one
    of zeros, which nobody sees.
    """
    count, answers = len(config.places), max(media * config.sight.tokens(frames), 1)
    looking = count * gated_block_cost(config.gated, tokens, answers, kept=past > 0)
    cost = (
        sight_cost(config.sight, frames=frames).run(0 if past else media)
        + language_model_cost(config.lm, tokens=tokens, past=past)
        + looking
    )
    if past:
        return replace(cost, backward_flops=0, activations=0)
    return cost + Cost(activations=-(count - 1) * answers * config.gated.source)


def tiled_vit_cost(config):
    """Cost of a tiled Vision Transformer, of one image with all its tiles.

    Parameters
    ----------
    config : TiledConfig
        The model.

    Returns
    -------
    Cost

    Notes
    -----
    Tiles that an image lacks, and what fills a tile up, cost as much as others.
    """
    c, width, real = config, config.block.width, config.tiles * config.tokens
    tokens = c.tiles * c.padded
    places = Cost(c.ratios * c.tiles * width + 1, activations=c.tiles * width)
    gates = 2 * Cost(1, activations=tokens * width)
    return (
        linear_cost(c.patch[0] * c.patch[1] * c.image[2], width, real - c.tiles, bias=False)
        + 2 * places  # of tiles, before and behind the blocks
        + Cost(width)  # CLS
        + Cost((1 + c.ratios * c.tiles) * c.tokens * width + 1, activations=real * width)
        + norm_cost("layer", width, real)
        + c.depth * block_cost(c.block, tokens)
        + norm_cost("layer", width, tokens)
        + c.global_depth * (block_cost(c.block, tokens) + gates)
    )


def interleaved_cost(config, *, tokens, answers):
    """Cost of a language model some of whose blocks look at images, of one text.

    Parameters
    ----------
    config : InterleavedConfig
        The model.
    tokens, answers : int
        T of the text, and S visual tokens beside it.

    Returns
    -------
    Cost

    Notes
    -----
    All blocks that look read the same visual tokens, which are kept once.
    """
    lm, count = config.lm, len(config.crosses)
    width = lm.block.width
    looking = count * gated_block_cost(config.gated, tokens, answers)
    shared = max(count - 1, 0) * answers * config.gated.source
    return (
        Cost((lm.vocabulary + config.added) * width)
        + (lm.depth - count) * block_cost(lm.block, tokens)
        + looking
        + Cost(activations=-shared)
        + norm_cost(lm.block.norm, width, tokens)
        + linear_cost(width, lm.vocabulary, tokens, bias=False)
    )


def seen_cache_numbers(config):
    """Numbers that each visual token leaves in the gated blocks while a text is written.

    Parameters
    ----------
    config : CrossModalConfig
        The model.

    Returns
    -------
    int
        2 G K for each gated block.
    """
    block, gated = config.gated.block, config.gated
    k = block.width // block.heads if gated.head_width is None else gated.head_width
    return 2 * len(config.places) * _kv_heads(block) * k


def _dropout_cost(block, tokens):  # what is kept and what is not
    return Cost(activations=tokens * block.width if block.dropout else 0)


def _qk_norm_cost(kind, block, k, tokens, answers):  # the keys are scaled copies then, no views
    copies = Cost(activations=_kv_heads(block) * answers * k)
    queries, keys = block.heads * tokens, _kv_heads(block) * answers
    return norm_cost(kind, k, queries) + norm_cost(kind, k, keys) + copies


def _kv_heads(block):
    return block.heads if block.kv_heads is None else block.kv_heads


def _image_tokens(config, image):
    return (config if image is None else config.at(*image)).tokens
