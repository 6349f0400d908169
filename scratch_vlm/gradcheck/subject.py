"""What is checked, whatever it looks like, becomes two functions of named arrays."""

import copy
import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from scratch_vlm.backend import namespace, to_device, to_host
from scratch_vlm.gradcheck.report import Fault
from scratch_vlm.tree import leaves


class Broken(Exception):
    """The pair is so wrong that there are no numbers to compare.

    Parameters
    ----------
    kind, message : str
        Of the fault.
    """

    def __init__(self, kind, message):
        super().__init__(message)
        self.fault = Fault(kind, message)


@dataclass(frozen=True)
class Subject:
    """A pair with the point at which it is judged.

    Attributes
    ----------
    forward, backward : callable
        Of the project's contract.
    inputs : tuple
        Arrays, or trees of arrays.
    p : dict or None
        Parameters.
    options : callable
        Makes the keyword arguments of one call of the forward.
    wanted : tuple of int
        Which inputs have a gradient.
    own_state : bool
        Whether the forward keeps what the backward needs on an object, which then cannot be
        called again in between.
    has_cotangent : bool
        Whether the backward is given dy; a function that returns its own gradient is not.
    """

    forward: Callable
    backward: Callable
    inputs: tuple
    p: dict | None
    options: Callable
    wanted: tuple[int, ...]
    own_state: bool = False
    has_cotangent: bool = True

    @property
    def given(self):
        """Every array that the forward is called with, by its name."""
        return {
            name: array_of(x)
            for tree, label in self._trees()
            for name, x in leaves(tree, label)
            if _is_number(x)
        }

    @property
    def targets(self):
        """Names of the arrays that have a gradient, and whether each is an input or a parameter."""
        labels = {f"input {i}": "input" for i in self.wanted}
        kinds = [(t, label, labels.get(label)) for t, label in self._trees()[: len(self.inputs)]]
        kinds += [(self.p, "", "parameter")]
        return {
            name: kind
            for tree, label, kind in kinds
            if kind
            for name, x in leaves(tree, label)
            if _is_number(x) and array_of(x).dtype.kind == "f"
        }

    def run(self, point):
        """Call the forward.

        Parameters
        ----------
        point : dict of str to array
            Every array, by the names of `given`.

        Returns
        -------
        y : array or tuple of array
        saved : object

        Raises
        ------
        TypeError
            If the forward does not return two things.
        """
        *inputs, p = (_filled(tree, label, point) for tree, label in self._trees())
        result = self.forward(*inputs, *([] if self.p is None else [p]), **self.options())
        if not isinstance(result, tuple) or len(result) != 2:
            raise TypeError(f"the forward must return (y, saved), got {type(result).__name__}")
        return result

    def pull(self, dy, saved, point, start=None):
        """Call the backward.

        Parameters
        ----------
        dy : array or tuple of array
            The cotangent.
        saved : object
            As `run` returned it.
        point : dict of str to array
            What `run` was called with.
        start : dict of str to array, optional
            What the gradients of the parameters are added to; default zeros.

        Returns
        -------
        dict of str to array
            The gradients by name. None where the backward returned that.

        Raises
        ------
        Broken
            If the number of gradients is wrong, or a tree of gradients has other keys.
        """
        if self.p is None:
            raw, g = self.backward(dy, saved), {}
        else:
            xs = dict(point)
            for name in dict(leaves(self.p)):
                xs[name] = namespace(xs[name]).zeros_like(xs[name])
                if start is not None:
                    xs[name][...] = start[name]
            g = _filled(self.p, "", xs)
            try:
                raw = self.backward(dy, saved, g)
            except ValueError as error:
                if "output operand" not in str(error):
                    raise
                message = f"the backward adds a gradient of another shape: {error}"
                hint = "a sum over the broadcast axes is missing before the +="
                raise Broken("shape", f"{message}; {hint}") from error
        return self._by_name(raw) | {name: g_ for name, g_ in leaves(g) if name in self.targets}

    def _by_name(self, raw):
        count = len(self.wanted)
        if raw is None and count:
            inputs = "input" if count == 1 else "inputs"
            raise Broken("none", f"the backward returned None for {count} floating point {inputs}")
        given = () if raw is None else tuple(raw) if isinstance(raw, tuple | list) else (raw,)
        if len(given) != count:
            gradients = "1 gradient" if len(given) == 1 else f"{len(given)} gradients"
            inputs = "input" if count == 1 else "inputs"
            message = f"the backward returned {gradients} for {count} floating point {inputs}"
            hint = "" if self.has_cotangent else "; say with wrt which inputs have one"
            if len(given) == len(self.inputs):
                others = (i for i in range(len(given)) if i not in self.wanted)
                kinds = ((i, getattr(self.inputs[i], "dtype", None)) for i in others)
                hint += "".join(f"; input {i} holds {dtype}" for i, dtype in kinds if dtype)
            raise Broken("count", message + hint)
        found = {}
        for i, gradient in zip(self.wanted, given, strict=True):
            label = f"input {i}"
            own = [name for name, _ in leaves(self.inputs[i], label) if name in self.targets]
            parts = {label: None} if gradient is None else dict(leaves(gradient, label))
            missing = sorted(set(own) - set(parts))
            if missing and gradient is not None:
                said = f"the backward returned no gradient for {missing[0]}"
                if set(parts) == {label}:
                    kind = type(self.inputs[i]).__name__
                    said += f" but one array; {label} is a {kind}: make an array of it"
                raise Broken("count", said)
            found |= {name: parts.get(name) for name in own}
        return found

    def _trees(self):
        return [(x, f"input {i}") for i, x in enumerate(self.inputs)] + [(self.p, "")]


