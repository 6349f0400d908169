"""The gradient check passes what is right, and names what is wrong."""

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
