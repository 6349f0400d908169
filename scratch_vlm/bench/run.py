"""Time everything, say what was skipped and why, and write it down."""

import os
import platform
import statistics
import time
from functools import partial
from importlib import metadata
from pathlib import Path

import numpy as np
from tqdm import tqdm

from scratch_vlm.backend import cupy_problem, is_shortage, load, memory_shortage, to_host
from scratch_vlm.bench.clock import in_turn, ratio
from scratch_vlm.bench.contenders import contenders
from scratch_vlm.bench.show import OPS, draw, table
from scratch_vlm.bench.subjects import subjects
from scratch_vlm.training.run import RunFolder, write_json
from scratch_vlm.tree import leaves

LIBRARIES = ("numpy", "scipy", "cupy-cuda13x", "cupy-cuda12x", "torch", "scratch-vlm")
CLOSE = {"float32": 2e-3, "tf32": 2e-2, "bf16": 0.1}  # of the largest number of an array
# Seconds that a floor may be.
PATIENCE = {"pair": 0.5, "update": 0.5, "step": 2.0, "generation": 2.0}
SIDES = {False: 1024, True: 8192}  # of the matrices that show how fast products are
COPIES = {False: (2**16, 2**20, 2**24, 2**27), True: (2**20, 2**24, 2**28, 2**30)}  # bytes

LESSON = ("lesson ViT",)
LARGE = ("ViT-B/16", "GPT-2 small VLM, unified", "GPT-2 small VLM, cross-modal")
TARGETS = (  # families, who, beside whom, and the largest part of its time
    (LESSON, "cupy tf32 graph", "numpy", 0.01),
    (LESSON, "cupy tf32 graph", "torch tf32", 1 / 3),
    (LESSON, "cupy tf32 graph", "torch tf32 compiled", 1.2),
    (LARGE, "cupy bf16 graph", "torch bf16", 1.0),
    (LARGE, "cupy bf16 graph", "torch bf16 compiled", 1.25),
)


def run_bench(
    folder, *, backend=None, seed=0, quick=False, only=(), cores=2, minutes=8.0, note=None
):
    """Compare NumPy, CuPy and PyTorch, as far as they are here, and print a table.

    Parameters
    ----------
    folder : str or path
        Where to write ``bench.json``, after each piece of work, and ``bench.png``.
    backend : str, optional
        As for `contenders`.
    seed : int, default 0
        Of all numbers.
    quick : bool, default False
        Small sizes and models only.
    only : sequence of str, default ()
        Families whose name contains one of these; all if there are none.
    cores : int, default 2
        Of the host, in training steps.
    minutes : float, default 8
        What has not begun by then is skipped.
    note : str, optional
        What readers of the numbers should know about the machine.

    Returns
    -------
    dict
        What was written. ``interrupted`` after Ctrl-C, with what was measured until then;
        ``failed`` names what should have worked.

    Raises
    ------
    ValueError
        If nothing matches `only`.
    BackendError
        If a backend was asked for that does not work here.
    RunFolderError
        If the folder cannot be written; said before anything is measured.
    """
    folder, until = Path(folder), time.monotonic() + 60 * minutes
    chosen = choose(subjects(quick=quick), only)
    RunFolder(folder).prepare()
    found, missing = contenders(backend, cores=cores)
    report = {
        "date": time.strftime("%Y-%m-%d"),
        "quick": quick,
        "seed": seed,
        "machine": describe_machine(cores) | {"note": note},
        "ceilings": {},
        "results": [],
        "skipped": dict(missing),
        "failed": {},
        "interrupted": False,
    }
    rounds = 5 if quick else 15
    try:
        raise_ceilings(report["ceilings"], found)
        bar = tqdm(_by_importance(chosen), unit="size", disable=None, leave=False)
        order = [(subject.family, subject.size) for subject in chosen]
        for subject in bar:
            bar.set_postfix_str(subject.name)
            seconds = 0.5 if quick or subject.kind in OPS else 1.0
            entry = measure(subject, found, report, seed, rounds, seconds, until)
            if entry["times"]:
                report["results"].append(entry)
                report["results"].sort(key=lambda one: order.index((one["family"], one["size"])))
                finish(report)
                write_json(folder / "bench.json", report)
        raise_ceilings(report["ceilings"], found)  # whoever was disturbed before has another try
    except KeyboardInterrupt:
        report["interrupted"] = True
    finish(report)
    print(table(report))
    write_json(folder / "bench.json", report)
    if report["results"]:
        draw(report).savefig(folder / "bench.png", dpi=144)
    return report


def choose(found, only):
    """Keep the families that were asked for.

    Parameters
    ----------
    found : list of Subject
        All.
    only : sequence of str
        Parts of names; none for all.

    Returns
    -------
    list of Subject

    Raises
    ------
    ValueError
        If one is in no name.
    """
    families = list(dict.fromkeys(subject.family for subject in found))
    for text in only:
        if not any(text.lower() in family.lower() for family in families):
            raise ValueError(f"nothing to time has {text!r} in its name: {'; '.join(families)}")
    return [
        subject
        for subject in found
        if not only or any(text.lower() in subject.family.lower() for text in only)
    ]


