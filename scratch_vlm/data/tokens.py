"""Words as token ids, for captions from a small vocabulary."""

import difflib
from dataclasses import dataclass

import numpy as np

from scratch_vlm.backend import namespace

PAD, BEGIN, END = 0, 1, 2
SPECIALS = ("<pad>", "<bos>", "<eos>")


def refuse_specials(text, specials, what="text"):
    """Refuse a text in which a special token is written out: it would not be read as text.

    Parameters
    ----------
    text : str
        What somebody typed.
    specials : iterable of str
        The special tokens of a tokenizer.
    what : str, default "text"
        What the text is, for the message.

    Raises
    ------
    ValueError
        If one stands in the text; the message says what would fit.

    Examples
    --------
    >>> refuse_specials("is it red", ["<image>"], "question")
    >>> refuse_specials("is < image> red", ["<image>"], "question")
    """
    for token in specials:
        if token in text:
            raise ValueError(
                f"the {what} {text!r} holds {token}, a special token of the model, which is never "
                f"read as text: leave it out, or put a space into it, {token[0]} {token[1:]}"
            )


def token_rows(texts, tokens, length, *, pad=PAD):
    """Turn texts into rows of token ids that are equally long.

    Parameters
    ----------
    texts : sequence of str
        B texts.
    tokens : callable
        ``tokens(text)`` returns the ids of one, with its begin and end.
    length : int
        T, tokens in a row.
    pad : int, default 0
        Stands behind shorter texts.

    Returns
    -------
    ids : integer array of shape (B, T)

    Raises
    ------
    TypeError
        If `texts` is a single string.
    ValueError
        If a text does not fit.
    """
    if isinstance(texts, str):
        raise TypeError(f"texts is a list of strings; write [{texts!r}] for a single one")
    rows = np.full((len(texts), length), pad)
    for row, text in zip(rows, texts, strict=True):
        ids = tokens(text)
        if len(ids) > length:
            raise ValueError(f"{text!r} is {len(ids)} tokens with its begin and end; {length} fit")
        row[: len(ids)] = ids
    return rows


@dataclass(frozen=True)
class Vocabulary:
    """A word for each id.

    Attributes
    ----------
    words : tuple of str
        Words without spaces. They get the ids from 3 on; 0 pads, 1 begins and 2 ends a text.

    Examples
    --------
    >>> vocabulary = Vocabulary(("red", "seven"))
    >>> vocabulary.encode(["red seven", "seven"], length=4)
    array([[1, 3, 4, 2],
           [1, 4, 2, 0]])
    """

    words: tuple[str, ...]

    def __post_init__(self):
        names = SPECIALS + tuple(self.words)
        if len(set(names)) != len(names):
            twice = next(name for name in names if names.count(name) > 1)
            raise ValueError(f"{twice!r} stands twice in the vocabulary, which has {SPECIALS}")
        spaced = [word for word in self.words if word.split() != [word]]
        if spaced:
            raise ValueError(f"{spaced[0]!r} is not a single word")
        ids = {word: i for i, word in enumerate(self.words, len(SPECIALS))}
        object.__setattr__(self, "_ids", ids)

    def __len__(self):
        return len(SPECIALS) + len(self.words)

    def encode(self, texts, length):
        """Turn texts into rows of token ids.

        Parameters
        ----------
        texts : sequence of str
            Words separated by spaces.
        length : int
            T, tokens in a row; shorter texts are padded at the end.

        Returns
        -------
        ids : integer array of shape (B, T)

        Raises
        ------
        TypeError
            If `texts` is a single string.
        ValueError
            If a word is unknown or a text does not fit.
        """

        def tokens(text):
            return [BEGIN, *map(self._id, text.split()), END]

        return token_rows(texts, tokens, length)

    def decode(self, ids):
        """Turn rows of token ids back into texts, up to the end token of each.

        Parameters
        ----------
        ids : integer array of shape (B, T)
            Token ids.

        Returns
        -------
        list of str

        Raises
        ------
        TypeError
            If `ids` is not an array of integers.
        ValueError
            If it is not (B, T), or an id is outside the vocabulary.
        """
        namespace(ids)  # refuses a list
        if ids.dtype.kind not in "iu":
            raise TypeError(f"ids must be integers, got dtype {ids.dtype}")
        if ids.ndim != 2:
            raise ValueError(f"ids must be (B, T), got {ids.shape}")
        names = SPECIALS + self.words
        if ids.size and not 0 <= ids.min() <= ids.max() < len(names):
            raise ValueError(f"ids must be 0 to {len(names) - 1}, got {ids.min()} to {ids.max()}")
        texts = []
        for row in ids.tolist():
            until = row.index(END) if END in row else len(row)
            texts.append(" ".join(names[i] for i in row[:until] if i not in (PAD, BEGIN)))
        return texts

    def _id(self, word):
        if word in self._ids:
            return self._ids[word]
        near = difflib.get_close_matches(word, self.words, 1)
        hint = f"did you mean {near[0]!r}? " if near else ""
        raise ValueError(f"unknown word {word!r}; {hint}the vocabulary is: {', '.join(self.words)}")
