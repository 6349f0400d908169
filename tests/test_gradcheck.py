"""The gradient check passes what is right, and names what is wrong."""

import re
import sys
import types
from functools import partial

import numpy as np
import pytest

from scratch_vlm.gradcheck import GradientError, check, measure
from scratch_vlm.layers.attention import (
    self_attention_backward,
    self_attention_forward,
    self_attention_init,
)
from scratch_vlm.layers.linear import linear_backward, linear_forward, linear_init
from scratch_vlm.ops.normalize import softmax_backward, softmax_forward


def numbers(*shape):
    return np.random.default_rng(7).standard_normal(shape)


def cube_forward(x):
    return x * x * x, x


def cube_backward(dy, x):
    return 3 * x * x * dy


def linear():
    rng = np.random.default_rng(0)
    return [rng.standard_normal((2, 3))], linear_init(rng, 3, 4)


def wrong(change):
    """Make a linear backward whose weight gradient is changed."""

    def backward(dy, saved, g):
        dx = linear_backward(dy, saved, g)
        g["w"][...] = change(g["w"])
        return dx

    return backward


def test_a_right_pair_passes_to_the_last_digits():
    report = check(cube_forward, cube_backward, [numbers(3, 4)])
    assert report.passed and report.method == "complex" and report.worst < 1e-14


@pytest.mark.parametrize("factor", [-1, 0, 2, 1 + 1e-10])
def test_a_wrong_factor_is_caught_even_when_it_is_tiny(factor):
    with pytest.raises(GradientError, match=r"input 0 .*<- wrong"):
        check(cube_forward, lambda dy, x: factor * cube_backward(dy, x), [numbers(5)])


def test_the_wrong_parameter_is_marked_and_the_right_ones_are_not():
    inputs, p = linear()
    with pytest.raises(GradientError) as caught:
        check(linear_forward, wrong(lambda w: w * 1.001), inputs, p)
    marked = [line.split()[0] for line in str(caught.value).splitlines() if "<- wrong" in line]
    assert marked == ["w"]


def test_one_wrong_number_among_many_is_caught():
    inputs, p = linear()

    def one_off(w):
        w[1, 2] *= 1.01
        return w

    with pytest.raises(GradientError, match=r"w .*<- wrong"):
        check(linear_forward, wrong(one_off), inputs, p)


def test_a_backward_that_sums_wrongly_passes_only_where_dy_is_one():
    # The softmax of a row sums to one, so with dy = 1 zero is the right gradient.
    y, saved = softmax_forward(numbers(2, 3))
    assert np.allclose(softmax_backward(np.ones_like(y), saved), 0)
    with pytest.raises(GradientError):
        check(softmax_forward, lambda dy, y: np.zeros_like(dy), [numbers(2, 3)])


def test_a_gradient_of_another_shape_is_refused():
    with pytest.raises(GradientError, match=r"shape \(2, 3\) and its gradient \(3, 2\)"):
        check(cube_forward, lambda dy, x: cube_backward(dy, x).T, [numbers(2, 3)])


@pytest.mark.parametrize("count", [0, 2])
def test_another_number_of_gradients_is_refused(count):
    def backward(dy, x):
        return (cube_backward(dy, x),) * count

    with pytest.raises(GradientError, match=f"returned {count} gradients for 1 floating"):
        check(cube_forward, backward, [numbers(2)])


def test_a_backward_that_returns_nothing_is_refused():
    with pytest.raises(GradientError, match="returned None for 1 floating point input"):
        check(cube_forward, lambda dy, x: None, [numbers(2)])


def test_a_forward_that_changes_its_input_is_refused():
    def forward(x):
        x *= 2
        return x, None

    with pytest.raises(GradientError, match="input 0 was changed in place by the forward"):
        check(forward, lambda dy, saved: 2 * dy, [numbers(3)])


def test_a_backward_that_changes_a_parameter_is_refused():
    def backward(dy, saved, g):
        dx = linear_backward(dy, saved, g)
        saved[1][0] = 0
        return dx

    inputs, p = linear()
    with pytest.raises(GradientError, match="w was changed in place by the backward"):
        check(linear_forward, backward, inputs, p)


