"""Videos as arrays: exact times, what is kept of them, clips, batches and boxes."""

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import signal

from scratch_vlm.ops.frames import (
    Video,
    batch_videos,
    cut_clips,
    fold_frames_backward,
    fold_frames_forward,
    frame_rate,
    resample,
    sample_stream,
    subsample,
    tubelet_mask,
    tubelets_backward,
    tubelets_forward,
    unfold_frames_forward,
)

seeds, few = st.integers(0, 2**32 - 1), st.integers(1, 4)
rates = st.fractions(min_value=Fraction(1, 2), max_value=60, max_denominator=1001)


def numbered(frames, rate=24):
    """Make a video whose pixels tell the number of their frame."""
    pixels = np.arange(frames, dtype=np.float32)[:, None, None, None]
    return Video(np.broadcast_to(pixels, (frames, 2, 3, 1)).copy(), rate)


def numbers(frames):
    return frames[..., 0, 0, 0].astype(int).tolist()


@pytest.mark.parametrize(
    ("fps", "exact"),
    [
        (24, Fraction(24)),
        (np.int64(30), Fraction(30)),
        (25.0, Fraction(25)),
        (12.5, Fraction(25, 2)),
        (1 / 3, Fraction(1, 3)),
        (23.976, Fraction(24000, 1001)),
        (23.98, Fraction(24000, 1001)),
        (29.97, Fraction(30000, 1001)),
        (np.float32(59.94), Fraction(60000, 1001)),
        (Fraction(24000, 1001), Fraction(24000, 1001)),
        (1e-9, Fraction(1e-9)),
    ],
)
def test_frame_rates_are_exact(fps, exact):
    rate = frame_rate(fps)
    assert rate == exact and type(rate.numerator) is int


@pytest.mark.parametrize("fps", [0, -1, 0.0, float("inf"), float("nan")])
def test_a_rate_that_is_not_positive_and_finite_is_refused(fps):
    with pytest.raises(ValueError, match="must be positive and finite"):
        Video(np.zeros((2, 2, 2, 1)), fps)


@pytest.mark.parametrize("fps", ["24", None, True, 1j])
def test_a_rate_that_is_no_number_is_refused(fps):
    with pytest.raises(TypeError, match="number of frames per second"):
        frame_rate(fps)


def test_times_do_not_drift():
    video = Video(np.zeros((100_000, 1, 1, 1), np.uint8), 23.976)
    assert video.times[-1] == Fraction(99_999 * 1001, 24_000)
    assert video.seconds[-1] == 99_999 * 1001 / 24_000
    drifted = np.cumsum(np.full(100_000, 1001 / 24_000))[-2]
    assert drifted != video.seconds[-1]
    assert video.duration == Fraction(100_000 * 1001, 24_000)


def test_one_frame_is_a_video():
    video = numbered(1, 25)
    assert len(video) == 1 and video.times == (0,) and video.duration == Fraction(1, 25)
    assert numbers(resample(video, 3).frames) == [0]
    assert numbers(subsample(video, 8).frames) == [0]
    assert cut_clips(video, 1).mask.tolist() == [[True]]


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((0, 4, 4, 3), "an empty video: no frames"),
        ((4, 4, 3), r"looks like an image \(H, W, C\): write image\[None\]"),
        ((4, 4), r"a video is \(F, H, W, C\), got \(4, 4\)$"),
        ((2, 5, 4, 4, 3), "five axes are a batch of videos"),
        ((5, 0, 4, 3), "need pixels and channels"),
        ((5, 4, 4, 0), "need pixels and channels"),
    ],
)
def test_what_is_no_video_is_refused(shape, message):
    with pytest.raises(ValueError, match=message):
        Video(np.zeros(shape), 24)


def test_frames_in_a_list_are_refused():
    with pytest.raises(TypeError):
        Video([np.zeros((4, 4, 3))], 24)


