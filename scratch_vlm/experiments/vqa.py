"""Questions about images: both kinds of vision language model learn to see what is on a board.

They start from the same CLIP tower and the same language model, are asked the same questions, and
take the same number of steps. Two further arms show what becomes of gates that start closed.
"""

from dataclasses import asdict, replace

import numpy as np

from scratch_vlm.backend import namespace
from scratch_vlm.data.boards import (
    CAPTION,
    CHANCE,
    ITEMS,
    KINDS,
    TURNS,
    copied_answers,
    describe,
    evaluation_boards,
    image_only_shares,
    question_only_answers,
    training_boards,
)
from scratch_vlm.data.chat import IMAGE
from scratch_vlm.data.clips import Question
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
    word_accuracy,
)
from scratch_vlm.experiments.runs import save_model
from scratch_vlm.layers.connector import ConnectorConfig
from scratch_vlm.layers.gated import GatedConfig
from scratch_vlm.layers.resampler import ResamplerConfig
from scratch_vlm.models.cross_modal import CrossModalConfig, cross_modal_init
from scratch_vlm.models.unified import UnifiedConfig, unified_init
from scratch_vlm.models.vision import SightConfig, TowerConfig
from scratch_vlm.training.loop import TrainConfig

TOWER = TowerConfig(scenes.MODEL.image, layers=(-2,))  # of the last but one block, as in LLaVA
TRAINING = TrainConfig(
    steps=1600,
    batch_size=48,
    peak_rate=2e-3,
    warmup=100,
    weight_decay=0.1,
    betas=(0.9, 0.98),
    checkpoint_every=200,
)
# What takes two steps of thought, finding a digit and looking beside it, is asked most.
SHARES = {"colour": 0.1, "digit": 0.1, "position": 0.2, "relation": 0.5, "caption": 0.1}
CAPTION_TOKENS = 3 * max(ITEMS) + 1  # at most: three words for each digit, and the end
FASTER = 10.0  # by what the gates' learning rate is multiplied, where it is
ARMS = {  # tanh(alpha) that gates start with, and whether they learn faster
    "unified": (None, False),
    "cross_modal": (0.5, False),
    "gates_closed": (0.0, False),
    "gates_closed_fast": (0.0, True),
}
CONNECTORS = {
    "linear": {},
    "mlp": {"hidden": 4 * BLOCK.width},
    "pixel_shuffle": {"hidden": 4 * BLOCK.width, "grid": scenes.MODEL.image.grid, "by": 3},
    "resampler": {"resampler": ResamplerConfig(BLOCK, latents=9, depth=1, frames=0)},
}


def model_of(arm, connector="mlp"):
    """Configure a model.

    Parameters
    ----------
    arm : {"unified", "cross_modal", "gates_closed", "gates_closed_fast"}
        Which architecture; those with closed gates are cross-modal, too.
    connector : {"linear", "mlp", "pixel_shuffle", "resampler"}
        What makes visual tokens of the tower's features: nine of a board, or a single one by
        pixel shuffle.

    Returns
    -------
    UnifiedConfig or CrossModalConfig

    Raises
    ------
    ValueError
        If there is no such arm or connector.
    """
    if arm not in ARMS:
        raise ValueError(f"arm must be one of {', '.join(ARMS)}, got {arm!r}")
    if connector not in CONNECTORS:
        raise ValueError(f"connector must be one of {', '.join(CONNECTORS)}, got {connector!r}")
    image, width = tokenizer().id(IMAGE), BLOCK.width
    bridge = ConnectorConfig(connector, TOWER.outputs, width, **CONNECTORS[connector])
    gate, _ = ARMS[arm]
    if gate is None:
        return UnifiedConfig(SightConfig(TOWER, bridge), language(), image)
    return CrossModalConfig(
        SightConfig(TOWER, bridge),
        language(),
        GatedConfig(BLOCK, width, gate=gate),
        tuple(range(language().depth)),
        image,
    )


def settings(arm, seed=0, steps=None, *, connector="mlp", training=None):
    """Say what tells one run of this experiment from another.

    Parameters
    ----------
    arm : {"unified", "cross_modal", "gates_closed", "gates_closed_fast"}
        Which architecture.
    seed : int, default 0
        Of weights and batches.
    steps : int, optional
        Training steps; default 1600.
    connector : {"linear", "mlp", "pixel_shuffle", "resampler"}
        What makes visual tokens.
    training : dict, optional
        Other values of the `TrainConfig`, such as ``{"batch_size": 32}``.

    Returns
    -------
    config : TrainConfig
        How to train.
    identity : dict
        The rest: the model and what is asked.
    """
    config = TRAINING.for_run(seed, steps, training)
    if ARMS[arm][1]:
        config = replace(config, rate_factors=((".*/(attn|mlp)_gate", FASTER), (".*", 1.0)))
    return config, {"model": asdict(model_of(arm, connector)), "shares": SHARES}


