"""Mllama of the Transformers library: Llama 3.2 Vision."""

from dataclasses import dataclass

from scratch_vlm.layers.block import BlockConfig
from scratch_vlm.layers.gated import GatedConfig
from scratch_vlm.layers.linear import linear_init
from scratch_vlm.models.lm import LMConfig
from scratch_vlm.models.mllama import (
    InterleavedConfig,
    TiledConfig,
    interleaved_init,
    tiled_vit_init,
)
from scratch_vlm.pretrained import llama
from scratch_vlm.pretrained.layout import (
    Layout,
    Rule,
    blank,
    fused,
    kernel,
    leading,
    linear,
    norm,
    qkv,
    repeated,
    under,
)
from scratch_vlm.pretrained.options import OptionError
from scratch_vlm.pretrained.vit import whole_patches

ALIASES = (  # names in memory since version 4.52 of the library, and in some files
    (r"^model\.language_model\.", "language_model.model."),
    (r"^lm_head\.", "language_model.lm_head."),
    (r"^model\.(vision_model|multi_modal_projector)\.", r"\1."),
)
RATIOS = [[1, 1], [1, 2], [1, 3], [1, 4], [2, 1], [2, 2], [3, 1], [4, 1]]
LAYERS, CROSSES = [3, 7, 15, 23, 30], [3, 8, 13, 18, 23, 28, 33, 38]
ADDED = 8  # ids behind the vocabulary, of which <|image|> is the first


@dataclass(frozen=True)
class MllamaConfig:
    """Llama 3.2 Vision.

    Attributes
    ----------
    vision : TiledConfig
        The vision tower.
    text : InterleavedConfig
        The language model.
    image : int
        Id of the token that stands for an image.
    """

    vision: TiledConfig
    text: InterleavedConfig
    image: int


def configure(options):
    """Turn a published config into ours.

    Parameters
    ----------
    options : Options
        Of config.json.

    Returns
    -------
    MllamaConfig
    """
    vision = _vision(options.inner("vision_config"))
    text = _text(options.inner("text_config"))
    image = options.get("image_token_index", options.get("image_token_id", 128256))
    options.done("tie_word_embeddings")
    return MllamaConfig(vision, text, image)


def _vision(options):
    patch = options.size("patch_size", 14)
    image = options.size("image_size", 448)
    depth = options.get("num_hidden_layers", 32)
    config = TiledConfig(
        image=(*whole_patches(image, patch), options.get("num_channels", 3)),
        patch=patch,
        tiles=options.get("max_num_tiles", 4),
        ratios=1 + len(_ratios(options)),
        block=BlockConfig(
            options.get("hidden_size", 1280),
            options.get("attention_heads", 16),
            options.get("intermediate_size", 5120),
            eps=options.get("norm_eps", 1e-5),
            mlp=options.activation("hidden_act"),
            bias=("fc", "proj"),
            blind="mean",
        ),
        depth=depth,
        global_depth=options.get("num_global_layers", 8),
        layers=tuple(i % max(depth, 1) for i in options.get("intermediate_layers_indices", LAYERS)),
    )
    outputs = options.get("vision_output_dim", 7680)
    if outputs != config.outputs:
        raise OptionError(
            f"{options.where}: vision_output_dim {outputs} is not the width of the tower times "
            f"one more than its intermediate layers, {config.outputs}"
        )
    options.done("tie_word_embeddings")
    return config


def _ratios(options):
    ratios = options.get("supported_aspect_ratios", RATIOS, like=())
    if not isinstance(ratios, list):
        raise OptionError(
            f"{options.where}: supported_aspect_ratios must be a list, got {ratios!r}"
        )
    return ratios


def _text(options):
    options.only("tie_word_embeddings", False)
    context = options.get("max_position_embeddings", 131_072)
    base, scaling = llama.rotation(options, context, 500_000.0)
    common = {
        "width": options.get("hidden_size", 4096),
        "heads": options.get("num_attention_heads", 32),
        "hidden": options.get("intermediate_size", 14_336),
        "kv_heads": options.get("num_key_value_heads", 8),
        "norm": "rms",
        "eps": options.get("rms_norm_eps", 1e-5),
        "mlp": options.activation("hidden_act", "silu", gated=True),
        "bias": False,
    }
    block = BlockConfig(**common, rotary_base=base, rotary_scaling=scaling, blind="mean")
    config = InterleavedConfig(
        LMConfig(
            options.get("vocab_size", 128_256),
            context,
            block,
            options.get("num_hidden_layers", 40),
            tied=False,
        ),
        GatedConfig(BlockConfig(**common), block.width, qk_norm=True, skip_blind=True, blind="all"),
        tuple(options.get("cross_attention_layers", CROSSES)),
        added=ADDED,
    )
    options.done()
    return config


