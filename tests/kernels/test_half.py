"""Training in 16 bits with kernels, on a device: it learns what NumPy learns, and what is too large
for float16 shows as such."""

from functools import partial

import emulator
import numpy as np
import pytest
import strict
from on_strict import StrictModule

from scratch_vlm import kernels
from scratch_vlm.backend import launch, products_in, to_device, to_host
from scratch_vlm.backend.dispatch import Saved, set_kernels
from scratch_vlm.backend.graph import WARMUP
from scratch_vlm.backend.launch import set_compiler
from scratch_vlm.layers.attention import (
    self_attention_backward,
    self_attention_forward,
    self_attention_init,
)
from scratch_vlm.layers.block import BlockConfig
from scratch_vlm.layers.lora import lora_add
from scratch_vlm.layers.mlp import mlp_backward, mlp_forward, mlp_init
from scratch_vlm.models.lm import LMConfig, lm_init, lm_loss_backward, lm_loss_forward
from scratch_vlm.models.vit import ViTConfig, vit_backward, vit_forward, vit_init
from scratch_vlm.ops.attend import attend_backward, attend_forward, attention_weights
from scratch_vlm.ops.losses import cross_entropy_backward, cross_entropy_forward
from scratch_vlm.training import loop
from scratch_vlm.training.loop import TrainConfig, train
from scratch_vlm.tree import leaves, tree_map

CLOSE = {"bf16": 1.5e-2, "fp16": 2e-3}
VIT = ViTConfig((8, 8, 1), (2, 2), 3, BlockConfig(16, 2, 24), 1)
# A large eps: where the optimizer divides by small moments, it would blow up what was rounded.
TRAINING = {"steps": 4, "batch_size": 4, "peak_rate": 0.001, "eps": 1.0, "clip": None}
LLAMA = LMConfig.llama(11, 20, width=32, heads=4, kv_heads=2, depth=2)


def vit(size=1.0):
    """Return an objective, its parameters and a batch; `size` multiplies the loss."""

    def forward(x, labels, p):
        scores, s_model = vit_forward(x, p, config=VIT)
        loss, s_loss = cross_entropy_forward(scores, labels)
        return size * loss, (s_model, s_loss)

    def backward(dloss, saved, g):
        s_model, s_loss = saved
        vit_backward(cross_entropy_backward(size * dloss, s_loss), s_model, g)

    rng = np.random.default_rng(0)
    x = rng.standard_normal((4, 8, 8, 1)).astype("float32")
    return forward, backward, vit_init(rng, VIT), (x, np.arange(4) % 3)


def llama():
    rng = np.random.default_rng(0)
    ids = rng.integers(0, 11, (3, 20))
    forward = partial(lm_loss_forward, config=LLAMA)
    return forward, lm_loss_backward, lm_init(rng, LLAMA), (ids, ids)


def learn(folder, model, precision, xp=np, **how):
    forward, backward, p, batch = model
    config = TrainConfig(**{**TRAINING, "precision": precision, **how})
    train(forward, backward, p, lambda step: batch, config, folder, xp=xp, progress=False)
    rows = (folder / "metrics.csv").read_text().splitlines()[1:]
    return np.array([[float(number) for number in row.split(",")[1:3]] for row in rows])


@pytest.fixture
def device(xp, monkeypatch):
    """CuPy or its stand-in, with kernels."""
    if xp is strict:
        if problem := emulator.missing():
            pytest.skip(problem)
        monkeypatch.setattr(strict, "RawModule", StrictModule, raising=False)
    kernels.use_kernels(xp)
    yield xp
    set_kernels({})
    set_compiler(xp, None)


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
@pytest.mark.parametrize("model", [vit, llama])
def test_a_training_with_kernels_is_that_of_numpy(device, tmp_path, model, precision):
    with emulator.running(launched=set()) as run:
        found = learn(tmp_path / "device", model(), precision, device)
    if device is strict:
        assert {"attention_forward", "attention_dkdv", "attention_dq"} <= run["launched"]
    set_kernels({})
    wanted = learn(tmp_path / "numpy", model(), precision)
    np.testing.assert_allclose(found, wanted, rtol=CLOSE[precision])


def test_a_recorded_step_with_kernels_is_the_same_step(device, tmp_path):
    steps = {"steps": WARMUP + 3, "precision": "fp16"}
    wanted = learn(tmp_path / "python", vit(), xp=device, **steps)
    with emulator.running(launched=set()) as run:
        found = learn(tmp_path / "graph", vit(), xp=device, graph=True, **steps)
    if device is strict:
        assert {"attention_forward", "attention_dkdv", "attention_dq"} <= run["launched"]
    np.testing.assert_allclose(found, wanted, rtol=1e-6)


