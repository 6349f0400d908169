r"""
9. Video
========

**What does time add?**

A video is a pile of images, and an image encoder we have. So the encoder reads the frames one by
one, as many as we choose to show it. Two things go wrong if that is all: frames chosen too far
apart show a motion that never was, and what is computed from a pile does not know its order.
"""

# %%
# An axis more
# ------------
# One frame has height, width and channels; a video adds an axis of frames F, a mini-batch an axis B
# in front. The order of axes is a habit of libraries. NumPy and files keep the channels of a pixel
# side by side, (B, F, H, W, C), and so do we; PyTorch's image models want each channel as a picture
# of its own, (B, F, C, H, W), its 3-D convolutions (B, C, F, H, W). The numbers are the same, and
# NumPy goes from one to the other without moving any (lesson 1: a view).
from fractions import Fraction
from functools import partial

import numpy as np

from scratch_vlm.data.clips import Clip, draw_clips, render_clips
from scratch_vlm.data.digits import split
from scratch_vlm.data.scenes import DigitPool, Item
from scratch_vlm.layers.block import BlockConfig, tower_forward, tower_init
from scratch_vlm.models.video import EMBEDDING, encode_frames_backward, encode_frames_forward
from scratch_vlm.models.vit import ViTConfig, vit_backward, vit_forward, vit_init
from scratch_vlm.ops.frames import Video, batch_videos, cut_clips, frame_rate, subsample
from scratch_vlm.tree import leaves, tree_map, zeros_like
from scratch_vlm.viz.vlm_figures import film_strip

batch = np.zeros((2, 8, 24, 32, 3), "float32")  # (B, F, H, W, C)
channels_first = batch.transpose(0, 4, 1, 2, 3)
assert channels_first.shape == (2, 3, 8, 24, 32) and np.shares_memory(batch, channels_first)

# %%
# What time adds above all is *much*. Ten seconds of film, 24 frames a second, each read by the
# ViT-B/16 of lesson 5:
frames = 10 * 24
print(f"{frames} frames of 224 × 224 × 3 float32: {frames * 224 * 224 * 3 * 4 / 1e6:.0f} MB")
print(f"{frames} frames of 196 patches: {frames * 196:,} tokens")

# %%
# Every eighth frame
# ------------------
# Neighbouring frames are nearly the same, so a model is shown few. A *frame rate* says how many
# there are in a second; frame i appears at second i / rate. Of 24 frames a second, every eighth
# leaves 3, a third of a second apart. Times are fractions: cinema on American television runs at
# 24000/1001 frames a second, and a rounded 23.976 drifts.
digits = DigitPool(split("train"))
clip = Clip((Item(0, 7), Item(2, 3)), ("left", "right"))  # red seven to the left, blue three back
frames, cells = render_clips(np.random.default_rng(2), [clip], digits, 48, speeds=(2, 2))
film = Video(frames[0], 24)  # two seconds, two pixels a frame
few = subsample(film, 8)
assert (len(film), len(few), few.rate) == (48, 6, 3)
assert few.times == (0, Fraction(1, 3), Fraction(2, 3), 1, Fraction(4, 3), Fraction(5, 3))
assert (few.frames == film.frames[::8]).all() and frame_rate(23.976) == Fraction(24000, 1001)

# %%
# Look at what became of the motion. The red seven moves left by two pixels a frame and comes in
# again at the right when it leaves, 24 pixels being the width of the image. In eight frames it has
# gone 16 to the left, which on this circle is the same place as 8 to the *right*:
row = 8 * cells[0, 0, 0, 0]
lane = few.frames[:, row : row + 8]  # the rows that the seven moves in
for before, after in zip(lane[:-1], lane[1:], strict=True):
    assert (after == np.roll(before, 8, axis=1)).all()

strips = [film.frames[:9], few.frames]
marks = [
    "24 frames a second: the seven moves left, the three right",
    "every eighth frame: the seven seems to move right, the three left",
]
figure = film_strip(strips, "What eyes that open too seldom see", marks)

# %%
# That is *aliasing*, the wagon wheel of old films that turns backwards. A motion that repeats is
# seen rightly only if it advances by less than half a period from one frame to the next, here
# 12 pixels (the sampling theorem). A model cannot undo it: the true frames that would tell are not
# among those it was given. At one pixel a frame the same choice is harmless.
slow = render_clips(np.random.default_rng(2), [clip], digits, 48, speeds=(1, 1))[0][0]
lane = subsample(Video(slow, 24), 8).frames[:, row : row + 8]
assert (lane[1] == np.roll(lane[0], -8, axis=1)).all()

# %%
# Clips of one length
# -------------------
# A mini-batch is one array, so its clips must be equally long. Cut a long film into clips, or fill
# short ones up with black and say in a mask which frames are real.
clips = cut_clips(film, 16)
assert clips.frames.shape == (3, 16, 24, 24, 3) and clips.mask.all()
assert (clips.seconds[1] == np.arange(16, 32) / 24).all()  # a clip remembers when it was

