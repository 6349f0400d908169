"""Runs of CLIP and SigLIP, and of each tower of CLIP on its own."""

from dataclasses import replace

import numpy as np

from scratch_vlm.layers.attention import cross_attention_forward
from scratch_vlm.layers.linear import linear_backward, linear_forward
from scratch_vlm.layers.norm import NORMS
from scratch_vlm.layers.pool import pick_backward, pick_forward
from scratch_vlm.models.text import (
    pooled_places,
    text_backward,
    text_features_backward,
    text_features_forward,
    text_forward,
)
from scratch_vlm.models.vit import vit_backward, vit_embed_forward, vit_forward
from scratch_vlm.ops.losses import (
    contrastive_backward,
    contrastive_forward,
    sigmoid_contrastive_backward,
    sigmoid_contrastive_forward,
)
from scratch_vlm.ops.masks import causal_mask
from scratch_vlm.ops.normalize import l2_normalize_backward, l2_normalize_forward
from scratch_vlm.parity.parts import gradients, hidden_states, listed, to_images, to_pixels
from scratch_vlm.tree import zeros_like


def run_clip(model, case):
    """Run `CLIPModel` or `SiglipModel`.

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
    pixels, ids, real = case.inputs["pixel_values"], case.inputs["input_ids"], _real(case)
    images = to_images(pixels, config.image.patch)

    image, s_image = vit_forward(images, p["image"], config=config.image)  # (B, E)
    image_unit, s_image_unit = l2_normalize_forward(image)
    text, s_text = text_forward(ids, p["text"], config=config.text, real=real)  # (B, E)
    text_unit, s_text_unit = l2_normalize_forward(text)
    scores = np.exp(p["log_scale"]) * (text_unit @ image_unit.T)
    if config.loss == "softmax":
        loss, s_loss = contrastive_forward(image_unit, text_unit, p["log_scale"])
        dimage, dtext, dscale = contrastive_backward(1.0, s_loss)
    else:
        scores = scores + p["bias"]
        scale = p["log_scale"], p["bias"]
        loss, s_loss = sigmoid_contrastive_forward(image_unit, text_unit, *scale)
        dimage, dtext, dscale, dbias = sigmoid_contrastive_backward(1.0, s_loss)
        g["bias"] += dbias
    g["log_scale"] += dscale
    text_backward(l2_normalize_backward(dtext, s_text_unit), s_text, g["text"])
    dimages = vit_backward(l2_normalize_backward(dimage, s_image_unit), s_image, g["image"])

    found = {
        "loss": loss,
        "out/loss": loss,
        "out/logits_per_text": scores,
        "out/logits_per_image": scores.T,
        "out/text_embeds": text_unit,
        "out/image_embeds": image_unit,
        "out/vision_model_output.pooler_output": image,
        "out/text_model_output.pooler_output": text,
        **gradients(model, g),
        "input_grad/pixel_values": to_pixels(dimages, pixels),
    }
    inside, _ = look_at_images(images, p["image"], config.image)
    found |= {_inside("vision", name): x for name, x in inside.items()}
    inside, _ = _look_at_texts(ids, p["text"], config.text, real)
    return found | {_inside("text", name): x for name, x in inside.items()}


def run_image_tower(model, case):
    """Run `CLIPVisionModelWithProjection`.

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
    pixels, probe = case.inputs["pixel_values"], case.probes()["image_embeds"]
    images = to_images(pixels, config.patch)
    y, s = vit_forward(images, p, config=config)
    dimages = vit_backward(probe, s, g)
    inside, maps = look_at_images(images, p, config)
    return {
        "loss": (probe * y).sum(),
        "out/image_embeds": y,
        **{f"out/{name}": x for name, x in inside.items()},
        **listed("out/attentions", maps),
        **gradients(model, g),
        "input_grad/pixel_values": to_pixels(dimages, pixels),
    }


def run_text_tower(model, case):
    """Run `CLIPTextModelWithProjection`.

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
    ids, real, probes = case.inputs["input_ids"], _real(case), case.probes()
    norm_forward, norm_backward = NORMS[config.block.norm][1:]
    # The norm comes before the pick here, because the loss looks at all normalised tokens, too.
    x, s_features = text_features_forward(ids, p, config=config, real=real)
    x, s_norm = norm_forward(x, p["ln"], eps=config.block.eps)  # (B, T, D)
    picked, s_pick = pick_forward(x, index=pooled_places(ids, config))
    y, s_head = linear_forward(picked, p["head"])  # (B, E)
    outputs = {"text_embeds": y, "last_hidden_state": x}

    dy = probes.get("text_embeds", np.zeros_like(y))
    dx = pick_backward(linear_backward(dy, s_head, g["head"]), s_pick)
    dx = norm_backward(dx + probes.get("last_hidden_state", 0), s_norm, g["ln"])
    text_features_backward(dx, s_features, g)

    inside, maps = _look_at_texts(ids, p, config, real)
    return {
        "loss": sum((probes[name] * outputs[name]).sum() for name in probes),
        "out/text_embeds": y,
        **{f"out/{name}": x for name, x in inside.items()},
        **listed("out/attentions", maps),
        **gradients(model, g),
    }


def look_at_images(images, p, config):
    """Walk through a vision tower of CLIP or SigLIP.

    Parameters
    ----------
    images : array of shape (B, H, W, C)
        Images.
    p : dict
        Parameters of the tower.
    config : ViTConfig
        The tower.

    Returns
    -------
    inside : dict of str to array
        ``embeddings``, ``hidden_states.i``, ``last_hidden_state`` and, where a probe reads the
        tokens, ``head_attention``.
    maps : list of array of shape (B, A, T, T)
        Attention maps of the blocks.
    """
    block = config.block
    embedded, _ = vit_embed_forward(images, p, config=replace(config, norm_first=False))
    x, _ = vit_embed_forward(images, p, config=config)
    states, maps = hidden_states(x, p["blocks"], block)
    last = states[-1]
    inside = {"embeddings": embedded, **listed("hidden_states", states)}
    if config.pool != "cls":  # SigLIP normalises all tokens; CLIP the one that it pools
        last, _ = NORMS[block.norm][1](last, p["ln"], eps=block.eps)
    if config.pool == "attention":
        probe = np.broadcast_to(p["pool"]["probe"], (len(x), 1, block.width))
        attn = p["pool"]["attn"]
        inside["head_attention"], _ = cross_attention_forward(
            np.ascontiguousarray(probe), last, attn, heads=block.heads
        )
    return {**inside, "last_hidden_state": last}, maps


def _look_at_texts(ids, p, config, real):
    block = config.block
    mask = causal_mask(ids.shape[1]) if config.causal else None
    if real is not None:
        mask = real[:, None, None] if mask is None else mask & real[:, None, None]
    x = p["tokens"]["w"][ids] + p["positions"]["w"][: ids.shape[1]]
    states, maps = hidden_states(x, p["blocks"], block, mask=mask)
    last, _ = NORMS[block.norm][1](states[-1], p["ln"], eps=block.eps)
    return {"embeddings": x, **listed("hidden_states", states), "last_hidden_state": last}, maps


def _inside(tower, name):
    if name == "embeddings":
        return f"tap/{tower}_embeddings"
    if name == "head_attention":
        return "tap/pooling_head_attention"
    return f"out/{tower}_model_output.{name}"


def _real(case):
    mask = case.get("attention_mask")
    return None if mask is None else mask > 0
