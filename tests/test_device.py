"""Training and generation on a device: the same curve and the same words as on the host.

The device is CuPy where there is a GPU, and on every machine the strict stand-in for it.
"""

import csv
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from scratch_vlm.backend import namespace, to_device
from scratch_vlm.backend.graph import WARMUP
from scratch_vlm.cases import make_case, random_parameters, whole_models
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
from scratch_vlm.inference.answer import answer
from scratch_vlm.inference.generate import generate
from scratch_vlm.layers.block import BlockConfig
from scratch_vlm.layers.resampler import (
    ResamplerConfig,
    resampler_backward,
    resampler_forward,
    resampler_init,
)
from scratch_vlm.models.clip import clip_init
from scratch_vlm.models.lm import LMConfig, lm_init, lm_loss_backward, lm_loss_forward
from scratch_vlm.models.perceiver import (
    PerceiverConfig,
    perceiver_backward,
    perceiver_forward,
    perceiver_init,
)
from scratch_vlm.models.unified import unified_init
from scratch_vlm.models.vit import ViTConfig, vit_backward, vit_forward, vit_init
from scratch_vlm.ops.losses import cross_entropy_backward, cross_entropy_forward
from scratch_vlm.pretrained.images import PROCESSORS
from scratch_vlm.pretrained.load import load_pretrained
from scratch_vlm.training import loop
from scratch_vlm.training.checkpoint import load_checkpoint
from scratch_vlm.training.loop import TrainConfig, train
from scratch_vlm.training.loss_scale import LossScale
from scratch_vlm.training.optimizer import AdamW
from scratch_vlm.training.tune import tune
from scratch_vlm.tree import leaves, tree_map

CASES = Path(__file__).parent / "parity" / "cases"

RNG = np.random.default_rng
BLOCK = BlockConfig(8, 2, 12)
WHOLE = whole_models()
TRAINING = TrainConfig(
    steps=3, batch_size=4, peak_rate=0.02, warmup=1, clip=0.5, checkpoint_every=2
)


def classifier(init, forward, backward, config, *shape):
    """Return an objective, its parameters and a batch for what tells inputs apart."""

    def loss_forward(x, labels, p):
        scores, s_model = forward(x, p, config=config)
        loss, s_loss = cross_entropy_forward(scores, labels)
        return loss, (s_model, s_loss)

    def loss_backward(dloss, saved, g):
        s_model, s_loss = saved
        return backward(cross_entropy_backward(dloss, s_loss), s_model, g)

    x = RNG(1).standard_normal((4, *shape)).astype("float32")
    p = random_parameters(RNG(0), init(RNG(0), config))
    return loss_forward, loss_backward, p, (x, np.arange(4) % config.outputs)


def small_vit():
    config = ViTConfig((4, 4, 1), (2, 2), 3, BLOCK, 2)
    return classifier(vit_init, vit_forward, vit_backward, config, 4, 4, 1)


def small_perceiver():
    config = PerceiverConfig((2, 3), 1, 3, BLOCK, latents=3, depth=1, repeats=2)
    return classifier(perceiver_init, perceiver_forward, perceiver_backward, config, 6, 1)


def small_lm():
    config = LMConfig.llama(11, 12, width=8, heads=4, kv_heads=2, depth=2)
    ids = RNG(1).integers(0, 11, (4, 7))
    labels = np.where(RNG(2).random(ids.shape) < 0.3, -100, ids)
    p = random_parameters(RNG(0), lm_init(RNG(0), config))
    return partial(lm_loss_forward, config=config), lm_loss_backward, p, (ids, labels)


def whole(name, seed):
    """Return a model with all that can be built into it; adapters learn beside the rest."""
    case = make_case(name, RNG(seed))
    options = {key: case.options.get(key) for key in ("lengths", "slots")}
    options = {key: value for key, value in options.items() if key in case.options}
    if "slots" in options:
        options["slots"] = len(case.inputs[2])
    forward = partial(WHOLE[name].forward, config=case.options["config"], **options)
    return forward, WHOLE[name].backward, case.p, case.inputs


MODELS = {"ViT": small_vit, "Perceiver": small_perceiver, "language model": small_lm}
MODELS |= {f"{name} {seed}": partial(whole, name, seed) for name in WHOLE for seed in range(4)}


def test_among_the_models_are_videos_of_several_lengths_behind_a_resampler():
    for name in WHOLE:
        if "Resampler" in name:
            cases = [make_case(name, RNG(seed)) for seed in range(4)]
            assert any(
                case.inputs[2].shape[1] > 1 and len(set(np.ravel(case.options["lengths"]))) > 1
                for case in cases
            )


