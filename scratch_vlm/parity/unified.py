"""Runs of models with visual tokens among the words."""

from scratch_vlm.models.lm import (
    lm_head_backward,
    lm_head_forward,
    lm_trunk_backward,
    lm_trunk_forward,
    next_token_backward,
    next_token_forward,
)
from scratch_vlm.models.unified import unified_embed_backward, unified_embed_forward
from scratch_vlm.models.vision import sight_forward
from scratch_vlm.parity.contrastive import look_at_images
from scratch_vlm.parity.language import generate_greedily, ordered, padding_of, reference_mask
from scratch_vlm.parity.parts import gradients, hidden_states, listed, to_images, to_pixels
from scratch_vlm.pretrained.llava import used
from scratch_vlm.tree import zeros_like


def run_llava(model, case):
    """Run `LlavaForConditionalGeneration`.

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
    config, g = model.config, zeros_like(model.p)
    p, lm, vit = used(model.p, config), config.lm, config.sight.tower.vit
    ids, pixels = case.inputs["input_ids"], case.inputs["pixel_values"]
    media, mask = to_images(pixels, vit.patch)[:, None], reference_mask(case)
    x, s_embed = unified_embed_forward(ids, media, p, config=config)  # (B, T, D)
    h, s_trunk = lm_trunk_forward(x, p["lm"], config=lm, mask=mask)
    logits, s_head = lm_head_forward(h, p["lm"])
    loss, s_loss = next_token_forward(logits, case.inputs["labels"])

    dh = lm_head_backward(next_token_backward(1.0, s_loss), s_head, g["lm"])
    dx = lm_trunk_backward(dh, s_trunk, g["lm"])
    lookup = zeros_like(g["lm"]["tokens"])  # where, unlike in the head, padding learns nothing
    learn = used(g, config)
    dmedia = unified_embed_backward(dx, s_embed, {**learn, "lm": {**g["lm"], "tokens": lookup}})
    if padding_of(model) is not None:
        lookup["w"][padding_of(model)] = 0
    g["lm"]["tokens"]["w"] += lookup["w"]

    visual, _ = sight_forward(media, p["sight"], config=config.sight)  # (M, S, D)
    inside, _ = look_at_images(media[:, 0], model.p["sight"]["tower"], vit)
    states, _ = hidden_states(x, p["lm"]["blocks"], lm.block, **ordered(lm, mask, ids))
    found = {
        "loss": loss,
        "out/loss": loss,
        "out/logits": logits,
        "out/image_hidden_states": visual.reshape(-1, visual.shape[2]),
        **listed("out/hidden_states", [*states[:-1], h]),
        "tap/vision_tower": inside["last_hidden_state"],
        **{f"out/image_outputs.{name}": y for name, y in inside.items()},
        **listed("out/image_outputs.pooler_output", visual),
        "tap/projector": visual,
        **gradients(model, g),
        "input_grad/pixel_values": to_pixels(dmedia[:, 0], pixels),
    }
    given = case.generation()
    if given:
        media = to_images(given["pixel_values"], vit.patch)[:, None]
        x, _ = unified_embed_forward(given["input_ids"], media, p, config=config)
        found |= generate_greedily(x, given, p["lm"], lm, case)
    return found
