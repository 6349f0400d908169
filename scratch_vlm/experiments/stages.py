"""Trainings that build on each other: a CLIP, a language model, then models that see and speak."""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np

from scratch_vlm.experiments import chats, digits, motion, scenes, shots, vqa
from scratch_vlm.training.loop import check_run


class Stage(NamedTuple):
    """A training of a row of them.

    Attributes
    ----------
    words : str
        What happens, for whoever waits.
    train : callable
        ``train(folder, seed=, steps=, xp=, progress=, **options)`` gives trained parameters.
    settings : callable
        ``settings(seed=, steps=, **options)``: what tells one run from another.
    steps : int
        Training steps of the whole training.
    options : dict
        Of this stage, for both.
    sees : bool
        Whether it starts from the trained CLIP and language model, as ``clip=`` and ``lm=``.
    """

    words: str
    train: Callable
    settings: Callable
    steps: int
    options: dict
    sees: bool = True


def _stage(words, module, sees=True, **options):
    train = chats.train_language if module is chats else module.train_model
    return Stage(words, train, module.settings, module.TRAINING.steps, options, sees)


STAGES = {
    "vit": _stage("a ViT learns to name single digits", digits, False),
    "clip": _stage("a CLIP learns which caption describes which scene", scenes, False),
    "lm": _stage("a language model learns what is asked, and what may be answered", chats, False),
    "unified": _stage("it learns to see: visual tokens among its words", vqa, arm="unified"),
    "cross_modal": _stage("and again: its words look at the image", vqa, arm="cross_modal"),
    "gates_closed": _stage("the same, with gates that start closed", vqa, arm="gates_closed"),
    "gates_closed_fast": _stage(
        "closed gates that learn ten times as fast", vqa, arm="gates_closed_fast"
    ),
    "video": _stage("it learns which way things move in clips", motion, arm="clips"),
    "video_one_frame": _stage("the same from one frame", motion, arm="one_frame"),
    "video_no_time_embedding": _stage(
        "the same without the order of frames", motion, arm="no_time_embedding"
    ),
    "shots": _stage("it learns to learn from examples in the prompt", shots),
}


def train_stages(folder, names, *, seed=0, steps=None, places=None, xp=np, progress=True):
    """Train one after another; what an earlier call trained is not trained again.

    Parameters
    ----------
    folder : str or path
        Where to write: each stage into the folder of its name.
    names : sequence of str
        Keys of ``STAGES``, in order; ``clip`` and ``lm`` before those that see.
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
        check_run(path, *stage.settings(**options), root=root)
    for number, (name, path) in enumerate(folders.items(), start=1):
        stage = STAGES[name]
        if progress:
            print(f"{number:2d}/{len(folders)}  {stage.words}", flush=True)
        start = {part: trained[part] for part in ("clip", "lm")} if stage.sees else {}
        trained[name] = stage.train(
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
    return {name: max(1, round(share * STAGES[name].steps)) for name in names}
