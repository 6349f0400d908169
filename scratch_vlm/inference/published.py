"""Published models at work: opened with all that belongs to them, asked, and made to embed.

The folder of a published model holds ``config.json``, ``model.safetensors`` (or its shards),
``tokenizer.json`` and ``preprocessor_config.json``. Nothing is ever downloaded.
"""

from pathlib import Path
from typing import NamedTuple

import numpy as np

from scratch_vlm.inference.answer import answer
from scratch_vlm.inference.embed import embed_images, embed_texts
from scratch_vlm.inference.tiled import answer_tiled
from scratch_vlm.pretrained.images import (
    Recipe,
    fit_patches,
    prepare_images,
    prepare_tiles,
    read_recipe,
)
from scratch_vlm.pretrained.llava import used
from scratch_vlm.pretrained.load import Pretrained, configure, load_pretrained
from scratch_vlm.pretrained.options import OptionError
from scratch_vlm.pretrained.prompts import write_prompt
from scratch_vlm.pretrained.tensors import FileError, read_json
from scratch_vlm.pretrained.tokenizer import TextReader, read_tokenizer

CLIPS = ("CLIPModel", "SiglipModel")
CHATS = (
    "LlavaForConditionalGeneration",
    "IdeficsForVisionText2Text",
    "MllamaForConditionalGeneration",
)
WHERE = (
    "a published model is a folder with config.json, model.safetensors, tokenizer.json and "
    "preprocessor_config.json, written by save_pretrained of the Transformers library, or "
    "downloaded from the Hugging Face Hub: hf download openai/clip-vit-base-patch32 --local-dir "
    "clip (pip install huggingface_hub); scratch-vlm itself downloads nothing"
)


class Published(NamedTuple):
    """A published model and what belongs to it.

    Attributes
    ----------
    model : Pretrained
        Config and parameters.
    recipe : Recipe
        How its images are prepared.
    reader : TextReader
        Its tokenizer.
    stop : tuple of int
        Tokens that end an answer.
    folder : path
        Where it was found.
    """

    model: Pretrained
    recipe: Recipe
    reader: TextReader
    stop: tuple
    folder: Path

    @property
    def family(self):
        """Type of the model, such as ``"clip"``."""
        return self.model.published["model_type"]


def is_published(folder):
    """Tell the folder of a published model from that of a run, and from others.

    Parameters
    ----------
    folder : str or path
        A folder.

    Returns
    -------
    bool
    """
    folder = Path(folder)
    return (folder / "config.json").is_file() and not (folder / "model.json").exists()


def open_published(folder, *, kinds=(*CLIPS, *CHATS), on_tensor=None):
    """Open a published model with all that belongs to it.

    Parameters
    ----------
    folder : str or path
        As `save_pretrained` of the Transformers library writes it, for model and processor.
    kinds : sequence of str, optional
        Classes of the reference that will do; others are refused before weights are read.
    on_tensor : callable, optional
        ``on_tensor(name, count)`` for each tensor that was read, for a progress bar.

    Returns
    -------
    Published

    Raises
    ------
    FileError
        If files are missing or damaged, or do not fit each other.
    OptionError
        If the model is of another kind, or asks for what is not implemented.
    """
    folder = Path(folder)
    published = read_json(folder / "config.json")
    kind, config, _ = configure(published)
    if kind not in kinds:
        raise OptionError(f"{folder} holds a {kind}, where {' or '.join(kinds)} is needed")
    family = published.setdefault("model_type", "")
    recipe = read_recipe(folder, published)
    reader = read_tokenizer(folder, family)
    known = len(reader)
    words = _words(config)
    if known > words:
        raise FileError(f"{folder}: the tokenizer has {known} tokens, the model knows {words}")
    model = load_pretrained(folder, on_tensor=on_tensor)
    return Published(model, recipe, reader, _stops(folder, published, reader), folder)


