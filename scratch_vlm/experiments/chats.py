"""What the questions on images and on videos share: words, a language model, and how to ask."""

from dataclasses import asdict
from functools import cache, partial

import numpy as np

from scratch_vlm.data import boards, clips
from scratch_vlm.data.bpe import train_bpe
from scratch_vlm.data.chat import CHAT_SPECIALS, Turn, answer_text, chat_batch, encode_chat
from scratch_vlm.data.tokens import END, PAD
from scratch_vlm.experiments.runs import save_model
from scratch_vlm.inference.answer import answer
from scratch_vlm.layers.block import BlockConfig
from scratch_vlm.models.cross_modal import (
    CrossModalConfig,
    cross_modal_loss_backward,
    cross_modal_loss_forward,
)
from scratch_vlm.models.lm import LMConfig, lm_init, lm_loss_backward, lm_loss_forward
from scratch_vlm.models.unified import (
    UnifiedConfig,
    unified_loss_backward,
    unified_loss_forward,
)
from scratch_vlm.ops.losses import IGNORE
from scratch_vlm.training.loop import TrainConfig, train

VOCABULARY = 512  # at most: special tokens, 256 bytes, and enough merges for every word
CONTEXT = 160
BLOCK = BlockConfig(width=64, heads=4, hidden=256, mlp="gelu_tanh")
ANSWER_TOKENS = 2  # a word and the end; a caption takes more
OBJECTIVES = {
    UnifiedConfig: (unified_loss_forward, unified_loss_backward),
    CrossModalConfig: (cross_modal_loss_forward, cross_modal_loss_backward),
}
TRAINING = TrainConfig(
    steps=400,
    batch_size=64,
    peak_rate=2e-3,
    warmup=100,
    weight_decay=0.1,
    betas=(0.9, 0.98),
    checkpoint_every=200,
)


@cache
def tokenizer():
    """Train the tokenizer on everything that is asked and answered in training.

    Returns
    -------
    BPE
        The same each time; every word is one token.
    """
    asked = unseen_questions(np.random.default_rng(0), 1000, turns=None)
    texts = [f" {text}" for every in asked for q in every for text in (q.text, q.answer)]
    return train_bpe(texts, vocabulary=VOCABULARY, specials=CHAT_SPECIALS, split="spaces")


@cache
def language():
    """Configure the language model that every vision language model starts from.

    Returns
    -------
    LMConfig
        GPT-style, two blocks. Its word vectors start about as large as visual tokens are; at a
        tenth of that, what stands where on an image is learned late or never.
    """
    return LMConfig(
        len(tokenizer()),
        CONTEXT,
        BLOCK,
        depth=2,
        tied=False,
        token_std=0.5,
        position_std=0.1,
    )


def settings(seed=0, steps=None, *, training=None):
    """Say what tells one training of the language model from another.

    Parameters
    ----------
    seed : int, default 0
        Of weights and batches.
    steps : int, optional
        Training steps; default 400.
    training : dict, optional
        Other values of the `TrainConfig`, such as ``{"batch_size": 32}``.

    Returns
    -------
    config : TrainConfig
        How to train.
    identity : dict
        The rest: the model.
    """
    return TRAINING.for_run(seed, steps, training), {"model": asdict(language())}