def between_products(xp, precision, lora):
    """An attention and an MLP behind it: what they save of 16 bits, and their gradients."""
    rng = np.random.default_rng(0)
    p = {"attn": self_attention_init(rng, 16, heads=2), "mlp": mlp_init(rng, 16, 24)}
    for _, leaf in leaves(p):
        leaf[...] = rng.standard_normal(leaf.shape) / 4
    if lora:
        p = lora_add(rng, p, [(".*", True)], rank=2)
    p = tree_map(lambda x: to_device(x.astype("float32"), xp), p)
    x, dy = (to_device(rng.standard_normal((2, 5, 16)).astype("float32"), xp) for _ in range(2))
    g = tree_map(xp.zeros_like, p)
    with products_in(precision):
        h, s_attn = self_attention_forward(x, p["attn"], heads=2)
        y, s_mlp = mlp_forward(h, p["mlp"], kind="gelu_tanh")
        dh = mlp_backward(dy, s_mlp, g["mlp"])
        dx = self_attention_backward(dh, s_attn, g["attn"])
    found = {"q": s_attn["attend"]["q"], "slope": s_mlp["act"]}
    return found, {"y": y, "dx": dx, **dict(leaves(g))}


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
@pytest.mark.parametrize("lora", [False, True])
def test_what_stands_between_two_products_has_16_bits(device, precision, lora):
    saved, found = between_products(device, precision, lora)
    assert saved["q"].dtype.itemsize == 2
    assert saved["slope"].dtype.itemsize == (4 if lora else 2)
    set_kernels({})
    _, wanted = between_products(np, "float32", lora)
    for name, x in wanted.items():
        size = np.abs(x).max()
        np.testing.assert_allclose(to_host(found[name]), x, rtol=0, atol=CLOSE["bf16"] * size)


def test_an_overflow_in_a_backward_lowers_the_scale(device, tmp_path, monkeypatch):
    scales, add_gradients = [], loop.add_gradients

    def watched(*arguments):
        scales.append(arguments[-1])
        return add_gradients(*arguments)

    monkeypatch.setattr(loop, "add_gradients", watched)
    found = learn(tmp_path / "device", vit(size=30.0), "fp16", device, steps=1)
    assert len(scales) > 2 and scales == [2.0**16 / 2**i for i in range(len(scales))]
    set_kernels({})
    wanted = learn(tmp_path / "numpy", vit(size=30.0), "fp16", steps=1)
    np.testing.assert_allclose(found, wanted, rtol=CLOSE["fp16"])


def check_overflow(images=2, heads=2, tokens=70, width=32):
    """Gradients of some scores do not fit float16: rows that they go into show it, no others."""
    rng, largest = np.random.default_rng(0), np.finfo("float16").max
    q, k, v, dy = rng.standard_normal((4, images, heads, tokens, width)).astype("float16")
    v, dy = 8 * v, 2**13 * dy
    with np.errstate(over="ignore", invalid="ignore"):
        _, saved = attend_forward(q, k, v, scale=0.3)
        assert isinstance(saved, Saved)
        found = dict(zip(("dq", "dk", "dv"), attend_backward(dy, saved), strict=True))
    q, k, v, dy = (x.astype(float) for x in (q, k, v, dy))
    _, saved = attend_forward(q, k, v, scale=0.3)
    wanted = dict(zip(found, attend_backward(dy, saved), strict=True))
    weights, dweights = attention_weights(saved), dy @ v.swapaxes(-1, -2)
    dz = weights * (dweights - (weights * dweights).sum(-1, keepdims=True))
    for what, axis in (("dq", -1), ("dk", -2)):
        touched = (np.abs(dz) > largest).any(axis)
        assert 0.1 < touched.mean() < 0.9
        assert not np.isfinite(found[what][touched]).any()
        fits = np.abs(wanted[what]) < largest
        assert np.array_equal(np.isfinite(found[what]), fits & ~touched[..., None])
    for what in found:
        finite = np.isfinite(found[what])
        size = np.abs(wanted[what][finite]).max()
        assert np.abs(found[what][finite] - wanted[what][finite]).max() < 2e-3 * size


def test_a_gradient_of_scores_that_overflows_is_never_a_finite_number(compiled):
    kernels.use_kernels(np)
    check_overflow()


@pytest.mark.parametrize("clipped", ["left[0]", "right[3]", "sum[n][1] * times_0"])
def test_a_number_that_is_clipped_is_noticed(emulated, monkeypatch, clipped):
    def planted(name, folder=launch.FOLDER):
        return source(name, folder).replace(clipped, f"fminf({clipped}, 65504.0f)")

    source = launch.source
    assert source("tiles.cuh").count(clipped) == 1
    monkeypatch.setattr(launch, "source", planted)
    launch.library.cache_clear()
    kernels.use_kernels(np)
    with emulator.running(flags=("-O0",)), pytest.raises(AssertionError):  # quicker to build
        check_overflow()
    launch.library.cache_clear()


@pytest.mark.parametrize("dtype", ["float16", "float32"])
@pytest.mark.parametrize("what", ["q", "k", "v", "dy"])
def test_what_comes_in_too_large_is_no_finite_number_when_it_goes_out(compiled, dtype, what):
    kernels.use_kernels(np)
    rng = np.random.default_rng(0)
    arrays = dict(zip(("q", "k", "v", "dy"), rng.random((4, 1, 1, 70, 8)), strict=True))
    with np.errstate(over="ignore", invalid="ignore"):
        arrays[what][0, 0, 3, 2] = 1e6
        q, k, v, dy = (x.astype(dtype) for x in arrays.values())
        with products_in("fp16"):
            y, saved = attend_forward(q, k, v)
            assert isinstance(saved, Saved)
            dq, dk, dv = attend_backward(dy, saved)
    touched = (dq, dk) if what == "v" else (dq, dk, dv)
    touched = touched if what == "dy" else (y, *touched)
    assert not any(np.isfinite(x).all() for x in touched)
