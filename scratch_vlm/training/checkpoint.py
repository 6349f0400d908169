"""Checkpoints: safetensors and JSON, replaced as a whole, never pickled."""

import json
import os
import shutil
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import load_file, save_file

from scratch_vlm.backend import namespace, to_device, to_host
from scratch_vlm.tree import leaves, tree_map

VERSION = 1
PARAMETERS, OPTIMIZER, STATE = "parameters.safetensors", "optimizer.safetensors", "state.json"


class CheckpointError(ValueError):
    """A checkpoint is missing, damaged, foreign or of another model; the message says which."""


def save_checkpoint(folder, p, optimizer_state, state):
    """Write a checkpoint and only then remove the one it replaces.

    Parameters
    ----------
    folder : str or path
        Replaced as a whole by ``parameters.safetensors``, ``optimizer.safetensors`` and
        ``state.json``; tensors are keyed by their names, such as ``vit/blocks/0/attn/qkv/w``.
    p : dict
        Parameters, on the host or a device.
    optimizer_state : dict
        Tree of arrays, as `AdamW.state`.
    state : dict
        Anything that JSON can hold: the step, the configuration.

    Raises
    ------
    CheckpointError
        If it cannot be written, or `folder` holds something else, which would be lost. The
        previous checkpoint is intact.

    Notes
    -----
    A new folder is filled beside the old one and forced to disk; two renames swap them. Whenever
    the process dies, one of the two is complete, and `load_checkpoint` finds it.
    """
    folder = Path(folder)
    new, old = _beside(folder)
    text = json.dumps({"version": VERSION, "state": state}, indent=2, allow_nan=False)
    try:
        _refuse_to_replace_others(folder)
        folder.parent.mkdir(parents=True, exist_ok=True)
        remove_leftovers(folder)
        new.mkdir()
        (new / STATE).write_text(text, encoding="utf-8")
        for file, tree in ((PARAMETERS, p), (OPTIMIZER, optimizer_state)):
            save_file({name: _contiguous(x) for name, x in leaves(tree)}, new / file)
            shutil.copymode(new / STATE, new / file)  # safetensors shuts others out
        for path in (*new.iterdir(), new):
            sync(path)
        if folder.exists():
            os.rename(folder, old)
        os.rename(new, folder)
        sync(folder.parent)
        remove_leftovers(folder)
    except (OSError, SafetensorError) as error:
        remove_leftovers(folder)
        raise CheckpointError(
            f"cannot write the checkpoint {folder} ({error}); "
            + ("the previous one is intact" if has_checkpoint(folder) else "there is none yet")
        ) from error


def load_checkpoint(folder):
    """Read the newest complete checkpoint.

    Parameters
    ----------
    folder : str or path
        As given to `save_checkpoint`.

    Returns
    -------
    p, optimizer_state : dict
        Trees of host arrays. A file does not keep the order of a tree: `match` restores it.
    state : dict
        As it was saved.

    Raises
    ------
    CheckpointError
        If there is no checkpoint, or it is damaged or of another version.
    """
    folder = _newest(Path(folder))
    state = _read_state(folder / STATE)
    return _read_tree(folder / PARAMETERS), _read_tree(folder / OPTIMIZER), state


def load_parameters(path, like):
    """Read parameters for a model that exists already.

    Parameters
    ----------
    path : str or path
        A safetensors file, or a checkpoint's folder.
    like : dict
        Parameters of the model.

    Returns
    -------
    dict
        The tree of `like` with the arrays of the file, on the device of `like`.

    Raises
    ------
    CheckpointError
        If the file is missing, damaged or foreign, or differs from `like`: all names that are
        missing, unexpected or of another shape or dtype are listed.
    """
    path = _newest(Path(path))
    path = path / PARAMETERS if path.is_dir() else path
    return match(_read_tree(path), like, path)