def test_times_must_fit_the_frames_and_not_go_back():
    frames = np.zeros((3, 2, 2, 1))
    assert Video(frames, 2, (0, 0.25, 4)).times == (0, Fraction(1, 4), 4)
    with pytest.raises(ValueError, match="3 frames need as many times, got 2"):
        Video(frames, 2, (0, 1))
    with pytest.raises(ValueError, match="must not go back"):
        Video(frames, 2, (0, 2, 1))


def test_every_eighth_frame_of_24_fps_is_3_fps():
    video = numbered(72)
    by_stride, by_rate = subsample(video, 8), resample(video, 3)
    for kept in (by_stride, by_rate):
        assert kept.rate == 3 and numbers(kept.frames) == list(range(0, 72, 8))
        assert kept.times == tuple(Fraction(i, 3) for i in range(9))
    assert np.shares_memory(by_stride.frames, video.frames)


@given(st.integers(1, 40), rates, st.integers(1, 9))
def test_resampling_by_a_whole_factor_is_subsampling(frames, rate, stride):
    video = numbered(frames, rate)
    kept, expected = resample(video, rate / stride), subsample(video, stride)
    assert np.array_equal(kept.frames, expected.frames) and kept.times == expected.times


@given(st.integers(1, 40), rates, st.fractions(min_value=Fraction(1, 100), max_value=1))
def test_resampling_keeps_the_frame_on_the_screen_at_each_time(frames, rate, part):
    video, fps = numbered(frames, rate), rate * part
    kept = resample(video, fps)
    assert kept.rate == fps
    shown = [int(k / fps * rate) for k in range(len(kept))]  # int rounds down
    assert numbers(kept.frames) == shown
    assert kept.times == tuple(i / rate for i in shown)
    # It covers the video, and not more.
    assert (len(kept) - 1) / fps < video.duration <= len(kept) / fps


def test_uneven_times_show_the_long_frame_more_than_once():
    video = Video(numbered(3).frames, 1, (5, 5.25, 8))
    kept = resample(video, 1)
    assert numbers(kept.frames) == [0, 1, 1, 2]
    assert kept.times == (5, Fraction(21, 4), Fraction(21, 4), 8)


def test_a_rate_above_the_videos_is_refused_before_anything_is_read():
    with pytest.raises(ValueError, match=r"cannot keep 24 .* that has 23.976"):
        resample(numbered(5, 23.976), 24)
    with pytest.raises(ValueError, match=r"cannot keep 30 .* that has 24"):
        sample_stream(None, rate=24, fps=30)


def test_a_stream_is_read_one_frame_ahead_at_most():
    read = []

    def stream():
        for i in range(10**9):
            read.append(i)
            yield i, Fraction(i, 24)

    kept = sample_stream(stream(), rate=24, fps=3)
    assert [next(kept)[0] for _ in range(4)] == [0, 8, 16, 24]
    assert read[-1] == 25


def test_an_empty_stream_stays_empty():
    assert list(sample_stream(iter(()), rate=24, fps=3)) == []


@pytest.mark.parametrize("stride", [0, -1, 1.5, True])
def test_a_stride_that_does_not_count_is_refused(stride):
    with pytest.raises(ValueError, match="stride must be a positive whole number"):
        subsample(numbered(3), stride)


@pytest.mark.parametrize("use", [lambda x: subsample(x, 1), lambda x: resample(x, 1)])
def test_an_array_is_no_video(use):
    with pytest.raises(TypeError, match=r"write Video\(frames, rate\)"):
        use(np.zeros((4, 4, 3)))


def test_clips_of_64_frames():
    clips = cut_clips(numbered(130), 64)
    assert numbers(clips.frames) == [list(range(64)), list(range(64, 128))]
    assert clips.mask.all() and clips.mask.shape == (2, 64)
    assert clips.seconds[1, 0] == 64 / 24


