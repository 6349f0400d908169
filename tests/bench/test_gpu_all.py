"""One command does all that needs a GPU, and is honest where there is none."""

import os
import subprocess
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "gpu_all.sh"
PYTHON = """\
#!/usr/bin/env bash
echo "python $*" >> "$LOG"
case "$*" in
*cupy_problem*) echo "$PROBLEM" ;;
*) echo "said by $*"; case "$*" in *"$BROKEN"*) [ -z "$BROKEN" ] || exit 7 ;; esac ;;
esac
"""
SANITIZER = """\
#!/usr/bin/env bash
echo "sanitizer $*" >> "$LOG"
while [ "$1" != python ]; do shift; done
exec "$@"
"""


@pytest.fixture
def run(tmp_path):
    """Return a function that runs the script where Python only says what it was asked for."""
    programs, log, out = tmp_path / "programs", tmp_path / "log", tmp_path / "out"
    programs.mkdir()

    def run_script(*options, problem="", broken="", sanitizer=True):
        for name, text in {"python": PYTHON, "compute-sanitizer": SANITIZER}.items():
            if name == "python" or sanitizer:
                (programs / name).write_text(text)
                (programs / name).chmod(0o755)
        path = f"{programs}:/usr/bin:/bin"
        wanted = {"PATH": path, "LOG": str(log), "PROBLEM": problem, "BROKEN": broken}
        done = subprocess.run(
            ["bash", SCRIPT, out, *options], env=os.environ | wanted, capture_output=True, text=True
        )
        asked = log.read_text().splitlines()
        lines = (out / "summary.txt").read_text().splitlines()
        return done, asked, dict(line.split(maxsplit=1) for line in lines), out

    return run_script


def test_with_a_gpu_everything_runs(run):
    done, asked, summary, out = run("--minutes", "5")
    assert done.returncode == 0
    names = ("tests", "float64", "float32", "memcheck", "racecheck", "profile", "bench")
    assert summary == dict.fromkeys(names, "ok")
    assert any("pytest -m gpu" in line for line in asked)
    assert any("bench --backend cupy" in line and "--minutes 5" in line for line in asked)
    assert sum(line.startswith("sanitizer") for line in asked) == 2
    assert "said by -m pytest" in (out / "tests.txt").read_text()
    assert "commit" in (out / "about.txt").read_text()


@pytest.mark.parametrize(
    ("broken", "name"),
    [("pytest -m gpu", "tests"), ("float32", "float32"), ("scratch_vlm bench", "bench")],
)
def test_what_fails_is_named_and_the_rest_runs(run, broken, name):
    done, _, summary, _ = run(broken=broken)
    assert done.returncode == 1
    assert [key for key, said in summary.items() if said != "ok"] == [name]
    assert "FAILED with status 7" in summary[name]


def test_without_a_gpu_it_says_what_it_skips_and_measures_the_host(run):
    done, asked, summary, _ = run(problem="there is no driver")
    assert done.returncode == 3
    assert summary.pop("bench") == "ok"
    assert set(summary) == {"tests", "gradcheck", "sanitizer"}
    assert set(summary.values()) == {"skipped: there is no driver"}
    assert not any("--backend cupy" in line or "-m gpu" in line for line in asked)


def test_without_the_sanitizer_it_says_so(run):
    done, _, summary, _ = run(sanitizer=False)
    assert done.returncode == 3
    assert "no compute-sanitizer" in summary["sanitizer"] and summary["bench"] == "ok"