def make_subject(forward, backward, inputs, p, options, wrt):
    """Turn what a user gave into a `Subject`.

    Parameters
    ----------
    forward, backward, inputs, p, options, wrt
        As in `measure`.

    Returns
    -------
    Subject

    Raises
    ------
    TypeError
        If it is none of the things that can be checked.
    ValueError
        If `wrt` names an input that is not there, or nothing has a gradient.
    """
    if isinstance(inputs, np.ndarray) or hasattr(inputs, "dtype"):
        raise TypeError("inputs must be a sequence of arrays, got one array; write [x]")
    if inputs is None or not isinstance(inputs, Sequence):
        raise TypeError(
            f"inputs must be a sequence of arrays, got {type(inputs).__name__}; "
            "to check a function or an object that is its own backward, write inputs=[x]"
        )
    inputs = tuple(inputs)
    state, own_state, has_cotangent = p, False, True
    if backward is None and _has_both(forward):
        if inspect.isclass(forward):
            raise TypeError(f"{forward.__name__} is a class; give an object of it")
        layer = Stateful(forward)
        forward, backward, own_state = layer.forward, layer.backward, True
        state = layer.parameters
    elif backward is None and p is not None:
        raise TypeError("a function checked alone takes no p; give a forward and a backward")
    elif backward is None:
        backward, has_cotangent = _scale_gradient, False
    for f, name in ((forward, "forward"), (backward, "backward")):
        if not callable(f):
            raise TypeError(f"the {name} must be callable, got {type(f).__name__}; inputs=[x]?")
    floats = [
        i
        for i, x in enumerate(inputs)
        if any(_is_number(leaf) and array_of(leaf).dtype.kind == "f" for _, leaf in leaves(x))
    ]
    if wrt is not None and not set(wrt) <= set(floats):
        raise ValueError(f"wrt is {tuple(wrt)}; floating point inputs are {tuple(floats)}")
    make = options if callable(options) else lambda: dict(options or {})
    wanted = tuple(floats if wrt is None else wrt)
    subject = Subject(forward, backward, inputs, state, make, wanted, own_state, has_cotangent)
    for name, x in subject.given.items():
        if x.dtype.kind == "c":
            raise TypeError(f"{name} is complex; real functions of real arrays are checked")
    if not subject.targets:
        raise ValueError(
            "there is no gradient to check: no input or parameter holds floating point numbers"
        )
    return subject


