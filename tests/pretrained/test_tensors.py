"""Files of tensors: what is written is read, damaged files are refused, nothing else is opened."""

import json
import os
import pickle
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from safetensors import deserialize
from safetensors.numpy import load_file, save_file

from scratch_vlm.pretrained.tensors import (
    INDEX,
    SINGLE,
    FileError,
    Tensors,
    narrow,
    read_header,
    read_json,
    replacing,
    widen,
    write_tensors,
)

SMALL = {
    "a": np.arange(6, dtype="float32").reshape(2, 3),
    "b.weight": np.ones((4,), "float16"),
    "empty": np.zeros((0, 5), "float32"),
    "scale": np.array(2.5, "float32"),
    "ids": np.arange(3),
}


def file_of(header, data=b"", length=None):
    """Make the bytes of a file, its header perhaps a lie."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return (len(text) if length is None else length).to_bytes(8, "little") + text + data


@pytest.fixture
def folder(tmp_path):
    save_file(SMALL, tmp_path / SINGLE)
    return tmp_path


def test_reads_what_the_safetensors_library_wrote(folder):
    tensors = Tensors(folder)
    assert set(tensors) == set(SMALL) and len(tensors) == len(SMALL)
    for name, x in SMALL.items():
        assert tensors[name].dtype == x.dtype
        np.testing.assert_array_equal(tensors[name], x)
        assert not tensors[name].flags.writeable
    tensors.forget()
    np.testing.assert_array_equal(tensors["a"], SMALL["a"])


@pytest.mark.parametrize("dtype", ["float64", "float32", "float16"])
def test_the_safetensors_library_reads_what_we_write(tmp_path, dtype):
    floats = {name: x for name, x in SMALL.items() if name != "ids"}
    floats["turned"] = SMALL["a"].T
    write_tensors(tmp_path / SINGLE, floats, dtype=dtype)
    again = load_file(tmp_path / SINGLE)
    assert again.keys() == floats.keys()
    for name, x in floats.items():
        assert again[name].dtype == dtype
        np.testing.assert_array_equal(again[name], x)
    assert [path.name for path in tmp_path.iterdir()] == [SINGLE]


def test_bfloat16_is_written_and_read(tmp_path):
    x = np.random.default_rng(0).standard_normal((3, 5)).astype("float32")
    write_tensors(tmp_path / SINGLE, {"x": x.T}, dtype="bfloat16")
    ((name, entry),) = deserialize((tmp_path / SINGLE).read_bytes())
    assert (name, entry["dtype"], entry["shape"]) == ("x", "BF16", [5, 3])
    again = Tensors(tmp_path)["x"]
    assert again.dtype == "float32"
    np.testing.assert_array_equal(again, widen(narrow(x.T)))


def test_unknown_dtype_is_refused(tmp_path):
    with pytest.raises(ValueError, match="float64, float32, float16, bfloat16, got 'int8'"):
        write_tensors(tmp_path / SINGLE, SMALL, dtype="int8")


@given(arrays.arrays("float32", 7, elements=st.floats(width=32)))
def test_narrowing_takes_the_nearest_and_of_two_the_even_one(x):
    bits = narrow(x)
    near = widen(bits)
    ordinary = np.isfinite(x) & (abs(x) < 3e38) & (abs(x) > 1e-38)
    steady = np.where(ordinary, bits, 0x3F80).astype(int)
    below, above = (widen((steady + step).astype("uint16")) for step in (-1, 1))
    distance = abs(near[ordinary].astype(float) - x[ordinary])
    for other in (below, above):
        to_other = abs(other[ordinary].astype(float) - x[ordinary])
        assert (distance <= to_other).all()
        assert (bits[ordinary][distance == to_other] % 2 == 0).all()
    np.testing.assert_array_equal(np.isnan(near), np.isnan(x))
    np.testing.assert_array_equal(near[np.isinf(x)], x[np.isinf(x)])


def test_narrowing_turns_a_rounded_overflow_into_infinity():
    assert widen(narrow(np.array([np.finfo("float32").max, -3.4e38]))).tolist() == [
        np.inf,
        -np.inf,
    ]


@settings(max_examples=200)
@given(st.data())
def test_a_cut_file_is_refused(tmp_path_factory, data):
    path = tmp_path_factory.mktemp("cut") / SINGLE
    save_file(SMALL, path)
    whole = path.read_bytes()
    path.write_bytes(whole[: data.draw(st.integers(0, len(whole) - 1))])
    with pytest.raises(FileError):
        Tensors(path.parent)


@settings(max_examples=300)
@given(bit=st.integers(0, 10**6))
def test_a_flipped_bit_of_the_header_is_refused_or_of_a_name(tmp_path_factory, bit):
    path = tmp_path_factory.mktemp("flipped") / SINGLE
    save_file(SMALL, path)
    content = bytearray(path.read_bytes())
    bit %= 8 * (8 + int.from_bytes(content[:8], "little"))
    content[bit // 8] ^= 1 << bit % 8
    path.write_bytes(content)
    try:
        tensors = Tensors(path.parent)
    except FileError:
        return
    found = {name: tensors[name] for name in tensors}
    # names, or kinds and shapes of as many bytes; a name that fits no model is refused there
    assert sum(x.nbytes for x in found.values()) == sum(x.nbytes for x in SMALL.values())


F32 = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}


@pytest.mark.parametrize(
    ("header", "data", "said"),
    [
        ({"a": F32}, bytes(7), "take 8 bytes of 7"),
        ({"a": F32}, bytes(9), "take 8 bytes of 9"),
        ({"a": {**F32, "data_offsets": [4, 12]}}, bytes(12), "begins at byte 4"),
        ({"a": F32, "b": F32}, bytes(8), "begins at byte 0, the one before it ends at 8"),
        ({"a": {**F32, "data_offsets": [8, 0]}}, bytes(8), "cannot fill bytes 8 to 0"),
        ({"a": {**F32, "data_offsets": [-8, 0]}}, bytes(8), "is damaged"),
        ({"a": {**F32, "data_offsets": [0, 8, 16]}}, bytes(8), "is damaged"),
        ({"a": {**F32, "data_offsets": [0, 8.0]}}, bytes(8), "is damaged"),
        ({"a": {**F32, "data_offsets": [False, 8]}}, bytes(8), "is damaged"),
        ({"a": {**F32, "shape": [3]}}, bytes(8), "cannot fill"),
        ({"a": {**F32, "shape": [2**40, 2**40]}}, bytes(8), "cannot fill"),
        ({"a": {**F32, "shape": [-2]}}, bytes(8), "is damaged"),
        ({"a": {**F32, "shape": "2"}}, bytes(8), "is damaged"),
        ({"a": {**F32, "shape": None}}, bytes(8), "is damaged"),
        ({"a": {**F32, "dtype": "F8_E4M3"}}, bytes(8), "of dtype 'F8_E4M3'; known are F64"),
        ({"a": {**F32, "dtype": ["F32"]}}, bytes(8), "of dtype"),
        ({"a": {"dtype": "F32", "shape": [2]}}, bytes(8), "is damaged"),
        ({"a": [1, 2]}, bytes(8), "is damaged"),
        ({"a": None}, bytes(8), "is damaged"),
        ([F32], bytes(8), "no JSON object"),
        (b'{"a": {"dtype"', b"", "no JSON"),
        (b'{"a": 1, "a": 2}', b"", "a key appears twice"),
        (b'{"\xff": 1}', b"", "no JSON"),
        (b"[" * 50_000, b"", "no JSON"),
        (b'{"a": ' + b"9" * 5000 + b"}", b"", "no JSON"),
    ],
)
def test_a_header_that_lies_is_refused(tmp_path, header, data, said):
    (tmp_path / SINGLE).write_bytes(file_of(header, data))
    with pytest.raises(FileError, match=said):
        Tensors(tmp_path)


@pytest.mark.parametrize("length", [0, 100, 2**31, 2**63, 2**64 - 1])
def test_a_header_of_impossible_length_is_refused(tmp_path, length):
    (tmp_path / SINGLE).write_bytes(file_of({}, length=length))
    with pytest.raises(FileError, match="no safetensors file, or cut off"):
        read_header(tmp_path / SINGLE)


def test_a_header_too_long_to_be_one_is_not_read(tmp_path):
    path = tmp_path / SINGLE
    path.write_bytes((150_000_000).to_bytes(8, "little"))
    os.truncate(path, 200_000_000)  # takes no room
    tracemalloc.start()
    with pytest.raises(FileError, match="cut off"):
        read_header(path)
    assert tracemalloc.get_traced_memory()[1] < 10**6
    tracemalloc.stop()


class Trap:
    """What makes a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


