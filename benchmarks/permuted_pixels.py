"""What a fixed permutation of the pixels does to a ViT and to a Perceiver.

    python benchmarks/permuted_pixels.py --out benchmarks/results/permuted_pixels.json

A ViT cuts its patches from what it is given, so pixels in a random order, the same for all images,
tear its patches apart. A Perceiver reads single pixels, each with the Fourier features of its
position: if a pixel brings those of the place it came from, the order is nothing to it
("permuted"); if it takes those of the place it was moved to, neighbourhoods are lost as for the ViT
("permuted_blind"). Three seeds of five short trainings: about six minutes on two cores.
"""

import argparse
import json
import os
import platform
import tempfile
import time
from pathlib import Path

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import numpy as np

from scratch_vlm.experiments.perceiver import STEPS, compare_permuted


def main():
    """Train, measure on the test forms, and write the means."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--steps", type=int, default=STEPS, help=f"default {STEPS}")
    parser.add_argument("--out", type=Path, metavar="FILE", help="write the results here as JSON")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        runs = [
            compare_permuted(Path(folder) / str(seed), seed=seed, steps=options.steps, name="test")
            for seed in options.seeds
        ]
    results = {}
    for model, conditions in runs[0].items():
        for condition, entry in conditions.items():
            values = [run[model][condition]["value"] for run in runs]
            mean = round(float(np.mean(values)), 4)
            results[f"{model}.{condition}"] = {"mean": mean, "values": values} | {
                "chance": entry["chance"]
            }
            print(f"{model + ', ' + condition:28} {mean:.3f}  {[round(v, 3) for v in values]}")
    if options.out:
        report = {
            "date": time.strftime("%Y-%m-%d"),
            "split": "trained on forms 0-9, measured on 12-13",
            "steps": options.steps,
            "seeds": options.seeds,
            "versions": {"python": platform.python_version(), "numpy": np.__version__},
            "results": results,
        }
        options.out.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
