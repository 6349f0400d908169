import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from scratch_vlm.training.optimizer import SGD, AdamW
from scratch_vlm.tree import FROZEN, leaves, tree_map

SHAPES = {
    "tokens": {"w": (5, 3)},
    "positions": {"w": (4, 3)},
    "fc": {"w": (3, 70), "b": (70,)},
    "ln": {"gamma": (3,)},
    "log_scale": (),
}


def draw(seed, dtype="float64", scale=1.0):
    rng = np.random.default_rng(seed)
    return tree_map(lambda shape: np.array(scale * rng.standard_normal(shape), dtype), SHAPES)


def fill(g, gradients):
    for name, x in leaves(gradients):
        branch = g
        *path, last = name.split("/")
        for key in path:
            branch = branch[key]
        branch[last] += x


def run(optimizer, steps, seed=1):
    norms = []
    for step in range(steps):
        dtype = next(leaves(optimizer.g))[1].dtype
        fill(optimizer.g, draw([seed, step], dtype, scale=10.0**-step))
        norms.append(optimizer.step(0.1 / (step + 1)))
    return norms


def textbook(p, gradients, rates, *, decay, betas, eps, clip):
    """Algorithm 2 of arXiv:1711.05101, leaf by leaf, in its own words."""
    beta1, beta2 = betas
    p, m, v, norms = dict(leaves(p)), {}, {}, []
    for t, (g, rate) in enumerate(zip(gradients, rates, strict=True), start=1):
        g = dict(leaves(g))
        norm = math.sqrt(sum((x**2).sum() for x in g.values()))
        norms.append(norm)
        for name in p:
            x = g[name] * min(1.0, clip / norm)
            m[name] = beta1 * m.get(name, 0.0) + (1 - beta1) * x
            v[name] = beta2 * v.get(name, 0.0) + (1 - beta2) * x**2
            mhat, vhat = m[name] / (1 - beta1**t), v[name] / (1 - beta2**t)
            p[name] = p[name] - rate * (mhat / (np.sqrt(vhat) + eps) + decay[name] * p[name])
    return p, norms


def same_bits(a, b):
    a, b = dict(leaves(a)), dict(leaves(b))
    return a.keys() == b.keys() and all(a[n].tobytes() == b[n].tobytes() for n in a)


@given(
    seed=st.integers(0, 2**32 - 1),
    decay=st.floats(0, 1),
    betas=st.tuples(st.floats(0, 0.99), st.floats(0, 0.9999)),
    eps=st.floats(1e-9, 1e-2),
    clip=st.floats(0.01, 100),
)
def test_equals_the_textbook_leaf_by_leaf(seed, decay, betas, eps, clip):
    options = {"betas": betas, "eps": eps, "clip": clip}
    optimizer = AdamW(draw(seed), decay=decay, **options)
    norms = run(optimizer, steps=5)
    matrices = {"tokens/w", "fc/w"}
    want, want_norms = textbook(
        draw(seed),
        [draw([1, step], scale=10.0**-step) for step in range(5)],
        [0.1 / (step + 1) for step in range(5)],
        decay={name: decay * (name in matrices) for name, _ in leaves(SHAPES_AS_ARRAYS)},
        **options,
    )
    assert norms == pytest.approx(want_norms, rel=1e-12)
    for name, x in leaves(optimizer.p):
        np.testing.assert_allclose(x, want[name], rtol=1e-12, atol=1e-12, err_msg=name)


SHAPES_AS_ARRAYS = draw(0)


def test_rules_give_each_parameter_its_own_decay():
    p = draw(0)
    rules = [("ln/.*", 0.5), (".*/w", 0.1), (".*", 0.0)]
    optimizer = AdamW(p, decay=rules)
    optimizer.step(1.0)  # without a gradient only the decay moves
    for name, x in leaves(optimizer.p):
        keep = {"ln/gamma": 0.5, "fc/b": 1.0, "log_scale": 1.0}.get(name, 0.9)
        np.testing.assert_allclose(x, keep * dict(leaves(p))[name], rtol=1e-15, err_msg=name)


