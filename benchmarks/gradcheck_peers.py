"""How small an error does a gradient check notice, and what does it cost? Ours beside others.

    python benchmarks/gradcheck_peers.py --out benchmarks/results/gradcheck_peers.json

The same NumPy functions, the same inputs, the same planted errors, each tool at its defaults:

    ours          scratch_vlm.gradcheck.check
    torch         torch.autograd.gradcheck, slow mode: the whole Jacobian (needs PyTorch)
    torch fast    the same with fast_mode=True: random projections
    central       the loop of Stanford's course CS231n: (f(x + h) - f(x - h)) / 2h for each entry,
                  h = 1e-5; above a relative error of 1e-7, of which its notes say "you should be
                  happy" with less, something counts as noticed

Three questions. *Sharpness*: gradients are scaled by 1 + e - all of them, those of one array, one
entry - and the smallest power of ten e that is noticed is reported. *Planted errors*: how many of
those of benchmarks/planted_errors.py that change a number does each tool notice, and how many of
five subtle ones? *Cost*: processor time and forward evaluations for a check of the right function,
per number that has a gradient. PyTorch calls the NumPy functions through an autograd.Function; what
that costs is in its time and not in its evaluations. A tool that calls the right function wrong has
a false alarm; what it notices then means nothing, and is null.
"""

import argparse
import json
import os
import platform
import sys
import time
import warnings
from pathlib import Path

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # small products: threads only get in the way

import numpy as np
from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

from planting import helpers, plant

from scratch_vlm.cases import Sizes, find_pairs, make_case
from scratch_vlm.gradcheck import measure
from scratch_vlm.tree import leaves, zeros_like

try:
    import torch
except ImportError:
    torch = None

SMALL = Sizes(B=2, T=3, S=4, A=2, K=3, M=7, E=5, V=8)
PAIRS = {  # and a seed that draws no dropout and a plain variant
    "layers.linear.linear": 0,
    "layers.norm.layer_norm": 0,
    "ops.losses.cross_entropy": 0,
    "ops.losses.contrastive": 0,
    "layers.mlp.mlp": 0,
    "layers.attention.self_attention": 0,
    "layers.block.pre_block": 0,
}
SHARPEST = 15
KINDS = ("all", "array", "entry")


class Problem:
    """A pair at a point, with everything a tool needs: arrays in, arrays out.

    Parameters
    ----------
    pair : Pair
    case : Case
    backward : callable, optional
        In place of that of the pair.
    change : callable, optional
        Changes the list of gradients.
    """

    def __init__(self, pair, case, backward=None, change=None):
        self.pair, self.case, self.change = pair, case, change
        self.backward_ = backward or pair.backward
        self.calls = 0
        self.float_inputs = [i for i, x in enumerate(case.inputs) if x.dtype.kind == "f"]
        self.names = [name for name, _ in leaves(case.p)] if case.p else []
        self.arrays = [case.inputs[i] for i in self.float_inputs]
        self.arrays += [x for _, x in leaves(case.p)] if case.p else []

    def forward(self, *arrays):
        """Return y and what the backward needs."""
        self.calls += 1
        inputs = list(self.case.inputs)
        for i, x in zip(self.float_inputs, arrays, strict=False):
            inputs[i] = x
        p = None
        if self.case.p:
            given = dict(zip(self.names, arrays[len(self.float_inputs) :], strict=True))
            p = tree_with(self.case.p, given)
        arguments = inputs if p is None else [*inputs, p]
        return self.pair.forward(*arguments, **self.case.fresh_options())

    def backward(self, dy, saved):
        """Return a gradient for each array."""
        g = zeros_like(self.case.p) if self.case.p else None
        dx = self.backward_(dy, saved) if g is None else self.backward_(dy, saved, g)
        dx = () if dx is None else dx if isinstance(dx, tuple) else (dx,)
        gradients = [*dx, *(x for _, x in leaves(g))]
        return tuple(self.change(gradients) if self.change else gradients)


def tree_with(tree, given, path=""):
    """Return a tree with other leaves, by their names."""
    if isinstance(tree, dict):
        return {k: tree_with(v, given, f"{path}/{k}" if path else str(k)) for k, v in tree.items()}
    return given[path]


def ours(problem):
    """Judge with this project's check."""
    return measure(problem.forward, problem.backward, problem.arrays).passed


