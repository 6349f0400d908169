"""Text only: a small language model learns what captions say, before it is given any image."""

import math
from dataclasses import asdict
from functools import cache, partial
from itertools import product

import numpy as np

from scratch_vlm.backend import namespace, to_device
from scratch_vlm.data.bpe import load_bpe, train_bpe
from scratch_vlm.data.scenes import COLOUR_NAMES, DIGIT_NAMES, RELATIONS, Item, Scene
from scratch_vlm.data.tokens import BEGIN, END, PAD
from scratch_vlm.inference.generate import generate, log_probabilities
from scratch_vlm.models.lm import LMConfig, lm_init, lm_loss_backward, lm_loss_forward
from scratch_vlm.ops.losses import IGNORE
from scratch_vlm.training.checkpoint import load_parameters
from scratch_vlm.training.loop import TrainConfig, train
from scratch_vlm.training.run import RunFolder

VOCABULARY = 320  # at most: three special tokens, 256 bytes, and enough merges for every word
TOKENS = 7  # of the longest caption: begin, five words, end
CONTEXT = 32
SIZES = {"width": 64, "heads": 4, "depth": 2}
STYLES = {"gpt": LMConfig.gpt, "llama": partial(LMConfig.llama, kv_heads=2)}
TRAINING = TrainConfig(
    steps=800,
    batch_size=128,
    peak_rate=2e-3,
    warmup=100,
    weight_decay=0.1,
    betas=(0.9, 0.98),
    checkpoint_every=200,
)
SINGLE = 0.25  # share of captions that name one digit
HELD_BACK = 0.1  # share of the captions of two digits, for each of "val" and "test"
SAMPLES = 512  # captions that the trained model writes


@cache
def captions(name):
    """List the captions of a split; none stands in two of them.

    Parameters
    ----------
    name : {"train", "val", "test", "single", "all"}
        Captions of two digits: four fifths to train on, and two tenths that are known word by
        word but never seen as a whole. Or those of one digit, which are all trained on. Or every
        caption that describes a scene, with the combinations of colour and digit that are held
        out from all training.

    Returns
    -------
    tuple of str

    Raises
    ------
    ValueError
        If there is no such split.
    """
    items = [Item(c, d) for c in range(len(COLOUR_NAMES)) for d in range(len(DIGIT_NAMES))]
    single = [Scene((item,)) for item in items]
    pairs = [
        Scene((a, b), relation)
        for a, b, relation in product(items, items, RELATIONS)
        if a.colour != b.colour and a.digit != b.digit
    ]
    if name == "all":
        return tuple(scene.caption for scene in single + pairs)
    if name == "single":
        return tuple(scene.caption for scene in single if not scene.held_out)
    known = [scene.caption for scene in pairs if not scene.held_out]
    shuffled = [known[i] for i in np.random.default_rng(7).permutation(len(known))]
    count = round(HELD_BACK * len(known))
    splits = {
        "train": shuffled[2 * count :],
        "val": shuffled[:count],
        "test": shuffled[count : 2 * count],
    }
    if name not in splits:
        raise ValueError(f"captions come in {', '.join(splits)}, single and all, not {name!r}")
    return tuple(splits[name])


@cache
def tokenizer():
    """Train the tokenizer on the training captions.

    Returns
    -------
    BPE
        The same each time.
    """
    return train_bpe(captions("single") + captions("train"), vocabulary=VOCABULARY)


def train_model(folder, *, seed=0, steps=None, style="gpt", training=None, xp=np, progress=True):
    """Train a language model on captions, or go on where an interrupted training left off.

    Parameters
    ----------
    folder : str or path
        Where to keep its curve, its checkpoint and ``tokenizer.json``.
    seed : int, default 0
        Of weights and batches.
    steps : int, optional
        Training steps; default 800.
    style : {"gpt", "llama"}
        Which kind of model.
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

    Raises
    ------
    ValueError
        If there is no such style.
    """
    model = model_of(style)
    config = TRAINING.for_run(seed, steps, training)
    single, pairs = (tokenizer().encode(captions(name), TOKENS) for name in ("single", "train"))

    def batch(step):
        rng = np.random.default_rng([seed, step])
        ids = pairs[rng.integers(len(pairs), size=config.batch_size)]
        alone = rng.random(len(ids)) < SINGLE
        ids[alone] = single[rng.integers(len(single), size=alone.sum())]
        return ids, np.where(ids == PAD, IGNORE, ids)

    run = RunFolder(folder)
    run.prepare()
    tokenizer().save(run.path / "tokenizer.json")
    return train(
        partial(lm_loss_forward, config=model),
        lm_loss_backward,
        lm_init(np.random.default_rng(seed), model),
        batch,
        config,
        folder,
        identity={"model": asdict(model)},
        xp=xp,
        progress=progress,
    )


def load_model(folder, *, style="gpt"):
    """Read a trained language model and its tokenizer.

    Parameters
    ----------
    folder : str or path
        Where `train_model` kept them.
    style : {"gpt", "llama"}
        Which kind of model it is.

    Returns
    -------
    p : dict
        Parameters, on the host.
    config : LMConfig
        The model.
    tokenizer : BPE
        Its tokenizer.

    Raises
    ------
    ValueError
        If there is no such style, or the folder holds no model of it.
    """
    config, run = model_of(style), RunFolder(folder)
    p = load_parameters(run.checkpoint, lm_init(np.random.default_rng(0), config))
    return p, config, load_bpe(run.path / "tokenizer.json")


