"""What every forward/backward pair of the library must keep, from one table of cases."""

import inspect
import re
import textwrap
from contextlib import nullcontext
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given

from scratch_vlm.backend import to_device, to_host
from scratch_vlm.cases import Sizes, check_case, draw, find_pairs, make_case, whole_models
from scratch_vlm.gradcheck import strategies
from scratch_vlm.layers import linear
from scratch_vlm.recompute import recomputed
from scratch_vlm.tree import FROZEN, freeze, leaves, zeros_like

PAIRS = find_pairs()
LAYERS = [name for name in PAIRS if make_case(name, np.random.default_rng(0)).p is not None]


def takes_out(function):
    return "out" in inspect.signature(function).parameters


WITH_OUT = [
    name for name, pair in PAIRS.items() if takes_out(pair.forward) or takes_out(pair.backward)
]
ONE_AT_LEAST = {
    *("ops.losses.contrastive", "ops.losses.sigmoid_contrastive", "models.clip.clip"),
    *("ops.splice.deal", "models.unified.unified", "models.unified.unified_embed"),
    *("models.unified.unified_loss", "models.cross_modal.cross_modal", "models.cross_modal.look"),
    *("models.cross_modal.cross_modal_loss", "models.cross_modal.cross_trunk"),
}
of_layers = pytest.mark.parametrize("pair", LAYERS, indirect=True)
sizes = strategies.sizes(
    B=(1, 3),
    T=(1, 5),
    S=(1, 6),
    A=[1, 2, 4],
    K=(2, 4),
    M=(1, 7),
    E=(2, 5),
    V=(2, 9),
    C=(1, 3),
    rows=(1, 3),
    columns=(1, 3),
).map(lambda n: Sizes(**n))


@pytest.fixture(params=PAIRS)
def pair(request):
    return PAIRS[request.param]


def run(pair, case, inputs=None, p=None):
    inputs, p = inputs or case.inputs, p or case.p
    arguments = inputs if p is None else (*inputs, p)
    return pair.forward(*arguments, **case.fresh_options())


def pull(pair, case, dy, saved, g=None):
    """Run the backward; return the gradients of the inputs as a tuple, and those of p."""
    if case.p is None:
        dx = pair.backward(dy, saved)
    else:
        g = zeros_like(case.p) if g is None else g
        dx = pair.backward(dy, saved, g)
    dx = () if dx is None else dx if isinstance(dx, tuple) else (dx,)
    return dx, g


def cotangent(rng, y):
    return rng.standard_normal(np.shape(y)).astype(y.real.dtype)


def all_gradients(pair, case, dy):
    _, saved = run(pair, case)
    dx, g = pull(pair, case, dy, saved)
    return [*dx, *(x for _, x in leaves(g))]


@pytest.mark.parametrize("name", PAIRS)
@given(sizes=sizes, seed=strategies.seeds())
def test_backward_is_the_slope_of_the_forward(name, sizes, seed):
    report = check_case(name, seed, sizes)
    assert report.method == "complex"
    assert report.entries


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("name", whole_models())
def test_whole_models_are_right_with_all_that_can_be_built_into_them(name, seed):
    report = check_case(name, [1, seed])
    assert report.method == "complex" and report.worst < 1e-12
    names = [entry.name for entry in report.entries]
    assert sum("/lora/a" in n for n in names) >= 4
    if "Resampler" in name:
        assert any("/connector/resampler/" in n for n in names)
        gated = "gated/0/attn/q/lora/b" in names or "gated/1/attn/q/lora/b" in names
        assert gated == ("cross_modal" in name)


def test_a_pair_without_a_case_is_an_error(monkeypatch):
    def new_forward(x):
        return x, None

    def new_backward(dy, saved):
        return dy

    for function in (new_forward, new_backward):
        function.__module__ = linear.__name__
        monkeypatch.setattr(linear, function.__name__, function, raising=False)
    with pytest.raises(
        LookupError, match=r"no case in scratch_vlm.cases.draw for layers.linear.new"
    ):
        find_pairs()
    monkeypatch.delattr(linear, "new_backward")
    with pytest.raises(LookupError, match=r"layers.linear.new has no new_backward"):
        find_pairs()


