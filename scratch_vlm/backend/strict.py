"""A NumPy that refuses what CuPy refuses: the backend of tests on machines without a GPU.

It computes with NumPy, to the bit, on arrays that are not NumPy's, and raises where code that runs
with NumPy would fail with CuPy, would silently be slow or wait, or would compute in float64:

- a function, keyword or method that CuPy has not (cupy_api.json lists what it has),
- NumPy's arrays as operands or indices, NumPy's functions on its own arrays, lists as operands,
- a float32 that meets a float64, be it a single number such as ``np.sqrt(2)``, and becomes one,
- inside `no_waiting`, whatever makes the host wait for the device: ``float(x)``, ``if x.any()``,
  a boolean index, a copy to the host. `waits` lists those that happened, everywhere.

Reductions give arrays without axes, never NumPy's scalars. What it cannot imitate are memory
layouts, the order of atomic additions, and speed.
"""

import json
import operator
import sys
from contextlib import contextmanager
from importlib.resources import files
from types import SimpleNamespace

import numpy as np

API = json.loads(files("scratch_vlm.backend").joinpath("cupy_api.json").read_text("utf-8"))
__version__ = f"{np.__version__} as strict as CuPy {API['cupy']}"

WAITING_METHODS = ("get", "item", "tobytes", "tofile", "tolist", "dump", "dumps", "nonzero")
WAITING_FUNCTIONS = ("argwhere", "bincount", "flatnonzero", "nonzero", "unique")
SCALARS = (bool, int, float, complex, np.generic)

waits = []  # what made the host wait, and where: ["float() in loss.py:12", ...]
_forbidden = False


@contextmanager
def no_waiting():
    """Raise RuntimeError where code inside would make the host wait for the device."""
    global _forbidden
    before, _forbidden = _forbidden, True
    try:
        yield
    finally:
        _forbidden = before


def _wait(what):
    frame = sys._getframe(1)
    while frame.f_back and frame.f_code.co_filename == __file__:
        frame = frame.f_back
    waits.append(f"{what} in {frame.f_code.co_filename}:{frame.f_lineno}")
    if _forbidden:
        raise RuntimeError(f"{what} makes the host wait for the device")


class ndarray:
    """An array that pretends to be on a device; `asarray` makes it and `asnumpy` brings it back."""

    __slots__ = ("_host",)
    __hash__ = None

    def __init__(self, host):
        self._host = host

    def __array__(self, *arguments, **keywords):
        raise TypeError("an array of the device became one of NumPy without being asked to")

    def __array_ufunc__(self, function, *arguments, **keywords):
        name = function.__name__
        raise TypeError(f"np.{name} was called with an array of the device; call xp.{name}")

    def __array_function__(self, function, types, arguments, keywords):
        if function in (np.shape, np.ndim):  # CuPy answers these, and they read no numbers
            return function(*_hosts(arguments, function.__name__))
        name = function.__name__
        raise TypeError(f"np.{name} was called with an array of the device; call xp.{name}")

    def __getattr__(self, name):
        if name == "flags":
            flags = self._host.flags
            known = ("c_contiguous", "f_contiguous", "owndata")
            return SimpleNamespace(**{flag: getattr(flags, flag) for flag in known})
        if name in API["attributes"]:
            return _device(getattr(self._host, name))
        if name not in API["methods"]:
            raise AttributeError(f"an array of CuPy has no {name}")

        def method(*arguments, **keywords):
            _check_keywords(f"ndarray.{name}", API["methods"][name], keywords)
            if name in WAITING_METHODS:
                _wait(f"{name}()")
            if name == "get":
                return self._host.copy()
            return _call(name, getattr(self._host, name), arguments, keywords, [self])

        return method

    def __getitem__(self, index):
        return _device(self._host[_index(index, reading=True)])

    def __setitem__(self, index, value):
        _check_floats("assignment", [self, value])
        self._host[_index(index, reading=False)] = _hosts(value, "assignment")

    def __len__(self):
        return len(self._host)

    def __iter__(self):
        return (self[i] for i in range(len(self)))

    def __repr__(self):
        _wait("repr()")
        return f"strict {self._host!r}"

    def __format__(self, form):
        _wait("format()")
        return format(self._host.item() if self._host.ndim == 0 else self._host, form)


def _index(index, reading):
    if isinstance(index, tuple):
        return tuple(_index(part, reading) for part in index)
    if isinstance(index, list):
        raise TypeError("a list as an index is copied to the device each time; make it an array")
    if reading and isinstance(index, ndarray) and index.dtype == bool:
        _wait("reading with a boolean index")
    return _hosts(index, "an index")


def _hosts(x, what):
    """Arrays of NumPy behind those of the device, in lists and tuples too; NumPy's are refused."""
    if isinstance(x, ndarray):
        return x._host
    if isinstance(x, np.ndarray):
        raise TypeError(f"{what}: an array of NumPy among those of the device; use xp.asarray")
    if isinstance(x, list | tuple):
        return type(x)(_hosts(part, what) for part in x)
    return x


def _device(x):
    """Wrap what a function of NumPy returned."""
    if isinstance(x, np.ndarray | np.generic):
        return ndarray(np.asarray(x))
    if isinstance(x, list | tuple):
        return type(x)(map(_device, x))
    return x


def _call(name, function, arguments, keywords, operands=()):
    """Call a function of NumPy with arrays of the device."""
    operands = [*operands, *_flat(arguments), *_flat(keywords.values())]
    hosts = _hosts(tuple(arguments), name)
    result = _device(function(*hosts, **{k: _hosts(x, name) for k, x in keywords.items()}))
    if keywords.get("dtype") is None and name != "astype":
        _check_floats(name, operands, result)
    return keywords["out"] if keywords.get("out") is not None else result