def match(p, like, source):
    """Give parameters the order and the device of a model's, or list every difference.

    Parameters
    ----------
    p : dict
        Host arrays, as read from a file.
    like : dict
        Parameters of the model.
    source : str or path
        Where `p` comes from, for the message.

    Returns
    -------
    dict
        The tree of `like` with copies of the arrays of `p`.

    Raises
    ------
    CheckpointError
        If names, shapes or dtypes differ.
    """
    found, wanted = dict(leaves(p)), dict(leaves(like))
    have, want = ({n: f"{x.shape} {x.dtype}" for n, x in d.items()} for d in (found, wanted))
    differ = [name for name in want if name in have and have[name] != want[name]]
    problems = (
        [f"missing: {name} {want[name]}" for name in want if name not in have]
        + [f"unexpected: {name} {have[name]}" for name in have if name not in want]
        + [f"differs: {name} is {have[name]}, the model has {want[name]}" for name in differ]
    )
    if problems:
        raise CheckpointError(f"{source} does not fit the model:\n  " + "\n  ".join(problems))
    arrays = iter([found[name] for name in wanted])
    return tree_map(lambda x: to_device(np.array(next(arrays)), namespace(x)), like)


def has_checkpoint(folder):
    """Whether `load_checkpoint` has something to read.

    Parameters
    ----------
    folder : str or path
        As given to `save_checkpoint`.

    Returns
    -------
    bool
    """
    return _newest(Path(folder)).exists()


def remove_leftovers(folder):
    """Tidy up beside a checkpoint after a process that was killed while it wrote one.

    Parameters
    ----------
    folder : str or path
        As given to `save_checkpoint`.
    """
    folder = Path(folder)
    new, old = _beside(folder)
    if _newest(folder) == old:
        os.rename(old, folder)
    for leftover in (new, old):
        shutil.rmtree(leftover, ignore_errors=True)


def sync(path):
    """Wait until a file, or a folder's list of names, is on the disk itself.

    Parameters
    ----------
    path : str or path
        A file or, where the system can do it, a folder.
    """
    if os.name == "nt" and Path(path).is_dir():
        return
    handle = os.open(path, os.O_RDWR if os.name == "nt" else os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _beside(folder):
    return folder.with_name(f".{folder.name}.new"), folder.with_name(f".{folder.name}.old")


def _newest(folder):
    old = _beside(folder)[1]
    return old if old.exists() and not folder.exists() else folder


def _refuse_to_replace_others(folder):
    if folder.exists() and not folder.is_dir():
        raise CheckpointError(f"{folder} is a file; a checkpoint is a folder")
    if folder.exists() and not (folder / STATE).exists() and any(folder.iterdir()):
        raise CheckpointError(
            f"{folder} is not a checkpoint, and replacing it would lose "
            f"{min(folder.iterdir()).name}; give a folder of its own"
        )


def _contiguous(x):
    return np.asarray(to_host(x), order="C")


def _read_state(path):
    if not path.parent.is_dir():
        raise CheckpointError(f"there is no checkpoint folder {path.parent}")
    if not path.exists():
        raise CheckpointError(f"{path.parent} is not a checkpoint: it has no {path.name}")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise CheckpointError(f"{path} is damaged: {error}") from error
    if not isinstance(content, dict) or not {"version", "state"} <= content.keys():
        raise CheckpointError(f"{path} is not the state of a checkpoint: no version, no state")
    if content["version"] != VERSION:
        raise CheckpointError(
            f"{path} has version {content['version']}; this scratch_vlm reads version {VERSION}"
        )
    return content["state"]


def _read_tree(path):
    if not path.is_file():
        raise CheckpointError(f"there is no file {path}")
    with path.open("rb") as file:
        head = file.read(9)
    # A safetensors file is the length of its header in eight bytes, then a JSON object.
    if len(head) == 9 and head[8:] != b"{":
        kind = "; it looks like a pickle or a PyTorch file" if head[:2] in _PICKLES else ""
        raise CheckpointError(
            f"{path} is not a safetensors file{kind}. Nothing else is opened, because unpickling "
            "can run any code; convert the file with the safetensors library where you trust it"
        )
    try:
        with safe_open(path, "numpy") as file:
            formats = {file.get_slice(name).get_dtype() for name in file.keys()}  # noqa: SIM118
        if "BF16" in formats:
            raise CheckpointError(
                f"{path} holds bfloat16, which NumPy lacks; convert it to float32"
            )
        return _nested(load_file(path))
    except (SafetensorError, TypeError, KeyError, AttributeError) as error:
        raise CheckpointError(f"{path} is truncated or damaged: {error}") from error


_PICKLES = {b"PK", *(bytes((0x80, protocol)) for protocol in range(2, 6))}  # PK: a ZIP archive


def _nested(flat):
    tree = {}
    for name, x in flat.items():
        *path, last = name.split("/")
        branch = tree
        for key in path:
            branch = branch.setdefault(key, {})
        branch[last] = np.array(x)
    return tree
