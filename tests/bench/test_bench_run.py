"""The benchmark measures whatever is here, and says what it left out."""

import json
import time
from dataclasses import replace

import numpy as np
import pytest
from bench_cases import SMALL, STEPS

from scratch_vlm.bench import run
from scratch_vlm.bench.contenders import Ours
from scratch_vlm.bench.run import (
    choose,
    crossovers,
    difference,
    floor_seconds,
    run_bench,
    targets,
    why_not,
)
from scratch_vlm.bench.show import table
from scratch_vlm.bench.subjects import PAIRS
from scratch_vlm.cli import main

CEILING = {"flops": 1e9, "bytes": [(100, 5e9), (1000, 1e9)]}
ONE_CORE = {"1 core": CEILING}


class Strange(Ours):
    """One whose work is changed."""

    def __init__(self, name, change):
        super().__init__(np)
        self.name, self.change = name, change

    def prepare(self, subject, inputs, p):
        return self.change(super().prepare(subject, inputs, p))


@pytest.fixture(autouse=True)
def small(monkeypatch):
    """Leave a machine without a GPU and without PyTorch, and work that takes milliseconds."""
    monkeypatch.setattr(run, "subjects", lambda quick: SMALL[::3] if quick else SMALL)
    monkeypatch.setattr(run, "contenders", lambda backend, cores: ([Ours(np)], {"cupy": "absent"}))
    monkeypatch.setattr(run, "SIDES", {False: 8})
    monkeypatch.setattr(run, "COPIES", {False: (64, 2**20)})


def test_everything_is_written_and_drawn(tmp_path, capsys):
    report = run_bench(tmp_path, quick=True, note="a test")
    assert json.loads((tmp_path / "bench.json").read_text()) == json.loads(json.dumps(report))
    assert (tmp_path / "bench.png").stat().st_size > 10_000
    assert report["machine"]["note"] == "a test" and report["machine"]["versions"]["numpy"]
    assert [entry["family"] for entry in report["results"]] == [s.family for s in SMALL[::3]]
    for entry, subject in zip(report["results"], SMALL[::3], strict=True):
        taken = entry["times"]["numpy"]
        assert len(taken["samples"]) in (3, 4, 5)
        assert taken["share_of_floor"] == taken["floor"] / taken["seconds"] > 0
        assert taken["floor"] == floor_seconds(subject, report["ceilings"][taken["place"]])
        assert (taken["memory"] is not None) == (entry["kind"] == "step")
    printed = capsys.readouterr().out
    for subject in SMALL[::3]:
        assert subject.name in printed
    assert "cupy: absent" in printed and "targets of a GPU: unmeasured" in printed


def test_only_what_was_asked_for():
    assert {s.family for s in choose(SMALL, ["vlm", "GELU"])} == {
        "VLM, unified",
        "VLM, cross-modal",
        "GELU",
        "QuickGELU",
    }
    with pytest.raises(ValueError, match=r"'convolution'.*linear; attention"):
        choose(SMALL, ["GELU", "convolution"])


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda work: lambda: (2 * work()[0], *work()[1:]), "computes something else, 1 apart"),
        (lambda work: lambda: (np.nan * work()[0], *work()[1:]), "something else, inf apart"),
        (lambda work: lambda: 1 / 0, "ZeroDivisionError: division by zero"),
    ],
)
def test_whoever_is_wrong_fails_and_the_others_are_timed(change, why, tmp_path, monkeypatch):
    found = [Ours(np), Strange("other", change)]
    monkeypatch.setattr(run, "contenders", lambda backend, cores: (found, {}))
    report = run_bench(tmp_path, only=["linear"])
    assert [list(entry["times"]) for entry in report["results"]] == [["numpy"], ["numpy"]]
    assert len(report["failed"]) == 2
    assert why in report["failed"]["other: linear, 64 tokens"]
    assert main(["bench", "--only", "linear", "--out", str(tmp_path)]) == 1


class OutOfMemoryError(RuntimeError):
    """What PyTorch calls it."""


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (MemoryError("Tried to allocate 9.00 GiB for an array"), "9.00 GiB"),
        (OutOfMemoryError("Tried to allocate 9.00 GiB for an array"), "9.00 GiB"),
        (RuntimeError("cudaErrorMemoryAllocation: out of memory"), "out of memory"),
    ],
)
def test_memory_that_runs_out_skips_one(error, said, tmp_path, monkeypatch):
    def exhausted():
        raise error

    found = [Strange("other", lambda work: exhausted), Ours(np)]
    monkeypatch.setattr(run, "contenders", lambda backend, cores: (found, {}))
    report = run_bench(tmp_path, only=["RMS"])
    assert said in report["skipped"]["other: RMS norm, 16 tokens"]
    assert not report["failed"] and list(report["results"][0]["times"]) == ["numpy"]


