"""Runs of models whose words look at images through gated cross-attention."""

import numpy as np

from scratch_vlm.layers.block import BLOCKS
from scratch_vlm.layers.embedding import embedding_backward, embedding_forward
from scratch_vlm.layers.gated import gated_block_forward, gated_self_forward
from scratch_vlm.layers.linear import linear_backward, linear_forward
from scratch_vlm.layers.norm import layer_norm_forward
from scratch_vlm.models.cross_modal import cross_trunk_backward, cross_trunk_forward
from scratch_vlm.models.lm import (
    lm_head_backward,
    lm_head_forward,
    next_token_backward,
    next_token_forward,
)
from scratch_vlm.models.mllama import (
    interleaved_cache,
    interleaved_trunk_backward,
    interleaved_trunk_forward,
    tile_embedding_forward,
    tile_mask,
    tiled_vit_backward,
    tiled_vit_forward,
    tiles_embed_forward,
)
from scratch_vlm.models.vision import sight_backward, sight_forward
from scratch_vlm.parity.contrastive import look_at_images
from scratch_vlm.parity.language import (
    generate_greedily,
    learn_lookup,
    new_tokens,
    padding_of,
    reference_mask,
)
from scratch_vlm.parity.parts import gradients, hidden_states, listed, to_images, to_pixels
from scratch_vlm.pretrained.llava import used
from scratch_vlm.tree import zeros_like


