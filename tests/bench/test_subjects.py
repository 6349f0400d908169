"""The least that things cost, against numbers counted by hand and products that run."""

from dataclasses import replace

import numpy as np
import pytest

from scratch_vlm.bench.contenders import Ours
from scratch_vlm.bench.subjects import (
    PAIRS,
    VOCABULARY,
    clip_step,
    generation,
    pair,
    subjects,
    update,
    vit_config,
    vit_step,
    vlm_parts,
    vlm_step,
)
from scratch_vlm.experiments import scenes
from scratch_vlm.tree import leaves

N, D = 512, 128  # four sequences of 128, two heads


def counted(work):
    """Count the FLOPs of products while something runs, but for those of means with a vector."""
    flops, matmul = 0, np.matmul

    def count(a, b, **options):
        nonlocal flops
        y = matmul(a, b, **options)
        flops += 2 * y.size * a.shape[-1] if min(b.shape[-2:] if b.ndim > 1 else (1,)) > 1 else 0
        return y

    np.matmul = count
    try:
        work()
    finally:
        np.matmul = matmul
    return flops


def prepared(subject):
    """Return what does the work."""
    return Ours(np).prepare(subject, *subject.draw(np.random.default_rng(0)))


@pytest.mark.parametrize(
    ("family", "flops", "numbers"),
    [
        # forward x w; backward x' dy and dy w'. Rows: x, y, dy, x again, dx; weights: w, w, dw
        ("linear", 3 * 2 * N * D * D, 5 * N * D + 3 * D * D + 2 * D),
        # q k', e v; and two gradients of each. q, k, v, y; q, k, v, dy, dq, dk, dv
        ("attention", 4 * 6 * 2 * 128 * 128 * D, 11 * N * D),
        ("causal attention", 4 * 6 * 2 * (128 * 129 // 2) * D, 11 * N * D),
        ("layer norm", 0, 5 * N * D),  # x, y; dy, x, dx
        ("RMS norm", 0, 5 * N * D),
        ("GELU", 0, 5 * N * D),
        ("QuickGELU", 0, 5 * N * D),
        # two layers between D and 4 D, three products each; x, y, dy, x again, dx
        ("MLP", 3 * 2 * 2 * N * D * 4 * D, 5 * N * D + 3 * (8 * D * D + 5 * D)),
        ("embedding", 0, 4 * N * D),  # rows of the table, y; dy, and rows of its gradient
        ("cross-entropy", 0, 2 * N * VOCABULARY),  # scores, and their gradient in their place
        ("contrastive loss", 3 * 2 * N * N * D, 4 * N * D),  # either side, and its gradient
        # qkv, out, fc, proj: 12 D^2 weights, three products each; and attention
        ("block", 3 * 2 * N * 12 * D * D + 4 * 6 * 2 * 128 * 128 * D, None),
    ],
)
def test_least_of_a_pair_is_as_counted_by_hand(family, flops, numbers):
    subject = pair(family, N, D)
    assert subject.flops == flops
    if numbers is not None:
        assert subject.bytes == 4 * numbers


UNCOUNTABLE = "causal attention", "contrastive loss"  # computes hidden scores; multiplies by @


@pytest.mark.parametrize("family", [name for name in PAIRS if name not in UNCOUNTABLE])
def test_flops_of_a_pair_are_those_of_products_that_run(family):
    subject = pair(family, N, D)
    assert counted(prepared(subject)) == subject.flops


@pytest.mark.parametrize("family", ["block", "gated block", "Resampler"])
def test_bytes_of_a_layer_are_those_of_its_arrays(family):
    subject = pair(family, N, D)
    inputs, p = subject.draw(np.random.default_rng(0))
    y, _ = subject.forward(*inputs, p, **subject.options)
    rows = sum(x.size for x in inputs)  # read twice, and their gradient written
    weights = sum(x.size for _, x in leaves(p))
    least = 3 * rows + 2 * y.size + 3 * weights
    assert least <= subject.bytes / 4 <= 1.5 * least


def test_least_of_a_lesson_step_is_as_counted_by_hand():
    subject = vit_step("lesson ViT", vit_config(128, 4, 4, 10, image=32, patch=4), 128)
    tokens, weights = 128 * 65, 4 * 12 * 128**2
    attention = 4 * 12 * tokens * 65 * 128
    patches = 4 * 128 * 64 * 48 * 128  # forward, and of the weights; of no pixels
    head = 6 * 128 * 128 * 10
    assert subject.flops == 6 * tokens * weights + attention + patches + head
    _, p = subject.draw(np.random.default_rng(0))
    assert subject.bytes == 10 * 4 * sum(x.size for _, x in leaves(p))


def test_least_of_a_step_of_clip_is_as_counted_by_hand():
    subject = clip_step("CLIP", scenes.MODEL, 128)
    image, text, d = scenes.MODEL.image, scenes.MODEL.text, 64
    towers = 0
    assert text.causal  # so that a token reads half of them, and itself
    read = {image.tokens: image.tokens, text.context: (text.context + 1) / 2}
    for tokens, depth in ((image.tokens, 2), (text.context, 1)):
        weights = 128 * tokens * depth * 12 * d * d
        towers += 6 * weights + 12 * 128 * depth * tokens * read[tokens] * d
    patches = 4 * 128 * image.grid[0] * image.grid[1] * 8 * 8 * 3 * d
    heads, scores = 2 * 6 * 128 * d * d, 6 * 128 * 128 * d
    assert subject.flops == towers + patches + heads + scores


@pytest.mark.parametrize("kind", ["unified", "cross-modal"])
def test_bytes_of_a_vision_language_step_are_those_of_its_parameters(kind):
    subject = vlm_step("VLM", kind, vlm_parts(64, 2, 2, 40, image=8, patch=4), 2)
    _, p = subject.draw(np.random.default_rng(0))
    assert subject.bytes == 10 * 4 * sum(x.size for _, x in leaves(p))


@pytest.mark.parametrize("kind", ["unified", "cross-modal"])
def test_flops_of_a_vision_language_step_are_those_of_products_that_run(kind):
    subject = vlm_step("VLM", kind, vlm_parts(64, 2, 5, 40, image=8, patch=4), 2)
    tokens = 64 + (4 if kind == "unified" else 1)
    hidden = 5 * 6 * 2 * (tokens * (tokens - 1) // 2) * 64  # scores that NumPy computes in vain
    pixels = 2 * 4 * (4 * 4 * 3) * 64  # gradients that nobody needs
    one_hot = 2 * tokens * 40 * 64  # how NumPy adds up the gradient of a small embedding
    more = 2 * (hidden + pixels + one_hot)
    assert counted(prepared(replace(subject, pieces=1))) == subject.flops + more


def test_six_of_ten_passes_of_a_step_stay_float32_in_bf16():
    subject = vit_step("lesson ViT", vit_config(128, 4, 4, 10, image=32, patch=4), 2)
    assert subject.exact * 10 == subject.bytes * 6
    assert update(300).exact == update(300).bytes and pair("MLP", N, D).exact == 0


def test_flops_of_generation_are_those_of_products_that_run():
    config = vlm_parts(64, 2, 2, 40, image=8, patch=4)[1]
    subject = generation("LM", config, 3, prompt=5, new=4)
    hidden = 3 * 2 * 2 * 2 * (5 * 4 // 2) * 64  # of the prompts, which NumPy computes in vain
    assert counted(prepared(subject)) == subject.flops + hidden
    weights = sum(x.size for _, x in leaves(subject.draw(np.random.default_rng(0))[1]))
    cached = 3 * 2 * 2 * 64 * (5 + 6 + 7)  # keys and values of two blocks, for three new tokens
    assert subject.bytes == 4 * (4 * weights + cached)


def test_every_family_grows():
    for quick in (False, True):
        sizes = {}
        for subject in subjects(quick=quick):
            sizes.setdefault(subject.family, []).append(subject.size)
            assert subject.flops or not subject.products
        assert all(found == sorted(set(found)) for found in sizes.values())
        assert all(len(sizes[family]) == (3 if quick else 5) for family in PAIRS)
