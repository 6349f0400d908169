"""The folder that one run writes into."""

import csv
import json
import math
import numbers
import os
import shutil
import tempfile
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from scratch_vlm.training.checkpoint import sync

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

ROOM_FOR_REPORTS = 50 * 2**20  # bytes


class RunFolderError(OSError):
    """A run's folder or a file in it cannot be written; said before any work is lost."""


@dataclass(frozen=True)
class RunFolder:
    """Names of the files of a run.

    Attributes
    ----------
    path : path
        The folder; it need not exist yet.

    Examples
    --------
    >>> RunFolder("runs/clip").curve.as_posix()
    'runs/clip/metrics.csv'
    """

    path: Path

    def __post_init__(self):
        object.__setattr__(self, "path", Path(self.path))

    @property
    def checkpoint(self):
        """The newest checkpoint, a folder."""
        return self.path / "checkpoint"

    @property
    def curve(self):
        """Loss, gradient norm, learning rate and seconds of every step."""
        return self.path / "metrics.csv"

    @property
    def metrics(self):
        """Results of the finished run, written by `write_metrics`."""
        return self.path / "metrics.json"

    @property
    def report(self):
        """The page with the figures."""
        return self.path / "report.html"

    def read_curve(self):
        """Read the curve.

        Returns
        -------
        dict of str to array of shape (n,)
            Its columns by name, a number for each step.
        """
        with self.curve.open(encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file))
        return {name: np.array([float(row[name]) for row in rows]) for name in rows[0]}

    def prepare(self, nbytes=0, *, room=ROOM_FOR_REPORTS):
        """Make the folder and try whether it can be written and has room.

        Parameters
        ----------
        nbytes : int, default 0
            Size of what will be written beside the reports.
        room : int, default 50 MiB
            Size of the reports.

        Raises
        ------
        RunFolderError
            If it cannot be made or written, or the disk is too full.
        """
        for part in (self.path, *self.path.parents):
            if part.exists() and not part.is_dir():
                raise RunFolderError(f"cannot write into {self.path}: {part} is a file")
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=self.path) as probe:
                probe.write(b"can this be written?")
        except OSError as error:
            raise RunFolderError(
                f"cannot write into {self.path} ({error.strerror}); choose another folder"
            ) from error
        free, needed = shutil.disk_usage(self.path).free, nbytes + room
        if free < needed:
            raise RunFolderError(
                f"{self.path} needs {needed / 1e6:.0f} MB and its disk has {free / 1e6:.0f} MB "
                "left; free some or choose another folder"
            )

    @contextmanager
    def alone(self):
        """Keep other trainings out of the folder inside, which must exist.

        Where there are no such locks, on Windows and on some file systems, nothing is kept out.

        Raises
        ------
        RunFolderError
            If another training is in it.
        """
        handle = os.open(self.path, os.O_RDONLY) if fcntl else None
        try:
            if fcntl:
                _lock(handle, self.path)
            yield
        finally:
            if fcntl:
                os.close(handle)  # which ends the lock, as the end of the process would


def _lock(handle, path):
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise RunFolderError(
            f"another process is at work in {path}; wait for it, or choose another folder"
        ) from None
    except OSError:  # a file system without locks
        return


def prepare_file(path):
    """Try whether a small file can be written, before the work whose results it will hold.

    Parameters
    ----------
    path : str or path
        The file; its folder is made.

    Raises
    ------
    RunFolderError
        If it is a folder, or its folder cannot be written.
    """
    path = Path(path)
    if path.is_dir():
        raise RunFolderError(f"cannot write {path}: it is a folder; give the name of a file")
    RunFolder(path.parent).prepare(room=2**20)


def write_json(path, content):
    """Write a JSON file as a whole: readers see the old content or the new, never a part.

    Parameters
    ----------
    path : str or path
        The file.
    content : object
        Anything that JSON can hold; NumPy numbers are written as numbers.

    Raises
    ------
    ValueError
        If a number is not finite, which JSON cannot say.
    """
    path = Path(path)
    text = json.dumps(content, indent=2, allow_nan=False, default=lambda x: x.item()) + "\n"
    new = path.with_name(f".{path.name}.new")
    new.write_text(text, encoding="utf-8")
    sync(new)
    os.replace(new, path)


def write_metrics(path, metrics):
    """Write the results of a run.

    Parameters
    ----------
    path : str or path
        The file, usually `RunFolder.metrics`.
    metrics : dict
        Nested by name. A leaf is a number, or a dict of ``value`` and, where they are known,
        ``chance`` and ``baseline``, and ``question_only`` and ``image_only``: what can be reached
        without the rest of the input.

    Raises
    ------
    ValueError
        If a leaf is not a finite number or an entry beside ``value`` is not one of these.

    Examples
    --------
    >>> folder = Path(tempfile.mkdtemp())
    >>> write_metrics(folder / "metrics.json", {"vit": {"test": {"value": 0.96, "chance": 0.1}}})
    >>> json.loads((folder / "metrics.json").read_text())["vit"]["test"]["value"]
    0.96
    """
    _check_metrics(metrics, "metrics")
    write_json(path, metrics)


_BESIDE = ("chance", "baseline", "question_only", "image_only")  # of a value


def _check_metrics(branch, name):
    if isinstance(branch, dict):
        extra = branch.keys() - {"value", *_BESIDE}
        if "value" in branch and extra:
            raise ValueError(
                f"{name} has a value and {sorted(extra)[0]!r}; {', '.join(_BESIDE)} may stand there"
            )
        for key, child in branch.items():
            _check_metrics(child, f"{name}.{key}")
    elif not isinstance(branch, numbers.Real) or not math.isfinite(branch):
        raise ValueError(f"{name} must be a finite number, got {branch!r}")
