"""CuPy without a GPU: NumPy behind an array type that refuses what CuPy refuses, or does slowly.

Code that runs here runs on CuPy, as far as that can be known without one:

- the array is no `numpy.ndarray`; NumPy's arrays and functions do not mix with it
- there are only the names and keywords that CuPy has: see api.json and make_api.py
- float32 does not become float64 unless a dtype asks for it
- reductions return arrays of no axes, never scalars; a list or a host array is no index
- inside `no_sync` nothing may wait for the device
- what a stream copies arrives when somebody waits for it, and no sooner: see streams.py
- what a CUDA graph cannot hold is refused while one is captured; what it can is done again when it
  is launched, see tape.py

It is stricter than CuPy where CuPy does something else than meant: ``np.exp`` of a CuPy array
works, by luck; a list as an index is copied to the device at every call; integers outside an axis
wrap around in silence.
"""

import functools
import inspect
import json
import operator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import scipy.special

from strict import blas, streams, tape
from strict import cuda as cuda  # what else CuPy has

API = json.loads(Path(__file__).with_name("api.json").read_text(encoding="utf-8"))
FROM_HOST = ("array", "asarray", "asanyarray", "ascontiguousarray", "asfortranarray")
CASTS = ("astype", "view", *FROM_HOST)  # what they return is what they were asked for
# The size of what these return, or a decision on the way, hangs on values that the device holds.
WAITING = (
    *("argwhere", "bincount", "compress", "extract", "flatnonzero", "nonzero", "setdiff1d"),
    *("unique", "unique_all", "unique_counts", "unique_inverse", "unique_values"),
    *("dump", "dumps", "get", "item", "tobytes", "tofile", "tolist"),
)
BINARY = ("add", "and", "floordiv", "lshift", "matmul", "mod", "mul", "or", "pow", "rshift")
BINARY += ("sub", "truediv", "xor")
UNARY = ("abs", "eq", "ge", "gt", "invert", "le", "lt", "ne", "neg", "pos")  # and comparisons
PRODUCTS = ("dot", "einsum", "inner", "tensordot", "vdot")
PRODUCTS += ("__imatmul__", "__matmul__", "__rmatmul__", "matmul")
TO_PYTHON = ("bool", "complex", "float", "format", "int", "str")
_no_sync = False
waits = []  # what waited for the device so far, in words


class HiddenSync(RuntimeError):
    """Something inside `no_sync` would have waited for the device."""


@contextmanager
def no_sync():
    """Refuse whatever waits for the device, as a training step must not."""
    global _no_sync
    before, _no_sync = _no_sync, True
    try:
        yield
    finally:
        _no_sync = before


def _wait(what):
    waits.append(what)
    tape.refuse(f"{what} waited for the device")
    if _no_sync:
        raise HiddenSync(f"{what} waits for the device")


