"""The demo, with a few steps: what it writes, and that it goes on where it was."""

import json
import re

import numpy as np
import pytest

from scratch_vlm import cli
from scratch_vlm.data.digits import split
from scratch_vlm.experiments import demo, digits, scenes
from scratch_vlm.models.clip import clip_init


@pytest.fixture
def short(monkeypatch):
    steps = dict.fromkeys(demo.NAMES, 2) | {"vit": 3, "clip": 4}
    monkeypatch.setattr(demo, "QUICK_STEPS", steps)


@pytest.fixture
def untrained():
    return clip_init(np.random.default_rng(0), scenes.MODEL)


def test_demo_writes_everything_and_a_second_call_trains_nothing(short, tmp_path, capsys):
    arguments = ["demo", "--quick", "--seed", "5", "--out", str(tmp_path)]
    assert cli.main(arguments) == 0
    assert "CLIP, one of eight captions: new handwriting" in capsys.readouterr().out

    metrics = json.loads((tmp_path / "metrics.json").read_text())
    for name in (
        "vit.test_accuracy",
        "clip.zero_shot_8way.test",
        "clip.zero_shot_8way.heldout_combinations",
        "clip.retrieval_r_at_1_of_128.test",
    ):
        leaf = metrics
        for key in name.split("."):
            leaf = leaf[key]
        assert 0 <= leaf["value"] <= 1 and 0 < leaf["chance"] < leaf["baseline"] < 1
    assert metrics["seed"] == 5

    rows = (tmp_path / "metrics.csv").read_text().splitlines()
    assert len(rows) == 1 + 4 and len((tmp_path / "vit/metrics.csv").read_text().splitlines()) == 4
    assert (tmp_path / "checkpoint" / "parameters.safetensors").exists()
    page = (tmp_path / "report.html").read_text()
    assert page.count("<figure") >= 8
    assert not re.search(r"(src|href)=[\"']https?:", page)

    curve = (tmp_path / "metrics.csv").read_bytes()
    assert cli.main(arguments) == 0
    assert (tmp_path / "metrics.csv").read_bytes() == curve
    again = json.loads((tmp_path / "metrics.json").read_text())
    assert again["vit"] == metrics["vit"] and again["clip"] == metrics["clip"]


@pytest.mark.parametrize(("model", "part"), [(digits, "vit"), (scenes, "")])
def test_another_seed_in_the_same_folder_is_refused_before_training(
    short, tmp_path, capsys, model, part
):
    model.train_model(tmp_path / part, seed=1, steps=2, progress=False)
    before = sorted(tmp_path.rglob("*"))
    assert cli.main(["demo", "--quick", "--seed", "2", "--out", str(tmp_path)]) == 2
    captured = capsys.readouterr()
    assert f"{tmp_path} holds a run with " in captured.err
    assert captured.out == "" and sorted(tmp_path.rglob("*")) == before


def test_refusal_of_another_seed_names_both_seeds(short, tmp_path, capsys):
    scenes.train_model(tmp_path, seed=1, steps=4, progress=False)
    assert cli.main(["demo", "--quick", "--seed", "2", "--out", str(tmp_path)]) == 2
    assert f"{tmp_path} holds a run with seed 1, not 2" in capsys.readouterr().err


@pytest.mark.parametrize("model", ["vit", "clip"])
def test_train_measures_on_the_validation_forms_only(model, tmp_path, capsys):
    assert cli.main(["train", model, "--steps", "2", "--out", str(tmp_path)]) == 0
    printed = capsys.readouterr().out
    assert "val" in printed and "test" not in printed


def test_same_seed_same_curve_and_another_seed_another(tmp_path):
    curves = []
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        scenes.train_model(tmp_path / name, seed=seed, steps=3, progress=False)
        rows = (tmp_path / name / "metrics.csv").read_text().splitlines()
        curves.append([row.rpartition(",")[0] for row in rows])
    assert curves[0] == curves[1] != curves[2]


def test_single_digit_scenes_show_each_digit_once():
    images, labels = scenes.single_digit_scenes("val")
    assert images.shape == (len(split("val")), 24, 24, 3)
    np.testing.assert_array_equal(labels, split("val").labels)
    ink = split("val").images.reshape(len(labels), -1)
    brightest = images.max(-1).reshape(len(labels), -1)
    np.testing.assert_allclose(brightest.sum(1), ink.sum(1), rtol=1e-5)


def test_untrained_clip_does_not_beat_chance(untrained):
    # It is far below: the right caption lies between those that differ from it in one fact, and
    # the best of eight random scores is rarely that of the one in the middle.
    measured = scenes.measure(untrained, "val")
    assert measured["zero_shot_8way"]["val"]["value"] < 1 / 8
    assert measured["retrieval_r_at_1_of_128"]["val"]["value"] < 0.1


def test_attention_of_the_class_token_is_a_share_of_each_patch(untrained):
    image = scenes.evaluation_set("val", 1).images[0]
    attention = demo.attention_of_class_token(untrained, image)
    assert attention.shape == (4, 9)
    assert (attention > 0).all() and (attention.sum(1) < 1).all()


def test_vit_predicts_a_class_for_every_digit(tmp_path):
    p = digits.train_model(tmp_path, steps=2, progress=False)
    predicted = digits.predict(p, split("val").images)
    assert predicted.shape == (258,) and set(predicted) <= set(range(10))
