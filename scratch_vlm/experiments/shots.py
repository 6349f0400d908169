"""Learning from examples in the prompt: answered images say what the next question asks for.

The setting of Flamingo: images and their answers stand one after another in a text, and the
question about the last image is answered without any further training. Every question is the same
here, and asks by a rule that nobody states for the colour, the digit or the place of what is to be
seen. A word sees only the last image before it, so what the shots say reaches the answer through
their words.

References
----------
J.-B. Alayrac et al., "Flamingo: a Visual Language Model for Few-Shot Learning", 2022,
arXiv:2204.14198, sections 2.3 and 3.1.
"""

from dataclasses import asdict
from functools import partial

import numpy as np

from scratch_vlm.data.chat import answer_text, chat_batch, encode_chat
from scratch_vlm.data.digits import split
from scratch_vlm.data.episodes import (
    ANSWERS,
    CHANCE,
    QUESTION,
    RULES,
    chats_under,
    evaluation_episodes,
    training_episodes,
)
from scratch_vlm.data.scenes import DigitPool
from scratch_vlm.data.tokens import END
from scratch_vlm.experiments import scenes
from scratch_vlm.experiments.chats import ANSWER_TOKENS, tokenizer
from scratch_vlm.experiments.runs import save_model
from scratch_vlm.experiments.vqa import model_of
from scratch_vlm.inference.answer import answer
from scratch_vlm.models.cross_modal import (
    cross_modal_init,
    cross_modal_loss_backward,
    cross_modal_loss_forward,
)
from scratch_vlm.training.loop import TrainConfig, train

MODEL = model_of("cross_modal")
SHOTS = 4  # in training
MEASURED = (0, 1, 2, 4, 8)  # the last is more than any training text has
TRAINING = TrainConfig(
    steps=800,
    batch_size=32,
    peak_rate=2e-3,
    warmup=100,
    weight_decay=0.1,
    betas=(0.9, 0.98),
    checkpoint_every=200,
)


def settings(seed=0, steps=None, *, training=None):
    """Say what tells one run of this experiment from another.

    Parameters
    ----------
    seed : int, default 0
        Of weights and batches.
    steps : int, optional
        Training steps; default 800.
    training : dict, optional
        Other values of the `TrainConfig`, such as ``{"batch_size": 32}``.

    Returns
    -------
    config : TrainConfig
        How to train.
    identity : dict
        The rest: the model and the shots of an episode.
    """
    return TRAINING.for_run(seed, steps, training), {"model": asdict(MODEL), "shots": SHOTS}


def train_model(folder, *, clip, lm, seed=0, steps=None, training=None, xp=np, progress=True):
    """Train a model on episodes, or go on where an interrupted training left off.

    Parameters
    ----------
    folder : str or path
        Where to keep its curve, its checkpoint, and what other commands need to ask it.
    clip, lm : dict
        Trained parameters of the CLIP, whose image tower it starts from, and of the language
        model.
    seed : int, default 0
        Of new weights and batches.
    steps : int, optional
        Training steps; default 800.
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
    config, identity = settings(seed, steps, training=training)
    pool = DigitPool(split("train"))

    def batch(step):
        rng = np.random.default_rng([seed, step])
        images, chats = training_episodes(rng, config.batch_size, pool, SHOTS, scenes.WARP)
        ids, labels = chat_batch(tokenizer(), chats)
        return ids, labels, scenes.prepare(images)[:, None]

    p = train(
        partial(cross_modal_loss_forward, config=MODEL, slots=SHOTS + 1),
        cross_modal_loss_backward,
        cross_modal_init(np.random.default_rng(seed), MODEL, vit=clip["image"], lm=lm),
        batch,
        config,
        folder,
        identity=identity,
        xp=xp,
        progress=progress,
    )
    about = {
        "media": "image",
        "size": scenes.SIZE,
        "shows": "one coloured digit on a grid of 3 x 3, after others with their answers",
        "questions": [QUESTION],
        "shots": SHOTS,
    }
    save_model(folder, "cross_modal", MODEL, tokenizer(), about)
    return p


def answers(p, images, chats):
    """Ask the last question of each conversation.

    Parameters
    ----------
    p : dict
        Trained parameters.
    images : array of shape (B, I, 24, 24, 3)
        In [0, 1].
    chats : list of list of Turn
        B of them, of I turns with one image each; the last is without answer.

    Returns
    -------
    list of str
        What the model says, by greedy generation.
    """
    prompts = [encode_chat(tokenizer(), turns)[0] for turns in chats]
    media = scenes.prepare(images.reshape(-1, 1, *images.shape[2:]))
    said = answer(prompts, media, p, MODEL, new=ANSWER_TOKENS, stop=(END,))
    return [answer_text(tokenizer(), ids) for ids in said.ids]


def measure(p, name, *, count=512):
    """Measure how well a model learns from shots, in handwriting that it was not trained on.

    Parameters
    ----------
    p : dict
        Trained parameters.
    name : {"val", "test"}
        Which forms.
    count : int, default 512
        Episodes; always the same last images are asked about.

    Returns
    -------
    dict
        ``by_shots``: accuracy after each number of shots, beside chance, which knows the rule from
        the shots and does not look, and the best that can be had without reading the shots, which
        is perfect sight and one rule for all. ``by_rule``: after four shots, by what they ask for.
        ``other_rule``: the same images after answers under the next rule, as a share that follows
        it. ``strange_images``: after shots with the images of other episodes, whose answers are of
        the right kind and mostly wrong. ``any_rule``: without shots, the share of answers that
        are right under one rule or another.
    """
    test = evaluation_episodes(name, count, max(MEASURED))
    right, rules = test.answers[:, -1], test.rules  # (B, 3) and (B,)
    rows = np.arange(count)

    def said(shots, rules=rules, images=None):
        shown = test.shortened(shots)
        images = shown.images if images is None else images
        return np.array(answers(p, images, chats_under(shown.answers, rules, asked=True)))

    after = {shots: said(shots) for shots in MEASURED}
    metrics = {"by_shots": {}, "by_rule": {}}
    for shots, words in after.items():
        chance = CHANCE if shots else CHANCE / len(RULES)
        metrics["by_shots"][str(shots)] = {
            "value": float(np.mean(words == right[rows, rules])),
            "chance": chance,
            "baseline": 1 / len(RULES),
        }
    for i, rule in enumerate(RULES):
        chosen = rules == i
        hits = after[SHOTS][chosen] == right[chosen, i]
        metrics["by_rule"][rule] = {"value": float(np.mean(hits)), "chance": 1 / len(ANSWERS[rule])}
    other = (rules + 1) % len(RULES)
    metrics["other_rule"] = {"value": float(np.mean(said(SHOTS, other) == right[rows, other]))}
    images = test.shortened(SHOTS).images.copy()
    images[:, :-1] = np.roll(images[:, :-1], 1, axis=0)
    hits = said(SHOTS, images=images) == right[rows, rules]
    metrics["strange_images"] = {"value": float(np.mean(hits))}
    metrics["any_rule"] = {"value": float(np.mean((after[0][:, None] == right).any(1)))}
    return metrics
