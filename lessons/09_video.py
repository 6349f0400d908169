r"""
What does time add?
===================

A video is a pile of images, *frames*, and for images there is an encoder. So the encoder reads the
frames one by one, as many as it is shown. That is how most vision language models see video, and
two things can go wrong with it: frames too far apart show a motion that never was, and a pile has
no order.

This lesson chooses frames, packs them into arrays, encodes them, and shows what is missing.
"""

# %%
# One axis more
# -------------
#
# A frame has height, width and channels. A video puts an axis of frames in front, a mini-batch one
# of videos: (B, F, H, W, C). The order is a habit of libraries: PyTorch's image models want each
# channel as a plane of its own, (B, F, C, H, W), its convolutions over time (B, C, F, H, W). The
# numbers are the same, and a view goes from one to the other without moving any (lesson 01).

import numpy as np

videos = np.zeros((2, 8, 24, 32, 3), "float32")  # (B, F, H, W, C)
channels_first = videos.transpose(0, 4, 1, 2, 3)  # (B, C, F, H, W)
assert channels_first.shape == (2, 3, 8, 24, 32)
assert np.shares_memory(videos, channels_first)

# %%
# Above all, time adds *much*. Ten seconds of film, 24 frames each, for the ViT-B/16 of lesson 05:

count = 10 * 24
megabytes = count * 224 * 224 * 3 * 4 / 1e6
print(f"{count} frames, {megabytes:.0f} MB in float32, {count * 196:,} patches")

# %%
# Every eighth frame
# ------------------
#
# From one frame to the next hardly anything changes, so a model is shown few. The *frame rate* says
# how many there are in a second; frame i appears after i / rate seconds. Every eighth frame of 24 a
# second leaves 3 a second. Times are kept as fractions, for rounded ones drift: films on American
# television run at 24000/1001 frames a second, written as 23.976.

from fractions import Fraction

from scratch_vlm.data.clips import Clip, render_clips
from scratch_vlm.data.digits import split
from scratch_vlm.data.scenes import DigitPool, Item
from scratch_vlm.ops.frames import Video, frame_rate, subsample

digits = DigitPool(split("train"))
clip = Clip((Item(0, 7), Item(2, 3)), ("left", "right"))  # a red seven and a blue three


def film(speed):  # two seconds, and the first of the 8 rows of pixels that the seven moves in
    rng = np.random.default_rng(6)
    frames, cells = render_clips(rng, [clip], digits, 48, speeds=(speed, speed))
    return Video(frames[0], 24), 8 * cells[0, 0, 0, 0]


whole, row = film(speed=2)
few = subsample(whole, 8)
assert (len(whole), len(few), few.rate) == (48, 6, 3)
assert few.times[:4] == (0, Fraction(1, 3), Fraction(2, 3), 1)
assert np.array_equal(few.frames, whole.frames[::8])
assert frame_rate(23.976) == Fraction(24000, 1001)

# %%
# In this film the seven moves left, by 2 pixels a frame, and what leaves the image on one side
# comes in on the other, 24 pixels away. In eight frames it goes 16 pixels to the left, and that is
# the same place as 8 pixels to the *right*. So every eighth frame tells a different story:

from itertools import pairwise

from scratch_vlm.viz.clips import film_strip
from scratch_vlm.viz.show import show

for before, after in pairwise(few.frames[:, row : row + 8]):
    assert np.array_equal(after, np.roll(before, 8, axis=1))

figure = film_strip(
    [whole.frames[:9], few.frames],
    "The same film twice",
    ["every frame: the seven moves left", "every eighth frame: it seems to move right"],
    numbers=[range(9), range(0, 48, 8)],
)
show(figure, "09_video")

# %%
# This is *aliasing*, the coach wheel that turns backwards in old films. What repeats must move by
# less than half of its period from one frame to the next, here by less than 12 pixels, or the way
# cannot be told (the sampling theorem). No model can undo it, for it never sees the frames between.
# At half the speed the same choice of frames is harmless:

slow, row = film(speed=1)
first, second = subsample(slow, 8).frames[:2, row : row + 8]
assert np.array_equal(second, np.roll(first, -8, axis=1))

# %%
# Clips of one length
# -------------------
#
# A mini-batch is one array, so its videos must be equally long. Long ones are cut into clips. Short
# ones are filled up with black, and a mask says which frames are real.

