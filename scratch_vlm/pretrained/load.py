"""Folders of published models: read whole, and written so that their own library reads them."""

import json
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from scratch_vlm.pretrained import (
    bert,
    clip,
    gpt2,
    idefics,
    llama,
    llava,
    lucid,
    mllama,
    perceiver,
    siglip,
    vit,
)
from scratch_vlm.pretrained.layout import Layout
from scratch_vlm.pretrained.options import OptionError, Options
from scratch_vlm.pretrained.tensors import (
    DTYPES,
    FLOATS,
    INDEX,
    SINGLE,
    FileError,
    Tensors,
    read_json,
    replacing,
    write_tensors,
)

CLASSES = {  # class of the reference: the module that knows its options and its layout
    "ViTForImageClassification": vit,
    "CLIPModel": clip,
    "CLIPVisionModelWithProjection": clip.ImageTower,
    "CLIPTextModelWithProjection": clip.TextTower,
    "SiglipModel": siglip,
    "BertModel": bert,
    "BertForMaskedLM": bert.Words,
    "GPT2LMHeadModel": gpt2,
    "LlamaForCausalLM": llama,
    "LlavaForConditionalGeneration": llava,
    "IdeficsForVisionText2Text": idefics,
    "MllamaForConditionalGeneration": mllama,
    "PerceiverModel": perceiver.Inputs,
    "PerceiverForImageClassificationLearned": perceiver.Learned,
    "PerceiverForImageClassificationFourier": perceiver.Fourier,
    "perceiver_pytorch.Perceiver": lucid.Perceiver,
    "flamingo_pytorch.PerceiverResampler": lucid.Resampler,
    "flamingo_pytorch.GatedCrossAttentionBlock": lucid.GatedBlock,
    "flamingo_pytorch.MaskedCrossAttention": lucid.CrossAttention,
}
DEFAULTS = {  # the class of a config that names none
    "vit": "ViTForImageClassification",
    "clip": "CLIPModel",
    "clip_vision_model": "CLIPVisionModelWithProjection",
    "clip_text_model": "CLIPTextModelWithProjection",
    "siglip": "SiglipModel",
    "bert": "BertModel",
    "gpt2": "GPT2LMHeadModel",
    "llama": "LlamaForCausalLM",
    "llava": "LlavaForConditionalGeneration",
    "idefics": "IdeficsForVisionText2Text",
    "mllama": "MllamaForConditionalGeneration",
    "perceiver": "PerceiverModel",
}


@dataclass(frozen=True)
class Pretrained:
    """A published model in our trees.

    Attributes
    ----------
    kind : str
        Name of the class that the reference has for it.
    config : object
        Our config.
    p : dict
        Parameters.
    layout : Layout
        Which tensor of a file is which part of `p`.
    names : dict of str to str
        Name in the file of each tensor.
    published : dict
        What config.json says.
    stored : str
        Dtype of the file.
    """

    kind: str
    config: object
    p: dict = field(repr=False)
    layout: Layout = field(repr=False)
    names: dict = field(repr=False)
    published: dict = field(repr=False)
    stored: str


def load_pretrained(folder, *, dtype="float32", on_tensor=None):
    """Read the folder of a published model.

    Parameters
    ----------
    folder : str or path
        With ``config.json`` and ``model.safetensors`` or its shards, as `save_pretrained` of the
        Transformers library writes them.
    dtype : {"float32", "float64"}, default "float32"
        Of our arrays, whatever that of the file is.
    on_tensor : callable, optional
        ``on_tensor(name, count)`` is called for each tensor that was read, `count` being how many
        there are; for a progress bar.

    Returns
    -------
    Pretrained

    Raises
    ------
    FileError
        If files are missing or damaged, or the weights do not fit the config.
    OptionError
        If the config asks for what is not implemented.

    See Also
    --------
    save_pretrained : The way back.
    """
    if dtype not in ("float32", "float64"):
        raise ValueError(f"dtype must be float32 or float64, got {dtype!r}")
    folder = Path(folder)
    published = read_json(folder / "config.json")
    kind, config, layout = configure(published)
    tensors = Tensors(folder)
    names = layout.names(tensors.shapes)
    count = len(layout.rules)
    tell = None if on_tensor is None else lambda name: on_tensor(name, count)
    p = layout.load(tensors, dtype=dtype, on_tensor=tell)
    formats = {tensors.formats[name] for name in names.values()}
    stored = next((name for name, kind in FLOATS.items() if kind in formats), "float32")
    return Pretrained(kind, config, p, layout, names, published, stored)


