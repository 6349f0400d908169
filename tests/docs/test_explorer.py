"""The page that shows who reads whom: its data, their export, and the page in a browser."""

import json
import re
import shutil
import subprocess
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from scratch_vlm.experiments import explorer, scenes, vqa
from scratch_vlm.models.clip import clip_init
from scratch_vlm.models.cross_modal import cross_modal_init
from scratch_vlm.models.unified import unified_init

FOLDER = Path(__file__).parents[2] / "docs" / "explorer"
BROWSER = next(filter(None, map(shutil.which, ("chromium", "google-chrome", "chrome"))), None)


def committed():
    text = (FOLDER / "attention.js").read_text(encoding="utf-8")
    return json.loads(re.fullmatch(r"const ATTENTION = (.*);\n", text).group(1))


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """The export of models that have learned nothing."""
    rng = np.random.default_rng(0)
    made = {
        "clip": lambda: clip_init(rng, scenes.MODEL),
        "unified": lambda: unified_init(rng, vqa.model_of("unified")),
        "cross_modal": lambda: cross_modal_init(rng, vqa.model_of("cross_modal")),
    }
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(explorer, "load_model", lambda run: SimpleNamespace(p=made[run.name]()))
        return explorer.export("run", tmp_path_factory.mktemp("explorer") / "attention.js")


@pytest.mark.parametrize("source", ["committed", "exported"])
def test_every_row_of_weights_is_a_share(source, request):
    data = committed() if source == "committed" else request.getfixturevalue("exported")
    assert len(data["models"]) == 3
    for model in data["models"]:
        assert len(model["samples"]) == explorer.SHOWN
        for sample in model["samples"]:
            for layer in sample["layers"]:
                heads = np.array(layer["heads"])  # (A, T, S)
                assert heads.shape[1:] == (len(layer["asks"]), len(layer["answers"]))
                assert max(layer["asks"] + layer["answers"]) < len(sample["tokens"])
                sums = heads.sum(-1)
                rounded = abs(sums - 1000) <= heads.shape[2]
                assert (rounded | (sums == 0)).all()  # 0 for words before the image


def test_committed_data_are_of_the_models_of_today(exported):
    for old, new in zip(committed()["models"], exported["models"], strict=True):
        for was, now in zip(old["samples"], new["samples"], strict=True):
            assert was["title"] == now["title"] and was["tokens"] == now["tokens"]
            assert was["pixels"] == now["pixels"]
            assert [layer["name"] for layer in was["layers"]] == [
                layer["name"] for layer in now["layers"]
            ]


def page(address, folder):
    """Open the page in a browser without a window; return its elements after its script ran."""
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--dump-dom"]
    flags += ["--disable-background-networking", "--disable-component-update", "--disable-sync"]
    url = f"{(FOLDER / 'explorer.html').as_uri()}#{address}"
    run = subprocess.run(
        [BROWSER, *flags, f"--user-data-dir={folder}", url],
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    return run.stdout


@pytest.mark.skipif(BROWSER is None, reason="needs Chromium or Chrome")
def test_page_shows_what_the_data_say(tmp_path):
    sample = committed()["models"][2]["samples"][1]
    words = [i for i, token in enumerate(sample["tokens"]) if token["of"] == "text"]
    layer = next(i for i, one in enumerate(sample["layers"]) if "look" in one["name"])
    shown = page(f"2/1/{layer}/1/{words[-1]}/reads", tmp_path)
    row = sample["layers"][layer]["heads"][0][words[-1]]
    assert f'"{sample["tokens"][words[-1]]["text"]}" reads most of all: patch' in shown
    assert f"patch {np.argmax(row) + 1} ({max(row) / 10:.0f}%)" in shown
    assert len(re.findall(r'<button data-token="\d+"', shown)) == len(sample["tokens"])
    assert shown.count('aria-pressed="true"') == 1


@pytest.mark.skipif(BROWSER is None, reason="needs Chromium or Chrome")
def test_a_patch_that_is_only_read_is_shown_the_other_way(tmp_path):
    sample = committed()["models"][2]["samples"][0]
    patch = len(sample["tokens"]) - 1
    shown = page(f"2/0/0/0/{patch}/reads", tmp_path)
    assert '"patch 9" is read most of all by: ' in shown


@pytest.mark.skipif(BROWSER is None, reason="needs Chromium or Chrome")
def test_an_address_that_is_out_of_range_opens_what_there_is(tmp_path):
    assert '"patch 9" takes no part in this layer' in page("7/9/9/9/99/sideways", tmp_path)
