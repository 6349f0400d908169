"""Contenders take turns, and a device is timed by its events."""

import time
from functools import partial

import pytest

from scratch_vlm.bench import clock
from scratch_vlm.bench.clock import WARMUP, by_events, in_turn, on_host, ratio


def contenders(**seconds):
    """Return contenders that take what they are told, and the list of who was measured."""
    log = []

    def measure(name, times):
        log.append((name, times))
        return seconds[name]

    return {name: partial(measure, name) for name in seconds}, log


def test_contenders_take_turns():
    both, log = contenders(a=0.1, b=0.2)
    samples = in_turn(both, rounds=4, seconds=100)
    assert [name for name, _ in log[2 * WARMUP :]] == ["a", "b"] * 4
    assert samples == {"a": [0.1] * 4, "b": [0.2] * 4}


def test_short_work_is_repeated_within_a_sample():
    both, log = contenders(short=clock.SAMPLE / 50, long=clock.SAMPLE * 50)
    in_turn(both, rounds=3, seconds=100)
    assert dict(log[2 * WARMUP :]) == {"short": 50, "long": 1}


@pytest.mark.parametrize(
    ("once", "seconds", "rounds"), [(0.1, 10, 20), (1.9, 10, 5), (1.9, 3, 3), (4.0, 3, 1)]
)
def test_rounds_are_fewer_where_they_take_long(once, seconds, rounds):
    one, _ = contenders(a=once)
    assert len(in_turn(one, rounds=20, seconds=seconds)["a"]) == rounds


def test_who_is_slow_sits_out_rounds_and_any_two_meet():
    some, _ = contenders(fast=0.1, slow=1.0, slower=1.5)
    samples = in_turn(some, rounds=15, seconds=5)
    slow, slower = [1.0, None], [1.5, None, None, None]
    assert samples == {"fast": [0.1] * 15, "slow": (slow * 8)[:15], "slower": (slower * 4)[:15]}
    assert ratio(samples["fast"], samples["slower"]) == pytest.approx(0.1 / 1.5)
    assert ratio(samples["slow"], samples["slower"]) == pytest.approx(1 / 1.5)


def test_time_that_is_up_ends_it_after_a_whole_round():
    both, _ = contenders(a=0.1, b=1.0)
    samples = in_turn(both, rounds=9, seconds=9, until=time.monotonic() - 1)
    assert samples == {"a": [0.1], "b": [1.0]}


def test_first_calls_are_not_counted():
    calls = []

    def measure(times):
        calls.append(times)
        return 0.3 if len(calls) <= 2 else 0.001  # it compiles, records, then works

    samples = in_turn({"a": measure}, rounds=3, seconds=10)
    assert samples == {"a": [0.001] * 3} and calls == [1] * WARMUP + [10] * 3


def test_ratio_is_that_of_neighbours():
    assert ratio([1, 2, 30], [2, 4, 60]) == 0.5  # all slowed down by what slowed the others down
    with pytest.raises(ValueError):
        ratio([1, 2], [1])
    with pytest.raises(ValueError, match="same round"):
        ratio([1, None], [None, 1])


def test_host_clock_counts_calls():
    calls = []
    assert on_host(lambda: calls.append(1), 5) > 0
    assert len(calls) == 5


def test_event_clock_waits_for_the_last_event_and_divides():
    log = []

    class Event:
        def __init__(self):
            self.number = len(log)
            log.append("made")

        def record(self):
            log.append(f"record {self.number}")

        def synchronize(self):
            log.append(f"wait {self.number}")

    def milliseconds(first, last):
        assert log[-1] == f"wait {last.number}" and first.number < last.number
        return 6.0

    seconds = by_events(Event, milliseconds)(lambda: log.append("work"), 3)
    assert seconds == pytest.approx(0.002)
    assert log[2:] == ["record 0", "work", "work", "work", "record 1", "wait 1"]