def train_model(
    folder,
    arm,
    *,
    clip,
    lm,
    seed=0,
    steps=None,
    connector="mlp",
    training=None,
    xp=np,
    progress=True,
):
    """Train a model on boards, or go on where an interrupted training left off.

    Parameters
    ----------
    folder : str or path
        Where to keep its curve, with how far gates are open, its checkpoint, and what other
        commands need to ask it.
    arm : {"unified", "cross_modal", "gates_closed", "gates_closed_fast"}
        Which architecture.
    clip, lm : dict
        Trained parameters of the CLIP, whose image tower it starts from, and of the language
        model.
    seed : int, default 0
        Of new weights and batches.
    steps : int, optional
        Training steps; default 1600.
    connector : {"linear", "mlp", "pixel_shuffle", "resampler"}
        What makes visual tokens.
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
    model, pool = model_of(arm, connector), DigitPool(split("train"))
    config, identity = settings(arm, seed, steps, connector=connector, training=training)

    def batch(step):
        rng = np.random.default_rng([seed, step])
        images, asked = training_boards(
            rng, config.batch_size, pool, turns=TURNS, shares=SHARES, warp=scenes.WARP
        )
        return scenes.prepare(images)[:, None], asked

    init = unified_init if isinstance(model, UnifiedConfig) else cross_modal_init
    p = train_fusion(
        folder,
        model,
        init(np.random.default_rng(seed), model, vit=clip["image"], lm=lm),
        batch,
        config,
        identity=identity,
        watch=gates if isinstance(model, CrossModalConfig) else None,
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
            CAPTION,
        ],
        "caption": CAPTION,
    }
    save_model(folder, "unified" if arm == "unified" else "cross_modal", model, tokenizer(), about)
    return p


def gates(p):
    """Read off how far the gates of a cross-modal model are open.

    Parameters
    ----------
    p : dict
        Its parameters.

    Returns
    -------
    dict of str to array of shape ()
        tanh(alpha) of each gate; 0 is closed.
    """
    return {
        f"gate_{i}_{half}": namespace(block[f"{half}_gate"]).tanh(block[f"{half}_gate"])
        for i, block in p["gated"].items()
        for half in ("attn", "mlp")
    }


def measure(p, arm, name, *, count=512, connector="mlp"):
    """Measure a model on boards in handwriting that it was not trained on.

    Parameters
    ----------
    p : dict
        Trained parameters.
    arm : {"unified", "cross_modal", "gates_closed", "gates_closed_fast"}
        Which architecture.
    name : {"val", "test"}
        Which forms.
    count : int, default 512
        Boards; one question of each kind is asked on each.
    connector : {"linear", "mlp", "pixel_shuffle", "resampler"}
        What makes visual tokens.

    Returns
    -------
    dict
        Accuracy by kind of question, beside chance, the answer for the nearest training board in
        pixels, the answer that the question alone makes likely, and the one that the board alone
        makes likely to who sees it perfectly.
    """
    test = evaluation_boards(name, count)
    media = scenes.prepare(test.images)[:, None]
    sight, metrics = image_only_shares(test.boards), {}
    for question in KINDS:
        asked = test.questions[question]
        said = answers(p, model_of(arm, connector), media, [q.text for q in asked])
        metrics[question] = {
            "value": accuracy(said, asked),
            "chance": CHANCE[question],
            "baseline": accuracy(copied_answers(test.images, asked), asked),
            "question_only": accuracy(question_only_answers(asked), asked),
            "image_only": sight[question],
        }
    return metrics


def measure_captions(p, arm, name, *, count=512, connector="mlp"):
    """Measure how well a model describes boards in handwriting that it was not trained on.

    Parameters
    ----------
    p : dict
        Trained parameters.
    arm : {"unified", "cross_modal", "gates_closed", "gates_closed_fast"}
        Which architecture.
    name : {"val", "test"}
        Which forms.
    count : int, default 512
        Boards.
    connector : {"linear", "mlp", "pixel_shuffle", "resampler"}
        What makes visual tokens.

    Returns
    -------
    dict
        ``exact``, the share of descriptions right in every word, and ``words``, that of words
        right at their places; beside those of the description of the nearest training board.
    """
    test = evaluation_boards(name, count)
    media = scenes.prepare(test.images)[:, None]
    asked = [Question("caption", CAPTION, describe(board)) for board in test.boards]
    texts = [q.text for q in asked]
    said = answers(p, model_of(arm, connector), media, texts, new=CAPTION_TOKENS)
    copied = copied_answers(test.images, asked)
    return {
        "exact": {"value": accuracy(said, asked), "baseline": accuracy(copied, asked)},
        "words": {"value": word_accuracy(said, asked), "baseline": word_accuracy(copied, asked)},
    }
