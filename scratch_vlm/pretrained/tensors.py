"""Tensors in files: safetensors, memory-mapped one by one, of one file or of several shards.

A file is the length of a header in eight bytes, a header in JSON that says of each tensor which
dtype, shape and bytes are its, and the bytes. Nothing else is opened, and nothing in it is trusted:
every number of the header is checked against the size of the file.
"""

import contextlib
import json
import math
import mmap
import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np

DTYPES = {  # bfloat16 is unknown to NumPy: the upper half of a float32
    "F64": "<f8",
    "F32": "<f4",
    "F16": "<f2",
    "BF16": "<u2",
    "I64": "<i8",
    "I32": "<i4",
    "I16": "<i2",
    "I8": "|i1",
    "U8": "|u1",
    "BOOL": "|b1",
}
FLOATS = {"float64": "F64", "float32": "F32", "float16": "F16", "bfloat16": "BF16"}
SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
LONGEST_HEADER = 100_000_000  # bytes; that of a model of 10,000 tensors has one million
PICKLES = (b"PK", *(bytes((0x80, protocol)) for protocol in range(2, 6)))  # PK: a ZIP archive


class FileError(ValueError):
    """A folder or a file is missing, damaged, or not what it should be; the message says which."""


class Tensors(Mapping):
    """The tensors of a folder by name, read when they are asked for.

    Parameters
    ----------
    folder : str or path
        With ``model.safetensors``, or ``model.safetensors.index.json`` and the shards it names.

    Attributes
    ----------
    shapes : dict of str to tuple of int
        Of each tensor.
    formats : dict of str to str
        How each is kept: ``"F32"``, ``"BF16"`` and so on.

    Raises
    ------
    FileError
        If files are missing, damaged, no safetensors, or differ from the index.

    Notes
    -----
    A tensor is a view of the file, mapped into memory: what is not looked at is not read, and what
    was read can be dropped at any time, by the system or with `forget`.
    """

    def __init__(self, folder):
        self.folder = Path(folder)
        self.shapes, self.formats, self._places, self._maps = {}, {}, {}, {}
        for name in _files(self.folder):
            path = self.folder / name
            header, start = read_header(path)
            with path.open("rb") as file:
                self._maps[name] = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
            for key, (kind, shape, begin, _) in header.items():
                if key in self.shapes:
                    raise FileError(f"{path}: {key} is in another shard, too")
                self.shapes[key], self.formats[key] = shape, kind
                self._places[key] = name, start + begin
        self._check_index()

    def __getitem__(self, key):
        """Return a tensor, read-only, as a view of the file; bfloat16 as a float32 copy."""
        x = self._raw(key)
        return widen(x) if self.formats[key] == "BF16" else x

    def copy(self, key, out, rows=None):
        """Copy a tensor into an array, without another copy in between.

        Parameters
        ----------
        key : str
            Its name.
        out : array of shape (...)
            Where to; of the tensor's shape.
        rows : tuple of int, optional
            Which rows to copy, first and behind the last. Default all.
        """
        x = self._raw(key)
        x = x if rows is None else x[slice(*rows)]
        if self.formats[key] == "BF16" and out.dtype == np.float32:
            np.left_shift(x, 16, out=out.view("<u4"), dtype="<u4")
        else:
            out[...] = widen(x) if self.formats[key] == "BF16" else x

    def _raw(self, key):
        name, start = self._places[key]
        kind, shape = self.formats[key], self.shapes[key]
        return np.frombuffer(self._maps[name], DTYPES[kind], math.prod(shape), start).reshape(shape)

    def __iter__(self):
        """Walk over the names."""
        return iter(self._places)

    def __len__(self):
        """Count the tensors."""
        return len(self._places)

    def forget(self):
        """Give back the memory that what was read takes; it is read again where it is needed."""
        if hasattr(mmap, "MADV_DONTNEED"):  # not on every system
            for file in self._maps.values():
                file.madvise(mmap.MADV_DONTNEED)

    def _check_index(self):
        path = self.folder / INDEX
        if path.exists() and not (self.folder / SINGLE).exists():
            listed = _weight_map(path)
            wrong = [
                f"{key} is listed in {file} and stands in {self._places[key][0]}"
                if key in self._places
                else f"{key} is listed in {file} and not there"
                for key, file in listed.items()
                if key not in self._places or self._places[key][0] != file
            ] + [f"{key} is not listed" for key in self._places if key not in listed]
            if wrong:
                raise FileError(f"{path} differs from the shards:\n  " + "\n  ".join(wrong))


