"""Photographs as published models take them, beside what their own processors make of them."""

import json
import warnings
from dataclasses import replace

import numpy as np
import pytest

from scratch_vlm.backend import to_device, to_host
from scratch_vlm.data.files import MediaError, read_image, read_pixels
from scratch_vlm.pretrained.images import (
    CLIP_MEAN,
    FAMILIES,
    PROCESSORS,
    best_arrangement,
    center_crop,
    normalize_images,
    prepare_images,
    prepare_tiles,
    read_recipe,
    recipe_of,
    resample,
)
from scratch_vlm.pretrained.options import OptionError
from scratch_vlm.pretrained.tensors import FileError

Image = pytest.importorskip("PIL.Image", reason="Pillow, of the extra io, is not installed")

TYPES = {
    "clip": "CLIP", "siglip": "Siglip", "vit": "ViT", "llava": "Llava", "idefics": "Idefics",
    "mllama": "Mllama", "perceiver": "Perceiver",
}  # fmt: skip
VARIANTS = [
    *((family, {}) for family in TYPES),
    ("clip", {"resample": 1, "size": {"shortest_edge": 90}, "crop_size": 77}),
    ("llava", {"do_pad": True}),
    SMALLER := ("llava", {"size": {"shortest_edge": 100},
                          "crop_size": {"height": 131, "width": 90}}),
    ("siglip", {"size": {"height": 97, "width": 130}, "resample": 2}),
    ("vit", {"do_normalize": False, "size": {"height": 31, "width": 30}}),
    ("idefics", {"image_size": 112}),
    ("mllama", {"size": {"height": 140, "width": 140}, "max_image_tiles": 6}),
    ("perceiver", {"crop_size": {"height": 300, "width": 240}}),
]  # fmt: skip


def gradient(height, width):
    """Make an image of smooth colours with some sharp edges."""
    y, x = np.mgrid[:height, :width]
    image = np.stack([255 * x / width, 255 * y / height, 127 + 127 * np.sin(x * y / 99)], -1)
    image[y % 37 < 3] = 20
    return image.astype(np.uint8)


def photographs():
    data = pytest.importorskip("skimage.data", reason="scikit-image is not installed")
    samples = pytest.importorskip("sklearn.datasets", reason="scikit-learn is not installed")
    yield from (data.coffee(), data.chelsea(), data.astronaut())
    china = samples.load_sample_image("china.jpg")
    yield from (china, china[:90], china[:, :200], china[200:263, 300:341])


def prepared(image, recipe):
    """Return what a model is shown, with the tiles of one image as a batch."""
    if recipe.tiles:
        tiles, ratios, real = prepare_tiles([image], recipe)
        return tiles[0], {"aspect_ratio_ids": ratios, "aspect_ratio_mask": real}
    return prepare_images([image], recipe)[0], {}


def processor_class(family, on):
    """Find the processor of a family that works with Pillow, or the one with torchvision."""
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    if on == "torchvision":  # a build for another torch fails with RuntimeError
        reason = "torchvision is not installed, or does not fit torch"
        pytest.importorskip("torchvision", reason=reason, exc_type=(ImportError, RuntimeError))
    name = f"{TYPES[family]}ImageProcessor{'Pil' if on == 'Pillow' else ''}"
    processor = getattr(transformers, name, None)
    if processor is None:
        pytest.skip(f"this version of transformers has no {name}")
    return processor


@pytest.mark.parametrize(
    ("on", "most"), [("Pillow", 1e-6), ("torchvision", 1.001 / 255)], ids=["Pillow", "torchvision"]
)
@pytest.mark.parametrize(("family", "options"), VARIANTS, ids=str)
def test_photographs_are_prepared_as_the_published_processors_do(family, options, on, most):
    processor = processor_class(family, on)
    if on == "torchvision" and (family, options) == SMALLER:
        pytest.skip("an image smaller than its crop stands one row lower with Pillow")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        processor = processor(**options)
    recipe = recipe_of(json.loads(processor.to_json_string()), family)
    for image in photographs():
        if on == "torchvision" and max(image.shape[:2]) > 2 * min(image.shape[:2]):
            continue  # strips differ by a few bytes
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            reference = processor(Image.fromarray(image), return_tensors="np")
        pixels = reference["pixel_values"] if hasattr(reference, "keys") else reference
        ours, also = prepared(image, recipe)
        wanted = np.moveaxis(np.asarray(pixels[0]).reshape(-1, *pixels.shape[-3:]), 1, -1)
        off = np.abs((ours - wanted.reshape(ours.shape)) * recipe.std)
        if on == "torchvision":  # which rounds between its passes, and on strips once more
            assert off.max() < 2 * most and (off > most).mean() < 1e-4
        else:
            assert off.max() < most
        for key, value in also.items():
            np.testing.assert_array_equal(value.reshape(-1), np.ravel(reference[key]))