def central(problem, h=1e-5, happy=1e-7):
    """Judge entry by entry, as CS231n does."""
    rng = np.random.default_rng(1)
    y, saved = problem.forward(*problem.arrays)
    dy = np.asarray(rng.standard_normal(np.shape(y)))
    worst = 0.0
    for number, gradient in enumerate(problem.backward(dy, saved)):
        x = problem.arrays[number].copy()
        arrays = [*problem.arrays[:number], x, *problem.arrays[number + 1 :]]
        numeric = np.zeros_like(x)
        for index in np.ndindex(*x.shape):
            before = x[index]
            x[index] = before + h
            ahead = (problem.forward(*arrays)[0] * dy).sum()
            x[index] = before - h
            behind = (problem.forward(*arrays)[0] * dy).sum()
            x[index] = before
            numeric[index] = (ahead - behind) / (2 * h)
        if gradient.shape != x.shape:
            return False
        error = abs(gradient - numeric) / np.maximum(1e-8, abs(gradient) + abs(numeric))
        worst = max(worst, float(np.nan_to_num(error, nan=np.inf).max(initial=0)))
    return worst <= happy


def torch_check(problem, fast=False):
    """Judge with PyTorch."""

    class Function(torch.autograd.Function):
        @staticmethod
        def forward(ctx, *tensors):
            y, ctx.kept = problem.forward(*(t.numpy() for t in tensors))
            return torch.from_numpy(np.array(y))

        @staticmethod
        def backward(ctx, dy):
            gradients = problem.backward(dy.numpy().copy(), ctx.kept)
            return tuple(torch.from_numpy(np.array(x)) for x in gradients)

    tensors = [torch.tensor(x, requires_grad=True) for x in problem.arrays]
    return torch.autograd.gradcheck(Function.apply, tensors, fast_mode=fast, raise_exception=False)


def torch_fast(problem):
    """Judge with PyTorch along random directions."""
    return torch_check(problem, fast=True)


TOOLS = {"ours": ours, "central": central}
if torch:
    TOOLS |= {"torch": torch_check, "torch fast": torch_fast}


def notices(tool, problem):
    """Say whether a tool calls a problem wrong; an exception counts."""
    try:
        with np.errstate(all="ignore"):
            return not tool(problem)
    except Exception:
        return True


def scaled(kind, e, at=0):
    """Return a change by a factor of 1 + e: of all, of the largest array, or of its number `at`."""

    def change(gradients):
        gradients = [np.array(x) for x in gradients]
        largest = max(range(len(gradients)), key=lambda i: gradients[i].size)
        if kind == "all":
            return [x * (1 + e) for x in gradients]
        if kind == "array":
            gradients[largest] *= 1 + e
        else:
            gradients[largest].reshape(-1)[at] *= 1 + e
        return gradients

    return change


