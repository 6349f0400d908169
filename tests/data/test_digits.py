"""The bundled handwriting, and its split by form."""

import numpy as np
import pytest

from scratch_vlm.data.digits import SPLITS, Digits, load_digits, nearest_neighbour, split

STARTS = [0, 130, 256, 386, 516, 646, 776, 906, 1029, 1157, 1287, 1415, 1545, 1667]


def places_missed(digits, asked):
    """Put digits on the first places that ask for them; return how many do not fit."""
    place = 0
    for i, digit in enumerate(digits):
        rest = asked[place:]
        if digit not in rest:
            return len(digits) - i
        place += rest.index(digit) + 1
    return 0


def test_digits_are_1797_pictures_of_ink_from_0_to_1():
    digits = load_digits()
    assert digits.images.shape == (1797, 8, 8) and digits.images.dtype == np.float32
    assert (digits.images.min(), digits.images.max()) == (0, 1)
    assert np.array_equal(np.unique(digits.images * 16), np.arange(17))
    assert np.bincount(digits.labels).tolist() == [
        178, 182, 177, 183, 181, 182, 181, 179, 174, 180,
    ]  # fmt: skip


def test_digits_are_loaded_once_and_cannot_be_changed():
    digits = load_digits()
    assert load_digits() is digits
    for array in (digits.images, digits.labels, digits.forms):
        with pytest.raises(ValueError, match="read-only"):
            array[0] = 1


def test_forms_begin_where_the_documentation_says():
    forms = load_digits().forms
    assert np.flatnonzero(np.diff(forms, prepend=-1)).tolist() == STARTS
    assert np.unique(np.diff(forms)).tolist() == [0, 1]


def test_every_form_holds_digits_of_the_first_in_the_same_order():
    digits = load_digits()
    labels = digits.labels.copy()
    labels[385] = 8  # the one digit that is not the one asked for
    asked = labels[: STARTS[1]].tolist()
    for form in range(14):
        assert places_missed(labels[digits.forms == form].tolist(), asked) == 0, form


@pytest.mark.parametrize(("start", "mistaken"), [(906, 905), (1545, 1535)])
def test_a_form_that_begins_elsewhere_does_not_fit(start, mistaken):
    digits = load_digits()
    asked, labels = digits.labels[:130].tolist(), digits.labels.tolist()
    end = STARTS[STARTS.index(start) + 1]
    assert places_missed(labels[start:end], asked) == 0
    assert places_missed(labels[mistaken:end], asked) > 0


def test_splits_share_no_form_and_leave_none_out():
    forms = [set(split(name).forms.tolist()) for name in SPLITS]
    assert sum(map(len, forms)) == 14 and set.union(*forms) == set(range(14))
    assert sum(len(split(name)) for name in SPLITS) == 1797


def test_split_keeps_image_label_and_form_together():
    digits, test = load_digits(), split("test")
    assert np.array_equal(test.images, digits.images[1545:])
    assert np.array_equal(test.labels, digits.labels[1545:])
    assert np.array_equal(test.forms, digits.forms[1545:])


def test_unknown_split_is_refused_with_those_that_there_are():
    with pytest.raises(ValueError, match=r"'dev'.*train, val, test"):
        split("dev")


def test_nearest_neighbour_finds_the_digit_itself():
    digits = split("val")
    assert np.array_equal(nearest_neighbour(digits, digits), digits.labels)


def test_nearest_neighbour_is_the_one_of_least_squared_distance():
    rng = np.random.default_rng(0)
    train, test = (Digits(rng.random((n, 8, 8)), rng.integers(10, size=n), None) for n in (30, 20))
    distance = ((test.images[:, None] - train.images) ** 2).sum((2, 3))
    assert np.array_equal(nearest_neighbour(train, test), train.labels[distance.argmin(1)])
