"""Questions about images: both kinds of vision language model learn to see what is on a board.

They start from the same CLIP tower and the same language model, read the same conversations, and
take the same number of steps.
"""

from dataclasses import asdict

import numpy as np

from scratch_vlm.data.boards import (
    CHANCE,
    KINDS,
    TURNS,
    copied_answers,
    evaluation_boards,
    question_only_answers,
    training_boards,
)
from scratch_vlm.data.chat import IMAGE
from scratch_vlm.data.digits import split
from scratch_vlm.data.scenes import DigitPool
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
from scratch_vlm.layers.connector import ConnectorConfig
from scratch_vlm.layers.gated import GatedConfig
from scratch_vlm.models.cross_modal import CrossModalConfig
from scratch_vlm.models.unified import UnifiedConfig
from scratch_vlm.models.vision import SightConfig, TowerConfig
from scratch_vlm.training.loop import TrainConfig

TOWER = TowerConfig(scenes.MODEL.image, layers=(-2,))  # of the last but one block, as in LLaVA
SIGHT = SightConfig(
    TOWER, ConnectorConfig("mlp", TOWER.outputs, BLOCK.width, hidden=4 * BLOCK.width)
)
TRAINING = TrainConfig(
    steps=2800,
    batch_size=48,
    peak_rate=2e-3,
    warmup=100,
    weight_decay=0.1,
    betas=(0.9, 0.98),
    checkpoint_every=400,
)
# What takes two steps of thought, finding a digit and looking beside it, is asked most.
SHARES = {"colour": 0.1, "digit": 0.1, "position": 0.25, "relation": 0.55}
GATE = 0.5  # tanh(alpha) that gates start with; closed ones stay nearly closed in this time
KIND_NAMES = ("unified", "cross_modal")


def model_of(kind, *, sight=SIGHT, gate=GATE):
    """Configure a model.

    Parameters
    ----------
    kind : {"unified", "cross_modal"}
        Which architecture.
    sight : SightConfig, optional
        From pixels to visual tokens.
    gate : float, default 0.5
        tanh(alpha) that the gates of the cross-modal model start with.

    Returns
    -------
    UnifiedConfig or CrossModalConfig

    Raises
    ------
    ValueError
        If there is no such kind.
    """
    image = tokenizer().id(IMAGE)
    if kind == "unified":
        return UnifiedConfig(sight, language(), image)
    if kind == "cross_modal":
        gated = GatedConfig(BLOCK, sight.connector.outputs, gate=gate)
        return CrossModalConfig(sight, language(), gated, tuple(range(language().depth)), image)
    raise ValueError(f"kind must be one of {', '.join(KIND_NAMES)}, got {kind!r}")


def settings(kind, seed=0, steps=None, **options):
    """Say what tells one run of this experiment from another.

    Parameters
    ----------
    kind : {"unified", "cross_modal"}
        Which architecture.
    seed : int, default 0
        Of weights and batches.
    steps : int, optional
        Training steps; default 2800.
    **options
        Of `model_of`.

    Returns
    -------
    config : TrainConfig
        How to train.
    identity : dict
        The rest: the model and what is asked.
    """
    identity = {"model": asdict(model_of(kind, **options)), "shares": SHARES}
    return TRAINING.for_run(seed, steps), identity


def train_model(folder, kind, *, clip, lm, seed=0, steps=None, xp=np, progress=True, **options):
    """Train a model on boards, or go on where an interrupted training left off.

    Parameters
    ----------
    folder : str or path
        Where to keep its curve, its checkpoint, and what other commands need to ask it.
    kind : {"unified", "cross_modal"}
        Which architecture.
    clip, lm : dict
        Trained parameters of the CLIP, whose image tower it starts from, and of the language
        model.
    seed : int, default 0
        Of new weights and batches.
    steps : int, optional
        Training steps; default 2800.
    xp : module, default numpy
        Where to compute.
    progress : bool, default True
        Show a progress bar.
    **options
        Of `model_of`.

    Returns
    -------
    dict
        Its parameters.
    """
    model, pool = model_of(kind, **options), DigitPool(split("train"))
    config, identity = settings(kind, seed, steps, **options)

    def batch(step):
        rng = np.random.default_rng([seed, step])
        images, asked = training_boards(
            rng, config.batch_size, pool, turns=TURNS, shares=SHARES, warp=scenes.WARP
        )
        return scenes.prepare(images)[:, None], asked

    p = train_fusion(
        folder,
        model,
        batch,
        config,
        clip=clip,
        lm=lm,
        identity=identity,
        xp=xp,
        progress=progress,
    )
    about = {
        "media": "image",
        "size": scenes.SIZE,
        "shows": "three or four coloured digits on a grid of 3 x 3",
        "questions": [
            "what colour is seven",
            "what digit is red",
            "what digit is top-left",
            "what digit is left of seven",
        ],
    }
    save_model(folder, kind, model, tokenizer(), about)
    return p


def measure(p, kind, name, *, count=512, **options):
    """Measure a model on boards in handwriting that it was not trained on.

    Parameters
    ----------
    p : dict
        Trained parameters.
    kind : {"unified", "cross_modal"}
        Which architecture.
    name : {"val", "test"}
        Which forms.
    count : int, default 512
        Boards; one question of each kind is asked on each.
    **options
        Of `model_of`.

    Returns
    -------
    dict
        Accuracy by kind of question, beside chance, the answer for the nearest training board in
        pixels, and the answer that the question alone makes likely.
    """
    test = evaluation_boards(name, count)
    media = scenes.prepare(test.images)[:, None]
    metrics = {}
    for question in KINDS:
        asked = test.questions[question]
        said = answers(p, model_of(kind, **options), media, [q.text for q in asked])
        metrics[question] = {
            "value": accuracy(said, asked),
            "chance": CHANCE[question],
            "baseline": accuracy(copied_answers(test.images, asked), asked),
            "question_only": accuracy(question_only_answers(asked), asked),
        }
    return metrics
