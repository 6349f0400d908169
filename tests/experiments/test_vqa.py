"""Questions about boards and clips: arms, measurements, and the commands that train them."""

import json
from functools import partial

import numpy as np
import pytest

from scratch_vlm import cli
from scratch_vlm.data import boards
from scratch_vlm.data.clips import Question
from scratch_vlm.experiments import chats, motion, scenes, shots, stages, vqa
from scratch_vlm.experiments.chats import word_accuracy
from scratch_vlm.models.clip import clip_init
from scratch_vlm.models.cross_modal import CrossModalConfig, cross_modal_init
from scratch_vlm.models.lm import lm_init
from scratch_vlm.models.unified import UnifiedConfig, unified_init


@pytest.fixture
def base(monkeypatch):
    """Stand in for trained models to start from."""
    rng = np.random.default_rng(0)
    p = {
        "clip": clip_init(rng, scenes.MODEL),
        "lm": lm_init(rng, chats.language()),
        "unified": unified_init(rng, vqa.model_of("unified")),
    }
    monkeypatch.setattr(stages, "train_stages", lambda folder, names, **_: {n: p[n] for n in names})
    return p


@pytest.mark.parametrize("connector", vqa.CONNECTORS)
@pytest.mark.parametrize("arm", vqa.ARMS)
def test_every_arm_takes_every_connector(arm, connector):
    config = vqa.model_of(arm, connector)
    assert isinstance(config, UnifiedConfig if arm == "unified" else CrossModalConfig)
    assert config.sight.tokens() == (1 if connector == "pixel_shuffle" else 9)


def test_unknown_arms_and_connectors_are_named():
    with pytest.raises(ValueError, match=r"arm must be one of unified, .* got 'flamingo'"):
        vqa.model_of("flamingo")
    with pytest.raises(ValueError, match=r"connector must be one of linear, .* got 'qformer'"):
        vqa.model_of("unified", "qformer")
    with pytest.raises(ValueError, match=r"arm must be one of clips, .* got 'unified'"):
        motion.model_of("unified")


def test_only_the_gates_of_one_arm_learn_faster():
    rules = {arm: dict(vqa.settings(arm)[0].rate_factors) for arm in vqa.ARMS}
    gates = ".*/(attn|mlp)_gate"
    assert rules.pop("gates_closed_fast") == {gates: vqa.FASTER, ".*": 1.0}
    assert all(rule == {".*": 1.0} for rule in rules.values())


@pytest.mark.parametrize(("arm", "start"), [("cross_modal", 0.5), ("gates_closed", 0.0)])
def test_gates_are_read_as_they_were_set(arm, start):
    p = cross_modal_init(np.random.default_rng(0), vqa.model_of(arm))
    found = vqa.gates(p)
    assert list(found) == ["gate_0_attn", "gate_0_mlp", "gate_1_attn", "gate_1_mlp"]
    np.testing.assert_allclose(list(found.values()), start, atol=1e-6)


def test_who_knows_everything_is_always_right(monkeypatch):
    known = boards.evaluation_boards("val", 20)
    right = {
        (i, q.text): q.answer for every in known.questions.values() for i, q in enumerate(every)
    }
    right |= {(i, boards.CAPTION): boards.describe(board) for i, board in enumerate(known.boards)}

    def knowing(p, config, media, texts, **_):
        assert media.shape == (20, 1, 24, 24, 3)
        return [right[i, text] for i, text in enumerate(texts)]

    monkeypatch.setattr(vqa, "answers", knowing)
    found = vqa.measure(None, "unified", "val", count=20)
    assert {entry["value"] for entry in found.values()} == {1.0}
    found = vqa.measure_captions(None, "unified", "val", count=20)
    assert {entry["value"] for entry in found.values()} == {1.0}
    assert all(entry["baseline"] < 0.8 for entry in found.values())


def test_clips_are_measured_by_kind_of_question_over_all_lengths(monkeypatch):
    lengths = []

    def always_left(p, config, media, texts):
        lengths.append(media.shape[1])
        return ["left"] * len(texts)

    monkeypatch.setattr(motion, "answers", always_left)
    found = motion.measure(None, "clips", "val", count=200)
    assert lengths == list(motion.LENGTHS) * 4
    assert abs(found["direction"]["value"] - 0.25) < 0.1
    assert [found[kind]["value"] for kind in ("colour", "which_digit", "digit")] == [0, 0, 0]


def test_words_count_where_they_stand():
    asked = [Question("caption", "", "red seven top-left blue one top-right")]
    assert word_accuracy(["red seven top-left blue one top-right"], asked) == 1
    assert word_accuracy(["red seven top-left"], asked) == 0.5
    assert word_accuracy(["seven red top-left blue one top-right"], asked) == pytest.approx(4 / 6)
    assert word_accuracy([""], asked) == 0


@pytest.mark.parametrize(
    ("arguments", "folder"),
    [
        (
            ["vqa", "--arm", "cross_modal", "--connector", "resampler"],
            "vqa-cross_modal-resampler-3",
        ),
        (["vqa"], "vqa-unified-mlp-3"),
        (["video", "--arm", "one_frame"], "video-one_frame-3"),
        (["shots"], "shots-3"),
    ],
)
def test_models_that_see_are_trained_by_command(base, tmp_path, monkeypatch, arguments, folder):
    monkeypatch.chdir(tmp_path)
    for module in (vqa, motion, shots):
        monkeypatch.setattr(module, "measure", partial(module.measure, count=4))
    assert cli.main(["train", *arguments, "--steps", "1", "--seed", "3"]) == 0
    metrics = json.loads((tmp_path / "runs" / folder / "metrics.json").read_text())
    assert list(metrics) == [folder.removesuffix("-3")]
    assert (tmp_path / "runs" / folder / "model.json").exists()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["video", "--connector", "mlp"], "--connector is for vqa; video has none"),
        (["shots", "--arm", "unified"], "--arm is for vqa and video; shots has none"),
        (["clip", "--base", "x"], "--base is for what starts from other models; clip does not"),
        (["vqa", "--arm", "clips"], "arm must be one of unified, cross_modal, gates_closed"),
    ],
)
def test_options_of_other_models_are_refused_in_a_line(base, tmp_path, capsys, arguments, said):
    assert cli.main(["train", *arguments, "--out", str(tmp_path)]) == 2
    captured = capsys.readouterr()
    assert said in captured.err and captured.err.count("\n") == 1
