"""Runs of vision models."""

from scratch_vlm.layers.norm import NORMS
from scratch_vlm.models.vit import vit_backward, vit_embed_forward, vit_forward
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
