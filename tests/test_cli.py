"""The command line: what it prints, what it writes, and how it says no."""

import json
import os
import re
import signal
import subprocess
import sys
import textwrap

import numpy as np
import pytest

from scratch_vlm import backend, cli
from scratch_vlm.backend import cupy_problem
from scratch_vlm.experiments import checks, digits
from scratch_vlm.gradcheck import GradientError
from scratch_vlm.layers import linear
from scratch_vlm.training.checkpoint import load_checkpoint


def test_module_and_command_are_the_same():
    done = subprocess.run(
        [sys.executable, "-m", "scratch_vlm", "--help"], capture_output=True, text=True, check=True
    )
    assert "scratch-vlm demo" in done.stdout


def test_a_reader_who_has_enough_is_no_error():
    command = [sys.executable, "-m", "scratch_vlm", "lessons"]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, **pipes) as process:
        process.stdout.close()
        assert process.stderr.read() == ""
    assert process.returncode == 141


def test_every_command_takes_backend_seed_and_out(capsys):
    def help_of(*command):
        with pytest.raises(SystemExit) as stop:
            cli.main([*command, "--help"])
        assert stop.value.code == 0
        return capsys.readouterr().out

    commands = re.findall(r"^    ([a-z]+)\b", help_of(), re.M)
    assert len(commands) == 14 and {"demo", "ask", "info"} <= set(commands)
    for command in commands:
        text = help_of(command)
        assert text.startswith(f"usage: scratch-vlm {command}")
        if command != "lessons":
            assert all(option in text for option in ("--backend", "--seed", "--out")), command


def test_info_says_versions_and_why_cupy_is_not_usable(tmp_path, capsys):
    assert cli.main(["info", "--out", str(tmp_path)]) == 0
    printed = capsys.readouterr().out
    assert np.__version__ in printed
    assert (cupy_problem() or "works") in printed
    assert json.loads((tmp_path / "info.json").read_text())["versions"]["numpy"] == np.__version__


def test_gradcheck_writes_what_it_found(tmp_path, capsys):
    file = tmp_path / "new" / "gradcheck.json"
    assert cli.main(["gradcheck", "--pair", "layers.mlp", "--json", str(file)]) == 0
    pairs = json.loads(file.read_text())["pairs"]
    assert [pair["name"] for pair in pairs] == ["layers.mlp.mlp", "layers.mlp.swiglu"]
    for pair in pairs:
        assert pair["passed"] and not pair["faults"] and pair["seconds"] > 0
        assert 0 < pair["worst"] <= 1e-12 and pair["method"] == "complex"
        assert pair["inputs"] > 0 and pair["parameters"] > 0
        assert 0 < pair["gradients"]["input 0"] <= pair["worst"]
    assert "2 pairs, 0 wrong" in capsys.readouterr().out
    assert cli.main(["gradcheck", "--pair", "layers.linear"]) == 0
    assert "1 pair, 0 wrong" in capsys.readouterr().out


def test_parts_of_gradcheck_are_all_pairs_once_and_each_is_written_as_it_is_done(
    tmp_path, capsys, monkeypatch
):
    written, original = [], checks.write_json

    def write(file, content):
        written.append((len(content["pairs"]), content["chosen"]))
        original(file, content)

    monkeypatch.setattr(checks, "write_json", write)
    names, file = [], tmp_path / "gradcheck.json"
    for part in ("1/2", "2/2"):
        arguments = ["gradcheck", "--pair", "layers.mlp", "--examples", "1", "--part", part]
        assert cli.main([*arguments, "--json", str(file)]) == 0
        names += [pair["name"] for pair in json.loads(file.read_text())["pairs"]]
    assert names == ["layers.mlp.mlp", "layers.mlp.swiglu"] and written == [(1, 1)] * 2
    assert cli.main(["gradcheck", "--pair", "layers.mlp", "--part", "3/3"]) == 2
    assert "part 3 of 3 is empty: there are 2 pairs" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        cli.main(["gradcheck", "--part", "3/2"])


def test_gradcheck_of_a_wrong_pair_exits_with_1_and_names_the_parameter(monkeypatch, capsys):
    right = linear.linear_backward

    def wrong(dy, saved, g, *, out=None):
        dx = right(dy, saved, g, out=out)
        if g:
            g["w"] *= 1 + 1e-9
        return dx

    wrong.__module__ = right.__module__
    monkeypatch.setattr(linear, "linear_backward", wrong)
    assert cli.main(["gradcheck", "--pair", "layers.linear"]) == 1
    printed = capsys.readouterr().out
    assert "1 wrong" in printed
    (line,) = [line for line in printed.splitlines() if line.startswith("w ")]
    assert line.endswith("<- wrong")
    assert "w: it is too large by a factor of 1 + 1e-09" in printed
    again = printed.partition("To see it again:\n")[2].partition("\n\n")[0]
    with pytest.raises(GradientError, match=r"w .*<- wrong"):
        exec(textwrap.dedent(again), {})


