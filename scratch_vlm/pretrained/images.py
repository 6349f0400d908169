"""Photographs as published models take them: their processors' resizing, cropping, normalising.

What to do is data, read from ``preprocessor_config.json`` or ``processor_config.json`` of a model's
folder. As in the processors, pixels are bytes until they have been resized (by Pillow's filters,
which look at every pixel when they shrink), and numbers after.
"""

import math
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from scratch_vlm.backend import namespace, to_device
from scratch_vlm.data.files import MAX_PIXELS, MediaError, library
from scratch_vlm.pretrained.options import OptionError, Options
from scratch_vlm.pretrained.tensors import read_json
from scratch_vlm.pretrained.vit import whole_patches

CLIP_MEAN, CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
HALF = (0.5, 0.5, 0.5)
FILTERS = ("nearest", "lanczos", "bilinear", "bicubic", "box", "hamming")  # by Pillow's numbers
LONG = MAX_PIXELS // 4  # of a resized image; of one with more only the middle is made
EDGE = 8  # px around a crop that are looked at, too; half a kernel is at most 3 wide


@dataclass(frozen=True)
class Recipe:
    """How an image becomes the input of a model.

    Attributes
    ----------
    size : int or tuple of int or None
        Of the resized image: its shorter side, or height and width. None to leave it.
    filter : str
        One of ``FILTERS``.
    crop : tuple of int or None
        Height and width of the middle part that is kept; what it lacks is black.
    crop_first : bool
        Whether the middle part is cut out before resizing, the share ``size / crop`` of the
        shorter side, as the Perceiver's is.
    squared : bool
        Whether the image is first filled up to a square, with the mean colour, as some LLaVA do.
    scale : float
        What bytes are multiplied by.
    mean, std : tuple of float
        Of the channels, subtracted and divided by.
    tiles : int
        Most tiles of ``size`` that an image is cut into; 0 for a model that takes it whole.
    """

    size: int | tuple[int, int] | None = (224, 224)
    filter: str = "bicubic"
    crop: tuple[int, int] | None = None
    crop_first: bool = False
    squared: bool = False
    scale: float = 1 / 255
    mean: tuple[float, ...] = HALF
    std: tuple[float, ...] = HALF
    tiles: int = 0


_CLIP = Recipe(224, crop=(224, 224), mean=CLIP_MEAN, std=CLIP_STD)
PROCESSORS = {  # what the processors do that are told nothing else
    "CLIPImageProcessor": _CLIP,
    "LlavaImageProcessor": _CLIP,
    "SiglipImageProcessor": Recipe(),
    "ViTImageProcessor": Recipe(filter="bilinear"),
    "IdeficsImageProcessor": Recipe(mean=CLIP_MEAN, std=CLIP_STD),
    "MllamaImageProcessor": Recipe(filter="bilinear", tiles=4),
    "PerceiverImageProcessor": Recipe(
        crop=(256, 256), crop_first=True, mean=IMAGENET_MEAN, std=IMAGENET_STD
    ),
}
FAMILIES = {  # type of a model: its processor
    "clip": "CLIPImageProcessor",
    "clip_vision_model": "CLIPImageProcessor",
    "siglip": "SiglipImageProcessor",
    "siglip_vision_model": "SiglipImageProcessor",
    "vit": "ViTImageProcessor",
    "llava": "CLIPImageProcessor",
    "idefics": "IdeficsImageProcessor",
    "mllama": "MllamaImageProcessor",
    "perceiver": "PerceiverImageProcessor",
}
NO_MATTER = {  # of bookkeeping, or what is always so here
    "_valid_processor_keys", "auto_map", "data_format", "default_to_square", "device",
    "disable_grouping", "do_convert_rgb", "feature_extractor_type", "image_mean", "image_std",
    "image_num_channels", "image_processor_type", "image_seq_length", "input_data_format",
    "pad_size", "processor_class", "return_tensors", "size_divisor",
}  # fmt: skip