def read_header(path):
    """Read and check the header of a safetensors file.

    Parameters
    ----------
    path : str or path
        The file.

    Returns
    -------
    header : dict of str to tuple
        Format, shape, and the first byte and the one behind the last, counted from `start`.
    start : int
        First byte behind the header.

    Raises
    ------
    FileError
        If it is no safetensors file, is cut off, or the header lies about what is in it.
    """
    path = Path(path)
    try:
        if path.exists() and not path.is_file():
            raise FileError(f"{path} is no file")
        size = path.stat().st_size
        with path.open("rb") as file:
            head = file.read(8)
            length = int.from_bytes(head, "little")
            if head[:2] in PICKLES and not 0 < length <= size - 8:
                raise FileError(
                    f"{path} looks like a pickle or a PyTorch file, no safetensors. Nothing else "
                    "is opened, because unpickling can run any code; convert it with the "
                    "safetensors library where you trust it"
                )
            if len(head) < 8 or not 0 < length <= min(size - 8, LONGEST_HEADER):
                raise FileError(
                    f"{path} is no safetensors file, or cut off: its header should be {length} "
                    f"bytes long, the file is {size}"
                )
            text = file.read(length)
    except OSError as error:
        raise FileError(f"cannot read {path}: {error.strerror or error}") from error
    try:
        content = json.loads(text.decode(), object_pairs_hook=_no_twins)
    except (ValueError, RecursionError) as error:
        raise FileError(f"{path} is damaged: its header is no JSON ({error})") from error
    if not isinstance(content, dict):
        raise FileError(f"{path} is damaged: its header is no JSON object")
    content.pop("__metadata__", None)
    start = 8 + length
    header = {key: _entry(path, key, entry) for key, entry in content.items()}
    _check_bytes(path, header, size - start)
    return header, start


def widen(x):
    """Turn bfloat16 numbers, kept as the integers that their bits make, into float32.

    Parameters
    ----------
    x : unsigned integer array of shape (...)
        Of 16 bits.

    Returns
    -------
    array of shape (...)

    Examples
    --------
    >>> widen(np.array([0x3F80, 0xC000], "uint16"))
    array([ 1., -2.], dtype=float32)
    """
    bits = x.astype("<u4")
    bits <<= 16
    return bits.view("<f4")


def narrow(x):
    """Round numbers to bfloat16, to the nearest and to even: the inverse of `widen`.

    Parameters
    ----------
    x : array of shape (...)
        Any numbers.

    Returns
    -------
    unsigned integer array of shape (...)
        Of 16 bits.

    Examples
    --------
    >>> narrow(np.array([1.0, -2.0, np.nan], "float32")).tolist() == [0x3F80, 0xC000, 0x7FC0]
    True
    """
    x = np.asarray(x, "<f4", order="C")
    bits = x.reshape(-1).view("<u4")
    odd = (bits >> 16) & 1
    odd += 0x7FFF
    odd += bits  # what overflows is no number
    odd >>= 16
    odd[np.isnan(x.reshape(-1))] = 0x7FC0
    return odd.astype("<u2").reshape(x.shape)


