"""What kernels do with input that is empty, impossible, or too large for them."""

import emulator
import ml_dtypes
import numpy as np
import pytest

from scratch_vlm import kernels
from scratch_vlm.backend import add_at
from scratch_vlm.backend.dispatch import Saved
from scratch_vlm.backend.launch import MOST_BLOCKS
from scratch_vlm.kernels import activation, attention, embedding, norm
from scratch_vlm.layers.norm import layer_norm_backward, layer_norm_forward
from scratch_vlm.ops.attend import attend_backward, attend_forward
from scratch_vlm.ops.losses import IGNORE, cross_entropy_backward, cross_entropy_forward

ONES = {"gamma": np.ones(8, "float32"), "beta": np.ones(8, "float32")}


@pytest.fixture(autouse=True)
def used(emulated):
    kernels.use_kernels(np)


def logits(rows=3, classes=5):
    return np.random.default_rng(0).standard_normal((rows, classes)).astype("float32")


def test_overwritten_logits_have_one_backward():
    labels = np.array([0, 1, 2])
    _, saved = cross_entropy_forward(logits(), labels, overwrite=True)
    first = cross_entropy_backward(1.0, saved)
    with pytest.raises(ValueError, match="overwritten by their gradient; for a second backward"):
        cross_entropy_backward(1.0, saved)
    _, saved = cross_entropy_forward(logits(), labels)
    once, twice = (cross_entropy_backward(dloss, saved) for dloss in (1.0, np.float32(2)))
    assert np.array_equal(once, first) and np.array_equal(twice, 2 * first)


@pytest.mark.parametrize("label", [5, -1, 2**31 - 1])
def test_label_that_is_no_class_makes_the_loss_nan(label):
    loss, _ = cross_entropy_forward(logits(), np.array([0, label, IGNORE]))
    assert np.isnan(loss)


def test_rows_without_a_label_may_hold_anything():
    z = logits()
    z[1], z[2, 0] = np.nan, -np.inf
    loss, saved = cross_entropy_forward(z, np.array([0, IGNORE, IGNORE]))
    assert np.isfinite(loss) and not cross_entropy_backward(1.0, saved)[1:].any()


def test_smoothing_out_of_range_is_refused():
    with pytest.raises(ValueError, match="smoothing must be at least 0 and below 1"):
        cross_entropy_forward(logits(), np.array([0, 1, 2]), smoothing=1.5)


def test_ids_beside_the_table_write_nothing():
    around = np.zeros((6, 2), "float32")
    with emulator.running(launched=set()) as run:
        add_at(around[2:4], np.array([-1, 0, 2, 1, 0]), np.ones((5, 2), "float32"))
    assert run["launched"] == {"order_tokens", "add_rows"}
    assert around.tolist() == [[0, 0], [0, 0], [2, 2], [1, 1], [0, 0], [0, 0]]


@pytest.mark.parametrize("size", [0, 1])
def test_nothing_and_one_are_sizes_too(size):
    x = np.ones((size, 8), "float32")
    y, saved = layer_norm_forward(x, ONES)
    assert y.shape == layer_norm_backward(x, saved, {}).shape == x.shape
    table = np.zeros((3, 8), "float32")
    add_at(table, np.zeros(size, int), x)
    assert table.sum() == 8 * size
    q = np.ones((1, 1, size, 8), ml_dtypes.bfloat16)
    k = np.ones((1, 1, 1, 8), ml_dtypes.bfloat16)
    if size:
        y, saved = attend_forward(q, k, k)
        assert isinstance(saved, Saved) and (y == 1).all()
    else:
        assert attention.attend_forward(q, k, k) is NotImplemented


def test_arrays_that_do_not_fit_are_left_to_the_op():
    x = np.ones((4, 8), "float32")
    refused = NotImplemented
    assert norm.layer_norm_forward(x, ONES, out=np.empty((3, 8), "float32")) is refused
    for dtype in ("float64", "int32"):
        assert norm.layer_norm_forward(x, ONES, out=np.empty((4, 8), dtype)) is refused
    low = x.astype(ml_dtypes.bfloat16)
    assert norm.layer_norm_forward(low, ONES, out=np.empty_like(x)) is refused
    assert norm.layer_norm_forward(x, {"gamma": ONES["gamma"]}) is refused
    assert norm.layer_norm_forward(x, ONES | {"beta": np.ones(7, "float32")}) is refused
    assert norm.add_norm(x, x[:3], ONES) is refused
    assert activation.gelu_forward(x, bias=np.ones(4, "float32")) is refused
    assert embedding.add_at(x, np.zeros(3, int), np.ones((2, 8), "float32")) is refused
    many = np.broadcast_to(np.ones(8, ml_dtypes.bfloat16), (MOST_BLOCKS + 1, 1, 1, 8))
    assert attention.attend_forward(many, many, many) is refused
    for width in (12, 136):  # no steps of 16 bytes, and too many sums for a thread
        wide = np.ones((1, 1, 2, width), ml_dtypes.bfloat16)
        assert attention.attend_forward(wide, wide, wide) is refused
    q = np.ones((1, 1, 70, 8), ml_dtypes.bfloat16)
    far = np.lib.stride_tricks.as_strided(np.ones(1, bool), (70, 70), (2**25, 1))
    assert attention.attend_forward(q, q, q, mask=far) is refused


def test_a_gradient_of_another_shape_is_refused():
    x = np.ones((4, 8), "float32")
    _, saved = layer_norm_forward(x, ONES)
    with pytest.raises(ValueError, match=r"dy is \(3, 8\) and must be \(4, 8\), like x"):
        layer_norm_backward(x[:3], saved, {})
    with pytest.raises(TypeError, match="dy is float64; the kernel reads float32, bfloat16, float"):
        layer_norm_backward(x.astype(float), saved, {})
    q = np.ones((1, 1, 4, 8), ml_dtypes.bfloat16)
    _, saved = attend_forward(q, q, q)
    with pytest.raises(
        ValueError, match=r"dy is \(1, 1, 3, 8\) and must be \(1, 1, 4, 8\), like q"
    ):
        attend_backward(q[:, :, :3], saved)
