"""Runs of vision models."""

import numpy as np

from scratch_vlm.layers.norm import NORMS
from scratch_vlm.layers.perceiver import cross_block_forward
from scratch_vlm.models.perceiver import (
    perceiver_backward,
    perceiver_features_backward,
    perceiver_features_forward,
    perceiver_forward,
    places_forward,
    with_positions,
)
from scratch_vlm.models.vit import vit_backward, vit_embed_forward, vit_forward
from scratch_vlm.ops.attend import attention_weights
from scratch_vlm.ops.losses import cross_entropy_backward, cross_entropy_forward
from scratch_vlm.parity.parts import gradients, hidden_states, listed, to_images, to_pixels
from scratch_vlm.tree import zeros_like


def run_vit(model, case):
    """Run `ViTForImageClassification`.

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
    pixels = case.inputs["pixel_values"]
    images = to_images(pixels, config.patch)
    logits, s = vit_forward(images, p, config=config)
    loss, s_loss = cross_entropy_forward(logits, case.inputs["labels"])
    dlogits = cross_entropy_backward(1.0, s_loss)
    dimages = vit_backward(dlogits, s, g)

    x, _ = vit_embed_forward(images, p, config=config)
    states, maps = hidden_states(x, p["blocks"], config.block)
    final, _ = NORMS[config.block.norm][1](states[-1], p["ln"], eps=config.block.eps)
    return {
        "loss": loss,
        "out/loss": loss,
        "out/logits": logits,
        **listed("out/hidden_states", states),
        **listed("out/attentions", maps),
        "tap/embeddings": states[0],
        "tap/final_norm": final,
        **gradients(model, g),
        "input_grad/pixel_values": to_pixels(dimages, pixels),
    }


def run_perceiver_inputs(model, case):
    """Run `PerceiverModel` on inputs that carry their positions.

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
    inputs, mask = case.inputs["inputs"], case.get("attention_mask")
    real = None if mask is None else mask > 0
    if real is not None and not real.any(1).all():
        raise ValueError(
            "a sample without any input: the reference's gradient of it is not the derivative of "
            "what it computes, a mean that looks at no score"
        )
    x, s = perceiver_features_forward(inputs, p, config=config, real=real)
    probe = case.probes()["last_hidden_state"]
    dinputs = perceiver_features_backward(probe, s, g)
    states, maps = _latents(inputs, p, config, config.shape, real)
    first = s["repeats"]["0"]["cross"]["attn"]["attend"]
    return {
        "loss": (probe * x).sum(),
        "out/last_hidden_state": x,
        **listed("out/hidden_states", states),
        **listed("out/attentions", maps),
        "out/cross_attentions.0": attention_weights(first),
        **gradients(model, g),
        "input_grad/inputs": dinputs,
    }


def run_perceiver_images(model, case):
    """Run `PerceiverForImageClassificationLearned` or `PerceiverForImageClassificationFourier`.

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
    pixels = case.inputs["pixel_values"]
    images = to_images(pixels, (1, 1))
    inputs = images.reshape(len(images), -1, images.shape[3])
    logits, s = perceiver_forward(inputs, p, config=config, shape=images.shape[1:3])
    loss, s_loss = cross_entropy_forward(logits, case.inputs["labels"])
    dinputs = perceiver_backward(cross_entropy_backward(1.0, s_loss), s, g)

    states, maps = _latents(inputs, p, config, images.shape[1:3])
    query = np.repeat(p["query"][None, None], len(images), 0)
    decoded, _ = cross_block_forward(
        query, states[-1], p["decode"], config=config.decoding, residual=config.decoder_residual
    )
    return {
        "loss": loss,
        "out/loss": loss,
        "out/logits": logits,
        **listed("out/hidden_states", states),
        **listed("out/attentions", maps),
        "tap/encoder": states[-1],
        "tap/decoder_layer": decoded,
        **gradients(model, g),
        "input_grad/pixel_values": to_pixels(dinputs.reshape(images.shape), pixels),
    }


def run_lucid_perceiver(model, case):
    """Run `perceiver_pytorch.Perceiver`.

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
    data, probe, mask = case.inputs["data"], case.probes()["output"], case.get("mask")
    shape = data.shape[1:-1]
    inputs = data.reshape(len(data), -1, data.shape[-1])
    real = None if mask is None else mask.reshape(len(data), -1)
    if config.outputs:
        forward, backward = perceiver_forward, perceiver_backward
    else:
        forward, backward = perceiver_features_forward, perceiver_features_backward
    y, s = forward(inputs, p, config=config, shape=shape, real=real)
    dinputs = backward(probe, s, g)
    return {
        "loss": (probe * y).sum(),
        "out/output": y,
        **gradients(model, g),
        "input_grad/data": dinputs.reshape(data.shape),
    }


def _latents(inputs, p, config, shape, real=None):
    # The reference lists the latents at the start of each repeat and at its end, where they are
    # the same as at the start of the next.
    if config.learned is None:
        z = with_positions(inputs, config, shape)
    else:
        z, _ = places_forward(inputs, p["places"], trained=config.shape, shape=shape)
    x, _ = cross_block_forward(
        np.repeat(p["latents"][None], len(z), 0),
        z,
        p["crosses"]["0"],
        config=config.cross,
        mask=None if real is None else real[:, None, None],
        residual=config.query_residual,
    )
    states, maps = [], []
    for _ in range(config.repeats):
        own, own_maps = hidden_states(x, p["towers"]["0"], config.block)
        states, maps, x = states + own, maps + own_maps, own[-1]
    return states, maps
