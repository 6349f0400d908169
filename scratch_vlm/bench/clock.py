"""Measuring time fairly: the contenders take turns, and a device is timed by its own events."""

import gc
import statistics
import time
from dataclasses import dataclass

SAMPLE = 1e-3  # seconds; shorter work is repeated within a sample
ROUNDS_AT_LEAST = 3


@dataclass(frozen=True)
class Timing:
    """What a contender took for one piece of work.

    Attributes
    ----------
    seconds : float
        Median.
    low, high : float
        Quartiles.
    rounds : int
        Samples.
    ratio : float or None
        Median of the ratios to the first contender, each of two neighbouring samples.
    """

    seconds: float
    low: float
    high: float
    rounds: int
    ratio: float | None


class HostClock:
    """Seconds of work on the host."""

    def measure(self, work, times):
        """Seconds of one call, of `times` in a row.

        Parameters
        ----------
        work : callable
            Takes nothing.
        times : int
            Calls in a row.

        Returns
        -------
        float
        """
        started = time.perf_counter()
        for _ in range(times):
            work()
        return (time.perf_counter() - started) / times


class EventClock:
    """Seconds between two events on a device, launches of the host included where they are longer.

    Parameters
    ----------
    event : callable
        Makes an event with the methods ``record`` and ``synchronize``.
    milliseconds : callable
        ``milliseconds(first, second)`` between two of them.
    """

    def __init__(self, event, milliseconds):
        self._event, self._milliseconds = event, milliseconds

    def measure(self, work, times):
        """Seconds of one call, of `times` in a row.

        Parameters
        ----------
        work : callable
            Takes nothing.
        times : int
            Calls in a row.

        Returns
        -------
        float
        """
        first, last = self._event(), self._event()
        first.record()
        for _ in range(times):
            work()
        last.record()
        last.synchronize()
        return self._milliseconds(first, last) / 1e3 / times


def in_turn(contenders, *, rounds, seconds):
    """Time several ways to do the same, in turn: A B C A B C.

    What slows the machine down for a while then slows all of them down.

    Parameters
    ----------
    contenders : dict of str to (clock, callable)
        By name. Each is called twice before it is timed.
    rounds : int
        Samples of each.
    seconds : float
        Fewer rounds, but at least three, where they would take longer than this.

    Returns
    -------
    dict of str to Timing
    """
    times, once = {}, {}
    for name, (clock, work) in contenders.items():
        work()  # compiles, allocates, fills caches
        once[name] = clock.measure(work, 1)
        times[name] = max(1, round(SAMPLE / max(once[name], 1e-9)))
    whole = sum(once[name] * times[name] for name in contenders)
    rounds = max(ROUNDS_AT_LEAST, min(rounds, int(seconds / max(whole, 1e-9))))
    samples = {name: [] for name in contenders}
    collecting = gc.isenabled()
    gc.disable()
    try:
        for _ in range(rounds):
            for name, (clock, work) in contenders.items():
                samples[name].append(clock.measure(work, times[name]))
    finally:
        if collecting:
            gc.enable()
    first = samples[next(iter(samples))] if samples else []
    return {name: _timing(found, first) for name, found in samples.items()}


def _timing(samples, first):
    low, median, high = statistics.quantiles(samples, n=4, method="inclusive")
    ratios = [a / b for a, b in zip(samples, first, strict=True)]
    ratio = None if samples is first else statistics.median(ratios)
    return Timing(median, low, high, len(samples), ratio)