def read_recipe(folder, published):
    """Find out how a model's images are prepared.

    Parameters
    ----------
    folder : str or path
        Of the model, perhaps with ``processor_config.json`` or ``preprocessor_config.json``.
    published : dict
        What its config.json says: the kind of model, and its size of images for a folder
        without either file, whose images are then prepared as those of the family usually are.

    Returns
    -------
    Recipe

    Raises
    ------
    FileError
        If a file is damaged.
    OptionError
        If it asks for what is not implemented, or the kind of model is unknown.
    """
    folder, family = Path(folder), published.get("model_type", "")
    content = None
    for name in ("processor_config.json", "preprocessor_config.json"):
        if content is None and (folder / name).exists():
            content, where = read_json(folder / name), name
            if name == "processor_config.json":  # since version 5, it holds the other one
                content = content.get("image_processor")
    if content is None:
        return _usual(published, family)
    return recipe_of(content, family, where=where)


def recipe_of(content, family, *, where="preprocessor_config.json"):
    """Turn a published description of how images are prepared into ours.

    Parameters
    ----------
    content : dict
        As read from ``preprocessor_config.json``.
    family : str
        Type of the model, which says what is meant by what is not said.
    where : str, default "preprocessor_config.json"
        What to call it in errors.

    Returns
    -------
    Recipe

    Raises
    ------
    OptionError
        If it asks for what is not implemented, or the kind of model is unknown.
    """
    if not isinstance(content, dict):
        raise OptionError(f"{where} should describe how images are prepared, got {content!r}")
    options = Options({k: v for k, v in content.items() if v is not None}, where)
    named = options.get("image_processor_type", options.get("feature_extractor_type", ""))
    named = str(named).replace("FeatureExtractor", "ImageProcessor")
    named = named.removesuffix("Fast").removesuffix("Pil")
    named = named if named in PROCESSORS else FAMILIES.get(family)
    if named is None:
        raise OptionError(
            f"{where}: how images of a model of type {family!r} are prepared is not known here; "
            f"known are {', '.join(FAMILIES)}"
        )
    default = PROCESSORS[named]
    shorter = isinstance(default.size, int)  # what is meant by a single number
    recipe = replace(
        default,
        size=_size(options, "size", default.size, shorter),
        filter=_filter(options, default.filter),
        scale=float(options.get("rescale_factor", default.scale)),
        mean=_channels(options, "image_mean", default.mean),
        std=_channels(options, "image_std", default.std),
        squared=_padded(options, default),
    )
    if named == "IdeficsImageProcessor" and options.get("image_size", None) is not None:
        recipe = replace(recipe, size=options.size("image_size", 224))
    if default.tiles:
        recipe = replace(recipe, tiles=options.get("max_image_tiles", default.tiles))
        options.only("do_resize", True)
        if not isinstance(recipe.size, tuple) or len(set(recipe.size)) > 1 or recipe.tiles < 1:
            raise OptionError(f"{where}: tiles must be square and at least one; got {recipe}")
    if default.crop or options.get("do_center_crop", False):
        crop = default.crop or _pair(recipe.size)
        recipe = replace(recipe, crop=_size(options, "crop_size", crop, False))
    if not options.get("do_center_crop", bool(default.crop)):
        recipe = replace(recipe, crop=None)
    if default.crop_first:
        options.only("do_resize", True)
    if not options.get("do_resize", True):
        recipe = replace(recipe, size=None)
    if not options.get("do_rescale", True):
        recipe = replace(recipe, scale=1.0)
    if not options.get("do_normalize", True):
        recipe = replace(recipe, mean=(0.0,) * 3, std=(1.0,) * 3)
    options.done("crop_size", *NO_MATTER)
    return recipe


def prepare_images(images, recipe):
    """Prepare images for a model.

    Parameters
    ----------
    images : sequence of uint8 array of shape (H, W, 3)
        As `read_pixels` reads them, of any sizes.
    recipe : Recipe
        How; without tiles, see `prepare_tiles`.

    Returns
    -------
    array of shape (B, H, W, 3)
        In float32; H and W are now those of the recipe.

    Raises
    ------
    ImportError
        If Pillow is not installed.
    MediaError
        If they come out in different sizes, or one would become too large on the way.

    See Also
    --------
    resize_images, normalize_images : The two halves of it.
    """
    return normalize_images(resize_images(images, recipe), recipe)


