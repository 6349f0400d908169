"""Activations against closed forms, and where numbers are large."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import special, stats

from scratch_vlm.ops.activations import (
    ACTIVATIONS,
    activation,
    gelu_forward,
    gelu_tanh_forward,
    quick_gelu_forward,
    silu_forward,
    squared_relu_forward,
)

CLOSED_FORMS = {
    "gelu": lambda x: x * stats.norm.cdf(x),
    "gelu_tanh": lambda x: 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x * x * x))),
    "quick_gelu": lambda x: x * special.expit(1.702 * x),
    "silu": lambda x: x * special.expit(x),
    "squared_relu": lambda x: np.where(x > 0, x * x, 0),
    "relu": lambda x: np.maximum(x, 0),
    "tanh": np.tanh,
    "sigmoid": special.expit,
    "clipped_gelu": lambda x: np.minimum(x * stats.norm.cdf(x), 10),
    "identity": lambda x: x,
    "leaky_relu": lambda x: np.where(x > 0, x, 0.01 * x),
    "relu6": lambda x: np.clip(x, 0, 6),
    "hardswish": lambda x: x * np.clip(x + 3, 0, 6) / 6,
    "mish": lambda x: x * np.tanh(np.logaddexp(0, x)),
    "laplace": lambda x: stats.norm.cdf((x - 0.707107) / 0.282095),
}
numbers = arrays(float, st.integers(1, 20), elements=st.floats(-30, 30))


@pytest.mark.parametrize("name", ACTIVATIONS)
@given(x=numbers)
def test_each_is_its_closed_form(name, x):
    y, _ = activation(name)[0](x)
    np.testing.assert_allclose(y, CLOSED_FORMS[name](x), rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_float32_neither_overflows_nor_is_nan_at_large_numbers(name):
    x = np.array([-1e4, -100, -1e-4, 0, 1e-4, 100, 1e4], "float32")
    with np.errstate(all="raise", under="ignore"):
        y, slope = activation(name)[0](x)
        dx = activation(name)[1](np.ones_like(x), slope)
    assert np.isfinite(y).all() and np.isfinite(dx).all()
    ends = {"tanh": (-1, 0, 1), "sigmoid": (0, 0.5, 1), "clipped_gelu": (0, 0, 10)}
    ends |= {
        "relu6": (0, 0, 6),
        "laplace": (0, np.float32(stats.norm.cdf(-0.707107 / 0.282095)), 1),
    }
    slopes = {"identity": 1, "leaky_relu": np.float32(0.01)}
    assert dx[0] == slopes.get(name, 0)
    if name in ends:
        np.testing.assert_allclose((y[0], y[3], y[-1]), ends[name], rtol=1e-5)
        assert dx[-1] == 0
        return
    if name in slopes:
        np.testing.assert_allclose(y[:3], dx[0] * x[:3], rtol=1e-6)
        assert y[3] == 0 and y[-1] == x[-1] and dx[-1] == 1
        return
    assert y[0] == 0 and y[3] == 0
    if name != "squared_relu":
        assert y[-1] == x[-1] and dx[-1] == 1


def test_slope_of_gelu_by_tanh_is_none_or_one_where_the_cube_overflows():
    with np.errstate(over="ignore"):
        _, slope = gelu_tanh_forward(np.array([-1e18, -1e14, 1e14, 1e18], "float32"))
    assert slope.tolist() == [0, 0, 1, 1]


@pytest.mark.parametrize(
    ("approximation", "least", "most"),
    [(gelu_tanh_forward, 4.7e-4, 5e-4), (quick_gelu_forward, 2.0e-2, 2.1e-2)],
)
def test_approximations_of_gelu_are_as_far_off_as_documented(approximation, least, most):
    x = np.linspace(-10, 10, 200_001)
    assert least < abs(approximation(x)[0] - gelu_forward(x)[0]).max() < most


def test_the_activation_of_few_bits_ends_at_10():
    y, slope = activation("clipped_gelu")[0](np.array([-50.0, 9.9, 10.1, 50.0]))
    np.testing.assert_allclose(y, [0, 9.9, 10, 10])
    np.testing.assert_allclose(slope, [0, 1, 0, 0], atol=1e-15)


def test_the_erf_form_is_that_of_bert():
    x = np.linspace(-5, 5, 101)
    right = 0.5 * x * (1 + special.erf(x / np.sqrt(2)))
    np.testing.assert_allclose(gelu_forward(x)[0], right, rtol=1e-14, atol=1e-16)


def test_silu_dips_once_below_zero():
    x = np.linspace(-20, 20, 100_001)
    y, slope = silu_forward(x)
    lowest = x[y.argmin()]
    assert abs(lowest + 1.2784645) < 1e-3 and (slope[x < lowest - 1e-3] < 0).all()


def test_squared_relu_has_a_continuous_slope_at_zero():
    _, slope = squared_relu_forward(np.array([-1e-9, 0.0, 1e-9]))
    np.testing.assert_allclose(slope, [0, 0, 2e-9])


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_out_may_be_the_input(name):
    x = np.linspace(-3, 3, 7)
    y, slope = activation(name)[0](x.copy())
    again = x.copy()
    _, same_slope = activation(name)[0](again, out=again)
    assert np.array_equal(again, y) and np.array_equal(slope, same_slope)


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_a_number_without_axes_is_an_array_too(name):
    forward, backward = activation(name)
    x, place = np.array(0.7), np.empty(())
    (y,), (slope,) = forward(x.reshape(1))
    for out in (None, place):
        found, saved = forward(x, out=out)
        assert found.shape == saved.shape == () and (out is None or found is out)
        assert (found, saved) == (y, slope)
        assert backward(np.array(2.0), saved) == 2 * slope


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_integers_are_refused(name):
    with pytest.raises(TypeError, match="floating point, got int64"):
        activation(name)[0](np.arange(3))


def test_an_unknown_activation_is_refused_with_those_that_there_are():
    with pytest.raises(ValueError, match=r"'elu'; choose one of gelu, .*squared_relu"):
        activation("elu")
