"""What follows from the times: shares of the floor, from which size on a GPU wins, and targets."""

import math

from scratch_vlm.bench.clock import ratio
from scratch_vlm.bench.floors import floor_seconds

SIZES = 3  # fewer show no crossover
LESSON = {"lesson ViT": 128}
LARGE = {
    "ViT-B/16": 128,
    "GPT-2 small VLM, unified": 64,
    "GPT-2 small VLM, cross-modal": 64,
}
TARGETS = (  # families and sizes, who, beside whom, and the largest part of its time
    (LESSON, "cupy tf32 graph", "numpy", 0.01),
    (LESSON, "cupy tf32 graph", "torch tf32", 1 / 3),
    (LESSON, "cupy tf32 graph", "torch tf32 compiled", 1.2),
    (LARGE, "cupy bf16 graph", "torch bf16", 1.0),
    (LARGE, "cupy bf16 graph", "torch bf16 compiled", 1.25),
)


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
            ceiling = report["ceilings"][taken["place"]]
            taken["floor"] = floor_seconds(entry, ceiling, taken["precision"])
            taken["share_of_floor"] = taken["floor"] / taken["seconds"]
    report["crossover"] = crossovers(report["results"])
    report["targets"] = targets(report["results"])


def by_size(results):
    """Put together what was measured of one piece of work at several times.

    Parameters
    ----------
    results : list of dict
        Of `measure`.

    Returns
    -------
    list of dict
        One for each family and size, with the ``times`` of all; where somebody was measured
        again beside another, the first.
    """
    found = {}
    for entry in results:
        known = found.setdefault((entry["family"], entry["size"]), entry | {"times": {}})
        known["times"] |= {
            name: taken for name, taken in entry["times"].items() if name not in known["times"]
        }
    return list(found.values())


def crossovers(results):
    """Find the size from which the GPU is faster than NumPy, in float32.

    Parameters
    ----------
    results : list of dict
        Of `measure`.

    Returns
    -------
    dict of str to dict
        By family of which both have done at least `SIZES` sizes: ``unit``; the ``smallest`` and
        the ``largest`` of these; ``wins_from``, the smallest size from which CuPy is faster at
        every size, None if it is not at the largest; and ``about``, where the times would be
        equal between that size and the one below, None if there is none.
    """
    families = {}
    for entry in sorted(by_size(results), key=lambda entry: entry["size"]):
        times = entry["times"]
        if "numpy" in times and "cupy" in times:
            gain = times["cupy"]["seconds"] / times["numpy"]["seconds"]
            families.setdefault(entry["family"], []).append((entry["size"], gain, entry["unit"]))
    return {
        family: _crossover(points) for family, points in families.items() if len(points) >= SIZES
    }


def _crossover(points):  # (size, time of the GPU as a share, unit), from small to large
    losing = [i for i, (_, gain, _) in enumerate(points) if gain >= 1]
    first = losing[-1] + 1 if losing else 0
    found = {"unit": points[0][2], "smallest": points[0][0], "largest": points[-1][0]}
    wins, about = None, None
    if first < len(points):
        wins = points[first][0]
        if first:
            (low, above, _), (high, below, _) = points[first - 1 : first + 1]
            part = math.log(above) / math.log(above / below)  # straight in a log-log plot
            about = round(low * (high / low) ** part)
    return found | {"wins_from": wins, "about": about}


def targets(results):
    """Hold ratios against what they should be.

    Parameters
    ----------
    results : list of dict
        Of `measure`.

    Returns
    -------
    list of dict
        ``what``, its ``size``, ``who``, ``beside`` whom, ``at_most``, and the ``ratio`` of their
        times; None if they have not taken turns: unmeasured.
    """
    found = []
    for families, who, beside, most in TARGETS:
        for family, size in families.items():
            target = {"what": family, "size": size, "who": who, "beside": beside}
            target |= {"at_most": most, "ratio": None}
            for entry in results:
                times = entry["times"]
                alike = (entry["family"], entry["size"]) == (family, size)
                if alike and who in times and beside in times:
                    both = (times[name]["samples"] for name in (who, beside))
                    target["ratio"] = ratio(*both)
            found.append(target)
    return found
