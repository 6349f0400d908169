"""A case: what a published implementation was given, and everything that it computed from it.

A folder holds a model as its library saves it, ``inputs.npz``, ``expected.npz`` and ``case.json``.
Our results go by the same names: ``out/logits``, ``tap/embeddings``, ``loss``, ``grad/`` and a
name of the file, ``input_grad/pixel_values``, ``gen/sequences``.
"""

import re
import zipfile
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from scratch_vlm.pretrained.tensors import FileError, read_json

GROUPS = ("outputs", "inside", "loss", "parameters", "inputs", "generation")
INSIDE = re.compile(r"tap/|out/(.*\.)?(hidden_states|attentions|cross_attentions)\.")


@dataclass(frozen=True)
class Case:
    """What a reference was given and computed.

    Attributes
    ----------
    folder : Path
        Where it is.
    info : dict
        ``case.json``.
    inputs, expected : dict of str to array
        What went in and came out.
    dtype : str
        That floating point inputs were turned into.
    """

    folder: Path
    info: dict = field(repr=False)
    inputs: dict = field(repr=False)
    expected: dict = field(repr=False)
    dtype: str = "float64"

    @property
    def kind(self):
        """Name of the reference's class."""
        return self.info.get("class", "").rpartition(".")[2] or self.info.get("case", "")

    def flag(self, name, default=None):
        """Return a literal keyword argument of the reference's call, as text."""
        found = re.search(rf"\b{name}=([^,)]+)", self.info.get("call", ""))
        return found[1] if found else default

    def get(self, name):
        """Return an input, or None where the reference had none."""
        return self.inputs.get(name)

    def probes(self):
        """Return the cotangents of outputs whose weighted sum is the loss, by their names."""
        return {
            name.removeprefix("probe/"): x
            for name, x in self.inputs.items()
            if name.startswith("probe/")
        }

    def generation(self):
        """Return what the reference's generation was given, by its names."""
        return {
            name.removeprefix("gen/"): x
            for name, x in self.inputs.items()
            if name.startswith("gen/")
        }


def read_case(folder, *, dtype="float64"):
    """Read the folder of a case.

    Parameters
    ----------
    folder : str or path
        The folder.
    dtype : {"float64", "float32"}, default "float64"
        Of floating point inputs.

    Returns
    -------
    Case

    Raises
    ------
    FileError
        If it is no such folder, or damaged.
    """
    folder = Path(folder)
    if not (folder / "case.json").exists():
        inside = [path.parent.name for path in folder.glob("*/case.json")]
        more = f"; it holds {len(inside)}: give {folder / '*'}" if inside else ""
        raise FileError(f"{folder} is no case, which is a folder with a case.json{more}")
    return Case(
        folder,
        read_json(folder / "case.json"),
        read_arrays(folder / "inputs.npz", dtype),
        read_arrays(folder / "expected.npz"),
        dtype,
    )


@dataclass(frozen=True)
class Row:
    """How far one of our arrays is from the reference's.

    Attributes
    ----------
    name : str
        Of the array.
    error : float
        Length of the difference over the length of the reference's array; of those that are zero
        by symmetry, over the largest gradient of the case. Infinite where there is none of ours.
    """

    name: str
    error: float

    @property
    def group(self):
        """Which of ``GROUPS`` it belongs to."""
        if re.match(r"(\w+/)?grad/", self.name):
            return "parameters"
        if self.name.startswith("input_grad/"):
            return "inputs"
        if self.name.startswith("gen/"):
            return "generation"
        if self.name in ("loss", "out/loss"):
            return "loss"
        return "inside" if INSIDE.match(self.name) else "outputs"


def compare(case, found, left_out=()):
    """Compare what we computed with what the reference did.

    Parameters
    ----------
    case : Case
        The case.
    found : dict of str to array
        Our arrays, by the reference's names.
    left_out : sequence of str, optional
        Names, or what stands before them and a slash, of arrays that are not compared.

    Returns
    -------
    rows : list of Row
        One for each of the reference's arrays but the gradients of activations (``act_grad/``),
        which tell where a gradient goes wrong and nothing that the others do not.
    """
    gradients = case.info.get("gradients", {})
    zero = {
        f"grad/{name}"
        for key in ("zero_by_symmetry", "unused_parameters")
        for name in gradients.get(key, ())
    }
    floor = gradients.get("largest_abs", 1.0)
    rows = []
    for name, right in case.expected.items():
        if name.startswith("act_grad/") or name in left_out or name.split("/")[0] in left_out:
            continue
        rows.append(Row(name, _error(found.get(name), right, floor if name in zero else None)))
    return rows


def worst(rows):
    """Find the largest error.

    Parameters
    ----------
    rows : list of Row
        As `compare` returns them.

    Returns
    -------
    float
        Infinite where there is none of ours.
    """
    return max((row.error for row in rows), default=0.0)


def _error(ours, right, floor):
    if ours is None or np.shape(ours) != right.shape:
        return float("inf")
    if right.dtype.kind != "f":
        return float((np.asarray(ours) != right).mean()) if right.size else 0.0
    difference = np.asarray(ours, float) - right
    if not np.isfinite(difference).all():
        return float("inf")
    if floor is not None:
        return float(np.abs(difference).max(initial=0) / floor)
    length = np.linalg.norm(right)
    return float(np.linalg.norm(difference) / (length if length else 1.0))


def read_arrays(path, dtype=None):
    """Read a file of arrays.

    Parameters
    ----------
    path : Path
        An .npz file, in which nothing is executed.
    dtype : str, optional
        That floating point arrays are turned into. Default as they are.

    Returns
    -------
    dict of str to array

    Raises
    ------
    FileError
        If it is missing or damaged.
    """
    try:
        with path.open("rb") as opened, np.load(opened, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise FileError(f"cannot read {path}: {error}") from error
    if dtype is None:
        return arrays
    return {n: x.astype(dtype) if x.dtype.kind == "f" else x for n, x in arrays.items()}
