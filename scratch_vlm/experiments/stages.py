"""Trainings that build on each other: a CLIP, a language model, then models that see and speak."""

from pathlib import Path
from types import ModuleType
from typing import NamedTuple

import numpy as np

import scratch_vlm
from scratch_vlm.experiments import chats, digits, motion, scenes, shots, vqa
from scratch_vlm.training.loop import check_run


class Stage(NamedTuple):
    """A training of a row of them.

    Attributes
    ----------
    words : str
        What happens, for whoever waits.
    module : module
        The experiment: ``train_model(folder, seed=, steps=, xp=, progress=, **options)`` gives
        trained parameters, ``settings(seed=, steps=, **options)`` says what tells one run from
        another, and ``TRAINING.steps`` are those of the whole training.
    starts : dict
        What else `train_model` is given: by argument, the stage whose parameters it starts from.
    options : dict
        Of this stage.
    """

    words: str
    module: ModuleType
    starts: dict
    options: dict


ARMS = [{"arm": arm} for arm in vqa.ARMS]
FILMS = [{"arm": arm} for arm in motion.ARMS]
PARTS = {"clip": "clip", "lm": "lm"}
VLM = {"vlm": "unified"}
STAGES = {
    "vit": Stage("a ViT learns to name single digits", digits, {}, {}),
    "clip": Stage("a CLIP learns which caption describes which scene", scenes, {}, {}),
    "lm": Stage("a language model learns what is asked, and what may be answered", chats, {}, {}),
    "unified": Stage("it learns to see: visual tokens among its words", vqa, PARTS, ARMS[0]),
    "cross_modal": Stage("and again: its words look at the image", vqa, PARTS, ARMS[1]),
    "gates_closed": Stage("the same, with gates that start closed", vqa, PARTS, ARMS[2]),
    "gates_closed_fast": Stage("closed gates that learn ten times as fast", vqa, PARTS, ARMS[3]),
    "video": Stage("it learns which way things move in clips", motion, VLM, FILMS[0]),
    "video_one_frame": Stage("the same from one frame", motion, VLM, FILMS[1]),
    "video_no_time_embedding": Stage("the same without the order of frames", motion, VLM, FILMS[2]),
    "shots": Stage("it learns to learn from examples in the prompt", shots, PARTS, {}),
}


def train_stages(folder, names, *, seed=0, steps=None, places=None, xp=np, progress=True):
    """Train one after another; what an earlier call trained is not trained again.

    Parameters
    ----------
    folder : str or path
        Where to write: each stage into the folder of its name.
    names : sequence of str
        Keys of ``STAGES``, in order: each behind those that it starts from.
    seed : int, default 0
        Of all weights and batches.
    steps : dict, optional
        Training steps of stages that are not to be trained whole.
    places : dict, optional
        Other folders inside `folder` than those of their names.
    xp : module, default numpy
        Where to compute.
    progress : bool, default True
        Say what is trained, and show progress bars.

    Returns
    -------
    dict
        Trained parameters by name.

    Raises
    ------
    ValueError
        If a folder holds a run with another seed or length; said before anything is trained.
    """
    root, steps, places, trained = Path(folder), steps or {}, places or {}, {}
    folders = {name: root / places.get(name, name) for name in names}
    for name, path in folders.items():
        stage = STAGES[name]
        options = {"seed": seed, "steps": steps.get(name), **stage.options}
        check_run(path, *stage.module.settings(**options), root=root)
    for number, (name, path) in enumerate(folders.items(), start=1):
        stage = STAGES[name]
        if progress:
            print(f"{number:2d}/{len(folders)}  {stage.words}", flush=True)
        start = {argument: trained[source] for argument, source in stage.starts.items()}
        trained[name] = stage.module.train_model(
            path,
            seed=seed,
            steps=steps.get(name),
            xp=xp,
            progress=progress,
            **start,
            **stage.options,
        )
    return trained


def shortened(names, share):
    """Cut trainings short.

    Parameters
    ----------
    names : sequence of str
        Keys of ``STAGES``.
    share : float
        Of their steps, to keep.

    Returns
    -------
    dict of str to int
        For `train_stages`.
    """
    return {name: max(1, round(share * STAGES[name].module.TRAINING.steps)) for name in names}


def training_facts(curves, *, seed, quick, xp):
    """Say in a report how what it shows was trained.

    Parameters
    ----------
    curves : dict
        Columns of ``metrics.csv`` by stage.
    seed : int
        Of weights and batches.
    quick : bool
        Whether it was a taste.
    xp : module
        Where it was computed.

    Returns
    -------
    dict of str to str
    """
    steps = ", ".join(f"{name} {len(curve['loss'])} steps" for name, curve in curves.items())
    return {
        "seed": str(seed),
        "training": steps + (" (--quick)" if quick else ""),
        "handwriting": "training forms 0 to 9, test forms 12 and 13; tuned on forms 10 and 11",
        "backend": f"{xp.__name__} {xp.__version__}",
        "scratch_vlm": scratch_vlm.__version__,
    }