from scratch_vlm.ops.frames import batch_videos, cut_clips

clips = cut_clips(whole, 16)
assert clips.frames.shape == (3, 16, 24, 24, 3) and clips.mask.all()
assert np.allclose(clips.seconds[1], np.arange(16, 32) / 24), "a clip knows when it was"

short = batch_videos([Video(whole.frames[:2], 24), Video(whole.frames[:3], 24)])
print(short.mask.astype(int))
assert np.array_equal(short.mask, [[1, 1, 0], [1, 1, 1]])

# %%
# Frame by frame
# --------------
#
# Take the smallest encoder there is, a product with one weight w = 2, and a video of three frames
# of one pixel each: 1, 2 and 5. It says 2, 4 and 10. Let the loss be their sum. If w grows, the
# three grow 1, 2 and 5 times as fast, and the slope of the loss is 8. One weight used three times
# has three gradients, and they *add*, which is why a backward adds to ``g`` (lesson 01):
#
# .. math:: y_f = \mathrm{encode}(x_f, p), \qquad
#           dp = \sum_f \left(\frac{\partial y_f}{\partial p}\right)^{\!\top} dy_f


def each_frame_forward(frames, p, encode):
    ys, saved = zip(*(encode(frames[:, f], p) for f in range(frames.shape[1])), strict=True)
    return np.stack(ys, axis=1), saved


def each_frame_backward(dy, saved, g, encode_backward):
    dframes = [encode_backward(dy[:, f], s, g) for f, s in enumerate(saved)]
    return np.stack(dframes, axis=1)


def scale_forward(x, p):
    return p["w"] * x, (x, p["w"])


def scale_backward(dy, saved, g):
    x, w = saved
    g["w"] += (dy * x).sum()
    return w * dy


p, g = {"w": np.array(2.0)}, {"w": np.array(0.0)}
y, saved = each_frame_forward(np.array([[1.0, 2.0, 5.0]]), p, scale_forward)
each_frame_backward(np.ones((1, 3)), saved, g, scale_backward)
print("y =", y[0], " dw =", g["w"])
assert y.tolist() == [[2, 4, 10]] and g["w"] == 8

# %%
# The library has no such loop. An encoder treats the images of a batch alike anyway, so the axis of
# frames is *folded* into the batch, (B, F, H, W, C) to (B F, H, W, C), all are encoded at once, and
# what comes out is dealt back to the videos. The products are larger, the numbers the same:

from functools import partial

from scratch_vlm.gradcheck import check
from scratch_vlm.layers.block import BlockConfig
from scratch_vlm.models.video import EMBEDDING, encode_frames_backward, encode_frames_forward
from scratch_vlm.models.vit import ViTConfig, vit_backward, vit_forward, vit_init
from scratch_vlm.tree import leaves, tree_map, zeros_like

rng = np.random.default_rng(0)
config = ViTConfig((24, 24, 3), (8, 8), outputs=16, block=BlockConfig(32, 4, 64), depth=2)
p = tree_map(lambda x: x.astype(float), vit_init(rng, config))
frames = rng.normal(size=(2, 3, 24, 24, 3))

one_by_one = partial(each_frame_forward, encode=partial(vit_forward, config=config))
back = partial(each_frame_backward, encode_backward=vit_backward)
report = check(one_by_one, back, [frames], p)
print(f"{len(report.entries)} arrays, largest error {max(e.error for e in report.entries):.0e}")

y, saved = one_by_one(frames, p)
folded, kept = encode_frames_forward(frames, p, config=config, encoder=EMBEDDING)  # (2, 3, 16)
assert np.allclose(folded, y)
dy, mine, theirs = rng.normal(size=y.shape), zeros_like(p), zeros_like(p)
assert np.allclose(back(dy, saved, mine), encode_frames_backward(dy, kept, theirs))
for (name, a), (_, b) in zip(leaves(mine), leaves(theirs), strict=True):
    assert np.allclose(a, b), name

# %%
# The axis of frames goes into the batch and comes out again. What tells the frames apart, their
# times, is added last; why that is needed is how this lesson ends.

from scratch_vlm.viz import diagrams

figure = diagrams.video_tensors(config, frames.shape[1], batch=len(frames), each="embedding")
show(figure, "09_video_diagram")

