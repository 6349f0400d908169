"""Layers that treat each token by itself, on the host a block of tokens at a time.

As in `blocks`, a chain of steps then reads and writes memory once instead of at every step.
"""

from contextlib import contextmanager
from functools import wraps

import numpy as np

from scratch_vlm.backend.blocks import BLOCK

LARGE = 4 * BLOCK  # numbers; fewer stay in the cache from step to step without being cut up


class Blocks(list):
    """What a forward saved: pairs of a slice of tokens, and what it saved of these."""


def in_token_blocks(forward):
    """Let a layer of many tokens on the host run block by block.

    Parameters
    ----------
    forward : callable
        ``forward(x, p, *, out=None, **options) -> (y, saved)``, each token by itself.

    Returns
    -------
    callable
        The same function, up to rounding; of many tokens it saves `Blocks`. Arrays on a device, and
        small ones, pass as they are.

    See Also
    --------
    back_in_token_blocks : For its backward.
    """

    @wraps(forward)
    def in_pieces(x, p, *, out=None, **options):
        if not _takes(x, p, out):
            return forward(x, p, out=out, **options)
        y, saved = np.empty(x.shape, x.dtype) if out is None else out, Blocks()
        xs, ys = (a.reshape(-1, x.shape[-1]) for a in (x, y))
        step = max(1, BLOCK // x.shape[-1])
        with row_by_row(x.shape[-1]):
            for start in range(0, len(xs), step):
                tokens = slice(start, start + step)
                saved.append((tokens, forward(xs[tokens], p, out=ys[tokens], **options)[1]))
        return y, saved

    return in_pieces


def back_in_token_blocks(backward):
    """Let the backward of `in_token_blocks` run over the same blocks.

    Parameters
    ----------
    backward : callable
        ``backward(dy, saved, g, *, past=None, out=None) -> dx``, each token by itself; what it
        adds to `g` is a sum over tokens.

    Returns
    -------
    callable
        The same function, which takes `Blocks`, too.
    """

    @wraps(backward)
    def in_pieces(dy, saved, g, *, past=None, out=None):
        if not isinstance(saved, Blocks):
            return backward(dy, saved, g, past=past, out=out)
        in_place = out is not None and out.flags.c_contiguous
        dx = out if in_place else np.empty(dy.shape, dy.dtype)
        dys, dxs = (a.reshape(-1, dy.shape[-1]) for a in (dy, dx))
        pasts = None if past is None else past.reshape(-1, dy.shape[-1])
        with row_by_row(dy.shape[-1]):
            for tokens, kept in saved:
                beside = None if past is None else pasts[tokens]
                backward(dys[tokens], kept, g, past=beside, out=dxs[tokens])
        if out is None or in_place:
            return dx
        out[...] = dx
        return out

    return in_pieces


@contextmanager
def row_by_row(width):
    """Let NumPy combine long rows with one number each, or all with one row, without a detour.

    To loop over more numbers at a time NumPy fills a buffer of 8192 with copies of what it
    broadcasts. That pays for short rows and not for long ones, so it is made too short for two of
    these, and is left out then. For narrow rows a shorter one stays in the first cache.

    Parameters
    ----------
    width : int
        D, numbers in a row.

    Examples
    --------
    >>> with row_by_row(768):
    ...     print(np.getbufsize())
    768
    """
    size = min(width // 16 * 16, 8192) if width >= 256 else 2048
    before = np.setbufsize(size)
    try:
        yield
    finally:
        np.setbufsize(before)


def _takes(x, p, out):
    arrays = [x, *p.values()] if out is None else [x, out, *p.values()]
    return (
        all(isinstance(a, np.ndarray) and a.dtype == x.dtype for a in arrays)
        and x.size > LARGE
        and x.flags.c_contiguous
        and (out is None or out.flags.c_contiguous)
    )
