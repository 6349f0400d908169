"""The README says what the committed results files say, and its example runs."""

import json
import re
from pathlib import Path

import pytest

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
    ],
)
def test_results_table_is_the_committed_mean_of_three_seeds(start, name):
    result = read("demo.json")["results"][name]
    assert len(result["values"]) == 3
    numbers = [result["mean"], result["chance"], result["baseline"]]
    assert row(start) == [f"{number:.3f}" for number in numbers]


def test_seconds_of_the_demo_are_the_committed_ones():
    seconds = read("demo.json")["seconds"]
    said = re.search(r"took (\d+) to (\d+) seconds", README)
    assert [int(n) for n in said.groups()] == [round(min(seconds)), round(max(seconds))]


def test_speed_table_is_the_committed_one():
    models = read("train_step.json")["models"]
    for start, name in (("ViT,", "vit"), ("CLIP", "clip")):
        ours, torch = models[name]["median_ms"].values()
        ratio, floor = models[name]["ratio_to_torch"], models[name]["share_of_floor"]
        assert row(start) == [f"{ours:.0f} ms", f"{torch:.0f} ms", f"{ratio:.2f}", f"{floor:.2f}"]


def test_planted_errors_are_counted_as_committed():
    total = read("planted_errors.json")["total"]
    said = re.search(r"(\d+) planted, (\d+) caught, (\d+) listed .* and\s(\d+) missed", README)
    caught = total["numbers"] + total["contract"] + total["exception"]
    assert [int(n) for n in said.groups()] == [
        total["planted"],
        caught,
        total["equivalent"],
        total["survived"],
    ]


def test_example_runs(capsys):
    blocks = re.findall(r"```python\n(.*?)```", README, re.S)
    (example,) = [block for block in blocks if "check(" in block]
    exec(compile(example, "README.md", "exec"), {})
    assert "gamma" in capsys.readouterr().out


def test_files_it_names_exist():
    named = re.findall(r"`((?:scratch_vlm|benchmarks)/[\w./-]+)`", README)
    assert named
    for path in named:
        assert (ROOT / path).exists(), path
