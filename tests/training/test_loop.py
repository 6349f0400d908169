import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from scratch_vlm.training import loop
from scratch_vlm.training.checkpoint import CheckpointError, load_checkpoint, save_checkpoint
from scratch_vlm.training.loop import (
    OutOfMemory,
    TrainConfig,
    TrainingDiverged,
    TrainingInterrupted,
    add_gradients,
    check_run,
    train,
)
from scratch_vlm.training.run import RunFolder, RunFolderError
from scratch_vlm.tree import leaves, zeros_like

sys.path.insert(0, str(Path(__file__).parent))
from regression import CONFIG, after_step, backward, batch, forward, init


def run(folder, config=CONFIG, **options):
    options = {"forward": forward, "backward": backward, "batch": batch} | options
    return train(
        p=init(), config=config, folder=folder, after_step=after_step, progress=False, **options
    )


def curve(folder, columns=4):
    rows = (folder / "metrics.csv").read_text().splitlines()
    return [row.split(",")[:columns] for row in rows]


def weights(folder):
    return {
        file: (folder / "checkpoint" / f"{file}.safetensors").read_bytes()
        for file in ("parameters", "optimizer")
    }


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    folder = tmp_path_factory.mktemp("uninterrupted")
    run(folder)
    return folder


def program(folder, *how_and_at):
    return subprocess.run(
        [sys.executable, Path(__file__).with_name("regression.py"), folder, *how_and_at],
        capture_output=True,
        text=True,
        timeout=120,
    )


def test_learns_and_writes_a_row_for_each_step(uninterrupted):
    header, *rows = curve(uninterrupted, columns=5)
    assert header == ["step", "loss", "gradient_norm", "learning_rate", "seconds"]
    assert [int(row[0]) for row in rows] == list(range(30))
    losses = [float(row[1]) for row in rows]
    assert np.mean(losses[-5:]) < 0.5 * np.mean(losses[:5])
    assert [float(row[3]) for row in rows] == [CONFIG.rate(step) for step in range(30)]


def test_same_run_twice_gives_the_same_bits(uninterrupted, tmp_path):
    run(tmp_path)
    assert curve(tmp_path) == curve(uninterrupted)
    assert weights(tmp_path) == weights(uninterrupted)


@pytest.mark.parametrize("at", ["3", "13", "29"])
def test_killed_run_resumes_to_the_same_bits(uninterrupted, tmp_path, at):
    assert program(tmp_path, "KILL", at).returncode == -signal.SIGKILL
    assert len(curve(tmp_path)) < 31
    assert program(tmp_path).returncode == 0
    assert curve(tmp_path) == curve(uninterrupted)
    assert weights(tmp_path) == weights(uninterrupted)


@pytest.mark.parametrize("how", ["INT", "TERM"])
def test_interrupted_run_finishes_the_step_saves_and_resumes_to_the_same_bits(
    uninterrupted, tmp_path, how
):
    ended = program(tmp_path, how, "13")
    saved = load_checkpoint(tmp_path / "checkpoint")[2]["step"]
    assert 12 <= saved <= 14  # the batch of step 13 is drawn while step 12 runs
    assert len(curve(tmp_path)) == 1 + saved
    assert f"stopped after {saved} of 30 steps" in ended.stderr
    assert "Traceback" not in ended.stderr and ended.returncode != 0
    assert program(tmp_path).returncode == 0
    assert curve(tmp_path) == curve(uninterrupted)
    assert weights(tmp_path) == weights(uninterrupted)


def test_interrupt_is_an_exception_a_program_can_catch(tmp_path):
    def interrupt(p):
        os.kill(os.getpid(), signal.SIGINT)

    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(TrainingInterrupted, match="stopped after 1 of 30 steps"):
        train(forward, backward, init(), batch, CONFIG, tmp_path, after_step=interrupt)
    assert signal.getsignal(signal.SIGINT) is before


