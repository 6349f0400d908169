"""Time everything, say what was skipped and why, and write it down."""

import json
import os
import platform
import time
from dataclasses import asdict
from importlib import metadata
from pathlib import Path

import numpy as np
from tqdm import tqdm

from scratch_vlm.bench.clock import in_turn
from scratch_vlm.bench.contenders import contenders
from scratch_vlm.bench.subjects import subjects
from scratch_vlm.training.run import write_json

LIBRARIES = ("numpy", "cupy-cuda13x", "cupy-cuda12x", "torch", "scratch-vlm")
CLOSE = {"float32": 2e-3, "tf32": 2e-2, "bf16": 0.1, "fp16": 2e-2}  # of the largest number


def run_bench(folder, *, quick=False, progress=True):
    """Compare NumPy, CuPy and PyTorch, as far as they are here.

    Parameters
    ----------
    folder : str or path
        Where to write ``bench.json`` and ``bench.png``.
    quick : bool, default False
        Small sizes and models only, about a minute on two cores.
    progress : bool, default True
        Show a progress bar, and print the table.

    Returns
    -------
    dict
        What was written.
    """
    found, skipped = contenders()
    ceilings = {
        c.name: {"flops": c.peak(), "bytes": c.bandwidth()}
        for c in tqdm(found, desc="ceilings", disable=None if progress else True, leave=False)
    }
    rounds, seconds = (7, 1.0) if quick else (15, 3.0)
    results = []
    bar = tqdm(subjects(quick=quick), unit="size", disable=None if progress else True, leave=False)
    for subject in bar:
        bar.set_postfix_str(f"{subject.family}, {subject.size}")
        entry = measure(subject, found, rounds=rounds, seconds=seconds, skipped=skipped)
        for name, timing in entry["timings"].items():
            floor = floor_seconds(subject, ceilings[name])
            timing |= {"floor": floor, "share_of_floor": floor / timing["seconds"]}
        results.append(entry)
    report = {
        "date": time.strftime("%Y-%m-%d"),
        "quick": quick,
        "machine": machine(),
        "ceilings": ceilings,
        "results": results,
        "crossover": crossovers(results),
        "skipped": skipped,
    }
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "bench.json", report)
    return report


def measure(subject, found, *, rounds, seconds, skipped):
    """Time one subject, after seeing that all compute the same.

    Parameters
    ----------
    subject : Subject
        What is timed.
    found : list of Ours or Torch
        Who takes part; what the first computes is taken for right.
    rounds, seconds
        As in `in_turn`.
    skipped : dict
        Gains the reasons of those that were not timed.

    Returns
    -------
    dict
    """
    works, memory, right = {}, {}, None
    for contender in found:
        at = f"{contender.name}: {subject.family}, {subject.size} {subject.unit}"
        if not subject.host and not contender.on_device:
            skipped[at] = "too much for a host"
            continue
        if contender.precision != "float32" and not subject.products:
            continue
        if getattr(contender, "compiled", False) and subject.kind != "step":
            continue
        if contender.precision != "float32" and subject.kind == "generation":
            continue
        try:
            work = contender.prepare(subject)
            values = contender.compare(work())
            right = values if right is None else right
            apart = difference(values, right)
            if apart > CLOSE[contender.precision]:
                skipped[at] = f"computes something else, {apart:.2g} apart"
                continue
            if subject.kind == "step":
                memory[contender.name] = contender.memory(work)
        except MemoryError as error:
            skipped[at] = str(error).partition("\n")[0] or "out of memory"
            continue
        works[contender.name] = (contender.clock, work)
    timings = in_turn(works, rounds=rounds, seconds=seconds)
    return {
        **{k: getattr(subject, k) for k in ("family", "kind", "size", "unit", "flops", "bytes")},
        "timings": {name: asdict(timing) for name, timing in timings.items()},
        "memory": {name: size for name, size in memory.items() if size},
    }


def difference(values, right):
    """How far results are apart, as a share of the largest number of each.

    Parameters
    ----------
    values, right : list of numpy.ndarray
        Results.

    Returns
    -------
    float
        Infinite if there are more of one than of the other, or shapes differ.

    Examples
    --------
    >>> difference([np.array([1.0, 2.5])], [np.array([1.0, 2.0])])
    0.25
    """
    if [x.shape for x in values] != [x.shape for x in right]:
        return np.inf
    return max(
        float(np.abs(x - y).max(initial=0) / max(np.abs(y).max(initial=0), 1e-6))
        for x, y in zip(values, right, strict=True)
    )


