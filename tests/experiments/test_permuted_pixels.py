"""The Perceiver on pixels: a few steps of its training, and what permuting them does."""

import json

import numpy as np
import pytest

from scratch_vlm import cli
from scratch_vlm.data.digits import split
from scratch_vlm.experiments import perceiver
from scratch_vlm.models.perceiver import perceiver_forward, perceiver_init


@pytest.fixture
def untrained():
    return perceiver_init(np.random.default_rng(0), perceiver.MODEL)


def test_training_goes_on_where_it_was_and_is_measured_on_validation_forms(tmp_path, capsys):
    arguments = ["train", "perceiver", "--steps", "3", "--out", str(tmp_path)]
    assert cli.main(arguments) == 0
    assert "perceiver.val_accuracy" in capsys.readouterr().out
    metrics = json.loads((tmp_path / "metrics.json").read_text())["perceiver"]
    assert list(metrics) == ["val_accuracy"]
    assert metrics["val_accuracy"]["chance"] == 0.1 and metrics["val_accuracy"]["baseline"] > 0.9
    curve = (tmp_path / "metrics.csv").read_text()
    assert len(curve.splitlines()) == 1 + 3
    assert cli.main(arguments) == 0
    assert (tmp_path / "metrics.csv").read_text() == curve


def test_untrained_accuracy_is_near_chance_on_the_forms_asked_for(untrained):
    for name in ("val", "test"):
        (key, result), *rest = perceiver.measure(untrained, name).items()
        assert key == f"{name}_accuracy" and not rest
        assert result["value"] < 0.35


def test_pixels_that_bring_their_positions_may_come_in_any_order(untrained):
    images = split("val").images[:5]
    order = np.random.default_rng(1).permutation(64)
    scores, _ = perceiver_forward(perceiver.prepare(images), untrained, config=perceiver.MODEL)
    carried = perceiver.with_positions(images)
    again, _ = perceiver_forward(carried[:, order], untrained, config=perceiver.CARRYING)
    np.testing.assert_allclose(again, scores, atol=1e-5)


def test_the_comparison_has_a_folder_and_a_result_for_each_condition(tmp_path):
    metrics = perceiver.compare_permuted(tmp_path, steps=2, progress=False)
    assert {model: list(results) for model, results in metrics.items()} == {
        "vit": ["ordered", "permuted"],
        "perceiver": ["ordered", "permuted", "permuted_blind"],
    }
    for model, results in metrics.items():
        for condition, result in results.items():
            assert 0 <= result["value"] <= 1 and result["chance"] == 0.1
            assert (tmp_path / f"{model}-{condition}" / "metrics.csv").exists()
    curves = [
        np.genfromtxt(tmp_path / f"perceiver-{name}" / "metrics.csv", delimiter=",", names=True)
        for name in ("ordered", "permuted", "permuted_blind")
    ]
    losses = [curve["loss"] for curve in curves]
    np.testing.assert_allclose(losses[1], losses[0], rtol=1e-4)  # the same training, rounded
    assert not np.allclose(losses[2], losses[0], rtol=1e-4)


def test_another_order_in_the_same_folder_is_refused(tmp_path):
    perceiver.compare_permuted(tmp_path, steps=1, progress=False)
    with pytest.raises(ValueError, match="holds a run with"):
        perceiver.compare_permuted(tmp_path, seed=1, steps=1, progress=False)
