"""Measuring time fairly: the contenders take turns, and a device is timed by its own events."""

import gc
import math
import statistics
import time

SAMPLE = 1e-2  # seconds; shorter work is repeated within a sample
WARMUP = 3  # calls; fewer where they take seconds
ROUNDS_AT_LEAST = 3
SLOW = 2.0  # seconds of a sample; one has to do then


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


def in_turn(contenders, *, rounds, seconds, until=math.inf):
    """Time several ways to do the same in turn, A B C A B C: what slows one down slows all down.

    Parameters
    ----------
    contenders : dict of str to callable
        By name: ``measure(times)`` gives the seconds of one call, as the mean of that many in a
        row. `WARMUP` first calls are not counted; they find how many make a sample.
    rounds : int
        Samples of each.
    seconds : float
        Whoever takes longer than this for all samples sits out rounds in which the others go
        on: every second, all but every fourth, eighth and so on, so that any two meet. It has at
        least three, or one where a sample takes more than `SLOW`.
    until : float, optional
        When to begin no further round, as `time.monotonic` tells it; one is done in any case.

    Returns
    -------
    dict of str to list of (float or None)
        Seconds of one call in each round; None where it sat out.
    """
    times, shares = {}, {}
    for name, measure in contenders.items():
        once, spent = measure(1), 0.0
        for _ in range(WARMUP - 1):
            spent += once
            if spent > SLOW / 2:
                break
            once = measure(1)
        once = max(once, 1e-9)
        times[name] = max(1, round(SAMPLE / once))
        sample = once * times[name]
        least = ROUNDS_AT_LEAST if sample < SLOW else 1
        shares[name] = max(min(least, rounds), min(rounds, int(seconds / sample)))
    count = max(shares.values(), default=0)
    every = {name: 2 ** int(math.log2(count / share)) for name, share in shares.items()}
    samples = {name: [] for name in contenders}
    collecting = gc.isenabled()
    gc.disable()
    try:
        for i in range(count):
            if i and time.monotonic() > until:
                break
            for name, measure in contenders.items():
                takes_part = i % every[name] == 0
                samples[name].append(measure(times[name]) if takes_part else None)
    finally:
        if collecting:
            gc.enable()
    return samples


def seconds_of(samples):
    """Take the median of the rounds that one took part in.

    Parameters
    ----------
    samples : list of (float or None)
        Of `in_turn`.

    Returns
    -------
    float

    Examples
    --------
    >>> seconds_of([3.0, None, 1.0, 2.0])
    2.0
    """
    return statistics.median(x for x in samples if x is not None)


def ratio(samples, other):
    """How long one takes for what another does, as the median over the rounds.

    Parameters
    ----------
    samples, other : list of (float or None)
        Of `in_turn`, from the same call; rounds count in which both took part.

    Returns
    -------
    float
        Below 1 where the first is faster.

    Raises
    ------
    ValueError
        If they are of different lengths, or were never in the same round.

    Examples
    --------
    >>> ratio([1.0, 2.0, 3.0, 4.0], [2.0, 4.0, 30.0, None])
    0.5
    """
    both = [a / b for a, b in zip(samples, other, strict=True) if a is not None and b is not None]
    if not both:
        raise ValueError("the two were never measured in the same round")
    return statistics.median(both)