def test_a_failure_prints_the_lines_that_show_it_again(monkeypatch):
    right = linear.linear_backward

    def wrong(dy, saved, g, *, out=None):
        return 2 * right(dy, saved, g, out=out)

    wrong.__module__ = right.__module__
    monkeypatch.setattr(linear, "linear_backward", wrong)

    @given(n=strategies.sizes(B=(1, 3), T=(1, 3)), seed=strategies.seeds())
    def test(n, seed):
        check_case("layers.linear.linear", seed, Sizes(**n))

    with pytest.raises(AssertionError, match="2 times what it should be") as caught:
        test()
    (note,) = [note for note in caught.value.__notes__ if "To see it again" in note]
    assert "check_case('layers.linear.linear', 0, Sizes(B=1, T=1)))" in note
    lines = note.partition("again:\n\n")[2]
    with pytest.raises(AssertionError, match="2 times what it should be"):
        exec(textwrap.dedent(lines), {})


def test_every_whole_model_is_of_a_pair():
    assert {stem for stem, _ in draw.WHOLE_MODELS.values()} <= set(PAIRS)


def test_an_empty_batch_comes_through(pair):
    if pair.name in ONE_AT_LEAST:
        pytest.skip("takes no empty batch, or its case is made of texts with media")
    case = make_case(pair.name, np.random.default_rng(0), Sizes(B=0))
    y, saved = run(pair, case)
    dx, g = pull(pair, case, cotangent(np.random.default_rng(1), y), saved)
    assert [d.shape for d in dx] == [x.shape for x in case.inputs if x.dtype.kind == "f"][: len(dx)]
    assert not any(x.any() for _, x in leaves(g)), "a batch without samples teaches nothing"


@pytest.mark.parametrize("seed", range(4))
def test_backward_is_linear_in_dy(pair, seed):
    rng = np.random.default_rng(seed)
    case = make_case(pair.name, rng)
    y, _ = run(pair, case)
    a, b = cotangent(rng, y), cotangent(rng, y)
    parts = [all_gradients(pair, case, dy) for dy in (a, b, 3 * a - b)]
    for from_a, from_b, from_both in zip(*parts, strict=True):
        np.testing.assert_allclose(from_both, 3 * from_a - from_b, rtol=1e-9, atol=1e-11)


@of_layers
@pytest.mark.parametrize("seed", range(4))
def test_gradients_accumulate(pair, seed):
    rng = np.random.default_rng(seed)
    case = make_case(pair.name, rng)
    if case.p is None:
        pytest.skip("an op has no parameters to accumulate into")
    y, saved = run(pair, case)
    dy = cotangent(rng, y)
    _, once = pull(pair, case, dy, saved)
    _, saved = run(pair, case)
    twice = pull(pair, case, dy, saved, pull(pair, case, dy, run(pair, case)[1])[1])[1]
    for (name, x), (_, y) in zip(leaves(once), leaves(twice), strict=True):
        np.testing.assert_allclose(2 * x, y, rtol=1e-13, atol=1e-13, err_msg=name)


@of_layers
@pytest.mark.parametrize("seed", range(4))
def test_frozen_parameters_leave_dx_as_it_is(pair, seed):
    rng = np.random.default_rng(seed)
    case = make_case(pair.name, rng)
    if case.p is None:
        pytest.skip("an op has no parameters to freeze")
    y, saved = run(pair, case)
    dy = cotangent(rng, y)
    free, _ = pull(pair, case, dy, saved)
    frozen, g = pull(pair, case, dy, run(pair, case)[1], FROZEN)
    assert g is FROZEN and len(FROZEN) == 0
    if pair.name == "models.clip.clip":
        assert frozen == ()  # a frozen tower is not walked through
        return
    for x, y in zip(free, frozen, strict=True):
        np.testing.assert_array_equal(x, y)


@of_layers
@pytest.mark.parametrize("seed", range(4))
def test_each_leaf_can_be_frozen_alone(pair, seed):
    rng = np.random.default_rng(seed)
    case = make_case(pair.name, rng)
    if case.p is None:
        pytest.skip("an op has no parameters to freeze")
    assert_frozen_alone(pair, case, rng, rng.choice([name for name, _ in leaves(case.p)]))