class ndarray:
    """An array as CuPy has it; `host` is the NumPy array behind it, for this file alone."""

    __slots__ = ("__weakref__", "host")
    __hash__ = None

    def __init__(self, host):
        self.host = host
        tape.track(self)

    def __array__(self, *args, **kwargs):
        raise TypeError("implicit conversion to a NumPy array; use backend.to_host")

    def __array_ufunc__(self, ufunc, *args, **kwargs):
        raise TypeError(f"np.{ufunc.__name__}, or a NumPy operand, met a device array")

    def __array_function__(self, function, types, args, kwargs):
        if function in (np.ndim, np.shape, np.size):  # CuPy answers these, and without waiting
            return function(self.host)
        raise TypeError(f"np.{function.__name__} met a device array; use that of its namespace")

    def __getattr__(self, name):
        if name == "data":
            return SimpleNamespace(ptr=self.host.ctypes.data)
        if name in API["attributes"]:
            return _to_device(getattr(self.host, name))
        if name not in API["methods"]:
            raise AttributeError(f"CuPy's ndarray has no {name!r}")
        if name == "get":
            return lambda: asnumpy(self)
        method = _checked(name, getattr(self.host, name), API["methods"][name])
        return functools.partial(method, _self=self)

    def __getitem__(self, index):
        if _masks(index):
            _wait("reading through a boolean mask")
        index = _index(index)
        made = _to_device(self.host[index])
        tape.record(operator.getitem, self.host, index, made=(made.host,))
        return made

    def __setitem__(self, index, value):
        whole = isinstance(index, ndarray) and index.shape == self.shape
        if _masks(index) and not (whole and getattr(value, "shape", ()) == ()):
            _wait("writing through a boolean mask that is not one for one, or more than one number")
        _same_precision("[...] =", (self, value), None)
        index, value = _index(index), _to_host("[...] =", value)
        self.host[index] = value
        tape.record(operator.setitem, self.host, index, value)

    def __len__(self):
        return len(self.host)

    def __iter__(self):
        return (self[i] for i in range(len(self)))

    def set(self, arr, stream):
        """Copy from pinned memory, when the stream gets to it; without a stream it would wait."""
        streams.copy(self.host, arr, stream)

    def __repr__(self):
        return f"strict({self.host!r})"  # does not wait, so that failures in tests can be read


def _operator(name):
    def operate(self, *others):
        if name in PRODUCTS:
            tape.refuse("CuPy called its own cuBLAS")
        operands = [_to_host(name, x) for x in others]
        function = getattr(self.host, name)
        result = function(*operands)
        _same_precision(name, (self, *others), result)
        made = self if result is self.host else _to_device(result)
        tape.record(function, *operands, made=_hosts(made))
        return made

    return operate


def _waiting(name):
    def convert(self, *args):
        _wait(name)
        return getattr(self.host, name)(*args)

    return convert


for _name in BINARY:
    for _prefix in ("", "r", "i"):
        if f"{_prefix}{_name}" != "imatmul":  # which CuPy lacks
            _full = f"__{_prefix}{_name}__"
            setattr(ndarray, _full, _operator(_full))
for _name in UNARY:
    setattr(ndarray, f"__{_name}__", _operator(f"__{_name}__"))
for _name in TO_PYTHON:
    setattr(ndarray, f"__{_name}__", _waiting(f"__{_name}__"))


def _masks(index):
    parts = index if isinstance(index, tuple) else (index,)
    return any(isinstance(part, ndarray) and part.dtype == bool for part in parts)


def _index(index):
    if isinstance(index, tuple):
        return tuple(map(_index, index))
    if isinstance(index, list):
        raise TypeError("a list as an index is copied to the device at every call")
    return _to_host("an index", index)


def _to_host(name, x):
    if isinstance(x, ndarray):
        return x.host
    if isinstance(x, np.ndarray):
        raise TypeError(f"{name}: a NumPy array among those of the device; use backend.to_device")
    if isinstance(x, list | tuple):
        return type(x)(_to_host(name, part) for part in x)
    return x


def _to_device(x):
    if isinstance(x, np.ndarray | np.generic):
        return ndarray(np.asarray(x))
    if isinstance(x, list) or type(x) is tuple:
        return type(x)(map(_to_device, x))
    return x


def _hosts(made):  # of what `_to_device` returned
    parts = made if isinstance(made, list | tuple) else (made,)
    return tuple(x.host for x in parts if isinstance(x, ndarray))


def _arrays(values):
    for x in values:
        if isinstance(x, list | tuple):
            yield from _arrays(x)
        elif isinstance(x, ndarray | np.ndarray | np.generic):
            yield x