def test_second_interrupt_stops_at_once(tmp_path):
    def interrupt_twice(p):
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        train(forward, backward, init(), batch, CONFIG, tmp_path, after_step=interrupt_twice)
    assert not (tmp_path / "checkpoint").exists()


def test_finished_run_is_returned_without_a_step(uninterrupted):
    before = curve(uninterrupted, columns=5)

    def never(*args):
        raise AssertionError("called")

    p = run(uninterrupted, forward=never, batch=never)
    assert curve(uninterrupted, columns=5) == before
    saved = load_checkpoint(uninterrupted / "checkpoint")[0]
    assert all(np.array_equal(x, dict(leaves(saved))[name]) for name, x in leaves(p))


def test_leftovers_of_a_killed_run_are_removed(tmp_path):
    run(tmp_path, replace(CONFIG, steps=6))
    (tmp_path / ".checkpoint.new").mkdir()
    os.rename(tmp_path / "checkpoint", tmp_path / ".checkpoint.old")
    run(tmp_path, replace(CONFIG, steps=6), batch=stop_at(0))  # finished: draws nothing
    assert sorted(os.listdir(tmp_path)) == ["checkpoint", "metrics.csv"]


def test_initial_parameters_are_not_changed(tmp_path):
    p = init()
    trained = train(forward, backward, p, batch, replace(CONFIG, steps=6), tmp_path)
    assert all(np.array_equal(x, dict(leaves(init()))[name]) for name, x in leaves(p))
    assert not np.array_equal(trained["fc"]["w"], p["fc"]["w"])


def test_frozen_parameters_keep_every_bit(tmp_path):
    config = replace(CONFIG, trained=(("fc/.*", False), (".*", True)))
    p = run(tmp_path, config)
    assert p["fc"]["w"].tobytes() == init()["fc"]["w"].tobytes()
    assert not np.array_equal(p["proj"]["w"], init()["proj"]["w"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"peak_rate": 0.1}, "holds a run with peak_rate 0.05, not 0.1"),
        ({"steps": 40}, "steps 30, not 40"),
        ({"clip": None}, "clip 0.5, not None"),
        ({"betas": (0.9, 0.98)}, "betas/1 0.999, not 0.98"),
    ],
)
def test_another_configuration_is_refused_by_field(uninterrupted, change, message):
    with pytest.raises(ValueError, match=message):
        run(uninterrupted, replace(CONFIG, **change))


def test_another_identity_is_refused_by_field(tmp_path):
    config = replace(CONFIG, steps=6)
    run(tmp_path, config, identity={"model": {"width": 40}})
    run(tmp_path, config, identity={"model": {"width": 40}})
    with pytest.raises(ValueError, match="model/width 40, not 64"):
        run(tmp_path, config, identity={"model": {"width": 64}})


def test_check_accepts_an_empty_folder_and_the_same_run_and_names_the_root(uninterrupted, tmp_path):
    check_run(tmp_path, CONFIG)
    assert os.listdir(tmp_path) == []
    check_run(uninterrupted, CONFIG)
    with pytest.raises(ValueError, match=r"^my-run holds a run with seed 3, not 4: "):
        check_run(uninterrupted, replace(CONFIG, seed=4), root="my-run")


def spoil_parameters(p, moments, state):
    p["fc"]["b"][1] = np.nan


def spoil_moments(p, moments, state):
    moments["v"]["proj"]["w"][0] = np.inf


def spoil_optimizer_step(p, moments, state):
    moments["step"][...] = 5


def half_a_step(p, moments, state):
    state["step"] = 5.5