def resize_images(images, recipe):
    """Resize and crop images for a model: the half of `prepare_images` that makes bytes.

    Parameters
    ----------
    images, recipe
        As for `prepare_images`.

    Returns
    -------
    uint8 array of shape (B, H, W, 3)

    Raises
    ------
    ImportError, MediaError
        As `prepare_images` does.
    """
    ready = [_resized(_bytes(image), recipe) for image in images]
    sizes = sorted({image.shape[:2] for image in ready})
    if len(sizes) > 1:
        raise MediaError(
            f"the model takes images as large as they are; these are of sizes {sizes[0]} and "
            f"{sizes[1]} px, and cannot be put into one batch"
        )
    return np.stack(ready)


def normalize_images(images, recipe):
    """Turn bytes into the numbers that a model takes: the other half of `prepare_images`.

    Parameters
    ----------
    images : uint8 array of shape (..., 3)
        Resized images, wherever they are: on their way to a device they are best still bytes, a
        quarter as many.
    recipe : Recipe
        How.

    Returns
    -------
    array of shape (..., 3)
        In float32, the same numbers on the host and on a device.

    Raises
    ------
    TypeError
        If the images are not bytes.
    """
    xp = namespace(images)
    if images.dtype != "uint8":
        raise TypeError(f"images must be bytes, as resize_images returns them; got {images.dtype}")
    # Rounded once, as the processors do it: each of the 256 bytes is scaled in double precision.
    y = to_device((np.arange(256) * recipe.scale).astype(np.float32), xp)[images]
    y -= to_device(np.asarray(recipe.mean, np.float32), xp)
    y /= to_device(np.asarray(recipe.std, np.float32), xp)
    return y


def prepare_tiles(images, recipe):
    """Prepare images for a model that takes them in tiles.

    Each image is enlarged or shrunk to fit the arrangement of tiles that shows the most of it,
    is put in its upper left corner, black is put around, and the tiles are cut out.

    Parameters
    ----------
    images : sequence of uint8 array of shape (H, W, 3)
        As `read_pixels` reads them, of any sizes.
    recipe : Recipe
        How; with ``tiles``.

    Returns
    -------
    tiles : array of shape (B, I, H, W, 3)
        In float32; I is ``recipe.tiles``, and tiles that an image has not are 0.
    ratios : integer array of shape (B,)
        How those of each image are arranged, its place in `arrangements`, counted from 1.
    real : boolean array of shape (B, I)
        Which tiles an image has.

    Raises
    ------
    ImportError
        If Pillow is not installed.
    """
    side = recipe.size[0]
    known = arrangements(recipe.tiles)
    tiles = np.zeros((len(images), recipe.tiles, side, side, 3), np.float32)
    ratios, real = np.zeros(len(images), int), np.zeros((len(images), recipe.tiles), bool)
    for i, image in enumerate(images):
        image = _bytes(image)
        rows, columns = best_arrangement(image.shape[:2], recipe.tiles, side)
        height, width = _fit(image.shape[:2], (rows * side, columns * side), side)
        canvas = np.zeros((rows * side, columns * side, 3), np.uint8)
        canvas[:height, :width] = resample(image, (height, width), recipe.filter)
        x = normalize_images(canvas, recipe).reshape(rows, side, columns, side, 3)
        tiles[i, : rows * columns] = x.swapaxes(1, 2).reshape(-1, side, side, 3)
        ratios[i] = known.index((rows, columns)) + 1
        real[i, : rows * columns] = True
    return tiles, ratios, real


def arrangements(tiles):
    """List all ways to lay out at most so many tiles as a rectangle.

    Parameters
    ----------
    tiles : int
        Most of them.

    Returns
    -------
    list of tuple of int
        Rows and columns of each; their order is that of a model's table.

    Examples
    --------
    >>> arrangements(4)
    [(1, 1), (1, 2), (1, 3), (1, 4), (2, 1), (2, 2), (3, 1), (4, 1)]
    """
    sides = range(1, tiles + 1)
    return [(a, b) for a in sides for b in sides if a * b <= tiles]


