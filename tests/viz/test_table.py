import numpy as np
import pytest

from scratch_vlm.viz.table import result_rows, results_table

METRICS = {
    "vit": {"test_accuracy": {"value": 0.957, "chance": 0.1, "baseline": 0.933}, "epochs": 30},
    "clip": {"zero_shot_8way": {"test": {"value": 0.9421, "baseline": None}}, "loss": 0.25},
}


def test_nested_names_are_dotted_and_missing_cells_are_dashes():
    assert result_rows(METRICS) == [
        ("vit.test_accuracy", "0.957", "0.100", "0.933"),
        ("vit.epochs", "30", "–", "–"),
        ("clip.zero_shot_8way.test", "0.942", "–", "–"),
        ("clip.loss", "0.250", "–", "–"),
    ]


def test_columns_are_aligned():
    head, rule, *lines = results_table(METRICS).split("\n")
    assert {len(line) for line in [head, rule, *lines]} == {len(head)}
    ends = [head.index(name) + len(name) for name in ("value", "chance", "baseline")]
    for line, cells in zip(lines, result_rows(METRICS), strict=True):
        assert line.startswith(cells[0])
        for end, cell in zip(ends, cells[1:], strict=True):
            assert line[:end].endswith(" " + cell)


def test_numpy_scalars_are_numbers():
    metrics = {"a": np.float32(0.5), "b": np.int64(7), "c": {"value": np.float64(0.25)}}
    assert [row[1] for row in result_rows(metrics)] == ["0.500", "7", "0.250"]


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (0.0, "0.000"),
        (-0.5, "-0.500"),
        (1.5e-5, "1.5e-05"),
        (2.5e6, "2.5e+06"),
        (2500000, "2500000"),
    ],
)
def test_numbers_keep_digits_that_mean_something(number, text):
    assert result_rows({"x": number})[0][1] == text


def test_dotted_names_are_taken_as_they_are():
    assert result_rows({"vit.test_accuracy": 0.9})[0][0] == "vit.test_accuracy"


@pytest.mark.parametrize("leaf", ["0.9", [0.9], True, {"value": "high"}])
def test_leaf_that_is_no_number_is_named(leaf):
    with pytest.raises(TypeError, match=r"clip\.accuracy"):
        results_table({"clip": {"accuracy": leaf}})


def test_unknown_key_beside_a_value_is_named():
    with pytest.raises(ValueError, match=r"clip\.accuracy has basline"):
        results_table({"clip": {"accuracy": {"value": 0.9, "basline": 0.5}}})


def test_nothing_to_tabulate_is_an_error():
    with pytest.raises(ValueError, match="empty"):
        results_table({"clip": {}})
    with pytest.raises(TypeError, match="list"):
        results_table([0.9])