def step_before_the_first(p, moments, state):
    state["step"] = 0


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (spoil_parameters, "p/fc/b is not finite"),
        (spoil_moments, "optimizer/v/proj/w is not finite"),
        (spoil_optimizer_step, "its step is 6, and the optimizer's 5"),
        (half_a_step, "its step is 5.5, not a whole number from 1 to 6"),
        (step_before_the_first, "its step is 0, not a whole number from 1 to 6"),
    ],
)
def test_checkpoint_that_cannot_be_gone_on_from_says_why(tmp_path, spoil, message):
    config = replace(CONFIG, steps=6)
    run(tmp_path, config)
    content = load_checkpoint(tmp_path / "checkpoint")
    spoil(*content)
    save_checkpoint(tmp_path / "checkpoint", *content)
    with pytest.raises(CheckpointError, match=message):
        run(tmp_path, config)


def test_finished_run_without_its_curve_is_refused(tmp_path):
    config = replace(CONFIG, steps=6)
    run(tmp_path, config)
    (tmp_path / "metrics.csv").unlink()
    with pytest.raises(
        CheckpointError, match=r"metrics\.csv, the curve of its 6 steps, is missing"
    ):
        run(tmp_path, config)


def curve_on_a_full_disk(path, columns, rows):
    return open("/dev/full", "w")


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no disk that is always full")
def test_full_disk_names_the_step_the_curve_and_the_checkpoint(
    uninterrupted, tmp_path, monkeypatch
):
    with monkeypatch.context() as patch:
        patch.setattr(loop, "_open_curve", curve_on_a_full_disk)
        with pytest.raises(
            RunFolderError, match=r"step 0: .*metrics\.csv .*there is no checkpoint"
        ):
            run(tmp_path)
    with pytest.raises(RuntimeError, match="stopped"):
        run(tmp_path, batch=stop_at(20))
    with monkeypatch.context() as patch:
        patch.setattr(loop, "_open_curve", curve_on_a_full_disk)
        with pytest.raises(
            RunFolderError, match=r"step 16: .*metrics\.csv \(No space left.*checkpoint is intact"
        ):
            run(tmp_path)
    run(tmp_path)
    assert weights(tmp_path) == weights(uninterrupted)


def test_another_model_is_refused(uninterrupted):
    p = init()
    p["fc"]["w"] = p["fc"]["w"][:, :30]
    with pytest.raises(CheckpointError, match=r"differs: fc/w is \(6, 40\)"):
        train(forward, backward, p, batch, CONFIG, uninterrupted)


def test_damaged_checkpoint_is_said_and_kept(tmp_path):
    run(tmp_path, replace(CONFIG, steps=6))
    os.truncate(tmp_path / "checkpoint" / "parameters.safetensors", 100)
    with pytest.raises(CheckpointError, match="truncated or damaged"):
        run(tmp_path, replace(CONFIG, steps=6))
    assert (tmp_path / "checkpoint").exists()


def stop_at(step):
    def stopping(number):
        if number == step:
            raise RuntimeError("stopped")
        return batch(number)

    return stopping


def test_curve_that_lost_rows_is_said(tmp_path):
    with pytest.raises(RuntimeError, match="stopped"):
        run(tmp_path, batch=stop_at(20))
    text = (tmp_path / "metrics.csv").read_text()
    (tmp_path / "metrics.csv").write_text("\n".join(text.splitlines()[:5]))
    with pytest.raises(ValueError, match="not the curve of this run's first 16 steps"):
        run(tmp_path)
    (tmp_path / "metrics.csv").unlink()
    with pytest.raises(ValueError, match="is missing"):
        run(tmp_path)


def test_rows_after_the_checkpoint_are_dropped_on_resuming(tmp_path):
    for step, rows in ((22, 22), (18, 18)):  # the checkpoint of step 16 is the last both times
        with pytest.raises(RuntimeError, match="stopped"):
            run(tmp_path, batch=stop_at(step))
        assert [row[0] for row in curve(tmp_path)[1:]] == [str(i) for i in range(rows)]


