import json
import os
import pickle
import shutil

import numpy as np
import pytest
from safetensors.numpy import load_file

from scratch_vlm.training import checkpoint
from scratch_vlm.training.checkpoint import (
    CheckpointError,
    has_checkpoint,
    load_checkpoint,
    load_parameters,
    save_checkpoint,
)
from scratch_vlm.tree import leaves, tree_map

P = {
    "vit": {"blocks": {"0": {"w": np.arange(6, dtype="float32").reshape(2, 3)}}},
    "b": np.arange(4.0).reshape(2, 2).T,  # a transposed view
    "log_scale": np.array(2.5, "float32"),
}
MOMENTS = {"m": {"b": np.ones(3)}, "step": np.array(7)}


def save(folder, scale=1):
    save_checkpoint(folder, tree_map(lambda x: scale * x, P), MOMENTS, {"step": scale})


def same(a, b):
    a, b = dict(leaves(a)), dict(leaves(b))
    return a.keys() == b.keys() and all(
        a[n].dtype == b[n].dtype and np.array_equal(a[n], b[n]) for n in a
    )


def test_what_was_saved_comes_back(tmp_path):
    save(tmp_path / "c")
    p, moments, state = load_checkpoint(tmp_path / "c")
    assert same(p, P) and same(moments, MOMENTS) and state == {"step": 1}
    p["b"] += 1  # not a read-only view of the file


def test_order_of_the_leaves_is_that_of_the_model(tmp_path):
    save(tmp_path / "c")
    p = load_parameters(tmp_path / "c", P)
    assert [name for name, _ in leaves(p)] == [name for name, _ in leaves(P)]
    assert same(p, P)


def test_files_are_plain_safetensors_keyed_by_name(tmp_path):
    save(tmp_path / "c")
    assert sorted(load_file(tmp_path / "c" / "parameters.safetensors")) == sorted(
        ["vit/blocks/0/w", "b", "log_scale"]
    )


def test_new_checkpoint_replaces_the_old_and_leaves_nothing_beside(tmp_path):
    for scale in (1, 2, 3):
        save(tmp_path / "c", scale)
    assert os.listdir(tmp_path) == ["c"]
    assert load_checkpoint(tmp_path / "c")[2] == {"step": 3}


class Killed(BaseException):
    """Passes through every handler, as a killed process does."""


def kill_at(monkeypatch, moment):
    """Die just before the given call, counted from 0, among those that touch the disk."""
    calls = []
    for module, name in (
        (checkpoint, "save_file"),
        (checkpoint, "sync"),
        (os, "rename"),
        (shutil, "rmtree"),
    ):
        original = getattr(module, name)

        def counted(*args, original=original, **options):
            if len(calls) == moment:
                raise Killed
            calls.append(original)
            return original(*args, **options)

        monkeypatch.setattr(module, name, counted)


def test_killed_at_any_moment_the_old_or_the_new_one_is_readable(tmp_path, monkeypatch):
    seen, moment, finished = [], 0, False
    while not finished:
        folder = tmp_path / str(moment) / "c"
        save(folder, 1)
        with monkeypatch.context() as patch:
            kill_at(patch, moment)
            try:
                save(folder, 2)
                finished = True
            except Killed:
                pass
        assert has_checkpoint(folder)
        p, _, state = load_checkpoint(folder)
        assert same(p, tree_map(lambda x, scale=state["step"]: scale * x, P))
        seen.append(state["step"])
        save(folder, 3)
        assert load_checkpoint(folder)[2] == {"step": 3}
        assert os.listdir(folder.parent) == ["c"]
        moment += 1
    assert len(seen) > 10 and seen == sorted(seen) and set(seen) == {1, 2}


def test_full_disk_keeps_the_previous_one(tmp_path, monkeypatch):
    save(tmp_path / "c")

    def full(path):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "sync", full)
        with pytest.raises(CheckpointError, match=r"No space left.*previous one is intact"):
            save(tmp_path / "c", 2)
        with pytest.raises(CheckpointError, match="there is none yet"):
            save(tmp_path / "d", 2)
    assert load_checkpoint(tmp_path / "c")[2] == {"step": 1}
    assert os.listdir(tmp_path) == ["c"]


def test_folder_with_other_files_is_not_replaced(tmp_path):
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(CheckpointError, match=r"thesis\.txt"):
        save(tmp_path)
    assert (tmp_path / "thesis.txt").exists()


def test_hidden_file_of_the_system_does_not_stop_a_long_training(tmp_path):
    save(tmp_path / "c")
    (tmp_path / "c" / ".DS_Store").write_text("")
    save(tmp_path / "c", 2)
    assert load_checkpoint(tmp_path / "c")[2] == {"step": 2}


