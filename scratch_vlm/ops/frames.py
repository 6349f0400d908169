"""Videos: frames with a rate, which of them a model sees, and how they travel in a batch."""

import math
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise
from numbers import Integral, Rational, Real

import numpy as np

from scratch_vlm.backend import namespace
from scratch_vlm.ops.patches import patch_grid

# The rates of NTSC television, which are written as 23.976 (or 23.98), 29.97, 59.94, ...
NTSC = tuple(Fraction(1000 * n, 1001) for n in (24, 30, 48, 60, 120))


@dataclass(frozen=True, eq=False)
class Video:
    """Frames, and when each of them appears.

    Attributes
    ----------
    frames : array of shape (F, H, W, C)
        At least one.
    rate : Fraction
        Frames per second; any number is turned into a fraction by `frame_rate`.
    times : tuple of Fraction
        Seconds at which each frame appears, in order. By default those of an even rate, i / rate
        for frame i: exact, where adding up 1 / rate would drift.

    Examples
    --------
    >>> video = Video(np.zeros((48, 4, 6, 3)), 24)
    >>> video.times[47], video.duration
    (Fraction(47, 24), Fraction(2, 1))
    """

    frames: np.ndarray
    rate: Fraction
    times: tuple[Fraction, ...] | None = None

    def __post_init__(self):
        _check_frames(self.frames)
        rate = frame_rate(self.rate)
        if self.times is None:
            times = tuple(i / rate for i in range(len(self.frames)))
        else:
            times = tuple(map(Fraction, self.times))
        if len(times) != len(self.frames):
            raise ValueError(f"{len(self.frames)} frames need as many times, got {len(times)}")
        if any(later < earlier for earlier, later in pairwise(times)):
            raise ValueError("times must not go back: sort the frames by their time")
        object.__setattr__(self, "rate", rate)
        object.__setattr__(self, "times", times)

    def __len__(self):
        return len(self.frames)

    @property
    def duration(self):
        """Seconds from the first frame to the end of the last, as a Fraction."""
        return self.times[-1] - self.times[0] + 1 / self.rate

    @property
    def seconds(self):
        """The times as an array of shape (F,), each rounded once to float64."""
        return np.array([float(time) for time in self.times])


@dataclass(frozen=True, eq=False)
class VideoBatch:
    """Videos or clips of one length, some of them filled up.

    Attributes
    ----------
    frames : array of shape (B, F, H, W, C)
        Real frames first, then padding.
    mask : boolean array of shape (B, F)
        True for real frames; on the host, where a model decides which frames to encode.
    seconds : array of shape (B, F)
        When each frame appears in its video; 0 for padding.
    """

    frames: np.ndarray
    mask: np.ndarray
    seconds: np.ndarray

    def __len__(self):
        return len(self.frames)

    @property
    def lengths(self):
        """Real frames of each video, an integer array of shape (B,)."""
        return self.mask.sum(1)


def frame_rate(fps):
    """Turn a frame rate into an exact fraction.

    Parameters
    ----------
    fps : int, float or Fraction
        Frames per second. Floating point numbers next to a rate of NTSC television mean that
        rate; others mean the simplest fraction within their precision.

    Returns
    -------
    Fraction

    Raises
    ------
    TypeError
        If `fps` is no number.
    ValueError
        If it is not positive and finite.

    Examples
    --------
    >>> [str(frame_rate(fps)) for fps in (24, 12.5, 23.976, 29.97)]
    ['24', '25/2', '24000/1001', '30000/1001']
    """
    if isinstance(fps, bool) or not isinstance(fps, Real):
        raise TypeError(f"a frame rate is a number of frames per second, got {fps!r}")
    if not 0 < fps < math.inf:
        raise ValueError(f"a frame rate must be positive and finite, got {fps} frames per second")
    if isinstance(fps, Rational):
        return Fraction(int(fps.numerator), int(fps.denominator))
    value = float(fps)
    for rate in NTSC:
        if abs(value - rate) < 0.005:
            return rate
    # A rate of less than one frame in eleven days would round to 0.
    return Fraction(value).limit_denominator(10**6) or Fraction(value)


def subsample(video, stride):
    """Keep every n-th frame, the first one included.

    Parameters
    ----------
    video : Video
        Frames to choose from.
    stride : int
        n; 1 keeps all.

    Returns
    -------
    Video
        Its frames are a view; its rate is the old one divided by n.

    Raises
    ------
    TypeError
        If `video` is no Video.
    ValueError
        If the stride is not a positive whole number.

    Examples
    --------
    >>> video = subsample(Video(np.zeros((48, 4, 6, 3)), 24), 8)
    >>> len(video), video.rate
    (6, Fraction(3, 1))
    """
    _check_video(video)
    _check_positive(stride=stride)
    return Video(video.frames[::stride], video.rate / stride, video.times[::stride])