short = batch_videos([Video(film.frames[:2], 24), Video(film.frames[:3], 24)])
print(short.mask.astype(int))
assert short.mask.tolist() == [[True, True, False], [True, True, True]]

# %%
# Frame by frame
# --------------
# Take an encoder that multiplies by one weight, w = 2, and show it three frames of one pixel: 1, 2
# and 5. It says 2, 4 and 10. If the loss is their sum, then a step of w moves the three by 1, 2 and
# 5 together, so dL/dw = 8. It is one weight used three times, and gradients of uses *add*:
#
# .. math:: y_f = \mathrm{encode}(x_f, p), \qquad
#           \frac{\partial L}{\partial p} = \sum_f \left(\frac{\partial y_f}{\partial p}\right)^\top
#           \frac{\partial L}{\partial y_f}
#
# This is why a backward in this library never writes ``g = ...`` but ``g += ...``.


def each_frame_forward(frames, p, encode):
    ys, saved = zip(*(encode(frames[:, f], p) for f in range(frames.shape[1])), strict=True)
    return np.stack(ys, axis=1), saved  # (B, F, E)


def each_frame_backward(dy, saved, g, encode_backward):
    dframes = [encode_backward(dy[:, f], s, g) for f, s in enumerate(saved)]
    return np.stack(dframes, axis=1)


g = {"w": 0.0}


def scale_forward(x, p):
    return p["w"] * x, x


def scale_backward(dy, x, g):
    g["w"] += (dy * x).sum()
    return 2.0 * dy


y, saved = each_frame_forward(np.array([[1.0, 2.0, 5.0]]), {"w": 2.0}, scale_forward)
each_frame_backward(np.ones((1, 3)), saved, g, scale_backward)
assert y.tolist() == [[2, 4, 10]] and g["w"] == 8

# %%
# The library does not loop. An encoder treats the images of a batch alike anyway, so it *folds* the
# axis of frames into the batch, (B, F, H, W, C) to (B F, H, W, C), encodes one large batch and
# deals the results back. Same numbers, larger matrix products.
rng = np.random.default_rng(0)
config = ViTConfig((24, 24, 3), (8, 8), 16, BlockConfig(32, 4, 64), depth=2)
p = tree_map(lambda x: x.astype(float), vit_init(rng, config))
frames, _ = render_clips(rng, [clip, clip.reversed()], digits, 4)  # (2, 4, 24, 24, 3)

y, saved = each_frame_forward(frames, p, partial(vit_forward, config=config))
z, s = encode_frames_forward(frames, p, config=config, encoder=EMBEDDING)  # (2, 4, 16)
assert np.allclose(y, z)

dy, g_each, g_fold = rng.normal(size=y.shape), zeros_like(p), zeros_like(p)
dframes = each_frame_backward(dy, saved, g_each, vit_backward)
assert np.allclose(dframes, encode_frames_backward(dy, s, g_fold))
for (name, a), (_, b) in zip(leaves(g_each), leaves(g_fold), strict=True):
    assert np.allclose(a, b), name

# %%
# Frames that the mask calls padding are not encoded at all: they cost nothing, and what they would
# have said is zero.
z, _ = encode_frames_forward(short.frames, p, config=config, encoder=EMBEDDING, mask=short.mask)
assert z.shape == (2, 3, 16) and (z[0, 2] == 0).all() and (z[1, 2] != 0).any()

# %%
# Which way does it move?
# -----------------------
# Somebody has to make one answer of F embeddings. The mean comes to mind, and it works for "what is
# to be seen". But play a clip backwards: the same frames, the same mean, and the opposite answer.
# No classifier that reads the mean can be right about both.
source = draw_clips(rng)
clips = [next(source) for _ in range(4)]
forwards, _ = render_clips(rng, clips, digits, 6)
backwards = forwards[:, ::-1]
assert all(clip.moves != clip.reversed().moves for clip in clips)


def embed(frames):
    return encode_frames_forward(frames, p, config=config, encoder=EMBEDDING)[0]  # (B, F, E)


assert np.allclose(embed(forwards).mean(1), embed(backwards).mean(1))

# %%
# A transformer over the frames is no help by itself: attention does not look at the order of what
# it reads (lesson 2). The cure is that of lesson 5. Patches got a vector for their place; frames
# get one for their time.
block = BlockConfig(16, 2, 32)
tower = tree_map(lambda x: x.astype(float), tower_init(rng, block, depth=1))
times = rng.normal(size=(6, 16))


def read(frames, times):
    return tower_forward(embed(frames) + times, tower, config=block)[0].mean(1)  # (B, E)


assert np.allclose(read(forwards, 0 * times), read(backwards, 0 * times))
assert not np.allclose(read(forwards, times), read(backwards, times))
