import math
from itertools import pairwise

import pytest

from scratch_vlm.training.schedule import warmup_cosine, warmup_linear


def rates(total=100, **options):
    return [warmup_cosine(step, total=total, **options) for step in range(total + 1)]


def test_climbs_in_equal_steps_from_above_zero_to_the_peak():
    climb = rates(peak=2.0, warmup=4)[:5]
    assert climb == pytest.approx([0.4, 0.8, 1.2, 1.6, 2.0], rel=1e-15)


def test_falls_along_half_a_cosine_to_the_floor():
    rate = rates(peak=2.0, warmup=20, floor=0.5)
    assert rate[20] == 2.0
    assert rate[40] == pytest.approx(0.5 + 1.5 * (1 + math.cos(math.pi / 4)) / 2, rel=1e-15)
    assert rate[60] == pytest.approx(1.25, rel=1e-15)
    assert rate[100] == 0.5
    assert all(a > b for a, b in pairwise(rate[20:]))


def test_a_cosine_of_three_halves_returns_to_the_peak_once():
    rate = rates(peak=2.0, warmup=10, total=40, cycles=1.5)
    assert rate[10] == rate[30] == 2.0
    assert rate[20] == pytest.approx(0, abs=1e-15) and rate[40] == pytest.approx(0, abs=1e-15)


def test_a_straight_fall_is_in_equal_steps():
    rate = [warmup_linear(i, peak=2.0, warmup=3, total=11, floor=0.4) for i in range(12)]
    assert rate[:4] == pytest.approx([0.5, 1.0, 1.5, 2.0], rel=1e-15)
    assert rate[3:] == pytest.approx([2 - 0.2 * i for i in range(9)], rel=1e-14)


def test_floor_at_the_peak_keeps_the_rate_constant():
    assert set(rates(peak=0.3, warmup=0, floor=0.3)) == {0.3}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"peak": 0.0}, "peak rate must be positive"),
        ({"peak": float("nan")}, "peak rate must be positive"),
        ({"floor": 2.0}, "between 0 and the peak"),
        ({"warmup": 10}, "from 0 to 9"),
        ({"warmup": -1}, "from 0 to 9"),
        ({"step": 11}, "from 0 to 10"),
        ({"step": -1}, "from 0 to 10"),
        ({"step": 5, "cycles": 0}, "cycles must be positive"),
    ],
)
def test_numbers_outside_their_range_are_named(change, message):
    options = {"step": 0, "peak": 1.0, "warmup": 2, "total": 10, "floor": 0.0} | change
    with pytest.raises(ValueError, match=message):
        warmup_cosine(options.pop("step"), **options)