def resample(video, fps):
    """Keep the frames that are on the screen at even times: 0, 1 / fps, 2 / fps, ...

    Parameters
    ----------
    video : Video
        Frames to choose from.
    fps : int, float or Fraction
        Frames per second to keep, at most the video's rate.

    Returns
    -------
    Video
        Of rate `fps`. Its times are those at which its frames appeared in `video`: where the old
        rate is no multiple of the new one they are up to one old frame early, and uneven.

    Raises
    ------
    TypeError
        If `video` is no Video.
    ValueError
        If `fps` is not positive, or above the rate of the video.

    See Also
    --------
    subsample : The same where the new rate divides the old one.
    sample_stream : The same for frames that come one by one.

    Examples
    --------
    >>> video = Video(np.zeros((50, 4, 6, 3)), 25)
    >>> [str(time) for time in resample(video, 4).times]
    ['0', '6/25', '12/25', '18/25', '1', '31/25', '37/25', '43/25']
    """
    _check_video(video)
    fps = frame_rate(fps)
    stream = zip(range(len(video)), video.times, strict=True)
    kept = [i for i, _ in sample_stream(stream, rate=video.rate, fps=fps)]
    frames = video.frames[namespace(video.frames).asarray(kept)]
    return Video(frames, fps, tuple(video.times[i] for i in kept))


def sample_stream(stream, *, rate, fps):
    """Keep the frames of a stream that are on the screen at even times, holding one at a time.

    Parameters
    ----------
    stream : iterable of (frame, time)
        Frames in order, and the Fraction of seconds at which each appears.
    rate : int, float or Fraction
        Frames per second of the stream; the last frame stays for 1 / rate.
    fps : int, float or Fraction
        Frames per second to keep, at most `rate`.

    Returns
    -------
    iterator of (frame, time)
        Entries of the stream. One that stays on the screen for longer than 1 / fps, which only
        happens in a stream of uneven times, comes more than once.

    Raises
    ------
    ValueError
        If `fps` is not positive, or above `rate`.
    """
    rate, fps = frame_rate(rate), frame_rate(fps)
    if fps > rate:
        raise ValueError(
            f"cannot keep {float(fps):g} frames per second of a video that has {float(rate):g}; "
            "choose at most its rate: new frames would be copies of old ones"
        )
    return _on_screen(stream, 1 / rate, 1 / fps)


def _on_screen(stream, last_stays, step):
    shown, due = None, None
    for frame, time in stream:
        due = time if due is None else due
        while shown is not None and due < time:
            yield shown
            due += step  # of fractions: no error adds up
        shown = frame, time
    while shown is not None and due < shown[1] + last_stays:
        yield shown
        due += step


