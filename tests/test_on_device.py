"""Every pair and every training under the strict backend: what passes here runs with CuPy."""

from dataclasses import replace
from functools import partial

import numpy as np
import pytest
from test_pairs import PAIRS, cotangent, pull, run

from scratch_vlm.backend import load, to_device, to_host
from scratch_vlm.cases import make_case, whole_models
from scratch_vlm.experiments import (
    chats,
    digits,
    language,
    motion,
    perceiver,
    scenes,
    shots,
    vqa,
)
from scratch_vlm.models.clip import clip_init
from scratch_vlm.models.cross_modal import cross_modal_init
from scratch_vlm.models.lm import lm_init
from scratch_vlm.models.unified import unified_init
from scratch_vlm.tree import leaves, tree_map

xp = load("strict")
EVERY = {**PAIRS, **whole_models()}


def with_slots(name, case):
    """Say how many media a text has at most: counting them would wait for the device."""
    if not name.startswith("models.cross_modal.") or name.endswith("cross_trunk"):
        return case
    media = case.inputs[-1]
    slots = case.options.get("slots") or max(len(media), 1)
    return replace(case, options={**case.options, "slots": slots})


@pytest.mark.parametrize("name", EVERY)
@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 3e-5), ("float64", 1e-13)])
@pytest.mark.parametrize("seed", range(4))
def test_pairs_compute_the_same_without_waiting(name, seed, dtype, tolerance):
    pair, rng = EVERY[name], np.random.default_rng(seed)
    case = with_slots(name, make_case(name, rng).astype(dtype))
    there = case.to(xp)
    y, saved = run(pair, case)
    dy = cotangent(rng, y)
    dx, g = pull(pair, case, dy, saved)
    dy = to_device(dy, xp)
    with xp.no_waiting():
        y2, saved = run(pair, there)
        dx2, g2 = pull(pair, there, dy, saved)
    names = ["y", *(f"dx {i}" for i in range(len(dx))), *(name for name, _ in leaves(g))]
    here, device = ([a, *b, *dict(leaves(c)).values()] for a, b, c in ((y, dx, g), (y2, dx2, g2)))
    for name, x, x2 in zip(names, here, device, strict=True):
        assert isinstance(x2, xp.ndarray)
        assert x2.dtype == dtype, name
        atol = tolerance * max(np.abs(x).max(initial=0), 1)
        np.testing.assert_allclose(to_host(x2), x, rtol=0, atol=atol, err_msg=name)


TRAININGS = {  # of which the small models are told apart by options, and by what they start from
    "vit": (digits, {}),
    "clip": (scenes, {}),
    "lm": (chats, {}),
    "gpt": (language, {"style": "gpt"}),
    "llama": (language, {"style": "llama"}),
    "perceiver": (perceiver, {}),
    **{arm: (vqa, {"arm": arm}) for arm in vqa.ARMS},
    **{kind: (vqa, {"arm": "unified", "connector": kind}) for kind in vqa.CONNECTORS},
    **{arm: (motion, {"arm": arm}) for arm in motion.ARMS},
    "shots": (shots, {}),
}
STARTS = {  # new parameters, in the place of trained ones
    vqa: lambda: {"clip": clip_init(RNG(), scenes.MODEL), "lm": lm_init(RNG(), chats.language())},
    motion: lambda: {"vlm": unified_init(RNG(), vqa.model_of("unified"))},
}
STARTS[shots] = STARTS[vqa]
RNG = partial(np.random.default_rng, 0)


@pytest.fixture(params=TRAININGS)
def training(request, monkeypatch, tmp_path):
    """Return a function that trains a model with batches of four."""
    module, options = TRAININGS[request.param]
    small = replace(module.TRAINING, batch_size=4)
    monkeypatch.setattr(module, "TRAINING", small)
    starts = STARTS.get(module, dict)()

    def run_training(steps, xp):
        folder = tmp_path / f"{xp.__name__}-{steps}"
        p = module.train_model(folder, steps=steps, xp=xp, progress=False, **starts, **options)
        rows = (folder / "metrics.csv").read_text().splitlines()[1:]
        return p, [[float(x) for x in row.split(",")[1:3]] for row in rows]

    return run_training


def test_every_training_runs_on_a_device_and_waits_once_a_step(training):
    p, curve = training(2, np)
    p2, curve2 = training(2, xp)
    np.testing.assert_allclose(curve2, curve, rtol=2e-4)
    for (name, x), (_, x2) in zip(leaves(p), leaves(p2), strict=True):
        assert isinstance(x2, xp.ndarray) and x2.dtype == x.dtype, name

    xp.waits.clear()
    training(3, xp)
    three = len(xp.waits)
    xp.waits.clear()
    training(4, xp)
    assert len(xp.waits) - three == 1, xp.waits


@pytest.mark.parametrize("arm", ["unified", "cross_modal"])
def test_answers_on_a_device_are_those_of_the_host(arm):
    model, starts = vqa.model_of(arm), STARTS[vqa]()
    init = unified_init if arm == "unified" else cross_modal_init
    p = init(RNG(), model, vit=starts["clip"]["image"], lm=starts["lm"])
    media = RNG().standard_normal((3, 1, scenes.SIZE, scenes.SIZE, 3)).astype("float32")
    asked = ["what colour is seven", "what digit is red", "what digit is left of seven"]
    there = tree_map(lambda x: to_device(x, xp), p)
    said, said2 = (chats.answers(q, model, media, asked, new=6) for q in (p, there))
    assert said == said2 and any(said)


@pytest.mark.parametrize("style", ["gpt", "llama"])
def test_texts_written_on_a_device_are_those_of_the_host(style):
    model = language.model_of(style)
    p = lm_init(RNG(), model)
    there = tree_map(lambda x: to_device(x, xp), p)
    written, written2 = (language.write_captions(q, model, count=4) for q in (p, there))
    assert written == written2
