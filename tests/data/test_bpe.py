"""Byte-level BPE: nothing is unknown, nothing is lost, what is frequent is short."""

import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from scratch_vlm.data.bpe import load_bpe, train_bpe
from scratch_vlm.data.tokens import BEGIN, END, PAD

TEXTS = ["red seven above blue three", "green one left yellow two", "blue seven"] * 5
BPE = train_bpe(TEXTS, vocabulary=330, specials=("<image>", "<video>"))
AT_SPACES = train_bpe(["red seven top-left", "one is top-left"] * 5, vocabulary=330, split="spaces")


@pytest.mark.parametrize("bpe", [BPE, AT_SPACES], ids=["words", "spaces"])
@given(text=st.text(st.characters(exclude_categories=["Cs"])).filter(lambda text: "<" not in text))
def test_any_text_comes_back_as_it_was(bpe, text):
    assert bpe.text(bpe.tokens(text)) == text


def test_cut_at_spaces_alone_a_compound_is_one_token():
    assert len(AT_SPACES.tokens("red is top-left")) == 3
    assert [AT_SPACES.text([i]) for i in AT_SPACES.tokens(" is top-left")] == [" is", " top-left"]
    words = train_bpe(["red seven top-left", "one is top-left"] * 5, vocabulary=330)
    assert [words.text([i]) for i in words.tokens(" top-left")] == [" top", "-", "left"]


def test_no_token_goes_across_a_space():
    spelled = [AT_SPACES.text([i]) for i in range(3, len(AT_SPACES))]
    assert not [token for token in spelled if " " in token[1:]]


def test_loaded_it_cuts_as_before(tmp_path):
    AT_SPACES.save(tmp_path / "tokenizer.json")
    again = load_bpe(tmp_path / "tokenizer.json")
    text = "red  is top-left, top-left\n "
    assert again.tokens(text) == AT_SPACES.tokens(text)


def test_words_of_the_training_texts_are_single_tokens():
    assert len(BPE.tokens(TEXTS[0])) == 5
    assert len(BPE.tokens("qqqq")) == 4


def test_special_tokens_come_first_and_are_never_cut():
    assert [BPE.id(name) for name in ("<pad>", "<bos>", "<eos>", "<image>", "<video>")] == [
        PAD,
        BEGIN,
        END,
        3,
        4,
    ]
    assert BPE.tokens("<image>red seven").count(3) == 1
    assert BPE.text(BPE.tokens("<image>red seven")) == "<image>red seven"


def test_rows_begin_end_and_are_padded_behind():
    rows = BPE.encode(["red seven", "qqqq"], 7)
    assert rows.shape == (2, 7)
    assert rows[0].tolist() == [BEGIN, *BPE.tokens("red seven"), END, PAD, PAD, PAD][:7]
    assert BPE.decode(rows) == ["red seven", "qqqq"]


def test_decoding_stops_at_the_first_end():
    row = [BEGIN, *BPE.tokens("blue"), END, *BPE.tokens("red"), END]
    assert BPE.decode(np.array([row])) == ["blue"]


def test_saved_and_loaded_it_is_the_same(tmp_path):
    path = tmp_path / "tokenizer.json"
    BPE.save(path)
    again = load_bpe(path)
    assert len(again) == len(BPE)
    assert again.tokens(TEXTS[1] + " ü<image>") == BPE.tokens(TEXTS[1] + " ü<image>")
    again.save(tmp_path / "again.json")
    assert (tmp_path / "again.json").read_bytes() == path.read_bytes()


def test_training_is_the_same_in_every_process(tmp_path):
    code = (
        "import sys\nfrom scratch_vlm.data.bpe import train_bpe\n"
        f"train_bpe({TEXTS!r}, vocabulary=330, specials=('<image>', '<video>')).save(sys.argv[1])"
    )
    subprocess.run([sys.executable, "-c", code, tmp_path / "other.json"], check=True)
    BPE.save(tmp_path / "this.json")
    assert (tmp_path / "other.json").read_bytes() == (tmp_path / "this.json").read_bytes()


def test_a_file_that_is_no_tokenizer_is_refused(tmp_path):
    path = tmp_path / "tokenizer.json"
    with pytest.raises(FileNotFoundError):
        load_bpe(path)
    path.write_text('{"version": "1.0"')
    with pytest.raises(ValueError, match=r"is not a tokenizer\.json"):
        load_bpe(path)


def test_a_foreign_tokenizer_is_refused(tmp_path):
    from tokenizers import Tokenizer, models

    Tokenizer(models.BPE()).save(str(tmp_path / "foreign.json"))
    with pytest.raises(ValueError, match="the first tokens must be <pad>, <bos>, <eos>"):
        load_bpe(tmp_path / "foreign.json")


def test_what_does_not_fit_is_refused():
    with pytest.raises(ValueError, match=r"'red seven above' is 5 tokens .* 4 fit"):
        BPE.encode(["red seven above"], 4)
    with pytest.raises(TypeError, match=r"write \['red'\]"):
        BPE.encode("red", 4)
    with pytest.raises(ValueError, match=f"ids must be 0 to {len(BPE) - 1}, got 1 to {len(BPE)}"):
        BPE.text([1, len(BPE)])
    with pytest.raises(ValueError, match="'<audio>' is none of the"):
        BPE.id("<audio>")


@pytest.mark.parametrize(
    ("texts", "options", "error", "message"),
    [
        ("red", {"vocabulary": 300}, TypeError, "not a single one"),
        (["red"], {"vocabulary": 258}, ValueError, "at least 259, got 258"),
        (["red"], {"vocabulary": 300, "specials": ["<pad>"]}, ValueError, "must differ"),
        (["red"], {"vocabulary": 300, "split": "lines"}, ValueError, "words, spaces, got 'lines'"),
    ],
)
def test_training_refuses_bad_values(texts, options, error, message):
    with pytest.raises(error, match=message):
        train_bpe(texts, **options)