def layout(config):
    """Lay out the checkpoint.

    Parameters
    ----------
    config : MllamaConfig
        The model.

    Returns
    -------
    Layout
    """
    vision, text = config.vision, config.text
    width = text.lm.block.width
    shapes = {
        "vision": blank(tiled_vit_init, vision),
        "connector": blank(linear_init, vision.outputs, width),
        "lm": blank(interleaved_init, text),
    }
    block, crossing = llama.block_rules(text.lm.block), _cross_rules(text.gated.block)
    words = [
        Rule("language_model.model.embed_tokens.weight", "lm/tokens/w"),
        *(
            rule
            for i in range(text.lm.depth)
            for rule in under(
                f"language_model.model.layers.{i}.",
                f"lm/blocks/{i}/",
                crossing if i in text.crosses else block,
            )
        ),
        *norm("language_model.model.norm", "lm/ln"),
        *linear("language_model.lm_head", "lm/head"),
    ]
    rules = [
        *under("vision_model.", "vision/", _vision_rules(vision)),
        *linear("multi_modal_projector", "connector"),
        *words,
    ]
    return Layout(shapes, tuple(rules), ALIASES, r".*rotary_emb\.inv_freq")


def _vision_rules(config):
    def flat(x):  # one row for each layout of the tiles
        return x.reshape(len(x), -1)

    block = [
        *norm("input_layernorm", "ln1"),
        *qkv([f"self_attn.{n}" for n in ("q_proj", "k_proj", "v_proj")], "attn/qkv", config.block),
        *linear("self_attn.o_proj", "attn/out"),
        *norm("post_attention_layernorm", "ln2"),
        *linear("mlp.fc1", "mlp/fc"),
        *linear("mlp.fc2", "mlp/proj"),
    ]
    gates = [
        Rule("gate_attn", "attn_gate", leading(1)),
        Rule("gate_ffn", "mlp_gate", leading(1)),
    ]
    return [
        *linear("patch_embedding", "patch", kernel(config.patch, config.image[2])),
        Rule("pre_tile_positional_embedding.embedding.weight", "pre_tile/w", flat),
        Rule("pre_tile_positional_embedding.gate", "pre_tile/gate", leading(1)),
        Rule("class_embedding", "cls"),
        Rule("gated_positional_embedding.embedding", "positions/w"),
        Rule("gated_positional_embedding.tile_embedding.weight", "positions/tiles", flat),
        Rule("gated_positional_embedding.gate", "positions/gate", leading(1)),
        *norm("layernorm_pre", "ln_pre"),
        *repeated("transformer.layers.{}.", "blocks/{}/", config.depth, block),
        *norm("layernorm_post", "ln_post"),
        Rule("post_tile_positional_embedding.embedding.weight", "post_tile/w", flat),
        Rule("post_tile_positional_embedding.gate", "post_tile/gate", leading(1)),
        *repeated(
            "global_transformer.layers.{}.", "global/{}/", config.global_depth, [*block, *gates]
        ),
    ]


def _cross_rules(block):
    inside = block.kv_heads * block.per_head
    return [
        *norm("input_layernorm", "ln1"),
        *linear("cross_attn.q_proj", "attn/q"),
        *fused(("cross_attn.k_proj", "cross_attn.v_proj"), "attn/kv", (inside, inside)),
        *linear("cross_attn.o_proj", "attn/out"),
        *norm("cross_attn.q_norm", "attn/q_norm"),
        *norm("cross_attn.k_norm", "attn/k_norm"),
        Rule("cross_attn_attn_gate", "attn_gate", leading(1)),
        *norm("post_attention_layernorm", "ln2"),
        *llama.feed_rules(block),
        Rule("cross_attn_mlp_gate", "mlp_gate", leading(1)),
    ]
