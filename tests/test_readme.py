"""The README says what the committed results files say, and its example runs."""

import json
import re
from pathlib import Path

import numpy as np
import pytest

from scratch_vlm.bench.clock import ratio
from scratch_vlm.bench.judge import by_size, targets
from scratch_vlm.bench.subjects import FUSIONS
from scratch_vlm.experiments.lessons import find_lessons
from scratch_vlm.layers.block import BlockConfig
from scratch_vlm.models.vit import ViTConfig, vit_forward, vit_init
from scratch_vlm.ops.attend import attention_weights

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
RESULTS = ROOT / "benchmarks" / "results"


def read(name):
    return json.loads((RESULTS / name).read_text(encoding="utf-8"))


def row(start):
    """Return the numbers of the table row that starts with a text."""
    (line,) = [line for line in README.splitlines() if line.startswith(f"| {start}")]
    return [cell.strip() for cell in line.strip("|").split("|")][1:]


@pytest.mark.parametrize(
    ("start", "name"),
    [
        ("Naming single digits", "vit.test_accuracy"),
        ("Eight-way, new handwriting", "clip.zero_shot_8way.test"),
        ("Eight-way, unseen combinations", "clip.zero_shot_8way.heldout_combinations"),
        ("Finding one of 128 captions", "clip.retrieval_r_at_1_of_128.test"),
        ("Single digits named by words", "clip.zero_shot_digit.test"),
        ("Single digits by a linear probe", "clip.linear_probe_digit.test"),
    ],
)
def test_results_table_is_the_committed_mean_of_three_seeds(start, name):
    result = read("demo.json")["results"][name]
    assert len(result["values"]) == 3
    numbers = [result["mean"], result["chance"], result["baseline"]]
    assert row(start) == [f"{number:.3f}" for number in numbers]


def mean(name):
    result = read("compare.json")["results"][name]
    assert len(result["values"]) == 3
    return f"{result['mean']:.3f}"


@pytest.mark.parametrize(
    ("start", "kind"),
    [
        ("What colour is seven?", "colour"),
        ("What digit is red?", "digit"),
        ("What digit is top-left?", "position"),
        ("What digit is left of seven?", "relation"),
        ("The same, of a digit never asked so", "relation_heldout"),
    ],
)
def test_answers_about_images_are_the_committed_ones(start, kind):
    beside = read("compare.json")["results"][f"vqa.unified.{kind}"]
    names = ("chance", "question_only", "image_only", "baseline")
    assert row(start) == [
        mean(f"vqa.unified.{kind}"),
        mean(f"vqa.cross_modal.{kind}"),
        *(f"{beside[name]:.3f}" for name in names),
    ]


def test_seconds_of_both_trainings_are_the_committed_ones():
    seconds = read("compare.json")["seconds"]
    both = seconds["training.unified"] + seconds["training.cross_modal"]
    said = re.search(r"trained for (\d+) to (\d+) seconds", README)
    assert [int(n) for n in said.groups()] == [round(min(both)), round(max(both))]


def test_answers_about_videos_are_the_committed_ones():
    names = ("clips", "length_12", "one_frame", "no_time_embedding")
    values = [mean(f"video.direction.{name}") for name in names]
    assert row("Which way does the red one move?") == [*values, "0.500"]


@pytest.mark.parametrize(
    ("said", "names"),
    [
        (
            r"words, (\S+) \(unified\) and (\S+) \(cross-modal\)",
            ["captions.unified.exact", "captions.cross_modal.exact"],
        ),
        (
            r"they reach (\S+) on relations .* and (\S+) if the gates",
            ["gates.gates_closed.relation", "gates.gates_closed_fast.relation"],
        ),
        (r"answered rightly (\S+) of the time", ["video.which_digit"]),
        (
            r"right (\S+) of the time without .* (\S+) with one and (\S+) with",
            [f"few_shot.by_shots.{shots}" for shots in (0, 1, 8)],
        ),
    ],
)
def test_sentences_about_results_are_the_committed_ones(said, names):
    found = re.search(said, " ".join(README.split()))
    assert list(found.groups()) == [mean(name) for name in names]


def test_accuracy_on_permuted_pixels_is_the_committed_one():
    results = read("permuted_pixels.json")["results"]
    said = re.search(
        r"(\S+) of the digits are named rightly in order and (\S+) out of order, .* new places, "
        r"(\S+)\. A ViT, .* from (\S+) to (\S+): digits",
        " ".join(README.split()),
    )
    names = ["perceiver.ordered", "perceiver.permuted", "perceiver.permuted_blind"]
    names += ["vit.ordered", "vit.permuted"]
    assert list(said.groups()) == [f"{results[name]['mean']:.3f}" for name in names]


def test_speed_table_is_the_committed_one():
    models = read("train_step.json")["models"]
    for start, name in (("ViT,", "vit"), ("CLIP", "clip")):
        ours, torch = models[name]["median_ms"].values()
        ratio, floor = models[name]["ratio_to_torch"], models[name]["share_of_floor"]
        assert row(start) == [f"{ours:.0f} ms", f"{torch:.0f} ms", f"{ratio:.2f}", f"{floor:.2f}"]