@pytest.mark.parametrize("protocol", range(2, 6))
def test_a_pickle_is_refused_and_never_opened(tmp_path, protocol):
    trap = tmp_path / "sprung"
    (tmp_path / SINGLE).write_bytes(pickle.dumps(Trap(trap), protocol))
    with pytest.raises(FileError, match=r"looks like a pickle.*can run any code"):
        Tensors(tmp_path)
    (tmp_path / "pytorch_model.bin").write_bytes(pickle.dumps(Trap(trap), protocol))
    (tmp_path / SINGLE).unlink()
    with pytest.raises(FileError, match=r"pytorch_model.bin is a pickle, which is not opened"):
        Tensors(tmp_path)
    (tmp_path / "config.json").write_bytes(pickle.dumps(Trap(trap), protocol))
    with pytest.raises(FileError, match="is no JSON"):
        read_json(tmp_path / "config.json")
    assert not trap.exists()


def test_an_archive_is_refused(tmp_path):
    (tmp_path / SINGLE).write_bytes(b"PK\x03\x04" + bytes(100))
    with pytest.raises(FileError, match="looks like a pickle or a PyTorch file"):
        Tensors(tmp_path)


@pytest.mark.parametrize("name", [SINGLE, INDEX])
def test_what_is_no_file_is_refused_at_once(tmp_path, name):
    os.mkfifo(tmp_path / name)  # opened, it would wait for somebody to write
    with pytest.raises(FileError, match="is no file"):
        Tensors(tmp_path)
    (tmp_path / name).unlink()
    (tmp_path / name).mkdir()
    with pytest.raises(FileError, match="is no file"):
        Tensors(tmp_path)


