"""Image and video files: exact pixels and times, and kind words for files that cannot be read."""

import importlib
import os
import subprocess
import sys
import tracemalloc
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from scratch_vlm.data import files
from scratch_vlm.data.files import (
    MediaError,
    media_kind,
    probe_video,
    read_image,
    read_video,
    stream_video,
)
from scratch_vlm.ops.frames import resample, subsample

Image = pytest.importorskip("PIL.Image", reason="Pillow, of the extra io, is not installed")
try:
    import av
except ImportError:
    av = None
needs_av = pytest.mark.skipif(av is None, reason="PyAV, of the extra io, is not installed")

FILM = Fraction(24000, 1001)
LEVELS = 6  # of grey, far enough apart to survive compression


def level(i):
    return 30 + 40 * (i % LEVELS)


def pictures(count, height=32, width=48):
    """Grey pictures whose level tells their number, modulo six."""
    return [np.full((height, width, 3), level(i), np.uint8) for i in range(count)]


def numbers(frames):
    return [round((float(frame.mean()) * 255 - 30) / 40) for frame in frames]


def write_video(path, frames, rate=24, *, codec=None, rotation=0, options=None):
    codec = codec or ("libvpx" if path.suffix == ".webm" else "libx264")
    with av.open(str(path), "w", options=options or {}) as container:
        stream = container.add_stream(codec, rate=rate)
        stream.height, stream.width = frames[0].shape[:2]
        stream.pix_fmt = "yuv420p"
        if rotation:
            stream.set_display_rotation(rotation)
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())
    return path


def write_gif(path, frames, milliseconds, **options):
    first, *rest = (Image.fromarray(frame) for frame in frames)
    first.save(path, save_all=True, append_images=rest, duration=milliseconds, **options)
    return path


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    """Two seconds of 24 frames each."""
    if av is None:
        pytest.skip("PyAV, of the extra io, is not installed")
    return write_video(tmp_path_factory.mktemp("video") / "clip.mp4", pictures(48))


def gradient(height=5, width=7):
    y, x = np.mgrid[:height, :width]
    return np.stack([40 * y, 30 * x, 10 * (x + y)], -1).astype(np.uint8)


@pytest.mark.parametrize("suffix", ["png", "bmp", "tiff", "webp", "gif"])
def test_colours_are_read_exactly(tmp_path, suffix):
    pixels = gradient()
    path = tmp_path / f"image.{suffix}"
    options = {"lossless": True} if suffix == "webp" else {}
    Image.fromarray(pixels).save(path, **options)
    image = read_image(path)
    assert image.dtype == np.float32 and image.shape == (5, 7, 3)
    np.testing.assert_array_equal(image, pixels.astype(np.float32) / 255)
    np.testing.assert_array_equal(read_image(str(path)), image)


def test_what_a_file_is_does_not_depend_on_its_name(tmp_path):
    path = tmp_path / "image.mp4"
    Image.fromarray(gradient()).save(path, format="png")
    assert read_image(path).shape == (5, 7, 3)


@pytest.mark.parametrize("mode", ["L", "1", "P", "CMYK", "LA", "RGBA", "PA"])
def test_every_mode_becomes_rgb(tmp_path, mode):
    pixels = np.repeat(np.array([[0, 255], [255, 0]], np.uint8)[..., None], 3, axis=-1)
    path = tmp_path / ("image.tiff" if mode in ("CMYK", "PA") else "image.png")
    image = Image.fromarray(pixels).convert("LA" if mode == "PA" else mode)
    image.convert(mode).save(path)
    np.testing.assert_array_equal(read_image(path), pixels / np.float32(255))


@pytest.mark.parametrize("big", [False, True])
def test_sixteen_bits_of_grey_are_kept(tmp_path, big):
    grey = np.array([[0, 1, 257], [32768, 65534, 65535]], np.uint16)
    path = tmp_path / "grey.tiff"
    if big:
        Image.frombytes("I;16B", (3, 2), grey.astype(">u2").tobytes()).save(path)
    else:
        Image.fromarray(grey).save(path)
    image = read_image(path)
    assert image.shape == (2, 3, 3) and image.dtype == np.float32
    np.testing.assert_array_equal(image[..., 1], grey.astype(np.float32) / 65535)


