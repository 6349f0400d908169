"""Captions to token ids and back."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from scratch_vlm.data.tokens import BEGIN, END, PAD, Vocabulary

WORDS = ("left", "above", "red", "seven")
VOCABULARY = Vocabulary(WORDS)
texts = st.lists(st.lists(st.sampled_from(WORDS), max_size=6).map(" ".join), max_size=5)


@given(texts, st.integers(8, 12))
def test_decoding_undoes_encoding(captions, length):
    ids = VOCABULARY.encode(captions, length)
    assert ids.shape == (len(captions), length) and ids.dtype == np.int64
    assert VOCABULARY.decode(ids) == captions


@given(texts)
def test_a_row_is_begin_words_end_and_padding(captions):
    for row, caption in zip(VOCABULARY.encode(captions, 8).tolist(), captions, strict=True):
        n = len(caption.split())
        assert row[0] == BEGIN and row[n + 1] == END and set(row[n + 2 :]) <= {PAD}
        assert min(row[1 : n + 1], default=3) >= 3


def test_ids_follow_the_order_of_the_words():
    assert VOCABULARY.encode(["left above red seven"], 6).tolist() == [[1, 3, 4, 5, 6, 2]]
    assert len(VOCABULARY) == 7


def test_decoding_stops_at_the_first_end():
    assert VOCABULARY.decode(np.array([[1, 5, 2, 6, 2]])) == ["red"]


def test_an_unknown_word_is_refused_with_the_nearest_one():
    with pytest.raises(ValueError, match="unknown word 'sevn'; did you mean 'seven'"):
        VOCABULARY.encode(["red sevn"], 6)


def test_an_unknown_word_like_no_other_is_refused_with_the_vocabulary():
    with pytest.raises(ValueError, match="unknown word 'xyzzy'; the vocabulary is: left, above"):
        VOCABULARY.encode(["xyzzy"], 6)


def test_a_special_token_is_no_word_of_a_text():
    with pytest.raises(ValueError, match="unknown word '<eos>'"):
        VOCABULARY.encode(["red <eos>"], 6)


def test_a_text_that_does_not_fit_is_refused_with_its_length():
    assert VOCABULARY.encode(["red seven"], 4).tolist() == [[1, 5, 6, 2]]
    with pytest.raises(ValueError, match=r"'red seven' is 4 tokens .*; 3 fit"):
        VOCABULARY.encode(["red seven"], 3)


def test_a_single_string_is_refused():
    with pytest.raises(TypeError, match=r"\['red'\]"):
        VOCABULARY.encode("red", 4)


@pytest.mark.parametrize("wrong", [-1, 7])
def test_ids_outside_of_the_vocabulary_are_refused(wrong):
    with pytest.raises(ValueError, match="must be 0 to 6"):
        VOCABULARY.decode(np.array([[1, wrong, 2]]))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("red", "red"), "'red' stands twice"),
        (("red", "<pad>"), "'<pad>' stands twice"),
        (("light red",), "'light red' is not a single word"),
        (("",), "'' is not a single word"),
    ],
)
def test_words_that_could_not_be_told_apart_are_refused(words, message):
    with pytest.raises(ValueError, match=message):
        Vocabulary(words)


def test_what_is_no_matrix_of_ids_is_refused():
    with pytest.raises(TypeError, match="got list"):
        VOCABULARY.decode([[1, 3, 2]])
    with pytest.raises(TypeError, match="integers, got dtype float64"):
        VOCABULARY.decode(np.ones((1, 3)))
    with pytest.raises(ValueError, match=r"ids must be \(B, T\), got \(3,\)"):
        VOCABULARY.decode(np.array([1, 3, 2]))
