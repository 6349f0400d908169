"""The linear layer and the counts that layers are made of."""

import numpy as np
import pytest

from scratch_vlm.layers.counts import check_counts
from scratch_vlm.layers.linear import linear_backward, linear_forward, linear_init
from scratch_vlm.layers.mlp import mlp_forward, mlp_init, swiglu_forward, swiglu_init
from scratch_vlm.ops.activations import silu_forward


def test_initial_weights_keep_the_variance_of_tokens():
    rng = np.random.default_rng(0)
    p = linear_init(rng, 400, 300)
    y, _ = linear_forward(rng.standard_normal((50, 400)), p)
    assert p["w"].dtype == p["b"].dtype == np.float32 and not p["b"].any()
    assert abs(y.var() - 1) < 0.05


def test_a_layer_without_bias_is_the_product_alone():
    p = linear_init(np.random.default_rng(0), 3, 2, bias=False)
    assert set(p) == {"w"}
    assert np.array_equal(linear_forward(np.eye(3, dtype="float32"), p)[0], p["w"])


def test_the_bias_gathers_over_all_tokens():
    p = linear_init(np.random.default_rng(0), 3, 2)
    y, saved = linear_forward(np.ones((4, 5, 3)), p)
    g = {"w": np.zeros((3, 2)), "b": np.zeros(2)}
    linear_backward(np.ones_like(y), saved, g)
    assert g["b"].tolist() == [20, 20]


def test_the_message_names_both_widths():
    with pytest.raises(ValueError, match=r"5 channels and w takes 4.*\(2, 5\)"):
        linear_forward(np.ones((2, 5)), linear_init(np.random.default_rng(0), 4, 3))


@pytest.mark.parametrize("sizes", [(0, 3), (3, -1), (2.0, 3)])
def test_widths_that_are_no_counts_are_refused(sizes):
    with pytest.raises(ValueError, match="puts must be a positive whole number"):
        linear_init(np.random.default_rng(0), *sizes)


def test_counts_of_numpy_are_counts():
    check_counts(width=np.int64(3))
    with pytest.raises(ValueError, match=r"depth must be a positive whole number, got '3'"):
        check_counts(width=1, depth="3")


def test_an_mlp_is_two_linear_layers_with_an_activation_between():
    rng = np.random.default_rng(0)
    p, x = mlp_init(rng, 4, 6), rng.standard_normal((2, 4))
    h = x @ p["fc"]["w"]
    h = np.maximum(h, 0) ** 2
    y, _ = mlp_forward(x, p, kind="squared_relu")
    np.testing.assert_allclose(y, h @ p["proj"]["w"], rtol=1e-6)


def test_swiglu_gates_one_half_by_the_other():
    rng = np.random.default_rng(0)
    p, x = swiglu_init(rng, 4, 6), rng.standard_normal((2, 4))
    gate, up = x @ p["fc"]["w"][:, :6], x @ p["fc"]["w"][:, 6:]
    y, _ = swiglu_forward(x, p)
    np.testing.assert_allclose(y, (silu_forward(gate)[0] * up) @ p["proj"]["w"], rtol=1e-6)


def test_an_unknown_activation_is_refused():
    with pytest.raises(ValueError, match="unknown activation 'elu'"):
        mlp_forward(np.ones((2, 4)), mlp_init(np.random.default_rng(0), 4, 6), kind="elu")


def test_what_holds_no_tokens_is_refused():
    p = linear_init(np.random.default_rng(0), 4, 3)
    with pytest.raises(ValueError, match=r"tokens of D channels; got a single number"):
        linear_forward(np.array(1.0), p)
    with pytest.raises(TypeError, match="got list"):
        linear_forward([1.0] * 4, p)


def test_the_parameters_of_another_layer_are_refused():
    with pytest.raises(ValueError, match="the parameters lack w; they hold gamma"):
        linear_forward(np.ones((2, 4)), {"gamma": np.ones(4)})
