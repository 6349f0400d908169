"""Run folders as models: what is saved comes back, and what cannot be opened is named."""

import json
import os
import shutil

import numpy as np
import pytest

from scratch_vlm.data.bpe import train_bpe
from scratch_vlm.data.chat import CHAT_SPECIALS, IMAGE
from scratch_vlm.data.tokens import Vocabulary
from scratch_vlm.experiments import scenes
from scratch_vlm.experiments.runs import KINDS, ModelError, load_model, newest_model, save_model
from scratch_vlm.layers.block import BlockConfig
from scratch_vlm.layers.connector import ConnectorConfig
from scratch_vlm.layers.gated import GatedConfig
from scratch_vlm.layers.resampler import ResamplerConfig
from scratch_vlm.models.clip import CLIPConfig
from scratch_vlm.models.cross_modal import CrossModalConfig
from scratch_vlm.models.lm import LMConfig
from scratch_vlm.models.text import TextConfig
from scratch_vlm.models.unified import UnifiedConfig
from scratch_vlm.models.vision import SightConfig, TowerConfig
from scratch_vlm.models.vit import ViTConfig
from scratch_vlm.training.checkpoint import CheckpointError, save_checkpoint
from scratch_vlm.tree import leaves

BPE = train_bpe([" what is red", " seven"] * 9, vocabulary=280, specials=CHAT_SPECIALS)
WORDS = Vocabulary(("red", "seven"))
BLOCK = BlockConfig(8, 2, 12)
VIT = ViTConfig((24, 24, 3), (8, 8), 4, BLOCK, 2)
TOWER = TowerConfig(VIT, (-2, -1))
LM = LMConfig(len(BPE), 40, BLOCK, 2)
RESAMPLER = ConnectorConfig("resampler", 16, 8, resampler=ResamplerConfig(BLOCK, 3, 1, 4))
SHUFFLED = ConnectorConfig("pixel_shuffle", 16, 8, grid=(3, 3), by=3)
CONFIGS = {
    "unified": [
        UnifiedConfig(SightConfig(TOWER, c), LM, BPE.id(IMAGE), "prefix")
        for c in (RESAMPLER, SHUFFLED)
    ],
    "cross_modal": [
        CrossModalConfig(
            SightConfig(TOWER, RESAMPLER),
            LM,
            GatedConfig(BLOCK, 8, gate=0.5),
            (0, 1),
            BPE.id(IMAGE),
        )
    ],
    "lm": [LMConfig.llama(len(BPE), 40, width=8, heads=2, depth=1, kv_heads=1)],
    "clip": [CLIPConfig(VIT, TextConfig(len(WORDS), 5, 2, 4, BLOCK, 1))],
    "vit": [VIT],
}
ABOUT = {"media": "video", "frames": 4, "questions": ["what is red"], "caption": "what is seven"}
EVERY = [(kind, config) for kind, configs in CONFIGS.items() for config in configs]
STATE = {"step": 2, "run": {"config": {"steps": 2}}}


def reader(kind):
    return {"clip": WORDS, "vit": None}.get(kind, BPE)


def make(folder, kind="lm", config=None, *, about=ABOUT, state=STATE, described=True):
    """Write the folder of a run with random parameters."""
    config = config or CONFIGS[kind][0]
    p = KINDS[kind][1](np.random.default_rng(1), config)
    save_checkpoint(folder / "checkpoint", p, {}, state)
    if described:
        save_model(folder, kind, config, reader(kind), about)
    return p


@pytest.mark.parametrize(("kind", "config"), EVERY)
def test_a_saved_model_comes_back_as_it_was(kind, config, tmp_path):
    p = make(tmp_path / "run", kind, config)
    model = load_model(tmp_path / "run")
    assert model.kind == kind and model.config == config and model.about == ABOUT
    assert hash(model.config) == hash(config)  # tuples are tuples again
    want, found = dict(leaves(p)), dict(leaves(model.p))
    assert list(want) == list(found)
    for name, x in want.items():
        np.testing.assert_array_equal(found[name], x)
    if kind == "clip":
        assert model.tokenizer == WORDS
    elif kind == "vit":
        assert model.tokenizer is None
    else:
        assert model.tokenizer.tokens(" what is red") == BPE.tokens(" what is red")


def test_training_clip_makes_a_folder_that_opens(tmp_path):
    p = scenes.train_model(tmp_path, steps=1, progress=False)
    model = load_model(tmp_path)
    assert (model.config, model.tokenizer) == (scenes.MODEL, scenes.VOCABULARY)
    np.testing.assert_array_equal(model.p["log_scale"], p["log_scale"])
    os.remove(tmp_path / "model.json")  # as in folders from before there was one
    older = load_model(tmp_path)
    assert older[:2] + older[3:] == model[:2] + model[3:]


@pytest.mark.parametrize(
    ("kind", "config", "tokenizer", "error", "message"),
    [
        ("bert", LM, BPE, ValueError, "kind must be one of unified, cross_modal, lm, clip, vit"),
        ("clip", LM, BPE, TypeError, "config must be a CLIPConfig"),
        ("lm", LM, None, ValueError, "a language model needs its tokenizer"),
        ("lm", LM, "red", TypeError, "tokenizer must be a BPE or a Vocabulary, got 'red'"),
        ("clip", CONFIGS["clip"][0], BPE, ValueError, r"has \d+ tokens, the model knows 5"),
    ],
)
def test_what_could_not_be_opened_is_not_saved(kind, config, tokenizer, error, message, tmp_path):
    with pytest.raises(error, match=message):
        save_model(tmp_path / "run", kind, config, tokenizer)
    assert not (tmp_path / "run").exists()


