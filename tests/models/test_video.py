"""Frames through an image encoder, and boxes of frames: equal to images, one by one."""

import tracemalloc
from dataclasses import replace
from fractions import Fraction
from functools import partial

import numpy as np
import pytest

from scratch_vlm.cases import random_parameters
from scratch_vlm.layers.block import BlockConfig
from scratch_vlm.models.clip import encode_images_backward, encode_images_forward
from scratch_vlm.models.video import (
    EMBEDDING,
    PATCHES,
    encode_frames_backward,
    encode_frames_forward,
    encode_stream,
    inflate_patch_embedding,
    patch_features_forward,
    tubelet_embedding_forward,
    tubelet_embedding_init,
)
from scratch_vlm.models.vit import ViTConfig, vit_features_forward, vit_init
from scratch_vlm.ops.frames import Video, batch_videos
from scratch_vlm.ops.patches import patchify_forward
from scratch_vlm.recompute import chunked
from scratch_vlm.tree import FROZEN, leaves, zeros_like

CONFIG = ViTConfig((6, 8, 3), (2, 4), 5, BlockConfig(8, 2, 12), 2)
CLIP_IMAGE = (encode_images_forward, encode_images_backward)
ENCODERS = pytest.mark.parametrize("encoder", [PATCHES, EMBEDDING, CLIP_IMAGE])
CHUNKS = partial(chunked, size=3, recompute=True)


def make(config=CONFIG, shape=(2, 4)):
    rng = np.random.default_rng(0)
    p = random_parameters(rng, vit_init(rng, config))
    return p, rng.standard_normal((*shape, *config.image))


def gradients(frames, p, dy=None, **options):
    y, saved = encode_frames_forward(frames, p, config=CONFIG, **options)
    dy = np.random.default_rng(1).standard_normal(y.shape) if dy is None else dy
    g = zeros_like(p)
    return y, dy, encode_frames_backward(dy, saved, g), g


def assert_same_trees(a, b):
    for (name, x), (_, y) in zip(leaves(a), leaves(b), strict=True):
        np.testing.assert_allclose(x, y, atol=1e-11, err_msg=name)


def test_shapes():
    p, frames = make()
    assert encode_frames_forward(frames, p, config=CONFIG)[0].shape == (2, 4, 6, 8)
    assert encode_frames_forward(frames, p, config=CONFIG, encoder=EMBEDDING)[0].shape == (2, 4, 5)


@ENCODERS
def test_a_frame_is_encoded_as_the_image_that_it_is(encoder):
    p, frames = make()
    y, _ = encode_frames_forward(frames, p, config=CONFIG, encoder=encoder)
    for b, f in np.ndindex(2, 4):
        alone, _ = encoder[0](frames[b, f][None], p, config=CONFIG)
        np.testing.assert_allclose(y[b, f], alone[0], atol=1e-12)


@ENCODERS
def test_the_order_of_the_frames_only_orders_the_result(encoder):
    p, frames = make()
    order = [2, 0, 3, 1]
    y, _ = encode_frames_forward(frames, p, config=CONFIG, encoder=encoder)
    again, _ = encode_frames_forward(frames[:, order], p, config=CONFIG, encoder=encoder)
    np.testing.assert_allclose(again, y[:, order], atol=1e-12)


@pytest.mark.parametrize("pool", ["cls", "mean"])
def test_patch_features_are_all_tokens_but_cls(pool):
    config = replace(CONFIG, pool=pool)
    p, frames = make(config)
    x, _ = patch_features_forward(frames[0], p, config=config)
    tokens, _ = vit_features_forward(frames[0], p, config=config)
    assert x.shape == (4, 6, 8)
    assert np.array_equal(x, tokens[:, -6:])


@ENCODERS
def test_chunks_of_frames_give_the_same_result_and_gradients(encoder):
    p, frames = make(shape=(2, 5))
    mask = np.arange(5) < np.array([[5], [2]])
    for options in ({}, {"mask": mask}):
        y, dy, dframes, g = gradients(frames, p, encoder=encoder, **options)
        again, _, dagain, g_again = gradients(
            frames, p, dy, encoder=encoder, wrap=CHUNKS, **options
        )
        np.testing.assert_allclose(again, y, atol=1e-12)
        np.testing.assert_allclose(dagain, dframes, atol=1e-12)
        assert_same_trees(g_again, g)