def _by_importance(chosen):  # what targets speak of, then ops and blocks: time may be up
    families = [family for families, *_ in TARGETS for family in families]
    return sorted(chosen, key=lambda one: (one.family not in families, one.kind not in OPS))


def measure(subject, found, report, seed, rounds, seconds, until):
    """Time one piece of work, after seeing that all compute the same.

    Parameters
    ----------
    subject : Subject
        What is timed.
    found : list of Contender
        Who takes part; what the first computes is taken for right.
    report : dict
        Of `run_bench`; gains who was skipped or failed, and why.
    seed : int
        Of all numbers.
    rounds, seconds
        As for `in_turn`.
    until : float
        When to begin nothing more, as `time.monotonic` tells it.

    Returns
    -------
    dict
    """
    works, memory, right = {}, {}, None
    drawn = subject.draw(np.random.default_rng(seed))
    for contender in found:
        at = f"{contender.name}: {subject.name}"
        if not contender.takes_part(subject):
            continue
        why = why_not(subject, contender, report["ceilings"], until)
        if why:
            report["skipped"][at] = why
            continue
        try:
            before = contender.held() if subject.kind == "step" else None
            work = contender.prepare(subject, *drawn)
            values = host_arrays(contender.run(work))
            right = values if right is None else right
            if subject.kind != "generation" or contender.precision == "float32":
                apart = difference(values, right)
                if apart > CLOSE[contender.precision]:
                    report["failed"][at] = f"computes something else, {apart:.2g} apart"
                    continue
            if subject.kind == "step":
                memory[contender.name] = contender.memory(work, before)
            works[contender.name] = partial(_measure, contender, work, found)
        except Exception as error:  # one who fails must not take the others' results away
            report["skipped" if _is_full(error) else "failed"][at] = _in_words(error)
        finally:
            contender.rest()
    try:
        samples = in_turn(works, rounds=rounds, seconds=seconds)
    except Exception as error:
        if not _is_full(error):
            raise
        samples, report["skipped"][subject.name] = {}, _in_words(error)
    about = ("family", "kind", "size", "unit", "flops", "bytes")
    times = {}
    for contender in found:
        if contender.name in samples:
            place = contender.place(contender.cores_for(subject))
            taken = samples[contender.name]
            times[contender.name] = {
                "seconds": statistics.median(taken),
                "samples": [float(f"{x:.4g}") for x in taken],
                "place": place,
                "memory": memory.get(contender.name),
            }
    return {name: getattr(subject, name) for name in about} | {"times": times}


def _measure(contender, work, found, times=1):
    try:
        return contender.measure(work, times)
    except Exception as error:
        if not _is_full(error):
            raise
    for one in found:  # each of whom keeps memory for a next time
        one.rest()
    return contender.measure(work, times)


def _is_full(error):
    return is_shortage(error) or type(error).__name__ == "OutOfMemoryError"  # PyTorch's


def _in_words(error):
    if is_shortage(error):
        return memory_shortage(error)
    return f"{type(error).__name__}: {error}".partition("\n")[0]


def why_not(subject, contender, ceilings, until):
    """Say why a piece of work would be too much.

    Parameters
    ----------
    subject : Subject
        The work.
    contender : Contender
        Who would do it.
    ceilings : dict
        As `raise_ceilings` fills it.
    until : float
        When to begin nothing more, as `time.monotonic` tells it.

    Returns
    -------
    str or None
        None if it would not.
    """
    if time.monotonic() > until:
        return "time was up; --minutes gives more"
    cores = contender.cores_for(subject)
    floor = floor_seconds(subject, ceilings[contender.place(cores)])
    if floor > PATIENCE[subject.kind]:
        return f"its products alone would take {floor:.1f} s each time"
    free = contender.free()
    if subject.memory > free / 2:
        return f"needs about {subject.memory / 2**30:.0f} GiB, and there are {free / 2**30:.0f}"
    return None


def host_arrays(found):
    """List what a piece of work gave.

    Parameters
    ----------
    found : array, tensor, list of numbers, None, or dict or tuple of these
        Nested.

    Returns
    -------
    list of array
        Of the host; a list of numbers is one.
    """
    if isinstance(found, dict):
        found = tuple(x for _, x in leaves(found))
    if isinstance(found, tuple):
        return [x for part in found for x in host_arrays(part)]
    if found is None:
        return []
    if hasattr(found, "detach"):
        return [found.detach().float().cpu().numpy()]
    return [to_host(found) if hasattr(found, "dtype") else np.asarray(found)]


