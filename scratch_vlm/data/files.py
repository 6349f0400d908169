"""Image and video files as arrays: float32 RGB in [0, 1], and the time of every frame.

Pillow reads images and animations (GIF, WebP, APNG), PyAV all other videos (MP4, WebM, ...). Both
come with the extra ``io``: ``pip install "scratch-vlm[io]"``. What a file is, is found out from
its contents, whatever its name ends with.
"""

import codecs
import importlib
import struct
from contextlib import contextmanager
from fractions import Fraction
from itertools import islice
from numbers import Integral
from pathlib import Path
from typing import NamedTuple

import numpy as np

from scratch_vlm.ops.frames import Video, frame_rate, sample_stream
from scratch_vlm.ops.resize import resize_forward

MAX_PIXELS = 64_000_000  # of an image; 768 MB in float32
MAX_BYTES = 2**30  # of the frames of a video, in float32
WHITE = (1.0, 1.0, 1.0)
# What Pillow raises for files that begin well: which one depends on the format.
DAMAGE = (OSError, SyntaxError, ValueError, TypeError, EOFError, IndexError, struct.error)


class MediaError(ValueError):
    """A file is not what was asked for, is damaged or cut short, or is too large."""


class VideoInfo(NamedTuple):
    """What a video file says about itself.

    Attributes
    ----------
    rate : Fraction
        Frames per second, on average.
    duration : Fraction or None
        Seconds; None if the file does not say.
    """

    rate: Fraction
    duration: Fraction | None


def media_kind(path):
    """Tell images from videos, by what a file holds and not by its name.

    Parameters
    ----------
    path : str or Path
        A file.

    Returns
    -------
    {"image", "video"}
        What to read it as; an animation is a video. It may still turn out to be damaged.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ImportError
        If Pillow or PyAV, which the file needs, is not installed.
    MediaError
        If the file is neither.
    """
    path = _existing(path)
    kind = _kind_for_pillow(path)
    if kind is None:
        with _opened(path) as container:
            _pictures(container, path)
        kind = "video"
    return kind


def read_image(path, *, background=WHITE, max_pixels=MAX_PIXELS):
    """Read an image file, upright and in colour.

    Parameters
    ----------
    path : str or Path
        A file that Pillow can read: JPEG, PNG, WebP, GIF, TIFF, BMP, ...
    background : sequence of float, default white
        RGB in [0, 1], seen through transparent pixels: most drawings with a transparent ground
        are made for white paper, and read as black their black lines would vanish.
    max_pixels : int, default 64,000,000
        Larger images are refused before their pixels are decoded.

    Returns
    -------
    array of shape (H, W, 3)
        RGB in [0, 1], in float32; turned as the camera was held (EXIF). Grey and palette images
        become RGB, 16-bit grey keeps its precision.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ImportError
        If Pillow is not installed.
    MediaError
        If the file is no image, is damaged or cut short, is too large, or is an animation.
    """
    return _float(_upright(path, background, max_pixels))


def read_pixels(path, *, background=WHITE, max_pixels=MAX_PIXELS):
    """Read an image file as bytes, upright and in colour: as most image files keep it.

    Parameters
    ----------
    path, background, max_pixels
        As in `read_image`.

    Returns
    -------
    uint8 array of shape (H, W, 3)
        RGB from 0 to 255. What has more precision, or is seen through transparent pixels, is
        rounded.

    Raises
    ------
    FileNotFoundError, ImportError, MediaError
        As `read_image` does.

    See Also
    --------
    read_image : The same as numbers from 0 to 1, with full precision.
    """
    return to_bytes(_upright(path, background, max_pixels))


def to_bytes(pixels):
    """Round pixels to bytes.

    Parameters
    ----------
    pixels : array of shape (H, W, 3)
        In [0, 1], or bytes already.

    Returns
    -------
    uint8 array of shape (H, W, 3)
        From 0 to 255.
    """
    if pixels.dtype == np.uint8:
        return pixels
    return np.rint(pixels * 255).clip(0, 255).astype(np.uint8)


