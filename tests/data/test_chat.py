"""Conversations as token ids: where everything stands, and what is learned from."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from scratch_vlm.data.bpe import train_bpe
from scratch_vlm.data.chat import CHAT_SPECIALS, Turn, answer_text, chat_batch, encode_chat
from scratch_vlm.data.tokens import BEGIN, END, PAD
from scratch_vlm.ops.losses import IGNORE

WORDS = ["what", "colour", "digit", "is", "red", "seven", "top-left", "none"]
BPE = train_bpe(
    [" " + word for word in WORDS] * 5, vocabulary=320, specials=CHAT_SPECIALS, split="spaces"
)
(IMAGE,) = (BPE.id(name) for name in CHAT_SPECIALS)
texts = st.lists(st.sampled_from(WORDS), min_size=1, max_size=5).map(" ".join)
answered = st.builds(Turn, texts, texts, st.integers(0, 2))
chats = st.lists(answered, min_size=1, max_size=4)
TURNS = [Turn("what colour is seven", "red", 1), Turn("what digit is top-left", "none seven", 2)]


def ids_of(text):
    return [BPE.id("Ġ" + word) for word in text.split()]  # a space is written Ġ


def test_the_layout_of_a_conversation():
    ids, labels = encode_chat(BPE, TURNS, placeholders=(2, 1, 3))
    none = IGNORE
    assert list(zip(ids, labels, strict=True)) == [
        (BEGIN, none),
        (IMAGE, none), (IMAGE, none),
        *((i, none) for i in ids_of("what colour is seven")),
        *((i, i) for i in ids_of("red")),
        (END, END),
        (IMAGE, none), (IMAGE, none), (IMAGE, none), (IMAGE, none),
        *((i, none) for i in ids_of("what digit is top-left")),
        *((i, i) for i in ids_of("none seven")),
        (END, END),
    ]  # fmt: skip


def test_a_question_without_answer_ends_where_the_answer_begins():
    ids, labels = encode_chat(BPE, [TURNS[0], Turn("what digit is red")])
    before, learned = encode_chat(BPE, TURNS[:1])
    assert ids == [*before, *ids_of("what digit is red")]
    assert labels == [*learned, *[IGNORE] * 4]


@given(chats, st.integers(1, 3))
def test_labels_are_the_answers_and_their_ends(turns, n):
    ids, labels = encode_chat(BPE, turns, placeholders=n)
    assert len(ids) == len(labels)
    assert all(label in (i, IGNORE) for i, label in zip(ids, labels, strict=True))
    learned = [label for label in labels if label != IGNORE]
    assert learned == [i for turn in turns for i in [*ids_of(turn.answer), END]]
    assert ids.count(IMAGE) == n * sum(turn.media for turn in turns)
    assert ids.count(END) == len(turns) and ids.count(BEGIN) == 1


@given(chats)
def test_a_prompt_is_the_beginning_of_the_answered_conversation(turns):
    whole, _ = encode_chat(BPE, turns)
    prompt, _ = encode_chat(BPE, [*turns[:-1], turns[-1]._replace(answer=None)])
    assert whole[: len(prompt)] == prompt
    assert answer_text(BPE, whole[len(prompt) :]) == turns[-1].answer


def test_placeholders_count_images_in_reading_order():
    turns = [Turn("is", "red", 1), Turn("is", "red"), Turn("is", "red", 2)]
    ids, _ = encode_chat(BPE, turns, placeholders=[1, 2, 4])
    runs = [len(run) for run in "".join("x" if i == IMAGE else " " for i in ids).split()]
    assert runs == [1, 6]


def test_encoding_twice_is_the_same_and_shares_nothing():
    ids, labels = encode_chat(BPE, TURNS)
    again = (list(ids), list(labels))
    ids.append(0)
    labels[0] = 7
    assert encode_chat(BPE, TURNS) == again


def test_each_tokenizer_has_its_own_ids():
    other = train_bpe(["x"], vocabulary=261, specials=CHAT_SPECIALS)
    assert len(encode_chat(other, TURNS)[0]) > len(encode_chat(BPE, TURNS)[0])


@given(st.lists(chats, min_size=1, max_size=4), st.integers(0, 3))
def test_rows_are_the_conversations_padded_behind(batch, more):
    length = max(len(encode_chat(BPE, turns)[0]) for turns in batch) + more
    ids, labels = chat_batch(BPE, batch, length=length if more else None)
    assert ids.shape == labels.shape == (len(batch), length)
    assert ids.dtype == labels.dtype == np.int64
    for turns, row, learned in zip(batch, ids, labels, strict=True):
        expected, wanted = encode_chat(BPE, turns)
        n = len(expected)
        assert row[:n].tolist() == expected and learned[:n].tolist() == wanted
        assert (row[n:] == PAD).all() and (learned[n:] == IGNORE).all()


def test_each_conversation_may_have_its_own_placeholders():
    ids, _ = chat_batch(
        BPE, [TURNS, TURNS[:1], TURNS[:1]], placeholders=[[1, 2, 3], 5, np.int64(4)]
    )
    assert (ids == IMAGE).sum(1).tolist() == [6, 5, 4]


def test_answers_are_read_up_to_the_end():
    red, seven = ids_of("red seven")
    assert answer_text(BPE, [red, seven, END, red, PAD]) == "red seven"
    assert answer_text(BPE, np.array([red, END, PAD])) == "red"
    assert answer_text(BPE, [END]) == answer_text(BPE, []) == ""
    assert answer_text(BPE, [red, seven]) == "red seven"  # cut short


@pytest.mark.parametrize(
    ("turns", "placeholders", "message"),
    [
        ([], 1, "at least one turn"),
        ([Turn("is"), Turn("is", "red")], 1, "turn 0 of 1 is"),
        (TURNS, [1, 2], "shows 3 images or videos and there are placeholders for 2"),
        ([Turn("is")], [1], "shows 0 images or videos and there are placeholders for 1"),
        (TURNS, 0, "at least 1 placeholder"),
        ([Turn("is", "red", -1)], 1, "cannot show -1 images"),
        (
            [Turn("is <image>", "red")],
            1,
            "question 'is <image>' holds <image>, .*into it, < image>",
        ),
        ([Turn("is", "red<eos>")], 1, "answer 'red<eos>' holds <eos>, .*into it, < eos>"),
    ],
)
def test_conversations_that_cannot_be_are_refused(turns, placeholders, message):
    with pytest.raises(ValueError, match=message):
        encode_chat(BPE, turns, placeholders=placeholders)


def test_batches_that_cannot_be_are_refused():
    tokens = len(encode_chat(BPE, TURNS)[0])
    with pytest.raises(ValueError, match=f"chat 1 is {tokens} tokens; {tokens - 1} fit"):
        chat_batch(BPE, [TURNS[:1], TURNS], length=tokens - 1)
    with pytest.raises(ValueError, match="at least one conversation"):
        chat_batch(BPE, [])
    with pytest.raises(ValueError, match="2 conversations need their placeholders each, got 3"):
        chat_batch(BPE, [TURNS, TURNS], placeholders=[1, 1, 1])


def test_a_tokenizer_without_the_special_tokens_is_refused():
    with pytest.raises(ValueError, match="'<image>' is none of the"):
        encode_chat(train_bpe(["red"], vocabulary=260), TURNS)


def test_turns_that_stand_apart_are_numbered_behind_what_belongs_to_all():
    chats = [
        [Turn("what colour is seven", "red", media=2), Turn("what digit is red", "seven")],
        [Turn("what digit is red", "seven")],
    ]
    ids, labels, turns = chat_batch(BPE, chats, placeholders=3, apart=True)
    plain, plain_labels = chat_batch(BPE, chats, placeholders=3)
    assert np.array_equal(ids, plain) and np.array_equal(labels, plain_labels)
    assert turns[0].tolist() == [0] * 7 + [1] * 6 + [2] * 6
    assert turns[1].tolist() == [0] + [1] * 6 + [-1] * 12


def test_images_behind_the_first_of_turns_that_stand_apart_are_refused():
    chats = [[Turn("red", "red")], [Turn("red", "red", media=1), Turn("red", "red", media=1)]]
    with pytest.raises(ValueError, match="turns of chat 1 stand apart; only the first can show"):
        chat_batch(BPE, chats, apart=True)