def shards(folder, listed=None, **edits):
    save_file({"a": SMALL["a"]}, folder / "one.safetensors")
    save_file({"scale": SMALL["scale"]}, folder / "two.safetensors")
    listed = {"a": "one.safetensors", "scale": "two.safetensors"} if listed is None else listed
    (folder / INDEX).write_text(json.dumps({"weight_map": listed, **edits}))


def test_shards_are_read_as_one(tmp_path):
    shards(tmp_path)
    tensors = Tensors(tmp_path)
    assert {name: tensors[name].tolist() for name in tensors} == {
        name: SMALL[name].tolist() for name in ("a", "scale")
    }


@pytest.mark.parametrize(
    "name",
    [
        "../one.safetensors",
        "/one.safetensors",
        "inner/one.safetensors",
        "..",
        ".",
        "",
        ".one.safetensors",
        "C:\\one.safetensors",
        "one.safetensors\0",
        "one.bin",
        "one.safetensors/..",
    ],
)
def test_an_index_names_files_beside_it_only(tmp_path, name):
    inner = tmp_path / "inner" / "model"
    inner.mkdir(parents=True)
    save_file({"a": SMALL["a"]}, tmp_path / "inner" / "one.safetensors")
    shards(inner, {"a": name})
    with pytest.raises(FileError, match=r"names .* which is no safetensors file beside it"):
        Tensors(inner)