def forbid_waiting(monkeypatch, no_sync):
    """Let `train` wait where it fetches the loss and the norm, and nowhere else in a step."""

    def quiet(function):
        def call(*args, **kwargs):
            with no_sync():
                return function(*args, **kwargs)

        return call

    for owner, part in ((loop, "add_gradients"), (AdamW, "gradient_norm"), (AdamW, "move")):
        monkeypatch.setattr(owner, part, quiet(getattr(owner, part)))


def curve(folder):
    with (folder / "metrics.csv").open() as file:
        return [(float(row["loss"]), float(row["gradient_norm"])) for row in csv.DictReader(file)]


@pytest.mark.parametrize("name", MODELS)
def test_training_waits_once_a_step_and_its_curve_is_that_of_numpy(
    name, xp, no_sync, tmp_path, monkeypatch
):
    forward, backward, p, batch = MODELS[name]()
    cast = lambda x: x.astype("float32") if x.dtype.kind == "f" else x  # noqa: E731
    p, batch = tree_map(cast, p), tuple(map(cast, batch))

    def learn(folder, xp):
        train(forward, backward, p, lambda step: batch, TRAINING, folder, xp=xp, progress=False)
        return curve(folder)

    right = learn(tmp_path / "numpy", np)
    forbid_waiting(monkeypatch, no_sync)
    there = learn(tmp_path / "device", xp)
    np.testing.assert_allclose(there, right, rtol=1e-3)
    assert len({loss for loss, _ in there}) == TRAINING.steps


@pytest.mark.parametrize("graph", [False, True])
def test_each_step_learns_from_its_own_batch(graph, xp, no_sync, tmp_path, monkeypatch):
    def batch(step):  # of many sizes, or of one for a graph; the loss is the number of the step
        return (np.full((4, 1 if graph else (7 * step) % 10 + 1), step, "float32"),)

    def forward(x, p):
        return (x * p["w"]).mean(), None

    def backward(dloss, saved, g):  # so that the weight stays as it is
        pass

    forbid_waiting(monkeypatch, no_sync)
    config = replace(TRAINING, steps=9, weight_decay=0.0, graph=graph)
    p = {"w": np.ones(1, "float32")}
    train(forward, backward, p, batch, config, tmp_path, xp=xp, progress=False)
    assert [loss for loss, _ in curve(tmp_path)] == list(range(9))


WEIGHTS = {
    "clip": clip_init(RNG(0), scenes.MODEL),
    "lm": lm_init(RNG(0), chats.language()),
}
VLM = unified_init(RNG(0), motion.model_of("clips"))
LESSONS = {
    "digits": digits.train_model,
    "permuted digits": perceiver.train_model,
    "scenes": scenes.train_model,
    "conversations": chats.train_model,
    **{style: partial(language.train_model, style=style) for style in ("gpt", "llama")},
    **{arm: partial(vqa.train_model, arm=arm, **WEIGHTS) for arm in vqa.ARMS},
    **{
        f"unified, {connector}": partial(
            vqa.train_model, arm="unified", connector=connector, **WEIGHTS
        )
        for connector in vqa.CONNECTORS
    },
    **{arm: partial(motion.train_model, arm=arm, vlm=VLM) for arm in motion.ARMS},
    "shots": partial(shots.train_model, **WEIGHTS),
}


@pytest.mark.parametrize("name", LESSONS)
def test_the_models_of_the_lessons_wait_once_a_step(name, xp, no_sync, tmp_path, monkeypatch):
    train_model = partial(LESSONS[name], progress=False, training={"batch_size": 4})
    train_model(tmp_path / "numpy", steps=2)
    forbid_waiting(monkeypatch, no_sync)
    waits = []
    for steps in (2, 3):
        before = len(getattr(xp, "waits", ()))
        train_model(tmp_path / str(steps), xp=xp, steps=steps)
        waits.append(len(getattr(xp, "waits", ())) - before)
    assert waits[1] - waits[0] == hasattr(xp, "waits")
    np.testing.assert_allclose(curve(tmp_path / "2"), curve(tmp_path / "numpy"), rtol=1e-3)