def _upright(path, background, max_pixels):
    path = _existing(path)
    ops = library("PIL.ImageOps")
    with _open_image(path) as image, _damage_of(path, *DAMAGE):
        if _animated(image):
            raise MediaError(
                f"{path} is a video of {image.n_frames} frames, where an image is expected; "
                "read it with read_video"
            )
        width, height = image.size
        if width * height > max_pixels:
            raise MediaError(
                f"{path} is {height} x {width} px, {height * width:,} pixels; at most "
                f"{max_pixels:,} are read (max_pixels)"
            )
        return _rgb(ops.exif_transpose(image), background)


def probe_video(path):
    """Read the frame rate and the duration of a video file, but not its frames.

    Parameters
    ----------
    path : str or Path
        A video file.

    Returns
    -------
    VideoInfo

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ImportError
        If Pillow or PyAV is not installed.
    MediaError
        If the file is no video or is damaged.
    """
    path = _existing(path)
    if _is_animation(path):
        with _open_image(path) as image, _damage_of(path, *DAMAGE):
            stays = [_seconds_of_frame(image, i) for i in range(image.n_frames)]
        return VideoInfo(len(stays) / sum(stays), sum(stays))
    with _opened(path) as container:
        stream = _pictures(container, path)
        return VideoInfo(_rate(stream, path), _duration(stream))


def stream_video(path, *, fps=None, stride=1, size=None):
    """Read a video file frame by frame, holding no more than a few of its frames.

    Parameters
    ----------
    path : str or Path
        A video file.
    fps : int, float or Fraction, optional
        Frames per second to keep, at most the video's rate; as `ops.frames.resample` does.
    stride : int, default 1
        Keep every n-th frame; instead of `fps`.
    size : tuple of int, optional
        Height and width to resize frames to, in pixels.

    Returns
    -------
    iterator of (frame, time)
        Frames (H, W, 3), RGB in [0, 1], in float32; and the seconds at which each appears, as a
        Fraction, 0 for the first. Times that the file rounds (WebM counts milliseconds) are put
        back to the multiple of 1 / rate that they stand for.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ImportError
        If Pillow or PyAV is not installed.
    MediaError
        If the file is no video or is damaged; at once where its beginning shows it. Damage or a
        missing end further on raises when the frames before it have been read.
    ValueError
        If `fps`, `stride` or `size` is out of range, or both of the first are given.

    See Also
    --------
    read_video : All frames at once.

    Notes
    -----
    Pixels are taken to be square. A decoder hides small damage within a frame from its reader;
    only what it reports can be refused.
    """
    if isinstance(stride, bool) or not isinstance(stride, Integral) or stride < 1:
        raise ValueError(f"stride must be a positive whole number, got {stride!r}")
    if fps is not None and stride != 1:
        raise ValueError(f"give fps or stride, not both; got fps={fps} and stride={stride}")
    if size is not None and (len(size) != 2 or min(size) < 1):
        raise ValueError(f"size must be (height, width) in pixels, got {size}")
    path = _existing(path)
    info = probe_video(path)
    frames = _animation_frames(path) if _is_animation(path) else _file_frames(path)
    if fps is not None:
        frames = sample_stream(frames, rate=info.rate, fps=fps)
    return _finished(islice(frames, 0, None, stride), size)


def read_video(path, *, fps=None, stride=1, size=None, max_frames=None, max_bytes=MAX_BYTES):
    """Read a video file into memory.

    Parameters
    ----------
    path : str or Path
        A video file.
    fps, stride, size
        As in `stream_video`.
    max_frames : int, optional
        A video with more frames, after `fps` or `stride`, is refused; by default only `max_bytes`
        is a limit.
    max_bytes : int, default 2**30
        Bytes that the frames may take, in float32: 1 GiB holds 1783 frames of 224 x 224 px and 43
        of 1080 x 1920 px. For a moment reading takes twice as much.

    Returns
    -------
    Video

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ImportError
        If Pillow or PyAV is not installed.
    MediaError
        If the file is no video, is damaged or cut short, or has more frames than the limits
        allow.
    ValueError
        If `fps`, `stride` or `size` is out of range, or both of the first are given.

    See Also
    --------
    stream_video : Frame by frame, for videos of any length.
    """
    frames, times = [], []
    for frame, time in stream_video(path, fps=fps, stride=stride, size=size):
        fit = max_bytes // frame.nbytes
        most = fit if max_frames is None else min(fit, max_frames)
        if len(frames) >= most:
            why = "max_bytes" if most == fit else "max_frames"
            height, width, _ = frame.shape
            raise MediaError(
                f"{path} has more than {most} frames of {height} x {width} px, as many as {why} "
                "allows; take fewer with fps or stride, make them smaller with size, or read "
                "them one by one with stream_video"
            )
        if frames and frame.shape != frames[0].shape:
            raise MediaError(
                f"{path} changes from {frames[0].shape[:2]} to {frame.shape[:2]} px on the way; "
                "bring all frames to one size with size=(height, width)"
            )
        frames.append(frame)
        times.append(time)
    rate = probe_video(path).rate / stride if fps is None else frame_rate(fps)
    return Video(np.stack(frames), rate, tuple(times))


