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


MEDIA_RULES = ("last", "run", "all")


def media_mask(at, media, *, rule):
    r"""Let every token see media of its text that stand before it, or where it stands itself.

    Parameters
    ----------
    at : boolean array of shape (B, T)
        True where the placeholder of a medium, an image or a clip, stands in a text.
    media : int
        I, the most media of a text. A text may have fewer; nobody sees those that it lacks.
    rule : {"last", "run", "all"}
        Which of the media before a token it sees: the last one [1]_; the last one and those
        whose placeholders stand directly before that of the last, without text between [2]_;
        or all of them.

    Returns
    -------
    mask : boolean array of shape (B, T, I)
        For media of N visual tokens each, ``mask.repeat(N, axis=2)[:, None]`` is what an
        attention to all of them takes. Tokens before the first medium see nothing.

    Raises
    ------
    TypeError
        If `at` is not a boolean array.
    ValueError
        If the rule is unknown, `at` is not (B, T), or a text has more media than `media`; the
        last is looked at only on the host.

    Notes
    -----
    With :math:`c_t` placeholders up to token t, itself included, medium i (from 0) stands before
    the token if :math:`i < c_t`, and is the last one if :math:`i = c_t - 1`.

    References
    ----------
    .. [1] J.-B. Alayrac et al., "Flamingo: a Visual Language Model for Few-Shot Learning", 2022,
       arXiv:2204.14198, section 2.3.
    .. [2] Llama Team, "The Llama 3 Herd of Models", 2024, arXiv:2407.21783, section 7; the rule
       is that of the released code of Llama 3.2 Vision.

    Examples
    --------
    Three media in a text of seven tokens, the last two next to each other:

    >>> at = np.array([[0, 1, 0, 1, 1, 0, 0]]) > 0
    >>> media_mask(at, 3, rule="last")[0].astype(int)
    array([[0, 0, 0],
           [1, 0, 0],
           [1, 0, 0],
           [0, 1, 0],
           [0, 0, 1],
           [0, 0, 1],
           [0, 0, 1]])
    >>> media_mask(at, 3, rule="run")[0].astype(int)
    array([[0, 0, 0],
           [1, 0, 0],
           [1, 0, 0],
           [0, 1, 0],
           [0, 1, 1],
           [0, 1, 1],
           [0, 1, 1]])
    >>> media_mask(at, 3, rule="all")[0].astype(int)
    array([[0, 0, 0],
           [1, 0, 0],
           [1, 0, 0],
           [1, 1, 0],
           [1, 1, 1],
           [1, 1, 1],
           [1, 1, 1]])
    """
    xp = namespace(at)
    if rule not in MEDIA_RULES:
        raise ValueError(f"rule must be one of {', '.join(MEDIA_RULES)}, got {rule!r}")
    if at.dtype != bool:
        raise TypeError(f"at must be boolean, True = a medium; got dtype {at.dtype}")
    if at.ndim != 2:
        raise ValueError(f"at must be (B, T), one row for each text; got {at.shape}")
    if xp is np and (most := at.sum(1).max(initial=0)) > media:
        raise ValueError(f"a text has {most} placeholders, but there are {media} media at most")
    count = at.cumsum(1)[..., None]  # (B, T, 1), media up to each token
    index = xp.arange(media)
    before = index < count  # (B, T, I)
    if rule == "all":
        return before
    if rule == "last":
        return index == count - 1
    starts = at.copy()
    starts[:, 1:] &= ~at[:, :-1]
    run = starts.cumsum(1)[..., None]  # (B, T, 1), runs of media up to each token
    run_of_medium = (starts[..., None] & (count <= index + 1)).sum(1, keepdims=True)  # (B, 1, I)
    return before & (run == run_of_medium)


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
