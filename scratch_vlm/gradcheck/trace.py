"""Watch the operations of a forward: which of them lose the complex step, and which use an array.

Both are subclasses of the NumPy array whose operations are seen by `__array_ufunc__` and
`__array_function__`; a function that is handed one runs as it is.
"""

import contextlib
import linecache
import sys
from pathlib import Path

import numpy as np

STEP = 1e-30  # of the complex step
HERE, NUMPY = str(Path(__file__).parent), str(Path(np.__file__).parent)
NEAR = 1e-6


class Suspicious(np.ndarray):
    """A complex array that compares each operation on it with its real difference.

    Where Im f(x + ihu) / h is not the difference of f along u, the operation is not
    complex-analytic there. `found` and `weak` collect such places; a weak one reads the real part,
    which is right where only a constant is made of it.
    """

    found: list
    weak: list

    def __array_finalize__(self, other):
        self.found = getattr(other, "found", [])
        self.weak = getattr(other, "weak", [])

    @property
    def real(self):
        """The real part."""
        if self.dtype.kind == "c":
            self.weak.append(f"the real part in {place()}")
        return np.asarray(self).real

    def __array_ufunc__(self, ufunc, method, *inputs, out=None, **settings):
        call = getattr(ufunc, method)
        if out is not None:
            settings["out"] = tuple(_plain(x) for x in out)
        name = ufunc.__name__ if method == "__call__" else f"{ufunc.__name__}.{method}"
        y = self._judged(call, name, inputs, settings)
        return out[0] if out is not None and len(out) == 1 else y

    def __array_function__(self, function, types, args, kwargs):
        return self._judged(function, function.__name__, args, kwargs)

    def _judged(self, function, name, args, kwargs):
        args, kwargs = _plain(args), _plain(kwargs)
        before = _plain(args, copy=True)
        y = function(*args, **kwargs)
        settings = {k: v for k, v in kwargs.items() if k != "out"}
        if isinstance(y, np.ndarray | np.generic) and y.dtype.kind in "fc" and _any_complex(before):
            with contextlib.suppress(Exception):  # of an operation that takes no real numbers
                a, b = (
                    function(*_real(before, sign * NEAR), **_real(settings, sign * NEAR))
                    for sign in (-1, 1)
                )
                right, seen = (b - a) / (2 * NEAR), np.imag(y) / STEP
                scale = np.abs(right).max(initial=0) + np.abs(seen).max(initial=0)
                if not np.allclose(seen, right, rtol=1e-3, atol=1e-4 * scale):
                    self.found.append(f"{name} in {place()}")
        if not isinstance(y, np.ndarray | np.generic) or isinstance(y, Suspicious):
            return y
        y = np.asarray(y).view(Suspicious)
        y.found, y.weak = self.found, self.weak
        return y


def _any_complex(x):
    if isinstance(x, tuple | list):
        return any(map(_any_complex, x))
    return isinstance(x, np.ndarray | np.generic) and x.dtype.kind == "c"


def _plain(x, *, copy=False):
    if isinstance(x, tuple | list):
        return type(x)(_plain(part, copy=copy) for part in x)
    if isinstance(x, dict):
        return {k: _plain(v, copy=copy) for k, v in x.items()}
    if isinstance(x, Suspicious):
        x = x.view(np.ndarray)
    return x.copy() if copy and isinstance(x, np.ndarray) else x


def _real(x, step):
    # The real point, moved along the imaginary direction by the step.
    if isinstance(x, tuple | list):
        return type(x)(_real(part, step) for part in x)
    if isinstance(x, dict):
        return {k: _real(v, step) for k, v in x.items()}
    if isinstance(x, np.ndarray | np.generic) and x.dtype.kind == "c":
        return np.real(x) + step * np.imag(x) / STEP
    return x


