"""Runs of the parts of Flamingo that lucidrains implemented."""

from dataclasses import replace

import numpy as np

from scratch_vlm.layers.attention import cross_attention_backward, cross_attention_forward
from scratch_vlm.layers.gated import gated_block_backward, gated_block_forward
from scratch_vlm.layers.norm import NORMS
from scratch_vlm.layers.resampler import (
    resampler_backward,
    resampler_forward,
    time_embedding_backward,
    time_embedding_forward,
)
from scratch_vlm.parity.parts import gradients
from scratch_vlm.tree import zeros_like


def run_resampler(model, case):
    """Run `flamingo_pytorch.PerceiverResampler`.

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
    p, g = model.p, zeros_like(model.p)
    given, probe = case.inputs["x"], case.probes()["output"]
    features = given[:, None] if given.ndim == 3 else given  # (B, I, N, D), I media of a text
    # Its time embedding tells media apart, not frames: each is resampled for itself.
    config = replace(model.config, frames=0)
    own, learn = ({n: x for n, x in tree.items() if n != "time"} for tree in (p, g))
    x, s_time = time_embedding_forward(features, p["time"], stretch="never")
    b, media, tokens, width = x.shape
    y, s = resampler_forward(x.reshape(b * media, 1, tokens, width), own, config=config)
    y = y.reshape(b, media, config.latents, width)

    dx = resampler_backward(probe.reshape(b * media, config.latents, width), s, learn)
    dx = time_embedding_backward(dx.reshape(x.shape), s_time, g["time"])
    return {
        "loss": (probe * y).sum(),
        "out/output": y,
        **gradients(model, g),
        "input_grad/x": dx.reshape(given.shape),
    }


def run_gated_block(model, case):
    """Run `flamingo_pytorch.GatedCrossAttentionBlock`.

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
    x, media, probe = case.inputs["x"], case.inputs["media"], case.probes()["output"]
    z = media.reshape(len(media), -1, media.shape[3])
    mask = _mask(case.get("media_locations"), media, config)
    y, s = gated_block_forward(x, z, p, config=config, mask=mask)
    dx, dz = gated_block_backward(probe, s, g)
    return {
        "loss": (probe * y).sum(),
        "out/output": y,
        "tap/attention": s["attn_gate"][0],
        "tap/feed_forward": s["mlp_gate"][0],
        **gradients(model, g),
        "input_grad/x": dx,
        "input_grad/media": dz.reshape(media.shape),
    }


def run_cross_attention(model, case):
    """Run `flamingo_pytorch.MaskedCrossAttention`.

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
    x, media, probe = case.inputs["x"], case.inputs["media"], case.probes()["output"]
    z = media.reshape(len(media), -1, media.shape[3])
    norm_forward, norm_backward = NORMS[config.block.norm][1:]
    h, s_norm = norm_forward(x, p["ln1"], eps=config.block.eps)
    mask = _mask(case.get("media_locations"), media, config)
    y, s = cross_attention_forward(
        h, z, p["attn"], heads=config.block.heads, mask=mask, blind=config.blind
    )
    dh, dz = cross_attention_backward(probe, s, g["attn"])
    return {
        "loss": (probe * y).sum(),
        "out/output": y,
        **gradients(model, g),
        "input_grad/x": norm_backward(dh, s_norm, g["ln1"]),
        "input_grad/media": dz.reshape(media.shape),
    }


def _mask(locations, media, config):  # (B, 1, T, I N)
    if locations is None:
        return None
    count = locations.cumsum(1)[..., None]  # media so far, (B, T, 1)
    if count.max() > media.shape[1]:
        raise ValueError(
            f"a text has places of {count.max()} media, and {media.shape[1]} are given"
        )
    number = np.arange(1, media.shape[1] + 1)
    seen = count == number if config.blind == "zero" else count >= number  # (B, T, I)
    return seen.repeat(media.shape[2], axis=2)[:, None]
