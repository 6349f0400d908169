"""The main experiment: CLIP learns which caption describes which scene of real handwriting."""

from dataclasses import asdict
from functools import partial

import numpy as np

from scratch_vlm.backend import namespace, to_device, to_host
from scratch_vlm.data.augment import Affine
from scratch_vlm.data.digits import nearest_neighbour, split
from scratch_vlm.data.images import normalize
from scratch_vlm.data.scenes import (
    CANDIDATES,
    COLOUR_NAMES,
    DIGIT_NAMES,
    SIZE,
    TOKENS,
    VOCABULARY,
    DigitPool,
    Item,
    Scene,
    choose_by_words,
    copied_captions,
    evaluation_set,
    render,
    training_batch,
)
from scratch_vlm.data.tokens import END
from scratch_vlm.experiments.runs import ABOUT_SCENES, save_model
from scratch_vlm.inference.embed import embed_images, embed_texts
from scratch_vlm.inference.linear_probe import fit_linear_probe
from scratch_vlm.inference.retrieval import recall_at_k
from scratch_vlm.inference.zero_shot import class_embeddings, zero_shot_probabilities
from scratch_vlm.layers.block import BlockConfig
from scratch_vlm.models.clip import CLIPConfig, clip_backward, clip_clamp, clip_forward, clip_init
from scratch_vlm.models.text import TextConfig
from scratch_vlm.models.vit import ViTConfig
from scratch_vlm.training.loop import TrainConfig, train

EMBEDDING = 64
BLOCK = BlockConfig(width=64, heads=4, hidden=256, mlp="gelu_tanh")
MODEL = CLIPConfig(
    image=ViTConfig(
        image=(SIZE, SIZE, 3),
        patch=(8, 8),
        outputs=EMBEDDING,
        block=BLOCK,
        depth=2,
        # Without vectors for rows and columns that are as large as the tokens they are added to,
        # "left" and "above" are not learned in this time.
        positions="axial",
        position_std=0.5,
        head_bias=False,
    ),
    text=TextConfig(
        vocabulary=len(VOCABULARY),
        context=TOKENS,
        end=END,
        outputs=EMBEDDING,
        block=BLOCK,
        depth=1,
    ),
)
TRAINING = TrainConfig(
    steps=2400,
    batch_size=128,
    peak_rate=2e-3,
    warmup=100,
    weight_decay=0.1,
    betas=(0.9, 0.98),
    checkpoint_every=300,
)
WARP = Affine(degrees=15, scale=0.15, shift=0.8, shear=0.2)
# Subtracted from pixels, and what they are then divided by. With their true mean and deviation
# (0.04 and 0.15) the ink drowns the position vectors, and relations are not learned.
PIXELS = (0.0, 0.5)
RETRIEVAL = 128  # captions to find the right one among


def settings(seed=0, steps=None, *, training=None):
    """Say what tells one run of this experiment from another.

    Parameters
    ----------
    seed : int, default 0
        Of weights and batches.
    steps : int, optional
        Training steps; default 2400.
    training : dict, optional
        Other values of the `TrainConfig`, such as ``{"batch_size": 32}``.

    Returns
    -------
    config : TrainConfig
        How to train.
    identity : dict
        The rest: the model and how its images are drawn.
    """
    config = TRAINING.for_run(seed, steps, training)
    return config, {"model": asdict(MODEL), "warp": asdict(WARP)}


