"""Compare the slopes that a forward and its backward see, and say what is wrong."""

import time
from dataclasses import replace

import numpy as np

from scratch_vlm.gradcheck.diagnosis import ALL, Evidence, guess, locate
from scratch_vlm.gradcheck.promises import broken_promises, copied, cotangent, mapped, same_again
from scratch_vlm.gradcheck.report import Entry, Fault, GradientError, Report
from scratch_vlm.gradcheck.slopes import (
    CentralDifferences,
    ComplexStep,
    Sides,
    keeps_longdouble,
    size_of_move,
)
from scratch_vlm.gradcheck.subject import Broken, beside, host, make_subject, parts_of
from scratch_vlm.gradcheck.trace import line_of, lost_operations

METHODS = ("auto", "complex", "central", "longdouble")
TOLERANCE = {"complex": 1e-12, "central": 1e-8, "longdouble": 1e-11}
# Below this share of the largest gradient, an error is measured against that share: a gradient
# that is zero in exact arithmetic (a key bias under softmax) has no relative error of its own.
FLOOR = 1e-3
# Units in the last place that a gradient in low precision may be off; more, where a last digit of
# the inputs changes the gradient by more, which makes up to AMPLIFIED times that change.
ROUNDING, AMPLIFIED = 200, 30
DIGIT = 2.0**-52  # the last digit of the inputs
# Of dy and the directions. Not 0 or another seed that a user would choose: dy would then be the
# same numbers as an input drawn with it, and with dy = x a transposed x.T @ dy is no error.
SEED = 0x9E3779B97F4A7C15


def check(forward, backward=None, inputs=None, p=None, **settings):
    """Measure a pair, and raise if it is wrong.

    Parameters
    ----------
    forward, backward, inputs, p, **settings
        As in `measure`.

    Returns
    -------
    Report

    Raises
    ------
    GradientError
        If a gradient is wrong or a promise broken; the message is a table of all gradients with
        what may be the mistake, and its attribute ``report`` has the same for programs.

    Examples
    --------
    A pair of functions:

    >>> def square_forward(x):
    ...     return x * x, x
    >>> def square_backward(dy, x):
    ...     return 2 * x * dy
    >>> x = np.array([1.0, 2.0, 3.0])
    >>> check(square_forward, square_backward, [x]).passed
    True

    A function that returns its value and its gradient:

    >>> check(lambda x: (x @ x, 2 * x), inputs=[x]).passed
    True

    An object that keeps its own state:

    >>> class Square:
    ...     def forward(self, x):
    ...         self.x = x
    ...         return x * x
    ...     def backward(self, dy):
    ...         return 2 * self.x * dy
    >>> check(Square(), inputs=[x]).passed
    True
    """
    report = measure(forward, backward, inputs, p, **settings)
    if not report.passed:
        name = getattr(backward or forward, "__name__", None) or type(forward).__name__
        method = "in longdouble" if report.method == "longdouble" else f"{report.method} step"
        raise GradientError(f"{name} is wrong ({method}):\n{report}", report)
    return report


