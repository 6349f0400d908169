"""The benchmark measures whatever is here, and says what it left out."""

import json
import os
import signal
import time
from dataclasses import replace

import numpy as np
import pytest
from bench_cases import SMALL, STEPS

from scratch_vlm.bench import floors, judge, plan, run
from scratch_vlm.bench.agree import difference, texts_apart
from scratch_vlm.bench.contenders import Ours, Recorded
from scratch_vlm.bench.floors import floor_seconds
from scratch_vlm.bench.judge import TARGETS, by_size, crossovers, targets
from scratch_vlm.bench.plan import TooLongError, limited, pieces, why_not
from scratch_vlm.bench.run import choose, run_bench
from scratch_vlm.bench.show import draw, table
from scratch_vlm.bench.subjects import PAIRS, subjects
from scratch_vlm.cli import main
from scratch_vlm.training.run import RunFolderError

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
    monkeypatch.setattr(floors, "SIDES", {False: 8})
    monkeypatch.setattr(floors, "COPIES", {False: (64, 2**20)})
    monkeypatch.setattr(run, "code_version", lambda: "abc")


def test_everything_is_written_and_drawn(tmp_path, capsys):
    report = run_bench(tmp_path, quick=True, note="a test")
    assert json.loads((tmp_path / "bench.json").read_text()) == json.loads(json.dumps(report))
    assert (tmp_path / "bench.png").stat().st_size > 10_000
    assert report["machine"]["note"] == "a test" and report["machine"]["versions"]["numpy"]
    assert [entry["family"] for entry in report["results"]] == [s.family for s in SMALL[::3]]
    for entry, subject in zip(report["results"], SMALL[::3], strict=True):
        taken = entry["times"]["numpy"]
        assert len(taken["samples"]) in (3, 4, 5) and taken["first"] > 0
        assert taken["share_of_floor"] == taken["floor"] / taken["seconds"] > 0
        assert taken["floor"] == floor_seconds(subject, report["ceilings"][taken["place"]])
        assert (taken["memory"] is not None) == (entry["kind"] == "step")
    printed = capsys.readouterr().out
    for subject in SMALL[::3]:
        assert subject.name in printed
    assert "cupy: absent" in printed and "targets of a GPU: unmeasured" in printed
    assert (tmp_path / "bench.txt").read_text() == printed


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

    def rest():
        found[1].free_again = found[1].failed

    monkeypatch.setattr(found[0], "rest", rest)
    report = run_bench(tmp_path, only=["RMS"])
    names = [sorted(entry["times"]) for entry in report["results"]]
    assert names == ([["numpy", "other"]] * 2 if enough else [])
    assert len(report["skipped"]) == (0 if enough else 2) and not report["failed"]


def test_what_was_measured_is_whole_whenever_it_ends(tmp_path, monkeypatch):
    written = []
    monkeypatch.setattr(run, "write_json", lambda path, report: written.append(json.dumps(report)))
    run_bench(tmp_path, only=["RMS"])
    for count, text in zip((1, 2, 2), written, strict=True):  # and the ceilings once more
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


class Compiled(Strange):
    """One that has to be compiled, and is held against another."""

    def __init__(self):
        super().__init__("torch compiled", lambda work: work)
        self.maker, self.only = "torch", "compiled"


def test_what_targets_speak_of_comes_first_then_each_op_once_and_what_is_compiled_last(monkeypatch):
    aims = ({"VLM, unified": 4}, "numpy", "torch", 1.0), ({"CLIP": 6}, "x", "torch compiled", 1.0)
    monkeypatch.setattr(plan, "TARGETS", aims)
    subjects = [
        replace(subject, compiled=("float32",)) if subject.kind == "step" else subject
        for subject in SMALL
    ]
    order = [
        (piece.subject.family, piece.subject.size, [one.name for one in piece.who])
        for piece in pieces(subjects, [Ours(np), Compiled()])
    ]
    alone, both = ["numpy"], ["numpy", "torch compiled"]
    assert order[:3] == [("CLIP", 6, alone), ("VLM, unified", 4, alone), ("CLIP", 6, both)]
    ops = [*PAIRS, "AdamW"]
    assert [family for family, *_ in order[3 : 3 + 2 * len(ops)]] == ops + ops
    assert [family for family, _, who in order if who == both][1:] == [
        "ViT",
        "VLM, unified",
        "VLM, cross-modal",
    ]
    assert order[-4][0] == "LM" and len(order) == len(SMALL) + 4