def library(name):
    """Import a module of Pillow or PyAV, or say what to install.

    Parameters
    ----------
    name : str
        Such as ``"PIL.Image"``.

    Returns
    -------
    module

    Raises
    ------
    ImportError
        If it is not installed.
    """
    try:
        return importlib.import_module(name)
    except ImportError as error:
        package = {"PIL": "Pillow", "av": "PyAV"}[name.partition(".")[0]]
        raise ImportError(
            f'{package} is needed to read this file; install it with pip install "scratch-vlm[io]"'
        ) from error


def _existing(path):
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"there is no file {path}")
    if not path.is_file():
        kind = "a folder" if path.is_dir() else "a device or a pipe"
        raise MediaError(f"{path} is {kind}, not an image or a video")
    if not path.stat().st_size:
        raise MediaError(f"{path} is empty: 0 bytes")
    try:
        path.open("rb").close()
    except OSError as error:
        raise MediaError(f"cannot read {path}: {error.strerror}") from error
    return path


@contextmanager
def _damage_of(path, *errors):
    try:
        yield
    except MediaError:
        raise
    except errors as error:
        raise MediaError(f"{path} is damaged, cut short, or of an unknown kind: {error}") from error


@contextmanager
def _opened(path):
    if _is_text(path):
        raise MediaError(f"{path} is a text, not an image or a video")
    av = library("av")
    # A title that is not UTF-8 is no reason to refuse a video.
    with _damage_of(path, av.FFmpegError), av.open(str(path), metadata_errors="replace") as file:
        yield file


def _open_image(path):
    image = _identify(path)
    if image is None:
        raise MediaError(f"{path} is no image that Pillow knows; a video is read with read_video")
    return image


def _identify(path):
    """Open what Pillow knows; None for other files."""
    image = library("PIL.Image")
    try:
        return image.open(path)
    except image.UnidentifiedImageError:
        return None
    except (image.DecompressionBombError, image.DecompressionBombWarning) as error:
        raise MediaError(f"{path} is too large for an image: {error}") from error
    except DAMAGE as error:
        raise MediaError(f"{path} is damaged or cut short: {error}") from error


def _animated(image):
    # Phones save a photograph with its small copies as the "frames" of an MPO file.
    return image.format != "MPO" and getattr(image, "n_frames", 1) > 1


def _kind_for_pillow(path):
    """Tell animations from still images; None for what Pillow cannot read."""
    opened = _identify(path)
    if opened is None:
        return None
    with opened, _damage_of(path, *DAMAGE):
        if opened.format == "MPEG":  # Pillow knows the format but cannot read it
            return None
        return "video" if _animated(opened) else "image"


def _is_animation(path):
    """Tell animations from videos that PyAV reads, and refuse still images."""
    kind = _kind_for_pillow(path)
    if kind == "image":
        raise MediaError(f"{path} is an image, where a video is expected; read it with read_image")
    return kind == "video"


def _is_text(path):
    # FFmpeg takes a text for a video: that of a terminal on which it is printed.
    with path.open("rb") as file:
        begin = file.read(4096)
    try:
        codecs.getincrementaldecoder("utf-8")().decode(begin)  # the last character may be cut
    except UnicodeDecodeError:
        return False
    return b"\0" not in begin