def best_arrangement(size, tiles, side):
    """Choose how many tiles an image is shown on.

    Parameters
    ----------
    size : tuple of int
        Height and width of the image, in pixels.
    tiles : int
        Most tiles.
    side : int
        Of a tile, in pixels.

    Returns
    -------
    tuple of int
        Rows and columns: those that enlarge the image least, or if it must be shrunk, shrink it
        least; of equal ones the fewest tiles.

    Examples
    --------
    >>> best_arrangement((300, 500), 4, 560), best_arrangement((4000, 1000), 4, 560)
    ((1, 1), (4, 1))
    """

    def cost(arrangement):
        scale = min(n * side / length for n, length in zip(arrangement, size, strict=True))
        return (scale < 1, scale if scale >= 1 else -scale, math.prod(arrangement))

    return min(arrangements(tiles), key=cost)


def resample(image, size, filter="bicubic", *, box=None):
    """Resize an image by Pillow, which looks at every pixel when it shrinks.

    Parameters
    ----------
    image : uint8 array of shape (H, W, 3)
        Pixels.
    size : tuple of int
        New height and width.
    filter : str, default "bicubic"
        One of ``FILTERS``.
    box : tuple of float, optional
        Left, top, right and bottom of the part to resize; default all of it.

    Returns
    -------
    uint8 array of shape (H, W, 3)

    Raises
    ------
    ImportError
        If Pillow is not installed.
    """
    pil = library("PIL.Image")
    height, width = size
    resized = pil.fromarray(image).resize((width, height), FILTERS.index(filter), box=box)
    return np.asarray(resized)


def center_crop(image, size):
    """Cut the middle out of an image, with black around where it is too small.

    Parameters
    ----------
    image : array of shape (H, W, C)
        Pixels.
    size : tuple of int
        Height and width of the middle.

    Returns
    -------
    array of shape (I, J, C)
        Of that size.
    """
    y = np.zeros((*size, image.shape[2]), image.dtype)
    source, target = [], []
    for old, new in zip(image.shape[:2], size, strict=True):
        start = (old - new) // 2 if old >= new else -((new - old + 1) // 2)
        source.append(slice(max(start, 0), min(start + new, old)))
        target.append(slice(max(-start, 0), max(-start, 0) + min(old, new)))
    y[tuple(target)] = image[tuple(source)]
    return y


def fit_patches(images, patch):
    """Leave out the pixels on the right and below that no whole patch covers.

    Parameters
    ----------
    images : array of shape (..., H, W, C)
        Images.
    patch : tuple of int
        Height and width of a patch.

    Returns
    -------
    array of shape (..., I, J, C)
    """
    height, width = whole_patches(images.shape[-3:-1], patch)
    return np.ascontiguousarray(images[..., :height, :width, :])


def _resized(image, recipe):
    if recipe.squared:
        image = _square(image, recipe.mean)
    height, width = image.shape[:2]
    if recipe.crop and recipe.crop_first:
        shares = (a / b for a, b in zip(_pair(recipe.size), recipe.crop, strict=True))
        image = center_crop(image, tuple(max(1, int(s * min(height, width))) for s in shares))
        return resample(image, recipe.size, recipe.filter)
    if recipe.size is None:
        return image if recipe.crop is None else center_crop(image, recipe.crop)
    if isinstance(recipe.size, tuple):
        size = recipe.size
    elif width <= height:
        size = (int(recipe.size * height / width), recipe.size)
    else:
        size = (recipe.size, int(recipe.size * width / height))
    if recipe.crop is None:
        _check_size(size)
        return resample(image, size, recipe.filter)
    return center_crop(_resized_around(image, size, recipe), recipe.crop)