def test_few_of_whom_targets_speak_come_before_everybody(tmp_path, monkeypatch):
    aims = (({"CLIP": 6}, "numpy", "torch", 1.0), ({"CLIP": 6}, "numpy", "torch compiled", 1.0))
    monkeypatch.setattr(plan, "TARGETS", aims)
    monkeypatch.setattr(judge, "TARGETS", aims)
    subject = replace(next(one for one in SMALL if one.family == "CLIP"), compiled=("float32",))
    monkeypatch.setattr(run, "subjects", lambda quick: [subject])
    found = [Ours(np), *(Strange(name, lambda work: work) for name in ("other", "torch"))]
    found[2].maker = "torch"
    found.append(Compiled())
    monkeypatch.setattr(run, "contenders", lambda *_, **__: (found, {}))
    order = [(piece.part, [one.name for one in piece.who]) for piece in pieces([subject], found)]
    assert order == [
        ("targets", ["numpy", "torch"]),
        ("torch compiled", ["other", "torch compiled"]),
        ("", ["numpy", "other", "torch"]),
    ]
    report = run_bench(tmp_path)
    assert [entry["piece"][2:] for entry in report["results"]] == [[], ["targets"], [order[1][0]]]
    assert [one["ratio"] is None for one in report["targets"]] == [False, True]
    (row,) = by_size(report["results"])
    assert list(row["times"]) == ["numpy", "other", "torch", "torch compiled"]


def test_a_device_takes_turns_with_the_host_and_is_held_against_it(tmp_path, monkeypatch, xp):
    device = xp.__name__
    aims = (({"VLM, unified": 4}, f"{device} tf32 graph", "numpy", 1.0),)
    monkeypatch.setattr(plan, "TARGETS", aims)
    monkeypatch.setattr(judge, "TARGETS", aims)
    monkeypatch.setattr(plan, "PATIENCE", dict.fromkeys(plan.PATIENCE, 1e9))
    monkeypatch.setattr(floors, "SIDES", {False: 8, True: 8})
    monkeypatch.setattr(floors, "COPIES", {False: (64, 2**20), True: (64, 2**20)})
    found = [Ours(np), *(Ours(xp, precision) for precision in ("float32", "tf32", "bf16"))]
    found += [Recorded(xp, precision) for precision in ("tf32", "bf16")]
    monkeypatch.setattr(run, "contenders", lambda *_, **__: (found, {}))
    report = run_bench(tmp_path, only=["VLM, unified"])
    assert not report["failed"]
    (target,) = report["targets"]
    assert target["ratio"] > 0
    whole = next(one for one in report["results"] if one["family"] == "VLM, unified")
    assert list(whole["times"]) == [contender.name for contender in found]
    for name, taken in whole["times"].items():
        assert taken["memory"] >= 0 and (taken["busy"] is None or name == "numpy")


def test_results_stay_in_order(tmp_path, monkeypatch):
    monkeypatch.setattr(plan, "TARGETS", (({"VLM, unified": 4}, "numpy", "torch", 1.0),))
    report = run_bench(tmp_path)
    listed = [(one["family"], one["size"]) for one in report["results"]]
    assert listed == [(subject.family, subject.size) for subject in SMALL]


def measured(monkeypatch):
    """Return the list of what is measured from now on."""
    log, original = [], run.measure

    def note(piece, *arguments):
        log.append(piece.subject.name)
        return original(piece, *arguments)

    monkeypatch.setattr(run, "measure", note)
    return log


def test_second_run_does_what_is_missing_or_failed(tmp_path, monkeypatch, capsys):
    broken = [1]

    def sometimes(work):
        return lambda: work() if not broken else 1 / 0

    found = [Ours(np), Strange("other", sometimes)]
    monkeypatch.setattr(run, "contenders", lambda backend, cores: (found, {}))
    first = run_bench(tmp_path, only=["RMS"])
    assert len(first["failed"]) == 2
    broken.clear()
    monkeypatch.setattr(run, "code_version", lambda: "def")
    log = measured(monkeypatch)
    second = run_bench(tmp_path, only=["RMS", "QuickGELU"])
    assert len(log) == 4 and not second["failed"]
    assert all(set(entry["times"]) == {"numpy", "other"} for entry in second["results"])
    assert "holds 2 pieces" in capsys.readouterr().out
    log.clear()
    third = run_bench(tmp_path, only=["RMS", "GELU"])
    assert log == ["GELU, 64 tokens", "GELU, 16 tokens"]
    for old, new in zip(second["results"][:2], third["results"][:2], strict=True):
        assert old["times"]["other"]["samples"] == new["times"]["other"]["samples"]
        assert old["code"] == new["code"] == "def"
    assert {entry["family"] for entry in third["results"]} == {"RMS norm", "GELU", "QuickGELU"}
    log.clear()
    run_bench(tmp_path, only=["RMS"], again=True)
    assert len(log) == 2 and "--again" in capsys.readouterr().out