@pytest.mark.parametrize(
    ("listed", "said"),
    [
        ({"a": "one.safetensors"}, "is not listed|lacks"),
        ({"a": "two.safetensors", "scale": "one.safetensors"}, "stands in one.safetensors"),
        (
            {"a": "one.safetensors", "scale": "two.safetensors", "b": "one.safetensors"},
            "b is listed in one.safetensors and not there",
        ),
        ({"a": "one.safetensors", "scale": "three.safetensors"}, "lacks the shards three"),
        ([], "no weight_map"),
        ({"a": 1}, "no weight_map"),
        ({"a": None}, "no weight_map"),
    ],
)
def test_an_index_that_lies_is_refused(tmp_path, listed, said):
    shards(tmp_path, listed)
    if listed == {"a": "one.safetensors"}:
        save_file({name: SMALL[name] for name in ("a", "scale")}, tmp_path / "one.safetensors")
    with pytest.raises(FileError, match=said):
        Tensors(tmp_path)


def test_a_tensor_in_two_shards_is_refused(tmp_path):
    shards(tmp_path)
    save_file({name: SMALL[name] for name in ("a", "scale")}, tmp_path / "two.safetensors")
    with pytest.raises(FileError, match="a is in another shard, too"):
        Tensors(tmp_path)


def test_a_key_twice_in_an_index_is_refused(tmp_path):
    shards(tmp_path)
    (tmp_path / INDEX).write_text('{"weight_map": {"a": "one.safetensors", "a": "one"}}')
    with pytest.raises(FileError, match="a key appears twice"):
        Tensors(tmp_path)


def test_a_missing_folder_and_an_empty_one_are_said(tmp_path):
    with pytest.raises(FileError, match="there is no folder"):
        Tensors(tmp_path / "nowhere")
    with pytest.raises(FileError, match=f"has neither {SINGLE} nor {INDEX}"):
        Tensors(tmp_path)


def test_only_what_is_asked_for_is_read(tmp_path):
    size = 2**32
    header = {
        "large": {"dtype": "F32", "shape": [2**30], "data_offsets": [0, size]},
        "small": {"dtype": "F32", "shape": [3], "data_offsets": [size, size + 12]},
    }
    path = tmp_path / SINGLE
    path.write_bytes(file_of(header))
    os.truncate(path, path.stat().st_size + size + 12)  # four gigabytes that take no room
    tracemalloc.start()
    tensors = Tensors(tmp_path)
    assert tensors["small"].tolist() == [0, 0, 0]
    assert tensors["large"].shape == (2**30,)
    assert tracemalloc.get_traced_memory()[1] < 10**6
    tracemalloc.stop()


def test_a_failure_leaves_what_was_there(tmp_path):
    path = tmp_path / "file"
    path.write_text("before")
    with pytest.raises(KeyboardInterrupt), replacing(path) as file:
        file.write(b"half")
        raise KeyboardInterrupt
    assert path.read_text() == "before"
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def test_a_link_is_replaced_and_not_followed(tmp_path):
    outside, folder = tmp_path / "outside", tmp_path / "folder"
    outside.write_text("theirs")
    folder.mkdir()
    (folder / SINGLE).symlink_to(outside)
    (folder / f".{SINGLE}.{os.getpid()}.new").symlink_to(outside)
    write_tensors(folder / SINGLE, {"a": SMALL["a"]})
    assert outside.read_text() == "theirs"
    assert not (folder / SINGLE).is_symlink()
    assert list(load_file(folder / SINGLE)) == ["a"]


def test_what_cannot_be_written_is_said(tmp_path):
    with pytest.raises(FileError, match="cannot write"):
        write_tensors(tmp_path / "nowhere" / SINGLE, SMALL)