def test_a_nan_gradient_is_wrong():
    report = measure(cube_forward, lambda dy, x: np.full_like(dy, np.nan), [numbers(3)])
    assert np.isnan(report.worst) and not report.passed


def test_a_nan_in_one_parameter_is_not_hidden_by_the_others():
    inputs, p = linear()
    report = measure(linear_forward, wrong(lambda w: np.nan), inputs, p)
    assert not report.passed
    assert str(report).splitlines()[1].startswith("w ")


def test_a_forward_that_refuses_complex_numbers_is_measured_by_differences():
    def forward(x):
        y = np.empty(x.shape)
        y[...] = x * x
        return y, x

    report = check(forward, lambda dy, x: 2 * x * dy, [numbers(3, 2)])
    assert report.method == "central"
    with pytest.raises(GradientError, match="central step"):
        check(forward, lambda dy, x: 2.00001 * x * dy, [numbers(3, 2)])


def test_asking_for_the_complex_step_where_it_cannot_be_is_an_error():
    def forward(x):
        y = np.empty(x.shape)
        y[...] = x * x
        return y, x

    with pytest.raises(GradientError, match="does not take complex numbers"):
        check(forward, lambda dy, x: 2 * x * dy, [numbers(3)], method="complex")


def test_both_methods_agree():
    for method in ("complex", "central"):
        assert check(cube_forward, cube_backward, [numbers(4)], method=method).method == method


@pytest.mark.parametrize("scale", [1e-8, 1e-3, 1e3, 1e8])
def test_the_verdict_does_not_depend_on_the_scale(scale):
    def forward(x):
        y, saved = cube_forward(x)
        return scale * y, saved

    def backward(dy, saved):
        return cube_backward(scale * dy, saved)

    assert check(forward, backward, [numbers(6)]).worst < 1e-13
    with pytest.raises(GradientError):
        check(forward, lambda dy, saved: (1 + 1e-9) * backward(dy, saved), [numbers(6)])


def test_a_key_bias_under_softmax_has_no_gradient_and_passes():
    rng = np.random.default_rng(0)
    p = self_attention_init(rng, 6, heads=2)
    p["qkv"]["b"] = rng.standard_normal(18)
    x = rng.standard_normal((2, 4, 6))
    report = check(
        lambda x, p: self_attention_forward(x, p, heads=2), self_attention_backward, [x], p
    )
    assert report.passed
    _, saved = self_attention_forward(x, p, heads=2)
    g = {"qkv": {k: np.zeros(v.shape) for k, v in p["qkv"].items()}}
    g["out"] = {k: np.zeros(v.shape) for k, v in p["out"].items()}
    self_attention_backward(rng.standard_normal(x.shape), saved, g)
    assert abs(g["qkv"]["b"][6:12]).max() < 1e-14 < 1e-3 < abs(g["qkv"]["b"][12:]).max()


def test_a_constant_function_has_a_gradient_of_zero():
    def forward(x):
        return 0 * x + 1, x.shape

    assert check(forward, lambda dy, shape: np.zeros(shape), [numbers(3)]).worst == 0
    with pytest.raises(GradientError):
        check(forward, lambda dy, shape: np.full(shape, 1e-9), [numbers(3)])


def test_several_outputs_have_a_cotangent_each():
    def forward(x):
        return (x * x, 3 * x), x

    def backward(dys, x):
        return 2 * x * dys[0] + 3 * dys[1]

    assert check(forward, backward, [numbers(4)]).passed
    with pytest.raises(GradientError):
        check(forward, lambda dys, x: 2 * x * dys[0], [numbers(4)])


def test_integers_have_no_gradient_and_float32_is_checked_in_float64():
    def forward(x, ids):
        return x[ids] * x[ids], (x, ids)

    def backward(dy, saved):
        x, ids = saved
        dx = np.zeros_like(x)
        np.add.at(dx, ids, 2 * x[ids] * dy)
        return dx

    x = numbers(3).astype("float32")
    report = check(forward, backward, [x, np.array([0, 2, 2])])
    assert [entry.name for entry in report.entries] == ["input 0"]
    assert report.worst < 1e-14


