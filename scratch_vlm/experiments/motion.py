"""Questions about videos: what can only be known from the order of frames.

Two digits pass each other on a torus, so that one frame says exactly nothing about which way they
move. Every frame goes through the image tower, a Perceiver Resampler makes the same few tokens of
clips of any length, and a language model answers. It starts from a model that answers questions
about images. Two other arms are trained alike, to show what the answer comes from: one sees a
single frame, the other is not told the order of frames.
"""

from dataclasses import asdict
from typing import NamedTuple

import numpy as np

from scratch_vlm.data import clips
from scratch_vlm.data.chat import IMAGE
from scratch_vlm.data.digits import split
from scratch_vlm.data.scenes import COLOUR_NAMES, DIGIT_NAMES, SIZE, DigitPool
from scratch_vlm.experiments import scenes
from scratch_vlm.experiments.chats import (
    BLOCK,
    accuracy,
    answers,
    language,
    tokenizer,
    train_fusion,
)
from scratch_vlm.experiments.runs import save_model
from scratch_vlm.experiments.vqa import TOWER
from scratch_vlm.layers.connector import ConnectorConfig
from scratch_vlm.layers.resampler import ResamplerConfig
from scratch_vlm.models.unified import UnifiedConfig, unified_init
from scratch_vlm.models.vision import SightConfig
from scratch_vlm.training.loop import TrainConfig

ARMS = ("clips", "one_frame", "no_time_embedding")
FRAMES = (3, 8)  # fewest and most of a training clip
LONGER = 12  # of clips longer than any in training
LENGTHS = (3, 5, 8)  # of clips to measure on
LATENTS = 16
FIRST = ("direction", "colour", "digit")  # the fewer kinds of question, the sooner time is read


class Phase(NamedTuple):
    """A part of the training.

    Attributes
    ----------
    until : float
        Share of all steps at which it ends.
    frames : (int, int)
        Fewest and most of a clip.
    torus, travel, speeds, kinds
        As in `clips.training_clips`.
    """

    until: float
    frames: tuple
    torus: float
    travel: tuple
    speeds: tuple
    kinds: tuple


PHASES = (
    Phase(0.3, (3, 4), 0.0, (12, 16), (4, 4), FIRST),  # where a digit starts says where it goes
    Phase(0.7, (3, 5), 0.4, (4, 16), (4, 4), FIRST),  # where it starts says less and less
    Phase(1.0, FRAMES, 0.8, (4, 16), (4, 6), clips.KINDS),  # faster: for clips that are longer
)
CHANCE = {  # of guessing along the known axis, or evenly; in the order of the questions on a clip
    "direction": 1 / 2,
    "colour": 1 / len(COLOUR_NAMES),
    "which_digit": 1 / len(DIGIT_NAMES),
    "digit": 1 / len(DIGIT_NAMES),
}
TRAINING = TrainConfig(
    steps=2200,
    batch_size=32,
    peak_rate=3e-3,
    warmup=100,
    weight_decay=0.1,
    betas=(0.9, 0.98),
    checkpoint_every=300,
)


def model_of(arm):
    """Configure the model of an arm.

    Parameters
    ----------
    arm : {"clips", "one_frame", "no_time_embedding"}
        What it is shown: clips, one frame of each, or clips without the order of their frames.

    Returns
    -------
    UnifiedConfig

    Raises
    ------
    ValueError
        If there is no such arm.
    """
    if arm not in ARMS:
        raise ValueError(f"arm must be one of {', '.join(ARMS)}, got {arm!r}")
    # Latents start small, as in the Perceiver: what they have read soon outweighs what they are.
    sampler = ResamplerConfig(
        BLOCK,
        latents=LATENTS,
        depth=1,
        frames=FRAMES[1] if arm == "clips" else 0,
        latent_std=0.02,
    )
    connector = ConnectorConfig("resampler", TOWER.outputs, BLOCK.width, resampler=sampler)
    return UnifiedConfig(SightConfig(TOWER, connector), language(), tokenizer().id(IMAGE))


