"""Folders of published models: read whole, written whole, or refused with what is wrong."""

import json
import runpy
import shutil
import subprocess
import sys
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from scratch_vlm.models.lm import lm_init
from scratch_vlm.pretrained import layout
from scratch_vlm.pretrained.load import (
    CLASSES,
    Pretrained,
    configure,
    load_pretrained,
    save_pretrained,
)
from scratch_vlm.pretrained.tensors import FileError, Tensors
from scratch_vlm.tree import leaves, nbytes

CASES = sorted((Path(__file__).parents[1] / "parity" / "cases").iterdir())
CASE = pytest.mark.parametrize("case", CASES, ids=[case.name for case in CASES])
VIT = next(case for case in CASES if case.name == "vit_interpolated")


def read_config(folder):
    return json.loads((folder / "config.json").read_text())


def with_config(folder, target, **edits):
    """Copy the weights of a folder, and its config with some options changed."""
    target.mkdir()
    for path in folder.glob("*.safetensors*"):
        shutil.copy(path, target)
    (target / "config.json").write_text(json.dumps(read_config(folder) | edits))
    return target


def assert_same(p, other):
    first, second = dict(leaves(p)), dict(leaves(other))
    assert first.keys() == second.keys()
    for name, x in first.items():
        np.testing.assert_array_equal(x, second[name], err_msg=name)


@CASE
def test_shards_are_written_and_read_key_for_key(case, tmp_path):
    model = load_pretrained(case)
    save_pretrained(model, tmp_path, shard=10_000)
    index = json.loads((tmp_path / "model.safetensors.index.json").read_text())
    files = sorted(tmp_path.glob("*.safetensors"))
    count = len(files)
    assert count > 1 and files[0].name == f"model-00001-of-{count:05}.safetensors"
    found, total = {}, 0
    for file in files:
        with safe_open(file, framework="np") as tensors:
            names = list(tensors.keys())
        sizes = [int(np.prod(Tensors(tmp_path).shapes[name])) for name in names]
        width = {"bfloat16": 2, "float16": 2, "float32": 4}[model.stored]
        assert len(names) == 1 or width * sum(sizes) <= 10_000
        found |= dict.fromkeys(names, file.name)
        total += width * sum(sizes)
    assert index["weight_map"] == found
    assert index["metadata"]["total_size"] == total
    assert set(found) == set(model.names.values())
    assert_same(model.p, load_pretrained(tmp_path).p)


def test_one_file_and_shards_do_not_stand_in_each_others_way(tmp_path):
    model = load_pretrained(VIT)
    save_pretrained(model, tmp_path)
    model.p["head"]["b"] += 1
    save_pretrained(model, tmp_path, shard=10_000)
    assert_same(model.p, load_pretrained(tmp_path).p)
    model.p["head"]["b"] += 1
    save_pretrained(model, tmp_path)
    assert_same(model.p, load_pretrained(tmp_path).p)


@pytest.mark.parametrize("dtype", ["float64", "float32", "float16", "bfloat16"])
def test_the_dtype_that_is_written_is_said(tmp_path, dtype):
    model = load_pretrained(VIT)
    save_pretrained(model, tmp_path, dtype=dtype)
    assert read_config(tmp_path)["dtype"] == dtype
    again = load_pretrained(tmp_path)
    assert again.stored == dtype
    save_pretrained(again, tmp_path / "again")
    assert_same(again.p, load_pretrained(tmp_path / "again").p)


def test_a_shard_has_room_for_something(tmp_path):
    with pytest.raises(ValueError, match="room for a byte at least, got 0"):
        save_pretrained(load_pretrained(VIT), tmp_path, shard=0)


def test_an_unknown_model_is_named_with_the_known_ones(tmp_path):
    folder = with_config(VIT, tmp_path / "a", architectures=["ViTModel2"], model_type="vit2")
    with pytest.raises(ValueError, match=r"'ViTModel2' of type 'vit2', which is not known") as info:
        load_pretrained(folder)
    for name in CLASSES:
        assert name in str(info.value)
    folder = with_config(VIT, tmp_path / "b", architectures=None, model_type="vit2")
    with pytest.raises(ValueError, match=r"'vit2' of type 'vit2'"):
        load_pretrained(folder)
    folder = with_config(VIT, tmp_path / "c", architectures=[["x"]])
    with pytest.raises(ValueError, match="which is not known here"):
        load_pretrained(folder)


def test_a_model_type_alone_is_enough(tmp_path):
    assert load_pretrained(with_config(VIT, tmp_path / "a", architectures=None)).kind == (
        "ViTForImageClassification"
    )


def test_weights_of_another_size_than_the_config_are_all_listed(tmp_path):
    folder = with_config(VIT, tmp_path / "a", intermediate_size=41, num_hidden_layers=3)
    with pytest.raises(FileError) as info:
        load_pretrained(folder)
    said = str(info.value)
    assert "misshapen: vit.encoder.layer.0.intermediate.dense.weight is (40, 32)" in said
    assert "the config asks for (41, 32)" in said
    assert "missing: vit.encoder.layer.2.layernorm_before.weight (32,)" in said


def test_a_tensor_under_two_of_its_names_is_refused(tmp_path):
    folder = with_config(VIT, tmp_path / "a")
    tensors = load_file(folder / "model.safetensors")
    tensors["vit.layers.0.mlp.fc1.bias"] = tensors["vit.encoder.layer.0.intermediate.dense.bias"]
    save_file(tensors, folder / "model.safetensors")
    with pytest.raises(FileError, match=r"twice: .* are the same"):
        load_pretrained(folder)


