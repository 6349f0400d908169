"""Published models learn with the project's own loop, and are written as they were published."""

from functools import partial
from pathlib import Path

import numpy as np
import pytest

from scratch_vlm.gradcheck import check
from scratch_vlm.layers.block import BlockConfig
from scratch_vlm.models.clip import clip_clamp, clip_init
from scratch_vlm.models.vit import ViTConfig, vit_init
from scratch_vlm.pretrained.images import PROCESSORS, normalize_images
from scratch_vlm.pretrained.load import Pretrained, configure, load_pretrained, save_pretrained
from scratch_vlm.pretrained.tensors import Tensors
from scratch_vlm.training.loop import TrainConfig
from scratch_vlm.training.tune import (
    OBJECTIVES,
    classify_backward,
    classify_forward,
    objective,
    tune,
)
from scratch_vlm.tree import leaves

CASES = Path(__file__).parents[1] / "parity" / "cases"
LLAVA = CASES / "llava_siglip_sharded"
PROJECTOR = ((".*connector/.*", True), (".*", False))
ATTENTION = ((r"lm/blocks/\d+/attn/(qkv|out)", True), (".*", False))


def shown(step, model):
    """Draw texts that each begin with an image and end in a word that its brightness says."""
    rng = np.random.default_rng([3, step])
    config = model.config
    bright = rng.integers(0, 2, 4)
    media = 0.1 * rng.standard_normal((4, 1, *config.sight.tower.vit.image), dtype="float32")
    media += bright[:, None, None, None, None] * np.float32(1)
    ids = np.full((4, config.sight.tokens() + 2), config.image)
    ids[:, -2], ids[:, -1] = 5, 6 + bright
    labels = np.where(np.arange(ids.shape[1]) == ids.shape[1] - 1, ids, -100)
    return ids, labels, media


def written(folder):
    tensors = Tensors(folder)
    return {name: np.array(tensors[name]) for name in tensors}


def loss_of(model, batch):
    forward, _ = objective(model)
    return float(forward(*batch, model.p)[0])


@pytest.mark.parametrize(
    ("how", "learns"),
    [
        ({"trained": PROJECTOR}, "multi_modal_projector"),
        ({"adapters": ATTENTION, "rank": 3}, "language_model.model.layers.*self_attn"),
    ],
    ids=["projector", "LoRA"],
)
def test_a_part_learns_and_the_rest_is_written_as_it_was(tmp_path, how, learns):
    model = load_pretrained(LLAVA)
    trained = {"trained": how.pop("trained")} if "trained" in how else {}
    config = TrainConfig(30, 4, 2e-2, weight_decay=0.0, **trained)
    batch = partial(shown, model=model)
    tuned = tune(model, batch, config, tmp_path, progress=False, **how)
    assert loss_of(tuned, shown(99, model)) < 0.5 * loss_of(model, shown(99, model))

    before, after = written(LLAVA), written(tmp_path / "model")
    assert before.keys() == after.keys()
    changed = {name for name in before if not np.array_equal(before[name], after[name])}
    parts = learns.split(".*")
    assert changed == {name for name in before if name.startswith(parts[0]) and parts[-1] in name}
    again = load_pretrained(tmp_path / "model")
    assert loss_of(again, shown(99, model)) == pytest.approx(loss_of(tuned, shown(99, model)))


def test_images_that_are_bytes_until_the_step_give_the_same_model(tmp_path):
    model, recipe = load_pretrained(LLAVA), PROCESSORS["SiglipImageProcessor"]
    ids, labels, media = shown(0, model)
    media = np.random.default_rng(0).integers(0, 256, media.shape).astype("uint8")
    config = TrainConfig(3, 4, 1e-2, micro_batches=2)
    for name, x in (("bytes", media), ("numbers", normalize_images(media, recipe))):
        drawn = (ids, labels, x)
        tune(model, lambda _, b=drawn: b, config, tmp_path / name, recipe=recipe, progress=False)
    one, other = (written(tmp_path / name / "model") for name in ("bytes", "numbers"))
    assert all(np.array_equal(one[name], other[name]) for name in other)


def test_an_interrupted_run_goes_on_and_a_finished_one_is_read(tmp_path):
    model, config = load_pretrained(LLAVA), TrainConfig(4, 4, 1e-2, checkpoint_every=2)
    how = {"adapters": ATTENTION, "rank": 2, "progress": False}

    def breaks_off(step):
        if step == 3:
            raise KeyboardInterrupt
        return shown(step, model)

    with pytest.raises(KeyboardInterrupt):
        tune(model, breaks_off, config, tmp_path / "a", **how)
    assert not (tmp_path / "a" / "model").exists()
    for folder in ("a", "a", "b"):  # goes on; is read; without a break
        tune(model, partial(shown, model=model), config, tmp_path / folder, **how)
    first, second = written(tmp_path / "a" / "model"), written(tmp_path / "b" / "model")
    for name, x in first.items():
        np.testing.assert_array_equal(x, second[name], err_msg=name)


