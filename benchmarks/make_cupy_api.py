"""Write the list of what CuPy has, which the strict backend goes by: cupy_api.json.

    python -m pip install cupy-cuda13x && python benchmarks/make_cupy_api.py

CuPy describes itself; no GPU is needed. Not kept are modules within it, such as ``cupy.linalg``,
and names beginning with an underscore. For every function and method the list has the names of its
parameters, null where CuPy does not say them.
"""

import inspect
import json
import re
import types
import warnings
from pathlib import Path

import cupy

FILE = Path(__file__).parents[1] / "scratch_vlm" / "backend" / "cupy_api.json"


def parameters(function):
    """Names of the parameters; those of a compiled method are in the first line of its help."""
    try:
        names = list(inspect.signature(function).parameters)
    except (TypeError, ValueError):
        found = re.match(r"\w+\.\w+\((.*)\)", (function.__doc__ or "").partition("\n")[0])
        if not found:
            return None
        names = [part.partition("=")[0].split()[-1] for part in found[1].split(", ")]
    return [name.lstrip("*") for name in names if name != "self"]


def public(owner):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # some names are on their way out
        for name in dir(owner):
            if not name.startswith("_"):
                yield name, getattr(owner, name)


def main():
    api = {"cupy": cupy.__version__, "ufuncs": [], "functions": {}, "values": []}
    for name, value in public(cupy):
        if isinstance(value, cupy.ufunc):
            api["ufuncs"].append(name)
        elif callable(value) and not isinstance(value, type):
            api["functions"][name] = parameters(value)
        elif not isinstance(value, types.ModuleType):
            api["values"].append(name)
    members = dict(public(cupy.ndarray))
    api["methods"] = {name: parameters(f) for name, f in members.items() if callable(f)}
    api["attributes"] = [name for name, f in members.items() if not callable(f)]
    text = json.dumps(api, indent=1)
    text = re.sub(r"\[[^\]{}]*\]", lambda found: " ".join(found[0].split()), text)
    FILE.write_text(text + "\n", encoding="utf-8")
    print(f"{FILE}: CuPy {cupy.__version__}, {sum(map(len, api.values()))} names")


if __name__ == "__main__":
    main()
