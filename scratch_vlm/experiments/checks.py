"""What the commands ``gradcheck`` and ``info`` do."""

import platform
import time
from importlib import metadata

import numpy as np
from tqdm import tqdm

import scratch_vlm
from scratch_vlm.backend import cupy_problem, load
from scratch_vlm.cases import find_pairs, measure_case, snippet, whole_models
from scratch_vlm.training.run import prepare_file, write_json

LIBRARIES = ("numpy", "scipy", "matplotlib", "safetensors", "tqdm", "torch")


def check_pairs(
    text="", *, seed=0, examples=6, backend=None, dtype="float64", part=(1, 1), files=()
):
    """Check the gradients of the library's pairs and print a table.

    Parameters
    ----------
    text : str, default ""
        Only pairs whose name contains it.
    seed : int, default 0
        Of all random numbers.
    examples : int, default 6
        Random variants of each pair.
    backend : str, optional
        Where both slopes are computed.
    dtype : {"float64", "float32"}
        With float32, gradients are judged in that precision as well, which takes their rounding
        to be no error.
    part : (int, int), default (1, 1)
        ``(i, n)`` checks every nth pair, from the ith on.
    files : sequence of path
        Where to write the results as JSON, after each pair.

    Returns
    -------
    bool
        Whether every pair passed.

    Raises
    ------
    ValueError
        If no pair matches, or none is in that part.
    RunFolderError
        If a file cannot be written; said before anything is checked.
    """
    xp = load(backend)
    every = find_pairs() | whole_models()
    chosen = {name: pair for name, pair in every.items() if text in name}
    if not chosen:
        raise ValueError(f"no pair has {text!r} in its name; there are {', '.join(every)}")
    there = len(chosen)
    chosen = dict(list(chosen.items())[part[0] - 1 :: part[1]])
    if not chosen:
        raise ValueError(f"part {part[0]} of {part[1]} is empty: there are {there} pairs")
    for file in files:
        prepare_file(file)
    about = {"seed": seed, "examples": examples, "dtype": dtype, "backend": xp.__name__}
    about["chosen"] = len(chosen)
    width = max(map(len, chosen))
    print(f"{'pair':{width}}  inputs  parameters  worst error  method   seconds")
    results, wrong = [], []
    for name, pair in tqdm(chosen.items(), disable=None, leave=False, unit="pair"):
        started = time.perf_counter()
        reports = [
            measure_case(pair, [seed, example], dtype=dtype, xp=xp) for example in range(examples)
        ]
        seconds = time.perf_counter() - started
        results.append(_summary(name, reports) | {"seconds": round(seconds, 3)})
        for file in files:
            write_json(file, about | {"pairs": results})
        mark = "" if results[-1]["passed"] else "  <- wrong"
        tqdm.write(
            f"{name:{width}}  {results[-1]['inputs']:6d}  {results[-1]['parameters']:10d}  "
            f"{results[-1]['worst']:11.1e}  {results[-1]['method']:7}  {seconds:7.2f}{mark}"
        )
        failed = [example for example, report in enumerate(reports) if not report.passed]
        if failed:
            again = snippet(name, [seed, failed[0]], dtype=dtype)
            wrong.append(f"\n{name}:\n{reports[failed[0]]}\nTo see it again:\n{again}")
        elif text and len(chosen) <= 3:
            tqdm.write(f"\n{reports[-1]}\n")
    for lines in wrong:
        print(lines)
    worst = max(results, key=lambda result: np.nan_to_num(result["worst"], nan=np.inf))
    print(
        f"\n{len(results)} pair{'s' * (len(results) > 1)}, {len(wrong)} wrong; "
        f"worst error {worst['worst']:.1e} ({worst['name']})"
    )
    return not wrong


def _summary(name, reports):
    """Say of one pair how many numbers were judged, and the worst error of each array."""
    entries = [entry for report in reports for entry in report.entries]
    gradients = {}
    for entry in entries:
        before = gradients.get(entry.name, 0.0)
        gradients[entry.name] = float(np.max([entry.error, before]))
    rounding = [entry.rounding for entry in entries if entry.rounding is not None]
    return {
        "name": name,
        "passed": all(report.passed for report in reports),
        "worst": float(np.max([report.worst for report in reports])),
        "method": reports[0].method,
        "inputs": sum(entry.size for entry in entries if entry.kind == "input"),
        "parameters": sum(entry.size for entry in entries if entry.kind == "parameter"),
        "directions": sum(entry.directions for entry in entries),
        "gradients": gradients,
        "faults": [fault.message for report in reports for fault in report.faults],
    } | ({"rounding": max(rounding)} if rounding else {})


def describe_installation(backend=None, folder=None):
    """Print versions, and which backends work.

    Parameters
    ----------
    backend : str, optional
        Say an error if this one cannot be used.
    folder : path, optional
        Where to write ``info.json``.

    Raises
    ------
    RunFolderError
        If it cannot be written; said before anything is printed.
    """
    if folder:
        prepare_file(folder / "info.json")
    versions = {"scratch_vlm": scratch_vlm.__version__, "python": platform.python_version()}
    for library in LIBRARIES:
        try:
            versions[library] = metadata.version(library)
        except metadata.PackageNotFoundError:
            versions[library] = None
    problem = cupy_problem()
    info = {
        "versions": versions,
        "platform": platform.platform(),
        "backends": {"numpy": "works", "cupy": problem or "works"},
    }
    for name, version in versions.items():
        print(f"{name:12} {version or 'not installed'}")
    print(f"{'platform':12} {info['platform']}")
    blas = np.show_config(mode="dicts")["Build Dependencies"]["blas"]
    print(f"{'blas':12} {blas['name']} {blas['version']}")
    for name, state in info["backends"].items():
        print(f"{name:12} {state}")
    print(f"{'chosen':12} {load(backend).__name__}")
    if folder:
        write_json(folder / "info.json", info)