@of_layers
@pytest.mark.parametrize("seed", range(4))
def test_each_branch_can_be_frozen_alone(pair, seed):
    rng = np.random.default_rng(seed)
    case = make_case(pair.name, rng)
    if case.p is None:
        pytest.skip("an op has no parameters to freeze")
    branch = sorted(case.p)[seed % len(case.p)]
    dx = assert_frozen_alone(pair, case, rng, branch)
    if pair.name == "models.clip.clip":
        assert (dx == ()) == (branch == "image")


def assert_frozen_alone(pair, case, rng, frozen):
    """Freeze a leaf or a branch; check that the rest learns as before, and return dx."""
    y, _ = run(pair, case)
    dy = cotangent(rng, y)
    free, full = pull(pair, case, dy, run(pair, case)[1])
    full = dict(leaves(full))
    kept = {name for name in full if name != frozen and not name.startswith(f"{frozen}/")}

    rules = [(re.escape(frozen) + "(/.*)?", False)] + [(".*", True)] * bool(kept)
    dx, g = pull(pair, case, dy, run(pair, case)[1], freeze(zeros_like(case.p), rules))
    part = dict(leaves(g))
    assert set(part) == kept
    for name, x in part.items():
        np.testing.assert_array_equal(x, full[name], err_msg=name)
    if dx:
        for x, right in zip(dx, free, strict=True):
            np.testing.assert_array_equal(x, right)
    return dx


@pytest.mark.parametrize("seed", range(6))
def test_float32_stays_float32(pair, seed):
    rng = np.random.default_rng(seed)
    exact = make_case(pair.name, rng)
    case = exact.astype(np.float32)
    y, saved = run(pair, case)
    assert y.dtype == np.float32
    dy = cotangent(rng, y)
    gradients = pull(pair, case, dy, saved)
    reference = all_gradients(pair, exact, dy.astype(float))
    flat = [*gradients[0], *(x for _, x in leaves(gradients[1]))]
    for x, right in zip(flat, reference, strict=True):
        assert x.dtype == np.float32
        scale = max(np.abs(right).max(initial=0), 1e-2)
        np.testing.assert_allclose(x, right, atol=2e-4 * scale)


