"""Embeddings: a learned vector for each token id and for each place."""

import numpy as np

from scratch_vlm.backend import add_at, namespace
from scratch_vlm.ops.positions import (
    interpolate_positions_backward,
    interpolate_positions_forward,
)


def embedding_init(rng, vocabulary, width, *, std=0.02):
    """Draw the vectors of an embedding.

    Parameters
    ----------
    rng : numpy.random.Generator
        Where the vectors come from.
    vocabulary, width : int
        V and D.
    std : float, default 0.02
        Standard deviation of each number.

    Returns
    -------
    p : dict
        ``w`` of shape (V, D), in float32.
    """
    return {"w": (std * rng.standard_normal((vocabulary, width))).astype("float32")}


def embedding_forward(ids, p):
    """Look up the vector of each token id.

    Parameters
    ----------
    ids : integer array of shape (...)
        From 0 to V - 1. Checked where they are on the host.
    p : dict
        ``w`` of shape (V, D).

    Returns
    -------
    y : array of shape (..., D)
    saved : array
        For `embedding_backward`.

    Raises
    ------
    TypeError
        If the ids are not integers.
    ValueError
        If an id is outside the vocabulary.

    See Also
    --------
    embedding_backward : The gradient of this function.
    """
    check_ids(ids, len(p["w"]))
    ids = namespace(p["w"]).asarray(ids)
    return p["w"][ids], ids


def embedding_backward(dy, ids, g):
    """Gradient of `embedding_forward`; there is none with respect to the ids.

    Parameters
    ----------
    dy : array of shape (..., D)
        dL/dy.
    ids : array
        As `embedding_forward` saved it.
    g : dict
        Gains the gradient of ``w``; empty if it is frozen.

    Notes
    -----
    A vector was read wherever its id stands, so its gradient is the sum over those places.
    """
    if g:
        add_at(g["w"], ids, dy)


def positions_forward(x, p, *, places=None):
    """Add a learned vector for each place of a sequence.

    Parameters
    ----------
    x : array of shape (B, T, D)
        Tokens.
    p : dict
        ``w`` of shape (M, D) for up to M places.
    places : integer array of shape (B, T), optional
        Where each token stands, from 0 to M - 1. Default one after another from 0.

    Returns
    -------
    y : array of shape (B, T, D)
    saved : int or array
        For `positions_backward`.

    Raises
    ------
    TypeError
        If the places are not integers.
    ValueError
        If there are more tokens than places, they have another width, or a place is none of
        the M.

    See Also
    --------
    positions_backward : The gradient of this function.
    """
    _check_places(x, p["w"].shape[1])
    tokens, count = x.shape[1], len(p["w"])
    if places is None:
        if tokens > count:
            raise ValueError(f"{tokens} tokens do not fit the {count} places of the position table")
        return x + p["w"][:tokens], tokens
    if places.shape != x.shape[:2]:
        raise ValueError(f"places {places.shape} must be one for each token, {x.shape[:2]}")
    check_ids(places, count, "place")
    places = namespace(x).asarray(places)
    return x + p["w"][places], places


def positions_backward(dy, places, g):
    """Gradient of `positions_forward`.

    Parameters
    ----------
    dy : array of shape (B, T, D)
        dL/dy.
    places : int or array
        As `positions_forward` saved it: T, or the place of each token.
    g : dict
        Gains the gradient of ``w``; empty if it is frozen.

    Returns
    -------
    dx : array of shape (B, T, D)
        `dy` itself.

    Notes
    -----
    The vector of a place was added to every token that stands there, so its gradient is the sum
    over them: without given places, the sum over the batch.
    """
    if g and isinstance(places, int):
        g["w"][:places] += dy.sum(0)
    elif g:
        add_at(g["w"], places, dy)
    return dy


def grid_positions_init(rng, grid, width, *, extra=0, axial=False, std=0.02):
    """Draw the vectors for the places of a grid of patches.

    Parameters
    ----------
    rng : numpy.random.Generator
        Where the vectors come from.
    grid : tuple of int
        Rows and columns of patches.
    width : int
        D.
    extra : int, default 0
        Tokens before the patches, such as CLS.
    axial : bool, default False
        Draw one vector for each row and each column, to be added, instead of one for each patch.
    std : float, default 0.02
        Standard deviation of each number.

    Returns
    -------
    p : dict
        ``w`` of shape (extra + N, D), or ``extra``, ``rows`` and ``columns``; in float32.
    """

    def draw(count):
        return (std * rng.standard_normal((count, width))).astype("float32")

    if not axial:
        return {"w": draw(extra + grid[0] * grid[1])}
    return {"extra": draw(extra), "rows": draw(grid[0]), "columns": draw(grid[1])}


