"""Rotary positions: queries and keys turn with their place, so that scores know the distance."""

import math
from dataclasses import dataclass

import numpy as np

from scratch_vlm.backend import floating, namespace, to_device

SCALINGS = ("linear", "llama3", "yarn")


@dataclass(frozen=True)
class RotaryScaling:
    """How the rotation was slowed, for a model to read longer texts than it was trained on.

    Attributes
    ----------
    kind : {"linear", "llama3", "yarn"}
        Every pair alike; slow pairs by the whole factor, fast ones not at all, and those between
        by a part, as in Llama 3.1; or by a ramp over the pairs [1]_.
    factor : float
        By how much, at least 1.
    trained : int
        Tokens of the texts that the model was first trained on; not used by "linear".
    low, high : float
        Turns within those tokens between which a pair is slowed by a part: `low_freq_factor` and
        `high_freq_factor` of Llama 3.1, `beta_slow` and `beta_fast` of YaRN.
    size : float
        What queries and keys are multiplied by, too; YaRN's is ``0.1 ln(factor) + 1``.
    whole : bool
        Whether YaRN's ramp begins and ends at whole pairs.

    References
    ----------
    .. [1] B. Peng et al., "YaRN: Efficient Context Window Extension of Large Language Models",
       2023, arXiv:2309.00071, section 3.2.
    """

    kind: str
    factor: float
    trained: int = 8192
    low: float = 1.0
    high: float = 4.0
    size: float = 1.0
    whole: bool = True

    def __post_init__(self):
        if self.kind not in SCALINGS:
            raise ValueError(f"kind must be one of {', '.join(SCALINGS)}, got {self.kind!r}")
        if not self.factor >= 1:
            raise ValueError(f"factor must be at least 1, got {self.factor}")
        if not 0 < self.low < self.high:
            raise ValueError(f"low must be above 0 and below high, got {self.low}, {self.high}")


def rotary_speeds(pairs, base, scaling=None):
    r"""Radians by which each pair of channels turns from one position to the next.

    Parameters
    ----------
    pairs : int
        K / 2.
    base : float
        Ratio, nearly, of the fastest to the slowest.
    scaling : RotaryScaling, optional
        How they were slowed. Default not at all.

    Returns
    -------
    numpy.ndarray of shape (pairs,)

    Notes
    -----
    :math:`\theta_i = b^{-2 i / K}`, divided by a factor. "llama3" interpolates between
    :math:`\theta` and :math:`\theta / f` by the turns that a pair makes within the trained
    length, "yarn" by the number of the pair.

    Examples
    --------
    >>> rotary_speeds(2, 100.0)
    array([1. , 0.1])
    >>> rotary_speeds(2, 100.0, RotaryScaling("linear", 2.0))
    array([0.5 , 0.05])
    """
    speeds = base ** (-np.arange(pairs) / pairs)
    if scaling is None:
        return speeds
    if scaling.kind == "linear":
        return speeds / scaling.factor
    if scaling.kind == "llama3":
        turns = scaling.trained * speeds / (2 * math.pi)
        kept = ((turns - scaling.low) / (scaling.high - scaling.low)).clip(0, 1)
    else:

        def pair_of(turns):  # the one, not whole, that makes so many within the trained length
            angle = scaling.trained / (turns * 2 * math.pi)
            return pairs * math.log(angle) / math.log(base)

        first, last = pair_of(scaling.high), pair_of(scaling.low)
        if scaling.whole:
            first, last = math.floor(first), math.ceil(last)
        first, last = max(first, 0), min(last, 2 * pairs - 1)
        last += 0.001 * (first == last)  # a ramp of no length would divide by zero
        kept = 1 - ((np.arange(pairs) - first) / (last - first)).clip(0, 1)
    return speeds * kept + speeds / scaling.factor * (1 - kept)


