"""Masks: boolean arrays that broadcast to (B, A, T, S), True where a token may attend.

They combine by ``&``. A row that is False throughout is allowed: its output is exactly zero.
"""

import numpy as np

from scratch_vlm.backend import namespace


def causal_mask(tokens, xp=np, *, past=0):
    """Let every token see itself and those before it.

    Parameters
    ----------
    tokens : int
        T, the number of tokens.
    xp : module, default numpy
        Where to make the mask.
    past : int, default 0
        Tokens before these, which all of them see: S is `past` + T.

    Returns
    -------
    mask : boolean array of shape (T, S)

    Examples
    --------
    >>> causal_mask(3).astype(int)
    array([[1, 0, 0],
           [1, 1, 0],
           [1, 1, 1]])
    >>> causal_mask(2, past=2).astype(int)
    array([[1, 1, 1, 0],
           [1, 1, 1, 1]])
    """
    return xp.tri(tokens, past + tokens, past, dtype=bool)


def padding_mask(lengths, tokens):
    """Hide what stands behind the end of each sequence.

    Parameters
    ----------
    lengths : integer array of shape (B,)
        Real tokens in each sequence, from 0 to S.
    tokens : int
        S, the padded length.

    Returns
    -------
    mask : boolean array of shape (B, 1, 1, S)

    Raises
    ------
    TypeError
        If the lengths are not integers.
    ValueError
        If there is not one length for each sequence, or one is out of range; looked at only on
        the host.

    Examples
    --------
    >>> padding_mask(np.array([1, 3]), 3)[:, 0, 0].astype(int)
    array([[1, 0, 0],
           [1, 1, 1]])
    """
    xp = namespace(lengths)
    if lengths.dtype.kind not in "iu":
        raise TypeError(f"lengths must be integers, got dtype {lengths.dtype}")
    if lengths.ndim != 1:
        raise ValueError(f"lengths must be (B,), one for each sequence; got {lengths.shape}")
    if xp is np and ((lengths < 0) | (lengths > tokens)).any():
        raise ValueError(f"lengths must be from 0 to {tokens}, got {lengths.tolist()}")
    return (xp.arange(tokens) < lengths[:, None])[:, None, None]


def check_mask(mask, shape):
    """Refuse a mask that is not boolean or does not fit the scores.

    Parameters
    ----------
    mask : array
        What the user gave.
    shape : tuple of int
        (B, A, T, S), the shape of the scores.

    Raises
    ------
    TypeError
        If the mask is not boolean: an additive float mask would be misread.
    ValueError
        If it does not broadcast to `shape`.
    """
    namespace(mask)  # refuses a list
    if mask.dtype != bool:
        raise TypeError(
            f"a mask must be boolean, True = may attend; got dtype {mask.dtype} "
            "(for 0/1 or additive masks write mask > 0 or mask == 0)"
        )
    fits = mask.ndim <= len(shape) and all(
        m in (1, n) for m, n in zip(mask.shape[::-1], shape[::-1], strict=False)
    )
    if not fits:
        raise ValueError(f"mask {mask.shape} does not broadcast to the scores (B, A, T, S) {shape}")
