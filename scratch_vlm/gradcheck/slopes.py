"""Three ways to see how the output of a forward changes along a direction, and where it does not.

A direction is a dict of arrays by name; what it leaves out stays where it is.
"""

import warnings

import numpy as np

from scratch_vlm.backend import namespace
from scratch_vlm.gradcheck.subject import beside, host, parts_of

STEP = 1e-30  # of the complex step: nothing is subtracted, so it can be as small as we like
# Of central differences, relative to the size of the array that is moved; each is halved LEVELS
# times and extrapolated to zero, and the next is tried while that leaves more doubt than ENOUGH.
STEPS, LEVELS, ENOUGH = (1e-1, 1e-2, 1e-3, 1e-4, 1e-6, 1e-8), 6, 1e-10
NEAR = (1e-6, 1e-7, 1e-8)  # on both sides of the point, to see a corner in it


class ComplexStep:
    """The slope as Im f(x + ihu) / h, exact to the last digits for analytic forwards [1]_.

    Parameters
    ----------
    subject : Subject
    point : dict of str to array

    References
    ----------
    .. [1] W. Squire and G. Trapp, "Using Complex Variables to Estimate Derivatives of Real
       Functions", SIAM Review 40, 1998.
    """

    method = "complex"

    def __init__(self, subject, point):
        self.subject = subject
        self.point = {k: x.astype(complex) if x.dtype.kind == "f" else x for k, x in point.items()}

    def along(self, direction):
        """Measure a slope.

        Parameters
        ----------
        direction : dict of str to array

        Returns
        -------
        slope : list of array
            How each output changes.
        uncertainty : list of array
            How far each number may be off.
        """
        with warnings.catch_warnings():
            # A dropped imaginary part would be a silent pass.
            warnings.simplefilter("error", np.exceptions.ComplexWarning)
            moved = _moved(self.point, direction, 1j * STEP)
            y, _ = self.subject.run(moved)
        slope = [np.imag(host(part)) / STEP for part in parts_of(y)]
        return slope, [np.zeros(part.shape) for part in slope]


class CentralDifferences:
    """The slope as (f(x + hu) - f(x - hu)) / 2h, extrapolated to h = 0 [1]_.

    Parameters
    ----------
    subject : Subject
    point : dict of str to array
    step : float, optional
        The largest step, relative to the size of what is moved, in place of a search for one.
    dtype : {"float64", "longdouble"}
        In which the forward is run.

    References
    ----------
    .. [1] C. Ridders, "Accurate Computation of F'(x) and F'(x)F''(x)", Advances in Engineering
       Software 4, 1982: Richardson extrapolation with an estimate of its own error.
    """

    def __init__(self, subject, point, step=None, dtype="float64"):
        self.method = "longdouble" if dtype == "longdouble" else "central"
        self.subject = subject
        self.point = {k: x.astype(dtype) if x.dtype.kind == "f" else x for k, x in point.items()}
        self.steps = STEPS if step is None else (step,)
        self.levels = LEVELS if step is None else 2

    def along(self, direction):
        """Measure a slope.

        Parameters
        ----------
        direction : dict of str to array

        Returns
        -------
        slope : list of array
            How each output changes.
        uncertainty : list of array
            How far each number may be off.
        """
        scale = size_of_move(self.point, direction)
        best, doubt, least = None, None, np.inf
        for step in self.steps:
            columns = [self._difference(direction, step * scale / 2**k) for k in range(self.levels)]
            slope, error = _extrapolated(columns)
            total = _norm(error)
            if best is None or total < least:
                best, doubt, least = slope, error, total
            if least <= ENOUGH * _norm(best) and np.isfinite(least):
                break
        return best, doubt

    def _difference(self, direction, h):
        ahead, behind = (
            parts_of(self.subject.run(_moved(self.point, direction, sign * h))[0])
            for sign in (1, -1)
        )
        return [(host(a) - host(b)) / (2 * h) for a, b in zip(ahead, behind, strict=True)]


def _extrapolated(columns):
    # Neville's table for an error in even powers of a step that is halved; of all its numbers
    # those are taken that differ least from their neighbours.
    best = doubt = None
    least, before = np.inf, []
    for first in columns:
        row = [first]
        for m, old in enumerate(before):
            weight = 4.0 ** (m + 1)
            row.append([(weight * a - b) / (weight - 1) for a, b in zip(row[m], old, strict=True)])
            pairs = zip(row[m + 1], row[m], old, strict=True)
            error = [np.maximum(abs(new - a), abs(new - b)) for new, a, b in pairs]
            if best is None or _norm(error) < least:
                best, doubt, least = row[m + 1], error, _norm(error)
        before = row
    return best, doubt


