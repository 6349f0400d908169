"""Rotary positions: what turns, by how much, and that only distances count."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from scratch_vlm.ops.rotary import (
    RotaryScaling,
    rotary_backward,
    rotary_forward,
    rotary_speeds,
)

RNG = np.random.default_rng


def rotate(x, positions, base=10_000.0):
    return rotary_forward(x, positions=np.asarray(positions), base=base)[0]


def test_pairs_turn_like_complex_numbers():
    x = RNG(0).standard_normal((2, 3, 5, 8))
    positions = np.array([0, 1, 2, 7, 300])
    z = x[..., :4] + 1j * x[..., 4:]
    speeds = np.array([1, 10_000**-0.25, 10_000**-0.5, 10_000**-0.75])
    z = z * np.exp(1j * positions[:, None] * speeds)
    y = rotate(x, positions)
    np.testing.assert_allclose(y[..., :4], z.real, atol=1e-12)
    np.testing.assert_allclose(y[..., 4:], z.imag, atol=1e-12)


@given(seed=st.integers(0, 2**32 - 1), shift=st.integers(0, 5000))
def test_scores_depend_on_the_distance_alone(seed, shift):
    rng = RNG(seed)
    q, k = rng.standard_normal((2, 2, 3, 4, 6))
    positions = rng.integers(0, 50, (2, 4))
    here = rotate(q, positions) @ rotate(k, positions).swapaxes(-1, -2)
    there = rotate(q, positions + shift) @ rotate(k, positions + shift).swapaxes(-1, -2)
    np.testing.assert_allclose(here, there, atol=1e-10)


def test_scores_differ_between_distances():
    q, k = RNG(1).standard_normal((2, 1, 1, 1, 6))
    scores = [(rotate(q, [0]) * rotate(k, [m])).sum() for m in range(4)]
    assert np.abs(np.diff(scores)).min() > 1e-3


def test_lengths_are_kept_and_position_zero_changes_nothing():
    x = RNG(2).standard_normal((2, 2, 4, 6))
    np.testing.assert_allclose(
        np.linalg.norm(rotate(x, [1, 5, 9, 2000]), axis=-1), np.linalg.norm(x, axis=-1)
    )
    np.testing.assert_array_equal(rotate(x, [0, 0, 0, 0]), x)


def test_rows_may_stand_at_positions_of_their_own():
    x = RNG(3).standard_normal((2, 2, 3, 4))
    positions = np.array([[0, 1, 2], [5, 6, 9]])
    for row in range(2):
        one = rotate(x[row : row + 1], positions[row])
        np.testing.assert_array_equal(rotate(x, positions)[row : row + 1], one)


def test_backward_undoes_the_rotation():
    x = RNG(4).standard_normal((1, 2, 3, 4))
    y, saved = rotary_forward(x, positions=np.arange(3))
    np.testing.assert_allclose(rotary_backward(y, saved), x, atol=1e-14)


def test_late_positions_are_exact_in_float32():
    x = RNG(5).standard_normal((1, 1, 1, 8))
    right = rotate(x, [123_457])
    np.testing.assert_allclose(rotate(x.astype("float32"), [123_457]), right, atol=1e-6)


@pytest.mark.parametrize(
    ("shape", "positions", "error", "message"),
    [
        ((1, 1, 2, 3), np.arange(2), ValueError, r"even K, got \(1, 1, 2, 3\)"),
        ((2, 2, 4), np.arange(2), ValueError, r"\(B, A, T, K\)"),
        ((1, 1, 2, 4), np.arange(3), ValueError, r"must be \(2,\) or \(1, 2\), got \(3,\)"),
        ((3, 1, 2, 4), np.zeros((1, 2), int), ValueError, r"or \(3, 2\), got \(1, 2\)"),
        ((1, 1, 2, 4), np.arange(2.0), TypeError, "integers, got dtype float64"),
        ((1, 1, 2, 4), [0, 1], TypeError, "got list"),
    ],
)
def test_what_does_not_fit_is_refused(shape, positions, error, message):
    with pytest.raises(error, match=message):
        rotary_forward(np.ones(shape), positions=positions)


def test_a_base_that_turns_everything_alike_is_refused():
    with pytest.raises(ValueError, match=r"base must be above 1, got 1.0"):
        rotary_forward(np.ones((1, 1, 2, 4)), positions=np.arange(2), base=1.0)


def yarn_factor(pair, pairs, base, s):
    """By what the speed of a pair is divided, told case by case."""

    def place(turns):
        return pairs * np.log(s.trained / (2 * np.pi * turns)) / np.log(base)

    first, last = place(s.high), place(s.low)
    first, last = (np.floor(first), np.ceil(last)) if s.whole else (first, last)
    first, last = max(first, 0), min(last, 2 * pairs - 1)
    if pair <= first:
        return 1.0
    if pair >= last:
        return s.factor
    slow = (pair - first) / (last - first)
    return 1 / (1 - slow + slow / s.factor)


def llama3_factor(pair, pairs, base, s):
    turns = s.trained * base ** (-pair / pairs) / (2 * np.pi)
    if turns <= s.low:
        return s.factor
    if turns >= s.high:
        return 1.0
    kept = (turns - s.low) / (s.high - s.low)
    return 1 / (kept + (1 - kept) / s.factor)


@pytest.mark.parametrize("base", [50.0, 10_000.0])
@pytest.mark.parametrize(
    ("right", "scaling"),
    [
        (llama3_factor, RotaryScaling("llama3", 8.0, trained=64)),
        (yarn_factor, RotaryScaling("yarn", 4.0, trained=64, low=1.0, high=8.0)),
        (yarn_factor, RotaryScaling("yarn", 4.0, trained=64, low=1.0, high=8.0, whole=False)),
    ],
)
def test_fast_pairs_keep_their_speed_and_slow_ones_lose_the_factor(right, scaling, base):
    pairs = 12
    found = rotary_speeds(pairs, base) / rotary_speeds(pairs, base, scaling)
    expected = [right(pair, pairs, base, scaling) for pair in range(pairs)]
    np.testing.assert_allclose(found, expected, rtol=1e-12)
    assert found.max() == pytest.approx(scaling.factor)


def test_a_ramp_of_no_length_slows_all_pairs_behind_its_place():
    scaling = RotaryScaling("yarn", 4.0, trained=4, low=1.0, high=8.0)
    found = rotary_speeds(12, 10_000.0) / rotary_speeds(12, 10_000.0, scaling)
    np.testing.assert_allclose(found, [1] + 11 * [4])


def test_what_scaling_multiplies_is_in_queries_and_keys_and_their_gradients():
    x, scaling = RNG(6).standard_normal((1, 1, 3, 4)), RotaryScaling("linear", 2.0, size=1.5)
    y, saved = rotary_forward(x, positions=np.arange(3), scaling=scaling)
    np.testing.assert_allclose((y * y).sum(-1), 1.5**2 * (x * x).sum(-1))
    np.testing.assert_allclose(rotary_backward(y, saved), 1.5**2 * x)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kind": "ntk"}, "kind must be one of linear, llama3, yarn, got 'ntk'"),
        ({"factor": 0.5}, "factor must be at least 1, got 0.5"),
        ({"low": 4.0}, r"low must be above 0 and below high, got 4.0, 4.0"),
        ({"low": 0.0}, r"low must be above 0"),
    ],
)
def test_scaling_that_cannot_be_is_refused(change, message):
    with pytest.raises(ValueError, match=message):
        RotaryScaling(**{"kind": "yarn", "factor": 2.0, **change})
