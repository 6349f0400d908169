"""After a check has failed: which entry is wrong, and what the mistake may be.

A guess is a gradient made from the wrong one - transposed, scaled, one branch more - that agrees
with the forward along several random directions. Agreement by chance has probability zero, so a
guess is not a likelihood; but only the mistakes listed here can be guessed.
"""

from itertools import combinations, permutations

import numpy as np

from scratch_vlm.gradcheck.slopes import STEP
from scratch_vlm.gradcheck.subject import host, parts_of
from scratch_vlm.gradcheck.trace import uses_of

ALL = 128  # arrays up to this size are moved entry by entry, larger ones are halved
DIRECTIONS = 3  # along which a guess must agree
MOST_USES = 48


class Evidence:
    """Slopes of the forward along fresh directions of one array.

    Parameters
    ----------
    steps : ComplexStep or CentralDifferences
    name : str
        Of the array.
    shape : tuple of int
        Its shape.
    dy : list of array
        The cotangent of each output.
    rng : numpy.random.Generator
        Draws the directions.
    tolerance : float
        Relative difference that counts as none.
    """

    def __init__(self, steps, name, shape, dy, rng, tolerance):
        self.steps, self.name, self.shape, self.dy = steps, name, shape, dy
        self.directions = rng.standard_normal((DIRECTIONS, *shape))
        self.terms = [self.terms_along(u) for u in self.directions]
        self.tolerance = tolerance

    def terms_along(self, u):
        """Return dy times the slope of each output along `u`."""
        slope, _ = self.steps.along({self.name: u})
        return [a * b for a, b in zip(slope, self.dy, strict=True)]

    def slope_along(self, u):
        """Return the slope of the loss along `u`."""
        return float(sum(term.sum() for term in self.terms_along(u)))

    @property
    def slopes(self):
        """The slope of the loss along each direction."""
        return np.array([float(sum(part.sum() for part in terms)) for terms in self.terms])

    def agrees(self, gradient):
        """Say whether a gradient gives the slopes of the forward along all directions."""
        return gradient.shape == self.shape and self.same(self.along(gradient), gradient)

    def along(self, gradient):
        """Return the slopes that a gradient says."""
        return np.array([(gradient * u).sum() for u in self.directions])

    def same(self, slopes, gradient=0.0):
        """Say whether these are the slopes of the forward."""
        spread = [np.sqrt(sum((part * part).sum() for part in terms)) for terms in self.terms]
        scale = max(*spread, np.sqrt((gradient * gradient * np.ones(1)).sum()))
        return bool(np.all(abs(slopes - self.slopes) <= 100 * self.tolerance * scale))


def guess(evidence, gradient, subject, point):
    """Guess the mistake.

    Parameters
    ----------
    evidence : Evidence
        About the array.
    gradient : array
        The wrong one; it may have another shape.
    subject : Subject
    point : dict of str to array

    Returns
    -------
    str
        Empty if no guess agrees with the forward.
    """
    if not np.isfinite(gradient).all():
        return ""
    wanted = evidence.slopes
    if gradient.shape != evidence.shape:
        return _other_shape(evidence, gradient)
    if not gradient.any():
        return "the gradient is zero, the slope is not: it is never filled, or a branch is missing"
    if not wanted.any():
        return "the forward does not change with it, so its gradient is zero"
    said = evidence.along(gradient)
    ratio = float(said[0] / wanted[0]) if wanted[0] else 0.0
    if ratio and evidence.agrees(gradient / ratio):
        return _factor(ratio, evidence)
    for text, other in _rearranged(gradient):
        if evidence.agrees(other):
            return text
    return (
        _one_share(evidence, said)
        or _transposed_factor(evidence, said, subject, point)
        or _branch(evidence, said, subject, point)
    )


