"""Putting visual tokens at the places that a text keeps for them, or beside it, text by text."""

import numpy as np

from scratch_vlm.backend import namespace, rows


def splice_forward(x, visual, *, at):
    """Put visual tokens in the places of a text that are kept for them.

    Parameters
    ----------
    x : array of shape (B, T, D)
        Tokens of texts; what stands at a place that is kept is dropped.
    visual : array of shape (N, D)
        Visual tokens in reading order: those of the first text from left to right, then those
        of the second.
    at : boolean array of shape (B, T)
        True at the N places that are kept.

    Returns
    -------
    y : array of shape (B, T, D)
    saved : array
        For `splice_backward`.

    Raises
    ------
    ValueError
        If there are more or fewer visual tokens than places (counted only on the host: on a
        device that would mean waiting), or shapes do not fit.

    See Also
    --------
    splice_backward : The gradient of this function.

    Notes
    -----
    :math:`y_t = v_{r(t)}` at the r-th place that is kept, and :math:`y_t = x_t` elsewhere [1]_.

    References
    ----------
    .. [1] H. Liu et al., "Visual Instruction Tuning", 2023, arXiv:2304.08485, section 4.1.
    """
    if x.ndim != 3 or visual.ndim != 2 or x.shape[2] != visual.shape[1] or at.shape != x.shape[:2]:
        raise ValueError(
            "x must be (B, T, D), visual (N, D) and at (B, T); "
            f"got {x.shape}, {visual.shape} and {at.shape}"
        )
    places = kept_places(at, len(visual))
    y = x.copy()
    rows(y)[places] = visual
    return y, places


def splice_backward(dy, places):
    r"""Gradient of `splice_forward`.

    Parameters
    ----------
    dy : array of shape (B, T, D)
        dL/dy.
    places : array
        As `splice_forward` saved it.

    Returns
    -------
    dx : array of shape (B, T, D)
        Zero where a visual token stands.
    dvisual : array of shape (N, D)

    Notes
    -----
    In the forward this was :math:`y_t = v_{r(t)}` or :math:`y_t = x_t`, so
    :math:`dv_{r(t)} = dy_t` at the places that were kept and :math:`dx_t = dy_t` at the others.
    """
    dx = dy.copy()
    flat = rows(dx)
    dvisual = flat[places]
    flat[places] = 0
    return dx, dvisual


def deal_forward(visual, *, counts, slots):
    """Deal media out to the texts they belong to, so that each text finds its own beside it.

    Parameters
    ----------
    visual : array of shape (M, N, D)
        N visual tokens of each medium, in reading order: first those of the first text.
    counts : integer array of shape (B,)
        Media of each text.
    slots : int
        I, room for media beside each text, at least the largest of the counts.

    Returns
    -------
    z : array of shape (B, I, N, D)
        Zero where a text has fewer media than slots.
    saved : array
        For `deal_backward`.

    Raises
    ------
    ValueError
        If there are more or fewer media than the counts say, or more than slots (looked at only
        on the host), or shapes do not fit.

    See Also
    --------
    deal_backward : The gradient of this function.
    """
    xp = namespace(visual)
    if visual.ndim != 3 or counts.ndim != 1:
        raise ValueError(
            f"visual must be (M, N, D), counts (B,); got {visual.shape}, {counts.shape}"
        )
    if namespace(counts) is np and counts.size and counts.max() > slots:
        raise ValueError(f"a text has {counts.max()} media; there are {slots} slots")
    taken = xp.arange(slots) < counts[:, None]  # (B, I)
    places = kept_places(taken, len(visual), "media", "texts ask for")
    z = xp.zeros((taken.size, *visual.shape[1:]), visual.dtype)
    z[places] = visual
    return z.reshape(*taken.shape, *visual.shape[1:]), places


def deal_backward(dz, places):
    """Gradient of `deal_forward`.

    Parameters
    ----------
    dz : array of shape (B, I, N, D)
        dL/dz.
    places : array
        As `deal_forward` saved it.

    Returns
    -------
    dvisual : array of shape (M, N, D)
    """
    slots = dz.reshape(-1, *dz.shape[2:])  # (B I, N, D)
    return slots[places]


def kept_places(at, count, what="visual tokens", keep="texts keep places for"):
    """Find the True entries of a boolean array whose number is known.

    Parameters
    ----------
    at : boolean array of shape (B, T)
        True at the places.
    count : int
        N, how many are True.
    what, keep : str
        For the error: what there are N of, and what else says how many there should be.

    Returns
    -------
    places : integer array of shape (N,)
        Row by row, as places in ``at.ravel()``. A device finds them without being waited for.

    Raises
    ------
    ValueError
        If another number is True; looked at only on the host.
    """
    xp = namespace(at)
    if xp is np and (found := int(at.sum())) != count:
        raise ValueError(f"there are {count} {what}, but {keep} {found}")
    return xp.argsort(~at.ravel(), kind="stable")[:count]