EXPECTED = [  # of gradient(150, 211): a corner, a place in the middle, mean, standard deviation
    ("CLIP", [-1.50029, -1.45194, -1.19582], [-0.59519, -0.04121, 1.44911], 0.026935, 1.093133),
    ("Siglip", [-0.84314, -0.84314, -0.84314], [-0.4902, -0.10588, -0.89804], -0.081149, 0.624325),
    ("ViT", [-0.84314, -0.84314, -0.84314], [-0.4902, -0.10588, -0.82745], -0.081167, 0.595597),
    ("Llava", [-1.50029, -1.45194, -1.19582], [-0.59519, -0.04121, 1.44911], 0.026935, 1.093133),
    ("Idefics", [-1.50029, -1.45194, -1.19582], [-0.84336, -0.04121, -1.29536], 0.036481, 1.166253),
    ("Mllama", [-0.84314, -0.84314, -0.84314], [-0.4902, 0.27059, 0.84314], -0.347586, 0.652255),
    ("Perceiver", [-1.29592, -1.77311, -0.5844], [-0.61093, -0.02241, 0.09534], 0.075144, 1.237426),
]


@pytest.mark.parametrize(("kind", "corner", "middle", "mean", "std"), EXPECTED)
def test_numbers_are_those_that_the_processors_gave(kind, corner, middle, mean, std):
    image, _ = prepared(gradient(150, 211), PROCESSORS[f"{kind}ImageProcessor"])
    image = image[0] if image.ndim == 4 else image
    near = 1.01 / 255 / 0.22  # a step of a byte
    np.testing.assert_allclose(image[0, 0], corner, atol=near)
    np.testing.assert_allclose(image[101, 57], middle, atol=near)
    np.testing.assert_allclose((image.mean(), image.std()), (mean, std), atol=1e-3)


@pytest.mark.parametrize(("height", "width"), [(1, 1), (1, 20_000), (20_000, 1), (3, 500)])
@pytest.mark.parametrize("kind", PROCESSORS)
def test_very_small_and_very_long_images_have_a_defined_result(kind, height, width):
    image = gradient(height, width)
    ours, _ = prepared(image, PROCESSORS[kind])
    size = 224
    assert ours.shape[-3:] == (size, size, 3) and np.isfinite(ours).all()


def test_middle_of_a_long_strip_is_that_of_the_whole_strip_resized():
    strip, recipe = gradient(4, 1500), PROCESSORS["CLIPImageProcessor"]
    for image in (strip, strip.swapaxes(0, 1)):
        wide = image.shape[1] > image.shape[0]
        whole = resample(image, (224, 84_000) if wide else (84_000, 224))
        ours = prepare_images([image], recipe)[0] * recipe.std + recipe.mean
        off = np.abs(ours * 255 - center_crop(whole, (224, 224)))
        assert off.max() < 2.001 and off.mean() < 0.05  # rounded twice, each to whole bytes


def test_what_would_become_too_large_on_the_way_is_refused():
    recipe = recipe_of({"do_pad": True}, "llava")
    with pytest.raises(MediaError, match=r"would be 20000 x 20000 px; at most 64,000,000"):
        prepare_images([gradient(1, 20_000)], recipe)
    with pytest.raises(MediaError, match=r"would be 224 x 4480000 px"):
        prepare_images([gradient(1, 20_000)], recipe_of({"do_center_crop": False}, "clip"))


def test_image_file_of_too_many_pixels_is_refused_before_it_is_decoded(tmp_path):
    Image.new("1", (20_000, 20_000)).save(tmp_path / "bomb.png")
    with pytest.raises(MediaError, match=r"bomb.png is too large|20000 x 20000 px"):
        read_pixels(tmp_path / "bomb.png")


def modes():
    rgb = Image.fromarray(gradient(12, 17))
    yield "RGB", rgb, rgb
    yield "L", rgb.convert("L"), rgb.convert("L").convert("RGB")
    yield "P", rgb.convert("P"), rgb.convert("P").convert("RGB")
    yield "CMYK", rgb.convert("CMYK"), rgb.convert("CMYK").convert("RGB")
    yield "1", rgb.convert("1"), rgb.convert("1").convert("RGB")
    clear = rgb.convert("RGBA")
    clear.putalpha(rgb.getchannel(0))
    white = Image.new("RGBA", rgb.size, "white")
    yield "RGBA", clear, Image.alpha_composite(white, clear).convert("RGB")
    grey = np.asarray(rgb.convert("L")).astype(np.uint16) * 257
    yield "I;16", Image.fromarray(grey), rgb.convert("L").convert("RGB")


@pytest.mark.parametrize(("mode", "image", "wanted"), list(modes()), ids=lambda x: str(x)[:5])
def test_every_mode_of_an_image_becomes_rgb(tmp_path, mode, image, wanted):
    path = tmp_path / ("a.tif" if mode == "CMYK" else "a.png")
    image.save(path)
    found = read_pixels(path)
    assert found.dtype == np.uint8 and found.shape == (12, 17, 3)
    assert np.abs(found.astype(int) - np.asarray(wanted)).max() <= 1
    np.testing.assert_allclose(read_image(path), found / 255, atol=0.51 / 255)