@pytest.mark.parametrize("precision", ["float32", "fp16"])
@pytest.mark.parametrize("name", MODELS)
def test_steps_that_are_replayed_are_those_that_python_takes(name, precision, xp, tmp_path):
    forward, backward, p, batch = MODELS[name]()
    cast = lambda x: x.astype("float32") if x.dtype.kind == "f" else x  # noqa: E731
    p, batch = tree_map(cast, p), tuple(map(cast, batch))
    batches = [tuple(x[::-1].copy() for x in batch), batch]
    runs = []

    def watched(*arguments):
        runs.append(1)
        return forward(*arguments)

    def learn(folder, **how):
        runs.clear()
        config = replace(TRAINING, steps=WARMUP + 5, checkpoint_every=4, precision=precision, **how)
        batch = lambda step: batches[step % 2]  # noqa: E731
        train(watched, backward, p, batch, config, folder, xp=xp, progress=False)
        return curve(folder), len(runs)

    right, _ = learn(tmp_path / "python")
    replayed, calls = learn(tmp_path / "graph", graph=True)
    assert calls == WARMUP + 1
    np.testing.assert_allclose(replayed, right, rtol=1e-6)


def small_resampler():
    config = ResamplerConfig(BLOCK, latents=2, depth=1, frames=4)

    def loss_forward(x, labels, p):
        lengths = np.array([1, *[x.shape[1]] * 3])
        y, saved = resampler_forward(x, p, config=config, lengths=lengths)
        loss, s_loss = cross_entropy_forward(y.mean(1), labels)
        return loss, (saved, y.shape, s_loss)

    def loss_backward(dloss, saved, g):
        s_model, shape, s_loss = saved
        dy = cross_entropy_backward(dloss, s_loss)[:, None] / shape[1]
        return resampler_backward(namespace(dy).ones(shape, dy.dtype) * dy, s_model, g)

    p = random_parameters(RNG(0), resampler_init(RNG(0), config))
    return loss_forward, loss_backward, p, (RNG(1).standard_normal((4, 4, 3, 8)), np.arange(4))


SHORTER = {  # the same batches, some of other shapes: fewer samples, tokens, frames
    "ViT": (small_vit, lambda x, labels: (x[:3], labels[:3])),
    "language model": (small_lm, lambda ids, labels: (ids[:, :5], labels[:, :5])),
    "Resampler": (small_resampler, lambda x, labels: (x[:, :3], labels)),
}


@pytest.mark.parametrize("name", SHORTER)
def test_batches_of_other_shapes_among_those_that_are_replayed(name, xp, tmp_path):
    make, shorten = SHORTER[name]
    forward, backward, p, batch = make()
    cast = lambda x: x.astype("float32") if x.dtype.kind == "f" else x  # noqa: E731
    p, batch = tree_map(cast, p), tuple(map(cast, batch))
    short = tuple(x.copy() for x in shorten(*batch))

    def learn(folder, **how):
        config = replace(TRAINING, steps=5 * (WARMUP + 2), checkpoint_every=99, **how)
        draw = lambda step: short if step % 5 > 3 else batch  # noqa: E731
        train(forward, backward, p, draw, config, folder, xp=xp, progress=False)
        return curve(folder)

    right = learn(tmp_path / "python")
    np.testing.assert_allclose(learn(tmp_path / "graph", graph=True), right, rtol=1e-5)


@pytest.mark.parametrize("graph", [True, False])
def test_a_training_that_was_replayed_goes_on_either_way(graph, xp, tmp_path):
    forward, backward, p, batch = small_vit()
    p = tree_map(lambda x: x.astype("float32"), p)
    config = replace(TRAINING, steps=WARMUP + 6, checkpoint_every=WARMUP + 2)

    def learn(folder, last=config.steps, **how):
        def draw(step):
            if step == last:
                raise KeyError("the disk is gone")
            return tuple(np.roll(x, step, axis=0) for x in batch)

        train(forward, backward, p, draw, replace(config, **how), folder, xp=xp, progress=False)
        return curve(folder)

    right = learn(tmp_path / "python")
    with pytest.raises(KeyError):
        learn(tmp_path / "graph", last=WARMUP + 4, graph=True)
    assert load_checkpoint(tmp_path / "graph" / "checkpoint")[2]["step"] == WARMUP + 2
    np.testing.assert_allclose(learn(tmp_path / "graph", graph=graph), right, rtol=1e-6)


@pytest.mark.parametrize("graph", [False, True])
def test_an_overflow_of_fp16_is_computed_again_and_what_is_no_number_is_named(
    graph, xp, tmp_path, monkeypatch
):
    vit_forward, vit_backward, p, (x, labels) = small_vit()
    p, lowered = tree_map(lambda x: x.astype("float32"), p), []
    lower = LossScale.lower
    monkeypatch.setattr(LossScale, "lower", lambda scale: lowered.append(1) or lower(scale))

    def forward(x, labels, factor, p):
        loss, saved = vit_forward(x, labels, p)
        return loss * factor[0], (saved, factor[0])

    def backward(dloss, saved, g):
        return vit_backward(dloss * saved[1], saved[0], g)

    def batch(step):
        factor = {WARMUP + 2: 4096, WARMUP + 4: np.nan}.get(step, 1)
        return x, labels, np.full(4, factor, "float32")

    config = replace(TRAINING, steps=WARMUP + 6, precision="fp16", graph=graph, clip=None)
    said = f"step {WARMUP + 4}: the loss is nan .* not finite is batch/2; the last good checkpoint"
    with pytest.raises(loop.TrainingDiverged, match=said):
        train(forward, backward, p, batch, config, tmp_path, xp=xp, progress=False)
    assert lowered and np.isfinite(curve(tmp_path)).all()
    assert len(curve(tmp_path)) == WARMUP + 4