def rotary_forward(x, *, positions, base=10_000.0, scaling=None):
    r"""Turn each pair of channels by an angle that grows with the position.

    Parameters
    ----------
    x : array of shape (B, A, T, K)
        Queries or keys, before they meet.
    positions : integer array of shape (T,) or of shape (B, T)
        Where each token stands, on the host or the device. Only differences matter to attention,
        so a padded row may begin anywhere, and a cached one goes on where it left off.
    base : float, default 10000.0
        The slowest pair turns by nearly 1 / `base` radians a position; Llama 3 has 500000.
    scaling : RotaryScaling, optional
        How the rotation was slowed for longer texts. Default not at all.

    Returns
    -------
    y : array of shape (B, A, T, K)
    saved : tuple
        For `rotary_backward`.

    Raises
    ------
    TypeError
        If the positions are not integers or `x` is not floating point.
    ValueError
        If K is odd, or the positions are neither one for each token nor one for each place.

    See Also
    --------
    rotary_backward : The gradient of this function.

    Notes
    -----
    Channel i is paired with channel i + K / 2, as in Llama's published weights for the
    Transformers library; [1]_ pairs neighbours, which is the same up to the order of channels.
    With :math:`\theta_i = b^{-2 i / K}` and position m,

    .. math:: y_i = x_i \cos m \theta_i - x_{i + K/2} \sin m \theta_i, \quad
              y_{i + K/2} = x_{i + K/2} \cos m \theta_i + x_i \sin m \theta_i.

    The score of a query at m and a key at n then depends on m - n alone.

    References
    ----------
    .. [1] J. Su et al., "RoFormer: Enhanced Transformer with Rotary Position Embedding", 2021,
       arXiv:2104.09864, equation 34.

    Examples
    --------
    >>> import numpy as np
    >>> y, _ = rotary_forward(np.array([[[[1.0, 0.0]]]]), positions=np.array([2]))
    >>> bool(np.allclose(y, [np.cos(2), np.sin(2)]))
    True
    """
    xp = floating(x)
    _check(x, positions, base)
    # In double precision: float32 would round the angle of a late position by a visible amount.
    speeds = to_device(rotary_speeds(x.shape[3] // 2, base, scaling), xp)
    angles = to_device(positions, xp)[..., None] * speeds  # (T, K/2) or (B, T, K/2)
    if angles.ndim == 3:
        angles = angles[:, None]  # (B, 1, T, K/2)
    size = 1.0 if scaling is None else scaling.size
    cos, sin = ((size * f(angles)).astype(x.real.dtype) for f in (xp.cos, xp.sin))
    return _turn(x, cos, sin), (cos, sin)


def rotary_backward(dy, saved):
    """Gradient of `rotary_forward`.

    Parameters
    ----------
    dy : array of shape (B, A, T, K)
        dL/dy.
    saved : tuple
        As `rotary_forward` saved it.

    Returns
    -------
    dx : array of shape (B, A, T, K)

    Notes
    -----
    The forward was a rotation, whose transpose is the rotation back; a size it was multiplied by
    is in the cosines and sines.
    """
    cos, sin = saved
    return _turn(dy, cos, -sin)


def _turn(x, cos, sin):
    half = x.shape[-1] // 2
    first, second = x[..., :half], x[..., half:]
    y = namespace(x).empty(x.shape, x.dtype)
    y[..., :half] = first * cos - second * sin
    y[..., half:] = second * cos + first * sin
    return y


def _check(x, positions, base):
    namespace(positions)  # refuses a list
    if x.ndim != 4 or x.shape[3] % 2:
        raise ValueError(f"x must be (B, A, T, K) with an even K, got {x.shape}")
    if positions.dtype.kind not in "iu":
        raise TypeError(f"positions must be integers, got dtype {positions.dtype}")
    b, _, t, _ = x.shape
    if positions.shape not in ((t,), (b, t)):
        raise ValueError(f"positions must be {(t,)} or {(b, t)}, got {positions.shape}")
    if not base > 1:
        raise ValueError(f"base must be above 1, got {base}")