class Crowded(Ours):
    """One for whom there is no memory, before the others have given some back or at all."""

    def __init__(self, enough):
        super().__init__(np)
        self.name, self.enough, self.failed, self.free_again = "other", enough, False, False

    def measure(self, work, times=1):
        if not (self.enough and self.free_again):
            self.failed = True
            raise MemoryError("Tried to allocate 9.00 GiB for an array")
        return super().measure(work, times)


@pytest.mark.parametrize("enough", [True, False])
def test_memory_that_others_keep_is_given_back_before_giving_up(enough, tmp_path, monkeypatch):
    found = [Ours(np), Crowded(enough)]
    monkeypatch.setattr(run, "contenders", lambda backend, cores: (found, {}))
    monkeypatch.setattr(run, "raise_ceilings", lambda ceilings, found: ceilings.update(ONE_CORE))
    free = lambda: setattr(found[1], "free_again", found[1].failed)  # noqa: E731
    monkeypatch.setattr(found[0], "rest", free)
    report = run_bench(tmp_path, only=["RMS"])
    names = [sorted(entry["times"]) for entry in report["results"]]
    assert names == ([["numpy", "other"]] * 2 if enough else [])
    assert len(report["skipped"]) == (0 if enough else 2) and not report["failed"]


def test_what_was_measured_is_whole_whenever_it_ends(tmp_path, monkeypatch):
    written = []
    monkeypatch.setattr(run, "write_json", lambda path, report: written.append(json.dumps(report)))
    run_bench(tmp_path, only=["RMS"])
    for count, text in zip((1, 2, 2), written, strict=True):
        report = json.loads(text)
        assert len(report["results"]) == count and report["targets"]
        assert "share_of_floor" in report["results"][-1]["times"]["numpy"]


def test_ctrl_c_keeps_what_was_measured(tmp_path, monkeypatch):
    calls = []

    def interrupted(work):
        def change():
            calls.append(1)
            if len(calls) > 20:
                raise KeyboardInterrupt
            return work()

        return change

    found = [Strange("numpy", interrupted)]
    monkeypatch.setattr(run, "contenders", lambda backend, cores: (found, {}))
    monkeypatch.setattr(run, "in_turn", lambda works, **_: {name: [1.0] * 3 for name in works})
    assert main(["bench", "--out", str(tmp_path)]) == 130
    report = json.loads((tmp_path / "bench.json").read_text())
    assert report["interrupted"] and len(report["results"]) == 20
    assert all("share_of_floor" in entry["times"]["numpy"] for entry in report["results"])
    assert "interrupted" in table(report)
    assert (tmp_path / "bench.png").exists()


def test_what_targets_speak_of_comes_first_and_results_stay_in_order(tmp_path, monkeypatch):
    measured = []

    def note(subject, *_):
        measured.append(subject.family)
        times = {"numpy": {"seconds": 1.0, "samples": [1.0] * 3, "place": "1 core", "memory": None}}
        about = ("family", "kind", "size", "unit", "flops", "bytes")
        return {name: getattr(subject, name) for name in about} | {"times": times}

    monkeypatch.setattr(run, "contenders", lambda backend, cores: ([], {}))
    monkeypatch.setattr(run, "measure", note)
    monkeypatch.setattr(run, "TARGETS", ((("VLM, unified",), "numpy", "torch", 1.0),))
    ceilings = {"1 core": CEILING}
    monkeypatch.setattr(run, "raise_ceilings", lambda found, _: found.update(ceilings))
    report = run.run_bench(tmp_path)
    assert measured[0] == "VLM, unified" and measured[1] in PAIRS and measured[-1] == "LM"
    listed = [one["family"] for one in report["results"]]
    assert sorted(listed) == sorted(measured) and listed[0] == "linear"


def test_what_is_too_much_is_left_out_and_the_reason_said():
    later, host = time.monotonic() + 100, Ours(np)
    ceilings = {"1 core": CEILING}

    def why(contender=host, until=later, **changes):
        return why_not(replace(STEPS[0], **changes), contender, ceilings, until)

    assert why(flops=1000, bytes=10) is None
    assert "41.0 s" in why(flops=int(41e9))
    assert "needs about 2048 GiB" in why(flops=1000, memory=2**41)
    assert "--minutes" in why(flops=1000, until=time.monotonic() - 1)


