"""Time one training step here and in PyTorch: same model, same weights, same batch, in turn.

    python benchmarks/train_step.py --out benchmarks/results/train_step.json

Two models: the ViT of the lessons (4 blocks, width 128, 65 tokens, batch 128) and the CLIP of the
demo (batch 128). A step is forward, loss, backward, clipping and AdamW, in float32. Before anything
is timed, both implementations must agree on the loss and on the norm of the gradient. PyTorch runs
eagerly, with as many threads as there are cores. Here the ViT's batch is shared out to as many
threads, with one BLAS thread each; the CLIP's steps are so short that one thread does them all.
Without PyTorch only our own time is measured (install torch to compare).

The floor is the FLOPs of the step's matrix products divided by the speed of a large matrix product
on the same cores, measured in the same run. Other models, sizes and devices: scratch-vlm bench.
"""

import os

os.environ["OPENBLAS_NUM_THREADS"] = "1"  # before NumPy: each of our threads multiplies by itself

import argparse
import json
import platform
import time
from pathlib import Path

import numpy as np

from scratch_vlm.backend import keep_freed_memory
from scratch_vlm.bench.clock import ratio
from scratch_vlm.bench.contenders import contenders
from scratch_vlm.bench.floors import floor_seconds, raise_ceilings
from scratch_vlm.bench.plan import Piece
from scratch_vlm.bench.run import measure
from scratch_vlm.bench.subjects import FLOAT, PASSES, subjects

MODELS = {"vit": "lesson ViT", "clip": "CLIP of the demo"}


def compare(family, found, ceilings, rounds):
    """Measure one model; return its entry of the results."""
    *_, subject = (subject for subject in subjects(quick=True) if subject.family == family)
    notes = {"ceilings": ceilings, "compiling": None, "skipped": {}, "remarks": {}, "failed": {}}
    entry = measure(Piece(subject, tuple(found)), notes, 0, rounds, 1e9, np.inf)
    if notes["skipped"] or notes["failed"]:
        raise SystemExit(json.dumps(notes["skipped"] | notes["failed"], indent=2))
    times = entry["times"]
    ours = times["numpy"]
    floor = floor_seconds(subject, ceilings[ours["place"]])
    result = {
        "parameters": subject.bytes // (FLOAT * PASSES),
        "gflop": round(subject.flops / 1e9, 2),
        "floor_ms": round(1e3 * floor, 1),
        "median_ms": {
            name.replace("numpy", "scratch_vlm"): round(1e3 * taken["seconds"], 1)
            for name, taken in times.items()
        },
        "share_of_floor": round(floor / ours["seconds"], 2),
    }
    if "torch" in times:
        both = ours["samples"], times["torch"]["samples"]
        ratios = [a / b for a, b in zip(*both, strict=True)]
        result["ratio_to_torch"] = round(ratio(*both), 3)
        result["ratio_min_max"] = [round(min(ratios), 3), round(max(ratios), 3)]
    print(family, json.dumps(result))
    return result


def main():
    """Run the comparison and write the results."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=15, help="timed steps of each (default 15)")
    parser.add_argument("--threads", type=int, default=2, help="cores to use (default 2)")
    parser.add_argument("--out", type=Path, metavar="FILE", help="write the results here as JSON")
    options = parser.parse_args()
    keep_freed_memory()
    found = [
        contender
        for contender in contenders("numpy", cores=options.threads)[0]
        if not contender.only
    ]
    ceilings = {}
    raise_ceilings(ceilings, found)
    results = {
        name: compare(family, found, ceilings, options.rounds) for name, family in MODELS.items()
    }
    versions = {"python": platform.python_version(), "numpy": np.__version__}
    try:
        import torch

        versions["torch"] = torch.__version__
    except ImportError:
        pass
    report = {"date": time.strftime("%Y-%m-%d"), "versions": versions, "threads": options.threads}
    report |= {"rounds": options.rounds, "batch": 128, "models": results}
    if options.out:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
