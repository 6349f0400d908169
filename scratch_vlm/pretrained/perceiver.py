"""Perceiver of the Transformers library: the encoder, or the image classifiers of ImageNet."""

from dataclasses import replace

from scratch_vlm.layers.block import BlockConfig
from scratch_vlm.models.perceiver import PerceiverConfig, perceiver_init
from scratch_vlm.pretrained.layout import (
    Layout,
    Rule,
    blank,
    fused,
    leading,
    linear,
    norm,
    qkv,
    repeated,
    under,
)
from scratch_vlm.pretrained.options import OptionError
from scratch_vlm.pretrained.vit import classes

LEARNED = 256  # channels of pixels, and of places, of the classifier with learned positions
BANDS, RESOLUTION = 64, (224, 224)  # of the classifier with Fourier features
OTHERS = (  # of inputs and outputs that these models do not have
    "_label_trainable_num_channels",
    "audio_samples_per_frame",
    "layer_norm_eps",  # the reference does not look at it
    "max_position_embeddings",
    "num_frames",
    "output_num_channels",
    "output_shape",
    "samples_per_patch",
    "tie_word_embeddings",
    "train_size",
    "vocab_size",
)


def configure(options, *, shape, channels, outputs, bands=None, learned=None):
    """Turn a published config into ours.

    Parameters
    ----------
    options : Options
        Of config.json.
    shape : tuple of int
        Axes of the inputs.
    channels : int
        Of an input.
    outputs : int
        Classes, or 0 for the latents alone.
    bands, learned : int, optional
        How places are told, see `PerceiverConfig`.

    Returns
    -------
    PerceiverConfig
    """
    width = options.get("d_latents", 1280)
    heads = options.get("num_self_attention_heads", 8)
    crossing = options.get("num_cross_attention_heads", 8)
    keys, values = (options.get(name, None, like=1) for name in ("qk_channels", "v_channels"))
    like = options.only("cross_attention_shape_for_attention", "kv", "q")
    if (values or keys or width) != width:
        raise OptionError(
            f"{options.where}: latents of {width} channels cannot add what they read in "
            f"{values or keys}"
        )
    block = BlockConfig(
        width,
        heads,
        options.get("self_attention_widening_factor", 1) * width,
        mlp=options.activation("hidden_act"),
        head_width=_per_head(options, keys or width, heads),
        value_width=_per_head(options, values or keys or width, heads),
        blind="mean",
    )
    config = PerceiverConfig(
        shape,
        channels,
        outputs,
        block,
        latents=options.get("num_latents", 256),
        depth=options.get("num_self_attends_per_block", 26),
        repeats=options.get("num_blocks", 1),
        variant="io",
        bands=bands,
        learned=learned,
        cross_heads=crossing,
        cross_hidden=options.get("cross_attention_widening_factor", 1) * width,
        query_residual=options.get("use_query_residual", True),
        decoder="query",
        decoder_heads=1,
        decoder_hidden=width,
        decoder_residual=True,
    )
    options.done(*OTHERS, "d_model", "image_size")
    crossed = keys or (config.input_width if like == "kv" else width)
    return replace(
        config,
        cross_head_width=_per_head(options, crossed, crossing),
        cross_value_width=_per_head(options, values or crossed, crossing),
    )


def layout(config, rules, *, prefix="perceiver."):
    """Lay out the checkpoint.

    Parameters
    ----------
    config : PerceiverConfig
        The model.
    rules : list of Rule
        Of what is not the encoder.
    prefix : str, default "perceiver."
        In front of the names.

    Returns
    -------
    Layout
    """
    encoder = [
        Rule("embeddings.latents", "latents"),
        *under("encoder.cross_attention.", "crosses/0/", _cross_rules(config.cross)),
        *repeated(
            "encoder.self_attends.{}.", "towers/0/{}/", config.depth, _self_rules(config.block)
        ),
    ]
    shapes = blank(perceiver_init, config)
    if not config.outputs:
        shapes = {name: shapes[name] for name in ("latents", "crosses", "towers")}
    return Layout(shapes, tuple(under(prefix, "", [*encoder, *rules])))


class Inputs:
    """`PerceiverModel`, of inputs that carry their positions already."""

    @staticmethod
    def configure(options):
        """Turn a published config into ours."""
        width = options.get("d_model", 768)
        return configure(options, shape=(1,), channels=width, outputs=0)

    @staticmethod
    def layout(config):
        """Lay out the checkpoint of the encoder alone."""
        return layout(config, [], prefix="")


class Fourier:
    """`PerceiverForImageClassificationFourier`."""

    @staticmethod
    def configure(options):
        """Turn a published config into ours."""
        outputs = classes(options)
        return configure(options, shape=RESOLUTION, channels=3, outputs=outputs, bands=BANDS)

    @staticmethod
    def layout(config):
        """Lay out the checkpoint of the classifier with Fourier features."""
        return layout(config, _decoder_rules(config))


class Learned:
    """`PerceiverForImageClassificationLearned`."""

    @staticmethod
    def configure(options):
        """Turn a published config into ours."""
        side = options.get("image_size", 56)
        outputs = classes(options)
        return configure(options, shape=(side, side), channels=3, outputs=outputs, learned=LEARNED)

    @staticmethod
    def layout(config):
        """Lay out the checkpoint of the classifier with learned positions."""
        inputs = [
            *linear("convnet_1x1", "input", lambda x: x.T[:, :, None, None]),
            Rule("position_embeddings.position_embeddings", "positions/w"),
            *linear("positions_projection", "position"),
        ]
        return layout(
            config, [*under("input_preprocessor.", "places/", inputs), *_decoder_rules(config)]
        )


def _decoder_rules(config):
    return under(
        "decoder.decoder.",
        "",
        [
            Rule("output_position_encodings.position_embeddings", "query", leading(1)),
            *under("decoding_cross_attention.", "decode/", _cross_rules(config.decoding)),
            *linear("final_layer", "head"),
        ],
    )


def _cross_rules(block):
    k, j = block.per_head, block.value_width or block.per_head
    keys_values = ("attention.self.key", "attention.self.value")
    return [
        *norm("attention.self.layernorm1", "ln1"),
        *norm("attention.self.layernorm2", "ln_z"),
        *linear("attention.self.query", "attn/q"),
        *fused(keys_values, "attn/kv", (block.heads * k, block.heads * j)),
        *_rest_rules(),
    ]


def _self_rules(block):
    names = [f"attention.self.{name}" for name in ("query", "key", "value")]
    return [
        *norm("attention.self.layernorm1", "ln1"),
        *qkv(names, "attn/qkv", block),
        *_rest_rules(),
    ]


def _rest_rules():
    return [
        *linear("attention.output.dense", "attn/out"),
        *norm("layernorm", "ln2"),
        *linear("mlp.dense1", "mlp/fc"),
        *linear("mlp.dense2", "mlp/proj"),
    ]


def _per_head(options, channels, heads):
    if heads < 1 or channels % heads:
        raise OptionError(f"{options.where}: {channels} channels do not divide into {heads} heads")
    return channels // heads