@pytest.mark.parametrize("values", [np.array([[-1]], np.int32), np.array([[65536]], np.int32)])
def test_grey_of_more_than_sixteen_bits_is_refused(tmp_path, values):
    Image.fromarray(values).save(tmp_path / "grey.tiff")
    with pytest.raises(MediaError, match=r"grey.tiff .*only 16 bits, 0 to 65535"):
        read_image(tmp_path / "grey.tiff")


def test_floating_point_pixels_are_refused(tmp_path):
    Image.fromarray(np.zeros((2, 2), np.float32)).save(tmp_path / "grey.tiff")
    with pytest.raises(MediaError, match="floating point numbers, whose white is unknown"):
        read_image(tmp_path / "grey.tiff")


@pytest.mark.parametrize("palette", [False, True])
def test_the_background_is_seen_through_transparent_pixels(tmp_path, palette):
    path = tmp_path / "image.png"
    if palette:
        image = Image.new("P", (2, 1))
        image.putpalette([255, 0, 0, 0, 255, 0])
        image.putpixel((1, 0), 1)
        image.save(path, transparency=1)
        share = 0
    else:
        pixels = np.array([[[255, 0, 0, 255], [0, 255, 0, 51]]], np.uint8)
        Image.fromarray(pixels).save(path)
        share = 0.2
    for background in ((1, 1, 1), (0, 0, 0), (0.5, 0, 1)):
        through = share * np.array([0, 1, 0]) + (1 - share) * np.array(background)
        image = read_image(path, background=background)
        np.testing.assert_allclose(image, [[[1, 0, 0], through]], atol=1e-6)
    assert read_image(path)[0, 1, 2] > 0.7  # white by default


@pytest.mark.parametrize("orientation", range(1, 9))
def test_photographs_stand_upright(tmp_path, orientation):
    pixels = gradient()
    stored = {
        1: pixels,
        2: pixels[:, ::-1],
        3: pixels[::-1, ::-1],
        4: pixels[::-1],
        5: pixels.swapaxes(0, 1),
        6: np.rot90(pixels, 1),
        7: np.rot90(pixels, 2).swapaxes(0, 1),
        8: np.rot90(pixels, -1),
    }[orientation]
    image = Image.fromarray(np.ascontiguousarray(stored))
    exif = image.getexif()
    exif[0x0112] = orientation
    image.save(tmp_path / "image.png", exif=exif)
    np.testing.assert_array_equal(
        read_image(tmp_path / "image.png"), pixels.astype(np.float32) / 255
    )


@pytest.mark.parametrize("read", [read_image, read_video, stream_video, probe_video])
def test_files_that_are_not_there_are_refused_at_once(tmp_path, read):
    with pytest.raises(FileNotFoundError, match=r"there is no file .*nothing.mp4"):
        read(tmp_path / "nothing.mp4")
    with pytest.raises(MediaError, match="is a folder"):
        read(tmp_path)
    (tmp_path / "empty.mp4").touch()
    with pytest.raises(MediaError, match=r"empty.mp4 is empty: 0 bytes"):
        read(tmp_path / "empty.mp4")
    with pytest.raises(MediaError, match=rf"{os.devnull} is a device or a pipe, not an image"):
        read(os.devnull)


def test_a_file_that_may_not_be_read_is_not_called_damaged(tmp_path, monkeypatch):
    (tmp_path / "photo.png").write_bytes(b"1")

    def refuse(self, mode):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(MediaError, match=r"cannot read .*photo.png: Permission denied"):
        read_image(tmp_path / "photo.png")


@needs_av
@pytest.mark.parametrize("read", [read_image, read_video, stream_video, probe_video])
@pytest.mark.parametrize("content", [b"only a text\n" * 50, bytes(range(256)) * 20, b"GIF89a"])
def test_foreign_files_are_refused_at_once(tmp_path, read, content):
    path = tmp_path / "foreign.mp4"
    path.write_bytes(content)
    with pytest.raises(
        MediaError, match=r"foreign.mp4 is (damaged|a text|no image that Pillow knows)"
    ):
        read(path)


@needs_av
@pytest.mark.parametrize("read", [read_video, stream_video, probe_video, media_kind])
def test_a_text_is_no_video_of_a_terminal_that_prints_it(tmp_path, read):
    path = tmp_path / "note.txt"
    path.write_text("what colour is seven? é\n" * 200, encoding="utf-8")
    with pytest.raises(MediaError, match=r"note.txt is a text, not an image or a video"):
        read(path)