def _same_precision(name, operands, result):
    kinds = {x.dtype for x in _arrays((*operands, result)) if x.dtype.kind in "fc"}
    widths = {dtype.itemsize // (1 + (dtype.kind == "c")) for dtype in kinds}
    if len(widths - {2}) > 1:  # what is made for products alone has two bytes, and means to
        raise TypeError(f"{name} mixes {' and '.join(sorted(map(str, kinds)))}; give the dtype")


@functools.cache
def _signature(text):
    parameters = []
    for word in text.split(", ") if text else ():
        name = word.strip("*:=")
        if word.startswith("**"):
            kind = inspect.Parameter.VAR_KEYWORD
        elif word.startswith("*"):
            kind = inspect.Parameter.VAR_POSITIONAL
        elif word.startswith(":") or "*" in text.partition(word)[0]:
            kind = inspect.Parameter.KEYWORD_ONLY
        else:
            kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
        default = None if word.endswith("=") else inspect.Parameter.empty
        parameters.append(inspect.Parameter(name, kind, default=default))
    return inspect.Signature(parameters)


def _checked(name, function, text):
    """Wrap a function or method of NumPy that may be called as CuPy's of that name can be."""

    @functools.wraps(function, assigned=("__name__",), updated=())
    def call(*args, _self=None, **kwargs):
        try:
            _signature(text).bind(*args, **kwargs)
        except TypeError as error:
            raise TypeError(f"CuPy's {name}: {error}") from None
        if name in WAITING or (name == "where" and len(args) == 1):
            _wait(name)
        if name in PRODUCTS:
            tape.refuse("CuPy called its own cuBLAS")
        if name in FROM_HOST and not isinstance(args[0], ndarray):
            tape.refuse("numbers were copied from the host")
        if name in FROM_HOST and isinstance(args[0], np.ndarray):
            args = (ndarray(args[0].copy(order="K")), *args[1:])  # a device has its own memory
        values = [_to_host(name, x) for x in args]
        named = {key: _to_host(name, x) for key, x in kwargs.items()}
        result = function(*values, **named)
        asked = "dtype" in kwargs or any(isinstance(x, type | np.dtype) for x in args)
        if not asked and name not in CASTS:
            _same_precision(name, (_self, *args, *kwargs.values()), result)
        out = kwargs.get("out")
        made = out if isinstance(out, ndarray) and result is out.host else _to_device(result)
        tape.record(function, *values, made=_hosts(made), **named)
        return made

    return call


class _Ufunc:
    """A ufunc; CuPy's take no `where`, no lists, and only some have methods."""

    def __init__(self, name):
        self._name, self._function = name, getattr(np, name)
        inputs = ", ".join(f"x{i}" for i in range(self._function.nin))
        self._call = _checked(name, self._function, f"{inputs}, out=, :casting=, :dtype=")

    def __call__(self, *args, **kwargs):
        if any(isinstance(x, list | tuple) for x in args):
            raise TypeError(f"CuPy's {self._name} takes no list; use backend.to_device")
        return self._call(*args, **kwargs)

    def at(self, array, index, values):
        """Add where CuPy can: to integers, and to floats of 32 or 64 bits."""
        if self._name != "add" or array.dtype.kind not in "iuf":
            raise TypeError(f"CuPy's {self._name}.at does not take {array.dtype}")
        _same_precision("add.at", (array, values), None)
        operands = (array.host, _index(index), _to_host("add.at", values))
        self._function.at(*operands)
        tape.record(self._function.at, *operands)


def asnumpy(x):
    """Copy an array to the host, which waits for the device."""
    _wait("asnumpy")
    return x.host.copy()


def get_default_memory_pool():
    """Return the pool that memory comes from if no other is named."""
    return cuda.COMMON


def library(xp, name):
    """Return cuBLAS or cublasLt of this device, for `backend.cublas`."""
    return {"cublas": blas.Library, "cublasLt": blas.LtLibrary}[name](record=tape.record)


def __getattr__(name):
    text = API["functions"].get(name)
    if text is None:
        raise AttributeError(f"CuPy has no {name!r}")
    if text == "value":
        return getattr(np, name)
    made = _Ufunc(name) if text == "ufunc" else _checked(name, getattr(np, name), text)
    globals()[name] = made
    return made


special = SimpleNamespace(erf=_checked("erf", scipy.special.erf, "x, out="))  # cupyx.scipy.special