def _scale_gradient(dy, gradient):
    # The backward of a function that returned its gradient beside its value.
    if np.ndim(dy):
        raise TypeError(
            f"a function checked alone must return one number and its gradient, got a value of "
            f"shape {np.shape(dy)}; give a forward and a backward"
        )
    return _scaled(gradient, dy)


def _scaled(tree, factor):
    if isinstance(tree, dict):
        return {name: _scaled(branch, factor) for name, branch in tree.items()}
    if isinstance(tree, tuple | list):
        return type(tree)(_scaled(branch, factor) for branch in tree)
    return None if tree is None else tree * factor


def _has_both(thing):
    return hasattr(thing, "forward") and hasattr(thing, "backward")


class Stateful:
    """Gives an object that keeps its own state the two functions of the contract.

    Parameters
    ----------
    layer : object
        Copied. With methods ``forward(*inputs)`` and ``backward(dy)``; perhaps with ``params``
        and ``grads``, dicts or lists of arrays beside each other.
    """

    def __init__(self, layer):
        self.layer = copy.deepcopy(layer)
        self.parameters = None
        if getattr(layer, "params", None):
            if not hasattr(layer, "grads"):
                raise TypeError(f"{type(layer).__name__} has params but no grads beside them")
            self.parameters = {self._name(k): x for k, x in _items(layer.params)}

    def forward(self, *inputs_and_p):
        """Put the parameters in place and run the method."""
        if self.parameters is None:
            return self.layer.forward(*inputs_and_p), None
        *inputs, p = inputs_and_p
        for key, _ in list(_items(self.layer.params)):
            self.layer.params[key] = p[self._name(key)]
        return self.layer.forward(*inputs), None

    def backward(self, dy, saved, g=None):
        """Run the method from gradients of zero, and take what it left."""
        if g is not None:
            for key, x in list(_items(self.layer.grads)):
                if hasattr(x, "shape"):
                    self.layer.grads[key] = np.zeros_like(x)
        dx = self.layer.backward(dy)
        for key, x in _items(self.layer.grads) if g is not None else ():
            name = self._name(key)
            if name not in g:
                raise Broken("count", f"grads has {key!r}, which params has not")
            g[name] = x
        return dx

    def _name(self, key):
        return key if isinstance(key, str) else f"params[{key}]"


def _items(container):
    return container.items() if isinstance(container, dict) else enumerate(container)


def array_of(x):
    """Return an array as it is, and a number as an array of no axes.

    Parameters
    ----------
    x : array or float or int or bool

    Returns
    -------
    array
    """
    return x if hasattr(x, "dtype") and hasattr(x, "shape") else np.asarray(x)


def _is_number(x):
    return hasattr(x, "dtype") or isinstance(x, int | float | complex)


def _filled(tree, label, arrays):
    # The tree with other arrays in it, taken by their names.
    if isinstance(tree, dict):
        return {k: _filled(v, _join(label, k), arrays) for k, v in tree.items()}
    if isinstance(tree, tuple | list):
        return type(tree)(_filled(v, _join(label, i), arrays) for i, v in enumerate(tree))
    return arrays.get(label, tree)


def _join(label, key):
    return f"{label}/{key}" if label else str(key)


def parts_of(y):
    """Return the outputs of a forward as a tuple.

    Parameters
    ----------
    y : array or sequence of array

    Returns
    -------
    tuple of array
    """
    return tuple(y) if isinstance(y, tuple | list) else (y,)


def host(x):
    """Return an array or a number as a NumPy array.

    Parameters
    ----------
    x : array or number

    Returns
    -------
    numpy.ndarray
    """
    return np.asarray(x) if isinstance(x, float | int | complex) else np.asarray(to_host(x))


def beside(x, other):
    """Put an array of the host where another array lives.

    Parameters
    ----------
    x : numpy.ndarray
    other : array or number

    Returns
    -------
    array
    """
    return x if not hasattr(other, "dtype") else to_device(x, namespace(other))