def test_image_is_turned_as_the_camera_was_held(tmp_path):
    image = Image.fromarray(gradient(12, 17))
    exif = Image.Exif()
    exif[0x0112] = 6
    image.save(tmp_path / "a.png", exif=exif)
    np.testing.assert_array_equal(read_pixels(tmp_path / "a.png"), np.rot90(gradient(12, 17), -1))


def test_small_image_gets_black_around():
    image = np.full((1, 2, 3), 9, np.uint8)
    cropped = center_crop(image, (4, 3))[..., 0]
    assert cropped.tolist() == [[0, 0, 0], [0, 0, 0], [0, 9, 9], [0, 0, 0]]


@pytest.mark.parametrize(
    ("size", "arrangement"),
    [((560, 560), (1, 1)), ((560, 1120), (1, 2)), ((100, 10_000), (1, 4)), ((900, 900), (2, 2))],
)
def test_arrangement_of_tiles_enlarges_least(size, arrangement):
    assert best_arrangement(size, 4, 560) == arrangement


def test_folder_without_a_description_prepares_as_its_family(tmp_path):
    vision = {"image_size": 336, "model_type": "clip_vision_model"}
    recipe = read_recipe(tmp_path, {"model_type": "llava", "vision_config": vision})
    assert recipe.size == 336 and recipe.crop == (336, 336) and recipe.mean == CLIP_MEAN
    assert set(FAMILIES.values()) <= set(PROCESSORS)


def test_old_and_new_files_say_the_same(tmp_path):
    old = {"feature_extractor_type": "CLIPFeatureExtractor", "size": 98, "crop_size": 98}
    new = {"image_processor_type": "CLIPImageProcessorFast", "size": {"shortest_edge": 98}}
    new["crop_size"] = {"height": 98, "width": 98}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(old))
    before = read_recipe(tmp_path, {"model_type": "clip"})
    (tmp_path / "processor_config.json").write_text(json.dumps({"image_processor": new}))
    (tmp_path / "preprocessor_config.json").write_text("{}")
    assert read_recipe(tmp_path, {"model_type": "clip"}) == before == recipe_of(old, "clip")


@pytest.mark.parametrize(
    ("content", "family", "said"),
    [
        ({"size": {"longest_edge": 5}}, "clip", "size .* is not implemented"),
        ({"size": -1}, "clip", "size -1 is not implemented"),
        ({"resample": 9}, "clip", "resample 9 is unknown"),
        ({"image_mean": [0.5]}, "clip", "image_mean should be three numbers"),
        ({"image_std": [1, 0, 1]}, "vit", "image_std .* cannot be used"),
        ({"do_reduce_labels": True}, "vit", "not known here: do_reduce_labels"),
        ({"do_resize": "yes"}, "vit", "do_resize must be true or false"),
        ({"size": {"height": 5, "width": 6}}, "mllama", "tiles must be square"),
        ({}, "whisper", "model of type 'whisper' .* known are clip"),
        ([], "clip", "should describe how images are prepared"),
    ],
)
def test_descriptions_that_are_not_understood_are_refused(content, family, said):
    with pytest.raises(OptionError, match=said):
        recipe_of(content, family)


def test_damaged_description_is_named(tmp_path):
    (tmp_path / "preprocessor_config.json").write_text("{")
    with pytest.raises(FileError, match=r"preprocessor_config.json is no JSON"):
        read_recipe(tmp_path, {"model_type": "clip"})


@pytest.mark.parametrize("name", PROCESSORS)
def test_bytes_become_the_same_numbers_on_a_device(name, xp):
    images = np.arange(768).reshape(1, 16, 16, 3).astype("uint8")
    images = np.concatenate([images, images[..., ::-1], images[:, ::-1]])
    recipe = replace(PROCESSORS[name], scale=1 / 254.7)
    there = normalize_images(to_device(images, xp), recipe)
    np.testing.assert_array_equal(to_host(there), normalize_images(images, recipe))
    assert there.dtype == "float32"


def test_images_of_other_kinds_are_refused():
    with pytest.raises(ValueError, match=r"must be bytes \(H, W, 3\)"):
        prepare_images([np.zeros((4, 4, 3))], PROCESSORS["ViTImageProcessor"])
    with pytest.raises(TypeError, match=r"must be bytes, as resize_images .* got float64"):
        normalize_images(np.zeros((1, 4, 4, 3)), PROCESSORS["ViTImageProcessor"])
    loose = recipe_of({"do_resize": False, "do_center_crop": False}, "clip")
    with pytest.raises(MediaError, match=r"of sizes \(4, 5\) and \(5, 4\)"):
        prepare_images([gradient(4, 5), gradient(5, 4)], loose)