def train_model(folder, *, seed=0, steps=None, training=None, xp=np, progress=True):
    """Train the language model on conversations whose images it does not see.

    It learns what is asked and what kind of word answers, and not which.

    Parameters
    ----------
    folder : str or path
        Where to keep its curve, its checkpoint and its tokenizer.
    seed : int, default 0
        Of weights and batches.
    steps : int, optional
        Training steps; default 400.
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
    (config, identity), model = settings(seed, steps, training=training), language()

    def batch(step):
        rng = np.random.default_rng([seed, step])
        asked = unseen_questions(rng, config.batch_size, turns=boards.TURNS)
        ids, _ = chat_batch(tokenizer(), conversations(asked, media=0))
        return ids, np.where(ids == PAD, IGNORE, ids)

    p = train(
        partial(lm_loss_forward, config=model),
        lm_loss_backward,
        lm_init(np.random.default_rng(seed), model),
        batch,
        config,
        folder,
        identity=identity,
        xp=xp,
        progress=progress,
    )
    save_model(folder, "lm", model, tokenizer())
    return p


def unseen_questions(rng, count, turns):
    """Ask what may be asked about boards and, by turns, about clips that nobody paints.

    Parameters
    ----------
    rng : numpy.random.Generator
        Draws them.
    count : int
        Conversations.
    turns : int or None
        Questions of each; None for all that there are.

    Returns
    -------
    list of list of Question
        Without those that are held out from training.
    """
    sources, asked = (boards.draw_boards(rng), clips.draw_clips(rng)), []
    for i in range(count):
        shown = next(sources[i % 2])
        if i % 2:
            places = rng.integers(0, clips.CELLS, (2, len(clips.FRAME_NAMES), 2))
            every = clips.questions(shown, places)
        else:
            every = [q for q in boards.questions(shown) if q.kind != "relation_heldout"]
        asked.append([every[k] for k in rng.permutation(len(every))[:turns]])
    return asked


def train_fusion(folder, model, p, batch, config, *, identity, watch=None, xp=np, progress=True):
    """Train a vision language model to answer questions that do not see each other's answers.

    Parameters
    ----------
    folder : str or path
        Where to keep its curve and its checkpoint.
    model : UnifiedConfig or CrossModalConfig
        The model.
    p : dict
        Its parameters to start from.
    batch : callable
        ``batch(step)`` gives images or videos of shape (B, F, H, W, C), normalised, and a list of
        questions for each.
    config : TrainConfig
        How to train.
    identity : dict
        What else makes this run what it is.
    watch : callable, optional
        Numbers to follow in the curve, see `train`.
    xp : module, default numpy
        Where to compute.
    progress : bool, default True
        Show a progress bar.

    Returns
    -------
    dict
        Its parameters.
    """
    loss_forward, loss_backward = OBJECTIVES[type(model)]

    def rows(step):
        media, asked = batch(step)
        places = placeholders(model, media.shape[1])
        chats = conversations(asked)
        return *chat_batch(tokenizer(), chats, placeholders=places, apart=True), media

    # Every text has one image or video: counting them in the ids would wait for a device.
    slots = {"slots": 1} if isinstance(model, CrossModalConfig) else {}

    def forward(ids, labels, turns, media, p):
        return loss_forward(ids, labels, media, p, config=model, turns=turns, **slots)

    return train(
        forward,
        loss_backward,
        p,
        rows,
        config,
        folder,
        watch=watch,
        identity=identity,
        xp=xp,
        progress=progress,
    )


def conversations(asked, *, media=1):
    """Turn questions into conversations that begin with an image or a video.

    Parameters
    ----------
    asked : list of list of Question
        Questions and answers of each conversation.
    media : int, default 1
        Images or videos before the first question of each.

    Returns
    -------
    list of list of Turn
    """
    return [
        [Turn(q.text, q.answer, media=media * (i == 0)) for i, q in enumerate(questions)]
        for questions in asked
    ]


def placeholders(config, frames=1):
    """Count the places that an image or a video takes in a text.

    Parameters
    ----------
    config : UnifiedConfig or CrossModalConfig
        The model.
    frames : int, default 1
        F.

    Returns
    -------
    int
        As many as it has visual tokens in a unified model, else 1.
    """
    return config.sight.tokens(frames) if isinstance(config, UnifiedConfig) else 1


def answers(p, config, media, questions, *, new=ANSWER_TOKENS):
    """Ask one question about each image or video.

    Parameters
    ----------
    p : dict
        Parameters of a vision language model.
    config : UnifiedConfig or CrossModalConfig
        The model.
    media : array of shape (B, F, H, W, C)
        Normalised.
    questions : sequence of str
        B of them.
    new : int, default 2
        Most tokens of an answer, the end among them.

    Returns
    -------
    list of str
        What the model says, by greedy generation.
    """
    places = placeholders(config, media.shape[1])
    prompts = [
        encode_chat(tokenizer(), [Turn(question, media=1)], placeholders=places)[0]
        for question in questions
    ]
    said = answer(prompts, media, p, config, new=new, stop=(END,))
    return [answer_text(tokenizer(), ids) for ids in said.ids]


def accuracy(said, questions):
    """Compare answers with the right ones.

    Parameters
    ----------
    said : sequence of str
        Answers.
    questions : sequence of Question
        With the right ones.

    Returns
    -------
    float
        The share that is equal.
    """
    return float(np.mean([a == q.answer for a, q in zip(said, questions, strict=True)]))


def word_accuracy(said, questions):
    """Compare answers of several words with the right ones, word by word.

    Parameters
    ----------
    said : sequence of str
        Answers.
    questions : sequence of Question
        With the right ones.

    Returns
    -------
    float
        The mean share of words that stand where they should, of those of the longer of the two.

    Examples
    --------
    >>> from scratch_vlm.data.clips import Question
    >>> word_accuracy(["red seven top-left"], [Question("caption", "", "red one top-left")])
    0.6666666666666666
    """
    shares = []
    for text, question in zip(said, questions, strict=True):
        words, right = text.split(), question.answer.split()
        shares.append(sum(map(str.__eq__, words, right)) / max(len(words), len(right)))
    return float(np.mean(shares))