def test_minutes_end_the_run(tmp_path):
    report = run_bench(tmp_path, minutes=0)
    assert not report["results"] and not (tmp_path / "bench.png").exists()
    assert len(report["skipped"]) == 1 + len(SMALL)


def test_floor_is_the_longer_of_products_and_bytes():
    assert floor_seconds({"flops": 3e9, "bytes": 100}, CEILING) == 3
    assert floor_seconds({"flops": 0, "bytes": 100}, CEILING) == 100 / 5e9  # may be in a cache
    assert floor_seconds({"flops": 0, "bytes": 101}, CEILING) == 101 / 1e9
    assert floor_seconds({"flops": 0, "bytes": 9000}, CEILING) == 9000 / 1e9


@pytest.mark.parametrize(
    ("values", "right", "apart"),
    [
        ([1.0, 2.0], [1.0, 4.0], 0.5),
        ([1.0, np.nan], [1.0, 4.0], np.inf),
        ([1.0, np.inf], [1.0, 4.0], np.inf),
        ([1.0], [1.0, 4.0], np.inf),
    ],
)
def test_difference_is_relative_and_sees_what_is_not_finite(values, right, apart):
    assert difference([np.array(values)], [np.array(right)]) == apart


def test_difference_of_a_small_array_is_held_against_the_large_ones():
    small, large = np.array([1e-9]), np.array([1.0])
    assert difference([2 * small, large], [small, large]) == pytest.approx(1e-7)
    assert difference([2 * small], [small]) == pytest.approx(1.0)


def entry(family, size, **seconds):
    times = {
        name.replace("_", " "): {"seconds": s, "samples": [s, s, s]} for name, s in seconds.items()
    }
    return {"family": family, "size": size, "times": times}


def test_reasons_are_said_once(tmp_path, monkeypatch, capsys):
    found = [Ours(np), Strange("other", lambda work: work)]
    monkeypatch.setattr(run, "contenders", lambda backend, cores: (found, {"cupy": "absent"}))
    run_bench(tmp_path, only=["RMS"], minutes=0)
    assert [
        line.strip() for line in capsys.readouterr().out.split("skipped\n")[1].splitlines()
    ] == [
        "cupy: absent",
        "numpy, other: RMS norm, 16 tokens: time was up; --minutes gives more",
        "numpy, other: RMS norm, 64 tokens: time was up; --minutes gives more",
    ]


def test_crossover_is_where_the_gpu_begins_to_win_for_good():
    results = [entry("a", n, numpy=n, cupy=c) for n, c in ((4, 3), (16, 20), (64, 20), (256, 20))]
    results += [entry("b", n, numpy=n, cupy=2 * n) for n in (4, 16)]
    results += [entry("c", 4, numpy=1), entry("d", 4, numpy=2, cupy=1)]
    assert crossovers(results) == {"a": 64, "b": None, "d": 4}


def test_targets_are_held_against_the_largest_size_that_both_have_done():
    results = [
        entry("lesson ViT", 128, numpy=1.0, cupy_tf32_graph=0.02, torch_tf32=0.1),
        entry("ViT-B/16", 2, cupy_bf16_graph=1.0, torch_bf16=0.5),
        entry("ViT-B/16", 128, cupy_bf16_graph=1.0, torch_bf16=2.0),
    ]
    found = {(one["what"], one["beside"]): one["ratio"] for one in targets(results)}
    assert found["lesson ViT", "numpy"] == 0.02
    assert found["lesson ViT", "torch tf32"] == pytest.approx(0.2)
    assert found["lesson ViT", "torch tf32 compiled"] is None
    assert found["ViT-B/16", "torch bf16"] == 0.5
    report = {"results": [], "ceilings": {}, "crossover": {}, "skipped": {}, "failed": {}}
    text = table(report | {"interrupted": False, "targets": targets(results)})
    assert "0.02 of its time, at most 0.01: missed" in text
    assert "0.2 of its time, at most 0.333: met" in text


def test_command_says_what_is_wrong_before_it_measures(tmp_path, capsys):
    assert main(["bench", "--only", "convolution", "--out", str(tmp_path)]) == 2
    assert "'convolution'" in capsys.readouterr().err
    file = tmp_path / "file"
    file.touch()
    assert main(["bench", "--out", str(file / "folder")]) == 2