def difference(values, right):
    """Say how far results are apart, as a share of the largest number of each array.

    Parameters
    ----------
    values, right : list of array
        Results.

    Returns
    -------
    float
        Infinite if shapes differ, or a number is not finite. Of an array that is small beside
        the others, which may be a difference of large numbers, as a share of a hundredth of
        theirs.

    Examples
    --------
    >>> difference([np.array([1.0, 2.5])], [np.array([1.0, 2.0])])
    0.25
    """
    if [x.shape for x in values] != [x.shape for x in right]:
        return np.inf
    sizes = [np.abs(y).max(initial=0) for y in right]
    least = max(0.01 * max(sizes, default=0), 1e-9)
    apart = [
        float(np.abs(x - y).max(initial=0) / max(size, least))
        for x, y, size in zip(values, right, sizes, strict=True)
    ]
    return max(apart, default=0.0) if np.isfinite(apart).all() else np.inf


def raise_ceilings(ceilings, found):
    """Measure how fast products and copies can be, and keep the best that was seen.

    Parameters
    ----------
    ceilings : dict
        Gains, by place, ``flops``: FLOPs a second of large products; and ``bytes``: pairs of the
        bytes that a copy touches, and bytes a second.
    found : list of Contender
        Whoever is there.
    """
    for contender in found:
        if contender.only:
            continue
        for cores in sorted({1, contender.cores}):
            here = ceilings.setdefault(contender.place(cores), {"flops": 0.0, "bytes": []})
            speed = _speed(contender, *contender.multiply(SIDES[contender.on_device], cores))
            here["flops"] = max(here["flops"], speed)
            best = dict(here["bytes"])
            for size in COPIES[contender.on_device]:
                copy, nbytes = contender.copy(size, cores)
                best[nbytes] = max(best.get(nbytes, 0.0), _speed(contender, copy, nbytes))
            here["bytes"] = sorted(best.items())
        contender.rest()


def _speed(contender, work, amount):
    contender.run(work)
    return amount / min(contender.measure(work) for _ in range(5))


def floor_seconds(subject, ceiling):
    """Least time that the FLOPs and the bytes of a piece of work can take.

    Parameters
    ----------
    subject : Subject or dict
        With its ``flops`` and ``bytes``.
    ceiling : dict
        One of `raise_ceilings`.

    Returns
    -------
    float
        Seconds: the longer of the two, since they may overlap.

    Notes
    -----
    What is small may stay in a cache. So bytes are held against the fastest copy of as many or
    more.

    Examples
    --------
    >>> ceiling = {"flops": 1e9, "bytes": [(100, 5e9), (1000, 1e9)]}
    >>> floor_seconds({"flops": 0, "bytes": 50}, ceiling)
    1e-08
    >>> floor_seconds({"flops": 2000, "bytes": 500}, ceiling)
    2e-06
    """
    subject = subject if isinstance(subject, dict) else vars(subject)
    speeds = [speed for size, speed in ceiling["bytes"] if size >= subject["bytes"]]
    speed = max(speeds) if speeds else ceiling["bytes"][-1][1]
    return max(subject["flops"] / ceiling["flops"], subject["bytes"] / speed)


def finish(report):
    """Add what follows from the times.

    Parameters
    ----------
    report : dict
        Of `run_bench`; each time gains its ``floor`` and ``share_of_floor``, and the whole gains
        ``crossover`` and ``targets``.
    """
    for entry in report["results"]:
        for taken in entry["times"].values():
            taken["floor"] = floor_seconds(entry, report["ceilings"][taken["place"]])
            taken["share_of_floor"] = taken["floor"] / taken["seconds"]
    report["crossover"] = crossovers(report["results"])
    report["targets"] = targets(report["results"])


def crossovers(results):
    """Find the size from which the GPU is faster than NumPy.

    Parameters
    ----------
    results : list of dict
        Of `measure`.

    Returns
    -------
    dict of str to int or None
        By family that both have done: the smallest size from which CuPy is faster at every size;
        None if it is not at the largest.
    """
    found = {}
    for entry in sorted(results, key=lambda entry: entry["size"]):
        times = entry["times"]
        if "numpy" in times and "cupy" in times:
            before = found.get(entry["family"])
            wins = times["cupy"]["seconds"] < times["numpy"]["seconds"]
            found[entry["family"]] = (before or entry["size"]) if wins else None
    return found


def targets(results):
    """Hold ratios against what they should be.

    Parameters
    ----------
    results : list of dict
        Of `measure`.

    Returns
    -------
    list of dict
        ``what``, ``who``, ``beside`` whom, ``at_most``, and the ``ratio`` of their times at the
        largest size that both have done; None if there is none: unmeasured.
    """
    found = []
    for families, who, beside, most in TARGETS:
        for family in families:
            target = {"what": family, "who": who, "beside": beside, "at_most": most, "ratio": None}
            for entry in results:  # from small to large
                times = entry["times"]
                if entry["family"] == family and who in times and beside in times:
                    both = (times[name]["samples"] for name in (who, beside))
                    target["ratio"] = ratio(*both)
            found.append(target)
    return found


def describe_machine(cores):
    """Describe what numbers are measured on.

    Parameters
    ----------
    cores : int
        That training steps may use.

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
        "cores_of_steps": cores,
        "load_before": round(os.getloadavg()[0], 2),
        "device": _device(),
        "versions": versions,
    }


def _device():
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