def embed_pictures(published, images, *, size=8):
    """Encode photographs with the image tower of a published CLIP or SigLIP.

    Parameters
    ----------
    published : Published
        The model.
    images : sequence of uint8 array of shape (H, W, 3)
        As `read_pixels` reads them.
    size : int, default 8
        Images in memory at once.

    Returns
    -------
    array of shape (B, E)
        Unit vectors.
    """
    config, p = published.model.config, published.model.p
    batches = range(0, len(images), size)
    return np.concatenate(
        [
            embed_images(_fitted(published, images[i : i + size]), p, config, size=size)
            for i in batches
        ]
    )


def embed_words(published, texts):
    """Encode texts with the text tower of a published CLIP or SigLIP.

    Parameters
    ----------
    published : Published
        The model.
    texts : sequence of str
        Any texts.

    Returns
    -------
    array of shape (B, E)
        Unit vectors.

    Raises
    ------
    ValueError
        If a text is longer than the model reads, or holds a special token.
    """
    model, reader = published.model, published.reader
    pad = reader.id("pad_token") if "pad_token" in reader.specials else None
    if pad is None:
        pad = model.published.get("text_config", {}).get("pad_token_id", 1)
    ids = reader.rows(texts, model.config.text.context, pad=pad)
    return embed_texts(ids, model.p, model.config, size=32)


def answer_pictures(published, images, question, *, new, **options):
    """Let a published model answer a question about photographs.

    Parameters
    ----------
    published : Published
        A LLaVA, an Idefics or an Mllama.
    images : sequence of uint8 array of shape (H, W, 3)
        As `read_pixels` reads them; of a video some frames, in their order.
    question : str
        What to ask.
    new : int
        Most tokens of the answer; fewer where the model has no more room.
    **options
        See `decode`.

    Returns
    -------
    Generated

    Raises
    ------
    FileError
        If the tokenizer does not fit the model, or the chat template is damaged.
    ValueError
        If the question is too long, or holds a special token.
    """
    model, config = published.model, published.model.config
    unified = published.family == "llava"
    prompt, _ = write_prompt(
        published.reader,
        published.family,
        question,
        images=len(images),
        image=config.image,
        span=config.sight.tokens() if unified else 1,
    )
    lm = config.text.lm if published.family == "mllama" else config.lm
    room = lm.context - len(prompt)
    if room < 1:
        raise ValueError(
            f"the question and what it is about are {len(prompt)} tokens; the model reads "
            f"{lm.context}, its answer included"
        )
    options = {"new": min(new, room), "stop": published.stop, **options}
    if published.family == "mllama":
        tiles, ratios, real = prepare_tiles(images, published.recipe)
        tiles = fit_patches(tiles, config.vision.patch)
        return answer_tiled(prompt, tiles, model.p, config, ratios=ratios, real=real, **options)
    media = _fitted(published, images)[:, None]  # each a video of one frame
    return answer([prompt], media, used(model.p, config), config, **options)


def _fitted(published, images):
    config = published.model.config
    vit = config.image if published.model.kind in CLIPS else config.sight.tower.vit
    x = fit_patches(prepare_images(images, published.recipe), vit.patch)
    if x.shape[1:3] != vit.image[:2]:
        raise FileError(
            f"{published.folder}: images are prepared to {x.shape[1:3]} px, and the model takes "
            f"{vit.image[:2]}"
        )
    return x


def _words(config):
    if hasattr(config, "vision"):  # Mllama
        return config.text.lm.vocabulary + config.text.added
    return (config.lm if hasattr(config, "lm") else config.text).vocabulary


def _stops(folder, published, reader):
    text = published.get("text_config") or {}
    own = read_json(folder / "generation_config.json") if _there(folder) else {}
    for stop in (own.get("eos_token_id"), published.get("eos_token_id"), text.get("eos_token_id")):
        if stop is not None:
            return tuple(stop) if isinstance(stop, list) else (stop,)
    end = reader.id("eos_token") if "eos_token" in reader.specials else None
    return () if end is None else (end,)


def _there(folder):
    return (folder / "generation_config.json").is_file()