def test_the_table_puts_the_worst_first():
    inputs, p = linear()
    report = measure(linear_forward, wrong(lambda w: w * 1.5), inputs, p)
    names = [line.split()[0] for line in str(report).splitlines()[1:4]]
    assert names[0] == "w" and sorted(names) == ["b", "input", "w"]
    assert next(entry.size for entry in report.entries if entry.name == "w") == 12


def test_one_array_in_place_of_a_list_is_refused():
    with pytest.raises(TypeError, match=r"sequence of arrays.*write \[x\]"):
        check(cube_forward, cube_backward, numbers(3))


def test_a_forward_that_saves_nothing_is_told_to_return_a_pair():
    with pytest.raises(TypeError, match=r"\(y, saved\), got ndarray"):
        check(lambda x: x * x, cube_backward, [numbers(2)])


def test_an_unknown_method_is_refused():
    with pytest.raises(ValueError, match="'central' or 'longdouble', got 'exact'"):
        measure(cube_forward, cube_backward, [numbers(2)], method="exact")


def test_a_function_that_returns_value_and_gradient_is_its_own_pair():
    x = numbers(3, 4)

    def loss(w, x):
        return ((x @ w) ** 2).sum(), 2 * x.T @ (x @ w)

    assert check(loss, inputs=[numbers(4), x], wrt=[0]).worst < 1e-14
    with pytest.raises(GradientError, match=r"returned 1 gradient for 2 .* say with wrt"):
        check(loss, inputs=[numbers(4), x])


def test_trees_of_arrays_are_inputs_like_any_other():
    def loss(tree):
        return (tree["a"] * tree["b"][0]).sum(), {"a": tree["b"][0], "b": [2 * tree["a"]]}

    tree = {"a": numbers(2, 3), "b": [numbers(2, 3) + 1]}
    report = measure(loss, inputs=[tree])
    verdicts = {entry.name: entry.verdict for entry in report.entries}
    assert verdicts == {"input 0/a": "right", "input 0/b/0": "wrong"}


class Affine:
    """Keeps its state and its parameters on itself, as a list or a dict."""

    def __init__(self, names, factor=1.0):
        self.params = {"w": numbers(3, 4), "b": numbers(4)}
        self.grads = {name: np.zeros_like(x) for name, x in self.params.items()}
        self.factor, self.names = factor, names
        if not names:
            self.params, self.grads = list(self.params.values()), list(self.grads.values())

    def forward(self, x):
        w, b = self.params.values() if self.names else self.params
        self.x = x
        return x @ w + b

    def backward(self, dy):
        keys = ("w", "b") if self.names else (0, 1)
        self.grads[keys[0]][...] = self.factor * self.x.T @ dy
        self.grads[keys[1]] = dy.sum(0)
        return dy @ self.params[keys[0]].T


@pytest.mark.parametrize("names", [True, False])
def test_an_object_is_checked_with_its_parameters_and_left_as_it_was(names):
    layer = Affine(names)
    before = str(layer.params)
    report = check(layer, inputs=[numbers(2, 3)])
    assert report.method == "complex" and len(report.entries) == 3
    assert str(layer.params) == before and not hasattr(layer, "x")
    with pytest.raises(
        GradientError, match=r"(?s)Affine is wrong.*2 times what it should be"
    ) as caught:
        check(Affine(names, factor=2), inputs=[numbers(2, 3)])
    wrong = [entry.name for entry in caught.value.report.entries if entry.verdict == "wrong"]
    assert wrong == (["w"] if names else ["params[0]"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((Affine, None, [1.0]), "Affine is a class; give an object of it"),
        ((cube_forward, [numbers(2)]), "inputs must be a sequence .* write inputs="),
        ((cube_forward, [numbers(2)], [numbers(2)]), "backward must be callable, got list"),
        ((cube_forward, cube_backward, [numbers(2) + 1j]), "input 0 is complex"),
        ((lambda x: (x, x), None, [numbers(2)]), "must return one number and its gradient"),
    ],
)
def test_what_cannot_be_checked_is_told_what_would_fit(arguments, message):
    with pytest.raises(TypeError, match=message):
        check(*arguments)


