"""Run folders as models: what else than weights a program needs to open one.

Beside its checkpoint, the folder of a run holds ``model.json``, which says what kind of model it
is, how it is built and what it was trained for, and perhaps ``tokenizer.json``.
"""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from scratch_vlm.backend import to_device
from scratch_vlm.data import scenes
from scratch_vlm.data.bpe import BPE, load_bpe
from scratch_vlm.data.tokens import Vocabulary
from scratch_vlm.layers.config import check_type, from_dict
from scratch_vlm.models.clip import CLIPConfig, clip_init
from scratch_vlm.models.cross_modal import CrossModalConfig, cross_modal_init
from scratch_vlm.models.lm import LMConfig, lm_init
from scratch_vlm.models.unified import UnifiedConfig, unified_init
from scratch_vlm.models.vit import ViTConfig, vit_init
from scratch_vlm.training.checkpoint import STATE, has_checkpoint, load_parameters
from scratch_vlm.training.run import RunFolder, write_json
from scratch_vlm.tree import tree_map

KINDS = {  # config, init, and what to call it
    "unified": (UnifiedConfig, unified_init, "a unified vision language model"),
    "cross_modal": (CrossModalConfig, cross_modal_init, "a cross-modal vision language model"),
    "lm": (LMConfig, lm_init, "a language model"),
    "clip": (CLIPConfig, clip_init, "a CLIP"),
    "vit": (ViTConfig, vit_init, "a ViT"),
}
READERS = ("unified", "cross_modal", "lm", "clip")  # of text: they need a tokenizer
ROOT = Path("runs")  # where commands write unless they are told otherwise
ABOUT_SCENES = {  # what a CLIP of scenes can be asked
    "media": "image",
    "size": scenes.SIZE,
    "shows": "two coloured digits, one beside or above the other",
    "labels": ["red seven", "red seven above blue three"],
}


class ModelError(ValueError):
    """A folder holds no model that can be opened; the message says what it holds instead."""


class Model(NamedTuple):
    """A trained model.

    Attributes
    ----------
    kind : {"unified", "cross_modal", "lm", "clip", "vit"}
        What it is.
    config : object
        Of the class that belongs to the kind, such as `UnifiedConfig`.
    p : dict
        Parameters.
    tokenizer : BPE, Vocabulary or None
        What turns its texts into ids.
    about : dict
        What it was trained for, see `save_model`.
    folder : path
        Where it was found.
    """

    kind: str
    config: Any
    p: dict
    tokenizer: BPE | Vocabulary | None
    about: dict
    folder: Path


def save_model(folder, kind, config, tokenizer=None, about=None):
    """Write beside a checkpoint what `load_model` needs to open it.

    Parameters
    ----------
    folder : str or path
        Of the run. It gains ``model.json`` and perhaps ``tokenizer.json``.
    kind : {"unified", "cross_modal", "lm", "clip", "vit"}
        What the model is.
    config : object
        Of the class that belongs to the kind.
    tokenizer : BPE or Vocabulary, optional
        What turns its texts into ids; needed by every kind but a ViT.
    about : dict, optional
        What it was trained for; anything that JSON can hold. These keys are read: ``media``, one
        of "image", "video" and "both"; ``frames``, of the longest videos; ``questions``, a list
        of examples; ``caption``, the question that asks it to describe what it is shown;
        ``shots``, where examples with their answers have to stand before a question; ``labels``,
        examples for a CLIP; and ``shows``, what is to be seen, in words.

    Raises
    ------
    TypeError
        If the config or the tokenizer is of another class.
    ValueError
        If there is no such kind, or the tokenizer is missing or has more tokens than the model.

    See Also
    --------
    load_model : Open it again.
    """
    if kind not in KINDS:
        raise ValueError(f"kind must be one of {', '.join(KINDS)}, got {kind!r}")
    check_type(KINDS[kind][0], config=config)
    _check_tokenizer(kind, config, tokenizer)
    run = RunFolder(folder)
    run.path.mkdir(parents=True, exist_ok=True)
    content = {"kind": kind, "config": asdict(config), "about": about or {}}
    if isinstance(tokenizer, Vocabulary):
        content["words"] = tokenizer.words
    elif tokenizer is not None:
        tokenizer.save(_tokenizer_file(run.path))
    write_json(_model_file(run.path), content)  # last: where it is, the rest is complete