class Sides:
    """The outputs a little before and behind the point, along one direction.

    Parameters
    ----------
    subject : Subject
    point : dict of str to array
    y : array or tuple of array
        At the point.
    direction : dict of str to array
    """

    def __init__(self, subject, point, y, direction):
        self.subject, self.point, self.direction = subject, point, direction
        self.scale = size_of_move(point, direction)
        self.y = [host(part) for part in parts_of(y)]
        self.first, self.last = self._at(NEAR[0]), self._at(NEAR[-1])

    def _at(self, step):
        h = step * self.scale
        moved = (_moved(self.point, self.direction, sign * h) for sign in (-1, 1))
        return [[host(part) for part in parts_of(self.subject.run(x)[0])] for x in moved]

    @property
    def slope(self):
        """How each output changes, to some six digits."""
        h = NEAR[0] * self.scale
        return [(b - a) / (2 * h) for a, b in zip(*self.first, strict=True)]

    def corner(self):
        """Find where the slopes of the two sides differ.

        Returns
        -------
        tuple or None
            The number of the output, the index in it, and the slopes before and behind the
            point; the second is infinite where the output jumps. None if there is no such place.
        """
        kinds = self._kinds(self.last, NEAR[-1] / NEAR[0])
        if not any(corner.any() or jump.any() for corner, jump in kinds):
            return None
        # What wiggles faster than the steps can look like a corner from two of them by chance.
        between = self._kinds(self._at(NEAR[1]), NEAR[1] / NEAR[0])
        h = NEAR[0] * self.scale
        for number, (found, confirmed) in enumerate(zip(kinds, between, strict=True)):
            corner, jump = (a & b for a, b in zip(found, confirmed, strict=True))
            for index in np.argwhere(corner | jump):
                index, y = tuple(int(i) for i in index), self.y[number]
                if jump[index]:
                    return number, index, np.nan, np.inf
                a, b = (side[number] for side in self.first)
                return number, index, float((y - a)[index] / h), float((b - y)[index] / h)
        return None

    def _kinds(self, nearer, shrink):
        # For each output where it has a corner, and where it jumps: from near to nearer a smooth
        # function bends less with the square of the step, a corner in proportion to it, and a
        # jump not at all.
        top = max((abs(part).max(initial=0) for part in self.slope), default=0)
        kinds = []
        for y, a, b, c, d in zip(self.y, *self.first, *nearer, strict=True):
            largest = abs(y).max(initial=0)
            far, close = a - 2 * y + b, c - 2 * y + d
            corner = abs(close - shrink * far) < 0.1 * shrink * abs(far)
            corner &= abs(far) > 1e-3 * top * NEAR[0] * self.scale
            corner &= abs(close) > 1e3 * np.finfo(float).eps * largest  # else it is rounding
            far, close = np.maximum(abs(a - y), abs(b - y)), np.maximum(abs(c - y), abs(d - y))
            jump = (far > 1e-7 * largest) & (abs(close - far) < 0.1 * far)
            kinds.append((corner, jump))
        return kinds


def size_of_move(point, direction):
    """Say how large the numbers are that a direction moves.

    Parameters
    ----------
    point, direction : dict of str to array

    Returns
    -------
    float
        Their root mean square; 1 if they are all zero.
    """
    moved = [host(point[name])[u != 0] for name, u in direction.items()]
    moved = np.concatenate([np.ravel(x) for x in moved]) if moved else np.zeros(0)
    size = float(np.sqrt(np.mean(moved.astype(float) ** 2))) if moved.size else 0.0
    return size or 1.0


def _moved(point, direction, h):
    # Copies, for a forward may write into what it is given.
    def at(name, x):
        if name not in direction:
            return x.copy()
        u = direction[name]
        return x + beside(h * u, x).astype(x.dtype if x.dtype.kind != "c" else complex)

    return {name: at(name, x) for name, x in point.items()}


def _norm(parts):
    # Infinite for nan, which a step out of the domain of a logarithm gives: any number is better.
    total = float(np.sqrt(sum((abs(part).astype(float) ** 2).sum() for part in parts)))
    return np.inf if np.isnan(total) else total


def keeps_longdouble(subject, point):
    """Say whether a longer float exists here, and the forward hands it on to its output.

    Parameters
    ----------
    subject : Subject
    point : dict of str to array

    Returns
    -------
    bool
    """
    if np.finfo(np.longdouble).eps >= np.finfo(float).eps:
        return False
    if any(namespace(x) is not np for x in point.values()):
        return False
    long = {k: x.astype("longdouble") if x.dtype.kind == "f" else x for k, x in point.items()}
    try:
        y, _ = subject.run(long)
    except (TypeError, ValueError):
        return False
    return all(host(part).dtype == np.longdouble for part in parts_of(y))