def run_idefics(model, case):
    """Run `IdeficsForVisionText2Text`.

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
    p, learn, vit = used(model.p, config), used(g, config), config.sight.tower.vit
    ids, pixels = case.inputs["input_ids"], case.inputs["pixel_values"]
    z, s_sight = _look(pixels, p, config)  # (B, S, E)
    seen = _seen(case.inputs["image_attention_mask"], z)
    order = {"mask": reference_mask(case), "positions": _positions(case, ids)}
    x, s_tokens = embedding_forward(ids, p["lm"]["tokens"])  # (B, T, D)
    h, s_trunk = cross_trunk_forward(x, z, p, config=config, seen=seen, **order)
    logits, s_head = lm_head_forward(h, p["lm"])
    loss, s_loss = next_token_forward(logits, case.inputs["labels"])

    dh = lm_head_backward(next_token_backward(1.0, s_loss), s_head, g["lm"])
    dx, dz = cross_trunk_backward(dh, s_trunk, learn)
    embedding_backward(dx, s_tokens, g["lm"]["tokens"])
    dmedia = sight_backward(dz.reshape(s_sight["shape"]), s_sight["sight"], learn["sight"])

    images = to_images(pixels.reshape(-1, *pixels.shape[2:]), vit.patch)
    tower = model.p["sight"]["tower"]
    inside, _ = look_at_images(images, tower, vit)
    pooled, _ = layer_norm_forward(
        inside["last_hidden_state"][:, 0], tower["ln"], eps=vit.block.eps
    )
    gated, s_gated = gated_block_forward(x, z, p["gated"]["0"], config=config.gated, mask=seen)
    visual = z.reshape(*pixels.shape[:2], -1, z.shape[2])
    found = {
        "loss": loss,
        "out/logits": logits,
        "out/image_hidden_states": visual,
        **listed("out/hidden_states", _states(x, z, p, config, seen, order, h)),
        "tap/vision": inside["last_hidden_state"],
        "out/image_outputs.last_hidden_state": inside["last_hidden_state"],
        "out/image_outputs.pooler_output": pooled,
        "tap/resampler": visual.reshape(-1, *visual.shape[2:]),
        "tap/gated_block_0": gated,
        "tap/cross_attn_0": _read(s_gated, seen, p["gated"]["0"]),
        **gradients(model, g),
        "input_grad/pixel_values": to_pixels(dmedia[:, 0], images_of(pixels)).reshape(pixels.shape),
    }
    given = case.generation()
    if given:
        x, _ = embedding_forward(given["input_ids"], p["lm"]["tokens"])
        z, _ = _look(given["pixel_values"], p, config)
        seen = _seen(given["image_attention_mask"], z)
        seen = np.concatenate([seen, np.repeat(seen[:, :, -1:], config.lm.context, 2)], 2)

        def trunk(x, _, *, config, mask, positions, cache):
            past = cache["0"].length
            now = seen[:, :, past : past + x.shape[1]]
            order = {"mask": mask, "positions": positions, "cache": cache}
            return cross_trunk_forward(x, z, p, config=model.config, seen=now, **order)

        found |= generate_greedily(x, given, p["lm"], config.lm, case, trunk=trunk)
    return found


def images_of(pixels):
    """Put the images of all texts into one batch.

    Parameters
    ----------
    pixels : array of shape (B, I, C, H, W)
        I images of each of B texts.

    Returns
    -------
    array of shape (M, C, H, W)
    """
    return pixels.reshape(-1, *pixels.shape[2:])


def _look(pixels, p, config):  # (B, I, C, H, W) -> (B, I N, E)
    media = to_images(images_of(pixels), config.sight.tower.vit.patch)[:, None]
    y, saved = sight_forward(media, p["sight"], config=config.sight)  # (M, N, E)
    return y.reshape(len(pixels), -1, y.shape[2]), {"sight": saved, "shape": y.shape}


def _seen(mask, z):  # (B, T, I) -> (B, 1, T, I N)
    return (mask > 0).repeat(z.shape[1] // mask.shape[2], axis=2)[:, None]


def _positions(case, ids):
    mask = case.get("attention_mask")
    if mask is None:
        return np.broadcast_to(np.arange(ids.shape[1]), ids.shape)
    return np.where(mask > 0, mask.cumsum(1) - 1, 1)


def _read(s_gated, seen, p):
    # the attention's own output: of words that see nothing, too, whose softmax is uniform there
    attend = s_gated["attn"]["attend"]
    heads = np.where(seen.any(-1, keepdims=True), attend["y"], attend["v"].mean(3))
    b, a, t, j = attend["y"].shape
    return heads.swapaxes(1, 2).reshape(b, t, a * j) @ p["attn"]["out"]["w"]


def _states(x, z, p, config, seen, order, last):
    # what the first block of the language model reads, and what each makes of it; the last
    # normalised
    lm, states = config.lm, []
    for i in range(lm.depth):
        name = str(i)
        if name in p["gated"]:
            x, _ = gated_block_forward(x, z, p["gated"][name], config=config.gated, mask=seen)
        states += [] if states else [x]
        x, _ = BLOCKS[lm.block.order][0](x, p["lm"]["blocks"][name], config=lm.block.at(i), **order)
        states.append(x)
    return [*states[:-1], last]


def run_mllama(model, case):
    """Run `MllamaForConditionalGeneration`.

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
    text, padding = config.text, padding_of(model)
    ids, pixels = case.inputs["input_ids"], case.inputs["pixel_values"]
    z, visual, s_sight = _look_at_tiles(case.inputs, p, config)  # (B, S, D)
    seen = _seen_tiles(case.get("cross_attention_mask"), z)
    mask = reference_mask(case)
    x, s_tokens = embedding_forward(ids, p["lm"]["tokens"])  # (B, T, D)
    h, s_trunk = interleaved_trunk_forward(x, z, p["lm"], config=text, seen=seen, mask=mask)
    logits, s_head = lm_head_forward(h, p["lm"])
    loss, s_loss = next_token_forward(logits, case.inputs["labels"])

    dh = lm_head_backward(next_token_backward(1.0, s_loss), s_head, g["lm"])
    dx, dz = interleaved_trunk_backward(dh, s_trunk, g["lm"])
    learn_lookup(dx, s_tokens, g["lm"]["tokens"], padding)
    dvisual = linear_backward(dz.reshape(visual.shape), s_sight["connector"], g["connector"])
    dimages = tiled_vit_backward(dvisual, s_sight["vision"], g["vision"])

    found = {
        "loss": loss,
        "out/loss": loss,
        "out/logits": logits,
        **listed("out/hidden_states", _interleaved_states(x, z, p["lm"], text, seen, mask, h)),
        **_look_inside_tiles(case.inputs, p, config, s_sight["features"], visual),
        **gradients(model, g),
        "input_grad/pixel_values": to_pixels(dimages, _tiles_of(pixels)).reshape(pixels.shape),
    }
    given = case.generation()
    if given:
        x, _ = embedding_forward(given["input_ids"], p["lm"]["tokens"])
        z, _, _ = _look_at_tiles(given, p, config)
        seen = _seen_tiles(given["cross_attention_mask"], z)
        seen = np.concatenate([seen, np.repeat(seen[:, :, -1:], text.lm.context, 2)], 2)

        def trunk(x, p, *, config, mask, positions, cache):
            past = cache[text.first].length
            now = seen[:, :, past : past + x.shape[1]]
            order = {"mask": mask, "positions": positions, "cache": cache}
            return interleaved_trunk_forward(x, z, p, config=text, seen=now, **order)

        length = x.shape[1] + new_tokens(case)
        cache = interleaved_cache(p["lm"], text, len(x), length)
        found |= generate_greedily(x, given, p["lm"], text.lm, case, cache=cache, trunk=trunk)
    return found