def _factor(ratio, evidence):
    if abs(ratio + 1) < 1e-9:
        return "the sign is wrong"
    text = f"it is {ratio:.6g} times what it should be"
    if abs(ratio - 1) < 1e-5:
        text = f"it is too large by a factor of 1 + {ratio - 1:.2g}"
    lengths = {}
    for number, part in enumerate(evidence.dy):
        where = "the output" if len(evidence.dy) == 1 else f"output {number}"
        lengths |= {f"the length of axis {i} of {where}": n for i, n in enumerate(part.shape)}
        lengths |= {f"the size of {where}": part.size}
    lengths |= {f"the length of its axis {i}": n for i, n in enumerate(evidence.shape)}
    size = max(abs(ratio), 1 / abs(ratio))
    for name, n in lengths.items():
        # A root is only taken for one where no whole number explains it.
        powers = {n: name} if abs(size - round(size)) < 1e-9 else {n**0.5: f"the root of {name}"}
        for power, said in powers.items():
            if power > 1 and abs(size / power - 1) < 1e-9:
                if abs(ratio) > 1:
                    return f"{text}: missing 1 / {said}, a sum in place of a mean?"
                return f"{text}: missing a factor of {said}, a mean in place of a sum?"
    return f"{text}: a factor is missing or too many"


def _rearranged(gradient):
    for axes in permutations(range(gradient.ndim)):
        if axes != tuple(range(gradient.ndim)) and gradient.ndim <= 4:
            moved = gradient.transpose(axes)
            if moved.shape == gradient.shape:
                yield f"it is transposed: transpose{axes} of it agrees with the forward", moved
            # Numbers in transposed order under the right shape.
            folded = gradient.reshape([gradient.shape[i] for i in np.argsort(axes)])
            moved = folded.transpose(axes)
            if moved.shape == gradient.shape:
                text = "its numbers are in transposed order: reshape is not transpose"
                yield text, moved
    for axis in range(gradient.ndim):
        yield f"it is reversed along axis {axis}", np.flip(gradient, axis)
        for shift in (1, -1):
            text = f"it is shifted by one along axis {axis}: a slice is off by one"
            yield text, np.roll(gradient, shift, axis)


def _other_shape(evidence, gradient):
    for axes in permutations(range(gradient.ndim)):
        if evidence.agrees(gradient.transpose(axes)):
            return "it is transposed" if gradient.ndim == 2 else f"transpose{axes} of it is right"
    axes = range(gradient.ndim)
    for kept in range(gradient.ndim):
        for drop in combinations(axes, gradient.ndim - kept):
            for keepdims in (False, True):
                summed = gradient.sum(tuple(drop), keepdims=keepdims)
                if evidence.agrees(summed):
                    over = ", ".join(map(str, drop))
                    axis = "axis" if len(drop) == 1 else "axes"
                    return f"a sum over the broadcast {axis} {over} is missing: it agrees then"
    if gradient.size == np.prod(evidence.shape) and evidence.agrees(
        gradient.reshape(evidence.shape)
    ):
        return "reshaped it is right"
    return ""


def _one_share(evidence, said):
    # Does the backward hear only one slice of dy, or one of several outputs?
    if len(evidence.dy) > 1:
        for number in range(len(evidence.dy)):
            one = np.array([terms[number].sum() for terms in evidence.terms])
            if _same(said, one, evidence):
                return f"only output {number} reaches it: the other outputs' share is missing"
            if _same(said, evidence.slopes - one, evidence):
                return f"the share of output {number} is missing"
    for number, part in enumerate(evidence.dy):
        for axis in range(part.ndim):
            for at in {0, part.shape[axis] - 1} if part.shape[axis] > 1 else ():
                shares = np.array([terms[number].take(at, axis).sum() for terms in evidence.terms])
                where = f"index {at} along axis {axis} of the output"
                if _same(said, shares, evidence):
                    return f"only {where} reaches it: a sum over that axis is missing"
                if _same(said, evidence.slopes - shares, evidence):
                    return f"the share of {where} is missing: a slice is off by one, or masked"
    return ""


def _transposed_factor(evidence, said, subject, point):
    """Guess that a square matrix was used without its transpose, where y is linear in both."""
    for name, x in point.items():
        if name == evidence.name or x.ndim != 2 or x.shape[0] != x.shape[1] or x.dtype.kind != "f":
            continue
        steps = type(evidence.steps)(subject, point | {name: x.T.copy()})
        slopes = [_loss_slope(steps, evidence, u) for u in evidence.directions]
        if _same(said, np.array(slopes), evidence):
            return f"{name} is used with a transpose too many or too few"
    return ""