def configure(published):
    """Turn what a config.json says into a config and a layout.

    Parameters
    ----------
    published : dict
        Its content.

    Returns
    -------
    kind : str
        Name of the class that the reference has for the model.
    config : object
        Ours.
    layout : Layout
        Of its checkpoint.

    Raises
    ------
    OptionError
        If the kind of model is unknown, or an option is not implemented.
    """
    options = Options(published)
    model_type = options.get("model_type", "")
    kinds = options.get("architectures", None) or [DEFAULTS.get(model_type, model_type)]
    kind = kinds[0] if isinstance(kinds, list) else kinds
    if not isinstance(kind, str) or kind not in CLASSES:
        raise OptionError(
            f"config.json names the model {kind or 'nothing'!r} of type {model_type!r}, which is "
            f"not known here; known are {', '.join(sorted(CLASSES))}"
        )
    module = CLASSES[kind]
    config = module.configure(options)
    more = {name: options.get(name, 0) for name in getattr(module, "ALSO_LAYOUT", ())}
    return kind, config, module.layout(config, **more)


def save_pretrained(model, folder, *, dtype=None, shard=None):
    """Write the folder of a published model, for its own library or for `load_pretrained`.

    Parameters
    ----------
    model : Pretrained
        Its parameters may have been trained on.
    folder : str or path
        Made if it is not there. ``config.json`` and the weights in it are replaced.
    dtype : str, optional
        Of the file. Default the one that the model was read from.
    shard : int, optional
        Most bytes of tensors in a file; a larger tensor has one of its own. Default all in one.

    Raises
    ------
    FileError
        If it cannot be written.
    """
    folder = Path(folder)
    dtype = model.stored if dtype is None else dtype
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise FileError(f"cannot write {folder}: {error.strerror or error}") from error
    tensors = model.layout.take(model.p, model.names)
    shards = [tensors] if shard is None else _shards(tensors, shard, dtype)
    if len(shards) == 1:
        write_tensors(folder / SINGLE, shards[0], dtype=dtype)
    else:
        listed, total = {}, 0
        for i, part in enumerate(shards, 1):
            name = f"model-{i:05}-of-{len(shards):05}.safetensors"
            write_tensors(folder / name, part, dtype=dtype)
            listed |= dict.fromkeys(part, name)
            total += sum(_size(x, dtype) for x in part.values())
        _write_json(folder / INDEX, {"metadata": {"total_size": total}, "weight_map": listed})
        (folder / SINGLE).unlink(missing_ok=True)  # it would be read in their place
    content = dict(model.published)
    for name in {"dtype", "torch_dtype"} & content.keys():
        content[name] = dtype
    _write_json(folder / "config.json", content)


def _shards(tensors, most, dtype):
    if most < 1:
        raise ValueError(f"a shard must have room for a byte at least, got {most}")
    shards, room = [], 0
    for name, x in tensors.items():
        if not shards or _size(x, dtype) > room:
            shards.append({})
            room = most
        shards[-1][name] = x
        room -= _size(x, dtype)
    return shards


def _size(x, dtype):
    return x.size * np.dtype(DTYPES[FLOATS[dtype]]).itemsize


def _write_json(path, content):
    with replacing(path) as file:
        file.write((json.dumps(content, indent=2) + "\n").encode())