def _rgb(image, background=WHITE):
    """Turn any mode of Pillow into RGB: bytes (H, W, 3), or floats where bytes lose precision."""
    if image.mode.startswith("I"):
        grey = np.asarray(image)
        if image.mode == "I" and not 0 <= grey.min() <= grey.max() <= 65535:
            raise ValueError(
                f"grey values from {grey.min()} to {grey.max()}; only 16 bits, 0 to 65535, are read"
            )
        grey = grey.astype(np.float32) / 65535
        return np.repeat(grey[..., None], 3, axis=-1)
    if image.mode == "F":
        raise ValueError("its pixels are floating point numbers, whose white is unknown")
    if not image.has_transparency_data:
        return np.asarray(image.convert("RGB"))
    pixels = _float(np.asarray(image.convert("RGBA")))
    colour, opacity = pixels[..., :3], pixels[..., 3:]
    return colour * opacity + np.asarray(background, np.float32) * (1 - opacity)


def _float(pixels):
    # In one pass: a copy of each frame in between would cost more than the division.
    return np.divide(pixels, 255, dtype=np.float32) if pixels.dtype == np.uint8 else pixels


def _seconds_of_frame(image, i):
    image.seek(i)
    image.load()  # WebP knows the duration only then
    return Fraction(image.info.get("duration") or 100) / 1000  # without one, as browsers: 0.1 s


def _animation_frames(path):
    time = Fraction(0)
    with _open_image(path) as image, _damage_of(path, *DAMAGE):
        for i in range(image.n_frames):
            stays = _seconds_of_frame(image, i)
            yield _rgb(image), time
            time += stays


def _pictures(container, path):
    """Find the moving pictures of a file: not its sound, and not the cover of an album."""
    cover = library("av.stream").Disposition.attached_pic
    for stream in container.streams.video:
        if not stream.disposition & cover:
            return stream
    raise MediaError(f"{path} has no pictures: is it sound only?")


def _rate(stream, path):
    rate = stream.average_rate or stream.guessed_rate
    if not rate:
        raise MediaError(f"{path} does not say its frame rate")
    return Fraction(rate)


def _duration(stream):
    if stream.duration is not None:
        return stream.duration * stream.time_base
    tag = next((v for k, v in stream.metadata.items() if k.upper().startswith("DURATION")), None)
    if tag is None:
        return None
    try:
        hours, minutes, seconds = tag.split(":")  # of Matroska and WebM
        return 3600 * int(hours) + 60 * int(minutes) + Fraction(seconds)
    except ValueError:
        return None


def _file_frames(path):
    """Decode a file with PyAV: its frames, not yet converted, and their times."""
    with _opened(path) as container:
        stream = _pictures(container, path)
        stream.thread_type = "AUTO"
        rate, duration = _rate(stream, path), _duration(stream)
        first, last, end = None, Fraction(0), Fraction(0)
        for frame in container.decode(stream):
            stays = 1 / rate
            if frame.pts is None:
                time = end
            else:
                unit = frame.time_base
                first = frame.pts * unit if first is None else first
                time = frame.pts * unit - first
                even = round(time * rate) / rate
                # Both this time and the first may be off by half a unit.
                time = even if abs(even - time) <= unit else time
                stays = max(stays, frame.duration * unit)
            if time < last:
                raise MediaError(f"{path} is damaged: the times of its frames go back")
            yield frame, time
            last, end = time, time + stays
        # What files say of their end is not always exact: a frame may be missing, or half a second.
        spare = max(3 / (2 * rate), min(duration / 20, Fraction(1, 2))) if duration else 0
        if duration and end < duration - spare:
            raise MediaError(
                f"{path} is cut short: it ends after {float(end):g} of {float(duration):g} seconds"
            )
        if not end:
            raise MediaError(f"{path} is an empty video: it has no frames")


def _finished(frames, size):
    for frame, time in frames:
        if not isinstance(frame, np.ndarray):
            pixels = frame.to_ndarray(format="rgb24")
            # How the phone was held, in degrees counter-clockwise.
            frame = np.ascontiguousarray(np.rot90(pixels, round(frame.rotation / 90)))
        frame = _float(frame)
        if size is not None:
            frame = resize_forward(frame[None], size=size)[0][0]
        yield frame, time
