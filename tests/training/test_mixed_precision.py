"""Training in lower precision: it learns, it resumes to the bit, and fp16 neither vanishes nor
overflows."""

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest

from scratch_vlm.backend import product, products_in, rounded
from scratch_vlm.layers.linear import linear_backward, linear_forward, linear_init
from scratch_vlm.training import loop, loss_scale
from scratch_vlm.training.loop import TrainConfig, TrainingDiverged, TrainingInterrupted, train
from scratch_vlm.training.loss_scale import LossScale

CONFIG = TrainConfig(steps=40, batch_size=32, peak_rate=0.02, weight_decay=0.0, checkpoint_every=10)
TRUE = np.random.default_rng(7).standard_normal((6, 3)).astype("float32")


def batch(step):
    x = np.random.default_rng(step).standard_normal((32, 6)).astype("float32")
    return x, x @ TRUE


def forward(x, target, p, size=1.0):
    h, s1 = linear_forward(x, p["one"])
    y, s2 = linear_forward(h, p["two"])
    error = y - target
    return size * (error**2).mean(), (s1, s2, error, size)


def backward(dloss, saved, g):
    s1, s2, error, size = saved
    dy = error * (dloss * np.float32(2 * size / error.size))
    linear_backward(linear_backward(dy, s2, g["two"]), s1, g["one"])


def init():
    rng = np.random.default_rng(0)
    return {"one": linear_init(rng, 6, 8), "two": linear_init(rng, 8, 3)}


def run(folder, precision, xp=np, forward=forward, **changes):
    config = replace(CONFIG, precision=precision, **changes)
    p = train(forward, backward, init(), batch, config, folder, xp=xp, progress=False)
    rows = (folder / "metrics.csv").read_text().splitlines()[1:]
    return p, [row.split(",")[1:3] for row in rows]


def losses(curve):
    return np.array([float(loss) for loss, _ in curve])


def test_every_precision_learns_and_those_of_fewer_bits_differ_more(tmp_path):
    exact = losses(run(tmp_path / "float32", "float32")[1])
    assert exact[-1] < 0.5 * exact[0]
    apart = {}
    for precision in ("tf32", "bf16", "fp16"):
        found = losses(run(tmp_path / precision, precision)[1])
        np.testing.assert_allclose(found, exact, rtol=0.05)
        apart[precision] = np.abs(found / exact - 1).max()
    assert 0 < apart["tf32"] < 0.5 * apart["bf16"]
    assert 0 < apart["fp16"] < 0.5 * apart["bf16"]


def test_parameters_and_moments_stay_float32(tmp_path):
    p, _ = run(tmp_path, "bf16", steps=3)
    w = p["one"]["w"]
    assert w.dtype == "float32"
    assert (rounded(w, "bf16") != w).mean() > 0.9, "master weights have all their bits"


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_the_same_curve_on_a_device(tmp_path, precision, xp):
    def anywhere(dloss, saved, g):
        s1, s2, error, size = saved
        dy = error * (dloss * (2 * size / error.size))
        linear_backward(linear_backward(dy, s2, g["two"]), s1, g["one"])

    config = replace(CONFIG, precision=precision, steps=5)
    curves = []
    for name, module in (("host", np), ("device", xp)):
        train(forward, anywhere, init(), batch, config, tmp_path / name, xp=module, progress=False)
        rows = (tmp_path / name / "metrics.csv").read_text().splitlines()[1:]
        curves.append([list(map(float, row.split(",")[1:3])) for row in rows])
    np.testing.assert_allclose(*curves, rtol=1e-4)  # sums are in another order


