"""Idefics of the Transformers library, the open Flamingo: with the Resampler or without."""

from scratch_vlm.layers.block import BlockConfig
from scratch_vlm.layers.connector import ConnectorConfig, connector_init
from scratch_vlm.layers.gated import GatedConfig, gated_block_init
from scratch_vlm.layers.resampler import ResamplerConfig
from scratch_vlm.models.cross_modal import CrossModalConfig
from scratch_vlm.models.lm import LMConfig, lm_init
from scratch_vlm.models.vision import SightConfig, TowerConfig
from scratch_vlm.models.vit import ViTConfig, vit_init
from scratch_vlm.pretrained import clip, llama
from scratch_vlm.pretrained.layout import (
    Layout,
    Rule,
    blank,
    columns,
    fused,
    leading,
    linear,
    norm,
    repeated,
    under,
)
from scratch_vlm.pretrained.vit import whole_patches

ALSO_LAYOUT = ("additional_vocab_size",)
BUFFERS = r".*(rotary_emb\.inv_freq|embeddings\.position_ids)"


def configure(options):
    """Turn a published config into ours.

    Parameters
    ----------
    options : Options
        Of config.json.

    Returns
    -------
    CrossModalConfig
    """
    options.only("tie_word_embeddings", False)
    vit = _vision_tower(options.inner("vision_config"))
    context = options.get("max_position_embeddings", 2048)
    base, scaling = llama.rotation(options, context)
    common = {
        "width": options.get("hidden_size", 4096),
        "heads": options.get("num_attention_heads", 32),
        "hidden": options.get("intermediate_size", 11008),
        "norm": "rms",
        "eps": options.get("rms_norm_eps", 1e-6),
        "mlp": options.activation("hidden_act", "silu", gated=True),
        "bias": False,
        "blind": "mean",
    }
    block = BlockConfig(**common, rotary_base=base, rotary_scaling=scaling)
    words = options.get("vocab_size", 32000) + options.get("additional_vocab_size", 0)
    depth = options.get("num_hidden_layers", 32)
    gated = GatedConfig(
        BlockConfig(**common),
        vit.block.width,
        qk_norm=options.get("qk_layer_norms", False),
        gate_width="channel"
        if options.only("alpha_type", "float", "vector") == "vector"
        else "one",
    )
    connector = _connector(options.inner("perceiver_config"), options, vit.block.width)
    config = CrossModalConfig(
        SightConfig(TowerConfig(vit, (-1,), cls=True), connector),
        LMConfig(words, context, block, depth, tied=False),
        gated,
        tuple(range(0, depth, options.get("cross_layer_interval", 1))),
        image=words - 1,  # of the two ids that the released models add, <image> is the last
    )
    options.done(
        "alpha_initializer",
        "alphas_initializer_range",
        "freeze_lm_head",
        "freeze_text_layers",
        "freeze_text_module_exceptions",
        "freeze_vision_layers",
        "freeze_vision_module_exceptions",
        "word_embed_proj_dim",
    )
    return config


def _vision_tower(options):
    patch = options.size("patch_size", 14)
    image = options.size("image_size", 224)
    config = ViTConfig(
        image=(*whole_patches(image, patch), options.get("num_channels", 3)),
        patch=patch,
        outputs=0,
        block=BlockConfig(
            options.get("embed_dim", 768),
            options.get("num_attention_heads", 16),
            options.get("intermediate_size", 5120),
            eps=options.get("layer_norm_eps", 1e-5),
            mlp=options.activation("hidden_act"),
        ),
        depth=options.get("num_hidden_layers", 32),
        patch_bias=False,
        norm_first=True,
    )
    options.done("hidden_size", "vision_model_name")
    return config


def _connector(inner, options, width):
    use = options.get("use_resampler", False)
    inner.get("use_resampler", use)
    config = ResamplerConfig(
        BlockConfig(
            width,
            inner.get("resampler_n_heads", 16),
            4 * width,
            mlp="relu",
            bias=False,
            head_width=inner.get("resampler_head_dim", 96),
        ),
        latents=inner.get("resampler_n_latents", 64),
        depth=inner.get("resampler_depth", 6),
        frames=0,
        qk_norm="layer" if inner.get("qk_layer_norms_perceiver", False) else None,
    )
    inner.done()
    if not use:
        return ConnectorConfig("none", width, width)
    return ConnectorConfig("resampler", width, width, resampler=config)