def test_factors_make_some_parameters_learn_faster():
    rules = [("log_scale|fc/.*", 3.0), (".*", 1.0)]
    usual, other = AdamW(draw(0), decay=0.1), AdamW(draw(0), decay=0.1, factors=rules)
    faster = AdamW(draw(0), decay=0.1)
    for optimizer, rate in ((usual, 0.1), (other, 0.1), (faster, 0.1 * 3.0)):
        for step in range(3):
            fill(optimizer.g, draw([1, step]))
            optimizer.step(rate)
    for (name, x), (_, slow), (_, fast) in zip(
        leaves(other.p), leaves(usual.p), leaves(faster.p), strict=True
    ):
        want = fast if name == "log_scale" or name.startswith("fc/") else slow
        np.testing.assert_allclose(x, want, rtol=1e-13, err_msg=name)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("chunk", [1, 64, 128, 200, 10**9])
def test_chunks_change_no_bit(dtype, chunk):
    usual = AdamW(draw(0, dtype), clip=1.0)
    other = AdamW(draw(0, dtype), clip=1.0, chunk=chunk)
    assert run(usual, 4) == run(other, 4)
    assert same_bits(usual.p, other.p)
    assert same_bits(usual.state, other.state)
    assert all(x.dtype == dtype for _, x in leaves(other.p))


def test_frozen_parameters_keep_every_bit_and_stay_the_arrays_they_were():
    p = draw(0)
    before = draw(0)
    rules = [("tokens/.*|fc/b", False), (".*", True)]
    optimizer = AdamW(p, trained=rules, decay=0.5)
    run(optimizer, 3)
    assert optimizer.g["tokens"] is FROZEN and optimizer.g["fc"]["b"] is FROZEN
    assert optimizer.p["tokens"]["w"] is p["tokens"]["w"]
    assert same_bits(p, before)
    assert not np.array_equal(optimizer.p["fc"]["w"], p["fc"]["w"])
    assert {name for name, _ in leaves(optimizer.state["m"])} == {
        "positions/w",
        "fc/w",
        "ln/gamma",
        "log_scale",
    }


def test_frozen_parameters_do_not_count_in_the_norm():
    optimizer = AdamW(draw(0), trained=[("fc/b", True), (".*", False)], clip=1.0)
    gradients = draw(1)
    fill(optimizer.g, gradients)
    assert optimizer.step(0.1) == pytest.approx(np.linalg.norm(gradients["fc"]["b"]), rel=1e-14)


def test_step_empties_the_gradient():
    optimizer = AdamW(draw(0))
    run(optimizer, 1)
    assert all(not x.any() for _, x in leaves(optimizer.g))


def test_zero_gradient_without_decay_moves_nothing():
    optimizer = AdamW(draw(0), decay=0.0, clip=1.0)
    assert optimizer.step(0.1) == 0.0
    assert same_bits(optimizer.p, draw(0))


def test_goes_on_from_a_saved_state_to_the_bit():
    whole = AdamW(draw(0, "float32"))
    run(whole, 3)
    half = AdamW(tree_map(np.copy, whole.p))
    half.load_state(tree_map(np.copy, whole.state))
    run(whole, 2, seed=7)
    run(half, 2, seed=7)
    assert half.steps == 5
    assert same_bits(whole.p, half.p) and same_bits(whole.state, half.state)


def test_state_of_another_model_is_refused():
    optimizer = AdamW(draw(0))
    frozen = AdamW(draw(0), trained=[("fc/.*", False), (".*", True)])
    with pytest.raises(ValueError, match=r"m/fc/w: found nothing, expected \(3, 70\)"):
        optimizer.load_state(frozen.state)
    with pytest.raises(ValueError, match=r"m/fc/w: found \(3, 70\), expected nothing"):
        frozen.load_state(optimizer.state)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_gradient_that_is_not_finite_changes_nothing(bad):
    optimizer = AdamW(draw(0))
    optimizer.g["fc"]["b"][3] = bad
    with pytest.raises(ValueError, match="not changed"):
        optimizer.step(0.1)
    assert same_bits(optimizer.p, draw(0)) and optimizer.steps == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"betas": (0.9, 1.0)}, "betas"),
        ({"betas": (0.9,)}, "betas"),
        ({"eps": 0.0}, "eps must be positive"),
        ({"clip": 0.0}, "clip must be positive"),
        ({"decay": -0.1}, "must not be negative, got -0.1 for tokens/w"),
        ({"decay": [("fc/.*", 0.1)]}, "no rule matches tokens/w"),
        ({"factors": [("fc/.*", 2.0)]}, "no rule matches tokens/w"),
        ({"factors": [("fc/b", 0.0), (".*", 1.0)]}, "is positive, got 0.0 for fc/b"),
        ({"trained": [(".*", False)]}, "is every parameter frozen"),
    ],
)
def test_options_outside_their_range_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        AdamW(draw(0), **options)


