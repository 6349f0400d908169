"""What the runs of all models share: images in their order, and looks inside a tower."""

import numpy as np

from scratch_vlm.layers.block import BLOCKS
from scratch_vlm.ops.attend import attention_weights
from scratch_vlm.pretrained.vit import whole_patches


def to_images(pixels, patch):
    """Put images as the reference takes them into our order, without what no patch covers.

    Parameters
    ----------
    pixels : array of shape (..., C, H, W)
        Images.
    patch : tuple of int
        Height and width of a patch.

    Returns
    -------
    array of shape (..., I, J, C)
    """
    height, width = whole_patches(pixels.shape[-2:], patch)
    return np.ascontiguousarray(np.moveaxis(pixels[..., :height, :width], -3, -1))


def to_pixels(dimages, pixels):
    """Put the gradient of images into the reference's order: the way back of `to_images`.

    Parameters
    ----------
    dimages : array of shape (..., I, J, C)
        dL/dimages.
    pixels : array of shape (..., C, H, W)
        The images as they were given.

    Returns
    -------
    dpixels : array of shape (..., C, H, W)
        Zero where no patch looked.
    """
    dpixels = np.zeros_like(pixels)
    dpixels[..., : dimages.shape[-3], : dimages.shape[-2]] = np.moveaxis(dimages, -1, -3)
    return dpixels


def hidden_states(x, p, config, **options):
    """Walk through a tower and keep what stands between its blocks.

    Parameters
    ----------
    x : array of shape (B, T, D)
        What the first block reads.
    p : dict
        The blocks, by their numbers.
    config : BlockConfig
        The kind of block.
    **options
        Those of a block, such as its mask.

    Returns
    -------
    states : list of array of shape (B, T, D)
        One more than there are blocks.
    maps : list of array of shape (B, A, T, T)
        Who read whom in each.
    """
    states, maps = [x], []
    for i in range(len(p)):
        x, s = BLOCKS[config.order][0](x, p[str(i)], config=config.at(i), **options)
        states.append(x)
        maps.append(attention_weights(s["attn"]["attend"]))
    return states, maps


def listed(name, arrays):
    """Name the arrays of a list as the reference does.

    Parameters
    ----------
    name : str
        Of the list, such as ``"out/hidden_states"``.
    arrays : list of array
        The list.

    Returns
    -------
    dict of str to array
    """
    return {f"{name}.{i}": x for i, x in enumerate(arrays)}


def gradients(model, g):
    """Name the gradients of a model as its file names the parameters.

    Parameters
    ----------
    model : Pretrained
        The model.
    g : dict
        Tree of gradients.

    Returns
    -------
    dict of str to array
    """
    return {f"grad/{name}": x for name, x in model.layout.take(g, model.names).items()}