def _tiles_of(pixels):  # (B, J, I, C, H, W) -> (B J, I, C, H, W)
    return pixels.reshape(-1, *pixels.shape[2:])


def _look_at_tiles(inputs, p, config):
    # (B, S, D) beside each text; (B J, I, N, D) of J images each; and what was saved
    pixels, s = inputs["pixel_values"], {}
    images = to_images(_tiles_of(pixels), config.vision.patch)
    ratios, real = inputs["aspect_ratio_ids"].reshape(-1), inputs["aspect_ratio_mask"] > 0
    s["features"], s["vision"] = tiled_vit_forward(
        images,
        p["vision"],
        config=config.vision,
        ratios=ratios,
        real=real.reshape(len(images), -1),
    )
    visual, s["connector"] = linear_forward(s["features"], p["connector"])
    return visual.reshape(len(pixels), -1, visual.shape[-1]), visual, s


def _seen_tiles(mask, z):  # (B, T, J, I) -> (B, 1, T, S)
    if mask is None:
        return None
    mask = mask.reshape(*mask.shape[:2], -1) > 0
    return mask.repeat(z.shape[1] // mask.shape[2], axis=2)[:, None]


def _interleaved_states(x, z, p, config, seen, mask, last):
    states = [x]
    for i in range(config.lm.depth):
        block = p["blocks"][str(i)]
        if i in config.crosses:
            x, _ = gated_block_forward(x, z, block, config=config.gated, mask=seen)
        else:
            order = {"mask": mask, "positions": np.arange(x.shape[1])}
            x, _ = BLOCKS["pre"][0](x, block, config=config.lm.block, **order)
        states.append(x)
    return [*states[:-1], last]


def _look_inside_tiles(inputs, p, config, features, visual):
    vision, width = config.vision, config.vision.block.width
    pixels = inputs["pixel_values"]
    ratios = inputs["aspect_ratio_ids"].reshape(-1)
    images = to_images(_tiles_of(pixels), vision.patch)
    mask = tile_mask((inputs["aspect_ratio_mask"] > 0).reshape(len(images), -1), vision)
    x, _ = tiles_embed_forward(images, p["vision"], config=vision, ratios=ratios)
    local = hidden_states(x, p["vision"]["blocks"], vision.block, mask=mask)[0][-1]
    x, _ = layer_norm_forward(local, p["vision"]["ln_post"], eps=vision.eps)
    x = x.reshape(len(x), vision.tiles, vision.padded, width)
    x, _ = tile_embedding_forward(x, p["vision"]["post_tile"], ratios=ratios)
    x = x.reshape(len(x), -1, width)
    for name in map(str, range(vision.global_depth)):
        x, _ = gated_self_forward(x, p["vision"]["global"][name], config=vision.block, mask=mask)
    shape = pixels.shape[:3]
    features = features.reshape(*shape, *features.shape[2:])
    return {
        "out/image_outputs.last_hidden_state": features,
        "tap/vision": features,
        "tap/projector": visual.reshape(*shape, *visual.shape[2:]),
        "tap/vision_local": local,
        "tap/vision_global": x,
    }