def _resized_around(image, size, recipe):
    # Of a long strip only the middle is kept, so no more than that and its surroundings is resized.
    kept, spans, cut = [], [], []
    whole = math.prod(size) <= LONG
    for old, new, crop in zip(image.shape[:2], size, recipe.crop, strict=True):
        start = 0 if whole else max(0, (new - crop) // 2 - EDGE)
        begin, end = start * old / new, (new - start) * old / new
        first = max(0, math.floor(begin) - EDGE)
        kept.append(new - 2 * start)
        spans.append((begin - first, end - first))
        cut.append(slice(first, math.ceil(end) + EDGE))
    _check_size(kept)
    (top, bottom), (left, right) = spans
    image = np.ascontiguousarray(image[tuple(cut)])
    return resample(image, kept, recipe.filter, box=(left, top, right, bottom))


def _fit(size, canvas, side):
    # An image is never shrunk below the side of a tile, nor enlarged beyond it.
    target = [min(max(old, side), most) for old, most in zip(size, canvas, strict=True)]
    down, right = (new / old for new, old in zip(target, size, strict=True))
    if right < down:
        return min(math.floor(size[0] * right) or 1, target[0]), target[1]
    return target[0], min(math.floor(size[1] * down) or 1, target[1])


def _square(image, mean):
    height, width = image.shape[:2]
    side = max(height, width)
    _check_size((side, side))
    y = np.empty((side, side, 3), np.uint8)
    y[:] = [int(255 * m) for m in mean]
    top, left = (side - height) // 2, (side - width) // 2
    y[top : top + height, left : left + width] = image
    return y


def _bytes(image):
    image = np.asarray(image)
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or not image.size:
        raise ValueError(
            f"images must be bytes (H, W, 3), as read_pixels reads them; got {image.dtype} "
            f"{image.shape}"
        )
    return image


def _check_size(size):
    height, width = size
    if height * width > MAX_PIXELS:
        raise MediaError(
            f"on its way into the model the image would be {height} x {width} px; at most "
            f"{MAX_PIXELS:,} pixels are made. Cut off the ends of what is so long"
        )


def _usual(published, family):
    if family not in FAMILIES:
        raise OptionError(
            f"how images of a model of type {family!r} are prepared is not known here; known are "
            f"{', '.join(FAMILIES)}"
        )
    vision = Options(published.get("vision_config") or published)
    tower = vision.get("model_type", "") if family == "llava" else family
    recipe = PROCESSORS[FAMILIES.get(tower, FAMILIES[family])]
    if family == "mllama":  # the released models are normalised like CLIP
        recipe = replace(recipe, mean=CLIP_MEAN, std=CLIP_STD)
        recipe = replace(recipe, tiles=vision.get("max_num_tiles", recipe.tiles))
    if not recipe.crop_first:
        side = vision.size("image_size", {"mllama": 448}.get(family, 224))
        size = side[0] if isinstance(recipe.size, int) and len(set(side)) == 1 else side
        recipe = replace(recipe, size=size, crop=recipe.crop and side)
    return recipe


def _size(options, name, default, shorter):
    value = options.get(name, default, like=())  # checked below
    if isinstance(value, dict):
        keys = {key for key, n in value.items() if n is not None}
        if keys == {"shortest_edge"} and name == "size":
            value = value["shortest_edge"]
        elif keys == {"height", "width"}:
            value = (value["height"], value["width"])
    elif isinstance(value, int) and not (shorter and name == "size"):
        value = (value, value)
    value = tuple(value) if isinstance(value, list) else value
    numbers = value if isinstance(value, tuple) and len(value) == 2 else (value,)
    if not all(type(n) is int and n > 0 for n in numbers):
        raise OptionError(
            f"{options.where}: {name} {value!r} is not implemented; known are height and width, or "
            "shortest_edge"
        )
    return value


def _pair(size):
    return (size, size) if isinstance(size, int) else size


def _filter(options, default):
    number = options.get("resample", FILTERS.index(default))
    if type(number) is not int or not 0 <= number < len(FILTERS):
        raise OptionError(
            f"{options.where}: resample {number!r} is unknown; 0 to 5 are {', '.join(FILTERS)}"
        )
    return FILTERS[number]


def _channels(options, name, default):
    value = options.get(name, list(default), like=())
    value = [value] * 3 if isinstance(value, int | float) else value
    if not isinstance(value, list) or len(value) != 3:
        raise OptionError(f"{options.where}: {name} should be three numbers, got {value!r}")
    if not all(isinstance(n, int | float) and math.isfinite(n) for n in value) or (
        name == "image_std" and 0 in value
    ):
        raise OptionError(f"{options.where}: {name} {value!r} cannot be used")
    return tuple(map(float, value))


def _padded(options, default):
    aspect = options.only("image_aspect_ratio", "square", "pad")
    if default.tiles:
        options.only("do_pad", True)
        return False
    return bool(options.get("do_pad", False)) or aspect == "pad"
