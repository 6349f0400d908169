"""SigLIP of the Transformers library."""

from scratch_vlm.layers.block import BlockConfig
from scratch_vlm.models.clip import CLIPConfig, clip_init
from scratch_vlm.models.text import TextConfig
from scratch_vlm.models.vit import ViTConfig
from scratch_vlm.pretrained.clip import BUFFERS, block_rules
from scratch_vlm.pretrained.layout import (
    Layout,
    Rule,
    blank,
    columns,
    kernel,
    leading,
    linear,
    norm,
    repeated,
    transposed,
    under,
)
from scratch_vlm.pretrained.options import OptionError
from scratch_vlm.pretrained.vit import whole_patches


def configure(options):
    """Turn a published config into ours.

    Parameters
    ----------
    options : Options
        Of config.json.

    Returns
    -------
    CLIPConfig
    """
    image = options.inner("vision_config")
    if not image.get("vision_use_head", True):
        raise OptionError("a SigLIP without the head of its vision tower has no embeddings")
    config = CLIPConfig(
        vision_tower(image), _text_tower(options.inner("text_config")), loss="sigmoid"
    )
    options.done("tie_word_embeddings")
    return config


def vision_tower(options, outputs=0):
    """Turn the published config of the vision tower into ours.

    Parameters
    ----------
    options : Options
        Of the tower.
    outputs : int, default 0
        Channels of a projection behind it.

    Returns
    -------
    ViTConfig
        Usually without outputs: the pooled token is the embedding.
    """
    patch = options.size("patch_size", 16)
    image = options.size("image_size", 224)
    config = ViTConfig(
        image=(*whole_patches(image, patch), options.get("num_channels", 3)),
        patch=patch,
        outputs=outputs,
        block=_block(options),
        depth=options.get("num_hidden_layers", 12),
        pool="attention" if options.get("vision_use_head", True) else "mean",
        stretch="bicubic_repeat",
    )
    options.done("tie_word_embeddings", "projection_dim")
    return config


def layout(config):
    """Lay out the checkpoint.

    Parameters
    ----------
    config : CLIPConfig
        The model.

    Returns
    -------
    Layout
    """
    text = [
        Rule("embeddings.token_embedding.weight", "tokens/w"),
        Rule("embeddings.position_embedding.weight", "positions/w"),
        *repeated(
            "encoder.layers.{}.", "blocks/{}/", config.text.depth, block_rules(config.text.block)
        ),
        *norm("final_layer_norm", "ln"),
        *linear("head", "head"),
    ]
    rules = [
        *under("vision_model.", "image/", vision_rules(config.image)),
        *under("text_model.", "text/", text),
        Rule("logit_scale", "log_scale", leading(1)),
        Rule("logit_bias", "bias", leading(1)),
    ]
    return Layout(blank(clip_init, config), tuple(rules), buffers=BUFFERS)


def vision_rules(config):
    """Lay out the vision tower and, if it has one, the head that pools.

    Parameters
    ----------
    config : ViTConfig
        The tower.

    Returns
    -------
    list of Rule
    """
    rules = [
        *linear("embeddings.patch_embedding", "patch", kernel(config.patch, config.image[2])),
        Rule("embeddings.position_embedding.weight", "positions/w"),
        *repeated("encoder.layers.{}.", "blocks/{}/", config.depth, block_rules(config.block)),
        *norm("post_layernorm", "ln"),
    ]
    if config.pool != "attention":
        return rules
    d = config.block.width
    return [
        *rules,
        Rule("head.probe", "pool/probe", leading(2)),
        # queries, keys and values of PyTorch's own attention stand below each other
        Rule("head.attention.in_proj_weight", "pool/attn/q/w", transposed, rows=(0, d)),
        Rule("head.attention.in_proj_weight", "pool/attn/kv/w", columns(0, 2 * d), rows=(d, 3 * d)),
        Rule("head.attention.in_proj_bias", "pool/attn/q/b", rows=(0, d)),
        Rule("head.attention.in_proj_bias", "pool/attn/kv/b", rows=(d, 3 * d)),
        *linear("head.attention.out_proj", "pool/attn/out"),
        *norm("head.layernorm", "pool/ln"),
        *linear("head.mlp.fc1", "pool/mlp/fc"),
        *linear("head.mlp.fc2", "pool/mlp/proj"),
    ]


def _text_tower(options):
    width = options.get("hidden_size", 768)
    config = TextConfig(
        options.get("vocab_size", 32000),
        options.get("max_position_embeddings", 64),
        None,
        options.get("projection_size", width),
        _block(options),
        options.get("num_hidden_layers", 12),
        causal=False,
        head_bias=True,
        pool="last",
    )
    options.done("tie_word_embeddings")
    return config


def _block(options):
    return BlockConfig(
        options.get("hidden_size", 768),
        options.get("num_attention_heads", 12),
        options.get("intermediate_size", 3072),
        eps=options.get("layer_norm_eps", 1e-6),
        mlp=options.activation("hidden_act", "gelu_pytorch_tanh"),
    )