def floor_seconds(subject, ceiling):
    """Least time that the FLOPs and bytes of a subject can take.

    Parameters
    ----------
    subject : Subject
        With ``flops`` and ``bytes``.
    ceiling : dict
        ``flops`` and ``bytes`` a second, as measured.

    Returns
    -------
    float
        Seconds: the longer of the two, since they may overlap.
    """
    return max(subject.flops / ceiling["flops"], subject.bytes / ceiling["bytes"])


def crossovers(results):
    """Find the size from which the GPU is faster.

    Parameters
    ----------
    results : list of dict
        Of `measure`.

    Returns
    -------
    dict of str to int or None
        By family: the smallest size from which CuPy is faster than NumPy at every size; None if
        it never is. Families that were not timed with both are left out.
    """
    found = {}
    for entry in results:
        times = entry["timings"]
        if "numpy" in times and "cupy" in times:
            wins = times["cupy"]["seconds"] < times["numpy"]["seconds"]
            found.setdefault(entry["family"], []).append((entry["size"], wins))
    return {family: _first_win(sorted(sizes)) for family, sizes in found.items()}


def _first_win(sizes):
    start = None
    for size, wins in sizes:
        start = (start or size) if wins else None
    return start


def machine():
    """Describe what the numbers were measured on.

    Returns
    -------
    dict
    """
    versions = {"python": platform.python_version()}
    for library in LIBRARIES:
        try:
            versions[library] = metadata.version(library)
        except metadata.PackageNotFoundError:
            continue
    return {
        "platform": platform.platform(),
        "cores": os.cpu_count(),
        "threads": int(os.environ.get("OPENBLAS_NUM_THREADS", os.cpu_count())),
        "device": _device(),
        "versions": versions,
    }


def _device():
    from scratch_vlm.backend import cupy_problem, load

    if cupy_problem():
        return None
    cuda = load("cupy").cuda
    about = cuda.runtime.getDeviceProperties(cuda.Device().id)
    return {
        "name": about["name"].decode(),
        "bytes": about["totalGlobalMem"],
        "driver": cuda.runtime.driverGetVersion(),
        "cuda": cuda.runtime.runtimeGetVersion(),
    }


def table(report):
    """Write the results as text.

    Parameters
    ----------
    report : dict
        Of `run_bench`.

    Returns
    -------
    str
    """
    lines, names = [], list(report["ceilings"])
    width = max(14, *map(len, names)) + 2
    label = max(len(_label(entry)) for entry in report["results"])
    lines.append("time, and share of the floor" + " " * (label - 28) + _row(names, width))
    for entry in report["results"]:
        cells = [_cell(entry["timings"].get(name)) for name in names]
        lines.append(f"{_label(entry):{label}}" + _row(cells, width))
    lines += ["", "memory of a step" + " " * (label - 16) + _row(names, width)]
    for entry in report["results"]:
        if entry["memory"]:
            cells = [_bytes(entry["memory"].get(name)) for name in names]
            lines.append(f"{_label(entry):{label}}" + _row(cells, width))
    lines.append("")
    for name, ceiling in report["ceilings"].items():
        lines.append(
            f"{name}: at most {ceiling['flops'] / 1e9:,.0f} GFLOP/s, {ceiling['bytes'] / 1e9:,.1f} "
            "GB/s, measured with a large product and a large copy"
        )
    for family, size in report["crossover"].items():
        said = f"from {size} on" if size else "never, at these sizes"
        lines.append(f"{family}: the GPU is faster than NumPy {said}")
    lines += [f"skipped: {what}: {why}" for what, why in report["skipped"].items()]
    return "\n".join(lines)


def _label(entry):
    return f"{entry['family']}, {entry['size']} {entry['unit']}"


def _row(cells, width):
    return "".join(f"{cell:>{width}}" for cell in cells)


def _cell(timing):
    if timing is None:
        return "–"
    return f"{_seconds(timing['seconds'])} {100 * timing['share_of_floor']:3.0f}%"


def _seconds(value):
    for size, unit in ((1, "s"), (1e-3, "ms")):
        if value >= size:
            return f"{value / size:.3g} {unit}"
    return f"{value * 1e6:.3g} µs"


def _bytes(value):
    return "–" if value is None else f"{value / (1 << 20):.0f} MiB"


def load_report(file):
    """Read what `run_bench` wrote.

    Parameters
    ----------
    file : str or path
        ``bench.json``.

    Returns
    -------
    dict
    """
    return json.loads(Path(file).read_text(encoding="utf-8"))
