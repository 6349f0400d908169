"""The learning rate as a pure function of the step number."""

import math


def warmup_cosine(step, *, peak, warmup, total, floor=0.0, cycles=0.5):
    """Learning rate that climbs in a straight line, then falls along half a cosine.

    Parameters
    ----------
    step : int
        Steps done so far, 0 to `total`. The first step of training is step 0.
    peak : float
        Highest rate, reached at step `warmup`; positive.
    warmup : int
        Steps of the climb, 0 to `total` - 1. The climb starts one step above zero, so that no
        step is wasted.
    total : int
        Steps of the whole training.
    floor : float, default 0.0
        Rate at step `total`, 0 to `peak`. With ``floor=peak`` the rate is constant after the
        climb.
    cycles : float, default 0.5
        Waves of the cosine: with 1.5 the rate falls, returns to the peak, and falls again.

    Returns
    -------
    float

    Raises
    ------
    ValueError
        If a number is outside its range.

    See Also
    --------
    warmup_linear : A straight line in the place of the cosine.

    Notes
    -----
    Early gradients are large and point everywhere, hence the climb [1]_; the cosine is that of
    [2]_, equation 5, without restarts.

    References
    ----------
    .. [1] P. Goyal et al., "Accurate, Large Minibatch SGD: Training ImageNet in 1 Hour", 2017,
       arXiv:1706.02677, section 2.2.
    .. [2] I. Loshchilov and F. Hutter, "SGDR: Stochastic Gradient Descent with Warm Restarts",
       2016, arXiv:1608.03983.

    Examples
    --------
    >>> [warmup_cosine(step, peak=1.0, warmup=2, total=6) for step in (0, 1, 2, 4, 6)]
    [0.3333333333333333, 0.6666666666666666, 1.0, 0.5, 0.0]
    """
    fall = _fallen(step, peak, warmup, total, floor)
    if fall is None:
        return peak * (step + 1) / (warmup + 1)
    if not cycles > 0:
        raise ValueError(f"cycles must be positive, got {cycles}")
    return floor + (peak - floor) * 0.5 * (1 + math.cos(2 * math.pi * cycles * fall))


def warmup_linear(step, *, peak, warmup, total, floor=0.0):
    """Learning rate that climbs in a straight line, then falls in another.

    Parameters
    ----------
    step, peak, warmup, total, floor
        As for `warmup_cosine`.

    Returns
    -------
    float

    Raises
    ------
    ValueError
        If a number is outside its range.

    See Also
    --------
    warmup_cosine : Slower at both ends of the fall.

    Examples
    --------
    >>> [warmup_linear(step, peak=1.0, warmup=1, total=5) for step in (0, 1, 2, 3, 5)]
    [0.5, 1.0, 0.75, 0.5, 0.0]
    """
    fall = _fallen(step, peak, warmup, total, floor)
    if fall is None:
        return peak * (step + 1) / (warmup + 1)
    return floor + (peak - floor) * (1 - fall)


def _fallen(step, peak, warmup, total, floor):
    # Which share of the way down is done, 0 to 1, or None during the climb.
    if not peak > 0:
        raise ValueError(f"the peak rate must be positive, got {peak}")
    if not 0 <= floor <= peak:
        raise ValueError(f"the floor must lie between 0 and the peak rate {peak}, got {floor}")
    if not 0 <= warmup < total:
        raise ValueError(f"warmup must be from 0 to {total - 1}, one less than total; got {warmup}")
    if not 0 <= step <= total:
        raise ValueError(f"step must be from 0 to {total}, got {step}")
    return None if step < warmup else (step - warmup) / (total - warmup)
