"""Runs of language models, and greedy generation step by step."""

import re

import numpy as np

from scratch_vlm.layers.embedding import embedding_backward, embedding_forward
from scratch_vlm.layers.norm import NORMS
from scratch_vlm.models.bert import (
    bert_backward,
    bert_forward,
    bert_pool_backward,
    bert_pool_forward,
    bert_words_backward,
    bert_words_forward,
)
from scratch_vlm.models.lm import (
    lm_cache,
    lm_head_backward,
    lm_head_forward,
    lm_start_forward,
    lm_trunk_backward,
    lm_trunk_forward,
    next_token_backward,
    next_token_forward,
    reading_order,
)
from scratch_vlm.ops.losses import cross_entropy_backward, cross_entropy_forward
from scratch_vlm.ops.masks import causal_mask, padding_mask
from scratch_vlm.parity.parts import gradients, hidden_states, listed
from scratch_vlm.tree import zeros_like


def run_lm(model, case):
    """Run `GPT2LMHeadModel` or `LlamaForCausalLM`.

    Parameters
    ----------
    model : Pretrained
        The model.
    case : Case
        What to run it on.

    Returns
    -------
    dict of str to array
        Our arrays, by the reference's names.
    """
    config, p, g = model.config, model.p, zeros_like(model.p)
    ids, mask = case.inputs["input_ids"], reference_mask(case)
    x, s_tokens = embedding_forward(ids, p["tokens"])  # (B, T, D)
    h, s_trunk = lm_trunk_forward(x, p, config=config, mask=mask)
    logits, s_head = lm_head_forward(h, p)
    loss, s_loss = next_token_forward(logits, case.inputs["labels"])

    dh = lm_head_backward(next_token_backward(1.0, s_loss), s_head, g)
    dx = lm_trunk_backward(dh, s_trunk, g)
    learn_lookup(dx, s_tokens, g["tokens"], padding_of(model))

    start, _ = lm_start_forward(x, p, config=config)
    states, maps = hidden_states(start, p["blocks"], config.block, **ordered(config, mask, ids))
    found = {
        "loss": loss,
        "out/loss": loss,
        "out/logits": logits,
        **listed("out/hidden_states", [*states[:-1], h]),
        **listed("out/attentions", maps),
        "tap/wte": x,
        "tap/embed_tokens": x,
        **gradients(model, g),
    }
    if case.generation():
        given = case.generation()
        x, _ = embedding_forward(given["input_ids"], p["tokens"])
        found |= generate_greedily(x, given, p, config, case)
    return found


def run_bert(model, case):
    """Run `BertModel` or `BertForMaskedLM`.

    Parameters
    ----------
    model : Pretrained
        The model.
    case : Case
        What to run it on.

    Returns
    -------
    dict of str to array
        Our arrays, by the reference's names.
    """
    config, p, g = model.config, model.p, zeros_like(model.p)
    ids, segments = case.inputs["input_ids"], case.get("token_type_ids")
    lengths = _lengths(case.get("attention_mask"))
    x, s = bert_forward(ids, p, config=config, segments=segments, lengths=lengths)
    if config.head == "pool":
        probes = case.probes()
        pooled, s_pool = bert_pool_forward(x, p["pool"])
        outputs = {"last_hidden_state": x, "pooler_output": pooled}
        loss = sum((probes[name] * outputs[name]).sum() for name in probes)
        dpooled = probes.get("pooler_output", np.zeros_like(pooled))
        dx = bert_pool_backward(dpooled, s_pool, g["pool"])
        dx = dx + probes.get("last_hidden_state", 0)
    else:
        logits, s_words = bert_words_forward(x, p, config=config)
        loss, s_loss = cross_entropy_forward(logits, case.inputs["labels"])
        outputs = {"logits": logits, "loss": loss}
        dx = bert_words_backward(cross_entropy_backward(1.0, s_loss), s_words, g)
    lookup = zeros_like(g["tokens"])
    bert_backward(dx, s, {**g, "tokens": lookup})
    if padding_of(model) is not None:
        lookup["w"][padding_of(model)] = 0
    g["tokens"]["w"] += lookup["w"]

    segments = np.zeros_like(ids) if segments is None else segments
    h = p["tokens"]["w"][ids] + p["segments"]["w"][segments] + p["positions"]["w"][: ids.shape[1]]
    h, _ = NORMS[config.block.norm][1](h, p["ln"], eps=config.block.eps)
    mask = None if lengths is None else padding_mask(lengths, ids.shape[1])
    states, maps = hidden_states(h, p["blocks"], config.block, mask=mask)
    return {
        "loss": loss,
        **{f"out/{name}": y for name, y in outputs.items()},
        **listed("out/hidden_states", states),
        **listed("out/attentions", maps),
        "tap/embeddings": h,
        **gradients(model, g),
    }


