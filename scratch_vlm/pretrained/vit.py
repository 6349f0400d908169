"""ViT of the Transformers library: the classifier, or the encoder with its pooler or without."""

from dataclasses import replace

from scratch_vlm.layers.block import BlockConfig
from scratch_vlm.models.vit import ViTConfig, vit_init
from scratch_vlm.pretrained.layout import (
    Layout,
    Rule,
    blank,
    kernel,
    leading,
    linear,
    norm,
    qkv,
    repeated,
    under,
)
from scratch_vlm.pretrained.options import OptionError

BUFFERS = r"(vit\.)?embeddings\.mask_token"  # of pretraining; nothing reads it here
WITHOUT_POOLER = {"pooler.dense.weight": lambda config: replace(config, outputs=0, ends=None)}
ALIASES = (  # names since version 5 of the library, in memory and in some files
    (r"^vit\.layers\.", "vit.encoder.layer."),
    (r"(layer\.\d+)\.attention\.q_proj\.", r"\1.attention.attention.query."),
    (r"(layer\.\d+)\.attention\.k_proj\.", r"\1.attention.attention.key."),
    (r"(layer\.\d+)\.attention\.v_proj\.", r"\1.attention.attention.value."),
    (r"(layer\.\d+)\.attention\.o_proj\.", r"\1.attention.output.dense."),
    (r"(layer\.\d+)\.mlp\.fc1\.", r"\1.intermediate.dense."),
    (r"(layer\.\d+)\.mlp\.fc2\.", r"\1.output.dense."),
)


def configure(options):
    """Turn a published config into ours.

    Parameters
    ----------
    options : Options
        Of config.json.

    Returns
    -------
    ViTConfig
        Sides of the images without what is left over beside whole patches.
    """
    config = _encoder(options, classes(options))
    options.done("encoder_stride", "pooler_act", "pooler_output_size")
    return config


def _encoder(options, outputs, ends=None):
    patch = options.size("patch_size", 16)
    image = options.size("image_size", 224)
    bias = ("out", "fc", "proj")
    return ViTConfig(
        image=(*whole_patches(image, patch), options.get("num_channels", 3)),
        patch=patch,
        outputs=outputs,
        block=BlockConfig(
            options.get("hidden_size", 768),
            options.get("num_attention_heads", 12),
            options.get("intermediate_size", 3072),
            eps=options.get("layer_norm_eps", 1e-12),
            mlp=options.activation("hidden_act"),
            bias=True if options.get("qkv_bias", True) else bias,
        ),
        depth=options.get("num_hidden_layers", 12),
        ends=ends,
        stretch="bicubic_repeat",
    )


def layout(config):
    """Lay out the checkpoint.

    Parameters
    ----------
    config : ViTConfig
        The model.

    Returns
    -------
    Layout
    """
    rules = [*under("vit.", "", encoder_rules(config)), *linear("classifier", "head")]
    return Layout(blank(vit_init, config), tuple(rules), ALIASES, BUFFERS)


def encoder_rules(config):
    """Lay out the encoder.

    Parameters
    ----------
    config : ViTConfig
        The model.

    Returns
    -------
    list of Rule
    """
    block = [
        *norm("layernorm_before", "ln1"),
        *qkv([f"attention.attention.{n}" for n in ("query", "key", "value")], "attn/qkv",
             config.block),
        *linear("attention.output.dense", "attn/out"),
        *norm("layernorm_after", "ln2"),
        *linear("intermediate.dense", "mlp/fc"),
        *linear("output.dense", "mlp/proj"),
    ]  # fmt: skip
    return [
        Rule("embeddings.cls_token", "cls", leading(2)),
        *linear("embeddings.patch_embeddings.projection", "patch",
                kernel(config.patch, config.image[2])),
        Rule("embeddings.position_embeddings", "positions/w", leading(1)),
        *repeated("encoder.layer.{}.", "blocks/{}/", config.depth, block),
        *norm("layernorm", "ln"),
    ]  # fmt: skip


class Encoder:
    """`ViTModel`."""

    MAY_LACK = WITHOUT_POOLER

    @staticmethod
    def configure(options):
        """Turn a published config into ours."""
        outputs = options.get("pooler_output_size", options.get("hidden_size", 768))
        config = _encoder(options, outputs, options.activation("pooler_act", "tanh"))
        options.done("encoder_stride")
        return config

    @staticmethod
    def layout(config):
        """Lay out the checkpoint of the encoder and, if it has one, its pooler."""
        rules = encoder_rules(config)
        if config.outputs:
            rules += linear("pooler.dense", "head")
        aliases = ((r"^vit\.", ""), (r"^layers\.", "encoder.layer."), *ALIASES)
        return Layout(blank(vit_init, config), tuple(rules), aliases, BUFFERS)


def classes(options):
    """Read the number of classes, which the list of their names says.

    Parameters
    ----------
    options : Options
        Of config.json.

    Returns
    -------
    int
        2, the library's default, if there is no list.
    """
    names = options.get("id2label", {})
    if not isinstance(names, dict):
        raise OptionError(f"{options.where}: id2label must be an object, got {names!r}")
    return len(names) or options.get("num_labels", 2)


def whole_patches(image, patch):
    """Leave out of an image what is beside its whole patches, as a strided convolution does.

    Parameters
    ----------
    image, patch : tuple of int
        Height and width in pixels.

    Returns
    -------
    tuple of int
        Height and width.

    Examples
    --------
    >>> whole_patches((33, 30), (6, 6))
    (30, 30)
    """
    return tuple(side // step * step for side, step in zip(image, patch, strict=True))
