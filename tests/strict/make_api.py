"""Write api.json: every name of CuPy, with the arguments it takes; needs CuPy but no GPU.

Run it with a new CuPy installed::

    python tests/strict/make_api.py

A function is described by its signature, with an ``=`` behind what may be left out; a ufunc by
the word ``ufunc``, anything else by ``value``. What is written in Cython has its signature in the
first line of the docstring alone. Of `cupy.cuda` there are names only, behind each class and module
those in it.
"""

import inspect
import json
import types
from pathlib import Path

import cupy

API = Path(__file__).with_name("api.json")


def signature(name, function):
    """Write the parameters of a function."""
    try:
        names = map(spell, inspect.signature(function).parameters.values())
        return ", ".join(name for name in names if name != "self")
    except ValueError:
        line = (function.__doc__ or "").partition("\n")[0].partition(" -> ")[0]
    if f"{name}(" not in line:
        return "*args, **kwargs"
    parts = line.partition(f"{name}(")[2].rpartition(")")[0].split(", ")
    names = [part.partition("=")[0].split()[-1] + "=" * ("=" in part) for part in parts if part]
    return ", ".join(name for name in names if name not in ("self", "*"))


def spell(parameter):
    """Write one: ``a``, ``axis=``, ``:dtype=`` by keyword only, ``*args`` or ``**kwargs``."""
    kind = {"KEYWORD_ONLY": ":", "VAR_POSITIONAL": "*", "VAR_KEYWORD": "**"}
    optional = "=" * (parameter.default is not parameter.empty)
    return kind.get(parameter.kind.name, "") + parameter.name + optional


def describe(name, x):
    """Describe what a name of the module stands for."""
    if isinstance(x, cupy.ufunc):
        return "ufunc"
    if callable(x) and not isinstance(x, type):
        return signature(name, x)
    return "value"


def describe_cuda():
    """Name what is in the part of CuPy that speaks to CUDA, and what is in that."""
    found = {name: x for name, x in vars(cupy.cuda).items() if name[0] != "_" and callable(x)}
    inner = {name: dir(x) if isinstance(x, type) else () for name, x in found.items()}
    inner["runtime"] = [n for n, x in vars(cupy.cuda.runtime).items() if callable(x)]
    return {name: " ".join(sorted(n for n in inner[name] if n[0] != "_")) for name in sorted(inner)}


def describe_all():
    """Describe the module and its array."""
    names = {n: getattr(cupy, n) for n in dir(cupy) if not n.startswith("_")}
    members = {n: getattr(cupy.ndarray, n) for n in dir(cupy.ndarray) if not n.startswith("_")}
    functions = {n: describe(n, x) for n, x in names.items() if not isinstance(x, types.ModuleType)}
    return {
        "cupy": cupy.__version__,
        "functions": functions,
        "methods": {n: signature(n, x) for n, x in members.items() if callable(x)},
        "cuda": describe_cuda(),
        "attributes": [n for n, x in members.items() if not callable(x)],
    }


if __name__ == "__main__":
    API.write_text(json.dumps(describe_all(), indent=1) + "\n", encoding="utf-8")
    print(f"wrote the names of CuPy {cupy.__version__} to {API}")
