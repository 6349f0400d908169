"""BERT of the Transformers library: the encoder, and what may stand behind it."""

from dataclasses import replace

import numpy as np

from scratch_vlm.layers.block import BlockConfig
from scratch_vlm.models.bert import HEADS, BERTConfig, bert_init
from scratch_vlm.pretrained.layout import (
    Layout,
    Rule,
    blank,
    linear,
    norm,
    qkv,
    repeated,
    transposed,
    under,
)
from scratch_vlm.pretrained.vit import classes

RENAMED = (  # files that were converted from TensorFlow
    (r"LayerNorm\.gamma$", "LayerNorm.weight"),
    (r"LayerNorm\.beta$", "LayerNorm.bias"),
)
MAY_LACK = {"pooler.dense.weight": lambda config: replace(config, head="none")}
BUFFERS = r"(.*\.)?embeddings\.(position_ids|token_type_ids)"
OTHER_HEADS = {  # what files of pretraining hold beside an encoder, whatever is made of it
    "pool": r"bert\.pooler\.dense\.(weight|bias)",
    "words": r"cls\.predictions\..*",
    "head": r"cls\.seq_relationship\.(weight|bias)",
}


def configure(options, head="pool", outputs=0):
    """Turn a published config into ours.

    Parameters
    ----------
    options : Options
        Of config.json.
    head : str, default "pool"
        What it ends in, see `BERTConfig`.
    outputs : int, default 0
        Classes.

    Returns
    -------
    BERTConfig
    """
    for name in ("is_decoder", "add_cross_attention"):
        options.only(name, False)
    options.only("position_embedding_type", "absolute")
    tied = options.get("tie_word_embeddings", True)
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
        outputs=outputs,
        tied=tied or "words" not in HEADS[head],
    )
    options.done()
    return config


def layout(config):
    """Lay out the checkpoint of `BertModel`, with its pooler or without.

    Parameters
    ----------
    config : BERTConfig
        The model.

    Returns
    -------
    Layout
    """
    rules = [*encoder_rules(config), *_pooler_rules(config)]
    aliases = ((r"^bert\.", ""), *RENAMED)
    return Layout(blank(bert_init, config), tuple(rules), aliases, _left_aside(config))


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


class _Headed:
    # an encoder under its own name, and what stands behind it under its own

    def __init__(self, head, outputs=None, published=None):
        self.head, self.outputs, self.published = head, outputs, published

    def configure(self, options):
        """Turn a published config into ours."""
        found = classes(options)  # of no meaning where there are none
        outputs = found if self.outputs is None else self.outputs
        return configure(options, self.head, outputs)

    def layout(self, config):
        """Lay out the checkpoint of the encoder and its head."""
        rules = [*encoder_rules(config), *_pooler_rules(config)]
        rules = under("bert.", "", rules)
        shapes, tied = blank(bert_init, config), {}
        if "words" in config.parts:
            rules += _words_rules(config)
            if config.tied:
                tied = TIED
            else:  # published beside the bias that is used, which nothing reads
                shapes["words"]["idle"] = np.broadcast_to(np.float32(0), config.vocabulary)
        if "head" in config.parts:
            rules += linear(self.published, "head")
        return Layout(shapes, tuple(rules), RENAMED, _left_aside(config), tied)


Words = _Headed("words", outputs=0)  # `BertForMaskedLM`
Pretraining = _Headed("both", outputs=2, published="cls.seq_relationship")  # `BertForPreTraining`
NextSentence = _Headed("classes", outputs=2, published="cls.seq_relationship")
Classifier = _Headed("classes", published="classifier")  # `BertForSequenceClassification`
Tagger = _Headed("tokens", published="classifier")  # `BertForTokenClassification`
Answerer = _Headed("tokens", outputs=2, published="qa_outputs")  # `BertForQuestionAnswering`
TIED = {
    "cls.predictions.decoder.weight": "bert.embeddings.word_embeddings.weight",
    "cls.predictions.decoder.bias": "cls.predictions.bias",
}


def _left_aside(config):
    return "|".join([BUFFERS, *(x for part, x in OTHER_HEADS.items() if part not in config.parts)])


def _pooler_rules(config):
    return linear("pooler.dense", "pool") if "pool" in config.parts else []


def _words_rules(config):
    rules = [
        *linear("cls.predictions.transform.dense", "words/fc"),
        *norm("cls.predictions.transform.LayerNorm", "words/ln"),
    ]
    if config.tied:
        return [*rules, Rule("cls.predictions.bias", "words/b")]
    return [
        *rules,
        Rule("cls.predictions.decoder.weight", "words/w", transposed),
        Rule("cls.predictions.decoder.bias", "words/b"),
        Rule("cls.predictions.bias", "words/idle"),
    ]