def test_files_are_told_apart_by_what_they_hold(tmp_path, clip):
    Image.new("RGB", (8, 8)).save(tmp_path / "still", "PNG")
    Image.new("L", (8, 8)).save(
        tmp_path / "moving.png", "GIF", save_all=True, append_images=[Image.new("L", (8, 8), 9)]
    )
    (tmp_path / "clip.jpg").write_bytes(clip.read_bytes())
    kinds = [media_kind(tmp_path / name) for name in ("still", "moving.png", "clip.jpg")]
    assert kinds == ["image", "video", "video"]


@pytest.mark.filterwarnings("ignore:Truncated File Read")  # Pillow warns before it gives up
@pytest.mark.parametrize("suffix", ["png", "jpg", "webp", "gif", "tiff", "bmp"])
def test_an_image_cut_short_is_refused(tmp_path, suffix):
    path = tmp_path / f"image.{suffix}"
    noise = np.random.default_rng(0).integers(0, 256, (40, 50, 3), np.uint8)
    Image.fromarray(noise).save(path)
    whole = path.read_bytes()
    for share in (0.02, 0.5, 0.9):
        path.write_bytes(whole[: int(share * len(whole))])
        with pytest.raises(MediaError):
            read_image(path)


def test_a_large_image_is_refused_before_it_is_decoded(tmp_path):
    path = tmp_path / "image.png"
    Image.fromarray(gradient(20, 30)).save(path)
    with pytest.raises(MediaError, match=r"20 x 30 px, 600 pixels; at most 599"):
        read_image(path, max_pixels=599)
    assert read_image(path, max_pixels=600).shape == (20, 30, 3)
    Image.new("1", (20_000, 10_000)).save(path)  # a small file
    with pytest.raises(MediaError, match="too large"):
        read_image(path)


@pytest.mark.parametrize("suffix", ["gif", "webp", "png"])
def test_an_animation_is_no_image(tmp_path, suffix):
    path = write_gif(tmp_path / f"film.{suffix}", pictures(3), 100)
    with pytest.raises(MediaError, match="a video of 3 frames, where an image is expected"):
        read_image(path)


@pytest.mark.parametrize("suffix", ["gif", "webp", "png", "jpg"])
@pytest.mark.parametrize("read", [read_video, stream_video, probe_video])
def test_an_image_is_no_video(tmp_path, suffix, read):
    path = tmp_path / f"image.{suffix}"
    Image.fromarray(gradient()).save(path)
    with pytest.raises(MediaError, match="is an image, where a video is expected"):
        read(path)


@needs_av
def test_a_video_is_no_image(clip):
    with pytest.raises(MediaError, match="a video is read with read_video"):
        read_image(clip)


@needs_av
@pytest.mark.parametrize("rate", [24, FILM, Fraction(30000, 1001), Fraction(25, 2), 60, 7])
@pytest.mark.parametrize("suffix", ["mp4", "webm"])
def test_every_frame_comes_with_its_exact_time(tmp_path, suffix, rate):
    path = write_video(tmp_path / f"clip.{suffix}", pictures(40), rate)
    video = read_video(path)
    assert video.rate == rate and video.times == tuple(i / Fraction(rate) for i in range(40))
    assert video.frames.shape == (40, 32, 48, 3) and video.frames.dtype == np.float32
    assert numbers(video.frames) == [i % LEVELS for i in range(40)]
    info = probe_video(path)
    assert info.rate == rate and abs(info.duration - 40 / Fraction(rate)) < Fraction(1, 1000)


@needs_av
@pytest.mark.parametrize("rate", [24, FILM])
@pytest.mark.parametrize("suffix", ["mp4", "webm"])
def test_sampling_a_file_equals_sampling_its_video(tmp_path, suffix, rate):
    path = write_video(tmp_path / f"clip.{suffix}", pictures(48), rate)
    video = read_video(path)
    for fps in (rate, Fraction(rate, 8), 5, 1, 0.3):
        direct, later = read_video(path, fps=fps), resample(video, fps)
        assert direct.times == later.times and direct.rate == later.rate
        np.testing.assert_array_equal(direct.frames, later.frames)
    direct, later = read_video(path, stride=8), subsample(video, 8)
    assert direct.times == later.times and direct.rate == later.rate == Fraction(rate, 8)
    np.testing.assert_array_equal(direct.frames, later.frames)
    assert direct.times == read_video(path, fps=Fraction(rate, 8)).times