# %%
# Frames that the mask calls padding are not encoded at all. They cost nothing and say zero:

y, _ = encode_frames_forward(short.frames, p, config=config, encoder=EMBEDDING, mask=short.mask)
assert (y[0, 2] == 0).all() and (y[1, 2] != 0).all()

# %%
# Which way?
# ----------
#
# F vectors, the *embeddings* of the frames, must become one answer. Their mean will do for the
# question what is to be seen. But play a clip backwards: the same frames, the same mean, and the
# opposite answer to the question which way the seven moves. Whatever reads the mean, trained or
# not, is wrong on one of the two.

forwards = few.frames[None].astype(float)  # (1, 6, 24, 24, 3)
backwards = forwards[:, ::-1]
assert clip.moves != clip.reversed().moves


def embed(frames):
    return encode_frames_forward(frames, p, config=config, encoder=EMBEDDING)[0]  # (B, F, E)


assert np.allclose(embed(forwards).mean(axis=1), embed(backwards).mean(axis=1))

# %%
# A transformer that reads the frames is no better off: attention does not look at the order of what
# it reads (lesson 02). Lesson 05 had the same trouble with patches, and the cure is the same. Each
# frame gets a learned vector for its *time*. (Here they are random: what counts is that they
# differ.)

from scratch_vlm.layers.block import tower_forward, tower_init

block = BlockConfig(16, 2, 32)
tower = tree_map(lambda x: x.astype(float), tower_init(rng, block, depth=1))


def read(frames, times):
    y, _ = tower_forward(embed(frames) + times, tower, config=block)
    return y.mean(axis=1)  # (B, E)


times = rng.normal(size=(6, 16))
assert np.allclose(read(forwards, 0 * times), read(backwards, 0 * times))
assert not np.allclose(read(forwards, times), read(backwards, times))

# %%
# So this is what time adds: a choice of frames that one can get wrong, and an order that somebody
# has to write into the tokens. Lesson 11 hands any number of frames to a language model.
#
# Exercises
# ---------
#
# **1. Right again.** If every eighth frame is kept, which is the largest whole number of pixels a
# frame, below 12, at which the seven seems to move left, as it does?


def check_speed(speed):
    def seems_left(speed):
        video, row = film(speed)
        a, b = subsample(video, 8).frames[:2, row : row + 8]
        moved = [m for m in range(-12, 13) if np.array_equal(b, np.roll(a, m, axis=1))]
        return -12 < moved[0] < 0 and len(moved) == 1

    assert seems_left(speed), f"at {speed} it does not move left"
    assert not any(seems_left(faster) for faster in range(speed + 1, 12)), "it can be faster"


# %%
# **2. The other order.** Turn a mini-batch of PyTorch's kind, (B, C, F, H, W), into ours and back,
# without copying a number.


def check_order(to_ours, to_theirs):
    theirs = rng.normal(size=(2, 3, 8, 24, 32))
    ours = to_ours(theirs)
    assert ours.shape == (2, 8, 24, 32, 3) and np.shares_memory(ours, theirs)
    assert np.array_equal(ours[1, 7, 5, 6], theirs[1, :, 7, 5, 6]), "a pixel keeps its channels"
    assert np.array_equal(to_theirs(ours), theirs)


# %%
# **3. A mean of what is real.** Take the mean of the embeddings of each video, padding left out,
# and write its backward.


def check_mean(forward, backward):
    x, mask = rng.normal(size=(2, 3, 16)), short.mask
    y, _ = forward(x, mask)
    assert np.allclose(y[0], x[0, :2].mean(axis=0)) and np.allclose(y[1], x[1].mean(axis=0))
    check(lambda x: forward(x, mask), backward, [x])


# %%
# Sources
# -------
#
# * A. Arnab et al., *ViViT: A Video Vision Transformer*, 2021, arXiv:2103.15691: section 3, frames
#   one by one or boxes of several frames, `scratch_vlm.models.video.tubelet_embedding_forward`.
# * J.-B. Alayrac et al., *Flamingo*, 2022, arXiv:2204.14198: section 2.1, frames encoded one by one
#   at 1 frame a second, with learned vectors for their time.
# * C. Shannon, *Communication in the Presence of Noise*, 1949: theorem 1, how often one must look.