def test_gradcheck_in_float32_says_what_is_lost_by_rounding(tmp_path, capsys):
    file = tmp_path / "gradcheck.json"
    arguments = ["gradcheck", "--pair", "layers.norm", "--dtype", "float32", "--json", str(file)]
    assert cli.main(arguments) == 0
    found = json.loads(file.read_text())
    assert found["dtype"] == "float32"
    assert all(1e-9 < pair["rounding"] < 1e-5 for pair in found["pairs"])
    assert "rounding" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["gradcheck", "--pair", "nothing-like-this"], "no pair has 'nothing-like-this'"),
        (["info", "--backend", "tpu"], "choose one of numpy, cupy, auto"),
        (["ask", "no-such.png", "what digit is red"], "ask: there is no file no-such.png"),
        (["caption", "a.png", "--model", "no-such"], "caption: there is no folder no-such"),
        (["classify", "no-such.png", "--labels", "a,b"], "classify: there is no file no-such.png"),
    ],
)
def test_a_request_that_cannot_be_met_exits_with_2_and_says_why(arguments, said, capsys):
    assert cli.main(arguments) == 2
    assert said in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["info", "--seed", "x"], "--seed: must be a whole number of at least 0, got 'x'"),
        (["info", "--seed", "-1"], "--seed: must be a whole number of at least 0, got '-1'"),
        (["gradcheck", "--examples", "0"], "--examples: must be a whole number of at least 1"),
        (["train", "vit", "--steps", "1.5"], "--steps: must be a whole number of at least 1"),
        (["caption", "a.gif", "--frames", "0"], "--frames: must be a whole number of at least 1"),
    ],
)
def test_numbers_outside_their_range_are_said_in_plain_words(arguments, said, capsys):
    with pytest.raises(SystemExit) as stop:
        cli.main(arguments)
    assert stop.value.code == 2
    assert said in capsys.readouterr().err


def press_ctrl_c(*args, **options):
    raise KeyboardInterrupt


@pytest.mark.parametrize(
    ("arguments", "function", "said"),
    [
        (["demo"], "demo.run_demo", "demo: stopped; the same command goes on"),
        (["train", "vit"], "digits.train_model", "train: stopped; the same command goes on"),
        (["compare"], "compare.run_compare", "compare: stopped; the same command goes on"),
        (["gradcheck"], "checks.check_pairs", "gradcheck: stopped"),
        (["info"], "checks.describe_installation", "info: stopped"),
        (["ask", "a.png", "what"], "ask.model_for", "ask: stopped"),
    ],
)
def test_ctrl_c_is_one_line_and_exits_with_130(monkeypatch, capsys, arguments, function, said):
    monkeypatch.setattr(f"scratch_vlm.experiments.{function}", press_ctrl_c)
    assert cli.main(arguments) == 130
    assert capsys.readouterr().err == f"scratch-vlm {said}\n"


def test_ctrl_c_while_training_exits_with_130_and_says_what_was_saved(
    monkeypatch, capsys, tmp_path
):
    forward = digits.vit_forward

    def interrupted(*args, **options):
        os.kill(os.getpid(), signal.SIGINT)
        return forward(*args, **options)

    monkeypatch.setattr(digits, "vit_forward", interrupted)
    assert cli.main(["train", "vit", "--steps", "2", "--out", str(tmp_path)]) == 130
    assert "train: stopped after 1 of 2 steps, saved in" in capsys.readouterr().err


def test_help_says_how_to_see_where_an_error_comes_from(monkeypatch, capsys):
    with pytest.raises(SystemExit):
        cli.main(["--help"])
    assert "SCRATCH_VLM_TRACEBACK=1" in capsys.readouterr().out
    monkeypatch.setenv("SCRATCH_VLM_TRACEBACK", "1")
    with pytest.raises(ValueError, match="no pair"):
        cli.main(["gradcheck", "--pair", "nothing-like-this"])


@pytest.mark.parametrize(
    ("command", "option", "name"),
    [
        ("gradcheck", "--json", ""),
        ("gradcheck", "--out", "gradcheck.json"),
        ("info", "--out", "info.json"),
    ],
)
def test_folder_in_place_of_a_result_is_said_before_the_work(
    command, option, name, tmp_path, capsys
):
    (tmp_path / name).mkdir(exist_ok=True)
    assert cli.main([command, option, str(tmp_path)]) == 2
    captured = capsys.readouterr()
    assert f"cannot write {tmp_path / name}: it is a folder" in captured.err
    assert captured.out == ""


