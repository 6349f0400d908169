"""Run a command for several seeds and write the mean of each result: the numbers of the README.

    python benchmarks/seeds.py demo --out benchmarks/results/demo.json
    python benchmarks/seeds.py compare --out benchmarks/results/compare.json --runs runs/seeds

Reads the test forms once for each seed. On two cores the demo takes about seven minutes a seed and
the comparison about half an hour. With --runs the trainings are kept, and what was trained there
before is not trained again: the seconds of trainings are those of when they were done.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from scratch_vlm.tree import leaves

BESIDE = ("chance", "baseline", "question_only", "image_only")


def run_seed(command, seed, folder):
    """Run the command in a process of its own, as a user would; return its metrics."""
    line = [sys.executable, "-m", "scratch_vlm", command, "--seed", str(seed)]
    subprocess.run([*line, "--out", str(folder)], check=True)
    return json.loads((folder / "metrics.json").read_text())


def flatten(metrics):
    """Name every number of nested metrics by its keys, joined by dots."""
    return {name.replace("/", "."): number for name, number in leaves(metrics)}


def summarize(runs):
    """Average the values of several runs' metrics, name by name."""
    flat = [flatten(metrics) for metrics in runs]
    summary = {}
    for name in flat[0]:
        stem, _, last = name.rpartition(".")
        if last in BESIDE or stem.startswith("seconds") or name == "seed":
            continue
        stem = stem if last == "value" else name
        values = [run[name] for run in flat]
        beside = {k: flat[0][f"{stem}.{k}"] for k in BESIDE if f"{stem}.{k}" in flat[0]}
        summary[stem] = {"mean": round(float(np.mean(values)), 4), "values": values, **beside}
    return summary


def main():
    """Run the seeds and write the results."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("command", choices=("demo", "compare"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--out", type=Path, metavar="FILE", help="write the results here as JSON")
    parser.add_argument("--runs", type=Path, metavar="DIR", help="keep the trainings here")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        runs = [
            run_seed(options.command, seed, (options.runs or Path(folder)) / str(seed))
            for seed in options.seeds
        ]
    seconds = [flatten(run["seconds"]) for run in runs]
    report = {
        "date": time.strftime("%Y-%m-%d"),
        "command": f"scratch-vlm {options.command} --seed N",
        "split": "trained on forms 0-9, tuned on 10-11, measured on 12-13",
        "seeds": options.seeds,
        "seconds": {name: [round(run[name], 1) for run in seconds] for name in seconds[0]},
        "cores": os.cpu_count(),
        "versions": {"python": platform.python_version(), "numpy": np.__version__},
        "results": summarize(runs),
    }
    for name, result in report["results"].items():
        print(f"{name:48} {result['mean']:.4g}  {[round(v, 3) for v in result['values']]}")
    if options.out:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