def test_two_codes_in_one_folder_are_seen(tmp_path, monkeypatch):
    run_bench(tmp_path, only=["RMS"])
    monkeypatch.setattr(run, "code_version", lambda: "def+")
    report = run_bench(tmp_path, only=["RMS", "linear"])
    assert [entry["code"] for entry in report["results"]] == ["def+"] * 2 + ["abc"] * 2
    text = table(report)
    assert "commit abc: 2 pieces" in text and "commit def+: 2 pieces" in text


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda report: report.update(seed=1), "--seed"),
        (lambda report: report.update(quick=True), "--quick"),
        (lambda report: report.pop("format"), "this version"),
        (lambda report: report["machine"].update(device={"name": "another"}), "device.*another"),
        (lambda report: report["machine"]["versions"].update(numpy="1.0"), "versions.*1.0"),
    ],
)
def test_results_that_cannot_stand_beside_new_ones_are_refused(change, why, tmp_path):
    run_bench(tmp_path, only=["RMS"])
    report = json.loads((tmp_path / "bench.json").read_text())
    change(report)
    (tmp_path / "bench.json").write_text(json.dumps(report))
    with pytest.raises(RunFolderError, match=f"(?s){why}.*--again"):
        run_bench(tmp_path, only=["RMS"])
    assert run_bench(tmp_path, only=["RMS"], again=True)["results"]


def test_sigterm_keeps_what_was_measured_and_the_next_run_goes_on(tmp_path, monkeypatch):
    log = measured(monkeypatch)

    def killed(work):
        if len(log) == 6:
            os.kill(os.getpid(), signal.SIGTERM)
        return work

    monkeypatch.setattr(run, "contenders", lambda *_, **__: ([Strange("numpy", killed)], {}))
    before = signal.getsignal(signal.SIGTERM)
    report = run_bench(tmp_path)
    assert report["interrupted"] and len(report["results"]) == 5
    assert signal.getsignal(signal.SIGTERM) is before
    assert (tmp_path / "bench.png").exists()
    log[:] = [""] * 6
    report = run_bench(tmp_path)
    assert len(log) == 6 + len(SMALL) - 5 and len(report["results"]) == len(SMALL)
    assert not report["interrupted"]


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="there are no alarms here")
def test_whoever_takes_more_than_its_share_is_stopped_and_the_others_are_timed(
    tmp_path, monkeypatch
):
    def endless():
        try:
            while True:
                time.sleep(0.01)
        except Exception:  # as compilers do
            return None

    monkeypatch.setattr(run, "share_of_time", lambda *_: 0.2)
    found = [Ours(np), Strange("other", lambda work: endless)]
    monkeypatch.setattr(run, "contenders", lambda backend, cores: (found, {}))
    report = run_bench(tmp_path, only=["RMS"])
    assert [list(entry["times"]) for entry in report["results"]] == [["numpy"], ["numpy"]]
    assert "stopped after 0 s" in report["skipped"]["other: RMS norm, 16 tokens"]
    assert not report["failed"]
    with pytest.raises(TooLongError), limited(0.05):
        endless()
    with limited(0.05):
        pass
    time.sleep(0.1)  # no alarm is left


def test_who_fails_while_they_take_turns_does_not_end_the_run(tmp_path, monkeypatch):
    def third(work):
        calls = []
        return lambda: calls.append(1) or (work() if len(calls) < 3 else 1 / 0)

    monkeypatch.setattr(run, "contenders", lambda *_, **__: ([Strange("numpy", third)], {}))
    report = run_bench(tmp_path, only=["RMS"])
    assert "took turns: ZeroDivisionError" in report["failed"]["numpy: RMS norm, 16 tokens"]
    assert not report["results"]


