"""Judge any forward/backward pair: measure the same slope twice, and compare.

The forward says how its output changes along a direction; the backward says how the loss changes
with each number. For a cotangent dy and a direction u both give the slope <dy, J u> = <J^T dy, u>.
"""

import time
import warnings
from dataclasses import dataclass

import numpy as np

from scratch_vlm.tree import leaves, tree_map, zeros_like

STEP = 1e-30  # of the complex step: nothing is subtracted, so it can be as small as we like
TOLERANCE = {"complex": 1e-12, "central": 1e-8}
# Below this share of the largest gradient, an error is measured against that share: a gradient
# that is zero in exact arithmetic (a key bias under softmax) has no relative error of its own.
FLOOR = 1e-3


class GradientError(AssertionError):
    """A backward disagrees with its forward, or breaks the contract; the message says where."""


@dataclass(frozen=True)
class Entry:
    """What was found for one input or parameter.

    Attributes
    ----------
    name : str
        ``input 0``, or the name of a parameter.
    kind : {"input", "parameter"}
        Which of the two.
    size : int
        Numbers in it.
    error : float
        Relative difference of the two slopes; nan counts as wrong.
    analytic, numeric : float
        The slope by the backward and by the forward.
    """

    name: str
    kind: str
    size: int
    error: float
    analytic: float
    numeric: float


@dataclass(frozen=True)
class Report:
    """The verdict about one pair.

    Attributes
    ----------
    entries : tuple of Entry
        One for each input and parameter.
    method : {"complex", "central"}
        How the forward's slope was measured.
    tolerance : float
        Largest error that passes.
    seconds : float
        How long it took.
    """

    entries: tuple[Entry, ...]
    method: str
    tolerance: float
    seconds: float

    @property
    def worst(self):
        """Largest error; nan if any is."""
        return float(np.max([entry.error for entry in self.entries], initial=0.0))

    @property
    def passed(self):
        """Whether every error is within the tolerance."""
        return bool(self.worst <= self.tolerance)

    def __str__(self):
        width = max((len(entry.name) for entry in self.entries), default=4)
        lines = [f"{'name':{width}}  {'size':>7}  {'error':>8}  {'backward':>12}  {'forward':>12}"]
        for entry in sorted(self.entries, key=lambda entry: -np.nan_to_num(entry.error, nan=9e99)):
            mark = "" if entry.error <= self.tolerance else "  <- wrong"
            lines.append(
                f"{entry.name:{width}}  {entry.size:7d}  {entry.error:8.1e}  "
                f"{entry.analytic:12.5e}  {entry.numeric:12.5e}{mark}"
            )
        return "\n".join(lines)