def train_model(folder, *, seed=0, steps=None, training=None, xp=np, progress=True):
    """Train the CLIP on the training forms, or go on where an interrupted training left off.

    Parameters
    ----------
    folder : str or path
        Where to keep its curve and checkpoint.
    seed : int, default 0
        Of weights and batches.
    steps : int, optional
        Training steps; default 2400.
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
        images, ids = training_batch(rng, config.batch_size, pool, WARP)
        return prepare(images), ids

    p = train(
        partial(clip_forward, config=MODEL),
        clip_backward,
        clip_init(np.random.default_rng(seed), MODEL),
        batch,
        config,
        folder,
        after_step=clip_clamp,
        identity=identity,
        xp=xp,
        progress=progress,
    )
    save_model(folder, "clip", MODEL, VOCABULARY, ABOUT_SCENES)
    return p


def prepare(images):
    """Turn scenes into what the model takes.

    Parameters
    ----------
    images : array of shape (B, 24, 24, 3)
        In [0, 1].

    Returns
    -------
    array of shape (B, 24, 24, 3)
        Normalised.
    """
    return normalize(images, *PIXELS)


def image_embeddings(p, images):
    """Embed scenes.

    Parameters
    ----------
    p : dict
        Trained parameters.
    images : numpy.ndarray of shape (B, 24, 24, 3)
        In [0, 1].

    Returns
    -------
    numpy.ndarray of shape (B, E)
        Unit vectors.
    """
    images = to_device(prepare(images), namespace(p["log_scale"]))
    return to_host(embed_images(images, p, MODEL))


def text_embeddings(p, captions):
    """Embed captions.

    Parameters
    ----------
    p : dict
        Trained parameters.
    captions : sequence of str
        Of words in the vocabulary.

    Returns
    -------
    numpy.ndarray of shape (B, E)
        Unit vectors.
    """
    return to_host(embed_texts(VOCABULARY.encode(captions, TOKENS), p, MODEL))


def candidate_probabilities(p, scenes):
    """Let the model choose among the candidate captions of each scene.

    Parameters
    ----------
    p : dict
        Trained parameters.
    scenes : SceneSet
        Scenes and their candidates.

    Returns
    -------
    numpy.ndarray of shape (B, V)
        Probabilities of the eight captions; the first is the right one.
    """
    texts = text_embeddings(p, [caption for choices in scenes.candidates for caption in choices])
    texts = texts.reshape(len(scenes.images), CANDIDATES, -1)
    return zero_shot_probabilities(image_embeddings(p, scenes.images), texts, p["log_scale"])


def digit_classes(p):
    """Make a classifier of digits out of words: each class is an ensemble of four prompts.

    Parameters
    ----------
    p : dict
        Trained parameters.

    Returns
    -------
    numpy.ndarray of shape (V, E)
        One unit vector a digit: the mean of "red seven", "green seven" and so on.
    """
    prompts = [f"{colour} {digit}" for digit in DIGIT_NAMES for colour in COLOUR_NAMES]
    texts = text_embeddings(p, prompts)
    return class_embeddings(texts.reshape(len(DIGIT_NAMES), len(COLOUR_NAMES), -1))


def single_digit_scenes(name, seed=5):
    """Paint every digit of a split alone in a scene, in a random colour and place.

    Parameters
    ----------
    name : {"train", "val", "test"}
        Whose handwriting.
    seed : int, default 5
        Draws colours and places.

    Returns
    -------
    images : numpy.ndarray of shape (B, 24, 24, 3)
        In [0, 1].
    labels : integer array of shape (B,)
        The digits.
    """
    digits, rng = split(name), np.random.default_rng(seed)
    images = []
    for i, label in enumerate(digits.labels):
        scene = Scene((Item(int(rng.integers(len(COLOUR_NAMES))), int(label)),))
        images.append(render(rng, [scene], _OneDigit(digits.images[i]))[0][0])
    return np.stack(images), digits.labels


class _OneDigit:
    # A pool that holds one image, whatever is asked for.
    def __init__(self, image):
        self.image = image

    def draw(self, rng, labels):
        return self.image[None]


def measure(p, name):
    """Measure the CLIP on handwriting that it was not trained on.

    Parameters
    ----------
    p : dict
        Trained parameters.
    name : {"val", "test"}
        Which forms.

    Returns
    -------
    dict
        Nested metrics, each with its chance level and, where there is one, the result of the
        nearest training scene in pixels.
    """
    scenes = evaluation_set(name, 512)
    unseen = evaluation_set(name, 512, held_out=True)
    copied = copied_captions(scenes.images)
    return {
        "zero_shot_8way": {
            name: _eight_way(p, scenes, copied),
            "heldout_combinations": _eight_way(p, unseen, copied_captions(unseen.images)),
        },
        f"retrieval_r_at_1_of_{RETRIEVAL}": {name: _retrieval(p, scenes, copied)},
        "zero_shot_digit": {name: _digit_accuracy(p, name)},
        "linear_probe_digit": {name: _probe_accuracy(p, name)},
    }


def _eight_way(p, scenes, copied):
    right = candidate_probabilities(p, scenes).argmax(1) == 0
    baseline = np.mean(
        [choose_by_words(s, c)[0] for s, c in zip(copied, scenes.candidates, strict=True)]
    )
    return _entry(right.mean(), 1 / CANDIDATES, baseline)


def _retrieval(p, scenes, copied):
    # Each scene must find its caption among 128, four times over.
    captions = [scene.caption for scene in scenes.scenes]
    images, texts = image_embeddings(p, scenes.images), text_embeddings(p, captions)
    recalls, baselines = [], []
    for start in range(0, len(captions), RETRIEVAL):
        part = slice(start, start + RETRIEVAL)
        recalls.append(recall_at_k(images[part] @ texts[part].T, 1))
        baselines += [
            choose_by_words(said, captions[part])[i] for i, said in enumerate(copied[part])
        ]
    return _entry(np.mean(recalls), 1 / RETRIEVAL, np.mean(baselines))


def _digit_accuracy(p, name):
    images, labels = single_digit_scenes(name)
    scores = image_embeddings(p, images) @ digit_classes(p).T
    return _entry((scores.argmax(1) == labels).mean(), 0.1, _nearest_digit(name))


def _probe_accuracy(p, name):
    train, train_labels = single_digit_scenes("train")
    test, labels = single_digit_scenes(name)
    probe = fit_linear_probe(image_embeddings(p, train), train_labels, len(DIGIT_NAMES))
    right = probe.predict(image_embeddings(p, test)) == labels
    return _entry(right.mean(), 0.1, _nearest_digit(name))


def _nearest_digit(name):
    test = split(name)
    return (nearest_neighbour(split("train"), test) == test.labels).mean()


def _entry(value, chance, baseline):
    return {"value": float(value), "chance": chance, "baseline": float(baseline)}
