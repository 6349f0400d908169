"""Published models: read from their own files, they compute what the reference libraries do."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from scratch_vlm import cli
from scratch_vlm.parity.case import worst
from scratch_vlm.parity.primitives import RUNS
from scratch_vlm.parity.run import run_case
from scratch_vlm.pretrained.load import load_pretrained, save_pretrained
from scratch_vlm.pretrained.tensors import read_json
from scratch_vlm.tree import leaves

CASES = sorted((Path(__file__).parent / "cases").iterdir())
PIECES = Path(__file__).parent / "primitives"
CASE = pytest.mark.parametrize("case", CASES, ids=[case.name for case in CASES])


@CASE
@pytest.mark.parametrize(("dtype", "tolerance"), [("float64", 1e-12), ("float32", 1e-4)])
def test_outputs_losses_and_gradients_are_those_of_the_reference(case, dtype, tolerance):
    rows = run_case(case, dtype=dtype)
    assert len(rows) >= 9 and any(row.name.startswith("grad/") for row in rows)
    assert worst(rows) <= tolerance


@pytest.mark.parametrize(("dtype", "tolerance"), [("float64", 1e-12), ("float32", 1e-5)])
def test_pieces_are_those_of_pytorch(dtype, tolerance):
    left_out = []
    rows = run_case(PIECES, dtype=dtype, left_out=left_out)
    assert worst(rows) <= tolerance and not left_out
    groups = {row.name.split("/")[0] for row in rows}
    assert groups == set(read_json(PIECES / "case.json")["groups"])
    assert all(any(name.startswith(start) for name in groups) for start in RUNS)


def test_what_has_no_counterpart_is_said(tmp_path, capsys):
    shutil.copytree(PIECES, tmp_path / "case")
    info = read_json(PIECES / "case.json")
    info["groups"]["a_piece_of_tomorrow"] = ""
    (tmp_path / "case" / "case.json").write_text(json.dumps(info))
    assert cli.main(["parity", str(tmp_path / "case")]) == 0
    assert "without a counterpart here: a_piece_of_tomorrow" in capsys.readouterr().out


@pytest.fixture
def vit(tmp_path):
    return shutil.copytree(CASES[[case.name for case in CASES].index("vit_interpolated")],
                           tmp_path / "vit")  # fmt: skip


def change(folder, edit):
    file = folder / "model.safetensors"
    tensors = load_file(file)
    edit(tensors)
    save_file(tensors, file)


@pytest.mark.parametrize(
    "name",
    ["vit.embeddings.cls_token", "vit.encoder.layer.1.attention.attention.key.weight"],
)
def test_a_weight_that_is_slightly_off_is_noticed(vit, capsys, name):
    assert cli.main(["parity", str(vit)]) == 0

    def scale(tensors):
        tensors[name] = tensors[name] * np.float32(1 + 1e-4)

    change(vit, scale)
    capsys.readouterr()
    assert cli.main(["parity", str(vit)]) == 1
    assert "<- wrong" in capsys.readouterr().out


def test_every_tensor_of_a_file_is_accounted_for(vit):
    def spoil(tensors):
        tensors["vit.surprise"] = tensors.pop("vit.layernorm.bias")
        tensors["classifier.bias"] = tensors["classifier.bias"][:-1]

    change(vit, spoil)
    with pytest.raises(ValueError) as caught:
        load_pretrained(vit)
    for name in ("vit.surprise", "vit.layernorm.bias", "classifier.bias"):
        assert name in str(caught.value)


@CASE
def test_what_is_written_is_what_was_read(case, tmp_path):
    model = load_pretrained(case, dtype="float64")
    save_pretrained(model, tmp_path)
    again = load_pretrained(tmp_path, dtype="float64")
    first, second = dict(leaves(model.p)), dict(leaves(again.p))
    assert first.keys() == second.keys()
    for name, x in first.items():
        np.testing.assert_array_equal(x, second[name], err_msg=name)
    keys = set()
    for folder in (case, tmp_path):
        files = [safe_open(file, framework="np") for file in folder.glob("*.safetensors")]
        keys.add(frozenset(key for file in files for key in file.keys()))  # noqa: SIM118
    assert len(keys) == 1


def test_several_cases_are_summed_up_and_written(capsys, tmp_path):
    file = tmp_path / "parity.json"
    assert cli.main(["parity", *map(str, CASES[:2]), "--json", str(file)]) == 0
    assert "2 of 2 within 1e-09 in float64" in capsys.readouterr().out
    record = json.loads(file.read_text())
    assert [entry["passed"] for entry in record["cases"]] == [True, True]
    assert cli.main(["parity", str(CASES[0]), "--tolerance", "1e-30"]) == 1


def test_what_is_no_case_says_what_would_be(tmp_path, capsys):
    inside = shutil.copytree(CASES[0], tmp_path / "case")
    for folder, said in ((tmp_path, f"it holds 1: give {tmp_path / '*'}"), (inside, "inputs.npz")):
        (inside / "inputs.npz").write_bytes((CASES[0] / "inputs.npz").read_bytes()[:99])
        assert cli.main(["parity", str(folder)]) == 2
        assert said in capsys.readouterr().err
    assert cli.main(["parity", str(CASES[0]), "--tolerance", "-1"]) == 2
    assert "tolerance must be at least 0, got -1.0" in capsys.readouterr().err
