"""Options of published configs: read, known to change nothing, or refused by name."""

import pytest

from scratch_vlm.pretrained.options import DEEPEST, LARGEST, OptionError, Options


def test_what_nobody_read_is_refused_with_what_it_may_have_meant():
    options = Options({"hidden_size": 8, "hiden_act": "gelu", "bos_token_id": 1})
    assert options.get("hidden_size") == 8
    assert options.activation("hidden_act") == "gelu"
    with pytest.raises(OptionError, match=r"not known here: hiden_act; .* meant to be hidden_act"):
        options.done()
    options.done("hiden_act")


def test_null_is_absent():
    options = Options({"a": None, "b": None})
    assert options.get("a", 3) == 3
    with pytest.raises(OptionError, match=r"config.json lacks b"):
        options.get("b")


@pytest.mark.parametrize(
    ("value", "default", "said"),
    [
        (1, True, "must be true or false, got 1"),
        ("yes", False, "must be true or false, got 'yes'"),
        (True, 1, "must be a whole number"),
        (1.0, 1, "must be a whole number"),
        ("1", 1, "must be a whole number"),
        ([1], 1, "must be a whole number"),
        (LARGEST + 1, 1, f"must be a whole number up to {LARGEST}"),
        (float("nan"), 1.0, "must be a number, got nan"),
        (float("inf"), 1.0, "must be a number, got inf"),
        ("1e-5", 1.0, "must be a number, got '1e-5'"),
        (3, "a", "must be a text, got 3"),
        ([1, "a"], [], "must be a list of whole numbers"),
        ({}, [], "must be a list of whole numbers"),
    ],
)
def test_another_kind_than_the_defaults_is_refused(value, default, said):
    with pytest.raises(OptionError, match=said):
        Options({"a": value}).get("a", default)


@pytest.mark.parametrize("value", [4, 4.5])
def test_whole_numbers_are_numbers(value):
    assert Options({"a": value}).get("a", 1.0) == value


def test_nobody_has_so_many_layers():
    with pytest.raises(OptionError, match=f"num_hidden_layers is at most {DEEPEST}"):
        Options({"num_hidden_layers": DEEPEST + 1}).get("num_hidden_layers", 2)


@pytest.mark.parametrize("value", [0, -6, [1], [1, 2, 3], [1, "2"], [6, 0], "12"])
def test_a_size_is_one_number_or_two(value):
    with pytest.raises(OptionError, match="patch_size must be"):
        Options({"patch_size": value}).size("patch_size", 16)


def test_only_some_values_are_implemented():
    with pytest.raises(OptionError, match="order 'c' is not implemented; known are 'a', 'b'"):
        Options({"order": "c"}).only("order", "a", "b")
    assert Options({}).only("order", "a", "b") == "a"


def test_unknown_activations_are_named_with_the_known_ones():
    with pytest.raises(OptionError, match=r"hidden_act 'mish' is not .* known are gelu, .*silu"):
        Options({"hidden_act": "mish"}).activation("hidden_act")
    with pytest.raises(OptionError, match="hidden_act must be a text"):
        Options({"hidden_act": ["gelu"]}).activation("hidden_act")


def test_what_is_inside_is_named_with_where_it_is():
    inner = Options({"text_config": {"a": "x"}}).inner("text_config")
    with pytest.raises(OptionError, match=r"config.json: text_config: a must be"):
        inner.get("a", 1)
    with pytest.raises(OptionError, match="should be an object, got 3"):
        Options({"text_config": 3}).inner("text_config")