def cut_clips(video, length, *, stride=1, overlap=0, padding=None):
    """Cut a video into clips of one length.

    Parameters
    ----------
    video : Video
        What to cut.
    length : int
        F, frames in a clip.
    stride : int, default 1
        Use every n-th frame of the video only.
    overlap : int, default 0
        Frames that a clip shares with the one before, less than `length`.
    padding : {None, "zero", "last"}
        What to fill the last clip up with: black frames, or copies of its last real frame. None
        drops the frames that do not fill a clip.

    Returns
    -------
    VideoBatch
        One row for each clip, in order; its mask is False for padding of either kind.

    Raises
    ------
    TypeError
        If `video` is no Video.
    ValueError
        If a clip is longer than the video and there is no padding, or an option is out of range.

    Examples
    --------
    >>> video = Video(np.zeros((100, 4, 6, 3)), 25)
    >>> len(cut_clips(video, 64)), cut_clips(video, 64, padding="zero").lengths.tolist()
    (1, [64, 36])
    """
    _check_video(video)
    _check_positive(length=length, stride=stride)
    if not isinstance(overlap, Integral) or not 0 <= overlap < length:
        raise ValueError(
            f"overlap must be 0 to {length - 1} frames for clips of {length}, got {overlap!r}"
        )
    if padding not in (None, "zero", "last"):
        raise ValueError(f"padding must be None, 'zero' or 'last', got {padding!r}")
    frames = math.ceil(len(video) / stride)
    if padding is None and frames < length:
        raise ValueError(
            f"a clip is {length} frames and the video has {frames}"
            + (f" at a stride of {stride}" if stride > 1 else "")
            + "; choose a shorter clip, or padding='zero' or 'last'"
        )
    step = length - overlap
    spare = max(frames - length, 0)
    count = 1 + (spare // step if padding is None else math.ceil(spare / step))
    places = step * np.arange(count)[:, None] + np.arange(length)  # (B, F)
    mask = places < frames
    places = stride * np.minimum(places, frames - 1)
    xp = namespace(video.frames)
    cut = video.frames[xp.asarray(places)]  # (B, F, H, W, C)
    if padding == "zero":
        cut = xp.where(xp.asarray(mask)[..., None, None, None], cut, 0)
    return VideoBatch(cut, mask, np.where(mask, video.seconds[places], 0))


def batch_videos(videos, *, length=None):
    """Put videos of different lengths into one batch, filled up with black frames.

    Parameters
    ----------
    videos : sequence of Video
        Of one frame size.
    length : int, optional
        F, frames of each row; by default those of the longest video.

    Returns
    -------
    VideoBatch

    Raises
    ------
    TypeError
        If an entry is no Video, or the dtypes differ.
    ValueError
        If there are no videos, their frames differ in size, or one is longer than `length`.

    Examples
    --------
    >>> videos = [Video(np.ones((frames, 4, 6, 3)), 24) for frames in (2, 3)]
    >>> batch_videos(videos).mask.astype(int)
    array([[1, 1, 0],
           [1, 1, 1]])
    """
    videos = list(videos)
    if not videos:
        raise ValueError("there are no videos to put into a batch")
    for video in videos:
        _check_video(video)
    shapes = {video.frames.shape[1:] for video in videos}
    if len(shapes) > 1:
        raise ValueError(
            f"the frames of a batch must be of one size (H, W, C), got {sorted(shapes)}; "
            "resize or crop them first"
        )
    dtypes = {str(video.frames.dtype) for video in videos}
    if len(dtypes) > 1:
        raise TypeError(f"the videos of a batch must be of one dtype, got {sorted(dtypes)}")
    longest = max(map(len, videos))
    length = longest if length is None else length
    _check_positive(length=length)
    if longest > length:
        raise ValueError(f"a video of {longest} frames does not fit into rows of {length}")
    first = videos[0].frames
    frames = namespace(first).zeros((len(videos), length, *first.shape[1:]), first.dtype)
    mask = np.zeros((len(videos), length), bool)
    seconds = np.zeros((len(videos), length))
    for i, video in enumerate(videos):
        frames[i, : len(video)] = video.frames
        mask[i, : len(video)] = True
        seconds[i, : len(video)] = video.seconds
    return VideoBatch(frames, mask, seconds)


def fold_frames_forward(frames):
    """Make one batch of all frames of all videos, so that an image encoder can read them.

    Parameters
    ----------
    frames : array of shape (B, F, H, W, C)
        Videos; other axes after the first two are as good.

    Returns
    -------
    images : array of shape (N, H, W, C)
        N = B F frames, those of the first video first; a view where there can be one.
    saved : tuple of int
        The shape, for `fold_frames_backward`.

    Raises
    ------
    ValueError
        If there are not at least two axes.

    See Also
    --------
    fold_frames_backward : The gradient of this function.
    unfold_frames_forward : Its inverse.
    """
    if frames.ndim < 2:
        raise ValueError(f"frames must be (B, F, ...), got {frames.shape}")
    b, f, *rest = frames.shape
    return frames.reshape(b * f, *rest), frames.shape


def fold_frames_backward(dimages, shape):
    """Gradient of `fold_frames_forward`: deal the frames back to their videos.

    Parameters
    ----------
    dimages : array of shape (N, H, W, C)
        dL/dimages.
    shape : tuple of int
        As `fold_frames_forward` saved it.

    Returns
    -------
    dframes : array of shape (B, F, H, W, C)
    """
    return dimages.reshape(shape)


def unfold_frames_forward(x, *, frames):
    """Deal what was made of each frame back to the videos.

    Parameters
    ----------
    x : array of shape (N, T, D)
        One entry for each frame of each video; other axes after the first are as good.
    frames : int
        F, frames of each video; it must divide N.

    Returns
    -------
    y : array of shape (B, F, T, D)
    saved : tuple of int
        The shape, for `unfold_frames_backward`.

    Raises
    ------
    ValueError
        If F does not divide N.

    See Also
    --------
    unfold_frames_backward : The gradient of this function.
    fold_frames_forward : Its inverse.
    """
    _check_positive(frames=frames)
    if len(x) % frames:
        raise ValueError(f"{len(x)} entries do not divide into videos of {frames} frames")
    return x.reshape(len(x) // frames, frames, *x.shape[1:]), x.shape


def unfold_frames_backward(dy, shape):
    """Gradient of `unfold_frames_forward`.

    Parameters
    ----------
    dy : array of shape (B, F, T, D)
        dL/dy.
    shape : tuple of int
        As `unfold_frames_forward` saved it.

    Returns
    -------
    dx : array of shape (N, T, D)
    """
    return dy.reshape(shape)


def tubelets_forward(frames, *, tubelet):
    """Cut videos into boxes of several frames and lay each out as a row of numbers.

    Parameters
    ----------
    frames : array of shape (B, F, H, W, C)
        Videos.
    tubelet : tuple of int
        Frames, height and width of a box; they must divide F, H and W.

    Returns
    -------
    boxes : array of shape (B, G, N, P)
        G groups of frames in order, N boxes in reading order in each, of P numbers in the order
        (frame, row, column, channel).
    saved : tuple
        For `tubelets_backward`.

    Raises
    ------
    ValueError
        If the videos are not of five axes or do not divide into boxes.

    See Also
    --------
    tubelets_backward : The gradient of this function.

    References
    ----------
    .. [1] A. Arnab et al., "ViViT: A Video Vision Transformer", 2021, arXiv:2103.15691,
       section 3.2.
    """
    if frames.ndim != 5:
        raise ValueError(
            f"videos must be (B, F, H, W, C), got {frames.shape}"
            + ("; add the batch axis with frames[None]" if frames.ndim == 4 else "")
        )
    check_tubelet(tubelet)
    b, f, _, _, c = frames.shape
    t, h, w = tubelet
    if not f or f % t:
        below = max(f // t, 1) * t
        raise ValueError(
            f"{f} frames do not divide into boxes of {t}; {below} or {below + t} frames would"
        )
    rows, columns = patch_grid(frames.shape[2:], (h, w))
    x = frames.reshape(b, f // t, t, rows, h, columns, w, c).transpose(0, 1, 3, 5, 2, 4, 6, 7)
    return x.reshape(b, f // t, rows * columns, t * h * w * c), (frames.shape, tubelet)


def tubelets_backward(dboxes, saved):
    """Gradient of `tubelets_forward`, and its inverse: put the boxes back where they were.

    Parameters
    ----------
    dboxes : array of shape (B, G, N, P)
        dL/dboxes.
    saved : tuple
        As `tubelets_forward` saved it.

    Returns
    -------
    dframes : array of shape (B, F, H, W, C)
    """
    (b, f, height, width, c), (t, h, w) = saved
    dx = dboxes.reshape(b, f // t, height // h, width // w, t, h, w, c)
    return dx.transpose(0, 1, 4, 2, 5, 3, 6, 7).reshape(b, f, height, width, c)


def check_tubelet(tubelet):
    """Refuse what is not the size of a box.

    Parameters
    ----------
    tubelet : tuple of int
        Frames, height and width.

    Raises
    ------
    ValueError
        If it is not three positive numbers.
    """
    if not isinstance(tubelet, tuple | list) or len(tubelet) != 3 or min(tubelet) < 1:
        raise ValueError(f"tubelet must be (frames, height, width), got {tubelet}")


def tubelet_mask(mask, frames):
    """Find the groups of frames that hold at least one real frame.

    Parameters
    ----------
    mask : boolean array of shape (B, F)
        True for real frames.
    frames : int
        Frames in a group; it must divide F.

    Returns
    -------
    boolean array of shape (B, G)

    Raises
    ------
    ValueError
        If the frames do not divide into groups.

    Examples
    --------
    >>> tubelet_mask(np.array([[True, True, True, False, False, False]]), 2)
    array([[ True,  True, False]])
    """
    _check_positive(frames=frames)
    if mask.ndim != 2 or mask.shape[1] % frames:
        raise ValueError(f"a mask {mask.shape} does not divide into groups of {frames} frames")
    return mask.reshape(len(mask), -1, frames).any(-1)


def _check_frames(frames):
    namespace(frames)  # refuses a list
    if frames.ndim == 5:
        raise ValueError(
            f"a video is (F, H, W, C), got {frames.shape}: five axes are a batch of videos"
        )
    if frames.ndim != 4:
        raise ValueError(
            f"a video is (F, H, W, C), got {frames.shape}"
            + (
                "; this looks like an image (H, W, C): write image[None] for a video of one frame, "
                "or add the channel axis of grey frames with frames[..., None]"
                if frames.ndim == 3
                else ""
            )
        )
    if not len(frames):
        raise ValueError(f"an empty video: no frames, shape {frames.shape}")
    if not frames.size:
        raise ValueError(f"the frames of a video need pixels and channels, got {frames.shape}")


def _check_video(video):
    if not isinstance(video, Video):
        raise TypeError(
            f"a Video is needed, got {type(video).__name__}; "
            "write Video(frames, rate) for frames of shape (F, H, W, C)"
        )


def _check_positive(**counts):
    for name, count in counts.items():
        if isinstance(count, bool) or not isinstance(count, Integral) or count < 1:
            raise ValueError(f"{name} must be a positive whole number, got {count!r}")