def write_tensors(path, tensors, *, dtype="float32"):
    """Write a safetensors file, one tensor after another.

    Parameters
    ----------
    path : str or path
        Replaced as a whole.
    tensors : dict of str to array
        Read one at a time; a callable is called for its array then.
    dtype : {"float64", "float32", "float16", "bfloat16"}, default "float32"
        What floating point numbers are rounded to.

    Raises
    ------
    ValueError
        If the dtype is none of them.
    FileError
        If it cannot be written.
    """
    if dtype not in FLOATS:
        raise ValueError(f"dtype must be one of {', '.join(FLOATS)}, got {dtype!r}")
    kind, path = FLOATS[dtype], Path(path)
    width, end, header = np.dtype(DTYPES[kind]).itemsize, 0, {"__metadata__": {"format": "pt"}}
    for name, x in tensors.items():
        begin, end = end, end + math.prod(x.shape) * width
        header[name] = {"dtype": kind, "shape": list(x.shape), "data_offsets": [begin, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # the bytes behind it start on a multiple of 8
    with replacing(path) as file:
        file.write(len(text).to_bytes(8, "little"))
        file.write(text)
        for x in tensors.values():
            x = narrow(x) if kind == "BF16" else np.asarray(x, DTYPES[kind], order="C")
            file.write(x.data)


@contextlib.contextmanager
def replacing(path):
    """Open a file that takes the place of another one when it is whole.

    Parameters
    ----------
    path : str or path
        The other one, or where there is none yet. A link there is replaced, not followed.

    Yields
    ------
    file
        To write bytes into. Where that fails, what was there stays.

    Raises
    ------
    FileError
        If it cannot be written.
    """
    path = Path(path)
    new = path.with_name(f".{path.name}.{os.getpid()}.new")
    try:
        new.unlink(missing_ok=True)
        try:
            with new.open("xb") as file:  # x: of nobody else, and no link
                yield file
            os.replace(new, path)
        except BaseException:
            new.unlink(missing_ok=True)
            raise
    except OSError as error:
        raise FileError(f"cannot write {path}: {error.strerror or error}") from error


def read_json(path):
    """Read a JSON object.

    Parameters
    ----------
    path : str or path
        The file.

    Returns
    -------
    dict

    Raises
    ------
    FileError
        If it is missing, too large to be one, or no JSON object.
    """
    path = Path(path)
    try:
        if path.exists() and not path.is_file():
            raise FileError(f"{path} is no file")
        if path.stat().st_size > LONGEST_HEADER:
            raise FileError(f"{path} is too large: {path.stat().st_size} bytes")
        content = json.loads(path.read_text(encoding="utf-8"), object_pairs_hook=_no_twins)
    except OSError as error:
        raise FileError(f"cannot read {path}: {error.strerror or error}") from error
    except (ValueError, RecursionError) as error:
        raise FileError(f"{path} is no JSON: {error}") from error
    if not isinstance(content, dict):
        raise FileError(f"{path} holds no JSON object")
    return content


def _files(folder):
    if not folder.is_dir():
        raise FileError(f"there is no folder {folder}")
    if (folder / SINGLE).exists():
        return [SINGLE]
    if (folder / INDEX).exists():
        names = sorted(set(_weight_map(folder / INDEX).values()))
        missing = [name for name in names if not (folder / name).is_file()]
        if missing:
            raise FileError(f"{folder} lacks the shards {', '.join(missing)}")
        return names
    others = sorted(path.name for path in folder.glob("*.bin"))
    said = f"{folder} has neither {SINGLE} nor {INDEX}"
    if others:
        said += f"; {others[0]} is a pickle, which is not opened: it could run any code"
    raise FileError(said)


def _weight_map(path):
    listed = read_json(path).get("weight_map")
    if not isinstance(listed, dict) or not all(isinstance(name, str) for name in listed.values()):
        raise FileError(f"{path} has no weight_map from tensors to files")
    for name in set(listed.values()):
        plain = name == Path(name).name and "\\" not in name and "\0" not in name
        if not plain or not name.endswith(".safetensors") or name.startswith("."):
            raise FileError(f"{path} names {name!r}, which is no safetensors file beside it")
    return listed


def _no_twins(pairs):
    content = dict(pairs)
    if len(content) < len(pairs):
        raise ValueError("a key appears twice")
    return content


def _entry(path, key, entry):
    try:
        kind, shape, (begin, end) = entry["dtype"], entry["shape"], entry["data_offsets"]
        whole = all(type(n) is int and n >= 0 for n in (*shape, begin, end))
    except (TypeError, KeyError, ValueError):
        whole = False
    if not whole:
        raise FileError(f"{path} is damaged: what its header says of {key!r} is {entry!r}")
    if not isinstance(kind, str) or kind not in DTYPES:
        raise FileError(f"{path}: {key} is of dtype {kind!r}; known are {', '.join(DTYPES)}")
    if end - begin != math.prod(shape) * np.dtype(DTYPES[kind]).itemsize:
        raise FileError(
            f"{path} is damaged: {key} {tuple(shape)} {kind} cannot fill bytes {begin} to {end}"
        )
    return kind, tuple(shape), begin, end


def _check_bytes(path, header, size):
    at = 0
    for key, (_, _, begin, end) in sorted(header.items(), key=lambda item: item[1][2:]):
        if begin != at:
            raise FileError(
                f"{path} is damaged: {key} begins at byte {begin}, the one before it ends at {at}"
            )
        at = end
    if at != size:
        raise FileError(f"{path} is cut off or damaged: its tensors take {at} bytes of {size}")