def test_parameters_must_be_single_or_double():
    with pytest.raises(TypeError, match="got float16"):
        AdamW({"w": np.ones(3, "float16")})


def step_by_step(move, p, gradients, rate, decay):
    """Follow every leaf by itself; `move` gives the step of one of its gradients, decay added."""
    p, kept = dict(leaves(p)), {}
    for t, g in enumerate(gradients, start=1):
        for name, x in leaves(g):
            before = p[name]
            change, kept[name] = move(x + decay[name] * before, kept.get(name), t)
            p[name] = before - rate * change
    return p


@given(
    seed=st.integers(0, 2**32 - 1),
    momentum=st.floats(0, 0.99),
    nesterov=st.booleans(),
    rate=st.floats(0.25, 4),
)
def test_descent_with_momentum_equals_the_textbook(seed, momentum, nesterov, rate):
    gradients = [draw([seed, step]) for step in range(4)]
    decay = {name: 0.1 * (name == "fc/w") for name, _ in leaves(draw(seed))}
    factors = (("fc/.*", rate), (".*", 1.0))
    optimizer = SGD(
        draw(seed),
        decay=tuple(decay.items()),
        momentum=momentum,
        nesterov=nesterov,
        factors=factors,
        chunk=64,
    )
    for g in gradients:
        fill(optimizer.g, g)
        optimizer.step(0.05)

    def move(g, pace, t):
        pace = momentum * (0 if pace is None else pace) + g
        return (g + momentum * pace if nesterov else pace), pace

    found = dict(leaves(optimizer.p))
    for by, part in ((rate, "fc/"), (1.0, "")):
        want = step_by_step(move, draw(seed), gradients, 0.05 * by, decay)
        for name in want:
            if name.startswith("fc/") == bool(part):
                np.testing.assert_allclose(found[name], want[name], rtol=1e-11, atol=1e-13)


@given(seed=st.integers(0, 2**32 - 1))
def test_coupled_decay_is_a_part_of_the_gradient(seed):
    gradients = [draw([seed, step]) for step in range(4)]
    optimizer = AdamW(draw(seed), decay=0.3, coupled=True, betas=(0.8, 0.9))
    for g in gradients:
        fill(optimizer.g, g)
        optimizer.step(0.05)

    def move(g, means, t):
        m, v = (0, 0) if means is None else means
        m, v = 0.8 * m + 0.2 * g, 0.9 * v + 0.1 * g * g
        return m / (1 - 0.8**t) / (np.sqrt(v / (1 - 0.9**t)) + 1e-8), (m, v)

    decay = {name: 0.3 * (name in ("tokens/w", "fc/w")) for name, _ in leaves(draw(seed))}
    want = step_by_step(move, draw(seed), gradients, 0.05, decay)
    for name, x in leaves(optimizer.p):
        np.testing.assert_allclose(x, want[name], rtol=1e-9, atol=1e-12, err_msg=name)


@pytest.mark.parametrize("momentum", [-0.1, 1.0, float("nan")])
def test_a_pace_that_never_ends_is_refused(momentum):
    with pytest.raises(ValueError, match="momentum must be from 0 to below 1"):
        SGD(draw(0), momentum=momentum)


def test_descent_goes_on_from_a_saved_state():
    whole, first = SGD(draw(0), clip=1.0), SGD(draw(0), clip=1.0)
    run(whole, 4)
    run(first, 2)
    second = SGD(first.p, clip=1.0)
    second.load_state(first.state)
    for step in range(2, 4):
        fill(second.g, draw([1, step], scale=10.0**-step))
        second.step(0.1 / (step + 1))
    assert same_bits(whole.p, second.p) and same_bits(whole.state["m"], second.state["m"])
