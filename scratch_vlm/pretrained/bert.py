"""BERT of the Transformers library, with its pooler or with the head of masked words."""

from scratch_vlm.layers.block import BlockConfig
from scratch_vlm.models.bert import BERTConfig, bert_init
from scratch_vlm.pretrained.layout import Layout, Rule, blank, linear, norm, qkv, repeated, under

RENAMED = (  # files that were converted from TensorFlow
    (r"LayerNorm\.gamma$", "LayerNorm.weight"),
    (r"LayerNorm\.beta$", "LayerNorm.bias"),
)
BUFFERS = r"(.*\.)?embeddings\.(position_ids|token_type_ids)"


def configure(options, head="pool"):
    """Turn a published config into ours.

    Parameters
    ----------
    options : Options
        Of config.json.
    head : {"pool", "words"}, default "pool"
        What it ends in.

    Returns
    -------
    BERTConfig
    """
    for name in ("is_decoder", "add_cross_attention"):
        options.only(name, False)
    options.only("position_embedding_type", "absolute")
    options.only("tie_word_embeddings", True)
    config = BERTConfig(
        options.get("vocab_size", 30522),
        options.get("max_position_embeddings", 512),
        BlockConfig(
            options.get("hidden_size", 768),
            options.get("num_attention_heads", 12),
            options.get("intermediate_size", 3072),
            order="post",
            eps=options.get("layer_norm_eps", 1e-12),
            mlp=options.activation("hidden_act"),
            blind="mean",
        ),
        options.get("num_hidden_layers", 12),
        segments=options.get("type_vocab_size", 2),
        head=head,
    )
    options.done()
    return config


def layout(config):
    """Lay out the checkpoint of `BertModel`.

    Parameters
    ----------
    config : BERTConfig
        The model.

    Returns
    -------
    Layout
    """
    rules = [*encoder_rules(config), *linear("pooler.dense", "pool")]
    aliases = ((r"^bert\.", ""), *RENAMED)
    return Layout(blank(bert_init, config), tuple(rules), aliases, BUFFERS)


def encoder_rules(config):
    """Lay out the encoder.

    Parameters
    ----------
    config : BERTConfig
        The model.

    Returns
    -------
    list of Rule
    """
    block = [
        *qkv([f"attention.self.{n}" for n in ("query", "key", "value")], "attn/qkv", config.block),
        *linear("attention.output.dense", "attn/out"),
        *norm("attention.output.LayerNorm", "ln1"),
        *linear("intermediate.dense", "mlp/fc"),
        *linear("output.dense", "mlp/proj"),
        *norm("output.LayerNorm", "ln2"),
    ]
    return [
        Rule("embeddings.word_embeddings.weight", "tokens/w"),
        Rule("embeddings.position_embeddings.weight", "positions/w"),
        Rule("embeddings.token_type_embeddings.weight", "segments/w"),
        *norm("embeddings.LayerNorm", "ln"),
        *repeated("encoder.layer.{}.", "blocks/{}/", config.depth, block),
    ]


class Words:
    """`BertForMaskedLM`."""

    @staticmethod
    def configure(options):
        """Turn a published config into ours."""
        return configure(options, "words")

    @staticmethod
    def layout(config):
        """Lay out the checkpoint of the encoder and its head of masked words."""
        rules = [
            *under("bert.", "", encoder_rules(config)),
            *linear("cls.predictions.transform.dense", "words/fc"),
            *norm("cls.predictions.transform.LayerNorm", "words/ln"),
            Rule("cls.predictions.bias", "words/b"),
        ]
        tied = {
            "cls.predictions.decoder.weight": "bert.embeddings.word_embeddings.weight",
            "cls.predictions.decoder.bias": "cls.predictions.bias",
        }
        return Layout(blank(bert_init, config), tuple(rules), RENAMED, BUFFERS, tied)