def grid_positions_forward(x, p, *, grid, trained, method="bicubic"):
    """Add a learned vector for each place of a grid of patches.

    Parameters
    ----------
    x : array of shape (B, T, D)
        Tokens: any that are no patches first, then the patches in reading order.
    p : dict
        Either ``w`` with one vector for each token, or ``extra``, ``rows`` and ``columns``: the
        vector of a patch is then that of its row plus that of its column.
    grid : tuple of int
        Rows and columns of patches in `x`.
    trained : tuple of int
        Rows and columns of patches that `p` was made for; where they differ from `grid` the
        table is interpolated.
    method : {"bicubic", "bilinear", "bicubic_repeat"}
        How, see `resize_matrix`.

    Returns
    -------
    y : array of shape (B, T, D)
    saved : tuple
        For `grid_positions_backward`.

    Raises
    ------
    ValueError
        If the number of tokens does not fit the grid, or they have another width.

    See Also
    --------
    grid_positions_backward : The gradient of this function.

    Notes
    -----
    One vector for each patch is the choice of [1]_; one for each row and column makes what is
    learned of a column in one row known in all, which small data rewards.

    References
    ----------
    .. [1] A. Dosovitskiy et al., "An Image is Worth 16x16 Words", 2020, arXiv:2010.11929,
       section 3.1 and appendix D.4.
    """
    axial = "rows" in p
    table = _axial_table(p) if axial else p["w"]
    _check_places(x, table.shape[1])
    table, stretched = interpolate_positions_forward(table, old=trained, new=grid, method=method)
    if x.shape[1] != len(table):
        raise ValueError(f"{x.shape[1]} tokens do not fit {len(table)} places on the grid {grid}")
    return x + table, (stretched, axial, trained)


def grid_positions_backward(dy, saved, g):
    """Gradient of `grid_positions_forward`.

    Parameters
    ----------
    dy : array of shape (B, T, D)
        dL/dy.
    saved : tuple
        As `grid_positions_forward` saved it.
    g : dict
        Gains the gradients of `p`; empty if they are frozen.

    Returns
    -------
    dx : array of shape (B, T, D)
        `dy` itself.

    Notes
    -----
    The vector of a row was added in each of its columns, so its gradient is the sum over them.
    """
    stretched, axial, trained = saved
    if g:
        dtable = interpolate_positions_backward(dy.sum(0), stretched)
        if axial:
            extra = len(dtable) - trained[0] * trained[1]
            dpatches = dtable[extra:].reshape(*trained, -1)
            g["extra"] += dtable[:extra]
            g["rows"] += dpatches.sum(1)
            g["columns"] += dpatches.sum(0)
        else:
            g["w"] += dtable
    return dy


def _axial_table(p):
    patches = p["rows"][:, None] + p["columns"]  # (rows, columns, D)
    return namespace(patches).concatenate([p["extra"], patches.reshape(-1, patches.shape[-1])])


def check_ids(ids, count, name="token id"):
    """Refuse ids that name no row of a table.

    Parameters
    ----------
    ids : integer array of shape (...)
        Looked at only on the host: on a device that would mean waiting.
    count : int
        Rows of the table.
    name : str, default "token id"
        What to call one in the error.

    Raises
    ------
    TypeError
        If the ids are not integers.
    ValueError
        If one is not from 0 to `count` - 1. NumPy would take a negative one for a row from the
        end, CuPy any.
    """
    xp = namespace(ids)
    if ids.dtype.kind not in "iu":
        raise TypeError(f"{name}s must be integers, got dtype {ids.dtype}")
    if xp is np and ids.size and not 0 <= ids.min() <= ids.max() < count:
        wrong = ids.min() if ids.min() < 0 else ids.max()
        raise ValueError(f"{name} {wrong} is none of the {count}, which are 0 to {count - 1}")


def _check_places(x, width):
    if x.ndim != 3 or x.shape[2] != width:
        raise ValueError(f"x must be (B, T, {width}), like the position table; got {x.shape}")
