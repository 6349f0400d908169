r"""
6. Classification
=================

**How does a model learn from labels?**

Lesson 5 built a Vision Transformer that gives ten scores to an image, all of them nonsense. Here it
learns to read handwritten digits. Three things are missing: a number that says how wrong the scores
are, a rule for moving the weights, and the patience to make it fail on purpose first.
"""

# %%
# How wrong? Cross-entropy
# ------------------------
# A model gives scores z to the classes, any numbers. Softmax (lesson 2) makes them probabilities
# :math:`p_i = e^{z_i} / \sum_j e^{z_j}`, and the loss is the surprise at the truth: minus the
# logarithm of the probability of the right class c.
#
# .. math:: L = -\ln p_c = \ln \sum_j e^{z_j} - z_c
#
# Take the scores 0, ln 2 and ln 5. Their exponentials are 1, 2 and 5, so the probabilities are
# 1/8, 2/8 and 5/8. If class 0 was right, the loss is ln 8.
#
# Now move one score. The first term has the slope :math:`e^{z_i} / \sum_j e^{z_j}`, which is
# :math:`p_i` again, and the second is there for the right class only:
#
# .. math:: \frac{\partial L}{\partial z_i} = p_i - [i = c]
#
# *What the model said minus what it should have said.* Here: 1/8 - 1, 2/8, 5/8. The gradient adds
# up to zero: what the right class gains, the others lose.
import math
import tempfile
from functools import partial

import numpy as np
from scipy.spatial.distance import cdist

from scratch_vlm.data.augment import Affine, affine
from scratch_vlm.data.digits import nearest_neighbour, split
from scratch_vlm.data.images import normalize
from scratch_vlm.gradcheck import check
from scratch_vlm.layers.block import BlockConfig
from scratch_vlm.models.vit import ViTConfig, vit_backward, vit_forward, vit_init
from scratch_vlm.ops.attend import attention_weights
from scratch_vlm.ops.losses import cross_entropy_backward, cross_entropy_forward
from scratch_vlm.training.loop import TrainConfig, train
from scratch_vlm.training.optimizer import AdamW
from scratch_vlm.training.run import RunFolder
from scratch_vlm.training.schedule import warmup_cosine
from scratch_vlm.viz.figures import attention_maps, learning_curve


def surprise_forward(z, labels):
    z = z - z.real.max(1, keepdims=True)  # changes no probability, and exp cannot overflow
    p = np.exp(z) / np.exp(z).sum(1, keepdims=True)
    rows = np.arange(len(z))
    return -np.log(p[rows, labels]).mean(), (p, labels)


def surprise_backward(dloss, saved):
    p, labels = saved
    dz = p.copy()
    dz[np.arange(len(p)), labels] -= 1
    return dloss * dz / len(p)  # the mean over the batch


z, labels = np.log([[1.0, 2.0, 5.0]]), np.array([0])
loss, saved = surprise_forward(z, labels)
assert math.isclose(loss, math.log(8))
assert np.allclose(surprise_backward(1.0, saved), [[-7 / 8, 2 / 8, 5 / 8]])

rng = np.random.default_rng(0)
z, labels = rng.normal(size=(6, 10)), rng.integers(10, size=6)
loss, saved = surprise_forward(z, labels)
theirs, their_saved = cross_entropy_forward(z, labels)
assert np.isclose(loss, theirs)
assert np.allclose(surprise_backward(1.0, saved), cross_entropy_backward(1.0, their_saved))
check(lambda z: surprise_forward(z, labels), surprise_backward, [z])

# %%
# Equal scores for ten classes cost ln 10. Remember this number of every classifier: an untrained
# model starts near it, and one that stays there has learned nothing.
chance = math.log(10)
assert np.isclose(cross_entropy_forward(np.zeros((1, 10)), labels[:1])[0], chance)

# %%
# How far? AdamW
# --------------
# The gradient says which way each weight should go, but its length means little: it depends on how
# the loss is scaled and on where in the model the weight sits. Adam [1]_ keeps two running means
# for each weight, m of its gradient and v of the gradient's square, and moves by
# :math:`\mathrm{rate} \cdot m / \sqrt v`. A weight whose gradient always points the same way moves
# by the rate, one whose gradient flips sign stays nearly where it is, and multiplying the loss with
# a thousand changes nothing.
#
# In the first step m is the gradient and v its square, so every weight moves by the rate exactly,
# be its gradient 3 or -4000:
optimizer = AdamW({"w": np.array([1.0, -1.0])}, decay=0.0)
optimizer.g["w"] += [3.0, -4000.0]
optimizer.step(0.1)
assert np.allclose(optimizer.p["w"], [0.9, -0.9])

# %%
# The W stands for *weight decay* [2]_: each step also shrinks the weights by rate · decay of their
# size, apart from the gradient, so that only what the data keep asking for stays large. With a
# decay of 0.5 a weight of 1 becomes 0.95, and then moves by 0.1.
optimizer = AdamW({"w": np.array([1.0])}, decay=0.5)
optimizer.g["w"] += 3.0
optimizer.step(0.1)
assert np.allclose(optimizer.p["w"], 0.85)