@pytest.mark.parametrize(
    ("start", "family", "size"),
    [
        ("Attention,", "attention", 1024),
        ("Layer norm,", "layer norm", 1024),
        ("GELU,", "GELU", 1024),
        ("Cross-entropy,", "cross-entropy", 1024),
        ("Transformer block,", "block", 1024),
        ("Resampler,", "Resampler", 1024),
        ("Step of a small unified", "lesson VLM, unified", 32),
        ("Step of a small cross-modal", "lesson VLM, cross-modal", 32),
        ("Step of ViT-B/16", "ViT-B/16", 2),
        ("GPT-2 small writes", "GPT-2 small, 64 new tokens", 1),
    ],
)
def test_benchmark_table_is_the_committed_one(start, family, size):
    results = by_size(read("cpu/bench.json")["results"])
    (times,) = [e["times"] for e in results if (e["family"], e["size"]) == (family, size)]
    ours, torch = times["numpy"], times["torch"]
    assert {ours["place"], torch["place"]} == {"1 core"}
    milliseconds = [1e3 * taken["seconds"] for taken in (ours, torch)]
    assert row(start) == [
        *(f"{float(f'{ms:.3g}'):,.10g} ms" for ms in milliseconds),
        f"{ratio(ours['samples'], torch['samples']):.2f}",
        f"{ours['share_of_floor']:.2f}",
    ]


def test_what_a_gpu_is_held_against_is_said_and_what_was_measured():
    report = read(f"{sorted(RESULTS.glob('gpu-*'))[-1].name}/bench.json")
    times = {
        entry["family"]: entry["times"]  # of the largest
        for entry in by_size(report["results"])
    }
    rows = {"lesson ViT": "Lesson ViT", "ViT-B/16": "ViT-B/16, 128 images"}
    rows |= {f"GPT-2 small VLM, {kind}": "VLM of GPT-2" for kind in FUSIONS}
    said = {family: ["not yet", "–", "–", "–"] for family in rows}
    for one in targets(report["results"]):
        family = one["what"]
        cells = said[family]
        column = {"numpy": 1}.get(one["beside"], 3 if "compiled" in one["beside"] else 2)
        cells[column] = f"aim {round(one['at_most'], 2):g}"
        if one["ratio"] is not None:
            cells[0] = f"{1e3 * times[family][one['who']]['seconds']:.3g} ms"
            digits = 4 if one["ratio"] < 0.1 else 2
            cells[column] = f"{one['ratio']:.{digits}f}, {cells[column]}"
    assert said == {family: row(start) for family, start in rows.items()}
    without = times["lesson ViT"]
    for name in ("cupy tf32", "torch tf32"):
        assert f" {1e3 * without[name]['seconds']:.3g}" in README
    assert report["date"] in README and report["machine"]["device"]["name"] == "NVIDIA H200"


def test_planted_errors_are_counted_as_committed():
    total = read("planted_errors.json")["total"]
    said = re.search(
        r"(\d+) planted: (\d+) give a wrong number and (\d+) break another promise, all noticed; "
        r"(\d+) raise by themselves, (\d+) compute the same numbers, and (\d+) were missed",
        " ".join(README.split()),
    )
    kinds = ("planted", "numbers", "contract", "exception", "equivalent", "survived")
    assert [int(n) for n in said.groups()] == [total[kind] for kind in kinds]


def test_attention_map_is_where_it_says():
    config = ViTConfig((4, 6, 1), (2, 2), 0, BlockConfig(4, 2, 4), depth=2)
    p = vit_init(np.random.default_rng(0), config)
    _, saved = vit_forward(np.ones((3, 4, 6, 1), "float32"), p, config=config)
    (expression,) = re.findall(r"`(attention_weights\(saved.*?\))`", README)
    weights = eval(expression, {"attention_weights": attention_weights, "saved": saved})
    assert weights.shape == (3, 2, 7, 7)


def test_example_runs(capsys):
    blocks = re.findall(r"```python\n(.*?)```", README, re.S)
    (example,) = [block for block in blocks if "check(" in block]
    exec(compile(example, "README.md", "exec"), {})
    assert "gamma" in capsys.readouterr().out


def test_published_example_runs(tmp_path, monkeypatch):
    blocks = re.findall(r"```python\n(.*?)```", README, re.S)
    (example,) = [block for block in blocks if "load_pretrained(" in block]
    (case,) = re.findall(r'load_pretrained\("(.*?)"\)', example)
    (tmp_path / case).parent.mkdir(parents=True)
    (tmp_path / case).symlink_to(ROOT / case)
    monkeypatch.chdir(tmp_path)
    exec(compile(example, "README.md", "exec"), {})
    assert {path.name for path in (tmp_path / "trained").iterdir()} == {
        "config.json",
        "model.safetensors",
    }


def test_lessons_are_listed_with_their_questions():
    listed = re.findall(r"^\| (\d\d) \| (.+?) \|$", README, re.M)
    assert listed == [(lesson.number, lesson.question) for lesson in find_lessons(ROOT)]


def test_files_it_names_exist():
    named = re.findall(r"`((?:scratch_vlm|benchmarks)/[\w./-]+)`", README)
    assert named
    for path in named:
        assert (ROOT / path).exists(), path