def typical(pair, case):
    """Return the place of a number of median size in the largest gradient, for a random dy."""
    problem = Problem(pair, case)
    y, saved = problem.forward(*problem.arrays)
    dy = np.asarray(np.random.default_rng(3).standard_normal(np.shape(y)))
    flat = abs(max(problem.backward(dy, saved), key=np.size)).reshape(-1)
    return int(flat.argsort()[len(flat) // 2])


def one_array(choose, f):
    """Return a change of one array, the one with the most or the fewest numbers."""

    def change(gradients):
        chosen = choose(range(len(gradients)), key=lambda i: gradients[i].size)
        return [f(x) if i == chosen else x for i, x in enumerate(gradients)]

    return change


def last_row_off(x):
    """Return the array with its last row, or number, 1 % too large."""
    x = np.array(x)
    x[-1:] *= 1.01
    return x


SUBTLE = {
    "rounded to float32": lambda gradients: [x.astype("float32").astype(float) for x in gradients],
    "rounded to float16": lambda gradients: [x.astype("float16").astype(float) for x in gradients],
    "a constant 0.1 % off": scaled("all", 1e-3),
    "one row 1 % off": one_array(max, last_row_off),
    "smallest array 0.1 % off": one_array(min, lambda x: 1.001 * x),
}


def sharpness(tool, pair, case, kind):
    """Find the smallest power of ten that is noticed; None if not even 1 is."""
    smallest, at = None, typical(pair, case)
    for exponent in range(SHARPEST + 1):
        e = float(f"1e-{exponent}")
        if not notices(tool, Problem(pair, case, change=scaled(kind, e, at))):
            break
        smallest = e
    return smallest


def planted_in(pair, case):
    """Yield backwards with an error that changes a gradient but raises nothing."""
    y, saved = pair.forward(*case.inputs, *([case.p] if case.p else []), **case.fresh_options())
    dy = np.asarray(np.random.default_rng(2).standard_normal(np.shape(y)))
    right = Problem(pair, case).backward(dy.copy(), saved)
    for error in plant((pair.backward, *helpers(pair.backward))):
        problem = Problem(pair, case, error.function)
        try:
            with np.errstate(all="ignore"):
                _, saved = problem.forward(*problem.arrays)
                wrong = problem.backward(dy.copy(), saved)
            if len(wrong) != len(right) or any(
                a.shape != b.shape for a, b in zip(wrong, right, strict=True)
            ):
                continue
            top = max(abs(b).max(initial=0) for b in right)
            if any(
                not np.allclose(a, b, rtol=1e-9, atol=1e-12 * top)
                for a, b in zip(wrong, right, strict=True)
            ):
                yield error
        except Exception:
            continue


def timed(tool, pair, case):
    """Return the best of three times in seconds, and forward evaluations, of the right function."""
    best = np.inf
    for _ in range(3):
        problem = Problem(pair, case)
        started = time.process_time()  # for the machine may have other things to do
        tool(problem)
        best = min(best, time.process_time() - started)
    return best, problem.calls


def compare(name, seed):
    """Measure every tool on one pair; return its entry of the results."""
    pair, rng = find_pairs()[name], np.random.default_rng(seed)
    case = make_case(name, rng, SMALL)
    numbers = sum(x.size for x in Problem(pair, case).arrays)
    errors = list(planted_in(pair, case))
    result = {"numbers": numbers, "planted": len(errors), "tools": {}}
    for label, tool in tqdm(TOOLS.items(), leave=False, disable=None, desc=name):
        alarm = notices(tool, Problem(pair, case))  # first, for it warms up as well
        seconds, calls = timed(tool, pair, case)
        sharp = {kind: None if alarm else sharpness(tool, pair, case, kind) for kind in KINDS}
        caught = subtle = None
        if not alarm:
            caught = sum(notices(tool, Problem(pair, case, error.function)) for error in errors)
            subtle = [
                name
                for name, change in SUBTLE.items()
                if notices(tool, Problem(pair, case, change=change))
            ]
        result["tools"][label] = {
            "false_alarm": alarm,
            "smallest_e": sharp,
            "planted_noticed": caught,
            "subtle_noticed": subtle,
            "seconds": round(seconds, 5),
            "us_per_number": round(1e6 * seconds / numbers, 2),
            "forwards_per_number": round(calls / numbers, 3),
        }
        row = result["tools"][label]
        levels = "  ".join("    -" if e is None else f"{e:.0e}" for e in sharp.values())
        noticed = f"{'-' if alarm else caught:>3} of {len(errors):3d}"
        noticed += f"  {'-' if alarm else len(subtle):>2} of {len(SUBTLE)}"
        tqdm.write(
            f"{name:32} {label:10}  {levels}  {noticed}  {row['us_per_number']:9.1f}"
            f"  {row['forwards_per_number']:8.2f}{'  false alarm' if alarm else ''}"
        )
    return result


def summed(label, results):
    """Sum up what a tool did on all pairs on which it raised no false alarm."""
    rows = [(result, result["tools"][label]) for result in results]
    sound = [(result, row) for result, row in rows if not row["false_alarm"]]
    smallest = {kind: [row["smallest_e"][kind] for _, row in sound] for kind in KINDS}
    return {
        "false_alarms": len(rows) - len(sound),
        # The worst of the pairs; null if in one of them not even e = 1 was noticed.
        "smallest_e": {k: None if None in v else max(v) for k, v in smallest.items()},
        "planted": sum(result["planted"] for result, _ in sound),
        "planted_noticed": sum(row["planted_noticed"] for _, row in sound),
        "subtle": len(SUBTLE) * len(sound),
        "subtle_noticed": sum(len(row["subtle_noticed"]) for _, row in sound),
        "us_per_number": round(
            1e6 * sum(row["seconds"] for _, row in rows) / sum(r["numbers"] for r, _ in rows), 2
        ),
    }


def main():
    """Run it all, print a table, write the results."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, metavar="FILE", help="write the results here as JSON")
    options = parser.parse_args()
    if torch is None:
        print("torch is not installed: only the loop of CS231n is compared")
    else:
        torch.set_num_threads(1)
    started = time.perf_counter()
    print(f"{'smallest e noticed of':46}all  array  entry     planted  subtle  us/number  forwards")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        results = {name: compare(name, seed) for name, seed in PAIRS.items()}
    versions = {"python": platform.python_version(), "numpy": np.__version__}
    if torch:
        versions["torch"] = torch.__version__
    total = {label: summed(label, results.values()) for label in TOOLS}
    for label, row in total.items():
        print(f"{label:10}", json.dumps(row))
    report = {"date": time.strftime("%Y-%m-%d"), "versions": versions}
    report |= {"seconds": round(time.perf_counter() - started, 1), "total": total, "pairs": results}
    if options.out:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