def lost_operations(subject, point, direction):
    """Name the operations at which the complex step goes wrong.

    Parameters
    ----------
    subject : Subject
    point : dict of str to array
    direction : dict of str to array

    Returns
    -------
    list of str
        Such as ``"absolute in y = np.abs(x) (line 3 of layer.py)"``, without repetition.
    """
    found, weak = [], []

    def watched(name, x):
        if x.dtype.kind != "f":
            return x
        step = 1j * STEP * direction[name] if name in direction else 0
        x = (x + step).astype(complex).view(Suspicious)
        x.found, x.weak = found, weak
        return x

    with contextlib.suppress(Exception):  # of a forward that takes no subclass: seen until then
        subject.run({name: watched(name, x) for name, x in point.items()})
    return list(dict.fromkeys(found or weak))


# Of an array of which only the shape or the like is asked, nothing is used.
UNUSED = {"shape", "ndim", "size", "dtype", "nbytes", "itemsize", "strides", "flags", "base"}


class Watched(np.ndarray):
    """An array that counts the operations it goes into, and may be moved in one of them alone.

    `uses` collects a place for each; in use number `moved` the array `instead` takes its place.
    """

    uses: list
    moved: int
    instead: np.ndarray

    def __array_ufunc__(self, ufunc, method, *inputs, **settings):
        return getattr(ufunc, method)(*_used(inputs), **_used(settings))

    def __array_function__(self, function, types, args, kwargs):
        return function(*_used(args), **_used(kwargs))

    def __getitem__(self, key):
        return _used(self)[key]

    def __getattribute__(self, name):
        if name in UNUSED or name.startswith("_") or name in ("uses", "moved", "instead", "view"):
            return super().__getattribute__(name)
        return getattr(_used(self), name)


def _used(x):
    if isinstance(x, tuple | list):
        return type(x)(map(_used, x))
    if isinstance(x, dict):
        return {k: _used(v) for k, v in x.items()}
    if not isinstance(x, Watched) or not hasattr(x, "instead"):
        return x
    x.uses.append(places())
    return x.instead if len(x.uses) - 1 == x.moved else x.view(np.ndarray)


def uses_of(subject, point, name, u):
    """Find each use that a forward makes of an array, and the slope through that use alone.

    Parameters
    ----------
    subject : Subject
    point : dict of str to array
    name : str
        Of the array.
    u : sequence of array
        Directions.

    Returns
    -------
    uses : list of list of str
        Where each use is: the line of the forward, and the lines of what it calls.
    slope : callable
        ``slope(use, direction)`` gives the outputs' slopes; both are numbers.
    """

    def run(moved, direction):
        values = {k: x.astype(complex) if x.dtype.kind == "f" else x for k, x in point.items()}
        x = point[name].astype(complex).view(Watched)
        x.uses, x.moved = [], moved
        x.instead = point[name] + 1j * STEP * direction
        y, _ = subject.run(values | {name: x})
        return y, x.uses

    _, uses = run(-1, u[0])
    return uses, lambda use, direction: run(use, u[direction])[0]


def places():
    """List the lines outside this package and NumPy that led here, the innermost last.

    Returns
    -------
    list of str
    """
    found, frame, ours = [], sys._getframe(1), 0
    while frame:
        file = frame.f_code.co_filename
        if file.startswith(HERE):
            ours += bool(found)
            if ours:
                break
        elif not file.startswith(NUMPY):
            found.append(_line(file, frame.f_lineno))
        frame = frame.f_back
    return found[::-1]


def line_of(error):
    """Return the innermost line outside this package and NumPy that an error came through.

    Parameters
    ----------
    error : Exception

    Returns
    -------
    str
        Empty if there is none.
    """
    found, trace = "", error.__traceback__
    while trace:
        if not trace.tb_frame.f_code.co_filename.startswith((HERE, NUMPY)):
            found = _line(trace.tb_frame.f_code.co_filename, trace.tb_lineno)
        trace = trace.tb_next
    return found


def _line(file, number):
    return f"`{linecache.getline(file, number).strip()}` (line {number} of {Path(file).name})"


def place():
    """Return the innermost of `places`.

    Returns
    -------
    str
    """
    found = places()
    return found[-1] if found else "the forward"