def test_file_in_place_of_the_folder_is_said(tmp_path):
    (tmp_path / "c").write_text("")
    with pytest.raises(CheckpointError, match="is a file"):
        save(tmp_path / "c")


def test_state_that_json_cannot_hold_is_refused_before_anything_is_written(tmp_path):
    with pytest.raises(ValueError, match="JSON"):
        save_checkpoint(tmp_path / "c", P, MOMENTS, {"loss": float("nan")})
    assert not os.listdir(tmp_path)


@pytest.mark.parametrize("file", ["parameters.safetensors", "optimizer.safetensors", "state.json"])
@pytest.mark.parametrize("share", [0.0, 0.01, 0.05, 0.3, 0.6, 0.99])
def test_truncated_file_is_named(tmp_path, file, share):
    save(tmp_path / "c")
    path = tmp_path / "c" / file
    os.truncate(path, int(share * path.stat().st_size))
    with pytest.raises(CheckpointError, match=f"{file} is (truncated or )?damaged"):
        load_checkpoint(tmp_path / "c")


@pytest.mark.parametrize("file", ["parameters.safetensors", "optimizer.safetensors", "state.json"])
def test_missing_file_is_named(tmp_path, file):
    save(tmp_path / "c")
    (tmp_path / "c" / file).unlink()
    with pytest.raises(CheckpointError, match=file):
        load_checkpoint(tmp_path / "c")


def test_missing_folder_is_said(tmp_path):
    assert not has_checkpoint(tmp_path / "c")
    with pytest.raises(CheckpointError, match="no checkpoint folder"):
        load_checkpoint(tmp_path / "c")
    with pytest.raises(CheckpointError, match="no file"):
        load_parameters(tmp_path / "c", P)


class Trap:
    """Unpickling it makes a folder."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("protocol", range(6))
def test_pickle_is_refused_and_never_opened(tmp_path, protocol):
    path, trap = tmp_path / "model.pt", tmp_path / "sprung"
    path.write_bytes(pickle.dumps(Trap(trap), protocol))
    with pytest.raises(CheckpointError, match=r"model\.pt is not a safetensors file"):
        load_parameters(path, P)
    assert not trap.exists()


def test_zip_archive_as_pytorch_writes_it_is_refused(tmp_path):
    np.savez(tmp_path / "model.npz", w=np.ones(3))
    with pytest.raises(CheckpointError, match="looks like a pickle or a PyTorch file"):
        load_parameters(tmp_path / "model.npz", P)


def test_number_format_that_numpy_lacks_is_said(tmp_path):
    header = json.dumps({"w": {"dtype": "BF16", "shape": [1], "data_offsets": [0, 2]}}).encode()
    path = tmp_path / "bf16.safetensors"
    path.write_bytes(len(header).to_bytes(8, "little") + header + b"\0\0")
    with pytest.raises(CheckpointError, match="holds bfloat16, which NumPy lacks; convert it"):
        load_parameters(path, {"w": np.ones(1, "float32")})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "is damaged"),
        ("[1, 2]", "no version"),
        ('{"state": {}}', "no version"),
        ('{"version": 99, "state": {}}', "version 99; this scratch_vlm reads version 1"),
    ],
)
def test_broken_or_unknown_state_is_said(tmp_path, text, message):
    save(tmp_path / "c")
    (tmp_path / "c" / "state.json").write_text(text)
    with pytest.raises(CheckpointError, match=message):
        load_checkpoint(tmp_path / "c")


def test_every_difference_to_the_model_is_listed(tmp_path):
    save(tmp_path / "c")
    like = {
        "vit": {"blocks": {"0": {"w": np.ones((3, 2), "float32")}}},
        "b": np.ones((2, 2), "float32"),
        "gamma": np.ones(5),
    }
    with pytest.raises(CheckpointError) as error:
        load_parameters(tmp_path / "c", like)
    for part in (
        "missing: gamma (5,) float64",
        "unexpected: log_scale () float32",
        "differs: vit/blocks/0/w is (2, 3) float32, the model has (3, 2) float32",
        "differs: b is (2, 2) float64, the model has (2, 2) float32",
    ):
        assert part in str(error.value)


def test_parameters_are_read_from_a_folder_or_a_file(tmp_path):
    save(tmp_path / "c")
    assert same(load_parameters(tmp_path / "c", P), P)
    assert same(load_parameters(tmp_path / "c" / "parameters.safetensors", P), P)