def test_tied_tensors_that_differ_are_refused(tmp_path):
    (case,) = (case for case in CASES if case.name == "gpt2")
    folder = with_config(case, tmp_path / "a")
    tensors = load_file(folder / "model.safetensors")
    tensors["lm_head.weight"] = tensors["transformer.wte.weight"].copy()
    save_file(tensors, folder / "model.safetensors")
    load_pretrained(folder)
    tensors["lm_head.weight"][3, 2] += 1
    save_file(tensors, folder / "model.safetensors")
    with pytest.raises(FileError, match=r"ties lm_head.weight to transformer.wte.weight, but"):
        load_pretrained(folder)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_a_missing_file_is_said(tmp_path, name):
    folder = with_config(VIT, tmp_path / "a")
    (folder / name).unlink()
    with pytest.raises(FileError, match=name):
        load_pretrained(folder)


def test_a_config_with_a_key_twice_is_refused(tmp_path):
    folder = with_config(VIT, tmp_path / "a")
    text = (folder / "config.json").read_text()
    (folder / "config.json").write_text(text.replace("{", '{"hidden_size": 64, ', 1))
    with pytest.raises(FileError, match="a key appears twice"):
        load_pretrained(folder)


def places(tree):
    """List every place of a tree of objects and lists as the keys that lead there."""
    inner = tree.items() if isinstance(tree, dict) else enumerate(tree)
    for key, child in inner:
        yield (key,)
        if isinstance(child, dict | list):
            yield from ((key, *more) for more in places(child))


ODD = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-2, 100),
    st.sampled_from([2**24, 2**31, 2**63, 10**30]),
    st.floats(),
    st.sampled_from(["", "gelu", "default", "../x", "true", "8"]),
    st.lists(st.integers(-1, 9), max_size=3),
    st.just([[1]]),
    st.just({}),
    st.just({"type": "linear"}),
)


@settings(max_examples=150)
@given(st.data())
def test_any_change_of_a_config_is_read_or_refused(tmp_path_factory, data):
    case = data.draw(st.sampled_from(CASES))
    folder = with_config(case, tmp_path_factory.mktemp("changed") / "a")
    config = read_config(folder)
    path = data.draw(st.sampled_from(sorted(places(config), key=str)))
    branch = config
    for key in path[:-1]:
        branch = branch[key]
    branch[path[-1]] = data.draw(ODD)
    (folder / "config.json").write_text(json.dumps(config))
    try:
        model = load_pretrained(folder)
    except ValueError as error:
        assert len(str(error)) > 20
    else:
        assert model.p


def test_parameters_are_held_once(tmp_path):
    model = load_pretrained(CASES[0])
    save_pretrained(model, tmp_path, dtype="float32")
    largest = max(x.nbytes for _, x in leaves(model.p))
    tracemalloc.start()
    again = load_pretrained(tmp_path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < nbytes(again.p) + 2 * largest + 1_000_000


MEASURE = """
import re, sys
from scratch_vlm.pretrained.load import load_pretrained

def peak():  # of memory, pages of files included
    with open("/proc/self/status") as file:
        return 1024 * int(re.search(r"VmHWM:\\s+(\\d+)", file.read())[1])

load_pretrained(sys.argv[1])
before = peak()
model = load_pretrained(sys.argv[2])
print(peak() - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="asks Linux for the memory of a process")
def test_pages_of_the_file_are_given_back_while_it_is_read(tmp_path):
    published = {"model_type": "gpt2", "n_embd": 512, "n_layer": 8, "n_head": 8,
                 "vocab_size": 1000}  # fmt: skip
    kind, config, layout = configure(published)
    p = lm_init(np.random.default_rng(0), config)
    names = {name: name for name in layout.published}
    model = Pretrained(kind, config, p, layout, names, published, "float32")
    save_pretrained(model, tmp_path)
    size = (tmp_path / "model.safetensors").stat().st_size
    small = next(case for case in CASES if case.name == "gpt2")
    command = [sys.executable, "-c", MEASURE, str(small), str(tmp_path)]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert size > 10**8
    assert 0.9 * size < int(said) < 1.2 * size


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("rows", [3, 3000])  # ordinary memory, and a map of plain pages
def test_room_for_a_leaf_is_like_any_array(rows, order):
    room = layout._room_for((rows, 1000), "float32", order)
    assert room.shape == (rows, 1000) and room.dtype == np.float32 and room.flags.writeable
    assert room.flags[f"{order}_CONTIGUOUS"]
    assert (room.nbytes < layout.LARGE) == (rows == 3)
    room[...] = 2
    kept = room[-1]
    del room  # a view keeps the map
    assert (kept == 2).all()


FOUND = json.loads((Path(__file__).parent / "damaged.json").read_text())


@pytest.mark.parametrize("found", FOUND, ids=lambda found: f"{found['case']}-{found['seed']}")
def test_what_fuzzing_found_is_refused_with_a_reason(found):
    path = Path(__file__).parents[2] / "benchmarks" / "fuzz_reader.py"
    fuzz = runpy.run_path(str(path))
    assert fuzz["outcome"](found["case"], found["seed"]) is None, found["error"]
