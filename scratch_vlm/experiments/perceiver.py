"""The Perceiver names digits from single pixels, and does not mind in which order they come."""

from dataclasses import asdict, replace
from functools import partial
from pathlib import Path

import numpy as np

from scratch_vlm.backend import namespace, to_device, to_host
from scratch_vlm.data.augment import affine
from scratch_vlm.data.digits import split
from scratch_vlm.experiments import digits as patches
from scratch_vlm.layers.block import BlockConfig
from scratch_vlm.models.perceiver import (
    PerceiverConfig,
    perceiver_backward,
    perceiver_forward,
    perceiver_init,
)
from scratch_vlm.models.vit import vit_backward, vit_forward, vit_init
from scratch_vlm.ops.fourier import fourier_positions
from scratch_vlm.ops.losses import cross_entropy_backward, cross_entropy_forward
from scratch_vlm.recompute import chunked, forward_only
from scratch_vlm.training.loop import train
from scratch_vlm.tree import leaves

SIDE = 8  # pixels
MODEL = PerceiverConfig(
    shape=(SIDE, SIDE),
    channels=1,
    outputs=patches.CLASSES,
    block=BlockConfig(width=64, heads=4, hidden=128, mlp="gelu_tanh"),
    latents=8,
    depth=1,
    repeats=2,
    bands=4,
    cross_heads=8,  # eight heads of eight latents read 64 places at once
    latent_std=1.0,  # from the paper's 0.02 they take longer to go separate ways
)
# The same model for pixels that bring their positions with them.
CARRYING = replace(MODEL, channels=MODEL.input_width, bands=None)
TRAINING = replace(patches.TRAINING, steps=1500, batch_size=64, peak_rate=4e-3)
STEPS = 500  # of each of the models that are compared on permuted pixels


def train_model(folder, *, seed=0, steps=None, training=None, xp=np, progress=True):
    """Train the Perceiver on the training forms, or go on where an interrupted training left off.

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
    return _fit(folder, _perceiver(MODEL, prepare), seed, steps, training, xp, progress)


def prepare(images):
    """Turn grey digits into what the model takes: an array of pixels.

    Parameters
    ----------
    images : array of shape (B, 8, 8)
        Ink from 0 to 1.

    Returns
    -------
    array of shape (B, 64, 1)
        Normalised, in reading order.
    """
    return patches.prepare(images).reshape(len(images), -1, 1)


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
    return _predict(p, images, _perceiver(MODEL, prepare))


def measure(p, name):
    """Measure the Perceiver on handwriting that it was not trained on.

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
    return patches.accuracy_entry(predict(p, split(name).images), name)


def compare_permuted(folder, *, seed=0, steps=None, name="val", xp=np, progress=True):
    """Train a ViT and a Perceiver on pixels in reading order, and on pixels in a random one.

    The order is drawn once and is the same for all images. A ViT cuts its patches from what it is
    given. To the Perceiver each pixel brings the position it came from, as in [1]_, or, to see
    what that is worth, that of the place it was moved to.

    Parameters
    ----------
    folder : str or path
        Gains a folder for each model.
    seed : int, default 0
        Of the order, the weights and the batches.
    steps : int, optional
        Training steps of each model; default 500.
    name : {"val", "test"}
        On which forms to measure.
    xp : module, default numpy
        Where to compute.
    progress : bool, default True
        Show progress bars.

    Returns
    -------
    dict
        For ``vit`` and ``perceiver`` the accuracies ``ordered``, ``permuted`` and, for the
        latter, ``permuted_blind``; each with chance.

    References
    ----------
    .. [1] A. Jaegle et al., "Perceiver: General Perception with Iterative Attention", 2021,
       arXiv:2103.03206, section 4.1 (permuted ImageNet).
    """
    steps = STEPS if steps is None else steps
    order = np.random.default_rng([seed, 0]).permutation(SIDE * SIDE)
    kinds = {
        "vit": {
            "ordered": _vit(patches.prepare),
            "permuted": _vit(lambda images: patches.prepare(_permuted(images, order))),
        },
        "perceiver": {
            "ordered": _perceiver(MODEL, prepare),
            "permuted": _perceiver(CARRYING, lambda images: with_positions(images)[:, order]),
            "permuted_blind": _perceiver(MODEL, lambda images: prepare(images)[:, order]),
        },
    }
    digits, metrics = split(name), {}
    for model, conditions in kinds.items():
        metrics[model] = {}
        for condition, kind in conditions.items():
            p = _fit(Path(folder) / f"{model}-{condition}", kind, seed, steps, None, xp, progress)
            accuracy = (_predict(p, digits.images, kind) == digits.labels).mean()
            metrics[model][condition] = {"value": float(accuracy), "chance": 1 / patches.CLASSES}
    return metrics


def with_positions(images):
    """Lay beside each pixel of a grey digit the position that the model would.

    Parameters
    ----------
    images : array of shape (B, 8, 8)
        Ink from 0 to 1.

    Returns
    -------
    array of shape (B, 64, E)
        The pixel, normalised, then its Fourier features.
    """
    pixels = prepare(images)
    table = fourier_positions(MODEL.shape, MODEL.bands).astype(pixels.dtype)
    table = np.broadcast_to(table, (len(pixels), *table.shape))
    return np.concatenate([pixels, table], axis=2)


def _permuted(images, order):
    return images.reshape(len(images), -1)[:, order].reshape(images.shape)


def _perceiver(config, see):
    return {
        "forward": partial(perceiver_forward, config=config),
        "backward": perceiver_backward,
        "init": partial(perceiver_init, config=config),
        "see": see,  # turns digits into what the model takes
        "training": TRAINING,
        "identity": {"model": asdict(config), "warp": asdict(patches.WARP)},
    }


def _vit(see):
    return {
        "forward": partial(vit_forward, config=patches.MODEL),
        "backward": vit_backward,
        "init": partial(vit_init, config=patches.MODEL),
        "see": see,
        "training": patches.TRAINING,
        "identity": {"model": asdict(patches.MODEL), "warp": asdict(patches.WARP)},
    }


def _fit(folder, kind, seed, steps, training, xp, progress):
    config = kind["training"].for_run(seed, steps, training)
    digits = split("train")

    def batch(step):
        rng = np.random.default_rng([seed, step])
        chosen = rng.integers(len(digits), size=config.batch_size)
        return kind["see"](affine(rng, digits.images[chosen], patches.WARP)), digits.labels[chosen]

    def forward(inputs, labels, p):
        scores, s_model = kind["forward"](inputs, p)
        loss, s_loss = cross_entropy_forward(scores, labels, smoothing=patches.SMOOTHING)
        return loss, (s_model, s_loss)

    def backward(dloss, saved, g):
        s_model, s_loss = saved
        kind["backward"](cross_entropy_backward(dloss, s_loss), s_model, g)

    return train(
        forward,
        backward,
        kind["init"](np.random.default_rng(seed)),
        batch,
        config,
        folder,
        identity=kind["identity"],
        xp=xp,
        progress=progress,
    )


def _predict(p, images, kind):
    _, leaf = next(leaves(p))
    inputs = to_device(kind["see"](images), namespace(leaf))
    encode, _ = chunked(kind["forward"], None, size=256)
    with forward_only():
        return to_host(encode(inputs, p)[0]).argmax(1)