def test_a_graph_that_cuda_has_no_memory_for_is_explained(tmp_path, monkeypatch, xp):
    def full(stream):
        ended(stream)
        raise xp.cuda.runtime.CUDARuntimeError(2)

    ended = xp.cuda.Stream.end_capture
    monkeypatch.setattr(xp.cuda.Stream, "end_capture", full)
    forward, backward, p, batch = small_vit()
    p = tree_map(lambda x: x.astype("float32"), p)
    config = replace(TRAINING, steps=WARMUP + 2, graph=True)
    with pytest.raises(loop.OutOfMemory, match=r"on the GPU, .*; the checkpoint .* is intact"):
        train(forward, backward, p, lambda _: batch, config, tmp_path, xp=xp, progress=False)


def same_words(there, here):
    for a, b in zip(there.ids, here.ids, strict=True):
        np.testing.assert_array_equal(a, b)
    for a, b in zip(there.logprobs, here.logprobs, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-4)


def on(p, xp):
    return tree_map(lambda x: to_device(x.astype("float32"), xp), p)


@pytest.mark.parametrize("temperature", [0.0, 0.8])
def test_a_language_model_writes_the_same_on_a_device(xp, temperature):
    config = LMConfig.llama(11, 12, width=8, heads=4, kv_heads=2, depth=2)
    p = random_parameters(RNG(0), lm_init(RNG(0), config))
    there, here = (
        generate(
            [[1, 2, 3], [4]],
            on(p, where),
            config,
            new=5,
            chunk=2,
            temperature=temperature,
            rng=RNG(3),
        )
        for where in (xp, np)
    )
    same_words(there, here)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("name", [name for name in WHOLE if "Resampler" in name])
def test_a_model_that_sees_answers_the_same_on_a_device(name, seed, xp):
    case = make_case(name, RNG(seed))
    ids, _, media = case.inputs
    there, here = (
        answer(
            ids.tolist(),
            media.astype("float32"),
            on(case.p, where),
            case.options["config"],
            new=3,
            lengths=case.options["lengths"],
        )
        for where in (xp, np)
    )
    same_words(there, here)


def test_a_published_model_that_looks_at_images_learns_without_waiting(
    xp, no_sync, tmp_path, monkeypatch
):
    model = load_pretrained(CASES / "idefics_no_resampler")
    image = model.config.image
    ids = RNG(0).integers(3, 40, (2, 6))
    ids[0, 1:3] = ids[1, 1] = image
    media = RNG(1).standard_normal((3, 1, *model.config.sight.tower.vit.image), dtype="float32")
    trained = (("gated/.*", True), (".*", False))
    settings = TrainConfig(3, 2, 1e-2, weight_decay=0.0, trained=trained)

    def learn(where, xp):
        folder = tmp_path / where
        p = tune(model, lambda _: (ids, ids, media), settings, folder, xp=xp, progress=False).p
        return dict(leaves(p))

    here = learn("here", np)
    forbid_waiting(monkeypatch, no_sync)
    there = learn("there", xp)
    for name, x in here.items():
        np.testing.assert_allclose(there[name], x, rtol=2e-4, atol=2e-5, err_msg=name)


@pytest.mark.parametrize("graph", [False, True])
def test_photographs_are_bytes_until_they_are_on_the_device(
    graph, xp, no_sync, tmp_path, monkeypatch
):
    model, recipe = load_pretrained(CASES / "vit_interpolated"), PROCESSORS["ViTImageProcessor"]
    images = RNG(1).integers(0, 256, (4, *model.config.image)).astype("uint8")
    batch = images, np.arange(4) % model.config.outputs

    def learn(where, xp, graph):
        config, folder = replace(TRAINING, steps=6, graph=graph), tmp_path / where
        tune(model, lambda _: batch, config, folder, recipe=recipe, xp=xp, progress=False)
        return curve(folder)

    right = learn("here", np, False)
    forbid_waiting(monkeypatch, no_sync)
    np.testing.assert_allclose(learn("there", xp, graph), right, rtol=1e-3)
