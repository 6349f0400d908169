"""Llama of the Transformers library, also as the language model of LLaVA."""

import math

from scratch_vlm.layers.block import BlockConfig
from scratch_vlm.models.lm import LMConfig, lm_init
from scratch_vlm.ops.rotary import RotaryScaling
from scratch_vlm.pretrained.layout import (
    Layout,
    Rule,
    blank,
    fused,
    linear,
    norm,
    qkv,
    repeated,
)
from scratch_vlm.pretrained.options import OptionError, Options

BUFFERS = r"(.*\.)?rotary_emb\.inv_freq"


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
    bias = ("qkv", "out") if options.get("attention_bias", False) else ()
    bias += ("fc", "proj") if options.get("mlp_bias", False) else ()
    context = options.get("max_position_embeddings", 2048)
    base, scaling = rotation(options, context)
    heads = options.get("num_attention_heads", 32)
    config = LMConfig(
        options.get("vocab_size", 32000),
        context,
        BlockConfig(
            options.get("hidden_size", 4096),
            heads,
            options.get("intermediate_size", 11008),
            kv_heads=options.get("num_key_value_heads", heads),
            head_width=options.get("head_dim", None, like=1),
            norm="rms",
            eps=options.get("rms_norm_eps", 1e-6),
            mlp=options.activation("hidden_act", "silu", gated=True),
            bias=bias,
            rotary_base=base,
            rotary_scaling=scaling,
            blind="mean",
        ),
        options.get("num_hidden_layers", 32),
        tied=options.get("tie_word_embeddings", False),
    )
    options.done()
    return config


def rotation(options, context, base=10_000.0):
    """Read how queries and keys turn, as configs say it since version 5 of the library or before.

    Parameters
    ----------
    options : Options
        Of the language model.
    context : int
        Its longest text in tokens.
    base : float, default 10000.0
        What stands for one that is absent.

    Returns
    -------
    base : float
    scaling : RotaryScaling or None

    Raises
    ------
    OptionError
        If the way in which it is slowed is not implemented.
    """
    outer = options.get("rope_theta", base)
    scaling = options.get("rope_scaling", {})
    inner = Options(options.get("rope_parameters", scaling), f"{options.where}: rope_parameters")
    base = inner.get("rope_theta", outer)
    kind = inner.get("rope_type", inner.get("type", "default"))
    inner.only("partial_rotary_factor", 1.0)
    # "dynamic" slows nothing within the context, and longer texts are refused
    if kind in ("default", "dynamic"):
        inner.done("factor", "original_max_position_embeddings")
        return float(base), None
    factor = float(inner.get("factor", like=1.0))
    trained = inner.get("original_max_position_embeddings", context)
    if kind == "linear":
        found = RotaryScaling("linear", factor)
    elif kind == "llama3":
        low, high = (inner.get(f"{name}_freq_factor", like=1.0) for name in ("low", "high"))
        found = RotaryScaling("llama3", factor, trained, low, high)
    elif kind == "yarn":
        found = RotaryScaling(
            "yarn",
            factor,
            trained,
            low=inner.get("beta_slow", 1.0) or 1,
            high=inner.get("beta_fast", 32.0) or 32,
            size=_yarn_size(inner, factor),
            whole=inner.get("truncate", True),
        )
    else:
        raise OptionError(
            f"{inner.where}: rope_type {kind!r} is not implemented; known are default, dynamic, "
            "linear, llama3, yarn"
        )
    inner.done()
    return float(base), found


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
    tied = {"lm_head.weight": "model.embed_tokens.weight"} if config.tied else {}
    return Layout(blank(lm_init, config), tuple(rules(config)), (), BUFFERS, tied)


def rules(config):
    """Lay out a language model, which may be a part of something larger.

    Parameters
    ----------
    config : LMConfig
        The model.

    Returns
    -------
    list of Rule
    """
    return [
        Rule("model.embed_tokens.weight", "tokens/w"),
        *repeated("model.layers.{}.", "blocks/{}/", config.depth, block_rules(config.block)),
        *norm("model.norm", "ln"),
        *([] if config.tied else linear("lm_head", "head")),
    ]


def block_rules(block):
    """Lay out a block.

    Parameters
    ----------
    block : BlockConfig
        The kind of block.

    Returns
    -------
    list of Rule
    """
    return [
        *norm("input_layernorm", "ln1"),
        *qkv([f"self_attn.{name}" for name in ("q_proj", "k_proj", "v_proj")], "attn/qkv", block),
        *linear("self_attn.o_proj", "attn/out"),
        *norm("post_attention_layernorm", "ln2"),
        *feed_rules(block),
    ]


def feed_rules(block):
    """Lay out the gated MLP of a block.

    Parameters
    ----------
    block : BlockConfig
        The kind of block.

    Returns
    -------
    list of Rule
    """
    return [
        *fused(("mlp.gate_proj", "mlp.up_proj"), "mlp/fc", (block.hidden, block.hidden)),
        *linear("mlp.down_proj", "mlp/proj"),
    ]


def _yarn_size(options, factor):
    given, one, all_ = (
        options.get(n, None, like=1.0) for n in ("attention_factor", "mscale", "mscale_all_dim")
    )

    def size(by):
        return 0.1 * by * math.log(factor) + 1.0 if factor > 1 else 1.0

    if given is not None:
        return float(given)
    return size(one) / size(all_) if one and all_ else size(1)
