"""Conversations about images as token ids, with labels on the answers alone.

A conversation is one row of tokens::

    <bos> <image> ... <image> what colour is seven red <eos> what digit is red seven <eos> ...

Each image or video has its place among the words, held by as many ``<image>`` tokens as a model has
visual tokens for it (one, if it looks at images by cross-attention). The tokens of an answer and
the ``<eos>`` behind it are what a model learns to say; all others are only read. Nothing stands
between a question and its answer: what is asked last is then where the answer is found, which is
learned in half the steps that a marker in between would cost.

In a conversation each turn reads those before it. Turns may also stand *apart* in a row: each then
reads what is shown at its beginning, and no other turn. That many questions cost one look, and none
is answered by copying what was said about another.
"""

from functools import lru_cache
from numbers import Integral
from typing import NamedTuple

import numpy as np

from scratch_vlm.data.tokens import BEGIN, END, PAD, SPECIALS, refuse_specials
from scratch_vlm.ops.losses import IGNORE

IMAGE = "<image>"
CHAT_SPECIALS = (IMAGE,)  # train the tokenizer with these


class Turn(NamedTuple):
    """A question and its answer.

    Attributes
    ----------
    question : str
        What is asked.
    answer : str or None
        What was said; None in a last turn that a model is to answer.
    media : int
        Images or videos that are shown before the question.
    """

    question: str
    answer: str | None = None
    media: int = 0


def encode_chat(tokenizer, turns, *, placeholders=1):
    """Turn a conversation into token ids and labels.

    Parameters
    ----------
    tokenizer : BPE
        With the special tokens of ``CHAT_SPECIALS``.
    turns : sequence of Turn
        Only the last may be without answer; the ids then end with its question, for a model to
        go on.
    placeholders : int or sequence of int, default 1
        ``<image>`` tokens for every image or video, or for each of them in reading order.

    Returns
    -------
    ids : list of int
    labels : list of int
        As long as the ids, and not shifted: the id where it is part of an answer or the end
        behind it, and -100 elsewhere.

    Raises
    ------
    ValueError
        If there are no turns, an earlier turn has no answer, the placeholders are not those of
        the images, a text contains a special token, or the tokenizer has not those needed.

    Examples
    --------
    >>> from scratch_vlm.data.bpe import train_bpe
    >>> texts = [" what colour is seven", " red", " what digit is red"] * 9
    >>> bpe = train_bpe(texts, vocabulary=300, specials=CHAT_SPECIALS)
    >>> turns = [Turn("what colour is seven", "red", media=1), Turn("what digit is red")]
    >>> ids, labels = encode_chat(bpe, turns, placeholders=2)
    >>> for i, label in zip(ids, labels):
    ...     print(f"{bpe.text([i]).strip():8} {'' if label == -100 else bpe.text([label])}".strip())
    <bos>
    <image>
    <image>
    what
    colour
    is
    seven
    red       red
    <eos>    <eos>
    what
    digit
    is
    red
    """
    ids, labels, _ = _encode(tokenizer, turns, placeholders)
    return ids, labels


def _encode(tokenizer, turns, placeholders):
    if not turns:
        raise ValueError("a conversation needs at least one turn")
    last = len(turns) - 1
    shown = _shown(turns, placeholders)
    image = tokenizer.id(IMAGE)
    ids, labels, media, ends = [BEGIN], [IGNORE], 0, []
    for i, turn in enumerate(turns):
        if turn.answer is None and i < last:
            raise ValueError(f"only the last turn may be without answer; turn {i} of {last} is")
        if turn.media:
            count = sum(shown[media : media + turn.media])
            media += turn.media
            ids += [image] * count
            labels += [IGNORE] * count
        ends.append(len(ids))  # of what belongs to the turns so far, or to all
        said, learned = _turn(tokenizer, turn.question, turn.answer)
        ids += said
        labels += learned
    lengths = np.diff([0, *ends, len(ids)])
    return ids, labels, np.arange(len(lengths)).repeat(lengths)


