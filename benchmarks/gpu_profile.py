"""List the kernels that a training step runs on a GPU, and how long each takes.

    python benchmarks/gpu_profile.py [--out FILE] [--only NAME ...]

The profiler is PyTorch's, which sees every kernel of the process, whoever launched it; so PyTorch
must be installed. Each step runs three times before it is watched once.
"""

import argparse
import importlib
import os
import sys
from collections import defaultdict
from pathlib import Path

import numpy as np

from scratch_vlm.backend import BackendError
from scratch_vlm.bench.contenders import contenders
from scratch_vlm.bench.judge import TARGETS
from scratch_vlm.bench.subjects import subjects

WHO = {family: who for families, who, *_ in TARGETS for family in families}
LEAST = 0.005  # of the whole; what takes less is listed together
NAME = 70  # letters of a name


def main(arguments=None):
    """Run from the command line.

    Parameters
    ----------
    arguments : list of str, optional
        Default those of the process.

    Returns
    -------
    int
        Exit status: 3 if there is nothing to watch with, nobody to watch, or nothing was seen.
    """
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, help="also write what is printed to this file")
    parser.add_argument("--only", nargs="+", default=[""], help="only what has NAME in its name")
    options = parser.parse_args(arguments)
    # With older CUDA the profiler must not be taken down while there are graphs, or it crashes
    # when it is set up again (pytorch/pytorch pull request 112507).
    os.environ.setdefault("TEARDOWN_CUPTI", "0")
    try:
        importlib.import_module("torch.profiler")
    except ImportError:
        print("there is no profiler: python -m pip install torch", file=sys.stderr)
        return 3
    try:
        found = {contender.name: contender for contender in contenders("cupy")[0]}
    except BackendError as error:
        print(error, file=sys.stderr)
        return 3
    largest = {subject.family: subject for subject in subjects() if subject.family in WHO}
    texts = []
    for family, subject in largest.items():
        contender = found[WHO[family]]
        if any(text in family for text in options.only) and contender.takes_part(subject):
            seen = watch(contender, subject)
            if not seen:
                print("the profiler saw no kernel; is PyTorch built for a GPU?", file=sys.stderr)
                return 3
            texts.append(f"{subject.name}, {contender.name}\n{table(seen)}\n")
            print(texts[-1], flush=True)
            contender.rest()
    if options.out:
        options.out.write_text("\n".join(texts), encoding="utf-8")
    return 0


def watch(contender, subject):
    """Run a piece of work under the profiler.

    Parameters
    ----------
    contender : Contender
        Who does it.
    subject : Subject
        What.

    Returns
    -------
    list of (str, float)
        Name and microseconds of each kernel and each copy.
    """
    from torch.autograd import DeviceType
    from torch.profiler import ProfilerActivity, profile

    work = contender.prepare(subject, *subject.draw(np.random.default_rng(0)))
    for _ in range(3):
        contender.run(work)
    with profile(activities=[ProfilerActivity.CUDA]) as seen:
        contender.run(work)
        contender.xp.cuda.Device().synchronize()
    return [
        (event.name, event.time_range.elapsed_us())
        for event in seen.events()
        if event.device_type == DeviceType.CUDA
    ]


def table(events):
    """Sum up what takes the time.

    Parameters
    ----------
    events : list of (str, float)
        As `watch` returns them.

    Returns
    -------
    str
        A line for each name, the longest first.

    Examples
    --------
    >>> print(table([("add", 2.0), ("product", 9.0), ("add", 4.0), ("copy", 0.01)]))
          total  share  calls        each  kernel
         9.0 µs  60.0%      1      9.0 µs  product
         6.0 µs  40.0%      2      3.0 µs  add
         0.0 µs   0.1%      1      0.0 µs  1 other
        15.0 µs 100.0%      4      3.8 µs  all
    """
    times = defaultdict(list)
    for name, time in events:
        times[name].append(time)
    whole = sum(map(sum, times.values()))
    rows = sorted(times.items(), key=lambda row: -sum(row[1]))
    few = [row for row in rows if sum(row[1]) < LEAST * whole]
    shown = rows[: len(rows) - len(few)]
    if few:
        others = [time for _, some in few for time in some]
        shown.append((f"{len(few)} other" + "s" * (len(few) > 1), others))
    shown.append(("all", [time for some in times.values() for time in some]))
    return "\n".join(
        [
            "      total  share  calls        each  kernel",
            *(
                f"{sum(some):8,.1f} µs {sum(some) / whole:6.1%} {len(some):6} "
                f"{sum(some) / len(some):8,.1f} µs  {name[:NAME]}"
                for name, some in shown
            ),
        ]
    )


if __name__ == "__main__":
    sys.exit(main())
