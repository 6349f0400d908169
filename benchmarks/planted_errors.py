"""Plant errors in every backward, one at a time, and count which of them the tests notice.

    python benchmarks/planted_errors.py --out benchmarks/results/planted_errors.json

A gradient check that passes says little until it is seen to fail. So each backward, and each helper
that it calls, is changed in one place: a sign, a factor, an axis, a transpose, a key of another
layer, a step left out. Behind the right forward it is then put through the gradient check on up to
24 random variants of its pair, and through what else a backward must keep: gradients accumulate,
frozen branches leave the others alone, `out` is where the result goes.

    numbers     a slope differs from that of the forward: the errors that would train on unnoticed
    contract    a gradient of the wrong shape or number, or a promise beside the slope is broken
    exception   it raises; any test would see that
    equivalent  it changes no number, for a reason listed in tests/test_planted_errors.py
    survived    it should have been noticed: a gap, and the exit status is 1

An equivalent error that is listed but not found is struck off: the exit status is 1, too.

Then the sharpness of the check: one gradient at a time is scaled by 1 + e, and the smallest power
of ten e that is noticed in six examples is reported, for the gradient of a pair where that is
smallest, the median one and the one where it is largest.

Needs the tests beside it and what they need: pip install -e ".[test]". Takes two minutes or so.
"""

import argparse
import json
import platform
import statistics
import sys
import time
from collections import Counter
from pathlib import Path

import numpy as np
from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

from planting import EXAMPLES, Judge, find_subjects, try_all
from test_planted_errors import listed_equivalents, reason

from scratch_vlm.tree import leaves

COLUMNS = ("planted", "numbers", "contract", "exception", "equivalent", "survived")
SHARPNESS_PAIRS = (
    "layers.linear.linear",
    "layers.norm.layer_norm",
    "ops.attend.attend",
    "layers.attention.self_attention",
    "ops.losses.contrastive",
    "layers.block.pre_block",
    "models.clip.clip",
)
SHARPNESS_EXAMPLES = 6
SHARPEST = 16  # digits of float64


def try_subjects(subjects):
    """Plant every error; return counts by module and by kind, the equivalents and survivors."""
    by_module, by_kind, equivalent, survived = {}, {}, {}, {}
    for subject in tqdm(subjects, unit="backward", leave=False, disable=None):
        for planted, how in try_all(subject):
            why = reason(planted) if how is None else None
            verdict = how or ("equivalent" if why else "survived")
            for table, row in ((by_module, subject.module), (by_kind, planted.kind)):
                table.setdefault(row, Counter()).update(("planted", verdict))
            if why:
                equivalent.setdefault(str(planted), why)
            elif how is None:
                survived.setdefault(subject.name, []).append(str(planted))
    return by_module, by_kind, equivalent, survived


def print_table(title, counts):
    """Print counts in rows, with their sum."""
    counts = counts | {"all": sum(counts.values(), Counter())}
    width = max(map(len, counts))
    print(f"{title:{width}}" + "".join(f"  {column:>10}" for column in COLUMNS))
    for row, count in counts.items():
        print(f"{row:{width}}" + "".join(f"  {count[column]:10d}" for column in COLUMNS))
    print()


def scaled(backward, target, factor):
    """Return a backward one of whose gradients, named as in a report, is off by a factor."""

    def wrong(dy, saved, *g):
        dx = backward(dy, saved, *g)
        if not target.startswith("input "):
            leaf = dict(leaves(g[0]))[target]
            leaf *= factor
            return dx
        several = dx if isinstance(dx, tuple) else (dx,)
        changed = tuple(x * factor if f"input {i}" == target else x for i, x in enumerate(several))
        return changed if isinstance(dx, tuple) else changed[0]

    return wrong


def sharpness(subject):
    """Find the smallest power of ten, as an exponent, that is noticed of each gradient."""
    judge, use, found = Judge(subject), subject.uses[0], {}
    right = use.backward(subject.functions[0])
    for example in range(SHARPNESS_EXAMPLES):
        for entry in judge.measure(use, right, example).entries:
            if not entry.analytic == entry.numeric == 0:
                found.setdefault(entry.name, 0)
                while found[entry.name] < SHARPEST:
                    e = 10.0 ** -(found[entry.name] + 1)
                    if judge.measure(use, scaled(right, entry.name, 1 + e), example).passed:
                        break
                    found[entry.name] += 1
    return found


def main():
    """Run it all, print tables, write the results; return the exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--family",
        default="",
        metavar="TEXT",
        help="only backwards whose name contains this: layers, ops.losses, layers.norm.rms_norm",
    )
    parser.add_argument("--out", type=Path, metavar="FILE", help="write the results here as JSON")
    options = parser.parse_args()
    every = find_subjects()
    subjects = [subject for subject in every if options.family in subject.name]
    if not subjects:
        names = ", ".join(subject.name for subject in every)
        parser.error(f"no backward has {options.family!r} in its name; there are {names}")

    started = time.perf_counter()
    by_module, by_kind, equivalent, survived = try_subjects(subjects)
    print_table("module", by_module)
    print_table("kind of error", dict(sorted(by_kind.items())))
    for name, errors in survived.items():
        print(f"survived in {name}:", *errors, sep="\n    ")

    idle = sorted(listed_equivalents() - set(equivalent)) if subjects == every else []
    if idle:
        print("listed as equivalent, but caught or no longer planted:", *idle, sep="\n    ")

    sharp = {}
    chosen = [subject for subject in subjects if subject.name in SHARPNESS_PAIRS]
    if chosen:
        print(f"{'smallest e noticed':32}  gradients  smallest    median   largest")
    for subject in chosen:
        exponents = sharpness(subject)
        at = sorted(exponents.values(), reverse=True)
        levels = (at[0], statistics.median_high(at), at[-1])
        print(f"{subject.name:32}  {len(at):9d}" + "".join(f"    1e-{e:02d}" for e in levels))
        names = ("smallest", "median", "largest")
        sharp[subject.name] = {"gradients": len(at)} | {
            name: float(f"1e-{e}") for name, e in zip(names, levels, strict=True)
        }

    total = sum(by_module.values(), Counter())
    report = {
        "date": time.strftime("%Y-%m-%d"),
        "versions": {"python": platform.python_version(), "numpy": np.__version__},
        "examples": EXAMPLES,
        "seconds": round(time.perf_counter() - started, 1),
        "total": {column: total[column] for column in COLUMNS},
        "by_module": {k: {c: v[c] for c in COLUMNS} for k, v in by_module.items()},
        "by_kind": {k: {c: v[c] for c in COLUMNS} for k, v in sorted(by_kind.items())},
        "equivalent": equivalent,
        "survived": survived,
        "smallest_scaling_noticed": sharp,
    }
    if options.out:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(json.dumps(report, indent=2) + "\n")
    return 1 if survived or idle else 0


if __name__ == "__main__":
    sys.exit(main())