@pytest.mark.skipif(cupy_problem() is None, reason="CuPy works here")
def test_asking_for_cupy_where_it_does_not_work_is_an_error_not_a_fall_back(tmp_path, capsys):
    assert cli.main(["demo", "--backend", "cupy", "--out", str(tmp_path / "run")]) == 2
    assert "backend 'cupy' cannot be used" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_a_folder_that_cannot_be_written_is_said_before_training(tmp_path, capsys):
    (tmp_path / "file").write_text("in the way")
    assert cli.main(["demo", "--quick", "--out", str(tmp_path / "file" / "run")]) == 2
    captured = capsys.readouterr()
    assert "is a file" in captured.err and "ViT" not in captured.out


def test_blas_gets_one_thread_unless_the_user_says_otherwise(monkeypatch, capsys):
    monkeypatch.delenv("OPENBLAS_NUM_THREADS", raising=False)
    cli.main(["info"])
    assert os.environ["OPENBLAS_NUM_THREADS"] == "1"
    monkeypatch.setenv("OPENBLAS_NUM_THREADS", "3")
    cli.main(["info"])
    assert os.environ["OPENBLAS_NUM_THREADS"] == "3"


def test_memory_that_runs_out_is_one_line_that_says_how_much(monkeypatch, capsys):
    def greedy(*arguments, **options):
        np.empty(1 << 57, "int8")

    monkeypatch.setattr(digits, "train_model", greedy)
    assert cli.main(["train", "vit"]) == 2
    said = capsys.readouterr().err
    assert said.startswith("scratch-vlm train: out of memory: 128. PiB more was asked for")
    assert said.count("\n") == 1


def test_kernels_are_refused_where_nothing_runs_them(tmp_path, capsys):
    for command in (["demo"], ["train", "vit"], ["compare"]):
        out = tmp_path / "run"
        assert cli.main([*command, "--backend", "numpy", "--kernels", "--out", str(out)]) == 2
        said = capsys.readouterr().err
        assert "nothing compiles them for numpy: add --backend cupy, or leave --kernels" in said
        assert not out.exists()


@pytest.mark.parametrize("model", ["vit", "vqa"])
def test_graphs_are_refused_where_there_is_no_gpu(model, tmp_path, capsys):
    out, base = tmp_path / "run", tmp_path / "base"
    command = ["train", model, "--backend", "numpy", "--graph", "--out", str(out)]
    command += ["--base", str(base)] if model == "vqa" else []
    assert cli.main(command) == 2
    assert "CUDA graphs need a GPU: add --backend cupy" in capsys.readouterr().err
    assert not out.exists() and not base.exists()


def test_graphs_reach_the_training(monkeypatch, tmp_path):
    given = []
    monkeypatch.setattr(digits, "train_model", lambda *a, training, **_: given.append(training))
    monkeypatch.setattr(digits, "measure", lambda *a, **options: {"accuracy": {"value": 0.5}})
    monkeypatch.setattr(backend, "Graphs", lambda xp: None)
    for options in (["--graph"], []):
        assert cli.main(["train", "vit", *options, "--out", str(tmp_path)]) == 0
    assert given == [{"graph": True}, {}]


def test_what_no_graph_can_hold_is_one_line(monkeypatch, capsys):
    def train_model(*arguments, **options):
        raise backend.GraphError("numbers of the host are others in each call")

    monkeypatch.setattr(digits, "train_model", train_model)
    assert cli.main(["train", "vit"]) == 2
    said = capsys.readouterr().err
    assert said == "scratch-vlm train: numbers of the host are others in each call\n"


def test_auto_says_which_backend_it_took_and_why(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(digits, "train_model", lambda *a, xp, **options: print(xp.__name__))
    monkeypatch.setattr(digits, "measure", lambda *a, **options: {"accuracy": {"value": 0.5}})
    monkeypatch.setattr(backend, "cupy_problem", lambda: "CuPy has a cold")
    monkeypatch.setattr(backend.choose, "cupy_problem", lambda: "CuPy has a cold")
    assert cli.main(["train", "vit", "--backend", "auto", "--out", str(tmp_path)]) == 0
    printed = capsys.readouterr()
    assert printed.out.startswith("numpy\n")
    assert printed.err == "backend: numpy (CuPy has a cold)\n"
    assert cli.main(["train", "vit", "--backend", "cupy", "--out", str(tmp_path)]) == 2
    assert "'cupy' cannot be used: CuPy has a cold. Use --backend" in capsys.readouterr().err


def test_batches_of_a_training_can_be_smaller(tmp_path, capsys):
    options = ["--steps", "1", "--batch-size", "8", "--out", str(tmp_path)]
    assert cli.main(["train", "vit", *options]) == 0
    _, _, state = load_checkpoint(tmp_path / "checkpoint")
    assert state["run"]["config"]["batch_size"] == 8


def test_without_a_command_the_help_is_shown(monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["scratch-vlm"])
    assert cli.main() == cli.main([]) == 2
    assert "scratch-vlm demo " in capsys.readouterr().err