@ENCODERS
def test_videos_of_different_lengths_equal_each_alone(encoder):
    p, frames = make(shape=(3, 4))
    lengths = (4, 1, 3)
    videos = [Video(frames[i, :n], 24) for i, n in enumerate(lengths)]
    batch = batch_videos(videos, length=6)
    y, dy, dframes, g = gradients(batch.frames, p, encoder=encoder, mask=batch.mask)
    alone = zeros_like(p)
    for i, n in enumerate(lengths):
        one, saved = encode_frames_forward(
            videos[i].frames[None], p, config=CONFIG, encoder=encoder
        )
        np.testing.assert_allclose(y[i, :n], one[0], atol=1e-12)
        done = encode_frames_backward(dy[i : i + 1, :n], saved, alone)
        np.testing.assert_allclose(dframes[i, :n], done[0], atol=1e-12)
    assert_same_trees(g, alone)
    assert not y[~batch.mask].any() and not dframes[~batch.mask].any()


def test_what_is_in_the_padding_reaches_nothing():
    p, frames = make()
    mask = np.array([[True, True, True, False], [True, False, False, False]])
    y, dy, dframes, g = gradients(frames, p, mask=mask)
    frames[~mask] = np.nan
    dirty = dy.copy()
    dirty[~mask] = np.nan
    again, _, dagain, g_again = gradients(frames, p, dirty, mask=mask)
    assert np.array_equal(again, y) and np.array_equal(dagain, dframes)
    for (_, a), (_, b) in zip(leaves(g), leaves(g_again), strict=True):
        assert np.array_equal(a, b)


@ENCODERS
@pytest.mark.parametrize("wrap", [{}, {"wrap": CHUNKS}])
def test_videos_without_a_real_frame_give_zeros(encoder, wrap):
    p, frames = make()
    y, _, dframes, g = gradients(frames, p, encoder=encoder, mask=np.zeros((2, 4), bool), **wrap)
    assert y.shape[:2] == (2, 4) and not y.any()
    assert dframes.shape == frames.shape and not dframes.any()
    assert not any(x.any() for _, x in leaves(g))


@ENCODERS
def test_a_batch_of_no_videos_gives_none(encoder):
    p, frames = make()
    y, _, dframes, _ = gradients(frames[:0], p, encoder=encoder)
    assert y.shape[:2] == (0, 4) and dframes.shape == (0, *frames.shape[1:])


def test_a_frozen_encoder_still_passes_the_gradient_on():
    p, frames = make()
    _, dy, dframes, _ = gradients(frames, p)
    _, saved = encode_frames_forward(frames, p, config=CONFIG)
    assert np.array_equal(encode_frames_backward(dy, saved, FROZEN), dframes)


def test_memory_for_activations_does_not_grow_with_the_video():
    p, _ = make()

    def held(count, **options):
        frames = np.zeros((1, count, *CONFIG.image))
        tracemalloc.start()
        y, saved = encode_frames_forward(frames, p, config=CONFIG, **options)
        encode_frames_backward(y, saved, zeros_like(p))
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        # What comes in and goes out grows of course: y three times while it is put together.
        return peak - 3 * y.nbytes - 3 * frames.nbytes

    chunks = partial(chunked, size=8, recompute=True)
    assert held(256, wrap=chunks) < 1.5 * held(64, wrap=chunks)
    assert held(256) > 3 * held(64)


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((2, 0, 6, 8, 3), "videos without frames"),
        ((4, 6, 8, 3), r"add the batch axis with frames\[None\]"),
        ((6, 8, 3), "this looks like an image"),
        ((2, 4, 6, 8, 1), "with 3 channels"),
        ((2, 4, 7, 8, 3), "height 7 px is not a multiple"),
    ],
)
def test_what_are_no_videos_is_refused(shape, message):
    p, _ = make()
    with pytest.raises(ValueError, match=message):
        encode_frames_forward(np.zeros(shape), p, config=CONFIG)