def check(forward, backward, inputs, p=None, **settings):
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
        If a gradient is wrong; the message is a table of all of them.

    Examples
    --------
    >>> def square_forward(x):
    ...     return x * x, x
    >>> def square_backward(dy, x):
    ...     return 2 * x * dy
    >>> check(square_forward, square_backward, [np.array([1.0, 2.0, 3.0])]).passed
    True
    """
    report = measure(forward, backward, inputs, p, **settings)
    if not report.passed:
        name = getattr(backward, "__name__", "backward")
        raise GradientError(f"{name} is wrong ({report.method} step):\n{report}")
    return report


def measure(
    forward, backward, inputs, p=None, *, options=None, rng=None, method="auto", tolerance=None
):
    """Compare the slopes that a forward and its backward see, for every input and parameter.

    Parameters
    ----------
    forward : callable
        ``y, saved = forward(*inputs, p, **options)``; without `p` if that is None. `y` may be a
        tuple of arrays.
    backward : callable
        ``dinputs = backward(dy, saved, g)``; without `g` if `p` is None. One gradient for each
        input of floating point numbers, a tuple if there are several, None if there are none.
    inputs : sequence of array
        NumPy arrays. Integers and booleans are passed on as they are and have no gradient.
    p : dict, optional
        Tree of parameters.
    options : dict or callable, optional
        Keyword arguments of the forward, or a function that makes them anew for every call (for
        a pair that draws from a generator).
    rng : numpy.random.Generator, optional
        Draws dy and the directions; default a fixed seed. Both must be random: with dy = 1 a
        softmax or a layer norm whose backward returns zeros would pass.
    method : {"auto", "complex", "central"}
        ``"complex"``: Im f(x + ihu) / h with h = 1e-30, exact to the last digits, for forwards
        made of analytic operations. ``"central"``: differences in float64. ``"auto"``: the
        first, or the second where the forward does not take complex numbers.
    tolerance : float, optional
        Largest relative error that passes; default 1e-12 (complex) or 1e-8 (central).

    Returns
    -------
    Report

    Raises
    ------
    GradientError
        If the backward returns gradients of the wrong number or shape, or changes its inputs.
    TypeError
        If `inputs` is one array instead of a sequence, or the forward does not return a pair.
    ValueError
        If the method is unknown.

    Notes
    -----
    Each array is moved along one random direction, so one evaluation judges all of its numbers.

    References
    ----------
    .. [1] W. Squire and G. Trapp, "Using Complex Variables to Estimate Derivatives of Real
       Functions", SIAM Review 40, 1998.
    """
    if method not in ("auto", "complex", "central"):
        raise ValueError(f"method must be 'auto', 'complex' or 'central', got {method!r}")
    if isinstance(inputs, np.ndarray):
        raise TypeError("inputs must be a sequence of arrays, got one array; write [x]")
    started = time.perf_counter()
    rng = np.random.default_rng(0) if rng is None else rng
    make_options = options if callable(options) else lambda: dict(options or {})
    point = {
        "input": {i: _as_float64(x) for i, x in enumerate(inputs)},
        "parameter": {} if p is None else tree_map(_as_float64, p),
    }
    spare = tree_map(np.copy, point)

    def run(tree):
        arguments = [*tree["input"].values()] + ([] if p is None else [tree["parameter"]])
        return forward(*arguments, **make_options())

    result = run(point)
    if not isinstance(result, tuple) or len(result) != 2:
        raise TypeError(f"the forward must return (y, saved), got {type(result).__name__}")
    y, saved = result
    dy = _map_outputs(lambda part: rng.standard_normal(np.shape(part)), y)
    g = zeros_like(point["parameter"])
    given = _map_outputs(np.copy, dy)
    dinputs = backward(given, saved) if p is None else backward(given, saved, g)
    gradients = {"input": _by_input(dinputs, point["input"]), "parameter": g}
    for name, before in leaves(spare):
        after = dict(leaves(point))[name]
        if not np.array_equal(before, after, equal_nan=True):
            raise GradientError(f"{name} was changed in place by the forward or the backward")

    targets = [
        (kind, name, gradient)
        for kind in gradients
        for name, gradient in leaves(gradients[kind])
        if gradient is not None
    ]
    directions = [rng.standard_normal(gradient.shape) for _, _, gradient in targets]

    def terms(slope):
        return [
            np.concatenate([np.ravel(a * b) for a, b in zip(_parts(part), _parts(dy), strict=True)])
            for part in slope
        ]

    steps = {"complex": _complex_slopes, "central": _central_slopes}
    try:
        used = "central" if method == "central" else "complex"
        numeric = terms(steps[used](run, point, targets, directions))
    except (TypeError, np.exceptions.ComplexWarning) as error:
        if method == "complex":
            raise GradientError(f"the forward does not take complex numbers: {error}") from error
        used = "central"
        numeric = terms(steps[used](run, point, targets, directions))
    analytic = [
        (gradient * u).ravel() for (*_, gradient), u in zip(targets, directions, strict=True)
    ]

    scales = [_norm(a) + _norm(b) for a, b in zip(analytic, numeric, strict=True)]
    floor = FLOOR * max(scales, default=0.0)
    entries = []
    for (kind, name, gradient), a, b, scale in zip(targets, analytic, numeric, scales, strict=True):
        difference, scale = abs(a.sum() - b.sum()), max(scale, floor)
        error = difference / scale if scale else difference
        label = f"input {name}" if kind == "input" else name
        entries.append(Entry(label, kind, gradient.size, float(error), a.sum(), b.sum()))
    tolerance = TOLERANCE[used] if tolerance is None else tolerance
    return Report(tuple(entries), used, tolerance, time.perf_counter() - started)


def _complex_slopes(run, point, targets, directions):
    start = tree_map(lambda x: x.astype(complex) if x.dtype.kind == "f" else x, point)
    with warnings.catch_warnings():
        # A dropped imaginary part would be a silent pass.
        warnings.simplefilter("error", np.exceptions.ComplexWarning)
        for (kind, name, _), u in zip(targets, directions, strict=True):
            y, _ = run(_moved(start, kind, name, 1j * STEP * u))
            yield _map_outputs(lambda part: np.imag(part) / STEP, y)


def _central_slopes(run, point, targets, directions):
    # Two central differences, extrapolated to step zero: the error falls with the fourth power.
    h = 1e-3
    for (kind, name, _), u in zip(targets, directions, strict=True):
        at = [run(_moved(point, kind, name, k * h * u))[0] for k in (-2, -1, 1, 2)]
        parts = zip(*map(_parts, at), strict=True)
        yield tuple((8 * (c - b) - (d - a)) / (12 * h) for a, b, c, d in parts)


def _moved(tree, kind, name, step):
    def walk(branch, path):
        if isinstance(branch, dict):
            return {k: walk(v, f"{path}/{k}" if path else str(k)) for k, v in branch.items()}
        return branch + step if path == name else branch.copy()

    return {
        k: walk(branch, "") if k == kind else tree_map(np.copy, branch)
        for k, branch in tree.items()
    }


def _as_float64(x):
    x = np.asarray(x)
    return x.astype(np.float64) if x.dtype.kind == "f" else x.copy()


def _parts(y):
    return y if isinstance(y, tuple) else (y,)


def _map_outputs(f, y):
    return tuple(map(f, y)) if isinstance(y, tuple) else f(y)


def _norm(x):
    return float(np.sqrt((x * x).sum()))


def _by_input(dinputs, inputs):
    wanted = [i for i, x in inputs.items() if x.dtype.kind == "f"]
    given = () if dinputs is None else dinputs if isinstance(dinputs, tuple) else (dinputs,)
    if len(given) != len(wanted):
        raise GradientError(
            f"the backward returned {len(given)} gradients for {len(wanted)} floating point inputs"
        )
    for i, gradient in zip(wanted, given, strict=True):
        if np.shape(gradient) != inputs[i].shape:
            raise GradientError(
                f"input {i} has shape {inputs[i].shape} and its gradient {np.shape(gradient)}"
            )
    return dict(zip(map(str, wanted), given, strict=True))