@needs_av
def test_uneven_times_are_kept_and_begin_at_zero(tmp_path):
    path, places = tmp_path / "clip.mp4", (7, 8, 12, 13, 19)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=24)
        stream.width, stream.height, stream.pix_fmt = 48, 32, "yuv420p"
        for place, pixels in zip(places, pictures(5), strict=True):
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            frame.pts, frame.time_base = place, Fraction(1, 24)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    video = read_video(path)
    assert video.times == tuple(Fraction(place - 7, 24) for place in places)
    assert numbers(video.frames) == [0, 1, 2, 3, 4]


@needs_av
def test_a_title_that_is_not_utf8_is_no_reason_to_refuse_a_video(clip, tmp_path):
    path = tmp_path / "clip.mp4"
    path.write_bytes(clip.read_bytes().replace(b"VideoHandler", b"Vid\xe9oHandler"))
    assert path.read_bytes() != clip.read_bytes()
    assert len(read_video(path)) == 48


def test_frames_of_different_sizes_need_a_size(tmp_path, monkeypatch):
    path = write_gif(tmp_path / "film.gif", pictures(3), 100)
    sizes = iter([(4, 6), (4, 6), (6, 4)])
    monkeypatch.setattr(
        files, "stream_video", lambda *_, **__: ((np.zeros((*s, 3)), 0) for s in sizes)
    )
    with pytest.raises(MediaError, match=r"from \(4, 6\) to \(6, 4\) px on the way; .* size="):
        read_video(path)


@needs_av
def test_a_video_of_one_frame(tmp_path):
    video = read_video(write_video(tmp_path / "clip.mp4", pictures(1)))
    assert len(video) == 1 and video.times == (0,)


@needs_av
def test_a_stream_holds_few_frames(tmp_path):
    path = write_video(tmp_path / "clip.mp4", pictures(150, 144, 176))
    tracemalloc.start()
    count = sum(1 for _ in stream_video(path))
    streamed = tracemalloc.get_traced_memory()[1]
    tracemalloc.reset_peak()
    whole = read_video(path).frames.nbytes
    read = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert count == 150
    assert streamed < 10 * whole / 150 and whole < read < 2.2 * whole


@needs_av
def test_a_stream_can_be_left_early(clip):
    stream = stream_video(clip, fps=3)
    assert [next(stream)[1] for _ in range(2)] == [0, Fraction(1, 3)]
    stream.close()


@needs_av
def test_frames_are_resized_while_they_are_read(clip):
    video = read_video(clip, size=(8, 12), stride=5)
    assert video.frames.shape == (10, 8, 12, 3) and video.frames.dtype == np.float32
    assert numbers(video.frames) == [i % LEVELS for i in range(0, 48, 5)]