def test_what_is_watched_is_a_column_of_the_curve_and_changes_nothing_else(uninterrupted, tmp_path):
    def watch(p):
        return {"first": p["fc"]["w"][0, 0], "bias": p["fc"]["b"].sum()}

    with pytest.raises(RuntimeError, match="stopped"):
        run(tmp_path, batch=stop_at(20), watch=watch)
    p = run(tmp_path, watch=watch)
    header, *rows = (row.split(",") for row in (tmp_path / "metrics.csv").read_text().splitlines())
    assert header[5:] == ["first", "bias"] and len(rows) == 30
    start = watch(init())
    assert [float(x) for x in rows[0][5:]] == [float(start["first"]), float(start["bias"])]
    assert len({row[5] for row in rows}) == 30 and float(rows[-1][5]) != float(p["fc"]["w"][0, 0])
    assert curve(tmp_path) == curve(uninterrupted)
    assert weights(tmp_path) == weights(uninterrupted)
    with pytest.raises(RuntimeError, match="stopped"):
        run(tmp_path / "other", batch=stop_at(20))
    with pytest.raises(ValueError, match="not the curve of this run's first 16 steps"):
        run(tmp_path / "other", watch=watch)


def poisoned_batch(step):
    x, y = batch(step)
    if step == 12:
        y[2, 1] = np.nan
    return x, y


def poisoned_backward(dloss, s, g):
    backward(dloss, s, g)
    g["fc"]["b"] += np.float32("inf")


def overflowing_forward(x, y, p):
    loss, s = forward(x, y, p)
    s["h"] = s["h"] * np.float32(3e38) * 10
    return loss * s["h"].sum(), s


@pytest.mark.parametrize(
    ("options", "step", "where"),
    [
        ({"batch": poisoned_batch}, 12, "batch/1"),
        ({"backward": poisoned_backward}, 0, "g/fc/b"),
        ({"forward": overflowing_forward}, 0, "saved/h"),
    ],
)
@pytest.mark.parametrize("micro_batches", [1, 3])
def test_divergence_names_the_step_and_the_first_bad_tensor(
    tmp_path, options, step, where, micro_batches
):
    config = replace(CONFIG, micro_batches=micro_batches)
    with pytest.raises(TrainingDiverged, match=f"step {step}: .* not finite is {where};"):
        run(tmp_path, config, **options)


def test_divergence_keeps_the_last_good_checkpoint(uninterrupted, tmp_path):
    with pytest.raises(TrainingDiverged, match=r"last good checkpoint is .*checkpoint"):
        run(tmp_path, batch=poisoned_batch)
    assert load_checkpoint(tmp_path / "checkpoint")[2]["step"] == 8
    assert len(curve(tmp_path)) == 1 + 12
    run(tmp_path)  # with the data repaired it goes on
    assert weights(tmp_path) == weights(uninterrupted)


def test_gradient_too_large_to_square_is_said(tmp_path):
    def huge(dloss, s, g):
        g["fc"]["b"] += np.float32(1e30)

    with pytest.raises(TrainingDiverged, match="squares are too large"):
        run(tmp_path, backward=huge)


def test_weights_spoiled_after_the_step_are_never_saved(tmp_path):
    def spoil(p):
        p["fc"]["b"][0] = np.nan

    with pytest.raises(TrainingDiverged, match="step 0: it left p/fc/b not finite"):
        config = replace(CONFIG, checkpoint_every=1)
        train(forward, backward, init(), batch, config, tmp_path, after_step=spoil)
    assert not (tmp_path / "checkpoint").exists()


@pytest.mark.parametrize("pieces", [2, 3, 12])
def test_accumulated_gradient_is_that_of_the_whole_batch(pieces):
    p = init("float64")
    whole, cut = zeros_like(p), zeros_like(p)
    loss = add_gradients(forward, backward, batch(0, "float64"), p, whole)
    assert add_gradients(forward, backward, batch(0, "float64"), p, cut, pieces) == pytest.approx(
        loss, rel=1e-12
    )
    for (name, x), (_, y) in zip(leaves(whole), leaves(cut), strict=True):
        np.testing.assert_allclose(x, y, rtol=1e-12, atol=1e-12, err_msg=name)


