"""Measuring time fairly: the contenders take turns, and a device is timed by its own events."""

import gc
import statistics
import time

SAMPLE = 1e-2  # seconds; shorter work is repeated within a sample
ROUNDS_AT_LEAST = 3
SLOW = 2.0  # seconds of a round; one has to do then


def on_host(work, times=1):
    """Measure a call in seconds that pass on the host.

    Parameters
    ----------
    work : callable
        Takes nothing.
    times : int, default 1
        Calls in a row, of which the mean is taken.

    Returns
    -------
    float
    """
    began = time.perf_counter()
    for _ in range(times):
        work()
    return (time.perf_counter() - began) / times


def by_events(event, milliseconds):
    """Make what measures calls by events of a device; where launching takes longer, that counts.

    Parameters
    ----------
    event : callable
        Makes an event, with the methods ``record`` and ``synchronize``.
    milliseconds : callable
        ``milliseconds(first, last)`` between two of them.

    Returns
    -------
    callable
        Called like `on_host`.
    """

    def on_device(work, times=1):
        first, last = event(), event()
        first.record()
        for _ in range(times):
            work()
        last.record()
        last.synchronize()
        return milliseconds(first, last) / 1e3 / times

    return on_device


def in_turn(contenders, *, rounds, seconds):
    """Time several ways to do the same in turn, A B C A B C: what slows one down slows all down.

    Parameters
    ----------
    contenders : dict of str to callable
        By name: ``measure(times)`` gives the seconds of one call, as the mean of that many in a
        row. A first one, which is not counted, finds how many make a sample.
    rounds : int
        Samples of each.
    seconds : float
        Fewer rounds, but at least three, where all would take longer than this; and only one
        where it takes more than `SLOW`.

    Returns
    -------
    dict of str to list of float
        Seconds of one call in each round.
    """
    times, whole = {}, 0.0
    for name, measure in contenders.items():
        once = max(measure(1), 1e-9)
        times[name] = max(1, round(SAMPLE / once))
        whole += once * times[name]
    rounds = min(rounds, int(seconds / whole)) if whole else rounds
    rounds = max(ROUNDS_AT_LEAST if whole < SLOW else 1, rounds)
    samples = {name: [] for name in contenders}
    collecting = gc.isenabled()
    gc.disable()
    try:
        for _ in range(rounds):
            for name, measure in contenders.items():
                samples[name].append(measure(times[name]))
    finally:
        if collecting:
            gc.enable()
    return samples


def ratio(samples, other):
    """How long one takes for what another does, as the median over the rounds.

    Parameters
    ----------
    samples, other : list of float
        Of `in_turn`, from the same call.

    Returns
    -------
    float
        Below 1 where the first is faster.

    Examples
    --------
    >>> ratio([1.0, 2.0, 3.0], [2.0, 4.0, 30.0])
    0.5
    """
    return statistics.median(a / b for a, b in zip(samples, other, strict=True))
