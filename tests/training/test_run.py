import json
import os
import shutil
import subprocess
import sys
import tempfile
from types import SimpleNamespace

import numpy as np
import pytest

from scratch_vlm.training.run import (
    RunFolder,
    RunFolderError,
    prepare_file,
    write_json,
    write_metrics,
)


def test_preparing_makes_the_folder_and_leaves_it_empty(tmp_path):
    RunFolder(tmp_path / "runs" / "clip").prepare()
    assert os.listdir(tmp_path / "runs" / "clip") == []


@pytest.mark.parametrize("inside", ["", "clip", "clip/seed0"])
def test_file_in_place_of_a_folder_is_named(tmp_path, inside):
    (tmp_path / "taken").write_text("")
    with pytest.raises(RunFolderError, match="taken is a file"):
        RunFolder(tmp_path / "taken" / inside).prepare()


@pytest.mark.skipif(os.name == "nt", reason="folders have no such permission there")
def test_read_only_folder_is_said(tmp_path, monkeypatch):
    tmp_path.chmod(0o555)
    if os.access(tmp_path, os.W_OK):  # the administrator may write anywhere

        def refuse(**options):
            raise PermissionError(13, "Permission denied")

        monkeypatch.setattr(tempfile, "TemporaryFile", refuse)
    with pytest.raises(RunFolderError, match=r"Permission denied.*another folder"):
        RunFolder(tmp_path).prepare()


def test_full_disk_is_said_with_numbers(tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=100_000_000))
    RunFolder(tmp_path).prepare(10_000_000)
    with pytest.raises(RunFolderError, match=r"needs 1052 MB and its disk has 100 MB"):
        RunFolder(tmp_path).prepare(1_000_000_000)


def test_small_file_needs_little_room(tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=2_000_000))
    prepare_file(tmp_path / "new" / "a.json")
    assert os.listdir(tmp_path / "new") == []
    with pytest.raises(RunFolderError, match="needs 52 MB"):
        RunFolder(tmp_path).prepare()


def test_folder_in_place_of_a_file_is_said(tmp_path):
    with pytest.raises(RunFolderError, match="it is a folder; give the name of a file"):
        prepare_file(tmp_path)


def test_json_is_replaced_as_a_whole(tmp_path):
    path = tmp_path / "a.json"
    write_json(path, {"x": np.float32(0.5), "n": np.int64(3)})
    assert json.loads(path.read_text()) == {"x": 0.5, "n": 3}
    with pytest.raises(ValueError, match="JSON"):
        write_json(path, {"x": float("inf")})
    assert json.loads(path.read_text())["x"] == 0.5
    assert os.listdir(tmp_path) == ["a.json"]


def test_json_that_is_cut_off_leaves_the_old_one(tmp_path, monkeypatch):
    path = tmp_path / "a.json"
    write_json(path, {"x": 1})

    def killed(old, new):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", killed)
    with pytest.raises(KeyboardInterrupt):
        write_json(path, {"x": 2})
    assert json.loads(path.read_text()) == {"x": 1}


def test_metrics_are_numbers_or_values_with_their_chance_and_baseline(tmp_path):
    metrics = {
        "vit": {"test_accuracy": {"value": np.float32(0.5), "chance": 0.1, "baseline": 0.25}},
        "vqa": {"colour": {"value": 0.9, "question_only": 0.25, "image_only": 0.125}},
        "seconds": 3,
    }
    write_metrics(tmp_path / "metrics.json", metrics)
    assert json.loads((tmp_path / "metrics.json").read_text()) == metrics


@pytest.mark.parametrize(
    ("metrics", "message"),
    [
        ({"vit": {"test": float("nan")}}, "metrics.vit.test must be a finite number, got nan"),
        ({"vit": "good"}, "metrics.vit must be a finite number, got 'good'"),
        ({"vit": {"value": 1, "chanse": 0}}, "has a value and 'chanse'; chance, baseline, "),
    ],
)
def test_other_metrics_are_refused_by_name(tmp_path, metrics, message):
    with pytest.raises(ValueError, match=message):
        write_metrics(tmp_path / "metrics.json", metrics)
    assert not os.listdir(tmp_path)


def test_a_folder_is_for_one_training_at_a_time(tmp_path):
    pytest.importorskip("fcntl", reason="there are no such locks here")
    run = RunFolder(tmp_path)
    refused = pytest.raises(RunFolderError, match="another process is at work in")
    with run.alone(), refused, run.alone():
        pass
    held = (
        "import sys; from scratch_vlm.training.run import RunFolder\n"
        "with RunFolder(sys.argv[1]).alone(): print('in', flush=True); input()"
    )
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen([sys.executable, "-c", held, tmp_path], **pipes) as other:
        assert other.stdout.readline() == b"in\n"
        with pytest.raises(RunFolderError, match="another process"), run.alone():
            pass
        other.kill()
    with run.alone():
        assert not list(tmp_path.iterdir()), "a lock leaves nothing behind, however it ends"
