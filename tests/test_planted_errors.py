"""The gradient check can fail: errors planted in every backward are caught."""

import warnings

import numpy as np
import pytest
from planting import mutants

from scratch_vlm.cases import find_pairs, make_case
from scratch_vlm.gradcheck import measure
from scratch_vlm.tree import leaves, zeros_like

PAIRS = find_pairs()
EXAMPLES = 40  # variants of a pair that a mutant must survive to count as surviving

# Mutants that compute the same numbers, with the reason. Each must survive, or it is struck off.
EQUIVALENT = {}


def caught(pair, backward):
    """Say whether the check, or an exception, notices a backward within a few examples."""
    for example in range(EXAMPLES):
        rng = np.random.default_rng(example)
        case = make_case(pair.name, rng)
        try:
            with warnings.catch_warnings(), np.errstate(all="ignore"):
                warnings.simplefilter("ignore")
                report = measure(
                    pair.forward,
                    backward,
                    case.inputs,
                    case.p,
                    options=case.fresh_options,
                    rng=rng,
                )
            if not report.passed or not accumulates(pair, backward, case):
                return True
        except Exception:
            return True
    return False


def accumulates(pair, backward, case):
    """Say whether a second call of the backward adds to what the first left."""
    if case.p is None:
        return True
    sums = [zeros_like(case.p), zeros_like(case.p)]
    for g, calls in zip(sums, (1, 2), strict=True):
        for _ in range(calls):
            y, saved = pair.forward(*case.inputs, case.p, **case.fresh_options())
            backward(np.ones_like(y), saved, g)
    return all(
        np.allclose(2 * once, twice)
        for (_, once), (_, twice) in zip(*map(leaves, sums), strict=True)
    )


@pytest.mark.parametrize("name", PAIRS)
def test_planted_errors_are_caught(name):
    pair = PAIRS[name]
    survivors = {m.what for m in mutants(pair.backward) if not caught(pair, m.function)}
    assert survivors == set(EQUIVALENT.get(name, {}))


@pytest.mark.parametrize("family", ["ops", "layers", "models"])
def test_there_are_enough_errors_to_catch(family):
    planted = {
        name: len(list(mutants(pair.backward)))
        for name, pair in PAIRS.items()
        if name.startswith(family)
    }
    assert sum(planted.values()) >= 30