def test_where_nothing_has_a_gradient_nothing_passes():
    with pytest.raises(ValueError, match="there is no gradient to check"):
        check(lambda ids: (2.0 * ids, None), lambda dy, saved: None, [np.arange(3)])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"wrt": [1]}, r"wrt is \(1,\); floating point inputs are \(0,\)"),
        ({"directions": 0}, "directions must be at least 1, got 0"),
        ({"step": 2.0}, "step must be above 0 and at most 1, got 2.0"),
    ],
)
def test_settings_out_of_range_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        check(cube_forward, cube_backward, [numbers(2)], **settings)


def affine_forward(x, p):
    return x @ p["w"] + p["b"], (x, p)


def affine(dx=lambda dy, x, w: dy @ w.T, dw=lambda dy, x: x.T @ dy, db=lambda dy: dy.sum(0)):
    def backward(dy, saved, g):
        x, p = saved
        g["w"] += dw(dy, x)
        g["b"] += db(dy)
        return dx(dy, x, p["w"])

    return backward


@pytest.mark.parametrize(
    ("backward", "name", "said"),
    [
        (affine(dx=lambda dy, x, w: -dy @ w.T), "input 0", "the sign is wrong"),
        (affine(dx=lambda dy, x, w: dy @ w), "input 0", "w is used with a transpose too many"),
        (affine(dw=lambda dy, x: dy.T @ x), "w", "it is transposed"),
        (affine(dw=lambda dy, x: np.roll(x.T @ dy, 1, 0)), "w", "shifted by one along axis 0"),
        (affine(dw=lambda dy, x: (x.T @ dy)[::-1]), "w", "reversed along axis 0"),
        (affine(dw=lambda dy, x: 0.0), "w", "it is never filled"),
        (affine(dw=lambda dy, x: 3.5 * x.T @ dy), "w", "3.5 times what it should be: a factor"),
        (affine(db=lambda dy: dy.mean(0)), "b", "missing a factor of the length of axis 0"),
        (
            affine(db=lambda dy: 5**0.5 * dy.sum(0)),
            "b",
            "the root of the length of axis 1 of the output",
        ),
        (affine(db=lambda dy: dy[0]), "b", "only index 0 along axis 0 of the output reaches it"),
        (affine(db=lambda dy: dy[:-1].sum(0)), "b", "share of index 3 along axis 0 .* is missing"),
    ],
)
def test_the_mistake_is_guessed(backward, name, said):
    report = measure(
        affine_forward, backward, [numbers(4, 5)], {"w": numbers(5, 5), "b": numbers(5)}
    )
    (wrong,) = [entry for entry in report.entries if entry.verdict == "wrong"]
    assert wrong.name == name
    assert re.search(said, wrong.guess), wrong.guess


def test_a_missing_branch_is_named_by_the_line_of_the_forward():
    def forward(x, p):
        h = np.tanh(x @ p["w"])
        y = x + h
        return y @ p["w"].T, (x, h, y, p)

    def backward(dy, saved, g, *, residual=1.0, tied=1.0):
        x, h, y, p = saved
        g["w"] += tied * dy.T @ y
        dh = dy @ p["w"]
        dz = dh * (1 - h * h)
        g["w"] += x.T @ dz
        return dz @ p["w"].T + residual * dh

    p = {"w": numbers(5, 5)}
    check(forward, backward, [numbers(4, 5)], p)
    for settings, said in (
        ({"residual": 0.0}, r"through `y = x \+ h` \(line \d+ of test_gradcheck.py\) is missing"),
        ({"residual": -1.0}, r"through `y = x \+ h` .* has the wrong sign"),
        ({"residual": 2.0}, r"through `y = x \+ h` .* counts 2 times"),
        ({"tied": 0.0}, r"through `return y @ p\[\"w\"\]\.T.* is missing"),
    ):
        report = measure(forward, partial(backward, **settings), [numbers(4, 5)], p)
        (wrong,) = [entry for entry in report.entries if entry.verdict == "wrong"]
        assert re.search(said, wrong.guess), wrong.guess


