r"""
How to hand any video to a language model?
==========================================

A language model pays for every token it reads, and a video has very many. Lesson 10 has the cure:
let a few learned latents read them all. The *Perceiver Resampler* of Flamingo does that for videos.
Whether one frame comes in or a hundred, the same few tokens come out.

One thing must be told to it: which frame came when. This lesson stretches a few learned moments
over any number of frames, finds the gradient of the stretching, and learns from clips of 8 frames
to read clips of 30.
"""

# %%
# How many tokens?
# ----------------
#
# Take a minute of film and look at one frame each second, as Flamingo does. A ViT with patches of
# 14 pixels, the *vision tower*, turns each frame of 224 pixels into 256 tokens. For one minute that
# is 15 times what GPT-2 can read at all:

import numpy as np

from scratch_vlm.layers.block import BlockConfig
from scratch_vlm.layers.resampler import ResamplerConfig, resampler_forward, resampler_init
from scratch_vlm.ops.frames import Video, resample

minute = Video(np.zeros((60 * 24, 1, 1, 3)), 24)
seen = resample(minute, 1)
print(f"{len(minute)} frames, {len(seen)} are looked at: {len(seen) * 256} tokens")
assert len(seen) == 60 and (224 // 14) ** 2 == 256 and len(seen) * 256 == 15 * 1024

# %%
# The Resampler makes 64 tokens of any number. Its latents are learned tokens that read all patches
# of all frames, and each other, a few times over (norms left out):
#
# .. math:: x \leftarrow x + \mathrm{attn}(x,\, [z, x]), \qquad x \leftarrow x + \mathrm{mlp}(x)
#
# The latents :math:`x` ask. The features :math:`z` of all frames, in one long row, and the latents
# themselves answer. Unlike in the Perceiver of lesson 10, each round has weights of its own.
# (``stretch`` is for the next section.)

rng = np.random.default_rng(0)
block = BlockConfig(width=32, heads=4, hidden=64, mlp="gelu_tanh")
config = ResamplerConfig(block, depth=2, frames=8, stretch="always")
p = resampler_init(rng, config)
for frames in (1, 8, 60):
    features = rng.normal(size=(1, frames, 9, 32)).astype("float32")
    tokens, _ = resampler_forward(features, p, config=config)
    print(f"{frames:2} x 9 patches: {9 * frames:3} features in, {tokens.shape[1]} tokens out")
    assert tokens.shape == (1, 64, 32)

from scratch_vlm.viz import diagrams
from scratch_vlm.viz.show import show

figure = diagrams.resampler(config, 8, 9)
show(figure, "11_perceiver_resampler_diagram")

# %%
# Moments, stretched
# ------------------
#
# Attention reads a set (lesson 02), so a frame must say when it was. To each patch of frame f a
# learned vector is added, its *time embedding*. Flamingo learned 8 of them, for 8 frames at one
# frame a second. Asked to read 30 frames, it takes vectors in between.
#
# Say two are learned, 0 and 8, and four frames come. Then each frame is half as long as a trained
# one. It stands in the *middle* of its share of the clip, as a pixel in an image that is resized:
# frame f at :math:`(f + 0.5) \cdot 2 / 4 - 0.5`, where the trained ones stand at 0 and 1. That is
# at -0.25, 0.25, 0.75 and 1.25. The second is a quarter of the way from 0 to 8, so it gets 2; the
# third gets 6. Nothing is known beyond the ends, so the first gets 0 and the last 8.
#
# So a learned vector that stands less than 1 away weighs 1 minus its distance, and the others
# nothing. These weights are a matrix :math:`R`, one row for each frame. What goes back through a
# matrix goes through its transpose:
#
# .. math:: y_{fn} = x_{fn} + (R w)_f \qquad\Longrightarrow\qquad
#    dx = dy, \quad dw = R^\top \sum_n dy_n

from scratch_vlm.gradcheck import check
from scratch_vlm.layers.resampler import time_embedding_backward, time_embedding_forward


def moments_forward(x, p):
    frames, trained = len(x), len(p["w"])
    at = ((np.arange(frames) + 0.5) * trained / frames - 0.5).clip(0, trained - 1)
    r = np.maximum(1 - abs(at[:, None] - np.arange(trained)), 0)  # (F, trained)
    return x + (r @ p["w"])[:, None], r


def moments_backward(dy, r, g):
    g["w"] += r.T @ dy.sum(axis=1)
    return dy


assert ((np.arange(4) + 0.5) * 2 / 4 - 0.5).tolist() == [-0.25, 0.25, 0.75, 1.25]
y, r = moments_forward(np.zeros((4, 1, 1)), {"w": np.array([[0.0], [8.0]])})
print(r)
assert y.ravel().tolist() == [0, 2, 6, 8]

w = {"w": rng.normal(size=(8, 4))}
x, dy = rng.normal(size=(2, 30, 5, 4))
print(check(moments_forward, moments_backward, [x], w))
y, r = moments_forward(x, w)
theirs, saved = time_embedding_forward(x[None], w, stretch="always")
assert np.allclose(theirs[0], y)
mine, library = {"w": np.zeros((8, 4))}, {"w": np.zeros((8, 4))}
moments_backward(dy, r, mine)
time_embedding_backward(dy[None], saved, library)
assert np.allclose(library["w"], mine["w"])

# %%
# What the Resampler can know
# ---------------------------
#
# Without time embeddings (``frames=0``) a clip played backwards gives the same tokens: no training
# could ever tell left from right. With them the tokens differ. Inside a frame the patches remain a
# set: where they stand is for the vision tower to tell.

from dataclasses import replace

timeless = replace(config, frames=0)
without = {name: branch for name, branch in p.items() if name != "time"}
clip = rng.normal(size=(1, 8, 9, 32))
for which, parameters, same in ((timeless, without, True), (config, p, False)):
    forwards, _ = resampler_forward(clip, parameters, config=which)
    backwards, _ = resampler_forward(clip[:, ::-1], parameters, config=which)
    assert np.allclose(forwards, backwards) == same
    patches_shuffled, _ = resampler_forward(
        clip[:, :, rng.permutation(9)], parameters, config=which
    )
    assert np.allclose(forwards, patches_shuffled)

# %%
# Which way does it move?
# -----------------------
#
# Real handwriting, in motion: one digit crosses the picture to the left, to the right, up or down.
# Each frame goes through a small ViT, as in lesson 09; eight latents read them all; their mean
# names the direction. A digit starts near the edge that it moves away from, so the first frame
# gives the answer away, if one knows which frame was the first. The model is four lines, and its
# backward the same four from the bottom up.

from functools import partial
from tempfile import TemporaryDirectory

from scratch_vlm.data.clips import DIRECTIONS, draw_clips, draw_positions, paint
from scratch_vlm.data.digits import split
from scratch_vlm.data.scenes import DigitPool
from scratch_vlm.layers.linear import linear_backward, linear_forward, linear_init
from scratch_vlm.layers.pool import mean_pool_backward, mean_pool_forward
from scratch_vlm.layers.resampler import resampler_backward
from scratch_vlm.models.video import encode_frames_backward, encode_frames_forward
from scratch_vlm.models.vit import ViTConfig, vit_init
from scratch_vlm.ops.losses import cross_entropy_backward, cross_entropy_forward
from scratch_vlm.training.loop import TrainConfig, train

TOWER = ViTConfig((24, 24, 3), (8, 8), 0, block, depth=1, pool="mean", positions="axial")
TOWER = replace(TOWER, position_std=0.5)
SMALL = replace(config, latents=8, latent_std=0.02)


def moving(rng, count, name, frames):
    source = draw_clips(rng)
    clips = [next(source) for _ in range(count)]
    places = draw_positions(rng, clips, frames, torus=False)
    lanes = rng.random((count, 3)).argsort(axis=1)[:, :2]
    digits = [[item.digit for item in clip.items] for clip in clips]
    ink = DigitPool(split(name)).draw(rng, np.ravel(digits)).reshape(count, 2, 8, 8)
    ink[:, 1] = 0  # clips have two digits; the second is painted in black
    images, _ = paint(ink, clips, lanes, places)
    moves = np.array([DIRECTIONS.index(clip.moves[0]) for clip in clips])
    return 2 * images, moves  # pixels from 0 to 2, as in lesson 07


def model_forward(clips, p, config):
    h, s_tower = encode_frames_forward(clips, p["tower"], config=TOWER)  # (B, F, N, D)
    h, s_sampler = resampler_forward(h, p["sampler"], config=config)  # (B, R, D)
    h, s_pool = mean_pool_forward(h)
    h, s_head = linear_forward(h, p["head"])
    return h, (s_tower, s_sampler, s_pool, s_head)


def loss_forward(clips, labels, p, *, config):
    scores, s = model_forward(clips, p, config)
    loss, s_loss = cross_entropy_forward(scores, labels)
    return loss, (s, s_loss)


def loss_backward(dloss, saved, g):
    (s_tower, s_sampler, s_pool, s_head), s_loss = saved
    dh = linear_backward(cross_entropy_backward(dloss, s_loss), s_head, g["head"])
    dh = mean_pool_backward(dh, s_pool)
    dh = resampler_backward(dh, s_sampler, g["sampler"])
    encode_frames_backward(dh, s_tower, g["tower"])


def learn(config):
    rng = np.random.default_rng(0)
    p = {
        "tower": vit_init(rng, TOWER),
        "sampler": resampler_init(rng, config),
        "head": linear_init(rng, 32, 4),
    }
    how = TrainConfig(150, 32, peak_rate=3e-3, warmup=30, betas=(0.9, 0.98))
    with TemporaryDirectory() as folder:
        return train(
            partial(loss_forward, config=config),
            loss_backward,
            p,
            lambda step: moving(np.random.default_rng([0, step]), 32, "train", 8),
            how,
            folder,
            progress=False,
        )


models = {"with times": SMALL, "without": replace(SMALL, frames=0)}
learned = {name: learn(config) for name, config in models.items()}
accuracy = {}
for frames in (8, 16, 30):
    clips, labels = moving(np.random.default_rng(1), 256, "test", frames)
    for name, which in models.items():
        found = model_forward(clips, learned[name], which)[0].argmax(axis=1)
        accuracy[name, frames] = np.mean(found == labels)
        print(f"{frames:2} frames, {name:10}: {accuracy[name, frames]:.2f} right")
assert accuracy["with times", 8] > 0.95 and accuracy["with times", 30] > 0.9
assert all(accuracy["without", frames] < 0.65 for frames in (8, 16, 30))

# %%
# No clip of the training had 16 or 30 frames. Without times the model sees along which line the
# digit moves, and guesses one of two ways. (With ``torus=True`` what leaves on one side comes in on
# the other, and only two frames together tell: harder, and worth a try.)
#
# When do the latents look? Here are eight frames, and how the attention of each latent in the first
# round is spread over them. The rest it gives to the latents:

from scratch_vlm.ops.attend import attention_weights
from scratch_vlm.viz.clips import frame_attention

clips, labels = moving(np.random.default_rng(2), 1, "test", 8)
_, (_, s_sampler, _, _) = model_forward(clips, learned["with times"], SMALL)
heads = attention_weights(s_sampler["blocks"]["0"]["attn"]["attend"])[0]  # (A, R, F N + R)
by_frame = heads.mean(axis=0)[:, : 8 * 9].reshape(8, 8, 9).sum(axis=2)  # (R, F)
figure = frame_attention(clips[0] / 2, by_frame)
show(figure, "11_perceiver_resampler")
early, late = by_frame[:, :4].sum(axis=1), by_frame[:, 4:].sum(axis=1)
assert (early > late).any() and (late > early).any()

# %%
# They have divided the work: some look early, some late, and nobody asked them to. The few tokens
# that come out are what lessons 13 and 14 put among or beside the words.
#
# Exercises
# ---------
#
# **1. The price.** In one round of the Resampler, how many scores are computed for each head, with
# R latents, F frames and N patches a frame? How many if all patches read each other instead?


def check_price(resampler_scores, self_attention_scores):
    assert resampler_scores(1, 8, 9) == 73, "latents read the features, and themselves"
    assert resampler_scores(64, 8, 256) == 64 * (8 * 256 + 64)
    assert self_attention_scores(8, 256) == 2048**2
    ratios = [self_attention_scores(f, 256) / resampler_scores(64, f, 256) for f in (8, 16)]
    assert 1.9 < ratios[1] / ratios[0] < 2.1, "twice the frames: twice the advantage"


# %%
# **2. A single frame.** Eight moments are learned, and one frame comes: an image. Give the eight
# weights, its row of :math:`R`.


def check_single(weights):
    _, r = moments_forward(np.zeros((1, 1, 4)), w)
    assert np.allclose(weights, r[0]), "it stands in the middle of the clip, between two frames"


# %%
# **3. Clips of two lengths.** A batch is one array, but one clip has 3 frames and the other 5. Lay
# them into one array and give it back with ``lengths``, an array of how many frames of each are
# real. Then each gives what it gives alone.


def check_lengths(batch):
    three, five = rng.normal(size=(3, 9, 32)), rng.normal(size=(5, 9, 32))
    features, lengths = batch(three, five)
    assert np.shape(features) == (2, 5, 9, 32), np.shape(features)
    p = resampler_init(np.random.default_rng(0), config)
    together, _ = resampler_forward(features, p, config=config, lengths=lengths)
    for clip, tokens in zip((three, five), together, strict=True):
        alone, _ = resampler_forward(clip[None], p, config=config)
        assert np.allclose(alone[0], tokens), f"the clip of {len(clip)} frames changed"


# %%
# Sources
# -------
#
# * J.-B. Alayrac et al., *Flamingo: a Visual Language Model for Few-Shot Learning*, 2022,
#   arXiv:2204.14198: section 2.1 and figure 5, the Resampler; appendix B.1.2, 30 frames read with
#   8 learned moments.
# * A. Jaegle et al., *Perceiver: General Perception with Iterative Attention*, 2021,
#   arXiv:2103.03206: where the latents come from.