def test_what_a_folder_is_instead_of_a_model_is_said(tmp_path):
    make(tmp_path / "runs" / "lm")
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("")
    for folder, message in (
        ("none", "there is no folder .*none"),
        ("file", "file is a file; a model is the folder of a run"),
        ("empty", "empty is not the folder of a run: it has no checkpoint$"),
        ("runs", "runs is not the folder .*there are models in .*lm$"),
        ("runs/lm/checkpoint", "is a checkpoint; give the folder around it"),
    ):
        with pytest.raises(ModelError, match=message):
            load_model(tmp_path / folder)


def test_unfinished_training_is_said_with_its_steps(tmp_path):
    make(tmp_path, state={"step": 3, "run": {"config": {"steps": 20}}}, described=False)
    with pytest.raises(ModelError, match="unfinished: 3 of 20 steps are trained; give the command"):
        load_model(tmp_path)


@pytest.mark.parametrize("run", [{}, {"model": {"width": 3}}, {"model": {}}])
def test_finished_run_of_something_else_is_said(run, tmp_path):
    make(tmp_path, state={"step": 2, "run": {"config": {"steps": 2}, **run}}, described=False)
    with pytest.raises(ModelError, match=r"has a checkpoint but no model.json"):
        load_model(tmp_path)


@pytest.mark.parametrize("content", ["{", "[]", '{"state": []}', '{"state": {"step": 1}}'])
def test_damaged_state_of_a_run_is_said(content, tmp_path):
    make(tmp_path, described=False)
    (tmp_path / "checkpoint" / "state.json").write_text(content)
    with pytest.raises(ModelError, match=r"state.json is damaged"):
        load_model(tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda content: content[:-20], "model.json is damaged: "),
        (lambda content: "[]", "model.json does not describe a model: it needs kind, config"),
        (lambda content: content.replace('"lm"', '"gpt"'), "a kind that is not known here: 'gpt'"),
        (lambda content: content.replace('"heads"', '"haeds"'), "did you mean 'heads'"),
        (lambda content: content.replace('"depth": 1', '"depth": -1'), "model.json is damaged: "),
        (lambda content: json.dumps({**json.loads(content), "about": 3}), "about must hold facts"),
    ],
)
def test_damaged_description_is_said(change, message, tmp_path):
    make(tmp_path)
    file = tmp_path / "model.json"
    file.write_text(change(file.read_text()))
    with pytest.raises(ModelError, match=message):
        load_model(tmp_path)


def test_missing_and_damaged_parts_are_said(tmp_path):
    make(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{")
    with pytest.raises(ModelError, match=r"tokenizer.json is damaged"):
        load_model(tmp_path)
    larger = train_bpe(
        [" zero one two three four five"] * 9, vocabulary=290, specials=CHAT_SPECIALS
    )
    larger.save(tmp_path / "tokenizer.json")
    with pytest.raises(ModelError, match=rf"has {len(larger)} tokens, the model knows {len(BPE)}"):
        load_model(tmp_path)
    (tmp_path / "tokenizer.json").unlink()
    with pytest.raises(ModelError, match=r"tokenizer.json is missing"):
        load_model(tmp_path)
    BPE.save(tmp_path / "tokenizer.json")
    weights = tmp_path / "checkpoint" / "parameters.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(CheckpointError, match="truncated or damaged"):
        load_model(tmp_path)
    shutil.rmtree(tmp_path / "checkpoint")
    with pytest.raises(ModelError, match=r"has a model.json but no checkpoint"):
        load_model(tmp_path)


def test_parameters_of_another_model_are_listed(tmp_path):
    make(tmp_path)
    save_model(tmp_path, "lm", LM, BPE)
    with pytest.raises(CheckpointError, match="does not fit the model:\n"):
        load_model(tmp_path)


def test_kind_that_is_not_wanted_is_refused(tmp_path):
    make(tmp_path)
    with pytest.raises(ModelError, match="holds a language model, where a CLIP or a ViT is needed"):
        load_model(tmp_path, kinds=("clip", "vit"))


def test_newest_model_is_the_one_trained_last_that_suits(tmp_path):
    assert newest_model(("lm",), root=tmp_path / "none") is None
    for age, name in enumerate(("c", "b", "a/inside")):
        make(tmp_path / name, about={"name": name})
        os.utime(tmp_path / name / "checkpoint" / "state.json", (1e9 - age, 1e9 - age))
    make(tmp_path / "clip", "clip")
    make(tmp_path / "unfinished", described=False, state={"step": 1, "run": {}})
    assert newest_model(("lm", "vit"), root=tmp_path) == tmp_path / "c"
    found = newest_model(("lm",), root=tmp_path, suits=lambda about: "/" in about["name"])
    assert found == tmp_path / "a" / "inside"
    assert newest_model(("unified",), root=tmp_path) is None
