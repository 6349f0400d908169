"""Run the demo for several seeds and write the mean of each result: the numbers of the README.

    python benchmarks/demo.py --seeds 0 1 2 --out benchmarks/results/demo.json

Reads the test forms once for each seed. Takes about two minutes a seed on two cores.
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


def run_seed(seed, folder):
    """Run the demo in a process of its own, as a user would; return its metrics and seconds."""
    started = time.perf_counter()
    command = [sys.executable, "-m", "scratch_vlm", "demo", "--seed", str(seed)]
    subprocess.run([*command, "--out", str(folder)], check=True)
    metrics = json.loads((folder / "metrics.json").read_text())
    return metrics, time.perf_counter() - started


def summarize(runs):
    """Average the values of several runs' metrics, name by name."""
    flat = [{k.replace("/", "."): v for k, v in leaves(metrics)} for metrics in runs]
    summary = {}
    for name in flat[0]:
        if not name.endswith(".value"):
            continue
        stem = name.removesuffix(".value")
        values = [run[name] for run in flat]
        summary[stem] = {
            "mean": round(float(np.mean(values)), 4),
            "values": values,
            **{
                k: flat[0][f"{stem}.{k}"]
                for k in ("chance", "baseline")
                if f"{stem}.{k}" in flat[0]
            },
        }
    return summary


def main():
    """Run the seeds and write the results."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--out", type=Path, metavar="FILE", help="write the results here as JSON")
    options = parser.parse_args()
    runs, seconds = [], []
    with tempfile.TemporaryDirectory() as folder:
        for seed in options.seeds:
            metrics, took = run_seed(seed, Path(folder) / str(seed))
            runs.append(metrics)
            seconds.append(round(took, 1))
    report = {
        "date": time.strftime("%Y-%m-%d"),
        "command": "scratch-vlm demo --seed N",
        "split": "trained on forms 0-9, tuned on 10-11, measured on 12-13",
        "seeds": options.seeds,
        "seconds": seconds,
        "training_seconds": [round(run["seconds"]["training"], 1) for run in runs],
        "cores": os.cpu_count(),
        "versions": {"python": platform.python_version(), "numpy": np.__version__},
        "results": summarize(runs),
    }
    for name, result in report["results"].items():
        print(f"{name:42} {result['mean']:.3f}  {[round(v, 3) for v in result['values']]}")
    if options.out:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