def load_model(folder, *, kinds=tuple(KINDS), xp=np):
    """Open the folder of a run as a model, whatever experiment it is of.

    Parameters
    ----------
    folder : str or path
        Of the run, with ``model.json`` as `save_model` wrote it; or of a CLIP of scenes, which is
        known without.
    kinds : sequence of str, optional
        Refuse models of other kinds.
    xp : module, default numpy
        Where to compute.

    Returns
    -------
    Model

    Raises
    ------
    ModelError
        If the folder is missing, holds no model or an unfinished one, a file of it is damaged, or
        the model is of another kind.
    CheckpointError
        If its parameters are damaged, or not those of the model that it says it is.

    See Also
    --------
    save_model : What is to be found.
    newest_model : Where to look by default.
    """
    folder = Path(folder)
    content = _description(folder)
    kind, config = content["kind"], content["config"]
    if kind not in kinds:
        wanted = " or ".join(KINDS[kind][2] for kind in kinds)
        raise ModelError(f"{folder} holds {KINDS[kind][2]}, where {wanted} is needed")
    tokenizer = None
    if "words" in content:
        tokenizer = Vocabulary(tuple(content["words"]))
    elif kind in READERS:
        file = _tokenizer_file(folder)
        try:
            tokenizer = load_bpe(file)
        except FileNotFoundError:
            raise ModelError(f"{file} is missing; the model cannot read without it") from None
        except ValueError as error:
            raise ModelError(f"{file} is damaged: {error}") from error
    try:
        _check_tokenizer(kind, config, tokenizer)
    except ValueError as error:
        raise ModelError(f"{folder}: {error}") from error
    run = RunFolder(folder)
    if not has_checkpoint(run.checkpoint):
        raise ModelError(f"{folder} has a {_model_file(folder).name} but no checkpoint")
    like = KINDS[kind][1](np.random.default_rng(0), config)
    p = load_parameters(run.checkpoint, tree_map(lambda x: to_device(x, xp), like))
    return Model(kind, config, p, tokenizer, content["about"], folder)


def newest_model(kinds, *, root=ROOT, suits=None):
    """Find the model that was trained last.

    Parameters
    ----------
    kinds : sequence of str
        Which kinds to look for.
    root : str or path, default "runs"
        Where to look, in all folders below it.
    suits : callable, optional
        Called with what `save_model` was told about a model: whether it is wanted.

    Returns
    -------
    folder : path or None
        For `load_model`; None if there is none. Folders that cannot be opened are passed over.
    """
    found = []
    for state in Path(root).rglob(f"checkpoint/{STATE}"):
        try:
            content = _description(state.parent.parent)
        except ModelError:
            continue
        if content["kind"] in kinds and (suits is None or suits(content["about"])):
            found.append((state.stat().st_mtime_ns, state.parent.parent))
    return max(found)[1] if found else None


def _model_file(folder):
    return folder / "model.json"


def _tokenizer_file(folder):
    return folder / "tokenizer.json"


def _check_tokenizer(kind, config, tokenizer):
    if tokenizer is None:
        if kind in READERS:
            raise ValueError(f"{KINDS[kind][2]} needs its tokenizer")
        return
    if not isinstance(tokenizer, BPE | Vocabulary):
        raise TypeError(f"tokenizer must be a BPE or a Vocabulary, got {tokenizer!r}")
    if kind in READERS:
        reader = {"clip": "text", "lm": None}.get(kind, "lm")
        known = (config if reader is None else getattr(config, reader)).vocabulary
        if len(tokenizer) > known:
            raise ValueError(f"the tokenizer has {len(tokenizer)} tokens, the model knows {known}")


def _description(folder):
    """Read ``model.json``, or say what the folder is instead."""
    file = _model_file(folder)
    if not file.is_file():
        return _scenes_clip(folder, _run_state(folder))
    content = _json(file)
    if not isinstance(content, dict) or not {"kind", "config", "about"} <= content.keys():
        raise ModelError(f"{file} does not describe a model: it needs kind, config and about")
    if content["kind"] not in KINDS:
        raise ModelError(f"{file} is of a kind that is not known here: {content['kind']!r}")
    try:
        if not isinstance(content["about"], dict):
            raise TypeError(f"about must hold facts by name, got {content['about']!r}")
        return {**content, "config": from_dict(KINDS[content["kind"]][0], content["config"])}
    except (TypeError, ValueError) as error:
        raise ModelError(f"{file} is damaged: {error}") from error


def _json(file):
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:  # of JSON, or of UTF-8
        raise ModelError(f"{file} is damaged: {error}") from error


def _run_state(folder):
    if not folder.exists():
        raise ModelError(f"there is no folder {folder}")
    if not folder.is_dir():
        raise ModelError(f"{folder} is a file; a model is the folder of a run")
    if (folder / STATE).exists():
        raise ModelError(f"{folder} is a checkpoint; give the folder around it")
    file = RunFolder(folder).checkpoint / STATE
    if not file.is_file():
        inside = sorted({str(f.parent) for f in folder.rglob(_model_file(folder).name)})
        models = f"; there are models in {', '.join(inside)}" if inside else ""
        raise ModelError(f"{folder} is not the folder of a run: it has no checkpoint{models}")
    state = _json(file)
    try:
        state = state["state"]
        done, steps = state["step"], state["run"]["config"]["steps"]
    except (TypeError, KeyError) as error:
        raise ModelError(f"{file} is damaged: it does not say how far the training is") from error
    if done < steps:
        raise ModelError(
            f"{folder} is unfinished: {done} of {steps} steps are trained; give the command that "
            "began it again, and it goes on"
        )
    return state


def _scenes_clip(folder, state):
    # Runs of the demo from before there was a model.json.
    try:
        config = from_dict(CLIPConfig, state["run"]["model"])
        known = config.text.vocabulary == len(scenes.VOCABULARY)
    except (TypeError, KeyError, ValueError):
        known = False
    if not known:
        raise ModelError(
            f"{folder} has a checkpoint but no {_model_file(folder).name}, which says what model "
            "it is of: the command that trained it, given again, writes it, unless it was train "
            "perceiver, whose models no other command reads"
        )
    return {
        "kind": "clip",
        "config": config,
        "about": ABOUT_SCENES,
        "words": scenes.VOCABULARY.words,
    }
