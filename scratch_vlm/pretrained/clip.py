"""CLIP of the Transformers library: both towers, or one of them with its projection."""

from scratch_vlm.layers.block import BlockConfig
from scratch_vlm.models.clip import CLIPConfig, clip_init
from scratch_vlm.models.text import TextConfig, text_init
from scratch_vlm.models.vit import ViTConfig, vit_init
from scratch_vlm.pretrained.layout import (
    Layout,
    Rule,
    blank,
    kernel,
    linear,
    norm,
    qkv,
    repeated,
    under,
)
from scratch_vlm.pretrained.vit import whole_patches

BUFFERS = r"(.*\.)?embeddings\.position_ids"  # integers that older files hold
LARGEST = 2  # the id of the end token in configs that were written before it was looked for


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
    outputs = options.get("projection_dim", 512)
    for name in ("text_config_dict", "vision_config_dict"):
        options.only(name, None)
    config = CLIPConfig(
        image_tower(options.inner("vision_config"), outputs),
        text_tower(options.inner("text_config"), outputs),
    )
    options.done("tie_word_embeddings")
    return config


def image_tower(options, outputs=None):
    """Turn the published config of the image tower into ours.

    Parameters
    ----------
    options : Options
        Of the tower.
    outputs : int, optional
        Channels of an embedding. Default what the config says of them.

    Returns
    -------
    ViTConfig
    """
    own = options.get("projection_dim", 512)
    patch = options.size("patch_size", 32)
    image = options.size("image_size", 224)
    config = ViTConfig(
        image=(*whole_patches(image, patch), options.get("num_channels", 3)),
        patch=patch,
        outputs=own if outputs is None else outputs,
        block=_block(options, 768, 12, 3072),
        depth=options.get("num_hidden_layers", 12),
        patch_bias=False,
        head_bias=False,
        norm_first=True,
        stretch="bicubic_repeat",
    )
    options.done("tie_word_embeddings")
    return config


def text_tower(options, outputs=None):
    """Turn the published config of the text tower into ours.

    Parameters
    ----------
    options : Options
        Of the tower.
    outputs : int, optional
        Channels of an embedding. Default what the config says of them.

    Returns
    -------
    TextConfig
    """
    own = options.get("projection_dim", 512)
    end = options.get("eos_token_id", 49407)
    config = TextConfig(
        options.get("vocab_size", 49408),
        options.get("max_position_embeddings", 77),
        None if end == LARGEST else end,
        own if outputs is None else outputs,
        _block(options, 512, 8, 2048),
        options.get("num_hidden_layers", 12),
        pool="largest" if end == LARGEST else "end",
    )
    options.done("tie_word_embeddings")
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
    rules = [
        *under("", "image/", image_rules(config.image)),
        *under("", "text/", text_rules(config.text)),
        Rule("logit_scale", "log_scale"),
    ]
    return Layout(blank(clip_init, config), tuple(rules), buffers=BUFFERS)


def block_rules(block):
    """Lay out a block, which is alike in CLIP, SigLIP and the vision towers made of them.

    Parameters
    ----------
    block : BlockConfig
        The kind of block.

    Returns
    -------
    list of Rule
    """
    return [
        *norm("layer_norm1", "ln1"),
        *qkv([f"self_attn.{name}" for name in ("q_proj", "k_proj", "v_proj")], "attn/qkv", block),
        *linear("self_attn.out_proj", "attn/out"),
        *norm("layer_norm2", "ln2"),
        *linear("mlp.fc1", "mlp/fc"),
        *linear("mlp.fc2", "mlp/proj"),
    ]


def vision_rules(config):
    """Lay out a vision tower, without the projection.

    Parameters
    ----------
    config : ViTConfig
        The tower.

    Returns
    -------
    list of Rule
    """
    cut = kernel(config.patch, config.image[2])
    return [
        Rule("embeddings.class_embedding", "cls"),
        *linear("embeddings.patch_embedding", "patch", cut),
        Rule("embeddings.position_embedding.weight", "positions/w"),
        *norm("pre_layrnorm", "ln_pre"),  # so it is spelt
        *repeated("encoder.layers.{}.", "blocks/{}/", config.depth, block_rules(config.block)),
        *norm("post_layernorm", "ln"),
    ]


def image_rules(config):
    """Lay out the image tower and its projection.

    Parameters
    ----------
    config : ViTConfig
        The tower.

    Returns
    -------
    list of Rule
    """
    return [
        *under("vision_model.", "", vision_rules(config)),
        *linear("visual_projection", "head"),
    ]


def text_rules(config):
    """Lay out the text tower and its projection.

    Parameters
    ----------
    config : TextConfig
        The tower.

    Returns
    -------
    list of Rule
    """
    tower = [
        Rule("embeddings.token_embedding.weight", "tokens/w"),
        Rule("embeddings.position_embedding.weight", "positions/w"),
        *repeated("encoder.layers.{}.", "blocks/{}/", config.depth, block_rules(config.block)),
        *norm("final_layer_norm", "ln"),
    ]
    return [*under("text_model.", "", tower), *linear("text_projection", "head")]


class ImageTower:
    """`CLIPVisionModelWithProjection`."""

    configure = staticmethod(image_tower)

    @staticmethod
    def layout(config):
        """Lay out the checkpoint of an image tower on its own."""
        return Layout(blank(vit_init, config), tuple(image_rules(config)), buffers=BUFFERS)


class TextTower:
    """`CLIPTextModelWithProjection`."""

    configure = staticmethod(text_tower)

    @staticmethod
    def layout(config):
        """Lay out the checkpoint of a text tower on its own."""
        return Layout(blank(text_init, config), tuple(text_rules(config)), buffers=BUFFERS)


def _block(options, width, heads, hidden):
    return BlockConfig(
        options.get("hidden_size", width),
        options.get("num_attention_heads", heads),
        options.get("intermediate_size", hidden),
        eps=options.get("layer_norm_eps", 1e-5),
        mlp=options.activation("hidden_act", "quick_gelu"),
    )
