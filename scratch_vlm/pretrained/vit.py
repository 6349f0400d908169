"""ViT: `ViTForImageClassification` of the Transformers library."""

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
)
from scratch_vlm.pretrained.options import OptionError

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
    patch = options.size("patch_size", 16)
    image = options.size("image_size", 224)
    bias = ("out", "fc", "proj")
    config = ViTConfig(
        image=(*whole_patches(image, patch), options.get("num_channels", 3)),
        patch=patch,
        outputs=classes(options),
        block=BlockConfig(
            options.get("hidden_size", 768),
            options.get("num_attention_heads", 12),
            options.get("intermediate_size", 3072),
            eps=options.get("layer_norm_eps", 1e-12),
            mlp=options.activation("hidden_act"),
            bias=True if options.get("qkv_bias", True) else bias,
        ),
        depth=options.get("num_hidden_layers", 12),
        stretch="bicubic_repeat",
    )
    options.done("encoder_stride", "pooler_act", "pooler_output_size")
    return config


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
    block = [
        *norm("layernorm_before", "ln1"),
        *qkv([f"attention.attention.{n}" for n in ("query", "key", "value")], "attn/qkv",
             config.block),
        *linear("attention.output.dense", "attn/out"),
        *norm("layernorm_after", "ln2"),
        *linear("intermediate.dense", "mlp/fc"),
        *linear("output.dense", "mlp/proj"),
    ]  # fmt: skip
    rules = [
        Rule("vit.embeddings.cls_token", "cls", leading(2)),
        *linear("vit.embeddings.patch_embeddings.projection", "patch",
                kernel(config.patch, config.image[2])),
        Rule("vit.embeddings.position_embeddings", "positions/w", leading(1)),
        *repeated("vit.encoder.layer.{}.", "blocks/{}/", config.depth, block),
        *norm("vit.layernorm", "ln"),
        *linear("classifier", "head"),
    ]  # fmt: skip
    return Layout(blank(vit_init, config), tuple(rules), ALIASES)


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