@of_layers
@pytest.mark.parametrize("seed", range(4))
def test_recomputed_pair_is_the_same_to_the_bit(pair, seed):
    rng = np.random.default_rng(seed)
    case = make_case(pair.name, rng)
    if case.p is None:
        pytest.skip("recomputation wraps pairs with parameters")
    y, saved = run(pair, case)
    dy = cotangent(rng, y)
    dx, g = pull(pair, case, dy, saved)
    forward, backward = recomputed(pair.forward, pair.backward)
    again, saved = forward(*case.inputs, case.p, **case.fresh_options())
    np.testing.assert_array_equal(y, again)
    g2 = zeros_like(case.p)
    dx2 = backward(dy, saved, g2)
    dx2 = () if dx2 is None else dx2 if isinstance(dx2, tuple) else (dx2,)
    first, second = [*dx, *dict(leaves(g)).values()], [*dx2, *dict(leaves(g2)).values()]
    for a, b in zip(first, second, strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("pair", WITH_OUT, indirect=True)
@pytest.mark.parametrize("seed", range(4))
def test_out_is_where_the_result_goes(pair, seed):
    rng = np.random.default_rng(seed)
    case = make_case(pair.name, rng)
    if pair.name not in WITH_OUT:
        pytest.skip("neither function has an out")
    y, saved = run(pair, case)
    dy = cotangent(rng, y)
    dx, _ = pull(pair, case, dy, saved)
    arguments = case.inputs if case.p is None else (*case.inputs, case.p)
    if takes_out(pair.forward):
        out = np.full_like(y, np.nan)
        again, _ = pair.forward(*arguments, **case.fresh_options(), out=out)
        np.testing.assert_array_equal(out, y)
        assert np.shares_memory(again, out)
    if takes_out(pair.backward):
        several = tuple(np.full_like(x, np.nan) for x in dx)
        out = several if len(several) > 1 else several[0]
        _, saved = run(pair, case)
        grads = () if case.p is None else (zeros_like(case.p),)
        assert pair.backward(dy, saved, *grads, out=out) is out
        for found, right in zip(several, dx, strict=True):
            np.testing.assert_array_equal(found, right)


BATCH = 13  # no other axis of a case is as long: an array of this length has a batch axis
MEANS = "a mean over the batch is not the sum of two means"
MERGED = "the batch shares its axis with the frames"
MEDIA = "images have an axis of their own, that of all texts; see tests/models"
NOT_BY_SAMPLE = {
    "ops.losses.cross_entropy": MEANS,
    "ops.losses.contrastive": "every sample meets all others",
    "ops.losses.sigmoid_contrastive": "every sample meets all others",
    "ops.frames.fold_frames": MERGED,
    "ops.frames.unfold_frames": MERGED,
    "ops.positions.interpolate_positions": "a table of places has no batch",
    "ops.splice.splice": MEDIA,
    "ops.splice.deal": MEDIA,
    "models.clip.clip": "every sample meets all others",
    "models.lm.lm_loss": MEANS,
    "models.lm.next_token": MEANS,
    "models.unified.unified": MEDIA,
    "models.unified.unified_embed": MEDIA,
    "models.unified.unified_loss": MEDIA,
    "models.cross_modal.cross_modal": MEDIA,
    "models.cross_modal.cross_modal_loss": MEDIA,
    "models.cross_modal.look": MEDIA,
}


def without_dropout(case):
    """Return the case with no dice: two calls would throw them in another order, or library."""
    if "rng" not in case.options:
        return case
    return replace(case, options={**case.options, "rng": None})


def batch_slice(case, part):
    def cut(x):
        return x[part] if isinstance(x, np.ndarray) and x.shape[:1] == (BATCH,) else x

    options = {name: cut(option) for name, option in case.options.items()}
    return replace(case, inputs=tuple(map(cut, case.inputs)), options=options)


def test_pairs_that_mix_samples_are_pairs():
    assert set(NOT_BY_SAMPLE) <= set(PAIRS)


@pytest.mark.parametrize("pair", [n for n in PAIRS if n not in NOT_BY_SAMPLE], indirect=True)
@pytest.mark.parametrize("seed", range(4))
def test_a_batch_is_two_smaller_batches(pair, seed):
    rng = np.random.default_rng(seed)
    case = without_dropout(make_case(pair.name, rng, Sizes(B=BATCH)))
    y, saved = run(pair, case)
    dy = cotangent(rng, y)
    dx, g = pull(pair, case, dy, saved)
    assert all(len(x) == BATCH for x in (y, *case.inputs, *dx))

    g2 = None if case.p is None else zeros_like(case.p)
    for part in (slice(0, 5), slice(5, BATCH)):
        half = batch_slice(case, part)
        y2, saved = run(pair, half)
        np.testing.assert_allclose(y2, y[part], rtol=1e-10, atol=1e-11)
        dx2, _ = pull(pair, half, dy[part], saved, g2)
        for x2, x in zip(dx2, dx, strict=True):
            np.testing.assert_allclose(x2, x[part], rtol=1e-10, atol=1e-11)
    for (name, x2), (_, x) in zip(leaves(g2), leaves(g), strict=True):
        np.testing.assert_allclose(x2, x, rtol=1e-10, atol=1e-10, err_msg=name)


@pytest.mark.parametrize(("dtype", "tolerance"), [(np.float32, 2e-4), (np.float64, 1e-9)])
@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("name", [*PAIRS, *whole_models()])
def test_numpy_and_a_device_agree(name, seed, xp, no_sync, dtype, tolerance):
    rng = np.random.default_rng(seed)
    pair = {**PAIRS, **whole_models()}[name]
    case = make_case(name, rng).astype(dtype)
    there = case.to(xp)
    y, saved = run(pair, case)
    dy = cotangent(rng, y)
    dx, g = pull(pair, case, dy, saved)
    counts = there.options.get("slots", 0) is None  # media in the ids, which waits: see there
    with nullcontext() if counts else no_sync():
        y2, saved2 = run(pair, there)
        dx2, g2 = pull(pair, there, to_device(dy, xp), saved2)
    here, device = ([a, *b, *dict(leaves(c)).values()] for a, b, c in ((y, dx, g), (y2, dx2, g2)))
    for x, x2 in zip(here, device, strict=True):
        assert isinstance(x2, xp.ndarray)
        assert x2.dtype == dtype
        scale = max(np.abs(x).max(initial=0), 1e-2)
        np.testing.assert_allclose(to_host(x2), x, rtol=0, atol=tolerance * scale)
