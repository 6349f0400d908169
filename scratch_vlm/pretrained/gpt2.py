"""GPT-2 of the Transformers library, whose linear layers are published as ours: (in, out)."""

from scratch_vlm.layers.block import BlockConfig
from scratch_vlm.models.lm import LMConfig, lm_init
from scratch_vlm.pretrained.layout import Layout, Rule, blank, linear, norm, repeated, same

ALIASES = ((r"^(wte|wpe|h|ln_f)\.", r"transformer.\1."),)  # the first files had no prefix
BUFFERS = r"(transformer\.)?h\.\d+\.attn\.(bias|masked_bias)"  # the causal mask


def configure(options):
    """Turn a published config into ours.

    Parameters
    ----------
    options : Options
        Of config.json.

    Returns
    -------
    LMConfig
    """
    options.only("add_cross_attention", False)
    options.only("reorder_and_upcast_attn", False, True)  # the same, in another order
    width = options.get("n_embd", 768)
    config = LMConfig(
        options.get("vocab_size", 50257),
        options.get("n_positions", 1024),
        BlockConfig(
            width,
            options.get("n_head", 12),
            options.get("n_inner", 4 * width),
            eps=options.get("layer_norm_epsilon", 1e-5),
            mlp=options.activation("activation_function", "gelu_new"),
            scale=None if options.get("scale_attn_weights", True) else 1.0,
            depth_scale=options.get("scale_attn_by_inverse_layer_idx", False),
            blind="mean",
        ),
        options.get("n_layer", 12),
        tied=options.get("tie_word_embeddings", True),
    )
    options.done()
    return config


def layout(config):
    """Lay out the checkpoint.

    Parameters
    ----------
    config : LMConfig
        The model.

    Returns
    -------
    Layout
    """
    block = [
        *norm("ln_1", "ln1"),
        *linear("attn.c_attn", "attn/qkv", same),
        *linear("attn.c_proj", "attn/out", same),
        *norm("ln_2", "ln2"),
        *linear("mlp.c_fc", "mlp/fc", same),
        *linear("mlp.c_proj", "mlp/proj", same),
    ]
    rules = [
        Rule("transformer.wte.weight", "tokens/w"),
        Rule("transformer.wpe.weight", "positions/w"),
        *repeated("transformer.h.{}.", "blocks/{}/", config.depth, block),
        *norm("transformer.ln_f", "ln"),
        *([] if config.tied else linear("lm_head", "head")),
    ]
    tied = {"lm_head.weight": "transformer.wte.weight"} if config.tied else {}
    return Layout(blank(lm_init, config), tuple(rules), ALIASES, BUFFERS, tied)
