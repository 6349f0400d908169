"""Where an array lives, and what is no array."""

import numpy as np
import pytest

from scratch_vlm.backend import floating, namespace, to_device, to_host


@pytest.mark.parametrize("x", [np.ones(3), np.float32(1), np.ones(2, bool), np.array(1j)])
def test_numpy_owns_arrays_and_its_scalars(x):
    assert namespace(x) is np


@pytest.mark.parametrize("x", [[1.0], 1.0, None, "w", {"w": np.ones(2)}])
def test_what_is_no_array_is_refused_by_its_type(x):
    with pytest.raises(TypeError, match=rf"got {type(x).__name__}; numpy\.asarray"):
        namespace(x)


def test_an_object_of_a_module_without_arrays_is_refused():
    from fractions import Fraction

    with pytest.raises(TypeError, match="got Fraction"):
        namespace(Fraction(1, 2))


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", "complex128"])
def test_floating_passes_numbers_that_can_be_differentiated(dtype):
    assert floating(np.ones(2, dtype)) is np


@pytest.mark.parametrize("dtype", ["int64", "uint8", "bool"])
def test_floating_refuses_integers_by_name(dtype):
    with pytest.raises(TypeError, match=f"pixels must be floating point, got {dtype}"):
        floating(np.ones(2, dtype), "pixels")


def test_moving_between_numpy_and_numpy_copies_nothing():
    x = np.ones(3)
    assert to_host(x) is x
    assert to_device(x, np) is x