def _loss_slope(steps, evidence, u):
    slope, _ = steps.along({evidence.name: u})
    return float(sum((a * b).sum() for a, b in zip(slope, evidence.dy, strict=True)))


def _same(said, slopes, evidence):
    return evidence.same(evidence.slopes + said - slopes)


def _branch(evidence, said, subject, point):
    """Guess that one of several uses of the array is missing, doubled, or has the wrong sign."""
    if evidence.steps.method != "complex" or subject.own_state:
        return ""
    try:
        uses, run = uses_of(subject, point, evidence.name, evidence.directions)
        if not 1 < len(uses) <= MOST_USES:
            return ""
        slopes = np.array(
            [[_held(run(k, i), evidence) for i in range(DIRECTIONS)] for k in range(len(uses))]
        )
    except Exception:  # a forward that does not take the subclass is not looked into
        return ""
    if not evidence.same(slopes.sum(0)):
        return ""
    groups = {}
    for k, lines in enumerate(uses):
        for depth in range(len(lines)):
            groups.setdefault(tuple(lines[: depth + 1]), []).append(k)
    options = {tuple(members): lines[-1] for lines, members in groups.items()}
    options |= {(k,): uses[k][-1] for k in range(len(uses))}
    for members, line in sorted(options.items(), key=lambda item: -len(item[0])):
        part = slopes[list(members)].sum(0)
        if len(members) == len(uses) or not part.all():
            continue
        times = float((said[0] - evidence.slopes[0]) / part[0])
        if _same(said, evidence.slopes + times * part, evidence):
            through = f"the branch of the forward through {line}"
            if abs(times + 1) < 1e-6:
                return f"{through} is missing"
            if abs(times + 2) < 1e-6:
                return f"{through} has the wrong sign"
            return f"{through} counts {1 + times:.6g} times"
    return ""


def _held(y, evidence):
    # The slope of the loss that a complex output holds.
    parts = zip(parts_of(y), evidence.dy, strict=True)
    return float(sum((np.imag(host(a)) / STEP * b).sum() for a, b in parts))


def locate(evidence, gradient, tolerance):
    """Find a wrong entry.

    Parameters
    ----------
    evidence : Evidence
        About the array.
    gradient : array
        The wrong one, of the right shape.
    tolerance : float
        Of the check.

    Returns
    -------
    index : tuple of int
    analytic, numeric : float
        The slopes along that entry.
    stepped : int
        How many measurements it took.
    wrong : int or None
        How many entries are wrong, if all were measured.

    Notes
    -----
    A small array is moved entry by entry. Of a large one half is moved at a time, along one
    random direction, and the half that is more wrong is looked into: a gradient of n numbers
    takes log2(n) measurements.
    """
    size = gradient.size
    flat = gradient.reshape(-1)

    def along(u):
        return evidence.slope_along(u.reshape(evidence.shape))

    if size <= ALL:
        numeric = np.array([along(row) for row in np.eye(size)])
        off = abs(flat - numeric)
        off = np.where(np.isnan(off), np.inf, off)
        scale = max(abs(numeric).max(), abs(flat[np.isfinite(flat)]).max(initial=0))
        at, wrong = int(off.argmax()), int((off > 10 * tolerance * scale).sum())
        stepped = size
    else:
        u = evidence.directions[0].reshape(-1)
        inside, stepped, wrong = np.arange(size), 0, None
        bad = np.flatnonzero(~np.isfinite(flat))
        if len(bad):
            inside = bad[:1]
        error = (flat * u).sum() - evidence.slopes[0]
        while len(inside) > 1:
            half = inside[: len(inside) // 2]
            part = np.zeros(size)
            part[half] = u[half]
            of_half = (flat * part).sum() - along(part)
            stepped += 1
            if abs(of_half) >= abs(error - of_half):
                inside, error = half, of_half
            else:
                inside, error = inside[len(half) :], error - of_half
        at = int(inside[0])
        numeric = {at: along(np.where(np.arange(size) == at, 1.0, 0.0))}
    index = tuple(int(i) for i in np.unravel_index(at, gradient.shape))
    return index, float(flat[at]), float(numeric[at]), stepped, wrong