def layout(config, additional_vocab_size=0):
    """Lay out the checkpoint.

    Parameters
    ----------
    config : CrossModalConfig
        The model.
    additional_vocab_size : int, default 0
        Words behind the others whose vectors are published in tables of their own.

    Returns
    -------
    Layout
    """
    sight, lm = config.sight, config.lm
    first = lm.vocabulary - additional_vocab_size
    words = [
        Rule("model.embed_tokens.weight", "lm/tokens/w", lambda x: x[:first]),
        Rule("lm_head.weight", "lm/head/w", columns(0, first)),
    ]
    if additional_vocab_size:
        words += [
            Rule("model.embed_tokens.additional_embedding.weight", "lm/tokens/w",
                 lambda x: x[first:]),
            Rule("lm_head.additional_fc.weight", "lm/head/w", columns(first, lm.vocabulary)),
        ]  # fmt: skip
    names = [str(i) for i in config.places]
    shapes = {
        "sight": {
            "tower": blank(vit_init, sight.tower.vit),
            "connector": blank(connector_init, sight.connector),
        },
        "lm": blank(lm_init, lm),
        "gated": {name: blank(gated_block_init, config.gated) for name in names},
    }
    rules = [
        *under("vision_model.", "sight/tower/", clip.vision_rules(sight.tower.vit)),
        *repeated("layers.{}.", "lm/blocks/{}/", lm.depth, llama.block_rules(lm.block)),
        *norm("norm", "lm/ln"),
    ]
    gated = _gated_rules(config.gated)
    for i, name in enumerate(names):
        rules += under(f"gated_cross_attn_layers.{i}.", f"gated/{name}/", gated)
    if sight.connector.kind == "resampler":
        own = _resampler_rules(sight.connector.resampler)
        rules += under("perceiver_resampler.", "sight/connector/resampler/", own)
    return Layout(shapes, (*under("model.", "", rules), *words), (), BUFFERS)


def _gated_rules(config):
    inside = config.block.heads * config.block.per_head
    leaf = leading(1 if config.gate_width == "one" else 2)
    return [
        *norm("input_layernorm", "ln1"),
        *linear("cross_attn.q_proj", "attn/q"),
        *fused(("cross_attn.k_proj", "cross_attn.v_proj"), "attn/kv", (inside, inside)),
        *linear("cross_attn.o_proj", "attn/out"),
        *(norm("cross_attn.q_layer_norm", "attn/q_norm") if config.qk_norm else []),
        *(norm("cross_attn.k_layer_norm", "attn/k_norm") if config.qk_norm else []),
        Rule("alpha_cross_attn", "attn_gate", leaf),
        *norm("post_attention_layernorm", "ln2"),
        *llama.feed_rules(config.block),
        Rule("alpha_dense", "mlp_gate", leaf),
    ]


def _resampler_rules(config):
    inside = config.block.heads * config.block.per_head
    block = [
        *norm("0.context_layer_norm", "ln_z"),
        *norm("0.latents_layer_norm", "ln1"),
        *linear("0.q_proj", "attn/q"),
        *fused(("0.k_proj", "0.v_proj"), "attn/kv", (inside, inside)),
        *linear("0.output_proj", "attn/out"),
        *(norm("0.q_layer_norm", "attn/q_norm") if config.qk_norm else []),
        *(norm("0.k_layer_norm", "attn/k_norm") if config.qk_norm else []),
        *norm("1.ln", "ln2"),
        *linear("1.fc", "mlp/fc"),
        *linear("1.c_proj", "mlp/proj"),
    ]
    return [
        Rule("latents", "latents"),
        *repeated("blocks.{}.", "blocks/{}/", config.depth, block),
        *norm("layer_norm", "ln"),
    ]