def test_a_missing_branch_is_named_where_it_is_added_in_place():
    def forward(x):
        y = np.tanh(x)
        slope = 1 - y * y
        y += x
        return y, slope

    check(forward, lambda dy, slope: dy * slope + dy, [numbers(4, 5)])
    report = measure(forward, lambda dy, slope: dy * slope, [numbers(4, 5)])
    assert "through `y += x` (line" in report.entries[0].guess


def test_the_share_of_one_output_is_missed():
    def forward(x):
        return (x * x, 3 * x), x

    report = measure(forward, lambda dys, x: 2 * x * dys[0], [numbers(4)])
    assert "only output 0 reaches it" in str(report)


@pytest.mark.parametrize(
    ("gradient", "said"),
    [
        (lambda dy, x, b: dy, "a sum over the broadcast axis 0 is missing: it agrees then"),
        (lambda dy, x, b: dy.sum(0, keepdims=True), "is missing|reshaped it is right"),
    ],
)
def test_a_missing_sum_over_a_broadcast_axis_is_guessed(gradient, said):
    report = measure(
        lambda x, b: (x + b, (x, b)),
        lambda dy, saved: (dy, gradient(dy, *saved)),
        [numbers(4, 5), numbers(5)],
    )
    (fault,) = report.faults
    assert fault.kind == "shape" and re.search(said, fault.message), fault.message


def test_a_sum_that_is_missing_before_an_addition_is_told():
    with pytest.raises(GradientError, match=r"a sum over the broadcast axes is missing before the"):
        p = {"w": numbers(5, 5), "b": numbers(5)}
        check(affine_forward, affine(db=lambda dy: dy), [numbers(4, 5)], p)


def test_a_gradient_with_its_axes_exchanged_is_told_so():
    report = measure(
        lambda x, w: (x @ w, (x, w)),
        lambda dy, saved: (dy @ saved[1].T, dy.T @ saved[0]),
        [numbers(4, 5), numbers(5, 3)],
    )
    assert "has shape (5, 3) and its gradient (3, 5): it is transposed" in str(report)


