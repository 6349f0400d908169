"""The comparison, a step of each training: what it writes, and that it goes on where it was."""

import json
import re

import numpy as np
import pytest

from scratch_vlm import cli, costs
from scratch_vlm.experiments import chats, compare, motion, stages, vqa
from scratch_vlm.experiments.ask import ask
from scratch_vlm.experiments.runs import load_model
from scratch_vlm.models.unified import UnifiedConfig
from scratch_vlm.tree import leaves

QUESTIONS = {"colour", "digit", "position", "relation", "relation_heldout"}


@pytest.fixture(scope="module")
def compared(tmp_path_factory):
    folder = tmp_path_factory.mktemp("compare")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(compare, "QUICK", 1e-9)  # one step of each training
        patch.setattr(compare, "COUNT", 6)
        assert cli.main(["compare", "--quick", "--seed", "4", "--out", str(folder)]) == 0
        yield folder


def read(folder):
    return json.loads((folder / "metrics.json").read_text())


def test_results_have_the_promised_names_beside_chance_and_baselines(compared):
    metrics = read(compared)
    for arm in ("unified", "cross_modal"):
        assert set(metrics["vqa"][arm]) == QUESTIONS
        for entry in metrics["vqa"][arm].values():
            assert set(entry) == {"value", "chance", "baseline", "question_only", "image_only"}
            assert all(0 <= number <= 1 for number in entry.values())
        assert set(metrics["captions"][arm]) == {"exact", "words"}
    assert set(metrics["gates"]) == {"gates_closed", "gates_closed_fast"}
    direction = metrics["video"]["direction"]
    assert set(direction) == {"clips", "one_frame", "no_time_embedding", "length_12"}
    assert {entry["chance"] for entry in direction.values()} == {0.5}
    assert metrics["video"]["which_digit"]["chance"] == 0.1
    assert set(metrics["few_shot"]["by_shots"]) == {"0", "1", "2", "4", "8"}
    assert set(metrics["text_only"]) == {"lm", "unified", "cross_modal"}
    assert metrics["seed"] == 4


def test_report_shows_everything_in_one_file(compared):
    page = (compared / "report.html").read_text()
    assert page.count("<figure") >= 12
    assert not re.search(r"(src|href)=[\"']https?:", page)
    for heading in ("Questions about images", "Captions", "Gates", "What it costs", "videos"):
        assert heading in page


def test_second_call_trains_nothing_and_finds_the_same(compared, capsys):
    curves = {path: path.read_bytes() for path in compared.rglob("metrics.csv")}
    before = read(compared)
    assert len(curves) == len(compare.NAMES)
    assert cli.main(["compare", "--quick", "--seed", "4", "--out", str(compared)]) == 0
    assert "VQA, unified: colour" in capsys.readouterr().out
    assert curves == {path: path.read_bytes() for path in compared.rglob("metrics.csv")}
    assert {**read(compared), "seconds": 0} == {**before, "seconds": 0}


def test_another_seed_is_refused_before_training(compared, capsys):
    assert cli.main(["compare", "--quick", "--seed", "5", "--out", str(compared)]) == 2
    assert f"{compared} holds a run with seed 4, not 5" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["unified", "cross_modal", "video", "shots"])
def test_models_of_a_comparison_can_be_asked(compared, tmp_path, name):
    Image = pytest.importorskip("PIL.Image")
    model = load_model(compared / name)
    pixels = np.random.default_rng(0).integers(256, size=(4, 30, 40, 3), dtype=np.uint8)
    first, *rest = map(Image.fromarray, pixels)
    path = tmp_path / ("clip.gif" if name == "video" else "board.png")
    first.save(path, **({"save_all": True, "append_images": rest} if name == "video" else {}))
    said = ask(model, path, model.about["questions"][0])
    assert isinstance(said.text, str) and said.logprob < 0


def test_both_fusions_start_from_the_same_parts_and_see_the_same_batches(compared):
    losses = {
        arm: (compared / arm / "metrics.csv").read_text().splitlines()[1].split(",")[1]
        for arm in compare.FUSIONS
    }
    assert abs(float(losses["unified"]) - float(losses["cross_modal"])) < 0.5
    clip, lm = (load_model(compared / part).p for part in ("clip", "lm"))
    for arm in compare.FUSIONS:
        p = dict(leaves(load_model(compared / arm).p))
        start = {f"lm/{name}": x for name, x in leaves(lm)}
        start |= {f"sight/tower/{name}": x for name, x in leaves(clip["image"])}
        shared = start.keys() & p.keys()
        assert len(shared) > 40
        for name in shared:  # one step away
            assert np.abs(p[name] - start[name]).max() < 0.02


def test_what_a_prompt_costs_grows_with_images_as_the_fusion_says():
    for arm in compare.FUSIONS:
        config = vqa.model_of(arm)
        every = [compare.prompt_costs(config, images) for images in range(4)]
        steps = np.diff([cost["sequence_length"] for cost in every])
        assert set(steps) == {9 if isinstance(config, UnifiedConfig) else 1}
        cached = np.diff([cost["kv_cache_bytes"] for cost in every])
        each = 4 * costs.kv_cache_numbers(config.lm)
        if arm == "unified":
            assert set(cached) == {9 * each}
        else:
            assert set(cached) == {each + 9 * 4 * costs.seen_cache_numbers(config)}
        assert len({cost["parameters"] for cost in every}) == 1


def test_stages_start_from_what_was_trained_before(tmp_path, monkeypatch):
    seen = {}

    def train(folder, *, seed, steps, xp, progress, **given):
        seen[folder.name] = given
        return folder.name

    for stage in stages.STAGES.values():
        monkeypatch.setattr(stage.module, "train_model", train)
    names = ("clip", "lm", "unified", "gates_closed", "video_one_frame")
    trained = stages.train_stages(tmp_path, names, places={"clip": "first"}, progress=False)
    assert trained == {name: "first" if name == "clip" else name for name in names}
    parts = {"clip": "first", "lm": "lm"}
    assert seen == {
        "first": {},
        "lm": {},
        "unified": {**parts, "arm": "unified"},
        "gates_closed": {**parts, "arm": "gates_closed"},
        "video_one_frame": {"vlm": "unified", "arm": "one_frame"},
    }


def test_loss_of_text_is_near_that_of_guessing_after_one_step(compared):
    loss = read(compared)["text_only"]["lm"]
    assert abs(loss - np.log(len(chats.tokenizer()))) < 0.5


def test_video_arms_are_shown_what_they_are_named_after():
    clip = np.random.default_rng(0).random((2, 5, 24, 24, 3), dtype="float32")
    assert motion.shown(clip, "clips").shape == motion.shown(clip, "no_time_embedding").shape
    assert np.array_equal(motion.shown(clip, "one_frame"), motion.shown(clip, "clips")[:, 2:3])
    frames = {arm: motion.model_of(arm).sight.connector.resampler.frames for arm in motion.ARMS}
    assert frames["clips"] > 0 == frames["one_frame"] == frames["no_time_embedding"]