def measure(
    forward,
    backward=None,
    inputs=None,
    p=None,
    *,
    options=None,
    wrt=None,
    rng=None,
    method="auto",
    directions=1,
    step=None,
    tolerance=None,
    quick=False,
):
    """Compare the slopes that a forward and its backward see, for every input and parameter.

    Parameters
    ----------
    forward : callable or object
        ``y, saved = forward(*inputs, p, **options)``; without `p` if that is None. `y` may be a
        tuple of arrays. With no `backward`, a function that returns one number and its gradient
        (of several inputs a tuple), or an object with methods ``y = forward(*inputs)`` and
        ``dx = backward(dy)``, and perhaps with ``params`` and ``grads``, dicts or lists of arrays
        beside each other.
    backward : callable, optional
        ``dinputs = backward(dy, saved, g)``; without `g` if `p` is None. One gradient for each
        input of floating point numbers, a tuple if there are several, None if there are none.
    inputs : sequence of array
        Arrays of NumPy or CuPy, or dicts of them. Integers and booleans are passed on as they
        are and have no gradient.
    p : dict, optional
        Tree of parameters.
    options : dict or callable, optional
        Keyword arguments of the forward, or a function that makes them anew for every call (for
        a pair that draws from a generator).
    wrt : sequence of int, optional
        Which inputs have a gradient; default all of floating point numbers.
    rng : numpy.random.Generator, optional
        Draws dy and the directions; default a fixed seed. Both must be random: with dy = 1 a
        softmax or a layer norm whose backward returns zeros would pass.
    method : {"auto", "complex", "central", "longdouble"}
        ``"complex"``: Im f(x + ihu) / h with h = 1e-30, exact to the last digits, for forwards
        made of analytic operations. ``"central"``: differences in float64, extrapolated to step
        zero. ``"longdouble"``: the same in the longest float of the machine. ``"auto"``: the first
        that works, judged by the forward itself.
    directions : int, default 1
        Random directions along which each array is moved.
    step : float, optional
        Of central differences, relative to the size of what is moved; default is a search.
    tolerance : float, optional
        Largest relative error that passes; default 1e-12 (complex), 1e-8 (central) or 1e-11.
    quick : bool, default False
        Only compare the slopes: nothing about smoothness, hidden state, linearity or what may be
        the mistake.

    Returns
    -------
    Report

    Raises
    ------
    TypeError
        If `inputs` is one array instead of a sequence, or the forward does not return a pair.
    ValueError
        If the method is unknown or does not exist on this machine, a number is out of range, or
        nothing has a gradient.

    Notes
    -----
    For a cotangent dy and a direction u the forward gives the slope :math:`\\langle dy, J u
    \\rangle` and the backward :math:`\\langle J^\\top dy, u \\rangle`: the same number. Each array
    is moved along a random direction, so one evaluation judges all of its numbers; where they
    differ, halving the array finds a wrong entry.

    Arrays of less than float64 are judged in float64, and then once more as they are: their
    gradients may differ from the exact ones by rounding, not more.
    """
    if method not in METHODS:
        known = ", ".join(map(repr, METHODS[:-1]))
        raise ValueError(f"method must be {known} or {METHODS[-1]!r}, got {method!r}")
    if directions < 1:
        raise ValueError(f"directions must be at least 1, got {directions}")
    if step is not None and not 0 < step <= 1:
        raise ValueError(f"step must be above 0 and at most 1, got {step}")
    if method == "auto" and step is not None:
        method = "central"
    started = time.perf_counter()
    subject = make_subject(forward, backward, inputs, p, options, wrt)
    rng = np.random.default_rng(SEED) if rng is None else rng
    judge = _Judge(subject, rng, method, directions, step, tolerance, quick)
    try:
        entries = judge.entries()
        if not quick and not judge.faults:
            judge.faults += judge.promises()
    except Broken as broken:
        entries = []
        judge.faults.append(broken.fault)
    return Report(
        tuple(entries),
        judge.steps.method if judge.steps else "complex",
        judge.tolerance,
        time.perf_counter() - started,
        tuple(judge.faults),
        judge.note,
    )


