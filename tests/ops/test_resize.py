"""Resizing, against Pillow and against what every resampling must do."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from scratch_vlm.ops.resize import METHODS, resize_backward, resize_forward, resize_matrix

PILLOW = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}
lengths, seeds = st.integers(1, 12), st.integers(0, 2**32 - 1)
methods, antialiases = st.sampled_from(METHODS), st.booleans()


def picture(height, width):
    """Smooth waves, an edge and grain: what photographs are made of."""
    y, x = np.mgrid[:height, :width]
    waves = np.sin(y / 5) * np.cos(x / 7) + (x + y > 40)
    return (waves + np.random.default_rng(0).normal(0, 0.2, waves.shape)).astype(np.float32)


@pytest.mark.parametrize("size", [(48, 80), (12, 20), (97, 11), (7, 131), (48, 33), (1, 1)])
@pytest.mark.parametrize("method", ["bilinear", "bicubic"])
def test_antialiased_resizing_is_that_of_pillow(method, size):
    image = picture(48, 64)
    theirs = np.asarray(Image.fromarray(image).resize(size[::-1], PILLOW[method]))
    ours, _ = resize_forward(image[None, :, :, None], size=size, method=method)
    assert ours.dtype == np.float32
    np.testing.assert_allclose(ours[0, :, :, 0], theirs, rtol=0, atol=1e-5 * np.abs(image).max())


@given(seeds, lengths, lengths, methods, antialiases)
def test_resizing_to_the_same_size_is_the_identity(seed, h, w, method, antialias):
    x = np.random.default_rng(seed).standard_normal((2, h, w, 3))
    y, _ = resize_forward(x, size=(h, w), method=method, antialias=antialias)
    assert np.array_equal(y, x)


@given(lengths, lengths, methods, antialiases)
def test_constant_images_stay_constant(old, new, method, antialias):
    x = np.full((1, old, old, 2), 0.7)
    y, _ = resize_forward(x, size=(new, new), method=method, antialias=antialias)
    np.testing.assert_allclose(y, 0.7, rtol=1e-14)


@given(lengths, lengths, methods, antialiases)
def test_resizing_a_mirrored_line_mirrors_the_result(old, new, method, antialias):
    matrix = resize_matrix(old, new, method, antialias)
    np.testing.assert_allclose(matrix[::-1, ::-1], matrix, atol=1e-14)


@pytest.mark.parametrize("method", ["bilinear", "bicubic"])  # a = -0.75 bends it a little
def test_a_ramp_stays_a_ramp_away_from_the_border(method):
    ramp = np.arange(16.0)
    middle = resize_matrix(16, 32, method)[6:-6] @ ramp
    np.testing.assert_allclose(middle, (np.arange(32) + 0.5)[6:-6] / 2 - 0.5)


def test_cubic_weights_are_those_of_keys():
    # Doubling looks a quarter of a pixel beside the old one; a = -1/2 in equation 15 there.
    row = resize_matrix(8, 16, "bicubic")[8]
    np.testing.assert_allclose(row[2:6], np.array([-3, 29, 111, -9]) / 128)


def test_a_border_that_is_repeated_weighs_as_in_pytorch():
    # torch.nn.functional.interpolate(torch.eye(4)[None, None], size=(8, 4), mode="bicubic") * 256
    right = [[283, -27, 0, 0], [198, 67, -9, 0], [58, 225, -27, 0], [-27, 225, 67, -9]]
    matrix = resize_matrix(4, 8, "bicubic_repeat")
    np.testing.assert_allclose(256 * matrix[:4], right, atol=1e-12)


def test_antialiasing_lets_every_old_pixel_count():
    assert (resize_matrix(12, 3, "bilinear", True).sum(0) > 0).all()
    assert (resize_matrix(12, 3, "bilinear", False).sum(0) == 0).any()


@given(lengths, lengths, methods)
def test_antialiasing_changes_nothing_when_enlarging(old, more, method):
    new = old + more
    assert np.array_equal(
        resize_matrix(old, new, method, True), resize_matrix(old, new, method, False)
    )


@given(seeds, lengths, lengths, lengths, lengths, methods, antialiases)
def test_backward_is_the_transpose_of_forward(seed, h, w, i, j, method, antialias):
    rng = np.random.default_rng(seed)
    x, dy = rng.standard_normal((2, h, w, 3)), rng.standard_normal((2, i, j, 3))
    y, saved = resize_forward(x, size=(i, j), method=method, antialias=antialias)
    dx = resize_backward(dy, saved)
    scale = np.linalg.norm(y) * np.linalg.norm(dy)
    assert dx.shape == x.shape
    assert abs((y * dy).sum() - (x * dx).sum()) <= 1e-13 * scale


def test_complex_images_are_resized_part_by_part():
    rng = np.random.default_rng(0)
    a, b = rng.standard_normal((2, 1, 4, 5, 2))
    together, _ = resize_forward(a + 1j * b, size=(3, 7))
    apart = [resize_forward(part, size=(3, 7))[0] for part in (a, b)]
    assert together.dtype == np.complex128
    np.testing.assert_allclose(together, apart[0] + 1j * apart[1], rtol=1e-14, atol=1e-15)


def test_matrices_are_kept_and_cannot_be_changed():
    matrix = resize_matrix(5, 3, "bicubic", True)
    assert resize_matrix(5, 3, "bicubic", True) is matrix
    with pytest.raises(ValueError, match="read-only"):
        matrix[0, 0] = 1


@pytest.mark.parametrize("size", [(0, 3), (3, -1), 8, (2.0, 3), (2, 3, 1)])
def test_a_size_without_pixels_is_refused(size):
    with pytest.raises(ValueError, match=r"size must be \(height, width\) .* positive .*; got"):
        resize_forward(np.ones((1, 4, 4, 1)), size=size)


def test_an_unknown_method_is_refused_with_those_that_there_are():
    with pytest.raises(ValueError, match=r"'nearest'.*bilinear, bicubic"):
        resize_forward(np.ones((1, 4, 4, 1)), size=(2, 2), method="nearest")


def test_bytes_are_refused_with_how_to_scale_them():
    with pytest.raises(TypeError, match=r"uint8.*/ 255"):
        resize_forward(np.ones((1, 4, 4, 1), np.uint8), size=(2, 2))


def test_a_list_of_images_is_refused():
    with pytest.raises(TypeError, match="got list"):
        resize_forward([[[[1.0]]]], size=(2, 2))


def test_images_without_a_channel_axis_are_refused():
    with pytest.raises(ValueError, match=r"\(4, 4, 1\)"):
        resize_forward(np.ones((4, 4, 1)), size=(2, 2))
