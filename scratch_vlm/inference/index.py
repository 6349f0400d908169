"""An index of a folder of images: their embeddings in a file, kept up to date.

Of each image the file remembers the size and the time of its last change; what changed is embedded
again, what is gone is left out. Embeddings of another model are never mixed in.
"""

import hashlib
import os
import zipfile
from pathlib import Path
from typing import NamedTuple

import numpy as np

from scratch_vlm.pretrained.tensors import replacing

ENDINGS = {".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"}
OFTEN = 64  # images between two times that the index is written


class Index(NamedTuple):
    """Images and their embeddings.

    Attributes
    ----------
    names : list of str
        Paths within the folder.
    embeddings : array of shape (N, E)
        Unit vectors.
    new : int
        How many were embedded now.
    skipped : dict of str to str
        Files that could not be read, and why.
    """

    names: list
    embeddings: np.ndarray
    new: int
    skipped: dict


def index_file(folder, model):
    """Say where the index of a folder is kept, for a model.

    Parameters
    ----------
    folder : str or path
        Of images.
    model : str or path
        Folder of the model.

    Returns
    -------
    path
        In ``$XDG_CACHE_HOME/scratch-vlm``, by default ``~/.cache/scratch-vlm``.
    """
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    both = f"{Path(folder).resolve()}\0{Path(model).resolve()}"
    return cache / "scratch-vlm" / f"index-{hashlib.sha256(both.encode()).hexdigest()[:16]}.npz"


def model_mark(folder):
    """Tell a model from what it was before it was changed.

    Parameters
    ----------
    folder : str or path
        Of the model.

    Returns
    -------
    str
        Made of names, sizes and times of the files in it.
    """
    files = sorted(path for path in Path(folder).rglob("*") if path.is_file())
    told = [(str(path.relative_to(folder)), *_state(path)) for path in files]
    return hashlib.sha256(repr(told).encode()).hexdigest()


def update_index(folder, file, embed, *, mark="", on_image=None):
    """Bring the index of a folder up to date.

    Parameters
    ----------
    folder : str or path
        With images, also in folders below it; what is hidden is passed over.
    file : str or path
        Of the index; made if it is not there, and replaced as a whole. One that is damaged, or of
        another model, is made anew; a file of anything else is refused.
    embed : callable
        ``embed(path)`` returns the embedding of an image, of shape (E,), or raises ValueError or
        OSError for what is none.
    mark : str, default ""
        Which model `embed` is of, see `model_mark`.
    on_image : callable, optional
        ``on_image(count)`` is called for each image that is looked at, `count` being how many
        there are.

    Returns
    -------
    Index

    Raises
    ------
    FileNotFoundError
        If there is no such folder.
    ValueError
        If no image in it can be read, or `file` is there and is no index.
    """
    folder, file = Path(folder), Path(file)
    if not folder.is_dir():
        raise FileNotFoundError(f"there is no folder {folder}")
    if file.exists() and not _is_index(file):
        raise ValueError(f"{file} is no index, and would be replaced by one; name another file")
    before = _read(file, mark)
    names = sorted(str(path.relative_to(folder)) for path in _images(folder))
    known, skipped, new = {}, {}, 0
    for name in names:
        state = _state(folder / name)
        if name in before and before[name][0] == state:
            known[name] = before[name]
        else:
            try:
                known[name] = state, embed(folder / name)
                new += 1
            except (ValueError, OSError) as error:
                skipped[name] = str(error)
            if new and new % OFTEN == 0:
                _write(file, mark, {**before, **known})
        if on_image:
            on_image(len(names))
    if not known:
        why = f": {next(iter(skipped.values()))}" if skipped else ""
        raise ValueError(f"there is no image in {folder} that can be read{why}")
    if new or known.keys() != before.keys():
        _write(file, mark, known)
    return Index(list(known), np.stack([x for _, x in known.values()]), new, skipped)


def best_matches(index, query, count):
    """Find the images that a text describes best.

    Parameters
    ----------
    index : Index
        Of images.
    query : array of shape (E,)
        Embedding of the text, a unit vector.
    count : int
        Most of them.

    Returns
    -------
    list of (str, float)
        Names and cosines, the best first.
    """
    scores = index.embeddings @ query
    best = np.argsort(-scores, kind="stable")[:count]
    return [(index.names[i], float(scores[i])) for i in best]


def _images(folder):
    for root, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in files:
            path = Path(root, name)
            if path.suffix.lower() in ENDINGS and not name.startswith(".") and path.is_file():
                yield path


def _state(path):
    stat = path.stat()
    return stat.st_mtime_ns, stat.st_size


def _is_index(file):
    # Perhaps cut short: a ZIP archive whose first entry, named behind its header, is the mark.
    if not file.is_file():
        return False
    with file.open("rb") as opened:
        head = opened.read(38)
    return b"PK\x03\x04".startswith(head[:4]) and b"mark.npy".startswith(head[30:])


def _read(file, mark):
    try:
        with file.open("rb") as opened, np.load(opened, allow_pickle=False) as kept:
            if str(kept["mark"]) != mark:
                return {}
            names, states, x = kept["names"], kept["states"].tolist(), kept["embeddings"]
            if not len(names) == len(states) == len(x) or x.ndim != 2:
                return {}
            return {str(n): (tuple(s), e) for n, s, e in zip(names, states, x, strict=True)}
    except (OSError, ValueError, KeyError, EOFError, TypeError, zipfile.BadZipFile):
        return {}


def _write(file, mark, known):
    file.parent.mkdir(parents=True, exist_ok=True)
    with replacing(file) as new:
        np.savez(
            new,
            mark=np.array(mark),
            names=np.array(list(known)),
            states=np.array([state for state, _ in known.values()], np.int64),
            embeddings=np.stack([x for _, x in known.values()]).astype(np.float32),
        )
