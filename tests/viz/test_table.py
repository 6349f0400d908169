import numpy as np
import pytest

from scratch_vlm.viz.table import COLUMNS, metric_name, result_rows, results_table

METRICS = {
    "a": {"test_accuracy": {"value": 0.957, "chance": 0.1, "baseline": 0.933}, "epochs": 30},
    "b": {"zero_shot_8way": {"test": {"value": 0.9421, "baseline": None}}, "loss": 0.25},
}


def test_nested_names_are_dotted_and_missing_cells_are_dashes():
    assert result_rows(METRICS) == [
        ("a.test_accuracy", "0.957", "0.100", "0.933"),
        ("a.epochs", "30", "–", "–"),
        ("b.zero_shot_8way.test", "0.942", "–", "–"),
        ("b.loss", "0.250", "–", "–"),
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
    assert result_rows({"a.test_accuracy": 0.9})[0][0] == "a.test_accuracy"


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("vqa.unified.colour", "VQA, unified: colour"),
        ("vqa.cross_modal.relation_heldout", "VQA, cross-modal: relation, held out"),
        ("video.direction.clips", "video, direction: whole clips"),
        ("video.direction.one_frame", "video, direction: one frame alone"),
        ("video.direction.no_time_embedding", "video, direction: no time embedding"),
        ("video.direction.length_12", "video, direction: 12 frames"),
        ("video.direction.length_1", "video, direction: 1 frame"),
        ("video.which_digit", "video: which digit"),
        ("captions.unified.exact", "captions, unified: every word right"),
        ("captions.cross_modal.words", "captions, cross-modal: words right"),
        ("few_shot.cross_modal.shots_4", "few-shot, cross-modal: 4 shots"),
        ("few_shot.unified.1_shot", "few-shot, unified: 1 shot"),
        ("vit.val_accuracy", "ViT: single digits, validation"),
        ("clip.zero_shot_8way.test", "CLIP, one of eight captions: new handwriting"),
        ("clip.retrieval_r_at_1_of_128.val", "CLIP, finding one of 128 captions: validation"),
        ("few_shot.by_shots.4", "few-shot, examples shown: 4"),
        ("text_only.lm", "text alone, nats a token: language model"),
        ("video", "video"),
        ("perceiver.one_frame", "perceiver.one_frame"),
    ],
)
def test_metrics_of_known_families_are_named_in_words_and_others_by_their_keys(path, name):
    assert metric_name(path) == name
    nested = 0.5
    for key in reversed(path.split(".")):
        nested = {key: nested}
    assert result_rows(nested)[0][0] == name


def test_every_key_has_a_name_of_its_own():
    kinds = ("colour", "digit", "position", "relation", "relation_heldout")
    video = ("clips", "one_frame", "no_time_embedding", "length_12")
    metrics = {
        "vqa": {model: dict.fromkeys(kinds, 0.5) for model in ("unified", "cross_modal")},
        "video": {"direction": dict.fromkeys(video, 0.5), "which_digit": 0.5},
        "captions": {"unified": {"exact": 0.5, "words": 0.5}},
    }
    names = [row[0] for row in result_rows(metrics)]
    assert len(set(names)) == len(names) == 17


@pytest.mark.parametrize(
    ("blind", "cell"),
    [
        ({"question_only": 0.3}, "question only 0.300"),
        ({"baseline": 0.2, "question_only": 0.3}, "0.200, question only 0.300"),
        (
            {"baseline": None, "question_only": 0.3, "image_only": 0.4},
            "question only 0.300, image only 0.400",
        ),
        ({"question_only": None}, "–"),
    ],
)
def test_baseline_that_sees_a_part_of_the_input_says_which(blind, cell):
    (row,) = result_rows({"vqa": {"unified": {"colour": {"value": 0.9, **blind}}}})
    assert row == ("VQA, unified: colour", "0.900", "–", cell)
    assert len(row) == len(COLUMNS)


def test_error_names_the_key_and_not_its_words():
    with pytest.raises(TypeError, match=r"vqa\.cross_modal\.colour"):
        result_rows({"vqa": {"cross_modal": {"colour": {"value": 0.9, "image_only": "low"}}}})


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
