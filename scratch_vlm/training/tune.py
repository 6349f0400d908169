"""Train a published model further, and write it in the layout that it was published in."""

from dataclasses import replace
from functools import partial

import numpy as np

from scratch_vlm.backend import to_host
from scratch_vlm.layers.lora import LORA_ONLY, lora_add, lora_merge
from scratch_vlm.models.clip import clip_backward, clip_forward
from scratch_vlm.models.cross_modal import (
    CrossModalConfig,
    check_shown,
    cross_modal_loss_backward,
    cross_modal_loss_forward,
)
from scratch_vlm.models.lm import lm_loss_backward, lm_loss_forward
from scratch_vlm.models.unified import unified_loss_backward, unified_loss_forward
from scratch_vlm.models.vit import vit_backward, vit_forward
from scratch_vlm.ops.losses import cross_entropy_backward, cross_entropy_forward
from scratch_vlm.pretrained.images import normalize_images
from scratch_vlm.pretrained.llava import used
from scratch_vlm.pretrained.load import save_pretrained
from scratch_vlm.training.loop import train
from scratch_vlm.training.optimizer import EVERYTHING
from scratch_vlm.training.run import RunFolder
from scratch_vlm.tree import tree_map


def tune(
    model,
    batch,
    config,
    folder,
    *,
    recipe=None,
    adapters=None,
    rank=8,
    alpha=None,
    out=None,
    about=None,
    **options,
):
    """Train a published model further.

    Parameters
    ----------
    model : Pretrained
        As `load_pretrained` returns it; not changed.
    batch : callable
        ``batch(step)`` returns what the objective of such a model reads, see `objective`. It must
        depend on the step number alone.
    config : TrainConfig
        How to train, and by `trained` what: ``((".*connector/.*", True), (".*", False))`` is the
        projector of a LLaVA.
    folder : str or path
        The run's folder. An interrupted run goes on where it left off.
    recipe : Recipe, optional
        For batches whose images are bytes, see `objective`.
    adapters : iterable of (str, bool), optional
        Rules for `lora_add`, which linear layers learn by an adapter beside them. Everything else
        is then frozen, unless `config` says what learns. Default no adapters.
    rank : int, default 8
        Of the adapters.
    alpha : float, optional
        See `lora_init`.
    out : str or path, optional
        Where to write the model that came out. Default ``model/`` in the run's folder.
    about : dict, optional
        What else makes this run what it is, such as a digest of the data: a run that was begun
        with another is not gone on with.
    **options
        Of `train`, such as `after_step`.

    Returns
    -------
    Pretrained
        The trained model, adapters merged into the weights that they stood beside.

    Raises
    ------
    ValueError
        If there is no objective for such a model, or the rules do not fit its parameters.

    See Also
    --------
    save_pretrained : How it is written.

    Notes
    -----
    What was stored in 16 bits is written in 16 bits again: of a small change to a weight little
    is left then. Call `save_pretrained` with another dtype where that matters.

    References
    ----------
    .. [1] E. J. Hu et al., "LoRA: Low-Rank Adaptation of Large Language Models", 2021,
       arXiv:2106.09685, section 4.1.
    """
    forward, backward = objective(model, recipe)
    # As a checkpoint holds them: products of a matrix stored by columns round otherwise, and a
    # resumed run must end as one without a break.
    p = tree_map(partial(np.asarray, order="C"), model.p)
    if adapters is not None:
        p = lora_add(np.random.default_rng(config.seed), p, adapters, rank=rank, alpha=alpha)
        if config.trained == EVERYTHING:
            config = replace(config, trained=LORA_ONLY)
    if isinstance(model.config, CrossModalConfig):
        forward, batch = _counted(forward, batch, model.config.image)
    identity = {"kind": model.kind, "published": model.published, **(about or {})}
    p = train(forward, backward, p, batch, config, folder, identity=identity, **options)
    if adapters is not None:
        p, _ = lora_merge(p)
    trained = replace(model, p=tree_map(to_host, p))
    save_pretrained(trained, RunFolder(folder).path / "model" if out is None else out)
    return trained


