"""A small objective, and a program that trains it: what the tests of the loop interrupt and kill.

python regression.py FOLDER [HOW AT]: with HOW one of INT, TERM and KILL, send that signal to this
process when the batch of step AT is drawn.
"""

import os
import signal
import sys

import numpy as np

from scratch_vlm.training.loop import TrainConfig, train

CONFIG = TrainConfig(
    steps=30, batch_size=12, peak_rate=0.05, warmup=5, checkpoint_every=8, clip=0.5, seed=3
)


def init(dtype="float32"):
    rng = np.random.default_rng(0)
    draw = lambda *shape: (0.3 * rng.standard_normal(shape)).astype(dtype)  # noqa: E731
    return {"fc": {"w": draw(6, 40), "b": draw(40)}, "proj": {"w": draw(40, 2)}}


def forward(x, y, p):
    h = x @ p["fc"]["w"] + p["fc"]["b"]
    e = h @ p["proj"]["w"] - y
    return (e * e).mean(), {"x": x, "h": h, "e": e, "p": p}


def backward(dloss, s, g):
    de = dloss * 2 / s["e"].size * s["e"]
    dh = de @ s["p"]["proj"]["w"].T
    g["proj"]["w"] += s["h"].T @ de
    g["fc"]["w"] += s["x"].T @ dh
    g["fc"]["b"] += dh.sum(0)


def batch(step, dtype="float32"):
    rng = np.random.default_rng([CONFIG.seed, step])
    x = rng.standard_normal((CONFIG.batch_size, 6)).astype(dtype)
    return x, x[:, :2] * x[:, 2:4]


def after_step(p):
    np.clip(p["fc"]["b"], -0.5, 0.5, out=p["fc"]["b"])


if __name__ == "__main__":
    folder, how, at = (*sys.argv[1:], None, "-1")[:3]

    def batch_or_end(step):
        if step == int(at):
            os.kill(os.getpid(), getattr(signal, f"SIG{how}"))
        return batch(step)

    train(forward, backward, init(), batch_or_end, CONFIG, folder, after_step=after_step)
