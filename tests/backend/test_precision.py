"""Products of fewer bits: rounded as the hardware rounds, and nothing but products."""

import sys

import numpy as np
import pytest

from scratch_vlm.backend import (
    PRECISIONS,
    add_product,
    in_precision,
    product,
    products_in,
    project,
    rounded,
    to_device,
    to_host,
)
from scratch_vlm.backend.factors import half_type
from scratch_vlm.layers.linear import linear_backward, linear_forward
from scratch_vlm.layers.mlp import mlp_backward, mlp_forward, mlp_init
from scratch_vlm.recompute import chunked
from scratch_vlm.tree import FROZEN

BITS = {"tf32": 10, "bf16": 7, "fp16": 10}


def numbers(count=4000):
    rng = np.random.default_rng(0)
    return (rng.standard_normal(count) * 2.0 ** rng.integers(-10, 10, count)).astype("float32")


@pytest.mark.parametrize("precision", BITS)
def test_rounding_is_to_the_nearest_with_so_many_bits(precision):
    x = numbers()
    step = 2.0 ** (np.floor(np.log2(np.abs(x.astype(float)))) - BITS[precision])
    nearest = np.rint(x.astype(float) / step) * step  # ties to even
    normal = np.abs(nearest) >= 2.0**-14 if precision == "fp16" else np.ones(len(x), bool)
    np.testing.assert_array_equal(rounded(x, precision)[normal], nearest[normal])
    assert rounded(x, precision).dtype == "float32"


@pytest.mark.parametrize("precision", BITS)
def test_halves_go_to_the_even_neighbour(precision):
    step = 2.0 ** -BITS[precision]
    halves = np.array([1 + step / 2, 1 + 3 * step / 2], "float32")
    np.testing.assert_array_equal(rounded(halves, precision), [1, 1 + 2 * step])


@pytest.mark.parametrize("precision", PRECISIONS)
def test_what_is_no_number_stays_so(precision):
    bits = np.array([0x7F800000, 0xFF800000, 0x7FC00000, 0x7F800001, 0xFFFFFFFF], "uint32")
    x = bits.view("float32")
    y = rounded(x, precision)
    np.testing.assert_array_equal(np.isnan(y), [False, False, True, True, True])
    np.testing.assert_array_equal(y[:2], [np.inf, -np.inf])


def test_rounding_is_that_of_ml_dtypes():
    ml_dtypes = pytest.importorskip("ml_dtypes")
    x = numbers()
    np.testing.assert_array_equal(
        rounded(x, "bf16"), x.astype(ml_dtypes.bfloat16).astype("float32")
    )


@pytest.mark.parametrize("precision", PRECISIONS)
def test_products_are_those_of_rounded_factors(precision):
    a, b = numbers(60).reshape(3, 4, 5), numbers(30).reshape(5, 6)
    with products_in(precision):
        y, z = product(a, b), project(a, b)
        total = np.ones((3, 4, 6), "float32")
        add_product(total, a, b)
    wanted = rounded(a, precision) @ rounded(b, precision)
    np.testing.assert_array_equal(y, wanted)
    np.testing.assert_allclose(z, wanted, rtol=1e-6)
    np.testing.assert_array_equal(total, 1 + wanted)
    assert (precision == "float32") == np.array_equal(y, a @ b)
    np.testing.assert_array_equal(product(a, b), a @ b)


def test_other_dtypes_are_multiplied_as_they_are():
    a = numbers(16).astype(float).reshape(4, 4)
    with products_in("bf16"):
        np.testing.assert_array_equal(product(a, a), a @ a)
        np.testing.assert_array_equal(product(a + 1j, a), (a + 1j) @ a)


def test_a_device_rounds_alike(xp):
    a = numbers(16).reshape(4, 4)
    for precision in PRECISIONS:
        with products_in(precision):
            there = product(to_device(a, xp), to_device(a, xp))
            apart = np.abs(to_host(there) - product(a, a)) / (np.abs(a) @ np.abs(a))
        # Sums are in another order; and to TF32 some tensor cores round by cutting off.
        assert apart.max() < (2e-3 if precision == "tf32" else 1e-6), precision


def test_the_gradients_of_a_linear_layer_are_those_of_what_its_products_read():
    x, w, dy = numbers(12).reshape(3, 4), numbers(8).reshape(4, 2), numbers(6).reshape(3, 2)
    g = {"w": np.zeros_like(w), "b": np.zeros(2, "float32")}
    with products_in("bf16"):
        _, saved = linear_forward(x, {"w": w, "b": w[0]})
        linear_backward(dy, saved, g)
    x, w, dy = (rounded(a, "bf16") for a in (x, w, dy))
    for found, kept in zip(saved[:2], (x, w), strict=True):
        np.testing.assert_array_equal(found, kept)
    np.testing.assert_allclose(g["w"], x.T @ dy, rtol=1e-6)
    np.testing.assert_allclose(g["b"], dy.sum(0), rtol=1e-6)


def test_an_unknown_precision_is_refused_with_those_that_there_are():
    said = "one of float32, tf32, bf16, fp16, got 'fp8'"
    with pytest.raises(ValueError, match=said), products_in("fp8"):
        pass


def test_an_error_inside_does_not_leave_the_precision_behind():
    a = numbers(16).reshape(4, 4)
    with pytest.raises(ZeroDivisionError), products_in("bf16"):
        raise ZeroDivisionError
    np.testing.assert_array_equal(product(a, a), a @ a)


@pytest.mark.parametrize("threads", [1, 2])
def test_a_wrapped_pair_is_in_its_precision_in_every_thread(threads):
    w = {"w": numbers(16).reshape(4, 4)}

    def forward(x, p):
        return product(x, p["w"]), p["w"]

    def backward(dy, saved, g):
        return product(dy, saved.T)

    pair = in_precision(*chunked(forward, backward, size=2, threads=threads), "bf16")
    x = numbers(32).reshape(8, 4)
    y, saved = pair[0](x, w)
    dx = pair[1](x, saved, {"w": np.zeros_like(w["w"])})
    np.testing.assert_array_equal(y, rounded(x, "bf16") @ rounded(w["w"], "bf16"))
    np.testing.assert_array_equal(dx, rounded(x, "bf16") @ rounded(w["w"], "bf16").T)


def test_float32_wraps_nothing():
    assert in_precision(max, min, "float32") == (max, min)


def test_bf16_needs_ml_dtypes_only_on_a_device(monkeypatch):
    monkeypatch.setitem(sys.modules, "ml_dtypes", None)  # as if it were not installed
    half_type.cache_clear()
    p = mlp_init(np.random.default_rng(0), 4, 8)
    with products_in("bf16"):
        y, saved = mlp_forward(np.ones((2, 4), "float32"), p)
        mlp_backward(y, saved, FROZEN)
    with pytest.raises(ImportError, match="bf16 on a GPU needs: python -m pip install ml_dtypes"):
        half_type("bf16")