# %%
# The rate itself follows a *schedule*: it climbs, because v knows little at first, then falls along
# half a cosine, because close to the goal large steps only jump about.
rates = [warmup_cosine(step, peak=1.0, warmup=2, total=6) for step in (0, 1, 2, 4, 6)]
assert np.allclose(rates, [1 / 3, 2 / 3, 1, 1 / 2, 0])

# %%
# First, overfit one batch
# ------------------------
# Whoever trains a model for an hour and gets nothing does not know why. So ask something easier
# first: sixteen digits, the same again and again. A model that cannot learn *these* by heart has a
# bug, in the model, the loss or the optimizer. It takes seconds, and these five lines are all there
# is to training.
model = ViTConfig(
    image=(8, 8, 1),
    patch=(4, 4),
    outputs=10,
    block=BlockConfig(width=64, heads=4, hidden=256, mlp="gelu_tanh"),
    depth=2,
    position_std=0.1,
)
digits = split("train")
INK = (0.3, 0.37)  # mean and standard deviation of the pixels


def prepare(images):
    return normalize(images[..., None], *INK)  # (B, 8, 8, 1)


def forward(images, labels, p, smoothing=0.0):
    scores, s_model = vit_forward(images, p, config=model)
    loss, s_loss = cross_entropy_forward(scores, labels, smoothing=smoothing)
    return loss, (s_model, s_loss)


def backward(dloss, saved, g):
    s_model, s_loss = saved
    vit_backward(cross_entropy_backward(dloss, s_loss), s_model, g)


few, names = prepare(digits.images[:16]), digits.labels[:16]
optimizer, losses = AdamW(vit_init(rng, model), decay=0.0), []
for _ in range(60):
    loss, saved = forward(few, names, optimizer.p)
    backward(1.0, saved, optimizer.g)
    optimizer.step(1e-3)
    losses.append(float(loss))
print(f"loss of sixteen digits: {losses[0]:.2f} at first, {losses[-1]:.4f} at last")
assert losses[-1] < 0.02

# %%
# What must be beaten
# -------------------
# 1,797 digits, 8 × 8 pixels each, were written on 14 forms by different people. Whole forms are
# kept for the test, so the model is asked about hands that it has never seen. A result needs
# something to compare it to: guessing, naming the nearest training image in pixels, and the method
# that these digits are usually shown with, a support vector machine (the least-squares kind [3]_,
# which is one system of linear equations; its two settings were chosen on the validation forms).
test = split("test")
flat, flat_test = (d.images.reshape(len(d), -1) for d in (digits, test))


def kernel(a, b):
    return np.exp(-0.26 * cdist(a, b, "sqeuclidean"))


one_hot = 2.0 * np.eye(10)[digits.labels] - 1
alpha = np.linalg.solve(kernel(flat, flat) + np.eye(len(flat)) / 10, one_hot)
by_machine = (kernel(flat_test, flat) @ alpha).argmax(1)
by_neighbour = nearest_neighbour(digits, test)
print(f"nearest neighbour {(by_neighbour == test.labels).mean():.3f}")
print(f"support vectors   {(by_machine == test.labels).mean():.3f}")

# %%
# Now for real
# ------------
# A transformer knows nothing about images; that a seven stays a seven when it is tilted must come
# from the data. So each time a digit is drawn it is turned, stretched and moved a little. And the
# target is *smoothed*: a tenth of it is spread evenly over all classes, so that no score is driven
# to infinity.
config = TrainConfig(
    steps=600, batch_size=128, peak_rate=3e-3, warmup=50, weight_decay=0.1, betas=(0.9, 0.98)
)
warp = Affine(degrees=15, scale=0.15, shift=0.8, shear=0.2)


def batch(step):
    rng = np.random.default_rng([config.seed, step])
    chosen = rng.integers(len(digits), size=config.batch_size)
    return prepare(affine(rng, digits.images[chosen], warp)), digits.labels[chosen]


folder = tempfile.mkdtemp()
p = train(
    partial(forward, smoothing=0.1),
    backward,
    vit_init(np.random.default_rng(config.seed), model),
    batch,
    config,
    folder,
)
curve = RunFolder(folder).read_curve()
figure = learning_curve(
    curve["step"],
    curve["loss"],
    chance=chance,
    rates=curve["learning_rate"],
    title="A Vision Transformer learns to read",
)

# %%
scores, saved = vit_forward(prepare(test.images), p, config=model)
right = scores.argmax(1) == test.labels
print(f"Vision Transformer {right.mean():.3f}")
assert right.mean() > (by_machine == test.labels).mean() > 0.9

# %%
# Where does it look?
# -------------------
# CLS made the decision, and what it read in the last block is still in ``saved``.