def test_what_is_too_much_is_left_out_and_the_reason_said():
    later, host = time.monotonic() + 100, Ours(np)
    report = {"ceilings": {"1 core": CEILING}, "compiling": None}

    def why(contender=host, until=later, report=report, **changes):
        changes = {"flops": 1000, "bytes": 10} | changes
        return why_not(replace(STEPS[0], **changes), contender, report, until)

    assert why() is None
    assert "41.0 s" in why(flops=int(41e9))
    assert "needs about 2048 GiB" in why(memory=2**41)
    assert "--minutes" in why(until=time.monotonic() - 1)
    graph = Ours(np)
    graph.only, graph.free = "graph", lambda: 10 * 2**30
    assert why(graph, memory=3 * 2**30) is None
    assert "keep about 4 GiB of 10" in why(graph, memory=4 * 2**30)


def test_compiling_that_would_not_fit_is_skipped_and_the_next_guess_is_from_the_last():
    report, one = {"ceilings": {"1 core": CEILING}, "compiling": None}, Compiled()
    step = replace(STEPS[0], flops=1000, bytes=10, blocks=24)
    soon, later = (time.monotonic() + seconds for seconds in (100, 200))
    assert "may take 106 s, and 100 are left" in why_not(step, one, report, soon)
    assert why_not(step, one, report, later) is None
    report["compiling"] = 1.0  # a cache was warm
    assert why_not(step, one, report, soon) is None
    assert why_not(step, Ours(np), {**report, "compiling": 1e9}, soon) is None


def test_compiling_is_measured_and_stands_beside_whom_it_is_held_against(tmp_path, monkeypatch):
    subject = replace(STEPS[0], compiled=("float32",))
    monkeypatch.setattr(run, "subjects", lambda quick: [subject])
    found = [Ours(np), Compiled()]
    monkeypatch.setattr(run, "contenders", lambda backend, cores: (found, {}))
    report = run_bench(tmp_path)
    first, second = report["results"]
    assert set(first["times"]) == {"numpy"} and set(second["times"]) == {"numpy", "torch compiled"}
    assert report["compiling"] == second["times"]["torch compiled"]["first"] / subject.blocks
    (row,) = by_size(report["results"])
    assert row["times"]["numpy"] == first["times"]["numpy"]
    assert set(row["times"]) == {"numpy", "torch compiled"}
    rows = [line for line in table(report).splitlines() if line.startswith(subject.name)]
    assert len(rows) == 2  # its time and its memory


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


def test_cores_that_others_kept_busy_are_said(tmp_path, monkeypatch):
    def slow(work):
        return lambda: time.sleep(0.06) or work()

    monkeypatch.setattr(run, "contenders", lambda *_, **__: ([Strange("numpy", slow)], {}))
    report = run_bench(tmp_path, only=["CLIP", "MLP"])
    assert "cores of 1 to itself" in report["remarks"]["numpy: CLIP, 6 images and texts"]
    busy = [entry["times"]["numpy"]["busy"] for entry in report["results"]]
    assert busy[:2] == [None, None] and busy[2] < 0.9


def test_texts_that_are_others_are_counted():
    right = np.arange(12).reshape(4, 3)
    assert texts_apart([right], [right]) == 0
    assert texts_apart([right + (right > 9)], [right]) == 0.25
    assert texts_apart([right[:3]], [right]) == np.inf


def entry(family, size, **seconds):
    times = {
        name.replace("_", " "): {"seconds": s, "samples": [s, s, s]} for name, s in seconds.items()
    }
    return {"family": family, "size": size, "unit": "tokens", "times": times}


def test_reasons_are_said_once(tmp_path, monkeypatch, capsys):
    found = [Ours(np), Strange("other", lambda work: work)]
    monkeypatch.setattr(run, "contenders", lambda backend, cores: (found, {"cupy": "absent"}))
    run_bench(tmp_path, only=["RMS"], minutes=0)
    assert [
        line.strip() for line in capsys.readouterr().out.split("skipped\n")[1].splitlines()
    ] == [
        "cupy: absent",
        "numpy, other: RMS norm, 64 tokens; RMS norm, 16 tokens: time was up; the same command "
        "goes on, and --minutes gives more",
    ]


def test_many_that_were_skipped_for_one_reason_are_not_all_named():
    skipped = {f"numpy: work {i}": "too long" for i in range(9)}
    report = {"results": [], "ceilings": {}, "crossover": {}, "targets": [], "skipped": skipped}
    text = table(report | {"failed": {}, "remarks": {}, "interrupted": False})
    assert "numpy: work 0; work 1; work 2; work 3; work 4; and 4 more: too long" in text