def test_an_interrupted_training_in_fp16_ends_with_the_same_bits(tmp_path, monkeypatch):
    monkeypatch.setattr(loss_scale, "GROW_EVERY", 7)
    _, whole = run(tmp_path / "whole", "fp16")

    def interrupted(step):
        if step == 25:
            raise TrainingInterrupted
        return batch(step)

    config = replace(CONFIG, precision="fp16")
    folder = tmp_path / "parts"
    with pytest.raises(TrainingInterrupted):
        train(forward, backward, init(), interrupted, config, folder, progress=False)
    _, parts = run(folder, "fp16")
    assert parts == whole
    for file in ("parameters", "optimizer"):
        name = f"checkpoint/{file}.safetensors"
        assert (folder / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_gradients_that_vanish_in_fp16_are_kept_by_the_scale(tmp_path, monkeypatch):
    def small(x, target, p):
        return forward(x, target, p, size=1e-6)

    exact = losses(run(tmp_path / "float32", "float32", forward=small)[1])
    kept = losses(run(tmp_path / "fp16", "fp16", forward=small)[1])
    np.testing.assert_allclose(kept, exact, rtol=0.02)
    monkeypatch.setattr(LossScale, "__init__", lambda self, precision: plain(self))
    lost = losses(run(tmp_path / "unscaled", "fp16", forward=small)[1])
    assert np.abs(lost / exact - 1).max() > 0.02, "without the scale they do vanish"


def plain(scale):
    scale.used, scale.factor, scale._good = False, 1.0, 0


def test_gradients_that_overflow_are_computed_again_with_a_smaller_scale(tmp_path, monkeypatch):
    def large(x, target, p):
        return forward(x, target, p, size=300.0)

    scales = []
    add_gradients = loop.add_gradients

    def watched(*arguments):
        scales.append(arguments[-1])
        return add_gradients(*arguments)

    monkeypatch.setattr(loop, "add_gradients", watched)
    _, curve = run(tmp_path / "fp16", "fp16", forward=large, clip=None)
    assert len(scales) > len(curve) == CONFIG.steps, "no step is left out"
    assert scales[0] == 2.0**16 and scales[-1] < 2.0**16
    assert all(b in (a, a / 2) for a, b in pairwise(scales))
    exact = losses(run(tmp_path / "float32", "float32", forward=large, clip=None)[1])
    np.testing.assert_allclose(losses(curve), exact, rtol=0.05)


def test_a_loss_that_is_no_number_is_no_matter_of_scale(tmp_path):
    def broken(x, target, p):
        loss, saved = forward(x, target, p)
        return loss * np.float32(np.nan), saved

    with pytest.raises(TrainingDiverged, match="the loss is nan"):
        run(tmp_path, "fp16", forward=broken)


def test_gradients_that_no_scale_saves_end_the_training(tmp_path):
    def endless(x, target, p):
        loss, (s1, s2, error, size) = forward(x, target, p)
        return loss, (s1, s2, error * np.float32(np.inf), size)

    with pytest.raises(TrainingDiverged, match="gradient's norm nan"):
        run(tmp_path, "fp16", forward=endless)


def test_the_scale_doubles_after_many_good_steps_up_to_a_limit(monkeypatch):
    monkeypatch.setattr(loss_scale, "GROW_EVERY", 2)
    scale = LossScale("fp16")
    for _ in range(3):
        scale.step_done()
    assert scale.factor == 2.0**17
    scale.lower()
    scale.step_done()
    assert scale.factor == 2.0**16, "the count began again"
    for _ in range(100):
        scale.step_done()
    assert scale.factor == loss_scale.LARGEST


def test_other_precisions_scale_nothing_and_save_nothing():
    scale = LossScale("bf16")
    for _ in range(5000):
        scale.step_done()
    assert scale.factor == 1 and not scale.lower() and scale.state == {}


def test_an_unknown_precision_is_refused():
    with pytest.raises(ValueError, match="one of float32, tf32, bf16, fp16, got 'int8'"):
        replace(CONFIG, precision="int8")


def test_a_run_goes_on_in_its_own_precision_only(tmp_path):
    config = replace(CONFIG, precision="bf16", steps=20)
    run(tmp_path, "bf16", steps=20)
    loop.check_run(tmp_path, config)
    with pytest.raises(ValueError, match="holds a run with precision bf16, not float32"):
        run(tmp_path, "float32", steps=20)


def test_a_run_from_before_there_was_a_choice_goes_on_in_float32(tmp_path, monkeypatch):
    asdict = loop.asdict
    without = lambda config: {k: x for k, x in asdict(config).items() if k != "precision"}  # noqa: E731
    with monkeypatch.context() as patch:
        patch.setattr(loop, "asdict", without)
        run(tmp_path, "float32", steps=20)
    loop.check_run(tmp_path, replace(CONFIG, steps=20))
    with pytest.raises(ValueError, match="holds a run with precision float32, not bf16"):
        run(tmp_path, "bf16", steps=20)


def test_float32_is_what_it_was(tmp_path):
    _, curve = run(tmp_path, "float32", steps=2)
    p, (x, target) = init(), batch(0)
    loss, _ = forward(x, target, p)
    assert repr(float(loss)) == curve[0][0]
    with products_in("bf16"):
        assert not np.array_equal(product(x, TRUE), x @ TRUE)
