"""What the commands ``gradcheck`` and ``info`` do."""

import platform
import time
from importlib import metadata

import numpy as np
from tqdm import tqdm

import scratch_vlm
from scratch_vlm.backend import cupy_problem, load
from scratch_vlm.cases import find_pairs, make_case
from scratch_vlm.gradcheck import measure
from scratch_vlm.training.run import prepare_file, write_json

LIBRARIES = ("numpy", "scipy", "matplotlib", "safetensors", "tqdm", "torch")


def check_pairs(text="", *, seed=0, examples=6, backend=None, files=()):
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
        Which backend to name; gradients are exact in float64 and complex numbers on the host.
    files : sequence of path
        Where to write the results as JSON.

    Returns
    -------
    bool
        Whether every pair passed.

    Raises
    ------
    ValueError
        If no pair matches, or the backend is not NumPy.
    RunFolderError
        If a file cannot be written; said before anything is checked.
    """
    if load(backend) is not np:
        raise ValueError(
            "gradients are checked in float64 on the host; give --backend numpy. The same "
            "functions run on CuPy, so what is right here is right there up to rounding"
        )
    every = find_pairs()
    chosen = {name: pair for name, pair in every.items() if text in name}
    if not chosen:
        raise ValueError(f"no pair has {text!r} in its name; there are {', '.join(every)}")
    for file in files:
        prepare_file(file)
    width = max(map(len, chosen))
    print(f"{'pair':{width}}  inputs  parameters  worst error  method   seconds")
    results, wrong = [], []
    for name, pair in tqdm(chosen.items(), disable=None, leave=False, unit="pair"):
        started = time.perf_counter()
        reports = []
        for example in range(examples):
            rng = np.random.default_rng([seed, example])
            case = make_case(name, rng)
            reports.append(
                measure(
                    pair.forward,
                    pair.backward,
                    case.inputs,
                    case.p,
                    options=case.fresh_options,
                    rng=rng,
                )
            )
        result = {
            "name": name,
            "worst": float(np.max([report.worst for report in reports])),
            "method": reports[0].method,
            "inputs": _count(reports, "input"),
            "parameters": _count(reports, "parameter"),
            "seconds": time.perf_counter() - started,
        }
        results.append(result)
        failed = [report for report in reports if not report.passed]
        mark = "  <- wrong" if failed else ""
        tqdm.write(
            f"{name:{width}}  {result['inputs']:6d}  {result['parameters']:10d}  "
            f"{result['worst']:11.1e}  {result['method']:7}  {result['seconds']:7.2f}{mark}"
        )
        if failed:
            wrong.append(f"\n{name}:\n{failed[0]}")
        elif text and len(chosen) <= 3:
            tqdm.write(f"\n{reports[-1]}\n")
    for lines in wrong:
        print(lines)
    worst = max(results, key=lambda result: result["worst"])
    print(
        f"\n{len(results)} pairs, {len(wrong)} wrong; "
        f"worst error {worst['worst']:.1e} ({worst['name']})"
    )
    for file in files:
        write_json(file, {"pairs": results})
    return not wrong


def _count(reports, kind):
    # Numbers judged: every entry of every input or parameter, over all examples.
    return sum(e.size for report in reports for e in report.entries if e.kind == kind)


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
