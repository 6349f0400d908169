"""Every pair of the library, found by its name, and judged with a random case."""

import importlib
import inspect
import pkgutil
from collections.abc import Callable
from dataclasses import dataclass, fields

import numpy as np

import scratch_vlm
from scratch_vlm.cases.case import Sizes
from scratch_vlm.cases.draw import CASES, WHOLE_MODELS
from scratch_vlm.gradcheck import check, measure

PACKAGES = ("ops", "layers", "models")


@dataclass(frozen=True)
class Pair:
    """A forward and its backward, found by name.

    Attributes
    ----------
    name : str
        Module and function, such as ``"layers.linear.linear"``.
    forward, backward : callable
        The two functions.
    """

    name: str
    forward: Callable
    backward: Callable


def find_pairs():
    """Find every pair of the library.

    Returns
    -------
    dict of str to Pair
        In the order of packages and names.

    Raises
    ------
    LookupError
        If a forward has no backward or the reverse, or a pair has no case.
    """
    pairs = {}
    for package in PACKAGES:
        folder = importlib.import_module(f"{scratch_vlm.__name__}.{package}")
        for info in pkgutil.iter_modules(folder.__path__):
            module = importlib.import_module(f"{folder.__name__}.{info.name}")
            own = {
                name: f
                for name, f in inspect.getmembers(module, inspect.isfunction)
                if f.__module__ == module.__name__ and not name.startswith("_")
            }
            stems = {n.rpartition("_")[0] for n in own if n.endswith(("_forward", "_backward"))}
            for stem in sorted(stems):
                name = f"{package}.{info.name}.{stem}"
                missing = {f"{stem}_forward", f"{stem}_backward"} - set(own)
                if missing:
                    raise LookupError(f"{name} has no {missing.pop()}")
                pairs[name] = Pair(name, own[f"{stem}_forward"], own[f"{stem}_backward"])
    without = sorted(set(pairs) - set(CASES))
    if without:
        raise LookupError(f"no case in scratch_vlm.cases.draw for {', '.join(without)}")
    unknown = sorted(set(CASES) - set(pairs))
    if unknown:
        raise LookupError(f"a case in scratch_vlm.cases.draw but no pair for {', '.join(unknown)}")
    return pairs


def whole_models():
    """List the models that are checked once more with all that can be built into them.

    Returns
    -------
    dict of str to Pair
        Such as ``"models.clip.clip + LoRA"``.
    """
    pairs = find_pairs()
    return {
        name: Pair(name, pairs[stem].forward, pairs[stem].backward)
        for name, (stem, _) in WHOLE_MODELS.items()
    }


def make_case(name, rng, sizes=None):
    """Draw a case for a pair.

    Parameters
    ----------
    name : str
        A key of `find_pairs` or `whole_models`.
    rng : numpy.random.Generator
        Draws the numbers, and which variant of the pair is called.
    sizes : Sizes, optional
        Axis lengths; by default ones that differ within every array, which tell axes apart.

    Returns
    -------
    Case
    """
    make = WHOLE_MODELS[name][1] if name in WHOLE_MODELS else CASES[name]
    return make(rng, sizes or Sizes())


def measure_case(pair, seed, sizes=None, *, dtype="float64", xp=np, **settings):
    """Judge a pair of the library with a random case.

    Parameters
    ----------
    pair : Pair or str
        One of `find_pairs` or `whole_models`, or its name.
    seed : int or sequence of int
        Of the case, the cotangent and the directions.
    sizes : Sizes, optional
        Axis lengths.
    dtype : {"float64", "float32"}
        What the gradients are computed in. Slopes are compared in float64 in any case.
    xp : module, default numpy
        Where the arrays live: `numpy` or `cupy`.
    **settings
        Of `gradcheck.measure`.

    Returns
    -------
    gradcheck.Report
    """
    return _judge_case(measure, pair, seed, sizes, dtype, xp, settings)


def check_case(pair, seed, sizes=None, *, dtype="float64", xp=np, **settings):
    """Judge a pair of the library with a random case, and raise if it is wrong.

    Parameters
    ----------
    pair, seed, sizes, dtype, xp, **settings
        As in `measure_case`.

    Returns
    -------
    gradcheck.Report

    Raises
    ------
    gradcheck.GradientError
        If it is wrong; the note at its end is a snippet that shows it again.

    Examples
    --------
    >>> check_case("layers.linear.linear", 0, Sizes(B=1, T=2)).passed
    True
    """
    try:
        return _judge_case(check, pair, seed, sizes, dtype, xp, settings)
    except Exception as error:
        name = pair if isinstance(pair, str) else pair.name
        error.add_note(f"\nTo see it again:\n\n{snippet(name, seed, sizes, dtype=dtype)}")
        raise


def snippet(name, seed, sizes=None, *, dtype="float64"):
    """Write the lines that judge a case again.

    Parameters
    ----------
    name, seed, sizes, dtype
        As in `measure_case`.

    Returns
    -------
    str
    """
    different = [
        f"{f.name}={getattr(sizes, f.name)}"
        for f in fields(Sizes)
        if sizes and getattr(sizes, f.name) != f.default
    ]
    arguments = [repr(name), str(seed)] + [f"Sizes({', '.join(different)})"] * bool(different)
    arguments += [f"dtype={dtype!r}"] * (dtype != "float64")
    needed = "Sizes, check_case" if different else "check_case"
    return (
        f"    from scratch_vlm.cases import {needed}\n    print(check_case({', '.join(arguments)}))"
    )


def _judge_case(judge, pair, seed, sizes, dtype, xp, settings):
    if isinstance(pair, str):
        pair = (whole_models() if pair in WHOLE_MODELS else find_pairs())[pair]
    rng = np.random.default_rng(seed)
    case = make_case(pair.name, rng, sizes).astype(dtype).to(xp)
    settings = {"options": case.fresh_options, "rng": rng, **settings}
    return judge(pair.forward, pair.backward, case.inputs, case.p, **settings)