def settings(arm, seed=0, steps=None, *, training=None):
    """Say what tells one run of this experiment from another.

    Parameters
    ----------
    arm : {"clips", "one_frame", "no_time_embedding"}
        What the model is shown.
    seed : int, default 0
        Of weights and batches.
    steps : int, optional
        Training steps; default 2200.
    training : dict, optional
        Other values of the `TrainConfig`, such as ``{"batch_size": 32}``.

    Returns
    -------
    config : TrainConfig
        How to train.
    identity : dict
        The rest: the model and how its clips are drawn.
    """
    drawn = {"arm": arm, "phases": PHASES}
    return TRAINING.for_run(seed, steps, training), {"model": asdict(model_of(arm)), **drawn}


def train_model(
    folder, arm="clips", *, vlm, seed=0, steps=None, training=None, xp=np, progress=True
):
    """Train a model on clips, or go on where an interrupted training left off.

    Parameters
    ----------
    folder : str or path
        Where to keep its curve, its checkpoint, and what other commands need to ask it.
    arm : {"clips", "one_frame", "no_time_embedding"}
        What the model is shown.
    vlm : dict
        Trained parameters of a unified model of images, from whose tower and language model it
        starts. It knows digits and colours then, and has only time to learn.
    seed : int, default 0
        Of new weights and batches.
    steps : int, optional
        Training steps; default 2200.
    training : dict, optional
        Other values of the `TrainConfig`, such as ``{"batch_size": 32}``.
    xp : module, default numpy
        Where to compute.
    progress : bool, default True
        Show a progress bar.

    Returns
    -------
    dict
        Its parameters.
    """
    model, pool = model_of(arm), DigitPool(split("train"))
    config, identity = settings(arm, seed, steps, training=training)

    def batch(step):
        rng = np.random.default_rng([seed, step])
        phase = next(phase for phase in PHASES if step < phase.until * config.steps)
        frames, asked = clips.training_clips(
            rng,
            config.batch_size,
            pool,
            int(rng.integers(phase.frames[0], phase.frames[1] + 1)),
            torus=phase.torus,
            travel=phase.travel,
            speeds=phase.speeds,
            kinds=phase.kinds,
            warp=scenes.WARP,
        )
        return shown(frames, arm), asked

    p = unified_init(np.random.default_rng(seed), model, lm=vlm["lm"])
    p["sight"]["tower"] = vlm["sight"]["tower"]
    p = train_fusion(
        folder,
        model,
        p,
        batch,
        config,
        identity=identity,
        xp=xp,
        progress=progress,
    )
    about = {
        "media": "video",
        "size": SIZE,
        "frames": FRAMES[1],
        "shows": "two coloured digits, one moving left and the other right, or up and down",
        "questions": [
            "which way does the red one move",
            "what colour moves left",
            "which digit moves left",
            "what digit is the red one",
        ],
    }
    save_model(folder, "unified", model, tokenizer(), about)
    return p


def shown(frames, arm):
    """Prepare clips for the model of an arm.

    Parameters
    ----------
    frames : array of shape (B, F, H, W, C)
        In [0, 1].
    arm : {"clips", "one_frame", "no_time_embedding"}
        What the model is shown.

    Returns
    -------
    array
        Normalised, of shape (B, F, H, W, C); one frame from the middle of each for ``one_frame``.
    """
    if arm == "one_frame":
        middle = frames.shape[1] // 2
        frames = frames[:, middle : middle + 1]
    return scenes.prepare(frames)


def measure(p, arm, name, *, lengths=LENGTHS, count=512):
    """Measure a model on clips on the torus, in handwriting that it was not trained on.

    Parameters
    ----------
    p : dict
        Trained parameters.
    arm : {"clips", "one_frame", "no_time_embedding"}
        What the model is shown.
    name : {"val", "test"}
        Which forms.
    lengths : sequence of int, default (3, 5, 8)
        Frames of the clips; results are means over them.
    count : int, default 512
        Clips of each length.

    Returns
    -------
    dict
        ``direction``, ``colour``, ``which_digit`` and ``digit``: accuracy for each kind of
        question on the whole clip, beside chance.
    """
    model, metrics = model_of(arm), {}
    tests = [clips.evaluation_clips(name, count, frames) for frames in lengths]
    for i, (kind, chance) in enumerate(CHANCE.items()):
        shares = []
        for test in tests:
            asked = [every[i] for every in test.questions]
            said = answers(p, model, shown(test.frames, arm), [q.text for q in asked])
            shares.append(accuracy(said, asked))
        metrics[kind] = {"value": float(np.mean(shares)), "chance": chance}
    return metrics
