"""One command does all that needs a GPU, and is honest where there is none."""

import os
import re
import signal
import subprocess
import time
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "gpu_all.sh"
PYTHON = """\
#!/usr/bin/env bash
echo "python $*" >> "$LOG"
case "$*" in
*cupy_problem*) echo "$PROBLEM" ;;
*code_version*) echo "${CODE:-abc}" ;;
*) echo "said by $*"
   [ -n "$SLOW" ] && case "$*" in *"$SLOW"*) sleep 60 & wait $! ;; esac
   [ -n "$BROKEN" ] && case "$*" in *"$BROKEN"*) exit 7 ;; esac ;;
esac
exit 0
"""
SANITIZER = """\
#!/usr/bin/env bash
echo "sanitizer $*" >> "$LOG"
while [ "$1" != python ]; do shift; done
exec "$@"
"""
CHECKS = [f"{dtype}-{i}" for dtype in ("float64", "float32") for i in (1, 2, 3, 4)]
NAMES = ["bench", "tests", *CHECKS, "memcheck", "racecheck", "profile"]


class Script:
    """The script, where Python only says what it was asked for."""

    def __init__(self, path):
        self.out, self.log, self.programs = path / "out", path / "log", path / "programs"
        self.programs.mkdir()
        self.file = SCRIPT

    def start(self, *options, problem="", broken="", slow="", code="abc", sanitizer=True):
        for name, text in {"python": PYTHON, "compute-sanitizer": SANITIZER}.items():
            if name == "python" or sanitizer:
                (self.programs / name).write_text(text)
                (self.programs / name).chmod(0o755)
        self.log.write_text("")
        wanted = {"PATH": f"{self.programs}:/usr/bin:/bin", "LOG": str(self.log), "CODE": code}
        wanted |= {"PROBLEM": problem, "BROKEN": broken, "SLOW": slow}
        return subprocess.Popen(
            ["bash", self.file, self.out, *options],
            env=os.environ | wanted,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def __call__(self, *options, **world):
        process = self.start(*options, **world)
        self.printed = process.communicate(timeout=120)[0]
        self.status = process.returncode
        return self.summary()

    def summary(self):
        lines = (self.out / "summary.txt").read_text().splitlines()
        return dict(line.split(maxsplit=1) for line in lines)

    @property
    def asked(self):
        return self.log.read_text().splitlines()


@pytest.fixture
def script(tmp_path):
    return Script(tmp_path)


def test_with_a_gpu_everything_runs_the_benchmark_first(script):
    summary = script("--minutes", "5", "--only", "GELU")
    assert script.status == 0
    assert sorted(summary) == sorted(NAMES)
    assert all(re.fullmatch(r"ok, \d+ s, commit abc, .* UTC", said) for said in summary.values())
    asked = script.asked
    kinds = [i for i, line in enumerate(asked) if " bench --backend cupy" in line]
    tests = [i for i, line in enumerate(asked) if "pytest -m gpu" in line]
    assert len(kinds) == 2 and kinds[0] < min(tests) and max(tests) < kinds[1]
    first, second = (asked[i] for i in kinds)
    assert "--minutes 2.9 --only GELU" in first and first.count("--out") == 1
    assert float(second.split("--minutes ")[1].split()[0]) > 3
    assert sum(line.startswith("sanitizer") for line in asked) == 2
    assert {line.split("--part ")[1].split()[0] for line in asked if "--part" in line} == {
        "1/4",
        "2/4",
        "3/4",
        "4/4",
    }
    assert "said by -m pytest" in (script.out / "tests.txt").read_text()
    assert "commit abc" in (script.out / "about.txt").read_text()


@pytest.mark.parametrize(
    ("broken", "name"),
    [
        ("pytest -m gpu -n", "tests"),
        ("float32 --part 3/4", "float32-3"),
        ("scratch_vlm bench", "bench"),
    ],
)
def test_what_fails_is_named_and_only_that_is_done_again(script, broken, name):
    summary = script(broken=broken)
    assert script.status == 1
    assert [key for key, said in summary.items() if not said.startswith("ok")] == [name]
    assert summary[name].startswith("FAILED with status 7")
    summary = script(code="def")
    assert script.status == 0 and sorted(summary) == sorted(NAMES)
    assert {key for key, said in summary.items() if "commit def" in said} == {name, "bench"}
    done = [line for line in script.asked if broken in line or " bench " in line]
    ours = [line for line in script.asked if "-m pytest" in line or "gradcheck" in line]
    assert len(done) >= 2 and len(ours) == (name != "bench")
    about = (script.out / "about.txt").read_text()
    assert "commit abc" in about and "commit def" in about
    assert "is done already" in script.printed
    script("--again", code="ghi")
    assert all("commit ghi" in said for said in script.summary().values())
    assert sum("--again" in line for line in script.asked) == 1  # not to forget the first half


def test_a_part_that_takes_too_long_is_stopped_and_says_so(script, tmp_path):
    source = SCRIPT.read_text().replace("CHECKS=150", "CHECKS=1").replace("ATLEAST=10", "ATLEAST=1")
    (tmp_path / "benchmarks").mkdir()
    script.file = tmp_path / "benchmarks" / "gpu_all.sh"
    script.file.write_text(source)
    script(slow="float64 --part 2/4")
    assert script.status == 3
    stopped = {key for key, said in script.summary().items() if said.startswith("STOPPED after")}
    assert stopped == {"float64-2"}
    assert "said by" in (script.out / "gradcheck-float64-2.txt").read_text()


def test_ctrl_c_stops_the_parts_and_the_same_command_goes_on(script):
    process = script.start(slow="float32 --part 4/4")
    file, until = script.out / "gradcheck-float32-4.txt", time.monotonic() + 60
    while time.monotonic() < until and not (file.exists() and file.read_text()):
        time.sleep(0.05)
    time.sleep(0.2)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=60)
    assert process.returncode == 130
    assert script.summary()["float32-4"].startswith("STOPPED")
    summary = script()
    assert script.status == 0 and sorted(summary) == sorted(NAMES)


def test_without_a_gpu_it_says_what_it_skips_and_measures_the_host(script):
    summary = script(problem="there is no driver")
    assert script.status == 3
    assert summary.pop("bench").startswith("ok")
    assert set(summary) == {"tests", "gradcheck", "sanitizer", "profile"}
    assert set(summary.values()) == {"skipped: there is no driver"}
    assert not any("--backend cupy" in line or "-m gpu" in line for line in script.asked)


def test_without_the_sanitizer_it_says_so(script):
    summary = script(sanitizer=False)
    assert script.status == 3
    assert "no compute-sanitizer" in summary["sanitizer"] and summary["bench"].startswith("ok")


def test_what_the_benchmark_had_no_time_for_is_said(script):
    script.out.mkdir()
    (script.out / "bench.txt").write_text("numpy: GELU: time was up; the same command goes on\n")
    summary = script()
    assert script.status == 3 and "bench.txt" in summary["bench-rest"]


def test_help_is_what_the_script_says_of_itself():
    done = subprocess.run(["bash", SCRIPT, "--help"], capture_output=True, text=True)
    assert done.returncode == 0 and "--minutes" in done.stdout and "set -uo" not in done.stdout
    done = subprocess.run(["bash", SCRIPT, "--minutes", "x"], capture_output=True, text=True)
    assert done.returncode == 2 and "whole number" in done.stderr