def test_clips_with_stride_overlap_and_padding():
    clips = cut_clips(numbered(10), 3, stride=2, overlap=1, padding="zero")
    assert numbers(clips.frames) == [[0, 2, 4], [4, 6, 8]]
    clips = cut_clips(numbered(11), 3, stride=2, overlap=1, padding="zero")
    assert numbers(clips.frames) == [[0, 2, 4], [4, 6, 8], [8, 10, 0]]
    assert clips.mask.tolist() == [[True] * 3, [True] * 3, [True, True, False]]
    assert clips.seconds[2].tolist() == [8 / 24, 10 / 24, 0]
    again = cut_clips(numbered(11), 3, stride=2, overlap=1, padding="last")
    assert numbers(again.frames)[2] == [8, 10, 10] and np.array_equal(again.mask, clips.mask)
    dropped = cut_clips(numbered(11), 3, stride=2, overlap=1)
    assert numbers(dropped.frames) == [[0, 2, 4], [4, 6, 8]]


@given(st.integers(1, 30), st.integers(1, 9), st.integers(1, 4), st.data())
def test_padded_clips_hold_every_frame_and_whole_clips_are_a_prefix(frames, length, stride, data):
    overlap = data.draw(st.integers(0, length - 1))
    video = numbered(frames)
    clips = cut_clips(video, length, stride=stride, overlap=overlap, padding="zero")
    assert clips.frames.shape == (len(clips), length, 2, 3, 1)
    assert clips.frames.dtype == np.float32
    assert not clips.frames[~clips.mask].any()
    kept = clips.frames[clips.mask][:, 0, 0, 0].astype(int)
    assert set(kept) == set(range(0, frames, stride))
    np.testing.assert_array_equal(clips.seconds[clips.mask], kept / 24)
    assert clips.mask[:-1].all()  # only the last clip is filled up
    if clips.mask[0].all():
        whole = cut_clips(video, length, stride=stride, overlap=overlap)
        assert len(clips) - len(whole) in (0, 1)
        assert np.array_equal(whole.frames, clips.frames[: len(whole)]) and whole.mask.all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"length": 64}, "a clip is 64 frames and the video has 30; choose a shorter clip, or pad"),
        ({"length": 16, "stride": 2}, "16 frames and the video has 15 at a stride of 2"),
        ({"length": 0}, "length must be a positive whole number, got 0"),
        ({"length": 4, "overlap": 4}, "overlap must be 0 to 3 frames for clips of 4, got 4"),
        ({"length": 4, "overlap": -1}, "overlap must be 0 to 3"),
        ({"length": 4, "padding": "edge"}, "padding must be None, 'zero' or 'last', got 'edge'"),
    ],
)
def test_clips_that_cannot_be_cut_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        cut_clips(numbered(30), **options)


@given(st.lists(st.integers(1, 9), min_size=1, max_size=4), st.integers(0, 3))
def test_a_batch_gives_every_video_back(lengths, more):
    videos = [numbered(frames, 10 + frames) for frames in lengths]
    batch = batch_videos(videos, length=max(lengths) + more)
    assert batch.lengths.tolist() == lengths and len(batch) == len(lengths)
    assert batch.frames.dtype == np.float32
    for i, video in enumerate(videos):
        assert np.array_equal(batch.frames[i, batch.mask[i]], video.frames)
        assert np.array_equal(batch.seconds[i, batch.mask[i]], video.seconds)
    assert not batch.frames[~batch.mask].any() and not batch.seconds[~batch.mask].any()


def test_videos_that_make_no_batch_are_refused():
    video = numbered(3)
    with pytest.raises(ValueError, match="no videos"):
        batch_videos([])
    with pytest.raises(TypeError, match=r"write Video\(frames, rate\)"):
        batch_videos([video.frames])
    with pytest.raises(ValueError, match=r"one size.*resize or crop"):
        batch_videos([video, Video(np.zeros((3, 2, 4, 1), np.float32), 24)])
    with pytest.raises(TypeError, match=r"one dtype, got .'float32', 'float64'"):
        batch_videos([video, Video(np.zeros((3, 2, 3, 1)), 24)])
    with pytest.raises(ValueError, match="3 frames does not fit into rows of 2"):
        batch_videos([video], length=2)