def reference_mask(case):
    """Make the mask of the reference's forward: causal, and without padding.

    Parameters
    ----------
    case : Case
        With ``input_ids`` and perhaps ``attention_mask``.

    Returns
    -------
    boolean array broadcastable to (B, 1, T, T)
    """
    mask, real = causal_mask(case.inputs["input_ids"].shape[1]), case.get("attention_mask")
    return mask if real is None else mask & (real > 0)[:, None, None]


def ordered(config, mask, ids):
    """Say to the blocks of a language model what `lm_trunk_forward` says to them.

    Parameters
    ----------
    config : LMConfig
        The model.
    mask : boolean array broadcastable to (B, A, T, T)
        Who may read whom.
    ids : integer array of shape (B, T)
        Token ids.

    Returns
    -------
    dict
        Options of a block; the reference counts positions from 0, padding or not.
    """
    return {"mask": mask, "positions": np.arange(ids.shape[1])}


def learn_lookup(dx, ids, g, padding):
    """Add the gradient of an embedding as PyTorch does, where padding learns nothing.

    Parameters
    ----------
    dx : array of shape (B, T, D)
        dL/dx of the vectors that were looked up.
    ids : integer array of shape (B, T)
        Token ids.
    g : dict
        Gains the gradient.
    padding : int or None
        The id of padding, whose vector learns nothing from being looked up.
    """
    if padding is not None:
        dx = dx * (ids != padding)[..., None]
    embedding_backward(dx, ids, g)


def padding_of(model):
    """Return the id of padding whose vector learns nothing, or None.

    Parameters
    ----------
    model : Pretrained
        The model, whose config.json may have a config of the language model inside.

    Returns
    -------
    int or None
        None for GPT-2, whose embedding does not look at it, too.
    """
    published = model.published.get("text_config", model.published)
    if published.get("model_type") == "gpt2":
        return None
    default = 0 if published.get("model_type") == "bert" else None
    return published.get("pad_token_id", default)


def generate_greedily(x, given, p, config, case, *, cache=None, trunk=lm_trunk_forward):
    """Write on after prompts, as the reference's `generate` does without sampling.

    Parameters
    ----------
    x : array of shape (B, T, D)
        The prompts, embedded.
    given : dict of str to array
        What the reference's generation was given: ``input_ids`` and ``attention_mask``.
    p : dict
        Parameters of the language model.
    config : LMConfig
        The language model.
    case : Case
        Says how many tokens to write, and which are never written.
    cache : dict of str to KVCache, optional
        Empty, and large enough. Default one for each block.
    trunk : callable, default lm_trunk_forward
        What reads tokens, where a model has its own.

    Returns
    -------
    dict of str to array
        ``gen/sequences`` and ``gen/logits``.
    """
    how, new = case.info["generation"], new_tokens(case)
    never = re.search(r"suppress_tokens=\[([\d, ]*)\]", how["call"])
    never = [int(token) for token in never[1].split(",")] if never else []
    prompt = given["input_ids"]
    b, t = prompt.shape
    real = given.get("attention_mask", np.ones_like(prompt)) > 0
    real = np.concatenate([real, np.ones((b, new), bool)], 1)
    cache = lm_cache(p, config, b, t + new) if cache is None else cache
    past = 0

    def read(x):
        nonlocal past
        until = past + x.shape[1]
        mask, positions = reading_order(real[:, :until], past=past)
        h, _ = trunk(x, p, config=config, mask=mask, positions=positions, cache=cache)
        past = until
        return lm_head_forward(h[:, -1:], p)[0][:, 0]

    logits, running = read(x), np.ones(b, bool)
    written, recorded = [], []
    for count in range(1, new + 1):
        recorded.append(logits)
        scores = logits.copy()
        scores[:, never] = -np.inf
        chosen = np.where(running, scores.argmax(1), how["pad_token_id"])
        written.append(chosen)
        running &= chosen != (-1 if how["eos_token_id"] is None else how["eos_token_id"])
        if count == new or not running.any():
            break
        logits = read(embedding_forward(chosen[:, None], p["tokens"])[0])
    sequences = np.concatenate([prompt, np.stack(written, 1)], 1)
    return {"gen/sequences": sequences, "gen/logits": np.stack(recorded)}


def new_tokens(case):
    """Read how many tokens the reference was asked to write.

    Parameters
    ----------
    case : Case
        With a generation.

    Returns
    -------
    int
    """
    return int(re.search(r"max_new_tokens=(\d+)", case.info["generation"]["call"])[1])


def _lengths(mask):
    if mask is None:
        return None
    lengths = mask.astype(int).sum(1)
    if not np.array_equal(np.arange(mask.shape[1]) < lengths[:, None], mask > 0):
        raise ValueError("BERT reads texts that are padded at their end; the mask has other holes")
    return lengths
