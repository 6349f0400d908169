"""The page about published models runs from top to bottom."""

import contextlib
import io
import json
import re
from pathlib import Path

import pytest

from scratch_vlm.pretrained.load import load_pretrained

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "published_models.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```python\n(.*?)```", PAGE, re.S)
MEASURED = json.loads((ROOT / "benchmarks" / "results" / "published.json").read_text())
AT_FULL_SIZE = (  # how the row begins, the model, what was measured, and the unit of the page
    ("CLIP: load, s", "clip", "load", 1),
    ("CLIP: an image, ms", "clip", "image", 1e-3),
    ("CLIP: most memory, GB", "clip", "peak bytes", 1e9),
    ("LLaVA: load, s", "llava", "load", 1),
    ("LLaVA: an image and 32 words, s", "llava", "prompt", 1),
    ("LLaVA: a new token, s", "llava", "token", 1),
    ("LLaVA: most memory, GB", "llava", "peak bytes", 1e9),
)


@pytest.fixture(scope="module")
def printed(tmp_path_factory):
    """What the page prints, in a folder of its own."""
    folder = tmp_path_factory.mktemp("page")
    (folder / "tests").symlink_to(ROOT / "tests")
    names = {}
    with contextlib.chdir(folder), contextlib.redirect_stdout(io.StringIO()) as output:
        for number, block in enumerate(BLOCKS):
            exec(compile(block, f"block {number} of the page", "exec"), names)
    return folder, output.getvalue()


def test_a_model_is_opened(printed):
    assert printed[1].startswith("LlavaForConditionalGeneration of 32736")


def test_it_learns(printed):
    before, after = map(float, re.findall(r"loss ([\d.]+)", printed[1]))
    assert after < 0.2 * before


def test_it_is_written(printed):
    folder, _ = printed
    for name in ("run/model", "lora/model", "copy"):
        assert load_pretrained(folder / name).kind == "LlavaForConditionalGeneration"
    assert load_pretrained(folder / "copy").stored == "bfloat16"


@pytest.mark.parametrize(("start", "model", "key", "unit"), AT_FULL_SIZE)
def test_full_size_is_as_it_was_measured(start, model, key, unit):
    found = MEASURED["models"][model]
    here, reference = (found["medians"][who][key] / unit for who in ("here", "reference"))
    ratio = found["here / reference"][key]
    row = f"| {start} | {here:.3g} | {reference:.3g} | {ratio:.2f} |"
    assert row in PAGE, row


def test_the_floor_is_as_it_was_measured_and_tokens_are_the_same():
    floor = MEASURED["floor of a token"]["seconds"]
    assert f"which takes {floor:.2f} s here" in PAGE
    assert all(MEASURED["models"]["llava"]["same tokens"])


def test_what_it_names_exists():
    for path in re.findall(r"`(models/\w+\.py)`", PAGE):
        text = (ROOT / "scratch_vlm" / path).read_text(encoding="utf-8")
        (row,) = [line for line in PAGE.splitlines() if f"`{path}`" in line]
        assert any(f"def {name}(" in text for name in re.findall(r"`(\w+_forward)`", row)), path
    for path in re.findall(r"`((?:tests|scratch_vlm)/[\w/]+)`", PAGE):
        assert (ROOT / path).exists(), path