def test_batch_that_does_not_split_is_said():
    with pytest.raises(ValueError, match="12, 12 samples do not split into 5"):
        add_gradients(forward, backward, batch(0), init(), zeros_like(init()), 5)
    with pytest.raises(ValueError, match="12, 11 samples"):
        x, y = batch(0)
        add_gradients(forward, backward, (x, y[1:]), init(), zeros_like(init()), 2)


def test_loss_of_many_numbers_is_said(tmp_path):
    with pytest.raises(ValueError, match=r"one number, its shape is \(12, 2\)"):
        run(tmp_path, forward=lambda x, y, p: (y, None))


def test_batch_that_is_no_tuple_is_said(tmp_path):
    with pytest.raises(TypeError, match="tuple, got ndarray"):
        run(tmp_path, batch=lambda step: batch(step)[0])


def test_folder_that_cannot_be_written_is_said_before_a_batch_is_drawn(tmp_path):
    (tmp_path / "taken").write_text("")
    with pytest.raises(RunFolderError, match="taken is a file"):
        run(tmp_path / "taken", batch=stop_at(0))


def test_folder_that_another_training_is_in_is_said_before_a_batch_is_drawn(tmp_path):
    pytest.importorskip("fcntl", reason="there are no such locks here")
    refused = pytest.raises(RunFolderError, match="another process is at work in")
    with RunFolder(tmp_path).alone(), refused:
        run(tmp_path, batch=stop_at(0))
    run(tmp_path)


def test_checkpoint_of_something_else_is_refused(tmp_path):
    save_checkpoint(tmp_path / "checkpoint", init(), {}, {"epoch": 3})
    with pytest.raises(ValueError, match="not written by this training loop"):
        run(tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"steps": 0}, "steps must be at least 1"),
        ({"micro_batches": 5}, "12 does not split into 5"),
        ({"warmup": 30}, "warmup must be from 0 to 29"),
        ({"peak_rate": -1.0}, "peak rate must be positive"),
        ({"checkpoint_every": 0}, "checkpoint_every must be at least 1"),
    ],
)
def test_configuration_outside_its_range_is_said(change, message):
    with pytest.raises(ValueError, match=message):
        replace(CONFIG, **change)


def test_unknown_configuration_key_is_an_error():
    with pytest.raises(TypeError, match="learning_rate"):
        TrainConfig(steps=1, batch_size=1, learning_rate=0.1)


def test_without_memory_the_checkpoint_is_safe_and_what_needs_less_is_named(
    tmp_path, uninterrupted
):
    def greedy(step):
        if step == 17:
            np.empty(1 << 57, "int8")
        return batch(step)

    said = (
        r"out of memory: 128\. PiB more was asked for.*; a smaller batch_size than 12 needs less "
        r"\(scratch-vlm train --batch-size 6\); the checkpoint .* is intact"
    )
    with pytest.raises(OutOfMemory, match=said):
        run(tmp_path, batch=greedy)
    run(tmp_path)
    assert curve(tmp_path) == curve(uninterrupted)
    assert weights(tmp_path) == weights(uninterrupted)


def test_without_memory_in_the_first_step_there_is_no_checkpoint(tmp_path):
    def greedy(*arguments):
        np.empty(1 << 57, "int8")

    with pytest.raises(OutOfMemory, match="there is no checkpoint"):
        run(tmp_path, forward=greedy)


def test_a_run_may_differ_from_its_experiment_in_seed_length_and_what_is_given():
    config = TrainConfig(steps=100, batch_size=4, peak_rate=0.1, warmup=20)
    assert config.for_run(7) == replace(config, seed=7)
    assert config.for_run(7, 200) == replace(config, seed=7, steps=200)
    assert config.for_run(0, 20, {"batch_size": 2}) == replace(
        config, steps=20, warmup=5, batch_size=2
    )
