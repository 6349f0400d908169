"""The first experiment: a Vision Transformer learns to name single handwritten digits."""

from dataclasses import asdict

import numpy as np

from scratch_vlm.backend import namespace, to_device, to_host
from scratch_vlm.data.augment import Affine, affine
from scratch_vlm.data.digits import nearest_neighbour, split
from scratch_vlm.data.images import normalize
from scratch_vlm.experiments.runs import save_model
from scratch_vlm.layers.block import BlockConfig
from scratch_vlm.models.vit import ViTConfig, vit_backward, vit_forward, vit_init
from scratch_vlm.ops.losses import cross_entropy_backward, cross_entropy_forward
from scratch_vlm.recompute import chunked, forward_only
from scratch_vlm.training.loop import TrainConfig, train

CLASSES = 10
MODEL = ViTConfig(
    image=(8, 8, 1),
    patch=(4, 4),
    outputs=CLASSES,
    block=BlockConfig(width=64, heads=4, hidden=256, mlp="gelu_tanh"),
    depth=4,
    position_std=0.1,
)
TRAINING = TrainConfig(
    steps=1500,
    batch_size=128,
    peak_rate=2e-3,
    warmup=100,
    weight_decay=0.1,
    betas=(0.9, 0.98),
    checkpoint_every=250,
)
WARP = Affine(degrees=15, scale=0.15, shift=0.8, shear=0.2)
SMOOTHING = 0.1
INK = (0.3, 0.37)  # mean and standard deviation of the training digits' pixels


def settings(seed=0, steps=None, *, training=None):
    """Say what tells one run of this experiment from another.

    Parameters
    ----------
    seed : int, default 0
        Of weights and batches.
    steps : int, optional
        Training steps; default 1500.
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
    """Train the ViT on the training forms, or go on where an interrupted training left off.

    Parameters
    ----------
    folder : str or path
        Where to keep its curve and checkpoint.
    seed : int, default 0
        Of weights and batches.
    steps : int, optional
        Training steps; default 1500.
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
    digits = split("train")

    def batch(step):
        rng = np.random.default_rng([seed, step])
        chosen = rng.integers(len(digits), size=config.batch_size)
        images = affine(rng, digits.images[chosen], WARP)
        return prepare(images), digits.labels[chosen]

    def forward(images, labels, p):
        scores, s_model = vit_forward(images, p, config=MODEL)
        loss, s_loss = cross_entropy_forward(scores, labels, smoothing=SMOOTHING, overwrite=True)
        return loss, (s_model, s_loss)

    def backward(dloss, saved, g):
        s_model, s_loss = saved
        vit_backward(cross_entropy_backward(dloss, s_loss), s_model, g)

    p = vit_init(np.random.default_rng(seed), MODEL)
    p = train(
        forward, backward, p, batch, config, folder, identity=identity, xp=xp, progress=progress
    )
    save_model(folder, "vit", MODEL, about={"media": "image", "shows": "one grey digit"})
    return p


def prepare(images):
    """Turn grey digits into what the model takes.

    Parameters
    ----------
    images : array of shape (B, 8, 8)
        Ink from 0 to 1.

    Returns
    -------
    array of shape (B, 8, 8, 1)
        Normalised.
    """
    return normalize(images[..., None], *INK)


def predict(p, images):
    """Name digits.

    Parameters
    ----------
    p : dict
        Trained parameters.
    images : numpy.ndarray of shape (B, 8, 8)
        Ink from 0 to 1.

    Returns
    -------
    integer array of shape (B,)
    """
    images = to_device(prepare(images), namespace(p["patch"]["w"]))
    encode, _ = chunked(vit_forward, None, size=256)
    with forward_only():
        return to_host(encode(images, p, config=MODEL)[0]).argmax(1)


def measure(p, name):
    """Measure the ViT on handwriting that it was not trained on.

    Parameters
    ----------
    p : dict
        Trained parameters.
    name : {"val", "test"}
        Which forms.

    Returns
    -------
    dict
        Accuracy, with chance and that of the nearest neighbour in pixels.
    """
    return accuracy_entry(predict(p, split(name).images), name)


def accuracy_entry(predicted, name):
    """Compare predictions with the labels of a split, and with the simple baseline.

    Parameters
    ----------
    predicted : integer array of shape (B,)
        A class for each digit of the split.
    name : {"val", "test"}
        Which forms.

    Returns
    -------
    dict
        Accuracy, with chance and that of the nearest neighbour in pixels.
    """
    digits = split(name)
    baseline = nearest_neighbour(split("train"), digits) == digits.labels
    return {
        f"{name}_accuracy": {
            "value": float((predicted == digits.labels).mean()),
            "chance": 1 / CLASSES,
            "baseline": float(baseline.mean()),
        }
    }