@given(seeds, few, few)
def test_unfolding_inverts_folding(seed, b, f):
    frames = np.random.default_rng(seed).standard_normal((b, f, 2, 3, 1))
    images, saved = fold_frames_forward(frames)
    assert images.shape == (b * f, 2, 3, 1) and np.shares_memory(images, frames)
    assert np.array_equal(images[f * (b - 1)], frames[b - 1, 0])
    assert np.array_equal(unfold_frames_forward(images, frames=f)[0], frames)
    assert np.array_equal(fold_frames_backward(images, saved), frames)


def test_a_batch_of_no_videos_folds_to_no_images():
    images, saved = fold_frames_forward(np.zeros((0, 4, 2, 3, 1)))
    assert images.shape == (0, 2, 3, 1)
    assert unfold_frames_forward(images, frames=4)[0].shape == saved


def test_what_does_not_fold_is_refused():
    with pytest.raises(ValueError, match=r"\(B, F, ...\), got \(4,\)"):
        fold_frames_forward(np.zeros(4))
    with pytest.raises(ValueError, match="7 entries do not divide into videos of 3 frames"):
        unfold_frames_forward(np.zeros((7, 2)), frames=3)
    with pytest.raises(ValueError, match="frames must be a positive whole number"):
        unfold_frames_forward(np.zeros((7, 2)), frames=0)


@given(seeds, few, few, few, few, few, few)
def test_a_linear_layer_on_tubelets_is_a_strided_convolution(seed, g, rows, columns, t, h, w):
    rng = np.random.default_rng(seed)
    frames = rng.standard_normal((2, g * t, rows * h, columns * w, 2))
    kernels = rng.standard_normal((t, h, w, 2, 3))
    boxes, _ = tubelets_forward(frames, tubelet=(t, h, w))
    tokens = boxes @ kernels.reshape(-1, 3)
    for b, m in np.ndindex(2, 3):
        # The convolution of deep learning is a correlation; all channels add up.
        slid = sum(
            signal.correlate(frames[b, ..., c], kernels[..., c, m], mode="valid", method="direct")
            for c in range(2)
        )
        np.testing.assert_allclose(
            tokens[b, ..., m].reshape(g, rows, columns), slid[::t, ::h, ::w], atol=1e-12
        )


@given(seeds, few, few, few)
def test_the_backward_of_tubelets_is_their_inverse(seed, t, h, w):
    frames = np.random.default_rng(seed).standard_normal((2, 3 * t, 2 * h, w, 2))
    assert np.array_equal(tubelets_backward(*tubelets_forward(frames, tubelet=(t, h, w))), frames)


@pytest.mark.parametrize(
    ("shape", "tubelet", "message"),
    [
        ((1, 5, 4, 4, 3), (2, 2, 2), "5 frames do not divide into boxes of 2; 4 or 6"),
        ((1, 1, 4, 4, 3), (2, 2, 2), "1 frames do not divide into boxes of 2; 2 or 4"),
        ((1, 0, 4, 4, 3), (2, 2, 2), "0 frames do not divide"),
        ((1, 4, 5, 4, 3), (2, 2, 2), "height 5 px is not a multiple"),
        ((4, 4, 4, 3), (2, 2, 2), r"add the batch axis with frames\[None\]"),
        ((4, 4, 3), (2, 2, 2), r"must be \(B, F, H, W, C\), got \(4, 4, 3\)$"),
        ((1, 4, 4, 4, 3), (2, 2), r"tubelet must be \(frames, height, width\), got \(2, 2\)"),
        ((1, 4, 4, 4, 3), (0, 2, 2), "tubelet must be"),
        ((1, 4, 4, 4, 3), 2, "tubelet must be"),
    ],
)
def test_videos_that_do_not_divide_into_boxes_are_refused(shape, tubelet, message):
    with pytest.raises(ValueError, match=message):
        tubelets_forward(np.zeros(shape), tubelet=tubelet)


def test_a_group_is_real_if_any_of_its_frames_is():
    mask = batch_videos([numbered(3), numbered(4), numbered(1)], length=6).mask
    assert tubelet_mask(mask, 2).astype(int).tolist() == [[1, 1, 0], [1, 1, 0], [1, 0, 0]]
    with pytest.raises(ValueError, match="groups of 4 frames"):
        tubelet_mask(mask, 4)