def _flat(values):
    for x in values:
        if isinstance(x, list | tuple):
            yield from _flat(x)
        else:
            yield x


def _check_floats(name, operands, result=None):
    single = [x for x in operands if isinstance(x, ndarray) and x.dtype in ("float16", "float32")]
    double = [x for x in [*operands, result] if getattr(x, "dtype", None) == np.float64]
    if single and double:
        kind = type(double[0]).__name__
        raise TypeError(
            f"{name}: {single[0].dtype} became float64, by a float64 {kind} or integers"
        )


def _check_keywords(name, known, given):
    if known is None or "kwargs" in known:
        return
    unknown = sorted(set(given) - set(known))
    if unknown:
        raise TypeError(f"CuPy's {name} has no {', '.join(unknown)}; it has {', '.join(known)}")


def _operator(name):
    def method(self, *other):
        if not all(isinstance(x, (ndarray, np.ndarray, *SCALARS)) for x in other):
            return NotImplemented
        return _call(name, getattr(operator, name), (self, *other), {})

    def reflected(self, other):
        if not isinstance(other, (np.ndarray, *SCALARS)):
            return NotImplemented
        return _call(name, getattr(operator, name), (other, self), {})

    def in_place(self, other):
        _check_floats(name, [self, other])
        getattr(operator, f"i{name.strip('_')}")(self._host, _hosts(other, name))
        return self

    return method, reflected, in_place


ARITHMETIC = ("add", "sub", "mul", "truediv", "floordiv", "mod", "pow", "matmul")
BITWISE = ("and_", "or_", "xor", "lshift", "rshift")
OTHERS = ("neg", "pos", "abs", "invert", "eq", "ne", "lt", "le", "gt", "ge")
for _name in (*ARITHMETIC, *BITWISE):
    _stem, _methods = _name.strip("_"), _operator(_name)
    for _prefix, _method in zip(("", "r", "i"), _methods, strict=True):
        setattr(ndarray, f"__{_prefix}{_stem}__", _method)
for _name in OTHERS:
    setattr(ndarray, f"__{_name}__", _operator(_name)[0])


def _reader(name, function):
    def method(self):
        _wait(f"{name}()")
        return function(self._host)

    return method


for _name, _function in (
    ("bool", bool),
    ("int", int),
    ("float", float),
    ("complex", complex),
    ("index", operator.index),
):
    setattr(ndarray, f"__{_name}__", _reader(_name, _function))


class _Ufunc:
    """An elementwise function, with the keywords and the few methods that CuPy's have."""

    keywords = ("out", "dtype", "casting")

    def __init__(self, name):
        self.__name__ = name
        self._function = getattr(np, name)

    def __call__(self, *operands, **keywords):
        _check_keywords(self.__name__, self.keywords, keywords)
        if any(isinstance(x, list | tuple) for x in operands):
            raise TypeError(f"CuPy's {self.__name__} takes no lists; use xp.asarray")
        return _call(self.__name__, self._function, operands, keywords)

    def at(self, target, index, values):
        _check_floats(f"{self.__name__}.at", [target, values])
        index = _index(index, reading=False)
        self._function.at(_hosts(target, "at"), index, _hosts(values, "at"))

    def reduce(self, *arguments, **keywords):
        if self.__name__ not in ("add", "multiply"):
            raise NotImplementedError(f"CuPy has no {self.__name__}.reduce")
        return _call(self.__name__, self._function.reduce, arguments, keywords)


def _function(name):
    def function(*arguments, **keywords):
        _check_keywords(name, API["functions"][name], keywords)
        if name in WAITING_FUNCTIONS or (name == "where" and len(arguments) == 1):
            _wait(f"{name}()")
        return _call(name, getattr(np, name), arguments, keywords)

    function.__name__ = name
    return function


def asarray(a, dtype=None):
    """Copy to the device; what is there already stays as it is.

    Parameters
    ----------
    a : array or number or list
        Of NumPy or of the device.
    dtype : dtype, optional
        To convert it to.

    Returns
    -------
    ndarray
    """
    if isinstance(a, ndarray):
        return ndarray(np.asarray(a._host, dtype))
    return ndarray(np.array(a if isinstance(a, np.ndarray) else _hosts(a, "asarray"), dtype))


def array(a, dtype=None):
    """Copy to the device, or on it.

    Parameters
    ----------
    a : array or number or list
        Of NumPy or of the device.
    dtype : dtype, optional
        To convert it to.

    Returns
    -------
    ndarray
    """
    return ndarray(np.array(a._host if isinstance(a, ndarray) else a, dtype))


def asnumpy(a):
    """Copy to the host, and wait for it.

    Parameters
    ----------
    a : array
        Of the device.

    Returns
    -------
    numpy.ndarray
    """
    _wait("asnumpy()")
    return a._host.copy() if isinstance(a, ndarray) else np.asarray(a)


def erf(x):
    """Error function, which CuPy keeps in another module.

    Parameters
    ----------
    x : array of shape (...)
        Of the device.

    Returns
    -------
    array of shape (...)
    """
    from scipy.special import erf

    return _call("erf", erf, [x], {})


def __getattr__(name):
    if name in API["ufuncs"]:
        found = _Ufunc(name)
    elif name in API["functions"]:
        found = _function(name)
    elif name in API["values"]:
        found = getattr(np, name)
    else:
        raise AttributeError(f"CuPy has no {name}")
    globals()[name] = found
    return found