@pytest.mark.parametrize("shape", [(3, 4), (30, 40), (300, 400)])
def test_a_single_wrong_entry_is_located(shape):
    at = tuple(n // 2 for n in shape)

    def backward(dy, x):
        dx = cube_backward(dy, x)
        dx[at] *= 1.001
        return dx

    report = measure(cube_forward, backward, [numbers(*shape)])
    (entry,) = report.entries
    assert entry.index == at
    assert entry.analytic == pytest.approx(1.001 * entry.numeric, rel=1e-9)
    assert entry.stepped <= max(128, np.log2(np.prod(shape)) + 1)


def test_more_directions_give_the_worst_of_them():
    one = measure(cube_forward, lambda dy, x: 1.5 * cube_backward(dy, x), [numbers(9)], quick=True)
    many = measure(
        cube_forward,
        lambda dy, x: 1.5 * cube_backward(dy, x),
        [numbers(9)],
        quick=True,
        directions=20,
    )
    assert many.entries[0].directions == 20
    assert many.worst > one.worst


def test_numbers_drawn_from_a_common_seed_are_not_drawn_again_as_dy():
    # With dy = x a transposed x.T @ dy is symmetric, and right by accident.
    x = np.random.default_rng(0).standard_normal((5, 5))

    def backward(dy, saved):
        x, w = saved
        return dy @ w.T, dy.T @ x

    with pytest.raises(GradientError, match="it is transposed"):
        check(lambda x, w: (x @ w, (x, w)), backward, [x, numbers(5, 5)])


def kind_of_fault(*arguments, **settings):
    report = measure(*arguments, **settings)
    assert not report.passed
    (fault,) = report.faults
    return fault.kind, fault.message


@pytest.mark.parametrize(
    ("forward", "backward", "x", "said"),
    [
        (
            lambda x: (np.maximum(x, 0), x),
            lambda dy, x: dy * (x > 0),
            [1.0, 0.0, -2.0],
            r"moving input 0 at \[1\], output \[1\] has slope 0 before and 1 behind",
        ),
        (lambda x: (np.abs(x), x), lambda dy, x: dy * np.sign(x), [0.0, 3.0], "slope -1 before"),
        (
            lambda x: (np.where(x > 0, x, 0).sum(keepdims=True), x),
            lambda dy, x: dy * (x > 0),
            [[1.0, 2.0], [-1.0, 0.0]],
            r"moving input 0 at \[1, 1\], output \[0, 0\] has slope 0 before and 1 behind",
        ),
        (np.round, None, [0.5, 1.2], r"input 0 at \[0\], output \[0\] jumps"),
    ],
)
def test_a_corner_or_a_jump_at_the_point_is_no_wrong_gradient(forward, backward, x, said):
    if backward is None:
        forward, backward = (lambda x, f=forward: (f(x), x)), lambda dy, x: 0 * dy
    kind, message = kind_of_fault(forward, backward, [np.array(x)])
    assert kind == "smoothness" and re.search(said, message), message


def test_beside_a_corner_the_gradient_is_right():
    x = np.array([1e-3, -1e-3, 2.0])
    assert check(lambda x: (np.maximum(x, 0), x), lambda dy, x: dy * (x > 0), [x]).worst < 1e-14


def test_an_oscillation_faster_than_the_steps_is_no_corner():
    report = check(
        lambda x: (np.sin(1e7 * x), x),
        lambda dy, x: 1e7 * np.cos(1e7 * x) * dy,
        [numbers(4, 5)],
        method="central",
    )
    assert report.worst < 1e-8


def test_steps_that_leave_the_domain_are_not_used():
    x = np.array([1e-3, 1.0, 2.0])  # the first step would take the logarithm of a negative number
    report = check(lambda x: (np.log(x), x), lambda dy, x: dy / x, [x], method="central")
    assert report.worst < 1e-9


def test_a_step_that_is_too_coarse_is_told_from_a_wrong_gradient():
    def backward(dy, x, factor=1.0):
        return factor * np.exp(x) * dy

    settings = {"method": "central", "step": 0.5}
    report = measure(lambda x: (np.exp(x), x), backward, [numbers(4, 5)], **settings)
    (entry,) = report.entries
    assert entry.verdict == "coarse" and not report.passed
    assert "step too coarse to tell" in str(report)
    wrong = partial(backward, factor=1.5)
    report = measure(lambda x: (np.exp(x), x), wrong, [numbers(4, 5)], **settings)
    assert report.entries[0].verdict == "wrong"


def test_rounding_of_an_ill_conditioned_function_is_told_from_a_wrong_gradient():
    def backward(dy, x, factor=1.0):
        return factor * dy * 1e6 * np.cos(x * 1e6 * (1 + 2e-16))

    forward, x = (lambda x: (np.sin(x * 1e6), x)), numbers(4, 5)
    (entry,) = measure(forward, backward, [x], method="complex").entries
    assert entry.verdict == "rounding"
    (entry,) = measure(forward, partial(backward, factor=1.01), [x], method="complex").entries
    assert entry.verdict == "wrong"


@pytest.mark.parametrize(
    ("f", "slope", "said"),
    [
        (np.abs, np.sign, r"lost at absolute in `.*` \(line \d+ of test_gradcheck.py\)"),
        (np.linalg.norm, lambda x: x / np.linalg.norm(x), "lost at norm in"),
        (lambda x: (x * x.conj()).real, lambda x: 2 * x, "lost at .*conjugate|lost at the real"),
        (lambda x: x.real * x.real, lambda x: 2 * x, "lost at the real part in"),
    ],
)
def test_an_operation_that_is_not_analytic_is_named_and_differences_are_used(f, slope, said):
    def forward(x):
        return f(x), x

    def backward(dy, x):
        return dy * slope(x)

    report = check(forward, backward, [numbers(4, 5)])
    assert report.method == "central" and report.worst < 1e-9
    assert re.search(said, report.note), report.note
    kind, message = kind_of_fault(forward, backward, [numbers(4, 5)], method="complex")
    assert kind == "complex" and re.search(said, message)
    # Where the complex step sees no slope at all, a gradient of zero must not pass.
    with pytest.raises(GradientError):
        check(forward, lambda dy, x: 0 * x, [numbers(4, 5)])


def test_what_refuses_complex_numbers_is_named_by_its_line():
    def forward(x):
        y = np.empty(x.shape)
        y[...] = x * x
        return y, x

    report = check(forward, lambda dy, x: 2 * x * dy, [numbers(3)])
    assert "imaginary part, in `y[...] = x * x` (line" in report.note


def test_the_real_part_of_a_constant_is_no_loss():
    def forward(x):
        e = np.exp(x - x.real.max(-1, keepdims=True))
        y = e / e.sum(-1, keepdims=True)
        return y, y

    assert check(forward, softmax_backward, [numbers(4, 5)]).method == "complex"


def test_a_forward_that_counts_its_calls_has_hidden_state():
    calls = []

    def forward(x):
        calls.append(1)
        return len(calls) * x, len(calls)

    kind, message = kind_of_fault(forward, lambda dy, n: n * dy, [numbers(3)])
    assert kind == "state" and "a second call of the forward" in message


def test_a_backward_that_reads_what_the_last_forward_left_has_hidden_state():
    memory = {}

    def forward(x):
        memory["x"] = x
        return x * x, None

    kind, message = kind_of_fault(forward, lambda dy, _: 2 * memory["x"] * dy, [numbers(3)])
    assert kind == "state" and "the gradient of input 0 is another one" in message


def test_a_backward_that_is_not_linear_in_dy_is_told_so():
    kind, message = kind_of_fault(
        lambda x: (x * 0 + 1, x), lambda dy, x: 1e-30 * dy * dy, [numbers(3)]
    )
    assert kind == "linearity" and "not linear in dy" in message


@pytest.mark.parametrize("write", ["replace", "fill"])
def test_a_gradient_that_is_written_and_not_added_is_told_so(write):
    def backward(dy, saved, g):
        x, p = saved
        if write == "replace":
            g["w"] = x.T @ dy
        else:
            g["w"][...] = x.T @ dy
        g["b"] += dy.sum(0)
        return dy @ p["w"].T

    p = {"w": numbers(5, 5), "b": numbers(5)}
    kind, message = kind_of_fault(affine_forward, backward, [numbers(4, 5)], p)
    assert kind == "accumulation"
    assert message == "the gradient of w is written (=) and not added (+=)"


def test_none_for_one_of_two_inputs_is_named():
    kind, message = kind_of_fault(
        lambda x, y: (x * y, (x, y)), lambda dy, s: (dy * s[1], None), [numbers(3), numbers(3) + 1]
    )
    assert (kind, message) == ("none", "the gradient of input 1 is None")


def test_nan_is_located_in_a_gradient_and_in_an_output():
    def backward(dy, x):
        dx = cube_backward(dy, x)
        dx[1, 2] = np.nan
        return dx

    kind, message = kind_of_fault(cube_forward, backward, [numbers(3, 4)])
    assert kind == "nan" and message == "the gradient of input 0 is nan at [1, 2], 1 of 12 so"
    x = np.array([1.0, -1.0])
    kind, message = kind_of_fault(lambda x: (np.sqrt(x), x), lambda dy, x: dy, [x])
    assert (kind, message) == ("output", "the forward gives nan at [1] of its output")


def test_a_backward_that_changes_dy_is_refused():
    def backward(dy, x):
        dy *= 3 * x * x
        return dy

    kind, message = kind_of_fault(cube_forward, backward, [numbers(3)])
    assert kind == "mutation" and message == "dy was changed in place by the backward"


def test_longdouble_is_exact_where_the_forward_keeps_it():
    if np.finfo(np.longdouble).eps == np.finfo(float).eps:
        pytest.skip("long double is float64 here")
    settings = {"method": "longdouble"}
    report = check(lambda x: (np.exp(x), x), lambda dy, x: dy * np.exp(x), [numbers(3)], **settings)
    assert report.method == "longdouble" and report.worst < 1e-15
    with pytest.raises(ValueError, match="a forward on NumPy arrays that keeps it"):
        check(lambda x: (np.exp(x.astype(float)), x), cube_backward, [numbers(3)], **settings)


@pytest.mark.skipif(sys.platform != "linux", reason="long double is longer than float64 on Linux")
def test_differences_that_leave_doubt_are_taken_in_longdouble():
    def forward(x):
        y = abs(x) * 1e3
        return np.exp(y - 1e3 * abs(x) + x) * 1e3, x

    report = measure(forward, lambda dy, x: 1e3 * np.exp(x) * dy, [numbers(3)], method="central")
    assert report.passed


def test_float32_is_judged_in_its_own_precision_too():
    x = numbers(4, 5).astype("float32")
    report = check(cube_forward, cube_backward, [x])
    (entry,) = report.entries
    assert entry.error < 1e-14 and 1e-9 < entry.rounding < 1e-6

    def coarse(dy, x):  # right, but computed in half precision where it is given little
        dx = cube_backward(dy, x)
        return dx if dx.dtype == float else dx.astype("float16").astype("float32")

    with pytest.raises(GradientError, match=r"right in float64, but off by .* in the precision"):
        check(cube_forward, coarse, [x])


class Device:
    """Arrays of a module that is not NumPy: an array on a device, as far as a pair can see."""

    class ndarray:
        def __init__(self, x):
            self.x = np.asarray(x)

        def __getattr__(self, name):
            found = getattr(self.x, name)
            return Device.method(found) if callable(found) else found

        def __array__(self, dtype=None, copy=None):
            raise TypeError("implicit copy to the host")

    @staticmethod
    def method(f):
        def call(*args, **kwargs):
            return Device.wrap(f(*map(Device.unwrap, args), **kwargs))

        return call

    @staticmethod
    def wrap(x):
        return Device.ndarray(x) if isinstance(x, np.ndarray | np.generic) else x

    @staticmethod
    def unwrap(x):
        return x.x if isinstance(x, Device.ndarray) else x


for _name in ("add", "radd", "mul", "rmul", "sub", "rsub", "truediv", "setitem", "getitem"):
    setattr(
        Device.ndarray,
        f"__{_name}__",
        lambda self, *args, _name=_name: Device.wrap(
            getattr(self.x, f"__{_name}__")(*map(Device.unwrap, args))
        ),
    )


def test_arrays_of_a_device_stay_there(monkeypatch):
    module = types.ModuleType("device")
    module.ndarray, module.asarray = Device.ndarray, Device.ndarray
    module.asnumpy, module.zeros_like = Device.unwrap, lambda x: Device.ndarray(np.zeros_like(x.x))
    monkeypatch.setitem(sys.modules, "device", module)
    monkeypatch.setattr(Device.ndarray, "__module__", "device")

    def forward(x, p):
        assert isinstance(x, Device.ndarray) and isinstance(p["a"], Device.ndarray)
        return x * x * p["a"], (x, p)

    def backward(dy, saved, g, *, factor=2):
        x, p = saved
        assert isinstance(dy, Device.ndarray)
        g["a"] = g["a"] + (dy * x * x).sum(0)
        return dy * x * p["a"] * factor

    x, p = Device.ndarray(numbers(3, 4)), {"a": Device.ndarray(numbers(4))}
    assert check(forward, backward, [x], p).worst < 1e-14
    with pytest.raises(GradientError, match=r"input 0 .*<- wrong"):
        check(forward, partial(backward, factor=3), [x], p)


def test_inputs_that_are_no_arrays_of_floats_are_named():
    def scale_forward(x, p):
        return x * p["gamma"], (x, p["gamma"])

    def scale_backward(dy, saved, g):
        g["gamma"] += (dy * saved[0]).sum(0)
        return dy * saved[1]

    p = {"gamma": numbers(3)}
    for x, said in (
        (np.ones((2, 3), int), "1 gradient for 0 floating point inputs; input 0 holds int64"),
        ([1.0, 2.0, 3.0], "for input 0/0 but one array; input 0 is a list: make an array of it"),
    ):
        with pytest.raises(GradientError, match=said):
            check(scale_forward, scale_backward, [x], p)
    with pytest.raises(TypeError, match="alone takes no p; give a forward and a backward"):
        check(scale_forward, None, [numbers(2, 3)], p)
