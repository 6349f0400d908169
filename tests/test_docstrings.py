"""The shapes written in docstrings, bound to the arrays of real calls."""

import inspect
import re

import numpy as np
import pytest

from scratch_vlm.cases import find_pairs, make_case
from scratch_vlm.tree import zeros_like

PAIRS = find_pairs()
SECTIONS = re.compile(r"\n\n *(\w[\w ]*)\n *-{3,}\n")
FIELD = re.compile(r"^ *(\w+(?:, \w+)*) : (.*?)(?:, optional)?$", re.M)
SHAPE = re.compile(r"of shape \(([^)]*)\)")


def documented_shapes(function, section):
    """Return {name: letters} of the fields of a numpydoc section that state one shape."""
    text = inspect.getdoc(function)
    parts = SECTIONS.split("\n\n" + text)
    body = dict(zip(parts[1::2], parts[2::2], strict=True)).get(section, "")
    shapes = {}
    for names, description in FIELD.findall("\n" + body):
        found = SHAPE.findall(description)
        if len(found) == 1:  # "(V, E) or (B, V, E)" says two
            for name in names.split(", "):
                shapes[name] = tuple(filter(None, re.split(r", *", found[0])))
    return shapes


def bind(letters, shape, known, name):
    """Agree the letters of one documented shape with an array's, or fail."""
    letters, shape = list(letters), list(shape)
    if letters and letters[0] == "...":
        leading = len(shape) - len(letters) + 1
        assert leading >= 0, f"{name}: {shape} has fewer axes than {letters}"
        shape = [tuple(shape[:leading]), *shape[leading:]]
    assert len(letters) == len(shape), f"{name}: {letters} documented, {shape} given"
    for letter, length in zip(letters, shape, strict=True):
        if letter.isdigit():
            assert int(letter) == length, f"{name}: {letters} documented, {shape} given"
        else:
            before = known.setdefault(letter, length)
            assert before == length, f"{name}: {letter} is {before} and {length}"


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("name", PAIRS)
def test_documented_shapes_are_those_of_a_call(name, seed):
    pair = PAIRS[name]
    rng = np.random.default_rng(seed)
    case = make_case(name, rng)
    arguments = case.inputs if case.p is None else (*case.inputs, case.p)
    options = case.fresh_options()
    y, saved = pair.forward(*arguments, **options)
    given = dict(inspect.signature(pair.forward).bind(*arguments, **options).arguments)

    known = {}
    inputs = documented_shapes(pair.forward, "Parameters")
    for argument, letters in inputs.items():
        if isinstance(given.get(argument), np.ndarray):
            bind(letters, given[argument].shape, known, argument)
    outputs = documented_shapes(pair.forward, "Returns")
    first = next(iter(outputs))
    bind(outputs[first], np.shape(y), known, first)

    dy = rng.standard_normal(np.shape(y))
    grads = () if case.p is None else (zeros_like(case.p),)
    dx = pair.backward(dy, saved, *grads)
    given_back = () if dx is None else dx if isinstance(dx, tuple) else (dx,)
    returned = documented_shapes(pair.backward, "Returns")
    assert len(returned) == len(given_back)
    dy_name = next(iter(documented_shapes(pair.backward, "Parameters")), None)
    if dy_name:
        letters = documented_shapes(pair.backward, "Parameters")[dy_name]
        bind(letters, np.shape(dy), known, dy_name)
    for (argument, letters), array in zip(returned.items(), given_back, strict=True):
        bind(letters, array.shape, known, argument)


def public_functions():
    import importlib
    import pkgutil

    import scratch_vlm

    for info in pkgutil.walk_packages(scratch_vlm.__path__, "scratch_vlm."):
        if info.name.endswith("__main__"):
            continue
        try:
            module = importlib.import_module(info.name)
        except ModuleNotFoundError as error:
            if error.name != "torch":  # which the benchmark compares with where it is there
                raise
            continue
        for name, f in inspect.getmembers(module, inspect.isfunction):
            if f.__module__ == module.__name__ and not name.startswith("_"):
                yield pytest.param(f, id=f"{info.name.removeprefix('scratch_vlm.')}.{name}")


@pytest.mark.parametrize("function", list(public_functions()))
def test_docstring_describes_every_parameter(function):
    text = inspect.getdoc(function)
    assert text, "no docstring"
    parts = SECTIONS.split("\n\n" + text)
    sections = dict(zip(parts[1::2], parts[2::2], strict=True))
    described = re.findall(
        r"^(\*{0,2}\w+(?:, \*{0,2}\w+)*) *(?::|$)", sections.get("Parameters", ""), re.M
    )
    described = {name.lstrip("*") for names in described for name in names.split(", ")}
    parameters = set(inspect.signature(function).parameters)
    assert parameters <= described, f"undescribed: {parameters - described}"
    assert described <= parameters, f"described but not there: {described - parameters}"
