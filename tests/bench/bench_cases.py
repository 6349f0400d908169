"""Work of every kind that takes milliseconds."""

from scratch_vlm.bench.subjects import (
    PAIRS,
    clip_step,
    generation,
    pair,
    update,
    vit_config,
    vit_step,
    vlm_parts,
    vlm_step,
)
from scratch_vlm.experiments import scenes

PARTS = vlm_parts(64, 2, 5, 40, image=8, patch=4)
STEPS = (
    vit_step("ViT", vit_config(64, 2, 2, 10, image=8, patch=4), 6),
    clip_step("CLIP", scenes.MODEL, 6),
    vlm_step("VLM, unified", "unified", PARTS, 4),
    vlm_step("VLM, cross-modal", "cross-modal", PARTS, 4),
)
SMALL = (
    *(pair(family, n, 64) for family in PAIRS for n in (16, 64)),
    update(300),
    update(5000),
    *STEPS,
    generation("LM", PARTS[1], 3, prompt=5, new=6),
)