@needs_av
@pytest.mark.parametrize("turn", [90, 180, 270])
def test_videos_of_a_turned_phone_stand_upright(tmp_path, turn):
    upright = np.full((32, 48, 3), 20, np.uint8)
    upright[:8, :8] = 235  # top left
    stored = np.ascontiguousarray(np.rot90(upright, -turn // 90))
    path = tmp_path / "clip.mp4"
    if not hasattr(av.VideoStream, "set_display_rotation"):
        pytest.skip("this PyAV cannot write how a phone was held")
    frame = read_video(write_video(path, [stored] * 3, rotation=turn)).frames[0]
    assert frame.shape == (32, 48, 3)
    assert np.argwhere(frame.mean(-1) > 0.5).max(0).tolist() == [7, 7]


@pytest.mark.parametrize("suffix", ["gif", "webp", "png"])
def test_an_animation_is_a_video_with_the_times_it_says(tmp_path, suffix):
    stays = [100, 200, 50, 150]
    path = write_gif(tmp_path / f"film.{suffix}", pictures(4), stays, lossless=True)
    video = read_video(path)
    assert numbers(video.frames) == [0, 1, 2, 3] and video.frames.shape == (4, 32, 48, 3)
    assert video.times == (0, Fraction(1, 10), Fraction(3, 10), Fraction(7, 20))
    assert video.rate == 8  # 4 frames in half a second
    assert probe_video(path).duration == Fraction(1, 2)
    sampled = read_video(path, fps=5)
    assert numbers(sampled.frames) == [0, 1, 3] and sampled.times == tuple(
        video.times[i] for i in (0, 1, 3)
    )


def test_frames_of_a_gif_without_a_duration_stay_a_tenth_of_a_second(tmp_path):
    video = read_video(write_gif(tmp_path / "film.gif", pictures(3), 0))
    assert video.rate == 10 and video.times == (0, Fraction(1, 10), Fraction(1, 5))


def test_transparent_frames_of_a_gif_are_seen_on_what_was_there_before(tmp_path):
    first = Image.new("RGBA", (4, 4), (200, 0, 0, 255))
    second = Image.new("RGBA", (4, 4), (0, 0, 0, 0))
    second.putpixel((0, 0), (0, 0, 200, 255))
    first.save(
        tmp_path / "film.gif", save_all=True, append_images=[second], duration=100, disposal=1
    )
    frames = read_video(tmp_path / "film.gif").frames
    np.testing.assert_allclose(frames[1, 1, 1], [200 / 255, 0, 0], atol=1e-6)
    np.testing.assert_allclose(frames[1, 0, 0], [0, 0, 200 / 255], atol=1e-6)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_frames": 3}, r"more than 3 frames of 32 x 48 px, as many as max_frames allows"),
        ({"max_bytes": 5 * 32 * 48 * 12 - 1}, r"more than 4 frames .* max_bytes allows; take f"),
        ({"max_bytes": 10}, r"more than 0 frames"),
    ],
)
def test_more_frames_than_memory_allows_are_refused(tmp_path, options, message):
    path = write_gif(tmp_path / "film.gif", pictures(5), 100)
    with pytest.raises(MediaError, match=message):
        read_video(path, **options)
    assert len(read_video(path, max_frames=5, max_bytes=5 * 32 * 48 * 12)) == 5


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"fps": 0}, "must be positive and finite, got 0"),
        ({"fps": 11}, "cannot keep 11 frames per second of a video that has 10"),
        ({"stride": 0}, "stride must be a positive whole number, got 0"),
        ({"fps": 2, "stride": 2}, "give fps or stride, not both"),
        ({"size": (8,)}, r"size must be \(height, width\) in pixels"),
        ({"size": (0, 8)}, r"size must be \(height, width\) in pixels"),
    ],
)
def test_options_out_of_range_are_refused_before_a_frame_is_read(tmp_path, options, message):
    path = write_gif(tmp_path / "film.gif", pictures(3), 100)
    with pytest.raises(ValueError, match=message):
        stream_video(path, **options)


@needs_av
@pytest.mark.parametrize("suffix", ["mp4", "webm"])
@pytest.mark.parametrize("share", [0.01, 0.3, 0.6])
def test_a_video_cut_short_is_refused(tmp_path, suffix, share):
    rng = np.random.default_rng(0)
    frames = list(rng.integers(0, 256, (48, 32, 48, 3), np.uint8))  # noise is hard to compress
    path = write_video(tmp_path / f"clip.{suffix}", frames, options={"movflags": "faststart"})
    whole = path.read_bytes()
    path.write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(MediaError, match="cut short"):
        read_video(path)


def test_an_animation_cut_short_is_refused(tmp_path):
    rng = np.random.default_rng(0)
    path = write_gif(
        tmp_path / "film.gif", list(rng.integers(0, 256, (4, 32, 48, 3), np.uint8)), 90
    )
    whole = path.read_bytes()
    for share in np.linspace(0.3, 0.99, 12):
        path.write_bytes(whole[: int(share * len(whole))])
        with pytest.raises(MediaError, match="cut short"):
            read_video(path)


@needs_av
def test_sound_is_no_video(tmp_path):
    path = tmp_path / "sound.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=8000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 4096), np.float32), "fltp", "mono")
        frame.sample_rate = 8000
        container.mux(stream.encode(frame))
        container.mux(stream.encode())
    with pytest.raises(MediaError, match="has no pictures: is it sound only"):
        stream_video(path)


@pytest.mark.parametrize(("library", "package"), [("PIL", "Pillow"), ("av", "PyAV")])
def test_a_missing_library_says_what_to_install(tmp_path, monkeypatch, library, package):
    path = tmp_path / "film.mp4"
    path.write_bytes(bytes(range(256)))
    import_module = importlib.import_module

    def absent(name, *arguments):
        if name.partition(".")[0] == library:
            raise ImportError(name)
        return import_module(name, *arguments)

    monkeypatch.setattr("importlib.import_module", absent)
    with pytest.raises(
        ImportError, match=rf"{package} is needed .* pip install .scratch-vlm\[io\]"
    ):
        read_video(path)


def test_neither_library_is_imported_before_a_file_is_read():
    code = (
        "import sys, scratch_vlm.data.files\nprint([m for m in ('PIL', 'av') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