def chat_batch(tokenizer, chats, *, placeholders=1, length=None, apart=False):
    """Turn conversations into rows of token ids and labels.

    Parameters
    ----------
    tokenizer : BPE
        With the special tokens of ``CHAT_SPECIALS``.
    chats : sequence of sequence of Turn
        B conversations, see `encode_chat`.
    placeholders : int or sequence, default 1
        One number for all images and videos, or for each conversation what `encode_chat` takes.
    length : int, optional
        T, tokens in a row; by default those of the longest.
    apart : bool, default False
        Whether the turns of a row stand apart. Images then belong to the first one.

    Returns
    -------
    ids : integer array of shape (B, T)
        Padded behind.
    labels : integer array of shape (B, T)
        -100 where there is nothing to learn.
    turns : integer array of shape (B, T)
        Only if the turns stand apart: 0 for what belongs to all, -1 for padding, and else the
        turn, counted from 1. For the option ``turns`` of both kinds of model.

    Raises
    ------
    ValueError
        If there are no conversations, one is longer than `length`, the placeholders are not as
        many as the conversations, one of them cannot be encoded, or turns that stand apart have
        images behind the first.

    Examples
    --------
    >>> from scratch_vlm.data.bpe import train_bpe
    >>> bpe = train_bpe([" is it red", " yes", " no"] * 9, vocabulary=300, specials=CHAT_SPECIALS)
    >>> chat = [Turn("is it red", "yes", media=1), Turn("is it red", "yes")]
    >>> ids, labels, turns = chat_batch(bpe, [chat], placeholders=2, apart=True)
    >>> turns
    array([[0, 0, 0, 1, 1, 1, 1, 1, 2, 2, 2, 2, 2]])
    """
    if not len(chats):
        raise ValueError("a batch needs at least one conversation")
    if isinstance(placeholders, Integral):
        placeholders = [placeholders] * len(chats)
    if len(placeholders) != len(chats):
        raise ValueError(
            f"{len(chats)} conversations need their placeholders each, got {len(placeholders)}"
        )
    for i, chat in enumerate(chats):
        if apart and any(turn.media for turn in chat[1:]):
            raise ValueError(f"the turns of chat {i} stand apart; only the first can show images")
    encoded = [_encode(tokenizer, turns, n) for turns, n in zip(chats, placeholders, strict=True)]
    lengths = [len(ids) for ids, *_ in encoded]
    length = max(lengths) if length is None else length
    if max(lengths) > length:
        i = next(i for i, n in enumerate(lengths) if n > length)
        raise ValueError(f"chat {i} is {lengths[i]} tokens; {length} fit")
    rows = [np.full((len(chats), length), filler) for filler in (PAD, IGNORE, -1)]
    for i, chat in enumerate(encoded):
        for array, values in zip(rows, chat, strict=True):
            array[i, : lengths[i]] = values
    return tuple(rows if apart else rows[:2])


def answer_text(tokenizer, ids):
    """Read an answer that a model wrote.

    Parameters
    ----------
    tokenizer : BPE
        The one of the conversation.
    ids : sequence of int
        What was written behind a question.

    Returns
    -------
    str
        The text up to the first end, without spaces around it.

    Raises
    ------
    ValueError
        If an id is outside the vocabulary.
    """
    return tokenizer.decode([ids])[0].strip()


def _shown(turns, placeholders):
    media = [turn.media for turn in turns]
    if min(media) < 0:
        raise ValueError(f"a turn cannot show {min(media)} images")
    if isinstance(placeholders, Integral):
        placeholders = [placeholders] * sum(media)
    if len(placeholders) != sum(media):
        raise ValueError(
            f"the conversation shows {sum(media)} images or videos and there are placeholders "
            f"for {len(placeholders)}"
        )
    if any(n < 1 for n in placeholders):
        raise ValueError(f"an image needs at least 1 placeholder, got {list(placeholders)}")
    return placeholders


@lru_cache(maxsize=2**14)  # the same few questions come back in every training step
def _turn(tokenizer, question, answer):
    ids = _words(tokenizer, question, "question")
    if answer is None:
        return ids, [IGNORE] * len(ids)
    said = [*_words(tokenizer, answer, "answer"), END]
    return ids + said, [IGNORE] * len(ids) + said


def _words(tokenizer, text, what):
    refuse_specials(text, (*SPECIALS, *CHAT_SPECIALS), what)
    return tokenizer.tokens(" " + text)
