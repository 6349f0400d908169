"""The page about kernels, and the first lines of their files, say what was counted."""

import json
import re
import sys
from pathlib import Path

import pytest

from scratch_vlm.backend.launch import FOLDER

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "kernels.md").read_text(encoding="utf-8")
RESULT = json.loads((ROOT / "benchmarks/results/roofline.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def roofline():
    sys.path.insert(0, str(ROOT / "benchmarks"))
    try:
        import roofline
    finally:
        sys.path.pop(0)
    return roofline


def test_the_committed_bytes_are_those_that_are_counted(roofline):
    rows = roofline.count()
    assert list(rows) == list(RESULT["ops"])
    for name, row in rows.items():
        assert row == pytest.approx(RESULT["ops"][name], rel=1e-3), name


def test_the_table_is_the_committed_one():
    for name, row in RESULT["ops"].items():
        without, kernel = row["without"], row["with"]
        floor = 1e3 * kernel / RESULT["memory"]["H200"]
        line = f"| {without / 1e9:.2f} GB | {kernel / 1e9:.2f} GB | {without / kernel:.1f} "
        assert f"| {name} {line}| {floor:.2f} ms |" in PAGE
    ops = RESULT["ops"]
    assert f"{1e3 * ops['attention forward']['flops'] / RESULT['tensor']:.2f} ms forward" in PAGE
    # four products for the scores and two for the gradients, where the mathematics has three
    contrastive = 2 * ops["contrastive loss, both ways"]["flops"] / RESULT["vector"]
    assert f"at least {1e3 * contrastive:.0f} ms" in PAGE


def test_files_begin_with_the_passes_that_were_counted(roofline):
    passes = {
        "norm.cu": (
            ("layer norm forward", 2 * roofline.TEXTS * roofline.TOKENS * roofline.CHANNELS),
            ("layer norm backward", 2 * roofline.TEXTS * roofline.TOKENS * roofline.CHANNELS),
        ),
        "activation.cu": (
            ("GELU forward", 2 * roofline.TEXTS * roofline.TOKENS * roofline.HIDDEN),
        ),
        "cross_entropy.cu": (
            ("cross-entropy, both ways", 2 * roofline.TEXTS * roofline.TOKENS * roofline.WORDS),
        ),
        "attention_forward.cu": (
            (
                "attention forward",
                2 * roofline.TEXTS * roofline.HEADS * roofline.TOKENS**2,
            ),
        ),
        "attention_backward.cu": (
            (
                "attention backward",
                2 * roofline.TEXTS * roofline.HEADS * roofline.TOKENS**2,
            ),
        ),
        "adamw.cu": (("AdamW", 4 * roofline.PARAMETERS),),
    }
    for file, counted in passes.items():
        head = " ".join((FOLDER / file).read_text(encoding="utf-8").split("#include")[0].split())
        said = [int(n) for n in re.findall(r"\b(\d+)(?: more)?(?: //)? (?:times|passes)", head)]
        for name, one in counted:
            assert round(RESULT["ops"][name]["without"] / one) in said, (file, name, said)


def test_what_16_bits_between_products_save_follows_from_sizes_and_a_measured_speed():
    # bytes of a channel: to write and read float32, and to round it, less 16 bits written
    rounded_after = (4 + 4 + 2) - 2
    activated = 3 * (4 - 2)  # written, read, and beside it the slope written, or read
    said = {"qkv": 3 * rounded_after, "hidden": 4 * activated, "dy": rounded_after}
    total = said["qkv"] + 2 * said["hidden"] + said["dy"]
    assert (said["qkv"], said["hidden"], said["dy"], total) == (24, 24, 8, 80)
    assert "80 bytes more for each channel" in PAGE and "(24 each for" in PAGE
    assert "hidden layer, and for its gradient, 8 for the" in PAGE
    moved = total * 768 * 12 * 128 * (1 + (224 // 16) ** 2)
    bench = ROOT / "benchmarks/results/gpu-2026-11-26/bench.json"
    ceiling = json.loads(bench.read_text(encoding="utf-8"))["ceilings"]["GPU bf16"]
    fastest = max(speed for _, speed in ceiling["bytes"])
    assert (
        f"{moved / 1e9:.0f} GB, which copies on an H200 take {1e3 * moved / fastest:.1f} ms" in PAGE
    )


def test_every_file_is_on_the_page_and_names_its_twin():
    for path in FOLDER.glob("*.cu"):
        assert f"(../scratch_vlm/kernels/{path.name})" in PAGE
        head = path.read_text(encoding="utf-8").split("#include")[0]
        twins = re.search(r"// Twins?: (.*?) in\s+(?://\s+)?(scratch_vlm/[\w/]+\.py)", head, re.S)
        module = (ROOT / twins[2]).read_text(encoding="utf-8")
        for twin in re.findall(r"\w+", twins[1].replace(" and ", " ").replace("//", " ")):
            assert f"def {twin}(" in module, (path.name, twin)
        assert "What it saves." in head


def test_links_of_the_page_lead_somewhere():
    for target in re.findall(r"\]\((\.\./[^)]+)\)", PAGE):
        assert (ROOT / "docs" / target).exists(), target