def _counted(forward, batch, image):
    # How many images a text has at most is counted on the host, and told to the objective as the
    # length of an axis: a device would have to be waited for.
    def drawn(step):
        ids, labels, media = batch(step)
        return ids, labels, media, np.empty((len(ids), check_shown(ids, image, media)), bool)

    def told(ids, labels, media, room, p):
        return forward(ids, labels, media, p, slots=room.shape[1])

    return told, drawn


def objective(model, recipe=None):
    """Find out what a published model is trained to do.

    Parameters
    ----------
    model : Pretrained
        The model.
    recipe : Recipe, optional
        How images that are bytes, as `resize_images` returns them, become what the model takes:
        that is then done where they are, at the beginning of the forward.

    Returns
    -------
    forward : callable
        ``loss, saved = forward(*batch, p)``. A batch is (images, labels) for a classifier,
        (images, ids) for CLIP and SigLIP, (ids, labels) for a language model, and (ids, labels,
        media) for LLaVA and Idefics; labels of what is not to be foretold are -100.
    backward : callable
        ``backward(dloss, saved, g)``.

    Raises
    ------
    ValueError
        If there is none.
    """
    if model.kind not in OBJECTIVES:
        raise ValueError(
            f"no objective for {model.kind}; there are some for {', '.join(OBJECTIVES)}"
        )
    forward, backward = OBJECTIVES[model.kind]
    forward = partial(forward, config=model.config)
    return (forward if recipe is None else _from_bytes(forward, recipe)), backward


def _from_bytes(forward, recipe):
    def normalized(*batch_and_p, **options):
        *batch, p = batch_and_p
        ready = [normalize_images(x, recipe) if x.dtype == "uint8" else x for x in batch]
        return forward(*ready, p, **options)

    return normalized


def classify_forward(images, labels, p, *, config):
    """Measure how badly images are told apart.

    Parameters
    ----------
    images : array of shape (B, H, W, C)
        Images, normalised.
    labels : integer array of shape (B,)
        The right classes.
    p : dict
        As `vit_init` makes it.
    config : ViTConfig
        The model.

    Returns
    -------
    loss : array of shape ()
    saved : tuple
        For `classify_backward`.

    See Also
    --------
    classify_backward : The gradient of this function.
    """
    scores, s_vit = vit_forward(images, p, config=config)
    loss, s_loss = cross_entropy_forward(scores, labels)
    return loss, (s_vit, s_loss)


def classify_backward(dloss, saved, g):
    """Gradient of `classify_forward`.

    Parameters
    ----------
    dloss : float
        dL/dloss, usually 1.
    saved : tuple
        As `classify_forward` saved it.
    g : dict
        Gains the gradients of the parameters; empty if they are frozen.

    Returns
    -------
    dimages : array of shape (B, H, W, C)
    """
    s_vit, s_loss = saved
    return vit_backward(cross_entropy_backward(dloss, s_loss), s_vit, g)


def _seeing(forward):  # the blocks that a tower has and does not use stay as they are
    def without_unused(ids, labels, media, p, *, config, **options):
        return forward(ids, labels, media, used(p, config), config=config, **options)

    return without_unused


OBJECTIVES = {  # by the class of the reference
    "ViTForImageClassification": (classify_forward, classify_backward),
    "CLIPModel": (clip_forward, clip_backward),
    "SiglipModel": (clip_forward, clip_backward),
    "GPT2LMHeadModel": (lm_loss_forward, lm_loss_backward),
    "LlamaForCausalLM": (lm_loss_forward, lm_loss_backward),
    "MistralForCausalLM": (lm_loss_forward, lm_loss_backward),
    "Qwen2ForCausalLM": (lm_loss_forward, lm_loss_backward),
    "LlavaForConditionalGeneration": (_seeing(unified_loss_forward), unified_loss_backward),
    "IdeficsForVisionText2Text": (_seeing(cross_modal_loss_forward), cross_modal_loss_backward),
}