def test_floor_reaches_as_far_as_anybody(tmp_path):
    report = run_bench(tmp_path, only=["RMS"])
    del report["results"][-1]["times"]["numpy"]
    report["results"][-1]["times"]["other"] = report["results"][0]["times"]["numpy"]
    (panel,) = draw(report).axes[1:]
    floors = [line for line in panel.lines if line.get_linewidth() == 0.8]
    assert [list(line.get_xdata()) for line in floors] == [[16, 64]]


def test_crossover_is_where_the_gpu_begins_to_win_for_good():
    results = [entry("a", n, numpy=n, cupy=c) for n, c in ((4, 3), (16, 64), (256, 64), (1024, 64))]
    results += [entry("b", n, numpy=n, cupy=2 * n) for n in (4, 16, 64)]
    results += [entry("c", n, numpy=n, cupy=1) for n in (4, 16, 64)]
    results += [entry("d", n, numpy=2, cupy=1) for n in (4, 16)]  # too few to say
    results += [entry("e", 4, numpy=1)]
    found = crossovers(results)
    assert set(found) == {"a", "b", "c"}
    assert found["a"] == {
        "unit": "tokens",
        "smallest": 4,
        "largest": 1024,
        "wins_from": 256,
        "about": 64,
    }
    assert (found["b"]["wins_from"], found["b"]["about"]) == (None, None)
    assert (found["c"]["wins_from"], found["c"]["about"]) == (4, None)
    report = {"results": [], "ceilings": {}, "skipped": {}, "failed": {}, "remarks": {}}
    text = table(report | {"interrupted": False, "targets": [], "crossover": found})
    assert "a: from about 64 tokens on; measured at 256" in text
    assert "b: at none of these sizes, up to 64 tokens" in text
    assert "c: at all of these sizes, 4 tokens and more" in text


def test_targets_are_held_against_their_own_size():
    results = [
        entry("lesson ViT", 16, cupy_tf32_graph=1.0, numpy=1.0),
        entry("lesson ViT", 128, numpy=1.0, cupy_tf32_graph=0.02, torch_tf32=0.1),
        entry("ViT-B/16", 2, cupy_bf16_graph=1.0, torch_bf16=0.5, torch_bf16_compiled=1.0),
        entry("ViT-B/16", 128, cupy_bf16_graph=1.0, torch_bf16=2.0),
    ]
    found = {(one["what"], one["beside"]): one["ratio"] for one in targets(results)}
    assert found["lesson ViT", "numpy"] == 0.02
    assert found["lesson ViT", "torch tf32"] == pytest.approx(0.2)
    assert found["lesson ViT", "torch tf32 compiled"] is None
    assert found["ViT-B/16", "torch bf16"] == 0.5
    assert found["ViT-B/16", "torch bf16 compiled"] is None  # that of 2 images does not count
    report = {"results": [], "ceilings": {}, "crossover": {}, "skipped": {}, "failed": {}}
    report |= {"remarks": {}, "interrupted": False}
    text = table(report | {"targets": targets(results)})
    assert "0.02 of its time, at most 0.01: missed" in text
    assert "0.2 of its time, at most 0.333: met" in text
    assert "128: cupy tf32 graph beside torch tf32 compiled: unmeasured, at most 1.2" in text


def test_sizes_that_targets_speak_of_are_timed():
    every = {(subject.family, subject.size) for subject in subjects()}
    for families, who, beside, _ in TARGETS:
        assert set(families.items()) <= every
        assert who.startswith("cupy") and beside.partition(" ")[0] in ("numpy", "torch")


def test_floor_in_bf16_has_half_the_bytes_but_for_what_stays_exact():
    assert floor_seconds({"flops": 0, "bytes": 2000, "exact": 400}, CEILING, "tf32") == 2000 / 1e9
    assert floor_seconds({"flops": 0, "bytes": 2000, "exact": 400}, CEILING, "bf16") == 1200 / 1e9


def test_command_says_what_is_wrong_before_it_measures(tmp_path, capsys):
    assert main(["bench", "--only", "convolution", "--out", str(tmp_path)]) == 2
    assert "'convolution'" in capsys.readouterr().err
    file = tmp_path / "file"
    file.touch()
    assert main(["bench", "--out", str(file / "folder")]) == 2