def test_a_mask_that_does_not_fit_is_refused():
    p, frames = make()
    with pytest.raises(ValueError, match=r"mask \(2, 3\) does not fit frames of \(2, 4\)"):
        encode_frames_forward(frames, p, config=CONFIG, mask=np.ones((2, 3), bool))
    for mask in (np.ones((2, 4)), [[True] * 4] * 2):
        with pytest.raises(TypeError, match="mask must be a boolean array of NumPy"):
            encode_frames_forward(frames, p, config=CONFIG, mask=mask)


@ENCODERS
def test_a_stream_is_encoded_like_the_whole_video(encoder):
    p, frames = make(shape=(1, 7))
    whole, _ = encode_frames_forward(frames, p, config=CONFIG, encoder=encoder)
    taken = []

    def stream():
        for i, frame in enumerate(frames[0]):
            taken.append(i)
            yield frame, Fraction(i, 24)

    encoded = encode_stream(stream(), p, config=CONFIG, encoder=encoder, size=3)
    first, time = next(encoded)
    assert time == 0 and taken == [0, 1, 2]
    rest, times = zip(*encoded, strict=True)
    np.testing.assert_allclose([first, *rest], whole[0], atol=1e-12)
    assert times == tuple(Fraction(i, 24) for i in range(1, 7))
    assert list(encode_stream([], p, config=CONFIG)) == []


def test_a_stream_in_pieces_of_nothing_is_refused():
    p, _ = make()
    with pytest.raises(ValueError, match="size must be a positive whole number"):
        next(encode_stream([], p, config=CONFIG, size=0))


def test_a_tubelet_of_one_frame_is_the_patch_embedding():
    p, frames = make()
    patches, _ = patchify_forward(frames[0], patch=CONFIG.patch)
    tokens, _ = tubelet_embedding_forward(frames[:1], p["patch"], tubelet=(1, *CONFIG.patch))
    np.testing.assert_allclose(tokens[0], patches @ p["patch"]["w"] + p["patch"]["b"], atol=1e-12)


@pytest.mark.parametrize("frames", [1, 2, 3])
def test_inflated_patch_embeddings_see_a_still_video_as_the_image(frames):
    p, videos = make()
    still = np.repeat(videos[:, :1], frames, axis=1)
    image, _ = tubelet_embedding_forward(videos[:, :1], p["patch"], tubelet=(1, 2, 4))
    for how in ("central", "average"):
        inflated = inflate_patch_embedding(p["patch"], frames, how=how)
        tokens, _ = tubelet_embedding_forward(still, inflated, tubelet=(frames, 2, 4))
        np.testing.assert_allclose(tokens, image, atol=1e-12)
        assert not np.shares_memory(inflated["b"], p["patch"]["b"])


def test_inflation_looks_at_the_middle_or_the_mean():
    p, videos = make()
    box = videos[:, :3]
    middle, _ = tubelet_embedding_forward(box[:, 1:2], p["patch"], tubelet=(1, 2, 4))
    mean, _ = tubelet_embedding_forward(box.mean(1, keepdims=True), p["patch"], tubelet=(1, 2, 4))
    for how, expected in (("central", middle), ("average", mean)):
        inflated = inflate_patch_embedding(p["patch"], 3, how=how)
        tokens, _ = tubelet_embedding_forward(box, inflated, tubelet=(3, 2, 4))
        np.testing.assert_allclose(tokens, expected, atol=1e-12)


def test_inflation_keeps_float32_and_refuses_what_it_does_not_know():
    p = tubelet_embedding_init(np.random.default_rng(0), (1, 2, 4), 3, 8, bias=False)
    for how in ("central", "average"):
        inflated = inflate_patch_embedding(p, 2, how=how)
        assert set(inflated) == {"w"} and inflated["w"].dtype == np.float32
    with pytest.raises(ValueError, match="'central' or 'average', got 'first'"):
        inflate_patch_embedding(p, 2, how="first")
    with pytest.raises(ValueError, match="frames must be a positive whole number"):
        inflate_patch_embedding(p, 0)


@pytest.mark.parametrize(
    ("tubelet", "channels"), [((2, 2), 3), (2, 3), ((0, 2, 2), 3), ((2, 2, 2), 0)]
)
def test_a_tubelet_that_cannot_be_is_refused(tubelet, channels):
    with pytest.raises(ValueError, match=r"tubelet must be|must be a positive whole number"):
        tubelet_embedding_init(np.random.default_rng(0), tubelet, channels, 8)