def test_another_model_in_the_same_folder_is_refused(tmp_path):
    model, config = load_pretrained(LLAVA), TrainConfig(1, 4, 1e-2)
    tune(model, partial(shown, model=model), config, tmp_path, progress=False)
    other = load_pretrained(CASES / "gpt2")
    with pytest.raises(ValueError):
        tune(other, partial(shown, model=model), config, tmp_path, progress=False)


def words(step, config, real=7):
    ids = np.random.default_rng([4, step]).integers(1, 20, (3, real))
    return ids, ids


def pictures(step, config, count=4):
    rng = np.random.default_rng([5, step])
    images = rng.standard_normal((count, *config.image), dtype="float32")
    return images, rng.integers(0, config.outputs, count)


def pairs(step, config):
    rng = np.random.default_rng([6, step])
    images = rng.standard_normal((4, *config.image.image), dtype="float32")
    ids = rng.integers(3, 40, (4, config.text.context))
    ids[:, -1] = config.text.vocabulary - 1
    return images, ids


def small_clip(model_type):
    tower = {"hidden_size": 8, "num_attention_heads": 2, "intermediate_size": 12,
             "num_hidden_layers": 1}  # fmt: skip
    text = {**tower, "vocab_size": 50, "max_position_embeddings": 6}
    text |= {"eos_token_id": 49} if model_type == "clip" else {"projection_size": 8}
    vision = {**tower, "image_size": 12, "patch_size": 6}
    published = {"model_type": model_type, "text_config": text, "vision_config": vision}
    kind, config, layout = configure(published)
    names = {name: name for name in layout.published}
    p = clip_init(np.random.default_rng(0), config)
    return Pretrained(kind, config, p, layout, names, published, "float32")


@pytest.mark.parametrize(
    ("model", "batch", "options"),
    [
        (CASES / "vit_interpolated", pictures, {}),
        (CASES / "gpt2", words, {}),
        (CASES / "llama", words, {}),
        ("clip", pairs, {"after_step": clip_clamp}),
        ("siglip", pairs, {}),
    ],
    ids=lambda value: getattr(value, "name", None),
)
def test_other_kinds_learn_what_they_are_for(tmp_path, model, batch, options):
    if isinstance(model, str):
        save_pretrained(small_clip(model), tmp_path / "start")
        model = tmp_path / "start"
    model = load_pretrained(model)
    assert model.kind in OBJECTIVES
    same = batch(0, model.config)
    config = TrainConfig(12, len(same[0]), 3e-3, weight_decay=0.0)
    tuned = tune(model, lambda step: same, config, tmp_path / "run", progress=False, **options)
    assert loss_of(tuned, same) < loss_of(model, same)
    assert written(tmp_path / "run" / "model").keys() == set(model.names.values())


def test_idefics_learns(tmp_path):
    model = load_pretrained(CASES / "idefics_no_resampler")
    config, rng = model.config, np.random.default_rng(0)
    ids = rng.integers(3, 40, (2, 6))
    ids[:, 1] = config.image
    media = rng.standard_normal((2, 1, *config.sight.tower.vit.image), dtype="float32")
    trained = (("gated/.*", True), (".*", False))
    settings = TrainConfig(10, 2, 1e-2, weight_decay=0.0, trained=trained)
    tuned = tune(model, lambda step: (ids, ids, media), settings, tmp_path, progress=False)
    assert loss_of(tuned, (ids, ids, media)) < loss_of(model, (ids, ids, media))
    before, after = dict(leaves(model.p)), dict(leaves(tuned.p))
    for name, x in before.items():
        assert np.array_equal(x, after[name]) == (not name.startswith("gated/")), name


def test_what_has_no_objective_is_refused(tmp_path):
    model = load_pretrained(CASES / "perceiver")
    with pytest.raises(ValueError, match="no objective for PerceiverModel; there are some for ViT"):
        tune(model, None, TrainConfig(1, 1, 1e-3), tmp_path)


def test_the_objective_of_classifiers_has_its_gradient():
    config = ViTConfig((4, 6, 2), (2, 3), 5, BlockConfig(8, 2, 9), depth=1)
    p = vit_init(np.random.default_rng(0), config)
    rng = np.random.default_rng(1)
    inputs = [rng.standard_normal((3, 4, 6, 2)), rng.integers(0, 5, 3)]
    check(classify_forward, classify_backward, inputs, p, options={"config": config})