def model_of(style):
    """Configure the model of a style.

    Parameters
    ----------
    style : {"gpt", "llama"}
        Which kind of model.

    Returns
    -------
    LMConfig

    Raises
    ------
    ValueError
        If there is no such style.
    """
    if style not in STYLES:
        raise ValueError(f"style must be one of {', '.join(STYLES)}, got {style!r}")
    return STYLES[style](len(tokenizer()), CONTEXT, **SIZES)


def write_captions(p, config, *, count=SAMPLES, temperature=1.0, seed=0):
    """Let a language model write captions.

    Parameters
    ----------
    p : dict
        Trained parameters.
    config : LMConfig
        The model.
    count : int, default 512
        How many.
    temperature : float, default 1.0
        See `decode`.
    seed : int, default 0
        Draws them.

    Returns
    -------
    list of str
    """
    written = generate(
        [[BEGIN]] * count,
        p,
        config,
        new=TOKENS - 1,
        temperature=temperature,
        rng=np.random.default_rng(seed),
        stop=(END,),
    )
    return tokenizer().decode(written.ids)


def measure(p, name, *, style="gpt"):
    """Measure a language model on captions that it never read.

    Parameters
    ----------
    p : dict
        Trained parameters.
    name : {"val", "test"}
        Which captions.
    style : {"gpt", "llama"}
        Which kind of model.

    Returns
    -------
    dict
        Perplexity a token, beside that of guessing evenly and of a bigram model, and alone that
        of a unigram model and the lowest that can be expected: of one who knows what captions
        are possible. Shares of written captions that describe a scene, and of those that do and
        were never read, beside the bigram model's.
    """
    config = model_of(style)
    texts = captions(name)
    ids = tokenizer().encode(texts, TOKENS)
    known = log_probabilities(to_device(ids, namespace(p["ln"]["gamma"])), p, config)
    counted = (ids != PAD)[:, 1:]
    bigrams = Bigrams()
    possible = len(captions("train")) + len(captions("val")) + len(captions("test"))
    said, said_by_bigrams = write_captions(p, config), bigrams.write(SAMPLES)
    return {
        "perplexity": {
            name: {
                "value": _perplexity(known[:, 1:][counted]),
                "chance": float(config.vocabulary),
                "baseline": _perplexity(bigrams.log_probabilities(ids)[counted]),
            },
            "unigram": _perplexity(bigrams.unigrams()[ids[:, 1:]][counted]),
            "lowest": math.exp(math.log(possible / (1 - SINGLE)) * len(texts) / counted.sum()),
        },
        "written_valid": _shares(said, said_by_bigrams, captions("all")),
        "written_valid_and_new": _shares(
            said,
            said_by_bigrams,
            set(captions("all")) - set(captions("train") + captions("single")),
        ),
    }


class Bigrams:
    """The simple baseline: each token depends on the one before, as counted in training captions.

    Parameters
    ----------
    smoothing : float, default 0.001
        Added to every count.
    """

    def __init__(self, smoothing=0.001):
        single, pairs = (tokenizer().encode(captions(n), TOKENS) for n in ("single", "train"))
        self.counts = np.full((len(tokenizer()), len(tokenizer())), smoothing)
        for ids, share in ((single, SINGLE), (pairs, 1 - SINGLE)):
            # Captions weigh as often as they are drawn in training.
            weight = share * len(pairs) / len(ids)
            np.add.at(self.counts, (ids[:, :-1], ids[:, 1:]), weight * (ids[:, 1:] != PAD))

    def log_probabilities(self, ids):
        """Judge tokens by those before them.

        Parameters
        ----------
        ids : integer array of shape (B, T)
            Token ids.

        Returns
        -------
        array of shape (B, T - 1)
            In nats, without the first.
        """
        probabilities = self.counts / self.counts.sum(1, keepdims=True)
        return np.log(probabilities[ids[:, :-1], ids[:, 1:]])

    def unigrams(self):
        """Judge tokens by themselves.

        Returns
        -------
        array of shape (V,)
            Logarithm of the probability of each, in nats.
        """
        return np.log(self.counts.sum(0) / self.counts.sum())

    def write(self, count, seed=0):
        """Write captions.

        Parameters
        ----------
        count : int
            How many.
        seed : int, default 0
            Draws them.

        Returns
        -------
        list of str
        """
        rng, rows = np.random.default_rng(seed), np.full((count, TOKENS), BEGIN)
        for t in range(1, TOKENS):
            sums = self.counts[rows[:, t - 1]].cumsum(1)
            rows[:, t] = (sums > rng.random((count, 1)) * sums[:, -1:]).argmax(1)
        return tokenizer().decode(rows)


def _perplexity(log_probabilities):
    return math.exp(-log_probabilities.mean())


def _shares(said, said_by_bigrams, wanted):
    wanted = set(wanted)
    value, baseline = (
        float(np.mean([caption in wanted for caption in texts]))
        for texts in (said, said_by_bigrams)
    )
    return {"value": value, "baseline": baseline}
