"""Layers, whole models and a training with kernels in the place of NumPy's lines."""

import emulator
import numpy as np
import pytest
import test_pairs

from scratch_vlm import kernels
from scratch_vlm.backend.dispatch import Saved, kernels_in_use, set_kernels
from scratch_vlm.cases import make_case
from scratch_vlm.layers.block import BlockConfig
from scratch_vlm.layers.norm import layer_norm_backward, layer_norm_forward
from scratch_vlm.models.lm import LMConfig, lm_init, lm_loss_backward, lm_loss_forward
from scratch_vlm.recompute import recomputed
from scratch_vlm.training.optimizer import AdamW
from scratch_vlm.tree import leaves


@pytest.mark.parametrize("name", test_pairs.PAIRS)
def test_pair_with_kernels_is_the_pair(emulated, name):
    pair, rng = test_pairs.PAIRS[name], np.random.default_rng(1)
    exact = test_pairs.without_dropout(make_case(name, rng))
    case = exact.astype(np.float32)
    kernels.use_kernels(np)
    y, saved = test_pairs.run(pair, case)
    dy = test_pairs.cotangent(rng, y)
    found = [y, *flat(test_pairs.pull(pair, case, dy, saved))]
    y, saved = test_pairs.run(pair, exact)  # float64, which no kernel takes
    wanted = [y, *flat(test_pairs.pull(pair, exact, dy.astype(float), saved))]
    for x, reference in zip(found, wanted, strict=True):
        assert x.dtype == np.float32
        scale = max(np.abs(reference).max(initial=0), 1e-2)
        np.testing.assert_allclose(x, reference, rtol=0, atol=2e-4 * scale)


def flat(gradients):
    dx, g = gradients
    return [*dx, *dict(leaves(g)).values()]


def losses_of_a_training(steps=4):
    config = LMConfig(11, 9, BlockConfig(16, 2, 24), 2, tied=True)
    rng = np.random.default_rng(0)
    optimizer = AdamW(lm_init(rng, config), clip=0.5)
    losses = []
    for _ in range(steps):
        ids = rng.integers(0, 11, (3, 9))
        loss, saved = lm_loss_forward(ids, ids, optimizer.p, config=config)
        lm_loss_backward(1.0, saved, optimizer.g)
        optimizer.step(0.01)
        losses.append(float(loss))
    return losses


def test_a_training_with_kernels_has_the_same_losses(emulated):
    without = losses_of_a_training()
    kernels.use_kernels(np)
    with emulator.running(launched=set()) as run:
        np.testing.assert_allclose(losses_of_a_training(), without, rtol=2e-6)
    assert run["launched"] == {
        *("norm_forward", "norm_backward", "norm_gather", "activation_forward"),
        *("cross_entropy_rows", "cross_entropy_gradient", "order_tokens", "add_rows", "adamw"),
        *("column_parts", "add_parts"),
    }


def test_a_backward_follows_its_forward_whatever_is_in_use_by_then(emulated):
    p = {"gamma": np.ones(8, "float32"), "beta": np.ones(8, "float32")}
    x = np.random.default_rng(0).standard_normal((2, 8)).astype("float32")
    plain = layer_norm_forward(x, p)[1]
    kernels.use_kernels(np, ["layer_norm_forward"])
    fused = layer_norm_forward(x, p)[1]
    assert isinstance(fused, Saved) and not isinstance(plain, Saved)
    with emulator.running(launched=set()) as run:
        before = layer_norm_backward(x, plain, {})
        assert not run["launched"]
        set_kernels({})
        np.testing.assert_allclose(layer_norm_backward(x, fused, {}), before, atol=1e-5)
        assert run["launched"] == {"norm_backward"}


def test_recomputing_goes_through_kernels_too(emulated):
    kernels.use_kernels(np)
    forward, backward = recomputed(layer_norm_forward, layer_norm_backward)
    p = {"gamma": np.ones(8, "float32"), "beta": np.ones(8, "float32")}
    x = np.random.default_rng(0).standard_normal((2, 8)).astype("float32")
    g, g2 = ({name: np.zeros(8, "float32") for name in p} for _ in range(2))
    dx = backward(x, forward(x, p)[1], g)
    assert np.array_equal(dx, layer_norm_backward(x, layer_norm_forward(x, p)[1], g2))
    assert all(np.array_equal(g[name], g2[name]) for name in p)


def test_what_a_kernel_does_not_take_is_done_by_numpy(emulated):
    kernels.use_kernels(np)
    p = {"gamma": np.ones(8, "float32"), "beta": np.ones(8, "float32")}
    x = np.ones((4, 8), "float32")
    for y, place in ((x.astype(float), None), (x[:, ::-1], None), (x[:0], None), (x, x)):
        assert not isinstance(layer_norm_forward(y, p, out=place)[1], Saved)


def test_without_a_gpu_a_request_for_kernels_is_refused():
    with pytest.raises(ValueError, match="kernels run on arrays of CuPy, and nothing compiles"):
        kernels.use_kernels(np)
    assert kernels_in_use() == ()


def test_kernels_are_used_only_where_they_were_asked_for(emulated):
    assert kernels_in_use() == ()
    with pytest.raises(ValueError, match="'gelu' has no kernel; those that have are gelu_forward,"):
        kernels.use_kernels(np, ["gelu"])
    assert kernels_in_use() == ()
    kernels.use_kernels(np, ["rms_norm_forward", "add_at"])
    assert kernels_in_use() == ("add_at", "rms_norm_forward")
    kernels.use_kernels(np, ())
    assert kernels_in_use() == ()