class _Judge:
    """One measurement, step by step."""

    def __init__(self, subject, rng, method, directions, step, tolerance, quick):
        self.subject, self.rng, self.method = subject, rng, method
        self.count, self.step, self.given_tolerance, self.quick = directions, step, tolerance, quick
        self.faults, self.note, self.steps = [], "", None
        self.point = {
            name: x.astype("float64") if x.dtype.kind == "f" else x.copy()
            for name, x in subject.given.items()
        }

    @property
    def tolerance(self):
        if self.given_tolerance is not None:
            return self.given_tolerance
        return TOLERANCE[self.steps.method if self.steps else "complex"]

    def entries(self):
        """Run both functions once, and compare their slopes."""
        self.y, gradients = self._run_once(self.point)
        if not self.quick and not same_again(self.subject, self.point, self.y):
            raise Broken(
                "state",
                "hidden state: a second call of the forward with the same input gives another "
                "output; what it draws from belongs into options that are made anew for each call",
            )
        names = [name for name in self.subject.targets if gradients[name] is not None]
        self.directions = [
            {name: self.rng.standard_normal(self.point[name].shape) for name in names}
            for _ in range(self.count)
        ]
        self._choose_steps(names)
        self.gradients = self._well_formed(gradients)
        if self.quick and self.faults:
            return []
        try:
            numeric = self._numeric(self.gradients)
        except (TypeError, np.exceptions.ComplexWarning) as error:
            self._give_up_complex(error)
            numeric = self._numeric(self.gradients)
        scales = {
            name: [
                _norm(self.gradients[name] * u[name]) + _norm(terms)
                for u, (terms, _) in zip(self.directions, numeric[name], strict=True)
            ]
            for name in self.gradients
        }
        floor = FLOOR * max((s for scale in scales.values() for s in scale), default=0.0)
        entries = [
            self._entry(name, numeric[name], [max(s, floor) for s in scales[name]])
            for name in self.gradients
        ]
        if not self.quick:
            entries = [self._explained(e, max(*scales[e.name], floor)) for e in entries]
            entries = self._in_given_precision(entries)
        return entries

    def _run_once(self, point):
        spare = {name: x.copy() for name, x in point.items()}
        with np.errstate(all="ignore"):
            y, saved = self.subject.run(point)
        for part in map(host, parts_of(y)):
            if part.dtype.kind == "f" and not np.isfinite(part).all():
                at = [int(i) for i in np.argwhere(~np.isfinite(part))[0]]
                raise Broken("output", f"the forward gives {part[tuple(at)]} at {at} of its output")
        self._untouched(point, spare, "forward")
        self.dy = cotangent(self.rng, y)
        y, given = copied(y), copied(self.dy)
        gradients = self.subject.pull(given, saved, point)
        # A copy, for what a backward returned may be memory that it uses again.
        gradients = {k: x if x is None else host(x).copy() for k, x in gradients.items()}
        self._untouched(point, spare, "backward")
        for part, before in zip(parts_of(given), parts_of(self.dy), strict=True):
            if not np.array_equal(host(part), host(before)):
                self.faults.append(Fault("mutation", "dy was changed in place by the backward"))
        return y, gradients

    def _untouched(self, point, spare, who):
        for name, before in spare.items():
            if not np.array_equal(host(point[name]), host(before), equal_nan=True):
                raise Broken("mutation", f"{name} was changed in place by the {who}")

    def _well_formed(self, gradients):
        """Keep the gradients that can be compared; report the others."""
        kept = {}
        for name, gradient in gradients.items():
            if gradient is None:
                self.faults.append(Fault("none", f"the gradient of {name} is None"))
                continue
            if gradient.shape != self.point[name].shape:
                self._report_shape(name, gradient)
                continue
            bad = np.argwhere(~np.isfinite(gradient))
            if len(bad):
                at = [int(i) for i in bad[0]]
                message = f"the gradient of {name} is {gradient[tuple(at)]} at {at}"
                self.faults.append(Fault("nan", f"{message}, {len(bad)} of {gradient.size} so"))
            kept[name] = gradient
        return kept

    def _report_shape(self, name, gradient):
        shape = self.point[name].shape
        message = f"{name} has shape {shape} and its gradient {gradient.shape}"
        if not self.quick:
            why = guess(self._evidence(name, shape), gradient, self.subject, self.point)
            message += f": {why}" if why else ""
        self.faults.append(Fault("shape", message))

    def _evidence(self, name, shape):
        with np.errstate(all="ignore"):
            return Evidence(self.steps, name, shape, self._dy_parts, self.rng, self.tolerance)

    def _choose_steps(self, names):
        """Take the complex step where it sees what real differences see."""
        if self.method in ("central", "longdouble"):
            self._use_differences(self.method == "longdouble")
        else:
            self.steps = ComplexStep(self.subject, self.point)
        if self.quick or not names:
            return
        everywhere = {
            name: u * size_of_move(self.point, {name: u}) for name, u in self.directions[0].items()
        }
        with np.errstate(all="ignore"):
            sides = Sides(self.subject, self.point, self.y, everywhere)
            corner = sides.corner()
        if corner:
            self._report_corner(corner, names)
            return
        if self.steps.method != "complex":
            return
        try:
            seen, _ = self.steps.along(everywhere)
        except (TypeError, np.exceptions.ComplexWarning) as error:
            self._give_up_complex(error)
            return
        if self._differ(seen, sides.slope, 1e-4):
            slope, doubt = CentralDifferences(self.subject, self.point).along(everywhere)
            if self._differ(seen, slope, 1e-6, doubt):
                lost = lost_operations(self.subject, self.point, everywhere)
                where = ", ".join(lost[:3]) or "some operation"
                self._give_up_complex(f"the complex step is lost at {where}")

    @staticmethod
    def _differ(seen, right, share, doubt=None):
        """Say whether a slope is another one by more than a share of the largest, and by doubt."""
        top = max((abs(part).max(initial=0) for part in (*seen, *right)), default=0)
        doubt = [0.0] * len(right) if doubt is None else doubt
        parts = zip(seen, right, doubt, strict=True)
        return any((abs(a - b) > share * top + 10 * c).any() for a, b, c in parts)

    def _give_up_complex(self, why):
        if isinstance(why, Exception):
            where = line_of(why) or "the forward"
            why = f"the forward does not take complex numbers: {why}, in {where}"
        if self.method == "complex":
            raise Broken("complex", str(why))
        self.note = f"measured by differences, for {why}"
        self._use_differences(False)

    def _use_differences(self, longdouble):
        if longdouble and not keeps_longdouble(self.subject, self.point):
            raise ValueError(
                "method 'longdouble' needs a machine whose long double is longer than float64, "
                "and a forward on NumPy arrays that keeps it"
            )
        dtype = "longdouble" if longdouble else "float64"
        self.steps = CentralDifferences(self.subject, self.point, self.step, dtype)

    def _numeric(self, names):
        return {name: [self._terms({name: u[name]}) for u in self.directions] for name in names}

    def _terms(self, direction):
        """Return dy times the slope of each output in one row, and how far their sum may be off."""
        with np.errstate(all="ignore"):
            slope, doubt = self.steps.along(direction)
        terms, doubts = (
            np.concatenate([np.ravel(a * b) for a, b in zip(x, self._dy_parts, strict=True)])
            for x in (slope, doubt)
        )
        return terms.astype(float), _norm(doubts)

    @property
    def _dy_parts(self):
        return [host(part) for part in parts_of(self.dy)]

    def _entry(self, name, numeric, scales):
        gradient, worst = self.gradients[name], None
        for u, (terms, doubt), scale in zip(self.directions, numeric, scales, strict=True):
            analytic = (gradient * u[name]).sum()
            off = abs(analytic - terms.sum())
            error, doubt = (float(x / scale if scale else x) for x in (off, doubt))
            if worst is None or not error <= worst.error:
                worst = Entry(
                    name,
                    self.subject.targets[name],
                    gradient.shape,
                    self.steps.method,
                    error,
                    float(analytic),
                    float(terms.sum()),
                    self.count,
                    doubt,
                )
        return replace(worst, verdict=self._verdict(worst))

    def _verdict(self, entry):
        if entry.error <= self.tolerance:
            return "right"
        return "coarse" if entry.error <= 3 * entry.uncertainty else "wrong"

    def _explained(self, entry, scale):
        """Look closer at what is wrong: is it the gradient, the method, or the function?"""
        if entry.verdict == "right" or any(f.kind == "smoothness" for f in self.faults):
            return entry
        name = entry.name
        if entry.method == "complex":
            corner = self._corner({name: self.directions[0][name]})
            if corner:
                self._report_corner(corner, [name])
                return entry
        elif entry.verdict == "coarse":
            return self._sharper(entry, scale)
        gradient = self.gradients[name]
        if entry.error < 1e-6 and entry.error * scale <= AMPLIFIED * self._noise(name):
            text = "the last digit of the inputs changes this slope as much; give a tolerance"
            return replace(entry, verdict="rounding", guess=text)
        evidence = self._evidence(name, gradient.shape)
        with np.errstate(all="ignore"):
            index, analytic, numeric, stepped, wrong = locate(evidence, gradient, self.tolerance)
            why = guess(evidence, gradient, self.subject, self.point)
        if wrong is not None and wrong < gradient.size:
            why = "; ".join(filter(None, [why, f"{wrong} of {gradient.size} entries are wrong"]))
        return replace(
            entry,
            index=index,
            analytic=analytic,
            numeric=numeric,
            stepped=stepped,
            wrong=wrong,
            guess=why,
        )

    def _sharper(self, entry, scale):
        # Differences in float64 leave doubt; a longer float may end it.
        if self.step is not None or not keeps_longdouble(self.subject, self.point):
            text = f"the forward's slope is known only to {entry.uncertainty:.0e} with this step"
            return replace(entry, guess=text)
        tolerance, short = self.tolerance, self.steps
        self.steps = CentralDifferences(self.subject, self.point, None, "longdouble")
        numeric = [self._terms({entry.name: u[entry.name]}) for u in self.directions]
        entry = self._entry(entry.name, numeric, [scale] * self.count)
        self.steps = short
        return replace(entry, verdict="right") if entry.error <= tolerance else entry

    def _noise(self, name):
        """Say how much both slopes change when every input changes in its last digit."""
        u = self.directions[0][name]
        point = {
            k: x if x.dtype.kind != "f" else x + DIGIT * x * beside(self._signs(x.shape), x)
            for k, x in self.point.items()
        }
        _, saved = self.subject.run({k: x.copy() for k, x in point.items()})
        gradient = host(self.subject.pull(copied(self.dy), saved, point)[name])
        changes = [abs(((gradient - self.gradients[name]) * u).sum())]
        if self.steps.method == "complex":
            here, there = (
                sum(
                    (a * b).sum()
                    for a, b in zip(steps.along({name: u})[0], self._dy_parts, strict=True)
                )
                for steps in (self.steps, ComplexStep(self.subject, point))
            )
            changes.append(abs(here - there))
        return max(changes)

    def _signs(self, shape):
        return self.rng.choice([-1.0, 1.0], shape)

    def _corner(self, direction):
        with np.errstate(all="ignore"):
            return Sides(self.subject, self.point, self.y, direction).corner()

    def _report_corner(self, corner, names):
        """Say which arrays have no derivative, of a small one which entry, and the two slopes."""
        if len(names) > 1:
            names = [n for n in names if self._corner({n: self.directions[0][n]})]
        where = " and ".join(names) or "everything"
        for name, at, one in self._single_entries(names):
            found = self._corner({name: one})
            if found:
                corner, where = found, f"{name} at {at}"
                break
        number, index, left, right = corner
        output = f"output {list(index)}" if number == 0 else f"output {number} {list(index)}"
        change = f"has slope {left:.3g} before and {right:.3g} behind"
        change = "jumps" if np.isinf(right) else change
        text = f"not differentiable at this point: moving {where}, {output} {change}"
        self.faults.append(Fault("smoothness", f"{text}; check at another point"))

    def _single_entries(self, names):
        for name in names:
            shape = self.point[name].shape
            size = int(np.prod(shape))
            for i in range(size if size <= ALL else 0):
                one = np.zeros(size)
                one[i] = 1.0
                at = [int(k) for k in np.unravel_index(i, shape)] if shape else []
                yield name, at, one.reshape(shape)

    def _in_given_precision(self, entries):
        """Compare gradients as they are in the precision that was given."""
        given = {name: x.copy() for name, x in self.subject.given.items()}
        short = [x.dtype for x in given.values() if x.dtype.kind == "f" and x.dtype.itemsize < 8]
        if not short or self.faults:
            return entries
        eps = max(float(np.finfo(dtype).eps) for dtype in short)
        y, saved = self.subject.run(given)
        dy = mapped(lambda a, b: a.astype(b.dtype) if hasattr(b, "dtype") else a, self.dy, y)
        gradients = self.subject.pull(dy, saved, given)
        off = {
            name: _norm(host(gradients[name]).astype(float) - exact)
            for name, exact in self.gradients.items()
        }
        floor = FLOOR * max(map(_norm, self.gradients.values()), default=0.0)
        return [self._rounded(entry, off[entry.name], floor, eps) for entry in entries]

    def _rounded(self, entry, off, floor, eps):
        size = max(_norm(self.gradients[entry.name]), floor)
        rounding = float(off / size if size else off)
        entry = replace(entry, rounding=rounding)
        if entry.verdict != "right" or rounding <= ROUNDING * eps:
            return entry
        if off <= AMPLIFIED * self._noise(entry.name) * eps / DIGIT:
            return entry
        text = (
            f"right in float64, but off by {rounding:.1e} in the precision given, "
            f"{rounding / eps:.0f} units in the last place"
        )
        return replace(entry, verdict="wrong", guess=text)

    def promises(self):
        """Call both functions again; report what a right pair does not mind."""
        with np.errstate(all="ignore"):
            return broken_promises(
                self.subject, self.point, self.y, self.dy, self.gradients, self.rng
            )


def _norm(x):
    return float(np.sqrt((np.asarray(x, float) ** 2).sum()))
